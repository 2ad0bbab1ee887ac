//! What can be tuned, and the defaults.

use core::net::IpAddr;
use core::time::Duration;

use crate::pmtu::PathMtuConfig;

/// The side of the *tunnel* (not of an IKE exchange) that the gate works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Starts, may sit behind a NAT, pings first, owns rekeys.
    Client,
    /// Waits for the client's ping before it sends anything on a new epoch.
    Server,
}

/// What asks whether an epoch's path carries anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GateMode {
    /// ESP Echo with a peer that announces it, an inner ICMP echo with others.
    #[default]
    Auto,
    /// ESP Echo; with a peer that does not announce it, nothing.
    Echo,
    /// An inner ICMP echo, whatever the peer announces; nor do we announce ESP Echo.
    Icmp,
    /// Nothing: data flows as soon as SAs are installed, and rekeys are as RFC 7296 §2.8 has them. Only
    /// IKE looks whether the peer is there.
    Off,
}

impl GateMode {
    /// All of them, with their words.
    pub const WORDS: [(&str, Self); 4] = [
        ("auto", Self::Auto),
        ("echo", Self::Echo),
        ("icmp", Self::Icmp),
        ("off", Self::Off),
    ];

    /// The word in the configuration and in lists.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Echo => "echo",
            Self::Icmp => "icmp",
            Self::Off => "off",
        }
    }

    /// Whether we ask by ESP Echo, and so announce that we answer it.
    #[must_use]
    pub fn uses_echo(self) -> bool {
        matches!(self, Self::Auto | Self::Echo)
    }
}

/// Times and bounds of one gate.
#[derive(Debug, Clone, PartialEq)]
pub struct GateConfig {
    /// Which side this is.
    pub role: Role,
    /// What asks.
    pub mode: GateMode,
    /// Whom to ask by ICMP, in order; the first that the selectors let pass. Empty: one is chosen.
    pub icmp_targets: Vec<IpAddr>,
    /// Wait for the answer to the first ping before the second is sent.
    pub ping_timeout: Duration,
    /// Pings on a new epoch before it is given up for a fresh one.
    pub tries: u32,
    /// The same for an epoch while none carries data: patience, or a fresh SPI? A NAT that lets in one
    /// client after another holds a fresh SPI up by what is pending for the one before.
    pub first_tries: u32,
    /// After so many epochs in a row on which nothing came back, from a peer that has never answered an
    /// ESP Echo in this tunnel although it announced it, a client lets data through unproven. 0: never.
    pub mute_after: u32,
    /// Pings on an epoch that has been proven, before a rekey is asked for.
    pub suspect_tries: u32,
    /// Where a NAT notes each SPI (plain ESP), data waits after all pings of the epoch that carries it were
    /// lost, until something is proven or for this time; zero: it does not wait.
    pub hold_lost: Duration,
    /// Each wait is this many times the one before.
    pub backoff: f64,
    /// Each wait is drawn from `1 ± jitter` times its nominal length.
    pub jitter: f64,
    /// A rekey must give a new epoch within this time; then a new IKE session is asked for beside it.
    pub rekey_patience: Duration,
    /// After this many epochs in a row that could not be proven, the next is asked of a new IKE session.
    pub epochs_per_session: u32,
    /// First wait between two escalations in a row; it doubles with each.
    pub escalation_backoff: Duration,
    /// Longest wait between two escalations.
    pub escalation_max: Duration,
    /// A replaced epoch goes on receiving at least this long.
    pub drain_min: Duration,
    /// A replaced epoch is given up after this time, whether or not the peer was seen on the new one.
    pub drain_max: Duration,
    /// When an epoch that carries data is pinged without being new. `None`: never.
    pub idle: Option<Idle>,
    /// Bounds on how often we answer.
    pub echo: EchoLimit,
    /// A user's ping counts as lost after this time.
    pub user_ping_timeout: Duration,
    /// How the path's MTU is looked for, by [`PathMtu`](crate::pmtu::PathMtu) beside the gate. `None`: not.
    pub path_mtu: Option<PathMtuConfig>,
}

