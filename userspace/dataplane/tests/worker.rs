//! The worker in a thread of its own: wake-ups, hold and flush, sleep, panics and frame accounting.

#![allow(clippy::disallowed_methods, reason = "real threads take real time")]

#[macro_use]
mod common;

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use common::*;
use mitregate_dataplane::{
    Command, Epoch, Event, Fate, PortSet, Stopped, Tunnel, WorkerHandle, spawn,
};
use mitregate_esp::{CipherSuite, EpochId, Provider, TunnelId};
use mitregate_xsk::{Frame, FramePool, MemoryPeer, MemoryPort, Port, PortFrames, PortStats, Umem};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

const PATIENCE: Duration = Duration::from_secs(20);

/// A memory port that can be polled, counts its rounds, and fails on demand.
struct Watched {
    port: MemoryPort,
    fd: OwnedFd,
    switch: Arc<Switch>,
}

#[derive(Default)]
struct Switch {
    rounds: AtomicU64,
    panic: AtomicBool,
    gone: AtomicBool,
}

impl Port for Watched {
    fn rx(&mut self, out: &mut Vec<Frame>, max: usize) -> usize {
        self.switch.rounds.fetch_add(1, SeqCst);
        assert!(!self.switch.panic.load(SeqCst), "as the test wants it");
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.port.rx(out, max)
    }
    fn tx(&mut self, frames: &mut VecDeque<Frame>) -> usize {
        self.port.tx(frames)
    }
    fn refill(&mut self, pool: &mut FramePool) {
        self.port.refill(pool);
    }
    fn reclaim(&mut self, pool: &mut FramePool) -> usize {
        self.port.reclaim(pool)
    }
    fn kick(&mut self) -> io::Result<()> {
        let gone = self.switch.gone.load(SeqCst);
        if gone {
            Err(io::Error::from_raw_os_error(6))
        } else {
            Ok(())
        }
    }
    fn tx_pending(&self) -> usize {
        0
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
    fn stats(&self) -> PortStats {
        self.port.stats()
    }
    fn frames(&self) -> PortFrames {
        self.port.frames()
    }
    fn umem(&self) -> &Arc<Umem> {
        self.port.umem()
    }
}

/// A worker in a thread, and the other ends of all that it has.
struct Site {
    handle: WorkerHandle,
    outer: MemoryPeer,
    inner: MemoryPeer,
    outer_fd: OwnedFd,
    inner_fd: OwnedFd,
    switch: Arc<Switch>,
    umem: Arc<Umem>,
    issued: usize,
}

impl Site {
    fn new() -> Self {
        let setup = Setup {
            frames: 1024,
            ..Setup::default()
        };
        let (ports, outer, inner, umems) = setup.ports();
        let switch = Arc::<Switch>::default();
        let fd = || eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let (outer_fd, inner_fd) = (fd(), fd());
        let watched = |port, fd: &OwnedFd| Watched {
            port,
            fd: fd.try_clone().unwrap(),
            switch: switch.clone(),
        };
        let ports = PortSet {
            outer: watched(ports.outer, &outer_fd),
            inner: watched(ports.inner, &inner_fd),
            memory: ports.memory,
        };
        let handle = spawn(&setup.config, ports).unwrap();
        let umem = umems[0].clone();
        Self {
            handle,
            outer,
            inner,
            outer_fd,
            inner_fd,
            switch,
            umem,
            issued: 1024,
        }
    }

    fn send(&self, command: Command) {
        assert!(self.handle.send(command).is_ok());
    }

    /// Waits until all commands so far have been applied: one that is refused follows them.
    #[track_caller]
    fn settle(&self) {
        let nobody = TunnelId(u32::MAX);
        self.send(Command::Hold { tunnel: nobody });
        while !matches!(self.event(), Event::Refused { tunnel, .. } if tunnel == nobody) {}
    }

    /// Whether the frame found a place.
    fn inner_in(&mut self, packet: &[u8]) -> bool {
        let done = self.inner.inject(&inner_frame(packet));
        rustix::io::write(&self.inner_fd, &1u64.to_ne_bytes()).unwrap();
        done
    }

