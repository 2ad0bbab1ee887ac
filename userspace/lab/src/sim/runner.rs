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

use super::scenario::cases::Pair;
use super::scenario::{self, Run, Scenario};
use super::sweep;

/// Of failed seeds so many are told of, each scenario.
const TOLD: usize = 5;

/// What to run.
#[derive(Args, Debug, Clone, Default)]
pub struct Options {
    /// Only this scenario (several times: only these); a prefix ending in * takes all that begin so
    #[arg(long, value_name = "S")]
    scenario: Vec<String>,
    /// Of the failure cases only those with this NAT, or `none` (several times: only these)
    #[arg(long, value_name = "MODEL")]
    nat: Vec<String>,
    /// Of the failure cases only those with the gate (auto) or without it (off)
    #[arg(long, value_name = "GATE")]
    gate: Option<Gate>,
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
    /// Print what outages are held to, as in docs/recovery-bounds.md
    #[arg(long)]
    bounds: bool,
    #[command(flatten)]
    sweep: sweep::Sweep,
    /// List the scenarios
    #[arg(long)]
    list: bool,
}

/// Whether data waits for a ping's answer.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Auto,
    Off,
}

/// What a seed is run of.
#[derive(Clone, Copy)]
pub enum Trial {
    /// A scenario that draws its NAT itself.
    Scenario(Scenario),
    /// A failure case with one NAT model.
    Pair(Pair),
}

impl Trial {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let scenarios = scenario::all().into_iter().map(Self::Scenario);
        scenarios.chain(Pair::all().map(Self::Pair)).collect()
    }

    /// On the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Scenario(scenario) => scenario.name,
            Self::Pair(pair) => pair.case.name(),
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Self::Scenario(scenario) => scenario.about,
            Self::Pair(pair) => pair.case.about(),
        }
    }

    fn seeds(&self) -> u64 {
        match self {
            Self::Scenario(scenario) => scenario.seeds,
            Self::Pair(pair) => pair.seeds(),
        }
    }

    /// Seeds among the repository's tests.
    #[must_use]
    pub fn tested(&self) -> u64 {
        match self {
            Self::Scenario(scenario) => scenario.tested,
            Self::Pair(pair) => pair.tested(),
        }
    }

    /// Runs one seed.
    #[must_use]
    pub fn run(&self, seed: u64, traced: bool) -> Run {
        match self {
            Self::Scenario(scenario) => scenario.run(seed, traced),
            Self::Pair(pair) => pair.run(seed, traced),
        }
    }

    fn nat(&self) -> Option<&'static str> {
        match self {
            Self::Scenario(_) => None,
            Self::Pair(pair) => Some(pair.nat_name()),
        }
    }

    fn gate(&self) -> Option<&'static str> {
        match self {
            Self::Scenario(_) => None,
            Self::Pair(pair) => Some(pair.gate_name()),
        }
    }

    /// What no run's outage may exceed, in seconds.
    fn bound(&self) -> Option<f64> {
        match self {
            Self::Pair(pair) if pair.gated => Some(pair.bound().as_secs_f64()),
            _ => None,
        }
    }

    /// The arguments that choose it, and it alone.
    fn arguments(&self) -> String {
        let mut words = format!("--scenario {}", self.name());
        if let (Some(nat), Some(gate)) = (self.nat(), self.gate()) {
            words += &format!(" --nat {nat} --gate {gate}");
        }
        words
    }
}

/// What came of a scenario: the JSON's lines. Times of failure cases are in seconds; null for other
/// scenarios.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Its name.
    pub scenario: String,
    /// The NAT model of a failure case, or `none`.
    pub nat: Option<&'static str>,
    /// `auto` or `off`.
    pub gate: Option<&'static str>,
    /// How many seeds were run.
    pub seeds: u64,
    /// Those that failed.
    pub failed: Vec<u64>,
    /// Of all runs.
    pub virtual_seconds: f64,
    /// Of all runs.
    pub packets: u64,
    /// The largest that a run may be held to; null without the gate.
    pub bound_s: Option<f64>,
    /// The median outage; null if it had not ended within the run.
    pub median_s: Option<f64>,
    /// The longest outage; null if it had not ended within the run.
    pub worst_s: Option<f64>,
    /// Runs within which the outage did not end.
    pub never: u64,
}

/// Outages and bounds of the runs of one row.
#[derive(Debug, Clone, Default)]
struct Outages {
    /// In seconds; infinite: it never ended.
    lengths: Vec<f64>,
    bound: Option<f64>,
}

impl Outages {
    fn add(&mut self, outage: &scenario::Outage) {
        let length = outage.length.map_or(f64::INFINITY, |l| l.as_secs_f64());
        self.lengths.push(length);
        let bound = outage.bound.map(|b| b.as_secs_f64());
        self.bound = self.bound.into_iter().chain(bound).reduce(f64::max);
    }

