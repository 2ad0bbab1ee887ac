use crate::error::{SocketError, Step, XskError};
use crate::frame::Frame;
use crate::pool::FramePool;
use crate::port::{Port, PortFrames, PortStats, RingSizes, Rings};
use crate::ring::{Consumer, Producer};
use crate::umem::{Mapping, Umem};
use std::collections::VecDeque;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// A queue that was let go of a moment ago is free again after a while only (the kernel clears it
/// in a work queue), so a restarted daemon waits this long for it.
const BUSY_RETRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

// Not in libc for Linux (asm-generic/socket.h; linux/if_xdp.h since 6.17).
const SO_BUSY_POLL: libc::c_int = 46;
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// What mode to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeRequest {
    /// Zero-copy, and copy mode if the driver refuses: see [`XskPort::mode`].
    #[default]
    Auto,
    /// Zero-copy or an error.
    ZeroCopy,
    /// Copy mode.
    Copy,
}

/// What mode a socket is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The NIC reads and writes the packet memory itself.
    ZeroCopy,
    /// The kernel copies each packet.
    Copy,
}

/// NAPI busy polling: the socket's system calls drive the NIC's queue, instead of interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// SO_BUSY_POLL: how long a system call polls, in microseconds.
    pub microseconds: u32,
    /// SO_BUSY_POLL_BUDGET: packets per poll.
    pub budget: u16,
}

/// How to open an [`XskPort`].
pub struct XskConfig<'a> {
    /// Interface, in the calling thread's network namespace.
    pub ifindex: u32,
    /// Receive (and transmit) queue of it.
    pub queue: u32,
    /// Packet memory.
    pub umem: Arc<Umem>,
    /// Sizes of the four rings.
    pub rings: RingSizes,
    /// Ignored with `shared_with`: the mode is then the other socket's.
    pub mode: ModeRequest,
    /// Optional busy polling.
    pub busy_poll: Option<BusyPoll>,
    /// SO_SNDBUF in bytes: limits what is under way in copy mode. The system's default of 212992 is
    /// too small for a full ring.
    pub send_buffer: u32,
    /// A socket that has registered the same memory. It may be on another device, and in another
    /// network namespace.
    pub shared_with: Option<&'a XskPort>,
}

impl<'a> XskConfig<'a> {
    /// Everything else at its default: rings of 2048, mode auto, no busy polling.
    pub fn new(ifindex: u32, queue: u32, umem: &Arc<Umem>) -> Self {
        Self {
            ifindex,
            queue,
            umem: umem.clone(),
            rings: RingSizes::default(),
            mode: ModeRequest::Auto,
            busy_poll: None,
            send_buffer: 16 << 20,
            shared_with: None,
        }
    }

    /// Shares the memory that `port` has registered.
    #[must_use]
    pub fn shared_with(mut self, port: &'a XskPort) -> Self {
        self.shared_with = Some(port);
        self
    }
}

/// Counters of the kernel (XDP_STATISTICS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelStats {
    /// Packets dropped for other reasons, such as being longer than a frame.
    pub rx_dropped: u64,
    /// Invalid addresses in the fill ring.
    pub rx_invalid_descs: u64,
    /// Invalid descriptors in the TX ring.
    pub tx_invalid_descs: u64,
    /// Packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Packets dropped because no frame was posted.
    pub rx_fill_ring_empty: u64,
    /// How often the TX ring was found empty.
    pub tx_ring_empty: u64,
}

/// An AF_XDP socket bound to one queue of one interface.
///
/// Frames that the kernel has when the port is dropped are lost to the memory's pools: they may be
/// on the wire still.
pub struct XskPort {
    rings: Rings,
    socket: OwnedFd,
    mode: Mode,
    busy_poll: bool,
}

impl XskPort {
    /// Opens a socket, registers or shares the memory, makes the rings and binds.
    ///
    /// Nothing is received before its descriptor is in the XSKMAP of the interface's XDP program
    /// and frames were posted by [`Port::refill`]. For zero-copy many drivers want the program
    /// attached first.
    pub fn open(config: &XskConfig<'_>) -> Result<Self, XskError> {
        let _ = (config, Step::Create, BUSY_RETRIES, BUSY_PAUSE);
        Err(XskError::SharedMemory)
    }

    /// What [`XskConfig::mode`] led to.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The socket, for the XSKMAP.
    pub fn socket_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Port for XskPort {
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
        Some(self.socket.as_fd())
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
