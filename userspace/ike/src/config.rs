//! What an IKE SA is told before it starts, in swanctl's words.

use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;
use core::time::Duration;
use std::sync::Arc;

use mitregate_wire::TrafficSelector;
use zeroize::Zeroizing;

use crate::cert::{Credentials, TrustStore};
use crate::identity::{IdPattern, Identity};
use crate::proposal::{EspProposal, IkeProposal};
use crate::ticket::TicketKeys;

/// One connection: who talks to whom, and how.
#[derive(Clone)]
pub struct IkeConfig {
    /// For logs.
    pub name: String,
    /// Who we say we are.
    pub local_id: Identity,
    /// Who the peer must prove to be; `None` accepts any identity that can be proven ("%any").
    pub remote_id: Option<IdPattern>,
    /// How we prove that.
    pub local_auth: LocalAuth,
    /// How the peer must prove who it is.
    pub remote_auth: RemoteAuth,
    /// In order of preference.
    pub proposals: Vec<IkeProposal>,
    /// The first one is negotiated in IKE_AUTH.
    pub children: Vec<ChildConfig>,
    /// How ESP travels.
    pub encap: EncapMode,
    /// When a request is repeated, and when given up.
    pub retransmit: Retransmit,
    /// Whether long messages are cut (RFC 7383), and how.
    pub fragmentation: Fragmentation,
    /// Session resumption (RFC 5723): an initiator asks for tickets and shows them, a responder gives
    /// and takes them.
    pub resumption: bool,
    /// What we tell the peer about ourselves.
    pub announce: Announce,
    /// What we do when the peer starts a rekey.
    pub peer_rekey: PeerRekey,
    /// Virtual addresses that we ask the peer for; an unspecified one: any of its family.
    pub vips: Vec<IpAddr>,
    /// We give virtual addresses to peers, from [`Ctx::leases`](crate::Ctx::leases).
    pub assigns: bool,
    /// Whether the IKE SA may come up without a CHILD_SA.
    pub childless: Childless,
    /// We have no other IKE SA with this peer, and tell it so (RFC 7296 §2.4).
    pub initial_contact: bool,
    /// Whether addresses may change.
    pub mobike: Mobike,
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

/// Mobility and multihoming (MOBIKE, RFC 4555).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mobike {
    /// Announce it, and do it with a peer that announces it too.
    pub enabled: bool,
    /// All addresses of ours that the peer may find us at, best first. Those that a message is not
    /// sent from are announced (§3.4).
    pub addresses: Vec<IpAddr>,
    /// Let ESP follow a peer to a new address only when that address has answered (§3.7).
    pub return_routability: bool,
    /// Do NAT traversal. Without it nobody is told whether there is a NAT, and one that comes up is
    /// refused (§3.9).
    pub nats_allowed: bool,
}

impl Default for Mobike {
    /// As the RFC recommends.
    fn default() -> Self {
        Self {
            enabled: true,
            addresses: Vec::new(),
            return_routability: true,
            nats_allowed: true,
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

/// What to do with a rekey, of the IKE SA or of a CHILD_SA, that the peer starts: for a client that
/// wants its own packet to be the first on a fresh SPI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerRekey {
    /// Answer it.
    #[default]
    Accept,
    /// Answer TEMPORARY_FAILURE so many times for each SA, and report
    /// [`Output::PeerWantsRekey`](crate::Output::PeerWantsRekey) for a rekey of our own; then accept,
    /// because a peer that keeps being refused closes the IKE SA (RFC 7296 §2.25).
    Refuse(u8),
    /// Do not answer at all. The peer repeats its request, sends no other meanwhile, and in the end
    /// takes us for dead (RFC 7296 §2.1, §2.4): only for peers that are known to rekey in vain.
    Ignore,
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
    /// We ask for plain ESP behind a NAT with a peer that does so, too.
    pub probes_behind_nat: bool,
    /// We start all rekeys: a server whose client says so starts none.
    pub owns_rekeys: bool,
}

impl Default for Announce {
    fn default() -> Self {
        Self {
            esp_echo: true,
            probes_behind_nat: false,
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

impl Retransmit {
    /// How long a request takes before the peer counts as dead, at most.
    #[must_use]
    pub fn give_up(&self) -> Duration {
        let mut wait = self.timeout;
        let mut total = Duration::ZERO;
        for _ in 0..=self.tries {
            total += wait.min(self.limit).mul_f64(1.1);
            wait = wait.min(self.limit).mul_f64(self.base.max(1.0));
        }
        total
    }
}

/// Fragmentation of IKE messages (RFC 7383).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragmentation {
    /// Whether.
    pub mode: FragmentationMode,
    /// Largest IP datagram, in bytes, that a message is sent in whole; of IP header to last byte.
    /// Less than [`Self::MIN_SIZE`] counts as that.
    pub size: usize,
}

impl Fragmentation {
    /// Default of [`Self::size`], as swanctl's: what every IPv6 path passes.
    pub const DEFAULT_SIZE: usize = 1280;
    /// Least value of [`Self::size`]: below it a fragment is mostly headers.
    pub const MIN_SIZE: usize = 256;
    /// Largest value of [`Self::size`]: that of an IP datagram.
    pub const MAX_SIZE: usize = 65_535;
}

impl Default for Fragmentation {
    fn default() -> Self {
        Self {
            mode: FragmentationMode::Yes,
            size: Self::DEFAULT_SIZE,
        }
    }
}

/// Whether IKE messages are cut, in swanctl's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FragmentationMode {
    /// Announced; long messages are cut for a peer that announces it, too. swanctl's `force`, which
    /// differs only in IKEv1, means the same.
    #[default]
    Yes,
    /// Announced, so that the peer may cut; our own messages stay whole.
    Accept,
    /// Not announced, hence not used.
    No,
}

impl FragmentationMode {
    pub(crate) const fn announces(self) -> bool {
        matches!(self, Self::Yes | Self::Accept)
    }

    pub(crate) const fn sends(self) -> bool {
        matches!(self, Self::Yes)
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

/// How we prove who we are.
#[derive(Clone)]
pub enum LocalAuth {
    /// By a shared secret (RFC 7296 §2.15).
    Psk(Psk),
    /// By a signature.
    Pubkey(Arc<Credentials>),
}

/// How a peer must prove who it is. A peer that proves it in another way is refused.
#[derive(Clone)]
pub enum RemoteAuth {
    /// By a shared secret (RFC 7296 §2.15).
    Psk(Psk),
    /// By a signature, with a certificate that is trusted.
    Pubkey(Arc<TrustStore>),
}

/// A word that none of the choices is spelled as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown value \"{0}\"")]
pub struct UnknownWord(pub String);

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

    /// The same for a peer that proves its identity by a signature (`signed`), or by a shared secret:
    /// of those that fit, one that wants just that comes first. Unless it is overridden, the kind of
    /// proof makes no difference.
    fn by_proof(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        remote_id: &Identity,
        local_id: Option<&Identity>,
        signed: bool,
    ) -> Option<Arc<IkeConfig>> {
        let _ = signed;
        self.by_identity(local, remote, remote_id, local_id)
    }

    /// The secret of the tickets that are given and taken (RFC 5723); `None`: there are none.
    fn tickets(&self) -> Option<&TicketKeys> {
        None
    }
}
