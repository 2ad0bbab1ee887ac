//! The responder's state machine alone: no socket, no daemon, one thread. Only its calls are timed, in
//! CPU time of the thread, so that what else the machine does costs little.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, anyhow, bail};
use mitregate_ike::{
    Assigned, Ctx, Directory, Identity, IkeConfig, IkeSa, Leases, NoLeases, Output,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rustix::time::{ClockId, clock_gettime};

use super::load::AnySpi;

const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 500);
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 500);

/// One connection for everybody.
struct Everybody(Arc<IkeConfig>);

impl Directory for Everybody {
    fn by_address(&self, _: SocketAddr, _: SocketAddr) -> Vec<Arc<IkeConfig>> {
        vec![self.0.clone()]
    }

    fn by_identity(
        &self,
        _: SocketAddr,
        _: SocketAddr,
        _: &Identity,
        _: Option<&Identity>,
    ) -> Option<Arc<IkeConfig>> {
        Some(self.0.clone())
    }
}

/// Addresses one after another.
struct NextAddress(u32);

impl Leases for NextAddress {
    fn assign(&mut self, _: &str, _: &Identity, wanted: &[IpAddr]) -> Assigned {
        self.0 += 1;
        Assigned {
            addresses: wanted
                .iter()
                .map(|_| Ipv4Addr::from_bits(0x0a40_0000 + self.0).into())
                .collect(),
            ..Assigned::default()
        }
    }
}

/// The time in the responder's calls for `count` handshakes, and its IKE SAs.
pub fn run(
    count: u32,
    server: IkeConfig,
    client: &dyn Fn(u32) -> Arc<IkeConfig>,
) -> Result<(Duration, Vec<IkeSa>)> {
    let directory: Arc<dyn Directory> = Arc::new(Everybody(Arc::new(server)));
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut addresses = NextAddress(0);
    let mut timed = Duration::ZERO;
    let mut kept = Vec::new();
    let unix_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let start = Instant::now();
    for n in 0..count {
        macro_rules! cx {
            ($leases:expr) => {
                &mut Ctx {
                    now: start.elapsed(),
                    unix_time,
                    rng: &mut rng,
                    spis: &mut AnySpi,
                    leases: $leases,
                }
            };
        }
        let mut initiator = IkeSa::initiate(client(n), CLIENT, SERVER, cx!(&mut NoLeases));
        let mut responder: Option<IkeSa> = None;
        while let Some((to_server, message)) = next(&mut initiator, &mut responder)? {
            if !to_server {
                let (local, remote) = initiator.addresses();
                initiator
                    .handle_message(local, remote, &message, cx!(&mut NoLeases))
                    .map_err(|discard| anyhow!("the initiator discards: {discard}"))?;
                continue;
            }
            let (remote, local) = initiator.addresses();
            let before = cpu_time();
            match &mut responder {
                None => {
                    let directory = Arc::clone(&directory);
                    let sa =
                        IkeSa::respond(directory, local, remote, &message, cx!(&mut addresses));
                    timed += cpu_time().saturating_sub(before);
                    responder = Some(sa.map_err(|r| anyhow!("refused: {}", r.reason))?);
                }
                Some(sa) => {
                    let taken = sa.handle_message(local, remote, &message, cx!(&mut addresses));
                    timed += cpu_time().saturating_sub(before);
                    taken.map_err(|discard| anyhow!("the responder discards: {discard}"))?;
                }
            }
        }
        match responder {
            Some(sa) if sa.state() == mitregate_ike::State::Established => kept.push(sa),
            _ => bail!("handshake {n} did not end well"),
        }
    }
    Ok((timed, kept))
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The next message under way, and whether it goes to the responder.
fn next(initiator: &mut IkeSa, responder: &mut Option<IkeSa>) -> Result<Option<(bool, Vec<u8>)>> {
    for (to_server, sa) in [(true, Some(initiator)), (false, responder.as_mut())] {
        let Some(sa) = sa else { continue };
        while let Some(output) = sa.poll_output() {
            match output {
                Output::Transmit { message, .. } => return Ok(Some((to_server, message))),
                Output::Failed(reason) | Output::Closed(reason) => bail!("failed: {reason}"),
                _ => {}
            }
        }
    }
    Ok(None)
}
