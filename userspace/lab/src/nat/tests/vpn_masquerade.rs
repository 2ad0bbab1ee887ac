//! Each numbered rule, constant and consequence of VPN Masquerade's tables by its name.

use mitregate_wire::udp::PORT_IKE;

use super::*;

const A: &str = "10.0.0.2";
const B: &str = "10.0.0.3";
const C: &str = "10.0.0.4";
const SERVER: &str = "192.0.2.1";
const OTHER: &str = "192.0.2.2";

fn bench() -> Bench {
    Bench::new(VpnMasquerade::default().make(PUBLIC))
}

/// IKE with this cookie.
fn ike(src: &str, dst: &str, cookie: u32) -> Packet {
    let mut message = cookie.to_be_bytes().to_vec();
    message.extend([3; 30]);
    let at = |address: &str| SocketAddr::new(end(address).ip(), PORT_IKE);
    Packet::udp(at(src), at(dst), &message, 0).unwrap()
}

impl Bench {
    fn ike_out(&mut self, client: &str, cookie: u32) -> bool {
        let out = self.pass(true, ike(client, SERVER, cookie)).outside;
        let ends =
            |p: &Packet| (p.src(), p.dst()) == (end("203.0.113.7:500"), end("192.0.2.1:500"));
        assert!(out.iter().all(ends));
        !out.is_empty()
    }

    fn ike_in(&mut self, server: &str, cookie: u32) -> Vec<String> {
        let out = self
            .pass(false, ike(server, &PUBLIC.to_string(), cookie))
            .inside;
        out.iter()
            .map(|packet| packet.dst().ip().to_string())
            .collect()
    }
}

#[test]
fn outbound_1_spi_0_is_dropped() {
    let mut bench = bench();
    assert!(!bench.esp_out(A, SERVER, 0));
    assert_eq!(bench.nat.entries(), 0);
    let short = Packet::esp(end(A).ip(), end(SERVER).ip(), &[1, 2, 3], 0).unwrap();
    assert!(bench.pass(true, short).is_empty());
}

/// A pending entry of A's, flagged by B and squelched by A's own packets.
fn squelched() -> Bench {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert!(!bench.esp_out(B, SERVER, 0x200));
    for _ in 0..5 {
        assert!(bench.esp_out(A, SERVER, 0x100));
    }
    assert!(!bench.esp_out(A, SERVER, 0x100));
    bench
}

#[test]
fn outbound_2_squelched_is_dropped_and_the_timer_untouched() {
    let mut bench = squelched();
    assert_eq!(bench.states(), ["squelched, 30 s left"]);
    bench.wait(29);
    assert!(!bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.states(), ["squelched, 1 s left"]);
    bench.wait(1);
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.states(), ["pending, 2:00 left"]);
}

#[test]
fn outbound_3_pending_is_refreshed_and_forwarded() {
    let mut bench = bench();
    for _ in 0..20 {
        assert!(bench.esp_out(A, SERVER, 0x100));
        bench.wait(119);
    }
    assert_eq!(bench.states(), ["pending, 1 s left"]);
}

#[test]
fn outbound_3_five_packets_pass_once_it_blocks_and_the_sixth_squelches() {
    let bench = squelched();
    assert_eq!(bench.states(), ["squelched, 30 s left"]);
}

#[test]
fn outbound_3_packets_before_the_flag_do_not_count_and_a_second_flag_does_not_begin_anew() {
    let mut bench = bench();
    for _ in 0..10 {
        assert!(bench.esp_out(A, SERVER, 0x100));
    }
    assert!(!bench.esp_out(B, SERVER, 0x200));
    assert_eq!(bench.states(), ["blocking 0/5, 2:00 left"]);
    for n in 1..=5 {
        assert!(bench.esp_out(A, SERVER, 0x100));
        assert!(!bench.esp_out(C, SERVER, 0x300));
        assert_eq!(bench.states(), [format!("blocking {n}/5, 2:00 left")]);
    }
    assert!(!bench.esp_out(A, SERVER, 0x100));
}

#[test]
fn outbound_4_established_is_refreshed_and_forwarded() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    for _ in 0..3 {
        bench.wait(30 * 60 - 1);
        assert!(bench.esp_out(A, SERVER, 0x100));
        assert_eq!(bench.states(), ["established, 30:00 left"]);
    }
}

#[test]
fn outbound_5_another_clients_pending_entry_drops_and_is_flagged() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert!(!bench.esp_out(B, SERVER, 0x200));
    assert_eq!(bench.nat.entries(), 1);
    assert_eq!(bench.states(), ["blocking 0/5, 2:00 left"]);
    // Of that server: another is another matter.
    assert!(bench.esp_out(B, OTHER, 0x200));
}

#[test]
fn outbound_5_ones_own_pending_entry_drops_the_next_spi() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert!(!bench.esp_out(A, SERVER, 0x101));
    assert_eq!(bench.states(), ["blocking 0/5, 2:00 left"]);
}

