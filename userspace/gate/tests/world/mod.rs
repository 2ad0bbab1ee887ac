//! Two gates joined by a channel that loses, delays and reorders, under virtual time and from one seed.
//! IKE is played by the world: it installs epochs on both sides and carries Deletes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use mitregate_esp::ids::EpochId;
use mitregate_gate::{
    Activity, Gate, GateConfig, GateEvent, Input, Installed, Output, Proof, Reason, Role, State,
};
use mitregate_wire::echo::{Echo, Kind};
use mitregate_wire::esp::Spi;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Echo(Vec<u8>),
    Data(u64),
}

/// Something that happens at a time, told to a side.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Arrives {
        to: usize,
        epoch: EpochId,
        packet: Packet,
    },
    Installed {
        at: usize,
        epoch: EpochId,
        replaces: Option<EpochId>,
    },
    Deleted {
        at: usize,
        epoch: EpochId,
        by_peer: bool,
    },
    RekeyFailed {
        at: usize,
    },
}

pub struct Side {
    pub gate: Gate,
    rng: ChaCha20Rng,
    pub active: Option<EpochId>,
    /// Epochs on which our own ping was answered (or the client's data came), by the world's own account.
    allowed: BTreeSet<EpochId>,
    /// Epochs on which an echo request of the peer has arrived.
    pinged_by_peer: BTreeSet<EpochId>,
    pub installed: BTreeSet<EpochId>,
    pub data_sent: u64,
    pub data_received: Vec<u64>,
    activity: Activity,
    pub events: Vec<(Duration, GateEvent)>,
    pub proofs: Vec<(EpochId, Proof)>,
    pub requests_sent: BTreeMap<EpochId, u32>,
}

/// Decides the fate of a packet: `None` loses it, else the delay.
pub type Fate = Box<dyn FnMut(&Transit<'_>, &mut ChaCha20Rng) -> Option<Duration>>;

/// A packet under way.
pub struct Transit<'a> {
    pub now: Duration,
    pub from: usize,
    pub epoch: EpochId,
    pub packet: &'a Packet,
}

impl Transit<'_> {
    pub fn is_response(&self) -> bool {
        matches!(self.packet, Packet::Echo(bytes)
            if Echo::new_checked(bytes).is_ok_and(|e| e.kind == Kind::Response))
    }
}

pub struct World {
    pub now: Duration,
    pub sides: [Side; 2],
    rng: ChaCha20Rng,
    fate: Fate,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    next_epoch: u64,
    pub peer_echo: bool,
    /// Whether IKE answers.
    pub ike_works: bool,
    /// Every side offers a data packet this often.
    pub data_every: [Option<Duration>; 2],
    data_at: [Duration; 2],
    pub requests: Vec<(Duration, &'static str, Reason)>,
}

impl World {
    pub fn new(seed: u64, fate: Fate) -> Self {
        Self::with(seed, fate, |_| {})
    }

    pub fn with(seed: u64, fate: Fate, tune: impl Fn(&mut GateConfig)) -> Self {
        let side = |role, salt| {
            let mut config = GateConfig::new(role);
            tune(&mut config);
            Side {
                gate: Gate::new(config),
                rng: ChaCha20Rng::seed_from_u64(seed ^ salt),
                active: None,
                allowed: BTreeSet::new(),
                pinged_by_peer: BTreeSet::new(),
                installed: BTreeSet::new(),
                data_sent: 0,
                data_received: Vec::new(),
                activity: Activity::default(),
                events: Vec::new(),
                proofs: Vec::new(),
                requests_sent: BTreeMap::new(),
            }
        };
        Self {
            now: Duration::from_secs(1000),
            sides: [side(Role::Client, 1 << 32), side(Role::Server, 2 << 32)],
            rng: ChaCha20Rng::seed_from_u64(seed),
            fate,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            next_epoch: 0,
            peer_echo: true,
            ike_works: true,
            data_every: [None, None],
            data_at: [Duration::ZERO; 2],
            requests: Vec::new(),
        }
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.queue.push(Reverse((time, self.next_event)));
        self.events.insert(self.next_event, event);
        self.next_event += 1;
    }

