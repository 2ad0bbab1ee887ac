//! The payloads, RFC 7296 §3.2–§3.16, and the chain that links them.

use super::{
    AuthMethod, CertEncoding, IdType, KeyExchangeId, NotifyType, ParseError, PayloadType, Proposal,
    ProtocolId, Reader, Selector, emit_u16_len, sa, selectors,
};

/// Length of the generic payload header (RFC 7296 §3.2).
pub const PAYLOAD_HEADER_LEN: usize = 4;
const CRITICAL: u8 = 0x80;
/// RFC 7296 §3.9.
const NONCE_LEN: core::ops::RangeInclusive<usize> = 16..=256;

/// One payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// SA, §3.3.
    Sa(Vec<Proposal>),
    /// KE, §3.4.
    KeyExchange(KeyExchange),
    /// IDi, §3.5.
    IdI(Identification),
    /// IDr, §3.5.
    IdR(Identification),
    /// CERT, §3.6.
    Certificate(Certificate),
    /// CERTREQ, §3.7.
    CertificateRequest(Certificate),
    /// AUTH, §3.8.
    Authentication(Authentication),
    /// Ni or Nr, §3.9: 16 to 256 bytes.
    Nonce(Vec<u8>),
    /// N, §3.10.
    Notify(Notify),
    /// D, §3.11.
    Delete(Delete),
    /// V, §3.12.
    VendorId(Vec<u8>),
    /// TSi, §3.13.
    TsI(Vec<Selector>),
    /// TSr, §3.13.
    TsR(Vec<Selector>),
    /// SK, §3.14: always the last payload of a message.
    Encrypted {
        /// Type of the first payload inside.
        first: PayloadType,
        /// Initialization vector, ciphertext, integrity check value.
        body: Vec<u8>,
    },
    /// SKF, RFC 7383 §2.5: always the last payload of a message.
    EncryptedFragment {
        /// Type of the first payload inside the whole message, in its first fragment; else NONE.
        first: PayloadType,
        /// Counts from 1.
        number: u16,
        /// Of how many.
        total: u16,
        /// As of SK.
        body: Vec<u8>,
    },
    /// CP, §3.15.
    Configuration(Configuration),
    /// EAP, §3.16: its message, unread.
    Eap(Vec<u8>),
    /// A type that we do not know (§2.5).
    Unknown {
        /// The payload type.
        kind: PayloadType,
        /// The sender wants the whole message rejected by who does not know it.
        critical: bool,
        /// Its bytes.
        body: Vec<u8>,
    },
}

/// A public value of a key exchange method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyExchange {
    /// The method ("Diffie-Hellman group").
    pub method: KeyExchangeId,
    /// Its public value, encoded as the method's RFC says.
    pub data: Vec<u8>,
}

/// An identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identification {
    /// How to read `data`.
    pub kind: IdType,
    /// The identity.
    pub data: Vec<u8>,
}

impl Identification {
    /// The payload's body as it is authenticated: "RestOfInitIDPayload" of RFC 7296 §2.15.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut out = vec![self.kind.0, 0, 0, 0];
        out.extend_from_slice(&self.data);
        out
    }
}

/// A certificate, or a request for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// How to read `data`, §3.6.
    pub encoding: CertEncoding,
    /// The certificate, or (in a request) the SHA-1 hashes of the public keys of acceptable
    /// authorities, §3.7.
    pub data: Vec<u8>,
}

/// Proof of identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// How `data` was made.
    pub method: AuthMethod,
    /// Signature or MAC.
    pub data: Vec<u8>,
}

/// An error or a piece of status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Protocol of the SA that it concerns, or NONE.
    pub protocol: ProtocolId,
    /// That SA's SPI, or empty.
    pub spi: Vec<u8>,
    /// What happened.
    pub kind: NotifyType,
    /// Depends on `kind`.
    pub data: Vec<u8>,
}

impl Notify {
    /// A notify that concerns no particular SA and carries no data.
    #[must_use]
    pub const fn new(kind: NotifyType) -> Self {
        Self {
            protocol: ProtocolId::NONE,
            spi: Vec::new(),
            kind,
            data: Vec::new(),
        }
    }

