//! Which times and bounds of the gate are good: each is changed alone, and a few together, and the failure
//! cases are run with every NAT model; beside that, what a tunnel costs that needs no help. The same seeds for
//! each setting, so the same faults. docs/gate-defaults.md is what came of it.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use mitregate_control::{GateConfig, Role};
use serde::Serialize;

use super::scenario::calm::{self, Calm};
use super::scenario::cases::Pair;
use crate::case::Case;

mod plot;

/// What to sweep.
#[derive(Args, Debug, Clone, Default)]
pub struct Sweep {
    /// Run the failure cases with other times and bounds of the gate than the defaults
    #[arg(long)]
    pub sweep: bool,
    /// Write the sweep's plot
    #[arg(long, value_name = "FILE", requires = "sweep")]
    svg: Option<PathBuf>,
}

/// Seeds of each case and NAT model, of a run that does not say how many.
pub const SEEDS: u64 = 3;
/// Longer than this traffic must not be away wherever the NAT allows it.
const TARGET: Duration = Duration::from_secs(3);
/// What a run counts as that has not recovered when nobody looked any more.
const NEVER: Duration = Duration::from_secs(60);

/// One parameter of the gate.
struct Knob {
    name: &'static str,
    unit: &'static str,
    values: &'static [f64],
    get: fn(&GateConfig) -> f64,
    set: fn(&mut GateConfig, f64),
}

fn ms(value: f64) -> Duration {
    Duration::from_secs_f64(value / 1000.0)
}

fn count(value: f64) -> u32 {
    // A few, from the tables here.
    Duration::from_secs_f64(value)
        .as_secs()
        .try_into()
        .unwrap_or(1)
}

macro_rules! time {
    ($name:literal, $field:ident, $values:expr) => {
        Knob {
            name: $name,
            unit: "ms",
            values: $values,
            get: |c| c.$field.as_secs_f64() * 1000.0,
            set: |c, v| c.$field = ms(v),
        }
    };
}

macro_rules! idle {
    ($name:literal, $field:ident, $values:expr) => {
        Knob {
            name: $name,
            unit: "ms",
            values: $values,
            get: |c| {
                c.idle
                    .as_ref()
                    .map_or(0.0, |idle| idle.$field.as_secs_f64() * 1000.0)
            },
            set: |c, v| {
                if let Some(idle) = &mut c.idle {
                    idle.$field = ms(v);
                }
            },
        }
    };
}

macro_rules! number {
    ($name:literal, $field:ident, $values:expr) => {
        Knob {
            name: $name,
            unit: "",
            values: $values,
            get: |c| c.$field.into(),
            set: |c, v| c.$field = count(v),
        }
    };
}

const KNOBS: &[Knob] = &[
    time!(
        "ping_timeout",
        ping_timeout,
        &[100.0, 150.0, 250.0, 400.0, 700.0]
    ),
    number!("tries", tries, &[2.0, 3.0, 5.0, 8.0, 12.0]),
    number!(
        "first_tries",
        first_tries,
        &[2.0, 3.0, 5.0, 8.0, 12.0, 20.0]
    ),
    number!("suspect_tries", suspect_tries, &[1.0, 2.0, 3.0, 5.0]),
    Knob {
        name: "backoff",
        unit: "",
        values: &[1.0, 1.25, 1.5, 2.0],
        get: |c| c.backoff,
        set: |c, v| c.backoff = v,
    },
    time!(
        "rekey_patience",
        rekey_patience,
        &[250.0, 500.0, 750.0, 1000.0, 2000.0]
    ),
    number!(
        "epochs_per_session",
        epochs_per_session,
        &[1.0, 2.0, 3.0, 4.0]
    ),
    time!(
        "escalation_backoff",
        escalation_backoff,
        &[125.0, 250.0, 500.0, 1000.0]
    ),
    idle!("tick", tick, &[100.0, 250.0, 500.0]),
    idle!(
        "unanswered",
        unanswered,
        &[300.0, 500.0, 750.0, 1000.0, 1500.0]
    ),
    idle!("silence", silence, &[500.0, 750.0, 1000.0, 1500.0]),
    idle!(
        "silence_max",
        silence_max,
        &[10_000.0, 18_000.0, 23_000.0, 30_000.0]
    ),
    idle!("receive_only", receive_only, &[5_000.0, 10_000.0, 20_000.0]),
];

