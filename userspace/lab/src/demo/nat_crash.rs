//! The second act: two clients behind a NAT that knows ESP by its SPIs, both in the middle of a
//! download when it loses its tables; then fresh keys under a probe.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::Path,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Options, PATIENCE, leave, millis, say};
use crate::{
    capture::{Capture, Counts},
    daemon::{self, Daemon, Encap, Settings},
    http::{self, Fetched},
    interrupt,
    nat::Model,
    netns::join,
    payload,
    probe::{Probe, Trace},
    report::{Outage, Report, thousands},
    topology::{Host, Lab, Middle, NAT_LAN, PROTECTED_NET, Plan, SERVER},
};

const CLIENTS: u8 = 2;
/// Both downloads take this long, or longer with a crash in the middle.
const DOWNLOAD: Duration = Duration::from_secs(8);
const PACE: u64 = 3 << 20;
/// From the downloads' start to the crash.
const CALM: Duration = Duration::from_secs(2);
/// Between two datagrams of a probe while the NAT crashes, and while keys are changed.
const CRASH_PROBE: Duration = Duration::from_millis(10);
const REKEY_PROBE: Duration = Duration::from_millis(4);
/// Silence at a probe's end from which on it counts as broken, not as between two datagrams.
const BROKEN: Duration = Duration::from_secs(1);
/// Before and after a rekey.
const MARGIN: Duration = Duration::from_millis(500);
/// The first port for probes.
const PORT: u16 = 7100;

/// Lab up, scenario, daemons and lab down.
pub(super) fn run(options: &Options, logs: &Path, report: &mut Report) -> Result<()> {
    daemon::binary()?;
    let settings = Settings {
        encap: match options.settings.encap {
            Encap::Udp => Encap::Udp,
            Encap::Esp | Encap::Auto => Encap::Esp,
        },
        ..options.settings.clone()
    };
    print!("{}", picture(settings.encap));
    report.heading("two clients behind one vpn-masquerade NAT");
    say("making five hosts in network namespaces, a NAT of the model vpn-masquerade among them");
    let plan = Plan {
        middle: Middle::Model(Model::VpnMasquerade),
        clients: CLIENTS,
        detached: options.keep,
    };
    let lab = Lab::up_with(&format!("{}-two", options.name), plan)?;
    daemon::configure(&lab, &settings)?;
    let mut act = Act {
        lab: &lab,
        encap: settings.encap,
        logs,
        report,
        gateway: None,
        clients: Vec::new(),
    };
    let result = act.scenario();
    if options.keep {
        let daemons = act.clients.drain(..).map(|(_, daemon)| daemon);
        let daemons: Vec<_> = daemons.chain(act.gateway.take()).collect();
        leave(lab, daemons)?;
        return result;
    }
    result?;
    act.end_daemons();
    lab.take_down()
}

fn picture(encap: Encap) -> String {
    let esp = match encap {
        Encap::Udp => "ESP in UDP 4500",
        Encap::Esp | Encap::Auto => "plain ESP (IP protocol 50)",
    };
    format!(
        "
  client  192.168.1.2 ─┐
                       ├─ NAT ─────────── gateway ───────────── server
  client2 192.168.1.3 ─┘     203.0.113.1 │ 10.2.0.1    10.2.0.2
  inside the tunnels: 10.1.0.1 and 10.1.0.2 ⇄ {PROTECTED_NET}, as {esp}

"
    )
}

/// One client's probes, from it and to it.
struct Probes {
    client: Host,
    c2s: Probe,
    s2c: Probe,
}

struct Act<'a> {
    lab: &'a Lab,
    encap: Encap,
    logs: &'a Path,
    report: &'a mut Report,
    gateway: Option<Daemon>,
    clients: Vec<(Host, Daemon)>,
}

