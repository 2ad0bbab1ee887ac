//! The table of whatever has ports, an ICMP identifier, or neither: what nearly all boxes do, by rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use mitregate_wire::ip::protocol;
use rand_core::Rng;

use super::{Output, Packet, Row, secs};
use crate::draw::port_in;

/// Draws for a free port before the packet is dropped.
const DRAWS: usize = 128;
/// Peers that one endpoint-independent mapping takes answers from; it may send to more.
const PEERS: usize = 256;

/// What a mapping is for (RFC 4787 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// An address and port inside, whomever it talks to. Answers come in from the addresses that it has
    /// sent to, from any port ("address-dependent filtering", §5).
    Endpoint,
    /// An address and port inside and those that it talks to; nobody else's packets come in.
    Flow,
}

/// Which public port a new mapping gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The same if it is free towards the same peer, else one drawn from its class: 1–511, 600–1023,
    /// 1024–65535. What has no port gets in only if no other has the same peer.
    Keep,
    /// Drawn from these, and no other mapping's.
    Draw(RangeInclusive<u16>),
}

/// What a full table does with a packet that needs an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Drops it.
    Drops,
    /// Evicts of the entries that are not assured the one that expires first; with none, drops it.
    EvictsUnassured,
}

/// How long entries live without a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timers {
    /// UDP until an answer was seen.
    pub udp: Duration,
    /// UDP from then on, once the entry is older than [`Self::stream_after`].
    pub udp_stream: Duration,
    /// See above.
    pub stream_after: Duration,
    /// TCP until an answer was seen.
    pub tcp: Duration,
    /// TCP from then on. That a connection ends is not looked at.
    pub tcp_answered: Duration,
    /// Echo and its answer.
    pub icmp: Duration,
    /// Whatever has no ports, by its addresses alone. `None`: it does not pass.
    pub other: Option<Duration>,
}

impl Default for Timers {
    /// 30 and 120 s for UDP, as Linux has them; RFC 5382 REQ-5 for TCP and RFC 5508 REQ-1 for ICMP.
    fn default() -> Self {
        Self {
            udp: secs(30),
            udp_stream: secs(120),
            stream_after: secs(2),
            tcp: secs(4 * 60),
            tcp_answered: secs(124 * 60),
            icmp: secs(60),
            other: None,
        }
    }
}

/// How a box maps ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRules {
    /// What one mapping is for.
    pub mapping: Mapping,
    /// Which port it gets.
    pub choice: Choice,
    /// How long it lives.
    pub timers: Timers,
    /// Packets from the outside refresh it too (RFC 4787 §4.3 leaves that open).
    pub refreshed_from_outside: bool,
    /// Nothing filters what nobody has asked for: it is for the box itself, which answers nothing, but it makes
    /// an entry, and that keeps out whoever inside wants to send to the same peer from the same port. A
    /// [`Mapping::Flow`]'s only.
    pub takes_unasked: bool,
    /// Entries at most.
    pub max_entries: usize,
    /// What then.
    pub full: Full,
}

/// Protocol, inside, and outside unless that does not matter.
type Key = (u8, SocketAddr, Option<SocketAddr>);

struct Entry {
    /// As it leaves on the outside.
    mapped: SocketAddr,
    created: Duration,
    expires: Duration,
    replied: bool,
    assured: bool,
    /// Of [`Mapping::Endpoint`]: those it has sent to.
    peers: BTreeSet<IpAddr>,
}

/// See the [module](self).
pub(super) struct Ports {
    public: Option<IpAddr>,
    rules: PortRules,
    /// Drawn from these since the last remap.
    moved: Option<RangeInclusive<u16>>,
    entries: BTreeMap<Key, Entry>,
    /// From protocol, mapped address, and outside unless that does not matter, to the key.
    answers: BTreeMap<Key, Key>,
}

