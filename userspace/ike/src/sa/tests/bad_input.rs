//! What a peer, or anybody on the way, can send: nothing panics, nothing falls that should stand.

use mitregate_wire::ike::{
    ExchangeType, Flags, IkeSpi, Notify, NotifyType, Payload, PayloadType, ProtocolId,
};

use super::*;
use crate::sa::window::Purpose;

/// Every datagram of a connection with a rekey and a delete, with where it arrived.
fn recorded() -> Vec<(usize, SocketAddr, SocketAddr, Vec<u8>)> {
    let mut world = Setup::new().connected(70);
    let spi = world.spi(CLIENT);
    world
        .call(CLIENT, |sa, cx| sa.rekey_child(spi, cx))
        .unwrap();
    world.settle();
    world
        .call(CLIENT, |sa, cx| sa.delete_child(spi, cx))
        .unwrap();
    world.settle();
    world.trace
}

/// Plays a life of which the message `nth` comes first in the forms that `forge` makes of it,
/// then as it is.
fn play(nth: usize, forge: impl Fn(&[u8]) -> Vec<Vec<u8>>) {
    let mut world = Setup::new().world(71);
    let mut seen = 0;
    let mut phase = 0;
    world.connect();
    loop {
        while let Some(index) = world
            .net
            .iter()
            .enumerate()
            .map(|(i, p)| (p.at, p.serial, i))
            .min()
        {
            let packet = world.net.swap_remove(index.2);
            if seen == nth {
                let sent = world.sent;
                for forged in forge(&packet.bytes) {
                    world.deliver(packet.to, packet.source, packet.destination, &forged);
                    // Whatever answers it got are lost.
                    world.net.clear();
                }
                world.sent = sent;
            }
            seen += 1;
            world.deliver(packet.to, packet.source, packet.destination, &packet.bytes);
        }
        let spi = world.hosts[CLIENT].installed.keys().next().copied();
        match (phase, spi) {
            (0, Some(spi)) => world
                .call(CLIENT, |sa, cx| sa.rekey_child(spi, cx))
                .unwrap(),
            (1, Some(spi)) => world
                .call(CLIENT, |sa, cx| sa.delete_child(spi, cx))
                .unwrap(),
            _ => break,
        }
        phase += 1;
    }
    assert_eq!(
        phase,
        2,
        "message {nth}: {:?} {:?}",
        world.log(CLIENT),
        world.log(SERVER)
    );
    assert_eq!(world.hosts[CLIENT].installed.len(), 1);
    // A forged first request may have left a half-open IKE SA behind; it goes.
    world.settle();
    assert_eq!(world.hosts[SERVER].sas.len(), 1);
    world.assert_agree();
}

/// Its sender may be somebody else's address, and the answer is the longer one.
#[test]
fn a_first_message_is_not_answered_without_end() {
    let mut world = Setup::new().world(73);
    world.connect();
    let first = world.net.pop().unwrap();
    for _ in 0..100 {
        world.deliver(first.to, first.source, first.destination, &first.bytes);
    }
    assert_eq!(world.net.len(), 1 + 16);
    // The initiator has got one of them.
    world.settle();
    world.assert_connected();
}

#[test]
fn each_message_truncated_at_each_length() {
    for nth in 0..8 {
        play(nth, |bytes| {
            (0..bytes.len()).map(|len| bytes[..len].to_vec()).collect()
        });
    }
}

#[test]
fn each_message_with_a_truncated_but_consistent_header() {
    for nth in 0..8 {
        play(nth, |bytes| {
            (28..bytes.len())
                .map(|len| {
                    let mut short = bytes[..len].to_vec();
                    short[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
                    short
                })
                .collect()
        });
    }
}

#[test]
fn bit_flips_in_protected_messages_change_nothing() {
    for nth in 2..8 {
        play(nth, |bytes| {
            (0..bytes.len() * 8)
                .map(|bit| {
                    let mut flipped = bytes.to_vec();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    flipped
                })
                .collect()
        });
    }
}

#[test]
fn bit_flips_in_the_first_two_messages_do_not_panic() {
    // Nothing protects these two by itself: a flip can make them another valid message, whose
    // connection then fails to authenticate.
    let trace = recorded();
    for (nth, (to, source, destination, bytes)) in trace.iter().take(2).enumerate() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut world = Setup::new().world(70);
            if nth == 1 {
                world.connect();
                world.net.clear();
            }
            world.faults.loss = 100;
            world.deliver(*to, *source, *destination, &flipped);
            world.settle();
            for host in &world.hosts {
                assert!(host.established.is_empty() && host.spis.used.is_empty());
                assert!(host.sas.is_empty());
            }
        }
    }
}

