//! `oldest-incomplete`: a tracker that keeps both SPIs and guesses by age.
//!
//! - **Keys.** ESP by local (outbound) SPI, client and server; what comes back by remote (inbound) SPI and
//!   server. UDP, TCP and ICMP as `conntrack-generic`, which is a choice: no figure is known.
//! - **Creation.** By an outbound SPI that has no entry, at once: clients do not wait for each other, so those
//!   that start together are mixed up if their answers come in another order than their packets went.
//! - **Matching.** Outbound by the key. Inbound, the entry with that SPI; else the *oldest* entry of that server
//!   that is incomplete, whose it is from then on; else dropped.
//! - **Timers.** 20 s, complete or not; packets refresh in either direction.
//! - **Full table.** 1024 entries: a packet that needs one more is dropped (chosen; nothing is evicted).

use std::net::IpAddr;

use super::esp::Order;
use super::pairs::{PairRules, Pairs};
use super::ports::PortRules;
use super::{ConntrackGeneric, Translator, secs};

/// Its parameters; see the [module](self).
#[derive(Debug, Clone)]
pub struct OldestIncomplete {
    /// ESP.
    pub esp: PairRules,
    /// All other traffic.
    pub ports: PortRules,
}

impl Default for OldestIncomplete {
    fn default() -> Self {
        Self {
            esp: PairRules {
                incomplete: secs(20),
                complete: secs(20),
                max_entries: 1024,
            },
            ports: ConntrackGeneric::default().ports,
        }
    }
}

impl OldestIncomplete {
    /// A box with these parameters.
    #[must_use]
    pub fn make(self, public: IpAddr) -> Translator {
        let tracker = Pairs::tracker(self.esp, Order::Age);
        Translator::new("oldest-incomplete", Some(public), self.ports, Some(tracker))
    }
}
