//! IKE fragmentation (RFC 7383): how long a datagram may get, and messages put together again in
//! bounded memory. Each fragment is sealed on its own, so what is kept here is the peer's.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use aws_lc_rs::digest;
use mitregate_wire::ike::PayloadType;
use zeroize::Zeroizing;

use super::message::Covered;
use crate::config::Fragmentation;
use crate::crypto::Secret;

/// Fragments of one message, at most: enough for [`MAX_MESSAGE`] over the shortest path that
/// RFC 7383 §2.5.1 thinks of (576 bytes).
pub(super) const MAX_FRAGMENTS: u16 = 128;
/// What the fragments of one message hold, in bytes, at most.
const MAX_MESSAGE: usize = 64 * 1024;
/// How long fragments wait for the next one: longer than the longest wait between the repetitions
/// of a request, each of which may bring what was lost before.
const PATIENCE: Duration = Duration::from_secs(60);

const UDP_HEADER_LEN: usize = 8;
const NON_ESP_MARKER_LEN: usize = 4;

/// The longest IKE message that one datagram of `settings.size` bytes from `local` holds.
pub(super) fn max_message(settings: Fragmentation, local: SocketAddr) -> usize {
    let ip = match local.ip() {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    };
    // Counted on port 500, too: a responder answers on the port that a request came to, and takes the
    // initiator's move to 4500 in only when that request has proven right.
    settings.size.max(Fragmentation::MIN_SIZE) - ip - UDP_HEADER_LEN - NON_ESP_MARKER_LEN
}

/// One fragment, opened.
pub(super) struct Fragment {
    pub(super) number: u16,
    pub(super) total: u16,
    pub(super) content: Secret,
    /// Of the first one: what comes before its SKF payload, and the type of the first payload inside.
    pub(super) head: Option<(Vec<u8>, PayloadType)>,
    /// Of the datagram that it came in.
    pub(super) digest: digest::Digest,
}

/// All fragments of a message.
pub(super) struct Whole {
    pub(super) covered: Covered,
    pub(super) first: PayloadType,
    /// Of the first fragment: a repetition of the message is told by it (RFC 7383 §2.6.1).
    pub(super) digest: digest::Digest,
    pub(super) total: u16,
}

/// The fragments of one message that have come so far.
struct Partial {
    message_id: u32,
    total: u16,
    /// By number, less one.
    contents: Vec<Option<Secret>>,
    head: Option<(Vec<u8>, PayloadType, digest::Digest)>,
    bytes: usize,
    expires: Duration,
}

/// One message in the making for each direction of exchanges: the peer's request, and its response.
/// They may come at the same time.
#[derive(Default)]
pub(super) struct Reassembly([Option<Box<Partial>>; 2]);

impl Reassembly {
    /// Is this fragment worth opening? RFC 7383 §2.6: none whose total is less than that of those
    /// that are here, and none that is here already.
    pub(super) fn wants(&self, response: bool, id: u32, number: u16, total: u16) -> bool {
        let known = self.0[usize::from(response)]
            .as_ref()
            .filter(|partial| partial.message_id == id);
        total <= MAX_FRAGMENTS
            && known.is_none_or(|partial| {
                let index = usize::from(number) - 1;
                total > partial.total
                    || total == partial.total
                        && partial.contents.get(index).is_some_and(Option::is_none)
            })
    }

    /// Takes a fragment that the peer vouches for, and that is wanted. The message, once complete.
    pub(super) fn add(
        &mut self,
        response: bool,
        id: u32,
        fragment: Fragment,
        now: Duration,
    ) -> Option<Whole> {
        let slot = &mut self.0[usize::from(response)];
        // RFC 7383 §2.6: more fragments than before are another try, for a shorter path.
        let mut partial = slot
            .take()
            .filter(|partial| partial.message_id == id && partial.total == fragment.total)
            .unwrap_or_else(|| Box::new(Partial::new(id, fragment.total)));
        partial.expires = now + PATIENCE;
        partial.bytes += fragment.content.len();
        if partial.bytes > MAX_MESSAGE {
            return None;
        }
        if let Some((clear, first)) = fragment.head {
            partial.head = Some((clear, first, fragment.digest));
        }
        let place = partial.contents.get_mut(usize::from(fragment.number) - 1)?;
        *place = Some(fragment.content);
        if partial.contents.iter().any(Option::is_none) {
            *slot = Some(partial);
            return None;
        }
        partial.join()
    }

