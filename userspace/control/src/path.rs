//! The ways to the peers: addresses that change, ours and theirs, and NATs whose mappings have to be
//! kept (gate.md's G7 and G9; RFC 4555, RFC 7296 §2.23, RFC 3948 §4).

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::sync::Arc;

use mitregate_esp::ids::EpochId;
use mitregate_gate::{Input, Role};
use mitregate_ike::{Encap, IkeSa, Nat};
use tracing::{debug, info};

use crate::directory::Responders;
use crate::encap::udp_ends;
use crate::session::SessionId;
use crate::tunnel::outer;
use crate::{ConnectionConfig, Control, Follow, Output};

/// RFC 3948 §2.3.
pub(crate) const KEEPALIVE: [u8; 1] = [0xff];
/// Keepalives are so many times rarer for a mapping that only IKE uses: its client starts all exchanges but
/// those of a server that gives up, and each opens the mapping anew.
const APART: u32 = 4;
/// A peer is followed to a new address no more often than this.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// What came from another address than the one where an epoch's packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    Ping,
    AnyPacket,
}

impl Control {
    /// IKE goes another way from now on, and all its children with it.
    pub(crate) fn peer_moved(
        &mut self,
        now: Duration,
        id: SessionId,
        (local, remote): (SocketAddr, SocketAddr),
        encap: Encap,
        nat: Nat,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        debug!(from = %session.remote, to = %remote, at = %local, ?encap, "the way to a peer changed");
        session.local = local;
        session.remote = remote;
        if let Some(established) = &mut session.established {
            established.local = local;
            established.remote = remote;
            established.encap = encap;
            established.nat = nat;
        }
        for at in self.tunnels_of(id) {
            let tunnel = &self.tunnels[at];
            let epochs = tunnel.epochs.iter();
            let of_session: Vec<_> = epochs
                .filter(|(_, e)| e.session == Some(id))
                .map(|(id, _)| *id)
                .collect();
            let client = tunnel.gate.config().role == Role::Client;
            let mut moved = false;
            for epoch in of_session {
                moved |= self.move_with_ike(at, epoch, encap, local, remote);
            }
            let active = self.tunnels[at].gate.active();
            if let Some(epoch) = active.filter(|_| moved) {
                self.consider_plain_esp(now, at, epoch);
            }
            // The new way has to be proven, and the ping shows the server where we are.
            if moved && client {
                self.gate(now, at, Input::PathChanged);
            }
        }
        self.restart_keepalive(now, id);
    }

    /// The peer does not take the addresses that we would move to: a new IKE SA from there may do.
    pub(crate) fn move_refused(&mut self, now: Duration, id: SessionId) {
        info!("the peer refuses our new addresses: a new IKE SA is needed");
        self.replace_session(now, id);
    }

    /// A new IKE SA beside one that has no way on (gate.md's G4).
    fn replace_session(&mut self, _now: Duration, id: SessionId) {
        if let Some(index) = self.sessions.get(&id).and_then(|s| s.connection) {
            self.connections[index].retry.reset();
        }
        self.reauthenticate(id);
    }

