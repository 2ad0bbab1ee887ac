//! `mitregate-xdp`: the classifier alone on an interface, pinned in a bpffs. It counts, and passes
//! everything to the kernel: there is no socket.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

use std::{
    fs::File,
    io::Write as _,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use mitregate_classifier::{
    Classifier, LoadConfig, ModeRequest, Role,
    pin::{self, Pinned, Status},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

#[derive(Parser)]
#[command(
    version,
    about = "Loads, unloads and reads the XDP classifier without the daemon"
)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Attach the classifier and pin it
    Load(Load),
    /// Detach it and remove its pins
    Unload(Device),
    /// Show its counters
    Stats(Stats),
}

#[derive(Args)]
struct Device {
    /// The interface
    #[arg(long, value_name = "IF")]
    dev: String,
    /// Network namespace of the interface: a name of `ip netns`, or a path
    #[arg(long, value_name = "NAME")]
    netns: Option<PathBuf>,
}

#[derive(Args)]
struct Load {
    #[command(flatten)]
    device: Device,
    /// Where in the kernel it runs; auto: native if the driver can, else generic
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,
    /// Which program
    #[arg(long, value_enum, default_value_t = Side::Outer)]
    role: Side,
    /// Our outer addresses [default: those of the interface]
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<IpAddr>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Stats {
    #[command(flatten)]
    device: Device,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Auto,
    Native,
    Generic,
}

#[derive(Clone, Copy, ValueEnum)]
enum Side {
    /// The network's: IPsec and IKE are counted, all passes
    Outer,
    /// The protected side's: without a socket everything is dropped
    Inner,
}

fn main() -> Result<()> {
    match Cli::parse().action {
        Action::Load(load) => attach(load),
        Action::Unload(device) => open(&device)?.unload().map_err(Into::into),
        Action::Stats(stats) => print(&open(&stats.device)?.status()?, stats.json),
    }
}

fn attach(load: Load) -> Result<()> {
    let interface = load.device.dev.as_str();
    // Here, and not in the other namespace's view of /sys.
    enter(load.device.netns.as_deref())?;
    let mut addresses = load.address;
    if addresses.is_empty() && matches!(load.role, Side::Outer) {
        addresses = addresses_of(interface)
            .with_context(|| format!("cannot find out the addresses of {interface} (--address)"))?;
    }
    let config = LoadConfig {
        role: match load.role {
            Side::Outer => Role::Outer,
            Side::Inner => Role::Inner,
        },
        mode: match load.mode {
            Mode::Auto => ModeRequest::Auto,
            Mode::Native => ModeRequest::Native,
            Mode::Generic => ModeRequest::Generic,
        },
        pin: Some(pin::directory(interface)?),
        ..LoadConfig::new(interface, Role::Outer, &addresses)
    };
    let classifier = Classifier::load_and_attach(&config)?;
    if !load.json {
        let names: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        println!("{interface}: attached in {} mode", classifier.mode());
        if let Some(reason) = classifier.fallback() {
            println!("{interface}: not in native mode: {reason}");
        }
        println!("{interface}: our addresses: {}", names.join(", "));
        return Ok(());
    }
    print(
        &Pinned::open(interface, &pin::directory(interface)?)?.status()?,
        true,
    )
}

fn open(device: &Device) -> Result<Pinned> {
    enter(device.netns.as_deref())?;
    Ok(Pinned::open(&device.dev, &pin::directory(&device.dev)?)?)
}

fn enter(netns: Option<&Path>) -> Result<()> {
    let Some(netns) = netns else {
        return Ok(());
    };
    let path = if netns.components().count() == 1 {
        Path::new("/run/netns").join(netns)
    } else {
        netns.to_owned()
    };
    let failed = || format!("cannot enter the network namespace {}", path.display());
    let file = File::open(&path).with_context(failed)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).with_context(failed)
}

fn addresses_of(interface: &str) -> Result<Vec<IpAddr>> {
    let out = Command::new("ip")
        .args(["-json", "address", "show", "dev", interface])
        .output()
        .context("cannot run `ip`")?;
    if !out.status.success() {
        bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
    }
    let links: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    let addresses = links[0]["addr_info"].as_array().into_iter().flatten();
    let local = addresses.filter_map(|address| address["local"].as_str()?.parse().ok());
    Ok(local.collect())
}

fn print(status: &Status, json: bool) -> Result<()> {
    let text = if json {
        serde_json::to_string_pretty(status)? + "\n"
    } else {
        table(status)
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print")
}

fn table(status: &Status) -> String {
    let Status {
        interface,
        role,
        mode,
        program_id,
        ..
    } = status;
    let mut text = format!("{interface}: {role} classifier, {mode} mode, program {program_id}\n");
    text += &format!("{:<20} {:>14} {:>14}\n", "verdict", "packets", "no socket");
    for (verdict, count) in status
        .counters
        .iter()
        .filter(|(_, count)| count.packets > 0)
    {
        text += &format!(
            "{:<20} {:>14} {:>14}\n",
            verdict.label(),
            count.packets,
            count.no_socket
        );
    }
    text
}
