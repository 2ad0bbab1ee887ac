//! Client and gateway back to back: every suite, provider and encapsulation, headers judged by
//! etherparse, and input that nobody sane would send.

#[macro_use]
mod common;

use std::net::Ipv6Addr;

use common::*;
use etherparse::{LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};
use mitregate_dataplane::{
    Command, DfPolicy, DscpPolicy, Epoch, Event, Fate, OuterAddrs, OuterHeader, Refusal, Returned,
    Tunnel, UdpPorts,
};
use mitregate_esp::{CipherSuite, EpochId, Provider, TunnelId, sealed_len};
use mitregate_wire::{
    eth::EtherType,
    ip::{self, Ecn, TrafficClass, protocol},
    ipv4, ipv6,
};
use proptest::prelude::*;

const ENCAPS: [Option<UdpPorts>; 2] = [None, UDP_ENCAP];

/// That an IPv4 packet on the outer side is what the RFCs ask for around `inner_len` bytes.
#[track_caller]
fn check_outer(frame: &[u8], inner_len: usize, udp: bool) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(net)) = sliced.net else {
        panic!("not IPv4")
    };
    let header = net.header();
    assert_eq!(
        header.header_checksum(),
        header.to_header().calc_header_checksum()
    );
    assert_eq!((header.ttl(), header.options().len()), (64, 0));
    let esp_len = sealed_len(inner_len);
    let around = if udp { 28 } else { 20 };
    assert_eq!(usize::from(header.total_len()), around + esp_len);
    assert_eq!(frame.len(), 14 + around + esp_len);
    if udp {
        let Some(TransportSlice::Udp(datagram)) = sliced.transport else {
            panic!("not UDP")
        };
        assert_eq!(
            (datagram.source_port(), datagram.destination_port()),
            (4500, 4500)
        );
        assert_eq!(
            (usize::from(datagram.length()), datagram.checksum()),
            (8 + esp_len, 0)
        );
    } else {
        assert_eq!(header.protocol().0, protocol::ESP);
    }
}

/// Sends one packet from end to end and returns the frame between.
#[track_caller]
fn through(sender: &mut Rig, receiver: &mut Rig, packet: &[u8]) -> Vec<u8> {
    sender.inner_in(packet);
    let frames = sender.outer_out();
    assert_eq!(frames.len(), 1);
    receiver.outer_in(&frames[0]);
    assert_eq!(receiver.inner_out(), [packet]);
    frames.into_iter().next().unwrap()
}

#[test]
fn every_suite_provider_and_encapsulation_both_ways() {
    for suite in CipherSuite::ALL {
        for provider in Provider::ALL {
            for udp in ENCAPS {
                let (mut client, mut gateway) = pair(suite, provider, udp);
                for len in [0, 1, 2, 3, 4, 17, 64, 555, 1372] {
                    let data: Vec<u8> = (0..=250).cycle().take(len).collect();
                    let frame = through(&mut client, &mut gateway, &up(&data));
                    check_outer(&frame, 28 + len, udp.is_some());
                    let frame = through(&mut gateway, &mut client, &down(&data));
                    check_outer(&frame, 28 + len, udp.is_some());
                    let shows = |window: &[u8]| len > 16 && window == &data[..17];
                    assert!(!frame.windows(17).any(shows));
                }
                client.expect(&[(Fate::Sealed, 9), (Fate::Opened, 9)]);
                gateway.expect(&[(Fate::Sealed, 9), (Fate::Opened, 9)]);
            }
        }
    }
}

#[test]
fn providers_understand_each_other() {
    for suite in CipherSuite::ALL {
        let (client, _) = epoch_pair(1, suite, Provider::AwsLc, None);
        let (_, gateway) = epoch_pair(1, suite, Provider::RustCrypto, None);
        let mut client = Rig::client(Epoch::new(client));
        let mut rig = Rig::new();
        rig.add_tunnel(reversed(&client_selectors()), 0);
        rig.install_and_activate(Epoch::new(gateway));
        through(&mut client, &mut rig, &up(b"from aws-lc"));
        through(&mut rig, &mut client, &down(b"from rustcrypto"));
    }
}

