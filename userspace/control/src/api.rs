//! What goes into [`Control`](crate::Control) and what comes out.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::sync::Arc;

use mitregate_esp::ids::{EpochId, TunnelId};
use mitregate_esp::{InboundSa, OutboundSa, SaCounters};
use mitregate_gate::pmtu::Why;
use mitregate_gate::{GateEvent, Proven, UserPingEvent};
use mitregate_ike::Encap;
use mitregate_wire::TrafficSelector;

/// A UDP datagram of IKE as it arrived: on port 4500 with its non-ESP marker.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Where it was sent to.
    pub local: SocketAddr,
    /// Where it came from.
    pub remote: SocketAddr,
    /// UDP payload.
    pub payload: &'a [u8],
}

/// What a worker reports. Packets are named only after their ICV was verified.
#[derive(Debug, Clone, Copy)]
pub enum DataEvent<'a> {
    /// A control packet (ESP Echo, an answer to our inner ICMP echo) arrived through a tunnel.
    Inner {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's epoch.
        epoch: EpochId,
        /// ESP next header.
        next_header: u8,
        /// Whether no higher sequence number had been seen on this SA before.
        new_highest: bool,
        /// Outer source; port 0 for plain ESP.
        from: SocketAddr,
        /// Outer destination; port 0 for plain ESP.
        to: SocketAddr,
        /// What ESP protected, TFC padding included.
        payload: &'a [u8],
    },
    /// The first authenticated packet on an inbound SA, and again for the first one with data.
    FirstInbound {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's epoch.
        epoch: EpochId,
        /// Whether it was an inner IP packet.
        data: bool,
    },
    /// An authenticated packet with a new highest sequence number came from elsewhere than where the
    /// epoch's packets go ([`Install::tell_moves`]).
    Moved {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's epoch.
        epoch: EpochId,
        /// Outer source; port 0 for plain ESP.
        from: SocketAddr,
        /// Outer destination; port 0 for plain ESP.
        to: SocketAddr,
    },
    /// Data waits for an epoch that may carry it.
    DataWaiting {
        /// Its tunnel.
        tunnel: TunnelId,
    },
    /// An epoch could not be installed, so nothing can go through it.
    Refused {
        /// Its tunnel.
        tunnel: TunnelId,
        /// Which epoch.
        epoch: EpochId,
        /// Why.
        reason: &'a str,
    },
    /// The outbound SA passed a soft limit.
    SoftLimit {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's epoch.
        epoch: EpochId,
    },
    /// The outbound SA reached a hard limit: it seals no more.
    HardLimit {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's epoch.
        epoch: EpochId,
    },
}

/// What an operator asks for. Tunnels are named by their child, or as `connection/child` where a child's
/// name is not unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Bring a tunnel up and keep it up. Finished when it carries data.
    Initiate {
        /// Which tunnel.
        child: String,
    },
    /// Delete a tunnel at the peer and do not bring it up again. Finished when it is gone.
    TerminateChild {
        /// Which tunnel.
        child: String,
    },
    /// Delete all IKE SAs of a connection, and its tunnels with them. Finished when they are gone.
    TerminateIke {
        /// Which connection.
        connection: String,
    },
    /// Rekey a tunnel's CHILD_SA now, whoever of the two rekeys it otherwise.
    RekeyChild {
        /// Which tunnel.
        child: String,
    },
    /// Rekey all IKE SAs of a connection now.
    RekeyIke {
        /// Which connection.
        connection: String,
    },
    /// Ping through a tunnel.
    Ping {
        /// Which tunnel.
        tunnel: String,
        /// How many pings.
        count: u32,
        /// From one to the next.
        interval: Duration,
        /// Bytes of data in each, at most 512.
        size: usize,
    },
    /// End a ping early; its statistics follow.
    StopPing {
        /// What [`Command::Ping`] was given.
        ticket: Ticket,
    },
    /// The path may have changed (a suspend, a route): ping every tunnel now.
    PathChanged,
    /// The outer interface has these addresses now, best first: what used another one moves.
    AddressesChanged {
        /// All that can be used.
        addresses: Vec<IpAddr>,
    },
    /// Delete everything at the peers. [`ControlEvent::ShutDown`] follows within seconds, whether or not
    /// they answer.
    ShutDown,
}

/// Names a command in the events that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Why a command was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Nothing of that name.
    #[error("no tunnel named \"{0}\"")]
    NoSuchTunnel(String),
    /// Nothing of that name.
    #[error("no connection named \"{0}\"")]
    NoSuchConnection(String),
    /// More than one of that name.
    #[error("more than one child is named \"{0}\": write connection/child")]
    Ambiguous(String),
    /// A server's connection without addresses cannot be started from here.
    #[error("connection \"{0}\" has no address to call: its peer starts it")]
    NobodyToCall(String),
    /// There is nothing to rekey.
    #[error("\"{0}\" is not up")]
    NotUp(String),
    /// It is on its way down.
    #[error("shutting down")]
    ShuttingDown,
}

/// How the ESP packets of an epoch travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// Protocol 50, or UDP.
    pub encap: Encap,
    /// Our end; port 0 for protocol 50.
    pub local: SocketAddr,
    /// The peer's end; port 0 for protocol 50.
    pub remote: SocketAddr,
}

/// A tunnel's place in the policy.
#[derive(Debug, Clone)]
pub struct AddTunnel {
    /// Its id.
    pub tunnel: TunnelId,
    /// `connection/child`.
    pub name: String,
    /// What is protected on our side.
    pub local_ts: Vec<TrafficSelector>,
    /// What is protected on the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
}