/// When a proven epoch is pinged again.
#[derive(Debug, Clone, PartialEq)]
pub struct Idle {
    /// How often traffic is looked at while there is some.
    pub tick: Duration,
    /// Data went out and nothing authenticated came back for this long.
    pub unanswered: Duration,
    /// The tunnel had been receiving and fell silent for this long; doubled with each such ping.
    pub silence: Duration,
    /// Longest time between two pings on a quiet tunnel.
    pub silence_max: Duration,
    /// Time between two pings on a tunnel that only receives.
    pub receive_only: Duration,
}

/// Bounds on the answers to the peer's pings, beside [`MAX_ECHOED`](mitregate_wire::echo::MAX_ECHOED).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EchoLimit {
    /// Answers per second, sustained.
    pub rate: u32,
    /// Answers in one burst.
    pub burst: u32,
}

impl Default for Idle {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(250),
            unanswered: Duration::from_millis(500),
            silence: Duration::from_secs(1),
            // A ping and its answer in 23 s, and some rekeys: under a packet in ten seconds. Sooner than a
            // NAT keepalive is due, which is then not needed.
            silence_max: Duration::from_secs(23),
            receive_only: Duration::from_secs(10),
        }
    }
}

impl Default for EchoLimit {
    fn default() -> Self {
        Self {
            rate: 200,
            burst: 64,
        }
    }
}

impl GateConfig {
    /// The defaults for a side.
    ///
    /// Five pings at 250 ms × 1.5 are spread over 3.3 s: long enough to outlast a NAT that serves a few
    /// clients one round trip after another, or one that squelches nothing but a burst; short enough that
    /// a mis-bound SPI is replaced within the attention span of a TCP connection. A proven epoch gets
    /// three (1.2 s): it worked a moment ago, so a fault is likelier than a queue.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            mode: GateMode::default(),
            icmp_targets: Vec::new(),
            ping_timeout: Duration::from_millis(250),
            tries: 5,
            first_tries: 5,
            mute_after: 12,
            suspect_tries: 3,
            // A NAT that has bound the old SPI to somebody else lets a fresh one in when what is pending for the
            // old one has expired: two minutes after its last packet.
            hold_lost: Duration::from_secs(150),
            backoff: 1.5,
            jitter: 0.2,
            rekey_patience: Duration::from_millis(500),
            epochs_per_session: 2,
            escalation_backoff: Duration::from_millis(500),
            escalation_max: Duration::from_secs(30),
            drain_min: Duration::from_secs(1),
            drain_max: match role {
                Role::Client => Duration::from_secs(10),
                // The client deletes. This is for one that cannot any more, and is longer than its
                // slowest ping so that a live epoch is not taken for a forgotten one.
                Role::Server => Duration::from_secs(60),
            },
            idle: match role {
                Role::Client => Some(Idle::default()),
                Role::Server => None,
            },
            echo: EchoLimit::default(),
            user_ping_timeout: Duration::from_secs(2),
            path_mtu: Some(PathMtuConfig::default()),
        }
    }

    /// How long it takes at most to find that epochs of one session are silent, all of them in a row. A
    /// hard lifetime leaves that much room behind the soft one, and what IKE takes to give a request up.
    #[must_use]
    pub fn longest_failure(&self) -> Duration {
        let mut wait = self.ping_timeout;
        let mut series = Duration::ZERO;
        for _ in 0..self.tries.max(self.suspect_tries).min(1000) {
            series = series.saturating_add(wait.mul_f64(1.0 + self.jitter.clamp(0.0, 0.9)));
            wait = self.grow(wait);
        }
        series.saturating_mul(self.epochs_per_session)
    }

    /// The next wait after `wait`.
    pub(crate) fn grow(&self, wait: Duration) -> Duration {
        wait.mul_f64(self.backoff.max(1.0)).min(self.escalation_max)
    }

    /// `nominal`, moved by up to the jitter either way.
    pub(crate) fn jittered(&self, nominal: Duration, rng: &mut dyn rand_core::Rng) -> Duration {
        let unit = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        nominal.mul_f64(1.0 + self.jitter.clamp(0.0, 0.9) * (2.0 * unit - 1.0))
    }
}
