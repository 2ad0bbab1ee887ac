//! Session resumption (RFC 5723).

use mitregate_wire::ike::{ExchangeType, Message, NotifyType, Payload};

use super::certificates::{remote, setup};
use super::*;
use crate::cert::Revocation;
use crate::cert::testing::{Authority, trust_with};
use crate::crypto::EXCHANGES;

const RESUME: ExchangeType = ExchangeType::IKE_SESSION_RESUME;

fn key_exchanges() -> u32 {
    EXCHANGES.with(core::cell::Cell::get)
}

/// A world with a gateway that gives tickets.
fn world(setup: Setup, seed: u64) -> World {
    let mut world = setup.world(seed);
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    world.hosts[SERVER].tickets = Some(Arc::new(TicketKeys::generate(&mut rng)));
    world
}

fn connected(setup: Setup, seed: u64) -> (World, ResumptionTicket) {
    let mut world = world(setup, seed);
    world.connect();
    world.settle();
    world.assert_connected();
    let ticket = world.call(CLIENT, |sa, _| sa.take_ticket()).unwrap();
    assert!(world.call(CLIENT, |sa, _| sa.take_ticket()).is_none());
    (world, ticket)
}

impl World {
    /// The client shows its ticket, beside the IKE SA that it has.
    fn resume(&mut self, ticket: ResumptionTicket) {
        let remote = SocketAddr::new(self.hosts[SERVER].address, 500);
        let local = SocketAddr::new(self.hosts[CLIENT].address, 500);
        let config = self.hosts[CLIENT].config.clone();
        let sa = self.with_cx(CLIENT, |cx| {
            IkeSa::initiate_with_ticket(config, ticket, local, remote, cx)
        });
        self.hosts[CLIENT].sas.push(sa);
        self.drain(CLIENT);
    }

    /// Both have two IKE SAs now; the second is (not) a resumed one.
    fn assert_second(&self, resumed: bool) {
        for host in [CLIENT, SERVER] {
            assert_eq!(
                self.hosts[host].established.len(),
                2,
                "{:?}",
                self.log(host)
            );
            let sa = self.hosts[host].sas.last().unwrap();
            assert_eq!(sa.state(), State::Established);
            assert_eq!(sa.is_resumed(), resumed);
        }
        self.assert_agree();
        assert_eq!(self.hosts[CLIENT].installed.len(), 2);
        let [first, second] = self.hosts[SERVER].established.as_slice() else {
            unreachable!()
        };
        assert_eq!(
            (&first.name, &first.peer_id),
            (&second.name, &second.peer_id)
        );
    }
}

fn exchanges(world: &World) -> Vec<ExchangeType> {
    let peeked = world.trace.iter().map(|t| peek(&t.3).unwrap().exchange);
    peeked.collect()
}

/// Two round trips, and no public-key work.
#[test]
fn a_session_goes_on_without_a_key_exchange() {
    for proposal in [
        "aes256gcm16-prfsha384-x25519",
        "chacha20poly1305-prfsha256-ecp256",
        "aes128-sha256-modp2048",
        "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
    ] {
        let setup = Setup::new().proposals(proposal, proposal);
        let (mut world, ticket) = connected(setup, 1);
        let before = key_exchanges();
        assert!(before > 0);
        world.trace.clear();
        let start = world.now;
        world.resume(ticket);
        while world.hosts[CLIENT].established.len() < 2 {
            assert!(world.step(Duration::MAX));
        }
        assert_eq!(world.now - start, LATENCY * 4);
        world.settle();
        assert_eq!(key_exchanges(), before, "{proposal}");
        world.assert_second(true);
        let auth = ExchangeType::IKE_AUTH;
        assert_eq!(exchanges(&world), [RESUME, RESUME, auth, auth]);
        // The count counts.
        world.connect();
        assert_eq!(key_exchanges(), before + 1);
    }
}

