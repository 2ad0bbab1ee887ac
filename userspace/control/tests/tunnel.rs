//! Client, NAT and gateway with real IKE, gates and workers over memory.

mod lab;

use lab::{CLIENT, SERVER, Setup, World, ms, secs};
use mitregate_control::{Command, ControlEvent, EncapMode, UserPingEvent};
use mitregate_dataplane::Fate;
use mitregate_lab::nat::{Middlebox as _, Remap};

/// Both encapsulations through a NAT, and none.
fn ways() -> [Setup; 4] {
    let setup = |encap, nat| Setup {
        encap,
        nat,
        ..Setup::default()
    };
    [
        setup(EncapMode::Auto, true),
        setup(EncapMode::Udp, true),
        setup(EncapMode::Esp, true),
        setup(EncapMode::Auto, false),
    ]
}

#[test]
fn a_tunnel_comes_up_and_data_crosses_in_order() {
    for setup in ways() {
        let expected = match (setup.encap, setup.nat) {
            (EncapMode::Esp, _) | (EncapMode::Auto, false) => "esp",
            _ => "udp",
        };
        let mut world = World::new(setup);
        // From the first instant: it waits for the gate, and nothing of it is lost.
        world.data_every = [Some(ms(10)), Some(ms(10))];
        let took = world.run_until_up(secs(2));
        assert!(took <= ms(150), "{took:?}");
        world.run(secs(3));
        world.assert_agreed(1);
        let tunnel = world.tunnel(CLIENT);
        assert_eq!(tunnel.status, "proven");
        assert_eq!(tunnel.epochs[0].encap, expected);
        assert_eq!(tunnel.epochs[0].proof.as_deref(), Some("ping"));
        assert!(tunnel.epochs[0].last_rtt_us >= Some(20_000));
        world.assert_all_arrived();
        assert!(world.tunnel(SERVER).packets_in > 300);
    }
}

#[test]
fn a_rekey_with_traffic_loses_and_reorders_nothing() {
    for setup in ways() {
        for seed in 0..3 {
            let delay = ms(1 + 20 * seed);
            let mut world = World::new(Setup {
                seed,
                delay,
                rekey_time: secs(20),
                ..setup.clone()
            });
            world.run_until_up(secs(2));
            world.data_every = [Some(ms(2)), Some(ms(2))];
            world.run(secs(90));
            assert!(world.activations(CLIENT) >= 4);
            // Rekeys are the client's.
            assert_eq!(world.tunnel(SERVER).gate.rekeys, 0);
            assert!(world.tunnel(CLIENT).gate.rekeys >= 4);
            world.assert_all_arrived();
            world.run(secs(10));
            assert!(world.tunnel(CLIENT).epochs.len() <= 2);
        }
    }
}

#[test]
fn many_rekeys_leave_nothing_behind() {
    let mut world = World::new(Setup {
        rekey_time: secs(15),
        ..Setup::default()
    });
    world.run(secs(3600));
    assert!(world.activations(CLIENT) > 200);
    // Wait for a quiet moment between two rekeys.
    while world.tunnel(CLIENT).epochs.len() > 1 || world.tunnel(CLIENT).epochs[0].age_ms < 5_000 {
        world.run(ms(500));
    }
    world.assert_agreed(1);
}

#[test]
fn comes_up_rekeys_and_agrees_under_loss_duplicates_and_reordering() {
    let encaps = [EncapMode::Auto, EncapMode::Udp, EncapMode::Esp];
    for (seed, encap) in (0..24).zip(encaps.into_iter().cycle()) {
        let setup = Setup {
            seed,
            encap,
            loss: 100,
            duplicates: 100,
            spread: ms(30),
            rekey_time: secs(40),
            ..Setup::default()
        };
        let mut world = World::new(setup);
        world.data_every = [Some(ms(40)), Some(ms(40))];
        world.run_until_up(secs(30));
        world.run(secs(150));
        for (from, to) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
            let got = world.received(to).to_vec();
            let mut once = got.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(
                once.len(),
                got.len(),
                "seed {seed}: a packet came out twice"
            );
            let share = got.len() as f64 / world.sent(from) as f64;
            assert!(share > 0.8, "seed {seed}: only {share} arrived");
        }
        // Once the network behaves and all is quiet, both ends agree.
        world.setup.loss = 0;
        world.setup.duplicates = 0;
        world.data_every = [None; 2];
        world.run(secs(20));
        let settled = |w: &World| {
            let t = w.tunnel(CLIENT);
            t.epochs.len() == 1 && t.epochs[0].age_ms > 15_000
        };
        for _ in 0..600 {
            if settled(&world) {
                break;
            }
            world.run(ms(500));
        }
        world.assert_agreed(1);
    }
}

