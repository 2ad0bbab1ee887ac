//! What the worker makes of a path that carries less than the link.
#![allow(missing_docs)]

#[macro_use]
mod common;

use std::time::Duration;

use common::*;
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use mitregate_dataplane::{Command, DfPolicy, Epoch, Event, Fate, OuterAddrs};
use mitregate_esp::{CipherSuite, EpochId, LARGE, Provider};
use mitregate_wire::{
    echo::{self, Echo, Kind},
    eth,
    ip::{self, protocol},
    ipv4, ipv6,
};

const CLIENT_V6: [u16; 8] = [0xfd01, 0, 0, 0, 0, 0, 0, 1];
const SERVER_V6: [u16; 8] = [0xfd02, 0, 0, 0, 0, 0, 0, 9];

fn limited(provider: Provider, mtu: u16) -> (Rig, Rig) {
    let (client, gateway) = pair(CipherSuite::Aes256Gcm16, provider, UDP_ENCAP);
    client
        .handle
        .send(Command::SetPathMtu {
            tunnel: TUNNEL,
            mtu,
        })
        .ok()
        .unwrap();
    let mut client = client;
    client.round();
    (client, gateway)
}

fn may_be_cut(data: &[u8]) -> Vec<u8> {
    packet_with(CLIENT_INSIDE, SERVER_INSIDE, data, |ip| {
        ip.dont_fragment = false;
    })
}

fn v6(len: usize) -> Vec<u8> {
    let header = ipv6::Header::new(CLIENT_V6.into(), SERVER_V6.into(), protocol::UDP);
    let mut out = vec![0; len];
    header.emit(len - 40, &mut out).unwrap();
    out[40..48].copy_from_slice(&[3, 232, 7, 208, 0, 8, 0, 0]);
    out
}

/// The outer IP packet's length, and whether DF is set.
fn outer_ip(frame: &[u8]) -> (usize, bool) {
    let frame = eth::Frame::new_checked(frame).unwrap();
    let ip = ipv4::Packet::new_checked(frame.payload()).unwrap();
    assert!(ip.checksum_ok());
    (ip.total_len(), ip.dont_fragment())
}

over_both!(a_probe_has_exactly_the_size_that_was_asked_for);
fn a_probe_has_exactly_the_size_that_was_asked_for(provider: Provider) {
    let echo = Echo {
        kind: Kind::Request { return_spi: None },
        id: 7,
        seq: 9,
        data: b"12345678",
    };
    let mut bytes = [0; 16];
    echo.emit(&mut bytes).unwrap();
    for (udp, df) in [
        (UDP_ENCAP, DfPolicy::Copy),
        (None, DfPolicy::Copy),
        (None, DfPolicy::Clear),
    ] {
        let (mut config, gateway) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, udp);
        config.outer.as_mut().unwrap().df = df;
        let mut client = Rig::client(Epoch::new(config));
        let mut peer = Rig::new();
        peer.add_tunnel(reversed(&client_selectors()), 8);
        peer.install_and_activate(Epoch::new(gateway));
        // Data has to be smaller; probes have not.
        client.send(Command::SetPathMtu {
            tunnel: TUNNEL,
            mtu: 600,
        });
        let send = |client: &mut Rig, pad_to| {
            let mut payload = client.handle.buffer().unwrap();
            assert!(payload.set(&bytes));
            client.send(Command::SendInner {
                tunnel: TUNNEL,
                epoch: EpochId(1),
                next_header: echo::NEXT_HEADER,
                via: None,
                pad_to,
                payload,
            });
        };
        for size in (576..=1500).step_by(4) {
            send(&mut client, size);
            let frames = client.outer_out();
            assert_eq!(outer_ip(&frames[0]), (usize::from(size), true));
            peer.outer_in(&frames[0]);
            let [.., Event::Inner { payload, .. }] = &peer.events()[..] else {
                panic!("the probe does not come out");
            };
            let there = Echo::new_checked(payload).unwrap();
            assert_eq!(there, echo);
            // The padding is none of the response's.
            assert_eq!(there.response().unwrap().emitted_len(), 16);
        }
        // Without, as short as ever; and never more than the link takes.
        send(&mut client, 0);
        let (len, _) = outer_ip(&client.outer_out()[0]);
        assert!(len < 100, "{len}");
        send(&mut client, 1504);
        assert!(client.outer_out().is_empty());
        assert_eq!(client.fate(Fate::TooBig), 1);
        client.check_frames();
    }
}

