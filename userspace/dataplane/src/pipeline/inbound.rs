//! From the outer port: classify, open, check, and on to the inner port or the control plane.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    time::Duration,
};

use mitregate_esp::{OpenError, Opened, WorkerId};
use mitregate_wire::{
    echo,
    esp::{self, Spi},
    eth::{self, EtherType},
    icmp,
    ip::{self, Ecn, TrafficClass, protocol},
    udp::{self, NatT},
};
use mitregate_xsk::Frame;

use super::{Events, Hop, Pipeline, PipelineConfig, Tick, Verdict, mss, write_link};
use crate::{
    buf::CONTROL_BUF_SIZE,
    event::Event,
    fate::Fate,
    frames::Side,
    outer::Template,
    packet::{self, Addrs, Ip},
    tables::{Epoch, IcmpSecret, Tables},
};

/// A Moved event is raised no more often than this.
const MOVES_EVERY_NS: u64 = 1_000_000_000;
/// And where packets come from is looked at no more often than this: it costs reading their headers again.
const LOOK_EVERY_NS: u64 = 10_000_000;

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

/// Places in the frame, which has at most 4096 bytes.
pub(super) struct EspPacket {
    /// Slot of the epoch that the SPI names.
    epoch: u32,
    /// From SPI to ICV.
    start: u16,
    end: u16,
    ecn: Ecn,
}

impl EspPacket {
    /// The place in the chunk of a frame that starts at `offset`.
    #[inline(always)]
    fn range(&self, offset: usize) -> Range<usize> {
        offset + usize::from(self.start)..offset + usize::from(self.end)
    }
}

/// What lies in a frame of the outer port, by its headers alone.
enum Content {
    /// ESP, plain or in UDP, at these bytes of the frame.
    Esp(Range<usize>, Ecn, Form),
    Control,
}

/// An SA opens either.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    InUdp,
}

