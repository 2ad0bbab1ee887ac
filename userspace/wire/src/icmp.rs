//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and errors with the packet they quote.
//!
//! The two families share one layout; which one a message belongs to is told by its addresses.

use core::net::IpAddr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Sum;
use crate::ip::{self, TrafficClass, protocol};
use crate::{WireError, frame, ipv4, ipv6, split, split_mut};

/// Length of the header, bytes.
pub const HEADER_LEN: usize = 8;

/// Longest ICMP error over IPv4, IP header included (RFC 1812 §4.3.2.3), bytes.
const MAX_ERROR_V4: usize = 576;
/// Longest ICMPv6 error, IP header included (RFC 4443 §2.4 (c)), bytes.
const MAX_ERROR_V6: usize = 1280;

const V4_ECHO_REPLY: u8 = 0;
const V4_UNREACHABLE: u8 = 3;
const V4_ECHO_REQUEST: u8 = 8;
const V4_TIME_EXCEEDED: u8 = 11;
const V4_PARAMETER_PROBLEM: u8 = 12;
const V6_UNREACHABLE: u8 = 1;
const V6_PACKET_TOO_BIG: u8 = 2;
const V6_TIME_EXCEEDED: u8 = 3;
const V6_ECHO_REQUEST: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    kind: u8,
    code: u8,
    checksum: U16,
    rest: [u8; 4],
}

/// Which of the two protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// ICMP, protocol 1
    V4,
    /// ICMPv6, protocol 58
    V6,
}

impl Family {
    /// The one spoken between addresses of this kind.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Its IP protocol number.
    #[must_use]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::V4 => protocol::ICMP,
            Self::V6 => protocol::ICMPV6,
        }
    }
}

/// An echo request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Echo<'a> {
    /// Request, or else reply.
    pub request: bool,
    /// Identifier.
    pub id: u16,
    /// Sequence number.
    pub seq: u16,
    /// Echoed data.
    pub data: &'a [u8],
}

impl Echo<'_> {
    /// Writes the message that goes from `src` to `dst`, checksum included, and returns its length.
    pub fn emit(&self, src: IpAddr, dst: IpAddr, out: &mut [u8]) -> Result<usize, WireError> {
        let kind = match (Family::of(src), self.request) {
            (Family::V4, true) => V4_ECHO_REQUEST,
            (Family::V4, false) => V4_ECHO_REPLY,
            (Family::V6, true) => V6_ECHO_REQUEST,
            (Family::V6, false) => V6_ECHO_REPLY,
        };
        let [a, b] = self.id.to_be_bytes();
        let [c, d] = self.seq.to_be_bytes();
        emit((src, dst), (kind, 0), [a, b, c, d], self.data, out)
    }
}

/// Writes a whole IP packet with an echo request or reply and returns its length.
pub fn emit_echo(
    (src, dst): (IpAddr, IpAddr),
    echo: &Echo<'_>,
    out: &mut [u8],
) -> Result<usize, WireError> {
    let class = (64, TrafficClass::default());
    let len = HEADER_LEN + echo.data.len();
    let at = frame::emit_ip((src, dst), Family::of(src).protocol(), class, len, out)?;
    Ok(at + echo.emit(src, dst, &mut out[at..])?)
}

/// Reads a whole IP packet, unfragmented and with a right checksum, as an echo request or reply; with its
/// source and destination.
#[must_use]
pub fn parse_echo(bytes: &[u8]) -> Option<((IpAddr, IpAddr), Echo<'_>)> {
    let packet = ip::Packet::new_checked(bytes).ok()?;
    let (src, dst) = (packet.src(), packet.dst());
    let family = Family::of(src);
    if packet.protocol() != family.protocol() || packet.is_fragment() {
        return None;
    }
    let message = Message::new_checked(family, packet.payload()).ok()?;
    let echo = message.echo().filter(|_| message.checksum_ok(src, dst))?;
    Some(((src, dst), echo))
}

