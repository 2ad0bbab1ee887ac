//! Answers that cost a responder no state.

use mitregate_wire::ike::{Flags, Header, Message, Notify, Payload};

/// An unprotected response to the message with `header` that holds one notify.
pub(crate) fn reply(header: &Header, notify: Notify) -> Option<Vec<u8>> {
    let message = Message {
        spi_i: header.spi_i,
        spi_r: header.spi_r,
        exchange: header.exchange,
        flags: Flags {
            initiator: !header.flags.initiator,
            response: true,
        },
        message_id: header.message_id,
        payloads: vec![Payload::Notify(notify)],
    };
    message.emit().ok()
}
