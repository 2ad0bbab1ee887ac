//! Network namespaces, veth pairs and a bare XDP program for the tests on the real kernel.

mod bpf;

pub use bpf::Redirect;

use mitregate_xsk::{Frame, FramePool, Port, XskConfig, XskPort};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

/// These tests need root. Without it they say so and pass.
pub fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: needs root to make network namespaces");
    }
    root
}

/// A network namespace without a name: it is gone, and its interfaces with it, when the last
/// descriptor, thread or socket is, also if the test is killed.
pub struct Netns(File);

impl Netns {
    pub fn new() -> Self {
        let file = std::thread::spawn(|| {
            // SAFETY: no pointers; changes the namespace of this thread only.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "unshare");
            for which in ["all", "default"] {
                // No router solicitations among the packets to be counted.
                let _ =
                    std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
            }
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(file.join().unwrap())
    }

    /// Runs `f` in a thread of this namespace.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: the descriptor is open; changes the namespace of this thread only.
                let entered = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "setns: {}", io::Error::last_os_error());
                f()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program with these arguments in this namespace.
    pub fn run(&self, program: &str, arguments: &str) {
        let mut command = Command::new(program);
        command.args(arguments.split(' '));
        let output = self.enter(|| command.output()).expect(program);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments}: {error}");
    }

    /// Runs `ip` in this namespace.
    pub fn ip(&self, arguments: &str) {
        self.run("ip", arguments);
    }

    /// Lets a thread receive for this veth, instead of the system call that sends to it: so its
    /// ring can run full.
    pub fn slow_receive(&self, veth: &str) {
        self.enter(|| {
            // /sys shows the namespace it was mounted in, hence a mount of our own.
            // SAFETY: no pointers; changes the namespace of this thread only.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "unshare");
            let mount = format!(
                "mount --make-rprivate / && mount -t sysfs none /sys && \
                 echo 1 > /sys/class/net/{veth}/threaded"
            );
            assert!(
                Command::new("sh")
                    .args(["-c", &mount])
                    .status()
                    .unwrap()
                    .success()
            );
        });
    }

    /// A veth pair of two queues, up, one end here and one in `other`. Returns the indices of the two ends.
    pub fn veth(&self, here: &str, other: &Self, there: &str) -> (u32, u32) {
        let (process, fd) = (std::process::id(), other.0.as_raw_fd());
        self.ip(&format!(
            "link add {here} mtu 3000 numrxqueues 2 numtxqueues 2 type veth peer name {there} mtu 3000 \
             numrxqueues 2 numtxqueues 2 netns /proc/{process}/fd/{fd}"
        ));
        self.ip(&format!("link set {here} up"));
        other.ip(&format!("link set {there} up"));
        (self.index(here), other.index(there))
    }

    fn index(&self, name: &str) -> u32 {
        let name = std::ffi::CString::new(name).unwrap();
        // SAFETY: a string that ends with NUL.
        let index = self.enter(|| unsafe { libc::if_nametoindex(name.as_ptr()) });
        assert_ne!(index, 0, "{name:?}");
        index
    }
}

/// A port that receives, with its XDP program and its worker's pool.
pub struct Endpoint {
    pub port: XskPort,
    pub pool: FramePool,
    _program: Redirect,
}

impl Endpoint {
    pub fn open(netns: &Netns, config: &XskConfig<'_>, pool: FramePool) -> Self {
        let (port, program) = open(netns, config);
        Self {
            port,
            pool,
            _program: program,
        }
    }

    /// Sends one packet per length of `lengths`, made by `write`, as far as frames and ring allow.
    pub fn send(&mut self, lengths: &[usize], mut write: impl FnMut(u32, &mut [u8])) -> u32 {
        self.port.reclaim(&mut self.pool);
        let mut frames = VecDeque::new();
        for (n, &len) in (0..).zip(lengths) {
            let Some(mut frame) = self.pool.take() else {
                break;
            };
            let start = frame.range().start;
            frame.set_range(start..start + len);
            write(n, self.pool.umem().bytes_mut(&mut frame));
            frames.push_back(frame);
        }
        let sent = self.port.tx(&mut frames);
        frames.into_iter().for_each(|frame| self.pool.put(frame));
        self.port.kick().unwrap();
        u32::try_from(sent).unwrap()
    }

    /// Fetches what has arrived.
    pub fn receive(&mut self, mut read: impl FnMut(&[u8])) -> usize {
        self.port.refill(&mut self.pool);
        let mut batch: Vec<Frame> = Vec::new();
        let received = self.port.rx(&mut batch, 64);
        for frame in batch {
            read(self.pool.umem().bytes(&frame));
            self.pool.put(frame);
        }
        received
    }
}

/// Opens a port in a namespace and attaches a program that redirects all to it.
pub fn open(netns: &Netns, config: &XskConfig<'_>) -> (XskPort, Redirect) {
    netns.enter(|| {
        let port = XskPort::open(config).unwrap();
        let program = Redirect::attach(config.ifindex).unwrap();
        program.add(config.queue, port.socket_fd()).unwrap();
        (port, program)
    })
}

/// Repeats `step` until it says true.
pub fn until(what: &str, mut step: impl FnMut() -> bool) {
    let start = Instant::now();
    while !step() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "timed out: {what}"
        );
        std::thread::yield_now();
    }
}
