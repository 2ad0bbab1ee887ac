//! Packets: of the outer network, and those that the tunnels carry.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mitregate_wire::eth::{self, EtherType};
use mitregate_wire::frame::{UdpFrame, emit_udp};
use mitregate_wire::ike::{NON_ESP_MARKER, PORT_NAT_T};
use mitregate_wire::ip::{TrafficClass, protocol};
use mitregate_wire::{MacAddr, ipv4, udp};

/// IPv4 header, bytes.
pub const IP_HEADER: usize = 20;
/// UDP header, bytes.
pub const UDP_HEADER: usize = 8;
/// Begins the data of every inner packet: found on an outer link, it is a leak (I2).
pub const MARKER: [u8; 16] = *b"\xf1inner-plaintext";

/// A packet of the outer network. Port 0 on both ends means ESP in IP, any other UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// Of UDP, or the whole of ESP.
    pub payload: Vec<u8>,
    /// Names what a host has sent, through all boxes and copies.
    pub id: u64,
}

/// What is in a packet, as far as it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// An IKE message, without its marker.
    Ike(&'a [u8]),
    /// An ESP packet.
    Esp(&'a [u8]),
    /// RFC 3948 §2.3.
    Keepalive,
}

impl Packet {
    /// ESP in IP.
    #[must_use]
    pub fn is_bare_esp(&self) -> bool {
        self.src.port() == 0
    }

    /// Length of the IP packet, bytes.
    #[must_use]
    pub fn ip_len(&self) -> usize {
        let udp = if self.is_bare_esp() { 0 } else { UDP_HEADER };
        IP_HEADER + udp + self.payload.len()
    }

    /// RFC 3948 §2, as whoever looks at the wire tells them apart.
    #[must_use]
    pub fn content(&self) -> Content<'_> {
        if self.is_bare_esp() {
            return Content::Esp(&self.payload);
        }
        if self.payload == [0xff] {
            return Content::Keepalive;
        }
        if self.src.port() != PORT_NAT_T && self.dst.port() != PORT_NAT_T {
            return Content::Ike(&self.payload);
        }
        match self.payload.strip_prefix(&NON_ESP_MARKER) {
            Some(message) => Content::Ike(message),
            None => Content::Esp(&self.payload),
        }
    }

    /// The Ethernet frame for it.
    #[must_use]
    pub fn frame(&self, src: MacAddr, dst: MacAddr) -> Vec<u8> {
        if !self.is_bare_esp() {
            return udp_frame(src, dst, self.src, self.dst, &self.payload);
        }
        let mut out = vec![0; IP_HEADER + self.payload.len()];
        let header = ipv4::Header::new(v4(self.src), v4(self.dst), protocol::ESP);
        header
            .emit(self.payload.len(), &mut out)
            .expect("the buffer has the packet's length");
        out[IP_HEADER..].copy_from_slice(&self.payload);
        ethernet(src, dst, &out)
    }

    /// Reads the frame that a worker sent; what is neither ESP nor UDP comes back as its protocol.
    pub fn parse(frame: &[u8], id: u64) -> Result<Self, String> {
        let ip = eth::Frame::new_checked(frame)
            .and_then(|eth| ipv4::Packet::new_checked(eth.payload()))
            .map_err(|error| format!("a frame that is not IPv4 left for the network: {error}"))?;
        let end = |ip: Ipv4Addr, port| SocketAddr::new(IpAddr::V4(ip), port);
        match ip.protocol() {
            protocol::ESP => Ok(Self {
                src: end(ip.src(), 0),
                dst: end(ip.dst(), 0),
                payload: ip.payload().to_vec(),
                id,
            }),
            protocol::UDP => {
                let datagram = udp::Datagram::new_checked(ip.payload())
                    .map_err(|error| format!("a bad datagram left for the network: {error}"))?;
                Ok(Self {
                    src: end(ip.src(), datagram.src_port()),
                    dst: end(ip.dst(), datagram.dst_port()),
                    payload: datagram.payload().to_vec(),
                    id,
                })
            }
            other => Err(format!("IP protocol {other} left for the network")),
        }
    }
}

