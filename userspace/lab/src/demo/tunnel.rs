//! The first act: one client, real traffic, a daemon that is killed, and a look at the wire.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Options, PATIENCE, leave, millis, say};
use crate::{
    capture::{Capture, Counts},
    daemon::{self, Daemon, Encap},
    flow::Flow,
    http, interrupt,
    iperf::{self, Direction},
    payload,
    ping::ping,
    report::{Crash, Report, thousands},
    topology::{CLIENT_INNER, GATEWAY_WAN, Host, Lab, NAT_WAN, PROTECTED_NET, SERVER},
};

const PINGS: u16 = 200;
const PING_INTERVAL: Duration = Duration::from_millis(10);
const FILE_BYTES: usize = 64 << 20;
/// Fewer ESP packets than that on the wire, and the capture has not seen the demo.
const ESP_AT_LEAST: u64 = 2000;
const DEAD: Duration = Duration::from_secs(2);
/// Fewer attempts than that while the daemon is dead prove nothing.
const ATTEMPTS_AT_LEAST: u64 = 200;

/// Lab up, scenario, daemons and lab down.
pub(super) fn run(options: &Options, logs: &Path, report: &mut Report) -> Result<()> {
    daemon::binary()?;
    print!("{}", picture(options.settings.encap));
    report.heading("one client behind the kernel's NAT");
    say("making four hosts in network namespaces");
    let lab = Lab::up(&options.name)?;
    daemon::configure(&lab, &options.settings)?;
    let marker = payload::new_marker()?;
    let mut demo = Demo {
        options,
        lab: &lab,
        logs,
        marker,
        report,
        client: None,
        gateway: None,
    };
    let result = demo.scenario();
    if options.keep {
        let daemons = demo.client.take().into_iter().chain(demo.gateway.take());
        leave(lab, daemons)?;
        return result;
    }
    result?;
    demo.end_daemons();
    lab.take_down()
}

fn picture(encap: Encap) -> String {
    let esp = match encap {
        Encap::Auto => "ESP in UDP 4500, once the NAT is detected",
        Encap::Udp => "ESP in UDP 4500",
        Encap::Esp => "plain ESP (IP protocol 50)",
    };
    format!(
        "
  client ───────────── NAT ─────────────── gateway ───────────── server
  192.168.1.2      masquerades       203.0.113.1 │ 10.2.0.1    10.2.0.2
  inside the tunnel: {CLIENT_INNER} ⇄ {PROTECTED_NET}, as {esp}

"
    )
}

struct Demo<'a> {
    options: &'a Options,
    lab: &'a Lab,
    logs: &'a Path,
    marker: [u8; 16],
    report: &'a mut Report,
    client: Option<Daemon>,
    gateway: Option<Daemon>,
}

