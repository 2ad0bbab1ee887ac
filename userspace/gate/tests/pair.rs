//! Two gates under virtual time: the rules of the gate, over many seeds.

#![allow(missing_docs)]

mod world;

use std::time::Duration;

use mitregate_esp::ids::EpochId;
use mitregate_gate::{
    EchoRefusal, Gate, GateConfig, GateEvent, Input, Installed, Output, Proof, Reason, Release,
    Role, State, UserPing, UserPingEvent,
};
use mitregate_wire::echo::{Echo, Kind};
use mitregate_wire::esp::Spi;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use world::{CLIENT, Packet, SERVER, World, clean, lossy, ms};

#[test]
fn both_sides_prove_their_own_direction() {
    let mut world = World::new(1, clean(ms(10)));
    world.data_every = [Some(ms(10)); 2];
    let epoch = world.negotiate(None);
    world.run(Duration::from_secs(2));
    assert_eq!(world.live(), [epoch]);
    assert_eq!(world.sides[CLIENT].proofs, [(epoch, Proof::Ping(ms(20)))]);
    assert_eq!(world.sides[SERVER].proofs.len(), 1);
    assert!(world.sides[SERVER].data_received.len() > 150);
    assert!(world.sides[CLIENT].data_received.len() > 150);
    assert!(world.requests.is_empty());
}

#[test]
fn the_server_holds_until_the_clients_ping_has_arrived() {
    // Nothing of the client's first two seconds passes: the server must stay silent (the world checks
    // each packet that it sends) and then go on with the same epoch.
    let start = Duration::from_secs(1000);
    let fate = Box::new(move |t: &world::Transit<'_>, _: &mut _| {
        (t.from == SERVER || t.now > start + ms(1500)).then_some(ms(10))
    });
    let mut world = World::new(2, fate);
    world.data_every = [None, Some(ms(10))];
    let epoch = world.negotiate(None);
    world.run(ms(1400));
    assert_eq!(
        world.sides[SERVER].gate.epochs().next().unwrap().state,
        State::Installed
    );
    assert_eq!(world.sides[SERVER].data_sent, 0);
    world.run(Duration::from_secs(2));
    assert_eq!(world.live(), [epoch]);
    assert!(world.requests.is_empty(), "{:?}", world.requests);
}

#[test]
fn the_first_response_is_dropped_at_first_set_up_and_at_a_rekey() {
    for seed in 0..100 {
        let mut seen = std::collections::BTreeSet::new();
        let fate = Box::new(move |t: &world::Transit<'_>, _: &mut _| {
            let first = t.is_response() && t.from == SERVER && seen.insert(t.epoch);
            (!first).then_some(ms(10))
        });
        let mut world = World::new(seed, fate);
        world.data_every = [Some(ms(7)), Some(ms(7))];
        let first = world.negotiate(None);
        world.run(Duration::from_secs(1));
        assert_eq!(world.live(), [first]);
        // The server asked by itself: it did not wait for the client's second ping.
        assert!(matches!(world.sides[SERVER].proofs[0].1, Proof::Ping(_)));

        world.input(CLIENT, Input::RekeyDue { epoch: first });
        world.run(Duration::from_secs(5));
        let live = world.live();
        assert_eq!(live.len(), 1);
        assert_ne!(live[0], first);
        assert_eq!(world.requests.len(), 1);
        assert_nothing_lost(&mut world);
    }
}

/// On a path that loses no data and keeps its order, all data arrived and in order.
fn assert_nothing_lost(world: &mut World) {
    world.data_every = [None, None];
    world.run(Duration::from_secs(1));
    for (from, to) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
        let got = &world.sides[to].data_received;
        assert!(
            got.windows(2).all(|w| w[0] + 1 == w[1]),
            "lost or reordered"
        );
        assert_eq!(world.sides[from].data_sent, *got.last().unwrap());
    }
}

#[test]
fn a_rekey_with_traffic_loses_and_reorders_nothing() {
    for seed in 0..40 {
        let mut world = World::new(seed, clean(ms(3 + seed % 60)));
        world.data_every = [Some(ms(1)), Some(ms(1))];
        let mut epoch = world.negotiate(None);
        world.run(Duration::from_secs(1));
        for _ in 0..3 {
            world.input(CLIENT, Input::RekeyDue { epoch });
            world.run(Duration::from_secs(4));
            let live = world.live();
            assert_eq!(live.len(), 1, "seed {seed}");
            assert_ne!(live[0], epoch);
            epoch = live[0];
        }
        assert_nothing_lost(&mut world);
    }
}

