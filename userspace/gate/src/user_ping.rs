//! Pings that a person asked for, with statistics.

use core::time::Duration;

use mitregate_esp::ids::EpochId;
use mitregate_wire::echo;
use rand_core::Rng;

use crate::{Gate, GateEvent, Output};

/// A person's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPing {
    /// Names the request in events.
    pub token: u64,
    /// How many pings.
    pub count: u32,
    /// Time from one to the next.
    pub interval: Duration,
    /// Bytes of data in each.
    pub size: usize,
}

/// Progress of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserPingEvent {
    /// An answer.
    Reply {
        /// The epoch that was pinged.
        epoch: EpochId,
        /// Which ping, from 0.
        seq: u16,
        /// Round-trip time.
        rtt: Duration,
        /// Bytes of data that came back.
        size: usize,
    },
    /// No answer in time.
    Lost {
        /// Which ping, from 0.
        seq: u16,
    },
    /// Over.
    Done(PingStats),
}

/// What a request came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PingStats {
    /// Pings sent.
    pub sent: u32,
    /// Answers in time.
    pub received: u32,
    /// Shortest round-trip time; zero when nothing came back, like the others.
    pub min: Duration,
    /// Mean round-trip time.
    pub avg: Duration,
    /// Longest round-trip time.
    pub max: Duration,
    /// Standard deviation of the round-trip time.
    pub mdev: Duration,
}

/// A request that is being served.
#[derive(Debug, Clone)]
pub(crate) struct UserRun {
    pub(crate) token: u64,
    pub(crate) id: u16,
    pub(crate) size: usize,
    left: u32,
    interval: Duration,
    next_seq: u16,
    next_at: Duration,
    waiting: Vec<(u16, Duration)>,
    stats: PingStats,
    sum: Duration,
    /// Sum of squares, in square microseconds.
    squares: u128,
}

/// User pings that a tunnel serves at a time; a further one ends the oldest.
const USER_PINGS: usize = 4;
/// More pings than this are never under way at once; the oldest counts as lost.
const UNDER_WAY: usize = 1024;

impl UserRun {
    pub(crate) fn new(now: Duration, request: &UserPing, id: u16) -> Self {
        Self {
            token: request.token,
            id,
            size: request.size,
            left: request.count,
            interval: request.interval,
            next_seq: 0,
            next_at: now,
            waiting: Vec::new(),
            stats: PingStats::default(),
            sum: Duration::ZERO,
            squares: 0,
        }
    }

    pub(crate) fn deadline(&self, timeout: Duration) -> Duration {
        let send = (self.left > 0).then_some(self.next_at);
        let lost = self.waiting.first().map(|(_, sent)| *sent + timeout);
        // Neither: it is over, and asks to be looked at.
        send.into_iter().chain(lost).min().unwrap_or(Duration::ZERO)
    }

    /// The sequence number of a ping to send now.
    pub(crate) fn send(&mut self, now: Duration) -> Option<u16> {
        if self.left == 0 || now < self.next_at {
            return None;
        }
        let seq = self.next_seq;
        self.next_seq = seq.wrapping_add(1);
        self.left -= 1;
        self.next_at = now + self.interval;
        self.stats.sent += 1;
        self.waiting.push((seq, now));
        Some(seq)
    }

    pub(crate) fn lost(&mut self, now: Duration, timeout: Duration) -> Option<u16> {
        let (seq, sent) = *self.waiting.first()?;
        if now < sent + timeout && self.waiting.len() <= UNDER_WAY {
            return None;
        }
        self.waiting.remove(0);
        Some(seq)
    }

    pub(crate) fn answered(&mut self, now: Duration, seq: u16) -> Option<Duration> {
        let at = self.waiting.iter().position(|(sent, _)| *sent == seq)?;
        let rtt = now.saturating_sub(self.waiting.remove(at).1);
        self.stats.min = if self.stats.received == 0 {
            rtt
        } else {
            self.stats.min.min(rtt)
        };
        self.stats.max = self.stats.max.max(rtt);
        self.stats.received += 1;
        self.sum += rtt;
        self.squares += rtt.as_micros() * rtt.as_micros();
        Some(rtt)
    }

    pub(crate) fn stop(&mut self) {
        self.left = 0;
        self.waiting.clear();
    }

    /// The statistics, once nothing is left to do.
    pub(crate) fn done(&self) -> Option<PingStats> {
        if self.left > 0 || !self.waiting.is_empty() {
            return None;
        }
        let mut stats = self.stats;
        if stats.received > 0 {
            stats.avg = self.sum / stats.received;
            let mean = stats.avg.as_micros();
            let variance = (self.squares / u128::from(stats.received)).saturating_sub(mean * mean);
            stats.mdev = Duration::from_micros(u64::try_from(variance.isqrt()).unwrap_or(u64::MAX));
        }
        Some(stats)
    }
}

impl Gate {
    pub(crate) fn user_ping(&mut self, now: Duration, request: &UserPing, rng: &mut dyn Rng) {
        if self.users.len() == USER_PINGS {
            self.users[0].stop();
            self.serve_users(now);
        }
        let id = self.fresh_ping_id(rng);
        self.users.push(UserRun::new(now, request, id));
    }

    /// An answer that is none to a ping of the gate's own, on this epoch.
    pub(crate) fn user_ping_answered(
        &mut self,
        now: Duration,
        at: usize,
        (id, seq): (u16, u16),
        size: usize,
    ) {
        let epoch = self.epochs[at].id;
        let run = self.users.iter_mut().find(|run| run.id == id);
        let Some((token, rtt)) = run.and_then(|run| Some((run.token, run.answered(now, seq)?)))
        else {
            return;
        };
        let event = UserPingEvent::Reply {
            epoch,
            seq,
            rtt,
            size,
        };
        self.event(GateEvent::UserPing { token, event });
        // They are sent on the active epoch: an answer that comes on another proves nothing there.
        if self.active == Some(epoch) {
            self.ping_succeeded(now, at, rtt);
        }
    }

    pub(crate) fn serve_users(&mut self, now: Duration) {
        let on = self.active.and_then(|id| self.position(id));
        let timeout = self.config.user_ping_timeout;
        let mut events = Vec::new();
        let mut users = core::mem::take(&mut self.users);
        users.retain_mut(|run| {
            let token = run.token;
            while let Some(seq) = run.lost(now, timeout) {
                events.push(GateEvent::UserPing {
                    token,
                    event: UserPingEvent::Lost { seq },
                });
            }
            if let Some(seq) = run.send(now)
                && let Some(at) = on
            {
                self.ask(at, run.id, seq, run.size.min(echo::MAX_ECHOED));
            }
            let done = run.done();
            if let Some(stats) = done {
                events.push(GateEvent::UserPing {
                    token,
                    event: UserPingEvent::Done(stats),
                });
            }
            done.is_none()
        });
        self.users = users;
        self.outputs.0.extend(events.into_iter().map(Output::Event));
    }
}
