//! What holds for every model.

use proptest::prelude::*;

use super::*;

#[test]
fn a_models_name_is_the_same_everywhere() {
    for model in Model::ALL {
        let name = model.to_string();
        assert_eq!(name.parse(), Ok(model));
        assert_eq!(clap::ValueEnum::from_str(&name, false), Ok(model));
        assert_eq!(serde_json::to_value(model).unwrap(), name);
        assert_eq!(model.make(PUBLIC).name(), name);
        assert!(!model.about().is_empty());
    }
    let error = "cone".parse::<Model>().unwrap_err();
    assert!(
        error.contains("\"cone\"") && error.contains("cpe-8-entries"),
        "{error}"
    );
}

#[test]
fn a_table_of_rows_has_a_line_each() {
    let mut bench = Bench::new(VpnMasquerade::default().make(PUBLIC));
    bench.esp_out("10.0.0.2", "192.0.2.1", 0xc0ff_ee01);
    bench.out("10.0.0.3:4500", "192.0.2.1:4500");
    let text = table(&bench.nat.show(bench.now));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[1].starts_with("ESP    10.0.0.2"), "{text}");
    assert!(
        lines[1].ends_with("out c0ffee01  pending, 2:00 left"),
        "{text}"
    );
    assert!(
        lines[2].contains("10.0.0.3:4500") && lines[2].ends_with("unanswered, 5:00 left"),
        "{text}"
    );
}

#[test]
fn fragments_and_strangers_do_not_pass() {
    for model in Model::ALL {
        let mut nat = model.make(PUBLIC);
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut out = Output::default();
        // More fragments, and one that is not the first.
        for flags in [[0x20, 0], [0, 9]] {
            let mut bytes = datagram(end("10.0.0.2:500"), end("192.0.2.1:500")).into_bytes();
            bytes[6..8].copy_from_slice(&flags);
            let packet = Packet::new(bytes, 0).unwrap();
            assert!(packet.is_fragment());
            nat.outbound(secs(1), packet, &mut rng, &mut out);
        }
        nat.inbound(
            secs(1),
            esp("192.0.2.1", "203.0.113.7", 0x900),
            &mut rng,
            &mut out,
        );
        nat.inbound(
            secs(1),
            datagram(end("192.0.2.1:500"), end("203.0.113.7:500")),
            &mut rng,
            &mut out,
        );
        assert!(out.is_empty() && nat.entries() == 0, "{model}");
    }
}

