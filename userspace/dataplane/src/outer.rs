//! What goes around an ESP packet: Ethernet, IP and, behind a NAT, UDP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mitregate_wire::eth::MacAddr;

/// Outer source and destination, of one family by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OuterAddrs {
    /// Over IPv4.
    V4 {
        /// Our address.
        src: Ipv4Addr,
        /// The peer's, or its NAT's.
        dst: Ipv4Addr,
    },
    /// Over IPv6.
    V6 {
        /// Our address.
        src: Ipv6Addr,
        /// The peer's, or its NAT's.
        dst: Ipv6Addr,
    },
}

impl OuterAddrs {
    /// `None` if the two are of different families.
    pub fn new(src: IpAddr, dst: IpAddr) -> Option<Self> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(Self::V4 { src, dst }),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(Self::V6 { src, dst }),
            _ => None,
        }
    }
}

/// Ports of UDP-encapsulated ESP (RFC 3948), in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpPorts {
    /// Our port, 4500.
    pub src: u16,
    /// The peer's port as its NAT shows it.
    pub dst: u16,
}

/// Don't Fragment in the outer IPv4 header. RFC 4301 §8.1 asks for all three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DfPolicy {
    /// As in the inner packet: path MTU discovery of the inner flow sees the outer path. The
    /// default. An inner IPv6 packet counts as DF set.
    #[default]
    Copy,
    /// Always set: nothing is fragmented on the outer path.
    Set,
    /// Never set: routers on the outer path may fragment, and the peer has to reassemble.
    Clear,
}

/// DSCP of the outer header (RFC 4301 §5.1.2.1). ECN is always copied (RFC 6040 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DscpPolicy {
    /// As in the inner packet. The default.
    #[default]
    Copy,
    /// This 6-bit value for every packet, so that an observer learns nothing from it.
    Fixed(u8),
}

/// Everything outside the ESP header of one epoch's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterHeader {
    /// Our interface's address.
    pub src_mac: MacAddr,
    /// The next hop's address.
    pub dst_mac: MacAddr,
    /// 802.1Q tag control information, if the outer port is tagged.
    pub vlan: Option<u16>,
    /// IP addresses.
    pub addrs: OuterAddrs,
    /// Ports for UDP encapsulation; `None` for plain ESP, protocol 50.
    pub udp: Option<UdpPorts>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Don't Fragment policy.
    pub df: DfPolicy,
    /// DSCP policy.
    pub dscp: DscpPolicy,
    /// MTU of the outer path, in bytes of the outer IP packet.
    pub mtu: u16,
}
