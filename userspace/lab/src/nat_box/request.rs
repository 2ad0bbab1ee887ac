//! What a box is asked, and how: one line of JSON, one line back, and the connection ends.

use std::{
    fmt,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::carrier::Counters;
use crate::nat;

/// Whoever is slower than that gets no answer: packets wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(200);
/// Of a request, and of an answer, bytes.
const LONGEST: u64 = 1 << 24;

/// A wish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Lose all tables.
    Crash,
    /// Another public side.
    Remap {
        /// From now on.
        address: Option<Ipv4Addr>,
        /// From another range.
        ports: bool,
    },
    /// Tables and counters.
    Show,
    /// Instead of those asked for before.
    Faults(Faults),
}

/// One way through the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the clients
    Outbound,
    /// To the clients
    Inbound,
}

/// What a box does to packets beside translating them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(default)]
pub struct Faults {
    /// Drop the first N packets of each flow
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub drop_first: u32,
    /// Of 1000 packets, how many are held back and overtaken
    #[arg(long, value_name = "PER_MILLE", default_value_t = 0)]
    pub reorder: u16,
    /// For at most so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 20)]
    pub reorder_ms: u64,
    /// Hold each packet for so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub delay_ms: u64,
    /// Of 1000 packets, how many are lost
    #[arg(long, value_name = "PER_MILLE", default_value_t = 0)]
    pub loss: u16,
    /// Nothing passes this way
    #[arg(long, value_name = "WAY")]
    pub cut: Option<Direction>,
    /// Bytes of the largest IPv4 packet that passes whole; a larger one is cut, or if it forbids that
    /// (DF) dropped and answered by ICMP "fragmentation needed"
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u16>,
    /// Drop what is larger than --mtu without a word
    #[arg(long, requires = "mtu")]
    pub black_hole: bool,
}

/// What a NAT knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Shown {
    /// `kernel`, or the model's name.
    pub nat: String,
    /// The address that it lends its clients now; none: it does not translate.
    pub public: Option<IpAddr>,
    /// Of a box: what it does beside translating.
    pub faults: Option<Faults>,
    /// Of a box: what became of packets.
    pub counters: Option<Counters>,
    /// Its table: a box's rows, or conntrack's lines.
    pub entries: Vec<Value>,
    /// The table for people.
    pub table: String,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = match self.public {
            Some(public) => public.to_string(),
            None => "no address of its own".to_owned(),
        };
        writeln!(
            f,
            "{} as {public}, entries: {}",
            self.nat,
            self.entries.len()
        )?;
        write!(f, "{}", self.table)?;
        if let Some(counters) = &self.counters {
            writeln!(f, "{counters}")?;
        }
        match &self.faults {
            Some(faults) if *faults != Faults::default() => {
                writeln!(f, "faults: {}", serde_json::json!(faults))
            }
            _ => Ok(()),
        }
    }
}

impl Faults {
    /// Those that a model's wrapper knows.
    pub(super) fn of_the_model(&self) -> nat::Faults {
        nat::Faults {
            drop_first: self.drop_first,
            reorder: self.reorder.into(),
            reorder_by: Duration::from_millis(self.reorder_ms),
            delay: Duration::from_millis(self.delay_ms),
        }
    }
}

/// Ask the box at that socket. An error: it is not there, or what it says.
pub fn ask(socket: &Path, request: &Request) -> Result<Shown> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("nobody answers at {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    send(&mut stream, request)?;
    receive::<Result<Shown, String>>(&stream)?.map_err(|error| anyhow!(error))
}

/// Answer whoever has connected.
pub fn serve(mut stream: UnixStream, answer: impl FnOnce(Request) -> Result<Shown>) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let answer = receive(&stream).and_then(answer);
    send(&mut stream, &answer.map_err(|error| format!("{error:#}")))
}

fn send(stream: &mut UnixStream, what: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(what)? + "\n";
    Ok(stream.write_all(line.as_bytes())?)
}

fn receive<T: for<'de> Deserialize<'de>>(stream: &UnixStream) -> Result<T> {
    let mut line = String::new();
    BufReader::new(stream).take(LONGEST).read_line(&mut line)?;
    serde_json::from_str(&line).context("not understood")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_arrives_and_so_does_its_answer() {
        let requests = [
            Request::Crash,
            Request::Show,
            Request::Remap {
                address: Some(Ipv4Addr::new(203, 0, 113, 9)),
                ports: true,
            },
            Request::Faults(Faults {
                cut: Some(Direction::Inbound),
                loss: 100,
                ..Faults::default()
            }),
        ];
        for request in requests {
            let (mut left, right) = UnixStream::pair().unwrap();
            send(&mut left, &request).unwrap();
            let mut heard = None;
            serve(right, |request| {
                heard = Some(request);
                anyhow::bail!("no")
            })
            .unwrap();
            assert_eq!(heard, Some(request));
            let answer: Result<Shown, String> = receive(&left).unwrap();
            assert_eq!(answer.unwrap_err(), "no");
        }
    }

    #[test]
    fn nonsense_is_told_so() {
        let (mut left, right) = UnixStream::pair().unwrap();
        left.write_all(b"{\"explode\":1}\n").unwrap();
        serve(right, |_| panic!("understood")).unwrap();
        let answer: Result<Shown, String> = receive(&left).unwrap();
        assert!(answer.unwrap_err().contains("explode"));
    }
}
