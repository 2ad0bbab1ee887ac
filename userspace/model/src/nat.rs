//! VPN Masquerade without its clock: the rules by which it passes ESP, and nothing else.
//!
//! Where the box has a timer, here something happens at a time of the checker's choice. One server, so its
//! address is no part of an entry. `tests/nat.rs` drives this and the box of the laboratory side by side.

/// Whose SPI: the client, and the epoch that it belongs to. Both directions of an epoch have one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The client behind the NAT.
    pub client: u8,
    /// Its epoch.
    pub epoch: u64,
}

/// An entry's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// No inbound SPI yet. `blocking`: another SPI was turned away because of it, and so many packets have
    /// passed on it since.
    Pending {
        /// See above.
        blocking: Option<u8>,
    },
    /// It blocked for too long: all its packets are dropped until it is gone.
    Squelched,
    /// Established with this inbound SPI, whoever's it is.
    Bound {
        /// The SPI that arrived.
        inbound: Name,
    },
}

/// An ESP entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The outbound SPI.
    pub outbound: Name,
    /// Its state.
    pub state: State,
}

impl Entry {
    /// It keeps every other new SPI out.
    #[must_use]
    pub fn blocks(&self) -> bool {
        !matches!(self.state, State::Bound { .. })
    }
}

/// The tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    /// ESP, in the order in which they were made.
    pub entries: Vec<Entry>,
    /// Clients with an entry for IKE on UDP 500.
    pub ike: Vec<bool>,
    /// Packets that pass on an entry that blocks.
    limit: u8,
}

impl Nat {
    /// Empty tables for so many clients.
    #[must_use]
    pub fn new(clients: usize, limit: u8) -> Self {
        Self {
            entries: Vec::new(),
            ike: vec![false; clients],
            limit,
        }
    }

    /// ESP from a client: whether it passes.
    pub fn outbound(&mut self, spi: Name) -> bool {
        let limit = self.limit;
        if let Some(entry) = self.entries.iter_mut().find(|e| e.outbound == spi) {
            match &mut entry.state {
                State::Squelched => return false,
                State::Pending {
                    blocking: Some(passed),
                } => {
                    *passed += 1;
                    if *passed > limit {
                        entry.state = State::Squelched;
                        return false;
                    }
                }
                State::Pending { blocking: None } | State::Bound { .. } => {}
            }
            return true;
        }
        if let Some(entry) = self.entries.iter_mut().find(|e| e.blocks()) {
            if let State::Pending { blocking } = &mut entry.state {
                blocking.get_or_insert(0);
            }
            return false;
        }
        self.entries.push(Entry {
            outbound: spi,
            state: State::Pending { blocking: None },
        });
        true
    }

    /// ESP from the server: the clients that get it.
    pub fn inbound(&mut self, spi: Name) -> Vec<u8> {
        let bound = |e: &&Entry| e.state == State::Bound { inbound: spi };
        if let Some(entry) = self.entries.iter().find(bound) {
            return vec![entry.outbound.client];
        }
        // One that is squelched waits for its inbound SPI as well.
        if let Some(entry) = self.entries.iter_mut().find(|e| e.blocks()) {
            entry.state = State::Bound { inbound: spi };
            return vec![entry.outbound.client];
        }
        let clients = (0u8..).zip(&self.ike);
        clients.filter(|(_, ike)| **ike).map(|(c, _)| c).collect()
    }

    /// The entry that keeps new SPIs out; there is never more than one.
    #[must_use]
    pub fn blocker(&self) -> Option<Entry> {
        self.entries.iter().copied().find(Entry::blocks)
    }

    /// All tables are lost.
    pub fn crash(&mut self) {
        self.entries.clear();
        self.ike.fill(false);
    }
}
