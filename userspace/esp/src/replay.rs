//! The replay window (RFC 4303 §3.4.3) over 64-bit sequence numbers, as a ring of bits that is
//! never shifted (the idea of RFC 6479).

/// Smallest window, packets.
pub const MIN_REPLAY_WINDOW: u32 = 4096;
/// Largest window, packets.
pub const MAX_REPLAY_WINDOW: u32 = 1 << 20;

/// Which of the last `size` sequence numbers have been accepted. Everything older, and 0, which is
/// never sent (RFC 4303 §3.3.3), counts as seen.
#[derive(Clone)]
pub struct ReplayWindow {
    /// Right edge: the highest accepted sequence number.
    highest: u64,
    /// Bit `s % size` is sequence number `s`. The size is a power of two, so positions wrap by mask.
    bits: Box<[u64]>,
}

impl ReplayWindow {
    /// A window of at least `size` sequence numbers: rounded up to a power of two between
    /// [`MIN_REPLAY_WINDOW`] and 2^20. This is the only place that allocates.
    #[must_use]
    pub fn new(size: u32) -> Self {
        let size = size
            .clamp(MIN_REPLAY_WINDOW, MAX_REPLAY_WINDOW)
            .next_power_of_two();
        let mut bits = vec![0; size as usize / 64].into_boxed_slice();
        bits[0] = 1;
        Self { highest: 0, bits }
    }

    /// Sequence numbers that the window spans.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bits.len() as u64 * 64
    }

    /// The highest accepted sequence number, 0 for none.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// The 64-bit sequence number that the 32 bits in a header most likely stand for: the one that
    /// lies in the window or less than 2^32 above it (RFC 4303 appendix A2). Authentication
    /// decides whether that was right.
    #[must_use]
    pub fn extend(&self, low: u32) -> u64 {
        let left = self.highest.saturating_sub(self.size() - 1);
        // `left` is as low as the window goes; the answer is the first number from there on that
        // ends in `low`.
        #[allow(clippy::cast_possible_truncation)] // the low half is what is wanted
        let distance = low.wrapping_sub(left as u32);
        left.saturating_add(distance.into())
    }

    fn position(&self, sequence: u64) -> (usize, u64) {
        #[allow(clippy::cast_possible_truncation)] // the mask keeps it below the length
        let word = (sequence >> 6) as usize & (self.bits.len() - 1);
        (word, 1 << (sequence & 63))
    }

    /// Whether `sequence` is new: above the window, or within and not yet accepted.
    #[must_use]
    pub fn is_new(&self, sequence: u64) -> bool {
        if sequence > self.highest {
            return true;
        }
        let (word, bit) = self.position(sequence);
        self.highest - sequence < self.size() && self.bits[word] & bit == 0
    }

    /// Records `sequence` as accepted, and tells whether it is the new highest. Numbers that fell
    /// out of the window are not recorded: they are seen already.
    pub fn accept(&mut self, sequence: u64) -> bool {
        let (word, bit) = self.position(sequence);
        if sequence > self.highest {
            self.forget_up_to(sequence);
            self.highest = sequence;
            self.bits[word] |= bit;
            true
        } else {
            if self.highest - sequence < self.size() {
                self.bits[word] |= bit;
            }
            false
        }
    }

    /// Moves the right edge to at least `sequence`, and takes everything up to the edge as seen.
    pub fn jump_to(&mut self, sequence: u64) {
        self.highest = self.highest.max(sequence);
        self.bits.fill(u64::MAX);
    }

    /// Clears the bits that now stand for numbers above the old right edge.
    fn forget_up_to(&mut self, sequence: u64) {
        let mut left = sequence - self.highest;
        if left >= self.size() {
            self.bits.fill(0);
            return;
        }
        let mut next = self.highest + 1;
        while left > 0 {
            let (word, _) = self.position(next);
            let from = next & 63;
            let span = left.min(64 - from);
            self.bits[word] &= !(u64::MAX >> (64 - span) << from);
            next += span;
            left -= span;
        }
    }
}
