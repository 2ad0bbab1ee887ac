//! The order of the tunnels' selectors (RFC 4301 §4.4.1: the first that matches decides).

use std::net::IpAddr;

use mitregate_control::{ChildConfig, ConnectionConfig, Dynamic};
use mitregate_wire::TrafficSelector;

use super::convert::Check;
use super::locate::FieldPath;

/// Narrow before wide, so that a tunnel inside another's selectors gets its packets.
pub(super) fn order(connections: &mut [ConnectionConfig]) {
    for connection in &mut *connections {
        connection
            .children
            .sort_by(|a, b| breadth(a).total_cmp(&breadth(b)));
    }
    let widest =
        |connection: &ConnectionConfig| connection.children.iter().map(breadth).fold(0.0, f64::max);
    connections.sort_by(|a, b| widest(a).total_cmp(&widest(b)));
}

/// Refuses what cannot mean anything sensible.
pub(super) fn check(check: &mut Check<'_>, connections: &[ConnectionConfig]) {
    let tunnels: Vec<_> = connections
        .iter()
        .flat_map(|connection| {
            connection
                .children
                .iter()
                .map(move |child| (connection.name.as_str(), child))
        })
        .collect();
    for (n, (connection, child)) in tunnels.iter().enumerate() {
        let at = FieldPath::of(&["connections", connection, "children", &child.name]);
        for (index, remote) in child.remote_ts.iter().enumerate() {
            // One part of the other is common: everything, through a peer that is part of it.
            if child.local_ts.contains(remote) {
                check.error(
                    &at.key("remote_ts").index(index),
                    format!("{remote} is also in local_ts: it cannot be on both sides"),
                );
            }
        }
        for (other_connection, other) in &tunnels[..n] {
            // What they come to is known only once peers have addresses.
            if [child, other]
                .iter()
                .any(|c| c.dynamic != Dynamic::default())
            {
                continue;
            }
            let other_name = format!("connections.{other_connection}.children.{}", other.name);
            if covers(other, child) {
                check.error(
                    &at,
                    format!("{other_name} has the same selectors or wider ones and takes all its packets"),
                );
            } else if overlap(other, child) && !covers(child, other) {
                check.error(
                    &at,
                    format!(
                        "its selectors overlap those of {other_name} in part: make them disjoint, \
                         or one part of the other"
                    ),
                );
            }
        }
    }
}

/// Whether every packet of `b` matches `a`.
fn covers(a: &ChildConfig, b: &ChildConfig) -> bool {
    let all = |a: &[TrafficSelector], b: &[TrafficSelector]| {
        b.iter()
            .all(|narrow| a.iter().any(|wide| wide.contains(narrow)))
    };
    all(&a.local_ts, &b.local_ts) && all(&a.remote_ts, &b.remote_ts)
}

fn overlap(a: &ChildConfig, b: &ChildConfig) -> bool {
    let any = |a: &[TrafficSelector], b: &[TrafficSelector]| {
        a.iter().any(|a| b.iter().any(|b| a.intersect(b).is_some()))
    };
    any(&a.local_ts, &b.local_ts) && any(&a.remote_ts, &b.remote_ts)
}

/// How many pairs of addresses, protocols and ports match: an order, not a count.
fn breadth(child: &ChildConfig) -> f64 {
    let side = |selectors: &[TrafficSelector], dynamic: bool| {
        // An address is what dynamic comes to.
        let dynamic = if dynamic { 256.0 * 65536.0 } else { 0.0 };
        dynamic + selectors.iter().map(size).sum::<f64>()
    };
    side(&child.local_ts, child.dynamic.local) * side(&child.remote_ts, child.dynamic.remote)
}

fn size(selector: &TrafficSelector) -> f64 {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => f64::from(v4.to_bits()),
        // Rounded, which an order can bear.
        #[allow(clippy::cast_precision_loss)]
        IpAddr::V6(v6) => v6.to_bits() as f64,
    };
    let addresses = bits(selector.end()) - bits(selector.start()) + 1.0;
    let protocols = if selector.protocol() == 0 { 256.0 } else { 1.0 };
    let ports = selector.ports();
    let ports = if selector.is_opaque() {
        1.0
    } else {
        f64::from(*ports.end()) - f64::from(*ports.start()) + 1.0
    };
    addresses * protocols * ports
}
