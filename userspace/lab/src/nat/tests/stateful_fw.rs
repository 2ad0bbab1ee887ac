//! Each line of `stateful-fw`.

use super::*;

const A: &str = "2001:db8:1::2";
const B: &str = "2001:db8:1::3";
const SERVER: &str = "2001:db8:2::1";

fn bench() -> Bench {
    Bench::new(StatefulFw::default().make())
}

fn at(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn esp6(src: &str, dst: &str, spi: u32) -> Packet {
    let mut bytes = spi.to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, 1, 9, 9]);
    Packet::esp(at(src), at(dst), &bytes, 0).unwrap()
}

impl Bench {
    fn esp6_out(&mut self, client: &str, spi: u32) {
        let packet = esp6(client, SERVER, spi);
        let bytes = packet.bytes().to_vec();
        let out = self.pass(true, packet).outside.remove(0);
        // Not a byte is another.
        assert_eq!(out.bytes(), bytes);
    }

    fn esp6_in(&mut self, client: &str, spi: u32) -> bool {
        let packet = esp6(SERVER, client, spi);
        let bytes = packet.bytes().to_vec();
        let out = self.pass(false, packet).inside;
        assert!(out.iter().all(|packet| packet.bytes() == bytes));
        !out.is_empty()
    }
}

#[test]
fn inbound_only_after_outbound_and_one_spi_for_each() {
    let mut bench = bench();
    assert!(!bench.esp6_in(A, 0x900));
    bench.esp6_out(A, 0x100);
    assert!(bench.esp6_in(A, 0x900));
    // The server changes over before the client has sent.
    assert!(!bench.esp6_in(A, 0x901));
    bench.esp6_out(A, 0x100);
    assert!(!bench.esp6_in(A, 0x901));
    bench.esp6_out(A, 0x101);
    assert!(bench.esp6_in(A, 0x901));
    assert!(bench.esp6_in(A, 0x900));
}

#[test]
fn clients_are_told_apart_by_their_addresses() {
    let mut bench = bench();
    bench.esp6_out(A, 0x100);
    assert!(!bench.esp6_in(B, 0x900));
    bench.esp6_out(B, 0x200);
    assert!(bench.esp6_in(B, 0x900));
    // The same SPI at another client is another.
    assert!(bench.esp6_in(A, 0x900));
}

#[test]
fn an_entry_lives_120_s() {
    let mut bench = bench();
    bench.esp6_out(A, 0x100);
    bench.wait(119);
    assert!(bench.esp6_in(A, 0x900));
    bench.wait(119);
    bench.esp6_out(A, 0x100);
    bench.wait(120);
    assert!(!bench.esp6_in(A, 0x900));
}

#[test]
fn udp_and_echo_of_both_families_pass_unchanged() {
    let mut bench = bench();
    for [near, far] in [
        ["[2001:db8:1::2]:500", "[2001:db8:2::1]:500"],
        ["192.0.2.2:500", "198.51.100.1:500"],
    ] {
        let [near, far]: [SocketAddr; 2] = [near, far].map(|end| end.parse().unwrap());
        assert!(bench.pass(false, datagram(far, near)).is_empty());
        let out = bench.pass(true, datagram(near, far)).outside.remove(0);
        assert_eq!((out.src(), out.dst()), (near, far));
        let back = bench.pass(false, datagram(far, near)).inside.remove(0);
        assert_eq!((back.src(), back.dst()), (far, near));
        bench.wait(120);
        assert!(bench.pass(false, datagram(far, near)).is_empty());

        let (seq, data) = (1, &[5; 20][..]);
        let echo = |request| mitregate_wire::icmp::Echo {
            request,
            id: 7,
            seq,
            data,
        };
        let asks = Packet::echo(near.ip(), far.ip(), echo(true), 0).unwrap();
        assert_eq!(bench.pass(true, asks).outside.len(), 1);
        let answers = Packet::echo(far.ip(), near.ip(), echo(false), 0).unwrap();
        assert_eq!(bench.pass(false, answers).inside.len(), 1);
        // Who asks from the outside is not answered.
        let asks = Packet::echo(far.ip(), near.ip(), echo(true), 0).unwrap();
        assert!(bench.pass(false, asks).is_empty());
    }
}

#[test]
fn an_icmp_error_about_esp_of_ours_passes_and_any_other_does_not() {
    let mut bench = bench();
    bench.esp6_out(A, 0x100);
    let error = |spi| {
        let mut bytes = vec![0; 600];
        let problem = mitregate_wire::icmp::Problem::TooBig { mtu: 1280 };
        let about = esp6(A, SERVER, spi);
        let router = at("2001:db8:9::9");
        let len = mitregate_wire::icmp::emit_error(router, problem, about.bytes(), &mut bytes);
        bytes.truncate(len.unwrap().unwrap());
        Packet::new(bytes, 0).unwrap()
    };
    let passed = bench.pass(false, error(0x100)).inside;
    assert_eq!(passed[0].bytes(), error(0x100).bytes());
    assert!(bench.pass(false, error(0x101)).is_empty());
}

#[test]
fn a_remap_leaves_addresses_alone() {
    let mut bench = bench();
    bench.esp6_out(A, 0x100);
    assert!(bench.esp6_in(A, 0x900));
    bench.nat.remap(&Remap::address([203, 0, 113, 9]));
    assert_eq!(bench.nat.public(), None);
    assert!(!bench.esp6_in(A, 0x900));
}
