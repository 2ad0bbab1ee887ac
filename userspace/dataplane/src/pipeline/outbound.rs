//! From the inner port: check, look up, hold or seal, and on to the outer port.

use std::{ops::Range, time::Duration};

use mitregate_esp::{SealError, sealed_len};
use mitregate_wire::{
    eth::{self, EtherType},
    icmp::{self, Problem},
    ip::{self, Flow, protocol},
};
use mitregate_xsk::Frame;

use super::{Hop, ICMP_INTERVAL, Pipeline, Tick, inbound::checked_ip, write_link};
use crate::{
    event::Event,
    fate::Fate,
    frames::Side,
    outer::{Carried, Template},
    tables::Epoch,
};

/// An inner packet, and what the rest of its way needs to know of it.
struct Outgoing {
    /// Places in the chunk; trailing Ethernet padding is left out.
    packet: Range<usize>,
    next_header: u8,
    carried: Carried,
    flow: Flow,
}

/// Reads a frame of the inner port.
#[inline]
fn parse(bytes: &[u8], offset: usize, ip_id: u16) -> Result<Outgoing, Fate> {
    let frame = eth::Frame::new_checked(bytes).map_err(|_| Fate::BadHeader)?;
    let packet = checked_ip(frame.ether_type(), frame.payload(), Fate::BadHeader)?;
    let (next_header, dont_fragment) = match &packet {
        ip::Packet::V4(packet) => (protocol::IPV4, packet.dont_fragment()),
        ip::Packet::V6(_) => (protocol::IPV6, true),
    };
    let start = offset + frame.header_len();
    let traffic_class = packet.traffic_class();
    Ok(Outgoing {
        packet: start..start + packet.total_len(),
        next_header,
        carried: Carried {
            traffic_class,
            dont_fragment,
            id: ip_id,
        },
        flow: packet.flow(),
    })
}

/// The largest inner packet whose ESP packet is not above `max_esp` bytes.
fn max_inner(max_esp: usize) -> usize {
    let whole_words = max_esp.saturating_sub(sealed_len(0)) & !3;
    // sealed_len(0) has two bytes of trailer and two of padding.
    whole_words + 2
}

/// Seals `chunk[inner]` and puts the outer header before it; returns where the frame lies.
#[inline]
fn seal(
    epoch: &mut Epoch,
    chunk: &mut [u8],
    inner: Range<usize>,
    next_header: u8,
    carried: Carried,
) -> Result<Range<usize>, Fate> {
    let template = epoch.template.as_ref().ok_or(Fate::NoNeighbour)?;
    if sealed_len(inner.len()) > template.max_esp() {
        return Err(Fate::TooBig);
    }
    let esp = epoch
        .outbound
        .seal(chunk, inner, next_header, 0)
        .map_err(|error| match error {
            SealError::NoRoom => Fate::NoRoom,
            SealError::SeqExhausted => Fate::SeqCycled,
        })?;
    let end = esp.end;
    let start = template.write(chunk, esp, carried).ok_or(Fate::NoRoom)?;
    Ok(start..end)
}

impl Pipeline {
    /// Takes a burst from the inner port; `frames` is empty afterwards.
    pub fn inner_batch(&mut self, now: Duration, frames: &mut Vec<Frame>) {
        let tick = Tick::new(now);
        for frame in frames.drain(..) {
            self.forward(tick, frame);
        }
    }

    #[inline]
    fn forward(&mut self, tick: Tick, mut frame: Frame) {
        self.ip_id = self.ip_id.wrapping_add(1);
        let bytes = self.frames.umem(Side::Inner).bytes(&frame);
        let outgoing = match parse(bytes, frame.range().start, self.ip_id) {
            Ok(outgoing) => outgoing,
            Err(fate) => return self.end(frame, fate),
        };
        let Some(tunnel_slot) = self.tables.by_flow(&outgoing.flow) else {
            return self.end(frame, Fate::NoTunnel);
        };
        if self.config.inner.hop == Hop::Forward {
            let chunk = self.frames.umem(Side::Inner).chunk_mut(&mut frame);
            let packet = chunk.get_mut(outgoing.packet.clone()).unwrap_or_default();
            if ip::decrement_hop_limit(packet).unwrap_or(0) == 0 {
                self.report(tick, &frame, &outgoing, Problem::HopLimit);
                return self.end(frame, Fate::TtlExpired);
            }
        }
        match self
            .tables
            .tunnel_mut(tunnel_slot)
            .and_then(|tunnel| tunnel.active)
        {
            Some(slot)
                if self
                    .tables
                    .epoch_mut(slot)
                    .is_some_and(|e| e.template.is_some()) =>
            {
                match self.seal_data(tick, &mut frame, &outgoing, slot) {
                    Ok(()) => self.send_data(frame, Side::Outer),
                    Err(fate) => self.end(frame, fate),
                }
            }
            _ => self.hold(tunnel_slot, frame),
        }
    }

