//! Traffic selectors: between their form on the wire and ours, and narrowing (RFC 7296 §2.9).

use mitregate_wire::TrafficSelector;
use mitregate_wire::ike::{Addresses, Selector};

/// Most selectors of one side of a CHILD_SA that narrowing makes: beyond, some are left out.
const MAX_NARROWED: usize = 64;

/// Their form on the wire.
pub(crate) fn to_wire(selectors: &[TrafficSelector]) -> Vec<Selector> {
    let one = |ts: &TrafficSelector| {
        // A `TrafficSelector` has one family, so none is left out.
        let (start_port, end_port) = ts.ports().into_inner();
        Addresses::new(ts.start(), ts.end()).map(|addresses| Selector::Range {
            protocol: ts.protocol(),
            start_port,
            end_port,
            addresses,
        })
    };
    selectors.iter().filter_map(one).collect()
}

/// From the wire, without those of a type we do not know, and without what is no range.
pub(crate) fn from_wire(selectors: &[Selector]) -> Vec<TrafficSelector> {
    let one = |selector: &Selector| match selector {
        Selector::Range {
            protocol,
            start_port,
            end_port,
            addresses,
        } => {
            let (start, end) = addresses.bounds();
            TrafficSelector::new(*protocol, *start_port..=*end_port, start, end).ok()
        }
        Selector::Unknown { .. } => None,
    };
    selectors.iter().filter_map(one).collect()
}

/// What `offered` and `ours` have in common; the peer's order is kept, its first selector being
/// the one that a packet of its own asked for.
pub(crate) fn narrow(
    offered: &[TrafficSelector],
    ours: &[TrafficSelector],
) -> Vec<TrafficSelector> {
    let mut common: Vec<TrafficSelector> = Vec::new();
    for theirs in offered {
        for overlap in ours.iter().filter_map(|ours| ours.intersect(theirs)) {
            if common.len() == MAX_NARROWED {
                return common;
            }
            if !common.iter().any(|wider| wider.contains(&overlap)) {
                common.retain(|narrower| !overlap.contains(narrower));
                common.push(overlap);
            }
        }
    }
    common
}

/// Is an answer no wider than what was offered?
pub(crate) fn within(answer: &[TrafficSelector], offered: &[TrafficSelector]) -> bool {
    !answer.is_empty()
        && answer
            .iter()
            .all(|narrow| offered.iter().any(|wide| wide.contains(narrow)))
}

/// Does a successor allow all that `old` allowed and `offered` still allows? A rekey must not leave
/// less than there was (RFC 7296 §2.9.2), but for what our own policy gave up since, as an address that
/// is no longer ours.
pub(crate) fn replaces(
    new: &[TrafficSelector],
    old: &[TrafficSelector],
    offered: &[TrafficSelector],
) -> bool {
    let kept = narrow(old, offered);
    kept.iter()
        .all(|old| new.iter().any(|new| new.contains(old)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(text: &str) -> Vec<TrafficSelector> {
        text.split(',').map(|ts| ts.parse().unwrap()).collect()
    }

    fn text(list: &[TrafficSelector]) -> String {
        list.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    }

    #[test]
    fn narrowing() {
        for (offered, ours, expected) in [
            ("10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/16"),
            ("10.1.0.0/16", "10.0.0.0/8", "10.1.0.0/16"),
            (
                "10.0.0.0/8,fd00::/8",
                "fd00:1::/32,10.2.0.0/16",
                "10.2.0.0/16,fd00:1::/32",
            ),
            (
                "10.0.0.0-10.0.0.9",
                "10.0.0.5-10.0.0.20",
                "10.0.0.5-10.0.0.9",
            ),
            (
                "10.0.0.0/8[tcp]",
                "0.0.0.0/0[tcp/80-90]",
                "10.0.0.0/8[tcp/80-90]",
            ),
            ("10.0.0.0/8[udp]", "0.0.0.0/0[tcp]", ""),
            // What a wider one covers is left out, whichever comes first.
            ("10.1.1.1/32,10.0.0.0/8", "0.0.0.0/0", "10.0.0.0/8"),
            ("10.0.0.0/8,10.1.1.1/32", "0.0.0.0/0", "10.0.0.0/8"),
            ("10.0.0.0/8", "10.0.0.0/8,10.1.0.0/16", "10.0.0.0/8"),
            ("192.0.2.0/24", "198.51.100.0/24", ""),
        ] {
            assert_eq!(
                text(&narrow(&list(offered), &list(ours))),
                expected,
                "{offered} {ours}"
            );
        }
    }

    #[test]
    fn an_answer_may_be_narrower_but_not_wider_nor_empty() {
        let offered = list("10.0.0.0/8,fd00::/16[tcp]");
        assert!(within(&list("10.1.0.0/16"), &offered));
        assert!(within(&list("fd00::1/128[tcp/22],10.0.0.0/8"), &offered));
        assert!(!within(&list("fd00::1/128"), &offered));
        assert!(!within(&list("10.1.0.0/16,11.0.0.0/8"), &offered));
        assert!(!within(&[], &offered));
    }

    #[test]
    fn a_successor_may_be_wider_but_not_narrower() {
        let offered = list("10.0.0.0/8,fd00::/16");
        let old = list("10.1.0.0/16");
        assert!(replaces(&list("10.1.0.0/16"), &old, &offered));
        assert!(replaces(&list("fd00::/16,10.0.0.0/8"), &old, &offered));
        assert!(!replaces(&list("10.1.0.0/17"), &old, &offered));
        assert!(!replaces(&list("10.1.0.0/16[tcp]"), &old, &offered));
        assert!(!replaces(&list("fd00::/16"), &old, &offered));
        // Not ours any more.
        let old = list("10.1.0.0/16,192.0.2.1/32");
        assert!(replaces(&list("10.1.0.0/16"), &old, &offered));
    }

    #[test]
    fn a_peer_cannot_make_it_long() {
        let many: Vec<_> = (0..=255_u8)
            .map(|byte| TrafficSelector::from_address([10, 0, 0, byte].into()))
            .collect();
        assert_eq!(narrow(&many, &list("0.0.0.0/0")).len(), MAX_NARROWED);
    }

    proptest! {
        #[test]
        fn narrowing_is_what_both_allow(
            offered in proptest::collection::vec(range(), 1..5),
            ours in proptest::collection::vec(range(), 1..5),
            address: u8,
        ) {
            let common = narrow(&offered, &ours);
            let address = [10, 0, 0, address].into();
            let allows = |list: &[TrafficSelector]| {
                list.iter().any(|ts| ts.matches(17, address, Some(9)))
            };
            prop_assert_eq!(allows(&common), allows(&offered) && allows(&ours));
            prop_assert!(common.is_empty() || within(&common, &offered) && within(&common, &ours));
            // What is asked for again is granted again, in full.
            prop_assert!(replaces(&narrow(&offered, &ours), &common, &offered));
            prop_assert_eq!(from_wire(&to_wire(&common)), common);
        }
    }

    fn range() -> impl Strategy<Value = TrafficSelector> {
        (0_u8..=255, 0_u8..=255).prop_map(|(a, b)| {
            let address = |byte| [10, 0, 0, byte].into();
            TrafficSelector::new(0, 0..=u16::MAX, address(a.min(b)), address(a.max(b))).unwrap()
        })
    }
}
