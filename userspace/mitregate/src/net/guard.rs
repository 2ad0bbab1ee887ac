//! Keeps the tunnels' routes what they were at the start: others change the host's routes, too.
//!
//! What was taken away is made again; what takes protected traffic past the tunnels is told, since
//! it may be wanted (a network of our own inside a wide selector).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use serde_json::{Value, json};

use super::inner::InnerConfig;
use super::routes::{Listed, Protected, listed};
use super::{Netlink, Prefix, io_error};

/// Somebody who removes again what was made again is not kept busy more often than this.
const REPAIR_EVERY: Duration = Duration::from_secs(1);
/// Routes past the tunnels that are told and shown one by one.
const MAX_SHOWN: usize = 64;

/// A route that takes protected traffic past the tunnel, in clear.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bypass {
    /// Where the route leads.
    pub destination: Prefix,
    /// Its metric.
    pub metric: u32,
    /// The index of its interface, if it has a single one.
    pub interface: Option<u32>,
    /// The protected network of which it takes a part, or all.
    pub protected: Prefix,
}

/// Looks after the routes of one tunnel interface.
pub struct Guard {
    interface: String,
    index: u32,
    addresses: Vec<Prefix>,
    /// Virtual ones, by connection.
    virtual_addresses: BTreeMap<String, Vec<IpAddr>>,
    protected: Vec<Protected>,
    bypasses: BTreeSet<Bypass>,
    /// Beyond [`MAX_SHOWN`].
    more_bypasses: usize,
    /// What the routes over the interface promise, bytes; None: what the interface takes.
    mtu: Option<u16>,
    down: bool,
    repaired: Option<Duration>,
}

/// What of ours is not there.
#[derive(Default)]
struct Missing {
    addresses: Vec<Prefix>,
    tunnel: Vec<Prefix>,
    unreachable: Vec<Prefix>,
}

impl Guard {
    /// For the interface at `index`, made by `config`, and the routes of [`Netlink::protect`].
    pub fn new(config: &InnerConfig, index: u32, protected: Vec<Protected>) -> Self {
        Self {
            interface: config.interface.clone(),
            index,
            addresses: config.addresses.clone(),
            virtual_addresses: BTreeMap::new(),
            protected,
            bypasses: BTreeSet::new(),
            more_bypasses: 0,
            mtu: None,
            down: false,
            repaired: None,
        }
    }

    /// Puts the virtual addresses that a connection has from its peer on the interface, makes them the
    /// source of what its tunnels protect, and takes off those that it had before.
    pub async fn set_virtual(
        &mut self,
        netlink: &Netlink,
        connection: &str,
        addresses: &[IpAddr],
    ) -> Result<()> {
        let had = self
            .virtual_addresses
            .remove(connection)
            .unwrap_or_default();
        if !addresses.is_empty() {
            let now = addresses.to_vec();
            self.virtual_addresses.insert(connection.to_owned(), now);
        }
        let mut result = Ok(());
        for address in addresses {
            let request = netlink.handle().address();
            let add = request.add(self.index, *address, Prefix::host(*address).len());
            let added = add.replace().execute().await.map_err(io_error);
            let interface = &self.interface;
            result = result.and(added.with_context(|| {
                format!("cannot put a virtual address of {connection} on interface {interface}")
            }));
        }
        // First what uses the new ones, then away with the old: packets always find a source.
        let concerned = |one: &&Protected| one.virtual_of.as_deref() == Some(connection);
        let protected: Vec<_> = self.protected.iter().filter(concerned).cloned().collect();
        for one in protected {
            let source = self.source(&one);
            for network in one.destination.route_destinations() {
                let made = netlink
                    .make_tunnel(network, self.index, source, self.mtu)
                    .await;
                result = result.and(made);
            }
        }
        let there = netlink.addresses(self.index).await?;
        let kept: Vec<_> = self.all_addresses().collect();
        for gone in had.into_iter().map(Prefix::host) {
            if kept.contains(&gone) || !there.contains(&gone) {
                continue;
            }
            let mut message = AddressMessage::default();
            message.header.index = self.index;
            message.header.prefix_len = gone.len();
            message.header.family = match gone.address() {
                IpAddr::V4(_) => AddressFamily::Inet,
                IpAddr::V6(_) => AddressFamily::Inet6,
            };
            message.attributes = vec![
                AddressAttribute::Local(gone.address()),
                AddressAttribute::Address(gone.address()),
            ];
            let removed = netlink.handle().address().del(message).execute().await;
            result = result.and(
                removed
                    .map_err(io_error)
                    .context("cannot take off a virtual address"),
            );
        }
        result
    }