/// A checked ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    family: Family,
    raw: &'a Raw,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Checks that the eight bytes of header are there.
    pub fn new_checked(family: Family, bytes: &'a [u8]) -> Result<Self, WireError> {
        let (raw, body) = split::<Raw>(bytes)?;
        Ok(Self { family, raw, body })
    }

    /// Type.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.raw.kind
    }

    /// Code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.raw.code
    }

    /// Whether the checksum is right; only ICMPv6 covers the addresses.
    #[must_use]
    pub fn checksum_ok(&self, src: IpAddr, dst: IpAddr) -> bool {
        pseudo_header(self.family, src, dst, HEADER_LEN + self.body.len())
            .bytes(self.raw.as_bytes())
            .bytes(self.body)
            .folded()
            == 0xffff
    }

    /// The echo request or reply that this message is.
    #[must_use]
    pub fn echo(&self) -> Option<Echo<'a>> {
        let request = match (self.family, self.raw.kind) {
            (Family::V4, V4_ECHO_REQUEST) | (Family::V6, V6_ECHO_REQUEST) => true,
            (Family::V4, V4_ECHO_REPLY) | (Family::V6, V6_ECHO_REPLY) => false,
            _ => return None,
        };
        let [a, b, c, d] = self.raw.rest;
        Some(Echo {
            request,
            id: u16::from_be_bytes([a, b]),
            seq: u16::from_be_bytes([c, d]),
            data: self.body,
        })
    }

    /// Whether this is an error message: about another packet, and never to be answered by one.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        match self.family {
            // Source quench and redirect too (RFC 1122 §3.2.2).
            Family::V4 => matches!(
                self.raw.kind,
                3 | 4 | 5 | V4_TIME_EXCEEDED | V4_PARAMETER_PROBLEM
            ),
            Family::V6 => self.raw.kind < V6_ECHO_REQUEST,
        }
    }

    /// The start of the packet that an error is about, IP header first. It is cut off somewhere,
    /// so it is no checked packet: see [`quoted_header`].
    #[must_use]
    pub fn quoted(&self) -> Option<&'a [u8]> {
        self.is_error().then_some(self.body)
    }

    /// The MTU of the next hop, bytes, where the error tells it (RFC 1191 §4, RFC 4443 §3.2). 0
    /// over IPv4 is a router that does not know.
    #[must_use]
    pub fn next_hop_mtu(&self) -> Option<u32> {
        let [_, _, c, d] = self.raw.rest;
        match (self.family, self.raw.kind, self.raw.code) {
            (Family::V4, V4_UNREACHABLE, 4) => Some(u16::from_be_bytes([c, d]).into()),
            (Family::V6, V6_PACKET_TOO_BIG, _) => Some(u32::from_be_bytes(self.raw.rest)),
            _ => None,
        }
    }
}

/// What can still be read of a quoted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<'a> {
    /// Source of the packet that caused the error.
    pub src: IpAddr,
    /// Its destination.
    pub dst: IpAddr,
    /// Its protocol (IPv6: of the fixed header; extension headers are not walked).
    pub protocol: u8,
    /// What follows the IP header, cut off after 8 bytes or more.
    pub payload: &'a [u8],
}

/// Reads the IP header of a quoted packet without believing its total length.
pub fn quoted_header(bytes: &[u8]) -> Result<Quoted<'_>, WireError> {
    match bytes.first().ok_or(WireError::Truncated)? >> 4 {
        4 => ipv4::quoted(bytes),
        6 => ipv6::quoted(bytes),
        _ => Err(WireError::BadVersion),
    }
}

/// Why a packet is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Problem {
    /// It does not fit and may not be fragmented.
    TooBig {
        /// The size that fits, IP header included, bytes.
        mtu: u32,
    },
    /// Its TTL or hop limit ran out here.
    HopLimit,
    /// Policy forbids it (RFC 1812 §5.2.7.1 code 13, RFC 4443 §3.1 code 1).
    Prohibited,
}

