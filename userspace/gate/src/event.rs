//! What goes into the gate and what comes out.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use mitregate_esp::ids::EpochId;
use mitregate_wire::{echo::Echo, esp::Spi};

use crate::{Action, Activity, Proven, Recoveries, Recovery, State, UserPing, UserPingEvent};

/// A new pair of SAs, ready to receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its id, larger than those of all earlier epochs.
    pub epoch: EpochId,
    /// SPI of our inbound SA.
    pub spi_in: Spi,
    /// SPI of our outbound SA.
    pub spi_out: Spi,
    /// Whether the peer announced that it answers ESP Echo.
    pub peer_echo: bool,
    /// Where an inner ICMP echo can be sent to, if the selectors let it pass both ways.
    pub icmp: Option<IpAddr>,
    /// Whether a NAT in between notes each SPI (plain ESP): data on a lost epoch keeps others from their way.
    pub keyed_by_spi: bool,
    /// Whether we started the exchange that made it.
    pub initiated: bool,
    /// The epoch that it rekeys, if any.
    pub replaces: Option<EpochId>,
    /// Both sides rekeyed at once and this epoch, which we made, lost (RFC 7296 §2.8.1): it goes when the
    /// other one is proven.
    pub redundant: bool,
}

/// What the gate is told. Packets are named here only after their ICV was verified.
#[derive(Debug)]
pub enum Input<'a> {
    /// A new epoch can receive.
    Installed(Installed),
    /// An ESP Echo arrived on this epoch's inbound SA.
    Echo {
        /// The epoch.
        epoch: EpochId,
        /// The message.
        echo: Echo<'a>,
    },
    /// An answer to one of our inner ICMP echos, known by its secret, arrived.
    IcmpReply {
        /// The epoch on whose inbound SA it arrived; not always the one on which we asked.
        epoch: EpochId,
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
        /// Bytes of data that came back.
        size: usize,
    },
    /// The first authenticated packet arrived on this epoch, or the first with data if that one had none.
    FirstInbound {
        /// The epoch.
        epoch: EpochId,
        /// Whether it was an inner packet, not a control packet.
        data: bool,
    },
    /// The IKE SA says that the child is gone: the peer deleted it, or confirmed or outlived our Delete.
    Deleted {
        /// The epoch.
        epoch: EpochId,
        /// Whether the peer asked for it.
        by_peer: bool,
    },
    /// Both sides rekeyed at once and this epoch, which the peer made, lost (RFC 7296 §2.8.1).
    Redundant {
        /// The epoch.
        epoch: EpochId,
    },
    /// The epoch has lived long enough: replace it.
    RekeyDue {
        /// The epoch.
        epoch: EpochId,
    },
    /// The rekey that was asked for cannot be had from this IKE SA.
    RekeyFailed,
    /// The new IKE session that was asked for has brought no epoch, and nobody is at it any more.
    SessionFailed,
    /// Packets seen so far on this tunnel; feed it before [`Gate::handle_timeout`](crate::Gate::handle_timeout).
    Activity(Activity),
    /// Look at the path now: after a suspend, or a change of route or address.
    PathChanged,
    /// The epoch's packets take another encapsulation from now on: if pings were lost and are answered
    /// again, that is why.
    EncapChanged {
        /// The epoch.
        epoch: EpochId,
    },
    /// A person wants to know.
    UserPing(UserPing),
    /// Stop that person's ping.
    UserPingStop {
        /// As in [`UserPing::token`].
        token: u64,
    },
}