over_both!(what_does_not_fit_is_told_the_size_that_does);
fn what_does_not_fit_is_told_the_size_that_does(provider: Provider) {
    for mtu in [1300, 1400, 1452] {
        let (mut client, mut gateway) = limited(provider, mtu);
        client.inner_in(&up(&[0; 1450]));
        let answer = client.inner_out().remove(0);
        let view = SlicedPacket::from_ip(&answer).unwrap();
        let Some(NetSlice::Ipv4(net)) = &view.net else {
            panic!("no IPv4")
        };
        assert_eq!(net.header().source_addr(), SERVER_INSIDE);
        assert_eq!(net.header().destination_addr(), CLIENT_INSIDE);
        let Some(TransportSlice::Icmpv4(icmp)) = view.transport else {
            panic!("no ICMP")
        };
        assert!(
            etherparse::checksum::Sum16BitWords::new()
                .add_slice(icmp.slice())
                .ones_complement()
                == 0
        );
        let Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
        ) = icmp.icmp_type()
        else {
            panic!("{:?}", icmp.icmp_type())
        };
        // That much goes through, in a packet that is at most three bytes shorter than the path takes.
        client.inner_in(&up(&vec![0; usize::from(next_hop_mtu) - 28]));
        let frames = client.outer_out();
        let (len, df) = outer_ip(&frames[0]);
        assert!(
            df && len <= usize::from(mtu) && len + 3 >= usize::from(mtu),
            "{len} {mtu}"
        );
        gateway.outer_in(&frames[0]);
        assert_eq!(gateway.inner_out()[0].len(), usize::from(next_hop_mtu));
        client.inner_in(&up(&vec![0; usize::from(next_hop_mtu) - 27]));
        assert!(client.outer_out().is_empty());
    }
}

over_both!(errors_are_limited_in_rate);
fn errors_are_limited_in_rate(provider: Provider) {
    let (mut client, _) = limited(provider, 1300);
    for _ in 0..200 {
        client.inner_in(&up(&[0; 1450]));
    }
    // Ten microseconds each: one in a millisecond.
    assert_eq!(client.fate(Fate::TooBig), 200);
    assert!(
        (2..=3).contains(&client.fate(Fate::IcmpSent)),
        "{}",
        client.fate(Fate::IcmpSent)
    );
    client.check_frames();
}

over_both!(ipv6_is_told_no_less_than_1280_and_up_to_there_always_leaves);
fn ipv6_is_told_no_less_than_1280_and_up_to_there_always_leaves(provider: Provider) {
    for (mtu, told) in [(1400, 1338), (1300, 1280), (700, 1280)] {
        let (mut client, mut gateway) = limited(provider, mtu);
        client.inner_in(&v6(1390));
        let answer = client.inner_out().remove(0);
        let view = SlicedPacket::from_ip(&answer).unwrap();
        let Some(NetSlice::Ipv6(net)) = &view.net else {
            panic!("no IPv6")
        };
        let (src, dst) = (net.header().source(), net.header().destination());
        let Some(TransportSlice::Icmpv6(icmp)) = view.transport else {
            panic!("no ICMPv6")
        };
        assert!(icmp.is_checksum_valid(src, dst));
        let Icmpv6Type::PacketTooBig { mtu: mtu_told } = icmp.icmp_type() else {
            panic!("{:?}", icmp.icmp_type())
        };
        assert_eq!(mtu_told, told);
        // RFC 8200 §5: what it was told must arrive, if in fragments of the outer packet.
        client.inner_in(&v6(usize::try_from(mtu_told).unwrap()));
        let frames = client.outer_out();
        let (len, df) = outer_ip(&frames[0]);
        assert_eq!(df, len <= usize::from(mtu), "{len} {mtu}");
        gateway.outer_in(&frames[0]);
        assert_eq!(
            gateway.inner_out()[0].len(),
            usize::try_from(mtu_told).unwrap()
        );
    }
}

