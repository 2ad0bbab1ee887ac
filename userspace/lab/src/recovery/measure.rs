//! One run: a lab of its own, the tunnel up, datagrams flowing, something happens, and when do they
//! arrive again?

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use super::{
    fault::Fault,
    system::{End, Pair, System},
};
use crate::{
    daemon::Settings,
    interrupt,
    netns::Netns,
    probe::{Probe, Trace},
    sh,
    topology::{CLIENT_INNER, Host, Lab, PROTECTED_NET, SERVER},
};

/// Between two datagrams where an outage is looked for.
const OUTAGE_PACE: Duration = Duration::from_millis(10);
/// Between two where none may be lost.
const REKEY_PACE: Duration = Duration::from_millis(1);
const PORT: u16 = 7000;
/// For a tunnel to come up, and for a rekey to be done.
const PATIENCE: Duration = Duration::from_secs(30);
/// Datagrams flow when nearly all of so long have arrived.
const STEADY: Duration = Duration::from_secs(1);
const NEARLY: f64 = 0.9;
const TICK: Duration = Duration::from_millis(100);
/// After a fault, at least so long is looked at.
const LOOK: Duration = Duration::from_secs(4);
/// From one rekey to the next, at least.
const REKEY_EVERY: Duration = Duration::from_millis(1500);

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Flows {
    /// The client only
    C2s,
    /// The server only
    S2c,
    /// Both
    Both,
}

impl Flows {
    /// Between a tunnel's coming up and the fault a time up to this is drawn. Where the client sends
    /// nothing, it must span the systems' keepalives, or all runs would meet them at the same moment.
    fn phase(self) -> Duration {
        match self {
            Flows::S2c => Duration::from_secs(20),
            Flows::C2s | Flows::Both => Duration::from_secs(3),
        }
    }

    fn start(self, lab: &Lab, pace: Duration) -> Result<Vec<Stream>> {
        let client: (&Netns, Ipv4Addr) = (lab.host(Host::Client), CLIENT_INNER.parse()?);
        let server: (&Netns, Ipv4Addr) = (lab.host(Host::Server), SERVER.parse()?);
        let (up, down) = ((client, server), (server, client));
        let ways = match self {
            Flows::C2s => vec![up],
            Flows::S2c => vec![down],
            Flows::Both => vec![up, down],
        };
        ways.into_iter()
            .map(|(from, to)| Stream::start(from, to, pace))
            .collect()
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct What {
    /// Who.
    pub system: System,
    /// What happens to it.
    pub fault: Fault,
    /// Who sends.
    pub flows: Flows,
}

/// What the systems are configured with.
#[derive(Clone, Debug)]
pub struct Given {
    /// Mitregate; the gate is as the system says.
    pub settings: Settings,
    /// `dpd_delay` at both ends.
    pub strongswan_dpd: Duration,
}

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The longest time without an arrival, less the pace, of the direction that has the longer one;
    /// none: one of them had not come back when the run was given up.
    pub outage: Option<Duration>,
    /// Datagrams that never arrived.
    pub lost: usize,
}

/// One way, and how much of it arrived lately.
struct Stream {
    probe: Probe,
    pace: Duration,
    counts: Vec<(Instant, usize)>,
}

impl Stream {
    fn start(from: (&Netns, Ipv4Addr), to: (&Netns, Ipv4Addr), pace: Duration) -> Result<Self> {
        Ok(Stream {
            probe: Probe::start(from, to, PORT, None, pace)?,
            pace,
            counts: Vec::new(),
        })
    }

    /// Nearly all that a steady flow would have brought in the last moments has come.
    fn is_steady(&mut self) -> bool {
        let now = Instant::now();
        let count = self.probe.arrived();
        self.counts.push((now, count));
        let then = self.counts.iter().rev().find(|(at, _)| now - *at >= STEADY);
        then.is_some_and(|(at, before)| {
            let due = (now - *at).as_secs_f64() / self.pace.as_secs_f64();
            (count - before) as f64 >= NEARLY * due
        })
    }
}

/// A lab, its tunnel, and what flows.
struct Stage {
    // Dropped in this order.
    pair: Pair,
    lab: Lab,
    streams: Vec<Stream>,
}

impl Stage {
    fn set(name: &str, given: &Given, what: What, pace: Duration) -> Result<Self> {
        let What { system, flows, .. } = what;
        let lab = Lab::up(name)?;
        close(&lab)?;
        // What matters of the logs is in the error; the rest goes with the lab.
        let logs = lab.run_dir();
        let pair = Pair::start(system, &lab, &given.settings, given.strongswan_dpd, logs)?;
        let streams = flows.start(&lab, pace)?;
        let mut stage = Stage { pair, lab, streams };
        stage.wait_steady(PATIENCE)?;
        Ok(stage)
    }

