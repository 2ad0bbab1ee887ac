//! Offers, choices and their acceptance.

use mitregate_esp::CipherSuite;
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{
    IntegrityId, KeyExchangeId, Proposal, ProtocolId, Transform, TransformType,
};

use super::algorithms::{
    ADDITIONAL, additional, additional_type, aead, aes_cbc, esn, integrity, key_exchange, prf,
};
use super::{
    Additional, Alternatives, Ciphers, EspProposal, EspSuite, Group, IkeCipher, IkeProposal,
    IkeSuite,
};

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

impl Ciphers {
    fn transforms(&self) -> Vec<Transform> {
        match self {
            Self::Aead(list) => list.iter().copied().map(aead).collect(),
            Self::Cbc(bits, algorithms) => {
                let bits = bits.iter().copied().map(aes_cbc);
                bits.chain(algorithms.iter().copied().map(integrity))
                    .collect()
            }
        }
    }
}

impl IkeCipher {
    fn transforms(self) -> Vec<Transform> {
        match self {
            Self::Aead(suite) => vec![aead(suite)],
            Self::AesCbc(bits, algorithm) => vec![aes_cbc(bits), integrity(algorithm)],
        }
    }
}

impl Alternatives {
    fn transforms(&self) -> impl Iterator<Item = Transform> {
        self.0
            .iter()
            .enumerate()
            .flat_map(|(index, list)| list.iter().map(move |group| additional(index, *group)))
    }
}

/// The SA payload that offers `proposals` for an IKE SA: `spi` is empty for a first one.
pub(crate) fn offer_ike(proposals: &[IkeProposal], spi: &[u8]) -> Vec<Proposal> {
    let lists = proposals.iter().map(|p| {
        let mut transforms = p.ciphers.transforms();
        transforms.extend(p.prfs.iter().copied().map(prf));
        transforms.extend(p.groups.iter().copied().map(key_exchange));
        transforms.extend(p.additional.transforms());
        transforms
    });
    numbered(lists, ProtocolId::IKE, spi)
}

/// The SA payload that offers `proposals` for a CHILD_SA; groups only `with_groups`.
pub(crate) fn offer_esp(proposals: &[EspProposal], spi: Spi, with_groups: bool) -> Vec<Proposal> {
    let lists = proposals.iter().map(|p| {
        let mut transforms = p.ciphers.iter().copied().map(aead).collect::<Vec<_>>();
        if with_groups {
            transforms.extend(p.groups.iter().copied().map(key_exchange));
            transforms.extend(p.additional.transforms());
        }
        transforms.extend(p.esn.iter().copied().map(esn));
        transforms
    });
    numbered(lists, ProtocolId::ESP, &spi.to_be_bytes())
}

/// A peer's proposal, sorted by transform type; made only of one that holds no type of transform
/// we do not know (RFC 7296 §3.3.6).
struct Offer<'a>(&'a Proposal);

impl<'a> Offer<'a> {
    fn new(proposal: &'a Proposal) -> Option<Self> {
        let known = TransformType::ENCR.0..=additional_type(ADDITIONAL - 1).0;
        let all_known = proposal
            .transforms
            .iter()
            .all(|t| known.contains(&t.kind.0));
        all_known.then_some(Self(proposal))
    }

    fn has(&self, wanted: &Transform) -> bool {
        self.0.transforms.contains(wanted)
    }

    /// There is none of this type, or none but NONE.
    fn lacks(&self, kind: TransformType) -> bool {
        let mut transforms = self.0.transforms.iter();
        transforms.all(|t| t.kind != kind || t.id == IntegrityId::NONE.0)
    }

    fn has_type(&self, kind: TransformType) -> bool {
        self.0.transforms.iter().any(|t| t.kind == kind)
    }

    fn first<T: Copy>(&self, ours: &[T], transform: impl Fn(T) -> Transform) -> Option<T> {
        ours.iter()
            .copied()
            .find(|item| self.has(&transform(*item)))
    }

    /// RFC 5282 §8: with an AEAD there is no integrity transform but NONE.
    fn aead(&self, ours: &[CipherSuite]) -> Option<CipherSuite> {
        self.first(ours, aead)
            .filter(|_| self.lacks(TransformType::INTEG))
    }

    fn ike_cipher(&self, ours: &Ciphers) -> Option<IkeCipher> {
        match ours {
            Ciphers::Aead(list) => self.aead(list).map(IkeCipher::Aead),
            Ciphers::Cbc(bits, algorithms) => Some(IkeCipher::AesCbc(
                self.first(bits, aes_cbc)?,
                self.first(algorithms, integrity)?,
            )),
        }
    }

