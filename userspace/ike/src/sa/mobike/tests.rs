//! Moves, on networks that do harm and with peers that lie.

use super::*;
use crate::capabilities::Vendor;
use crate::sa::tests::*;
use crate::{Discard, IkeSa};

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

const HOME: &str = "192.0.2.1";
const AWAY: &str = "192.0.2.77";
const GATEWAY: &str = "198.51.100.2";
const OTHER_GATEWAY: &str = "198.51.100.99";

fn addresses_of(world: &World, host: usize) -> (SocketAddr, SocketAddr) {
    world.hosts[host].sas[0].addresses()
}

/// Peers who know nothing of each other but what the RFCs say.
fn make_strangers(world: &mut World) {
    for host in [CLIENT, SERVER] {
        world.hosts[host].sas[0].vendor = Vendor::default();
    }
}

fn move_client(world: &mut World, to: &str) -> bool {
    world.hosts[CLIENT].address = to.parse().unwrap();
    let (local, remote) = (at(to, 4500), at(GATEWAY, 4500));
    world.call(CLIENT, |sa, cx| sa.update_addresses(local, remote, cx))
}

/// Both ends think of the same two ends.
fn assert_at(world: &World, client: SocketAddr, server: SocketAddr) {
    assert_eq!(addresses_of(world, CLIENT), (client, server));
    assert_eq!(addresses_of(world, SERVER), (server, client));
}

#[test]
fn both_have_to_announce_it() {
    for (client, server) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut setup = Setup::new();
        setup.client.mobike.enabled = client;
        setup.server.mobike.enabled = server;
        let mut world = setup.connected(1);
        for host in [CLIENT, SERVER] {
            assert_eq!(world.hosts[host].sas[0].is_mobile(), client && server);
        }
        // With encapsulation by proof UDP has to be there to fall back to, whoever does MOBIKE.
        assert_at(&world, at(HOME, 4500), at(GATEWAY, 4500));
        assert_eq!(move_client(&mut world, AWAY), client && server);
    }
}

#[test]
fn plain_esp_through_a_nat_keeps_ike_on_port_500() {
    let world = Setup::new()
        .nat()
        .encap(EncapMode::Esp, EncapMode::Auto)
        .connected(2);
    assert!(world.hosts[CLIENT].sas[0].is_mobile());
    assert_eq!(addresses_of(&world, CLIENT).0.port(), 500);
}

#[test]
fn a_client_that_moves_takes_ike_and_esp_along() {
    for return_routability in [true, false] {
        let mut setup = Setup::new();
        setup.server.mobike.return_routability = return_routability;
        let mut world = setup.connected(3);
        let before = world.trace.len();
        assert!(move_client(&mut world, AWAY));
        assert_eq!(
            world.log(CLIENT)[2..],
            [format!("moved to {AWAY}:4500-{GATEWAY}:4500 Esp")]
        );
        world.settle();
        assert_eq!(
            world.log(SERVER)[2..],
            [format!("moved to {GATEWAY}:4500-{AWAY}:4500 Esp")]
        );
        assert_at(&world, at(AWAY, 4500), at(GATEWAY, 4500));
        // The update and its response; the server's COOKIE2 and its response.
        let messages = if return_routability { 4 } else { 2 };
        assert_eq!(world.trace.len() - before, messages);
        // Back home, where it was seen before: nothing to verify.
        let before = world.trace.len();
        move_client(&mut world, HOME);
        world.settle();
        assert_eq!(world.trace.len() - before, 2);
        assert_at(&world, at(HOME, 4500), at(GATEWAY, 4500));
        world.call(SERVER, IkeSa::check_liveness);
        world.settle();
        assert!(world.heard(SERVER, "alive"));
        world.assert_agree();
    }
}

