use crate::{
    AddressKey, FragmentKey, Packet, Verdict,
    ip::{self, Datagram, Fragment, Stop},
};

/// Which side of the gateway a port is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The network: IPsec and IKE for our addresses go to the socket, all else stays the kernel's.
    Outer,
    /// Protected traffic: everything goes to the socket or is dropped, nothing passes.
    Inner,
}

/// The state that [`classify()`] looks at.
pub trait Tables {
    /// Whether an outer address is ours.
    fn is_ours(&self, address: &AddressKey) -> bool;
    /// Remember a first fragment, so that the later ones are recognised.
    fn remember(&self, key: &FragmentKey);
    /// The identification is in use for somebody else's datagram now.
    fn forget(&self, key: &FragmentKey);
    /// Whether the first fragment was remembered, at most [`crate::FRAGMENT_LIFETIME_NS`] ago.
    fn remembers(&self, key: &FragmentKey) -> bool;
}

/// UDP port of IKE (RFC 7296 §2).
const IKE_PORT: u16 = 500;
/// UDP port of IKE and ESP once a NAT was found (RFC 3948 §2, RFC 7296 §2.23).
const NAT_T_PORT: u16 = 4500;
/// UDP header (RFC 768).
const UDP_HEADER: usize = 8;
/// ICMP and ICMPv6 header before the quoted packet (RFC 792, RFC 4443 §3).
const ICMP_HEADER: usize = 8;

/// Decide what a frame is.
#[inline(always)]
pub fn classify<P: Packet + ?Sized, T: Tables>(role: Role, packet: &P, tables: &T) -> Verdict {
    match role {
        Role::Inner => Verdict::Inner,
        Role::Outer => outer(packet, tables).unwrap_or_else(|stop| match stop {
            Stop::NotIp => Verdict::NotIp,
            Stop::Malformed => Verdict::Malformed,
            Stop::LongHeaderChain => Verdict::LongHeaderChain,
            Stop::SourceRouted => Verdict::NotForUs,
        }),
    }
}

#[inline(always)]
fn outer<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T) -> Result<Verdict, Stop> {
    let datagram = ip::from_ethernet(packet)?;
    if datagram.payload > datagram.end || datagram.end > packet.len() {
        return Err(Stop::Malformed);
    }
    let verdict = match datagram.protocol {
        ip::ESP => match datagram.fragment {
            Fragment::Whole => Verdict::Esp,
            Fragment::First(_) | Fragment::Later(_) => Verdict::EspFragment,
        },
        ip::UDP => udp(packet, &datagram, tables)?,
        ip::ICMP | ip::ICMPV6 => icmp(packet, &datagram)?,
        // In IPv6 only the first fragment tells what follows its headers (RFC 8200 §4.5).
        _ if !datagram.is_ipv4() => later(&datagram, tables).unwrap_or(Verdict::NotIpsec),
        _ => Verdict::NotIpsec,
    };
    if verdict.redirects() && !tables.is_ours(&datagram.destination) {
        return Ok(Verdict::NotForUs);
    }
    if let Fragment::First(id) = datagram.fragment
        && verdict.redirects()
        && !(verdict == Verdict::EspFragment && datagram.is_ipv4())
    {
        tables.remember(&datagram.fragment_key(id));
    }
    Ok(verdict)
}

#[inline(always)]
fn udp<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    datagram: &Datagram,
    tables: &T,
) -> Result<Verdict, Stop> {
    if let Some(verdict) = later(datagram, tables) {
        return Ok(verdict);
    }
    let at = datagram.payload;
    let [_, _, d0, d1, l0, l1, _, _] = packet.read::<UDP_HEADER>(at).ok_or(Stop::Malformed)?;
    if at + UDP_HEADER > datagram.end {
        return Err(Stop::Malformed);
    }
    let port = u16::from_be_bytes([d0, d1]);
    let ours = port == IKE_PORT || port == NAT_T_PORT;
    if let Fragment::First(id) = datagram.fragment {
        if ours {
            return Ok(Verdict::UdpFirstFragment);
        }
        tables.forget(&datagram.fragment_key(id));
    }
    if !ours {
        return Ok(Verdict::NotIpsec);
    }
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if length < UDP_HEADER || at + length > datagram.end {
        return Err(Stop::Malformed);
    }
    if port == IKE_PORT {
        return Ok(Verdict::Ike);
    }
    // By the UDP length, not the frame's: Ethernet pads short frames.
    if length >= UDP_HEADER + 4 {
        // RFC 3948 §2.2: four zero bytes where ESP has its SPI.
        return match packet.read::<4>(at + UDP_HEADER) {
            Some([0, 0, 0, 0]) => Ok(Verdict::IkeNatT),
            Some(_) => Ok(Verdict::EspNatT),
            None => Err(Stop::Malformed),
        };
    }
    // RFC 3948 §2.3.
    match packet.read::<{ UDP_HEADER + 1 }>(at) {
        Some([.., 0xff]) if length == UDP_HEADER + 1 => Ok(Verdict::NatKeepalive),
        _ => Err(Stop::Malformed),
    }
}

#[inline(always)]
fn later<T: Tables>(datagram: &Datagram, tables: &T) -> Option<Verdict> {
    let Fragment::Later(id) = datagram.fragment else {
        return None;
    };
    Some(if tables.remembers(&datagram.fragment_key(id)) {
        Verdict::LaterFragment
    } else {
        Verdict::UnknownFragment
    })
}

/// An error about a packet of ours: it goes to the source of what it quotes (RFC 792, RFC 4443
/// §2.2), so that source is the address it came to.
#[inline(always)]
fn icmp<P: Packet + ?Sized>(packet: &P, datagram: &Datagram) -> Result<Verdict, Stop> {
    if !matches!(datagram.fragment, Fragment::Whole) {
        return Ok(Verdict::NotIpsec);
    }
    let header = packet
        .read::<ICMP_HEADER>(datagram.payload)
        .ok_or(Stop::Malformed)?;
    let quote = datagram.payload + ICMP_HEADER;
    let quoted = match (datagram.protocol, header[0]) {
        // RFC 792: destination unreachable, source quench, time exceeded, parameter problem.
        (ip::ICMP, 3 | 4 | 11 | 12) if datagram.is_ipv4() => ip::ipv4(packet, quote),
        // RFC 4443 §3: destination unreachable, too big, time exceeded, parameter problem.
        (ip::ICMPV6, 1..=4) if !datagram.is_ipv4() => ip::ipv6(packet, quote),
        _ => return Ok(Verdict::NotIpsec),
    };
    // A quote that is cut before the first eight bytes of its payload tells nothing (RFC 792).
    let Ok(quoted) = quoted else {
        return Ok(Verdict::NotIpsec);
    };
    if quoted.payload + 8 > datagram.end {
        return Ok(Verdict::NotIpsec);
    }
    let about_ipsec = match (quoted.protocol, quoted.fragment) {
        (ip::ESP, _) => true,
        (ip::UDP, Fragment::Whole | Fragment::First(_)) => packet
            .read::<2>(quoted.payload)
            .map(u16::from_be_bytes)
            .is_some_and(|port| port == IKE_PORT || port == NAT_T_PORT),
        _ => false,
    };
    Ok(if about_ipsec && quoted.source == datagram.destination {
        Verdict::IcmpError
    } else {
        Verdict::NotIpsec
    })
}
