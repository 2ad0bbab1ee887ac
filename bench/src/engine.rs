//! The worker's rounds on memory ports: what a packet costs beyond its cipher.
//!
//! A round takes a burst from one port, seals or opens it, and puts it on the other; that is timed,
//! with all ring work. Bringing packets and taking them away is not. Between two rounds the same
//! bytes go through the raw AEAD call with the same keys in the same order, so that both see the
//! same machine. Buffers are few and stay in the cache, as in the figures for VPP. Each number is
//! the minimum over many windows: the machine is shared, and noise only adds.

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use mitregate_dataplane::{
    Command, DfPolicy, DscpPolicy, Epoch, EpochConfig, Event, Fate, Hop, InnerLink, Limits, Memory,
    OuterAddrs, OuterHeader, PortSet, Selectors, Tunnel, Worker, WorkerConfig, WorkerHandle,
    unattended,
};
use mitregate_esp::{
    CipherSuite, EpochId, HEADROOM, InboundSa, OutboundSa, Provider, SaCounters, SaKey, TunnelId,
    WorkerId,
    aead::{Aead, AeadError},
    sealed_len,
};
use mitregate_wire::{
    MacAddr, TrafficSelector,
    esp::ICV_LEN,
    eth::{self, EtherType},
    ip::protocol,
    ipv4,
};
use mitregate_xsk::{FramePool, MemoryPeer, MemoryPort, RingSizes, Umem, UmemConfig};
use serde::Serialize;

const BURST: usize = 64;
const ROUNDS_PER_WINDOW: u32 = 32;
const FRAMES: u32 = 256;
const FRAME_SIZE: usize = 2048;
/// Where a sealed packet's text begins in its frame: headroom, outer headers, ESP header and IV.
const TEXT_START: usize = 256 + 14 + HEADROOM;
const OUR_SIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER_SIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

#[derive(Args)]
pub struct Options {
    /// Write the rows there as well
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Bytes of the inner IP packets
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1400], value_parser = clap::value_parser!(u16).range(28..=1400))]
    inner: Vec<u16>,
    /// Security associations, taken at random for each packet
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u32).range(1..=65536))]
    sas: Vec<u32>,
    /// Only this direction
    #[arg(long)]
    op: Option<Op>,
    /// Only this cipher: aes128gcm16, aes256gcm16 or chacha20poly1305
    #[arg(long)]
    suite: Option<CipherSuite>,
    /// Only this provider: aws-lc or rustcrypto
    #[arg(long)]
    provider: Option<Provider>,
    /// Milliseconds per case
    #[arg(long, default_value_t = 250)]
    time: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    Seal,
    Open,
}

/// One measurement.
#[derive(Serialize)]
pub struct Row {
    op: Op,
    aead: &'static str,
    provider: &'static str,
    inner_bytes: u16,
    sas: u32,
    dist: &'static str,
    burst: usize,
    ns_per_packet: f64,
    raw_aead_ns: f64,
}

/// The cipher's name as others write it.
fn aead_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::Aes128Gcm16 => "aes-128-gcm",
        CipherSuite::Aes256Gcm16 => "aes-256-gcm",
        CipherSuite::ChaCha20Poly1305 => "chacha20-poly1305",
    }
}

struct Case {
    op: Op,
    suite: CipherSuite,
    provider: Provider,
    inner_bytes: u16,
    sas: u32,
}

/// Runs all cases that the options leave.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &sas in &options.sas {
        for suite in [
            CipherSuite::Aes128Gcm16,
            CipherSuite::Aes256Gcm16,
            CipherSuite::ChaCha20Poly1305,
        ] {
            for provider in Provider::ALL {
                for &inner_bytes in &options.inner {
                    for op in [Op::Seal, Op::Open] {
                        let wanted = options.op.is_none_or(|only| only == op)
                            && options.suite.is_none_or(|only| only == suite)
                            && options.provider.is_none_or(|only| only == provider);
                        if wanted {
                            let case = Case {
                                op,
                                suite,
                                provider,
                                inner_bytes,
                                sas,
                            };
                            eprint!(
                                "\r{:>3} cases: {suite} {provider} {inner_bytes} bytes  ",
                                rows.len() + 1
                            );
                            rows.push(measure(&case, Duration::from_millis(options.time))?);
                        }
                    }
                }
            }
        }
    }
    eprintln!();
    Ok(rows)
}