over_both!(split_memory_copies_each_packet_once);
fn split_memory_copies_each_packet_once(provider: Provider) {
    let (client, gateway) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, UDP_ENCAP);
    let mut client = {
        let mut rig = Setup {
            shared: false,
            ..Setup::default()
        }
        .build();
        rig.add_tunnel(client_selectors(), 8);
        rig.inner_in(&up(b"held"));
        rig.install_and_activate(Epoch::new(client));
        rig
    };
    let mut peer = Rig::new();
    peer.add_tunnel(reversed(&client_selectors()), 0);
    peer.install_and_activate(Epoch::new(gateway));
    peer.outer_in(&client.outer_out()[0]);
    assert_eq!(peer.inner_out(), [up(b"held")]);
    for _ in 0..300 {
        through(&mut client, &mut peer, &up(b"there"));
        through(&mut peer, &mut client, &down(b"and back"));
    }
    client.expect(&[(Fate::Sealed, 301), (Fate::Opened, 300)]);
    client.worker.publish();
    assert_eq!(client.handle.vitals().copied, 601);
}

fn v6_packet(src: &str, dst: &str, data: &[u8]) -> Vec<u8> {
    let [src, dst] = [src, dst].map(|a| a.parse::<Ipv6Addr>().unwrap());
    let mut out = vec![0; 40 + data.len()];
    ipv6::Header::new(src, dst, protocol::NONE)
        .emit(data.len(), &mut out)
        .unwrap();
    out[40..].copy_from_slice(data);
    out
}

over_both!(ipv6_inside_and_outside);
fn ipv6_inside_and_outside(provider: Provider) {
    let v6 = |src: &str, dst: &str, udp| OuterHeader {
        addrs: OuterAddrs::V6 {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
        },
        ..outer_header(CLIENT, GATEWAY, udp)
    };
    for udp in ENCAPS {
        let suite = CipherSuite::ChaCha20Poly1305;
        let (mut client, mut gateway) = epoch_pair(1, suite, provider, udp);
        client.outer = Some(v6("2001:db8::1", "2001:db8::2", udp));
        gateway.outer = Some(v6("2001:db8::2", "2001:db8::1", udp));
        let mut client = Rig::client(Epoch::new(client));
        let mut rig = Rig::new();
        rig.add_tunnel(reversed(&client_selectors()), 8);
        rig.install_and_activate(Epoch::new(gateway));
        for data in [&b"odd"[..], b"even"] {
            let packet = v6_packet("fd01::1", "fd02::9", data);
            let frame = through(&mut client, &mut rig, &packet);
            let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(NetSlice::Ipv6(net)) = &sliced.net else {
                panic!("not IPv6")
            };
            assert_eq!(usize::from(net.header().payload_length()), frame.len() - 54);
            if let Some(TransportSlice::Udp(datagram)) = &sliced.transport {
                let header = datagram.to_header();
                let payload = datagram.payload();
                let sum = header
                    .calc_checksum_ipv6(&net.header().to_header(), payload)
                    .unwrap();
                assert_eq!(datagram.checksum(), sum);
                assert!(udp.is_some());
            }
            through(&mut rig, &mut client, &down(data));
        }
    }
}

over_both!(vlan_tagged_outer_port);
fn vlan_tagged_outer_port(provider: Provider) {
    let (mut client, _) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, UDP_ENCAP);
    let outer = client.outer.as_mut().unwrap();
    outer.vlan = Some(0x0123);
    let mut client = Rig::client(Epoch::new(client));
    let (_, mut gateway) = pair(CipherSuite::Aes256Gcm16, provider, UDP_ENCAP);
    let frame = through(&mut client, &mut gateway, &up(b"tagged"));
    assert_eq!(frame[12..18], [0x81, 0, 0x01, 0x23, 0x08, 0]);
    let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
    assert!(matches!(sliced.transport, Some(TransportSlice::Udp(_))));
}

