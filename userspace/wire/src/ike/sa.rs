//! The Security Association payload, RFC 7296 §3.3: proposals, transforms, attributes.

use super::{
    ParseError, ProtocolId, Reader, TransformType, emit_u16_len, numbers::EncryptionId,
    numbers::EsnId, numbers::KeyExchangeId, numbers::PrfId,
};

/// Attribute type of the key length in bits (RFC 7296 §3.3.5), the only one defined.
const KEY_LENGTH: u16 = 14;
/// "AF" bit: the value sits in the length field.
const ATTRIBUTE_SHORT: u16 = 0x8000;

/// One proposal: alternatives of each transform type under one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Counts up from 1; the answer repeats the number it chose.
    pub number: u8,
    /// What is proposed.
    pub protocol: ProtocolId,
    /// The sender's SPI: empty for the first IKE SA, 8 bytes for an IKE rekey, 4 for ESP.
    pub spi: Vec<u8>,
    /// At most 255.
    pub transforms: Vec<Transform>,
}

/// One algorithm, with its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    /// What the algorithm is for.
    pub kind: TransformType,
    /// Its number within `kind`.
    pub id: u16,
    /// Attributes in wire order.
    pub attributes: Vec<Attribute>,
}

/// One transform attribute; `kind` has 15 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Attribute type, below 0x8000.
    pub kind: u16,
    /// Its value.
    pub value: AttributeValue,
}

/// Type/value or type/length/value form (RFC 7296 §3.3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// Two bytes in place of the length.
    Short(u16),
    /// Any number of bytes.
    Long(Vec<u8>),
}

impl Transform {
    /// A transform without attributes.
    #[must_use]
    pub const fn new(kind: TransformType, id: u16) -> Self {
        Self {
            kind,
            id,
            attributes: Vec::new(),
        }
    }

    /// An encryption algorithm; `key_bits` only where its key length is variable.
    #[must_use]
    pub fn encryption(id: EncryptionId, key_bits: Option<u16>) -> Self {
        let attributes = key_bits
            .map(|bits| Attribute {
                kind: KEY_LENGTH,
                value: AttributeValue::Short(bits),
            })
            .into_iter()
            .collect();
        Self {
            kind: TransformType::ENCR,
            id: id.0,
            attributes,
        }
    }

    /// A pseudorandom function.
    #[must_use]
    pub const fn prf(id: PrfId) -> Self {
        Self::new(TransformType::PRF, id.0)
    }

    /// A key exchange method.
    #[must_use]
    pub const fn key_exchange(id: KeyExchangeId) -> Self {
        Self::new(TransformType::KE, id.0)
    }

    /// With or without extended sequence numbers.
    #[must_use]
    pub const fn esn(id: EsnId) -> Self {
        Self::new(TransformType::ESN, id.0)
    }

    /// The key length in bits: `Ok(None)` without attributes, an error if there is any other
    /// attribute, because a transform with one we do not know must not be chosen
    /// (RFC 7296 §3.3.6).
    pub fn key_bits(&self) -> Result<Option<u16>, UnknownAttribute> {
        match self.attributes.as_slice() {
            [] => Ok(None),
            [
                Attribute {
                    kind: KEY_LENGTH,
                    value: AttributeValue::Short(bits),
                },
            ] => Ok(Some(*bits)),
            _ => Err(UnknownAttribute),
        }
    }
}

/// A transform carries an attribute that we do not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownAttribute;

pub(super) fn parse(body: &[u8]) -> Result<Vec<Proposal>, ParseError> {
    let mut reader = Reader(body);
    let mut proposals = Vec::new();
    let mut more = true;
    while more {
        let mark = reader.u8()?;
        reader.u8()?;
        let mut body = reader.substructure()?;
        more = match mark {
            0 => false,
            2 => true,
            _ => return Err(ParseError::BadSa),
        };
        let number = body.u8()?;
        let protocol = ProtocolId(body.u8()?);
        let spi_len = usize::from(body.u8()?);
        let count = usize::from(body.u8()?);
        let spi = body.take(spi_len)?.to_vec();
        let transforms = parse_transforms(body, count)?;
        proposals.push(Proposal {
            number,
            protocol,
            spi,
            transforms,
        });
    }
    reader.end(ParseError::BadSa)?;
    Ok(proposals)
}

fn parse_transforms(mut reader: Reader<'_>, count: usize) -> Result<Vec<Transform>, ParseError> {
    let mut transforms = Vec::new();
    for index in 0..count {
        let mark = reader.u8()?;
        reader.u8()?;
        let mut body = reader.substructure()?;
        let expected = if index + 1 == count { 0 } else { 3 };
        if mark != expected {
            return Err(ParseError::BadSa);
        }
        let kind = TransformType(body.u8()?);
        body.u8()?;
        let id = body.u16()?;
        let mut attributes = Vec::new();
        while !body.is_empty() {
            let head = body.u16()?;
            let value = body.u16()?;
            let value = if head & ATTRIBUTE_SHORT != 0 {
                AttributeValue::Short(value)
            } else {
                AttributeValue::Long(body.take(usize::from(value))?.to_vec())
            };
            attributes.push(Attribute {
                kind: head & !ATTRIBUTE_SHORT,
                value,
            });
        }
        transforms.push(Transform {
            kind,
            id,
            attributes,
        });
    }
    reader.end(ParseError::BadSa)?;
    Ok(transforms)
}

pub(super) fn emit(proposals: &[Proposal], out: &mut Vec<u8>) -> Result<(), ParseError> {
    // RFC 7296 §3.3: an SA payload holds one or more proposals.
    if proposals.is_empty() {
        return Err(ParseError::BadSa);
    }
    for (index, proposal) in proposals.iter().enumerate() {
        let start = out.len();
        let mark = if index + 1 == proposals.len() { 0 } else { 2 };
        let spi_len = u8::try_from(proposal.spi.len()).map_err(|_| ParseError::TooLong)?;
        let count = u8::try_from(proposal.transforms.len()).map_err(|_| ParseError::TooLong)?;
        out.extend_from_slice(&[mark, 0, 0, 0, proposal.number, proposal.protocol.0]);
        out.extend_from_slice(&[spi_len, count]);
        out.extend_from_slice(&proposal.spi);
        for (index, transform) in proposal.transforms.iter().enumerate() {
            let mark = if index + 1 == proposal.transforms.len() {
                0
            } else {
                3
            };
            emit_transform(transform, mark, out)?;
        }
        emit_u16_len(out, start + 2, start)?;
    }
    Ok(())
}

fn emit_transform(transform: &Transform, mark: u8, out: &mut Vec<u8>) -> Result<(), ParseError> {
    let start = out.len();
    out.extend_from_slice(&[mark, 0, 0, 0, transform.kind.0, 0]);
    out.extend_from_slice(&transform.id.to_be_bytes());
    for attribute in &transform.attributes {
        let kind = attribute.kind & !ATTRIBUTE_SHORT;
        match &attribute.value {
            AttributeValue::Short(value) => {
                out.extend_from_slice(&(kind | ATTRIBUTE_SHORT).to_be_bytes());
                out.extend_from_slice(&value.to_be_bytes());
            }
            AttributeValue::Long(value) => {
                let len = u16::try_from(value.len()).map_err(|_| ParseError::TooLong)?;
                out.extend_from_slice(&kind.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
                out.extend_from_slice(value);
            }
        }
    }
    emit_u16_len(out, start + 2, start)
}