#[test]
fn esp_waits_for_an_answer_from_the_new_address() {
    let mut world = Setup::new().connected(4);
    make_strangers(&mut world);
    move_client(&mut world, AWAY);
    // The update arrives, and then the new address turns out to be a dead end.
    world.run_for(ms(30));
    world.blocked = vec![(AWAY.parse().unwrap(), GATEWAY.parse().unwrap())];
    world.run_for(Duration::from_secs(20));
    assert!(!world.heard(SERVER, "moved"));
    assert_eq!(addresses_of(&world, SERVER).1, at(AWAY, 4500));
    world.blocked.clear();
    world.run_for(Duration::from_secs(60));
    assert!(world.heard(SERVER, "moved"));
}

#[test]
fn encapsulation_follows_the_nats() {
    let mut world = Setup::new().connected(5);
    world.nat = Some("203.0.113.9".parse().unwrap());
    move_client(&mut world, "192.168.1.2");
    world.settle();
    for (host, way) in [
        (CLIENT, "192.168.1.2:4500-198.51.100.2:4500 Udp"),
        (SERVER, "198.51.100.2:4500-203.0.113.9:24500 Udp"),
    ] {
        assert!(
            world.heard(host, &format!("moved to {way}")),
            "{:?}",
            world.log(host)
        );
        assert_eq!(world.hosts[host].sas[0].encap, Encap::Udp);
    }
    assert!(world.hosts[CLIENT].sas[0].nat.local && world.hosts[SERVER].sas[0].nat.remote);
    world.nat = None;
    move_client(&mut world, AWAY);
    world.settle();
    for host in [CLIENT, SERVER] {
        assert_eq!(world.hosts[host].sas[0].encap, Encap::Esp);
        assert_eq!(world.hosts[host].sas[0].nat, Nat::default());
    }
    assert_at(&world, at(AWAY, 4500), at(GATEWAY, 4500));
    // Another one, without the private address that gives a NAT away beforehand.
    world.nat = Some("203.0.113.9".parse().unwrap());
    move_client(&mut world, HOME);
    assert_eq!(world.hosts[CLIENT].sas[0].encap, Encap::Esp);
    world.settle();
    assert_eq!(world.hosts[CLIENT].sas[0].encap, Encap::Udp);
}

#[test]
fn forced_udp_stays_forced() {
    let mut world = Setup::new()
        .encap(EncapMode::Udp, EncapMode::Auto)
        .connected(6);
    move_client(&mut world, AWAY);
    world.settle();
    for host in [CLIENT, SERVER] {
        assert_eq!(world.hosts[host].sas[0].encap, Encap::Udp);
    }
}

#[test]
fn moves_on_bad_networks_end_well() {
    for seed in 0..60 {
        let mut world = Setup::new().connected(seed);
        if seed % 2 == 0 {
            make_strangers(&mut world);
        }
        world.faults = Faults {
            loss: 25,
            duplicates: 15,
            jitter_ms: 150,
        };
        for turn in 0..6 {
            let address = format!("192.0.2.{}", 10 + (seed + turn) % 5);
            world.nat = (turn % 3 == 1).then(|| "203.0.113.9".parse().unwrap());
            move_client(&mut world, &address);
            if turn % 2 == 0 {
                world.call(SERVER, IkeSa::check_liveness);
            }
            // Often before the last move has been answered.
            world.run_for(ms(seed % 7 * 120));
        }
        world.faults = Faults::default();
        world.run_for(Duration::from_secs(120));
        for host in [CLIENT, SERVER] {
            assert_eq!(world.hosts[host].sas.len(), 1, "seed {seed}");
            assert!(!world.heard(host, "closed"), "seed {seed}");
        }
        let (local, _) = addresses_of(&world, CLIENT);
        assert_at(&world, local, at(GATEWAY, 4500));
        for host in [CLIENT, SERVER] {
            assert_eq!(world.hosts[host].sas[0].encap, Encap::Esp, "seed {seed}");
            let (here, there) = addresses_of(&world, host);
            let last = world.hosts[host]
                .log
                .iter()
                .rfind(|l| l.starts_with("moved"));
            assert_eq!(
                last.unwrap(),
                &format!("moved to {here}-{there} Esp"),
                "seed {seed}"
            );
        }
        world.assert_agree();
    }
}

