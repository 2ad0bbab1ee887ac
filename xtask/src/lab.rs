//! `demo` and `lab`: build, then become `mitregate-lab`, so that Ctrl-C reaches the program that
//! cleans up.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{
    build,
    setup::{self, Need},
    sh,
};

/// What the demo and the lab run, from the same folder.
const PACKAGES: &[&str] = &["mitregate", "mitregate-lab"];

#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Pass {
    /// Handed on to `mitregate-lab`; try --help
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    args: Vec<String>,
}

pub fn demo(pass: &Pass) -> Result<()> {
    run("demo", pass)
}

pub fn lab(pass: &Pass) -> Result<()> {
    run("lab", pass)
}

fn run(command: &str, pass: &Pass) -> Result<()> {
    let program = build::dir(true).join("mitregate-lab");
    let asks = |word: &&str| pass.args.iter().any(|arg| arg == word);
    // What neither starts a daemon nor measures one does with the binary that is there.
    let as_it_is = [
        "--help", "-h", "help", "status", "down", "exec", "nat", "probe",
    ];
    if !(program.is_file() && as_it_is.iter().any(asks)) {
        sh::need_root(&format!("`{command}`"))?;
        prepare()?;
    }
    Err(sh::exec(
        Command::new(program).arg(command).args(&pass.args),
    ))
}

/// Set-up and release build of what the lab runs.
pub fn prepare() -> Result<()> {
    setup::ensure(Need::Demo)?;
    build::packages(true, PACKAGES)
}