#[test]
fn silence_costs_at_most_n_pings_per_epoch_and_then_fresh_spis() {
    for seed in 0..50 {
        let mut world = World::new(seed, Box::new(|_, _| None));
        let first = world.negotiate(None);
        world.run(Duration::from_secs(120));
        let client = &world.sides[CLIENT];
        let tries = client.gate.config().tries;
        assert_eq!(client.requests_sent[&first], tries);
        assert!(client.requests_sent.values().all(|n| *n <= tries));
        assert!(world.sides[SERVER].requests_sent.is_empty());
        assert_eq!(
            (world.requests[0].1, world.requests[0].2),
            ("rekey", Reason::Unproven)
        );
        // Two epochs in a row that could not be proven: a new IKE session.
        assert_eq!(world.requests[1].1, "session");
        assert_eq!(world.requests[2].1, "rekey");
        // Growing waits: seconds at first, half a minute in the end.
        assert!(
            (5..=16).contains(&world.requests.len()),
            "{:?}",
            world.requests
        );
        assert!(client.data_sent == 0 && client.active.is_none());
    }
}

#[test]
fn an_answer_that_comes_late_still_proves() {
    // One second each way: the first answer comes long after the first time-out.
    let mut world = World::new(3, clean(ms(1000)));
    let epoch = world.negotiate(None);
    world.run(Duration::from_secs(4));
    assert_eq!(world.sides[CLIENT].active, Some(epoch));
    assert!(world.requests.is_empty());
}

#[test]
fn comes_up_and_stays_agreed_under_loss_and_reordering() {
    for seed in 0..200 {
        let mut world = World::new(seed, lossy(30, 40));
        world.data_every = [Some(ms(50)), Some(ms(50))];
        world.negotiate(None);
        world.run(Duration::from_secs(20));
        assert!(world.sides[CLIENT].active.is_some(), "seed {seed}");
        assert_eq!(
            world.sides[CLIENT].active, world.sides[SERVER].active,
            "seed {seed}"
        );
        for _ in 0..3 {
            let epoch = world.sides[CLIENT].active.unwrap();
            world.input(CLIENT, Input::RekeyDue { epoch });
            world.run(Duration::from_secs(20));
        }
        assert_eq!(
            world.sides[CLIENT].active, world.sides[SERVER].active,
            "seed {seed}"
        );
    }
}

#[test]
fn a_path_that_dies_is_noticed_and_the_epoch_that_works_is_kept_meanwhile() {
    for seed in 0..100u64 {
        let dies = Duration::from_secs(1010) + ms(seed * 17);
        let back = dies + Duration::from_secs(8);
        let fate = Box::new(move |t: &world::Transit<'_>, _: &mut _| {
            (t.now < dies || t.now > back).then_some(ms(10))
        });
        let mut world = World::new(seed, fate);
        world.data_every = [Some(ms(1000)), Some(ms(1000))];
        world.ike_works = true;
        let first = world.negotiate(None);
        world.run(dies - world.now);
        assert_eq!(world.live(), [first]);
        // Only IKE of the world gets through: fresh epochs are installed and cannot be proven either.
        world.run(back - world.now);
        assert_eq!(
            world.sides[CLIENT].active,
            Some(first),
            "what works is never torn down"
        );
        let (noticed, kind, reason) = world.requests[0];
        assert_eq!((kind, reason), ("rekey", Reason::PathLost));
        assert!(
            noticed - dies < Duration::from_secs(4),
            "{:?}",
            noticed - dies
        );
        world.run(Duration::from_secs(10));
        world.live();
        let last = world.sides[SERVER].data_received.len();
        world.run(Duration::from_secs(5));
        assert!(world.sides[SERVER].data_received.len() >= last + 4);
    }
}

#[test]
fn an_unanswered_rekey_becomes_a_new_session_when_patience_is_at_an_end() {
    let mut world = World::new(5, clean(ms(10)));
    let epoch = world.negotiate(None);
    world.run(Duration::from_secs(1));
    world.ike_works = false;
    world.input(CLIENT, Input::RekeyDue { epoch });
    world.run(Duration::from_secs(30));
    let kinds: Vec<_> = world.requests.iter().map(|r| (r.1, r.2)).collect();
    let expected = [
        ("rekey", Reason::Lifetime),
        ("session", Reason::RekeyUnanswered),
    ];
    assert_eq!(kinds, expected);
    let patience = mitregate_gate::GateConfig::new(mitregate_gate::Role::Client).rekey_patience;
    assert_eq!(world.requests[1].0 - world.requests[0].0, patience);
    assert_eq!(world.live(), [epoch], "the old one goes on");
}

