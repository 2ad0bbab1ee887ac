//! What an operator asks for.

use core::time::Duration;
use std::collections::BTreeSet;

use mitregate_gate::{Input, Role, UserPing};

use crate::session::Session;
use crate::tunnel::Goal;
use crate::{Command, CommandError, Control, ControlEvent, Ticket};

/// How long a shut-down waits for the peers' answers.
const SHUT_DOWN_PATIENCE: Duration = Duration::from_secs(2);

impl Control {
    /// Takes an operator's command; events about it carry the ticket.
    pub fn handle_command(
        &mut self,
        now: Duration,
        command: Command,
    ) -> Result<Ticket, CommandError> {
        if self.shut_down.is_some() {
            return Err(CommandError::ShuttingDown);
        }
        let ticket = match command {
            Command::Initiate { child } => self.initiate(&child)?,
            Command::TerminateChild { child } => self.terminate_child(now, &child)?,
            Command::TerminateIke { connection } => self.terminate_ike(now, &connection)?,
            Command::RekeyChild { child } => self.rekey_child_now(now, &child)?,
            Command::RekeyIke { connection } => self.rekey_ike_now(now, &connection)?,
            Command::Ping {
                tunnel,
                count,
                interval,
                size,
            } => {
                let at = self.tunnel_named(&tunnel)?;
                let ticket = self.ticket();
                let request = UserPing {
                    token: ticket.0,
                    count,
                    interval,
                    size,
                };
                self.gate(now, at, Input::UserPing(request));
                ticket
            }
            Command::StopPing { ticket } => {
                for at in self.tunnels.keys() {
                    self.gate(now, at, Input::UserPingStop { token: ticket.0 });
                }
                ticket
            }
            Command::PathChanged => {
                self.path_changed(now);
                let ticket = self.ticket();
                self.event(ControlEvent::Finished { ticket });
                ticket
            }
            Command::AddressesChanged { addresses } => {
                self.addresses_changed(now, &addresses);
                let ticket = self.ticket();
                self.event(ControlEvent::Finished { ticket });
                ticket
            }
            Command::ShutDown => {
                self.shut_down = Some(now + SHUT_DOWN_PATIENCE);
                for id in self.sessions.keys().copied().collect::<Vec<_>>() {
                    self.close_session(now, id);
                }
                self.ticket()
            }
        };
        self.settle(now);
        Ok(ticket)
    }

    fn initiate(&mut self, child: &str) -> Result<Ticket, CommandError> {
        let at = self.tunnel_named(child)?;
        let index = self.tunnels[at].connection;
        let connection = &mut self.connections[index];
        if connection.config.gate.role == Role::Server || connection.config.ends().is_none() {
            return Err(CommandError::NobodyToCall(connection.name.clone()));
        }
        // A person does not want to wait for the back-off.
        connection.retry.reset();
        let ticket = self.ticket();
        let tunnel = &mut self.tunnels[at];
        tunnel.retry.reset();
        tunnel.wanted = true;
        if tunnel.gate.active().is_some() {
            self.event(ControlEvent::Finished { ticket });
        } else {
            tunnel.waiters.push((ticket, Goal::Up));
        }
        self.dirty_connections.insert(index);
        Ok(ticket)
    }

    fn terminate_child(&mut self, now: Duration, child: &str) -> Result<Ticket, CommandError> {
        let at = self.tunnel_named(child)?;
        let ticket = self.ticket();
        self.no_longer_wanted(at);
        let epochs: Vec<_> = self.tunnels[at].epochs.keys().copied().collect();
        if epochs.is_empty() {
            self.event(ControlEvent::Finished { ticket });
            return Ok(ticket);
        }
        self.tunnels[at].waiters.push((ticket, Goal::Down));
        for epoch in epochs {
            self.tell_deleted(now, at, epoch);
        }
        Ok(ticket)
    }

