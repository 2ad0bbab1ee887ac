//! The side of a tunnel whose ends both start: decided, and decided anew, after its gate was made.

use core::time::Duration;

use rand_core::Rng;

use crate::liveness::Liveness;
use crate::{Gate, GateConfig, PingCause, Role};

impl GateConfig {
    /// The same for a side of the tunnel: what depends on the side becomes that side's default where it
    /// was the other's.
    #[must_use]
    pub fn with_role(&self, role: Role) -> Self {
        let (before, after) = (Self::new(self.role), Self::new(role));
        let mut config = self.clone();
        config.role = role;
        if config.drain_max == before.drain_max {
            config.drain_max = after.drain_max;
        }
        if config.idle == before.idle {
            config.idle = after.idle;
        }
        config
    }
}

impl Gate {
    /// Works for this side of the tunnel from now on. What is proven stays so; a client asks at once on
    /// what is not.
    pub fn set_role(&mut self, now: Duration, role: Role, rng: &mut dyn Rng) {
        if self.config.role == role {
            return;
        }
        self.config = self.config.with_role(role);
        self.liveness = match (&self.config.idle, self.active) {
            (Some(idle), Some(_)) => Some(Liveness::new(now, idle)),
            _ => None,
        };
        for at in 0..self.epochs.len() {
            let epoch = &mut self.epochs[at];
            if !epoch.peer_echo || self.peer_mute || !epoch.is_unproven() {
                continue;
            }
            match role {
                Role::Client if !epoch.probe.running() => {
                    epoch.drain_deadline = None;
                    self.begin_probe(now, at, self.config.first_tries, PingCause::New, rng);
                }
                Role::Client => {}
                Role::Server => epoch.drain_deadline = Some(now + self.config.drain_max),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mitregate_esp::ids::EpochId;
    use mitregate_wire::esp::Spi;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use crate::{Input, Installed, Output};

    fn pings(gate: &mut Gate) -> usize {
        let outputs = std::iter::from_fn(|| gate.poll_output());
        let sent = outputs.filter(|output| matches!(output, Output::SendEcho { .. }));
        sent.count()
    }

    #[test]
    fn what_was_configured_stays_and_what_depends_on_the_side_follows() {
        let client = GateConfig::new(Role::Client);
        assert_eq!(
            client.with_role(Role::Server),
            GateConfig::new(Role::Server)
        );
        assert_eq!(client.with_role(Role::Client), client);
        let configured = GateConfig {
            tries: 9,
            idle: None,
            ..client
        };
        let server = configured.with_role(Role::Server);
        assert_eq!((server.tries, &server.idle), (9, &None));
        assert_eq!(server.with_role(Role::Client).tries, 9);
    }

    #[test]
    fn who_becomes_the_client_asks_at_once_on_what_is_not_proven() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut gate = Gate::new(GateConfig::new(Role::Server));
        let now = Duration::from_secs(5);
        let installed = Installed {
            epoch: EpochId(1),
            spi_in: Spi::new(0x1234).unwrap(),
            spi_out: Spi::new(0x4321).unwrap(),
            peer_echo: true,
            keyed_by_spi: false,
            icmp: None,
            initiated: false,
            replaces: None,
            redundant: false,
        };
        gate.handle(now, Input::Installed(installed), &mut rng);
        // A server waits for the client's ping.
        assert_eq!(pings(&mut gate), 0);
        gate.set_role(now, Role::Client, &mut rng);
        assert_eq!(pings(&mut gate), 1);
        // Nothing more for the same side once more.
        gate.set_role(now, Role::Client, &mut rng);
        assert_eq!(pings(&mut gate), 0);
        gate.set_role(now, Role::Server, &mut rng);
        assert_eq!(gate.config().role, Role::Server);
        // As for every new epoch of a server: without a client it goes after a while.
        let limit = now + gate.config().drain_max;
        assert!(gate.poll_timeout().is_some_and(|at| at <= limit));
    }
}