impl Ports {
    /// Without a public address nothing is translated.
    pub(super) fn new(public: Option<IpAddr>, rules: PortRules) -> Self {
        Self {
            public,
            rules,
            moved: None,
            entries: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    pub(super) fn remap(&mut self, public: Option<IpAddr>, ports: Option<RangeInclusive<u16>>) {
        self.public = public;
        self.moved = ports.or(self.moved.take());
        self.clear();
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.answers.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn key(&self, protocol: u8, near: SocketAddr, far: SocketAddr) -> Key {
        let far = (self.rules.mapping == Mapping::Flow).then_some(far);
        (protocol, near, far)
    }

    fn remove(&mut self, key: Key) {
        if let Some(entry) = self.entries.remove(&key) {
            self.answers.remove(&(key.0, entry.mapped, key.2));
        }
    }

    /// The entry, if it has not expired; else it goes.
    fn live(&mut self, now: Duration, key: Key) -> Option<&mut Entry> {
        if self.entries.get(&key)?.expires <= now {
            self.remove(key);
        }
        self.entries.get_mut(&key)
    }

    fn answer(
        &mut self,
        now: Duration,
        protocol: u8,
        mapped: SocketAddr,
        far: SocketAddr,
    ) -> Option<Key> {
        let answer = self.key(protocol, mapped, far);
        let key = self.answers.get(&answer).copied()?;
        let by_flow = self.rules.mapping == Mapping::Flow;
        let entry = self.live(now, key)?;
        (by_flow || entry.peers.contains(&far.ip())).then_some(key)
    }

    /// Whose packet to `far` left as `mapped`.
    pub(super) fn asked(
        &mut self,
        now: Duration,
        protocol: u8,
        mapped: SocketAddr,
        far: SocketAddr,
    ) -> Option<SocketAddr> {
        self.answer(now, protocol, mapped, far).map(|key| key.1)
    }

    /// What `near` is known by to `far`.
    pub(super) fn mapped(
        &mut self,
        now: Duration,
        protocol: u8,
        near: SocketAddr,
        far: SocketAddr,
    ) -> Option<SocketAddr> {
        let key = self.key(protocol, near, far);
        self.live(now, key).map(|entry| entry.mapped)
    }

    /// Whether no other mapping answers to it; with `alone` not towards any other peer either.
    fn is_free(&mut self, now: Duration, answer: Key, alone: bool) -> bool {
        let (protocol, mapped, far) = answer;
        let first = (protocol, mapped, if alone { None } else { far });
        let owners: Vec<Key> = self
            .answers
            .range(first..)
            .take_while(|(key, _)| match alone {
                true => (key.0, key.1) == (protocol, mapped),
                false => **key == answer,
            })
            .map(|(_, owner)| *owner)
            .collect();
        owners.into_iter().all(|key| self.live(now, key).is_none())
    }

    fn choose(&mut self, now: Duration, key: Key, rng: &mut dyn Rng) -> Option<SocketAddr> {
        let (protocol, src, far) = key;
        let Some(public) = self.public else {
            return Some(src);
        };
        let at = |port| SocketAddr::new(public, port);
        let ported = matches!(
            protocol,
            protocol::UDP | protocol::TCP | protocol::ICMP | protocol::ICMPV6
        );
        if !ported {
            return self
                .is_free(now, (protocol, at(0), far), false)
                .then_some(at(0));
        }
        if src.port() == 0 && protocol != protocol::ICMP && protocol != protocol::ICMPV6 {
            return None;
        }
        let (keeps, alone, range) = match (&self.moved, &self.rules.choice) {
            (Some(range), choice) => {
                let alone = matches!(choice, Choice::Draw(_));
                (range.contains(&src.port()) && !alone, alone, range.clone())
            }
            (None, Choice::Keep) => (true, false, class(src.port())),
            (None, Choice::Draw(range)) => (false, true, range.clone()),
        };
        if keeps && self.is_free(now, (protocol, at(src.port()), far), alone) {
            return Some(at(src.port()));
        }
        (0..DRAWS).find_map(|_| {
            let drawn = at(port_in(rng, &range));
            self.is_free(now, (protocol, drawn, far), alone)
                .then_some(drawn)
        })
    }

    fn make_room(&mut self, now: Duration) -> bool {
        if self.entries.len() < self.rules.max_entries {
            return true;
        }
        let evicts = self.rules.full == Full::EvictsUnassured;
        let victims = self
            .entries
            .iter()
            .filter(|(_, e)| e.expires <= now || evicts && !e.assured);
        match victims
            .min_by_key(|(key, e)| (e.expires, **key))
            .map(|(key, _)| *key)
        {
            Some(key) => {
                self.remove(key);
                true
            }
            None => false,
        }
    }

    fn insert(&mut self, now: Duration, key: Key, mapped: SocketAddr) {
        self.answers.insert((key.0, mapped, key.2), key);
        let entry = Entry {
            mapped,
            created: now,
            expires: now,
            replied: false,
            assured: false,
            peers: BTreeSet::new(),
        };
        self.entries.insert(key, entry);
    }

    pub(super) fn outbound(
        &mut self,
        now: Duration,
        mut packet: Packet,
        rng: &mut dyn Rng,
        out: &mut Output,
    ) {
        let (protocol, near, far) = (packet.protocol(), packet.src(), packet.dst());
        let key = self.key(protocol, near, far);
        if self
            .rules
            .timers
            .of(protocol, false, Duration::ZERO)
            .is_none()
        {
            return;
        }
        if self.live(now, key).is_none() {
            let Some(mapped) = self.choose(now, key, rng) else {
                return;
            };
            if !self.make_room(now) {
                return;
            }
            self.insert(now, key, mapped);
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if key.2.is_none() && entry.peers.len() < PEERS {
            entry.peers.insert(far.ip());
        }
        entry.refresh(now, protocol, &self.rules.timers);
        packet.set_src(entry.mapped);
        out.outside.push(packet);
    }

    pub(super) fn inbound(&mut self, now: Duration, mut packet: Packet, out: &mut Output) {
        let (protocol, far, mapped) = (packet.protocol(), packet.src(), packet.dst());
        let Some(key) = self.answer(now, protocol, mapped, far) else {
            return self.unasked(now, protocol, far, mapped);
        };
        // Inside is the box itself.
        let ours = Some(key.1.ip()) == self.public;
        let refreshes = self.rules.refreshed_from_outside;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.replied |= !ours;
            if refreshes {
                entry.refresh(now, protocol, &self.rules.timers);
            }
        }
        if !ours {
            packet.set_dst(key.1);
            out.inside.push(packet);
        }
    }

    fn unasked(&mut self, now: Duration, protocol: u8, far: SocketAddr, mapped: SocketAddr) {
        let takes = self.rules.takes_unasked && self.rules.mapping == Mapping::Flow;
        if takes && self.public == Some(mapped.ip()) && self.make_room(now) {
            let key = self.key(protocol, mapped, far);
            self.insert(now, key, mapped);
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.refresh(now, protocol, &self.rules.timers);
            }
        }
    }

    pub(super) fn show(&self, now: Duration, rows: &mut Vec<Row>) {
        let live = self.entries.iter().filter(|(_, e)| e.expires > now);
        rows.extend(live.map(|((protocol, near, far), entry)| {
            let what = match (entry.replied, entry.assured) {
                (_, true) => "assured",
                (true, false) => "answered",
                (false, false) => "unanswered",
            };
            Row {
                protocol: Row::protocol(*protocol),
                inside: end(*near),
                public: end(entry.mapped),
                outside: far.map_or_else(|| "any".to_owned(), end),
                keys: String::new(),
                state: Row::state(what, entry.expires - now),
            }
        }));
    }
}

impl Entry {
    fn refresh(&mut self, now: Duration, protocol: u8, timers: &Timers) {
        let age = now.saturating_sub(self.created);
        let is_stream = match protocol {
            protocol::UDP => age >= timers.stream_after,
            protocol::TCP => true,
            _ => false,
        };
        self.assured |= self.replied && is_stream;
        if let Some(timeout) = timers.of(protocol, self.replied, age) {
            self.expires = now + timeout;
        }
    }
}

impl Timers {
    /// Of an entry of this age.
    fn of(&self, protocol: u8, replied: bool, age: Duration) -> Option<Duration> {
        Some(match protocol {
            protocol::UDP if replied && age >= self.stream_after => self.udp_stream,
            protocol::UDP => self.udp,
            protocol::TCP if replied => self.tcp_answered,
            protocol::TCP => self.tcp,
            protocol::ICMP | protocol::ICMPV6 => self.icmp,
            _ => return self.other,
        })
    }
}

/// Ports like this one.
fn class(port: u16) -> RangeInclusive<u16> {
    match port {
        ..512 => 1..=511,
        512..1024 => 600..=1023,
        _ => 1024..=u16::MAX,
    }
}

/// With its port, if it has one.
fn end(end: SocketAddr) -> String {
    match end.port() {
        0 => end.ip().to_string(),
        _ => end.to_string(),
    }
}
