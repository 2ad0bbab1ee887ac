//! A client, a NAT, a network and a gateway in one thread, under virtual time and from one seed.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod host;
pub mod nat;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mitregate_control::{
    ChildConfig, ChildLifetime, Childless, Command, Config, ConnectionConfig, ControlEvent,
    Dynamic, EncapMode, GateConfig, IkeLifetime, LocalAuth, PeerRekey, Psk, RemoteAuth, Retransmit,
    Role, StartAction, Ticket, TunnelView, Unique,
};
use mitregate_esp::{Provider, WorkerId};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use zeroize::Zeroizing;

use host::Host;
use nat::{Nat, Packet};

pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const PUBLIC_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const SERVER_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const INSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 2, 0, 9)];

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// What a world is made of.
#[derive(Clone)]
pub struct Setup {
    pub seed: u64,
    pub encap: EncapMode,
    pub nat: bool,
    pub psks: [&'static str; 2],
    pub rekey_time: Duration,
    pub reauth_time: Duration,
    pub ike_rekey_time: Duration,
    /// Per mille of packets lost, doubled; largest extra delay that reorders.
    pub loss: u32,
    pub duplicates: u32,
    pub spread: Duration,
    pub delay: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            seed: 1,
            encap: EncapMode::Auto,
            nat: true,
            psks: ["secret", "secret"],
            rekey_time: secs(3600),
            reauth_time: Duration::ZERO,
            ike_rekey_time: Duration::ZERO,
            loss: 0,
            duplicates: 0,
            spread: Duration::ZERO,
            delay: ms(10),
        }
    }
}

impl Setup {
    pub fn config(&self, at: usize) -> Config {
        let ids = ["client@lab", "gw@lab"];
        let ts = |at: usize| vec![["10.1.0.1/32", "10.2.0.0/24"][at].parse().unwrap()];
        let client = at == CLIENT;
        let child = ChildConfig {
            name: "net".to_owned(),
            local_ts: ts(at),
            remote_ts: ts(1 - at),
            dynamic: Dynamic::default(),
            esp_proposals: vec!["aes256gcm16".parse().unwrap()],
            start_action: if client {
                StartAction::Start
            } else {
                StartAction::None
            },
            close_action: StartAction::Start,
            dpd_action: StartAction::Start,
            inactivity: Duration::ZERO,
            lifetime: ChildLifetime::new(self.rekey_time),
        };
        let psk = Psk::new(Zeroizing::new(self.psks[at].as_bytes().to_vec()));
        let connection = ConnectionConfig {
            name: "home".to_owned(),
            local_addrs: vec![IpAddr::V4([CLIENT_IP, SERVER_IP][at])],
            remote_addrs: if client {
                vec![IpAddr::V4(SERVER_IP)]
            } else {
                Vec::new()
            },
            local_port: 500,
            remote_port: 500,
            local_id: ids[at].parse().unwrap(),
            remote_id: Some(ids[1 - at].parse().unwrap()),
            local_auth: LocalAuth::Psk(psk.clone()),
            remote_auth: RemoteAuth::Psk(psk),
            proposals: vec!["aes256gcm16-prfsha256-x25519".parse().unwrap()],
            encap: self.encap,
            retransmit: Retransmit::default(),
            fragmentation: mitregate_ike::Fragmentation::default(),
            gate: GateConfig::new(if client { Role::Client } else { Role::Server }),
            auto_role: false,
            children: vec![child],
            lifetime: IkeLifetime {
                reauth_time: self.reauth_time,
                ..IkeLifetime::new(self.ike_rekey_time)
            },
            dpd_delay: ConnectionConfig::DPD_DELAY,
            dpd_timeout: Duration::ZERO,
            keepalive: ConnectionConfig::KEEPALIVE,
            peer_rekey: PeerRekey::default(),
            vips: Vec::new(),
            pools: Vec::new(),
            unique: Unique::default(),
            max_peers: ConnectionConfig::MAX_PEERS,
            childless: Childless::default(),
        };
        Config {
            // Four seeds in a row are the four pairings.
            provider: Provider::ALL[(self.seed >> at & 1) as usize],
            worker: WorkerId(0),
            replay_window: Config::REPLAY_WINDOW,
            half_open_limit: Config::HALF_OPEN_LIMIT,
            pools: Vec::new(),
            connections: vec![connection],
        }
    }

