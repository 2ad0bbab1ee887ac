//! Pools of virtual addresses.

use std::net::IpAddr;

use mitregate_control::PoolConfig;

use super::convert::Check;
use super::file::{self, File};
use super::locate::FieldPath;
use crate::net::Prefix;

pub(super) fn pools(check: &mut Check<'_>, file: &File) -> Vec<PoolConfig> {
    let mut pools: Vec<PoolConfig> = Vec::new();
    for (name, entry) in &file.pools {
        let at = FieldPath::of(&["pools", name]);
        super::peers::name(check, &at, name);
        let Some(pool) = pool(check, &at, name, entry) else {
            continue;
        };
        if let Some(other) = pools.iter().find(|other| overlap(other, &pool)) {
            let other = &other.name;
            check.error(
                &at.key("addrs"),
                format!("shares addresses with pools.{other}: two peers would get the same"),
            );
        }
        pools.push(pool);
    }
    pools
}

/// Whether the pools that a connection names are there.
pub(super) fn named(check: &mut Check<'_>, at: &FieldPath, names: &[String], file: &File) {
    for (index, name) in names.iter().enumerate() {
        if !file.pools.contains_key(name) {
            check.error(
                &at.index(index),
                format!("there is no [pools.{name}] with addrs for it"),
            );
        }
    }
}

fn pool(
    check: &mut Check<'_>,
    at: &FieldPath,
    name: &str,
    entry: &file::Pool,
) -> Option<PoolConfig> {
    let range = check.ok(&at.key("addrs"), range(&entry.addrs));
    let dns = check.list(&at.key("dns"), &entry.dns, |text, _| {
        format!("{text:?} is not an IP address")
    });
    let (start, end) = range?;
    Some(PoolConfig {
        name: name.to_owned(),
        start,
        end,
        dns,
    })
}

/// The first and the last address for peers.
fn range(text: &str) -> Result<(IpAddr, IpAddr), String> {
    let wrong = || {
        format!(
            "{text:?} is neither a network, such as \"10.3.0.0/24\", nor a range, such as \
             \"10.3.0.10-10.3.0.99\""
        )
    };
    if let Some((start, end)) = text.split_once('-') {
        let parse = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| wrong());
        let (start, end) = (parse(start)?, parse(end)?);
        let ordered = start.is_ipv4() == end.is_ipv4() && start <= end;
        return ordered.then_some((start, end)).ok_or_else(wrong);
    }
    let prefix: Prefix = text.parse().map_err(|_| wrong())?;
    let network = prefix.network();
    let (start, end) = (network.address(), network.last());
    let hosts = match (start, end) {
        // A network's own address and its broadcast address are nobody's (RFC 1122 §3.2.1.3).
        (IpAddr::V4(a), IpAddr::V4(b)) if network.len() <= 30 => {
            let inner = |bits: u32| std::net::Ipv4Addr::from_bits(bits).into();
            (inner(a.to_bits() + 1), inner(b.to_bits() - 1))
        }
        // The first one is the routers' (RFC 4291 §2.6.1).
        (IpAddr::V6(a), _) if network.len() <= 126 => {
            let next = std::net::Ipv6Addr::from_bits(a.to_bits() + 1);
            (next.into(), end)
        }
        _ => (start, end),
    };
    Ok(hosts)
}

fn overlap(a: &PoolConfig, b: &PoolConfig) -> bool {
    a.start.is_ipv4() == b.start.is_ipv4() && a.start <= b.end && b.start <= a.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, start, end) in [
            ("10.3.0.0/24", "10.3.0.1", "10.3.0.254"),
            ("10.3.0.7/30", "10.3.0.5", "10.3.0.6"),
            ("10.3.0.4/31", "10.3.0.4", "10.3.0.5"),
            ("10.3.0.4", "10.3.0.4", "10.3.0.4"),
            ("10.3.0.10-10.3.0.99", "10.3.0.10", "10.3.0.99"),
            ("fd03::/120", "fd03::1", "fd03::ff"),
        ] {
            let expected = (start.parse().unwrap(), end.parse().unwrap());
            assert_eq!(range(text), Ok(expected), "{text}");
        }
        for wrong in [
            "",
            "10.3.0.0/33",
            "10.3.0.9-10.3.0.1",
            "10.3.0.1-::1",
            "x-y",
        ] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
