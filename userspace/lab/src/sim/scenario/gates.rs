//! Gates that do not ask by ESP Echo.

use std::time::Duration;

use mitregate_control::{EncapMode, GateMode};

use super::{Scenario, Stage};
use crate::sim::passing::{all_arrived, settle};
use crate::sim::setup::{Plan, Site};
use crate::sim::world::Violation;

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "gate-off",
    about: "one end or both without a gate, rekeyed by either: what a plain IKEv2 daemon does (RFC 7296 §2.8)",
    seeds: 200,
    tested: 6,
    run: off,
}];

const SECOND: Duration = Duration::from_secs(1);

fn off(stage: &mut Stage) -> Result<(), Violation> {
    let gate = stage.pick(&[
        [GateMode::Off, GateMode::Off],
        [GateMode::Off, GateMode::Echo],
        [GateMode::Echo, GateMode::Off],
    ]);
    let plan = Plan {
        gate,
        rekey_time: stage.ms(4_000, 8_000),
        encap: stage.pick(&[EncapMode::Auto, EncapMode::Udp]),
        seed: stage.seed,
        ..Plan::default()
    };
    let announced = &mut stage.world.announced;
    announced.extend(["data flows on an unproven path"]);
    let link = stage.quiet_link();
    let site = Site::build(&mut stage.world, &plan, 1, None, link);
    stage.up(&site, 3 * SECOND)?;
    let every = stage.ms(5, 50);
    site.traffic(&mut stage.world, Some(every));
    stage.world.run(30 * SECOND)?;
    for host in [site.clients[0], site.gateway] {
        let tunnel = stage.world.tunnel(host);
        if tunnel.gate.pings_sent + tunnel.gate.echoes_answered > 0 || tunnel.status != "unproven" {
            let name = stage.world.name(host).to_owned();
            stage
                .world
                .fail(format!("{name} asks although a gate is off"));
        }
    }
    let rekeys: u64 = [site.clients[0], site.gateway]
        .map(|host| stage.world.tunnel(host).gate.rekeys)
        .iter()
        .sum();
    if rekeys < 3 {
        stage.world.fail(format!("only {rekeys} rekeys"));
    }
    all_arrived(&mut stage.world, &site)?;
    settle(&mut stage.world, &site)
}
