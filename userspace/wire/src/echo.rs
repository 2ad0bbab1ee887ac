//! ESP Echo: the ping that proves an epoch.
//!
//! After draft-ietf-ipsecme-encrypted-esp-ping-05 (work in progress; its numbers may move, and
//! stand here only): inside ESP with Next Header [`NEXT_HEADER`], or in clear right after the ESP
//! header with the reserved SPIs [`PLAIN_REQUEST_SPI`] and [`PLAIN_RESPONSE_SPI`].
//!
//! ```text
//!  0                   1                   2                   3
//! +---------------+---------------+-------------------------------+
//! |   sub-type    |R|   reserved  |            data len           |
//! +---------------+---------------+-------------------------------+
//! |           identifier          |            sequence           |
//! +-------------------------------+-------------------------------+
//! |                    return SPI (only if R)                     |
//! +---------------------------------------------------------------+
//! |  data …
//! ```

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::esp::{self, Spi};
use crate::{WireError, split, split_mut};

/// AGGFRAG_PAYLOAD, whose sub-types ESP Echo extends (RFC 9347 §6.1).
pub const NEXT_HEADER: u8 = crate::ip::protocol::AGGFRAG;
/// Header without the return SPI, bytes.
pub const HEADER_LEN: usize = 8;
/// Most data that a response carries, bytes: a responder is no amplifier.
pub const MAX_ECHOED: usize = 512;
/// SPI of a request in the plain form.
pub const PLAIN_REQUEST_SPI: u32 = 7;
/// SPI of a response in the plain form.
pub const PLAIN_RESPONSE_SPI: u32 = 8;

const REQUEST: u8 = 2;
const RESPONSE: u8 = 3;
const FLAG_RETURN_SPI: u8 = 0x80;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    sub_type: u8,
    flags: u8,
    data_len: U16,
    id: U16,
    seq: U16,
}

/// Which way an echo goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Asks; the response comes on the paired SA, or on `return_spi`, which the responder must
    /// first find to belong to the same peer.
    Request {
        /// Inbound SPI of the asking side on which it wants the response.
        return_spi: Option<Spi>,
    },
    /// Answers.
    Response,
}

/// One ESP Echo message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Echo<'a> {
    /// Request or response.
    pub kind: Kind,
    /// Chosen by the asking side, echoed.
    pub id: u16,
    /// Chosen by the asking side, echoed.
    pub seq: u16,
    /// Chosen by the asking side, echoed. At most 65535 bytes.
    pub data: &'a [u8],
}

impl<'a> Echo<'a> {
    /// Checks sub-type, flags and data length. Bytes behind the data are padding. Another sub-type
    /// is [`WireError::BadVersion`]: AGGFRAG itself, perhaps, or something newer.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (raw, rest) = split::<Raw>(bytes)?;
        let has_return_spi = raw.flags & FLAG_RETURN_SPI != 0;
        let (kind, rest) = match (raw.sub_type, has_return_spi) {
            (REQUEST, true) => {
                let (spi, rest) = split::<U32>(rest)?;
                (
                    Kind::Request {
                        return_spi: Some(Spi::try_from(spi.get())?),
                    },
                    rest,
                )
            }
            (REQUEST, false) => (Kind::Request { return_spi: None }, rest),
            (RESPONSE, false) => (Kind::Response, rest),
            (RESPONSE, true) => return Err(WireError::Malformed),
            _ => return Err(WireError::BadVersion),
        };
        let data = rest
            .get(..usize::from(raw.data_len.get()))
            .ok_or(WireError::Truncated)?;
        Ok(Self {
            kind,
            id: raw.id.get(),
            seq: raw.seq.get(),
            data,
        })
    }

    /// The response to a request: same id, sequence and data, the latter cut to [`MAX_ECHOED`].
    /// `None` for a response, which nobody answers.
    #[must_use]
    pub fn response(&self) -> Option<Self> {
        match self.kind {
            Kind::Request { .. } => Some(Self {
                kind: Kind::Response,
                data: &self.data[..self.data.len().min(MAX_ECHOED)],
                ..*self
            }),
            Kind::Response => None,
        }
    }

    /// Bytes that [`Echo::emit`] writes.
    #[must_use]
    pub fn emitted_len(&self) -> usize {
        let return_spi = matches!(
            self.kind,
            Kind::Request {
                return_spi: Some(_)
            }
        );
        HEADER_LEN + if return_spi { 4 } else { 0 } + self.data.len()
    }

    /// Writes the message to the start of `out` and returns its length.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let data_len = u16::try_from(self.data.len()).map_err(|_| WireError::NoRoom)?;
        let (sub_type, return_spi) = match self.kind {
            Kind::Request { return_spi } => (REQUEST, return_spi),
            Kind::Response => (RESPONSE, None),
        };
        let (raw, mut rest) = split_mut::<Raw>(out)?;
        *raw = Raw {
            sub_type,
            flags: if return_spi.is_some() {
                FLAG_RETURN_SPI
            } else {
                0
            },
            data_len: data_len.into(),
            id: self.id.into(),
            seq: self.seq.into(),
        };
        if let Some(spi) = return_spi {
            let (out, after) = split_mut::<U32>(rest)?;
            *out = spi.get().into();
            rest = after;
        }
        rest.get_mut(..self.data.len())
            .ok_or(WireError::NoRoom)?
            .copy_from_slice(self.data);
        Ok(self.emitted_len())
    }
}