/// Together: those that the time to a new IKE SA is made of.
const TOGETHER: &[&[(&str, f64)]] = &[
    &[("suspect_tries", 2.0), ("rekey_patience", 500.0)],
    &[("suspect_tries", 2.0), ("rekey_patience", 750.0)],
    &[
        ("suspect_tries", 2.0),
        ("rekey_patience", 1000.0),
        ("ping_timeout", 400.0),
    ],
    &[
        ("suspect_tries", 3.0),
        ("rekey_patience", 500.0),
        ("ping_timeout", 150.0),
    ],
    &[
        ("suspect_tries", 2.0),
        ("rekey_patience", 500.0),
        ("tries", 3.0),
    ],
    &[
        ("suspect_tries", 2.0),
        ("rekey_patience", 500.0),
        ("epochs_per_session", 1.0),
    ],
    &[
        ("suspect_tries", 2.0),
        ("rekey_patience", 500.0),
        ("unanswered", 500.0),
        ("silence", 750.0),
    ],
];

/// A setting of the gate.
#[derive(Debug, Clone, Serialize)]
struct Point {
    /// What is changed, and the value; empty: the defaults.
    changes: Vec<(&'static str, f64)>,
    #[serde(skip)]
    times: [GateConfig; 2],
}

impl Point {
    fn new(changes: Vec<(&'static str, f64)>) -> Self {
        let mut times = [Role::Client, Role::Server].map(GateConfig::new);
        for (name, value) in &changes {
            if let Some(knob) = KNOBS.iter().find(|knob| knob.name == *name) {
                times
                    .iter_mut()
                    .for_each(|config| (knob.set)(config, *value));
            }
        }
        Self { changes, times }
    }

    fn all() -> Vec<Self> {
        let defaults = GateConfig::new(Role::Client);
        let alone = KNOBS.iter().flat_map(|knob| {
            let others = knob.values.iter().filter(|v| **v != (knob.get)(&defaults));
            others.map(|value| Self::new(vec![(knob.name, *value)]))
        });
        let together = TOGETHER.iter().map(|changes| Self::new(changes.to_vec()));
        std::iter::once(Self::new(Vec::new()))
            .chain(alone)
            .chain(together)
            .collect()
    }

    fn name(&self) -> String {
        if self.changes.is_empty() {
            return "the defaults".to_owned();
        }
        let change = |(name, value): &(&str, f64)| {
            let unit = KNOBS
                .iter()
                .find(|knob| knob.name == *name)
                .map_or("", |knob| knob.unit);
            format!("{name} = {value} {unit}").trim_end().to_owned()
        };
        self.changes
            .iter()
            .map(change)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// What came of one setting.
#[derive(Debug, Clone, Serialize)]
struct Outcome {
    #[serde(flatten)]
    point: Point,
    /// Of all runs of the cases that the NAT allows to be short, seconds.
    median_s: f64,
    /// Of 95 in a hundred of them it is at most this, seconds.
    most_s: f64,
    /// The longest, seconds.
    worst_s: f64,
    /// The case and NAT of that one.
    worst_at: String,
    /// Per mille of those runs that took longer than the target.
    late: f64,
    /// Runs of any case that had not recovered after a minute.
    never: usize,
    /// Pings of a client until traffic was back, on average over all runs.
    pings: f64,
    /// After a NAT's crash: median and longest, seconds.
    crash_s: (f64, f64),
    /// Of clients that start together, or after their server was dead for a while: median and longest, seconds.
    crowd_s: (f64, f64),
    /// After the server's restart: median and longest, seconds.
    restart_s: (f64, f64),
    /// Packets in a second on a quiet tunnel, both hosts': in UDP, and plain ESP through a NAT.
    quiet: [f64; 2],
    /// Rekeys and new IKE SAs in an hour that nothing called for, with a round trip of 600 ms and with 5 % loss.
    needless: [f64; 2],
}

/// Whether the NAT allows this case to be over in seconds; what is left out waits for a dead server's retries.
fn is_short(pair: &Pair) -> bool {
    !matches!(pair.case, Case::Squelch | Case::Expiry)
}

/// One piece of work, and what came of it.
enum Job {
    Run(Pair, u64),
    Calm(Calm),
}

enum Done {
    Run {
        pair: Pair,
        length: Duration,
        pings: f64,
    },
    Calm(Calm, f64),
}

fn work(job: &Job, times: &[GateConfig; 2]) -> Done {
    match job {
        Job::Run(pair, seed) => {
            let measured = pair.measure(*seed, times, NEVER);
            Done::Run {
                pair: *pair,
                length: measured.length.unwrap_or(NEVER),
                pings: measured.pings,
            }
        }
        Job::Calm(calm) => Done::Calm(*calm, calm.cost(times)),
    }
}

/// Runs it; prints a table, writes what was asked for.
pub fn run(
    options: &Sweep,
    pairs: &[Pair],
    seeds: u64,
    jobs: usize,
    json: Option<&PathBuf>,
) -> Result<bool> {
    let points = Point::all();
    let runs = pairs
        .iter()
        .flat_map(|pair| (0..seeds).map(|seed| Job::Run(*pair, seed)));
    let list: Vec<Job> = calm::ALL.into_iter().map(Job::Calm).chain(runs).collect();
    let total = points.len() * list.len();
    let bar = ProgressBar::new(total as u64);
    let style = "{prefix} [{bar:30}] {pos}/{len} runs, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix("sweep");
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Vec<Done>>> = points.iter().map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= total {
                        return;
                    }
                    let (point, job) = (n / list.len(), &list[n % list.len()]);
                    let result = work(job, &points[point].times);
                    let mut all = done[point].lock().unwrap_or_else(PoisonError::into_inner);
                    all.push(result);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let outcomes: Vec<Outcome> = points
        .into_iter()
        .zip(done)
        .map(|(point, done)| {
            judge(
                point,
                done.into_inner().unwrap_or_else(PoisonError::into_inner),
            )
        })
        .collect();
    print_table(&outcomes);
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&outcomes)? + "\n";
        std::fs::write(path, text).with_context(|| format!("{}", path.display()))?;
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, plot::svg(&outcomes))
            .with_context(|| format!("{}", path.display()))?;
    }
    Ok(true)
}

fn judge(point: Point, done: Vec<Done>) -> Outcome {
    let mut short = Vec::new();
    let (mut crash, mut crowd, mut restart) = (Vec::new(), Vec::new(), Vec::new());
    let (mut pings, mut runs, mut never) = (0.0, 0usize, 0);
    let mut worst = (Duration::ZERO, String::new());
    let (mut quiet, mut needless) = ([0.0; 2], [0.0; 2]);
    for one in done {
        let (pair, length, spent) = match one {
            Done::Run {
                pair,
                length,
                pings,
            } => (pair, length, pings),
            Done::Calm(calm, cost) => {
                match calm {
                    Calm::QuietUdp => quiet[0] = cost,
                    Calm::QuietEsp => quiet[1] = cost,
                    Calm::Far => needless[0] = cost,
                    Calm::Lossy => needless[1] = cost,
                }
                continue;
            }
        };
        pings += spent;
        runs += 1;
        never += usize::from(length >= NEVER);
        if let Case::Collision | Case::Squelch = pair.case {
            crowd.push(length);
        }
        if !is_short(&pair) {
            continue;
        }
        short.push(length);
        match pair.case {
            Case::NatCrash | Case::Remap => crash.push(length),
            Case::ServerRestart => restart.push(length),
            _ => {}
        }
        let at = format!("{} {}", pair.case.name(), pair.nat_name());
        // Of equals the first by name: the order of threads must not show.
        if length > worst.0 || length == worst.0 && at < worst.1 {
            worst = (length, at);
        }
    }
    let late = short.iter().filter(|length| **length > TARGET).count();
    let all = short.len().max(1);
    short.sort_unstable();
    Outcome {
        point,
        median_s: share(&short, 50),
        most_s: share(&short, 95),
        worst_s: worst.0.as_secs_f64(),
        worst_at: worst.1,
        late: 1000.0 * late as f64 / all as f64,
        never,
        pings: pings / runs.max(1) as f64,
        crash_s: ends(crash),
        crowd_s: ends(crowd),
        restart_s: ends(restart),
        quiet,
        needless,
    }
}

/// So many of a hundred are at most this, seconds.
fn share(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, Duration::as_secs_f64)
}

