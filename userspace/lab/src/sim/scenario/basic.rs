//! Coming up, with one and with many.

use std::time::Duration;

use super::{Scenario, Stage};
use crate::sim::passing::{all_arrived, settle};
use crate::sim::setup::Plan;
use crate::sim::world::Violation;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "establish",
        about: "a tunnel comes up and carries early data in order, without loss",
        seeds: 200,
        tested: 12,
        run: establish,
    },
    Scenario {
        name: "establish-lossy",
        about: "a tunnel comes up at 20 % loss, with copies and reordering",
        seeds: 500,
        tested: 20,
        run: establish_lossy,
    },
    Scenario {
        name: "children",
        about: "several CHILD_SAs on one IKE SA, with and without loss, each rekeyed",
        seeds: 200,
        tested: 6,
        run: children,
    },
    Scenario {
        name: "many-clients",
        about: "several clients, behind one NAT or none, start at the same time",
        seeds: 100,
        tested: 3,
        run: many_clients,
    },
];

fn establish(stage: &mut Stage) -> Result<(), Violation> {
    let link = stage.quiet_link();
    let site = stage.pair(Plan::default(), link);
    site.traffic(&mut stage.world, Some(stage_ms(10)));
    stage.up(&site, Duration::from_secs(3))?;
    stage.world.run(Duration::from_secs(2))?;
    all_arrived(&mut stage.world, &site)?;
    settle(&mut stage.world, &site)
}

fn establish_lossy(stage: &mut Stage) -> Result<(), Violation> {
    let link = stage.lossy_link();
    let site = stage.pair(Plan::default(), link);
    site.traffic(&mut stage.world, Some(stage_ms(100)));
    let length = stage.ms(500, 15_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)
}

fn children(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        children: u8::try_from(2 + stage.below(4)).unwrap_or(2),
        rekey_time: stage.ms(15_000, 40_000),
        ..Plan::default()
    };
    let link = if stage.one_in(2) {
        stage.quiet_link()
    } else {
        stage.lossy_link()
    };
    let site = stage.pair(plan, link);
    site.traffic(&mut stage.world, Some(stage_ms(200)));
    let length = stage.ms(20_000, 60_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)
}

fn many_clients(stage: &mut Stage) -> Result<(), Violation> {
    let clients = 2 + stage.below(7);
    let link = if stage.one_in(2) {
        stage.quiet_link()
    } else {
        stage.lossy_link()
    };
    let clients = usize::try_from(clients).unwrap_or(2);
    let site = stage.clients(Plan::default(), clients, link);
    site.traffic(&mut stage.world, Some(stage_ms(200)));
    let length = stage.ms(2_000, 15_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)
}

const fn stage_ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
