//! CHILD_SAs: made in IKE_AUTH or CREATE_CHILD_SA, rekeyed, deleted (RFC 7296 §1.3, §2.8, §2.9,
//! §2.17, §2.25), both roles.

use core::time::Duration;

use mitregate_wire::TrafficSelector;
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{
    Delete, ExchangeType, KeyExchangeId, Notify, NotifyType, Payload, Proposal, ProtocolId,
    Selector,
};

use rand_core::CryptoRng;

use super::followup::Series;
use super::message::{error, find, find_notify, random_nonce};
use super::window::{Purpose, Task, Work};
use super::{IkeSa, Phase};
use crate::crypto::KeyPair;
use crate::keys::{Nonces, SharedSecrets};
use crate::proposal::{EspSuite, Group, Groups, accept_esp, esp_groups, offer_esp};
use crate::selectors::{from_wire, narrow, replaces, to_wire, within};
use crate::{ChildSa, Ctx, Output, Reason};

/// Most CHILD_SAs of one IKE SA, draining ones included: a peer may ask for many.
pub(super) const MAX_CHILDREN: usize = 32;
/// How often a rekey is tried again after TEMPORARY_FAILURE (RFC 7296 §2.25).
const MAX_REFUSALS: u8 = 4;
/// How long to wait before that, in milliseconds: random, so that two sides that refused each
/// other do not meet again.
const REFUSED_WAIT: core::ops::Range<u32> = 500..2500;

pub(super) fn refused_wait(rng: &mut dyn CryptoRng) -> Duration {
    let span = REFUSED_WAIT.end - REFUSED_WAIT.start;
    Duration::from_millis((REFUSED_WAIT.start + rng.next_u32() % span).into())
}

/// A CHILD_SA that stands.
pub(super) struct Child {
    /// Index into the configuration's children.
    pub(super) config: usize,
    pub(super) spi_in: Spi,
    pub(super) spi_out: Spi,
    pub(super) local_ts: Vec<TrafficSelector>,
    pub(super) remote_ts: Vec<TrafficSelector>,
    /// Our Delete is under way or waits for the window.
    pub(super) deleting: bool,
    /// How many CHILD_SAs were made to replace this one.
    successors: u32,
    /// Our inbound SPI of the one that this one replaced.
    pub(super) replaced: Option<Spi>,
    /// We started the exchange that made it.
    pub(super) initiator: bool,
    /// How often a rekey by the peer was refused.
    pub(super) refused: u8,
    /// The lower of the nonces that it was made with.
    pub(super) lowest_nonce: Vec<u8>,
}

/// A CHILD_SA that we negotiate.
pub(super) struct Wanted {
    /// Index into the configuration's children.
    config: usize,
    /// Our inbound SPI of the one to be replaced.
    replaces: Option<Spi>,
    refusals: u8,
    successors: u32,
    pub(super) spi_in: Spi,
    nonce: Vec<u8>,
    /// For perfect forward secrecy.
    key_pair: Option<KeyPair>,
    /// The peer wanted another group once already.
    regrouped: bool,
    /// The successor that the peer has made of the same CHILD_SA meanwhile, and its lowest nonce.
    pub(super) rival: Option<(Spi, Vec<u8>)>,
}

impl Wanted {
    fn loses_to_rival(&self, nonces: &Nonces) -> bool {
        let rival = self.rival.as_ref();
        rival.is_some_and(|(_, theirs)| nonces.lowest() < theirs.as_slice())
    }
}

/// What a peer's request for a CHILD_SA holds.
pub(super) struct Asked<'a> {
    pub(super) proposals: &'a [Proposal],
    /// The initiator's side, which is the peer's.
    pub(super) ts_i: &'a [Selector],
    pub(super) ts_r: &'a [Selector],
}

impl<'a> Asked<'a> {
    pub(super) fn new(payloads: &'a [Payload]) -> Option<Self> {
        Some(Self {
            proposals: find!(payloads, Payload::Sa(proposals) => proposals)?,
            ts_i: find!(payloads, Payload::TsI(selectors) => selectors)?,
            ts_r: find!(payloads, Payload::TsR(selectors) => selectors)?,
        })
    }
}