fn ends(mut lengths: Vec<Duration>) -> (f64, f64) {
    lengths.sort_unstable();
    (share(&lengths, 50), share(&lengths, 100))
}

fn print_table(outcomes: &[Outcome]) {
    println!(
        "| setting | median | 95 % | worst, at | > 3 s, ‰ | never | F5, F9 median / worst | F10 median / worst | F1, F7 median / worst | pings | quiet packets/s UDP / ESP | needless, per hour: RTT 0.6 s / 5 % loss |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for o in outcomes {
        println!(
            "| {} | {:.2} s | {:.2} s | {:.1} s, {} | {:.0} | {} | {:.2} / {:.2} s | {:.2} / {:.2} s | {:.1} / {:.1} s | {:.1} | {:.3} / {:.3} | {:.0} / {:.0} |",
            o.point.name(),
            o.median_s,
            o.most_s,
            o.worst_s,
            o.worst_at,
            o.late,
            o.never,
            o.crash_s.0,
            o.crash_s.1,
            o.restart_s.0,
            o.restart_s.1,
            o.crowd_s.0,
            o.crowd_s.1,
            o.pings,
            o.quiet[0],
            o.quiet[1],
            o.needless[0],
            o.needless[1],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Model;

    #[test]
    fn a_knob_sets_what_it_gets_and_nothing_else() {
        let defaults = GateConfig::new(Role::Client);
        for knob in KNOBS {
            for value in knob.values {
                let mut config = defaults.clone();
                (knob.set)(&mut config, *value);
                assert!(((knob.get)(&config) - value).abs() < 1e-9, "{}", knob.name);
                (knob.set)(&mut config, (knob.get)(&defaults));
                assert_eq!(config, defaults, "{}", knob.name);
            }
        }
        let known = |name: &str| KNOBS.iter().any(|knob| knob.name == name);
        assert!(
            TOGETHER
                .iter()
                .copied()
                .flatten()
                .all(|(name, _)| known(name))
        );
    }

    #[test]
    fn the_same_seed_measures_the_same_and_other_times_measure_another() {
        let pair = Pair {
            case: Case::ServerRestart,
            nat: Some(Model::UdpEim),
            gated: true,
        };
        let length = |changes| {
            let measured = pair.measure(1, &Point::new(changes).times, NEVER);
            assert!(measured.pings > 0.0);
            measured.length.unwrap()
        };
        let defaults = length(Vec::new());
        assert_eq!(defaults, length(Vec::new()));
        let impatient = vec![
            ("suspect_tries", 1.0),
            ("silence", 300.0),
            ("unanswered", 300.0),
        ];
        assert!(length(impatient) < defaults);
    }

    #[test]
    fn shares_are_of_what_is_sorted() {
        let lengths: Vec<Duration> = (1..=100).map(Duration::from_secs).collect();
        assert_eq!((share(&lengths, 50), share(&lengths, 95)), (51.0, 96.0));
        assert_eq!(
            ends(vec![Duration::from_secs(2), Duration::from_secs(1)]),
            (2.0, 2.0)
        );
        assert_eq!(share(&[], 50), 0.0);
    }
}
