//! `mitregate ping`, in the words of ping(8).

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::client;
use crate::protocol::Request;

pub fn run(
    socket: &Path,
    tunnel: &str,
    count: u32,
    interval: Duration,
    size: u16,
    json: bool,
) -> Result<ExitCode> {
    let request = Request::Ping {
        tunnel: tunnel.to_owned(),
        count,
        interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
        size: size.into(),
    };
    let mut replies = Vec::new();
    if !json {
        writeln!(
            io::stdout(),
            "PING {tunnel}: {size} bytes of data through ESP"
        )?;
    }
    let result = client::ask(socket, &request, None, |progress| {
        if json {
            replies.push(progress.clone());
        } else {
            writeln!(io::stdout(), "{}", line(progress))?;
        }
        Ok(())
    })?;
    let received = result["received"].as_u64().unwrap_or(0);
    if json {
        let all =
            json!({"ok": received > 0, "tunnel": tunnel, "replies": replies, "statistics": result});
        writeln!(io::stdout(), "{all:#}")?;
    } else {
        write!(io::stdout(), "{}", summary(tunnel, &result))?;
    }
    Ok(if received > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn line(progress: &Value) -> String {
    let seq = &progress["seq"];
    match progress["rtt_us"].as_u64() {
        Some(rtt) => format!(
            "{} bytes: epoch={} seq={seq} time={} ms",
            progress["size"],
            progress["epoch"],
            millis(rtt)
        ),
        None => format!("no answer: seq={seq}"),
    }
}

fn summary(tunnel: &str, result: &Value) -> String {
    let number = |key: &str| result[key].as_u64().unwrap_or(0);
    let (sent, received) = (number("sent"), number("received"));
    let lost = sent.saturating_sub(received) * 100 / sent.max(1);
    let mut text = format!(
        "--- {tunnel} ping statistics ---\n{sent} sent, {received} received, {lost}% lost\n"
    );
    if received > 0 {
        let times = ["min_us", "avg_us", "max_us", "mdev_us"].map(|key| millis(number(key)));
        text += &format!("rtt min/avg/max/mdev = {} ms\n", times.join("/"));
    }
    text
}

fn millis(micros: u64) -> String {
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_ping() {
        let reply = json!({"epoch": 3, "seq": 0, "rtt_us": 1234, "size": 56});
        assert_eq!(line(&reply), "56 bytes: epoch=3 seq=0 time=1.234 ms");
        assert_eq!(line(&json!({"seq": 1})), "no answer: seq=1");
        let result = json!({
            "sent": 3, "received": 2, "min_us": 900, "avg_us": 1000, "max_us": 1100, "mdev_us": 50
        });
        assert_eq!(
            summary("net", &result),
            "--- net ping statistics ---\n3 sent, 2 received, 33% lost\n\
             rtt min/avg/max/mdev = 0.900/1.000/1.100/0.050 ms\n"
        );
    }
}
