//! What is configured, in swanctl's words.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;

use mitregate_esp::{Provider, WorkerId};
use mitregate_gate::{GateConfig, Role};
use mitregate_ike::{
    Childless, Dynamic, EncapMode, EspProposal, Fragmentation, IdPattern, Identity, IkeProposal,
    LocalAuth, PeerRekey, RemoteAuth, Retransmit, TicketKeys,
};
use mitregate_wire::TrafficSelector;

use crate::{ChildLifetime, IkeLifetime};

/// Everything that control needs to know. Tunnels keep the order of the connections and of their
/// children: it is the order of the policy (RFC 4301 §4.4.1).
pub struct Config {
    /// Whose code ciphers ESP.
    pub provider: Provider,
    /// The worker that owns all SAs: its byte is in every inbound SPI.
    pub worker: WorkerId,
    /// Replay window of inbound SAs, packets.
    pub replay_window: u32,
    /// What those that have not authenticated may cost.
    pub strangers: Strangers,
    /// The secret of the tickets for session resumption; `None`: a fresh one, so that they end with this
    /// process.
    pub ticket_keys: Option<TicketKeys>,
    /// Virtual addresses for peers.
    pub pools: Vec<PoolConfig>,
    /// In order.
    pub connections: Vec<ConnectionConfig>,
}

/// Bounds on what senders cost a responder before they have authenticated (docs/ike-limits.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strangers {
    /// Half-open IKE SAs in all; from a quarter of it on cookies are asked for.
    pub half_open: usize,
    /// Half-open IKE SAs of one source, an IPv4 address or an IPv6 /64.
    pub half_open_per_source: usize,
    /// From so many half-open IKE SAs of one source on it is asked for cookies.
    pub cookie_threshold: usize,
    /// First messages in one second that cost a key exchange, of senders that have shown nothing; as
    /// many again of new senders that returned a cookie, and half as many of the others. Not zero.
    pub inits_per_second: u32,
    /// First messages with a cookie of one source that are looked at within 10 to 20 s: a NAT may hide
    /// many clients.
    pub inits_per_source: u32,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            half_open: 256,
            half_open_per_source: 16,
            cookie_threshold: 4,
            inits_per_second: 100,
            inits_per_source: 40,
        }
    }
}

/// A relation to one peer.
pub struct ConnectionConfig {
    /// Unique.
    pub name: String,
    /// Our addresses; the first one of the family is where a client starts from. Empty on a server:
    /// any.
    pub local_addrs: Vec<IpAddr>,
    /// The peer's addresses, in the order in which a client tries them. Empty on a server: any.
    pub remote_addrs: Vec<IpAddr>,
    /// UDP port of our IKE before a NAT makes it move to 4500.
    pub local_port: u16,
    /// The peer's.
    pub remote_port: u16,
    /// Who we are.
    pub local_id: Identity,
    /// Who the peer is; `None`: whoever proves to be somebody.
    pub remote_id: Option<IdPattern>,
    /// How we prove who we are.
    pub local_auth: LocalAuth,
    /// How the peer must prove who it is.
    pub remote_auth: RemoteAuth,
    /// In order of preference.
    pub proposals: Vec<IkeProposal>,
    /// How ESP travels.
    pub encap: EncapMode,
    /// Repetition of IKE requests.
    pub retransmit: Retransmit,
    /// Fragmentation of IKE messages.
    pub fragmentation: Fragmentation,
    /// Session resumption (RFC 5723).
    pub resumption: bool,
    /// The role of all its tunnels, and how they ping.
    pub gate: GateConfig,
    /// Both sides may start. The role is then decided when they have met, and is the client's before.
    pub auto_role: bool,
    /// At least one.
    pub children: Vec<ChildConfig>,
    /// How long an IKE SA lives.
    pub lifetime: IkeLifetime,
    /// What a client does when its server starts a rekey; a server accepts its client's.
    pub peer_rekey: PeerRekey,
    /// Without anything from the peer for this long it is asked whether it is there; zero: never.
    pub dpd_delay: Duration,
    /// A peer that has not answered for this long counts as dead; zero: as the retransmissions say.
    pub dpd_timeout: Duration,
    /// Time between keepalives behind a NAT (RFC 3948 §4); zero: none. Where ESP does not share IKE's mapping,
    /// four times as long.
    pub keepalive: Duration,
    /// Virtual addresses to ask the peer for (RFC 7296 §3.15); an unspecified one: any of its family.
    pub vips: Vec<IpAddr>,
    /// Names of the pools that the peer's virtual addresses come from, in order; empty: it gets none.
    pub pools: Vec<String>,
    /// What another IKE SA of the same peer means.
    pub unique: Unique,
    /// Peers that a template may have at a time. A template is a server's connection that anybody may call
    /// from anywhere, or whose peers get addresses: each peer is a connection of its own.
    pub max_peers: usize,
    /// Whether the IKE SA may come up without a CHILD_SA (RFC 6023).
    pub childless: Childless,
    /// What happens when an address changes.
    pub mobility: Mobility,
}

