//! Whole frames at once: Ethernet, IP and UDP.

use core::net::{IpAddr, SocketAddr};

use crate::ip::{self, TrafficClass, protocol};
use crate::{WireError, eth, ipv4, ipv6, udp};

/// Bytes before the UDP payload in an untagged IPv4 frame: 14 + 20 + 8.
pub const UDP4_OVERHEAD: usize = eth::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN;

/// A datagram with everything around it; what [`emit_udp`] writes and [`parse_udp`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpFrame<'a> {
    /// Ethernet addresses and tags; its EtherType follows the addresses below and is ignored when
    /// writing.
    pub eth: eth::Header,
    /// Source.
    pub src: SocketAddr,
    /// Destination, of the same family.
    pub dst: SocketAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub traffic_class: TrafficClass,
    /// Content.
    pub payload: &'a [u8],
}

/// Writes an IP header without options or extensions (DF set over IPv4) for `payload_len` bytes to
/// the start of `out`, and returns its length. Addresses of two families are
/// [`WireError::Malformed`].
pub fn emit_ip(
    (src, dst): (IpAddr, IpAddr),
    protocol: u8,
    (hop_limit, traffic_class): (u8, TrafficClass),
    payload_len: usize,
    out: &mut [u8],
) -> Result<usize, WireError> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = ipv4::Header::new(src, dst, protocol);
            ipv4::Header {
                ttl: hop_limit,
                traffic_class,
                ..header
            }
            .emit(payload_len, out)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = ipv6::Header::new(src, dst, protocol);
            ipv6::Header {
                hop_limit,
                traffic_class,
                ..header
            }
            .emit(payload_len, out)
        }
        _ => Err(WireError::Malformed),
    }
}

/// The EtherType for an address's family.
#[must_use]
pub const fn ether_type(address: IpAddr) -> eth::EtherType {
    match address {
        IpAddr::V4(_) => eth::EtherType::IPV4,
        IpAddr::V6(_) => eth::EtherType::IPV6,
    }
}

/// Writes the whole frame to the start of `out`, all checksums right, and returns its length.
pub fn emit_udp(frame: &UdpFrame<'_>, out: &mut [u8]) -> Result<usize, WireError> {
    let UdpFrame {
        src,
        dst,
        hop_limit,
        traffic_class,
        payload,
        ..
    } = *frame;
    let eth = eth::Header {
        ether_type: ether_type(dst.ip()),
        ..frame.eth
    };
    let datagram_len = udp::HEADER_LEN + payload.len();
    let mut at = eth.emit(out)?;
    let addresses = (src.ip(), dst.ip());
    let class = (hop_limit, traffic_class);
    at += emit_ip(
        addresses,
        protocol::UDP,
        class,
        datagram_len,
        &mut out[at..],
    )?;
    let datagram = out
        .get_mut(at..at + datagram_len)
        .ok_or(WireError::NoRoom)?;
    let header = udp::Header {
        src_port: src.port(),
        dst_port: dst.port(),
    };
    header.emit(payload.len(), datagram)?;
    datagram[udp::HEADER_LEN..].copy_from_slice(payload);
    udp::fill_checksum(src.ip(), dst.ip(), datagram)?;
    Ok(at + datagram_len)
}

/// Reads a frame that must be unfragmented UDP over IP, with right checksums.
pub fn parse_udp(bytes: &[u8]) -> Result<UdpFrame<'_>, WireError> {
    let frame = eth::Frame::new_checked(bytes)?;
    let packet = ip::Packet::new_checked(frame.payload())?;
    let header_ok = match &packet {
        ip::Packet::V4(packet) => packet.checksum_ok(),
        ip::Packet::V6(_) => true,
    };
    if frame.ether_type() != ether_type(packet.dst()) || packet.protocol() != protocol::UDP {
        return Err(WireError::BadVersion);
    }
    let datagram = udp::Datagram::new_checked(packet.payload())?;
    let (src, dst) = (packet.src(), packet.dst());
    if !header_ok || packet.is_fragment() || !datagram.checksum_ok(src, dst) {
        return Err(WireError::Malformed);
    }
    Ok(UdpFrame {
        eth: *frame.header(),
        src: SocketAddr::new(src, datagram.src_port()),
        dst: SocketAddr::new(dst, datagram.dst_port()),
        hop_limit: packet.hop_limit(),
        traffic_class: packet.traffic_class(),
        payload: datagram.payload(),
    })
}
