//! Traffic selectors (RFC 4301 §4.4.1.1, RFC 7296 §3.13.1), written as swanctl writes them.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::RangeInclusive;
use core::str::FromStr;

use crate::WireError;
use crate::ip::{Flow, protocol};

/// One side of a policy: addresses, a protocol and ports.
///
/// Displayed and parsed as `10.1.0.0/24`, `10.1.0.5-10.1.0.9[udp]`, `2001:db8::/32[tcp/80]`,
/// `10.1.0.0/24[17/1000-2000]`, `10.1.0.1[tcp/opaque]`. For ICMP and ICMPv6, type and code stand where
/// ports do, as one number with the type in its upper half (RFC 4301 §4.4.1.1, RFC 7296 §3.13.1), the
/// same one on both sides; written `10.1.0.0/24[icmp/8]` for a type with all its codes, `[icmp/3.4]`
/// for one code of it, `[icmp/3-5]` for several types.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    protocol: u8,
    /// First and last.
    ports: (u16, u16),
    start: IpAddr,
    end: IpAddr,
}

const ANY_PORT: (u16, u16) = (0, u16::MAX);
/// RFC 7296 §3.13.1
const OPAQUE: (u16, u16) = (u16::MAX, 0);

impl TrafficSelector {
    /// 0.0.0.0/0
    pub const ANY_V4: Self = Self {
        protocol: 0,
        ports: ANY_PORT,
        start: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        end: IpAddr::V4(Ipv4Addr::BROADCAST),
    };
    /// ::/0
    pub const ANY_V6: Self = Self {
        protocol: 0,
        ports: ANY_PORT,
        start: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        end: IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
    };

    /// A range of addresses, both ends included, of one family. `protocol` 0 is any. `ports` are
    /// 0..=65535 for any, 65535..=0 for OPAQUE (packets that show no port), else not empty.
    pub fn new(
        protocol: u8,
        ports: RangeInclusive<u16>,
        start: IpAddr,
        end: IpAddr,
    ) -> Result<Self, WireError> {
        let ports = ports.into_inner();
        let ports_ok = ports.0 <= ports.1 || ports == OPAQUE;
        if start.is_ipv4() != end.is_ipv4() || start > end || !ports_ok {
            return Err(WireError::Malformed);
        }
        Ok(Self {
            protocol,
            ports,
            start,
            end,
        })
    }

    /// All protocols of the prefix that `address` lies in; host bits are cleared.
    pub fn from_prefix(address: IpAddr, prefix_len: u8) -> Result<Self, WireError> {
        let (start, end) = match address {
            IpAddr::V4(a) if prefix_len <= 32 => {
                let host = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
                let (start, end) = (a.to_bits() & !host, a.to_bits() | host);
                (
                    Ipv4Addr::from_bits(start).into(),
                    Ipv4Addr::from_bits(end).into(),
                )
            }
            IpAddr::V6(a) if prefix_len <= 128 => {
                let host = u128::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
                let (start, end) = (a.to_bits() & !host, a.to_bits() | host);
                (
                    Ipv6Addr::from_bits(start).into(),
                    Ipv6Addr::from_bits(end).into(),
                )
            }
            _ => return Err(WireError::Malformed),
        };
        Self::new(0, 0..=u16::MAX, start, end)
    }

    /// One address, all protocols.
    #[must_use]
    pub const fn from_address(address: IpAddr) -> Self {
        Self {
            protocol: 0,
            ports: ANY_PORT,
            start: address,
            end: address,
        }
    }

    /// IP protocol; 0 is any.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Ports, both ends included; [`TrafficSelector::is_opaque`] is the empty range 65535..=0.
    #[must_use]
    pub const fn ports(&self) -> RangeInclusive<u16> {
        RangeInclusive::new(self.ports.0, self.ports.1)
    }

    /// First address.
    #[must_use]
    pub const fn start(&self) -> IpAddr {
        self.start
    }

    /// Last address, not below the first.
    #[must_use]
    pub const fn end(&self) -> IpAddr {
        self.end
    }

    /// Whether every port will do, also a hidden one.
    #[must_use]
    pub const fn any_port(&self) -> bool {
        matches!(self.ports, ANY_PORT)
    }

    /// Whether only packets that show no port will do.
    #[must_use]
    pub const fn is_opaque(&self) -> bool {
        matches!(self.ports, OPAQUE)
    }

