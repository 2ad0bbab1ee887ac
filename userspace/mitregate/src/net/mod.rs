//! The host's network, by rtnetlink: links, addresses, routes, neighbours.

pub mod guard;
pub mod inner;
pub mod nexthop;
mod prefix;
pub mod routes;

use std::io;
use std::net::IpAddr;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use mitregate_wire::eth::MacAddr;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::RouteAttribute;
use tokio::task::AbortHandle;

pub use prefix::{Prefix, PrefixError};

/// A connection to the kernel's routing tables, in the network namespace of the thread that made
/// it. Must be made within a tokio runtime.
pub struct Netlink {
    handle: rtnetlink::Handle,
    task: AbortHandle,
}

/// What is known about one link.
#[derive(Clone, Debug)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Ethernet address; None for links without one (a TUN device, `lo` has zeros).
    pub mac: Option<MacAddr>,
    /// Bytes of the largest IP packet.
    pub mtu: u32,
    /// Whether an administrator has set it up.
    pub up: bool,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
}

impl Netlink {
    /// Connects; the connection's task runs until this is dropped.
    pub fn connect() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        let task = tokio::spawn(connection).abort_handle();
        Ok(Self { handle, task })
    }

    /// For requests that have no method here.
    pub(crate) fn handle(&self) -> &rtnetlink::Handle {
        &self.handle
    }

    /// The link of this name, None if there is none.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut links = self.handle.link().get().match_name(name).execute();
        match links.try_next().await {
            Ok(message) => Ok(message.as_ref().map(parse_link)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(io_error(error)).context(format!("cannot look up interface {name}")),
        }
    }

    /// What the link at `index` is called, if it is there.
    pub(crate) async fn name_of(&self, index: Option<u32>) -> Option<String> {
        let mut links = self.handle.link().get().match_index(index?).execute();
        Some(parse_link(&links.try_next().await.ok()??).name)
    }

    /// Where the host itself would send a packet for `address`: the interface's index.
    pub async fn interface_to(&self, address: IpAddr) -> Option<u32> {
        let len = Prefix::host(address).len();
        let request = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(address, len)
            .ok()?;
        let mut routes = self.handle.route().get(request.build()).execute();
        let route = routes.try_next().await.ok()??;
        route
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })
    }

    /// The addresses of a link.
    pub async fn addresses(&self, index: u32) -> Result<Vec<Prefix>> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute()
            .try_collect()
            .await
            .map_err(io_error)
            .context("cannot list addresses")?;
        Ok(messages
            .iter()
            .filter(|message| message.header.index == index)
            .filter_map(|message| {
                // On a point-to-point link Address is the peer's; Local is ours wherever present.
                let local = message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Local(address) => Some(*address),
                        _ => None,
                    });
                let any = message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Address(address) => Some(*address),
                        _ => None,
                    });
                Prefix::new(local.or(any)?, message.header.prefix_len)
            })
            .collect())
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The errno that the kernel answered with, if it did.
pub(crate) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        _ => None,
    }
}

/// The kernel's answer in the words of errno, without the dump of the request.
pub(crate) fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

pub(crate) fn parse_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        veth: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
            }
            LinkAttribute::LinkInfo(infos) => {
                link.veth |= infos.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            _ => {}
        }
    }
    link
}
