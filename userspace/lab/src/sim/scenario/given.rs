//! What a gateway gives to its clients: tickets and inner addresses.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use mitregate_control::EncapMode;
use mitregate_wire::ike::{ExchangeType, IkeSpi};

use super::{Scenario, Stage};
use crate::nat::Model;
use crate::sim::passing::{agreed, settle};
use crate::sim::setup::{Plan, Site};
use crate::sim::world::{Violation, World};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "resume",
        about: "the gateway restarts, with and without its ticket key: two round trips bring the client back (RFC 5723)",
        seeds: 300,
        tested: 8,
        run: resume,
    },
    Scenario {
        name: "virtual-ip",
        about: "clients of one connection get inner addresses from a pool and keep them over restarts, often behind one NAT",
        seeds: 200,
        tested: 6,
        run: virtual_ip,
    },
];

const SECOND: Duration = Duration::from_secs(1);
/// A gateway that is away for so long is back before its clients look for another way than their tickets.
const SHORT: Duration = Duration::from_secs(4);

fn resume(stage: &mut Stage) -> Result<(), Violation> {
    let keeps_key = !stage.one_in(3);
    let plan = Plan {
        resumption: true,
        ticket_key: keeps_key.then_some([7; 32]),
        rekey_time: stage.ms(20_000, 60_000),
        ..Plan::default()
    };
    let lossy = stage.one_in(3);
    let link = if lossy {
        stage.lossy_link()
    } else {
        stage.quiet_link()
    };
    let announced = &mut stage.world.announced;
    announced.extend([
        "reason=peer does not answer",
        "expired before it was replaced",
    ]);
    let site = stage.pair(plan, link);
    stage.up(&site, 120 * SECOND)?;
    let every = stage.ms(50, 1000);
    site.traffic(&mut stage.world, Some(every));
    for _ in 0..=stage.below(3) {
        let length = stage.ms(100, 6_000);
        stage.world.run(length)?;
        let before = opened(&stage.world, site.clients[0]);
        stage.world.kill(site.gateway);
        let most = stage.pick(&[4_000, 20_000]);
        let away = stage.ms(1, most);
        stage.world.run(away)?;
        stage.world.start(site.gateway);
        come_back(stage, &site)?;
        let after = opened(&stage.world, site.clients[0]);
        let new: Vec<_> = after.difference(&before).copied().collect();
        let [spi] = new.as_slice() else {
            stage
                .world
                .fail(format!("IKE SAs {after:?} follow {before:?}"));
            return stage.world.verdict();
        };
        let requests = stage.world.openings.get(spi).cloned().unwrap_or_default();
        let (resumes, full) = (
            [
                (ExchangeType::IKE_SESSION_RESUME, 0),
                (ExchangeType::IKE_AUTH, 1),
            ],
            [(ExchangeType::IKE_SA_INIT, 0), (ExchangeType::IKE_AUTH, 1)],
        );
        let full = full.iter().all(|request| requests.contains(request));
        let right = match keeps_key {
            false => full,
            // A client does not wait for ever for a word about its ticket.
            true => requests == BTreeSet::from(resumes) || full && (lossy || away > SHORT),
        };
        if !right {
            stage
                .world
                .fail(format!("the new IKE SA was set up by {requests:?}"));
        }
    }
    settle(&mut stage.world, &site)
}

/// The SPIs of a client's IKE SAs that it has set up itself.
fn opened(world: &World, client: usize) -> BTreeSet<IkeSpi> {
    let list = world.list(client).ike_sas;
    let own = list
        .iter()
        .filter(|sa| sa.initiator && sa.state == "established");
    own.filter_map(|sa| u64::from_str_radix(&sa.spi_local, 16).ok())
        .map(|spi| IkeSpi(spi.to_be_bytes()))
        .collect()
}

/// Until both ends agree about all clients.
fn come_back(stage: &mut Stage, site: &Site) -> Result<Duration, Violation> {
    let grain = Duration::from_millis(20);
    stage
        .world
        .run_until("all back", 120 * SECOND, grain, |world| {
            agreed(world, site).is_ok()
        })
}

fn virtual_ip(stage: &mut Stage) -> Result<(), Violation> {
    let clients = usize::try_from(1 + stage.below(5)).unwrap_or(1);
    let nat = stage.pick(&[
        None,
        Some(Model::ConntrackGeneric),
        Some(Model::UdpSymmetric),
    ]);
    let plan = Plan {
        seed: stage.seed,
        virtual_ips: true,
        encap: stage.pick(&[EncapMode::Auto, EncapMode::Udp]),
        rekey_time: stage.ms(15_000, 60_000),
        reauth_time: if stage.one_in(2) {
            stage.ms(20_000, 60_000)
        } else {
            Duration::ZERO
        },
        ike_rekey_time: stage.ms(10_000, 60_000),
        ..Plan::default()
    };
    let link = if stage.one_in(3) {
        stage.lossy_link()
    } else {
        stage.quiet_link()
    };
    let announced = &mut stage.world.announced;
    announced.extend([
        "reason=peer does not answer",
        "expired before it was replaced",
    ]);
    let site = Site::build(&mut stage.world, &plan, clients, nat, link);
    stage.world.begin();
    come_back(stage, &site)?;
    let leases: BTreeSet<_> = site.leases(&stage.world).into_iter().flatten().collect();
    if leases.len() != clients {
        stage
            .world
            .fail(format!("{clients} clients have {leases:?}"));
        return stage.world.verdict();
    }
    let inside: Vec<Ipv4Addr> = site.leases(&stage.world).into_iter().flatten().collect();
    site.address_flows(&mut stage.world, &inside);
    site.traffic(&mut stage.world, Some(Duration::from_millis(200)));
    for _ in 0..=stage.below(4) {
        let length = stage.ms(100, 10_000);
        stage.world.run(length)?;
        let client = usize::try_from(stage.below(clients as u64)).unwrap_or(0);
        let at = if stage.one_in(2) {
            site.gateway
        } else {
            site.clients[client]
        };
        stage.world.kill(at);
        let away = stage.ms(1, 20_000);
        stage.world.run(away)?;
        stage.world.start(at);
        come_back(stage, &site)?;
        let now = site.leases(&stage.world);
        if now.iter().flatten().ne(&inside) {
            stage
                .world
                .fail(format!("the clients had {inside:?} and have {now:?}"));
        }
    }
    settle(&mut stage.world, &site)
}
