use crate::socket::Mode;
use std::fmt;
use std::io;

/// Why memory, a pool or a socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// AF_XDP's aligned mode wants a power of two from 2048 to the page size.
    #[error("frame size {0}: must be 2048 or 4096 bytes")]
    FrameSize(u32),
    /// Nothing would be left for the packet.
    #[error(
        "headroom of {headroom} bytes leaves no room in a frame of {frame_size} (the kernel adds 256)"
    )]
    Headroom {
        /// Bytes asked for.
        headroom: u32,
        /// Bytes per frame.
        frame_size: u32,
    },
    /// A UMEM of zero frames.
    #[error("packet memory needs at least one frame")]
    NoFrames,
    /// mmap refused.
    #[error("cannot map {bytes} bytes of packet memory: {source}; ask for fewer frames")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// What mmap said.
        source: io::Error,
    },
    /// The pools before have taken the frames.
    #[error("a pool asks for {asked} frames, but only {left} are left in the packet memory")]
    FramesTaken {
        /// Frames asked for.
        asked: u32,
        /// Frames no pool has had yet.
        left: u32,
    },
    /// A pool without frames for data.
    #[error("a control reserve of {reserve} frames leaves none of {frames} for data")]
    Reserve {
        /// Frames kept for control packets.
        reserve: u32,
        /// Frames in all.
        frames: u32,
    },
    /// The kernel masks indices.
    #[error("{ring} ring of {size} entries: must be a power of two from 32 to 65536")]
    RingSize {
        /// "fill", "completion", "rx" or "tx".
        ring: &'static str,
        /// Entries asked for.
        size: u32,
    },
    /// A socket can only share the memory that the other has.
    #[error("the socket to share with has another packet memory")]
    SharedMemory,
    /// A step of opening a socket failed.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl XskError {
    /// True if the device cannot work in the zero-copy mode that the shared memory has (a veth beside
    /// a NIC, for example): give this port a memory of its own, and copy between the two.
    pub fn is_mode_mismatch(&self) -> bool {
        matches!(self, Self::Socket(error) if error.step == Step::BindShared(Mode::ZeroCopy)
            && !matches!(error.source.raw_os_error(), Some(libc::EBUSY | libc::ENODEV)))
    }
}

/// The system call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `socket(AF_XDP)`.
    Create,
    /// XDP_UMEM_REG.
    RegisterMemory,
    /// XDP_RX_RING, XDP_TX_RING, XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING.
    CreateRing,
    /// XDP_MMAP_OFFSETS and mmap.
    MapRing,
    /// SO_PREFER_BUSY_POLL, SO_BUSY_POLL, SO_BUSY_POLL_BUDGET.
    BusyPoll,
    /// `bind` with a memory of its own.
    Bind,
    /// `bind` with XDP_SHARED_UMEM, to a memory in this mode.
    BindShared(Mode),
    /// XDP_OPTIONS.
    ReadMode,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create the socket",
            Self::RegisterMemory => "register the packet memory",
            Self::CreateRing => "create a ring",
            Self::MapRing => "map a ring",
            Self::BusyPoll => "set busy polling",
            Self::Bind => "bind",
            Self::BindShared(Mode::Copy) => "bind with shared packet memory",
            Self::BindShared(Mode::ZeroCopy) => "bind with shared packet memory in zero-copy mode",
            Self::ReadMode => "read the mode",
        })
    }
}

/// A socket could not be opened: where, at which step, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("AF_XDP on {interface}, queue {queue}: cannot {step}: {source}{}", advice(*.step, .source))]
pub struct SocketError {
    /// Name of the interface, or its index if it has none.
    pub interface: String,
    /// Receive queue.
    pub queue: u32,
    /// What failed.
    pub step: Step,
    /// What the kernel said.
    pub source: io::Error,
}

fn advice(step: Step, source: &io::Error) -> &'static str {
    match (step, source.raw_os_error().unwrap_or(0)) {
        (Step::BusyPoll, libc::EPERM) => "; needs CAP_NET_ADMIN, or leave busy polling off",
        (_, libc::EPERM | libc::EACCES) => {
            "; needs CAP_NET_RAW (root, or AmbientCapabilities= in the unit), and no seccomp or LSM \
             rule against AF_XDP"
        }
        (Step::Create, libc::EAFNOSUPPORT) => "; the kernel is built without CONFIG_XDP_SOCKETS",
        // The kernel answers a memlock limit with ENOBUFS, and a failed pin with ENOMEM.
        (Step::RegisterMemory, libc::ENOBUFS | libc::ENOMEM) => {
            "; raise the memory lock limit (ulimit -l, LimitMEMLOCK=), give CAP_IPC_LOCK, or ask \
             for fewer frames"
        }
        (_, libc::ENOMEM | libc::ENOBUFS) => "; the kernel lacks memory: make the rings smaller",
        (Step::Bind | Step::BindShared(_), libc::EBUSY) => {
            "; another AF_XDP socket has this queue: stop the program that holds it \
             (`ss --xdp -p` shows it) or choose another queue"
        }
        (_, libc::ENODEV) => "; this thread's network namespace has no such interface",
        (Step::Bind | Step::BindShared(_), libc::EINVAL) => {
            "; the interface has no such queue (`ethtool -l` shows how many)"
        }
        (Step::Bind, libc::EOPNOTSUPP) => {
            "; the driver has no zero-copy: ask for mode auto or copy"
        }
        (Step::BindShared(_), libc::EOPNOTSUPP) => {
            "; the driver has no zero-copy: give it a packet memory of its own"
        }
        (_, libc::ENETDOWN) => "; set the interface up first",
        (Step::BusyPoll, libc::ENOPROTOOPT) => {
            "; the kernel (before 5.11) does not know it: leave busy polling off"
        }
        _ => "",
    }
}