/// A pair of SAs to install for receiving. Holds keys, so it has no `Debug`.
pub struct Install {
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// Its id.
    pub epoch: EpochId,
    /// For receiving.
    pub inbound: InboundSa,
    /// For sending, once activated.
    pub outbound: OutboundSa,
    /// Our side, as negotiated.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's side, as negotiated.
    pub remote_ts: Vec<TrafficSelector>,
    /// What goes around.
    pub outer: Outer,
    /// Packets to seal before a [`DataEvent::SoftLimit`].
    pub soft_packets: u64,
    /// Inner bytes to seal before a [`DataEvent::SoftLimit`].
    pub soft_bytes: u64,
    /// Whether to report [`DataEvent::Moved`].
    pub tell_moves: bool,
    /// What answers to our inner ICMP echos carry, which then are for control
    /// ([`DataEvent::Inner`]) and not for the inner network.
    pub icmp_secret: Option<[u8; 16]>,
    /// Packets to seal at all.
    pub hard_packets: u64,
    /// Inner bytes to seal at all.
    pub hard_bytes: u64,
    /// Written by the worker, read here.
    pub counters: Arc<SaCounters>,
}

/// What to do, in order.
pub enum Output {
    /// Send a UDP datagram: IKE (its non-ESP marker included) or a NAT keepalive. From port 0: a plain ESP
    /// ping, straight over IP.
    Transmit {
        /// From.
        local: SocketAddr,
        /// To.
        remote: SocketAddr,
        /// UDP payload, or the whole ESP packet.
        payload: Vec<u8>,
    },
    /// Take a tunnel into the policy; its packets are held until an epoch is activated.
    AddTunnel(AddTunnel),
    /// Take it out.
    RemoveTunnel {
        /// Which one.
        tunnel: TunnelId,
    },
    /// Install an epoch: it receives, and sends nothing but [`Output::SendInner`].
    Install(Box<Install>),
    /// Send the tunnel's data on this epoch from now on, what was held first.
    Activate {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Which epoch, and why it may.
        proven: Proven,
    },
    /// Keep the tunnel's data until the next [`Output::Activate`].
    Hold {
        /// Which tunnel.
        tunnel: TunnelId,
    },
    /// Send a control packet through an epoch.
    SendInner {
        /// The epoch's tunnel.
        tunnel: TunnelId,
        /// Which epoch.
        epoch: EpochId,
        /// ESP next header.
        next_header: u8,
        /// The way that this packet takes; `None`: that of the epoch.
        via: Option<Outer>,
        /// TFC padding makes the outer IP packet so long, bytes; 0: no padding.
        pad_to: u16,
        /// What ESP protects.
        payload: Vec<u8>,
    },
    /// A tunnel's path carries so much from now on. Told only where it is less than the links allow, and
    /// when that changes.
    PathMtu {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Bytes of the largest outer IP packet.
        outer: u16,
        /// Bytes of the largest inner packet, on the epoch that carries data.
        inner: u16,
    },
    /// Remove an epoch both ways; data is held if it was the active one.
    Retire {
        /// The epoch's tunnel.
        tunnel: TunnelId,
        /// Which epoch.
        epoch: EpochId,
    },
    /// The peer moved: send this epoch's packets there from now on.
    MovePeer {
        /// The epoch's tunnel.
        tunnel: TunnelId,
        /// Which epoch.
        epoch: EpochId,
        /// The new way.
        outer: Outer,
    },
    /// For lists, waiters and monitors. What deserves a log line was logged already.
    Event(ControlEvent),
}

/// Why an epoch's encapsulation has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncapChange {
    /// A ping of ours by plain ESP was answered.
    Proven,
    /// A ping of ours was lost.
    PingLost,
    /// The client has gone back to UDP.
    PeerChanged,
}

impl EncapChange {
    /// The word in logs and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::PingLost => "ping-lost",
            Self::PeerChanged => "peer-changed",
        }
    }
}

impl fmt::Display for EncapChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum ControlEvent {
    /// A peer has authenticated.
    IkeEstablished {
        /// Of this connection.
        connection: String,
        /// Who it is.
        peer_id: String,
    },
    /// A new IKE SA has taken over from one that was rekeyed, by either side.
    IkeRekeyed {
        /// Of this connection.
        connection: String,
    },
    /// An IKE SA did not come to be, or is over.
    IkeDown {
        /// Of this connection, if it came so far.
        connection: Option<String>,
        /// Why.
        reason: String,
    },
    /// The virtual addresses that a connection has from its peer are these now; none: no more.
    VirtualAddresses {
        /// Of this connection.
        connection: String,
        /// To be put on the inner interface.
        addresses: Vec<IpAddr>,
        /// DNS servers that the peer told.
        dns: Vec<IpAddr>,
    },
    /// An epoch's packets take another encapsulation from now on; its SAs stay.
    EncapChanged {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Which epoch.
        epoch: EpochId,
        /// How they travel now.
        to: Encap,
        /// Why.
        why: EncapChange,
    },
    /// Something in a tunnel's gate.
    Gate {
        /// Which tunnel.
        tunnel: TunnelId,
        /// What.
        event: GateEvent,
    },
    /// A tunnel's path MTU is another one.
    PathMtu {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Bytes of the largest outer IP packet.
        outer: u16,
        /// Bytes of the largest inner packet.
        inner: u16,
        /// What showed it.
        why: Why,
    },
    /// Progress of [`Command::Ping`].
    Ping {
        /// What the command was given.
        ticket: Ticket,
        /// What.
        event: UserPingEvent,
    },
    /// A command has done what it was to do.
    Finished {
        /// What it was given.
        ticket: Ticket,
    },
    /// A command has failed; control may still go on trying ([`Command::Initiate`]).
    Failed {
        /// What it was given.
        ticket: Ticket,
        /// Why.
        reason: String,
    },
    /// [`Command::ShutDown`] is over.
    ShutDown,
}