/// The plain, unauthenticated form: an ESP packet whose reserved SPI says which way it goes, with ESP
/// Echo in clear behind the ESP header. It tells whether a path passes protocol 50, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlainEcho<'a> {
    /// ESP sequence number; 0 in a response.
    pub sequence: u32,
    /// A request never has a return SPI: there is no SA.
    pub echo: Echo<'a>,
}

impl<'a> PlainEcho<'a> {
    /// Reads a whole ESP packet. The SPI must agree with the sub-type, and the data be there that the
    /// length announces; bytes behind them are padding. Another SPI is [`WireError::BadVersion`].
    pub fn new_checked(packet: &'a [u8]) -> Result<Self, WireError> {
        let packet = esp::Packet::new_checked(packet)?;
        let sequence = packet.sequence();
        let spi = packet.raw_spi();
        if !is_plain_spi(spi) {
            return Err(WireError::BadVersion);
        }
        let echo = Echo::new_checked(packet.body())?;
        let right = match echo.kind {
            Kind::Request { return_spi } => spi == PLAIN_REQUEST_SPI && return_spi.is_none(),
            Kind::Response => spi == PLAIN_RESPONSE_SPI && sequence == 0,
        };
        if right {
            Ok(Self { sequence, echo })
        } else {
            Err(WireError::Malformed)
        }
    }

    /// The response to a request, never longer than that. `None` for a response.
    #[must_use]
    pub fn response(&self) -> Option<Self> {
        let echo = self.echo.response()?;
        Some(Self { sequence: 0, echo })
    }

    /// Bytes that [`PlainEcho::emit`] writes.
    #[must_use]
    pub fn emitted_len(&self) -> usize {
        esp::HEADER_LEN + self.echo.emitted_len()
    }

    /// Writes the whole ESP packet to the start of `out` and returns its length.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let spi = match self.echo.kind {
            Kind::Request { return_spi: None } => PLAIN_REQUEST_SPI,
            Kind::Request { .. } => return Err(WireError::Malformed),
            Kind::Response => PLAIN_RESPONSE_SPI,
        };
        let at = esp::emit_header(spi, self.sequence, out)?;
        let rest = out.get_mut(at..).ok_or(WireError::NoRoom)?;
        Ok(at + self.echo.emit(rest)?)
    }
}

/// Whether an SPI is one of the two of [`PlainEcho`].
#[must_use]
pub const fn is_plain_spi(spi: u32) -> bool {
    spi == PLAIN_REQUEST_SPI || spi == PLAIN_RESPONSE_SPI
}
