//! Rekeys, alone and at the same moment.

use std::time::Duration;

use super::{Scenario, Stage};
use crate::sim::passing::{all_arrived, settle};
use crate::sim::setup::Plan;
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