#[test]
fn a_restarted_client_is_taken_back_at_once() {
    for setup in ways() {
        let mut world = World::new(setup);
        world.data_every = [Some(ms(10)), Some(ms(10))];
        world.run(secs(3));
        world.kill(CLIENT);
        world.run(secs(2));
        world.start(CLIENT);
        let took = world.run_until_up(secs(3));
        assert!(took <= ms(200), "{took:?}");
        let received = world.received(CLIENT).len();
        world.run(secs(1));
        assert!(world.received(CLIENT).len() > received + 80);
        // The old state of the server went when the new epoch was proven, and not with it.
        world.run(secs(30));
        world.assert_agreed(1);
    }
}

#[test]
fn a_claim_to_be_the_client_does_not_tear_down_what_works() {
    // The restarted client's ESP does not get through, only its IKE: the old epoch must stay.
    let mut world = World::new(Setup::default());
    world.run(secs(2));
    let old = world.tunnel(SERVER).epochs[0].spi_in.clone();
    world.kill(CLIENT);
    world.start(CLIENT);
    world.run(ms(45));
    world.cut = [true, false];
    world.run(secs(5));
    let epochs = world.tunnel(SERVER).epochs;
    assert!(
        epochs.iter().any(|e| e.spi_in == old && e.active),
        "{epochs:#?}"
    );
}

#[test]
fn a_restarted_server_is_noticed() {
    for setup in ways() {
        let mut world = World::new(setup);
        world.data_every = [Some(ms(200)), Some(ms(200))];
        world.run(secs(3));
        world.kill(SERVER);
        world.run(secs(1));
        world.start(SERVER);
        let took = world.run_until_up(secs(10));
        assert!(took <= secs(4), "{took:?}");
        world.run(secs(60));
        world.assert_agreed(1);
    }
}

#[test]
fn a_server_that_is_away_for_long_is_called_for_ever() {
    let mut world = World::new(Setup::default());
    world.kill(SERVER);
    world.run(secs(1800));
    world.start(SERVER);
    world.run_until_up(secs(60));
    world.run(secs(40));
    world.assert_agreed(1);
}

#[test]
fn a_nat_that_forgets_or_moves_is_survived() {
    for (n, setup) in ways().into_iter().filter(|s| s.nat).enumerate() {
        for seed in 0..5 {
            let mut world = World::new(Setup {
                seed,
                ..setup.clone()
            });
            world.data_every = [Some(ms(1000)), Some(ms(1000))];
            world.run(secs(10) + ms(170 * seed));
            let nat = world.nat().unwrap();
            match seed % 2 {
                0 => nat.crash(),
                _ => nat.remap(&Remap::address([203, 0, 113, 99])),
            }
            world.run(secs(4));
            let received = [CLIENT, SERVER].map(|at| world.received(at).len());
            world.run(secs(6));
            for (at, before) in received.into_iter().enumerate() {
                let now = world.received(at).len();
                assert!(
                    now >= before + 5,
                    "way {n}, seed {seed}, side {at}: {before} {now}"
                );
            }
        }
    }
}

#[test]
fn the_first_pings_answer_is_lost() {
    // The client's way in is shut from the moment IKE_AUTH is through until a second later.
    let mut world = World::new(Setup::default());
    world.run(ms(45));
    world.cut = [false, true];
    world.run(secs(1));
    let server = world.tunnel(SERVER);
    assert_ne!(server.status, "proven");
    assert_eq!(world.activations(SERVER), 0);
    world.cut = [false, false];
    world.data_every = [Some(ms(10)), Some(ms(10))];
    world.run_until_up(secs(2));
    world.run(secs(2));
    world.assert_agreed(1);
}

#[test]
fn a_wrong_secret_is_refused_and_tried_again_without_end() {
    let psks = ["secret", "another"];
    let mut world = World::new(Setup {
        psks,
        ..Setup::default()
    });
    world.data_every = [Some(ms(100)), Some(ms(100))];
    world.run(secs(120));
    assert_eq!(world.tunnel(CLIENT).status, "down");
    let failures = |at: usize| {
        let events = world.events(at);
        events
            .iter()
            .filter(|(_, e)| matches!(e, ControlEvent::IkeDown { .. }))
            .count()
    };
    assert!((4..=40).contains(&failures(CLIENT)), "{}", failures(CLIENT));
    assert_eq!(world.activations(SERVER) + world.activations(CLIENT), 0);
    assert!(world.received(CLIENT).is_empty() && world.received(SERVER).is_empty());
    // No half-open SA stays behind.
    world.kill(CLIENT);
    world.run(secs(120));
    assert!(world.list(SERVER).ike_sas.is_empty());
}

