//! What a peer wants of our CHILD_SAs: to make one, to rekey one, to delete some
//! (RFC 7296 §1.3, §1.4.1, §2.8, §2.9, §2.25).

use mitregate_wire::TrafficSelector;
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{KeyExchange, Notify, NotifyType, Payload, ProtocolId};

use super::child::{Agreed, Asked, MAX_CHILDREN};
use super::followup::Series;
use super::message::{find, find_notify, notify, random_nonce};
use super::window::Purpose;
use super::{Fate, IkeSa, Phase};
use crate::crypto::Reply;
use crate::keys::{Nonces, SharedSecrets};
use crate::proposal::{Group, Groups, choose_esp, offered, wanted};
use crate::selectors::{from_wire, narrow, to_wire};
use crate::{ChildConfig, Childless, Ctx, Output, PeerRekey, Reason};

/// Why a peer's request is refused: the notify for it, and what we say of it ourselves.
struct Refusal {
    notify: Notify,
    reason: Reason,
}

impl Refusal {
    const fn new(kind: NotifyType, reason: Reason) -> Self {
        Self {
            notify: Notify::new(kind),
            reason,
        }
    }
}

impl IkeSa {
    /// The CHILD_SA that a peer asks for in IKE_AUTH.
    pub(super) fn answer_first_child(
        &mut self,
        nonces: &Nonces,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) -> Vec<Payload> {
        let Some(asked) = Asked::new(payloads) else {
            // A childless IKE SA (RFC 6023).
            return Vec::new();
        };
        let refusal = match self.config.childless {
            Childless::Force => Some((NotifyType::NO_ADDITIONAL_SAS, Reason::Childless)),
            _ => self.configuration_refusal(),
        };
        if let Some((kind, reason)) = refusal {
            return self.refuse(Refusal::new(kind, reason), None);
        }
        let answer = self.grant(&asked, None, None, Groups::Ignore, nonces, cx);
        answer.unwrap_or_else(|refusal| self.refuse(refusal, None))
    }

    fn refuse(&mut self, refusal: Refusal, replaced: Option<(usize, Spi)>) -> Vec<Payload> {
        // After a hint at another group the peer tries again.
        if refusal.notify.kind != NotifyType::INVALID_KE_PAYLOAD {
            let (config, replaces) = replaced.unzip();
            self.child_failed(config, replaces, refusal.reason);
        }
        vec![Payload::Notify(refusal.notify)]
    }

    /// The request of CREATE_CHILD_SA.
    pub(super) fn answer_create_child(
        &mut self,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) -> (Vec<Payload>, Fate) {
        let nonce = find!(payloads, Payload::Nonce(nonce) => nonce);
        let proposals = find!(payloads, Payload::Sa(proposals) => proposals);
        if let Some(proposals) = proposals
            && proposals.iter().all(|p| p.protocol == ProtocolId::IKE)
        {
            return self.answer_rekey(proposals, payloads, cx);
        }
        let (Some(asked), Some(nonce)) = (Asked::new(payloads), nonce) else {
            let fate = Fate::Ends(Reason::Protocol("CREATE_CHILD_SA without SA, Ni or TS"));
            return (vec![notify(NotifyType::INVALID_SYNTAX)], fate);
        };
        match self.answer_child(&asked, nonce, payloads, cx) {
            Some(answer) => (answer, Fate::GoesOn),
            None => (Vec::new(), Fate::Ignored),
        }
    }

    /// `None`: there is to be no answer.
    fn answer_child(
        &mut self,
        asked: &Asked<'_>,
        nonce: &[u8],
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) -> Option<Vec<Payload>> {
        // RFC 7296 §2.25.2: nothing new while the IKE SA is being rekeyed or closed.
        if !matches!(self.phase, Phase::Established) || self.is_rekeying() {
            return Some(vec![notify(NotifyType::TEMPORARY_FAILURE)]);
        }
        let replaced = match find_notify(payloads, NotifyType::REKEY_SA) {
            None => None,
            Some(rekey) => match self.replaceable(rekey) {
                Ok(child) => Some(child),
                Err(refusal) => return Some(vec![Payload::Notify(refusal?)]),
            },
        };
        if self.children.len() >= MAX_CHILDREN {
            let reason = Reason::Resources("CHILD_SAs");
            let refusal = Refusal::new(NotifyType::NO_ADDITIONAL_SAS, reason);
            return Some(self.refuse(refusal, replaced));
        }
        let ke = find!(payloads, Payload::KeyExchange(ke) => ke);
        let nonces = Nonces {
            i: nonce.to_vec(),
            r: random_nonce(cx.rng),
        };
        let groups = Groups::Negotiate(ke.and_then(|ke| Group::from_id(ke.method)));
        let answer = self.grant(asked, replaced, ke, groups, &nonces, cx);
        Some(answer.unwrap_or_else(|refusal| self.refuse(refusal, replaced)))
    }

