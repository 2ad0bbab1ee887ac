//! From the inner port: check, look up, hold or seal, and on to the outer port.

use std::{ops::Range, time::Duration};

use mitregate_esp::{LARGE, SealError, max_inner, sealed_len};
use mitregate_wire::{
    eth::{self, EtherType},
    fragment::emit_fragment,
    icmp::{self, Problem},
    ip::{self, TrafficClass, protocol},
    ipv6,
};
use mitregate_xsk::Frame;

use super::{Events, Hop, ICMP_INTERVAL, Pipeline, Tick, Verdict, mss, write_link};
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

/// Seals `chunk[inner]`, with as much TFC padding, and puts the outer header before it, that of the epoch
/// or the one in `via`; returns where the frame lies. Whoever calls has seen to the length.
#[inline(always)]
fn seal(
    epoch: &mut Epoch,
    chunk: &mut [u8],
    inner: Range<usize>,
    (next_header, tfc_pad): (u8, usize),
    carried: Carried,
    via: Option<&Template>,
) -> Result<Range<usize>, Fate> {
    let template = via.or(epoch.template.as_ref()).ok_or(Fate::NoNeighbour)?;
    let sealed = epoch.outbound.seal(chunk, inner, next_header, tfc_pad);
    let esp = sealed.map_err(|error| match error {
        SealError::NoRoom => Fate::NoRoom,
        SealError::SeqExhausted => Fate::SeqCycled,
    })?;
    let end = esp.end;
    let start = template.write(chunk, esp, carried).ok_or(Fate::NoRoom)?;
    Ok(start..end)
}

