//! One test per fate: frames made by hand, a worker on memory ports, exact counts.

#[macro_use]
mod common;

use common::*;
use mitregate_dataplane::{Command, Epoch, Event, Fate, Hop, Limits, OuterHeader, Selectors};
use mitregate_esp::{
    CipherSuite, EpochId, OutboundSa, OutboundState, Provider, WorkerId, aead::Aead,
};
use mitregate_wire::{
    eth::EtherType,
    icmp,
    ip::{self, Ecn, TrafficClass, protocol},
    ipv4,
};

/// A client with an active epoch, and the SA that seals for it.
fn client(provider: Provider) -> (Rig, OutboundSa) {
    client_with(provider, |_| ())
}

fn client_with(
    provider: Provider,
    change: impl FnOnce(&mut mitregate_dataplane::EpochConfig),
) -> (Rig, OutboundSa) {
    let (mut client, gateway) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, None);
    change(&mut client);
    (Rig::client(Epoch::new(client)), gateway.outbound)
}

fn control_payload(rig: &Rig, bytes: &[u8]) -> mitregate_dataplane::ControlBuf {
    let mut buf = rig.handle.buffer().unwrap();
    assert!(buf.set(bytes));
    buf
}

fn send_inner(rig: &Rig, epoch: u64, payload: &[u8]) -> Command {
    let payload = control_payload(rig, payload);
    Command::SendInner {
        tunnel: TUNNEL,
        epoch: EpochId(epoch),
        next_header: 144,
        via: None,
        pad_to: 0,
        payload,
    }
}

over_both!(sealed_and_opened);
fn sealed_and_opened(provider: Provider) {
    let (mut client, mut gateway) = default_pair(provider);
    client.inner_in(&up(b"hello"));
    let frames = client.outer_out();
    gateway.outer_in(&frames[0]);
    assert_eq!(gateway.inner_out(), [up(b"hello")]);
    client.expect(&[(Fate::Sealed, 1)]);
    gateway.expect(&[(Fate::Opened, 1)]);
}

over_both!(to_control);
fn to_control(provider: Provider) {
    let (mut rig, mut sa) = client(provider);
    let quote = [&ipv4_header(CLIENT, GATEWAY)[..], &[0; 8]].concat();
    let unreachable = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quote].concat();
    let frames = [
        outer_frame(protocol::UDP, &udp_payload(500, &[1; 40])),
        outer_frame(
            protocol::UDP,
            &udp_payload(4500, &[&[0; 4][..], &[1; 40]].concat()),
        ),
        outer_frame(protocol::UDP, &udp_payload(4500, &[0xff])),
        outer_frame(protocol::ICMP, &unreachable),
    ];
    for frame in &frames {
        rig.outer_in(frame);
    }
    rig.outer_in(&sealed_for_client(&mut sa, b"echo", 144));
    rig.expect(&[(Fate::ToControl, 5)]);
    let events = rig.events();
    for (event, sent) in events.iter().zip(&frames) {
        assert!(matches!(event, Event::Outer { frame, received_at }
            if frame[..] == sent[..] && *received_at <= rig.now));
    }
    assert!(matches!(events[4], Event::FirstInbound { data: false, .. }));
    let Event::Inner {
        tunnel,
        epoch,
        next_header,
        seq,
        new_highest,
        from,
        to,
        payload,
        ..
    } = &events[5]
    else {
        panic!("no Inner event")
    };
    assert_eq!(
        (*tunnel, *epoch, *next_header, *seq),
        (TUNNEL, EpochId(1), 144, 1)
    );
    assert_eq!((*from, *to), ((GATEWAY, 0).into(), (CLIENT, 0).into()));
    assert!(*new_highest);
    assert_eq!(payload[..], *b"echo");
}

fn ipv4_header(src: std::net::Ipv4Addr, dst: std::net::Ipv4Addr) -> [u8; 20] {
    let mut out = [0; 20];
    ipv4::Header::new(src, dst, protocol::ESP)
        .emit(8, &mut out)
        .unwrap();
    out
}

