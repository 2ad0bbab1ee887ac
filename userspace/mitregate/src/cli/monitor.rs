//! `mitregate monitor` for people: a line for each event.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

use super::client;
use crate::protocol::Request;

pub fn run(socket: &Path, about: Option<String>, json: bool) -> Result<ExitCode> {
    let request = Request::Monitor { about };
    client::ask(socket, &request, None, |event| {
        let mut out = io::stdout().lock();
        if json {
            writeln!(out, "{event}")?;
        } else {
            writeln!(out, "{}", line(event))?;
        }
        Ok(out.flush()?)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn line(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or("?");
    let about = event["tunnel"]
        .as_str()
        .or(event["connection"].as_str())
        .unwrap_or("-");
    let epoch = event["epoch"]
        .as_u64()
        .map_or(String::new(), |epoch| format!(" epoch {epoch}"));
    let what = match text("event") {
        "listening" => "listening; Ctrl-C ends".to_owned(),
        "ike-established" => format!("IKE SA with {} established", text("peer_id")),
        "ike-rekeyed" => "IKE SA rekeyed".to_owned(),
        "ike-down" => format!("IKE SA down: {}", text("reason")),
        "virtual-addresses" => format!(
            "virtual addresses {}, DNS {}",
            list(&event["addresses"]),
            list(&event["dns"])
        ),
        "epoch" => format!("{} -> {}", text("from"), text("to")),
        "gate" => match text("action") {
            "ping" => format!("pinging: {}", text("why")),
            "activate" => format!("open for data: {}", text("why")),
            "rekey" => format!("asking for a rekey: {}", text("why")),
            _ => format!("asking for a new IKE SA: {}", text("why")),
        },
        "ping-answered" => format!("ping answered after {}", millis(&event["rtt_us"])),
        "ping-lost" => format!("ping lost, {} in a row", event["in_a_row"]),
        "encap-changed" => format!("encapsulation is {} now: {}", text("to"), text("why")),
        "path-mtu" => format!(
            "packets up to {} bytes, {} outside: {}",
            event["inner"],
            event["outer"],
            text("why")
        ),
        "recovered" => format!(
            "path proven again by {} after {} ms",
            text("by"),
            event["outage_ms"]
        ),
        "unproven" => "data flows on a path that is not proven".to_owned(),
        "echo-refused" => format!("the peer's ping was not answered: {}", text("why")),
        _ => other(event),
    };
    format!("{} {about}{epoch}: {what}", clock(&event["unix_us"]))
}

/// An event of a newer daemon: its fields as they are.
fn other(event: &Value) -> String {
    let mut all = event["event"].as_str().unwrap_or("?").to_owned();
    for (key, value) in event.as_object().into_iter().flatten() {
        if ![
            "event",
            "tunnel",
            "connection",
            "epoch",
            "unix_us",
            "boottime_us",
        ]
        .contains(&key.as_str())
        {
            let _ = write!(all, " {key}={value}");
        }
    }
    all
}

fn list(values: &Value) -> String {
    let words: Vec<_> = values
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(", ")
    }
}

fn millis(micros: &Value) -> String {
    let micros = micros.as_u64().unwrap_or(0);
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

/// Time of day, UTC.
fn clock(unix_us: &Value) -> String {
    let us = unix_us.as_u64().unwrap_or(0);
    let seconds = us / 1_000_000 % 86_400;
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{h:02}:{m:02}:{s:02}.{:03}", us / 1000 % 1000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines() {
        let at = 1_700_000_000_123_456_u64;
        for (event, expected) in [
            (
                json!({"event": "epoch", "tunnel": "home/net", "epoch": 3, "from": "probing", "to": "proven"}),
                "home/net epoch 3: probing -> proven",
            ),
            (
                json!({"event": "recovered", "tunnel": "home/net", "by": "re-ping", "outage_ms": 250}),
                "home/net: path proven again by re-ping after 250 ms",
            ),
            (
                json!({"event": "ike-down", "connection": null, "reason": "timeout"}),
                "-: IKE SA down: timeout",
            ),
            (
                json!({"event": "gate", "action": "rekey", "tunnel": "home/net", "epoch": null, "why": "pings went unanswered"}),
                "home/net: asking for a rekey: pings went unanswered",
            ),
            (
                json!({"event": "new-thing", "tunnel": "home/net", "size": 7}),
                "home/net: new-thing size=7",
            ),
        ] {
            let mut event = event;
            event["unix_us"] = at.into();
            assert_eq!(line(&event), format!("22:13:20.123 {expected}"));
        }
    }
}