#[test]
fn a_request_under_way_goes_on_along_the_new_way_unchanged() {
    let mut world = Setup::new().connected(7);
    world.blocked = vec![(HOME.parse().unwrap(), GATEWAY.parse().unwrap())];
    let before = world.trace.len();
    world.call(CLIENT, IkeSa::check_liveness);
    let request = world.hosts[CLIENT].sas[0]
        .outstanding
        .as_ref()
        .map(|request| request.datagrams[0].clone());
    world.run_for(ms(600));
    move_client(&mut world, AWAY);
    world.run_for(ms(30));
    let (to, source, _, bytes) = &world.trace[before];
    assert_eq!((*to, *source), (SERVER, at(AWAY, 4500)));
    assert_eq!(Some(bytes), request.as_ref());
    world.settle();
    assert!(world.heard(CLIENT, "alive"));
    assert_at(&world, at(AWAY, 4500), at(GATEWAY, 4500));
}

fn two_gateways() -> Setup {
    let mut setup = Setup::new();
    let ips = [GATEWAY, OTHER_GATEWAY].map(|ip| ip.parse().unwrap());
    setup.server.mobike.addresses = ips.to_vec();
    setup.client.mobike.addresses = vec![HOME.parse().unwrap()];
    setup
}

#[test]
fn a_dead_path_is_left_for_another_address_of_the_peer() {
    let mut world = two_gateways().connected(8);
    let other: IpAddr = OTHER_GATEWAY.parse().unwrap();
    assert_eq!(world.hosts[CLIENT].sas[0].peer_addresses(), [other]);
    world.blocked = vec![(HOME.parse().unwrap(), GATEWAY.parse().unwrap())];
    world.call(CLIENT, IkeSa::check_liveness);
    world.run_for(Duration::from_secs(5));
    assert!(world.heard(CLIENT, "alive"));
    assert_at(&world, at(HOME, 4500), at(OTHER_GATEWAY, 4500));
    let way = format!("moved to {HOME}:4500-{OTHER_GATEWAY}:4500 Esp");
    assert!(world.heard(CLIENT, &way) && world.heard(SERVER, "moved"));
}

#[test]
fn a_gateway_that_loses_its_address_is_found_at_another() {
    let mut world = two_gateways().connected(9);
    make_strangers(&mut world);
    let left = [OTHER_GATEWAY.parse().unwrap()];
    assert!(world.call(SERVER, |sa, cx| sa.set_local_addresses(&left, cx)));
    world.settle();
    assert_at(&world, at(HOME, 4500), at(OTHER_GATEWAY, 4500));
    assert!(world.hosts[CLIENT].sas[0].peer_addresses().is_empty());
}

#[test]
fn the_list_of_addresses_is_kept_current() {
    let mut world = two_gateways().connected(10);
    let ips: Vec<IpAddr> = [GATEWAY, "2001:db8::5", OTHER_GATEWAY]
        .iter()
        .map(|ip| ip.parse().unwrap())
        .collect();
    assert!(world.call(SERVER, |sa, cx| sa.set_local_addresses(&ips, cx)));
    world.settle();
    assert_eq!(world.hosts[CLIENT].sas[0].peer_addresses(), &ips[1..]);
    assert!(world.call(SERVER, |sa, cx| sa.set_local_addresses(&ips[..1], cx)));
    world.settle();
    assert!(world.hosts[CLIENT].sas[0].peer_addresses().is_empty());
    assert!(!world.heard(CLIENT, "moved") && !world.heard(SERVER, "moved"));
    // The client's own, one gone and one come.
    let mine = [AWAY.parse().unwrap()];
    assert!(world.call(CLIENT, |sa, cx| sa.set_local_addresses(&mine, cx)));
    world.settle();
    assert_at(&world, at(AWAY, 4500), at(GATEWAY, 4500));
    // None of the peer's family is left.
    let six = ["2001:db8::1".parse().unwrap()];
    assert!(!world.call(CLIENT, |sa, cx| sa.set_local_addresses(&six, cx)));
}