fn outer_ip(frame: &[u8]) -> ipv4::Packet<'_> {
    ipv4::Packet::new_checked(&frame[14..]).unwrap()
}

over_both!(df_dscp_and_ecn_of_the_outer_header);
/// RFC 4301 §8.1 for DF, §5.1.2.1 for DSCP, RFC 6040 §4.1 for ECN.
fn df_dscp_and_ecn_of_the_outer_header(provider: Provider) {
    let class = TrafficClass::new(46, Ecn::Ect0);
    let cases = [
        (DfPolicy::Copy, true, DscpPolicy::Copy, true, class),
        (
            DfPolicy::Copy,
            false,
            DscpPolicy::Fixed(0),
            false,
            TrafficClass::new(0, Ecn::Ect0),
        ),
        (
            DfPolicy::Set,
            false,
            DscpPolicy::Fixed(10),
            true,
            TrafficClass::new(10, Ecn::Ect0),
        ),
        (DfPolicy::Clear, true, DscpPolicy::Copy, false, class),
    ];
    for (df, inner_df, dscp, outer_df, outer_class) in cases {
        let (mut client, _) = epoch_pair(1, CipherSuite::Aes128Gcm16, provider, None);
        let outer = client.outer.as_mut().unwrap();
        (outer.df, outer.dscp) = (df, dscp);
        let mut client = Rig::client(Epoch::new(client));
        let mut ids = std::collections::BTreeSet::new();
        for _ in 0..3 {
            client.inner_in(&packet_with(CLIENT_INSIDE, SERVER_INSIDE, b"x", |ip| {
                ip.dont_fragment = inner_df;
                ip.traffic_class = class;
            }));
            let frame = client.outer_out().remove(0);
            check_outer(&frame, 29, false);
            let ip = outer_ip(&frame);
            assert_eq!(
                (ip.dont_fragment(), ip.traffic_class()),
                (outer_df, outer_class)
            );
            assert!(ids.insert(ip.id()));
        }
    }
}

over_both!(ecn_at_the_tunnels_end);
/// RFC 6040 §4.2 figure 4, through real packets.
fn ecn_at_the_tunnels_end(provider: Provider) {
    let all = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];
    for inner in all {
        for outer in all {
            let (mut client, mut gateway) = pair(CipherSuite::Aes128Gcm16, provider, UDP_ENCAP);
            let packet = packet_with(CLIENT_INSIDE, SERVER_INSIDE, b"x", |ip| {
                ip.traffic_class = TrafficClass::new(8, inner);
            });
            client.inner_in(&packet);
            let mut frame = client.outer_out().remove(0);
            assert_eq!(outer_ip(&frame).traffic_class().ecn(), inner);
            ip::set_traffic_class(&mut frame[14..], TrafficClass::new(0, outer)).unwrap();
            gateway.outer_in(&frame);
            match Ecn::decapsulate(inner, outer) {
                None => gateway.expect(&[(Fate::EcnDrop, 1)]),
                Some(expected) => {
                    let out = gateway.inner_out().remove(0);
                    let out = ipv4::Packet::new_checked(&out).unwrap();
                    assert!(out.checksum_ok());
                    assert_eq!(out.traffic_class(), TrafficClass::new(8, expected));
                }
            }
        }
    }
}

