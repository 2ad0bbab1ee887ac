//! Tickets of session resumption (RFC 5723): what a gateway needs to go on with a session, sealed for
//! itself and kept by the client ("ticket by value").

use core::time::Duration;

use aws_lc_rs::{aead, digest, hmac};
use mitregate_wire::ike::IdType;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::Identity;
use crate::config::{IkeConfig, RemoteAuth};
use crate::crypto::Secret;
use crate::proposal::{IkeProposal, IkeSuite, choose_ike, offer_ike};

/// How long a ticket is good for: as long as IKE SAs live between two full authentications by default.
const LIFETIME: Duration = Duration::from_secs(4 * 3600);
/// How long after a full authentication sessions go on by tickets, each of the next from the one before.
const CHAIN: Duration = Duration::from_secs(24 * 3600);
/// Each day has a key of its own.
const DAY: u64 = 24 * 3600;
const VERSION: u8 = 1;
const NONCE_LEN: usize = 12;
/// Version, day, nonce.
const HEAD_LEN: usize = 1 + 4 + NONCE_LEN;
/// None of ours comes near; no longer one is looked at.
const MAX_LEN: usize = 4096;
/// Names the derivation.
const LABEL: &[u8] = b"Mitregate session resumption ticket";

/// A gateway's secret, of which the key of each day is made. Where it outlives a restart, so do the
/// tickets.
pub struct TicketKeys(Zeroizing<[u8; Self::LEN]>);

/// What a ticket says (RFC 5723 §A.1).
pub(crate) struct TicketState {
    /// Wall-clock seconds.
    pub(crate) expires: u64,
    /// When the peer last authenticated by its credential, in wall-clock seconds.
    pub(crate) authenticated: u64,
    /// With the additional key exchanges that went into `sk_d`.
    pub(crate) suite: IkeSuite,
    pub(crate) sk_d: Secret,
    pub(crate) peer_id: Identity,
    pub(crate) local_id: Identity,
    /// Name of the connection.
    pub(crate) connection: String,
    /// Of what the peer authenticated with.
    pub(crate) credential: Vec<u8>,
}

/// A client's ticket, with what goes with it. Holds a secret, so it has no `Debug`.
pub struct ResumptionTicket {
    pub(crate) opaque: Vec<u8>,
    /// By the clock of [`Ctx::now`](crate::Ctx::now).
    pub(crate) expires: Duration,
    pub(crate) suite: IkeSuite,
    pub(crate) sk_d: Secret,
    pub(crate) peer_id: Identity,
    pub(crate) local_id: Identity,
}

impl ResumptionTicket {
    /// Is it worth showing?
    #[must_use]
    pub fn is_valid(&self, now: Duration) -> bool {
        now < self.expires
    }
}

/// The fingerprint of the shared secret, or of all that certificates are judged by: another one, and
/// the tickets are void. It is only ever inside tickets.
pub(crate) fn credential(config: &IkeConfig) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    match &config.remote_auth {
        RemoteAuth::Psk(psk) => {
            context.update(b"psk");
            context.update(psk.bytes());
        }
        RemoteAuth::Pubkey(trust) => {
            context.update(b"pubkey");
            context.update(&trust.fingerprint());
        }
    }
    context.finish().as_ref().to_vec()
}

/// Until when a ticket given at `now` is good for a peer that authenticated at `authenticated`, both in
/// wall-clock seconds.
pub(crate) fn expiry(now: u64, authenticated: u64) -> u64 {
    (now + LIFETIME.as_secs()).min(authenticated + CHAIN.as_secs())
}

/// The longest that a client keeps a ticket, whatever the gateway says.
pub(crate) const MAX_LIFETIME: Duration = CHAIN;

impl TicketKeys {
    /// Length of the secret in bytes.
    pub const LEN: usize = 32;

    /// Takes the secret over.
    #[must_use]
    pub const fn new(secret: Zeroizing<[u8; Self::LEN]>) -> Self {
        Self(secret)
    }

    /// A fresh one.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut secret = Zeroizing::new([0; Self::LEN]);
        rng.fill_bytes(&mut *secret);
        Self(secret)
    }

    fn key(&self, day: u32) -> Option<aead::LessSafeKey> {
        let mut context =
            hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice()));
        context.update(LABEL);
        context.update(&day.to_be_bytes());
        let key = Zeroizing::new(context.sign().as_ref().to_vec());
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &key).ok()?;
        Some(aead::LessSafeKey::new(key))
    }

    /// The ticket.
    pub(crate) fn seal(
        &self,
        state: &TicketState,
        now: u64,
        rng: &mut dyn CryptoRng,
    ) -> Option<Vec<u8>> {
        let day = u32::try_from(now / DAY).ok()?;
        let mut nonce = [0; NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let mut out = vec![VERSION];
        out.extend_from_slice(&day.to_be_bytes());
        out.extend_from_slice(&nonce);
        let mut inner = state.emit()?;
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let aad = aead::Aad::from(out.as_slice());
        let tag = self
            .key(day)?
            .seal_in_place_separate_tag(nonce, aad, &mut inner)
            .ok()?;
        out.extend_from_slice(&inner);
        out.extend_from_slice(tag.as_ref());
        (out.len() <= MAX_LEN).then_some(out)
    }

    /// What a ticket of ours says, if it is not expired.
    pub(crate) fn open(&self, ticket: &[u8], now: u64) -> Option<TicketState> {
        let (head, sealed) = ticket.split_first_chunk::<HEAD_LEN>()?;
        let [version, d0, d1, d2, d3, nonce @ ..] = *head;
        let day = u32::from_be_bytes([d0, d1, d2, d3]);
        let age = (now / DAY).checked_sub(day.into())?;
        if version != VERSION || age > 1 || ticket.len() > MAX_LEN {
            return None;
        }
        let mut inner = Zeroizing::new(sealed.to_vec());
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let plain = self
            .key(day)?
            .open_in_place(nonce, aead::Aad::from(head.as_slice()), &mut inner)
            .ok()?;
        TicketState::parse(plain).filter(|state| now < state.expires)
    }
}