/// Writes a whole IP packet, from `here` to the source of `offending`, that reports `problem`, and
/// returns its length. `Ok(None)` where an error must not be sent (RFC 1122 §3.2.2, RFC 4443 §2.4):
/// about an ICMP error, a fragment that is not the first, a multicast or unusable source or
/// destination. The caller limits the rate. `here` and `offending` must be of one family.
pub fn emit_error(
    here: IpAddr,
    problem: Problem,
    offending: &[u8],
    out: &mut [u8],
) -> Result<Option<usize>, WireError> {
    let packet = ip::Packet::new_checked(offending)?;
    let (src, dst, family) = (packet.src(), packet.dst(), Family::of(packet.src()));
    if Family::of(here) != family {
        return Err(WireError::Malformed);
    }
    let answers_error = packet.protocol() == family.protocol()
        && Message::new_checked(family, packet.payload()).is_ok_and(|message| message.is_error());
    let first = packet.flow().ports.is_some() || !packet.is_fragment();
    let broadcast = |address| address == IpAddr::from([255; 4]);
    let unusable =
        src.is_multicast() || src.is_unspecified() || src.is_loopback() || broadcast(src);
    if answers_error || !first || unusable || dst.is_multicast() || broadcast(dst) {
        return Ok(None);
    }
    let (kind_code, rest) = match (family, problem) {
        (Family::V4, Problem::TooBig { mtu }) => {
            let [a, b] = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
            ((V4_UNREACHABLE, 4), [0, 0, a, b])
        }
        (Family::V4, Problem::HopLimit) => ((V4_TIME_EXCEEDED, 0), [0; 4]),
        (Family::V4, Problem::Prohibited) => ((V4_UNREACHABLE, 13), [0; 4]),
        (Family::V6, Problem::TooBig { mtu }) => ((V6_PACKET_TOO_BIG, 0), mtu.to_be_bytes()),
        (Family::V6, Problem::HopLimit) => ((V6_TIME_EXCEEDED, 0), [0; 4]),
        (Family::V6, Problem::Prohibited) => ((V6_UNREACHABLE, 1), [0; 4]),
    };
    let (ip_len, max) = match family {
        Family::V4 => (ipv4::HEADER_LEN, MAX_ERROR_V4),
        Family::V6 => (ipv6::HEADER_LEN, MAX_ERROR_V6),
    };
    let quoted = &offending[..packet.total_len().min(max - ip_len - HEADER_LEN)];
    let class = (64, TrafficClass::default());
    let len = HEADER_LEN + quoted.len();
    let at = frame::emit_ip((here, src), family.protocol(), class, len, out)?;
    Ok(Some(
        at + emit((here, src), kind_code, rest, quoted, &mut out[at..])?,
    ))
}

fn pseudo_header(family: Family, src: IpAddr, dst: IpAddr, length: usize) -> Sum {
    match (family, u32::try_from(length)) {
        (Family::V6, Ok(length)) => Sum::new().pseudo_header(src, dst, protocol::ICMPV6, length),
        _ => Sum::new(),
    }
}

fn emit(
    (src, dst): (IpAddr, IpAddr),
    (kind, code): (u8, u8),
    rest: [u8; 4],
    body: &[u8],
    out: &mut [u8],
) -> Result<usize, WireError> {
    let len = HEADER_LEN + body.len();
    let out = out.get_mut(..len).ok_or(WireError::NoRoom)?;
    out[HEADER_LEN..].copy_from_slice(body);
    *split_mut::<Raw>(out)?.0 = Raw {
        kind,
        code,
        checksum: U16::ZERO,
        rest,
    };
    let checksum = pseudo_header(Family::of(src), src, dst, len)
        .bytes(out)
        .checksum();
    split_mut::<Raw>(out)?.0.checksum = checksum.into();
    Ok(len)
}