    /// The routes over the interface promise packets of `mtu` bytes from now on; None: what the interface
    /// takes. Its own MTU stays: it bounds what comes out of the tunnels, too, whose paths may carry more.
    pub async fn set_mtu(&mut self, netlink: &Netlink, mtu: Option<u16>) -> Result<()> {
        if std::mem::replace(&mut self.mtu, mtu) == mtu || self.down {
            return Ok(());
        }
        let mut result = Ok(());
        for (network, source) in self.wanted().collect::<Vec<_>>() {
            let made = netlink.make_tunnel(network, self.index, source, mtu).await;
            result = result.and(made);
        }
        result
    }

    /// Everything that is to be on the interface.
    fn all_addresses(&self) -> impl Iterator<Item = Prefix> + '_ {
        let given = self.virtual_addresses.values().flatten();
        let given = given.map(|address| Prefix::host(*address));
        self.addresses.iter().copied().chain(given)
    }

    /// The address that the host's own packets to a protected destination get.
    fn source(&self, protected: &Protected) -> Option<IpAddr> {
        let connection = protected.virtual_of.as_ref();
        let given = connection.and_then(|name| self.virtual_addresses.get(name));
        let v4 = protected.destination.address().is_ipv4();
        let of_family = |address: &&IpAddr| address.is_ipv4() == v4;
        let given = given.and_then(|given| given.iter().find(of_family).copied());
        given.or(protected.source)
    }

    /// Whether [`Guard::check`] may find something new after this event.
    pub fn concerned_by(&self, event: &RouteNetlinkMessage) -> bool {
        match event {
            RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
                listed(message).is_some_and(|route| self.protector(route.destination).is_some())
            }
            RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
                message.header.index == self.index
            }
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message) => {
                message.header.index == self.index
            }
            _ => false,
        }
    }

    /// The routes past the tunnels, as far as they are shown.
    pub fn bypasses(&self) -> impl Iterator<Item = &Bypass> {
        self.bypasses.iter()
    }

    /// For `list-sas` and `stats`.
    pub async fn view(&self, netlink: &Netlink) -> Value {
        let mut routes = Vec::new();
        for bypass in &self.bypasses {
            routes.push(json!({
                "destination": bypass.destination.to_string(),
                "metric": bypass.metric,
                "interface": netlink.name_of(bypass.interface).await,
                "protected": bypass.protected.to_string(),
            }));
        }
        json!({"count": self.bypasses.len() + self.more_bypasses, "routes": routes})
    }

    /// Looks at the kernel's routes, tells what is new, and makes again what is missing. Answers
    /// with when to look again, if not everything could be done. Fails if the interface is gone.
    pub async fn check(&mut self, netlink: &Netlink, now: Duration) -> Result<Option<Duration>> {
        let Some(link) = netlink.link(&self.interface).await? else {
            bail!("inner interface {} is gone", self.interface);
        };
        if link.index != self.index {
            bail!("inner interface {} has become another one", self.interface);
        }
        let mut missing = Missing::default();
        self.look(netlink, &mut missing).await?;
        let interface = &self.interface;
        if self.down == link.up {
            self.down = !link.up;
            if self.down {
                tracing::warn!(
                    "inner interface {interface} is down, so what the tunnels protect is refused: \
                     `ip link set {interface} up`"
                );
            } else {
                tracing::info!("inner interface {interface} is up again");
            }
        }
        if self.down {
            // The kernel takes no routes over it.
            missing.tunnel.clear();
        } else {
            let there = netlink.addresses(self.index).await?;
            let addresses = self.all_addresses();
            missing.addresses = addresses
                .filter(|address| !there.contains(address))
                .collect();
        }
        if missing.is_empty() {
            return Ok(None);
        }
        if let Some(next) = self
            .repaired
            .map(|at| at + REPAIR_EVERY)
            .filter(|next| *next > now)
        {
            return Ok(Some(next));
        }
        self.repaired = Some(now);
        if let Err(error) = self.repair(netlink, &missing).await {
            tracing::warn!("{error:#}");
        }
        Ok(None)
    }

    /// Finds what is missing of the routes, and what is there that should not be.
    async fn look(&mut self, netlink: &Netlink, missing: &mut Missing) -> Result<()> {
        let wanted: Vec<_> = self.wanted().map(|(network, _)| network).collect();
        let mut tunnel: BTreeSet<_> = wanted.iter().copied().collect();
        let mut unreachable = tunnel.clone();
        let mut bypasses = BTreeSet::new();
        let mut more = 0;
        netlink
            .each_route(|route| {
                if route.is_unreachable() {
                    unreachable.remove(&route.destination);
                } else if route.is_tunnel(self.index) {
                    tunnel.remove(&route.destination);
                } else if let Some(bypass) = self.bypass(&route) {
                    if bypasses.len() < MAX_SHOWN || self.bypasses.contains(&bypass) {
                        bypasses.insert(bypass);
                    } else {
                        more += 1;
                    }
                }
            })
            .await?;
        missing.tunnel.extend(tunnel);
        missing.unreachable.extend(unreachable);

        for new in bypasses.difference(&self.bypasses) {
            let over = netlink.name_of(new.interface).await;
            let over = over.map_or(String::new(), |name| format!(" over {name}"));
            tracing::warn!(
                "the route to {}{over} (metric {}) goes past the tunnel that protects {}: what it \
                 carries leaves in clear",
                new.destination,
                new.metric,
                new.protected,
            );
        }
        if more > 0 && self.more_bypasses == 0 {
            tracing::warn!("{more} more routes go past the tunnels (`ip route` shows them)");
        }
        for gone in self.bypasses.difference(&bypasses) {
            tracing::info!("the route to {} past the tunnel is gone", gone.destination);
        }
        self.bypasses = bypasses;
        self.more_bypasses = more;
        Ok(())
    }

    async fn repair(&self, netlink: &Netlink, missing: &Missing) -> Result<()> {
        for network in &missing.unreachable {
            tracing::warn!("the unreachable route to {network} was removed: it is made again");
            netlink.make_unreachable(*network).await?;
        }
        let interface = &self.interface;
        for address in &missing.addresses {
            tracing::warn!(
                "{address} was removed from interface {interface}: it is put there again"
            );
            let request = netlink.handle().address();
            let add = request.add(self.index, address.address(), address.len());
            add.replace().execute().await.map_err(io_error)?;
        }
        let sources: Vec<_> = self.wanted().collect();
        for network in &missing.tunnel {
            tracing::warn!("the route to {network} over {interface} was removed: it is made again");
            let source = sources.iter().find(|(wanted, _)| wanted == network);
            let source = source.and_then(|(_, source)| *source);
            netlink
                .make_tunnel(*network, self.index, source, self.mtu)
                .await?;
        }
        Ok(())
    }

    fn bypass(&self, route: &Listed) -> Option<Bypass> {
        let protected = self.protector(route.destination)?;
        route.takes_from(protected, self.index).then_some(Bypass {
            destination: route.destination,
            metric: route.metric,
            interface: route.interface,
            protected,
        })
    }

    /// The narrowest protected network that has all of `destination`: its routes come first.
    fn protector(&self, destination: Prefix) -> Option<Prefix> {
        self.wanted()
            .map(|(network, _)| network)
            .filter(|network| network.contains(destination))
            .max_by_key(|network| network.len())
    }

    fn wanted(&self) -> impl Iterator<Item = (Prefix, Option<IpAddr>)> + '_ {
        self.protected.iter().flat_map(|protected| {
            let networks = protected.destination.route_destinations();
            let source = self.source(protected);
            networks.into_iter().map(move |network| (network, source))
        })
    }
}

impl Missing {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.tunnel.is_empty() && self.unreachable.is_empty()
    }
}
