//! IPv4 (RFC 791).

use core::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::icmp::Quoted;
use crate::ip::{Flow, TrafficClass};
use crate::{WireError, checksum, split, split_mut};

/// Length of a header without options, bytes.
pub const HEADER_LEN: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    version_ihl: u8,
    tos: u8,
    total_len: U16,
    id: U16,
    fragment: U16,
    ttl: u8,
    protocol: u8,
    checksum: U16,
    src: [u8; 4],
    dst: [u8; 4],
}

/// The values of a header without options. Lengths and checksum come from the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// DSCP and ECN.
    pub traffic_class: TrafficClass,
    /// Identification.
    pub id: u16,
    /// DF
    pub dont_fragment: bool,
    /// MF
    pub more_fragments: bool,
    /// Place of this fragment, in bytes, a multiple of 8 up to 65528.
    pub fragment_offset: u16,
}

impl Header {
    /// A whole packet: TTL 64, DF set, id 0 (RFC 6864 §4.1 allows any id with DF).
    #[must_use]
    pub const fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8) -> Self {
        Self {
            src,
            dst,
            protocol,
            ttl: 64,
            traffic_class: TrafficClass(0),
            id: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
        }
    }

    /// Writes the header for `payload_len` bytes to the start of `out`, checksum included, and
    /// returns its length, 20.
    pub fn emit(&self, payload_len: usize, out: &mut [u8]) -> Result<usize, WireError> {
        let total_len = u16::try_from(HEADER_LEN + payload_len).map_err(|_| WireError::NoRoom)?;
        let (raw, _) = split_mut::<Raw>(out)?;
        let flag = |set, bit| if set { bit } else { 0 };
        *raw = Raw {
            version_ihl: 0x45,
            tos: self.traffic_class.0,
            total_len: total_len.into(),
            id: self.id.into(),
            fragment: (flag(self.dont_fragment, DONT_FRAGMENT)
                | flag(self.more_fragments, MORE_FRAGMENTS)
                | self.fragment_offset >> 3)
                .into(),
            ttl: self.ttl,
            protocol: self.protocol,
            checksum: U16::ZERO,
            src: self.src.octets(),
            dst: self.dst.octets(),
        };
        raw.checksum = checksum::checksum(raw.as_bytes()).into();
        Ok(HEADER_LEN)
    }
}

/// A checked IPv4 packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    raw: &'a Raw,
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks version, IHL and total length. Bytes beyond the total length are cut off. The
    /// header checksum is looked at by [`Packet::checksum_ok`] only.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (raw, _) = split::<Raw>(bytes)?;
        if raw.version_ihl >> 4 != 4 {
            return Err(WireError::BadVersion);
        }
        let header_len = usize::from(raw.version_ihl & 0x0f) * 4;
        let total_len = usize::from(raw.total_len.get());
        if header_len < HEADER_LEN || total_len < header_len {
            return Err(WireError::BadLength);
        }
        let bytes = bytes.get(..total_len).ok_or(WireError::Truncated)?;
        let (header, payload) = bytes.split_at(header_len);
        let (_, options) = header.split_at(HEADER_LEN);
        Ok(Self {
            raw,
            options,
            payload,
        })
    }

    /// Source address.
    #[must_use]
    pub const fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.raw.src)
    }

    /// Destination address.
    #[must_use]
    pub const fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.raw.dst)
    }

    /// Protocol of the payload.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.raw.protocol
    }

    /// Time to live.
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        self.raw.ttl
    }

    /// DSCP and ECN.
    #[must_use]
    pub const fn traffic_class(&self) -> TrafficClass {
        TrafficClass(self.raw.tos)
    }

    /// Identification.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.raw.id.get()
    }

    /// DF
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        self.raw.fragment.get() & DONT_FRAGMENT != 0
    }

    /// MF
    #[must_use]
    pub fn more_fragments(&self) -> bool {
        self.raw.fragment.get() & MORE_FRAGMENTS != 0
    }

    /// Place of this fragment, bytes.
    #[must_use]
    pub fn fragment_offset(&self) -> u16 {
        (self.raw.fragment.get() & OFFSET_MASK) << 3
    }

    /// Whether this is a fragment: the first, the last or one between.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.more_fragments() || self.fragment_offset() != 0
    }

    /// Header with options, bytes, 20..=60.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Header and payload, bytes.
    #[must_use]
    pub const fn total_len(&self) -> usize {
        self.header_len() + self.payload.len()
    }

    /// Options as they are, a multiple of four bytes.
    #[must_use]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// What follows header and options.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the header's checksum is right.
    #[must_use]
    pub fn checksum_ok(&self) -> bool {
        checksum::Sum::new()
            .bytes(self.raw.as_bytes())
            .bytes(self.options)
            .folded()
            == 0xffff
    }

    /// The header's values, options left out.
    #[must_use]
    pub fn header(&self) -> Header {
        Header {
            src: self.src(),
            dst: self.dst(),
            protocol: self.protocol(),
            ttl: self.ttl(),
            traffic_class: self.traffic_class(),
            id: self.id(),
            dont_fragment: self.dont_fragment(),
            more_fragments: self.more_fragments(),
            fragment_offset: self.fragment_offset(),
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
    let (raw, _) = split::<Raw>(bytes)?;
    let header_len = usize::from(raw.version_ihl & 0x0f) * 4;
    if header_len < HEADER_LEN {
        return Err(WireError::BadLength);
    }
    Ok(Quoted {
        src: Ipv4Addr::from_octets(raw.src).into(),
        dst: Ipv4Addr::from_octets(raw.dst).into(),
        protocol: raw.protocol,
        payload: bytes.get(header_len..).ok_or(WireError::Truncated)?,
    })
}

/// Rewrites the 16-bit word of the header that `change` touches, with the checksum following.
fn rewrite(
    packet: &mut [u8],
    word: fn(&Raw) -> u16,
    change: impl FnOnce(&mut Raw),
) -> Result<(), WireError> {
    let (raw, _) = Raw::mut_from_prefix(packet).map_err(|_| WireError::Truncated)?;
    let old = word(raw);
    change(raw);
    raw.checksum = checksum::update(raw.checksum.get(), old, word(raw)).into();
    Ok(())
}

/// See [`crate::ip::decrement_hop_limit`].
pub fn decrement_ttl(packet: &mut [u8]) -> Result<u8, WireError> {
    let ttl = split::<Raw>(packet)?.0.ttl;
    if ttl <= 1 {
        return Ok(0);
    }
    rewrite(
        packet,
        |raw| u16::from_be_bytes([raw.ttl, raw.protocol]),
        |raw| raw.ttl -= 1,
    )?;
    Ok(ttl - 1)
}

/// See [`crate::ip::set_traffic_class`].
pub fn set_traffic_class(packet: &mut [u8], class: TrafficClass) -> Result<(), WireError> {
    rewrite(
        packet,
        |raw| u16::from_be_bytes([raw.version_ihl, raw.tos]),
        |raw| raw.tos = class.0,
    )
}
