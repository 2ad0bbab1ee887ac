//! A router that masquerades: addresses and UDP ports rewritten, nothing unsolicited let in.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// A packet of the outer network. Port 0 on both ends means ESP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub payload: Vec<u8>,
}

pub struct Nat {
    public: IpAddr,
    next_port: u16,
    /// From inside and outside ends to the public port (0 for ESP).
    mappings: BTreeMap<(SocketAddr, SocketAddr), u16>,
}

impl Nat {
    pub fn new(public: IpAddr) -> Self {
        Self {
            public,
            next_port: 40_000,
            mappings: BTreeMap::new(),
        }
    }

    pub fn outbound(&mut self, mut packet: Packet) -> Packet {
        let next = &mut self.next_port;
        let port = self
            .mappings
            .entry((packet.src, packet.dst))
            .or_insert_with(|| {
                *next += 1;
                if packet.src.port() == 0 { 0 } else { *next }
            });
        packet.src = SocketAddr::new(self.public, *port);
        packet
    }

    pub fn inbound(&self, mut packet: Packet) -> Option<Packet> {
        let ((inside, _), _) = self.mappings.iter().find(|((_, outside), port)| {
            packet.src == *outside && packet.dst == SocketAddr::new(self.public, **port)
        })?;
        packet.dst = *inside;
        Some(packet)
    }

    /// All tables lost; new mappings get new ports.
    pub fn crash(&mut self) {
        self.mappings.clear();
    }

    /// A new public address, all tables lost.
    pub fn remap(&mut self, public: IpAddr) {
        self.public = public;
        self.crash();
    }
}
