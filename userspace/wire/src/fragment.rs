//! Cutting an IPv4 packet that may be cut (RFC 791 §3.2).

use crate::{WireError, checksum, ipv4};

const TOTAL_LEN: core::ops::Range<usize> = 2..4;
const FLAGS: core::ops::Range<usize> = 6..8;
const CHECKSUM: core::ops::Range<usize> = 10..12;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;
/// Set in the type of an option that goes into every fragment.
const COPIED: u8 = 0x80;

/// One fragment, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Its length, header included, bytes.
    pub len: usize,
    /// Where in the packet's payload the next one begins; `None`: it was the last.
    pub next: Option<usize>,
}

/// Writes the fragment of `packet` whose payload begins at `from` bytes of the packet's payload (a
/// multiple of 8, 0 for the first) to the start of `out`: at most `mtu` bytes, header included. A fragment
/// can be cut again. `mtu` must have room for the header and 8 bytes; else, or if `out` is too small,
/// [`WireError::NoRoom`]. DF is not looked at: whoever calls has.
pub fn emit_fragment(
    packet: &[u8],
    from: usize,
    mtu: usize,
    out: &mut [u8],
) -> Result<Fragment, WireError> {
    let view = ipv4::Packet::new_checked(packet)?;
    let payload = view.payload();
    let header_len = packet.len().min(view.total_len()) - payload.len();
    let header = packet.get(..header_len).ok_or(WireError::Truncated)?;
    let head = out.get_mut(..header_len).ok_or(WireError::NoRoom)?;
    head.copy_from_slice(header);
    let header_len = match from {
        0 => header_len,
        _ => keep_copied_options(head),
    };
    let rest = payload.get(from..).ok_or(WireError::BadLength)?;
    let room = mtu.saturating_sub(header_len);
    let (len, last) = if rest.len() <= room {
        (rest.len(), true)
    } else {
        (room & !7, false)
    };
    if len == 0 && !last {
        return Err(WireError::NoRoom);
    }
    let total = u16::try_from(header_len + len).map_err(|_| WireError::BadLength)?;
    let end = header_len + len;
    let whole = out.get_mut(..end).ok_or(WireError::NoRoom)?;
    let (head, body) = whole.split_at_mut(header_len);
    body.copy_from_slice(rest.get(..len).ok_or(WireError::BadLength)?);
    let field = |range: core::ops::Range<usize>| {
        let bytes = header.get(range).and_then(|b| <[u8; 2]>::try_from(b).ok());
        bytes.map_or(0, u16::from_be_bytes)
    };
    let flags = field(FLAGS);
    let step = u16::try_from(from / 8).map_err(|_| WireError::BadLength)?;
    let offset = (flags & OFFSET_MASK)
        .checked_add(step)
        .filter(|offset| *offset <= OFFSET_MASK)
        .ok_or(WireError::BadLength)?;
    let more = if last {
        flags & MORE_FRAGMENTS
    } else {
        MORE_FRAGMENTS
    };
    head[TOTAL_LEN].copy_from_slice(&total.to_be_bytes());
    head[FLAGS].copy_from_slice(&(more | offset).to_be_bytes());
    head[CHECKSUM].fill(0);
    let sum = checksum::checksum(head);
    head[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    Ok(Fragment {
        len: end,
        next: (!last).then_some(from + len),
    })
}

/// Leaves of a header's options those that every fragment has; returns its new length.
fn keep_copied_options(header: &mut [u8]) -> usize {
    let (mut read, mut write) = (ipv4::HEADER_LEN, ipv4::HEADER_LEN);
    while let Some(kind) = header.get(read).copied() {
        let len = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(header.get(read + 1).copied().unwrap_or(0)).max(2),
        };
        if read + len > header.len() {
            break;
        }
        if kind & COPIED != 0 {
            header.copy_within(read..read + len, write);
            write += len;
        }
        read += len;
    }
    let end = write.next_multiple_of(4).min(header.len());
    header[write..end].fill(0);
    header[0] = 0x40 | u8::try_from(end / 4).unwrap_or(5);
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::protocol;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;

    fn packet(options: &[u8], payload: &[u8], offset: u16, more: bool) -> Vec<u8> {
        let header = ipv4::Header {
            dont_fragment: false,
            more_fragments: more,
            fragment_offset: offset,
            id: 77,
            ..ipv4::Header::new(
                Ipv4Addr::new(10, 0, 0, 1),
                Ipv4Addr::new(10, 0, 0, 2),
                protocol::UDP,
            )
        };
        let mut out = vec![0; ipv4::HEADER_LEN];
        header.emit(payload.len(), &mut out).unwrap();
        out.extend_from_slice(options);
        out.extend_from_slice(payload);
        let len = u16::try_from(out.len()).unwrap();
        let header_len = ipv4::HEADER_LEN + options.len();
        out[0] = 0x40 | u8::try_from(header_len / 4).unwrap();
        out[TOTAL_LEN].copy_from_slice(&len.to_be_bytes());
        out[CHECKSUM].fill(0);
        let sum = checksum::checksum(&out[..header_len]);
        out[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        out
    }

    fn cut(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        let (mut from, mut all) = (Some(0), Vec::new());
        while let Some(at) = from {
            let mut out = vec![0; 2000];
            let fragment = emit_fragment(packet, at, mtu, &mut out).unwrap();
            out.truncate(fragment.len);
            all.push(out);
            from = fragment.next;
        }
        all
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_packet(
            payload in prop::collection::vec(any::<u8>(), 0..1400),
            mtu in 68usize..1500,
            offset in 0u16..4000,
            more: bool,
        ) {
            let whole = packet(&[], &payload, offset * 8, more);
            let pieces = cut(&whole, mtu);
            let mut rest = Vec::new();
            for (n, piece) in pieces.iter().enumerate() {
                prop_assert!(piece.len() <= mtu);
                let view = ipv4::Packet::new_checked(piece).unwrap();
                prop_assert!(view.checksum_ok());
                let header = view.header();
                prop_assert_eq!(usize::from(header.fragment_offset), usize::from(offset) * 8 + rest.len());
                let last = n + 1 == pieces.len();
                prop_assert_eq!(header.more_fragments, more || !last);
                prop_assert_eq!((header.id, header.protocol), (77, protocol::UDP));
                rest.extend_from_slice(view.payload());
            }
            prop_assert_eq!(rest, payload);
        }

        #[test]
        fn nothing_panics(packet: Vec<u8>, from in 0usize..3000, mtu in 0usize..3000) {
            let _ = emit_fragment(&packet, from, mtu, &mut [0; 1500]);
        }
    }

    #[test]
    fn only_copied_options_go_into_later_fragments() {
        // Record route (not copied), no-operation, loose source route (copied), end.
        let options = [7, 3, 4, 1, 131, 3, 4, 0];
        let pieces = cut(&packet(&options, &[9; 100], 0, false), 68);
        let options_of = |piece: &[u8]| piece[20..usize::from(piece[0] & 15) * 4].to_vec();
        assert_eq!(options_of(&pieces[0]), options);
        for piece in &pieces[1..] {
            assert_eq!(options_of(piece), [131, 3, 4, 0]);
            assert!(ipv4::Packet::new_checked(piece).unwrap().checksum_ok());
        }
    }

    #[test]
    fn no_room_for_eight_bytes_is_an_error() {
        let whole = packet(&[], &[9; 100], 0, false);
        let cut = emit_fragment(&whole, 0, 27, &mut [0; 200]);
        assert_eq!(cut, Err(WireError::NoRoom));
    }
}
