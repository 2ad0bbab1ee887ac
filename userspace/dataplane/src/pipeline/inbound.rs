//! From the outer port: classify, open, check, and on to the inner port or the control plane.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    time::Duration,
};

use mitregate_esp::{OpenError, Opened, WorkerId};
use mitregate_wire::{
    esp,
    eth::{self, EtherType},
    icmp,
    ip::{self, Ecn, protocol},
    udp::{self, NatT},
};
use mitregate_xsk::Frame;

use super::{Events, Hop, Pipeline, Stray, Tick, write_link};
use crate::{
    event::Event,
    fate::Fate,
    frames::Side,
    packet::{self, Addrs, Ip},
    tables::{Epoch, Tables},
};

/// What the first look at a frame found.
pub(super) enum Inspected {
    /// An ESP packet for one of our SAs.
    Esp(EspPacket),
    /// For the control plane as it is.
    Control,
    /// Of another worker's SA.
    Stray(WorkerId),
    /// Nothing of use.
    Drop(Fate),
}

/// Places in the chunk, which has at most 4096 bytes.
pub(super) struct EspPacket {
    /// Slot of the epoch that the SPI names.
    epoch: u32,
    /// From SPI to ICV.
    start: u16,
    end: u16,
    ecn: Ecn,
}

impl EspPacket {
    fn range(&self) -> Range<usize> {
        self.start.into()..self.end.into()
    }
}

/// What lies in a frame of the outer port, by its headers alone.
enum Content {
    /// ESP, plain or in UDP, at these bytes of the frame.
    Esp(Range<usize>, Ecn),
    Control,
}

#[inline(always)]
fn classify(frame: &[u8]) -> Result<Content, Fate> {
    let (at, ip) = packet::in_frame(frame)?;
    if ip.is_fragment {
        return Err(Fate::Fragment);
    }
    let payload = at + ip.header_len..at + ip.len;
    if ip.flow.protocol == protocol::ESP {
        return Ok(Content::Esp(payload, ip.class.ecn()));
    }
    let bytes = frame.get(payload.clone()).ok_or(Fate::BadHeader)?;
    if ip.flow.protocol == protocol::UDP {
        let datagram = udp::Datagram::new_checked(bytes).map_err(|_| Fate::BadHeader)?;
        return match datagram.dst_port() {
            udp::PORT_IKE => Ok(Content::Control),
            udp::PORT_NAT_T => match NatT::new_checked(datagram.payload()) {
                Ok(NatT::Esp(packet)) => {
                    let start = payload.start + udp::HEADER_LEN;
                    Ok(Content::Esp(start..start + packet.len(), ip.class.ecn()))
                }
                Ok(NatT::Ike(_) | NatT::Keepalive) => Ok(Content::Control),
                Err(_) => Err(Fate::Runt),
            },
            _ => Err(Fate::NotOurs),
        };
    }
    let family = match ip.flow.addrs {
        Addrs::V4 { .. } => icmp::Family::V4,
        Addrs::V6 { .. } => icmp::Family::V6,
    };
    match icmp::Message::new_checked(family, bytes) {
        Ok(message) if ip.flow.protocol == family.protocol() && message.is_error() => {
            Ok(Content::Control)
        }
        _ => Err(Fate::NotOurs),
    }
}

/// Outer source and destination; port 0 for plain ESP.
fn endpoints(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let frame = eth::Frame::new_checked(frame).ok()?;
    let packet = ip::Packet::new_checked(frame.payload()).ok()?;
    let (mut src_port, mut dst_port) = (0, 0);
    if packet.protocol() == protocol::UDP {
        let datagram = udp::Datagram::new_checked(packet.payload()).ok()?;
        (src_port, dst_port) = (datagram.src_port(), datagram.dst_port());
    }
    Some((
        (packet.src(), src_port).into(),
        (packet.dst(), dst_port).into(),
    ))
}

