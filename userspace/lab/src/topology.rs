//! Hosts in a row, a NAT among them, and everything taken down again.
//!
//! ```text
//! client ──────────── nat ──────────────── gw ──────────────── server
//! wan 192.168.1.2     lan 192.168.1.1      wan 203.0.113.1     lan 10.2.0.2
//! client2 ──────────┘ wan 203.0.113.2      lan 10.2.0.1
//! wan 192.168.1.3
//! ```
//! Each one's default route leads to the right and, on the gateway, to the left: without a tunnel
//! the client reaches the server in clear, so that a leak would show on the wire between the NAT
//! and the gateway. Several clients hang on one bridge, `lan`.

use std::{
    fmt, fs,
    io::ErrorKind,
    net::Ipv4Addr,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Serialize};

use crate::{
    interrupt,
    nat::Model,
    nat_box::{self, Nat, Running},
    netns::Netns,
    sh,
};

/// The client, behind the NAT.
pub const CLIENT_WAN: &str = "192.168.1.2";
/// The NAT, towards the client.
pub const NAT_LAN: &str = "192.168.1.1";
/// The NAT, towards the gateway: what it masquerades as, until it is told otherwise.
pub const NAT_WAN: &str = "203.0.113.2";
/// Of the network between NAT and gateway: the NAT's own addresses, in the order of its changes.
pub const NAT_POOL: [Ipv4Addr; 4] = [
    Ipv4Addr::new(203, 0, 113, 2),
    Ipv4Addr::new(203, 0, 113, 3),
    Ipv4Addr::new(203, 0, 113, 4),
    Ipv4Addr::new(203, 0, 113, 5),
];
/// Behind one NAT, at most.
pub const MAX_CLIENTS: u8 = 50;
/// The gateway's outer address.
pub const GATEWAY_WAN: &str = "203.0.113.1";
/// The gateway, towards the server.
pub const GATEWAY_LAN: &str = "10.2.0.1";
/// The protected server.
pub const SERVER: &str = "10.2.0.2";
/// The client's address inside the tunnel.
pub const CLIENT_INNER: &str = "10.1.0.1";
/// The addresses of all clients inside their tunnels.
pub const CLIENTS_INNER: &str = "10.1.0.0/24";
/// What the tunnel protects behind the gateway.
pub const PROTECTED_NET: &str = "10.2.0.0/24";

/// Configurations, secrets, control sockets and the record of each lab.
const RUN: &str = "/run/mitregate/lab";
const LOGS: &str = "/var/log/mitregate-lab";
/// What the lab writes there beside the logs of its hosts.
const LOG_FILES: [&str; 3] = ["iperf3.log", "leaked.pcap", "file"];
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Frames that may wait for a veth's other end. Without a queue discipline it would drop in
/// silence what its ring of 256 does not take.
const QUEUE: u32 = 1000;

/// The lab's hosts, from left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Behind the NAT; starts the tunnel.
    Client,
    /// Masquerades, and takes nothing unasked.
    Nat,
    /// Answers.
    Gw,
    /// Behind the gateway; knows nothing of tunnels.
    Server,
    /// Another one like the client, counted from 2.
    OtherClient(u8),
}

impl Host {
    /// Those of every lab, in the order of their declaration.
    pub const ALL: [Host; 4] = [Host::Client, Host::Nat, Host::Gw, Host::Server];

    /// The client of that number, counted from 1.
    pub fn client(number: u8) -> Self {
        if number <= 1 {
            Host::Client
        } else {
            Host::OtherClient(number)
        }
    }

    /// Also the end of its namespace's name.
    pub fn name(self) -> String {
        self.to_string()
    }

    /// Which client it is, counted from 1.
    fn client_number(self) -> Option<u8> {
        match self {
            Host::Client => Some(1),
            Host::OtherClient(number) => Some(number),
            Host::Nat | Host::Gw | Host::Server => None,
        }
    }

