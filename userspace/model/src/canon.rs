//! When two states are one: nothing that can follow tells them apart.
//!
//! Left out or evened out are what makes states of equal futures differ: the time itself, numbers of epochs
//! and of pings (only their order counts, and which pings are still answerable), counters, and the order of
//! what has none. `explore` tests on the way that states which are taken for one do have equal futures.

use core::hash::{Hash, Hasher};
use std::hash::DefaultHasher;

use mitregate_esp::ids::EpochId;
use mitregate_gate::Snapshot;
use mitregate_wire::echo::{Echo, Kind};

use crate::host::Host;
use crate::nat::{Name, State};
use crate::world::{Body, Packet, Side, World};

/// A state's name, the same for states that are one.
#[must_use]
pub fn fingerprint(world: &World) -> u64 {
    let ranks: Vec<Ranks> = (0u8..)
        .zip(&world.tunnels)
        .map(|(t, _)| Ranks::of(world, t))
        .collect();
    let mut h = DefaultHasher::new();
    (world.faults, world.crashes).hash(&mut h);
    let mut flight: Vec<_> = world
        .flight
        .iter()
        .map(|p| ranks[usize::from(p.tunnel)].packet(p))
        .collect();
    // Of one tunnel and direction in their order.
    flight.sort_by_key(|(tunnel, from, ..)| (*tunnel, *from));
    flight.hash(&mut h);
    for ((t, tunnel), ranks) in (0u8..).zip(&world.tunnels).zip(&ranks) {
        tunnel.rekeys.hash(&mut h);
        let exchanges = tunnel.exchanges.iter();
        let mut exchanges: Vec<_> = exchanges
            .map(|e| {
                let (replaces, made) = (e.replaces, e.made);
                let rank = |epoch: EpochId| ranks.epoch(epoch);
                (replaces.map(rank), made.map(rank), e.gone)
            })
            .collect();
        exchanges.sort_unstable();
        exchanges.hash(&mut h);
        for side in [Side::Client, Side::Server] {
            ranks.host(world.host(t, side), side, world.now, &mut h);
        }
    }
    world.nat.ike.hash(&mut h);
    let of = |n: Name| {
        (
            n.client,
            ranks[usize::from(n.client)].epoch(EpochId(n.epoch)),
        )
    };
    let mut entries: Vec<_> = world
        .nat
        .entries
        .iter()
        .map(|entry| match entry.state {
            State::Pending { blocking: None } => (of(entry.outbound), 0, 0, (0, 0)),
            State::Pending { blocking: Some(n) } => (of(entry.outbound), 1, n, (0, 0)),
            State::Squelched => (of(entry.outbound), 2, 0, (0, 0)),
            State::Bound { inbound } => (of(entry.outbound), 3, 0, of(inbound)),
        })
        .collect();
    entries.sort_unstable();
    entries.hash(&mut h);
    h.finish()
}

/// A ping, by who asked on which epoch with which number.
type Ping = (Side, EpochId, u16);

/// The order of one tunnel's numbers.
struct Ranks {
    epochs: Vec<EpochId>,
    /// Those under way.
    pings: Vec<Ping>,
}

/// For what is named but no longer there.
const GONE: u8 = u8::MAX;

impl Ranks {
    fn of(world: &World, t: u8) -> Self {
        let tunnel = &world.tunnels[usize::from(t)];
        let mut epochs: Vec<EpochId> = Vec::with_capacity(8);
        for host in &tunnel.hosts {
            epochs.extend(host.book.iter().map(|r| r.epoch));
        }
        epochs.extend(tunnel.exchanges.iter().filter_map(|e| e.made));
        for entry in &world.nat.entries {
            let inbound = match entry.state {
                State::Bound { inbound } => Some(inbound),
                _ => None,
            };
            let names = [Some(entry.outbound), inbound];
            let names = names.into_iter().flatten().filter(|n| n.client == t);
            epochs.extend(names.map(|n| EpochId(n.epoch)));
        }
        let mut pings = Vec::new();
        for packet in world.flight.iter().filter(|p| p.tunnel == t) {
            epochs.push(packet.epoch);
            pings.extend(ping(packet));
        }
        epochs.sort_unstable();
        epochs.dedup();
        pings.sort_unstable();
        pings.dedup();
        Self { epochs, pings }
    }

    fn epoch(&self, epoch: EpochId) -> u8 {
        let at = self.epochs.binary_search(&epoch);
        at.ok().and_then(|at| u8::try_from(at).ok()).unwrap_or(GONE)
    }

    /// Among the pings of the same side and epoch that are under way; nothing else can be answered.
    fn ping(&self, (side, epoch, seq): Ping) -> Option<u8> {
        let like = self
            .pings
            .iter()
            .filter(|(s, e, _)| (*s, *e) == (side, epoch));
        (0u8..)
            .zip(like)
            .find(|(_, (_, _, n))| *n == seq)
            .map(|(rank, _)| rank)
    }

    fn packet(&self, packet: &Packet) -> (u8, Side, u8, u8, Option<u8>) {
        let kind = match &packet.body {
            Body::Data => 0,
            Body::Echo(bytes) => match Echo::new_checked(bytes).map(|e| e.kind) {
                Ok(Kind::Response) => 1,
                _ => 2,
            },
        };
        let rank = ping(packet).and_then(|ping| self.ping(ping));
        (
            packet.tunnel,
            packet.from,
            self.epoch(packet.epoch),
            kind,
            rank,
        )
    }

    fn host(&self, host: &Host, side: Side, now: core::time::Duration, h: &mut DefaultHasher) {
        host.data_on.map(|e| self.epoch(e)).hash(h);
        for r in &host.book {
            (self.epoch(r.epoch), r.any, r.data, r.pinged, r.answered).hash(h);
        }
        let Snapshot {
            role,
            active,
            epochs,
            withheld,
            peer_mute,
            peer_answers,
            escalation,
        } = host.gate.snapshot(now);
        (role, active.map(|e| self.epoch(e)), epochs.len()).hash(h);
        (withheld, peer_mute, peer_answers).hash(h);
        (
            escalation.step(),
            escalation.replaces().map(|e| self.epoch(e)),
        )
            .hash(h);
        (escalation.due_in, escalation.requests, escalation.unproven).hash(h);
        (escalation.unanswered, escalation.forgotten).hash(h);
        for mut epoch in epochs {
            let (id, replaces) = (epoch.id, epoch.replaces.map(|e| self.epoch(e)));
            let mut answerable: Vec<u8> = epoch
                .outstanding
                .drain(..)
                .filter_map(|seq| self.ping((side, id, seq)))
                .collect();
            answerable.sort_unstable();
            (self.epoch(id), replaces, answerable).hash(h);
            epoch.id = EpochId(0);
            epoch.replaces = None;
            epoch.ping_id = 0;
            epoch.hash(h);
        }
    }
}

fn ping(packet: &Packet) -> Option<Ping> {
    let Body::Echo(bytes) = &packet.body else {
        return None;
    };
    let echo = Echo::new_checked(bytes).ok()?;
    let asked = match echo.kind {
        Kind::Request { .. } => packet.from,
        Kind::Response => packet.from.peer(),
    };
    Some((asked, packet.epoch, echo.seq))
}