    fn rekey_child_now(&mut self, now: Duration, child: &str) -> Result<Ticket, CommandError> {
        let at = self.tunnel_named(child)?;
        if let Some(epoch) = self.tunnels[at].gate.active() {
            self.gate(now, at, Input::RekeyDue { epoch });
        }
        let ticket = self.ticket();
        self.event(ControlEvent::Finished { ticket });
        Ok(ticket)
    }

    fn rekey_ike_now(&mut self, now: Duration, name: &str) -> Result<Ticket, CommandError> {
        for index in self.connections_named(name)? {
            for id in self.sessions_of(index) {
                if self.sessions.get(&id).is_some_and(Session::is_usable) {
                    self.rekey_session(now, id);
                }
            }
        }
        let ticket = self.ticket();
        self.event(ControlEvent::Finished { ticket });
        Ok(ticket)
    }

    /// A template's name, or a peer's, is that of all connections of it.
    fn connections_named(&self, name: &str) -> Result<Vec<usize>, CommandError> {
        let is_meant = |c: &crate::tunnel::Connection| {
            let peer = c.peer.as_ref().map(ToString::to_string);
            c.name == name || c.config.name == name || peer.as_deref() == Some(name)
        };
        let connections = self.connections.iter();
        let found: Vec<_> = connections
            .filter(|(_, c)| is_meant(c))
            .map(|(index, _)| index)
            .collect();
        if found.is_empty() {
            return Err(CommandError::NoSuchConnection(name.to_owned()));
        }
        Ok(found)
    }

    fn terminate_ike(&mut self, now: Duration, name: &str) -> Result<Ticket, CommandError> {
        let found = self.connections_named(name)?;
        let ticket = self.ticket();
        let mut waits = BTreeSet::new();
        for index in found {
            if self.take_down(now, index) {
                waits.insert(index);
            }
        }
        if waits.is_empty() {
            self.event(ControlEvent::Finished { ticket });
        } else {
            self.terminations.insert(ticket, waits);
        }
        Ok(ticket)
    }

    /// Deletes all of a connection; whether there is an IKE SA to wait for.
    fn take_down(&mut self, now: Duration, index: usize) -> bool {
        for at in self.connections[index].tunnels.clone() {
            self.no_longer_wanted(at);
            // Orphans have no session that would take them along.
            let orphans = self.tunnels[at]
                .epochs
                .iter()
                .filter(|(_, e)| e.session.is_none());
            for epoch in orphans.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.tell_deleted(now, at, epoch);
            }
        }
        let mut sessions = self.sessions_of(index);
        sessions.retain(|id| self.sessions.get(id).is_some_and(|s| !s.over));
        for id in &sessions {
            self.close_session(now, *id);
        }
        !sessions.is_empty()
    }

    pub(crate) fn no_longer_wanted(&mut self, at: usize) {
        let tunnel = &mut self.tunnels[at];
        tunnel.wanted = false;
        tunnel.requested = None;
        let index = tunnel.connection;
        self.connections[index].wants.remove(&at);
        self.dirty_connections.insert(index);
        for session in self.sessions.values_mut() {
            session.wants.remove(&at);
        }
        self.fail_waiters(at, "terminated");
    }

    fn tunnel_named(&self, name: &str) -> Result<usize, CommandError> {
        if let Some(at) = self.tunnels.position(|t| t.name == name) {
            return Ok(at);
        }
        let child = |tunnel: &crate::tunnel::Tunnel| {
            self.connections[tunnel.connection].config.children[tunnel.child].name == name
        };
        let mut found = self.tunnels.iter().filter(|(_, tunnel)| child(tunnel));
        let (at, _) = found
            .next()
            .ok_or_else(|| CommandError::NoSuchTunnel(name.to_owned()))?;
        match found.next() {
            None => Ok(at),
            Some(_) => Err(CommandError::Ambiguous(name.to_owned())),
        }
    }
}