    /// The outer address: of the NAT, the one towards the gateway. The server has none.
    pub fn outer(self) -> Option<Ipv4Addr> {
        match self {
            Host::Nat => NAT_WAN.parse().ok(),
            Host::Gw => GATEWAY_WAN.parse().ok(),
            Host::Server => None,
            Host::Client | Host::OtherClient(_) => self.like(CLIENT_WAN),
        }
    }

    /// A client's address inside its tunnel, or the server's.
    pub fn inner(self) -> Option<Ipv4Addr> {
        match self {
            Host::Server => SERVER.parse().ok(),
            _ => self.like(CLIENT_INNER),
        }
    }

    /// Where that client comes after `first`, which is the first one's.
    fn like(self, first: &str) -> Option<Ipv4Addr> {
        let first: Ipv4Addr = first.parse().ok()?;
        let number = u32::from(self.client_number()?);
        Some(Ipv4Addr::from_bits(first.to_bits() + number - 1))
    }

    /// Its place in a lab's record.
    fn place(self) -> usize {
        match self {
            Host::Client => 0,
            Host::Nat => 1,
            Host::Gw => 2,
            Host::Server => 3,
            Host::OtherClient(number) => 2 + usize::from(number),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Client => f.write_str("client"),
            Host::Nat => f.write_str("nat"),
            Host::Gw => f.write_str("gw"),
            Host::Server => f.write_str("server"),
            Host::OtherClient(number) => write!(f, "client{number}"),
        }
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = || text.strip_prefix("client")?.parse().ok();
        match text {
            "client" => Ok(Host::Client),
            "nat" => Ok(Host::Nat),
            "gw" | "gateway" => Ok(Host::Gw),
            "server" => Ok(Host::Server),
            _ => match number() {
                Some(number @ 1..=MAX_CLIENTS) => Ok(Host::client(number)),
                _ => Err(format!(
                    "`{text}` is none of client, client2 … client{MAX_CLIENTS}, nat, gw, server"
                )),
            },
        }
    }
}

/// What stands between the clients and the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Middle {
    /// A router that masquerades and takes nothing unasked: the kernel's NAT.
    #[default]
    Nat,
    /// One that only forwards.
    Router,
    /// A box that carries every packet through one of the NAT models.
    Model(Model),
}

impl Middle {
    /// For a command line, with what each of them is.
    pub fn parser() -> impl TypedValueParser<Value = Self> {
        let own = [
            ("kernel", "Linux's own: nftables' masquerade"),
            ("router", "No NAT: only forwards"),
        ];
        let own = own.map(|(name, help)| PossibleValue::new(name).help(help));
        let models = Model::ALL.map(|model| PossibleValue::new(model.name()).help(model.about()));
        let values = own.into_iter().chain(models).collect::<Vec<_>>();
        PossibleValuesParser::new(values).try_map(|text| text.parse())
    }
}

impl fmt::Display for Middle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Middle::Nat => f.write_str("kernel"),
            Middle::Router => f.write_str("router"),
            Middle::Model(model) => f.write_str(model.name()),
        }
    }
}

impl FromStr for Middle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kernel" => Ok(Middle::Nat),
            "router" => Ok(Middle::Router),
            _ => text.parse().map(Middle::Model).map_err(|_| {
                let models = Model::ALL.map(Model::name).join(", ");
                format!("`{text}` is none of kernel, router, {models}")
            }),
        }
    }
}

impl TryFrom<String> for Middle {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Middle> for String {
    fn from(middle: Middle) -> Self {
        middle.to_string()
    }
}

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Between clients and gateway.
    pub middle: Middle,
    /// How many clients, 1 to [`MAX_CLIENTS`].
    pub clients: u8,
    /// The NAT goes on without this process: for a lab that is to be left standing.
    pub detached: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Middle::default().into()
    }
}

impl From<Middle> for Plan {
    /// For one client.
    fn from(middle: Middle) -> Self {
        Plan {
            middle,
            clients: 1,
            detached: false,
        }
    }
}

