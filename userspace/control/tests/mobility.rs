//! Addresses that change, seen from both ends: keepalives, following a peer from behind a NAT, a machine
//! that slept, moves around rekeys of the IKE SA, and moves that are refused.

mod paper;

use std::net::SocketAddr;
use std::time::Duration;

use mitregate_control::{Command, ConnectionConfig, ControlEvent, DataEvent, EncapMode, Role};
use paper::{Net, Sent, child, connection, ip, ms, secs};

const CLIENT: &str = "192.0.2.1";
const SERVER: &str = "198.51.100.1";
const PUBLIC: &str = "203.0.113.9";

/// A client and a server that nothing translates yet, before their first message.
fn pair(change: impl Fn(&mut ConnectionConfig)) -> Net {
    let mut net = Net::new(5);
    let ids = ["client@lab", "gw@lab"];
    for (at, role) in [Role::Client, Role::Server].into_iter().enumerate() {
        let mut config = connection("home", role, ids[at]);
        config.remote_id = Some(ids[1 - at].parse().unwrap());
        let ends = ["10.1.0.0/24", "10.2.0.0/24"];
        config.children = vec![child("net", &[ends[at]], &[ends[1 - at]])];
        config.mobility.any_local = role == Role::Client;
        if role == Role::Client {
            config.remote_addrs = vec![ip(SERVER)];
        }
        change(&mut config);
        net.start([CLIENT, SERVER][at], Vec::new(), vec![config]);
    }
    net
}

fn up(net: &mut Net) {
    let child = "net".to_owned();
    net.command(0, Command::Initiate { child });
    net.run(secs(2));
    assert_eq!(net.status(0), ["proven"]);
}

/// How often a peer was authenticated.
fn established(net: &Net, at: usize) -> usize {
    let events = net.hosts[at].events.iter();
    events
        .filter(|event| matches!(event, ControlEvent::IkeEstablished { .. }))
        .count()
}

fn spis(net: &Net, at: usize) -> Vec<String> {
    let epochs = net.tunnel(at).epochs;
    epochs.into_iter().map(|epoch| epoch.spi_in).collect()
}

fn keepalives(net: &Net, at: usize) -> usize {
    let sent = net.hosts[at].sent.iter();
    sent.filter(|(_, what, _)| *what == Sent::Keepalive).count()
}

#[test]
fn keepalives_keep_a_mapping_that_nothing_else_keeps() {
    for encap in [EncapMode::Auto, EncapMode::Esp] {
        let mut net = pair(|config| config.encap = encap);
        net.hosts[0].behind = Some(ip(PUBLIC));
        up(&mut net);
        net.run(secs(600));
        // Plain ESP has a mapping of its own, and does nothing for that of IKE.
        let kept = |what: Sent| match encap {
            EncapMode::Esp => what != Sent::Esp,
            _ => true,
        };
        let sent = net.hosts[0].sent.iter();
        let sent: Vec<_> = sent.filter(|(_, what, _)| kept(*what)).collect();
        for pair in sent.windows(2) {
            let pause = pair[1].0 - pair[0].0;
            // Counted from the answer, where one was waited for.
            let every = ConnectionConfig::KEEPALIVE * if encap == EncapMode::Esp { 4 } else { 1 };
            assert!(pause <= every + ms(20), "{encap:?}: {pause:?}");
            if pair[1].1 == Sent::Keepalive {
                // The first one may have been set before there was any ESP.
                assert!(pause >= ConnectionConfig::KEEPALIVE, "{encap:?}: {pause:?}");
                assert_eq!(pair[1].2, pair[0].2, "{encap:?}");
            }
        }
        // In UDP the pings of a quiet tunnel come sooner.
        assert_eq!(
            keepalives(&net, 0) > 0,
            encap == EncapMode::Esp,
            "{encap:?}"
        );
        assert_eq!(keepalives(&net, 1), 0, "{encap:?}: not behind a NAT");
        assert_eq!(net.status(0), ["proven"]);

        // Traffic in UDP does as well.
        let before = keepalives(&net, 0);
        for _ in 0..300 {
            net.send(0, 0);
            net.run(secs(1));
        }
        let more = keepalives(&net, 0) - before;
        assert_eq!(more > 0, encap == EncapMode::Esp, "{encap:?}: {more}");
    }
}

#[test]
fn without_a_nat_or_with_no_interval_there_are_no_keepalives() {
    for behind in [None, Some(ip(PUBLIC))] {
        let mut net = pair(|config| {
            if behind.is_some() {
                config.keepalive = Duration::ZERO;
            }
        });
        net.hosts[0].behind = behind;
        up(&mut net);
        net.run(secs(300));
        assert_eq!(keepalives(&net, 0), 0);
    }
}

/// Both behind NATs, and the client's gives it another address: only where the gateway may follow does it,
/// and then it has asked there first.
#[test]
fn a_gateway_behind_a_nat_follows_when_the_new_address_has_answered() {
    let gateway = "203.0.113.1";
    for follows in [true, false] {
        let mut net = pair(|config| {
            config.mobility.mobike = false;
            config.mobility.follow_behind_nat = follows;
            if !config.remote_addrs.is_empty() {
                config.remote_addrs = vec![ip(gateway)];
            }
        });
        net.hosts[0].behind = Some(ip(PUBLIC));
        net.hosts[1].behind = Some(ip(gateway));
        up(&mut net);
        let new = "203.0.113.77";
        net.hosts[0].behind = Some(ip(new));
        for _ in 0..60 {
            net.send(0, 0);
            net.run(ms(100));
        }
        let moved = net.hosts[1].moves.first().map(|(_, outer)| outer.remote);
        let there = SocketAddr::new(ip(new), 4500);
        assert_eq!(moved, follows.then_some(there));
        if follows {
            assert_eq!(established(&net, 1), 1);
            net.run(secs(10));
            assert_eq!(net.status(0), ["proven"]);
        }
    }
}

