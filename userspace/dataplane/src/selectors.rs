//! Traffic selectors (RFC 4301 §4.4.1.1), and the form in which packets are held against them.

use std::net::IpAddr;

use mitregate_wire::TrafficSelector;

use crate::packet::{Addrs, Flow};

/// Which packets: those from one of `local` to one of `remote`, outbound; the reverse, inbound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// Our side.
    pub local: Vec<TrafficSelector>,
    /// The peer's side.
    pub remote: Vec<TrafficSelector>,
}

/// One selector of one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule<A> {
    start: A,
    end: A,
    start_port: u16,
    end_port: u16,
    /// 0 is any.
    protocol: u8,
    /// Whether a packet that shows no port will do.
    hidden_port: bool,
    /// Whether neither protocol nor port matter.
    addresses_only: bool,
}

impl<A: Copy + Ord> Rule<A> {
    fn new(ts: &TrafficSelector, start: A, end: A) -> Self {
        let (start_port, end_port) = ts.ports().into_inner();
        Self {
            start,
            end,
            start_port,
            end_port,
            protocol: ts.protocol(),
            hidden_port: ts.any_port() || ts.is_opaque(),
            addresses_only: ts.protocol() == 0 && ts.any_port(),
        }
    }

    fn matches(&self, address: A, protocol: u8, port: Option<u16>) -> bool {
        self.start <= address
            && address <= self.end
            && (self.addresses_only || self.matches_upper(protocol, port))
    }

    fn matches_upper(&self, protocol: u8, port: Option<u16>) -> bool {
        let port_matches = match port {
            Some(port) => self.start_port <= port && port <= self.end_port,
            None => self.hidden_port,
        };
        (self.protocol == 0 || self.protocol == protocol) && port_matches
    }
}

/// The selectors of one side, by family.
#[derive(Debug, Default, PartialEq, Eq)]
struct Side {
    v4: Box<[Rule<u32>]>,
    v6: Box<[Rule<u128>]>,
}

impl Side {
    fn new(selectors: &[TrafficSelector]) -> Self {
        let v4 = selectors
            .iter()
            .filter_map(|ts| match (ts.start(), ts.end()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => Some(Rule::new(ts, a.to_bits(), b.to_bits())),
                _ => None,
            });
        let v6 = selectors
            .iter()
            .filter_map(|ts| match (ts.start(), ts.end()) {
                (IpAddr::V6(a), IpAddr::V6(b)) => Some(Rule::new(ts, a.to_bits(), b.to_bits())),
                _ => None,
            });
        Self {
            v4: v4.collect(),
            v6: v6.collect(),
        }
    }
}

fn any<A: Copy + Ord>(rules: &[Rule<A>], address: A, protocol: u8, port: Option<u16>) -> bool {
    rules
        .iter()
        .any(|rule| rule.matches(address, protocol, port))
}

/// What can be said of selectors at a glance: the least and the greatest address of each side.
/// For most tunnels that is all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    local: [u32; 2],
    remote: [u32; 2],
    /// Whether every IPv4 packet within is meant.
    exact: bool,
}

/// What an [`Outline`] says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Glance {
    Yes,
    No,
    /// It takes a closer look.
    Perhaps,
}

impl Outline {
    fn new(local: &Side, remote: &Side) -> Self {
        let hull = |side: &Side| {
            let start = side.v4.iter().map(|rule| rule.start).min();
            let end = side.v4.iter().map(|rule| rule.end).max();
            // Of no rules, a range without any address.
            [start.unwrap_or(u32::MAX), end.unwrap_or(0)]
        };
        let exact = |side: &Side| matches!(&*side.v4, [rule] if rule.addresses_only);
        Self {
            local: hull(local),
            remote: hull(remote),
            exact: exact(local) && exact(remote),
        }
    }

    #[inline(always)]
    fn glance(&self, addrs: Addrs, outbound: bool) -> Glance {
        let Addrs::V4 { src, dst } = addrs else {
            return Glance::Perhaps;
        };
        let (local, remote) = if outbound { (src, dst) } else { (dst, src) };
        let within = |address: u32, [start, end]: [u32; 2]| start <= address && address <= end;
        match within(local, self.local) && within(remote, self.remote) {
            true if self.exact => Glance::Yes,
            true => Glance::Perhaps,
            false => Glance::No,
        }
    }