/// What a lab has made, in `record.json`, for the next one to clean up if this one is killed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    namespaces: Vec<Netns>,
    middle: Middle,
    /// Left standing on purpose (`lab up`).
    standing: bool,
}

/// A lab that stands. Dropping it takes it down, unless [`Lab::keep`] was called.
pub struct Lab {
    name: String,
    run: PathBuf,
    record: Record,
    keep: bool,
    /// The box in the middle, if one is there and ends with us.
    nat_box: Option<Running>,
    /// Bound while this process owns the lab's name; the kernel lets go of it when we end.
    _lock: UnixListener,
}

impl Lab {
    /// Build four hosts. Clears away what a killed run of the same name has left; refuses when
    /// one is running or left standing.
    pub fn up(name: &str) -> Result<Self> {
        Self::up_with(name, Plan::default())
    }

    /// The same, with a choice of how many clients there are, and of what stands in the middle.
    pub fn up_with(name: &str, plan: impl Into<Plan>) -> Result<Self> {
        let plan = plan.into();
        check_name(name)?;
        if !(1..=MAX_CLIENTS).contains(&plan.clients) {
            bail!("a lab has 1 to {MAX_CLIENTS} clients, not {}", plan.clients);
        }
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
            record: Record {
                middle: plan.middle,
                ..Record::default()
            },
            keep: false,
            nat_box: None,
            _lock: lock,
        };
        lab.build(plan).context("cannot build the lab")?;
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
                    nat_box: None,
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
        &self.record.namespaces[host.place()]
    }

    /// All its hosts, clients first.
    pub fn hosts(&self) -> impl Iterator<Item = Host> {
        self.clients().chain([Host::Nat, Host::Gw, Host::Server])
    }

    /// Those behind the NAT.
    pub fn clients(&self) -> impl Iterator<Item = Host> + use<> {
        // All but NAT, gateway and server.
        let clients = self.record.namespaces.len().saturating_sub(3);
        (1..=u8::try_from(clients).unwrap_or(MAX_CLIENTS)).map(Host::client)
    }

    /// What stands between clients and gateway.
    pub fn middle(&self) -> Middle {
        self.record.middle
    }

    /// The NAT, to break it and to look into it. An error where only a router stands.
    pub fn nat(&self) -> Result<Nat> {
        Nat::of(self)
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
        self.nat_box = None;
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

    fn build(&mut self, plan: Plan) -> Result<()> {
        let others = (2..=plan.clients).map(Host::client);
        for host in Host::ALL.into_iter().chain(others) {
            let mut netns = Netns::planned(&format!("{}-{host}", self.name));
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
        for host in self.hosts() {
            settle(self.host(host))?;
        }
        self.connect_clients(plan.clients)?;
        let [_, nat, gw, server] = Host::ALL.map(|host| self.host(host));
        link((nat, "wan"), (gw, "wan"))?;
        link((gw, "lan"), (server, "lan"))?;
        for (netns, device, address) in [
            (nat, "wan", NAT_WAN),
            (gw, "wan", GATEWAY_WAN),
            (gw, "lan", GATEWAY_LAN),
            (server, "lan", SERVER),
        ] {
            netns.ip(&format!("address add {address}/24 dev {device}"))?;
        }
        for address in &NAT_POOL[1..] {
            nat.ip(&format!("address add {address}/24 dev wan"))?;
        }
        nat.ip(&format!("route add default via {GATEWAY_WAN}"))?;
        gw.ip(&format!("route add default via {NAT_WAN}"))?;
        server.ip(&format!("route add default via {GATEWAY_LAN}"))?;
        gw.sysctl("ipv4/ip_forward", "1")?;
        let rules = |text| sh::feed(nat.command("nft").args(["-f", "-"]), text);
        match plan.middle {
            Middle::Nat => {
                nat.sysctl("ipv4/ip_forward", "1")?;
                rules(include_str!("../configs/nat.nft"))?;
            }
            Middle::Router => nat.sysctl("ipv4/ip_forward", "1")?,
            Middle::Model(model) => {
                rules(include_str!("../configs/nat-box.nft"))?;
                if plan.detached {
                    nat_box::start_detached(self, model)?;
                } else {
                    self.nat_box = Some(Running::start(self, model)?);
                }
            }
        }
        Ok(())
    }

    /// One client's cable leads to the NAT itself, those of several to a bridge there.
    fn connect_clients(&self, clients: u8) -> Result<()> {
        let nat = self.host(Host::Nat);
        if clients > 1 {
            // No spanning tree: a port forwards at once.
            nat.ip("link add lan type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        }
        for client in self.clients() {
            let netns = self.host(client);
            if clients == 1 {
                link((netns, "wan"), (nat, "lan"))?;
            } else {
                link((netns, "wan"), (nat, &client.name()))?;
                nat.ip(&format!("link set {client} master lan"))?;
            }
            let address = client.outer().context("a client has an outer address")?;
            netns.ip(&format!("address add {address}/24 dev wan"))?;
            netns.ip(&format!("route add default via {NAT_LAN}"))?;
        }
        nat.ip("link set lan up")?;
        nat.ip(&format!("address add {NAT_LAN}/24 dev lan"))?;
        Ok(())
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
        self.nat_box = None;
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
    remove_log_files(&dir);
    Ok(dir)
}

/// Remove the logs of a run that went well.
pub fn remove_logs(dir: &Path) {
    remove_log_files(dir);
    let _ = fs::remove_dir(dir);
    let _ = fs::remove_dir(LOGS);
}

fn remove_log_files(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let of_a_host = || name.strip_suffix(".log")?.parse::<Host>().ok();
        if LOG_FILES.contains(&name.as_str()) || of_a_host().is_some() {
            let _ = fs::remove_file(entry.path());
        }
    }
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

type End<'a> = (&'a Netns, &'a str);

/// A cable: Ethernet, 1500 bytes, no offloads, so that frames on it are what a wire would carry.
fn link(left: End<'_>, right: End<'_>) -> Result<()> {
    let (a, b) = (left, right);
    a.0.ip(&format!(
        "link add {} type veth peer name {} netns {}",
        a.1,
        b.1,
        b.0.name()
    ))?;
    for (netns, device) in [left, right] {
        let offloads = format!("-K {device} rx off tx off sg off tso off gso off gro off");
        sh::output(netns.command("ethtool").args(offloads.split(' ')))?;
        let queue = format!("qdisc replace dev {device} root pfifo limit {QUEUE}");
        sh::output(netns.command("tc").args(queue.split(' ')))?;
        netns.ip(&format!("link set {device} mtu 1500 up"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_known_by_their_names() {
        for host in Host::ALL
            .into_iter()
            .chain((2..=MAX_CLIENTS).map(Host::client))
        {
            assert_eq!(host.name().parse(), Ok(host));
        }
        assert_eq!("gateway".parse(), Ok(Host::Gw));
        assert_eq!("client1".parse(), Ok(Host::Client));
        for wrong in ["", "clients", "client0", "client51", "client256", "nat2"] {
            let error = wrong.parse::<Host>().unwrap_err();
            assert!(error.contains("client50"), "{error}");
        }
    }

    #[test]
    fn clients_have_addresses_of_their_own() {
        assert_eq!(Host::Client.outer(), CLIENT_WAN.parse().ok());
        assert_eq!(Host::client(50).outer(), "192.168.1.51".parse().ok());
        assert_eq!(Host::client(2).inner(), "10.1.0.2".parse().ok());
        assert_eq!(Host::Gw.inner(), None);
    }

    #[test]
    fn a_middle_survives_the_record() {
        for middle in [Middle::Nat, Middle::Router, Middle::Model(Model::ALL[0])] {
            let text = serde_json::to_string(&middle).unwrap();
            assert_eq!(serde_json::from_str::<Middle>(&text).unwrap(), middle);
        }
        let error = "cisco".parse::<Middle>().unwrap_err();
        assert!(error.contains("conntrack-generic"), "{error}");
    }
}
