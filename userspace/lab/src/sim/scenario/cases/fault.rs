//! The faults, each by what really happens.

use std::time::Duration;

use mitregate_control::Command;
use mitregate_esp::WorkerId;

use super::nat;
use super::{MS, Pair, SECOND, Setting};
use crate::case::Case;
use crate::nat::Remap;
use crate::sim::scenario::Stage;
use crate::sim::setup::Site;
use crate::sim::world::Violation;

/// Of a rekey's round trips, all clients begin within so many.
const CLOSELY: u64 = 150;

/// How long it lasts: a silence, a death, a cut.
pub fn lasts(pair: Pair, stage: &mut Stage) -> Duration {
    match pair.case {
        Case::Expiry => {
            let life = pair.nat.map_or(SECOND, nat::longest_life);
            life + stage.ms(100, 20_000)
        }
        Case::Squelch => stage.ms(5_000, 120_000),
        Case::ServerRestart | Case::ClientRestart => stage.ms(1, 2_000),
        Case::OneWayLoss => {
            let most = stage.pick(&[3_000, 30_000]);
            stage.ms(500, most)
        }
        _ => Duration::ZERO,
    }
}

/// Brings the tunnels up and makes the fault; since when traffic is to come back.
pub fn strike(stage: &mut Stage, setting: &Setting, site: &Site) -> Result<Duration, Violation> {
    match setting.pair.case {
        Case::Collision => collision(stage, setting, site),
        Case::Misbinding => misbinding(stage, setting, site),
        Case::Race => {
            running(stage, setting, site)?;
            let at = stage.pick(&[site.gateway, site.clients[0]]);
            rekey(stage, at, 0);
            Ok(stage.world.now)
        }
        Case::ServerRekeyIdle => {
            running(stage, setting, site)?;
            rekey(stage, site.gateway, 0);
            Ok(stage.world.now)
        }
        Case::NatCrash => {
            running(stage, setting, site)?;
            crash(stage, site);
            Ok(stage.world.now)
        }
        Case::Expiry => {
            running(stage, setting, site)?;
            site.traffic(&mut stage.world, None);
            stage.world.run(setting.lasts)?;
            probe(stage, setting, site);
            Ok(stage.world.now)
        }
        Case::Squelch => squelch(stage, setting, site),
        Case::SameSpi => same_spi(stage, setting, site),
        Case::Remap => {
            running(stage, setting, site)?;
            if let Some(nat) = site.nat {
                let last = u8::try_from(8 + stage.below(200)).unwrap_or(8);
                let first = 10_000 + 100 * u16::try_from(stage.below(500)).unwrap_or(0);
                let (address, ports) = stage.pick(&[(true, false), (false, true), (true, true)]);
                let remap = Remap {
                    address: address.then_some([203, 0, 113, last].into()),
                    ports: ports.then_some(first..=first + 99),
                };
                stage.world.remap_box(nat, &remap);
            }
            Ok(stage.world.now)
        }
        Case::ServerRestart => {
            running(stage, setting, site)?;
            restart(stage, site.gateway, setting.lasts)
        }
        Case::ClientRestart => {
            running(stage, setting, site)?;
            restart(stage, site.clients[0], setting.lasts)
        }
        Case::OneWayLoss => {
            running(stage, setting, site)?;
            let up = stage.one_in(2);
            let link = stage.world.link(site.gateway);
            (link.cut_up, link.cut_down) = (up, !up);
            stage.world.run(setting.lasts)?;
            stage.world.link(site.gateway).heal();
            Ok(stage.world.now)
        }
    }
}

/// The probe starts, each flow at a time of its own.
fn probe(stage: &mut Stage, setting: &Setting, site: &Site) {
    for at in setting.watched(site) {
        let wait = stage.ms(0, 1000).min(setting.period);
        stage.world.start_flow(at, setting.period, wait);
    }
}

