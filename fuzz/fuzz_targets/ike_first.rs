//! IKE_SA_INIT, where nothing is authenticated yet: arbitrary bytes to a responder, to its cookies
//! and to an initiator that waits. Nothing panics, nothing gets established, no SPI leaks, and
//! what is sent back is a response and can be parsed.
#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mitregate_fuzz::{One, PROPOSAL, Spis, config};
use mitregate_ike::{CookieCheck, CookieJar, Ctx, IkeSa, NoLeases, Output, State};
use mitregate_wire::ike::{HEADER_LEN, Message};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// Drains; the last message sent.
fn drain(sa: &mut IkeSa) -> Option<Vec<u8>> {
    let mut last = None;
    while let Some(output) = sa.poll_output() {
        match output {
            Output::Transmit { message, .. } => last = Some(message),
            Output::Established(_) | Output::ChildEstablished(_) => panic!("without a key"),
            _ => {}
        }
    }
    last
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, message)) = bytes.split_first() else {
        return;
    };
    let local: SocketAddr = "192.0.2.1:500".parse().unwrap();
    let remote: SocketAddr = "192.0.2.2:500".parse().unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut spis = Spis(0);
    let now = Duration::from_secs(1);
    let config = config(PROPOSAL);

    let mut jar = CookieJar::new(now, &mut rng);
    if let CookieCheck::Demand(reply) = jar.check(remote, message, now, &mut rng) {
        assert!(Message::parse(&reply).unwrap().flags.response);
    }

    let mut cx = Ctx {
        now,
        unix_time: now,
        rng: &mut rng,
        spis: &mut spis,
        leases: &mut NoLeases,
    };
    if choice & 1 == 0 {
        let directory = Arc::new(One(config));
        match IkeSa::respond(directory, local, remote, message, &mut cx) {
            Ok(mut sa) => {
                let response = Message::parse(&drain(&mut sa).unwrap()).unwrap();
                assert!(response.flags.response);
                let _ = sa.handle_message(local, remote, message, &mut cx);
                drain(&mut sa);
                assert_eq!(sa.state(), State::Connecting);
                sa.abandon(&mut cx);
                drain(&mut sa);
            }
            Err(rejected) => {
                let reply = rejected.reply.map(|reply| Message::parse(&reply).unwrap());
                assert!(reply.is_none_or(|reply| reply.flags.response));
            }
        }
    } else {
        let mut sa = IkeSa::initiate(config, local, remote, &mut cx);
        drain(&mut sa);
        // With our SPI and the header of a response it comes further.
        let mut message = message.to_vec();
        if choice & 2 != 0 && message.len() >= HEADER_LEN {
            message[..8].copy_from_slice(&sa.local_spi().0);
            message[17..24].copy_from_slice(&[0x20, 34, 0x20, 0, 0, 0, 0]);
            let len = u32::try_from(message.len()).unwrap();
            message[24..28].copy_from_slice(&len.to_be_bytes());
        }
        for _ in 0..2 {
            let _ = sa.handle_message(local, remote, &message, &mut cx);
            drain(&mut sa);
        }
        sa.abandon(&mut cx);
        drain(&mut sa);
    }
    assert_eq!(spis.0, 0, "an SPI leaked");
});
