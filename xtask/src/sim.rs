//! `sim`: build, then become `mitregate-lab sim`.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{
    build,
    setup::{self, Need},
    sh,
};

#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Pass {
    /// The dev profile: builds sooner, runs slower
    #[arg(long)]
    dev: bool,
    /// Handed on to `mitregate-lab sim`; try --help
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    args: Vec<String>,
}

pub fn run(pass: &Pass) -> Result<()> {
    setup::ensure(Need::Build)?;
    // Without the eBPF objects: the simulator has no kernel.
    let profile = if pass.dev { "dev" } else { "release" };
    sh::step(&format!(
        "building the simulator ({profile} profile; the first time takes minutes)"
    ));
    let mut cargo = sh::cargo(["build", "--locked", "--profile", profile]);
    sh::run(cargo.args(["--package", "mitregate-lab", "--bin", "mitregate-lab"]))?;
    let program = build::dir(!pass.dev).join("mitregate-lab");
    let mut sim = Command::new(program);
    Err(sh::exec(
        sim.arg("sim").args(&pass.args).current_dir(sh::root()),
    ))
}
