//! Bounds on what datagrams that belong to no IKE SA can cost us: they cost their sender nothing.

use core::time::Duration;

use mitregate_ike::{CookieCheck, CookieJar};
use rand_core::CryptoRng;

/// Datagrams answered in one second.
const PER_SECOND: u32 = 100;
/// Cookies given out in one second. One costs a hash, and is shorter than what asked for it.
const COOKIES_PER_SECOND: u32 = 1000;

#[derive(Debug)]
struct Limiter {
    per_second: u32,
    second: u64,
    used: u32,
}

impl Limiter {
    const fn new(per_second: u32) -> Self {
        Self {
            per_second,
            second: 0,
            used: 0,
        }
    }

    fn is_spent(&self, now: Duration) -> bool {
        now.as_secs() == self.second && self.used >= self.per_second
    }

    fn take(&mut self, now: Duration) -> bool {
        if self.is_spent(now) {
            return false;
        }
        if now.as_secs() != self.second {
            self.second = now.as_secs();
            self.used = 0;
        }
        self.used += 1;
        true
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

/// Lets strays in: freely while there are few, and under load only those who show by a cookie that
/// they receive at their address (RFC 7296 §2.6). These have a quota of their own, so that forged
/// senders keep nobody out.
pub(crate) struct Doorman {
    anybody: Limiter,
    returned: Limiter,
    cookies: Limiter,
    jar: CookieJar,
}

impl Doorman {
    pub(crate) fn new(now: Duration, rng: &mut dyn CryptoRng) -> Self {
        Self {
            anybody: Limiter::new(PER_SECOND),
            returned: Limiter::new(PER_SECOND),
            cookies: Limiter::new(COOKIES_PER_SECOND),
            jar: CookieJar::new(now, rng),
        }
    }

    /// `busy`: there are many half-open IKE SAs.
    pub(crate) fn admit(
        &mut self,
        now: Duration,
        remote: core::net::SocketAddr,
        message: &[u8],
        busy: bool,
        rng: &mut dyn CryptoRng,
    ) -> Admission {
        let quota = if busy || self.anybody.is_spent(now) {
            match self.jar.check(remote, message, now, rng) {
                CookieCheck::Valid => &mut self.returned,
                CookieCheck::NotFirst => &mut self.anybody,
                CookieCheck::Demand(reply) if self.cookies.take(now) => {
                    return Admission::Answer(reply);
                }
                CookieCheck::Demand(_) => return Admission::Refused,
            }
        } else {
            &mut self.anybody
        };
        if quota.take(now) {
            Admission::Granted
        } else {
            Admission::Refused
        }
    }
}
