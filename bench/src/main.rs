//! Benches: the engine on memory ports, and the classifier by BPF_PROG_TEST_RUN.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool"
)]

mod classifier;
mod engine;

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
}

fn main() -> Result<()> {
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
    }
}

fn save(path: Option<&PathBuf>, rows: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let describe = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(describe)?;
    serde_json::to_writer_pretty(BufWriter::new(file), rows).with_context(describe)
}
