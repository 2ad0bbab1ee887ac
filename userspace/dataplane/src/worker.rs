//! The worker thread, and the handle that the control thread holds on it.

use std::{os::fd::BorrowedFd, sync::Arc, time::Duration};

use mitregate_esp::ids::WorkerId;
use mitregate_wire::MacAddr;
use mitregate_xsk::{FramePool, Port, Umem};

use crate::{buf::ControlBuf, command::Command, event::Event, fate::Fates};

/// Where frames live.
pub enum Memory {
    /// Both ports on one UMEM: frames move between them without a copy.
    Shared {
        /// The packet memory of both.
        umem: Umem,
        /// This worker's free frames.
        pool: FramePool,
    },
    /// Ports whose modes do not match: a frame is copied, and counted, on its way across.
    Split {
        /// The outer port's packet memory.
        outer: Umem,
        /// Free frames in it.
        outer_pool: FramePool,
        /// The inner port's packet memory.
        inner: Umem,
        /// Free frames in it.
        inner_pool: FramePool,
    },
}

/// One queue pair, and its frames.
pub struct PortSet<O: Port, I: Port> {
    /// Towards the peers.
    pub outer: O,
    /// Towards the host or the protected network.
    pub inner: I,
    /// Their frames.
    pub memory: Memory,
}

/// The Ethernet link behind the inner port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerLink {
    /// Source of the frames that the worker sends: our end.
    pub src_mac: MacAddr,
    /// Their destination: the host's end, or the next hop.
    pub dst_mac: MacAddr,
    /// Bytes of the largest IP packet that it takes.
    pub mtu: u16,
    /// Who forwards.
    pub hop: Hop,
}

/// Whether crossing the worker is a hop of its own (RFC 4301 §5.1.2.1, RFC 2003 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hop {
    /// The host's kernel is behind the inner port and forwards, or not: it decrements the TTL of
    /// what it forwards and leaves its own packets alone, which is what the RFCs ask of the
    /// tunnel's ends. The worker changes no TTL.
    #[default]
    Host,
    /// The inner port is a NIC: the worker itself forwards, and decrements on both ways.
    Forward,
}

/// Sizes and habits of a worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Which one: inbound SPIs of its SAs carry this in their top byte.
    pub id: WorkerId,
    /// How many there are.
    pub workers: u8,
    /// CPU to pin it to.
    pub core: Option<usize>,
    /// Frames per burst, at most 64.
    pub burst: usize,
    /// How long it spins without work before it sleeps.
    pub spin: Duration,
    /// Tunnels to have room for.
    pub max_tunnels: usize,
    /// Epochs to have room for.
    pub max_epochs: usize,
    /// Frames that all tunnels together may hold.
    pub max_held: usize,
    /// Slots of the command ring and of the event ring.
    pub ring: usize,
    /// Buffers for control packets, both ways together.
    pub control_bufs: usize,
    /// ESP next headers, beside IP, that the control plane wants to see.
    pub control_next_headers: Vec<u8>,
    /// The inner link.
    pub inner: InnerLink,
    /// The clock, which must be the control thread's too: CLOCK_BOOTTIME.
    pub clock: fn() -> Duration,
}

/// The control thread's hold on a worker. Dropping it stops the worker.
pub struct WorkerHandle {
    fates: Arc<Fates>,
}

impl WorkerHandle {
    /// Hands over a command and wakes the worker; gives it back if the ring is full.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        Err(command)
    }

    /// An empty buffer for a control packet; `None` while all are in use.
    pub fn buffer(&self) -> Option<ControlBuf> {
        None
    }

    /// The next event, if any. Not blocking.
    pub fn poll_event(&self) -> Option<Event> {
        None
    }

    /// Becomes readable when events are waiting. After each wake-up, [`WorkerHandle::acknowledge`]
    /// first, then poll events until there are none.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        unreachable!()
    }

    /// Takes back the event fd's readiness.
    pub fn acknowledge(&self) {}

    /// The worker's counters, live.
    pub fn fates(&self) -> &Arc<Fates> {
        &self.fates
    }

    /// Whether its thread runs.
    pub fn is_running(&self) -> bool {
        false
    }

    /// Asks it to end; [`Event::Stopped`] follows.
    pub fn stop(&self) {}
}

/// Starts a worker on these ports.
pub fn spawn<O, I>(_config: &WorkerConfig, _ports: PortSet<O, I>) -> std::io::Result<WorkerHandle>
where
    O: Port + Send + 'static,
    I: Port + Send + 'static,
{
    Ok(WorkerHandle {
        fates: Arc::default(),
    })
}
