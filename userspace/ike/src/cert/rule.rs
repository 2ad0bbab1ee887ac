//! `auth` in swanctl's words, beyond `psk`: which keys and signatures will do.

use core::fmt;
use core::str::FromStr;

use super::certificate::KeyKind;
use super::scheme::{Hash, Scheme};

/// `pubkey`, `rsa`, `rsa/pss`, `ecdsa` or `ed25519`, then perhaps the least size of the key in bits,
/// and the hashes that may go before a signature: `rsa-3072`, `rsa/pss-sha384-sha512`, `ecdsa-384`.
///
/// As in swanctl, `rsa` with a hash means PKCS #1 v1.5, and without one either padding. It is about
/// the peer's (or our) own key and its signature, not about those of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRule {
    text: String,
    keys: Keys,
    min_bits: usize,
    /// Empty: any.
    hashes: Vec<Hash>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    Any,
    Rsa,
    RsaPss,
    Ecdsa,
    Ed25519,
}

/// A text that is no such rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not \"psk\" or \"pubkey\", nor \"rsa\", \"rsa/pss\", \"ecdsa\" or \"ed25519\" with an \
     optional key size and hashes, such as \"rsa/pss-3072-sha256\" or \"ecdsa-384\""
)]
pub struct RuleError(String);

impl AuthRule {
    pub(super) fn allows_key(&self, kind: KeyKind) -> bool {
        let (fits, bits) = match kind {
            KeyKind::Rsa { bits } => (matches!(self.keys, Keys::Rsa | Keys::RsaPss), bits),
            KeyKind::EcdsaP256 => (self.keys == Keys::Ecdsa, 256),
            KeyKind::EcdsaP384 => (self.keys == Keys::Ecdsa, 384),
            KeyKind::Ed25519 => (self.keys == Keys::Ed25519, 256),
            KeyKind::Other => return false,
        };
        (fits || self.keys == Keys::Any) && bits >= self.min_bits
    }

    pub(super) fn allows(&self, kind: KeyKind, scheme: Scheme) -> bool {
        let hash = |hash| self.hashes.is_empty() || self.hashes.contains(&hash);
        self.allows_key(kind)
            && match scheme {
                Scheme::RsaPkcs1(h) => self.keys != Keys::RsaPss && hash(h),
                Scheme::RsaPss(h) => hash(h) && (self.keys != Keys::Rsa || self.hashes.is_empty()),
                Scheme::Ecdsa(h) => hash(h),
                Scheme::Ed25519 => true,
            }
    }
}

impl Default for AuthRule {
    /// `pubkey`: whatever is strong enough.
    fn default() -> Self {
        Self {
            text: "pubkey".to_owned(),
            keys: Keys::Any,
            min_bits: 0,
            hashes: Vec::new(),
        }
    }
}

impl FromStr for AuthRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let error = || RuleError(text.to_owned());
        let mut words = text.split('-');
        let keys = match words.next() {
            Some("pubkey") => Keys::Any,
            Some("rsa") => Keys::Rsa,
            Some("rsa/pss") => Keys::RsaPss,
            Some("ecdsa") => Keys::Ecdsa,
            Some("ed25519") => Keys::Ed25519,
            _ => return Err(error()),
        };
        let mut rule = Self {
            text: text.to_owned(),
            keys,
            min_bits: 0,
            hashes: Vec::new(),
        };
        for word in words {
            let hash = match word {
                "sha256" => Hash::Sha256,
                "sha384" => Hash::Sha384,
                "sha512" => Hash::Sha512,
                bits => {
                    let bits = bits.parse().map_err(|_| error())?;
                    let possible = match keys {
                        Keys::Rsa | Keys::RsaPss => (2048..=8192).contains(&bits),
                        Keys::Ecdsa => matches!(bits, 256 | 384),
                        _ => false,
                    };
                    if !possible || rule.min_bits != 0 || !rule.hashes.is_empty() {
                        return Err(error());
                    }
                    rule.min_bits = bits;
                    continue;
                }
            };
            if keys == Keys::Ed25519 || rule.hashes.contains(&hash) {
                return Err(error());
            }
            rule.hashes.push(hash);
        }
        Ok(rule)
    }
}

impl fmt::Display for AuthRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_as_swanctl_writes_them() {
        let rsa = KeyKind::Rsa { bits: 2048 };
        let (pkcs1, pss) = (Scheme::RsaPkcs1, Scheme::RsaPss);
        let p256 = (KeyKind::EcdsaP256, Scheme::Ecdsa(Hash::Sha256));
        let p384 = (KeyKind::EcdsaP384, Scheme::Ecdsa(Hash::Sha384));
        let ed25519 = (KeyKind::Ed25519, Scheme::Ed25519);
        for (text, yes, no) in [
            (
                "pubkey",
                vec![
                    (rsa, pkcs1(Hash::Sha256)),
                    (rsa, pss(Hash::Sha512)),
                    p256,
                    p384,
                    ed25519,
                ],
                vec![(KeyKind::Other, Scheme::Ed25519)],
            ),
            (
                "pubkey-sha384",
                vec![(rsa, pss(Hash::Sha384)), p384, ed25519],
                vec![(rsa, pss(Hash::Sha256)), p256],
            ),
            (
                "rsa",
                vec![(rsa, pkcs1(Hash::Sha256)), (rsa, pss(Hash::Sha256))],
                vec![p256, ed25519],
            ),
            (
                "rsa-sha256",
                vec![(rsa, pkcs1(Hash::Sha256))],
                vec![(rsa, pss(Hash::Sha256)), (rsa, pkcs1(Hash::Sha512))],
            ),
            (
                "rsa/pss-2048-sha256-sha512",
                vec![(rsa, pss(Hash::Sha256)), (rsa, pss(Hash::Sha512))],
                vec![(rsa, pkcs1(Hash::Sha256)), (rsa, pss(Hash::Sha384))],
            ),
            ("rsa-3072", vec![], vec![(rsa, pkcs1(Hash::Sha256))]),
            ("ecdsa", vec![p256, p384], vec![ed25519]),
            ("ecdsa-384", vec![p384], vec![p256]),
            (
                "ed25519",
                vec![ed25519],
                vec![p256, (rsa, pss(Hash::Sha256))],
            ),
        ] {
            let rule: AuthRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
            assert!(yes.iter().all(|(k, s)| rule.allows(*k, *s)), "{text}");
            assert!(no.iter().all(|(k, s)| !rule.allows(*k, *s)), "{text}");
        }
        for bad in [
            "",
            "psk",
            "dsa",
            "rsa-",
            "rsa-1024",
            "rsa-sha1",
            "rsa-sha256-3072",
            "ecdsa-521",
            "ed25519-sha512",
            "ed25519-256",
            "rsa-sha256-sha256",
            "pubkey-2048",
        ] {
            assert!(bad.parse::<AuthRule>().is_err(), "{bad}");
        }
    }
}
