//! Many peers on one connection: each that authenticates to a template gets a connection of its own, with
//! tunnels of its own for what it negotiates. They go when nothing of the peer is left.

use core::time::Duration;
use std::sync::Arc;

use mitregate_ike::{ChildSa, Established};
use mitregate_wire::TrafficSelector;
use tracing::{info, warn};

use crate::control::tunnel_id;
use crate::icmp::Secret;
use crate::lifecycle::CLOSE_PATIENCE;
use crate::session::SessionId;
use crate::tunnel::{Connection, Tunnel};
use crate::{AddTunnel, Control, Output, Unique};

/// Tunnels of one peer of a template: it may ask for several, each with other selectors.
const MAX_TUNNELS: usize = 32;

/// Why a peer that has authenticated is sent away again.
pub(crate) enum Unwelcome {
    /// The limit.
    TooMany(usize),
    /// It has an IKE SA already: these.
    Known(Vec<SessionId>),
}

impl Control {
    /// The connection of a peer that has authenticated as a responder's: the one that names it, or its own
    /// of a template.
    pub(crate) fn welcome(
        &mut self,
        established: &Established,
    ) -> Option<Result<usize, Unwelcome>> {
        let named = |c: &Connection| c.template.is_none() && c.config.name == established.name;
        let named = self.connections.position(named)?;
        let config = Arc::clone(&self.connections[named].config);
        let own = if !config.is_template() {
            Some(named)
        } else if config.unique == Unique::Never {
            None
        } else {
            let of_peer = |c: &Connection| {
                let peer = c.peer.as_ref();
                c.template == Some(named) && peer.is_some_and(|id| id.is(&established.peer_id))
            };
            self.connections.position(of_peer)
        };
        if let Some(index) = own {
            let sessions = self.sessions_of(index);
            let there: Vec<_> = sessions
                .into_iter()
                .filter(|id| self.sessions[id].is_usable())
                .collect();
            // From where the other one is, it is the same peer, at work on its own IKE SAs.
            let elsewhere = |id: &SessionId| {
                let remote = self.sessions[id].remote;
                remote.ip() != established.remote.ip()
            };
            let refused = config.unique == Unique::Keep
                && !established.initial_contact
                && !there.is_empty()
                && there.iter().all(elsewhere);
            return Some(match refused {
                true => Err(Unwelcome::Known(there)),
                false => Ok(index),
            });
        }
        let of_template = |c: &&Connection| c.template == Some(named);
        let peers = self.connections.values().filter(of_template).count();
        if peers >= config.max_peers {
            return Some(Err(Unwelcome::TooMany(peers)));
        }
        let template = &mut self.connections[named];
        template.peers += 1;
        let name = format!("{}[{}]", config.name, template.peers);
        let mut connection = Connection::new(name, config);
        connection.template = Some(named);
        connection.peer = Some(established.peer_id.clone());
        Some(Ok(self.connections.push(connection)))
    }

    /// Ends the IKE SA of a peer that is not welcome.
    pub(crate) fn send_away(
        &mut self,
        now: Duration,
        id: SessionId,
        established: &Established,
        why: &Unwelcome,
    ) {
        let connection = established.name.as_str();
        let peer_id = established.peer_id.to_string();
        match why {
            Unwelcome::TooMany(peers) => warn!(
                connection,
                peer_id, peers, "no room for another peer: its IKE SA is closed; raise max_peers"
            ),
            Unwelcome::Known(there) => {
                info!(
                    connection,
                    peer_id, "the peer has an IKE SA already, which is kept: the new one is closed"
                );
                // If it has lost that one, this finds out.
                for known in there {
                    self.with_ike(now, *known, mitregate_ike::IkeSa::check_liveness);
                }
            }
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.timers.abandon = Some(now + CLOSE_PATIENCE);
            self.with_ike(now, id, mitregate_ike::IkeSa::close);
        }
    }

