//! Four hosts in a row, a NAT among them, and everything taken down again.
//!
//! ```text
//! client ──────────── nat ──────────────── gw ──────────────── server
//! wan 192.168.1.2     lan 192.168.1.1      wan 203.0.113.1     lan 10.2.0.2
//!                     wan 203.0.113.2      lan 10.2.0.1
//! ```
//! Each one's default route leads to the right and, on the gateway, to the left: without a tunnel
//! the client reaches the server in clear, so that a leak would show on the wire between the NAT
//! and the gateway.

use std::{
    fs,
    io::ErrorKind,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{interrupt, netns::Netns, sh};

/// The client, behind the NAT.
pub const CLIENT_WAN: &str = "192.168.1.2";
/// The NAT, towards the client.
pub const NAT_LAN: &str = "192.168.1.1";
/// The NAT, towards the gateway: what it masquerades as.
pub const NAT_WAN: &str = "203.0.113.2";
/// The gateway's outer address.
pub const GATEWAY_WAN: &str = "203.0.113.1";
/// The gateway, towards the server.
pub const GATEWAY_LAN: &str = "10.2.0.1";
/// The protected server.
pub const SERVER: &str = "10.2.0.2";
/// The client's address inside the tunnel.
pub const CLIENT_INNER: &str = "10.1.0.1";
/// What the tunnel protects behind the gateway.
pub const PROTECTED_NET: &str = "10.2.0.0/24";

/// Configurations, secrets, control sockets and the record of each lab.
const RUN: &str = "/run/mitregate/lab";
const LOGS: &str = "/var/log/mitregate-lab";
/// What the lab writes there.
const LOG_FILES: [&str; 5] = ["client.log", "gw.log", "iperf3.log", "leaked.pcap", "file"];
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Frames that may wait for a veth's other end. Without a queue discipline it would drop in
/// silence what its ring of 256 does not take.
const QUEUE: u32 = 1000;

/// The lab's hosts, from left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Host {
    /// Behind the NAT; starts the tunnel.
    Client,
    /// Masquerades, and takes nothing unasked.
    Nat,
    /// Answers.
    #[value(alias = "gateway")]
    Gw,
    /// Behind the gateway; knows nothing of tunnels.
    Server,
}

impl Host {
    /// All of them, in the order of their declaration.
    pub const ALL: [Host; 4] = [Host::Client, Host::Nat, Host::Gw, Host::Server];

    /// Also the end of its namespace's name.
    pub fn name(self) -> &'static str {
        match self {
            Host::Client => "client",
            Host::Nat => "nat",
            Host::Gw => "gw",
            Host::Server => "server",
        }
    }
}

/// What stands between the client and the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Middle {
    /// A router that masquerades and takes nothing unasked.
    Nat,
    /// One that only forwards.
    Router,
}

/// What a lab has made, in `record.json`, for the next one to clean up if this one is killed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    namespaces: Vec<Netns>,
    /// Left standing on purpose (`lab up`).
    standing: bool,
}

/// A lab that stands. Dropping it takes it down, unless [`Lab::keep`] was called.
pub struct Lab {
    name: String,
    run: PathBuf,
    record: Record,
    keep: bool,
    /// Bound while this process owns the lab's name; the kernel lets go of it when we end.
    _lock: UnixListener,
}

impl Lab {
    /// Build the four hosts. Clears away what a killed run of the same name has left; refuses when
    /// one is running or left standing.
    pub fn up(name: &str) -> Result<Self> {
        Self::up_with(name, Middle::Nat)
    }

    /// The same, with a choice of what stands in the middle.
    pub fn up_with(name: &str, middle: Middle) -> Result<Self> {
        check_name(name)?;
        let lock = lock(name)?;
        let run = Path::new(RUN).join(name);
        if let Some(old) = read_record(&run)? {
            if old.standing && old.namespaces.iter().any(Netns::is_ours) {
                bail!("the lab `{name}` is standing: take it down first, or choose another --name");
            }
            remove(&run, &old)?;
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&run)
            .with_context(|| format!("cannot make {}", run.display()))?;
        let mut lab = Lab {
            name: name.to_owned(),
            run,
            record: Record::default(),
            keep: false,
            _lock: lock,
        };
        lab.build(middle).context("cannot build the lab")?;
        Ok(lab)
    }

