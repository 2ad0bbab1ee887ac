//! Every command that a person types in this repository: `cargo xtask help`.
//!
//! One module per command. `sh` holds what they share: running programs and saying so.
#![forbid(unsafe_code)]
// A tool for people at a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod build;
mod doctor;
mod ebpf;
mod fuzz;
mod interop;
mod lab;
mod model;
mod netdev;
mod setup;
mod sh;
mod sim;
mod test;
mod xdp;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    about = "Mitregate's tasks",
    disable_version_flag = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building, the demo and the tests need (also done by the others, as needed)
    Setup,
    /// Build the eBPF objects, then the binaries that embed them
    Build {
        /// Optimised, as `demo` and `bench` use them
        #[arg(long)]
        release: bool,
    },
    /// A tunnel through a NAT, in network namespaces, with real traffic and checks
    Demo(lab::Pass),
    /// The demo's four hosts, left standing: up | down | exec HOST CMD… | status
    Lab(lab::Pass),
    /// Attach the classifier alone to an interface, pinned in bpffs
    Load(xdp::Load),
    /// Detach what `load` attached
    Unload(xdp::Device),
    /// The attached classifier's counters
    Stats(xdp::Stats),
    /// Every check and test, with totals
    Test(test::Options),
    /// Hosts, links and NATs in one thread, under virtual time: scenarios by seeds
    Sim(sim::Pass),
    /// The gate, a NAT and a bad channel explored to the last state: what holds, and why
    Model(model::Pass),
    /// Speed: engine | classifier | e2e (the demo's TCP beside the same path untunnelled) | ike | recovery
    Bench(bench::Options),
    /// strongSwan as the peer, in namespaces: the matrix of cases, data counted in each
    Interop(interop::Options),
    /// Run each fuzz target for a while
    Fuzz(fuzz::Options),
    /// What this machine offers, what is wrong, and what to do
    Doctor(doctor::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::run(),
        Task::Build { release } => build::run(release),
        Task::Demo(pass) => lab::demo(&pass),
        Task::Lab(pass) => lab::lab(&pass),
        Task::Load(load) => xdp::load(&load),
        Task::Unload(device) => xdp::unload(&device),
        Task::Stats(stats) => xdp::stats(&stats),
        Task::Test(options) => test::run(&options),
        Task::Sim(pass) => sim::run(&pass),
        Task::Model(pass) => model::run(&pass),
        Task::Bench(options) => bench::run(&options),
        Task::Interop(options) => interop::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Doctor(options) => doctor::run(&options),
    }
}
