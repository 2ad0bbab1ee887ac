//! What a box has in its tables, for people.

use std::fmt::Write as _;
use std::time::Duration;

use mitregate_wire::ip::protocol;
use serde::Serialize;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// ESP, IKE, UDP …
    pub protocol: String,
    /// The host behind the box, with its port if it has one.
    pub inside: String,
    /// What it is known by outside.
    pub public: String,
    /// Whom it talks to; `any` where that does not matter.
    pub outside: String,
    /// SPIs as they go out and come in, or IKE's cookie.
    pub keys: String,
    /// In which state, and for how long if nothing comes: `established, 29:12 left`.
    pub state: String,
}

impl Row {
    /// Of a protocol's number.
    pub(super) fn protocol(number: u8) -> String {
        match number {
            protocol::ICMP => "ICMP".to_owned(),
            protocol::ICMPV6 => "ICMPv6".to_owned(),
            protocol::TCP => "TCP".to_owned(),
            protocol::UDP => "UDP".to_owned(),
            protocol::ESP => "ESP".to_owned(),
            other => format!("IP/{other}"),
        }
    }

    /// `what, 1:07 left`
    pub(super) fn state(what: &str, left: Duration) -> String {
        // Rounded up: what is left is never shown as nothing.
        let seconds = left.as_millis().div_ceil(1000);
        if seconds < 60 {
            format!("{what}, {seconds} s left")
        } else {
            format!("{what}, {}:{:02} left", seconds / 60, seconds % 60)
        }
    }

    fn cells(&self) -> [&str; 6] {
        [
            &self.protocol,
            &self.inside,
            &self.public,
            &self.outside,
            &self.keys,
            &self.state,
        ]
    }
}

/// The rows below each other, with a heading.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let heading = ["PROTO", "INSIDE", "PUBLIC", "OUTSIDE", "KEYS", "STATE"];
    let lines = || std::iter::once(heading).chain(rows.iter().map(Row::cells));
    let mut widths = [0; 6];
    for line in lines() {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for line in lines() {
        let mut text = String::new();
        for (width, cell) in widths.iter().zip(line) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}