over_both!(control_sent);
fn control_sent(provider: Provider) {
    let (mut client, mut gateway) = default_pair(provider);
    client.send(send_inner(&client, 1, b"ping"));
    let whole = outer_frame(protocol::UDP, &udp_payload(500, b"ike"));
    let frame = control_payload(&client, &whole);
    client.send(Command::SendOuter { frame });
    client.expect(&[(Fate::ControlSent, 2)]);
    let out = client.outer_out();
    assert_eq!(out[1], whole);
    gateway.outer_in(&out[0]);
    assert!(
        gateway
            .events()
            .iter()
            .any(|event| matches!(event, Event::Inner { payload, .. } if payload[..] == *b"ping"))
    );
}

over_both!(dummy);
fn dummy(provider: Provider) {
    let (mut rig, mut sa) = client(provider);
    rig.outer_in(&sealed_for_client(&mut sa, &[0; 100], protocol::NONE));
    rig.expect(&[(Fate::Dummy, 1)]);
}

over_both!(not_ip);
fn not_ip(provider: Provider) {
    let (mut rig, _) = client(provider);
    let arp = frame(HOST_MAC, INNER_MAC, EtherType::ARP, &[0; 28]);
    assert!(rig.inner.inject(&arp) && rig.outer.inject(&arp));
    rig.round();
    rig.expect(&[(Fate::NotIp, 2)]);
}

over_both!(bad_header);
fn bad_header(provider: Provider) {
    let (mut rig, _) = client(provider);
    let good = up(b"x");
    let mut bad_sum = good.clone();
    bad_sum[10] ^= 1;
    let mut lying = good.clone();
    lying[3] += 1;
    let mut version = good.clone();
    version[0] = 0x65;
    for packet in [&bad_sum, &lying, &version, &good[..19].to_vec(), &vec![]] {
        rig.inner_in(packet);
    }
    assert!(rig.inner.inject(&[0; 13]));
    // UDP whose length goes beyond the packet, and one shorter than its own header.
    let mut long = udp_payload(4500, &[1; 20]);
    long[5] += 1;
    let mut short = udp_payload(4500, &[1; 20]);
    short[5] = 7;
    rig.outer_in(&outer_frame(protocol::UDP, &long));
    rig.outer_in(&outer_frame(protocol::UDP, &short));
    rig.outer_in(&outer_frame(protocol::UDP, &[0; 7]));
    let mut sum = outer_frame(protocol::ESP, &[1; 64]);
    sum[14 + 10] ^= 1;
    rig.outer_in(&sum);
    rig.expect(&[(Fate::BadHeader, 10)]);
}

over_both!(not_ours);
fn not_ours(provider: Provider) {
    let (mut rig, _) = client(provider);
    rig.outer_in(&outer_frame(protocol::TCP, &[0; 20]));
    rig.outer_in(&outer_frame(protocol::UDP, &udp_payload(53, b"dns")));
    rig.outer_in(&outer_frame(protocol::ICMP, &[8, 0, 0, 0, 0, 0, 0, 0]));
    rig.outer_in(&outer_frame(protocol::ICMP, &[3, 0]));
    rig.outer_in(&outer_frame(protocol::ICMPV6, &[1, 0, 0, 0, 0, 0, 0, 0]));
    rig.expect(&[(Fate::NotOurs, 5)]);
}

over_both!(fragment);
fn fragment(provider: Provider) {
    let (mut rig, _) = client(provider);
    rig.outer_in(&outer_frame_with(protocol::ESP, &[1; 64], |ip| {
        ip.more_fragments = true;
    }));
    rig.outer_in(&outer_frame_with(protocol::UDP, &[1; 64], |ip| {
        ip.fragment_offset = 8;
    }));
    rig.expect(&[(Fate::Fragment, 2)]);
}

over_both!(runt);
fn runt(provider: Provider) {
    let (mut rig, _) = client(provider);
    for len in [0, 1, 7] {
        rig.outer_in(&outer_frame(protocol::ESP, &vec![9; len]));
    }
    // With an SPI of ours, but less than IV, trailer and ICV behind it.
    let spi = spi(SPI_AT_CLIENT + 1).to_be_bytes();
    for len in [4, 12, 12 + 17] {
        rig.outer_in(&outer_frame(
            protocol::ESP,
            &[&spi[..], &vec![0; len]].concat(),
        ));
    }
    rig.outer_in(&outer_frame(protocol::UDP, &udp_payload(4500, &[7, 7])));
    rig.expect(&[(Fate::Runt, 7)]);
}

