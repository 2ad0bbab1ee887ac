//! `lab up | down | exec | status`: the demo's hosts for people to play with.

use std::{io::Write, net::Ipv4Addr, os::unix::process::CommandExt, time::Duration};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    daemon::{self, Control, Daemon, Settings},
    nat_box::Faults,
    netns::Netns,
    sh, timeline,
    topology::{self, Host, Lab, MAX_CLIENTS, Middle, Plan, SERVER},
    watch,
};

const PATIENCE: Duration = Duration::from_secs(15);

/// What to do, to which lab.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
    /// Namespaces are called NAME-client and so on
    #[arg(long, global = true, default_value = "mitregate")]
    name: String,
}

#[derive(Subcommand)]
enum Action {
    /// Make the hosts, start the daemons, wait for the tunnels
    #[command(after_help = UP_HELP)]
    Up {
        #[command(flatten)]
        settings: Settings,
        /// What stands between clients and gateway
        #[arg(long, default_value_t = Middle::Nat, value_name = "NAT", value_parser = Middle::parser())]
        nat: Middle,
        /// How many client hosts are behind it, up to 50: client, client2, client3 …
        #[arg(long, value_name = "N", default_value_t = 1,
              value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_CLIENTS)))]
        clients: u8,
        /// Only hosts and NAT: start no daemon
        #[arg(long)]
        no_tunnel: bool,
    },
    /// Take everything down
    Down,
    /// Break the NAT, or look into it
    #[command(after_help = NAT_HELP)]
    Nat {
        #[command(subcommand)]
        action: NatAction,
    },
    /// Watch every client's tunnel: datagrams each way, counted each second, until Ctrl-C
    Probe(watch::Options),
    /// Run a command on a host: client, client2 …, nat, gw or server
    Exec {
        host: Host,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        cmd: Vec<String>,
    },
    /// Hosts, addresses, tunnels, the NAT's table
    Status {
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Play the failure cases F1 to F12, each with the gate and without it; a page with their timelines
    Report(timeline::Options),
}

