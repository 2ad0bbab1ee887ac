//! Which side of a tunnel is the client where both may start: the one behind a NAT; else the initiator of
//! the IKE SA, and of two that crossed, of the one without the lowest of the four nonces, as RFC 7296
//! §2.8.1 chooses. Both ends know all of this of every IKE SA that stands, so they come to the same. A
//! rekey of the IKE SA, by whomever, changes none of it.
//!
//! The client then decides as always: the IKE SA that carries the epoch which it proved stays, others go
//! once it is proven.

use core::time::Duration;

use mitregate_gate::Role;
use mitregate_ike::EncapMode;
use tracing::info;

use crate::Control;
use crate::session::Session;

/// Our side of the tunnel by one IKE SA; `None` if it says nothing. A side that forces UDP pretends to be
/// behind a NAT, so its peer takes it to be: it must do so itself.
fn by_itself(session: &Session, encap: EncapMode) -> Option<Role> {
    let established = session.established.as_ref()?;
    let caps = established.peer_caps;
    let here = established.nat.local || encap == EncapMode::Udp;
    let there = established.nat.remote;
    Some(if caps.esp_echo && !caps.owns_rekeys {
        // It is configured as a server.
        Role::Client
    } else if here != there {
        if here { Role::Client } else { Role::Server }
    } else if session.initiator {
        Role::Client
    } else {
        Role::Server
    })
}

impl Control {
    /// The side of the tunnels of a connection that is ours at present.
    pub(crate) fn role_of(&self, index: usize) -> Role {
        let connection = &self.connections[index];
        let first = connection.tunnels.first();
        first.map_or(connection.config.gate.role, |at| {
            self.tunnels[*at].gate.config().role
        })
    }

    /// Decides who is the client, by the IKE SAs that stand. Without any it stays what it was.
    pub(crate) fn decide_role(&mut self, now: Duration, index: usize) {
        if !self.connections[index].config.auto_role {
            return;
        }
        let sessions = self.sessions_of(index).into_iter();
        let usable = sessions
            .filter_map(|id| self.sessions.get(&id))
            .filter(|session| session.is_usable());
        let lowest = |session: &&Session| {
            let established = session.established.as_ref();
            established.map(|e| e.lowest_nonce.clone())
        };
        let encap = self.connections[index].config.encap;
        let decided = usable.max_by_key(lowest);
        let Some(role) = decided.and_then(|session| by_itself(session, encap)) else {
            return;
        };
        if self.role_of(index) != role {
            let connection = &self.connections[index].name;
            info!(connection, ?role, "role in the tunnel decided");
        }
        for at in self.connections[index].tunnels.clone() {
            let tunnel = &mut self.tunnels[at];
            tunnel.gate.set_role(now, role, &mut *self.rng);
            if role == Role::Client {
                let config = &self.connections[index].config.children[tunnel.child];
                // Rekeys of what was made before the role was known are ours from now on.
                for epoch in tunnel.epochs.values_mut() {
                    let soon = config.lifetime.rekey_time / 2;
                    epoch.rekey_at.get_or_insert(now + soon);
                }
            }
            self.dirty_tunnels.insert(at);
        }
        let lifetime = self.connections[index].config.lifetime;
        for id in self.sessions_of(index) {
            let Some(session) = self.sessions.get_mut(&id).filter(|s| s.is_usable()) else {
                continue;
            };
            let owns_rekeys = |s: &Session| {
                let established = s.established.as_ref();
                established.is_some_and(|e| e.peer_caps.owns_rekeys)
            };
            if role == Role::Server && owns_rekeys(session) {
                session.timers.rekey = None;
            }
            session.timers.reauth = match (role, session.timers.reauth) {
                (Role::Server, _) => None,
                (Role::Client, Some(at)) => Some(at),
                (Role::Client, None) => {
                    let age = lifetime.draw_reauth(&mut *self.rng);
                    age.map(|age| now + age)
                }
            };
        }
    }
}
