//! Connections, tunnels and timers: IKE SAs and gates composed, sans-IO.
//!
//! [`Control`] owns every IKE SA and the gate of every tunnel. It is fed with datagrams, with what the
//! workers report, with an operator's commands and with time; it says what to send, what to install,
//! activate and retire, and what happened. It owns no socket, thread or clock, so a client, a network and
//! a gateway run in one thread under virtual time from one seed.
//!
//! After each `handle_*` call take [`Output`]s until there are none, and ask [`Control::poll_timeout`]
//! again. Times are `Duration`s of one monotonic clock (CLOCK_BOOTTIME in the daemon).
//!
//! What it does of its own accord:
//!
//! - a connection whose child has `start_action = start` is brought up, and brought up again, for ever;
//! - rekeys of IKE SAs and of their children before their lifetimes end;
//! - a rekey, a new IKE SA beside a dead one, deletes and retirements, as the gate asks;
//! - keepalives towards a NAT (RFC 3948 §4), liveness checks of silent peers (RFC 7296 §2.4);
//! - a restarted client's new IKE SA is accepted beside the old one, which goes when an epoch of the new
//!   one is proven: a tunnel that works is never torn down on a mere claim.

#![forbid(unsafe_code)]

mod api;
mod commands;
mod config;
mod control;
mod directory;
mod encap;
mod event_view;
mod gates;
mod half_open;
mod icmp;
mod idle;
mod ike;
mod keylog;
mod lifecycle;
mod lifetime;
mod list;
mod path;
mod path_mtu;
mod peers;
mod pools;
mod rekey;
mod roles;
mod schedule;
mod session;
mod spi;
mod stray;
mod table;
mod tunnel;
mod view;
mod watch;

pub use api::{
    AddTunnel, Command, CommandError, ControlEvent, DataEvent, Datagram, EncapChange, Install,
    Outer, Output, Ticket,
};
pub use config::{
    ChildConfig, Config, ConfigError, ConnectionConfig, Follow, Mobility, PoolConfig, StartAction,
    Strangers, Unique,
};
pub use control::Control;
pub use event_view::EventView;
pub use ike::CONNECT_PATIENCE;
pub use keylog::LoggedKeys;
pub use lifetime::{ChildLifetime, IkeLifetime, UNLIMITED};
pub use mitregate_gate::pmtu;
pub use mitregate_gate::{
    EchoLimit, GateConfig, GateMode, Idle, PingStats, Proof, Proven, Role, UserPingEvent,
};
pub use mitregate_ike::cert;
pub use mitregate_ike::{
    Childless, Dynamic, Encap, EncapMode, EspProposal, Fragmentation, FragmentationMode, IdPattern,
    Identity, IkeProposal, LocalAuth, NameAttribute, PeerRekey, ProposalError, Psk, RemoteAuth,
    Retransmit, TicketKeys,
};
pub use tunnel::RETRY_MAX;
pub use view::{
    ActionView, ConnectionView, EncapView, EpochView, GateCountersView, IkeSaView, LeaseView,
    ListView, PathMtuView, PoolView, RecoveriesView, SelectorView, TunnelView,
};