/// What both sides agreed on, but for the keys.
pub(super) struct Agreed {
    pub(super) config: usize,
    pub(super) suite: EspSuite,
    pub(super) spi_in: Spi,
    pub(super) spi_out: Spi,
    pub(super) local_ts: Vec<TrafficSelector>,
    pub(super) remote_ts: Vec<TrafficSelector>,
    pub(super) replaces: Option<Spi>,
    /// We started the exchange.
    pub(super) initiator: bool,
    /// Another successor counts, and this one is for us to delete.
    pub(super) redundant: bool,
}

impl IkeSa {
    fn child(&self, spi_in: Spi) -> Option<&Child> {
        self.children.iter().find(|child| child.spi_in == spi_in)
    }

    /// Negotiates a successor for the CHILD_SA that we receive on `spi_in`: `ChildEstablished`
    /// with it in `replaces`, or `ChildFailed`.
    pub fn rekey_child(&mut self, spi_in: Spi, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let child = self.child(spi_in).filter(|child| !child.deleting);
        let config = child.ok_or(Reason::NoSuchChild)?.config;
        self.ask_for_child(config, Some(spi_in), cx);
        Ok(())
    }

    /// Negotiates one more CHILD_SA of the configuration.
    pub fn create_child(&mut self, name: &str, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let config = self
            .config
            .children
            .iter()
            .position(|child| child.name == name);
        let config = config.ok_or(Reason::NoSuchChild)?;
        if !matches!(
            self.phase,
            Phase::Auth(_) | Phase::Established | Phase::Init(_) | Phase::Resume(_)
        ) {
            return Err(Reason::Closed);
        }
        self.ask_for_child(config, None, cx);
        Ok(())
    }

    fn ask_for_child(&mut self, config: usize, replaces: Option<Spi>, cx: &mut Ctx<'_>) {
        // One successor at a time: a second request for the same is the same request.
        let under_way = replaces.is_some() && self.is_replacing(replaces);
        if !under_way {
            let replaced = replaces.and_then(|spi_in| self.child(spi_in));
            let work = Work::Child {
                config,
                replaces,
                refusals: 0,
                successors: replaced.map_or(0, |child| child.successors),
            };
            self.tasks.push_back(Task::now(work));
            self.start_tasks(cx);
        }
    }

    /// Is a successor for this one wanted or under way?
    fn is_replacing(&self, spi_in: Option<Spi>) -> bool {
        self.rekey_under_way(spi_in)
            || self
                .tasks
                .iter()
                .any(|task| matches!(task.work, Work::Child { replaces, .. } if replaces == spi_in))
    }

    pub(super) fn rekey_under_way(&self, spi_in: Option<Spi>) -> bool {
        self.outstanding
            .as_ref()
            .is_some_and(|request| match &request.purpose {
                Purpose::Child(wanted) => wanted.replaces == spi_in,
                Purpose::FollowUp(follow_up) => follow_up.replaces(spi_in),
                _ => false,
            })
    }

    /// Deletes the CHILD_SA that we receive on `spi_in`; `ChildDeleted` follows when the peer
    /// has answered.
    pub fn delete_child(&mut self, spi_in: Spi, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let child = self
            .children
            .iter_mut()
            .find(|child| child.spi_in == spi_in);
        let child = child.ok_or(Reason::NoSuchChild)?;
        if !core::mem::replace(&mut child.deleting, true) {
            self.tasks.push_back(Task::now(Work::DeleteChild(spi_in)));
            self.start_tasks(cx);
        }
        Ok(())
    }

    /// Takes an SPI for a CHILD_SA to be negotiated.
    pub(super) fn want_child(
        &mut self,
        config: usize,
        replaces: Option<Spi>,
        cx: &mut Ctx<'_>,
    ) -> Result<Wanted, Reason> {
        let spi_in = self.allocate_spi(cx).ok_or(Reason::Resources("SPIs"))?;
        Ok(Wanted {
            config,
            replaces,
            refusals: 0,
            successors: 0,
            spi_in,
            nonce: random_nonce(cx.rng),
            key_pair: None,
            regrouped: false,
            rival: None,
        })
    }

    pub(super) fn allocate_spi(&mut self, cx: &mut Ctx<'_>) -> Option<Spi> {
        let spi = cx.spis.allocate(cx.rng)?;
        self.unborn.push(spi);
        Some(spi)
    }

