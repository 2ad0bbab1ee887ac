//! `udp-symmetric`: a new random port for each destination, as carrier-grade and mobile NATs do it (RFC 4787
//! §4.1, "address and port-dependent mapping" with a filter of the same kind).
//!
//! - **Keys.** UDP and TCP by inside address and port and outside address and port, ICMP echo by both addresses
//!   and its identifier.
//! - **Creation.** By a packet from the inside that no entry has: the public port is drawn at random from
//!   1024–65535 among those that no live entry has.
//! - **Matching.** Outbound by the key; inbound by public port, and only from the outside address and port of
//!   the entry: all else is dropped.
//! - **Timers.** One for all entries of UDP: 30, 60 or 120 s are found in the field; 60 s here. Refreshed by
//!   packets from the inside; by those from the outside too unless the parameter says otherwise (RFC 4787 §4.3
//!   leaves that open). TCP and ICMP as RFC 5382 and RFC 5508 ask for.
//! - **Full table.** 4096 entries, chosen: a new packet is dropped; nothing is evicted.
//! - **ESP** without UDP has no port to draw and does not pass. Such boxes differ, and no figure is known;
//!   those that pass it do so as `conntrack-generic` does.

use std::net::IpAddr;

use super::ports::{Choice, Full, Mapping, PortRules, Timers};
use super::{Translator, secs};

/// Its parameters; see the [module](self).
#[derive(Debug, Clone)]
pub struct UdpSymmetric {
    /// How it maps ports.
    pub ports: PortRules,
}

impl Default for UdpSymmetric {
    fn default() -> Self {
        Self {
            ports: PortRules {
                mapping: Mapping::Flow,
                choice: Choice::Draw(1024..=u16::MAX),
                timers: Timers {
                    udp: secs(60),
                    udp_stream: secs(60),
                    ..Timers::default()
                },
                refreshed_from_outside: true,
                takes_unasked: false,
                max_entries: 4096,
                full: Full::Drops,
            },
        }
    }
}

impl UdpSymmetric {
    /// A box with these parameters.
    #[must_use]
    pub fn make(self, public: IpAddr) -> Translator {
        Translator::new("udp-symmetric", Some(public), self.ports, None)
    }
}
