//! IKE SAs in time: rekeyed, replaced by one that authenticates anew, expired.

use core::time::Duration;

use mitregate_gate::{GateMode, Role};
use mitregate_ike::{IkeSa, Reason};
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::NotifyType;
use tracing::{debug, info, warn};

use crate::gates::REKEY_AGAIN;
use crate::session::{SessionId, Timers};
use crate::{Control, ControlEvent};

/// IKE SAs of one connection that were rekeyed and still answer: more than an honest peer needs, who
/// deletes them at once.
const MAX_REPLACED: usize = 8;

impl Control {
    /// Sets when an IKE SA is to be rekeyed, by whom it is to be, and when it ends.
    pub(crate) fn start_lifetime(&mut self, now: Duration, id: SessionId) {
        let Some(index) = self.sessions.get(&id).and_then(|s| s.connection) else {
            return;
        };
        let role = self.role_of(index);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(established) = &session.established else {
            return;
        };
        let config = &self.connections[index].config;
        // One of the two starts rekeys where they have agreed on it: the client.
        let rekeys = role == Role::Client || !established.peer_caps.owns_rekeys;
        let age = config.lifetime.draw_rekey(&mut *self.rng);
        session.timers.rekey = age.filter(|_| rekeys).map(|age| now + age);
        session.timers.expires = config.lifetime.hard().map(|age| now + age);
    }

    /// Rekeys an IKE SA.
    pub(crate) fn rekey_session(&mut self, now: Duration, id: SessionId) {
        if let Some(Err(reason)) = self.with_ike(now, id, IkeSa::rekey) {
            debug!(%reason, "IKE SA not rekeyed");
        }
    }

    /// A rekey has made a successor, which has taken over the children.
    pub(crate) fn rekeyed(&mut self, now: Duration, id: SessionId, sa: IkeSa) {
        let Some(old) = self.sessions.get_mut(&id) else {
            return;
        };
        old.over = true;
        let timers = core::mem::take(&mut old.timers);
        let mut established = old.established.take();
        if let (Some(established), Some(suite)) = (&mut established, sa.suite()) {
            established.suite = suite;
        }
        let connection = old.connection;
        let (local, remote) = (old.local, old.remote);
        let (initiator, messages, seen) = (old.initiator, old.messages, old.seen);
        let wants = core::mem::take(&mut old.wants);

        let new = self.add_session(now, sa, connection, local, remote);
        if let Some(session) = self.sessions.get_mut(&new) {
            session.initiator = initiator;
            session.established = established;
            session.wants = wants;
            session.messages = messages;
            session.seen = seen;
            session.timers = Timers {
                rekey: None,
                expires: None,
                ..timers
            };
        }
        for at in self.tunnels_of(new) {
            let tunnel = &mut self.tunnels[at];
            let epochs = tunnel.epochs.values_mut();
            for epoch in epochs.filter(|epoch| epoch.session == Some(id)) {
                epoch.session = Some(new);
            }
            if let Some((session, _)) = &mut tunnel.requested
                && *session == id
            {
                *session = new;
            }
        }
        self.start_lifetime(now, new);
        self.dirty_sessions.insert(new);
        let Some(index) = connection else { return };
        let connection = &self.connections[index];
        let name = connection.name.clone();
        let gated = connection.config.gate.mode != GateMode::Off;
        let client = self.role_of(index) == Role::Client;
        info!(connection = name, "IKE SA rekeyed");
        if client && gated {
            // A NAT that keys IKE by its SPI has not seen this one yet.
            self.with_ike(now, new, IkeSa::check_liveness);
        }
        self.event(ControlEvent::IkeRekeyed { connection: name });
        self.drop_replaced(now, index);
    }

    /// One of two successors that nobody needs: it only has to be told so, or to be told.
    pub(crate) fn redundant(&mut self, now: Duration, id: SessionId, sa: IkeSa) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let connection = session.connection;
        let (local, remote) = (session.local, session.remote);
        let redundant = self.add_session(now, sa, connection, local, remote);
        if let Some(session) = self.sessions.get_mut(&redundant) {
            session.over = true;
        }
        self.dirty_sessions.insert(redundant);
    }

    /// A peer that rekeys and rekeys does not fill the memory.
    fn drop_replaced(&mut self, now: Duration, index: usize) {
        let mut replaced = self.sessions_of(index);
        replaced.retain(|id| self.sessions[id].over);
        let excess = replaced.len().saturating_sub(MAX_REPLACED);
        for id in replaced.into_iter().take(excess) {
            self.with_ike(now, id, IkeSa::abandon);
        }
    }

    /// The peer did not agree to a rekey of the IKE SA: again later, or a new one.
    pub(crate) fn rekey_failed(&mut self, now: Duration, id: SessionId, reason: Reason) {
        let Some(index) = self.sessions.get(&id).and_then(|s| s.connection) else {
            return;
        };
        let role = self.role_of(index);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let connection = &self.connections[index];
        let again = !matches!(
            reason,
            Reason::Refused(NotifyType::NO_ADDITIONAL_SAS | NotifyType::NO_PROPOSAL_CHOSEN)
        );
        if again || role == Role::Server {
            info!(connection = connection.name, %reason, "IKE SA not rekeyed: again later");
            session.timers.rekey = Some(now + REKEY_AGAIN);
        } else {
            info!(connection = connection.name, %reason, "IKE SA not rekeyed: a new one is made");
            self.reauthenticate(id);
        }
    }

    /// The peer was refused a rekey: our own comes at once instead.
    pub(crate) fn peer_wants_rekey(&mut self, now: Duration, id: SessionId, spi_in: Option<Spi>) {
        let Some(spi_in) = spi_in else {
            return self.rekey_session(now, id);
        };
        if let Some((at, epoch)) = self.find_epoch(id, spi_in) {
            self.rekey_due(now, at, epoch);
        }
    }

    /// An IKE SA was not replaced in time: whatever the peer says, it must not be used any longer.
    pub(crate) fn expired(&mut self, now: Duration, id: SessionId) {
        let Some(index) = self.sessions.get(&id).and_then(|s| s.connection) else {
            return;
        };
        let name = &self.connections[index].name;
        warn!(connection = name, "IKE SA expired before it was replaced");
        self.close_session(now, id);
    }
}
