//! `doctor`: what this machine offers, what is wrong, and what to do about it. Changes nothing.

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use clap::Args;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use serde::Serialize;

use crate::{ebpf, netdev, sh};

#[derive(Args)]
pub struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Something works less well, or only some commands are affected.
    Warn,
    /// The demo cannot run.
    Fail,
}

#[derive(Serialize)]
struct Finding {
    area: &'static str,
    name: String,
    verdict: Verdict,
    found: String,
    /// Empty when all is well.
    advice: String,
}

#[derive(Default)]
struct Doctor {
    findings: Vec<Finding>,
}

pub fn run(options: &Options) -> Result<()> {
    let mut doctor = Doctor::default();
    doctor.kernel();
    doctor.rights();
    doctor.toolchains();
    doctor.tools();
    doctor.interfaces();
    let healthy = doctor
        .findings
        .iter()
        .all(|finding| finding.verdict != Verdict::Fail);
    if options.json {
        let report = serde_json::json!({ "ok": healthy, "findings": doctor.findings });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&doctor.findings, healthy);
    }
    if !healthy {
        std::process::exit(1);
    }
    Ok(())
}

impl Doctor {
    fn add(&mut self, area: &'static str, name: &str, verdict: Verdict, found: &str, advice: &str) {
        let advice = if verdict == Verdict::Ok { "" } else { advice };
        let [name, found, advice] = [name, found, advice].map(str::to_owned);
        self.findings.push(Finding {
            area,
            name,
            verdict,
            found,
            advice,
        });
    }

    /// One that must hold: `Fail` otherwise.
    fn must(&mut self, area: &'static str, name: &str, holds: bool, found: &str, advice: &str) {
        let verdict = if holds { Verdict::Ok } else { Verdict::Fail };
        self.add(area, name, verdict, found, advice);
    }

    /// One that helps: `Warn` otherwise.
    fn should(&mut self, area: &'static str, name: &str, holds: bool, found: &str, advice: &str) {
        let verdict = if holds { Verdict::Ok } else { Verdict::Warn };
        self.add(area, name, verdict, found, advice);
    }

    fn kernel(&mut self) {
        let area = "kernel";
        let release = read("/proc/sys/kernel/osrelease");
        self.must(
            area,
            "release",
            at_least(&release, (5, 15)),
            &release,
            "Linux 5.15 or newer is needed: XDP links, shared UMEM",
        );
        self.must(
            area,
            "BTF",
            Path::new("/sys/kernel/btf/vmlinux").exists(),
            "/sys/kernel/btf/vmlinux",
            "absent: the maps carry BTF; use a kernel with CONFIG_DEBUG_INFO_BTF",
        );
        let jit = read("/proc/sys/net/core/bpf_jit_enable");
        self.should(
            area,
            "eBPF JIT",
            jit == "1" || jit == "2",
            &format!("net.core.bpf_jit_enable = {jit}"),
            "interpreted XDP is slow: sysctl net.core.bpf_jit_enable=1",
        );
        let xdp = socket_with(
            AddressFamily::XDP,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        );
        let (holds, found) = match &xdp {
            Ok(_) => (true, "a socket opens".to_owned()),
            Err(error) => (false, format!("no socket: {error}")),
        };
        self.must(
            area,
            "AF_XDP",
            holds,
            &found,
            "needs CONFIG_XDP_SOCKETS, and root",
        );
        let known = read("/proc/filesystems")
            .lines()
            .any(|line| line.ends_with("\tbpf"));
        let mounted = read("/proc/mounts")
            .lines()
            .any(|line| line.split(' ').nth(2) == Some("bpf"));
        self.should(
            area,
            "bpffs",
            known,
            if mounted {
                "mounted"
            } else {
                "known to the kernel, not mounted (`load` does that)"
            },
            "unknown to the kernel: `load` cannot pin; the daemon does not need it",
        );
        // In a network namespace of its own, gone with the command.
        for (name, script) in [
            ("veth", "ip link add v0 type veth peer name v1"),
            (
                "masquerade",
                "nft 'table ip t { chain c { type nat hook postrouting priority 100; masquerade; }; }'",
            ),
            (
                "pfifo",
                "ip link set lo up && tc qdisc add dev lo root pfifo limit 10",
            ),
        ] {
            let probe = Command::new("unshare")
                .args(["--net", "sh", "-c", script])
                .output();
            let (holds, found) = match probe {
                Ok(out) if out.status.success() => (true, "works in a new namespace".to_owned()),
                Ok(out) => (
                    false,
                    String::from_utf8_lossy(&out.stderr).trim().to_owned(),
                ),
                Err(error) => (false, format!("cannot run unshare: {error}")),
            };
            self.must(
                area,
                name,
                holds,
                &found,
                "the lab needs it: root, `setup`, or a fuller kernel",
            );
        }
    }

