//! Between payloads and protected bytes: the SK payload (RFC 7296 §3.14, RFC 5282 §3) and the SKF
//! payload (RFC 7383 §2.5). All sealing and opening is here.

use core::time::Duration;

use aws_lc_rs::digest;
use mitregate_wire::ike::{
    ExchangeType, Flags, HEADER_LEN, IkeSpi, Message, Notify, NotifyType, PAYLOAD_HEADER_LEN,
    ParseError, Payload, PayloadType, emit_payloads, parse_payloads,
};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::IkeSa;
use super::fragment::{Fragment, MAX_FRAGMENTS, max_message};
use crate::crypto::Secret;
use crate::keys::{Keys, Side};
use crate::{Discard, Reason};

/// Length of our nonces: at least half the key of every PRF (RFC 7296 §2.10).
const NONCE_LEN: usize = 32;

pub(super) fn random_nonce(rng: &mut dyn CryptoRng) -> Vec<u8> {
    let mut nonce = vec![0; NONCE_LEN];
    rng.fill_bytes(&mut nonce);
    nonce
}

pub(super) fn random_ike_spi(rng: &mut dyn CryptoRng) -> IkeSpi {
    // Zero means "not known yet" (RFC 7296 §3.1).
    IkeSpi(rng.next_u64().max(1).to_be_bytes())
}

/// A notify that says it all by its type.
pub(super) const fn notify(kind: NotifyType) -> Payload {
    Payload::Notify(Notify::new(kind))
}

/// A notify with data.
pub(super) fn notify_data(kind: NotifyType, data: &[u8]) -> Payload {
    Payload::Notify(Notify::with_data(kind, data))
}

/// The first error notify.
pub(super) fn error(payloads: &[Payload]) -> Option<&Notify> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Notify(notify) if notify.kind.is_error() => Some(notify),
        _ => None,
    })
}

/// Whether a message without protection says INVALID_IKE_SPI (RFC 7296 §2.21.4).
pub(super) fn is_invalid_ike_spi(message: &[u8]) -> bool {
    Message::parse(message).is_ok_and(|message| {
        let clear = |payload: &Payload| !matches!(payload, Payload::Encrypted { .. });
        message.payloads.iter().all(clear)
            && find_notify(&message.payloads, NotifyType::INVALID_IKE_SPI).is_some()
    })
}

/// The first notify of a type.
pub(super) fn find_notify(payloads: &[Payload], kind: NotifyType) -> Option<&Notify> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Notify(notify) if notify.kind == kind => Some(notify),
        _ => None,
    })
}

/// The first payload that a pattern fits, by what the pattern binds.
macro_rules! find {
    ($payloads:expr, $pattern:pat => $bound:expr) => {
        $payloads.iter().find_map(|payload| match payload {
            $pattern => Some($bound),
            _ => None,
        })
    };
}
pub(super) use find;

impl IkeSa {
    /// A message in clear, for IKE_SA_INIT.
    pub(super) fn plain(
        &self,
        exchange: ExchangeType,
        response: bool,
        message_id: u32,
        payloads: Vec<Payload>,
    ) -> Message {
        Message {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            exchange,
            flags: Flags {
                initiator: self.side == Side::Initiator,
                response,
            },
            message_id,
            payloads,
        }
    }

