//! One ESP security association (RFC 4303, tunnel mode): sequence numbers, replay window, AEAD
//! providers, seal and open in place.
//!
//! ```text
//!  buf: … | SPI seq | IV | inner packet | TFC zeros | pad, pad length, next header | ICV | …
//!           8         8    inner range                1..=3 + 2                      16
//!         └────────────── the range that `seal` returns and `open` takes ──────────────┘
//! ```
//!
//! Nothing here allocates per packet, waits, or knows the time. An SA has one owner, so it needs no
//! atomics; what others may read are its [`SaCounters`].
#![forbid(unsafe_code)]

pub mod aead;
mod counters;
pub mod ids;
mod inbound;
mod outbound;
mod replay;
mod suite;

pub use aead::Provider;
pub use counters::{Counter, SaCounters};
pub use ids::{EpochId, TunnelId, WorkerId};
pub use inbound::{InboundSa, InboundState, OpenError, Opened};
pub use outbound::{HEADROOM, MAX_TAILROOM, OutboundSa, OutboundState, SealError, sealed_len};
pub use replay::{MIN_REPLAY_WINDOW, ReplayWindow};
pub use suite::{CipherSuite, SaKey};

use mitregate_wire::esp::Spi;

/// Nonce: salt, then the explicit IV (RFC 4106 §4, RFC 7634 §2).
fn nonce(salt: [u8; 4], iv: [u8; 8]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&salt);
    nonce[4..].copy_from_slice(&iv);
    nonce
}

/// Additional authenticated data (RFC 4106 §5, RFC 7634 §2.1): the SPI and the sequence number as
/// 64 bits with ESN, as 32 without.
struct Aad([u8; 12], usize);

impl Aad {
    fn new(spi: Spi, sequence: u64, esn: bool) -> Self {
        let mut aad = [0; 12];
        aad[..4].copy_from_slice(&spi.to_be_bytes());
        let sequence = sequence.to_be_bytes();
        if esn {
            aad[4..].copy_from_slice(&sequence);
            Self(aad, 12)
        } else {
            aad[4..8].copy_from_slice(&sequence[4..]);
            Self(aad, 8)
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// The last sequence number (RFC 4303 §2.2.1).
const fn last_sequence(esn: bool) -> u64 {
    if esn { u64::MAX } else { u32::MAX as u64 }
}
