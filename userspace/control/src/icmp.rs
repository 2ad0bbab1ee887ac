//! The inner ICMP echo by which a tunnel is asked whose peer knows no ESP Echo: from where, to where.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mitregate_gate::GateMode;
use mitregate_wire::TrafficSelector;
use mitregate_wire::icmp::{self, Echo, Family};
use mitregate_wire::ip::protocol;

/// What each of them carries, and nobody else knows.
pub(crate) type Secret = [u8; 16];
/// An IPv6 header, an ICMP header, the secret and a person's data.
const ROOM: usize = 40 + icmp::HEADER_LEN + 16 + MAX_SIZE;
/// Bytes of data, as for ESP Echo.
const MAX_SIZE: usize = mitregate_wire::echo::MAX_ECHOED;

/// Source and target of the echos of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) source: IpAddr,
    pub(crate) target: IpAddr,
}

/// Where a target could be, besides in the selectors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    /// Configured, in order.
    pub(crate) targets: &'a [IpAddr],
    /// The peer's outer address.
    pub(crate) peer: IpAddr,
    /// Our addresses that are likelier to be right than others within the selectors.
    pub(crate) own: &'a [IpAddr],
}

/// The first pair of ends between which the selectors let an echo and its answer pass. Without a configured
/// target within the selectors: the peer itself where it is within, else the first host of the first
/// selector for which there is a source.
pub(crate) fn choose(
    local: &[TrafficSelector],
    remote: &[TrafficSelector],
    known: Known<'_>,
) -> Option<Ends> {
    let Known { targets, peer, own } = known;
    let hosts = remote.iter().filter_map(first_host);
    let candidates = targets.iter().copied().chain([peer]).chain(hosts);
    candidates.into_iter().find_map(|target| {
        let hosts = local.iter().filter_map(first_host);
        let mut sources = own.iter().copied().chain(hosts);
        sources.find_map(|source| {
            let ends = Ends { source, target };
            passes(local, remote, ends).then_some(ends)
        })
    })
}

/// Whether the selectors let the request go and its answer come.
fn passes(local: &[TrafficSelector], remote: &[TrafficSelector], ends: Ends) -> bool {
    let Ends { source, target } = ends;
    if source.is_ipv4() != target.is_ipv4() || source == target {
        return false;
    }
    let (protocol, types) = match Family::of(target) {
        Family::V4 => (protocol::ICMP, [8u16, 0]),
        Family::V6 => (protocol::ICMPV6, [128, 129]),
    };
    types.into_iter().all(|kind| {
        // Type and code stand where ports do (RFC 4301 §4.4.1.1).
        let port = Some(kind << 8);
        let within = |side: &[TrafficSelector], address| {
            side.iter().any(|ts| ts.matches(protocol, address, port))
        };
        within(local, source) && within(remote, target)
    })
}

/// An address of a selector that is likely to be a host's: of a network the one after its own, where
/// routers tend to be. Of all addresses there are, none.
fn first_host(ts: &TrafficSelector) -> Option<IpAddr> {
    let start = ts.start();
    if start.is_unspecified() {
        return None;
    }
    let network = ts.prefix().is_some_and(|(_, len)| match start {
        IpAddr::V4(_) => len < 31,
        IpAddr::V6(_) => len < 127,
    });
    Some(match (start, network) {
        (IpAddr::V4(v4), true) => Ipv4Addr::from_bits(v4.to_bits() | 1).into(),
        (IpAddr::V6(v6), true) => Ipv6Addr::from_bits(v6.to_bits() | 1).into(),
        (address, false) => address,
    })
}

/// Whether a gate of this mode ever asks by ICMP.
pub(crate) fn is_used(mode: GateMode) -> bool {
    matches!(mode, GateMode::Auto | GateMode::Icmp)
}

/// The ESP next header of a packet between these ends, and the packet: an echo request.
pub(crate) fn request(
    ends: Ends,
    id: u16,
    seq: u16,
    secret: &Secret,
    size: usize,
) -> (u8, Vec<u8>) {
    let mut data = secret.to_vec();
    data.resize(size.clamp(data.len(), MAX_SIZE), 0);
    let echo = Echo {
        request: true,
        id,
        seq,
        data: &data,
    };
    let mut packet = vec![0; ROOM];
    let Ends { source, target } = ends;
    let len = icmp::emit_echo((source, target), &echo, &mut packet).unwrap_or_default();
    packet.truncate(len);
    let next_header = match target {
        IpAddr::V4(_) => protocol::IPV4,
        IpAddr::V6(_) => protocol::IPV6,
    };
    (next_header, packet)
}