#[test]
fn each_ticket_leads_to_the_next() {
    let (mut world, mut ticket) = connected(Setup::new(), 2);
    for n in 3..6 {
        world.resume(ticket);
        world.settle();
        assert_eq!(world.hosts[CLIENT].established.len(), n - 1);
        let sa = world.hosts[CLIENT].sas.last_mut().unwrap();
        assert!(sa.is_resumed());
        ticket = sa.take_ticket().unwrap();
    }
    // But not for ever without a credential.
    let mut hours = 0;
    loop {
        world.now += Duration::from_secs(3600);
        hours += 1;
        world.resume(ticket);
        world.settle();
        let sa = world.hosts[CLIENT].sas.last_mut().unwrap();
        if !sa.is_resumed() {
            break;
        }
        ticket = match sa.take_ticket() {
            Some(ticket) => ticket,
            None => break,
        };
    }
    assert!((20..=24).contains(&hours), "{hours}");
}

#[test]
fn behind_a_nat_with_cookies_and_in_fragments() {
    let mut setup = Setup::new().nat();
    setup.cookies = true;
    setup.client.fragmentation.size = Fragmentation::MIN_SIZE;
    setup.server.fragmentation.size = Fragmentation::MIN_SIZE;
    let (mut world, ticket) = connected(setup, 3);
    world.trace.clear();
    world.resume(ticket);
    world.settle();
    world.assert_second(true);
    assert_eq!(exchanges(&world)[..4], [RESUME; 4]);
    let established = world.hosts[CLIENT].established.last().unwrap();
    assert!(established.nat.local && established.encap == Encap::Udp);
    assert_eq!(established.remote.port(), 4500);
    let fragment = world
        .messages()
        .into_iter()
        .any(|(_, message)| matches!(message.payloads[..], [Payload::EncryptedFragment { .. }]));
    assert!(fragment);
}

/// RFC 5723 §4.3.3: what is not taken is answered, and a full session follows at once.
#[test]
fn a_ticket_that_is_not_taken_costs_one_round_trip() {
    type Change = fn(&mut World);
    let changes: [(&str, Change); 5] = [
        ("another secret", |world| {
            let mut rng = ChaCha20Rng::seed_from_u64(99);
            world.hosts[SERVER].tickets = Some(Arc::new(TicketKeys::generate(&mut rng)));
        }),
        ("none", |world| world.hosts[SERVER].tickets = None),
        ("expired", |world| {
            // For the gateway, whose clock was set.
            world.now += Duration::from_secs(5 * 3600);
        }),
        ("switched off", |world| {
            let config = IkeConfig {
                resumption: false,
                ..(*world.hosts[SERVER].config).clone()
            };
            world.hosts[SERVER].config = Arc::new(config);
        }),
        ("connection renamed", |world| {
            let config = IkeConfig {
                name: "other".to_owned(),
                ..(*world.hosts[SERVER].config).clone()
            };
            world.hosts[SERVER].config = Arc::new(config);
        }),
    ];
    for (what, change) in changes {
        let (mut world, mut ticket) = connected(Setup::new(), 4);
        change(&mut world);
        ticket.expires = Duration::MAX;
        world.trace.clear();
        let start = world.now;
        world.resume(ticket);
        while world.hosts[CLIENT].established.len() < 2 {
            assert!(world.step(Duration::MAX), "{what}");
        }
        assert_eq!(world.now - start, LATENCY * 6, "{what}");
        assert_eq!(
            world.hosts[SERVER].rejected,
            [RejectReason::Ticket],
            "{what}"
        );
        let init = ExchangeType::IKE_SA_INIT;
        assert_eq!(
            exchanges(&world)[..4],
            [RESUME, RESUME, init, init],
            "{what}"
        );
        for host in &world.hosts {
            assert!(!host.sas.last().unwrap().is_resumed(), "{what}");
        }
    }
}

/// A ticket does not outlive the shared secret that it was given for.
#[test]
fn another_shared_secret_voids_tickets() {
    let (mut world, ticket) = connected(Setup::new(), 5);
    let psk = Psk::new(Zeroizing::new(b"another".to_vec()));
    let config = IkeConfig {
        remote_auth: RemoteAuth::Psk(psk),
        ..(*world.hosts[SERVER].config).clone()
    };
    world.hosts[SERVER].config = Arc::new(config);
    world.resume(ticket);
    world.settle();
    assert_eq!(world.hosts[SERVER].rejected[..1], [RejectReason::Ticket]);
    assert_eq!(world.hosts[SERVER].established.len(), 1);
}

