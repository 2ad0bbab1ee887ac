//! `udp-eim`: endpoint-independent mapping, as RFC 4787 asks for (REQ-1).
//!
//! - **Keys.** UDP, TCP and ICMP echo by inside address and port (identifier) alone.
//! - **Creation.** By a packet from the inside that no entry has: the port stays if it is free, else one is
//!   drawn from its class. Whomever the inside talks to, it is known by the same port.
//! - **Matching.** Outbound by the key; inbound by public port, from addresses that were sent to before, from
//!   any of their ports (address-dependent filtering, which REQ-8 allows; chosen).
//! - **Timers.** UDP 30 s until an answer was seen, then 120 s; packets refresh in either direction. TCP and
//!   ICMP as RFC 5382 and RFC 5508 ask for.
//! - **Full table.** 4096 entries, chosen: a new packet is dropped; nothing is evicted.
//! - **ESP** without UDP has no port and does not pass, as at `udp-symmetric`.

use std::net::IpAddr;

use super::ports::{Choice, Full, Mapping, PortRules, Timers};
use super::{Translator, secs};

/// Its parameters; see the [module](self).
#[derive(Debug, Clone)]
pub struct UdpEim {
    /// How it maps ports.
    pub ports: PortRules,
}

impl Default for UdpEim {
    fn default() -> Self {
        Self {
            ports: PortRules {
                mapping: Mapping::Endpoint,
                choice: Choice::Keep,
                timers: Timers {
                    stream_after: secs(0),
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

impl UdpEim {
    /// A box with these parameters.
    #[must_use]
    pub fn make(self, public: IpAddr) -> Translator {
        Translator::new("udp-eim", Some(public), self.ports, None)
    }
}