#[test]
fn a_changed_mapping_is_found_by_the_liveness_check() {
    let mut world = Setup::new().nat().connected(11);
    make_strangers(&mut world);
    // The first one learns how the server sees us.
    world.call(CLIENT, IkeSa::check_liveness);
    world.settle();
    world.nat_shift = 30_000;
    let before = world.trace.len();
    world.call(CLIENT, IkeSa::check_liveness);
    world.run_for(ms(50));
    // RFC 4555 §3.8: by itself it moves nobody.
    assert_eq!(addresses_of(&world, SERVER).1, at("203.0.113.9", 24_500));
    world.settle();
    assert_eq!(addresses_of(&world, SERVER).1, at("203.0.113.9", 34_500));
    let moved = format!("moved to {GATEWAY}:4500-203.0.113.9:34500 Udp");
    assert!(world.heard(SERVER, &moved));
    assert_eq!(world.trace.len() - before, 4);
    // And not again, as long as it stays as it is.
    let before = world.trace.len();
    world.call(CLIENT, IkeSa::check_liveness);
    world.settle();
    assert_eq!(world.trace.len() - before, 2);
}

#[test]
fn replayed_and_forged_requests_move_nothing() {
    for strangers in [true, false] {
        let mut world = Setup::new().nat().connected(12);
        if strangers {
            make_strangers(&mut world);
        }
        let before = addresses_of(&world, SERVER);
        move_client(&mut world, HOME);
        world.settle();
        let update = world
            .trace
            .iter()
            .rev()
            .find(|(to, ..)| *to == SERVER)
            .map(|(.., bytes)| bytes.clone())
            .unwrap();
        let attacker = at("203.0.113.66", 4500);
        // The very message, from elsewhere: it gets its answer once more, and that is all.
        world.deliver(SERVER, attacker, at(GATEWAY, 4500), &update);
        // Changed, or of a message ID that would be the next.
        for place in [23, update.len() - 1, update.len() - 20] {
            let mut forged = update.clone();
            forged[place] ^= 1;
            world.deliver(SERVER, attacker, at(GATEWAY, 4500), &forged);
        }
        world.settle();
        assert_eq!(addresses_of(&world, SERVER), before);
        assert!(
            world.hosts[SERVER]
                .discarded
                .iter()
                .all(|d| matches!(d, Discard::Integrity | Discard::MessageId))
        );
    }
}

#[test]
fn the_responder_cannot_move_the_initiator() {
    let mut world = Setup::new().connected(13);
    world.call(SERVER, |sa, cx| {
        sa.ask(Ask::Update);
        sa.start_tasks(cx);
    });
    world.hosts[SERVER].address = OTHER_GATEWAY.parse().unwrap();
    world.settle();
    assert_at(&world, at(HOME, 4500), at(GATEWAY, 4500));
}

#[test]
fn a_wrong_cookie_ends_the_ike_sa() {
    for (liar, asks) in [(SERVER, Ask::Update), (CLIENT, Ask::Verify)] {
        let honest = 1 - liar;
        let mut world = Setup::new().connected(14);
        world.call(honest, |sa, cx| {
            sa.ask(asks);
            sa.start_tasks(cx);
            // As if the peer had changed a bit.
            if let Some(request) = &mut sa.outstanding
                && let Purpose::Mobike(asked) = &mut request.purpose
            {
                asked.cookie[3] ^= 0x10;
            }
        });
        world.settle();
        assert!(world.heard(honest, "closed"), "{:?}", world.log(honest));
        world.assert_nothing_left();
    }
    // Nor is none at all good enough.
    let mut world = Setup::new().connected(15);
    world.hosts[SERVER].sas[0].mobike.negotiated = false;
    move_client(&mut world, AWAY);
    world.settle();
    assert!(world.heard(CLIENT, "closed"));
}