    fn ike(&self, ours: &IkeProposal, preferred: Option<Group>) -> Option<IkeSuite> {
        if self.0.protocol != ProtocolId::IKE || !self.lacks(TransformType::ESN) {
            return None;
        }
        let (group, additional) = self.exchanges(&ours.groups, &ours.additional, preferred)?;
        Some(IkeSuite {
            cipher: self.ike_cipher(&ours.ciphers)?,
            prf: self.first(&ours.prfs, prf)?,
            group,
            additional,
        })
    }

    fn esp(&self, ours: &EspProposal, groups: Groups) -> Option<EspSuite> {
        if self.0.protocol != ProtocolId::ESP || !self.lacks(TransformType::PRF) {
            return None;
        }
        let (group, additional) = match groups {
            Groups::Ignore => (None, Additional::default()),
            Groups::Negotiate(_) if ours.groups.is_empty() => {
                // No PFS here: fine with a peer that does not insist on it.
                let none = Transform::key_exchange(KeyExchangeId::NONE);
                if !self.lacks(TransformType::KE) && !self.has(&none) {
                    return None;
                }
                (None, self.additional(&ours.additional, &mut Vec::new())?)
            }
            Groups::Negotiate(preferred) => {
                let (group, additional) =
                    self.exchanges(&ours.groups, &ours.additional, preferred)?;
                (Some(group), additional)
            }
        };
        Some(EspSuite {
            cipher: self.aead(&ours.ciphers)?,
            group,
            additional,
            esn: self.first(&ours.esn, esn)?,
        })
    }

    /// All key exchanges. The group of the peer's KE payload where that is acceptable: it saves a
    /// round trip.
    fn exchanges(
        &self,
        ours: &[Group],
        alternatives: &Alternatives,
        preferred: Option<Group>,
    ) -> Option<(Group, Additional)> {
        let preferred = preferred.filter(|group| ours.contains(group));
        preferred
            .iter()
            .chain(ours)
            .filter(|group| self.has(&key_exchange(**group)))
            .find_map(|group| Some((*group, self.additional(alternatives, &mut vec![*group])?)))
    }

    /// The additional key exchanges, all of another method than the `used` ones and each other
    /// (RFC 9370 §2.2.1): the first combination in order of our preference.
    fn additional(&self, alternatives: &Alternatives, used: &mut Vec<Group>) -> Option<Additional> {
        let mut chosen = Additional::default();
        self.pick(alternatives, 0, used, &mut chosen)
            .then_some(chosen)
    }

    fn pick(
        &self,
        alternatives: &Alternatives,
        index: usize,
        used: &mut Vec<Group>,
        chosen: &mut Additional,
    ) -> bool {
        let Some(ours) = alternatives.0.get(index) else {
            return true;
        };
        let ours = if ours.is_empty() {
            &[None]
        } else {
            ours.as_slice()
        };
        ours.iter().any(|group| {
            let offered = self.has(&additional(index, *group))
                || group.is_none() && !self.has_type(additional_type(index));
            if !offered || group.is_some_and(|group| used.contains(&group)) {
                return false;
            }
            used.extend(*group);
            chosen.0[index] = *group;
            let fits = self.pick(alternatives, index + 1, used, chosen);
            if !fits && group.is_some() {
                used.pop();
            }
            fits
        })
    }

    /// The transforms that answer additional key exchanges: one of each type that was offered.
    fn answer_additional(&self, chosen: Additional) -> impl Iterator<Item = Transform> {
        let transforms = chosen.0.into_iter().enumerate();
        transforms
            .filter(|(index, _)| self.has_type(additional_type(*index)))
            .map(|(index, group)| additional(index, group))
    }

    /// The proposal to answer with, its SPI still to be set.
    fn answer(&self, transforms: Vec<Transform>) -> Proposal {
        Proposal {
            number: self.0.number,
            protocol: self.0.protocol,
            spi: Vec::new(),
            transforms,
        }
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
/// proposal to answer with, whose SPI is still to be set at a rekey.
pub(crate) fn choose_ike(
    ours: &[IkeProposal],
    peers: &[Proposal],
    ke: Option<Group>,
) -> Option<(IkeSuite, Proposal)> {
    let offers = || peers.iter().filter_map(Offer::new);
    ours.iter().find_map(|ours| {
        offers().find_map(|offer| {
            let suite = offer.ike(ours, ke)?;
            let mut transforms = suite.cipher.transforms();
            transforms.extend([prf(suite.prf), key_exchange(suite.group)]);
            transforms.extend(offer.answer_additional(suite.additional));
            Some((suite, offer.answer(transforms)))
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
            let mut transforms = vec![aead(suite.cipher)];
            transforms.extend(suite.group.map(key_exchange));
            if matches!(groups, Groups::Negotiate(_)) {
                transforms.extend(offer.answer_additional(suite.additional));
            }
            transforms.push(esn(suite.esn));
            Some((suite, esp_spi(offer.0)?, offer.answer(transforms)))
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
