//! wireguard-go as Debian ships it, a black box: WireGuard in userspace on a TUN device.

use std::{
    fs::OpenOptions,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    interrupt, sh,
    topology::{CLIENT_INNER, GATEWAY_WAN, Host, Lab, PROTECTED_NET},
};

const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);
const PORT: u16 = 51820;
/// What wg(8) advises a client behind a NAT to have, in seconds. Without it, a client that only
/// receives would never tell its new address.
pub const KEEPALIVE: u16 = 25;
/// wireguard-go's own choice.
const MTU: u16 = 1420;

/// Its control socket's place is compiled in: each has a mount namespace where that is its own.
const ENTER: &str = "
set -e
mkdir -p /run/wireguard
mount -t tmpfs tmpfs /run/wireguard
exec env LOG_LEVEL=error wireguard-go -f wg0
";

/// A running wireguard-go. Dropping it kills it.
pub struct WireGuard {
    child: Child,
    host: Host,
}

/// A private key and its public one, as `wg` writes them.
struct Key {
    private: String,
    public: String,
}

impl Key {
    fn new() -> Result<Self> {
        let private = sh::run("wg genkey")?.trim().to_owned();
        let public = sh::filter(sh::command("wg").arg("pubkey"), &private)?;
        Ok(Key {
            private,
            public: public.trim().to_owned(),
        })
    }
}

/// Client and gateway, configured and started.
pub fn start(lab: &Lab, logs: &Path) -> Result<[WireGuard; 2]> {
    let (client, gateway) = (Key::new()?, Key::new()?);
    let gateway_conf = format!(
        "[Interface]
PrivateKey = {}
ListenPort = {PORT}
[Peer]
PublicKey = {}
AllowedIPs = {CLIENT_INNER}/32
",
        gateway.private, client.public
    );
    let client_conf = format!(
        "[Interface]
PrivateKey = {}
[Peer]
PublicKey = {}
Endpoint = {GATEWAY_WAN}:{PORT}
AllowedIPs = {PROTECTED_NET}
PersistentKeepalive = {KEEPALIVE}
",
        client.private, gateway.public
    );
    let gateway = WireGuard::start(lab, Host::Gw, &gateway_conf, logs)?;
    gateway.route(lab, None, &format!("{CLIENT_INNER}/32"))?;
    let client = WireGuard::start(lab, Host::Client, &client_conf, logs)?;
    client.route(lab, Some(CLIENT_INNER), PROTECTED_NET)?;
    Ok([client, gateway])
}

impl WireGuard {
    fn start(lab: &Lab, host: Host, conf: &str, logs: &Path) -> Result<Self> {
        let name = format!("wireguard-{}", host.name());
        let conf = lab.write_secret(&format!("{name}.conf"), conf)?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(logs.join(format!("{name}.log")))?;
        let child = lab
            .host(host)
            .command("unshare")
            .args(["-m", "sh", "-c", ENTER])
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot start wireguard-go")?;
        let mut this = WireGuard { child, host };
        interrupt::poll("wireguard-go to answer", TICK, PATIENCE, || {
            this.check()?;
            Ok(sh::output(&mut this.wg(&["show", "wg0"])).ok().map(drop))
        })?;
        sh::output(this.wg(&["setconf", "wg0"]).arg(conf))?;
        Ok(this)
    }

    /// Up, with the address, and the way to what is behind the peer.
    fn route(&self, lab: &Lab, address: Option<&str>, behind: &str) -> Result<()> {
        let netns = lab.host(self.host);
        if let Some(address) = address {
            netns.ip(&format!("address add {address}/32 dev wg0"))?;
        }
        netns.ip(&format!("link set wg0 mtu {MTU} up"))?;
        netns.ip(&format!("route add {behind} dev wg0")).map(drop)
    }

    /// `wg` where that wireguard-go sees the world.
    fn wg(&self, arguments: &[&str]) -> Command {
        let mut cmd = sh::command("nsenter");
        let pid = self.child.id().to_string();
        cmd.args(["--target", &pid, "--mount", "--net", "wg"])
            .args(arguments);
        cmd
    }

    /// An error once it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("wireguard-go on {} ended: {status}", self.host.name());
        }
        Ok(())
    }
}

impl Drop for WireGuard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
