//! Signature algorithms of the AUTH payload: RFC 7427 (its AlgorithmIdentifiers are in appendix A),
//! RFC 8420, and for peers without RFC 7427 the methods of RFC 7296 §3.8 and RFC 4754.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use mitregate_wire::ike::{
    AuthMethod, Authentication, DigitalSignature, HashId, emit_hashes, parse_hashes,
};
use x509_cert::der::asn1::{AnyRef, ContextSpecific, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Reader, SliceReader, Tag, TagNumber, Tagged};
use x509_cert::spki::AlgorithmIdentifierRef;

use super::certificate::{Certificate, KeyKind};
use super::rule::AuthRule;

/// A hash function that goes before a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub(super) const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    const fn id(self) -> HashId {
        match self {
            Self::Sha256 => HashId::SHA2_256,
            Self::Sha384 => HashId::SHA2_384,
            Self::Sha512 => HashId::SHA2_512,
        }
    }

    /// Length of its output, bytes.
    const fn len(self) -> u8 {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The last arc of its OID below [`SHA2`], which is also that of RSA's below [`PKCS1`] less 10.
    const fn arc(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha384 => 2,
            Self::Sha512 => 3,
        }
    }
}

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(Hash),
    /// RSASSA-PSS, with MGF1 over the same hash and a salt as long as that.
    RsaPss(Hash),
    Ecdsa(Hash),
    /// Over the message itself: the "identity" hash (RFC 8420).
    Ed25519,
}

/// A set of hash algorithms that can go before a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hashes(Vec<HashId>);

impl Hashes {
    /// All that we can.
    pub(crate) fn ours() -> Self {
        Self(vec![
            HashId::SHA2_256,
            HashId::SHA2_384,
            HashId::SHA2_512,
            HashId::IDENTITY,
        ])
    }

    /// Data of a SIGNATURE_HASH_ALGORITHMS notify.
    pub(crate) fn emit(&self) -> Vec<u8> {
        emit_hashes(&self.0)
    }

    /// `None` for data that is none: then the peer has not said that it knows RFC 7427.
    pub(crate) fn parse(data: &[u8]) -> Option<Self> {
        parse_hashes(data).ok().map(Self)
    }

    fn has(&self, id: HashId) -> bool {
        self.0.contains(&id)
    }
}

/// id-sha256 and its siblings are `SHA2`.1 to .3.
const SHA2: &str = "2.16.840.1.101.3.4.2";
const PKCS1: &str = "1.2.840.113549.1.1";
const MGF1: &str = "1.2.840.113549.1.1.8";
const PSS: &str = "1.2.840.113549.1.1.10";
/// ecdsa-with-SHA256 and its siblings are `ECDSA_SHA2`.2 to .4.
const ECDSA_SHA2: &str = "1.2.840.10045.4.3";
const ED25519: &str = "1.3.101.112";

impl Scheme {
    pub(crate) fn hash_id(self) -> HashId {
        match self {
            Self::RsaPkcs1(hash) | Self::RsaPss(hash) | Self::Ecdsa(hash) => hash.id(),
            Self::Ed25519 => HashId::IDENTITY,
        }
    }

    /// DER of its AlgorithmIdentifier, as RFC 7427 appendix A writes it.
    pub(crate) fn algorithm_identifier(self) -> Vec<u8> {
        const NULL: &[u8] = &[5, 0];
        match self {
            Self::RsaPkcs1(hash) => {
                sequence(&[&oid(&format!("{PKCS1}.{}", 10 + hash.arc())), NULL])
            }
            Self::RsaPss(hash) => {
                let hash_id = sequence(&[&oid(&format!("{SHA2}.{}", hash.arc())), NULL]);
                let mgf = sequence(&[&oid(MGF1), &hash_id]);
                let salt = [0xa2, 3, 2, 1, hash.len()];
                let parameters = sequence(&[&tlv(0xa0, &hash_id), &tlv(0xa1, &mgf), &salt]);
                sequence(&[&oid(PSS), &parameters])
            }
            Self::Ecdsa(hash) => sequence(&[&oid(&format!("{ECDSA_SHA2}.{}", 1 + hash.arc()))]),
            Self::Ed25519 => sequence(&[&oid(ED25519)]),
        }
    }

