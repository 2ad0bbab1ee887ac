//! What the data path needs to know of a packet's headers, read at once.
//!
//! Nearly every packet is IPv4 without options in an untagged frame. That one is read from a fixed
//! array, without a branch per field; all others go through the views of `mitregate-wire`, out of
//! line. Whoever calls asks for the plain packet first and goes on with either in a function that
//! is compiled into both ways: where they joined, an [`Ip`] would be put together in memory, piece
//! by piece, and read back at once, which costs more than it holds. A property test holds the two
//! against each other.

use mitregate_wire::{
    eth::{self, EtherType},
    ip::{self, TrafficClass, protocol},
    ipv4,
};

use crate::fate::Fate;

/// Source and destination, as numbers that compare fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addrs {
    V4 { src: u32, dst: u32 },
    V6 { src: u128, dst: u128 },
}

/// What selectors look at (RFC 4301 §4.4.1.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) addrs: Addrs,
    pub(crate) protocol: u8,
    /// The first four bytes behind the IP header; `None` in a later fragment.
    upper: Option<u32>,
}

impl Flow {
    /// Source and destination port; for ICMP twice type and code. `None` where the packet shows
    /// none: a later fragment, another protocol.
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        let [a, b, c, d] = self.upper?.to_be_bytes();
        let (first, second) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        match self.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE => {
                Some((first, second))
            }
            protocol::ICMP | protocol::ICMPV6 => Some((first, first)),
            _ => None,
        }
    }

    /// The same from the view's reading of the packet.
    pub(crate) fn with_ports(addrs: Addrs, protocol: u8, ports: Option<(u16, u16)>) -> Self {
        let upper = ports.map(|(first, second)| u32::from(first) << 16 | u32::from(second));
        Self {
            addrs,
            protocol,
            upper,
        }
    }
}

/// A checked IP packet: version, lengths and, for IPv4, the header checksum are right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip {
    /// Bytes of the packet; what lies behind is padding.
    pub(crate) len: usize,
    /// Bytes before its payload.
    pub(crate) header_len: usize,
    pub(crate) class: TrafficClass,
    /// DF, or IPv6, which routers never fragment.
    pub(crate) dont_fragment: bool,
    /// First, later or last.
    pub(crate) is_fragment: bool,
    pub(crate) flow: Flow,
}

impl Ip {
    /// An IPv4 packet without options, all right, and with at least 4 bytes of payload; else `None`.
    #[inline(always)]
    pub(crate) fn plain(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<24>()?;
        if head[0] != 0x45 {
            return None;
        }
        let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let word =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let len = usize::from(half(2));
        // Ones' complement: the carries of 32-bit words fold into 16 bits in the end (RFC 1071).
        let wide = |at: usize| u64::from(word(at));
        let sum = wide(0) + wide(4) + wide(8) + wide(12) + wide(16);
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        if len < 24 || len > bytes.len() || sum != 0xffff {
            return None;
        }
        let fragment = half(6);
        let flow = Flow {
            addrs: Addrs::V4 {
                src: word(12),
                dst: word(16),
            },
            protocol: head[9],
            upper: (fragment & 0x1fff == 0).then(|| word(20)),
        };
        Some(Self {
            len,
            header_len: ipv4::HEADER_LEN,
            class: TrafficClass(head[1]),
            dont_fragment: fragment & 0x4000 != 0,
            is_fragment: fragment & 0x3fff != 0,
            flow,
        })
    }

    /// Any packet; `None` if it is malformed, or not what the EtherType announces.
    #[cold]
    pub(crate) fn any(ether_type: EtherType, bytes: &[u8]) -> Option<Self> {
        let packet = ip::Packet::new_checked(bytes).ok()?;
        let (addrs, dont_fragment) = match &packet {
            ip::Packet::V4(v4) => {
                if ether_type != EtherType::IPV4 || !v4.checksum_ok() {
                    return None;
                }
                let (src, dst) = (v4.src().to_bits(), v4.dst().to_bits());
                (Addrs::V4 { src, dst }, v4.dont_fragment())
            }
            ip::Packet::V6(v6) => {
                if ether_type != EtherType::IPV6 {
                    return None;
                }
                let (src, dst) = (v6.src().to_bits(), v6.dst().to_bits());
                (Addrs::V6 { src, dst }, true)
            }
        };
        let flow = packet.flow();
        Some(Self {
            len: packet.total_len(),
            header_len: packet.header_len(),
            class: packet.traffic_class(),
            dont_fragment,
            is_fragment: packet.is_fragment(),
            flow: Flow::with_ports(addrs, flow.protocol, flow.ports),
        })
    }
}

/// The plain packet in an untagged frame, behind [`eth::HEADER_LEN`] bytes.
#[inline(always)]
pub(crate) fn plain_in_frame(frame: &[u8]) -> Option<Ip> {
    match frame.split_first_chunk::<{ eth::HEADER_LEN }>() {
        Some(([.., 0x08, 0x00], packet)) => Ip::plain(packet),
        _ => None,
    }
}

/// Any packet in a frame, and where it starts.
#[cold]
pub(crate) fn any_in_frame(frame: &[u8]) -> Result<(usize, Ip), Fate> {
    let frame = eth::Frame::new_checked(frame).map_err(|_| Fate::BadHeader)?;
    match frame.ether_type() {
        ether_type @ (EtherType::IPV4 | EtherType::IPV6) => Ip::any(ether_type, frame.payload())
            .map(|ip| (frame.header_len(), ip))
            .ok_or(Fate::BadHeader),
        _ => Err(Fate::NotIp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mitregate_wire::checksum;
    use proptest::prelude::*;

    fn fields(ip: Ip) -> impl PartialEq + std::fmt::Debug {
        let Ip {
            len,
            header_len,
            class,
            dont_fragment,
            is_fragment,
            flow,
        } = ip;
        let flow = (flow.addrs, flow.protocol, flow.ports());
        (len, header_len, class, dont_fragment, is_fragment, flow)
    }

    proptest! {
        #[test]
        fn the_short_way_and_the_long_one_agree(
            mut bytes in prop::collection::vec(any::<u8>(), 20..64),
            v4 in prop::bool::weighted(0.9),
            len in prop_oneof![4 => Just(None), 1 => (0u16..80).prop_map(Some)],
            protocol in prop::sample::select(vec![1u8, 6, 17, 50, 58, 132, 136, 99]),
            fragment in prop_oneof![3 => Just(0u16), 3 => Just(0x4000), 1 => any::<u16>()],
            right_sum in prop::bool::weighted(0.9),
        ) {
            bytes[0] = if v4 { 0x45 } else { bytes[0] };
            let len = len.unwrap_or(u16::try_from(bytes.len()).unwrap());
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
            bytes[9] = protocol;
            if right_sum {
                bytes[10..12].fill(0);
                let sum = checksum::checksum(&bytes[..20]);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            let any = Ip::any(EtherType::IPV4, &bytes);
            let is_plain = bytes[0] == 0x45 && any.is_some_and(|ip| ip.len >= 24);
            prop_assert_eq!(Ip::plain(&bytes).map(fields), any.filter(|_| is_plain).map(fields));
        }
    }
}
