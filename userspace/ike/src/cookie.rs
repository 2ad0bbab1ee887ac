//! Cookies, RFC 7296 §2.6: a responder under load makes an initiator show that it receives at
//! its address, without keeping anything about it.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use aws_lc_rs::hmac;
use mitregate_wire::ike::{Header, Message, Notify, NotifyType, Payload};
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::is_first;
use crate::stateless::reply;

/// How long a secret makes cookies; they stay good for as long again.
const LIFETIME: Duration = Duration::from_secs(60);

/// The secrets that cookies are made with.
pub struct CookieJar {
    current: Secret,
    previous: Option<Secret>,
    since: Duration,
}

/// Its first byte names it in the cookie ("VersionIDofSecret").
struct Secret(Zeroizing<[u8; 33]>);

/// What a first message carries.
#[derive(Debug, PartialEq, Eq)]
pub enum CookieCheck {
    /// A cookie of ours for this address: go on to [`IkeSa::respond`](crate::IkeSa::respond).
    Valid,
    /// None: send this back, keep nothing.
    Demand(Vec<u8>),
    /// It is no request of IKE_SA_INIT or IKE_SESSION_RESUME.
    NotFirst,
}

impl Secret {
    fn new(version: u8, rng: &mut dyn CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([version; 33]);
        rng.fill_bytes(&mut bytes[1..]);
        Self(bytes)
    }

    fn cookie(&self, nonce: &[u8], address: IpAddr, spi: &[u8]) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0[1..]);
        let mut context = hmac::Context::with_key(&key);
        context.update(spi);
        match address {
            IpAddr::V4(ip) => context.update(&ip.octets()),
            IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        context.update(nonce);
        [&self.0[..1], context.sign().as_ref()].concat()
    }
}

impl CookieJar {
    /// With a fresh secret.
    pub fn new(now: Duration, rng: &mut dyn CryptoRng) -> Self {
        Self {
            current: Secret::new(0, rng),
            previous: None,
            since: now,
        }
    }

    /// Looks at a first message from `remote`. Changes nothing but the secrets, as they age.
    pub fn check(
        &mut self,
        remote: SocketAddr,
        message: &[u8],
        now: Duration,
        rng: &mut dyn CryptoRng,
    ) -> CookieCheck {
        self.rotate(now, rng);
        if !is_first(message) {
            return CookieCheck::NotFirst;
        }
        let (Ok(header), Ok(message)) = (Header::parse(message), Message::parse(message)) else {
            return CookieCheck::NotFirst;
        };
        let nonce = message.payloads.iter().find_map(|p| match p {
            Payload::Nonce(nonce) => Some(nonce),
            _ => None,
        });
        let Some(nonce) = nonce else {
            return CookieCheck::NotFirst;
        };
        let good = |cookie: &[u8]| {
            [Some(&self.current), self.previous.as_ref()]
                .into_iter()
                .flatten()
                .map(|secret| secret.cookie(nonce, remote.ip(), &message.spi_i.0))
                .any(|expected| bool::from(expected.ct_eq(cookie)))
        };
        // RFC 7296 §2.6: it is the first payload of the repeated request.
        if let Some(Payload::Notify(notify)) = message.payloads.first()
            && notify.kind == NotifyType::COOKIE
            && good(&notify.data)
        {
            return CookieCheck::Valid;
        }
        let cookie = self.current.cookie(nonce, remote.ip(), &message.spi_i.0);
        match reply(&header, Notify::with_data(NotifyType::COOKIE, cookie)) {
            Some(reply) => CookieCheck::Demand(reply),
            None => CookieCheck::NotFirst,
        }
    }

    fn rotate(&mut self, now: Duration, rng: &mut dyn CryptoRng) {
        let age = now.saturating_sub(self.since);
        if age < LIFETIME {
            return;
        }
        let fresh = Secret::new(self.current.0[0].wrapping_add(1), rng);
        let retired = core::mem::replace(&mut self.current, fresh);
        self.previous = (age < 2 * LIFETIME).then_some(retired);
        self.since = now;
    }
}
