//! When to ping an epoch that has been proven.

use core::time::Duration;

use crate::{Idle, PingCause};

/// Without traffic for this long, traffic is looked at less often.
const QUIET: Duration = Duration::from_secs(10);
/// And this much less often.
const QUIET_TICKS: u32 = 4;

/// Inner packets of a tunnel since it began, all its epochs together; control packets not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// Sealed and sent.
    pub sent: u64,
    /// Received and authenticated.
    pub received: u64,
}

/// Watches a tunnel's traffic for the three signs that call for a ping: data that nothing answers, a
/// tunnel that falls silent, and one that has not been asked for long while it receives (inbound traffic
/// proves one direction only).
#[derive(Debug, Clone)]
pub(crate) struct Liveness {
    last: Activity,
    /// Something authenticated, data or not, last came in.
    heard: Duration,
    /// Data last came in or went out.
    busy: Duration,
    /// The first data that went out since then.
    unanswered_since: Option<Duration>,
    /// Data came in since the last answered ping.
    received_since_answer: bool,
    answered: Duration,
    pinged: Duration,
    silence: Duration,
    next_tick: Duration,
}

impl Liveness {
    pub(crate) fn new(now: Duration, idle: &Idle) -> Self {
        Self {
            last: Activity::default(),
            heard: now,
            busy: now,
            unanswered_since: None,
            received_since_answer: false,
            answered: now,
            pinged: now,
            silence: idle.silence,
            next_tick: now + idle.tick,
        }
    }

    /// An epoch became active: what went before is no sign of its health.
    pub(crate) fn restart(&mut self, now: Duration, idle: &Idle) {
        *self = Self {
            last: self.last,
            ..Self::new(now, idle)
        };
    }

    pub(crate) fn activity(&mut self, now: Duration, activity: Activity, idle: &Idle) {
        let sent = activity.sent > self.last.sent;
        let received = activity.received > self.last.received;
        self.last = Activity {
            sent: activity.sent.max(self.last.sent),
            received: activity.received.max(self.last.received),
        };
        if sent || received {
            self.busy = now;
        }
        if received {
            self.received_since_answer = true;
            self.silence = idle.silence;
            self.heard(now);
        } else if sent && self.unanswered_since.is_none() {
            self.unanswered_since = Some(now);
        }
    }

    /// Something authenticated came in.
    pub(crate) fn heard(&mut self, now: Duration) {
        self.heard = now;
        self.unanswered_since = None;
    }

    /// A ping was answered.
    pub(crate) fn answered(&mut self, now: Duration) {
        self.answered = now;
        self.received_since_answer = false;
        self.heard(now);
    }

    /// A series of pings begins, for whichever reason.
    pub(crate) fn pinged(&mut self, now: Duration, idle: &Idle) {
        self.pinged = now;
        self.unanswered_since = None;
        self.silence = (self.silence * 2).min(idle.silence_max);
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.next_tick
    }

    /// Data that went out since then was not answered.
    pub(crate) fn unanswered_since(&self) -> Option<Duration> {
        self.unanswered_since
    }

    /// Why to ping now, if at all. `suspect`: pings went unanswered already, and data tells nothing new.
    pub(crate) fn tick(&mut self, now: Duration, suspect: bool, idle: &Idle) -> Option<PingCause> {
        if now < self.next_tick {
            return None;
        }
        let quiet = now.saturating_sub(self.busy) > QUIET;
        self.next_tick = now
            + if quiet {
                idle.tick * QUIET_TICKS
            } else {
                idle.tick
            };
        let unanswered = self
            .unanswered_since
            .is_some_and(|t| now >= t + idle.unanswered);
        let silent = now >= self.heard.max(self.pinged) + self.silence;
        let unasked =
            self.received_since_answer && now >= self.answered.max(self.pinged) + idle.receive_only;
        if unanswered && !suspect {
            Some(PingCause::Unanswered)
        } else if silent {
            Some(PingCause::Silent)
        } else {
            unasked.then_some(PingCause::ReceiveOnly)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pings sent in `seconds` when `traffic(second)` says what is sent and received in that second and
    /// every ping is answered at once.
    fn pings(seconds: u64, mut traffic: impl FnMut(u64) -> (u64, u64)) -> Vec<Duration> {
        let idle = Idle::default();
        let mut live = Liveness::new(Duration::ZERO, &idle);
        let (mut seen, mut total, mut second) = (Vec::new(), Activity::default(), 0);
        while live.deadline() < Duration::from_secs(seconds) {
            let now = live.deadline();
            while second < now.as_secs() {
                let (sent, received) = traffic(second);
                total.sent += sent;
                total.received += received;
                second += 1;
            }
            live.activity(now, total, &idle);
            if live.tick(now, false, &idle).is_some() {
                live.pinged(now, &idle);
                live.answered(now);
                seen.push(now);
            }
        }
        seen
    }

    #[test]
    fn a_quiet_tunnel_costs_less_than_a_packet_in_ten_seconds() {
        let pings = pings(3600, |_| (0, 0));
        assert!(pings[0] <= Duration::from_millis(1250), "{:?}", pings[0]);
        assert!(2 * pings.len() <= 360, "{}", pings.len());
    }

    #[test]
    fn traffic_both_ways_is_asked_sparsely() {
        let n = pings(600, |_| (10, 10)).len();
        assert!((50..=62).contains(&n), "{n}");
    }

    #[test]
    fn data_that_nothing_answers_is_pinged_within_a_second() {
        let pings = pings(60, |second| (u64::from(second >= 30), 0));
        let first = pings
            .iter()
            .find(|t| t.as_secs() >= 31)
            .copied()
            .unwrap_or_default();
        assert!(first <= Duration::from_millis(32_250), "{first:?}");
        assert!(pings.len() <= 40, "{}", pings.len());
    }
}