    /// Median and worst.
    fn figures(&mut self) -> [Option<f64>; 2] {
        self.lengths.sort_by(f64::total_cmp);
        let median = self.lengths.get(self.lengths.len() / 2);
        [median, self.lengths.last()].map(|figure| figure.copied().filter(|f| f.is_finite()))
    }

    fn never(&self) -> u64 {
        self.lengths.iter().filter(|l| l.is_infinite()).count() as u64
    }
}

/// Runs what is asked for; `false` if a seed failed.
pub fn run(options: &Options) -> Result<bool> {
    if options.bounds {
        print!("{}", scenario::cases::markdown());
        return Ok(true);
    }
    let trials = chosen(options)?;
    if options.list {
        list(&trials);
        return Ok(true);
    }
    if let Some(seed) = options.seed {
        let [trial] = trials.as_slice() else {
            bail!(
                "--seed needs --scenario with one scenario; a failure case needs --nat and --gate, too"
            );
        };
        return replay(trial, seed, options);
    }
    // A panic is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let jobs = options.jobs.unwrap_or_else(cores).max(1);
    if options.sweep.sweep {
        let pairs = trials.into_iter().filter_map(|trial| match trial {
            Trial::Pair(pair) => pair.gated.then_some(pair),
            Trial::Scenario(_) => None,
        });
        let seeds = options.seeds.unwrap_or(sweep::SEEDS);
        let pairs: Vec<_> = pairs.collect();
        return sweep::run(&options.sweep, &pairs, seeds, jobs, options.json.as_ref());
    }
    let mut summaries = Vec::new();
    println!(
        "{:<20} {:<17} {:<4} {:>6} {:>6} {:>9} {:>9} {:>9} {:>12} {:>10} {:>9}",
        "scenario",
        "nat",
        "gate",
        "seeds",
        "failed",
        "bound",
        "median",
        "worst",
        "virtual",
        "packets",
        "per seed"
    );
    for trial in &trials {
        summaries.push(one(trial, options, jobs));
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&summaries)?;
        std::fs::write(path, text + "\n").with_context(|| format!("{}", path.display()))?;
    }
    Ok(summaries.iter().all(|summary| summary.failed.is_empty()))
}

/// The failure cases once each, with their NATs.
fn list(trials: &[Trial]) {
    let mut nats: std::collections::BTreeMap<&str, Vec<&str>> = Default::default();
    for trial in trials {
        let known = nats.entry(trial.name()).or_default();
        known.extend(trial.nat().filter(|nat| !known.contains(nat)));
    }
    let mut told = std::collections::BTreeSet::new();
    for trial in trials {
        if !told.insert(trial.name()) {
            continue;
        }
        let nats = &nats[trial.name()];
        let of_each = if nats.is_empty() { "" } else { " each" };
        println!(
            "{:<20} {:>5} seeds{of_each:<5}  {}",
            trial.name(),
            trial.seeds(),
            trial.about()
        );
        if !nats.is_empty() {
            println!("{:38}--nat {}", "", nats.join(" | "));
        }
    }
}

