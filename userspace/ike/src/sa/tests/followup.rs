//! Additional key exchanges after CREATE_CHILD_SA (RFC 9370 §2.2.4). `─►` is who starts.
//!
//! ```text
//! CREATE_CHILD_SA SA, Ni, KEi ─►
//!                             ◄─ SA, Nr, KEr, N(ADDITIONAL_KEY_EXCHANGE)
//! IKE_FOLLOWUP_KE KEi(1), N(ADDITIONAL_KEY_EXCHANGE) ─►
//!                                                    ◄─ KEr(1)
//! ```

use mitregate_wire::ike::{ExchangeType, KeyExchange, KeyExchangeId, Notify, NotifyType, Payload};

use super::rekey_ike::{assert_one_ike_sa, assert_works, rekey};
use super::*;
use crate::crypto::KeyPair;
use crate::sa::window::Purpose;

const FOLLOWUP: ExchangeType = ExchangeType::IKE_FOLLOWUP_KE;
const HYBRID: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
const TRIPLE: &str = "chacha20poly1305-prfsha256-x25519-ke1_mlkem768-ke3_ecp384";
const CHILD: &str = "aes256gcm16-x25519-ke1_mlkem768";

/// Quick ones, for many runs.
const QUICK: &str = "aes256gcm16-prfsha384-x25519-ke1_ecp256";
const QUICK_CHILD: &str = "aes256gcm16-x25519-ke1_ecp256";

fn quick() -> Setup {
    Setup::new()
        .proposals(QUICK, QUICK)
        .esp(QUICK_CHILD, QUICK_CHILD)
}

fn children() -> Setup {
    Setup::new().esp(CHILD, CHILD)
}

fn ike() -> Setup {
    Setup::new().proposals(HYBRID, HYBRID)
}

/// Requests of an exchange that `host` has sent, repetitions and fragments of one counted once.
fn requests(world: &World, host: usize, exchange: ExchangeType) -> usize {
    let messages = world.messages();
    let ids = messages.iter().filter_map(|(to, message)| {
        let counts = *to != host && message.exchange == exchange && !message.flags.response;
        counts.then_some(message.message_id)
    });
    ids.collect::<BTreeSet<_>>().len()
}

/// Until the next message of IKE_FOLLOWUP_KE is on its way, which nobody gets.
fn until_follow_up(world: &mut World) {
    while !world
        .net
        .iter()
        .any(|packet| peek(&packet.bytes).is_ok_and(|header| header.exchange == FOLLOWUP))
    {
        assert!(world.step(Duration::MAX));
    }
    world.net.clear();
}

#[test]
fn a_child_is_rekeyed_and_another_one_made() {
    for (esp, count) in [
        (CHILD, 1),
        ("aes128gcm16-ecp384-ke2_mlkem768-ke7_x25519", 2),
        (
            "chacha20poly1305-x25519-ke1_ecp256-ke2_ecp384-ke3_modp2048-noesn",
            3,
        ),
    ] {
        for host in [CLIENT, SERVER] {
            let mut world = Setup::new().esp(esp, esp).connected(230);
            let spi = world.spi(host);
            world.call(host, |sa, cx| sa.rekey_child(spi, cx)).unwrap();
            world.settle();
            assert!(world.heard(host, "child net replaced"), "{esp}");
            assert_eq!(requests(&world, host, FOLLOWUP), count);
            world.assert_agree();
            world.call(host, |sa, cx| sa.delete_child(spi, cx)).unwrap();
            world
                .call(host, |sa, cx| sa.create_child("net", cx))
                .unwrap();
            world.settle();
            assert_eq!(requests(&world, host, FOLLOWUP), 2 * count);
            assert_eq!(world.hosts[host].installed.len(), 2);
            world.assert_agree();
            world.call(host, IkeSa::close);
            world.settle();
            world.assert_nothing_left();
        }
    }
}

