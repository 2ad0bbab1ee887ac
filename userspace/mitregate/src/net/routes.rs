//! Routes into the tunnel, and the unreachable ones behind them (RFC 4301's DISCARD).
//!
//! Each protected prefix has two routes: one over the tunnel interface, which goes with it, and
//! an unreachable one with the next worse metric, which stays until `mitregate release`. So what
//! the selectors protect is refused, not sent in clear, while no daemon runs.

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};
use std::net::IpAddr;

use super::{Netlink, Prefix, errno, io_error};

/// Who made a route, in the kernel's words `proto 109` ('m'); no assigned number.
pub const PROTOCOL: u8 = 109;

/// Better than what DHCP clients and network managers use (100 and more), so that the tunnel
/// wins, and next to each other, so that nothing comes between.
const TUNNEL_METRIC: u32 = 1;
const UNREACHABLE_METRIC: u32 = 2;

/// One protected destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Where packets go that need protection.
    pub destination: Prefix,
    /// The address that the host's own packets get, if the host has one inside the selectors.
    pub source: Option<IpAddr>,
    /// The connection whose virtual address they get, while it has one.
    pub virtual_of: Option<String>,
}

impl Netlink {
    /// Makes both routes of each destination. Refuses when another route would take all of the
    /// traffic in clear; those that take a part are the [`Guard`](super::guard::Guard)'s.
    pub async fn protect(&self, interface: u32, protected: &[Protected]) -> Result<()> {
        let wanted: Vec<_> = protected
            .iter()
            .flat_map(|one| one.destination.route_destinations())
            .collect();
        let mut leak = None;
        self.each_route(|route| {
            if wanted.contains(&route.destination) && route.takes_from(route.destination, interface)
            {
                leak = Some((route.destination, route.metric));
            }
        })
        .await?;
        if let Some((destination, metric)) = leak {
            bail!(
                "the route to {destination} with metric {metric} would carry what the tunnel \
                 protects in clear: remove it (`ip route del {destination} metric {metric}`)"
            );
        }
        // First what fails closed, then what opens.
        self.block(protected).await?;
        for Protected {
            destination,
            source,
            ..
        } in protected
        {
            for network in destination.route_destinations() {
                self.make_tunnel(network, interface, *source, None).await?;
            }
        }
        Ok(())
    }

    /// Makes the unreachable routes alone: refused from now on, whatever becomes of the tunnel.
    pub async fn block(&self, protected: &[Protected]) -> Result<()> {
        for Protected { destination, .. } in protected {
            for network in destination.route_destinations() {
                self.make_unreachable(network).await?;
            }
        }
        Ok(())
    }

    /// Removes the unreachable routes of these destinations, as far as they are ours and there.
    /// Answers with what was removed.
    pub async fn release(&self, destinations: &[Prefix]) -> Result<Vec<Prefix>> {
        let mut removed = Vec::new();
        for network in destinations.iter().flat_map(|d| d.route_destinations()) {
            match self
                .handle()
                .route()
                .del(unreachable(network)?)
                .execute()
                .await
            {
                Ok(()) => removed.push(network),
                Err(error) if errno(&error) == Some(libc::ESRCH) => {}
                Err(error) => {
                    return Err(io_error(error)).with_context(|| {
                        format!(
                            "cannot remove the unreachable route to {network} (needs root, or \
                             CAP_NET_ADMIN)"
                        )
                    });
                }
            }
        }
        Ok(removed)
    }

    /// Our unreachable routes, whatever configuration made them.
    pub async fn unreachable_routes(&self) -> Result<Vec<Prefix>> {
        let mut destinations = Vec::new();
        self.each_route(|route| {
            if route.is_unreachable() {
                destinations.push(route.destination);
            }
        })
        .await?;
        Ok(destinations)
    }

    pub(super) async fn make_unreachable(&self, network: Prefix) -> Result<()> {
        self.replace(unreachable(network)?, network).await
    }

    pub(super) async fn make_tunnel(
        &self,
        network: Prefix,
        interface: u32,
        source: Option<IpAddr>,
        mtu: Option<u16>,
    ) -> Result<()> {
        self.replace(tunnel(network, interface, source, mtu)?, network)
            .await
    }

