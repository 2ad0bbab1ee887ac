//! IKE handshakes per second as the responder, and memory per IKE SA: our state machine alone; and, by
//! turns, in the same namespaces, on the same core and under the same load, our daemon and strongSwan.
//!
//! Debian ships no load generator of strongSwan's, so the initiators are ours ([`load`]): many
//! handshakes under way at once, each with an identity of its own, on the other core. Each system
//! keeps all IKE SAs of a run; the growth of its resident memory, divided by their number, is the
//! memory per IKE SA.

mod engine;
mod load;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use mitregate_ike::{
    Announce, ChildConfig, Childless, Dynamic, EncapMode, Fragmentation, Identity, IkeConfig,
    LocalAuth, Mobike, PeerRekey, Psk, RemoteAuth, Retransmit,
};
use mitregate_lab::{
    daemon::{Daemon, cpu_time},
    interop::swan::{self, LogLevels, Release, Swan},
    interrupt, payload,
    topology::{CLIENT_WAN, GATEWAY_WAN, Host, Lab, Middle},
};
use rustix::thread::CpuSet;
use serde::Serialize;
use zeroize::Zeroizing;

use load::{Load, Outcome};

const SERVER_ID: &str = "gw@bench";
const NETWORK: &str = "10.2.0.0/24";
/// Room for all addresses that a run gives out.
const POOL: &str = "10.64.0.0/16";
const WARM_UP: u32 = 50;
/// Nothing is said by either.
const SILENT: LogLevels = LogLevels {
    default: -1,
    ike: -1,
};

#[derive(Args)]
pub struct Options {
    /// Write the rows there as well
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Handshakes in each run
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..=9000))]
    handshakes: u32,
    /// Runs of each system; the median counts
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Handshakes under way at a time
    #[arg(long, default_value_t = 32)]
    window: usize,
    /// Only exchanges whose name contains this
    #[arg(long)]
    exchange: Option<String>,
    /// Only systems whose name contains this
    #[arg(long)]
    system: Option<String>,
    /// A strongSwan beside the machine's own: VERSION=FOLDER
    #[arg(long)]
    peer: Vec<String>,
}

/// What is negotiated.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    name: &'static str,
    ike: &'static str,
    /// With a CHILD_SA and a virtual address; else childless (RFC 6023).
    child: bool,
    /// Only strongSwan from 6.1 on knows it.
    new: bool,
}

const EXCHANGES: &[Exchange] = &[
    Exchange {
        name: "psk-x25519",
        ike: "aes256gcm16-prfsha256-x25519",
        child: true,
        new: false,
    },
    Exchange {
        name: "psk-x25519-childless",
        ike: "aes256gcm16-prfsha256-x25519",
        child: false,
        new: false,
    },
    Exchange {
        name: "psk-ecp384",
        ike: "aes256gcm16-prfsha384-ecp384",
        child: true,
        new: false,
    },
    Exchange {
        name: "psk-modp2048-cbc",
        ike: "aes256-sha256-modp2048",
        child: true,
        new: false,
    },
    Exchange {
        name: "psk-modp3072-cbc",
        ike: "aes256-sha256-modp3072",
        child: true,
        new: false,
    },
    Exchange {
        name: "psk-x25519-mlkem768",
        ike: "aes256gcm16-prfsha256-x25519-ke1_mlkem768",
        child: true,
        new: true,
    },
];

#[derive(Clone, Debug)]
enum System {
    /// The state machine alone.
    Engine,
    Mitregate,
    Swan(Release),
}

