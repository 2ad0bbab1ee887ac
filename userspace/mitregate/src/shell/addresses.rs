//! Our addresses on the outer interface: what the classifier takes packets for, what the placeholder
//! sockets hold, and what the control plane may move to. They come and go while the daemon runs.

use std::net::IpAddr;

use anyhow::Result;

use super::switch::Switch;
use crate::net::{Netlink, Prefix};
use crate::placeholder::Placeholders;

/// What is known of our addresses.
pub struct Addresses {
    /// Those that the configuration names, wherever they are.
    configured: Vec<IpAddr>,
    /// Those of the outer interface, in the kernel's order.
    present: Vec<IpAddr>,
    placeholders: Placeholders,
}

impl Addresses {
    /// `configured` as the connections have them; `present` as the outer interface has them.
    pub fn new(configured: Vec<IpAddr>, present: &[Prefix], placeholders: Placeholders) -> Self {
        Self {
            configured,
            present: usable(present),
            placeholders,
        }
    }

    /// Asks the kernel again. The new list, if it is another one.
    pub async fn refresh(
        &mut self,
        netlink: &Netlink,
        outer: u32,
        switch: &mut Switch,
    ) -> Result<Option<Vec<IpAddr>>> {
        let present = usable(&netlink.addresses(outer).await?);
        if present == self.present {
            return Ok(None);
        }
        tracing::info!(
            before = self.present.len(),
            now = present.len(),
            "the outer interface's addresses have changed"
        );
        tracing::debug!(before = ?self.present, now = ?present, "our addresses");
        self.present.clone_from(&present);
        let mut all = present.clone();
        all.extend(
            self.configured
                .iter()
                .filter(|address| !present.contains(address)),
        );
        // Those in use before come first: what can be served is.
        if let Err(error) = switch.set_addresses(&all) {
            tracing::warn!("cannot take packets for all of our addresses: {error:#}");
        }
        self.placeholders.follow(&all);
        Ok(Some(present))
    }
}

/// Addresses that a peer elsewhere can reach.
pub fn usable(addresses: &[Prefix]) -> Vec<IpAddr> {
    let addresses = addresses.iter().map(|prefix| prefix.address());
    addresses
        .filter(|address| match address {
            IpAddr::V4(v4) => !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        })
        .collect()
}
