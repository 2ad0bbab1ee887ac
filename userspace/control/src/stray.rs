//! Bounds on what datagrams that belong to no IKE SA can cost us: they cost their sender nothing.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;

use mitregate_ike::{CookieCheck, CookieJar, is_first};
use rand_core::CryptoRng;

use crate::Strangers;

/// How long a sender is known that was let in, and up to as long again.
const MEMORY: Duration = Duration::from_secs(10);
/// Messages that are no first ones and that are looked at, to be answered INVALID_IKE_SPI or the like,
/// in one second.
const STRAYS_PER_SECOND: u32 = 100;
/// Senders share this many quotas of cookies, by a secret hash: who floods us takes the cookies of few
/// others, and who forges senders must flood all.
const COOKIE_QUOTAS: usize = 1024;
/// Cookies of one such quota in one second. One costs a hash, and is shorter than what asked for it.
const COOKIES_PER_SECOND: u32 = 64;

/// Who sends: an IPv4 address, or the IPv6 network of one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source(bool, u64);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self(false, u32::from(v4).into()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments().map(u64::from);
                Self(true, a << 48 | b << 32 | c << 16 | d)
            }
        }
    }
}

/// So many in a second, evenly, and half as many at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limiter {
    /// When all that was taken would be due.
    due: Duration,
}

impl Limiter {
    fn allows(self, now: Duration) -> bool {
        self.due <= now + Duration::from_millis(500)
    }

    pub(crate) fn take(&mut self, now: Duration, per_second: u32) -> bool {
        let allowed = self.allows(now);
        if allowed {
            self.due = self.due.max(now) + Duration::from_secs(1) / per_second;
        }
        allowed
    }
}

/// How often each sender was let in lately. What is in here was paid for from a quota, so it is bounded.
#[derive(Default)]
struct Memory {
    current: BTreeMap<Source, u32>,
    previous: BTreeMap<Source, u32>,
    since: Duration,
}

impl Memory {
    fn count(&mut self, source: Source, now: Duration) -> u32 {
        let age = now.saturating_sub(self.since);
        if age >= MEMORY {
            self.previous = core::mem::take(&mut self.current);
            if age >= 2 * MEMORY {
                self.previous.clear();
            }
            self.since = now;
        }
        let of = |map: &BTreeMap<Source, u32>| map.get(&source).copied().unwrap_or(0);
        of(&self.current) + of(&self.previous)
    }

    fn note(&mut self, source: Source) {
        *self.current.entry(source).or_default() += 1;
    }
}

/// What to do with a stray datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Look at it.
    Granted,
    /// Send this back, keep nothing.
    Answer(Vec<u8>),
    Refused,
}

/// How many half-open IKE SAs there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// So many that senders are to show that they receive at their address.
    pub(crate) busy: bool,
    /// Of this sender.
    pub(crate) of_source: usize,
}

/// Lets strays in: freely while there are few, and under load only those who show by a cookie that
/// they receive at their address (RFC 7296 §2.6). These have quotas of their own, so that forged
/// senders keep nobody out; and one of them that comes seldom is let in before one that comes often.
pub(crate) struct Doorman {
    limits: Strangers,
    anybody: Limiter,
    new: Limiter,
    again: Limiter,
    strays: Limiter,
    cookies: Vec<Limiter>,
    /// Which quota a sender has is nobody's business.
    hash_key: u64,
    memory: Memory,
    jar: CookieJar,
}

impl Doorman {
    pub(crate) fn new(now: Duration, limits: Strangers, rng: &mut dyn CryptoRng) -> Self {
        Self {
            limits,
            anybody: Limiter::default(),
            new: Limiter::default(),
            again: Limiter::default(),
            strays: Limiter::default(),
            cookies: vec![Limiter::default(); COOKIE_QUOTAS],
            hash_key: rng.next_u64(),
            memory: Memory::default(),
            jar: CookieJar::new(now, rng),
        }
    }

    pub(crate) fn admit(
        &mut self,
        now: Duration,
        remote: SocketAddr,
        message: &[u8],
        load: Load,
        rng: &mut dyn CryptoRng,
    ) -> Admission {
        let grant = |granted| {
            if granted {
                Admission::Granted
            } else {
                Admission::Refused
            }
        };
        if !is_first(message) {
            return grant(self.strays.take(now, STRAYS_PER_SECOND));
        }
        let trusted = !load.busy && load.of_source < self.limits.cookie_threshold;
        if trusted && self.anybody.take(now, self.limits.inits_per_second) {
            return Admission::Granted;
        }
        let source = Source::from(remote.ip());
        match self.jar.check(remote, message, now, rng) {
            CookieCheck::Valid => grant(self.admit_known(now, source, load)),
            CookieCheck::NotFirst => Admission::Refused,
            CookieCheck::Demand(reply) => {
                let quota = self.quota(source);
                let cookies = self.cookies.get_mut(quota);
                if cookies.is_some_and(|quota| quota.take(now, COOKIES_PER_SECOND)) {
                    Admission::Answer(reply)
                } else {
                    Admission::Refused
                }
            }
        }
    }

    /// A sender that receives at its address.
    fn admit_known(&mut self, now: Duration, source: Source, load: Load) -> bool {
        let count = self.memory.count(source, now);
        if load.of_source >= self.limits.half_open_per_source
            || count >= self.limits.inits_per_source
        {
            return false;
        }
        let granted = if count == 0 {
            self.new.take(now, self.limits.inits_per_second)
        } else {
            self.again
                .take(now, (self.limits.inits_per_second / 2).max(1))
        };
        if granted {
            self.memory.note(source);
        }
        granted
    }

    fn quota(&self, source: Source) -> usize {
        let mut hash = source.1 ^ self.hash_key ^ u64::from(source.0);
        for _ in 0..2 {
            hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93 ^ (self.hash_key | 1));
        }
        usize::try_from(hash >> 54).unwrap_or(0) % COOKIE_QUOTAS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_and_not_saved_up() {
        let mut limiter = Limiter::default();
        let mut taken = |from: u64, to: u64| {
            let at = (from..to).map(Duration::from_millis);
            at.filter(|now| limiter.take(*now, 100)).count()
        };
        let first = taken(10_000, 11_000);
        assert!((149..=152).contains(&first), "{first}");
        let second = taken(11_000, 12_000);
        assert!((99..=101).contains(&second), "{second}");
        let later = taken(100_000, 101_000);
        assert!((149..=152).contains(&later), "{later}");
    }

    #[test]
    fn a_site_is_one_source() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        // 0:0:c000:201::
        assert_ne!(source("192.0.2.1"), source("0:0:c000:201::"));
    }

    #[test]
    fn memory_forgets() {
        let mut memory = Memory::default();
        let source = Source(false, 1);
        let secs = Duration::from_secs;
        assert_eq!(memory.count(source, secs(100)), 0);
        memory.note(source);
        assert_eq!(memory.count(source, secs(109)), 1);
        assert_eq!(memory.count(source, secs(110)), 1);
        memory.note(source);
        assert_eq!(memory.count(source, secs(119)), 2);
        assert_eq!(memory.count(source, secs(120)), 1);
        assert_eq!(memory.count(source, secs(140)), 0);
        assert!(memory.current.is_empty() && memory.previous.is_empty());
    }
}
