//! What the targets of IKE share: two hosts that know each other, and IKE SAs between them.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mitregate_ike::{
    Announce, ChildConfig, Childless, Ctx, Directory, Dynamic, EncapMode, Fragmentation, Identity,
    IkeConfig, IkeSa, LocalAuth, Mobike, NoLeases, Output, PeerRekey, Psk, RemoteAuth, Retransmit,
    SpiAllocator, State, peek,
};
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{ExchangeType, PayloadType};
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, SeedableRng};

/// The key exchanges of `PROPOSAL` alone.
pub const PROPOSAL: &str = "aes256gcm16-chacha20poly1305-prfsha256-prfsha384-x25519-ecp256";
/// With one more, in IKE_INTERMEDIATE.
pub const HYBRID: &str = "aes256gcm16-prfsha384-x25519-ke1_ecp256";

/// Counts the SPIs that are out.
#[derive(Default)]
pub struct Spis(pub usize);

impl SpiAllocator for Spis {
    fn allocate(&mut self, rng: &mut dyn CryptoRng) -> Option<Spi> {
        self.0 += 1;
        Spi::new(rng.next_u32() | 0x100)
    }

    fn release(&mut self, _: Spi) {
        self.0 -= 1;
    }
}

/// Knows one connection, which is anybody's.
pub struct One(pub Arc<IkeConfig>);

impl Directory for One {
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

/// The same for both sides.
pub fn config(proposal: &str) -> Arc<IkeConfig> {
    let psk = Psk::new(b"secret".to_vec().into());
    let any = || vec!["0.0.0.0/0".parse().unwrap()];
    Arc::new(IkeConfig {
        name: "fuzz".into(),
        local_id: "us".parse().unwrap(),
        remote_id: None,
        local_auth: LocalAuth::Psk(psk.clone()),
        remote_auth: RemoteAuth::Psk(psk),
        proposals: vec![proposal.parse().unwrap()],
        children: vec![ChildConfig {
            name: "net".into(),
            esp_proposals: vec!["aes256gcm16".parse().unwrap()],
            local_ts: any(),
            remote_ts: any(),
            dynamic: Dynamic::default(),
        }],
        encap: EncapMode::Auto,
        retransmit: Retransmit::default(),
        fragmentation: Fragmentation::default(),
        resumption: true,
        announce: Announce::default(),
        peer_rekey: PeerRekey::default(),
        vips: Vec::new(),
        assigns: false,
        childless: Childless::default(),
        initial_contact: false,
        mobike: Mobike::default(),
    })
}

/// The initiator is host 0, the responder host 1.
pub struct Pair {
    /// By host, the one that counts.
    pub sas: Vec<IkeSa>,
    /// Replaced ones, and successors that are not needed.
    others: Vec<(usize, IkeSa)>,
    /// By host.
    pub spis: [Spis; 2],
    /// CHILD_SAs that came to be, by host.
    pub children: [usize; 2],
    /// IKE_AUTH was completed, by host.
    pub authenticated: [bool; 2],
    /// (to, message), oldest first.
    pub net: Vec<(usize, Vec<u8>)>,
    pub now: Duration,
    rng: ChaCha20Rng,
}

/// A host's own, and the other's.
fn addresses(of: usize) -> [SocketAddr; 2] {
    let mut both = ["192.0.2.1:500", "192.0.2.2:500"].map(|a| a.parse().unwrap());
    both.rotate_left(of);
    both
}

impl Pair {
    /// The responder has answered IKE_SA_INIT, and the answer is on its way.
    pub fn begin(config: &Arc<IkeConfig>) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut spis = [Spis(0), Spis(0)];
        let now = Duration::from_secs(1);
        let mut cx = Ctx {
            now,
            unix_time: now,
            rng: &mut rng,
            spis: &mut spis[0],
            leases: &mut NoLeases,
        };
        let [local, remote] = addresses(0);
        let mut client = IkeSa::initiate(config.clone(), local, remote, &mut cx);
        let Some(Output::Transmit { message, .. }) = client.poll_output() else {
            panic!("no first message");
        };
        let mut cx = Ctx {
            now,
            unix_time: now,
            rng: &mut rng,
            spis: &mut spis[1],
            leases: &mut NoLeases,
        };
        let directory = Arc::new(One(config.clone()));
        let Ok(server) = IkeSa::respond(directory, remote, local, &message, &mut cx) else {
            panic!("refused");
        };
        let mut pair = Self {
            sas: vec![client, server],
            others: Vec::new(),
            spis,
            children: [0; 2],
            authenticated: [false; 2],
            net: Vec::new(),
            now,
            rng,
        };
        pair.with(1, |_, _| {});
        pair
    }

