//! A run as a sequence diagram in text.

use core::time::Duration;
use std::fmt::Write as _;

use mitregate_wire::echo::{Echo, Kind};

use crate::world::{Body, Packet, Side, name};

/// A vertical line of the diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A client.
    Client(u8),
    /// The NAT.
    Nat,
    /// The server.
    Server,
}

impl Lane {
    /// An end of a tunnel.
    #[must_use]
    pub fn of(tunnel: u8, side: Side) -> Self {
        match side {
            Side::Client => Self::Client(tunnel),
            Side::Server => Self::Server,
        }
    }
}

/// A line of text.
#[derive(Debug, Clone)]
pub enum Note {
    /// Something happened in one place.
    Mark(Lane, String),
    /// Something went from one place to another; `remark` where it ended.
    Arrow {
        /// From here.
        from: Lane,
        /// To there, or almost.
        to: Lane,
        /// It did not get further.
        ends: bool,
        /// What.
        label: String,
        /// What became of it.
        remark: String,
    },
    /// Time passed.
    Time(Duration),
}

impl Note {
    /// Something happened in one place.
    #[must_use]
    pub fn mark(lane: Lane, text: &str) -> Self {
        Self::Mark(lane, text.to_owned())
    }

    /// Time passed.
    #[must_use]
    pub fn time(now: Duration) -> Self {
        Self::Time(now)
    }

    /// An IKE message, or an exchange that `from` began.
    #[must_use]
    pub fn ike(tunnel: u8, from: Side, label: &str) -> Self {
        Self::Arrow {
            from: Lane::of(tunnel, from),
            to: Lane::of(tunnel, from.peer()),
            ends: false,
            label: label.to_owned(),
            remark: String::new(),
        }
    }

    /// An ESP packet: `to` is the client that it got to, or that it came from; `None`: nowhere.
    #[must_use]
    pub fn packet(packet: &Packet, to: Option<u8>, remark: &str) -> Self {
        let epoch = name(packet.tunnel, packet.epoch);
        let label = match &packet.body {
            Body::Data => format!("data {epoch}"),
            Body::Echo(bytes) => match Echo::new_checked(bytes) {
                Ok(Echo {
                    kind: Kind::Response,
                    seq,
                    ..
                }) => format!("pong {epoch}/{seq}"),
                Ok(Echo { seq, .. }) => format!("ping {epoch}/{seq}"),
                Err(_) => format!("? {epoch}"),
            },
        };
        let far = match packet.from {
            Side::Client => Lane::Server,
            Side::Server => Lane::Client(to.unwrap_or(packet.tunnel)),
        };
        Self::Arrow {
            from: Lane::of(packet.tunnel, packet.from),
            to: if to.is_some() { far } else { Lane::Nat },
            ends: to.is_none(),
            label,
            remark: remark.to_owned(),
        }
    }
}

const WIDTH: usize = 24;

/// The diagram of a run with so many clients.
#[must_use]
pub fn draw(clients: u8, notes: &[Note]) -> String {
    let lanes = usize::from(clients) + 2;
    let at = |lane: Lane| match lane {
        Lane::Client(n) => usize::from(n) * WIDTH + 4,
        Lane::Nat => usize::from(clients) * WIDTH + 4,
        Lane::Server => (usize::from(clients) + 1) * WIDTH + 4,
    };
    let blank = || -> Vec<char> {
        let mut row = vec![' '; (lanes - 1) * WIDTH + 5];
        for lane in 0..lanes {
            row[lane * WIDTH + 4] = '│';
        }
        row
    };
    let mut out = String::new();
    let mut head = vec![' '; (lanes - 1) * WIDTH + 12];
    for n in 0..clients {
        put(
            &mut head,
            at(Lane::Client(n)),
            &char::from(b'A' + n).to_string(),
        );
    }
    put(&mut head, at(Lane::Nat) - 1, "NAT");
    put(&mut head, at(Lane::Server) - 2, "server");
    line(&mut out, &head, "");
    let mut began = None;
    for note in notes {
        let mut row = blank();
        match note {
            Note::Time(now) => {
                let began = *began.get_or_insert(*now);
                let text = format!("· · · time passes ({}) · · ·", (*now - began).as_secs());
                put(&mut row, 6, &text);
                line(&mut out, &row, "");
            }
            Note::Mark(lane, text) => {
                let from = at(*lane) + 2;
                row.resize(row.len().max(from + text.chars().count()), ' ');
                put(&mut row, from, text);
                line(&mut out, &row, "");
            }
            Note::Arrow {
                from,
                to,
                ends,
                label,
                remark,
            } => {
                let (a, b) = (at(*from), at(*to));
                let (left, right) = (a.min(b) + 1, a.max(b));
                row[left..right].fill('─');
                if a < b {
                    row[right - 1] = if *ends { '✗' } else { '►' };
                } else {
                    row[left] = if *ends { '✗' } else { '◄' };
                }
                let label = format!(" {label} ");
                // Beside the sender, clear of the lines that are crossed.
                let start = if a < b {
                    left + 2
                } else {
                    right.saturating_sub(label.chars().count() + 2)
                };
                put(&mut row, start, &label);
                line(&mut out, &row, remark);
            }
        }
    }
    out
}

fn put(row: &mut Vec<char>, at: usize, text: &str) {
    for (i, c) in text.chars().enumerate() {
        if row.len() <= at + i {
            row.resize(at + i + 1, ' ');
        }
        row[at + i] = c;
    }
}

fn line(out: &mut String, row: &[char], remark: &str) {
    let row: String = row.iter().collect();
    let _ = writeln!(out, "{}", format!("{row}  {remark}").trim_end());
}