    /// The prefix that the addresses are, if they are one.
    #[must_use]
    pub fn prefix(&self) -> Option<(IpAddr, u8)> {
        let (differing, width) = match (self.start, self.end) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits()), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128),
            _ => return None,
        };
        let len = u8::try_from(width - (u128::BITS - differing.leading_zeros())).ok()?;
        let prefix = Self::from_prefix(self.start, len).ok()?;
        ((prefix.start, prefix.end) == (self.start, self.end)).then_some((self.start, len))
    }

    /// Whether a packet's address on this side, its protocol and its port on this side lie within.
    /// `port` is `None` where the packet shows none (a later fragment, a protocol without ports):
    /// then only ANY and OPAQUE match (RFC 4301 §4.4.1.1).
    #[must_use]
    pub fn matches(&self, protocol: u8, address: IpAddr, port: Option<u16>) -> bool {
        (self.protocol == 0 || self.protocol == protocol)
            && self.start.is_ipv4() == address.is_ipv4()
            && self.start <= address
            && address <= self.end
            && match port {
                Some(port) => self.ports.0 <= port && port <= self.ports.1,
                None => self.any_port() || self.is_opaque(),
            }
    }

    /// Whether everything that `other` matches is matched here too.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.intersect(other) == Some(*other)
    }

    /// What both match, if anything: how a responder narrows (RFC 7296 §2.9).
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let protocol = match (self.protocol, other.protocol) {
            (0, p) | (p, 0) => p,
            (p, q) if p == q => p,
            _ => return None,
        };
        let (first, last) = intersect_ports(self.ports, other.ports)?;
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        if self.start.is_ipv4() != other.start.is_ipv4() {
            return None;
        }
        Self::new(protocol, RangeInclusive::new(first, last), start, end).ok()
    }
}

fn intersect_ports(a: (u16, u16), b: (u16, u16)) -> Option<(u16, u16)> {
    match (a, b) {
        (ANY_PORT, ports) | (ports, ANY_PORT) => Some(ports),
        (OPAQUE, OPAQUE) => Some(OPAQUE),
        (OPAQUE, _) | (_, OPAQUE) => None,
        _ => {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            (first <= last).then_some((first, last))
        }
    }
}

impl Flow {
    /// Whether the flow's source lies in one of `src` and its destination in one of `dst`.
    #[must_use]
    pub fn is_within(&self, src: &[TrafficSelector], dst: &[TrafficSelector]) -> bool {
        let (src_port, dst_port) = self.ports.unzip();
        src.iter()
            .any(|ts| ts.matches(self.protocol, self.src, src_port))
            && dst
                .iter()
                .any(|ts| ts.matches(self.protocol, self.dst, dst_port))
    }
}

/// Whether type and code stand where ports do.
const fn has_types(protocol: u8) -> bool {
    matches!(protocol, protocol::ICMP | protocol::ICMPV6)
}

/// One end of a range of ports; for ICMP a type with its `code`, a type alone (then `code` is the one
/// taken), or both as one number from 256.
fn parse_port(text: &str, protocol: u8, code: u8) -> Result<u16, WireError> {
    if !has_types(protocol) {
        return parse(text);
    }
    if let Some((kind, code)) = text.split_once('.') {
        return Ok(u16::from_be_bytes([parse(kind)?, parse(code)?]));
    }
    let number: u16 = parse(text)?;
    Ok(match u8::try_from(number) {
        Ok(kind) => u16::from_be_bytes([kind, code]),
        Err(_) => number,
    })
}

/// Ports of a range, both ends included.
fn write_ports(f: &mut fmt::Formatter<'_>, protocol: u8, ports: (u16, u16)) -> fmt::Result {
    let (first, last) = ports;
    if has_types(protocol) {
        let ([kind, code], [last_kind, last_code]) = (first.to_be_bytes(), last.to_be_bytes());
        return match (code, last_code) {
            (0, 255) if kind == last_kind => write!(f, "{kind}"),
            (0, 255) => write!(f, "{kind}-{last_kind}"),
            _ if first == last => write!(f, "{kind}.{code}"),
            _ => write!(f, "{kind}.{code}-{last_kind}.{last_code}"),
        };
    }
    if first == last {
        write!(f, "{first}")
    } else {
        write!(f, "{first}-{last}")
    }
}