over_both!(no_spi);
fn no_spi(provider: Provider) {
    let (mut rig, _) = client(provider);
    for spi in [1u32, 255, 256, 0x0100_0000, 0x0122_2222, 0xff00_0000] {
        rig.outer_in(&outer_frame(
            protocol::ESP,
            &[&spi.to_be_bytes()[..], &[0; 60]].concat(),
        ));
    }
    rig.expect(&[(Fate::NoSpi, 6)]);
}

#[test]
fn stray() {
    let mut setup = Setup::default();
    setup.config.workers = 2;
    let mut rig = setup.build();
    let spi = WorkerId(1).inbound_spi(99).unwrap().to_be_bytes();
    rig.outer_in(&outer_frame(protocol::ESP, &[&spi[..], &[0; 60]].concat()));
    rig.expect(&[(Fate::Stray, 1)]);
}

over_both!(replay);
fn replay(provider: Provider) {
    let (mut rig, mut sa) = client(provider);
    let frame = sealed_for_client(&mut sa, &down(b"once"), protocol::IPV4);
    rig.outer_in(&frame);
    rig.outer_in(&frame);
    rig.expect(&[(Fate::Opened, 1), (Fate::Replay, 1)]);
    assert_eq!(rig.inner_out().len(), 1);
}

over_both!(integ_error);
fn integ_error(provider: Provider) {
    let (mut rig, mut sa) = client(provider);
    let good = sealed_for_client(&mut sa, &down(b"flip"), protocol::IPV4);
    // Each bit behind the SPI: in sequence number, IV, ciphertext and ICV. A flip in the sequence
    // number is a wrong ICV too; none of them may be taken for a replay before the real one came.
    let bits = (14 + 20 + 4) * 8..good.len() * 8;
    let flips = bits.len() as u64;
    for bit in bits {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        rig.outer_in(&bad);
        assert!(rig.inner_out().is_empty());
    }
    rig.outer_in(&good);
    assert_eq!(rig.fate(Fate::IntegError) + rig.fate(Fate::Replay), flips);
    assert_eq!(rig.fate(Fate::Opened), 1);
    assert!(rig.fate(Fate::IntegError) > flips - 32);
    rig.check_frames();
}

/// Seals bytes that [`OutboundSa`] would never produce.
fn sealed_raw(provider: Provider, text: &[u8], seq: u64) -> Vec<u8> {
    let key = key(CipherSuite::Aes256Gcm16, 0x81);
    let (cipher, salt) = key.expose_keymat().split_at(32);
    let aead = Aead::new(provider, CipherSuite::Aes256Gcm16, cipher).unwrap();
    let spi = spi(SPI_AT_CLIENT + 1).to_be_bytes();
    let iv = seq.to_be_bytes();
    let nonce = [salt, &iv].concat().try_into().unwrap();
    let mut text = text.to_vec();
    let tag = aead
        .seal(nonce, &[&spi[..], &iv].concat(), &mut text)
        .unwrap();
    outer_frame(
        protocol::ESP,
        &[&spi[..], &iv[4..], &iv, &text, &tag].concat(),
    )
}

over_both!(bad_padding);
fn bad_padding(provider: Provider) {
    let (mut rig, _) = client(provider);
    rig.outer_in(&sealed_raw(
        provider,
        &[&down(b"abcd")[..], &[1, 3, 2, 4]].concat(),
        1,
    ));
    rig.outer_in(&sealed_raw(provider, &[255, 4], 2));
    rig.expect(&[(Fate::BadPadding, 2)]);
}

over_both!(next_header);
fn next_header(provider: Provider) {
    let (mut rig, mut sa) = client(provider);
    rig.outer_in(&sealed_for_client(&mut sa, &[0; 40], protocol::TCP));
    rig.expect(&[(Fate::NextHeader, 1)]);
}

