use std::{net::IpAddr, os::fd::BorrowedFd, path::PathBuf};

use mitregate_ebpf_common::Role;

use crate::{Counters, LoadError};

/// How to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeRequest {
    /// Native; generic where the driver has no XDP ([`Classifier::fallback`] says why).
    #[default]
    Auto,
    /// In the driver, or an error.
    Native,
    /// In the network stack, after the kernel has allocated an skb.
    Generic,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

/// What to load, and where.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// Interface name in the calling thread's network namespace.
    pub interface: String,
    /// Which program.
    pub role: Role,
    /// How to attach.
    pub mode: ModeRequest,
    /// Our outer addresses; without effect for [`Role::Inner`].
    pub addresses: Vec<IpAddr>,
    /// Rare events that the program itself reports, up to this level; `None` for none.
    pub log: Option<tracing::Level>,
    /// A directory on a bpffs, made when absent: pin program, link and maps there, so that they
    /// outlive this process.
    pub pin: Option<PathBuf>,
}

/// The classifier, attached to one interface. Detaches when dropped, unless pinned.
pub struct Classifier {
    mode: Mode,
    fallback: Option<String>,
}

impl Classifier {
    /// Load the program and attach it to `config.interface`.
    pub fn load_and_attach(_config: &LoadConfig) -> Result<Self, LoadError> {
        Err(LoadError::NoObject)
    }

    /// Bind receive queue `queue` (below [`crate::MAX_QUEUES`]) to an AF_XDP socket.
    pub fn set_socket(&mut self, _queue: u32, _socket: BorrowedFd<'_>) -> Result<(), LoadError> {
        Err(LoadError::NoObject)
    }

    /// Take the socket of a queue away: its packets pass (outer) or are dropped (inner) again.
    pub fn clear_socket(&mut self, _queue: u32) -> Result<(), LoadError> {
        Err(LoadError::NoObject)
    }

    /// Replace our outer addresses (at most [`crate::MAX_ADDRESSES`]). New ones are added before
    /// old ones go.
    pub fn set_addresses(&mut self, _addresses: &[IpAddr]) -> Result<(), LoadError> {
        Err(LoadError::NoObject)
    }

    /// Read the counters.
    pub fn counters(&self) -> Result<Counters, LoadError> {
        Err(LoadError::NoObject)
    }

    /// How it is attached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why [`ModeRequest::Auto`] ended in generic mode.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Hand on what the program has logged to `tracing`; call it now and then.
    pub fn flush_log(&mut self) {}
}
