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

#[cfg(test)]
pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let digits: String = digits.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    /// RFC 4231 §4.2, §4.3 and §4.7 (a key longer than a block), which RFC 4868 §2.7.2 repeats.
    #[test]
    fn prf_known_answers() {
        for (key, data, sha256, sha384) in [
            (
                vec![0x0b; 20],
                "Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
                "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59c
                 faea9ea9076ede7f4af152e8b2fa9cb6",
            ),
            (
                b"Jefe".to_vec(),
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e
                 8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                vec![0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
                "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6
                 0c2ef6ab4030fe8296248df163f44952",
            ),
        ] {
            let (head, tail) = data.as_bytes().split_at(3);
            for (prf, expected) in [(Prf::HmacSha256, sha256), (Prf::HmacSha384, sha384)] {
                let out = prf.compute(&key, &[head, tail]);
                assert_eq!(*out, hex(expected));
                assert_eq!(out.len(), prf.len());
            }
        }
    }

    /// RFC 7296 §2.13, spelled out.
    #[test]
    fn prf_plus_is_a_stream() {
        for prf in [Prf::HmacSha256, Prf::HmacSha384] {
            let t1 = prf.compute(b"key", &[b"seed", &[1]]);
            let t2 = prf.compute(b"key", &[&t1, b"seed", &[2]]);
            let t3 = prf.compute(b"key", &[&t2, b"seed", &[3]]);
            let all = [t1.as_slice(), &t2, &t3].concat();
            for len in 0..=all.len() {
                assert_eq!(*prf.plus(b"key", &[b"se", b"ed"], len), all[..len]);
            }
            assert_eq!(
                prf.plus(b"key", &[], 255 * prf.len()).len(),
                255 * prf.len()
            );
        }
    }

    /// RFC 7748 §6.1 and RFC 5903 §8.1.
    #[test]
    fn key_exchange_known_answers() {
        let vectors = [
            (
                Group::Curve25519,
                "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
                "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
                "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
                "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
            ),
            (
                Group::Ecp256,
                "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
                "dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180
                 5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3",
                "c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
                "d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63
                 56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab",
                "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de",
            ),
        ];
        for (group, private_i, public_i, private_r, public_r, shared) in vectors {
            let i = KeyPair::from_private(group, &hex(private_i)).unwrap();
            let r = KeyPair::from_private(group, &hex(private_r)).unwrap();
            assert_eq!(i.public(), hex(public_i));
            assert_eq!(r.public(), hex(public_r));
            for secret in [i.agree(r.public()), r.agree(i.public())] {
                assert_eq!(*secret.unwrap(), hex(shared));
            }
        }
    }

    #[test]
    fn no_secret_from_what_is_no_public_key() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for group in [Group::Curve25519, Group::Ecp256] {
            let pair = KeyPair::generate(group, &mut rng).unwrap();
            let len = pair.public().len();
            for bad in [vec![], vec![0; len], vec![1; len - 1], vec![1; len + 1]] {
                assert!(pair.agree(&bad).is_err());
            }
        }
        // Not on the curve; of small order (RFC 7748 §6.1).
        let p256 = KeyPair::generate(Group::Ecp256, &mut rng).unwrap();
        assert!(p256.agree(&[1; 64]).is_err());
        let x25519 = KeyPair::generate(Group::Curve25519, &mut rng).unwrap();
        let mut one = [0; 32];
        one[0] = 1;
        assert!(x25519.agree(&one).is_err());
    }

    #[test]
    fn keys_come_from_the_given_source_alone() {
        for group in [Group::Curve25519, Group::Ecp256] {
            let make = |seed| {
                let mut rng = ChaCha20Rng::seed_from_u64(seed);
                KeyPair::generate(group, &mut rng)
                    .unwrap()
                    .public()
                    .to_vec()
            };
            assert_eq!(make(1), make(1));
            assert_ne!(make(1), make(2));
        }
        // A source of zeros is no source: that is told, not looped over.
        assert!(KeyPair::from_private(Group::Ecp256, &[0; 32]).is_none());
        assert!(KeyPair::from_private(Group::Ecp256, &[0xff; 32]).is_none());
    }

    #[test]
    fn sk_opens_what_it_sealed_and_nothing_else() {
        for cipher in CipherSuite::ALL {
            let material = vec![7; cipher.keymat_len()];
            assert!(SkKey::new(cipher, &material[1..]).is_none());
            let mut key = SkKey::new(cipher, &material).unwrap();
            let mut ivs = Vec::new();
            for _ in 0..3 {
                let mut message = b"associated".to_vec();
                key.seal(&mut message, Zeroizing::new(b"plain".to_vec()))
                    .unwrap();
                let (aad, body) = message.split_at(10);
                assert_eq!(body.len(), IV_LEN + 5 + ICV_LEN);
                assert_eq!(**key.open(aad, body).as_ref().unwrap(), b"plain"[..]);
                ivs.push(body[..IV_LEN].to_vec());
                for bit in 0..message.len() * 8 {
                    let mut bad = message.clone();
                    bad[bit / 8] ^= 1 << (bit % 8);
                    assert!(key.open(&bad[..10], &bad[10..]).is_err());
                }
                for len in 0..body.len() {
                    assert!(key.open(aad, &body[..len]).is_err());
                }
            }
            ivs.dedup();
            assert_eq!(ivs.len(), 3);
            key.next_iv = u64::MAX;
            assert!(key.seal(&mut Vec::new(), Zeroizing::default()).is_none());
        }
    }
}
