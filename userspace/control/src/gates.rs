//! Tunnels: new children in, what the gates want out.

use core::time::Duration;
use std::sync::Arc;

use mitregate_esp::ids::EpochId;
use mitregate_esp::{InboundSa, OutboundSa, SaCounters};
use mitregate_gate::{
    GateEvent, GateMode, Input, Installed, Output as GateOutput, Proven, Role, State, UserPingEvent,
};
use mitregate_ike::{ChildSa, Encap, IkeSa, SpiAllocator};
use mitregate_wire::echo;
use mitregate_wire::esp::Spi;
use tracing::{debug, info, warn};

use crate::control::tunnel_id;
use crate::encap::{Ways, udp_ends};
use crate::icmp;
use crate::list::ms;
use crate::session::SessionId;
use crate::tunnel::{Connection, Epoch, Goal, Tunnel, outer};
use crate::{Control, ControlEvent, Follow, Install, Output, Ticket, UNLIMITED};

/// A rekey that was due and did not happen is due again after this time.
pub(crate) const REKEY_AGAIN: Duration = Duration::from_secs(10);
/// A session that was replaced is left this long to its children and to the peer's Delete.
const SUPERSEDED_GRACE: Duration = Duration::from_secs(5);

impl Control {
    pub(crate) fn child_established(&mut self, now: Duration, id: SessionId, child: ChildSa) {
        self.log_esp_keys(&child);
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let Some(index) = session.connection else {
            // Its peer is being sent away.
            return self.refuse_child(now, id, &child);
        };
        let Some(at) = self.tunnel_for(index, &child) else {
            return self.refuse_child(now, id, &child);
        };
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let established = session.established.as_ref();
        let caps = established.map(|e| e.peer_caps).unwrap_or_default();
        let ways = Ways {
            by_proof: caps.encap_by_proof,
            behind_nat: caps.probes_behind_nat,
            base: child.encap,
            udp: udp_ends(session.local, session.remote),
            doubtful: false,
        };
        let icmp = self.icmp_ends(id, at, &child);
        let ends = (session.local.ip(), session.remote.ip());
        let dark = ways.by_proof && self.connections[index].plain_esp.is_dark(ends);
        let encap = match ways.udp {
            Some(_) if dark => Encap::Udp,
            _ => child.encap,
        };
        let nat = established.is_some_and(|e| e.nat.local || e.nat.remote);
        // Where UDP is to be had, a lost ping moves the epoch there.
        let keyed_by_spi = nat && encap == Encap::Esp && !(ways.by_proof && ways.udp.is_some());
        let path = outer(encap, session.local, session.remote);
        let tunnel = &mut self.tunnels[at];
        tunnel.requested = None;
        self.connections[index].retry.reset();
        let client = tunnel.gate.config().role == Role::Client;
        if client && !tunnel.wanted {
            return self.refuse_child(now, id, &child);
        }
        self.next_epoch += 1;
        let epoch = EpochId(self.next_epoch);
        let replaces = child.replaces.and_then(|spi| tunnel.epoch_by_spi(spi));
        let config = &self.connections[index].config.children[tunnel.child];
        let rekeys = client || !caps.owns_rekeys;
        let lifetime = config.lifetime;
        let outbound = OutboundSa::new(child.spi_out, &child.key_out, self.provider, child.esn);
        let soft = lifetime.draw(outbound.remaining(), &mut *self.rng);
        let counters = Arc::new(SaCounters::default());
        let Some(id_of_tunnel) = tunnel_id(at) else {
            return;
        };
        let install = Install {
            tunnel: id_of_tunnel,
            epoch,
            inbound: InboundSa::new(
                child.spi_in,
                &child.key_in,
                self.provider,
                self.replay_window,
                child.esn,
            ),
            outbound,
            local_ts: child.local_ts.clone(),
            remote_ts: child.remote_ts.clone(),
            outer: path,
            soft_packets: if rekeys { soft.packets } else { UNLIMITED },
            soft_bytes: if rekeys { soft.bytes } else { UNLIMITED },
            tell_moves: (caps.esp_echo && !client)
                || !caps.esp_echo && self.connections[index].config.mobility.follow == Follow::Any,
            icmp_secret: icmp.map(|_| tunnel.icmp_secret),
            hard_packets: lifetime.life_packets,
            hard_bytes: lifetime.life_bytes,
            counters: Arc::clone(&counters),
        };
        tunnel.epochs.insert(
            epoch,
            Epoch {
                session: Some(id),
                spi_in: child.spi_in,
                spi_out: child.spi_out,
                cipher: child.suite,
                outer: path,
                ways,
                peer_echo: caps.esp_echo,
                local_ts: child.local_ts,
                remote_ts: child.remote_ts,
                icmp,
                counters,
                rekey_at: rekeys.then(|| now + soft.time),
                expires_at: now + lifetime.life_time,
                deleting: false,
                silent_from: None,
            },
        );
        debug!(
            tunnel = tunnel.name,
            %epoch,
            spi_in = %child.spi_in,
            spi_out = %child.spi_out,
            "CHILD_SA established"
        );
        self.outputs.push_back(Output::Install(Box::new(install)));
        let installed = Installed {
            epoch,
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            peer_echo: caps.esp_echo,
            keyed_by_spi,
            icmp: icmp.map(|ends| ends.target),
            initiated: child.initiator,
            redundant: child.redundant,
            replaces,
        };
        self.gate(now, at, Input::Installed(installed));
    }

