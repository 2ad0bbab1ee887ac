//! When a run is good: what both ends must come to once the network behaves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mitregate_control::{EpochView, IkeSaView, ListView};

use super::setup::Site;
use super::world::{Violation, World};

/// Within this time after the network is well again, traffic crosses each way (I4; provisional: the longest
/// waits between two pings, two escalations and two attempts are 30 s, and some more for those under way to end).
pub const TRAFFIC: Duration = Duration::from_secs(60);
/// Within this time after that, both ends agree and nothing is left over: what IKE still asks of dead peers
/// has run out by then (RFC 7296 §2.4: retransmission for minutes).
pub const QUIET: Duration = Duration::from_secs(600);

const MS: Duration = Duration::from_millis(1);

/// The whole of it: traffic comes back, then both ends agree, then traffic crosses on what they agree on.
pub fn settle(world: &mut World, site: &Site) -> Result<(), Violation> {
    carries(world, site)?;
    agrees(world, site)?;
    crosses(world, site)
}

/// Everything is well and up, and traffic comes back (I4).
pub fn carries(world: &mut World, site: &Site) -> Result<(), Violation> {
    for link in world.links() {
        link.heal();
    }
    for at in 0..world.host_count() {
        if !world.is_running(at) {
            world.start(at);
        }
    }
    site.traffic(world, Some(100 * MS));
    world.run_until("carrying data both ways", TRAFFIC, 1000 * MS, {
        let mut before = received(world, site);
        move |world| {
            let now = received(world, site);
            let enough = before.iter().zip(&now).all(|(a, b)| *b >= a + 8);
            before = now;
            enough
        }
    })?;
    site.traffic(world, None);
    Ok(())
}

/// Both ends come to exactly one epoch for each tunnel, the same, and to nothing else (I6).
fn agrees(world: &mut World, site: &Site) -> Result<(), Violation> {
    // Each tunnel must be seen with nothing but the one epoch; with several, not all at one moment.
    let mut clean = BTreeSet::new();
    let mut why = String::new();
    let settled = world.run_until("agreed and quiet", QUIET, 500 * MS, |world| {
        let list = tunnels(world, site);
        let bare = list.iter().filter(|(_, ends)| {
            let mut ends = ends.iter();
            ends.all(|epochs| epochs.len() == 1)
        });
        clean.extend(bare.map(|(name, _)| name.clone()));
        let agreed = agreed(world, site).and_then(|()| match clean.len() == list.len() {
            true => Ok(()),
            false => Err("some tunnel always has something that drains".to_owned()),
        });
        why = agreed.err().unwrap_or_default();
        why.is_empty()
    });
    settled.map_err(|mut violation| {
        if !why.is_empty() {
            violation.what += &format!(": {why}");
        }
        violation
    })?;
    Ok(())
}

/// Nothing is lost on what both ends agree on, and no frame is left over.
fn crosses(world: &mut World, site: &Site) -> Result<(), Violation> {
    // What is still under way arrives first.
    world.run(1000 * MS)?;
    let before = received(world, site);
    for _ in 0..3 {
        for flow in site.flows.iter().flatten() {
            world.offer(*flow);
        }
        world.run(300 * MS)?;
    }
    world.run(1000 * MS)?;
    let after = received(world, site);
    if before.iter().zip(&after).any(|(a, b)| *b != a + 3) {
        world.fail("packets are lost on what both ends agree on".to_owned());
    }
    no_leaks(world);
    world.verdict()
}

fn received(world: &World, site: &Site) -> Vec<usize> {
    let flows = site.flows.iter().flatten();
    flows.map(|at| world.flows[*at].received.len()).collect()
}

/// The epochs of each tunnel at its client and at the gateway.
fn tunnels(world: &World, site: &Site) -> BTreeMap<String, [Vec<EpochView>; 2]> {
    let mut gateway = site.gateway_list(world).tunnels;
    let mut all = BTreeMap::new();
    for client in &site.clients {
        for tunnel in world.list(*client).tunnels {
            let there = gateway.iter_mut().find(|t| t.name == tunnel.name);
            let theirs = there.map(|t| std::mem::take(&mut t.epochs));
            all.insert(tunnel.name, [tunnel.epochs, theirs.unwrap_or_default()]);
        }
    }
    all
}

