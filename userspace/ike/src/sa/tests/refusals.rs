//! Error notifies of RFC 7296 §2.21 to §2.25 in answers, and peers that answer nonsense: what fails is
//! what was asked for, and the IKE SA stays.

use mitregate_wire::ike::{Delete, ExchangeType, Notify, NotifyType, Payload};

use super::*;

/// Has the client ask for something, and the server answer with these payloads.
fn answered(
    world: &mut World,
    ask: impl FnOnce(&mut IkeSa, &mut Ctx<'_>),
    payloads: &[Payload],
) -> Header {
    world.call(CLIENT, ask);
    let packet = world.net.pop().expect("a request");
    let header = peek(&packet.bytes).unwrap();
    let answer = world.call(SERVER, |sa, cx| {
        // The server has heard it, and takes the next one.
        sa.expected = header.message_id + 1;
        sa.seal(header.exchange, true, header.message_id, payloads, cx.rng)
    });
    for message in answer.unwrap().datagrams {
        world.deliver(CLIENT, packet.destination, packet.source, &message);
    }
    header
}

#[test]
fn a_refused_child_costs_no_more_than_itself() {
    let kinds = [
        NotifyType::TS_UNACCEPTABLE,
        NotifyType::SINGLE_PAIR_REQUIRED,
        NotifyType::FAILED_CP_REQUIRED,
        NotifyType::NO_ADDITIONAL_SAS,
        NotifyType::INTERNAL_ADDRESS_FAILURE,
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType::INVALID_KE_PAYLOAD,
        NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD,
        // One that nobody knows yet: RFC 7296 §3.10.1, the request has failed.
        NotifyType(8191),
    ];
    for kind in kinds {
        let mut world = Setup::new().connected(110);
        let refusal = [Payload::Notify(Notify::new(kind))];
        let create = |sa: &mut IkeSa, cx: &mut Ctx<'_>| sa.create_child("net", cx).unwrap();
        answered(&mut world, create, &refusal);
        let spi = world.spi(CLIENT);
        let rekey = |sa: &mut IkeSa, cx: &mut Ctx<'_>| sa.rekey_child(spi, cx).unwrap();
        answered(&mut world, rekey, &refusal);
        world.settle();
        let failed = format!("child net failed: peer answered {kind}");
        assert_eq!(world.log(CLIENT)[2..], [failed.as_str(); 2]);
        world.assert_agree();
        assert_eq!(world.hosts[CLIENT].installed.len(), 1);
    }
}

#[test]
fn a_peer_that_answers_each_request_with_garbage() {
    let garbage: [Vec<Payload>; 6] = [
        Vec::new(),
        vec![Payload::Nonce(vec![1; 32])],
        vec![Payload::Nonce(vec![1; 32]); 5],
        vec![Payload::Delete(Delete::Esp(vec![1, 2]))],
        vec![Payload::VendorId(vec![7; 300])],
        vec![Payload::Notify(Notify::new(NotifyType(40_000)))],
    ];
    for payloads in &garbage {
        let mut world = Setup::new().connected(111);
        let spi = world.spi(CLIENT);
        answered(
            &mut world,
            |sa, cx| sa.create_child("net", cx).unwrap(),
            payloads,
        );
        // What the peer may believe in is deleted there, and that is answered with garbage, too.
        for _ in 0..3 {
            if !world.net.is_empty() {
                answered(&mut world, |_, _| {}, payloads);
            }
        }
        answered(
            &mut world,
            |sa, cx| sa.rekey_child(spi, cx).unwrap(),
            payloads,
        );
        answered(&mut world, |_, _| {}, payloads);
        answered(&mut world, IkeSa::check_liveness, payloads);
        assert!(world.heard(CLIENT, "alive"));
        assert_eq!(world.hosts[CLIENT].sas[0].state(), State::Established);
        assert_eq!(world.hosts[CLIENT].installed.len(), 1);
        assert_eq!(world.hosts[CLIENT].spis.used.len(), 1);
        // Of a successor to the IKE SA neither side knows what the other believes: it is closed.
        answered(&mut world, |sa, cx| sa.rekey(cx).unwrap(), payloads);
        assert_eq!(world.hosts[CLIENT].sas[0].state(), State::Closing);
        world.settle();
        assert!(world.hosts[CLIENT].sas.is_empty());
        assert!(world.hosts[CLIENT].spis.used.is_empty());
    }
}

/// RFC 7296 §2.3: who does not use more than one request at a time ignores it.
#[test]
fn a_larger_window_is_not_used() {
    let mut world = Setup::new().connected(112);
    let window = Notify::with_data(NotifyType::SET_WINDOW_SIZE, 8_u32.to_be_bytes());
    answered(
        &mut world,
        IkeSa::check_liveness,
        &[Payload::Notify(window)],
    );
    let sent = world.sent;
    world.call(CLIENT, |sa, cx| {
        sa.check_liveness(cx);
        sa.create_child("net", cx).unwrap();
        sa.rekey(cx).unwrap();
    });
    assert_eq!(world.sent, sent + 1);
    world.settle();
    world.assert_agree();
}

/// RFC 7296 §2.3: a message ID ahead of the window gets no answer, and moves nothing.
#[test]
fn a_message_id_outside_the_window_is_not_answered() {
    let mut world = Setup::new().connected(113);
    for ahead in [1, 2, 1000] {
        let message = world.call(CLIENT, |sa, cx| {
            let id = sa.next_request + ahead;
            sa.seal(ExchangeType::INFORMATIONAL, false, id, &[], cx.rng)
        });
        let [client, server] =
            [CLIENT, SERVER].map(|h| SocketAddr::new(world.hosts[h].address, 500));
        let sent = world.sent;
        for message in message.unwrap().datagrams {
            world.deliver(SERVER, client, server, &message);
        }
        assert_eq!(world.sent, sent);
        assert_eq!(
            world.hosts[SERVER].discarded.last(),
            Some(&Discard::MessageId)
        );
    }
    world.call(CLIENT, IkeSa::check_liveness);
    world.settle();
    assert!(world.heard(CLIENT, "alive"));
}
