//! The composition.

use core::time::Duration;
use std::collections::VecDeque;

use rand_core::CryptoRng;

use crate::{
    Command, CommandError, Config, ConfigError, DataEvent, Datagram, ListView, Output, Ticket,
};

/// All connections of one process. See the [crate's documentation](crate).
pub struct Control {
    outputs: VecDeque<Output>,
}

impl Control {
    /// Adds the tunnels of all connections to the policy and starts those to be started. `rng` seeds
    /// everything random here, so a run replays from its seed.
    pub fn new(
        now: Duration,
        config: Config,
        rng: Box<dyn CryptoRng + Send>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let _ = (now, rng);
        Ok(Self {
            outputs: VecDeque::new(),
        })
    }

    /// Takes a datagram of UDP 500 or 4500.
    pub fn handle_datagram(&mut self, now: Duration, datagram: Datagram<'_>) {
        let _ = (now, datagram);
    }

    /// Takes what a worker reports.
    pub fn handle_dataplane(&mut self, now: Duration, event: DataEvent<'_>) {
        let _ = (now, event);
    }

    /// Takes an operator's command; events about it carry the ticket.
    pub fn handle_command(
        &mut self,
        now: Duration,
        command: Command,
    ) -> Result<Ticket, CommandError> {
        let _ = (now, command);
        Ok(Ticket(0))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        let _ = now;
    }

    /// When [`Self::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        None
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What `list-sas` shows.
    #[must_use]
    pub fn list(&self, now: Duration) -> ListView {
        let _ = now;
        ListView {
            connections: Vec::new(),
            ike_sas: Vec::new(),
            tunnels: Vec::new(),
        }
    }
}
