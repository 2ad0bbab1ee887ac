//! Additional key exchanges after CREATE_CHILD_SA, one IKE_FOLLOWUP_KE each (RFC 9370 §2.2.4), both
//! roles. Nothing is made before the last of them; until then it is a [`Series`].

use core::time::Duration;
use std::collections::VecDeque;

use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{ExchangeType, NotifyType, Payload};
use subtle::ConstantTimeEq;

use super::child::{Agreed, Wanted};
use super::intermediate::public_value;
use super::message::{error, find_notify, notify, notify_data};
use super::rekey::Successor;
use super::window::{Purpose, Task, Work};
use super::{Fate, IkeSa, Phase};
use crate::crypto::{KeyPair, Reply, Secret};
use crate::keys::{Nonces, SharedSecrets};
use crate::proposal::Group;
use crate::{Ctx, Output, Reason};

/// How long a responder waits for the next exchange: RFC 9370 §2.2.4 thinks of 5 to 20 s, and a
/// request that is lost a few times comes within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Length of the data that links one exchange to the next, bytes.
const LINK_LEN: usize = 8;

/// What a series of key exchanges is for.
enum Goal {
    Child {
        agreed: Box<Agreed>,
        /// The initiator's request, to be made again if the responder lost track.
        wanted: Option<Box<Wanted>>,
    },
    Ike {
        /// Its secrets are those of the series.
        successor: Box<Successor>,
        /// We want one ourselves, and were asked so often to try again later.
        refusals: Option<u8>,
    },
}

/// The key exchanges of one CREATE_CHILD_SA: those that are still to come, and what the others
/// gave.
pub(super) struct Series {
    goal: Goal,
    groups: VecDeque<Group>,
    secrets: SharedSecrets,
    nonces: Nonces,
}

impl Series {
    /// For a CHILD_SA, after CREATE_CHILD_SA with `nonces` gave `first`; `wanted` is the
    /// initiator's.
    pub(super) fn for_child(
        agreed: Agreed,
        wanted: Option<Wanted>,
        first: SharedSecrets,
        nonces: Nonces,
    ) -> Self {
        Self {
            groups: agreed.suite.additional.groups().collect(),
            goal: Goal::Child {
                agreed: Box::new(agreed),
                wanted: wanted.map(Box::new),
            },
            secrets: first,
            nonces,
        }
    }

    /// For the successor of an IKE SA; `refusals` is the initiator's.
    pub(super) fn for_ike(mut successor: Successor, refusals: Option<u8>) -> Self {
        Self {
            groups: successor.suite.additional.groups().collect(),
            secrets: core::mem::take(&mut successor.shared),
            nonces: successor.nonces.clone(),
            goal: Goal::Ike {
                successor: Box::new(successor),
                refusals,
            },
        }
    }

    fn next(&self) -> Option<Group> {
        self.groups.front().copied()
    }

    /// Takes in what the exchange with the method [`Self::next`] gave.
    fn push(&mut self, secret: Secret) {
        self.groups.pop_front();
        self.secrets.push(secret);
    }
}

/// An initiator's exchange under way.
pub(super) struct FollowUp {
    series: Series,
    pair: KeyPair,
}

impl FollowUp {
    /// Is it for a successor of the CHILD_SA that we receive on `spi_in`, or for a new one?
    pub(super) fn replaces(&self, spi_in: Option<Spi>) -> bool {
        matches!(&self.series.goal, Goal::Child { agreed, .. } if agreed.replaces == spi_in)
    }

    /// What we asked for, if that was a CHILD_SA.
    pub(super) fn wanted(&mut self) -> Option<&mut Box<Wanted>> {
        match &mut self.series.goal {
            Goal::Child { wanted, .. } => wanted.as_mut(),
            Goal::Ike { .. } => None,
        }
    }

    /// Is it for a successor of the IKE SA?
    pub(super) const fn is_for_ike(&self) -> bool {
        matches!(self.series.goal, Goal::Ike { .. })
    }
}

/// What a responder waits to go on with. There is at most one: the peer asks one thing at a time,
/// and who starts another series has given this one up.
pub(super) struct Awaited {
    series: Series,
    link: [u8; LINK_LEN],
    expires: Duration,
}

/// What all exchanges of a series led to.
enum Reached {
    /// A CHILD_SA, or a report that there is none.
    Child,
    /// What to make the successor of the IKE SA of.
    Successor(Successor),
}

impl IkeSa {
    /// An initiator's next step: the next exchange, with what the responder said to link it with,
    /// or the end.
    pub(super) fn follow_up(
        &mut self,
        series: Series,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) -> Result<(), Reason> {
        let Some(group) = series.next() else {
            match self.reach(series, cx) {
                Reached::Child => {}
                Reached::Successor(successor) => self.conclude_rekey(successor, cx),
            }
            return Ok(());
        };
        let link = find_notify(payloads, NotifyType::ADDITIONAL_KEY_EXCHANGE);
        let pair = KeyPair::generate(group, cx.rng);
        let (Some(link), Some(pair)) = (link, pair) else {
            // The responder has made nothing yet, and forgets about it by itself.
            self.miss(
                series.goal,
                Reason::Protocol("no ADDITIONAL_KEY_EXCHANGE"),
                cx,
            );
            return Ok(());
        };
        let payloads = [
            pair.payload(),
            notify_data(NotifyType::ADDITIONAL_KEY_EXCHANGE, &link.data),
        ];
        let purpose = Purpose::FollowUp(Box::new(FollowUp { series, pair }));
        self.request(ExchangeType::IKE_FOLLOWUP_KE, purpose, &payloads, cx)
    }

