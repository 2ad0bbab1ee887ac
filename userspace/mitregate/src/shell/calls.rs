//! Who waits for what: requests of the command line, and the control plane's tickets.

use std::collections::BTreeMap;
use std::time::Duration;

use mitregate_control::{Command, ControlEvent, PingStats, Ticket, UserPingEvent};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::protocol::{Request, Response};

/// Shortest time between two pings that somebody asks for.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// Requests that are under way.
#[derive(Default)]
pub struct Calls {
    waiting: BTreeMap<Ticket, UnboundedSender<Response>>,
}

impl Calls {
    /// Waits for what a command leads to.
    pub fn wait(&mut self, ticket: Ticket, responses: UnboundedSender<Response>) {
        self.waiting.insert(ticket, responses);
    }

    /// Tells whoever waits. Answers with the ticket of a ping that nobody waits for any more.
    pub fn note(&mut self, event: &ControlEvent) -> Option<Ticket> {
        match event {
            ControlEvent::Ping { ticket, event } => self.ping(*ticket, *event),
            ControlEvent::Finished { ticket } => {
                let responses = self.waiting.remove(ticket)?;
                let _ = responses.send(Response::Done {
                    result: json!({"ok": true}),
                });
                None
            }
            ControlEvent::Failed { ticket, reason } => {
                let responses = self.waiting.remove(ticket)?;
                let _ = responses.send(Response::Error {
                    message: reason.clone(),
                });
                None
            }
            _ => None,
        }
    }

    fn ping(&mut self, ticket: Ticket, event: UserPingEvent) -> Option<Ticket> {
        let responses = self.waiting.get(&ticket)?;
        let progress = match event {
            UserPingEvent::Reply {
                epoch,
                seq,
                rtt,
                size,
            } => {
                json!({"epoch": epoch.0, "seq": seq, "rtt_us": micros(rtt), "size": size})
            }
            UserPingEvent::Lost { seq } => json!({"seq": seq, "rtt_us": null}),
            UserPingEvent::Done(stats) => {
                let _ = responses.send(Response::Done {
                    result: statistics(&stats),
                });
                self.waiting.remove(&ticket);
                return None;
            }
        };
        if responses.send(Response::Progress { progress }).is_err() {
            self.waiting.remove(&ticket);
            return Some(ticket);
        }
        None
    }
}

/// The control plane's command for a request, if it is one.
pub fn command(request: Request) -> Option<Command> {
    Some(match request {
        Request::ListSas | Request::Stats => return None,
        Request::Initiate { child } => Command::Initiate { child },
        Request::TerminateChild { child } => Command::TerminateChild { child },
        Request::TerminateIke { connection } => Command::TerminateIke { connection },
        Request::Ping {
            tunnel,
            count,
            interval_ms,
            size,
        } => Command::Ping {
            tunnel,
            count,
            interval: Duration::from_millis(interval_ms).max(MIN_INTERVAL),
            size,
        },
    })
}

fn statistics(stats: &PingStats) -> Value {
    json!({
        "sent": stats.sent,
        "received": stats.received,
        "min_us": micros(stats.min),
        "avg_us": micros(stats.avg),
        "max_us": micros(stats.max),
        "mdev_us": micros(stats.mdev),
    })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use mitregate_esp::ids::EpochId;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[test]
    fn a_ping_is_told_as_it_goes_and_stopped_when_nobody_listens() {
        let mut calls = Calls::default();
        let (responses, mut incoming) = unbounded_channel();
        let ticket = Ticket(7);
        calls.wait(ticket, responses);
        let reply = |seq| ControlEvent::Ping {
            ticket,
            event: UserPingEvent::Reply {
                epoch: EpochId(3),
                seq,
                rtt: Duration::from_micros(512),
                size: 56,
            },
        };
        assert_eq!(calls.note(&reply(0)), None);
        let expected = json!({"epoch": 3, "seq": 0, "rtt_us": 512, "size": 56});
        assert_eq!(
            incoming.try_recv(),
            Ok(Response::Progress { progress: expected })
        );
        drop(incoming);
        assert_eq!(calls.note(&reply(1)), Some(ticket));
        assert_eq!(calls.note(&reply(2)), None);
    }

    #[test]
    fn commands_end_once() {
        let mut calls = Calls::default();
        let (responses, mut incoming) = unbounded_channel();
        calls.wait(Ticket(1), responses.clone());
        calls.wait(Ticket(2), responses);
        calls.note(&ControlEvent::Failed {
            ticket: Ticket(2),
            reason: "no".into(),
        });
        calls.note(&ControlEvent::Finished { ticket: Ticket(1) });
        calls.note(&ControlEvent::Finished { ticket: Ticket(1) });
        assert_eq!(
            incoming.try_recv(),
            Ok(Response::Error {
                message: "no".into()
            })
        );
        assert_eq!(
            incoming.try_recv(),
            Ok(Response::Done {
                result: json!({"ok": true})
            })
        );
        assert!(incoming.try_recv().is_err());
    }
}
