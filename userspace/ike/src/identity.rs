//! Who somebody is (RFC 7296 §3.5), and whom a connection is for.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use mitregate_wire::ike::{IdType, Identification};

use crate::config::UnknownWord;
use crate::dn::{self, NameAttribute};

/// An identity (RFC 7296 §3.5), written as swanctl does: an address, `name@domain`,
/// `fully.qualified.name`, `@fully.qualified.name`, a distinguished name `C=CH, O=Lab, CN=gw`, or
/// `@#` and the hexadecimal key ID.
///
/// Equality is that of the bytes; see [`Self::is`] for what counts as the same name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    kind: IdType,
    data: Vec<u8>,
}

impl Identity {
    /// An identity as it stands on the wire.
    #[must_use]
    pub const fn new(kind: IdType, data: Vec<u8>) -> Self {
        Self { kind, data }
    }

    /// Its type.
    #[must_use]
    pub const fn kind(&self) -> IdType {
        self.kind
    }

    /// Its bytes.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Is it the same identity? Domain names are compared without regard to case (RFC 4343),
    /// distinguished names as RFC 5280 §7.1 says.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.kind == other.kind
            && match self.kind {
                IdType::FQDN => self.data.eq_ignore_ascii_case(&other.data),
                IdType::RFC822_ADDR => same_mailbox(&self.data, &other.data),
                IdType::DER_ASN1_DN => dn::same(&self.data, &other.data),
                _ => self.data == other.data,
            }
    }

    /// What to find it by, however it is spelled: equal for two of which one [`is`](Self::is) the
    /// other, and for no others.
    #[must_use]
    pub fn key(&self) -> (u8, Vec<u8>) {
        let key = match self.kind {
            IdType::FQDN => self.data.to_ascii_lowercase(),
            IdType::RFC822_ADDR => {
                let mut key = self.data.clone();
                if let Some(at) = domain_at(&key) {
                    key[at..].make_ascii_lowercase();
                }
                key
            }
            IdType::DER_ASN1_DN => dn::key(&self.data),
            _ => self.data.clone(),
        };
        (self.kind.0, key)
    }

    /// The attributes of a distinguished name; `None` for any other identity.
    #[must_use]
    pub fn attributes(&self) -> Option<Vec<NameAttribute>> {
        let is_name = self.kind == IdType::DER_ASN1_DN;
        is_name.then(|| dn::list(&self.data)).flatten()
    }

    pub(crate) fn to_payload(&self) -> Identification {
        Identification {
            kind: self.kind,
            data: self.data.clone(),
        }
    }
}

impl From<&Identification> for Identity {
    fn from(payload: &Identification) -> Self {
        Self {
            kind: payload.kind,
            data: payload.data.clone(),
        }
    }
}

impl From<IpAddr> for Identity {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::new(IdType::IPV4_ADDR, v4.octets().to_vec()),
            IpAddr::V6(v6) => Self::new(IdType::IPV6_ADDR, v6.octets().to_vec()),
        }
    }
}

impl FromStr for Identity {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let unknown = || UnknownWord(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let (kind, data) = if text.contains('=') {
            (IdType::DER_ASN1_DN, dn::parse(text).ok_or_else(unknown)?)
        } else if let Some(digits) = text.strip_prefix("@#") {
            (IdType::KEY_ID, from_hex(digits).ok_or_else(unknown)?)
        } else if let Some(name) = text.strip_prefix('@') {
            (IdType::FQDN, name.as_bytes().to_vec())
        } else if text.contains('@') {
            (IdType::RFC822_ADDR, text.as_bytes().to_vec())
        } else {
            (IdType::FQDN, text.as_bytes().to_vec())
        };
        // A payload holds 65535 bytes in all; no identity comes near, but a file might.
        if data.is_empty() || data.len() > 1024 {
            return Err(unknown());
        }
        Ok(Self { kind, data })
    }
}

/// Where the domain of a mailbox starts, with the @ before it.
fn domain_at(mailbox: &[u8]) -> Option<usize> {
    mailbox.iter().rposition(|byte| *byte == b'@')
}

