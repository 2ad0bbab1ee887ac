//! Pings against data that fills every queue of both workers.

#[macro_use]
mod common;

use common::*;
use mitregate_dataplane::{Command, Event, Fate};
use mitregate_esp::{EpochId, Provider};
use mitregate_wire::ip::protocol;

const PINGS: u32 = 1000;
/// What the wire takes in a round: less than the host sends, and less than the rings hold.
const WIRE: usize = 24;

/// The wire and the protected network are slower than the host: at the client the outer ring and its
/// backlog are full, at the gateway the inner ones. Every ping passes all the same.
fn no_ping_is_lost_to_our_own_queues(provider: Provider) {
    let (mut client, mut gateway) = default_pair(provider);
    let data = inner_frame(&up(&[7; 1000]));
    let (mut answered, mut wire) = (0, Vec::new());
    for n in 0..PINGS + 200 {
        // Until the port has no room.
        while client.inner.inject(&data) {}
        if n < PINGS {
            let mut payload = client.handle.buffer().unwrap();
            assert!(payload.set(&n.to_be_bytes()));
            client.send(Command::SendInner {
                tunnel: TUNNEL,
                epoch: EpochId(1),
                next_header: protocol::AGGFRAG,
                via: None,
                pad_to: 0,
                payload,
            });
        }
        client.round();
        let mut sent = Vec::new();
        client.outer.take(&mut sent, WIRE);
        for frame in sent {
            wire.push(client.umems[0].bytes(&frame).to_vec());
            client.outer.complete(frame);
        }
        for frame in wire.drain(..) {
            gateway.outer_in(&frame);
        }
        // The protected network takes one packet in a round.
        let mut opened = Vec::new();
        gateway.inner.take(&mut opened, 1);
        opened
            .into_iter()
            .for_each(|frame| gateway.inner.complete(frame));
        for event in gateway.events() {
            if let Event::Inner { payload, .. } = event {
                assert_eq!(payload[..4], answered_next(&mut answered));
            }
        }
    }
    assert_eq!(answered, PINGS);
    // It was more than either could carry.
    assert!(client.fate(Fate::TxFull) > 1000);
    assert!(gateway.fate(Fate::TxFull) > 1000);
    for rig in [&client, &gateway] {
        assert_eq!(rig.fate(Fate::ControlOverflow), 0);
        rig.check_frames();
    }
}

/// They come in order, too.
fn answered_next(answered: &mut u32) -> [u8; 4] {
    *answered += 1;
    (*answered - 1).to_be_bytes()
}

over_both!(no_ping_is_lost_to_our_own_queues);