impl Demo<'_> {
    fn scenario(&mut self) -> Result<()> {
        let server = self.lab.host(Host::Server);
        let file = self.logs.join("file");
        let sum = payload::write_file(&file, FILE_BYTES, &self.marker)?;
        let _http = http::Server::start(server, file, None)?;
        let _iperf = iperf::Server::start(server, &self.logs.join("iperf3.log"))?;
        let capture = Capture::start(
            self.lab.host(Host::Nat),
            "wan",
            [NAT_WAN.parse()?, GATEWAY_WAN.parse()?],
            vec![self.marker.to_vec(), payload::IPERF_PATTERN.to_vec()],
            self.logs.join("leaked.pcap"),
        )?;
        let result = self.traffic(&sum);
        let _ = fs::remove_file(self.logs.join("file"));
        // Whatever happened: what was on the wire?
        say("counting what was on the wire");
        let counts = capture.stop()?;
        self.judge(counts);
        result
    }

    fn traffic(&mut self, sum: &str) -> Result<()> {
        self.tunnel()?;
        if self.options.without_routes {
            self.take_routes_away()?;
        }
        self.pings()?;
        self.tcp(Direction::Up)?;
        if !self.options.without_routes {
            self.crash()?;
        }
        self.tcp(Direction::Down)?;
        self.file(sum)
    }

    /// Both daemons up, the epoch proven on both sides.
    fn tunnel(&mut self) -> Result<()> {
        say("starting two mitregate daemons, gateway first");
        let gateway = self
            .gateway
            .insert(Daemon::start(self.lab, Host::Gw, self.logs)?);
        gateway.wait_ready(PATIENCE)?;
        let client = self
            .client
            .insert(Daemon::start(self.lab, Host::Client, self.logs)?);
        let epoch = client.wait_epoch("proven", PATIENCE)?;
        let now = client.started.elapsed();
        gateway.wait_epoch("proven", PATIENCE)?;
        let [up, proven] = ["age_ms", "state_ms"]
            .map(|field| millis(now).saturating_sub(epoch[field].as_u64().unwrap_or(0)));
        let rtt = epoch["last_rtt_us"].as_u64();
        self.report.tunnel_up_ms = Some(up);
        self.report.epoch_proven_ms = Some(proven);
        self.report.ping_rtt_us = rtt;
        let text = format!("{up} ms after the client's start");
        self.report.row(true, "tunnel negotiated by IKEv2", text);
        let text = match rtt {
            Some(rtt) => format!("at {proven} ms; there and back in {rtt} µs"),
            None => "the daemon does not tell its time".to_owned(),
        };
        self.report
            .row(rtt.is_some(), "proven by a ping through both SAs", text);

        let stats = client.control().ask(&["stats"])?;
        let mode = stats["outer"]["xdp_mode"].as_str().map(str::to_owned);
        self.report.row(
            mode.is_some(),
            "XDP and AF_XDP in use",
            mode.as_deref().unwrap_or("the daemon does not tell"),
        );
        self.report.xdp_mode = mode;
        Ok(())
    }

    /// The sabotage that the leak check must notice: nothing leads into the tunnel any more, and
    /// nothing says "unreachable". The daemons would repair that at once, so they are paused.
    fn take_routes_away(&self) -> Result<()> {
        say("pausing the daemons and taking the tunnel's routes away");
        for daemon in self.client.iter().chain(&self.gateway) {
            daemon.pause()?;
        }
        for (host, prefix) in [(Host::Client, PROTECTED_NET), (Host::Gw, CLIENT_INNER)] {
            self.lab
                .host(host)
                .ip(&format!("route flush root {prefix}"))?;
        }
        Ok(())
    }

    fn pings(&mut self) -> Result<()> {
        say(&format!(
            "{PINGS} pings to the server, one per {} ms",
            PING_INTERVAL.as_millis()
        ));
        let (to, marker) = (SERVER.parse()?, self.marker);
        let pings = self
            .lab
            .host(Host::Client)
            .run(move || ping(to, PINGS, PING_INTERVAL, &marker))?;
        let times = pings.rtt_us.as_ref().map_or(String::new(), |rtt| {
            format!("; median {} µs, slowest {} µs", rtt.median, rtt.max)
        });
        let text = format!("{} of {} came back{times}", pings.received, pings.sent);
        self.report.row(
            pings.received == pings.sent,
            "pings through the tunnel",
            text,
        );
        self.report.icmp = pings;
        Ok(())
    }

    fn tcp(&mut self, direction: Direction) -> Result<()> {
        let (what, way) = match direction {
            Direction::Up => ("TCP, client to server", "up"),
            Direction::Down => ("TCP, server to client", "down"),
        };
        say(&format!("TCP {way} for {} s", self.options.seconds));
        let client = self.lab.host(Host::Client);
        let tcp = iperf::measure(client, SERVER, direction, self.options.seconds);
        interrupt::check()?;
        match tcp {
            Ok(tcp) => {
                let text = format!("{:.3} Gbit/s, {} retransmits", tcp.gbps, tcp.retransmits);
                self.report.row(tcp.gbps > 0.0, what, text);
                match direction {
                    Direction::Up => self.report.tcp_up_gbps = Some(tcp.gbps),
                    Direction::Down => self.report.tcp_down_gbps = Some(tcp.gbps),
                }
            }
            Err(error) => self.report.row(false, what, format!("{error:#}")),
        }
        Ok(())
    }

    /// SIGKILL for the client's daemon while applications on both sides keep sending.
    fn crash(&mut self) -> Result<()> {
        say(&format!(
            "killing the client's daemon for {} s",
            DEAD.as_secs()
        ));
        let flow = |host, to: &str| Flow::start(self.lab.host(host), to.parse()?, &self.marker);
        let (up, down) = (
            flow(Host::Client, SERVER)?,
            flow(Host::Server, CLIENT_INNER)?,
        );
        interrupt::sleep(Duration::from_millis(300))?;

        self.client.take().context("no client")?.kill()?;
        let killed = Instant::now();
        let before = (up.so_far(), down.so_far());
        interrupt::sleep(DEAD)?;
        let (client, server) = (up.so_far() - before.0, down.so_far() - before.1);
        let dead_ms = millis(killed.elapsed());

        say("starting it again");
        let daemon = self
            .client
            .insert(Daemon::start(self.lab, Host::Client, self.logs)?);
        daemon.wait_epoch("proven", PATIENCE)?;
        let proven_again_ms = millis(daemon.started.elapsed());
        // The applications have not stopped: let them use the tunnel again.
        interrupt::sleep(Duration::from_millis(300))?;
        up.stop()?;
        down.stop()?;

        let text = format!(
            "for {dead_ms} ms; {} sends tried on the client, {} refused",
            client.attempts, client.refused
        );
        self.report.row(
            client.attempts >= ATTEMPTS_AT_LEAST,
            "client's daemon killed",
            text,
        );
        let text = format!("proven again {proven_again_ms} ms after its start");
        self.report.row(true, "daemon started again", text);
        self.report.crash = Some(Crash {
            dead_ms,
            client,
            server,
            proven_again_ms,
        });
        Ok(())
    }

    fn file(&mut self, sum: &str) -> Result<()> {
        let what = "random file over HTTP";
        say(&format!("fetching {} MiB over HTTP", FILE_BYTES >> 20));
        let from: Ipv4Addr = SERVER.parse()?;
        let fetched = self.lab.host(Host::Client).run(move || http::fetch(from));
        interrupt::check()?;
        match fetched {
            Ok(fetched) => {
                let same = fetched.sha256 == sum;
                let verdict = if same {
                    "SHA-256 matches"
                } else {
                    "SHA-256 DIFFERS"
                };
                let text = format!(
                    "{} MiB in {:.1} s, {verdict}",
                    fetched.bytes >> 20,
                    fetched.seconds
                );
                self.report.row(same, what, text);
                self.report.file_ok = same;
                self.report.file = Some(fetched);
            }
            Err(error) => self.report.row(false, what, format!("{error:#}")),
        }
        Ok(())
    }

    /// The leak check.
    fn judge(&mut self, counts: Counts) {
        let (esp, other) = match self.options.settings.encap {
            Encap::Auto | Encap::Udp => (counts.esp_in_udp, counts.esp),
            Encap::Esp => (counts.esp, counts.esp_in_udp),
        };
        let text = format!("{}, {} missed", thousands(esp), counts.dropped);
        let seen = (esp >= ESP_AT_LEAST || self.options.without_routes) && counts.dropped == 0;
        self.report
            .row(seen, "ESP packets seen outside the NAT", text);
        self.report
            .row(other == 0, "in the other encapsulation", thousands(other));
        let mut text = thousands(counts.cleartext);
        for (what, count) in &counts.examples {
            text += &format!("; {what} ({count})");
        }
        self.report
            .row(counts.cleartext == 0, "packets in clear there", text);
        self.report.cleartext_packets_on_wan = Some(counts.cleartext);
        self.report.capture = Some(counts);
    }

    fn end_daemons(&mut self) {
        say("ending both daemons in order");
        for daemon in self.client.iter().chain(&self.gateway) {
            let _ = daemon.resume();
        }
        let daemons = [self.client.take(), self.gateway.take()];
        let ends = daemons.map(|daemon| {
            daemon
                .context("it is not there")
                .and_then(Daemon::terminate)
        });
        let error = ends.into_iter().find_map(Result::err);
        let text = error
            .as_ref()
            .map_or("exit code 0".to_owned(), |error| format!("{error:#}"));
        self.report
            .row(error.is_none(), "both daemons ended in order", text);
    }
}