/// Seals a control payload that lies at `inner` in the chunk; see [`Command::SendInner`].
///
/// [`Command::SendInner`]: crate::Command::SendInner
fn seal_control(
    epoch: &mut Epoch,
    chunk: &mut [u8],
    inner: Range<usize>,
    (next_header, pad_to): (u8, u16),
    (via, id): (Option<&Template>, u16),
) -> Result<Range<usize>, Fate> {
    let template = via.or(epoch.template.as_ref()).ok_or(Fate::NoNeighbour)?;
    let (link, wanted) = (template.max_esp(u16::MAX), template.max_esp(pad_to));
    if sealed_len(inner.len()) > link || usize::from(pad_to) > usize::from(template.mtu()) {
        return Err(Fate::TooBig);
    }
    let tfc_pad = max_inner(wanted).saturating_sub(inner.len());
    // No DF of an inner packet to copy. Set: the peer may not reassemble, and nothing but a probe of the
    // path is so large that it has to be fragmented.
    let carried = Carried {
        traffic_class: TrafficClass::default(),
        dont_fragment: true,
        probe: pad_to > 0,
        id,
    };
    let next_header = (next_header, tfc_pad);
    seal(epoch, chunk, inner, next_header, carried, via)
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
    let mut dont_fragment = ip.dont_fragment;
    if sealed_len(ip.len) > epoch.max_esp {
        if !leaves_to_routers(epoch, outgoing) {
            return Err(Fate::TooBig);
        }
        dont_fragment = false;
    }
    let carried = Carried {
        traffic_class: ip.class,
        dont_fragment,
        probe: false,
        id,
    };
    let next_header = if outgoing.is_v6() {
        protocol::IPV6
    } else {
        protocol::IPV4
    };
    let sealed = if epoch.hard.allows(&epoch.counters, ip.len as u64) {
        let next_header = (next_header, 0);
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
    if ip.len > LARGE {
        counters.large_out.add(1);
    }
    counters.last_out_ns.set(tick.ns);
    if epoch.soft.is_passed(counters) && !epoch.soft_told {
        epoch.soft_told = events.offer(Event::SoftLimit {
            tunnel: epoch.tunnel,
            epoch: epoch.id,
        });
    }
    Ok(range)
}

/// Whether a packet that the path does not carry whole goes out all the same, for routers to fragment and
/// the peer to reassemble: IPv6 has a right to 1280 bytes on every link (RFC 8200 §5), nobody but its
/// source may fragment it, and a tunnel's end does below (RFC 2473 §7.1, RFC 4301 §8.2.1).
#[cold]
fn leaves_to_routers(epoch: &Epoch, outgoing: &Outgoing) -> bool {
    let template = epoch.template.as_ref();
    let link = template.map_or(0, |template| template.max_esp(u16::MAX));
    outgoing.is_v6() && outgoing.ip.len <= ipv6::MIN_MTU && sealed_len(outgoing.ip.len) <= link
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
        if self.config.mss_clamp
            && let Some(packet) = chunk.get_mut(outgoing.range())
        {
            mss::clamp(epoch, self.config.inner.mtu, packet, &outgoing.ip);
        }
        match seal_data(epoch, &mut self.events, chunk, outgoing, (tick, self.ip_id)) {
            Ok(range) => {
                frame.set_range(range);
                Verdict::Send
            }
            Err(Fate::TooBig) => Verdict::End(self.too_big(tick, tunnel, frame, *outgoing)),
            Err(fate) => Verdict::End(fate),
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

    /// What becomes of a packet that the outer path does not carry: its sender hears of it, or, where it
    /// may be, it is cut up (RFC 4301 §8.2.1, RFC 791 §3.2).
    #[cold]
    fn too_big(&mut self, tick: Tick, tunnel_slot: u32, frame: &Frame, outgoing: Outgoing) -> Fate {
        let sender = self.tables.sender(tunnel_slot);
        let mtu = sender.map_or(0, |epoch| epoch.max_inner());
        if !outgoing.ip.dont_fragment {
            return self.fragment(tick, tunnel_slot, frame, &outgoing, mtu);
        }
        let least = if outgoing.is_v6() { ipv6::MIN_MTU } else { 0 };
        let mtu = u32::try_from(mtu.max(least)).unwrap_or(u32::MAX);
        self.report(tick, frame, outgoing, Problem::TooBig { mtu });
        Fate::TooBig
    }

    /// Sends an IPv4 packet in fragments of at most `mtu` bytes, each in a frame of its own, or nothing of
    /// it: what comes in parts takes memory at its receiver.
    #[cold]
    fn fragment(
        &mut self,
        tick: Tick,
        tunnel_slot: u32,
        whole: &Frame,
        outgoing: &Outgoing,
        mtu: usize,
    ) -> Fate {
        let mut from = Some(0);
        while let Some(at) = from {
            let Some(mut frame) = self.frames.pool(Side::Inner).take() else {
                return Fate::NoFrames;
            };
            self.ip_id = self.ip_id.wrapping_add(1);
            let umem = self.frames.umem(Side::Inner);
            let offset = outgoing.start - whole.range().start;
            let packet = umem.bytes(whole);
            let packet = packet.get(offset..offset + outgoing.ip.len);
            let start = frame.range().start;
            let chunk = umem.chunk_mut(&mut frame);
            let written = packet.zip(chunk.get_mut(start..));
            let written = written.map(|(packet, out)| emit_fragment(packet, at, mtu, out));
            let (Some(Ok(piece)), Some(epoch)) = (written, self.tables.sender(tunnel_slot)) else {
                self.frames.put(frame);
                return Fate::TooBig;
            };
            // The selectors have seen the whole packet: later fragments show no ports.
            let ip = Ip {
                len: piece.len,
                ..outgoing.ip
            };
            let piece_of = Outgoing { start, ip };
            let clock = (tick, self.ip_id);
            match seal_data(epoch, &mut self.events, chunk, &piece_of, clock) {
                Ok(range) => frame.set_range(range),
                Err(fate) => {
                    self.frames.put(frame);
                    return fate;
                }
            }
            self.send_data(frame, Side::Outer);
            from = piece.next;
        }
        Fate::Fragmented
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
            if self.config.mss_clamp
                && let Some(packet) = chunk.get_mut(outgoing.range())
            {
                mss::clamp(epoch, self.config.inner.mtu, packet, &outgoing.ip);
            }
            match seal_data(
                epoch,
                &mut self.events,
                chunk,
                &outgoing,
                (tick, self.ip_id),
            ) {
                Ok(range) => frame.set_range(range),
                Err(fate) => {
                    let fate = match fate {
                        Fate::TooBig => self.too_big(tick, tunnel_slot, &frame, outgoing),
                        fate => fate,
                    };
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

    /// Sends a control payload through an epoch's outbound SA; see [`Command::SendInner`].
    ///
    /// [`Command::SendInner`]: crate::Command::SendInner
    pub(super) fn send_inner(
        &mut self,
        tick: Tick,
        epoch_slot: u32,
        how: (u8, u16),
        via: Option<&Template>,
        payload: &[u8],
    ) {
        let Some(mut frame) = self.frames.take_control(Side::Outer) else {
            return self.fates.count(Fate::NoFrames);
        };
        self.ip_id = self.ip_id.wrapping_add(1);
        let start = frame.range().start;
        let inner = start..start + payload.len();
        let chunk = self.frames.umem(Side::Outer).chunk_mut(&mut frame);
        let sealed = match (
            self.tables.epoch_mut(epoch_slot),
            chunk.get_mut(inner.clone()),
        ) {
            (Some(epoch), Some(room)) => {
                room.copy_from_slice(payload);
                let sealed = seal_control(epoch, chunk, inner, how, (via, self.ip_id));
                // A ping keeps a NAT's mapping as data does, but not by another way.
                if sealed.is_ok() && via.is_none() {
                    epoch.counters.last_out_ns.set(tick.ns);
                }
                sealed
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