#[test]
fn either_side_terminates() {
    let mut world = World::new(Setup::default());
    world.run(secs(2));
    let ticket = world.command(
        CLIENT,
        Command::TerminateIke {
            connection: "home".into(),
        },
    );
    world.run(secs(1));
    assert!(world.finished(CLIENT, ticket));
    world.assert_agreed(0);
    // It stays down until it is asked for.
    world.run(secs(60));
    world.assert_agreed(0);
    let ticket = world.command(
        CLIENT,
        Command::Initiate {
            child: "net".into(),
        },
    );
    world.run_until_up(secs(1));
    assert!(world.finished(CLIENT, ticket));
    let ticket = world.command(
        CLIENT,
        Command::TerminateChild {
            child: "home/net".into(),
        },
    );
    world.run(secs(1));
    assert!(world.finished(CLIENT, ticket));
    world.assert_agreed(0);
    world.command(
        CLIENT,
        Command::Initiate {
            child: "net".into(),
        },
    );
    world.run_until_up(secs(1));
    // The server ends it; the client, which wants it, comes back.
    let ticket = world.command(
        SERVER,
        Command::TerminateIke {
            connection: "home".into(),
        },
    );
    world.run(ms(100));
    assert!(world.finished(SERVER, ticket));
    world.run_until_up(secs(2));
    world.run(secs(20));
    world.assert_agreed(1);
}

#[test]
fn a_shut_down_tells_the_peer() {
    for at in [CLIENT, SERVER] {
        let mut world = World::new(Setup::default());
        world.run(secs(2));
        world.command(at, Command::ShutDown);
        world.run(ms(200));
        let over = |w: &World| {
            w.events(at)
                .iter()
                .any(|(_, e)| *e == ControlEvent::ShutDown)
        };
        assert!(over(&world));
        assert!(world.list(at).ike_sas.is_empty());
        if at == CLIENT {
            assert!(world.tunnel(SERVER).epochs.is_empty());
        }
    }
    // A peer that does not answer does not hold it up for long.
    let mut world = World::new(Setup::default());
    world.run(secs(2));
    world.kill(SERVER);
    world.command(CLIENT, Command::ShutDown);
    world.run(ms(2100));
    let events = world.events(CLIENT);
    assert_eq!(
        events
            .iter()
            .filter(|(_, e)| *e == ControlEvent::ShutDown)
            .count(),
        1
    );
    assert!(world.tunnel(CLIENT).epochs.is_empty());
}

#[test]
fn a_users_ping_measures_the_path() {
    let mut world = World::new(Setup::default());
    world.run(secs(2));
    let (count, interval, size) = (5, ms(100), 64);
    let tunnel = "net".to_owned();
    let ticket = world.command(
        SERVER,
        Command::Ping {
            tunnel,
            count,
            interval,
            size,
        },
    );
    world.run(secs(1));
    let replies = world.events(SERVER).iter().filter(|(_, e)| {
        matches!(e, ControlEvent::Ping { ticket: t, event: UserPingEvent::Reply { rtt, size: 64, .. } }
            if *t == ticket && *rtt == ms(20))
    });
    assert_eq!(replies.count(), 5);
    assert!(world.finished(SERVER, ticket));
}

#[test]
fn a_new_ike_sa_replaces_the_old_one_without_loss() {
    let mut world = World::new(Setup {
        reauth_time: secs(30),
        ..Setup::default()
    });
    world.data_every = [Some(ms(5)), Some(ms(5))];
    world.run(secs(100));
    assert!(world.activations(CLIENT) >= 4);
    world.assert_all_arrived();
    world.run(secs(8));
    assert!(world.tunnel(CLIENT).epochs.len() <= 2);
}

#[test]
fn a_rekeyed_ike_sa_keeps_its_children_and_loses_nothing() {
    let mut world = World::new(Setup {
        ike_rekey_time: secs(20),
        rekey_time: secs(35),
        ..Setup::default()
    });
    world.data_every = [Some(ms(5)), Some(ms(5))];
    world.run(secs(150));
    world.assert_all_arrived();
    for at in [CLIENT, SERVER] {
        let count = |what: fn(&ControlEvent) -> bool| {
            world
                .events(at)
                .iter()
                .filter(|(_, event)| what(event))
                .count()
        };
        let rekeyed = count(|e| matches!(e, ControlEvent::IkeRekeyed { .. }));
        assert!((7..=9).contains(&rekeyed), "{rekeyed}");
        assert_eq!(count(|e| matches!(e, ControlEvent::IkeDown { .. })), 0);
        assert_eq!(
            count(|e| matches!(e, ControlEvent::IkeEstablished { .. })),
            1
        );
        let list = world.list(at);
        assert_eq!(list.ike_sas.len(), 1);
    }
    // The IKE SA that there is now can do all that the first could.
    world.data_every = [None; 2];
    world.run(secs(60));
    assert!(world.activations(CLIENT) >= 4);
    world.kill(SERVER);
    world.start(SERVER);
    world.run(secs(10));
    world.data_every = [Some(ms(50)), None];
    let before = world.received(SERVER).len();
    world.run(secs(5));
    assert!(world.received(SERVER).len() > before);
}

