//! Linux's NAT and its model, packet for packet: each script runs in namespaces and against
//! `conntrack-generic`, and what comes out where must be the same. Needs root and says so when it is skipped.
#![allow(clippy::print_stderr)]

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use mitregate_lab::{
    nat::{ConntrackGeneric, Middlebox, Output, Packet, Remap, Translator},
    sh,
    topology::{Host, Lab, Middle, NAT_POOL, Plan},
};
use mitregate_wire::{
    checksum::Sum,
    icmp::{Echo, Problem, emit_error},
    ip::protocol,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket,
    },
    thread::{CpuSet, sched_setaffinity},
};

/// The clients and the gateway.
const HOSTS: [Host; 3] = [Host::Client, Host::OtherClient(2), Host::Gw];
const GW: usize = 2;
/// Of packets that only tell when those before them have passed: UDP of this port to itself.
const SENTINEL: u16 = 7;
/// How long a sentinel may take; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// ETH_P_IP.
const ETHERTYPE_IPV4: u16 = 0x0800;

/// What came out: at which host, and what.
type Seen = Vec<(usize, Packet)>;

/// A NAT between the three hosts.
trait Network {
    /// A host sends; what others get of it.
    fn send(&mut self, from: usize, packet: &Packet) -> Seen;
    fn crash(&mut self);
    /// Another address, or other ports for UDP.
    fn remap(&mut self, address: bool, ports: bool);
    fn wait(&mut self, length: Duration);
    /// Whether what nobody asked for gets as far as the box itself.
    fn filter(&mut self, filtered: bool);
    fn public(&self) -> IpAddr;
}

fn address(host: usize) -> IpAddr {
    HOSTS[host].outer().unwrap().into()
}

fn end(host: usize, port: u16) -> SocketAddr {
    (address(host), port).into()
}

// The model.

struct Model {
    nat: Translator,
    rng: ChaCha20Rng,
    now: Duration,
    /// When the other network did the same things.
    times: VecDeque<Duration>,
    filtered: bool,
    short: bool,
    remaps: usize,
}

impl Model {
    fn new(times: Vec<Duration>, short: bool) -> Self {
        Self {
            nat: Self::make(true, short).make(NAT_POOL[0].into()),
            rng: ChaCha20Rng::seed_from_u64(1),
            now: Duration::ZERO,
            times: times.into(),
            filtered: true,
            short,
            remaps: 0,
        }
    }

    fn make(filtered: bool, short: bool) -> ConntrackGeneric {
        let mut model = ConntrackGeneric::default();
        model.ports.takes_unasked = !filtered;
        if short {
            let timers = &mut model.ports.timers;
            timers.other = Some(Duration::from_secs(GENERIC));
            timers.udp = Duration::from_secs(UDP);
            timers.udp_stream = Duration::from_secs(STREAM);
        }
        model
    }
}

impl Network for Model {
    fn send(&mut self, from: usize, packet: &Packet) -> Seen {
        self.now = self.times.pop_front().expect("the same script ran before");
        let mut out = Output::default();
        let packet = packet.clone();
        if from == GW {
            self.nat.inbound(self.now, packet, &mut self.rng, &mut out);
        } else {
            self.nat.outbound(self.now, packet, &mut self.rng, &mut out);
        }
        let outside = out.outside.into_iter().map(|packet| (GW, packet));
        let inside = out.inside.into_iter().filter_map(|packet| {
            let to = packet.dst().ip();
            Some(((0..GW).find(|host| address(*host) == to)?, packet))
        });
        outside.chain(inside).collect()
    }

    fn crash(&mut self) {
        self.nat.crash();
    }

    fn remap(&mut self, address: bool, ports: bool) {
        self.remaps += usize::from(address);
        self.nat.remap(&Remap {
            address: address.then(|| NAT_POOL[self.remaps].into()),
            ports: ports.then_some(20_000..=29_999),
        });
    }

    fn wait(&mut self, _length: Duration) {}

    fn filter(&mut self, filtered: bool) {
        // The kernel is flushed with it.
        self.filtered = filtered;
        let public = self.public();
        self.nat = Self::make(filtered, self.short).make(public);
    }

    fn public(&self) -> IpAddr {
        self.nat.public().unwrap()
    }
}

// The kernel.

