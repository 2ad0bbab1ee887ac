//! Clients, a NAT, a server, and what is under way between them; every step that can be next.

use core::time::Duration;
use std::sync::Arc;

use mitregate_esp::ids::EpochId;
use mitregate_gate::{Gate, Input, Installed, Output, Role};
use mitregate_wire::echo::{Echo, Kind};
use mitregate_wire::esp::Spi;

use crate::config::{Config, Rule};
use crate::diagram::{Lane, Note};
use crate::host::{Host, Numbers, Record};
use crate::nat::{Entry, Name, Nat, State};

/// An end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Behind the NAT.
    Client,
    /// In front of it.
    Server,
}

impl Side {
    /// The other end.
    #[must_use]
    pub fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What an ESP packet carries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Body {
    /// A ping or an answer, as the gate made it.
    Echo(Vec<u8>),
    /// An application's packet.
    Data,
}

/// An ESP packet under way: from a client to the NAT, or from the server to the NAT. What passes the NAT is
/// there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    /// Whose tunnel.
    pub tunnel: u8,
    /// Who sent it.
    pub from: Side,
    /// On which epoch.
    pub epoch: EpochId,
    /// What.
    pub body: Body,
}

/// An exchange of IKE that makes a pair of SAs. The client starts them all: it owns the rekeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exchange {
    /// The epoch to be rekeyed; `None` for a new IKE SA.
    pub replaces: Option<EpochId>,
    /// The server has answered and installed this; the client does not know yet.
    pub made: Option<EpochId>,
    /// And has deleted it since, which the client will know as soon.
    pub gone: bool,
}

/// One client's tunnel, both ends of it.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// The ends, shared with other states as long as nothing happens to them.
    pub hosts: [Arc<Host>; 2],
    /// IKE's exchanges that make SAs.
    pub exchanges: Vec<Exchange>,
    /// The last epoch's number.
    pub last_epoch: u64,
    /// Rekeys by age that may still come.
    pub rekeys: u8,
}

/// A state of everything.
#[derive(Debug, Clone)]
pub struct World {
    /// What the gates take for the time.
    pub now: Duration,
    /// One for each client.
    pub tunnels: Vec<Tunnel>,
    /// Between them and the server.
    pub nat: Nat,
    /// Packets under way, in no order.
    pub flight: Vec<Packet>,
    /// Faults that may still come.
    pub faults: u8,
    /// Crashes of the NAT that may still come.
    pub crashes: u8,
}

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A packet reaches the NAT and, if that lets it, its destination.
    Deliver(u8),
    /// A packet is lost before the NAT.
    Lose(u8),
    /// A packet is lost behind the NAT.
    LoseBehind(u8),
    /// A packet reaches the NAT twice; this is the first time.
    Twice(u8),
    /// Time passes up to the next thing that a gate has to do.
    Tick,
    /// An application of a tunnel's end has a packet.
    App(u8, Side),
    /// A client looks whether its path is still good.
    Look(u8),
    /// A client's epoch is old.
    RekeyDue(u8),
    /// IKE's request reaches the server.
    Request(u8, u8),
    /// IKE's response reaches the client.
    Response(u8, u8),
    /// The server refuses to rekey.
    Refuse(u8, u8),
    /// An IKE message is lost, and all its repetitions.
    IkeLost(u8, u8),
    /// The NAT loses its tables.
    Crash,
    /// An entry of the NAT is gone.
    Expire(u8),
}

/// What a step was, for the judgement of infinite runs. Bits.
pub mod label {
    /// It can happen in a network without faults whose path is faster than the hosts' waits.
    pub const CALM: u16 = 1;
    /// Time passed.
    pub const TICK: u16 = 1 << 1;
    /// The NAT's blocking entry was used, completed or removed.
    pub const NAT: u16 = 1 << 2;
    /// The first client's application sent, or had a packet to send.
    pub const APP_UP: u16 = 1 << 3;
    /// The server's for the first client.
    pub const APP_DOWN: u16 = 1 << 4;
    /// Data of the first client arrived.
    pub const UP: u16 = 1 << 5;
    /// Data for the first client arrived.
    pub const DOWN: u16 = 1 << 6;
    /// Client 0 looked at its path; 1 and 2 are the bits above.
    pub const LOOK: u16 = 1 << 7;
    /// A packet or message of client 0 arrived; 1 and 2 are the bits above.
    pub const ARRIVE: u16 = 1 << 10;
}

