//! Initiators by the hundred: the `ike` crate over UDP sockets, many handshakes under way at once.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use mitregate_ike::{Ctx, IkeConfig, IkeSa, NoLeases, Output, Reason, SpiAllocator, peek};
use mitregate_wire::{esp::Spi, ike::IkeSpi};
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const PORTS: [u16; 2] = [500, 4500];
/// In front of IKE on port 4500 (RFC 3948 §2.2).
const MARKER: [u8; 4] = [0; 4];
/// Without a finished handshake for that long, the load gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Random inbound SPIs: no SA is installed here.
pub struct AnySpi;

impl SpiAllocator for AnySpi {
    fn allocate(&mut self, rng: &mut dyn CryptoRng) -> Option<Spi> {
        Spi::new(rng.next_u32() | 0x0100_0000)
    }

    fn release(&mut self, _: Spi) {}
}

/// What came of the load.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Handshakes that both sides finished.
    pub done: u32,
    /// Refused, or given up by an initiator, and begun again.
    pub failed: u32,
    /// From the first datagram to the last answer.
    pub took: Duration,
}

/// A host full of initiators.
pub struct Load {
    sockets: [UdpSocket; 2],
    address: IpAddr,
    peer: SocketAddr,
    rng: ChaCha20Rng,
    start: Instant,
    running: BTreeMap<IkeSpi, IkeSa>,
    done: u32,
    failed: u32,
}

impl Load {
    /// Its sockets belong to the namespace of the thread that calls this.
    pub fn new(address: IpAddr, peer: IpAddr, seed: u64) -> Result<Self> {
        let open = |port| {
            let socket = UdpSocket::bind((address, port))
                .with_context(|| format!("cannot send from port {port}"))?;
            socket.set_nonblocking(true)?;
            Ok::<_, anyhow::Error>(socket)
        };
        Ok(Load {
            sockets: [open(PORTS[0])?, open(PORTS[1])?],
            address,
            peer: SocketAddr::new(peer, PORTS[0]),
            rng: ChaCha20Rng::seed_from_u64(seed),
            start: Instant::now(),
            running: BTreeMap::new(),
            done: 0,
            failed: 0,
        })
    }

    /// `count` handshakes, `window` of them under way at a time; the n-th by `config(n)`. The IKE SAs
    /// are forgotten here, so that the peer has them all in the end.
    pub fn run(
        &mut self,
        count: u32,
        window: usize,
        config: &dyn Fn(u32) -> Arc<IkeConfig>,
    ) -> Result<Outcome> {
        (self.done, self.failed) = (0, 0);
        let begun = Instant::now();
        let (mut next, mut last) = (0, (0, begun));
        while self.done < count {
            // Those that failed come again under another name.
            while self.running.len() < window && next < count + self.failed {
                self.begin(config(next))?;
                next += 1;
            }
            self.receive()?;
            self.time_out()?;
            if self.done > last.0 {
                last = (self.done, Instant::now());
            }
            ensure!(
                last.1.elapsed() < PATIENCE,
                "{} of {count} handshakes, {} failed, and none for {} s",
                self.done,
                self.failed,
                PATIENCE.as_secs()
            );
        }
        let took = begun.elapsed();
        self.running.clear();
        Ok(Outcome {
            done: self.done,
            failed: self.failed,
            took,
        })
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Self, &mut Ctx<'_>) -> T) -> T {
        let mut rng = self.rng.clone();
        let mut cx = Ctx {
            now: self.start.elapsed(),
            unix_time: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
            rng: &mut rng,
            spis: &mut AnySpi,
            leases: &mut NoLeases,
        };
        let result = work(self, &mut cx);
        self.rng = rng;
        result
    }

    fn begin(&mut self, config: Arc<IkeConfig>) -> Result<()> {
        let local = SocketAddr::new(self.address, PORTS[0]);
        let peer = self.peer;
        let sa = self.with(|_, cx| IkeSa::initiate(config, local, peer, cx));
        let spi = sa.local_spi();
        self.running.insert(spi, sa);
        self.drain(spi)
    }

    fn receive(&mut self) -> Result<()> {
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        };
        let mut ready = [0, 1].map(|n| PollFd::new(&self.sockets[n], PollFlags::IN));
        poll(&mut ready, Some(&wait))?;
        let mut buffer = [0; 4096];
        for (nth, port) in PORTS.into_iter().enumerate() {
            // Some, then the clock again.
            for _ in 0..64 {
                let (length, from) = match self.sockets[nth].recv_from(&mut buffer) {
                    Ok(received) => received,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
                    Err(error) => return Err(error.into()),
                };
                let datagram = &buffer[..length];
                let message = match nth {
                    0 => datagram,
                    _ => datagram.strip_prefix(&MARKER).unwrap_or_default(),
                };
                let Ok(header) = peek(message) else { continue };
                let local = SocketAddr::new(self.address, port);
                let spi = header.receiver_spi();
                let Some(mut sa) = self.running.remove(&spi) else {
                    continue;
                };
                // What does not fit is discarded, as a daemon does.
                let _ = self.with(|_, cx| sa.handle_message(local, from, message, cx));
                self.running.insert(spi, sa);
                self.drain(spi)?;
            }
        }
        Ok(())
    }

    fn time_out(&mut self) -> Result<()> {
        let now = self.start.elapsed();
        let due = |sa: &IkeSa| sa.poll_timeout().is_some_and(|at| at <= now);
        let due: Vec<_> = self
            .running
            .iter()
            .filter(|(_, sa)| due(sa))
            .map(|(spi, _)| *spi)
            .collect();
        for spi in due {
            if let Some(mut sa) = self.running.remove(&spi) {
                self.with(|_, cx| sa.handle_timeout(cx));
                self.running.insert(spi, sa);
                self.drain(spi)?;
            }
        }
        Ok(())
    }

    /// Does what an IKE SA wants done.
    fn drain(&mut self, spi: IkeSpi) -> Result<()> {
        let Some(mut sa) = self.running.remove(&spi) else {
            return Ok(());
        };
        while let Some(output) = sa.poll_output() {
            match output {
                Output::Transmit {
                    local,
                    remote,
                    message,
                } => self.send(local, remote, &message)?,
                Output::Established(_) => {
                    self.done += 1;
                    return Ok(());
                }
                Output::Failed(Reason::Timeout) | Output::Dead => {
                    self.failed += 1;
                    return Ok(());
                }
                Output::Failed(reason) => bail!("the responder does not agree: {reason}"),
                _ => {}
            }
        }
        self.running.insert(spi, sa);
        Ok(())
    }

    fn send(&self, local: SocketAddr, remote: SocketAddr, message: &[u8]) -> Result<()> {
        let nth = usize::from(local.port() == PORTS[1]);
        let datagram = if nth == 1 {
            [&MARKER, message].concat()
        } else {
            message.to_vec()
        };
        match self.sockets[nth].send_to(&datagram, remote) {
            // A full queue is a lost packet; the initiator will repeat it.
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }
}
