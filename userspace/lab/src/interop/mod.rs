//! The interoperability matrix: mitregate's real daemon and strongSwan as Debian ships it, in
//! network namespaces, in both roles. In each case data crosses and is counted where it arrives.

mod cases;
mod pki;
mod report;
mod run;
mod setup;
pub mod swan;

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{daemon, interrupt, payload, sh};
use cases::Case;
use report::Row;
use run::Run;
use setup::{Role, Setup};
use swan::Release;

/// While cases run and nothing is said, which ones are at work is told this often.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// Lines of each log that a failure shows.
const SHOWN: usize = 14;

/// What the matrix may be told.
#[derive(Args)]
pub struct Options {
    /// Only cases whose name contains one of these words, separated by commas
    #[arg(long, value_name = "FILTER")]
    case: Option<String>,
    /// Only with mitregate as `initiator` or `responder`
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Only the few cases that belong to the project's tests
    #[arg(long)]
    quick: bool,
    /// Say what there is, run nothing
    #[arg(long)]
    list: bool,
    /// Write the results to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the logs of cases that went well
    #[arg(long)]
    keep: bool,
    /// A release of strongSwan: its version, for the machine's own, or VERSION=FOLDER for one
    /// that lives in another Debian
    #[arg(long = "peer", value_name = "VERSION[=FOLDER]", default_value = "5.9")]
    peers: Vec<String>,
    /// Cases at work at the same time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Namespaces are called NAME-0-client and so on
    #[arg(long, default_value = "mitregate-interop")]
    name: String,
    /// Where the logs go, a folder for each case
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/log/mitregate-lab/interop"
    )]
    logs: PathBuf,
}

/// One case in one role with one peer, to be run.
struct Job<'a> {
    case: &'a Case,
    role: Role,
    release: &'a Release,
}

impl Job<'_> {
    fn name(&self) -> String {
        let Job {
            case,
            role,
            release,
        } = self;
        format!("{}-{}-{}", case.name, role.name(), release.name)
    }
}

/// True when every case went well.
pub fn run(options: &Options) -> Result<bool> {
    let releases = releases(&options.peers)?;
    let cases = cases::all();
    let jobs = jobs(options, &cases, &releases);
    if jobs.is_empty() {
        bail!("no case fits; --list shows them");
    }
    if options.list {
        for job in &jobs {
            let Job {
                case,
                role,
                release,
            } = job;
            println!("{:<40} {:<10} {}", case.name, role.name(), release.name);
        }
        return Ok(true);
    }
    for tool in ["unshare", "nsenter", "swanctl", "tshark", "openssl"] {
        if !sh::have(tool) {
            bail!("{tool} is not installed: cargo xtask setup");
        }
    }
    daemon::binary()?;
    println!(
        "{} cases with strongSwan {}, {} at a time; logs of failures in {}",
        jobs.len(),
        releases
            .iter()
            .map(|release| release.name.as_str())
            .collect::<Vec<_>>()
            .join(" and "),
        options.jobs.max(1),
        options.logs.display()
    );
    let rows = Scheduler::new(options, jobs).run();
    if let Some(path) = &options.json {
        report::write_json(path, &rows)?;
    }
    print!("{}", report::table(&rows));
    interrupt::check()?;
    Ok(rows.iter().all(|row| row.ok))
}

fn releases(peers: &[String]) -> Result<Vec<Release>> {
    let release = |peer: &String| {
        let (name, root) = match peer.split_once('=') {
            Some((name, root)) => (name, Some(PathBuf::from(root))),
            None => (peer.as_str(), None),
        };
        let charon = root
            .as_deref()
            .unwrap_or(Path::new("/"))
            .join("usr/lib/ipsec/charon");
        if !charon.is_file() {
            bail!(
                "strongSwan {name} is not installed: {} is missing",
                charon.display()
            );
        }
        Ok(Release {
            name: name.to_owned(),
            root,
        })
    };
    peers.iter().map(release).collect()
}

