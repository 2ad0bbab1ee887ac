//! Cipher suites and keys.

use core::fmt;
use core::str::FromStr;

use crate::aead::{Aead, Provider};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A combined-mode cipher with its key length; all have a 4-byte salt, an 8-byte IV and a 16-byte
/// ICV. Displayed and parsed by swanctl's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    /// AES-GCM with a 128-bit key (RFC 4106); `aes128gcm16`.
    Aes128Gcm16,
    /// AES-GCM with a 256-bit key (RFC 4106); `aes256gcm16`.
    Aes256Gcm16,
    /// ChaCha20-Poly1305 (RFC 7634); `chacha20poly1305`.
    ChaCha20Poly1305,
}

impl CipherSuite {
    /// All of them, the default proposal's order.
    pub const ALL: [Self; 3] = [Self::Aes256Gcm16, Self::Aes128Gcm16, Self::ChaCha20Poly1305];
    /// Length of the salt behind the key in KEYMAT, bytes (RFC 4106 §8.1, RFC 7634 §2).
    pub const SALT_LEN: usize = 4;

    /// Length of the cipher's key, bytes.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm16 => 16,
            Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// What one SA takes from KEYMAT, bytes: key and salt.
    #[must_use]
    pub const fn keymat_len(self) -> usize {
        self.key_len() + Self::SALT_LEN
    }

    /// swanctl's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm16 => "aes128gcm16",
            Self::Aes256Gcm16 => "aes256gcm16",
            Self::ChaCha20Poly1305 => "chacha20poly1305",
        }
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is none of those known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown name; known are: {0}")]
pub struct UnknownName(pub(crate) &'static str);

impl FromStr for CipherSuite {
    type Err = UnknownName;

    fn from_str(s: &str) -> Result<Self, UnknownName> {
        let known = "aes128gcm16, aes256gcm16, chacha20poly1305";
        Self::ALL
            .into_iter()
            .find(|suite| suite.name() == s)
            .ok_or(UnknownName(known))
    }
}

/// KEYMAT of the wrong length for its suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{suite} takes {} bytes of KEYMAT, not {got}", suite.keymat_len())]
pub struct BadKeymat {
    suite: CipherSuite,
    got: usize,
}

const MAX_KEYMAT: usize = 36;

/// Key and salt of one SA. Zeroized on drop, compared in constant time, and without Debug.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SaKey {
    #[zeroize(skip)]
    suite: CipherSuite,
    /// Key, salt, then zeros.
    bytes: [u8; MAX_KEYMAT],
}

impl SaKey {
    /// Takes exactly [`CipherSuite::keymat_len`] bytes: the key, then the salt.
    pub fn from_keymat(suite: CipherSuite, keymat: &[u8]) -> Result<Self, BadKeymat> {
        if keymat.len() != suite.keymat_len() {
            return Err(BadKeymat {
                suite,
                got: keymat.len(),
            });
        }
        let mut key = Self {
            suite,
            bytes: [0; MAX_KEYMAT],
        };
        key.bytes[..keymat.len()].copy_from_slice(keymat);
        Ok(key)
    }

    /// What the key is for.
    #[must_use]
    pub const fn suite(&self) -> CipherSuite {
        self.suite
    }

    /// Key and salt in clear: for a hand-over to another process, or for a decoder that its
    /// operator asked for. Whoever calls this keeps the copy secret.
    #[must_use]
    pub fn expose_keymat(&self) -> &[u8] {
        &self.bytes[..self.suite.keymat_len()]
    }

    /// The cipher, set up. Its key has the right length by construction.
    pub(crate) fn aead(&self, provider: Provider) -> Aead {
        Aead::new(provider, self.suite, self.key()).expect("key of its suite's length")
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..self.suite.key_len()]
    }

    pub(crate) fn salt(&self) -> [u8; CipherSuite::SALT_LEN] {
        let mut salt = [0; CipherSuite::SALT_LEN];
        salt.copy_from_slice(&self.bytes[self.suite.key_len()..self.suite.keymat_len()]);
        salt
    }
}

impl PartialEq for SaKey {
    fn eq(&self, other: &Self) -> bool {
        self.suite == other.suite && bool::from(self.bytes.ct_eq(&other.bytes))
    }
}

impl Eq for SaKey {}

impl Zeroize for SaKey {
    fn zeroize(&mut self) {
        self.bytes.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_swanctls() {
        for suite in CipherSuite::ALL {
            assert_eq!(suite.to_string().parse(), Ok(suite));
        }
        assert!("aes192gcm16".parse::<CipherSuite>().is_err());
    }

    #[test]
    fn keymat_must_have_its_length() {
        for suite in CipherSuite::ALL {
            let keymat: Vec<u8> = (0..40).collect();
            let len = suite.keymat_len();
            let key = SaKey::from_keymat(suite, &keymat[..len]).unwrap();
            assert_eq!(key.key(), &keymat[..len - 4]);
            assert_eq!(key.salt(), keymat[len - 4..len]);
            assert_eq!(key.expose_keymat(), &keymat[..len]);
            assert!(SaKey::from_keymat(suite, &keymat[..len - 1]).is_err());
            assert!(SaKey::from_keymat(suite, &keymat[..=len]).is_err());
        }
    }

    #[test]
    fn zeroize_leaves_nothing() {
        let mut key = SaKey::from_keymat(CipherSuite::Aes128Gcm16, &[7; 20]).unwrap();
        key.zeroize();
        assert_eq!(key.bytes, [0; MAX_KEYMAT]);
    }
}