    fn rights(&mut self) {
        let area = "rights";
        let status = read("/proc/self/status");
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        // include/uapi/linux/capability.h
        for (bit, name, why) in [
            (12, "CAP_NET_ADMIN", "interfaces, routes, XDP"),
            (13, "CAP_NET_RAW", "AF_XDP and raw sockets"),
            (21, "CAP_SYS_ADMIN", "network namespaces"),
            (38, "CAP_PERFMON", "the verifier's pointer checks"),
            (39, "CAP_BPF", "loading XDP programs"),
        ] {
            let holds = effective.is_some_and(|set| set >> bit & 1 == 1);
            let found = if holds { "held" } else { "not held" };
            self.must(area, name, holds, &format!("{found}: {why}"), "run as root");
        }
        let limits = read("/proc/self/limits");
        let memlock = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max locked memory"));
        let memlock = memlock
            .and_then(|line| line.split_whitespace().next())
            .unwrap_or("unknown");
        let release = read("/proc/sys/kernel/osrelease");
        // Since 5.11 BPF maps are charged to the memory cgroup; UMEMs still count.
        let enough = memlock == "unlimited"
            || sh::is_root()
            || (at_least(&release, (5, 11))
                && memlock.parse::<u64>().is_ok_and(|bytes| bytes >= 64 << 20));
        self.should(
            area,
            "memlock",
            enough,
            &format!("{memlock} (bytes; root may exceed it)"),
            "an AF_XDP UMEM of some MiB is locked memory: ulimit -l unlimited",
        );
    }

    fn toolchains(&mut self) {
        let area = "toolchains";
        let rustc = sh::output(Command::new("rustc").arg("--version")).unwrap_or_default();
        let version = rustc.split(' ').nth(1).unwrap_or_default();
        self.must(
            area,
            "rustc",
            at_least(version, (1, 95)),
            rustc.trim(),
            "1.95 or newer is needed: rustup update stable",
        );
        match ebpf::choose() {
            Ok(choice) => self.add(area, "eBPF", Verdict::Ok, &choice.describe(), ""),
            Err(error) => {
                self.add(
                    area,
                    "eBPF",
                    Verdict::Warn,
                    &format!("{error:#}"),
                    "cargo xtask setup",
                );
            }
        }
        let linker = sh::output(Command::new("bpf-linker").arg("--version")).unwrap_or_default();
        let right = linker
            .split_whitespace()
            .any(|word| word == ebpf::BPF_LINKER);
        let found = if linker.is_empty() {
            "not installed"
        } else {
            linker.trim()
        };
        let advice = format!("version {} is wanted: cargo xtask setup", ebpf::BPF_LINKER);
        self.should(area, "bpf-linker", right, found, &advice);
    }

    fn tools(&mut self) {
        for (tool, what) in [
            ("cc", "compiles aws-lc, libbpf and xtask itself"),
            ("make", "builds libbpf"),
            ("pkg-config", "finds libelf"),
            ("ip", "the lab"),
            ("tc", "the lab"),
            ("nft", "the lab"),
            ("ethtool", "the lab"),
            ("tcpdump", "the demo"),
            ("iperf3", "the demo"),
        ] {
            let place = sh::find(tool).map(|path| path.display().to_string());
            let found = place.clone().unwrap_or_else(|| format!("absent: {what}"));
            self.should("tools", tool, place.is_some(), &found, "cargo xtask setup");
        }
    }

    fn interfaces(&mut self) {
        let features = netdev::xdp_features();
        if let Err(error) = &features {
            let found = format!("the kernel does not tell: {error}");
            self.add(
                "interfaces",
                "XDP features",
                Verdict::Warn,
                &found,
                "told since Linux 6.3",
            );
        }
        let features = features.unwrap_or_default();
        let mut names: Vec<_> = fs::read_dir("/sys/class/net")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        for name in names {
            let dir = format!("/sys/class/net/{name}");
            if read(&format!("{dir}/type")) != "1" {
                continue; // not Ethernet
            }
            let index = read(&format!("{dir}/ifindex")).parse().unwrap_or(0);
            let mode = match features.get(&index) {
                None => "XDP mode unknown",
                Some(f) if f.zero_copy() => "native XDP, AF_XDP zero-copy",
                Some(f) if f.native() => "native XDP, AF_XDP by copy",
                Some(_) => "generic XDP only",
            };
            let queues = |kind: &str| {
                let entries = fs::read_dir(format!("{dir}/queues")).into_iter().flatten();
                entries
                    .filter_map(Result::ok)
                    .filter(|entry| entry.file_name().to_string_lossy().starts_with(kind))
                    .count()
            };
            let driver = fs::read_link(format!("{dir}/device/driver")).ok();
            let driver = driver.as_deref().and_then(Path::file_name);
            let driver = driver.map_or("virtual".into(), |name| name.to_string_lossy());
            let (rx, tx, mtu) = (queues("rx-"), queues("tx-"), read(&format!("{dir}/mtu")));
            let found = format!("{driver}, {rx} rx and {tx} tx queues, MTU {mtu}, {mode}");
            let native = features.get(&index).is_none_or(|f| f.native());
            let advice =
                "works, slower: XDP runs after the skb is made; prefer a driver with native XDP";
            self.should("interfaces", &name, native, &found, advice);
        }
    }
}

fn print(findings: &[Finding], healthy: bool) {
    let mut area = "";
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            println!("{area}");
        }
        let mark = match finding.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        println!("  {mark} {:<14} {}", finding.name, finding.found);
        if !finding.advice.is_empty() {
            println!("       {:<14} → {}", "", finding.advice);
        }
    }
    println!();
    if healthy {
        println!("This machine can run the demo: cargo xtask demo");
    } else {
        println!("What FAILs keeps the demo from running here.");
    }
}

/// A small file's text without the newline at its end; empty when it cannot be read.
fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

/// Is a version like "6.18.44-x" at least that?
fn at_least(version: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(at_least("6.18.44-fc", (5, 15)));
        assert!(at_least("1.95.0", (1, 95)));
        assert!(!at_least("5.4.0-100-generic", (5, 15)));
        assert!(!at_least("", (1, 0)));
    }
}
