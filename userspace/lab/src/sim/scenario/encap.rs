//! Encapsulation by proof: protocol 50 that passes, does not, or no longer does.

use std::time::Duration;

use mitregate_control::{ControlEvent, EncapChange, EncapMode};

use super::{Scenario, Stage};
use crate::nat::Model;
use crate::sim::passing::{all_arrived, settle};
use crate::sim::setup::{Plan, Site};
use crate::sim::world::Violation;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "encap-blocked",
        about: "without a NAT, protocol 50 is dropped from the start, one way or both: the tunnel comes up in UDP, and takes plain ESP when that passes",
        seeds: 200,
        tested: 3,
        run: blocked,
    },
    Scenario {
        name: "encap-dark",
        about: "protocol 50 is dropped in the middle of the flow, one way or both, with and without a NAT: back to UDP within a ping's time-out",
        seeds: 300,
        tested: 4,
        run: dark,
    },
    Scenario {
        name: "encap-nat",
        about: "one or two clients behind a NAT that passes ESP prove plain ESP, lose nothing by it, and keep the tunnel over rekeys and moves",
        seeds: 200,
        tested: 4,
        run: behind_nat,
    },
    Scenario {
        name: "encap-mixed",
        about: "client and gateway with different words for encap, at some loss: both end up with something that works",
        seeds: 300,
        tested: 4,
        run: mixed,
    },
];

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// How an end's active epoch travels.
fn encap(stage: &Stage, host: usize) -> &'static str {
    let tunnel = stage.world.tunnel(host);
    let active = tunnel.epochs.iter().find(|epoch| epoch.active);
    active.map_or("", |epoch| epoch.encap)
}

fn expect(stage: &mut Stage, host: usize, expected: &str) -> Result<(), Violation> {
    let found = encap(stage, host);
    if found != expected {
        let name = stage.world.name(host).to_owned();
        let tunnel = stage.world.tunnel(host);
        stage.world.fail(format!(
            "{name} sends by {found:?}, not {expected}: {:?}",
            tunnel.encap
        ));
    }
    stage.world.verdict()
}

fn until(
    stage: &mut Stage,
    site: &Site,
    expected: &str,
    limit: Duration,
) -> Result<Duration, Violation> {
    let ends = [site.clients[0], site.gateway];
    let there = |world: &mut crate::sim::world::World| {
        ends.iter().all(|host| {
            let tunnel = world.tunnel(*host);
            let mut epochs = tunnel.epochs.iter();
            epochs.any(|epoch| epoch.active && epoch.encap == expected)
        })
    };
    stage.world.run_until(expected, limit, 10 * MS, there)
}

fn changes(stage: &Stage, host: usize, why: EncapChange) -> usize {
    let events = stage.world.host(host).events.iter();
    events
        .filter(
            |(_, event)| matches!(event, ControlEvent::EncapChanged { why: w, .. } if *w == why),
        )
        .count()
}

/// Towards the gateway, from it, or both.
fn direction(stage: &mut Stage) -> [bool; 2] {
    stage.pick(&[[true, false], [false, true], [true, true]])
}

fn blocked(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        seed: stage.seed,
        mobike: !stage.one_in(3),
        rekey_time: stage.ms(20_000, 40_000),
        ..Plan::default()
    };
    let mut link = stage.quiet_link();
    // Downwards is towards the gateway.
    let [there, back] = direction(stage);
    link.no_esp = [back, there];
    let site = Site::build(&mut stage.world, &plan, 1, None, link);
    site.traffic(&mut stage.world, Some(20 * MS));
    stage.up(&site, 3 * SECOND)?;
    // Rekeys included: they know where to begin.
    let length = stage.ms(5_000, 60_000);
    stage.world.run(length)?;
    if there {
        expect(stage, site.clients[0], "udp")?;
    }
    if back {
        expect(stage, site.gateway, "udp")?;
    }
    all_arrived(&mut stage.world, &site)?;
    stage.world.link(site.gateway).no_esp = [false; 2];
    site.traffic(&mut stage.world, Some(20 * MS));
    until(stage, &site, "esp", 400 * SECOND)?;
    stage.world.run(20 * SECOND)?;
    all_arrived(&mut stage.world, &site)?;
    settle(&mut stage.world, &site)?;
    expect(stage, site.clients[0], "esp")
}

/// From the first lost packet on: data that nothing answers for 0.75 s, or a second of silence; a tick of
/// 0.25 s; a ping's time-out with its jitter; a round trip. Where only the client's own packets are lost
/// and the gateway's go on arriving, it looks every ten seconds.
const NOTICED: Duration = Duration::from_millis(2_000);
const NOTICED_ONE_WAY: Duration = Duration::from_millis(12_500);