    fn outer_in(&mut self, frame: &[u8]) -> bool {
        let done = self.outer.inject(frame);
        rustix::io::write(&self.outer_fd, &1u64.to_ne_bytes()).unwrap();
        done
    }

    /// Waits as the control thread does: on the event fd alone.
    #[track_caller]
    fn event(&self) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.handle.acknowledge();
            if let Some(event) = self.handle.poll_event() {
                return event;
            }
            assert!(Instant::now() < deadline, "no event");
            let fd = self.handle.event_fd();
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            poll(&mut fds, Some(&PATIENCE.try_into().unwrap())).unwrap();
        }
    }

    #[track_caller]
    fn wait_for_fate(&self, fate: Fate, count: u64) {
        let fates = self.handle.fates();
        assert!(
            wait(|| fates.get(fate) >= count),
            "{:?}",
            fates.iter().collect::<Vec<_>>()
        );
        assert_eq!(self.handle.fates().get(fate), count);
    }

    /// Whether it does nothing at all for a while.
    fn sleeps(&self) -> bool {
        let before = self.switch.rounds.load(SeqCst);
        std::thread::sleep(Duration::from_millis(50));
        self.switch.rounds.load(SeqCst) == before
    }

    /// Ends the worker and counts its frames.
    #[track_caller]
    fn finish(mut self) {
        self.handle.join();
        let stopped = std::iter::from_fn(|| self.handle.poll_event()).last();
        assert!(matches!(
            stopped,
            Some(Event::Stopped {
                reason: Stopped::Requested
            })
        ));
        let vitals = self.handle.vitals();
        assert_eq!((vitals.frames.held, vitals.frames.backlog), (0, 0));
        assert_eq!(vitals.frames.total(), self.issued);
        assert_eq!(self.umem.dropped_frames(), 0);
    }
}