/// The rows for people.
pub fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<5} {:<18} {:<11} {:>5} {:>6} {:>8} {:>8} {:>9} {:>7} {:>7}\n",
        "op", "aead", "provider", "bytes", "SAs", "ns", "raw ns", "overhead", "Mpps", "Gb/s"
    );
    for row in rows {
        let op = if row.op == Op::Seal { "seal" } else { "open" };
        let mpps = 1e3 / row.ns_per_packet;
        let _ = writeln!(
            out,
            "{op:<5} {:<18} {:<11} {:>5} {:>6} {:>8.1} {:>8.1} {:>9.1} {mpps:>7.2} {:>7.2}",
            row.aead,
            row.provider,
            row.inner_bytes,
            row.sas,
            row.ns_per_packet,
            row.raw_aead_ns,
            row.ns_per_packet - row.raw_aead_ns,
            mpps * f64::from(row.inner_bytes) * 8e-3,
        );
    }
    out
}

/// xorshift64*: which SA comes next.
struct Picker(u64, u32);

impl Picker {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        ((high * u64::from(self.1)) >> 32) as usize
    }
}

/// What one case works on.
struct Bench {
    worker: Worker<MemoryPort, MemoryPort>,
    handle: WorkerHandle,
    umem: Arc<Umem>,
    outer: MemoryPeer,
    inner: MemoryPeer,
    /// The peers' halves, which seal what the worker opens.
    peers: Vec<OutboundSa>,
    raw: Vec<Aead>,
    now: Duration,
}

fn spi(sa: u32) -> Result<mitregate_wire::esp::Spi> {
    WorkerId(0)
        .inbound_spi(sa.wrapping_mul(0x9E37_79B1) >> 8)
        .context("SPI")
}

/// The peer's address inside, one for each SA.
fn inside(sa: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + sa)
}

impl Bench {
    fn new(case: &Case) -> Result<Self> {
        let umem = Umem::new(UmemConfig {
            frames: FRAMES,
            ..UmemConfig::default()
        })?;
        let pool = FramePool::new(&umem, FRAMES, 16)?;
        let rings = RingSizes::all(64);
        let (outer, outer_peer) = MemoryPort::pair(&umem, rings)?;
        let (inner, inner_peer) = MemoryPort::pair(&umem, rings)?;
        let link = InnerLink {
            src_mac: MAC,
            dst_mac: MAC,
            mtu: 1500,
            hop: Hop::Host,
        };
        let sas = case.sas as usize;
        let config = WorkerConfig {
            max_tunnels: sas,
            max_epochs: sas,
            ..WorkerConfig::new(link)
        };
        let ports = PortSet {
            outer,
            inner,
            memory: Memory::Shared(pool),
        };
        let (worker, handle) = unattended(&config, ports)?;
        let mut bench = Self {
            worker,
            handle,
            umem,
            outer: outer_peer,
            inner: inner_peer,
            peers: Vec::with_capacity(sas),
            raw: Vec::with_capacity(sas),
            now: Duration::from_secs(1),
        };
        for sa in 0..case.sas {
            bench.add(case, sa)?;
        }
        Ok(bench)
    }

