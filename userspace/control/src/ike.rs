//! IKE SAs: datagrams in, what comes of them out.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;

use mitregate_gate::{Input, Role, State};
use mitregate_ike::{IkeSa, Output as IkeOutput, Reason, Rejected, peek};
use tracing::{debug, info, warn};

use crate::control::ctx;
use crate::session::{Session, SessionId, Timers, take_due};
use crate::stray::Admission;
use crate::tunnel::{Goal, outer, unit};
use crate::{Control, ControlEvent, Datagram, Output};

/// In front of IKE on port 4500 (RFC 3948 §2.2).
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// RFC 3948 §2.3.
const KEEPALIVE: [u8; 1] = [0xff];
const NAT_T_PORT: u16 = 4500;
/// From this part of the limit of half-open IKE SAs on, initiators are asked for a cookie.
const BUSY: usize = 4;
/// A new IKE SA that takes more than this many times the first wait of IKE's retransmissions is given up
/// for a fresh one: the responder may have restarted half-way, or a NAT may hold on to the old one.
const CONNECT_PATIENCE: u32 = 20;
/// IKE SAs of one connection that have authenticated: more than are needed while one is replaced. Each may
/// have epochs that drain, so with many more a peer that is restarted again and again, or means no good,
/// fills the worker's tables.
const MAX_SESSIONS: usize = 8;
/// How long our Delete is repeated to a peer that does not answer.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

impl Control {
    /// Takes a datagram of UDP 500 or 4500.
    pub fn handle_datagram(&mut self, now: Duration, datagram: Datagram<'_>) {
        let Datagram {
            local,
            remote,
            payload,
        } = datagram;
        let message = if local.port() == NAT_T_PORT {
            match payload.strip_prefix(&NON_ESP_MARKER) {
                Some(message) => message,
                None => return,
            }
        } else {
            payload
        };
        if message == KEEPALIVE {
            return;
        }
        let Ok(header) = peek(message) else {
            debug!(%remote, "datagram too short for IKE");
            return;
        };
        let spi = header.receiver_spi();
        let id = if spi.is_zero() {
            let mut sessions = self.sessions.iter();
            sessions
                .find(|(_, s)| s.sa.is_first_request(&header, remote))
                .map(|(id, _)| *id)
        } else {
            self.by_spi.get(&spi).copied()
        };
        match id {
            Some(id) => self.message(now, id, local, remote, message),
            None => self.stray(now, local, remote, message),
        }
        self.settle(now);
    }

