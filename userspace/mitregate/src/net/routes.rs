//! Routes into the tunnel, and the unreachable ones behind them (RFC 4301's DISCARD).
//!
//! Each protected prefix has two routes: one over the tunnel interface, which goes with it, and
//! an unreachable one with the next worse metric, which stays until `mitregate release`. So what
//! the selectors protect is refused, not sent in clear, while no daemon runs.

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
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
}

impl Netlink {
    /// Makes both routes of each destination. Refuses when another route would take the traffic
    /// in clear.
    pub async fn protect(&self, interface: u32, protected: &[Protected]) -> Result<()> {
        let foreign = self.foreign_routes(interface).await?;
        let mut narrower = 0;
        for wanted in protected.iter().flat_map(|one| one.destination.route_destinations()) {
            narrower += check_foreign(wanted, &foreign)?;
        }
        if narrower > 0 {
            // Right for a network of our own inside a wide selector, so only said.
            tracing::warn!(
                "{narrower} routes are narrower than a protected prefix: what they carry does not \
                 enter the tunnel (`ip route` shows them, `log = \"debug\"` names them)"
            );
        }
        // First what fails closed, then what opens.
        self.block(protected).await?;
        for Protected {
            destination,
            source,
        } in protected
        {
            for network in destination.route_destinations() {
                self.replace(tunnel(network, interface, *source)?, network)
                    .await?;
            }
        }
        Ok(())
    }

    /// Makes the unreachable routes alone: refused from now on, whatever becomes of the tunnel.
    pub async fn block(&self, protected: &[Protected]) -> Result<()> {
        for Protected { destination, .. } in protected {
            for network in destination.route_destinations() {
                self.replace(unreachable(network)?, network).await?;
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
        let routes = self.main_routes().await?;
        Ok(routes
            .iter()
            .filter(|route| route.ours && route.kind == RouteType::Unreachable)
            .map(|route| route.destination)
            .collect())
    }

    async fn replace(&self, route: RouteMessage, network: Prefix) -> Result<()> {
        let result = self.handle().route().add(route).replace().execute().await;
        result.map_err(io_error).with_context(|| {
            format!("cannot make the route to {network} (needs root, or CAP_NET_ADMIN)")
        })
    }

    async fn foreign_routes(&self, interface: u32) -> Result<Vec<Route>> {
        let mut routes = self.main_routes().await?;
        routes.retain(|route| !route.ours && route.interface != Some(interface));
        Ok(routes)
    }

    async fn main_routes(&self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for message in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let answers: Vec<_> = self
                .handle()
                .route()
                .get(message)
                .execute()
                .try_collect()
                .await
                .map_err(io_error)
                .context("cannot list routes")?;
            routes.extend(answers.iter().filter_map(parse));
        }
        Ok(routes)
    }
}

/// Dump of one route of the main table.
#[derive(Debug)]
struct Route {
    destination: Prefix,
    metric: u32,
    interface: Option<u32>,
    kind: RouteType,
    ours: bool,
}

fn parse(message: &RouteMessage) -> Option<Route> {
    let mut table = u32::from(message.header.table);
    let mut route = Route {
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

/// Refuses a route that takes all of `wanted` before ours; answers with how many take a part.
fn check_foreign(wanted: Prefix, foreign: &[Route]) -> Result<usize> {
    let mut narrower = 0;
    for route in foreign.iter().filter(|route| leaks(route)) {
        let Route { destination, metric, .. } = route;
        if *destination == wanted && *metric <= UNREACHABLE_METRIC {
            bail!(
                "the route to {destination} with metric {metric} would carry what the tunnel \
                 protects in clear: remove it (`ip route del {destination} metric {metric}`)"
            );
        }
        if wanted.contains(*destination) && destination.len() > wanted.len() {
            tracing::debug!("the route to {destination} is narrower than the protected {wanted}");
            narrower += 1;
        }
    }
    Ok(narrower)
}

fn leaks(route: &Route) -> bool {
    matches!(route.kind, RouteType::Unicast)
        && !(route.destination.address().is_ipv6()
            && (is_link_local(route.destination) || route.destination.address().is_multicast()))
}

fn is_link_local(prefix: Prefix) -> bool {
    matches!(prefix.address(), IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn unreachable(network: Prefix) -> Result<RouteMessage> {
    Ok(RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(network.address(), network.len())?
        .protocol(RouteProtocol::Other(PROTOCOL))
        .kind(RouteType::Unreachable)
        .priority(UNREACHABLE_METRIC)
        .build())
}

fn tunnel(network: Prefix, interface: u32, source: Option<IpAddr>) -> Result<RouteMessage> {
    let mut route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(network.address(), network.len())?
        .protocol(RouteProtocol::Other(PROTOCOL))
        .scope(rtnetlink::packet_route::route::RouteScope::Link)
        .output_interface(interface)
        .priority(TUNNEL_METRIC);
    if let Some(source) = source {
        route = route.pref_source(source)?;
    }
    Ok(route.build())
}
