//! Some seeds of each scenario, that a seed replays, and that its capture can be read by tshark.

#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::Command;

use mitregate_lab::sim::runner::Trial;

fn scenario(name: &str) -> Trial {
    let mut all = Trial::all().into_iter();
    all.find(|trial| trial.name() == name).unwrap()
}

#[test]
fn some_seeds_of_each_scenario_pass() {
    let runs: Vec<_> = Trial::all()
        .into_iter()
        .flat_map(|s| (0..s.tested()).map(move |seed| (s, seed)))
        .collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failures = std::sync::Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((scenario, seed)) =
                    runs.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    if let Some(violation) = scenario.run(*seed, false).violation {
                        let replay = mitregate_lab::sim::runner::command(scenario, *seed);
                        failures
                            .lock()
                            .unwrap()
                            .push(format!("{violation}\n    {replay}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let scenario = scenario("chaos");
    let digest = |seed, traced| scenario.run(seed, traced).digest;
    assert_eq!(digest(3, false), digest(3, false));
    // Being watched changes nothing.
    assert_eq!(digest(3, false), digest(3, true));
    assert_ne!(digest(3, false), digest(4, false));
}

#[test]
fn another_process_gives_the_same_run() {
    let line = |_| {
        let mut lab = Command::new(env!("CARGO_BIN_EXE_mitregate-lab"));
        let out = lab
            .args(["sim", "--scenario", "chaos", "--seed", "3"])
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let [first, second] = [0, 1].map(line);
    assert_eq!(first, second);
    let digest = scenario("chaos").run(3, false).digest;
    assert!(first.contains(&digest[..16]), "{first}");
}

#[test]
fn the_diagram_names_hosts_exchanges_and_payloads() {
    let run = scenario("rekey-child").run(1, true);
    let (names, trace) = run.trace.as_ref().unwrap();
    let diagram = trace.diagram(names, &run.world.referee.ring, false);
    for words in [
        "client",
        "gw",
        "IKE_SA_INIT request 0",
        "HDR, SK {IDi, ",
        "IKE_AUTH response 1",
        "CREATE_CHILD_SA request",
        "N(REKEY_SA ESP ",
        "ping",
        "pong",
        "✗ lost",
        "↻ again",
        "▶",
        "◀",
    ] {
        assert!(diagram.contains(words), "{words}:\n{diagram}");
    }
    assert!(!diagram.contains("SK {?}"), "{diagram}");
}

fn tshark(home: &Path, arguments: &[&str]) -> Option<String> {
    let mut tshark = Command::new("tshark");
    tshark.env("HOME", home);
    tshark.env("XDG_CONFIG_HOME", home.join(".config"));
    match tshark.args(arguments).output() {
        Ok(out) => {
            assert!(out.status.success(), "{out:?}");
            Some(String::from_utf8(out.stdout).unwrap())
        }
        Err(error) => {
            assert!(
                std::env::var_os("MITREGATE_TEST_ALL").is_none(),
                "tshark: {error}"
            );
            println!("skipped: no tshark");
            None
        }
    }
}

/// By what nobody here wrote: each IKE message and each ESP packet decrypts, and nothing is malformed.
#[test]
fn tshark_reads_a_capture_with_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    for seed in [1, 2] {
        let run = scenario("rekey-child").run(seed, true);
        let (_, trace) = run.trace.as_ref().unwrap();
        let path = dir.path().join(format!("{seed}.pcap"));
        let capture = trace.write_capture(&path, &run.world.referee.ring).unwrap();
        let pcap = path.to_str().unwrap();
        let count = |filter: &str| {
            let out = tshark(&capture.home, &["-r", pcap, "-Y", filter])?;
            Some(out.lines().count())
        };
        // SK (RFC 7296 §3.14): what says INVALID_IKE_SPI, for one, has none.
        let Some(encrypted) = count("isakmp.typepayload == 46") else {
            return;
        };
        assert!(encrypted > 10, "{encrypted}");
        assert_eq!(count("_ws.malformed"), Some(0));
        assert_eq!(count("isakmp.enc.decrypted"), Some(encrypted));
        assert!(count("isakmp.ts.start_ipv4").unwrap() > 3);
        assert!(count("isakmp.notify.msgtype == 16393").unwrap() > 0);
        // The inner packets of ESP.
        let inner = count("esp && udp.srcport == 1000 && udp.dstport == 2000").unwrap();
        assert!(inner > 50, "{inner}");
    }
}