    async fn replace(&self, route: RouteMessage, network: Prefix) -> Result<()> {
        let result = self.handle().route().add(route).replace().execute().await;
        result.map_err(io_error).with_context(|| {
            format!("cannot make the route to {network} (needs root, or CAP_NET_ADMIN)")
        })
    }

    /// Shows `visit` the main table, a route at a time: it may be a large one.
    pub(super) async fn each_route(&self, mut visit: impl FnMut(Listed)) -> Result<()> {
        for message in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let mut answers = self.handle().route().get(message).execute();
            while let Some(answer) = answers
                .try_next()
                .await
                .map_err(io_error)
                .context("cannot list routes")?
            {
                if let Some(route) = listed(&answer) {
                    visit(route);
                }
            }
        }
        Ok(())
    }
}

/// A route of the main table, as the kernel lists it.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) destination: Prefix,
    pub(super) metric: u32,
    /// None, too, if there are several.
    pub(super) interface: Option<u32>,
    kind: RouteType,
    ours: bool,
}

impl Listed {
    pub(super) fn is_unreachable(&self) -> bool {
        self.ours && self.kind == RouteType::Unreachable && self.metric == UNREACHABLE_METRIC
    }

    pub(super) fn is_tunnel(&self, interface: u32) -> bool {
        self.ours && self.interface == Some(interface) && self.metric == TUNNEL_METRIC
    }

    /// Whether it is somebody else's and takes traffic to `network` before our routes do: all of
    /// it, or what is within a narrower prefix.
    pub(super) fn takes_from(&self, network: Prefix, interface: u32) -> bool {
        let destination = self.destination;
        let before = destination.len() > network.len() || self.metric <= UNREACHABLE_METRIC;
        let foreign = !self.ours && self.interface != Some(interface);
        foreign && before && self.leaks() && network.contains(destination)
    }

    fn leaks(&self) -> bool {
        let v6 = match self.destination.address() {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(v6),
        };
        self.kind == RouteType::Unicast
            && !v6.is_some_and(|v6| v6.is_unicast_link_local() || v6.is_multicast())
    }
}

/// None for routes of other tables.
pub(super) fn listed(message: &RouteMessage) -> Option<Listed> {
    let mut table = u32::from(message.header.table);
    let mut route = Listed {
        destination: match message.header.address_family {
            rtnetlink::packet_route::AddressFamily::Inet => {
                Prefix::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0)?
            }
            rtnetlink::packet_route::AddressFamily::Inet6 => {
                Prefix::new(std::net::Ipv6Addr::UNSPECIFIED.into(), 0)?
            }
            _ => return None,
        },
        metric: 0,
        interface: None,
        kind: message.header.kind,
        ours: message.header.protocol == RouteProtocol::Other(PROTOCOL),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => route.interface = Some(*index),
            RouteAttribute::Destination(address) => {
                let address = match address {
                    RouteAddress::Inet(v4) => IpAddr::V4(*v4),
                    RouteAddress::Inet6(v6) => IpAddr::V6(*v6),
                    _ => return None,
                };
                route.destination = Prefix::new(address, message.header.destination_prefix_length)?;
            }
            _ => {}
        }
    }
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(route)
}

fn unreachable(network: Prefix) -> Result<RouteMessage> {
    Ok(RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(network.address(), network.len())?
        .protocol(RouteProtocol::Other(PROTOCOL))
        .kind(RouteType::Unreachable)
        .priority(UNREACHABLE_METRIC)
        .build())
}

fn tunnel(
    network: Prefix,
    interface: u32,
    source: Option<IpAddr>,
    mtu: Option<u16>,
) -> Result<RouteMessage> {
    let mut route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(network.address(), network.len())?
        .protocol(RouteProtocol::Other(PROTOCOL))
        .scope(rtnetlink::packet_route::route::RouteScope::Link)
        .output_interface(interface)
        .priority(TUNNEL_METRIC);
    if let Some(source) = source {
        route = route.pref_source(source)?;
    }
    let mut route = route.build();
    if let Some(mtu) = mtu {
        // No link may take less (RFC 791 §3.2 is what a host must, RFC 8200 §5).
        let least = if network.address().is_ipv4() {
            576
        } else {
            1280
        };
        let mtu = RouteMetric::Mtu(u32::from(mtu).max(least));
        route.attributes.push(RouteAttribute::Metrics(vec![mtu]));
    }
    Ok(route)
}
