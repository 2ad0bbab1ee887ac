/// What the classifier found; one counter each.
///
/// The discriminant is the index into the counter map: append, never reorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// ESP straight over IP (protocol 50, RFC 4303), a whole packet.
    Esp,
    /// Any fragment of an ESP packet.
    EspFragment,
    /// UDP to port 500: IKE (RFC 7296 §2).
    Ike,
    /// UDP to port 4500 with the non-ESP marker: IKE (RFC 3948 §2.2).
    IkeNatT,
    /// UDP to port 4500 with an SPI: ESP (RFC 3948 §2.1).
    EspNatT,
    /// UDP to port 4500 with the one byte 0xFF: NAT keepalive (RFC 3948 §2.3).
    NatKeepalive,
    /// First fragment of UDP to port 500 or 4500; its later fragments are remembered.
    UdpFirstFragment,
    /// Later fragment of a remembered datagram.
    LaterFragment,
    /// ICMP or ICMPv6 error that quotes ESP, or UDP from port 500 or 4500, sent by us.
    IcmpError,
    /// Neither IPv4 nor IPv6 (or more than two VLAN tags).
    NotIp,
    /// IP, but none of the above.
    NotIpsec,
    /// IPsec or IKE, or an error about it, for an address that is not ours.
    NotForUs,
    /// Later fragment of a datagram whose first fragment was not ours or not seen.
    UnknownFragment,
    /// More IPv6 extension headers than the walk follows.
    LongHeaderChain,
    /// Truncated, or its lengths lie.
    Malformed,
    /// Anything on an inner port.
    Inner,
}

impl Verdict {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 16] = [
        Self::Esp,
        Self::EspFragment,
        Self::Ike,
        Self::IkeNatT,
        Self::EspNatT,
        Self::NatKeepalive,
        Self::UdpFirstFragment,
        Self::LaterFragment,
        Self::IcmpError,
        Self::NotIp,
        Self::NotIpsec,
        Self::NotForUs,
        Self::UnknownFragment,
        Self::LongHeaderChain,
        Self::Malformed,
        Self::Inner,
    ];

    /// Key into the counter map.
    #[must_use]
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Whether the packet belongs to the port's socket. All others are the kernel's (XDP_PASS).
    #[must_use]
    #[inline(always)]
    pub const fn redirects(self) -> bool {
        match self {
            Self::Esp
            | Self::EspFragment
            | Self::Ike
            | Self::IkeNatT
            | Self::EspNatT
            | Self::NatKeepalive
            | Self::UdpFirstFragment
            | Self::LaterFragment
            | Self::IcmpError
            | Self::Inner => true,
            Self::NotIp
            | Self::NotIpsec
            | Self::NotForUs
            | Self::UnknownFragment
            | Self::LongHeaderChain
            | Self::Malformed => false,
        }
    }

    /// Its name in statistics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Esp => "esp",
            Self::EspFragment => "esp_fragment",
            Self::Ike => "ike",
            Self::IkeNatT => "ike_nat_t",
            Self::EspNatT => "esp_nat_t",
            Self::NatKeepalive => "nat_keepalive",
            Self::UdpFirstFragment => "udp_first_fragment",
            Self::LaterFragment => "later_fragment",
            Self::IcmpError => "icmp_error",
            Self::NotIp => "not_ip",
            Self::NotIpsec => "not_ipsec",
            Self::NotForUs => "not_for_us",
            Self::UnknownFragment => "unknown_fragment",
            Self::LongHeaderChain => "long_header_chain",
            Self::Malformed => "malformed",
            Self::Inner => "inner",
        }
    }
}
