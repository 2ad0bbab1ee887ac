//! `mitregate-model`: cases, what they are expected to come to, and what they came to.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::config::{Config, Rule};
use crate::diagram;
use crate::explore::{Graph, Limits, replay};
use crate::fair;
use crate::world::{Action, broken, label};

/// How often a run says how far it is.
const TELL: Duration = Duration::from_secs(2);

/// The two properties of infinite runs: their names, what is to happen again and again, and who sends.
const LIVE: [(&str, u16, u16); 2] = [
    (
        "I4 client to server: data arrives again and again",
        label::UP,
        label::APP_UP,
    ),
    (
        "I4 server to client: data arrives again and again",
        label::DOWN,
        label::APP_DOWN,
    ),
];

/// A configuration with a name, and what it shows.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// What is explored.
    pub config: Config,
    /// The first words of the properties that must turn out broken; all others must hold.
    pub breaks: &'static [&'static str],
    /// Explored only until that is so.
    pub stops: bool,
}

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case> {
    let case = |name, about, config| Case {
        name,
        about,
        config,
        breaks: &[],
        stops: false,
    };
    let one = Config {
        rekeys: 1,
        crashes: 1,
        faults: 1,
        ..Config::default()
    };
    let two = Config {
        clients: 2,
        ..Config::default()
    };
    vec![
        case(
            "one-client",
            "a client: a rekey, a crash of the NAT and one more fault, in any order",
            one,
        ),
        case(
            "two-clients-rekey",
            "two clients behind one NAT that start at once, a rekey each",
            Config {
                rekeys: 1,
                ..two.clone()
            },
        ),
        case(
            "two-clients-crash",
            "two clients behind one NAT that crashes",
            Config {
                crashes: 1,
                tries: 1,
                ..two.clone()
            },
        ),
        Case {
            breaks: &["I4 server to client"],
            ..case(
                "off",
                "the same without a gate: the NAT gives one client's packets to the other, for ever",
                Config {
                    rule: Rule::Off,
                    ..two.clone()
                },
            )
        },
        Case {
            breaks: &["I1", "no data lost"],
            stops: true,
            ..case(
                "one-round-trip",
                "a server that moves its data with its answer to the client's ping, unproven",
                Config {
                    rule: Rule::OneRoundTrip,
                    crashes: 1,
                    faults: 1,
                    ..Config::default()
                },
            )
        },
    ]
}

/// What to explore.
#[derive(Args, Debug, Clone, Default)]
pub struct Options {
    /// Only this case (several times: only these); without it and without the numbers below: all
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// List the cases
    #[arg(long)]
    list: bool,
    /// Write what came of it as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Threads; by default one for each core
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// No more states than this: what is found until then is told, the rest is not known
    #[arg(long, value_name = "N", default_value_t = 100_000_000)]
    states: u64,
    #[command(flatten)]
    own: Own,
}

/// A configuration of one's own: any of these makes one.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "A case of your own")]
struct Own {
    /// The gate, or what one would have instead
    #[arg(long, value_enum)]
    rule: Option<Rule>,
    /// Clients behind the NAT, with a tunnel each: 1 to 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    clients: Option<u8>,
    /// Rekeys for reasons of age, each client
    #[arg(long, value_name = "N")]
    rekeys: Option<u8>,
    /// Crashes of the NAT
    #[arg(long, value_name = "N")]
    crashes: Option<u8>,
    /// Packets lost, doubled, overtaken or late, IKE messages lost, rekeys refused, entries of the NAT
    /// gone: so many in all
    #[arg(long, value_name = "N")]
    faults: Option<u8>,
    /// No application sends and no client looks at its path while so many packets are under way
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    in_flight: Option<u8>,
    /// Pings on a new epoch before it is given up
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5))]
    tries: Option<u32>,
    /// IKE stays on UDP 500: the NAT guesses
    #[arg(long)]
    guess: bool,
}

