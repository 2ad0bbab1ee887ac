//! A gate's state as a model checker needs it: what its future depends on, and nothing else.

use core::time::Duration;

use mitregate_esp::ids::EpochId;

use crate::epoch::Epoch;
use crate::withhold::Withheld;
use crate::{Gate, Proof, Role, State};

/// What a gate will do depends on this, on its configuration and on what comes in: two gates with equal
/// snapshots answer equal inputs alike, but for the numbers of epochs and pings and for what they count
/// and measure. Times are from now.
///
/// It leaves out the times of idle pings, the rate limit for answers, inner ICMP, pings that a person
/// asked for, and what only operators see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The side it works for.
    pub role: Role,
    /// The epoch that carries data.
    pub active: Option<EpochId>,
    /// The epochs, oldest first.
    pub epochs: Vec<EpochSnapshot>,
    /// Whether data waits although an epoch is active, and has waited for long enough in this outage.
    pub withheld: (Option<Duration>, bool),
    /// The peer seems to know no ESP Echo although it announced it.
    pub peer_mute: bool,
    /// It has answered before.
    pub peer_answers: bool,
    /// What was asked of IKE.
    pub escalation: EscalationSnapshot,
}

/// See [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EpochSnapshot {
    /// The epoch.
    pub id: EpochId,
    /// The epoch that it replaces.
    pub replaces: Option<EpochId>,
    /// The peer answers pings.
    pub peer_echo: bool,
    /// We made it.
    pub initiated: bool,
    /// It lost to another that replaces the same.
    pub redundant: bool,
    /// Its state.
    pub state: State,
    /// What lets it carry data.
    pub proof: Option<ProofKind>,
    /// Something authenticated has arrived on it.
    pub heard: bool,
    /// The peer sends data on it.
    pub peer_data: bool,
    /// The peer has asked on it.
    pub peer_pinged: bool,
    /// Its Delete was asked for.
    pub deleting: bool,
    /// The identifier of its pings.
    pub ping_id: u16,
    /// Sequence numbers of pings whose answers would still count.
    pub outstanding: Vec<u16>,
    /// The pings that are under way.
    pub run: Option<RunSnapshot>,
    /// When it is next looked at, if it drains or may have been forgotten.
    pub look_in: Option<Duration>,
    /// How long it has been silent; zero where it is not to be looked at.
    pub silent_for: Duration,
    /// For how long the peer has been seen on it, as far as that matters.
    pub peer_moved_for: Option<Duration>,
}

/// A series of pings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunSnapshot {
    /// Pings that may still be sent.
    pub left: u32,
    /// The end of the wait for an answer.
    pub due_in: Duration,
    /// Nominal length of the next wait.
    pub wait: Duration,
}

/// What was asked of IKE.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EscalationSnapshot {
    pub(crate) step: EscalationStep,
    /// When the next step is due.
    pub due_in: Option<Duration>,
    /// Requests since something was proven, as far as they lengthen the wait.
    pub requests: u32,
    /// Epochs in a row that could not be proven, as far as they choose the step.
    pub unproven: u32,
    /// A rekey was not answered.
    pub unanswered: bool,
    /// And a new IKE SA was.
    pub forgotten: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EscalationStep {
    Idle,
    RekeyDue(EpochId),
    SessionDue,
    Rekeying,
    Starting,
}

impl EscalationSnapshot {
    /// The epoch that a rekey shall replace.
    #[must_use]
    pub fn replaces(&self) -> Option<EpochId> {
        match self.step {
            EscalationStep::RekeyDue(epoch) => Some(epoch),
            _ => None,
        }
    }

    /// Which step is under way, without the epoch that it is about.
    #[must_use]
    pub fn step(&self) -> u8 {
        match self.step {
            EscalationStep::Idle => 0,
            EscalationStep::RekeyDue(_) => 1,
            EscalationStep::SessionDue => 2,
            EscalationStep::Rekeying => 3,
            EscalationStep::Starting => 4,
        }
    }
}

/// A [`Proof`] without the time it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProofKind {
    /// [`Proof::Ping`].
    Ping,
    /// [`Proof::PeerData`].
    PeerData,
    /// [`Proof::Released`] because we asked for the rekey, which hastens the old epoch's end.
    RekeyAnswered,
    /// [`Proof::Released`] otherwise.
    Released,
}

impl Gate {
    /// See [`Snapshot`].
    #[must_use]
    pub fn snapshot(&self, now: Duration) -> Snapshot {
        Snapshot {
            role: self.config.role,
            active: self.active,
            epochs: self.epochs.iter().map(|e| self.of(now, e)).collect(),
            withheld: (
                self.withheld.deadline().map(|t| t.saturating_sub(now)),
                self.withheld == Withheld::Spent,
            ),
            peer_mute: self.peer_mute,
            peer_answers: self.peer_answers,
            escalation: self.escalation.snapshot(now, &self.config),
        }
    }

    fn of(&self, now: Duration, epoch: &Epoch) -> EpochSnapshot {
        let ago = |t: Duration| now.saturating_sub(t);
        let looked_at = epoch.drain_deadline.is_some();
        let silent = ago(epoch.last_sign()).min(self.config.drain_max);
        EpochSnapshot {
            id: epoch.id,
            replaces: epoch.replaces,
            peer_echo: epoch.peer_echo,
            initiated: epoch.initiated,
            redundant: epoch.redundant,
            state: epoch.state,
            proof: epoch.proof.map(ProofKind::of),
            heard: epoch.heard.is_some(),
            peer_data: epoch.peer_data,
            peer_pinged: epoch.peer_pinged.is_some(),
            deleting: epoch.deleting,
            ping_id: epoch.probe.id(),
            outstanding: epoch.probe.outstanding().collect(),
            run: epoch.probe.snapshot(now),
            look_in: epoch.drain_deadline.map(|t| t.saturating_sub(now)),
            silent_for: if looked_at { silent } else { Duration::ZERO },
            peer_moved_for: epoch
                .peer_moved()
                .map(|t| ago(t).min(self.config.drain_min)),
        }
    }
}

impl ProofKind {
    fn of(proof: Proof) -> Self {
        use crate::Release;
        match proof {
            Proof::Ping(_) | Proof::Icmp(_) => Self::Ping,
            Proof::PeerData => Self::PeerData,
            Proof::Released(Release::RekeyAnswered) => Self::RekeyAnswered,
            Proof::Released(_) => Self::Released,
        }
    }
}
