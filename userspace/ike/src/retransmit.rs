//! When to repeat a request (RFC 7296 §2.1, §2.4).

use core::time::Duration;

use rand_core::CryptoRng;

use crate::config::Retransmit;

impl Retransmit {
    /// The wait after the transmission number `attempt`, counted from 0: grown, bounded, and off
    /// by up to a tenth, lest peers that lost the same link come back in step.
    pub(crate) fn wait(&self, attempt: u32, rng: &mut dyn CryptoRng) -> Duration {
        let limit = self.limit.as_secs_f64();
        let grown = (0..attempt)
            .try_fold(self.timeout.as_secs_f64(), |wait, _| {
                (wait < limit).then_some(wait * self.base)
            })
            .unwrap_or(limit);
        let jitter = 0.9 + 0.2 * f64::from(rng.next_u32()) / f64::from(u32::MAX);
        Duration::try_from_secs_f64(grown.min(limit) * jitter).unwrap_or(self.limit)
    }
}
