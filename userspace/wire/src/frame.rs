//! Whole frames at once: Ethernet, IP and UDP or ESP.

use core::net::{IpAddr, SocketAddr};

use crate::ip::{self, TrafficClass, protocol};
use crate::{WireError, eth, icmp, ipv4, ipv6, udp};

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

/// An ICMP error about a packet that came from here, as far as anybody can say: whoever knows the packet's
/// addresses and ports can write one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterError {
    /// Who reports: a router, or the other end.
    pub from: IpAddr,
    /// Source of the packet that it is about; port 0 where it was ESP.
    pub src: SocketAddr,
    /// Its destination; port 0 where it was ESP.
    pub dst: SocketAddr,
    /// Its SPI, where it was ESP: UDP's eight quoted bytes hold none.
    pub spi: Option<u32>,
    /// What the next hop takes, if it was too big for it; 0 is a router that does not say.
    pub next_hop_mtu: Option<u32>,
}

/// Reads a frame that must be an ICMP or ICMPv6 error, with right checksums, about an ESP or UDP packet
/// that came from the error's own destination.
pub fn parse_icmp_error(bytes: &[u8]) -> Result<OuterError, WireError> {
    let frame = eth::Frame::new_checked(bytes)?;
    let packet = ip::Packet::new_checked(frame.payload())?;
    let header_ok = match &packet {
        ip::Packet::V4(packet) => packet.checksum_ok(),
        ip::Packet::V6(_) => true,
    };
    let family = icmp::Family::of(packet.dst());
    if frame.ether_type() != ether_type(packet.dst()) || packet.protocol() != family.protocol() {
        return Err(WireError::BadVersion);
    }
    let message = icmp::Message::new_checked(family, packet.payload())?;
    let (from, to) = (packet.src(), packet.dst());
    if !header_ok || packet.is_fragment() || !message.checksum_ok(from, to) {
        return Err(WireError::Malformed);
    }
    let quoted = icmp::quoted_header(message.quoted().ok_or(WireError::BadVersion)?)?;
    let half = |at: usize| match quoted.payload.get(at..at + 2) {
        Some(&[a, b]) => Ok(u16::from_be_bytes([a, b])),
        _ => Err(WireError::Truncated),
    };
    let (ports, spi) = match quoted.protocol {
        protocol::UDP => ((half(0)?, half(2)?), None),
        protocol::ESP => (
            (0, 0),
            Some(u32::from(half(0)?) << 16 | u32::from(half(2)?)),
        ),
        _ => return Err(WireError::BadVersion),
    };
    if quoted.src != to {
        return Err(WireError::Malformed);
    }
    Ok(OuterError {
        from,
        src: SocketAddr::new(quoted.src, ports.0),
        dst: SocketAddr::new(quoted.dst, ports.1),
        spi,
        next_hop_mtu: message.next_hop_mtu(),
    })
}

/// An ESP packet over IP (protocol 50) with everything around it; what [`emit_esp`] writes and
/// [`parse_esp`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspFrame<'a> {
    /// As in [`UdpFrame`].
    pub eth: eth::Header,
    /// Source.
    pub src: IpAddr,
    /// Destination, of the same family.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub traffic_class: TrafficClass,
    /// From the SPI on.
    pub packet: &'a [u8],
}

/// Writes the whole frame to the start of `out` and returns its length.
pub fn emit_esp(frame: &EspFrame<'_>, out: &mut [u8]) -> Result<usize, WireError> {
    let eth = eth::Header {
        ether_type: ether_type(frame.dst),
        ..frame.eth
    };
    let mut at = eth.emit(out)?;
    let class = (frame.hop_limit, frame.traffic_class);
    let len = frame.packet.len();
    let addresses = (frame.src, frame.dst);
    at += emit_ip(addresses, protocol::ESP, class, len, &mut out[at..])?;
    let room = out.get_mut(at..at + len).ok_or(WireError::NoRoom)?;
    room.copy_from_slice(frame.packet);
    Ok(at + len)
}

