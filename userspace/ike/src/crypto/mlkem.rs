//! ML-KEM-768 (FIPS 203) as a key exchange method: the initiator sends an encapsulation key, the
//! responder a ciphertext (RFC 9370 §2.2, draft-ietf-ipsecme-ikev2-mlkem).

use ml_kem::ml_kem_768::{Ciphertext, DecapsulationKey, EncapsulationKey};
use ml_kem::{B32, Decapsulate, Key, KeyExport, Seed};
use rand_core::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

use super::{BadPublicKey, Reply, Secret};
use crate::proposal::Group;

/// The initiator's half: wiped on drop.
pub(super) struct Initiator(DecapsulationKey);

impl Initiator {
    /// Also the encapsulation key, 1184 bytes.
    pub(super) fn generate(rng: &mut dyn CryptoRng) -> (Self, Vec<u8>) {
        let mut seed = Seed::default();
        rng.fill_bytes(&mut seed);
        let key = Self::from_seed(seed);
        seed.zeroize();
        key
    }

    pub(super) fn from_seed(seed: Seed) -> (Self, Vec<u8>) {
        let key = DecapsulationKey::from_seed(seed);
        let public = key.encapsulation_key().to_bytes().to_vec();
        (Self(key), public)
    }

    /// A ciphertext of the right length always gives a secret: another one than the peer's where
    /// it was tampered with (FIPS 203 §6.3, implicit rejection).
    pub(super) fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret, BadPublicKey> {
        let ciphertext = Ciphertext::try_from(ciphertext).map_err(|_| BadPublicKey)?;
        let mut shared = self.0.decapsulate(&ciphertext);
        let secret = Zeroizing::new(shared.to_vec());
        shared.zeroize();
        Ok(secret)
    }
}

/// The responder's half. FIPS 203 §7.2: the encapsulation key has its length, and each of its
/// coefficients is below the modulus.
pub(super) fn encapsulate(key: &[u8], rng: &mut dyn CryptoRng) -> Result<Reply, BadPublicKey> {
    let mut message = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *message);
    encapsulate_message(key, &message)
}

pub(super) fn encapsulate_message(key: &[u8], message: &[u8; 32]) -> Result<Reply, BadPublicKey> {
    let key = Key::<EncapsulationKey>::try_from(key).map_err(|_| BadPublicKey)?;
    let key = EncapsulationKey::new(&key).map_err(|_| BadPublicKey)?;
    let mut message = B32::from(*message);
    let (ciphertext, mut shared) = key.encapsulate_deterministic(&message);
    message.zeroize();
    let secret = Zeroizing::new(shared.to_vec());
    shared.zeroize();
    Ok(Reply {
        group: Group::MlKem768,
        public: ciphertext.to_vec(),
        secret,
    })
}
