//! When what is next due, without asking everything that might be.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::session::SessionId;

/// What has timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    Session(SessionId),
    Tunnel(usize),
    Connection(usize),
}

/// The earliest time of each.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    queue: BTreeSet<(Duration, Due)>,
    times: BTreeMap<Due, Duration>,
}

impl Schedule {
    /// Replaces a time; `None`: it has nothing to wait for, or is gone.
    pub(crate) fn set(&mut self, due: Due, at: Option<Duration>) {
        let before = match at {
            Some(at) => self.times.insert(due, at),
            None => self.times.remove(&due),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.queue.remove(&(before, due));
        }
        self.queue.extend(at.map(|at| (at, due)));
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Everything that is due, once: sessions first, then tunnels, then connections.
    pub(crate) fn take_due(&mut self, now: Duration) -> BTreeSet<Due> {
        let mut all = BTreeSet::new();
        while let Some((at, due)) = self.queue.first().copied()
            && at <= now
        {
            self.set(due, None);
            all.insert(due);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_given_out_once() {
        let secs = Duration::from_secs;
        let mut schedule = Schedule::default();
        schedule.set(Due::Tunnel(1), Some(secs(3)));
        schedule.set(Due::Tunnel(2), Some(secs(1)));
        schedule.set(Due::Session(SessionId(9)), Some(secs(2)));
        schedule.set(Due::Connection(1), Some(secs(2)));
        schedule.set(Due::Connection(1), None);
        assert_eq!(schedule.next(), Some(secs(1)));
        schedule.set(Due::Tunnel(2), Some(secs(2)));
        assert!(schedule.take_due(secs(1)).is_empty());
        let due: Vec<_> = schedule.take_due(secs(2)).into_iter().collect();
        assert_eq!(due, [Due::Session(SessionId(9)), Due::Tunnel(2)]);
        assert_eq!(schedule.next(), Some(secs(3)));
        schedule.set(Due::Tunnel(1), None);
        assert_eq!(schedule.next(), None);
    }
}