    pub(super) fn release_spi(&mut self, spi: Spi, cx: &mut Ctx<'_>) {
        if let Some(index) = self.unborn.iter().position(|unborn| *unborn == spi) {
            self.unborn.swap_remove(index);
            cx.spis.release(spi);
        }
    }

    /// SA, and TSi, TSr.
    pub(super) fn child_payloads(&self, wanted: &Wanted, with_groups: bool) -> [Payload; 3] {
        let child = &self.config.children[wanted.config];
        [
            Payload::Sa(offer_esp(&child.esp_proposals, wanted.spi_in, with_groups)),
            Payload::TsI(to_wire(&self.local_ts(child))),
            Payload::TsR(to_wire(&self.remote_ts(child))),
        ]
    }

    /// Sends CREATE_CHILD_SA.
    pub(super) fn request_child(
        &mut self,
        config: usize,
        replaces: Option<Spi>,
        refusals: u8,
        successors: u32,
        cx: &mut Ctx<'_>,
    ) -> Result<(), Reason> {
        // Meanwhile the peer may have deleted it, or replaced it, which is as good.
        let obsolete = |child: &Child| {
            let refused = refusals > 0 && self.has_successor(child.spi_in, |_| true);
            child.deleting || child.successors > successors || refused
        };
        if replaces.is_some_and(|spi_in| self.child(spi_in).is_none_or(obsolete)) {
            return Ok(());
        }
        let group = esp_groups(&self.config.children[config].esp_proposals).next();
        let mut wanted = match self.want_child(config, replaces, cx) {
            Ok(wanted) => wanted,
            Err(reason) => {
                self.child_failed(Some(config), replaces, reason);
                return Ok(());
            }
        };
        wanted.refusals = refusals;
        wanted.successors = successors;
        if let Some(group) = group {
            wanted.key_pair = KeyPair::generate(group, cx.rng);
            if wanted.key_pair.is_none() {
                self.release_spi(wanted.spi_in, cx);
                self.child_failed(Some(config), replaces, Reason::Resources("private keys"));
                return Ok(());
            }
        }
        self.send_child(wanted, cx)
    }

    fn send_child(&mut self, wanted: Wanted, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let mut payloads = Vec::new();
        if let Some(spi_in) = wanted.replaces {
            payloads.push(Payload::Notify(Notify {
                protocol: ProtocolId::ESP,
                spi: spi_in.to_be_bytes().to_vec(),
                ..Notify::new(NotifyType::REKEY_SA)
            }));
        }
        let [sa, ts_i, ts_r] = self.child_payloads(&wanted, true);
        payloads.extend([sa, Payload::Nonce(wanted.nonce.clone())]);
        payloads.extend(wanted.key_pair.as_ref().map(KeyPair::payload));
        payloads.extend([ts_i, ts_r]);
        self.stillborn.clear();
        let purpose = Purpose::Child(Box::new(wanted));
        self.request(ExchangeType::CREATE_CHILD_SA, purpose, &payloads, cx)
    }

    /// The response to CREATE_CHILD_SA.
    pub(super) fn finish_child(
        &mut self,
        mut wanted: Wanted,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) {
        match error(payloads) {
            Some(notify) if notify.kind == NotifyType::INVALID_KE_PAYLOAD => {
                let id = <[u8; 2]>::try_from(notify.data.as_slice()).map(u16::from_be_bytes);
                let group = id.ok().and_then(|id| Group::from_id(KeyExchangeId(id)));
                self.regroup(wanted, group, cx);
                return;
            }
            Some(notify) if notify.kind == NotifyType::TEMPORARY_FAILURE => {
                wanted = match self.try_later(wanted, cx) {
                    None => return,
                    Some(wanted) => wanted,
                };
            }
            _ => {}
        }
        if error(payloads).is_some() && wanted.rival.is_some() {
            // RFC 7296 §2.8.1: the peer did not notice that both rekeyed. It has what it wanted, and so
            // have we.
            return self.release_spi(wanted.spi_in, cx);
        }
        let gone = error(payloads).is_some_and(|n| n.kind == NotifyType::CHILD_SA_NOT_FOUND);
        let nonce = find!(payloads, Payload::Nonce(nonce) => nonce.clone());
        let nonces = Nonces {
            i: wanted.nonce.clone(),
            r: nonce.unwrap_or_default(),
        };
        let replaces = wanted.replaces;
        let groups = Groups::Negotiate(wanted.key_pair.as_ref().map(KeyPair::group));
        if find_notify(payloads, NotifyType::ADDITIONAL_KEY_EXCHANGE).is_some() {
            return self.follow_up_child(wanted, groups, nonces, payloads, cx);
        }
        self.conclude_child(&wanted, groups, &nonces, payloads, cx);
        // RFC 7296 §2.25: what the peer does not have is no use to us either.
        if let (true, Some(spi_in)) = (gone, replaces) {
            self.remove_child(spi_in, true);
        }
    }

