//! What the control thread tells a worker.

use mitregate_esp::ids::{EpochId, TunnelId};

use crate::{
    buf::ControlBuf,
    outer::OuterHeader,
    tables::{Epoch, Tunnel},
};

/// Applied between batches, in the order sent.
pub enum Command {
    /// Takes a tunnel's selectors into the policy, after those already there (RFC 4301 §4.4.1:
    /// the policy is ordered). Its packets are held until an epoch is activated.
    AddTunnel(Box<Tunnel>),
    /// Drops a tunnel, its epochs and what it holds. They come back as [`Event::Retired`] and
    /// [`Event::Removed`].
    ///
    /// [`Event::Retired`]: crate::Event::Retired
    /// [`Event::Removed`]: crate::Event::Removed
    RemoveTunnel {
        /// Which one.
        tunnel: TunnelId,
    },
    /// Installs an epoch: it receives at once, and sends nothing but [`Command::SendInner`].
    Install(Box<Epoch>),
    /// Sends the tunnel's data on this epoch from now on, what was held first and in order. To
    /// be given only for an epoch that the gate has proven.
    Activate {
        /// The epoch's tunnel.
        tunnel: TunnelId,
        /// The proven epoch.
        epoch: EpochId,
    },
    /// Holds the tunnel's data until the next [`Command::Activate`].
    Hold {
        /// Which one.
        tunnel: TunnelId,
    },
    /// Removes an epoch, both ways. It comes back as [`Event::Retired`]; data is held if it was
    /// the active one.
    ///
    /// [`Event::Retired`]: crate::Event::Retired
    Retire {
        /// The epoch's tunnel.
        tunnel: TunnelId,
        /// Which one.
        epoch: EpochId,
    },
    /// Replaces the outer header: a new next hop, or a peer that moved.
    SetOuter {
        /// The epoch's tunnel.
        tunnel: TunnelId,
        /// Which one; `None` for all epochs of the tunnel.
        epoch: Option<EpochId>,
        /// The new header; `None` while the next hop is unknown: data is then held.
        outer: Option<OuterHeader>,
    },
    /// Seals no data of this tunnel, on whichever epoch, whose outer IP packet would be larger. Control
    /// packets go by the outer header's own MTU.
    SetPathMtu {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Bytes of the outer IP packet.
        mtu: u16,
    },
    /// Sends a control payload through an epoch's outbound SA, proven or not.
    SendInner {
        /// The epoch's tunnel.
        tunnel: TunnelId,
        /// Which one.
        epoch: EpochId,
        /// ESP next header, 144 for ESP Echo.
        next_header: u8,
        /// What goes around this packet in place of the epoch's own outer header: another way is asked
        /// for.
        via: Option<OuterHeader>,
        /// TFC padding (RFC 4303 §2.7) makes the outer IP packet so long, bytes, or up to three
        /// shorter: ESP has no other lengths. DF is set. 0: no padding.
        pad_to: u16,
        /// What ESP protects.
        payload: ControlBuf,
    },
    /// Sends a whole Ethernet frame (IKE, keepalive) on the outer port.
    SendOuter {
        /// The frame, without frame check sequence.
        frame: ControlBuf,
    },
}
