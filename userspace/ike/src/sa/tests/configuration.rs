//! Virtual addresses by configuration payload (RFC 7296 §2.19, §3.15), `dynamic` selectors, and
//! childless IKE SAs (RFC 6023).

use mitregate_wire::ike::{
    Configuration, ConfigurationAttribute, ExchangeType, NotifyType, Payload,
};
use proptest::prelude::*;

use super::*;
use crate::sa::window::Purpose;

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// A client without an address inside, and a server with some.
fn road_warrior(vips: &[&str], free: &[&str]) -> World {
    let mut setup = Setup::new();
    setup.client.vips = ips(vips);
    setup.client.children[0].local_ts.clear();
    setup.client.children[0].dynamic.local = true;
    setup.server.assigns = true;
    setup.server.children[0].remote_ts.clear();
    setup.server.children[0].dynamic.remote = true;
    setup.client.children[0].remote_ts =
        vec!["10.2.0.0/24".parse().unwrap(), "fd02::/16".parse().unwrap()];
    setup.server.children[0].local_ts = setup.client.children[0].remote_ts.clone();
    let mut world = setup.world(1);
    world.hosts[SERVER].leases.free = Assigned {
        addresses: ips(free),
        dns: ips(&["10.2.0.53", "fd02::53"]),
        subnets: Vec::new(),
    };
    world.connect();
    world.settle();
    world
}

fn local_ts(world: &World, host: usize) -> Vec<String> {
    let child = world.hosts[host].installed.values().next().unwrap();
    child.local_ts.iter().map(ToString::to_string).collect()
}

#[test]
fn a_client_gets_addresses_of_both_families_and_its_selectors_follow() {
    let world = road_warrior(&["0.0.0.0", "::"], &["10.3.0.7", "fd03::7"]);
    world.assert_connected();
    world.assert_agree();
    assert_eq!(local_ts(&world, CLIENT), ["10.3.0.7/32", "fd03::7/128"]);
    let client = &world.hosts[CLIENT].established[0];
    let server = &world.hosts[SERVER].established[0];
    assert_eq!(
        client.local_assigned.addresses,
        ips(&["10.3.0.7", "fd03::7"])
    );
    assert_eq!(client.local_assigned.dns, ips(&["10.2.0.53", "fd02::53"]));
    assert_eq!(
        server.remote_assigned.addresses,
        client.local_assigned.addresses
    );
    assert_eq!(client.remote_assigned, Assigned::default());
    let asked = &world.hosts[SERVER].leases.asked;
    assert_eq!(
        asked[..],
        [(
            "clients".to_owned(),
            "client@lab".to_owned(),
            ips(&["0.0.0.0", "::"])
        )]
    );
}

#[test]
fn a_family_that_the_server_does_not_have_is_left_out() {
    let world = road_warrior(&["0.0.0.0", "::"], &["10.3.0.7"]);
    world.assert_agree();
    assert_eq!(local_ts(&world, CLIENT), ["10.3.0.7/32"]);
    // And one that was not asked for is not taken.
    let world = road_warrior(&["::"], &["10.3.0.7", "fd03::7"]);
    assert_eq!(local_ts(&world, CLIENT), ["fd03::7/128"]);
}

#[test]
fn a_certain_address_can_be_asked_for() {
    let world = road_warrior(&["10.3.0.9"], &["10.3.0.9"]);
    assert_eq!(world.hosts[SERVER].leases.asked[0].2, ips(&["10.3.0.9"]));
    assert_eq!(local_ts(&world, CLIENT), ["10.3.0.9/32"]);
}

/// RFC 7296 §3.10.1: the IKE SA stands, the CHILD_SA does not.
#[test]
fn without_a_free_address_only_the_child_fails() {
    let world = road_warrior(&["0.0.0.0"], &[]);
    let refused = Reason::Refused(NotifyType::INTERNAL_ADDRESS_FAILURE);
    assert_eq!(
        world.log(CLIENT),
        [
            "established".to_owned(),
            format!("child net failed: {refused}")
        ]
    );
    assert_eq!(
        world.log(SERVER),
        [
            "established".to_owned(),
            format!("child ? failed: {}", Reason::NoAddress)
        ]
    );
    world.assert_agree();
}

/// RFC 7296 §2.19.
#[test]
fn a_client_that_asks_for_no_address_where_it_must_is_told_so() {
    let mut setup = Setup::new();
    setup.server.assigns = true;
    setup.server.children[0].remote_ts.clear();
    setup.server.children[0].dynamic.remote = true;
    let mut world = setup.world(1);
    world.connect();
    world.settle();
    let refused = Reason::Refused(NotifyType::FAILED_CP_REQUIRED);
    assert!(world.heard(CLIENT, &format!("child net failed: {refused}")));
    assert!(world.heard(CLIENT, "established"));
    world.assert_agree();
}