impl Act<'_> {
    fn scenario(&mut self) -> Result<()> {
        let file = self.logs.join("file");
        let marker = payload::new_marker()?;
        let bytes = usize::try_from(PACE * DOWNLOAD.as_secs())?;
        let sum = payload::write_file(&file, bytes, &marker)?;
        let server = self.lab.host(Host::Server);
        let _http = http::Server::start(server, file.clone(), Some(PACE))?;
        let capture = Capture::start(
            self.lab.host(Host::Nat),
            // Before the NAT, which lets nothing through that it does not know.
            "lan",
            [NAT_LAN.parse()?, NAT_LAN.parse()?],
            vec![marker.to_vec()],
            self.logs.join("leaked.pcap"),
        )?;
        let result = self.traffic(&sum);
        let _ = fs::remove_file(file);
        let counts = capture.stop()?;
        self.judge(&counts);
        result
    }

    fn traffic(&mut self, sum: &str) -> Result<()> {
        self.tunnels()?;
        self.crash(sum)?;
        self.rekey()
    }

    fn tunnels(&mut self) -> Result<()> {
        say("starting the gateway's daemon, then both clients' at once");
        let gateway = self
            .gateway
            .insert(Daemon::start(self.lab, Host::Gw, self.logs)?);
        gateway.wait_ready(PATIENCE)?;
        for client in self.lab.clients() {
            let daemon = Daemon::start(self.lab, client, self.logs)?;
            self.clients.push((client, daemon));
        }
        let mut told = Vec::new();
        for (client, daemon) in &mut self.clients {
            let epoch = daemon.wait_epoch("proven", PATIENCE)?;
            let proven = daemon.started.elapsed();
            let ago = Duration::from_millis(epoch["state_ms"].as_u64().unwrap_or(0));
            told.push(format!(
                "{client} at {} ms",
                millis(proven.saturating_sub(ago))
            ));
        }
        self.report
            .row(true, "both tunnels proven", told.join(", "));
        Ok(())
    }

    /// A probe each way for each client, one datagram per `pace` or a little more: in step, each
    /// client's answer would always follow its question, which is what a NAT that guesses hopes for.
    fn probes(&self, pace: Duration, port: u16) -> Result<Vec<Probes>> {
        let server: Ipv4Addr = SERVER.parse()?;
        let right = (self.lab.host(Host::Server), server);
        let clients = self.clients.iter().zip(port..);
        clients
            .map(|((client, _), port)| {
                let inner = client.inner().context("a client has an inner address")?;
                let left = (self.lab.host(*client), inner);
                let slower = |by: u32| pace + pace * by / 20;
                let out_of_step = 2 * u32::from(port % 2);
                Ok(Probes {
                    client: *client,
                    c2s: Probe::start(left, right, port, None, slower(out_of_step))?,
                    s2c: Probe::start(right, left, port, None, slower(out_of_step + 1))?,
                })
            })
            .collect()
    }

    fn crash(&mut self, sum: &str) -> Result<()> {
        say(&format!(
            "both clients fetch {} MiB at {} MiB/s; probes each way, some {} packets a second each",
            (PACE * DOWNLOAD.as_secs()) >> 20,
            PACE >> 20,
            1000 / CRASH_PROBE.as_millis(),
        ));
        let probes = self.probes(CRASH_PROBE, PORT)?;
        let downloads = self.downloads()?;
        interrupt::sleep(CALM)?;
        let before = self.recoveries()?;
        say("the NAT crashes: all its tables are lost");
        let nat = self.lab.nat()?;
        let crashed = Instant::now();
        nat.crash()?;
        let mut all_good = true;
        for (client, download) in downloads {
            let fetched = join(download);
            interrupt::check()?;
            let (good, text) = match fetched {
                Ok(Fetched {
                    sha256,
                    bytes,
                    seconds,
                }) => {
                    let same = sha256 == sum;
                    let verdict = if same {
                        "SHA-256 matches"
                    } else {
                        "SHA-256 DIFFERS"
                    };
                    (
                        same,
                        format!("{} MiB in {seconds:.1} s, {verdict}", bytes >> 20),
                    )
                }
                Err(error) => (false, format!("{error:#}")),
            };
            all_good &= good;
            self.report
                .row(good, format!("{client}'s download, the NAT crashing"), text);
        }
        self.report.nat_crash_files_ok = Some(all_good);
        let mut outages = BTreeMap::new();
        for (client, [c2s, s2c]) in traces(probes)? {
            let outage = Outage {
                c2s: outage_ms(&c2s, crashed),
                s2c: outage_ms(&s2c, crashed),
            };
            let told = |ms: Option<u64>| ms.map_or("for good".to_owned(), |ms| format!("{ms} ms"));
            let text = format!(
                "{} to the server, {} from it",
                told(outage.c2s),
                told(outage.s2c)
            );
            let good = outage.c2s.is_some() && outage.s2c.is_some();
            self.report
                .row(good, format!("{client} cut off by it"), text);
            outages.insert(client.name(), outage);
        }
        self.report.nat_crash_outage_ms = Some(outages);
        let mut recoveries = self.recoveries()?;
        for (kind, count) in &mut recoveries {
            *count -= before.get(kind).copied().unwrap_or(0).min(*count);
        }
        let told: Vec<_> = recoveries
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(kind, count)| format!("{count} by {}", kind.replace('_', " ")))
            .collect();
        let text = match told.is_empty() {
            true => "not needed: the NAT learnt both anew from their traffic".to_owned(),
            false => told.join(", "),
        };
        self.report.row(true, "tunnels brought back", text);
        self.report.recoveries = Some(recoveries);
        Ok(())
    }

    fn downloads(&self) -> Result<Vec<(Host, JoinHandle<Result<Fetched>>)>> {
        let from: Ipv4Addr = SERVER.parse()?;
        let clients = self.clients.iter().map(|(client, _)| *client);
        clients
            .map(|client| {
                Ok((
                    client,
                    self.lab.host(client).spawn(move || http::fetch(from))?,
                ))
            })
            .collect()
    }

    /// What brought the clients' tunnels back so far, by kind.
    fn recoveries(&self) -> Result<BTreeMap<String, u64>> {
        let mut sum = BTreeMap::new();
        for (_, daemon) in &self.clients {
            let list = daemon.control().ask(&["list-sas"])?;
            for tunnel in list["tunnels"].as_array().into_iter().flatten() {
                let kinds = tunnel["gate"]["recoveries"].as_object();
                for (kind, count) in kinds.into_iter().flatten() {
                    *sum.entry(kind.clone()).or_default() += count.as_u64().unwrap_or(0);
                }
            }
        }
        Ok(sum)
    }

    fn rekey(&mut self) -> Result<()> {
        say("both clients rekey under the probes");
        let probes = self.probes(REKEY_PROBE, PORT + u16::from(CLIENTS))?;
        interrupt::sleep(MARGIN)?;
        for (client, daemon) in &mut self.clients {
            let old = proven_spi(&daemon.control().ask(&["list-sas"])?);
            daemon.control().ask(&["rekey", "--child", "net"])?;
            let what = format!("{client}'s data to go by a fresh SPI");
            interrupt::wait_for(&what, PATIENCE, || {
                daemon.check()?;
                let now = proven_spi(&daemon.control().ask(&["list-sas"])?);
                Ok((now.is_some() && now != old).then_some(()))
            })?;
        }
        interrupt::sleep(MARGIN)?;
        let (mut sent, mut lost) = (0, 0);
        for trace in traces(probes)?.iter().flat_map(|(_, traces)| traces) {
            let tally = trace.tally();
            sent += tally.sent;
            lost += tally.sent - tally.received;
        }
        let text = format!("{lost} of {} packets lost", thousands(sent as u64));
        self.report.row(lost == 0, "rekeyed under the probes", text);
        self.report.rekey_lost_packets = Some(lost);
        Ok(())
    }

    fn judge(&mut self, counts: &Counts) {
        let (esp, other) = match self.encap {
            Encap::Udp => (counts.esp_in_udp, counts.esp),
            Encap::Esp | Encap::Auto => (counts.esp, counts.esp_in_udp),
        };
        let text = format!(
            "{}, {} in the other encapsulation",
            thousands(esp),
            thousands(other)
        );
        self.report.row(
            esp > 0 && other == 0,
            "ESP packets seen before the NAT",
            text,
        );
        let mut text = thousands(counts.cleartext);
        for (what, count) in &counts.examples {
            text += &format!("; {what} ({count})");
        }
        let good = counts.cleartext == 0 && counts.dropped == 0;
        self.report.row(good, "packets in clear there", text);
    }

    fn end_daemons(&mut self) {
        say("ending all daemons in order");
        let clients = self.clients.drain(..).map(|(_, daemon)| daemon);
        let ends = clients.chain(self.gateway.take()).map(Daemon::terminate);
        let error = ends.collect::<Vec<_>>().into_iter().find_map(Result::err);
        let text = error
            .as_ref()
            .map_or("exit code 0".to_owned(), |error| format!("{error:#}"));
        self.report
            .row(error.is_none(), "all daemons ended in order", text);
    }
}

