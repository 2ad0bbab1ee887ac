//! `interop`: build, see to the peers, then become `mitregate-lab`, so that Ctrl-C reaches the
//! program that cleans up.
//!
//! Debian's own strongSwan is the first peer. A newer one lives in a newer Debian's root, made once
//! in a folder below `target/`, and is run by chroot inside a namespace.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    build,
    setup::{self, Need},
    sh,
};

/// What the matrix runs, from the same folder.
const PACKAGES: &[&str] = &["mitregate", "mitregate-lab"];

/// A strongSwan that the machine's own Debian does not have.
struct Foreign {
    version: &'static str,
    /// Debian's name for the release that has it.
    suite: &'static str,
}

const FOREIGN: &[Foreign] = &[Foreign {
    version: "6.1",
    suite: "forky",
}];
/// The machine's own.
const OWN: &str = "5.9";
/// In the root; recommended packages stay away.
const INSIDE: &str =
    "strongswan-charon,strongswan-swanctl,libcharon-extra-plugins,libstrongswan-standard-plugins";

#[derive(Args)]
pub struct Options {
    /// strongSwan's release, 5.9 or 6.1; more than once for several, without it all that can be had
    #[arg(long = "peer", value_name = "VERSION")]
    peers: Vec<String>,
    /// Only cases whose name contains one of these words, separated by commas
    #[arg(long, value_name = "FILTER")]
    case: Option<String>,
    /// Only with mitregate as `initiator` or `responder`
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Only the few cases that belong to `cargo xtask test`
    #[arg(long)]
    quick: bool,
    /// Say what there is, run nothing
    #[arg(long)]
    list: bool,
    /// Write the results to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the logs of cases that went well
    #[arg(long)]
    keep: bool,
    /// Cases at work at the same time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Optimised binaries, as `demo` and `bench` use them
    #[arg(long)]
    release: bool,
    /// Show each command that is run
    #[arg(short, long)]
    verbose: bool,
}

pub fn run(options: &Options) -> Result<()> {
    sh::need_root("`interop`")?;
    prepare(options.release)?;
    let mut lab = command(options.release);
    for peer in peers(&options.peers)? {
        lab.args(["--peer", &peer]);
    }
    lab.args(["--jobs", &options.jobs.to_string()]);
    for (name, value) in [("--case", &options.case), ("--role", &options.role)] {
        lab.args(value.iter().flat_map(|value| [name, value]));
    }
    for (name, given) in [
        ("--quick", options.quick),
        ("--list", options.list),
        ("--keep", options.keep),
        ("--verbose", options.verbose),
    ] {
        lab.args(given.then_some(name));
    }
    if let Some(path) = &options.json {
        lab.arg("--json").arg(path);
    }
    Err(sh::exec(&mut lab))
}

/// Set-up and build of what the matrix runs.
pub fn prepare(release: bool) -> Result<()> {
    setup::ensure(Need::Interop)?;
    build::packages(release, PACKAGES)
}

/// `mitregate-lab interop`, without peers.
pub fn command(release: bool) -> Command {
    let mut lab = Command::new(build::dir(release).join("mitregate-lab"));
    lab.arg("interop");
    lab
}

/// As `mitregate-lab` wants them: VERSION, or VERSION=FOLDER.
fn peers(wanted: &[String]) -> Result<Vec<String>> {
    if wanted.is_empty() {
        let mut peers = vec![OWN.to_owned()];
        for foreign in FOREIGN {
            match foreign.root() {
                Ok(peer) => peers.push(peer),
                Err(error) => println!(
                    "    without strongSwan {}: {error:#}; `--peer {OWN}` leaves it out on purpose",
                    foreign.version
                ),
            }
        }
        return Ok(peers);
    }
    let find = |name: &String| {
        if name == OWN {
            return Ok(name.clone());
        }
        match FOREIGN.iter().find(|foreign| foreign.version == name) {
            Some(foreign) => foreign.root(),
            None => bail!("strongSwan {name} is none of {OWN}, 6.1"),
        }
    };
    wanted.iter().map(find).collect()
}

impl Foreign {
    /// Where it is; made when it is not there yet.
    fn root(&self) -> Result<String> {
        let Foreign { version, suite } = self;
        let folder = sh::target_dir().join("roots").join(suite);
        if !folder.join("usr/lib/ipsec/charon").is_file() {
            self.make(&folder)?;
        }
        Ok(format!("{version}={}", folder.display()))
    }

    fn make(&self, folder: &Path) -> Result<()> {
        let Foreign { version, suite } = self;
        setup::ensure_root_maker()?;
        sh::step(&format!(
            "making a Debian {suite} with strongSwan {version} in {} (once; 150 MB, a minute or two)",
            folder.display()
        ));
        // Under another name until it is complete.
        let new = folder.with_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        fs::create_dir_all(folder.parent().unwrap_or(folder))?;
        let mut make = Command::new("mmdebstrap");
        make.args(["--quiet", "--variant=apt", "--mode=root"])
            // A mirror that stands still has an index that calls itself outdated; its signature
            // is checked all the same.
            .args(["--aptopt", "Acquire::Check-Valid-Until \"false\""])
            .args(["--include", INSIDE])
            .arg(suite)
            .arg(&new)
            .args(mirror());
        let made = sh::logged(&format!("root-{suite}"), &mut make)?;
        if !made.ok {
            bail!("mmdebstrap failed: see {}", made.log.display());
        }
        fs::rename(&new, folder)?;
        Ok(())
    }
}

/// Where the machine gets its own Debian from; without that, mmdebstrap knows one.
fn mirror() -> Option<String> {
    let mut apt = Command::new("apt-get");
    apt.args([
        "indextargets",
        "--format",
        "$(SITE) $(ORIGIN) $(LABEL)",
        "Created-By: Packages",
    ]);
    let text = sh::output(&mut apt).ok()?;
    text.lines()
        .find_map(|line| line.strip_suffix(" Debian Debian"))
        .map(str::to_owned)
}
