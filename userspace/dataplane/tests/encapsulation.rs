//! Plain ESP and ESP in UDP: one SA takes either at any time, and sends by either without a rekey.

#[macro_use]
mod common;

use common::*;
use mitregate_dataplane::{Command, Event, Fate, OuterHeader, UdpPorts};
use mitregate_esp::EpochId;
use mitregate_wire::ip::protocol;

const PORTS: UdpPorts = UdpPorts {
    src: 4500,
    dst: 4500,
};

fn to_gateway(udp: bool) -> OuterHeader {
    outer_header(CLIENT, GATEWAY, udp.then_some(PORTS))
}

/// The IP protocol of a frame.
fn protocol_of(frame: &[u8]) -> u8 {
    frame[14 + 9]
}

fn ping(rig: &Rig, via: Option<OuterHeader>) -> Command {
    let mut payload = rig.handle.buffer().unwrap();
    assert!(payload.set(b"echo"));
    Command::SendInner {
        tunnel: TUNNEL,
        epoch: EpochId(1),
        next_header: 144,
        via,
        pad_to: 0,
        payload,
    }
}

over_both!(an_sa_sends_and_opens_either_form);
fn an_sa_sends_and_opens_either_form(provider: mitregate_esp::Provider) {
    let (mut client, mut gateway) = default_pair(provider);
    let mut sent = Vec::new();
    for (round, udp) in (0u8..).zip([false, true, true, false, true]) {
        client.send(Command::SetOuter {
            tunnel: TUNNEL,
            epoch: Some(EpochId(1)),
            outer: Some(to_gateway(udp)),
        });
        // One packet asks by the other form, between data that goes on as it was.
        client.inner_in(&up(&[round, 1]));
        client.send(ping(&client, Some(to_gateway(!udp))));
        client.inner_in(&up(&[round, 2]));
        client.send(ping(&client, None));
        let forms = [udp, !udp, udp, udp].map(|udp| match udp {
            true => protocol::UDP,
            false => protocol::ESP,
        });
        let frames = client.outer_out();
        let found: Vec<_> = frames.iter().map(|frame| protocol_of(frame)).collect();
        assert_eq!(found, forms);
        for frame in &frames {
            gateway.outer_in(frame);
        }
        sent.extend([up(&[round, 1]), up(&[round, 2])]);
    }
    assert_eq!(gateway.inner_out(), sent);
    gateway.expect(&[(Fate::Opened, 10), (Fate::ToControl, 10)]);
    let pings = gateway.events();
    let from: Vec<_> = pings
        .iter()
        .filter_map(|event| match event {
            Event::Inner {
                from, new_highest, ..
            } => {
                assert!(*new_highest);
                Some(from.port())
            }
            _ => None,
        })
        .collect();
    assert_eq!(from, [4500, 0, 0, 4500, 0, 4500, 4500, 0, 0, 4500]);
}

over_both!(what_was_overtaken_or_comes_twice_by_the_other_form_is_known);
fn what_was_overtaken_or_comes_twice_by_the_other_form_is_known(provider: mitregate_esp::Provider) {
    let (mut client, mut gateway) = default_pair(provider);
    client.send(ping(&client, None));
    client.send(ping(&client, None));
    let frames = client.outer_out();
    gateway.outer_in(&frames[1]);
    // The delayed one is authentic, and moves nobody.
    gateway.outer_in(&frames[0]);
    let highest: Vec<_> = gateway
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::Inner { new_highest, .. } => Some(*new_highest),
            _ => None,
        })
        .collect();
    assert_eq!(highest, [true, false]);
    // The same ESP packet in UDP is the same packet.
    let esp = &frames[1][14 + 20..];
    gateway.outer_in(&outer_frame(protocol::UDP, &udp_payload(4500, esp)));
    gateway.expect(&[(Fate::ToControl, 2), (Fate::Replay, 1)]);
    assert!(gateway.events().is_empty());
}

over_both!(plain_pings_are_controls_by_protocol_50_only);
fn plain_pings_are_controls_by_protocol_50_only(provider: mitregate_esp::Provider) {
    let (_, mut gateway) = default_pair(provider);
    let packet = |spi: u8| [&[0, 0, 0, spi, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 1][..]].concat();
    for spi in 1..=9 {
        gateway.outer_in(&outer_frame(protocol::ESP, &packet(spi)));
    }
    gateway.expect(&[(Fate::ToControl, 2), (Fate::NoSpi, 7)]);
    let told = gateway.events();
    let frame = |event: &Event| matches!(event, Event::Outer { frame, .. } if [7, 8].contains(&frame[14 + 20 + 3]));
    assert!(told.iter().all(frame));
    // In UDP they say nothing about protocol 50.
    for spi in [7, 8] {
        gateway.outer_in(&outer_frame(
            protocol::UDP,
            &udp_payload(4500, &packet(spi)),
        ));
    }
    gateway.expect(&[(Fate::ToControl, 2), (Fate::NoSpi, 9)]);
    assert!(gateway.events().is_empty());
}