over_both!(what_may_be_cut_arrives_in_pieces);
fn what_may_be_cut_arrives_in_pieces(provider: Provider) {
    for (mtu, len) in [(1400u16, 1440), (700, 1440), (577, 1300)] {
        let (mut client, mut gateway) = limited(provider, mtu);
        let data: Vec<u8> = (0..len)
            .map(|n: u32| u8::try_from(n % 251).unwrap())
            .collect();
        let packet = may_be_cut(&data);
        client.inner_in(&packet);
        let frames = client.outer_out();
        assert!(frames.len() > 1);
        let mut payload = vec![0; packet.len() - 20];
        for frame in &frames {
            assert!(outer_ip(frame).0 <= usize::from(mtu));
            gateway.outer_in(frame);
            let piece = gateway.inner_out().remove(0);
            let view = ipv4::Packet::new_checked(&piece).unwrap();
            assert!(view.checksum_ok());
            let at = usize::from(view.header().fragment_offset);
            payload[at..at + view.payload().len()].copy_from_slice(view.payload());
        }
        assert_eq!(payload, packet[20..]);
        client.expect(&[(Fate::Fragmented, 1), (Fate::Sealed, frames.len() as u64)]);
    }
}

over_both!(a_path_that_changes_while_data_is_held_is_taken_into_account);
fn a_path_that_changes_while_data_is_held_is_taken_into_account(provider: Provider) {
    let (mut client, _) = limited(provider, 1500);
    client.send(Command::Hold { tunnel: TUNNEL });
    client.inner_in(&up(&[0; 1300]));
    client.inner_in(&may_be_cut(&[0; 1300]));
    client.inner_in(&up(b"small"));
    client.send(Command::SetPathMtu {
        tunnel: TUNNEL,
        mtu: 1000,
    });
    client.send(Command::Activate {
        tunnel: TUNNEL,
        epoch: EpochId(1),
    });
    client.expect(&[
        (Fate::TooBig, 1),
        (Fate::IcmpSent, 1),
        (Fate::Fragmented, 1),
        (Fate::Sealed, 3),
    ]);
}

over_both!(a_new_epoch_and_another_encapsulation_go_by_the_same_path);
fn a_new_epoch_and_another_encapsulation_go_by_the_same_path(provider: Provider) {
    let (mut client, _) = limited(provider, 1000);
    let (next, _) = epoch_pair(2, CipherSuite::Aes256Gcm16, provider, None);
    client.install_and_activate(Epoch::new(next));
    let largest = |client: &mut Rig| {
        let fits = (800..1000).rev().find(|len| {
            client.now += Duration::from_millis(2);
            client.inner_in(&up(&vec![0; len - 28]));
            !client.outer_out().is_empty()
        });
        fits.unwrap()
    };
    let plain = largest(&mut client);
    client.send(Command::SetOuter {
        tunnel: TUNNEL,
        epoch: None,
        outer: Some(outer_header(CLIENT, GATEWAY, UDP_ENCAP)),
    });
    // UDP's header less.
    assert_eq!(largest(&mut client), plain - 8);
    let v6 = OuterAddrs::V6 {
        src: CLIENT_V6.into(),
        dst: SERVER_V6.into(),
    };
    let mut outer = outer_header(CLIENT, GATEWAY, UDP_ENCAP);
    outer.addrs = v6;
    client.send(Command::SetOuter {
        tunnel: TUNNEL,
        epoch: None,
        outer: Some(outer),
    });
    assert_eq!(largest(&mut client), plain - 28);
}

over_both!(large_packets_are_counted);
fn large_packets_are_counted(provider: Provider) {
    let (config, _) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, None);
    let counters = config.counters.clone();
    let mut client = Rig::client(Epoch::new(config));
    client.inner_in(&up(&[0; LARGE - 28]));
    assert_eq!(counters.large_out.get(), 0);
    client.inner_in(&up(&[0; LARGE - 27]));
    assert_eq!(
        (counters.large_out.get(), counters.packets_out.get()),
        (1, 2)
    );
}

