//! The lab itself, without a tunnel: what it builds, what it sees, and that it cleans up. Each test
//! needs root and says so when it is skipped.
#![allow(clippy::print_stderr)]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use mitregate_lab::{
    capture::Capture,
    flow::Flow,
    http, payload,
    ping::ping,
    sh,
    topology::{CLIENT_WAN, GATEWAY_WAN, Host, Lab, NAT_WAN, SERVER},
};
use rustix::process::{Pid, Signal, kill_process};

/// A name of this test alone; None without root.
fn name(tag: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return None;
    }
    Some(format!("mgt-test{}-{tag}", std::process::id()))
}

fn namespace(lab: &str, host: Host) -> PathBuf {
    Path::new("/run/netns").join(format!("{lab}-{}", host.name()))
}

fn run_dir(lab: &str) -> PathBuf {
    Path::new("/run/mitregate/lab").join(lab)
}

fn assert_gone(lab: &str) {
    assert!(!Host::ALL.iter().any(|host| namespace(lab, *host).exists()));
    assert!(!run_dir(lab).exists());
}

#[test]
fn hosts_reach_each_other_and_go() {
    let Some(name) = name("up") else { return };
    let lab = Lab::up(&name).unwrap();
    let pings = lab
        .host(Host::Client)
        .run(|| ping(SERVER.parse()?, 20, Duration::from_millis(5), b"hello"))
        .unwrap();
    assert_eq!((pings.sent, pings.received), (20, 20));
    // What nobody behind the NAT has asked for does not get in.
    let pings = lab
        .host(Host::Gw)
        .run(|| ping(CLIENT_WAN.parse()?, 5, Duration::from_millis(5), b"hello"))
        .unwrap();
    assert_eq!((pings.sent, pings.received), (5, 0));
    lab.take_down().unwrap();
    assert_gone(&name);
}

#[test]
fn the_leak_check_sees_plain_traffic() {
    let Some(name) = name("leak") else { return };
    let lab = Lab::up(&name).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let marker = payload::new_marker().unwrap();
    let file = dir.path().join("file");
    let sum = payload::write_file(&file, 4 << 20, &marker).unwrap();
    let _http = http::Server::start(lab.host(Host::Server), file, None).unwrap();
    let evidence = dir.path().join("leaked.pcap");
    let capture = Capture::start(
        lab.host(Host::Nat),
        "wan",
        [NAT_WAN.parse().unwrap(), GATEWAY_WAN.parse().unwrap()],
        vec![marker.to_vec()],
        evidence.clone(),
    )
    .unwrap();
    let client = lab.host(Host::Client);
    let fetched = client.run(|| http::fetch(SERVER.parse()?)).unwrap();
    assert_eq!((fetched.bytes, fetched.sha256), (4 << 20, sum));
    client
        .run(move || ping(SERVER.parse()?, 10, Duration::from_millis(2), &marker))
        .unwrap();
    let counts = capture.stop().unwrap();
    // 4 MiB in segments of at most 1460 bytes; ten pings and their answers.
    let segments = (4 << 20) / 1460;
    assert!(counts.marked >= segments + 20, "{counts:?}");
    assert!(counts.cleartext >= counts.marked, "{counts:?}");
    assert_eq!((counts.dropped, counts.esp, counts.esp_in_udp), (0, 0, 0));
    assert!(
        counts.examples.contains_key("203.0.113.2 → 10.2.0.2 TCP"),
        "{counts:?}"
    );
    assert!(evidence.metadata().unwrap().len() > 24);
}

#[test]
fn an_unreachable_route_refuses_and_nothing_leaks() {
    let Some(name) = name("closed") else { return };
    let lab = Lab::up(&name).unwrap();
    let client = lab.host(Host::Client);
    client.ip("route add unreachable 10.2.0.0/24").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let capture = Capture::start(
        lab.host(Host::Nat),
        "wan",
        [NAT_WAN.parse().unwrap(), GATEWAY_WAN.parse().unwrap()],
        vec![b"0123456789abcdef".to_vec()],
        dir.path().join("leaked.pcap"),
    )
    .unwrap();
    let flow = Flow::start(client, SERVER.parse().unwrap(), b"0123456789abcdef").unwrap();
    thread::sleep(Duration::from_millis(300));
    let attempts = flow.stop().unwrap();
    let counts = capture.stop().unwrap();
    assert!(attempts.attempts > 50, "{attempts:?}");
    assert_eq!(attempts.attempts, attempts.refused);
    assert_eq!((counts.cleartext, counts.dropped), (0, 0), "{counts:?}");
}

#[test]
fn somebody_elses_namespace_is_left_alone() {
    let Some(name) = name("other") else { return };
    let theirs = format!("{name}-gw");
    sh::run(&format!("ip netns add {theirs}")).unwrap();
    let error = Lab::up(&name)
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    assert!(error.contains("no lab made it"), "{error}");
    assert!(namespace(&name, Host::Gw).exists());
    assert!(!namespace(&name, Host::Client).exists());
    sh::run(&format!("ip netns del {theirs}")).unwrap();

    // One of ours that was replaced by another of the same name.
    let lab = Lab::up(&name).unwrap();
    sh::run(&format!("ip netns del {theirs}")).unwrap();
    sh::run(&format!("ip netns add {theirs}")).unwrap();
    lab.take_down().unwrap();
    assert!(namespace(&name, Host::Gw).exists());
    sh::run(&format!("ip netns del {theirs}")).unwrap();
    assert_gone(&name);
}

#[test]
fn a_standing_lab_is_found_again_and_not_built_over() {
    let Some(name) = name("stand") else { return };
    Lab::up(&name).unwrap().keep().unwrap();
    assert!(Lab::up(&name).is_err());
    let lab = Lab::standing(&name).unwrap();
    lab.host(Host::Nat).ip("route show default").unwrap();
    // One process at a time.
    assert!(Lab::down(&name).is_err());
    drop(lab);
    assert!(Lab::down(&name).unwrap());
    assert!(!Lab::down(&name).unwrap());
    assert_gone(&name);
}

/// `mitregate-lab` measuring for longer than anybody waits, once iperf3 runs in all its hosts.
fn long_run(name: &str) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_mitregate-lab"))
        .args(["baseline", "--seconds", "600", "--name", name])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let client = namespace(name, Host::Client);
    let busy = || {
        let pids = sh::run(&format!("ip netns pids {name}-client"));
        client.exists() && pids.is_ok_and(|pids| !pids.trim().is_empty())
    };
    wait_until(busy);
    child
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "waited in vain");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn signals_take_the_lab_down() {
    let Some(name) = name("signal") else { return };
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = long_run(&name);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(1), "{signal:?}");
        assert_gone(&name);
    }
}

#[test]
fn the_next_run_clears_away_what_a_killed_one_left() {
    let Some(name) = name("killed") else { return };
    let mut child = long_run(&name);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(namespace(&name, Host::Client).exists());
    let lab = Lab::up(&name).unwrap();
    // The old run's iperf3 went with its hosts.
    for host in Host::ALL {
        assert_eq!(
            sh::run(&format!("ip netns pids {}", lab.host(host).name())).unwrap(),
            ""
        );
    }
    drop(lab);
    assert_gone(&name);
}
