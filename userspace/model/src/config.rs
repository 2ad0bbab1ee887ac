//! What is checked: how many clients, which gate, which faults.

use core::time::Duration;

use clap::ValueEnum;
use mitregate_gate::{EchoLimit, GateConfig, GateMode, Role};
use serde::Serialize;

/// The model's only length of time. Everything that the gate times is a multiple of it.
pub const UNIT: Duration = Duration::from_secs(1);

/// The gate, or what one would have instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// As it is
    Gate,
    /// Data at once, no pings: an IKEv2 daemon as usual
    Off,
    /// The server moves its data when it has answered the client's ping, before its own is answered
    OneRoundTrip,
}

/// What is explored.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// The gate, or what one would have instead
    pub rule: Rule,
    /// Clients behind the NAT, with a tunnel each
    pub clients: u8,
    /// Rekeys for reasons of age, each client
    pub rekeys: u8,
    /// Crashes of the NAT
    pub crashes: u8,
    /// Packets and IKE messages lost, doubled or late, refused rekeys, NAT entries gone: so many in all
    pub faults: u8,
    /// Nobody starts to send (answers and repetitions are not asked) while so many packets are under way
    pub in_flight: usize,
    /// Pings on a new epoch before it is given up
    pub tries: u32,
    /// IKE stays on UDP 500, which lets the NAT guess
    pub guess: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rule: Rule::Gate,
            clients: 1,
            rekeys: 0,
            crashes: 0,
            faults: 0,
            in_flight: 1,
            tries: 2,
            guess: false,
        }
    }
}

impl Config {
    /// The real gate's configuration, with few and short waits: what matters is which of two ends first.
    #[must_use]
    pub fn gate(&self, role: Role) -> GateConfig {
        GateConfig {
            ping_timeout: UNIT,
            tries: self.tries,
            first_tries: self.tries,
            // What never answers is the channel.
            mute_after: 0,
            hold_lost: UNIT * 3,
            suspect_tries: 1,
            backoff: 1.0,
            jitter: 0.0,
            rekey_patience: UNIT,
            epochs_per_session: 2,
            escalation_backoff: UNIT,
            escalation_max: UNIT,
            drain_min: UNIT,
            drain_max: match role {
                Role::Client => UNIT,
                // Longer than all that a client may do before it pings.
                Role::Server => UNIT * (self.tries + 1),
            },
            mode: match self.rule {
                Rule::Off => GateMode::Off,
                Rule::Gate | Rule::OneRoundTrip => GateMode::Echo,
            },
            // When to look at a path that was proven is the checker's choice: the world's `Look`.
            idle: None,
            echo: EchoLimit {
                rate: 1_000_000,
                burst: 1_000_000,
            },
            ..GateConfig::new(role)
        }
    }
}
