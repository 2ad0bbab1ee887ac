//! Boxes in the middle of the network, as pure state machines: packet in, packets out, `now` and every
//! random number as arguments. What a box does to the traffic of real hosts is the same code.

pub mod conntrack_generic;
mod udp_symmetric;

use std::net::Ipv4Addr;
use std::time::Duration;

use rand_core::Rng;

pub use conntrack_generic::ConntrackGeneric;
pub use udp_symmetric::UdpSymmetric;

use super::packet::Packet;

/// A box with an inside and an outside.
pub trait Middlebox {
    /// Its model's name.
    fn name(&self) -> &'static str;

    /// The address by which the outside knows what is inside.
    fn public(&self) -> Ipv4Addr;

    /// A packet from the inside; what leaves on the outside, if anything does.
    fn outbound(&mut self, now: Duration, packet: Packet, rng: &mut dyn Rng, out: &mut Vec<Packet>);

    /// A packet from the outside to [`Self::public`]; what leaves on the inside.
    fn inbound(&mut self, now: Duration, packet: Packet, rng: &mut dyn Rng, out: &mut Vec<Packet>);

    /// All tables are lost.
    fn crash(&mut self);

    /// Another public address; all tables are lost with the old one.
    fn remap(&mut self, public: Ipv4Addr);

    /// Entries at this moment, those that have expired and were not touched since included.
    fn entries(&self) -> usize;
}

/// A model by its name in nat-zoo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// [`ConntrackGeneric`].
    ConntrackGeneric,
    /// [`UdpSymmetric`].
    UdpSymmetric,
}

impl Model {
    /// A box of this model with its default parameters.
    #[must_use]
    pub fn make(self, public: Ipv4Addr) -> Box<dyn Middlebox> {
        match self {
            Self::ConntrackGeneric => Box::new(ConntrackGeneric::new(public)),
            Self::UdpSymmetric => Box::new(UdpSymmetric::new(public)),
        }
    }
}

/// Uniform in `low..=high`.
fn port_in(rng: &mut dyn Rng, low: u16, high: u16) -> u16 {
    let span = u32::from(high - low) + 1;
    low + u16::try_from(rng.next_u32() % span).unwrap_or(0)
}

#[cfg(test)]
mod tests;
