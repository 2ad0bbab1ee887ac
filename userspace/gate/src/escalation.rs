//! When pings do not help: a rekey, then a new IKE session, with growing waits between them.

use core::time::Duration;

use mitregate_esp::ids::EpochId;

use crate::snapshot::EscalationStep;
use crate::{EscalationSnapshot, GateConfig, GateMode, Reason};

/// What to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Rekey { replaces: EpochId },
    NewSession,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    /// Decided; waits out the back-off.
    Due {
        at: Duration,
        step: Step,
        reason: Reason,
    },
    /// A rekey was asked for; a new epoch must come of it in time.
    Rekeying {
        deadline: Duration,
    },
    /// A new IKE session was asked for; whoever starts it tries for as long as it takes.
    Starting,
}

/// The escalation of one tunnel: at most one request is under way.
#[derive(Debug, Clone)]
pub(crate) struct Escalation {
    phase: Phase,
    /// Requests since something was last proven.
    requests: u32,
    /// Epochs in a row that could not be proven.
    unproven: u32,
    /// A rekey was not answered.
    unanswered: bool,
    /// That was so, and a new IKE SA was answered.
    forgotten: bool,
}

impl Escalation {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Idle,
            requests: 0,
            unproven: 0,
            unanswered: false,
            forgotten: false,
        }
    }

    /// Asks for `step` unless something was asked for already. A request that follows another waits.
    pub(crate) fn request(
        &mut self,
        now: Duration,
        step: Step,
        reason: Reason,
        config: &GateConfig,
        rng: &mut dyn rand_core::Rng,
    ) {
        if self.phase != Phase::Idle {
            return;
        }
        let wait = match self.requests.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let nominal = config
                    .escalation_backoff
                    .saturating_mul(1 << doublings.min(16))
                    .min(config.escalation_max);
                config.jittered(nominal, rng)
            }
        };
        self.phase = Phase::Due {
            at: now + wait,
            step,
            reason,
        };
    }

    /// One more epoch could not be proven; says which step that calls for.
    pub(crate) fn epoch_failed(&mut self, epoch: EpochId, config: &GateConfig) -> Step {
        self.unproven += 1;
        if self
            .unproven
            .is_multiple_of(config.epochs_per_session.max(1))
        {
            Step::NewSession
        } else {
            Step::Rekey { replaces: epoch }
        }
    }

    /// Epochs in a row that could not be proven.
    pub(crate) fn unproven(&self) -> u32 {
        self.unproven
    }

    /// A new epoch is there: whatever was asked for has been had. `of_rekey`: it replaces another on the same
    /// IKE SA.
    pub(crate) fn satisfied(&mut self, of_rekey: bool) {
        self.forgotten =
            !of_rekey && (self.forgotten || self.phase == Phase::Starting && self.unanswered);
        self.unanswered &= !of_rekey;
        self.phase = Phase::Idle;
    }

    /// Whether the peer seems to have lost the epoch that carried data, with its IKE SA.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    /// An epoch carries data (again).
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }

    /// The rekey that was asked for will not come.
    pub(crate) fn rekey_failed(&mut self, now: Duration) {
        if let Phase::Rekeying { .. } = self.phase {
            let (step, reason) = (Step::NewSession, Reason::RekeyFailed);
            self.phase = Phase::Due {
                at: now,
                step,
                reason,
            };
        }
    }

    pub(crate) fn snapshot(&self, now: Duration, config: &GateConfig) -> EscalationSnapshot {
        let (due_in, step) = match self.phase {
            Phase::Idle => (None, EscalationStep::Idle),
            Phase::Starting => (None, EscalationStep::Starting),
            Phase::Rekeying { deadline } => (Some(deadline), EscalationStep::Rekeying),
            Phase::Due { at, step, .. } => (
                Some(at),
                match step {
                    Step::Rekey { replaces } => EscalationStep::RekeyDue(replaces),
                    Step::NewSession => EscalationStep::SessionDue,
                },
            ),
        };
        // From here on the wait does not grow.
        let (nominal, longest) = (config.escalation_backoff, config.escalation_max);
        let grown = (0..=16u32).find(|n| nominal.saturating_mul(1 << n) >= longest);
        EscalationSnapshot {
            step,
            due_in: due_in.map(|at| at.saturating_sub(now)),
            requests: self.requests.min(grown.unwrap_or(16) + 1),
            unproven: self.unproven % config.epochs_per_session.max(1),
            unanswered: self.unanswered,
            forgotten: self.forgotten,
        }
    }

    /// The session that was asked for is over: what next calls for one may ask again.
    pub(crate) fn session_failed(&mut self) {
        if self.phase == Phase::Starting {
            self.phase = Phase::Idle;
        }
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Due { at, .. } => Some(at),
            Phase::Rekeying { deadline } => Some(deadline),
            Phase::Idle | Phase::Starting => None,
        }
    }

    /// The request to make now, if any.
    pub(crate) fn poll(&mut self, now: Duration, config: &GateConfig) -> Option<(Step, Reason)> {
        let (step, reason) = match self.phase {
            Phase::Due { at, step, reason } if at <= now => (step, reason),
            Phase::Rekeying { deadline } if deadline <= now => {
                self.unanswered = true;
                (Step::NewSession, Reason::RekeyUnanswered)
            }
            _ => return None,
        };
        self.requests += 1;
        self.phase = match step {
            // Without a gate IKE alone says when a request is given up.
            Step::Rekey { .. } if config.mode == GateMode::Off => Phase::Idle,
            Step::Rekey { .. } => Phase::Rekeying {
                deadline: now + config.rekey_patience,
            },
            Step::NewSession => Phase::Starting,
        };
        Some((step, reason))
    }
}
