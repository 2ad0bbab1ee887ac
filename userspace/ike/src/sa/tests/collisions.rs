//! Rekeys and Deletes of CHILD_SAs that meet (RFC 7296 §2.8.1, §2.25.1), each with lost and late
//! messages. `─►` is the client's, `◄─` the server's message; `(late)` arrives later than what follows.

use super::*;

fn rekey(world: &mut World, host: usize, spi: Spi) {
    world.call(host, |sa, cx| sa.rekey_child(spi, cx)).unwrap();
}

fn delete(world: &mut World, host: usize, spi: Spi) {
    world.call(host, |sa, cx| sa.delete_child(spi, cx)).unwrap();
}

/// What a caller does once the winner is proven: who made the redundant one deletes it, and who made
/// the surviving one deletes the old.
fn tidy(world: &mut World) {
    for _ in 0..4 {
        for host in [CLIENT, SERVER] {
            let installed = &world.hosts[host].installed;
            let lost = |child: &&ChildSa| {
                let redundant = &world.hosts[host].redundant;
                child.redundant || redundant.contains(&child.spi_in)
            };
            let ours = installed.values().filter(lost);
            let ours = ours.filter(|child| child.initiator);
            let survivors = installed.values().filter(|child| !lost(child));
            let old = survivors.filter(|child| child.initiator);
            let old = old.filter_map(|child| child.replaces);
            let mut gone: Vec<Spi> = ours.map(|child| child.spi_in).chain(old).collect();
            gone.retain(|spi| installed.contains_key(spi));
            for spi in gone {
                delete(world, host, spi);
            }
        }
        world.settle();
    }
}

fn assert_one_child(world: &World) {
    world.assert_agree();
    let [client, server] = &world.hosts;
    assert_eq!(
        client.installed.len(),
        1,
        "{:?} {:?}",
        client.log,
        server.log
    );
    for host in &world.hosts {
        assert_eq!(host.sas.len(), 1);
        assert_eq!(host.sas[0].state(), State::Established);
        assert!(
            !host.log.iter().any(|e| e.contains("failed")),
            "{:?}",
            host.log
        );
    }
}

/// ```text
/// req1 N(REKEY_SA) ─►  ◄─ req2 N(REKEY_SA)
/// resp2 ─►             ◄─ resp1
/// ```
#[test]
fn both_rekey_one_child_at_once() {
    let mut lost = [0; 2];
    for seed in 0..40 {
        let esp = ["aes256gcm16", "aes256gcm16-x25519"][usize::from(seed % 2 == 0)];
        let mut world = Setup::new().esp(esp, esp).connected(seed);
        for host in [CLIENT, SERVER] {
            let spi = world.spi(host);
            rekey(&mut world, host, spi);
        }
        world.settle();
        world.assert_agree();
        let redundant = |world: &World, host: usize| {
            let children = world.hosts[host].installed.values();
            children
                .filter(|c| c.redundant)
                .map(|c| c.spi_out)
                .collect()
        };
        let [client, server]: [Vec<Spi>; 2] =
            [redundant(&world, CLIENT), redundant(&world, SERVER)];
        // One of the two made the lowest nonce, and the other knows.
        assert_eq!(client.len() + server.len(), 1);
        assert_eq!(world.hosts[SERVER].redundant, client);
        assert_eq!(world.hosts[CLIENT].redundant, server);
        lost[usize::from(client.is_empty())] += 1;
        assert_eq!(world.hosts[CLIENT].installed.len(), 3);
        tidy(&mut world);
        assert_one_child(&world);
        let [client, server] = &world.hosts;
        let survivor = client.installed.values().next().unwrap();
        assert!(!survivor.redundant && !client.redundant.contains(&survivor.spi_in));
        assert!(!server.redundant.contains(&survivor.spi_out));
    }
    // The nonces decide, not the side.
    assert!(lost[0] > 5 && lost[1] > 5, "{lost:?}");
}

/// ```text
/// req1 ─►  ◄─ req2, and any one or two of the first eight messages lost, doubled or late
/// ```
#[test]
fn both_rekey_at_once_with_lost_and_late_messages() {
    let fates: [&[u64]; 5] = [&[], &[0, 0], &[700], &[2100], &[0, 1500]];
    for first in 0..8 {
        for second in first..8 {
            for (seed, fate) in fates.iter().enumerate() {
                let mut world = Setup::new().connected(200 + seed as u64);
                for n in [first, second] {
                    let delays = fate.iter().map(|delay| ms(*delay)).collect();
                    world.special.insert(world.sent + n, delays);
                }
                for host in [CLIENT, SERVER] {
                    let spi = world.spi(host);
                    rekey(&mut world, host, spi);
                }
                world.settle();
                tidy(&mut world);
                assert_one_child(&world);
            }
        }
    }
}

