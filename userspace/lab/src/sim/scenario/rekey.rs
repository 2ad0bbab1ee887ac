//! Rekeys, alone and at the same moment.

use std::time::Duration;

use mitregate_control::{Command, PeerRekey};

use super::{Scenario, Stage};
use crate::sim::passing::{all_arrived, settle};
use crate::sim::setup::{Plan, Site};
use crate::sim::world::Violation;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "rekey-child-fifo",
        about: "the client rekeys on a FIFO path without loss: no packet is lost or overtaken (I5)",
        seeds: 200,
        tested: 8,
        run: child_fifo,
    },
    Scenario {
        name: "rekey-child",
        about: "the client rekeys again and again at 20 % loss, with copies and reordering",
        seeds: 1000,
        tested: 15,
        run: child,
    },
    Scenario {
        name: "rekey-ike",
        about: "the client rekeys the IKE SA again and again at 20 % loss, with copies and reordering",
        seeds: 1000,
        tested: 10,
        run: ike,
    },
    Scenario {
        name: "rekey-server",
        about: "the gateway starts rekeys, of CHILD and IKE SAs, at 20 % loss",
        seeds: 1000,
        tested: 10,
        run: server,
    },
    Scenario {
        name: "collide-child",
        about: "both ends rekey the CHILD_SA at about the same moment (RFC 7296 §2.8.1)",
        seeds: 1000,
        tested: 10,
        run: collide_child,
    },
    Scenario {
        name: "collide-ike",
        about: "both ends rekey the IKE SA at about the same moment (RFC 7296 §2.8.2)",
        seeds: 1000,
        tested: 10,
        run: collide_ike,
    },
    Scenario {
        name: "collide-mixed",
        about: "rekeys of CHILD and IKE SAs and deletes, from both ends, cross (RFC 7296 §2.25)",
        seeds: 1000,
        tested: 15,
        run: collide_mixed,
    },
    Scenario {
        name: "lifetimes",
        about: "packets and bytes, not time, bring the rekeys",
        seeds: 200,
        tested: 6,
        run: lifetimes,
    },
    Scenario {
        name: "reauth",
        about: "the client replaces its IKE SA by a new one, make before break, at 20 % loss",
        seeds: 300,
        tested: 8,
        run: reauth,
    },
];

fn child_fifo(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        rekey_time: stage.ms(3_000, 8_000),
        ..Plan::default()
    };
    let link = stage.quiet_link();
    let site = stage.pair(plan, link);
    stage.up(&site, Duration::from_secs(3))?;
    let every = stage.ms(2, 30);
    site.traffic(&mut stage.world, Some(every));
    stage.world.run(Duration::from_secs(20))?;
    let rekeys = stage.world.tunnel(site.clients[0]).gate.rekeys;
    if rekeys < 2 {
        stage.world.fail(format!("only {rekeys} rekeys"));
    }
    all_arrived(&mut stage.world, &site)?;
    settle(&mut stage.world, &site)
}

fn child(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        rekey_time: stage.ms(4_000, 12_000),
        ..Plan::default()
    };
    let link = stage.lossy_link();
    let site = stage.pair(plan, link);
    site.traffic(&mut stage.world, Some(Duration::from_millis(250)));
    let length = stage.ms(10_000, 30_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)
}

fn lifetimes(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        rekey_packets: if stage.one_in(2) { 100 } else { u64::MAX },
        rekey_bytes: 8_000,
        ..Plan::default()
    };
    let link = if stage.one_in(2) {
        stage.quiet_link()
    } else {
        // Half a second of traffic is between the soft limit and the hard one.
        stage.world.announced.push("expired before it was replaced");
        stage.lossy_link()
    };
    let site = stage.pair(plan, link);
    stage.up(&site, Duration::from_secs(120))?;
    site.traffic(&mut stage.world, Some(Duration::from_millis(50)));
    stage.world.run(Duration::from_secs(30))?;
    let rekeys = stage.world.tunnel(site.clients[0]).gate.rekeys;
    if rekeys < 2 {
        stage.world.fail(format!("only {rekeys} rekeys"));
    }
    settle(&mut stage.world, &site)
}

fn reauth(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        reauth_time: stage.ms(20_000, 40_000),
        ..Plan::default()
    };
    let link = stage.lossy_link();
    let site = stage.pair(plan, link);
    site.traffic(&mut stage.world, Some(Duration::from_millis(250)));
    let length = stage.ms(25_000, 60_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)
}

