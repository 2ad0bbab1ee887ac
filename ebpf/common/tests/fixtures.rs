//! The fixture table on the host.

mod tables;

use std::collections::BTreeSet;

use mitregate_ebpf_common::{
    Role, Verdict, classify,
    fixtures::{fixtures, our_keys},
};
use tables::HostTables;

#[test]
fn every_fixture_has_its_verdict() {
    let tables = HostTables::new(our_keys());
    let wrong: Vec<_> = fixtures()
        .into_iter()
        .map(|it| (classify(it.role, it.frame.as_slice(), &tables), it))
        .filter(|(verdict, it)| *verdict != it.verdict)
        .map(|(verdict, it)| format!("{}: {verdict:?}, not {:?}", it.name, it.verdict))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn names_are_unique_and_every_verdict_is_there() {
    let table = fixtures();
    let names: BTreeSet<_> = table.iter().map(|it| it.name).collect();
    assert_eq!(names.len(), table.len());
    for verdict in Verdict::ALL {
        assert!(
            table.iter().any(|it| it.verdict == verdict),
            "no fixture for {verdict:?}"
        );
    }
}

#[test]
fn labels_and_indices_are_unique() {
    let labels: BTreeSet<_> = Verdict::ALL.iter().map(|verdict| verdict.label()).collect();
    assert_eq!(labels.len(), Verdict::ALL.len());
    for (at, verdict) in Verdict::ALL.into_iter().enumerate() {
        assert_eq!(verdict.index() as usize, at);
    }
}

/// Truncation never turns a frame into something else that is redirected: whatever is cut off is
/// missed by a length field.
#[test]
fn a_cut_frame_is_never_redirected_as_something_else() {
    for it in fixtures().into_iter().filter(|it| it.role == Role::Outer) {
        for len in 0..it.frame.len() {
            let tables = HostTables::new(our_keys());
            let verdict = classify(Role::Outer, &it.frame[..len], &tables);
            assert!(
                !verdict.redirects() || verdict == it.verdict,
                "{} cut to {len}: {verdict:?}",
                it.name
            );
        }
    }
}