    /// The reverse; also for other ways to write the same. `None` for what is not supported.
    pub(crate) fn from_algorithm_identifier(der: &[u8]) -> Option<Self> {
        let identifier = AlgorithmIdentifierRef::from_der(der).ok()?;
        let name = identifier.oid.to_string();
        // RFC 4055 §5: NULL, but absent ones are to be accepted.
        let plain = identifier.parameters.is_none_or(|p| p.tag() == Tag::Null);
        let by_arc = |arc: &str, first: u8| {
            let arc: u8 = arc.parse().ok()?;
            Hash::ALL.into_iter().find(|h| h.arc() + first == arc)
        };
        if name == PSS {
            return pss_hash(identifier.parameters?).map(Self::RsaPss);
        }
        if !plain {
            return None;
        }
        if name == ED25519 {
            return Some(Self::Ed25519);
        }
        match name.rsplit_once('.')? {
            (PKCS1, arc) => by_arc(arc, 10).map(Self::RsaPkcs1),
            (ECDSA_SHA2, arc) => by_arc(arc, 1).map(Self::Ecdsa),
            _ => None,
        }
    }

    /// What checks it with a key of that kind; `None` where they do not go together.
    fn algorithm(self, kind: KeyKind) -> Option<&'static dyn VerificationAlgorithm> {
        use signature as s;
        Some(match (self, kind) {
            (Self::RsaPkcs1(Hash::Sha256), KeyKind::Rsa { .. }) => &s::RSA_PKCS1_2048_8192_SHA256,
            (Self::RsaPkcs1(Hash::Sha384), KeyKind::Rsa { .. }) => &s::RSA_PKCS1_2048_8192_SHA384,
            (Self::RsaPkcs1(Hash::Sha512), KeyKind::Rsa { .. }) => &s::RSA_PKCS1_2048_8192_SHA512,
            (Self::RsaPss(Hash::Sha256), KeyKind::Rsa { .. }) => &s::RSA_PSS_2048_8192_SHA256,
            (Self::RsaPss(Hash::Sha384), KeyKind::Rsa { .. }) => &s::RSA_PSS_2048_8192_SHA384,
            (Self::RsaPss(Hash::Sha512), KeyKind::Rsa { .. }) => &s::RSA_PSS_2048_8192_SHA512,
            (Self::Ecdsa(Hash::Sha256), KeyKind::EcdsaP256) => &s::ECDSA_P256_SHA256_ASN1,
            (Self::Ecdsa(Hash::Sha384), KeyKind::EcdsaP256) => &s::ECDSA_P256_SHA384_ASN1,
            (Self::Ecdsa(Hash::Sha512), KeyKind::EcdsaP256) => &s::ECDSA_P256_SHA512_ASN1,
            (Self::Ecdsa(Hash::Sha256), KeyKind::EcdsaP384) => &s::ECDSA_P384_SHA256_ASN1,
            (Self::Ecdsa(Hash::Sha384), KeyKind::EcdsaP384) => &s::ECDSA_P384_SHA384_ASN1,
            (Self::Ecdsa(Hash::Sha512), KeyKind::EcdsaP384) => &s::ECDSA_P384_SHA512_ASN1,
            (Self::Ed25519, KeyKind::Ed25519) => &s::ED25519,
            _ => return None,
        })
    }
}

/// How to prove an identity by a signature: the method of the AUTH payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// RFC 7427.
    Digital(Scheme),
    /// RSA Digital Signature, RFC 7296 §3.8.
    Rsa,
    /// RFC 4754, on P-256 or P-384.
    Ecdsa(Hash),
}

impl Proof {
    /// The best way to sign with a key of that kind that the rule allows and the peer understands;
    /// `peer` is what it announced by RFC 7427.
    pub(crate) fn choose(kind: KeyKind, rule: &AuthRule, peer: Option<&Hashes>) -> Option<Self> {
        let Some(peer) = peer else {
            return match kind {
                KeyKind::Rsa { .. } if rule.allows(kind, Scheme::RsaPkcs1(Hash::Sha256)) => {
                    Some(Self::Rsa)
                }
                KeyKind::EcdsaP256 if rule.allows(kind, Scheme::Ecdsa(Hash::Sha256)) => {
                    Some(Self::Ecdsa(Hash::Sha256))
                }
                KeyKind::EcdsaP384 if rule.allows(kind, Scheme::Ecdsa(Hash::Sha384)) => {
                    Some(Self::Ecdsa(Hash::Sha384))
                }
                _ => None,
            };
        };
        let schemes: Vec<_> = match kind {
            KeyKind::Rsa { .. } => {
                let pss = Hash::ALL.into_iter().map(Scheme::RsaPss);
                pss.chain(Hash::ALL.into_iter().map(Scheme::RsaPkcs1))
                    .collect()
            }
            KeyKind::EcdsaP256 => vec![Scheme::Ecdsa(Hash::Sha256)],
            KeyKind::EcdsaP384 => vec![Scheme::Ecdsa(Hash::Sha384)],
            KeyKind::Ed25519 => vec![Scheme::Ed25519],
            KeyKind::Other => Vec::new(),
        };
        schemes
            .into_iter()
            .find(|scheme| peer.has(scheme.hash_id()) && rule.allows(kind, *scheme))
            .map(Self::Digital)
    }