/// Reads a frame that must be unfragmented ESP over IP.
pub fn parse_esp(bytes: &[u8]) -> Result<EspFrame<'_>, WireError> {
    let frame = eth::Frame::new_checked(bytes)?;
    let packet = ip::Packet::new_checked(frame.payload())?;
    if frame.ether_type() != ether_type(packet.dst()) || packet.protocol() != protocol::ESP {
        return Err(WireError::BadVersion);
    }
    let header_ok = match &packet {
        ip::Packet::V4(packet) => packet.checksum_ok(),
        ip::Packet::V6(_) => true,
    };
    if !header_ok || packet.is_fragment() {
        return Err(WireError::Malformed);
    }
    Ok(EspFrame {
        eth: *frame.header(),
        src: packet.src(),
        dst: packet.dst(),
        hop_limit: packet.hop_limit(),
        traffic_class: packet.traffic_class(),
        packet: packet.payload(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icmp::Problem;
    use proptest::prelude::*;

    fn framed(packet: &[u8]) -> Vec<u8> {
        let v6 = packet[0] >> 4 == 6;
        let kind = if v6 {
            eth::EtherType::IPV6
        } else {
            eth::EtherType::IPV4
        };
        let mac = eth::MacAddr([2; 6]);
        let mut out = vec![0; eth::HEADER_LEN];
        eth::Header::new(mac, mac, kind).emit(&mut out).unwrap();
        out.extend_from_slice(packet);
        out
    }

    fn about(src: IpAddr, dst: IpAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
        let mut offending = vec![0; 40];
        let class = (64, TrafficClass(0));
        let at = emit_ip((src, dst), proto, class, payload.len(), &mut offending).unwrap();
        offending.truncate(at);
        offending.extend_from_slice(payload);
        let router = match src {
            IpAddr::V4(_) => IpAddr::from([192, 0, 2, 99]),
            IpAddr::V6(_) => "2001:db8::99".parse().unwrap(),
        };
        let mut out = vec![0; 1500];
        let problem = Problem::TooBig { mtu: 1300 };
        let len = crate::icmp::emit_error(router, problem, &offending, &mut out).unwrap();
        out.truncate(len.unwrap());
        framed(&out)
    }

    #[test]
    fn errors_name_the_packet_that_they_are_about() {
        let v4 = ["198.51.100.1", "203.0.113.7"];
        let v6 = ["2001:db8::1", "2001:db8::2"];
        for [src, dst] in [v4, v6].map(|pair| pair.map(|a| a.parse::<IpAddr>().unwrap())) {
            let udp = about(
                src,
                dst,
                protocol::UDP,
                &[0x11, 0x94, 0x11, 0x95, 5, 6, 7, 8],
            );
            let error = parse_icmp_error(&udp).unwrap();
            assert_eq!(
                (error.src, error.dst),
                ((src, 4500).into(), (dst, 4501).into())
            );
            assert_eq!((error.spi, error.next_hop_mtu), (None, Some(1300)));
            let esp = about(src, dst, protocol::ESP, &[1, 2, 3, 4, 5, 6, 7, 8]);
            let error = parse_icmp_error(&esp).unwrap();
            assert_eq!((error.src, error.dst), ((src, 0).into(), (dst, 0).into()));
            assert_eq!(error.spi, Some(0x0102_0304));
            // Whatever is changed, it is no longer whole.
            for at in eth::HEADER_LEN..esp.len() {
                let mut bytes = esp.clone();
                bytes[at] ^= 0x10;
                let changed = parse_icmp_error(&bytes);
                let v6_header = src.is_ipv6() && at < eth::HEADER_LEN + 8;
                assert!(changed.is_err() || v6_header, "{at}: {changed:?}");
            }
        }
    }

    #[test]
    fn an_error_about_somebody_elses_packet_is_none() {
        let (src, dst) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let bytes = about(src, dst, protocol::TCP, &[0; 8]);
        assert_eq!(parse_icmp_error(&bytes), Err(WireError::BadVersion));
        let bytes = about(src, dst, protocol::UDP, &[0; 2]);
        assert_eq!(parse_icmp_error(&bytes), Err(WireError::Truncated));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = parse_icmp_error(&framed(&[&[0x45, 0][..], &bytes].concat()));
            let _ = parse_icmp_error(&bytes);
        }
    }
}