struct Kernel {
    lab: Lab,
    begin: Instant,
    times: Vec<Duration>,
    taps: Vec<OwnedFd>,
    raws: Vec<OwnedFd>,
    sentinels: u32,
    remaps: usize,
}

impl Kernel {
    fn new(lab: Lab) -> Self {
        // Packets of one CPU do not overtake each other.
        let mut cpus = CpuSet::new();
        cpus.set(0);
        sched_setaffinity(None, &cpus).unwrap();
        let ethertype = std::num::NonZeroU32::new(ETHERTYPE_IPV4.to_be().into()).unwrap();
        let open = |host: &Host| {
            lab.host(*host)
                .run(move || {
                    let tap = Some(Protocol::from_raw(ethertype));
                    let tap = socket(AddressFamily::PACKET, SocketType::DGRAM, tap)?;
                    let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
                    Ok((tap, raw))
                })
                .unwrap()
        };
        let (taps, raws) = HOSTS.iter().map(open).unzip();
        // The hosts' own kernels say nothing; nor does the NAT's, beside what it forwards.
        for host in HOSTS.into_iter().chain([Host::Nat]) {
            let mute = "table ip mute {\nchain output {\ntype filter hook output priority 0; policy drop;\n}\n}\n";
            let deaf = mute.replace("mute", "deaf").replace("output", "input");
            let rules = if host == Host::Nat { mute } else { &deaf };
            sh::feed(lab.host(host).command("nft").args(["-f", "-"]), rules).unwrap();
        }
        Self {
            lab,
            begin: Instant::now(),
            times: Vec::new(),
            taps,
            raws,
            sentinels: 0,
            remaps: 0,
        }
    }

    fn emit(&self, from: usize, packet: &Packet) {
        let IpAddr::V4(to) = packet.dst().ip() else {
            panic!("the lab is IPv4");
        };
        let to = SocketAddrV4::new(to, 0);
        sendto(&self.raws[from], packet.bytes(), SendFlags::empty(), &to).unwrap();
    }

    /// Sends a sentinel and reads until it comes; all that came at that host before.
    fn sound(&mut self, from: usize, to: usize, dst: SocketAddr) -> Seen {
        self.sentinels += 1;
        let mark = self.sentinels.to_be_bytes();
        let sentinel = Packet::udp(end(from, SENTINEL), dst, &mark, 0).unwrap();
        self.emit(from, &sentinel);
        let (mut seen, start) = (Vec::new(), Instant::now());
        loop {
            let left = PATIENCE.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "a sentinel to {} is lost", HOSTS[to]);
            let mut fds = [PollFd::new(&self.taps[to], PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::try_from(left).unwrap())).unwrap();
            let mut buffer = [0; 2048];
            let Ok((_, len)) = recv(&self.taps[to], &mut buffer[..], RecvFlags::DONTWAIT) else {
                continue;
            };
            let packet = Packet::new(buffer[..len].to_vec(), 0).unwrap();
            let is_sentinel = packet.protocol() == protocol::UDP && packet.payload().len() == 4;
            if is_sentinel && packet.payload() == mark {
                seen.push((to, packet));
                return seen;
            }
            if !is_sentinel {
                seen.push((to, packet));
            }
        }
    }

    /// What a client's sentinels are known by at the gateway.
    fn way_back(&mut self, client: usize) -> SocketAddr {
        let seen = self.sound(client, GW, end(GW, SENTINEL));
        seen.last().unwrap().1.src()
    }

    fn nft(&self, text: &str) {
        sh::feed(
            self.lab.host(Host::Nat).command("nft").args(["-f", "-"]),
            text,
        )
        .unwrap();
    }
}

impl Network for Kernel {
    fn send(&mut self, from: usize, packet: &Packet) -> Seen {
        let ways: Vec<SocketAddr> = match from {
            GW => (0..GW).map(|client| self.way_back(client)).collect(),
            _ => Vec::new(),
        };
        self.times.push(self.begin.elapsed());
        self.emit(from, packet);
        let mut seen = Vec::new();
        if from == GW {
            for (client, way) in ways.into_iter().enumerate() {
                seen.extend(self.sound(GW, client, way));
                seen.pop();
            }
        } else {
            seen = self.sound(from, GW, end(GW, SENTINEL));
            seen.pop();
        }
        seen
    }

    fn crash(&mut self) {
        self.lab.nat().unwrap().crash().unwrap();
    }

