use crate::error::{SocketError, Step, XskError};
use crate::frame::Frame;
use crate::pool::FramePool;
use crate::port::{Port, PortFrames, PortStats, RingSizes, Rings};
use crate::sys;
use crate::umem::Umem;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

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
    /// Packets that one system call sends in copy mode, if the kernel lets us choose (6.17); else 32.
    pub tx_budget: u32,
    /// SO_SNDBUF in bytes: limits what is under way in copy mode. The system's default of 212992 is
    /// too small for a full ring.
    pub send_buffer: u32,
    /// A socket with the same memory, on another device or queue; its network namespace may be
    /// another one, too.
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
            tx_budget: 128,
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
        let XskConfig {
            ifindex,
            queue,
            umem,
            rings: sizes,
            shared_with,
            ..
        } = config;
        sizes.check()?;
        if shared_with.is_some_and(|port| !Arc::ptr_eq(port.umem(), umem)) {
            return Err(XskError::SharedMemory);
        }
        let failed = |step| {
            move |source| SocketError {
                interface: sys::name_of(*ifindex),
                queue: *queue,
                step,
                source,
            }
        };

        let socket = sys::create().map_err(failed(Step::Create))?;
        sys::raise_send_buffer(&socket, config.send_buffer);
        if shared_with.is_none() {
            sys::set(
                &socket,
                libc::SOL_XDP,
                libc::XDP_UMEM_REG,
                &umem.registration(),
            )
            .map_err(failed(Step::RegisterMemory))?;
        }
        for (ring, size) in [
            (libc::XDP_UMEM_FILL_RING, sizes.fill),
            (libc::XDP_UMEM_COMPLETION_RING, sizes.completion),
            (libc::XDP_RX_RING, sizes.rx),
            (libc::XDP_TX_RING, sizes.tx),
        ] {
            sys::set(&socket, libc::SOL_XDP, ring, &size).map_err(failed(Step::CreateRing))?;
        }
        // Without it the kernel sends 32 at a time, and `kick` goes on until all is sent.
        let _ = sys::set_tx_budget(&socket, config.tx_budget.clamp(32, sizes.tx));
        let rings = sys::map_rings(&socket, *sizes, umem).map_err(failed(Step::MapRing))?;
        if let Some(busy_poll) = config.busy_poll {
            sys::set_busy_poll(&socket, busy_poll).map_err(failed(Step::BusyPoll))?;
        }

        let (step, flags) = match (shared_with, config.mode) {
            // A shared bind takes no flags of its own, it has those of the first.
            (Some(port), _) => (Step::BindShared(port.mode), libc::XDP_SHARED_UMEM),
            (None, mode) => {
                let mode = match mode {
                    // Neither flag: the kernel tries zero-copy and falls back by itself.
                    ModeRequest::Auto => 0,
                    ModeRequest::ZeroCopy => libc::XDP_ZEROCOPY,
                    ModeRequest::Copy => libc::XDP_COPY,
                };
                (Step::Bind, mode | libc::XDP_USE_NEED_WAKEUP)
            }
        };
        sys::bind(
            &socket,
            *ifindex,
            *queue,
            flags,
            shared_with.map(XskPort::socket_fd),
        )
        .map_err(failed(step))?;
        let options: libc::xdp_options =
            sys::get(&socket, libc::XDP_OPTIONS).map_err(failed(Step::ReadMode))?;
        let zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        let mode = if zero_copy {
            Mode::ZeroCopy
        } else {
            Mode::Copy
        };
        Ok(Self {
            rings,
            socket,
            mode,
            busy_poll: config.busy_poll.is_some(),
        })
    }

    /// What [`XskConfig::mode`] led to.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The socket, for the XSKMAP.
    pub fn socket_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn wake(&mut self, wake: fn(&OwnedFd) -> io::Result<()>) -> io::Result<()> {
        let result = wake(&self.socket);
        let stats = &mut self.rings.stats;
        stats.kicks += 1;
        let Err(error) = result else { return Ok(()) };
        match error.raw_os_error() {
            // Out of budget, of send buffer or of memory, or the device's queue is full.
            Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) => {}
            // In copy mode: the device dropped a packet, its frame comes back as if sent.
            Some(libc::EBUSY) if self.mode == Mode::Copy => stats.tx_dropped += 1,
            Some(libc::EBUSY) => {}
            _ => return Err(error),
        }
        stats.kicks_refused += 1;
        Ok(())
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
        let mut pending = self.rings.tx_pending();
        match self.mode {
            Mode::ZeroCopy => {
                if pending > 0 && (self.busy_poll || self.rings.tx.needs_wakeup()) {
                    self.wake(sys::wake_tx)?;
                } else if self.busy_poll || self.rings.fill_needs_wakeup() {
                    self.wake(sys::wake_rx)?;
                }
            }
            Mode::Copy if pending == 0 && self.busy_poll => {
                self.wake(sys::wake_rx)?;
            }
            // The flag is always set for TX in copy mode, and never for RX.
            Mode::Copy => {
                while pending > 0 {
                    self.wake(sys::wake_tx)?;
                    let left = self.rings.tx_pending();
                    if left == pending {
                        break;
                    }
                    pending = left;
                }
            }
        }
        Ok(())
    }

    fn tx_pending(&self) -> usize {
        self.rings.tx_pending()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn stats(&self) -> PortStats {
        let kernel = sys::get::<libc::xdp_statistics>(&self.socket, libc::XDP_STATISTICS);
        let kernel = kernel.map_or_else(|_| KernelStats::default(), KernelStats::from);
        PortStats {
            kernel,
            ..self.rings.stats
        }
    }

    fn frames(&self) -> PortFrames {
        self.rings.frames()
    }

    fn umem(&self) -> &Arc<Umem> {
        self.rings.umem()
    }
}

impl From<libc::xdp_statistics> for KernelStats {
    fn from(stats: libc::xdp_statistics) -> Self {
        Self {
            rx_dropped: stats.rx_dropped,
            rx_invalid_descs: stats.rx_invalid_descs,
            tx_invalid_descs: stats.tx_invalid_descs,
            rx_ring_full: stats.rx_ring_full,
            rx_fill_ring_empty: stats.rx_fill_ring_empty_descs,
            tx_ring_empty: stats.tx_ring_empty_descs,
        }
    }
}
