//! What an IKE SA is told before it starts, in swanctl's words.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;
use core::time::Duration;
use std::sync::Arc;

use mitregate_wire::TrafficSelector;
use mitregate_wire::ike::{IdType, Identification};
use zeroize::Zeroizing;

use crate::proposal::{EspProposal, IkeProposal};

/// One connection: who talks to whom, and how.
pub struct IkeConfig {
    /// For logs.
    pub name: String,
    /// Who we say we are.
    pub local_id: Identity,
    /// Who the peer must prove to be; `None` accepts any identity that knows the key ("%any").
    pub remote_id: Option<Identity>,
    /// The shared secret.
    pub psk: Psk,
    /// In order of preference.
    pub proposals: Vec<IkeProposal>,
    /// The first one is negotiated in IKE_AUTH.
    pub children: Vec<ChildConfig>,
    /// How ESP travels.
    pub encap: EncapMode,
    /// When a request is repeated, and when given up.
    pub retransmit: Retransmit,
    /// What we tell the peer about ourselves.
    pub announce: Announce,
    /// Virtual addresses that we ask the peer for; an unspecified one: any of its family.
    pub vips: Vec<IpAddr>,
    /// We give virtual addresses to peers, from [`Ctx::leases`](crate::Ctx::leases).
    pub assigns: bool,
    /// Whether the IKE SA may come up without a CHILD_SA.
    pub childless: Childless,
    /// We have no other IKE SA with this peer, and tell it so (RFC 7296 §2.4).
    pub initial_contact: bool,
}

/// Childless initiation (RFC 6023), in swanctl's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Childless {
    /// Accepted from a peer.
    #[default]
    Allow,
    /// And done where the peer supports it.
    Prefer,
    /// Nothing else: the first CHILD_SA is made with a key exchange of its own.
    Force,
    /// Neither done nor accepted.
    Never,
}

impl FromStr for Childless {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "allow" => Ok(Self::Allow),
            "prefer" => Ok(Self::Prefer),
            "force" => Ok(Self::Force),
            "never" => Ok(Self::Never),
            _ => Err(UnknownWord(word.to_owned())),
        }
    }
}

/// One CHILD_SA.
#[derive(Clone, Debug)]
pub struct ChildConfig {
    /// Unique within the connection.
    pub name: String,
    /// In order of preference.
    pub esp_proposals: Vec<EspProposal>,
    /// What we protect on our side.
    pub local_ts: Vec<TrafficSelector>,
    /// What the peer protects on its side.
    pub remote_ts: Vec<TrafficSelector>,
    /// Sides of which more follows from the addresses of the IKE SA.
    pub dynamic: Dynamic,
}

/// Which sides' selectors are, beside those listed, what swanctl calls `dynamic`: the virtual addresses
/// of that side, or its outer address where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// Ours.
    pub local: bool,
    /// The peer's.
    pub remote: bool,
}

/// How ESP travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncapMode {
    /// Plain ESP, or in UDP where a NAT was detected. As a responder, plain ESP behind a NAT
    /// for a peer that asks for it.
    #[default]
    Auto,
    /// Plain ESP also behind a NAT, if the peer knows that too; else as `Auto`.
    Esp,
    /// Always in UDP: the peer is made to see a NAT.
    Udp,
}

impl FromStr for EncapMode {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "auto" => Ok(Self::Auto),
            "esp" => Ok(Self::Esp),
            "udp" => Ok(Self::Udp),
            _ => Err(UnknownWord(word.to_owned())),
        }
    }
}

/// How ESP travels, once negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encap {
    /// IP protocol 50.
    Esp,
    /// RFC 3948.
    Udp,
}

/// What the peer learns about us, by vendor ID and notify.
#[derive(Clone, Copy, Debug)]
pub struct Announce {
    /// We answer ESP Echo.
    pub esp_echo: bool,
    /// We start all rekeys: a server whose client says so starts none.
    pub owns_rekeys: bool,
}

impl Default for Announce {
    fn default() -> Self {
        Self {
            esp_echo: true,
            owns_rekeys: false,
        }
    }
}

/// Retransmission of requests (RFC 7296 §2.1, §2.4): the n-th repetition leaves
/// `timeout · baseⁿ`, at most `limit`, after the one before, give or take a tenth.
#[derive(Clone, Copy, Debug)]
pub struct Retransmit {
    /// Repetitions before the peer counts as dead.
    pub tries: u32,
    /// Wait after the first transmission.
    pub timeout: Duration,
    /// Growth from one wait to the next.
    pub base: f64,
    /// Longest wait.
    pub limit: Duration,
}

impl Default for Retransmit {
    /// A dozen repetitions over about three minutes, as RFC 7296 §2.4 suggests.
    fn default() -> Self {
        Self {
            tries: 12,
            timeout: Duration::from_millis(500),
            base: 1.8,
            limit: Duration::from_secs(20),
        }
    }
}

/// A shared secret. Its bytes are wiped when the last copy goes.
#[derive(Clone)]
pub struct Psk(Arc<Zeroizing<Vec<u8>>>);

impl Psk {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Arc::new(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// An identity (RFC 7296 §3.5), written as swanctl does: an address, `name@domain`,
/// `fully.qualified.name`, `@fully.qualified.name`, or `@#` and the hexadecimal key ID.
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

/// A word that none of the choices is spelled as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown value \"{0}\"")]
pub struct UnknownWord(pub String);

impl FromStr for Identity {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let unknown = || UnknownWord(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let (kind, data) = if let Some(digits) = text.strip_prefix("@#") {
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

/// Where a responder finds out whom it talks to. Look-ups only: nothing is made or changed.
pub trait Directory: Send + Sync {
    /// The connections that a peer at `remote` may mean when it talks to `local`, best first: in
    /// IKE_SA_INIT nothing else is known. Empty: the peer is refused.
    fn by_address(&self, local: SocketAddr, remote: SocketAddr) -> Vec<Arc<IkeConfig>>;

    /// The connection for a peer that says to be `remote_id`, and that perhaps asked for us as
    /// `local_id`. `None`: the peer gets AUTHENTICATION_FAILED.
    fn by_identity(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        remote_id: &Identity,
        local_id: Option<&Identity>,
    ) -> Option<Arc<IkeConfig>>;
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
        ] {
            let id: Identity = text.parse().unwrap();
            assert_eq!((id.kind(), id.to_string().as_str()), (kind, shown));
            assert_eq!(shown.parse::<Identity>().unwrap(), id);
            assert_eq!(Identity::from(&id.to_payload()), id);
        }
        for bad in ["", "@", "@#", "@#abc", "@#zz", &"x".repeat(2000)] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_peers_identity_cannot_draw_on_the_terminal() {
        let id = Identity::new(IdType::FQDN, b"a\x1b[2J\n".to_vec());
        assert_eq!(id.to_string(), "a\\x1b[2J\\n");
        let odd = Identity::new(IdType::IPV4_ADDR, vec![1, 2, 3]);
        assert_eq!(odd.to_string(), "@#010203");
    }
}
