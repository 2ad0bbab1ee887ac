//! A pair of IKE SAs that stand, and a peer that has the keys and means no good: sequences of requests,
//! responses and fragments of arbitrary payloads, sealed as they should be, between what the IKE SAs
//! start by themselves. Nothing panics, and no SPI leaks.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mitregate_fuzz::Pair;
use mitregate_ike::IkeSa;
use mitregate_wire::ike::ExchangeType;

fuzz_target!(|bytes: &[u8]| {
    let exchanges: [_; 12] = std::array::from_fn(|n| ExchangeType(34 + n as u8));
    let mut pair = Pair::established();
    let mut rest = bytes;
    while let Some(&[op, _, _, seconds, ..]) = rest.first_chunk::<7>() {
        let from = usize::from(op & 1);
        match op >> 4 {
            0 => pair.with(from, IkeSa::check_liveness),
            1 => pair.settle(),
            2 => {
                pair.now += Duration::from_secs(seconds.into());
                pair.with(from, IkeSa::handle_timeout);
            }
            3 => pair.with(from, |sa, cx| {
                let _ = sa.rekey(cx);
            }),
            4 => pair.with(from, |sa, cx| {
                let child = sa.children().next().map(|child| child.spi_in);
                if let Some(spi) = child {
                    let _ = sa.rekey_child(spi, cx);
                }
            }),
            5 => pair.with(from, IkeSa::close),
            _ => {}
        }
        let Some(left) = pair.forge(from, &exchanges, rest) else {
            break;
        };
        rest = left;
    }
    pair.end();
});
