//! `lab up | down | exec | status`: the demo's hosts for people to play with.

use std::{os::unix::process::CommandExt, time::Duration};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};

use crate::{
    daemon::{self, Control, Daemon, Settings},
    sh,
    topology::{self, Host, Lab, SERVER},
};

const PATIENCE: Duration = Duration::from_secs(15);

/// What to do, to which lab.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
    /// Namespaces are called NAME-client and so on
    #[arg(long, global = true, default_value = "mitregate")]
    name: String,
}

#[derive(Subcommand)]
enum Action {
    /// Make the hosts, start both daemons, wait for the tunnel
    Up {
        #[command(flatten)]
        settings: Settings,
        /// Only hosts and NAT: start no daemon
        #[arg(long)]
        no_tunnel: bool,
    },
    /// Take everything down
    Down,
    /// Run a command on a host
    Exec {
        host: Host,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        cmd: Vec<String>,
    },
    /// Hosts, addresses, tunnels
    Status,
}

/// Do it.
pub fn run(options: &Options) -> Result<()> {
    match &options.action {
        Action::Up {
            settings,
            no_tunnel,
        } => up(&options.name, settings, !no_tunnel),
        Action::Down => {
            topology::remove_logs(&topology::log_dir(&options.name, None)?);
            let was = if Lab::down(&options.name)? {
                "taken down"
            } else {
                "was not there"
            };
            println!("lab `{}` {was}", options.name);
            Ok(())
        }
        Action::Exec { host, cmd } => {
            let lab = Lab::standing(&options.name)?;
            let mut program = lab.host(*host).command(&cmd[0]);
            program
                .args(&cmd[1..])
                .stdin(std::process::Stdio::inherit());
            // exec replaces this process, and with it goes the lock on the lab.
            Err(anyhow!(program.exec()).context("cannot run ip netns exec"))
        }
        Action::Status => status(&options.name),
    }
}

fn up(name: &str, settings: &Settings, tunnel: bool) -> Result<()> {
    println!("  … making four hosts in network namespaces");
    let lab = Lab::up(name)?;
    if tunnel {
        let logs = topology::log_dir(name, None)?;
        println!("  … starting two daemons, logs in {}", logs.display());
        daemon::configure(&lab, settings)?;
        let mut gateway = Daemon::start(&lab, Host::Gw, &logs)?;
        gateway.wait_ready(PATIENCE)?;
        let mut client = Daemon::start(&lab, Host::Client, &logs)?;
        client.wait_epoch("proven", PATIENCE)?;
        gateway.wait_epoch("proven", PATIENCE)?;
        client.leave();
        gateway.leave();
    }
    lab.keep()?;
    println!("  … the lab `{name}` stands. Try:");
    println!("    cargo xtask lab status");
    println!("    cargo xtask lab exec client tcpdump -ni wan");
    println!("    cargo xtask lab exec client ip route get {SERVER}");
    println!("    cargo xtask lab down");
    Ok(())
}

fn status(name: &str) -> Result<()> {
    let lab = Lab::standing(name)?;
    for host in Host::ALL {
        let netns = lab.host(host);
        println!("{} (namespace {})", host.name(), netns.name());
        for line in netns
            .ip("-brief -4 address")?
            .lines()
            .filter(|line| !line.starts_with("lo "))
        {
            println!("    {line}");
        }
        if matches!(host, Host::Client | Host::Gw) {
            let control = Control::of(&lab, host)?;
            match sh::output(&mut control.command(&["list-sas"])) {
                Ok(list) => list.lines().for_each(|line| println!("    {line}")),
                Err(_) => println!("    no daemon answers"),
            }
            println!("    ask it: {}", sh::show(&control.command(&["stats"])));
        }
    }
    Ok(())
}