    /// The AUTH payload around a signature.
    pub(crate) fn payload(self, signature: Vec<u8>) -> Option<Authentication> {
        let (method, data) = match self {
            Self::Digital(scheme) => {
                let algorithm = scheme.algorithm_identifier();
                let data = DigitalSignature {
                    algorithm,
                    signature,
                };
                (AuthMethod::DIGITAL_SIGNATURE, data.emit().ok()?)
            }
            Self::Rsa => (AuthMethod::RSA_SIGNATURE, signature),
            Self::Ecdsa(Hash::Sha384) => (AuthMethod::ECDSA_384, signature),
            Self::Ecdsa(_) => (AuthMethod::ECDSA_256, signature),
        };
        Some(Authentication { method, data })
    }
}

/// Is `auth` a signature over `octets` by the key of `certificate`, made as `rule` allows? One
/// signature is looked at, or three hashes of it for RSA without RFC 7427.
pub(super) fn is_signed(
    certificate: &Certificate,
    rule: &AuthRule,
    octets: &[u8],
    auth: &Authentication,
) -> bool {
    let kind = certificate.key_kind();
    let check = |scheme: Scheme, signature: &[u8]| {
        rule.allows(kind, scheme)
            && scheme
                .algorithm(kind)
                .is_some_and(|algorithm| verify(algorithm, certificate, octets, signature))
    };
    match auth.method {
        AuthMethod::DIGITAL_SIGNATURE => DigitalSignature::parse(&auth.data)
            .ok()
            .and_then(|data| {
                let scheme = Scheme::from_algorithm_identifier(&data.algorithm)?;
                Some(check(scheme, &data.signature))
            })
            .unwrap_or(false),
        // The hash is named inside the signature. SHA-1, once the default, is not among them.
        AuthMethod::RSA_SIGNATURE => Hash::ALL
            .into_iter()
            .any(|hash| check(Scheme::RsaPkcs1(hash), &auth.data)),
        AuthMethod::ECDSA_256 => {
            kind == KeyKind::EcdsaP256
                && rule.allows(kind, Scheme::Ecdsa(Hash::Sha256))
                && verify(
                    &signature::ECDSA_P256_SHA256_FIXED,
                    certificate,
                    octets,
                    &auth.data,
                )
        }
        AuthMethod::ECDSA_384 => {
            kind == KeyKind::EcdsaP384
                && rule.allows(kind, Scheme::Ecdsa(Hash::Sha384))
                && verify(
                    &signature::ECDSA_P384_SHA384_FIXED,
                    certificate,
                    octets,
                    &auth.data,
                )
        }
        _ => false,
    }
}

fn verify(
    algorithm: &'static dyn VerificationAlgorithm,
    certificate: &Certificate,
    octets: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(algorithm, certificate.public_key_bits())
        .verify(octets, signature)
        .is_ok()
}

/// The hash of RSASSA-PSS-params (RFC 4055 §3.1) that are all about one hash. Absent fields mean
/// SHA-1, which RFC 8247 §4.1.2 forbids.
fn pss_hash(parameters: AnyRef<'_>) -> Option<Hash> {
    if parameters.tag() != Tag::Sequence {
        return None;
    }
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    let mut field = |number| {
        ContextSpecific::<AnyRef<'_>>::decode_explicit(&mut reader, TagNumber(number)).ok()
    };
    let hash = sha2(field(0)??.value)?;
    let mgf = field(1)??.value;
    let salt: u8 = field(2)??.value.decode_as().ok()?;
    let trailer = match field(3)? {
        Some(trailer) => trailer.value.decode_as().ok()?,
        None => 1_u8,
    };
    let mgf = mgf.decode_as::<AlgorithmIdentifierRef<'_>>().ok()?;
    let same = mgf.oid.to_string() == MGF1 && sha2(mgf.parameters?) == Some(hash);
    (same && salt == hash.len() && trailer == 1 && reader.is_finished()).then_some(hash)
}

fn sha2(identifier: AnyRef<'_>) -> Option<Hash> {
    let identifier = identifier.decode_as::<AlgorithmIdentifierRef<'_>>().ok()?;
    let plain = identifier.parameters.is_none_or(|p| p.tag() == Tag::Null);
    let name = identifier.oid.to_string();
    let (SHA2, arc) = name.rsplit_once('.').filter(|_| plain)? else {
        return None;
    };
    Hash::ALL
        .into_iter()
        .find(|hash| hash.arc().to_string() == arc)
}