    /// A message whose payloads are all inside SK, or in fragments where it is longer than one datagram
    /// should be and the peer knows RFC 7383.
    pub(super) fn seal(
        &mut self,
        exchange: ExchangeType,
        response: bool,
        message_id: u32,
        payloads: &[Payload],
        rng: &mut dyn CryptoRng,
    ) -> Result<Sealed, Reason> {
        let mut inner = Zeroizing::new(Vec::new());
        emit_payloads(payloads, &mut inner)?;
        let first = payloads.first().map_or(PayloadType::NONE, Payload::kind);
        let header = self.plain(exchange, response, message_id, Vec::new());
        let limit = self.fragment_limit();
        let keys = self.keys.as_mut().ok_or(Reason::Resources("keys"))?;
        let whole = SK_AT + keys.sealed_len(inner.len());
        let mut datagrams = Vec::new();
        match limit.filter(|limit| whole > *limit) {
            None => {
                let empty = |body| Payload::Encrypted { first, body };
                datagrams.push(seal_part(keys, header.clone(), SK_AT, empty, &inner, rng)?);
            }
            Some(limit) => {
                let room = keys.plaintext_len(limit.saturating_sub(SKF_AT)).max(1);
                let total = u16::try_from(inner.len().div_ceil(room)).unwrap_or(u16::MAX);
                if total > MAX_FRAGMENTS {
                    return Err(ParseError::TooLong.into());
                }
                for (number, content) in (1..).zip(inner.chunks(room)) {
                    let empty = |body| Payload::EncryptedFragment {
                        // RFC 7383 §2.5: only the first one names it.
                        first: if number == 1 {
                            first
                        } else {
                            PayloadType::NONE
                        },
                        number,
                        total,
                        body,
                    };
                    datagrams.push(seal_part(
                        keys,
                        header.clone(),
                        SKF_AT,
                        empty,
                        content,
                        rng,
                    )?);
                }
            }
        }
        let clear = header.emit()?;
        Ok(Sealed {
            datagrams,
            covered: Covered::new(clear, first, inner),
        })
    }

    /// The payloads inside SK; `None` where this is a fragment and others are missing. Nothing is kept
    /// of a message, or a fragment, that proves nothing.
    pub(super) fn open(
        &mut self,
        message: &[u8],
        now: Duration,
    ) -> Result<Option<Opened>, Discard> {
        let keys = self.keys.as_ref().ok_or(Discard::Unexpected)?;
        let outer = Message::parse(message)?;
        let digest = digest::digest(&digest::SHA256, message);
        // Whatever else is outside SK is not ours to act on.
        match outer.payloads.last() {
            Some(Payload::Encrypted { first, body }) => {
                let at = message.len() - body.len();
                let plaintext = keys
                    .open(&message[..at], body)
                    .map_err(|_| Discard::Integrity)?;
                let clear = message[..at - PAYLOAD_HEADER_LEN].to_vec();
                let padded = plaintext.as_ref().err().copied();
                let covered = Covered::new(clear, *first, plaintext.unwrap_or_default());
                let mut opened = Opened::new(covered, *first, digest, 1);
                if let Some(error) = padded {
                    opened.payloads = Err(error);
                }
                Ok(Some(opened))
            }
            Some(Payload::EncryptedFragment {
                first,
                number,
                total,
                body,
            }) => {
                let (response, id) = (outer.flags.response, outer.message_id);
                if !self.fragmentation || !self.reassembly.wants(response, id, *number, *total) {
                    return Err(Discard::Fragment);
                }
                let at = message.len() - body.len();
                let content = keys
                    .open(&message[..at], body)
                    .map_err(|_| Discard::Integrity)??;
                let clear = &message[..at - FRAGMENT_HEADER_LEN];
                let fragment = Fragment {
                    number: *number,
                    total: *total,
                    content,
                    head: (*number == 1).then(|| (clear.to_vec(), *first)),
                    digest,
                };
                let whole = self.reassembly.add(response, id, fragment, now);
                Ok(whole.map(|w| Opened::new(w.covered, w.first, w.digest, w.total)))
            }
            _ => Err(Discard::Unprotected),
        }
    }

    /// RFC 7383 §2.6.1: a request that was answered comes again, and differs only in that it is cut
    /// into more fragments, for a shorter path. The first of them stands for all.
    pub(super) fn is_cut_shorter(&self, message: &[u8], answered: u16) -> bool {
        let (Some(keys), Ok(outer)) = (&self.keys, Message::parse(message)) else {
            return false;
        };
        match outer.payloads.last() {
            Some(Payload::EncryptedFragment {
                number: 1,
                total,
                body,
                ..
            }) if self.fragmentation && *total > answered => {
                let at = message.len() - body.len();
                keys.open(&message[..at], body).is_ok()
            }
            _ => false,
        }
    }

    /// How long a message may be before it is cut; `None`: as long as it gets.
    fn fragment_limit(&self) -> Option<usize> {
        let settings = self.config.fragmentation;
        (self.fragmentation && settings.mode.sends()).then(|| max_message(settings, self.local))
    }
}

