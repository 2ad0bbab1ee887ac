//! The models by their names.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use clap::ValueEnum;
use serde::Serialize;

use super::{
    ConntrackGeneric, Cpe8Entries, HoldUntilReply, Middlebox, OldestIncomplete, StatefulFw, UdpEim,
    UdpSymmetric, VpnMasquerade,
};

/// One of the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Model {
    /// Linux 2.2 with VPN Masquerade: ESP by SPIs, one pending client for each server
    VpnMasquerade,
    /// Linux today: UDP keeps its port if it can, ESP is known by its addresses alone
    ConntrackGeneric,
    /// A home router: eight ESP entries, an unseen SPI goes to the first that waits, 30 and 60 s
    #[value(name = "cpe-8-entries")]
    #[serde(rename = "cpe-8-entries")]
    Cpe8Entries,
    /// ESP by SPIs, an unseen one goes to whoever has waited longest, 20 s
    OldestIncomplete,
    /// Holds the ESP of later clients until the first has its reply
    HoldUntilReply,
    /// One UDP port for each inside port, whoever the peer; ESP does not pass
    UdpEim,
    /// A random UDP port for each destination; ESP does not pass
    UdpSymmetric,
    /// A firewall that translates nothing: inbound after outbound only, ESP by its SPIs
    StatefulFw,
}

impl Model {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::VpnMasquerade,
        Self::ConntrackGeneric,
        Self::Cpe8Entries,
        Self::OldestIncomplete,
        Self::HoldUntilReply,
        Self::UdpEim,
        Self::UdpSymmetric,
        Self::StatefulFw,
    ];

    /// As in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VpnMasquerade => "vpn-masquerade",
            Self::ConntrackGeneric => "conntrack-generic",
            Self::Cpe8Entries => "cpe-8-entries",
            Self::OldestIncomplete => "oldest-incomplete",
            Self::HoldUntilReply => "hold-until-reply",
            Self::UdpEim => "udp-eim",
            Self::UdpSymmetric => "udp-symmetric",
            Self::StatefulFw => "stateful-fw",
        }
    }

    /// What it is, in one line.
    #[must_use]
    pub fn about(self) -> String {
        let help = self.to_possible_value();
        let help = help.as_ref().and_then(|value| value.get_help());
        help.map(ToString::to_string).unwrap_or_default()
    }

    /// A box of this model with its default parameters, known by `public` if it translates.
    #[must_use]
    pub fn make(self, public: impl Into<IpAddr>) -> Box<dyn Middlebox> {
        let public = public.into();
        match self {
            Self::VpnMasquerade => Box::new(VpnMasquerade::default().make(public)),
            Self::ConntrackGeneric => Box::new(ConntrackGeneric::default().make(public)),
            Self::Cpe8Entries => Box::new(Cpe8Entries::default().make(public)),
            Self::OldestIncomplete => Box::new(OldestIncomplete::default().make(public)),
            Self::HoldUntilReply => Box::new(HoldUntilReply::default().make(public)),
            Self::UdpEim => Box::new(UdpEim::default().make(public)),
            Self::UdpSymmetric => Box::new(UdpSymmetric::default().make(public)),
            Self::StatefulFw => Box::new(StatefulFw::default().make()),
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Model {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|model| model.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no NAT model \"{text}\": there are {names}")
        })
    }
}
