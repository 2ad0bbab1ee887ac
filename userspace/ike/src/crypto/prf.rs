//! PRF and prf+ (RFC 7296 §2.13, RFC 4868).

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::Secret;
use crate::proposal::Prf;

impl Prf {
    const fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
            Self::HmacSha512 => hmac::HMAC_SHA512,
        }
    }

    /// Length of its output and preferred length of its key, in bytes (RFC 4868 §2.7).
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;

    /// RFC 4231 §4.2, §4.3 and §4.7 (a key longer than a block), which RFC 4868 §2.7.2 repeats.
    #[test]
    fn prf_known_answers() {
        for (key, data, sha256, sha384, sha512) in [
            (
                vec![0x0b; 20],
                "Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
                "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59c
                 faea9ea9076ede7f4af152e8b2fa9cb6",
                "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde
                 daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
            ),
            (
                b"Jefe".to_vec(),
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e
                 8e2240ca5e69e2c78b3239ecfab21649",
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554
                 9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
            (
                vec![0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
                "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6
                 0c2ef6ab4030fe8296248df163f44952",
                "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352
                 6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
            ),
        ] {
            let (head, tail) = data.as_bytes().split_at(3);
            for (prf, expected) in [
                (Prf::HmacSha256, sha256),
                (Prf::HmacSha384, sha384),
                (Prf::HmacSha512, sha512),
            ] {
                let out = prf.compute(&key, &[head, tail]);
                assert_eq!(*out, hex(expected));
                assert_eq!(out.len(), prf.len());
            }
        }
    }

    /// RFC 7296 §2.13, spelled out.
    #[test]
    fn prf_plus_is_a_stream() {
        for prf in Prf::ALL {
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
}