    /// Where an epoch of this child can be asked by ICMP, if its gate does that.
    fn icmp_ends(&self, id: SessionId, at: usize, child: &ChildSa) -> Option<icmp::Ends> {
        let session = self.sessions.get(&id)?;
        let gate = self.tunnels[at].gate.config();
        let established = session.established.as_ref();
        let echo = established.is_some_and(|e| e.peer_caps.esp_echo);
        if !icmp::is_used(gate.mode) || echo && gate.mode.uses_echo() {
            return None;
        }
        let own = established.map_or(&[][..], |e| &e.local_assigned.addresses);
        let theirs = established.map_or(&[][..], |e| &e.remote_assigned.addresses);
        let targets = [&gate.icmp_targets, theirs].concat();
        let known = icmp::Known {
            targets: &targets,
            peer: session.remote.ip(),
            own,
        };
        icmp::choose(&child.local_ts, &child.remote_ts, known)
    }

    /// A child that is not, or no longer, wanted.
    fn refuse_child(&mut self, now: Duration, id: SessionId, child: &ChildSa) {
        self.with_ike(now, id, |sa, cx| sa.delete_child(child.spi_in, cx));
        self.spis.release(child.spi_in);
    }

    pub(crate) fn drain_gate(&mut self, now: Duration, at: usize) {
        let Some(tunnel) = tunnel_id(at) else { return };
        while let Some(output) = self.tunnels[at].gate.poll_output() {
            match output {
                GateOutput::SendEcho { epoch, payload } => {
                    let next_header = echo::NEXT_HEADER;
                    self.outputs.push_back(Output::SendInner {
                        tunnel,
                        epoch,
                        next_header,
                        via: None,
                        pad_to: 0,
                        payload,
                    });
                }
                GateOutput::SendIcmp {
                    epoch,
                    id,
                    seq,
                    size,
                } => {
                    let t = &self.tunnels[at];
                    let ends = t.epochs.get(&epoch).and_then(|e| e.icmp);
                    let secret = &t.icmp_secret;
                    let Some((next_header, payload)) =
                        ends.map(|ends| icmp::request(ends, id, seq, secret, size))
                    else {
                        continue;
                    };
                    self.outputs.push_back(Output::SendInner {
                        tunnel,
                        via: None,
                        pad_to: 0,
                        epoch,
                        next_header,
                        payload,
                    });
                }
                GateOutput::Activate(proven) => self.activate(now, at, proven),
                GateOutput::Hold { epoch } => {
                    info!(tunnel = self.tunnels[at].name, %epoch, "data waits: the NAT would take it for a reason to keep fresh SPIs out");
                    self.tunnels[at].data_waiting = true;
                    self.outputs.push_back(Output::Hold { tunnel });
                }
                GateOutput::Rekey { replaces, reason } => {
                    info!(tunnel = self.tunnels[at].name, ?reason, "rekeying");
                    let spi = self.tunnels[at].epochs.get(&replaces).map(|e| e.spi_in);
                    let asked = self
                        .session_of(at, replaces)
                        .zip(spi)
                        .and_then(|(id, spi)| {
                            self.with_ike(now, id, |sa, cx| sa.rekey_child(spi, cx))
                        });
                    if !matches!(asked, Some(Ok(()))) {
                        self.gate(now, at, Input::RekeyFailed);
                    }
                }
                GateOutput::NewIkeSession { reason } => {
                    let t = &self.tunnels[at];
                    if t.wanted && t.gate.config().role == Role::Client {
                        info!(tunnel = t.name, ?reason, "a new IKE SA is needed");
                        self.connections[t.connection].wants.insert(at);
                    }
                }
                GateOutput::Delete { epoch } => self.delete_epoch(now, at, epoch),
                GateOutput::Retire { epoch } => self.retire(now, at, epoch),
                GateOutput::Event(event) => {
                    match event {
                        GateEvent::PingLost { epoch, in_a_row } => {
                            self.ping_lost(now, at, epoch, in_a_row);
                        }
                        GateEvent::PingAnswered { epoch, .. } => {
                            self.ping_answered(now, at, epoch);
                        }
                        _ => {}
                    }
                    if let GateEvent::State {
                        epoch,
                        from: State::Suspect,
                        to: State::Proven,
                    } = event
                    {
                        self.show_ike(now, at, epoch);
                    }
                    if let GateEvent::PingAnswered { epoch, rtt } = event
                        && self.tunnels[at].gate.active() == Some(epoch)
                    {
                        self.path_alive(now, at, rtt);
                    }
                    self.gate_event(at, event);
                }
            }
        }
        self.follow_path(now, at);
        self.dirty_connections.insert(self.tunnels[at].connection);
    }

