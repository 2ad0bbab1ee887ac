//! The table of models that know ESP by its SPIs: the one that a client sends to is seen when it does; the one
//! that the server sends to must be guessed, by whoever waits for one.

use std::net::IpAddr;
use std::time::Duration;

use super::{Packet, Row};

/// One way to a server, and what came back.
pub(super) struct Entry<S> {
    pub(super) client: IpAddr,
    pub(super) server: IpAddr,
    /// Of packets from the client.
    pub(super) spi_out: u32,
    /// Of packets from the server. `None`: not seen yet.
    pub(super) spi_in: Option<u32>,
    /// Its place in the table.
    order: u64,
    pub(super) expires: Duration,
    /// Whatever else the model knows of it.
    pub(super) state: S,
}

/// In which order entries stand, and so which of several that wait is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The oldest first.
    Age,
    /// By slots: a new entry takes the first that is free.
    Slots,
}

/// Entries in their order.
pub(super) struct EspTable<S> {
    entries: Vec<Entry<S>>,
    order: Order,
    max_entries: usize,
    made: u64,
}

impl<S> EspTable<S> {
    /// For so many entries; a full one takes no more.
    pub(super) fn new(order: Order, max_entries: usize) -> Self {
        Self {
            entries: Vec::new(),
            order,
            max_entries,
            made: 0,
        }
    }

    pub(super) fn drop_expired(&mut self, now: Duration) {
        self.entries.retain(|entry| entry.expires > now);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// The entry of a packet from the inside.
    pub(super) fn outbound(&mut self, packet: &Packet, spi: u32) -> Option<&mut Entry<S>> {
        let (client, server) = (packet.src().ip(), packet.dst().ip());
        self.find(|e| (e.client, e.server, e.spi_out) == (client, server, spi))
    }

    /// The entry that this SPI of the server's was bound to.
    pub(super) fn inbound(&mut self, server: IpAddr, spi: u32) -> Option<&mut Entry<S>> {
        self.find(|e| e.server == server && e.spi_in == Some(spi))
    }

    /// The first entry of this server that waits for an SPI.
    pub(super) fn incomplete(&mut self, server: IpAddr) -> Option<&mut Entry<S>> {
        self.find(|e| e.server == server && e.spi_in.is_none())
    }

    /// Of the entries that may be meant: the one that this inbound SPI was bound to, else the first that waits
    /// for one, whose it is from now on.
    pub(super) fn answered(
        &mut self,
        spi: u32,
        meant: impl Fn(&Entry<S>) -> bool,
    ) -> Option<&mut Entry<S>> {
        let place = |of: Option<u32>| {
            let mut entries = self.entries.iter();
            entries.position(|e| meant(e) && e.spi_in == of)
        };
        let at = place(Some(spi)).or_else(|| place(None))?;
        self.entries[at].spi_in = Some(spi);
        Some(&mut self.entries[at])
    }

    /// The first that `fits`.
    pub(super) fn find(&mut self, fits: impl Fn(&Entry<S>) -> bool) -> Option<&mut Entry<S>> {
        self.entries.iter_mut().find(|entry| fits(entry))
    }

    /// Makes an entry for a packet from the inside; false if the table is full.
    pub(super) fn insert(
        &mut self,
        packet: &Packet,
        spi: u32,
        expires: Duration,
        state: S,
    ) -> bool {
        if self.entries.len() >= self.max_entries {
            return false;
        }
        let order = match self.order {
            Order::Age => self.made,
            Order::Slots => {
                let taken = (0..).zip(&self.entries).take_while(|(n, e)| e.order == *n);
                taken.count() as u64
            }
        };
        self.made += 1;
        let at = self.entries.partition_point(|e| e.order < order);
        let entry = Entry {
            client: packet.src().ip(),
            server: packet.dst().ip(),
            spi_out: spi,
            spi_in: None,
            order,
            expires,
            state,
        };
        self.entries.insert(at, entry);
        true
    }

    /// All entries.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<S>> {
        self.entries.iter()
    }

    /// Whose packets to this server have this SPI.
    pub(super) fn owner(&self, now: Duration, server: IpAddr, spi_out: u32) -> Option<IpAddr> {
        let mut entries = self.entries.iter().filter(|e| e.expires > now);
        let found = entries.find(|e| e.server == server && e.spi_out == spi_out);
        found.map(|entry| entry.client)
    }

    /// Adds the live entries; `what` says in which state one is.
    pub(super) fn show(
        &self,
        now: Duration,
        public: Option<IpAddr>,
        what: impl Fn(&Entry<S>) -> String,
        rows: &mut Vec<Row>,
    ) {
        let live = self.entries.iter().filter(|e| e.expires > now);
        rows.extend(live.map(|entry| Row {
            protocol: "ESP".to_owned(),
            inside: entry.client.to_string(),
            public: public.unwrap_or(entry.client).to_string(),
            outside: entry.server.to_string(),
            keys: match entry.spi_in {
                Some(spi_in) => format!("out {:08x} in {spi_in:08x}", entry.spi_out),
                None => format!("out {:08x}", entry.spi_out),
            },
            state: Row::state(&what(entry), entry.expires - now),
        }));
    }
}