/// Identifier, sequence number and bytes of data of an answer that carries our secret, from whichever
/// address: a host may have several.
pub(crate) fn answer(packet: &[u8], secret: &Secret) -> Option<(u16, u16, usize)> {
    let (_, echo) = icmp::parse_echo(packet)?;
    let ours = !echo.request && echo.data.starts_with(secret);
    ours.then_some((echo.id, echo.seq, echo.data.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(texts: &[&str]) -> Vec<TrafficSelector> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn chosen(local: &[&str], remote: &[&str], targets: &[&str], own: &[&str]) -> Option<String> {
        let addresses = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let (targets, own) = (addresses(targets), addresses(own));
        let known = Known {
            targets: &targets,
            peer: "203.0.113.1".parse().unwrap(),
            own: &own,
        };
        let ends = choose(&ts(local), &ts(remote), known)?;
        Some(format!("{} {}", ends.source, ends.target))
    }

    #[test]
    fn ends_lie_within_the_selectors() {
        let some = |text: &str| Some(text.to_owned());
        let net = ["10.1.0.0/24"];
        assert_eq!(
            chosen(&net, &["10.2.0.0/24"], &[], &[]),
            some("10.1.0.1 10.2.0.1")
        );
        assert_eq!(
            chosen(&["10.1.0.7/32"], &["10.2.0.9-10.2.0.20"], &[], &[]),
            some("10.1.0.7 10.2.0.9")
        );
        // A configured one, if it is within; the first of the family that has a source.
        let remote = ["10.2.0.0/24", "2001:db8:2::/64"];
        assert_eq!(
            chosen(&net, &remote, &["10.9.0.1", "10.2.0.44"], &["10.1.0.3"]),
            some("10.1.0.3 10.2.0.44")
        );
        assert_eq!(
            chosen(&["2001:db8:1::/64"], &remote, &[], &[]),
            some("2001:db8:1::1 2001:db8:2::1")
        );
        // All the world: the peer itself.
        assert_eq!(
            chosen(&["10.3.0.4/32"], &["0.0.0.0/0"], &[], &[]),
            some("10.3.0.4 203.0.113.1")
        );
        assert_eq!(chosen(&["10.3.0.4/32"], &["::/0"], &[], &[]), None);
    }

    #[test]
    fn selectors_that_forbid_icmp_leave_nothing_to_ask() {
        let tcp = ["10.2.0.0/24[tcp]"];
        assert_eq!(chosen(&["10.1.0.0/24"], &tcp, &[], &[]), None);
        // The answer has to pass, too.
        let request_only = ["10.2.0.0/24[icmp/8]"];
        assert_eq!(chosen(&["10.1.0.0/24"], &request_only, &[], &[]), None);
        let both = ["10.2.0.0/24[icmp/8]", "10.2.0.0/24[icmp/0]"];
        assert!(chosen(&["10.1.0.0/24"], &both, &[], &[]).is_some());
        // One address on both sides is nobody to ask.
        assert_eq!(chosen(&["10.1.0.1/32"], &["10.1.0.1/32"], &[], &[]), None);
    }

    #[test]
    fn an_answer_is_known_by_the_secret_and_nothing_else() {
        let secret = [7; 16];
        for (source, target) in [("10.1.0.1", "10.2.0.1"), ("2001:db8::1", "2001:db8::2")] {
            let ends = Ends {
                source: source.parse().unwrap(),
                target: target.parse().unwrap(),
            };
            let (_, request) = request(ends, 3, 4, &secret, 100);
            // What we asked, reflected, is none.
            assert_eq!(answer(&request, &secret), None);
            let reply = |data: &[u8]| {
                let echo = Echo {
                    request: false,
                    id: 3,
                    seq: 4,
                    data,
                };
                let mut out = vec![0; 600];
                let back = (ends.target, ends.source);
                let len = icmp::emit_echo(back, &echo, &mut out).unwrap();
                out.truncate(len);
                out
            };
            let right = reply(&[7; 100]);
            assert_eq!(answer(&right, &secret), Some((3, 4, 100)));
            assert_eq!(answer(&reply(&[8; 100]), &secret), None);
            assert_eq!(answer(&reply(&[7; 15]), &secret), None);
            let mut damaged = right.clone();
            damaged[right.len() - 1] ^= 1;
            assert_eq!(answer(&damaged, &secret), None);
            for len in 0..right.len() {
                assert_eq!(answer(&right[..len], &secret), None);
            }
        }
    }
}