fn syn(src: [u8; 4], dst: [u8; 4], flags: u8, mss: u16) -> Vec<u8> {
    use etherparse::{PacketBuilder, TcpOptionElement};
    let builder = PacketBuilder::ipv4(src, dst, 64).tcp(1000, 80, 7, 1000);
    let builder = match flags {
        0x02 => builder.syn(),
        0x12 => builder.syn().ack(1),
        _ => builder.ack(1),
    };
    let options = [
        TcpOptionElement::Noop,
        TcpOptionElement::MaximumSegmentSize(mss),
    ];
    let builder = builder.options(&options).unwrap();
    let mut out = Vec::new();
    builder.write(&mut out, &[]).unwrap();
    out
}

fn syn_v6(mss: u16) -> Vec<u8> {
    use etherparse::{PacketBuilder, TcpOptionElement};
    let octets = |address: [u16; 8]| std::net::Ipv6Addr::from(address).octets();
    let builder = PacketBuilder::ipv6(octets(CLIENT_V6), octets(SERVER_V6), 64)
        .tcp(1000, 80, 7, 1000)
        .syn();
    let options = [TcpOptionElement::MaximumSegmentSize(mss)];
    let builder = builder.options(&options).unwrap();
    let mut out = Vec::new();
    builder.write(&mut out, &[]).unwrap();
    out
}

/// The segment's MSS, its checksum judged by somebody else.
fn mss(packet: &[u8]) -> u16 {
    use etherparse::{TcpHeaderSlice, TcpOptionElement};
    let ip = ip::Packet::new_checked(packet).unwrap();
    let tcp = TcpHeaderSlice::from_slice(ip.payload()).unwrap();
    let (header, payload) = (tcp.to_header(), &ip.payload()[tcp.slice().len()..]);
    let expected = match (ip.src(), ip.dst()) {
        (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
            header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload)
        }
        (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => {
            header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), payload)
        }
        _ => unreachable!(),
    };
    assert_eq!(header.checksum, expected.unwrap());
    header
        .options_iterator()
        .find_map(|option| match option {
            Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
            _ => None,
        })
        .unwrap()
}

over_both!(connections_begin_with_what_fits);
fn connections_begin_with_what_fits(provider: Provider) {
    let (mut client, mut gateway) = limited(provider, 1300);
    // 1300 − 28 outer − 16 − 16 ESP − 2 trailer, in steps of four.
    let fits = 1238;
    let (near, far) = (CLIENT_INSIDE.octets(), SERVER_INSIDE.octets());
    for (flags, asked, expected) in [
        (0x02, 1460, fits - 40),
        (0x12, 1460, fits - 40),
        (0x02, 1000, 1000),
        (0x10, 1460, 1460),
    ] {
        client.inner_in(&syn(near, far, flags, asked));
        gateway.outer_in(&client.outer_out()[0]);
        // The gateway's own path takes more, but its inner link no more than 1400.
        assert_eq!(mss(&gateway.inner_out()[0]), expected, "{flags:#x} {asked}");
        gateway.inner_in(&syn(far, near, flags, asked));
        let frames = gateway.outer_out();
        client.outer_in(&frames[0]);
        assert_eq!(mss(&client.inner_out()[0]), expected, "{flags:#x} {asked}");
    }
    client.inner_in(&syn_v6(1440));
    gateway.outer_in(&client.outer_out()[0]);
    assert_eq!(mss(&gateway.inner_out()[0]), fits - 60);
}

over_both!(the_clamp_can_be_off);
fn the_clamp_can_be_off(provider: Provider) {
    let mut setup = Setup::default();
    setup.config.mss_clamp = false;
    let mut client = setup.build();
    client.add_tunnel(client_selectors(), 8);
    let (config, gateway) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, None);
    client.install_and_activate(Epoch::new(config));
    let mut setup = Setup::default();
    setup.config.mss_clamp = false;
    let mut peer = setup.build();
    peer.add_tunnel(reversed(&client_selectors()), 8);
    peer.install_and_activate(Epoch::new(gateway));
    client.inner_in(&syn(
        CLIENT_INSIDE.octets(),
        SERVER_INSIDE.octets(),
        0x02,
        8960,
    ));
    peer.outer_in(&client.outer_out()[0]);
    assert_eq!(mss(&peer.inner_out()[0]), 8960);
}
