use crate::error::XskError;
use crate::frame::Frame;
use crate::umem::{Owner, Umem};
use std::sync::Arc;

/// The free frames of one worker: last in, first out, so that the next packet finds a frame whose
/// bytes are still in the cache.
///
/// The last [`reserve`](Self::reserve) frames are for control packets (IKE, pings):
/// [`take`](Self::take) and [`Port::refill`](crate::Port::refill) leave them alone,
/// [`take_control`](Self::take_control) does not.
///
/// Accounting, exact between batches, for one worker: `issued = free + receiving + sending + held`,
/// where `receiving` and `sending` are the sums over its ports of
/// [`Port::frames`](crate::Port::frames), and `held` is what the worker has as [`Frame`]s.
pub struct FramePool {
    umem: Arc<Umem>,
    free: Vec<u32>,
    reserve: usize,
    issued: u32,
    exhausted: u64,
}

impl FramePool {
    /// Takes `frames` frames that no other pool has had, `reserve` of them for control packets.
    pub fn new(umem: &Arc<Umem>, frames: u32, reserve: u32) -> Result<Self, XskError> {
        if reserve >= frames {
            return Err(XskError::Reserve { reserve, frames });
        }
        let chunks = umem.issue(frames)?;
        // Room for every frame there is: strays of other workers may pass through this pool.
        let mut free = Vec::with_capacity(umem.frames() as usize);
        free.extend(chunks.rev());
        let umem = umem.clone();
        Ok(Self {
            umem,
            free,
            reserve: reserve as usize,
            issued: frames,
            exhausted: 0,
        })
    }

    /// An empty frame (its packet starts after the headroom), or `None` if only the reserve is left.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        self.take_above(self.reserve)
    }

    /// As [`take`](Self::take), but may use the reserve.
    #[inline]
    pub fn take_control(&mut self) -> Option<Frame> {
        self.take_above(0)
    }

    /// Gives a frame back. One of another [`Umem`] is lost, which is a bug and fails in debug builds.
    #[inline]
    pub fn put(&mut self, frame: Frame) {
        debug_assert!(self.umem.owns(&frame), "frame of another UMEM");
        if self.umem.owns(&frame) {
            let chunk = self.umem.surrender(frame, Owner::Pool);
            self.free.push(chunk);
        }
    }

    /// Frames free, the reserve included.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Frames that [`take`](Self::take) can still give.
    pub fn available(&self) -> usize {
        self.free.len().saturating_sub(self.reserve)
    }

    /// Frames kept for control packets.
    pub fn reserve(&self) -> usize {
        self.reserve
    }

    /// Frames this pool began with.
    pub fn issued(&self) -> u32 {
        self.issued
    }

    /// How often a frame was asked for and there was none.
    pub fn exhausted(&self) -> u64 {
        self.exhausted
    }

    /// The memory its frames lie in.
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    fn take_above(&mut self, floor: usize) -> Option<Frame> {
        if self.free.len() <= floor {
            self.exhausted += 1;
            return None;
        }
        let chunk = self.free.pop()?;
        self.umem
            .claim(chunk, self.umem.headroom() as u64, 0, Owner::Pool)
    }

    /// Takes a chunk for a fill ring.
    #[inline]
    pub(crate) fn pop_for_receive(&mut self) -> Option<u32> {
        if self.available() == 0 {
            return None;
        }
        let chunk = self.free.pop()?;
        self.umem
            .transfer(chunk, Owner::Pool, Owner::Receiving)
            .then_some(chunk)
    }

    /// Takes back a chunk from a fill ring that had no room for it, or from a completion ring.
    /// False if the ledger says that it was not there.
    #[inline]
    pub(crate) fn push_from(&mut self, chunk: u32, from: Owner) -> bool {
        let moved = self.umem.transfer(chunk, from, Owner::Pool);
        if moved {
            self.free.push(chunk);
        }
        moved
    }
}
