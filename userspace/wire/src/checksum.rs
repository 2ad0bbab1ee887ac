//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use core::net::IpAddr;

/// A running ones'-complement sum of 16-bit big-endian words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum over nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds bytes; an odd last byte counts as the upper half of a word, so only the last piece of
    /// a message may have an odd length.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (words, tail) = bytes.as_chunks::<4>();
        let mut sum = self.0;
        for word in words {
            sum += u64::from(u32::from_be_bytes(*word));
        }
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        sum += u64::from(u32::from_be_bytes(last));
        Self((sum & 0xffff_ffff) + (sum >> 32))
    }

    /// Adds one 16-bit word.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// Adds the pseudo header of UDP, TCP and ICMPv6 (RFC 768, RFC 8200 §8.1). `length` is that of
    /// the upper-layer packet, in bytes. Families must agree; if they do not, so will no checksum.
    #[must_use]
    pub fn pseudo_header(self, src: IpAddr, dst: IpAddr, protocol: u8, length: u32) -> Self {
        let address = |sum: Self, address| match address {
            IpAddr::V4(a) => sum.bytes(&a.octets()),
            IpAddr::V6(a) => sum.bytes(&a.octets()),
        };
        address(address(self, src), dst)
            .bytes(&length.to_be_bytes())
            .word(u16::from(protocol))
    }

    /// The sum folded to 16 bits; 0xffff over a message with its correct checksum in place.
    #[must_use]
    pub fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum.try_into().unwrap_or(u16::MAX)
    }

    /// The checksum to put into the header.
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// Checksum over `bytes`, whose checksum field is zero.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().bytes(bytes).checksum()
}

/// Whether `bytes`, checksum field included, sum up (RFC 1071).
#[must_use]
pub fn verify(bytes: &[u8]) -> bool {
    Sum::new().bytes(bytes).folded() == 0xffff
}

/// The checksum after one 16-bit word that it covers changed from `old` to `new`:
/// HC' = ~(~HC + ~m + m') (RFC 1624 eqn. 3).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::new().word(!checksum).word(!old).word(new).checksum()
}
