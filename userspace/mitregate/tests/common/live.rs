//! Two daemons with a wire between them that belongs to somebody else: who sits there sees every
//! frame and sends what he likes.
//!
//! ```text
//!  client            middle              gateway
//!  10.1.0.1          192.0.2.66          10.2.0.1
//!  wan 192.0.2.2 ── c0 (bridge) g0 ── wan 192.0.2.1
//! ```

#![allow(dead_code)]

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::common::{TestNs, has_data_plane, privileged};

pub const MITREGATE: &str = env!("CARGO_BIN_EXE_mitregate");
pub const SECRET: &str = "a-very-secret-key";
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Somebody on the wire without any right.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
/// Behind the client.
pub const INNER_CLIENT: &str = "10.1.0.1";
/// Behind the gateway.
pub const INNER_GATEWAY: &str = "10.2.0.1";
/// In everything that must not be seen on the wire.
pub const MARKER: &[u8] = b"PROTECTED-BY-MITREGATE";
/// Large enough for a frame that does not fit a buffer, small enough for XDP on a veth.
const OUTER_MTU: u32 = 3000;
/// Waits are for what must come; how soon, no test says.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether these tests can run; says so if not.
pub fn ready() -> bool {
    privileged() && has_data_plane()
}

/// Waits for something that must come.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool, told: impl Fn() -> String) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waiting for {what}: {}", told());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One end: a namespace with an outer interface, and a daemon that may run in it.
pub struct End {
    pub ns: TestNs,
    pub dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl End {
    pub fn new(what: &str) -> Self {
        let end = Self {
            ns: quiet(what),
            dir: tempfile::tempdir().unwrap(),
            daemon: None,
        };
        end.write_secret(SECRET);
        end
    }

    pub fn write_secret(&self, secret: &str) {
        let file = self.path("psk");
        fs::write(&file, secret).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("mitregate.toml")
    }

    /// `outer`: more fields of that table.
    pub fn configure(&self, outer: &str, rest: &str) {
        let text = format!(
            r#"
            [daemon]
            control_socket = {:?}
            log = "debug"
            [outer]
            interface = "wan"
            {outer}
            [secrets.home]
            secret_file = "psk"
            {rest}
            "#,
            self.path("control.sock")
        );
        fs::write(self.config(), text).unwrap();
    }

    /// Puts other text into the configuration, where it must have been.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        assert!(text.contains(from), "{from} not in {text}");
        fs::write(self.config(), text.replace(from, to)).unwrap();
    }

