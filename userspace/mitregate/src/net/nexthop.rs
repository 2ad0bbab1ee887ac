//! Next hops on the outer side. AF_XDP sends whole frames, so what the kernel knows from its
//! routes and neighbours is asked for here, followed by its events, and resolved when unknown.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use mitregate_wire::eth::MacAddr;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{MulticastGroup, RouteMessageBuilder};
use tokio::task::AbortHandle;

use super::{Link, Netlink, io_error, parse_link};

/// How often used neighbours are confirmed and everything is asked for again: frames sent by
/// AF_XDP do not confirm a neighbour, and an overrun event socket loses events.
pub const REFRESH: Duration = Duration::from_secs(20);

/// The way to a peer over the outer interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The neighbour that gets the frames: the peer itself, or a router.
    pub next_hop: IpAddr,
    /// The neighbour's Ethernet address, None while it is being resolved.
    pub mac: Option<MacAddr>,
    /// The source address the kernel would choose.
    pub source: Option<IpAddr>,
}

/// What the events of the kernel say about us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Routes changed: [`NextHops::refresh`].
    Routes,
    /// The outer interface's addresses changed.
    Addresses,
    /// A neighbour in use changed: [`NextHops::apply_neighbours`].
    Neighbours,
    /// The outer interface itself changed (address, MTU, up or down).
    Outer,
    /// The outer interface went away.
    OuterGone,
}

/// The ways to all peers in use, kept current.
pub struct NextHops {
    netlink: Netlink,
    outer: Link,
    paths: BTreeMap<IpAddr, Option<Path>>,
    neighbours: BTreeMap<IpAddr, (NeighbourState, Option<MacAddr>)>,
}

/// The kernel's events.
pub struct Events {
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    task: AbortHandle,
}

