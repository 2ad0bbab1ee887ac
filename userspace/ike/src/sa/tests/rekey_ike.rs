//! Rekeying the IKE SA: alone, at once from both sides, and across everything else, each with
//! retransmissions and lost messages. `─►` is the client's, `◄─` the server's message; `✗` is lost.

use super::*;

pub(super) fn rekey(world: &mut World, host: usize) {
    world.call_live(host, IkeSa::rekey).unwrap();
}

/// One IKE SA is left on each side, and it is the same one; the CHILD_SAs are in it.
pub(super) fn assert_one_ike_sa(world: &World) {
    let [client, server] = &world.hosts;
    assert_eq!(client.sas.len(), 1, "{:?}", client.log);
    assert_eq!(server.sas.len(), 1, "{:?}", server.log);
    let (a, b) = (&client.sas[0], &server.sas[0]);
    assert_eq!(
        (a.state(), b.state()),
        (State::Established, State::Established)
    );
    assert_eq!(a.local_spi(), b.remote_spi());
    assert_eq!(b.local_spi(), a.remote_spi());
    assert_ne!(a.is_initiator(), b.is_initiator());
    assert_eq!(*a.export_keys().unwrap(), *b.export_keys().unwrap());
    world.assert_agree();
}

/// What a good IKE SA can do: liveness and a CHILD_SA's rekey from both sides.
pub(super) fn assert_works(world: &mut World) {
    for host in [CLIENT, SERVER] {
        world.hosts[host].log.clear();
        world.call_live(host, IkeSa::check_liveness);
        world.settle();
        assert!(world.heard(host, "alive"));
        // Not one that was replaced: that is refused.
        let installed = &world.hosts[host].installed;
        let replaced = |spi: &Spi| installed.values().any(|c| c.replaces == Some(*spi));
        let spi = *installed.keys().find(|spi| !replaced(spi)).unwrap();
        world
            .call_live(host, |sa, cx| sa.rekey_child(spi, cx))
            .unwrap();
        world.settle();
        assert!(world.heard(host, "child net replaced"));
        world
            .call_live(host, |sa, cx| sa.delete_child(spi, cx))
            .unwrap();
        world.settle();
        world.assert_agree();
    }
}

/// ```text
/// CREATE_CHILD_SA SA, Ni, KEi ─►
///                             ◄─ SA, Nr, KEr
/// INFORMATIONAL D(IKE) ─►
///                      ◄─ (empty)
/// ```
#[test]
fn from_either_side_and_again() {
    for esp in ["aes256gcm16", "aes256gcm16-x25519"] {
        let mut world = Setup::new().esp(esp, esp).connected(70);
        for round in 0..4 {
            for host in [CLIENT, SERVER] {
                let before = world.hosts[host].sas[0].local_spi();
                let keys = world.hosts[host].sas[0].export_keys().unwrap();
                let sent = world.sent;
                rekey(&mut world, host);
                world.settle();
                assert_one_ike_sa(&world);
                assert_eq!(world.sent - sent, 4, "{round}");
                let sa = &world.hosts[host].sas[0];
                assert!(sa.is_initiator());
                assert_ne!(sa.local_spi(), before);
                assert_ne!(*sa.export_keys().unwrap(), *keys);
                assert_works(&mut world);
            }
        }
        for host in [CLIENT, SERVER] {
            assert!(!world.heard(host, "closed"), "{:?}", world.log(host));
        }
        world.call_live(CLIENT, IkeSa::close);
        world.settle();
        world.assert_nothing_left();
    }
}

#[test]
fn to_other_algorithms() {
    let mut setup = Setup::new().proposals(
        "aes256gcm16-prfsha384-x25519,chacha20poly1305-prfsha256-ecp256",
        "aes256gcm16-prfsha384-x25519",
    );
    setup.nat = true;
    let mut world = setup.connected(71);
    // The server's administrator has changed his mind.
    world.hosts[SERVER].sas[0].config = Setup::server_with("chacha20poly1305-prfsha256-ecp256");
    rekey(&mut world, CLIENT);
    world.settle();
    assert_one_ike_sa(&world);
    let suite = world.hosts[CLIENT].sas[0].suite().unwrap();
    assert_eq!(suite.to_string(), "chacha20poly1305-prfsha256-ecp256");
    assert_works(&mut world);
}

/// ```text
/// each message of: CREATE_CHILD_SA ─►, ◄─, D(IKE) ─►, ◄─   lost, doubled, late
/// ```
#[test]
fn each_message_lost_doubled_or_late() {
    let fates: [&[u64]; 6] = [&[], &[0, 0], &[0, 700], &[700], &[3000], &[0, 1, 9000]];
    for host in [CLIENT, SERVER] {
        for n in 0..4 {
            for (seed, fate) in fates.iter().enumerate() {
                let mut world = Setup::new().connected(seed as u64);
                world.special.insert(
                    world.sent + n,
                    fate.iter().map(|delay| ms(*delay)).collect(),
                );
                rekey(&mut world, host);
                world.settle();
                assert_one_ike_sa(&world);
                assert_works(&mut world);
            }
        }
    }
}

