//! Who waits for what: requests of the command line, and the control plane's tickets.

use std::collections::BTreeMap;
use std::time::Duration;

use mitregate_control::{Command, ControlEvent, ListView, PingStats, Ticket, UserPingEvent};
use serde_json::{Value, json};

use crate::control_socket::Responses;
use crate::protocol::{Request, Response};

/// Shortest time between two pings that somebody asks for.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// Whoever waits is told this often how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Requests that are under way.
#[derive(Default)]
pub struct Calls {
    waiting: BTreeMap<Ticket, Waiting>,
}

struct Waiting {
    responses: Responses,
    subject: Option<Subject>,
    since: Duration,
    next_progress: Duration,
}

/// What a request that may take a while is about.
pub enum Subject {
    /// A tunnel, by its child's name or as `connection/child`.
    Tunnel(String),
    /// A connection.
    Connection(String),
}

impl Subject {
    /// Of a request; None if that tells of its progress by itself.
    pub fn of(request: &Request) -> Option<Self> {
        match request {
            Request::Initiate { child } | Request::TerminateChild { child } => {
                Some(Self::Tunnel(child.clone()))
            }
            Request::TerminateIke { connection } => Some(Self::Connection(connection.clone())),
            Request::ListSas
            | Request::ListPools
            | Request::Stats
            | Request::Monitor { .. }
            | Request::RekeyChild { .. }
            | Request::RekeyIke { .. }
            | Request::Ping { .. } => None,
        }
    }

    /// How far it is, in words.
    fn state(&self, list: &ListView) -> String {
        let named = |name: &str| {
            list.tunnels.iter().find(|tunnel| {
                let child = tunnel.name.split_once('/').map(|(_, child)| child);
                tunnel.name == name || child == Some(name)
            })
        };
        let connection = match self {
            Self::Connection(connection) => connection,
            Self::Tunnel(name) => {
                let tunnel = named(name);
                if let Some(epoch) = tunnel.and_then(|tunnel| tunnel.epochs.last()) {
                    return format!("epoch {} is {}", epoch.id, epoch.state);
                }
                tunnel.map_or("", |tunnel| {
                    tunnel
                        .name
                        .split_once('/')
                        .map_or("", |(connection, _)| connection)
                })
            }
        };
        let mut ike_sas = list.ike_sas.iter().rev();
        match ike_sas.find(|sa| sa.connection.as_deref() == Some(connection)) {
            Some(sa) => format!("IKE SA with {} is {}", sa.remote, sa.state),
            None => "no IKE SA: waiting to try again".to_owned(),
        }
    }
}

impl Calls {
    /// Waits for what a command leads to.
    pub fn wait(
        &mut self,
        now: Duration,
        ticket: Ticket,
        subject: Option<Subject>,
        responses: Responses,
    ) {
        let waiting = Waiting {
            responses,
            subject,
            since: now,
            next_progress: now + PROGRESS_EVERY,
        };
        self.waiting.insert(ticket, waiting);
    }

    /// When somebody is next to be told how far it is.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let waiting = self.waiting.values().filter(|one| one.subject.is_some());
        waiting.map(|one| one.next_progress).min()
    }

    /// Tells those who have waited for long, and forgets those who have gone.
    pub fn handle_timeout(&mut self, now: Duration, list: &ListView) {
        self.waiting.retain(|_, one| {
            let Some(subject) = one.subject.as_ref().filter(|_| one.next_progress <= now) else {
                return true;
            };
            one.next_progress = now + PROGRESS_EVERY;
            let elapsed = now.saturating_sub(one.since).as_millis();
            let progress = json!({
                "elapsed_ms": u64::try_from(elapsed).unwrap_or(u64::MAX),
                "state": subject.state(list),
            });
            one.responses
                .try_send(Response::Progress { progress })
                .is_ok()
        });
    }

    /// Tells whoever waits. Answers with the ticket of a ping that nobody waits for any more.
    pub fn note(&mut self, event: &ControlEvent) -> Option<Ticket> {
        match event {
            ControlEvent::Ping { ticket, event } => self.ping(*ticket, *event),
            ControlEvent::Finished { ticket } => {
                let Waiting { responses, .. } = self.waiting.remove(ticket)?;
                let _ = responses.try_send(Response::Done {
                    result: json!({"ok": true}),
                });
                None
            }
            ControlEvent::Failed { ticket, reason } => {
                let Waiting { responses, .. } = self.waiting.remove(ticket)?;
                let _ = responses.try_send(Response::Error {
                    message: reason.clone(),
                });
                None
            }
            _ => None,
        }
    }

    fn ping(&mut self, ticket: Ticket, event: UserPingEvent) -> Option<Ticket> {
        let Waiting { responses, .. } = self.waiting.get(&ticket)?;
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
                let _ = responses.try_send(Response::Done {
                    result: statistics(&stats),
                });
                self.waiting.remove(&ticket);
                return None;
            }
        };
        if responses.try_send(Response::Progress { progress }).is_err() {
            self.waiting.remove(&ticket);
            return Some(ticket);
        }
        None
    }
}

/// The control plane's command for a request, if it is one.
pub fn command(request: Request) -> Option<Command> {
    Some(match request {
        Request::ListSas | Request::ListPools | Request::Stats | Request::Monitor { .. } => {
            return None;
        }
        Request::Initiate { child } => Command::Initiate { child },
        Request::TerminateChild { child } => Command::TerminateChild { child },
        Request::TerminateIke { connection } => Command::TerminateIke { connection },
        Request::RekeyChild { child } => Command::RekeyChild { child },
        Request::RekeyIke { connection } => Command::RekeyIke { connection },
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
    use tokio::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_ping_is_told_as_it_goes_and_stopped_when_nobody_listens() {
        let mut calls = Calls::default();
        let (responses, mut incoming) = channel(8);
        let ticket = Ticket(7);
        calls.wait(Duration::ZERO, ticket, None, responses);
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
        let (responses, mut incoming) = channel(8);
        for ticket in [Ticket(1), Ticket(2)] {
            calls.wait(Duration::ZERO, ticket, None, responses.clone());
        }
        drop(responses);
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

    #[test]
    fn who_waits_for_long_hears_of_it() {
        let mut calls = Calls::default();
        let list = ListView {
            connections: Vec::new(),
            ike_sas: Vec::new(),
            tunnels: Vec::new(),
        };
        let (responses, mut incoming) = channel(8);
        let child = "net".to_owned();
        let subject = Subject::of(&Request::Initiate { child });
        calls.wait(Duration::from_secs(5), Ticket(1), subject, responses);
        assert_eq!(calls.poll_timeout(), Some(Duration::from_secs(7)));
        calls.handle_timeout(Duration::from_secs(6), &list);
        assert!(incoming.try_recv().is_err());
        calls.handle_timeout(Duration::from_secs(7), &list);
        let state = "no IKE SA: waiting to try again";
        let progress = json!({"elapsed_ms": 2000, "state": state});
        assert_eq!(incoming.try_recv(), Ok(Response::Progress { progress }));
        // Somebody who has gone is forgotten.
        drop(incoming);
        calls.handle_timeout(Duration::from_secs(9), &list);
        assert_eq!(calls.poll_timeout(), None);
    }
}
