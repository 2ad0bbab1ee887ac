//! Faults that any box may have.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand_core::Rng;

use super::{Middlebox, Output, Packet, Remap, Row};
use crate::draw::{below, chance};

/// Flows whose first packets are counted; when there are more, counting begins anew.
const FLOWS: usize = 4096;

/// What a box does beside its model. The default: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// So many packets that begin a flow are lost, though they make their entries: the way of boxes whose
    /// slow path sets up the fast one. A flow is one direction of a protocol between two ends, or to one SPI.
    pub drop_first: u32,
    /// Per mille of packets that are held back and overtaken.
    pub reorder: u32,
    /// For at most so long.
    pub reorder_by: Duration,
    /// All packets leave so much later.
    pub delay: Duration,
}

/// A direction, protocol, ends and SPI.
type Flow = (bool, u8, SocketAddr, SocketAddr, Option<u32>);

/// A box with faults.
pub struct Faulty {
    inner: Box<dyn Middlebox>,
    /// They may change at any time.
    pub faults: Faults,
    begun: BTreeMap<Flow, u32>,
    /// By when they leave and in which order they came: to the outside or not.
    held: BTreeMap<(Duration, u64), (bool, Packet)>,
    next: u64,
}

impl Faulty {
    /// Without faults for now.
    #[must_use]
    pub fn new(inner: Box<dyn Middlebox>) -> Self {
        Self {
            inner,
            faults: Faults::default(),
            begun: BTreeMap::new(),
            held: BTreeMap::new(),
            next: 0,
        }
    }

    /// Whether this packet is one of the first of its flow, and to be lost.
    fn is_first(&mut self, up: bool, packet: &Packet) -> bool {
        if self.faults.drop_first == 0 {
            self.begun.clear();
            return false;
        }
        let flow = (
            up,
            packet.protocol(),
            packet.src(),
            packet.dst(),
            packet.spi(),
        );
        if self.begun.len() >= FLOWS && !self.begun.contains_key(&flow) {
            self.begun.clear();
        }
        let lost = self.begun.entry(flow).or_default();
        let first = *lost < self.faults.drop_first;
        *lost += u32::from(first);
        first
    }

    fn pass(&mut self, now: Duration, given: Output, rng: &mut dyn Rng, out: &mut Output) {
        let outside = given.outside.into_iter().map(|packet| (true, packet));
        let inside = given.inside.into_iter().map(|packet| (false, packet));
        for (outside, packet) in outside.chain(inside) {
            let mut at = now + self.faults.delay;
            if chance(rng, self.faults.reorder) {
                at += below(rng, self.faults.reorder_by);
            }
            if at > now {
                self.held.insert((at, self.next), (outside, packet));
                self.next += 1;
            } else {
                release(outside, packet, out);
            }
        }
    }

    fn through(
        &mut self,
        now: Duration,
        up: bool,
        packet: Packet,
        rng: &mut dyn Rng,
        out: &mut Output,
    ) {
        let lost = self.is_first(up, &packet).then_some(packet.id);
        let mut given = Output::default();
        if up {
            self.inner.outbound(now, packet, rng, &mut given);
        } else {
            self.inner.inbound(now, packet, rng, &mut given);
        }
        if lost.is_some() {
            // What others were waiting for leaves all the same.
            given.outside.retain(|packet| Some(packet.id) != lost);
            given.inside.retain(|packet| Some(packet.id) != lost);
        }
        self.pass(now, given, rng, out);
    }
}

fn release(outside: bool, packet: Packet, out: &mut Output) {
    if outside {
        out.outside.push(packet);
    } else {
        out.inside.push(packet);
    }
}

impl Middlebox for Faulty {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn public(&self) -> Option<IpAddr> {
        self.inner.public()
    }

    fn outbound(&mut self, now: Duration, packet: Packet, rng: &mut dyn Rng, out: &mut Output) {
        self.through(now, true, packet, rng, out);
    }

    fn inbound(&mut self, now: Duration, packet: Packet, rng: &mut dyn Rng, out: &mut Output) {
        self.through(now, false, packet, rng, out);
    }

    fn poll_timeout(&self) -> Option<Duration> {
        let held = self.held.keys().next().map(|(at, _)| *at);
        held.into_iter().chain(self.inner.poll_timeout()).min()
    }

    fn handle_timeout(&mut self, now: Duration, rng: &mut dyn Rng, out: &mut Output) {
        while let Some(first) = self.held.first_entry()
            && first.key().0 <= now
        {
            let (outside, packet) = first.remove();
            release(outside, packet, out);
        }
        let mut given = Output::default();
        self.inner.handle_timeout(now, rng, &mut given);
        self.pass(now, given, rng, out);
    }

    fn crash(&mut self) {
        self.inner.crash();
        self.begun.clear();
        self.held.clear();
    }

    fn remap(&mut self, remap: &Remap) {
        self.inner.remap(remap);
        self.begun.clear();
    }

    fn entries(&self) -> usize {
        self.inner.entries()
    }

    fn show(&self, now: Duration) -> Vec<Row> {
        self.inner.show(now)
    }
}