    /// Both IKE SAs stand.
    pub fn established() -> Self {
        let mut pair = Self::begin(&config(PROPOSAL));
        pair.settle();
        assert!(pair.sas.iter().all(|sa| sa.state() == State::Established));
        pair
    }

    /// Calls a host's IKE SA and takes what comes of it.
    pub fn with(&mut self, host: usize, f: impl FnOnce(&mut IkeSa, &mut Ctx<'_>)) {
        let mut cx = Ctx {
            now: self.now,
            unix_time: self.now,
            rng: &mut self.rng,
            spis: &mut self.spis[host],
            leases: &mut NoLeases,
        };
        f(&mut self.sas[host], &mut cx);
        self.drain(host);
    }

    fn drain(&mut self, host: usize) {
        while let Some(output) = self.sas[host].poll_output() {
            match output {
                Output::Transmit { message, .. } => self.net.push((1 - host, message)),
                Output::ChildEstablished(_) => self.children[host] += 1,
                Output::Established(_) => self.authenticated[host] = true,
                Output::Rekeyed(successor) => {
                    let old = core::mem::replace(&mut self.sas[host], *successor);
                    self.others.push((host, old));
                    self.drain_others();
                }
                Output::Redundant(sa) => self.others.push((host, *sa)),
                _ => {}
            }
        }
    }

    /// Those have nothing more to say than messages.
    fn drain_others(&mut self) {
        for (host, sa) in &mut self.others {
            while let Some(output) = sa.poll_output() {
                if let Output::Transmit { message, .. } = output {
                    self.net.push((1 - *host, message));
                }
            }
        }
    }

    pub fn deliver(&mut self, to: usize, message: &[u8]) {
        let [local, remote] = addresses(to);
        let spi = peek(message).map(|header| header.receiver_spi());
        let mut others = self.others.iter_mut();
        let other = others.find(|(host, sa)| *host == to && Ok(sa.local_spi()) == spi);
        if let Some((_, sa)) = other {
            let mut cx = Ctx {
                now: self.now,
                unix_time: self.now,
                rng: &mut self.rng,
                spis: &mut self.spis[to],
                leases: &mut NoLeases,
            };
            let _ = sa.handle_message(local, remote, message, &mut cx);
            return self.drain_others();
        }
        self.with(to, |sa, cx| {
            let _ = sa.handle_message(local, remote, message, cx);
        });
    }

    /// Delivers what is under way, and what comes of it, as far as that is a sane amount.
    pub fn settle(&mut self) {
        for _ in 0..64 {
            if self.net.is_empty() {
                break;
            }
            let (to, message) = self.net.remove(0);
            self.deliver(to, &message);
        }
        self.net.clear();
    }

    /// Has the other host get a message that `from`, who has the keys, makes as the input says: 7 bytes,
    /// and so many more as the last of them says. `exchanges` are those to choose from. What is left.
    pub fn forge<'a>(
        &mut self,
        from: usize,
        exchanges: &[ExchangeType],
        input: &'a [u8],
    ) -> Option<&'a [u8]> {
        let (&[op, exchange, first, id, number, total, len], tail) = input.split_first_chunk()?;
        let (inner, tail) = tail.split_at(usize::from(len).min(tail.len()));
        let (sent, expected) = self.sas[from].message_ids();
        let response = op & 2 != 0;
        // Its own next request, an answer to the other's, or anything.
        let id = match (op & 4 != 0, response) {
            (true, _) => id.into(),
            (false, true) => expected,
            (false, false) => sent,
        };
        let exchange = exchanges[usize::from(exchange) % exchanges.len()];
        let part = (op & 8 != 0).then_some((number.into(), total.into()));
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let payloads = (PayloadType(first), inner);
        let forged = self.sas[from].forge(exchange, response, id, payloads, part, &mut rng);
        if let Some(message) = forged {
            self.deliver(1 - from, &message);
        }
        Some(tail)
    }

    /// Both hosts give up; nothing stays.
    pub fn end(mut self) {
        for (host, sa) in &mut self.others {
            let mut cx = Ctx {
                now: self.now,
                unix_time: self.now,
                rng: &mut self.rng,
                spis: &mut self.spis[*host],
                leases: &mut NoLeases,
            };
            sa.abandon(&mut cx);
        }
        self.drain_others();
        for host in 0..2 {
            self.with(host, IkeSa::abandon);
            assert!(
                self.spis[host].0 <= self.children[host],
                "host {host}: an SPI leaked"
            );
        }
    }
}
