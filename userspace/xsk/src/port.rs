use crate::error::XskError;
use crate::frame::Frame;
use crate::pool::FramePool;
use crate::ring::{Consumer, Producer};
use crate::socket::KernelStats;
use crate::umem::{Owner, Umem};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// The shortest frame that can be sent, in bytes: an Ethernet header.
const MIN_FRAME: usize = 14;

/// Where packets come from and go to. One thread drives a port; a round of its loop is
/// `reclaim`, `refill`, `rx`, work, `tx`, `kick`.
pub trait Port {
    /// Appends up to `max` received packets to `out` and says how many.
    fn rx(&mut self, out: &mut Vec<Frame>, max: usize) -> usize;

    /// Takes frames from the front of `frames` for sending, as many as there is room for, and says
    /// how many. They go out with the next [`kick`](Self::kick).
    fn tx(&mut self, frames: &mut VecDeque<Frame>) -> usize;

    /// Posts free frames to receive into, as many as the port takes and the pool gives.
    fn refill(&mut self, pool: &mut FramePool);

    /// Puts frames that have been sent back into the pool and says how many.
    fn reclaim(&mut self, pool: &mut FramePool) -> usize;

    /// Wakes the sender if there is something to send and it sleeps. In copy mode this is what
    /// sends, in one system call per 32 frames. `Ok` although frames remain
    /// ([`tx_pending`](Self::tx_pending)) means: not now, try again in the next round.
    ///
    /// # Errors
    /// `ENETDOWN`: the interface is down, what is in the ring waits. `ENXIO`: it is gone.
    fn kick(&mut self) -> io::Result<()>;

    /// Frames given to [`tx`](Self::tx) that the kernel has not picked up yet.
    fn tx_pending(&self) -> usize;

    /// What to poll for: readable when packets wait.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Counters since the port was opened.
    fn stats(&self) -> PortStats;

    /// How many frames the port has, and where.
    fn frames(&self) -> PortFrames;

    /// The memory its frames lie in. Ports with the same one pass frames to each other.
    fn umem(&self) -> &Arc<Umem>;
}

/// Number of entries of the four rings of a port: powers of two from 32 to 65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Frames posted to receive into.
    pub fill: u32,
    /// Frames that were sent.
    pub completion: u32,
    /// Packets received.
    pub rx: u32,
    /// Packets to send.
    pub tx: u32,
}

impl Default for RingSizes {
    fn default() -> Self {
        Self::all(2048)
    }
}

impl RingSizes {
    /// The same size for all four.
    pub const fn all(size: u32) -> Self {
        Self {
            fill: size,
            completion: size,
            rx: size,
            tx: size,
        }
    }

    /// The most frames a port of this shape can have at a time: this many, for each port of a
    /// worker, its pool needs, and what is to be held and kept in reserve on top.
    pub fn frames(&self) -> u32 {
        self.fill.min(self.rx) + self.tx.min(self.completion)
    }

    pub(crate) fn check(&self) -> Result<(), XskError> {
        let rings = [
            ("fill", self.fill),
            ("completion", self.completion),
            ("rx", self.rx),
            ("tx", self.tx),
        ];
        match rings
            .into_iter()
            .find(|&(_, n)| !n.is_power_of_two() || !(32..=65536).contains(&n))
        {
            Some((ring, size)) => Err(XskError::RingSize { ring, size }),
            None => Ok(()),
        }
    }
}

/// Counters of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx: u64,
    /// Packets put into the TX ring.
    pub tx: u64,
    /// Frames that came back from sending.
    pub completed: u64,
    /// Packets refused by [`Port::tx`]: shorter than an Ethernet header, or of another memory.
    pub tx_refused: u64,
    /// Packets that the kernel completed without sending (EBUSY: the device or its qdisc dropped).
    pub tx_dropped: u64,
    /// System calls to wake the kernel.
    pub kicks: u64,
    /// Kicks that the kernel answered with "not now" (EAGAIN, EBUSY, ENOBUFS).
    pub kicks_refused: u64,
    /// Descriptors from the other side that were no frame of this port. Their frames are lost.
    pub bad_descriptors: u64,
    /// What the kernel counted (XDP_STATISTICS); zero for a memory port.
    pub kernel: KernelStats,
}