/// The keys come from all secrets: with another one in the second exchange they differ.
#[test]
fn who_lacks_the_second_secret_has_other_keys() {
    let mut world = children().connected(231);
    let spi = world.spi(CLIENT);
    world
        .call(CLIENT, |sa, cx| sa.rekey_child(spi, cx))
        .unwrap();
    until_follow_up(&mut world);
    // A ciphertext that decapsulates to something else.
    let [client, server] = [CLIENT, SERVER].map(|host| world.hosts[host].sas[0].addresses());
    let datagrams = world.call(SERVER, |sa, cx| {
        let ke = Payload::KeyExchange(KeyExchange {
            method: KeyExchangeId::ML_KEM_768,
            data: vec![1; 1088],
        });
        let id = sa.expected;
        sa.seal(FOLLOWUP, true, id, &[ke], cx.rng)
            .unwrap()
            .datagrams
    });
    for bytes in datagrams {
        world.deliver(CLIENT, server.0, client.0, &bytes);
    }
    assert!(world.heard(CLIENT, "child net replaced"));
    // And the responder made nothing of it.
    assert_eq!(world.hosts[SERVER].installed.len(), 1);
}

#[test]
fn the_ike_sa_is_rekeyed() {
    for (proposal, count) in [(HYBRID, 1), (TRIPLE, 2)] {
        let mut world = Setup::new().proposals(proposal, proposal).connected(232);
        for round in 1..4 {
            for host in [CLIENT, SERVER] {
                world.trace.clear();
                rekey(&mut world, host);
                world.settle();
                assert_one_ike_sa(&world);
                let suite = world.hosts[host].sas[0].suite().unwrap();
                assert_eq!(suite.to_string(), proposal);
                assert_eq!(requests(&world, host, FOLLOWUP), count, "{round}");
                assert_works(&mut world);
            }
        }
        world.call_live(CLIENT, IkeSa::close);
        world.settle();
        world.assert_nothing_left();
    }
}

#[test]
fn each_message_lost_doubled_or_late() {
    let fates: [&[u64]; 6] = [&[], &[0, 0], &[0, 700], &[700], &[3000], &[0, 1, 9000]];
    for host in [CLIENT, SERVER] {
        for n in 0..8 {
            for (seed, fate) in fates.iter().enumerate() {
                for of_ike in [false, true] {
                    let mut world = quick().connected(seed as u64);
                    let fate = fate.iter().map(|delay| ms(*delay)).collect();
                    world.special.insert(world.sent + n, fate);
                    if of_ike {
                        rekey(&mut world, host);
                        world.settle();
                        assert_one_ike_sa(&world);
                    } else {
                        let spi = world.spi(host);
                        world.call(host, |sa, cx| sa.rekey_child(spi, cx)).unwrap();
                        world.settle();
                        assert!(world.heard(host, "child net replaced"));
                    }
                    assert_works(&mut world);
                }
            }
        }
    }
}

/// RFC 9370 §2.2.4: of two rekeys at once, the one with the lowest nonce stops before its second
/// exchange.
#[test]
fn both_rekey_the_ike_sa_at_once() {
    let mut stopped = [0, 0];
    for seed in 0..12 {
        let mut world = quick().connected(seed);
        for host in [CLIENT, SERVER] {
            rekey(&mut world, host);
        }
        world.settle();
        assert_one_ike_sa(&world);
        let follow_ups = [CLIENT, SERVER].map(|host| requests(&world, host, FOLLOWUP));
        assert!(matches!(follow_ups, [0, 1] | [1, 0]), "{follow_ups:?}");
        stopped[follow_ups[CLIENT]] += 1;
        for host in [CLIENT, SERVER] {
            assert!(!world.heard(host, "rekey failed"), "{:?}", world.log(host));
        }
        assert_works(&mut world);
    }
    assert!(stopped[0] > 0 && stopped[1] > 0);
}

