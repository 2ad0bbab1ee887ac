//! Linux's own NAT: `conntrack -F` is its crash, another rule its remap.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Shown;
use crate::{netns::Netns, sh, topology::NAT_WAN};

/// Where ports are drawn from after a change, in turns.
const RANGES: [&str; 2] = ["20000-29999", "40000-49999"];

/// The NAT in a namespace with the rules of `configs/nat.nft`.
#[derive(Clone, Debug)]
pub struct Kernel(Netns);

impl Kernel {
    pub fn new(netns: &Netns) -> Self {
        Kernel(netns.clone())
    }

    pub fn crash(&self) -> Result<()> {
        self.conntrack(&["-F"]).map(drop)
    }

    pub fn remap(&self, address: Option<Ipv4Addr>, ports: bool) -> Result<()> {
        let rules = self.rules()?;
        let address = address.unwrap_or(public(&rules)?);
        let now = RANGES.iter().position(|range| rules.contains(range));
        let range = match (ports, now) {
            (true, now) => Some(RANGES[now.map_or(0, |now| now + 1) % RANGES.len()]),
            (false, now) => now.map(|now| RANGES[now]),
        };
        let udp = range.map_or(String::new(), |range| {
            format!("add rule ip nat postrouting oifname wan meta l4proto udp snat to {address}:{range}\n")
        });
        let text = format!(
            "flush chain ip nat postrouting\n{udp}add rule ip nat postrouting oifname wan snat to {address}\n"
        );
        sh::feed(self.0.command("nft").args(["-f", "-"]), &text)?;
        self.crash()
    }

    pub fn show(&self) -> Result<Shown> {
        let table = self.conntrack(&["-L"])?;
        Ok(Shown {
            public: Some(IpAddr::V4(public(&self.rules()?)?)),
            entries: table.lines().map(Value::from).collect(),
            table,
            ..Shown::default()
        })
    }

    fn rules(&self) -> Result<String> {
        sh::output(
            self.0
                .command("nft")
                .args(["list", "chain", "ip", "nat", "postrouting"]),
        )
    }

    fn conntrack(&self, arguments: &[&str]) -> Result<String> {
        sh::output(self.0.command("conntrack").args(arguments))
    }
}

/// The address that those rules give to what leaves.
fn public(rules: &str) -> Result<Ipv4Addr> {
    let word = rules.split("snat to ").nth(1).map_or(NAT_WAN, |rest| {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit());
        &rest[..end.unwrap_or(rest.len())]
    });
    word.parse()
        .with_context(|| format!("an odd address in the NAT's rules: {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_address_is_read_from_the_rules() {
        let chain =
            |rule: &str| format!("table ip nat {{\n\tchain postrouting {{\n\t\t{rule}\n\t}}\n}}\n");
        for (rule, address) in [
            ("oifname \"wan\" masquerade", NAT_WAN),
            ("oifname \"wan\" snat to 203.0.113.4", "203.0.113.4"),
            (
                "oifname \"wan\" meta l4proto udp snat to 203.0.113.5:20000-29999",
                "203.0.113.5",
            ),
        ] {
            assert_eq!(public(&chain(rule)).unwrap().to_string(), address);
        }
        assert!(public("snat to @map").is_err());
    }
}