/// One thing that happens at a box.
#[derive(Debug, Clone)]
enum Step {
    /// From the inside or the outside: kind, two small numbers for its ends, and one for its SPI or port.
    Packet {
        up: bool,
        kind: u8,
        near: u8,
        far: u8,
        number: u8,
    },
    Garbage {
        up: bool,
        bytes: Vec<u8>,
    },
    Wait(u16),
    Crash,
    Remap(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let packet = (any::<bool>(), 0..6u8, 0..4u8, 0..3u8, 0..12u8);
    let packet = packet.prop_map(|(up, kind, near, far, number)| Step::Packet {
        up,
        kind,
        near,
        far,
        number,
    });
    let garbage = (
        any::<bool>(),
        proptest::collection::vec(any::<u8>(), 0..80),
        any::<bool>(),
    );
    let garbage = garbage.prop_map(|(up, mut bytes, v4)| {
        if let Some(first) = bytes.first_mut() {
            *first = if v4 { 0x45 } else { 0x60 };
        }
        if v4 && bytes.len() >= 20 {
            let len = u16::try_from(bytes.len()).unwrap();
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            bytes[6] = 0;
            bytes[7] = 0;
            bytes[9] = [1, 6, 17, 50][usize::from(bytes[9] % 4)];
        }
        Step::Garbage { up, bytes }
    });
    prop_oneof![
        20 => packet,
        4 => garbage,
        4 => (0..200u16).prop_map(Step::Wait),
        1 => Just(Step::Crash),
        1 => any::<u8>().prop_map(Step::Remap),
    ]
}

fn made(up: bool, kind: u8, inside: SocketAddr, outside: SocketAddr, number: u8) -> Packet {
    let (src, dst) = if up {
        (inside, outside)
    } else {
        (outside, inside)
    };
    let spi = [0, 1, 255, 256, 257, 258][usize::from(number) % 6];
    let echo = mitregate_wire::icmp::Echo {
        request: up,
        id: inside.port(),
        seq: 1,
        data: &[1; 9],
    };
    match kind {
        0 | 1 => esp(&src.ip().to_string(), &dst.ip().to_string(), spi),
        2 => datagram(src, dst),
        3 => Packet::echo(src.ip(), dst.ip(), echo, 0).unwrap(),
        4 => Packet::of(src.ip(), dst.ip(), 47, &[0; 12], 0).unwrap(),
        _ => {
            // About a packet the other way.
            let about = match number % 2 {
                0 => datagram(dst, src),
                _ => esp(&dst.ip().to_string(), &src.ip().to_string(), spi),
            };
            let mut bytes = vec![0; 600];
            let problem = mitregate_wire::icmp::Problem::HopLimit;
            let len =
                mitregate_wire::icmp::emit_error(src.ip(), problem, about.bytes(), &mut bytes);
            bytes.truncate(len.unwrap().unwrap());
            Packet::new(bytes, 0).unwrap()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing panics; what leaves is a packet with right checksums, of the same protocol, between the public
    /// address and the same peer; tables and what is held are bounded; a timer that fired is not due again.
    #[test]
    fn what_leaves_is_valid(which in 0..8usize, steps in proptest::collection::vec(step(), 1..120)) {
        let model = Model::ALL[which];
        let mut nat = model.make(PUBLIC);
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let mut now = secs(1);
        for step in steps {
            let mut out = Output::default();
            let public = nat.public();
            match step {
                Step::Packet { up, kind, near, far, number } => {
                    let port = [500, 4500, 4501, 1][usize::from(number) % 4];
                    let inside = SocketAddr::from(([10, 0, 0, near + 2], port));
                    let inside = if up { inside } else { (public.unwrap_or(inside.ip()), port).into() };
                    let outside = SocketAddr::from(([192, 0, 2, far + 1], port));
                    let packet = made(up, kind, inside, outside, number);
                    prop_assert!(packet.checksums_ok());
                    let protocol = packet.protocol();
                    match up {
                        true => nat.outbound(now, packet, &mut rng, &mut out),
                        false => nat.inbound(now, packet, &mut rng, &mut out),
                    }
                    for packet in out.outside.iter().chain(&out.inside) {
                        prop_assert!(packet.checksums_ok());
                        prop_assert_eq!(packet.protocol(), protocol);
                        let same = Packet::new(packet.bytes().to_vec(), packet.id);
                        prop_assert_eq!(same.as_ref(), Ok(packet));
                    }
                    for packet in &out.outside {
                        prop_assert!(public.is_none_or(|public| packet.src().ip() == public));
                        prop_assert!(packet.dst().to_string().starts_with("192.0.2."));
                    }
                    for packet in &out.inside {
                        prop_assert!(packet.dst().to_string().starts_with("10.0.0."));
                    }
                }
                Step::Garbage { up, bytes } => if let Ok(packet) = Packet::new(bytes, 0) {
                    match up {
                        true => nat.outbound(now, packet, &mut rng, &mut out),
                        false => nat.inbound(now, packet, &mut rng, &mut out),
                    }
                },
                Step::Wait(seconds) => now += secs(u64::from(seconds)),
                Step::Crash => {
                    nat.crash();
                    prop_assert_eq!((nat.entries(), nat.poll_timeout()), (0, None));
                }
                Step::Remap(last) => nat.remap(&Remap::address([203, 0, 113, last])),
            }
            if nat.poll_timeout().is_some_and(|at| at <= now) {
                nat.handle_timeout(now, &mut rng, &mut out);
            }
            prop_assert!(nat.poll_timeout().is_none_or(|at| at > now));
            prop_assert!(nat.show(now).len() <= nat.entries() + 256);
        }
    }
}

/// However many SPIs a host makes up.
#[test]
fn tables_of_esp_are_bounded() {
    for model in Model::ALL {
        let mut nat = model.make(PUBLIC);
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        for spi in 0x100..0x580 {
            let client = format!("10.0.0.{}", spi % 7 + 2);
            let mut out = Output::default();
            nat.outbound(secs(1), esp(&client, "192.0.2.1", spi), &mut rng, &mut out);
            nat.inbound(
                secs(1),
                esp("192.0.2.1", "203.0.113.7", spi),
                &mut rng,
                &mut out,
            );
        }
        let most = match model {
            Model::UdpEim | Model::UdpSymmetric => 0,
            Model::ConntrackGeneric => 1,
            Model::Cpe8Entries => 8,
            _ => 1024,
        };
        assert_eq!(nat.entries(), most, "{model}");
    }
}