    /// Starts the daemon and waits until it answers.
    #[track_caller]
    pub fn start(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let daemon = self
            .ns
            .command(MITREGATE)
            .args(["run", "-c"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
        self.eventually("the daemon to answer", |end| {
            end.sas()["tunnels"].is_array()
        });
    }

    /// What a daemon says that must not start.
    #[track_caller]
    pub fn fails_to_start(&self) -> String {
        let output = self
            .ns
            .command(MITREGATE)
            .args(["run", "-c"])
            .arg(self.config())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }

    /// `ip netns exec` has become the daemon, so its process id is the daemon's.
    pub fn signal(&mut self, signal: Signal) -> Option<i32> {
        let mut daemon = self.daemon.take().unwrap();
        kill_process(Pid::from_child(&daemon), signal).unwrap();
        daemon.wait().unwrap().code()
    }

    /// The daemon has not ended by itself.
    pub fn runs(&mut self) -> bool {
        self.daemon
            .as_mut()
            .is_some_and(|daemon| daemon.try_wait().unwrap().is_none())
    }

    pub fn ask(&self, args: &[&str]) -> Output {
        self.ns
            .command(MITREGATE)
            .arg("--json")
            .arg("--socket")
            .arg(self.path("control.sock"))
            .args(args)
            .output()
            .unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.ask(args).stdout).unwrap_or(Value::Null)
    }

    pub fn sas(&self) -> Value {
        self.json(&["list-sas"])
    }

    pub fn stats(&self) -> Value {
        self.json(&["stats"])
    }

    pub fn status(&self) -> String {
        self.sas()["tunnels"][0]["status"]
            .as_str()
            .unwrap_or("?")
            .to_owned()
    }

    /// How many IKE SAs, in whatever state.
    pub fn ike_sas(&self) -> usize {
        self.sas()["ike_sas"].as_array().map_or(0, Vec::len)
    }

    /// The epochs' ids and states.
    pub fn epochs(&self) -> Vec<(u64, String)> {
        let sas = self.sas();
        let epochs = sas["tunnels"][0]["epochs"].as_array();
        epochs
            .into_iter()
            .flatten()
            .map(|epoch| {
                let state = epoch["state"].as_str().unwrap().to_owned();
                (epoch["id"].as_u64().unwrap(), state)
            })
            .collect()
    }

    pub fn fate(&self, label: &str) -> u64 {
        self.stats()["fates"][label].as_u64().unwrap()
    }

    #[track_caller]
    pub fn eventually(&self, what: &str, done: impl Fn(&Self) -> bool) {
        eventually(
            what,
            || done(self),
            || format!("{}\n{}\n{}", self.log(), self.sas(), self.stats()["fates"]),
        );
    }

    #[track_caller]
    pub fn logs(&self, words: &[&str]) {
        self.eventually(&format!("{words:?} in a line of the log"), |end| {
            let log = end.log();
            log.lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        });
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Bound in this end's namespace.
    pub fn udp(&self, address: &str) -> UdpSocket {
        let address = address.to_owned();
        let socket = self
            .ns
            .block_on(async move || UdpSocket::bind(address).unwrap());
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        socket
    }

    /// Nothing but what was told to it went wrong in the daemon.
    #[track_caller]
    pub fn log_is_clean(&self) {
        let log = self.log();
        for line in log.lines() {
            assert!(
                !line.contains("ERROR") && !line.contains("panicked"),
                "{line}\n\n{log}"
            );
        }
        assert!(!log.contains(SECRET));
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// A namespace whose kernel says nothing by itself: no IPv6, and so no neighbour discovery.
fn quiet(what: &str) -> TestNs {
    let ns = TestNs::new(what);
    let off = "for all in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $all; done";
    assert!(
        ns.command("sh")
            .args(["-c", off])
            .status()
            .unwrap()
            .success()
    );
    ns
}

/// Both ends, and the wire.
pub struct Lab {
    pub client: End,
    pub gateway: End,
    pub middle: TestNs,
}

impl Lab {
    /// `connection`: more fields of both; `child`: more fields of the client's.
    pub fn new(what: &str, connection: &str, child: &str) -> Self {
        let lab = Self {
            client: End::new(&format!("{what}c")),
            gateway: End::new(&format!("{what}g")),
            middle: quiet(&format!("{what}m")),
        };
        let middle = &lab.middle;
        middle.ip("link add br0 type bridge mcast_snooping 0");
        for (end, port, address) in [(&lab.client, "c0", CLIENT), (&lab.gateway, "g0", GATEWAY)] {
            middle.wire(port, &end.ns, "wan");
            middle.ip(&format!("link set {port} mtu {OUTER_MTU}"));
            end.ns.ip(&format!("link set wan mtu {OUTER_MTU}"));
            middle.ip(&format!("link set {port} master br0"));
            end.ns.ip(&format!("addr add {address}/24 dev wan"));
        }
        middle.ip("link set br0 up");
        middle.ip(&format!("addr add {STRANGER}/24 dev br0"));
        // The protected addresses are the gateway's own.
        for address in [INNER_GATEWAY, "10.2.0.2"] {
            lab.gateway.ns.ip(&format!("addr add {address}/32 dev lo"));
        }
        lab.client.configure(
            "",
            &format!(
                r#"
                [inner]
                addresses = ["{INNER_CLIENT}/32"]
                [connections.home]
                remote_addrs = ["{GATEWAY}"]
                local.id = "client@test"
                remote.id = "gw@test"
                {connection}
                [connections.home.children.net]
                local_ts = ["{INNER_CLIENT}"]
                remote_ts = ["10.2.0.0/24"]
                start_action = "start"
                {child}
                "#
            ),
        );
        lab.gateway.configure(
            "",
            &format!(
                r#"
                [connections.home]
                local.id = "gw@test"
                remote.id = "client@test"
                {connection}
                [connections.home.children.net]
                local_ts = ["10.2.0.0/24"]
                remote_ts = ["{INNER_CLIENT}"]
                "#
            ),
        );
        lab
    }

    /// Starts both; returns when both carry data.
    #[track_caller]
    pub fn up(&mut self) {
        self.gateway.start();
        self.client.start();
        self.proven();
    }

    #[track_caller]
    pub fn proven(&self) {
        for end in [&self.client, &self.gateway] {
            end.eventually("a proven tunnel", |end| end.status() == "proven");
        }
    }

    /// Waits until the ends have what a single quiet tunnel has, and nothing else.
    #[track_caller]
    pub fn one_of_each(&self) {
        for end in [&self.client, &self.gateway] {
            end.eventually("one IKE SA and one proven epoch", |end| {
                let epochs = end.epochs();
                end.ike_sas() == 1 && epochs.len() == 1 && epochs[0].1 == "proven"
            });
        }
    }
}

/// Steady numbered datagrams from the client's protected address, echoed behind the gateway.
pub struct Pings {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    sending: AtomicBool,
    ended: AtomicBool,
    sent: AtomicU64,
    /// In the order in which the gateway's side got them.
    arrived: Mutex<Vec<u64>>,
    /// In the order in which they came back.
    answered: Mutex<Vec<u64>>,
}

/// What became of [`Pings`].
pub struct Pinged {
    pub sent: u64,
    /// In the order in which the gateway's side got them.
    pub arrived: Vec<u64>,
    /// In the order in which they came back.
    pub answered: Vec<u64>,
}

impl fmt::Debug for Pinged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = |got: &[u64]| -> Vec<u64> {
            let got: HashSet<_> = got.iter().collect();
            (0..self.sent).filter(|n| !got.contains(n)).collect()
        };
        f.debug_struct("Pinged")
            .field("sent", &self.sent)
            .field("arrived", &self.arrived.len())
            .field("did_not_arrive", &missing(&self.arrived))
            .field("answered", &self.answered.len())
            .field("not_answered", &missing(&self.answered))
            .finish()
    }
}

impl Pinged {
    /// Each one arrived and came back, once, in order.
    #[track_caller]
    pub fn all_in_order(&self) {
        let all: Vec<_> = (0..self.sent).collect();
        assert!(self.arrived == all && self.answered == all, "{self:?}");
    }
}

impl Pings {
    /// Bytes of UDP payload, of which the marker is a part.
    const LEN: usize = 64;

    pub fn start(lab: &Lab, interval: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        shared.sending.store(true, Relaxed);
        let server = lab.gateway.udp(&format!("{INNER_GATEWAY}:7"));
        let client = Arc::new(lab.client.udp(&format!("{INNER_CLIENT}:0")));
        let echo = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut buffer = [0; Self::LEN];
                while !shared.ended.load(Relaxed) {
                    if let Ok((len, from)) = server.recv_from(&mut buffer) {
                        shared.arrived.lock().unwrap().push(number(&buffer[..len]));
                        let _ = server.send_to(&buffer[..len], from);
                    }
                }
            })
        };
        let send = {
            let (shared, client) = (Arc::clone(&shared), Arc::clone(&client));
            std::thread::spawn(move || {
                for n in 0_u64.. {
                    if !shared.sending.load(Relaxed) {
                        return;
                    }
                    let mut datagram = [&n.to_be_bytes()[..], MARKER].concat();
                    datagram.resize(Self::LEN, 0);
                    // Without a daemon there is no route, and that is as it must be.
                    let _ = client.send_to(&datagram, (INNER_GATEWAY, 7));
                    shared.sent.store(n + 1, Relaxed);
                    std::thread::sleep(interval);
                }
            })
        };
        let receive = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut buffer = [0; Self::LEN];
                while !shared.ended.load(Relaxed) {
                    if let Ok(len) = client.recv(&mut buffer) {
                        shared.answered.lock().unwrap().push(number(&buffer[..len]));
                    }
                }
            })
        };
        Self {
            shared,
            threads: vec![echo, send, receive],
        }
    }

    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Relaxed)
    }

    pub fn answered(&self) -> usize {
        self.shared.answered.lock().unwrap().len()
    }

    /// Sends no more, and gives what is under way its time.
    pub fn stop(mut self) -> Pinged {
        self.shared.sending.store(false, Relaxed);
        self.threads.remove(1).join().unwrap();
        let sent = self.sent();
        let start = Instant::now();
        let mut answered = self.answered();
        while (answered as u64) < sent && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(20));
            answered = self.answered();
        }
        self.shared.ended.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        let taken = |of: &Mutex<Vec<u64>>| std::mem::take(&mut *of.lock().unwrap());
        Pinged {
            sent,
            arrived: taken(&self.shared.arrived),
            answered: taken(&self.shared.answered),
        }
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        self.shared.sending.store(false, Relaxed);
        self.shared.ended.store(true, Relaxed);
    }
}