#[test]
fn a_server_without_pools_says_that_it_has_no_address() {
    let mut setup = Setup::new();
    setup.client.vips = ips(&["0.0.0.0"]);
    setup.client.children[0].dynamic.local = true;
    let mut world = setup.world(1);
    world.hosts[SERVER].leases.free.addresses = ips(&["10.3.0.1"]);
    world.connect();
    world.settle();
    assert!(world.hosts[SERVER].leases.asked.is_empty());
    let refused = Reason::Refused(NotifyType::INTERNAL_ADDRESS_FAILURE);
    assert!(world.heard(CLIENT, &format!("child net failed: {refused}")));
}

/// swanctl: without virtual addresses, `dynamic` is the outer address.
#[test]
fn dynamic_is_the_outer_address_where_none_is_assigned() {
    let mut setup = Setup::new();
    for config in [&mut setup.client, &mut setup.server] {
        config.children[0].local_ts.clear();
        config.children[0].remote_ts.clear();
        config.children[0].dynamic = Dynamic {
            local: true,
            remote: true,
        };
    }
    let world = setup.connected(1);
    world.assert_agree();
    assert_eq!(local_ts(&world, CLIENT), ["192.0.2.1/32"]);
    assert_eq!(local_ts(&world, SERVER), ["198.51.100.2/32"]);
}

#[test]
fn further_children_and_rekeys_keep_to_the_assigned_address() {
    let mut world = road_warrior(&["0.0.0.0"], &["10.3.0.7"]);
    let spi = world.spi(CLIENT);
    world
        .call(CLIENT, |sa, cx| sa.rekey_child(spi, cx))
        .unwrap();
    world.settle();
    assert!(world.heard(CLIENT, "child net replaced"));
    for host in [CLIENT, SERVER] {
        let children = world.hosts[host].installed.values();
        let vip = "10.3.0.7/32".parse().unwrap();
        for child in children {
            let ts = [&child.local_ts, &child.remote_ts][host];
            assert_eq!(ts[..], [vip]);
        }
    }
}

/// A request of INFORMATIONAL, and what is answered.
fn informational(payload: Payload) -> Vec<Payload> {
    let mut world = road_warrior(&["0.0.0.0"], &["10.3.0.7"]);
    world.call(CLIENT, |sa, cx| {
        sa.request(
            ExchangeType::INFORMATIONAL,
            Purpose::Liveness,
            &[payload],
            cx,
        )
        .unwrap();
    });
    world.run_for(ms(30));
    let answer = world
        .net
        .iter()
        .find(|packet| packet.to == CLIENT)
        .map(|packet| packet.bytes.clone())
        .unwrap();
    let now = world.now;
    let opened = world.hosts[CLIENT].sas[0].open(&answer, now).unwrap();
    opened.unwrap().payloads.unwrap()
}

/// RFC 7296 §3.15: CFG_SET is answered by CFG_ACK, here with nothing accepted.
#[test]
fn nothing_can_be_set_and_that_is_acknowledged() {
    let set = Payload::Configuration(Configuration {
        kind: 3,
        attributes: vec![ConfigurationAttribute {
            kind: 3,
            value: vec![192, 0, 2, 53],
        }],
    });
    let ack = Payload::Configuration(Configuration {
        kind: 4,
        attributes: Vec::new(),
    });
    assert_eq!(informational(set), [ack]);
}

#[test]
fn a_later_request_is_answered_with_what_was_assigned() {
    let ask = |kind, value: &[u8]| ConfigurationAttribute {
        kind,
        value: value.to_vec(),
    };
    let request = Payload::Configuration(Configuration {
        kind: 1,
        // An address, a DNS server, and something that nobody knows.
        attributes: vec![ask(1, &[]), ask(3, &[]), ask(0x7001, &[1, 2])],
    });
    let reply = Payload::Configuration(Configuration {
        kind: 2,
        attributes: vec![ask(1, &[10, 3, 0, 7]), ask(3, &[10, 2, 0, 53])],
    });
    assert_eq!(informational(request), [reply]);
}

