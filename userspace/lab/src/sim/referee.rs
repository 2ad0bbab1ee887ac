//! The invariants of the gate, judged by what is on the wire and by books of its own, beside the code under
//! test: it opens every ESP packet with the logged keys and keeps its own account of what is proven.

use std::collections::{BTreeMap, BTreeSet};

use mitregate_control::{ListView, LoggedKeys};
use mitregate_wire::echo::{self, Echo, Kind};

use super::keys::KeyRing;
use super::packet::{Content, Inner, MARKER, Packet};

/// IP in ESP (RFC 4303 §2.6).
const DATA: [u8; 2] = [4, 41];

/// What one host has of one CHILD_SA.
struct Epoch {
    /// Where its keys are in the ring.
    at: usize,
    /// Pings sent on it: id and sequence.
    asked: BTreeSet<(u16, u16)>,
    /// Its sender may send data: G1, or one of G5's releases.
    proven: bool,
    last_iv: u64,
}

/// One host's books, for one life.
#[derive(Default)]
struct Books {
    by_spi_in: BTreeMap<u32, usize>,
    by_spi_out: BTreeMap<u32, usize>,
    epochs: Vec<Epoch>,
}

/// See the [module](self).
#[derive(Default)]
pub struct Referee {
    /// All keys of the run.
    pub ring: KeyRing,
    books: Vec<Books>,
    /// Every key that an SA seals with: a second SA with it would use the same nonces.
    sealing: BTreeSet<Vec<u8>>,
    /// ESP packets that were looked into.
    pub esp_packets: u64,
}

/// Finds the inner packets' marker where it must not be.
fn leaks(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, &MARKER).is_some()
}

impl Referee {
    fn books(&mut self, host: usize) -> &mut Books {
        if self.books.len() <= host {
            self.books.resize_with(host + 1, Books::default);
        }
        &mut self.books[host]
    }

    /// The process of a host has died, and its SAs with it.
    pub fn host_died(&mut self, host: usize) {
        *self.books(host) = Books::default();
    }

    /// A host has made keys.
    pub fn keys(&mut self, host: usize, keys: &LoggedKeys) -> Result<(), String> {
        let before = self.ring.esp.len();
        self.ring.add(host, keys);
        let Some((_, pair)) = self.ring.esp.get(before) else {
            return Ok(());
        };
        let (spi_in, spi_out) = (pair.inbound.spi, pair.outbound.spi);
        let fresh = self.sealing.insert(pair.outbound.bytes().to_vec());
        let books = self.books(host);
        let epoch = books.epochs.len();
        books.epochs.push(Epoch {
            at: before,
            asked: BTreeSet::new(),
            proven: false,
            last_iv: 0,
        });
        books.by_spi_in.insert(spi_in, epoch);
        books.by_spi_out.insert(spi_out, epoch);
        if fresh {
            Ok(())
        } else {
            Err("I3: two SAs seal with one key".to_owned())
        }
    }

    /// A packet leaves a host for the network.
    pub fn sent(&mut self, host: usize, packet: &Packet) -> Result<(), String> {
        if leaks(&packet.payload) {
            return Err("I2: plaintext of an inner packet left for the network".to_owned());
        }
        let Content::Esp(bytes) = packet.content() else {
            return Ok(());
        };
        self.esp_packets += 1;
        let spi = bytes.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
        self.books(host);
        let books = &mut self.books[host];
        let Some(epoch) = books.by_spi_out.get(&spi).map(|at| &mut books.epochs[*at]) else {
            return Err(format!("ESP was sent to SPI {spi:08x}, which no SA has"));
        };
        let (_, pair) = &self.ring.esp[epoch.at];
        let Some(opened) = pair.outbound.open(bytes) else {
            return Err(format!("ESP to SPI {spi:08x} does not open with its key"));
        };
        // Stricter than I3: the IV is the sequence number (RFC 4106 §3.1), so it only grows.
        if opened.iv <= epoch.last_iv || opened.sequence as u64 != opened.iv {
            return Err(format!(
                "I3: SPI {spi:08x}: IV {} after {}",
                opened.iv, epoch.last_iv
            ));
        }
        epoch.last_iv = opened.iv;
        if DATA.contains(&opened.next_header) && !epoch.proven {
            return Err(format!(
                "I1: data left on SPI {spi:08x}, which its sender has not proven"
            ));
        }
        if opened.next_header == echo::NEXT_HEADER
            && let Ok(echo) = Echo::new_checked(&opened.inner)
            && let Kind::Request { .. } = echo.kind
        {
            epoch.asked.insert((echo.id, echo.seq));
        }
        Ok(())
    }

    /// A packet of the network reaches a host.
    pub fn delivered(&mut self, host: usize, packet: &Packet) {
        let Content::Esp(bytes) = packet.content() else {
            return;
        };
        let spi = bytes.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
        self.books(host);
        let books = &mut self.books[host];
        let Some(epoch) = books.by_spi_in.get(&spi).map(|at| &mut books.epochs[*at]) else {
            return;
        };
        if epoch.proven {
            return;
        }
        let (_, pair) = &self.ring.esp[epoch.at];
        let Some(opened) = pair.inbound.open(bytes) else {
            return;
        };
        // G5: a gated peer sends data only when it has proven the epoch, of which our direction is a half.
        if DATA.contains(&opened.next_header) {
            epoch.proven = true;
        }
        if opened.next_header == echo::NEXT_HEADER
            && let Ok(echo) = Echo::new_checked(&opened.inner)
            && echo.kind == Kind::Response
            && epoch.asked.contains(&(echo.id, echo.seq))
        {
            epoch.proven = true;
        }
    }

    /// I6: at most one proven and two unproven epochs of a tunnel; what drains apart.
    pub fn epochs(list: &ListView) -> Result<(), String> {
        for tunnel in &list.tunnels {
            let live = || {
                let epochs = tunnel.epochs.iter();
                epochs.filter(|e| !["draining", "dead"].contains(&e.state))
            };
            let proven = live().filter(|e| e.proof.is_some()).count();
            let unproven = live().count() - proven;
            if proven > 1 || unproven > 2 {
                return Err(format!(
                    "I6: tunnel {} has {proven} proven and {unproven} unproven epochs",
                    tunnel.name
                ));
            }
            let active = tunnel.epochs.iter().filter(|e| e.active).count();
            if active > 1 {
                return Err(format!("tunnel {} has {active} active epochs", tunnel.name));
            }
        }
        Ok(())
    }
}

/// What is wrong with an inner packet that came out at a host, if anything (I2).
pub fn misdelivered(host: usize, inner: &Inner, flows: &[super::world::Flow]) -> Option<String> {
    let flow = usize::try_from(inner.flow)
        .ok()
        .and_then(|at| flows.get(at));
    let Some(flow) = flow else {
        return Some(format!("I2: a packet of no flow ({})", inner.flow));
    };
    if flow.to != host || (flow.src, flow.dst) != (inner.src, inner.dst) {
        return Some(format!(
            "I2: a packet for {} came out at the wrong host",
            flow.dst
        ));
    }
    (inner.sequence == 0 || inner.sequence > flow.sent)
        .then(|| format!("packet {} was never sent", inner.sequence))
}
