//! Packets: of the outer network, and those that the tunnels carry.

use std::net::{Ipv4Addr, SocketAddr};

use mitregate_wire::eth::{self, EtherType};
use mitregate_wire::frame::{UdpFrame, emit_udp};
use mitregate_wire::ike::{NON_ESP_MARKER, PORT, PORT_NAT_T};
use mitregate_wire::ip::{TrafficClass, protocol};
use mitregate_wire::udp::{self, KEEPALIVE};
use mitregate_wire::{MacAddr, icmp, ipv4};

use crate::nat::Packet;

/// Begins the data of every inner packet: found on an outer link, it is a leak (I2).
pub const MARKER: [u8; 16] = *b"\xf1inner-plaintext";

/// What is in a packet, as far as it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// An IKE message, without its marker.
    Ike(&'a [u8]),
    /// An ESP packet.
    Esp(&'a [u8]),
    /// RFC 3948 §2.3.
    Keepalive,
    /// Neither ESP nor UDP.
    Other,
}

/// RFC 3948 §2, as whoever looks at the wire tells them apart.
#[must_use]
pub fn content(packet: &Packet) -> Content<'_> {
    let payload = packet.payload();
    match packet.protocol() {
        protocol::ESP => return Content::Esp(payload),
        protocol::UDP => {}
        _ => return Content::Other,
    }
    if payload == KEEPALIVE {
        return Content::Keepalive;
    }
    let ports = [packet.src().port(), packet.dst().port()];
    // A NAT may have drawn 4500 for what goes to 500.
    if !ports.contains(&PORT_NAT_T) || ports.contains(&PORT) {
        return Content::Ike(payload);
    }
    match payload.strip_prefix(&NON_ESP_MARKER) {
        Some(message) => Content::Ike(message),
        None => Content::Esp(payload),
    }
}

/// Reads the frame that a worker sent; what is neither ESP nor UDP comes back as its protocol.
pub fn parse(frame: &[u8], id: u64) -> Result<Packet, String> {
    let bad = |error| format!("a frame that is not good IPv4 left for the network: {error}");
    let ip = eth::Frame::new_checked(frame).map_err(bad)?.payload();
    let packet = Packet::new(ip.to_vec(), id).map_err(bad)?;
    if !packet.src().is_ipv4() || !packet.checksums_ok() {
        return Err("a packet that is not good IPv4 left for the network".to_owned());
    }
    match packet.protocol() {
        protocol::ESP | protocol::UDP => Ok(packet),
        other => Err(format!("IP protocol {other} left for the network")),
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

const INNER_DATA: usize = ipv4::HEADER_LEN + udp::HEADER_LEN;
const INNER_LEN: usize = INNER_DATA + MARKER.len() + 4 + 8;

impl Inner {
    /// As bytes of IPv4, `len` long or as short as it can be.
    #[must_use]
    pub fn emit(&self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len.max(INNER_LEN)];
        let content = out.len() - ipv4::HEADER_LEN;
        ipv4::Header::new(self.src, self.dst, protocol::UDP)
            .emit(content, &mut out)
            .expect("the buffer has the packet's length");
        udp::Header {
            src_port: 1000,
            dst_port: 2000,
        }
        .emit(content - udp::HEADER_LEN, &mut out[ipv4::HEADER_LEN..])
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
        let data = ip.payload().get(udp::HEADER_LEN..)?;
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

/// Reads a frame with a worker's word that an inner packet was too big: of which flow, and what fits.
#[must_use]
pub fn too_big(frame: &[u8]) -> Option<(usize, usize)> {
    let ip = ipv4::Packet::new_checked(frame.get(eth::HEADER_LEN..)?).ok()?;
    let message = icmp::Message::new_checked(icmp::Family::V4, ip.payload()).ok()?;
    let mtu = message.next_hop_mtu()?;
    let told = ip.protocol() == protocol::ICMP && ip.checksum_ok();
    let whole = message.checksum_ok(ip.src().into(), ip.dst().into());
    let data = message.quoted()?.get(INNER_DATA..)?;
    let (marker, rest) = data.split_first_chunk::<16>()?;
    let flow = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    let mtu = usize::try_from(mtu).ok()?;
    (told && whole && *marker == MARKER).then_some((usize::try_from(flow).ok()?, mtu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_survive_their_frames() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        for port in [0, 500, 4500] {
            let ends = [[10, 0, 0, 1], [10, 0, 0, 2]];
            let [src, dst] = ends.map(|address| SocketAddr::from((address, port)));
            let packet = match port {
                0 => Packet::esp(src.ip(), dst.ip(), &[1, 2, 3, 4, 5], 7),
                _ => Packet::udp(src, dst, &[1, 2, 3, 4, 5], 7),
            };
            let packet = packet.unwrap();
            assert_eq!((packet.src(), packet.dst()), (src, dst));
            let frame = ethernet(mac, mac, packet.bytes());
            assert_eq!(parse(&frame, 7), Ok(packet));
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
