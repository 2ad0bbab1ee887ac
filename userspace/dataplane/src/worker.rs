//! The worker: the loop around a [`Pipeline`] and its two ports.

use std::{io, sync::Arc, time::Duration};

use mitregate_esp::WorkerId;
use mitregate_xsk::{Frame, Port};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    event::Stopped,
    frames::Memory,
    handle::{Common, Vitals},
    pipeline::{EventSink, InnerLink, MAX_BURST, Pipeline, PipelineConfig},
};

/// Commands applied between two bursts.
const COMMANDS_PER_ROUND: usize = 32;

/// Bursts taken from the outer port for one from the inner port. When there is more to do than time for it,
/// packets of the host wait, and are lost, rather than those of the peers: these have been sealed and
/// carried already, and pings and IKE are among them.
const OUTER_BURSTS: usize = 8;

/// How soon a worker looks again when something waits that no file descriptor tells of: a full
/// transmit ring, frames that have not come back, a port without a descriptor.
const RETRY: Duration = Duration::from_millis(1);

/// How often a worker under load tells its vitals unasked.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// One queue pair, and its frames.
pub struct PortSet<O: Port, I: Port> {
    /// Towards the peers.
    pub outer: O,
    /// Towards the host or the protected network.
    pub inner: I,
    /// Their frames.
    pub memory: Memory,
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
    /// Frames per burst, 1 to 64.
    pub burst: usize,
    /// How long it spins without work before it sleeps.
    pub spin: Duration,
    /// Tunnels to have room for.
    pub max_tunnels: usize,
    /// Epochs to have room for.
    pub max_epochs: usize,
    /// Frames that all tunnels together may hold; at most a quarter of those that a port's pool
    /// begins with are used, whatever this says.
    pub max_held: usize,
    /// Slots of the command ring and of the event ring.
    pub ring: usize,
    /// Buffers for control packets, both ways together.
    pub control_bufs: usize,
    /// ESP next headers, beside IP, that the control plane wants to see.
    pub control_next_headers: Vec<u8>,
    /// The inner link.
    pub inner: InnerLink,
    /// Whether the MSS of TCP connections is lowered to what the tunnel carries.
    pub mss_clamp: bool,
    /// The clock, which must be the control thread's too: [`boottime`].
    pub clock: fn() -> Duration,
}

impl WorkerConfig {
    /// The only worker, for this inner link: 1024 tunnels, 4096 epochs, 1024 held frames, spinning
    /// for 20 µs, with ESP Echo for the control plane and the MSS clamp.
    pub fn new(inner: InnerLink) -> Self {
        Self {
            id: WorkerId(0),
            workers: 1,
            core: None,
            burst: MAX_BURST,
            spin: Duration::from_micros(20),
            max_tunnels: 1024,
            max_epochs: 4096,
            max_held: 1024,
            ring: 1024,
            control_bufs: 512,
            control_next_headers: vec![mitregate_wire::ip::protocol::AGGFRAG],
            inner,
            mss_clamp: true,
            clock: boottime,
        }
    }
}

/// CLOCK_BOOTTIME: goes on while the machine sleeps.
pub fn boottime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Where a worker's frames are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// In the pools.
    pub free: usize,
    /// With the ports, to receive into or to be sent.
    pub ports: usize,
    /// Held by tunnels.
    pub held: usize,
    /// Waiting for a transmit ring.
    pub backlog: usize,
}

impl Census {
    /// All of them: what the pools began with, at any time between two rounds.
    pub fn total(&self) -> usize {
        self.free + self.ports + self.held + self.backlog
    }
}

/// A pipeline with its ports. [`spawn`](crate::spawn) gives it a thread; a test or a bench may
/// drive it by itself, one [`round`](Worker::round) at a time.
pub struct Worker<O: Port, I: Port> {
    outer: O,
    inner: I,
    pipeline: Pipeline,
    shared: Arc<Common>,
    batch: Vec<Frame>,
    burst: usize,
    spin: Duration,
    clock: fn() -> Duration,
    next_publish: Duration,
}

impl<O: Port, I: Port> Worker<O, I> {
    pub(crate) fn new(config: &WorkerConfig, ports: PortSet<O, I>, shared: Arc<Common>) -> Self {
        let quarter = match &ports.memory {
            Memory::Shared(pool) => pool.issued() / 4,
            Memory::Split { inner, .. } => inner.issued() / 4,
        };
        let pipeline_config = PipelineConfig {
            worker: config.id,
            workers: config.workers,
            max_tunnels: config.max_tunnels,
            max_epochs: config.max_epochs,
            max_held: config.max_held.min(quarter as usize),
            control_next_headers: config.control_next_headers.clone(),
            inner: config.inner,
            mss_clamp: config.mss_clamp,
        };
        let sink = EventSink {
            ring: Arc::clone(shared.events()),
            bufs: shared.bufs().clone(),
            fates: Arc::clone(shared.fates()),
        };
        let mut pipeline = Pipeline::new(pipeline_config, ports.memory, sink);
        let (mut outer, mut inner) = (ports.outer, ports.inner);
        pipeline.refill(&mut outer, &mut inner);
        Self {
            outer,
            inner,
            pipeline,
            shared,
            batch: Vec::with_capacity(MAX_BURST),
            burst: config.burst.clamp(1, MAX_BURST),
            spin: config.spin,
            clock: config.clock,
            next_publish: Duration::ZERO,
        }
    }

