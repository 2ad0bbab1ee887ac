//! IKE SAs from the day they are established to the last that is heard of them.

use core::time::Duration;

use mitregate_gate::{GateMode, Input, Role, State};
use mitregate_ike::{IkeSa, Reason};
use mitregate_wire::ike::NotifyType;
use tracing::{debug, info, warn};

use crate::session::{Session, SessionId, Timers};
use crate::tunnel::{Connection, Goal};
use crate::{Control, ControlEvent, Unique};

/// IKE SAs of one connection that have authenticated: more than are needed while one is replaced. Each may
/// have epochs that drain, so with many more a peer that is restarted again and again, or means no good,
/// fills the worker's tables.
const MAX_SESSIONS: usize = 8;
/// How long our Delete is repeated to a peer that does not answer.
pub(crate) const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
/// Longer than IKE repeats any request.
const WITHOUT_GATE: Duration = Duration::from_secs(24 * 3600);

impl Control {
    pub(crate) fn established(
        &mut self,
        now: Duration,
        id: SessionId,
        established: Box<mitregate_ike::Established>,
    ) {
        let known = self.sessions.get(&id).and_then(|s| s.connection);
        let welcome = match known {
            Some(index) => Some(Ok(index)),
            None => self.welcome(&established),
        };
        let index = match welcome {
            Some(Ok(index)) => index,
            Some(Err(why)) => return self.send_away(now, id, &established, &why),
            None => return,
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let config = &self.connections[index].config;
        session.connection = Some(index);
        self.of_connection.insert((index, id));
        session.local = established.local;
        session.remote = established.remote;
        session.timers.abandon = None;
        if !config.dpd_delay.is_zero() {
            session.timers.dpd = Some(now + config.dpd_delay);
        }
        if session.initiator && !config.auto_role {
            let reauth = config.lifetime.draw_reauth(&mut *self.rng);
            session.timers.reauth = reauth.map(|age| now + age);
        }
        let resumed = session.sa.is_resumed();
        let connection = &mut self.connections[index];
        connection.reauthenticates &= resumed;
        connection.ticket = session.sa.take_ticket().or(connection.ticket.take());
        self.pools
            .own(&established.remote_assigned.addresses, index);
        let connection = self.connections[index].name.clone();
        let peer_id = established.peer_id.to_string();
        info!(
            connection,
            peer_id,
            suite = %established.suite,
            nat_local = established.nat.local,
            nat_remote = established.nat.remote,
            esp_echo = established.peer_caps.esp_echo,
            resumed,
            "IKE SA established"
        );
        let childless = established.childless;
        let restarted = established.initial_contact;
        let asks = established.peer_caps.esp_echo;
        session.established = Some(established);
        let mut wants = core::mem::take(&mut session.wants);
        self.connections[index].last_failure = None;
        self.start_lifetime(now, id);
        self.restart_keepalive(now, id);
        self.event(ControlEvent::IkeEstablished {
            connection,
            peer_id,
        });
        // The first of them came with IKE_AUTH.
        let first = if childless { None } else { wants.pop_first() };
        self.decide_role(now, index);
        let gated = asks && self.connections[index].config.gate.mode.uses_echo();
        if restarted && !gated && self.connections[index].config.unique != Unique::Never {
            self.forget_others(now, index, id);
        }
        for at in wants {
            self.request_child(now, id, at);
        }
        if let Some(at) = first {
            self.tunnels[at].requested = Some((id, now + self.patience(at)));
        }
        self.drop_idle_sessions(now, index, id);
    }

    /// The peer says that it has nothing of what was there before (RFC 7296 §2.4). No ping will ever prove
    /// what it has made now, and until then data would go into the void: what was there goes at once.
    fn forget_others(&mut self, now: Duration, index: usize, newest: SessionId) {
        for other in self.sessions_of(index) {
            let session = self.sessions.get(&other);
            if other != newest && session.is_some_and(|s| s.established.is_some()) {
                self.with_ike(now, other, IkeSa::abandon);
            }
        }
        for at in self.connections[index].tunnels.clone() {
            let epochs = self.tunnels[at].epochs.iter();
            let orphans = epochs.filter(|(_, epoch)| epoch.session.is_none());
            for epoch in orphans.map(|(id, _)| *id).collect::<Vec<_>>() {
                let by_peer = true;
                self.gate(now, at, Input::Deleted { epoch, by_peer });
            }
        }
    }

    /// Whether nothing is there between the two identities of a connection (RFC 7296 §2.4): no IKE SA, and
    /// no orphan of one, also not of another connection.
    pub(crate) fn is_alone(&self, index: usize) -> bool {
        let config = &self.connections[index].config;
        let same = self.connections.iter().filter(|(_, other)| {
            other.config.local_id == config.local_id && other.config.remote_id == config.remote_id
        });
        let there = |(index, connection): (usize, &Connection)| {
            let sessions = self.sessions_of(index);
            let mut tunnels = connection.tunnels.iter();
            sessions.iter().any(|id| self.sessions[id].is_usable())
                || tunnels.any(|at| self.tunnels[*at].is_live())
        };
        !same.into_iter().any(there)
    }

    /// Makes room for the newest IKE SA of a connection: the oldest that carry no data go.
    fn drop_idle_sessions(&mut self, now: Duration, index: usize, newest: SessionId) {
        let mut of_connection = self.sessions_of(index);
        of_connection.retain(|id| self.sessions[id].is_usable());
        let excess = of_connection.len().saturating_sub(MAX_SESSIONS);
        let tunnels = &self.connections[index].tunnels;
        let carries = |id| tunnels.iter().any(|at| self.tunnels[*at].is_active_on(id));
        let idle: Vec<_> = of_connection
            .into_iter()
            .filter(|id| *id != newest && !carries(*id))
            .take(excess)
            .collect();
        for id in idle {
            let connection = &self.connections[index].name;
            info!(
                connection,
                "too many IKE SAs of one peer: the oldest that carries no data is dropped"
            );
            self.with_ike(now, id, IkeSa::abandon);
        }
    }

    /// Asks an established session for a child of this tunnel.
    pub(crate) fn request_child(&mut self, now: Duration, id: SessionId, at: usize) {
        let tunnel = &self.tunnels[at];
        let child = self.connections[tunnel.connection].config.children[tunnel.child]
            .name
            .clone();
        match self.with_ike(now, id, |sa, cx| sa.create_child(&child, cx)) {
            Some(Ok(())) => {
                self.tunnels[at].requested = Some((id, now + self.patience(at)));
            }
            _ => self.tunnels[at].retry.failed(now, &mut *self.rng),
        }
    }

    /// How long a request for a child may take before another session is asked as well.
    pub(crate) fn patience(&self, at: usize) -> Duration {
        let config = self.tunnels[at].gate.config();
        match config.mode {
            // IKE's retransmissions say when it is given up.
            GateMode::Off => WITHOUT_GATE,
            _ => config.rekey_patience * 2,
        }
    }

    pub(crate) fn child_failed(
        &mut self,
        now: Duration,
        id: SessionId,
        name: Option<&str>,
        replaces: Option<mitregate_wire::esp::Spi>,
        reason: Reason,
    ) {
        let Some(index) = self.sessions.get(&id).and_then(|s| s.connection) else {
            return;
        };
        let rekeyed = replaces
            .and_then(|spi| self.find_epoch(id, spi))
            .map(|(at, _)| at);
        let at = rekeyed.or_else(|| self.tunnel_of(index, name?));
        let name = at.map_or_else(
            || self.connections[index].name.clone(),
            |at| self.tunnels[at].name.clone(),
        );
        // Two ends that rekey or delete at the same moment refuse each other (RFC 7296 §2.25), and one of
        // them goes on: nothing to wake somebody for.
        let crossed = matches!(
            reason,
            Reason::DeletedByPeer
                | Reason::Refused(NotifyType::TEMPORARY_FAILURE | NotifyType::CHILD_SA_NOT_FOUND)
        );
        if crossed {
            info!(tunnel = name, %reason, "no CHILD_SA");
        } else {
            warn!(tunnel = name, %reason, "no CHILD_SA");
        }
        let session = self.sessions.get(&id).filter(|session| session.initiator);
        let without_address = matches!(
            reason,
            Reason::NoAddress
                | Reason::Refused(
                    NotifyType::INTERNAL_ADDRESS_FAILURE | NotifyType::FAILED_CP_REQUIRED
                )
        );
        if without_address && session.is_some_and(Session::is_usable) {
            // An address comes with IKE_AUTH only: another IKE SA may be luckier, later.
            self.connections[index].retry.failed(now, &mut *self.rng);
            self.close_session(now, id);
        }
        let Some(at) = at else { return };
        self.tunnels[at].requested = None;
        if rekeyed.is_some() {
            self.gate(now, at, Input::RekeyFailed);
        } else {
            self.gate(now, at, Input::SessionFailed);
            self.tunnels[at].retry.failed(now, &mut *self.rng);
            self.fail_waiters(at, &reason.to_string());
        }
    }

    /// The IKE SA never came to be.
    pub(crate) fn failed(&mut self, now: Duration, id: SessionId, reason: Reason) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.over = true;
        let wants = core::mem::take(&mut session.wants);
        let reason = match (reason, session.sa.certificate_error()) {
            (Reason::Certificate(_), Some(error)) => {
                format!("peer failed to authenticate: {error}")
            }
            _ => reason.to_string(),
        };
        let connection = session.connection.map(|index| {
            let connection = &mut self.connections[index];
            connection.retry.failed(now, &mut *self.rng);
            connection.ticket = session.sa.take_ticket().or(connection.ticket.take());
            // What the operator no longer wants is not tried again.
            connection
                .wants
                .extend(wants.iter().filter(|at| self.tunnels[**at].wanted));
            let name = connection.name.clone();
            let peer = connection.peer();
            // Said once; the attempts go on.
            if connection.last_failure.as_ref() == Some(&reason) {
                debug!(connection = name, peer, reason, "IKE SA failed again");
            } else {
                warn!(connection = name, peer, reason, "IKE SA failed");
                connection.last_failure = Some(reason.clone());
            }
            name
        });
        if connection.is_none() {
            debug!(remote = %session.remote, reason, "a peer's IKE SA failed");
        }
        for at in wants {
            self.fail_waiters(at, &reason);
        }
        self.event(ControlEvent::IkeDown { connection, reason });
    }

