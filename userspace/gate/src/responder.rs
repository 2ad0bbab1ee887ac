//! Bounds on what the peer's pings can make us send.

use core::time::Duration;

use mitregate_wire::echo::Echo;
use mitregate_wire::esp::Spi;

use crate::{EchoLimit, EchoRefusal, Gate, GateEvent};

/// A token bucket in millionths of an answer, so that it is exact and cannot drift.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    micro_tokens: u64,
    filled: Duration,
}

const ONE: u64 = 1_000_000;

impl Bucket {
    pub(crate) fn full(limit: &EchoLimit) -> Self {
        Self {
            micro_tokens: u64::from(limit.burst) * ONE,
            filled: Duration::ZERO,
        }
    }

    /// Takes one answer's worth, if there is one.
    pub(crate) fn take(&mut self, now: Duration, limit: &EchoLimit) -> bool {
        let elapsed = now.saturating_sub(self.filled).as_micros();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.filled = self.filled.max(now);
        self.micro_tokens = self
            .micro_tokens
            .saturating_add(elapsed.saturating_mul(u64::from(limit.rate)))
            .min(u64::from(limit.burst) * ONE);
        match self.micro_tokens.checked_sub(ONE) {
            Some(rest) => {
                self.micro_tokens = rest;
                true
            }
            None => false,
        }
    }
}

impl Gate {
    /// Answers a ping of the peer's, within the limits.
    pub(crate) fn answer(
        &mut self,
        now: Duration,
        at: usize,
        request: &Echo<'_>,
        return_spi: Option<Spi>,
    ) {
        let Some(response) = request.response() else {
            return;
        };
        let on = match return_spi {
            None => Some(at),
            // Only to the same peer, and not on an epoch that the peer has not opened yet.
            Some(spi) => self
                .epochs
                .iter()
                .position(|e| e.spi_out == spi && e.heard.is_some()),
        };
        let refusal = match on {
            None => EchoRefusal::ForeignReturnSpi,
            Some(_) if !self.bucket.take(now, &self.config.echo) => EchoRefusal::RateLimited,
            Some(on) => {
                self.epochs[at].peer_pinged = Some(now);
                self.counters.echoes_answered += 1;
                self.send(on, &response);
                return;
            }
        };
        self.counters.echoes_refused += 1;
        self.event(GateEvent::EchoRefused {
            epoch: self.epochs[at].id,
            refusal,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let limit = EchoLimit { rate: 10, burst: 3 };
        let mut bucket = Bucket::full(&limit);
        let t = Duration::from_secs(100);
        let at_once = (0..10).filter(|_| bucket.take(t, &limit)).count();
        assert_eq!(at_once, 3);
        let within_ten_seconds = (0..10_000u64)
            .filter(|ms| bucket.take(t + Duration::from_millis(*ms), &limit))
            .count();
        assert!(
            (99..=100).contains(&within_ten_seconds),
            "{within_ten_seconds}"
        );
    }

    #[test]
    fn a_clock_that_jumps_back_gives_nothing() {
        let limit = EchoLimit { rate: 1, burst: 1 };
        let mut bucket = Bucket::full(&limit);
        assert!(bucket.take(Duration::from_secs(9), &limit));
        assert!(!bucket.take(Duration::from_secs(1), &limit));
        assert!(!bucket.take(Duration::from_secs(9), &limit));
    }
}
