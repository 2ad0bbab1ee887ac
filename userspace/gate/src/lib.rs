//! Epochs and the ping gate of one tunnel, sans-IO.
//!
//! An *epoch* is one generation of a tunnel: an inbound and an outbound ESP SA. A side sends application
//! data on an epoch only after its own ping (ESP Echo, [`mitregate_wire::echo`]) on that epoch was
//! answered: the epoch is then *proven*. [`Gate`] decides when to ping, when an epoch carries data, when
//! to ask for fresh SPIs or a new IKE session, and when an old epoch is retired. It owns no socket, clock
//! or thread: feed [`Input`]s and time, take [`Output`]s.
//!
//! ```text
//!  installed ─ first ping ─► probing ─ answer ─► proven ─ ping lost ─► suspect ─ answer ─► proven
//!                               │ no answer          │ a newer one is proven  │
//!                               ▼                    ▼                        ▼
//!                            suspect             draining ─────────────────► dead
//! ```
//!
//! The client pings first; the server is silent on a new epoch until that ping has arrived there, because
//! it is the client's packet that binds the NAT. Then the server pings too: each side proves its own
//! direction.
//!
//! Times are [`Duration`](core::time::Duration)s of one monotonic clock with an arbitrary origin.

#![forbid(unsafe_code)]

mod action;
mod config;
mod drain;
mod epoch;
mod escalation;
mod event;
mod gate;
mod icmp;
mod liveness;
mod mute;
mod outage;
pub mod pmtu;
mod probe;
mod proven;
mod responder;
mod role;
mod snapshot;
mod user_ping;
mod withhold;

pub use action::{Action, LastAction, PingCause};
pub use config::{EchoLimit, GateConfig, GateMode, Idle, Role};
pub use epoch::{EpochView, State};
pub use event::{EchoRefusal, GateCounters, GateEvent, Input, Installed, Output, Reason};
pub use gate::Gate;
pub use liveness::Activity;
pub use outage::{Recoveries, Recovery};
pub use proven::{Proof, Proven, Release};
pub use snapshot::{EpochSnapshot, EscalationSnapshot, ProofKind, RunSnapshot, Snapshot};
pub use user_ping::{PingStats, UserPing, UserPingEvent};