#[test]
fn a_refused_rekey_becomes_a_new_session_at_once() {
    let mut world = World::new(6, clean(ms(10)));
    let epoch = world.negotiate(None);
    world.run(Duration::from_secs(1));
    world.ike_works = false;
    world.input(CLIENT, Input::RekeyDue { epoch });
    world.rekey_refused(CLIENT);
    world.run(ms(10));
    assert_eq!(world.requests[1].2, Reason::RekeyFailed);
}

#[test]
fn the_first_of_two_new_epochs_to_be_proven_wins_on_both_sides() {
    for seed in 0..300 {
        let mut world = World::new(seed, lossy(40, 120));
        world.data_every = [Some(ms(20)), Some(ms(20))];
        let first = world.negotiate(None);
        world.run(Duration::from_secs(10));
        if world.sides[CLIENT].active != Some(first) {
            continue;
        }
        world.negotiate(Some(first));
        world.negotiate(None);
        world.run(Duration::from_secs(40));
        assert_eq!(
            world.sides[CLIENT].active, world.sides[SERVER].active,
            "seed {seed}"
        );
        let stale = world.sides[SERVER]
            .gate
            .epochs()
            .filter(|e| !e.active)
            .count();
        assert_eq!(
            stale,
            world.sides[CLIENT].gate.epochs().count() - 1,
            "seed {seed}"
        );
    }
}

#[test]
fn a_peer_without_esp_echo_gets_data_at_once_and_one_warning() {
    let mut world = World::new(7, clean(ms(10)));
    world.peer_echo = false;
    world.data_every = [Some(ms(10)), Some(ms(10))];
    let first = world.negotiate(None);
    world.run(Duration::from_secs(1));
    for side in &world.sides {
        assert_eq!(side.proofs, [(first, Proof::Released(Release::FirstSa))]);
        assert!(side.requests_sent.is_empty());
    }
    let second = world.negotiate(Some(first));
    world.run(Duration::from_secs(60));
    let released = |at: usize| world.sides[at].proofs[1];
    assert_eq!(
        released(CLIENT),
        (second, Proof::Released(Release::RekeyAnswered))
    );
    assert_eq!(
        released(SERVER),
        (second, Proof::Released(Release::InboundOnNew))
    );
    assert_eq!(world.live(), [second]);
    assert_nothing_lost(&mut world);
    for side in &world.sides {
        let warnings = side
            .events
            .iter()
            .filter(|(_, e)| matches!(e, GateEvent::Optimistic { .. }))
            .count();
        assert_eq!(warnings, 1);
    }
}

#[test]
fn a_delete_of_the_old_releases_the_new_with_a_peer_without_esp_echo() {
    let mut world = World::new(8, clean(ms(10)));
    world.peer_echo = false;
    let first = world.negotiate(None);
    world.run(Duration::from_secs(1));
    let second = world.negotiate(Some(first));
    world.run(ms(15));
    assert_eq!(world.sides[SERVER].active, Some(first), "held");
    world.input(
        SERVER,
        Input::Deleted {
            epoch: first,
            by_peer: true,
        },
    );
    assert_eq!(
        world.sides[SERVER].proofs.last(),
        Some(&(second, Proof::Released(Release::OldDeleted)))
    );
}

#[test]
fn a_return_spi_of_another_tunnel_is_refused() {
    let mut world = World::new(9, clean(ms(10)));
    let epoch = world.negotiate(None);
    world.run(Duration::from_secs(1));
    let view = world.sides[SERVER].gate.epochs().next().unwrap();
    let ping = |spi: Spi| Echo {
        kind: Kind::Request {
            return_spi: Some(spi),
        },
        id: 7,
        seq: 9,
        data: b"probe",
    };
    let answered = world.sides[SERVER].gate.counters().echoes_answered;
    let foreign = Spi::new(0x0123_4567).unwrap();
    world.input(
        SERVER,
        Input::Echo {
            epoch,
            echo: ping(foreign),
        },
    );
    assert_eq!(
        world.sides[SERVER].gate.counters().echoes_answered,
        answered
    );
    let refusal = EchoRefusal::ForeignReturnSpi;
    assert_eq!(
        world.sides[SERVER].events.last().unwrap().1,
        GateEvent::EchoRefused { epoch, refusal }
    );
    world.input(
        SERVER,
        Input::Echo {
            epoch,
            echo: ping(view.spi_out),
        },
    );
    assert_eq!(
        world.sides[SERVER].gate.counters().echoes_answered,
        answered + 1
    );
}

