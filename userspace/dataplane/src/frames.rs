//! Where frames lie, how they cross from one port's memory to the other's, and what waits for a
//! port.

use std::{collections::VecDeque, sync::Arc};

use mitregate_xsk::{Frame, FramePool, Port, Umem};

use crate::fate::{Fate, Fates};

/// Where frames live.
pub enum Memory {
    /// Both ports on one UMEM: frames move between them without a copy.
    Shared(FramePool),
    /// Ports whose modes do not match: a packet is copied, and counted, on its way across.
    Split {
        /// Free frames of the outer port's UMEM.
        outer: FramePool,
        /// Free frames of the inner port's UMEM.
        inner: FramePool,
    },
}

/// [`Memory`] as the pipeline uses it.
pub(crate) struct Frames {
    outer: Arc<Umem>,
    inner: Arc<Umem>,
    memory: Memory,
    /// Packets copied between two UMEMs.
    pub(crate) copied: u64,
}

/// One side's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Outer,
    Inner,
}

impl Frames {
    pub(crate) fn new(memory: Memory) -> Self {
        let (outer, inner) = match &memory {
            Memory::Shared(pool) => (pool, pool),
            Memory::Split { outer, inner } => (outer, inner),
        };
        Self {
            outer: Arc::clone(outer.umem()),
            inner: Arc::clone(inner.umem()),
            copied: 0,
            memory,
        }
    }

    #[inline]
    pub(crate) fn umem(&self, side: Side) -> &Arc<Umem> {
        match side {
            Side::Outer => &self.outer,
            Side::Inner => &self.inner,
        }
    }

    #[inline]
    pub(crate) fn pool(&mut self, side: Side) -> &mut FramePool {
        match (&mut self.memory, side) {
            (Memory::Shared(pool), _)
            | (Memory::Split { outer: pool, .. }, Side::Outer)
            | (Memory::Split { inner: pool, .. }, Side::Inner) => pool,
        }
    }

    /// Gives a frame back, to the pool of the memory that it lies in.
    #[inline]
    pub(crate) fn put(&mut self, frame: Frame) {
        match &mut self.memory {
            Memory::Shared(pool) => pool.put(frame),
            Memory::Split { outer, .. } if outer.umem().owns(&frame) => outer.put(frame),
            Memory::Split { inner, .. } => inner.put(frame),
        }
    }

    /// Whether every frame can be sent by either port.
    #[inline(always)]
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.memory, Memory::Shared(_))
    }

    /// The packet in a frame that the port of `side` can send: the same frame where the memory is
    /// shared, else a copy, or `None`, and the packet lost, if there is no frame for one.
    #[inline]
    pub(crate) fn cross(&mut self, frame: Frame, side: Side) -> Option<Frame> {
        match self.memory {
            Memory::Shared(_) => Some(frame),
            Memory::Split { .. } => self.copy(frame, side),
        }
    }

    fn copy(&mut self, frame: Frame, side: Side) -> Option<Frame> {
        let (from, to) = match side {
            Side::Outer => (Arc::clone(&self.inner), Arc::clone(&self.outer)),
            Side::Inner => (Arc::clone(&self.outer), Arc::clone(&self.inner)),
        };
        let mut copy = self.pool(side).take();
        let fits = copy.as_mut().is_some_and(|copy| {
            let start = copy.range().start;
            let end = start + frame.len();
            let fits = end <= copy.chunk_size();
            if fits {
                copy.set_range(start..end);
                to.bytes_mut(copy).copy_from_slice(from.bytes(&frame));
            }
            fits
        });
        self.put(frame);
        if fits {
            self.copied += 1;
        } else if let Some(copy) = copy.take() {
            self.put(copy);
        }
        copy
    }

    /// A frame for a packet of the worker's own making, from the reserve if need be.
    pub(crate) fn take_control(&mut self, side: Side) -> Option<Frame> {
        self.pool(side).take_control()
    }

    /// Frames free on both sides.
    pub(crate) fn free(&self) -> usize {
        match &self.memory {
            Memory::Shared(pool) => pool.free(),
            Memory::Split { outer, inner } => outer.free() + inner.free(),
        }
    }

    /// Whether a pool is down to its reserve, so that a port may be short of frames to receive into.
    pub(crate) fn short(&self) -> bool {
        match &self.memory {
            Memory::Shared(pool) => pool.available() == 0,
            Memory::Split { outer, inner } => outer.available() == 0 || inner.available() == 0,
        }
    }
}

/// What waits for a port's transmit ring. Control packets go first.
pub(crate) struct TxQueue {
    control: VecDeque<Frame>,
    data: VecDeque<Frame>,
    /// Packets of each kind that may wait.
    limit: usize,
    /// How each kind ends when the port has taken it.
    fates: (Fate, Fate),
}

impl TxQueue {
    /// `burst` more packets than `limit` find room at once, when a hold queue is flushed.
    pub(crate) fn new(limit: usize, burst: usize, control: Fate, data: Fate) -> Self {
        Self {
            control: VecDeque::with_capacity(limit),
            data: VecDeque::with_capacity(limit + burst),
            limit,
            fates: (control, data),
        }
    }

    /// Takes a data packet; gives it back if too many wait.
    pub(crate) fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.data.len() >= self.limit {
            return Err(frame);
        }
        self.data.push_back(frame);
        Ok(())
    }

    /// Takes a whole burst of data packets, or none if that would be too many.
    #[inline]
    pub(crate) fn take_all(&mut self, frames: &mut Vec<Frame>) -> bool {
        let fits = self.data.len() + frames.len() <= self.limit;
        if fits {
            self.data.extend(frames.drain(..));
        }
        fits
    }

    /// As [`TxQueue::push`], for one of a bounded number of packets that were held.
    pub(crate) fn push_held(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.data.len() == self.data.capacity() {
            return Err(frame);
        }
        self.data.push_back(frame);
        Ok(())
    }

    /// As [`TxQueue::push`], for a control packet.
    pub(crate) fn push_control(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.control.len() >= self.limit {
            return Err(frame);
        }
        self.control.push_back(frame);
        Ok(())
    }

    /// Hands to the port what it takes, and says how many.
    #[inline]
    pub(crate) fn flush<P: Port>(&mut self, port: &mut P, fates: &Fates) -> usize {
        let mut sent = 0;
        if !self.control.is_empty() {
            sent = port.tx(&mut self.control);
            fates.add(self.fates.0, sent as u64);
        }
        if self.control.is_empty() && !self.data.is_empty() {
            let data = port.tx(&mut self.data);
            fates.add(self.fates.1, data as u64);
            sent += data;
        }
        sent
    }

    pub(crate) fn len(&self) -> usize {
        self.control.len() + self.data.len()
    }

    /// Takes everything out, for the end.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Frame> + '_ {
        self.control.drain(..).chain(self.data.drain(..))
    }
}