    fn message(
        &mut self,
        now: Duration,
        id: SessionId,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
    ) {
        let taken = self.with_ike(now, id, |sa, cx| {
            sa.handle_message(local, remote, message, cx)
        });
        match taken {
            Some(Ok(())) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.messages = session.messages.wrapping_add(1);
                }
            }
            Some(Err(discard)) => debug!(%remote, %discard, "IKE message discarded"),
            None => {}
        }
    }

    /// A message that belongs to no IKE SA: the first of a new one, or to be answered without keeping
    /// state, or nothing.
    fn stray(&mut self, now: Duration, local: SocketAddr, remote: SocketAddr, message: &[u8]) {
        if self.shut_down.is_some() {
            return;
        }
        let half_open = self
            .sessions
            .values()
            .filter(|s| !s.initiator && s.is_connecting())
            .count();
        let busy = half_open >= self.half_open_limit / BUSY;
        match self
            .doorman
            .admit(now, remote, message, busy, &mut *self.rng)
        {
            Admission::Granted => {}
            Admission::Answer(cookie) => return self.transmit(local, remote, &cookie),
            Admission::Refused => return,
        }
        if half_open >= self.half_open_limit {
            debug!(%remote, half_open, "too many half-open IKE SAs");
            return;
        }
        let directory = Arc::clone(&self.directory);
        match IkeSa::respond(directory, local, remote, message, &mut ctx!(self, now)) {
            Ok(sa) => {
                let id = self.add_session(now, sa, None, local, remote);
                self.dirty_sessions.insert(id);
            }
            Err(Rejected { reason, reply }) => {
                debug!(%remote, %reason, "IKE message rejected");
                if let Some(reply) = reply {
                    self.transmit(local, remote, &reply);
                }
            }
        }
    }

    fn add_session(
        &mut self,
        now: Duration,
        sa: IkeSa,
        connection: Option<usize>,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> SessionId {
        self.next_session += 1;
        let id = SessionId(self.next_session);
        self.by_spi.insert(sa.local_spi(), id);
        let session = Session {
            initiator: sa.is_initiator(),
            sa,
            connection,
            started: now,
            established: None,
            local,
            remote,
            wants: BTreeSet::new(),
            timers: Timers::default(),
            messages: 0,
            seen: 0,
            over: false,
        };
        self.sessions.insert(id, session);
        id
    }

    fn transmit(&mut self, local: SocketAddr, remote: SocketAddr, message: &[u8]) {
        let marker: &[u8] = if local.port() == NAT_T_PORT {
            &NON_ESP_MARKER
        } else {
            &[]
        };
        let payload = [marker, message].concat();
        self.outputs.push_back(Output::Transmit {
            local,
            remote,
            payload,
        });
    }

    /// Starts an IKE SA that brings up what the connection wants.
    pub(crate) fn start_session(&mut self, now: Duration, index: usize) {
        let connection = &mut self.connections[index];
        let wants = core::mem::take(&mut connection.wants);
        let Some(first) = wants.first() else { return };
        let Some((local, remote)) = connection.next_ends() else {
            connection.retry.failed(now, &mut *self.rng);
            return;
        };
        let first = self.tunnels[*first].child;
        let config = crate::directory::ike_config(&connection.config, first);
        info!(connection = connection.config.name, "starting IKE SA");
        let patience = connection.config.retransmit.timeout * CONNECT_PATIENCE;
        let sa = IkeSa::initiate(config, local, remote, &mut ctx!(self, now));
        let id = self.add_session(now, sa, Some(index), local, remote);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.wants = wants;
            session.timers.abandon = Some(now + patience);
        }
        self.dirty_sessions.insert(id);
    }

    pub(crate) fn drain_session(&mut self, now: Duration, id: SessionId) {
        while let Some(output) = self.sessions.get_mut(&id).and_then(|s| s.sa.poll_output()) {
            match output {
                IkeOutput::Transmit {
                    local,
                    remote,
                    message,
                } => {
                    self.transmit(local, remote, &message);
                    self.restart_keepalive(now, id);
                }
                IkeOutput::Established(established) => self.established(now, id, established),
                IkeOutput::ChildEstablished(child) => self.child_established(now, id, *child),
                IkeOutput::ChildDeleted { spi_in, by_peer } => {
                    if let Some((at, epoch)) = self.find_epoch(id, spi_in) {
                        self.gate(now, at, Input::Deleted { epoch, by_peer });
                    }
                }
                IkeOutput::ChildFailed {
                    name,
                    replaces,
                    reason,
                } => {
                    self.child_failed(now, id, name.as_deref(), replaces, reason);
                }
                IkeOutput::LivenessAnswered => {}
                IkeOutput::PeerMoved { local, remote } => self.peer_moved(id, local, remote),
                IkeOutput::Failed(reason) => self.failed(now, id, reason),
                IkeOutput::Closed(reason) => self.closed(now, id, reason),
                IkeOutput::Dead => self.dead(now, id),
            }
        }
        if let Some(index) = self.sessions.get(&id).and_then(|s| s.connection) {
            self.dirty_connections.insert(index);
        }
    }

    fn established(
        &mut self,
        now: Duration,
        id: SessionId,
        established: Box<mitregate_ike::Established>,
    ) {
        let position = self
            .connections
            .iter()
            .position(|c| c.config.name == established.name);
        let (Some(index), Some(session)) = (position, self.sessions.get_mut(&id)) else {
            return;
        };
        let config = &self.connections[index].config;
        session.connection = Some(index);
        session.local = established.local;
        session.remote = established.remote;
        session.timers.abandon = None;
        if !config.dpd_delay.is_zero() {
            session.timers.dpd = Some(now + config.dpd_delay);
        }
        if session.initiator && !config.reauth_time.is_zero() {
            let spread = 0.9 + 0.1 * unit(&mut *self.rng);
            session.timers.reauth = Some(now + config.reauth_time.mul_f64(spread));
        }
        self.pools
            .own(&established.remote_assigned.addresses, index);
        let connection = config.name.clone();
        let peer_id = established.peer_id.to_string();
        info!(
            connection,
            peer_id,
            suite = %established.suite,
            nat_local = established.nat.local,
            nat_remote = established.nat.remote,
            esp_echo = established.peer_caps.esp_echo,
            "IKE SA established"
        );
        session.established = Some(established);
        let mut wants = core::mem::take(&mut session.wants);
        self.connections[index].retry.reset();
        self.connections[index].last_failure = None;
        self.restart_keepalive(now, id);
        self.event(ControlEvent::IkeEstablished {
            connection,
            peer_id,
        });
        // The first of them came with IKE_AUTH.
        let first = wants.pop_first();
        for at in wants {
            self.request_child(now, id, at);
        }
        if let Some(at) = first {
            self.tunnels[at].requested = Some((id, now + self.patience(at)));
        }
        self.drop_idle_sessions(now, index, id);
    }

    /// Makes room for the newest IKE SA of a connection: the oldest that carry no data go.
    fn drop_idle_sessions(&mut self, now: Duration, index: usize, newest: SessionId) {
        let of_connection: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.connection == Some(index) && s.is_usable())
            .map(|(id, _)| *id)
            .collect();
        let excess = of_connection.len().saturating_sub(MAX_SESSIONS);
        let carries = |id| self.tunnels.iter().any(|t| t.is_active_on(id));
        let idle: Vec<_> = of_connection
            .into_iter()
            .filter(|id| *id != newest && !carries(*id))
            .take(excess)
            .collect();
        for id in idle {
            let connection = &self.connections[index].config.name;
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
        self.tunnels[at].gate.config().rekey_patience * 2
    }

    fn child_failed(
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
            || self.connections[index].config.name.clone(),
            |at| self.tunnels[at].name.clone(),
        );
        warn!(tunnel = name, %reason, "no CHILD_SA");
        let Some(at) = at else { return };
        self.tunnels[at].requested = None;
        if rekeyed.is_some() {
            self.gate(now, at, Input::RekeyFailed);
        } else {
            self.tunnels[at].retry.failed(now, &mut *self.rng);
            self.fail_waiters(at, &reason.to_string());
        }
    }

    fn peer_moved(&mut self, id: SessionId, local: SocketAddr, remote: SocketAddr) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        debug!(from = %session.remote, to = %remote, "IKE peer moved");
        session.local = local;
        session.remote = remote;
        for at in 0..self.tunnels.len() {
            let epochs = self.tunnels[at].epochs.iter();
            let of_session: Vec<_> = epochs
                .filter(|(_, e)| e.session == Some(id))
                .map(|(id, _)| *id)
                .collect();
            for epoch in of_session {
                self.move_peer(at, epoch, local, remote);
            }
        }
    }

    /// Changes where an epoch's packets go, if that is a change.
    pub(crate) fn move_peer(
        &mut self,
        at: usize,
        epoch: mitregate_esp::EpochId,
        local: SocketAddr,
        remote: SocketAddr,
    ) {
        let Some(tunnel) = crate::control::tunnel_id(at) else {
            return;
        };
        let Some(e) = self.tunnels[at].epochs.get_mut(&epoch) else {
            return;
        };
        let moved = outer(e.outer.encap, local, remote);
        if moved != e.outer {
            e.outer = moved;
            self.outputs.push_back(Output::MovePeer {
                tunnel,
                epoch,
                outer: moved,
            });
        }
    }

    /// The IKE SA never came to be.
    fn failed(&mut self, now: Duration, id: SessionId, reason: Reason) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.over = true;
        let wants = core::mem::take(&mut session.wants);
        let reason = reason.to_string();
        let connection = session.connection.map(|index| {
            let connection = &mut self.connections[index];
            connection.retry.failed(now, &mut *self.rng);
            // What the operator no longer wants is not tried again.
            connection
                .wants
                .extend(wants.iter().filter(|at| self.tunnels[**at].wanted));
            let name = connection.config.name.clone();
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
    fn closed(&mut self, now: Duration, id: SessionId, reason: Reason) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.over = true;
        session.timers = Timers::default();
        let index = session.connection;
        let connection = index.map(|i| self.connections[i].config.name.clone());
        info!(connection = connection.as_deref(), %reason, "IKE SA closed");
        for tunnel in &mut self.tunnels {
            tunnel.requested.take_if(|(of, _)| *of == id);
        }
        if reason == Reason::Timeout {
            self.orphan(now, id);
        }
        if let Some(index) = index {
            self.finish_terminations(index);
        }
        self.event(ControlEvent::IkeDown {
            connection,
            reason: reason.to_string(),
        });
    }

    /// Children of an IKE SA whose peer does not answer live on until replaced or expired; what was
    /// being deleted goes.
    fn orphan(&mut self, now: Duration, id: SessionId) {
        for at in 0..self.tunnels.len() {
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
    fn dead(&mut self, now: Duration, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.by_spi.remove(&session.sa.local_spi());
        for at in 0..self.tunnels.len() {
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
            self.dirty_connections.insert(index);
            self.finish_terminations(index);
            self.keep_leases(now, index);
        }
    }

    /// The virtual addresses of a connection's peer that no IKE SA has any more wait for its return.
    fn keep_leases(&mut self, now: Duration, index: usize) {
        let sessions = self.sessions.values();
        let kept: Vec<_> = sessions
            .filter(|s| s.connection == Some(index))
            .filter_map(|s| s.established.as_ref())
            .flat_map(|e| e.remote_assigned.addresses.iter().copied())
            .collect();
        self.pools.at(now).disown(index, &kept);
    }

    /// Tells those who wait for a connection to go down that it is.
    fn finish_terminations(&mut self, index: usize) {
        let mut sessions = self.sessions.values();
        if sessions.any(|s| s.connection == Some(index) && !s.over) {
            return;
        }
        for ticket in core::mem::take(&mut self.connections[index].waiters) {
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

    pub(crate) fn session_timeout(&mut self, now: Duration, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let ike = session.sa.poll_timeout().is_some_and(|t| t <= now);
        let timers = &mut session.timers;
        let abandon = take_due(&mut timers.abandon, now);
        let superseded = take_due(&mut timers.superseded, now);
        let reauth = take_due(&mut timers.reauth, now);
        let dpd = take_due(&mut timers.dpd, now);
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
        if reauth {
            self.reauthenticate(id);
        }
        if dpd {
            self.check_peer(now, id);
        }
        if keepalive && let Some(session) = self.sessions.get(&id) {
            let (local, remote) = (session.local, session.remote);
            let payload = KEEPALIVE.to_vec();
            self.outputs.push_back(Output::Transmit {
                local,
                remote,
                payload,
            });
            self.restart_keepalive(now, id);
        }
    }

    /// A keepalive is due that long after the last packet, if we are behind a NAT.
    fn restart_keepalive(&mut self, now: Duration, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let (Some(established), Some(index)) = (&session.established, session.connection) else {
            return;
        };
        let every = self.connections[index].config.keepalive;
        let wanted = established.nat.local && !every.is_zero() && session.is_usable();
        session.timers.keepalive = wanted.then(|| now + every);
    }

    /// Makes a new IKE SA, with all that this one has, before it goes.
    fn reauthenticate(&mut self, id: SessionId) {
        let Some(index) = self.sessions.get(&id).and_then(|s| s.connection) else {
            return;
        };
        let tunnels = self.connections[index].tunnels.clone();
        let lives = tunnels.into_iter().filter(|at| {
            let tunnel = &self.tunnels[*at];
            tunnel.wanted && tunnel.lives_on(id)
        });
        let lives: Vec<_> = lives.collect();
        self.connections[index].wants.extend(lives);
        self.dirty_connections.insert(index);
    }

    /// Asks a peer from which nothing has come for a while whether it is there.
    fn check_peer(&mut self, now: Duration, id: SessionId) {
        let epochs = self.tunnels.iter().flat_map(|t| t.epochs.values());
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
        if silent {
            self.with_ike(now, id, IkeSa::check_liveness);
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
