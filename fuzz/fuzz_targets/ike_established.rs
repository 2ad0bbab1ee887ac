//! A pair of IKE SAs that stand, and a peer that has the keys and means no good: sequences of requests,
//! responses and fragments of arbitrary payloads, sealed as they should be, between what the IKE SAs
//! start by themselves. Nothing panics, and no SPI leaks.
#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mitregate_ike::{
    Announce, ChildConfig, Childless, Ctx, Directory, Dynamic, EncapMode, Fragmentation, Identity, IkeConfig, IkeSa, LocalAuth, Mobike, NoLeases, Output, PeerRekey, Psk, RemoteAuth, Retransmit, SpiAllocator, State,
};
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{ExchangeType, PayloadType};
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, SeedableRng};

struct Spis(usize);

impl SpiAllocator for Spis {
    fn allocate(&mut self, rng: &mut dyn CryptoRng) -> Option<Spi> {
        self.0 += 1;
        Spi::new(rng.next_u32() | 0x100)
    }

    fn release(&mut self, _: Spi) {
        self.0 -= 1;
    }
}

struct One(Arc<IkeConfig>);

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

fn config() -> Arc<IkeConfig> {
    let psk = Psk::new(b"secret".to_vec().into());
    let any = || vec!["0.0.0.0/0".parse().unwrap()];
    Arc::new(IkeConfig {
        name: "fuzz".into(),
        local_id: "us".parse().unwrap(),
        remote_id: None,
        local_auth: LocalAuth::Psk(psk.clone()),
        remote_auth: RemoteAuth::Psk(psk),
        proposals: vec![
            "aes256gcm16-chacha20poly1305-prfsha256-prfsha384-x25519-ecp256"
                .parse()
                .unwrap(),
        ],
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

struct Pair {
    sas: Vec<IkeSa>,
    spis: [Spis; 2],
    established: [usize; 2],
    /// (to, message)
    net: Vec<(usize, Vec<u8>)>,
    now: Duration,
    rng: ChaCha20Rng,
}

fn addresses(of: usize) -> [SocketAddr; 2] {
    let mut both = ["192.0.2.1:500", "192.0.2.2:500"].map(|a| a.parse().unwrap());
    both.rotate_left(of);
    both
}

impl Pair {
    fn with(&mut self, host: usize, f: impl FnOnce(&mut IkeSa, &mut Ctx<'_>)) {
        let mut cx = Ctx {
            now: self.now,
            unix_time: self.now,
            rng: &mut self.rng,
            spis: &mut self.spis[host],
            leases: &mut NoLeases,
        };
        f(&mut self.sas[host], &mut cx);
        while let Some(output) = self.sas[host].poll_output() {
            match output {
                Output::Transmit { message, .. } => self.net.push((1 - host, message)),
                Output::ChildEstablished(_) => self.established[host] += 1,
                _ => {}
            }
        }
    }

    fn deliver(&mut self, to: usize, message: &[u8]) {
        let [local, remote] = addresses(to);
        self.with(to, |sa, cx| {
            let _ = sa.handle_message(local, remote, message, cx);
        });
    }

    fn settle(&mut self) {
        for _ in 0..64 {
            let Some((to, message)) = self.net.pop() else {
                break;
            };
            self.deliver(to, &message);
        }
        self.net.clear();
    }

    fn new() -> Self {
        let config = config();
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
        let directory = Arc::new(One(config));
        let Ok(server) = IkeSa::respond(directory, remote, local, &message, &mut cx) else {
            panic!("refused");
        };
        let mut pair = Self {
            sas: vec![client, server],
            spis,
            established: [0; 2],
            net: Vec::new(),
            now,
            rng,
        };
        pair.with(1, |_, _| {});
        pair.settle();
        assert!(pair.sas.iter().all(|sa| sa.state() == State::Established));
        pair
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut pair = Pair::new();
    let mut rest = bytes;
    while let Some((&[op, exchange, first, id, number, total, len], tail)) =
        rest.split_first_chunk::<7>()
    {
        let (inner, tail) = tail.split_at(usize::from(len).min(tail.len()));
        rest = tail;
        let from = usize::from(op & 1);
        let (sent, expected) = pair.sas[from].message_ids();
        match op >> 4 {
            0 => pair.with(from, IkeSa::check_liveness),
            1 => pair.settle(),
            2 => {
                pair.now += Duration::from_secs(id.into());
                pair.with(from, IkeSa::handle_timeout);
            }
            _ => {}
        }
        // Its own next request, an answer to the other's, or anything.
        let response = op & 2 != 0;
        let id = match (op & 4 != 0, response) {
            (true, _) => id.into(),
            (false, true) => expected,
            (false, false) => sent,
        };
        let exchange = ExchangeType(34 + exchange % 12);
        let part = (op & 8 != 0).then_some((number.into(), total.into()));
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let payloads = (PayloadType(first), inner);
        let forged = pair.sas[from].forge(exchange, response, id, payloads, part, &mut rng);
        if let Some(message) = forged {
            pair.deliver(1 - from, &message);
        }
    }
    for host in 0..2 {
        pair.with(host, IkeSa::abandon);
        assert!(pair.spis[host].0 <= pair.established[host], "an SPI leaked");
    }
});