/// RFC 7296 §2.8.1: only one side notices at first, and the other has deleted the old one, or not yet.
/// ```text
/// req1 ─► (late)                       ◄─ req2
/// resp2 ─►
///                                      ◄─ D(old)
/// (empty) ─►
/// req1 arrives                         ◄─ N(CHILD_SA_NOT_FOUND), or N(TEMPORARY_FAILURE); if the
///                                         old one is not being deleted yet, resp1: the nonces decide
/// ```
#[test]
fn only_one_side_notices() {
    for (late, deletes_at_once) in [(60, false), (60, true), (120, true), (900, false)] {
        for host in [CLIENT, SERVER] {
            let mut world = Setup::new().connected(80);
            world.special.insert(world.sent, vec![ms(late)]);
            let spi = world.spi(host);
            rekey(&mut world, host, spi);
            let old = world.spi(1 - host);
            rekey(&mut world, 1 - host, old);
            world.run_for(ms(45));
            assert!(world.heard(1 - host, "child net replaced"));
            if deletes_at_once {
                delete(&mut world, 1 - host, old);
            }
            world.settle();
            tidy(&mut world);
            assert_one_child(&world);
            let told = |host: &Host| {
                let redundant = host.log.iter().filter(|e| e.contains("redundant"));
                redundant.count()
            };
            let expected = usize::from(!deletes_at_once);
            assert_eq!(told(&world.hosts[CLIENT]), expected, "{late}");
            assert_eq!(told(&world.hosts[SERVER]), expected, "{late}");
        }
    }
}

/// ```text
///                                      ◄─ D(old)
/// (Delete) ─► (lost)
/// req1 N(REKEY_SA, old): never sent, for the client knows
/// ```
/// and the other way round, where the Delete is late:
/// ```text
///                                      ◄─ D(old) (late)
/// req1 N(REKEY_SA, old) ─►
///                                      ◄─ N(TEMPORARY_FAILURE): it is being closed
/// ```
#[test]
fn a_rekey_of_what_the_peer_deletes() {
    for host in [CLIENT, SERVER] {
        for fate in [vec![ms(0)], vec![ms(200)], vec![]] {
            let mut world = Setup::new().connected(81);
            world.special.insert(world.sent, fate);
            let theirs = world.spi(1 - host);
            delete(&mut world, 1 - host, theirs);
            let ours = world.spi(host);
            rekey(&mut world, host, ours);
            world.settle();
            world.assert_agree();
            assert!(world.hosts[host].installed.is_empty());
            assert_eq!(world.hosts[host].sas[0].state(), State::Established);
        }
    }
}

/// ```text
/// D(old) ─►        ◄─ D(old)
/// (empty) ─►       ◄─ (empty)           RFC 7296 §1.4.1: no Delete in either answer
/// ```
#[test]
fn both_delete_at_once_with_lost_and_late_messages() {
    for n in 0..4 {
        for fate in [vec![], vec![ms(700)], vec![ms(0), ms(300)]] {
            let mut world = Setup::new().connected(82);
            world.special.insert(world.sent + n, fate);
            for host in [CLIENT, SERVER] {
                let spi = world.spi(host);
                delete(&mut world, host, spi);
            }
            world.settle();
            world.assert_agree();
            assert!(world.hosts[CLIENT].installed.is_empty());
        }
    }
}

/// RFC 7296 §2.8.1, the last paragraphs: the response is lost and the peer goes on.
/// ```text
/// req1 N(REKEY_SA, old) ─►
///                                      ◄─ resp1 (lost): new
///                                      ◄─ N(REKEY_SA, new), or D(new), or D(old)
/// N(TEMPORARY_FAILURE) ─►, or as usual
/// req1 ─► once more
///                                      ◄─ resp1
/// ```
#[test]
fn the_response_is_lost_and_the_peer_goes_on() {
    for host in [CLIENT, SERVER] {
        for what in 0..4 {
            let mut world = Setup::new().connected(83);
            world.special.insert(world.sent + 1, Vec::new());
            let old = world.spi(host);
            let theirs = world.spi(1 - host);
            rekey(&mut world, host, old);
            world.run_for(ms(30));
            let mut children = world.hosts[1 - host].installed.keys();
            let new = *children.find(|spi| **spi != theirs).unwrap();
            match what {
                0 => rekey(&mut world, 1 - host, new),
                1 => delete(&mut world, 1 - host, new),
                2 => delete(&mut world, 1 - host, theirs),
                _ => rekey(&mut world, 1 - host, theirs),
            }
            world.settle();
            world.assert_agree();
            let left = world.hosts[host].installed.len();
            assert_eq!(left, [3, 1, 1, 3][what], "{:?}", world.log(host));
            assert_eq!(world.hosts[host].sas[0].state(), State::Established);
        }
    }
}

