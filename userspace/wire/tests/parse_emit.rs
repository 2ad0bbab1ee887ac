//! What is emitted is what is parsed, and nothing that is parsed panics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mitregate_wire::echo::{self, Echo, Kind, PlainEcho};
use mitregate_wire::esp::{self, Spi};
use mitregate_wire::eth::{EtherType, Frame, MacAddr, VlanTag};
use mitregate_wire::frame::{EspFrame, UdpFrame, emit_esp, emit_udp, parse_esp, parse_udp};
use mitregate_wire::ip::{Ecn, Packet, TrafficClass, decrement_hop_limit, set_traffic_class};
use mitregate_wire::udp::NatT;
use mitregate_wire::{WireError, eth, icmp, ipv4, ipv6, udp};
use proptest::prelude::*;

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr)
}

fn tag() -> impl Strategy<Value = VlanTag> {
    (any::<bool>(), any::<u16>()).prop_map(|(qinq, tci)| VlanTag {
        tpid: if qinq {
            EtherType::QINQ
        } else {
            EtherType::VLAN
        },
        tci,
    })
}

fn eth_header() -> impl Strategy<Value = eth::Header> {
    let tags = prop_oneof![
        Just([None, None]),
        tag().prop_map(|a| [Some(a), None]),
        (tag(), tag()).prop_map(|(a, b)| [Some(a), Some(b)]),
    ];
    let ether_type = any::<u16>()
        .prop_map(EtherType)
        .prop_filter("a tag is no payload", |ether_type| !ether_type.is_tag());
    (mac(), mac(), tags, ether_type).prop_map(|(dst, src, tags, ether_type)| eth::Header {
        dst,
        src,
        tags,
        ether_type,
    })
}

prop_compose! {
    fn ipv4_header()(
        src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, ttl: u8, class: u8, id: u16,
        dont_fragment: bool, more_fragments: bool, offset in 0..0x2000u16,
    ) -> ipv4::Header {
        ipv4::Header {
            src, dst, protocol, ttl, traffic_class: TrafficClass(class), id, dont_fragment,
            more_fragments, fragment_offset: offset * 8,
        }
    }
}

prop_compose! {
    fn ipv6_header()(
        src: Ipv6Addr, dst: Ipv6Addr, next_header in 64..=255u8, hop_limit: u8, class: u8,
        flow_label in 0..=0xf_ffffu32,
    ) -> ipv6::Header {
        ipv6::Header {
            src, dst, next_header, hop_limit, traffic_class: TrafficClass(class), flow_label,
        }
    }
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

fn socket_pair() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    prop_oneof![
        any::<(Ipv4Addr, u16, Ipv4Addr, u16)>()
            .prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into())),
        any::<(Ipv6Addr, u16, Ipv6Addr, u16)>()
            .prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into())),
    ]
}

