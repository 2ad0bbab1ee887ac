//! The MODP groups of RFC 3526, for old peers. Exponentiation takes the same time for all
//! exponents.

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd, Resize};
use rand_core::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

use super::{BadPublicKey, Secret};

/// Every prime of RFC 3526 starts and ends with 64 ones.
pub(super) const PRIME_2048: &str = "\
    ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd\
    ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed\
    ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f\
    83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b\
    e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510\
    15728e5a8aacaa68ffffffffffffffff";
pub(super) const PRIME_3072: &str = "\
    ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd\
    ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed\
    ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f\
    83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b\
    e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510\
    15728e5a8aaac42dad33170d04507a33a85521abdf1cba64ecfb850458dbef0a8aea71575d060c7db3970f85a6e1e4c7\
    abf5ae8cdb0933d71e8c94e04a25619dcee3d2261ad2ee6bf12ffa06d98a0864d87602733ec86a64521f2b18177b200c\
    bbe117577a615d6c770988c0bad946e208e24fa074e5ab3143db5bfce0fd108e4b82d120a93ad2caffffffffffffffff";

/// Which of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Modp {
    Bits2048,
    Bits3072,
}

impl Modp {
    const fn bits(self) -> u32 {
        match self {
            Self::Bits2048 => 2048,
            Self::Bits3072 => 3072,
        }
    }

    /// Length of a private exponent, bytes: no less than the higher of the two estimates in
    /// RFC 3526 §8. In a group of a safe prime short exponents do.
    const fn exponent_len(self) -> usize {
        match self {
            Self::Bits2048 => 320 / 8,
            Self::Bits3072 => 424 / 8,
        }
    }

    /// Length of a public value and of the secret, bytes: both are padded with zeros to that of
    /// the prime (RFC 7296 §2.14, §3.4).
    const fn len(self) -> usize {
        self.bits() as usize / 8
    }

    /// `None` would mean that the constants above are not what they say.
    fn params(self) -> Option<BoxedMontyParams> {
        let prime = match self {
            Self::Bits2048 => PRIME_2048,
            Self::Bits3072 => PRIME_3072,
        };
        let prime = BoxedUint::from_str_radix_vartime(prime, 16).ok()?;
        let prime = prime.resize(self.bits());
        let prime: Option<Odd<BoxedUint>> = Odd::new(prime).into();
        Some(BoxedMontyParams::new_vartime(prime?))
    }

    /// base to the power of exponent, padded.
    fn power(self, base: BoxedUint, exponent: &BoxedUint) -> Option<Secret> {
        let params = self.params()?;
        let mut power = BoxedMontyForm::new(base, &params).pow(exponent);
        let mut value = power.retrieve();
        power.as_montgomery_mut().zeroize();
        let bytes = Zeroizing::new(value.to_be_bytes().to_vec());
        value.zeroize();
        Some(bytes)
    }
}

/// Our half of a key exchange.
pub(super) struct Private {
    group: Modp,
    exponent: Zeroizing<BoxedUint>,
}

impl Private {
    pub(super) fn generate(group: Modp, rng: &mut dyn CryptoRng) -> Option<Self> {
        let mut exponent = Zeroizing::new(vec![0; group.exponent_len()]);
        rng.fill_bytes(&mut exponent);
        Self::from_exponent(group, &exponent)
    }

    pub(super) fn from_exponent(group: Modp, exponent: &[u8]) -> Option<Self> {
        let bits = u32::try_from(8 * exponent.len()).ok()?;
        let exponent = Zeroizing::new(BoxedUint::from_be_slice(exponent, bits).ok()?);
        // 2^0 is no public value of anybody's.
        let usable = !bool::from(exponent.is_zero());
        usable.then_some(Self { group, exponent })
    }

    /// 2 to our exponent.
    pub(super) fn public(&self) -> Option<Vec<u8>> {
        let two = BoxedUint::from(2_u8).resize(self.group.bits());
        Some(self.group.power(two, &self.exponent)?.to_vec())
    }

    /// RFC 6989 §2.1: in a group of a safe prime the peer's value must be above 1 and below p − 1,
    /// and needs no further check.
    pub(super) fn agree(&self, peer: &[u8]) -> Result<Secret, BadPublicKey> {
        if peer.len() != self.group.len() {
            return Err(BadPublicKey);
        }
        let params = self.group.params().ok_or(BadPublicKey)?;
        let peer = BoxedUint::from_be_slice(peer, self.group.bits()).map_err(|_| BadPublicKey)?;
        let one = BoxedUint::one_with_precision(self.group.bits());
        let last = params.modulus().as_ref().wrapping_sub(&one);
        if peer <= one || peer >= last {
            return Err(BadPublicKey);
        }
        self.group.power(peer, &self.exponent).ok_or(BadPublicKey)
    }
}
