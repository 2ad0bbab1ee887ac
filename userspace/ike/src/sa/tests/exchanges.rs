//! Key exchanges and ciphers of IKE: each of them, several in one handshake by IKE_INTERMEDIATE
//! (RFC 9242, RFC 9370 §2.2.2), and what a peer or somebody on the way does to get round them.

use mitregate_wire::ike::{
    ExchangeType, KeyExchange, KeyExchangeId, NotifyType, Payload, PayloadType, TransformType,
};

use super::faults::life_until_close;
use super::*;
use crate::sa::Phase;
use crate::sa::window::Purpose;

const INTERMEDIATE: ExchangeType = ExchangeType::IKE_INTERMEDIATE;
const HYBRID: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";

fn exchanges(world: &World) -> Vec<(usize, ExchangeType, u32)> {
    let messages = world.messages();
    let all = messages
        .iter()
        .map(|(to, m)| (*to, m.exchange, m.message_id));
    let mut all = all.collect::<Vec<_>>();
    // Fragments of one message.
    all.dedup();
    all
}

fn suite(world: &World, host: usize) -> String {
    world.hosts[host].established[0].suite.to_string()
}

#[test]
fn each_group_and_each_cipher() {
    let groups = Group::ALL.map(|group| format!("aes128gcm16-prfsha256-{group}"));
    let ciphers = [
        "aes256gcm16-prfsha512-x25519",
        "chacha20poly1305-prfsha384-x25519",
        "aes128-sha256-prfsha256-x25519",
        "aes192-sha384-prfsha384-x25519",
        "aes256-sha512-prfsha512-x25519",
        "aes256-sha256-prfsha512-x25519",
        "aes128-sha512-prfsha256-x25519",
    ];
    for proposal in groups.iter().map(String::as_str).chain(ciphers) {
        let mut world = Setup::new().proposals(proposal, proposal).connected(200);
        for host in [CLIENT, SERVER] {
            assert_eq!(suite(&world, host), proposal);
            // The other exchanges, from either side.
            let spi = world.spi(host);
            world.call(host, |sa, cx| sa.rekey_child(spi, cx)).unwrap();
            world.call(host, IkeSa::check_liveness);
            world.settle();
            assert!(world.heard(host, "alive"), "{proposal}");
            assert!(world.heard(host, "child net replaced"), "{proposal}");
            world.assert_agree();
            world.call(host, |sa, cx| sa.delete_child(spi, cx)).unwrap();
            world.settle();
        }
        world.call(SERVER, IkeSa::close);
        world.settle();
        world.assert_nothing_left();
    }
}

#[test]
fn each_group_at_a_childs_rekey() {
    for group in Group::ALL {
        let esp = format!("aes256gcm16-{group}");
        let mut world = Setup::new().esp(&esp, &esp).connected(201);
        let spi = world.spi(SERVER);
        world
            .call(SERVER, |sa, cx| sa.rekey_child(spi, cx))
            .unwrap();
        world.settle();
        assert!(world.heard(CLIENT, "child net replaced"), "{group}");
        world.assert_agree();
    }
}

/// The initiator's first group is not the responder's: INVALID_KE_PAYLOAD (RFC 7296 §1.2).
#[test]
fn another_group_is_asked_for() {
    for (client, server) in [
        ("modp3072-x25519", "x25519"),
        ("mlkem768-ecp384", "ecp384"),
        ("x25519-mlkem768", "mlkem768"),
        ("x25519-modp2048", "modp2048-ecp256"),
    ] {
        let all = |groups: &str| format!("aes256gcm16-prfsha256-{groups}");
        let world = Setup::new()
            .proposals(&all(client), &all(server))
            .connected(202);
        let group = server.split('-').next().unwrap();
        assert!(suite(&world, CLIENT).ends_with(group), "{client} {server}");
        assert_eq!(exchanges(&world).len(), 6);
    }
}

