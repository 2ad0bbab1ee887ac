//! Private keys that sign IKE_AUTH.
//!
//! Ed25519 and RSA's PKCS #1 v1.5 signatures are functions of key and message. ECDSA and RSA-PSS draw
//! random bytes from the library's own generator, which takes none from outside: a run with such keys
//! does not replay to the byte.

use aws_lc_rs::digest;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding,
};

use super::certificate::{Certificate, KeyKind};
use super::pem::{self, PemError};
use super::scheme::{Hash, Proof, Scheme};

/// A private key. The library wipes its memory.
pub struct PrivateKey(Key);

enum Key {
    Rsa(RsaKeyPair),
    Ecdsa {
        kind: KeyKind,
        /// For RFC 7427, which wants DER.
        der: EcdsaKeyPair,
        /// For RFC 4754, which wants two numbers in a row.
        fixed: EcdsaKeyPair,
    },
    Ed25519(Ed25519KeyPair),
}

/// Why bytes are no private key to be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// PEM that cannot be read.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// PEM without a private key in it.
    #[error("has no private key in it")]
    NoKey,
    /// Neither PKCS #8, nor the traditional form of an RSA or EC key, of a kind that is supported.
    #[error(
        "is not a private key that is supported: RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, \
         or Ed25519, as PKCS #8 or in OpenSSL's traditional form, not encrypted"
    )]
    Unsupported,
}

impl PrivateKey {
    /// From a file's bytes: PEM or DER; PKCS #8 (RFC 5958), or an RSA key as PKCS #1 and an EC key
    /// as RFC 5915 have it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let sections = pem::sections(bytes)?;
        if sections.is_empty() {
            return Self::from_der(bytes);
        }
        let key = sections
            .iter()
            .find(|section| section.label.ends_with("PRIVATE KEY"))
            .ok_or(KeyError::NoKey)?;
        Self::from_der(&key.der)
    }

    fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let ecdsa = |kind, asn1: &'static EcdsaSigningAlgorithm, raw| {
            Some(Key::Ecdsa {
                kind,
                der: EcdsaKeyPair::from_private_key_der(asn1, der).ok()?,
                fixed: EcdsaKeyPair::from_private_key_der(raw, der).ok()?,
            })
        };
        let rsa = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der));
        let key = rsa.ok().map(Key::Rsa).or_else(|| {
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                .ok()
                .map(Key::Ed25519)
        });
        let key = key
            .or_else(|| {
                ecdsa(
                    KeyKind::EcdsaP256,
                    &ECDSA_P256_SHA256_ASN1_SIGNING,
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                )
            })
            .or_else(|| {
                ecdsa(
                    KeyKind::EcdsaP384,
                    &ECDSA_P384_SHA384_ASN1_SIGNING,
                    &ECDSA_P384_SHA384_FIXED_SIGNING,
                )
            });
        key.map(Self).ok_or(KeyError::Unsupported)
    }

    /// Kind and strength.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        match &self.0 {
            Key::Rsa(key) => KeyKind::Rsa {
                bits: key.public_modulus_len() * 8,
            },
            Key::Ecdsa { kind, .. } => *kind,
            Key::Ed25519(_) => KeyKind::Ed25519,
        }
    }

    /// Is it the key of that certificate?
    #[must_use]
    pub fn belongs_to(&self, certificate: &Certificate) -> bool {
        let ours = match &self.0 {
            Key::Rsa(key) => key.public_key().as_ref(),
            Key::Ecdsa { der, .. } => der.public_key().as_ref(),
            Key::Ed25519(key) => key.public_key().as_ref(),
        };
        ours == certificate.public_key_bits()
    }

    /// Signs; `None` if the library fails, or the proof is not one of this key's.
    pub(crate) fn sign(&self, proof: Proof, message: &[u8]) -> Option<Vec<u8>> {
        match (&self.0, proof) {
            (Key::Rsa(key), Proof::Digital(Scheme::RsaPkcs1(hash))) => {
                sign_rsa(key, pkcs1(hash), hash, message)
            }
            (Key::Rsa(key), Proof::Digital(Scheme::RsaPss(hash))) => {
                sign_rsa(key, pss(hash), hash, message)
            }
            // RFC 7296 §3.8 leaves the hash to us, and names SHA-1 only for old peers' sake.
            (Key::Rsa(key), Proof::Rsa) => {
                sign_rsa(key, pkcs1(Hash::Sha256), Hash::Sha256, message)
            }
            (Key::Ecdsa { der, kind, .. }, Proof::Digital(Scheme::Ecdsa(_))) => {
                sign_ecdsa(der, *kind, message)
            }
            (Key::Ecdsa { fixed, kind, .. }, Proof::Ecdsa(_)) => sign_ecdsa(fixed, *kind, message),
            (Key::Ed25519(key), Proof::Digital(Scheme::Ed25519)) => {
                key.try_sign(message).ok().map(|s| s.as_ref().to_vec())
            }
            _ => None,
        }
    }
}

fn pkcs1(hash: Hash) -> &'static dyn RsaEncoding {
    match hash {
        Hash::Sha256 => &signature::RSA_PKCS1_SHA256,
        Hash::Sha384 => &signature::RSA_PKCS1_SHA384,
        Hash::Sha512 => &signature::RSA_PKCS1_SHA512,
    }
}

fn pss(hash: Hash) -> &'static dyn RsaEncoding {
    match hash {
        Hash::Sha256 => &signature::RSA_PSS_SHA256,
        Hash::Sha384 => &signature::RSA_PSS_SHA384,
        Hash::Sha512 => &signature::RSA_PSS_SHA512,
    }
}

fn hashed(hash: Hash, message: &[u8]) -> digest::Digest {
    let algorithm = match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    };
    digest::digest(algorithm, message)
}

fn sign_rsa(
    key: &RsaKeyPair,
    encoding: &'static dyn RsaEncoding,
    hash: Hash,
    message: &[u8],
) -> Option<Vec<u8>> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign_digest(encoding, &hashed(hash, message), &mut signature)
        .ok()?;
    Some(signature)
}

/// P-256 goes with SHA-256, P-384 with SHA-384.
fn sign_ecdsa(key: &EcdsaKeyPair, kind: KeyKind, message: &[u8]) -> Option<Vec<u8>> {
    let hash = match kind {
        KeyKind::EcdsaP384 => Hash::Sha384,
        _ => Hash::Sha256,
    };
    let signature = key.sign_digest(&hashed(hash, message)).ok()?;
    Some(signature.as_ref().to_vec())
}
