//! When tunnels come up and go: start, close and DPD actions, inactivity, restarts; and tunnels that both
//! sides may start.

mod paper;

use mitregate_control::{Command, ConnectionConfig, ControlEvent, Role, StartAction};
use paper::{Net, child, connection, ip, ms, secs};

const ADDRESSES: [&str; 2] = ["192.0.2.1", "198.51.100.1"];
const SIDES: [&str; 2] = ["10.1.0.0/24", "10.2.0.0/24"];

/// One of two sites.
fn site(at: usize, role: Role) -> ConnectionConfig {
    let ids = ["left@lab", "right@lab"];
    let mut config = connection("site", role, ids[at]);
    config.remote_id = Some(ids[1 - at].parse().unwrap());
    config.remote_addrs = vec![ip(ADDRESSES[1 - at])];
    config.children = vec![child("net", &[SIDES[at]], &[SIDES[1 - at]])];
    config
}

/// A client with this start action, and a server.
fn pair(start: StartAction, change: impl Fn(&mut ConnectionConfig)) -> Net {
    let mut net = Net::new(3);
    let mut left = site(0, Role::Client);
    left.children[0].start_action = start;
    let mut right = site(1, Role::Server);
    for config in [&mut left, &mut right] {
        change(config);
    }
    net.start(ADDRESSES[0], Vec::new(), vec![left]);
    net.start(ADDRESSES[1], Vec::new(), vec![right]);
    net
}

fn terminate(net: &mut Net, at: usize) {
    let connection = "site".to_owned();
    net.command(at, Command::TerminateIke { connection });
}

#[test]
fn none_waits_for_a_command() {
    let mut net = pair(StartAction::None, |_| {});
    net.run(secs(60));
    assert!(!net.send(0, 0));
    net.run(secs(60));
    assert_eq!(net.status(0), ["down"]);
    let child = "net".to_owned();
    let ticket = net.command(0, Command::Initiate { child });
    net.run(secs(1));
    let finished = ControlEvent::Finished { ticket };
    assert!(net.hosts[0].events.contains(&finished));
    assert!(net.send(0, 0));
}

#[test]
fn trap_comes_up_with_the_first_packet() {
    let mut net = pair(StartAction::Trap, |_| {});
    net.run(secs(60));
    assert_eq!(net.status(0), ["down"]);
    assert!(net.list(0).ike_sas.is_empty());
    assert!(net.tunnel(0).trapped);
    assert!(!net.send(0, 0));
    net.run(secs(1));
    assert_eq!(net.status(0), ["proven"]);
    assert_eq!(net.status(1), ["proven"]);
    assert!(net.send(0, 0));
}

#[test]
fn a_trapped_tunnel_that_is_closed_waits_for_the_next_packet() {
    let mut net = pair(StartAction::Trap, |config| {
        config.children[0].close_action = StartAction::Trap;
    });
    net.send(0, 0);
    net.run(secs(2));
    terminate(&mut net, 1);
    net.run(secs(60));
    assert_eq!(net.status(0), ["down"]);
    net.send(0, 0);
    net.run(secs(2));
    assert_eq!(net.status(0), ["proven"]);
}

#[test]
fn close_actions() {
    for (action, after, after_a_packet) in [
        (StartAction::None, "down", "down"),
        (StartAction::Trap, "down", "proven"),
        (StartAction::Start, "proven", "proven"),
    ] {
        let mut net = pair(StartAction::Start, |config| {
            config.children[0].close_action = action;
        });
        net.run(secs(2));
        terminate(&mut net, 1);
        net.run(secs(60));
        assert_eq!(net.status(0), [after], "{action:?}");
        net.send(0, 0);
        net.run(secs(60));
        assert_eq!(net.status(0), [after_a_packet], "{action:?}");
    }
}

#[test]
fn inactivity_ends_what_nobody_uses_and_a_packet_brings_it_back() {
    let mut net = pair(StartAction::Trap, |config| {
        config.children[0].inactivity = secs(30);
    });
    net.send(0, 0);
    net.run(secs(2));
    // Used now and then it stays.
    for _ in 0..10 {
        net.run(secs(20));
        assert!(net.send(0, 0));
    }
    net.run(secs(60));
    assert_eq!(net.status(0), ["down"]);
    assert_eq!(net.status(1), ["down"]);
    net.send(0, 0);
    net.run(secs(2));
    assert_eq!(net.status(0), ["proven"]);
}

#[test]
fn dpd_actions() {
    for (action, back, after_a_packet) in [
        (StartAction::None, "down", "down"),
        (StartAction::Trap, "down", "proven"),
        (StartAction::Start, "proven", "proven"),
    ] {
        let mut net = pair(StartAction::Start, |config| {
            config.children[0].dpd_action = action;
            config.dpd_delay = secs(10);
            config.dpd_timeout = secs(30);
            // The gate would find it out before.
            config.gate.idle = None;
        });
        net.run(secs(2));
        net.hosts[1].down = true;
        net.run(secs(300));
        let mut ike_sas = net.list(0).ike_sas.into_iter();
        assert!(ike_sas.all(|sa| sa.state != "established"));
        net.start(ADDRESSES[1], Vec::new(), vec![site(1, Role::Server)]);
        net.run(secs(60));
        assert_eq!(net.status(0), [back], "{action:?}");
        net.send(0, 0);
        net.run(secs(5));
        assert_eq!(net.status(0), [after_a_packet], "{action:?}");
    }
}