    /// A burst from the inner port, up to [`OUTER_BURSTS`] from the outer one, what follows from them, and the commands that wait. Returns how much
    /// there was to do.
    #[inline]
    pub fn round(&mut self, now: Duration) -> io::Result<usize> {
        self.pipeline.reclaim(&mut self.outer, &mut self.inner);
        let mut work = 0;
        for _ in 0..OUTER_BURSTS {
            let received = self.outer.rx(&mut self.batch, self.burst);
            if received > 0 {
                work += received;
                self.pipeline.outer_batch(now, &mut self.batch);
                self.pipeline.refill_outer(&mut self.outer);
            }
            if received < self.burst {
                break;
            }
            // Not all at once: a veth drops in silence what its ring of 256 cannot take.
            work += self.transmit()?;
        }
        let received = self.inner.rx(&mut self.batch, self.burst);
        // Between the two: a packet that came after a command meets what the command has changed.
        work += self.commands(now);
        if received > 0 {
            work += received;
            self.pipeline.inner_batch(now, &mut self.batch);
        }
        work += self.transmit()?;
        self.pipeline.refill(&mut self.outer, &mut self.inner);
        if self.pipeline.take_raised() {
            self.shared.wake_control();
        }
        Ok(work)
    }

    fn commands(&mut self, now: Duration) -> usize {
        let mut applied = 0;
        while applied < COMMANDS_PER_ROUND && self.pipeline.takes_commands() {
            let Some(command) = self.shared.next_command() else {
                break;
            };
            self.pipeline.apply(now, command);
            applied += 1;
        }
        applied
    }

    #[inline]
    fn transmit(&mut self) -> io::Result<usize> {
        let sent = self.pipeline.transmit(&mut self.outer, &mut self.inner);
        tolerate(self.outer.kick())?;
        tolerate(self.inner.kick())?;
        Ok(sent)
    }

    /// Rounds until asked to stop.
    pub(crate) fn run(&mut self) -> Stopped {
        let mut idle_since = None;
        loop {
            if self.shared.is_stopping() {
                return Stopped::Requested;
            }
            let now = (self.clock)();
            let worked = self.round(now);
            if self.shared.take_asked() || now >= self.next_publish {
                self.publish();
                self.next_publish = now + PUBLISH_INTERVAL;
            }
            match worked {
                Err(error) => return Stopped::Port(error.kind()),
                Ok(0) if now.saturating_sub(*idle_since.get_or_insert(now)) >= self.spin => {
                    if let Err(error) = self.sleep() {
                        return Stopped::Port(error.kind());
                    }
                    idle_since = None;
                }
                Ok(0) => std::hint::spin_loop(),
                Ok(_) => idle_since = None,
            }
        }
    }

    /// Waits in poll for a packet or a command; with nothing outstanding, for as long as it takes.
    fn sleep(&mut self) -> io::Result<()> {
        // The control thread looks at this flag after it has pushed a command, and we look for
        // commands after we have set it: one of the two sees the other.
        self.shared.set_sleeping(true);
        let result = if self.shared.is_quiet() {
            self.poll()
        } else {
            Ok(())
        };
        self.shared.set_sleeping(false);
        result
    }

    fn poll(&self) -> io::Result<()> {
        let (outer, inner) = (self.outer.fd(), self.inner.fd());
        let outstanding = self.pipeline.backlog() > 0
            || self.pipeline.has_pending_events()
            || self.pipeline.short_of_frames()
            || self.outer.tx_pending() + self.inner.tx_pending() > 0;
        let look_again = outstanding || outer.is_none() || inner.is_none();
        let timeout = look_again
            .then_some(RETRY)
            .and_then(|d| Timespec::try_from(d).ok());
        let wake = self.shared.wake_fd();
        let entry = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = [
            entry(wake),
            entry(outer.unwrap_or(wake)),
            entry(inner.unwrap_or(wake)),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the handle what only the worker knows; a worker with a thread does so by itself.
    pub fn publish(&self) {
        self.shared.publish(Vitals {
            frames: self.census(),
            copied: self.pipeline.copied(),
            outer: self.outer.stats(),
            inner: self.inner.stats(),
        });
    }

    /// Where the frames are. Exact between two rounds.
    pub fn census(&self) -> Census {
        let ports = [self.outer.frames(), self.inner.frames()];
        Census {
            free: self.pipeline.free_frames(),
            ports: ports
                .iter()
                .map(|port| port.receiving() + port.sending())
                .sum(),
            held: self.pipeline.held(),
            backlog: self.pipeline.backlog(),
        }
    }

    /// Ends what is under way and says where the frames are.
    pub(crate) fn finish(&mut self) {
        // What is already sealed, and the last control packets, still go out if there is room.
        let _ = self.transmit();
        self.pipeline.close();
        self.publish();
    }
}

/// An interface that is down comes up again; what waits for it waits.
fn tolerate(kicked: io::Result<()>) -> io::Result<()> {
    match kicked {
        Err(error) if error.kind() == io::ErrorKind::NetworkDown => Ok(()),
        other => other,
    }
}
