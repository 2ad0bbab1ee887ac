//! Proposals in swanctl's names, their form on the wire, and the choice among a peer's
//! (RFC 7296 §2.7, §3.3).

use core::fmt;
use core::str::FromStr;

use mitregate_esp::CipherSuite;
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{
    EncryptionId, EsnId, IntegrityId, KeyExchangeId, PrfId, Proposal, ProtocolId, Transform,
    TransformType,
};

use crate::config::UnknownWord;

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal $(| $alias:literal)*,)* }) => {
        impl $name {
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

    pub(crate) const fn from_id(id: KeyExchangeId) -> Option<Self> {
        match id {
            KeyExchangeId::CURVE25519 => Some(Self::Curve25519),
            KeyExchangeId::ECP_256 => Some(Self::Ecp256),
            _ => None,
        }
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

/// The transform of type ENCR (RFC 5282 §7.3, RFC 7634 §2: ChaCha20-Poly1305 has no key length).
fn encryption(cipher: CipherSuite) -> Transform {
    match cipher {
        CipherSuite::Aes128Gcm16 => Transform::encryption(EncryptionId::AES_GCM_16, Some(128)),
        CipherSuite::Aes256Gcm16 => Transform::encryption(EncryptionId::AES_GCM_16, Some(256)),
        CipherSuite::ChaCha20Poly1305 => {
            Transform::encryption(EncryptionId::CHACHA20_POLY1305, None)
        }
    }
}

const fn prf(prf: Prf) -> Transform {
    Transform::prf(match prf {
        Prf::HmacSha256 => PrfId::HMAC_SHA2_256,
        Prf::HmacSha384 => PrfId::HMAC_SHA2_384,
    })
}

const fn esn(esn: bool) -> Transform {
    Transform::esn(if esn { EsnId::ESN } else { EsnId::NO_ESN })
}

const fn key_exchange(group: Group) -> Transform {
    Transform::key_exchange(group.id())
}

/// Puts numbers on proposals: 1, 2, … (RFC 7296 §3.3.1).
fn numbered(
    lists: impl Iterator<Item = Vec<Transform>>,
    protocol: ProtocolId,
    spi: &[u8],
) -> Vec<Proposal> {
    (1..=u8::MAX)
        .zip(lists)
        .map(|(number, transforms)| Proposal {
            number,
            protocol,
            spi: spi.to_vec(),
            transforms,
        })
        .collect()
}

/// The SA payload that offers `proposals` for a first IKE SA.
pub(crate) fn offer_ike(proposals: &[IkeProposal]) -> Vec<Proposal> {
    let lists = proposals.iter().map(|p| {
        let ciphers = p.ciphers.iter().copied().map(encryption);
        let prfs = p.prfs.iter().copied().map(prf);
        ciphers
            .chain(prfs)
            .chain(p.groups.iter().copied().map(key_exchange))
            .collect()
    });
    numbered(lists, ProtocolId::IKE, &[])
}

/// The SA payload that offers `proposals` for a CHILD_SA; groups only `with_groups`.
pub(crate) fn offer_esp(proposals: &[EspProposal], spi: Spi, with_groups: bool) -> Vec<Proposal> {
    let lists = proposals.iter().map(|p| {
        let ciphers = p.ciphers.iter().copied().map(encryption);
        let groups = p
            .groups
            .iter()
            .copied()
            .filter(|_| with_groups)
            .map(key_exchange);
        ciphers
            .chain(groups)
            .chain(p.esn.iter().copied().map(esn))
            .collect()
    });
    numbered(lists, ProtocolId::ESP, &spi.to_be_bytes())
}

/// A peer's proposal, sorted by transform type; made only of one that holds no type of transform
/// we do not know (RFC 7296 §3.3.6).
struct Offer<'a>(&'a Proposal);

impl<'a> Offer<'a> {
    fn new(proposal: &'a Proposal) -> Option<Self> {
        let aead = |t: &Transform| t.kind != TransformType::INTEG || t.id == IntegrityId::NONE.0;
        let known =
            |t: &Transform| (TransformType::ENCR.0..=TransformType::ESN.0).contains(&t.kind.0);
        // RFC 5282 §8: with an AEAD there is no integrity transform but NONE.
        proposal
            .transforms
            .iter()
            .all(|t| known(t) && aead(t))
            .then_some(Self(proposal))
    }

    fn has(&self, wanted: &Transform) -> bool {
        self.0.transforms.contains(wanted)
    }

    fn lacks(&self, kind: TransformType) -> bool {
        self.0
            .transforms
            .iter()
            .all(|t| t.kind != kind || t.id == 0)
    }

    fn first<T: Copy>(&self, ours: &[T], transform: impl Fn(T) -> Transform) -> Option<T> {
        ours.iter()
            .copied()
            .find(|item| self.has(&transform(*item)))
    }

    fn ike(&self, ours: &IkeProposal, preferred: Option<Group>) -> Option<IkeSuite> {
        if self.0.protocol != ProtocolId::IKE || !self.lacks(TransformType::ESN) {
            return None;
        }
        Some(IkeSuite {
            cipher: self.first(&ours.ciphers, encryption)?,
            prf: self.first(&ours.prfs, prf)?,
            group: self.group(&ours.groups, preferred)?,
        })
    }

    fn esp(&self, ours: &EspProposal, groups: Groups) -> Option<EspSuite> {
        if self.0.protocol != ProtocolId::ESP || !self.lacks(TransformType::PRF) {
            return None;
        }
        let group = match groups {
            Groups::Ignore => None,
            Groups::Negotiate(_) if ours.groups.is_empty() => {
                // No PFS here: fine with a peer that does not insist on it.
                let none = Transform::key_exchange(KeyExchangeId::NONE);
                let insists = !self.lacks(TransformType::KE) && !self.has(&none);
                return if insists {
                    None
                } else {
                    self.esp(ours, Groups::Ignore)
                };
            }
            Groups::Negotiate(preferred) => Some(self.group(&ours.groups, preferred)?),
        };
        Some(EspSuite {
            cipher: self.first(&ours.ciphers, encryption)?,
            group,
            esn: self.first(&ours.esn, esn)?,
        })
    }

    /// The group of the peer's KE payload where that is acceptable: it saves a round trip.
    fn group(&self, ours: &[Group], preferred: Option<Group>) -> Option<Group> {
        let common = |group: &Group| ours.contains(group) && self.has(&key_exchange(*group));
        preferred
            .filter(common)
            .or_else(|| self.first(ours, key_exchange))
    }
}

/// What to make of the groups in a proposal for a CHILD_SA.
#[derive(Clone, Copy)]
pub(crate) enum Groups {
    /// In IKE_AUTH they mean nothing (RFC 7296 §1.2).
    Ignore,
    /// In CREATE_CHILD_SA; with the group of the peer's KE payload.
    Negotiate(Option<Group>),
}

/// The choice of a responder: the first of our proposals that one of the peer's matches, and the
/// proposal to answer with.
pub(crate) fn choose_ike(
    ours: &[IkeProposal],
    peers: &[Proposal],
    ke: Option<Group>,
) -> Option<(IkeSuite, Proposal)> {
    let offers = || peers.iter().filter_map(Offer::new);
    ours.iter().find_map(|ours| {
        offers().find_map(|offer| {
            let suite = offer.ike(ours, ke)?;
            let transforms = vec![
                encryption(suite.cipher),
                prf(suite.prf),
                key_exchange(suite.group),
            ];
            Some((
                suite,
                Proposal {
                    spi: Vec::new(),
                    transforms,
                    ..offer.0.clone()
                },
            ))
        })
    })
}

/// The same for a CHILD_SA; also the peer's SPI. The answer's SPI is still to be set.
pub(crate) fn choose_esp(
    ours: &[EspProposal],
    peers: &[Proposal],
    groups: Groups,
) -> Option<(EspSuite, Spi, Proposal)> {
    let offers = || peers.iter().filter_map(Offer::new);
    ours.iter().find_map(|ours| {
        offers().find_map(|offer| {
            let suite = offer.esp(ours, groups)?;
            let transforms = [
                Some(encryption(suite.cipher)),
                suite.group.map(key_exchange),
            ]
            .into_iter()
            .flatten()
            .chain([esn(suite.esn)])
            .collect();
            let spi = esp_spi(offer.0)?;
            Some((
                suite,
                spi,
                Proposal {
                    spi: Vec::new(),
                    transforms,
                    ..offer.0.clone()
                },
            ))
        })
    })
}

/// The SPI of a proposal for ESP; `None` where it has not 4 bytes or is a reserved one.
fn esp_spi(proposal: &Proposal) -> Option<Spi> {
    Spi::new(u32::from_be_bytes(proposal.spi.as_slice().try_into().ok()?))
}

/// An initiator's check of the answer (RFC 7296 §2.7, §3.3.6): one proposal, of a number that was
/// offered, with one transform of each type, each of them offered there.
fn accepted<'a>(answer: &'a [Proposal], offered: usize) -> Option<(usize, Offer<'a>)> {
    let [answer] = answer else { return None };
    let index = usize::from(answer.number)
        .checked_sub(1)
        .filter(|index| *index < offered)?;
    let offer = Offer::new(answer)?;
    let mut kinds = answer.transforms.iter().map(|t| t.kind).collect::<Vec<_>>();
    kinds.sort();
    kinds.is_sorted_by(|a, b| a < b).then_some((index, offer))
}

/// What a responder chose of our offer for an IKE SA.
pub(crate) fn accept_ike(ours: &[IkeProposal], answer: &[Proposal]) -> Option<IkeSuite> {
    let (index, offer) = accepted(answer, ours.len())?;
    offer.ike(&ours[index], None)
}

/// What a responder chose of our offer for a CHILD_SA, and its SPI.
pub(crate) fn accept_esp(
    ours: &[EspProposal],
    answer: &[Proposal],
    groups: Groups,
) -> Option<(EspSuite, Spi)> {
    let (index, offer) = accepted(answer, ours.len())?;
    Some((offer.esp(&ours[index], groups)?, esp_spi(offer.0)?))
}

/// The groups in an offer, first the preferred one.
pub(crate) fn ike_groups(proposals: &[IkeProposal]) -> impl Iterator<Item = Group> {
    proposals.iter().flat_map(|p| p.groups.iter().copied())
}

/// The same for a CHILD_SA; empty without PFS.
pub(crate) fn esp_groups(proposals: &[EspProposal]) -> impl Iterator<Item = Group> {
    proposals.iter().flat_map(|p| p.groups.iter().copied())
}

impl IkeProposal {
    /// Could this proposal have led to `suite`?
    pub(crate) fn allows(&self, suite: &IkeSuite) -> bool {
        self.ciphers.contains(&suite.cipher)
            && self.prfs.contains(&suite.prf)
            && self.groups.contains(&suite.group)
    }
}

#[cfg(test)]
mod tests;