#[test]
fn childless_both_ways() {
    let run = |client, server| {
        let mut setup = Setup::new();
        (setup.client.childless, setup.server.childless) = (client, server);
        let mut world = setup.world(1);
        world.connect();
        world.settle();
        world.assert_agree();
        world
    };
    use Childless::{Allow, Force, Never, Prefer};
    for (client, server) in [
        (Prefer, Allow),
        (Force, Prefer),
        (Force, Force),
        (Prefer, Force),
    ] {
        let mut world = run(client, server);
        assert_eq!(world.log(CLIENT), ["established"], "{client:?} {server:?}");
        assert!(world.hosts[CLIENT].established[0].childless);
        assert!(world.hosts[SERVER].established[0].childless);
        // The child then comes with an exchange of its own.
        world
            .call(CLIENT, |sa, cx| sa.create_child("net", cx))
            .unwrap();
        world.settle();
        assert!(world.heard(CLIENT, "child net"));
        world.assert_agree();
    }
    for (client, server) in [
        (Allow, Allow),
        (Prefer, Never),
        (Never, Never),
        (Never, Allow),
    ] {
        let world = run(client, server);
        assert_eq!(world.log(CLIENT), ["established", "child net"]);
        assert!(!world.hosts[CLIENT].established[0].childless);
    }
    let world = run(Force, Never);
    assert_eq!(
        world.log(CLIENT),
        [format!("failed: {}", Reason::Childless)]
    );
    // One that does not do it meets one that does nothing else.
    let world = run(Allow, Force);
    assert!(world.heard(CLIENT, "established"));
    assert!(world.heard(CLIENT, "child net failed"));
}

/// RFC 6023 §3: all three payloads are left out. One that leaves out some asks for nothing that there
/// is, least of all where childless IKE SAs are not wanted.
#[test]
fn half_a_child_is_a_syntax_error() {
    let left_out: [fn(&Payload) -> bool; 3] = [
        |p| matches!(p, Payload::Sa(_)),
        |p| matches!(p, Payload::TsI(_) | Payload::TsR(_)),
        |p| matches!(p, Payload::TsR(_)),
    ];
    for left_out in left_out {
        let mut setup = Setup::new();
        setup.server.childless = Childless::Never;
        let mut world = setup.world(1);
        world.connect();
        let auth = |p: &Packet| p.to == SERVER && p.bytes[18] == ExchangeType::IKE_AUTH.0;
        let at = loop {
            if let Some(at) = world.net.iter().position(auth) {
                break at;
            }
            assert!(world.step(Duration::MAX));
        };
        let packet = world.net.remove(at);
        let mut payloads = super::certificates::auth_payloads(&mut world, SERVER, &packet.bytes);
        payloads.retain(|payload| !left_out(payload));
        let sealed = world.call(CLIENT, |sa, cx| {
            sa.seal(ExchangeType::IKE_AUTH, false, 1, &payloads, cx.rng)
        });
        for message in sealed.unwrap().datagrams {
            world.deliver(SERVER, packet.source, packet.destination, &message);
        }
        world.settle();
        let kind = NotifyType::INVALID_SYNTAX;
        assert_eq!(world.log(CLIENT), [format!("failed: peer answered {kind}")]);
        assert!(world.hosts[SERVER].established.is_empty());
    }
}

#[test]
fn initial_contact_is_passed_on() {
    for says in [false, true] {
        let mut setup = Setup::new();
        setup.client.initial_contact = says;
        let world = setup.connected(1);
        assert_eq!(world.hosts[SERVER].established[0].initial_contact, says);
    }
}

#[test]
fn both_sides_know_the_same_lowest_nonce() {
    let world = Setup::new().connected(1);
    let [client, server] = [CLIENT, SERVER].map(|host| &world.hosts[host].established[0]);
    assert_eq!(client.lowest_nonce.len(), 32);
    assert_eq!(client.lowest_nonce, server.lowest_nonce);
}

proptest! {
    /// Whatever a peer says, it is taken for an address only if it is one.
    #[test]
    fn any_attributes_will_do(
        attributes in proptest::collection::vec(
            (0_u16..20, proptest::collection::vec(any::<u8>(), 0..20)),
            0..40,
        ),
    ) {
        let world = road_warrior(&["0.0.0.0"], &["10.3.0.7"]);
        let reply = Payload::Configuration(Configuration {
            kind: 2,
            attributes: attributes
                .into_iter()
                .map(|(kind, value)| ConfigurationAttribute { kind, value })
                .collect(),
        });
        let mut world = world;
        let sa = &mut world.hosts[CLIENT].sas[0];
        sa.take_configuration_reply(&[reply]);
        for address in &sa.cp.local.addresses {
            prop_assert!(address.is_ipv4());
            prop_assert!(!address.is_unspecified() && !address.is_multicast());
        }
        prop_assert!(sa.cp.local.addresses.len() <= 16);
        prop_assert!(sa.cp.local.dns.len() <= 16 && sa.cp.local.subnets.len() <= 16);
    }
}