/// Names that [`TrafficSelector`] reads and writes for protocol numbers.
const PROTOCOLS: [(&str, u8); 6] = [
    ("icmp", protocol::ICMP),
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("icmpv6", protocol::ICMPV6),
    ("sctp", protocol::SCTP),
    ("udplite", protocol::UDP_LITE),
];

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix() {
            Some((address, len)) => write!(f, "{address}/{len}")?,
            None => write!(f, "{}-{}", self.start, self.end)?,
        }
        if self.protocol == 0 && self.any_port() {
            return Ok(());
        }
        f.write_str("[")?;
        match PROTOCOLS
            .iter()
            .find(|(_, number)| *number == self.protocol)
        {
            Some((name, _)) => f.write_str(name)?,
            None if self.protocol == 0 => f.write_str("any")?,
            None => write!(f, "{}", self.protocol)?,
        }
        match self.ports {
            ANY_PORT => {}
            OPAQUE => f.write_str("/opaque")?,
            ports => {
                f.write_str("/")?;
                write_ports(f, self.protocol, ports)?;
            }
        }
        f.write_str("]")
    }
}

impl fmt::Debug for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn parse<T: FromStr>(s: &str) -> Result<T, WireError> {
    s.parse().map_err(|_| WireError::Malformed)
}

impl FromStr for TrafficSelector {
    type Err = WireError;