/// Ends all probes: each client's traces, from it and to it.
fn traces(probes: Vec<Probes>) -> Result<Vec<(Host, [Trace; 2])>> {
    let clients: Vec<_> = probes.iter().map(|probes| probes.client).collect();
    let probes = probes.into_iter().flat_map(|both| [both.c2s, both.s2c]);
    let mut traces = Probe::traces(probes)?.into_iter();
    let pairs = clients.into_iter().map_while(|client| {
        let pair = [traces.next()?, traces.next()?];
        Some((client, pair))
    });
    Ok(pairs.collect())
}

/// The longest time without an arrival from then on, milliseconds; None: there was none any more.
fn outage_ms(trace: &Trace, from: Instant) -> Option<u64> {
    let until = *trace.sent.last()?;
    let (start, length) = trace.longest_gap(from, until);
    let for_good = length > BROKEN && start + length >= until;
    (!for_good).then(|| millis(length))
}

/// The SPI of the epoch that carries data.
fn proven_spi(list: &Value) -> Option<String> {
    let mut epochs = daemon::epochs(list);
    let proven = epochs.find(|epoch| epoch["state"] == "proven")?;
    proven["spi_out"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_ends_with_an_arrival_or_not_at_all() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let sent: Vec<_> = (0..400).map(|n| at(n * 10)).collect();
        let trace = |gone: std::ops::Range<usize>| Trace {
            arrived: (0..400)
                .map(|n| (!gone.contains(&n)).then_some(sent[n]))
                .collect(),
            sent: sent.clone(),
            duplicates: 0,
        };
        assert_eq!(outage_ms(&trace(0..0), at(1000)), Some(10));
        assert_eq!(outage_ms(&trace(100..251), at(1000)), Some(1510));
        assert_eq!(outage_ms(&trace(100..400), at(1000)), None);
    }

    #[test]
    fn the_proven_epoch_is_found() {
        let list = serde_json::json!({ "tunnels": [{ "epochs": [
            { "state": "draining", "spi_out": "1" }, { "state": "proven", "spi_out": "2" },
        ]}]});
        assert_eq!(proven_spi(&list).as_deref(), Some("2"));
        assert_eq!(proven_spi(&Value::Null), None);
    }
}
