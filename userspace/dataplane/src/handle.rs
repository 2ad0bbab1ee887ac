//! The two threads' common ground: rings, wake-ups, counters; and the control thread's handle.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam::queue::ArrayQueue;
use mitregate_xsk::{Port, PortStats};
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    buf::{ControlBuf, ControlBufs},
    command::Command,
    event::{Event, Stopped},
    fate::Fates,
    worker::{Census, PortSet, Worker, WorkerConfig},
};

/// What only the worker knows, as it last told it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vitals {
    /// Where its frames are.
    pub frames: Census,
    /// Packets copied because the ports share no UMEM.
    pub copied: u64,
    /// The outer port's counters.
    pub outer: PortStats,
    /// The inner port's counters.
    pub inner: PortStats,
}

/// What both threads hold.
pub(crate) struct Common {
    commands: ArrayQueue<Command>,
    events: Arc<ArrayQueue<Event>>,
    bufs: ControlBufs,
    fates: Arc<Fates>,
    /// Readable while events wait.
    event_fd: OwnedFd,
    /// Ends the worker's sleep.
    wake_fd: OwnedFd,
    sleeping: AtomicBool,
    stopping: AtomicBool,
    /// Set when somebody wants fresh vitals.
    asked: AtomicBool,
    vitals: Mutex<Vitals>,
    published: AtomicU64,
    ended: Mutex<Option<Stopped>>,
}

impl Common {
    pub(crate) fn new(config: &WorkerConfig) -> io::Result<Arc<Self>> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        Ok(Arc::new(Self {
            commands: ArrayQueue::new(config.ring.max(1)),
            events: Arc::new(ArrayQueue::new(config.ring.max(1))),
            bufs: ControlBufs::new(config.control_bufs),
            fates: Arc::default(),
            event_fd: eventfd(0, flags)?,
            wake_fd: eventfd(0, flags)?,
            sleeping: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            vitals: Mutex::default(),
            published: AtomicU64::new(0),
            ended: Mutex::default(),
        }))
    }

    pub(crate) fn events(&self) -> &Arc<ArrayQueue<Event>> {
        &self.events
    }

    pub(crate) fn bufs(&self) -> &ControlBufs {
        &self.bufs
    }

    pub(crate) fn fates(&self) -> &Arc<Fates> {
        &self.fates
    }

    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake_fd.as_fd()
    }

    pub(crate) fn next_command(&self) -> Option<Command> {
        self.commands.pop()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Whether the worker has something to look at before it sleeps.
    pub(crate) fn is_quiet(&self) -> bool {
        self.commands.is_empty() && !self.is_stopping() && !self.asked.load(Ordering::Relaxed)
    }

    /// Sequentially consistent, as the push of a command and the look at this flag on the other
    /// side are: one of the two threads sees what the other did.
    pub(crate) fn set_sleeping(&self, sleeping: bool) {
        self.sleeping.store(sleeping, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        if !sleeping {
            drain(&self.wake_fd);
        }
    }

    fn wake_worker(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) {
            raise(&self.wake_fd);
        }
    }

    pub(crate) fn wake_control(&self) {
        raise(&self.event_fd);
    }

    /// Whether the control thread asked for vitals since the last call.
    pub(crate) fn take_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn publish(&self, vitals: Vitals) {
        // Never waits: whoever reads has it for a few nanoseconds, and the next one is as good.
        if let Ok(mut published) = self.vitals.try_lock() {
            *published = vitals;
            self.published.fetch_add(1, Ordering::Release);
        }
    }

    fn end(&self, reason: Stopped) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.wake_control();
    }
}

/// The counter of an eventfd is far from its limit, so this neither blocks nor fails.
fn raise(fd: &OwnedFd) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

fn drain(fd: &OwnedFd) {
    let _ = rustix::io::read(fd, &mut [0; 8]);
}