    /// An epoch goes where its IKE SA goes. Between the same addresses as before, what a ping has said of
    /// protocol 50 still holds.
    fn move_with_ike(
        &mut self,
        at: usize,
        epoch: EpochId,
        encap: Encap,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> bool {
        let Some(e) = self.tunnels[at].epochs.get_mut(&epoch) else {
            return false;
        };
        let ends = (e.outer.local.ip(), e.outer.remote.ip());
        let here = ends == (local.ip(), remote.ip()) && e.ways.base == encap;
        let before = e.ways.udp;
        e.ways.base = encap;
        e.ways.udp = udp_ends(local, remote);
        let shown = e.ways.udp != before;
        let encap = if e.ways.by_proof && here {
            e.outer.encap
        } else {
            e.ways.doubtful = false;
            encap
        };
        self.move_epoch(at, epoch, encap, local, remote) || shown
    }

    /// Changes where an epoch's packets go. Whether that was a change.
    pub(crate) fn move_epoch(
        &mut self,
        at: usize,
        epoch: EpochId,
        encap: Encap,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> bool {
        let Some(tunnel) = crate::control::tunnel_id(at) else {
            return false;
        };
        let Some(e) = self.tunnels[at].epochs.get_mut(&epoch) else {
            return false;
        };
        let moved = outer(encap, local, remote);
        if moved == e.outer {
            return false;
        }
        if encap == Encap::Udp {
            e.ways.udp = Some((local, remote));
        }
        e.outer = moved;
        self.outputs.push_back(Output::MovePeer {
            tunnel,
            epoch,
            outer: moved,
        });
        self.dirty_tunnels.insert(at);
        true
    }

    /// An authenticated packet with a new highest sequence number from a new address moves where
    /// this tunnel's ESP goes (RFC 7296 §2.23, gate.md's G7).
    pub(crate) fn follow(
        &mut self,
        now: Duration,
        at: usize,
        epoch: EpochId,
        (local, remote): (SocketAddr, SocketAddr),
        sign: Sign,
    ) {
        let tunnel = &self.tunnels[at];
        let Some(e) = tunnel.epochs.get(&epoch) else {
            return;
        };
        let in_udp = remote.port() != 0;
        let other_form = in_udp != (e.outer.encap == Encap::Udp);
        if other_form {
            let client = tunnel.gate.config().role == Role::Client;
            if sign == Sign::Ping && e.ways.by_proof && !client {
                let follows = !self.is_behind_nat(at, epoch);
                self.peer_changed(now, at, epoch, (local, remote), follows);
            }
            // What came by the other form shows no port for this one's packets to go to.
            return;
        }
        let encap = e.outer.encap;
        let from = e.outer.remote;
        if outer(encap, local, remote).remote == from {
            return;
        }
        let session = e.session.filter(|id| self.sessions.contains_key(id));
        let established = session
            .and_then(|id| self.sessions.get(&id))
            .and_then(|s| s.established.as_ref());
        let nat = established.map(|e| e.nat).unwrap_or_default();
        let pings = established.is_some_and(|e| e.peer_caps.esp_echo);
        let mobility = &self.connections[tunnel.connection].config.mobility;
        let client = tunnel.gate.config().role == Role::Client;
        // A server follows its client; a client only a standard peer that is behind a NAT itself.
        let follows = !client || (nat.remote && !pings);
        let shown = sign == Sign::Ping || (!pings && mobility.follow == Follow::Any);
        let lately = tunnel.moved.is_some_and(|t| now < t + FOLLOW_EVERY);
        // Where its client's data comes from, a gateway asks before the client has noticed anything.
        if sign == Sign::AnyPacket && pings && !client {
            if !nat.local || mobility.follow_behind_nat {
                self.ask_address(now, at, epoch, outer(encap, local, remote));
            }
            return;
        }
        if !follows || !shown || lately {
            return;
        }
        if nat.local {
            // Our own NAT may well be the reason: ask there first.
            if !mobility.follow_behind_nat {
                return;
            }
            self.tunnels[at].moved = Some(now);
            match session {
                Some(id) if in_udp => {
                    self.with_ike(now, id, |sa, cx| sa.try_address(local, remote, cx));
                }
                _ if pings => self.ask_address(now, at, epoch, outer(encap, local, remote)),
                _ => {}
            }
            return;
        }
        debug!(%from, to = %remote, %epoch, ?sign, "peer moved");
        self.tunnels[at].moved = Some(now);
        self.tunnels[at].encap.forget_address();
        self.move_alike(at, encap, local, remote);
        if let (true, Some(id)) = (in_udp, session) {
            self.with_ike(now, id, |sa, _| sa.follow_esp(local, remote, now));
        }
    }

    /// All epochs of a tunnel with this encapsulation go to the same place.
    pub(crate) fn move_alike(
        &mut self,
        at: usize,
        encap: Encap,
        local: SocketAddr,
        remote: SocketAddr,
    ) {
        let epochs = self.tunnels[at].epochs.iter();
        let alike: Vec<_> = epochs
            .filter(|(_, e)| e.outer.encap == encap)
            .map(|(id, _)| *id)
            .collect();
        for epoch in alike {
            self.move_epoch(at, epoch, encap, local, remote);
        }
    }

    /// Whether IKE has found a NAT before us.
    fn is_behind_nat(&self, at: usize, epoch: EpochId) -> bool {
        let session = self.tunnels[at].epochs.get(&epoch).and_then(|e| e.session);
        let session = session.and_then(|id| self.sessions.get(&id));
        let established = session.and_then(|session| session.established.as_ref());
        established.is_some_and(|established| established.nat.local)
    }

    /// Pings every tunnel, and lets each client's IKE SA show itself too: behind a NAT that keeps
    /// apart what is ESP and what is UDP, a ping does not move IKE.
    pub(crate) fn path_changed(&mut self, now: Duration) {
        self.ping_all(now);
        for id in self.client_sessions() {
            self.with_ike(now, id, IkeSa::path_changed);
        }
    }

    fn ping_all(&mut self, now: Duration) {
        for at in self.tunnels.keys() {
            self.gate(now, at, Input::PathChanged);
        }
    }

    /// The IKE SA of a tunnel whose pings were lost for a while and are answered again: the NAT may
    /// have given IKE another mapping as well.
    pub(crate) fn show_ike(&mut self, now: Duration, at: usize, epoch: EpochId) {
        if self.tunnels[at].gate.config().role == Role::Client
            && let Some(id) = self.session_of(at, epoch)
        {
            self.with_ike(now, id, IkeSa::check_liveness);
        }
    }

    fn client_sessions(&self) -> Vec<SessionId> {
        let client = |index: usize| self.role_of(index) == Role::Client;
        self.sessions
            .iter()
            .filter(|(_, s)| s.is_usable() && s.connection.is_some_and(client))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Our addresses for a connection, best first: of those configured the ones that are there, if
    /// any is.
    pub(crate) fn own_addresses(&self, config: &ConnectionConfig) -> Vec<IpAddr> {
        let configured = &config.local_addrs;
        match &self.present {
            Some(present) if config.mobility.any_local => present.clone(),
            Some(present) if configured.iter().any(|ip| present.contains(ip)) => {
                let there = configured.iter().filter(|ip| present.contains(ip));
                there.copied().collect()
            }
            _ => configured.clone(),
        }
    }

    /// The outer interface has these addresses now, in the order of preference. What used others
    /// goes on from the first of its family: by MOBIKE, or with a new IKE SA.
    pub(crate) fn addresses_changed(&mut self, now: Duration, present: &[IpAddr]) {
        self.present = Some(present.to_vec());
        let connections = self.connections.values();
        let configs = connections
            .filter(|c| c.template.is_none())
            .map(|c| &*c.config);
        let own = |config: &ConnectionConfig| self.own_addresses(config);
        self.directory = Arc::new(Responders::new(configs, own, Arc::clone(&self.tickets)));
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.move_session(now, id, present);
        }
        self.ping_all(now);
    }

    fn move_session(&mut self, now: Duration, id: SessionId, present: &[IpAddr]) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let Some(index) = session.connection else {
            return;
        };
        let config = &self.connections[index].config;
        let own = self.own_addresses(config);
        let client = self.role_of(index) == Role::Client;
        let gone = !present.contains(&session.local.ip());
        if !own.iter().any(|ip| present.contains(ip)) || session.over {
            return;
        }
        if session.is_connecting() {
            if gone && session.initiator {
                self.restart_session(now, id, index);
            }
            return;
        }
        let goes_on = self.with_ike(now, id, |sa, cx| sa.set_local_addresses(&own, cx));
        if goes_on == Some(false) && gone && client {
            info!(
                connection = self.connections[index].name,
                "our address is gone, and the peer does no MOBIKE: a new IKE SA is needed"
            );
            self.replace_session(now, id);
        }
    }

    /// Gives up an IKE SA that is still connecting from an address that is gone, and starts anew.
    fn restart_session(&mut self, now: Duration, id: SessionId, index: usize) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.over = true;
            let wants = core::mem::take(&mut session.wants);
            self.connections[index].wants.extend(wants);
            self.connections[index].retry.reset();
        }
        self.with_ike(now, id, IkeSa::abandon);
        self.dirty_connections.insert(index);
    }

    /// Sends a keepalive, unless something else has kept the mapping meanwhile (RFC 3948 §4).
    pub(crate) fn keepalive(&mut self, now: Duration, id: SessionId) {
        let Some((session, every)) = self.keepalive_of(id) else {
            return;
        };
        let (local, remote) = (session.local, session.remote);
        let last = self.last_in_udp(id);
        if last + every > now {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.timers.keepalive = Some(last + every);
            }
            return;
        }
        self.outputs.push_back(Output::Transmit {
            local,
            remote,
            payload: KEEPALIVE.to_vec(),
        });
        self.restart_keepalive(now, id);
    }

    /// When ESP in UDP last left from an IKE SA's ports. Plain ESP keeps another mapping than IKE's.
    fn last_in_udp(&self, id: SessionId) -> Duration {
        let tunnels = self.tunnels_of(id);
        let epochs = tunnels
            .iter()
            .flat_map(|at| self.tunnels[*at].epochs.values());
        epochs
            .filter(|e| e.session == Some(id) && e.outer.encap == Encap::Udp)
            .map(|e| Duration::from_nanos(e.counters.last_out_ns.get()))
            .max()
            .unwrap_or_default()
    }

    /// A keepalive is due that long after the last packet, if we are behind a NAT.
    pub(crate) fn restart_keepalive(&mut self, now: Duration, id: SessionId) {
        let due = self.keepalive_of(id).map(|(_, every)| now + every);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.timers.keepalive = due;
        }
    }

    fn keepalive_of(&self, id: SessionId) -> Option<(&crate::session::Session, Duration)> {
        let session = self.sessions.get(&id)?;
        let mut every = self.connections[session.connection?].config.keepalive;
        let behind = session.established.as_ref()?.nat.local;
        if self.is_apart(id) {
            every *= APART;
        }
        (behind && !every.is_zero() && session.is_usable()).then_some((session, every))
    }

    /// Whether all ESP of an IKE SA goes another way through the NAT than IKE itself.
    fn is_apart(&self, id: SessionId) -> bool {
        let tunnels = self.tunnels_of(id);
        let epochs = tunnels
            .iter()
            .flat_map(|at| self.tunnels[*at].epochs.values());
        let mut ways = epochs
            .filter(|e| e.session == Some(id))
            .map(|e| e.outer.encap);
        ways.next() == Some(Encap::Esp) && ways.all(|encap| encap == Encap::Esp)
    }
}
