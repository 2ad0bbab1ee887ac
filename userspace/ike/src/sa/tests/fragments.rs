//! IKE fragmentation (RFC 7383).

use mitregate_wire::ike::{ExchangeType, NotifyType, Payload, PayloadType};

use super::faults::{life, life_until_close};
use super::*;
use crate::sa::message::Covered;
use crate::sa::window::Purpose;

const IKE_AUTH: ExchangeType = ExchangeType::IKE_AUTH;

/// Identities so long, and datagrams so short, that IKE_AUTH takes several.
fn long(mode: [FragmentationMode; 2]) -> Setup {
    let mut setup = Setup::new();
    let client = format!("{}@lab", "c".repeat(500));
    let server = format!("{}@lab", "s".repeat(300));
    setup.client.local_id = client.parse().unwrap();
    setup.server.remote_id = Some(client.parse().unwrap());
    setup.server.local_id = server.parse().unwrap();
    setup.client.remote_id = Some(server.parse().unwrap());
    for (config, mode) in [&mut setup.client, &mut setup.server].into_iter().zip(mode) {
        config.fragmentation = Fragmentation {
            mode,
            size: Fragmentation::MIN_SIZE,
        };
    }
    setup
}

fn fragmented() -> Setup {
    let mut setup = long([FragmentationMode::Yes; 2]);
    // With a key exchange of their own, rekeys take several datagrams, too.
    let client = "10.1.0.1/32,10.1.1.1/32,10.1.2.1/32,10.1.3.1/32";
    setup.client.children = vec![child("net", client, "10.2.0.0/24", "aes256gcm16-x25519")];
    setup.server.children = vec![child("net", "10.2.0.0/24", client, "aes256gcm16-x25519")];
    setup
}

/// (to, exchange, number, total) of all fragments that were delivered.
fn fragments(world: &World) -> Vec<(usize, ExchangeType, u16, u16)> {
    let messages = world.messages();
    let fragments = messages.iter().filter_map(|(to, message)| {
        let [Payload::EncryptedFragment { number, total, .. }] = message.payloads.as_slice() else {
            return None;
        };
        Some((*to, message.exchange, *number, *total))
    });
    fragments.collect()
}

#[test]
fn long_messages_are_cut_to_size() {
    for ipv6 in [false, true] {
        let mut setup = fragmented();
        setup.ipv6 = ipv6;
        let mut world = setup.connected(1);
        let spi = world.spi(SERVER);
        world
            .call(SERVER, |sa, cx| sa.rekey_child(spi, cx))
            .unwrap();
        world.settle();
        world.assert_agree();
        let seen = fragments(&world);
        for to in [CLIENT, SERVER] {
            for exchange in [IKE_AUTH, ExchangeType::CREATE_CHILD_SA] {
                let numbers: Vec<_> = seen
                    .iter()
                    .filter(|f| (f.0, f.1) == (to, exchange))
                    .collect();
                assert!(numbers.len() > 1, "{exchange} to {to}");
                for (expected, fragment) in (1..).zip(&numbers) {
                    assert_eq!(fragment.2, expected);
                    assert_eq!(usize::from(fragment.3), numbers.len());
                }
            }
        }
        // The non-ESP marker is one of them, on port 4500.
        let headers = if ipv6 { 52 } else { 32 };
        for (_, _, _, bytes) in &world.trace {
            let first = peek(bytes).unwrap().exchange == ExchangeType::IKE_SA_INIT;
            assert!(first || bytes.len() + headers <= Fragmentation::MIN_SIZE);
        }
        // As long as allowed, all but the last.
        let longest = world
            .trace
            .iter()
            .filter(|t| peek(&t.3).unwrap().exchange == IKE_AUTH);
        let longest = longest.map(|t| t.3.len() + headers).max();
        assert_eq!(longest, Some(Fragmentation::MIN_SIZE));
    }
}