fn oid(text: &str) -> Vec<u8> {
    let oid = text.parse::<ObjectIdentifier>().ok();
    oid.and_then(|oid| oid.to_der().ok()).unwrap_or_default()
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// Identifiers are short: one byte is enough for their length.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let len = u8::try_from(value.len()).unwrap_or_default();
    debug_assert!(len < 0x80);
    [&[tag, len], value].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;

    /// RFC 7427 appendix A.1.1, A.1.4, A.1.5, A.3.2, A.3.3, and A.4.3 with RFC 4055's defaults.
    #[test]
    fn identifiers_of_rfc_7427() {
        for (scheme, der) in [
            (
                Scheme::RsaPkcs1(Hash::Sha256),
                "30 0d 06 09 2a 86 48 86 f7 0d 01 01 0b 05 00",
            ),
            (
                Scheme::RsaPkcs1(Hash::Sha384),
                "30 0d 06 09 2a 86 48 86 f7 0d 01 01 0c 05 00",
            ),
            (
                Scheme::RsaPkcs1(Hash::Sha512),
                "30 0d 06 09 2a 86 48 86 f7 0d 01 01 0d 05 00",
            ),
            (
                Scheme::Ecdsa(Hash::Sha256),
                "30 0a 06 08 2a 86 48 ce 3d 04 03 02",
            ),
            (
                Scheme::Ecdsa(Hash::Sha384),
                "30 0a 06 08 2a 86 48 ce 3d 04 03 03",
            ),
            (
                Scheme::Ecdsa(Hash::Sha512),
                "30 0a 06 08 2a 86 48 ce 3d 04 03 04",
            ),
            (
                Scheme::RsaPss(Hash::Sha256),
                "30 41 06 09 2a 86 48 86 f7 0d 01 01 0a 30 34 a0 0f 30 0d 06 09 60 86 48 01 65 03
                 04 02 01 05 00 a1 1c 30 1a 06 09 2a 86 48 86 f7 0d 01 01 08 30 0d 06 09 60 86 48
                 01 65 03 04 02 01 05 00 a2 03 02 01 20",
            ),
            // RFC 8410 §3.
            (Scheme::Ed25519, "30 05 06 03 2b 65 70"),
        ] {
            assert_eq!(scheme.algorithm_identifier(), hex(der));
        }
        for hash in Hash::ALL {
            for scheme in [
                Scheme::RsaPkcs1(hash),
                Scheme::RsaPss(hash),
                Scheme::Ecdsa(hash),
                Scheme::Ed25519,
            ] {
                let der = scheme.algorithm_identifier();
                assert_eq!(Scheme::from_algorithm_identifier(&der), Some(scheme));
            }
        }
    }

    #[test]
    fn identifiers_written_otherwise() {
        // sha256WithRSAEncryption without parameters; PSS with an explicit trailer field.
        let absent = hex("30 0b 06 09 2a 86 48 86 f7 0d 01 01 0b");
        assert_eq!(
            Scheme::from_algorithm_identifier(&absent),
            Some(Scheme::RsaPkcs1(Hash::Sha256))
        );
        let mut pss = Scheme::RsaPss(Hash::Sha512).algorithm_identifier();
        pss.extend([0xa3, 3, 2, 1, 1]);
        pss[1] += 5;
        pss[14] += 5;
        assert_eq!(
            Scheme::from_algorithm_identifier(&pss),
            Some(Scheme::RsaPss(Hash::Sha512))
        );
        *pss.last_mut().unwrap() = 2;
        assert_eq!(Scheme::from_algorithm_identifier(&pss), None);
    }

    #[test]
    fn identifiers_that_are_refused() {
        for der in [
            // sha1WithRSAEncryption, ecdsa-with-SHA1, PSS with SHA-1 by default, and no DER.
            "30 0d 06 09 2a 86 48 86 f7 0d 01 01 05 05 00",
            "30 09 06 07 2a 86 48 ce 3d 04 01",
            "30 0d 06 09 2a 86 48 86 f7 0d 01 01 0a 30 00",
            "30 0b 06 09 2a 86 48 86 f7 0d 01 01 0a",
            "30",
            "",
        ] {
            assert_eq!(Scheme::from_algorithm_identifier(&hex(der)), None, "{der}");
        }
        // A salt of another length than the hash's; MGF1 over another hash.
        let mut salt = Scheme::RsaPss(Hash::Sha256).algorithm_identifier();
        *salt.last_mut().unwrap() = 20;
        assert_eq!(Scheme::from_algorithm_identifier(&salt), None);
        let mut mgf = Scheme::RsaPss(Hash::Sha256).algorithm_identifier();
        let at = mgf.len() - 8;
        mgf[at] = 2;
        assert_eq!(Scheme::from_algorithm_identifier(&mgf), None);
    }
}