    /// The CHILD_SA that a peer wants to rekey, by configuration and our inbound SPI. It names it
    /// by the SPI it receives on itself. `Err(None)`: there is to be no answer.
    fn replaceable(&mut self, rekey: &Notify) -> Result<(usize, Spi), Option<Notify>> {
        let temporary_failure = || Err(Some(Notify::new(NotifyType::TEMPORARY_FAILURE)));
        let child = self.children.iter().position(|child| {
            rekey.protocol == ProtocolId::ESP && rekey.spi == child.spi_out.to_be_bytes()
        });
        let Some(index) = child else {
            // It may be the one that we wait to hear of.
            if self.expects_child() {
                return temporary_failure();
            }
            return Err(Some(Notify {
                protocol: rekey.protocol,
                spi: rekey.spi.clone(),
                ..Notify::new(NotifyType::CHILD_SA_NOT_FOUND)
            }));
        };
        let (config, spi_in) = (self.children[index].config, self.children[index].spi_in);
        // RFC 7296 §2.25.1: not one that we are closing, nor a second time.
        let again = self.has_successor(spi_in, |successor| !successor.initiator);
        if self.children[index].deleting || again {
            return temporary_failure();
        }
        // RFC 9370 §2.2.4: nor one whose successor only lacks more key exchanges.
        if self.follows_up_for(spi_in) {
            return temporary_failure();
        }
        // One that we are rekeying is, and one that we have just rekeyed: the request crossed ours, and the
        // peer waits for an answer like any other (§2.8.1; one that is refused here may forget to send on
        // our successor). The nonces tell which of the two is redundant.
        if self.rekey_under_way(Some(spi_in)) || self.has_successor(spi_in, |_| true) {
            return Ok((config, spi_in));
        }
        match self.config.peer_rekey {
            PeerRekey::Accept => Ok((config, spi_in)),
            PeerRekey::Ignore => Err(None),
            PeerRekey::Refuse(times) if self.children[index].refused < times => {
                self.children[index].refused += 1;
                let spi_in = Some(spi_in);
                self.outputs.push_back(Output::PeerWantsRekey { spi_in });
                temporary_failure()
            }
            PeerRekey::Refuse(_) => Ok((config, spi_in)),
        }
    }

    /// Makes the CHILD_SA that a peer asks for, and the payloads of the answer.
    fn grant(
        &mut self,
        asked: &Asked<'_>,
        replaced: Option<(usize, Spi)>,
        ke: Option<&KeyExchange>,
        groups: Groups,
        nonces: &Nonces,
        cx: &mut Ctx<'_>,
    ) -> Result<Vec<Payload>, Refusal> {
        let (remote, local) = (from_wire(asked.ts_i), from_wire(asked.ts_r));
        let (config, local_ts, remote_ts) = self
            .choose_child(&local, &remote, replaced.map(|(config, _)| config))
            .ok_or(Refusal::new(
                NotifyType::TS_UNACCEPTABLE,
                Reason::TsUnacceptable,
            ))?;
        let child = &self.config.children[config];
        let choice = choose_esp(&child.esp_proposals, asked.proposals, groups);
        let Some((suite, spi_out, mut answer)) = choice else {
            tracing::info!(
                connection = self.config.name,
                child = child.name,
                offered = %offered(asked.proposals),
                wanted = %wanted(&child.esp_proposals),
                "no common ESP proposal"
            );
            return Err(Refusal::new(
                NotifyType::NO_PROPOSAL_CHOSEN,
                Reason::NoProposalChosen,
            ));
        };

        let mut own_ke = None;
        let mut shared = None;
        if let Some(group) = suite.group {
            let Some(ke) = ke.filter(|ke| ke.method == group.id()) else {
                let notify =
                    Notify::with_data(NotifyType::INVALID_KE_PAYLOAD, group.id().0.to_be_bytes());
                let reason = Reason::Refused(NotifyType::INVALID_KE_PAYLOAD);
                return Err(Refusal { notify, reason });
            };
            let reply = Reply::to(group, &ke.data, cx.rng).map_err(|_| {
                Refusal::new(NotifyType::NO_PROPOSAL_CHOSEN, Reason::InvalidKeyExchange)
            })?;
            own_ke = Some(reply.payload());
            shared = Some(reply.secret);
        }
        let out_of_spis = || Refusal::new(NotifyType::NO_ADDITIONAL_SAS, Reason::Resources("SPIs"));
        let spi_in = self.allocate_spi(cx).ok_or_else(out_of_spis)?;
        answer.spi = spi_in.to_be_bytes().to_vec();
        let in_auth = matches!(groups, Groups::Ignore);
        let mut payloads = vec![Payload::Sa(vec![answer])];
        payloads.extend((!in_auth).then(|| Payload::Nonce(nonces.r.clone())));
        payloads.extend(own_ke);
        payloads.extend([
            Payload::TsI(to_wire(&remote_ts)),
            Payload::TsR(to_wire(&local_ts)),
        ]);
        let agreed = Agreed {
            config,
            suite,
            spi_in,
            spi_out,
            local_ts,
            remote_ts,
            replaces: replaced.map(|(_, spi_in)| spi_in),
            initiator: false,
            redundant: false,
        };
        if !suite.additional.is_empty() {
            let series = Series::for_child(agreed, None, shared.into(), nonces.clone());
            payloads.push(self.await_follow_up(series, cx));
            return Ok(payloads);
        }
        self.install_for_peer(agreed, &shared.into(), nonces)
            .map_err(|reason| Refusal::new(NotifyType::NO_PROPOSAL_CHOSEN, reason))?;
        Ok(payloads)
    }

