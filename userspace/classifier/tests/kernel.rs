//! The fixture table in the kernel, by BPF_PROG_TEST_RUN, loaded by aya and by libbpf.
//!
//! Needs root and the embedded objects: `cargo xtask test`.
#![allow(clippy::print_stderr)]

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex},
};

use aya::{
    EbpfLoader,
    maps::{HashMap as AyaHashMap, PerCpuArray, XskMap},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use libbpf_rs::{MapCore as _, MapFlags, ProgramInput};
use mitregate_classifier::object;
use mitregate_ebpf_common::{
    AddressKey, Count, NO_SOCKET, PACKETS, Role, Verdict,
    fixtures::{Fixture, fixtures, our_keys},
    maps, programs,
};
use rustix::net::{AddressFamily, SocketType};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// BPF_PROG_TEST_RUN wants a whole Ethernet header; kernels 6.18 and newer also want it for XDP.
const SHORTEST: usize = 14;

/// The classifier in the kernel, whoever loaded it.
trait Kernel {
    fn run(&mut self, role: Role, frame: &[u8]) -> u32;
    fn count(&self, verdict: Verdict) -> Count;
    fn bind(&mut self, socket: &OwnedFd);
}

type Logger = aya_log::EbpfLogger<Collector>;

struct ByAya {
    ebpf: aya::Ebpf,
    // Its map must stay open until the program is loaded.
    logger: Option<Logger>,
    messages: Collector,
}

/// What the program has logged.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<String>>>);

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut messages = self.0.lock().expect("one thread");
        messages.push(format!("{} {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

impl ByAya {
    fn load(object: &[u8]) -> Self {
        Self::load_logging(object, log::LevelFilter::Off)
    }

    fn load_logging(object: &[u8], level: log::LevelFilter) -> Self {
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &(level as u8), false)
            .load(object)
            .expect("aya loads the object");
        let messages = Collector::default();
        let logger = Logger::init_with_logger(&mut ebpf, messages.clone()).ok();
        let map = ebpf.map_mut(maps::ADDRESSES).expect("ADDRESSES");
        let mut map: AyaHashMap<_, AddressKey, u32> = map.try_into().expect("a hash map");
        for key in our_keys() {
            map.insert(key, 1, 0).expect("room for an address");
        }
        let mut loaded = Self {
            ebpf,
            logger,
            messages,
        };
        for role in [Role::Outer, Role::Inner] {
            loaded.program(role).load().expect("the verifier agrees");
        }
        loaded
    }

    /// What was logged since the last call.
    fn messages(&mut self) -> Vec<String> {
        self.logger.as_mut().expect("an object that logs").flush();
        std::mem::take(&mut self.messages.0.lock().expect("one thread"))
    }

    fn program(&mut self, role: Role) -> &mut Xdp {
        self.ebpf
            .program_mut(name(role))
            .expect("program")
            .try_into()
            .expect("XDP")
    }
}

impl Kernel for ByAya {
    fn run(&mut self, role: Role, frame: &[u8]) -> u32 {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::new()
        };
        self.program(role)
            .test_run(options)
            .expect("test run")
            .return_value
    }

    fn count(&self, verdict: Verdict) -> Count {
        let map = self.ebpf.map(maps::COUNTERS).expect("COUNTERS");
        let map: PerCpuArray<_, Count> = map.try_into().expect("a per-CPU array");
        let counts = map.get(&verdict.index(), 0).expect("in bounds");
        sum(counts.iter().copied())
    }

    fn bind(&mut self, socket: &OwnedFd) {
        let map = self.ebpf.map_mut(maps::SOCKETS).expect("SOCKETS");
        let mut map: XskMap<_> = map.try_into().expect("an XSKMAP");
        map.set(0, socket.as_raw_fd(), 0).expect("an AF_XDP socket");
    }
}

struct ByLibbpf(libbpf_rs::Object);

impl ByLibbpf {
    fn load(object: &[u8]) -> Self {
        let mut builder = libbpf_rs::ObjectBuilder::default();
        let object = builder
            .open_memory(object)
            .expect("libbpf opens the object");
        let object = object
            .load()
            .expect("libbpf loads it, and the verifier agrees");
        let loaded = Self(object);
        for key in our_keys() {
            let value = 1u32.to_ne_bytes();
            loaded
                .map(maps::ADDRESSES)
                .update(&key, &value, MapFlags::ANY)
                .expect("room");
        }
        loaded
    }

    fn map(&self, name: &str) -> libbpf_rs::Map<'_> {
        self.0.maps().find(|map| map.name() == name).expect("map")
    }
}

impl Kernel for ByLibbpf {
    fn run(&mut self, role: Role, frame: &[u8]) -> u32 {
        let program = self
            .0
            .progs_mut()
            .find(|it| it.name() == name(role))
            .expect("program");
        let input = ProgramInput {
            data_in: Some(frame),
            ..ProgramInput::default()
        };
        program.test_run(input).expect("test run").return_value
    }

    fn count(&self, verdict: Verdict) -> Count {
        let key = verdict.index().to_ne_bytes();
        let map = self.map(maps::COUNTERS);
        let cpus = map
            .lookup_percpu(&key, MapFlags::ANY)
            .expect("look-up")
            .expect("in bounds");
        sum(cpus.iter().map(|bytes| {
            let number = |at| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
            [number(0), number(8)]
        }))
    }

