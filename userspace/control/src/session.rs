//! One IKE SA and what control knows about it.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeSet;

use mitregate_ike::{Established, IkeSa};
use zeroize::Zeroizing;

/// Names an IKE SA in this process; a larger one is younger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(pub(crate) u64);

pub(crate) struct Session {
    pub(crate) sa: IkeSa,
    /// Known from the start on the initiator, else when the peer has authenticated. What sets it also tells
    /// `Control::of_connection`.
    pub(crate) connection: Option<usize>,
    /// We started the first of the IKE SAs that this one is a rekey of.
    pub(crate) initiator: bool,
    pub(crate) started: Duration,
    pub(crate) established: Option<Box<Established>>,
    /// Where the first request came from, or went to.
    pub(crate) called_from: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Tunnels that a session which is connecting shall bring up.
    pub(crate) wants: BTreeSet<usize>,
    pub(crate) timers: Timers,
    /// IKE messages received.
    pub(crate) messages: u64,
    /// What had been received when the peer was last looked after.
    pub(crate) seen: u64,
    /// It failed, was closed or rekeyed, and goes when IKE says so.
    pub(crate) over: bool,
    /// As last told to the key log.
    pub(crate) logged_keys: Option<Zeroizing<String>>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Timers {
    /// Next keepalive towards the NAT.
    pub(crate) keepalive: Option<Duration>,
    /// Next look at whether the peer is there.
    pub(crate) dpd: Option<Duration>,
    /// When a peer that was asked whether it is there counts as dead.
    pub(crate) dpd_timeout: Option<Duration>,
    /// To be rekeyed.
    pub(crate) rekey: Option<Duration>,
    /// To be replaced by one that authenticates anew.
    pub(crate) reauth: Option<Duration>,
    /// Not to be used any longer.
    pub(crate) expires: Option<Duration>,
    /// Its children were replaced by another session's; to be ended.
    pub(crate) superseded: Option<Duration>,
    /// To be dropped if the peer has not answered our Delete.
    pub(crate) abandon: Option<Duration>,
}

impl Timers {
    pub(crate) fn next(&self) -> Option<Duration> {
        [
            self.keepalive,
            self.dpd,
            self.rekey,
            self.dpd_timeout,
            self.reauth,
            self.expires,
            self.superseded,
            self.abandon,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// `true` once, when the time has come.
pub(crate) fn take_due(timer: &mut Option<Duration>, now: Duration) -> bool {
    timer.take_if(|at| *at <= now).is_some()
}

impl Session {
    /// Authenticated, and not on its way out.
    pub(crate) fn is_usable(&self) -> bool {
        self.established.is_some() && !self.over && self.timers.abandon.is_none()
    }

    pub(crate) fn is_connecting(&self) -> bool {
        self.established.is_none() && !self.over
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.sa
            .poll_timeout()
            .into_iter()
            .chain(self.timers.next())
            .min()
    }
}
