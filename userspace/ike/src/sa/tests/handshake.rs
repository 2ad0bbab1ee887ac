//! IKE_SA_INIT and IKE_AUTH on a network that does no harm.

use mitregate_wire::ike::{NotifyType, Payload};

use super::*;

#[test]
fn every_suite_connects() {
    let mut seed = 0;
    for cipher in ["aes256gcm16", "aes128gcm16", "chacha20poly1305"] {
        for prf in ["prfsha256", "prfsha384"] {
            for group in ["x25519", "ecp256"] {
                for esp in ["aes256gcm16", "aes128gcm16-noesn", "chacha20poly1305-esn"] {
                    seed += 1;
                    let ike = format!("{cipher}-{prf}-{group}");
                    let world = Setup::new()
                        .proposals(&ike, &ike)
                        .esp(esp, esp)
                        .connected(seed);
                    let established = &world.hosts[SERVER].established[0];
                    assert_eq!(established.suite.to_string(), ike);
                    let child = world.hosts[CLIENT].installed.values().next().unwrap();
                    assert_eq!(child.esn, !esp.ends_with("noesn"));
                    assert!(esp.starts_with(&child.suite.to_string()));
                }
            }
        }
    }
}

#[test]
fn a_seed_replays_to_the_byte() {
    let run = |seed| {
        let mut world = Setup::new()
            .nat()
            .esp("aes256gcm16-ecp256", "aes256gcm16-ecp256")
            .world(seed);
        world.faults = Faults {
            loss: 20,
            duplicates: 10,
            jitter_ms: 100,
        };
        world.connect();
        world.settle();
        let spi = world.spi(CLIENT);
        world
            .call(CLIENT, |sa, cx| sa.rekey_child(spi, cx))
            .unwrap();
        world.settle();
        world.trace
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn who_is_who_and_what_they_can_do() {
    let world = Setup::new().connected(1);
    let [client, server] = [CLIENT, SERVER].map(|host| &world.hosts[host].established[0]);
    assert_eq!(client.peer_id.to_string(), "gw@lab");
    assert_eq!(server.peer_id.to_string(), "client@lab");
    assert!(client.peer_caps.esp_echo && server.peer_caps.esp_echo);
    assert!(server.peer_caps.owns_rekeys && !client.peer_caps.owns_rekeys);
    assert!(!client.peer_caps.plain_esp_behind_nat);
    assert_eq!((client.encap, client.nat), (Encap::Esp, Nat::default()));
    // RFC 4555 §3.3.
    assert_eq!(client.remote.port(), 4500);
    assert!(
        world.hosts[CLIENT]
            .installed
            .values()
            .next()
            .unwrap()
            .initiator
    );
    assert!(
        !world.hosts[SERVER]
            .installed
            .values()
            .next()
            .unwrap()
            .initiator
    );
    // Four messages, and ours is in the clear nowhere after the first two.
    let messages = world.messages();
    assert_eq!(messages.len(), 4);
    for (_, message) in &messages[2..] {
        assert!(matches!(
            message.payloads.as_slice(),
            [Payload::Encrypted { .. }]
        ));
    }
}

#[test]
fn ipv6_outside_and_inside() {
    let mut setup = Setup::new();
    setup.ipv6 = true;
    setup.client.children = vec![child(
        "net",
        "fd00:1::/64,10.1.0.1",
        "fd00:2::/64",
        "aes256gcm16",
    )];
    setup.server.children = vec![child("net", "fd00:2::/64", "fd00:1::/64", "aes256gcm16")];
    let world = setup.connected(2);
    let child = world.hosts[CLIENT].installed.values().next().unwrap();
    assert_eq!(child.local_ts, ["fd00:1::/64".parse().unwrap()]);
}

#[test]
fn another_group_is_asked_for() {
    let world = Setup::new()
        .proposals(
            "aes256gcm16-prfsha256-ecp256-x25519",
            "aes256gcm16-prfsha256-x25519",
        )
        .connected(3);
    assert_eq!(
        world.hosts[SERVER].rejected,
        [RejectReason::InvalidKePayload]
    );
    assert_eq!(world.messages().len(), 6);
}

#[test]
fn the_group_that_was_sent_saves_a_round_trip() {
    let world = Setup::new()
        .proposals(
            "aes256gcm16-prfsha256-ecp256-x25519",
            "aes256gcm16-prfsha256-x25519-ecp256",
        )
        .connected(3);
    assert_eq!(world.messages().len(), 4);
    assert_eq!(
        world.hosts[CLIENT].established[0].suite.group,
        Group::Ecp256
    );
}

#[test]
fn the_responders_preference_counts() {
    let world = Setup::new()
        .proposals(
            "aes128gcm16-prfsha256-x25519,chacha20poly1305-prfsha384-x25519",
            "chacha20poly1305-prfsha384-x25519,aes128gcm16-prfsha256-x25519",
        )
        .connected(3);
    let suite = world.hosts[CLIENT].established[0].suite.to_string();
    assert_eq!(suite, "chacha20poly1305-prfsha384-x25519");
}

#[test]
fn cookies_are_demanded_and_honoured() {
    let mut setup = Setup::new().proposals(
        "aes256gcm16-prfsha256-ecp256-x25519",
        "aes256gcm16-prfsha256-x25519",
    );
    setup.cookies = true;
    let world = setup.connected(4);
    // Cookie, other group (with the cookie again), then the real one.
    assert_eq!(world.messages().len(), 8);
    let has_cookie = |message: &Message| matches!(&message.payloads[0], Payload::Notify(n) if n.kind == NotifyType::COOKIE);
    let cookies: Vec<bool> = world
        .messages()
        .iter()
        .map(|(_, m)| has_cookie(m))
        .collect();
    assert_eq!(cookies[..6], [false, true, true, false, true, false]);
}

#[test]
fn cookies_age() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut jar = CookieJar::new(Duration::ZERO, &mut rng);
    let mut world = Setup::new().world(1);
    world.connect();
    let first = world.net[0].bytes.clone();
    let here: SocketAddr = "192.0.2.1:500".parse().unwrap();
    let there: SocketAddr = "192.0.2.2:500".parse().unwrap();
    let CookieCheck::Demand(reply) = jar.check(here, &first, ms(0), &mut rng) else {
        panic!()
    };
    let cookie = Message::parse(&reply).unwrap().payloads;
    let mut repeated = Message::parse(&first).unwrap();
    repeated.payloads.splice(0..0, cookie);
    let repeated = repeated.emit().unwrap();
    assert_eq!(
        jar.check(here, &repeated, ms(1), &mut rng),
        CookieCheck::Valid
    );
    assert!(matches!(
        jar.check(there, &repeated, ms(1), &mut rng),
        CookieCheck::Demand(_)
    ));
    assert_eq!(
        jar.check(here, &repeated, ms(61_000), &mut rng),
        CookieCheck::Valid
    );
    assert!(matches!(
        jar.check(here, &repeated, ms(122_000), &mut rng),
        CookieCheck::Demand(_)
    ));
    assert_eq!(
        jar.check(here, &reply, ms(0), &mut rng),
        CookieCheck::NotFirst
    );
    assert_eq!(
        jar.check(here, &first[..30], ms(0), &mut rng),
        CookieCheck::NotFirst
    );
}

#[test]
fn behind_a_nat_it_goes_to_4500() {
    let world = Setup::new().nat().connected(5);
    let [client, server] = [CLIENT, SERVER].map(|host| &world.hosts[host].established[0]);
    assert_eq!(client.encap, Encap::Udp);
    assert_eq!(
        client.nat,
        Nat {
            local: true,
            remote: false
        }
    );
    assert_eq!(
        server.nat,
        Nat {
            local: false,
            remote: true
        }
    );
    assert_eq!((client.local.port(), client.remote.port()), (4500, 4500));
    assert_eq!(server.remote, "203.0.113.9:24500".parse().unwrap());
    assert_eq!(world.hosts[SERVER].sas[0].addresses().1, server.remote);
}

#[test]
fn udp_is_forced_by_either_side() {
    use EncapMode::{Auto, Udp};
    for (client, server) in [(Udp, Auto), (Auto, Udp), (Udp, Udp)] {
        let world = Setup::new().encap(client, server).connected(6);
        for host in &world.hosts {
            assert_eq!(host.established[0].encap, Encap::Udp);
            assert_eq!(host.established[0].remote.port(), 4500);
        }
    }
}

#[test]
fn plain_esp_behind_a_nat_stays_on_500_if_both_say_so() {
    use EncapMode::{Auto, Esp, Udp};
    for (client, server, expected) in [
        (Esp, Esp, Encap::Esp),
        (Esp, Auto, Encap::Esp),
        (Auto, Esp, Encap::Udp),
        (Esp, Udp, Encap::Udp),
        (Udp, Esp, Encap::Udp),
    ] {
        let world = Setup::new().encap(client, server).nat().connected(7);
        for host in &world.hosts {
            assert_eq!(host.established[0].encap, expected, "{client:?} {server:?}");
            let port = if expected == Encap::Esp { 500 } else { 4500 };
            assert_eq!(host.established[0].local.port(), port);
        }
        let caps = world.hosts[CLIENT].established[0].peer_caps;
        assert_eq!(caps.plain_esp_behind_nat, expected == Encap::Esp);
    }
}

/// UDP must be there to go to, so who changes the encapsulation by proof is on 4500 with no NAT and no MOBIKE.
#[test]
fn who_changes_the_encapsulation_by_proof_goes_to_4500() {
    use EncapMode::{Auto, Esp};
    for (client, server, by_proof) in [
        (Auto, Auto, true),
        (Auto, Esp, true),
        // Plain ESP that both have agreed on stays, and IKE with it.
        (Esp, Auto, false),
    ] {
        for pings in [true, false] {
            let mut setup = Setup::new().encap(client, server);
            setup.client.mobike.enabled = false;
            setup.client.announce.esp_echo = pings;
            let world = setup.connected(8);
            let agreed = by_proof && pings;
            for host in &world.hosts {
                let established = &host.established[0];
                assert_eq!(established.encap, Encap::Esp);
                assert_eq!(established.peer_caps.encap_by_proof, agreed);
                assert!(!established.peer_caps.probes_behind_nat);
                let port = if agreed { 4500 } else { 500 };
                assert_eq!(
                    established.local.port(),
                    port,
                    "{client:?} {server:?} {pings}"
                );
            }
        }
    }
}

#[test]
fn a_wrong_key_is_told_and_leaves_nothing() {
    let mut setup = Setup::new();
    setup.server.local_auth = LocalAuth::Psk(psk("another"));
    setup.server.remote_auth = RemoteAuth::Psk(psk("another"));
    let mut world = setup.world(8);
    world.connect();
    world.settle();
    assert_eq!(
        world.log(CLIENT),
        ["failed: peer answered AUTHENTICATION_FAILED"]
    );
    let reason = Reason::AuthenticationFailed;
    assert_eq!(world.log(SERVER), [format!("failed: {reason}")]);
    world.assert_nothing_left();
}

#[test]
fn an_unknown_identity_gets_the_same_answer() {
    let mut setup = Setup::new();
    setup.client.local_id = "stranger@lab".parse().unwrap();
    let mut world = setup.world(8);
    world.connect();
    world.settle();
    assert_eq!(
        world.log(CLIENT),
        ["failed: peer answered AUTHENTICATION_FAILED"]
    );
    assert_eq!(
        world.log(SERVER),
        ["failed: peer's identity is not configured"]
    );
    world.assert_nothing_left();
}

#[test]
fn an_initiator_does_not_take_another_responder() {
    let mut setup = Setup::new();
    setup.client.remote_id = Some("other@lab".parse().unwrap());
    setup.server.local_id = "gw@lab".parse().unwrap();
    let mut world = setup.world(9);
    // A responder that ignores which of its names was asked for.
    let config = world.hosts[SERVER].config.clone();
    struct Careless(Arc<IkeConfig>);
    impl Directory for Careless {
        fn by_address(&self, _: SocketAddr, _: SocketAddr) -> Vec<Arc<IkeConfig>> {
            vec![self.0.clone()]
        }
        fn by_identity(
            &self,
            _: SocketAddr,
            _: SocketAddr,
            _: &Identity,
            _: Option<&Identity>,
        ) -> Option<Arc<IkeConfig>> {
            Some(self.0.clone())
        }
    }
    world.connect();
    let first = world.net.remove(0);
    let sa = world.with_cx(SERVER, |cx| {
        IkeSa::respond(
            Arc::new(Careless(config)),
            first.destination,
            first.source,
            &first.bytes,
            cx,
        )
    });
    world.hosts[SERVER].sas.push(sa.ok().unwrap());
    world.drain(SERVER);
    world.settle();
    assert_eq!(
        world.log(CLIENT),
        ["failed: peer's identity is not configured"]
    );
    // The responder is told.
    assert_eq!(
        world.log(SERVER)[2..],
        [
            "child deleted by peer",
            "closed: peer answered AUTHENTICATION_FAILED"
        ]
    );
    world.assert_nothing_left();
}

#[test]
fn any_identity_will_do_if_configured() {
    let mut setup = Setup::new();
    setup.server.remote_id = None;
    setup.client.remote_id = None;
    setup.client.local_id = "192.0.2.1".parse().unwrap();
    let world = setup.connected(10);
    assert_eq!(
        world.hosts[SERVER].established[0].peer_id.to_string(),
        "192.0.2.1"
    );
}

#[test]
fn no_common_ike_proposal() {
    let mut world = Setup::new()
        .proposals(
            "aes256gcm16-prfsha256-x25519",
            "aes256gcm16-prfsha384-x25519",
        )
        .world(11);
    world.connect();
    world.run_for(Duration::from_secs(5));
    assert_eq!(
        world.log(CLIENT),
        ["failed: peer answered NO_PROPOSAL_CHOSEN"]
    );
    assert!(
        world.hosts[SERVER]
            .rejected
            .iter()
            .all(|r| *r == RejectReason::NoProposalChosen)
    );
    world.assert_nothing_left();
}

#[test]
fn a_refusal_in_clear_does_not_win_over_an_answer() {
    let mut world = Setup::new().world(12);
    world.connect();
    let first = world.net[0].bytes.clone();
    let reply = crate::stateless::reply(
        &peek(&first).unwrap(),
        mitregate_wire::ike::Notify::new(NotifyType::NO_PROPOSAL_CHOSEN),
    );
    let (to, from) = (world.net[0].source, world.net[0].destination);
    for _ in 0..10 {
        world.deliver(CLIENT, from, to, reply.as_ref().unwrap());
    }
    world.settle();
    world.assert_connected();
}

#[test]
fn the_ike_sa_survives_a_child_that_failed() {
    let mut no_esp = Setup::new().esp("aes256gcm16", "aes128gcm16").world(13);
    let mut setup = Setup::new();
    setup.server.children = vec![child("net", "10.99.0.0/24", "10.1.0.1/32", "aes256gcm16")];
    let mut no_ts = setup.world(14);
    for (world, refusal) in [
        (&mut no_esp, "NO_PROPOSAL_CHOSEN"),
        (&mut no_ts, "TS_UNACCEPTABLE"),
    ] {
        world.connect();
        world.settle();
        let failed = format!("child net failed: peer answered {refusal}");
        assert_eq!(world.log(CLIENT), ["established", failed.as_str()]);
        assert_eq!(world.hosts[SERVER].sas[0].state(), State::Established);
        world.assert_agree();
        world.call(CLIENT, IkeSa::check_liveness);
        world.settle();
        assert!(world.heard(CLIENT, "alive"));
    }
}

#[test]
fn selectors_are_narrowed() {
    let mut setup = Setup::new();
    setup.client.children = vec![child(
        "net",
        "10.1.0.0-10.1.0.9[tcp],192.168.0.0/16",
        "0.0.0.0/0",
        "aes256gcm16",
    )];
    setup.server.children = vec![child(
        "net",
        "10.2.0.0/24,10.3.0.0/24[tcp/80]",
        "10.1.0.4/30",
        "aes256gcm16",
    )];
    let world = setup.connected(15);
    let child = world.hosts[CLIENT].installed.values().next().unwrap();
    let text = |list: &[TrafficSelector]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&child.local_ts), ["10.1.0.4/30[tcp]"]);
    assert_eq!(
        text(&child.remote_ts),
        ["10.2.0.0/24", "10.3.0.0/24[tcp/80]"]
    );
}