/// What happens when an address changes, ours or the peer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mobility {
    /// MOBIKE (RFC 4555), where the peer does it too.
    pub mobike: bool,
    /// Let ESP follow a peer by MOBIKE only when its new address has answered (RFC 4555 §3.7).
    pub return_routability: bool,
    /// Which packets move a standard peer.
    pub follow: Follow,
    /// Follow a peer although we are behind a NAT ourselves: when its new address has answered.
    pub follow_behind_nat: bool,
    /// Ask for plain ESP behind a NAT, too, with a peer that is configured so as well.
    pub probe_behind_nat: bool,
    /// [`ConnectionConfig::local_addrs`] are whatever addresses the outer interface has, and change
    /// with it ([`Command::AddressesChanged`](crate::Command::AddressesChanged)).
    pub any_local: bool,
}

impl Default for Mobility {
    fn default() -> Self {
        Self {
            mobike: true,
            return_routability: true,
            follow: Follow::default(),
            follow_behind_nat: false,
            probe_behind_nat: false,
            any_local: false,
        }
    }
}

/// Which authenticated packet from another address, with a new highest sequence number, moves where
/// ESP goes. Between two Mitregates it is always the ping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Follow {
    /// A ping.
    Ping,
    /// Any, as RFC 7296 §2.23 recommends.
    #[default]
    Any,
}

/// Addresses to give to peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Unique.
    pub name: String,
    /// The first address. At most 65 536 from here on are given out.
    pub start: IpAddr,
    /// The last address, of the same family.
    pub end: IpAddr,
    /// DNS servers that go with an address.
    pub dns: Vec<IpAddr>,
}

/// What becomes of a peer's older IKE SAs when it authenticates once more, in swanctl's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unique {
    /// They go, as soon as an epoch of the new one is proven.
    #[default]
    Replace,
    /// They stay and the new one is refused, unless it comes from the same address, or the peer says by
    /// INITIAL_CONTACT that it has lost them.
    Keep,
    /// They stay: each IKE SA is a peer of its own, with its own virtual address.
    Never,
}

/// A tunnel to be: one CHILD_SA after another.
#[derive(Debug, Clone)]
pub struct ChildConfig {
    /// Unique in the connection.
    pub name: String,
    /// What we protect on our side.
    pub local_ts: Vec<TrafficSelector>,
    /// What the peer protects on its side.
    pub remote_ts: Vec<TrafficSelector>,
    /// Sides whose selectors follow from their virtual or outer addresses as well.
    pub dynamic: Dynamic,
    /// In order of preference.
    pub esp_proposals: Vec<EspProposal>,
    /// When to bring it up.
    pub start_action: StartAction,
    /// What to do when the peer deletes it.
    pub close_action: StartAction,
    /// What to do when the peer is dead: its IKE SA did not answer any more. What is up stays up as long
    /// as packets of the peer arrive.
    pub dpd_action: StartAction,
    /// Delete it after this time without data; zero: never.
    pub inactivity: Duration,
    /// How long an epoch lives.
    pub lifetime: ChildLifetime,
}

/// What to do with a child that is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAction {
    /// Wait for the peer, or for a command.
    None,
    /// Bring it up with the first packet for it, and then keep it up.
    Trap,
    /// Bring it up, and keep it up.
    Start,
}

impl Config {
    /// Default of [`Self::replay_window`].
    pub const REPLAY_WINDOW: u32 = 4096;
    /// There is always room for as many tunnels as this.
    const MIN_TUNNELS: usize = 1024;

    /// Tunnels that there can be at a time: room for one for each child of each peer, and more.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        let of = |c: &ConnectionConfig| match c.is_template() {
            true => c.max_peers.saturating_mul(c.children.len()),
            false => c.children.len(),
        };
        let all = self.connections.iter().map(of);
        all.fold(0, usize::saturating_add).max(Self::MIN_TUNNELS)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let mut names = BTreeSet::new();
        let mut pools = BTreeSet::new();
        for pool in &self.pools {
            let ordered = pool.start.is_ipv4() == pool.end.is_ipv4() && pool.start <= pool.end;
            if !ordered || !pools.insert(&pool.name) {
                return Err(ConfigError::Pool(pool.name.clone()));
            }
        }
        for connection in &self.connections {
            if !names.insert(&connection.name) {
                return Err(ConfigError::DuplicateConnection(connection.name.clone()));
            }
            connection.check()?;
            if connection.auto_role && !connection.pools.is_empty() {
                return Err(ConfigError::PoolsWithoutServer(connection.name.clone()));
            }
            if let Some(unknown) = connection.pools.iter().find(|name| !pools.contains(name)) {
                let name = connection.name.clone();
                return Err(ConfigError::NoSuchPool(name, unknown.clone()));
            }
        }
        Ok(())
    }
}

