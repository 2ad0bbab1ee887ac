//! Many clients behind one NAT, with one gateway.

use std::collections::BTreeMap;
use std::time::Duration;

use mitregate_control::EncapMode;

use super::cases::{Bound, encaps};
use super::{Outage, Scenario, Stage};
use crate::nat::Model;
use crate::sim::link::Link;
use crate::sim::passing::settle;
use crate::sim::setup::{Plan, Site};
use crate::sim::world::Violation;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "crowd",
        about: "2 to 50 clients behind one NAT of any model start together: all are proven in time, none starves",
        seeds: 100,
        tested: 2,
        run: crowd,
    },
    Scenario {
        name: "crowd-50",
        about: "50 of them behind vpn-masquerade, with plain ESP",
        seeds: 20,
        tested: 0,
        run: fifty,
    },
];

const SECOND: Duration = Duration::from_secs(1);
const GRAIN: Duration = Duration::from_millis(50);
/// A client's link takes at most so long, ms: they do not start in step.
const CLIENT_LATENCY: u64 = 20;

fn crowd(stage: &mut Stage) -> Result<(), Violation> {
    let clients = usize::try_from(2 + stage.below(49)).unwrap_or(2);
    let nats: Vec<_> = Model::ALL.into_iter().map(Some).chain([None]).collect();
    let nat = stage.pick(&nats);
    let encap = stage.pick(&encaps(nat, clients));
    start(stage, clients, nat, encap)
}

fn fifty(stage: &mut Stage) -> Result<(), Violation> {
    start(stage, 50, Some(Model::VpnMasquerade), EncapMode::Esp)
}

/// Until each client's tunnel is proven at both ends.
fn start(
    stage: &mut Stage,
    clients: usize,
    nat: Option<Model>,
    encap: EncapMode,
) -> Result<(), Violation> {
    stage.world.announced.push("reason=peer does not answer");
    let plan = Plan {
        seed: stage.seed,
        encap,
        ..Plan::default()
    };
    let latency = stage.ms(1, 60);
    let link = Link {
        latency,
        jitter: stage.ms(0, 5),
        ..Link::default()
    };
    let site = Site::build(&mut stage.world, &plan, clients, nat, link);
    for client in &site.clients {
        let latency = stage.ms(0, CLIENT_LATENCY);
        *stage.world.link(*client) = Link::after(latency);
    }
    let rtt = 2 * (latency + Duration::from_millis(5 + CLIENT_LATENCY));
    let bound = Bound::of_crowd(nat, encap, clients, rtt);
    site.traffic(&mut stage.world, Some(SECOND));
    let begin = stage.world.now;
    let mut waiting: BTreeMap<usize, ()> = site.clients.iter().map(|at| (*at, ())).collect();
    let mut last = Duration::ZERO;
    while !waiting.is_empty() || !stage.world.is_up(site.gateway) {
        stage.world.run(GRAIN)?;
        waiting.retain(|at, ()| !stage.world.is_up(*at));
        last = stage.world.now - begin;
        if last > bound.total() {
            let what = format!(
                "{} of {clients} clients are not proven after {bound} = {:.1} s ({nat:?}, {encap:?})",
                waiting.len(),
                bound.total().as_secs_f64()
            );
            stage.world.fail(what);
            return stage.world.verdict();
        }
    }
    stage.outage = Some(Outage {
        length: Some(last),
        bound: Some(bound.total()),
    });
    settle(&mut stage.world, &site)
}
