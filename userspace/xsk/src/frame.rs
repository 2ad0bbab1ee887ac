use core::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The right to use one chunk of a [`Umem`](crate::Umem), and the place of the packet in it.
///
/// Linear: there is at most one `Frame` per chunk, so it must end in a
/// [`FramePool`](crate::FramePool) or a [`Port`](crate::Port). One that is dropped is lost to the
/// program until it ends; debug builds count those, see
/// [`Umem::dropped_frames`](crate::Umem::dropped_frames).
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost: put it into a pool or a port"]
pub struct Frame {
    pub(crate) umem: u32,
    pub(crate) chunk: u32,
    // Invariant: start + len <= 1 << chunk_shift.
    start: u16,
    len: u16,
    chunk_shift: u8,
    tripwire: Tripwire,
}

impl Frame {
    /// Only `Umem::claim` calls this, after it has checked the range and the ledger.
    pub(crate) fn new(
        umem: u32,
        chunk: u32,
        (start, len): (u16, u16),
        chunk_shift: u8,
        tripwire: Tripwire,
    ) -> Self {
        debug_assert!(usize::from(start) + usize::from(len) <= 1 << chunk_shift);
        Self {
            umem,
            chunk,
            start,
            len,
            chunk_shift,
            tripwire,
        }
    }

    /// Where the packet starts, in bytes from the start of the UMEM.
    pub fn offset(&self) -> u64 {
        (u64::from(self.chunk) << self.chunk_shift) + u64::from(self.start)
    }

    /// Length of the packet in bytes.
    #[allow(
        clippy::len_without_is_empty,
        reason = "an empty packet is nothing special"
    )]
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// Where the packet lies in the chunk; its start is the headroom left, in bytes.
    pub fn range(&self) -> Range<usize> {
        let start = usize::from(self.start);
        start..start + usize::from(self.len)
    }

    /// Size of the chunk in bytes.
    pub fn chunk_size(&self) -> usize {
        1 << self.chunk_shift
    }

    /// Bytes free behind the packet.
    pub fn tailroom(&self) -> usize {
        self.chunk_size() - self.range().end
    }

    /// Says where in the chunk the packet lies. A range that leaves the chunk is cut at its end,
    /// an inverted one becomes empty; both are bugs and fail in debug builds.
    pub fn set_range(&mut self, range: Range<usize>) {
        debug_assert!(range.start <= range.end && range.end <= self.chunk_size());
        let end = range.end.min(self.chunk_size());
        let start = range.start.min(end);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a chunk has at most 4096 bytes"
        )]
        {
            self.start = start as u16;
            self.len = (end - start) as u16;
        }
    }

    /// Ends the token without counting a loss: its chunk has found another owner in the ledger.
    pub(crate) fn into_chunk(mut self) -> u32 {
        self.tripwire.disarm();
        self.chunk
    }
}

/// Counts the frames of one memory that were dropped; in debug builds only, else it is nothing.
#[derive(Debug)]
pub(crate) struct Tripwire {
    #[cfg(debug_assertions)]
    dropped: Option<Arc<AtomicU64>>,
}

impl Tripwire {
    #[cfg_attr(not(debug_assertions), allow(unused_variables))]
    pub(crate) fn new(dropped: &Arc<AtomicU64>) -> Self {
        Self {
            #[cfg(debug_assertions)]
            dropped: Some(dropped.clone()),
        }
    }

    fn disarm(&mut self) {
        #[cfg(debug_assertions)]
        {
            self.dropped = None;
        }
    }
}

#[cfg(debug_assertions)]
impl Drop for Tripwire {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}
