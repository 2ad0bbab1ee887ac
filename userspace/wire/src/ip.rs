//! What IPv4 and IPv6 have in common: protocol numbers, DSCP and ECN, the flow that selectors
//! look at, and a view of either.

use core::net::IpAddr;

use crate::{WireError, ipv4, ipv6};

/// Protocol numbers (IANA) that the gateway knows.
pub mod protocol {
    /// ICMP
    pub const ICMP: u8 = 1;
    /// IPv4 in IP: Next Header of tunnel mode (RFC 4303 §2.6)
    pub const IPV4: u8 = 4;
    /// TCP
    pub const TCP: u8 = 6;
    /// UDP
    pub const UDP: u8 = 17;
    /// IPv6 in IP: Next Header of tunnel mode
    pub const IPV6: u8 = 41;
    /// ESP
    pub const ESP: u8 = 50;
    /// ICMPv6
    pub const ICMPV6: u8 = 58;
    /// No next header: an ESP dummy packet (RFC 4303 §2.6)
    pub const NONE: u8 = 59;
    /// SCTP
    pub const SCTP: u8 = 132;
    /// UDP-Lite
    pub const UDP_LITE: u8 = 136;
    /// AGGFRAG_PAYLOAD (RFC 9347), home of ESP Echo
    pub const AGGFRAG: u8 = 144;
}

/// Explicit congestion notification, the low two bits of TOS or Traffic Class (RFC 3168 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    NotEct = 0,
    /// ECN-capable, ECT(1).
    Ect1 = 1,
    /// ECN-capable, ECT(0).
    Ect0 = 2,
    /// Congestion experienced.
    Ce = 3,
}

impl Ecn {
    /// From the low two bits of `traffic_class`.
    #[must_use]
    pub const fn from_bits(traffic_class: u8) -> Self {
        match traffic_class & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The outer codepoint for an inner one: normal mode copies (RFC 6040 §4.1).
    #[must_use]
    pub const fn encapsulate(inner: Self) -> Self {
        inner
    }

    /// The codepoint to forward after decapsulation, or `None` when the packet must be dropped
    /// (RFC 6040 §4.2, figure 4).
    #[must_use]
    pub const fn decapsulate(inner: Self, outer: Self) -> Option<Self> {
        match (inner, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, _) => Some(Self::NotEct),
            (Self::Ce, _) | (_, Self::Ce) => Some(Self::Ce),
            (Self::Ect0, Self::Ect1) | (Self::Ect1, _) => Some(Self::Ect1),
            (Self::Ect0, _) => Some(Self::Ect0),
        }
    }
}

/// Differentiated services codepoint (RFC 2474) and ECN: the TOS or Traffic Class byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrafficClass(pub u8);

impl TrafficClass {
    /// From its two parts; `dscp` is 0..=63, higher bits are cut.
    #[must_use]
    pub const fn new(dscp: u8, ecn: Ecn) -> Self {
        Self(dscp << 2 | ecn as u8)
    }

    /// DSCP, 0..=63.
    #[must_use]
    pub const fn dscp(self) -> u8 {
        self.0 >> 2
    }

    /// ECN codepoint.
    #[must_use]
    pub const fn ecn(self) -> Ecn {
        Ecn::from_bits(self.0)
    }

    /// The same DSCP with another ECN codepoint.
    #[must_use]
    pub const fn with_ecn(self, ecn: Ecn) -> Self {
        Self(self.0 & !3 | ecn as u8)
    }
}

/// What traffic selectors look at in a packet (RFC 4301 §4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol, behind IPv6 extension headers.
    pub protocol: u8,
    /// Source and destination port of TCP, UDP, SCTP and UDP-Lite; for ICMP and ICMPv6 type·256 +
    /// code in both (RFC 7296 §3.13.1). `None` when the packet does not show them: OPAQUE.
    pub ports: Option<(u16, u16)>,
}