/// All tunnels are up and have carried the probe for a while.
fn running(stage: &mut Stage, setting: &Setting, site: &Site) -> Result<(), Violation> {
    stage.up(site, 60 * SECOND)?;
    // Who is behind a NAT speaks first.
    for [there, _] in &site.flows {
        stage.world.offer(*there);
    }
    probe(stage, setting, site);
    let length = stage.ms(2_000, 6_000);
    stage.world.run(length)
}

fn rekey(stage: &mut Stage, at: usize, client: usize) {
    let child = match client {
        0 => "home/net".to_owned(),
        n => format!("home{n}/net"),
    };
    stage.world.command(at, Command::RekeyChild { child });
}

fn crash(stage: &mut Stage, site: &Site) {
    if let Some(nat) = site.nat {
        stage.world.crash_box(nat);
    }
}

fn restart(stage: &mut Stage, at: usize, away: Duration) -> Result<Duration, Violation> {
    stage.world.kill(at);
    stage.world.run(away)?;
    stage.world.start(at);
    Ok(stage.world.now)
}

/// All clients start an epoch at about the same moment: their first, or one more.
fn collision(stage: &mut Stage, setting: &Setting, site: &Site) -> Result<Duration, Violation> {
    if stage.one_in(2) {
        probe(stage, setting, site);
        stage.world.begin();
        return Ok(stage.world.now);
    }
    running(stage, setting, site)?;
    let from = stage.world.now;
    for client in &site.clients {
        let child = "net".to_owned();
        stage.world.command(*client, Command::RekeyChild { child });
        let wait = stage.ms(0, CLOSELY);
        stage.world.run(wait)?;
    }
    Ok(from)
}

/// The NAT has lost its tables. The first client's ping makes an entry there, and before its answer
/// arrives the server sends something to each of the others.
fn misbinding(stage: &mut Stage, setting: &Setting, site: &Site) -> Result<Duration, Violation> {
    running(stage, setting, site)?;
    crash(stage, site);
    let from = stage.world.now;
    stage.world.command(site.clients[0], Command::PathChanged);
    for [_, back] in &site.flows[1..] {
        let wait = stage.ms(0, 10).min(setting.rtt / 4);
        stage.world.run(wait)?;
        stage.world.offer(*back);
    }
    Ok(from)
}

/// The server dies while clients have epochs that it has not answered on, or at any other time; they
/// ask and ask.
fn squelch(stage: &mut Stage, setting: &Setting, site: &Site) -> Result<Duration, Violation> {
    if stage.one_in(2) {
        running(stage, setting, site)?;
        for client in &site.clients {
            let child = "net".to_owned();
            stage.world.command(*client, Command::RekeyChild { child });
        }
    } else {
        probe(stage, setting, site);
    }
    // A CHILD_SA takes one round trip, and the first one two.
    let most = 3 * setting.rtt + 50 * MS;
    let wait = stage.ms(0, u64::try_from(most.as_millis()).unwrap_or(1000));
    stage.world.run(wait)?;
    restart(stage, site.gateway, setting.lasts)
}

/// Two clients rekey, and choose the same SPI.
fn same_spi(stage: &mut Stage, setting: &Setting, site: &Site) -> Result<Duration, Violation> {
    running(stage, setting, site)?;
    // As the worker of the simulator's hosts draws them.
    let random = u32::try_from(stage.below(1 << 24)).unwrap_or(1);
    let Some(spi) = WorkerId(0).inbound_spi(random) else {
        return Ok(stage.world.now);
    };
    for client in &site.clients[..2.min(site.clients.len())] {
        stage.world.host_mut(*client).control.choose_spi(spi);
    }
    let from = stage.world.now;
    for client in &site.clients {
        let child = "net".to_owned();
        stage.world.command(*client, Command::RekeyChild { child });
        let wait = stage.ms(0, CLOSELY);
        stage.world.run(wait)?;
    }
    Ok(from)
}
