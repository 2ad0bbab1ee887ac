//! The end of epochs that were replaced, or forgotten.

use core::time::Duration;

use crate::epoch::Epoch;
use crate::{Gate, Role};

impl Gate {
    /// Deletes replaced epochs once the peer was seen on the new one, or after the longest time; and, on a
    /// server, new ones on which the client has been silent for as long: it has forgotten them.
    ///
    /// A peer without ESP Echo that has answered our rekey may go on sending on the old epoch until we
    /// delete it, and that is ours to do (RFC 7296 §2.8): waiting to see it on the new one would be in vain.
    pub(crate) fn drain(&mut self, now: Duration) {
        let min = self.config.drain_min;
        let active = self
            .active
            .and_then(|id| self.epochs.iter().find(|e| e.id == id));
        let ours_to_delete =
            self.config.role == Role::Client || active.is_some_and(|e| e.initiated && !e.peer_echo);
        for at in 0..self.epochs.len() {
            let id = self.epochs[at].id;
            // Seen on any later one, it has left this one: where rekeys are frequent, the active one is
            // always too young to tell.
            let later = |e: &&Epoch| self.active == Some(e.id) || e.id > id && e.proof.is_some();
            let peer_moved_until = self
                .epochs
                .iter()
                .filter(later)
                .filter_map(Epoch::peer_moved)
                .min();
            let peer_moved_until = peer_moved_until.map(|moved| moved + min);
            let epoch = &mut self.epochs[at];
            if epoch.drain_deadline.is_none_or(|t| t > now) {
                continue;
            }
            let longest = epoch.last_sign() + self.config.drain_max;
            // RFC 7296 §2.8.1: a redundant one is deleted by the side that made it.
            let ours = ours_to_delete || epoch.redundant && epoch.initiated;
            let moved = peer_moved_until.filter(|_| ours);
            if longest <= now || moved.is_some_and(|t| t <= now) {
                self.abandon(now, at);
            } else {
                let look_again = moved.unwrap_or(now + min).max(now + min / 4);
                epoch.drain_deadline = Some(look_again.min(longest));
            }
        }
    }
}