/// RFC 7383 §2.3: who does not announce it gets and sends none; `accept` sends none.
#[test]
fn only_if_both_say_so() {
    use FragmentationMode::{Accept, No, Yes};
    for client in [Yes, Accept, No] {
        for server in [Yes, Accept, No] {
            let world = long([client, server]).connected(2);
            let seen = fragments(&world);
            let both = client != No && server != No;
            for (to, expected) in [(SERVER, client == Yes), (CLIENT, server == Yes)] {
                assert_eq!(seen.iter().any(|f| f.0 == to), both && expected);
            }
            let announced = |to| {
                let messages = world.messages();
                let init = messages.iter().find(|(t, _)| *t == to).unwrap();
                let kind = NotifyType::IKEV2_FRAGMENTATION_SUPPORTED;
                crate::sa::message::find_notify(&init.1.payloads, kind).is_some()
            };
            assert_eq!(announced(SERVER), client != No);
            assert_eq!(announced(CLIENT), both);
        }
    }
}

#[test]
fn short_messages_stay_whole() {
    let world = Setup::new().connected(3);
    assert!(fragments(&world).is_empty());
}

#[test]
fn each_fragment_lost_doubled_or_late() {
    let mut world = fragmented().world(4);
    life(&mut world);
    let count = world.sent;
    assert!(count > 24, "{count}");
    let fates: [&[u64]; 5] = [&[], &[0, 0], &[700], &[3000], &[0, 1, 30_000]];
    for n in 0..count {
        for (seed, fate) in fates.iter().enumerate() {
            let mut world = fragmented().nat().world(seed as u64);
            world
                .special
                .insert(n, fate.iter().map(|delay| ms(*delay)).collect());
            life(&mut world);
            world.assert_nothing_left();
        }
    }
}

#[test]
fn fragments_on_a_bad_network() {
    for seed in 0..60 {
        let mut setup = fragmented();
        setup.cookies = seed % 3 == 0;
        setup.nat = seed % 5 == 0;
        // All fragments of request and response must get through in one of the tries, or add up.
        setup.client.retransmit.tries = 40;
        setup.server.retransmit.tries = 40;
        let mut world = setup.world(seed);
        world.faults = Faults {
            loss: 15,
            duplicates: 20,
            jitter_ms: 800,
        };
        life_until_close(&mut world);
    }
}

/// Datagrams of the client's IKE_AUTH request; none is delivered.
fn auth_request(world: &mut World) -> Vec<Packet> {
    world.connect();
    assert!(world.step(Duration::MAX));
    assert!(world.step(Duration::MAX));
    let request = std::mem::take(&mut world.net);
    assert!(request.len() > 3, "{}", request.len());
    request
}

fn deliver(world: &mut World, packet: &Packet) {
    world.deliver(packet.to, packet.source, packet.destination, &packet.bytes);
}

/// RFC 7383 §2.6.1.
#[test]
fn a_repeated_request_is_answered_once_for_its_first_fragment() {
    let mut world = fragmented().world(5);
    let request = auth_request(&mut world);
    for packet in request.iter().rev() {
        assert!(world.net.is_empty());
        deliver(&mut world, packet);
    }
    let answer = world.net.len();
    assert!(answer > 1);
    let times = |world: &World| world.net.len() / answer;
    for packet in &request[1..] {
        deliver(&mut world, packet);
        assert_eq!(
            world.hosts[SERVER].discarded.pop(),
            Some(Discard::MessageId)
        );
    }
    assert_eq!(times(&world), 1);
    deliver(&mut world, &request[0]);
    assert_eq!(times(&world), 2);
    for packet in &request {
        deliver(&mut world, packet);
    }
    assert_eq!((times(&world), world.net.len() % answer), (3, 0));
    world.settle();
    world.assert_connected();
}