fn inspect(bytes: &[u8], offset: usize, tables: &Tables, me: WorkerId, workers: u8) -> Inspected {
    let (range, ecn) = match classify(bytes) {
        Ok(Content::Esp(range, ecn)) => (range, ecn),
        Ok(Content::Control) => return Inspected::Control,
        Err(fate) => return Inspected::Drop(fate),
    };
    let Ok(packet) = esp::Packet::new_checked(bytes.get(range.clone()).unwrap_or_default()) else {
        return Inspected::Drop(Fate::Runt);
    };
    // SPIs up to 255 are reserved (RFC 4303 §2.1) and never ours.
    let Some(spi) = packet.spi() else {
        return Inspected::Drop(Fate::NoSpi);
    };
    if let Some(epoch) = tables.by_spi(spi.get()) {
        let at = |byte: usize| u16::try_from(offset + byte).unwrap_or(u16::MAX);
        let (start, end) = (at(range.start), at(range.end));
        return Inspected::Esp(EspPacket {
            epoch,
            start,
            end,
            ecn,
        });
    }
    match WorkerId::owner_of(spi) {
        Some(owner) if owner != me && owner.0 < workers => Inspected::Stray(owner),
        _ => Inspected::Drop(Fate::NoSpi),
    }
}

impl Pipeline {
    /// Takes a burst from the outer port; `frames` is empty afterwards.
    ///
    /// In two passes: the first reads every header and looks up every SA, so that the cache misses
    /// of a burst overlap, the second deciphers.
    pub fn outer_batch(&mut self, now: Duration, frames: &mut Vec<Frame>) {
        let tick = Tick::new(now);
        let mut inspected = std::mem::take(&mut self.inspected);
        let umem = self.frames.umem(Side::Outer);
        let (me, workers) = (self.config.worker, self.config.workers);
        inspected.extend(frames.iter().map(|frame| {
            inspect(
                umem.bytes(frame),
                frame.range().start,
                &self.tables,
                me,
                workers,
            )
        }));
        for (mut frame, inspected) in frames.drain(..).zip(inspected.drain(..)) {
            match inspected {
                Inspected::Esp(packet) => match self.open(tick, &mut frame, &packet) {
                    Ok(()) => self.send_data(frame, Side::Inner),
                    Err(fate) => self.end(frame, fate),
                },
                Inspected::Control => {
                    let fate = self.tell_outer(tick, &frame);
                    self.end(frame, fate);
                }
                Inspected::Stray(owner) => self.strays.push(Stray { owner, frame }),
                Inspected::Drop(fate) => self.end(frame, fate),
            }
        }
        self.inspected = inspected;
        self.hand_over();
    }