over_both!(bad_inner);
fn bad_inner(provider: Provider) {
    let (mut rig, mut sa) = client(provider);
    let good = down(b"inner");
    let mut total_len = good.clone();
    total_len[2] = 0xff;
    let mut ihl = good.clone();
    ihl[0] = 0x4f;
    let mut short_ihl = good.clone();
    short_ihl[0] = 0x44;
    let mut short_total = good.clone();
    short_total[3] = 19;
    let mut sum = good.clone();
    sum[11] ^= 0x80;
    let lies = [
        total_len,
        ihl,
        short_ihl,
        short_total,
        sum,
        good[..19].to_vec(),
        vec![],
    ];
    for packet in &lies {
        rig.outer_in(&sealed_for_client(&mut sa, packet, protocol::IPV4));
    }
    rig.outer_in(&sealed_for_client(&mut sa, &good, protocol::IPV6));
    rig.outer_in(&sealed_for_client(&mut sa, &[0x60; 39], protocol::IPV6));
    rig.expect(&[(Fate::BadInner, 9)]);
    assert!(rig.inner_out().is_empty());
}

over_both!(tfc_padding_is_cut_off);
fn tfc_padding_is_cut_off(provider: Provider) {
    let (mut rig, mut sa) = client(provider);
    let padded = [&down(b"small")[..], &[0; 700]].concat();
    rig.outer_in(&sealed_for_client(&mut sa, &padded, protocol::IPV4));
    assert_eq!(rig.inner_out(), [down(b"small")]);
}

over_both!(selector_mismatch);
fn selector_mismatch(provider: Provider) {
    let stranger = [10, 9, 0, 1].into();
    let (mut rig, mut sa) = client(provider);
    for packet in [
        packet(stranger, CLIENT_INSIDE, b"x"),
        packet(SERVER_INSIDE, stranger, b"x"),
    ] {
        rig.outer_in(&sealed_for_client(&mut sa, &packet, protocol::IPV4));
    }
    rig.outer_in(&sealed_for_client(
        &mut sa,
        &up(b"reflected"),
        protocol::IPV4,
    ));
    rig.expect(&[(Fate::SelectorMismatch, 3)]);

    // Outbound: the tunnel's policy takes what the negotiated selectors do not.
    let (mut rig, _) = client_with(provider, |epoch| {
        epoch.selectors = Selectors {
            local: vec![ts("10.1.0.0/24[tcp]")],
            remote: vec![ts("10.2.0.0/24[tcp]")],
        };
    });
    rig.inner_in(&up(b"udp"));
    rig.expect(&[(Fate::SelectorMismatch, 1)]);
}

over_both!(ecn_drop);
fn ecn_drop(provider: Provider) {
    let (mut rig, mut sa) = client(provider);
    let mut frame = sealed_for_client(&mut sa, &down(b"x"), protocol::IPV4);
    ip::set_traffic_class(&mut frame[14..], TrafficClass::new(0, Ecn::Ce)).unwrap();
    rig.outer_in(&frame);
    rig.expect(&[(Fate::EcnDrop, 1)]);
}

fn forwarding(provider: Provider) -> (Rig, OutboundSa) {
    let (client, gateway) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, None);
    let mut setup = Setup::default();
    setup.config.inner.hop = Hop::Forward;
    let mut rig = setup.build();
    rig.add_tunnel(client_selectors(), 8);
    rig.install_and_activate(Epoch::new(client));
    (rig, gateway.outbound)
}

over_both!(ttl_expired_and_icmp_sent);
fn ttl_expired_and_icmp_sent(provider: Provider) {
    let (mut rig, mut sa) = forwarding(provider);
    let spent = |src, dst| packet_with(src, dst, b"x", |ip| ip.ttl = 1);
    let dying = spent(CLIENT_INSIDE, SERVER_INSIDE);
    rig.inner_in(&dying);
    rig.outer_in(&sealed_for_client(
        &mut sa,
        &spent(SERVER_INSIDE, CLIENT_INSIDE),
        protocol::IPV4,
    ));
    rig.expect(&[(Fate::TtlExpired, 2), (Fate::IcmpSent, 1)]);
    let answer = rig.inner_out().remove(0);
    let answer = ipv4::Packet::new_checked(&answer).unwrap();
    assert_eq!((answer.src(), answer.dst()), (SERVER_INSIDE, CLIENT_INSIDE));
    let message = icmp::Message::new_checked(icmp::Family::V4, answer.payload()).unwrap();
    assert_eq!((message.kind(), message.code()), (11, 0));
    assert_eq!(message.quoted().unwrap(), dying);
    // A second one within the millisecond is not answered.
    rig.inner_in(&dying);
    rig.expect(&[(Fate::TtlExpired, 3), (Fate::IcmpSent, 1)]);
}

