//! Traffic selectors: what parses is displayed so that it parses to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mitregate_wire::TrafficSelector;

fuzz_target!(|text: &str| {
    let Ok(selector) = text.parse::<TrafficSelector>() else {
        return;
    };
    assert_eq!(selector.to_string().parse(), Ok(selector));
    assert!(selector.contains(&selector));
    let any = if selector.start().is_ipv4() {
        TrafficSelector::ANY_V4
    } else {
        TrafficSelector::ANY_V6
    };
    assert_eq!(any.intersect(&selector), Some(selector));
});
