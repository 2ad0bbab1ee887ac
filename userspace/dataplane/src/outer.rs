//! What goes around an ESP packet: Ethernet, IP and, behind a NAT, UDP.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use mitregate_wire::{
    checksum::Sum,
    eth::{EtherType, MacAddr},
    ip::{TrafficClass, protocol},
};

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

/// Longest outer header: Ethernet with one tag, IPv6, UDP.
const MAX_LEN: usize = 14 + 4 + 40 + 8;

/// An [`OuterHeader`] as bytes, with everything filled in that does not depend on the packet.
#[derive(Clone)]
pub(crate) struct Template {
    bytes: [u8; MAX_LEN],
    len: u8,
    /// Where the IP header starts.
    ip: u8,
    udp: bool,
    v4: bool,
    df: DfPolicy,
    dscp: DscpPolicy,
    /// Ones' complement sum of the IPv4 header with the per-packet fields left out.
    sum: u32,
    mtu: u16,
}

/// What the outer header takes from the packet inside.
#[derive(Clone, Copy)]
pub(crate) struct Carried {
    pub(crate) traffic_class: TrafficClass,
    pub(crate) dont_fragment: bool,
    /// Identification of the outer IPv4 packet.
    pub(crate) id: u16,
}

impl Template {
    pub(crate) fn new(outer: &OuterHeader) -> Self {
        let mut bytes = [0; MAX_LEN];
        let v4 = matches!(outer.addrs, OuterAddrs::V4 { .. });
        let ether_type = if v4 { EtherType::IPV4 } else { EtherType::IPV6 };
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
            at
        };
        put(&outer.dst_mac.0);
        put(&outer.src_mac.0);
        if let Some(tci) = outer.vlan {
            put(&EtherType::VLAN.0.to_be_bytes());
            put(&tci.to_be_bytes());
        }
        let ip = put(&ether_type.0.to_be_bytes());
        let protocol = if outer.udp.is_some() {
            protocol::UDP
        } else {
            protocol::ESP
        };
        let end = match outer.addrs {
            OuterAddrs::V4 { src, dst } => {
                put(&[0x45, 0, 0, 0, 0, 0, 0, 0, outer.ttl, protocol, 0, 0]);
                put(&src.octets());
                put(&dst.octets())
            }
            OuterAddrs::V6 { src, dst } => {
                put(&[0x60, 0, 0, 0, 0, 0, protocol, outer.ttl]);
                put(&src.octets());
                put(&dst.octets())
            }
        };
        if let Some(ports) = outer.udp {
            put(&ports.src.to_be_bytes());
            put(&ports.dst.to_be_bytes());
            put(&[0; 4]);
        }
        let sum = Sum::new().bytes(&bytes[ip..end]).folded();
        Self {
            bytes,
            len: u8::try_from(at).unwrap_or(u8::MAX),
            ip: u8::try_from(ip).unwrap_or(u8::MAX),
            udp: outer.udp.is_some(),
            v4,
            df: outer.df,
            dscp: outer.dscp,
            sum: u32::from(sum),
            mtu: outer.mtu,
        }
    }

    /// Bytes before the ESP header.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The longest ESP packet, SPI to ICV, that the outer path takes.
    #[inline]
    pub(crate) fn max_esp(&self) -> usize {
        usize::from(self.mtu).saturating_sub(usize::from(self.len - self.ip))
    }

    /// Writes the header before the ESP packet that lies at `esp` in the chunk. Returns where the
    /// frame starts, or `None` if there is no room before `esp`.
    #[inline]
    pub(crate) fn write(
        &self,
        chunk: &mut [u8],
        esp: Range<usize>,
        carried: Carried,
    ) -> Option<usize> {
        let start = esp.start.checked_sub(self.len())?;
        let esp_len = esp.len();
        let (header, packet) = chunk
            .get_mut(start..esp.end)?
            .split_at_mut_checked(self.len())?;
        match header.len() {
            // The two common lengths as copies of constant size.
            34 => *header.first_chunk_mut::<34>()? = *self.bytes.first_chunk()?,
            42 => *header.first_chunk_mut::<42>()? = *self.bytes.first_chunk()?,
            len => header.copy_from_slice(self.bytes.get(..len)?),
        }
        let ip_len = header.len() - usize::from(self.ip) + esp_len;
        let class = match self.dscp {
            DscpPolicy::Copy => carried.traffic_class,
            DscpPolicy::Fixed(dscp) => TrafficClass::new(dscp & 0x3f, carried.traffic_class.ecn()),
        };
        let (_, ip) = header.split_at_mut_checked(usize::from(self.ip))?;
        if self.v4 {
            let ip_len = u16::try_from(ip_len).ok()?;
            let flags = match self.df {
                DfPolicy::Copy => u16::from(carried.dont_fragment) << 14,
                DfPolicy::Set => 0x4000,
                DfPolicy::Clear => 0,
            };
            let sum = self.sum
                + u32::from(class.0)
                + u32::from(ip_len)
                + u32::from(carried.id)
                + u32::from(flags);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            let [hi, lo] = ip_len.to_be_bytes();
            let [id_hi, id_lo] = carried.id.to_be_bytes();
            let [flags_hi, flags_lo] = flags.to_be_bytes();
            let head = ip.first_chunk_mut::<8>()?;
            *head = [0x45, class.0, hi, lo, id_hi, id_lo, flags_hi, flags_lo];
            let [.., sum_hi, sum_lo] = (!sum).to_be_bytes();
            *ip.get_mut(10..12)?.first_chunk_mut()? = [sum_hi, sum_lo];
        } else {
            let [hi, lo] = u16::try_from(ip_len.checked_sub(40)?).ok()?.to_be_bytes();
            let head = ip.first_chunk_mut::<6>()?;
            *head = [0x60 | class.0 >> 4, class.0 << 4, 0, 0, hi, lo];
        }
        if self.udp {
            let len = u16::try_from(esp_len + 8).ok()?.to_be_bytes();
            let (ip, udp) = ip.split_at_mut_checked(ip.len() - 8)?;
            *udp.get_mut(4..6)?.first_chunk_mut()? = len;
            if !self.v4 {
                // RFC 3948 §2.1 asks for zero over IPv4 only; RFC 8200 §8.1 forbids it here.
                let sum = Sum::new().bytes(ip.get(8..)?).bytes(&[0, protocol::UDP]);
                let sum = sum.bytes(&len).bytes(udp).bytes(packet).checksum();
                let sum = if sum == 0 { 0xffff } else { sum };
                *udp.get_mut(6..8)?.first_chunk_mut()? = sum.to_be_bytes();
            }
        }
        Some(start)
    }
}
