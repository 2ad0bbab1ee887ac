//! The proof that an epoch may carry data, as a type.

use core::fmt;
use core::time::Duration;

use mitregate_esp::ids::EpochId;

/// An epoch that may carry this side's application data.
///
/// Only the gate makes one. It is neither `Clone` nor constructible outside, and
/// [`Output::Activate`](crate::Output::Activate) carries it, so nothing can be activated unproven.
#[derive(Debug, PartialEq, Eq)]
pub struct Proven {
    epoch: EpochId,
    proof: Proof,
}

impl Proven {
    pub(crate) fn new(epoch: EpochId, proof: Proof) -> Self {
        Self { epoch, proof }
    }

    /// The epoch that was proven.
    #[must_use]
    pub fn epoch(&self) -> EpochId {
        self.epoch
    }

    /// What proved it.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.proof
    }
}

/// What lets an epoch carry data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Our own ping on this epoch was answered after this round-trip time.
    Ping(Duration),
    /// Our own inner ICMP echo, sent on this epoch, was answered after this round-trip time, on whichever
    /// inbound SA of the tunnel.
    Icmp(Duration),
    /// The client's data arrived on it. A gated client sends data only after our answer to its ping has
    /// reached it, so our direction is proven as well.
    PeerData,
    /// The peer does not answer pings; one of the signals of RFC 7296 §2.8 stands in. Not a proof of the
    /// path, and shown as such.
    Released(Release),
}

impl Proof {
    /// Whether a packet has shown that the path carries our direction.
    #[must_use]
    pub fn is_proof(self) -> bool {
        !matches!(self, Self::Released(_))
    }
}

/// Why an epoch is released without a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The tunnel has nothing else to send on.
    FirstSa,
    /// We asked for the rekey and the responder has answered: it can receive (RFC 7296 §2.8).
    RekeyAnswered,
    /// An authenticated packet arrived on the new SA (RFC 7296 §2.8, signal 1).
    InboundOnNew,
    /// The peer deleted the SA that this one replaces (RFC 7296 §2.8, signal 2), or that one expired.
    OldDeleted,
    /// The target of ICMP that used to answer is silent on fresh SAs of a new IKE SA, too.
    TargetSilent,
    /// The peer announced ESP Echo and never answered one.
    MutePeer,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ping(_) => f.write_str("ping"),
            Self::Icmp(_) => f.write_str("icmp"),
            Self::PeerData => f.write_str("peer-data"),
            Self::Released(Release::FirstSa) => f.write_str("released:first-sa"),
            Self::Released(Release::RekeyAnswered) => f.write_str("released:rekey-answered"),
            Self::Released(Release::InboundOnNew) => f.write_str("released:inbound-on-new"),
            Self::Released(Release::OldDeleted) => f.write_str("released:old-deleted"),
            Self::Released(Release::TargetSilent) => f.write_str("released:target-silent"),
            Self::Released(Release::MutePeer) => f.write_str("released:mute-peer"),
        }
    }
}