over_both!(ttl_is_the_hosts_business_or_ours);
fn ttl_is_the_hosts_business_or_ours(provider: Provider) {
    let packet = packet_with(CLIENT_INSIDE, SERVER_INSIDE, b"x", |ip| ip.ttl = 9);
    let ttl_after = |mut sender: Rig, mut receiver: Rig| {
        sender.inner_in(&packet);
        receiver.outer_in(&sender.outer_out()[0]);
        ipv4::Packet::new_checked(&receiver.inner_out()[0])
            .unwrap()
            .ttl()
    };
    let (client, gateway) = default_pair(provider);
    assert_eq!(ttl_after(client, gateway), 9);
    let (client, _) = forwarding(provider);
    let (_, gateway) = default_pair(provider);
    assert_eq!(ttl_after(client, gateway), 8);
}

over_both!(no_tunnel);
fn no_tunnel(provider: Provider) {
    let (mut rig, _) = client(provider);
    rig.inner_in(&packet(CLIENT_INSIDE, [10, 3, 0, 1].into(), b"x"));
    rig.inner_in(&packet([10, 9, 0, 1].into(), SERVER_INSIDE, b"x"));
    rig.expect(&[(Fate::NoTunnel, 2)]);
}

over_both!(too_big);
fn too_big(provider: Provider) {
    let small: fn(&mut OuterHeader) = |outer| outer.mtu = 500;
    let (mut rig, _) = client_with(provider, |epoch| small(epoch.outer.as_mut().unwrap()));
    let large = up(&[0; 500]);
    rig.inner_in(&large);
    rig.expect(&[(Fate::TooBig, 1), (Fate::IcmpSent, 1)]);
    let answer = rig.inner_out().remove(0);
    let answer = ipv4::Packet::new_checked(&answer).unwrap();
    let message = icmp::Message::new_checked(icmp::Family::V4, answer.payload()).unwrap();
    let mtu = message.next_hop_mtu().unwrap() as usize;
    // What it tells fits exactly: one more does not.
    rig.inner_in(&up(&vec![0; mtu - 28]));
    rig.inner_in(&up(&vec![0; mtu - 27]));
    // The second answer is not due yet.
    rig.expect(&[(Fate::TooBig, 2), (Fate::IcmpSent, 1), (Fate::Sealed, 1)]);
    let out = rig.outer_out();
    assert!(
        (497..=500).contains(&(out[0].len() - 14)),
        "{}",
        out[0].len()
    );

    // From the peer, and larger than the inner link takes.
    let (mut rig, mut sa) = client(provider);
    rig.outer_in(&sealed_for_client(
        &mut sa,
        &down(&[0; 1373]),
        protocol::IPV4,
    ));
    rig.expect(&[(Fate::TooBig, 1)]);
}

over_both!(fragmented);
fn fragmented(provider: Provider) {
    let (mut rig, _) = client_with(provider, |epoch| epoch.outer.as_mut().unwrap().mtu = 500);
    let whole = packet_with(CLIENT_INSIDE, SERVER_INSIDE, &[0; 1000], |ip| {
        ip.dont_fragment = false;
    });
    rig.inner_in(&whole);
    rig.expect(&[(Fate::Fragmented, 1), (Fate::Sealed, 3)]);
}

over_both!(hold_overflow_drops_the_oldest);
fn hold_overflow_drops_the_oldest(provider: Provider) {
    let mut setup = Setup::default();
    setup.config.max_held = 5;
    let mut rig = setup.build();
    rig.add_tunnel(client_selectors(), 3);
    for n in 0..5 {
        rig.inner_in(&up(&[n]));
    }
    rig.expect(&[(Fate::HoldOverflow, 2)]);
    assert_eq!(rig.worker.census().held, 3);
    let waiting = |e: &Event| matches!(e, Event::DataWaiting { tunnel } if *tunnel == TUNNEL);
    assert_eq!(rig.events().iter().filter(|e| waiting(e)).count(), 1);

    // What is left goes in order.
    let (client, gateway) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, None);
    rig.install_and_activate(Epoch::new(client));
    let mut peer = Rig::new();
    peer.add_tunnel(reversed(&client_selectors()), 0);
    peer.send(Command::Install(Epoch::new(gateway)));
    for frame in rig.outer_out() {
        peer.outer_in(&frame);
    }
    assert_eq!(peer.inner_out(), [up(&[2]), up(&[3]), up(&[4])]);
    rig.expect(&[(Fate::HoldOverflow, 2), (Fate::Sealed, 3)]);
    // Its own direction is not activated, and it holds nothing.
    peer.inner_in(&down(b"x"));
    peer.expect(&[(Fate::Opened, 3), (Fate::HoldOverflow, 1)]);
}