/// ```text
/// req1 N(REKEY_SA) ─►       ◄─ D(IKE)
/// (empty) ─►
/// ```
#[test]
fn a_rekey_and_a_delete_of_the_ike_sa_cross() {
    for host in [CLIENT, SERVER] {
        for late in [0, 15, 25] {
            let mut world = Setup::new().connected(84);
            let spi = world.spi(host);
            rekey(&mut world, host, spi);
            world.run_for(ms(late));
            world.call(1 - host, IkeSa::close);
            world.settle();
            world.assert_nothing_left();
        }
    }
}

/// ```text
/// req1 CREATE_CHILD_SA ─►   ◄─ req2 CREATE_CHILD_SA
/// ```
#[test]
fn both_create_at_once() {
    for n in 0..4 {
        for fate in [vec![], vec![ms(700)], vec![ms(0), ms(300)]] {
            let mut world = Setup::new().connected(85);
            world.special.insert(world.sent + n, fate);
            for host in [CLIENT, SERVER] {
                world
                    .call(host, |sa, cx| sa.create_child("net", cx))
                    .unwrap();
            }
            world.settle();
            world.assert_agree();
            assert_eq!(world.hosts[CLIENT].installed.len(), 3);
        }
    }
}

/// Another group than the first is asked for in both requests at once.
/// ```text
/// req1 KEi ─►  ◄─ req2 KEi
/// N(INVALID_KE_PAYLOAD) ─► …
/// ```
#[test]
fn both_rekey_at_once_with_another_group() {
    for seed in 0..20 {
        let mut world = Setup::new()
            .esp("aes256gcm16-ecp256-x25519", "aes256gcm16-x25519")
            .connected(seed);
        for host in [CLIENT, SERVER] {
            let spi = world.spi(host);
            rekey(&mut world, host, spi);
        }
        world.settle();
        tidy(&mut world);
        assert_one_child(&world);
    }
}

fn with_policy(policy: PeerRekey) -> Setup {
    let mut setup = Setup::new();
    setup.client.peer_rekey = policy;
    setup
}

/// G6, `refuse`.
/// ```text
///                                      ◄─ N(REKEY_SA)
/// N(TEMPORARY_FAILURE) ─►
/// N(REKEY_SA) ─►                       the client's own, at once
///                                      ◄─ response
/// ```
#[test]
fn refused_rekeys_become_the_clients_own() {
    let mut world = with_policy(PeerRekey::Refuse(2)).connected(86);
    let spi = world.spi(SERVER);
    rekey(&mut world, SERVER, spi);
    world.run_for(ms(30));
    assert!(world.heard(CLIENT, "peer wants child rekey"));
    let spi = world.spi(CLIENT);
    rekey(&mut world, CLIENT, spi);
    world.settle();
    // The server has its successor, and asks for no other.
    let made_by_client = |child: &&ChildSa| child.replaces.is_some() && !child.initiator;
    let server = &world.hosts[SERVER].installed;
    assert_eq!(server.values().filter(made_by_client).count(), 1);
    assert_eq!(server.len(), 2);
    tidy(&mut world);
    assert_one_child(&world);

    // The same for the IKE SA.
    world.call(SERVER, IkeSa::rekey).unwrap();
    world.run_for(ms(30));
    assert!(world.heard(CLIENT, "peer wants rekey"));
    world.call(CLIENT, IkeSa::rekey).unwrap();
    world.settle();
    assert!(world.hosts[CLIENT].sas[0].is_initiator());
    assert_one_child(&world);
}

