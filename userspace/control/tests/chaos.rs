//! Faults drawn at random, one after another and on top of each other; then the network behaves, and the
//! tunnel must be back and both ends agree.

mod lab;

use lab::{CLIENT, SERVER, Setup, World, ms, secs};
use mitregate_control::{Command, EncapMode, EpochView};
use mitregate_lab::nat::{Middlebox as _, Remap};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

fn below(rng: &mut ChaCha20Rng, n: u64) -> u64 {
    rng.next_u64() % n
}

fn fault(world: &mut World, rng: &mut ChaCha20Rng) -> String {
    let side = usize::from(below(rng, 2) == 0);
    match below(rng, 9) {
        0 if world.is_down(side) => {
            world.start(side);
            format!("start {side}")
        }
        0 => {
            world.kill(side);
            format!("kill {side}")
        }
        1 if !world.is_down(side) => {
            world.kill(side);
            world.start(side);
            format!("restart {side}")
        }
        2 => {
            world.cut[side] = !world.cut[side];
            format!("cut {:?}", world.cut)
        }
        3 => {
            if let Some(nat) = world.nat() {
                nat.crash();
            }
            "NAT crash".to_owned()
        }
        4 => {
            let host = u8::try_from(below(rng, 250)).unwrap_or(1);
            if let Some(nat) = world.nat() {
                nat.remap(&Remap::address([203, 0, 113, host]));
            }
            "NAT remap".to_owned()
        }
        5 => {
            world.setup.loss = u32::try_from(below(rng, 500)).unwrap_or(0);
            format!("loss {}", world.setup.loss)
        }
        6 if !world.is_down(side) => {
            world.command(
                side,
                Command::TerminateIke {
                    connection: "home".to_owned(),
                },
            );
            if side == CLIENT {
                world.command(
                    CLIENT,
                    Command::Initiate {
                        child: "net".to_owned(),
                    },
                );
            }
            format!("terminate {side}")
        }
        7 if !world.is_down(CLIENT) => {
            world.command(
                CLIENT,
                Command::TerminateChild {
                    child: "net".to_owned(),
                },
            );
            world.command(
                CLIENT,
                Command::Initiate {
                    child: "net".to_owned(),
                },
            );
            "terminate child".to_owned()
        }
        _ => {
            world.command(side, Command::PathChanged);
            "path changed".to_owned()
        }
    }
}

/// A few by default; `CHAOS_SEEDS=0..5000` for a long run.
#[allow(clippy::disallowed_methods, reason = "chooses cases, not behaviour")]
fn seeds() -> std::ops::Range<u64> {
    let range = std::env::var("CHAOS_SEEDS").ok();
    let ends = range.as_deref().and_then(|r| r.split_once(".."));
    ends.and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?))
        .unwrap_or(0..100)
}

#[test]
fn whatever_happens_the_tunnel_comes_back_and_both_ends_agree() {
    for seed in seeds() {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let encap = match below(&mut rng, 3) {
            0 => EncapMode::Auto,
            1 => EncapMode::Udp,
            _ => EncapMode::Esp,
        };
        let setup = Setup {
            seed,
            encap,
            nat: below(&mut rng, 4) > 0,
            duplicates: 50,
            spread: ms(10),
            rekey_time: secs(20 + below(&mut rng, 60)),
            ike_rekey_time: secs(20 + below(&mut rng, 100)),
            ..Setup::default()
        };
        let mut world = World::new(setup);
        world.data_every = [Some(ms(100)), Some(ms(100))];
        let mut story = Vec::new();
        for _ in 0..12 {
            let at = world.now;
            story.push(format!("{at:?} {}", fault(&mut world, &mut rng)));
            let wait = ms(below(&mut rng, 8_000));
            world.run(wait);
        }
        world.setup.loss = 0;
        world.setup.duplicates = 0;
        world.cut = [false; 2];
        for at in [CLIENT, SERVER] {
            if world.is_down(at) {
                world.start(at);
            }
        }
        story.push(format!("{:?} healed", world.now));
        let carries = |world: &mut World| {
            let before = [CLIENT, SERVER].map(|at| world.received(at).len());
            world.run(secs(1));
            let after = [CLIENT, SERVER].map(|at| world.received(at).len());
            after[0] >= before[0] + 8 && after[1] >= before[1] + 8
        };
        let back = (0..60).find(|_| carries(&mut world));
        assert!(
            back.is_some(),
            "seed {seed}: not back\n{story:#?}\n{:#?}\n{:#?}",
            world.list(CLIENT),
            world.list(SERVER)
        );
        for at in [CLIENT, SERVER] {
            let mut once = world.received(at).to_vec();
            once.sort_unstable();
            once.dedup();
            assert_eq!(
                once.len(),
                world.received(at).len(),
                "seed {seed}: one came twice"
            );
        }
        // What IKE still asks of dead peers runs out.
        world.data_every = [None; 2];
        world.run(secs(420));
        // Between two rekeys, with the old epoch gone.
        let settled = (0..600).any(|_| {
            world.run(ms(500));
            let [client, server] = [CLIENT, SERVER].map(|at| world.tunnel(at).epochs);
            let between = |e: &EpochView| e.age_ms > 5_000 && e.rekey_in_ms > Some(1_000);
            client.len() == 1 && server.len() == 1 && between(&client[0])
        });
        assert!(
            settled,
            "seed {seed}: not quiet\n{story:#?}\n{:#?}",
            world.tunnel(CLIENT)
        );
        world.assert_agreed(1);
    }
}