    /// A tunnel with an active epoch.
    fn add(&mut self, case: &Case, sa: u32) -> Result<()> {
        let (suite, provider) = (case.suite, case.provider);
        let mut keymat = vec![0x5a; suite.keymat_len()];
        keymat[..4].copy_from_slice(&sa.to_be_bytes());
        let key = SaKey::from_keymat(suite, &keymat)?;
        let cipher_key = &keymat[..suite.key_len()];
        self.raw
            .push(Aead::new(provider, suite, cipher_key).context("key length")?);
        self.peers
            .push(OutboundSa::new(spi(sa)?, &key, provider, true));
        let selectors = Selectors {
            local: vec![TrafficSelector::from_address(INSIDE.into())],
            remote: vec![TrafficSelector::from_address(inside(sa).into())],
        };
        let outer = OuterHeader {
            src_mac: MAC,
            dst_mac: MAC,
            vlan: None,
            addrs: OuterAddrs::V4 {
                src: OUR_SIDE,
                dst: PEER_SIDE,
            },
            udp: None,
            ttl: 64,
            df: DfPolicy::Copy,
            dscp: DscpPolicy::Copy,
            mtu: 1500,
        };
        let (tunnel, id) = (TunnelId(sa), EpochId(sa.into()));
        let epoch = Epoch::new(EpochConfig {
            tunnel,
            epoch: id,
            inbound: InboundSa::new(spi(sa)?, &key, provider, 4096, true),
            outbound: OutboundSa::new(spi(sa)?, &key, provider, true),
            selectors: selectors.clone(),
            outer: Some(outer),
            counters: Arc::new(SaCounters::default()),
            soft: Limits::default(),
            hard: Limits::default(),
        });
        self.command(Command::AddTunnel(Tunnel::new(tunnel, selectors, 0)))?;
        self.command(Command::Install(epoch))?;
        self.command(Command::Activate { tunnel, epoch: id })
    }

    fn command(&mut self, command: Command) -> Result<()> {
        ensure!(self.handle.send(command).is_ok(), "command ring full");
        self.worker.round(self.now)?;
        while let Some(event) = self.handle.poll_event() {
            ensure!(!matches!(event, Event::Refused { .. }), "command refused");
        }
        Ok(())
    }

    /// Brings one packet of this SA to the port where the case begins.
    fn inject(&mut self, case: &Case, sa: usize, packet: &mut [u8]) -> Result<()> {
        let remote = inside(u32::try_from(sa)?);
        let sealing = case.op == Op::Seal;
        let (src, dst) = if sealing {
            (INSIDE, remote)
        } else {
            (remote, INSIDE)
        };
        let payload = packet.len() - ipv4::HEADER_LEN;
        ipv4::Header::new(src, dst, protocol::UDP).emit(payload, packet)?;
        let peer = if sealing {
            &mut self.inner
        } else {
            &mut self.outer
        };
        let mut frame = peer.blank().context("no frame posted")?;
        let start = frame.range().start;
        let chunk = self.umem.chunk_mut(&mut frame);
        let eth = eth::Header::new(MAC, MAC, EtherType::IPV4);
        let ip = start + eth.emit(&mut chunk[start..])?;
        let end = if sealing {
            chunk[ip..ip + packet.len()].copy_from_slice(packet);
            ip + packet.len()
        } else {
            let esp = ip + ipv4::HEADER_LEN;
            let inner = esp + HEADROOM..esp + HEADROOM + packet.len();
            chunk[inner.clone()].copy_from_slice(packet);
            let sealed = self.peers[sa].seal(chunk, inner, protocol::IPV4, 0)?;
            let header = ipv4::Header::new(PEER_SIDE, OUR_SIDE, protocol::ESP);
            header.emit(sealed.len(), &mut chunk[ip..])?;
            sealed.end
        };
        frame.set_range(start..end);
        ensure!(peer.inject_frame(frame).is_ok(), "RX ring full");
        Ok(())
    }

    /// Takes away what the worker sent.
    fn drain(&mut self) -> usize {
        self.outer.drain(|_| ()) + self.inner.drain(|_| ())
    }
}

/// The same bytes through the cipher alone, at the same places: one buffer of a frame's size per
/// packet, the ICV behind the text.
struct Raw {
    memory: Vec<[u8; FRAME_SIZE]>,
    text_len: usize,
    sequence: u64,
}

const AAD: [u8; 12] = [7; 12];

fn nonce(sequence: u64) -> [u8; 12] {
    let mut nonce = [1; 12];
    nonce[4..].copy_from_slice(&sequence.to_be_bytes());
    nonce
}

