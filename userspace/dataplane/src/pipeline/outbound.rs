//! From the inner port: check, look up, hold or seal, and on to the outer port.

use std::{ops::Range, time::Duration};

use mitregate_esp::{SealError, sealed_len};
use mitregate_wire::{
    eth::{self, EtherType},
    icmp::{self, Problem},
    ip::{self, TrafficClass, protocol},
};
use mitregate_xsk::Frame;

use super::{Events, Hop, ICMP_INTERVAL, Pipeline, Tick, Verdict, write_link};
use crate::{
    event::Event,
    fate::Fate,
    frames::Side,
    outer::{Carried, Template},
    packet::{self, Addrs, Ip},
    tables::Epoch,
};

/// An inner packet on its way out.
#[derive(Clone, Copy)]
struct Outgoing {
    /// Where it starts in the chunk.
    start: usize,
    ip: Ip,
}

impl Outgoing {
    /// Reads a frame of the inner port.
    #[cold]
    fn any(bytes: &[u8], offset: usize) -> Result<Self, Fate> {
        packet::any_in_frame(bytes).map(|(at, ip)| Self {
            start: offset + at,
            ip,
        })
    }

    /// Its place in the chunk; Ethernet padding behind it is left out.
    #[inline(always)]
    fn range(&self) -> Range<usize> {
        self.start..self.start + self.ip.len
    }

    #[inline(always)]
    fn is_v6(&self) -> bool {
        matches!(self.ip.flow.addrs, Addrs::V6 { .. })
    }
}

/// The largest inner packet whose ESP packet is not above `max_esp` bytes.
fn max_inner(max_esp: usize) -> usize {
    let whole_words = max_esp.saturating_sub(sealed_len(0)) & !3;
    // sealed_len(0) has two bytes of trailer and two of padding.
    whole_words + 2
}

/// Seals `chunk[inner]` and puts the outer header before it, that of the epoch or the one in `via`;
/// returns where the frame lies.
#[inline(always)]
fn seal(
    epoch: &mut Epoch,
    chunk: &mut [u8],
    inner: Range<usize>,
    next_header: u8,
    carried: Carried,
    via: Option<&Template>,
) -> Result<Range<usize>, Fate> {
    let template = via.or(epoch.template.as_ref()).ok_or(Fate::NoNeighbour)?;
    if sealed_len(inner.len()) > template.max_esp() {
        return Err(Fate::TooBig);
    }
    let sealed = epoch.outbound.seal(chunk, inner, next_header, 0);
    let esp = sealed.map_err(|error| match error {
        SealError::NoRoom => Fate::NoRoom,
        SealError::SeqExhausted => Fate::SeqCycled,
    })?;
    let end = esp.end;
    let start = template.write(chunk, esp, carried).ok_or(Fate::NoRoom)?;
    Ok(start..end)
}

/// Seals an inner packet for the outer port; returns where in the chunk the frame then lies.
#[inline(always)]
fn seal_data(
    epoch: &mut Epoch,
    events: &mut Events,
    chunk: &mut [u8],
    outgoing: &Outgoing,
    (tick, id): (Tick, u16),
) -> Result<Range<usize>, Fate> {
    let ip = &outgoing.ip;
    if epoch.narrowed && !epoch.selectors.allow_outbound(&ip.flow) {
        return Err(Fate::SelectorMismatch);
    }
    let carried = Carried {
        traffic_class: ip.class,
        dont_fragment: ip.dont_fragment,
        id,
    };
    let next_header = if outgoing.is_v6() {
        protocol::IPV6
    } else {
        protocol::IPV4
    };
    let sealed = if epoch.hard.allows(&epoch.counters, ip.len as u64) {
        seal(epoch, chunk, outgoing.range(), next_header, carried, None)
    } else {
        Err(Fate::LifetimeOver)
    };
    if let Err(Fate::LifetimeOver | Fate::SeqCycled) = sealed {
        tell_hard_limit(epoch, events);
    }
    let range = sealed?;
    let counters = &epoch.counters;
    counters.packets_out.add(1);
    counters.bytes_out.add(ip.len as u64);
    counters.last_out_ns.set(tick.ns);
    if epoch.soft.is_passed(counters) && !epoch.soft_told {
        epoch.soft_told = events.offer(Event::SoftLimit {
            tunnel: epoch.tunnel,
            epoch: epoch.id,
        });
    }
    Ok(range)
}

#[cold]
fn tell_hard_limit(epoch: &mut Epoch, events: &mut Events) {
    if !epoch.hard_told {
        epoch.hard_told = events.offer(Event::HardLimit {
            tunnel: epoch.tunnel,
            epoch: epoch.id,
        });
    }
}

impl Pipeline {
    /// Takes a burst from the inner port; `frames` is empty afterwards.
    pub fn inner_batch(&mut self, now: Duration, frames: &mut Vec<Frame>) {
        let tick = Tick::new(now);
        let mut verdicts = std::mem::take(&mut self.verdicts);
        for frame in frames.iter_mut() {
            let bytes = self.frames.umem(Side::Inner).bytes(frame);
            verdicts.push(match packet::plain_in_frame(bytes) {
                Some(ip) => {
                    let start = frame.range().start + eth::HEADER_LEN;
                    self.forward(tick, frame, &Outgoing { start, ip })
                }
                None => self.forward_any(tick, frame),
            });
        }
        self.dispatch(frames, verdicts, Side::Outer);
    }

