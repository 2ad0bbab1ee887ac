//! The table of ports, by the two models that are nothing else.

use super::*;

fn conntrack() -> Bench {
    Bench::new(ConntrackGeneric::default().make(PUBLIC))
}

#[test]
fn conntrack_keeps_the_port_if_it_can_and_draws_of_the_same_class_if_not() {
    let mut bench = conntrack();
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
    let mut bench = conntrack();
    assert!(bench.esp_out("10.0.0.2", "192.0.2.1", 500));
    assert!(!bench.esp_out("10.0.0.3", "192.0.2.1", 501));
    // To another server it is free.
    assert!(bench.esp_out("10.0.0.3", "192.0.2.2", 501));
    assert_eq!(bench.esp_in("192.0.2.1", 700), ["10.0.0.2"]);
    bench.wait(599);
    assert!(!bench.esp_out("10.0.0.3", "192.0.2.1", 501));
    bench.wait(1);
    assert!(bench.esp_out("10.0.0.3", "192.0.2.1", 501));
    // And what the server has for the first is the second's now.
    assert_eq!(bench.esp_in("192.0.2.1", 700), ["10.0.0.3"]);
}

#[test]
fn conntrack_times_udp_by_what_it_has_seen() {
    let mut bench = conntrack();
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
    let mut bench = {
        let mut model = ConntrackGeneric::default();
        model.ports.max_entries = 2;
        Bench::new(model.make(PUBLIC))
    };
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
    let mut bench = conntrack();
    let public = bench.out("10.0.0.2:4500", "192.0.2.1:4500").unwrap();
    bench.nat.crash();
    assert!(bench.back("192.0.2.1:4500", public).is_none());
    bench.nat.remap(&Remap::address([203, 0, 113, 8]));
    let moved = bench.out("10.0.0.2:4500", "192.0.2.1:4500").unwrap();
    assert_eq!(moved, end("203.0.113.8:4500"));
    bench.nat.remap(&Remap::ports(20_000..=20_100));
    let moved = bench.out("10.0.0.2:4500", "192.0.2.1:4500").unwrap();
    assert_eq!(moved.ip(), end("203.0.113.8").ip());
    assert!((20_000..=20_100).contains(&moved.port()), "{moved}");
    assert_eq!(
        bench.back("192.0.2.1:4500", moved),
        Some(end("10.0.0.2:4500"))
    );
}

#[test]
fn symmetric_draws_a_port_for_each_destination_and_filters_by_it() {
    let mut bench = Bench::new(UdpSymmetric::default().make(PUBLIC));
    let a = bench.out("10.0.0.2:500", "192.0.2.1:500").unwrap();
    let b = bench.out("10.0.0.2:500", "192.0.2.2:500").unwrap();
    assert_ne!(a, b);
    assert_eq!(bench.out("10.0.0.2:500", "192.0.2.1:500"), Some(a));
    assert_eq!(bench.back("192.0.2.1:500", a), Some(end("10.0.0.2:500")));
    assert_eq!(bench.back("192.0.2.1:500", b), None);
    assert_eq!(bench.back("192.0.2.1:4500", a), None);
    assert!(!bench.esp_out("10.0.0.2", "192.0.2.1", 500));
    bench.wait(59);
    assert!(bench.back("192.0.2.1:500", a).is_some());
    bench.wait(60);
    assert!(bench.back("192.0.2.1:500", a).is_none());
    assert_ne!(bench.out("10.0.0.2:500", "192.0.2.1:500"), Some(a));
}

#[test]
fn symmetric_may_be_refreshed_from_inside_only_and_drops_when_full() {
    let mut model = UdpSymmetric::default();
    model.ports.refreshed_from_outside = false;
    model.ports.max_entries = 1;
    model.ports.timers.udp = secs(30);
    let mut bench = Bench::new(model.make(PUBLIC));
    let a = bench.out("10.0.0.2:500", "192.0.2.1:500").unwrap();
    assert_eq!(bench.out("10.0.0.3:500", "192.0.2.1:500"), None);
    bench.wait(20);
    assert!(bench.back("192.0.2.1:500", a).is_some());
    bench.wait(10);
    assert!(bench.back("192.0.2.1:500", a).is_none());
    assert!(bench.out("10.0.0.3:500", "192.0.2.1:500").is_some());
}

