//! When a worker says that a peer's packets come from elsewhere (gate.md's G7, RFC 7296 §2.23).

#[macro_use]
mod common;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use common::*;
use mitregate_dataplane::{Command, Epoch, Event, Fate, UdpPorts};
use mitregate_esp::{CipherSuite, EpochId, Provider};

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const THIRD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// A client that seals, and a gateway's worker whose epoch tells moves, or does not.
fn rigs(provider: Provider, udp: Option<UdpPorts>, tells: bool) -> (Rig, Rig) {
    let (client, gateway) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, udp);
    let mut at_gateway = Rig::new();
    at_gateway.add_tunnel(reversed(&client_selectors()), 8);
    let epoch = Epoch::new(gateway);
    at_gateway.install_and_activate(if tells { epoch.telling_moves() } else { epoch });
    (Rig::client(Epoch::new(client)), at_gateway)
}

/// The next packet of the client, as it leaves.
fn sealed(client: &mut Rig) -> Vec<u8> {
    client.inner_in(&up(b"data"));
    client.outer_out().remove(0)
}

/// The same packet from another address, and from another port if it is in UDP.
fn from(frame: &[u8], ip: Ipv4Addr, port: Option<u16>) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[26..30].copy_from_slice(&ip.octets());
    frame[24..26].fill(0);
    let sum = mitregate_wire::checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    if let Some(port) = port {
        frame[34..36].copy_from_slice(&port.to_be_bytes());
    }
    frame
}

/// What the gateway's worker has said about moves.
fn moves(rig: &mut Rig) -> Vec<(SocketAddr, SocketAddr)> {
    let told = rig.events().into_iter().filter_map(|event| match event {
        Event::Moved {
            tunnel,
            epoch,
            from,
            to,
        } => {
            assert_eq!((tunnel, epoch), (TUNNEL, EpochId(1)));
            Some((from, to))
        }
        _ => None,
    });
    told.collect()
}

/// Where packets come from is looked at every 10 ms.
fn next_look(rig: &mut Rig) {
    rig.now += Duration::from_millis(10);
}

fn second_later(rig: &mut Rig) {
    rig.now += Duration::from_secs(1);
}

over_both!(another_address_is_told_once_a_second);
fn another_address_is_told_once_a_second(provider: Provider) {
    let (mut client, mut gateway) = rigs(provider, UDP_ENCAP, true);
    let at_home = sealed(&mut client);
    gateway.outer_in(&at_home);
    assert_eq!(moves(&mut gateway), []);
    next_look(&mut gateway);

    let here = (GATEWAY, 4500).into();
    for _ in 0..20 {
        let frame = from(&sealed(&mut client), ELSEWHERE, Some(4500));
        gateway.outer_in(&frame);
    }
    assert_eq!(moves(&mut gateway), [((ELSEWHERE, 4500).into(), here)]);
    // A port alone is a move as well: a NAT that has forgotten.
    second_later(&mut gateway);
    for port in [61_000, 61_001] {
        let frame = from(&sealed(&mut client), CLIENT, Some(port));
        gateway.outer_in(&frame);
    }
    assert_eq!(moves(&mut gateway), [((CLIENT, 61_000).into(), here)]);
    // What is delivered does not depend on it.
    gateway.expect(&[(Fate::Opened, 23)]);
}

over_both!(plain_esp_moves_by_its_address);
fn plain_esp_moves_by_its_address(provider: Provider) {
    let (mut client, mut gateway) = rigs(provider, None, true);
    gateway.outer_in(&sealed(&mut client));
    next_look(&mut gateway);
    let frame = from(&sealed(&mut client), ELSEWHERE, None);
    gateway.outer_in(&frame);
    let expected = ((ELSEWHERE, 0).into(), (GATEWAY, 0).into());
    assert_eq!(moves(&mut gateway), [expected]);
}

over_both!(what_proves_nothing_moves_nothing);
fn what_proves_nothing_moves_nothing(provider: Provider) {
    let (mut client, mut gateway) = rigs(provider, UDP_ENCAP, true);
    let frames: Vec<_> = (0..4).map(|_| sealed(&mut client)).collect();
    gateway.outer_in(&frames[2]);
    moves(&mut gateway);
    next_look(&mut gateway);

    // A replay.
    gateway.outer_in(&from(&frames[2], ELSEWHERE, Some(4500)));
    // Authentic, but held back by somebody who now sends it from his own address.
    gateway.outer_in(&from(&frames[1], ELSEWHERE, Some(4500)));
    // The next number, changed on the way: anywhere in the ciphertext, its number, or its tag.
    for at in [46, 60, frames[3].len() - 1] {
        let mut forged = from(&frames[3], ELSEWHERE, Some(4500));
        forged[at] ^= 1;
        gateway.outer_in(&forged);
    }
    // Another SPI.
    let mut forged = from(&frames[3], ELSEWHERE, Some(4500));
    forged[45] ^= 1;
    gateway.outer_in(&forged);
    assert_eq!(moves(&mut gateway), []);
    // Nor have they used up the word that may be said each second.
    gateway.outer_in(&from(&frames[3], THIRD, Some(4500)));
    assert_eq!(moves(&mut gateway).len(), 1);
    assert_eq!(gateway.fate(Fate::Opened), 3);
    gateway.check_frames();
}

over_both!(once_followed_the_new_address_is_home);
fn once_followed_the_new_address_is_home(provider: Provider) {
    let (mut client, mut gateway) = rigs(provider, UDP_ENCAP, true);
    let frame = from(&sealed(&mut client), ELSEWHERE, Some(61_000));
    gateway.outer_in(&frame);
    assert_eq!(moves(&mut gateway).len(), 1);
    let ports = UdpPorts {
        src: 4500,
        dst: 61_000,
    };
    gateway.send(Command::SetOuter {
        tunnel: TUNNEL,
        epoch: None,
        outer: Some(outer_header(GATEWAY, ELSEWHERE, Some(ports))),
    });
    second_later(&mut gateway);
    let frame = from(&sealed(&mut client), ELSEWHERE, Some(61_000));
    gateway.outer_in(&frame);
    assert_eq!(moves(&mut gateway), []);
    second_later(&mut gateway);
    gateway.outer_in(&sealed(&mut client));
    let back = ((CLIENT, 4500).into(), (GATEWAY, 4500).into());
    assert_eq!(moves(&mut gateway), [back]);
}

over_both!(only_epochs_that_were_made_so_tell_moves);
fn only_epochs_that_were_made_so_tell_moves(provider: Provider) {
    let (mut client, mut gateway) = rigs(provider, UDP_ENCAP, false);
    let frame = from(&sealed(&mut client), ELSEWHERE, Some(4500));
    gateway.outer_in(&frame);
    assert_eq!(moves(&mut gateway), []);
    gateway.expect(&[(Fate::Opened, 1)]);
}

over_both!(without_a_way_there_is_nothing_to_compare_with);
fn without_a_way_there_is_nothing_to_compare_with(provider: Provider) {
    let (mut client, mut gateway) = rigs(provider, UDP_ENCAP, true);
    gateway.send(Command::SetOuter {
        tunnel: TUNNEL,
        epoch: None,
        outer: None,
    });
    let frame = from(&sealed(&mut client), ELSEWHERE, Some(4500));
    gateway.outer_in(&frame);
    assert_eq!(moves(&mut gateway), []);
    gateway.expect(&[(Fate::Opened, 1)]);
}