impl System {
    fn name(&self) -> String {
        match self {
            System::Engine => "mitregate-engine".into(),
            System::Mitregate => "mitregate".into(),
            System::Swan(release) => format!("strongswan-{}", release.name),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    system: String,
    exchange: &'static str,
    /// By the clock, as the initiators see it.
    handshakes_per_s: f64,
    /// Per second of CPU time that the responder used.
    handshakes_per_cpu_s: f64,
    /// On which the responder may run.
    cores: u32,
    /// None when the run was too small to tell.
    bytes_per_ike_sa: Option<u64>,
    runs: usize,
}

/// One run.
struct Sample {
    wall: f64,
    cpu: f64,
    bytes: Option<u64>,
}

pub fn run(options: &Options) -> Result<Vec<Row>> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root"
    );
    interrupt::catch()?;
    let mut systems = vec![System::Engine, System::Mitregate];
    systems.push(System::Swan(Release {
        name: "5.9".into(),
        root: None,
    }));
    for peer in &options.peer {
        let (name, root) = peer.split_once('=').context("--peer VERSION=FOLDER")?;
        systems.push(System::Swan(Release {
            name: name.into(),
            root: Some(root.into()),
        }));
    }
    let fits = |only: &Option<String>, name: &str| only.as_ref().is_none_or(|o| name.contains(o));
    let mut rows = Vec::new();
    for exchange in EXCHANGES {
        if !fits(&options.exchange, exchange.name) {
            continue;
        }
        let able = |system: &&System| {
            let old = matches!(system, System::Swan(release) if release.name.starts_with("5."));
            fits(&options.system, &system.name()) && !(exchange.new && old)
        };
        let systems: Vec<_> = systems.iter().filter(able).collect();
        let mut samples: Vec<Vec<Sample>> = systems.iter().map(|_| Vec::new()).collect();
        // By turns: what the machine does meanwhile hits all alike.
        for turn in 0..options.runs.max(1) {
            for (system, samples) in systems.iter().zip(&mut samples) {
                eprintln!(
                    "  {}, {}: run {} of {}",
                    exchange.name,
                    system.name(),
                    turn + 1,
                    options.runs.max(1)
                );
                let fresh = rows.is_empty() && turn == 0;
                samples.push(measure(options, exchange, system, fresh)?);
            }
        }
        for (system, samples) in systems.iter().zip(samples) {
            rows.push(row(exchange, system, &samples));
        }
    }
    if rows.is_empty() {
        bail!("nothing fits --exchange and --system");
    }
    Ok(rows)
}

fn row(exchange: &Exchange, system: &System, samples: &[Sample]) -> Row {
    let bytes: Vec<_> = samples.iter().filter_map(|sample| sample.bytes).collect();
    Row {
        system: system.name(),
        exchange: exchange.name,
        handshakes_per_s: median(samples.iter().map(|sample| sample.wall)),
        handshakes_per_cpu_s: median(samples.iter().map(|sample| sample.cpu)),
        cores: 1,
        bytes_per_ike_sa: (!bytes.is_empty()).then(|| {
            let mut bytes = bytes;
            bytes.sort_unstable();
            bytes[bytes.len() / 2]
        }),
        runs: samples.len(),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "\n{:<22} {:<24} {:>13} {:>15} {:>13}\n",
        "exchange", "responder", "handshakes/s", "per CPU second", "bytes/IKE SA"
    );
    for row in rows {
        let bytes = row
            .bytes_per_ike_sa
            .map_or("–".to_owned(), |bytes| bytes.to_string());
        let _ = writeln!(
            text,
            "{:<22} {:<24} {:>13.0} {:>15.0} {bytes:>13}",
            row.exchange, row.system, row.handshakes_per_s, row.handshakes_per_cpu_s
        );
    }
    text
}

