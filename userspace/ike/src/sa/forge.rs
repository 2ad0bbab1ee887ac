//! For fuzz targets and tests: what a peer that has the keys can send, whatever it means.

use mitregate_wire::ike::{ExchangeType, Header, Message, Payload, PayloadType};
use rand_core::CryptoRng;

use super::IkeSa;
use super::message::{SK_AT, SKF_AT, seal_part};

impl IkeSa {
    /// Message ID of our next request, and of the peer's.
    #[must_use]
    pub const fn message_ids(&self) -> (u32, u32) {
        (self.next_request, self.expected)
    }

    /// What is inside SK in a message from the peer, and the type of its first payload. `None` for what is
    /// in clear, a fragment, or not from the peer. Changes nothing.
    #[must_use]
    pub fn unseal(&self, message: &[u8]) -> Option<(Header, PayloadType, Vec<u8>)> {
        let keys = self.keys.as_ref()?;
        let header = Header::parse(message).ok()?;
        let outer = Message::parse(message).ok()?;
        let Some(Payload::Encrypted { first, body }) = outer.payloads.last() else {
            return None;
        };
        let inner = keys.open(&message[..message.len() - body.len()], body);
        Some((header, *first, inner.ok()?.ok()?.to_vec()))
    }

    /// A datagram with `inner` sealed in SK, or in SKF as fragment `part` (number, total). `first` is the
    /// type of its first payload. `None` without keys, or where it is too long.
    pub fn forge(
        &mut self,
        exchange: ExchangeType,
        response: bool,
        message_id: u32,
        (first, inner): (PayloadType, &[u8]),
        part: Option<(u16, u16)>,
        rng: &mut dyn CryptoRng,
    ) -> Option<Vec<u8>> {
        let header = self.plain(exchange, response, message_id, Vec::new());
        let keys = self.keys.as_mut()?;
        let sealed = match part {
            None => {
                let payload = |body| Payload::Encrypted { first, body };
                seal_part(keys, header, SK_AT, payload, inner, rng)
            }
            Some((number, total)) => {
                let payload = |body| Payload::EncryptedFragment {
                    first,
                    number,
                    total,
                    body,
                };
                seal_part(keys, header, SKF_AT, payload, inner, rng)
            }
        };
        sealed.ok()
    }
}
