//! The layout of ESP (RFC 4303 §2); the cryptography lives in mitregate-esp.

use core::fmt;
use core::num::NonZeroU32;

use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{WireError, split, split_mut};

/// SPI and sequence number, bytes.
pub const HEADER_LEN: usize = 8;
/// Explicit IV of AES-GCM and ChaCha20-Poly1305, bytes (RFC 4106 §3.1, RFC 7634 §2).
pub const IV_LEN: usize = 8;
/// Integrity check value, bytes (RFC 4106 §6, RFC 7634 §2).
pub const ICV_LEN: usize = 16;
/// Pad Length and Next Header, bytes, the last of the plaintext.
pub const TRAILER_LEN: usize = 2;
/// The plaintext is padded to a multiple of this (RFC 4303 §2.4).
pub const ALIGN: usize = 4;
/// Longest padding (without TFC padding), bytes.
pub const MAX_PAD: usize = 255;

/// An SPI that may name an SA: not 0 (never sent) and not 1..=255 (reserved), RFC 4303 §2.1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spi(NonZeroU32);

impl Spi {
    /// Smallest SPI that may name an SA.
    pub const MIN: u32 = 256;

    /// `None` for 0..=255.
    #[must_use]
    pub const fn new(spi: u32) -> Option<Self> {
        match NonZeroU32::new(spi) {
            Some(n) if spi >= Self::MIN => Some(Self(n)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Network byte order.
    #[must_use]
    pub const fn to_be_bytes(self) -> [u8; 4] {
        self.0.get().to_be_bytes()
    }
}

impl TryFrom<u32> for Spi {
    type Error = WireError;

    fn try_from(spi: u32) -> Result<Self, WireError> {
        Self::new(spi).ok_or(WireError::Malformed)
    }
}

impl fmt::Display for Spi {
    /// Eight hexadecimal digits, as `list-sas` and tshark show them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spi({self})")
    }
}

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    spi: U32,
    sequence: U32,
}

/// Writes SPI and the low 32 bits of a sequence number to the start of `out`. The SPI is a bare
/// number because the plain form of ESP Echo uses reserved ones.
pub fn emit_header(spi: u32, sequence: u32, out: &mut [u8]) -> Result<usize, WireError> {
    *split_mut::<Raw>(out)?.0 = Raw {
        spi: spi.into(),
        sequence: sequence.into(),
    };
    Ok(HEADER_LEN)
}

/// An ESP packet of which only the header has been looked at.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    raw: &'a Raw,
    body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks that SPI and sequence number are there.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (raw, body) = split::<Raw>(bytes)?;
        Ok(Self { raw, body })
    }

    /// The SPI as it stands, reserved or not.
    #[must_use]
    pub fn raw_spi(&self) -> u32 {
        self.raw.spi.get()
    }

    /// The SPI, unless it is one that names no SA.
    #[must_use]
    pub fn spi(&self) -> Option<Spi> {
        Spi::new(self.raw_spi())
    }

    /// Low 32 bits of the sequence number.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.raw.sequence.get()
    }

    /// IV, ciphertext and ICV.
    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }
}