over_both!(a_rekey_loses_and_reorders_nothing);
fn a_rekey_loses_and_reorders_nothing(provider: Provider) {
    let (client, gateway) = epoch_pair(2, CipherSuite::Aes256Gcm16, provider, UDP_ENCAP);
    let (mut at_client, mut at_gateway) = pair(CipherSuite::Aes256Gcm16, provider, UDP_ENCAP);
    let mut sent = Vec::new();
    let mut frames = Vec::new();
    let mut burst = |rig: &mut Rig, range: std::ops::Range<u8>| {
        for n in range {
            sent.push(up(&[n]));
            rig.inner_in(&up(&[n]));
        }
        frames.extend(rig.outer_out());
    };
    burst(&mut at_client, 0..10);
    at_gateway.send(Command::Install(Epoch::new(gateway)));
    at_client.send(Command::Install(Epoch::new(client)));
    burst(&mut at_client, 10..20);
    at_client.send(Command::Activate {
        tunnel: TUNNEL,
        epoch: EpochId(2),
    });
    burst(&mut at_client, 20..30);
    at_client.send(Command::Retire {
        tunnel: TUNNEL,
        epoch: EpochId(1),
    });
    burst(&mut at_client, 30..40);
    for frame in &frames {
        at_gateway.outer_in(frame);
    }
    assert_eq!(at_gateway.inner_out(), sent);
    at_gateway.send(Command::Retire {
        tunnel: TUNNEL,
        epoch: EpochId(1),
    });
    at_gateway.outer_in(&frames[0]);
    at_gateway.expect(&[(Fate::Opened, 40), (Fate::NoSpi, 1)]);
    let retired = |e: &Event| matches!(e, Event::Retired { epoch } if epoch.id() == EpochId(1));
    assert!(at_client.events().iter().any(retired));
    assert!(at_gateway.events().iter().any(retired));
}

over_both!(data_waits_when_the_active_epoch_goes);
fn data_waits_when_the_active_epoch_goes(provider: Provider) {
    let (mut client, _) = default_pair(provider);
    client.inner_in(&up(b"1"));
    client.send(Command::Hold { tunnel: TUNNEL });
    client.inner_in(&up(b"2"));
    client.send(Command::Activate {
        tunnel: TUNNEL,
        epoch: EpochId(1),
    });
    client.expect(&[(Fate::Sealed, 2)]);
    client.send(Command::Retire {
        tunnel: TUNNEL,
        epoch: EpochId(1),
    });
    client.inner_in(&up(b"3"));
    client.expect(&[(Fate::Sealed, 2)]);
    assert_eq!(client.worker.census().held, 1);
    let waiting = |e: &Event| matches!(e, Event::DataWaiting { .. });
    assert_eq!(client.events().iter().filter(|e| waiting(e)).count(), 2);
}

over_both!(first_inbound_tells_control_from_data);
fn first_inbound_tells_control_from_data(provider: Provider) {
    let (mut client, mut gateway) = default_pair(provider);
    for kind in [144, 144, 4, 4, 144] {
        if kind == 4 {
            client.inner_in(&up(b"data"));
        } else {
            let mut payload = client.handle.buffer().unwrap();
            assert!(payload.set(b"echo"));
            client.send(Command::SendInner {
                tunnel: TUNNEL,
                epoch: EpochId(1),
                next_header: kind,
                via: None,
                pad_to: 0,
                payload,
            });
        }
        gateway.outer_in(&client.outer_out()[0]);
    }
    let told: Vec<bool> = gateway
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::FirstInbound {
                tunnel: TUNNEL,
                epoch: EpochId(1),
                data,
            } => Some(*data),
            _ => None,
        })
        .collect();
    assert_eq!(told, [false, true]);
}