    fn wait_steady(&mut self, limit: Duration) -> Result<()> {
        interrupt::poll("datagrams to flow", TICK, limit, || {
            self.pair.check()?;
            Ok(self.steady().iter().all(|steady| *steady).then_some(()))
        })
    }

    fn steady(&mut self) -> Vec<bool> {
        self.streams.iter_mut().map(Stream::is_steady).collect()
    }

    fn end(self) -> Result<Vec<Trace>> {
        let traces = Probe::traces(self.streams.into_iter().map(|stream| stream.probe));
        drop(self.pair);
        self.lab.take_down()?;
        traces
    }
}

/// Without a tunnel the lab's hosts reach each other in clear, and strongSwan lets them once it has given
/// up: that must not count.
fn close(lab: &Lab) -> Result<()> {
    let rule = format!("insert rule ip filter forward ip daddr {PROTECTED_NET} drop");
    sh::feed(lab.host(Host::Nat).command("nft").args(["-f", "-"]), &rule)
}

/// The NAT's fault, once; given up at `limit` after it.
pub fn outage(name: &str, given: &Given, what: What, limit: Duration) -> Result<Sample> {
    let What { fault, flows, .. } = what;
    let mut stage = Stage::set(name, given, what, OUTAGE_PACE)?;
    interrupt::sleep(flows.phase().mul_f64(random()?))?;
    stage.pair.check()?;
    let nat = stage.lab.nat()?;
    let struck = Instant::now();
    fault.strike(&nat)?;
    let back = loop {
        interrupt::sleep(TICK)?;
        stage.pair.check()?;
        let steady = stage.steady();
        let over = struck.elapsed() >= limit;
        if over || (struck.elapsed() >= LOOK && steady.iter().all(|steady| *steady)) {
            break steady;
        }
    };
    let end = Instant::now();
    let traces = stage.end()?;
    let mut sample = Sample {
        outage: Some(Duration::ZERO),
        lost: 0,
    };
    for (trace, back) in traces.iter().zip(back) {
        let (_, gap) = trace.longest_gap(struck, end);
        let here = back.then_some(gap.saturating_sub(OUTAGE_PACE));
        sample.outage = sample.outage.zip(here).map(|(a, b)| a.max(b));
        sample.lost += trace.lost(struck, end);
    }
    Ok(sample)
}

/// So many rekeys in a row, on one tunnel, without a pause in what flows.
pub fn rekeys(
    name: &str,
    given: &Given,
    what: What,
    (runs, by): (usize, By),
    done: &dyn Fn(),
) -> Result<Vec<Sample>> {
    let fault = what.fault;
    let mut stage = Stage::set(name, given, what, REKEY_PACE)?;
    let mut starts = Vec::new();
    for turn in 0..runs {
        let old = stage.settled(fault, None)?;
        let by = by.turn(turn);
        starts.push(Instant::now());
        stage.pair.rekey(fault, by)?;
        stage
            .settled(fault, Some(&old))
            .with_context(|| format!("rekey {} of {runs}, by the {by:?}", turn + 1))?;
        let start = starts[turn];
        interrupt::sleep(REKEY_EVERY.saturating_sub(start.elapsed()))?;
        done();
    }
    starts.push(Instant::now());
    let traces = stage.end()?;
    for trace in &traces {
        ensure!(trace.duplicates == 0, "{} came twice", trace.duplicates);
    }
    let samples = starts.windows(2).map(|pair| {
        let (from, until) = (pair[0], pair[1]);
        let gaps = traces.iter().map(|trace| trace.longest_gap(from, until).1);
        Sample {
            outage: gaps.max().map(|gap| gap.saturating_sub(REKEY_PACE)),
            lost: traces.iter().map(|trace| trace.lost(from, until)).sum(),
        }
    });
    Ok(samples.collect())
}

impl Stage {
    /// Until both ends have one of what is rekeyed, and not that.
    fn settled(&mut self, fault: Fault, old: Option<&[String; 2]>) -> Result<[String; 2]> {
        interrupt::poll("fresh SAs at both ends", TICK, PATIENCE, || {
            self.pair.check()?;
            let now = self.pair.spis(fault)?;
            Ok(now.filter(|now| old.is_none_or(|old| now[0] != old[0] && now[1] != old[1])))
        })
    }
}

/// Who starts a rekey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The client, always
    Client,
    /// The gateway, always
    Gateway,
    /// By turns, the client first
    Turns,
}

impl By {
    fn turn(self, turn: usize) -> End {
        match self {
            By::Client => End::Client,
            By::Gateway => End::Gateway,
            By::Turns if turn.is_multiple_of(2) => End::Client,
            By::Turns => End::Gateway,
        }
    }
}

/// From 0 to 1.
fn random() -> Result<f64> {
    let mut bytes = [0; 4];
    std::io::Read::read_exact(&mut crate::payload::random()?, &mut bytes)?;
    Ok(f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
}
