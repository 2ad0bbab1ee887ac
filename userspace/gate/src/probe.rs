//! A series of pings on one epoch: same SPI, growing waits, a bounded number.

use core::time::Duration;
use std::collections::VecDeque;

use crate::RunSnapshot;

/// Answers later than this many pings ago are not recognised.
const REMEMBERED: usize = 32;

/// The pings of one epoch. All share one identifier; sequence numbers go up by one (and wrap).
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    id: u16,
    next_seq: u16,
    sent: VecDeque<(u16, Duration)>,
    run: Option<Run>,
}

/// A series that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Pings that may still be sent.
    left: u32,
    /// Pings sent in this series.
    used: u32,
    /// Nominal length of the wait that follows the next ping.
    wait: Duration,
    /// When the current wait ends.
    deadline: Duration,
}

/// What a wait that ended leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// Ping again; this many were lost in a row.
    Again(u32),
    /// All pings of the series were lost.
    Exhausted(u32),
}

impl Probe {
    pub(crate) fn new(id: u16) -> Self {
        Self {
            id,
            next_seq: 0,
            sent: VecDeque::with_capacity(REMEMBERED),
            run: None,
        }
    }

    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// Whether nothing was ever asked.
    pub(crate) fn is_unused(&self) -> bool {
        self.next_seq == 0 && self.run.is_none()
    }

    pub(crate) fn running(&self) -> bool {
        self.run.is_some()
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.run.map(|run| run.deadline)
    }

    /// Begins a series of at most `tries` pings. The first is due at once: follow with [`Self::ping`].
    pub(crate) fn begin(&mut self, now: Duration, tries: u32, wait: Duration) {
        self.run = Some(Run {
            left: tries.max(1),
            used: 0,
            wait,
            deadline: now,
        });
    }

    pub(crate) fn stop(&mut self) {
        self.run = None;
    }

    /// The identifier and sequence number of a ping sent now, and the nominal wait for its answer.
    pub(crate) fn ping(&mut self, now: Duration) -> Option<(u16, u16, Duration)> {
        let run = self.run.as_mut()?;
        run.left = run.left.checked_sub(1)?;
        run.used += 1;
        let seq = self.next_seq;
        self.next_seq = seq.wrapping_add(1);
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((seq, now));
        Some((self.id, seq, run.wait))
    }

    /// Sets the end of the current wait, and the nominal length of the next.
    pub(crate) fn wait_until(&mut self, deadline: Duration, next_wait: Duration) {
        if let Some(run) = &mut self.run {
            run.deadline = deadline;
            run.wait = next_wait;
        }
    }

    /// The sequence numbers whose answers would still count.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = u16> + '_ {
        self.sent.iter().map(|(seq, _)| *seq)
    }

    pub(crate) fn snapshot(&self, now: Duration) -> Option<RunSnapshot> {
        self.run.map(|run| RunSnapshot {
            left: run.left,
            due_in: run.deadline.saturating_sub(now),
            wait: run.wait,
        })
    }

    /// Call when the deadline has passed.
    pub(crate) fn expired(&mut self) -> Option<Expired> {
        let run = self.run?;
        if run.left > 0 {
            return Some(Expired::Again(run.used));
        }
        self.run = None;
        Some(Expired::Exhausted(run.used))
    }

    /// The time at which the ping that this answers was sent; each answer counts once.
    pub(crate) fn answered(&mut self, id: u16, seq: u16) -> Option<Duration> {
        if id != self.id {
            return None;
        }
        let at = self.sent.iter().position(|(sent, _)| *sent == seq)?;
        self.sent.remove(at).map(|(_, time)| time)
    }
}