/// Whether it came true in time.
#[must_use]
fn wait(done: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

fn sites(provider: Provider) -> (Site, Site) {
    let (client, gateway) = epoch_pair(1, CipherSuite::Aes128Gcm16, provider, UDP_ENCAP);
    let start = |selectors, epoch| {
        let site = Site::new();
        site.send(Command::AddTunnel(Tunnel::new(TUNNEL, selectors, 32)));
        site.send(Command::Install(Epoch::new(epoch)));
        site.settle();
        site
    };
    (
        start(client_selectors(), client),
        start(reversed(&client_selectors()), gateway),
    )
}

fn activate(site: &Site) {
    site.send(Command::Activate {
        tunnel: TUNNEL,
        epoch: EpochId(1),
    });
    site.settle();
}

over_both!(held_data_leaves_in_order_before_what_follows);
fn held_data_leaves_in_order_before_what_follows(provider: Provider) {
    let (mut client, mut gateway) = sites(provider);
    for n in 0..20 {
        assert!(client.inner_in(&up(&[n])));
    }
    assert!(matches!(
        client.event(),
        Event::DataWaiting { tunnel: TUNNEL }
    ));
    assert!(wait(|| client.handle.vitals().frames.held == 20));
    activate(&client);
    for n in 20..40 {
        assert!(client.inner_in(&up(&[n])));
    }
    client.wait_for_fate(Fate::Sealed, 40);
    let mut frames = Vec::new();
    client.outer.drain(|frame| frames.push(frame.to_vec()));
    for frame in &frames {
        assert!(gateway.outer_in(frame));
    }
    gateway.wait_for_fate(Fate::Opened, 40);
    let mut got = Vec::new();
    gateway.inner.drain(|frame| got.push(frame[14..].to_vec()));
    assert_eq!(got, (0..40).map(|n| up(&[n])).collect::<Vec<_>>());
    assert!(matches!(
        gateway.event(),
        Event::FirstInbound { data: true, .. }
    ));
    client.finish();
    gateway.finish();
}

over_both!(a_stream_both_ways_arrives_complete_and_in_order);
fn a_stream_both_ways_arrives_complete_and_in_order(provider: Provider) {
    const PACKETS: u32 = 20_000;
    let (mut client, mut gateway) = sites(provider);
    activate(&client);
    activate(&gateway);
    let number = |frame: &[u8]| u32::from_be_bytes(frame[42..46].try_into().unwrap());
    let (mut sent_up, mut sent_down, mut got_up, mut got_down) = (0, 0, 0, 0);
    let (mut upstream, mut downstream) = (VecDeque::new(), VecDeque::new());
    let deadline = Instant::now() + PATIENCE * 3;
    while got_up < PACKETS || got_down < PACKETS {
        assert!(
            Instant::now() < deadline,
            "up {got_up} of {sent_up}, down {got_down} of {sent_down}"
        );
        // At most 32 under way in each direction, so that nothing overflows.
        while sent_up < PACKETS && sent_up - got_up < 32 {
            assert!(client.inner_in(&up(&sent_up.to_be_bytes())));
            sent_up += 1;
        }
        while sent_down < PACKETS && sent_down - got_down < 32 {
            assert!(gateway.inner_in(&down(&sent_down.to_be_bytes())));
            sent_down += 1;
        }
        client
            .outer
            .drain(|frame| upstream.push_back(frame.to_vec()));
        gateway
            .outer
            .drain(|frame| downstream.push_back(frame.to_vec()));
        while upstream
            .pop_front()
            .is_some_and(|frame| gateway.outer_in(&frame))
        {}
        while downstream
            .pop_front()
            .is_some_and(|frame| client.outer_in(&frame))
        {}
        gateway.inner.drain(|frame| {
            assert_eq!(number(frame), got_up);
            got_up += 1;
        });
        client.inner.drain(|frame| {
            assert_eq!(number(frame), got_down);
            got_down += 1;
        });
        std::thread::yield_now();
    }
    for site in [&client, &gateway] {
        assert_eq!(site.handle.fates().get(Fate::Sealed), u64::from(PACKETS));
        assert_eq!(site.handle.fates().total(), 2 * u64::from(PACKETS));
    }
    client.finish();
    gateway.finish();
}

over_both!(a_quiet_worker_sleeps_and_wakes_for_packets_and_commands);
fn a_quiet_worker_sleeps_and_wakes_for_packets_and_commands(provider: Provider) {
    let (mut client, _gateway) = sites(provider);
    activate(&client);
    assert!(wait(|| client.sleeps()));
    assert!(client.inner_in(&up(b"wake")));
    client.wait_for_fate(Fate::Sealed, 1);
    assert!(wait(|| client.sleeps()));
    let mut frame = client.handle.buffer().unwrap();
    assert!(frame.set(&outer_frame(17, &udp_payload(500, b"ike"))));
    client.send(Command::SendOuter { frame });
    client.wait_for_fate(Fate::ControlSent, 1);
    client.finish();
}

#[test]
fn a_panic_is_told_and_closes_the_ports() {
    let mut site = Site::new();
    site.switch.panic.store(true, SeqCst);
    // Whatever wakes it.
    site.outer_in(&[0; 60]);
    assert!(matches!(
        site.event(),
        Event::Stopped {
            reason: Stopped::Panicked
        }
    ));
    assert!(wait(|| !site.handle.is_running()));
    assert_eq!(Arc::strong_count(&site.switch), 1);
    site.handle.join();
    assert!(site.handle.poll_event().is_none());
}

#[test]
fn a_port_that_goes_away_ends_the_worker() {
    let site = Site::new();
    site.switch.gone.store(true, SeqCst);
    site.send(Command::RemoveTunnel { tunnel: TUNNEL });
    let mut last = site.event();
    while !matches!(last, Event::Stopped { .. }) {
        last = site.event();
    }
    assert!(matches!(
        last,
        Event::Stopped {
            reason: Stopped::Port(_)
        }
    ));
}

#[test]
fn what_is_held_and_waits_at_the_end_is_counted() {
    let mut site = Site::new();
    site.send(Command::AddTunnel(Tunnel::new(
        TUNNEL,
        client_selectors(),
        32,
    )));
    site.settle();
    for n in 0..10 {
        assert!(site.inner_in(&up(&[n])));
    }
    assert!(wait(|| site.handle.vitals().frames.held == 10));
    let fates = site.handle.fates().clone();
    site.finish();
    assert_eq!(fates.get(Fate::HoldDropped), 10);
}
