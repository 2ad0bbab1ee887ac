//! Rekeying the IKE SA itself (RFC 7296 §1.3.2, §2.8, §2.18, §2.25), both roles.
//!
//! ```text
//!  who starts                                     who answers
//!  CREATE_CHILD_SA SA(SPI), Ni, KEi ─►
//!                                   ◄─ SA(SPI), Nr, KEr    Rekeyed: the successor has all CHILD_SAs
//!  Rekeyed
//!  INFORMATIONAL D(IKE) ─►                                 of the old IKE SA
//!                                   ◄─ (empty)
//! ```
//!
//! Where both start at once, each has the successor that the peer made, its *rival*, and waits for
//! the answer to its own request before one of the two gets the CHILD_SAs: that of the higher
//! lowest nonce (§2.8.2). Until then nobody may use either, so the rival stays inside the old one.

use core::time::Duration;

use mitregate_wire::ike::{
    Delete, ExchangeType, IkeSpi, KeyExchangeId, Notify, NotifyType, Payload, Proposal, ProtocolId,
};

use super::child::refused_wait;
use super::followup::Series;
use super::message::{error, find, notify, random_ike_spi, random_nonce};
use super::window::{Purpose, Task, Work};
use super::{Fate, IkeSa, Phase};
use crate::crypto::{KeyPair, Reply};
use crate::keys::{Keys, Nonces, SharedSecrets, Side};
use crate::proposal::{
    Group, IkeSuite, accept_ike, choose_ike, ike_groups, offer_ike, offered, wanted,
};
use crate::{Ctx, Output, PeerRekey, Reason};

/// How often a rekey is tried again after TEMPORARY_FAILURE (RFC 7296 §2.25).
const MAX_REFUSALS: u8 = 8;
/// How long the old IKE SA waits for the Delete of the peer that started the rekey.
const REPLACED: Duration = Duration::from_secs(60);

/// A successor that we negotiate.
pub(super) struct WantedIke {
    /// Our SPI of it.
    spi: IkeSpi,
    nonce: Vec<u8>,
    key_pair: KeyPair,
    /// How often the peer asked to try again later.
    refusals: u8,
    /// The peer wanted another group once already.
    regrouped: bool,
}

/// The successor that the peer has made while our own request for one is under way.
pub(super) struct Rival {
    sa: Box<IkeSa>,
    lowest: Vec<u8>,
}

/// What both sides agreed on for a successor.
pub(super) struct Successor {
    /// Ours: [`Side::Initiator`] where we started the rekey.
    pub(super) side: Side,
    pub(super) suite: IkeSuite,
    pub(super) spi_i: IkeSpi,
    pub(super) spi_r: IkeSpi,
    pub(super) nonces: Nonces,
    /// Of CREATE_CHILD_SA, then of any further key exchange.
    pub(super) shared: SharedSecrets,
}

impl IkeSa {
    /// Replaces this IKE SA by a new one with fresh SPIs and keys, which takes over the CHILD_SAs:
    /// `Rekeyed` follows, or `RekeyFailed`. Nothing happens where that is under way already.
    pub fn rekey(&mut self, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        if !matches!(self.phase, Phase::Established) {
            return Err(Reason::Closed);
        }
        let waits = |task: &Task| matches!(task.work, Work::RekeyIke { .. } | Work::DeleteIke);
        if !self.is_rekeying() && !self.tasks.iter().any(waits) {
            let work = Work::RekeyIke { refusals: 0 };
            self.tasks.push_back(Task::now(work));
            self.start_tasks(cx);
        }
        Ok(())
    }

    /// Is our own request for a successor under way?
    pub(super) fn is_rekeying(&self) -> bool {
        self.outstanding
            .as_ref()
            .is_some_and(|request| match &request.purpose {
                Purpose::RekeyIke(_) => true,
                Purpose::FollowUp(follow_up) => follow_up.is_for_ike(),
                _ => false,
            })
    }

    /// Sends CREATE_CHILD_SA for a successor.
    pub(super) fn request_rekey(&mut self, refusals: u8, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        // The peer agreed to the present group: asking for it again saves a round trip.
        let present = self.keys.as_ref().map(|keys| keys.suite.group);
        let group = present.or_else(|| ike_groups(&self.config.proposals).next());
        let key_pair = group.and_then(|group| KeyPair::generate(group, cx.rng));
        let Some(key_pair) = key_pair else {
            let reason = Reason::Resources("private keys");
            self.outputs.push_back(Output::RekeyFailed(reason));
            return Ok(());
        };
        let wanted = WantedIke {
            spi: random_ike_spi(cx.rng),
            nonce: random_nonce(cx.rng),
            key_pair,
            refusals,
            regrouped: false,
        };
        self.send_rekey(wanted, cx)
    }