/// Local parts are told apart by case, domains are not (RFC 5321 §2.4).
fn same_mailbox(a: &[u8], b: &[u8]) -> bool {
    match (domain_at(a), domain_at(b)) {
        (Some(x), Some(y)) => a[..x] == b[..y] && a[x..].eq_ignore_ascii_case(&b[y..]),
        _ => a == b,
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let nibble = |c: u8| {
        char::from(c)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?))
        .collect()
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == IdType::DER_ASN1_DN
            && let Some(name) = dn::show(&self.data)
        {
            return f.write_str(&name);
        }
        match (self.kind, self.data.len()) {
            (IdType::IPV4_ADDR, 4) => {
                let octets: [u8; 4] = self.data[..].try_into().unwrap_or_default();
                write!(f, "{}", IpAddr::from(octets))
            }
            (IdType::IPV6_ADDR, 16) => {
                let octets: [u8; 16] = self.data[..].try_into().unwrap_or_default();
                write!(f, "{}", IpAddr::from(octets))
            }
            // A peer chose these bytes: let none of them move a terminal's cursor.
            (IdType::FQDN, _) if self.data.contains(&b'@') => {
                write!(f, "@{}", self.data.escape_ascii())
            }
            (IdType::FQDN | IdType::RFC822_ADDR, _) => write!(f, "{}", self.data.escape_ascii()),
            _ => {
                f.write_str("@#")?;
                self.data
                    .iter()
                    .try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.kind)
    }
}

/// Whom a connection is for: one identity, or all that a pattern fits. Patterns are as swanctl's:
/// `*@lab`, `*.example.org`, and `*` as a value in a distinguished name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPattern(Identity);

impl IdPattern {
    /// Does an identity fit?
    #[must_use]
    pub fn matches(&self, id: &Identity) -> bool {
        if self.0.kind != id.kind {
            return false;
        }
        match (id.kind, self.suffix()) {
            // What the star stands for is not empty.
            (_, Some(suffix)) => {
                id.data.len() > suffix.len() && {
                    let tail = &id.data[id.data.len() - suffix.len()..];
                    tail.eq_ignore_ascii_case(suffix)
                }
            }
            (IdType::DER_ASN1_DN, None) => dn::fits(&self.0.data, &id.data),
            _ => self.0.is(id),
        }
    }

    /// The identity, if it is a single one.
    #[must_use]
    pub fn exact(&self) -> Option<&Identity> {
        let pattern = match self.0.kind {
            IdType::DER_ASN1_DN => dn::is_pattern(&self.0.data),
            _ => self.suffix().is_some(),
        };
        (!pattern).then_some(&self.0)
    }

    /// The higher, the fewer it fits: the best of several patterns that fit.
    #[must_use]
    pub fn precision(&self) -> usize {
        match self.exact() {
            Some(_) => usize::MAX,
            None => self.0.data.len(),
        }
    }

    /// What follows the star of a name.
    fn suffix(&self) -> Option<&[u8]> {
        match self.0.kind {
            IdType::FQDN | IdType::RFC822_ADDR => self.0.data.strip_prefix(b"*"),
            _ => None,
        }
    }
}

impl From<Identity> for IdPattern {
    fn from(id: Identity) -> Self {
        Self(id)
    }
}