    /// More key exchanges are to come: nothing stands yet (RFC 9370 §2.2.4).
    fn follow_up_child(
        &mut self,
        wanted: Wanted,
        groups: Groups,
        nonces: Nonces,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) {
        let (config, replaces, spi_in) = (wanted.config, wanted.replaces, wanted.spi_in);
        match self.check_answer(&wanted, groups, &nonces, payloads) {
            // Both rekey at once, and ours has the lowest nonce: it stops here.
            Ok(_) if wanted.loses_to_rival(&nonces) => self.release_spi(spi_in, cx),
            Ok(_) if self.child_yields_to_awaited(replaces, &nonces, cx) => {
                self.release_spi(spi_in, cx);
            }
            Ok((agreed, shared)) => {
                let series = Series::for_child(agreed, Some(wanted), shared, nonces);
                if let Err(reason) = self.follow_up(series, payloads, cx) {
                    self.end(reason, cx);
                }
            }
            Err(reason) => {
                self.release_spi(spi_in, cx);
                self.child_failed(Some(config), replaces, reason);
            }
        }
    }

    /// The peer asked to try again later; gives it back when that was often enough.
    pub(super) fn try_later(&mut self, wanted: Wanted, cx: &mut Ctx<'_>) -> Option<Wanted> {
        if wanted.refusals >= MAX_REFUSALS {
            return Some(wanted);
        }
        self.release_spi(wanted.spi_in, cx);
        self.tasks.push_back(Task {
            not_before: cx.now + refused_wait(cx.rng),
            work: Work::Child {
                config: wanted.config,
                replaces: wanted.replaces,
                refusals: wanted.refusals + 1,
                successors: wanted.successors,
            },
        });
        None
    }

    /// The peer wants another group: once, and one that we offered (RFC 7296 §1.3).
    fn regroup(&mut self, mut wanted: Wanted, group: Option<Group>, cx: &mut Ctx<'_>) {
        let ours = esp_groups(&self.config.children[wanted.config].esp_proposals);
        let group = group.filter(|group| ours.into_iter().any(|ours| ours == *group));
        let key_pair = group
            .filter(|_| !wanted.regrouped)
            .and_then(|group| KeyPair::generate(group, cx.rng));
        if key_pair.is_none() {
            self.release_spi(wanted.spi_in, cx);
            let reason = Reason::Refused(NotifyType::INVALID_KE_PAYLOAD);
            return self.child_failed(Some(wanted.config), wanted.replaces, reason);
        }
        wanted.key_pair = key_pair;
        wanted.regrouped = true;
        wanted.nonce = random_nonce(cx.rng);
        if let Err(reason) = self.send_child(wanted, cx) {
            self.end(reason, cx);
        }
    }

    /// Makes a CHILD_SA of the peer's answer to `wanted`, or reports why there is none.
    pub(super) fn conclude_child(
        &mut self,
        wanted: &Wanted,
        groups: Groups,
        nonces: &Nonces,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) {
        let (config, replaces, spi_in) = (wanted.config, wanted.replaces, wanted.spi_in);
        if let Some(notify) = error(payloads) {
            self.release_spi(spi_in, cx);
            return self.child_failed(Some(config), replaces, Reason::Refused(notify.kind));
        }
        let stillborn = core::mem::take(&mut self.stillborn);
        let installed = self
            .check_answer(wanted, groups, nonces, payloads)
            .and_then(|(agreed, shared)| {
                if stillborn.contains(&agreed.spi_out.get()) {
                    return Err(Reason::DeletedByPeer);
                }
                if !agreed.suite.additional.is_empty() {
                    return Err(Reason::Protocol("no ADDITIONAL_KEY_EXCHANGE"));
                }
                self.install_beside(wanted, agreed, &shared, nonces)
            });
        if let Err(reason) = installed {
            if reason == Reason::DeletedByPeer {
                self.release_spi(spi_in, cx);
                return self.child_failed(Some(config), replaces, reason);
            }
            // The peer believes that it stands.
            self.tasks.push_back(Task::now(Work::DeleteChild(spi_in)));
            self.child_failed(Some(config), replaces, reason);
        }
    }

