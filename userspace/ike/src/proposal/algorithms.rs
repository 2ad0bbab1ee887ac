//! The algorithms, their names in swanctl and their transforms on the wire.

use core::fmt;

use mitregate_esp::CipherSuite;
use mitregate_wire::ike::{
    EncryptionId, EsnId, IntegrityId, KeyExchangeId, PrfId, Transform, TransformType,
};

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal $(| $alias:literal)*,)* }) => {
        impl $name {
            /// All of them.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$variant),*];

            const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            pub(super) fn from_word(word: &str) -> Option<Self> {
                match word { $($word $(| $alias)* => Some(Self::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

/// Pseudorandom function (RFC 4868).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Prf {
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

words! { Prf {
    HmacSha256 = "prfsha256",
    HmacSha384 = "prfsha384",
    HmacSha512 = "prfsha512",
} }

/// Key exchange method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// X25519 (RFC 8031).
    Curve25519,
    /// NIST P-256 (RFC 5903).
    Ecp256,
    /// NIST P-384 (RFC 5903).
    Ecp384,
    /// 2048-bit MODP group (RFC 3526), for old peers.
    Modp2048,
    /// 3072-bit MODP group (RFC 3526), for old peers.
    Modp3072,
    /// ML-KEM-768 (FIPS 203, draft-ietf-ipsecme-ikev2-mlkem). Post-quantum, and young: best as an
    /// additional key exchange beside an elliptic curve.
    MlKem768,
}

words! { Group {
    Curve25519 = "x25519" | "curve25519",
    Ecp256 = "ecp256",
    Ecp384 = "ecp384",
    Modp2048 = "modp2048",
    Modp3072 = "modp3072",
    MlKem768 = "mlkem768",
} }

/// Key length of AES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum AesBits {
    Bits128,
    Bits192,
    Bits256,
}

words! { AesBits {
    Bits128 = "aes128" | "aes",
    Bits192 = "aes192",
    Bits256 = "aes256",
} }

/// Integrity beside a cipher that has none of its own (RFC 4868).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Integrity {
    /// HMAC_SHA2_256_128.
    HmacSha256,
    /// HMAC_SHA2_384_192.
    HmacSha384,
    /// HMAC_SHA2_512_256.
    HmacSha512,
}

words! { Integrity {
    HmacSha256 = "sha256" | "sha2_256",
    HmacSha384 = "sha384" | "sha2_384",
    HmacSha512 = "sha512" | "sha2_512",
} }

impl Integrity {
    /// The PRF of the same hash: what a proposal means that names none.
    #[must_use]
    pub const fn prf(self) -> Prf {
        match self {
            Self::HmacSha256 => Prf::HmacSha256,
            Self::HmacSha384 => Prf::HmacSha384,
            Self::HmacSha512 => Prf::HmacSha512,
        }
    }
}

/// How the SK payload is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IkeCipher {
    /// By an AEAD (RFC 5282, RFC 7634).
    Aead(CipherSuite),
    /// By AES-CBC (RFC 3602) and then HMAC, for old peers.
    AesCbc(AesBits, Integrity),
}

impl fmt::Display for IkeCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aead(suite) => suite.fmt(f),
            Self::AesCbc(bits, integrity) => write!(f, "{bits}-{integrity}"),
        }
    }
}

impl Group {
    pub(crate) const fn id(self) -> KeyExchangeId {
        match self {
            Self::Curve25519 => KeyExchangeId::CURVE25519,
            Self::Ecp256 => KeyExchangeId::ECP_256,
            Self::Ecp384 => KeyExchangeId::ECP_384,
            Self::Modp2048 => KeyExchangeId::MODP_2048,
            Self::Modp3072 => KeyExchangeId::MODP_3072,
            Self::MlKem768 => KeyExchangeId::ML_KEM_768,
        }
    }

    pub(crate) fn from_id(id: KeyExchangeId) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.id() == id)
    }
}

/// Most additional key exchanges of one SA (RFC 9370 §2.2.1).
pub(crate) const ADDITIONAL: usize = 7;

/// The transform type of the additional key exchange at `index`, 0 to 6.
pub(super) fn additional_type(index: usize) -> TransformType {
    let first = TransformType::ADDITIONAL_KE1.0;
    TransformType(first + u8::try_from(index).unwrap_or_default())
}

/// The transform of type ENCR (RFC 5282 §7.3, RFC 7634 §2: ChaCha20-Poly1305 has no key length).
pub(super) fn aead(cipher: CipherSuite) -> Transform {
    match cipher {
        CipherSuite::Aes128Gcm16 => Transform::encryption(EncryptionId::AES_GCM_16, Some(128)),
        CipherSuite::Aes256Gcm16 => Transform::encryption(EncryptionId::AES_GCM_16, Some(256)),
        CipherSuite::ChaCha20Poly1305 => {
            Transform::encryption(EncryptionId::CHACHA20_POLY1305, None)
        }
    }
}

pub(super) fn aes_cbc(bits: AesBits) -> Transform {
    let bits = match bits {
        AesBits::Bits128 => 128,
        AesBits::Bits192 => 192,
        AesBits::Bits256 => 256,
    };
    Transform::encryption(EncryptionId::AES_CBC, Some(bits))
}

pub(super) const fn integrity(integrity: Integrity) -> Transform {
    let id = match integrity {
        Integrity::HmacSha256 => IntegrityId::HMAC_SHA2_256_128,
        Integrity::HmacSha384 => IntegrityId::HMAC_SHA2_384_192,
        Integrity::HmacSha512 => IntegrityId::HMAC_SHA2_512_256,
    };
    Transform::new(TransformType::INTEG, id.0)
}

pub(super) const fn prf(prf: Prf) -> Transform {
    Transform::prf(match prf {
        Prf::HmacSha256 => PrfId::HMAC_SHA2_256,
        Prf::HmacSha384 => PrfId::HMAC_SHA2_384,
        Prf::HmacSha512 => PrfId::HMAC_SHA2_512,
    })
}

pub(super) const fn esn(esn: bool) -> Transform {
    Transform::esn(if esn { EsnId::ESN } else { EsnId::NO_ESN })
}

pub(super) const fn key_exchange(group: Group) -> Transform {
    Transform::key_exchange(group.id())
}

/// An additional key exchange, or that it may be left out (RFC 9370 §2.2.1).
pub(super) fn additional(index: usize, group: Option<Group>) -> Transform {
    let id = group.map_or(KeyExchangeId::NONE, Group::id);
    Transform::new(additional_type(index), id.0)
}
