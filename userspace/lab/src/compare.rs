//! TCP through the tunnel beside TCP along the same hosts without it, in the same minutes.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::{
    daemon::{self, Daemon, Settings},
    iperf::{self, Direction},
    topology::{CLIENT_INNER, Host, Lab, PROTECTED_NET, SERVER},
};

const PATIENCE: Duration = Duration::from_secs(15);

/// What to measure, and how long.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    settings: Settings,
    /// How long each measurement takes
    #[arg(long, value_name = "N", default_value_t = 5)]
    seconds: u32,
    /// Write the results to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Namespaces are called NAME-client and so on
    #[arg(long, default_value = "mitregate-bench")]
    name: String,
}

/// Gbit/s at the receiver.
#[derive(Clone, Copy, Debug, Serialize)]
struct Rates {
    up_gbps: f64,
    down_gbps: f64,
}

#[derive(Debug, Serialize)]
struct Tunnel {
    encap: &'static str,
    provider: String,
    suite: String,
    #[serde(flatten)]
    rates: Rates,
    /// CPU time of both daemons for each GB (10⁹ bytes) of TCP payload, upwards.
    daemon_cpu_s_per_gb: f64,
    /// Beside the mean of the untunnelled measurements before and after.
    ratio_up: f64,
    ratio_down: f64,
}

#[derive(Debug, Serialize)]
struct Comparison {
    untunnelled: Vec<Rates>,
    tunnel: Option<Tunnel>,
}

/// Only the path without the tunnel.
pub fn baseline(options: &Options) -> Result<()> {
    run(options, false)
}

/// Untunnelled, tunnelled, untunnelled again.
pub fn compare(options: &Options) -> Result<()> {
    run(options, true)
}

fn run(options: &Options, with_tunnel: bool) -> Result<()> {
    let lab = Lab::up(&options.name)?;
    // What matters of a daemon's log is in the error; the rest goes with the lab.
    let logs = lab.run_dir();
    let server = iperf::Server::start(lab.host(Host::Server), &logs.join("iperf3.log"))?;
    let rates = |what: &str| -> Result<Rates> {
        println!("  … {what}, {} s each way", options.seconds);
        let measure = |way| iperf::measure(lab.host(Host::Client), SERVER, way, options.seconds);
        let rates = Rates {
            up_gbps: measure(Direction::Up)?.gbps,
            down_gbps: measure(Direction::Down)?.gbps,
        };
        println!(
            "    up {:.3}, down {:.3} Gbit/s",
            rates.up_gbps, rates.down_gbps
        );
        Ok(rates)
    };

    let mut comparison = Comparison {
        untunnelled: vec![rates("untunnelled")?],
        tunnel: None,
    };
    if with_tunnel {
        let Settings {
            encap,
            provider,
            suite,
            ..
        } = options.settings.clone();
        daemon::configure(&lab, &options.settings)?;
        let mut gateway = Daemon::start(&lab, Host::Gw, logs)?;
        gateway.wait_ready(PATIENCE)?;
        let mut client = Daemon::start(&lab, Host::Client, logs)?;
        client.wait_epoch("proven", PATIENCE)?;
        gateway.wait_epoch("proven", PATIENCE)?;
        let cpu = || Ok::<_, anyhow::Error>(client.cpu()? + gateway.cpu()?);
        let before = cpu()?;
        let tunnelled = rates(&format!("through the tunnel ({})", encap.name()))?;
        let used = cpu()? - before;
        client.terminate()?;
        gateway.terminate()?;
        // What outlives the daemons keeps traffic from flowing in clear: now we want just that.
        for (host, prefix) in [(Host::Client, PROTECTED_NET), (Host::Gw, CLIENT_INNER)] {
            lab.host(host).ip(&format!("route flush root {prefix}"))?;
        }
        comparison.untunnelled.push(rates("untunnelled again")?);
        let mean = |pick: fn(&Rates) -> f64| {
            let all = comparison.untunnelled.iter().map(pick);
            all.sum::<f64>() / comparison.untunnelled.len() as f64
        };
        let bits = (tunnelled.up_gbps + tunnelled.down_gbps) * f64::from(options.seconds);
        comparison.tunnel = Some(Tunnel {
            encap: encap.on_the_wire(),
            provider,
            suite,
            rates: tunnelled,
            daemon_cpu_s_per_gb: used.as_secs_f64() / (bits / 8.0),
            ratio_up: tunnelled.up_gbps / mean(|rates| rates.up_gbps),
            ratio_down: tunnelled.down_gbps / mean(|rates| rates.down_gbps),
        });
    }
    drop(server);
    lab.take_down()?;

    if let Some(tunnel) = &comparison.tunnel {
        println!(
            "\n  tunnel ÷ untunnelled: up {:.2}, down {:.2}; daemons' CPU {:.1} s per GB",
            tunnel.ratio_up, tunnel.ratio_down, tunnel.daemon_cpu_s_per_gb
        );
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&comparison)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