    fn send_rekey(&mut self, wanted: WantedIke, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let proposals = offer_ike(&self.config.proposals, &wanted.spi.0);
        let payloads = [
            Payload::Sa(proposals),
            Payload::Nonce(wanted.nonce.clone()),
            wanted.key_pair.payload(),
        ];
        let purpose = Purpose::RekeyIke(Box::new(wanted));
        self.request(ExchangeType::CREATE_CHILD_SA, purpose, &payloads, cx)
    }

    /// The response to our request for a successor.
    pub(super) fn finish_rekey(
        &mut self,
        wanted: WantedIke,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) {
        let Some(refusal) = error(payloads) else {
            return match self.check_rekey(&wanted, payloads) {
                Ok(successor) if successor.suite.additional.is_empty() => {
                    self.conclude_rekey(successor, cx);
                }
                Ok(successor) => self.follow_up_rekey(successor, wanted.refusals, payloads, cx),
                // The peer believes in a successor that we do not have.
                Err(reason) => self.give_up_on(reason, cx),
            };
        };
        // RFC 7296 §2.8.2: the peer did not notice that both rekeyed; so ours never was.
        if self.take_rival(cx) {
            return;
        }
        match refusal.kind {
            NotifyType::INVALID_KE_PAYLOAD => {
                let id = <[u8; 2]>::try_from(refusal.data.as_slice()).map(u16::from_be_bytes);
                let group = id.ok().and_then(|id| Group::from_id(KeyExchangeId(id)));
                self.regroup_rekey(wanted, group, cx);
            }
            NotifyType::TEMPORARY_FAILURE if self.try_rekey_later(wanted.refusals, cx) => {}
            kind => {
                let reason = Reason::Refused(kind);
                self.outputs.push_back(Output::RekeyFailed(reason));
            }
        }
    }

    /// The peer asked to try again later: `false` when that was often enough.
    pub(super) fn try_rekey_later(&mut self, refusals: u8, cx: &mut Ctx<'_>) -> bool {
        if refusals >= MAX_REFUSALS {
            return false;
        }
        let refusals = refusals + 1;
        self.tasks.push_back(Task {
            not_before: cx.now + refused_wait(cx.rng),
            work: Work::RekeyIke { refusals },
        });
        true
    }

    /// More key exchanges are to come, and there is no successor yet. Where the peer has started a
    /// rekey too, the one with the lowest nonce stops here: there is nothing to delete
    /// (RFC 9370 §2.2.4).
    fn follow_up_rekey(
        &mut self,
        successor: Successor,
        refusals: u8,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) {
        let lowest = successor.nonces.lowest();
        if self
            .rival
            .as_ref()
            .is_some_and(|rival| lowest < rival.lowest.as_slice())
        {
            self.take_rival(cx);
            return;
        }
        if self.yields_to_awaited(lowest, refusals) {
            return;
        }
        let series = Series::for_ike(successor, Some(refusals));
        if let Err(reason) = self.follow_up(series, payloads, cx) {
            self.end(reason, cx);
        }
    }

    /// The peer wants another group: once, and one that we offered (RFC 7296 §1.3).
    fn regroup_rekey(&mut self, mut wanted: WantedIke, group: Option<Group>, cx: &mut Ctx<'_>) {
        let key_pair = group
            .filter(|group| {
                let ours = ike_groups(&self.config.proposals);
                !wanted.regrouped && ours.into_iter().any(|ours| ours == *group)
            })
            .and_then(|group| KeyPair::generate(group, cx.rng));
        let Some(key_pair) = key_pair else {
            let reason = Reason::Refused(NotifyType::INVALID_KE_PAYLOAD);
            self.outputs.push_back(Output::RekeyFailed(reason));
            return;
        };
        wanted.key_pair = key_pair;
        wanted.regrouped = true;
        wanted.nonce = random_nonce(cx.rng);
        if let Err(reason) = self.send_rekey(wanted, cx) {
            self.end(reason, cx);
        }
    }

    fn check_rekey(&self, wanted: &WantedIke, payloads: &[Payload]) -> Result<Successor, Reason> {
        let proposals = find!(payloads, Payload::Sa(proposals) => proposals)
            .ok_or(Reason::Protocol("no SA payload"))?;
        let nonce =
            find!(payloads, Payload::Nonce(nonce) => nonce).ok_or(Reason::Protocol("no nonce"))?;
        let ke = find!(payloads, Payload::KeyExchange(ke) => ke)
            .ok_or(Reason::Protocol("no key exchange"))?;
        let suite = accept_ike(&self.config.proposals, proposals)
            .ok_or(Reason::Protocol("answer is none of our proposals"))?;
        let spi_r = proposals
            .first()
            .and_then(ike_spi)
            .ok_or(Reason::Protocol("no SPI for the IKE SA"))?;
        if suite.group != wanted.key_pair.group() || ke.method != suite.group.id() {
            return Err(Reason::Protocol("no key exchange of the chosen group"));
        }
        let shared = wanted
            .key_pair
            .agree(&ke.data)
            .map_err(|_| Reason::InvalidKeyExchange)?;
        Ok(Successor {
            side: Side::Initiator,
            suite,
            spi_i: wanted.spi,
            spi_r,
            nonces: Nonces {
                i: wanted.nonce.clone(),
                r: nonce.clone(),
            },
            shared: Some(shared).into(),
        })
    }