    fn check_answer(
        &self,
        wanted: &Wanted,
        groups: Groups,
        nonces: &Nonces,
        payloads: &[Payload],
    ) -> Result<(Agreed, SharedSecrets), Reason> {
        let answer = Asked::new(payloads).ok_or(Reason::Protocol("no SA or TS payload"))?;
        if nonces.r.is_empty() {
            return Err(Reason::Protocol("no nonce"));
        }
        let child = &self.config.children[wanted.config];
        let (suite, spi_out) = accept_esp(&child.esp_proposals, answer.proposals, groups)
            .ok_or(Reason::Protocol("answer is none of our proposals"))?;
        let ke = find!(payloads, Payload::KeyExchange(ke) => ke);
        let shared = match (&wanted.key_pair, ke) {
            (None, _) => None,
            (Some(pair), Some(ke))
                if Some(pair.group()) == suite.group && ke.method == pair.group().id() =>
            {
                Some(
                    pair.agree(&ke.data)
                        .map_err(|_| Reason::InvalidKeyExchange)?,
                )
            }
            (Some(_), _) => return Err(Reason::Protocol("no key exchange of the chosen group")),
        };
        if self.lacks_address(child) {
            return Err(Reason::NoAddress);
        }
        let (mut local_ts, remote_ts) = (from_wire(answer.ts_i), from_wire(answer.ts_r));
        let ours = self.local_ts(child);
        if child.dynamic.local {
            // What we offered before we knew our address may come back as it was.
            local_ts = narrow(&local_ts, &ours);
        }
        let theirs = self.remote_ts(child);
        if !within(&local_ts, &ours) || !within(&remote_ts, &theirs) {
            return Err(Reason::TsUnacceptable);
        }
        if let Some(old) = wanted.replaces.and_then(|spi_in| self.child(spi_in))
            && !(replaces(&local_ts, &old.local_ts, &ours)
                && replaces(&remote_ts, &old.remote_ts, &theirs))
        {
            return Err(Reason::TsUnacceptable);
        }
        let agreed = Agreed {
            config: wanted.config,
            suite,
            spi_in: wanted.spi_in,
            spi_out,
            local_ts,
            remote_ts,
            replaces: wanted.replaces,
            initiator: true,
            redundant: false,
        };
        Ok((agreed, shared.into()))
    }

    /// Installs a CHILD_SA of our own request. If the peer has rekeyed the same one meanwhile, the
    /// lowest of the four nonces says which of the two is redundant (RFC 7296 §2.8.1).
    pub(super) fn install_beside(
        &mut self,
        wanted: &Wanted,
        mut agreed: Agreed,
        shared: &SharedSecrets,
        nonces: &Nonces,
    ) -> Result<(), Reason> {
        // One that the peer has deleted already was the redundant one. One that it had made before we asked
        // crossed nothing here, but to the peer it did: ours may have come when its own was complete.
        let noted = wanted.rival.as_ref().map(|(spi_in, _)| *spi_in);
        let rival = self.children.iter().find(|child| {
            let beside = wanted.replaces.is_some() && child.replaced == wanted.replaces;
            Some(child.spi_in) == noted || beside && !child.initiator && !child.deleting
        });
        let lost = rival.map(|theirs| {
            (
                theirs.spi_in,
                nonces.lowest() < theirs.lowest_nonce.as_slice(),
            )
        });
        agreed.redundant = matches!(lost, Some((_, true)));
        self.install(agreed, shared, nonces)?;
        if let Some((spi_in, false)) = lost {
            self.outputs.push_back(Output::ChildRedundant { spi_in });
        }
        Ok(())
    }

