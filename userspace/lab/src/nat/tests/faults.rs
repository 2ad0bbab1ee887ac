//! The faults of any box.

use super::*;

fn faulty(faults: Faults) -> (Faulty, ChaCha20Rng) {
    let mut nat = Faulty::new(Model::ConntrackGeneric.make(PUBLIC));
    nat.faults = faults;
    (nat, ChaCha20Rng::seed_from_u64(1))
}

fn numbered(id: u64) -> Packet {
    let mut packet = datagram(end("10.0.0.2:4500"), end("192.0.2.1:4500"));
    packet.id = id;
    packet
}

fn ids(out: &Output) -> Vec<u64> {
    out.outside.iter().map(|packet| packet.id).collect()
}

#[test]
fn drop_first_loses_the_first_of_each_flow_and_keeps_the_entry() {
    let (mut nat, mut rng) = faulty(Faults {
        drop_first: 2,
        ..Faults::default()
    });
    let mut passed = |packet: Packet| {
        let mut out = Output::default();
        nat.outbound(secs(1), packet, &mut rng, &mut out);
        (!out.is_empty(), nat.entries())
    };
    assert_eq!(passed(numbered(1)), (false, 1));
    assert_eq!(passed(numbered(2)), (false, 1));
    assert_eq!(passed(numbered(3)), (true, 1));
    // An SPI begins a flow.
    assert_eq!(passed(esp("10.0.0.2", "192.0.2.1", 0x100)), (false, 2));
    nat.crash();
    let mut out = Output::default();
    nat.outbound(secs(1), numbered(4), &mut rng, &mut out);
    assert!(out.is_empty());
}

#[test]
fn delay_keeps_the_order_and_reorder_does_not() {
    for (reorder, in_order) in [(0, true), (300, false)] {
        let (mut nat, mut rng) = faulty(Faults {
            delay: Duration::from_millis(20),
            reorder,
            reorder_by: Duration::from_millis(50),
            ..Faults::default()
        });
        let mut left = Vec::new();
        for id in 0..100 {
            let now = Duration::from_millis(1000 + id);
            let mut out = Output::default();
            nat.outbound(now, numbered(id), &mut rng, &mut out);
            nat.handle_timeout(now, &mut rng, &mut out);
            left.extend(ids(&out));
        }
        assert!(left.len() < 81);
        while let Some(now) = nat.poll_timeout() {
            let mut out = Output::default();
            nat.handle_timeout(now, &mut rng, &mut out);
            left.extend(ids(&out));
        }
        assert_eq!(left.len(), 100);
        assert_eq!(left.is_sorted(), in_order);
    }
}

#[test]
fn without_faults_it_is_its_model() {
    let (mut nat, mut rng) = faulty(Faults::default());
    let mut out = Output::default();
    nat.outbound(secs(1), numbered(1), &mut rng, &mut out);
    assert_eq!((ids(&out), nat.poll_timeout()), (vec![1], None));
    assert_eq!(
        (nat.name(), nat.public()),
        ("conntrack-generic", Some(PUBLIC))
    );
}
