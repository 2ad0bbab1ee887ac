//! Between payloads and protected bytes: the SK payload, RFC 7296 §3.14 and RFC 5282 §3.

use mitregate_wire::ike::{
    ExchangeType, Flags, HEADER_LEN, IkeSpi, Message, Notify, NotifyType, PAYLOAD_HEADER_LEN,
    ParseError, Payload, PayloadType, emit_payloads, parse_payloads,
};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::IkeSa;
use crate::crypto::{ICV_LEN, IV_LEN, Secret};
use crate::keys::Side;
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

    /// A message whose payloads are all inside SK.
    pub(super) fn seal(
        &mut self,
        exchange: ExchangeType,
        response: bool,
        message_id: u32,
        payloads: &[Payload],
    ) -> Result<Vec<u8>, Reason> {
        let mut inner = Vec::new();
        emit_payloads(payloads, &mut inner)?;
        // No padding is needed (RFC 5282 §3), so its length is zero.
        inner.push(0);
        let first = payloads.first().map_or(PayloadType::NONE, Payload::kind);
        // A body of the right length makes the lengths in both headers right, which are
        // associated data.
        let body = vec![0; IV_LEN + inner.len() + ICV_LEN];
        let sk = Payload::Encrypted { first, body };
        let mut out = self
            .plain(exchange, response, message_id, vec![sk])
            .emit()?;
        out.truncate(HEADER_LEN + PAYLOAD_HEADER_LEN);
        let keys = self.keys.as_mut().ok_or(Reason::Resources("keys"))?;
        keys.seal(&mut out, Zeroizing::new(inner))
            .ok_or(Reason::Resources("initialization vectors"))?;
        Ok(out)
    }

    /// The payloads inside SK. The outer error says that the message proves nothing; the inner
    /// one, that the peer really sent what cannot be parsed.
    pub(super) fn open(&self, message: &[u8]) -> Result<Result<Vec<Payload>, ParseError>, Discard> {
        let keys = self.keys.as_ref().ok_or(Discard::Unexpected)?;
        let outer = Message::parse(message)?;
        // Whatever else is outside SK is not ours to act on.
        let Some(Payload::Encrypted { first, body }) = outer.payloads.last() else {
            return Err(Discard::Unprotected);
        };
        let aad = &message[..message.len() - body.len()];
        let plaintext = keys.open(aad, body).map_err(|_| Discard::Integrity)?;
        Ok(unpad(plaintext).and_then(|inner| parse_payloads(*first, &inner)))
    }
}

fn unpad(mut plaintext: Secret) -> Result<Secret, ParseError> {
    let padding = usize::from(*plaintext.last().ok_or(ParseError::Truncated)?);
    let len = plaintext
        .len()
        .checked_sub(padding + 1)
        .ok_or(ParseError::BadLength)?;
    plaintext.truncate(len);
    Ok(plaintext)
}