/// ```text
///                  ◄─ N(REKEY_SA)      k times
/// N(TEMPORARY_FAILURE) ─►
///                  ◄─ N(REKEY_SA)
/// response ─►
/// ```
#[test]
fn after_so_many_refusals_a_rekey_is_accepted() {
    for times in 0..3 {
        let mut world = with_policy(PeerRekey::Refuse(times)).connected(87);
        let spi = world.spi(SERVER);
        rekey(&mut world, SERVER, spi);
        world.settle();
        let refused = world
            .log(CLIENT)
            .iter()
            .filter(|e| **e == "peer wants child rekey")
            .count();
        assert_eq!(refused, usize::from(times));
        assert_eq!(world.hosts[SERVER].installed.len(), 2);
        world.call(SERVER, IkeSa::rekey).unwrap();
        world.settle();
        assert!(world.heard(CLIENT, "rekeyed"));
        tidy(&mut world);
        assert_one_child(&world);
    }
}

/// ```text
///                  ◄─ N(REKEY_SA)      again and again, until the server gives up
/// ```
#[test]
fn ignored_rekeys_end_the_ike_sa() {
    let mut world = with_policy(PeerRekey::Ignore).connected(88);
    let spi = world.spi(SERVER);
    rekey(&mut world, SERVER, spi);
    // The client's own requests are answered all the while.
    world.call(CLIENT, IkeSa::check_liveness);
    world.settle();
    assert!(world.heard(CLIENT, "alive"));
    assert!(world.hosts[CLIENT].discarded.contains(&Discard::Ignored));
    assert!(world.heard(SERVER, "closed: peer does not answer"));
}

/// Where both rekey, the client's own decides, whatever its policy.
#[test]
fn a_collision_is_no_matter_of_policy() {
    for policy in [PeerRekey::Refuse(9), PeerRekey::Ignore] {
        let mut world = with_policy(policy).connected(89);
        for host in [CLIENT, SERVER] {
            let spi = world.spi(host);
            rekey(&mut world, host, spi);
        }
        world.settle();
        tidy(&mut world);
        assert_one_child(&world);
    }
}

/// A narrowed CHILD_SA is not narrowed further by its rekeys (RFC 7296 §2.9.2).
#[test]
fn selectors_do_not_shrink_with_rekeys() {
    let mut setup = Setup::new();
    setup.client.children = vec![child("net", "10.1.0.0/16", "10.2.0.0/16", "aes256gcm16")];
    setup.server.children = vec![child(
        "net",
        "10.2.0.0/24,10.3.0.0/24",
        "10.1.0.1/32",
        "aes256gcm16",
    )];
    let mut world = setup.connected(90);
    let selectors = |world: &World| {
        let child = world.hosts[CLIENT].installed.values().next().unwrap();
        (child.local_ts.clone(), child.remote_ts.clone())
    };
    let first = selectors(&world);
    for host in [CLIENT, SERVER, CLIENT, SERVER] {
        let spi = world.spi(host);
        rekey(&mut world, host, spi);
        world.settle();
        tidy(&mut world);
        assert_one_child(&world);
        assert_eq!(selectors(&world), first);
    }
}

/// Everything at once, on a bad network: in the end both agree, and what they have can be rekeyed.
#[test]
fn a_bad_network() {
    for seed in 0..300 {
        let mut world = Setup::new().connected(seed);
        world.faults = Faults {
            loss: 20,
            duplicates: 10,
            jitter_ms: 300,
        };
        for _ in 0..6 {
            for host in [CLIENT, SERVER] {
                let spis: Vec<Spi> = world.hosts[host].installed.keys().copied().collect();
                let choice = world.rng.next_u32();
                let Some(spi) = spis.get(choice as usize % spis.len().max(1)).copied() else {
                    continue;
                };
                match (choice >> 8) % 4 {
                    0 if spis.len() > 1 => delete(&mut world, host, spi),
                    // One that is being deleted is not rekeyed.
                    _ => _ = world.call(host, |sa, cx| sa.rekey_child(spi, cx)),
                }
            }
            let pause = world.rng.next_u32() % 400;
            world.run_for(ms(pause.into()));
        }
        world.settle();
        world.assert_agree();
        tidy(&mut world);
        world.assert_agree();
        for host in [CLIENT, SERVER] {
            assert_eq!(world.hosts[host].sas[0].state(), State::Established);
        }
        if let Some(spi) = world.hosts[CLIENT].installed.keys().next().copied() {
            rekey(&mut world, CLIENT, spi);
            world.settle();
            world.assert_agree();
            assert!(world.heard(CLIENT, "child net replaced"));
        }
    }
}