/// The frames a port has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortFrames {
    /// In the fill ring.
    pub fill: usize,
    /// Taken out of the fill ring by the driver, and no packet in them yet.
    pub rx_driver: usize,
    /// In the RX ring: received, and not fetched yet.
    pub rx: usize,
    /// In the TX ring.
    pub tx: usize,
    /// Taken out of the TX ring by the driver, and not sent yet.
    pub tx_driver: usize,
    /// In the completion ring, or refused by [`Port::tx`]: to be reclaimed.
    pub completion: usize,
}

impl PortFrames {
    /// Frames with the receiving half.
    pub fn receiving(&self) -> usize {
        self.fill + self.rx_driver + self.rx
    }

    /// Frames with the sending half.
    pub fn sending(&self) -> usize {
        self.tx + self.tx_driver + self.completion
    }
}

/// The user's end of the four rings, with the accounting: all of a port but its system calls.
///
/// At most `min(fill, rx)` frames are out to receive and at most `min(tx, completion)` to be sent,
/// so the RX and completion rings can never overflow, and nobody has to look at the kernel's index
/// of the fill ring.
pub(crate) struct Rings {
    umem: Arc<Umem>,
    fill: Producer<u64>,
    rx: Consumer<libc::xdp_desc>,
    pub(crate) tx: Producer<libc::xdp_desc>,
    completion: Consumer<u64>,
    receiving: u32,
    sending: u32,
    /// Chunks refused by `tx`, for the next `reclaim`.
    refused: Vec<u32>,
    pub(crate) stats: PortStats,
}

impl Rings {
    pub(crate) fn new(
        umem: Arc<Umem>,
        fill: Producer<u64>,
        rx: Consumer<libc::xdp_desc>,
        tx: Producer<libc::xdp_desc>,
        completion: Consumer<u64>,
    ) -> Self {
        let refused = Vec::with_capacity(tx.size() as usize);
        let stats = PortStats::default();
        Self {
            umem,
            fill,
            rx,
            tx,
            completion,
            receiving: 0,
            sending: 0,
            refused,
            stats,
        }
    }

    pub(crate) fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    pub(crate) fn rx(&mut self, out: &mut Vec<Frame>, max: usize) -> usize {
        let max = u32::try_from(max).unwrap_or(u32::MAX).min(self.rx.size());
        let (umem, before) = (&*self.umem, out.len());
        let taken = self.rx.take_each(max, |desc| {
            if let Some(frame) = umem.claim_at(desc.addr, desc.len, Owner::Receiving) {
                out.push(frame);
            }
        });
        let received = out.len() - before;
        self.receiving = self.receiving.saturating_sub(taken);
        self.stats.rx += received as u64;
        self.stats.bad_descriptors += u64::from(taken) - received as u64;
        received
    }

    pub(crate) fn tx(&mut self, frames: &mut VecDeque<Frame>) -> usize {
        let before = frames.len();
        let limit = self.tx.size().min(self.completion.size());
        let (umem, refused) = (&*self.umem, &mut self.refused);
        let (refused_before, mut foreign) = (refused.len(), 0);
        // What is refused has no place in the ring, but counts among the frames that we have.
        let mut room = limit.saturating_sub(self.sending);
        let most = room.min(u32::try_from(before).unwrap_or(u32::MAX));
        let staged = self.tx.put_each(most, || {
            while room > 0 {
                let frame = frames.pop_front()?;
                if !umem.owns(&frame) {
                    debug_assert!(false, "frame of another UMEM");
                    foreign += 1;
                    continue;
                }
                room -= 1;
                let (addr, len) = (frame.offset(), frame.len());
                let chunk = umem.surrender(frame, Owner::Sending);
                if len < MIN_FRAME {
                    // The kernel would not complete an empty one, nor veth survive a runt.
                    refused.push(chunk);
                    continue;
                }
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                return Some(libc::xdp_desc {
                    addr,
                    len,
                    options: 0,
                });
            }
            None
        });
        let refused = refused.len() - refused_before;
        self.sending += staged + u32::try_from(refused).unwrap_or(u32::MAX);
        self.stats.tx += u64::from(staged);
        self.stats.tx_refused += (refused + foreign) as u64;
        before - frames.len()
    }

    pub(crate) fn refill(&mut self, pool: &mut FramePool) {
        debug_assert!(Arc::ptr_eq(&self.umem, pool.umem()), "pool of another UMEM");
        let limit = self.fill.size().min(self.rx.size());
        if self.receiving >= limit || !Arc::ptr_eq(&self.umem, pool.umem()) {
            return;
        }
        let umem = &*self.umem;
        self.receiving += self.fill.put_each(limit - self.receiving, || {
            pool.pop_for_receive().map(|chunk| umem.address_of(chunk))
        });
    }

