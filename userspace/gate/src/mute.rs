//! Those who do not answer although the path may be well: never a black hole made by the gate itself.

use core::time::Duration;

use mitregate_esp::ids::EpochId;

use crate::{Gate, GateEvent, Proof, Release, Role};

impl Gate {
    /// An epoch whose pings all went unanswered carries data nevertheless when who is asked is the likelier
    /// reason than the path. Whether it does.
    pub(crate) fn release_silent(&mut self, now: Duration, at: usize) -> bool {
        let epoch = &self.epochs[at];
        if epoch.proof.is_some_and(Proof::is_proof) {
            return false;
        }
        let by_icmp = epoch.icmp.is_some();
        let release = if by_icmp {
            Release::TargetSilent
        } else {
            Release::MutePeer
        };
        let is_mute = if by_icmp {
            // A host behind the peer that used to answer: it was asked over fresh SAs, too.
            let tried = self.escalation.unproven() >= self.config.epochs_per_session;
            self.config.role == Role::Server || tried
        } else {
            self.peer_is_mute(at)
        };
        if !is_mute {
            return false;
        }
        if by_icmp {
            self.answering = None;
        }
        self.warned_optimistic = false;
        self.peer_mute |= !by_icmp;
        self.prove(now, at, Proof::Released(release));
        true
    }

    /// Says once that data flows on this epoch, or one that is like it, and nothing proves its path.
    pub(crate) fn warn_optimistic(&mut self, epoch: EpochId) {
        if !core::mem::replace(&mut self.warned_optimistic, true) {
            self.event(GateEvent::Optimistic { epoch });
        }
    }

    /// Whether silence on this epoch says nothing: who is asked has not answered yet, or no more. It goes on
    /// being asked now and then, and its first answer puts the gate into force.
    pub(crate) fn is_mute(&self, at: usize) -> bool {
        match self.epochs[at].icmp {
            Some(_) => !self.target_answers(at),
            None => self.peer_mute,
        }
    }

    /// Whether a peer that announced ESP Echo most likely has none. A gated one sends data only once its own
    /// ping was answered; so data of one that never answers, nor ever asked, says that it is not gated.
    /// Else many epochs have to be silent, each of them agreed on by IKE.
    fn peer_is_mute(&self, at: usize) -> bool {
        if self.peer_answers || self.config.role == Role::Server {
            return false;
        }
        let most = self.config.mute_after;
        let epoch = &self.epochs[at];
        epoch.peer_data && epoch.peer_pinged.is_none()
            || most != 0 && self.escalation.unproven() + 1 >= most
    }
}