fn ike(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        ike_rekey_time: stage.ms(4_000, 12_000),
        rekey_time: if stage.one_in(2) {
            stage.ms(6_000, 15_000)
        } else {
            Duration::from_secs(3600)
        },
        ..Plan::default()
    };
    let link = stage.lossy_link();
    let site = stage.pair(plan, link);
    site.traffic(&mut stage.world, Some(Duration::from_millis(250)));
    let length = stage.ms(10_000, 30_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)
}

/// What an operator may do at either end.
#[derive(Clone, Copy)]
enum Trigger {
    Child,
    Ike,
    DeleteChild,
    DeleteIke,
}

fn pull(stage: &mut Stage, at: usize, client: usize, trigger: Trigger) {
    let (child, connection) = ("net".to_owned(), "home".to_owned());
    let world = &mut stage.world;
    match trigger {
        Trigger::Child => world.command(at, Command::RekeyChild { child }),
        Trigger::Ike => world.command(at, Command::RekeyIke { connection }),
        Trigger::DeleteChild => world.command(at, Command::TerminateChild { child }),
        Trigger::DeleteIke => world.command(at, Command::TerminateIke { connection }),
    };
    if matches!(trigger, Trigger::DeleteChild | Trigger::DeleteIke) {
        let child = "net".to_owned();
        world.command(client, Command::Initiate { child });
    }
}

/// A pair with traffic that has come up, on a link that loses a fifth from then on in three of four seeds.
fn collision_site(stage: &mut Stage) -> Result<Site, Violation> {
    let quiet = stage.quiet_link();
    let mut lossy = stage.lossy_link();
    lossy.latency = quiet.latency;
    let plan = Plan {
        peer_rekey: match stage.below(4) {
            0 => PeerRekey::Refuse(1),
            1 => PeerRekey::Refuse(3),
            _ => PeerRekey::Accept,
        },
        ..Plan::default()
    };
    let site = stage.pair(plan, quiet);
    site.traffic(&mut stage.world, Some(Duration::from_millis(200)));
    stage.up(&site, Duration::from_secs(3))?;
    if !stage.one_in(4) {
        *stage.world.link(site.gateway) = lossy;
    }
    let length = stage.ms(0, 3_000);
    stage.world.run(length)?;
    Ok(site)
}

/// From no time at all to a few round trips.
fn closely(stage: &mut Stage) -> Duration {
    if stage.one_in(4) {
        Duration::ZERO
    } else {
        stage.ms(0, 250)
    }
}

fn collide(
    stage: &mut Stage,
    rounds: u64,
    mut choose: impl FnMut(&mut Stage) -> Trigger,
) -> Result<(), Violation> {
    let site = collision_site(stage)?;
    let client = site.clients[0];
    for _ in 0..rounds {
        let mut ends = [client, site.gateway];
        if stage.one_in(2) {
            ends.reverse();
        }
        for at in ends {
            let trigger = choose(stage);
            pull(stage, at, client, trigger);
            let wait = closely(stage);
            stage.world.run(wait)?;
        }
        let wait = stage.ms(0, 6_000);
        stage.world.run(wait)?;
    }
    settle(&mut stage.world, &site)
}

fn collide_child(stage: &mut Stage) -> Result<(), Violation> {
    collide(stage, 3, |_| Trigger::Child)
}

fn collide_ike(stage: &mut Stage) -> Result<(), Violation> {
    collide(stage, 3, |_| Trigger::Ike)
}

fn collide_mixed(stage: &mut Stage) -> Result<(), Violation> {
    collide(stage, 4, |stage| {
        stage.pick(&[
            Trigger::Child,
            Trigger::Child,
            Trigger::Ike,
            Trigger::Ike,
            Trigger::DeleteChild,
            Trigger::DeleteIke,
        ])
    })
}

fn server(stage: &mut Stage) -> Result<(), Violation> {
    let site = collision_site(stage)?;
    let client = site.clients[0];
    for _ in 0..4 {
        let trigger = stage.pick(&[Trigger::Child, Trigger::Ike]);
        pull(stage, site.gateway, client, trigger);
        let wait = stage.ms(0, 6_000);
        stage.world.run(wait)?;
    }
    settle(&mut stage.world, &site)
}