fn number(datagram: &[u8]) -> u64 {
    u64::from_be_bytes(datagram[..8].try_into().unwrap())
}

/// An AF_PACKET socket on a port of the bridge.
pub struct Tap(Socket);

impl Tap {
    pub fn open(ns: &TestNs, device: &str) -> Self {
        let protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        let socket = ns.block_on(async || {
            // Without a protocol: nothing comes before it is bound to its device.
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).unwrap();
            let index = rustix::net::netdevice::name_to_index(&socket, device).unwrap();
            let address = libc::sockaddr_ll {
                sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
                sll_protocol: protocol,
                sll_ifindex: index.try_into().unwrap(),
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            let len = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
            // SAFETY: `address` lives until bind returns, and `len` is its size.
            let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
            assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
            socket
        });
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let _ = socket.set_recv_buffer_size(8 << 20);
        Self(socket)
    }

    /// Out of the port, to the end behind it.
    pub fn send(&self, frame: &[u8]) {
        // A full queue of the veth is no fault of the test: again.
        for _ in 0..100 {
            match self.0.send(frame) {
                Ok(sent) => return assert_eq!(sent, frame.len()),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("cannot send {} bytes", frame.len());
    }

    /// As [`Self::send`], slowly enough for the other side's queues.
    pub fn send_all<'a>(&self, frames: impl IntoIterator<Item = &'a Vec<u8>>) {
        for (n, frame) in frames.into_iter().enumerate() {
            self.send(frame);
            if n % 16 == 15 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let len = self.0.recv(&mut buffer).ok()?;
        let filled = buffer[..len].iter();
        // SAFETY: recv has written the first `len` bytes.
        Some(filled.map(|byte| unsafe { byte.assume_init() }).collect())
    }
}

/// Every frame that passes a port of the bridge, both ways.
pub struct Recorder {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    pub fn start(lab: &Lab, device: &str) -> Self {
        let tap = Tap::open(&lab.middle, device);
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (to, until) = (Arc::clone(&frames), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !until.load(Relaxed) {
                if let Some(frame) = tap.receive() {
                    to.lock().unwrap().push(frame);
                }
            }
        });
        Self {
            frames,
            stop,
            thread: Some(thread),
        }
    }

    /// All until now.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.frames.lock().unwrap().clone()
    }