#[test]
fn both_rekey_the_child_at_once() {
    let mut stopped = [0, 0];
    for seed in 0..12 {
        let mut world = quick().connected(seed);
        for host in [CLIENT, SERVER] {
            let spi = world.spi(host);
            world.call(host, |sa, cx| sa.rekey_child(spi, cx)).unwrap();
        }
        world.settle();
        world.assert_agree();
        let follow_ups = [CLIENT, SERVER].map(|host| requests(&world, host, FOLLOWUP));
        assert!(matches!(follow_ups, [0, 1] | [1, 0]), "{follow_ups:?}");
        stopped[follow_ups[CLIENT]] += 1;
        for host in [CLIENT, SERVER] {
            assert_eq!(world.log(host)[2..], ["child net replaced"]);
        }
        assert_works(&mut world);
    }
    assert!(stopped[0] > 0 && stopped[1] > 0);
}

/// The peer's request comes when ours was answered and only lacks its second exchange:
/// TEMPORARY_FAILURE, as RFC 9370 §2.2.4 has it.
#[test]
fn a_rekey_that_is_late() {
    let mut world = quick().connected(241);
    let [client, server] = [CLIENT, SERVER].map(|host| world.spi(host));
    // The first message of all to come is the server's request: it takes its time.
    world.special.insert(world.sent, vec![ms(45)]);
    world
        .call(SERVER, |sa, cx| sa.rekey_child(server, cx))
        .unwrap();
    world
        .call(CLIENT, |sa, cx| sa.rekey_child(client, cx))
        .unwrap();
    // Both requests, the response to the client's, and the client's second exchange, then the
    // server's request.
    world.run_for(ms(70));
    let answer = world.net.iter().find(|packet| packet.to == SERVER).unwrap();
    let (answer, now) = (answer.bytes.clone(), world.now);
    let opened = world.hosts[SERVER].sas[0].open(&answer, now).unwrap();
    assert_eq!(
        opened.unwrap().payloads.unwrap(),
        [Payload::Notify(Notify::new(NotifyType::TEMPORARY_FAILURE))]
    );
    world.settle();
    world.assert_agree();
    for host in [CLIENT, SERVER] {
        assert_eq!(world.log(host)[2..], ["child net replaced"]);
    }
    assert_eq!(requests(&world, CLIENT, FOLLOWUP), 1);
    assert_eq!(requests(&world, SERVER, FOLLOWUP), 0);
    assert_works(&mut world);
}

#[test]
fn both_at_once_on_a_bad_network() {
    for seed in 0..60 {
        let mut setup = quick();
        setup.nat = seed % 3 == 0;
        let mut world = setup.connected(seed);
        for round in 0..3 {
            world.faults = Faults {
                loss: 20,
                duplicates: 10,
                jitter_ms: 300,
            };
            for host in [CLIENT, SERVER] {
                if (seed + round) % 2 == 0 {
                    rekey(&mut world, host);
                } else if let Some(spi) = world.hosts[host].installed.keys().next().copied() {
                    // It may be on its way out already.
                    let _ = world.call_live(host, |sa, cx| sa.rekey_child(spi, cx));
                }
                let pause = world.rng.next_u32() % 200;
                world.run_for(ms(pause.into()));
            }
            world.settle();
            world.faults = Faults::default();
            world.settle();
            assert_one_ike_sa(&world);
        }
        assert_works(&mut world);
    }
}

/// The request comes when the responder has forgotten about it: STATE_NOT_FOUND, and once more
/// from the beginning.
#[test]
fn a_responder_that_has_forgotten() {
    for of_ike in [false, true] {
        let mut world = if of_ike { ike() } else { children() }.connected(233);
        let spi = world.spi(CLIENT);
        if of_ike {
            rekey(&mut world, CLIENT);
        } else {
            world
                .call(CLIENT, |sa, cx| sa.rekey_child(spi, cx))
                .unwrap();
        }
        until_follow_up(&mut world);
        world.call(SERVER, IkeSa::forget_follow_up);
        world.settle();
        assert!(requests(&world, CLIENT, FOLLOWUP) >= 2);
        if of_ike {
            assert_one_ike_sa(&world);
            assert!(!world.heard(CLIENT, "rekey failed"));
        } else {
            assert!(world.heard(CLIENT, "child net replaced"));
            assert!(world.heard(SERVER, "child net failed: peer does not answer"));
        }
        assert_works(&mut world);
    }
}

