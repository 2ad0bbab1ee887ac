//! IKE SAs: datagrams in, what comes of them out.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;

use mitregate_gate::Input;
use mitregate_ike::{Discard, IkeSa, Output as IkeOutput, Rejected, is_first, peek};
use tracing::{debug, info};

use crate::control::ctx;
use crate::path::KEEPALIVE;
use crate::session::{Session, SessionId, Timers};
use crate::stray::{Admission, Load, Source};
use crate::{Control, Datagram, Output};

/// In front of IKE on port 4500 (RFC 3948 §2.2).
const NON_ESP_MARKER: [u8; 4] = [0; 4];
const NAT_T_PORT: u16 = 4500;
/// From this part of the limit of half-open IKE SAs on, initiators are asked for a cookie.
const BUSY: usize = 4;
/// How long a half-open IKE SA keeps its place when another peer wants it.
const HALF_OPEN_GRACE: Duration = Duration::from_secs(1);
/// A new IKE SA that takes more than this many times the first wait of IKE's retransmissions is given up
/// for a fresh one: the responder may have restarted half-way, or a NAT may hold on to the old one.
pub const CONNECT_PATIENCE: u32 = 20;

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
            let id = self.callers.by_first(remote, header.spi_i);
            let session = id.and_then(|id| self.sessions.get(&id));
            id.filter(|_| session.is_some_and(|s| s.sa.is_first_request(&header, remote, message)))
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
                self.heard(id);
            }
            Some(Err(discard)) => {
                debug!(%remote, %discard, "IKE message discarded");
                if discard == Discard::NoSuchIkeSa {
                    self.disowned(now, id);
                }
            }
            None => {}
        }
    }

    /// Somebody who sees our requests says that the peer has forgotten their IKE SA. Where a tunnel waits for a
    /// rekey because its pings are lost, it waits no longer: a new IKE SA beside the old one harms nobody.
    fn disowned(&mut self, now: Duration, id: SessionId) {
        for at in self.tunnels_of(id) {
            if self.tunnels[at].lives_on(id) {
                self.gate(now, at, Input::RekeyFailed);
            }
        }
    }

    /// A message that belongs to no IKE SA: the first of a new one, or to be answered without keeping
    /// state, or nothing.
    fn stray(&mut self, now: Duration, local: SocketAddr, remote: SocketAddr, message: &[u8]) {
        if self.shut_down.is_some() {
            return;
        }
        let half_open = self.callers.half_open();
        let load = Load {
            busy: half_open >= self.strangers.half_open / BUSY,
            of_source: self.callers.of(Source::from(remote.ip())),
        };
        match self
            .doorman
            .admit(now, remote, message, load, &mut *self.rng)
        {
            Admission::Granted => {}
            Admission::Answer(cookie) => return self.transmit(local, remote, &cookie),
            Admission::Refused => return,
        }
        if half_open >= self.strangers.half_open && is_first(message) && !self.make_room(now) {
            debug!(%remote, half_open, "too many half-open IKE SAs");
            return;
        }
        let directory = Arc::clone(&self.directory);
        match IkeSa::respond(directory, local, remote, message, &mut ctx!(self, now)) {
            Ok(sa) => {
                let spi = sa.remote_spi();
                let id = self.add_session(now, sa, None, local, remote);
                self.callers.add(id, remote, spi);
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

    /// Drops a half-open IKE SA, if one has had its time. Honest peers take a round trip or two.
    fn make_room(&mut self, now: Duration) -> bool {
        let mut old = self
            .callers
            .dispensable()
            .into_iter()
            .flatten()
            .filter(|id| {
                let session = self.sessions.get(id);
                session.is_none_or(|s| s.started + HALF_OPEN_GRACE <= now)
            });
        let old = old.next();
        if let Some(id) = old {
            self.callers.settled(id);
            self.with_ike(now, id, IkeSa::abandon);
        }
        old.is_some()
    }

    pub(crate) fn add_session(
        &mut self,
        now: Duration,
        sa: IkeSa,
        connection: Option<usize>,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> SessionId {
        self.next_session += 1;
        let id = SessionId(self.next_session);
        self.of_connection
            .extend(connection.map(|index| (index, id)));
        self.by_spi.insert(sa.local_spi(), id);
        let session = Session {
            initiator: sa.is_initiator(),
            sa,
            connection,
            started: now,
            established: None,
            called_from: remote,
            local,
            remote,
            wants: BTreeSet::new(),
            timers: Timers::default(),
            messages: 0,
            seen: 0,
            over: false,
            logged_keys: None,
        };
        self.sessions.insert(id, session);
        id
    }

    pub(crate) fn transmit(&mut self, local: SocketAddr, remote: SocketAddr, message: &[u8]) {
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
        let own = self.own_addresses(&self.connections[index].config);
        let connection = &mut self.connections[index];
        let wants = core::mem::take(&mut connection.wants);
        let Some(first) = wants.first() else { return };
        let Some((local, remote)) = connection.next_ends(&own) else {
            connection.retry.failed(now, &mut *self.rng);
            return;
        };
        let first = self.tunnels[*first].child;
        // A session beside one that lives, or beside orphans, must not make the peer forget these.
        let alone = self.is_alone(index);
        let connection = &self.connections[index];
        let config = crate::directory::initiator_config(
            &connection.config,
            first,
            own,
            &connection.addresses.0,
            alone,
        );
        let patience = connection.config.retransmit.timeout * CONNECT_PATIENCE;
        let connection = &mut self.connections[index];
        let ticket = connection
            .ticket
            .take()
            .filter(|ticket| ticket.is_valid(now) && !connection.reauthenticates);
        let resumed = ticket.is_some();
        info!(connection = connection.name, resumed, "starting IKE SA");
        let mut cx = ctx!(self, now);
        let sa = match ticket {
            Some(ticket) => IkeSa::initiate_with_ticket(config, ticket, local, remote, &mut cx),
            None => IkeSa::initiate(config, local, remote, &mut cx),
        };
        let id = self.add_session(now, sa, Some(index), local, remote);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.wants = wants;
            session.timers.abandon = Some(now + patience);
        }
        self.dirty_sessions.insert(id);
    }

    pub(crate) fn drain_session(&mut self, now: Duration, id: SessionId) {
        self.log_ike_keys(id);
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
                IkeOutput::Established(established) => {
                    self.callers.settled(id);
                    self.established(now, id, established);
                }
                IkeOutput::ChildEstablished(child) => self.child_established(now, id, *child),
                IkeOutput::ChildDeleted { spi_in, by_peer } => {
                    if let Some((at, epoch)) = self.find_epoch(id, spi_in) {
                        if by_peer {
                            self.closed_by_peer(at, epoch);
                        }
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
                IkeOutput::Rekeyed(successor) => self.rekeyed(now, id, *successor),
                IkeOutput::Redundant(sa) => self.redundant(now, id, *sa),
                IkeOutput::RekeyFailed(reason) => self.rekey_failed(now, id, reason),
                IkeOutput::LivenessAnswered => self.heard(id),
                IkeOutput::ChildRedundant { spi_in } => {
                    if let Some((at, epoch)) = self.find_epoch(id, spi_in) {
                        self.gate(now, at, Input::Redundant { epoch });
                    }
                }
                IkeOutput::PeerWantsRekey { spi_in } => self.peer_wants_rekey(now, id, spi_in),
                IkeOutput::PeerMoved {
                    local,
                    remote,
                    encap,
                    nat,
                } => self.peer_moved(now, id, (local, remote), encap, nat),
                IkeOutput::MoveRefused => self.move_refused(now, id),
                IkeOutput::Failed(reason) => {
                    self.callers.settled(id);
                    self.failed(now, id, reason);
                }
                IkeOutput::Closed(reason) => self.closed(now, id, reason),
                IkeOutput::Dead => self.dead(now, id),
            }
        }
        if let Some(index) = self.sessions.get(&id).and_then(|s| s.connection) {
            self.dirty_connections.insert(index);
        }
    }
}
