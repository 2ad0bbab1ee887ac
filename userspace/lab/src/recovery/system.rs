//! What is compared: each with a client behind the NAT and a gateway, brought up the same way and
//! seen the same way, by datagrams that cross.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use super::{
    fault::Fault,
    wireguard::{self, WireGuard},
};
use crate::{
    daemon::{self, Daemon, Settings, epochs},
    interop::swan::{self, LogLevels, Release, Swan},
    payload,
    topology::{CLIENT_INNER, Host, Lab},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Enough to see what went wrong.
const LEVELS: LogLevels = LogLevels { default: 1, ike: 1 };

/// Named as in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum System {
    /// As it comes
    Mitregate,
    /// `gate = "off"`: data flows at once, nothing is pinged
    MitregateGateOff,
    /// Debian's, with its ESP in userspace
    #[value(name = "strongswan")]
    #[serde(rename = "strongswan")]
    StrongSwan,
    /// Debian's
    #[value(name = "wireguard-go")]
    #[serde(rename = "wireguard-go")]
    WireGuard,
}

impl System {
    /// As in the report.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or(String::new(), |value| value.get_name().to_owned())
    }

    /// WireGuard has no CHILD or IKE SA.
    pub fn knows(self, fault: Fault) -> bool {
        self != System::WireGuard || !fault.is_rekey()
    }

    /// Programs that it needs.
    pub fn tools(self) -> &'static [&'static str] {
        match self {
            System::Mitregate | System::MitregateGateOff => &[],
            System::StrongSwan => &["unshare", "nsenter", "swanctl"],
            System::WireGuard => &["unshare", "nsenter", "wg", "wireguard-go"],
        }
    }
}

/// Which end starts a rekey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Behind the NAT.
    Client,
    /// The other.
    Gateway,
}

/// Client and gateway at work.
pub enum Pair {
    /// With or without the gate.
    Mitregate([Daemon; 2]),
    /// See there.
    StrongSwan([Swan; 2]),
    /// See there.
    WireGuard([WireGuard; 2]),
}

impl Pair {
    /// The gateway, then the client, which brings the tunnel up by itself. `dpd`: strongSwan's
    /// `dpd_delay`.
    pub fn start(
        system: System,
        lab: &Lab,
        settings: &Settings,
        dpd: Duration,
        logs: &Path,
    ) -> Result<Self> {
        match system {
            System::Mitregate | System::MitregateGateOff => {
                let mut settings = settings.clone();
                if system == System::MitregateGateOff {
                    settings.gate = "off".into();
                }
                daemon::configure(lab, &settings)?;
                let mut gateway = Daemon::start(lab, Host::Gw, logs)?;
                gateway.wait_ready(PATIENCE)?;
                let mut client = Daemon::start(lab, Host::Client, logs)?;
                // With its answer its inner address is there.
                client.wait_ready(PATIENCE)?;
                Ok(Pair::Mitregate([client, gateway]))
            }
            System::StrongSwan => Ok(Pair::StrongSwan(strongswan(lab, dpd, logs)?)),
            System::WireGuard => Ok(Pair::WireGuard(wireguard::start(lab, logs)?)),
        }
    }

    /// An error once one of them has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self {
            Pair::Mitregate(pair) => pair.iter_mut().try_for_each(Daemon::check),
            Pair::StrongSwan(pair) => pair.iter_mut().try_for_each(Swan::check),
            Pair::WireGuard(pair) => pair.iter_mut().try_for_each(WireGuard::check),
        }
    }

    /// That end starts a rekey.
    pub fn rekey(&self, fault: Fault, by: End) -> Result<()> {
        let (what, name) = match fault {
            Fault::ChildRekey => ("--child", "net"),
            Fault::IkeRekey => ("--ike", "home"),
            _ => bail!("that is no rekey"),
        };
        match self {
            Pair::Mitregate(pair) => {
                let control = pair[by as usize].control();
                control.ask(&["rekey", what, name]).map(drop)
            }
            Pair::StrongSwan(pair) => pair[by as usize]
                .swanctl(&["--rekey", what, name])
                .map(drop),
            Pair::WireGuard(_) => bail!("WireGuard has neither"),
        }
    }

    /// What a rekey replaces, as each end sees it; none while it has more than one of it or none.
    pub fn spis(&self, fault: Fault) -> Result<Option<[String; 2]>> {
        let both: Vec<_> = match self {
            Pair::Mitregate(pair) => pair
                .iter()
                .map(|daemon| Ok(ours(&daemon.control().ask(&["list-sas"])?, fault)))
                .collect::<Result<_>>()?,
            Pair::StrongSwan(pair) => pair
                .iter()
                .map(|swan| Ok(theirs(&swan.sas()?, fault)))
                .collect::<Result<_>>()?,
            Pair::WireGuard(_) => bail!("WireGuard has neither"),
        };
        let both: Option<Vec<_>> = both.into_iter().collect();
        Ok(both.and_then(|both| both.try_into().ok()))
    }
}

