//! What an operator asks for.

use core::time::Duration;

use mitregate_gate::{Input, Role, UserPing};

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
                for at in 0..self.tunnels.len() {
                    self.gate(now, at, Input::UserPingStop { token: ticket.0 });
                }
                ticket
            }
            Command::PathChanged => {
                for at in 0..self.tunnels.len() {
                    self.gate(now, at, Input::PathChanged);
                }
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
            return Err(CommandError::NobodyToCall(connection.config.name.clone()));
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

    fn terminate_ike(&mut self, now: Duration, name: &str) -> Result<Ticket, CommandError> {
        let index = self
            .connections
            .iter()
            .position(|c| c.config.name == name)
            .ok_or_else(|| CommandError::NoSuchConnection(name.to_owned()))?;
        let ticket = self.ticket();
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
        let sessions: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.connection == Some(index))
            .map(|(id, _)| *id)
            .collect();
        if sessions.is_empty() {
            self.event(ControlEvent::Finished { ticket });
        } else {
            self.connections[index].waiters.push(ticket);
        }
        for id in sessions {
            self.close_session(now, id);
        }
        Ok(ticket)
    }

    fn no_longer_wanted(&mut self, at: usize) {
        let tunnel = &mut self.tunnels[at];
        tunnel.wanted = false;
        tunnel.requested = None;
        let index = tunnel.connection;
        self.connections[index].wants.remove(&at);
        for session in self.sessions.values_mut() {
            session.wants.remove(&at);
        }
        self.fail_waiters(at, "terminated");
    }

    fn tunnel_named(&self, name: &str) -> Result<usize, CommandError> {
        if let Some(at) = self.tunnels.iter().position(|t| t.name == name) {
            return Ok(at);
        }
        let child = |at: &usize| {
            let tunnel = &self.tunnels[*at];
            self.connections[tunnel.connection].config.children[tunnel.child].name == name
        };
        let mut found = (0..self.tunnels.len()).filter(child);
        let at = found
            .next()
            .ok_or_else(|| CommandError::NoSuchTunnel(name.to_owned()))?;
        match found.next() {
            None => Ok(at),
            Some(_) => Err(CommandError::Ambiguous(name.to_owned())),
        }
    }
}
