//! UDP (RFC 768), and what lies inside it on port 4500 (RFC 3948).

use core::net::IpAddr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Sum;
use crate::ip::protocol;
use crate::{WireError, split, split_mut};

/// Length of the header, bytes.
pub const HEADER_LEN: usize = 8;
/// IKE (RFC 7296 §2)
pub const PORT_IKE: u16 = 500;
/// IKE and ESP in UDP (RFC 3948)
pub const PORT_NAT_T: u16 = 4500;
/// What precedes IKE on port 4500: where ESP would have its SPI (RFC 3948 §2.2).
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// The payload of a NAT keepalive (RFC 3948 §2.3).
pub const KEEPALIVE: [u8; 1] = [0xff];

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    src_port: U16,
    dst_port: U16,
    length: U16,
    checksum: U16,
}

/// The values of a header. Length and checksum come from the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl Header {
    /// Writes the header for `payload_len` bytes to the start of `out` and returns its length, 8.
    /// The checksum is zero, "none", as RFC 3948 §2.1 wants it for ESP over IPv4; everything else
    /// calls [`fill_checksum`] afterwards.
    pub fn emit(&self, payload_len: usize, out: &mut [u8]) -> Result<usize, WireError> {
        let length = u16::try_from(HEADER_LEN + payload_len).map_err(|_| WireError::NoRoom)?;
        *split_mut::<Raw>(out)?.0 = Raw {
            src_port: self.src_port.into(),
            dst_port: self.dst_port.into(),
            length: length.into(),
            checksum: U16::ZERO,
        };
        Ok(HEADER_LEN)
    }
}

/// Sets the checksum of the datagram that `datagram` is, from header to last byte.
pub fn fill_checksum(src: IpAddr, dst: IpAddr, datagram: &mut [u8]) -> Result<(), WireError> {
    let length = u32::try_from(datagram.len()).map_err(|_| WireError::BadLength)?;
    split_mut::<Raw>(datagram)?.0.checksum = U16::ZERO;
    let sum = Sum::new()
        .pseudo_header(src, dst, protocol::UDP, length)
        .bytes(datagram);
    // Zero on the wire means "none"; the other zero of ones' complement means the same number.
    let checksum = match sum.checksum() {
        0 => 0xffff,
        other => other,
    };
    split_mut::<Raw>(datagram)?.0.checksum = checksum.into();
    Ok(())
}

/// A checked UDP datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    raw: &'a Raw,
    payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Checks the length field; bytes beyond it are cut off.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (raw, rest) = split::<Raw>(bytes)?;
        let payload_len = usize::from(raw.length.get())
            .checked_sub(HEADER_LEN)
            .ok_or(WireError::BadLength)?;
        let payload = rest.get(..payload_len).ok_or(WireError::Truncated)?;
        Ok(Self { raw, payload })
    }

    /// Source port.
    #[must_use]
    pub fn src_port(&self) -> u16 {
        self.raw.src_port.get()
    }

    /// Destination port.
    #[must_use]
    pub fn dst_port(&self) -> u16 {
        self.raw.dst_port.get()
    }

    /// The header's values.
    #[must_use]
    pub fn header(&self) -> Header {
        Header {
            src_port: self.src_port(),
            dst_port: self.dst_port(),
        }
    }

    /// The datagram's content.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the sender left the checksum out.
    #[must_use]
    pub fn checksum_is_zero(&self) -> bool {
        self.raw.checksum == U16::ZERO
    }

    /// Whether the checksum is right, or left out over IPv4 (RFC 768). Over IPv6 a missing one is
    /// wrong here; a tunnel protocol that allows it (RFC 6935) asks [`Datagram::checksum_is_zero`].
    #[must_use]
    pub fn checksum_ok(&self, src: IpAddr, dst: IpAddr) -> bool {
        if self.checksum_is_zero() {
            return src.is_ipv4();
        }
        let length = u32::from(self.raw.length.get());
        let sum = Sum::new().pseudo_header(src, dst, protocol::UDP, length);
        sum.bytes(self.raw.as_bytes()).bytes(self.payload).folded() == 0xffff
    }
}

/// What a UDP payload on port 4500 is (RFC 3948 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatT<'a> {
    /// One byte 0xff; dropped by the receiver.
    Keepalive,
    /// IKE, without the non-ESP marker.
    Ike(&'a [u8]),
    /// ESP; starts with a non-zero SPI and may still be too short.
    Esp(&'a [u8]),
}

impl<'a> NatT<'a> {
    /// Tells the three apart; anything shorter than an SPI that is no keepalive is an error.
    pub fn new_checked(payload: &'a [u8]) -> Result<Self, WireError> {
        if payload == KEEPALIVE {
            return Ok(Self::Keepalive);
        }
        let (marker, rest) = payload
            .split_first_chunk::<4>()
            .ok_or(WireError::Truncated)?;
        Ok(if *marker == NON_ESP_MARKER {
            Self::Ike(rest)
        } else {
            Self::Esp(payload)
        })
    }
}
