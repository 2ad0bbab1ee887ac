//! How long SAs live, in swanctl's words: a soft limit, at which they are rekeyed, a hard one, at
//! which they end, and how much earlier than the soft one chance may have it.

use core::time::Duration;

use rand_core::Rng;

use crate::tunnel::unit;

/// No limit, in bytes or packets.
pub const UNLIMITED: u64 = u64::MAX;

/// Lifetime of a CHILD_SA. A soft limit in bytes or packets counts what we send; so does a hard one,
/// which the data plane enforces: it seals no packet beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildLifetime {
    /// Age at which it is rekeyed.
    pub rekey_time: Duration,
    /// Age at which it ends, replaced or not.
    pub life_time: Duration,
    /// It is rekeyed up to so much earlier, at random.
    pub rand_time: Duration,
    /// Inner bytes sent after which it is rekeyed; [`UNLIMITED`].
    pub rekey_bytes: u64,
    /// Inner bytes that it may send at all; [`UNLIMITED`].
    pub life_bytes: u64,
    /// It is rekeyed up to so many bytes earlier, at random.
    pub rand_bytes: u64,
    /// Packets sent after which it is rekeyed; [`UNLIMITED`].
    pub rekey_packets: u64,
    /// Packets that it may send at all; [`UNLIMITED`].
    pub life_packets: u64,
    /// It is rekeyed up to so many packets earlier, at random.
    pub rand_packets: u64,
}

impl Default for ChildLifetime {
    /// swanctl's: an hour, and no limit on bytes or packets.
    fn default() -> Self {
        Self::new(Duration::from_secs(3600))
    }
}

impl ChildLifetime {
    /// Rekeyed at this age, without a limit on bytes or packets; the rest as [`Self::life_time_for`]
    /// and [`Self::rand_time_for`] say.
    #[must_use]
    pub fn new(rekey_time: Duration) -> Self {
        Self {
            rekey_time,
            life_time: Self::life_time_for(rekey_time),
            rand_time: Self::rand_time_for(rekey_time),
            rekey_bytes: UNLIMITED,
            life_bytes: UNLIMITED,
            rand_bytes: 0,
            rekey_packets: UNLIMITED,
            life_packets: UNLIMITED,
            rand_packets: 0,
        }
    }

    /// The hard limit for a soft one: a tenth more, as swanctl has it, and at least three and a half minutes,
    /// which leaves room for all pings and escalations and until IKE's retransmissions give up.
    #[must_use]
    pub fn life_time_for(rekey_time: Duration) -> Duration {
        rekey_time + (rekey_time / 10).max(Duration::from_secs(210))
    }

    /// The jitter for a soft limit: a tenth, as swanctl has it.
    #[must_use]
    pub fn rand_time_for(rekey_time: Duration) -> Duration {
        rekey_time / 10
    }

    /// A hard limit in bytes or packets for a soft one, and its jitter: as much again, and a tenth less.
    /// A rekey takes as long as the path wants, whatever the limit: swanctl's tenth is gone while one
    /// request is repeated, and then nothing is sent at all.
    #[must_use]
    pub fn count_for(soft: u64) -> (u64, u64) {
        if soft == UNLIMITED {
            (UNLIMITED, 0)
        } else {
            (soft.saturating_mul(2), soft / 10)
        }
    }

    /// Draws the soft limits of one CHILD_SA whose sequence numbers end at `last`: they force a rekey
    /// when three quarters are used.
    pub(crate) fn draw(&self, last: u64, rng: &mut dyn Rng) -> Soft {
        let time = earlier(self.rekey_time, self.rand_time, rng);
        let bytes = fewer(self.rekey_bytes, self.rand_bytes, rng);
        let packets = fewer(self.rekey_packets, self.rand_packets, rng);
        let quarter = last / 4;
        let numbers = fewer(last - quarter, quarter / 4, rng);
        Soft {
            time,
            bytes,
            packets: packets.min(numbers),
        }
    }

    /// Whether each hard limit leaves time to reach the soft one first.
    pub(crate) fn is_ordered(&self) -> bool {
        let ordered = |soft, hard| soft == UNLIMITED || soft < hard;
        self.rekey_time < self.life_time
            && ordered(self.rekey_bytes, self.life_bytes)
            && ordered(self.rekey_packets, self.life_packets)
    }
}

/// The soft limits of one CHILD_SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Soft {
    pub(crate) time: Duration,
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
}

/// Lifetime of an IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IkeLifetime {
    /// Age at which it is rekeyed, with its children; zero: never.
    pub rekey_time: Duration,
    /// A client replaces it by one that authenticates anew after this time (make-before-break),
    /// rekeyed or not; zero: never.
    pub reauth_time: Duration,
    /// After its rekey was due for so long, it ends.
    pub over_time: Duration,
    /// It is rekeyed or replaced up to so much earlier, at random.
    pub rand_time: Duration,
}