    fn remap(&mut self, address: bool, ports: bool) {
        self.remaps += usize::from(address);
        let to = NAT_POOL[self.remaps];
        self.lab.nat().unwrap().remap(Some(to), ports).unwrap();
    }

    fn wait(&mut self, length: Duration) {
        thread::sleep(length);
    }

    fn filter(&mut self, filtered: bool) {
        let policy = if filtered { "drop" } else { "accept" };
        self.nft(&format!(
            "add chain ip filter input {{\npolicy {policy};\n}}\n"
        ));
        self.crash();
    }

    fn public(&self) -> IpAddr {
        NAT_POOL[self.remaps].into()
    }
}

// The scripts.

/// What both must agree on: where a packet came out, between which ends, and what was in it. Drawn ports are
/// random, so of them only that they were drawn; the scripts look from where.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    at: String,
    ends: [String; 2],
    quoted: Option<[String; 2]>,
    spi: Option<u32>,
    payload: Vec<u8>,
}

/// Ports that the scripts send from and to, and none.
const PORTS: [u16; 5] = [500, 4500, 40_000, 40_077, 0];

fn known_end(end: SocketAddr) -> String {
    let port = match end.port() {
        port if PORTS.contains(&port) => port.to_string(),
        _ => "drawn".to_owned(),
    };
    format!("{} {port}", end.ip())
}

struct Script<'a> {
    network: &'a mut dyn Network,
    log: Vec<Vec<Known>>,
}

impl Script<'_> {
    fn send(&mut self, from: usize, packet: &Packet) -> Seen {
        assert!(packet.checksums_ok());
        let seen = self.network.send(from, packet);
        let known = seen.iter().map(|(at, packet)| {
            assert!(packet.checksums_ok());
            let quoted = packet.quote();
            Known {
                at: HOSTS[*at].name(),
                ends: [known_end(packet.src()), known_end(packet.dst())],
                quoted: quoted.map(|quote| [known_end(quote.src), known_end(quote.dst)]),
                spi: packet.spi().or(quoted.and_then(|quote| quote.spi)),
                // Of a quotation the ports are in `quoted`, and of TCP in `ends`.
                payload: match (quoted, packet.protocol()) {
                    (Some(_), _) => packet.payload()[..2].to_vec(),
                    (_, protocol::ICMP) => packet.payload()[6..].to_vec(),
                    (_, protocol::TCP) => packet.payload()[4..16].to_vec(),
                    _ => packet.payload().to_vec(),
                },
            }
        });
        self.log.push(known.collect());
        seen
    }

    /// ESP from a client; whether it left.
    fn esp_out(&mut self, client: usize, spi: u32) -> bool {
        let packet = esp(address(client), address(GW), spi);
        !self.send(client, &packet).is_empty()
    }

    /// ESP from the gateway; whom it reached.
    fn esp_in(&mut self, spi: u32) -> Option<usize> {
        let packet = esp(address(GW), self.network.public(), spi);
        self.send(GW, &packet).first().map(|(host, _)| *host)
    }

    /// A datagram from a client; what it is known by.
    fn udp_out(&mut self, client: usize, port: u16) -> Option<SocketAddr> {
        let packet = Packet::udp(end(client, port), end(GW, port), b"from the inside", 0).unwrap();
        self.send(client, &packet)
            .first()
            .map(|(_, packet)| packet.src())
    }

    fn udp_in(&mut self, port: u16, to: SocketAddr) -> Option<usize> {
        let packet = Packet::udp(end(GW, port), to, b"from the outside", 0).unwrap();
        self.send(GW, &packet).first().map(|(host, _)| *host)
    }
}

fn esp(src: IpAddr, dst: IpAddr, spi: u32) -> Packet {
    let mut bytes = spi.to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, 1]);
    bytes.extend([7; 32]);
    Packet::esp(src, dst, &bytes, 0).unwrap()
}

fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8, acknowledged: u32) -> Packet {
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&src.port().to_be_bytes());
    segment[2..4].copy_from_slice(&dst.port().to_be_bytes());
    segment[4..8].copy_from_slice(&100_u32.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    (segment[12], segment[13], segment[14]) = (0x50, flags, 0x10);
    let sum = Sum::new().pseudo_header(src.ip(), dst.ip(), protocol::TCP, 20);
    let sum = sum.bytes(&segment).checksum();
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    Packet::of(src.ip(), dst.ip(), protocol::TCP, &segment, 0).unwrap()
}