/// RFC 7383 §2.5.2, §2.6: the peer cuts its request into more, after the answer or before.
#[test]
fn a_request_that_is_cut_shorter_is_the_same_request() {
    for answered in [false, true] {
        let mut world = fragmented().connected(6);
        let spi = world.spi(CLIENT);
        world.net.clear();
        // What the client will send, in two forms of cutting.
        let payloads = [Payload::VendorId(vec![7; 900])];
        let mut forms = Vec::new();
        for size in [500, Fragmentation::MIN_SIZE] {
            forms.push(world.call(CLIENT, |sa, cx| {
                let limit = Fragmentation {
                    mode: FragmentationMode::Yes,
                    size,
                };
                sa.config = Arc::new(with_fragmentation(&sa.config, limit));
                let id = sa.next_request;
                let informational = ExchangeType::INFORMATIONAL;
                sa.seal(informational, false, id, &payloads, cx.rng)
                    .unwrap()
                    .datagrams
            }));
        }
        let (source, destination) = world.hosts[CLIENT].sas[0].addresses();
        let [short, long] = forms.as_slice() else {
            unreachable!()
        };
        assert!(short.len() < long.len() && short.len() > 1);
        let before = if answered { short.len() } else { 1 };
        for bytes in &short[..before] {
            world.deliver(SERVER, source, destination, bytes);
        }
        assert_eq!(world.net.len(), usize::from(answered));
        for bytes in long {
            world.deliver(SERVER, source, destination, bytes);
        }
        // Late ones of the first form.
        for bytes in &short[1..] {
            world.deliver(SERVER, source, destination, bytes);
        }
        assert_eq!(world.net.len(), 1 + usize::from(answered));
        assert_eq!(world.spi(CLIENT), spi);
    }
}

fn with_fragmentation(config: &IkeConfig, fragmentation: Fragmentation) -> IkeConfig {
    IkeConfig {
        fragmentation,
        ..config.clone()
    }
}

#[test]
fn forged_fragments_are_not_kept() {
    let mut world = fragmented().world(7);
    let request = auth_request(&mut world);
    for packet in &request {
        for bit in 0..packet.bytes.len() * 8 {
            let mut forged = packet.bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            world.deliver(packet.to, packet.source, packet.destination, &forged);
        }
    }
    for sa in &world.hosts[SERVER].sas {
        assert_eq!(sa.reassembly.bytes(), 0);
    }
    world.net.clear();
    for packet in &request {
        deliver(&mut world, packet);
    }
    world.settle();
    world.assert_connected();
}

/// An authenticated peer that never finishes: bounded, timed out, and in the way of nobody.
#[test]
fn fragments_that_never_complete() {
    let mut world = fragmented().connected(8);
    let (source, destination) = world.hosts[CLIENT].sas[0].addresses();
    let mut most = 0;
    for round in 0..20 {
        let payloads = vec![Payload::VendorId(vec![round; 15_000])];
        let datagrams = world.call(CLIENT, |sa, cx| {
            let id = sa.next_request;
            let informational = ExchangeType::INFORMATIONAL;
            sa.seal(informational, false, id, &payloads, cx.rng)
                .unwrap()
                .datagrams
        });
        assert!(datagrams.len() > 80);
        for bytes in &datagrams[1..] {
            world.deliver(SERVER, source, destination, bytes);
        }
        most = most.max(world.hosts[SERVER].sas[0].reassembly.bytes());
    }
    assert!(most > 14_000 && most <= 64 * 1024, "{most}");
    assert_eq!(world.net.len(), 0);
    world.run_for(Duration::from_secs(61));
    assert_eq!(world.hosts[SERVER].sas[0].reassembly.bytes(), 0);
    assert_eq!(world.hosts[SERVER].sas[0].poll_timeout(), None);
    world.call(CLIENT, IkeSa::check_liveness);
    world.settle();
    assert!(world.heard(CLIENT, "alive"));
}

#[test]
fn too_long_a_message_is_not_sent() {
    let mut world = fragmented().connected(9);
    let payloads = vec![Payload::VendorId(vec![1; 60_000])];
    let sealed = world.call(CLIENT, |sa, cx| {
        sa.seal(ExchangeType::INFORMATIONAL, false, 9, &payloads, cx.rng)
            .err()
    });
    assert!(matches!(sealed, Some(Reason::Syntax(_))));
}

/// Both directions at the same time, each in fragments.
#[test]
fn requests_that_cross() {
    let mut world = fragmented().connected(10);
    for host in [CLIENT, SERVER] {
        world
            .call(host, |sa, cx| {
                let payloads = [Payload::VendorId(vec![3; 900])];
                sa.request(
                    ExchangeType::INFORMATIONAL,
                    Purpose::Liveness,
                    &payloads,
                    cx,
                )
            })
            .unwrap();
    }
    world.settle();
    assert!(world.heard(CLIENT, "alive") && world.heard(SERVER, "alive"));
}

