//! The command line.

mod client;
mod monitor;
mod ping;
mod pki;
mod pools;
mod sas;
mod stats;
mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

use crate::config::Settings;
use crate::net::Netlink;
use crate::protocol::Request;
use crate::shell;

const SOCKET: &str = "/run/mitregate/control.sock";

/// An IPsec gateway and client whose tunnels are proven before they are trusted.
#[derive(Debug, Parser)]
#[command(name = "mitregate", version, about, after_help = EXAMPLES)]
struct Cli {
    /// The daemon's control socket (`daemon.control_socket` of its configuration).
    #[arg(long, global = true, default_value = SOCKET, value_name = "PATH")]
    socket: PathBuf,
    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  mitregate check-config -c /etc/mitregate/mitregate.toml
  mitregate run -c /etc/mitregate/mitregate.toml      the daemon, in the foreground (needs root)
  mitregate initiate --child net                      bring a tunnel up, wait until it is proven
  mitregate list-sas                                  what is up, and what proves it
  mitregate ping net -c 5                             ping the peer through the tunnel itself
  mitregate monitor                                   every event as it happens
  mitregate stats                                     how every packet ended

What the tunnels protect never leaves in clear. Routes that see to that stay when the daemon ends;
`mitregate release -c FILE` removes them, and `mitregate protect -c FILE` makes them at boot, before
there is a network.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground (needs root).
    ///
    /// It makes the tunnel interface and its routes, takes IKE and ESP from the outer interface by
    /// XDP, and brings up what `start_action = "start"` says. SIGTERM or Ctrl-C deletes the SAs at
    /// the peers and removes what was made, except the unreachable routes that keep protected
    /// traffic from leaving in clear (see `release`).
    Run {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Check a configuration file: every error with its line and field.
    CheckConfig {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Show connections, IKE SAs, and the tunnels with their epochs.
    ///
    /// An epoch is one generation of a tunnel: an ESP SA in each direction. It is installed, then
    /// probing (pings are on their way), then proven (a ping came back through both directions:
    /// only now it carries data), suspect when pings are lost, draining when it was replaced.
    #[command(visible_alias = "list")]
    ListSas,
    /// Show the pools of virtual addresses, and which peer has which address.
    ///
    /// A peer that is away keeps its address until the pool has no other for somebody else.
    ListPools,
    /// Bring a tunnel up, and wait until it carries data.
    ///
    /// How far it is, is told every 2 seconds on standard error.
    Initiate {
        /// Name of the child in the configuration, or connection/child.
        #[arg(long, value_name = "NAME")]
        child: String,
        /// Seconds to wait; the daemon goes on trying afterwards.
        #[arg(long, default_value_t = 15, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Take a tunnel, or all of a connection, down at both ends.
    Terminate {
        #[command(flatten)]
        what: What,
        /// Seconds to wait.
        #[arg(long, default_value_t = 15, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Replace a tunnel's SAs, or a connection's IKE SA, by fresh ones; data goes on meanwhile.
    ///
    /// Returns as soon as that is begun; list-sas shows how far it is.
    Rekey {
        #[command(flatten)]
        what: What,
    },
    /// Ping the peer through a tunnel's own ESP SAs (ESP Echo).
    ///
    /// Unlike an ICMP ping it needs no address behind the tunnel, and an answer proves exactly
    /// this pair of SAs. Exits with 1 if nothing came back.
    Ping {
        /// Name of the child in the configuration, or connection/child.
        tunnel: String,
        /// How many pings.
        #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// Seconds from one to the next.
        #[arg(short, long, default_value_t = 1.0)]
        interval: f64,
        /// Bytes of data in each, at most 512.
        #[arg(short, long, default_value_t = 56, value_parser = clap::value_parser!(u16).range(..=512))]
        size: u16,
    },
    /// Show what happens, as it happens: IKE SAs, epochs and their states, pings, what the gate does and why.
    ///
    /// A line for each event, until Ctrl-C or until the daemon ends (exit code 1 then). With --json each line
    /// is an object: `event` and the fields that belong to it, `unix_us` (since 1970, UTC) and `boottime_us`
    /// (CLOCK_BOOTTIME, as packet captures of the same machine may be stamped).
    Monitor {
        /// Only this tunnel (a child's name, or connection/child) or connection.
        about: Option<String>,
    },
    /// Show how packets ended, and what ports and classifiers counted.
    Stats {
        /// Also the counters that are 0, each with its meaning.
        #[arg(long)]
        all: bool,
    },
    /// Make and show certificates: a small authority for a lab or a small site.
    #[command(after_help = pki::EXAMPLES)]
    Pki {
        #[command(subcommand)]
        command: pki::Command,
    },
    /// Refuse what a configuration protects until the daemon runs, by unreachable routes.
    ///
    /// The kernel forgets routes at a reboot, and until the daemon has started again, protected
    /// traffic would take the default route in clear. Run this at boot before the network comes up:
    /// in a systemd unit, `Type=oneshot`, `Before=network-pre.target`, `Wants=network-pre.target`,
    /// `DefaultDependencies=no`, `ExecStart=mitregate protect -c FILE`. It needs no interface and no
    /// daemon, and does no harm when it is run again or while the daemon runs. Its opposite is
    /// `release`.
    Protect {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Remove the unreachable routes to what a configuration protects.
    ///
    /// They outlive the daemon on purpose: without them, protected traffic would take the default
    /// route in clear. Refused while the daemon runs. Its opposite is `protect`.
    Release {
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file (TOML).
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Name of the child in the configuration, or connection/child.
    #[arg(long, value_name = "NAME")]
    child: Option<String>,
    /// Name of the connection in the configuration.
    #[arg(long, value_name = "NAME")]
    ike: Option<String>,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match run(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("{error:#}");
            if json {
                let _ = say(&json!({"ok": false, "error": message}).to_string());
            } else {
                let _ = writeln!(io::stderr(), "mitregate: {message}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli {
        socket,
        json,
        command,
    } = cli;
    let ask = |request: &Request, timeout| {
        client::ask(&socket, request, timeout, |progress| {
            if !json {
                writeln!(io::stderr(), "{}", waits(progress))?;
            }
            Ok(())
        })
    };
    match command {
        Command::Run { config } => match Settings::load(&config.file) {
            Ok(settings) => shell::run(settings),
            Err(errors) => {
                complain(&errors, json)?;
                Ok(ExitCode::FAILURE)
            }
        },
        Command::CheckConfig { config } => check_config(&config.file, json),
        Command::ListSas => {
            let result = ask(&Request::ListSas, None)?;
            show(&result, json, sas::text)
        }
        Command::ListPools => {
            let result = ask(&Request::ListPools, None)?;
            show(&result, json, pools::text)
        }
        Command::Initiate { child, timeout } => {
            let request = Request::Initiate {
                child: child.clone(),
            };
            let result = ask(&request, Some(Duration::from_secs(timeout)))?;
            show(&result, json, |_| format!("tunnel {child} is up\n"))
        }
        Command::Terminate { what, timeout } => {
            let (request, name) = match what {
                What {
                    child: Some(child), ..
                } => (
                    Request::TerminateChild {
                        child: child.clone(),
                    },
                    child,
                ),
                What { ike, .. } => {
                    let connection = ike.unwrap_or_default();
                    (
                        Request::TerminateIke {
                            connection: connection.clone(),
                        },
                        connection,
                    )
                }
            };
            let result = ask(&request, Some(Duration::from_secs(timeout)))?;
            show(&result, json, |_| format!("{name} is down\n"))
        }
        Command::Rekey { what } => {
            let (request, name) = match what {
                What {
                    child: Some(child), ..
                } => {
                    let name = child.clone();
                    (Request::RekeyChild { child }, name)
                }
                What { ike, .. } => {
                    let connection = ike.unwrap_or_default();
                    let name = connection.clone();
                    (Request::RekeyIke { connection }, name)
                }
            };
            let result = ask(&request, None)?;
            show(&result, json, |_| format!("rekeying {name}\n"))
        }
        Command::Ping {
            tunnel,
            count,
            interval,
            size,
        } => {
            let interval = Duration::try_from_secs_f64(interval)?;
            ping::run(&socket, &tunnel, count, interval, size, json)
        }
        Command::Monitor { about } => monitor::run(&socket, about, json),
        Command::Stats { all } => {
            let result = ask(&Request::Stats, None)?;
            show(&result, json, |result| stats::text(result, all))
        }
        Command::Pki { command } => pki::run(&command, json),
        Command::Protect { config } => protect(&config.file, json),
        Command::Release { config } => release(&config.file, json),
    }
}

fn check_config(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    match Settings::load(file) {
        Ok(settings) => {
            let connections = settings.control.connections.len();
            let tunnels: usize = settings
                .control
                .connections
                .iter()
                .map(|one| one.children.len())
                .sum();
            let warnings = listed(&settings.warnings);
            let result = json!({
                "ok": true,
                "connections": connections,
                "tunnels": tunnels,
                "warnings": warnings,
            });
            if !json {
                for warning in &settings.warnings {
                    writeln!(io::stderr(), "warning: {warning}")?;
                }
            }
            show(&result, json, |_| {
                format!(
                    "{}: ok ({connections} connections, {tunnels} tunnels)\n",
                    file.display()
                )
            })
        }
        Err(errors) => {
            complain(&errors, json)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn listed(errors: &[crate::config::ConfigError]) -> Vec<Value> {
    let object = |error: &crate::config::ConfigError| {
        json!({
            "file": error.file,
            "line": error.line,
            "field": error.field,
            "message": error.message,
        })
    };
    errors.iter().map(object).collect()
}

fn complain(errors: &[crate::config::ConfigError], json: bool) -> io::Result<()> {
    if json {
        let errors = listed(errors);
        return say(&json!({"ok": false, "errors": errors}).to_string());
    }
    for error in errors {
        writeln!(io::stderr(), "{error}")?;
    }
    Ok(())
}

fn protect(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let settings = match Settings::load(file) {
        Ok(settings) => settings,
        Err(errors) => {
            complain(&errors, json)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let protected = settings.protected();
    routing(async || Netlink::connect()?.block(&protected).await)?;
    let networks: Vec<_> = protected
        .iter()
        .flat_map(|one| one.destination.route_destinations())
        .map(|network| network.to_string())
        .collect();
    show(&json!({"ok": true, "protected": networks}), json, |_| {
        if networks.is_empty() {
            return "no connection protects anything\n".to_owned();
        }
        let line = |network| format!("{network} is refused outside a tunnel\n");
        networks.iter().map(line).collect()
    })
}

fn routing<T>(work: impl AsyncFnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work())
}

fn release(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let settings = match Settings::load(file) {
        Ok(settings) => settings,
        Err(errors) => {
            complain(&errors, json)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let socket = &settings.daemon.control_socket;
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        anyhow::bail!(
            "the daemon runs ({}): its routes are in use; stop it first",
            socket.display()
        );
    }
    let destinations: Vec<_> = settings
        .protected()
        .iter()
        .map(|protected| protected.destination)
        .collect();
    let removed = routing(async || Netlink::connect()?.release(&destinations).await)?;
    let removed: Vec<_> = removed.iter().map(ToString::to_string).collect();
    show(&json!({"ok": true, "released": removed}), json, |_| {
        if removed.is_empty() {
            return "no unreachable routes of ours are left\n".to_owned();
        }
        removed
            .iter()
            .map(|prefix| format!("released {prefix}\n"))
            .collect()
    })
}

/// What a command is waiting for that takes long.
fn waits(progress: &Value) -> String {
    let seconds = progress["elapsed_ms"].as_u64().unwrap_or(0) / 1000;
    let state = progress["state"].as_str().unwrap_or("?");
    format!("after {seconds} s: {state}")
}

fn show(
    result: &Value,
    json: bool,
    text: impl FnOnce(&Value) -> String,
) -> anyhow::Result<ExitCode> {
    if json {
        say(&format!("{result:#}"))?;
    } else {
        io::stdout().write_all(text(result).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// `mitregate list-sas | head -1` is no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