    /// Our request has led to a successor. It gets the CHILD_SAs, or the rival does.
    pub(super) fn conclude_rekey(&mut self, successor: Successor, cx: &mut Ctx<'_>) {
        let lowest = successor.nonces.lowest().to_vec();
        let ours = match self.succeed(successor) {
            Ok(sa) => Box::new(sa),
            Err(reason) => return self.give_up_on(reason, cx),
        };
        match self.rival.take() {
            // RFC 7296 §2.8.2: the one with the lowest nonce is deleted by who made it, and who
            // made the other one deletes the old.
            Some(rival) if lowest < rival.lowest => {
                self.hand_over(rival.sa, cx);
                self.await_delete(cx);
                self.redundant(ours, true, cx);
            }
            rival => {
                self.hand_over(ours, cx);
                if let Err(reason) = self.request_delete_ike(cx) {
                    self.end(reason, cx);
                }
                if let Some(rival) = rival {
                    self.redundant(rival.sa, false, cx);
                }
            }
        }
    }

    /// Where the peer has made a successor and ours is not to be: that one it is.
    pub(super) fn take_rival(&mut self, cx: &mut Ctx<'_>) -> bool {
        let Some(rival) = self.rival.take() else {
            return false;
        };
        self.hand_over(rival.sa, cx);
        self.await_delete(cx);
        true
    }

    /// Hands out a successor that nobody needs: `ours` is to be deleted by us.
    fn redundant(&mut self, mut sa: Box<IkeSa>, ours: bool, cx: &mut Ctx<'_>) {
        sa.replaced = true;
        let asked = if ours {
            sa.request_delete_ike(cx)
        } else {
            Ok(())
        };
        if !ours || asked.is_err() {
            sa.await_delete(cx);
        }
        self.outputs.push_back(Output::Redundant(sa));
    }

    /// From now on only the peer's Delete is waited for.
    pub(super) fn await_delete(&mut self, cx: &Ctx<'_>) {
        self.phase = Phase::Replaced;
        self.outstanding = None;
        self.expires = Some(cx.now + REPLACED);
    }

    /// The successor takes over what this IKE SA has, and what it has still to do.
    fn hand_over(&mut self, mut successor: Box<IkeSa>, cx: &mut Ctx<'_>) {
        self.forget_follow_up(cx);
        self.replaced = true;
        successor.children = core::mem::take(&mut self.children);
        successor.unborn = core::mem::take(&mut self.unborn);
        let tasks = core::mem::take(&mut self.tasks);
        successor.tasks = tasks
            .into_iter()
            .filter(|task| !matches!(task.work, Work::RekeyIke { .. }))
            .collect();
        self.hand_over_mobility(&mut successor);
        successor.start_tasks(cx);
        self.outputs.push_back(Output::Rekeyed(successor));
    }

    /// A new IKE SA between the same two, without CHILD_SAs (RFC 7296 §2.18).
    fn succeed(&self, successor: Successor) -> Result<Self, Reason> {
        let Successor {
            side,
            suite,
            spi_i,
            spi_r,
            nonces,
            shared,
        } = successor;
        let old = self.keys.as_ref().ok_or(Reason::Resources("keys"))?;
        let schedule = old.schedule.rekey(suite, &shared, &nonces, spi_i, spi_r);
        let keys = Keys::new(schedule, suite, side).ok_or(Reason::Resources("keys"))?;
        Ok(Self {
            phase: Phase::Established,
            peer_id: self.peer_id.clone(),
            spi_r,
            first_remote: self.first_remote,
            keys: Some(keys),
            vendor: self.vendor,
            peer_childless: self.peer_childless,
            fragmentation: self.fragmentation,
            cp: self.cp.clone(),
            nat: self.nat,
            encap: self.encap,
            mobike: self.mobike.clone(),
            ..Self::new(side, self.config.clone(), spi_i, self.local, self.remote)
        })
    }