fn dark(stage: &mut Stage) -> Result<(), Violation> {
    let nat = stage.pick(&[None, Some(Model::ConntrackGeneric)]);
    let plan = Plan {
        seed: stage.seed,
        probe_behind_nat: true,
        ..Plan::default()
    };
    let link = stage.quiet_link();
    let site = Site::build(&mut stage.world, &plan, 1, nat, link);
    stage.up(&site, 3 * SECOND)?;
    let every = stage.ms(20, 500);
    site.traffic(&mut stage.world, Some(every));
    until(stage, &site, "esp", 10 * SECOND)?;
    let length = stage.ms(1_000, 30_000);
    stage.world.run(length)?;
    let [there, back] = direction(stage);
    stage.world.link(site.gateway).no_esp = [back, there];
    let before: Vec<_> = received(stage, &site);
    let start = stage.world.now;
    let limit = if back { NOTICED } else { NOTICED_ONE_WAY };
    let dark = until(stage, &site, "udp", limit);
    dark?;
    // What was sent from now on arrives, each way.
    stage.world.run(SECOND)?;
    let after = received(stage, &site);
    if before.iter().zip(&after).any(|(a, b)| a == b) {
        stage.world.fail("no traffic after the change".to_owned());
    }
    let noticed = stage.world.now - start;
    if changes(stage, site.clients[0], EncapChange::PingLost) == 0 {
        stage
            .world
            .fail(format!("no change told within {noticed:?}"));
    }
    let recoveries = stage.world.tunnel(site.clients[0]).gate.recoveries;
    if (recoveries.encap, recoveries.rekey, recoveries.new_ike) != (1, 0, 0) {
        stage
            .world
            .fail(format!("another recovery: {recoveries:?}"));
    }
    let length = stage.ms(1_000, 90_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)?;
    stage.world.link(site.gateway).no_esp = [false; 2];
    site.traffic(&mut stage.world, Some(every));
    // The wait has doubled with each question since.
    until(stage, &site, "esp", 1_500 * SECOND)?;
    settle(&mut stage.world, &site)
}

fn received(stage: &Stage, site: &Site) -> Vec<usize> {
    let flows = site.flows.iter().flatten();
    flows
        .map(|at| stage.world.flows[*at].received.len())
        .collect()
}

fn behind_nat(stage: &mut Stage) -> Result<(), Violation> {
    let clients = usize::try_from(1 + stage.below(2)).unwrap_or(1);
    let plan = Plan {
        seed: stage.seed,
        probe_behind_nat: true,
        rekey_time: stage.ms(15_000, 60_000),
        ..Plan::default()
    };
    let link = stage.quiet_link();
    let nat = stage.pick(&[
        Model::ConntrackGeneric,
        Model::VpnMasquerade,
        Model::Cpe8Entries,
        Model::OldestIncomplete,
        Model::HoldUntilReply,
    ]);
    let site = Site::build(&mut stage.world, &plan, clients, Some(nat), link);
    site.traffic(&mut stage.world, Some(20 * MS));
    stage.up(&site, 5 * SECOND)?;
    stage.world.run(20 * SECOND)?;
    // One of them has room for one by plain ESP; the other's question is dropped, and its tunnel untouched.
    let by_esp = site
        .clients
        .iter()
        .filter(|at| encap(stage, **at) == "esp")
        .count();
    let fits = match nat {
        Model::ConntrackGeneric => by_esp == 1,
        _ => by_esp > 0,
    };
    if !fits {
        stage
            .world
            .fail(format!("{by_esp} of {clients} clients by plain ESP"));
    }
    let length = stage.ms(1_000, 120_000);
    stage.world.run(length)?;
    all_arrived(&mut stage.world, &site)?;
    site.traffic(&mut stage.world, Some(100 * MS));
    // What this NAT never forgives plain ESP: another inside address.
    let mover = site.clients[0];
    let address = std::net::Ipv4Addr::new(192, 168, 1, 77);
    stage.world.move_host(mover, address, site.nat);
    stage.world.run(3 * SECOND)?;
    let flow = site.flows[0];
    let before = flow.map(|at| stage.world.flows[at].received.len());
    stage.world.run(SECOND)?;
    let after = flow.map(|at| stage.world.flows[at].received.len());
    if before.iter().zip(&after).any(|(a, b)| b < &(a + 8)) {
        stage
            .world
            .fail("the move was not followed in UDP".to_owned());
    }
    if let Some(nat) = site.nat
        && stage.one_in(2)
    {
        stage.world.crash_box(nat);
    }
    let length = stage.ms(1_000, 20_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)
}

fn mixed(stage: &mut Stage) -> Result<(), Violation> {
    use EncapMode::{Auto, Esp, Udp};
    let nat = stage.pick(&[
        None,
        Some(Model::ConntrackGeneric),
        Some(Model::UdpSymmetric),
    ]);
    let mut ours = stage.pick(&[Auto, Esp, Udp]);
    let theirs = stage.pick(&[Auto, Esp, Udp]);
    // Plain ESP that both have agreed on does not cross that one.
    if nat == Some(Model::UdpSymmetric) && ours == Esp && theirs != Udp {
        ours = Auto;
    }
    let plan = Plan {
        seed: stage.seed,
        encap: ours,
        gateway_encap: Some(theirs),
        probe_behind_nat: stage.one_in(2),
        mobike: !stage.one_in(3),
        ..Plan::default()
    };
    let mut link = if stage.one_in(2) {
        stage.quiet_link()
    } else {
        stage.lossy_link()
    };
    let strict = ours == Esp && theirs != Udp;
    let drops = stage.one_in(2) && !strict;
    if drops {
        let [there, back] = direction(stage);
        link.no_esp = [back, there];
    }
    let site = Site::build(&mut stage.world, &plan, 1, nat, link);
    site.traffic(&mut stage.world, Some(200 * MS));
    let length = stage.ms(5_000, 60_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)?;
    for host in [site.clients[0], site.gateway] {
        if ours == Udp || theirs == Udp {
            expect(stage, host, "udp")?;
        } else if strict {
            expect(stage, host, "esp")?;
        }
    }
    Ok(())
}
