//! The side of a tunnel whose ends both start: decided, and decided anew, after its gate was made.

use core::time::Duration;

use rand_core::Rng;

use crate::liveness::Liveness;
use crate::{Gate, GateConfig, Role};

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
            if !epoch.peer_echo || !epoch.is_unproven() {
                continue;
            }
            match role {
                Role::Client if !epoch.probe.running() => {
                    epoch.drain_deadline = None;
                    self.begin_probe(now, at, self.config.tries, rng);
                }
                Role::Client => {}
                Role::Server => epoch.drain_deadline = Some(now + self.config.drain_max),
            }
        }
    }
}