    /// Is there a successor, such as `of` wants it, of the CHILD_SA that we receive on `spi_in`?
    pub(super) fn has_successor(&self, spi_in: Spi, of: impl Fn(&Child) -> bool) -> bool {
        let successor = |child: &&Child| child.replaced == Some(spi_in) && !child.deleting;
        self.children.iter().filter(successor).any(of)
    }

    /// Derives the keys and hands the CHILD_SA out.
    pub(super) fn install(
        &mut self,
        agreed: Agreed,
        shared: &SharedSecrets,
        nonces: &Nonces,
    ) -> Result<(), Reason> {
        let keys = self.keys.as_ref().ok_or(Reason::Resources("keys"))?;
        let (from_initiator, from_responder) = keys
            .schedule
            .child(agreed.suite.cipher, shared, nonces)
            .ok_or(Reason::Resources("keys"))?;
        let (key_out, key_in) = if agreed.initiator {
            (from_initiator, from_responder)
        } else {
            (from_responder, from_initiator)
        };
        self.unborn.retain(|spi| *spi != agreed.spi_in);
        let replaced = self
            .children
            .iter_mut()
            .find(|child| Some(child.spi_in) == agreed.replaces);
        if let Some(replaced) = replaced {
            replaced.successors += 1;
        }
        self.outputs
            .push_back(Output::ChildEstablished(Box::new(ChildSa {
                name: self.config.children[agreed.config].name.clone(),
                spi_in: agreed.spi_in,
                spi_out: agreed.spi_out,
                key_in,
                key_out,
                suite: agreed.suite.cipher,
                esn: agreed.suite.esn,
                local_ts: agreed.local_ts.clone(),
                remote_ts: agreed.remote_ts.clone(),
                initiator: agreed.initiator,
                replaces: agreed.replaces,
                redundant: agreed.redundant,
                encap: self.encap,
            })));
        self.children.push(Child {
            config: agreed.config,
            spi_in: agreed.spi_in,
            spi_out: agreed.spi_out,
            local_ts: agreed.local_ts,
            remote_ts: agreed.remote_ts,
            deleting: false,
            successors: 0,
            replaced: agreed.replaces,
            initiator: agreed.initiator,
            lowest_nonce: nonces.lowest().to_vec(),
            refused: 0,
        });
        Ok(())
    }

    pub(super) fn child_failed(
        &mut self,
        config: Option<usize>,
        replaces: Option<Spi>,
        reason: Reason,
    ) {
        let name = config.map(|config| self.config.children[config].name.clone());
        self.outputs.push_back(Output::ChildFailed {
            name,
            replaces,
            reason,
        });
    }

    /// Sends a Delete for a CHILD_SA, also for one that only the peer believes in.
    pub(super) fn request_delete_child(
        &mut self,
        spi_in: Spi,
        cx: &mut Ctx<'_>,
    ) -> Result<(), Reason> {
        if self.child(spi_in).is_none() && !self.unborn.contains(&spi_in) {
            // The peer was faster.
            return Ok(());
        }
        let delete = Payload::Delete(Delete::Esp(vec![spi_in.get()]));
        let purpose = Purpose::DeleteChild(spi_in);
        self.request(ExchangeType::INFORMATIONAL, purpose, &[delete], cx)
    }

    pub(super) fn finish_delete_child(&mut self, spi_in: Spi, cx: &mut Ctx<'_>) {
        self.release_spi(spi_in, cx);
        self.remove_child(spi_in, false);
    }

    /// Do we wait to hear of a CHILD_SA that the peer knows of already?
    pub(super) fn expects_child(&self) -> bool {
        self.outstanding
            .as_ref()
            .is_some_and(|request| match &request.purpose {
                Purpose::Child(_) => true,
                Purpose::FollowUp(follow_up) => !follow_up.is_for_ike(),
                _ => false,
            })
    }

    /// Removes a CHILD_SA and says so, if it is still there.
    pub(super) fn remove_child(&mut self, spi_in: Spi, by_peer: bool) {
        if let Some(index) = self
            .children
            .iter()
            .position(|child| child.spi_in == spi_in)
        {
            self.children.remove(index);
            self.outputs
                .push_back(Output::ChildDeleted { spi_in, by_peer });
        }
    }
}