impl ConnectionConfig {
    /// Default of [`Self::dpd_delay`].
    pub const DPD_DELAY: Duration = Duration::from_secs(120);
    /// Default of [`Self::max_peers`].
    pub const MAX_PEERS: usize = 1000;
    /// Default of [`Self::keepalive`]: under the 30 s after which the shortest NAT forgets, and over the
    /// time between two pings of a quiet tunnel, which keep the mapping as well.
    pub const KEEPALIVE: Duration = Duration::from_secs(25);

    fn check(&self) -> Result<(), ConfigError> {
        let name = || self.name.clone();
        if self.children.is_empty() {
            return Err(ConfigError::NoChildren(name()));
        }
        let mut children = BTreeSet::new();
        for child in &self.children {
            if !children.insert(&child.name) {
                return Err(ConfigError::DuplicateChild(name(), child.name.clone()));
            }
            if child.start_action != StartAction::None && self.ends().is_none() {
                return Err(ConfigError::NobodyToCall(name()));
            }
            if child.start_action != StartAction::None && self.gate.role == Role::Server {
                return Err(ConfigError::ServerStarts(name(), child.name.clone()));
            }
            if !child.lifetime.is_ordered() {
                return Err(ConfigError::Lifetimes(name(), child.name.clone()));
            }
        }
        Ok(())
    }

    /// Whether each peer that authenticates is a connection of its own.
    #[must_use]
    pub fn is_template(&self) -> bool {
        let dynamic = self.children.iter().any(|child| child.dynamic.remote);
        let anybody = self.remote_id.as_ref().and_then(IdPattern::exact).is_none();
        let from_anywhere = self.remote_addrs.is_empty() && (anybody || dynamic);
        let with_addresses = dynamic && !self.pools.is_empty();
        self.gate.role == Role::Server && (from_anywhere || with_addresses)
    }

    /// A tunnel's place in the policy before anything is negotiated. What is dynamic on our side and asked
    /// for is not known yet: an epoch then says which of it is ours.
    pub(crate) fn policy(
        &self,
        child: &ChildConfig,
    ) -> (Vec<TrafficSelector>, Vec<TrafficSelector>) {
        let (mut local, mut remote) = (child.local_ts.clone(), child.remote_ts.clone());
        if child.dynamic.local {
            let all = |vip: &IpAddr| {
                let any: IpAddr = match vip {
                    IpAddr::V4(_) => core::net::Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => core::net::Ipv6Addr::UNSPECIFIED.into(),
                };
                TrafficSelector::from_prefix(any, 0).ok()
            };
            local.extend(self.vips.iter().filter_map(all));
            if self.vips.is_empty() {
                let own = self.local_addrs.iter();
                local.extend(own.map(|address| TrafficSelector::from_address(*address)));
            }
        }
        if child.dynamic.remote {
            let peers = self.remote_addrs.iter();
            remote.extend(peers.map(|address| TrafficSelector::from_address(*address)));
        }
        (local, remote)
    }

    /// The first pair of our and the peer's addresses of one family.
    pub(crate) fn ends(&self) -> Option<(IpAddr, IpAddr)> {
        self.remote_addrs.iter().find_map(|remote| {
            let local = self
                .local_addrs
                .iter()
                .find(|a| a.is_ipv4() == remote.is_ipv4())?;
            Some((*local, *remote))
        })
    }
}

/// Why a configuration cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Two connections of one name.
    #[error("two connections are named \"{0}\"")]
    DuplicateConnection(String),
    /// Two children of one name.
    #[error("connection \"{0}\": two children are named \"{1}\"")]
    DuplicateChild(String, String),
    /// A connection without children.
    #[error("connection \"{0}\" has no children")]
    NoChildren(String),
    /// `start_action` = `start` or `trap` without both addresses.
    #[error(
        "connection \"{0}\": start_action = \"start\" or \"trap\" needs a local and a remote address of one family"
    )]
    NobodyToCall(String),
    /// Two pools of one name, or one without addresses.
    #[error("pool \"{0}\": the name must be unique, and its first address not above its last")]
    Pool(String),
    /// Who gives addresses waits for those who want them.
    #[error("connection \"{0}\": pools need role = \"server\"")]
    PoolsWithoutServer(String),
    /// A connection names a pool that is not there.
    #[error("connection \"{0}\": there is no pool \"{1}\"")]
    NoSuchPool(String, String),
    /// A server's peer starts.
    #[error(
        "connection \"{0}\", child \"{1}\": a server waits for its peer, so start_action must be \
         \"none\"; where both sides may start, the role is \"auto\""
    )]
    ServerStarts(String, String),
    /// More tunnels than there are ids.
    #[error("too many tunnels")]
    TooMany,
    /// A hard limit leaves no time to rekey.
    #[error(
        "connection \"{0}\", child \"{1}\": life_time must be longer than rekey_time, and so for \
         bytes and packets"
    )]
    Lifetimes(String, String),
}
