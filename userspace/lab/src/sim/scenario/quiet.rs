//! A tunnel that nobody uses: what it costs, and when it notices that it is cut.

use std::time::Duration;

use super::cases::{Longest, encaps};
use super::{Outage, Scenario, Stage};
use crate::nat::Model;
use crate::sim::passing::settle;
use crate::sim::setup::{Plan, Site};
use crate::sim::world::Violation;

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "quiet",
    about: "hours without data: at most a packet in ten seconds, all that both hosts send counted; a cut is noticed in time",
    seeds: 50,
    tested: 1,
    run: quiet,
}];

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Until pings have become as rare as they get.
const SETTLING: Duration = Duration::from_secs(120);
/// Packets in a second, of both hosts, IKE's and the NAT's keepalives included.
const MOST: f64 = 0.1;

fn quiet(stage: &mut Stage) -> Result<(), Violation> {
    let nats: Vec<_> = Model::ALL.into_iter().map(Some).chain([None]).collect();
    let nat = stage.pick(&nats);
    let encap = stage.pick(&encaps(nat, 1));
    let plan = Plan {
        seed: stage.seed,
        encap,
        ..Plan::default()
    };
    stage.world.announced.push("reason=peer does not answer");
    let link = stage.quiet_link();
    let site = Site::build(&mut stage.world, &plan, 1, nat, link);
    stage.up(&site, 10 * SECOND)?;
    stage.world.run(SETTLING)?;
    let before = stage.world.packets;
    let length = stage.ms(2 * 3_600_000, 5 * 3_600_000);
    stage.world.run(length)?;
    let sent = stage.world.packets - before;
    let rate = sent as f64 / length.as_secs_f64();
    if rate > MOST {
        let what = format!(
            "{sent} packets in {:.1} quiet hours, {rate:.3} a second ({nat:?}, {encap:?})",
            length.as_secs_f64() / HOUR.as_secs_f64()
        );
        stage.world.fail(what);
        return stage.world.verdict();
    }
    notices(stage, &site)?;
    settle(&mut stage.world, &site)
}

/// Both directions are cut; until the client has lost a ping.
fn notices(stage: &mut Stage, site: &Site) -> Result<(), Violation> {
    let link = stage.world.link(site.gateway);
    (link.cut_up, link.cut_down) = (true, true);
    let longest = Longest::default();
    let bound = longest.between_idle_pings() + longest.series(1);
    let client = site.clients[0];
    let lost = stage.world.tunnel(client).gate.pings_lost;
    let grain = Duration::from_millis(50);
    let length = stage
        .world
        .run_until("noticed", bound + 60 * SECOND, grain, |world| {
            world.tunnel(client).gate.pings_lost > lost
        })?;
    stage.outage = Some(Outage {
        length: Some(length),
        bound: Some(bound),
    });
    if length > bound + grain {
        let what = format!(
            "the cut is noticed after {:.2} s, more than {:.2} s",
            length.as_secs_f64(),
            bound.as_secs_f64()
        );
        stage.world.fail(what);
    }
    stage.world.verdict()
}
