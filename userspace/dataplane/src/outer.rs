//! What goes around an ESP packet: Ethernet, IP and, behind a NAT, UDP.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
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
    /// What the outer link takes, in bytes of the outer IP packet. The path behind it may take less:
    /// [`Command::SetPathMtu`](crate::Command::SetPathMtu).
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
    shape: Shape,
    df: DfPolicy,
    dscp: DscpPolicy,
    /// Ones' complement sum of the IPv4 header with the per-packet fields left out.
    sum: u32,
    mtu: u16,
}

/// Which header it is, so that the common ones are written at constant places.
#[derive(Clone, Copy)]
enum Shape {
    /// Ethernet, IPv4.
    Plain,
    /// Ethernet, IPv4, UDP.
    Udp,
    /// Any other.
    Other,
}

/// What the outer header takes from the packet inside.
#[derive(Clone, Copy)]
pub(crate) struct Carried {
    pub(crate) traffic_class: TrafficClass,
    pub(crate) dont_fragment: bool,
    /// It asks what the path carries: DF is set whatever the policy.
    pub(crate) probe: bool,
    /// Identification of the outer IPv4 packet.
    pub(crate) id: u16,
}

impl Template {
    /// Where packets go; port 0 for plain ESP.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        let ip = usize::from(self.ip);
        let field = |at: usize, len: usize| self.bytes.get(ip + at..ip + at + len);
        let (address, end): (IpAddr, usize) = if self.v4 {
            (<[u8; 4]>::try_from(field(16, 4)?).ok()?.into(), 20)
        } else {
            (<[u8; 16]>::try_from(field(24, 16)?).ok()?.into(), 40)
        };
        let port = if self.udp {
            u16::from_be_bytes(field(end + 2, 2)?.try_into().ok()?)
        } else {
            0
        };
        Some(SocketAddr::new(address, port))
    }

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
            shape: match (v4, outer.vlan, outer.udp) {
                (true, None, None) => Shape::Plain,
                (true, None, Some(_)) => Shape::Udp,
                _ => Shape::Other,
            },
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

    /// What the link takes, bytes of the outer IP packet.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The longest ESP packet, SPI to ICV, that an outer IP packet of `mtu` bytes, or of what the link
    /// takes, has room for.
    #[inline]
    pub(crate) fn max_esp(&self, mtu: u16) -> usize {
        usize::from(self.mtu.min(mtu)).saturating_sub(usize::from(self.len - self.ip))
    }

    /// Writes the header before the ESP packet that lies at `esp` in the chunk. Returns where the
    /// frame starts, or `None` if there is no room before `esp`.
    #[inline(always)]
    pub(crate) fn write(
        &self,
        chunk: &mut [u8],
        esp: Range<usize>,
        carried: Carried,
    ) -> Option<usize> {
        let start = esp.start.checked_sub(self.len())?;
        // The untagged IPv4 headers at constant places.
        match (self.shape, chunk.get_mut(start..esp.end)?) {
            (Shape::Plain, frame) => {
                let header = frame.first_chunk_mut::<34>()?;
                *header = *self.bytes.first_chunk()?;
                let ip: &mut [u8; 20] = header.last_chunk_mut()?;
                self.fill_ipv4(ip, 20 + esp.len(), carried);
            }
            (Shape::Udp, frame) => {
                let header = frame.first_chunk_mut::<42>()?;
                *header = *self.bytes.first_chunk()?;
                let (ip, udp) = header.last_chunk_mut::<28>()?.split_at_mut(20);
                self.fill_ipv4(ip.first_chunk_mut()?, 28 + esp.len(), carried);
                udp[4..6].copy_from_slice(&length(8 + esp.len()));
            }
            (Shape::Other, frame) => self.write_any(frame, esp.len(), carried)?,
        }
        Some(start)
    }

    fn class(&self, carried: Carried) -> TrafficClass {
        match self.dscp {
            DscpPolicy::Copy => carried.traffic_class,
            DscpPolicy::Fixed(dscp) => TrafficClass::new(dscp & 0x3f, carried.traffic_class.ecn()),
        }
    }

    /// Fills in what depends on the packet, the checksum by what the template's own sum leaves.
    #[inline(always)]
    fn fill_ipv4(&self, ip: &mut [u8; 20], len: usize, carried: Carried) {
        let flags: u16 = match self.df {
            DfPolicy::Copy => u16::from(carried.dont_fragment) << 14,
            DfPolicy::Set => 0x4000,
            DfPolicy::Clear => u16::from(carried.probe) << 14,
        };
        let len = u16::from_be_bytes(length(len));
        let class = self.class(carried).0;
        // Version and header length, class, total length, identification, flags.
        let head = 0x45 << 56
            | u64::from(class) << 48
            | u64::from(len) << 32
            | u64::from(carried.id) << 16
            | u64::from(flags);
        ip[..8].copy_from_slice(&head.to_be_bytes());
        let varying = [u16::from(class), len, carried.id, flags].map(u32::from);
        let sum = self.sum + varying[0] + varying[1] + varying[2] + varying[3];
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let [.., sum_hi, sum_lo] = (!sum).to_be_bytes();
        ip[10..12].copy_from_slice(&[sum_hi, sum_lo]);
    }

    /// Tagged frames, and IPv6.
    #[cold]
    fn write_any(&self, frame: &mut [u8], esp_len: usize, carried: Carried) -> Option<()> {
        let (header, packet) = frame.split_at_mut_checked(self.len())?;
        header.copy_from_slice(self.bytes.get(..self.len())?);
        let (_, ip) = header.split_at_mut_checked(usize::from(self.ip))?;
        let payload_len = if self.udp { 8 + esp_len } else { esp_len };
        if self.v4 {
            self.fill_ipv4(ip.first_chunk_mut()?, 20 + payload_len, carried);
        } else {
            let class = self.class(carried).0;
            let [hi, lo] = length(payload_len);
            *ip.first_chunk_mut()? = [0x60 | class >> 4, class << 4, 0, 0, hi, lo];
        }
        if self.udp {
            let (ip, udp) = ip.split_last_chunk_mut::<8>()?;
            udp[4..6].copy_from_slice(&length(payload_len));
            if !self.v4 {
                // RFC 3948 §2.1 asks for zero over IPv4 only; RFC 8200 §8.1 forbids it here.
                let pseudo = Sum::new().bytes(ip.get(8..)?).bytes(&[0, protocol::UDP]);
                let sum = pseudo
                    .bytes(&length(payload_len))
                    .bytes(udp)
                    .bytes(packet)
                    .checksum();
                udp[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
            }
        }
        Some(())
    }
}

/// A length field. A chunk has at most 4096 bytes, so nothing is cut off.
#[inline(always)]
fn length(bytes: usize) -> [u8; 2] {
    let [.., hi, lo] = bytes.to_be_bytes();
    [hi, lo]
}