#[test]
fn hold_is_bounded_over_all_tunnels() {
    let mut setup = Setup::default();
    setup.config.max_held = 2;
    let mut rig = setup.build();
    rig.add_tunnel(client_selectors(), 100);
    let other = Selectors {
        local: vec![ts("10.1.0.0/24")],
        remote: vec![ts("10.3.0.0/24")],
    };
    rig.send(Command::AddTunnel(mitregate_dataplane::Tunnel::new(
        mitregate_esp::TunnelId(8),
        other,
        100,
    )));
    rig.inner_in(&up(b"1"));
    rig.inner_in(&up(b"2"));
    rig.inner_in(&up(b"3"));
    rig.inner_in(&packet(CLIENT_INSIDE, [10, 3, 0, 1].into(), b"x"));
    rig.expect(&[(Fate::HoldOverflow, 2)]);
    assert_eq!(rig.worker.census().held, 2);
}

#[test]
fn hold_dropped() {
    let mut rig = Rig::new();
    rig.add_tunnel(client_selectors(), 3);
    rig.inner_in(&up(b"1"));
    rig.inner_in(&up(b"2"));
    rig.send(Command::RemoveTunnel { tunnel: TUNNEL });
    rig.expect(&[(Fate::HoldDropped, 2)]);
    assert!(
        matches!(rig.events().last(), Some(Event::Removed { tunnel }) if tunnel.id() == TUNNEL)
    );
    rig.inner_in(&up(b"3"));
    rig.expect(&[(Fate::HoldDropped, 2), (Fate::NoTunnel, 1)]);
}

over_both!(seq_cycled);
fn seq_cycled(provider: Provider) {
    let (mut rig, _) = client_with(provider, |epoch| {
        let last = epoch.outbound.remaining();
        epoch
            .outbound
            .restore(OutboundState { sequence: last - 1 }, 0);
    });
    rig.inner_in(&up(b"last"));
    rig.inner_in(&up(b"none"));
    rig.expect(&[(Fate::Sealed, 1), (Fate::SeqCycled, 1)]);
}

over_both!(lifetime_over);
fn lifetime_over(provider: Provider) {
    for (packets, bytes) in [(2, u64::MAX), (u64::MAX, 2 * up(b"x").len() as u64)] {
        let (mut rig, _) = client_with(provider, |epoch| {
            epoch.hard = Limits { packets, bytes };
        });
        for _ in 0..5 {
            rig.inner_in(&up(b"x"));
        }
        let hard = |e: &Event| matches!(e, Event::HardLimit { epoch, .. } if *epoch == EpochId(1));
        assert_eq!(rig.events().iter().filter(|e| hard(e)).count(), 1);
        // Control packets still go: they end it in good order.
        rig.send(send_inner(&rig, 1, b"ping"));
        rig.expect(&[
            (Fate::Sealed, 2),
            (Fate::LifetimeOver, 3),
            (Fate::ControlSent, 1),
        ]);
    }
}

over_both!(no_epoch);
fn no_epoch(provider: Provider) {
    let (mut rig, _) = client(provider);
    rig.send(send_inner(&rig, 2, b"ping"));
    rig.expect(&[(Fate::NoEpoch, 1)]);
}

over_both!(no_neighbour);
fn no_neighbour(provider: Provider) {
    let (mut rig, _) = client_with(provider, |epoch| epoch.outer = None);
    rig.send(send_inner(&rig, 1, b"ping"));
    rig.expect(&[(Fate::NoNeighbour, 1)]);
    // Data waits for the next hop, and goes when it is known.
    rig.inner_in(&up(b"data"));
    assert_eq!(rig.worker.census().held, 1);
    let outer = Some(outer_header(CLIENT, GATEWAY, None));
    rig.send(Command::SetOuter {
        tunnel: TUNNEL,
        epoch: None,
        outer,
    });
    rig.expect(&[(Fate::NoNeighbour, 1), (Fate::Sealed, 1)]);
}

