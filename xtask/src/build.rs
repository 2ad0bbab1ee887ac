//! `build`: the eBPF objects first, because the classifier's crate embeds them.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    ebpf,
    setup::{self, Need},
    sh,
};

/// The packages whose binaries people run.
const PACKAGES: &[&str] = &[
    "mitregate",
    "mitregate-classifier",
    "mitregate-lab",
    "mitregate-bench",
];

pub fn run(release: bool) -> Result<()> {
    setup::ensure(Need::Build)?;
    all(release)?;
    println!("binaries are in {}", dir(release).display());
    Ok(())
}

/// Everything, without the set-up.
pub fn all(release: bool) -> Result<()> {
    packages(release, PACKAGES)
}

/// The eBPF objects and the binaries of some packages.
pub fn packages(release: bool, packages: &[&str]) -> Result<()> {
    sh::step("building the eBPF objects");
    ebpf::build()?;
    let profile = if release { "release" } else { "dev" };
    sh::step(&format!(
        "building {} ({profile} profile; the first time takes minutes)",
        packages.join(", ")
    ));
    let mut cargo = sh::cargo(["build", "--locked", "--bins", "--profile", profile]);
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
    sh::run(&mut cargo)
}

/// Where the binaries of a profile are.
pub fn dir(release: bool) -> PathBuf {
    sh::target_dir().join(if release { "release" } else { "debug" })
}