/// What must never happen. Bits.
pub mod broken {
    /// I1: data on an epoch that its sender has not proven.
    pub const I1: u8 = 1;
    /// I2: data anywhere but on an SA of its own tunnel.
    pub const I2: u8 = 1 << 1;
    /// G5: the server sends on an epoch before the client's ping has arrived there.
    pub const G5: u8 = 1 << 2;
    /// I6: more epochs than a tunnel may have.
    pub const I6: u8 = 1 << 3;
    /// Data ends at the NAT on an epoch that its sender has not proven while an older one, proven, would
    /// have carried it.
    pub const HOLE: u8 = 1 << 4;
    /// All, with their names.
    pub const ALL: [(u8, &str); 5] = [
        (I1, "I1 no data on an unproven epoch"),
        (I2, "I2 data only on an SA of its own tunnel"),
        (G5, "G5 the server waits for the client's ping"),
        (I6, "I6 one proven and two unproven epochs at most"),
        (
            HOLE,
            "no data lost at the NAT that an older, proven epoch would have carried",
        ),
    ];
}

/// A step that was taken.
#[derive(Debug)]
pub struct Taken {
    /// The state that came of it.
    pub world: World,
    /// See [`label`].
    pub labels: u16,
    /// See [`broken`].
    pub broken: u8,
}