    /// Reads an address, a prefix (host bits are cleared) or a range, then optionally
    /// `[protocol]` or `[protocol/port]`. The protocol is a number, a known name, `any` or nothing;
    /// the port is a number, a range, `any` or `opaque`; of ICMP it is a type, `type.code`, or both as
    /// one number from 256.
    fn from_str(s: &str) -> Result<Self, WireError> {
        let (addresses, upper) = match s.split_once('[') {
            Some((addresses, rest)) => (
                addresses,
                Some(rest.strip_suffix(']').ok_or(WireError::Malformed)?),
            ),
            None => (s, None),
        };
        let ts = if let Some((address, len)) = addresses.split_once('/') {
            Self::from_prefix(parse(address)?, parse(len)?)?
        } else if let Some((start, end)) = addresses.split_once('-') {
            Self::new(0, 0..=u16::MAX, parse(start)?, parse(end)?)?
        } else {
            Self::from_address(parse(addresses)?)
        };
        let Some(upper) = upper else { return Ok(ts) };
        let (name, ports) = upper.split_once('/').unwrap_or((upper, "any"));
        let protocol = match PROTOCOLS.iter().find(|(known, _)| *known == name) {
            Some((_, number)) => *number,
            None if name.is_empty() || name == "any" => 0,
            None => parse(name)?,
        };
        let ports = match ports {
            "any" => ANY_PORT,
            "opaque" => OPAQUE,
            _ => {
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                let ports = (
                    parse_port(first, protocol, 0)?,
                    parse_port(last, protocol, u8::MAX)?,
                );
                if ports == OPAQUE {
                    return Err(WireError::Malformed);
                }
                ports
            }
        };
        Self::new(
            protocol,
            RangeInclusive::new(ports.0, ports.1),
            ts.start,
            ts.end,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ts(s: &str) -> TrafficSelector {
        s.parse().unwrap_or_else(|e| panic!("{s}: {e}"))
    }

    #[test]
    fn reads_and_writes_swanctls_notation() {
        for (input, output) in [
            ("10.1.0.0/24", "10.1.0.0/24"),
            ("10.1.0.7/24", "10.1.0.0/24"),
            ("10.1.0.7", "10.1.0.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.1.0.5-10.1.0.9", "10.1.0.5-10.1.0.9"),
            ("10.1.0.0-10.1.0.255", "10.1.0.0/24"),
            ("10.1.0.0/24[tcp/80]", "10.1.0.0/24[tcp/80]"),
            ("10.1.0.0/24[6]", "10.1.0.0/24[tcp]"),
            ("10.1.0.0/24[47]", "10.1.0.0/24[47]"),
            ("10.1.0.0/24[/53]", "10.1.0.0/24[any/53]"),
            ("10.1.0.0/24[any/any]", "10.1.0.0/24"),
            ("10.1.0.0/24[udp/1000-2000]", "10.1.0.0/24[udp/1000-2000]"),
            ("10.1.0.0/24[udp/0-65535]", "10.1.0.0/24[udp]"),
            ("10.1.0.0/24[tcp/opaque]", "10.1.0.0/24[tcp/opaque]"),
            ("2001:db8::/32[icmpv6]", "2001:db8::/32[icmpv6]"),
            ("10.1.0.0/24[icmp]", "10.1.0.0/24[icmp]"),
            ("10.1.0.0/24[icmp/8]", "10.1.0.0/24[icmp/8]"),
            ("10.1.0.0/24[1/2048-2303]", "10.1.0.0/24[icmp/8]"),
            ("10.1.0.0/24[icmp/3.4]", "10.1.0.0/24[icmp/3.4]"),
            ("10.1.0.0/24[icmp/772]", "10.1.0.0/24[icmp/3.4]"),
            ("10.1.0.0/24[icmp/3-5]", "10.1.0.0/24[icmp/3-5]"),
            ("10.1.0.0/24[icmp/0.8-0.9]", "10.1.0.0/24[icmp/0.8-0.9]"),
            ("10.1.0.0/24[icmp/0-255]", "10.1.0.0/24[icmp]"),
            ("fd00::/8[icmpv6/128-129]", "fd00::/8[icmpv6/128-129]"),
            ("::/0", "::/0"),
            ("::1-::3", "::1-::3"),
        ] {
            assert_eq!(ts(input).to_string(), output);
            assert_eq!(ts(output), ts(input));
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for input in [
            "",
            "10.1.0.0/",
            "10.1.0.0/33",
            "10.1.0/24",
            "::/129",
            "10.1.0.9-10.1.0.5",
            "10.0.0.1-::1",
            "10.1.0.0/24[",
            "10.1.0.0/24[tcp",
            "10.1.0.0/24[tcp]x",
            "10.1.0.0/24[nope]",
            "10.1.0.0/24[256]",
            "10.1.0.0/24[tcp/]",
            "10.1.0.0/24[tcp/9-8]",
            "10.1.0.0/24[tcp/65536]",
            "10.1.0.0/24[tcp/65535-0]",
            "10.1.0.0/24[tcp/1-2-3]",
            "10.1.0.0/24[tcp/1.2]",
            "10.1.0.0/24[icmp/3.256]",
            "10.1.0.0/24[icmp/256.0]",
            "10.1.0.0/24[icmp/3.4.5]",
            "10.1.0.0/24[icmp/3.]",
            "-",
            "/",
            "[]",
            "10.1.0.0/-1",
            " 10.1.0.0/24",
            "10.1.0.0/24 ",
            "+1.0.0.0",
        ] {
            assert!(input.parse::<TrafficSelector>().is_err(), "{input}");
        }
    }

    #[test]
    fn hidden_ports_match_any_and_opaque_only() {
        let address = "10.1.0.1".parse().unwrap();
        for (selector, port, matches) in [
            ("10.1.0.0/24", None, true),
            ("10.1.0.0/24[tcp]", None, true),
            ("10.1.0.0/24[tcp/80]", None, false),
            ("10.1.0.0/24[tcp/opaque]", None, true),
            ("10.1.0.0/24[tcp/opaque]", Some(80), false),
            ("10.1.0.0/24[tcp/80]", Some(80), true),
            ("10.1.0.0/24[tcp/80]", Some(81), false),
            ("10.1.0.0/24[udp/80]", Some(80), false),
            ("10.1.1.0/24", Some(80), false),
            ("::/0", Some(80), false),
        ] {
            assert_eq!(
                ts(selector).matches(protocol::TCP, address, port),
                matches,
                "{selector}"
            );
        }
    }

    /// RFC 4301 §4.4.1.1
    #[test]
    fn icmp_is_matched_by_type_and_code() {
        let echo = [8, 0, 0, 0, 0, 1, 0, 1];
        let too_big = [3, 4, 0, 0, 0, 0, 5, 220];
        let (src, dst) = ("10.1.0.1".parse().unwrap(), "10.2.0.1".parse().unwrap());
        for (upper, matching, other) in [
            (&echo, ["icmp/8", "icmp/8.0", "icmp/0-8"], "icmp/0"),
            (&too_big, ["icmp/3", "icmp/3.4", "icmp/3.0-3.4"], "icmp/3.5"),
        ] {
            let flow = Flow::new(src, dst, protocol::ICMP, Some(upper));
            let within = |kind: &str| {
                let side = |net: &str| [ts(&format!("{net}[{kind}]"))];
                flow.is_within(&side("10.1.0.0/16"), &side("10.2.0.0/16"))
            };
            assert!(matching.into_iter().all(within));
            assert!(!within(other));
            assert!(!within("icmpv6/8"));
            // A later fragment shows neither.
            let hidden = Flow::new(src, dst, protocol::ICMP, None);
            let any = [ts("0.0.0.0/0[icmp]")];
            assert!(hidden.is_within(&any, &any));
            assert!(!hidden.is_within(&[ts("0.0.0.0/0[icmp/8]")], &any));
        }
    }

    #[test]
    fn narrowing_takes_the_common_part() {
        for (a, b, both) in [
            (
                "10.0.0.0/8",
                "10.1.0.0/24[tcp/80]",
                Some("10.1.0.0/24[tcp/80]"),
            ),
            (
                "10.0.0.0/8[tcp]",
                "10.1.0.0/24[/1-100]",
                Some("10.1.0.0/24[tcp/1-100]"),
            ),
            (
                "10.0.0.0/8[tcp/50-70]",
                "0.0.0.0/0[tcp/60-80]",
                Some("10.0.0.0/8[tcp/60-70]"),
            ),
            (
                "10.0.0.0-10.0.0.9",
                "10.0.0.5-10.0.0.20",
                Some("10.0.0.5-10.0.0.9"),
            ),
            (
                "10.0.0.0/8[tcp/opaque]",
                "10.0.0.0/8",
                Some("10.0.0.0/8[tcp/opaque]"),
            ),
            ("10.0.0.0/8[tcp/opaque]", "10.0.0.0/8[tcp/1]", None),
            ("10.0.0.0/8[tcp/1]", "10.0.0.0/8[tcp/2]", None),
            ("10.0.0.0/8[tcp]", "10.0.0.0/8[udp]", None),
            ("10.0.0.0/24", "10.0.1.0/24", None),
            ("0.0.0.0/0", "::/0", None),
        ] {
            assert_eq!(ts(a).intersect(&ts(b)), both.map(ts), "{a} and {b}");
            assert_eq!(ts(b).intersect(&ts(a)), both.map(ts), "{b} and {a}");
        }
        assert!(ts("10.0.0.0/8").contains(&ts("10.1.0.0/24[tcp/80]")));
        assert!(!ts("10.1.0.0/24[tcp/80]").contains(&ts("10.1.0.0/24[tcp]")));
    }

    fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        prop_oneof![
            any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(a, b)| (a.min(b).into(), a.max(b).into())),
            any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(a, b)| (a.min(b).into(), a.max(b).into())),
            any::<(Ipv4Addr, u8)>().prop_map(|(a, len)| {
                let ts = TrafficSelector::from_prefix(a.into(), len % 33).unwrap();
                (ts.start, ts.end)
            }),
            any::<(Ipv6Addr, u8)>().prop_map(|(a, len)| {
                let ts = TrafficSelector::from_prefix(a.into(), len % 129).unwrap();
                (ts.start, ts.end)
            }),
        ]
    }

