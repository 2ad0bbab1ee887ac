//! The invariants of the gate, judged by what is on the wire and by books of its own, beside the code under
//! test: it opens every ESP packet with the logged keys and keeps its own account of what is proven.

use std::collections::{BTreeMap, BTreeSet};

use mitregate_control::{GateConfig, ListView, LoggedKeys, Role};
use mitregate_wire::echo::{self, Echo, Kind, PlainEcho};
use mitregate_wire::icmp;

use super::keys::KeyRing;
use super::packet::{Content, Inner, MARKER, content};
use crate::nat::Packet;

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
    /// Those below it that were not seen yet: control packets overtake data that is sealed already.
    skipped: BTreeSet<u64>,
}

impl Epoch {
    /// Whether this IV was not sent before; it was from now on.
    fn is_fresh(&mut self, iv: u64) -> bool {
        if iv <= self.last_iv {
            return self.skipped.remove(&iv);
        }
        self.skipped.extend(self.last_iv + 1..iv);
        self.last_iv = iv;
        // What is sealed leaves in the same round; the rest was lost before the wire.
        while self.skipped.len() > 4096 {
            self.skipped.pop_first();
        }
        true
    }
}

/// One host's books, for one life.
#[derive(Default)]
struct Books {
    by_spi_in: BTreeMap<u32, usize>,
    /// More than one where two peers have chosen the same SPI.
    by_spi_out: BTreeMap<u32, Vec<usize>>,
    epochs: Vec<Epoch>,
    /// See [`Referee::allow_releases`].
    releases: bool,
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

    /// The two ends of this host's tunnels have not agreed on ESP Echo, so it may send data on what it has
    /// not proven (G5's and G8's releases), as long as it does not say that it has
    /// ([`Self::claims`]).
    pub fn allow_releases(&mut self, host: usize) {
        self.books(host).releases = true;
    }

    /// I1: what a host says to have proven it has.
    pub fn claims(&self, host: usize, list: &ListView) -> Result<(), String> {
        let Some(books) = self.books.get(host).filter(|books| books.releases) else {
            return Ok(());
        };
        for tunnel in &list.tunnels {
            for epoch in tunnel.epochs.iter().filter(|epoch| epoch.active) {
                let spi = u32::from_str_radix(&epoch.spi_in, 16).unwrap_or_default();
                let at = books.by_spi_in.get(&spi);
                let proven = at.is_some_and(|at| books.epochs[*at].proven);
                if tunnel.status == "proven" && !proven {
                    let name = &tunnel.name;
                    return Err(format!("I1: tunnel {name} is called proven and is not"));
                }
            }
        }
        Ok(())
    }