#[test]
fn additional_key_exchanges_come_in_order() {
    for (proposal, count) in [
        (HYBRID, 1),
        ("aes256-sha256-prfsha256-ecp384-ke1_mlkem768-ke2_x25519", 2),
        (
            "chacha20poly1305-prfsha512-x25519-ke3_ecp256-ke7_modp2048",
            2,
        ),
        (
            "aes128gcm16-prfsha256-x25519-ke1_ecp256-ke2_ecp384-ke3_mlkem768-ke4_modp2048-ke5_modp3072",
            5,
        ),
    ] {
        let mut setup = Setup::new().proposals(proposal, proposal).nat();
        setup.cookies = true;
        let mut world = setup.connected(203);
        assert_eq!(
            [suite(&world, CLIENT), suite(&world, SERVER)],
            [proposal; 2]
        );
        let mut expected = vec![(SERVER, ExchangeType::IKE_SA_INIT, 0); 2];
        expected.extend((1..=count).map(|id| (SERVER, INTERMEDIATE, id)));
        expected.push((SERVER, ExchangeType::IKE_AUTH, count + 1));
        let expected = expected
            .iter()
            .flat_map(|(to, exchange, id)| [(*to, *exchange, *id), (1 - to, *exchange, *id)]);
        assert_eq!(exchanges(&world), expected.collect::<Vec<_>>());
        // All that come later, from either side.
        for host in [CLIENT, SERVER] {
            world.call(host, IkeSa::check_liveness);
        }
        world.settle();
        assert!(world.heard(CLIENT, "alive") && world.heard(SERVER, "alive"));
        assert_eq!(
            *world.hosts[CLIENT].sas[0].export_keys().unwrap(),
            *world.hosts[SERVER].sas[0].export_keys().unwrap()
        );
    }
}

/// RFC 9242 §3.3: what is covered is the same, in how many fragments it may come.
#[test]
fn additional_key_exchanges_in_fragments() {
    let mut setup = Setup::new().proposals(HYBRID, HYBRID);
    for config in [&mut setup.client, &mut setup.server] {
        config.fragmentation = Fragmentation {
            mode: FragmentationMode::Yes,
            size: Fragmentation::MIN_SIZE,
        };
    }
    let world = setup.connected(204);
    let messages = world.messages();
    let fragments = messages.iter().filter(|(_, message)| {
        let fragment = matches!(
            message.payloads.last(),
            Some(Payload::EncryptedFragment { .. })
        );
        message.exchange == INTERMEDIATE && fragment
    });
    assert!(fragments.count() >= 6);
}

/// Without it, swanctl's `ke1_none`.
#[test]
fn a_peer_that_knows_no_additional_key_exchange() {
    let lenient = format!("{HYBRID}-ke1_none");
    let plain = "aes256gcm16-prfsha384-x25519";
    for (client, server) in [(lenient.as_str(), plain), (plain, lenient.as_str())] {
        let world = Setup::new().proposals(client, server).connected(205);
        assert_eq!([suite(&world, CLIENT), suite(&world, SERVER)], [plain; 2]);
        assert_eq!(exchanges(&world).len(), 4);
    }
    for (client, server) in [(HYBRID, plain), (plain, HYBRID)] {
        let mut world = Setup::new().proposals(client, server).world(206);
        world.connect();
        world.settle();
        assert_eq!(
            world.log(CLIENT),
            ["failed: peer answered NO_PROPOSAL_CHOSEN"]
        );
        world.assert_nothing_left();
    }
    // A proposal for old peers behind the preferred one.
    let both = format!("{HYBRID},{plain}");
    let world = Setup::new().proposals(&both, plain).connected(207);
    assert_eq!(suite(&world, CLIENT), plain);
    let world = Setup::new().proposals(&both, &both).connected(208);
    assert_eq!(suite(&world, CLIENT), HYBRID);
}

#[test]
fn lossy_networks() {
    for seed in 0..12 {
        let mut setup = Setup::new().proposals(HYBRID, HYBRID);
        if seed % 2 == 0 {
            let cbc = "aes256-sha384-prfsha384-x25519-ke1_mlkem768-ke2_ecp256";
            setup = setup.proposals(cbc, cbc);
        }
        setup.nat = seed % 3 == 0;
        let mut world = setup.world(seed);
        world.faults = Faults {
            loss: 10,
            duplicates: 10,
            jitter_ms: 300,
        };
        life_until_close(&mut world);
    }
}

/// Until what is due next is the first message of `exchange`.
fn run_until(world: &mut World, exchange: ExchangeType) {
    while !world
        .net
        .iter()
        .any(|packet| peek(&packet.bytes).is_ok_and(|header| header.exchange == exchange))
    {
        assert!(world.step(Duration::MAX));
    }
}

