//! A bound on answers to datagrams that belong to no IKE SA: they cost the sender nothing.

use core::time::Duration;

/// Answers in one second.
const PER_SECOND: u32 = 100;

#[derive(Debug, Default)]
pub(crate) struct Limiter {
    second: u64,
    used: u32,
}

impl Limiter {
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        if now.as_secs() != self.second {
            *self = Self {
                second: now.as_secs(),
                used: 0,
            };
        }
        self.used += 1;
        self.used <= PER_SECOND
    }
}