impl Own {
    fn case(&self) -> Option<Case> {
        let Self {
            rule,
            clients,
            rekeys,
            crashes,
            faults,
            in_flight,
            tries,
            guess,
        } = self;
        let numbers = [clients, rekeys, crashes, faults, in_flight];
        let any =
            numbers.iter().any(|n| n.is_some()) || rule.is_some() || tries.is_some() || *guess;
        let like = Config::default();
        any.then(|| Case {
            name: "own",
            about: "a case of your own",
            config: Config {
                rule: rule.unwrap_or(like.rule),
                clients: clients.unwrap_or(like.clients),
                rekeys: rekeys.unwrap_or(like.rekeys),
                crashes: crashes.unwrap_or(like.crashes),
                faults: faults.unwrap_or(like.faults),
                in_flight: in_flight.map_or(like.in_flight, usize::from),
                tries: tries.unwrap_or(like.tries),
                guess: *guess,
            },
            breaks: &[],
            stops: false,
        })
    }
}

/// A property, and whether it holds.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// What.
    pub property: &'static str,
    /// `None`: not known, because not all was explored.
    pub holds: Option<bool>,
    /// As a sequence diagram, if it does not.
    pub trace: Option<String>,
}

/// What came of a case.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The case.
    #[serde(flatten)]
    pub case: Case,
    /// States, without those that are alike.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// The longest of the shortest ways to a state.
    pub depth: u32,
    /// States whose future was compared with that of one that is taken for the same.
    pub compared: u64,
    /// Whether these are all states.
    pub complete: bool,
    /// How long it took.
    pub seconds: f64,
    /// What holds.
    pub verdicts: Vec<Verdict>,
    /// Whether all is as it should be.
    pub expected: bool,
}

/// Explores a case and judges it.
///
/// # Errors
/// See [`Graph::explore`].
pub fn judge(
    case: &Case,
    jobs: usize,
    states: u64,
    progress: &mut dyn FnMut(usize, usize, u32),
) -> Result<Report> {
    let config = &case.config;
    let expected = |name: &str| case.breaks.iter().any(|words| name.starts_with(words));
    let until = broken::ALL.iter().filter(|(_, name)| expected(name));
    let mut limits = Limits {
        states,
        until_broken: if case.stops {
            until.fold(0, |all, (bit, _)| all | bit)
        } else {
            0
        },
        jobs,
        progress,
    };
    let graph = Graph::explore(config, &mut limits).map_err(anyhow::Error::msg)?;
    let mut verdicts = Vec::new();
    for (bit, property) in broken::ALL {
        if config.rule == Rule::Off && bit != broken::I2 && bit != broken::I6 {
            // Nothing is proven there, so there is nothing to ask.
            continue;
        }
        let first = graph.broken.iter().find(|(b, ..)| *b == bit);
        let trace = first.map(|(_, from, action)| {
            let mut way = graph.way(*from);
            way.push(*action);
            diagram::draw(config.clients, &replay(config, &way).1)
        });
        verdicts.push(Verdict {
            property,
            holds: match first {
                Some(_) => Some(false),
                None => graph.complete.then_some(true),
            },
            trace,
        });
    }
    for (property, goal, app) in LIVE {
        let stuck = graph.complete.then(|| fair::stuck(&graph, goal));
        let lasso = stuck.as_ref().and_then(Option::as_ref);
        let lasso = lasso.and_then(|states| fair::lasso(config, &graph, states, app));
        verdicts.push(Verdict {
            property,
            holds: stuck.as_ref().map(Option::is_none),
            trace: lasso.map(|lasso| endless(config, lasso.stem, &lasso.cycle)),
        });
    }
    let as_expected = |v: &Verdict| match v.holds {
        Some(holds) => holds != expected(v.property),
        None => case.stops && !expected(v.property),
    };
    Ok(Report {
        case: case.clone(),
        states: graph.states(),
        steps: graph.edges(),
        depth: graph.depth,
        compared: graph.compared,
        complete: graph.complete,
        seconds: graph.took.as_secs_f64(),
        expected: verdicts.iter().all(as_expected),
        verdicts,
    })
}