/// What the gate wants done, in order.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Seal this payload on the epoch's outbound SA with next header
    /// [`AGGFRAG_PAYLOAD`](mitregate_wire::echo::NEXT_HEADER) and send it, before any data.
    SendEcho {
        /// The epoch.
        epoch: EpochId,
        /// The ESP Echo message.
        payload: Vec<u8>,
    },
    /// Send an inner ICMP echo request to the epoch's target on its outbound SA, before any data.
    SendIcmp {
        /// The epoch.
        epoch: EpochId,
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
        /// Bytes of data, at least.
        size: usize,
    },
    /// Data goes out on this epoch from now on.
    Activate(Proven),
    /// Data waits, although this epoch is active: all its pings were lost, and sending on it does harm. Over
    /// with the next [`Output::Activate`].
    Hold {
        /// The epoch.
        epoch: EpochId,
    },
    /// Ask the IKE SA of this epoch for a fresh pair of SAs in its place.
    Rekey {
        /// The epoch that does not do any more.
        replaces: EpochId,
        /// Why.
        reason: Reason,
    },
    /// Start a whole new IKE SA beside what there is.
    NewIkeSession {
        /// Why.
        reason: Reason,
    },
    /// Delete the epoch at the peer; answer with [`Input::Deleted`] when it is gone.
    Delete {
        /// The epoch.
        epoch: EpochId,
    },
    /// Remove both SAs of the epoch.
    Retire {
        /// The epoch.
        epoch: EpochId,
    },
    /// For logs, lists and waiters.
    Event(GateEvent),
}

/// Why the gate asked for something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// All pings on a new epoch went without an answer.
    Unproven,
    /// All pings on an epoch that had been proven went without an answer.
    PathLost,
    /// The epoch reached its soft lifetime.
    Lifetime,
    /// A rekey gave nothing within [`GateConfig::rekey_patience`](crate::GateConfig::rekey_patience).
    RekeyUnanswered,
    /// A rekey was refused.
    RekeyFailed,
    /// The peer deleted the last epoch.
    Deleted,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unproven => "pings on a new epoch went unanswered",
            Self::PathLost => "pings on a proven epoch went unanswered",
            Self::Lifetime => "the epoch has lived long enough",
            Self::RekeyUnanswered => "a rekey gave nothing in time",
            Self::RekeyFailed => "a rekey was refused",
            Self::Deleted => "the peer deleted the last epoch",
        })
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateEvent {
    /// An epoch changed its state.
    State {
        /// The epoch.
        epoch: EpochId,
        /// Before.
        from: State,
        /// After.
        to: State,
    },
    /// One of the gate's pings was answered.
    PingAnswered {
        /// The epoch.
        epoch: EpochId,
        /// Round-trip time.
        rtt: Duration,
    },
    /// One of the gate's pings was not answered in time.
    PingLost {
        /// The epoch.
        epoch: EpochId,
        /// How many in a row.
        in_a_row: u32,
    },
    /// The gate did something on its own account.
    Acted(Action),
    /// Pings were lost, and the path is proven again.
    Recovered {
        /// What brought it back.
        kind: Recovery,
        /// How long it was a black hole, from the first sign on.
        outage: Duration,
    },
    /// Nothing is asked, or nobody answers; data flows unproven. Said once per tunnel.
    Optimistic {
        /// The epoch.
        epoch: EpochId,
    },
    /// A ping of the peer was not answered.
    EchoRefused {
        /// The epoch.
        epoch: EpochId,
        /// Why.
        refusal: EchoRefusal,
    },
    /// Progress of a user's ping.
    UserPing {
        /// As in [`UserPing::token`].
        token: u64,
        /// What.
        event: UserPingEvent,
    },
}

/// Why a ping of the peer was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoRefusal {
    /// Too many of them.
    RateLimited,
    /// The return SPI is not an SA of this tunnel, or one that we may not send on yet.
    ForeignReturnSpi,
}

/// Counts since the gate was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GateCounters {
    /// Pings sent by the gate on its own account.
    pub pings_sent: u64,
    /// Of those, answered.
    pub pings_answered: u64,
    /// Of those, not answered in time (a late answer counts in both).
    pub pings_lost: u64,
    /// Answers given to the peer's pings.
    pub echoes_answered: u64,
    /// The peer's pings left unanswered, by [`EchoRefusal`].
    pub echoes_refused: u64,
    /// Epochs proven.
    pub proven: u64,
    /// Epochs released without a proof.
    pub released: u64,
    /// Ends of black holes, by what ended them.
    pub recoveries: Recoveries,
    /// Rekeys asked for.
    pub rekeys: u64,
    /// New IKE sessions asked for.
    pub new_sessions: u64,
}
