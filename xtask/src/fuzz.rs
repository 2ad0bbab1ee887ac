//! `fuzz`: every target in `fuzz/`, one after the other.
//!
//! libFuzzer's instrumentation needs unstable compiler flags; RUSTC_BOOTSTRAP lets the stable
//! compiler take them, so no nightly is needed.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    setup::{self, Need},
    sh,
};

#[derive(Args)]
pub struct Options {
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Only this target
    target: Option<String>,
}

pub fn run(options: &Options) -> Result<()> {
    setup::ensure(Need::Test)?;
    build()?;
    let mut failed = Vec::new();
    for target in targets()? {
        if options.target.as_ref().is_some_and(|only| *only != target) {
            continue;
        }
        sh::step(&format!("fuzzing {target} for {} s", options.seconds));
        if sh::run(&mut command(&target, options.seconds)).is_err() {
            failed.push(target);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("crashes, kept under fuzz/artifacts: {}", failed.join(", "))
}

/// The targets' names.
pub fn targets() -> Result<Vec<String>> {
    let list = sh::output(cargo_fuzz("list").arg("--fuzz-dir").arg(dir()))?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Compile all targets.
pub fn build() -> Result<()> {
    sh::step("building the fuzz targets (the first time takes minutes)");
    sh::run(&mut build_command())
}

pub fn build_command() -> Command {
    let mut cargo = cargo_fuzz("build");
    cargo.arg("--fuzz-dir").arg(dir());
    cargo
}

/// Run one target.
pub fn command(target: &str, seconds: u32) -> Command {
    let mut cargo = cargo_fuzz("run");
    cargo.arg("--fuzz-dir").arg(dir()).arg(target).arg("--");
    cargo
        .arg(format!("-max_total_time={seconds}"))
        .args(["-timeout=10", "-print_final_stats=1"]);
    cargo
}

fn dir() -> PathBuf {
    sh::root().join("fuzz")
}

fn cargo_fuzz(action: &str) -> Command {
    let mut cargo = sh::cargo(["fuzz", action]);
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo
}
