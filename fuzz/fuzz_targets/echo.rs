//! ESP Echo: what parses is emitted to the same bytes, and a response answers its request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mitregate_wire::echo::{Echo, MAX_ECHOED};

fuzz_target!(|bytes: &[u8]| {
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
