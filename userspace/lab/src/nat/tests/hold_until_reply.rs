//! Each line of `hold-until-reply`.

use super::*;

const A: &str = "10.0.0.2";
const B: &str = "10.0.0.3";
const C: &str = "10.0.0.4";
const SERVER: &str = "192.0.2.1";

fn bench() -> Bench {
    Bench::new(HoldUntilReply::default().make(PUBLIC))
}

fn spis(packets: &[Packet]) -> Vec<u32> {
    packets.iter().filter_map(Packet::spi).collect()
}

impl Bench {
    /// SPIs that leave when a packet comes from the server.
    fn reply(&mut self, spi: u32) -> (Vec<IpAddr>, Vec<u32>) {
        let out = self.pass(false, esp(SERVER, &PUBLIC.to_string(), spi));
        let to = out.inside.iter().map(|packet| packet.dst().ip()).collect();
        (to, spis(&out.outside))
    }

    /// SPIs that leave when time has come.
    fn timeout(&mut self) -> Vec<u32> {
        self.now = self.nat.poll_timeout().unwrap();
        let mut out = Output::default();
        self.nat.handle_timeout(self.now, &mut self.rng, &mut out);
        assert!(self.nat.poll_timeout().is_none_or(|at| at > self.now));
        spis(&out.outside)
    }
}

#[test]
fn later_clients_are_held_until_the_first_has_its_reply() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert!(!bench.esp_out(B, SERVER, 0x200));
    assert!(!bench.esp_out(C, SERVER, 0x300));
    assert!(!bench.esp_out(B, SERVER, 0x200));
    // To another server nobody is in the way.
    assert!(bench.esp_out(B, "192.0.2.2", 0x200));
    let a = vec![end(A).ip()];
    assert_eq!(bench.reply(0x900), (a.clone(), vec![0x200, 0x200]));
    let b = vec![end(B).ip()];
    assert_eq!(bench.reply(0x901), (b, vec![0x300]));
    assert_eq!(bench.reply(0x900), (a, vec![]));
    assert_eq!(bench.reply(0x902), (vec![end(C).ip()], vec![]));
    assert_eq!(bench.nat.poll_timeout(), None);
}

#[test]
fn ones_own_second_spi_is_not_held() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert!(bench.esp_out(A, SERVER, 0x101));
    assert!(!bench.esp_out(B, SERVER, 0x200));
    let a = vec![end(A).ip()];
    assert_eq!(bench.reply(0x900), (a.clone(), vec![]));
    assert_eq!(bench.reply(0x901), (a, vec![0x200]));
}

#[test]
fn without_a_reply_the_next_goes_after_5_s_whatever_the_first_sends() {
    let mut bench = bench();
    let start = bench.now;
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert!(!bench.esp_out(B, SERVER, 0x200));
    bench.wait(4);
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.timeout(), [0x200]);
    assert_eq!(bench.now, start + secs(5));
    // And now A waits.
    assert!(!bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.timeout(), [0x100]);
    assert_eq!(bench.now, start + secs(10));
}

#[test]
fn an_established_entry_lives_600_s() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    bench.wait(599);
    assert!(bench.esp_out(A, SERVER, 0x100));
    bench.wait(599);
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    bench.wait(600);
    assert!(bench.esp_in(SERVER, 0x900).is_empty());
}

#[test]
fn four_packets_of_a_client_are_held_and_no_more() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    for _ in 0..10 {
        assert!(!bench.esp_out(B, SERVER, 0x200));
    }
    assert_eq!(
        bench
            .states()
            .iter()
            .filter(|state| *state == "held")
            .count(),
        4
    );
    assert_eq!(bench.reply(0x900).1.len(), 4);
}

#[test]
fn a_crash_forgets_what_is_held() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert!(!bench.esp_out(B, SERVER, 0x200));
    bench.nat.crash();
    assert_eq!(bench.nat.poll_timeout(), None);
    assert!(bench.esp_out(B, SERVER, 0x200));
}