fn esp_of_two_clients(s: &mut Script<'_>) {
    assert!(s.esp_out(0, 0x100));
    assert!(!s.esp_out(1, 0x200), "the second client collides");
    assert_eq!(s.esp_in(0x900), Some(0));
    assert_eq!(s.esp_in(0x901), Some(0), "the SPI is not looked at");
    s.network.crash();
    assert_eq!(s.esp_in(0x900), None);
    assert!(s.esp_out(1, 0x200), "whoever comes first has it");
    assert!(!s.esp_out(0, 0x100));
    assert_eq!(s.esp_in(0x900), Some(1), "and what was the other's");
}

fn esp_of_the_server_first(s: &mut Script<'_>) {
    s.network.filter(false);
    assert!(s.esp_out(0, 0x100));
    s.network.crash();
    assert_eq!(s.esp_in(0x900), None);
    assert!(!s.esp_out(0, 0x100), "the client is locked out");
    assert_eq!(s.esp_in(0x900), None);
    assert!(!s.esp_out(1, 0x200));
    s.network.filter(true);
    assert_eq!(s.esp_in(0x900), None);
    assert!(s.esp_out(0, 0x100), "with a filter it is not");
}

fn udp_ports(s: &mut Script<'_>) {
    for port in [500, 4500] {
        let first = s.udp_out(0, port).unwrap();
        assert_eq!(first, (s.network.public(), port).into(), "kept when free");
        let second = s.udp_out(1, port).unwrap();
        assert_ne!(second.port(), port);
        assert_eq!(second.port() < 512, port < 512, "drawn from its class");
        assert_eq!(s.udp_in(port, first), Some(0));
        assert_eq!(s.udp_in(port, second), Some(1));
        assert_eq!(s.udp_in(80, second), None, "of another port");
        s.network.crash();
        assert_eq!(s.udp_in(port, second), None);
        assert_eq!(s.udp_out(1, port).unwrap().port(), port);
        s.network.crash();
    }
}

fn echo_and_tcp(s: &mut Script<'_>) {
    let echo = |request, id, src, dst| {
        let (seq, data) = (1, &b"echo"[..]);
        Packet::echo(
            src,
            dst,
            Echo {
                request,
                id,
                seq,
                data,
            },
            0,
        )
        .unwrap()
    };
    let ids = [0, 1].map(|client| {
        let seen = s.send(client, &echo(true, 40_077, address(client), address(GW)));
        seen[0].1.src().port()
    });
    assert_eq!(ids[0], 40_077);
    assert_ne!(ids[1], 40_077);
    for (client, id) in ids.into_iter().enumerate() {
        let reply = echo(false, id, address(GW), s.network.public());
        assert_eq!(s.send(GW, &reply)[0].0, client);
    }
    for client in [0, 1] {
        let seen = s.send(client, &tcp(end(client, 40_000), end(GW, 4500), 2, 0));
        let answer = tcp(end(GW, 4500), seen[0].1.src(), 0x12, 101);
        assert_eq!(s.send(GW, &answer)[0].0, client);
    }
}

fn icmp_errors(s: &mut Script<'_>) {
    let sent = [
        Packet::udp(end(0, 4500), end(GW, 4500), &[3; 60], 0).unwrap(),
        Packet::udp(end(1, 4500), end(GW, 4500), &[3; 60], 0).unwrap(),
        esp(address(0), address(GW), 0x100),
    ];
    for packet in sent {
        let client = usize::from(packet.src().ip() == address(1));
        let arrived = s.send(client, &packet).remove(0).1;
        let mut bytes = vec![0; 600];
        let problem = Problem::TooBig { mtu: 1400 };
        let len = emit_error(address(GW), problem, arrived.bytes(), &mut bytes);
        bytes.truncate(len.unwrap().unwrap());
        let error = Packet::new(bytes, 0).unwrap();
        let seen = s.send(GW, &error);
        assert_eq!(seen[0].0, client);
        let quote = seen[0].1.quote().unwrap();
        assert_eq!((quote.src, quote.dst), (packet.src(), packet.dst()));
    }
    // About what nobody sent.
    let other = esp(s.network.public(), address(GW), 0x100);
    s.network.crash();
    let mut bytes = vec![0; 600];
    let len = emit_error(address(GW), Problem::HopLimit, other.bytes(), &mut bytes);
    bytes.truncate(len.unwrap().unwrap());
    let error = Packet::new(bytes, 0).unwrap();
    assert!(s.send(GW, &error).is_empty());
}

