//! What a worker tells the control thread.

use std::{net::SocketAddr, time::Duration};

use mitregate_esp::ids::{EpochId, TunnelId};

use crate::{
    buf::ControlBuf,
    tables::{Epoch, Tunnel},
};

/// In the order in which things happened.
pub enum Event {
    /// Frame for the control plane: IKE, NAT keepalive, plain ESP ping, ICMP error about one of ours.
    Outer {
        /// The whole Ethernet frame; its IP and UDP lengths were not checked.
        frame: ControlBuf,
        /// When its batch was taken.
        received_at: Duration,
    },
    /// Authenticated payload with a next header that the control plane asked for.
    Inner {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's epoch.
        epoch: EpochId,
        /// ESP next header.
        next_header: u8,
        /// ESP sequence number, all 64 bits.
        seq: u64,
        /// Whether no higher one had been authenticated on this SA before (gate.md G7).
        new_highest: bool,
        /// Outer source; port 0 for plain ESP. Not authenticated by ESP.
        from: SocketAddr,
        /// Outer destination; port 0 for plain ESP.
        to: SocketAddr,
        /// When its batch was taken.
        received_at: Duration,
        /// What ESP protected, TFC padding included.
        payload: ControlBuf,
    },
    /// First authenticated packet on an inbound SA, and again for the first data packet if the
    /// first one was none.
    FirstInbound {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's epoch.
        epoch: EpochId,
        /// Whether it was data: an inner IP packet, which a gated peer sends only when proven.
        data: bool,
    },
    /// An authenticated packet with a new highest sequence number came from elsewhere than where the
    /// epoch's packets go. At most once a second, and only for epochs made by
    /// [`Epoch::telling_moves`].
    Moved {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's epoch.
        epoch: EpochId,
        /// Outer source; port 0 for plain ESP. Not authenticated by ESP.
        from: SocketAddr,
        /// Outer destination; port 0 for plain ESP.
        to: SocketAddr,
    },
    /// A packet is held because the tunnel has no active epoch. Once until the next Activate.
    DataWaiting {
        /// The packet's tunnel.
        tunnel: TunnelId,
    },
    /// The outbound SA passed a soft limit. Once per epoch.
    SoftLimit {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's epoch.
        epoch: EpochId,
    },
    /// A packet was dropped because the outbound SA has reached a hard limit, or the end of its
    /// sequence numbers. Once per epoch.
    HardLimit {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's epoch.
        epoch: EpochId,
    },
    /// An epoch was removed; to be dropped by the control thread.
    Retired {
        /// With the last state of both SAs.
        epoch: Box<Epoch>,
    },
    /// A tunnel was removed, after its epochs; to be dropped by the control thread.
    Removed {
        /// Empty.
        tunnel: Box<Tunnel>,
    },
    /// A command could not be applied.
    Refused {
        /// The command's tunnel.
        tunnel: TunnelId,
        /// The command's epoch, if it named one.
        epoch: Option<EpochId>,
        /// Why.
        reason: Refusal,
        /// What the command carried.
        returned: Option<Returned>,
    },
    /// The worker ended; the last event.
    Stopped {
        /// Why.
        reason: Stopped,
    },
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such tunnel here.
    #[error("unknown tunnel")]
    NoSuchTunnel,
    /// No such epoch in this tunnel.
    #[error("unknown epoch")]
    NoSuchEpoch,
    /// A tunnel, epoch or inbound SPI of this name is there already.
    #[error("already installed")]
    Duplicate,
    /// The tables were not made for so many.
    #[error("table full")]
    TableFull,
}

/// What a refused command carried.
pub enum Returned {
    /// Of [`Command::Install`](crate::Command::Install).
    Epoch(Box<Epoch>),
    /// Of [`Command::AddTunnel`](crate::Command::AddTunnel).
    Tunnel(Box<Tunnel>),
}

/// Why a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// It was asked to.
    #[error("stopped on request")]
    Requested,
    /// It panicked, and its ports are closed.
    #[error("worker panicked")]
    Panicked,
    /// Its ports failed.
    #[error("port failed: {0}")]
    Port(std::io::ErrorKind),
}