    #[cold]
    fn forward_any(&mut self, tick: Tick, frame: &mut Frame) -> Verdict {
        let bytes = self.frames.umem(Side::Inner).bytes(frame);
        match Outgoing::any(bytes, frame.range().start) {
            Ok(outgoing) => self.forward(tick, frame, &outgoing),
            Err(fate) => Verdict::End(fate),
        }
    }

    #[inline(always)]
    fn forward(&mut self, tick: Tick, frame: &mut Frame, outgoing: &Outgoing) -> Verdict {
        let Some(tunnel) = self.tables.by_flow(&outgoing.ip.flow) else {
            return Verdict::End(Fate::NoTunnel);
        };
        if self.config.inner.hop == Hop::Forward && !self.hop(tick, frame, *outgoing) {
            return Verdict::End(Fate::TtlExpired);
        }
        let Some(epoch) = self.tables.sender(tunnel) else {
            return Verdict::Hold(tunnel);
        };
        self.ip_id = self.ip_id.wrapping_add(1);
        let chunk = self.frames.umem(Side::Inner).chunk_mut(frame);
        match seal_data(epoch, &mut self.events, chunk, outgoing, (tick, self.ip_id)) {
            Ok(range) => {
                frame.set_range(range);
                Verdict::Send
            }
            Err(fate) => Verdict::End(self.not_sealed(tick, tunnel, frame, *outgoing, fate)),
        }
    }

    /// Counts this hop; `false`, and an ICMP error, if it was one too many.
    #[cold]
    fn hop(&mut self, tick: Tick, frame: &mut Frame, outgoing: Outgoing) -> bool {
        let chunk = self.frames.umem(Side::Inner).chunk_mut(frame);
        let packet = chunk.get_mut(outgoing.range()).unwrap_or_default();
        let goes_on = ip::decrement_hop_limit(packet).is_ok_and(|left| left > 0);
        if !goes_on {
            self.report(tick, frame, outgoing, Problem::HopLimit);
        }
        goes_on
    }

    /// Answers a packet that is too big, if its sender wants to know.
    #[cold]
    fn not_sealed(
        &mut self,
        tick: Tick,
        tunnel_slot: u32,
        frame: &Frame,
        outgoing: Outgoing,
        fate: Fate,
    ) -> Fate {
        if fate == Fate::TooBig && outgoing.ip.dont_fragment {
            let template = self
                .tables
                .sender(tunnel_slot)
                .and_then(|epoch| epoch.template.as_ref());
            let mtu = max_inner(template.map_or(0, Template::max_esp));
            let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
            self.report(tick, frame, outgoing, Problem::TooBig { mtu });
        }
        fate
    }

    /// Keeps a packet until its tunnel has an active epoch. The oldest gives way.
    pub(super) fn hold(&mut self, tunnel_slot: u32, frame: Frame) {
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
        while self.tables.sender(tunnel_slot).is_some() {
            let held = self
                .tables
                .tunnel_mut(tunnel_slot)
                .and_then(|t| t.held.pop_front());
            let Some(mut frame) = held else { return };
            self.held -= 1;
            self.ip_id = self.ip_id.wrapping_add(1);
            let umem = self.frames.umem(Side::Inner);
            let read = Outgoing::any(umem.bytes(&frame), frame.range().start);
            let (Ok(outgoing), Some(epoch)) = (read, self.tables.sender(tunnel_slot)) else {
                self.end(frame, Fate::BadHeader);
                continue;
            };
            let chunk = umem.chunk_mut(&mut frame);
            match seal_data(
                epoch,
                &mut self.events,
                chunk,
                &outgoing,
                (tick, self.ip_id),
            ) {
                Ok(range) => frame.set_range(range),
                Err(fate) => {
                    let fate = self.not_sealed(tick, tunnel_slot, &frame, outgoing, fate);
                    self.end(frame, fate);
                    continue;
                }
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
    pub(super) fn send_inner(
        &mut self,
        epoch_slot: u32,
        next_header: u8,
        via: Option<&Template>,
        payload: &[u8],
    ) {
        let Some(mut frame) = self.frames.take_control(Side::Outer) else {
            return self.fates.count(Fate::NoFrames);
        };
        self.ip_id = self.ip_id.wrapping_add(1);
        // No DF of an inner packet to copy. Set: the peer may not reassemble, and nothing is so
        // large that it has to be fragmented.
        let carried = Carried {
            traffic_class: TrafficClass::default(),
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
                seal(epoch, chunk, inner, next_header, carried, via)
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
    fn report(&mut self, tick: Tick, offending: &Frame, outgoing: Outgoing, problem: Problem) {
        if tick.now < self.next_icmp {
            return;
        }
        let Some(mut frame) = self.frames.pool(Side::Inner).take() else {
            return;
        };
        let umem = self.frames.umem(Side::Inner);
        let ether_type = if outgoing.is_v6() {
            EtherType::IPV6
        } else {
            EtherType::IPV4
        };
        let at = outgoing.start - offending.range().start;
        let packet = umem
            .bytes(offending)
            .get(at..at + outgoing.ip.len)
            .unwrap_or_default();
        let here = ip::Packet::new_checked(packet).map(|packet| packet.dst());
        let ip = frame.range().start + eth::HEADER_LEN;
        let chunk = umem.chunk_mut(&mut frame);
        let written = chunk.get_mut(ip..).map_or(Ok(None), |out| {
            icmp::emit_error(here?, problem, packet, out)
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
