//! `setup`: what building, the demo and the tests need, installed once.
//!
//! Idempotent and quick when nothing is missing, so the other commands call [`ensure`] themselves.

use std::{env, process::Command};

use anyhow::{Result, bail};

use crate::{ebpf, sh};

/// How much of it: each level includes those before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    Build,
    Demo,
    Interop,
    Test,
}

/// A Debian package and why we want it.
pub type Package = (&'static str, &'static str);

const BUILD: &[Package] = &[
    (
        "gcc",
        "compiles the C parts of aws-lc and libbpf, and links",
    ),
    ("libc6-dev", "C headers"),
    ("make", "builds libbpf"),
    ("pkg-config", "finds libelf and zlib for libbpf"),
    ("libelf-dev", "libbpf reads ELF with it"),
    ("zlib1g-dev", "libelf needs it"),
];
const DEMO: &[Package] = &[
    ("iproute2", "ip and tc: namespaces, links, routes, queues"),
    ("nftables", "the NAT in the middle"),
    ("conntrack", "makes the NAT forget, and shows what it knows"),
    ("ethtool", "switches offloads off"),
    ("tcpdump", "the capture that the leak check reads"),
    ("iperf3", "TCP measurements"),
];
const TEST: &[Package] = &[("g++", "compiles libFuzzer")];
/// Recommended packages stay away: some of them would upgrade systemd.
const INTEROP: &[Package] = &[
    ("strongswan-charon", "strongSwan's daemon: the peer"),
    ("strongswan-swanctl", "its command line"),
    ("libcharon-extra-plugins", "its ESP in userspace"),
    (
        "libstrongswan-standard-plugins",
        "AES-GCM, Curve25519 and ChaCha20-Poly1305 for it",
    ),
    ("tshark", "decrypts what was captured"),
    (
        "openssl",
        "makes certificates, and judges those that we make",
    ),
];
/// Beside strongSwan.
const RECOVERY: &[Package] = &[
    ("wireguard-go", "WireGuard in userspace: compared with"),
    ("wireguard-tools", "wg, which configures it"),
];
/// For a Debian of another release in a folder.
const ROOT: &[Package] = &[("mmdebstrap", "makes a newer Debian in a folder")];

/// A cargo tool: crate, version, the command that prints its version, and why we want it.
struct Tool {
    name: &'static str,
    version: &'static str,
    probe: &'static [&'static str],
    why: &'static str,
    need: Need,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "bpf-linker",
        version: ebpf::BPF_LINKER,
        probe: &["bpf-linker", "--version"],
        why: "links the eBPF objects",
        need: Need::Build,
    },
    Tool {
        name: "cargo-deny",
        version: "0.20.2",
        probe: &["cargo", "deny", "--version"],
        why: "checks licences, bans and sources of the dependencies",
        need: Need::Test,
    },
    Tool {
        name: "cargo-fuzz",
        version: "0.13.2",
        probe: &["cargo", "fuzz", "--version"],
        why: "runs the fuzz targets",
        need: Need::Test,
    },
];

pub fn run() -> Result<()> {
    ensure(Need::Test)?;
    println!("nothing is missing: ready to build, to run the demo and the tests");
    Ok(())
}

/// Install what is missing up to that level, saying what and why.
pub fn ensure(need: Need) -> Result<()> {
    let mut wanted = BUILD.to_vec();
    if need >= Need::Demo {
        wanted.extend(DEMO);
    }
    if need >= Need::Interop {
        wanted.extend(INTEROP);
    }
    if need >= Need::Test {
        wanted.extend(TEST);
    }
    wanted.extend(ebpf::packages());
    install_packages(&wanted)?;
    ebpf::prepare()?;
    for tool in TOOLS.iter().filter(|tool| tool.need <= need) {
        install_tool(tool)?;
    }
    if need >= Need::Test {
        install_components()?;
    }
    Ok(())
}

/// All that [`crate::bench`]'s comparison under faults needs.
pub fn ensure_recovery() -> Result<()> {
    ensure(Need::Interop)?;
    install_packages(RECOVERY)
}

/// What [`crate::interop`] makes its roots with.
pub fn ensure_root_maker() -> Result<()> {
    install_packages(ROOT)
}

fn install_packages(wanted: &[Package]) -> Result<()> {
    if !sh::have("dpkg-query") {
        return check_tools();
    }
    let missing = missing_packages(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    sh::step("installing Debian packages:");
    for (name, why) in &missing {
        println!("      {name:<30} {why}");
    }
    sh::need_root("installing packages")?;
    let apt = |args: &[&str]| {
        sh::run(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(args),
        )
    };
    apt(&["update", "-qq"])?;
    let mut install = vec!["install", "-qq", "-y", "--no-install-recommends"];
    install.extend(&names);
    apt(&install)
}

/// Where there is no dpkg we install nothing, and only say what is not there.
fn check_tools() -> Result<()> {
    let tools = [
        "gcc",
        "g++",
        "make",
        "pkg-config",
        "ip",
        "nft",
        "ethtool",
        "tcpdump",
        "iperf3",
        "swanctl",
        "tshark",
    ];
    let absent: Vec<_> = tools.into_iter().filter(|tool| !sh::have(tool)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    bail!(
        "this is no Debian: install {} (and libelf's and zlib's headers) by hand",
        absent.join(", ")
    )
}

/// Those that dpkg does not call installed.
fn missing_packages(wanted: &[Package]) -> Vec<Package> {
    // dpkg-query fails when it does not know one of the names, and still prints the others.
    let known = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(wanted.iter().map(|(name, _)| name))
        .output();
    let known = known.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let known = known.unwrap_or_default();
    let installed = |name: &str| {
        known
            .lines()
            .any(|line| line.split_once(' ') == Some(("installed", name)))
    };
    wanted
        .iter()
        .filter(|(name, _)| !installed(name))
        .copied()
        .collect()
}

fn install_tool(tool: &Tool) -> Result<()> {
    let Tool {
        name,
        version,
        probe,
        why,
        ..
    } = tool;
    let found = sh::output(Command::new(probe[0]).args(&probe[1..])).unwrap_or_default();
    if found.split_whitespace().any(|word| word == *version) {
        return Ok(());
    }
    sh::step(&format!(
        "installing {name} {version} by cargo: {why} (takes a minute or more)"
    ));
    let spec = format!("{name}@{version}");
    // Its own build folder, and not our flags, which may be meant for another target.
    let mut cargo = sh::cargo(["install", "--locked", &spec]);
    sh::run(cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS"))
}

/// rustup's minimal profile comes without them.
fn install_components() -> Result<()> {
    for (probe, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if sh::output(&mut sh::cargo([probe, "--version"])).is_err() {
            sh::step(&format!("installing rustup's {component}"));
            let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".into());
            sh::run(Command::new("rustup").args([
                "component",
                "add",
                "--toolchain",
                &toolchain,
                component,
            ]))?;
        }
    }
    Ok(())
}
