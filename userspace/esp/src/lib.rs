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
pub use counters::{Counter, LARGE, SaCounters};
pub use ids::{EpochId, TunnelId, WorkerId};
pub use inbound::{InboundSa, InboundState, OpenError, Opened};
pub use outbound::{
    HEADROOM, MAX_TAILROOM, OutboundSa, OutboundState, SealError, max_inner, sealed_len,
};
pub use replay::{MIN_REPLAY_WINDOW, ReplayWindow};
pub use suite::{CipherSuite, SaKey};

use mitregate_wire::esp::Spi;

/// Nonce: salt, then the explicit IV (RFC 4106 §4, RFC 7634 §2).
#[inline]
fn nonce(salt: [u8; 4], iv: [u8; 8]) -> [u8; 12] {
    // Put together in registers: written to the stack in two pieces and read back in two others, it
    // would make the processor wait.
    let whole = u128::from(u32::from_le_bytes(salt)) | u128::from(u64::from_le_bytes(iv)) << 32;
    let [nonce @ .., _, _, _, _] = whole.to_le_bytes();
    nonce
}

/// Additional authenticated data (RFC 4106 §5, RFC 7634 §2.1): the SPI and the sequence number as
/// 64 bits with ESN, as 32 without.
struct Aad([u8; 16], usize);

impl Aad {
    #[inline]
    fn new(spi: Spi, sequence: u64, esn: bool) -> Self {
        let (spi, low) = (u128::from(spi.get()), u128::from(sequence & 0xffff_ffff));
        if esn {
            Self((spi << 96 | u128::from(sequence) << 32).to_be_bytes(), 12)
        } else {
            Self((spi << 96 | low << 64).to_be_bytes(), 8)
        }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// The last sequence number (RFC 4303 §2.2.1).
const fn last_sequence(esn: bool) -> u64 {
    if esn { u64::MAX } else { u32::MAX as u64 }
}
