//! Who watches: each gets every event from now on, as a line of JSON.

use std::time::Duration;

use mitregate_control::EventView;
use serde_json::{Value, json};

use crate::control_socket::Responses;
use crate::protocol::Response;

/// Watchers, each with what it watches.
#[derive(Default)]
pub struct Monitors {
    watchers: Vec<Watcher>,
}

struct Watcher {
    /// A tunnel (`connection/child`, or a child's name) or a connection; None: everything.
    about: Option<String>,
    responses: Responses,
}

impl Watcher {
    fn watches(&self, event: &EventView) -> bool {
        let Some(about) = &self.about else {
            return true;
        };
        let child = event.tunnel().and_then(|name| name.split_once('/'));
        event.tunnel() == Some(about)
            || event.connection() == Some(about)
            || child.is_some_and(|(_, child)| child == about)
    }
}

impl Monitors {
    /// Takes one more. Its first line says that it misses nothing from here on.
    pub fn add(&mut self, times: &Times, about: Option<String>, responses: Responses) {
        self.watchers.retain(|one| !one.responses.is_closed());
        let progress = times.stamp(json!({"event": "listening"}));
        if responses.try_send(Response::Progress { progress }).is_ok() {
            self.watchers.push(Watcher { about, responses });
        }
    }

    /// Whether there is nobody to tell.
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Tells those whom it concerns. Who does not read as fast as things happen is told so, and told no more.
    pub fn tell(&mut self, times: &Times, event: &EventView) {
        let line = times.stamp(serde_json::to_value(event).unwrap_or_default());
        self.watchers.retain(|one| {
            if !one.watches(event) {
                return true;
            }
            let progress = line.clone();
            one.responses
                .try_send(Response::Progress { progress })
                .is_ok()
        });
    }
}

/// One moment on both clocks.
pub struct Times {
    /// CLOCK_BOOTTIME.
    pub boottime: Duration,
    /// Since 1970, UTC.
    pub unix: Duration,
}

impl Times {
    fn stamp(&self, mut event: Value) -> Value {
        event["unix_us"] = micros(self.unix);
        event["boottime_us"] = micros(self.boottime);
        event
    }
}

fn micros(time: Duration) -> Value {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).into()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::channel;

    use super::*;

    fn lost(in_a_row: u32) -> EventView {
        EventView::PingLost {
            tunnel: "home/net".into(),
            epoch: 3,
            in_a_row,
        }
    }

    const TIMES: Times = Times {
        boottime: Duration::from_millis(7),
        unix: Duration::from_secs(1_700_000_000),
    };

    #[test]
    fn each_hears_what_it_asked_for() {
        let mut monitors = Monitors::default();
        let mut heard = Vec::new();
        for about in [
            None,
            Some("net"),
            Some("home/net"),
            Some("home"),
            Some("work"),
        ] {
            let (responses, incoming) = channel(8);
            monitors.add(&TIMES, about.map(str::to_owned), responses);
            heard.push(incoming);
        }
        monitors.tell(&TIMES, &lost(1));
        let lines: Vec<_> = heard
            .iter_mut()
            .map(|incoming| std::iter::from_fn(|| incoming.try_recv().ok()).collect::<Vec<_>>())
            .collect();
        let counts: Vec<_> = lines.iter().map(Vec::len).collect();
        assert_eq!(counts, [2, 2, 2, 2, 1]);
        let expected = json!({
            "event": "ping-lost", "tunnel": "home/net", "epoch": 3, "in_a_row": 1,
            "unix_us": 1_700_000_000_000_000_u64, "boottime_us": 7000
        });
        assert_eq!(lines[0][1], Response::Progress { progress: expected });
    }

    #[test]
    fn who_has_gone_or_does_not_read_is_forgotten() {
        let mut monitors = Monitors::default();
        let (responses, gone) = channel(8);
        monitors.add(&TIMES, None, responses);
        drop(gone);
        let (responses, slow) = channel(2);
        monitors.add(&TIMES, None, responses);
        assert_eq!(monitors.watchers.len(), 1);
        monitors.tell(&TIMES, &lost(1));
        assert!(!monitors.is_empty());
        monitors.tell(&TIMES, &lost(2));
        assert!(monitors.is_empty());
        drop(slow);
    }
}