    pub(crate) fn reclaim(&mut self, pool: &mut FramePool) -> usize {
        debug_assert!(Arc::ptr_eq(&self.umem, pool.umem()), "pool of another UMEM");
        if self.sending == 0 || !Arc::ptr_eq(&self.umem, pool.umem()) {
            return 0;
        }
        let (umem, mut reclaimed) = (&*self.umem, 0);
        let available = self.completion.available(self.sending);
        let taken = self.completion.take_each(available, |address| {
            let chunk = umem.chunk_of(address);
            let ours = chunk.is_some_and(|chunk| pool.push_from(chunk, Owner::Sending));
            reclaimed += usize::from(ours);
        });
        self.sending = self.sending.saturating_sub(taken);
        self.stats.completed += reclaimed as u64;
        self.stats.bad_descriptors += u64::from(taken) - reclaimed as u64;
        while let Some(chunk) = self.refused.pop() {
            self.sending = self.sending.saturating_sub(1);
            reclaimed += usize::from(pool.push_from(chunk, Owner::Sending));
        }
        reclaimed
    }

    pub(crate) fn tx_pending(&self) -> usize {
        self.tx.pending() as usize
    }

    /// XDP_RING_NEED_WAKEUP of the fill ring, while there are frames in it.
    pub(crate) fn fill_needs_wakeup(&self) -> bool {
        self.receiving > 0 && self.fill.needs_wakeup()
    }

    pub(crate) fn frames(&self) -> PortFrames {
        let (fill, rx) = (self.fill.pending() as usize, self.rx.waiting() as usize);
        let (tx, completed) = (
            self.tx.pending() as usize,
            self.completion.waiting() as usize,
        );
        let completion = completed + self.refused.len();
        PortFrames {
            fill,
            rx_driver: (self.receiving as usize).saturating_sub(fill + rx),
            rx,
            tx,
            tx_driver: (self.sending as usize).saturating_sub(tx + completion),
            completion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring;
    use crate::umem::UmemConfig;

    fn desc(addr: u64, len: u32) -> libc::xdp_desc {
        libc::xdp_desc {
            addr,
            len,
            options: 0,
        }
    }

    /// What the other side says is checked against the memory and the ledger before a frame is made
    /// of it.
    #[test]
    fn descriptors_are_not_believed() {
        let umem = Umem::new(UmemConfig {
            frames: 8,
            ..UmemConfig::default()
        })
        .unwrap();
        let mut pool = FramePool::new(&umem, 8, 4).unwrap();
        let (fill, mut fill_peer) = ring::heap(32);
        let (mut rx_peer, rx) = ring::heap(32);
        let (tx, mut tx_peer) = ring::heap(32);
        let (mut completion_peer, completion) = ring::heap(32);
        let mut port = Rings::new(umem.clone(), fill, rx, tx, completion);
        port.refill(&mut pool);
        let posted: Vec<u64> = std::iter::from_fn(|| fill_peer.take()).collect();
        assert_eq!(posted.len(), 4);
        let in_pool = pool.take_control().unwrap();
        let free = in_pool.offset();
        pool.put(in_pool);

        for bad in [
            desc(8 * 2048, 60), // beyond the memory
            desc(u64::MAX, 60),
            desc(posted[0] + 256, 1793), // beyond the chunk
            desc(posted[0] + 2047, u32::MAX),
            desc(free, 60),            // never posted
            desc(posted[1] + 256, 60), // this one is good …
            desc(posted[1] + 256, 60), // … but only once
        ] {
            assert!(rx_peer.stage(bad));
        }
        rx_peer.publish();
        let mut received = Vec::new();
        assert_eq!(port.rx(&mut received, 64), 1);
        assert_eq!(received[0].offset(), posted[1] + 256);
        assert_eq!(port.stats.bad_descriptors, 6);

        assert_eq!(port.tx(&mut received.into()), 1);
        let sent = tx_peer.take().unwrap();
        assert_eq!((sent.addr, sent.len), (posted[1] + 256, 60));
        for address in [sent.addr, sent.addr, u64::MAX, free] {
            assert!(completion_peer.stage(address));
        }
        completion_peer.publish();
        let before = pool.free();
        port.reclaim(&mut pool);
        assert_eq!((pool.free(), port.sending), (before + 1, 0));
        assert_eq!(port.stats.bad_descriptors, 6 + 3);
    }
}