impl FromStr for IdPattern {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        text.parse().map(Self)
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_as_swanctl_writes_them() {
        for (text, kind, shown) in [
            ("192.0.2.1", IdType::IPV4_ADDR, "192.0.2.1"),
            ("2001:db8::1", IdType::IPV6_ADDR, "2001:db8::1"),
            ("client@lab", IdType::RFC822_ADDR, "client@lab"),
            ("gw.example.org", IdType::FQDN, "gw.example.org"),
            ("@gw.example.org", IdType::FQDN, "gw.example.org"),
            ("@user@host", IdType::FQDN, "@user@host"),
            ("@#00FFa0", IdType::KEY_ID, "@#00ffa0"),
            (
                "C=CH,O=Lab, CN=gw",
                IdType::DER_ASN1_DN,
                "C=CH, O=Lab, CN=gw",
            ),
        ] {
            let id: Identity = text.parse().unwrap();
            assert_eq!((id.kind(), id.to_string().as_str()), (kind, shown));
            assert_eq!(shown.parse::<Identity>().unwrap(), id);
            assert_eq!(Identity::from(&id.to_payload()), id);
        }
        for bad in [
            "",
            "@",
            "@#",
            "@#abc",
            "@#zz",
            "XX=gw",
            "CN=",
            &"x".repeat(2000),
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_same_identity_in_other_letters() {
        let id = |text: &str| text.parse::<Identity>().unwrap();
        for (a, b) in [
            ("GW.example.org", "gw.EXAMPLE.org"),
            ("me@Lab", "me@lab"),
            ("O=Lab, CN=gw", "o=LAB, cn=gw"),
        ] {
            assert!(id(a).is(&id(b)));
        }
        for (a, b) in [
            ("gw", "gw2"),
            ("Me@lab", "me@lab"),
            ("O=Lab, CN=gw", "CN=gw, O=Lab"),
            ("192.0.2.1", "@192.0.2.1"),
        ] {
            assert!(!id(a).is(&id(b)));
        }
    }

    /// Keys are the same exactly where the identities are.
    #[test]
    fn keys_of_identities() {
        let name = |tag: u8, value: &[u8]| {
            let len = |more: usize| u8::try_from(value.len() + more).unwrap();
            let head = [0x30, len(11), 0x31, len(9), 0x30, len(7)];
            let attribute = [&[6, 3, 0x55, 4, 3, tag, len(0)][..], value].concat();
            Identity::new(IdType::DER_ASN1_DN, [&head[..], &attribute].concat())
        };
        let id = |text: &str| text.parse::<Identity>().unwrap();
        let ids = [
            id("GW.example.org"),
            id("gw.EXAMPLE.org"),
            id("me@Lab"),
            id("me@lab"),
            id("Me@lab"),
            id("@me@lab"),
            id("O=Lab, CN=gw"),
            id("o=LAB, cn=gw"),
            id("CN=gw, O=Lab"),
            id("192.0.2.1"),
            id("@192.0.2.1"),
            name(12, b"gw  1"),
            name(19, b"GW 1"),
            name(4, b"gw 1"),
            name(2, b"\x01"),
            Identity::new(IdType::DER_ASN1_DN, b"no name".to_vec()),
            Identity::new(IdType::DER_ASN1_DN, b"NO name".to_vec()),
        ];
        for (n, a) in ids.iter().enumerate() {
            for b in &ids[n..] {
                assert_eq!(a.is(b), a.key() == b.key(), "{a:?} {b:?}");
            }
        }
        assert!(ids[11].is(&ids[12]) && !ids[12].is(&ids[13]));
    }

    #[test]
    fn patterns_as_swanctl_writes_them() {
        let fits = |pattern: &str, id: &str| {
            let pattern = pattern.parse::<IdPattern>().unwrap();
            pattern.matches(&id.parse().unwrap())
        };
        for (pattern, yes, no) in [
            (
                "*@lab",
                &["a@lab", "b.c@LAB"][..],
                &["a@lab2", "lab", "@lab", "a@x"][..],
            ),
            (
                "*.example.org",
                &["gw.example.org", "a.b.Example.org"],
                &["example.org", ".example.org", "gw@x.example.org"],
            ),
            ("gw.lab", &["GW.lab"], &["gw.lab2", "agw.lab"]),
            (
                "C=CH, O=Lab, CN=*",
                &["C=CH, O=Lab, CN=a"],
                &["C=CH, O=Lab, OU=x, CN=a", "C=DE, O=Lab, CN=a"],
            ),
            ("192.0.2.1", &["192.0.2.1"], &["192.0.2.2"]),
        ] {
            assert!(yes.iter().all(|id| fits(pattern, id)), "{pattern}");
            assert!(no.iter().all(|id| !fits(pattern, id)), "{pattern}");
            let single = pattern.parse::<IdPattern>().unwrap();
            assert_eq!(single.exact().is_none(), pattern.contains('*'));
            assert_eq!(single.to_string(), pattern);
        }
        let precision = |text: &str| text.parse::<IdPattern>().unwrap().precision();
        assert!(precision("a@lab") > precision("*@sub.lab"));
        assert!(precision("*@sub.lab") > precision("*.lab"));
    }

    #[test]
    fn a_peers_identity_cannot_draw_on_the_terminal() {
        let id = Identity::new(IdType::FQDN, b"a\x1b[2J\n".to_vec());
        assert_eq!(id.to_string(), "a\\x1b[2J\\n");
        let odd = Identity::new(IdType::IPV4_ADDR, vec![1, 2, 3]);
        assert_eq!(odd.to_string(), "@#010203");
    }
}