#[test]
fn where_nats_are_forbidden_one_is_noticed() {
    let forbidding = || {
        let mut setup = Setup::new();
        setup.client.mobike.nats_allowed = false;
        setup
    };
    let mut world = forbidding().nat().world(16);
    world.connect();
    world.settle();
    let refused = "failed: peer answered UNEXPECTED_NAT_DETECTED";
    assert_eq!(world.log(CLIENT), [refused]);
    assert_eq!(world.log(SERVER), [refused]);

    let mut world = forbidding().connected(17);
    // There was no word on NATs, so nobody moved to port 4500.
    let (home, away) = (at(HOME, 500), at(AWAY, 500));
    let gateway = at(GATEWAY, 500);
    assert_at(&world, home, gateway);
    assert!(world.call(CLIENT, |sa, cx| sa.update_addresses(away, gateway, cx)));
    world.hosts[CLIENT].address = AWAY.parse().unwrap();
    world.settle();
    assert_at(&world, away, gateway);
    world.nat = Some("203.0.113.9".parse().unwrap());
    let before = world.trace.len();
    assert!(world.call(CLIENT, |sa, cx| sa.update_addresses(home, gateway, cx)));
    world.hosts[CLIENT].address = HOME.parse().unwrap();
    world.settle();
    // Asked four times, then deleted; the server has moved nowhere.
    assert!(world.heard(CLIENT, "closed"));
    assert_eq!(world.trace.len() - before, 10);
    assert!(!world.log(SERVER).iter().any(|l| l.contains("203.0.113.9")));
}

#[test]
fn addresses_that_no_host_has_are_refused() {
    let mut world = Setup::new().connected(18);
    let (local, remote) = (at("224.0.0.5", 4500), at(GATEWAY, 4500));
    world.call(CLIENT, |sa, cx| sa.update_addresses(local, remote, cx));
    world.settle();
    assert!(world.heard(CLIENT, "move refused"));
    assert_eq!(addresses_of(&world, SERVER).1, at(HOME, 4500));
}

#[test]
fn moves_on_ordinary_messages_are_limited() {
    let mut world = Setup::new().nat().connected(19);
    let moved = |world: &World| {
        let log = world.log(SERVER);
        log.iter().filter(|l| l.starts_with("moved")).count()
    };
    for turn in 0..10 {
        world.nat_shift = 30_000 + turn;
        world.call(CLIENT, IkeSa::check_liveness);
        world.run_for(ms(45));
    }
    assert!(moved(&world) <= usize::from(MOVES) + 1, "{}", moved(&world));
    // The next one, later, gets it right.
    world.run_for(Duration::from_secs(5));
    world.call(CLIENT, IkeSa::check_liveness);
    world.settle();
    assert_eq!(addresses_of(&world, SERVER).1.port(), 4500 + 30_009);
}

#[test]
fn lists_of_addresses_are_bounded_and_read_with_care() {
    let v4 = |last: u8| notify_data(NotifyType::ADDITIONAL_IP4_ADDRESS, &[192, 0, 2, last]);
    assert_eq!(addresses(&[]), None);
    let none = [notify(NotifyType::NO_ADDITIONAL_ADDRESSES)];
    assert_eq!(addresses(&none), Some(Vec::new()));
    let many: Vec<_> = (0..100).map(v4).collect();
    assert_eq!(addresses(&many).unwrap().len(), MAX_ADDRESSES);
    let odd = [
        v4(1),
        v4(1),
        notify_data(NotifyType::ADDITIONAL_IP4_ADDRESS, &[1, 2, 3]),
        notify_data(NotifyType::ADDITIONAL_IP6_ADDRESS, &[0; 16]),
        notify_data(NotifyType::ADDITIONAL_IP4_ADDRESS, &[255; 4]),
    ];
    let one: IpAddr = "192.0.2.1".parse().unwrap();
    assert_eq!(addresses(&odd), Some(vec![one]));
}
