//! Ethernet, VLAN, IPv4 and IPv6 headers, as far as the classifier needs them.

use crate::{AddressKey, FragmentKey, Packet, ipv4_key};

/// IP protocol numbers (IANA).
pub const ICMP: u8 = 1;
pub const UDP: u8 = 17;
pub const ESP: u8 = 50;
pub const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// VLAN tags in front of the packet that are followed.
const MAX_TAGS: usize = 2;
/// Extension headers that are followed: one more than RFC 8200 §4.1 lists before ESP.
const MAX_EXTENSION_HEADERS: usize = 6;

/// Why there is no datagram to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    NotIp,
    Malformed,
    LongHeaderChain,
    /// Segments Left is not zero (RFC 8200 §4.4): the destination is only a stop on the way.
    SourceRouted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    First(u32),
    Later(u32),
}

/// An IP packet whose headers lie inside the frame; whether the rest does, `end` tells.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    pub source: AddressKey,
    pub destination: AddressKey,
    /// Protocol of what follows IPv4 options and IPv6 extension headers.
    pub protocol: u8,
    pub fragment: Fragment,
    /// Offset of what follows.
    pub payload: usize,
    /// Where the packet ends by its own length field.
    pub end: usize,
}

impl Datagram {
    #[inline(always)]
    pub fn is_ipv4(&self) -> bool {
        matches!(
            self.destination,
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..]
        )
    }

    #[inline(always)]
    pub fn fragment_key(&self, id: u32) -> FragmentKey {
        let mut key = [0; 36];
        key[..16].copy_from_slice(&self.source);
        key[16..32].copy_from_slice(&self.destination);
        key[32..].copy_from_slice(&id.to_be_bytes());
        key
    }
}

/// The IP packet in an Ethernet frame.
#[inline(always)]
pub fn from_ethernet<P: Packet + ?Sized>(packet: &P) -> Result<Datagram, Stop> {
    let mut at = 12;
    for _ in 0..=MAX_TAGS {
        let ethertype = u16::from_be_bytes(packet.read(at).ok_or(Stop::Malformed)?);
        match ethertype {
            ETHERTYPE_IPV4 => return ipv4(packet, at + 2),
            ETHERTYPE_IPV6 => return ipv6(packet, at + 2),
            ETHERTYPE_VLAN | ETHERTYPE_QINQ => at += 4,
            _ => break,
        }
    }
    Err(Stop::NotIp)
}

/// RFC 791 §3.1.
#[inline(always)]
pub fn ipv4<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Datagram, Stop> {
    let header: [u8; 20] = packet.read(at).ok_or(Stop::Malformed)?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_len < 20 || total_len < header_len {
        return Err(Stop::Malformed);
    }
    let id = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let flags_and_offset = u16::from_be_bytes([header[6], header[7]]);
    Ok(Datagram {
        source: ipv4_key([header[12], header[13], header[14], header[15]]),
        destination: ipv4_key([header[16], header[17], header[18], header[19]]),
        protocol: header[9],
        fragment: match (flags_and_offset & 0x1fff, flags_and_offset & 0x2000) {
            (0, 0) => Fragment::Whole,
            (0, _) => Fragment::First(id),
            _ => Fragment::Later(id),
        },
        payload: at + header_len,
        end: at + total_len,
    })
}

/// RFC 8200 §3 and §4.
#[inline(always)]
pub fn ipv6<P: Packet + ?Sized>(packet: &P, at: usize) -> Result<Datagram, Stop> {
    let [first, _, _, _, l0, l1, next, _] = packet.read::<8>(at).ok_or(Stop::Malformed)?;
    if first >> 4 != 6 {
        return Err(Stop::Malformed);
    }
    let mut datagram = Datagram {
        source: packet.read(at + 8).ok_or(Stop::Malformed)?,
        destination: packet.read(at + 24).ok_or(Stop::Malformed)?,
        protocol: next,
        fragment: Fragment::Whole,
        payload: at + 40,
        end: at + 40 + usize::from(u16::from_be_bytes([l0, l1])),
    };
    for _ in 0..MAX_EXTENSION_HEADERS {
        let header_len = match datagram.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => None,
            FRAGMENT => Some(8),
            _ => return Ok(datagram),
        };
        let header: [u8; 8] = packet.read(datagram.payload).ok_or(Stop::Malformed)?;
        if datagram.protocol == ROUTING && header[3] != 0 {
            return Err(Stop::SourceRouted);
        }
        let is_fragment = datagram.protocol == FRAGMENT;
        datagram.protocol = header[0];
        datagram.payload += header_len.unwrap_or((usize::from(header[1]) + 1) * 8);
        if is_fragment {
            let offset_and_flags = u16::from_be_bytes([header[2], header[3]]);
            let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            match (offset_and_flags & 0xfff8, offset_and_flags & 1) {
                // RFC 6946: an atomic fragment is a whole packet.
                (0, 0) => {}
                (0, _) => datagram.fragment = Fragment::First(id),
                _ => {
                    datagram.fragment = Fragment::Later(id);
                    return Ok(datagram);
                }
            }
        }
    }
    match datagram.protocol {
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT => Err(Stop::LongHeaderChain),
        _ => Ok(datagram),
    }
}