impl Flow {
    pub(crate) fn new(src: IpAddr, dst: IpAddr, protocol: u8, upper: Option<&[u8]>) -> Self {
        let word = |at: usize| {
            let bytes = upper?.get(at..at + 2)?;
            Some(u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let ports = match protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE => {
                word(0).zip(word(2))
            }
            protocol::ICMP | protocol::ICMPV6 => word(0).map(|type_code| (type_code, type_code)),
            _ => None,
        };
        Self {
            src,
            dst,
            protocol,
            ports,
        }
    }
}

/// A checked IPv4 or IPv6 packet.
#[derive(Clone, Copy, Debug)]
pub enum Packet<'a> {
    /// IPv4
    V4(ipv4::Packet<'a>),
    /// IPv6
    V6(ipv6::Packet<'a>),
}

impl<'a> Packet<'a> {
    /// Checks `bytes` as the version that their first four bits name.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, WireError> {
        match bytes.first().ok_or(WireError::Truncated)? >> 4 {
            4 => ipv4::Packet::new_checked(bytes).map(Self::V4),
            6 => ipv6::Packet::new_checked(bytes).map(Self::V6),
            _ => Err(WireError::BadVersion),
        }
    }

    /// Source address.
    #[must_use]
    pub fn src(&self) -> IpAddr {
        match self {
            Self::V4(p) => p.src().into(),
            Self::V6(p) => p.src().into(),
        }
    }

    /// Destination address.
    #[must_use]
    pub fn dst(&self) -> IpAddr {
        match self {
            Self::V4(p) => p.dst().into(),
            Self::V6(p) => p.dst().into(),
        }
    }

    /// Protocol of [`Packet::payload`], behind IPv6 extension headers.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        match self {
            Self::V4(p) => p.protocol(),
            Self::V6(p) => p.protocol(),
        }
    }

    /// DSCP and ECN.
    #[must_use]
    pub fn traffic_class(&self) -> TrafficClass {
        match self {
            Self::V4(p) => p.traffic_class(),
            Self::V6(p) => p.traffic_class(),
        }
    }

    /// TTL or hop limit.
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        match self {
            Self::V4(p) => p.ttl(),
            Self::V6(p) => p.hop_limit(),
        }
    }

    /// Whether this is a fragment of a larger packet.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        match self {
            Self::V4(p) => p.is_fragment(),
            Self::V6(p) => p.is_fragment(),
        }
    }

    /// Length of the whole packet by its own header, bytes: what follows is link padding or TFC
    /// padding (RFC 4303 §2.7).
    #[must_use]
    pub fn total_len(&self) -> usize {
        match self {
            Self::V4(p) => p.total_len(),
            Self::V6(p) => p.total_len(),
        }
    }

    /// Bytes before [`Packet::payload`].
    #[must_use]
    pub fn header_len(&self) -> usize {
        match self {
            Self::V4(p) => p.header_len(),
            Self::V6(p) => p.header_len(),
        }
    }

    /// The upper-layer packet (or its fragment).
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        match self {
            Self::V4(p) => p.payload(),
            Self::V6(p) => p.payload(),
        }
    }

    /// What selectors look at.
    #[must_use]
    pub fn flow(&self) -> Flow {
        match self {
            Self::V4(p) => p.flow(),
            Self::V6(p) => p.flow(),
        }
    }
}

/// Lowers TTL or hop limit by one in the packet at the start of `packet`, checksum kept right, and
/// returns the new value. A packet that arrives with 0 or 1 is left as it is and gives `Ok(0)`:
/// it must not be forwarded (RFC 1812 §5.3.1, RFC 8200 §3).
pub fn decrement_hop_limit(packet: &mut [u8]) -> Result<u8, WireError> {
    match packet.first().ok_or(WireError::Truncated)? >> 4 {
        4 => ipv4::decrement_ttl(packet),
        6 => ipv6::decrement_hop_limit(packet),
        _ => Err(WireError::BadVersion),
    }
}

/// Sets DSCP and ECN in the packet at the start of `packet`, checksum kept right.
pub fn set_traffic_class(packet: &mut [u8], class: TrafficClass) -> Result<(), WireError> {
    match packet.first().ok_or(WireError::Truncated)? >> 4 {
        4 => ipv4::set_traffic_class(packet, class),
        6 => ipv6::set_traffic_class(packet, class),
        _ => Err(WireError::BadVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ecn::{Ce, Ect0, Ect1, NotEct};

    #[test]
    fn decapsulation_is_figure_4_of_rfc_6040() {
        let outer = [NotEct, Ect0, Ect1, Ce];
        let figure = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in outer.into_iter().zip(row) {
                assert_eq!(
                    Ecn::decapsulate(inner, outer),
                    expected,
                    "{inner:?} in {outer:?}"
                );
            }
        }
    }

    #[test]
    fn encapsulation_copies() {
        for ecn in [NotEct, Ect0, Ect1, Ce] {
            assert_eq!(Ecn::encapsulate(ecn), ecn);
            assert_eq!(Ecn::from_bits(ecn as u8), ecn);
        }
    }

    #[test]
    fn traffic_class_has_two_parts() {
        for byte in 0..=255 {
            let class = TrafficClass(byte);
            assert_eq!(TrafficClass::new(class.dscp(), class.ecn()), class);
            assert_eq!(class.with_ecn(Ce), TrafficClass::new(class.dscp(), Ce));
        }
    }
}