    /// The same with data.
    #[must_use]
    pub fn with_data(kind: NotifyType, data: impl Into<Vec<u8>>) -> Self {
        Self {
            data: data.into(),
            ..Self::new(kind)
        }
    }
}

/// SAs that their owner has removed; each SPI is the *sender's* inbound one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delete {
    /// The IKE SA that carries the message.
    Ike,
    /// ESP SAs by SPI.
    Esp(Vec<u32>),
    /// AH SAs by SPI.
    Ah(Vec<u32>),
}

/// A configuration payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// CFG type: 1 request, 2 reply, 3 set, 4 ack.
    pub kind: u8,
    /// In wire order.
    pub attributes: Vec<ConfigurationAttribute>,
}

/// One configuration attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationAttribute {
    /// Attribute type, below 0x8000.
    pub kind: u16,
    /// Its value.
    pub value: Vec<u8>,
}

impl Payload {
    /// The type that the *preceding* payload names.
    #[must_use]
    pub const fn kind(&self) -> PayloadType {
        match self {
            Self::Sa(_) => PayloadType::SA,
            Self::KeyExchange(_) => PayloadType::KE,
            Self::IdI(_) => PayloadType::ID_I,
            Self::IdR(_) => PayloadType::ID_R,
            Self::Certificate(_) => PayloadType::CERT,
            Self::CertificateRequest(_) => PayloadType::CERTREQ,
            Self::Authentication(_) => PayloadType::AUTH,
            Self::Nonce(_) => PayloadType::NONCE,
            Self::Notify(_) => PayloadType::NOTIFY,
            Self::Delete(_) => PayloadType::DELETE,
            Self::VendorId(_) => PayloadType::VENDOR_ID,
            Self::TsI(_) => PayloadType::TS_I,
            Self::TsR(_) => PayloadType::TS_R,
            Self::Encrypted { .. } => PayloadType::ENCRYPTED,
            Self::EncryptedFragment { .. } => PayloadType::ENCRYPTED_FRAGMENT,
            Self::Configuration(_) => PayloadType::CONFIGURATION,
            Self::Eap(_) => PayloadType::EAP,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    fn parse(kind: PayloadType, critical: bool, body: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader(body);
        Ok(match kind {
            PayloadType::SA => Self::Sa(sa::parse(body)?),
            PayloadType::KE => {
                let method = KeyExchangeId(reader.u16()?);
                reader.u16()?;
                Self::KeyExchange(KeyExchange {
                    method,
                    data: reader.0.to_vec(),
                })
            }
            PayloadType::ID_I => Self::IdI(parse_id(reader)?),
            PayloadType::ID_R => Self::IdR(parse_id(reader)?),
            PayloadType::CERT => Self::Certificate(parse_certificate(reader)?),
            PayloadType::CERTREQ => Self::CertificateRequest(parse_certificate(reader)?),
            PayloadType::AUTH => {
                let method = AuthMethod(reader.u8()?);
                reader.take(3)?;
                Self::Authentication(Authentication {
                    method,
                    data: reader.0.to_vec(),
                })
            }
            PayloadType::NONCE if NONCE_LEN.contains(&body.len()) => Self::Nonce(body.to_vec()),
            PayloadType::NONCE => return Err(ParseError::BadNonce),
            PayloadType::NOTIFY => {
                let protocol = ProtocolId(reader.u8()?);
                let spi_len = usize::from(reader.u8()?);
                let kind = NotifyType(reader.u16()?);
                let spi = reader.take(spi_len)?.to_vec();
                Self::Notify(Notify {
                    protocol,
                    spi,
                    kind,
                    data: reader.0.to_vec(),
                })
            }
            PayloadType::DELETE => Self::Delete(parse_delete(reader)?),
            PayloadType::VENDOR_ID => Self::VendorId(body.to_vec()),
            PayloadType::TS_I => Self::TsI(selectors::parse(body)?),
            PayloadType::TS_R => Self::TsR(selectors::parse(body)?),
            PayloadType::CONFIGURATION => Self::Configuration(parse_configuration(reader)?),
            PayloadType::EAP => Self::Eap(body.to_vec()),
            kind => Self::Unknown {
                kind,
                critical,
                body: body.to_vec(),
            },
        })
    }

    fn emit_body(&self, out: &mut Vec<u8>) -> Result<(), ParseError> {
        match self {
            Self::Sa(proposals) => sa::emit(proposals, out)?,
            Self::KeyExchange(ke) => {
                out.extend_from_slice(&ke.method.0.to_be_bytes());
                out.extend_from_slice(&[0; 2]);
                out.extend_from_slice(&ke.data);
            }
            Self::IdI(id) | Self::IdR(id) => out.extend_from_slice(&id.body()),
            Self::Certificate(cert) | Self::CertificateRequest(cert) => {
                out.push(cert.encoding.0);
                out.extend_from_slice(&cert.data);
            }
            Self::Authentication(auth) => {
                out.extend_from_slice(&[auth.method.0, 0, 0, 0]);
                out.extend_from_slice(&auth.data);
            }
            Self::Nonce(nonce) if NONCE_LEN.contains(&nonce.len()) => out.extend_from_slice(nonce),
            Self::Nonce(_) => return Err(ParseError::BadNonce),
            Self::Notify(notify) => {
                let spi_len = u8::try_from(notify.spi.len()).map_err(|_| ParseError::TooLong)?;
                out.extend_from_slice(&[notify.protocol.0, spi_len]);
                out.extend_from_slice(&notify.kind.0.to_be_bytes());
                out.extend_from_slice(&notify.spi);
                out.extend_from_slice(&notify.data);
            }
            Self::Delete(delete) => emit_delete(delete, out)?,
            Self::TsI(list) | Self::TsR(list) => selectors::emit(list, out)?,
            Self::Configuration(configuration) => emit_configuration(configuration, out)?,
            Self::EncryptedFragment {
                number,
                total,
                body,
                ..
            } => {
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(&total.to_be_bytes());
                out.extend_from_slice(body);
            }
            Self::VendorId(body)
            | Self::Eap(body)
            | Self::Encrypted { body, .. }
            | Self::Unknown { body, .. } => out.extend_from_slice(body),
        }
        Ok(())
    }
}

/// Parses a chain of payloads that fills `bytes`; `first` is the type named before it.
pub fn parse_payloads(first: PayloadType, bytes: &[u8]) -> Result<Vec<Payload>, ParseError> {
    let mut reader = Reader(bytes);
    let mut payloads = Vec::new();
    let mut kind = first;
    while kind != PayloadType::NONE {
        let next = PayloadType(reader.u8()?);
        let critical = reader.u8()? & CRITICAL != 0;
        let body = reader.substructure()?.0;
        if matches!(
            kind,
            PayloadType::ENCRYPTED | PayloadType::ENCRYPTED_FRAGMENT
        ) {
            // Its Next Payload is that of the first payload inside, so the chain ends here.
            reader.end(ParseError::BadEncrypted)?;
            payloads.push(parse_encrypted(kind, next, body)?);
            return Ok(payloads);
        }
        payloads.push(Payload::parse(kind, critical, body)?);
        kind = next;
    }
    reader.end(ParseError::TrailingBytes)?;
    Ok(payloads)
}

/// Appends a chain of payloads; the type of the first is for the caller to write before it.
pub fn emit_payloads(payloads: &[Payload], out: &mut Vec<u8>) -> Result<(), ParseError> {
    for (index, payload) in payloads.iter().enumerate() {
        let start = out.len();
        let next = match (payload, payloads.get(index + 1)) {
            (Payload::Encrypted { first, .. } | Payload::EncryptedFragment { first, .. }, None) => {
                *first
            }
            (Payload::Encrypted { .. } | Payload::EncryptedFragment { .. }, Some(_)) => {
                return Err(ParseError::BadEncrypted);
            }
            (_, Some(next)) => next.kind(),
            (_, None) => PayloadType::NONE,
        };
        let critical = matches!(payload, Payload::Unknown { critical: true, .. });
        out.extend_from_slice(&[next.0, if critical { CRITICAL } else { 0 }, 0, 0]);
        payload.emit_body(out)?;
        emit_u16_len(out, start + 2, start)?;
    }
    Ok(())
}

/// SK or SKF, by `kind`.
fn parse_encrypted(
    kind: PayloadType,
    first: PayloadType,
    body: &[u8],
) -> Result<Payload, ParseError> {
    if kind == PayloadType::ENCRYPTED {
        let body = body.to_vec();
        return Ok(Payload::Encrypted { first, body });
    }
    let mut reader = Reader(body);
    let number = reader.u16()?;
    let total = reader.u16()?;
    // RFC 7383 §2.5: both count from 1; §2.6: what does not fit is dropped.
    if number == 0 || number > total {
        return Err(ParseError::BadFragment);
    }
    Ok(Payload::EncryptedFragment {
        first,
        number,
        total,
        body: reader.0.to_vec(),
    })
}

fn parse_id(mut reader: Reader<'_>) -> Result<Identification, ParseError> {
    let kind = IdType(reader.u8()?);
    reader.take(3)?;
    Ok(Identification {
        kind,
        data: reader.0.to_vec(),
    })
}

fn parse_certificate(mut reader: Reader<'_>) -> Result<Certificate, ParseError> {
    let encoding = CertEncoding(reader.u8()?);
    Ok(Certificate {
        encoding,
        data: reader.0.to_vec(),
    })
}

fn parse_delete(mut reader: Reader<'_>) -> Result<Delete, ParseError> {
    let protocol = ProtocolId(reader.u8()?);
    let spi_len = reader.u8()?;
    let count = usize::from(reader.u16()?);
    let mut spis = Vec::new();
    if spi_len == 4 {
        for _ in 0..count {
            spis.push(u32::from_be_bytes(reader.array()?));
        }
    }
    reader.end(ParseError::BadDelete)?;
    match (protocol, spi_len) {
        (ProtocolId::IKE, 0) if count == 0 => Ok(Delete::Ike),
        (ProtocolId::ESP, 4) => Ok(Delete::Esp(spis)),
        (ProtocolId::AH, 4) => Ok(Delete::Ah(spis)),
        _ => Err(ParseError::BadDelete),
    }
}

fn emit_delete(delete: &Delete, out: &mut Vec<u8>) -> Result<(), ParseError> {
    let (protocol, spi_len, spis) = match delete {
        Delete::Ike => (ProtocolId::IKE, 0, [].as_slice()),
        Delete::Esp(spis) => (ProtocolId::ESP, 4, spis.as_slice()),
        Delete::Ah(spis) => (ProtocolId::AH, 4, spis.as_slice()),
    };
    let count = u16::try_from(spis.len()).map_err(|_| ParseError::TooLong)?;
    out.extend_from_slice(&[protocol.0, spi_len]);
    out.extend_from_slice(&count.to_be_bytes());
    for spi in spis {
        out.extend_from_slice(&spi.to_be_bytes());
    }
    Ok(())
}

fn parse_configuration(mut reader: Reader<'_>) -> Result<Configuration, ParseError> {
    let kind = reader.u8()?;
    reader.take(3)?;
    let mut attributes = Vec::new();
    while !reader.is_empty() {
        // The upper bit is reserved and ignored on receipt.
        let kind = reader.u16()? & 0x7fff;
        let len = usize::from(reader.u16()?);
        let value = reader
            .take(len)
            .map_err(|_| ParseError::BadConfiguration)?
            .to_vec();
        attributes.push(ConfigurationAttribute { kind, value });
    }
    Ok(Configuration { kind, attributes })
}

fn emit_configuration(cp: &Configuration, out: &mut Vec<u8>) -> Result<(), ParseError> {
    out.extend_from_slice(&[cp.kind, 0, 0, 0]);
    for attribute in &cp.attributes {
        let len = u16::try_from(attribute.value.len()).map_err(|_| ParseError::TooLong)?;
        out.extend_from_slice(&(attribute.kind & 0x7fff).to_be_bytes());
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&attribute.value);
    }
    Ok(())
}