    /// An established IKE SA is over.
    pub(crate) fn closed(&mut self, now: Duration, id: SessionId, reason: Reason) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.over = true;
        session.timers = Timers::default();
        let index = session.connection;
        let connection = index.map(|i| self.connections[i].name.clone());
        info!(connection = connection.as_deref(), %reason, "IKE SA closed");
        for at in self.tunnels_of(id) {
            let requested = &mut self.tunnels[at].requested;
            if requested.take_if(|(of, _)| *of == id).is_some() {
                self.gate(now, at, Input::SessionFailed);
            }
        }
        if reason == Reason::Timeout {
            self.orphan(now, id);
            self.peer_died(now, id);
        }
        if let Some(index) = index {
            self.finish_terminations(index);
            self.keep_leases(now, index);
        }
        self.event(ControlEvent::IkeDown {
            connection,
            reason: reason.to_string(),
        });
    }

    /// Children of an IKE SA whose peer does not answer live on until replaced or expired; what was
    /// being deleted goes.
    fn orphan(&mut self, now: Duration, id: SessionId) {
        for at in self.tunnels_of(id) {
            let tunnel = &mut self.tunnels[at];
            let mut lives = false;
            let mut gone = Vec::new();
            for view in tunnel.gate.epochs() {
                let Some(epoch) = tunnel.epochs.get_mut(&view.epoch) else {
                    continue;
                };
                if epoch.session != Some(id) {
                    continue;
                }
                if view.state == State::Draining {
                    gone.push(view.epoch);
                } else {
                    epoch.session = None;
                    lives = true;
                }
            }
            for epoch in gone {
                self.gate(
                    now,
                    at,
                    Input::Deleted {
                        epoch,
                        by_peer: false,
                    },
                );
            }
            let tunnel = &self.tunnels[at];
            if lives && tunnel.wanted && tunnel.gate.config().role == Role::Client {
                self.connections[tunnel.connection].wants.insert(at);
            }
        }
    }

    /// The last that is heard of an IKE SA.
    pub(crate) fn dead(&mut self, now: Duration, id: SessionId) {
        let tunnels = self.tunnels_of(id);
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.by_spi.remove(&session.sa.local_spi());
        self.callers
            .remove(id, (session.called_from, session.sa.remote_spi()));
        for at in tunnels {
            let tunnel = &mut self.tunnels[at];
            tunnel.requested.take_if(|(of, _)| *of == id);
            let of_session = tunnel.epochs.iter().filter(|(_, e)| e.session == Some(id));
            for epoch in of_session.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.gate(
                    now,
                    at,
                    Input::Deleted {
                        epoch,
                        by_peer: false,
                    },
                );
            }
        }
        if let Some(index) = session.connection {
            self.of_connection.remove(&(index, id));
            self.dirty_connections.insert(index);
            self.finish_terminations(index);
            self.keep_leases(now, index);
            self.decide_role(now, index);
        }
    }

    /// The virtual addresses of a connection's peer wait for its return once nothing uses them any more:
    /// no IKE SA, and no orphan of one.
    pub(crate) fn keep_leases(&mut self, now: Duration, index: usize) {
        let connection = &self.connections[index];
        let mut tunnels = connection.tunnels.iter();
        if connection.config.pools.is_empty() || tunnels.any(|at| self.tunnels[*at].is_live()) {
            return;
        }
        let sessions = self.sessions_of(index);
        let kept: Vec<_> = sessions
            .iter()
            .filter_map(|id| self.sessions.get(id).filter(|session| !session.over))
            .filter_map(|session| session.established.as_ref())
            .flat_map(|e| e.remote_assigned.addresses.iter().copied())
            .collect();
        self.pools.at(now).disown(index, &kept);
    }

    /// Tells those who wait for a connection to go down that it is.
    pub(crate) fn finish_terminations(&mut self, index: usize) {
        let mut sessions = self.sessions_of(index).into_iter();
        if sessions.any(|id| self.sessions.get(&id).is_some_and(|s| !s.over)) {
            return;
        }
        let mut finished = Vec::new();
        self.terminations.retain(|ticket, connections| {
            if connections.remove(&index) && connections.is_empty() {
                finished.push(*ticket);
            }
            !connections.is_empty()
        });
        for ticket in finished {
            self.event(ControlEvent::Finished { ticket });
        }
    }

    /// Tells the peer that an IKE SA ends, and forgets it if the peer does not answer.
    pub(crate) fn close_session(&mut self, now: Duration, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.over || session.timers.abandon.is_some() {
            return;
        }
        let connecting = session.is_connecting();
        session.timers = Timers {
            abandon: Some(now + CLOSE_PATIENCE),
            ..Timers::default()
        };
        session.wants.clear();
        if connecting {
            self.with_ike(now, id, IkeSa::abandon);
        } else {
            self.with_ike(now, id, IkeSa::close);
        }
    }

    pub(crate) fn fail_waiters(&mut self, at: usize, reason: &str) {
        let (up, rest): (Vec<_>, Vec<_>) = core::mem::take(&mut self.tunnels[at].waiters)
            .into_iter()
            .partition(|(_, goal)| *goal == Goal::Up);
        self.tunnels[at].waiters = rest;
        for (ticket, _) in up {
            self.event(ControlEvent::Failed {
                ticket,
                reason: reason.to_owned(),
            });
        }
    }

    fn tunnel_of(&self, index: usize, child: &str) -> Option<usize> {
        let connection = &self.connections[index];
        let at = connection
            .config
            .children
            .iter()
            .position(|c| c.name == child)?;
        connection.tunnels.get(at).copied()
    }
}
