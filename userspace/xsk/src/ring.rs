//! Single-producer single-consumer rings, as in `linux/if_xdp.h`: two indices that only grow
//! (modulo 2^32) and a power of two of entries between them.
//!
//! Each side keeps its own index and the last one it saw of the other side, and looks at the
//! shared memory only when these do not suffice: once per batch, not per entry. The producer
//! stores its index with Release after it wrote the entries, the consumer loads it with Acquire
//! before it reads them; the same the other way round for entries that are free again.

use crate::umem::Mapping;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use std::io;
use std::sync::Arc;

/// Where the parts of a ring lie. Shared by both of its ends.
struct Layout<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _memory: Memory<T>,
}

/// Keeps the memory of a ring alive.
enum Memory<T> {
    Kernel { _mapping: Mapping },
    Heap { _ring: Arc<Heap<T>> },
}

#[repr(align(64))]
#[derive(Default)]
struct Padded(AtomicU32);

struct Heap<T> {
    producer: Padded,
    consumer: Padded,
    flags: Padded,
    entries: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a layout is pointers into memory that it keeps alive. The indices are atomics. An entry is
// touched by one end at a time (see `Producer::stage` and `Consumer::take`), and there is one
// `Producer` and one `Consumer` at most; both change state only through `&mut self`.
unsafe impl<T: Send> Send for Layout<T> {}
// SAFETY: as above; what works with `&Producer` or `&Consumer` only loads atomics.
unsafe impl<T: Send> Sync for Layout<T> {}

impl<T> Layout<T> {
    /// Both ends of a ring on the heap, whose indices begin at `first`.
    fn heap(size: u32, first: u32) -> [Self; 2] {
        assert!(
            size.is_power_of_two(),
            "ring sizes are checked by RingSizes"
        );
        let ring = Arc::new(Heap {
            producer: Padded(first.into()),
            consumer: Padded(first.into()),
            flags: Padded::default(),
            entries: (0..size)
                .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
                .collect(),
        });
        [ring.clone(), ring].map(|ring| Self {
            producer: NonNull::from(&ring.producer.0),
            consumer: NonNull::from(&ring.consumer.0),
            flags: NonNull::from(&ring.flags.0),
            // The cast drops UnsafeCell and MaybeUninit, both of which are transparent.
            entries: NonNull::from(&*ring.entries).cast(),
            size,
            _memory: Memory::Heap { _ring: ring },
        })
    }

    /// One end of a ring of the kernel, which has the other.
    fn kernel(mapping: Mapping, offsets: &libc::xdp_ring_offset, size: u32) -> io::Result<Self> {
        let malformed = || io::Error::other("the kernel gave ring offsets outside the ring");
        let at = |offset: u64, bytes: usize, align: usize| {
            let start = usize::try_from(offset).ok()?;
            let fits = start.checked_add(bytes)? <= mapping.len() && start.is_multiple_of(align);
            // SAFETY: start + bytes was just checked to lie in the mapping.
            fits.then(|| unsafe { mapping.start.add(start) })
        };
        let index = |offset| at(offset, 4, 4).ok_or_else(malformed).map(NonNull::cast);
        if !size.is_power_of_two() {
            return Err(malformed());
        }
        Ok(Self {
            producer: index(offsets.producer)?,
            consumer: index(offsets.consumer)?,
            flags: index(offsets.flags)?,
            entries: at(
                offsets.desc,
                size as usize * size_of::<T>(),
                align_of::<T>(),
            )
            .ok_or_else(malformed)?
            .cast(),
            size,
            _memory: Memory::Kernel { _mapping: mapping },
        })
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: points into `_memory`, aligned, and only ever accessed as an atomic.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.flags.as_ref() }
    }

    /// Address of the entry of an index.
    #[inline]
    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: the masked index is below `size`, the number of entries in `_memory`.
        unsafe {
            self.entries
                .as_ptr()
                .add((index & (self.size - 1)) as usize)
        }
    }
}

/// The end that puts entries in.
pub(crate) struct Producer<T> {
    ring: Layout<T>,
    /// Next index to write; published up to the shared index.
    next: u32,
    /// Last seen index of the consumer.
    seen: u32,
}

/// The end that takes entries out.
pub(crate) struct Consumer<T> {
    ring: Layout<T>,
    /// Next index to read; given back up to the shared index.
    next: u32,
    /// Last seen index of the producer.
    seen: u32,
}

/// A ring in this process.
pub(crate) fn heap<T: Copy>(size: u32) -> (Producer<T>, Consumer<T>) {
    let [a, b] = Layout::heap(size, 0);
    (Producer::new(a), Consumer::new(b))
}