/// RFC 9370 §2.2.4: not for ever.
#[test]
fn a_responder_that_always_forgets() {
    for of_ike in [false, true] {
        let mut world = if of_ike { ike() } else { children() }.connected(234);
        let spi = world.spi(CLIENT);
        if of_ike {
            rekey(&mut world, CLIENT);
        } else {
            world
                .call(CLIENT, |sa, cx| sa.rekey_child(spi, cx))
                .unwrap();
        }
        let until = world.now + Duration::from_secs(300);
        while world.step(until) {
            if !world.hosts[SERVER].sas.is_empty() {
                world.call(SERVER, IkeSa::forget_follow_up);
            }
        }
        assert!(world.heard(CLIENT, "closed"), "{:?}", world.log(CLIENT));
        let failed = if of_ike {
            "rekey failed"
        } else {
            "child net failed"
        };
        assert!(world.heard(CLIENT, failed), "{:?}", world.log(CLIENT));
        world.assert_nothing_left();
    }
}

/// The peer does not go on: what was kept for it goes, SPI included.
#[test]
fn an_initiator_that_does_not_go_on() {
    let mut world = children().connected(235);
    let spi = world.spi(CLIENT);
    world
        .call(CLIENT, |sa, cx| sa.rekey_child(spi, cx))
        .unwrap();
    until_follow_up(&mut world);
    world.call(CLIENT, |sa, cx| {
        sa.outstanding = None;
        sa.abandon(cx);
    });
    assert_eq!(world.hosts[SERVER].spis.used.len(), 2);
    world.settle();
    assert!(world.heard(SERVER, "child net failed: peer does not answer"));
    assert_eq!(world.hosts[SERVER].spis.used.len(), 1);
    assert_eq!(world.hosts[SERVER].installed.len(), 1);

    // However often it starts, there is one at a time.
    let mut world = children().connected(236);
    for _ in 0..10 {
        world
            .call(CLIENT, |sa, cx| sa.create_child("net", cx))
            .unwrap();
        until_follow_up(&mut world);
        assert_eq!(world.hosts[SERVER].spis.used.len(), 2);
        // The client starts the next one where the second exchange would be.
        world.call(CLIENT, |sa, _| {
            sa.outstanding = None;
            sa.next_request -= 1;
        });
    }
}

