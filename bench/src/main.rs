//! Benches: the engine on memory ports, the classifier by BPF_PROG_TEST_RUN, and IKE beside strongSwan.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool"
)]

mod classifier;
mod engine;
mod ike;

use std::{fs::File, io::BufWriter, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde::Serialize;

#[derive(Parser)]
#[command(about = "How fast it is, beside something run in the same minute")]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Seal and open through a worker's rounds on memory ports, beside the raw cipher
    Engine(engine::Options),
    /// The XDP program, beside one that only passes (needs root)
    Classifier {
        /// Write the rows there as well
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// IKE handshakes per second as the responder, beside strongSwan (needs root)
    Ike(ike::Options),
}

fn main() -> Result<()> {
    eprintln!("{}", facts());
    match Options::parse().what {
        What::Engine(options) => {
            let rows = engine::run(&options)?;
            print!("{}", engine::table(&rows));
            save(options.json.as_ref(), &rows)
        }
        What::Classifier { json } => {
            let rows = classifier::run()?;
            print!("{}", classifier::table(&rows));
            save(json.as_ref(), &rows)
        }
        What::Ike(options) => {
            let rows = ike::run(&options)?;
            print!("{}", ike::table(&rows));
            save(options.json.as_ref(), &rows)
        }
    }
}

/// The machine, for whoever compares two tables.
fn facts() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| Some(line.split_once(": ")?.1))
            .unwrap_or("?")
    };
    let flags: Vec<_> = field("flags").split(' ').collect();
    let has: Vec<_> = ["aes", "avx2", "avx512f", "vaes", "vpclmulqdq"]
        .into_iter()
        .filter(|flag| flags.contains(flag))
        .collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{} ({}), {} CPUs, Linux {}, load {}, {} profile",
        field("model name"),
        has.join(" "),
        std::thread::available_parallelism().map_or(0, usize::from),
        kernel.trim(),
        load.split(' ').next().unwrap_or("?"),
        if cfg!(debug_assertions) {
            "dev"
        } else {
            "release"
        },
    )
}

fn save(path: Option<&PathBuf>, rows: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let describe = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(describe)?;
    serde_json::to_writer_pretty(BufWriter::new(file), rows).with_context(describe)
}