#[test]
fn a_quiet_tunnel_stays_up_and_costs_little() {
    let mut world = World::new(Setup::default());
    world.run(secs(60));
    let before = world.tunnel(CLIENT).gate.pings_sent;
    world.run(secs(3000));
    let pings = world.tunnel(CLIENT).gate.pings_sent - before;
    assert!(2 * pings <= 300, "{pings}");
    world.assert_agreed(1);
    assert_eq!(world.activations(CLIENT), 1);
}

#[test]
fn hostile_datagrams_leave_nothing_behind() {
    let mut world = World::new(Setup {
        nat: false,
        ..Setup::default()
    });
    world.run(secs(2));
    let from: std::net::SocketAddr = "192.0.2.66:500".parse().unwrap();
    for n in 0..2000u32 {
        let mut bytes = vec![0u8; (n % 97) as usize];
        for (i, byte) in bytes.iter_mut().enumerate() {
            [*byte, ..] = (n.wrapping_mul(2_654_435_761) >> (i % 24)).to_le_bytes();
        }
        let port = if n % 2 == 0 { 500 } else { 4500 };
        world.inject(from, world.server_port(port), &bytes);
        world.run(ms(1));
    }
    world.run(secs(60));
    world.assert_agreed(1);
    assert_eq!(world.list(SERVER).ike_sas.len(), 1);
}

/// Forged first messages fill a responder's table, and strays its quota; a real client gets in by a
/// cookie all the same (RFC 7296 §2.6).
#[test]
fn forged_first_messages_keep_no_client_out() {
    let mut world = World::new(Setup {
        nat: false,
        ..Setup::default()
    });
    let first = world.steal().remove(0);
    world.kill(CLIENT);
    for n in 0..4000u32 {
        let mut message = first.payload().to_vec();
        message[..4].copy_from_slice(&n.to_be_bytes());
        let from = std::net::Ipv4Addr::from(0x0b00_0000 | n);
        world.inject((from, 500).into(), first.dst(), &message);
        // To no IKE SA: has no cookie to show.
        message[8..16].copy_from_slice(&[1; 8]);
        world.inject((from, 500).into(), first.dst(), &message);
        world.run(ms(2));
        if n == 2000 {
            world.start(CLIENT);
        }
    }
    assert!(world.is_up());
    let half_open = world.list(SERVER).ike_sas.len();
    assert!(half_open < 100, "{half_open}");
    world.run(secs(60));
    world.assert_agreed(1);
}

/// A ping that somebody has taken out of its UDP shows no port.
#[test]
fn a_ping_without_its_port_moves_nobody() {
    let mut world = World::new(Setup::default());
    world.run_until_up(secs(5));
    world.run(secs(2));
    let ping = Command::Ping {
        tunnel: "net".to_owned(),
        count: 1,
        interval: ms(100),
        size: 8,
    };
    world.command(CLIENT, ping);
    let stolen = world.steal();
    assert_eq!(stolen.len(), 1);
    for packet in stolen {
        let bare = |address: std::net::SocketAddr| (address.ip(), 0).into();
        world.inject(bare(packet.src()), bare(packet.dst()), packet.payload());
    }
    world.run(ms(500));
    world.data_every[SERVER] = Some(ms(10));
    world.run(ms(200));
    world.assert_all_arrived();
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let setup = Setup {
            seed: 5,
            loss: 150,
            spread: ms(40),
            rekey_time: secs(20),
            ..Setup::default()
        };
        let mut world = World::new(setup);
        world.data_every = [Some(ms(30)), Some(ms(30))];
        world.run(secs(60));
        let list = |w: &World, at: usize| format!("{:?}", w.list(at));
        (
            list(&world, CLIENT),
            list(&world, SERVER),
            world.received(SERVER).to_vec(),
        )
    };
    assert_eq!(run(), run());
}

#[test]
fn early_data_beyond_the_bound_is_dropped_oldest_first_and_counted() {
    let mut world = World::new(Setup::default());
    world.kill(SERVER);
    world.data_every = [Some(ms(10)), None];
    world.run(secs(5));
    world.data_every = [None, None];
    world.start(SERVER);
    world.run_until_up(secs(30));
    world.run(secs(1));
    let got = world.received(SERVER);
    let last = world.sent(CLIENT);
    assert_eq!(got.len(), 64);
    assert_eq!(*got, ((last - 63)..=last).collect::<Vec<_>>());
    assert!(world.fate(CLIENT, Fate::HoldOverflow) > 0);
}