    /// Installs a CHILD_SA of the peer's request. If we have rekeyed the same one meanwhile, or are about to,
    /// the lowest of the four nonces says which of the two is redundant (RFC 7296 §2.8.1).
    pub(super) fn install_for_peer(
        &mut self,
        agreed: Agreed,
        shared: &SharedSecrets,
        nonces: &Nonces,
    ) -> Result<(), Reason> {
        let (replaces, spi_in) = (agreed.replaces, agreed.spi_in);
        self.note_rival(replaces, spi_in, nonces);
        let ours = self.children.iter().find(|child| {
            let crossed = replaces.is_some() && child.replaced == replaces;
            crossed && child.initiator && !child.deleting
        });
        let redundant = ours.map(|ours| {
            if nonces.lowest() < ours.lowest_nonce.as_slice() {
                spi_in
            } else {
                ours.spi_in
            }
        });
        self.install(agreed, shared, nonces)?;
        if let Some(spi_in) = redundant {
            self.outputs.push_back(Output::ChildRedundant { spi_in });
        }
        Ok(())
    }

    /// Has our own request for a successor of the same CHILD_SA know of the one that the peer makes.
    fn note_rival(&mut self, replaced: Option<Spi>, spi_in: Spi, nonces: &Nonces) {
        if replaced.is_some() && self.rekey_under_way(replaced) {
            let request = self
                .outstanding
                .as_mut()
                .map(|request| &mut request.purpose);
            let wanted = match request {
                Some(Purpose::Child(wanted)) => Some(wanted),
                Some(Purpose::FollowUp(follow_up)) => follow_up.wanted(),
                _ => None,
            };
            if let Some(wanted) = wanted {
                wanted.rival = Some((spi_in, nonces.lowest().to_vec()));
            }
        }
    }

    /// The child of the configuration that fits a peer's selectors best, with what both have in
    /// common: one whose selectors are the peer's own, else the first that overlaps.
    fn choose_child(
        &self,
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
        only: Option<usize>,
    ) -> Option<(usize, Vec<TrafficSelector>, Vec<TrafficSelector>)> {
        let fits = |(index, child): (usize, &ChildConfig)| {
            let local_ts = narrow(local, &self.local_ts(child));
            let remote_ts = narrow(remote, &self.remote_ts(child));
            (!local_ts.is_empty() && !remote_ts.is_empty()).then_some((index, local_ts, remote_ts))
        };
        let candidates = || {
            let children = self.config.children.iter().enumerate();
            children.filter(move |(index, _)| only.is_none_or(|only| only == *index))
        };
        let exact = |(_, child): &(usize, &ChildConfig)| {
            self.local_ts(child) == local && self.remote_ts(child) == remote
        };
        candidates()
            .filter(exact)
            .find_map(fits)
            .or_else(|| candidates().find_map(fits))
    }

    /// A peer's Delete: removes those of its SAs that we send on, and gives our own SPIs of the
    /// same pairs for the response, but for those whose Delete from us is on its way to the peer
    /// (RFC 7296 §1.4.1).
    pub(super) fn answer_delete(&mut self, spis: &[u32]) -> Vec<u32> {
        let mut ours = Vec::new();
        for spi in spis {
            let child = self
                .children
                .iter()
                .find(|child| child.spi_out.get() == *spi);
            let Some((spi_in, deleting)) = child.map(|child| (child.spi_in, child.deleting)) else {
                if self.expects_child() && self.stillborn.len() < MAX_CHILDREN {
                    self.stillborn.push(*spi);
                }
                continue;
            };
            if !deleting {
                ours.push(spi_in.get());
            }
            self.remove_child(spi_in, true);
        }
        ours
    }
}
