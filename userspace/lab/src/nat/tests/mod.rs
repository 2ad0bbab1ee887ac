mod cpe_8_entries;
mod every;
mod faults;
mod hold_until_reply;
mod oldest_incomplete;
mod ports;
mod stateful_fw;
mod vpn_masquerade;

use std::net::SocketAddr;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;

const PUBLIC: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

/// A box, the time, and where its random numbers come from.
struct Bench {
    nat: Box<dyn Middlebox>,
    rng: ChaCha20Rng,
    now: Duration,
    next: u64,
}

fn end(text: &str) -> SocketAddr {
    let port = if text.contains(':') { "" } else { ":0" };
    format!("{text}{port}").parse().unwrap()
}

/// ESP on this SPI.
fn esp(src: &str, dst: &str, spi: u32) -> Packet {
    let mut bytes = spi.to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, 1]);
    bytes.extend([7; 32]);
    Packet::esp(end(src).ip(), end(dst).ip(), &bytes, 0).unwrap()
}

fn datagram(src: SocketAddr, dst: SocketAddr) -> Packet {
    Packet::udp(src, dst, &[1; 40], 0).unwrap()
}

impl Bench {
    fn new(nat: Translator) -> Self {
        Self {
            nat: Box::new(nat),
            rng: ChaCha20Rng::seed_from_u64(1),
            now: secs(5),
            next: 1,
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += secs(seconds);
    }

    /// What leaves for a packet from the inside (`up`) or the outside.
    fn pass(&mut self, up: bool, mut packet: Packet) -> Output {
        packet.id = self.next;
        self.next += 1;
        assert!(packet.checksums_ok());
        let mut out = Output::default();
        match up {
            true => self.nat.outbound(self.now, packet, &mut self.rng, &mut out),
            false => self.nat.inbound(self.now, packet, &mut self.rng, &mut out),
        }
        let mut left = out.outside.iter().chain(&out.inside);
        assert!(left.all(Packet::checksums_ok));
        out
    }

    /// Where a datagram seems to come from.
    fn out(&mut self, src: &str, dst: &str) -> Option<SocketAddr> {
        let out = self.pass(true, datagram(end(src), end(dst)));
        assert!(out.inside.is_empty() && out.outside.len() <= 1);
        out.outside.first().map(Packet::src)
    }

    /// Whom a datagram reaches.
    fn back(&mut self, src: &str, dst: SocketAddr) -> Option<SocketAddr> {
        let out = self.pass(false, datagram(end(src), dst));
        assert!(out.outside.is_empty() && out.inside.len() <= 1);
        out.inside.first().map(Packet::dst)
    }

    /// Whether ESP from this client leaves.
    fn esp_out(&mut self, src: &str, dst: &str, spi: u32) -> bool {
        let out = self.pass(true, esp(src, dst, spi));
        assert!(out.inside.is_empty() && out.outside.len() <= 1);
        let translated = |packet: &Packet| {
            packet.src().ip() == self.nat.public().unwrap_or(end(src).ip())
                && packet.dst().ip() == end(dst).ip()
                && packet.spi() == Some(spi)
        };
        assert!(out.outside.iter().all(translated));
        !out.outside.is_empty()
    }

    /// Whom ESP from this server reaches.
    fn esp_in(&mut self, src: &str, spi: u32) -> Vec<String> {
        let out = self.pass(false, esp(src, &PUBLIC.to_string(), spi));
        assert!(out.outside.is_empty());
        let clients = out.inside.iter();
        clients
            .map(|packet| packet.dst().ip().to_string())
            .collect()
    }

    fn states(&self) -> Vec<String> {
        let rows = self.nat.show(self.now);
        rows.into_iter().map(|row| row.state).collect()
    }
}
