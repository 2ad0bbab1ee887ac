//! Address prefixes as the kernel's routes and addresses use them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with a prefix length. The host bits are kept: an interface address has them, a
/// route's destination is [`Prefix::network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The part before the slash.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// The part after the slash.
    #[error("{0:?} is not a prefix length from 0 to {1}")]
    Length(String, u8),
}

impl Prefix {
    /// None if `len` is more than the address has bits.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        (len <= width(address)).then_some(Self { address, len })
    }

    /// The prefix of a single address.
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            len: width(address),
        }
    }

    /// The address, host bits included.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Leading bits that count.
    // A length of 0 is the default route, not an empty prefix.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> u8 {
        self.len
    }

    /// The same prefix with its host bits zero.
    pub fn network(self) -> Self {
        let address = from_bits(bits(self.address) & mask(self), self.address);
        Self {
            address,
            len: self.len,
        }
    }

    /// The last address of the prefix.
    pub fn last(self) -> IpAddr {
        let all = u128::MAX >> (128 - u32::from(width(self.address)));
        from_bits(bits(self.address) | (!mask(self) & all), self.address)
    }

    /// Whether every address of `other` is one of this prefix.
    pub fn contains(self, other: Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.len <= other.len
            && (bits(self.address) ^ bits(other.address)) & mask(self) == 0
    }

    /// The fewest prefixes that cover exactly `start..=end` (empty if the families differ).
    pub fn cover(start: IpAddr, end: IpAddr) -> Vec<Self> {
        let mut prefixes = Vec::new();
        if start.is_ipv4() != end.is_ipv4() {
            return prefixes;
        }
        let (mut next, last) = (bits(start), bits(end));
        while next <= last {
            // The largest block that starts at `next`, is aligned and does not pass the end.
            let width = u32::from(width(start));
            let mut free = next.trailing_zeros().min(width);
            while free > 0 && (u128::MAX >> (128 - free)) > last - next {
                free -= 1;
            }
            let len = u8::try_from(width - free).unwrap_or(0);
            prefixes.push(Self {
                address: from_bits(next, start),
                len,
            });
            let size_less_one = if free == 0 {
                0
            } else {
                u128::MAX >> (128 - free)
            };
            match next
                .checked_add(size_less_one)
                .and_then(|end| end.checked_add(1))
            {
                Some(following) => next = following,
                None => break,
            }
        }
        prefixes
    }

    /// Destinations for routes to this prefix. A route to everything becomes two halves: it has
    /// to win against the host's default route, which the tunnel itself travels on.
    pub fn route_destinations(self) -> Vec<Self> {
        if self.len > 0 {
            return vec![self.network()];
        }
        let top = 1u128 << (width(self.address) - 1);
        [0, top]
            .map(|half| Self {
                address: from_bits(half, self.address),
                len: 1,
            })
            .to_vec()
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

// The bits of an IPv4 address came from 32, and no operation here sets a higher one.
#[allow(clippy::cast_possible_truncation)]
fn from_bits(bits: u128, family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

fn mask(prefix: Prefix) -> u128 {
    let host = u32::from(width(prefix.address) - prefix.len);
    let all = u128::MAX >> (128 - u32::from(width(prefix.address)));
    if host >= 128 {
        0
    } else {
        (u128::MAX << host) & all
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// `10.1.0.0/24`; a bare address is its host prefix.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| PrefixError::Address(address.to_owned()))?;
        let Some(len) = len else {
            return Ok(Self::host(address));
        };
        len.parse()
            .ok()
            .and_then(|n| Self::new(address, n))
            .ok_or_else(|| PrefixError::Length(len.to_owned(), width(address)))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn parse_and_display() {
        assert_eq!(p("10.1.2.3/24").to_string(), "10.1.2.3/24");
        assert_eq!(p("10.1.2.3/24").network().to_string(), "10.1.2.0/24");
        assert_eq!(p("10.1.2.3").to_string(), "10.1.2.3/32");
        assert_eq!(p("2001:db8::1/64").network().to_string(), "2001:db8::/64");
        assert_eq!(
            "10.1/24".parse::<Prefix>(),
            Err(PrefixError::Address("10.1".into()))
        );
        assert_eq!(
            "10.1.0.0/33".parse::<Prefix>(),
            Err(PrefixError::Length("33".into(), 32))
        );
        assert_eq!(
            "10.1.0.0/".parse::<Prefix>(),
            Err(PrefixError::Length(String::new(), 32))
        );
    }

    #[test]
    fn last_and_contains() {
        assert_eq!(p("10.1.2.3/24").last().to_string(), "10.1.2.255");
        assert_eq!(p("0.0.0.0/0").last().to_string(), "255.255.255.255");
        assert_eq!(
            p("::/0").last().to_string(),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
        assert!(p("10.0.0.0/8").contains(p("10.1.2.0/24")));
        assert!(p("0.0.0.0/0").contains(p("10.1.2.0/24")));
        assert!(!p("10.1.2.0/24").contains(p("10.0.0.0/8")));
        assert!(!p("10.1.2.0/24").contains(p("10.1.3.0/24")));
        assert!(!p("::/0").contains(p("10.1.3.0/24")));
    }

    #[test]
    fn covers_ranges_exactly() {
        let cover = |a: &str, b: &str| -> Vec<String> {
            Prefix::cover(a.parse().unwrap(), b.parse().unwrap())
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(cover("10.0.0.0", "10.0.0.255"), ["10.0.0.0/24"]);
        assert_eq!(
            cover("10.0.0.1", "10.0.0.4"),
            ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"]
        );
        assert_eq!(cover("0.0.0.0", "255.255.255.255"), ["0.0.0.0/0"]);
        assert_eq!(
            cover("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ["::/0"]
        );
        assert_eq!(cover("10.0.0.2", "10.0.0.1"), [""; 0]);
        assert_eq!(cover("10.0.0.2", "::1"), [""; 0]);
    }

    #[test]
    fn everything_is_routed_as_two_halves() {
        let halves: Vec<String> = p("0.0.0.0/0")
            .route_destinations()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(halves, ["0.0.0.0/1", "128.0.0.0/1"]);
        assert_eq!(p("10.1.2.3/24").route_destinations(), [p("10.1.2.0/24")]);
    }
}