    fn host(&self, now: Duration, at: usize, life: u64) -> Host {
        let seed = self.seed ^ (at as u64 + 1) << 40 ^ life << 50;
        Host::new(now, seed, self.config(at), INSIDE[at], INSIDE[1 - at])
    }
}

pub struct World {
    pub setup: Setup,
    pub now: Duration,
    pub hosts: [Host; 2],
    /// A host that is down neither sends nor receives.
    pub down: [bool; 2],
    pub nat: Option<Nat>,
    rng: ChaCha20Rng,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    packets: BTreeMap<u64, Packet>,
    next_packet: u64,
    pub data_every: [Option<Duration>; 2],
    data_at: [Duration; 2],
    lives: u64,
    /// Lose everything from this host on.
    pub cut: [bool; 2],
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let now = secs(1000);
        let mut world = Self {
            hosts: [setup.host(now, CLIENT, 0), setup.host(now, SERVER, 0)],
            down: [false; 2],
            nat: setup.nat.then(|| Nat::new(IpAddr::V4(PUBLIC_IP))),
            rng: ChaCha20Rng::seed_from_u64(setup.seed),
            setup,
            now,
            queue: BinaryHeap::new(),
            packets: BTreeMap::new(),
            next_packet: 0,
            data_every: [None; 2],
            data_at: [Duration::ZERO; 2],
            lives: 0,
            cut: [false; 2],
        };
        world.pump(CLIENT);
        world.pump(SERVER);
        world
    }

    /// The process dies without a word.
    pub fn kill(&mut self, at: usize) {
        self.down[at] = true;
    }

    /// And is started again.
    pub fn start(&mut self, at: usize) {
        self.lives += 1;
        let old = std::mem::replace(
            &mut self.hosts[at],
            self.setup.host(self.now, at, self.lives),
        );
        self.hosts[at].sent = old.sent;
        self.hosts[at].received = old.received.clone();
        self.down[at] = false;
        self.pump(at);
    }

    pub fn command(&mut self, at: usize, command: Command) -> Ticket {
        let ticket = self.hosts[at]
            .control
            .handle_command(self.now, command)
            .unwrap();
        self.pump(at);
        ticket
    }

    pub fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while let Some(next) = self.next_time().filter(|t| *t <= end) {
            self.now = self.now.max(next);
            while let Some(Reverse((time, id))) = self.queue.peek().copied() {
                if time > self.now {
                    break;
                }
                self.queue.pop();
                let packet = self.packets.remove(&id).unwrap();
                self.arrive(packet);
            }
            for at in [CLIENT, SERVER] {
                if self.down[at] {
                    continue;
                }
                if let Some(every) = self.data_every[at]
                    && self.data_at[at] <= self.now
                {
                    self.data_at[at] = self.now + every;
                    self.hosts[at].offer();
                    self.pump(at);
                }
                let control = &mut self.hosts[at].control;
                if control.poll_timeout().is_some_and(|t| t <= self.now) {
                    control.handle_timeout(self.now);
                    self.pump(at);
                    let next = self.hosts[at].control.poll_timeout();
                    assert!(
                        next.is_none_or(|t| t > self.now),
                        "a timer that fired stays due"
                    );
                }
            }
        }
        self.now = end;
    }

    /// Runs until both sides carry data; how long that took.
    pub fn run_until_up(&mut self, limit: Duration) -> Duration {
        let start = self.now;
        while !self.is_up() {
            assert!(
                self.now - start < limit,
                "not up after {limit:?}: {:#?}",
                self.tunnel(CLIENT)
            );
            self.run(ms(5));
        }
        self.now - start
    }

    pub fn is_up(&self) -> bool {
        let proven = |at: usize| {
            self.tunnel(at)
                .epochs
                .iter()
                .any(|e| e.active && e.state == "proven")
        };
        proven(CLIENT) && proven(SERVER)
    }

    pub fn tunnel(&self, at: usize) -> TunnelView {
        self.hosts[at].control.list(self.now).tunnels.remove(0)
    }

    fn next_time(&self) -> Option<Duration> {
        let up = [CLIENT, SERVER].into_iter().filter(|at| !self.down[*at]);
        let timers = up
            .clone()
            .filter_map(|at| self.hosts[at].control.poll_timeout());
        let data = up
            .filter(|at| self.data_every[*at].is_some())
            .map(|at| self.data_at[at]);
        let queue = self.queue.peek().map(|Reverse((t, _))| *t);
        queue.into_iter().chain(timers).chain(data).min()
    }

    fn pump(&mut self, at: usize) {
        for packet in self.hosts[at].pump(self.now) {
            let packet = match &mut self.nat {
                Some(nat) if at == CLIENT => nat.outbound(packet),
                _ => packet,
            };
            if self.cut[at] || self.chance(self.setup.loss) {
                continue;
            }
            if self.chance(self.setup.duplicates) {
                self.post(packet.clone());
            }
            self.post(packet);
        }
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.rng.next_u32() % 1000 < per_mille
    }

    fn post(&mut self, packet: Packet) {
        let spread = u64::try_from(self.setup.spread.as_micros()).unwrap();
        let extra = if spread == 0 {
            0
        } else {
            self.rng.next_u64() % spread
        };
        let at = self.now + self.setup.delay + Duration::from_micros(extra);
        self.queue.push(Reverse((at, self.next_packet)));
        self.packets.insert(self.next_packet, packet);
        self.next_packet += 1;
    }

    fn arrive(&mut self, packet: Packet) {
        let to = if packet.dst.ip() == IpAddr::V4(SERVER_IP) {
            SERVER
        } else {
            CLIENT
        };
        let packet = match &self.nat {
            Some(nat) if to == CLIENT => match nat.inbound(packet) {
                Some(packet) => packet,
                None => return,
            },
            _ => packet,
        };
        if !self.down[to] {
            self.hosts[to].deliver(&packet);
            self.pump(to);
        }
    }

    /// Anybody's datagram.
    pub fn inject(&mut self, src: SocketAddr, dst: SocketAddr, payload: &[u8]) {
        self.post(Packet {
            src,
            dst,
            payload: payload.to_vec(),
        });
    }

    /// Takes what is under way off the network.
    pub fn steal(&mut self) -> Vec<Packet> {
        self.queue.clear();
        std::mem::take(&mut self.packets).into_values().collect()
    }

    pub fn server_port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(SERVER_IP), port)
    }

    /// Both ends have the same SAs, and nothing but them.
    pub fn assert_agreed(&self, epochs: usize) {
        let spis = |at: usize, turned: bool| {
            let tunnel = self.tunnel(at);
            let list = tunnel.epochs.iter().map(|e| match turned {
                false => (e.spi_in.clone(), e.spi_out.clone(), e.active),
                true => (e.spi_out.clone(), e.spi_in.clone(), e.active),
            });
            list.collect::<Vec<_>>()
        };
        assert_eq!(
            spis(CLIENT, false),
            spis(SERVER, true),
            "{:#?}\n{:#?}",
            self.hosts[CLIENT].control.list(self.now),
            self.hosts[SERVER].control.list(self.now)
        );
        assert_eq!(
            spis(CLIENT, false).len(),
            epochs,
            "{:#?}",
            self.tunnel(CLIENT)
        );
        let ike = |at: usize| {
            let list = self.hosts[at].control.list(self.now).ike_sas;
            let mut spis: Vec<_> = list
                .iter()
                .map(|s| match s.initiator {
                    true => (s.spi_local.clone(), s.spi_remote.clone(), s.children.len()),
                    false => (s.spi_remote.clone(), s.spi_local.clone(), s.children.len()),
                })
                .collect();
            spis.sort();
            spis
        };
        assert_eq!(ike(CLIENT), ike(SERVER));
        assert_eq!(ike(CLIENT).iter().map(|(_, _, n)| n).sum::<usize>(), epochs);
    }

    /// Everything sent has arrived, once and in order.
    pub fn assert_all_arrived(&mut self) {
        self.data_every = [None; 2];
        self.run(secs(2));
        for (from, to) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
            let expected: Vec<_> = (1..=self.hosts[from].sent).collect();
            let got = &self.hosts[to].received;
            let odd = expected.iter().zip(got).position(|(a, b)| a != b);
            assert_eq!(odd, None, "first difference");
            assert_eq!(got.len(), expected.len());
        }
    }

    pub fn finished(&self, at: usize, ticket: Ticket) -> bool {
        let finished = ControlEvent::Finished { ticket };
        self.hosts[at]
            .events
            .iter()
            .any(|(_, event)| *event == finished)
    }
}