over_both!(refused_commands_give_back_what_they_carried);
fn refused_commands_give_back_what_they_carried(provider: Provider) {
    let epoch = || {
        let (client, _) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, None);
        Epoch::new(client)
    };
    let mut rig = Rig::new();
    rig.send(Command::Install(epoch()));
    rig.send(Command::Activate {
        tunnel: TUNNEL,
        epoch: EpochId(1),
    });
    rig.add_tunnel(client_selectors(), 0);
    rig.add_tunnel(client_selectors(), 0);
    rig.send(Command::Install(epoch()));
    rig.send(Command::Install(epoch()));
    rig.send(Command::Activate {
        tunnel: TUNNEL,
        epoch: EpochId(2),
    });
    for id in 10..17 {
        rig.send(Command::AddTunnel(Tunnel::new(
            TunnelId(id),
            client_selectors(),
            0,
        )));
    }
    rig.send(Command::AddTunnel(Tunnel::new(
        TunnelId(17),
        client_selectors(),
        0,
    )));
    let told: Vec<_> = rig
        .events()
        .into_iter()
        .map(|event| match event {
            Event::Refused {
                reason, returned, ..
            } => match returned {
                Some(Returned::Epoch(_)) => (reason, 'e'),
                Some(Returned::Tunnel(_)) => (reason, 't'),
                None => (reason, '-'),
            },
            _ => panic!("not refused"),
        })
        .collect();
    let expected = [
        (Refusal::NoSuchTunnel, 'e'),
        (Refusal::NoSuchTunnel, '-'),
        (Refusal::Duplicate, 't'),
        (Refusal::Duplicate, 'e'),
        (Refusal::NoSuchEpoch, '-'),
        (Refusal::TableFull, 't'),
    ];
    assert_eq!(told, expected);
}

over_both!(nothing_that_must_come_back_is_lost_when_the_event_ring_is_full);
fn nothing_that_must_come_back_is_lost_when_the_event_ring_is_full(provider: Provider) {
    let mut setup = Setup::default();
    setup.config.ring = 2;
    let mut rig = setup.build();
    rig.add_tunnel(client_selectors(), 0);
    for id in 1..=8 {
        let (client, _) = epoch_pair(id, CipherSuite::Aes256Gcm16, provider, None);
        rig.send(Command::Install(Epoch::new(client)));
    }
    rig.send(Command::RemoveTunnel { tunnel: TUNNEL });
    // Not taken before all that the one before gave back has been fetched.
    rig.send(Command::AddTunnel(Tunnel::new(
        TUNNEL,
        client_selectors(),
        0,
    )));
    let mut names = Vec::new();
    for _ in 0..20 {
        for event in rig.events() {
            match event {
                Event::Retired { epoch } => names.push(epoch.id().0),
                Event::Removed { tunnel } => names.push(u64::from(tunnel.id().0) + 100),
                _ => panic!("unexpected event"),
            }
        }
        rig.round();
    }
    assert_eq!(names, [8, 7, 6, 5, 4, 3, 2, 1, 107]);
    rig.add_tunnel(client_selectors(), 0);
    assert!(matches!(
        rig.events()[..],
        [Event::Refused {
            reason: Refusal::Duplicate,
            ..
        }]
    ));
}

