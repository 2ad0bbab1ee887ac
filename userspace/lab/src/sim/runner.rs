//! `mitregate-lab sim`: seeds on all cores, a table, and for a seed that failed the way to see why.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::scenario::{self, Run, Scenario};

/// Of failed seeds so many are told of, each scenario.
const TOLD: usize = 5;

/// What to run.
#[derive(Args, Debug, Clone, Default)]
pub struct Options {
    /// Only this scenario (several times: only these); a prefix ending in * takes all that begin so
    #[arg(long, value_name = "S")]
    scenario: Vec<String>,
    /// So many seeds of each scenario
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Only this seed; the diagram of the run is shown if it fails
    #[arg(long, value_name = "K")]
    seed: Option<u64>,
    /// Where seeds begin
    #[arg(long, value_name = "K", default_value_t = 0)]
    from: u64,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show the diagram even if the seed passes (with --seed)
    #[arg(long)]
    trace: bool,
    /// Show what the hosts log, too (with --seed)
    #[arg(long)]
    logs: bool,
    /// Write a capture, and the keys beside it (with --seed)
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Threads; by default one for each core
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// List the scenarios
    #[arg(long)]
    list: bool,
}

/// What came of a scenario: the JSON's lines.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Its name.
    pub scenario: String,
    /// How many seeds were run.
    pub seeds: u64,
    /// Those that failed.
    pub failed: Vec<u64>,
    /// Of all runs.
    pub virtual_seconds: f64,
    /// Of all runs.
    pub packets: u64,
}

/// Runs what is asked for; `false` if a seed failed.
pub fn run(options: &Options) -> Result<bool> {
    let scenarios = chosen(options)?;
    if options.list {
        for scenario in scenarios {
            println!(
                "{:<20} {:>5} seeds  {}",
                scenario.name, scenario.seeds, scenario.about
            );
        }
        return Ok(true);
    }
    if let Some(seed) = options.seed {
        let [scenario] = scenarios.as_slice() else {
            bail!("--seed needs --scenario with one scenario");
        };
        return replay(scenario, seed, options);
    }
    // A panic is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let jobs = options.jobs.unwrap_or_else(cores).max(1);
    let mut summaries = Vec::new();
    println!(
        "{:<20} {:>7} {:>7} {:>12} {:>12} {:>9}",
        "scenario", "seeds", "failed", "virtual", "packets", "per seed"
    );
    for scenario in &scenarios {
        summaries.push(one(scenario, options, jobs));
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&summaries)?;
        std::fs::write(path, text + "\n").with_context(|| format!("{}", path.display()))?;
    }
    Ok(summaries.iter().all(|summary| summary.failed.is_empty()))
}

fn chosen(options: &Options) -> Result<Vec<Scenario>> {
    let all = scenario::all();
    if options.scenario.is_empty() {
        return Ok(all);
    }
    let mut chosen = Vec::new();
    for name in &options.scenario {
        let before = chosen.len();
        let fits = |s: &&Scenario| match name.strip_suffix('*') {
            Some(prefix) => s.name.starts_with(prefix),
            None => s.name == name,
        };
        chosen.extend(all.iter().filter(fits));
        if chosen.len() == before {
            bail!("no scenario \"{name}\": see --list");
        }
    }
    Ok(chosen)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// All seeds of one scenario, on all cores.
fn one(scenario: &Scenario, options: &Options, jobs: usize) -> Summary {
    let seeds = options.seeds.unwrap_or(scenario.seeds);
    let bar = ProgressBar::new(seeds);
    let style = "{prefix:<20} [{bar:30}] {pos}/{len} {msg} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(scenario.name);
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let virtual_ms = AtomicU64::new(0);
    let packets = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= seeds {
                        return;
                    }
                    let seed = options.from + n;
                    let run = guarded(scenario, seed);
                    if let Ok(run) = &run {
                        let ms = u64::try_from(run.virtual_time.as_millis()).unwrap_or(0);
                        virtual_ms.fetch_add(ms, Ordering::Relaxed);
                        packets.fetch_add(run.packets, Ordering::Relaxed);
                    }
                    let failure = match run {
                        Ok(run) => run.violation.map(|v| v.to_string()),
                        Err(panic) => Some(format!("panicked: {panic}")),
                    };
                    if let Some(failure) = failure {
                        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        failures.push((seed, failure));
                        bar.set_message(format!("{} failed,", failures.len()));
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    failures.sort_unstable();
    let virtual_time = Duration::from_millis(virtual_ms.into_inner());
    let summary = Summary {
        scenario: scenario.name.to_owned(),
        seeds,
        failed: failures.iter().map(|(seed, _)| *seed).collect(),
        virtual_seconds: virtual_time.as_secs_f64(),
        packets: packets.into_inner(),
    };
    let took = start.elapsed().as_secs_f64() * 1000.0 / seeds.max(1) as f64;
    println!(
        "{:<20} {:>7} {:>7} {:>10.0} s {:>12} {took:>6.1} ms",
        summary.scenario,
        summary.seeds,
        summary.failed.len(),
        summary.virtual_seconds,
        summary.packets,
    );
    for (seed, failure) in failures.iter().take(TOLD) {
        println!("    seed {seed} {}", failure.replace('\n', " "));
        println!("      replay: {}", command(scenario, *seed));
    }
    if failures.len() > TOLD {
        println!("    … and {} more", failures.len() - TOLD);
    }
    let _ = std::io::stdout().flush();
    summary
}

/// The command that replays a seed with its diagram and writes its capture.
#[must_use]
pub fn command(scenario: &Scenario, seed: u64) -> String {
    let name = scenario.name;
    format!(
        "cargo xtask sim --scenario {name} --seed {seed} --pcap target/xtask/sim-{name}-{seed}.pcap"
    )
}

/// A panic of the code under test fails the seed, not the run.
fn guarded(scenario: &Scenario, seed: u64) -> Result<Run, String> {
    let run = std::panic::catch_unwind(|| scenario.run(seed, false));
    run.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default()
    })
}

fn replay(scenario: &Scenario, seed: u64, options: &Options) -> Result<bool> {
    let run = scenario.run(seed, true);
    let ring = &run.world.referee.ring;
    let (names, trace) = run.trace.as_ref().context("the run was traced")?;
    if options.trace || options.logs || run.violation.is_some() {
        print!("{}", trace.diagram(names, ring, options.logs));
    }
    if let Some(path) = &options.pcap {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let capture = trace
            .write_capture(path, ring)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("capture with its keys: {}", capture.command());
    }
    println!(
        "{} seed {seed}: {:.1} virtual seconds, {} packets, digest {}",
        scenario.name,
        run.virtual_time.as_secs_f64(),
        run.packets,
        &run.digest[..16]
    );
    if let Some(path) = &options.json {
        let summary = Summary {
            scenario: scenario.name.to_owned(),
            seeds: 1,
            failed: run.violation.iter().map(|_| seed).collect(),
            virtual_seconds: run.virtual_time.as_secs_f64(),
            packets: run.packets,
        };
        std::fs::write(path, serde_json::to_string_pretty(&[summary])? + "\n")?;
    }
    match &run.violation {
        None => println!("passed"),
        Some(violation) => println!("FAILED {violation}"),
    }
    Ok(run.violation.is_none())
}