impl Events {
    /// Subscribes to links, addresses, routes and neighbours.
    pub fn subscribe() -> Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)
            .context("cannot subscribe to the kernel's route events")?;
        let messages = messages.map(|(message, _)| message).boxed();
        Ok(Self {
            messages,
            task: tokio::spawn(connection).abort_handle(),
        })
    }

    /// The next event, None when the socket is gone. Safe to cancel.
    pub async fn next(&mut self) -> Option<RouteNetlinkMessage> {
        loop {
            let message = self.messages.next().await?;
            if let NetlinkPayload::InnerMessage(message) = message.payload {
                return Some(message);
            }
        }
    }

    /// An event that has already arrived.
    pub fn try_next(&mut self) -> Option<RouteNetlinkMessage> {
        self.next().now_or_never().flatten()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NextHops {
    /// For peers behind `outer`. Subscribe to [`Events`] before, and [`NextHops::note`] them all.
    pub async fn open(netlink: Netlink, outer: Link) -> Result<Self> {
        let mut hops = Self {
            netlink,
            outer,
            paths: BTreeMap::new(),
            neighbours: BTreeMap::new(),
        };
        hops.load_neighbours().await?;
        Ok(hops)
    }

    /// The outer interface as last seen.
    pub fn outer(&self) -> &Link {
        &self.outer
    }

    /// The netlink connection, in the outer interface's namespace.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// The way to `peer`, if it is tracked and there is one.
    pub fn path(&self, peer: IpAddr) -> Option<Path> {
        self.paths.get(&peer).copied().flatten()
    }

    /// Whether `peer` is tracked.
    pub fn tracks(&self, peer: IpAddr) -> bool {
        self.paths.contains_key(&peer)
    }

    /// How many peers are tracked.
    pub fn tracked(&self) -> usize {
        self.paths.len()
    }

    /// Finds the way to `peer` and follows it from now on.
    pub async fn track(&mut self, peer: IpAddr) -> Result<Option<Path>> {
        if !self.tracks(peer) {
            let path = self.look_up(peer).await?;
            self.paths.insert(peer, path);
            // This one alone: whoever forges senders must not have us ask for all of them each time.
            if let Some(path) = path.filter(|path| path.mac.is_none()) {
                self.resolve(path.next_hop).await;
            }
        }
        Ok(self.path(peer))
    }

    /// Follows only these peers from now on.
    pub fn retain(&mut self, keep: impl Fn(IpAddr) -> bool) {
        self.paths.retain(|peer, _| keep(*peer));
    }

    /// Takes in one event; None if it does not concern us.
    pub fn note(&mut self, event: &RouteNetlinkMessage) -> Option<Change> {
        match event {
            RouteNetlinkMessage::NewLink(message) if message.header.index == self.outer.index => {
                let link = parse_link(message);
                let changed = (link.mac, link.mtu, link.up)
                    != (self.outer.mac, self.outer.mtu, self.outer.up);
                self.outer = link;
                changed.then_some(Change::Outer)
            }
            RouteNetlinkMessage::DelLink(message) if message.header.index == self.outer.index => {
                Some(Change::OuterGone)
            }
            RouteNetlinkMessage::NewNeighbour(message) => self.note_neighbour(message, false),
            RouteNetlinkMessage::DelNeighbour(message) => self.note_neighbour(message, true),
            RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message)
                if message.header.index == self.outer.index =>
            {
                Some(Change::Addresses)
            }
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_) => {
                (!self.paths.is_empty()).then_some(Change::Routes)
            }
            _ => None,
        }
    }

    /// Asks the kernel again about every peer. Answers with the peers whose way changed.
    pub async fn refresh(&mut self) -> Result<Vec<IpAddr>> {
        self.load_neighbours().await?;
        let mut changed = Vec::new();
        for peer in self.paths.keys().copied().collect::<Vec<_>>() {
            let path = self.look_up(peer).await?;
            if self.paths.insert(peer, path) != Some(path) {
                changed.push(peer);
            }
        }
        self.resolve_unknown().await;
        Ok(changed)
    }

    /// Applies what [`NextHops::note`] has learnt about neighbours. Answers with the peers whose
    /// way changed.
    pub async fn apply_neighbours(&mut self) -> Vec<IpAddr> {
        let mut changed = Vec::new();
        for (peer, path) in &mut self.paths {
            let Some(path) = path else { continue };
            let mac = self
                .neighbours
                .get(&path.next_hop)
                .and_then(|(_, mac)| *mac);
            if path.mac != mac {
                path.mac = mac;
                changed.push(*peer);
            }
        }
        self.resolve_unknown().await;
        changed
    }

    /// Has the kernel confirm the neighbours in use, as its own traffic would.
    pub async fn confirm(&mut self) {
        let next_hops: Vec<_> = self
            .paths
            .values()
            .flatten()
            .map(|path| path.next_hop)
            .collect();
        for next_hop in next_hops {
            self.solicit(next_hop).await;
        }
    }

    async fn look_up(&self, peer: IpAddr) -> Result<Option<Path>> {
        let len = if peer.is_ipv4() { 32 } else { 128 };
        // By interface: the tunnel's own routes may well cover the peer's address.
        let request = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(peer, len)?
            .output_interface(self.outer.index)
            .build();
        let answer = self
            .netlink
            .handle()
            .route()
            .get(request)
            .execute()
            .try_next()
            .await;
        let Ok(Some(route)) = answer else {
            return Ok(None);
        };
        let mut path = Path {
            next_hop: peer,
            mac: None,
            source: None,
        };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Gateway(address) => {
                    path.next_hop = ip(address).unwrap_or(peer);
                }
                RouteAttribute::PrefSource(address) => path.source = ip(address),
                RouteAttribute::Oif(index) if *index != self.outer.index => return Ok(None),
                _ => {}
            }
        }
        path.mac = self
            .neighbours
            .get(&path.next_hop)
            .and_then(|(_, mac)| *mac);
        Ok(Some(path))
    }

    async fn load_neighbours(&mut self) -> Result<()> {
        self.neighbours.clear();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = self
                .netlink
                .handle()
                .neighbours()
                .get()
                .set_address_family(family);
            let neighbours: Vec<_> = request
                .execute()
                .try_collect()
                .await
                .map_err(io_error)
                .context("cannot list neighbours")?;
            for message in &neighbours {
                self.note_neighbour(message, false);
            }
        }
        Ok(())
    }

    fn note_neighbour(&mut self, message: &NeighbourMessage, gone: bool) -> Option<Change> {
        if message.header.ifindex != self.outer.index {
            return None;
        }
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
                }
                _ => {}
            }
        }
        let address = address?;
        let mac = mac.filter(|_| usable(message.header.state));
        if gone {
            self.neighbours.remove(&address);
        } else {
            self.neighbours.insert(address, (message.header.state, mac));
        }
        let in_use = self
            .paths
            .values()
            .flatten()
            .any(|path| path.next_hop == address && path.mac != mac);
        in_use.then_some(Change::Neighbours)
    }

    async fn resolve_unknown(&mut self) {
        let unknown: Vec<_> = self
            .paths
            .values()
            .flatten()
            .filter(|path| path.mac.is_none())
            .map(|path| path.next_hop)
            .collect();
        for next_hop in unknown {
            self.resolve(next_hop).await;
        }
    }

    async fn resolve(&self, next_hop: IpAddr) {
        let pending = self.neighbours.get(&next_hop).map(|(state, _)| *state);
        if pending != Some(NeighbourState::Incomplete) {
            self.solicit(next_hop).await;
        }
    }

    /// `ip neigh add … nud none use`: the kernel resolves, or confirms, as if it had a packet.
    async fn solicit(&self, next_hop: IpAddr) {
        let mut request = self
            .netlink
            .handle()
            .neighbours()
            .add(self.outer.index, next_hop)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        request.message_mut().header.kind = rtnetlink::packet_route::route::RouteType::Unspec;
        if let Err(error) = request.execute().await {
            tracing::debug!("cannot have {next_hop} resolved: {}", io_error(error));
        }
    }
}

fn usable(state: NeighbourState) -> bool {
    !matches!(
        state,
        NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed
    )
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
