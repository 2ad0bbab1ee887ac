//! Ethernet II with up to two VLAN tags (IEEE 802.1Q, 802.1ad).

use core::fmt;
use core::str::FromStr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{WireError, split, split_mut};

/// Length of an untagged header, bytes.
pub const HEADER_LEN: usize = 14;
/// Length of one VLAN tag, bytes.
pub const TAG_LEN: usize = 4;
/// Tags that a frame may carry; a third one is left to the payload's EtherType.
pub const MAX_TAGS: usize = 2;
/// Shortest frame on a cable, without its FCS; shorter ones arrive padded.
pub const MIN_FRAME_LEN: usize = 60;

/// A 48-bit MAC address.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Group bit: multicast or broadcast.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = WireError;

    fn from_str(s: &str) -> Result<Self, WireError> {
        let mut parts = s.split(':');
        let mut mac = [0; 6];
        for byte in &mut mac {
            let part = parts.next().ok_or(WireError::Malformed)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(WireError::Malformed);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| WireError::Malformed)?;
        }
        if parts.next().is_some() {
            return Err(WireError::Malformed);
        }
        Ok(Self(mac))
    }
}

/// What an Ethernet payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4
    pub const IPV4: Self = Self(0x0800);
    /// ARP
    pub const ARP: Self = Self(0x0806);
    /// IPv6
    pub const IPV6: Self = Self(0x86dd);
    /// C-tag, IEEE 802.1Q
    pub const VLAN: Self = Self(0x8100);
    /// S-tag, IEEE 802.1ad
    pub const QINQ: Self = Self(0x88a8);

    /// Whether a VLAN tag follows.
    #[must_use]
    pub const fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::QINQ)
    }
}

/// One VLAN tag: its TPID and its TCI (priority, DEI, 12-bit VLAN id).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanTag {
    /// [`EtherType::VLAN`] or [`EtherType::QINQ`].
    pub tpid: EtherType,
    /// Tag control information as on the wire.
    pub tci: u16,
}

impl VlanTag {
    /// A C-tag with priority 0.
    #[must_use]
    pub const fn new(id: u16) -> Self {
        Self {
            tpid: EtherType::VLAN,
            tci: id & 0x0fff,
        }
    }

    /// VLAN id, 0..=4095 (0: priority tag only).
    #[must_use]
    pub const fn id(self) -> u16 {
        self.tci & 0x0fff
    }

    /// Priority code point, 0..=7.
    #[must_use]
    pub const fn priority(self) -> u8 {
        (self.tci >> 13) as u8
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Addresses {
    dst: MacAddr,
    src: MacAddr,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Tag {
    tpid: U16,
    tci: U16,
}

/// The values of an Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// Tags, outermost first; `[Some, None]` is one tag.
    pub tags: [Option<VlanTag>; MAX_TAGS],
    /// Type of what follows the tags.
    pub ether_type: EtherType,
}

impl Header {
    /// An untagged header.
    #[must_use]
    pub const fn new(dst: MacAddr, src: MacAddr, ether_type: EtherType) -> Self {
        Self {
            dst,
            src,
            tags: [None; MAX_TAGS],
            ether_type,
        }
    }

    /// Bytes that [`Header::emit`] writes: 14, 18 or 22.
    #[must_use]
    pub fn len(&self) -> usize {
        HEADER_LEN + TAG_LEN * self.tags.iter().flatten().count()
    }

    /// Never: a header has at least 14 bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Writes the header to the start of `out` and returns its length.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let (addresses, mut rest) = split_mut::<Addresses>(out)?;
        *addresses = Addresses {
            dst: self.dst,
            src: self.src,
        };
        for tag in self.tags.iter().flatten() {
            let (out, after) = split_mut::<Tag>(rest)?;
            *out = Tag {
                tpid: tag.tpid.0.into(),
                tci: tag.tci.into(),
            };
            rest = after;
        }
        *split_mut::<U16>(rest)?.0 = self.ether_type.0.into();
        Ok(self.len())
    }
}

/// A checked Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    header: Header,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks that addresses, tags and EtherType are there. Length-typed frames (IEEE 802.3 with
    /// LLC, EtherType below 0x600) are accepted; their EtherType is that length.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (addresses, mut rest) = split::<Addresses>(bytes)?;
        let mut header = Header::new(addresses.dst, addresses.src, EtherType(0));
        for slot in &mut header.tags {
            let (tpid, _) = split::<U16>(rest)?;
            if !EtherType(tpid.get()).is_tag() {
                break;
            }
            let (tag, after) = split::<Tag>(rest)?;
            *slot = Some(VlanTag {
                tpid: EtherType(tag.tpid.get()),
                tci: tag.tci.get(),
            });
            rest = after;
        }
        let (ether_type, payload) = split::<U16>(rest)?;
        header.ether_type = EtherType(ether_type.get());
        Ok(Self { header, payload })
    }

    /// The header's values.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Destination address.
    #[must_use]
    pub const fn dst(&self) -> MacAddr {
        self.header.dst
    }

    /// Source address.
    #[must_use]
    pub const fn src(&self) -> MacAddr {
        self.header.src
    }

    /// EtherType behind the tags.
    #[must_use]
    pub const fn ether_type(&self) -> EtherType {
        self.header.ether_type
    }

    /// Offset of the payload in the frame, bytes.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header.len()
    }

    /// All that follows the header, Ethernet padding included.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
