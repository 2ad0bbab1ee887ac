//! CREATE_CHILD_SA and INFORMATIONAL on a network that does no harm.

use super::*;

fn rekey(world: &mut World, host: usize) {
    let spi = world.spi(host);
    world.call(host, |sa, cx| sa.rekey_child(spi, cx)).unwrap();
    world.settle();
}

fn delete_replaced(world: &mut World, host: usize) {
    let replaced: Vec<Spi> = world.hosts[host]
        .installed
        .values()
        .filter_map(|child| child.replaces)
        .collect();
    for spi in replaced {
        if world.hosts[host].installed.contains_key(&spi) {
            world.call(host, |sa, cx| sa.delete_child(spi, cx)).unwrap();
            world.settle();
        }
    }
}

#[test]
fn rekey_from_either_side_with_and_without_pfs() {
    for esp in [
        "aes256gcm16",
        "aes256gcm16-x25519",
        "chacha20poly1305-ecp256",
    ] {
        let mut world = Setup::new().esp(esp, esp).connected(30);
        for round in 0..3 {
            for host in [CLIENT, SERVER] {
                let old = world.spi(host);
                rekey(&mut world, host);
                assert_eq!(world.hosts[host].installed.len(), 2, "{esp} {round}");
                world.assert_agree();
                let peers = &world.hosts[1 - host].installed;
                let new = world.hosts[host]
                    .installed
                    .values()
                    .find(|c| c.spi_in != old)
                    .unwrap();
                assert_eq!(new.replaces, Some(old));
                assert!(new.initiator && !peers[&new.spi_out].initiator);
                let old_out = world.hosts[host].installed[&old].spi_out;
                assert_eq!(peers[&new.spi_out].replaces, Some(old_out));
                delete_replaced(&mut world, host);
                world.assert_agree();
                assert_eq!(world.hosts[host].installed.len(), 1);
            }
        }
    }
}

/// RFC 7296 §2.9.2
#[test]
fn a_successor_that_allows_less_is_refused_and_the_old_one_stays() {
    let mut world = Setup::new().connected(36);
    let old = world.spi(CLIENT);
    let mut policy = (*world.hosts[SERVER].sas[0].config).clone();
    policy.children[0].local_ts = vec!["10.2.0.0/25".parse().unwrap()];
    world.hosts[SERVER].sas[0].config = Arc::new(policy);
    rekey(&mut world, CLIENT);
    assert!(world.heard(CLIENT, "child net failed: "));
    assert!(!world.heard(CLIENT, "child net replaced"));
    for host in &world.hosts {
        assert_eq!(host.installed.len(), 1);
    }
    assert!(world.hosts[CLIENT].installed.contains_key(&old));
    world.assert_agree();

    // A wider policy is no reason: what is offered is what there was.
    let mut policy = (*world.hosts[SERVER].sas[0].config).clone();
    policy.children[0].local_ts = vec!["10.2.0.0/16".parse().unwrap()];
    world.hosts[SERVER].sas[0].config = Arc::new(policy);
    rekey(&mut world, CLIENT);
    assert!(world.heard(CLIENT, "child net replaced"));
    world.assert_agree();
}

#[test]
fn every_generation_has_its_own_keys() {
    let mut world = Setup::new().connected(31);
    let mut keys = Vec::new();
    for _ in 0..5 {
        let spi = world.spi(CLIENT);
        let child = &world.hosts[CLIENT].installed[&spi];
        keys.push(child.key_in.expose_keymat().to_vec());
        keys.push(child.key_out.expose_keymat().to_vec());
        rekey(&mut world, CLIENT);
        delete_replaced(&mut world, CLIENT);
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 10);
}

#[test]
fn another_group_is_asked_for_at_a_rekey() {
    let mut world = Setup::new()
        .esp("aes256gcm16-ecp256-x25519", "aes256gcm16-x25519")
        .connected(32);
    rekey(&mut world, CLIENT);
    assert_eq!(world.log(CLIENT)[2..], ["child net replaced"]);
    assert_eq!(world.log(SERVER)[2..], ["child net replaced"]);
    world.assert_agree();
    // The other way round the first try fits.
    delete_replaced(&mut world, CLIENT);
    rekey(&mut world, SERVER);
    world.assert_agree();
}

