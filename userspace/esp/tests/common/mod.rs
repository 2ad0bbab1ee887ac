//! Shared by the tests of this crate.
#![allow(dead_code, unreachable_pub)] // each test uses its part

use mitregate_esp::{CipherSuite, InboundSa, OutboundSa, Provider, SaKey};
use mitregate_wire::esp::Spi;
use proptest::prelude::*;

pub fn unhex(s: &str) -> Vec<u8> {
    assert!(s.len().is_multiple_of(2));
    (0..s.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&s[at..at + 2], 16).unwrap())
        .collect()
}

pub fn spi(spi: u32) -> Spi {
    Spi::new(spi).unwrap()
}

/// Every suite with every pair of providers, sender first.
pub fn combinations() -> impl Iterator<Item = (CipherSuite, Provider, Provider)> {
    CipherSuite::ALL.into_iter().flat_map(|suite| {
        Provider::ALL
            .into_iter()
            .flat_map(move |a| Provider::ALL.into_iter().map(move |b| (suite, a, b)))
    })
}

pub fn combination() -> impl Strategy<Value = (CipherSuite, Provider, Provider)> {
    let suite = prop::sample::select(&CipherSuite::ALL[..]);
    (suite, provider(), provider())
}

pub fn provider() -> impl Strategy<Value = Provider> {
    prop::sample::select(&Provider::ALL[..])
}

pub fn key(suite: CipherSuite) -> SaKey {
    let keymat: Vec<u8> = (1..).take(suite.keymat_len()).collect();
    SaKey::from_keymat(suite, &keymat).unwrap()
}

/// Both halves of one SA.
pub fn pair(
    (suite, sender, receiver): (CipherSuite, Provider, Provider),
    esn: bool,
) -> (OutboundSa, InboundSa) {
    let key = key(suite);
    let spi = spi(0x1234_5678);
    (
        OutboundSa::new(spi, &key, sender, esn),
        InboundSa::new(spi, &key, receiver, 0, esn),
    )
}

/// Seals `inner` and returns the ESP packet alone.
pub fn seal(sa: &mut OutboundSa, inner: &[u8], next_header: u8, tfc_pad: usize) -> Vec<u8> {
    let mut buf = [&[0; 16][..], inner, &vec![0xee; tfc_pad + 21]].concat();
    let esp = sa
        .seal(&mut buf, 16..16 + inner.len(), next_header, tfc_pad)
        .unwrap();
    buf[esp].to_vec()
}