/// `fresh`: nothing has run in this process yet.
fn measure(options: &Options, exchange: &Exchange, system: &System, fresh: bool) -> Result<Sample> {
    let secret = payload::random_hex(16)?;
    let psk = Psk::new(Zeroizing::new(secret.clone().into_bytes()));
    let exchange = *exchange;
    if let System::Engine = system {
        return engine_alone(options.handshakes, exchange, &psk, fresh);
    }
    let lab = Lab::up_with("mitregate-bench", Middle::Router)?;
    let logs = mitregate_lab::topology::log_dir("mitregate-bench", None)?;
    lab.write_secret("secret", &secret)?;
    let (_daemon, _swan, pid);
    match system {
        System::Swan(release) => {
            let conf = swanctl(exchange, &secret);
            swan::configure(&lab, Host::Gw, SILENT, CHARON, &conf)?;
            let swan = Swan::start(&lab, Host::Gw, release, &logs)?;
            pid = swan.pid();
            _swan = swan;
        }
        _ => {
            let run = lab.run_dir().display().to_string();
            lab.write_secret("gw.toml", &toml(exchange, &run))?;
            let mut daemon = Daemon::start(&lab, Host::Gw, &logs)?;
            daemon.wait_ready(Duration::from_secs(20))?;
            pid = daemon.pid();
            _daemon = daemon;
        }
    }
    // All its threads on one core; the initiators have the other.
    let taskset = format!("taskset --all-tasks --cpu-list --pid 0 {pid}");
    mitregate_lab::sh::run(&taskset)?;
    let (count, window) = (options.handshakes, options.window);
    let (outcome, cpu, grown) = lab.host(Host::Client).run(move || {
        let mut cores = CpuSet::new();
        cores.set(1);
        // With one core only, they share it.
        let _ = rustix::thread::sched_setaffinity(None, &cores);
        let mut load = Load::new(CLIENT_WAN.parse()?, GATEWAY_WAN.parse()?, 1)?;
        let config = |n| client(exchange, n, &psk);
        load.run(WARM_UP, window, &config)?;
        let (cpu, memory) = (cpu_time(pid)?, resident(pid)?);
        let outcome = load.run(count, window, &|n| config(WARM_UP + n))?;
        let grown = resident(pid)?.saturating_sub(memory);
        Ok((outcome, cpu_time(pid)? - cpu, grown))
    })?;
    let Outcome { done, failed, took } = outcome;
    if failed > 0 {
        eprintln!("    {failed} handshakes were given up and begun again");
    }
    let done = f64::from(done);
    Ok(Sample {
        wall: done / took.as_secs_f64(),
        cpu: done / cpu.as_secs_f64().max(0.01),
        bytes: Some(grown / u64::from(count)),
    })
}

fn engine_alone(count: u32, exchange: Exchange, psk: &Psk, fresh: bool) -> Result<Sample> {
    let before = resident(std::process::id())?;
    let (timed, kept) = engine::run(count, server(exchange, psk)?, &|n| client(exchange, n, psk))?;
    let grown = resident(std::process::id())?.saturating_sub(before);
    let rate = f64::from(count) / timed.as_secs_f64();
    drop(kept);
    Ok(Sample {
        wall: rate,
        cpu: rate,
        // The allocator gives little back between two runs, so that only the first one tells.
        bytes: fresh.then_some(grown / u64::from(count)),
    })
}

fn common(exchange: Exchange, psk: &Psk, id: Identity) -> IkeConfig {
    IkeConfig {
        name: "bench".into(),
        local_id: id,
        remote_id: None,
        local_auth: LocalAuth::Psk(psk.clone()),
        remote_auth: RemoteAuth::Psk(psk.clone()),
        proposals: exchange.ike.parse().into_iter().collect(),
        children: Vec::new(),
        encap: EncapMode::Auto,
        retransmit: Retransmit::default(),
        fragmentation: Fragmentation::default(),
        resumption: false,
        announce: Announce::default(),
        peer_rekey: PeerRekey::default(),
        vips: Vec::new(),
        assigns: false,
        childless: if exchange.child {
            Childless::Never
        } else {
            Childless::Force
        },
        initial_contact: false,
        mobike: Mobike::default(),
    }
}

fn child(dynamic: Dynamic) -> Result<ChildConfig> {
    let network = || Ok::<_, anyhow::Error>(vec![NETWORK.parse()?]);
    Ok(ChildConfig {
        name: "net".into(),
        esp_proposals: vec!["aes256gcm16".parse()?],
        local_ts: if dynamic.local {
            Vec::new()
        } else {
            network()?
        },
        remote_ts: if dynamic.remote {
            Vec::new()
        } else {
            network()?
        },
        dynamic,
    })
}