impl World {
    /// Every client has asked for its first IKE SA.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let host = |role| Arc::new(Host::new(Gate::new(config.gate(role))));
        let first = Exchange {
            replaces: None,
            made: None,
            gone: false,
        };
        let tunnel = Tunnel {
            hosts: [host(Role::Client), host(Role::Server)],
            exchanges: vec![first],
            last_epoch: 0,
            rekeys: config.rekeys,
        };
        let clients = usize::from(config.clients);
        Self {
            // Far enough from zero for every age.
            now: Duration::from_secs(1000),
            tunnels: vec![tunnel; clients],
            nat: Nat::new(clients, 1),
            flight: Vec::new(),
            faults: config.faults,
            crashes: config.crashes,
        }
    }

    /// Nothing of this tunnel is under way.
    #[must_use]
    pub fn quiet(&self, tunnel: u8) -> bool {
        let t = &self.tunnels[usize::from(tunnel)];
        t.exchanges.is_empty() && !self.flight.iter().any(|p| p.tunnel == tunnel)
    }

    /// When a gate next has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let hosts = self.tunnels.iter().flat_map(|t| &t.hosts);
        hosts.filter_map(|host| host.gate.poll_timeout()).min()
    }

    /// An end of a tunnel.
    #[must_use]
    pub fn host(&self, tunnel: u8, side: Side) -> &Host {
        &self.tunnels[usize::from(tunnel)].hosts[side as usize]
    }

    /// Whether an earlier packet of the same tunnel is still on the same way.
    fn overtakes(&self, at: usize) -> bool {
        let packet = &self.flight[at];
        let like = |p: &Packet| p.tunnel == packet.tunnel && p.from == packet.from;
        self.flight[..at].iter().any(like)
    }

    /// The NAT's times are long beside a gate's: an entry that blocks goes only when no packet comes on it
    /// that would start its time anew.
    fn unused(&self, entry: &Entry) -> bool {
        let epoch = EpochId(entry.outbound.epoch);
        let client = self.host(entry.outbound.client, Side::Client);
        match entry.state {
            State::Squelched => true,
            State::Pending { .. } => {
                let epochs = client.gate.snapshot(self.now).epochs;
                let mut pinged = epochs.iter().filter(|e| e.run.is_some());
                client.data_on != Some(epoch) && pinged.all(|e| e.id != epoch)
            }
            State::Bound { .. } => false,
        }
    }

    /// A client's gate is waiting for something, be it only the time for its next ping.
    fn busy(&self, tunnel: u8) -> bool {
        let snapshot = self.host(tunnel, Side::Client).gate.snapshot(self.now);
        let mut epochs = snapshot.epochs.iter();
        let waits = epochs.any(|e| e.run.is_some() || e.look_in.is_some());
        waits || snapshot.escalation.due_in.is_some()
    }

    /// Everything that may come next. A few of these come to nothing: see [`World::take`].
    #[must_use]
    pub fn actions(&self, config: &Config) -> Vec<Action> {
        let mut actions = Vec::with_capacity(16);
        let faulty = self.faults > 0;
        for i in indices(&self.flight) {
            let at = usize::from(i);
            // Equals have equal futures.
            if self.flight[..at].contains(&self.flight[at]) {
                continue;
            }
            if faulty || !self.overtakes(at) {
                actions.push(Action::Deliver(i));
            }
            if faulty {
                actions.extend([Action::Lose(i), Action::LoseBehind(i), Action::Twice(i)]);
            }
        }
        let room = self.flight.len() < config.in_flight;
        let mut all_quiet = true;
        for (t, tunnel) in (0u8..).zip(&self.tunnels) {
            for i in indices(&tunnel.exchanges) {
                let exchange = &tunnel.exchanges[usize::from(i)];
                actions.push(match exchange.made {
                    None => Action::Request(t, i),
                    Some(_) => Action::Response(t, i),
                });
                if faulty && exchange.replaces.is_some() && exchange.made.is_none() {
                    actions.push(Action::Refuse(t, i));
                }
                if faulty && (exchange.replaces.is_some() || exchange.made.is_some()) {
                    actions.push(Action::IkeLost(t, i));
                }
            }
            let quiet = self.quiet(t);
            all_quiet &= quiet;
            for side in [Side::Client, Side::Server] {
                let held = self.host(t, side).data_on.is_none();
                if (held && quiet) || (!held && room && (quiet || faulty)) {
                    actions.push(Action::App(t, side));
                }
            }
            let busy = self.busy(t);
            if quiet && (!busy || faulty) {
                if room && config.rule != Rule::Off {
                    actions.push(Action::Look(t));
                }
                if tunnel.rekeys > 0 {
                    actions.push(Action::RekeyDue(t));
                }
            }
        }
        if self.deadline().is_some() && (all_quiet || faulty) {
            actions.push(Action::Tick);
        }
        if self.crashes > 0 {
            actions.push(Action::Crash);
        }
        for i in indices(&self.nat.entries) {
            if faulty || (all_quiet && self.unused(&self.nat.entries[usize::from(i)])) {
                actions.push(Action::Expire(i));
            }
        }
        actions
    }

    /// Takes a step; `None` if nothing comes of it. `notes` are for people.
    #[must_use]
    pub fn take(
        &self,
        config: &Config,
        action: Action,
        notes: Option<&mut Vec<Note>>,
    ) -> Option<Taken> {
        let mut turn = Turn {
            world: self.clone(),
            config,
            labels: 0,
            broken: 0,
            notes,
        };
        turn.act(action)?;
        turn.world.tidy();
        Some(Taken {
            world: turn.world,
            labels: turn.labels,
            broken: turn.broken,
        })
    }

    /// Entries that nothing can reach any more: to keep them would tell states apart that are alike.
    fn tidy(&mut self) {
        let (tunnels, flight) = (&self.tunnels, &self.flight);
        let alive = |name: Name, side: Side| {
            let epoch = EpochId(name.epoch);
            let tunnel = &tunnels[usize::from(name.client)];
            let sent = |p: &Packet| p.from == side && p.tunnel == name.client && p.epoch == epoch;
            tunnel.hosts[side as usize].record(epoch).is_some()
                || tunnel.exchanges.iter().any(|e| e.made == Some(epoch))
                || flight.iter().any(sent)
        };
        self.nat.entries.retain(|entry| match entry.state {
            State::Bound { inbound } => {
                alive(entry.outbound, Side::Client) || alive(inbound, Side::Server)
            }
            _ => true,
        });
    }
}

fn indices<T>(of: &[T]) -> impl Iterator<Item = u8> + use<T> {
    0..u8::try_from(of.len()).unwrap_or(u8::MAX)
}

/// A step being taken.
struct Turn<'a> {
    world: World,
    config: &'a Config,
    labels: u16,
    broken: u8,
    notes: Option<&'a mut Vec<Note>>,
}

