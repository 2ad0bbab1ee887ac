//! IKEv2 messages: what parses is emitted to a message that means the same, of the same length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mitregate_wire::ike::{Message, PayloadType, emit_payloads, parse_payloads};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Message::parse(bytes) {
        let again = message.emit().expect("it had room when it came");
        assert_eq!(again.len(), bytes.len());
        assert_eq!(Message::parse(&again), Ok(message));
    }
    // What an encrypted payload may hold.
    if let Some((first, inner)) = bytes.split_first()
        && let Ok(payloads) = parse_payloads(PayloadType(*first), inner)
    {
        let mut again = Vec::new();
        emit_payloads(&payloads, &mut again).expect("it had room when it came");
        assert_eq!(again.len(), inner.len());
        assert_eq!(parse_payloads(PayloadType(*first), &again), Ok(payloads));
    }
});
