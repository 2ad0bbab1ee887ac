//! One SA from both ends: what is sealed opens once and unchanged, and nothing else opens.

mod common;

use std::collections::BTreeSet;

use common::{combination, combinations, key, pair, provider, seal, spi};
use mitregate_esp::aead::Aead;
use mitregate_esp::{
    CipherSuite, HEADROOM, InboundSa, InboundState, MAX_TAILROOM, OpenError, Opened, OutboundSa,
    OutboundState, Provider, SealError, sealed_len,
};
use proptest::prelude::*;

fn open(sa: &mut InboundSa, esp: &[u8]) -> (Result<Opened, OpenError>, Vec<u8>) {
    let mut buf = esp.to_vec();
    (sa.open(&mut buf, 0..esp.len()), buf)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_sealed_opens(
        combination in combination(), esn: bool, next_header: u8, before in 16..80usize,
        inner in prop::collection::vec(any::<u8>(), 0..1500), tfc_pad in 0..100usize,
        behind in 0..40usize,
    ) {
        let (mut out, mut inb) = pair(combination, esn);
        let range = before..before + inner.len();
        let mut buf = [vec![0xaa; before], inner.clone(), vec![0xbb; tfc_pad + 21 + behind]].concat();
        let esp = out.seal(&mut buf, range.clone(), next_header, tfc_pad).unwrap();
        prop_assert_eq!(esp.start, before - HEADROOM);
        prop_assert_eq!(esp.len(), sealed_len(inner.len() + tfc_pad));
        prop_assert!(esp.len() <= HEADROOM + inner.len() + tfc_pad + MAX_TAILROOM);
        // RFC 4303 §2.4: the ciphertext ends on a 4-byte boundary.
        prop_assert_eq!(esp.len() % 4, 0);
        // Nothing outside is touched, and the inner packet does not shine through.
        prop_assert!(buf[..esp.start].iter().all(|byte| *byte == 0xaa));
        prop_assert!(buf[esp.end..].iter().all(|byte| *byte == 0xbb));
        prop_assert!(inner.len() < 16 || buf[range.clone()] != inner[..]);

        let opened = inb.open(&mut buf, esp).unwrap();
        prop_assert_eq!(opened.inner.clone(), before..before + inner.len() + tfc_pad);
        prop_assert_eq!((opened.next_header, opened.seq, opened.new_highest), (next_header, 1, true));
        prop_assert_eq!(&buf[range], &inner);
        prop_assert!(buf[opened.inner][inner.len()..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn providers_agree_to_the_byte(
        suite in prop::sample::select(&CipherSuite::ALL[..]), esn: bool, next_header: u8,
        inner in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let [a, b] = Provider::ALL.map(|provider| {
            seal(&mut pair((suite, provider, provider), esn).0, &inner, next_header, 0)
        });
        prop_assert_eq!(a, b);
    }

    #[test]
    fn a_flipped_bit_never_opens_and_leaves_no_trace(
        combination in combination(), esn: bool, inner in prop::collection::vec(any::<u8>(), 0..60),
        at: prop::sample::Index, bit in 0..8u8,
    ) {
        let (mut out, mut inb) = pair(combination, esn);
        let esp = seal(&mut out, &inner, 4, 0);
        let mut bad = esp.clone();
        let at = at.index(bad.len());
        bad[at] ^= 1u8 << bit;
        let error = match at {
            0..4 => OpenError::WrongSpi,
            _ if bad[4..8] == [0; 4] => OpenError::Replay, // number 0 is never sent
            _ => OpenError::Integrity,
        };
        prop_assert_eq!(open(&mut inb, &bad).0, Err(error));
        prop_assert_eq!(inb.highest(), 0);
        let (opened, buf) = open(&mut inb, &esp);
        prop_assert_eq!(&buf[opened.unwrap().inner], &inner);
    }

    #[test]
    fn truncated_or_longer_never_opens(
        combination in combination(), inner in prop::collection::vec(any::<u8>(), 0..60),
        tail in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let (mut out, mut inb) = pair(combination, true);
        let esp = seal(&mut out, &inner, 4, 0);
        for len in 0..esp.len() {
            let error = if len < 8 + 8 + 2 + 16 { OpenError::Runt } else { OpenError::Integrity };
            prop_assert_eq!(open(&mut inb, &esp[..len]).0, Err(error));
        }
        prop_assert_eq!(open(&mut inb, &[&esp[..], &tail].concat()).0, Err(OpenError::Integrity));
        prop_assert_eq!(inb.highest(), 0);
    }

    #[test]
    fn arbitrary_bytes_never_open(
        combination in combination(), esn: bool, known_spi: bool,
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), start: usize, end: usize,
    ) {
        let (_, mut inb) = pair(combination, esn);
        if let (true, Some(spi)) = (known_spi, bytes.first_chunk_mut::<4>()) {
            *spi = inb.spi().to_be_bytes();
        }
        prop_assert!(open(&mut inb, &bytes).0.is_err());
        prop_assert!(inb.open(&mut bytes, start..end).is_err());
    }

    /// In any order, with any loss and repetition: each packet opens at most once, and if it is
    /// not too old, exactly once.
    #[test]
    fn reordered_lost_and_repeated_packets(
        provider in provider(), esn: bool, order in prop::collection::vec(0..200usize, 1..500),
    ) {
        let (mut out, mut inb) = pair((CipherSuite::Aes128Gcm16, provider, provider), esn);
        let packets: Vec<_> = (0..200u8).map(|n| seal(&mut out, &[n], 4, 0)).collect();
        let mut seen = BTreeSet::new();
        let mut highest = 0;
        for n in order {
            let (opened, buf) = open(&mut inb, &packets[n]);
            if seen.insert(n) {
                let opened = opened.unwrap();
                prop_assert_eq!(&buf[opened.inner], [u8::try_from(n).unwrap()]);
                prop_assert_eq!(opened.seq, n as u64 + 1);
                prop_assert_eq!(opened.new_highest, opened.seq > highest);
                highest = highest.max(opened.seq);
            } else {
                prop_assert_eq!(opened, Err(OpenError::Replay));
            }
        }
    }

    /// I3 of the gate: whatever is asked of it, also across restarts, an SA uses no IV twice.
    #[test]
    fn no_iv_is_used_twice(
        provider in provider(), steps in prop::collection::vec((0..4u8, 1..1000u64), 1..60),
    ) {
        let combination = (CipherSuite::Aes256Gcm16, provider, provider);
        let (mut out, _) = pair(combination, true);
        let mut used = BTreeSet::new();
        let mut saved = (out.state(), 0);
        for (what, jump) in steps {
            match what {
                0 => saved = (out.state(), 0),
                1 => {
                    // Another process takes over, and jumps over what was sent since the save.
                    out = pair(combination, true).0;
                    out.restore(saved.0, saved.1 + jump);
                    saved = (out.state(), 0);
                }
                _ => {
                    let esp = seal(&mut out, &[1, 2, 3], 4, 0);
                    prop_assert!(used.insert(esp[8..16].to_vec()));
                    saved.1 += 1;
                }
            }
        }
    }
}

#[test]
fn overhead_is_enough_and_exact() {
    for (len, provider) in (0..200).flat_map(|len| Provider::ALL.map(|it| (len, it))) {
        let (mut out, _) = pair((CipherSuite::Aes128Gcm16, provider, provider), true);
        let (before, behind) = out.overhead();
        let mut buf = vec![0; before + len + behind];
        assert!(out.seal(&mut buf, before..before + len, 4, 0).is_ok());

        let mut exact = vec![0; sealed_len(len)];
        assert!(out.seal(&mut exact, 16..16 + len, 4, 0).is_ok());
        exact.pop();
        assert_eq!(
            out.seal(&mut exact, 16..16 + len, 4, 0),
            Err(SealError::NoRoom)
        );
        assert_eq!(out.sequence(), 2);
    }
}

#[test]
#[allow(clippy::reversed_empty_ranges)]
fn absurd_ranges_have_no_room() {
    for combination in combinations() {
        let (mut out, mut inb) = pair(combination, true);
        let mut buf = [0; 100];
        for (inner, tfc_pad) in [
            (15..20, 0),
            (20..16, 0),
            (16..101, 0),
            (16..usize::MAX, 0),
            (usize::MAX..usize::MAX, 0),
            (16..20, usize::MAX),
            (16..20, usize::MAX - 30),
            (16..20, 100),
        ] {
            assert_eq!(
                out.seal(&mut buf, inner, 4, tfc_pad),
                Err(SealError::NoRoom)
            );
        }
        assert_eq!((out.sequence(), buf), (0, [0; 100]));
        for esp in [20..16, 0..101, usize::MAX..usize::MAX, 0..usize::MAX] {
            assert_eq!(inb.open(&mut buf, esp), Err(OpenError::Runt));
        }
    }
}

#[test]
fn an_exhausted_sa_never_seals_again() {
    for (combination, esn) in combinations().flat_map(|it| [(it, false), (it, true)]) {
        let (mut out, _) = pair(combination, esn);
        let last = if esn { u64::MAX } else { u32::MAX.into() };
        out.restore(OutboundState { sequence: last - 2 }, 0);
        let mut buf = [0; 64];
        assert!(out.seal(&mut buf, 16..20, 4, 0).is_ok());
        assert_eq!(out.remaining(), 1);
        assert!(out.seal(&mut buf, 16..20, 4, 0).is_ok());
        for _ in 0..3 {
            assert_eq!(
                out.seal(&mut buf, 16..20, 4, 0),
                Err(SealError::SeqExhausted)
            );
        }
        out.restore(OutboundState { sequence: 5 }, 0);
        out.restore(OutboundState { sequence: u64::MAX }, u64::MAX);
        assert_eq!((out.sequence(), out.remaining()), (last, 0));
    }
}

#[test]
fn esn_crosses_32_bits_and_its_high_half_is_authenticated() {
    for combination in combinations() {
        let (mut out, mut inb) = pair(combination, true);
        let edge = u64::from(u32::MAX);
        out.restore(OutboundState { sequence: edge - 3 }, 0);
        inb.restore(InboundState { highest: edge - 3 }, 0);
        let mut packets: Vec<_> = (0..6).map(|_| seal(&mut out, &[7; 40], 4, 0)).collect();
        // Across the edge backwards, then the rest.
        packets.swap(2, 3);
        let mut seen = Vec::new();
        for packet in &packets {
            seen.push(open(&mut inb, packet).0.unwrap().seq - edge.wrapping_sub(2));
            assert_eq!(open(&mut inb, packet).0, Err(OpenError::Replay));
        }
        assert_eq!(seen, [0, 1, 3, 2, 4, 5]);

        // A receiver that is one subspace off takes nothing.
        let (_, mut fresh) = pair(combination, true);
        assert_eq!(open(&mut fresh, &packets[5]).0, Err(OpenError::Integrity));
        // And one without ESN authenticates other data.
        let (_, mut short) = pair(combination, false);
        assert_eq!(open(&mut short, &packets[5]).0, Err(OpenError::Integrity));
    }
}

#[test]
fn too_old_is_refused() {
    // With ESN an old number is taken for one 2^32 further on (RFC 4303 appendix A2).
    let errors = [(false, OpenError::Replay), (true, OpenError::Integrity)];
    for ((esn, error), provider) in errors.iter().flat_map(|it| Provider::ALL.map(|p| (it, p))) {
        let combination = (CipherSuite::Aes128Gcm16, provider, provider);
        let (mut out, mut inb) = pair(combination, *esn);
        let packets: Vec<_> = (0..4098).map(|_| seal(&mut out, &[1], 4, 0)).collect();
        assert!(open(&mut inb, &packets[4097]).0.is_ok());
        assert_eq!(open(&mut inb, &packets[0]).0, Err(*error));
        assert_eq!(open(&mut inb, &packets[1]).0, Err(*error));
        assert!(open(&mut inb, &packets[2]).0.is_ok());
        assert_eq!(open(&mut inb, &packets[2]).0, Err(OpenError::Replay));
    }
}

#[test]
fn another_key_salt_or_spi_does_not_open() {
    for (suite, sender, receiver) in combinations() {
        let (mut out, _) = pair((suite, sender, receiver), true);
        let esp = seal(&mut out, &[9; 33], 41, 0);
        for flipped in 0..suite.keymat_len() {
            let mut keymat = key(suite).expose_keymat().to_vec();
            keymat[flipped] ^= 1;
            let key = mitregate_esp::SaKey::from_keymat(suite, &keymat).unwrap();
            let mut inb = InboundSa::new(out.spi(), &key, receiver, 0, true);
            assert_eq!(open(&mut inb, &esp).0, Err(OpenError::Integrity));
        }
        let mut inb = InboundSa::new(spi(0x8765_4321), &key(suite), receiver, 0, true);
        assert_eq!(open(&mut inb, &esp).0, Err(OpenError::WrongSpi));
    }
}

/// An authentic packet whose plaintext is `text`, which a correct sender would not write.
fn forge(provider: Provider, suite: CipherSuite, sequence: u32, text: &[u8]) -> Vec<u8> {
    let key = key(suite);
    let (cipher_key, salt) = key.expose_keymat().split_at(suite.key_len());
    let spi = 0x1234_5678u32.to_be_bytes();
    let iv = [0xa5; 8];
    let aad = [spi, sequence.to_be_bytes()].concat();
    let nonce = [salt, &iv].concat().try_into().unwrap();
    let mut text = text.to_vec();
    let aead = Aead::new(provider, suite, cipher_key).unwrap();
    let icv = aead.seal(nonce, &aad, &mut text).unwrap();
    [&aad, &iv[..], &text, &icv].concat()
}

#[test]
fn lying_padding_is_refused_and_counts_as_seen() {
    for combination in combinations() {
        let (suite, sender, _) = combination;
        for (text, content) in [
            (&[0, 4][..], Some(0)),
            (&[1, 2, 2, 4], Some(0)),
            (&[0xaa, 1, 1, 4], Some(1)),
            (&[0xaa, 0xbb, 0, 4], Some(2)),
            (&[1, 2, 3, 4], None),   // pad length 3, two bytes there
            (&[0, 0, 255, 4], None), // pad length beyond the packet
            (&[1, 4], None),         // pad length 1, nothing there
            (&[2, 1, 2, 4], None),   // not 1, 2
            (&[0, 0, 2, 4], None),
        ] {
            let (_, mut inb) = pair(combination, false);
            let esp = forge(sender, suite, 77, text);
            let opened = open(&mut inb, &esp).0;
            match content {
                Some(len) => assert_eq!(opened.unwrap().inner, 16..16 + len),
                None => assert_eq!(opened, Err(OpenError::BadPadding)),
            }
            assert_eq!(open(&mut inb, &esp).0, Err(OpenError::Replay));
        }
        // The longest padding there is.
        let text: Vec<u8> = (1..=255).chain([255, 41]).collect();
        let (_, mut inb) = pair(combination, false);
        let opened = open(&mut inb, &forge(sender, suite, 1, &text)).0.unwrap();
        assert_eq!((opened.inner, opened.next_header), (16..16, 41));
    }
}

#[test]
fn a_restored_receiver_takes_no_replay() {
    for combination in combinations() {
        let (mut out, mut inb) = pair(combination, true);
        let packets: Vec<_> = (0..20).map(|_| seal(&mut out, &[1], 4, 0)).collect();
        for packet in &packets[..10] {
            assert!(open(&mut inb, packet).0.is_ok());
        }
        let saved = serde_json::to_string(&inb.state()).unwrap();
        for packet in &packets[10..15] {
            assert!(open(&mut inb, packet).0.is_ok());
        }
        let (_, mut restored) = pair(combination, true);
        restored.restore(serde_json::from_str(&saved).unwrap(), 5);
        for packet in &packets[..15] {
            assert_eq!(open(&mut restored, packet).0, Err(OpenError::Replay));
        }
        for packet in &packets[15..] {
            assert!(open(&mut restored, packet).0.is_ok());
        }
    }
}

#[test]
fn an_sa_can_move_to_its_worker() {
    fn is_send<T: Send>() {}
    is_send::<OutboundSa>();
    is_send::<InboundSa>();
}
