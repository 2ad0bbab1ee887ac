//! The model's NAT and the laboratory's box of the same name do the same with the same packets: through all
//! sequences of a few steps, and through long ones drawn at random.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mitregate_lab::nat::{Middlebox, Output, Packet, Translator, VpnMasquerade};
use mitregate_model::nat::{Name, Nat, State};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const CLIENTS: u8 = 3;
const LIMIT: u8 = 5;
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

fn client(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 168, 1, n + 2))
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Outbound(Name),
    Inbound(Name),
    Ike(u8),
    /// So long that what blocks is gone, and nothing else.
    Wait,
    Crash,
}

/// Both, and the packets' numbers.
struct Pair {
    model: Nat,
    real: Translator,
    now: Duration,
    rng: ChaCha20Rng,
}

impl Pair {
    fn new() -> Self {
        Self {
            model: Nat::new(usize::from(CLIENTS), LIMIT),
            real: VpnMasquerade::default().make(PUBLIC),
            now: Duration::from_secs(1000),
            rng: ChaCha20Rng::seed_from_u64(1),
        }
    }

    fn at(address: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(address, port)
    }

    /// An SPI as the peer of this direction has chosen it.
    fn esp(from: IpAddr, to: IpAddr, name: Name, inbound: bool) -> Packet {
        let way = u32::from(inbound);
        let spi = 0x1000
            | u32::from(name.client) << 8
            | u32::try_from(name.epoch).unwrap_or(0) << 1
            | way;
        let mut payload = spi.to_be_bytes().to_vec();
        payload.extend([0; 28]);
        match Packet::esp(from, to, &payload, 0) {
            Ok(packet) => packet,
            Err(error) => panic!("{error}"),
        }
    }

    fn outbound(&mut self, packet: Packet) -> usize {
        let mut out = Output::default();
        self.real
            .outbound(self.now, packet, &mut self.rng, &mut out);
        out.outside.len()
    }

    /// What both do; they must not differ.
    fn step(&mut self, step: Step) {
        self.now += Duration::from_millis(10);
        match step {
            Step::Outbound(name) => {
                let packet = Self::esp(client(name.client), SERVER, name, false);
                let real = self.outbound(packet) == 1;
                assert_eq!(self.model.outbound(name), real, "{step:?}");
            }
            Step::Inbound(name) => {
                let packet = Self::esp(SERVER, PUBLIC, name, true);
                let mut out = Output::default();
                self.real.inbound(self.now, packet, &mut self.rng, &mut out);
                let mut real: Vec<_> = out.inside.iter().map(|p| p.dst().ip()).collect();
                let mut model: Vec<_> = self.model.inbound(name).into_iter().map(client).collect();
                real.sort_unstable();
                model.sort_unstable();
                assert_eq!(model, real, "{step:?}");
            }
            Step::Ike(n) => {
                let cookie = [0xc0, 0, 0, n + 1, 0, 0, 0, 0];
                let (from, to) = (Self::at(client(n), 500), Self::at(SERVER, 500));
                let Ok(packet) = Packet::udp(from, to, &cookie, 0) else {
                    panic!("a datagram");
                };
                assert_eq!(self.outbound(packet), 1);
                self.model.ike[usize::from(n)] = true;
            }
            Step::Wait => {
                self.now += Duration::from_secs(121);
                self.model
                    .entries
                    .retain(|e| matches!(e.state, State::Bound { .. }));
            }
            Step::Crash => {
                self.real.crash();
                self.model.crash();
            }
        }
    }
}

fn names(clients: u8, epochs: u64) -> impl Iterator<Item = Name> {
    (0..clients).flat_map(move |client| (1..=epochs).map(move |epoch| Name { client, epoch }))
}

const LENGTH: u32 = 4;

#[test]
fn all_short_sequences() {
    let mut steps: Vec<Step> = names(2, 2)
        .flat_map(|n| [Step::Outbound(n), Step::Inbound(n)])
        .collect();
    steps.extend([Step::Ike(0), Step::Ike(1), Step::Wait, Step::Crash]);
    for mut number in 0..steps.len().pow(LENGTH) {
        let mut pair = Pair::new();
        for _ in 0..LENGTH {
            pair.step(steps[number % steps.len()]);
            number /= steps.len();
        }
    }
}

#[test]
fn long_sequences() {
    for seed in 0..300 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut pair = Pair::new();
        let names: Vec<Name> = names(CLIENTS, 2).collect();
        for _ in 0..200 {
            let name = names[rng.next_u32() as usize % names.len()];
            // No more waits than leave an established entry its half hour.
            let step = match rng.next_u32() % 100 {
                0..60 => Step::Outbound(name),
                60..90 => Step::Inbound(name),
                90..95 => Step::Ike(name.client),
                95..97 => Step::Wait,
                97..98 => Step::Crash,
                _ => Step::Outbound(name),
            };
            pair.step(step);
            if pair.now > Duration::from_secs(1000 + 14 * 60) {
                break;
            }
        }
    }
}