#[test]
fn pfs_that_only_one_side_wants() {
    let mut world = Setup::new()
        .esp("aes256gcm16-x25519", "aes256gcm16")
        .connected(33);
    rekey(&mut world, CLIENT);
    assert_eq!(
        world.log(CLIENT)[2..],
        ["child net failed: peer answered NO_PROPOSAL_CHOSEN"]
    );
    rekey(&mut world, SERVER);
    assert_eq!(
        world.log(SERVER)[3..],
        ["child net failed: peer answered NO_PROPOSAL_CHOSEN"]
    );
    world.assert_agree();
    assert_eq!(world.hosts[CLIENT].installed.len(), 1);
}

#[test]
fn a_rekey_and_a_delete_of_the_same_child_cross() {
    let mut world = Setup::new().connected(34);
    let (client, server) = (world.spi(CLIENT), world.spi(SERVER));
    world
        .call(CLIENT, |sa, cx| sa.rekey_child(client, cx))
        .unwrap();
    world
        .call(SERVER, |sa, cx| sa.delete_child(server, cx))
        .unwrap();
    world.settle();
    world.assert_agree();
    assert!(
        world.hosts[CLIENT].installed.is_empty(),
        "{:?}",
        world.log(CLIENT)
    );
    assert_eq!(world.hosts[CLIENT].sas[0].state(), State::Established);
}

#[test]
fn deletes_cross() {
    let mut world = Setup::new().connected(35);
    for host in [CLIENT, SERVER] {
        let spi = world.spi(host);
        world.call(host, |sa, cx| sa.delete_child(spi, cx)).unwrap();
        // Once more is not once too often.
        world.call(host, |sa, cx| sa.delete_child(spi, cx)).unwrap();
    }
    world.settle();
    world.assert_agree();
    assert!(world.hosts[CLIENT].installed.is_empty());
    world
        .call(CLIENT, |sa, cx| sa.create_child("net", cx))
        .unwrap();
    world.settle();
    world.assert_agree();
    assert_eq!(world.hosts[CLIENT].installed.len(), 1);
}

#[test]
fn several_children() {
    let mut setup = Setup::new();
    setup
        .client
        .children
        .push(child("two", "10.1.0.2/32", "10.4.0.0/24", "aes128gcm16"));
    setup
        .server
        .children
        .push(child("zwei", "10.4.0.0/24", "10.1.0.2/32", "aes128gcm16"));
    let mut world = setup.connected(36);
    world
        .call(CLIENT, |sa, cx| sa.create_child("two", cx))
        .unwrap();
    world
        .call(SERVER, |sa, cx| sa.create_child("zwei", cx))
        .unwrap();
    let unknown = world.call(CLIENT, |sa, cx| sa.create_child("three", cx));
    assert_eq!(unknown, Err(Reason::NoSuchChild));
    world.settle();
    world.assert_agree();
    assert_eq!(world.hosts[CLIENT].installed.len(), 3);
    world.call(SERVER, IkeSa::close);
    world.settle();
    world.assert_nothing_left();
}

#[test]
fn a_peer_cannot_have_any_number_of_children() {
    let mut world = Setup::new().connected(37);
    for _ in 0..40 {
        world
            .call(CLIENT, |sa, cx| sa.create_child("net", cx))
            .unwrap();
    }
    world.settle();
    world.assert_agree();
    assert_eq!(world.hosts[SERVER].installed.len(), 32);
    assert!(world.heard(CLIENT, "child net failed: peer answered NO_ADDITIONAL_SAS"));
}

