//! `lab report`: the failure cases F1–F12 played live, each with the gate and without it, and a page with
//! a timeline of each.

mod page;
mod play;
mod script;

use std::{
    collections::VecDeque,
    fs,
    io::{IsTerminal, stdout},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{case::Case, daemon, interrupt, sh, topology};
use play::Played as Outcome;
use script::{Script, script};

const HEARTBEAT: Duration = Duration::from_secs(20);

/// What to play, and where to write it.
#[derive(Args)]
pub struct Options {
    /// The page
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// Write the summary to FILE: an array of {case, nat, gate, longest_silence_s, lost, sent}; a
    /// silence that lasted to the end is null
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these cases, f1 to f12, separated by commas
    #[arg(long, value_name = "CASE", value_delimiter = ',')]
    case: Vec<Case>,
    /// Labs at work at the same time
    #[arg(long, value_name = "N", default_value_t = 6)]
    jobs: usize,
}

/// A case, and what came of it with the gate and without it.
struct Scene {
    case: Case,
    script: Option<Script>,
    outcomes: Vec<Result<Outcome, String>>,
}

/// A line of the summary.
#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    nat: &'static str,
    gate: bool,
    /// The longest that any way was silent after the case's first event, seconds; 0: none that a busy
    /// machine would not make; none: one was to the end.
    longest_silence_s: Option<f64>,
    /// Datagrams that never arrived, from the first event on.
    lost: usize,
    /// Datagrams sent from then on.
    sent: usize,
}

impl Row {
    fn of(scene: &Scene, outcome: &Outcome, gate: bool) -> Self {
        let script = scene.script.as_ref();
        let first = script.and_then(|script| script.steps.first());
        let first = first.map_or(0.0, |step| step.at);
        let lanes = &outcome.lanes;
        let silences = lanes.iter().flat_map(|lane| &lane.outages);
        let longest = silences
            .map(|(from, until)| until - from)
            .fold(0.0, f64::max);
        let after = lanes.iter().flat_map(|lane| &lane.datagrams);
        let after: Vec<_> = after.filter(|(sent, _)| *sent >= first).collect();
        Row {
            case: scene.case.name(),
            nat: script.map_or("", |script| script.model.name()),
            gate,
            longest_silence_s: (!lanes.iter().any(|lane| lane.for_good))
                .then_some((longest * 1000.0).round() / 1000.0),
            lost: after
                .iter()
                .filter(|(_, arrived)| arrived.is_none())
                .count(),
            sent: after.len(),
        }
    }
}

/// Play them, and write the page.
pub fn run(options: &Options, name: &str) -> Result<()> {
    daemon::binary()?;
    if !sh::have("ip") {
        bail!("ip is not installed: cargo xtask setup");
    }
    let wanted = |case: &Case| options.case.is_empty() || options.case.contains(case);
    let mut scenes: Vec<_> = Case::ALL
        .into_iter()
        .filter(wanted)
        .map(|case| Scene {
            case,
            script: script(case),
            outcomes: Vec::new(),
        })
        .collect();
    let start = Instant::now();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut outcomes = play_all(options, name, &scenes)?;
    interrupt::check()?;
    let mut rows = Vec::new();
    for (nth, scene) in scenes.iter_mut().enumerate() {
        for gate in [true, false] {
            let at = outcomes
                .iter()
                .position(|(of, with, _)| (*of, *with) == (nth, gate));
            if let Some(at) = at {
                scene.outcomes.push(outcomes.swap_remove(at).2);
            }
        }
        for (outcome, gate) in scene.outcomes.iter().zip([true, false]) {
            match outcome {
                Ok(outcome) => rows.push(Row::of(scene, outcome, gate)),
                Err(error) => eprintln!("{} {}: {error}", scene.case, told(gate)),
            }
        }
    }
    for row in &rows {
        let silence = row
            .longest_silence_s
            .map_or("to the end".to_owned(), |seconds| format!("{seconds:.1} s"));
        println!(
            "{:<22} {:<14} silent {silence:>10}, lost {:>5} of {}",
            row.case,
            told(row.gate),
            row.lost,
            row.sent
        );
    }
    let machine = format!(
        "Up to {} labs at a time on {} CPUs, load {} before.",
        options.jobs,
        thread::available_parallelism().map_or(0, usize::from),
        load.split(' ').next().unwrap_or("?"),
    );
    let text = page::page(&scenes, "cargo xtask lab report", &machine);
    fs::write(&options.out, text)
        .with_context(|| format!("cannot write {}", options.out.display()))?;
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&rows)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{} s; {}", start.elapsed().as_secs(), options.out.display());
    if scenes
        .iter()
        .flat_map(|scene| &scene.outcomes)
        .any(Result::is_err)
    {
        bail!("not every case could be played");
    }
    Ok(())
}

fn told(gate: bool) -> &'static str {
    if gate { "with the gate" } else { "gate off" }
}

/// By scene and gate.
type Outcomes = Vec<(usize, bool, Result<Outcome, String>)>;

fn play_all(options: &Options, name: &str, scenes: &[Scene]) -> Result<Outcomes> {
    let scripts = scenes.iter().map(|scene| scene.script.as_ref()).enumerate();
    let jobs = scripts.filter_map(|(nth, script)| Some((nth, script?)));
    let mut jobs: Vec<_> = jobs
        .flat_map(|(nth, script)| [true, false].map(|gate| (nth, script, gate)))
        .collect();
    // The long ones first, or all would wait for them in the end.
    jobs.sort_by(|(_, a, _), (_, b, _)| b.seconds.total_cmp(&a.seconds));
    let count = jobs.len();
    println!(
        "  … {count} plays of some {} s, {} at a time",
        30, options.jobs
    );
    let bar = ProgressBar::new(count as u64);
    if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {pos}/{len} {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let queue = Mutex::new(VecDeque::from(jobs));
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.clamp(1, count.max(1)))
            .map(|slot| {
                let (queue, outcomes, bar) = (&queue, &outcomes, &bar);
                scope.spawn(move || {
                    let name = format!("{name}-{slot}");
                    while interrupt::check().is_ok() {
                        let next = queue
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .pop_front();
                        let Some((nth, script, gate)) = next else {
                            break;
                        };
                        let outcome =
                            one(script, gate, &name).map_err(|error| format!("{error:#}"));
                        outcomes
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((nth, gate, outcome));
                        bar.inc(1);
                    }
                })
            })
            .collect();
        let mut spoken = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(Duration::from_millis(100));
            bar.tick();
            if !stdout().is_terminal() && spoken.elapsed() >= HEARTBEAT {
                spoken = Instant::now();
                println!("    … {} of {count}", bar.position());
            }
        }
    });
    bar.finish_and_clear();
    Ok(outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner))
}

fn one(script: &Script, gate: bool, name: &str) -> Result<Outcome> {
    let logs = topology::log_dir(name, None)?;
    let outcome = play::play(script, gate, name, &logs);
    if outcome.is_ok() {
        topology::remove_logs(&logs);
    }
    outcome
}