    fn activate(&mut self, now: Duration, at: usize, proven: Proven) {
        let Some(id) = tunnel_id(at) else { return };
        let epoch = proven.epoch();
        let tunnel = &mut self.tunnels[at];
        tunnel.retry.reset();
        tunnel.data_waiting = false;
        let (up, rest): (Vec<_>, Vec<_>) = core::mem::take(&mut tunnel.waiters)
            .into_iter()
            .partition(|(_, goal)| *goal == Goal::Up);
        tunnel.waiters = rest;
        info!(tunnel = tunnel.name, epoch = %proven.epoch(), proof = %proven.proof(), "tunnel is up");
        self.outputs
            .push_back(Output::Activate { tunnel: id, proven });
        self.consider_plain_esp(now, at, epoch);
        self.look_idle(now, at);
        for (ticket, _) in up {
            self.event(ControlEvent::Finished { ticket });
        }
    }

    /// Deletes an epoch at the peer, or just here if there is nobody to tell.
    pub(crate) fn delete_epoch(&mut self, now: Duration, at: usize, epoch: EpochId) {
        let Some(e) = self.tunnels[at].epochs.get_mut(&epoch) else {
            return;
        };
        e.deleting = true;
        let spi = e.spi_in;
        let asked = self
            .session_of(at, epoch)
            .and_then(|id| self.with_ike(now, id, |sa, cx| sa.delete_child(spi, cx)));
        if !matches!(asked, Some(Ok(()))) {
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

    fn retire(&mut self, now: Duration, at: usize, epoch: EpochId) {
        let Some(tunnel) = tunnel_id(at) else { return };
        let t = &mut self.tunnels[at];
        if let Some(gone) = t.epochs.remove(&epoch) {
            t.past.add(&gone.counters);
            self.spis.release(gone.spi_in);
        }
        self.outputs.push_back(Output::Retire { tunnel, epoch });
        if t.epochs.is_empty() {
            let (down, rest): (Vec<_>, Vec<_>) = core::mem::take(&mut t.waiters)
                .into_iter()
                .partition(|(_, goal)| *goal == Goal::Down);
            t.waiters = rest;
            for (ticket, _) in down {
                self.event(ControlEvent::Finished { ticket });
            }
            self.keep_leases(now, self.tunnels[at].connection);
        }
    }

    fn gate_event(&mut self, at: usize, event: GateEvent) {
        let tunnel = self.tunnels[at].name.as_str();
        match event {
            GateEvent::UserPing { token, event } => {
                self.event(ControlEvent::Ping {
                    ticket: Ticket(token),
                    event,
                });
                if let UserPingEvent::Done(_) = event {
                    self.event(ControlEvent::Finished {
                        ticket: Ticket(token),
                    });
                }
                return;
            }
            GateEvent::State {
                epoch,
                to: State::Suspect,
                ..
            } => {
                info!(tunnel, %epoch, "pings are lost");
            }
            GateEvent::State { epoch, from, to } => debug!(tunnel, %epoch, %from, %to, "epoch"),
            GateEvent::Optimistic { epoch } => {
                let why = self.why_unproven(at, epoch);
                warn!(tunnel, %epoch, "{why}: data flows on an unproven path");
            }
            GateEvent::Recovered { kind, outage } => {
                info!(tunnel, %kind, outage_ms = ms(outage, Duration::ZERO), "the path is proven again");
            }
            GateEvent::Acted(action) => debug!(tunnel, "{action}"),
            GateEvent::PingAnswered { .. }
            | GateEvent::PingLost { .. }
            | GateEvent::EchoRefused { .. } => {}
        }
        if let Some(tunnel) = tunnel_id(at) {
            self.event(ControlEvent::Gate { tunnel, event });
        }
    }

    /// Why nothing proves the path of an epoch that carries data.
    fn why_unproven(&self, at: usize, epoch: EpochId) -> String {
        let tunnel = &self.tunnels[at];
        let ends = tunnel.epochs.get(&epoch).and_then(|e| e.icmp);
        match (tunnel.gate.config().mode, ends) {
            (GateMode::Off, _) => "the gate is off".to_owned(),
            (_, Some(ends)) => format!("{} does not answer our ICMP echo", ends.target),
            (GateMode::Icmp, None) => "the selectors let no ICMP echo pass".to_owned(),
            (_, None) => "the peer does not answer ESP Echo".to_owned(),
        }
    }

    pub(crate) fn rekey_due(&mut self, now: Duration, at: usize, epoch: EpochId) {
        if let Some(e) = self.tunnels[at].epochs.get_mut(&epoch)
            && e.rekey_at.is_some()
        {
            e.rekey_at = Some(now + REKEY_AGAIN);
            self.gate(now, at, Input::RekeyDue { epoch });
        }
    }

    pub(crate) fn tunnel_timeout(&mut self, now: Duration, at: usize) {
        if self.tunnels[at]
            .gate
            .poll_timeout()
            .is_some_and(|t| t <= now)
        {
            let activity = self.tunnels[at].activity();
            self.gate(now, at, Input::Activity(activity));
            self.tunnels[at].gate.handle_timeout(now, &mut *self.rng);
        }
        self.path_timeout(now, at);
        let epochs = self.tunnels[at].epochs.iter();
        let due: Vec<_> = epochs
            .map(|(id, e)| {
                (
                    *id,
                    e.rekey_at.is_some_and(|t| t <= now),
                    e.expires_at <= now,
                    e.silent_from.is_some_and(|(t, _)| t <= now),
                )
            })
            .filter(|(_, rekey, expired, silent)| *rekey || *expired || *silent)
            .collect();
        for (epoch, rekey, expired, silent) in due {
            if silent && self.orphan_silent(now, at, epoch) {
                info!(tunnel = self.tunnels[at].name, %epoch, "its peer is dead and silent: removed");
                self.tell_deleted(now, at, epoch);
                continue;
            }
            if expired {
                self.epoch_expired(now, at, epoch);
            } else if rekey {
                self.rekey_due(now, at, epoch);
            }
        }
        self.encap_timeout(now, at);
        self.look_idle(now, at);
    }

    /// An epoch has reached a hard limit. Whatever the peer says: it must not be used any longer.
    pub(crate) fn epoch_expired(&mut self, now: Duration, at: usize, epoch: EpochId) {
        let tunnel = &self.tunnels[at];
        if tunnel.epochs.contains_key(&epoch) {
            warn!(tunnel = tunnel.name, %epoch, "epoch expired before it was replaced");
            self.tell_deleted(now, at, epoch);
        }
    }

    /// Removes an epoch here and now, and tells the peer.
    pub(crate) fn tell_deleted(&mut self, now: Duration, at: usize, epoch: EpochId) {
        if let Some(spi) = self.tunnels[at].epochs.get(&epoch).map(|e| e.spi_in)
            && let Some(id) = self.session_of(at, epoch)
        {
            self.with_ike(now, id, |sa, cx| sa.delete_child(spi, cx));
        }
        self.gate(
            now,
            at,
            Input::Deleted {
                epoch,
                by_peer: false,
            },
        );
    }

    /// The worker has not taken an epoch: the peer must not think that it has a tunnel.
    pub(crate) fn not_installed(&mut self, now: Duration, at: usize, epoch: EpochId, reason: &str) {
        let tunnel = &mut self.tunnels[at];
        if !tunnel.epochs.contains_key(&epoch) {
            return;
        }
        warn!(tunnel = tunnel.name, %epoch, reason, "the worker does not take the epoch: deleting it");
        tunnel.retry.failed(now, &mut *self.rng);
        self.fail_waiters(at, &format!("the worker does not take the epoch: {reason}"));
        self.tell_deleted(now, at, epoch);
    }

    pub(crate) fn find_epoch(&self, id: SessionId, spi_in: Spi) -> Option<(usize, EpochId)> {
        self.tunnels_of(id).into_iter().find_map(|at| {
            let tunnel = &self.tunnels[at];
            let epoch = tunnel.epoch_by_spi(spi_in)?;
            (tunnel.epochs.get(&epoch)?.session == Some(id)).then_some((at, epoch))
        })
    }

    /// When a connection is next to be looked at.
    pub(crate) fn connection_timeout(
        &self,
        index: usize,
        connection: &Connection,
    ) -> Option<Duration> {
        if self.shut_down.is_some() {
            return None;
        }
        let start = (!connection.wants.is_empty()).then(|| connection.retry.at());
        let missing = connection.tunnels.iter().filter_map(|at| {
            let tunnel = &self.tunnels[*at];
            if !tunnel.wanted || tunnel.is_live() || connection.wants.contains(at) {
                return None;
            }
            match tunnel.requested {
                Some((_, deadline)) => Some(deadline),
                None => Some(tunnel.retry.at()),
            }
        });
        // What a session that is connecting will bring needs no timer.
        let sessions = self.sessions_of(index);
        let connecting = sessions.iter().any(|id| self.sessions[id].is_connecting());
        start
            .into_iter()
            .chain(missing)
            .filter(|_| !connecting)
            .min()
    }

    /// Brings up what is wanted and not there, and ends sessions that others have replaced.
    pub(crate) fn maintain(&mut self, now: Duration, index: usize) {
        if self.shut_down.is_some() {
            return;
        }
        let of_connection = self.sessions_of(index);
        let usable: Vec<_> = of_connection
            .iter()
            .copied()
            .filter(|id| self.sessions[id].is_usable())
            .collect();
        let connecting = of_connection
            .iter()
            .copied()
            .find(|id| self.sessions[id].is_connecting());

        for n in 0..self.connections[index].tunnels.len() {
            let at = self.connections[index].tunnels[n];
            let patience = self.patience(at);
            let tunnel = &mut self.tunnels[at];
            if !tunnel.wanted || tunnel.is_live() {
                continue;
            }
            match tunnel.requested {
                Some((_, deadline)) if deadline > now => continue,
                Some((session, _)) => {
                    // Asked, and no answer: a new session beside it.
                    tunnel.requested = Some((session, now + patience));
                    self.connections[index].wants.insert(at);
                }
                None if !tunnel.retry.may(now) => {}
                None => match usable.last() {
                    Some(id) if connecting.is_none() => self.request_child(now, *id, at),
                    _ => _ = self.connections[index].wants.insert(at),
                },
            }
        }
        if let Some(id) = connecting {
            let wants = core::mem::take(&mut self.connections[index].wants);
            if let Some(session) = self.sessions.get_mut(&id) {
                session.wants.extend(wants);
            }
        } else if self.connections[index].retry.may(now) {
            self.start_session(now, index);
        }
        self.end_superseded(now, index, &usable);
    }

    /// A session that no epoch needs goes, once another one of the connection has them.
    fn end_superseded(&mut self, now: Duration, index: usize, usable: &[SessionId]) {
        let tunnels = self.connections[index].tunnels.clone();
        let lives: Vec<_> = usable
            .iter()
            .map(|id| tunnels.iter().any(|at| self.tunnels[*at].lives_on(*id)))
            .collect();
        let replaced = lives.contains(&true);
        for (id, lives) in usable.iter().zip(lives) {
            let needed = |t: &Tunnel| {
                let asked = t.requested.is_some_and(|(of, _)| of == *id);
                let mut epochs = t.epochs.values();
                let drains = epochs.any(|e| e.session == Some(*id) && !e.deleting);
                // A client waits until all is drained; a server may wait for a client that restarted.
                asked || (drains && t.gate.config().role == Role::Client)
            };
            let needed = tunnels.iter().any(|at| needed(&self.tunnels[*at]));
            let Some(session) = self.sessions.get_mut(id) else {
                continue;
            };
            if replaced && !lives && !needed {
                session
                    .timers
                    .superseded
                    .get_or_insert(now + SUPERSEDED_GRACE);
            } else {
                session.timers.superseded = None;
            }
        }
    }

    pub(crate) fn check_shut_down(&mut self, now: Duration) {
        let Some(deadline) = self.shut_down else {
            return;
        };
        if deadline == Duration::MAX {
            return;
        }
        if deadline <= now {
            for id in self.sessions.keys().copied().collect::<Vec<_>>() {
                self.with_ike(now, id, IkeSa::abandon);
                self.dirty_sessions.remove(&id);
                self.drain_session(now, id);
            }
        }
        if self.sessions.values().all(|s| s.over) {
            for at in self.tunnels.keys() {
                for epoch in self.tunnels[at].epochs.keys().copied().collect::<Vec<_>>() {
                    self.gate(
                        now,
                        at,
                        Input::Deleted {
                            epoch,
                            by_peer: false,
                        },
                    );
                }
                self.drain_gate(now, at);
            }
            // Over: said once.
            self.shut_down = Some(Duration::MAX);
            self.event(ControlEvent::ShutDown);
        }
    }
}