/// ```text
/// CREATE_CHILD_SA ─►
///                 ◄─ response
/// D(IKE) ─► ✗ … for ever
/// ```
#[test]
fn the_old_one_goes_although_its_delete_never_arrives() {
    let mut world = Setup::new().connected(72);
    rekey(&mut world, CLIENT);
    world.run_for(ms(30));
    assert!(world.heard(SERVER, "rekeyed"));
    for n in 1..10 {
        world.special.insert(world.sent + n, Vec::new());
    }
    world.settle();
    assert_one_ike_sa(&world);
    assert_works(&mut world);
}

/// ```text
/// CREATE_CHILD_SA ─►
/// (late)          ◄─ response
/// D(IKE) ─►
/// CREATE_CHILD_SA ─► once more, a second later
///                 ◄─ the same response
/// ```
#[test]
fn retransmissions_on_the_old_one_are_answered() {
    let mut world = Setup::new().connected(73);
    let request = world.sent;
    world.special.insert(request, vec![ms(0), ms(10)]);
    rekey(&mut world, CLIENT);
    world.run_for(ms(35));
    let sent = world.sent;
    world.run_for(ms(10));
    // The second copy got the same answer; the answer led to one Delete.
    assert!(world.sent >= sent);
    world.settle();
    assert_one_ike_sa(&world);
}

/// ```text
/// CREATE_CHILD_SA req1 ─►  ◄─ req2 CREATE_CHILD_SA
/// resp2 ─►                 ◄─ resp1
/// ```
#[test]
fn both_at_once() {
    let mut winners = [0; 2];
    for seed in 0..40 {
        let mut world = Setup::new().connected(seed);
        rekey(&mut world, CLIENT);
        rekey(&mut world, SERVER);
        world.settle();
        assert_one_ike_sa(&world);
        for host in [CLIENT, SERVER] {
            let rekeyed = world.log(host).iter().filter(|e| **e == "rekeyed").count();
            let redundant = world
                .log(host)
                .iter()
                .filter(|e| **e == "redundant")
                .count();
            assert_eq!((rekeyed, redundant), (1, 1));
        }
        winners[usize::from(world.hosts[CLIENT].sas[0].is_initiator())] += 1;
        assert_works(&mut world);
    }
    // The nonces decide, not the side.
    assert!(winners[0] > 5 && winners[1] > 5, "{winners:?}");
}

/// ```text
/// req1 ─►  ◄─ req2, and any one or two of req1, req2, resp1, resp2, both Deletes and their
/// answers lost, doubled or late
/// ```
#[test]
fn both_at_once_with_lost_and_late_messages() {
    let fates: [&[u64]; 5] = [&[], &[0, 0], &[700], &[2100], &[0, 1500]];
    for first in 0..8 {
        for second in first..8 {
            for (seed, fate) in fates.iter().enumerate() {
                let mut world = Setup::new().connected(100 + seed as u64);
                for n in [first, second] {
                    let delays = fate.iter().map(|delay| ms(*delay)).collect();
                    world.special.insert(world.sent + n, delays);
                }
                rekey(&mut world, CLIENT);
                rekey(&mut world, SERVER);
                world.settle();
                assert_one_ike_sa(&world);
                assert_works(&mut world);
            }
        }
    }
}

/// RFC 7296 §2.8.2's second figure: only one side notices.
/// ```text
/// req1 ─► (late)           ◄─ req2
/// resp2 ─►
///                          ◄─ D(old)
/// (empty) ─►
/// ```
#[test]
fn both_at_once_and_only_one_notices() {
    for late in [60, 90, 400] {
        for host in [CLIENT, SERVER] {
            let mut world = Setup::new().connected(74);
            world.special.insert(world.sent, vec![ms(late)]);
            rekey(&mut world, host);
            rekey(&mut world, 1 - host);
            world.settle();
            assert_one_ike_sa(&world);
            // Whose request came through is the initiator.
            assert!(world.hosts[1 - host].sas[0].is_initiator(), "{late}");
            assert!(!world.heard(host, "rekey failed"));
            assert_works(&mut world);
        }
    }
}

/// ```text
/// req1 ─►      ◄─ D(IKE)
/// (empty) ─►   (RFC 7296 §2.25.2: as usual, and the own request is forgotten)
/// ```
#[test]
fn a_rekey_and_a_delete_of_the_ike_sa_cross() {
    for host in [CLIENT, SERVER] {
        for late in [0, 15, 35] {
            let mut world = Setup::new().connected(75);
            rekey(&mut world, host);
            world.run_for(ms(late));
            world.call_live(1 - host, IkeSa::close);
            world.settle();
            world.assert_nothing_left();
            assert!(
                world.heard(host, "closed: deleted by peer"),
                "{:?}",
                world.log(host)
            );
        }
    }
}

