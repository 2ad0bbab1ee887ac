//! Tunnels that come up with the first packet, go when nobody needs them, or when their peer is dead.

use core::time::Duration;

use mitregate_esp::ids::EpochId;
use mitregate_gate::Role;
use tracing::{debug, info};

use crate::session::SessionId;
use crate::{Control, ControlEvent, StartAction};

/// A tunnel is looked at so many times within its time of inactivity.
const LOOKS: u32 = 4;
/// An orphan of a peer that is not waited for goes after this long in silence.
const ORPHAN_SILENCE: Duration = Duration::from_secs(60);

/// When data was last seen to have moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quiet {
    pub(crate) look_at: Duration,
    since: Duration,
    packets: u64,
}

impl Control {
    /// Data waits for an epoch: a trapped tunnel comes up.
    pub(crate) fn data_waits(&mut self, at: usize) {
        let tunnel = &mut self.tunnels[at];
        tunnel.data_waiting = true;
        if tunnel.trapped && !tunnel.wanted {
            info!(tunnel = tunnel.name, "a packet for it: bringing it up");
            tunnel.wanted = true;
            tunnel.retry.reset();
            self.dirty_connections.insert(tunnel.connection);
        }
    }

    /// What is to become of a tunnel that has gone down without our wish.
    pub(crate) fn act(&mut self, at: usize, action: StartAction) {
        let tunnel = &mut self.tunnels[at];
        match action {
            // As long as it is wanted it comes back.
            StartAction::Start => return,
            StartAction::Trap => tunnel.trapped = true,
            StartAction::None => tunnel.trapped = false,
        }
        debug!(tunnel = tunnel.name, ?action, "not brought up again");
        self.no_longer_wanted(at);
    }

    /// The peer deletes an epoch: `close_action`, if it was the last.
    pub(crate) fn closed_by_peer(&mut self, at: usize, epoch: EpochId) {
        let tunnel = &self.tunnels[at];
        let another = tunnel.live().any(|live| live != epoch);
        let was_live = tunnel.live().any(|live| live == epoch);
        if was_live && !another && tunnel.wanted {
            let config = &self.connections[tunnel.connection].config;
            let action = config.children[tunnel.child].close_action;
            self.act(at, action);
        }
    }

    /// An IKE SA has died of silence: `dpd_action` for what was on it. Its epochs are orphans by now.
    pub(crate) fn peer_died(&mut self, now: Duration, id: SessionId) {
        for at in self.tunnels_of(id) {
            let tunnel = &mut self.tunnels[at];
            let config = &self.connections[tunnel.connection].config;
            let action = config.children[tunnel.child].dpd_action;
            let server = tunnel.gate.config().role == Role::Server;
            // A server's peer comes back by itself.
            if !server && action == StartAction::Start {
                continue;
            }
            let mut orphaned = false;
            for epoch in tunnel.epochs.values_mut().filter(|e| e.session.is_none()) {
                orphaned = true;
                epoch
                    .silent_from
                    .get_or_insert((now + ORPHAN_SILENCE, epoch.counters.last_in_ns.get()));
            }
            if orphaned && !server {
                self.act(at, action);
            }
        }
    }

    /// Whether an orphan has been silent for its time; if not, it is looked at again.
    pub(crate) fn orphan_silent(&mut self, now: Duration, at: usize, epoch: EpochId) -> bool {
        let Some(epoch) = self.tunnels[at].epochs.get_mut(&epoch) else {
            return false;
        };
        let heard = epoch.counters.last_in_ns.get();
        match epoch.silent_from {
            Some((look_at, _)) if look_at > now => false,
            Some((_, before)) if before == heard => true,
            Some(_) => {
                epoch.silent_from = Some((now + ORPHAN_SILENCE, heard));
                false
            }
            None => false,
        }
    }

    /// Looks whether a tunnel has been without data for its time of inactivity.
    pub(crate) fn look_idle(&mut self, now: Duration, at: usize) {
        let tunnel = &mut self.tunnels[at];
        let config = &self.connections[tunnel.connection].config;
        let limit = config.children[tunnel.child].inactivity;
        if limit.is_zero() || tunnel.gate.active().is_none() {
            tunnel.quiet = None;
            return;
        }
        let totals = tunnel.totals();
        let packets = totals.packets_in.wrapping_add(totals.packets_out);
        let fresh = Quiet {
            look_at: now + limit / LOOKS,
            since: now,
            packets,
        };
        let quiet = tunnel.quiet.get_or_insert(fresh);
        if quiet.look_at > now {
            return;
        }
        if quiet.packets != packets {
            *quiet = fresh;
        } else if now < quiet.since + limit {
            quiet.look_at = fresh.look_at.min(quiet.since + limit);
        } else {
            tunnel.quiet = None;
            let name = &tunnel.name;
            info!(tunnel = name, "no data for its time of inactivity: deleted");
            self.no_longer_wanted(at);
            for epoch in self.tunnels[at].epochs.keys().copied().collect::<Vec<_>>() {
                self.tell_deleted(now, at, epoch);
            }
        }
    }

    /// Tells what virtual addresses a connection has from its peer, if that is not what was told before.
    /// While a tunnel of it is to come back, what it had stays: what is bound to them lives on.
    pub(crate) fn tell_addresses(&mut self, index: usize) {
        let connection = &self.connections[index];
        if connection.config.vips.is_empty() {
            return;
        }
        let mut addresses = Vec::new();
        let mut dns = Vec::new();
        for id in self.sessions_of(index) {
            let session = self.sessions.get(&id).filter(|s| !s.over);
            let Some(established) = session.and_then(|s| s.established.as_ref()) else {
                continue;
            };
            let assigned = &established.local_assigned;
            addresses.extend(&assigned.addresses);
            dns.extend(&assigned.dns);
        }
        for list in [&mut addresses, &mut dns] {
            let mut seen = std::collections::BTreeSet::new();
            list.retain(|address| seen.insert(*address));
        }
        let mut tunnels = connection.tunnels.iter();
        let comes_back = tunnels.any(|at| {
            let tunnel = &self.tunnels[*at];
            tunnel.wanted || !tunnel.epochs.is_empty()
        });
        let told = &connection.addresses;
        if (addresses.is_empty() && comes_back) || (&addresses, &dns) == (&told.0, &told.1) {
            return;
        }
        let name = connection.name.clone();
        self.connections[index].addresses = (addresses.clone(), dns.clone());
        self.event(ControlEvent::VirtualAddresses {
            connection: name,
            addresses,
            dns,
        });
    }
}
