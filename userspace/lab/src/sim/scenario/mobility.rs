//! Addresses that change, and mappings.

use std::net::Ipv4Addr;
use std::time::Duration;

use mitregate_control::EncapMode;

use super::{Scenario, Stage};
use crate::nat::{ConntrackGeneric, Model};
use crate::sim::passing::{TRAFFIC, settle};
use crate::sim::setup::{Plan, Site};
use crate::sim::world::{Violation, World};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "roam",
        about: "the client's address changes again and again, with and without MOBIKE",
        seeds: 300,
        tested: 10,
        run: roam,
    },
    Scenario {
        name: "roam-loss",
        about: "the same with loss, rekeys and NATs that forget",
        seeds: 300,
        tested: 10,
        run: roam_loss,
    },
    Scenario {
        name: "roam-esp",
        about: "plain ESP from a new address through conntrack-generic, whose entry has to expire first",
        seeds: 20,
        tested: 1,
        run: roam_esp,
    },
];

const SECOND: Duration = Duration::from_secs(1);

fn plan(stage: &mut Stage) -> Plan {
    Plan {
        seed: stage.seed,
        mobike: !stage.one_in(4),
        ike_rekey_time: if stage.one_in(2) {
            stage.ms(2_000, 20_000)
        } else {
            Duration::ZERO
        },
        ..Plan::default()
    }
}

fn running(stage: &mut Stage, plan: &Plan) -> Result<Site, Violation> {
    let link = stage.quiet_link();
    stage
        .world
        .announced
        .extend(["reason=peer does not answer"]);
    // Behind a NAT in UDP only: see `roam_esp`.
    let nat = stage.pick(&[
        None,
        Some(Model::ConntrackGeneric),
        Some(Model::UdpSymmetric),
    ]);
    let site = Site::build(&mut stage.world, plan, 1, nat, link);
    stage.up(&site, 3 * SECOND)?;
    let every = stage.ms(50, 1000);
    site.traffic(&mut stage.world, Some(every));
    Ok(site)
}

/// Another address in the client's network.
fn move_client(stage: &mut Stage, site: &Site) {
    let client = site.clients[0];
    let [a, b, c, _] = stage.world.address(client).octets();
    let last = u8::try_from(20 + stage.below(200)).unwrap_or(20);
    let address = Ipv4Addr::new(a, b, c, last);
    stage.world.move_host(client, address, site.nat);
}

fn roam(stage: &mut Stage) -> Result<(), Violation> {
    let plan = plan(stage);
    let site = running(stage, &plan)?;
    for _ in 0..=stage.below(5) {
        move_client(stage, &site);
        // Often before the last move has been answered.
        let most = stage.pick(&[50, 1_000, 20_000]);
        let length = stage.ms(0, most);
        stage.world.run(length)?;
    }
    settle(&mut stage.world, &site)
}

/// conntrack-generic knows ESP by its two addresses alone: until the entry of the client's former address has
/// expired, its packets from another one are a second client's, and dropped, with MOBIKE and without. What
/// the gateway sends keeps that entry alive, so here it sends nothing. Then the client comes back at last.
fn roam_esp(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        encap: EncapMode::Esp,
        ..plan(stage)
    };
    let link = stage.quiet_link();
    let announced = &mut stage.world.announced;
    announced.extend(["reason=peer does not answer"]);
    let nat = Some(Model::ConntrackGeneric);
    let site = Site::build(&mut stage.world, &plan, 1, nat, link);
    stage.up(&site, 3 * SECOND)?;
    let there = site.flows[0][0];
    stage.world.flows[there].every = Some(stage.ms(500, 2000));
    stage.world.run(5 * SECOND)?;
    move_client(stage, &site);
    stage.world.run(2 * SECOND)?;
    let stuck = stage.world.flows[there].received.len();
    let limit = ConntrackGeneric::GENERIC + TRAFFIC;
    let came = |world: &mut World| world.flows[there].received.len() > stuck;
    stage.world.run_until("heard again", limit, SECOND, came)?;
    settle(&mut stage.world, &site)
}

fn roam_loss(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        rekey_time: stage.ms(10_000, 60_000),
        ..plan(stage)
    };
    stage.world.announced.push("expired before it was replaced");
    let site = running(stage, &plan)?;
    let loss = u32::try_from(stage.below(300)).unwrap_or(0);
    stage.world.link(site.gateway).loss = loss;
    for _ in 0..=stage.below(8) {
        if let Some(nat) = site.nat
            && stage.one_in(3)
        {
            stage.world.crash_box(nat);
        } else {
            move_client(stage, &site);
        }
        let length = stage.ms(0, 15_000);
        stage.world.run(length)?;
    }
    settle(&mut stage.world, &site)
}