/// A peer that did not agree to fragments may not send any.
#[test]
fn fragments_that_were_not_agreed() {
    let mut world = long([FragmentationMode::Yes, FragmentationMode::No]).connected(11);
    world.call(CLIENT, |sa, _| sa.fragmentation = true);
    let spi = world.spi(CLIENT);
    let asked = |sa: &mut IkeSa, cx: &mut Ctx<'_>| {
        let payloads = [Payload::VendorId(vec![3; 900])];
        sa.request(
            ExchangeType::INFORMATIONAL,
            Purpose::Liveness,
            &payloads,
            cx,
        )
    };
    world.call(CLIENT, asked).unwrap();
    world.run_for(Duration::from_secs(1));
    assert!(world.hosts[SERVER].discarded.contains(&Discard::Fragment));
    assert_eq!(world.spi(CLIENT), spi);
}

/// RFC 9242 §3.3: what IntAuth covers is the same at both ends, cut or not.
#[test]
fn both_ends_cover_the_unfragmented_form() {
    let mut covered = Vec::new();
    for mode in [FragmentationMode::Yes, FragmentationMode::Accept] {
        let mut world = long([mode, mode]).connected(12);
        let payloads = [
            Payload::Nonce(vec![5; 200]),
            Payload::VendorId(vec![6; 900]),
        ];
        let sealed = world.call(CLIENT, |sa, cx| {
            let id = sa.next_request;
            sa.spi_i.0 = [1; 8];
            sa.spi_r.0 = [2; 8];
            sa.seal(ExchangeType::INFORMATIONAL, false, id, &payloads, cx.rng)
                .unwrap()
        });
        assert_eq!(sealed.datagrams.len() > 1, mode == FragmentationMode::Yes);
        let now = world.now;
        let opened = sealed
            .datagrams
            .iter()
            .find_map(|bytes| world.call(SERVER, |sa, _| sa.open(bytes, now).unwrap()));
        let opened = opened.unwrap();
        assert_eq!(opened.payloads.as_deref(), Ok(&payloads[..]));
        let both = [opened.covered, sealed.covered];
        covered.extend(both.map(|c| (c.clear.clone(), c.inner().to_vec())));
    }
    let (clear, inner) = covered[0].clone();
    assert!(covered.iter().all(|c| *c == covered[0]));
    assert_eq!(inner.len(), 4 + 200 + 4 + 900);
    let length = u32::try_from(28 + 4 + inner.len()).unwrap();
    assert_eq!(clear.len(), 28 + 4);
    assert_eq!(clear[16], PayloadType::ENCRYPTED.0);
    assert_eq!(clear[24..28], length.to_be_bytes());
    assert_eq!(clear[28..30], [PayloadType::NONCE.0, 0]);
    assert_eq!(
        clear[30..32],
        u16::try_from(4 + inner.len()).unwrap().to_be_bytes()
    );
}

/// What stands before an SKF payload is covered as if SK followed it.
#[test]
fn payloads_in_front_are_covered() {
    let message = |last| {
        let mut world = Setup::new().connected(13);
        world.call(CLIENT, |sa, _| {
            sa.spi_i.0 = [1; 8];
            sa.spi_r.0 = [2; 8];
            let payloads = vec![
                Payload::VendorId(vec![1, 2, 3]),
                Payload::VendorId(vec![4]),
                last,
            ];
            sa.plain(ExchangeType::INFORMATIONAL, false, 3, payloads)
                .emit()
                .unwrap()
        })
    };
    let first = PayloadType::NONCE;
    let fragment = message(Payload::EncryptedFragment {
        first,
        number: 1,
        total: 9,
        body: vec![0; 10],
    });
    let whole = message(Payload::Encrypted {
        first,
        body: vec![0; 10],
    });
    let cover = |bytes: &[u8], header| {
        let clear = bytes[..bytes.len() - 10 - header].to_vec();
        Covered::new(clear, first, Zeroizing::new(vec![0; 10])).clear
    };
    assert_eq!(cover(&fragment, 8), whole[..whole.len() - 10]);
    assert_eq!(cover(&whole, 4), whole[..whole.len() - 10]);
}