#[test]
fn a_flood_of_pings_is_answered_at_the_configured_rate_and_cut_to_the_cap() {
    let mut world = World::new(10, clean(ms(10)));
    let epoch = world.negotiate(None);
    world.run(Duration::from_secs(1));
    let before = world.sides[SERVER].gate.counters();
    let data = vec![7; 4000];
    let echo = Echo {
        kind: Kind::Request { return_spi: None },
        id: 1,
        seq: 1,
        data: &data,
    };
    for _ in 0..5000 {
        world.input(SERVER, Input::Echo { epoch, echo });
        world.run(ms(1));
    }
    let limit = &world.sides[SERVER].gate.config().echo;
    let most = u64::from(limit.burst + limit.rate * 5) + 10;
    let answered = world.sides[SERVER].gate.counters().echoes_answered - before.echoes_answered;
    assert!((most - 40..=most).contains(&answered), "{answered}");
    let response = echo.response().unwrap();
    assert_eq!(response.data.len(), 512);
}

#[test]
fn a_users_ping_has_statistics() {
    let mut drop_every_fourth = 0;
    let fate = Box::new(move |t: &world::Transit<'_>, _: &mut _| {
        if let Packet::Echo(bytes) = t.packet
            && t.is_response()
            && Echo::new_checked(bytes).unwrap().data.len() == 56
        {
            drop_every_fourth += 1;
            return (drop_every_fourth % 4 != 0).then_some(ms(15));
        }
        Some(ms(10))
    });
    let mut world = World::new(11, fate);
    world.negotiate(None);
    world.run(Duration::from_secs(1));
    let request = UserPing {
        token: 99,
        count: 8,
        interval: ms(100),
        size: 56,
    };
    world.input(CLIENT, Input::UserPing(request));
    world.run(Duration::from_secs(4));
    let done = world.sides[CLIENT]
        .events
        .iter()
        .find_map(|(_, e)| match e {
            GateEvent::UserPing {
                token: 99,
                event: UserPingEvent::Done(stats),
            } => Some(*stats),
            _ => None,
        });
    let stats = done.unwrap();
    assert_eq!((stats.sent, stats.received), (8, 6));
    assert_eq!((stats.min, stats.avg, stats.max), (ms(25), ms(25), ms(25)));
    assert_eq!(stats.mdev, Duration::ZERO);
}

#[test]
fn a_users_ping_without_a_proven_epoch_is_lost_and_sends_nothing() {
    let mut world = World::new(12, clean(ms(10)));
    let request = UserPing {
        token: 1,
        count: 2,
        interval: ms(10),
        size: 0,
    };
    world.input(SERVER, Input::UserPing(request));
    world.run(Duration::from_secs(5));
    let lost = world.sides[SERVER]
        .events
        .iter()
        .filter(|(_, e)| {
            matches!(
                e,
                GateEvent::UserPing {
                    event: UserPingEvent::Lost { .. },
                    ..
                }
            )
        })
        .count();
    assert_eq!(lost, 2);
    assert!(world.sides[SERVER].requests_sent.is_empty());
}

#[test]
fn a_quiet_pair_costs_less_than_a_packet_in_ten_seconds() {
    let mut world = World::new(13, clean(ms(10)));
    world.negotiate(None);
    world.run(Duration::from_secs(60));
    let before = world.sides[CLIENT].gate.counters().pings_sent;
    world.run(Duration::from_secs(3600));
    let packets = 2 * (world.sides[CLIENT].gate.counters().pings_sent - before);
    assert!((200..=360).contains(&packets), "{packets}");
    assert!(world.requests.is_empty());
}

#[test]
fn a_replay_of_the_same_seed_is_the_same() {
    let run = || {
        let mut world = World::new(77, lossy(40, 80));
        world.data_every = [Some(ms(13)), Some(ms(17))];
        let epoch = world.negotiate(None);
        world.run(Duration::from_secs(5));
        world.input(CLIENT, Input::RekeyDue { epoch });
        world.run(Duration::from_secs(30));
        (
            format!("{:?}", world.sides[CLIENT].events),
            world.sides[SERVER].data_received.clone(),
        )
    };
    assert_eq!(run(), run());
}

