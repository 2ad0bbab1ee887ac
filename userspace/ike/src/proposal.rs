//! Proposals in swanctl's names, their form on the wire, and the choice among a peer's
//! (RFC 7296 §2.7, §3.3).

use core::fmt;
use core::str::FromStr;

use mitregate_esp::CipherSuite;
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{
    EncryptionId, EsnId, KeyExchangeId, PrfId, Proposal, ProtocolId, Transform, TransformType,
};

use crate::config::UnknownWord;

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal $(| $alias:literal)*,)* }) => {
        impl $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            fn from_word(word: &str) -> Option<Self> {
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

/// Pseudorandom function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Prf {
    HmacSha256,
    HmacSha384,
}

words! { Prf { HmacSha256 = "prfsha256", HmacSha384 = "prfsha384", } }

/// Key exchange method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// X25519 (RFC 8031).
    Curve25519,
    /// NIST P-256 (RFC 5903).
    Ecp256,
}

words! { Group { Curve25519 = "x25519" | "curve25519", Ecp256 = "ecp256", } }

impl Group {
    pub(crate) const fn id(self) -> KeyExchangeId {
        match self {
            Self::Curve25519 => KeyExchangeId::CURVE25519,
            Self::Ecp256 => KeyExchangeId::ECP_256,
        }
    }

    pub(crate) fn from_id(id: KeyExchangeId) -> Option<Self> {
        Self::ALL.iter().copied().find(|group| group.id() == id)
    }
}

/// One choice of algorithms for an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct IkeSuite {
    pub cipher: CipherSuite,
    pub prf: Prf,
    pub group: Group,
}

impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.cipher, self.prf, self.group)
    }
}

/// One choice of algorithms for a CHILD_SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct EspSuite {
    pub cipher: CipherSuite,
    /// For perfect forward secrecy at a rekey.
    pub group: Option<Group>,
    /// Extended sequence numbers.
    pub esn: bool,
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cipher)?;
        if let Some(group) = self.group {
            write!(f, "-{group}")?;
        }
        f.write_str(if self.esn { "-esn" } else { "-noesn" })
    }
}

/// Alternatives for an IKE SA, each list in order of preference and not empty, such as
/// `aes256gcm16-prfsha384-x25519` or `aes256gcm16-aes128gcm16-prfsha256-x25519-ecp256`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeProposal {
    ciphers: Vec<CipherSuite>,
    prfs: Vec<Prf>,
    groups: Vec<Group>,
}

/// Alternatives for a CHILD_SA, such as `aes256gcm16`, `chacha20poly1305-x25519`,
/// `aes128gcm16-noesn`. Without a word on sequence numbers both forms are offered, extended ones
/// first. Groups count for rekeys alone: IKE_AUTH makes no second key exchange (RFC 7296 §1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspProposal {
    ciphers: Vec<CipherSuite>,
    groups: Vec<Group>,
    esn: Vec<bool>,
}

/// Why a proposal string is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ProposalError {
    #[error("unknown algorithm \"{0}\"")]
    Unknown(String),
    #[error("\"{0}\" twice")]
    Twice(String),
    #[error("no {0} in proposal")]
    Missing(&'static str),
}

impl From<UnknownWord> for ProposalError {
    fn from(word: UnknownWord) -> Self {
        Self::Unknown(word.0)
    }
}

fn push<T: PartialEq>(list: &mut Vec<T>, item: T, word: &str) -> Result<(), ProposalError> {
    if list.contains(&item) {
        return Err(ProposalError::Twice(word.to_owned()));
    }
    list.push(item);
    Ok(())
}

impl FromStr for IkeProposal {
    type Err = ProposalError;

    fn from_str(text: &str) -> Result<Self, ProposalError> {
        let (mut ciphers, mut prfs, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        for word in text.split('-') {
            if let Ok(cipher) = word.parse() {
                push(&mut ciphers, cipher, word)?;
            } else if let Some(prf) = Prf::from_word(word) {
                push(&mut prfs, prf, word)?;
            } else if let Some(group) = Group::from_word(word) {
                push(&mut groups, group, word)?;
            } else {
                return Err(ProposalError::Unknown(word.to_owned()));
            }
        }
        for (empty, what) in [
            (ciphers.is_empty(), "cipher"),
            (prfs.is_empty(), "PRF"),
            (groups.is_empty(), "key exchange group"),
        ] {
            if empty {
                return Err(ProposalError::Missing(what));
            }
        }
        Ok(Self {
            ciphers,
            prfs,
            groups,
        })
    }
}

impl FromStr for EspProposal {
    type Err = ProposalError;

    fn from_str(text: &str) -> Result<Self, ProposalError> {
        let (mut ciphers, mut groups, mut esn) = (Vec::new(), Vec::new(), Vec::new());
        for word in text.split('-') {
            if let Ok(cipher) = word.parse() {
                push(&mut ciphers, cipher, word)?;
            } else if let Some(group) = Group::from_word(word) {
                push(&mut groups, group, word)?;
            } else if let "esn" | "noesn" = word {
                push(&mut esn, word == "esn", word)?;
            } else {
                return Err(ProposalError::Unknown(word.to_owned()));
            }
        }
        if ciphers.is_empty() {
            return Err(ProposalError::Missing("cipher"));
        }
        if esn.is_empty() {
            esn = vec![true, false];
        }
        Ok(Self {
            ciphers,
            groups,
            esn,
        })
    }
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self
            .ciphers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        words.extend(self.prfs.iter().map(ToString::to_string));
        words.extend(self.groups.iter().map(ToString::to_string));
        f.write_str(&words.join("-"))
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self
            .ciphers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        words.extend(self.groups.iter().map(ToString::to_string));
        if self.esn != [true, false] {
            words.extend(
                self.esn
                    .iter()
                    .map(|esn| if *esn { "esn" } else { "noesn" }.to_owned()),
            );
        }
        f.write_str(&words.join("-"))
    }
}
