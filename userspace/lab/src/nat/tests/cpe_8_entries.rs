//! Each line of `cpe-8-entries`.

use super::*;

const A: &str = "10.0.0.2";
const B: &str = "10.0.0.3";
const SERVER: &str = "192.0.2.1";

fn bench() -> Bench {
    Bench::new(Cpe8Entries::default().make(PUBLIC))
}

#[test]
fn eight_entries_and_the_ninth_is_dropped() {
    let mut bench = bench();
    for spi in 1..=8 {
        assert!(bench.esp_out(A, SERVER, 0x100 + spi));
    }
    assert!(!bench.esp_out(A, SERVER, 0x200));
    assert!(bench.esp_out(A, SERVER, 0x101));
    bench.wait(30);
    assert!(bench.esp_out(A, SERVER, 0x200));
}

#[test]
fn an_unseen_spi_goes_to_the_first_that_waits() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert!(bench.esp_out(B, SERVER, 0x200));
    assert!(bench.esp_in("192.0.2.2", 0x900).is_empty());
    // Meant for B.
    assert_eq!(bench.esp_in(SERVER, 0xb00), [A]);
    assert_eq!(bench.esp_in(SERVER, 0xa00), [B]);
    assert_eq!(bench.esp_in(SERVER, 0xb00), [A]);
}

#[test]
fn the_first_is_by_slot_not_by_age() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    bench.wait(10);
    assert!(bench.esp_out(B, SERVER, 0x200));
    bench.wait(20);
    // A's slot is free again, and taken by a later entry than B's.
    assert!(bench.esp_out("10.0.0.4", SERVER, 0x300));
    assert_eq!(bench.esp_in(SERVER, 0x900), ["10.0.0.4"]);
}

#[test]
fn timers_are_30_s_unreplied_and_60_s_replied() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    bench.wait(29);
    assert!(bench.esp_out(A, SERVER, 0x100));
    bench.wait(29);
    assert_eq!(bench.states(), ["incomplete, 1 s left"]);
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    assert_eq!(bench.states(), ["complete, 1:00 left"]);
    bench.wait(59);
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    bench.wait(59);
    assert!(bench.esp_out(A, SERVER, 0x100));
    bench.wait(60);
    assert!(bench.esp_in(SERVER, 0x900).is_empty());
}

#[test]
fn an_spi_changed_from_the_wan_is_not_followed() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    assert!(bench.esp_in(SERVER, 0x901).is_empty());
    // What the client sends on the old one does not help.
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert!(bench.esp_in(SERVER, 0x901).is_empty());
    assert!(bench.esp_out(A, SERVER, 0x101));
    assert_eq!(bench.esp_in(SERVER, 0x901), [A]);
}