    fn bind(&mut self, socket: &OwnedFd) {
        let value = socket.as_raw_fd().to_ne_bytes();
        let map = self.map(maps::SOCKETS);
        map.update(&0u32.to_ne_bytes(), &value, MapFlags::ANY)
            .expect("an AF_XDP socket");
    }
}

fn name(role: Role) -> &'static str {
    match role {
        Role::Outer => programs::OUTER,
        Role::Inner => programs::INNER,
    }
}

fn sum(cpus: impl Iterator<Item = Count>) -> Count {
    cpus.fold([0, 0], |[packets, none], cpu| {
        [packets + cpu[PACKETS], none + cpu[NO_SOCKET]]
    })
}

/// What the program must return, without a socket and with one.
fn action(it: &Fixture, bound: bool) -> u32 {
    match (it.verdict.redirects(), bound, it.role) {
        (true, true, _) => XDP_REDIRECT,
        (true, false, Role::Inner) => XDP_DROP,
        (true, false, Role::Outer) | (false, ..) => XDP_PASS,
    }
}

/// Every frame that the kernel accepts, in order; the counters tell the verdict.
fn run_table(kernel: &mut impl Kernel, bound: bool) {
    let mut wrong = Vec::new();
    for it in fixtures()
        .into_iter()
        .filter(|it| it.frame.len() >= SHORTEST)
    {
        let before = Verdict::ALL.map(|verdict| kernel.count(verdict));
        let returned = kernel.run(it.role, &it.frame);
        let expected = action(&it, bound);
        if returned != expected {
            wrong.push(format!("{}: returned {returned}, not {expected}", it.name));
        }
        for (verdict, before) in Verdict::ALL.into_iter().zip(before) {
            let after = kernel.count(verdict);
            let packets = u64::from(verdict == it.verdict);
            let none = if verdict.redirects() && !bound {
                packets
            } else {
                0
            };
            if after != [before[PACKETS] + packets, before[NO_SOCKET] + none] {
                wrong.push(format!(
                    "{}: {verdict:?} went from {before:?} to {after:?}",
                    it.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A socket in the map is enough for the redirect to be chosen; it need not be bound, but open.
fn socket() -> OwnedFd {
    rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None).expect("AF_XDP socket")
}

#[test]
fn aya_without_socket() {
    run_table(&mut ByAya::load(object::plain().expect("object")), false);
}

#[test]
fn aya_with_socket() {
    let mut kernel = ByAya::load(object::plain().expect("object"));
    let socket = socket();
    kernel.bind(&socket);
    run_table(&mut kernel, true);
}

#[test]
fn aya_with_log() {
    run_table(&mut ByAya::load(object::logging().expect("object")), false);
}

#[test]
fn libbpf_without_socket() {
    run_table(&mut ByLibbpf::load(object::plain().expect("object")), false);
}

#[test]
fn libbpf_with_socket() {
    let mut kernel = ByLibbpf::load(object::plain().expect("object"));
    let socket = socket();
    kernel.bind(&socket);
    run_table(&mut kernel, true);
}

/// A frame of the table by its name.
fn frame(name: &str) -> Vec<u8> {
    let it = fixtures().into_iter().find(|it| it.name == name);
    it.expect("in the table").frame
}

#[test]
fn rare_events_are_logged_ever_more_rarely() {
    let object = object::logging().expect("object");
    let mut loaded = ByAya::load_logging(object, log::LevelFilter::Debug);
    for _ in 0..1000 {
        loaded.run(Role::Outer, &frame("ipv4 total length beyond the frame"));
    }
    let malformed = loaded.messages();
    assert_eq!(malformed[0], "DEBUG malformed, 1 packets so far");
    // 1, 2, 4, ... 512 on each CPU that had a turn.
    assert!((9..100).contains(&malformed.len()), "{malformed:?}");

    loaded.run(Role::Outer, &frame("ipv4 esp"));
    loaded.run(Role::Outer, &frame("ipv6 esp after seven headers"));
    let [no_socket, chain] = &loaded.messages()[..] else {
        panic!("two rare events")
    };
    assert_eq!(no_socket, "INFO queue 0 has no socket, 1 packets so far");
    assert!(chain.contains("IPv6 extension headers"), "{chain}");
    loaded.run(Role::Outer, &frame("ipv4 tcp"));
    assert!(
        loaded.messages().is_empty(),
        "the kernel's packets are not our events"
    );
}

#[test]
fn the_log_level_is_set_at_load() {
    let object = object::logging().expect("object");
    for (level, expected) in [(log::LevelFilter::Info, 1), (log::LevelFilter::Off, 0)] {
        let mut loaded = ByAya::load_logging(object, level);
        loaded.run(Role::Outer, &frame("ethernet header alone, ipv4"));
        loaded.run(Role::Outer, &frame("ipv4 esp"));
        assert_eq!(loaded.messages().len(), expected, "{level}");
    }
}

/// The verifier's walk is far from its limit of a million instructions, and does not grow unseen.
#[test]
fn verifier_effort() {
    let mut loaded = ByAya::load(object::logging().expect("object"));
    for role in [Role::Outer, Role::Inner] {
        let info = loaded.program(role).info().expect("info");
        let walked = info.verified_instruction_count().expect("kernel 5.16");
        eprintln!("{}: {walked} instructions verified", name(role));
        assert!(walked < 100_000, "{}: {walked}", name(role));
    }
}
