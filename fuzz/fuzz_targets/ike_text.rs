//! IKE's words in a configuration: what parses is displayed so that it parses to the same, and
//! nothing in an identity can move a terminal's cursor.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use mitregate_ike::{EspProposal, Identity, IkeProposal};

fuzz_target!(|text: &str| {
    same_again::<IkeProposal>(text);
    same_again::<EspProposal>(text);
    if let Ok(identity) = text.parse::<Identity>() {
        let shown = identity.to_string();
        // Letters of other scripts stand in distinguished names.
        let harmless =
            |c: char| c.is_ascii_graphic() || c == ' ' || !c.is_ascii() && c.is_alphanumeric();
        assert!(shown.chars().all(harmless), "{shown:?}");
    }
});

fn same_again<T: FromStr + Display + Debug + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse().ok(), Some(value));
    }
}