impl Default for IkeLifetime {
    /// swanctl's: rekeyed after four hours, never authenticated anew.
    fn default() -> Self {
        Self::new(Duration::from_secs(4 * 3600))
    }
}

impl IkeLifetime {
    /// Rekeyed at this age; never authenticated anew.
    #[must_use]
    pub fn new(rekey_time: Duration) -> Self {
        Self {
            rekey_time,
            reauth_time: Duration::ZERO,
            over_time: Self::over_time_for(rekey_time),
            rand_time: rekey_time / 10,
        }
    }

    /// What is left after the soft limit: a tenth, as swanctl has it, and at least five minutes: a
    /// rekey that nobody answers is given up after three.
    #[must_use]
    pub fn over_time_for(rekey_time: Duration) -> Duration {
        (rekey_time / 10).max(Duration::from_secs(300))
    }

    /// Draws the age at which one IKE SA is rekeyed.
    pub(crate) fn draw_rekey(&self, rng: &mut dyn Rng) -> Option<Duration> {
        (!self.rekey_time.is_zero()).then(|| earlier(self.rekey_time, self.rand_time, rng))
    }

    /// Draws the age at which one is replaced by one that authenticates anew.
    pub(crate) fn draw_reauth(&self, rng: &mut dyn Rng) -> Option<Duration> {
        (!self.reauth_time.is_zero()).then(|| earlier(self.reauth_time, self.rand_time, rng))
    }

    /// The age at which one ends.
    pub(crate) fn hard(&self) -> Option<Duration> {
        (!self.rekey_time.is_zero()).then(|| self.rekey_time + self.over_time)
    }
}

/// `limit`, less a random part of `rand`, and of at most half of `limit`.
fn earlier(limit: Duration, rand: Duration, rng: &mut dyn Rng) -> Duration {
    limit - rand.min(limit / 2).mul_f64(unit(rng))
}

/// The same for a count; [`UNLIMITED`] stays so.
fn fewer(limit: u64, rand: u64, rng: &mut dyn Rng) -> u64 {
    if limit == UNLIMITED {
        return limit;
    }
    let most = rand.min(limit / 2);
    let part = u128::from(most) * u128::from(rng.next_u32()) / u128::from(u32::MAX);
    limit - u64::try_from(part).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn soft_limits_come_early_by_chance_and_never_late() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let lifetime = ChildLifetime {
            rekey_bytes: 1000,
            rand_bytes: 100,
            rekey_packets: 500,
            rand_packets: 500,
            ..ChildLifetime::new(100 * SECOND)
        };
        let drawn: Vec<_> = (0..500)
            .map(|_| lifetime.draw(u64::MAX, &mut rng))
            .collect();
        assert!(
            drawn
                .iter()
                .all(|s| (90 * SECOND..=100 * SECOND).contains(&s.time))
        );
        assert!(drawn.iter().all(|s| (900..=1000).contains(&s.bytes)));
        // Never by more than half, whatever is configured.
        assert!(drawn.iter().all(|s| (250..=500).contains(&s.packets)));
        assert!(drawn.iter().any(|s| s.time < 92 * SECOND));
        assert!(drawn.iter().any(|s| s.bytes > 990));
    }

    #[test]
    fn sequence_numbers_force_a_rekey_long_before_they_end() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        for last in [u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            for _ in 0..100 {
                let soft = ChildLifetime::default().draw(last, &mut rng);
                assert!(soft.packets <= last - last / 4);
                assert!(soft.packets >= last / 2);
                assert_eq!(soft.bytes, UNLIMITED);
            }
        }
    }

    #[test]
    fn defaults_are_ordered() {
        for seconds in [1, 60, 3600, 86400] {
            assert!(ChildLifetime::new(seconds * SECOND).is_ordered());
        }
        assert_eq!(ChildLifetime::count_for(UNLIMITED), (UNLIMITED, 0));
        assert_eq!(ChildLifetime::count_for(1000), (2000, 100));
        for soft in [1, 10, 1 << 40, UNLIMITED - 1] {
            let (hard, rand) = ChildLifetime::count_for(soft);
            assert!(hard > soft && rand <= soft);
        }
        let reversed = ChildLifetime {
            life_packets: 5,
            rekey_packets: 5,
            ..ChildLifetime::default()
        };
        assert!(!reversed.is_ordered());
        assert_eq!(IkeLifetime::new(Duration::ZERO).hard(), None);
    }
}