/// ```text
/// CREATE_CHILD_SA(IKE) ─►
///                      ◄─ response
/// D(old) ─►, D(new) ─►
/// ```
#[test]
fn closed_while_its_own_rekey_is_under_way() {
    for host in [CLIENT, SERVER] {
        let mut world = Setup::new().connected(76);
        rekey(&mut world, host);
        world.call(host, IkeSa::close);
        world.settle();
        world.assert_nothing_left();
        assert!(world.heard(host, "closed: closed"));
        assert!(world.heard(1 - host, "closed: deleted by peer"));
    }
}

/// ```text
/// CREATE_CHILD_SA(child) ─►   ◄─ CREATE_CHILD_SA(IKE)
/// N(TEMPORARY_FAILURE) ─►     ◄─ N(TEMPORARY_FAILURE)
/// … each again, after a wait
/// ```
#[test]
fn it_crosses_a_child_created_rekeyed_or_deleted() {
    for seed in 0..20 {
        for what in 0..3 {
            for host in [CLIENT, SERVER] {
                let mut world = Setup::new().connected(seed);
                let old = world.spi(1 - host);
                rekey(&mut world, host);
                world
                    .call_live(1 - host, |sa, cx| match what {
                        0 => sa.create_child("net", cx),
                        1 => sa.rekey_child(old, cx),
                        _ => sa.delete_child(old, cx),
                    })
                    .unwrap();
                world.settle();
                assert_one_ike_sa(&world);
                let children = world.hosts[host].installed.len();
                assert_eq!(children, [2, 2, 0][what], "{:?}", world.log(host));
                for host in [CLIENT, SERVER] {
                    assert!(!world.heard(host, "rekey failed"), "{:?}", world.log(host));
                    assert!(
                        !world.heard(host, "child net failed"),
                        "{:?}",
                        world.log(host)
                    );
                }
                assert_eq!(
                    world.hosts[host]
                        .log
                        .iter()
                        .filter(|e| *e == "rekeyed")
                        .count(),
                    1
                );
            }
        }
    }
}

/// What waits for the window when the peer rekeys goes on in the successor.
#[test]
fn wishes_move_along() {
    let mut world = Setup::new().connected(77);
    rekey(&mut world, SERVER);
    world.run_for(ms(15));
    let spi = world.spi(CLIENT);
    world.call_live(CLIENT, |sa, cx| {
        // The window is taken by this one, which the peer's rekey does not wait for.
        sa.check_liveness(cx);
        sa.rekey_child(spi, cx).unwrap();
        sa.create_child("net", cx).unwrap();
    });
    world.settle();
    assert_one_ike_sa(&world);
    assert_eq!(world.hosts[CLIENT].installed.len(), 3);
}

#[test]
fn a_peer_that_does_not_rekey_or_not_so() {
    let mut world = Setup::new().connected(78);
    world.hosts[SERVER].sas[0].config = Setup::server_with("aes256gcm16-prfsha384-ecp256");
    rekey(&mut world, CLIENT);
    world.settle();
    assert!(world.heard(CLIENT, "rekey failed: peer answered NO_PROPOSAL_CHOSEN"));
    assert_one_ike_sa(&world);
    assert_works(&mut world);
}

#[test]
fn a_peer_that_went_away_ends_it() {
    let mut world = Setup::new().connected(79);
    world.hosts[SERVER].sas.clear();
    world.faults.loss = 100;
    rekey(&mut world, CLIENT);
    world.settle();
    assert_eq!(world.log(CLIENT)[2..], ["closed: peer does not answer"]);
    assert_eq!(world.hosts[CLIENT].installed.len(), 1);
    assert!(world.hosts[CLIENT].sas.is_empty());
}

/// Everything at once, on a bad network: in the end both agree.
#[test]
fn a_bad_network() {
    for seed in 0..300 {
        let mut world = Setup::new().connected(seed);
        world.faults = Faults {
            loss: 20,
            duplicates: 10,
            jitter_ms: 300,
        };
        for _ in 0..8 {
            for host in [CLIENT, SERVER] {
                let stands = |sa: &IkeSa| sa.state() == State::Established;
                if !world.hosts[host].sas.iter().any(stands) {
                    continue;
                }
                let spis: Vec<Spi> = world.hosts[host].installed.keys().copied().collect();
                let choice = world.rng.next_u32();
                let spi = spis.get(choice as usize % spis.len().max(1)).copied();
                world.call_live(host, |sa, cx| match (choice >> 8) % 6 {
                    0 | 1 => drop(sa.rekey(cx)),
                    2 => drop(spi.map(|spi| sa.rekey_child(spi, cx))),
                    3 if spis.len() > 1 => drop(spi.map(|spi| sa.delete_child(spi, cx))),
                    4 => sa.check_liveness(cx),
                    _ => drop(sa.create_child("net", cx)),
                });
            }
            let pause = world.rng.next_u32() % 600;
            world.run_for(ms(pause.into()));
        }
        world.settle();
        assert_one_ike_sa(&world);
        for host in [CLIENT, SERVER] {
            assert!(!world.heard(host, "closed"), "{seed} {:?}", world.log(host));
        }
    }
}
