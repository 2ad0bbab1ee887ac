//! Paths that carry less than the link, and those that change in the middle of a flow.

use std::time::Duration;

use mitregate_control::EncapMode;

use super::{Scenario, Stage};
use crate::nat::Model;
use crate::sim::setup::{Plan, Site};
use crate::sim::world::{Violation, World};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "path-mtu",
    about: "a path too small for the flows on it, one way or both, then smaller and then larger, with and without ICMP and a NAT: each end finds what it carries, the flows go on, and no ping is lost",
    seeds: 200,
    tested: 4,
    run: changes,
}];

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// Bytes of the flows' packets: what the inner link takes.
const LARGE: usize = 1400;

/// What a host has found out, bytes of the outer IP packet.
fn found(world: &World, host: usize) -> Option<(u16, &'static str)> {
    let view = world.tunnel(host).path_mtu?;
    Some((view.outer, view.state))
}

/// Pings of both ends' gates that went unanswered.
fn pings_lost(world: &World, site: &Site) -> u64 {
    let ends = [site.clients[0], site.gateway];
    ends.map(|host| world.tunnel(host).gate.pings_lost)
        .iter()
        .sum()
}

fn received(world: &World, site: &Site) -> [usize; 2] {
    site.flows[0].map(|flow| world.flows[flow].received.len())
}

/// What a path that carries `limit` bytes comes to on this host's active epoch.
fn usable(world: &World, host: usize, limit: Option<usize>) -> u16 {
    let tunnel = world.tunnel(host);
    let udp = tunnel.epochs.iter().any(|e| e.active && e.encap == "udp");
    let most = if udp { 1464 } else { 1456 };
    let fits = limit.map_or(most, |limit| limit.min(most)) / 4 * 4;
    u16::try_from(fits).unwrap_or(u16::MAX)
}

/// The path carries `limits` from the client and from the gateway. Both are to know within `patience`, and
/// the flows to go on.
fn narrow(
    stage: &mut Stage,
    site: &Site,
    limits: [Option<usize>; 2],
    patience: Duration,
) -> Result<(), Violation> {
    let [there, back] = limits;
    // The link is the gateway's: downwards is towards it.
    stage.world.link(site.gateway).narrow = [back, there];
    let ends = [site.clients[0], site.gateway];
    let known = |world: &mut World| {
        let mut ends = ends.iter().zip(limits);
        ends.all(|(host, limit)| {
            let fits = usable(world, *host, limit);
            found(world, *host) == Some((fits, "complete"))
        })
    };
    let what = format!("aware that the path carries {limits:?}");
    site.traffic(&mut stage.world, Some(500 * MS));
    stage.world.run_until(&what, patience, 100 * MS, known)?;
    // Whatever was too large was told so; from then on nothing is lost.
    site.traffic(&mut stage.world, Some(100 * MS));
    stage.world.run(SECOND)?;
    let before = received(&stage.world, site);
    stage.world.run(2 * SECOND)?;
    let after = received(&stage.world, site);
    if before.iter().zip(after).any(|(b, a)| a < b + 19) {
        let what = format!("the flows do not go on: {before:?}, then {after:?}");
        stage.world.fail(what);
    }
    stage.world.verdict()
}

/// Each way some size within these, or no limit.
fn limits(stage: &mut Stage, least: u64, most: u64) -> [Option<usize>; 2] {
    [(); 2].map(|()| {
        let size = stage.ms(least, most).as_millis();
        let whole = stage.one_in(3);
        usize::try_from(size).ok().filter(|_| !whole)
    })
}

fn changes(stage: &mut Stage) -> Result<(), Violation> {
    let nat = stage.pick(&[
        None,
        Some(Model::UdpSymmetric),
        Some(Model::ConntrackGeneric),
        Some(Model::VpnMasquerade),
    ]);
    let encap = match nat {
        Some(Model::UdpSymmetric) => EncapMode::Udp,
        _ => stage.pick(&[EncapMode::Udp, EncapMode::Esp]),
    };
    let plan = Plan {
        seed: stage.seed,
        encap,
        rekey_time: stage.ms(20_000, 60_000),
        ..Plan::default()
    };
    let mut link = stage.quiet_link();
    link.icmp = stage.one_in(2);
    let first = limits(stage, 1200, 1464);
    // No larger: that is another matter.
    let second = limits(stage, 600, 1300);
    let second = [0, 1].map(|way| [first[way], second[way]].into_iter().flatten().min());
    let [there, back] = first;
    link.narrow = [back, there];
    let site = Site::build(&mut stage.world, &plan, 1, nat, link);
    for flow in site.flows.iter().flatten() {
        stage.world.flows[*flow].len = LARGE;
    }
    site.traffic(&mut stage.world, Some(100 * MS));
    stage.up(&site, 3 * SECOND)?;
    let lost = pings_lost(&stage.world, &site);
    narrow(stage, &site, first, 60 * SECOND)?;
    narrow(stage, &site, second, 60 * SECOND)?;
    // More fits again: the raise timer, then the search.
    for flow in site.flows.iter().flatten() {
        stage.world.flows[*flow].len = LARGE;
    }
    narrow(stage, &site, [None, None], 650 * SECOND)?;
    if pings_lost(&stage.world, &site) != lost {
        let what = "a ping was lost, where only large packets are".to_owned();
        stage.world.fail(what);
    }
    stage.world.verdict()
}
