//! Plays a script in a lab of its own, and notes when each datagram, each event came.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::script::{Act, Flow, Script, Way};
use crate::{
    daemon::{self, Control, Daemon, Settings, epochs},
    interrupt,
    nat_box::Faults,
    probe::{Probe, Trace},
    topology::{Host, Lab, Middle, Plan, SERVER},
};

/// Between two datagrams.
pub const PACE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(50);
const PORT: u16 = 7200;
/// Less is what a busy machine does.
const NOTICED: Duration = Duration::from_millis(300);
/// A silence at the end that is no longer than this may just be its end.
const BROKEN: Duration = Duration::from_secs(1);

/// What a client's daemon told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A ping was answered.
    Answered,
    /// A ping was not answered in time.
    Unanswered,
    /// Data goes by a new epoch.
    Epoch,
    /// A new IKE SA.
    Session,
}

/// An event of a client's daemon, seconds from the start.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: f64,
    pub client: u8,
    pub kind: Kind,
    pub text: String,
}

/// One way through one tunnel.
#[derive(Clone, Debug)]
pub struct Lane {
    pub client: u8,
    pub way: Way,
    /// When each was sent, and when it came, seconds from the start.
    pub datagrams: Vec<(f64, Option<f64>)>,
    /// Silences from the first step on, seconds; the last one may be without an end.
    pub outages: Vec<(f64, f64)>,
    /// The last outage lasts to the end.
    pub for_good: bool,
}

/// What came of a script.
#[derive(Clone, Debug, Default)]
pub struct Played {
    pub lanes: Vec<Lane>,
    pub events: Vec<Event>,
}

/// Play it.
pub fn play(script: &Script, gate: bool, name: &str, logs: &Path) -> Result<Played> {
    let plan = Plan {
        middle: Middle::Model(script.model),
        clients: script.clients,
        detached: false,
    };
    let lab = Lab::up_with(name, plan)?;
    let settings = Settings {
        encap: script.encap,
        gate: if gate { "auto" } else { "off" }.into(),
        ..Settings::default()
    };
    daemon::configure(&lab, &settings)?;
    let mut gateway = Daemon::start(&lab, Host::Gw, logs)?;
    gateway.wait_ready(PATIENCE)?;
    let mut stage = Stage {
        script,
        lab: &lab,
        logs,
        start: Instant::now(),
        gateway: Some(gateway),
        clients: BTreeMap::new(),
        monitors: Vec::new(),
        events: Arc::default(),
    };
    // One after the other, whatever the NAT does: how they come up is not what is shown.
    for client in 1..=script.clients {
        stage.start_client(client)?;
        let daemon = stage.clients.get_mut(&client).context("no client")?;
        wait_active(daemon)?;
    }
    let played = stage.play()?;
    lab.take_down()?;
    Ok(played)
}

/// Until data may flow; with the gate off, nothing is ever proven.
fn wait_active(daemon: &mut Daemon) -> Result<()> {
    interrupt::poll("a tunnel to carry data", TICK, PATIENCE, || {
        daemon.check()?;
        let Ok(list) = daemon.control().ask(&["list-sas"]) else {
            return Ok(None);
        };
        Ok(epochs(&list)
            .any(|epoch| epoch["active"] == true)
            .then_some(()))
    })
}

struct Stage<'a> {
    script: &'a Script,
    lab: &'a Lab,
    logs: &'a Path,
    start: Instant,
    gateway: Option<Daemon>,
    clients: BTreeMap<u8, Daemon>,
    monitors: Vec<Monitor>,
    events: Arc<Mutex<Vec<(u8, Value)>>>,
}

enum Next {
    Flow(Flow),
    Act(Act),
}