    /// The response to IKE_FOLLOWUP_KE.
    pub(super) fn finish_follow_up(
        &mut self,
        follow_up: FollowUp,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) {
        let FollowUp { mut series, pair } = follow_up;
        match error(payloads).map(|notify| notify.kind) {
            Some(kind @ (NotifyType::STATE_NOT_FOUND | NotifyType::TEMPORARY_FAILURE)) => {
                return self.start_over(series.goal, kind, cx);
            }
            Some(kind) => return self.miss(series.goal, Reason::Refused(kind), cx),
            None => {}
        }
        let secret = public_value(pair.group(), payloads)
            .and_then(|data| pair.agree(data).map_err(|_| Reason::InvalidKeyExchange));
        match secret {
            Ok(secret) => {
                series.push(secret);
                if let Err(reason) = self.follow_up(series, payloads, cx) {
                    self.end(reason, cx);
                }
            }
            Err(reason) => {
                if series.groups.len() == 1 {
                    // The peer believes that it stands.
                    match &series.goal {
                        Goal::Ike { .. } => return self.give_up_on(reason, cx),
                        Goal::Child { agreed, .. } => {
                            let delete = Work::DeleteChild(agreed.spi_in);
                            self.tasks.push_back(Task::now(delete));
                            let (config, replaces) = (agreed.config, agreed.replaces);
                            return self.child_failed(Some(config), replaces, reason);
                        }
                    }
                }
                self.miss(series.goal, reason, cx);
            }
        }
    }

    /// RFC 9370 §2.2.4: the responder has forgotten about it, or has no time: from the beginning,
    /// some time later, and not for ever.
    fn start_over(&mut self, goal: Goal, refused: NotifyType, cx: &mut Ctx<'_>) {
        let often = match goal {
            Goal::Child {
                agreed,
                wanted: Some(wanted),
            } => self.try_later(*wanted, cx).map(|wanted| Goal::Child {
                agreed,
                wanted: Some(Box::new(wanted)),
            }),
            // RFC 7296 §2.8.2: the peer's own successor it is, then.
            Goal::Ike { .. } if self.take_rival(cx) => None,
            Goal::Ike {
                refusals: Some(refusals),
                ..
            } if self.try_rekey_later(refusals, cx) => None,
            goal => Some(goal),
        };
        if let Some(goal) = often {
            self.miss(goal, Reason::Refused(refused), cx);
            if refused == NotifyType::STATE_NOT_FOUND {
                self.close(cx);
            }
        }
    }

    /// All exchanges are done: makes what they were for.
    fn reach(&mut self, series: Series, cx: &mut Ctx<'_>) -> Reached {
        let Series {
            goal,
            secrets,
            nonces,
            ..
        } = series;
        let (agreed, wanted) = match goal {
            Goal::Child { agreed, wanted } => (agreed, wanted),
            Goal::Ike { mut successor, .. } => {
                successor.shared = secrets;
                return Reached::Successor(*successor);
            }
        };
        let (config, replaces, spi_in) = (agreed.config, agreed.replaces, agreed.spi_in);
        let stillborn = core::mem::take(&mut self.stillborn);
        let made = if agreed.initiator && stillborn.contains(&agreed.spi_out.get()) {
            Err(Reason::DeletedByPeer)
        } else if let Some(wanted) = wanted {
            self.install_beside(&wanted, *agreed, &secrets, &nonces)
        } else {
            self.install_for_peer(*agreed, &secrets, &nonces)
        };
        if let Err(reason) = made {
            self.release_spi(spi_in, cx);
            self.child_failed(Some(config), replaces, reason);
        }
        Reached::Child
    }

    /// It comes to nothing, and the peer knows or will find out.
    fn miss(&mut self, goal: Goal, reason: Reason, cx: &mut Ctx<'_>) {
        match goal {
            Goal::Child { agreed, wanted } => {
                self.release_spi(agreed.spi_in, cx);
                // The peer's successor of the same CHILD_SA stands.
                if wanted.is_some_and(|wanted| wanted.rival.is_some()) {
                    return;
                }
                self.child_failed(Some(agreed.config), agreed.replaces, reason);
            }
            Goal::Ike {
                refusals: Some(_), ..
            } => {
                if !self.take_rival(cx) {
                    self.outputs.push_back(Output::RekeyFailed(reason));
                }
            }
            // Nobody here asked for it.
            Goal::Ike { refusals: None, .. } => {}
        }
    }

