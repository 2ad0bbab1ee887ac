//! `load`, `unload`, `stats`: the classifier alone, by its own binary `mitregate-xdp`.

use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{
    build,
    setup::{self, Need},
    sh,
};

#[derive(Args)]
pub struct Device {
    /// The interface
    #[arg(long, value_name = "IF")]
    dev: String,
    /// Its network namespace, if not this one
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
}

#[derive(Args)]
pub struct Stats {
    #[command(flatten)]
    device: Device,
    /// JSON for programs instead of a table for people
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Load {
    #[command(flatten)]
    device: Device,
    /// JSON for programs instead of text for people
    #[arg(long)]
    json: bool,
    /// Where in the kernel it runs; auto: native if the driver can, else generic
    #[arg(long, value_enum, default_value = "auto")]
    mode: Mode,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Auto,
    Native,
    Generic,
}

pub fn load(load: &Load) -> Result<()> {
    let mode = match load.mode {
        Mode::Auto => "auto",
        Mode::Native => "native",
        Mode::Generic => "generic",
    };
    exec("load", &load.device, load.json, &["--mode", mode])
}

pub fn unload(device: &Device) -> Result<()> {
    exec("unload", device, false, &[])
}

pub fn stats(stats: &Stats) -> Result<()> {
    exec("stats", &stats.device, stats.json, &[])
}

fn exec(action: &str, device: &Device, json: bool, more: &[&str]) -> Result<()> {
    sh::need_root(&format!("`{action}`"))?;
    setup::ensure(Need::Build)?;
    build::packages(true, &["mitregate-classifier"])?;
    let program = build::dir(true).join("mitregate-xdp");
    Err(sh::exec(
        Command::new(program)
            .arg(action)
            .args(["--dev", &device.dev])
            .args(device.netns.iter().flat_map(|name| ["--netns", name]))
            .args(json.then_some("--json"))
            .args(more),
    ))
}
