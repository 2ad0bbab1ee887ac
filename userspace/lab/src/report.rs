//! What the demo found, for machines (JSON) and for people (a table).

use std::{fs, path::Path};

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

#[derive(Debug)]
struct Row {
    good: bool,
    what: &'static str,
    result: String,
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
    pub fn row(&mut self, good: bool, what: &'static str, result: impl Into<String>) {
        let result = result.into();
        if !good {
            self.failures.push(format!("{what}: {result}"));
        }
        self.rows.push(Row { good, what, result });
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
            .map(|row| row.what.chars().count())
            .max()
            .unwrap_or(0);
        println!();
        for Row { good, what, result } in &self.rows {
            let mark = if *good { "✓" } else { "✗" };
            println!("  {mark} {what:<width$}   {result}");
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
