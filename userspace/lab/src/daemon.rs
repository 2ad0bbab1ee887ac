//! The `mitregate` daemons: their configuration, life and status.

use std::{
    env,
    fs::{self, OpenOptions},
    iter,
    net::Ipv4Addr,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    interrupt, payload, sh,
    topology::{CLIENT_INNER, CLIENTS_INNER, Host, Lab},
};

/// From SIGTERM to the end, the deletion of the SAs at the peer included.
const ORDERLY_END: Duration = Duration::from_secs(5);

/// How ESP travels through the NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Encap {
    /// What the daemons choose: behind this NAT, ESP in UDP 4500
    Auto,
    /// ESP in UDP 4500 (RFC 3948), NAT or not
    Udp,
    /// Plain ESP, IP protocol 50
    Esp,
}

impl Encap {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Encap::Auto => "auto",
            Encap::Udp => "udp",
            Encap::Esp => "esp",
        }
    }

    /// What has to be seen outside the NAT: `udp` or `esp`.
    pub fn on_the_wire(self) -> &'static str {
        match self {
            Encap::Auto | Encap::Udp => "udp",
            Encap::Esp => "esp",
        }
    }
}

/// What the lab puts into the two configurations.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// How ESP travels through the NAT
    #[arg(long, value_enum, default_value = "auto")]
    pub encap: Encap,
    /// Who computes the AEAD: aws-lc | rustcrypto
    #[arg(long, default_value_t = Settings::default().provider)]
    pub provider: String,
    /// ESP's cipher: aes256gcm16 | aes128gcm16 | chacha20poly1305
    #[arg(long, default_value_t = Settings::default().suite)]
    pub suite: String,
    /// What asks whether the path carries anything: auto | echo | icmp | off
    #[arg(long, default_value_t = Settings::default().gate)]
    pub gate: String,
    /// The daemons' log level
    #[arg(long, default_value_t = Settings::default().daemon_log)]
    pub daemon_log: String,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            encap: Encap::Auto,
            provider: "aws-lc".to_owned(),
            suite: "aes256gcm16".to_owned(),
            gate: "auto".to_owned(),
            daemon_log: "info".to_owned(),
        }
    }
}

impl Settings {
    /// A template from `configs/`, filled in.
    fn fill(&self, template: &str, run: &Path) -> String {
        template
            .replace("@RUN@", &run.display().to_string())
            .replace("@PROVIDER@", &self.provider)
            .replace("@LOG@", &self.daemon_log)
            .replace("@ENCAP@", self.encap.name())
            .replace("@SUITE@", &self.suite)
            .replace("@GATE@", &self.gate)
    }
}

/// Write all configurations and a new shared secret.
pub fn configure(lab: &Lab, settings: &Settings) -> Result<()> {
    let run = lab.run_dir();
    lab.write_secret("secret", &payload::random_hex(32)?)?;
    let clients: Vec<_> = lab.clients().collect();
    for client in &clients {
        let text = client_config(settings, run, *client)?;
        lab.write_secret(&format!("{client}.toml"), &text)?;
    }
    lab.write_secret("gw.toml", &gateway_config(settings, run, &clients))?;
    Ok(())
}

fn client_config(settings: &Settings, run: &Path, client: Host) -> Result<String> {
    let address = |address: Option<Ipv4Addr>| address.context("a client has addresses");
    Ok(settings
        .fill(include_str!("../configs/client.toml"), run)
        .replace("@NAME@", &client.name())
        .replace("@WAN@", &address(client.outer())?.to_string())
        .replace("@INNER@", &address(client.inner())?.to_string()))
}