#[test]
fn close_from_either_side_and_from_both() {
    for hosts in [&[CLIENT][..], &[SERVER], &[CLIENT, SERVER]] {
        let mut world = Setup::new().connected(38);
        for host in hosts {
            world.call(*host, IkeSa::close);
        }
        world.settle();
        for host in [CLIENT, SERVER] {
            assert!(world.heard(host, "child deleted"), "{:?}", world.log(host));
            assert!(world.heard(host, "closed"));
        }
        world.assert_nothing_left();
    }
}

#[test]
fn close_before_it_stands() {
    for steps in 0..4 {
        let mut world = Setup::new().world(39);
        world.connect();
        for _ in 0..steps {
            assert!(world.step(Duration::MAX));
        }
        if !world.hosts[CLIENT].sas.is_empty() {
            world.call(CLIENT, IkeSa::close);
        }
        world.settle();
        world.assert_nothing_left();
    }
}

#[test]
fn abandon_leaves_nothing_and_says_nothing() {
    for steps in 0..6 {
        let mut world = Setup::new().world(40);
        world.connect();
        for _ in 0..steps {
            world.step(Duration::MAX);
        }
        let sent = world.sent;
        let installed: Vec<Spi> = world.hosts[CLIENT].installed.keys().copied().collect();
        world.call(CLIENT, IkeSa::abandon);
        assert_eq!(world.sent, sent);
        // What stood is the caller's to remove.
        assert!(world.hosts[CLIENT].spis.used.iter().eq(&installed));
        assert!(world.hosts[CLIENT].sas.is_empty());
    }
}

#[test]
fn liveness() {
    let mut world = Setup::new().connected(41);
    for host in [CLIENT, SERVER] {
        world.call(host, |sa, cx| {
            sa.check_liveness(cx);
            sa.check_liveness(cx);
        });
        world.settle();
        assert!(world.heard(host, "alive"));
    }
    world.assert_agree();
}

#[test]
fn a_dead_peer_leaves_orphans() {
    let mut world = Setup::new().connected(42);
    world.hosts[SERVER].sas.clear();
    world.faults.loss = 100;
    world.call(CLIENT, IkeSa::check_liveness);
    world.settle();
    assert_eq!(world.log(CLIENT)[2..], ["closed: peer does not answer"]);
    // G4: the caller decides what becomes of the CHILD_SA.
    assert_eq!(world.hosts[CLIENT].installed.len(), 1);
    assert_eq!(world.hosts[CLIENT].spis.used.len(), 1);
    assert!(world.hosts[CLIENT].sas.is_empty());
}

#[test]
fn a_peer_that_forgot_everything_says_so_and_is_not_believed() {
    let mut world = Setup::new().connected(43);
    world.hosts[SERVER].sas.clear();
    world.call(CLIENT, IkeSa::check_liveness);
    world.run_for(Duration::from_secs(10));
    // INVALID_IKE_SPI came in clear: anybody could have sent it.
    assert_eq!(world.log(CLIENT), ["established", "child net"]);
    assert!(
        world.hosts[CLIENT]
            .discarded
            .iter()
            .all(|d| *d == Discard::NoSuchIkeSa)
    );
    assert!(!world.hosts[CLIENT].discarded.is_empty());
}

#[test]
fn the_server_follows_a_client_behind_a_nat() {
    let mut world = Setup::new().nat().connected(44);
    world.nat_shift = 30_000;
    world.call(CLIENT, IkeSa::check_liveness);
    world.settle();
    assert_eq!(
        world.log(SERVER)[2..],
        ["moved to 198.51.100.2:4500-203.0.113.9:34500 Udp"]
    );
    world.call(SERVER, IkeSa::check_liveness);
    world.settle();
    assert!(world.heard(SERVER, "alive"));
}

#[test]
fn without_a_nat_nobody_is_followed() {
    let mut world = Setup::new().connected(45);
    world.nat = Some("203.0.113.9".parse().unwrap());
    world.call(CLIENT, IkeSa::check_liveness);
    world.settle();
    assert!(world.heard(CLIENT, "alive"));
    assert!(!world.heard(SERVER, "moved"));
}