#[test]
fn outbound_6_else_a_pending_entry_is_made() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    assert!(bench.esp_out(A, SERVER, 0x101));
    assert_eq!(
        bench.states(),
        ["established, 30:00 left", "pending, 2:00 left"]
    );
    let rows = bench.nat.show(bench.now);
    assert_eq!(rows[0].keys, "out 00000100 in 00000900");
    assert_eq!(
        (rows[1].keys.as_str(), rows[1].inside.as_str()),
        ("out 00000101", A)
    );
}

#[test]
fn inbound_1_spis_0_and_1_are_dropped() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    for spi in [0, 1] {
        assert!(bench.esp_in(SERVER, spi).is_empty());
    }
    assert_eq!(bench.states(), ["pending, 2:00 left"]);
}

#[test]
fn inbound_2_a_completed_entry_gets_its_spi_and_is_refreshed() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    assert!(bench.esp_out(B, SERVER, 0x200));
    // B is pending, but this is not for it.
    bench.wait(100);
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    assert_eq!(
        bench.states(),
        ["established, 30:00 left", "pending, 20 s left"]
    );
}

#[test]
fn inbound_2_two_clients_with_one_inbound_spi_are_not_told_apart() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    assert!(bench.esp_out(B, SERVER, 0x200));
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    // The same SPI from another server is another.
    assert!(bench.esp_out(B, OTHER, 0x200));
    assert_eq!(bench.esp_in(OTHER, 0x900), [B]);
}

#[test]
fn inbound_3_whatever_arrives_is_bound_to_whoever_is_pending() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    // Meant for B, say.
    assert_eq!(bench.esp_in(SERVER, 0xbad), [A]);
    assert_eq!(bench.states(), ["established, 30:00 left"]);
    assert_eq!(bench.esp_in(SERVER, 0xbad), [A]);
    // A's own finds nobody who waits.
    assert!(bench.esp_in(SERVER, 0x900).is_empty());
}

#[test]
fn inbound_3_of_that_server_only() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert!(bench.esp_in(OTHER, 0x900).is_empty());
    assert_eq!(bench.states(), ["pending, 2:00 left"]);
}

#[test]
fn inbound_4_one_client_of_ike_gets_it_and_no_entry_is_made() {
    let mut bench = bench();
    assert!(bench.ike_out(A, 0xaaaa));
    let entries = bench.nat.entries();
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    assert_eq!(bench.nat.entries(), entries);
    assert!(bench.esp_in(OTHER, 0x900).is_empty());
}

#[test]
fn inbound_4_several_get_a_copy_each_the_five_latest_at_most() {
    let mut bench = bench();
    let clients: Vec<String> = (2..9).map(|n| format!("10.0.0.{n}")).collect();
    for (client, cookie) in clients.iter().zip(1..) {
        assert!(bench.ike_out(client, cookie));
        // Twice is one client still.
        assert!(bench.ike_out(client, cookie + 100));
    }
    let latest: Vec<String> = clients.iter().rev().take(5).cloned().collect();
    assert_eq!(bench.esp_in(SERVER, 0x900), latest);
    // Whoever was used last is first.
    assert!(bench.ike_out(&clients[0], 1));
    assert_eq!(bench.esp_in(SERVER, 0x900)[0], clients[0]);
}

#[test]
fn inbound_4_a_cookie_of_zero_and_a_short_rest_make_no_candidate() {
    let mut bench = bench();
    assert!(bench.ike_out(A, 0));
    assert!(bench.esp_in(SERVER, 0x900).is_empty());
    assert!(bench.ike_out(A, 0xaaaa));
    bench.wait(25 * 60 - 1);
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    bench.wait(1);
    assert!(bench.esp_in(SERVER, 0x900).is_empty());
}

#[test]
fn inbound_4_udp_4500_makes_no_candidate() {
    let mut bench = bench();
    let public = bench.out("10.0.0.2:4500", "192.0.2.1:4500").unwrap();
    assert!((61_000..=65_095).contains(&public.port()));
    assert!(bench.esp_in(SERVER, 0x900).is_empty());
}

#[test]
fn inbound_5_else_dropped() {
    assert!(bench().esp_in(SERVER, 0x900).is_empty());
}

#[test]
fn ike_keeps_its_port_and_is_found_by_the_cookie() {
    let mut bench = bench();
    assert!(bench.ike_out(A, 0xaaaa));
    assert!(bench.ike_out(B, 0xbbbb));
    assert_eq!(bench.ike_in(SERVER, 0xbbbb), [B]);
    assert_eq!(bench.ike_in(SERVER, 0xaaaa), [A]);
    assert!(bench.ike_in(SERVER, 0xcccc).is_empty());
    assert!(bench.ike_in(OTHER, 0xaaaa).is_empty());
}

