//! `mitregate-lab`: see the library.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr)]

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use mitregate_lab::{compare, demo, interop, interrupt, nat_box, recovery, sh, sim, standing};

#[derive(Parser)]
#[command(
    about = "A client, a NAT, a gateway and a server in network namespaces",
    version
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Show each command that is run
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Subcommand)]
enum Command {
    /// A tunnel through the NAT, traffic, a crash, and a look at the wire
    Demo(demo::Options),
    /// The same hosts, left standing
    Lab(standing::Options),
    /// TCP along the hosts without a tunnel
    Baseline(compare::Options),
    /// TCP through the tunnel beside TCP without it
    Compare(compare::Options),
    /// The same daemon with strongSwan as the peer, case by case
    Interop(interop::Options),
    /// Mitregate beside others under a NAT's faults and rekeys: how long nothing arrives
    Recovery(recovery::Options),
    /// Hosts, links and NATs in one thread, under virtual time; needs neither root nor tools
    Sim(sim::runner::Options),
    /// The NAT of a lab that is left standing; run in its namespace
    #[command(hide = true)]
    NatBox(nat_box::Options),
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mitregate-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    match &cli.command {
        Command::Sim(options) => return sim::runner::run(options),
        Command::NatBox(options) => {
            interrupt::catch()?;
            nat_box::run(options)?;
            return Ok(true);
        }
        _ => {}
    }
    sh::set_verbose(cli.verbose);
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces need root");
    }
    for tool in ["ip", "tc", "nft", "ethtool", "tcpdump", "iperf3"] {
        if !sh::have(tool) {
            bail!("{tool} is not installed: cargo xtask setup");
        }
    }
    interrupt::catch()?;
    match &cli.command {
        Command::Demo(options) => return demo::run(options),
        Command::Lab(options) => standing::run(options)?,
        Command::Baseline(options) => compare::baseline(options)?,
        Command::Compare(options) => compare::compare(options)?,
        Command::Interop(options) => return interop::run(options),
        Command::Recovery(options) => return recovery::run(options),
        Command::Sim(_) | Command::NatBox(_) => {}
    }
    Ok(true)
}