#[inline(always)]
fn classify(frame: &[u8], at: usize, ip: &Ip) -> Result<Content, Fate> {
    if ip.is_fragment {
        return Err(Fate::Fragment);
    }
    let payload = at + ip.header_len..at + ip.len;
    if ip.flow.protocol == protocol::ESP {
        return Ok(Content::Esp(payload, ip.class.ecn(), Form::Plain));
    }
    let bytes = frame.get(payload.clone()).ok_or(Fate::BadHeader)?;
    if ip.flow.protocol == protocol::UDP {
        let datagram = udp::Datagram::new_checked(bytes).map_err(|_| Fate::BadHeader)?;
        return match datagram.dst_port() {
            udp::PORT_IKE => Ok(Content::Control),
            udp::PORT_NAT_T => match NatT::new_checked(datagram.payload()) {
                Ok(NatT::Esp(packet)) => {
                    let start = payload.start + udp::HEADER_LEN;
                    let range = start..start + packet.len();
                    Ok(Content::Esp(range, ip.class.ecn(), Form::InUdp))
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

/// Whose SPIs are whose, and what has been found.
///
/// Findings are pushed where they are made: handed up as a value, each would be written and read
/// back twice.
struct Inspection<'a> {
    tables: &'a Tables,
    me: WorkerId,
    workers: u8,
    found: Vec<Inspected>,
}

impl Inspection<'_> {
    #[inline(always)]
    fn inspect(&mut self, frame: &[u8], at: usize, ip: &Ip) {
        match classify(frame, at, ip) {
            Ok(Content::Esp(range, ecn, form)) => self.look_up(frame, range, ecn, form),
            Ok(Content::Control) => self.found.push(Inspected::Control),
            Err(fate) => self.found.push(Inspected::Drop(fate)),
        }
    }

    #[cold]
    fn inspect_any(&mut self, frame: &[u8]) {
        match packet::any_in_frame(frame) {
            Ok((at, ip)) => self.inspect(frame, at, &ip),
            Err(fate) => self.found.push(Inspected::Drop(fate)),
        }
    }

    #[inline(always)]
    fn look_up(&mut self, frame: &[u8], range: Range<usize>, ecn: Ecn, form: Form) {
        let Ok(packet) = esp::Packet::new_checked(frame.get(range.clone()).unwrap_or_default())
        else {
            return self.found.push(Inspected::Drop(Fate::Runt));
        };
        match self.tables.by_spi(packet.raw_spi()) {
            Some(epoch) => {
                let at = |byte: usize| u16::try_from(byte).unwrap_or(u16::MAX);
                let (start, end) = (at(range.start), at(range.end));
                self.found.push(Inspected::Esp(EspPacket {
                    epoch,
                    start,
                    end,
                    ecn,
                }));
            }
            None => self.unknown(packet.raw_spi(), form),
        }
    }

    /// An SPI without an SA here. A reserved one (RFC 4303 §2.1) is never ours, but those of the plain
    /// ESP ping, which asks about protocol 50 alone, are the control plane's.
    #[cold]
    fn unknown(&mut self, spi: u32, form: Form) {
        if form == Form::Plain && echo::is_plain_spi(spi) {
            return self.found.push(Inspected::Control);
        }
        self.found
            .push(match Spi::new(spi).and_then(WorkerId::owner_of) {
                Some(owner) if owner != self.me && owner.0 < self.workers => {
                    Inspected::Stray(owner)
                }
                _ => Inspected::Drop(Fate::NoSpi),
            });
    }
}

/// Takes an authentic inner packet, at the start of `content`; returns its length, behind which
/// there is TFC padding (RFC 4303 §2.7).
#[inline(always)]
fn accept(
    epoch: &Epoch,
    config: &PipelineConfig,
    content: &mut [u8],
    ip: &Ip,
    outer_ecn: Ecn,
) -> Result<usize, Fate> {
    let link = &config.inner;
    if !epoch.selectors.allow_inbound(&ip.flow) {
        return Err(Fate::SelectorMismatch);
    }
    if let (Some(secret), protocol::ICMP | protocol::ICMPV6) =
        (&epoch.icmp_secret, ip.flow.protocol)
        && answers(secret, content, ip)
    {
        return Err(Fate::ToControl);
    }
    if ip.len > usize::from(link.mtu) {
        return Err(Fate::TooBig);
    }
    if ip.class.ecn() != outer_ecn {
        copy_congestion(content, ip.class, outer_ecn)?;
    }
    if link.hop == Hop::Forward && ip::decrement_hop_limit(content) == Ok(0) {
        return Err(Fate::TtlExpired);
    }
    if config.mss_clamp {
        mss::clamp(epoch, link.mtu, content, ip);
    }
    epoch.counters.packets_in.add(1);
    epoch.counters.bytes_in.add(ip.len as u64);
    Ok(ip.len)
}

/// Whether a packet is the answer to an inner ICMP echo of ours.
#[cold]
fn answers(secret: &IcmpSecret, content: &[u8], ip: &Ip) -> bool {
    let reply = match ip.flow.protocol {
        protocol::ICMP => icmp::Family::V4,
        _ => icmp::Family::V6,
    };
    let message = content.get(ip.header_len..ip.len).unwrap_or_default();
    let message = icmp::Message::new_checked(reply, message).ok();
    let echo = message.and_then(|message| message.echo());
    echo.is_some_and(|echo| !echo.request && !ip.is_fragment && echo.data.starts_with(secret))
}

/// As [`accept`], for a packet that has to be read the long way.
#[cold]
fn accept_any(
    epoch: &Epoch,
    config: &PipelineConfig,
    content: &mut [u8],
    ether_type: EtherType,
    outer_ecn: Ecn,
) -> Result<usize, Fate> {
    let ip = Ip::any(ether_type, content).ok_or(Fate::BadInner)?;
    accept(epoch, config, content, &ip, outer_ecn)
}

/// RFC 6040 §4.2.
#[cold]
fn copy_congestion(content: &mut [u8], class: TrafficClass, outer: Ecn) -> Result<(), Fate> {
    let ecn = Ecn::decapsulate(class.ecn(), outer).ok_or(Fate::EcnDrop)?;
    ip::set_traffic_class(content, class.with_ecn(ecn)).map_err(|_| Fate::BadInner)
}

impl Pipeline {
    /// Takes a burst from the outer port; `frames` is empty afterwards.
    ///
    /// In three passes: the first reads every header and looks up every SA, so that the cache misses
    /// of a burst overlap, the second deciphers, the third moves the frames.
    pub fn outer_batch(&mut self, now: Duration, frames: &mut Vec<Frame>) {
        let tick = Tick::new(now);
        let umem = self.frames.umem(Side::Outer);
        let mut inspection = Inspection {
            tables: &self.tables,
            me: self.config.worker,
            workers: self.config.workers,
            found: std::mem::take(&mut self.inspected),
        };
        for frame in frames.iter() {
            let bytes = umem.bytes(frame);
            match packet::plain_in_frame(bytes) {
                Some(ip) => inspection.inspect(bytes, eth::HEADER_LEN, &ip),
                None => inspection.inspect_any(bytes),
            }
        }
        let mut inspected = inspection.found;
        let mut verdicts = std::mem::take(&mut self.verdicts);
        for (frame, inspected) in frames.iter_mut().zip(inspected.drain(..)) {
            verdicts.push(match inspected {
                Inspected::Esp(packet) => match self.open(tick, frame, &packet) {
                    Ok(range) => {
                        frame.set_range(range);
                        Verdict::Send
                    }
                    Err(fate) => Verdict::End(fate),
                },
                Inspected::Control => Verdict::End(self.tell_outer(tick, frame)),
                Inspected::Stray(owner) => Verdict::Stray(owner),
                Inspected::Drop(fate) => Verdict::End(fate),
            });
        }
        self.inspected = inspected;
        self.dispatch(frames, verdicts, Side::Inner);
    }

    /// Makes of an ESP packet a frame for the inner port; returns where in the chunk it then lies.
    /// The error is the fate of a packet that does not go there, though it may be a good one.
    #[inline(always)]
    fn open(
        &mut self,
        tick: Tick,
        frame: &mut Frame,
        packet: &EspPacket,
    ) -> Result<Range<usize>, Fate> {
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
        let Opened {
            inner,
            next_header,
            seq,
            new_highest,
        } = match epoch.inbound.open(chunk, packet.range(headers.start)) {
            Ok(opened) => opened,
            Err(error) => return Err(refused(epoch, error)),
        };
        epoch.counters.last_in_ns.set(tick.ns);
        if new_highest && epoch.tell_moves.is_some_and(|at| at <= tick.ns) {
            tell_move(epoch, events, chunk, headers.clone(), tick);
        }
        let ether_type = match next_header {
            protocol::IPV4 => EtherType::IPV4,
            protocol::IPV6 => EtherType::IPV6,
            other => {
                first_inbound(epoch, events, false);
                let wanted = wanted[usize::from(other)];
                return Err(match other {
                    _ if wanted => {
                        let opened = Opened {
                            inner,
                            next_header,
                            seq,
                            new_highest,
                        };
                        tell_inner(epoch, events, chunk, headers, opened, tick)
                    }
                    protocol::NONE => Fate::Dummy,
                    _ => Fate::NextHeader,
                });
            }
        };
        let ip = inner.start;
        let content = chunk.get_mut(inner.clone()).ok_or(Fate::BadInner)?;
        let plain = Ip::plain(content).filter(|_| ether_type == EtherType::IPV4);
        let accepted = match plain {
            Some(ip) => accept(epoch, config, content, &ip, packet.ecn),
            None => accept_any(epoch, config, content, ether_type, packet.ecn),
        };
        if !epoch.heard_data {
            first_inbound(epoch, events, accepted.is_ok());
        }
        if accepted == Err(Fate::ToControl) {
            let opened = Opened {
                inner,
                next_header,
                seq,
                new_highest,
            };
            return Err(tell_inner(epoch, events, chunk, headers, opened, tick));
        }
        let len = accepted?;
        let start = write_link(inner_macs, chunk, ip, ether_type).ok_or(Fate::NoRoom)?;
        Ok(start..ip + len)
    }

    /// Hands a copy of the frame to the control plane.
    #[cold]
    fn tell_outer(&mut self, tick: Tick, frame: &Frame) -> Fate {
        let bytes = self.frames.umem(Side::Outer).bytes(frame);
        let (room, received_at) = (self.events.room_for_strangers(), tick.now);
        let copy = if room { self.events.copy(bytes) } else { None };
        let told = copy.is_some_and(|frame| self.events.offer(Event::Outer { frame, received_at }));
        if told {
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

/// Raises Moved if a packet, whose outer headers lie at `headers` in the chunk, came from elsewhere
/// than where the epoch's packets go.
#[inline(never)]
fn tell_move(
    epoch: &mut Epoch,
    events: &mut Events,
    chunk: &[u8],
    headers: Range<usize>,
    tick: Tick,
) {
    let peer = epoch.template.as_ref().and_then(Template::peer);
    let Some((from, to)) = chunk.get(headers).and_then(endpoints) else {
        return;
    };
    if peer.is_none_or(|peer| peer == from) {
        epoch.tell_moves = Some(tick.ns.saturating_add(LOOK_EVERY_NS));
        return;
    }
    let event = Event::Moved {
        tunnel: epoch.tunnel,
        epoch: epoch.id,
        from,
        to,
    };
    if events.offer(event) {
        epoch.tell_moves = Some(tick.ns.saturating_add(MOVES_EVERY_NS));
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
    opened: Opened,
    tick: Tick,
) -> Fate {
    let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let (from, to) = chunk
        .get(headers)
        .and_then(endpoints)
        .unwrap_or((unknown, unknown));
    let payload = chunk.get(opened.inner).unwrap_or_default();
    // What a buffer has no room for is the padding of a path MTU probe.
    let payload = payload.get(..CONTROL_BUF_SIZE).unwrap_or(payload);
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
