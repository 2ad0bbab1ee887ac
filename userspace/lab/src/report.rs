//! What the demo found, for machines (JSON) and for people (a table).

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{capture::Counts, daemon::Settings, flow::Attempts, http::Fetched, ping::Pings};

/// Times count from the start of the client's daemon.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Everything was as it should be.
    pub ok: bool,
    /// What had to be on the wire: `udp` or `esp`.
    pub encap: &'static str,
    /// Who computed the AEAD.
    pub provider: String,
    /// ESP's cipher.
    pub suite: String,
    /// Both SAs of the first epoch installed.
    pub tunnel_up_ms: Option<u64>,
    /// The client's ping came back through both of them.
    pub epoch_proven_ms: Option<u64>,
    /// Round-trip time of the gate's ping, in ESP.
    pub ping_rtt_us: Option<u64>,
    /// Inner pings.
    pub icmp: Pings,
    /// TCP client to server, 10⁹ bit/s at the receiver.
    pub tcp_up_gbps: Option<f64>,
    /// TCP server to client, 10⁹ bit/s at the receiver.
    pub tcp_down_gbps: Option<f64>,
    /// The file came with the SHA-256 that it was made with.
    pub file_ok: bool,
    /// How the file came.
    pub file: Option<Fetched>,
    /// Where XDP runs on the client's outer port: `native` or `generic`.
    pub xdp_mode: Option<String>,
    /// What happened while the client's daemon was dead.
    pub crash: Option<Crash>,
    /// See [`Counts::cleartext`]. Must be 0.
    pub cleartext_packets_on_wan: Option<u64>,
    /// Everything seen outside the NAT.
    pub capture: Option<Counts>,
    /// Two clients behind a NAT that crashes: the longest time without an arrival from then on, ms,
    /// by client and direction; null: nothing arrived any more. None: that part did not run.
    pub nat_crash_outage_ms: Option<BTreeMap<String, Outage>>,
    /// Their downloads, during which that happened, came with the right SHA-256.
    pub nat_crash_files_ok: Option<bool>,
    /// Packets lost while both clients rekeyed under probes both ways.
    pub rekey_lost_packets: Option<usize>,
    /// What brought their tunnels back, by kind, as the clients' daemons count it.
    pub recoveries: Option<BTreeMap<String, u64>>,
    /// Why `ok` is false.
    pub failures: Vec<String>,
    #[serde(skip)]
    rows: Vec<Row>,
}

/// The client's daemon killed while applications keep trying.
#[derive(Debug, Default, Serialize)]
pub struct Crash {
    /// How long no daemon ran.
    pub dead_ms: u64,
    /// What applications on the client and on the server tried in that time.
    pub client: Attempts,
    /// See `client`.
    pub server: Attempts,
    /// From the new daemon's start until its epoch was proven.
    pub proven_again_ms: u64,
}

/// In milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Outage {
    /// From the client to the server.
    pub c2s: Option<u64>,
    /// From the server to the client.
    pub s2c: Option<u64>,
}

#[derive(Debug)]
enum Row {
    Heading(&'static str),
    Result {
        good: bool,
        what: String,
        result: String,
    },
}

impl Report {
    /// Nothing found yet.
    pub fn of(settings: &Settings) -> Self {
        let Settings {
            encap,
            provider,
            suite,
            ..
        } = settings.clone();
        Report {
            encap: encap.on_the_wire(),
            provider,
            suite,
            ..Report::default()
        }
    }

    /// One line of the table; a bad one is a failure.
    pub fn row(&mut self, good: bool, what: impl Into<String>, result: impl Into<String>) {
        let (what, result) = (what.into(), result.into());
        if !good {
            self.failures.push(format!("{what}: {result}"));
        }
        self.rows.push(Row::Result { good, what, result });
    }

    /// What the rows that follow are about.
    pub fn heading(&mut self, what: &'static str) {
        self.rows.push(Row::Heading(what));
    }

    /// An error that ended a part.
    pub fn note(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.failures.insert(0, format!("{error:#}"));
        }
    }

    /// For machines.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// For people.
    pub fn print(&self) {
        let width = self
            .rows
            .iter()
            .filter_map(|row| match row {
                Row::Heading(_) => None,
                Row::Result { what, .. } => Some(what.chars().count()),
            })
            .max()
            .unwrap_or(0);
        for row in &self.rows {
            match row {
                Row::Heading(what) => println!("\n  {what}"),
                Row::Result { good, what, result } => {
                    let mark = if *good { "✓" } else { "✗" };
                    println!("  {mark} {what:<width$}   {result}");
                }
            }
        }
        println!();
        for failure in &self.failures {
            println!("FAILED  {failure}");
        }
        if self.ok {
            println!("OK: everything went through the tunnel, and nothing beside it.");
        }
    }
}

/// 1234567 → "1 234 567".
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(String::from_utf8_lossy)
        .collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(thousands),
            ["0", "999", "1 000", "1 234 567"]
        );
    }

    #[test]
    fn the_promised_fields_are_there() {
        let json = serde_json::to_value(Report::default()).unwrap();
        for field in [
            "ok",
            "encap",
            "tunnel_up_ms",
            "epoch_proven_ms",
            "ping_rtt_us",
            "icmp",
            "tcp_up_gbps",
            "tcp_down_gbps",
            "file_ok",
            "xdp_mode",
            "cleartext_packets_on_wan",
            "nat_crash_outage_ms",
            "rekey_lost_packets",
            "recoveries",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!(json["icmp"]["sent"], 0);
        assert_eq!(json["icmp"]["received"], 0);
    }

    #[test]
    fn a_bad_row_is_a_failure() {
        let mut report = Report::default();
        report.row(true, "this", "went well");
        report.row(false, "that", "did not");
        assert_eq!(report.failures, ["that: did not"]);
    }
}