#[test]
fn a_server_forgets_an_epoch_that_its_client_has_forgotten() {
    let mut world = World::new(14, Box::new(|_, _| None));
    let epoch = world.negotiate(None);
    world.run(ms(15));
    assert_eq!(world.sides[SERVER].gate.epochs().count(), 1);
    // The client never got IKE's answer.
    world.sides[CLIENT].installed.insert(epoch);
    world.ike_works = false;
    world.run(world.sides[SERVER].gate.config().drain_max + Duration::from_secs(1));
    assert_eq!(world.sides[SERVER].gate.epochs().count(), 0);
}

#[test]
fn an_answer_on_another_epoch_than_its_ping_proves_nothing() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut gate = Gate::new(GateConfig::new(Role::Client));
    let now = Duration::from_secs(1000);
    let installed = |n: u32, replaces| {
        Input::Installed(Installed {
            epoch: EpochId(n.into()),
            spi_in: Spi::new(1000 + n).unwrap(),
            spi_out: Spi::new(2000 + n).unwrap(),
            peer_echo: true,
            keyed_by_spi: false,
            icmp: None,
            initiated: true,
            redundant: false,
            replaces,
        })
    };
    let drain = |gate: &mut Gate| {
        let (mut pings, mut proven) = (Vec::new(), Vec::new());
        while let Some(output) = gate.poll_output() {
            match output {
                Output::SendEcho { epoch, payload } => pings.push((epoch, payload)),
                Output::Activate(proof) => proven.push(proof.epoch()),
                _ => {}
            }
        }
        (pings, proven)
    };
    let mut answer = |gate: &mut Gate, epoch, ping: &[u8]| {
        let echo = Echo::new_checked(ping).unwrap().response().unwrap();
        gate.handle(now, Input::Echo { epoch, echo }, &mut rng);
        drain(gate)
    };
    let mut other = ChaCha20Rng::seed_from_u64(2);

    let (old, new) = (EpochId(1), EpochId(2));
    gate.handle(now, installed(1, None), &mut other);
    let (pings, _) = drain(&mut gate);
    assert_eq!(answer(&mut gate, old, &pings[0].1).1, [old]);
    gate.handle(now, installed(2, Some(old)), &mut other);
    let (own, _) = drain(&mut gate);
    let request = UserPing {
        token: 7,
        count: 1,
        interval: ms(100),
        size: 0,
    };
    gate.handle(now, Input::UserPing(request), &mut other);
    let (users, _) = drain(&mut gate);
    assert_eq!(users[0].0, old);
    assert!(answer(&mut gate, new, &users[0].1).1.is_empty());
    assert_eq!(gate.active(), Some(old));
    assert_eq!(answer(&mut gate, new, &own[0].1).1, [new]);
}

#[test]
fn a_rekey_of_ours_that_a_peer_without_echo_answered_ends_with_our_delete() {
    for role in [Role::Client, Role::Server] {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let mut gate = Gate::new(GateConfig::new(role));
        let now = Duration::from_secs(1000);
        let drain_min = gate.config().drain_min;
        for (n, replaces) in [(1, None), (2, Some(EpochId(1)))] {
            let installed = Installed {
                epoch: EpochId(n.into()),
                spi_in: Spi::new(1000 + n).unwrap(),
                spi_out: Spi::new(2000 + n).unwrap(),
                peer_echo: false,
                keyed_by_spi: false,
                icmp: None,
                initiated: n == 2,
                replaces,
                redundant: false,
            };
            gate.handle(now, Input::Installed(installed), &mut rng);
        }
        assert_eq!(gate.active(), Some(EpochId(2)));
        let mut deleted_by = |at| {
            gate.handle_timeout(at, &mut rng);
            let mut deleted = Vec::new();
            while let Some(output) = gate.poll_output() {
                if let Output::Delete { epoch } = output {
                    deleted.push(epoch);
                }
            }
            deleted
        };
        // What is under way on the old one still gets in.
        assert_eq!(deleted_by(now + drain_min - ms(1)), []);
        assert_eq!(deleted_by(now + drain_min), [EpochId(1)], "{role:?}");
    }
}
