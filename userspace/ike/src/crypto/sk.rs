//! The ciphers of the SK payload: AEADs (RFC 5282, RFC 7634), and AES-CBC with HMAC
//! (RFC 7296 §3.14, RFC 3602, RFC 4868).

use aes::cipher::array::Array;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aws_lc_rs::{aead, hmac};
use mitregate_esp::CipherSuite;
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::Secret;
use crate::proposal::{AesBits, IkeCipher, Integrity};

/// Length of an AEAD's explicit IV (RFC 5282 §3) and of its integrity check value.
const AEAD_IV_LEN: usize = 8;
const AEAD_ICV_LEN: usize = 16;
/// AES's block, which is also CBC's IV (RFC 3602 §3).
const BLOCK: usize = 16;

impl Integrity {
    const fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
            Self::HmacSha512 => hmac::HMAC_SHA512,
        }
    }

    /// Length of its key, bytes: its hash's (RFC 4868 §2.1.1).
    pub(crate) const fn key_len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// Length of the integrity check value, bytes: half a hash (RFC 4868 §2.1.1).
    pub(crate) const fn icv_len(self) -> usize {
        self.key_len() / 2
    }
}

impl AesBits {
    const fn key_len(self) -> usize {
        match self {
            Self::Bits128 => 16,
            Self::Bits192 => 24,
            Self::Bits256 => 32,
        }
    }
}

impl IkeCipher {
    /// What SK_ei and SK_er are long, bytes: key and salt of an AEAD (RFC 5282 §7.1).
    pub(crate) const fn key_len(self) -> usize {
        match self {
            Self::Aead(suite) => suite.keymat_len(),
            Self::AesCbc(bits, _) => bits.key_len(),
        }
    }

    /// What SK_ai and SK_ar are long, bytes: an AEAD has none (RFC 5282 §7.1).
    pub(crate) const fn integrity_key_len(self) -> usize {
        match self {
            Self::Aead(_) => 0,
            Self::AesCbc(_, integrity) => integrity.key_len(),
        }
    }

    /// Length of the body of an SK payload that holds `inner` bytes of payloads: IV, padding, pad
    /// length and integrity check value besides.
    pub(crate) const fn body_len(self, inner: usize) -> usize {
        match self {
            Self::Aead(_) => AEAD_IV_LEN + inner + 1 + AEAD_ICV_LEN,
            Self::AesCbc(_, integrity) => {
                BLOCK + (inner + 1).next_multiple_of(BLOCK) + integrity.icv_len()
            }
        }
    }
}

/// The keys of one direction for the SK payload.
pub(crate) struct SkKey(Kind);

enum Kind {
    Aead(Box<AeadKey>),
    Cbc(Box<CbcKey>),
}

struct AeadKey {
    key: aead::LessSafeKey,
    salt: Zeroizing<[u8; 4]>,
    /// The next IV: counted, so that no nonce comes twice under one key (RFC 5282 §3.1).
    next_iv: u64,
}

struct CbcKey {
    bits: AesBits,
    key: Secret,
    integrity: Integrity,
    mac: hmac::Key,
}

/// The integrity check failed, or there is nothing to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forged;

impl SkKey {
    /// `key` is SK_e (for an AEAD the key and then the salt: RFC 5282 §7.1, RFC 7634 §2) and
    /// `integrity` SK_a, as long as the cipher takes; else `None`.
    pub(crate) fn new(cipher: IkeCipher, key: &[u8], integrity: &[u8]) -> Option<Self> {
        if key.len() != cipher.key_len() || integrity.len() != cipher.integrity_key_len() {
            return None;
        }
        Some(Self(match cipher {
            IkeCipher::Aead(suite) => Kind::Aead(Box::new(AeadKey::new(suite, key)?)),
            IkeCipher::AesCbc(bits, algorithm) => Kind::Cbc(Box::new(CbcKey {
                bits,
                key: Zeroizing::new(key.to_vec()),
                integrity: algorithm,
                mac: hmac::Key::new(algorithm.algorithm(), integrity),
            })),
        }))
    }