proptest! {
    #[test]
    fn ethernet(header in eth_header(), payload in bytes(64)) {
        let mut buf = [0; 22 + 64];
        let len = header.emit(&mut buf).unwrap();
        prop_assert_eq!(len, header.len());
        buf[len..len + payload.len()].copy_from_slice(&payload);
        let frame = Frame::new_checked(&buf[..len + payload.len()]).unwrap();
        prop_assert_eq!(frame.header(), &header);
        prop_assert_eq!(frame.payload(), payload);
        for short in 0..len {
            prop_assert_eq!(Frame::new_checked(&buf[..short]).err(), Some(WireError::Truncated));
            prop_assert_eq!(header.emit(&mut buf[..short]), Err(WireError::NoRoom));
        }
    }

    #[test]
    fn mac_address(mac in mac()) {
        prop_assert_eq!(mac.to_string().parse(), Ok(mac));
    }

    #[test]
    fn ipv4_packet(header in ipv4_header(), payload in bytes(64), padding in bytes(16)) {
        let mut buf = [&[0; 20][..], &payload, &padding].concat();
        header.emit(payload.len(), &mut buf).unwrap();
        let packet = ipv4::Packet::new_checked(&buf).unwrap();
        prop_assert_eq!(packet.header(), header);
        prop_assert_eq!(packet.payload(), &payload);
        prop_assert_eq!(packet.total_len(), 20 + payload.len());
        prop_assert!(packet.checksum_ok());
        for short in 0..packet.total_len() {
            prop_assert!(ipv4::Packet::new_checked(&buf[..short]).is_err());
        }
    }

    #[test]
    fn ipv6_packet(header in ipv6_header(), payload in bytes(64), padding in bytes(16)) {
        let mut buf = [&[0; 40][..], &payload, &padding].concat();
        header.emit(payload.len(), &mut buf).unwrap();
        let packet = ipv6::Packet::new_checked(&buf).unwrap();
        prop_assert_eq!(packet.header(), header);
        prop_assert_eq!(packet.payload(), &payload);
        for short in 0..packet.total_len() {
            prop_assert!(ipv6::Packet::new_checked(&buf[..short]).is_err());
        }
    }

    #[test]
    fn edits_keep_the_header_right(
        v4 in ipv4_header(), v6 in ipv6_header(), is_v4: bool, class: u8, payload in bytes(32),
    ) {
        let mut buf = vec![0; 40];
        let len = match is_v4 {
            true => v4.emit(payload.len(), &mut buf),
            false => v6.emit(payload.len(), &mut buf),
        }.unwrap();
        buf.truncate(len);
        buf.extend(&payload);

        let before = Packet::new_checked(&buf).unwrap().hop_limit();
        let after = decrement_hop_limit(&mut buf).unwrap();
        set_traffic_class(&mut buf, TrafficClass(class)).unwrap();
        let packet = Packet::new_checked(&buf).unwrap();
        if before > 1 {
            prop_assert_eq!((packet.hop_limit(), after), (before - 1, before - 1));
        } else {
            prop_assert_eq!((packet.hop_limit(), after), (before, 0));
        }
        prop_assert_eq!(packet.traffic_class().0, class);
        prop_assert_eq!(packet.payload(), &payload);
        match packet {
            Packet::V4(packet) => {
                prop_assert!(packet.checksum_ok());
                let restored = ipv4::Header {
                    ttl: v4.ttl, traffic_class: v4.traffic_class, ..packet.header()
                };
                prop_assert_eq!(restored, v4);
            }
            Packet::V6(packet) => {
                let restored = ipv6::Header {
                    hop_limit: v6.hop_limit, traffic_class: v6.traffic_class, ..packet.header()
                };
                prop_assert_eq!(restored, v6);
            }
        }
    }

    #[test]
    fn udp_frame(
        eth in eth_header(), (src, dst) in socket_pair(), hop_limit: u8, class: u8,
        payload in bytes(100), padding in bytes(20),
    ) {
        let eth = eth::Header {
            ether_type: if src.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 }, ..eth
        };
        let traffic_class = TrafficClass(class);
        let frame = UdpFrame { eth, src, dst, hop_limit, traffic_class, payload: &payload };
        let mut buf = vec![0; 300];
        let len = emit_udp(&frame, &mut buf).unwrap();
        for short in 0..len {
            prop_assert_eq!(emit_udp(&frame, &mut vec![0; short]), Err(WireError::NoRoom));
            prop_assert!(parse_udp(&buf[..short]).is_err());
        }
        buf.truncate(len);
        buf.extend(padding);
        prop_assert_eq!(parse_udp(&buf), Ok(frame));
    }

    #[test]
    fn a_flipped_bit_of_a_udp_frame_shows(
        (src, dst) in socket_pair(), payload in bytes(40), at: prop::sample::Index, bit in 0..8,
    ) {
        let ether_type = if src.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let eth = eth::Header::new(MacAddr([2; 6]), MacAddr([4; 6]), ether_type);
        let traffic_class = TrafficClass(0);
        let frame = UdpFrame { eth, src, dst, hop_limit: 64, traffic_class, payload: &payload };
        let mut buf = vec![0; 200];
        let len = emit_udp(&frame, &mut buf).unwrap();
        buf.truncate(len);
        let at = 14 + at.index(len - 14);
        buf[at] ^= 1u8 << bit;
        // A checksum that becomes zero says "none".
        prop_assume!(src.is_ipv6() || !(40..42).contains(&at));
        if let Ok(parsed) = parse_udp(&buf) {
            // IPv6 protects neither class nor label nor hop limit.
            prop_assert!(src.is_ipv6() && at < 14 + 8 && parsed.payload == payload);
        }
    }

    #[test]
    fn esp_header(spi: u32, sequence: u32, body in bytes(20)) {
        let mut buf = [&[0; 8][..], &body].concat();
        esp::emit_header(spi, sequence, &mut buf).unwrap();
        let packet = esp::Packet::new_checked(&buf).unwrap();
        prop_assert_eq!((packet.raw_spi(), packet.sequence()), (spi, sequence));
        prop_assert_eq!(packet.spi().is_some(), spi > 255);
        prop_assert_eq!(packet.body(), &body);
    }

    #[test]
    fn esp_echo(
        request: bool, spi: Option<u32>, id: u16, seq: u16, data in bytes(600), tfc in bytes(50),
    ) {
        let return_spi = spi.and_then(Spi::new);
        let kind = if request { Kind::Request { return_spi } } else { Kind::Response };
        let echo = Echo { kind, id, seq, data: &data };
        let mut buf = vec![0; 700];
        let len = echo.emit(&mut buf).unwrap();
        prop_assert_eq!(len, echo.emitted_len());
        for short in 0..len {
            prop_assert!(Echo::new_checked(&buf[..short]).is_err());
            prop_assert_eq!(echo.emit(&mut buf.clone()[..short]), Err(WireError::NoRoom));
        }
        buf.truncate(len);
        buf.extend(tfc);
        prop_assert_eq!(Echo::new_checked(&buf), Ok(echo));
        match echo.response() {
            Some(response) => {
                prop_assert!(request);
                prop_assert_eq!((response.kind, response.id, response.seq), (Kind::Response, id, seq));
                prop_assert_eq!(response.data, &data[..data.len().min(echo::MAX_ECHOED)]);
            }
            None => prop_assert!(!request),
        }
    }

    #[test]
    fn plain_echo_in_its_frame(
        eth in eth_header(), (src, dst) in socket_pair(), request: bool, sequence: u32, id: u16,
        seq: u16, data in bytes(600), padding in bytes(20),
    ) {
        let kind = if request { Kind::Request { return_spi: None } } else { Kind::Response };
        let sequence = if request { sequence } else { 0 };
        let plain = PlainEcho { sequence, echo: Echo { kind, id, seq, data: &data } };
        let mut packet = vec![0; plain.emitted_len()];
        prop_assert_eq!(plain.emit(&mut packet), Ok(packet.len()));
        for short in 0..packet.len() {
            prop_assert!(PlainEcho::new_checked(&packet[..short]).is_err());
            prop_assert_eq!(plain.emit(&mut packet.clone()[..short]), Err(WireError::NoRoom));
        }
        if let Some(response) = plain.response() {
            prop_assert!(response.emitted_len() <= packet.len() && response.sequence == 0);
            prop_assert_eq!((response.echo.id, response.echo.seq), (id, seq));
        }
        prop_assert_eq!(plain.response().is_some(), request);

        let eth = eth::Header {
            ether_type: if src.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 }, ..eth
        };
        let (src, dst, traffic_class) = (src.ip(), dst.ip(), TrafficClass(0));
        let frame = EspFrame { eth, src, dst, hop_limit: 64, traffic_class, packet: &packet };
        let mut buf = vec![0; 800];
        let len = emit_esp(&frame, &mut buf).unwrap();
        for short in 0..len {
            prop_assert_eq!(emit_esp(&frame, &mut vec![0; short]), Err(WireError::NoRoom));
            prop_assert!(parse_esp(&buf[..short]).is_err());
        }
        buf.truncate(len);
        buf.extend(padding);
        prop_assert_eq!(parse_esp(&buf), Ok(frame));
        prop_assert!(parse_udp(&buf).is_err());
    }

    #[test]
    fn icmp_echo((src, dst) in socket_pair(), request: bool, id: u16, seq: u16, data in bytes(60)) {
        let (src, dst) = (src.ip(), dst.ip());
        let echo = icmp::Echo { request, id, seq, data: &data };
        let mut buf = vec![0; 100];
        let len = echo.emit(src, dst, &mut buf).unwrap();
        let message = icmp::Message::new_checked(icmp::Family::of(src), &buf[..len]).unwrap();
        prop_assert_eq!(message.echo(), Some(echo));
        prop_assert!(message.checksum_ok(src, dst));
        prop_assert!(!message.is_error() && message.quoted().is_none());
    }

    #[test]
    fn arbitrary_bytes_give_a_view_or_an_error(bytes in bytes(200), version in 0..3u8) {
        let mut bytes = bytes;
        if let (Some(first), 1..) = (bytes.first_mut(), version) {
            *first = [0x45, 0x60][usize::from(version) - 1];
        }
        if let Ok(frame) = Frame::new_checked(&bytes) {
            prop_assert_eq!(frame.header_len() + frame.payload().len(), bytes.len());
        }
        if let Ok(packet) = Packet::new_checked(&bytes) {
            prop_assert!(packet.total_len() <= bytes.len());
            prop_assert_eq!(packet.header_len() + packet.payload().len(), packet.total_len());
            let _ = packet.flow();
        }
        if let Ok(datagram) = udp::Datagram::new_checked(&bytes) {
            prop_assert!(datagram.payload().len() + 8 <= bytes.len());
        }
        let _ = (parse_udp(&bytes), NatT::new_checked(&bytes), Echo::new_checked(&bytes));
        let _ = (parse_esp(&bytes), PlainEcho::new_checked(&bytes));
        let _ = icmp::quoted_header(&bytes);
        for here in [IpAddr::from([192, 0, 2, 1]), IpAddr::from([1; 8])] {
            let _ = icmp::emit_error(here, icmp::Problem::HopLimit, &bytes, &mut [0; 1500]);
        }
    }
}

