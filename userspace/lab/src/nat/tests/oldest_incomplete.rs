//! Each line of `oldest-incomplete`.

use super::*;

const A: &str = "10.0.0.2";
const B: &str = "10.0.0.3";
const SERVER: &str = "192.0.2.1";

fn bench() -> Bench {
    Bench::new(OldestIncomplete::default().make(PUBLIC))
}

#[test]
fn an_unseen_spi_goes_to_the_oldest_that_waits() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    bench.wait(10);
    assert!(bench.esp_out(B, SERVER, 0x200));
    bench.wait(10);
    // A's has expired and is made again: B's is the oldest now.
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.esp_in(SERVER, 0x900), [B]);
    assert_eq!(bench.esp_in(SERVER, 0x901), [A]);
    assert!(bench.esp_in(SERVER, 0x902).is_empty());
}

#[test]
fn nobody_waits_and_answers_in_another_order_are_mixed_up() {
    let mut bench = bench();
    for n in 0..20 {
        assert!(bench.esp_out(&format!("10.0.0.{}", n + 2), SERVER, 0x100 + n));
    }
    // The last one's answer comes first.
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
}

#[test]
fn timers_are_20_s_complete_or_not() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    bench.wait(19);
    assert_eq!(bench.states(), ["incomplete, 1 s left"]);
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    assert_eq!(bench.states(), ["complete, 20 s left"]);
    bench.wait(19);
    assert!(bench.esp_out(A, SERVER, 0x100));
    bench.wait(20);
    assert!(bench.esp_in(SERVER, 0x900).is_empty());
}

#[test]
fn a_table_holds_1024() {
    let mut bench = bench();
    for spi in 0..1024 {
        assert!(bench.esp_out(A, SERVER, 0x100 + spi));
    }
    assert!(!bench.esp_out(A, SERVER, 0x99));
    assert_eq!(bench.nat.entries(), 1024);
}
