//! The demo: a tunnel through a NAT, real traffic, a crash, and a look at the wire; then two clients
//! behind one NAT that loses its tables.

mod nat_crash;
mod tunnel;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{
    daemon::{Daemon, Settings},
    interrupt,
    report::Report,
    topology::{self, Lab},
};

/// For a daemon to start, and for the tunnel to be proven.
const PATIENCE: Duration = Duration::from_secs(15);

/// Part of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Act {
    /// One client behind the kernel's NAT: traffic, a killed daemon, a look at the wire
    Tunnel,
    /// Two clients behind one vpn-masquerade NAT that crashes in the middle of their downloads
    NatCrash,
}

/// What the demo may be told.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    settings: Settings,
    /// Only this part
    #[arg(long, value_enum)]
    act: Option<Act>,
    /// Write the results to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How long each TCP measurement takes
    #[arg(long, value_name = "N", default_value_t = 5)]
    seconds: u32,
    /// Take the tunnel's routes away once it is up: the leak check must then fail
    #[arg(long)]
    without_routes: bool,
    /// Leave the lab and its daemons standing afterwards, also after a failure
    #[arg(long)]
    keep: bool,
    /// Namespaces are called NAME-client and so on; in the second part NAME-two-client
    #[arg(long, default_value = "mitregate-demo")]
    name: String,
    /// Where the logs go; without it they are kept after a failure only
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
}

impl Options {
    fn wants(&self, act: Act) -> bool {
        match self.act {
            Some(one) => one == act,
            // That sabotage is about the first part.
            None => act == Act::Tunnel || !self.without_routes,
        }
    }
}

/// True when everything was as it should be.
pub fn run(options: &Options) -> Result<bool> {
    let logs = topology::log_dir(&options.name, options.logs.as_deref())?;
    let logs_of_two = logs.join("two");
    let mut report = Report::of(&options.settings);
    if options.wants(Act::Tunnel) {
        let result = tunnel::run(options, &logs, &mut report);
        report.note(result);
    }
    if options.wants(Act::NatCrash) && interrupt::check().is_ok() {
        topology::log_dir(&options.name, Some(&logs_of_two))?;
        let result = nat_crash::run(options, &logs_of_two, &mut report);
        report.note(result);
    }
    report.ok = report.failures.is_empty();
    report.print();
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    let useless = report.ok || interrupt::check().is_err();
    if useless && options.logs.is_none() && !options.keep {
        topology::remove_logs(&logs_of_two);
        topology::remove_logs(&logs);
    } else {
        println!("logs are in {}", logs.display());
    }
    Ok(report.ok)
}

/// Leave lab and daemons standing.
fn leave(lab: Lab, daemons: impl IntoIterator<Item = Daemon>) -> Result<()> {
    daemons.into_iter().for_each(Daemon::leave);
    let name = lab.name().to_owned();
    lab.keep()?;
    say(&format!(
        "left standing; `cargo xtask lab down --name {name}` takes it down"
    ));
    Ok(())
}

fn say(what: &str) {
    println!("  … {what}");
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