fn endless(config: &Config, mut way: Vec<Action>, cycle: &[Action]) -> String {
    let stem = replay(config, &way).1;
    way.extend(cycle);
    let all = replay(config, &way).1;
    let (first, again) = all.split_at(stem.len());
    format!(
        "{}    and then, for ever:\n{}",
        diagram::draw(config.clients, first),
        diagram::draw(config.clients, again)
    )
}

/// Runs what is asked for; `false` if something is not as it should be.
///
/// # Errors
/// A case that is not there, a file that cannot be written, and see [`Graph::explore`].
pub fn run(options: &Options) -> Result<bool> {
    let all = cases();
    if options.list {
        for case in &all {
            println!("{:<18} {}", case.name, case.about);
        }
        return Ok(true);
    }
    let chosen: Vec<Case> = match options.own.case() {
        Some(_) if !options.case.is_empty() => bail!("--case or a case of your own, not both"),
        Some(own) => vec![own],
        None if options.case.is_empty() => all,
        None => {
            let find = |name: &String| {
                let case = all.iter().find(|case| case.name == name);
                case.cloned()
                    .with_context(|| format!("no case \"{name}\": see --list"))
            };
            options.case.iter().map(find).collect::<Result<_>>()?
        }
    };
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = options.jobs.unwrap_or_else(cores).max(1);
    let mut reports = Vec::new();
    for case in &chosen {
        println!("{}: {}", case.name, case.about);
        println!("  {}", describe(&case.config));
        let report = judge(case, jobs, options.states, &mut progress())?;
        show(&report);
        reports.push(report);
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&reports)?;
        std::fs::write(path, text + "\n").with_context(|| format!("{}", path.display()))?;
    }
    Ok(reports.iter().all(|report| report.expected))
}

fn describe(config: &Config) -> String {
    let rule = match config.rule {
        Rule::Gate => "the gate as it is",
        Rule::Off => "no gate",
        Rule::OneRoundTrip => "the gate with G5 cut to one round trip",
    };
    let guess = if config.guess {
        ", IKE on port 500"
    } else {
        ""
    };
    format!(
        "{rule}; clients: {}, rekeys each: {}, crashes: {}, other faults: {}, pings per epoch: {}{guess}",
        config.clients, config.rekeys, config.crashes, config.faults, config.tries
    )
}

/// A line that is written over itself, on a terminal, when a run takes long.
fn progress() -> impl FnMut(usize, usize, u32) {
    let began = Instant::now();
    let mut told = began;
    move |states, steps, depth| {
        if told.elapsed() < TELL || !std::io::stderr().is_terminal() {
            return;
        }
        told = Instant::now();
        let seconds = began.elapsed().as_secs();
        eprint!("\r  {states} states, {steps} steps, depth {depth}, {seconds} s \x1b[K");
        let _ = std::io::stderr().flush();
    }
}

fn show(report: &Report) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    let all = if report.complete {
        "all of them"
    } else {
        "not all"
    };
    println!(
        "  {} states ({all}), {} steps, depth {}, {:.1} s; {} pairs taken for one had equal futures",
        report.states, report.steps, report.depth, report.seconds, report.compared
    );
    for verdict in &report.verdicts {
        let breaks = report
            .case
            .breaks
            .iter()
            .any(|words| verdict.property.starts_with(words));
        let word = match (verdict.holds, breaks) {
            (Some(true), false) => "holds",
            (Some(true), true) => "HOLDS, but should not here",
            (Some(false), true) => "broken, as it must be here",
            (Some(false), false) => "BROKEN",
            (None, _) if verdict.property.starts_with("I4") => "not known",
            (None, _) => "not broken so far",
        };
        println!("  {:<80} {word}", verdict.property);
    }
    for verdict in &report.verdicts {
        if let Some(trace) = &verdict.trace {
            println!("\n  {}:\n\n{trace}", verdict.property);
        }
    }
    println!();
}
