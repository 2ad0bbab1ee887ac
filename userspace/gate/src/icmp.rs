//! Asking by an inner ICMP echo, where the peer knows no ESP Echo.
//!
//! Who answers is a host behind the peer, and it may have its reasons not to. So its silence means
//! something only once it has answered in this tunnel; before that data flows unproven.

use core::time::Duration;

use mitregate_esp::ids::EpochId;
use rand_core::Rng;

use crate::{Gate, PingCause, Role};

impl Gate {
    /// Whether the target of this epoch is the one that has answered before.
    pub(crate) fn target_answers(&self, at: usize) -> bool {
        let target = self.epochs[at].icmp;
        target.is_some() && target == self.answering
    }

    /// A standard responder sends on its new SA only when the old one was deleted: at a rekey an answer on
    /// any inbound SA proves the outbound one on which we asked.
    pub(crate) fn icmp_reply(
        &mut self,
        now: Duration,
        arrived_on: EpochId,
        id: u16,
        seq: u16,
        size: usize,
    ) {
        let Some(inbound) = self.position(arrived_on) else {
            return;
        };
        if let Some(live) = &mut self.liveness {
            live.heard(now);
        }
        let asked = self.epochs.iter().position(|e| e.probe.id() == id);
        match asked {
            Some(at) if self.epochs[at].icmp.is_some() => {
                if let Some(sent) = self.epochs[at].probe.answered(id, seq) {
                    self.answering = self.epochs[at].icmp;
                    self.own_ping_answered(now, at, sent);
                }
            }
            _ => {
                if let Some(at) = self.active.and_then(|active| self.position(active)) {
                    self.user_ping_answered(now, at, (id, seq), size);
                }
            }
        }
        self.heard(now, inbound);
    }

    /// An epoch that was released is asked all the same, once: perhaps it can be proven. A server's peer
    /// has to be there first, whose packet binds the NAT.
    pub(crate) fn ask_released(&mut self, now: Duration, rng: &mut dyn Rng) {
        let Some(at) = self.active.and_then(|id| self.position(id)) else {
            return;
        };
        let epoch = &self.epochs[at];
        let first = self.config.role == Role::Client || epoch.heard.is_some();
        let unproven = epoch.icmp.is_some() || self.peer_mute && epoch.peer_echo;
        if unproven && epoch.probe.is_unused() && first {
            self.begin_probe(now, at, self.config.suspect_tries, PingCause::New, rng);
        }
    }

    /// The old SA of a rekey is gone, so the peer has to send on the new one: that is looked at, if
    /// nothing has come in on it yet.
    pub(crate) fn expect_on_new(&mut self, now: Duration, gone: EpochId, rng: &mut dyn Rng) {
        let Some(at) = self.active.and_then(|id| self.position(id)) else {
            return;
        };
        let epoch = &self.epochs[at];
        let quiet = epoch.heard.is_none() && !epoch.probe.running();
        if epoch.replaces == Some(gone) && quiet && self.target_answers(at) {
            self.begin_probe(now, at, self.config.suspect_tries, PingCause::New, rng);
        }
    }
}
