//! What a tunnel does to TCP (RFC 9293): lower the segment size that a connection begins with.

use crate::checksum;

/// Length of a header without options, bytes.
pub const HEADER_LEN: usize = 20;

const FLAGS_AT: usize = 13;
const CHECKSUM_AT: usize = 16;
const SYN: u8 = 0x02;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// Whether the segment, which may be cut off, opens a connection: a SYN or a SYN-ACK.
#[inline(always)]
#[must_use]
pub fn is_syn(segment: &[u8]) -> bool {
    matches!(segment.get(FLAGS_AT), Some(flags) if flags & SYN != 0)
}

/// Lowers the maximum segment size (RFC 9293 §3.7.1) that a SYN or SYN-ACK announces to `max`, and its
/// checksum with it (RFC 1624). False if there was nothing to lower. A segment without that option means
/// 536 or 1220 bytes, which no tunnel has to lower; one that is malformed is left as it is.
pub fn clamp_mss(segment: &mut [u8], max: u16) -> bool {
    if !is_syn(segment) {
        return false;
    }
    let Some(at) = mss_at(segment) else {
        return false;
    };
    let Some(field) = segment.get_mut(at..at + 2) else {
        return false;
    };
    let old = [field[0], field[1]];
    if u16::from_be_bytes(old) <= max {
        return false;
    }
    let new = max.to_be_bytes();
    field.copy_from_slice(&new);
    // An option may begin anywhere: at an odd place the two bytes are halves of two words, which the
    // sum sees swapped.
    let word = |[a, b]: [u8; 2]| match at % 2 {
        0 => u16::from_be_bytes([a, b]),
        _ => u16::from_be_bytes([b, a]),
    };
    let (old, new) = (word(old), word(new));
    if let Some(sum) = segment.get_mut(CHECKSUM_AT..CHECKSUM_AT + 2) {
        let updated = checksum::update(u16::from_be_bytes([sum[0], sum[1]]), old, new);
        sum.copy_from_slice(&updated.to_be_bytes());
    }
    true
}

/// Where the value of the MSS option lies.
fn mss_at(segment: &[u8]) -> Option<usize> {
    let header_len = usize::from(segment.get(12)? >> 4) * 4;
    let options = segment.get(HEADER_LEN..header_len)?;
    let mut at = 0;
    while let Some(kind) = options.get(at) {
        match *kind {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            kind => {
                let len = usize::from(*options.get(at + 1)?);
                if len < 2 || at + len > options.len() {
                    return None;
                }
                if kind == OPTION_MSS {
                    return (len == 4).then_some(HEADER_LEN + at + 2);
                }
                at += len;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Sum;
    use proptest::prelude::*;

    fn segment(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), OPTION_END);
        let mut out = vec![0; HEADER_LEN];
        out[..4].copy_from_slice(&[0x04, 0xd2, 0x00, 0x50]);
        out[12] = u8::try_from((HEADER_LEN + options.len()) / 4).unwrap() << 4;
        out[FLAGS_AT] = flags;
        out.extend_from_slice(&options);
        out.extend_from_slice(payload);
        let sum = Sum::new().bytes(&out).checksum();
        out[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
        out
    }

    fn mss(value: u16) -> [u8; 4] {
        let [a, b] = value.to_be_bytes();
        [OPTION_MSS, 4, a, b]
    }

    #[test]
    fn only_what_opens_a_connection_and_says_too_much_is_changed() {
        for (flags, value, lowered) in [
            (0x02, 1460, true),
            (0x12, 1460, true),
            (0x10, 1460, false),
            (0x02, 1240, false),
            (0x02, 536, false),
        ] {
            let mut bytes = segment(flags, &mss(value), &[]);
            let before = bytes.clone();
            assert_eq!(clamp_mss(&mut bytes, 1240), lowered, "{flags:#x} {value}");
            assert_eq!(bytes != before, lowered);
        }
    }

    #[test]
    fn malformed_options_are_left_alone() {
        let odd: [&[u8]; 6] = [
            &[],
            &[OPTION_MSS],
            &[OPTION_NOP, OPTION_NOP, OPTION_MSS, 4],
            &[OPTION_MSS, 3, 5, 180],
            &[8, 0, 2, 4],
            &[OPTION_END, OPTION_MSS, 4, 5, 180],
        ];
        for options in odd {
            let mut bytes = segment(0x02, options, &[]);
            let before = bytes.clone();
            assert!(!clamp_mss(&mut bytes, 100), "{options:?}");
            assert_eq!(bytes, before);
        }
        let mut cut = segment(0x02, &mss(1460), &[]);
        cut.truncate(22);
        assert!(!clamp_mss(&mut cut, 100));
    }

    proptest! {
        #[test]
        fn the_checksum_stays_right(
            before in prop::collection::vec(prop::sample::select(vec![1u8, 3, 8]), 0..4),
            value: u16,
            max: u16,
            payload: Vec<u8>,
        ) {
            let mut options = Vec::new();
            for kind in before {
                match kind {
                    OPTION_NOP => options.push(kind),
                    3 => options.extend([kind, 3, 7]),
                    _ => options.extend([kind, 10, 0, 1, 2, 3, 4, 5, 6, 7]),
                }
            }
            prop_assume!(options.len() <= 36);
            options.extend(mss(value));
            let mut bytes = segment(0x12, &options, &payload);
            let lowered = clamp_mss(&mut bytes, max);
            prop_assert_eq!(lowered, value > max);
            prop_assert!(checksum::verify(&bytes));
            prop_assert_eq!(bytes, segment(0x12, &[&options[..options.len() - 4], &mss(value.min(max))].concat(), &payload));
        }

        #[test]
        fn nothing_panics(mut bytes: Vec<u8>, max: u16) {
            clamp_mss(&mut bytes, max);
        }
    }
}
