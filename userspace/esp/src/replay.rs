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
    /// decides whether that was right. `None` at the very end of the 64-bit space.
    #[must_use]
    pub fn extend(&self, low: u32) -> Option<u64> {
        let left = self.highest.saturating_sub(self.size() - 1);
        // `left` is as low as the window goes; the answer is the first number from there on that
        // ends in `low`.
        #[allow(clippy::cast_possible_truncation)] // the low half is what is wanted
        let distance = low.wrapping_sub(left as u32);
        left.checked_add(distance.into())
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
            next = next.wrapping_add(span);
            left -= span;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The window as RFC 4303 §3.4.3 describes it, with every number remembered.
    struct Model {
        highest: u64,
        size: u64,
        accepted: BTreeSet<u64>,
    }

    impl Model {
        fn is_new(&self, sequence: u64) -> bool {
            let left = self.highest.saturating_sub(self.size - 1);
            sequence != 0 && sequence >= left && !self.accepted.contains(&sequence)
        }

        fn accept(&mut self, sequence: u64) -> bool {
            self.accepted.insert(sequence);
            let new_highest = sequence > self.highest;
            self.highest = self.highest.max(sequence);
            new_highest
        }
    }

    /// Where the next packet lies from the right edge: mostly near, sometimes around the window's
    /// size, its multiples and word boundaries, sometimes far.
    fn step() -> impl Strategy<Value = i64> {
        prop_oneof![
            4 => -3..4i64,
            3 => -200..200i64,
            2 => (-3..4i64, -9..9i64).prop_map(|(n, off)| n * 4096 + off),
            1 => (-80..80i64, -2..3i64).prop_map(|(n, off)| n * 64 + off),
            1 => 0..1i64 << 40,
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_model_that_forgets_nothing(
            start in prop_oneof![Just(0), 0..10_000u64, 0..1u64 << 62],
            size in prop_oneof![Just(MIN_REPLAY_WINDOW), Just(5000), Just(16384)],
            steps in prop::collection::vec(step(), 0..600),
        ) {
            let mut window = ReplayWindow::new(size);
            let mut model = Model { highest: 0, size: window.size(), accepted: BTreeSet::new() };
            if start > 0 {
                prop_assert!(window.accept(start) && model.accept(start));
            }
            for step in steps {
                let sequence = model.highest.saturating_add_signed(step);
                prop_assert_eq!(window.is_new(sequence), model.is_new(sequence), "{}", sequence);
                if model.is_new(sequence) {
                    prop_assert_eq!(window.accept(sequence), model.accept(sequence));
                    prop_assert!(!window.is_new(sequence));
                }
                prop_assert_eq!(window.highest(), model.highest);
            }
            let left = model.highest.saturating_sub(2 * model.size);
            for sequence in left..=model.highest {
                prop_assert_eq!(window.is_new(sequence), model.is_new(sequence), "{}", sequence);
            }
        }

        /// RFC 4303 appendix A2.2, as it is written there.
        #[test]
        fn extends_as_the_appendix_says(highest in prop_oneof![
            0..10_000u64,
            (1..1u64 << 31, -5000..5000i64).prop_map(|(h, off)| (h << 32).saturating_add_signed(off)),
            (1..1u64 << 31, any::<u32>()).prop_map(|(h, low)| (h << 32) | u64::from(low)),
        ], low: u32) {
            let mut window = ReplayWindow::new(0);
            window.jump_to(highest);
            let w = 4096u32;
            let (th, tl) = (highest >> 32, u32::try_from(highest & 0xffff_ffff).unwrap());
            let bl = tl.wrapping_sub(w - 1);
            let high = if tl >= w - 1 {
                if low >= bl { th } else { th + 1 }
            } else if low >= bl {
                // With no earlier subspace the number can only be one of the first.
                th.saturating_sub(1)
            } else {
                th
            };
            prop_assert_eq!(window.extend(low), Some((high << 32) | u64::from(low)));
        }

        #[test]
        fn what_is_sent_in_the_window_is_recovered(highest: u64, back in 0..4096u64, ahead: u32) {
            let mut window = ReplayWindow::new(0);
            window.jump_to(highest);
            let old = highest.saturating_sub(back);
            #[allow(clippy::cast_possible_truncation)]
            let extended = window.extend(old as u32);
            prop_assert_eq!(extended, Some(old));
            if let Some(new) = highest.checked_add(u64::from(ahead).saturating_sub(4096)) {
                #[allow(clippy::cast_possible_truncation)]
                let extended = window.extend(new as u32);
                prop_assert_eq!(extended, Some(new));
            }
        }
    }

    #[test]
    fn zero_is_never_new() {
        assert!(!ReplayWindow::new(0).is_new(0));
    }

    #[test]
    fn sizes_are_powers_of_two_from_4096() {
        let sizes = [0, 64, 4096, 4097, 8192, u32::MAX].map(|size| ReplayWindow::new(size).size());
        assert_eq!(sizes, [4096, 4096, 4096, 8192, 8192, 1 << 20]);
    }

    #[test]
    fn the_last_number_is_no_special_case() {
        let mut window = ReplayWindow::new(0);
        window.jump_to(u64::MAX - 5000);
        for sequence in [u64::MAX - 4100, u64::MAX - 1, u64::MAX, u64::MAX - 70] {
            assert!(window.is_new(sequence));
            window.accept(sequence);
            assert!(!window.is_new(sequence));
        }
        assert_eq!(window.extend(u32::MAX), Some(u64::MAX));
        assert_eq!(window.extend(0), None);
    }

    #[test]
    fn a_jump_takes_everything_before_as_seen() {
        let mut window = ReplayWindow::new(0);
        window.accept(10);
        window.jump_to(100);
        assert!((0..=100).all(|sequence| !window.is_new(sequence)));
        assert!(window.is_new(101));
        window.jump_to(50);
        assert_eq!(window.highest(), 100);
        window.accept(200);
        assert!(window.is_new(150) && !window.is_new(100));
    }
}
