//! The IKE header, RFC 7296 §3.1.

use core::fmt;

use super::{ExchangeType, ParseError, PayloadType, Reader};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 28;
/// Version 2.0.
pub(super) const VERSION: u8 = 0x20;
const LENGTH_AT: usize = 24;

/// One side's SPI of an IKE SA; zero only for "not yet known".
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IkeSpi(pub [u8; 8]);

impl IkeSpi {
    /// The responder's SPI before it has chosen one.
    pub const ZERO: Self = Self([0; 8]);

    /// Not yet known.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

impl fmt::Display for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The two flags that mean something to version 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// I: the sender is the original initiator of the IKE SA.
    pub initiator: bool,
    /// R: this is a response.
    pub response: bool,
}

impl Flags {
    const INITIATOR: u8 = 0x08;
    const RESPONSE: u8 = 0x20;

    const fn from_byte(byte: u8) -> Self {
        Self {
            initiator: byte & Self::INITIATOR != 0,
            response: byte & Self::RESPONSE != 0,
        }
    }

    const fn to_byte(self) -> u8 {
        (if self.initiator { Self::INITIATOR } else { 0 })
            | (if self.response { Self::RESPONSE } else { 0 })
    }
}

/// The header alone: enough to find the IKE SA that a datagram belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The original initiator's SPI.
    pub spi_i: IkeSpi,
    /// The original responder's SPI.
    pub spi_r: IkeSpi,
    /// Type of the first payload.
    pub next_payload: PayloadType,
    /// Major version in the upper, minor in the lower four bits.
    pub version: u8,
    /// What the message belongs to.
    pub exchange: ExchangeType,
    /// Who sends it, request or response.
    pub flags: Flags,
    /// Pairs a response with its request.
    pub message_id: u32,
    /// Header and payloads, in bytes.
    pub length: u32,
}

impl Header {
    /// Reads the header at the start of `bytes`; judges neither version nor length.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader(bytes);
        Ok(Self {
            spi_i: IkeSpi(reader.array()?),
            spi_r: IkeSpi(reader.array()?),
            next_payload: PayloadType(reader.u8()?),
            version: reader.u8()?,
            exchange: ExchangeType(reader.u8()?),
            flags: Flags::from_byte(reader.u8()?),
            message_id: u32::from_be_bytes(reader.array()?),
            length: u32::from_be_bytes(reader.array()?),
        })
    }

    /// The SPI that the *receiver* of this message chose: what to look its IKE SA up by. Zero in
    /// the first request.
    #[must_use]
    pub const fn receiver_spi(&self) -> IkeSpi {
        if self.flags.initiator {
            self.spi_r
        } else {
            self.spi_i
        }
    }

    /// The header as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&self.spi_i.0);
        out[8..16].copy_from_slice(&self.spi_r.0);
        out[16] = self.next_payload.0;
        out[17] = self.version;
        out[18] = self.exchange.0;
        out[19] = self.flags.to_byte();
        out[20..LENGTH_AT].copy_from_slice(&self.message_id.to_be_bytes());
        out[LENGTH_AT..].copy_from_slice(&self.length.to_be_bytes());
        out
    }
}

/// `message` is at least a header long.
pub(super) fn set_length(message: &mut [u8], length: u32) {
    message[LENGTH_AT..HEADER_LEN].copy_from_slice(&length.to_be_bytes());
}