    /// Turns an ESP packet into the frame for the inner port. The error is the fate of a packet
    /// that does not go there, though it may be a good one.
    #[inline]
    fn open(&mut self, tick: Tick, frame: &mut Frame, packet: &EspPacket) -> Result<(), Fate> {
        let Self {
            tables,
            frames,
            events,
            config,
            wanted,
            inner_macs,
            ..
        } = self;
        let epoch = tables.epoch_mut(packet.epoch).ok_or(Fate::NoSpi)?;
        let headers = frame.range();
        let chunk = frames.umem(Side::Outer).chunk_mut(frame);
        let opened = match epoch.inbound.open(chunk, packet.range()) {
            Ok(opened) => opened,
            Err(error) => return Err(refused(epoch, error)),
        };
        epoch.counters.last_in_ns.set(tick.ns);
        let ether_type = match opened.next_header {
            protocol::IPV4 => EtherType::IPV4,
            protocol::IPV6 => EtherType::IPV6,
            other => {
                first_inbound(epoch, events, false);
                let wanted = wanted[usize::from(other)];
                return Err(match other {
                    _ if wanted => tell_inner(epoch, events, chunk, headers, &opened, tick),
                    protocol::NONE => Fate::Dummy,
                    _ => Fate::NextHeader,
                });
            }
        };
        if !epoch.heard_data {
            first_inbound(epoch, events, true);
        }
        let ip = opened.inner.start;
        let content = chunk.get_mut(opened.inner).ok_or(Fate::BadInner)?;
        let inner = Ip::new_checked(ether_type, content).ok_or(Fate::BadInner)?;
        if !epoch.selectors.allow_inbound(&inner.flow) {
            return Err(Fate::SelectorMismatch);
        }
        // What lies behind the inner packet is TFC padding (RFC 4303 §2.7).
        let len = inner.len;
        if len > usize::from(config.inner.mtu) {
            return Err(Fate::TooBig);
        }
        let class = inner.class;
        let ecn = Ecn::decapsulate(class.ecn(), packet.ecn).ok_or(Fate::EcnDrop)?;
        if ecn != class.ecn() {
            ip::set_traffic_class(content, class.with_ecn(ecn)).map_err(|_| Fate::BadInner)?;
        }
        if config.inner.hop == Hop::Forward
            && ip::decrement_hop_limit(content).map_err(|_| Fate::BadInner)? == 0
        {
            return Err(Fate::TtlExpired);
        }
        epoch.counters.packets_in.add(1);
        epoch.counters.bytes_in.add(len as u64);
        let start = write_link(inner_macs, chunk, ip, ether_type).ok_or(Fate::NoRoom)?;
        frame.set_range(start..ip + len);
        Ok(())
    }

    fn tell_outer(&mut self, tick: Tick, frame: &Frame) -> Fate {
        if !self.events.room_for_strangers() {
            return Fate::ControlOverflow;
        }
        let bytes = self.frames.umem(Side::Outer).bytes(frame);
        let Some(frame) = self.events.copy(bytes) else {
            return Fate::ControlOverflow;
        };
        if self.events.offer(Event::Outer {
            frame,
            received_at: tick.now,
        }) {
            Fate::ToControl
        } else {
            Fate::ControlOverflow
        }
    }
}

/// Raises FirstInbound for the first packet, and for the first one with data. Lost only if the ring
/// is full, and then the next packet tries again.
#[cold]
fn first_inbound(epoch: &mut Epoch, events: &mut Events, data: bool) {
    if epoch.heard && (epoch.heard_data || !data) {
        return;
    }
    if events.offer(Event::FirstInbound {
        tunnel: epoch.tunnel,
        epoch: epoch.id,
        data,
    }) {
        epoch.heard = true;
        epoch.heard_data |= data;
    }
}

/// Hands a packet with another next header than IP to the control plane. Its outer headers still
/// lie at `headers` in the chunk.
#[cold]
fn tell_inner(
    epoch: &Epoch,
    events: &mut Events,
    chunk: &[u8],
    headers: Range<usize>,
    opened: &Opened,
    tick: Tick,
) -> Fate {
    let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let (from, to) = chunk
        .get(headers)
        .and_then(endpoints)
        .unwrap_or((unknown, unknown));
    let payload = chunk.get(opened.inner.clone()).unwrap_or_default();
    let Some(payload) = events.copy(payload) else {
        return Fate::ControlOverflow;
    };
    let told = events.offer(Event::Inner {
        tunnel: epoch.tunnel,
        epoch: epoch.id,
        next_header: opened.next_header,
        seq: opened.seq,
        new_highest: opened.new_highest,
        from,
        to,
        received_at: tick.now,
        payload,
    });
    if told {
        Fate::ToControl
    } else {
        Fate::ControlOverflow
    }
}

#[cold]
fn refused(epoch: &Epoch, error: OpenError) -> Fate {
    match error {
        OpenError::Runt => Fate::Runt,
        OpenError::WrongSpi => Fate::NoSpi,
        OpenError::Replay => {
            epoch.counters.replays.add(1);
            Fate::Replay
        }
        OpenError::Integrity => {
            epoch.counters.integrity_failures.add(1);
            Fate::IntegError
        }
        OpenError::BadPadding => Fate::BadPadding,
    }
}