#[test]
fn tampering_with_the_first_exchange_is_found_out() {
    // AUTH covers both IKE_SA_INIT messages whole: strip the vendor IDs, and nobody connects.
    for nth in 0..2 {
        let mut world = Setup::new().world(72);
        world.connect();
        for _ in 0..nth {
            world.step(Duration::MAX);
        }
        let mut message = Message::parse(&world.net[0].bytes).unwrap();
        message
            .payloads
            .retain(|payload| !matches!(payload, Payload::VendorId(_)));
        world.net[0].bytes = message.emit().unwrap();
        world.settle();
        // The responder's half can pass; the initiator's never does, and it says so.
        assert!(world.hosts[CLIENT].established.is_empty());
        assert_eq!(world.hosts[SERVER].established.len(), nth);
        world.assert_nothing_left();
    }
}

#[test]
fn replays_change_nothing() {
    let trace = recorded();
    let mut world = Setup::new().connected(70);
    let spi = world.spi(CLIENT);
    world
        .call(CLIENT, |sa, cx| sa.rekey_child(spi, cx))
        .unwrap();
    world.settle();
    world
        .call(CLIENT, |sa, cx| sa.delete_child(spi, cx))
        .unwrap();
    world.settle();
    assert_eq!(world.trace, trace);
    let logs = [world.hosts[0].log.clone(), world.hosts[1].log.clone()];
    for _ in 0..3 {
        for (to, source, destination, bytes) in &trace {
            world.deliver(*to, *source, *destination, bytes);
            // And to whom it was not meant for.
            world.deliver(1 - *to, *destination, *source, bytes);
        }
        world.settle();
    }
    // The first request, replayed, makes half-open IKE SAs at most, and those go.
    let server: Vec<_> = world.hosts[SERVER]
        .log
        .iter()
        .filter(|e| !e.contains("go on to"))
        .collect();
    assert!(server.into_iter().eq(&logs[SERVER]));
    assert_eq!(
        world.hosts[CLIENT]
            .log
            .iter()
            .filter(|e| !e.contains("go on to"))
            .count(),
        logs[CLIENT].len()
    );
    world.assert_agree();
    world.call(SERVER, IkeSa::check_liveness);
    world.settle();
    assert!(world.heard(SERVER, "alive"));
}

#[test]
fn unprotected_notifies_tear_nothing_down() {
    let mut world = Setup::new().connected(73);
    let (client, server) = world.hosts[CLIENT].sas[0].addresses();
    let (spi_i, spi_r) = {
        let sa = &world.hosts[CLIENT].sas[0];
        (sa.local_spi(), sa.remote_spi())
    };
    world.call(CLIENT, IkeSa::check_liveness);
    world.net.clear();
    for kind in (0..64).chain(16384..16400) {
        for response in [false, true] {
            for exchange in 34..=37 {
                for message_id in 0..4 {
                    for (to, initiator) in [(SERVER, true), (CLIENT, false)] {
                        let message = Message {
                            spi_i,
                            spi_r,
                            exchange: ExchangeType(exchange),
                            flags: Flags {
                                initiator,
                                response,
                            },
                            message_id,
                            payloads: vec![
                                Payload::Notify(Notify::new(NotifyType(kind))),
                                Payload::Delete(mitregate_wire::ike::Delete::Ike),
                            ],
                        };
                        let bytes = message.emit().unwrap();
                        let (source, destination) = if to == SERVER {
                            (client, server)
                        } else {
                            (server, client)
                        };
                        world.deliver(to, source, destination, &bytes);
                    }
                }
            }
        }
    }
    world.settle();
    assert!(world.heard(CLIENT, "alive"));
    for host in [CLIENT, SERVER] {
        assert_eq!(world.log(host)[..2], ["established", "child net"]);
        assert_eq!(world.hosts[host].sas[0].state(), State::Established);
    }
    world.assert_agree();
}

