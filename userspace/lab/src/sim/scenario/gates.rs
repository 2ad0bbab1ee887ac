//! Gates that do not ask by ESP Echo.

use std::time::Duration;

use mitregate_control::{EncapMode, GateMode};

use super::{Scenario, Stage};
use crate::sim::passing::{all_arrived, settle};
use crate::sim::setup::{Plan, Site};
use crate::sim::world::{Violation, World};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "gate-icmp",
        about: "one end or both ask by ICMP: what answers is proven, no rekey loses a packet, others' pings pass untouched",
        seeds: 300,
        tested: 6,
        run: icmp,
    },
    Scenario {
        name: "gate-icmp-faults",
        about: "targets that never answer, or stop to; a path that breaks: found by ICMP where the target had answered",
        seeds: 300,
        tested: 6,
        run: icmp_faults,
    },
    Scenario {
        name: "gate-off",
        about: "one end or both without a gate, rekeyed by either: what a plain IKEv2 daemon does (RFC 7296 §2.8)",
        seeds: 200,
        tested: 6,
        run: off,
    },
];

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
    has_rekeyed(stage, &site);
    all_arrived(&mut stage.world, &site)?;
    settle(&mut stage.world, &site)
}

/// Both ends together have asked for three rekeys at least.
fn has_rekeyed(stage: &mut Stage, site: &Site) {
    let ends = [site.clients[0], site.gateway];
    let asked = ends.map(|host| stage.world.tunnel(host).gate.rekeys);
    let rekeys: u64 = asked.iter().sum();
    if rekeys < 3 {
        stage.world.fail(format!("only {rekeys} rekeys"));
    }
}

/// A plan in which ICMP is what asks.
fn icmp_plan(stage: &mut Stage) -> Plan {
    let gate = stage.pick(&[
        [GateMode::Icmp, GateMode::Icmp],
        [GateMode::Auto, GateMode::Off],
        [GateMode::Auto, GateMode::Icmp],
        [GateMode::Icmp, GateMode::Off],
        [GateMode::Off, GateMode::Auto],
    ]);
    stage
        .world
        .announced
        .extend(["data flows on an unproven path"]);
    Plan {
        gate,
        rekey_time: stage.ms(4_000, 8_000),
        encap: stage.pick(&[EncapMode::Auto, EncapMode::Udp]),
        seed: stage.seed,
        ..Plan::default()
    }
}

fn asks(mode: GateMode) -> bool {
    mode != GateMode::Off
}

fn icmp(stage: &mut Stage) -> Result<(), Violation> {
    let plan = icmp_plan(stage);
    let link = stage.quiet_link();
    let site = Site::build(&mut stage.world, &plan, 1, None, link);
    stage.up(&site, 3 * SECOND)?;
    let every = stage.ms(5, 50);
    // In one direction only, or both.
    let flows = site.flows[0];
    let quiet = stage.below(3);
    site.traffic(&mut stage.world, Some(every));
    if let Some(flow) = usize::try_from(quiet).ok().and_then(|at| flows.get(at)) {
        stage.world.flows[*flow].every = None;
    }
    for seq in 0..30 {
        // Somebody behind the client pings somebody behind the gateway, by the gate's own numbers.
        let id = u16::try_from(stage.below(1 << 16)).unwrap_or(0);
        stage.world.offer_ping(flows[0], id, seq);
        stage.world.run(SECOND)?;
        if !stage.world.pongs.contains(&(site.clients[0], id, seq)) {
            stage
                .world
                .fail(format!("somebody's ping {seq} was not answered"));
        }
    }
    for (host, mode) in [
        (site.clients[0], plan.gate[0]),
        (site.gateway, plan.gate[1]),
    ] {
        let status = if asks(mode) { "proven" } else { "unproven" };
        // Right after a rekey it takes a round trip.
        let (limit, grain) = (2 * SECOND, SECOND / 50);
        let said = |world: &mut World| world.tunnel(host).status == status;
        stage.world.run_until(status, limit, grain, said)?;
        let pings = stage.world.tunnel(host).gate.pings_sent;
        if (pings > 0) != asks(mode) {
            let name = stage.world.name(host).to_owned();
            stage
                .world
                .fail(format!("{name} ({mode:?}) sent {pings} pings"));
        }
    }
    let pongs = stage.world.pongs.len();
    if pongs != 30 {
        stage
            .world
            .fail(format!("{pongs} answers came out of the tunnel"));
    }
    has_rekeyed(stage, &site);
    all_arrived(&mut stage.world, &site)?;
    settle(&mut stage.world, &site)
}

fn icmp_faults(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        rekey_time: 3600 * SECOND,
        gate: stage.pick(&[
            [GateMode::Icmp, GateMode::Off],
            [GateMode::Auto, GateMode::Icmp],
        ]),
        ..icmp_plan(stage)
    };
    let announced = &mut stage.world.announced;
    announced.extend(["reason=peer does not answer"]);
    let link = stage.quiet_link();
    let site = Site::build(&mut stage.world, &plan, 1, None, link);
    let client = site.clients[0];
    let answers_at_first = !stage.one_in(3);
    stage.world.host_mut(site.gateway).answers_pings = answers_at_first;
    stage.up(&site, 3 * SECOND)?;
    site.traffic(&mut stage.world, Some(SECOND / 10));
    let length = stage.ms(3_000, 30_000);
    stage.world.run(length)?;
    let sessions = |stage: &Stage| stage.world.tunnel(client).gate.new_sessions;
    if !answers_at_first {
        // It never answered: nothing is lost by that, and nothing is asked for because of it.
        let tunnel = stage.world.tunnel(client);
        if tunnel.status != "unproven" || tunnel.gate.rekeys + tunnel.gate.new_sessions > 0 {
            stage
                .world
                .fail("a target that never answered was missed".to_owned());
        }
        // And counts from when it does.
        stage.world.host_mut(site.gateway).answers_pings = true;
        site.traffic(&mut stage.world, None);
        stage.world.run(60 * SECOND)?;
    }
    if stage.world.tunnel(client).status != "proven" {
        stage.world.fail("an answer proves nothing".to_owned());
    }
    site.traffic(&mut stage.world, Some(SECOND / 10));
    stage.world.run(SECOND)?;
    if stage.one_in(2) {
        // The target is switched off: bounded tries, then it counts for nothing, and no data was held.
        stage.world.host_mut(site.gateway).answers_pings = false;
        stage.world.run(90 * SECOND)?;
        let tunnel = stage.world.tunnel(client);
        if tunnel.status != "unproven" || tunnel.gate.rekeys + tunnel.gate.new_sessions > 6 {
            stage.world.fail(format!(
                "a target that is gone: {}, {:?}",
                tunnel.status, tunnel.gate
            ));
        }
        all_arrived(&mut stage.world, &site)?;
    } else {
        // The path is gone both ways, and comes back.
        let before = sessions(stage);
        let loss = stage.world.link(client).loss;
        stage.world.link(client).loss = 1000;
        stage.world.run(10 * SECOND)?;
        if sessions(stage) == before {
            stage.world.fail("a dead path was not noticed".to_owned());
        }
        stage.world.link(client).loss = loss;
    }
    settle(&mut stage.world, &site)
}
