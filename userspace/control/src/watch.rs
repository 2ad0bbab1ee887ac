//! IKE SAs that stand: their timers, and whether the peer is there.

use core::time::Duration;

use mitregate_ike::{IkeSa, Reason};

use crate::Control;
use crate::session::{SessionId, take_due};

impl Control {
    pub(crate) fn session_timeout(&mut self, now: Duration, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let ike = session.sa.poll_timeout().is_some_and(|t| t <= now);
        let timers = &mut session.timers;
        let abandon = take_due(&mut timers.abandon, now);
        let superseded = take_due(&mut timers.superseded, now);
        let reauth = take_due(&mut timers.reauth, now);
        let rekey = take_due(&mut timers.rekey, now);
        let expired = take_due(&mut timers.expires, now);
        let dpd = take_due(&mut timers.dpd, now);
        let given_up = take_due(&mut timers.dpd_timeout, now);
        let keepalive = take_due(&mut timers.keepalive, now);
        let initiator = session.initiator;
        let connecting = session.is_connecting();
        if ike {
            self.with_ike(now, id, IkeSa::handle_timeout);
        }
        if abandon && connecting {
            self.failed(now, id, Reason::Timeout);
        }
        if abandon || (superseded && !initiator) {
            // A client that replaced it has forgotten it, or deletes it itself.
            self.with_ike(now, id, IkeSa::abandon);
        } else if superseded {
            self.close_session(now, id);
        }
        if given_up && !connecting {
            self.closed(now, id, Reason::Timeout);
            self.with_ike(now, id, IkeSa::abandon);
            return;
        }
        if expired {
            self.expired(now, id);
        } else if reauth {
            self.reauthenticate(id);
        } else if rekey {
            self.rekey_session(now, id);
        }
        if dpd {
            self.check_peer(now, id);
        }
        if keepalive {
            self.keepalive(now, id);
        }
    }

    /// Something of the peer came in by this IKE SA.
    pub(crate) fn heard(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.timers.dpd_timeout = None;
            self.dirty_sessions.insert(id);
        }
    }

    /// Makes a new IKE SA, with all that this one has, before it goes.
    pub(crate) fn reauthenticate(&mut self, id: SessionId) {
        let Some(index) = self.sessions.get(&id).and_then(|s| s.connection) else {
            return;
        };
        let tunnels = self.connections[index].tunnels.clone();
        let lives = tunnels.into_iter().filter(|at| {
            let tunnel = &self.tunnels[*at];
            tunnel.wanted && tunnel.lives_on(id)
        });
        let lives: Vec<_> = lives.collect();
        let connection = &mut self.connections[index];
        connection.wants.extend(lives);
        connection.reauthenticates = true;
        self.dirty_connections.insert(index);
    }

    /// Asks a peer from which nothing has come for a while whether it is there.
    fn check_peer(&mut self, now: Duration, id: SessionId) {
        let tunnels = self.tunnels_of(id);
        let epochs = tunnels
            .iter()
            .flat_map(|at| self.tunnels[*at].epochs.values());
        let of_session = epochs.filter(|e| e.session == Some(id));
        let data: u64 = of_session.map(|e| e.counters.packets_in.get()).sum();
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(index) = session.connection else {
            return;
        };
        let connection = &self.connections[index];
        let pings: u64 = connection
            .tunnels
            .iter()
            .map(|at| &self.tunnels[*at])
            .filter(|tunnel| tunnel.lives_on(id))
            .map(|tunnel| tunnel.gate.counters())
            .map(|c| c.pings_answered + c.echoes_answered)
            .sum();
        let heard = data.wrapping_add(pings).wrapping_add(session.messages);
        let silent = heard == session.seen;
        session.seen = heard;
        session.timers.dpd = Some(now + connection.config.dpd_delay);
        let dpd_timeout = connection.config.dpd_timeout;
        if silent && !dpd_timeout.is_zero() {
            session.timers.dpd_timeout.get_or_insert(now + dpd_timeout);
        }
        if silent {
            self.with_ike(now, id, IkeSa::check_liveness);
        }
    }
}