fn chosen(options: &Options) -> Result<Vec<Trial>> {
    let all = Trial::all();
    let mut chosen = Vec::new();
    for name in &options.scenario {
        let before = chosen.len();
        let fits = |trial: &&Trial| match name.strip_suffix('*') {
            Some(prefix) => trial.name().starts_with(prefix),
            None => trial.name() == name,
        };
        chosen.extend(all.iter().filter(fits));
        if chosen.len() == before {
            bail!("no scenario \"{name}\": see --list");
        }
    }
    if options.scenario.is_empty() {
        chosen = all;
    }
    let known = |nat: &String| chosen.iter().any(|trial| trial.nat() == Some(nat));
    if let Some(unknown) = options.nat.iter().find(|nat| !known(nat)) {
        bail!("no failure case with the NAT \"{unknown}\": see --list");
    }
    let gate = options.gate.map(|gate| match gate {
        Gate::Auto => "auto",
        Gate::Off => "off",
    });
    let narrowed = gate.is_some() || !options.nat.is_empty();
    chosen.retain(|trial| match trial.nat() {
        None => !narrowed,
        Some(nat) => {
            let nat = options.nat.is_empty() || options.nat.iter().any(|n| n == nat);
            nat && gate.is_none_or(|gate| trial.gate() == Some(gate))
        }
    });
    Ok(chosen)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// All seeds of one row, on all cores.
fn one(trial: &Trial, options: &Options, jobs: usize) -> Summary {
    let seeds = options.seeds.unwrap_or_else(|| trial.seeds());
    let bar = ProgressBar::new(seeds);
    let style = "{prefix:<38} [{bar:30}] {pos}/{len} {msg} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style.progress_chars("=> "));
    }
    let (nat, gate) = (trial.nat(), trial.gate());
    bar.set_prefix(format!("{} {}", trial.name(), nat.unwrap_or_default()));
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let outages = Mutex::new(Outages::default());
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
                    let run = guarded(trial, seed);
                    if let Ok(run) = &run {
                        let ms = u64::try_from(run.virtual_time.as_millis()).unwrap_or(0);
                        virtual_ms.fetch_add(ms, Ordering::Relaxed);
                        packets.fetch_add(run.packets, Ordering::Relaxed);
                        if let Some(outage) = &run.outage {
                            locked(&outages).add(outage);
                        }
                    }
                    let failure = match run {
                        Ok(run) => run.violation.map(|v| v.to_string()),
                        Err(panic) => Some(format!("panicked: {panic}")),
                    };
                    if let Some(failure) = failure {
                        let mut failures = locked(&failures);
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
    let mut outages = outages.into_inner().unwrap_or_else(PoisonError::into_inner);
    let virtual_time = Duration::from_millis(virtual_ms.into_inner());
    let [median_s, worst_s] = outages.figures();
    let summary = Summary {
        scenario: trial.name().to_owned(),
        nat,
        gate,
        seeds,
        failed: failures.iter().map(|(seed, _)| *seed).collect(),
        virtual_seconds: virtual_time.as_secs_f64(),
        packets: packets.into_inner(),
        bound_s: trial.bound().or(outages.bound),
        median_s,
        worst_s,
        never: outages.never(),
    };
    let took = start.elapsed().as_secs_f64() * 1000.0 / seeds.max(1) as f64;
    println!("{} {took:>6.1} ms", summary.row());
    for (seed, failure) in failures.iter().take(TOLD) {
        println!("    seed {seed} {}", failure.replace('\n', " "));
        println!("      replay: {}", command(trial, *seed));
    }
    if failures.len() > TOLD {
        println!("    … and {} more", failures.len() - TOLD);
    }
    let _ = std::io::stdout().flush();
    summary
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Summary {
    /// In the table.
    fn row(&self) -> String {
        let seconds = |figure: Option<f64>| figure.map_or(String::new(), |s| format!("{s:.2} s"));
        let of_case = |figure: Option<f64>| match (figure, self.nat) {
            (None, Some(_)) => "never".to_owned(),
            (figure, _) => seconds(figure),
        };
        format!(
            "{:<20} {:<17} {:<4} {:>6} {:>6} {:>9} {:>9} {:>9} {:>10.0} s {:>10}",
            self.scenario,
            self.nat.unwrap_or_default(),
            self.gate.unwrap_or_default(),
            self.seeds,
            self.failed.len(),
            seconds(self.bound_s),
            of_case(self.median_s),
            of_case(self.worst_s),
            self.virtual_seconds,
            self.packets,
        )
    }
}

/// The command that replays a seed with its diagram and writes its capture.
#[must_use]
pub fn command(trial: &Trial, seed: u64) -> String {
    let (name, arguments) = (trial.name(), trial.arguments());
    format!("cargo xtask sim {arguments} --seed {seed} --pcap target/xtask/sim-{name}-{seed}.pcap")
}

/// A panic of the code under test fails the seed, not the run.
fn guarded(trial: &Trial, seed: u64) -> Result<Run, String> {
    let run = std::panic::catch_unwind(|| trial.run(seed, false));
    run.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default()
    })
}

fn replay(trial: &Trial, seed: u64, options: &Options) -> Result<bool> {
    let run = trial.run(seed, true);
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
        trial.name(),
        run.virtual_time.as_secs_f64(),
        run.packets,
        &run.digest[..16]
    );
    if let Some(path) = &options.json {
        let mut outages = Outages::default();
        run.outage.iter().for_each(|outage| outages.add(outage));
        let [median_s, worst_s] = outages.figures();
        let summary = Summary {
            scenario: trial.name().to_owned(),
            nat: trial.nat(),
            gate: trial.gate(),
            seeds: 1,
            failed: run.violation.iter().map(|_| seed).collect(),
            virtual_seconds: run.virtual_time.as_secs_f64(),
            packets: run.packets,
            bound_s: trial.bound().or(outages.bound),
            median_s,
            worst_s,
            never: outages.never(),
        };
        std::fs::write(path, serde_json::to_string_pretty(&[summary])? + "\n")?;
    }
    if let Some(outage) = &run.outage {
        let seconds = |time: Option<Duration>, none: &str| {
            time.map_or(none.to_owned(), |t| format!("{:.3} s", t.as_secs_f64()))
        };
        println!(
            "traffic away for {}, bound {}",
            seconds(outage.length, "the whole run"),
            seconds(outage.bound, "none")
        );
    }
    match &run.violation {
        None => println!("passed"),
        Some(violation) => println!("FAILED {violation}"),
    }
    Ok(run.violation.is_none())
}
