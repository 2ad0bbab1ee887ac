//! A peer that has made the key exchange and is nobody yet: IKE_INTERMEDIATE and IKE_AUTH of arbitrary
//! payloads and fragments, as responder and as initiator, and what an honest peer says in them, bent.
//! Nothing panics, no SPI leaks, and nobody is authenticated who has not proven anything.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mitregate_fuzz::{HYBRID, PROPOSAL, Pair, config};
use mitregate_ike::IkeSa;
use mitregate_wire::ike::ExchangeType;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// The oldest message under way, with one byte inside SK set; as it is where it is in clear.
fn bend(pair: &mut Pair, at: u8, to_be: u8) {
    let (to, message) = pair.net.remove(0);
    let bent = pair.sas[to]
        .unseal(&message)
        .and_then(|(header, first, mut inner)| {
            let len = inner.len().max(1);
            *inner.get_mut(usize::from(at) % len)? = to_be;
            let mut rng = ChaCha20Rng::seed_from_u64(3);
            let (exchange, id) = (header.exchange, header.message_id);
            let response = header.flags.response;
            pair.sas[1 - to].forge(exchange, response, id, (first, &inner), None, &mut rng)
        });
    pair.deliver(to, &bent.unwrap_or(message));
}

fuzz_target!(|bytes: &[u8]| {
    let exchanges = [
        ExchangeType::IKE_AUTH,
        ExchangeType::IKE_INTERMEDIATE,
        ExchangeType::INFORMATIONAL,
        ExchangeType::CREATE_CHILD_SA,
    ];
    let Some((choice, mut rest)) = bytes.split_first() else {
        return;
    };
    let proposal = if choice & 1 == 0 { PROPOSAL } else { HYBRID };
    let mut pair = Pair::begin(&config(proposal));
    // The initiator hears the answer to its first message, and goes on.
    let (to, answer) = pair.net.remove(0);
    pair.deliver(to, &answer);
    let mut honest = false;
    while let Some(&[op, _, at, value, ..]) = rest.first_chunk::<7>() {
        let from = usize::from(op & 1);
        match op >> 4 {
            0 if !pair.net.is_empty() => {
                let (to, message) = pair.net.remove(0);
                honest = true;
                pair.deliver(to, &message);
            }
            1 if !pair.net.is_empty() => {
                honest = true;
                bend(&mut pair, at, value);
            }
            2 => {
                pair.now += Duration::from_secs(value.into());
                pair.with(from, IkeSa::handle_timeout);
            }
            _ => {}
        }
        let Some(left) = pair.forge(from, &exchanges, rest) else {
            break;
        };
        rest = left;
    }
    assert!(honest || pair.authenticated == [false; 2], "of nothing");
    pair.end();
});