/// Nor what its certificate was judged by: another authority, a new list of what is revoked, a
/// narrower rule.
#[test]
fn another_trust_voids_tickets() {
    let ca = Authority::new("Lab");
    let (client, server) = (ca.issue("client"), ca.issue("gw"));
    let crl = || ca.crl(&[&client.certificate]);
    let pubkey = |trust| RemoteAuth::Pubkey(Arc::new(trust));
    let same = || remote("pubkey", &[&ca]);
    let cases = [
        (same(), true),
        (remote("ed25519", &[&ca]), false),
        (remote("pubkey", &[&ca, &Authority::new("Other")]), false),
        (
            pubkey(trust_with(&[&ca], vec![crl()], Revocation::Relaxed)),
            false,
        ),
        (
            pubkey(trust_with(&[&ca], Vec::new(), Revocation::Strict)),
            false,
        ),
    ];
    for (trust, taken) in cases {
        let (mut world, ticket) = connected(setup(&ca, &client, &server), 12);
        let config = IkeConfig {
            remote_auth: trust,
            ..(*world.hosts[SERVER].config).clone()
        };
        world.hosts[SERVER].config = Arc::new(config);
        world.resume(ticket);
        world.settle();
        assert_eq!(world.hosts[SERVER].rejected.is_empty(), taken);
    }
}

#[test]
fn an_expired_ticket_is_not_shown() {
    let (mut world, ticket) = connected(Setup::new(), 6);
    assert!(ticket.is_valid(world.now));
    world.now += Duration::from_secs(4 * 3600);
    assert!(!ticket.is_valid(world.now));
    world.trace.clear();
    world.resume(ticket);
    world.settle();
    world.assert_second(false);
    assert!(!exchanges(&world).contains(&RESUME));
}

/// A gateway that does not know the exchange says nothing.
#[test]
fn a_gateway_that_does_not_answer_gets_a_full_session() {
    let (mut world, ticket) = connected(Setup::new(), 7);
    let from = world.sent;
    for n in from..from + 3 {
        world.special.insert(n, Vec::new());
    }
    let start = world.now;
    world.resume(ticket);
    while world.hosts[CLIENT].established.len() < 2 {
        assert!(world.step(Duration::MAX));
    }
    assert!(world.now - start < Duration::from_secs(4));
    world.settle();
    world.assert_second(false);
}

/// Silence says nothing about a ticket: it is good for the next try (RFC 5723 §4.3).
#[test]
fn a_ticket_that_got_no_answer_is_kept() {
    let (mut world, ticket) = connected(Setup::new(), 7);
    let from = world.sent;
    for n in from..from + 4 {
        world.special.insert(n, Vec::new());
    }
    world.resume(ticket);
    let of_last = |world: &mut World| world.hosts[CLIENT].sas.last_mut()?.take_ticket();
    assert!(of_last(&mut world).is_none());
    // The last of these is IKE_SA_INIT, lost as well.
    while world.sent < from + 4 {
        assert!(world.step(Duration::MAX));
    }
    let ticket = of_last(&mut world);
    assert!(ticket.is_some_and(|ticket| ticket.is_valid(world.now)));
}

/// The half-open IKE SA that it has made of the ticket is not in the way of the full one, which comes
/// with the same SPI (RFC 7296 §2.1).
#[test]
fn a_gateway_whose_answers_are_lost_gets_a_full_session() {
    let (mut world, ticket) = connected(Setup::new(), 7);
    let from = world.sent;
    for n in 0..3 {
        world.special.insert(from + 2 * n + 1, Vec::new());
    }
    let start = world.now;
    world.resume(ticket);
    while world.hosts[CLIENT].established.len() < 2 {
        assert!(world.step(Duration::MAX));
    }
    assert!(world.now - start < Duration::from_secs(4));
    world.settle();
    world.assert_second(false);
}