/// One client is a connection; for several it is a template.
fn gateway_config(settings: &Settings, run: &Path, clients: &[Host]) -> String {
    let (name, inner) = match clients {
        [_, _, ..] => ("*", CLIENTS_INNER.to_owned()),
        _ => ("client", format!("{CLIENT_INNER}/32")),
    };
    let ids = clients.iter().chain([&Host::Gw]);
    let ids: Vec<_> = ids.map(|host| format!("\"{host}@lab\"")).collect();
    settings
        .fill(include_str!("../configs/gateway.toml"), run)
        .replace("@CLIENTS@", name)
        .replace("@INNER@", &inner)
        .replace("@IDS@", &ids.join(", "))
}

/// The `mitregate` beside us. Cargo puts a test's program one folder deeper.
pub fn binary() -> Result<PathBuf> {
    let us = env::current_exe()?;
    let beside = us.with_file_name("mitregate");
    let above = us.ancestors().nth(2).map(|dir| dir.join("mitregate"));
    let found = iter::once(&beside)
        .chain(&above)
        .find(|path| path.is_file());
    match found {
        Some(path) => Ok(path.clone()),
        None => bail!(
            "{} is not there: cargo xtask build --release",
            beside.display()
        ),
    }
}

/// How to ask a daemon of that lab, standing or ours.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
    binary: PathBuf,
}

impl Control {
    /// That of the daemon on a host.
    pub fn of(lab: &Lab, host: Host) -> Result<Self> {
        let socket = lab.run_dir().join(format!("{}.sock", host.name()));
        Ok(Control {
            socket,
            binary: binary()?,
        })
    }

    /// `mitregate` with that socket.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut cmd = sh::command(&self.binary.display().to_string());
        cmd.arg("--socket").arg(&self.socket).args(arguments);
        cmd
    }

    /// The answer to a command, as JSON.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let mut cmd = self.command(arguments);
        let text = sh::output(cmd.arg("--json"))?;
        serde_json::from_str(&text).with_context(|| format!("`{}`: no JSON", sh::show(&cmd)))
    }
}

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    control: Control,
    host: Host,
    log: PathBuf,
    /// Just before its process was made.
    pub started: Instant,
}

impl Daemon {
    /// Start it; its log is `<logs>/<host>.log`, added to when there is one.
    pub fn start(lab: &Lab, host: Host, logs: &Path) -> Result<Self> {
        let control = Control::of(lab, host)?;
        let log = logs.join(format!("{}.log", host.name()));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let config = lab.run_dir().join(format!("{}.toml", host.name()));
        let started = Instant::now();
        let child = lab
            .host(host)
            .command(&control.binary.display().to_string())
            .args(["run", "-c"])
            .arg(config)
            .stdout(file.try_clone()?)
            .stderr(file)
            // A Ctrl-C on the terminal is for the lab, which then ends the daemons in order.
            .process_group(0)
            .spawn()
            .context("cannot start mitregate")?;
        Ok(Daemon {
            child,
            control,
            host,
            log,
            started,
        })
    }

