//! Digital signatures (RFC 7427): the AUTH data of method 14, and the hash algorithms announced for it.

use super::{HashId, ParseError, Reader};

/// AUTH data of [`AuthMethod::DIGITAL_SIGNATURE`](super::AuthMethod::DIGITAL_SIGNATURE), RFC 7427 §3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigitalSignature {
    /// DER of the AlgorithmIdentifier: what kind of signature it is.
    pub algorithm: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

impl DigitalSignature {
    /// Takes AUTH data apart.
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader(data);
        let len = usize::from(reader.u8()?);
        let algorithm = reader.take(len)?.to_vec();
        Ok(Self {
            algorithm,
            signature: reader.0.to_vec(),
        })
    }

    /// The AUTH data.
    pub fn emit(&self) -> Result<Vec<u8>, ParseError> {
        let len = u8::try_from(self.algorithm.len()).map_err(|_| ParseError::TooLong)?;
        let mut out = vec![len];
        out.extend_from_slice(&self.algorithm);
        out.extend_from_slice(&self.signature);
        Ok(out)
    }
}

/// The data of a SIGNATURE_HASH_ALGORITHMS notify, RFC 7427 §4.
pub fn parse_hashes(data: &[u8]) -> Result<Vec<HashId>, ParseError> {
    let mut reader = Reader(data);
    let mut hashes = Vec::new();
    while !reader.is_empty() {
        hashes.push(HashId(reader.u16()?));
    }
    Ok(hashes)
}

/// The reverse of [`parse_hashes`].
#[must_use]
pub fn emit_hashes(hashes: &[HashId]) -> Vec<u8> {
    hashes
        .iter()
        .flat_map(|hash| hash.0.to_be_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_and_hashes_come_back_from_their_bytes() {
        for (algorithm, signature) in [(vec![], vec![]), (vec![0x30; 255], vec![7; 512])] {
            let signature = DigitalSignature {
                algorithm,
                signature,
            };
            let bytes = signature.emit().unwrap();
            assert_eq!(DigitalSignature::parse(&bytes), Ok(signature));
        }
        let hashes = [HashId::SHA2_256, HashId::IDENTITY, HashId(0x1234)];
        assert_eq!(parse_hashes(&emit_hashes(&hashes)).unwrap(), hashes);
        assert_eq!(emit_hashes(&hashes[..2]), [0, 2, 0, 5]);
    }

    #[test]
    fn lengths_that_lie() {
        assert_eq!(DigitalSignature::parse(&[]), Err(ParseError::Truncated));
        assert_eq!(
            DigitalSignature::parse(&[3, 1, 2]),
            Err(ParseError::Truncated)
        );
        let long = DigitalSignature {
            algorithm: vec![0; 256],
            signature: Vec::new(),
        };
        assert_eq!(long.emit(), Err(ParseError::TooLong));
        assert_eq!(parse_hashes(&[0]), Err(ParseError::Truncated));
    }
}
