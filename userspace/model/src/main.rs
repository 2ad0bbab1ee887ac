//! `mitregate-model`: see the library.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser;
use mitregate_model::command::{self, Options};

/// Every state that clients, a NAT and a server can get into, and what holds in all of them
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    match command::run(&Cli::parse().options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mitregate-model: {error:#}");
            ExitCode::FAILURE
        }
    }
}