    /// How to ask it.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error, with what it said last, once it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let name = self.host.name();
            bail!(
                "the daemon on {name} ended: {status}; its log ends:\n{}",
                self.log_end(12)
            );
        }
        Ok(())
    }

    /// Wait until it answers on its control socket.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let what = format!("the daemon on {} to answer", self.host.name());
        interrupt::wait_for(&what, limit, || {
            self.check()?;
            Ok(self.control.ask(&["list-sas"]).ok().map(drop))
        })
    }

    /// Wait until an epoch is in that state; what `list-sas` says of it.
    pub fn wait_epoch(&mut self, state: &str, limit: Duration) -> Result<Value> {
        let what = format!("an epoch on {} to be {state}", self.host.name());
        let found = interrupt::wait_for(&what, limit, || {
            self.check()?;
            let Ok(list) = self.control.ask(&["list-sas"]) else {
                return Ok(None);
            };
            Ok(epochs(&list).find(|epoch| epoch["state"] == state).cloned())
        });
        found.with_context(|| format!("its log ends:\n{}", self.log_end(12)))
    }

    /// SIGSTOP: it is there and does nothing, until [`Daemon::resume`].
    pub fn pause(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Go on after [`Daemon::pause`].
    pub fn resume(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// SIGKILL: no chance to clean up.
    pub fn kill(mut self) -> Result<()> {
        self.check()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM: it must end in order, and in time.
    pub fn terminate(mut self) -> Result<()> {
        self.check()?;
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let what = format!("the daemon on {} to end after SIGTERM", self.host.name());
        let status = interrupt::wait_for(&what, ORDERLY_END, || Ok(self.child.try_wait()?))?;
        if !status.success() {
            let signal = status
                .signal()
                .map_or(String::new(), |s| format!(" (signal {s})"));
            bail!(
                "the daemon on {} ended badly: {status}{signal}",
                self.host.name()
            );
        }
        Ok(())
    }

    /// CPU time used so far, user and system.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_time(self.pid())
    }

    /// Let it live on when we end.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    fn log_end(&self, lines: usize) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every epoch of every tunnel in a `list-sas` answer.
pub fn epochs(list: &Value) -> impl Iterator<Item = &Value> {
    let tunnels = list["tunnels"].as_array().into_iter().flatten();
    tunnels.flat_map(|tunnel| tunnel["epochs"].as_array().into_iter().flatten())
}

/// CPU time that all threads of a process used so far, user and system.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc(5): utime and stime are fields 14 and 15, in ticks of 1/100 s; after the name, which
    // stands in parentheses, they are the 12th and 13th.
    let rest = stat.rsplit_once(") ").context("an odd /proc/…/stat")?.1;
    let ticks = rest
        .split(' ')
        .skip(11)
        .take(2)
        .map(|t| t.parse::<u64>().unwrap_or(0));
    Ok(Duration::from_millis(ticks.sum::<u64>() * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_completely() {
        let settings = Settings {
            encap: Encap::Esp,
            ..Settings::default()
        };
        let run = Path::new("/run/mitregate/lab/x");
        let clients = [Host::client(1), Host::client(2)];
        for config in [
            client_config(&settings, run, clients[0]).unwrap(),
            client_config(&settings, run, clients[1]).unwrap(),
            gateway_config(&settings, run, &clients[..1]),
            gateway_config(&settings, run, &clients),
        ] {
            let settings = config.lines().filter(|line| !line.starts_with('#'));
            let open = settings.filter(|line| line.split('@').count() > 2 && !line.contains("ids"));
            assert_eq!(open.collect::<Vec<_>>(), Vec::<&str>::new());
            assert!(config.contains("encap = \"esp\""));
        }
    }

    #[test]
    fn each_client_is_itself() {
        let settings = Settings::default();
        let run = Path::new("/run/x");
        let second = client_config(&settings, run, Host::client(2)).unwrap();
        for line in [
            "control_socket = \"/run/x/client2.sock\"",
            "local_addrs = [\"192.168.1.3\"]",
            "local_ts = [\"10.1.0.2/32\"]",
            "id = \"client2@lab\"",
            "ids = [\"client2@lab\", \"gw@lab\"]",
        ] {
            assert!(second.contains(line), "{line}");
        }
        let both = gateway_config(&settings, run, &[Host::Client, Host::client(2)]);
        for line in [
            "id = \"*@lab\"",
            "remote_ts = [\"10.1.0.0/24\"]",
            "ids = [\"client@lab\", \"client2@lab\", \"gw@lab\"]",
        ] {
            assert!(both.contains(line), "{line}");
        }
    }

    #[test]
    fn epochs_are_found() {
        let list = serde_json::json!({ "tunnels": [
            { "epochs": [{ "state": "draining" }, { "state": "proven" }] },
            { "epochs": [] },
        ]});
        let states: Vec<_> = epochs(&list).map(|epoch| &epoch["state"]).collect();
        assert_eq!(states, ["draining", "proven"]);
        assert_eq!(epochs(&Value::Null).count(), 0);
    }
}
