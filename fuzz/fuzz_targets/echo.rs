//! ESP Echo, in ESP and plain: what parses is emitted to the same bytes, and a response answers its
//! request and is no longer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mitregate_wire::echo::{Echo, MAX_ECHOED, PlainEcho};

fuzz_target!(|bytes: &[u8]| {
    plain(bytes);
    let Ok(echo) = Echo::new_checked(bytes) else {
        return;
    };
    let mut out = vec![0; bytes.len()];
    let len = echo.emit(&mut out).expect("it had room when it came");
    assert_eq!(Echo::new_checked(&out[..len]), Ok(echo));
    if let Some(response) = echo.response() {
        assert!(response.emitted_len() <= len && response.data.len() <= MAX_ECHOED);
        assert_eq!((response.id, response.seq), (echo.id, echo.seq));
        assert_eq!(response.response(), None);
    }
});

fn plain(packet: &[u8]) {
    let Ok(plain) = PlainEcho::new_checked(packet) else {
        return;
    };
    let mut out = vec![0; packet.len()];
    let len = plain.emit(&mut out).expect("it had room when it came");
    assert_eq!(PlainEcho::new_checked(&out[..len]), Ok(plain));
    if let Some(response) = plain.response() {
        assert!(response.emitted_len() <= len && response.sequence == 0);
        assert!(response.response().is_none());
    }
}
