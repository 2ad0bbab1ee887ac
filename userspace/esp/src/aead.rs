//! The provider seam: one AEAD interface, several libraries behind an enum, so that the hot path
//! has a predictable branch and no indirect call of ours.

use core::fmt;
use core::str::FromStr;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use aws_lc_rs::aead::{self as aws_lc, LessSafeKey, UnboundKey};
use chacha20poly1305::ChaCha20Poly1305;

use crate::suite::{CipherSuite, UnknownName};

/// Length of the nonce, bytes.
pub const NONCE_LEN: usize = 12;
/// Length of the tag, bytes.
pub const TAG_LEN: usize = 16;

/// Whose code does the ciphering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Provider {
    /// AWS-LC by `aws-lc-rs`; `aws-lc`.
    #[default]
    AwsLc,
    /// `aes-gcm` and `chacha20poly1305`, pure Rust; `rustcrypto`.
    RustCrypto,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::AwsLc, Self::RustCrypto];

    /// The configuration's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc",
            Self::RustCrypto => "rustcrypto",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Provider {
    type Err = UnknownName;

    fn from_str(s: &str) -> Result<Self, UnknownName> {
        let known = "aws-lc, rustcrypto";
        Self::ALL
            .into_iter()
            .find(|provider| provider.name() == s)
            .ok_or(UnknownName(known))
    }
}

/// The tag did not verify, or a length is beyond the cipher's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("AEAD failure")]
pub struct AeadError;

/// A cipher with its key set up. Every nonce may be used once per key; the caller sees to it.
pub struct Aead(Cipher);

enum Cipher {
    AwsLc(Box<LessSafeKey>),
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
    ChaCha20(Box<ChaCha20Poly1305>),
}

impl Aead {
    /// Sets up the key. `None` if `key` has not the suite's length.
    #[must_use]
    pub fn new(provider: Provider, suite: CipherSuite, key: &[u8]) -> Option<Self> {
        let cipher = match (provider, suite) {
            (Provider::AwsLc, suite) => {
                let algorithm = match suite {
                    CipherSuite::Aes128Gcm16 => &aws_lc::AES_128_GCM,
                    CipherSuite::Aes256Gcm16 => &aws_lc::AES_256_GCM,
                    CipherSuite::ChaCha20Poly1305 => &aws_lc::CHACHA20_POLY1305,
                };
                let key = UnboundKey::new(algorithm, key).ok()?;
                Cipher::AwsLc(Box::new(LessSafeKey::new(key)))
            }
            (Provider::RustCrypto, CipherSuite::Aes128Gcm16) => {
                Cipher::Aes128(Box::new(Aes128Gcm::new_from_slice(key).ok()?))
            }
            (Provider::RustCrypto, CipherSuite::Aes256Gcm16) => {
                Cipher::Aes256(Box::new(Aes256Gcm::new_from_slice(key).ok()?))
            }
            (Provider::RustCrypto, CipherSuite::ChaCha20Poly1305) => {
                Cipher::ChaCha20(Box::new(ChaCha20Poly1305::new_from_slice(key).ok()?))
            }
        };
        Some(Self(cipher))
    }

    /// Encrypts `text` in place and returns the tag over `aad` and the ciphertext.
    #[inline]
    pub fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; TAG_LEN], AeadError> {
        let mut tag = [0; TAG_LEN];
        self.seal_into(nonce, aad, text, &mut tag).map(|()| tag)
    }

    /// As [`Aead::seal`], with the tag written where it belongs: moving it afterwards costs as much
    /// as a tenth of the cipher on a small packet.
    #[inline]
    pub fn seal_into(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        text: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), AeadError> {
        fn rust_crypto<A>(
            a: &A,
            n: [u8; 12],
            aad: &[u8],
            text: &mut [u8],
            tag: &mut [u8; 16],
        ) -> Option<()>
        where
            A: AeadInOut,
            aes_gcm::aead::Nonce<A>: From<[u8; NONCE_LEN]>,
            aes_gcm::aead::Tag<A>: Into<[u8; TAG_LEN]>,
        {
            *tag = a
                .encrypt_inout_detached(&n.into(), aad, text.into())
                .ok()?
                .into();
            Some(())
        }
        match &self.0 {
            Cipher::AwsLc(key) => {
                let nonce = aws_lc::Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_scatter(nonce, aws_lc::Aad::from(aad), text, &[], tag)
                    .ok()
            }
            Cipher::Aes128(key) => rust_crypto(&**key, nonce, aad, text, tag),
            Cipher::Aes256(key) => rust_crypto(&**key, nonce, aad, text, tag),
            Cipher::ChaCha20(key) => rust_crypto(&**key, nonce, aad, text, tag),
        }
        .ok_or(AeadError)
    }

    /// Decrypts `text` in place if `tag` verifies. If it does not, `text` holds nothing of use.
    #[inline]
    pub fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), AeadError> {
        fn rust_crypto<A>(
            a: &A,
            n: [u8; 12],
            aad: &[u8],
            text: &mut [u8],
            tag: [u8; 16],
        ) -> Option<()>
        where
            A: AeadInOut,
            aes_gcm::aead::Nonce<A>: From<[u8; NONCE_LEN]>,
            aes_gcm::aead::Tag<A>: From<[u8; TAG_LEN]>,
        {
            a.decrypt_inout_detached(&n.into(), aad, text.into(), &tag.into())
                .ok()
        }
        match &self.0 {
            Cipher::AwsLc(key) => {
                let nonce = aws_lc::Nonce::assume_unique_for_key(nonce);
                key.open_in_place_separate_tag(nonce, aws_lc::Aad::from(aad), tag, text)
                    .ok()
                    .map(|_| ())
            }
            Cipher::Aes128(key) => rust_crypto(&**key, nonce, aad, text, *tag),
            Cipher::Aes256(key) => rust_crypto(&**key, nonce, aad, text, *tag),
            Cipher::ChaCha20(key) => rust_crypto(&**key, nonce, aad, text, *tag),
        }
        .ok_or(AeadError)
    }
}
