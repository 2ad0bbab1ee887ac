//! etherparse, written by others, must read what we write, and write what we read.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use mitregate_wire::eth::{EtherType, Frame, MacAddr, VlanTag};
use mitregate_wire::frame::{UdpFrame, emit_udp, parse_udp};
use mitregate_wire::ip::{self, TrafficClass};
use mitregate_wire::{eth, icmp, ipv4};
use proptest::prelude::*;

proptest! {
    #[test]
    fn etherparse_reads_our_udp_frames(
        src: SocketAddr, dst: (SocketAddrV4, SocketAddrV6), hop_limit: u8, class: u8, vlan in prop::option::of(0..4096u16),
        payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let dst = if src.is_ipv4() { dst.0.into() } else { SocketAddr::from(dst.1) };
        let mut eth = eth::Header::new(MacAddr([1; 6]), MacAddr([2; 6]), EtherType(0));
        eth.tags[0] = vlan.map(VlanTag::new);
        let traffic_class = TrafficClass(class);
        let frame = UdpFrame { eth, src, dst, hop_limit, traffic_class, payload: &payload };
        let mut buf = vec![0; 400];
        let len = emit_udp(&frame, &mut buf).unwrap();

        let parsed = PacketHeaders::from_ethernet_slice(&buf[..len]).unwrap();
        let Some(TransportHeader::Udp(udp)) = &parsed.transport else { panic!("no UDP") };
        prop_assert_eq!((udp.source_port, udp.destination_port), (src.port(), dst.port()));
        prop_assert_eq!(parsed.payload.slice(), &payload);
        prop_assert_eq!(parsed.vlan_ids().first().map(|id| id.value()), vlan);
        match parsed.net.as_ref().unwrap() {
            NetHeaders::Ipv4(header, _) => {
                prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
                prop_assert_eq!(SocketAddr::from((header.source, src.port())), src);
                prop_assert_eq!((header.dscp.value() << 2) | header.ecn.value(), class);
                prop_assert_eq!((header.time_to_live, header.dont_fragment), (hop_limit, true));
                prop_assert_eq!(udp.calc_checksum_ipv4(header, &payload), Ok(udp.checksum));
            }
            NetHeaders::Ipv6(header, _) => {
                prop_assert_eq!(SocketAddr::from((header.destination, dst.port())).ip(), dst.ip());
                prop_assert_eq!((header.traffic_class, header.hop_limit), (class, hop_limit));
                prop_assert_eq!(udp.calc_checksum_ipv6(header, &payload), Ok(udp.checksum));
            }
            NetHeaders::Arp(_) => panic!("no IP"),
        }
    }

    #[test]
    fn we_read_etherparses_udp_frames(
        src: [u8; 4], dst: [u8; 4], ports: (u16, u16), ttl: u8, payload: Vec<u8>,
    ) {
        let builder = PacketBuilder::ethernet2([3; 6], [5; 6]).ipv4(src, dst, ttl).udp(ports.0, ports.1);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &payload).unwrap();
        let frame = parse_udp(&bytes).unwrap();
        prop_assert_eq!(frame.eth.src, MacAddr([3; 6]));
        prop_assert_eq!(frame.src, (Ipv4Addr::from(src), ports.0).into());
        prop_assert_eq!(frame.dst, (Ipv4Addr::from(dst), ports.1).into());
        prop_assert_eq!((frame.hop_limit, frame.payload), (ttl, &payload[..]));
    }

    #[test]
    fn we_read_etherparses_tcp_and_icmp_flows(
        src: [u8; 16], dst: [u8; 16], ports: (u16, u16), data: Vec<u8>, id: u16, seq: u16,
    ) {
        let mut bytes = Vec::new();
        PacketBuilder::ipv6(src, dst, 9).tcp(ports.0, ports.1, 1, 2).write(&mut bytes, &data).unwrap();
        let packet = ip::Packet::new_checked(&bytes).unwrap();
        prop_assert_eq!(packet.flow(), ip::Flow {
            src: src.into(), dst: dst.into(), protocol: 6, ports: Some(ports),
        });

        let mut bytes = Vec::new();
        PacketBuilder::ipv6(src, dst, 9).icmpv6_echo_request(id, seq).write(&mut bytes, &data).unwrap();
        let packet = ip::Packet::new_checked(&bytes).unwrap();
        let message = icmp::Message::new_checked(icmp::Family::V6, packet.payload()).unwrap();
        prop_assert!(message.checksum_ok(src.into(), dst.into()));
        prop_assert_eq!(message.echo(), Some(icmp::Echo { request: true, id, seq, data: &data }));
        prop_assert_eq!(packet.flow().ports, Some((128 << 8, 128 << 8)));
    }

    #[test]
    fn we_read_options_as_etherparse_writes_them(
        options in (0..=10usize).prop_flat_map(|n| prop::collection::vec(any::<u8>(), n * 4)),
        id: u16, more_fragments: bool, offset in 0..0x2000u16,
    ) {
        let mut header = etherparse::Ipv4Header::new(
            8, 64, etherparse::IpNumber::UDP, [192, 0, 2, 1], [192, 0, 2, 2],
        ).unwrap();
        header.options = options.as_slice().try_into().unwrap();
        header.identification = id;
        header.more_fragments = more_fragments;
        header.fragment_offset = offset.try_into().unwrap();
        header.set_payload_len(8).unwrap();
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        bytes.extend([7; 8]);
        let packet = ipv4::Packet::new_checked(&bytes).unwrap();
        prop_assert!(packet.checksum_ok());
        prop_assert_eq!(packet.options(), options);
        prop_assert_eq!(packet.payload(), [7; 8]);
        prop_assert_eq!((packet.id(), packet.more_fragments()), (id, more_fragments));
        prop_assert_eq!(packet.fragment_offset(), offset * 8);
    }

    #[test]
    fn both_refuse_or_both_agree_on_arbitrary_ipv4(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120), ihl in 0..16u8, len: u8,
    ) {
        if bytes.len() > 4 {
            (bytes[0], bytes[2], bytes[3]) = (0x40 | ihl, 0, len);
        }
        let ours = ipv4::Packet::new_checked(&bytes);
        let theirs = etherparse::Ipv4Slice::from_slice(&bytes);
        // Theirs looks at authentication headers as well, which ours leaves to the payload.
        if let Ok(theirs) = &theirs {
            let ours = ours.unwrap();
            prop_assert_eq!(ours.header_len(), usize::from(theirs.header().ihl()) * 4);
            prop_assert_eq!(ours.total_len(), usize::from(theirs.header().total_len()));
            prop_assert_eq!(ours.src(), theirs.header().source_addr());
        } else if let Ok(ours) = ours {
            prop_assert_eq!(ours.protocol(), 51);
        }
    }
}

#[test]
fn tags_are_those_that_etherparse_writes() {
    let builder = PacketBuilder::ethernet2([3; 6], [5; 6])
        .double_vlan(100.try_into().unwrap(), 200.try_into().unwrap())
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 3)
        .udp(1, 2);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"x").unwrap();
    let frame = Frame::new_checked(&bytes).unwrap();
    assert_eq!(
        frame.header().tags.map(|tag| tag.map(VlanTag::id)),
        [Some(100), Some(200)]
    );
    assert_eq!(
        frame.header().tags[0].map(|tag| tag.tpid),
        Some(EtherType::QINQ)
    );
    assert_eq!(frame.header_len(), 22);
    assert!(parse_udp(&bytes).is_ok());
}
