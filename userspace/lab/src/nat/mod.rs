//! Boxes in the middle of the network, as pure state machines: packet in, packets out, `now` and every
//! random number as arguments. What a box does to the traffic of real hosts is the same code.
//!
//! Each model's file says what it keys on, what makes an entry, in which order it matches, its timers and
//! what refreshes them, what it evicts and what a full table does; its figures are the fields of its
//! parameters. What the models have in common is in two tables: [`ports`] for whatever has ports or needs
//! none, and one for ESP by its SPIs. No model puts fragments together: it drops them.

mod conntrack_generic;
mod cpe_8_entries;
mod esp;
mod faults;
mod hold_until_reply;
mod model;
mod oldest_incomplete;
mod packet;
mod pairs;
pub mod ports;
mod rows;
mod stateful_fw;
mod translator;
mod udp_eim;
mod udp_symmetric;
mod vpn_masquerade;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use rand_core::Rng;

pub use conntrack_generic::ConntrackGeneric;
pub use cpe_8_entries::Cpe8Entries;
pub use faults::{Faults, Faulty};
pub use hold_until_reply::HoldUntilReply;
pub use model::Model;
pub use oldest_incomplete::OldestIncomplete;
pub use packet::{Packet, Quote};
pub use pairs::PairRules;
pub use rows::{Row, table};
pub use stateful_fw::StatefulFw;
pub use translator::Translator;
pub use udp_eim::UdpEim;
pub use udp_symmetric::UdpSymmetric;
pub use vpn_masquerade::VpnMasquerade;

/// What leaves a box.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Output {
    /// Towards the network.
    pub outside: Vec<Packet>,
    /// Towards the hosts behind it.
    pub inside: Vec<Packet>,
}

impl Output {
    /// Whether nothing does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outside.is_empty() && self.inside.is_empty()
    }
}

/// What is another after a box was given a new place in the network; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remap {
    /// The public address, of the same family.
    pub address: Option<IpAddr>,
    /// Ports are drawn from these from now on, whatever the model did before; what is known by the
    /// address alone or keeps its port (ESP, IKE at `vpn-masquerade`) does not move by this.
    pub ports: Option<RangeInclusive<u16>>,
}

impl Remap {
    /// Another address.
    #[must_use]
    pub fn address(address: impl Into<IpAddr>) -> Self {
        let address = Some(address.into());
        Self {
            address,
            ..Self::default()
        }
    }

    /// Other ports.
    #[must_use]
    pub fn ports(ports: RangeInclusive<u16>) -> Self {
        let ports = Some(ports);
        Self {
            ports,
            ..Self::default()
        }
    }
}

/// A box with an inside and an outside.
pub trait Middlebox: Send {
    /// Its model's name.
    fn name(&self) -> &'static str;

    /// The address by which the outside knows what is inside. `None`: it does not translate, and the hosts
    /// behind it are known by their own.
    fn public(&self) -> Option<IpAddr>;

    /// A packet from the inside; what leaves for it, if anything does.
    fn outbound(&mut self, now: Duration, packet: Packet, rng: &mut dyn Rng, out: &mut Output);

    /// A packet from the outside, to [`Self::public`] or to a host behind a box that does not translate.
    fn inbound(&mut self, now: Duration, packet: Packet, rng: &mut dyn Rng, out: &mut Output);

    /// When [`Self::handle_timeout`] is to be called next: when something that was held has waited enough.
    fn poll_timeout(&self) -> Option<Duration> {
        None
    }

    /// Lets go what has waited enough.
    fn handle_timeout(&mut self, _now: Duration, _rng: &mut dyn Rng, _out: &mut Output) {}

    /// All tables are lost.
    fn crash(&mut self);

    /// Moves in the network; all tables are lost.
    fn remap(&mut self, remap: &Remap);

    /// Entries at this moment, those that have expired and were not touched since included.
    fn entries(&self) -> usize;

    /// The live entries, for people.
    fn show(&self, now: Duration) -> Vec<Row>;
}

/// Short, for parameters.
const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests;
