//! The cryptography under IKE: PRF, prf+, key exchange, and the ciphers of the SK payload.

mod exchange;
mod mlkem;
mod modp;
mod prf;
mod sk;

use zeroize::Zeroizing;

#[cfg(test)]
pub(crate) use exchange::EXCHANGES;
pub(crate) use exchange::{BadPublicKey, KeyPair, Reply};
pub(crate) use sk::{Forged, SkKey};

/// Bytes that wipe themselves.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

#[cfg(test)]
pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let digits: String = digits.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}