    #[inline]
    fn seal_data(
        &mut self,
        tick: Tick,
        frame: &mut Frame,
        outgoing: &Outgoing,
        epoch_slot: u32,
    ) -> Result<(), Fate> {
        let epoch = self.tables.epoch_mut(epoch_slot).ok_or(Fate::NoEpoch)?;
        if epoch.narrowed && !epoch.selectors.allow_outbound(&outgoing.flow) {
            return Err(Fate::SelectorMismatch);
        }
        let chunk = self.frames.umem(Side::Inner).chunk_mut(frame);
        let (inner, bytes) = (outgoing.packet.clone(), outgoing.packet.len() as u64);
        match seal(epoch, chunk, inner, outgoing.next_header, outgoing.carried) {
            Ok(range) => frame.set_range(range),
            Err(fate) => {
                if fate == Fate::TooBig && outgoing.carried.dont_fragment {
                    let max_esp = epoch.template.as_ref().map_or(0, Template::max_esp);
                    let mtu = u32::try_from(max_inner(max_esp)).unwrap_or(u32::MAX);
                    self.report(tick, frame, outgoing, Problem::TooBig { mtu });
                }
                return Err(fate);
            }
        }
        let counters = &epoch.counters;
        counters.packets_out.add(1);
        counters.bytes_out.add(bytes);
        counters.last_out_ns.set(tick.ns);
        if epoch.soft.is_passed(counters) && !epoch.soft_told {
            let event = Event::SoftLimit {
                tunnel: epoch.tunnel,
                epoch: epoch.id,
            };
            epoch.soft_told = self.events.offer(event);
        }
        Ok(())
    }

    /// Keeps a packet until its tunnel has an active epoch. The oldest gives way.
    fn hold(&mut self, tunnel_slot: u32, frame: Frame) {
        let Some(tunnel) = self.tables.tunnel_mut(tunnel_slot) else {
            return self.end(frame, Fate::NoTunnel);
        };
        if !tunnel.waiting_told {
            tunnel.waiting_told = self.events.offer(Event::DataWaiting { tunnel: tunnel.id });
        }
        let full = tunnel.held.len() >= tunnel.hold_limit || self.held >= self.config.max_held;
        let mut loser = None;
        let mut newest = Some(frame);
        if full {
            loser = tunnel.held.pop_front();
            if loser.is_none() {
                // This tunnel has nothing to give: all room is taken by others, or it has none.
                loser = newest.take();
            }
        } else {
            self.held += 1;
        }
        if let Some(frame) = newest {
            tunnel.held.push_back(frame);
        }
        if let Some(frame) = loser {
            self.end(frame, Fate::HoldOverflow);
        }
    }

    /// Sends what the tunnel held, oldest first, if its active epoch can send.
    pub(super) fn flush_held(&mut self, tick: Tick, tunnel_slot: u32) {
        let Some(slot) = self.tables.tunnel_mut(tunnel_slot).and_then(|t| t.active) else {
            return;
        };
        if self
            .tables
            .epoch_mut(slot)
            .is_none_or(|epoch| epoch.template.is_none())
        {
            return;
        }
        while let Some(mut frame) = self
            .tables
            .tunnel_mut(tunnel_slot)
            .and_then(|tunnel| tunnel.held.pop_front())
        {
            self.held -= 1;
            self.ip_id = self.ip_id.wrapping_add(1);
            let bytes = self.frames.umem(Side::Inner).bytes(&frame);
            let sealed = parse(bytes, frame.range().start, self.ip_id)
                .and_then(|outgoing| self.seal_data(tick, &mut frame, &outgoing, slot));
            if let Err(fate) = sealed {
                self.end(frame, fate);
                continue;
            }
            let Some(frame) = self.frames.cross(frame, Side::Outer) else {
                self.fates.count(Fate::NoFrames);
                continue;
            };
            if let Err(frame) = self.outer_tx.push_held(frame) {
                self.end(frame, Fate::TxFull);
            }
        }
    }

