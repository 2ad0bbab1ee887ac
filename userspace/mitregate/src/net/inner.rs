//! The tunnel's interface: a veth pair whose far end is the data plane's.
//!
//! The host sees an ordinary interface, so its routes, firewall and tcpdump work. The far end
//! lies in a network namespace that nothing but this process holds open. When the process ends,
//! however it ends, the namespace goes, with it the pair and every route over it, and the
//! unreachable routes take over. Between the two, frames reach a namespace that routes nothing.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use mitregate_wire::eth::MacAddr;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute,
};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{Netlink, Prefix, errno, io_error};
use crate::ethtool;
use crate::netns::NetNs;

/// Where frames to the host go: the address of the host's end.
pub const HOST_MAC: MacAddr = MacAddr([0x02, 0x6d, 0x69, 0x74, 0x72, 0x65]);
/// The far end's own address.
pub const FAR_MAC: MacAddr = MacAddr([0x02, 0x6d, 0x69, 0x74, 0x72, 0x66]);

/// Frames that wait in front of a full veth ring (256 frames, which drops in silence).
const QUEUE_FRAMES: u32 = 1000;

/// A crashed daemon's interface goes with its namespace, which the kernel removes a moment later.
const STALE_WAIT: Duration = Duration::from_secs(3);

/// What to make.
#[derive(Clone, Debug)]
pub struct InnerConfig {
    /// Name of the host's end; the far end has the same with a `p` behind it.
    pub interface: String,
    /// Bytes of the largest inner packet.
    pub mtu: u32,
    /// Put on the host's end.
    pub addresses: Vec<Prefix>,
}

/// The pair, for as long as this lives.
pub struct InnerInterface {
    name: String,
    index: u32,
    far_index: u32,
    namespace: NetNs,
}

impl InnerInterface {
    /// Makes the pair, sets it up, and puts the addresses on it. Needs CAP_NET_ADMIN and
    /// CAP_SYS_ADMIN.
    pub async fn create(netlink: &Netlink, config: &InnerConfig) -> Result<Self> {
        let name = &config.interface;
        wait_until_free(netlink, name).await?;
        let namespace = NetNs::anonymous().context(
            "cannot make a network namespace for the far end of the tunnel interface \
             (needs root, or CAP_SYS_ADMIN)",
        )?;
        // Before the link is there, so that the kernel says nothing on it of its own.
        let _ = namespace.run(|| {
            for which in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
                if let Err(error) = fs::write(&path, "1") {
                    tracing::debug!("{path}: {error}");
                }
            }
        });
        create_pair(netlink.handle(), &namespace, config).await?;
        let interface = Self::configure(netlink, namespace, config).await;
        if interface.is_err() {
            // The namespace's end would remove it as well, but later.
            let _ = remove(netlink, name).await;
        }
        interface
    }

    async fn configure(netlink: &Netlink, namespace: NetNs, config: &InnerConfig) -> Result<Self> {
        let name = &config.interface;
        let host = netlink
            .link(name)
            .await?
            .with_context(|| format!("{name} has vanished"))?;
        ethtool::finish_packets_in_software(name)?;
        quiet(netlink.handle(), host.index).await;
        queue(netlink.handle(), host.index).await;
        let far_index = set_up_far_end(&namespace, &far_name(name))?;
        netlink
            .handle()
            .link()
            .set(LinkUnspec::new_with_index(host.index).up().build())
            .execute()
            .await
            .map_err(io_error)
            .with_context(|| format!("cannot set interface {name} up"))?;
        for address in &config.addresses {
            let request = netlink.handle().address();
            let added = request
                .add(host.index, address.address(), address.len())
                .execute()
                .await;
            added
                .map_err(io_error)
                .with_context(|| format!("cannot put {address} on interface {name}"))?;
        }
        Ok(Self {
            name: name.clone(),
            index: host.index,
            far_index,
            namespace,
        })
    }

    /// Name of the host's end.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Index of the host's end, in the host's namespace.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Index of the far end, in [`Self::namespace`].
    pub fn far_index(&self) -> u32 {
        self.far_index
    }

    /// Name of the far end, in [`Self::namespace`].
    pub fn far_name(&self) -> String {
        far_name(&self.name)
    }

    /// Where the far end lies.
    pub fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    /// Removes the pair, and with it the routes over it.
    pub async fn remove(self, netlink: &Netlink) -> Result<()> {
        remove(netlink, &self.name).await
    }
}