/// Somebody on the way leaves ADDKE out of the offer; both would do without, but AUTH covers it.
#[test]
fn a_downgrade_on_the_way_is_found_out() {
    let lenient = format!("{HYBRID}-ke1_none");
    let mut world = Setup::new().proposals(&lenient, &lenient).world(209);
    world.connect();
    let packet = &mut world.net[0];
    let mut message = Message::parse(&packet.bytes).unwrap();
    for payload in &mut message.payloads {
        if let Payload::Sa(proposals) = payload {
            proposals[0]
                .transforms
                .retain(|t| t.kind != TransformType::ADDITIONAL_KE1);
        }
    }
    packet.bytes = message.emit().unwrap();
    world.settle();
    assert_eq!(
        world.log(CLIENT),
        ["failed: peer answered AUTHENTICATION_FAILED"]
    );
    assert!(world.heard(SERVER, "failed: peer failed to authenticate"));
    world.assert_nothing_left();
}

/// The response says that there will be no IKE_INTERMEDIATE, or not what it was made for.
#[test]
fn a_response_that_cannot_be_meant() {
    let bends: [fn(&mut Vec<Payload>); 2] = [
        |payloads| {
            let supported = NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED;
            payloads.retain(|p| !matches!(p, Payload::Notify(n) if n.kind == supported));
        },
        |payloads| {
            for payload in payloads {
                if let Payload::Sa(proposals) = payload {
                    proposals[0].transforms.retain(|t| t.kind.0 != 6);
                }
            }
        },
    ];
    for bend in bends {
        let mut world = Setup::new().proposals(HYBRID, HYBRID).world(210);
        world.connect();
        world.step(Duration::MAX);
        let packet = &mut world.net[0];
        let mut message = Message::parse(&packet.bytes).unwrap();
        bend(&mut message.payloads);
        packet.bytes = message.emit().unwrap();
        world.step(Duration::MAX);
        assert_eq!(world.hosts[CLIENT].discarded, [Discard::BadResponse]);
        // It is as if it had not come: the next one, which the responder repeats, counts.
        world.settle();
        assert_eq!(world.log(CLIENT), ["established", "child net"]);
    }
    // The same from an initiator: a responder does not choose what cannot follow.
    let mut world = Setup::new().proposals(HYBRID, HYBRID).world(211);
    world.connect();
    let packet = &mut world.net[0];
    let mut message = Message::parse(&packet.bytes).unwrap();
    bends[0](&mut message.payloads);
    packet.bytes = message.emit().unwrap();
    world.step(Duration::MAX);
    assert_eq!(
        world.hosts[SERVER].rejected,
        [RejectReason::NoProposalChosen]
    );
    assert!(world.hosts[SERVER].sas.is_empty());
}

/// IKE_AUTH before all that was agreed on is not even looked at.
#[test]
fn an_initiator_that_skips_a_key_exchange() {
    let mut world = Setup::new().proposals(HYBRID, HYBRID).world(212);
    world.connect();
    run_until(&mut world, INTERMEDIATE);
    world.net.clear();
    world.call(CLIENT, |sa, cx| {
        sa.outstanding = None;
        sa.next_request = 1;
        let Phase::Auth(auth) = core::mem::replace(&mut sa.phase, Phase::Dead) else {
            panic!()
        };
        sa.start_auth(*auth, cx).unwrap();
    });
    world.settle();
    assert!(world.hosts[SERVER].discarded.contains(&Discard::Unexpected));
    assert_eq!(
        world.log(SERVER),
        ["failed: peer did not go on to authenticate"]
    );
    assert_eq!(world.log(CLIENT), ["failed: peer does not answer"]);
    world.assert_nothing_left();
}

/// A request of IKE_INTERMEDIATE of the client's own making, and what both say in the end.
fn intermediate(payloads: &[Payload], seed: u64) -> [Vec<String>; 2] {
    let mut world = Setup::new().proposals(HYBRID, HYBRID).world(seed);
    world.connect();
    run_until(&mut world, INTERMEDIATE);
    world.net.clear();
    world.call(CLIENT, |sa, cx| {
        sa.next_request = 1;
        let Purpose::Intermediate(pair) = sa.outstanding.take().unwrap().purpose else {
            panic!()
        };
        sa.request(INTERMEDIATE, Purpose::Intermediate(pair), payloads, cx)
            .unwrap();
    });
    world.settle();
    world.assert_nothing_left();
    world.hosts.map(|host| host.log)
}