/// A response to a ping: sub-type 3, no data.
const PING: [u8; 8] = [3, 0, 0, 0, 0, 1, 0, 1];

/// Somebody on the path sends the client's packets on from his own address: he cannot answer what the
/// gateway then asks him.
#[test]
fn from_behind_a_nat_nobody_is_followed_who_does_not_answer() {
    let gateway = "203.0.113.1";
    let mut net = pair(|config| {
        config.mobility.mobike = false;
        config.mobility.follow_behind_nat = true;
        if !config.remote_addrs.is_empty() {
            config.remote_addrs = vec![ip(gateway)];
        }
    });
    net.hosts[0].behind = Some(ip(PUBLIC));
    net.hosts[1].behind = Some(ip(gateway));
    up(&mut net);
    let asked = net.hosts[1].sent.len();
    let elsewhere = SocketAddr::new(ip("203.0.113.66"), 4500);
    for _ in 0..5 {
        net.tell(1, |tunnel, epoch| DataEvent::Inner {
            tunnel,
            epoch,
            next_header: mitregate_wire::echo::NEXT_HEADER,
            new_highest: true,
            from: elsewhere,
            to: SocketAddr::new(ip(SERVER), 4500),
            payload: &PING,
        });
        net.run(secs(10));
    }
    let sent = &net.hosts[1].sent[asked..];
    assert!(sent.iter().any(|(_, _, to)| *to == elsewhere));
    assert!(
        sent.iter()
            .all(|(_, what, to)| *to != elsewhere || *what == Sent::Ike)
    );
    assert!(net.hosts[1].moves.is_empty());
    assert_eq!(net.status(0), ["proven"]);
    assert_eq!(established(&net, 1), 1);
}

/// A machine that slept: nothing was sent and no timer ran, while the clock went on.
#[test]
fn after_a_suspend_tunnels_are_pinged_at_once() {
    for slept in [30, 600, 20_000] {
        let mut net = pair(|_| {});
        net.hosts[0].behind = Some(ip(PUBLIC));
        up(&mut net);
        net.hosts[0].down = true;
        net.run(secs(slept));
        net.hosts[0].down = false;
        let sent = net.hosts[0].sent.len();
        net.command(0, Command::PathChanged);
        let at_once = &net.hosts[0].sent[sent..];
        assert!(
            at_once.iter().any(|(_, what, _)| *what == Sent::Esp),
            "{slept}"
        );
        net.run(secs(20));
        assert_eq!(net.status(0), ["proven"], "{slept}");
        assert_eq!(net.status(1), ["proven"], "{slept}");
        assert_eq!(spis(&net, 0).len(), 1, "{slept}");
    }
}

/// At every moment of a rekey, by either side, and right after it.
#[test]
fn a_move_around_a_rekey_of_the_ike_sa_keeps_sas_and_finds_the_peer() {
    for by in [0, 1] {
        for after in 0..12 {
            let what = format!("rekey by {by}, {after}");
            let mut net = pair(|_| {});
            up(&mut net);
            let before = spis(&net, 0);
            let connection = "home".to_owned();
            net.command(by, Command::RekeyIke { connection });
            net.run(ms(after * 5));
            for address in ["192.0.2.50", "192.0.2.51"] {
                net.move_to(0, address);
                net.run(secs(5));
                let (ours, theirs) = (net.list(0).ike_sas, net.list(1).ike_sas);
                assert_eq!((ours.len(), theirs.len()), (1, 1), "{what}");
                let remote = &theirs[0].remote;
                assert_eq!(remote, &format!("{address}:4500"), "{what}");
                let epochs = net.tunnel(1).epochs;
                assert!(epochs[0].remote.starts_with(address), "{what}: {epochs:?}");
                assert_eq!(net.status(0), ["proven"], "{what}");
            }
            assert_eq!(spis(&net, 0), before, "{what}");
            assert_eq!(established(&net, 1), 1, "{what}");
            let rekeyed = |event: &ControlEvent| matches!(event, ControlEvent::IkeRekeyed { .. });
            assert!(net.hosts[1].events.iter().any(rekeyed), "{what}");
        }
    }
}

/// RFC 4555 §3.5: UNACCEPTABLE_ADDRESSES. A new IKE SA is made, and when the address is a sound one the
/// tunnel goes on with that.
#[test]
fn a_move_that_is_refused_leads_to_a_new_ike_sa() {
    let mut net = pair(|_| {});
    up(&mut net);
    // A NAT gone mad shows an address that no host has.
    net.hosts[0].behind = Some(ip("255.255.255.255"));
    net.move_to(0, "192.0.2.50");
    net.run(ms(100));
    net.hosts[0].behind = None;
    net.run(secs(30));
    assert_eq!(established(&net, 0), 2);
    assert_eq!(
        (net.status(0), net.status(1)),
        (vec!["proven"], vec!["proven"])
    );
    assert_eq!(
        (net.list(0).ike_sas.len(), net.list(1).ike_sas.len()),
        (1, 1)
    );
    assert!(net.tunnel(1).epochs[0].remote.starts_with("192.0.2.50"));
}