    /// One that an earlier `lab up` left standing. Dropping it changes nothing.
    pub fn standing(name: &str) -> Result<Self> {
        check_name(name)?;
        let lock = lock(name)?;
        let run = Path::new(RUN).join(name);
        match read_record(&run)? {
            Some(record) if record.standing && record.namespaces.iter().all(Netns::is_ours) => {
                Ok(Lab {
                    name: name.to_owned(),
                    run,
                    record,
                    keep: true,
                    _lock: lock,
                })
            }
            _ => bail!("no lab `{name}` is standing; `lab up` makes one"),
        }
    }

    /// Take down what a `lab up`, or a run that was killed, has left. False: there was nothing.
    pub fn down(name: &str) -> Result<bool> {
        check_name(name)?;
        let _lock = lock(name)?;
        let run = Path::new(RUN).join(name);
        let Some(record) = read_record(&run)? else {
            return Ok(false);
        };
        remove(&run, &record)?;
        Ok(true)
    }

    /// The start of its namespaces' names.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Folder for configurations, the secret and control sockets.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// A host's namespace.
    pub fn host(&self, host: Host) -> &Netns {
        // `build` made one for each, in this order.
        &self.record.namespaces[host as usize]
    }

    /// Leave it standing.
    pub fn keep(mut self) -> Result<()> {
        self.record.standing = true;
        self.save()?;
        self.keep = true;
        Ok(())
    }

    /// Take it down, now and with a result.
    pub fn take_down(mut self) -> Result<()> {
        self.keep = true;
        remove(&self.run, &self.record)
    }

    fn save(&self) -> Result<()> {
        let path = self.run.join("record.json");
        let text = serde_json::to_string_pretty(&self.record)?;
        // By rename: a run that is killed here must not leave half a record.
        let new = self.run.join("record.new");
        fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, path)?;
        Ok(())
    }

    fn build(&mut self, middle: Middle) -> Result<()> {
        for host in Host::ALL {
            let mut netns = Netns::planned(&format!("{}-{}", self.name, host.name()));
            if netns.name_is_taken() {
                bail!("a namespace {} exists, and no lab made it", netns.name());
            }
            // First the plan: a namespace never exists without being in the record.
            self.record.namespaces.push(netns.clone());
            self.save()?;
            netns.create()?;
            self.record.namespaces.pop();
            self.record.namespaces.push(netns);
            self.save()?;
        }
        for host in Host::ALL {
            settle(self.host(host))?;
        }
        let [client, nat, gw, server] = Host::ALL.map(|host| self.host(host));
        link((client, "wan", CLIENT_WAN), (nat, "lan", NAT_LAN))?;
        link((nat, "wan", NAT_WAN), (gw, "wan", GATEWAY_WAN))?;
        link((gw, "lan", GATEWAY_LAN), (server, "lan", SERVER))?;
        client.ip(&format!("route add default via {NAT_LAN}"))?;
        nat.ip(&format!("route add default via {GATEWAY_WAN}"))?;
        gw.ip(&format!("route add default via {NAT_WAN}"))?;
        server.ip(&format!("route add default via {GATEWAY_LAN}"))?;
        for router in [nat, gw] {
            router.sysctl("ipv4/ip_forward", "1")?;
        }
        match middle {
            Middle::Nat => sh::feed(
                nat.command("nft").args(["-f", "-"]),
                include_str!("../configs/nat.nft"),
            ),
            Middle::Router => Ok(()),
        }
    }

    /// Write a file that only root can read.
    pub fn write_secret(&self, name: &str, content: &str) -> Result<PathBuf> {
        use std::io::Write;
        let path = self.run.join(name);
        let _ = fs::remove_file(&path);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(content.as_bytes())?;
        Ok(path)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = remove(&self.run, &self.record) {
            eprintln!("the lab `{}` could not be taken down: {error:#}", self.name);
        }
    }
}