#[test]
fn ike_the_servers_first_packet_on_a_new_sa_waits_for_the_clients() {
    let mut bench = bench();
    assert!(bench.ike_out(A, 0x01d));
    // The exchange that rekeys runs under the old SPIs, whoever starts it.
    assert_eq!(bench.ike_in(SERVER, 0x01d), [A]);
    assert!(bench.ike_in(SERVER, 0x2e3).is_empty());
    assert!(bench.ike_out(A, 0x2e3));
    assert_eq!(bench.ike_in(SERVER, 0x2e3), [A]);
}

#[test]
fn ike_is_500_to_500_and_all_else_is_udp() {
    let mut bench = bench();
    let public = bench.out("10.0.0.2:501", "192.0.2.1:500").unwrap();
    assert_ne!(public.port(), 501);
    assert_eq!(
        bench.back("192.0.2.1:500", public),
        Some(end("10.0.0.2:501"))
    );
}

#[test]
fn constant_established_is_30_min_and_never_under_15() {
    let mut bench = bench();
    assert!(bench.ike_out(A, 0xaaaa));
    bench.wait(30 * 60 - 1);
    assert_eq!(bench.ike_in(SERVER, 0xaaaa), [A]);
    bench.wait(30 * 60);
    assert!(bench.ike_in(SERVER, 0xaaaa).is_empty());

    let model = VpnMasquerade {
        established: secs(60),
        ..VpnMasquerade::default()
    };
    let mut bench = Bench::new(model.make(PUBLIC));
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    bench.wait(15 * 60 - 1);
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    bench.wait(15 * 60);
    assert!(bench.esp_in(SERVER, 0x900).is_empty());
}

#[test]
fn constant_pending_is_2_min() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    bench.wait(119);
    assert!(!bench.esp_out(B, SERVER, 0x200));
    bench.wait(1);
    assert!(bench.esp_out(B, SERVER, 0x200));
}

#[test]
fn constant_the_longest_block_is_12_min() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    let start = bench.now;
    assert!(!bench.esp_out(B, SERVER, 0x200));
    for _ in 0..5 {
        bench.wait(119);
        assert!(bench.esp_out(A, SERVER, 0x100));
    }
    bench.wait(119);
    assert!(!bench.esp_out(B, SERVER, 0x200));
    bench.wait(1);
    assert!(bench.esp_out(B, SERVER, 0x200));
    // But for the second that A's packets came before the entry had ended.
    assert_eq!(bench.now - start, secs(12 * 60 - 5));
}

#[test]
fn consequence_ones_own_entry_blocks_the_next_spi_and_each_packet_arms_it_again() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    bench.wait(100);
    assert!(bench.esp_out(A, SERVER, 0x100));
    bench.wait(119);
    assert!(!bench.esp_out(A, SERVER, 0x101));
    bench.wait(1);
    assert!(bench.esp_out(A, SERVER, 0x101));
}

#[test]
fn consequence_a_squelched_entry_blocks_for_30_s() {
    let mut bench = squelched();
    bench.wait(29);
    assert!(!bench.esp_out(B, SERVER, 0x200));
    bench.wait(1);
    assert!(bench.esp_out(B, SERVER, 0x200));
}

#[test]
fn consequence_clients_that_start_together_are_served_one_after_another() {
    let mut bench = bench();
    let clients: Vec<String> = (2..12).map(|n| format!("10.0.0.{n}")).collect();
    let mut waiting: Vec<(u32, &String)> = (0x100..).zip(&clients).collect();
    let mut round_trips = 0;
    while !waiting.is_empty() {
        // All try; who gets through is answered.
        let passed: Vec<u32> = waiting
            .iter()
            .filter(|(spi, client)| bench.esp_out(client, SERVER, *spi))
            .map(|(spi, _)| *spi)
            .collect();
        assert_eq!(passed.len(), 1);
        let served = bench.esp_in(SERVER, passed[0] + 0x800);
        assert_eq!(served, [waiting[0].1.clone()]);
        waiting.remove(0);
        round_trips += 1;
    }
    assert_eq!(round_trips, clients.len());
}

#[test]
fn a_crash_forgets_esp_and_ike() {
    let mut bench = bench();
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert!(bench.ike_out(A, 0xaaaa));
    bench.nat.crash();
    assert!(bench.esp_in(SERVER, 0x900).is_empty());
    assert!(bench.ike_in(SERVER, 0xaaaa).is_empty());
    assert_eq!(bench.nat.entries(), 0);
}

#[test]
fn a_full_table_takes_nobody_else() {
    let model = VpnMasquerade {
        max_entries: 1,
        ..VpnMasquerade::default()
    };
    let mut bench = Bench::new(model.make(PUBLIC));
    assert!(bench.esp_out(A, SERVER, 0x100));
    assert_eq!(bench.esp_in(SERVER, 0x900), [A]);
    assert!(!bench.esp_out(B, SERVER, 0x200));
    assert!(bench.ike_out(A, 0xaaaa));
    assert!(!bench.ike_out(B, 0xbbbb));
}
