//! What an operator sees of the gate, and that control packets get through when data fills the tunnel.

mod common;
#[path = "common/live.rs"]
mod live;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use live::{End, INNER_CLIENT, INNER_GATEWAY, Lab, ready};
use serde_json::Value;

const MITREGATE: &str = env!("CARGO_BIN_EXE_mitregate");

/// `mitregate monitor --json` at an end.
struct Monitor {
    process: Child,
    events: Receiver<Value>,
}

impl Monitor {
    fn start(end: &End, about: &[&str]) -> Self {
        let mut process = end
            .ns
            .command(MITREGATE)
            .args(["--json", "--socket"])
            .arg(end.path("control.sock"))
            .arg("monitor")
            .args(about)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        let monitor = Self { process, events };
        assert_eq!(monitor.until("listening", |_| true).len(), 1);
        monitor
    }

    /// Events up to the first of this kind of which `is` holds.
    #[track_caller]
    fn until(&self, kind: &str, is: impl Fn(&Value) -> bool) -> Vec<Value> {
        let start = Instant::now();
        let mut seen = Vec::new();
        while start.elapsed() < Duration::from_secs(15) {
            if let Ok(event) = self.events.recv_timeout(Duration::from_millis(200)) {
                let found = event["event"] == kind && is(&event);
                seen.push(event);
                if found {
                    return seen;
                }
            }
        }
        panic!("no event `{kind}` in {seen:#?}");
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_monitor_tells_the_life_of_an_epoch_and_the_list_what_the_gate_did() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("mon", "", "");
    lab.up();
    let all = Monitor::start(&lab.client, &[]);
    let other = Monitor::start(&lab.client, &["nobody"]);
    let old = lab.client.epochs()[0].0;
    let answer = lab.client.json(&["rekey", "--child", "net"]);
    assert_eq!(answer["ok"], true, "{answer}");
    let seen = all.until("epoch", |e| e["epoch"] == old && e["to"] == "dead");
    let of = |kind: &str| -> Vec<&Value> { seen.iter().filter(|e| e["event"] == kind).collect() };
    let new = &of("epoch")[0]["epoch"];
    assert!(new.as_u64() > Some(old), "{seen:#?}");
    let states: Vec<_> = of("epoch")
        .iter()
        .filter(|e| e["epoch"] == *new)
        .map(|e| e["to"].as_str().unwrap_or("?").to_owned())
        .collect();
    assert_eq!(states, ["probing", "proven"], "{seen:#?}");
    let acts: Vec<_> = of("gate")
        .iter()
        .filter(|e| e["epoch"] == *new)
        .map(|e| (e["action"].clone(), e["why"].clone()))
        .collect();
    assert_eq!(acts[0], ("ping".into(), "it is new".into()), "{seen:#?}");
    assert_eq!(acts[1], ("activate".into(), "ping".into()), "{seen:#?}");
    for event in &seen[1..] {
        assert_eq!(event["tunnel"], "home/net", "{event}");
        assert!(event["unix_us"].is_u64() && event["boottime_us"].is_u64());
    }
    assert!(other.events.try_recv().is_err());
    let list = lab.client.sas();
    let tunnel = &list["tunnels"][0];
    assert!(tunnel["last_action"]["text"].is_string(), "{tunnel:#}");
    assert_eq!(tunnel["black_hole_ms"], 0, "{tunnel:#}");
    assert_eq!(tunnel["gate"]["pings_lost"], 0, "{tunnel:#}");

    // A black hole, noticed and ended.
    lab.middle.ip("link set g0 down");
    all.until("ping-lost", |_| true);
    lab.middle.ip("link set g0 up");
    let back = all.until("recovered", |_| true);
    let outage = back.last().unwrap()["outage_ms"].as_u64().unwrap();
    assert!(outage > 0);
    let list = lab.client.sas();
    let tunnel = &list["tunnels"][0];
    assert!(
        tunnel["black_hole_ms"].as_u64() >= Some(outage),
        "{tunnel:#}"
    );
    let recoveries = tunnel["gate"]["recoveries"].as_object().unwrap();
    let sum: u64 = recoveries.values().filter_map(Value::as_u64).sum();
    assert!(sum >= 1, "{tunnel:#}");
}

/// Stops the flood, also when a test fails in its middle.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn pings_and_ike_get_through_a_tunnel_full_of_data() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("flood", "", "");
    lab.up();
    let stop = AtomicBool::new(false);
    let count: u64 = 1000;
    std::thread::scope(|scope| {
        let flood = Stop(&stop);
        // As fast as the sender's core goes, both ways: more than a worker seals and opens.
        for (end, from, to) in [
            (&lab.client, INNER_CLIENT, INNER_GATEWAY),
            (&lab.gateway, INNER_GATEWAY, INNER_CLIENT),
        ] {
            let socket = end.udp(&format!("{from}:0"));
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    let _ = socket.send_to(&[0; 1200], (to, 9));
                }
            });
        }
        let counted = count.to_string();
        let pinged = lab
            .client
            .json(&["ping", "net", "--count", &counted, "--interval", "0.006"]);
        let epoch = lab.client.epochs().last().unwrap().0;
        let rekeyed = lab.client.json(&["rekey", "--child", "net"]);
        lab.client.eventually("a rekey under load", |end| {
            let proven = |(id, state): &(u64, String)| *id > epoch && state == "proven";
            end.epochs().iter().any(proven)
        });
        drop(flood);
        let (client, gateway) = (lab.client.stats(), lab.gateway.stats());
        assert_eq!(rekeyed["ok"], true);
        // A worker that gets no CPU for long loses what the kernel has nowhere to put; nothing else is lost.
        let starved = |stats: &Value| stats["outer"]["port"]["kernel_rx_dropped"].as_u64();
        let received = pinged["statistics"]["received"].as_u64().unwrap();
        let dropped = starved(&client).unwrap() + starved(&gateway).unwrap();
        assert!(
            received == count || received + dropped >= count,
            "{pinged}\n{client:#}\n{gateway:#}"
        );
        for stats in [&client, &gateway] {
            for fate in ["control_overflow", "no_frames"] {
                assert_eq!(stats["fates"][fate], 0, "{stats:#}");
            }
            assert_eq!(stats["control_not_sent"], 0, "{stats:#}");
        }
        // It was a flood.
        assert!(
            client["fates"]["sealed"].as_u64() > Some(20_000),
            "{client:#}"
        );
    });
    for end in [&lab.client, &lab.gateway] {
        let list = end.sas();
        assert_eq!(list["tunnels"][0]["gate"]["new_sessions"], 0, "{list:#}");
    }
}