/// The n-th initiator.
fn client(exchange: Exchange, n: u32, psk: &Psk) -> Arc<IkeConfig> {
    let id = format!("client-{n}@bench").parse();
    let id = id.unwrap_or_else(|_| Identity::from(std::net::IpAddr::from([192, 0, 2, 2])));
    let mut config = common(exchange, psk, id);
    if exchange.child {
        config.vips = vec![std::net::Ipv4Addr::UNSPECIFIED.into()];
    }
    let dynamic = Dynamic {
        local: true,
        remote: false,
    };
    config.children.extend(child(dynamic));
    Arc::new(config)
}

fn server(exchange: Exchange, psk: &Psk) -> Result<IkeConfig> {
    let mut config = common(exchange, psk, SERVER_ID.parse()?);
    config.assigns = exchange.child;
    if !exchange.child {
        config.childless = Childless::Allow;
    }
    let dynamic = Dynamic {
        local: false,
        remote: true,
    };
    config.children.push(child(dynamic)?);
    Ok(config)
}

/// The daemon's side of the same; its defences against floods are off: all initiators have one address.
fn toml(exchange: Exchange, run: &str) -> String {
    format!(
        r#"[daemon]
control_socket = "{run}/gw.sock"
log = "error"
half_open_limit = 100000
half_open_per_source = 100000
cookie_threshold = 100000
inits_per_second = 1000000
inits_per_source = 1000000

[outer]
interface = "wan"

[inner]
interface = "mg0"

[connections.bench]
role = "server"
local_addrs = ["{GATEWAY_WAN}"]
remote_addrs = ["%any"]
proposals = ["{ike}"]
pools = ["clients"]
max_peers = 10000
local.id = "{SERVER_ID}"
remote.id = "*@bench"

[connections.bench.children.net]
local_ts = ["{NETWORK}"]
remote_ts = ["dynamic"]
esp_proposals = ["aes256gcm16"]

[pools.clients]
addrs = "{POOL}"

[secrets.bench]
secret_file = "{run}/secret"
"#,
        ike = exchange.ike
    )
}

/// Its defences against floods are off, its tables as its manual advises for many IKE SAs.
const CHARON: &str = "  cookie_threshold = 0
  block_threshold = 0
  init_limit_half_open = 0
  init_limit_job_load = 0
  ikesa_table_size = 4096
  ikesa_table_segments = 16";

fn swanctl(exchange: Exchange, secret: &str) -> String {
    format!(
        "connections {{
  bench {{
    version = 2
    local_addrs = {GATEWAY_WAN}
    remote_addrs = %any
    proposals = {ike}
    encap = yes
    unique = never
    mobike = no
    pools = clients
    local {{
      auth = psk
      id = {SERVER_ID}
    }}
    remote {{
      auth = psk
      id = *@bench
    }}
    children {{
      net {{
        local_ts = {NETWORK}
        remote_ts = dynamic
        esp_proposals = aes256gcm16
      }}
    }}
  }}
}}
pools {{
  clients {{
    addrs = {POOL}
  }}
}}
secrets {{
  ike-bench {{
    secret = \"{secret}\"
  }}
}}
",
        ike = exchange.ike
    )
}

/// Bytes in RAM (proc(5): `VmRSS`, in KiB).
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    Ok(word.context("no VmRSS")?.parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_shakes_hands_both_ways() {
        let psk = Psk::new(Zeroizing::new(b"secret".to_vec()));
        for exchange in EXCHANGES {
            let server = server(*exchange, &psk).unwrap();
            let client = |n| client(*exchange, n, &psk);
            let (timed, kept) = engine::run(3, server, &client).unwrap();
            assert!(timed > Duration::ZERO);
            let children = kept.iter().map(|sa| sa.children().count());
            assert_eq!(children.sum::<usize>(), if exchange.child { 3 } else { 0 });
        }
    }

    #[test]
    fn the_middle_one_counts() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
    }
}
