//! `udp-symmetric`: a new random port for each destination, as carrier-grade and mobile NATs do it (RFC 4787
//! §4.1, "address and port-dependent mapping" with a filter of the same kind).
//!
//! - **Keys.** UDP by inside address and port and outside address and port.
//! - **Creation.** By a packet from the inside that no entry has: the public port is drawn at random from
//!   1024–65535 among those that no live entry has.
//! - **Matching.** Outbound by the key; inbound by public port, and only from the outside address and port of
//!   the entry: all else is dropped.
//! - **Timers.** One for all entries: 30, 60 or 120 s are found in the field; 60 s here, a parameter. Refreshed
//!   by packets from the inside; by those from the outside too unless the parameter says otherwise (RFC 4787
//!   §4.3 leaves that open).
//! - **Full table.** 4096 entries here, a parameter: a new packet is dropped; nothing is evicted.
//! - **ESP** without UDP has no port to draw and does not pass. Such boxes differ, and no figure is known;
//!   those that pass it do so as `conntrack-generic` does.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand_core::Rng;

use super::{Middlebox, port_in};
use crate::sim::packet::Packet;

/// Default of a mapping's life.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Default of the table's size.
const MAX_ENTRIES: usize = 4096;
/// Draws for a free port before the packet is dropped.
const DRAWS: usize = 128;

/// Inside and outside ends.
type Flow = (SocketAddr, SocketAddr);

struct Entry {
    port: u16,
    expires: Duration,
}

/// See the [module](self).
pub struct UdpSymmetric {
    public: Ipv4Addr,
    timeout: Duration,
    refreshed_from_outside: bool,
    max_entries: usize,
    entries: BTreeMap<Flow, Entry>,
    ports: BTreeMap<u16, Flow>,
}

impl UdpSymmetric {
    /// With the defaults above.
    #[must_use]
    pub fn new(public: Ipv4Addr) -> Self {
        Self::with(public, TIMEOUT, true, MAX_ENTRIES)
    }

    /// With other parameters.
    #[must_use]
    pub fn with(
        public: Ipv4Addr,
        timeout: Duration,
        refreshed_from_outside: bool,
        max_entries: usize,
    ) -> Self {
        Self {
            public,
            timeout,
            refreshed_from_outside,
            max_entries,
            entries: BTreeMap::new(),
            ports: BTreeMap::new(),
        }
    }

    fn drop_expired(&mut self, now: Duration) {
        let ports = &mut self.ports;
        self.entries.retain(|_, entry| {
            let live = entry.expires > now;
            if !live {
                ports.remove(&entry.port);
            }
            live
        });
    }

    fn free_port(&self, rng: &mut dyn Rng) -> Option<u16> {
        (0..DRAWS)
            .map(|_| port_in(rng, 1024, u16::MAX))
            .find(|port| !self.ports.contains_key(port))
    }
}

impl Middlebox for UdpSymmetric {
    fn name(&self) -> &'static str {
        "udp-symmetric"
    }

    fn public(&self) -> Ipv4Addr {
        self.public
    }

    fn outbound(
        &mut self,
        now: Duration,
        mut packet: Packet,
        rng: &mut dyn Rng,
        out: &mut Vec<Packet>,
    ) {
        if packet.is_bare_esp() {
            return;
        }
        let flow = (packet.src, packet.dst);
        self.drop_expired(now);
        if !self.entries.contains_key(&flow) {
            if self.entries.len() >= self.max_entries {
                return;
            }
            let Some(port) = self.free_port(rng) else {
                return;
            };
            let expires = now;
            self.entries.insert(flow, Entry { port, expires });
            self.ports.insert(port, flow);
        }
        if let Some(entry) = self.entries.get_mut(&flow) {
            entry.expires = now + self.timeout;
            packet.src = SocketAddr::new(IpAddr::V4(self.public), entry.port);
            out.push(packet);
        }
    }

    fn inbound(
        &mut self,
        now: Duration,
        mut packet: Packet,
        _rng: &mut dyn Rng,
        out: &mut Vec<Packet>,
    ) {
        if packet.is_bare_esp() {
            return;
        }
        self.drop_expired(now);
        let Some(flow) = self.ports.get(&packet.dst.port()).copied() else {
            return;
        };
        if flow.1 != packet.src {
            return;
        }
        if self.refreshed_from_outside
            && let Some(entry) = self.entries.get_mut(&flow)
        {
            entry.expires = now + self.timeout;
        }
        packet.dst = flow.0;
        out.push(packet);
    }

    fn crash(&mut self) {
        self.entries.clear();
        self.ports.clear();
    }

    fn remap(&mut self, public: Ipv4Addr) {
        self.public = public;
        self.crash();
    }

    fn entries(&self) -> usize {
        self.entries.len()
    }
}