    /// IKE makes a pair of SAs: the responder's side first, half a round trip before the initiator's.
    pub fn negotiate(&mut self, replaces: Option<EpochId>) -> EpochId {
        self.next_epoch += 1;
        let epoch = EpochId(self.next_epoch);
        let t = self.now + ms(10);
        self.at(
            t,
            Event::Installed {
                at: SERVER,
                epoch,
                replaces,
            },
        );
        self.at(
            t + ms(10),
            Event::Installed {
                at: CLIENT,
                epoch,
                replaces,
            },
        );
        epoch
    }

    pub fn input(&mut self, at: usize, input: Input<'_>) {
        let side = &mut self.sides[at];
        side.gate.handle(self.now, input, &mut side.rng);
        self.drain(at);
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
                if let Some(event) = self.events.remove(&id) {
                    self.happen(event);
                }
            }
            for at in [CLIENT, SERVER] {
                self.offer_data(at);
                let side = &mut self.sides[at];
                if side.gate.poll_timeout().is_some_and(|t| t <= self.now) {
                    side.gate
                        .handle(self.now, Input::Activity(side.activity), &mut side.rng);
                    side.gate.handle_timeout(self.now, &mut side.rng);
                    assert!(
                        side.gate.poll_timeout().is_none_or(|t| t > self.now),
                        "a timer that fired stays due: {:?}",
                        side.gate
                    );
                    self.drain(at);
                }
            }
            self.check();
        }
        self.now = end;
    }

    fn next_time(&self) -> Option<Duration> {
        let queue = self.queue.peek().map(|Reverse((t, _))| *t);
        let gates = self.sides.iter().filter_map(|s| s.gate.poll_timeout());
        let data = self
            .data_every
            .iter()
            .zip(self.data_at)
            .filter_map(|(e, at)| e.map(|_| at));
        queue.into_iter().chain(gates).chain(data).min()
    }

    fn offer_data(&mut self, at: usize) {
        let Some(every) = self.data_every[at] else {
            return;
        };
        if self.data_at[at] > self.now {
            return;
        }
        self.data_at[at] = self.now + every;
        let Some(epoch) = self.sides[at].active else {
            return;
        };
        let side = &mut self.sides[at];
        if self.peer_echo {
            assert!(
                side.allowed.contains(&epoch),
                "I1: side {at} sends data on unproven {epoch:?}"
            );
        }
        side.data_sent += 1;
        side.activity.sent += 1;
        let n = side.data_sent;
        self.transmit(at, epoch, Packet::Data(n));
    }

    fn transmit(&mut self, from: usize, epoch: EpochId, packet: Packet) {
        if from == SERVER && self.peer_echo {
            assert!(
                self.sides[SERVER].pinged_by_peer.contains(&epoch),
                "G5: the server sends on {epoch:?} before the client's ping"
            );
        }
        let transit = Transit {
            now: self.now,
            from,
            epoch,
            packet: &packet,
        };
        if let Some(delay) = (self.fate)(&transit, &mut self.rng) {
            self.at(
                self.now + delay,
                Event::Arrives {
                    to: 1 - from,
                    epoch,
                    packet,
                },
            );
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives { to, epoch, packet } => self.arrive(to, epoch, &packet),
            Event::Installed {
                at,
                epoch,
                replaces,
            } => {
                self.sides[at].installed.insert(epoch);
                let n = u32::try_from(epoch.0).unwrap();
                let spi = |side: usize| {
                    Spi::new(0x0100_0000 + n * 2 + u32::try_from(side).unwrap()).unwrap()
                };
                let installed = Installed {
                    epoch,
                    spi_in: spi(at),
                    spi_out: spi(1 - at),
                    peer_echo: self.peer_echo,
                    keyed_by_spi: false,
                    icmp: None,
                    initiated: at == CLIENT,
                    redundant: false,
                    replaces,
                };
                self.input(at, Input::Installed(installed));
            }
            Event::Deleted { at, epoch, by_peer } => {
                self.input(at, Input::Deleted { epoch, by_peer });
            }
            Event::RekeyFailed { at } => self.input(at, Input::RekeyFailed),
        }
    }

    fn arrive(&mut self, to: usize, epoch: EpochId, packet: &Packet) {
        if !self.sides[to].installed.contains(&epoch) {
            return;
        }
        match packet {
            Packet::Echo(bytes) => {
                let echo = Echo::new_checked(bytes).unwrap();
                let side = &mut self.sides[to];
                match echo.kind {
                    Kind::Request { .. } => _ = side.pinged_by_peer.insert(epoch),
                    Kind::Response => _ = side.allowed.insert(epoch),
                }
                self.input(to, Input::FirstInbound { epoch, data: false });
                self.input(to, Input::Echo { epoch, echo });
            }
            Packet::Data(n) => {
                let side = &mut self.sides[to];
                side.data_received.push(*n);
                side.activity.received += 1;
                if to == SERVER {
                    side.allowed.insert(epoch);
                }
                self.input(to, Input::FirstInbound { epoch, data: true });
            }
        }
    }

    fn drain(&mut self, at: usize) {
        while let Some(output) = self.sides[at].gate.poll_output() {
            let side = &mut self.sides[at];
            match output {
                Output::SendEcho { epoch, payload } => {
                    assert!(side.installed.contains(&epoch));
                    if Echo::new_checked(&payload).unwrap().kind != Kind::Response {
                        *side.requests_sent.entry(epoch).or_default() += 1;
                    }
                    self.transmit(at, epoch, Packet::Echo(payload));
                }
                Output::Hold { .. } => panic!("no NAT notes SPIs"),
                Output::SendIcmp { .. } => panic!("there is no target"),
                Output::Activate(proven) => {
                    side.active = Some(proven.epoch());
                    side.proofs.push((proven.epoch(), proven.proof()));
                }
                Output::Retire { epoch } => {
                    side.installed.remove(&epoch);
                    if side.active == Some(epoch) {
                        side.active = None;
                    }
                }
                Output::Event(event) => side.events.push((self.now, event)),
                Output::Rekey { replaces, reason } => {
                    self.requests.push((self.now, "rekey", reason));
                    if self.ike_works {
                        self.negotiate(Some(replaces));
                    }
                }
                Output::NewIkeSession { reason } => {
                    self.requests.push((self.now, "session", reason));
                    if self.ike_works {
                        self.negotiate(None);
                    }
                }
                Output::Delete { epoch } => {
                    let (t, to) = (self.now, 1 - at);
                    self.at(
                        t + ms(20),
                        Event::Deleted {
                            at: to,
                            epoch,
                            by_peer: true,
                        },
                    );
                    self.at(
                        t + ms(40),
                        Event::Deleted {
                            at,
                            epoch,
                            by_peer: false,
                        },
                    );
                }
            }
        }
    }

    pub fn rekey_refused(&mut self, at: usize) {
        self.at(self.now, Event::RekeyFailed { at });
    }

    /// The epoch limits: at most one active, two unproven; draining ones apart.
    fn check(&self) {
        for side in &self.sides {
            let unproven = side
                .gate
                .epochs()
                .filter(|e| e.proof.is_none() && e.state != State::Draining)
                .count();
            assert!(unproven <= 2, "{:?}", side.gate);
            assert!(side.gate.epochs().filter(|e| e.active).count() <= 1);
        }
    }

    /// Both ends agree on the live epochs.
    pub fn live(&self) -> Vec<EpochId> {
        let of = |at: usize| {
            self.sides[at]
                .gate
                .epochs()
                .map(|e| e.epoch)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(CLIENT), of(SERVER));
        assert_eq!(self.sides[CLIENT].active, self.sides[SERVER].active);
        of(CLIENT)
    }
}

/// A path that delays by `delay` and loses nothing.
pub fn clean(delay: Duration) -> Fate {
    Box::new(move |_, _| Some(delay))
}

/// A path that loses `percent` of the packets and reorders the rest within `spread`.
pub fn lossy(percent: u32, spread: u32) -> Fate {
    Box::new(move |_, rng| {
        let lost = rng.next_u32() % 100 < percent;
        let delay = ms(5 + u64::from(rng.next_u32() % spread.max(1)));
        (!lost).then_some(delay)
    })
}