/// A plain ESP ping that lies about what it is or how long, is no request or response.
#[test]
fn plain_echoes_that_lie_are_refused() {
    const REQUEST: [u8; 20] = [
        0, 0, 0, 7, 0, 0, 0, 9, 2, 0, 0, 4, 0, 1, 0, 2, b'd', b'a', b't', b'a',
    ];
    let mut response = REQUEST;
    (response[3], response[7], response[8]) = (8, 0, 3);
    let asked = PlainEcho::new_checked(&REQUEST).unwrap();
    let mut out = [0; 20];
    asked.response().unwrap().emit(&mut out).unwrap();
    assert_eq!(out, response);
    assert!(
        PlainEcho::new_checked(&response)
            .unwrap()
            .response()
            .is_none()
    );
    let changed = |base: [u8; 20], at: usize, to: u8| {
        let mut bytes = base;
        bytes[at] = to;
        PlainEcho::new_checked(&bytes).map(|_| ())
    };
    // The SPI of a response, and of no ping at all; a response, and something unknown, to SPI 7.
    assert_eq!(changed(REQUEST, 3, 8), Err(WireError::Malformed));
    assert_eq!(changed(REQUEST, 3, 9), Err(WireError::BadVersion));
    assert_eq!(changed(REQUEST, 8, 3), Err(WireError::Malformed));
    assert_eq!(changed(REQUEST, 8, 1), Err(WireError::BadVersion));
    // More data than arrived, a return SPI (256 and up names an SA), a response with a sequence number.
    assert_eq!(changed(REQUEST, 11, 5), Err(WireError::Truncated));
    assert!(changed(REQUEST, 9, 0x80).is_err());
    assert_eq!(changed(response, 7, 1), Err(WireError::Malformed));
}

