//! What can be found wrong before anything is touched: names the interface, the privilege, and
//! what to do.

use std::fs;

use anyhow::{Result, bail};
use rustix::thread::CapabilitySet;

use super::addresses::usable;
use crate::config::{OuterSettings, Settings};
use crate::ethtool;
use crate::net::{Link, Netlink, Prefix};

/// What is needed, and what for.
const NEEDED: [(CapabilitySet, &str, &str); 4] = [
    (
        CapabilitySet::NET_ADMIN,
        "CAP_NET_ADMIN",
        "interfaces, routes and XDP",
    ),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW", "AF_XDP sockets"),
    (
        CapabilitySet::SYS_ADMIN,
        "CAP_SYS_ADMIN",
        "the far end's network namespace and eBPF",
    ),
    (
        CapabilitySet::NET_BIND_SERVICE,
        "CAP_NET_BIND_SERVICE",
        "UDP port 500",
    ),
];

/// Whether this process may do what it will have to do.
pub fn privileges() -> Result<()> {
    let Ok(sets) = rustix::thread::capabilities(None) else {
        return Ok(());
    };
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(capability, ..)| !sets.effective.contains(*capability))
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "not permitted: {} lacking. Run it as root, or give the service AmbientCapabilities",
        missing.join(", ")
    )
}

/// The outer interface, if it can carry tunnels.
pub async fn outer(netlink: &Netlink, settings: &OuterSettings) -> Result<Link> {
    let name = &settings.interface;
    let Some(link) = netlink.link(name).await? else {
        bail!("outer.interface: there is no interface {name} (`ip link` lists them)");
    };
    if link.mac.is_none_or(|mac| mac.0 == [0; 6]) {
        bail!(
            "outer.interface: {name} is no Ethernet interface (a tunnel, or loopback), and AF_XDP \
             needs one"
        );
    }
    if !link.up {
        tracing::warn!("outer interface {name} is down: `ip link set {name} up`");
    }
    if !checks_sources(name) {
        tracing::warn!(
            "outer interface {name} takes packets from any source: a clear packet that claims to \
             come from a protected network gets in (RFC 4301 §5.2). Unless a firewall stops it: \
             `sysctl net.ipv4.conf.{name}.rp_filter=1`"
        );
    }
    match ethtool::receive_queues(name) {
        Some(queues) if queues > 0 && settings.queue >= queues => {
            bail!(
                "outer.queue: {name} has {queues} receive queues, so there is no queue {}",
                settings.queue
            )
        }
        Some(queues) if queues > 1 => tracing::warn!(
            "outer interface {name} spreads packets over {queues} receive queues, and only those \
             of queue {} are served: `ethtool -L {name} combined 1`",
            settings.queue
        ),
        _ => {}
    }
    Ok(link)
}

/// Whether the kernel drops what comes in on an interface that its source is not reached by
/// (RFC 3704 §2.2). The larger of the two settings counts, and only 1 is strict.
fn checks_sources(interface: &str) -> bool {
    let setting = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")).ok()?;
        text.trim().parse::<u8>().ok()
    };
    setting(interface).max(setting("all")) == Some(1)
}

/// Says it when what comes out of a tunnel would leave by the outer interface again, in clear:
/// the network that it is for is not there, and the default route takes its place.
pub async fn local_networks(netlink: &Netlink, settings: &Settings, outer: &Link) {
    for connection in &settings.control.connections {
        for child in &connection.children {
            for selector in &child.local_ts {
                let everything = selector.prefix().is_some_and(|(_, len)| len == 0);
                let way = netlink.interface_to(selector.end()).await;
                if everything || way != Some(outer.index) {
                    continue;
                }
                tracing::warn!(
                    "tunnel {}/{}: this host reaches local_ts by the outer interface {}: what the \
                     peer sends there would go on in clear. Is the local network up?",
                    connection.name,
                    child.name,
                    outer.name
                );
                break;
            }
        }
    }
}

/// Connections without `local_addrs` get the outer interface's, in the kernel's order.
pub fn fill_addresses(settings: &mut Settings, own: &[Prefix]) -> Result<()> {
    let usable = usable(own);
    for connection in &mut settings.control.connections {
        if connection.local_addrs.is_empty() {
            if usable.is_empty() {
                bail!(
                    "connections.{}: no local_addrs, and interface {} has no address",
                    connection.name,
                    settings.outer.interface
                );
            }
            connection.local_addrs.clone_from(&usable);
            connection.mobility.any_local = true;
        }
    }
    Ok(())
}
