//! What one provider seals the other opens, once; with any byte changed it does not open.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mitregate_esp::{
    CipherSuite, HEADROOM, InboundSa, MAX_TAILROOM, OutboundSa, OutboundState, Provider, SaKey,
};
use mitregate_wire::esp::Spi;

fuzz_target!(|input: (u8, bool, u8, u8, u8, (u16, u8), &[u8])| {
    let (choice, esn, sent_before, next_header, tfc_pad, (at, change), inner) = input;
    let suite = CipherSuite::ALL[usize::from(choice) % 3];
    let sender = Provider::ALL[usize::from(choice) / 3 % 2];
    let receiver = Provider::ALL[usize::from(choice) / 6 % 2];
    let key = SaKey::from_keymat(suite, &vec![7; suite.keymat_len()]).expect("its length");
    let spi = Spi::new(0x0102_0304).expect("not reserved");
    let mut out = OutboundSa::new(spi, &key, sender, esn);
    out.restore(
        OutboundState {
            sequence: sent_before.into(),
        },
        0,
    );
    let mut inb = InboundSa::new(spi, &key, receiver, 4096, esn);

    let tfc_pad = usize::from(tfc_pad);
    let mut buf = vec![0; HEADROOM];
    buf.extend(inner);
    buf.resize(buf.len() + tfc_pad + MAX_TAILROOM, 0xee);
    let range = HEADROOM..HEADROOM + inner.len();
    let esp = out
        .seal(&mut buf, range.clone(), next_header, tfc_pad)
        .expect("it has room");

    if change != 0 {
        let mut bad = buf.clone();
        bad[usize::from(at) % esp.len()] ^= change;
        assert!(inb.open(&mut bad, esp.clone()).is_err());
    }
    let mut copy = buf.clone();
    let opened = inb
        .open(&mut copy, esp.clone())
        .expect("sealed by the peer");
    assert_eq!(copy[range], *inner);
    assert_eq!(opened.inner.len(), inner.len() + tfc_pad);
    assert_eq!(
        (opened.next_header, opened.seq),
        (next_header, u64::from(sent_before) + 1)
    );
    assert!(inb.open(&mut buf, esp).is_err(), "a replay");
});