impl<T: Copy> Producer<T> {
    /// The user's end of a fill or TX ring.
    pub(crate) fn kernel(
        mapping: Mapping,
        offsets: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        Layout::kernel(mapping, offsets, size).map(Self::new)
    }

    fn new(ring: Layout<T>) -> Self {
        let next = ring.producer().load(Ordering::Relaxed);
        let seen = ring.consumer().load(Ordering::Acquire);
        Self { ring, next, seen }
    }

    pub(crate) fn size(&self) -> u32 {
        self.ring.size
    }

    /// Entries that can be staged, at least `want` if there is so much room.
    #[inline]
    pub(crate) fn room(&mut self, want: u32) -> u32 {
        let room = self
            .size()
            .saturating_sub(self.next.wrapping_sub(self.seen));
        if room >= want {
            return room;
        }
        // Acquire: the consumer has read what it gave back, before we write there again.
        self.seen = self.ring.consumer().load(Ordering::Acquire);
        self.size()
            .saturating_sub(self.next.wrapping_sub(self.seen))
    }

    /// Writes an entry that the consumer sees after `publish`. False if the ring is full.
    #[inline]
    pub(crate) fn stage(&mut self, entry: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: the entry is in the ring's memory, and ours: `room` says that the consumer has
        // passed it or never had it, and it gets it only by `publish`.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Writes the entries that `next` gives, up to `max` and as many as there is room for, and hands
    /// them over. Says how many.
    #[inline]
    pub(crate) fn put_each(&mut self, max: u32, mut next: impl FnMut() -> Option<T>) -> u32 {
        let room = self.room(max).min(max);
        let mut count = 0;
        while count < room {
            let Some(entry) = next() else { break };
            // SAFETY: as in `stage`: `room` has counted this entry.
            unsafe { self.ring.entry(self.next.wrapping_add(count)).write(entry) };
            count += 1;
        }
        self.next = self.next.wrapping_add(count);
        self.publish();
        count
    }

    /// Hands the staged entries over.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Published entries that the consumer has not taken yet.
    #[inline]
    pub(crate) fn pending(&self) -> u32 {
        let published = self.ring.producer().load(Ordering::Relaxed);
        published
            .wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
            .min(self.size())
    }

    /// XDP_RING_NEED_WAKEUP: the kernel sleeps and wants a system call.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        // Our index must be visible before the flag is read: the driver sets the flag, then looks
        // at the index once more, then sleeps.
        fence(Ordering::SeqCst);
        self.ring.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl<T: Copy> Consumer<T> {
    /// The user's end of an RX or completion ring.
    pub(crate) fn kernel(
        mapping: Mapping,
        offsets: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        Layout::kernel(mapping, offsets, size).map(Self::new)
    }

    fn new(ring: Layout<T>) -> Self {
        let next = ring.consumer().load(Ordering::Relaxed);
        let seen = ring.producer().load(Ordering::Acquire);
        Self { ring, next, seen }
    }

    pub(crate) fn size(&self) -> u32 {
        self.ring.size
    }

    /// Entries that can be taken, at least `want` if there are so many.
    #[inline]
    pub(crate) fn available(&mut self, want: u32) -> u32 {
        let available = self.seen.wrapping_sub(self.next).min(self.size());
        if available >= want {
            return available;
        }
        // Acquire: the entries were written before the index that we see.
        self.seen = self.ring.producer().load(Ordering::Acquire);
        self.seen.wrapping_sub(self.next).min(self.size())
    }

    /// Reads the next entry. Its place is free for the producer after `release`.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<T> {
        if self.available(1) == 0 {
            return None;
        }
        // SAFETY: the entry is in the ring's memory, and `available` says that the producer has
        // written and published it; it does not touch it again before `release`.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Reads up to `max` entries, hands each to `each`, and gives their places back. Says how many.
    #[inline]
    pub(crate) fn take_each(&mut self, max: u32, mut each: impl FnMut(T)) -> u32 {
        let count = self.available(max).min(max);
        for ahead in 0..count {
            // SAFETY: as in `take`: `available` has counted this entry.
            each(unsafe { self.ring.entry(self.next.wrapping_add(ahead)).read() });
        }
        self.next = self.next.wrapping_add(count);
        self.release();
        count
    }

    /// Gives the places of the taken entries back.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.ring.consumer().store(self.next, Ordering::Release);
    }

    /// Entries that wait to be taken.
    #[inline]
    pub(crate) fn waiting(&self) -> u32 {
        self.ring
            .producer()
            .load(Ordering::Acquire)
            .wrapping_sub(self.next)
            .min(self.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn heap_from<T: Copy>(size: u32, first: u32) -> (Producer<T>, Consumer<T>) {
        let [a, b] = Layout::heap(size, first);
        (Producer::new(a), Consumer::new(b))
    }

    #[test]
    fn full_then_empty() {
        let (mut producer, mut consumer) = heap::<u64>(4);
        for n in 0..4 {
            assert!(producer.stage(n));
        }
        assert!(!producer.stage(4));
        assert_eq!(consumer.take(), None, "not published yet");
        producer.publish();
        assert_eq!((producer.pending(), consumer.waiting()), (4, 4));
        for n in 0..4 {
            assert_eq!(consumer.take(), Some(n));
        }
        assert_eq!(consumer.take(), None);
        assert!(!producer.stage(4), "not released yet");
        consumer.release();
        assert_eq!(producer.room(4), 4);
    }

    #[test]
    fn room_and_available_look_again_only_when_needed() {
        let (mut producer, mut consumer) = heap::<u64>(8);
        assert!(producer.stage(1) && producer.stage(2));
        producer.publish();
        assert_eq!(consumer.available(1), 2);
        assert!(producer.stage(3));
        producer.publish();
        assert_eq!(
            consumer.available(2),
            2,
            "two suffice: the shared index is not read"
        );
        assert_eq!(consumer.available(3), 3);
        for _ in 0..3 {
            consumer.take();
        }
        consumer.release();
        assert_eq!(producer.room(5), 5);
        assert_eq!(producer.room(6), 8);
    }

    /// Indices of a broken other side make neither too many entries nor a panic.
    #[test]
    fn wild_indices_are_cut_to_the_size() {
        let (mut producer, mut consumer) = heap::<u64>(4);
        producer.ring.producer().store(1000, Ordering::Relaxed);
        assert_eq!(consumer.available(u32::MAX), 4);
        assert_eq!(consumer.waiting(), 4);
        producer.ring.consumer().store(77, Ordering::Relaxed);
        assert_eq!(producer.room(5), 0, "more than fits, so the index is read");
        assert!(!producer.stage(1));
        assert_eq!(producer.pending(), 4);
    }

    #[test]
    fn wakeup_flag() {
        let (producer, consumer) = heap::<u64>(4);
        assert!(!producer.needs_wakeup());
        consumer
            .ring
            .flags()
            .store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }))]