#[test]
fn tcp_and_echo_are_translated_like_udp() {
    let models = Model::ALL.into_iter();
    for model in models.filter(|model| model.make(PUBLIC).public().is_some()) {
        let mut bench = Bench {
            nat: model.make(PUBLIC),
            ..conntrack()
        };
        // Without a checksum of its own: what is checked is how it changes.
        let tcp = |src: SocketAddr, dst: SocketAddr| {
            let mut segment = [0; 20];
            segment[..2].copy_from_slice(&src.port().to_be_bytes());
            segment[2..4].copy_from_slice(&dst.port().to_be_bytes());
            let sum = mitregate_wire::checksum::Sum::new();
            let sum = sum
                .pseudo_header(src.ip(), dst.ip(), 6, 20)
                .bytes(&segment)
                .checksum();
            segment[16..18].copy_from_slice(&sum.to_be_bytes());
            Packet::of(src.ip(), dst.ip(), 6, &segment, 0).unwrap()
        };
        let (near, far) = (end("10.0.0.2:40000"), end("192.0.2.1:80"));
        let out = bench.pass(true, tcp(near, far)).outside;
        let mapped = out[0].src();
        assert_eq!((mapped.ip(), out[0].dst()), (PUBLIC, far), "{model}");
        let back = bench.pass(false, tcp(far, mapped)).inside;
        assert_eq!(back[0].dst(), near, "{model}");

        let echo = |request, id, src: SocketAddr, dst: SocketAddr| {
            let (seq, data) = (1, &[5; 20][..]);
            let echo = mitregate_wire::icmp::Echo {
                request,
                id,
                seq,
                data,
            };
            Packet::echo(src.ip(), dst.ip(), echo, 0).unwrap()
        };
        let out = bench.pass(true, echo(true, 77, near, far)).outside;
        let mapped = out[0].src();
        let back = bench
            .pass(false, echo(false, mapped.port(), far, mapped))
            .inside;
        assert_eq!(back[0].dst(), end("10.0.0.2:77"), "{model}");
        // Nobody has asked for this one.
        let back = bench
            .pass(false, echo(false, mapped.port() ^ 1, far, mapped))
            .inside;
        assert!(back.is_empty(), "{model}");
    }
}

#[test]
fn an_icmp_error_finds_whose_packet_it_is_about() {
    let mut bench = conntrack();
    let sent = datagram(end("10.0.0.2:4500"), end("192.0.2.1:4500"));
    bench.out("10.0.0.3:4500", "192.0.2.1:4500").unwrap();
    let left = bench.pass(true, sent.clone()).outside.remove(0);
    assert_ne!(left.src().port(), 4500);
    let error = |about: &Packet, from: &str| {
        let mut bytes = vec![0; 600];
        let problem = mitregate_wire::icmp::Problem::TooBig { mtu: 1400 };
        let len =
            mitregate_wire::icmp::emit_error(end(from).ip(), problem, about.bytes(), &mut bytes);
        bytes.truncate(len.unwrap().unwrap());
        Packet::new(bytes, 0).unwrap()
    };
    let back = bench
        .pass(false, error(&left, "198.51.100.9"))
        .inside
        .remove(0);
    assert_eq!(back.dst().ip(), sent.src().ip());
    let quote = back.quote().unwrap();
    assert_eq!((quote.src, quote.dst), (sent.src(), sent.dst()));
    // And one from the inside, about what came in.
    let answer = datagram(left.dst(), left.src());
    let arrived = bench.pass(false, answer.clone()).inside.remove(0);
    let out = bench
        .pass(true, error(&arrived, "10.0.0.2"))
        .outside
        .remove(0);
    assert_eq!((out.src().ip(), out.dst().ip()), (PUBLIC, left.dst().ip()));
    let quote = out.quote().unwrap();
    assert_eq!((quote.src, quote.dst), (answer.src(), answer.dst()));
    // About nothing of ours.
    let other = datagram(left.src(), end("192.0.2.9:4500"));
    assert!(bench.pass(false, error(&other, "198.51.100.9")).is_empty());
}
