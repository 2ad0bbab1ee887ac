//! `conntrack-generic`: Linux's netfilter with `masquerade`, as it is today.
//!
//! - **Keys.** UDP and TCP by both addresses and both ports, ICMP echo by both addresses and its identifier.
//!   ESP has no tracker: by both addresses alone, the SPI is not looked at; so is every other protocol. Each
//!   entry has the tuple of its first packet and the tuple of the answers to it, and is found by either.
//! - **Creation.** By a packet from the inside that no entry has. The source address becomes the public
//!   one; the source port stays if the tuple of the answers is free with it, else a free one is drawn from
//!   the same class (1–511, 600–1023, 1024–65535: `nf_nat_l4proto_unique_tuple`). ESP has nothing to draw:
//!   the second client to the same server collides with the first, and its packets are dropped for as
//!   long as the first one's entry lives.
//! - **Matching.** Outbound by the first tuple, inbound by the tuple of the answers; what is inbound and has
//!   no entry is for the box itself. A filter drops it; where there is none
//!   ([`PortRules::takes_unasked`]), it makes an entry of the box's own: a server whose ESP reaches a box that
//!   has lost its tables before the client's does keeps the client out for as long as it goes on sending.
//! - **Timers** (`/proc/sys/net/netfilter`). UDP 30 s until an answer was seen, from then on 120 s for what
//!   is older than two seconds (`udp_timeout`, `udp_timeout_stream`); TCP 120 s (`tcp_timeout_syn_sent`), then
//!   five days (`tcp_timeout_established`; its end is not looked at); ICMP 30 s; all else 600 s
//!   (`generic_timeout`). Every packet refreshes, in either direction.
//! - **Full table.** `nf_conntrack_max`; 65 536 here. Of the entries that are not assured (UDP until it is a
//!   stream, TCP until it is answered; ESP never is) the one that expires first goes; with none, the new
//!   packet is dropped. The kernel looks for its victim in eight hash buckets only; this looks at all.

use std::net::IpAddr;
use std::time::Duration;

use super::ports::{Choice, Full, Mapping, PortRules, Timers};
use super::{Translator, secs};

/// Its parameters; see the [module](self).
#[derive(Debug, Clone)]
pub struct ConntrackGeneric {
    /// How it maps ports, and what has none.
    pub ports: PortRules,
}

impl ConntrackGeneric {
    /// `nf_conntrack_generic_timeout`.
    pub const GENERIC: Duration = secs(600);
}

impl Default for ConntrackGeneric {
    fn default() -> Self {
        Self {
            ports: PortRules {
                mapping: Mapping::Flow,
                choice: Choice::Keep,
                timers: Timers {
                    udp: secs(30),
                    udp_stream: secs(120),
                    stream_after: secs(2),
                    tcp: secs(120),
                    tcp_answered: secs(5 * 24 * 3600),
                    icmp: secs(30),
                    other: Some(Self::GENERIC),
                },
                refreshed_from_outside: true,
                takes_unasked: false,
                max_entries: 65_536,
                full: Full::EvictsUnassured,
            },
        }
    }
}

impl ConntrackGeneric {
    /// A box with these parameters.
    #[must_use]
    pub fn make(self, public: IpAddr) -> Translator {
        Translator::new("conntrack-generic", Some(public), self.ports, None)
    }
}