/// A folder without logs for those of a lab: the one wished, else one below /var/log.
pub fn log_dir(name: &str, wish: Option<&Path>) -> Result<PathBuf> {
    check_name(name)?;
    let dir = wish.map_or_else(|| Path::new(LOGS).join(name), Path::to_owned);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Those of an earlier run.
    for old in LOG_FILES {
        let _ = fs::remove_file(dir.join(old));
    }
    Ok(dir)
}

/// Remove the logs of a run that went well.
pub fn remove_logs(dir: &Path) {
    for file in LOG_FILES {
        let _ = fs::remove_file(dir.join(file));
    }
    let _ = fs::remove_dir(dir);
    let _ = fs::remove_dir(LOGS);
}

/// Namespace names and paths are made from it.
fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || name.len() > 40 || name.starts_with('-') || !name.chars().all(good) {
        bail!("a lab's name has 1 to 40 letters, digits and '-', not `{name}`");
    }
    Ok(())
}

/// One process at a time works on a lab. Somebody who is about to finish is waited for; so is a
/// child between fork and exec, which still holds what its parent has let go.
fn lock(name: &str) -> Result<UnixListener> {
    let address = SocketAddr::from_abstract_name(format!("mitregate-lab/{name}"))?;
    let what = format!("another mitregate-lab to be done with `{name}`");
    interrupt::wait_for(&what, LOCK_PATIENCE, || {
        match UnixListener::bind_addr(&address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
            other => Ok(Some(other?)),
        }
    })
}

fn read_record(run: &Path) -> Result<Option<Record>> {
    let path = run.join("record.json");
    match fs::read(&path) {
        Ok(text) => {
            let record = serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged", path.display()))?;
            Ok(Some(record))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Remove everything in the record, then the record. Goes on after a failure and returns the first.
fn remove(run: &Path, record: &Record) -> Result<()> {
    let mut result = Ok(());
    for netns in record.namespaces.iter().rev() {
        result = result.and(netns.destroy());
    }
    result?;
    fs::remove_dir_all(run).with_context(|| format!("cannot remove {}", run.display()))?;
    // Those above it only if nobody else has something there.
    let _ = fs::remove_dir(RUN);
    let _ = Path::new(RUN).parent().map(fs::remove_dir);
    Ok(())
}

/// Settings of a fresh host: no IPv6 chatter, and none of the machine's own habits, which new
/// namespaces inherit.
fn settle(netns: &Netns) -> Result<()> {
    for which in ["all", "default"] {
        netns.sysctl(&format!("ipv6/conf/{which}/disable_ipv6"), "1")?;
        netns.sysctl(&format!("ipv4/conf/{which}/rp_filter"), "0")?;
        netns.sysctl(&format!("ipv4/conf/{which}/send_redirects"), "0")?;
    }
    netns.sysctl("ipv4/ip_forward", "0")?;
    // Debian's default, so that results compare; a kernel without it keeps its own.
    let _ = netns.sysctl("ipv4/tcp_congestion_control", "cubic");
    netns.ip("link set lo up")?;
    Ok(())
}

type End<'a> = (&'a Netns, &'a str, &'a str);

/// A cable: Ethernet, 1500 bytes, no offloads, so that frames on it are what a wire would carry.
fn link(left: End<'_>, right: End<'_>) -> Result<()> {
    let (a, b) = (left, right);
    a.0.ip(&format!(
        "link add {} type veth peer name {} netns {}",
        a.1,
        b.1,
        b.0.name()
    ))?;
    for (netns, device, address) in [left, right] {
        let offloads = format!("-K {device} rx off tx off sg off tso off gso off gro off");
        sh::output(netns.command("ethtool").args(offloads.split(' ')))?;
        let queue = format!("qdisc replace dev {device} root pfifo limit {QUEUE}");
        sh::output(netns.command("tc").args(queue.split(' ')))?;
        netns.ip(&format!("address add {address}/24 dev {device}"))?;
        netns.ip(&format!("link set {device} mtu 1500 up"))?;
    }
    Ok(())
}
