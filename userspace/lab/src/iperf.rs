//! TCP throughput by iperf3.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::{interrupt, netns::Netns};

/// Beyond the measurement itself: connecting, exchanging results.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

/// One measurement, at the receiver.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tcp {
    /// 10⁹ payload bits a second.
    pub gbps: f64,
    /// Segments sent again.
    pub retransmits: u64,
}

/// An iperf3 server until dropped.
pub struct Server(Child);

impl Server {
    /// Start it on a host and wait until it listens.
    pub fn start(netns: &Netns, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = netns
            .command("iperf3")
            .args(["--server", "--forceflush"])
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("cannot start iperf3")?;
        let server = Server(child);
        interrupt::wait_for("iperf3's server", Duration::from_secs(5), || {
            Ok(fs::read_to_string(log)?
                .contains("Server listening")
                .then_some(()))
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measure from `netns` for so many seconds.
pub fn measure(netns: &Netns, to: &str, direction: Direction, seconds: u32) -> Result<Tcp> {
    let mut cmd = netns.command("iperf3");
    // The repeated digits are a marker for the leak check.
    cmd.args([
        "--client",
        to,
        "--json",
        "--repeating-payload",
        "--connect-timeout",
        "5000",
    ]);
    cmd.args(["--time", &seconds.to_string()]);
    if direction == Direction::Down {
        cmd.arg("--reverse");
    }
    let mut child = cmd.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdout = child.stdout.take().context("no stdout")?;
    let reader = std::thread::spawn(move || std::io::read_to_string(stdout));
    let limit = Duration::from_secs(seconds.into()) + PATIENCE;
    let ended = interrupt::wait_for("iperf3's client", limit, || Ok(child.try_wait()?));
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    ended?;
    let text = reader.join().unwrap_or_else(|_| Ok(String::new()))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Tcp> {
    let report: Value = serde_json::from_str(text).context("iperf3 printed no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(Tcp {
        gbps: bits.context("iperf3 reports no rate")? / 1e9,
        retransmits: report["end"]["sum_sent"]["retransmits"]
            .as_u64()
            .unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let text =
            r#"{"end":{"sum_sent":{"retransmits":3},"sum_received":{"bits_per_second":2.5e9}}}"#;
        let tcp = parse(text).unwrap();
        assert_eq!((tcp.gbps, tcp.retransmits), (2.5, 3));
        assert!(parse(r#"{"error":"unable to connect"}"#).is_err());
        assert!(parse("").is_err());
        assert!(parse("{}").is_err());
    }
}