/// The address, which is one of IPv4: so are all outer networks here.
#[must_use]
pub fn v4(address: SocketAddr) -> Ipv4Addr {
    match address.ip() {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => unreachable!("the simulated outer network is IPv4"),
    }
}

/// A frame with an IPv4 packet.
#[must_use]
pub fn ethernet(src: MacAddr, dst: MacAddr, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; eth::HEADER_LEN + packet.len()];
    eth::Header::new(dst, src, EtherType::IPV4)
        .emit(&mut frame)
        .expect("the buffer has room for the header");
    frame[eth::HEADER_LEN..].copy_from_slice(packet);
    frame
}

/// A frame with a datagram.
#[must_use]
pub fn udp_frame(
    src_mac: MacAddr,
    dst_mac: MacAddr,
    src: SocketAddr,
    dst: SocketAddr,
    payload: &[u8],
) -> Vec<u8> {
    let mut out = vec![0; 100 + payload.len()];
    let frame = UdpFrame {
        eth: eth::Header::new(dst_mac, src_mac, EtherType::IPV4),
        src,
        dst,
        hop_limit: 64,
        traffic_class: TrafficClass(0),
        payload,
    };
    let len = emit_udp(&frame, &mut out).expect("the buffer has room for all headers");
    out.truncate(len);
    out
}

/// A packet for a tunnel: UDP 1000 to 2000 with the marker, its flow and its number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Which flow.
    pub flow: u32,
    /// Counts from 1 in its flow.
    pub sequence: u64,
}

const INNER_DATA: usize = IP_HEADER + UDP_HEADER;
const INNER_LEN: usize = INNER_DATA + MARKER.len() + 4 + 8;

impl Inner {
    /// As bytes of IPv4, `len` long or as short as it can be.
    #[must_use]
    pub fn emit(&self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len.max(INNER_LEN)];
        let content = out.len() - IP_HEADER;
        ipv4::Header::new(self.src, self.dst, protocol::UDP)
            .emit(content, &mut out)
            .expect("the buffer has the packet's length");
        udp::Header {
            src_port: 1000,
            dst_port: 2000,
        }
        .emit(content - UDP_HEADER, &mut out[IP_HEADER..])
        .expect("the buffer has the packet's length");
        let data = &mut out[INNER_DATA..];
        data[..16].copy_from_slice(&MARKER);
        data[16..20].copy_from_slice(&self.flow.to_be_bytes());
        data[20..28].copy_from_slice(&self.sequence.to_be_bytes());
        out
    }

    /// Reads the packet in a frame.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ip = ipv4::Packet::new_checked(frame.get(eth::HEADER_LEN..)?).ok()?;
        let data = ip.payload().get(UDP_HEADER..)?;
        let (marker, rest) = data.split_first_chunk::<16>()?;
        let (flow, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, _) = rest.split_first_chunk::<8>()?;
        (*marker == MARKER).then_some(Self {
            src: ip.src(),
            dst: ip.dst(),
            flow: u32::from_be_bytes(*flow),
            sequence: u64::from_be_bytes(*sequence),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_survive_their_frames() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        for port in [0, 500, 4500] {
            let packet = Packet {
                src: SocketAddr::from(([10, 0, 0, 1], port)),
                dst: SocketAddr::from(([10, 0, 0, 2], port)),
                payload: vec![1, 2, 3, 4, 5],
                id: 7,
            };
            let frame = packet.frame(mac, mac);
            assert_eq!(frame.len(), eth::HEADER_LEN + packet.ip_len());
            assert_eq!(Packet::parse(&frame, 7), Ok(packet));
        }
        let inner = Inner {
            src: Ipv4Addr::new(10, 1, 0, 1),
            dst: Ipv4Addr::new(10, 2, 0, 1),
            flow: 3,
            sequence: 99,
        };
        let frame = ethernet(mac, mac, &inner.emit(0));
        assert_eq!(Inner::parse(&frame), Some(inner));
    }
}