impl Raw {
    fn new(inner_bytes: usize) -> Self {
        // Inner packet, padding and trailer: what ESP enciphers.
        let text_len = sealed_len(inner_bytes) - HEADROOM - ICV_LEN;
        Self {
            memory: vec![[0x11; FRAME_SIZE]; BURST],
            text_len,
            sequence: 1,
        }
    }

    /// One burst, timed.
    fn round(&mut self, op: Op, keys: &[Aead], order: &[usize]) -> Result<Duration> {
        if op == Op::Open {
            self.each(keys, order, |key, nonce, text, tag| {
                key.seal_into(nonce, &AAD, text, tag)
            })?;
        }
        let start = Instant::now();
        match op {
            Op::Seal => self.each(keys, order, |key, nonce, text, tag| {
                key.seal_into(nonce, &AAD, text, tag)
            })?,
            Op::Open => self.each(keys, order, |key, nonce, text, tag| {
                key.open(nonce, &AAD, text, tag)
            })?,
        }
        let elapsed = start.elapsed();
        self.sequence += BURST as u64;
        Ok(elapsed)
    }

    #[inline]
    fn each(
        &mut self,
        keys: &[Aead],
        order: &[usize],
        call: impl Fn(&Aead, [u8; 12], &mut [u8], &mut [u8; ICV_LEN]) -> Result<(), AeadError>,
    ) -> Result<()> {
        for ((buffer, &sa), n) in self.memory.iter_mut().zip(order).zip(self.sequence..) {
            let (text, rest) = buffer[TEXT_START..].split_at_mut(self.text_len);
            let tag = rest
                .first_chunk_mut()
                .context("packet longer than a frame")?;
            call(&keys[sa], nonce(n), text, tag)?;
        }
        Ok(())
    }
}

fn measure(case: &Case, time: Duration) -> Result<Row> {
    let mut bench = Bench::new(case)?;
    let mut raw = Raw::new(case.inner_bytes.into());
    let mut picker = Picker(0x1234_5678_9abc_def1, case.sas);
    let mut packet = vec![0x22; case.inner_bytes.into()];
    let mut order = vec![0; BURST];
    let (mut best, mut best_raw) = (Duration::MAX, Duration::MAX);
    let began = Instant::now();
    while began.elapsed() < time {
        let (mut window, mut raw_window) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..ROUNDS_PER_WINDOW {
            order.fill_with(|| picker.next());
            for &sa in &order {
                bench.inject(case, sa, &mut packet)?;
            }
            bench.now += Duration::from_micros(10);
            let start = Instant::now();
            bench.worker.round(bench.now)?;
            window += start.elapsed();
            ensure!(
                bench.drain() == BURST,
                "packets lost: {}",
                fates(&bench.handle)
            );
            while bench.handle.poll_event().is_some() {}
            raw_window += raw.round(case.op, &bench.raw, &order)?;
        }
        best = best.min(window);
        best_raw = best_raw.min(raw_window);
    }
    let done = if case.op == Op::Seal {
        Fate::Sealed
    } else {
        Fate::Opened
    };
    let fates_now = bench.handle.fates();
    ensure!(
        fates_now.get(done) == fates_now.total(),
        "lost: {}",
        fates(&bench.handle)
    );
    let per_packet =
        |d: Duration| d.as_secs_f64() * 1e9 / f64::from(ROUNDS_PER_WINDOW) / BURST as f64;
    Ok(Row {
        op: case.op,
        aead: aead_name(case.suite),
        provider: case.provider.name(),
        inner_bytes: case.inner_bytes,
        sas: case.sas,
        dist: "uniform",
        burst: BURST,
        ns_per_packet: per_packet(best),
        raw_aead_ns: per_packet(best_raw),
    })
}

fn fates(handle: &WorkerHandle) -> String {
    let counted = handle.fates().iter().filter(|&(_, n)| n > 0);
    counted
        .map(|(fate, n)| format!("{} {n} ", fate.label()))
        .collect()
}
