//! IPv6 (RFC 8200), with a bounded walk over extension headers.

use core::net::Ipv6Addr;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::icmp::Quoted;
use crate::ip::{Flow, TrafficClass};
use crate::{WireError, split, split_mut};

/// What every link takes (RFC 8200 §5), bytes.
pub const MIN_MTU: usize = 1280;
/// Length of the fixed header, bytes.
pub const HEADER_LEN: usize = 40;
/// Extension headers that are walked before a packet is refused; RFC 8200 §4.1 names seven.
pub const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    version_class_flow: U32,
    payload_len: U16,
    next_header: u8,
    hop_limit: u8,
    src: [u8; 16],
    dst: [u8; 16],
}

/// First bytes of every extension header but Fragment, which has the same size and no length.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Extension {
    next_header: u8,
    length: u8,
    fragment: U16,
    id: U32,
}

/// The values of a fixed header. The payload length comes from the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Source.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
    /// Type of the header that follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub traffic_class: TrafficClass,
    /// Flow label, 20 bits.
    pub flow_label: u32,
}

impl Header {
    /// Hop limit 64, no class, no label.
    #[must_use]
    pub const fn new(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8) -> Self {
        Self {
            src,
            dst,
            next_header,
            hop_limit: 64,
            traffic_class: TrafficClass(0),
            flow_label: 0,
        }
    }

    /// Writes the header for `payload_len` bytes (extension headers included) to the start of
    /// `out` and returns its length, 40.
    pub fn emit(&self, payload_len: usize, out: &mut [u8]) -> Result<usize, WireError> {
        let payload_len = u16::try_from(payload_len).map_err(|_| WireError::NoRoom)?;
        let class = u32::from(self.traffic_class.0);
        *split_mut::<Raw>(out)?.0 = Raw {
            version_class_flow: (6 << 28 | class << 20 | self.flow_label & 0xf_ffff).into(),
            payload_len: payload_len.into(),
            next_header: self.next_header,
            hop_limit: self.hop_limit,
            src: self.src.octets(),
            dst: self.dst.octets(),
        };
        Ok(HEADER_LEN)
    }
}

/// A checked IPv6 packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    raw: &'a Raw,
    extensions: &'a [u8],
    protocol: u8,
    fragment: u16,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks version and payload length, and walks over at most [`MAX_EXTENSIONS`] extension
    /// headers; the walk ends at a fragment header that is not the first. Bytes beyond the payload
    /// length are cut off. Jumbograms (RFC 2675) are refused.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (raw, rest) = split::<Raw>(bytes)?;
        if raw.version_class_flow.get() >> 28 != 6 {
            return Err(WireError::BadVersion);
        }
        let body = rest
            .get(..usize::from(raw.payload_len.get()))
            .ok_or(WireError::Truncated)?;
        let (mut protocol, mut fragment, mut payload) = (raw.next_header, 0, body);
        let mut walked = 0;
        loop {
            let is_extension = matches!(
                protocol,
                HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
            );
            // Behind a fragment header that is not the first there is the middle of something.
            if !is_extension || fragment & !7 != 0 {
                break;
            }
            if walked == MAX_EXTENSIONS {
                return Err(WireError::Malformed);
            }
            walked += 1;
            let (extension, _) = split::<Extension>(payload)?;
            let units = usize::from(extension.length);
            let len = match protocol {
                FRAGMENT => {
                    fragment = extension.fragment.get();
                    8
                }
                AUTHENTICATION => (units + 2) * 4, // RFC 4302 §2.2
                _ => (units + 1) * 8,
            };
            protocol = extension.next_header;
            payload = payload.get(len..).ok_or(WireError::Truncated)?;
        }
        let (extensions, payload) = body.split_at(body.len() - payload.len());
        Ok(Self {
            raw,
            extensions,
            protocol,
            fragment,
            payload,
        })
    }

    /// Source address.
    #[must_use]
    pub const fn src(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.raw.src)
    }

    /// Destination address.
    #[must_use]
    pub const fn dst(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.raw.dst)
    }

    /// Protocol of the payload, behind the extension headers.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Hop limit.
    #[must_use]
    pub const fn hop_limit(&self) -> u8 {
        self.raw.hop_limit
    }

    /// DSCP and ECN.
    #[must_use]
    pub fn traffic_class(&self) -> TrafficClass {
        let [a, b, ..] = self.raw.version_class_flow.to_bytes();
        TrafficClass(a << 4 | b >> 4)
    }

    /// Flow label, 20 bits.
    #[must_use]
    pub fn flow_label(&self) -> u32 {
        self.raw.version_class_flow.get() & 0xf_ffff
    }

    /// Place of this fragment, bytes; 0 without a fragment header.
    #[must_use]
    pub const fn fragment_offset(&self) -> u16 {
        self.fragment & !7
    }

    /// M flag of the fragment header.
    #[must_use]
    pub const fn more_fragments(&self) -> bool {
        self.fragment & 1 != 0
    }

    /// Whether this is a fragment; an atomic one (RFC 6946) is not.
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.more_fragments() || self.fragment_offset() != 0
    }

    /// Fixed header and extension headers, bytes.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.extensions.len()
    }

    /// Headers and payload, bytes.
    #[must_use]
    pub const fn total_len(&self) -> usize {
        self.header_len() + self.payload.len()
    }

    /// What follows the extension headers.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The fixed header's values.
    #[must_use]
    pub fn header(&self) -> Header {
        Header {
            src: self.src(),
            dst: self.dst(),
            next_header: self.raw.next_header,
            hop_limit: self.hop_limit(),
            traffic_class: self.traffic_class(),
            flow_label: self.flow_label(),
        }
    }

    /// What selectors look at.
    #[must_use]
    pub fn flow(&self) -> Flow {
        let upper = (self.fragment_offset() == 0).then_some(self.payload);
        Flow::new(self.src().into(), self.dst().into(), self.protocol(), upper)
    }
}

/// See [`crate::icmp::quoted_header`].
pub(crate) fn quoted(bytes: &[u8]) -> Result<Quoted<'_>, WireError> {
    let (raw, payload) = split::<Raw>(bytes)?;
    Ok(Quoted {
        src: Ipv6Addr::from_octets(raw.src).into(),
        dst: Ipv6Addr::from_octets(raw.dst).into(),
        protocol: raw.next_header,
        payload,
    })
}

/// See [`crate::ip::decrement_hop_limit`].
pub fn decrement_hop_limit(packet: &mut [u8]) -> Result<u8, WireError> {
    let (raw, _) = Raw::mut_from_prefix(packet).map_err(|_| WireError::Truncated)?;
    if raw.hop_limit <= 1 {
        return Ok(0);
    }
    raw.hop_limit -= 1;
    Ok(raw.hop_limit)
}

/// See [`crate::ip::set_traffic_class`].
pub fn set_traffic_class(packet: &mut [u8], class: TrafficClass) -> Result<(), WireError> {
    let (raw, _) = Raw::mut_from_prefix(packet).map_err(|_| WireError::Truncated)?;
    let rest = raw.version_class_flow.get() & !(0xff << 20);
    raw.version_class_flow = (rest | u32::from(class.0) << 20).into();
    Ok(())
}