    /// Ends all that the tunnel holds.
    pub(super) fn drop_held(&mut self, tunnel_slot: u32) {
        while let Some(frame) = self
            .tables
            .tunnel_mut(tunnel_slot)
            .and_then(|tunnel| tunnel.held.pop_front())
        {
            self.held -= 1;
            self.end(frame, Fate::HoldDropped);
        }
    }

    /// Sends a control payload through an epoch's outbound SA.
    pub(super) fn send_inner(&mut self, epoch_slot: u32, next_header: u8, payload: &[u8]) {
        let Some(mut frame) = self.frames.take_control(Side::Outer) else {
            return self.fates.count(Fate::NoFrames);
        };
        self.ip_id = self.ip_id.wrapping_add(1);
        // No DF of an inner packet to copy. Set: the peer may not reassemble, and nothing is so
        // large that it has to be fragmented.
        let carried = Carried {
            traffic_class: ip::TrafficClass::default(),
            dont_fragment: true,
            id: self.ip_id,
        };
        let start = frame.range().start;
        let inner = start..start + payload.len();
        let chunk = self.frames.umem(Side::Outer).chunk_mut(&mut frame);
        let sealed = match (
            self.tables.epoch_mut(epoch_slot),
            chunk.get_mut(inner.clone()),
        ) {
            (Some(epoch), Some(room)) => {
                room.copy_from_slice(payload);
                seal(epoch, chunk, inner, next_header, carried)
            }
            (None, _) => Err(Fate::NoEpoch),
            (_, None) => Err(Fate::NoRoom),
        };
        match sealed {
            Ok(range) => {
                frame.set_range(range);
                self.send_control(frame, Side::Outer);
            }
            Err(fate) => self.end(frame, fate),
        }
    }

    /// Sends a whole Ethernet frame on the outer port.
    pub(super) fn send_outer(&mut self, bytes: &[u8]) {
        let Some(mut frame) = self.frames.take_control(Side::Outer) else {
            return self.fates.count(Fate::NoFrames);
        };
        let start = frame.range().start;
        let range = start..start + bytes.len();
        let chunk = self.frames.umem(Side::Outer).chunk_mut(&mut frame);
        let Some(room) = chunk.get_mut(range.clone()) else {
            return self.end(frame, Fate::NoRoom);
        };
        room.copy_from_slice(bytes);
        frame.set_range(range);
        self.send_control(frame, Side::Outer);
    }

    /// Answers an inner packet by an ICMP error, in a frame of its own. It comes from the address
    /// that the packet went to: the worker has none of its own inside, and this one passes the
    /// host's reverse-path filter.
    #[cold]
    fn report(&mut self, tick: Tick, offending: &Frame, outgoing: &Outgoing, problem: Problem) {
        if tick.now < self.next_icmp {
            return;
        }
        let Some(mut frame) = self.frames.pool(Side::Inner).take() else {
            return;
        };
        let umem = self.frames.umem(Side::Inner);
        let ether_type = match outgoing.next_header {
            protocol::IPV4 => EtherType::IPV4,
            _ => EtherType::IPV6,
        };
        let before = offending.range().start;
        let packet = umem
            .bytes(offending)
            .get(outgoing.packet.start - before..outgoing.packet.end - before)
            .unwrap_or_default();
        let ip = frame.range().start + eth::HEADER_LEN;
        let chunk = umem.chunk_mut(&mut frame);
        let written = chunk.get_mut(ip..).map_or(Ok(None), |out| {
            icmp::emit_error(outgoing.flow.dst, problem, packet, out)
        });
        match (written, write_link(&self.inner_macs, chunk, ip, ether_type)) {
            (Ok(Some(len)), Some(start)) => {
                frame.set_range(start..ip + len);
                self.next_icmp = tick.now + ICMP_INTERVAL;
                self.send_control(frame, Side::Inner);
            }
            _ => self.frames.put(frame),
        }
    }
}
