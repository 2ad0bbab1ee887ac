//! `classify` on frames that nobody wrote by hand.

mod tables;

use mitregate_ebpf_common::{
    Role, Verdict, classify,
    fixtures::{Fixture, fixtures, our_keys},
};
use proptest::prelude::*;
use tables::HostTables;

/// A frame of the table with some bytes changed, cut or continued.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let frames: Vec<_> = fixtures().into_iter().map(|it| it.frame).collect();
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    let tail = proptest::collection::vec(any::<u8>(), 0..32);
    (
        prop::sample::select(frames),
        changes,
        any::<prop::sample::Index>(),
        any::<bool>(),
        tail,
    )
        .prop_map(|(mut frame, changes, cut, cuts, tail)| {
            for (at, byte) in changes {
                if !frame.is_empty() {
                    let at = at.index(frame.len());
                    frame[at] = byte;
                }
            }
            if cuts {
                frame.truncate(cut.index(frame.len() + 1));
            }
            frame.extend(tail);
            frame
        })
}

fn redirected() -> Vec<Fixture> {
    let outer = |it: &Fixture| it.role == Role::Outer && it.verdict.redirects();
    fixtures().into_iter().filter(outer).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4096,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn never_panics_on_noise(frame in proptest::collection::vec(any::<u8>(), 0..256)) {
        let tables = HostTables::new(our_keys());
        classify(Role::Outer, frame.as_slice(), &tables);
    }

    #[test]
    fn never_panics_on_nearly_right_frames(frames in proptest::collection::vec(mutated(), 1..8)) {
        let tables = HostTables::new(our_keys());
        for frame in frames {
            classify(Role::Outer, frame.as_slice(), &tables);
        }
    }

    /// Without addresses of ours nothing is taken from the kernel.
    #[test]
    fn nothing_is_redirected_that_is_not_for_us(frame in mutated()) {
        let verdict = classify(Role::Outer, frame.as_slice(), &HostTables::new([]));
        prop_assert!(!verdict.redirects(), "{verdict:?}");
    }

    #[test]
    fn an_inner_port_takes_everything(frame in mutated()) {
        let verdict = classify(Role::Inner, frame.as_slice(), &HostTables::new([]));
        prop_assert_eq!(verdict, Verdict::Inner);
        prop_assert!(verdict.redirects());
    }

    /// What follows the packet in the frame (padding, a trailer) changes nothing.
    #[test]
    fn padding_changes_nothing(
        it in prop::sample::select(redirected()),
        tail in proptest::collection::vec(any::<u8>(), 1..64),
    ) {
        let alone = classify(Role::Outer, it.frame.as_slice(), &HostTables::new(our_keys()));
        let mut longer = it.frame;
        longer.extend(tail);
        let padded = classify(Role::Outer, longer.as_slice(), &HostTables::new(our_keys()));
        prop_assert_eq!(alone, padded);
    }
}