        /// Any order of operations on a ring whose indices wrap is that of a queue.
        #[test]
        fn like_a_queue(
            before_wrap in 0_u32..100,
            operations in prop::collection::vec((0_u8..4, 1_u32..20), 1..200),
        ) {
            let (mut producer, mut consumer) = heap_from(16, 0_u32.wrapping_sub(before_wrap));
            let (mut staged, mut published) = (VecDeque::new(), VecDeque::new());
            let (mut unreleased, mut next) = (0, 0_u64);
            for (operation, count) in operations {
                match operation {
                    0 => for _ in 0..count {
                        let full = staged.len() + published.len() + unreleased == 16;
                        prop_assert_eq!(producer.stage(next), !full);
                        if !full {
                            staged.push_back(next);
                            next += 1;
                        }
                    },
                    1 => {
                        producer.publish();
                        published.append(&mut staged);
                    }
                    2 => for _ in 0..count {
                        let entry = published.pop_front();
                        prop_assert_eq!(consumer.take(), entry);
                        unreleased += usize::from(entry.is_some());
                    },
                    _ => {
                        consumer.release();
                        unreleased = 0;
                    }
                }
                prop_assert_eq!(consumer.waiting() as usize, published.len());
                prop_assert_eq!(producer.pending() as usize, published.len() + unreleased);
            }
        }
    }

    /// Both ends at once, over the wrap of the indices: all that goes in comes out, in order.
    #[test]
    fn two_threads() {
        let count = if cfg!(miri) { 500 } else { 300_000 };
        let (mut producer, mut consumer) = heap_from(64, u32::MAX - 100);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut next = 0_u64;
                while next < count {
                    for _ in 0..producer.room(16).min(16) {
                        if next < count && producer.stage([next, !next]) {
                            next += 1;
                        }
                    }
                    producer.publish();
                    std::thread::yield_now();
                }
            });
            let mut expected = 0;
            while expected < count {
                while let Some(entry) = consumer.take() {
                    assert_eq!(entry, [expected, !expected]);
                    expected += 1;
                }
                consumer.release();
                std::thread::yield_now();
            }
        });
    }
}
