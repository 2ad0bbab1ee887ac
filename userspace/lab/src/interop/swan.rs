//! strongSwan as Debian ships it, a black box: its daemon in a namespace of the lab, with its own
//! /run, its configuration in swanctl's words, and its log.

use std::{
    fs::{self, OpenOptions},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    interrupt, sh,
    topology::{Host, Lab},
};

const PATIENCE: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(50);

/// Debian's userspace ESP (kernel-libipsec, UDP-encapsulated only) comes before kernel-netlink,
/// which stays for addresses and routes. Plug-ins that a version has elsewhere are skipped by it.
const PLUGINS: &str = "random nonce openssl drbg sha1 sha2 hmac kdf gcm aes pem pkcs1 pkcs8 x509 \
                       pubkey revocation constraints kernel-libipsec kernel-netlink \
                       socket-default vici updown counters";

/// In the daemon's own mount namespace: its folder is at /mnt, and /run, where the path of its pid
/// file is compiled in, is its own. It becomes charon, so that the process id stays.
const ENTER: &str = r#"
set -e
mount --bind "$DIR" "$ROOT/mnt"
if [ -n "$ROOT" ]
then
    mount --rbind /dev "$ROOT/dev"
    mount -t proc proc "$ROOT/proc"
fi
mount -t tmpfs tmpfs "$ROOT/run"
exec env STRONGSWAN_CONF=/mnt/strongswan.conf chroot "${ROOT:-/}" /usr/lib/ipsec/charon
"#;

/// Which strongSwan.
#[derive(Clone, Debug)]
pub struct Release {
    /// As in `--peer`: `5.9`.
    pub name: String,
    /// The folder with the Debian that it lives in; none: the machine's own.
    pub root: Option<PathBuf>,
}

/// A running charon. Dropping it kills it.
#[derive(Debug)]
pub struct Swan {
    child: Child,
    log: PathBuf,
}

/// The folder of the one on that host: configuration, keys, certificates, control socket.
pub fn folder(lab: &Lab, host: Host) -> PathBuf {
    lab.run_dir().join(format!("swan-{}", host.name()))
}

/// How much it logs: swanctl's levels, from -1 (silent) to 4.
#[derive(Clone, Copy, Debug)]
pub struct LogLevels {
    /// For everything that is not named here.
    pub default: i8,
    /// IKE's state machine and configuration.
    pub ike: i8,
}

/// What a person wants who looks for a fault.
pub const TALKATIVE: LogLevels = LogLevels { default: 1, ike: 2 };

/// Write both configuration files for the one on that host: `charon` are more lines of that section of strongswan.conf,
/// `swanctl` is all of swanctl.conf.
pub fn configure(
    lab: &Lab,
    host: Host,
    levels: LogLevels,
    charon: &str,
    swanctl: &str,
) -> Result<()> {
    let LogLevels { default, ike } = levels;
    let folder = folder(lab, host);
    for name in [
        "x509", "x509ca", "x509crl", "private", "rsa", "ecdsa", "pkcs8",
    ] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder.join(name))?;
    }
    let conf = format!(
        "charon {{
  load = {PLUGINS}
{charon}
  filelog {{
    stderr {{
      default = {default}
      ike = {ike}
      cfg = {ike}
      time_format = %H:%M:%S
      time_precision = ms
      ike_name = yes
      flush_line = yes
    }}
  }}
  plugins {{
    kernel-libipsec {{
      load = yes
    }}
    vici {{
      socket = unix:///mnt/vici
    }}
  }}
}}
swanctl {{
  load = random openssl pem pkcs1 pkcs8 x509 pubkey
}}
"
    );
    let name = format!("swan-{}", host.name());
    lab.write_secret(&format!("{name}/strongswan.conf"), &conf)?;
    lab.write_secret(&format!("{name}/swanctl.conf"), swanctl)?;
    Ok(())
}

impl Swan {
    /// Start it, wait until it answers, and load its configuration. Its log is
    /// `<logs>/strongswan.log`, added to when there is one.
    pub fn start(lab: &Lab, host: Host, release: &Release, logs: &Path) -> Result<Self> {
        let folder = folder(lab, host);
        // One that a killed daemon has left would answer nobody.
        let _ = fs::remove_file(folder.join("vici"));
        let log = logs.join("strongswan.log");
        let file = OpenOptions::new().create(true).append(true).open(&log)?;
        let root = release.root.as_deref().unwrap_or(Path::new(""));
        let child = lab
            .host(host)
            .command("unshare")
            .args(["-m", "sh", "-c", ENTER])
            .env("DIR", &folder)
            .env("ROOT", root)
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .context("cannot start strongSwan")?;
        let mut swan = Swan { child, log };
        interrupt::poll("strongSwan to answer", TICK, PATIENCE, || {
            swan.check()?;
            Ok(folder.join("vici").exists().then_some(()))
        })?;
        swan.swanctl(&["--load-all", "--noprompt", "--file", "/mnt/swanctl.conf"])?;
        Ok(swan)
    }

    /// An error, with what it said last, once it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let end = super::report::last_lines(&self.log, 12).join("\n");
            bail!("strongSwan ended: {status}; its log ends:\n{end}");
        }
        Ok(())
    }

    /// `swanctl` of the same release, where that charon sees the world.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut cmd = sh::command("nsenter");
        cmd.args([
            "--target",
            &self.child.id().to_string(),
            "--mount",
            "--root",
        ])
        .args([
            "env",
            "STRONGSWAN_CONF=/mnt/strongswan.conf",
            "SWANCTL_DIR=/mnt",
        ])
        .arg("swanctl")
        .args(arguments)
        .args(["--uri", "unix:///mnt/vici"]);
        cmd
    }

    /// What `swanctl` prints; an error when it fails.
    pub fn swanctl(&self, arguments: &[&str]) -> Result<String> {
        sh::output(&mut self.command(arguments))
    }

    /// Its SAs, as people read them.
    pub fn sas(&self) -> Result<String> {
        self.swanctl(&["--list-sas"])
    }

    /// Everything that it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL: no chance to tell the peer.
    pub fn kill(mut self) -> Result<()> {
        self.check()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM: it deletes its SAs at the peer.
    pub fn terminate(mut self) -> Result<()> {
        self.check()?;
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        interrupt::poll("strongSwan to end after SIGTERM", TICK, PATIENCE, || {
            Ok(self.child.try_wait()?)
        })?;
        Ok(())
    }
}

impl Drop for Swan {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
