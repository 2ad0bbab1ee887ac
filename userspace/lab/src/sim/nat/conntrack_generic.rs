//! `conntrack-generic`: Linux's netfilter with `masquerade`, as it is today.
//!
//! - **Keys.** UDP by both addresses and both ports. ESP has no tracker: by both addresses alone, the SPI
//!   is not looked at. Each entry has the tuple of its first packet and the tuple of the answers to it,
//!   and is found by either.
//! - **Creation.** By a packet from the inside that no entry has. The source address becomes the public
//!   one; the source port stays if the tuple of the answers is free with it, else a free one is drawn from
//!   the same class (1–511, 600–1023, 1024–65535: `nf_nat_l4proto_unique_tuple`). ESP has nothing to draw:
//!   the second client to the same server collides with the first, and its packets are dropped for as
//!   long as the first one's entry lives.
//! - **Matching.** Outbound by the first tuple, inbound by the tuple of the answers; what is inbound and has
//!   no entry is for the box itself, and dropped.
//! - **Timers** (`/proc/sys/net/netfilter`). UDP 30 s until an answer was seen, from then on 120 s for what
//!   is older than two seconds (`udp_timeout`, `udp_timeout_stream`); all else 600 s (`generic_timeout`).
//!   Every packet refreshes, in either direction.
//! - **Full table.** `nf_conntrack_max`; 65 536 here, a parameter. Of the entries that are not assured (UDP
//!   until it is a stream; ESP never is) the one that expires first goes; with none, the new packet is
//!   dropped. The kernel looks for its victim in eight hash buckets only; this looks at all.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand_core::Rng;

use super::{Middlebox, port_in};
use crate::sim::packet::Packet;

/// `nf_conntrack_udp_timeout`.
const UDP_UNREPLIED: Duration = Duration::from_secs(30);
/// `nf_conntrack_udp_timeout_stream`.
const UDP_STREAM: Duration = Duration::from_secs(120);
/// A UDP entry becomes a stream when a packet comes this long after its first.
const STREAM_AFTER: Duration = Duration::from_secs(2);
/// `nf_conntrack_generic_timeout`.
pub const GENERIC: Duration = Duration::from_secs(600);
/// `nf_conntrack_max`.
const MAX_ENTRIES: usize = 65_536;
/// Draws for a free port before the packet is dropped.
const DRAWS: usize = 128;

/// Source and destination; the port is 0 for ESP.
type Tuple = (SocketAddr, SocketAddr);

struct Entry {
    /// As it leaves on the outside.
    mapped: SocketAddr,
    created: Duration,
    expires: Duration,
    replied: bool,
    assured: bool,
}

/// See the [module](self).
pub struct ConntrackGeneric {
    public: Ipv4Addr,
    max_entries: usize,
    /// By the tuple of the first packet.
    entries: BTreeMap<Tuple, Entry>,
    /// From the tuple of the answers to that of the first packet.
    answers: BTreeMap<Tuple, Tuple>,
}

impl ConntrackGeneric {
    /// With Linux's defaults.
    #[must_use]
    pub fn new(public: Ipv4Addr) -> Self {
        Self::with_max_entries(public, MAX_ENTRIES)
    }

    /// With a table of this size.
    #[must_use]
    pub fn with_max_entries(public: Ipv4Addr, max_entries: usize) -> Self {
        Self {
            public,
            max_entries,
            entries: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    fn remove(&mut self, tuple: Tuple) {
        if let Some(entry) = self.entries.remove(&tuple) {
            self.answers.remove(&(tuple.1, entry.mapped));
        }
    }

    /// The entry, if it has not expired; else it goes.
    fn live(&mut self, now: Duration, tuple: Tuple) -> Option<&mut Entry> {
        if self.entries.get(&tuple)?.expires <= now {
            self.remove(tuple);
        }
        self.entries.get_mut(&tuple)
    }

    fn is_free(&mut self, now: Duration, answer: Tuple) -> bool {
        match self.answers.get(&answer).copied() {
            Some(owner) => self.live(now, owner).is_none(),
            None => true,
        }
    }

    fn choose(&mut self, now: Duration, tuple: Tuple, rng: &mut dyn Rng) -> Option<SocketAddr> {
        let (src, dst) = tuple;
        let public = IpAddr::V4(self.public);
        let same = SocketAddr::new(public, src.port());
        if self.is_free(now, (dst, same)) {
            return Some(same);
        }
        let (low, high) = match src.port() {
            0 => return None,
            1..512 => (1, 511),
            512..1024 => (600, 1023),
            _ => (1024, u16::MAX),
        };
        (0..DRAWS).find_map(|_| {
            let other = SocketAddr::new(public, port_in(rng, low, high));
            self.is_free(now, (dst, other)).then_some(other)
        })
    }

    fn make_room(&mut self, now: Duration) -> bool {
        if self.entries.len() < self.max_entries {
            return true;
        }
        let mut victims = self
            .entries
            .iter()
            .filter(|(_, e)| !e.assured || e.expires <= now)
            .map(|(tuple, e)| (e.expires, *tuple))
            .collect::<Vec<_>>();
        victims.sort_unstable();
        match victims.first() {
            Some((_, tuple)) => {
                self.remove(*tuple);
                true
            }
            None => false,
        }
    }
}

impl Entry {
    fn refresh(&mut self, now: Duration, udp: bool) {
        let timeout = if !udp {
            GENERIC
        } else if self.replied && now >= self.created + STREAM_AFTER {
            self.assured = true;
            UDP_STREAM
        } else {
            UDP_UNREPLIED
        };
        self.expires = now + timeout;
    }
}

impl Middlebox for ConntrackGeneric {
    fn name(&self) -> &'static str {
        "conntrack-generic"
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
        let udp = !packet.is_bare_esp();
        let tuple = (packet.src, packet.dst);
        if self.live(now, tuple).is_none() {
            let Some(mapped) = self.choose(now, tuple, rng) else {
                return;
            };
            if !self.make_room(now) {
                return;
            }
            self.answers.insert((packet.dst, mapped), tuple);
            self.entries.insert(
                tuple,
                Entry {
                    mapped,
                    created: now,
                    expires: now,
                    replied: false,
                    assured: false,
                },
            );
        }
        if let Some(entry) = self.entries.get_mut(&tuple) {
            entry.refresh(now, udp);
            packet.src = entry.mapped;
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
        let udp = !packet.is_bare_esp();
        let Some(tuple) = self.answers.get(&(packet.src, packet.dst)).copied() else {
            return;
        };
        if let Some(entry) = self.live(now, tuple) {
            entry.replied = true;
            entry.refresh(now, udp);
            packet.dst = tuple.0;
            out.push(packet);
        }
    }

    fn crash(&mut self) {
        self.entries.clear();
        self.answers.clear();
    }

    fn remap(&mut self, public: Ipv4Addr) {
        self.public = public;
        self.crash();
    }

    fn entries(&self) -> usize {
        self.entries.len()
    }
}