impl Stage<'_> {
    fn play(mut self) -> Result<Played> {
        let flows = self
            .script
            .flows
            .iter()
            .map(|flow| (flow.from, Next::Flow(*flow)));
        let steps = self
            .script
            .steps
            .iter()
            .map(|step| (step.at, Next::Act(step.act)));
        let mut queue: Vec<_> = flows.chain(steps).collect();
        queue.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        self.start = Instant::now();
        let began = SystemTime::now();
        let mut probes = Vec::new();
        for (at, next) in queue {
            self.wait(at)?;
            match next {
                Next::Flow(flow) => {
                    let port = PORT + u16::try_from(probes.len())?;
                    probes.push((flow, self.probe(flow, port)?));
                }
                Next::Act(act) => self.act(act)?,
            }
        }
        self.wait(self.script.seconds)?;
        let mut played = Played::default();
        let (flows, probes): (Vec<_>, Vec<_>) = probes.into_iter().unzip();
        for (flow, trace) in flows.into_iter().zip(Probe::traces(probes)?) {
            self.note(&mut played.lanes, flow, &trace);
        }
        self.monitors.clear();
        let micros = began.duration_since(UNIX_EPOCH)?.as_micros();
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |event: &Value| Some(event["unix_us"].as_u64()? as f64 - micros as f64);
        played.events = events
            .iter()
            .filter_map(|(client, event)| {
                let (kind, text) = told(event)?;
                Some(Event {
                    at: since(event)? / 1e6,
                    client: *client,
                    kind,
                    text,
                })
            })
            .filter(|event| event.at >= 0.0)
            .collect();
        Ok(played)
    }

    fn wait(&self, at: f64) -> Result<()> {
        let due = self.start + Duration::from_secs_f64(at);
        interrupt::sleep(due.saturating_duration_since(Instant::now()))
    }

    fn probe(&self, flow: Flow, port: u16) -> Result<Probe> {
        let client = Host::client(flow.client);
        let inner = client.inner().context("a client has an inner address")?;
        let server: Ipv4Addr = SERVER.parse()?;
        let left = (self.lab.host(client), inner);
        let right = (self.lab.host(Host::Server), server);
        let (from, to) = match flow.way {
            Way::C2s => (left, right),
            Way::S2c => (right, left),
        };
        let count = whole(flow.until - flow.from, PACE.as_secs_f64());
        Probe::start(from, to, port, Some(count), PACE)
    }

    fn start_client(&mut self, number: u8) -> Result<()> {
        let host = Host::client(number);
        let mut daemon = Daemon::start(self.lab, host, self.logs)?;
        daemon.wait_ready(PATIENCE)?;
        let monitor = Monitor::start(daemon.control(), number, Arc::clone(&self.events))?;
        self.monitors.push(monitor);
        self.clients.insert(number, daemon);
        Ok(())
    }

    fn act(&mut self, act: Act) -> Result<()> {
        match act {
            Act::CrashNat => self.lab.nat()?.crash(),
            Act::RemapNat => self.lab.nat()?.remap(None, false),
            Act::Cut(way) => self.lab.nat()?.faults(&Faults {
                cut: Some(way),
                ..Faults::default()
            }),
            Act::Heal => self.lab.nat()?.faults(&Faults::default()),
            Act::RekeyByClients => {
                let commands = self.clients.values().map(|client| {
                    let mut command = client.control().command(&["rekey", "--child", "net"]);
                    command.stdout(Stdio::null()).spawn()
                });
                for command in commands.collect::<Vec<_>>() {
                    command?.wait()?;
                }
                Ok(())
            }
            Act::RekeyByGateway => {
                let gateway = self.gateway.as_ref().context("no gateway")?;
                let rekey = ["rekey", "--child", "net"];
                gateway.control().ask(&rekey).map(drop)
            }
            Act::KillGateway => self.gateway.take().map_or(Ok(()), Daemon::kill),
            Act::StartGateway => {
                self.gateway = Some(Daemon::start(self.lab, Host::Gw, self.logs)?);
                Ok(())
            }
            Act::KillClient => self.clients.remove(&1).map_or(Ok(()), Daemon::kill),
            Act::StartClient => self.start_client(1),
            Act::Look => Ok(()),
        }
    }

    /// To the lane that is there already, or to a new one.
    fn note(&self, lanes: &mut Vec<Lane>, flow: Flow, trace: &Trace) {
        let seconds = |at: Instant| at.saturating_duration_since(self.start).as_secs_f64();
        let first = self.script.steps.first().map_or(0.0, |step| step.at);
        let same = |lane: &&mut Lane| (lane.client, lane.way) == (flow.client, flow.way);
        let lane = match lanes.iter_mut().find(same) {
            Some(lane) => lane,
            None => {
                lanes.push(Lane {
                    client: flow.client,
                    way: flow.way,
                    datagrams: Vec::new(),
                    outages: Vec::new(),
                    for_good: false,
                });
                let last = lanes.len() - 1;
                &mut lanes[last]
            }
        };
        let arrived = |number: usize| trace.arrived.get(number).copied().flatten();
        let datagrams = trace.sent.iter().enumerate();
        lane.datagrams
            .extend(datagrams.map(|(number, at)| (seconds(*at), arrived(number).map(seconds))));
        let (Some(begin), Some(end)) = (trace.sent.first(), trace.sent.last()) else {
            return;
        };
        let (begin, end) = (seconds(*begin).max(first), seconds(*end));
        if begin >= end {
            return;
        }
        let mut times: Vec<_> = trace
            .arrived
            .iter()
            .flatten()
            .map(|at| seconds(*at))
            .collect();
        times.retain(|at| (begin..end).contains(at));
        times.sort_by(f64::total_cmp);
        let mut last = begin;
        for at in times.into_iter().chain([end]) {
            if at - last > NOTICED.as_secs_f64() {
                lane.outages.push((last, at));
                lane.for_good = at == end && at - last > BROKEN.as_secs_f64();
            }
            last = at;
        }
    }
}