fn remaps(s: &mut Script<'_>) {
    let before = s.udp_out(0, 4500).unwrap();
    assert!(s.esp_out(0, 0x100));
    s.network.remap(true, false);
    assert_eq!(s.udp_in(4500, before), None);
    let moved = s.udp_out(0, 4500).unwrap();
    assert_ne!(moved.ip(), before.ip());
    assert_eq!(moved.port(), 4500);
    assert!(s.esp_out(1, 0x200));
    assert_eq!(s.esp_in(0x900), Some(1));
    s.network.remap(true, true);
    let drawn = s.udp_out(0, 4500).unwrap();
    assert!((20_000..30_000).contains(&drawn.port()));
    assert_eq!(s.udp_in(4500, drawn), Some(0));
    assert_eq!(s.udp_in(4500, moved), None);
}

/// Of the short timers, seconds.
const GENERIC: u64 = 4;
const UDP: u64 = 4;
const STREAM: u64 = 15;

/// What is alive and what is not is not asserted here, but compared: the model is told when the kernel did what.
fn timers(s: &mut Script<'_>) {
    s.esp_out(0, 0x100);
    s.esp_out(1, 0x200);
    let stream = s.udp_out(0, 4500).unwrap();
    s.udp_in(4500, stream);
    let answered = s.udp_out(1, 500).unwrap();
    s.udp_in(500, answered);
    // Longer than it takes to become a stream, shorter than any timer.
    s.network.wait(Duration::from_millis(2500));
    s.esp_in(0x900);
    s.udp_in(4500, stream);
    // The ESP entry was refreshed; those that are no stream are gone, that of the stream is not.
    s.network.wait(Duration::from_millis(4500));
    s.udp_in(4500, stream);
    s.udp_in(500, answered);
    assert!(s.esp_out(1, 0x200), "the first client's entry has expired");
    assert_eq!(
        s.esp_in(0x900),
        Some(1),
        "the first client's packets are the second's"
    );
}

type Act = fn(&mut Script<'_>);

fn play(network: &mut dyn Network, act: Act) -> Vec<Vec<Known>> {
    let log = Vec::new();
    let mut script = Script { network, log };
    act(&mut script);
    script.log
}

#[test]
fn the_kernel_and_its_model_agree_packet_for_packet() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let acts: [(&str, Act); 7] = [
        ("ESP of two clients", esp_of_two_clients),
        ("ESP of the server first", esp_of_the_server_first),
        ("UDP ports", udp_ports),
        ("echo and TCP", echo_and_tcp),
        ("ICMP errors", icmp_errors),
        ("timers", timers),
        ("remaps", remaps),
    ];
    let plan = Plan {
        middle: Middle::Nat,
        clients: 2,
        detached: false,
    };
    let lab = Lab::up_with(&format!("mgt-kernel{}", std::process::id()), plan).unwrap();
    let mut kernel = Kernel::new(lab);
    let mut packets = 0;
    for (name, act) in acts {
        kernel.crash();
        let short = name == "timers";
        if short {
            let nat = kernel.lab.host(Host::Nat);
            for (timer, seconds) in [
                ("generic_timeout", GENERIC),
                ("udp_timeout", UDP),
                ("udp_timeout_stream", STREAM),
            ] {
                let key = format!("netfilter/nf_conntrack_{timer}");
                nat.sysctl(&key, &seconds.to_string()).unwrap();
            }
        }
        kernel.times.clear();
        let real = play(&mut kernel, act);
        let mut model = Model::new(kernel.times.clone(), short);
        let modelled = play(&mut model, act);
        assert_eq!(real.len(), modelled.len(), "{name}");
        for (n, (real, modelled)) in real.iter().zip(&modelled).enumerate() {
            assert_eq!(
                real, modelled,
                "{name}, packet {n}: the kernel, then the model"
            );
        }
        packets += real.len();
    }
    assert!(packets > 60, "{packets}");
    kernel.lab.take_down().unwrap();
}
