//! The cryptography under IKE: PRF, prf+, key exchange, and the AEAD of the SK payload.

use aws_lc_rs::{aead, agreement, hmac};
use mitregate_esp::CipherSuite;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::proposal::{Group, Prf};

/// Bytes that wipe themselves.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

impl Prf {
    const fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
        }
    }

    /// Length of its output and preferred length of its key, in bytes (RFC 4868 §2.7).
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
        }
    }

    /// prf(key, the parts joined).
    pub(crate) fn compute(self, key: &[u8], parts: &[&[u8]]) -> Secret {
        let mut context = hmac::Context::with_key(&hmac::Key::new(self.algorithm(), key));
        for part in parts {
            context.update(part);
        }
        Zeroizing::new(context.sign().as_ref().to_vec())
    }

    /// The first `len` bytes of prf+(key, the parts joined), RFC 7296 §2.13. `len` is at most 255
    /// outputs; no key schedule comes near.
    pub(crate) fn plus(self, key: &[u8], parts: &[&[u8]], len: usize) -> Secret {
        debug_assert!(len <= 255 * self.len());
        let key = hmac::Key::new(self.algorithm(), key);
        // With its final size from the start, so that growing leaves no copy behind.
        let mut out = Zeroizing::new(Vec::with_capacity(len + self.len()));
        let mut counter = 0_u8;
        while out.len() < len {
            counter = counter.wrapping_add(1);
            let mut context = hmac::Context::with_key(&key);
            let previous = out.len().saturating_sub(self.len());
            context.update(&out[previous..]);
            for part in parts {
                context.update(part);
            }
            context.update(&[counter]);
            out.extend_from_slice(context.sign().as_ref());
        }
        out.truncate(len);
        out
    }
}

/// Our half of a key exchange.
pub(crate) struct KeyPair {
    group: Group,
    private: agreement::PrivateKey,
    /// As the KE payload carries it.
    public: Vec<u8>,
}

/// The peer's public value is not one, or the secret would be all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPublicKey;

impl Group {
    const fn algorithm(self) -> &'static agreement::Algorithm {
        match self {
            Self::Curve25519 => &agreement::X25519,
            Self::Ecp256 => &agreement::ECDH_P256,
        }
    }
}

/// SEC 1 marks an uncompressed point by this byte; the KE payload leaves it out (RFC 5903 §7).
const UNCOMPRESSED: u8 = 4;

impl KeyPair {
    /// A fresh pair made of `rng` alone; `None` if that gives no valid private key, which a
    /// source of random bytes does not do.
    pub(crate) fn generate(group: Group, rng: &mut dyn CryptoRng) -> Option<Self> {
        // Of 2^32 P-256 scalars one is out of range; a few tries are for ever.
        (0..4).find_map(|_| {
            let mut scalar = Zeroizing::new([0; 32]);
            rng.fill_bytes(&mut *scalar);
            Self::from_private(group, &*scalar)
        })
    }

    pub(crate) fn from_private(group: Group, scalar: &[u8]) -> Option<Self> {
        let private = agreement::PrivateKey::from_private_key(group.algorithm(), scalar).ok()?;
        let public = private.compute_public_key().ok()?;
        let public = match (group, public.as_ref()) {
            (Group::Curve25519, bytes) => bytes.to_vec(),
            (Group::Ecp256, [UNCOMPRESSED, xy @ ..]) => xy.to_vec(),
            (Group::Ecp256, _) => return None,
        };
        Some(Self {
            group,
            private,
            public,
        })
    }

    pub(crate) const fn group(&self) -> Group {
        self.group
    }

    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    /// The shared secret, g^ir.
    pub(crate) fn agree(&self, peer: &[u8]) -> Result<Secret, BadPublicKey> {
        let encoded = match (self.group, peer.len()) {
            (Group::Curve25519, 32) => peer.to_vec(),
            (Group::Ecp256, 64) => [&[UNCOMPRESSED], peer].concat(),
            _ => return Err(BadPublicKey),
        };
        let peer = agreement::UnparsedPublicKey::new(self.group.algorithm(), encoded);
        agreement::agree(&self.private, peer, BadPublicKey, |secret| {
            Ok(Zeroizing::new(secret.to_vec()))
        })
    }
}

/// Length of the explicit IV (RFC 5282 §3).
pub(crate) const IV_LEN: usize = 8;
/// Length of the integrity check value of all three ciphers.
pub(crate) const ICV_LEN: usize = 16;

/// One direction's AEAD key for the SK payload.
pub(crate) struct SkKey {
    key: aead::LessSafeKey,
    salt: Zeroizing<[u8; 4]>,
    /// The next IV: counted, so that no nonce comes twice under one key (RFC 5282 §3.1).
    next_iv: u64,
}

/// The integrity check failed, or there is nothing to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forged;

impl SkKey {
    /// `material` is the key and then the salt (RFC 5282 §7.1, RFC 7634 §2), as long as the
    /// cipher takes; else `None`.
    pub(crate) fn new(cipher: CipherSuite, material: &[u8]) -> Option<Self> {
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

    fn nonce(&self, iv: [u8; IV_LEN]) -> aead::Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&*self.salt);
        nonce[4..].copy_from_slice(&iv);
        aead::Nonce::assume_unique_for_key(nonce)
    }

    /// Appends IV, ciphertext and ICV to `message`, which so far is the associated data. `None`
    /// only when IVs or memory are used up.
    pub(crate) fn seal(&mut self, message: &mut Vec<u8>, mut plaintext: Secret) -> Option<()> {
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

    /// The plaintext, padding included, of `body` (IV, ciphertext, ICV).
    pub(crate) fn open(&self, aad: &[u8], body: &[u8]) -> Result<Secret, Forged> {
        let (iv, sealed) = body.split_first_chunk::<IV_LEN>().ok_or(Forged)?;
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
