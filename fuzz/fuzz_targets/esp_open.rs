//! Arbitrary bytes never open, and leave the SA as it was. The SPI is put right, so that the
//! checks behind it are reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mitregate_esp::{CipherSuite, InboundSa, Provider, SaKey};
use mitregate_wire::esp::Spi;

fuzz_target!(|input: (u8, bool, u16, u16, &[u8])| {
    let (choice, esn, start, end, bytes) = input;
    let suite = CipherSuite::ALL[usize::from(choice) % 3];
    let provider = Provider::ALL[usize::from(choice) / 3 % 2];
    let key = SaKey::from_keymat(suite, &vec![7; suite.keymat_len()]).expect("its length");
    let spi = Spi::new(0x0102_0304).expect("not reserved");
    let mut sa = InboundSa::new(spi, &key, provider, 4096, esn);

    let mut buf = bytes.to_vec();
    assert!(sa.open(&mut buf, start.into()..end.into()).is_err());
    buf = bytes.to_vec();
    if let Some(first) = buf.first_chunk_mut() {
        *first = spi.to_be_bytes();
    }
    let len = buf.len();
    assert!(sa.open(&mut buf, 0..len).is_err());
    assert_eq!(sa.highest(), 0);
});
