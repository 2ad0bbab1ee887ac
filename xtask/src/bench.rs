//! `bench`: speed, always as a ratio to something run in the same minute.

use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::{build, lab, setup, setup::Need, sh};

#[derive(Args)]
pub struct Options {
    /// What to measure; without it everything
    #[arg(value_enum)]
    what: Option<What>,
    /// Handed on to the bench named before; try engine --help
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    args: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Seal and open through the pipeline on memory ports, beside the raw cipher
    Engine,
    /// The XDP program by BPF_PROG_TEST_RUN
    Classifier,
    /// The demo's TCP beside the same path untunnelled
    E2e,
    /// IKE handshakes per second and memory per IKE SA, beside strongSwan
    Ike,
}

pub fn run(options: &Options) -> Result<()> {
    if options.what.is_none() && !options.args.is_empty() {
        bail!(
            "name the bench that takes {:?}: engine, classifier, e2e or ike",
            options.args
        );
    }
    let wanted = |what| options.what.is_none_or(|only| only == what);
    if wanted(What::Engine) || wanted(What::Classifier) {
        setup::ensure(Need::Build)?;
        build::packages(true, &["mitregate-bench"])?;
        for (what, name) in [(What::Engine, "engine"), (What::Classifier, "classifier")] {
            if wanted(what) {
                sh::step(&format!("bench: {name}"));
                program("mitregate-bench", name, options)?;
            }
        }
    }
    if wanted(What::E2e) {
        sh::need_root("`bench e2e`")?;
        lab::prepare()?;
        sh::step("bench: end to end, the tunnel beside the same path untunnelled");
        program("mitregate-lab", "compare", options)?;
    }
    if wanted(What::Ike) {
        sh::need_root("`bench ike`")?;
        setup::ensure(Need::Interop)?;
        build::packages(true, &["mitregate", "mitregate-bench"])?;
        sh::step("bench: IKE handshakes, mitregate and strongSwan as the responder by turns");
        program("mitregate-bench", "ike", options)?;
    }
    Ok(())
}

fn program(binary: &str, command: &str, options: &Options) -> Result<()> {
    let mut program = Command::new(build::dir(true).join(binary));
    sh::run(program.arg(command).args(&options.args))
}