#[test]
fn requests_that_hold_no_key_exchange() {
    let ke = |method, len| {
        Payload::KeyExchange(KeyExchange {
            method,
            data: vec![0xff; len],
        })
    };
    let ours = KeyExchangeId::ML_KEM_768;
    let unknown = Payload::Unknown {
        kind: PayloadType(99),
        critical: true,
        body: Vec::new(),
    };
    for (payloads, answer, reason) in [
        (
            vec![],
            "INVALID_SYNTAX",
            "no key exchange of the agreed method",
        ),
        (
            vec![ke(KeyExchangeId::CURVE25519, 32)],
            "INVALID_SYNTAX",
            "no key exchange of the agreed method",
        ),
        (
            vec![ke(KeyExchangeId::ML_KEM_512, 800)],
            "INVALID_SYNTAX",
            "no key exchange of the agreed method",
        ),
        (vec![ke(ours, 0)], "INVALID_SYNTAX", "invalid public key"),
        (vec![ke(ours, 1183)], "INVALID_SYNTAX", "invalid public key"),
        // FIPS 203 §7.2: coefficients beyond the modulus.
        (vec![ke(ours, 1184)], "INVALID_SYNTAX", "invalid public key"),
        (vec![ke(ours, 1185)], "INVALID_SYNTAX", "invalid public key"),
        (
            vec![unknown],
            "UNSUPPORTED_CRITICAL_PAYLOAD",
            "unsupported critical payload",
        ),
    ] {
        let [client, server] = intermediate(&payloads, 213);
        assert_eq!(client, [format!("failed: peer answered {answer}")]);
        assert!(
            server.len() == 1 && server[0].contains(reason),
            "{server:?} {reason}"
        );
    }
}

/// The response holds another method or a ciphertext of another length.
#[test]
fn responses_that_hold_no_key_exchange() {
    for (method, len, reason) in [
        (
            KeyExchangeId::CURVE25519,
            32,
            "failed: peer violates the protocol: no key exchange of the agreed method",
        ),
        (
            KeyExchangeId::ML_KEM_768,
            1087,
            "failed: invalid public key of peer",
        ),
    ] {
        let mut world = Setup::new().proposals(HYBRID, HYBRID).world(214);
        world.connect();
        run_until(&mut world, INTERMEDIATE);
        world.net.clear();
        let remote = world.hosts[CLIENT].sas[0].addresses();
        let datagrams = world.call(SERVER, |sa, cx| {
            let ke = Payload::KeyExchange(KeyExchange {
                method,
                data: vec![1; len],
            });
            sa.seal(INTERMEDIATE, true, 1, &[ke], cx.rng)
                .unwrap()
                .datagrams
        });
        for bytes in datagrams {
            world.deliver(CLIENT, remote.1, remote.0, &bytes);
        }
        assert_eq!(world.log(CLIENT), [reason]);
    }
}

/// Whoever can change an IKE_INTERMEDIATE message, because the first key exchange was broken, is
/// found out by AUTH, in either direction.
#[test]
fn auth_covers_the_intermediate_messages() {
    for host in [CLIENT, SERVER] {
        let mut world = Setup::new().proposals(HYBRID, HYBRID).world(215);
        world.connect();
        run_until(&mut world, ExchangeType::IKE_AUTH);
        world.net.clear();
        // One side saw another message than the other sent.
        world.call(host, |sa, _| {
            let keys = sa.keys.as_mut().unwrap();
            keys.schedule
                .cover(crate::keys::Side::Initiator, b"something", b"else");
        });
        world.settle();
        assert!(
            !world.heard(CLIENT, "established"),
            "{:?}",
            world.log(CLIENT)
        );
        assert!(!world.heard(SERVER, "established") || host == CLIENT);
        assert!(world.heard(CLIENT, "failed"));
    }
}

/// No more public-key operations than agreed on, however many messages come.
#[test]
fn a_half_open_peer_gets_no_more_than_agreed() {
    let mut world = Setup::new().proposals(HYBRID, HYBRID).world(216);
    world.connect();
    run_until(&mut world, ExchangeType::IKE_AUTH);
    world.net.clear();
    for _ in 0..10 {
        world.call(CLIENT, |sa, cx| {
            sa.next_request = 2;
            let pair = crate::crypto::KeyPair::generate(Group::MlKem768, cx.rng).unwrap();
            let payload = pair.payload();
            let purpose = Purpose::Intermediate(Box::new(pair));
            sa.request(INTERMEDIATE, purpose, &[payload], cx).unwrap();
        });
        // In fragments, none of which is wanted.
        while !world.net.is_empty() {
            assert!(world.step(Duration::MAX));
            assert_eq!(
                world.hosts[SERVER].discarded.pop(),
                Some(Discard::Unexpected)
            );
        }
    }
    // And it goes in the end, as a half-open IKE SA does.
    world.settle();
    assert_eq!(
        world.log(SERVER),
        ["failed: peer did not go on to authenticate"]
    );
}