impl TicketState {
    fn emit(&self) -> Option<Secret> {
        let suite = self.suite.to_string();
        let id = |id: &Identity| [&[id.kind().0], id.data()].concat();
        let (peer_id, local_id) = (id(&self.peer_id), id(&self.local_id));
        let fields: [&[u8]; 6] = [
            suite.as_bytes(),
            &self.sk_d,
            &peer_id,
            &local_id,
            self.connection.as_bytes(),
            &self.credential,
        ];
        let len = 16 + fields.iter().map(|field| 2 + field.len()).sum::<usize>();
        // With its final size from the start, so that growing leaves no copy behind.
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        out.extend_from_slice(&self.expires.to_be_bytes());
        out.extend_from_slice(&self.authenticated.to_be_bytes());
        for field in fields {
            out.extend_from_slice(&u16::try_from(field.len()).ok()?.to_be_bytes());
            out.extend_from_slice(field);
        }
        Some(out)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (expires, rest) = bytes.split_first_chunk::<8>()?;
        let (authenticated, mut rest) = rest.split_first_chunk::<8>()?;
        let mut field = || {
            let (len, tail) = rest.split_first_chunk::<2>()?;
            let (field, tail) = tail.split_at_checked(u16::from_be_bytes(*len).into())?;
            rest = tail;
            Some(field)
        };
        let text = |bytes: &[u8]| core::str::from_utf8(bytes).ok().map(ToOwned::to_owned);
        let id = |bytes: &[u8]| {
            let (kind, data) = bytes.split_first()?;
            Some(Identity::new(IdType(*kind), data.to_vec()))
        };
        let suite = [text(field()?)?.parse::<IkeProposal>().ok()?];
        let (suite, _) = choose_ike(&suite, &offer_ike(&suite, &[]), None)?;
        Some(Self {
            expires: u64::from_be_bytes(*expires),
            authenticated: u64::from_be_bytes(*authenticated),
            suite,
            sk_d: Zeroizing::new(field()?.to_vec()),
            peer_id: id(field()?)?,
            local_id: id(field()?)?,
            connection: text(field()?)?,
            credential: field()?.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn state(suite: &str) -> TicketState {
        let suite = [suite.parse::<IkeProposal>().unwrap()];
        TicketState {
            expires: 2_000_000,
            authenticated: 1_900_000,
            suite: choose_ike(&suite, &offer_ike(&suite, &[]), None).unwrap().0,
            sk_d: Zeroizing::new(vec![7; 48]),
            peer_id: "client@lab".parse().unwrap(),
            local_id: "10.0.0.1".parse().unwrap(),
            connection: "home".to_owned(),
            credential: vec![9; 32],
        }
    }

    #[test]
    fn a_ticket_says_what_was_put_in() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let keys = TicketKeys::generate(&mut rng);
        for suite in [
            "aes256gcm16-prfsha384-x25519",
            "chacha20poly1305-prfsha256-ecp256",
            "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
            "aes128-sha256-modp2048",
        ] {
            let state = state(suite);
            let ticket = keys.seal(&state, 1_990_000, &mut rng).unwrap();
            let back = keys.open(&ticket, 1_999_999).unwrap();
            assert_eq!(back.suite, state.suite);
            assert_eq!(*back.sk_d, *state.sk_d);
            assert_eq!(
                (&back.peer_id, &back.local_id),
                (&state.peer_id, &state.local_id)
            );
            assert_eq!((back.expires, back.authenticated), (2_000_000, 1_900_000));
            assert_eq!(
                (back.connection, back.credential),
                (state.connection, state.credential)
            );
            assert!(keys.open(&ticket, 2_000_000).is_none(), "expired");
            // Nothing in it is in clear.
            assert!(!ticket.windows(4).any(|w| w == b"home" || w == [7; 4]));
        }
    }

    #[test]
    fn nothing_else_opens() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let keys = TicketKeys::generate(&mut rng);
        let ticket = keys.seal(&state("aes128gcm16-prfsha256-x25519"), 1_990_000, &mut rng);
        let ticket = ticket.unwrap();
        for bit in 0..ticket.len() * 8 {
            let mut bad = ticket.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(keys.open(&bad, 1_990_000).is_none());
        }
        for len in 0..ticket.len() {
            assert!(keys.open(&ticket[..len], 1_990_000).is_none());
        }
        let other = TicketKeys::generate(&mut rng);
        assert!(other.open(&ticket, 1_990_000).is_none());
        // The wall clock went back, or two days on.
        assert!(keys.open(&ticket, 1_990_000 - 2 * DAY).is_none());
    }

    #[test]
    fn a_chain_of_tickets_ends_a_day_after_the_last_full_authentication() {
        let hours = |n: u64| n * 3600;
        assert_eq!(expiry(hours(100), hours(100)), hours(104));
        assert_eq!(expiry(hours(122), hours(100)), hours(124));
        assert_eq!(expiry(hours(125), hours(100)), hours(124));
    }
}
