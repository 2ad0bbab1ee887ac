//! The receiving half: check, open in place, record.

use core::ops::Range;

use mitregate_wire::esp::{HEADER_LEN, ICV_LEN, IV_LEN, MAX_PAD, Packet, Spi, TRAILER_LEN};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::aead::{Aead, Provider};
use crate::replay::ReplayWindow;
use crate::suite::{CipherSuite, SaKey};
use crate::{Aad, last_sequence, nonce};

/// Why a packet was not opened. Unless it is [`OpenError::BadPadding`], the SA is as it was; the
/// buffer holds nothing of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OpenError {
    /// Shorter than the least ESP packet, or a range outside the buffer.
    #[error("too short")]
    Runt,
    /// The SPI is another SA's: the caller looked it up wrongly.
    #[error("SPI of another SA")]
    WrongSpi,
    /// Seen already, or older than the window (RFC 4303 §3.4.3). With ESN the latter shows as
    /// [`OpenError::Integrity`]: its 32 bits are taken for those of a number to come.
    #[error("replayed or too old")]
    Replay,
    /// The ICV is wrong.
    #[error("integrity check failed")]
    Integrity,
    /// Authentic, but the padding is longer than the packet or not 1, 2, 3, … (RFC 4303 §2.4).
    #[error("bad padding")]
    BadPadding,
}

/// An authentic packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Where the content lies in the buffer; TFC padding, if any, is still at its end, and the
    /// inner packet's own length tells it apart.
    pub inner: Range<usize>,
    /// What the content is: 4 IPv4, 41 IPv6, 59 a dummy to be dropped, 144 ESP Echo.
    pub next_header: u8,
    /// Its sequence number in full.
    pub seq: u64,
    /// Whether no higher one had been accepted before: what a move of the peer needs.
    pub new_highest: bool,
}

/// What survives of an inbound SA beside its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundState {
    /// Highest sequence number accepted, 0 for none.
    pub highest: u64,
}

/// An SA that we receive on.
pub struct InboundSa {
    aead: Aead,
    window: ReplayWindow,
    spi: Spi,
    salt: Zeroizing<[u8; CipherSuite::SALT_LEN]>,
    esn: bool,
}

impl InboundSa {
    /// A fresh SA; `spi` is ours. `replay_window` in packets, see [`ReplayWindow::new`].
    #[must_use]
    pub fn new(spi: Spi, key: &SaKey, provider: Provider, replay_window: u32, esn: bool) -> Self {
        let window = ReplayWindow::new(replay_window);
        Self {
            aead: key.aead(provider),
            window,
            spi,
            salt: key.salt().into(),
            esn,
        }
    }

    /// What the packets are sent to.
    #[must_use]
    pub const fn spi(&self) -> Spi {
        self.spi
    }

    /// Highest sequence number accepted, 0 for none.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.window.highest()
    }

    /// Opens the ESP packet `buf[esp]` in place: the replay window is asked first, and told only
    /// when the ICV has been found right (RFC 4303 §3.4.3).
    pub fn open(&mut self, buf: &mut [u8], esp: Range<usize>) -> Result<Opened, OpenError> {
        let text_start = esp
            .start
            .checked_add(HEADER_LEN + IV_LEN)
            .ok_or(OpenError::Runt)?;
        let packet = buf.get_mut(esp).ok_or(OpenError::Runt)?;
        let header = Packet::new_checked(packet).map_err(|_| OpenError::Runt)?;
        let (spi, low) = (header.spi(), header.sequence());
        let (_, body) = packet.split_at_mut(HEADER_LEN);
        let (iv, body) = body
            .split_first_chunk_mut::<IV_LEN>()
            .ok_or(OpenError::Runt)?;
        let (text, icv) = body
            .split_last_chunk_mut::<ICV_LEN>()
            .ok_or(OpenError::Runt)?;
        if text.len() < TRAILER_LEN {
            return Err(OpenError::Runt);
        }
        if spi != Some(self.spi) {
            return Err(OpenError::WrongSpi);
        }
        let seq = if self.esn {
            self.window.extend(low)
        } else {
            Some(low.into())
        };
        let seq = seq
            .filter(|seq| self.window.is_new(*seq))
            .ok_or(OpenError::Replay)?;
        let aad = Aad::new(self.spi, seq, self.esn);
        self.aead
            .open(nonce(*self.salt, *iv), aad.as_bytes(), text, icv)
            .map_err(|_| OpenError::Integrity)?;
        let new_highest = self.window.accept(seq);

        let (content, next_header) = strip_trailer(text).ok_or(OpenError::BadPadding)?;
        Ok(Opened {
            inner: text_start..text_start + content,
            next_header,
            seq,
            new_highest,
        })
    }

    /// For serialising.
    #[must_use]
    pub const fn state(&self) -> InboundState {
        InboundState {
            highest: self.window.highest(),
        }
    }

    /// Takes over from a former owner of the same key: everything up to `jump` numbers above what
    /// `state` says counts as seen. A jump of what may have arrived since the state was saved keeps
    /// replays out, and costs the packets in between. Never goes back.
    pub fn restore(&mut self, state: InboundState, jump: u64) {
        let target = state
            .highest
            .saturating_add(jump)
            .min(last_sequence(self.esn));
        self.window.jump_to(target);
    }
}

/// Length of what comes before the padding, and the Next Header.
fn strip_trailer(text: &[u8]) -> Option<(usize, u8)> {
    let (rest, &[pad_len, next_header]) = text.split_last_chunk::<TRAILER_LEN>()?;
    let content = rest.len().checked_sub(pad_len.into())?;
    (rest[content..] == PADDING[..pad_len.into()]).then_some((content, next_header))
}

/// 1, 2, 3, … (RFC 4303 §2.4)
const PADDING: [u8; MAX_PAD] = {
    let mut padding = [0; MAX_PAD];
    let (mut at, mut value) = (0, 0);
    while at < MAX_PAD {
        value += 1;
        padding[at] = value;
        at += 1;
    }
    padding
};