    /// The tunnel that a new child is an epoch of; `None` if there is none to be had.
    pub(crate) fn tunnel_for(&mut self, index: usize, child: &ChildSa) -> Option<usize> {
        let connection = &self.connections[index];
        let number = connection
            .config
            .children
            .iter()
            .position(|c| c.name == child.name)?;
        let of_child = |at: &&usize| self.tunnels[**at].child == number;
        let mut tunnels = connection.tunnels.iter().filter(of_child);
        if connection.template.is_none() {
            return tunnels.next().copied();
        }
        let replaced = child.replaces.and_then(|spi| {
            // A successor may be for other selectors, and those may be another peer's.
            let has = |at: &&usize| {
                let tunnel = &self.tunnels[**at];
                tunnel.epoch_by_spi(spi).is_some()
                    && within(&child.local_ts, &tunnel.local_ts)
                    && within(&child.remote_ts, &tunnel.remote_ts)
            };
            connection.tunnels.iter().find(has).copied()
        });
        let same = |at: &&usize| {
            let tunnel = &self.tunnels[**at];
            tunnel.local_ts == child.local_ts && tunnel.remote_ts == child.remote_ts
        };
        if let Some(at) = replaced.or_else(|| tunnels.find(same).copied()) {
            return Some(at);
        }
        let full = self.tunnels.len() >= self.tunnel_limit;
        if full || connection.tunnels.len() >= MAX_TUNNELS {
            let connection = &connection.name;
            warn!(connection, "a peer asks for too many tunnels: refused");
            return None;
        }
        // A connection's own tunnel counts where it was cut out of what is for everybody; one that is
        // wider, such as a way to the Internet, does not.
        let for_all = &connection.config.children[number].remote_ts;
        if let Some(other) = self.tunnels.values().find(|other| {
            other.connection != index
                && overlap(&other.local_ts, &child.local_ts)
                && overlap(&other.remote_ts, &child.remote_ts)
                && (self.connections[other.connection].template.is_some()
                    || within(&other.remote_ts, for_all))
        }) {
            warn!(
                connection = connection.name,
                other = other.name,
                "a peer asks for addresses that another one has: its tunnel is refused"
            );
            return None;
        }
        let twins = connection.tunnels.iter().filter(of_child).count();
        let mut name = format!("{}/{}", connection.name, child.name);
        if twins > 0 {
            name = format!("{name}.{}", twins + 1);
        }
        self.add_tunnel(
            index,
            number,
            name,
            child.local_ts.clone(),
            child.remote_ts.clone(),
        )
    }

    /// Takes a tunnel into the policy.
    pub(crate) fn add_tunnel(
        &mut self,
        index: usize,
        child: usize,
        name: String,
        local_ts: Vec<TrafficSelector>,
        remote_ts: Vec<TrafficSelector>,
    ) -> Option<usize> {
        let tunnel = tunnel_id(self.tunnels.next())?;
        self.outputs.push_back(Output::AddTunnel(AddTunnel {
            tunnel,
            name: name.clone(),
            local_ts: local_ts.clone(),
            remote_ts: remote_ts.clone(),
        }));
        let connection = &mut self.connections[index];
        let gate = connection.config.gate.clone();
        let mut secret = Secret::default();
        self.rng.fill_bytes(&mut secret);
        let tunnel = Tunnel::new(index, child, name, gate, secret, local_ts, remote_ts);
        let at = self.tunnels.push(tunnel);
        connection.tunnels.push(at);
        Some(at)
    }

    /// Removes what has ended of a template's peer: tunnels without an epoch, and the peer itself once no
    /// IKE SA is left. Says whether the peer has gone.
    pub(crate) fn tidy_peer(&mut self, now: Duration, index: usize) -> bool {
        if self.connections[index].template.is_none() {
            return false;
        }
        let tunnels = self.connections[index].tunnels.iter();
        let ended: Vec<_> = tunnels
            .copied()
            .filter(|at| self.tunnels[*at].epochs.is_empty())
            .collect();
        for at in ended {
            self.fail_waiters(at, "the peer has gone");
            self.tunnels.remove(at);
            self.dirty_tunnels.remove(&at);
            self.schedule.set(crate::schedule::Due::Tunnel(at), None);
            self.connections[index].tunnels.retain(|other| *other != at);
            if let Some(tunnel) = tunnel_id(at) {
                self.outputs.push_back(Output::RemoveTunnel { tunnel });
            }
        }
        let gone = self.connections[index].tunnels.is_empty() && self.sessions_of(index).is_empty();
        if gone {
            self.pools.at(now).disown(index, &[]);
            self.finish_terminations(index);
            self.connections.remove(index);
            self.schedule
                .set(crate::schedule::Due::Connection(index), None);
        }
        gone
    }
}

fn overlap(a: &[TrafficSelector], b: &[TrafficSelector]) -> bool {
    a.iter().any(|a| b.iter().any(|b| a.intersect(b).is_some()))
}

fn within(narrow: &[TrafficSelector], wide: &[TrafficSelector]) -> bool {
    narrow.iter().all(|n| wide.iter().any(|w| w.contains(n)))
}