    /// A responder's last payload of CREATE_CHILD_SA, or of an exchange that is followed by another
    /// one: what the peer has to say to go on.
    pub(super) fn await_follow_up(&mut self, series: Series, cx: &mut Ctx<'_>) -> Payload {
        self.forget_follow_up(cx);
        let mut link = [0; LINK_LEN];
        cx.rng.fill_bytes(&mut link);
        self.awaited = Some(Box::new(Awaited {
            series,
            link,
            expires: cx.now + PATIENCE,
        }));
        notify_data(NotifyType::ADDITIONAL_KEY_EXCHANGE, &link)
    }

    /// The request of IKE_FOLLOWUP_KE.
    pub(super) fn answer_follow_up(
        &mut self,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) -> (Vec<Payload>, Fate) {
        let refuse = |kind| (vec![notify(kind)], Fate::GoesOn);
        let link = find_notify(payloads, NotifyType::ADDITIONAL_KEY_EXCHANGE);
        let awaited = self
            .awaited
            .take_if(|awaited| link.is_some_and(|link| awaited.link.ct_eq(&link.data).into()));
        let Some(awaited) = awaited else {
            // RFC 9370 §2.2.4: not fatal.
            return refuse(NotifyType::STATE_NOT_FOUND);
        };
        let mut series = awaited.series;
        // RFC 7296 §2.25.2: nothing new while the IKE SA is being closed.
        if !matches!(self.phase, Phase::Established) {
            self.miss(series.goal, Reason::Closed, cx);
            return refuse(NotifyType::TEMPORARY_FAILURE);
        }
        let reply = match series.next() {
            None => Err(Reason::Protocol("no key exchange was agreed on")),
            Some(group) => public_value(group, payloads).and_then(|data| {
                Reply::to(group, data, cx.rng).map_err(|_| Reason::InvalidKeyExchange)
            }),
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(reason) => {
                self.miss(series.goal, reason, cx);
                return refuse(NotifyType::NO_PROPOSAL_CHOSEN);
            }
        };
        let mut answer = vec![reply.payload()];
        series.push(reply.secret);
        if series.next().is_some() {
            answer.push(self.await_follow_up(series, cx));
            return (answer, Fate::GoesOn);
        }
        match self.reach(series, cx) {
            Reached::Child => (answer, Fate::GoesOn),
            Reached::Successor(successor) => match self.accept_successor(successor) {
                Ok(fate) => (answer, fate),
                Err(_) => refuse(NotifyType::NO_PROPOSAL_CHOSEN),
            },
        }
    }

    /// Are further key exchanges of ours under way for a successor of this CHILD_SA?
    pub(super) fn follows_up_for(&self, spi_in: Spi) -> bool {
        self.outstanding.as_ref().is_some_and(
            |request| matches!(&request.purpose, Purpose::FollowUp(f) if f.replaces(Some(spi_in))),
        )
    }

    /// Where the peer has started a rekey of the same CHILD_SA too, and neither has a successor yet:
    /// does ours, with these nonces, stop for it (RFC 9370 §2.2.4)? Else the peer's does.
    pub(super) fn child_yields_to_awaited(
        &mut self,
        replaces: Option<Spi>,
        nonces: &Nonces,
        cx: &mut Ctx<'_>,
    ) -> bool {
        let same = |awaited: &mut Box<Awaited>| {
            let Goal::Child { agreed, .. } = &awaited.series.goal else {
                return false;
            };
            replaces.is_some() && agreed.replaces == replaces
        };
        let Some(awaited) = self.awaited.take_if(same) else {
            return false;
        };
        if nonces.lowest() < awaited.series.nonces.lowest() {
            self.awaited = Some(awaited);
            return true;
        }
        if let Goal::Child { agreed, .. } = &awaited.series.goal {
            self.release_spi(agreed.spi_in, cx);
        }
        false
    }

    /// Where the peer has started a rekey of the IKE SA too: does ours, with this lowest nonce, stop
    /// for it? Else the peer's does, and nothing more is to be heard of it.
    pub(super) fn yields_to_awaited(&mut self, lowest: &[u8], ours: u8) -> bool {
        let Some(awaited) = &mut self.awaited else {
            return false;
        };
        let Goal::Ike { refusals, .. } = &mut awaited.series.goal else {
            return false;
        };
        let yields = lowest < awaited.series.nonces.lowest();
        if yields {
            *refusals = Some(ours);
        } else {
            self.awaited = None;
        }
        yields
    }

    /// The peer did not go on, or started something else.
    pub(super) fn forget_follow_up(&mut self, cx: &mut Ctx<'_>) {
        if let Some(awaited) = self.awaited.take() {
            self.miss(awaited.series.goal, Reason::Timeout, cx);
        }
    }

    /// Forgets what the peer did not go on with in time.
    pub(super) fn expire_follow_up(&mut self, cx: &mut Ctx<'_>) {
        let due = |awaited: &Awaited| awaited.expires <= cx.now;
        if self.awaited.as_deref().is_some_and(due) {
            self.forget_follow_up(cx);
        }
    }

    pub(super) fn follow_up_timeout(&self) -> Option<Duration> {
        self.awaited.as_ref().map(|awaited| awaited.expires)
    }
}

#[cfg(test)]
impl Awaited {
    pub(super) const fn link(&self) -> [u8; LINK_LEN] {
        self.link
    }
}
