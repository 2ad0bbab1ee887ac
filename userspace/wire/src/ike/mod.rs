//! IKEv2 messages (RFC 7296 §3): header, payloads, and the outside of the encrypted payload.
//!
//! [`Message::parse`] takes a message as it follows the UDP header (and the non-ESP marker on
//! port 4500); [`Message::emit`] gives one. Parsing is strict about every length and lenient
//! about what RFC 7296 says to ignore: reserved bits, and the critical bit of known payloads.
//! So `parse(emit(m)) == m`, and `emit(parse(b)) == b` wherever those bits are zero.
//!
//! Cryptography is elsewhere: an encrypted payload is parsed into its bytes, and what it
//! decrypts to goes through [`parse_payloads`].

mod header;
mod numbers;
mod payload;
mod sa;
mod selectors;
mod signature;

pub use header::{Flags, HEADER_LEN, Header, IkeSpi};
pub use numbers::{
    AuthMethod, CertEncoding, EncryptionId, EsnId, ExchangeType, HashId, IdType, IntegrityId,
    KeyExchangeId, NotifyType, PayloadType, PrfId, ProtocolId, TransformType, TsType,
};
pub use payload::{
    Authentication, Certificate, Configuration, ConfigurationAttribute, Delete, Identification,
    KeyExchange, Notify, PAYLOAD_HEADER_LEN, Payload, emit_payloads, parse_payloads,
};
pub use sa::{Attribute, AttributeValue, Proposal, Transform, UnknownAttribute};
pub use selectors::{Addresses, Selector};
pub use signature::{DigitalSignature, emit_hashes, parse_hashes};

/// UDP port of IKE (RFC 7296 §2).
pub const PORT: u16 = 500;
/// UDP port of IKE and ESP behind a NAT (RFC 7296 §2.23, RFC 3948).
pub const PORT_NAT_T: u16 = 4500;
/// What sets IKE apart from ESP on port 4500 (RFC 3948 §2.2).
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// Why bytes are no IKE message, or a message cannot be put into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ParseError {
    /// Shorter than a structure that it announces.
    #[error("truncated")]
    Truncated,
    /// The header's length is not the datagram's, or a payload's is below its header.
    #[error("length field does not fit")]
    BadLength,
    /// Bytes are left after the last payload or structure.
    #[error("trailing bytes")]
    TrailingBytes,
    /// The major version, in the upper four bits, is not 2 (RFC 7296 §2.5).
    #[error("major version {}", .0 >> 4)]
    BadVersion(u8),
    /// An SA payload whose substructures do not add up.
    #[error("malformed SA payload")]
    BadSa,
    /// A traffic selector whose length is not its type's, or none at all.
    #[error("malformed traffic selector")]
    BadSelector,
    /// RFC 7296 §3.9.
    #[error("nonce length outside 16..=256")]
    BadNonce,
    /// A Delete whose SPI size or count is not its protocol's.
    #[error("malformed Delete payload")]
    BadDelete,
    /// A configuration payload that does not add up.
    #[error("malformed configuration payload")]
    BadConfiguration,
    /// RFC 7296 §3.14.
    #[error("encrypted payload is not the last one")]
    BadEncrypted,
    /// A fragment number that is zero, or larger than their total (RFC 7383 §2.6).
    #[error("fragment number outside 1..=total")]
    BadFragment,
    /// More than a 16-bit length, or an 8-bit count, can say.
    #[error("too long for its length field")]
    TooLong,
}

/// A whole message. The encrypted payload, where there is one, is the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The original initiator's SPI.
    pub spi_i: IkeSpi,
    /// The original responder's SPI, zero in the first request.
    pub spi_r: IkeSpi,
    /// What the message belongs to.
    pub exchange: ExchangeType,
    /// Who sends it, request or response.
    pub flags: Flags,
    /// Pairs a response with its request (RFC 7296 §2.2).
    pub message_id: u32,
    /// In wire order.
    pub payloads: Vec<Payload>,
}

impl Message {
    /// Parses a whole datagram. A higher minor version is fine (RFC 7296 §2.5).
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let header = Header::parse(bytes)?;
        if header.version >> 4 != 2 {
            return Err(ParseError::BadVersion(header.version));
        }
        if usize::try_from(header.length) != Ok(bytes.len()) {
            return Err(ParseError::BadLength);
        }
        let payloads = parse_payloads(header.next_payload, &bytes[HEADER_LEN..])?;
        Ok(Self {
            spi_i: header.spi_i,
            spi_r: header.spi_r,
            exchange: header.exchange,
            flags: header.flags,
            message_id: header.message_id,
            payloads,
        })
    }

    /// The message as bytes.
    pub fn emit(&self) -> Result<Vec<u8>, ParseError> {
        let first = self
            .payloads
            .first()
            .map_or(PayloadType::NONE, Payload::kind);
        let header = Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            next_payload: first,
            version: header::VERSION,
            exchange: self.exchange,
            flags: self.flags,
            message_id: self.message_id,
            length: 0,
        };
        let mut out = header.to_bytes().to_vec();
        emit_payloads(&self.payloads, &mut out)?;
        let length = u32::try_from(out.len()).map_err(|_| ParseError::TooLong)?;
        header::set_length(&mut out, length);
        Ok(out)
    }
}

/// A cursor that never reads past its end.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ParseError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(ParseError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let (head, tail) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(ParseError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, ParseError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, ParseError> {
        self.array().map(u16::from_be_bytes)
    }

    /// IKE's substructures have two bytes of their own, then a length that counts from the first
    /// of them: with those two read, the rest of the substructure.
    fn substructure(&mut self) -> Result<Reader<'a>, ParseError> {
        let rest = usize::from(self.u16()?)
            .checked_sub(4)
            .ok_or(ParseError::BadLength)?;
        self.take(rest).map(Reader)
    }

    const fn end(&self, error: ParseError) -> Result<(), ParseError> {
        if self.is_empty() { Ok(()) } else { Err(error) }
    }
}

/// Writes the length of `out[start..]` at `at`.
fn emit_u16_len(out: &mut [u8], at: usize, start: usize) -> Result<(), ParseError> {
    let len = u16::try_from(out.len() - start).map_err(|_| ParseError::TooLong)?;
    out[at..at + 2].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests;