#[test]
fn garbage() {
    let mut world = Setup::new().connected(74);
    let (client, server) = world.hosts[CLIENT].sas[0].addresses();
    let header = world.trace[3].3[..28].to_vec();
    for round in 0..5000_u32 {
        let len = world.rng.next_u32() as usize % 400;
        let mut bytes = vec![0; len];
        world.rng.fill_bytes(&mut bytes);
        if round % 2 == 0 && len >= 28 {
            bytes[..16].copy_from_slice(&header[..16]);
            bytes[17] = 0x20;
            bytes[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        }
        world.deliver(SERVER, client, server, &bytes);
        world.deliver(CLIENT, server, client, &bytes);
    }
    world.settle();
    world.assert_agree();
    for host in [CLIENT, SERVER] {
        assert_eq!(world.hosts[host].sas.len(), 1);
        assert_eq!(world.log(host), ["established", "child net"]);
    }
}

fn first_request(world: &mut World) -> Message {
    world.connect();
    let packet = world.net.remove(0);
    Message::parse(&packet.bytes).unwrap()
}

/// Gives the server a first request; the notify it answers with, and why.
fn reject(message: &Message) -> (Option<Notify>, Vec<RejectReason>) {
    reject_bytes(&message.emit().unwrap())
}

fn reject_bytes(bytes: &[u8]) -> (Option<Notify>, Vec<RejectReason>) {
    let mut world = Setup::new().world(75);
    let source = "192.0.2.1:500".parse().unwrap();
    let destination = "198.51.100.2:500".parse().unwrap();
    world.deliver(SERVER, source, destination, bytes);
    assert!(world.hosts[SERVER].sas.is_empty());
    let notify = world.net.pop().map(|packet| {
        let reply = Message::parse(&packet.bytes).unwrap();
        assert!(reply.flags.response);
        match reply.payloads.as_slice() {
            [Payload::Notify(notify)] => notify.clone(),
            other => panic!("{other:?}"),
        }
    });
    (notify, world.hosts[SERVER].rejected.clone())
}

#[test]
fn first_requests_that_make_no_sa() {
    let good = first_request(&mut Setup::new().world(75));

    let mut message = good.clone();
    let kind = PayloadType(200);
    message.payloads.push(Payload::Unknown {
        kind,
        critical: true,
        body: vec![1, 2],
    });
    let (notify, reasons) = reject(&message);
    let notify = notify.unwrap();
    assert_eq!(notify.kind, NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD);
    assert_eq!(notify.data, [200]);
    assert_eq!(reasons, [RejectReason::UnsupportedCritical(kind)]);

    let mut bytes = good.emit().unwrap();
    bytes[17] = 0x30;
    let (notify, reasons) = reject_bytes(&bytes);
    assert_eq!(notify.unwrap().kind, NotifyType::INVALID_MAJOR_VERSION);
    assert_eq!(reasons, [RejectReason::MajorVersion(3)]);
    bytes[17] = 0x10;
    assert_eq!(
        reject_bytes(&bytes),
        (None, vec![RejectReason::MajorVersion(1)])
    );

    let mut message = good.clone();
    message.spi_r = IkeSpi([9; 8]);
    assert_eq!(
        reject(&message).0.unwrap().kind,
        NotifyType::INVALID_IKE_SPI
    );
    // A response is never answered: two gateways would talk for ever.
    message.flags.response = true;
    assert_eq!(reject(&message).0, None);

    let silent: [fn(&mut Message); 6] = [
        |m| m.message_id = 1,
        |m| m.spi_i = IkeSpi::ZERO,
        |m| m.flags.initiator = false,
        |m| m.exchange = ExchangeType::IKE_AUTH,
        |m| m.payloads.retain(|p| !matches!(p, Payload::KeyExchange(_))),
        |m| {
            for payload in &mut m.payloads {
                if let Payload::KeyExchange(ke) = payload {
                    // RFC 7748 §6.1: a point of small order gives an all-zero secret.
                    ke.data = vec![0; 32];
                }
            }
        },
    ];
    for change in silent {
        let mut message = good.clone();
        change(&mut message);
        assert_eq!(reject(&message).0, None);
    }
    // An unknown payload that is not critical is nothing to us (RFC 7296 §2.5).
    let mut message = good.clone();
    message.payloads.push(Payload::Unknown {
        kind,
        critical: false,
        body: vec![1, 2],
    });
    let mut world = Setup::new().world(76);
    let source = "192.0.2.1:500".parse().unwrap();
    let bytes = message.emit().unwrap();
    world.deliver(SERVER, source, "198.51.100.2:500".parse().unwrap(), &bytes);
    assert_eq!(world.hosts[SERVER].sas.len(), 1);
}

/// The client sends a request of its own making in SK; the payloads of the answer.
fn request(world: &mut World, exchange: ExchangeType, payloads: &[Payload]) -> Vec<Payload> {
    world
        .call(CLIENT, |sa, cx| {
            sa.request(exchange, Purpose::Liveness, payloads, cx)
        })
        .unwrap();
    assert!(world.step(Duration::MAX));
    let answer = world.net.pop().map(|packet| packet.bytes);
    let now = world.now;
    let answer = answer.map(|bytes| {
        let opened = world.hosts[CLIENT].sas[0].open(&bytes, now).unwrap();
        opened.unwrap().payloads.unwrap()
    });
    world.call(CLIENT, |sa, _| sa.outstanding = None);
    answer.unwrap()
}

fn only_notify(payloads: &[Payload]) -> NotifyType {
    match payloads {
        [Payload::Notify(notify)] => notify.kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unknown_critical_payload_is_refused_alone() {
    let mut world = Setup::new().connected(77);
    let unknown = Payload::Unknown {
        kind: PayloadType(99),
        critical: true,
        body: vec![],
    };
    for exchange in [ExchangeType::INFORMATIONAL, ExchangeType::CREATE_CHILD_SA] {
        let answer = request(&mut world, exchange, std::slice::from_ref(&unknown));
        assert_eq!(
            only_notify(&answer),
            NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD
        );
    }
    let harmless = Payload::Unknown {
        kind: PayloadType(99),
        critical: false,
        body: vec![],
    };
    assert_eq!(
        request(&mut world, ExchangeType::INFORMATIONAL, &[harmless]),
        []
    );
    assert_eq!(world.hosts[SERVER].sas[0].state(), State::Established);
    world.assert_agree();
}

#[test]
fn a_malformed_request_in_sk_ends_the_sa_on_both_sides() {
    // A nonce of 3 bytes cannot be emitted as a nonce.
    let malformed = Payload::Unknown {
        kind: PayloadType::NONCE,
        critical: false,
        body: vec![1, 2, 3],
    };
    let missing = Payload::Nonce(vec![0; 32]);
    for payload in [malformed, missing] {
        let mut world = Setup::new().connected(78);
        world
            .call(CLIENT, |sa, cx| {
                sa.request(
                    ExchangeType::CREATE_CHILD_SA,
                    Purpose::Liveness,
                    &[payload],
                    cx,
                )
            })
            .unwrap();
        world.settle();
        assert!(
            world.heard(CLIENT, "closed: peer answered INVALID_SYNTAX"),
            "{:?}",
            world.log(0)
        );
        assert!(world.heard(SERVER, "closed"));
        world.assert_nothing_left();
    }
}

#[test]
fn odd_requests_for_children() {
    let mut world = Setup::new().connected(79);
    let good = |world: &World| {
        let sa = &world.hosts[CLIENT].sas[0];
        let child = &sa.config.children[0];
        let spi = Spi::new(0x0133_4455).unwrap();
        let offer = crate::proposal::offer_esp(&child.esp_proposals, spi, true);
        (
            offer,
            crate::selectors::to_wire(&child.local_ts),
            crate::selectors::to_wire(&child.remote_ts),
        )
    };
    let (sa, ts_i, ts_r) = good(&world);
    let nonce = Payload::Nonce(vec![7; 32]);
    let create = ExchangeType::CREATE_CHILD_SA;

    // A rekey of what is not there.
    let rekey = Payload::Notify(Notify {
        protocol: ProtocolId::ESP,
        spi: vec![1, 2, 3, 4],
        ..Notify::new(NotifyType::REKEY_SA)
    });
    let (ts_i, ts_r) = (Payload::TsI(ts_i), Payload::TsR(ts_r));
    let payloads = [
        rekey,
        Payload::Sa(sa.clone()),
        nonce.clone(),
        ts_i.clone(),
        ts_r.clone(),
    ];
    let answer = request(&mut world, create, &payloads);
    assert_eq!(only_notify(&answer), NotifyType::CHILD_SA_NOT_FOUND);
    assert!(matches!(&answer[0], Payload::Notify(n) if n.spi == [1, 2, 3, 4]));

    // A reserved SPI, one of the wrong length, an unknown transform type.
    let bad: [fn(&mut mitregate_wire::ike::Proposal); 4] = [
        |p| p.spi = vec![0, 0, 0, 255],
        |p| p.spi = vec![1; 8],
        |p| p.spi.clear(),
        |p| {
            let kind = mitregate_wire::ike::TransformType(6);
            p.transforms
                .push(mitregate_wire::ike::Transform::new(kind, 36));
        },
    ];
    for change in bad {
        let mut sa = sa.clone();
        change(&mut sa[0]);
        let payloads = [Payload::Sa(sa), nonce.clone(), ts_i.clone(), ts_r.clone()];
        assert_eq!(
            only_notify(&request(&mut world, create, &payloads)),
            NotifyType::NO_PROPOSAL_CHOSEN
        );
    }

    // Rekeys of the IKE SA: an SPI that is none, no key exchange.
    let ike = crate::proposal::offer_ike(&world.hosts[CLIENT].config.proposals, &[]);
    for spi in [&[][..], &[0; 8], &[1; 4], &[1; 9]] {
        let mut ike = ike.clone();
        ike[0].spi = spi.to_vec();
        let answer = request(&mut world, create, &[Payload::Sa(ike), nonce.clone()]);
        assert_eq!(only_notify(&answer), NotifyType::NO_PROPOSAL_CHOSEN);
    }
    let mut ike = ike;
    ike[0].spi = vec![1; 8];
    let answer = request(&mut world, create, &[Payload::Sa(ike), nonce.clone()]);
    assert_eq!(only_notify(&answer), NotifyType::INVALID_KE_PAYLOAD);

    // Selectors of a type nobody knows, or that run backwards, match nothing.
    use mitregate_wire::ike::{Addresses, Selector, TsType};
    let (low, high) = ("10.1.0.1".parse().unwrap(), "10.1.0.9".parse().unwrap());
    let backwards = Selector::Range {
        protocol: 0,
        start_port: 0,
        end_port: 65535,
        addresses: Addresses::V4 {
            start: high,
            end: low,
        },
    };
    let unknown = Selector::Unknown {
        kind: TsType(9),
        protocol: 0,
        body: vec![1, 2],
    };
    let payloads = [
        Payload::Sa(sa.clone()),
        nonce.clone(),
        Payload::TsI(vec![backwards, unknown]),
        ts_r.clone(),
    ];
    assert_eq!(
        only_notify(&request(&mut world, create, &payloads)),
        NotifyType::TS_UNACCEPTABLE
    );

    // The server has stayed calm, and is still there for good ones.
    let payloads = [Payload::Sa(sa), nonce, ts_i, ts_r];
    let answer = request(&mut world, create, &payloads);
    assert_eq!(answer.len(), 4);
    assert_eq!(world.hosts[SERVER].installed.len(), 2);
}

#[test]
fn odd_answers_to_an_initiator() {
    // A responder that answers with what was not offered: the CHILD_SA fails, is deleted at the
    // peer, and the IKE SA stays.
    let mut setup = Setup::new();
    setup
        .client
        .children
        .push(child("wide", "10.0.0.0/8", "10.0.0.0/8", "aes256gcm16"));
    let mut world = setup.connected(80);
    world
        .call(CLIENT, |sa, cx| sa.create_child("wide", cx))
        .unwrap();
    // What the client wants is now less than what it asked for.
    world.call(CLIENT, |sa, _| {
        let mut config = config("home", "client@lab", "gw@lab");
        config.children = vec![
            child("net", "10.1.0.1/32", "10.2.0.0/24", "aes256gcm16"),
            child("wide", "10.77.0.0/16", "10.0.0.0/8", "aes256gcm16"),
        ];
        sa.config = Arc::new(config);
    });
    world.settle();
    assert_eq!(
        world.log(CLIENT)[2..],
        ["child wide failed: traffic selectors have nothing in common"]
    );
    assert_eq!(
        world.log(SERVER)[2..],
        ["child net", "child deleted by peer"]
    );
    world.assert_agree();
    assert_eq!(world.hosts[CLIENT].installed.len(), 1);
}

#[test]
fn deletes_of_what_is_not_there() {
    use mitregate_wire::ike::Delete;
    let mut world = Setup::new().connected(81);
    let info = ExchangeType::INFORMATIONAL;
    for delete in [
        Delete::Esp(vec![]),
        Delete::Esp(vec![1; 200]),
        Delete::Ah(vec![5]),
    ] {
        assert_eq!(request(&mut world, info, &[Payload::Delete(delete)]), []);
    }
    // The same one many times is one.
    let spi = world.spi(CLIENT).get();
    let answer = request(
        &mut world,
        info,
        &[Payload::Delete(Delete::Esp(vec![spi; 9]))],
    );
    assert!(matches!(answer.as_slice(), [Payload::Delete(Delete::Esp(spis))] if spis.len() == 1));
    assert_eq!(world.log(SERVER)[2..], ["child deleted by peer"]);
}
