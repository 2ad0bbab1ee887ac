//! `model`: build, then become `mitregate-model`.

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
    /// Handed on to `mitregate-model`; try --help
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    args: Vec<String>,
}

pub fn run(pass: &Pass) -> Result<()> {
    setup::ensure(Need::Build)?;
    sh::step("building the model (release profile; the first time takes minutes)");
    let package = ["--package", "mitregate-model"];
    sh::run(sh::cargo(["build", "--locked", "--release"]).args(package))?;
    let program = build::dir(true).join("mitregate-model");
    let mut model = Command::new(program);
    Err(sh::exec(model.args(&pass.args).current_dir(sh::root())))
}