    /// Forgets what nothing was added to for too long.
    pub(super) fn expire(&mut self, now: Duration) {
        for slot in &mut self.0 {
            slot.take_if(|partial| partial.expires <= now);
        }
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        self.0.iter().flatten().map(|partial| partial.expires).min()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().flatten().map(|partial| partial.bytes).sum()
    }
}

impl Partial {
    fn new(message_id: u32, total: u16) -> Self {
        Self {
            message_id,
            total,
            contents: (0..total).map(|_| None).collect(),
            head: None,
            bytes: 0,
            expires: Duration::ZERO,
        }
    }

    fn join(self) -> Option<Whole> {
        let (clear, first, digest) = self.head?;
        // With its final size from the start, so that growing leaves no copy behind.
        let mut inner = Zeroizing::new(Vec::with_capacity(self.bytes));
        for content in self.contents.iter().flatten() {
            inner.extend_from_slice(content);
        }
        Some(Whole {
            covered: Covered::new(clear, first, inner),
            first,
            digest,
            total: self.total,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(number: u16, total: u16, len: usize) -> Fragment {
        Fragment {
            number,
            total,
            content: Zeroizing::new(vec![u8::try_from(number % 251).unwrap(); len]),
            head: (number == 1).then(|| (vec![0; 28], PayloadType::NONCE)),
            digest: digest::digest(&digest::SHA256, &number.to_be_bytes()),
        }
    }

    fn add(reassembly: &mut Reassembly, fragment: Fragment) -> Option<Whole> {
        let wanted = reassembly.wants(false, 1, fragment.number, fragment.total);
        wanted.then(|| reassembly.add(false, 1, fragment, Duration::ZERO))?
    }

    #[test]
    fn any_order_gives_the_message() {
        for order in [
            [1, 2, 3],
            [1, 3, 2],
            [2, 1, 3],
            [2, 3, 1],
            [3, 1, 2],
            [3, 2, 1],
        ] {
            let mut reassembly = Reassembly::default();
            for number in &order[..2] {
                for _ in 0..2 {
                    assert!(add(&mut reassembly, fragment(*number, 3, 2)).is_none());
                }
            }
            let whole = add(&mut reassembly, fragment(order[2], 3, 2)).unwrap();
            assert_eq!(**whole.covered.inner(), [1, 1, 2, 2, 3, 3]);
            assert_eq!((whole.first, whole.total), (PayloadType::NONCE, 3));
            assert_eq!(
                whole.digest.as_ref(),
                digest::digest(&digest::SHA256, &[0, 1]).as_ref()
            );
            assert!(reassembly.timeout().is_none());
        }
    }

    /// RFC 7383 §2.6.
    #[test]
    fn a_larger_total_starts_over_and_a_smaller_one_is_late() {
        let mut reassembly = Reassembly::default();
        assert!(add(&mut reassembly, fragment(1, 2, 9)).is_none());
        assert!(add(&mut reassembly, fragment(1, 3, 6)).is_none());
        assert_eq!(reassembly.bytes(), 6);
        assert!(!reassembly.wants(false, 1, 2, 2));
        assert!(add(&mut reassembly, fragment(2, 3, 6)).is_none());
        assert!(add(&mut reassembly, fragment(3, 3, 6)).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let mut reassembly = Reassembly::default();
        assert!(!reassembly.wants(false, 1, 1, MAX_FRAGMENTS + 1));
        assert!(!reassembly.wants(false, 1, 1, u16::MAX));
        for number in 1..MAX_FRAGMENTS {
            add(&mut reassembly, fragment(number, MAX_FRAGMENTS, 60_000));
            assert!(reassembly.bytes() <= MAX_MESSAGE);
        }
    }

    #[test]
    fn what_never_completes_goes() {
        let mut reassembly = Reassembly::default();
        add(&mut reassembly, fragment(1, 2, 9));
        assert_eq!(reassembly.timeout(), Some(PATIENCE));
        reassembly.expire(PATIENCE - Duration::from_nanos(1));
        assert_eq!(reassembly.bytes(), 9);
        reassembly.expire(PATIENCE);
        assert_eq!((reassembly.bytes(), reassembly.timeout()), (0, None));
    }

    #[test]
    fn another_message_takes_the_place_of_one_that_never_completes() {
        let mut reassembly = Reassembly::default();
        reassembly.add(false, 1, fragment(1, 3, 9), Duration::ZERO);
        reassembly.add(true, 1, fragment(1, 3, 9), Duration::ZERO);
        assert_eq!(reassembly.bytes(), 18);
        assert!(reassembly.wants(false, 2, 1, 2));
        reassembly.add(false, 2, fragment(1, 2, 1), Duration::ZERO);
        assert_eq!(reassembly.bytes(), 10);
    }
}