/// Whether both ends have exactly one live epoch for each tunnel, the same, active and proven, on IKE SAs
/// that both have, and nothing else.
pub fn agreed(world: &World, site: &Site) -> Result<(), String> {
    let all = tunnels(world, site);
    for (name, [ours, theirs]) in &all {
        let ours = only(ours, name, "client")?;
        let theirs = only(theirs, name, "gateway")?;
        if (&ours.spi_in, &ours.spi_out) != (&theirs.spi_out, &theirs.spi_in) {
            return Err(format!("{name}: the SPIs differ"));
        }
    }
    let gateway = site.gateway_list(world);
    // One that is being closed may be gone at the other end before the peer hears of it.
    let unsettled = gateway.ike_sas.iter().find(|sa| sa.state != "established");
    if let Some(sa) = unsettled {
        return Err(format!("the gateway has an IKE SA that is {}", sa.state));
    }
    let mut sas = 0;
    for client in &site.clients {
        let list = world.list(*client);
        let connection = list.connections.first().map(|c| c.name.clone());
        let of_client = |list: &ListView| -> BTreeMap<_, _> {
            let mine = list.ike_sas.iter().filter(|s| s.connection == connection);
            mine.map(ike).collect()
        };
        let (ours, theirs) = (of_client(&list), of_client(&gateway));
        if let Some(sa) = list.ike_sas.iter().find(|sa| sa.state != "established") {
            return Err(format!("the client has an IKE SA that is {}", sa.state));
        }
        // With several tunnels, some may have gone over to a newer IKE SA than others.
        if ours.is_empty() || ours.values().any(|children| *children == 0) {
            return Err(format!("an IKE SA without CHILD_SAs: {ours:?}"));
        }
        if ours != theirs {
            return Err(format!("the IKE SAs differ: {ours:?} and {theirs:?}"));
        }
        sas += ours.len();
    }
    if gateway.ike_sas.len() != sas {
        return Err(format!("the gateway has {} IKE SAs", gateway.ike_sas.len()));
    }
    Ok(())
}

/// SPIs as initiator and responder chose them, and how many CHILD_SAs.
fn ike(sa: &IkeSaView) -> ((String, String), usize) {
    let (local, remote) = (sa.spi_local.clone(), sa.spi_remote.clone());
    let spis = if sa.initiator {
        (local, remote)
    } else {
        (remote, local)
    };
    (spis, sa.children.len())
}

fn only<'a>(epochs: &'a [EpochView], tunnel: &str, side: &str) -> Result<&'a EpochView, String> {
    let live = epochs.iter();
    let live = live.filter(|e| !["draining", "dead"].contains(&e.state));
    match live.collect::<Vec<_>>().as_slice() {
        [epoch] if epoch.active && epoch.state == "proven" => Ok(epoch),
        [epoch] => Err(format!(
            "{tunnel}: the {side}'s epoch is {} and {}active",
            epoch.state,
            if epoch.active { "" } else { "not " }
        )),
        live => {
            let states: Vec<_> = live.iter().map(|e| e.state).collect();
            Err(format!("{tunnel}: the {side} has epochs {states:?}"))
        }
    }
}

/// I6: frames come back.
fn no_leaks(world: &mut World) {
    for at in 0..world.host_count() {
        let census = world.host(at).census();
        if census.held + census.backlog > 0 {
            world.fail(format!("host {at} still holds frames: {census:?}"));
        }
    }
}

/// I5: what was sent has come out, once, and in order.
pub fn all_arrived(world: &mut World, site: &Site) -> Result<(), Violation> {
    site.traffic(world, None);
    world.run(2000 * MS)?;
    for at in site.flows.iter().flatten() {
        let flow = &world.flows[*at];
        let expected = 1..=flow.sent;
        if !flow.received.iter().copied().eq(expected) {
            let odd = flow.received.iter().zip(1..).position(|(a, b)| *a != b);
            let (got, sent) = (flow.received.len(), flow.sent);
            let what = format!(
                "I5: flow {at}: {got} of {sent} packets came out; first oddity after {odd:?}"
            );
            world.fail(what);
        }
    }
    world.verdict()
}