    /// The process of a host has died, and its SAs with it.
    pub fn host_died(&mut self, host: usize) {
        let books = self.books(host);
        *books = Books {
            releases: books.releases,
            ..Books::default()
        };
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
            skipped: BTreeSet::new(),
        });
        books.by_spi_in.insert(spi_in, epoch);
        books.by_spi_out.entry(spi_out).or_default().push(epoch);
        if fresh {
            Ok(())
        } else {
            Err("I3: two SAs seal with one key".to_owned())
        }
    }

    /// A packet leaves a host for the network.
    pub fn sent(&mut self, host: usize, packet: &Packet) -> Result<(), String> {
        if leaks(packet.payload()) {
            return Err("I2: plaintext of an inner packet left for the network".to_owned());
        }
        let Content::Esp(bytes) = content(packet) else {
            return Ok(());
        };
        self.esp_packets += 1;
        let spi = bytes.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
        if echo::is_plain_spi(spi) {
            let plain = PlainEcho::new_checked(bytes);
            return match plain {
                Ok(_) if packet.is_bare_esp() => Ok(()),
                _ => Err(format!("no plain ESP ping was sent to SPI {spi}")),
            };
        }
        self.books(host);
        let books = &mut self.books[host];
        let Some(epochs) = books.by_spi_out.get(&spi) else {
            return Err(format!("ESP was sent to SPI {spi:08x}, which no SA has"));
        };
        let opened = epochs.iter().rev().find_map(|at| {
            let (_, pair) = &self.ring.esp[books.epochs[*at].at];
            Some((*at, pair.outbound.open(bytes)?))
        });
        let Some((at, opened)) = opened else {
            return Err(format!("ESP to SPI {spi:08x} does not open with its key"));
        };
        let epochs = u32::try_from(books.epochs.len()).unwrap_or(u32::MAX);
        let never = books.epochs.iter().all(|epoch| !epoch.proven);
        let epoch = &mut books.epochs[at];
        // The IV is the sequence number (RFC 4106 §3.1).
        if !epoch.is_fresh(opened.iv) || opened.sequence as u64 != opened.iv {
            return Err(format!(
                "I3: SPI {spi:08x}: IV {} after {}",
                opened.iv, epoch.last_iv
            ));
        }
        // G8: a peer that announced ESP Echo, and never answered on many epochs.
        let mute = epochs >= GateConfig::new(Role::Client).mute_after && never;
        if DATA.contains(&opened.next_header) && !epoch.proven && !books.releases && !mute {
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
        if let Some((_, echo)) = icmp::parse_echo(&opened.inner)
            && DATA.contains(&opened.next_header)
            && echo.request
        {
            epoch.asked.insert((echo.id, echo.seq));
        }
        Ok(())
    }

    /// A packet of the network reaches a host.
    pub fn delivered(&mut self, host: usize, packet: &Packet) {
        let Content::Esp(bytes) = content(packet) else {
            return;
        };
        let spi = bytes.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
        self.books(host);
        let books = &mut self.books[host];
        let Some(epoch) = books.by_spi_in.get(&spi).map(|at| &mut books.epochs[*at]) else {
            return;
        };
        if epoch.proven && !books.releases {
            return;
        }
        let (_, pair) = &self.ring.esp[epoch.at];
        let Some(opened) = pair.inbound.open(bytes) else {
            return;
        };
        // G5: a gated peer sends data only when it has proven the epoch, of which our direction is a half.
        if DATA.contains(&opened.next_header) && !books.releases {
            epoch.proven = true;
        }
        if opened.next_header == echo::NEXT_HEADER
            && let Ok(echo) = Echo::new_checked(&opened.inner)
            && echo.kind == Kind::Response
            && epoch.asked.contains(&(echo.id, echo.seq))
        {
            epoch.proven = true;
        }
        // G8: an answer on any inbound SA proves the outbound one that was asked.
        if books.releases
            && let Some((_, echo)) = icmp::parse_echo(&opened.inner)
            && DATA.contains(&opened.next_header)
            && !echo.request
        {
            let asked = |epoch: &&mut Epoch| epoch.asked.contains(&(echo.id, echo.seq));
            for epoch in books.epochs.iter_mut().filter(asked) {
                epoch.proven = true;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use mitregate_esp::{CipherSuite, OutboundSa, Provider, SaKey};
    use mitregate_wire::esp::Spi;
    use zeroize::Zeroizing;

    /// A host that may do what the code under test does not.
    struct Cheat {
        referee: Referee,
        sa: OutboundSa,
        peer: OutboundSa,
    }

    const SUITE: CipherSuite = CipherSuite::Aes128Gcm16;

    fn spi(n: u32) -> Spi {
        Spi::new(n).unwrap()
    }

    fn keys(spi_in: u32, spi_out: u32, key_out: u8) -> LoggedKeys {
        LoggedKeys::Esp {
            spi_in: spi(spi_in),
            spi_out: spi(spi_out),
            suite: SUITE,
            esn: false,
            key_in: Zeroizing::new(vec![1; 20]),
            key_out: Zeroizing::new(vec![key_out; 20]),
        }
    }

    fn sealer(spi_out: u32, key: u8) -> OutboundSa {
        let key = SaKey::from_keymat(SUITE, &[key; 20]).unwrap();
        OutboundSa::new(spi(spi_out), &key, Provider::ALL[0], false)
    }

    fn packet(payload: &[u8]) -> Packet {
        Packet::esp([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), payload, 0).unwrap()
    }

    fn seal(sa: &mut OutboundSa, next_header: u8, inner: &[u8]) -> Packet {
        let mut buf = vec![0; 200];
        buf[50..50 + inner.len()].copy_from_slice(inner);
        let range = sa.seal(&mut buf, 50..50 + inner.len(), next_header, 0);
        packet(&buf[range.unwrap()])
    }

    fn echo(kind: Kind) -> Vec<u8> {
        let message = Echo {
            kind,
            id: 7,
            seq: 1,
            data: &[9; 8],
        };
        let mut out = vec![0; 64];
        let len = message.emit(&mut out).unwrap();
        out.truncate(len);
        out
    }

    impl Cheat {
        fn new() -> Self {
            let mut referee = Referee::default();
            referee.keys(0, &keys(500, 600, 2)).unwrap();
            Self {
                referee,
                sa: sealer(600, 2),
                peer: sealer(500, 1),
            }
        }

        fn send(&mut self, next_header: u8, inner: &[u8]) -> Result<(), String> {
            let packet = seal(&mut self.sa, next_header, inner);
            self.referee.sent(0, &packet)
        }

        fn hear(&mut self, next_header: u8, inner: &[u8]) {
            let packet = seal(&mut self.peer, next_header, inner);
            self.referee.delivered(0, &packet);
        }
    }

    fn found(result: Result<(), String>, what: &str) {
        let text = result.unwrap_err();
        assert!(text.starts_with(what), "{text}");
    }

    #[test]
    fn data_before_the_answer_to_a_ping_is_found() {
        let request = echo(Kind::Request { return_spi: None });
        let mut cheat = Cheat::new();
        found(cheat.send(4, &[0x45; 40]), "I1");
        cheat.send(echo::NEXT_HEADER, &request).unwrap();
        found(cheat.send(4, &[0x45; 40]), "I1");
        // Not by a request of the peer's.
        cheat.hear(echo::NEXT_HEADER, &request);
        found(cheat.send(4, &[0x45; 40]), "I1");
        cheat.hear(echo::NEXT_HEADER, &echo(Kind::Response));
        cheat.send(4, &[0x45; 40]).unwrap();
    }

    #[test]
    fn an_answer_to_no_ping_proves_nothing_and_the_peers_data_does() {
        let mut cheat = Cheat::new();
        cheat.hear(echo::NEXT_HEADER, &echo(Kind::Response));
        found(cheat.send(4, &[0x45; 40]), "I1");
        cheat.hear(4, &[0x45; 40]);
        cheat.send(4, &[0x45; 40]).unwrap();
    }

    #[test]
    fn a_nonce_or_a_key_that_comes_twice_is_found() {
        let mut cheat = Cheat::new();
        let request = echo(Kind::Request { return_spi: None });
        cheat.send(echo::NEXT_HEADER, &request).unwrap();
        cheat.sa = sealer(600, 2);
        found(cheat.send(echo::NEXT_HEADER, &request), "I3");
        found(cheat.referee.keys(0, &keys(501, 601, 2)), "I3");
        cheat.referee.keys(0, &keys(502, 602, 3)).unwrap();
    }

    #[test]
    fn plaintext_on_the_wire_and_esp_of_nobody_are_found() {
        let mut cheat = Cheat::new();
        let mut bytes = vec![0; 100];
        bytes[30..46].copy_from_slice(&MARKER);
        found(cheat.referee.sent(0, &packet(&bytes)), "I2");
        let mut stranger = sealer(601, 2);
        let strange = seal(&mut stranger, 4, &[0x45; 40]);
        found(cheat.referee.sent(0, &strange), "ESP was sent to SPI");
        let mut forger = sealer(600, 3);
        let forged = seal(&mut forger, 4, &[0x45; 40]);
        found(cheat.referee.sent(0, &forged), "ESP to SPI");
    }
}
