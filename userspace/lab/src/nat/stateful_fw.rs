//! `stateful-fw`: a firewall that translates nothing, IPv6's or IPv4's, after RFC 6092.
//!
//! - **Keys.** UDP and TCP by both addresses and ports, ICMP echo by both addresses and its identifier, ESP by
//!   both addresses and the outbound SPI. (RFC 6092 lets all ESP pass; this is one that does not.)
//! - **Creation.** By a packet from the inside.
//! - **Matching.** Outbound everything passes. Inbound only what answers an entry. An SPI is chosen by its
//!   receiver, so the two directions have two: each outbound SPI opens the way for *one* inbound SPI, the
//!   first unseen one from that server to that client. A server that changes its SPI before the client has
//!   sent on its new one gets nothing in.
//! - **Timers.** UDP and ESP 120 s (REC-14 asks for no less of UDP; for ESP chosen), TCP and ICMP as RFC 5382 and
//!   RFC 5508 ask for; packets refresh in either direction.
//! - **Full table.** 1024 entries of ESP and 4096 of all else, chosen: what needs one more is dropped.
//! - **Remap** loses the tables: there is no address to change, that is the hosts' own.

use super::esp::Order;
use super::pairs::{PairRules, Pairs};
use super::ports::{Choice, Full, Mapping, PortRules, Timers};
use super::{Translator, secs};

/// Its parameters; see the [module](self).
#[derive(Debug, Clone)]
pub struct StatefulFw {
    /// ESP.
    pub esp: PairRules,
    /// All other traffic.
    pub ports: PortRules,
}

impl Default for StatefulFw {
    fn default() -> Self {
        Self {
            esp: PairRules {
                incomplete: secs(120),
                complete: secs(120),
                max_entries: 1024,
            },
            ports: PortRules {
                mapping: Mapping::Flow,
                choice: Choice::Keep,
                timers: Timers {
                    udp: secs(120),
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

impl StatefulFw {
    /// A box with these parameters.
    #[must_use]
    pub fn make(self) -> Translator {
        let tracker = Pairs::tracker(self.esp, Order::Age);
        Translator::new("stateful-fw", None, self.ports, Some(tracker))
    }
}