fn far_name(name: &str) -> String {
    format!("{name}p")
}

async fn wait_until_free(netlink: &Netlink, name: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + STALE_WAIT;
    loop {
        let Some(link) = netlink.link(name).await? else {
            return Ok(());
        };
        if !link.veth || link.mac != Some(HOST_MAC) {
            bail!(
                "interface {name} exists and is not ours: choose another name in \
                 `inner.interface`, or remove it with `ip link del {name}`"
            );
        }
        if tokio::time::Instant::now() >= deadline {
            bail!(
                "interface {name} belongs to another running mitregate daemon: stop it, or give \
                 this one another name in `inner.interface`"
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn create_pair(handle: &Handle, namespace: &NetNs, config: &InnerConfig) -> Result<()> {
    let far = LinkMessageBuilder::<LinkUnspec>::new()
        .name(far_name(&config.interface))
        .address(FAR_MAC.0.to_vec())
        .mtu(config.mtu)
        .setns_by_fd(namespace.as_fd().as_raw_fd())
        .arp(false)
        .build();
    let host = LinkMessageBuilder::<LinkVeth>::new(&config.interface, "")
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .address(HOST_MAC.0.to_vec())
        .mtu(config.mtu)
        .txqueuelen(QUEUE_FRAMES)
        .arp(false)
        .build();
    let result = handle.link().add(host).execute().await;
    result.map_err(io_error).with_context(|| {
        format!(
            "cannot make the veth pair {} (needs root, or CAP_NET_ADMIN)",
            config.interface
        )
    })
}

/// The far end's half, in its namespace, by a runtime of its own: a netlink socket belongs to the
/// namespace that it was opened in.
fn set_up_far_end(namespace: &NetNs, name: &str) -> Result<u32> {
    let in_namespace = || -> Result<u32> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let netlink = Netlink::connect()?;
            let link = netlink.link(name).await?.context("it is not there")?;
            quiet(netlink.handle(), link.index).await;
            queue(netlink.handle(), link.index).await;
            let up = LinkUnspec::new_with_index(link.index).up().build();
            netlink
                .handle()
                .link()
                .set(up)
                .execute()
                .await
                .map_err(io_error)?;
            Ok(link.index)
        })
    };
    namespace
        .run(in_namespace)?
        .with_context(|| format!("cannot set up the far end {name}"))
}

/// No link-local address, and so no router solicitations and no listener reports into the tunnel.
async fn quiet(handle: &Handle, index: u32) {
    let inet6 = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
    let message = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            inet6,
        )]))
        .build();
    if let Err(error) = handle.link().set(message).execute().await {
        // A kernel without IPv6 is quiet enough.
        tracing::debug!(
            index,
            "IPv6 address generation stays on: {}",
            io_error(error)
        );
    }
}

/// A queue before the veth ring turns silent drops into waiting.
async fn queue(handle: &Handle, index: u32) {
    let Ok(device) = i32::try_from(index) else {
        return;
    };
    let mut message = TcMessage::with_index(device);
    message.header.parent = TcHandle::ROOT;
    message.attributes.push(TcAttribute::Kind("pfifo".into()));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let Ok(mut answers) = handle.clone().request(request) else {
        return;
    };
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            tracing::debug!(index, "no pfifo queue: {error}");
        }
    }
}

async fn remove(netlink: &Netlink, name: &str) -> Result<()> {
    let Some(link) = netlink.link(name).await? else {
        return Ok(());
    };
    match netlink.handle().link().del(link.index).execute().await {
        Ok(()) => Ok(()),
        Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(()),
        Err(error) => {
            Err(io_error(error)).with_context(|| format!("cannot remove interface {name}"))
        }
    }
}
