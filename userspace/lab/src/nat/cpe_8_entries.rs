//! `cpe-8-entries`: the ESP tracker that many kernels of home routers carry.
//!
//! - **Keys.** ESP by client, server and outbound SPI; what comes back by server and inbound SPI. UDP, TCP and
//!   ICMP as `conntrack-generic`: these kernels are Linux; IKE is UDP like any other.
//! - **Creation.** By an outbound SPI that has no entry: it takes the first of eight slots that is free. An
//!   inbound SPI makes none.
//! - **Matching.** Outbound by the key. Inbound, the entry with that SPI; else the first slot of that server
//!   without an inbound SPI, whose it is from then on; else dropped. So an SPI that the WAN side changes is not
//!   followed until the client has sent on a new one of its own.
//! - **Timers.** 30 s until an inbound SPI was seen, then 60 s; packets refresh in either direction.
//! - **Full table.** All eight taken: a packet that needs an entry is dropped; nothing is evicted.

use std::net::IpAddr;

use super::esp::Order;
use super::pairs::{PairRules, Pairs};
use super::ports::PortRules;
use super::{ConntrackGeneric, Translator, secs};

/// Its parameters; see the [module](self).
#[derive(Debug, Clone)]
pub struct Cpe8Entries {
    /// ESP.
    pub esp: PairRules,
    /// All other traffic.
    pub ports: PortRules,
}

impl Default for Cpe8Entries {
    fn default() -> Self {
        Self {
            esp: PairRules {
                incomplete: secs(30),
                complete: secs(60),
                max_entries: 8,
            },
            ports: ConntrackGeneric::default().ports,
        }
    }
}

impl Cpe8Entries {
    /// A box with these parameters.
    #[must_use]
    pub fn make(self, public: IpAddr) -> Translator {
        let tracker = Pairs::tracker(self.esp, Order::Slots);
        Translator::new("cpe-8-entries", Some(public), self.ports, Some(tracker))
    }
}
