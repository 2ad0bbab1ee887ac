//! What the gate did last, and why, for people.

use core::fmt;
use core::time::Duration;

use mitregate_esp::ids::EpochId;

use crate::{Proof, Reason};

/// Why an epoch was pinged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PingCause {
    /// It is new.
    New,
    /// The client's ping has arrived on it: our own direction can be asked for.
    ClientPinged,
    /// Data went out, and nothing authenticated came back.
    Unanswered,
    /// The tunnel fell silent.
    Silent,
    /// The tunnel only receives: that proves one direction only.
    ReceiveOnly,
    /// A suspend, a restart, or another route or address.
    PathChanged,
}

impl fmt::Display for PingCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "it is new",
            Self::ClientPinged => "the client's ping has arrived on it",
            Self::Unanswered => "data went unanswered",
            Self::Silent => "the tunnel fell silent",
            Self::ReceiveOnly => "the tunnel receives, and had not been asked for long",
            Self::PathChanged => "the path may have changed",
        })
    }
}

/// Something that the gate did on its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It began a series of pings.
    Ping {
        /// On this epoch.
        epoch: EpochId,
        /// Why.
        cause: PingCause,
    },
    /// It let data through.
    Activate {
        /// On this epoch.
        epoch: EpochId,
        /// Why.
        proof: Proof,
    },
    /// It asked for fresh SPIs.
    Rekey {
        /// Why.
        reason: Reason,
    },
    /// It asked for a new IKE SA.
    NewSession {
        /// Why.
        reason: Reason,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ping { epoch, cause } => write!(f, "pinged epoch {epoch}: {cause}"),
            Self::Activate { epoch, proof } => write!(f, "opened epoch {epoch} for data: {proof}"),
            Self::Rekey { reason } => write!(f, "asked for a rekey: {reason}"),
            Self::NewSession { reason } => write!(f, "asked for a new IKE SA: {reason}"),
        }
    }
}

/// An [`Action`] and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastAction {
    /// What.
    pub action: Action,
    /// When.
    pub at: Duration,
}
