//! One epoch as the gate knows it.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use mitregate_esp::ids::EpochId;
use mitregate_wire::esp::Spi;

use crate::{GateMode, Installed, Proof, probe::Probe};

/// What an operator sees of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Receives; sends nothing yet.
    Installed,
    /// New, and its pings are on their way.
    Probing,
    /// Carries data (or is released to: see [`Proof`]).
    Proven,
    /// Pings are lost. A proven one goes on carrying data until another is proven.
    Suspect,
    /// Replaced; receives what is still on its way.
    Draining,
    /// Gone.
    Dead,
}

impl State {
    /// The word in lists and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Probing => "probing",
            Self::Proven => "proven",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A row of `list-sas`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochView {
    /// The epoch.
    pub epoch: EpochId,
    /// Its state.
    pub state: State,
    /// Since when it is in that state.
    pub since: Duration,
    /// When it was installed.
    pub installed: Duration,
    /// What lets it carry data, once something does.
    pub proof: Option<Proof>,
    /// Whether it is the one that carries data.
    pub active: bool,
    /// Round-trip time of the last ping that was answered on it.
    pub last_rtt: Option<Duration>,
    /// SPI of the inbound SA.
    pub spi_in: Spi,
    /// SPI of the outbound SA.
    pub spi_out: Spi,
}

/// See [`EpochView`].
#[derive(Debug, Clone)]
pub(crate) struct Epoch {
    pub(crate) id: EpochId,
    pub(crate) spi_in: Spi,
    pub(crate) spi_out: Spi,
    pub(crate) peer_echo: bool,
    pub(crate) keyed_by_spi: bool,
    /// Asked by an inner ICMP echo to this address.
    pub(crate) icmp: Option<IpAddr>,
    pub(crate) replaces: Option<EpochId>,
    /// We made it.
    pub(crate) initiated: bool,
    /// Another successor of the same epoch counts: this one is not to be proven beside it.
    pub(crate) redundant: bool,
    pub(crate) state: State,
    pub(crate) since: Duration,
    pub(crate) installed: Duration,
    pub(crate) proof: Option<Proof>,
    pub(crate) last_rtt: Option<Duration>,
    /// When something authenticated last arrived on it, as far as the gate was told.
    pub(crate) heard: Option<Duration>,
    /// When the peer's own ping on it was last answered by us.
    pub(crate) peer_pinged: Option<Duration>,
    /// The peer sends data on it.
    pub(crate) peer_data: bool,
    pub(crate) probe: Probe,
    /// When one that is draining, or that the client may have forgotten, is next looked at.
    pub(crate) drain_deadline: Option<Duration>,
    /// Its Delete was asked for.
    pub(crate) deleting: bool,
}

impl Epoch {
    pub(crate) fn new(now: Duration, installed: &Installed, mode: GateMode, ping_id: u16) -> Self {
        let peer_echo = installed.peer_echo && mode.uses_echo();
        let by_icmp = matches!(mode, GateMode::Auto | GateMode::Icmp) && !peer_echo;
        Self {
            id: installed.epoch,
            spi_in: installed.spi_in,
            spi_out: installed.spi_out,
            peer_echo,
            keyed_by_spi: installed.keyed_by_spi,
            icmp: installed.icmp.filter(|_| by_icmp),
            replaces: installed.replaces,
            initiated: installed.initiated,
            redundant: installed.redundant,
            state: State::Installed,
            since: now,
            installed: now,
            proof: None,
            last_rtt: None,
            heard: None,
            peer_pinged: None,
            peer_data: false,
            probe: Probe::new(ping_id),
            drain_deadline: None,
            deleting: false,
        }
    }

    /// Neither proven nor on its way out.
    pub(crate) fn is_unproven(&self) -> bool {
        self.proof.is_none() && self.state != State::Draining
    }

    /// Whether there is a way to ask on it.
    pub(crate) fn can_be_asked(&self) -> bool {
        self.peer_echo || self.icmp.is_some()
    }

    /// When it began to be what it is, or when something last arrived on it.
    pub(crate) fn last_sign(&self) -> Duration {
        self.since.max(self.heard.unwrap_or_default())
    }

    /// Since when the peer is known to send on it.
    pub(crate) fn peer_moved(&self) -> Option<Duration> {
        match self.proof {
            // It moves when we delete the old one: now, for that matter.
            Some(_) if self.initiated && !self.peer_echo => Some(self.since),
            _ if self.peer_data => Some(self.since),
            _ => self.peer_pinged,
        }
    }

    pub(crate) fn view(&self, active: Option<EpochId>) -> EpochView {
        EpochView {
            epoch: self.id,
            state: self.state,
            since: self.since,
            installed: self.installed,
            proof: self.proof,
            active: active == Some(self.id),
            last_rtt: self.last_rtt,
            spi_in: self.spi_in,
            spi_out: self.spi_out,
        }
    }
}