#[test]
fn port_4500_carries_three_things() {
    assert_eq!(NatT::new_checked(&[0xff]), Ok(NatT::Keepalive));
    assert_eq!(NatT::new_checked(&[0, 0, 0, 0, 7]), Ok(NatT::Ike(&[7])));
    assert_eq!(
        NatT::new_checked(&[0, 0, 1, 0]),
        Ok(NatT::Esp(&[0, 0, 1, 0]))
    );
    for short in [&[][..], &[0xfe], &[0xff, 0xff], &[0, 0, 0]] {
        assert_eq!(NatT::new_checked(short), Err(WireError::Truncated));
    }
}

#[test]
fn lying_ipv4_lengths_are_refused() {
    let mut good = [0; 28];
    let (src, dst) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    ipv4::Header::new(src, dst, 17).emit(8, &mut good).unwrap();
    for (at, byte, error) in [
        (0, 0x44, WireError::BadLength),  // IHL below the header
        (0, 0x48, WireError::BadLength),  // IHL beyond the total length
        (0, 0x65, WireError::BadVersion), // another version
        (3, 19, WireError::BadLength),    // total length below the header
        (3, 29, WireError::Truncated),    // total length beyond the bytes
        (2, 1, WireError::Truncated),
    ] {
        let mut bad = good;
        bad[at] = byte;
        assert_eq!(ipv4::Packet::new_checked(&bad).err(), Some(error));
    }
}

