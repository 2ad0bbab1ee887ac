use std::net::SocketAddr;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

struct Bench {
    nat: Box<dyn Middlebox>,
    rng: ChaCha20Rng,
    now: Duration,
}

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Bench {
    fn new(nat: impl Middlebox + 'static) -> Self {
        Self {
            nat: Box::new(nat),
            rng: ChaCha20Rng::seed_from_u64(1),
            now: Duration::from_secs(5),
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Where the packet seems to come from.
    fn out(&mut self, src: &str, dst: &str) -> Option<SocketAddr> {
        let packet = packet(end(src), end(dst));
        let mut out = Vec::new();
        self.nat.outbound(self.now, packet, &mut self.rng, &mut out);
        assert!(out.len() <= 1);
        out.pop().map(|p| p.src)
    }

    /// Whom it reaches.
    fn back(&mut self, src: &str, dst: SocketAddr) -> Option<SocketAddr> {
        let packet = packet(end(src), dst);
        let mut out = Vec::new();
        self.nat.inbound(self.now, packet, &mut self.rng, &mut out);
        assert!(out.len() <= 1);
        out.pop().map(|p| p.dst)
    }
}

fn packet(src: SocketAddr, dst: SocketAddr) -> Packet {
    Packet {
        src,
        dst,
        payload: vec![1; 40],
        id: 0,
    }
}

#[test]
fn conntrack_keeps_the_port_if_it_can_and_draws_of_the_same_class_if_not() {
    let mut bench = Bench::new(ConntrackGeneric::new(PUBLIC));
    let first = bench.out("10.0.0.2:500", "192.0.2.1:500").unwrap();
    assert_eq!(first, end("203.0.113.7:500"));
    let second = bench.out("10.0.0.3:500", "192.0.2.1:500").unwrap();
    assert!((1..512).contains(&second.port()) && second.port() != 500);
    // To another server it is free.
    assert_eq!(bench.out("10.0.0.3:500", "192.0.2.2:500").unwrap(), first);
    assert_eq!(
        bench.back("192.0.2.1:500", second),
        Some(end("10.0.0.3:500"))
    );
    assert_eq!(
        bench.back("192.0.2.1:500", first),
        Some(end("10.0.0.2:500"))
    );
    assert_eq!(bench.back("192.0.2.9:500", first), None);
}

#[test]
fn conntrack_knows_no_spi_and_drops_the_second_esp_client_of_a_server() {
    let mut bench = Bench::new(ConntrackGeneric::new(PUBLIC));
    assert_eq!(
        bench.out("10.0.0.2:0", "192.0.2.1:0"),
        Some(end("203.0.113.7:0"))
    );
    assert_eq!(bench.out("10.0.0.3:0", "192.0.2.1:0"), None);
    assert_eq!(
        bench.back("192.0.2.1:0", end("203.0.113.7:0")),
        Some(end("10.0.0.2:0"))
    );
    bench.wait(599);
    assert_eq!(bench.out("10.0.0.3:0", "192.0.2.1:0"), None);
    bench.wait(1);
    assert!(bench.out("10.0.0.3:0", "192.0.2.1:0").is_some());
}

#[test]
fn conntrack_times_udp_by_what_it_has_seen() {
    let mut bench = Bench::new(ConntrackGeneric::new(PUBLIC));
    let public = bench.out("10.0.0.2:4500", "192.0.2.1:4500").unwrap();
    bench.wait(29);
    assert!(bench.back("192.0.2.1:4500", public).is_some());
    // That was an answer after more than two seconds: a stream.
    bench.wait(119);
    assert!(bench.back("192.0.2.1:4500", public).is_some());
    bench.wait(120);
    assert!(bench.back("192.0.2.1:4500", public).is_none());
    bench.out("10.0.0.2:4500", "192.0.2.1:4500");
    bench.wait(30);
    assert!(bench.back("192.0.2.1:4500", public).is_none());
}

#[test]
fn conntracks_full_table_evicts_what_is_not_assured() {
    let mut bench = Bench::new(ConntrackGeneric::with_max_entries(PUBLIC, 2));
    let stream = bench.out("10.0.0.2:4500", "192.0.2.1:4500").unwrap();
    bench.wait(3);
    bench.back("192.0.2.1:4500", stream);
    let young = bench.out("10.0.0.3:5000", "192.0.2.1:4500").unwrap();
    bench.out("10.0.0.4:6000", "192.0.2.1:4500").unwrap();
    assert_eq!(bench.nat.entries(), 2);
    assert!(bench.back("192.0.2.1:4500", stream).is_some());
    assert!(bench.back("192.0.2.1:4500", young).is_none());
}

#[test]
fn conntrack_forgets_when_it_crashes_and_moves_when_it_is_remapped() {
    let mut bench = Bench::new(ConntrackGeneric::new(PUBLIC));
    let public = bench.out("10.0.0.2:4500", "192.0.2.1:4500").unwrap();
    bench.nat.crash();
    assert!(bench.back("192.0.2.1:4500", public).is_none());
    bench.nat.remap(Ipv4Addr::new(203, 0, 113, 8));
    let moved = bench.out("10.0.0.2:4500", "192.0.2.1:4500").unwrap();
    assert_eq!(moved, end("203.0.113.8:4500"));
}

#[test]
fn symmetric_draws_a_port_for_each_destination_and_filters_by_it() {
    let mut bench = Bench::new(UdpSymmetric::new(PUBLIC));
    let a = bench.out("10.0.0.2:500", "192.0.2.1:500").unwrap();
    let b = bench.out("10.0.0.2:500", "192.0.2.2:500").unwrap();
    assert_ne!(a, b);
    assert_eq!(bench.out("10.0.0.2:500", "192.0.2.1:500"), Some(a));
    assert_eq!(bench.back("192.0.2.1:500", a), Some(end("10.0.0.2:500")));
    assert_eq!(bench.back("192.0.2.1:500", b), None);
    assert_eq!(bench.back("192.0.2.1:4500", a), None);
    assert_eq!(bench.out("10.0.0.2:0", "192.0.2.1:0"), None);
    bench.wait(59);
    assert!(bench.back("192.0.2.1:500", a).is_some());
    bench.wait(60);
    assert!(bench.back("192.0.2.1:500", a).is_none());
    assert_ne!(bench.out("10.0.0.2:500", "192.0.2.1:500"), Some(a));
}

#[test]
fn symmetric_may_be_refreshed_from_inside_only_and_drops_when_full() {
    let mut bench = Bench::new(UdpSymmetric::with(
        PUBLIC,
        Duration::from_secs(30),
        false,
        1,
    ));
    let a = bench.out("10.0.0.2:500", "192.0.2.1:500").unwrap();
    assert_eq!(bench.out("10.0.0.3:500", "192.0.2.1:500"), None);
    bench.wait(20);
    assert!(bench.back("192.0.2.1:500", a).is_some());
    bench.wait(10);
    assert!(bench.back("192.0.2.1:500", a).is_none());
    assert!(bench.out("10.0.0.3:500", "192.0.2.1:500").is_some());
}
