//! `bench`: speed, always as a ratio to something run in the same minute.

use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::{build, lab, setup, setup::Need, sh};

#[derive(Args)]
pub struct Options {
    /// What to measure; without it everything but recovery
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
    /// Outages and losses under a NAT's faults and rekeys, beside strongSwan and wireguard-go
    Recovery,
}

pub fn run(options: &Options) -> Result<()> {
    if options.what.is_none() && !options.args.is_empty() {
        bail!(
            "name the bench that takes {:?}: engine, classifier, e2e, ike or recovery",
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
    // Twenty minutes: only when it is asked for.
    if options.what == Some(What::Recovery) {
        sh::need_root("`bench recovery`")?;
        setup::ensure_recovery()?;
        lab::prepare()?;
        sh::step("bench: recovery, four systems under the same faults");
        program("mitregate-lab", "recovery", options)?;
    }
    Ok(())
}

fn program(binary: &str, command: &str, options: &Options) -> Result<()> {
    let mut program = Command::new(build::dir(true).join(binary));
    sh::run(program.arg(command).args(&options.args))
}
