//! `lab probe`: is each client's tunnel there, second by second?

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    interrupt,
    probe::{Probe, Trace},
    topology::{Host, Lab, SERVER},
};

/// The first port, away from those of the demo.
const PORT: u16 = 7300;

/// How to look.
#[derive(Args)]
pub struct Options {
    /// Datagrams a second, for each client and each way
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pps: u32,
    /// End after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u32>,
    /// Only to the server, or only from it
    #[arg(long, value_enum)]
    only: Option<Way>,
}

/// Of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    /// From the clients to the server
    Up,
    /// From the server to the clients
    Down,
}

struct Flow {
    name: String,
    probe: Probe,
    /// How many had arrived when the last line was written.
    told: usize,
}

/// Send, write a line each second, and at the end how long each flow was silent at most.
pub fn run(name: &str, options: &Options) -> Result<()> {
    let flows = start(name, options)?;
    let heading: Vec<_> = flows.iter().map(|flow| flow.name.as_str()).collect();
    println!("datagrams that arrived, of {} a second:", options.pps);
    println!("{:>6}  {}", "second", heading.join("  "));
    let (flows, start) = (flows, Instant::now());
    let flows = tell(flows, start, options);
    let (names, probes): (Vec<_>, Vec<_>) = flows
        .into_iter()
        .map(|flow| (flow.name, flow.probe))
        .unzip();
    println!();
    for (name, trace) in names.iter().zip(Probe::traces(probes)?) {
        println!("{name}: {}", verdict(&trace));
    }
    Ok(())
}

/// A flow each way for each client.
fn start(name: &str, options: &Options) -> Result<Vec<Flow>> {
    // Only while starting: who breaks the NAT meanwhile needs the lab, too.
    let lab = Lab::standing(name)?;
    let server: Ipv4Addr = SERVER.parse()?;
    let right = (lab.host(Host::Server), server);
    let pace = Duration::from_secs(1) / options.pps;
    let mut flows = Vec::new();
    for (client, port) in lab.clients().zip(PORT..) {
        let inner = client.inner().context("a client has an inner address")?;
        let left = (lab.host(client), inner);
        for (way, from, to, arrow) in [(Way::Up, left, right, "→"), (Way::Down, right, left, "←")]
        {
            if options.only.is_none_or(|only| only == way) {
                flows.push(Flow {
                    name: format!("{client}{arrow}"),
                    probe: Probe::start(from, to, port, None, pace)?,
                    told: 0,
                });
            }
        }
    }
    Ok(flows)
}

/// A line each second, until it is enough or Ctrl-C comes.
fn tell(mut flows: Vec<Flow>, start: Instant, options: &Options) -> Vec<Flow> {
    for second in 1..=options.seconds.unwrap_or(u32::MAX) {
        let due = start + Duration::from_secs(second.into());
        if interrupt::sleep(due.saturating_duration_since(Instant::now())).is_err() {
            break;
        }
        let mut line = format!("{second:>6}");
        for flow in &mut flows {
            let arrived = flow.probe.arrived();
            let width = flow.name.chars().count();
            line += &format!("  {:>width$}", arrived - flow.told);
            flow.told = arrived;
        }
        println!("{line}");
    }
    flows
}

/// The whole of a flow in one line.
fn verdict(trace: &Trace) -> String {
    let (Some(first), Some(last)) = (trace.sent.first(), trace.sent.last()) else {
        return "nothing was sent".to_owned();
    };
    let lost = trace.lost(*first, *last);
    let (at, gap) = trace.longest_gap(*first, *last);
    format!(
        "{lost} of {} lost, silent for {} ms at most, {:.1} s after the start",
        trace.sent.len(),
        gap.as_millis(),
        (at - *first).as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_told() {
        let start = Instant::now();
        let sent: Vec<_> = (0..100)
            .map(|n| start + Duration::from_millis(10 * n))
            .collect();
        let trace = Trace {
            arrived: (0..100)
                .map(|n| (!(40..60).contains(&n)).then_some(sent[n]))
                .collect(),
            sent,
            duplicates: 0,
        };
        assert_eq!(
            verdict(&trace),
            "20 of 100 lost, silent for 210 ms at most, 0.4 s after the start"
        );
    }
}
