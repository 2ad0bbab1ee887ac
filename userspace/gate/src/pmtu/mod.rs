//! The largest packet that a path carries, found by padded pings: DPLPMTUD (RFC 8899) with ESP Echo as the
//! probe, sans-IO. One [`PathMtu`] for what a side sends through one tunnel; the peer looks after its own
//! direction.
//!
//! ```text
//!  Disabled ─ a proven path ─► Base ─ base answered ─► Search ─ nothing left to try ─► Complete
//!                               │ ▲                      ▲                              │    │
//!                  base refused │ └──── black hole ──────┼──── size in use is lost ─────┘    │
//!                               ▼                        └─────── raise timer ──────────────┘
//!                             Error (as Search, below base)
//! ```
//!
//! Sizes are bytes of the outer IP packet, multiples of [`STEP`]: ESP's padding makes no others. A probe is
//! an ESP Echo request with TFC padding up to the size, so it is acknowledged by any peer that answers
//! pings, and it carries no data that could be lost with it. A size is refused after
//! [`max_probes`](PathMtuConfig::max_probes) lost probes *and* a ping of the ordinary, small kind that was
//! answered meanwhile: a path that carries nothing tells nothing about sizes, and is the gate's business.

mod search;

use core::time::Duration;

pub use search::PathMtu;

/// Sizes are multiples of this, bytes.
pub const STEP: u16 = 4;

/// Times and bounds of the search, in RFC 8899's words where it has one (§5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMtuConfig {
    /// MIN_PLPMTU: taken for granted. Every host takes so much (RFC 791 §3.2), bytes.
    pub min: u16,
    /// BASE_PLPMTU: what nearly every path carries, bytes.
    pub base: u16,
    /// MAX_PROBES: so many lost ones refuse a size.
    pub max_probes: u32,
    /// PROBE_TIMER: wait for an answer; longer where four round trips are longer.
    pub probe_timer: Duration,
    /// PMTU_RAISE_TIMER: when to look whether more fits now.
    pub raise_timer: Duration,
    /// While large packets leave, the size in use is asked again after this time (RFC 8899 §4.3).
    pub confirm_every: Duration,
    /// Shortest time between two probes that ICMP errors lead to.
    pub hint_every: Duration,
}

impl Default for PathMtuConfig {
    fn default() -> Self {
        Self {
            min: 576,
            base: 1200,
            max_probes: 3,
            probe_timer: Duration::from_secs(1),
            raise_timer: Duration::from_secs(600),
            confirm_every: Duration::from_secs(5),
            hint_every: Duration::from_secs(2),
        }
    }
}

/// RFC 8899 §5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathMtuState {
    /// No probes: no path, or a peer that does not answer them.
    Disabled,
    /// Asks whether the base size fits.
    Base,
    /// Looks for more.
    Search,
    /// Has found it.
    Complete,
    /// Not even the base size fits: looks for what does.
    Error,
}

impl PathMtuState {
    /// The word in lists and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Base => "base",
            Self::Search => "search",
            Self::Complete => "complete",
            Self::Error => "error",
        }
    }
}

/// Traffic of the tunnel since it began; see [`PathMtu::handle_timeout`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Packets sent that a smaller path would not carry.
    pub large_sent: u64,
    /// Packets received.
    pub received: u64,
}

/// What the search wants done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMtuOutput {
    /// Send this ESP Echo request on the epoch that carries data, padded so that the outer IP packet has
    /// exactly `size` bytes, DF set.
    Probe {
        /// Bytes of the outer IP packet.
        size: u16,
        /// The ESP Echo message.
        payload: Vec<u8>,
    },
    /// Send an ordinary ping, and say [`PathMtu::alive`] when one is answered.
    Ping,
    /// Packets may be so large from now on.
    Changed {
        /// Bytes of the outer IP packet.
        mtu: u16,
        /// Why.
        why: Why,
    },
}

/// Why the size in use is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A probe of that size was answered.
    Answered,
    /// A larger one was lost, and nothing says yet that it was for its size.
    Doubt,
    /// The size in use does not arrive any more.
    BlackHole,
    /// The link, the encapsulation or the configured MTU allows no more.
    Limit,
}

impl Why {
    /// The word in lists and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Doubt => "doubt",
            Self::BlackHole => "black-hole",
            Self::Limit => "limit",
        }
    }
}

/// Counts since the search was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathMtuCounters {
    /// Probes sent.
    pub probes_sent: u64,
    /// Of those, answered.
    pub probes_answered: u64,
    /// Of those, not answered in time.
    pub probes_lost: u64,
    /// Times that the size in use stopped arriving.
    pub black_holes: u64,
    /// ICMP errors that were about this path.
    pub hints: u64,
    /// Of those, the ones that led to a probe.
    pub hints_taken: u64,
}

/// What an operator sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMtuView {
    /// Where the search is.
    pub state: PathMtuState,
    /// The size in use, bytes of the outer IP packet.
    pub mtu: u16,
    /// Whether a probe of that size was answered on this path.
    pub confirmed: bool,
    /// The size that is asked now.
    pub probing: Option<u16>,
    /// Since the search was made.
    pub counters: PathMtuCounters,
}