/// How many whole parts there are in so many seconds.
pub fn whole(seconds: f64, part: f64) -> usize {
    let [all, part] =
        [seconds, part].map(|time| Duration::from_secs_f64(time.max(0.0)).as_micros());
    usize::try_from(all / part.max(1)).unwrap_or(0)
}

/// What the page tells of an event of `mitregate monitor`.
fn told(event: &Value) -> Option<(Kind, String)> {
    let text = |field: &str| event[field].as_str().unwrap_or("?");
    Some(match text("event") {
        "ping-answered" => {
            let rtt = event["rtt_us"].as_f64().unwrap_or(0.0) / 1000.0;
            (Kind::Answered, format!("ping answered after {rtt:.1} ms"))
        }
        "ping-lost" => (
            Kind::Unanswered,
            format!("ping unanswered, {} in a row", event["in_a_row"]),
        ),
        "gate" if text("action") == "activate" => (
            Kind::Epoch,
            format!("data goes by epoch {}: {}", event["epoch"], text("why")),
        ),
        "ike-established" => (Kind::Session, "new IKE SA".to_owned()),
        "ike-rekeyed" => (Kind::Session, "IKE SA rekeyed".to_owned()),
        _ => return None,
    })
}

/// `mitregate monitor`, read line by line. Dropping it ends it.
struct Monitor {
    child: Child,
    reader: Option<JoinHandle<()>>,
}

impl Monitor {
    fn start(control: &Control, client: u8, events: Arc<Mutex<Vec<(u8, Value)>>>) -> Result<Self> {
        let mut command = control.command(&["monitor", "--json"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start mitregate monitor")?;
        let stdout = child.stdout.take().context("no stdout")?;
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
                    events.push((client, event));
                }
            }
        });
        Ok(Monitor {
            child,
            reader: Some(reader),
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_told() {
        let kind = |event: Value| told(&event).map(|(kind, _)| kind);
        let answered = json!({ "event": "ping-answered", "rtt_us": 1500 });
        assert_eq!(kind(answered), Some(Kind::Answered));
        let opened = json!({ "event": "gate", "action": "activate", "epoch": 3, "why": "x" });
        assert_eq!(kind(opened), Some(Kind::Epoch));
        let asked = json!({ "event": "gate", "action": "ping", "epoch": 3, "why": "x" });
        assert_eq!(kind(asked), None);
        assert_eq!(kind(json!({ "event": "something newer" })), None);
    }
}