/// One datagram with `plaintext` in what `payload` makes an SK or SKF payload of; its ciphertext starts
/// at `at`.
pub(super) fn seal_part(
    keys: &mut Keys,
    mut message: Message,
    at: usize,
    payload: impl FnOnce(Vec<u8>) -> Payload,
    plaintext: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>, Reason> {
    // A body of the right length makes the lengths in both headers right, which are associated data.
    message.payloads = vec![payload(vec![0; keys.sealed_len(plaintext.len())])];
    let mut out = message.emit()?;
    out.truncate(at);
    keys.seal(&mut out, plaintext, rng)
        .ok_or(Reason::Resources("initialization vectors"))?;
    Ok(out)
}

/// Where the ciphertext starts in our messages.
pub(super) const SK_AT: usize = HEADER_LEN + PAYLOAD_HEADER_LEN;
/// Payload header, fragment number and total (RFC 7383 §2.5).
const FRAGMENT_HEADER_LEN: usize = PAYLOAD_HEADER_LEN + 4;
pub(super) const SKF_AT: usize = HEADER_LEN + FRAGMENT_HEADER_LEN;

/// A protected message on its way out.
pub(super) struct Sealed {
    /// One, or its fragments in order.
    pub(super) datagrams: Vec<Vec<u8>>,
    pub(super) covered: Covered,
}

/// A protected message, or all its fragments, from the peer.
pub(super) struct Opened {
    /// The error says that the peer really sent what cannot be parsed.
    pub(super) payloads: Result<Vec<Payload>, ParseError>,
    pub(super) covered: Covered,
    /// Of the datagram, or of the first fragment: what a repetition is known by.
    pub(super) digest: digest::Digest,
    /// Datagrams that it came in.
    pub(super) total: u16,
}

impl Opened {
    fn new(covered: Covered, first: PayloadType, digest: digest::Digest, total: u16) -> Self {
        Self {
            payloads: parse_payloads(first, &covered.inner),
            covered,
            digest,
            total,
        }
    }
}

/// A protected message as IntAuth covers it, unfragmented (RFC 9242 §3.3).
pub(super) struct Covered {
    /// From the IKE header to the header of the SK payload, with both lengths as if that had neither IV
    /// nor padding nor ICV: "IntAuth_A".
    pub(super) clear: Vec<u8>,
    inner: Secret,
}

impl Covered {
    /// `clear` goes up to the header of the SK or SKF payload, and `first` is the type of the first
    /// payload in `inner`.
    pub(super) fn new(mut clear: Vec<u8>, first: PayloadType, inner: Secret) -> Self {
        let last = if clear.len() == HEADER_LEN {
            Some(NEXT_PAYLOAD_AT)
        } else {
            last_payload(&clear)
        };
        if let Some(next) = last.and_then(|at| clear.get_mut(at)) {
            *next = PayloadType::ENCRYPTED.0;
        }
        let length = u16::try_from(PAYLOAD_HEADER_LEN + inner.len()).unwrap_or(u16::MAX);
        clear.extend_from_slice(&[first.0, 0]);
        clear.extend_from_slice(&length.to_be_bytes());
        let length = u32::try_from(clear.len() + inner.len()).unwrap_or(u32::MAX);
        if let Some(field) = clear.get_mut(LENGTH_AT..HEADER_LEN) {
            field.copy_from_slice(&length.to_be_bytes());
        }
        Self { clear, inner }
    }

    /// The payloads inside, in clear: "IntAuth_P".
    pub(super) const fn inner(&self) -> &Secret {
        &self.inner
    }
}

/// In the IKE header (RFC 7296 §3.1).
const NEXT_PAYLOAD_AT: usize = 16;
const LENGTH_AT: usize = 24;

/// Where the last payload starts in a message that ends with it.
fn last_payload(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_LEN;
    loop {
        let length = message.get(at + 2..at + PAYLOAD_HEADER_LEN)?;
        let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
        match at + length {
            next if next == message.len() => return Some(at),
            next if next > at => at = next,
            _ => return None,
        }
    }
}