    fn selector() -> impl Strategy<Value = TrafficSelector> {
        let ports = prop_oneof![
            Just(ANY_PORT),
            Just(OPAQUE),
            any::<(u16, u16)>().prop_map(|(a, b)| (a.min(b), a.max(b))),
        ];
        let protocol = prop_oneof![Just(0), Just(6), Just(17), Just(1), Just(58), any::<u8>()];
        (protocol, ports, addresses()).prop_map(|(protocol, ports, (start, end))| TrafficSelector {
            protocol,
            ports,
            start,
            end,
        })
    }

    proptest! {
        #[test]
        fn display_then_parse_is_identity(selector in selector()) {
            prop_assert_eq!(selector.to_string().parse(), Ok(selector));
        }

        #[test]
        fn parsing_never_panics(input in "[0-9a-f:./\\-\\[\\]tcpudany]{0,40}") {
            if let Ok(selector) = input.parse::<TrafficSelector>() {
                prop_assert_eq!(selector.to_string().parse(), Ok(selector));
            }
        }

        #[test]
        fn intersection_matches_what_both_match(
            a in selector(), b in selector(), protocol: u8, port: Option<u16>, address: IpAddr,
        ) {
            let both = a.matches(protocol, address, port) && b.matches(protocol, address, port);
            let cut = a.intersect(&b);
            prop_assert_eq!(cut.is_some_and(|ts| ts.matches(protocol, address, port)), both);
            prop_assert_eq!(a.intersect(&b), b.intersect(&a));
            if let Some(cut) = cut {
                prop_assert!(a.contains(&cut) && b.contains(&cut));
            }
            prop_assert!(a.contains(&a));
        }
    }
}
