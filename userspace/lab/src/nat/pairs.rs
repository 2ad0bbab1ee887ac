//! ESP by pairs of SPIs: each outbound one makes an entry, and the first inbound one that nobody has seen
//! completes the first entry that waits. Three models do that, each with other figures.

use std::net::IpAddr;
use std::time::Duration;

use super::esp::{Entry, EspTable, Order};
use super::translator::Tracker;
use super::{Output, Packet, Quote, Row};

/// The figures.
#[derive(Debug, Clone)]
pub struct PairRules {
    /// Life of an entry whose inbound SPI was not seen yet, without a packet.
    pub incomplete: Duration,
    /// Life of one whose inbound SPI was, without a packet in either direction.
    pub complete: Duration,
    /// Entries at most; a packet that needs one more is dropped.
    pub max_entries: usize,
}

/// See the [module](self).
pub(super) struct Pairs {
    table: EspTable<()>,
    rules: PairRules,
}

impl Pairs {
    pub(super) fn tracker(rules: PairRules, order: Order) -> Box<dyn Tracker> {
        Box::new(Self {
            table: EspTable::new(order, rules.max_entries),
            rules,
        })
    }
}

/// SPI 0 is not for the wire (RFC 4303 §2.1).
pub(super) fn spi(packet: &Packet) -> Option<u32> {
    packet.spi().filter(|spi| *spi != 0)
}

impl Tracker for Pairs {
    fn outbound(
        &mut self,
        now: Duration,
        public: Option<IpAddr>,
        mut packet: Packet,
        out: &mut Output,
    ) {
        self.table.drop_expired(now);
        let Some(spi) = spi(&packet) else { return };
        let incomplete = now + self.rules.incomplete;
        if let Some(entry) = self.table.outbound(&packet, spi) {
            entry.expires = match entry.spi_in {
                Some(_) => now + self.rules.complete,
                None => incomplete,
            };
        } else if !self.table.insert(&packet, spi, incomplete, ()) {
            return;
        }
        packet.set_src((public.unwrap_or(packet.src().ip()), 0).into());
        out.outside.push(packet);
    }

    fn inbound(
        &mut self,
        now: Duration,
        public: Option<IpAddr>,
        mut packet: Packet,
        out: &mut Output,
    ) {
        self.table.drop_expired(now);
        let Some(spi) = spi(&packet) else { return };
        let (server, dst) = (packet.src().ip(), packet.dst().ip());
        // Where nothing is translated, the packet says whose it is.
        let theirs = |e: &Entry<()>| e.server == server && (public.is_some() || e.client == dst);
        if let Some(entry) = self.table.answered(spi, theirs) {
            entry.expires = now + self.rules.complete;
            packet.set_dst((entry.client, 0).into());
            out.inside.push(packet);
        }
    }

    fn owner(&self, now: Duration, quote: &Quote) -> Option<IpAddr> {
        self.table.owner(now, quote.dst.ip(), quote.spi?)
    }

    fn clear(&mut self) {
        self.table.clear();
    }

    fn len(&self) -> usize {
        self.table.len()
    }

    fn show(&self, now: Duration, public: Option<IpAddr>, rows: &mut Vec<Row>) {
        let what = |entry: &Entry<()>| match entry.spi_in {
            Some(_) => "complete".to_owned(),
            None => "incomplete".to_owned(),
        };
        self.table.show(now, public, what, rows);
    }
}
