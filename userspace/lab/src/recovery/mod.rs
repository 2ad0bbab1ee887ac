//! Side by side: mitregate, mitregate without its gate, strongSwan and wireguard-go, in the same
//! namespaces, behind the same NAT of the kernel's, under the same faults. How long does nothing
//! arrive, and how much is lost?

mod fault;
mod measure;
mod report;
mod system;
mod wireguard;

pub use fault::Fault;
pub use measure::{By, Flows, Given, Sample, What, rekeys};
pub use system::System;

use std::{
    collections::VecDeque,
    fs,
    io::{IsTerminal, stdout},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    daemon::{self, Settings},
    interrupt, sh,
};
use report::Cell;

/// Without a terminal, how far it is is told this often.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// What to compare.
#[derive(Args)]
pub struct Options {
    /// Only these systems, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SYSTEM")]
    system: Vec<System>,
    /// Only these faults
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULT")]
    fault: Vec<Fault>,
    /// Only with these senders
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FLOWS")]
    flows: Vec<Flows>,
    /// Runs of each; of rekeys, so many in a row on one tunnel
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least_one)]
    runs: usize,
    /// Seconds after a fault at which a run that has not recovered is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..))]
    cutoff: u64,
    /// Who starts rekeys
    #[arg(long, value_enum, default_value = "turns")]
    rekey_by: By,
    /// strongSwan's dpd_delay at both ends, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    strongswan_dpd: u64,
    /// Labs at work at the same time where outages are looked for
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = at_least_one)]
    jobs: usize,
    /// The same under rekeys, at 1000 datagrams a second each way
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one)]
    rekey_jobs: usize,
    #[command(flatten)]
    settings: Settings,
    /// Write the results to FILE: an array of {system, fault, flows, runs, median_outage_s,
    /// worst_outage_s, lost}; an outage that did not end is null
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw every run to FILE
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Namespaces are called NAME-0-client and so on
    #[arg(long, default_value = "mitregate-recovery")]
    name: String,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// True when every run could be made; what it showed is in the table.
pub fn run(options: &Options) -> Result<bool> {
    daemon::binary()?;
    let cells = cells(options);
    for tool in cells
        .iter()
        .flat_map(|job| job.system.tools())
        .chain(&["conntrack"])
    {
        if !sh::have(tool) {
            bail!("{tool} is not installed: cargo xtask setup");
        }
    }
    let (rekeys, outages): (Vec<_>, Vec<_>) = cells.iter().partition(|job| job.fault.is_rekey());
    // Run by run, the systems side by side: what the machine does meanwhile hits all alike.
    let turns = (0..options.runs).flat_map(|_| outages.iter().copied());
    let steps = cells.len() * options.runs;
    println!(
        "{steps} runs: outages in {} labs at a time, rekeys in {}; load {} before",
        options.jobs,
        options.rekey_jobs,
        load()
    );
    let bench = Bench::new(options, steps);
    let start = Instant::now();
    bench.work_off(options.jobs, turns.collect());
    bench.work_off(options.rekey_jobs, rekeys.into());
    bench.bar.finish_and_clear();
    interrupt::check()?;

    let samples = held(&bench.samples);
    let cells: Vec<_> = cells
        .iter()
        .map(|job| {
            let mine = samples.iter().filter(|(of, _)| of == job);
            Cell {
                system: job.system,
                fault: job.fault,
                flows: job.flows,
                samples: mine.map(|(_, sample)| *sample).collect(),
            }
        })
        .collect();
    print!("{}", report::table(&cells));
    println!(
        "\n{} s; an outage is the longest time without an arrival; never: not within {} s",
        start.elapsed().as_secs(),
        options.cutoff
    );
    if let Some(path) = &options.json {
        let rows: Vec<_> = cells.iter().map(Cell::row).collect();
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.svg {
        fs::write(path, report::svg(&cells, options.cutoff))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let failures = held(&bench.failures);
    for failure in failures.iter() {
        eprintln!("{failure}");
    }
    Ok(failures.is_empty())
}

/// Everything that was asked for and can be.
fn cells(options: &Options) -> Vec<What> {
    fn chosen<T: ValueEnum + Copy>(wanted: &[T]) -> Vec<T> {
        match wanted {
            [] => T::value_variants().to_vec(),
            some => some.to_vec(),
        }
    }
    let mut jobs = Vec::new();
    for fault in chosen(&options.fault) {
        for flows in chosen(&options.flows) {
            for system in chosen(&options.system) {
                if system.knows(fault) {
                    jobs.push(What {
                        system,
                        fault,
                        flows,
                    });
                }
            }
        }
    }
    jobs
}

fn name(what: What) -> String {
    let What {
        system,
        fault,
        flows,
    } = what;
    format!("{} {fault:?} {flows:?}", system.name()).to_lowercase()
}

struct Bench<'a> {
    options: &'a Options,
    given: Given,
    bar: ProgressBar,
    done: AtomicUsize,
    steps: usize,
    samples: Mutex<Vec<(What, Sample)>>,
    failures: Mutex<Vec<String>>,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Options, steps: usize) -> Self {
        let bar = ProgressBar::new(steps as u64);
        let style = "[{bar:30}] {pos}/{len} runs, {elapsed}, {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        Bench {
            options,
            given: Given {
                settings: options.settings.clone(),
                strongswan_dpd: Duration::from_secs(options.strongswan_dpd),
            },
            bar,
            done: AtomicUsize::new(0),
            steps,
            samples: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// So many labs at a time.
    fn work_off(&self, labs: usize, jobs: VecDeque<What>) {
        let queue = Mutex::new(jobs);
        let working = AtomicUsize::new(labs);
        thread::scope(|scope| {
            for slot in 0..labs {
                let (queue, working) = (&queue, &working);
                scope.spawn(move || {
                    let name = format!("{}-{slot}", self.options.name);
                    while interrupt::check().is_ok() {
                        let Some(job) = held(queue).pop_front() else {
                            break;
                        };
                        self.one(job, &name);
                    }
                    working.fetch_sub(1, Ordering::Relaxed);
                });
            }
            let mut spoken = Instant::now();
            while working.load(Ordering::Relaxed) > 0 {
                thread::sleep(Duration::from_millis(200));
                self.bar.tick();
                if !stdout().is_terminal() && spoken.elapsed() >= HEARTBEAT {
                    spoken = Instant::now();
                    let done = self.done.load(Ordering::Relaxed);
                    println!("    … {done} of {} runs, load {}", self.steps, load());
                }
            }
        });
    }

    fn one(&self, what: What, lab: &str) {
        let name = name(what);
        self.bar.set_message(name.clone());
        let done = || {
            self.done.fetch_add(1, Ordering::Relaxed);
            self.bar.inc(1);
        };
        let Options { runs, rekey_by, .. } = *self.options;
        let samples = if what.fault.is_rekey() {
            measure::rekeys(lab, &self.given, what, (runs, rekey_by), &done)
        } else {
            let limit = Duration::from_secs(self.options.cutoff);
            let sample = measure::outage(lab, &self.given, what, limit);
            done();
            sample.map(|sample| vec![sample])
        };
        match samples {
            Ok(samples) => {
                let samples = samples.into_iter().map(|sample| (what, sample));
                held(&self.samples).extend(samples);
            }
            // It is told of in the end, too, unless it is what Ctrl-C does.
            Err(error) if interrupt::check().is_ok() => {
                let text = format!("{name}: {error:#}");
                self.bar.suspend(|| eprintln!("{text}"));
                held(&self.failures).push(text);
            }
            Err(_) => {}
        }
    }
}

/// The machine's, over the last minute.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