/// The ticket goes over the wire in clear: whoever shows it again has not got its key.
#[test]
fn a_stolen_ticket_is_worth_nothing() {
    let (mut world, ticket) = connected(Setup::new(), 8);
    let ticket_of = |ticket: &ResumptionTicket| ResumptionTicket {
        opaque: ticket.opaque.clone(),
        expires: ticket.expires,
        suite: ticket.suite,
        sk_d: Zeroizing::new(vec![0; ticket.sk_d.len()]),
        peer_id: ticket.peer_id.clone(),
        local_id: ticket.local_id.clone(),
    };
    let stolen = ticket_of(&ticket);
    let before = key_exchanges();
    world.resume(stolen);
    world.settle();
    assert!(world.hosts[SERVER].discarded.contains(&Discard::Integrity));
    assert_eq!(world.hosts[SERVER].established.len(), 1);
    assert_eq!(world.hosts[SERVER].sas.len(), 1);
    assert_eq!(key_exchanges(), before);

    // Replayed from the wire: one more half-open IKE SA, that goes.
    world.trace.clear();
    world.resume(ticket);
    world.settle();
    world.assert_second(true);
    let (to, source, destination, bytes) = world.trace[0].clone();
    let attacker: SocketAddr = "203.0.113.66:500".parse().unwrap();
    for source in [source, attacker] {
        world.deliver(to, source, destination, &bytes);
    }
    world.settle();
    world.assert_second(true);
}

/// Neither flips of bits in the first two messages, nor nonsense in their place, do harm.
#[test]
fn tampering_is_found_out() {
    for nth in 0..2 {
        let (mut world, ticket) = connected(Setup::new(), 9);
        world.resume(ticket);
        for _ in 0..nth {
            world.step(Duration::MAX);
        }
        let mut message = Message::parse(&world.net[0].bytes).unwrap();
        message
            .payloads
            .retain(|payload| !matches!(payload, Payload::VendorId(_)));
        world.net[0].bytes = message.emit().unwrap();
        world.settle();
        assert_eq!(world.hosts[CLIENT].established.len(), 1);
    }
    let (mut clean, ticket) = connected(Setup::new(), 10);
    clean.trace.clear();
    clean.resume(ticket);
    clean.settle();
    let (to, source, destination, mut bytes) = clean.trace[0].clone();
    for bit in 0..bytes.len() * 8 {
        // Each of another IKE SA.
        bytes[..4].copy_from_slice(&u32::try_from(bit).unwrap().to_be_bytes());
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        clean.deliver(to, source, destination, &flipped);
        clean.net.clear();
    }
    assert!(clean.hosts[SERVER].rejected.contains(&RejectReason::Ticket));
    clean.settle();
    clean.assert_second(true);
}

#[test]
fn each_message_lost_doubled_or_late() {
    let fates: [&[u64]; 5] = [&[], &[0, 0], &[0, 700], &[700], &[3000]];
    for n in 0..4 {
        for (seed, fate) in fates.iter().enumerate() {
            let (mut world, ticket) = connected(Setup::new(), 20 + seed as u64);
            let at = world.sent + n;
            let fate = fate.iter().map(|delay| ms(*delay)).collect();
            world.special.insert(at, fate);
            world.resume(ticket);
            world.settle();
            world.assert_agree();
            assert_eq!(world.hosts[CLIENT].established.len(), 2);
        }
    }
}

#[test]
fn on_a_bad_network_a_session_stands_in_the_end() {
    let mut resumed = 0;
    for seed in 0..100 {
        let (mut world, ticket) = connected(Setup::new(), seed);
        world.faults = Faults {
            loss: 20,
            duplicates: 20,
            jitter_ms: 800,
        };
        world.resume(ticket);
        world.settle();
        assert_eq!(world.hosts[CLIENT].established.len(), 2, "{seed}");
        assert_eq!(world.hosts[CLIENT].installed.len(), 2, "{seed}");
        resumed += usize::from(world.hosts[CLIENT].sas.last().unwrap().is_resumed());
    }
    assert!(resumed > 50, "{resumed}");
}

/// Who asks gets an answer, and who does not ask gets nothing.
#[test]
fn tickets_are_given_on_request() {
    for (asks, gives, has) in [
        (true, true, true),
        (true, false, false),
        (false, true, false),
    ] {
        let mut setup = Setup::new();
        setup.client.resumption = asks;
        setup.server.resumption = gives;
        let mut world = world(setup, 11);
        world.connect();
        world.settle();
        world.assert_connected();
        assert_eq!(world.call(CLIENT, |sa, _| sa.take_ticket()).is_some(), has);
    }
    // NACK is a status, no error: the IKE SA stands (RFC 5723 §4.1).
    assert!(!NotifyType::TICKET_NACK.is_error());
}