#[test]
fn lying_udp_lengths_are_refused() {
    for (length, error) in [
        (0, WireError::BadLength),
        (7, WireError::BadLength),
        (9, WireError::Truncated),
    ] {
        let bytes = [0, 1, 0, 2, 0, length, 0, 0];
        assert_eq!(udp::Datagram::new_checked(&bytes).err(), Some(error));
    }
}

#[test]
fn echo_refuses_what_the_draft_forbids() {
    let good = [2, 0, 0, 1, 0, 7, 0, 9, 0xaa];
    assert_eq!(
        Echo::new_checked(&good).map(|echo| (echo.id, echo.seq)),
        Ok((7, 9))
    );
    let change = |at: usize, byte| {
        let mut bytes = good;
        bytes[at] = byte;
        Echo::new_checked(&bytes).err()
    };
    assert_eq!(change(0, 0), Some(WireError::BadVersion)); // AGGFRAG non-congestion-control
    assert_eq!(change(0, 4), Some(WireError::BadVersion));
    assert_eq!(change(3, 2), Some(WireError::Truncated)); // data_len beyond what arrived
    assert_eq!(change(1, 0x80), Some(WireError::Truncated)); // no return SPI there
    // R in a response; a reserved return SPI.
    assert_eq!(
        Echo::new_checked(&[3, 0x80, 0, 0, 0, 7, 0, 9, 1, 2, 3, 4]),
        Err(WireError::Malformed)
    );
    assert_eq!(
        Echo::new_checked(&[2, 0x80, 0, 0, 0, 7, 0, 9, 0, 0, 0, 255]),
        Err(WireError::Malformed)
    );
}

#[test]
fn ipv6_extension_headers_are_walked_within_bounds() {
    let header = ipv6::Header::new(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 0);
    let build = |headers: &[[u8; 8]], payload: &[u8]| {
        let mut packet = [&[0; 40][..], headers.as_flattened(), payload].concat();
        header.emit(packet.len() - 40, &mut packet).unwrap();
        packet
    };
    let udp = [0, 53, 1, 0, 0, 8, 0, 0];
    let packet = build(
        &[[60, 0, 0, 0, 0, 0, 0, 0], [17, 0, 0, 0, 0, 0, 0, 0]],
        &udp,
    );
    let view = ipv6::Packet::new_checked(&packet).unwrap();
    assert_eq!(
        (view.protocol(), view.header_len(), view.payload()),
        (17, 56, &udp[..])
    );
    assert_eq!(view.flow().ports, Some((53, 256)));

    // First fragment: ports; later fragment: none, and the walk stops there.
    for (offset, ports) in [(0x0001, Some((53, 256))), (0x0009, None)] {
        let [a, b] = u16::to_be_bytes(offset);
        let packet = build(
            &[[44, 0, 0, 0, 0, 0, 0, 0], [17, 0, a, b, 0, 0, 0, 1]],
            &udp,
        );
        let view = ipv6::Packet::new_checked(&packet).unwrap();
        assert!(view.is_fragment() && view.protocol() == 17);
        assert_eq!(view.flow().ports, ports);
    }

    let chain = |n| {
        build(
            &vec![[0, 0, 0, 0, 0, 0, 0, 0]; n],
            &[59, 0, 0, 0, 0, 0, 0, 0],
        )
    };
    assert!(ipv6::Packet::new_checked(&chain(ipv6::MAX_EXTENSIONS - 1)).is_ok());
    assert_eq!(
        ipv6::Packet::new_checked(&chain(ipv6::MAX_EXTENSIONS)).err(),
        Some(WireError::Malformed)
    );
    // An extension header longer than the packet.
    let lying = build(&[[17, 9, 0, 0, 0, 0, 0, 0]], &udp);
    assert_eq!(
        ipv6::Packet::new_checked(&lying).err(),
        Some(WireError::Truncated)
    );
}

