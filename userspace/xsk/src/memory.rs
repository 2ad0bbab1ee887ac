use crate::error::XskError;
use crate::frame::Frame;
use crate::pool::FramePool;
use crate::port::{Port, PortFrames, PortStats, RingSizes, Rings};
use crate::ring::{self, Consumer, Producer};
use crate::umem::{Owner, Umem};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A port without a kernel: the same four rings and the same accounting, with a [`MemoryPeer`] in
/// the kernel's place. Allocates nothing after it is made.
pub struct MemoryPort {
    rings: Rings,
}

/// The kernel's side of a [`MemoryPort`]: brings packets, and takes what the port sends. May live
/// in another thread than the port.
///
/// With bytes: [`inject`](Self::inject) and [`drain`](Self::drain). With frames, without a copy:
/// [`blank`](Self::blank) → write → [`inject_frame`](Self::inject_frame), and
/// [`take`](Self::take) → read → [`complete`](Self::complete).
pub struct MemoryPeer {
    umem: Arc<Umem>,
    fill: Consumer<u64>,
    rx: Producer<libc::xdp_desc>,
    tx: Consumer<libc::xdp_desc>,
    completion: Producer<u64>,
}

impl MemoryPort {
    /// A port on this memory, and its peer.
    pub fn pair(umem: &Arc<Umem>, sizes: RingSizes) -> Result<(Self, MemoryPeer), XskError> {
        sizes.check()?;
        let (fill, fill_peer) = ring::heap(sizes.fill);
        let (rx_peer, rx) = ring::heap(sizes.rx);
        let (tx, tx_peer) = ring::heap(sizes.tx);
        let (completion_peer, completion) = ring::heap(sizes.completion);
        let rings = Rings::new(umem.clone(), fill, rx, tx, completion);
        let peer = MemoryPeer {
            umem: umem.clone(),
            fill: fill_peer,
            rx: rx_peer,
            tx: tx_peer,
            completion: completion_peer,
        };
        Ok((Self { rings }, peer))
    }
}

impl Port for MemoryPort {
    #[inline]
    fn rx(&mut self, out: &mut Vec<Frame>, max: usize) -> usize {
        self.rings.rx(out, max)
    }

    #[inline]
    fn tx(&mut self, frames: &mut VecDeque<Frame>) -> usize {
        self.rings.tx(frames)
    }

    #[inline]
    fn refill(&mut self, pool: &mut FramePool) {
        self.rings.refill(pool);
    }

    #[inline]
    fn reclaim(&mut self, pool: &mut FramePool) -> usize {
        self.rings.reclaim(pool)
    }

    fn kick(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn tx_pending(&self) -> usize {
        self.rings.tx_pending()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn stats(&self) -> PortStats {
        self.rings.stats
    }

    fn frames(&self) -> PortFrames {
        self.rings.frames()
    }

    fn umem(&self) -> &Arc<Umem> {
        self.rings.umem()
    }
}

impl MemoryPeer {
    /// Lets the port receive a copy of `packet`. False, as on a NIC without buffers, if the port
    /// has posted no frame, or if the packet is longer than [`Umem::max_packet`].
    pub fn inject(&mut self, packet: &[u8]) -> bool {
        self.inject_with(packet.len(), |bytes| bytes.copy_from_slice(packet))
    }

    /// As [`inject`](Self::inject), with a packet of `len` bytes that `write` makes in place.
    pub fn inject_with(&mut self, len: usize, write: impl FnOnce(&mut [u8])) -> bool {
        if len > self.umem.max_packet() || self.rx.room(1) == 0 {
            return false;
        }
        let Some(mut frame) = self.blank() else {
            return false;
        };
        let start = frame.range().start;
        frame.set_range(start..start + len);
        let umem = self.umem.clone();
        write(umem.bytes_mut(&mut frame));
        self.inject_frame(frame).is_ok()
    }

    /// Calls `read` with each packet that the port has sent, gives the frames back to the port's
    /// [`reclaim`](Port::reclaim), and says how many there were.
    pub fn drain(&mut self, mut read: impl FnMut(&[u8])) -> usize {
        let mut drained = 0;
        while self.completion.room(1) > 0 {
            let Some(frame) = self.next_sent() else { break };
            read(self.umem.bytes(&frame));
            self.complete(frame);
            drained += 1;
        }
        drained
    }

    /// A frame that the port has posted to receive into. It must come back by
    /// [`inject_frame`](Self::inject_frame).
    pub fn blank(&mut self) -> Option<Frame> {
        let address = self.fill.take()?;
        self.fill.release();
        let mut frame = self.umem.claim_at(address, 0, Owner::Receiving)?;
        let start = self.umem.headroom();
        frame.set_range(start..start);
        Some(frame)
    }

    /// Lets the port receive this frame: one from [`blank`](Self::blank), or any other of the same
    /// memory (it then adds to the frames of the worker behind the port).
    ///
    /// # Errors
    /// Gives the frame back if the RX ring is full, or if the frame is of another memory.
    pub fn inject_frame(&mut self, frame: Frame) -> Result<(), Frame> {
        if !self.umem.owns(&frame) || self.rx.room(1) == 0 {
            return Err(frame);
        }
        let (addr, len) = (frame.offset(), frame.len());
        self.umem.surrender(frame, Owner::Receiving);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a packet has at most 4096 bytes"
        )]
        self.rx.stage(libc::xdp_desc {
            addr,
            len: len as u32,
            options: 0,
        });
        self.rx.publish();
        Ok(())
    }

    /// Appends up to `max` frames that the port has sent to `out` and says how many. Each must come
    /// back by [`complete`](Self::complete).
    pub fn take(&mut self, out: &mut Vec<Frame>, max: usize) -> usize {
        let before = out.len();
        while out.len() - before < max {
            let Some(frame) = self.next_sent() else { break };
            out.push(frame);
        }
        out.len() - before
    }

    /// Tells the port that this frame is sent. It goes to the pool by [`Port::reclaim`].
    pub fn complete(&mut self, frame: Frame) {
        debug_assert!(self.umem.owns(&frame), "frame of another UMEM");
        if self.umem.owns(&frame) {
            let chunk = self.umem.surrender(frame, Owner::Sending);
            let staged = self.completion.stage(self.umem.address_of(chunk));
            debug_assert!(staged, "completes more frames than the port has sent");
            self.completion.publish();
        }
    }

    /// Frames posted by the port to receive into.
    pub fn posted(&self) -> usize {
        self.fill.waiting() as usize
    }

    /// Packets sent by the port and not taken yet.
    pub fn sent(&self) -> usize {
        self.tx.waiting() as usize
    }

    fn next_sent(&mut self) -> Option<Frame> {
        let desc = self.tx.take()?;
        self.tx.release();
        self.umem.claim_at(desc.addr, desc.len, Owner::Sending)
    }
}
