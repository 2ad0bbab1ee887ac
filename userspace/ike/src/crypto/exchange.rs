//! Key exchange: the initiator's half, and the responder's reply to it.

use aws_lc_rs::agreement;
use mitregate_wire::ike::{KeyExchange, Payload};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::modp::{self, Modp};
use super::{Secret, mlkem};
use crate::proposal::Group;

/// The initiator's half of a key exchange.
pub(crate) struct KeyPair {
    group: Group,
    private: Private,
    /// As the KE payload carries it.
    public: Vec<u8>,
}

enum Private {
    Curve(agreement::PrivateKey),
    Modp(modp::Private),
    // A key is 5 KB: behind a pointer.
    MlKem(Box<mlkem::Initiator>),
}

/// The responder's half: its public value, and what both then share.
pub(crate) struct Reply {
    pub(super) group: Group,
    /// As the KE payload carries it.
    pub(super) public: Vec<u8>,
    /// The shared secret.
    pub(crate) secret: Secret,
}

/// The peer's public value is not one, or the secret would be all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPublicKey;

/// How a group works.
enum Method {
    Curve(Curve),
    Modp(Modp),
    MlKem,
}

#[derive(Clone, Copy)]
enum Curve {
    X25519,
    P256,
    P384,
}

impl Group {
    const fn kind(self) -> Method {
        match self {
            Self::Curve25519 => Method::Curve(Curve::X25519),
            Self::Ecp256 => Method::Curve(Curve::P256),
            Self::Ecp384 => Method::Curve(Curve::P384),
            Self::Modp2048 => Method::Modp(Modp::Bits2048),
            Self::Modp3072 => Method::Modp(Modp::Bits3072),
            Self::MlKem768 => Method::MlKem,
        }
    }
}

/// SEC 1 marks an uncompressed point by this byte; the KE payload leaves it out (RFC 5903 §7).
const UNCOMPRESSED: u8 = 4;

impl Curve {
    const fn algorithm(self) -> &'static agreement::Algorithm {
        match self {
            Self::X25519 => &agreement::X25519,
            Self::P256 => &agreement::ECDH_P256,
            Self::P384 => &agreement::ECDH_P384,
        }
    }

    /// Length of a private key and of a coordinate, bytes.
    const fn len(self) -> usize {
        match self {
            Self::X25519 | Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    fn public(self, private: &agreement::PrivateKey) -> Option<Vec<u8>> {
        let public = private.compute_public_key().ok()?;
        match (self, public.as_ref()) {
            (Self::X25519, bytes) => Some(bytes.to_vec()),
            (_, [UNCOMPRESSED, xy @ ..]) => Some(xy.to_vec()),
            _ => None,
        }
    }

    /// That the point lies on the curve, and that the secret is not zero, is checked by the
    /// library (RFC 6989 §2.3, RFC 8031 §4).
    fn agree(self, private: &agreement::PrivateKey, peer: &[u8]) -> Result<Secret, BadPublicKey> {
        let encoded = match (self, peer.len()) {
            (Self::X25519, 32) => peer.to_vec(),
            (Self::P256, 64) | (Self::P384, 96) => [&[UNCOMPRESSED], peer].concat(),
            _ => return Err(BadPublicKey),
        };
        let peer = agreement::UnparsedPublicKey::new(self.algorithm(), encoded);
        agreement::agree(private, peer, BadPublicKey, |secret| {
            Ok(Zeroizing::new(secret.to_vec()))
        })
    }
}

#[cfg(test)]
thread_local! {
    /// Halves of key exchanges that this thread has made.
    pub(crate) static EXCHANGES: core::cell::Cell<u32> = const { core::cell::Cell::new(0) };
}

impl KeyPair {
    /// A fresh pair made of `rng` alone; `None` if that gives no valid private key, which a
    /// source of random bytes does not do.
    pub(crate) fn generate(group: Group, rng: &mut dyn CryptoRng) -> Option<Self> {
        #[cfg(test)]
        EXCHANGES.with(|count| count.set(count.get() + 1));
        match group.kind() {
            // Of 2^32 P-256 scalars one is out of range; a few tries are for ever.
            Method::Curve(curve) => (0..4).find_map(|_| {
                let mut scalar = Zeroizing::new(vec![0; curve.len()]);
                rng.fill_bytes(&mut scalar);
                Self::from_private(group, &scalar)
            }),
            Method::Modp(modp) => Self::modp(group, modp::Private::generate(modp, rng)?),
            Method::MlKem => {
                let (key, public) = mlkem::Initiator::generate(rng);
                Some(Self {
                    group,
                    private: Private::MlKem(Box::new(key)),
                    public,
                })
            }
        }
    }

    fn modp(group: Group, private: modp::Private) -> Option<Self> {
        Some(Self {
            group,
            public: private.public()?,
            private: Private::Modp(private),
        })
    }

    /// From a scalar, an exponent, or the seed of FIPS 203 (d, then z).
    fn from_private(group: Group, bytes: &[u8]) -> Option<Self> {
        match group.kind() {
            Method::Curve(curve) => {
                let key = agreement::PrivateKey::from_private_key(curve.algorithm(), bytes).ok()?;
                Some(Self {
                    group,
                    public: curve.public(&key)?,
                    private: Private::Curve(key),
                })
            }
            Method::Modp(modp) => Self::modp(group, modp::Private::from_exponent(modp, bytes)?),
            Method::MlKem => {
                let (key, public) = mlkem::Initiator::from_seed(bytes.try_into().ok()?);
                Some(Self {
                    group,
                    private: Private::MlKem(Box::new(key)),
                    public,
                })
            }
        }
    }

    pub(crate) const fn group(&self) -> Group {
        self.group
    }

    #[cfg(test)]
    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    /// The KE payload.
    pub(crate) fn payload(&self) -> Payload {
        payload(self.group, &self.public)
    }

    /// The shared secret, from the responder's reply.
    pub(crate) fn agree(&self, reply: &[u8]) -> Result<Secret, BadPublicKey> {
        match (&self.private, self.group.kind()) {
            (Private::Curve(key), Method::Curve(curve)) => curve.agree(key, reply),
            (Private::Modp(key), _) => key.agree(reply),
            (Private::MlKem(key), _) => key.decapsulate(reply),
            (Private::Curve(_), _) => Err(BadPublicKey),
        }
    }
}

impl Reply {
    /// A responder's reply to an initiator's public value, made of `rng` alone.
    pub(crate) fn to(
        group: Group,
        initiator: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, BadPublicKey> {
        if matches!(group.kind(), Method::MlKem) {
            #[cfg(test)]
            EXCHANGES.with(|count| count.set(count.get() + 1));
            return mlkem::encapsulate(initiator, rng);
        }
        // Both halves are alike.
        let pair = KeyPair::generate(group, rng).ok_or(BadPublicKey)?;
        let secret = pair.agree(initiator)?;
        Ok(Self {
            group,
            public: pair.public,
            secret,
        })
    }

    /// The KE payload.
    pub(crate) fn payload(&self) -> Payload {
        payload(self.group, &self.public)
    }
}

fn payload(group: Group, public: &[u8]) -> Payload {
    Payload::KeyExchange(KeyExchange {
        method: group.id(),
        data: public.to_vec(),
    })
}

#[cfg(test)]
mod tests;
