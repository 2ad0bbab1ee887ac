//! What breaks: processes, the network, boxes in it; alone and on top of each other.

use std::net::Ipv4Addr;
use std::time::Duration;

use mitregate_control::{Command, EncapMode};

use super::{Scenario, Stage};
use crate::nat::Remap;
use crate::sim::passing::settle;
use crate::sim::setup::{Plan, Site};
use crate::sim::world::Violation;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "restart",
        about: "client or gateway dies without a word and starts again",
        seeds: 300,
        tested: 10,
        run: restart,
    },
    Scenario {
        name: "outage",
        about: "the network is cut, one way or both, for seconds to minutes",
        seeds: 300,
        tested: 10,
        run: outage,
    },
    Scenario {
        name: "nat-crash",
        about: "the NAT forgets everything, or gets another address",
        seeds: 300,
        tested: 10,
        run: nat_crash,
    },
    Scenario {
        name: "move",
        about: "the client gets other addresses, behind the NAT or in front of it (RFC 4555)",
        seeds: 300,
        tested: 8,
        run: moves,
    },
    Scenario {
        name: "chaos",
        about: "all of these, with terminate and loss, on top of each other",
        seeds: 500,
        tested: 12,
        run: chaos,
    },
];

/// What a host may say about a peer that is not there.
const ABSENT: [&str; 1] = ["reason=peer does not answer"];
const SECOND: Duration = Duration::from_secs(1);

/// A pair that has been up for a while, with traffic.
fn running(stage: &mut Stage, plan: Plan) -> Result<Site, Violation> {
    let link = stage.quiet_link();
    stage.world.announced.extend(ABSENT);
    let site = stage.pair(plan, link);
    stage.up(&site, 3 * SECOND)?;
    let every = stage.ms(50, 1000);
    site.traffic(&mut stage.world, Some(every));
    let length = stage.ms(100, 6_000);
    stage.world.run(length)?;
    Ok(site)
}

fn restart(stage: &mut Stage) -> Result<(), Violation> {
    let site = running(stage, Plan::default())?;
    for _ in 0..=stage.below(3) {
        let at = stage.pick(&[site.clients[0], site.gateway]);
        stage.world.kill(at);
        let away = stage.ms(1, 20_000);
        stage.world.run(away)?;
        stage.world.start(at);
        let length = stage.ms(10, 10_000);
        stage.world.run(length)?;
    }
    settle(&mut stage.world, &site)
}

fn outage(stage: &mut Stage) -> Result<(), Violation> {
    let site = running(stage, Plan::default())?;
    for _ in 0..=stage.below(3) {
        let (up, down) = stage.pick(&[(true, false), (false, true), (true, true)]);
        let link = stage.world.link(site.gateway);
        (link.cut_up, link.cut_down) = (up, down);
        let most = stage.pick(&[1_000, 5_000, 20_000, 120_000]);
        let away = stage.ms(10, most);
        stage.world.run(away)?;
        stage.world.link(site.gateway).heal();
        let length = stage.ms(10, 10_000);
        stage.world.run(length)?;
    }
    settle(&mut stage.world, &site)
}

fn crash_or_remap(stage: &mut Stage, nat: usize) {
    if stage.one_in(2) {
        stage.world.crash_box(nat);
    } else {
        let last = u8::try_from(8 + stage.below(200)).unwrap_or(8);
        stage
            .world
            .remap_box(nat, &Remap::address([203, 0, 113, last]));
    }
}

fn nat_crash(stage: &mut Stage) -> Result<(), Violation> {
    let site = running(stage, Plan::default())?;
    for _ in 0..=stage.below(3) {
        if let Some(nat) = site.nat {
            crash_or_remap(stage, nat);
        }
        let length = stage.ms(10, 15_000);
        stage.world.run(length)?;
    }
    settle(&mut stage.world, &site)
}

fn chaos(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        rekey_time: stage.ms(10_000, 60_000),
        ..Plan::default()
    };
    stage.world.announced.push("expired before it was replaced");
    let site = running(stage, plan)?;
    for _ in 0..12 {
        fault(stage, &site);
        stage.world.verdict()?;
        let length = stage.ms(0, 8_000);
        stage.world.run(length)?;
    }
    settle(&mut stage.world, &site)
}

fn fault(stage: &mut Stage, site: &Site) {
    let client = site.clients[0];
    let at = stage.pick(&[client, site.gateway]);
    match stage.below(9) {
        0 if stage.world.is_running(at) => stage.world.kill(at),
        0 => stage.world.start(at),
        1 if stage.world.is_running(at) => {
            stage.world.kill(at);
            stage.world.start(at);
        }
        2 => {
            let link = stage.world.link(site.gateway);
            link.cut_up = !link.cut_up;
        }
        3 => {
            let link = stage.world.link(site.gateway);
            link.cut_down = !link.cut_down;
        }
        4 => {
            if let Some(nat) = site.nat {
                crash_or_remap(stage, nat);
            }
        }
        5 => {
            let loss = u32::try_from(stage.below(500)).unwrap_or(0);
            let duplicate = u32::try_from(stage.below(100)).unwrap_or(0);
            let link = stage.world.link(site.gateway);
            (link.loss, link.duplicate) = (loss, duplicate);
        }
        6 => {
            let connection = "home".to_owned();
            stage
                .world
                .command(at, Command::TerminateIke { connection });
            initiate(stage, client);
        }
        7 => {
            let child = "net".to_owned();
            stage
                .world
                .command(client, Command::TerminateChild { child });
            initiate(stage, client);
        }
        _ => {
            stage.world.command(at, Command::PathChanged);
        }
    }
}

fn initiate(stage: &mut Stage, client: usize) {
    let child = "net".to_owned();
    stage.world.command(client, Command::Initiate { child });
}

fn moves(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        mobike: !stage.one_in(4),
        ..Plan::default()
    };
    let site = running(stage, plan)?;
    let lossy = stage.one_in(2);
    if lossy {
        let link = stage.world.link(site.gateway);
        (link.loss, link.duplicate) = (100, 50);
    }
    for _ in 0..=stage.below(3) {
        let last = u8::try_from(10 + stage.below(200)).unwrap_or(10);
        // To conntrack-generic, plain ESP from another inside address is a second client's, and does not
        // pass for ten minutes.
        let behind = site.nat.filter(|_| site.encap != EncapMode::Esp);
        let behind = behind.filter(|_| !stage.one_in(2));
        let address = match behind {
            Some(_) => Ipv4Addr::new(192, 168, 1, last),
            None => Ipv4Addr::new(203, 0, 113, last),
        };
        stage.world.move_host(site.clients[0], address, behind);
        let length = stage.ms(10, 15_000);
        stage.world.run(length)?;
    }
    settle(&mut stage.world, &site)
}