    /// Appends IV, ciphertext and ICV to `message`, which so far is header, other payloads and the
    /// generic header of SK, with lengths that count in [`IkeCipher::body_len`]. `inner` is the
    /// payloads. `None` only when IVs or memory are used up.
    pub(crate) fn seal(
        &mut self,
        message: &mut Vec<u8>,
        inner: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Option<()> {
        match &mut self.0 {
            Kind::Aead(key) => key.seal(message, inner),
            Kind::Cbc(key) => key.seal(message, inner, rng),
        }
    }

    /// What was sealed, padding included, of `body` (IV, ciphertext, ICV); `before` is the message
    /// up to it.
    pub(crate) fn open(&self, before: &[u8], body: &[u8]) -> Result<Secret, Forged> {
        match &self.0 {
            Kind::Aead(key) => key.open(before, body),
            Kind::Cbc(key) => key.open(before, body),
        }
    }
}

impl AeadKey {
    fn new(cipher: CipherSuite, material: &[u8]) -> Option<Self> {
        let (key, salt) = material.split_at_checked(cipher.key_len())?;
        let algorithm = match cipher {
            CipherSuite::Aes128Gcm16 => &aead::AES_128_GCM,
            CipherSuite::Aes256Gcm16 => &aead::AES_256_GCM,
            CipherSuite::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        };
        Some(Self {
            key: aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key).ok()?),
            salt: Zeroizing::new(salt.try_into().ok()?),
            next_iv: 0,
        })
    }

    fn nonce(&self, iv: [u8; AEAD_IV_LEN]) -> aead::Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&*self.salt);
        nonce[4..].copy_from_slice(&iv);
        aead::Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, message: &mut Vec<u8>, inner: &[u8]) -> Option<()> {
        // No padding is needed (RFC 5282 §3), so its length is zero.
        let mut plaintext = Zeroizing::new(Vec::with_capacity(inner.len() + 1));
        plaintext.extend_from_slice(inner);
        plaintext.push(0);
        let iv = self.next_iv.to_be_bytes();
        self.next_iv = self.next_iv.checked_add(1)?;
        let aad = aead::Aad::from(message.as_slice());
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(iv), aad, &mut plaintext)
            .ok()?;
        message.extend_from_slice(&iv);
        message.extend_from_slice(&plaintext);
        message.extend_from_slice(tag.as_ref());
        Some(())
    }

    fn open(&self, aad: &[u8], body: &[u8]) -> Result<Secret, Forged> {
        let (iv, sealed) = body.split_first_chunk::<AEAD_IV_LEN>().ok_or(Forged)?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let len = self
            .key
            .open_in_place(self.nonce(*iv), aead::Aad::from(aad), &mut sealed)
            .map_err(|_| Forged)?
            .len();
        sealed.truncate(len);
        Ok(sealed)
    }
}

impl CbcKey {
    fn icv(&self, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.mac);
        parts.iter().for_each(|part| context.update(part));
        context.sign()
    }

    fn seal(&self, message: &mut Vec<u8>, inner: &[u8], rng: &mut dyn CryptoRng) -> Option<()> {
        // RFC 3602 §3: an IV that nobody can predict.
        let mut iv = [0; BLOCK];
        rng.fill_bytes(&mut iv);
        let padding = (inner.len() + 1).next_multiple_of(BLOCK) - inner.len() - 1;
        let mut plaintext = Zeroizing::new(Vec::with_capacity(inner.len() + BLOCK));
        plaintext.extend_from_slice(inner);
        plaintext.resize(inner.len() + padding, 0);
        plaintext.push(u8::try_from(padding).ok()?);
        self.encrypt(&iv, &mut plaintext)?;
        message.extend_from_slice(&iv);
        message.extend_from_slice(&plaintext);
        // RFC 7296 §3.14: over the whole message as it will be sent, but for itself.
        let tag = self.icv(&[message]);
        message.extend_from_slice(&tag.as_ref()[..self.integrity.icv_len()]);
        Some(())
    }

    fn open(&self, before: &[u8], body: &[u8]) -> Result<Secret, Forged> {
        let icv_at = body
            .len()
            .checked_sub(self.integrity.icv_len())
            .ok_or(Forged)?;
        let (sealed, icv) = body.split_at(icv_at);
        // Before anything is decrypted: what is not the peer's tells nobody anything.
        let expected = self.icv(&[before, sealed]);
        let genuine = expected.as_ref()[..self.integrity.icv_len()].ct_eq(icv);
        let (iv, ciphertext) = sealed.split_first_chunk::<BLOCK>().ok_or(Forged)?;
        if !bool::from(genuine) || ciphertext.is_empty() {
            return Err(Forged);
        }
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        self.decrypt(iv, &mut plaintext).ok_or(Forged)?;
        Ok(plaintext)
    }

    /// In place; `None` if that is no whole number of blocks.
    fn encrypt(&self, iv: &[u8; BLOCK], bytes: &mut [u8]) -> Option<()> {
        let (blocks, []) = Array::slice_as_chunks_mut(bytes) else {
            return None;
        };
        macro_rules! encrypt {
            ($cipher:ty) => {
                cbc::Encryptor::<$cipher>::new_from_slices(&self.key, iv)
                    .ok()?
                    .encrypt_blocks(blocks)
            };
        }
        match self.bits {
            AesBits::Bits128 => encrypt!(aes::Aes128),
            AesBits::Bits192 => encrypt!(aes::Aes192),
            AesBits::Bits256 => encrypt!(aes::Aes256),
        }
        Some(())
    }

    fn decrypt(&self, iv: &[u8; BLOCK], bytes: &mut [u8]) -> Option<()> {
        let (blocks, []) = Array::slice_as_chunks_mut(bytes) else {
            return None;
        };
        macro_rules! decrypt {
            ($cipher:ty) => {
                cbc::Decryptor::<$cipher>::new_from_slices(&self.key, iv)
                    .ok()?
                    .decrypt_blocks(blocks)
            };
        }
        match self.bits {
            AesBits::Bits128 => decrypt!(aes::Aes128),
            AesBits::Bits192 => decrypt!(aes::Aes192),
            AesBits::Bits256 => decrypt!(aes::Aes256),
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