impl Turn<'_> {
    fn note(&mut self, note: impl FnOnce() -> Note) {
        if let Some(notes) = &mut self.notes {
            notes.push(note());
        }
    }

    fn fault(&mut self) {
        self.world.faults = self.world.faults.saturating_sub(1);
        self.labels &= !label::CALM;
    }

    fn act(&mut self, action: Action) -> Option<()> {
        self.labels = label::CALM;
        match action {
            Action::Deliver(i) => {
                if self.world.overtakes(usize::from(i)) {
                    self.fault();
                }
                let packet = self.world.flight.remove(usize::from(i));
                self.labels |= label::ARRIVE << packet.tunnel;
                self.pass(&packet, false);
            }
            Action::LoseBehind(i) => {
                let packet = self.world.flight.remove(usize::from(i));
                self.fault();
                self.pass(&packet, true);
            }
            Action::Twice(i) => {
                let packet = self.world.flight[usize::from(i)].clone();
                self.fault();
                self.note(|| Note::mark(Lane::Nat, "(a packet was doubled)"));
                self.pass(&packet, false);
            }
            Action::Lose(i) => {
                let packet = self.world.flight.remove(usize::from(i));
                self.fault();
                self.note(|| Note::packet(&packet, None, "lost"));
            }
            Action::Tick => self.tick()?,
            Action::App(t, side) => self.app(t, side),
            Action::Look(t) => {
                if self.world.busy(t) {
                    self.fault();
                }
                let before = self.world.flight.len();
                self.note(|| Note::mark(Lane::Client(t), "looks at its path"));
                self.gate(t, Side::Client, |gate, now, rng| {
                    gate.handle(now, Input::PathChanged, rng);
                });
                self.labels |= label::LOOK << t;
                (self.world.flight.len() > before).then_some(())?;
            }
            Action::RekeyDue(t) => {
                let epoch = self.world.host(t, Side::Client).gate.active()?;
                let before = self.world.tunnels[usize::from(t)].exchanges.len();
                if self.world.busy(t) {
                    self.fault();
                }
                self.labels &= !label::CALM;
                self.note(|| Note::mark(Lane::Client(t), &format!("{} is old", name(t, epoch))));
                self.gate(t, Side::Client, |gate, now, rng| {
                    gate.handle(now, Input::RekeyDue { epoch }, rng);
                });
                let tunnel = &mut self.world.tunnels[usize::from(t)];
                tunnel.rekeys -= 1;
                (tunnel.exchanges.len() > before).then_some(())?;
            }
            Action::Request(t, i) => self.request(t, usize::from(i)),
            Action::Response(t, i) => self.response(t, usize::from(i)),
            Action::Refuse(t, i) => {
                self.fault();
                let tunnel = &mut self.world.tunnels[usize::from(t)];
                tunnel.exchanges.remove(usize::from(i));
                self.note(|| Note::ike(t, Side::Server, "rekey refused"));
                self.gate(t, Side::Client, |gate, now, rng| {
                    gate.handle(now, Input::RekeyFailed, rng);
                });
            }
            Action::IkeLost(t, i) => {
                self.fault();
                let exchange = &mut self.world.tunnels[usize::from(t)].exchanges;
                if exchange[usize::from(i)].replaces.is_some() {
                    exchange.remove(usize::from(i));
                } else {
                    // Whoever starts a session tries for as long as it takes.
                    exchange[usize::from(i)].made = None;
                    exchange[usize::from(i)].gone = false;
                }
                self.note(|| Note::mark(Lane::Client(t), "IKE hears nothing"));
            }
            Action::Crash => {
                self.world.crashes -= 1;
                self.labels &= !label::CALM;
                self.world.nat.crash();
                self.note(|| Note::mark(Lane::Nat, "CRASH: all tables lost"));
            }
            Action::Expire(i) => {
                let quiet = (0u8..)
                    .zip(&self.world.tunnels)
                    .all(|(t, _)| self.world.quiet(t));
                let unused = self.world.unused(&self.world.nat.entries[usize::from(i)]);
                let entry = self.world.nat.entries.remove(usize::from(i));
                if unused && quiet {
                    self.labels |= label::NAT;
                } else {
                    self.fault();
                }
                self.note(|| {
                    let of = name(entry.outbound.client, EpochId(entry.outbound.epoch));
                    Note::mark(Lane::Nat, &format!("entry {of} expires"))
                });
            }
        }
        Some(())
    }

    /// Time passes to the next deadline, and all that is due then is done.
    fn tick(&mut self) -> Option<()> {
        let quiet = (0u8..)
            .zip(&self.world.tunnels)
            .all(|(t, _)| self.world.quiet(t));
        if !quiet {
            // The path is slower than a wait.
            self.fault();
        }
        self.labels |= label::TICK;
        let now = self.world.deadline()?.max(self.world.now);
        self.world.now = now;
        self.note(|| Note::time(now));
        for t in indices(&self.world.tunnels) {
            for side in [Side::Client, Side::Server] {
                let gate = &self.world.host(t, side).gate;
                if gate.poll_timeout().is_some_and(|at| at <= now) {
                    self.gate(t, side, |gate, now, rng| gate.handle_timeout(now, rng));
                }
            }
        }
        Some(())
    }

    fn app(&mut self, t: u8, side: Side) {
        if !self.world.quiet(t) {
            self.fault();
        }
        if t == 0 {
            self.labels |= match side {
                Side::Client => label::APP_UP,
                Side::Server => label::APP_DOWN,
            };
        }
        let Some(epoch) = self.world.host(t, side).data_on else {
            self.note(|| Note::mark(Lane::of(t, side), "data waits"));
            return;
        };
        match self.world.host(t, side).record(epoch) {
            None => self.broken |= broken::I2,
            Some(record) if self.config.rule != Rule::Off => {
                let by_data = side == Side::Server && record.data;
                if !record.answered && !by_data {
                    self.broken |= broken::I1;
                    self.note(|| Note::mark(Lane::of(t, side), "I1 BROKEN: data, unproven"));
                }
            }
            Some(_) => {}
        }
        self.send(t, side, epoch, Body::Data);
    }

    fn send(&mut self, tunnel: u8, from: Side, epoch: EpochId, body: Body) {
        let opened = |r: &Record| r.pinged;
        let record = self.world.host(tunnel, from).record(epoch);
        if from == Side::Server && self.config.rule != Rule::Off && !record.is_some_and(opened) {
            self.broken |= broken::G5;
        }
        self.world.flight.push(Packet {
            tunnel,
            from,
            epoch,
            body,
        });
    }

    /// A packet comes to the NAT. `lost`: what passes is lost behind it.
    fn pass(&mut self, packet: &Packet, lost: bool) {
        let t = packet.tunnel;
        let spi = Name {
            client: t,
            epoch: packet.epoch.0,
        };
        let before = self.world.nat.blocker();
        let to: Vec<u8> = match packet.from {
            Side::Client => self
                .world
                .nat
                .outbound(spi)
                .then_some(t)
                .into_iter()
                .collect(),
            Side::Server => self.world.nat.inbound(spi),
        };
        let after = self.world.nat.blocker();
        // A repetition on the entry starts its time anew, too.
        let used = packet.from == Side::Client
            && !to.is_empty()
            && after.is_some_and(|e| e.outbound == spi);
        if before.map(|e| e.outbound) != after.map(|e| e.outbound) || used {
            self.labels |= label::NAT;
        }
        let arrives = to.contains(&t)
            && self
                .world
                .host(t, packet.from.peer())
                .record(packet.epoch)
                .is_some();
        self.note(|| {
            let fate = match (lost, to.as_slice()) {
                (_, []) => "the NAT drops it",
                (true, _) => "lost behind the NAT",
                (false, _) if arrives => "",
                (false, to) if to.contains(&t) => "no such SA there",
                (false, _) => "to the WRONG client",
            };
            let to = if lost { None } else { to.first().copied() };
            Note::packet(packet, to, fate)
        });
        self.note_nat(before, after, packet);
        if arrives && !lost {
            self.arrive(packet);
        } else if !lost && packet.body == Body::Data && self.hole(packet) {
            self.broken |= broken::HOLE;
            self.note(|| Note::mark(Lane::Nat, "HOLE: the older epoch would have done"));
        }
    }

    fn note_nat(&mut self, before: Option<Entry>, after: Option<Entry>, packet: &Packet) {
        if self.notes.is_none() || before == after {
            return;
        }
        let of = |n: Name| name(n.client, EpochId(n.epoch));
        let text = match (before, after) {
            (_, Some(entry)) => match entry.state {
                State::Pending { blocking: None } => format!("{} is pending", of(entry.outbound)),
                State::Pending { blocking: Some(n) } => {
                    format!("{} is pending and blocks ({n} passed)", of(entry.outbound))
                }
                _ => format!("{} is squelched", of(entry.outbound)),
            },
            (Some(entry), None) => {
                let spi = name(packet.tunnel, packet.epoch);
                format!("{} is bound: inbound {spi}", of(entry.outbound))
            }
            (None, None) => return,
        };
        self.note(|| Note::mark(Lane::Nat, &text));
    }

    /// Whether data that ended at the NAT need not have.
    fn hole(&self, packet: &Packet) -> bool {
        let t = packet.tunnel;
        let sender = self.world.host(t, packet.from);
        let proven = |r: &Record| r.answered || (packet.from == Side::Server && r.data);
        if sender.record(packet.epoch).is_none_or(proven) {
            return false;
        }
        let older = sender
            .book
            .iter()
            .filter(|r| r.epoch < packet.epoch && proven(r));
        let peer = self.world.host(t, packet.from.peer());
        older.filter(|r| peer.record(r.epoch).is_some()).any(|r| {
            let spi = Name {
                client: t,
                epoch: r.epoch.0,
            };
            let mut nat = self.world.nat.clone();
            match packet.from {
                Side::Client => nat.outbound(spi),
                Side::Server => nat.inbound(spi).contains(&t),
            }
        })
    }

    fn arrive(&mut self, packet: &Packet) {
        let (t, to, epoch) = (packet.tunnel, packet.from.peer(), packet.epoch);
        let data = packet.body == Body::Data;
        let echo = match &packet.body {
            Body::Echo(bytes) => Echo::new_checked(bytes).ok(),
            Body::Data => None,
        };
        let mut first = false;
        let host = Arc::make_mut(&mut self.world.tunnels[usize::from(t)].hosts[to as usize]);
        if let Some(record) = host.record_mut(epoch) {
            first = !record.any || (data && !record.data);
            record.any = true;
            record.data |= data;
            match echo.map(|e| e.kind) {
                Some(Kind::Request { .. }) => record.pinged = true,
                Some(Kind::Response) => record.answered = true,
                None => {}
            }
        }
        if data && t == 0 {
            self.labels |= match to {
                Side::Server => label::UP,
                Side::Client => label::DOWN,
            };
        }
        if first {
            self.gate(t, to, |gate, now, rng| {
                gate.handle(now, Input::FirstInbound { epoch, data }, rng);
            });
        }
        if let Some(echo) = echo {
            self.gate(t, to, |gate, now, rng| {
                gate.handle(now, Input::Echo { epoch, echo }, rng);
            });
        }
    }

    fn request(&mut self, t: u8, i: usize) {
        self.labels |= label::ARRIVE << t;
        if self.config.guess {
            self.world.nat.ike[usize::from(t)] = true;
        }
        let tunnel = &mut self.world.tunnels[usize::from(t)];
        tunnel.last_epoch += 1;
        let epoch = EpochId(tunnel.last_epoch);
        tunnel.exchanges[i].made = Some(epoch);
        let replaces = tunnel.exchanges[i].replaces;
        self.note(|| {
            let what = match replaces {
                Some(old) => format!("IKE: {} instead of {}", name(t, epoch), name(t, old)),
                None => format!("IKE: new session, {}", name(t, epoch)),
            };
            Note::ike(t, Side::Client, &what)
        });
        self.install(t, Side::Server, epoch, replaces);
    }

    fn response(&mut self, t: u8, i: usize) {
        self.labels |= label::ARRIVE << t;
        let exchange = self.world.tunnels[usize::from(t)].exchanges.remove(i);
        if let Some(epoch) = exchange.made {
            self.note(|| Note::ike(t, Side::Server, &format!("IKE: {} agreed", name(t, epoch))));
            self.install(t, Side::Client, epoch, exchange.replaces);
            if exchange.gone {
                self.deleted(t, Side::Client, epoch, true);
            }
        }
    }

    fn install(&mut self, t: u8, side: Side, epoch: EpochId, replaces: Option<EpochId>) {
        let host = Arc::make_mut(&mut self.world.tunnels[usize::from(t)].hosts[side as usize]);
        host.install(epoch);
        let spi = |way: u32| {
            let number = u32::try_from(epoch.0).unwrap_or(u32::MAX >> 2);
            Spi::new(0x0100_0000 | number << 1 | way).unwrap_or_else(|| unreachable!())
        };
        let (spi_in, spi_out) = match side {
            Side::Client => (spi(0), spi(1)),
            Side::Server => (spi(1), spi(0)),
        };
        let installed = Installed {
            epoch,
            spi_in,
            spi_out,
            peer_echo: self.config.rule != Rule::Off,
            initiated: side == Side::Client,
            icmp: None,
            keyed_by_spi: self.config.rule != Rule::Off,
            replaces: replaces.filter(|old| host.record(*old).is_some()),
            redundant: false,
        };
        self.gate(t, side, |gate, now, rng| {
            gate.handle(now, Input::Installed(installed), rng);
        });
    }

    /// A Delete and its answer, at once: what was on its way on that epoch finds nothing.
    fn delete(&mut self, t: u8, by: Side, epoch: EpochId) {
        self.note(|| Note::ike(t, by, &format!("IKE: delete {}", name(t, epoch))));
        let exchanges = &mut self.world.tunnels[usize::from(t)].exchanges;
        if let Some(exchange) = exchanges.iter_mut().find(|e| e.made == Some(epoch)) {
            exchange.gone = true;
        }
        self.deleted(t, by.peer(), epoch, true);
        self.deleted(t, by, epoch, false);
    }

    fn deleted(&mut self, t: u8, side: Side, epoch: EpochId, by_peer: bool) {
        self.gate(t, side, |gate, now, rng| {
            gate.handle(now, Input::Deleted { epoch, by_peer }, rng);
        });
    }

    /// Lets a gate do something, and does what it wants.
    fn gate(&mut self, t: u8, side: Side, act: impl FnOnce(&mut Gate, Duration, &mut Numbers)) {
        let now = self.world.now;
        let at = usize::from(t);
        let mut rng = Numbers(u16::try_from(self.world.tunnels[at].last_epoch).unwrap_or(0));
        let host = Arc::make_mut(&mut self.world.tunnels[at].hosts[side as usize]);
        act(&mut host.gate, now, &mut rng);
        loop {
            let host = Arc::make_mut(&mut self.world.tunnels[at].hosts[side as usize]);
            let Some(output) = host.gate.poll_output() else {
                if !host.within_limits() {
                    self.broken |= broken::I6;
                }
                return;
            };
            match output {
                Output::SendEcho { epoch, payload } => {
                    let answer =
                        Echo::new_checked(&payload).is_ok_and(|e| e.kind == Kind::Response);
                    let unproven = host.data_on.is_none_or(|on| on < epoch);
                    let cut = self.config.rule == Rule::OneRoundTrip && side == Side::Server;
                    if cut && answer && unproven {
                        host.data_on = Some(epoch);
                        self.note(|| {
                            Note::mark(Lane::Server, &format!("data moves to {}", name(t, epoch)))
                        });
                    }
                    self.send(t, side, epoch, Body::Echo(payload));
                }
                Output::Activate(proven) => {
                    host.data_on = Some(proven.epoch());
                    self.note(|| {
                        let on = name(t, proven.epoch());
                        Note::mark(
                            Lane::of(t, side),
                            &format!("{on} carries data: {}", proven.proof()),
                        )
                    });
                }
                Output::Hold { epoch } => {
                    if host.data_on == Some(epoch) {
                        host.data_on = None;
                    }
                    self.note(|| Note::mark(Lane::of(t, side), "data waits: lost"));
                }
                Output::Retire { epoch } => host.retire(epoch),
                Output::Delete { epoch } => self.delete(t, side, epoch),
                Output::Rekey { replaces, .. } => {
                    let can = host.record(replaces).is_some();
                    let exchanges = &mut self.world.tunnels[at].exchanges;
                    if can && exchanges.iter().all(|e| e.replaces.is_none()) {
                        exchanges.push(Exchange {
                            replaces: Some(replaces),
                            made: None,
                            gone: false,
                        });
                    } else {
                        host_of(&mut self.world, at, side).gate.handle(
                            now,
                            Input::RekeyFailed,
                            &mut rng,
                        );
                    }
                }
                Output::NewIkeSession { .. } => {
                    let exchanges = &mut self.world.tunnels[at].exchanges;
                    if side == Side::Client && exchanges.iter().all(|e| e.replaces.is_some()) {
                        exchanges.push(Exchange {
                            replaces: None,
                            made: None,
                            gone: false,
                        });
                    }
                }
                // A peer that knows ESP Echo is not asked by ICMP.
                Output::Event(_) | Output::SendIcmp { .. } => {}
            }
        }
    }
}

fn host_of(world: &mut World, at: usize, side: Side) -> &mut Host {
    Arc::make_mut(&mut world.tunnels[at].hosts[side as usize])
}

/// What people call an epoch.
pub(crate) fn name(tunnel: u8, epoch: EpochId) -> String {
    format!("{}{}", char::from(b'A' + tunnel), epoch.0)
}