prop_compose! {
    fn any_packet()(
        data in prop::collection::vec(any::<u8>(), 0..1300),
        class in any::<u8>(),
        dont_fragment in any::<bool>(),
        id in any::<u16>(),
        ttl in 1u8..,
        options in 0usize..=10,
        host in any::<u8>(),
        fragment in 0u16..200,
        more_fragments in any::<bool>(),
    ) -> Vec<u8> {
        let mut packet = packet_with(CLIENT_INSIDE, [10, 2, 0, host].into(), &data, |ip| {
            ip.traffic_class = TrafficClass(class);
            (ip.dont_fragment, ip.id, ip.ttl) = (dont_fragment, id, ttl);
            (ip.fragment_offset, ip.more_fragments) = (fragment * 8, more_fragments);
        });
        // No-operation options (RFC 791).
        let len = u16::try_from(packet.len() + options * 4).unwrap();
        packet.splice(20..20, vec![1; options * 4]);
        packet[0] = 0x45 + u8::try_from(options).unwrap();
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[10..12].fill(0);
        let sum = mitregate_wire::checksum::checksum(&packet[..20 + options * 4]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }
}

/// Frames for the outer port that look more or less like something.
fn any_outer(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = good.len();
    let flips = prop::collection::vec(0..len * 8, 1..4);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (0..len, Just(good.clone())).prop_map(|(cut, good)| good[..cut].to_vec()),
        (flips, Just(good.clone())).prop_map(|(flips, mut good)| {
            for bit in flips {
                good[bit / 8] ^= 1 << (bit % 8);
            }
            good
        }),
        (prop::collection::vec(any::<u8>(), 0..500), Just(good)).prop_map(|(tail, mut good)| {
            good.extend(tail);
            good
        }),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..100))
            .prop_map(|(protocol, payload)| outer_frame(protocol, &payload)),
        prop::collection::vec(any::<u8>(), 0..100)
            .prop_map(|payload| outer_frame(protocol::UDP, &udp_payload(4500, &payload))),
        prop::collection::vec(any::<u8>(), 0..100).prop_map(|payload| frame(
            HOP_MAC,
            OUTER_MAC,
            EtherType::IPV6,
            &payload
        )),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_sent_arrives_and_is_well_formed_between(
        packets in prop::collection::vec(any_packet(), 1..20),
        udp in any::<bool>(),
        suite in prop::sample::select(CipherSuite::ALL.to_vec()),
        provider in prop::sample::select(Provider::ALL.to_vec()),
    ) {
        let encap = if udp { UDP_ENCAP } else { None };
        let (mut client, mut gateway) = pair(suite, provider, encap);
        for packet in packets {
            let frame = through(&mut client, &mut gateway, &packet);
            check_outer(&frame, packet.len(), udp);
        }
        client.check_frames();
        gateway.check_frames();
    }

    #[test]
    fn nothing_bad_from_outside_passes(
        provider in prop::sample::select(Provider::ALL.to_vec()),
        frames in prop::collection::vec(
            any_outer(pair(CipherSuite::Aes128Gcm16, Provider::AwsLc, UDP_ENCAP).0.sealed_once()),
            1..50,
        ),
    ) {
        let (mut client, mut gateway) = pair(CipherSuite::Aes128Gcm16, provider, UDP_ENCAP);
        let good = client.sealed_once();
        for frame in frames {
            let before = gateway.handle.fates().total();
            gateway.outer_in(&frame);
            prop_assert_eq!(gateway.handle.fates().total(), before + 1);
            let passed = gateway.inner_out();
            if !passed.is_empty() {
                // Authentic, in spite of a flip outside of what ESP protects, or of bytes behind.
                prop_assert_eq!(&passed[..], &[up(b"good")][..]);
                let esp = |frame: &[u8]| frame.get(42..good.len()).map(<[u8]>::to_vec);
                prop_assert_eq!(esp(&frame), esp(&good));
            }
            drop(gateway.events());
        }
        gateway.check_frames();
    }

    #[test]
    fn nothing_bad_from_inside_stops_it(
        provider in prop::sample::select(Provider::ALL.to_vec()),
        frames in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                any_packet().prop_map(|packet| inner_frame(&packet)),
                (any_packet(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(packet, at, byte)| {
                    let mut frame = inner_frame(&packet);
                    let at = at.index(frame.len());
                    frame[at] = byte;
                    frame
                }),
                (any_packet(), any::<prop::sample::Index>()).prop_map(|(packet, at)| {
                    let frame = inner_frame(&packet);
                    frame[..at.index(frame.len())].to_vec()
                }),
            ],
            1..50,
        ),
    ) {
        let (mut client, _) = default_pair(provider);
        for frame in frames {
            let before = client.handle.fates().total();
            prop_assert!(client.inner.inject(&frame));
            client.round();
            let icmp = client.inner_out().len() as u64;
            prop_assert_eq!(client.handle.fates().total(), before + 1 + icmp);
            for frame in client.outer_out() {
                prop_assert!(LaxSlicedPacket::from_ethernet(&frame).unwrap().stop_err.is_none());
            }
        }
        client.check_frames();
    }
}

impl Rig {
    /// One good frame, as it leaves.
    fn sealed_once(&mut self) -> Vec<u8> {
        self.inner_in(&up(b"good"));
        self.outer_out().remove(0)
    }
}