#[test]
fn later_ipv4_fragments_show_no_ports() {
    let header = ipv4::Header::new([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 17);
    for (more_fragments, fragment_offset, ports) in [
        (false, 0, Some((1, 2))),
        (true, 0, Some((1, 2))),
        (true, 8, None),
        (false, 8, None),
    ] {
        let mut packet = [0; 28];
        let header = ipv4::Header {
            more_fragments,
            fragment_offset,
            ..header
        };
        header.emit(8, &mut packet).unwrap();
        packet[20..24].copy_from_slice(&[0, 1, 0, 2]);
        assert_eq!(
            ipv4::Packet::new_checked(&packet).unwrap().flow().ports,
            ports
        );
    }
}

/// A UDP packet of `len` bytes to be complained about.
fn offending(src: IpAddr, dst: IpAddr, len: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; len];
    let class = (64, TrafficClass::new(0, Ecn::NotEct));
    let header = if src.is_ipv4() { 20 } else { 40 };
    mitregate_wire::frame::emit_ip((src, dst), 17, class, len - header, &mut packet).unwrap();
    packet
}

#[test]
fn icmp_errors_quote_and_go_back_to_the_source() {
    let v4 = [[192, 0, 2, 1], [10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
    let v6 = [[1; 8], [2; 8], [3; 8]].map(IpAddr::from);
    for ([here, src, dst], longest) in [(v4, 576), (v6, 1280)] {
        for len in [60, 1400] {
            let offending = offending(src, dst, len);
            let mut out = vec![0; 1500];
            let problem = icmp::Problem::TooBig { mtu: 1330 };
            let written = icmp::emit_error(here, problem, &offending, &mut out)
                .unwrap()
                .unwrap();
            assert!(written <= longest);
            let packet = Packet::new_checked(&out[..written]).unwrap();
            assert_eq!(
                (packet.src(), packet.dst(), packet.total_len()),
                (here, src, written)
            );
            let family = icmp::Family::of(here);
            assert_eq!(packet.protocol(), family.protocol());
            let message = icmp::Message::new_checked(family, packet.payload()).unwrap();
            assert!(message.checksum_ok(here, src) && message.is_error());
            assert_eq!(message.next_hop_mtu(), Some(1330));
            let quoted = message.quoted().unwrap();
            assert_eq!(quoted, &offending[..quoted.len()]);
            let header = icmp::quoted_header(quoted).unwrap();
            assert_eq!((header.src, header.dst, header.protocol), (src, dst, 17));
            // No error about an error.
            let again = icmp::emit_error(dst, problem, &out[..written], &mut [0; 1500]);
            assert_eq!(again, Ok(None));
        }
    }
}

#[test]
fn icmp_errors_are_withheld_where_they_must_be() {
    let here = IpAddr::from([192, 0, 2, 1]);
    let good = IpAddr::from([10, 0, 0, 1]);
    let bad = [[224, 0, 0, 1], [255; 4]].map(IpAddr::from);
    let unusable = [[0; 4], [127, 0, 0, 1]].map(IpAddr::from);
    let error =
        |packet: &[u8]| icmp::emit_error(here, icmp::Problem::HopLimit, packet, &mut [0; 600]);
    for address in bad {
        assert_eq!(error(&offending(good, address, 40)), Ok(None));
        assert_eq!(error(&offending(address, good, 40)), Ok(None));
    }
    for address in unusable {
        assert_eq!(error(&offending(address, good, 40)), Ok(None));
    }
    let later = ipv4::Header {
        fragment_offset: 800,
        ..ipv4::Header::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17)
    };
    let mut packet = [0; 40];
    later.emit(20, &mut packet).unwrap();
    assert_eq!(error(&packet), Ok(None));
    assert!(matches!(error(&offending(good, good, 40)), Ok(Some(_))));
}
