//! `hold-until-reply`: a box that knows it could mix clients up, and lets them through one at a time.
//!
//! - **Keys.** ESP by client, server and outbound SPI; what comes back by server and inbound SPI. UDP, TCP and
//!   ICMP as `conntrack-generic`.
//! - **Creation.** By an outbound SPI that has no entry, unless another client's entry with that server is
//!   pending (no inbound SPI seen yet): then the packet is held, not dropped. A client's own second SPI is not
//!   held: what comes back is for the same client in any case.
//! - **Matching.** Outbound by the key. Inbound, the entry with that SPI; else the oldest pending entry of that
//!   server, whose it is from then on; else dropped. When no entry of a server is pending any more, the client
//!   whose packet has been held longest is next: all that is held for it leaves, and its entries are pending.
//! - **Timers.** 5 s for a pending entry, refreshed by nothing, so that a server that is dead holds the next
//!   client no longer; 600 s for an established one, refreshed by packets in either direction.
//! - **Full table.** 1024 entries, 4 packets held of each client and 256 in all: what needs more is dropped.
//!   All these figures are chosen; none is known.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use super::esp::{Entry, EspTable, Order};
use super::pairs::spi;
use super::ports::PortRules;
use super::translator::{Tracker, Translator};
use super::{ConntrackGeneric, Output, Packet, Quote, Row, secs};

/// Its parameters; see the [module](self).
#[derive(Debug, Clone)]
pub struct HoldUntilReply {
    /// Life of an entry whose inbound SPI was not seen.
    pub pending: Duration,
    /// Life of an established entry without a packet.
    pub established: Duration,
    /// Entries at most.
    pub max_entries: usize,
    /// Packets held of one client to one server at most.
    pub held_each: usize,
    /// Packets held at most.
    pub held: usize,
    /// All other traffic.
    pub ports: PortRules,
}

impl Default for HoldUntilReply {
    fn default() -> Self {
        Self {
            pending: secs(5),
            established: secs(600),
            max_entries: 1024,
            held_each: 4,
            held: 256,
            ports: ConntrackGeneric::default().ports,
        }
    }
}

impl HoldUntilReply {
    /// A box with these parameters.
    #[must_use]
    pub fn make(self, public: IpAddr) -> Translator {
        let tracker = Tables {
            esp: EspTable::new(Order::Age, self.max_entries),
            held: VecDeque::new(),
            rules: self.clone(),
        };
        let tracker = Some(Box::new(tracker) as Box<dyn Tracker>);
        Translator::new("hold-until-reply", Some(public), self.ports, tracker)
    }
}

struct Tables {
    esp: EspTable<()>,
    /// Packets that wait, the oldest first.
    held: VecDeque<Packet>,
    rules: HoldUntilReply,
}

fn ends(packet: &Packet) -> (IpAddr, IpAddr) {
    (packet.src().ip(), packet.dst().ip())
}

impl Tables {
    /// Forwards a packet whose turn it is, with the entry that it needs.
    fn forward(&mut self, now: Duration, public: IpAddr, mut packet: Packet, out: &mut Output) {
        let Some(spi) = spi(&packet) else { return };
        if let Some(entry) = self.esp.outbound(&packet, spi) {
            if entry.spi_in.is_some() {
                entry.expires = now + self.rules.established;
            }
        } else if !self.esp.insert(&packet, spi, now + self.rules.pending, ()) {
            return;
        }
        packet.set_src((public, 0).into());
        out.outside.push(packet);
    }

    fn hold(&mut self, packet: Packet) {
        let theirs = self.held.iter().filter(|held| ends(held) == ends(&packet));
        if theirs.count() < self.rules.held_each && self.held.len() < self.rules.held {
            self.held.push_back(packet);
        }
    }

    /// Lets those go for whom nobody is in the way any more.
    fn release(&mut self, now: Duration, public: IpAddr, out: &mut Output) {
        self.esp.drop_expired(now);
        while let Some(next) = self
            .held
            .iter()
            .map(ends)
            .find(|(_, server)| self.is_clear(*server))
        {
            let (go, stay) = self.held.drain(..).partition(|held| ends(held) == next);
            self.held = stay;
            let go: VecDeque<Packet> = go;
            for packet in go {
                self.forward(now, public, packet, out);
            }
        }
    }

    fn is_clear(&self, server: IpAddr) -> bool {
        let mut entries = self.esp.iter();
        !entries.any(|e| e.server == server && e.spi_in.is_none())
    }
}

impl Tracker for Tables {
    fn outbound(
        &mut self,
        now: Duration,
        public: Option<IpAddr>,
        packet: Packet,
        out: &mut Output,
    ) {
        let (Some(public), Some(spi)) = (public, spi(&packet)) else {
            return;
        };
        self.release(now, public, out);
        let (client, server) = ends(&packet);
        let known = self.esp.outbound(&packet, spi).is_some();
        let others = |e: &Entry<()>| e.server == server && e.client != client && e.spi_in.is_none();
        if !known && self.esp.iter().any(others) {
            self.hold(packet);
        } else {
            self.forward(now, public, packet, out);
        }
    }

    fn inbound(
        &mut self,
        now: Duration,
        public: Option<IpAddr>,
        mut packet: Packet,
        out: &mut Output,
    ) {
        let (Some(public), Some(spi)) = (public, spi(&packet)) else {
            return;
        };
        self.release(now, public, out);
        let server = packet.src().ip();
        if let Some(entry) = self.esp.answered(spi, |e| e.server == server) {
            entry.expires = now + self.rules.established;
            packet.set_dst((entry.client, 0).into());
            out.inside.push(packet);
            self.release(now, public, out);
        }
    }

    fn owner(&self, now: Duration, quote: &Quote) -> Option<IpAddr> {
        self.esp.owner(now, quote.dst.ip(), quote.spi?)
    }

    fn poll_timeout(&self) -> Option<Duration> {
        let waited_for = |entry: &&Entry<()>| {
            let mut held = self.held.iter();
            entry.spi_in.is_none() && held.any(|packet| ends(packet).1 == entry.server)
        };
        let entries = self.esp.iter().filter(waited_for);
        entries.map(|entry| entry.expires).min()
    }

    fn handle_timeout(&mut self, now: Duration, public: Option<IpAddr>, out: &mut Output) {
        if let Some(public) = public {
            self.release(now, public, out);
        }
    }

    fn clear(&mut self) {
        self.esp.clear();
        self.held.clear();
    }

    fn len(&self) -> usize {
        self.esp.len()
    }

    fn show(&self, now: Duration, public: Option<IpAddr>, rows: &mut Vec<Row>) {
        let what = |entry: &Entry<()>| match entry.spi_in {
            Some(_) => "established".to_owned(),
            None => "pending".to_owned(),
        };
        self.esp.show(now, public, what, rows);
        rows.extend(self.held.iter().map(|packet| Row {
            protocol: "ESP".to_owned(),
            inside: packet.src().ip().to_string(),
            public: String::new(),
            outside: packet.dst().ip().to_string(),
            keys: format!("out {:08x}", packet.spi().unwrap_or(0)),
            state: "held".to_owned(),
        }));
    }
}