fn jobs<'a>(options: &Options, cases: &'a [Case], releases: &'a [Release]) -> VecDeque<Job<'a>> {
    let words: Vec<_> = options
        .case
        .iter()
        .flat_map(|text| text.split(','))
        .collect();
    let mut jobs = VecDeque::new();
    for (nth, release) in releases.iter().enumerate() {
        for case in cases {
            let named = words.is_empty() || words.iter().any(|word| case.name.contains(word));
            let here = case.runs_with(&release.name, nth == 0);
            if !(named && here) || (options.quick && !case.quick) {
                continue;
            }
            for role in case.roles {
                if options
                    .role
                    .as_deref()
                    .is_none_or(|only| only == role.name())
                {
                    jobs.push_back(Job {
                        case,
                        role: *role,
                        release,
                    });
                }
            }
        }
    }
    jobs
}

/// Hands the jobs out to a few threads, and says what became of them.
struct Scheduler<'a> {
    options: &'a Options,
    queue: Mutex<VecDeque<Job<'a>>>,
    working: Mutex<Vec<String>>,
    rows: Mutex<Vec<Row>>,
    spoken: Mutex<Instant>,
}

impl<'a> Scheduler<'a> {
    fn new(options: &'a Options, jobs: VecDeque<Job<'a>>) -> Self {
        Scheduler {
            options,
            queue: Mutex::new(jobs),
            working: Mutex::default(),
            rows: Mutex::default(),
            spoken: Mutex::new(Instant::now()),
        }
    }

    fn run(self) -> Vec<Row> {
        thread::scope(|scope| {
            for slot in 0..self.options.jobs.max(1) {
                let this = &self;
                scope.spawn(move || this.work(slot));
            }
            let all_done = || held(&self.queue).is_empty() && held(&self.working).is_empty();
            while !all_done() {
                thread::sleep(Duration::from_millis(200));
                self.heartbeat();
            }
        });
        self.rows.into_inner().unwrap_or_default()
    }

    fn heartbeat(&self) {
        let mut spoken = held(&self.spoken);
        if spoken.elapsed() >= HEARTBEAT {
            *spoken = Instant::now();
            let waiting = held(&self.queue).len();
            println!("    … {}; {waiting} to go", held(&self.working).join(", "));
        }
    }

    fn work(&self, slot: usize) {
        loop {
            let job = {
                let mut working = held(&self.working);
                let Some(job) = held(&self.queue).pop_front() else {
                    return;
                };
                working.push(job.name());
                job
            };
            let row = (interrupt::check().is_ok()).then(|| self.one(&job, slot));
            held(&self.working).retain(|name| *name != job.name());
            if let Some((row, said)) = row {
                *held(&self.spoken) = Instant::now();
                print!("{}\n{said}", report::line(&row));
                held(&self.rows).push(row);
            }
        }
    }

    fn one(&self, job: &Job<'_>, slot: usize) -> (Row, String) {
        let logs = self.options.logs.join(job.name());
        let start = Instant::now();
        let lab = format!("{}-{slot}", self.options.name);
        let result = case(job, &lab, &logs);
        let row = Row {
            case: job.case.name.clone(),
            mitregate_role: job.role.name(),
            peer: format!("strongswan-{}", job.release.name),
            ok: result.is_ok(),
            detail: result.unwrap_or_else(|error| format!("{error:#}")),
            took: start.elapsed(),
        };
        let mut said = String::new();
        if !row.ok {
            said = shown(&row.detail, &logs);
        } else if !self.options.keep {
            let _ = fs::remove_dir_all(&logs);
        }
        (row, said)
    }
}

fn case(job: &Job<'_>, lab: &str, logs: &Path) -> Result<String> {
    let _ = fs::remove_dir_all(logs);
    fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let mut setup = Setup::new(job.role, &payload::random_hex(16)?);
    (job.case.setup)(&mut setup);
    let mut run = Run::prepare(lab, setup, job.release, logs)?;
    let detail = (job.case.script)(&mut run)?;
    run.end()?;
    Ok(detail)
}

/// A failure as a person wants to see it.
fn shown(detail: &str, logs: &Path) -> String {
    let mut text = String::new();
    for line in detail.lines().skip(1) {
        text += &format!("      {line}\n");
    }
    for name in ["client.log", "gw.log", "strongswan.log"] {
        let path = logs.join(name);
        if path.is_file() {
            text += &format!("      --- {name}\n");
            for line in report::telling_lines(&path, SHOWN) {
                text += &format!("      {line}\n");
            }
        }
    }
    text + &format!("      --- all of it in {}\n", logs.display())
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