#[derive(Subcommand)]
enum NatAction {
    /// All its tables are lost, as by a reboot; it goes on at once
    Crash,
    /// Its tables are lost and its public side is another; without options, the next address of
    /// its pool 203.0.113.2 to .5
    Remap {
        /// To this address
        #[arg(long, value_name = "A")]
        address: Option<Ipv4Addr>,
        /// Ports are drawn from another range, too
        #[arg(long)]
        ports: bool,
    },
    /// Its address, table and counters
    Show {
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// What it does to packets beside translating them: these faults and no others, from now on;
    /// without options, none. Only models of the zoo can
    Faults(Faults),
}

const UP_HELP: &str = "\
Two clients behind the NAT that ESP's authors had in mind, with plain ESP:
  cargo xtask lab up --nat vpn-masquerade --clients 2 --encap esp
  cargo xtask lab nat show
  cargo xtask lab probe           and in another terminal
  cargo xtask lab nat crash
  cargo xtask lab status
  cargo xtask lab down";

const NAT_HELP: &str = "\
Watch tunnels come back in one terminal:
  cargo xtask lab probe
and break the NAT in another:
  cargo xtask lab nat crash
  cargo xtask lab nat remap --address 203.0.113.4
  cargo xtask lab nat faults --loss 100 --delay-ms 20
  cargo xtask lab nat faults --cut inbound
  cargo xtask lab nat faults --mtu 1300 --black-hole
  cargo xtask lab nat faults
With the kernel's NAT, crash is `conntrack -F` and remap replaces its rule.";

/// Do it.
pub fn run(options: &Options) -> Result<()> {
    match &options.action {
        Action::Up {
            settings,
            nat,
            clients,
            no_tunnel,
        } => {
            let plan = Plan {
                middle: *nat,
                clients: *clients,
                detached: true,
            };
            up(&options.name, settings, plan, !no_tunnel)
        }
        Action::Down => {
            topology::remove_logs(&topology::log_dir(&options.name, None)?);
            let was = if Lab::down(&options.name)? {
                "taken down"
            } else {
                "was not there"
            };
            println!("lab `{}` {was}", options.name);
            Ok(())
        }
        Action::Exec { host, cmd } => {
            let lab = Lab::standing(&options.name)?;
            let mut program = lab.host(*host).command(&cmd[0]);
            program
                .args(&cmd[1..])
                .stdin(std::process::Stdio::inherit());
            // exec replaces this process, and with it goes the lock on the lab.
            Err(anyhow!(program.exec()).context("cannot run ip netns exec"))
        }
        Action::Nat { action } => nat(&options.name, action),
        Action::Probe(probe) => watch::run(&options.name, probe),
        Action::Status { json: false } => status(&options.name),
        Action::Status { json: true } => status_json(&options.name),
        Action::Report(report) => timeline::run(report, &options.name),
    }
}

fn up(name: &str, settings: &Settings, plan: Plan, tunnel: bool) -> Result<()> {
    println!(
        "  … making {} hosts in network namespaces",
        3 + plan.clients
    );
    let lab = Lab::up_with(name, plan)?;
    if tunnel {
        let logs = topology::log_dir(name, None)?;
        println!("  … starting daemons, logs in {}", logs.display());
        daemon::configure(&lab, settings)?;
        let mut gateway = Daemon::start(&lab, Host::Gw, &logs)?;
        gateway.wait_ready(PATIENCE)?;
        let clients = lab.clients().map(|host| Daemon::start(&lab, host, &logs));
        let mut clients = clients.collect::<Result<Vec<_>>>()?;
        println!("  … waiting until each tunnel is proven");
        for client in &mut clients {
            client.wait_epoch("proven", PATIENCE * u32::from(plan.clients))?;
        }
        gateway.wait_epoch("proven", PATIENCE)?;
        clients.into_iter().for_each(Daemon::leave);
        gateway.leave();
    }
    lab.keep()?;
    println!("  … the lab `{name}` stands. Try:");
    println!("    cargo xtask lab status");
    if plan.middle != Middle::Router {
        println!("    cargo xtask lab nat show");
        println!("    cargo xtask lab nat crash");
    }
    if tunnel {
        println!("    cargo xtask lab probe");
    }
    println!("    cargo xtask lab exec client tcpdump -ni wan");
    println!("    cargo xtask lab exec client ip route get {SERVER}");
    println!("    cargo xtask lab down");
    Ok(())
}

fn nat(name: &str, action: &NatAction) -> Result<()> {
    let nat = Lab::standing(name)?.nat()?;
    match action {
        NatAction::Crash => {
            nat.crash()?;
            println!("the NAT has lost its tables");
        }
        NatAction::Remap { address, ports } => {
            nat.remap(*address, *ports)?;
            match nat.show()?.public {
                Some(public) => println!("the NAT has lost its tables and is {public} now"),
                None => println!("the NAT has lost its tables"),
            }
        }
        NatAction::Show { json: true } => {
            println!("{}", serde_json::to_string_pretty(&nat.show()?)?);
        }
        NatAction::Show { json: false } => print!("{}", nat.show()?),
        NatAction::Faults(faults) => nat.faults(faults)?,
    }
    Ok(())
}

fn status(name: &str) -> Result<()> {
    let lab = Lab::standing(name)?;
    let mut text = String::new();
    for host in lab.hosts() {
        let netns = lab.host(host);
        text += &format!("{host} (namespace {})\n", netns.name());
        let mut lines = addresses(netns)?;
        if runs_daemon(host) {
            let control = Control::of(&lab, host)?;
            let list = sh::output(&mut control.command(&["list-sas"]));
            let list = list.unwrap_or_else(|_| "no daemon answers".to_owned());
            lines.extend(list.lines().map(str::to_owned));
            let stats = sh::show(&control.command(&["stats"]));
            lines.push(format!("ask it: {stats}"));
        }
        if has_nat(&lab, host) {
            let shown = lab.nat()?.show();
            let shown = shown.map_or_else(|error| format!("{error:#}"), |nat| nat.to_string());
            lines.extend(shown.lines().map(str::to_owned));
        }
        for line in lines {
            text += &format!("    {line}\n");
        }
    }
    print(&text)
}

fn status_json(name: &str) -> Result<()> {
    let lab = Lab::standing(name)?;
    let mut hosts = Vec::new();
    for host in lab.hosts() {
        let netns = lab.host(host);
        let mut status = json!({
            "host": host.to_string(),
            "namespace": netns.name(),
            "addresses": addresses(netns)?,
        });
        if runs_daemon(host) {
            status["list_sas"] = Control::of(&lab, host)?
                .ask(&["list-sas"])
                .unwrap_or(Value::Null);
        }
        if has_nat(&lab, host) {
            status["nat"] = serde_json::to_value(lab.nat()?.show().ok())?;
        }
        hosts.push(status);
    }
    print(&format!("{:#}\n", json!({"lab": name, "hosts": hosts})))
}

fn runs_daemon(host: Host) -> bool {
    matches!(host, Host::Client | Host::OtherClient(_) | Host::Gw)
}

fn has_nat(lab: &Lab, host: Host) -> bool {
    host == Host::Nat && lab.middle() != Middle::Router
}

/// Interface, state and addresses, a line for each but the loopback.
fn addresses(netns: &Netns) -> Result<Vec<String>> {
    let all = netns.ip("-brief -4 address")?;
    let lines = all.lines().filter(|line| !line.starts_with("lo "));
    Ok(lines.map(|line| line.trim_end().to_owned()).collect())
}

/// `lab status | head` is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