#[test]
fn a_peer_that_is_away_for_hours_is_called_all_the_time_and_found() {
    let mut net = pair(StartAction::Start, |_| {});
    net.hosts[1].down = true;
    net.run(secs(5 * 3600));
    net.hosts[1].down = false;
    net.run(secs(60));
    assert_eq!(net.status(0), ["proven"]);
    assert_eq!(net.status(1), ["proven"]);
}

#[test]
fn either_side_may_restart() {
    for restarts in [0, 1] {
        let mut net = pair(StartAction::Start, |_| {});
        net.run(secs(5));
        let mut config = site(restarts, [Role::Client, Role::Server][restarts]);
        if restarts == 0 {
            config.children[0].start_action = StartAction::Start;
        }
        net.start(ADDRESSES[restarts], Vec::new(), vec![config]);
        net.run(secs(120));
        converged(&net, &format!("restart of {restarts}"));
    }
}

/// One IKE SA, one epoch, the same at both ends; one client and one server.
fn converged(net: &Net, what: &str) {
    let lists = [net.list(0), net.list(1)];
    let epochs = lists.each_ref().map(|list| {
        assert_eq!(list.ike_sas.len(), 1, "{what}: {:#?}", list.ike_sas);
        assert_eq!(list.tunnels.len(), 1, "{what}");
        let tunnel = &list.tunnels[0];
        assert_eq!(tunnel.epochs.len(), 1, "{what}: {tunnel:#?}");
        assert_eq!(tunnel.status, "proven", "{what}");
        let epoch = &tunnel.epochs[0];
        (epoch.spi_in.clone(), epoch.spi_out.clone())
    });
    let [left, right] = epochs;
    assert_eq!(left, (right.1, right.0), "{what}");
    let mut roles = lists.each_ref().map(|list| list.tunnels[0].role);
    roles.sort_unstable();
    assert_eq!(roles, ["client", "server"], "{what}");
}

fn both_start(at: usize) -> Vec<ConnectionConfig> {
    let mut config = site(at, Role::Client);
    config.auto_role = true;
    config.children[0].start_action = StartAction::Start;
    vec![config]
}

fn both(seed: u64, loss_per_mille: u32) -> Net {
    let mut net = Net::new(seed);
    net.loss_per_mille = loss_per_mille;
    for at in [0, 1] {
        net.start(ADDRESSES[at], Vec::new(), both_start(at));
        // Some start in the same instant, others while the first is half-way.
        net.run(ms(seed % 5 * 9));
    }
    net
}

#[test]
fn both_sides_start_at_once_and_agree() {
    for seed in 0..60 {
        let mut net = both(seed, 0);
        net.run(secs(60));
        converged(&net, &format!("seed {seed}"));
    }
}

#[test]
fn both_sides_start_at_once_under_loss_and_agree() {
    for seed in 100..160 {
        let mut net = both(seed, 200);
        net.run(secs(60));
        net.loss_per_mille = 0;
        net.run(secs(120));
        converged(&net, &format!("seed {seed}"));
    }
}

#[test]
fn a_role_stays_over_rekeys_and_a_restart_of_either_side_is_found() {
    for restarts in [0, 1] {
        let mut net = both(5, 0);
        net.run(secs(60));
        net.start(ADDRESSES[restarts], Vec::new(), both_start(restarts));
        net.run(secs(120));
        converged(&net, &format!("restart of {restarts}"));
        let roles = [net.tunnel(0).role, net.tunnel(1).role];
        net.run(secs(2 * 3600));
        assert_eq!([net.tunnel(0).role, net.tunnel(1).role], roles);
    }
}

#[test]
fn one_that_may_start_meets_one_that_waits() {
    let mut net = Net::new(9);
    net.start(ADDRESSES[0], Vec::new(), both_start(0));
    let server = site(1, Role::Server);
    net.start(ADDRESSES[1], Vec::new(), vec![server]);
    net.run(secs(60));
    converged(&net, "auto and server");
    assert_eq!(net.tunnel(0).role, "client");
}

/// gate.md's tie-break: who sits behind a NAT is the client, whoever starts.
#[test]
fn the_side_behind_a_nat_is_the_client() {
    for behind in [0, 1] {
        for seed in 0..20 {
            let mut net = Net::new(seed);
            for at in [0, 1] {
                let mut config = both_start(at);
                // The NAT is one to one, so that it can be called, too.
                if at != behind {
                    config[0].remote_addrs = vec![ip("203.0.113.9")];
                }
                net.start(ADDRESSES[at], Vec::new(), config);
                if at == behind {
                    net.hosts[at].behind = Some(ip("203.0.113.9"));
                }
                net.run(ms(seed % 5 * 9));
            }
            net.run(secs(90));
            let what = format!("{behind} is behind, seed {seed}");
            converged(&net, &what);
            assert_eq!(net.tunnel(behind).role, "client", "{what}");
        }
    }
}