#[test]
fn the_right_child_of_several_is_chosen() {
    let mut setup = Setup::new();
    setup.server.children = vec![
        child("wide", "10.0.0.0/8", "10.0.0.0/8", "aes256gcm16"),
        child("net", "10.2.0.0/24", "10.1.0.1/32", "aes256gcm16"),
    ];
    let world = setup.connected(16);
    assert_eq!(
        world.hosts[SERVER].installed.values().next().unwrap().name,
        "net"
    );
}

#[test]
fn nobody_at_home() {
    let mut world = Setup::new().world(17);
    world.faults.loss = 100;
    world.connect();
    world.settle();
    assert_eq!(world.log(CLIENT), ["failed: peer does not answer"]);
    // RFC 7296 §2.4: a dozen repetitions over several minutes.
    assert_eq!(world.sent, 13);
    world.assert_nothing_left();
}

#[test]
fn a_half_open_sa_goes_away() {
    let mut world = Setup::new().world(18);
    world.connect();
    let first = world.net.remove(0);
    world.hosts[CLIENT].sas.clear();
    world.deliver(SERVER, first.source, first.destination, &first.bytes);
    world.run_for(Duration::from_secs(29));
    assert_eq!(world.hosts[SERVER].sas.len(), 1);
    world.settle();
    assert_eq!(
        world.log(SERVER),
        ["failed: peer did not go on to authenticate"]
    );
    world.assert_nothing_left();
}

