//! Long runs: nothing may pile up.

use std::time::Duration;

use super::{Scenario, Stage};
use crate::sim::passing::{agreed, settle};
use crate::sim::setup::Plan;
use crate::sim::world::Violation;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "soak",
        about: "24 hours with a rekey each minute: nothing is left behind",
        seeds: 1,
        tested: 0,
        run: soak_day,
    },
    Scenario {
        name: "soak-short",
        about: "the same for an hour",
        seeds: 4,
        tested: 1,
        run: soak_hour,
    },
];

const MINUTE: Duration = Duration::from_secs(60);

fn soak_day(stage: &mut Stage) -> Result<(), Violation> {
    soak(stage, 24)
}

fn soak_hour(stage: &mut Stage) -> Result<(), Violation> {
    soak(stage, 1)
}

fn soak(stage: &mut Stage, hours: u32) -> Result<(), Violation> {
    let plan = Plan {
        rekey_time: MINUTE,
        reauth_time: 97 * MINUTE,
        ..Plan::default()
    };
    let link = stage.quiet_link();
    let site = stage.pair(plan, link);
    stage.up(&site, Duration::from_secs(3))?;
    site.traffic(&mut stage.world, Some(Duration::from_secs(2)));
    for hour in 1..=hours {
        stage.world.run(60 * MINUTE)?;
        let rekeys = stage.world.tunnel(site.clients[0]).gate.rekeys;
        if rekeys < u64::from(hour) * 55 {
            let what = format!("only {rekeys} rekeys in {hour} hours");
            stage.world.fail(what);
        }
        // Between two rekeys nothing is left of all those before.
        let limit = 2 * MINUTE;
        let grain = Duration::from_millis(500);
        stage
            .world
            .run_until("agreed on one epoch", limit, grain, |world| {
                agreed(world, &site).is_ok()
            })?;
    }
    settle(&mut stage.world, &site)
}