    /// A peer's request for a successor.
    pub(super) fn answer_rekey(
        &mut self,
        proposals: &[Proposal],
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) -> (Vec<Payload>, Fate) {
        let refuse = |kind| (vec![notify(kind)], Fate::GoesOn);
        // RFC 7296 §2.25.1, §2.25.2: not while this IKE SA is closed or has a successor already,
        // and not while one of its CHILD_SAs is made, rekeyed or deleted by us.
        let busy = self.outstanding.as_ref().is_some_and(|request| {
            !matches!(
                request.purpose,
                Purpose::Liveness | Purpose::Mobike(_) | Purpose::RekeyIke(_)
            )
        });
        if busy || self.rival.is_some() || !matches!(self.phase, Phase::Established) {
            return refuse(NotifyType::TEMPORARY_FAILURE);
        }
        match self.config.peer_rekey {
            // One of our own is under way: it decides.
            _ if self.is_rekeying() => {}
            PeerRekey::Accept => {}
            PeerRekey::Ignore => return (Vec::new(), Fate::Ignored),
            PeerRekey::Refuse(times) if self.refused < times => {
                self.refused += 1;
                self.outputs
                    .push_back(Output::PeerWantsRekey { spi_in: None });
                return refuse(NotifyType::TEMPORARY_FAILURE);
            }
            PeerRekey::Refuse(_) => {}
        }
        let Some(nonce) = find!(payloads, Payload::Nonce(nonce) => nonce) else {
            let fate = Fate::Ends(Reason::Protocol("rekey of the IKE SA without Ni"));
            return (vec![notify(NotifyType::INVALID_SYNTAX)], fate);
        };
        let ke = find!(payloads, Payload::KeyExchange(ke) => ke);
        let group = ke.and_then(|ke| Group::from_id(ke.method));
        let chosen = choose_ike(&self.config.proposals, proposals, group);
        let spi_of = |answer: &Proposal| {
            let mut offers = proposals.iter();
            ike_spi(offers.find(|offer| offer.number == answer.number)?)
        };
        let chosen = chosen.and_then(|(suite, answer)| Some((suite, spi_of(&answer)?, answer)));
        let Some((suite, spi_i, mut answer)) = chosen else {
            tracing::info!(
                connection = self.config.name,
                offered = %offered(proposals),
                wanted = %wanted(&self.config.proposals),
                "no common IKE proposal for a rekey"
            );
            return refuse(NotifyType::NO_PROPOSAL_CHOSEN);
        };
        let Some(ke) = ke.filter(|ke| ke.method == suite.group.id()) else {
            let group = suite.group.id().0.to_be_bytes();
            let hint = Notify::with_data(NotifyType::INVALID_KE_PAYLOAD, group);
            return (vec![Payload::Notify(hint)], Fate::GoesOn);
        };
        let Ok(reply) = Reply::to(suite.group, &ke.data, cx.rng) else {
            return refuse(NotifyType::NO_PROPOSAL_CHOSEN);
        };
        let spi_r = random_ike_spi(cx.rng);
        answer.spi = spi_r.0.to_vec();
        let nonces = Nonces {
            i: nonce.clone(),
            r: random_nonce(cx.rng),
        };
        let mut payloads = vec![
            Payload::Sa(vec![answer]),
            Payload::Nonce(nonces.r.clone()),
            reply.payload(),
        ];
        let successor = Successor {
            side: Side::Responder,
            suite,
            spi_i,
            spi_r,
            nonces,
            shared: Some(reply.secret).into(),
        };
        if !suite.additional.is_empty() {
            payloads.push(self.await_follow_up(Series::for_ike(successor, None), cx));
            return (payloads, Fate::GoesOn);
        }
        match self.accept_successor(successor) {
            Ok(fate) => (payloads, fate),
            Err(_) => refuse(NotifyType::NO_PROPOSAL_CHOSEN),
        }
    }

    /// What becomes of the successor that a peer has made with us.
    pub(super) fn accept_successor(&mut self, successor: Successor) -> Result<Fate, Reason> {
        let lowest = successor.nonces.lowest().to_vec();
        let sa = Box::new(self.succeed(successor)?);
        Ok(if self.is_rekeying() {
            self.rival = Some(Rival { sa, lowest });
            Fate::GoesOn
        } else {
            Fate::Replaced(sa)
        })
    }

    /// The response is on its way: the successor is the one from now on.
    pub(super) fn be_replaced(&mut self, successor: Box<IkeSa>, cx: &mut Ctx<'_>) {
        self.hand_over(successor, cx);
        self.await_delete(cx);
    }

    pub(super) fn request_delete_ike(&mut self, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        self.phase = Phase::Closing;
        let delete = [Payload::Delete(Delete::Ike)];
        self.request(ExchangeType::INFORMATIONAL, Purpose::DeleteIke, &delete, cx)
    }
}

/// The SPI in a proposal for an IKE SA that is not the first.
fn ike_spi(proposal: &Proposal) -> Option<IkeSpi> {
    let spi = IkeSpi(proposal.spi.as_slice().try_into().ok()?);
    (proposal.protocol == ProtocolId::IKE && !spi.is_zero()).then_some(spi)
}
