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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §4.1, word by word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().bytes(&bytes).folded(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        // Where eqn. 2 gives 0xffff, eqn. 3 gives the 0x0000 that a full sum gives.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(bytes: Vec<u8>) {
            prop_assert_eq!(checksum(&bytes), reference(&bytes));
        }

        #[test]
        fn pieces_sum_like_the_whole(words: Vec<[u8; 2]>, odd: Vec<u8>) {
            let whole = [words.as_flattened(), &odd].concat();
            let sum = Sum::new().bytes(words.as_flattened()).bytes(&odd);
            prop_assert_eq!(sum.checksum(), reference(&whole));
        }

        #[test]
        fn an_update_equals_summing_again(
            mut words in prop::collection::vec(any::<u16>(), 1..40),
            at: prop::sample::Index,
            new: u16,
        ) {
            // A header is never all zero, which is where the two zeros would be told apart.
            prop_assume!(words[0] != 0 && words.len() > 1);
            let sum = |words: &[u16]| {
                words.iter().fold(Sum::new(), |sum, word| sum.word(*word)).checksum()
            };
            let at = 1 + at.index(words.len() - 1);
            let before = sum(&words);
            let old = std::mem::replace(&mut words[at], new);
            prop_assert_eq!(update(before, old, new), sum(&words));
        }

        #[test]
        fn a_message_with_its_checksum_verifies(mut bytes in prop::collection::vec(any::<u8>(), 2..99)) {
            bytes[..2].fill(0);
            let sum = checksum(&bytes).to_be_bytes();
            bytes[..2].copy_from_slice(&sum);
            prop_assert!(verify(&bytes));
        }
    }
}