/// In a `list-sas` answer of mitregate's.
fn ours(list: &Value, fault: Fault) -> Option<String> {
    let spis = |value: &Value, fields: [&str; 2]| fields.map(|f| value[f].to_string()).join(" ");
    let alive: Vec<_> = match fault {
        Fault::IkeRekey => {
            let all = list["ike_sas"].as_array()?.iter();
            all.map(|sa| spis(sa, ["spi_local", "spi_remote"]))
                .collect()
        }
        _ => epochs(list)
            .filter(|epoch| epoch["state"] != "dead")
            .map(|epoch| spis(epoch, ["spi_in", "spi_out"]))
            .collect(),
    };
    <[String; 1]>::try_from(alive).ok().map(|[only]| only)
}

/// In what `swanctl --list-sas` prints.
fn theirs(text: &str, fault: Fault) -> Option<String> {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let alive: Vec<_> = match fault {
        // home: #1, ESTABLISHED, IKEv2, 0f1e…_i* 2d3c…_r
        Fault::IkeRekey => lines
            .iter()
            .filter_map(|line| line.split_once(", ESTABLISHED, "))
            .map(|(_, rest)| rest.to_owned())
            .collect(),
        // net: #1, reqid 1, INSTALLED, …
        //   in  c0ffee00, …
        _ => {
            let installed = lines.iter().enumerate();
            installed
                .filter(|(_, line)| line.contains(", INSTALLED, "))
                .filter_map(|(at, _)| {
                    let rest = &lines[at..];
                    rest.iter().find_map(|line| line.strip_prefix("in "))
                })
                .map(|rest| rest.split(',').next().unwrap_or(rest).trim().to_owned())
                .collect()
        }
    };
    <[String; 1]>::try_from(alive).ok().map(|[only]| only)
}

fn strongswan(lab: &Lab, dpd: Duration, logs: &Path) -> Result<[Swan; 2]> {
    let release = Release {
        name: "5.9".into(),
        root: None,
    };
    // Its userspace ESP wants an own address in each protected network.
    lab.host(Host::Client)
        .ip(&format!("address add {CLIENT_INNER}/32 dev lo"))?;
    let secret = payload::random_hex(16)?;
    let start = |host: Host, conf: &str| {
        let conf = conf
            .replace("@DPD@", &dpd.as_secs().to_string())
            .replace("@SECRET@", &secret);
        swan::configure(lab, host, LEVELS, "", &conf)?;
        let logs: PathBuf = logs.join(host.name());
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        Swan::start(lab, host, &release, &logs)
    };
    let gateway = start(Host::Gw, include_str!("../../configs/swanctl-gateway.conf"))?;
    let client = start(
        Host::Client,
        include_str!("../../configs/swanctl-client.conf"),
    )?;
    Ok([client, gateway])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strongswans_list_is_understood() {
        let text = "home: #2, ESTABLISHED, IKEv2, 0f1e_i* 2d3c_r
  local  'client@lab' @ 192.168.1.2[4500]
  net: #3, reqid 1, REKEYED, TUNNEL-in-UDP, ESP:AES_GCM_16-256
    in  c0ffee00,   100 bytes,     1 packets
  net: #4, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-256
    installed 1s ago
    in  c0ffee01,      0 bytes,     0 packets
    out c0ffee02,      0 bytes,     0 packets
";
        let child = theirs(text, Fault::ChildRekey);
        assert_eq!(child.as_deref(), Some("c0ffee01"));
        let ike = theirs(text, Fault::IkeRekey);
        assert_eq!(ike.as_deref(), Some("IKEv2, 0f1e_i* 2d3c_r"));
        // Two of them: not settled yet.
        assert_eq!(theirs(&text.repeat(2), Fault::IkeRekey), None);
        assert_eq!(theirs("", Fault::ChildRekey), None);
    }
}