#[test]
fn a_configuration_that_leads_nowhere_fails_at_once() {
    let mut setup = Setup::new();
    setup.client.children.clear();
    let mut world = setup.world(19);
    world.connect();
    assert_eq!(world.log(CLIENT), ["failed: no such CHILD_SA"]);
    let mut world = Setup::new().world(20);
    world.hosts[CLIENT].spis.exhausted = true;
    world.connect();
    world.settle();
    assert_eq!(world.log(CLIENT), ["failed: out of resources: SPIs"]);
    world.assert_nothing_left();
    let mut world = Setup::new().world(20);
    world.hosts[SERVER].spis.exhausted = true;
    world.connect();
    world.settle();
    assert_eq!(
        world.log(CLIENT)[1],
        "child net failed: peer answered NO_ADDITIONAL_SAS"
    );
    world.assert_agree();
}

#[test]
fn keys_for_wireshark_are_the_same_on_both_sides() {
    let world = Setup::new().connected(21);
    let lines = [0, 1].map(|host| world.hosts[host].sas[0].export_keys().unwrap());
    assert_eq!(*lines[0], *lines[1]);
    let fields: Vec<&str> = lines[0].split(',').collect();
    assert_eq!(
        (fields.len(), fields[0].len(), fields[2].len()),
        (8, 16, 72)
    );
}