/// A request of the client's own making in the place of IKE_FOLLOWUP_KE.
fn follow_up_with(seed: u64, make: impl FnOnce(Notify, &mut Ctx<'_>) -> Vec<Payload>) -> World {
    let mut world = children().connected(seed);
    let spi = world.spi(CLIENT);
    world
        .call(CLIENT, |sa, cx| sa.rekey_child(spi, cx))
        .unwrap();
    until_follow_up(&mut world);
    let link = world.hosts[SERVER].sas[0].awaited.as_ref().unwrap().link();
    let link = Notify::with_data(NotifyType::ADDITIONAL_KEY_EXCHANGE, link);
    world.call(CLIENT, |sa, cx| {
        sa.next_request -= 1;
        let Purpose::FollowUp(follow_up) = sa.outstanding.take().unwrap().purpose else {
            panic!()
        };
        let payloads = make(link, cx);
        sa.request(FOLLOWUP, Purpose::FollowUp(follow_up), &payloads, cx)
            .unwrap();
    });
    world.settle();
    world
}

#[test]
fn requests_that_do_not_fit() {
    let ke = |method, len| {
        Payload::KeyExchange(KeyExchange {
            method,
            data: vec![0xff; len],
        })
    };
    // Not the method that is next, or no value of it: the series has failed, and the IKE SA stays.
    for bad in [
        vec![],
        vec![ke(KeyExchangeId::CURVE25519, 32)],
        vec![ke(KeyExchangeId::ML_KEM_768, 1183)],
        vec![ke(KeyExchangeId::ML_KEM_768, 1184)],
    ] {
        let mut world = follow_up_with(237, |link, _| {
            let mut payloads = bad;
            payloads.push(Payload::Notify(link));
            payloads
        });
        assert!(
            world.heard(CLIENT, "child net failed: peer answered NO_PROPOSAL_CHOSEN"),
            "{:?}",
            world.log(CLIENT)
        );
        assert!(world.heard(SERVER, "child net failed"));
        assert_eq!(world.hosts[CLIENT].installed.len(), 1);
        assert_works(&mut world);
    }
    // Without the link, or with another one: there is no such state; the initiator starts over.
    let bend: [fn(Notify) -> Option<Notify>; 3] = [
        |_| None,
        |link| Some(Notify::with_data(link.kind, [0; 8])),
        |link| Some(Notify::with_data(link.kind, &link.data[..7])),
    ];
    for bend in bend {
        let mut world = follow_up_with(238, |link, cx| {
            let pair = KeyPair::generate(Group::MlKem768, cx.rng).unwrap();
            let mut payloads = vec![pair.payload()];
            payloads.extend(bend(link).map(Payload::Notify));
            payloads
        });
        assert!(world.heard(CLIENT, "child net replaced"));
        assert_eq!(requests(&world, CLIENT, FOLLOWUP), 2);
        assert_works(&mut world);
    }
}

/// IKE_FOLLOWUP_KE that follows nothing.
#[test]
fn out_of_the_blue() {
    let mut world = Setup::new().connected(239);
    world
        .call(CLIENT, |sa, cx| {
            sa.request(FOLLOWUP, Purpose::Liveness, &[], cx)
        })
        .unwrap();
    assert!(world.step(Duration::MAX));
    let answer = world.net.pop().unwrap().bytes;
    let now = world.now;
    let opened = world.hosts[CLIENT].sas[0].open(&answer, now).unwrap();
    assert_eq!(
        opened.unwrap().payloads.unwrap(),
        [Payload::Notify(Notify::new(NotifyType::STATE_NOT_FOUND))]
    );
    assert_eq!(world.hosts[SERVER].sas[0].state(), State::Established);
}

/// The responder chose more key exchanges and does not say how to go on.
#[test]
fn a_response_without_a_link() {
    let mut world = children().connected(240);
    let spi = world.spi(CLIENT);
    world
        .call(CLIENT, |sa, cx| sa.rekey_child(spi, cx))
        .unwrap();
    assert!(world.step(Duration::MAX));
    let packet = world.net.pop().unwrap();
    world.net.clear();
    let now = world.now;
    let opened = world.hosts[CLIENT].sas[0].open(&packet.bytes, now).unwrap();
    let mut payloads = opened.unwrap().payloads.unwrap();
    let link = NotifyType::ADDITIONAL_KEY_EXCHANGE;
    payloads.retain(|p| !matches!(p, Payload::Notify(notify) if notify.kind == link));
    let id = peek(&packet.bytes).unwrap().message_id;
    let datagrams = world.call(SERVER, |sa, cx| {
        let exchange = ExchangeType::CREATE_CHILD_SA;
        sa.seal(exchange, true, id, &payloads, cx.rng)
            .unwrap()
            .datagrams
    });
    for bytes in datagrams {
        world.deliver(CLIENT, packet.source, packet.destination, &bytes);
    }
    world.settle();
    assert!(
        world.heard(CLIENT, "child net failed: peer violates the protocol"),
        "{:?}",
        world.log(CLIENT)
    );
    assert_eq!(world.hosts[CLIENT].installed.len(), 1);
    assert_eq!(world.hosts[SERVER].installed.len(), 1);
    assert_works(&mut world);
}