    /// Whether a packet of ours may take this way, by the rules that this is the outline of.
    #[inline(always)]
    pub(crate) fn allows_outbound(&self, flow: &Flow, rules: impl FnOnce() -> bool) -> bool {
        match self.glance(flow.addrs, true) {
            Glance::Yes => true,
            Glance::No => false,
            Glance::Perhaps => rules(),
        }
    }
}

/// [`Selectors`], ready for packets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    outline: Outline,
    local: Side,
    remote: Side,
}

impl Rules {
    pub(crate) fn new(Selectors { local, remote }: Selectors) -> Self {
        let (local, remote) = (Side::new(&local), Side::new(&remote));
        Self {
            outline: Outline::new(&local, &remote),
            local,
            remote,
        }
    }

    pub(crate) fn outline(&self) -> Outline {
        self.outline
    }

    /// Whether a packet of ours may take this way.
    #[inline(always)]
    pub(crate) fn allow_outbound(&self, flow: &Flow) -> bool {
        self.outline
            .allows_outbound(flow, || within(flow, &self.local, &self.remote))
    }

    /// Whether a packet of the peer's may come this way.
    #[inline(always)]
    pub(crate) fn allow_inbound(&self, flow: &Flow) -> bool {
        match self.outline.glance(flow.addrs, false) {
            Glance::Yes => true,
            Glance::No => false,
            Glance::Perhaps => within(flow, &self.remote, &self.local),
        }
    }
}

#[cold]
fn within(flow: &Flow, from: &Side, to: &Side) -> bool {
    let (src_port, dst_port) = flow.ports().unzip();
    match flow.addrs {
        Addrs::V4 { src, dst } => {
            any(&from.v4, src, flow.protocol, src_port) && any(&to.v4, dst, flow.protocol, dst_port)
        }
        Addrs::V6 { src, dst } => {
            any(&from.v6, src, flow.protocol, src_port) && any(&to.v6, dst, flow.protocol, dst_port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mitregate_wire::ip;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..6).prop_map(|n| IpAddr::from(n.to_be_bytes())),
            (0u128..6).prop_map(|n| IpAddr::from(n.to_be_bytes())),
        ]
    }

    fn selector() -> impl Strategy<Value = TrafficSelector> {
        let ports = prop_oneof![
            Just((0, u16::MAX)),
            Just((u16::MAX, 0)),
            (0u16..4, 0u16..4).prop_map(|(a, b)| (a.min(b), a.max(b))),
        ];
        (
            prop::sample::select(vec![0u8, 6, 17]),
            ports,
            address(),
            address(),
        )
            .prop_filter_map("one family", |(protocol, (first, last), a, b)| {
                TrafficSelector::new(protocol, first..=last, a.min(b), a.max(b)).ok()
            })
    }

    proptest! {
        #[test]
        fn rules_mean_what_the_selectors_mean(
            local in prop::collection::vec(selector(), 0..3),
            remote in prop::collection::vec(selector(), 0..3),
            (src, dst) in (address(), address()),
            protocol in prop::sample::select(vec![6u8, 17, 132]),
            ports in prop::option::of((0u16..5, 0u16..5)),
        ) {
            let addrs = match (src, dst) {
                (IpAddr::V4(a), IpAddr::V4(b)) => Addrs::V4 { src: a.to_bits(), dst: b.to_bits() },
                (IpAddr::V6(a), IpAddr::V6(b)) => Addrs::V6 { src: a.to_bits(), dst: b.to_bits() },
                _ => return Ok(()),
            };
            let rules = Rules::new(Selectors { local: local.clone(), remote: remote.clone() });
            let flow = Flow::with_ports(addrs, protocol, ports);
            let model = ip::Flow { src, dst, protocol, ports };
            prop_assert_eq!(rules.allow_outbound(&flow), model.is_within(&local, &remote));
            prop_assert_eq!(rules.allow_inbound(&flow), model.is_within(&remote, &local));
        }
    }
}
