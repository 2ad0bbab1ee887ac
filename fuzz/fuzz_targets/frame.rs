//! Ethernet, IP, UDP, ICMP: no view panics, what it says about lengths holds, edits of a header
//! keep it right, and what was parsed is emitted the same.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use mitregate_wire::eth::Frame;
use mitregate_wire::frame::{emit_esp, emit_udp, parse_esp, parse_udp};
use mitregate_wire::ip::{Packet, TrafficClass, decrement_hop_limit, set_traffic_class};
use mitregate_wire::udp::{Datagram, NatT};
use mitregate_wire::{icmp, ipv4};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = parse_udp(bytes) {
        let mut out = vec![0; bytes.len() + 64];
        let len = emit_udp(&frame, &mut out).expect("what was parsed has room");
        assert_eq!(parse_udp(&out[..len]), Ok(frame));
    }
    if let Ok(frame) = parse_esp(bytes) {
        let mut out = vec![0; bytes.len() + 64];
        let len = emit_esp(&frame, &mut out).expect("what was parsed has room");
        assert_eq!(parse_esp(&out[..len]), Ok(frame));
    }
    // Checksums are hard to guess: the layers below are tried on their own as well.
    if let Ok(frame) = Frame::new_checked(bytes) {
        assert_eq!(frame.header_len() + frame.payload().len(), bytes.len());
        let mut header = [0; 22];
        let len = frame.header().emit(&mut header).expect("at most 22 bytes");
        assert_eq!(header[..len], bytes[..len]);
        packet(frame.payload());
    }
    packet(bytes);
});

fn packet(bytes: &[u8]) {
    let _ = icmp::quoted_header(bytes);
    let Ok(packet) = Packet::new_checked(bytes) else {
        return;
    };
    assert_eq!(
        packet.header_len() + packet.payload().len(),
        packet.total_len()
    );
    assert!(packet.total_len() <= bytes.len());
    if packet.is_fragment() && !packet.payload().is_empty() {
        let _ = packet.flow();
    }
    if let Ok(datagram) = Datagram::new_checked(packet.payload()) {
        let _ = NatT::new_checked(datagram.payload());
    }
    for family in [icmp::Family::V4, icmp::Family::V6] {
        if let Ok(message) = icmp::Message::new_checked(family, packet.payload()) {
            assert!(message.echo().is_none() || message.quoted().is_none());
            message.quoted().map(icmp::quoted_header);
        }
    }
    edits(bytes);
    let here = match packet.src() {
        IpAddr::V4(_) => IpAddr::from([192, 0, 2, 1]),
        IpAddr::V6(_) => IpAddr::from([1; 8]),
    };
    let mut out = [0; 1500];
    let problem = icmp::Problem::TooBig { mtu: 1280 };
    if let Some(len) = icmp::emit_error(here, problem, bytes, &mut out).expect("it has room") {
        let error = Packet::new_checked(&out[..len]).expect("what was emitted parses");
        assert_eq!((error.src(), error.dst()), (here, packet.src()));
    }
}

fn edits(bytes: &[u8]) {
    let mut edited = bytes.to_vec();
    let was_ok = ipv4::Packet::new_checked(bytes).is_ok_and(|packet| packet.checksum_ok());
    decrement_hop_limit(&mut edited).expect("it was a packet");
    set_traffic_class(&mut edited, TrafficClass(0xb9)).expect("it was a packet");
    if let Ok(packet) = ipv4::Packet::new_checked(&edited) {
        assert_eq!(packet.checksum_ok(), was_ok);
    }
}
