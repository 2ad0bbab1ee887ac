//! Two clients behind one live NAT that knows ESP by its SPIs, with plain ESP: whatever befalls the
//! NAT, both come back.

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use common::{has_data_plane, privileged};
use mitregate_lab::daemon::{self, Daemon, Encap, Settings};
use mitregate_lab::interrupt;
use mitregate_lab::nat::Model;
use mitregate_lab::probe::Probe;
use mitregate_lab::topology::{Host, Lab, Middle, Plan, SERVER};

/// How soon something comes back is not the matter here.
const PATIENCE: Duration = Duration::from_secs(40);
const PACE: Duration = Duration::from_millis(10);
/// So many arrivals in a row are no packets that were under way.
const ENOUGH: usize = 30;

/// From each client to the server, from the server to each client, or both.
fn probes(lab: &Lab, up: bool, down: bool) -> Vec<Probe> {
    let server: Ipv4Addr = SERVER.parse().unwrap();
    let right = (lab.host(Host::Server), server);
    let mut probes = Vec::new();
    for (client, port) in lab.clients().zip(7400..) {
        let left = (lab.host(client), client.inner().unwrap());
        let ways = [(up, left, right), (down, right, left)];
        for (_, from, to) in ways.into_iter().filter(|(wanted, ..)| *wanted) {
            probes.push(Probe::start(from, to, port, None, PACE).unwrap());
        }
    }
    probes
}

/// Until so many more have arrived of each.
fn flowing(what: &str, probes: &[Probe]) {
    let goals: Vec<_> = probes
        .iter()
        .map(|probe| probe.arrived() + ENOUGH)
        .collect();
    let what = format!("each of {} flows {what}", probes.len());
    interrupt::wait_for(&what, PATIENCE, || {
        let mut flows = probes.iter().zip(&goals);
        Ok(flows
            .all(|(probe, goal)| probe.arrived() >= *goal)
            .then_some(()))
    })
    .unwrap();
}

#[test]
fn both_clients_come_back() {
    if !privileged() || !has_data_plane() {
        return;
    }
    let plan = Plan {
        middle: Middle::Model(Model::VpnMasquerade),
        clients: 2,
        detached: false,
    };
    let lab = Lab::up_with(&format!("mgt-crash{}", std::process::id()), plan).unwrap();
    let settings = Settings {
        encap: Encap::Esp,
        ..Settings::default()
    };
    daemon::configure(&lab, &settings).unwrap();
    let logs = tempfile::tempdir().unwrap();
    let start = |host| Daemon::start(&lab, host, logs.path()).unwrap();
    let mut gateway = start(Host::Gw);
    gateway.wait_ready(PATIENCE).unwrap();
    let mut clients: Vec<_> = lab.clients().map(start).collect();
    for client in &mut clients {
        client.wait_epoch("proven", PATIENCE).unwrap();
    }
    let nat = lab.nat().unwrap();

    let both = probes(&lab, true, true);
    flowing("to begin", &both);
    nat.crash().unwrap();
    flowing("after a crash", &both);
    nat.remap(None, false).unwrap();
    flowing("at another public address", &both);
    Probe::traces(both).unwrap();

    // Nothing of the clients' own tells the NAT anew who they are.
    let down = probes(&lab, false, true);
    flowing("from the server alone", &down);
    nat.crash().unwrap();
    flowing("from the server alone after a crash", &down);
    Probe::traces(down).unwrap();

    // What came for nobody that the NAT still knew.
    let counters = nat.show().unwrap().counters.unwrap();
    assert!(
        counters.outbound + counters.inbound > counters.carried,
        "{counters}"
    );
    for daemon in clients.into_iter().chain([gateway]) {
        daemon.terminate().unwrap();
    }
    lab.take_down().unwrap();
}
