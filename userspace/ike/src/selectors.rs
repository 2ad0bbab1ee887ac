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