    /// Those of some kind on their way to `to`, oldest first.
    pub fn of(&self, kinds: &[Kind], to: Ipv4Addr) -> Vec<Vec<u8>> {
        let frames = self.frames.lock().unwrap();
        let wanted =
            |frame: &&Vec<u8>| kinds.contains(&kind(frame)) && frame[30..34] == to.octets();
        frames.iter().filter(wanted).cloned().collect()
    }

    /// No protected packet was seen in clear, and many that were protected.
    #[track_caller]
    pub fn saw_nothing_in_clear(&self) {
        let frames = self.frames();
        let mut protected = 0;
        for frame in &frames {
            let marked = frame.windows(MARKER.len()).any(|bytes| bytes == MARKER);
            let kind = kind(frame);
            assert!(
                !marked && kind != Kind::Other,
                "in clear: {kind:?} {frame:02x?}"
            );
            protected += u32::from(matches!(kind, Kind::Esp | Kind::EspInUdp));
        }
        assert!(
            protected > 20,
            "{protected} of {} frames are ESP",
            frames.len()
        );
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a frame is, by its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Arp,
    /// Between the three hosts of the wire.
    Icmp,
    Esp,
    EspInUdp,
    Ike,
    Keepalive,
    /// Nothing that belongs there.
    Other,
}

pub fn kind(frame: &[u8]) -> Kind {
    let ether_type = frame.get(12..14);
    if ether_type == Some(&[0x08, 0x06]) {
        return Kind::Arp;
    }
    if ether_type != Some(&[0x08, 0x00]) || frame.len() < 42 || frame[14] != 0x45 {
        return Kind::Other;
    }
    let on_wire = |at: usize| frame[at..at + 3] == [192, 0, 2];
    let ports = [22, 24].map(|at| u16::from_be_bytes([frame[12 + at], frame[13 + at]]));
    match frame[23] {
        _ if !on_wire(26) || !on_wire(30) => Kind::Other,
        1 => Kind::Icmp,
        50 => Kind::Esp,
        17 if ports.contains(&500) => Kind::Ike,
        17 if ports.contains(&4500) => match frame.get(42..46) {
            Some([0, 0, 0, 0]) => Kind::Ike,
            _ if frame[38..40] == [0, 9] => Kind::Keepalive,
            _ => Kind::EspInUdp,
        },
        _ => Kind::Other,
    }
}

/// Where the payload of a frame of [`Kind`] begins: ESP's SPI, or IKE's.
pub fn payload_at(frame: &[u8]) -> usize {
    match kind(frame) {
        Kind::Esp => 34,
        Kind::Ike if frame[42..46] == [0; 4] => 46,
        _ => 42,
    }
}

/// Lengths and checksum of IPv4, and UDP's length, as the frame's length wants them.
pub fn repaired(mut frame: Vec<u8>) -> Vec<u8> {
    let total = u16::try_from(frame.len() - 14).unwrap();
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    if frame[23] == 17 && frame.len() >= 42 {
        frame[38..40].copy_from_slice(&(total - 20).to_be_bytes());
        frame[40..42].fill(0);
    }
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !u16::try_from(sum % 0xffff).unwrap();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A frame with the link and IP addresses of `like` and this in IPv4.
pub fn ipv4(like: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = like[..34].to_vec();
    frame[14] = 0x45;
    frame[20..22].fill(0);
    frame[23] = protocol;
    frame.extend(payload);
    repaired(frame)
}

/// From somebody on the wire to the one that `like` goes to.
pub fn from_stranger(like: &[u8], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut like = like[..34].to_vec();
    like[26..30].copy_from_slice(&STRANGER.octets());
    udp(&like, port, payload)
}

/// As [`ipv4()`], in UDP without a checksum, from and to the same port.
pub fn udp(like: &[u8], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [port.to_be_bytes(), port.to_be_bytes()].concat();
    datagram.extend([0; 4]);
    datagram.extend(payload);
    ipv4(like, 17, &datagram)
}