/// The control thread's hold on a worker. Dropping it stops the worker and waits for its end.
pub struct WorkerHandle {
    common: Arc<Common>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Hands over a command and wakes the worker; gives it back if the ring is full.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        self.common.commands.push(command)?;
        self.common.wake_worker();
        Ok(())
    }

    /// An empty buffer for a control packet; `None` while all are in use.
    pub fn buffer(&self) -> Option<ControlBuf> {
        self.common.bufs.take()
    }

    /// The next event, if any. Not blocking.
    pub fn poll_event(&self) -> Option<Event> {
        if let Some(event) = self.common.events.pop() {
            return Some(event);
        }
        let mut ended = self
            .common
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // The worker pushes nothing after it has ended, so look once more for what came before.
        match (ended.is_some(), self.common.events.pop()) {
            (_, Some(event)) => Some(event),
            (true, None) => ended.take().map(|reason| Event::Stopped { reason }),
            (false, None) => None,
        }
    }

    /// Becomes readable when events are waiting. After each wake-up call
    /// [`WorkerHandle::acknowledge`] first, then poll events until there are none.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.common.event_fd.as_fd()
    }

    /// Takes back the event fd's readiness.
    pub fn acknowledge(&self) {
        drain(&self.common.event_fd);
    }

    /// The worker's counters, live.
    pub fn fates(&self) -> &Arc<Fates> {
        &self.common.fates
    }

    /// Asks the worker for its vitals and waits at most 20 ms for them; older ones after that.
    #[expect(clippy::disallowed_methods, reason = "the handle is the shell's")]
    pub fn vitals(&self) -> Vitals {
        let before = self.common.published.load(Ordering::Acquire);
        self.common.asked.store(true, Ordering::Relaxed);
        self.common.wake_worker();
        for _ in 0..100 {
            if !self.is_running() || self.common.published.load(Ordering::Acquire) != before {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        *self
            .common
            .vitals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its thread runs.
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Asks it to end; [`Event::Stopped`] follows. What it still holds ends as a counted fate.
    pub fn stop(&self) {
        self.common.stopping.store(true, Ordering::SeqCst);
        raise(&self.common.wake_fd);
    }

    /// As [`WorkerHandle::stop`], and waits for the end. The handle stays, for the last events,
    /// counters and vitals.
    pub fn join(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // It catches its own panics; what it has to say comes as an event.
            let _ = thread.join();
        }
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.join();
    }
}

/// A worker without a thread: the caller drives its rounds, and its events and commands go through
/// the handle as ever. For tests and benches.
pub fn unattended<O, I>(
    config: &WorkerConfig,
    ports: PortSet<O, I>,
) -> io::Result<(Worker<O, I>, WorkerHandle)>
where
    O: Port,
    I: Port,
{
    let common = Common::new(config)?;
    let worker = Worker::new(config, ports, Arc::clone(&common));
    Ok((
        worker,
        WorkerHandle {
            common,
            thread: None,
        },
    ))
}

/// Starts a worker on these ports, in a thread of its own.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where a worker gets its thread"
)]
pub fn spawn<O, I>(config: &WorkerConfig, ports: PortSet<O, I>) -> io::Result<WorkerHandle>
where
    O: Port + Send + 'static,
    I: Port + Send + 'static,
{
    let common = Common::new(config)?;
    let worker = Worker::new(config, ports, Arc::clone(&common));
    let (core, name) = (config.core, format!("mg-worker-{}", config.id));
    let shared = Arc::clone(&common);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        if let Some(core) = core {
            pin(core);
        }
        // The ports go down with the worker in any case: a socket that nobody serves would make
        // the kernel drop what it could pass, and half a worker is worse than none.
        let ended = catch_unwind(AssertUnwindSafe(move || {
            let mut worker = worker;
            let reason = worker.run();
            worker.finish();
            reason
        }));
        shared.end(ended.unwrap_or(Stopped::Panicked));
    })?;
    Ok(WorkerHandle {
        common,
        thread: Some(thread),
    })
}

/// Without a pinned core the worker works as well, if slower: not an error.
fn pin(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cores) {
        tracing::warn!(core, %error, "worker not pinned: check `core` against the machine's CPUs");
    }
}
