//! The sending half: seal in place.

use core::ops::Range;

use mitregate_wire::esp::{ALIGN, HEADER_LEN, ICV_LEN, IV_LEN, Spi, TRAILER_LEN};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::aead::{Aead, Provider};
use crate::suite::{CipherSuite, SaKey};
use crate::{Aad, last_sequence, nonce};

/// Bytes that sealing needs before the inner packet: header and IV.
pub const HEADROOM: usize = HEADER_LEN + IV_LEN;
/// Most bytes that sealing needs behind it, TFC padding apart: padding, trailer and ICV.
pub const MAX_TAILROOM: usize = ALIGN - 1 + TRAILER_LEN + ICV_LEN;

/// Length of the ESP packet around `inner_len` bytes, of which TFC padding may be a part.
#[must_use]
pub const fn sealed_len(inner_len: usize) -> usize {
    HEADROOM + (inner_len + TRAILER_LEN).next_multiple_of(ALIGN) + ICV_LEN
}

/// The longest inner packet whose ESP packet is not above `max_esp` bytes; the reverse of [`sealed_len`].
#[must_use]
pub const fn max_inner(max_esp: usize) -> usize {
    let text = max_esp.saturating_sub(HEADROOM + ICV_LEN) / ALIGN * ALIGN;
    text.saturating_sub(TRAILER_LEN)
}

/// Why a packet was not sealed. Its buffer is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SealError {
    /// Not enough room before or behind the inner packet, or a range outside the buffer.
    #[error("no room around the packet")]
    NoRoom,
    /// All sequence numbers are used up: the SA must not send again (RFC 4303 §3.3.3).
    #[error("sequence numbers exhausted")]
    SeqExhausted,
}

/// What survives of an outbound SA beside its key: enough to go on sending elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboundState {
    /// Last sequence number used, 0 for none.
    pub sequence: u64,
}

/// An SA that we send on.
pub struct OutboundSa {
    aead: Aead,
    /// Last sequence number used.
    sequence: u64,
    last: u64,
    spi: Spi,
    salt: Zeroizing<[u8; CipherSuite::SALT_LEN]>,
    esn: bool,
}

impl OutboundSa {
    /// A fresh SA; `spi` is the one that the peer chose. Use a key once: two SAs with one key would
    /// use the same nonces.
    #[must_use]
    pub fn new(spi: Spi, key: &SaKey, provider: Provider, esn: bool) -> Self {
        let last = last_sequence(esn);
        Self {
            aead: key.aead(provider),
            sequence: 0,
            last,
            spi,
            salt: key.salt().into(),
            esn,
        }
    }

    /// Where the packets go.
    #[must_use]
    pub const fn spi(&self) -> Spi {
        self.spi
    }

    /// Last sequence number used, 0 for none.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Packets that can still be sealed.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.last - self.sequence
    }

    /// Bytes before and, at most, behind the inner packet.
    #[must_use]
    pub const fn overhead(&self) -> (usize, usize) {
        (HEADROOM, MAX_TAILROOM)
    }

    /// Seals the packet that lies in `buf[inner]` in place and returns the range of the whole ESP
    /// packet, from SPI to ICV. `tfc_pad` zero bytes follow the inner packet (RFC 4303 §2.7), which
    /// must then tell its own length.
    ///
    /// The IV is the sequence number: it never repeats under one key (RFC 4106 §3.1).
    pub fn seal(
        &mut self,
        buf: &mut [u8],
        inner: Range<usize>,
        next_header: u8,
        tfc_pad: usize,
    ) -> Result<Range<usize>, SealError> {
        let inner_len = buf.get(inner.clone()).ok_or(SealError::NoRoom)?.len();
        let start = inner.start.checked_sub(HEADROOM).ok_or(SealError::NoRoom)?;
        // Two lengths of slices, or less: their sum is no overflow.
        let end = start + sealed_len(inner_len + tfc_pad.min(buf.len()));
        let packet = buf.get_mut(start..end).ok_or(SealError::NoRoom)?;
        if self.sequence >= self.last {
            return Err(SealError::SeqExhausted);
        }
        // Counted before the cipher runs: whatever happens, this nonce is spent.
        self.sequence += 1;
        let sequence = self.sequence;

        let (head, rest) = packet
            .split_first_chunk_mut::<HEADROOM>()
            .ok_or(SealError::NoRoom)?;
        let (text, icv) = rest
            .split_last_chunk_mut::<ICV_LEN>()
            .ok_or(SealError::NoRoom)?;
        // SPI, low half of the sequence number, and the sequence number as IV, in one store.
        let low = u128::from(sequence & 0xffff_ffff);
        let spi = u128::from(self.spi.get());
        *head = (spi << 96 | low << 64 | u128::from(sequence)).to_be_bytes();
        let iv = sequence.to_be_bytes();

        let (_, trailer) = text.split_at_mut(inner_len);
        let (tfc, trailer) = trailer.split_at_mut(tfc_pad);
        if tfc_pad > 0 {
            tfc.fill(0);
        }
        // Padding is 1, 2, 3 (RFC 4303 §2.4), then its length.
        match trailer {
            [len, next] => (*len, *next) = (0, next_header),
            [a, len, next] => (*a, *len, *next) = (1, 1, next_header),
            [a, b, len, next] => (*a, *b, *len, *next) = (1, 2, 2, next_header),
            [a, b, c, len, next] => (*a, *b, *c, *len, *next) = (1, 2, 3, 3, next_header),
            _ => return Err(SealError::NoRoom),
        }

        let aad = Aad::new(self.spi, sequence, self.esn);
        // Only a text beyond the cipher's limit (tens of gigabytes) can fail.
        self.aead
            .seal_into(nonce(*self.salt, iv), aad.as_bytes(), text, icv)
            .map_err(|_| SealError::NoRoom)?;
        Ok(start..end)
    }

    /// For serialising.
    #[must_use]
    pub const fn state(&self) -> OutboundState {
        OutboundState {
            sequence: self.sequence,
        }
    }

    /// Takes over from a former owner of the same key: goes on at least `jump` numbers above what
    /// `state` says, which must cover what was sent since it was saved. Never goes back.
    pub fn restore(&mut self, state: OutboundState, jump: u64) {
        let target = state.sequence.saturating_add(jump).min(self.last);
        self.sequence = self.sequence.max(target);
    }
}