over_both!(no_room);
fn no_room(provider: Provider) {
    let (mut rig, _) = client(provider);
    let mut blank = rig.inner.blank().unwrap();
    let bytes = inner_frame(&up(b"no headroom"));
    blank.set_range(0..bytes.len());
    rig.umems[0].bytes_mut(&mut blank).copy_from_slice(&bytes);
    rig.inner.inject_frame(blank).unwrap();
    rig.round();
    rig.expect(&[(Fate::NoRoom, 1)]);
}

over_both!(tx_full);
fn tx_full(provider: Provider) {
    let (mut rig, _) = client(provider);
    // The peer takes nothing: 64 packets in the ring, 256 behind it, the rest has no place.
    for _ in 0..330 {
        rig.inner_in(&up(b"x"));
    }
    rig.expect(&[(Fate::Sealed, 64), (Fate::TxFull, 330 - 64 - 256)]);
    // A control packet goes before all data that waits.
    rig.send(send_inner(&rig, 1, b"first"));
    assert_eq!(rig.outer_out().len(), 64);
    rig.round();
    rig.round();
    assert_eq!(rig.fate(Fate::ControlSent), 1);
    assert_eq!(rig.fate(Fate::Sealed), 64 + 63);
}

#[test]
fn control_overflow() {
    let mut setup = Setup::default();
    setup.config.control_bufs = 2;
    let mut rig = setup.build();
    let ike = outer_frame(protocol::UDP, &udp_payload(500, &[1; 40]));
    for _ in 0..3 {
        rig.outer_in(&ike);
    }
    rig.expect(&[(Fate::ToControl, 2), (Fate::ControlOverflow, 1)]);
    drop(rig.events());
    rig.outer_in(&ike);
    rig.expect(&[(Fate::ToControl, 3), (Fate::ControlOverflow, 1)]);
}

over_both!(a_flood_of_ike_stops_no_ping);
/// Anybody can send IKE; only the peer can send a ping.
fn a_flood_of_ike_stops_no_ping(provider: Provider) {
    let (mut rig, mut sa) = client(provider);
    let ike = outer_frame(protocol::UDP, &udp_payload(500, &[1; 40]));
    for _ in 0..100 {
        rig.outer_in(&ike);
    }
    rig.expect(&[(Fate::ToControl, 12), (Fate::ControlOverflow, 88)]);
    rig.outer_in(&sealed_for_client(&mut sa, b"echo", 144));
    rig.expect(&[(Fate::ToControl, 13), (Fate::ControlOverflow, 88)]);
    // And what control answers finds a buffer, too.
    let answer = send_inner(&rig, 1, b"ping");
    rig.send(answer);
    assert_eq!(rig.fate(Fate::ControlSent), 1);
    assert!(matches!(rig.events()[..], [.., Event::Inner { .. }]));
}

over_both!(no_frames);
fn no_frames(provider: Provider) {
    let (client, _) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, None);
    let mut setup = Setup {
        frames: 80,
        reserve: 4,
        ..Setup::default()
    };
    setup.config.max_held = 1000;
    let mut rig = setup.build();
    rig.add_tunnel(client_selectors(), 1000);
    rig.send(Command::Install(Epoch::new(client)));
    // The reserve is the last to go, and nobody gives back.
    for _ in 0..5 {
        rig.send(send_inner(&rig, 1, b"ping"));
    }
    rig.expect(&[(Fate::ControlSent, 4), (Fate::NoFrames, 1)]);
}

over_both!(soft_limit_is_told_once);
fn soft_limit_is_told_once(provider: Provider) {
    let (mut rig, _) = client_with(provider, |epoch| {
        epoch.soft = Limits {
            packets: 2,
            bytes: u64::MAX,
        }
    });
    for _ in 0..5 {
        rig.inner_in(&up(b"x"));
    }
    let soft = |e: &Event| matches!(e, Event::SoftLimit { epoch, .. } if *epoch == EpochId(1));
    assert_eq!(rig.events().iter().filter(|e| soft(e)).count(), 1);
    rig.expect(&[(Fate::Sealed, 5)]);
}
