//! One gateway, many clients: templates and their peers, virtual addresses, what a second IKE SA of the
//! same peer means, and what goes when a peer goes.

mod paper;

use mitregate_control::{
    Childless, Command, ConnectionConfig, ControlEvent, Role, StartAction, Unique,
};
use paper::{Net, child, connection, ip, ms, pool, secs, ts};

const GATEWAY: &str = "198.51.100.1";

fn gateway() -> ConnectionConfig {
    let mut config = connection("home", Role::Server, "gw@lab");
    config.children = vec![child("net", &["10.2.0.0/24"], &["dynamic"])];
    config.pools = vec!["clients".to_owned()];
    config
}

fn client(n: usize) -> ConnectionConfig {
    let mut config = connection("home", Role::Client, &format!("client{n}@lab"));
    config.remote_id = Some("gw@lab".parse().unwrap());
    config.remote_addrs = vec![ip(GATEWAY)];
    config.vips = vec![ip("0.0.0.0")];
    let mut net = child("net", &["dynamic"], &["10.2.0.0/24"]);
    net.start_action = StartAction::Start;
    config.children = vec![net];
    config
}

fn clients_pool() -> Vec<mitregate_control::PoolConfig> {
    vec![pool("clients", "10.3.0.1", "10.3.0.200")]
}

/// A gateway (host 0) and clients (hosts 1 and so on).
fn world(clients: usize, gateway: ConnectionConfig) -> Net {
    let mut net = Net::new(7);
    net.start(GATEWAY, clients_pool(), vec![gateway]);
    for n in 1..=clients {
        net.start(&address(n), Vec::new(), vec![client(n)]);
    }
    net
}

fn address(n: usize) -> String {
    format!("192.0.2.{n}")
}

/// The virtual address that a client was told last.
fn vip(net: &Net, at: usize) -> Option<std::net::IpAddr> {
    let told = net.hosts[at]
        .events
        .iter()
        .rev()
        .find_map(|event| match event {
            ControlEvent::VirtualAddresses { addresses, .. } => Some(addresses.clone()),
            _ => None,
        });
    told.and_then(|addresses| addresses.first().copied())
}

#[test]
fn each_peer_of_a_template_has_a_connection_and_an_address_of_its_own() {
    let mut net = world(100, gateway());
    net.run(secs(20));
    let list = net.list(0);
    assert_eq!(list.tunnels.len(), 100);
    assert_eq!(list.ike_sas.len(), 100);
    assert_eq!(list.connections.len(), 101);
    let mut seen = std::collections::BTreeSet::new();
    for n in 1..=100 {
        assert_eq!(net.status(n), ["proven"], "client {n}");
        let vip = vip(&net, n).unwrap();
        assert!(seen.insert(vip), "{vip} twice");
        let peer = format!("client{n}@lab");
        let of_peer = list.connections.iter().find(|c| c.remote_id == peer);
        let of_peer = of_peer.unwrap();
        assert!(of_peer.name.starts_with("home["), "{}", of_peer.name);
        let tunnel = list.tunnels.iter().find(|t| t.name == of_peer.tunnels[0]);
        let tunnel = tunnel.unwrap();
        assert_eq!(tunnel.status, "proven");
        assert_eq!(tunnel.selectors.remote_ts, [format!("{vip}/32")]);
        let policy = &net.hosts[0].policy[&mitregate_esp::TunnelId(tunnel.id)];
        assert_eq!(policy.1, ts(&[&format!("{vip}/32")]));
    }
    // All go, and nothing of them stays but their leases.
    for n in 1..=100 {
        net.command(n, Command::ShutDown);
    }
    net.run(secs(60));
    let list = net.list(0);
    assert_eq!(
        (
            list.tunnels.len(),
            list.ike_sas.len(),
            list.connections.len()
        ),
        (0, 0, 1)
    );
    assert!(net.hosts[0].policy.is_empty());
    let pools = net.hosts[0].control.list_pools(net.now);
    assert_eq!((pools[0].online, pools[0].offline), (0, 100));
}

#[test]
fn under_loss_all_come_up_just_the_same() {
    let mut net = Net::new(11);
    net.loss_per_mille = 200;
    net.start(GATEWAY, clients_pool(), vec![gateway()]);
    for n in 1..=40 {
        net.start(&address(n), Vec::new(), vec![client(n)]);
    }
    net.run(secs(60));
    net.loss_per_mille = 0;
    net.run(secs(60));
    for n in 1..=40 {
        assert_eq!(net.status(n), ["proven"], "client {n}");
        assert_eq!(net.list(n).ike_sas.len(), 1);
    }
    let list = net.list(0);
    assert_eq!((list.tunnels.len(), list.ike_sas.len()), (40, 40));
}

#[test]
fn a_client_that_restarts_gets_its_address_again_and_replaces_itself() {
    let mut net = world(3, gateway());
    net.run(secs(5));
    let before = vip(&net, 2).unwrap();
    // Without a word, as when the power fails.
    net.start(&address(2), Vec::new(), vec![client(2)]);
    net.run(ms(500));
    assert_eq!(net.status(2), ["proven"]);
    assert_eq!(vip(&net, 2), Some(before));
    // The old one goes once the new one is proven, and it is the same peer's tunnel all the time.
    net.run(secs(60));
    let list = net.list(0);
    assert_eq!(
        (
            list.tunnels.len(),
            list.ike_sas.len(),
            list.connections.len()
        ),
        (3, 3, 4)
    );
    assert!(
        list.tunnels
            .iter()
            .all(|t| t.status == "proven" && t.epochs.len() == 1)
    );
}

#[test]
fn a_reauthentication_keeps_the_address() {
    let mut net = Net::new(7);
    net.start(GATEWAY, clients_pool(), vec![gateway()]);
    let mut config = client(1);
    config.lifetime.reauth_time = secs(100);
    net.start(&address(1), Vec::new(), vec![config]);
    net.run(secs(5));
    let (before, spi) = (vip(&net, 1), net.list(1).ike_sas[0].spi_local.clone());
    net.run(secs(300));
    assert_ne!(net.list(1).ike_sas[0].spi_local, spi);
    assert_eq!(net.status(1), ["proven"]);
    assert_eq!(vip(&net, 1), before);
    let told = net.hosts[1].events.iter();
    let told = told.filter(|event| matches!(event, ControlEvent::VirtualAddresses { .. }));
    assert_eq!(told.count(), 1);
    let pools = net.hosts[0].control.list_pools(net.now);
    assert_eq!((pools[0].online, pools[0].offline), (1, 0));
}

#[test]
fn a_gateway_that_restarts_gives_everybody_the_same_addresses() {
    let mut net = world(5, gateway());
    net.run(secs(5));
    let before: Vec<_> = (1..=5).map(|n| vip(&net, n)).collect();
    net.start(GATEWAY, clients_pool(), vec![gateway()]);
    net.run(secs(60));
    for n in 1..=5 {
        assert_eq!(net.status(n), ["proven"], "client {n}");
    }
    // They asked for what they had, whoever came first.
    let after: Vec<_> = (1..=5).map(|n| vip(&net, n)).collect();
    assert_eq!(before, after);
}

#[test]
fn an_exhausted_pool_refuses_and_serves_again_when_somebody_leaves() {
    let mut net = Net::new(7);
    let two = vec![pool("clients", "10.3.0.1", "10.3.0.2")];
    net.start(GATEWAY, two, vec![gateway()]);
    for n in 1..=3 {
        net.start(&address(n), Vec::new(), vec![client(n)]);
    }
    net.run(secs(20));
    let up = (1..=3).filter(|n| net.status(*n) == ["proven"]);
    let up: Vec<_> = up.collect();
    assert_eq!(up.len(), 2);
    // The third does not hold an IKE SA for nothing, and goes on trying.
    assert!(net.list(0).ike_sas.len() <= 3);
    let out = (1..=3).find(|n| !up.contains(n)).unwrap();
    net.command(up[0], Command::ShutDown);
    net.hosts[up[0]].down = true;
    net.run(secs(90));
    assert_eq!(net.status(out), ["proven"]);
}

#[test]
fn no_more_peers_than_there_may_be() {
    let mut config = gateway();
    config.max_peers = 2;
    let mut net = world(3, config);
    net.run(secs(20));
    let up = (1..=3).filter(|n| net.status(*n) == ["proven"]).count();
    assert_eq!(up, 2);
    assert_eq!(net.list(0).tunnels.len(), 2);
}

/// Else one peer would count as many, and take what is for many.
#[test]
fn a_peer_that_spells_its_name_in_other_letters_is_the_same() {
    let mut config = gateway();
    config.max_peers = 1;
    let mut net = world(1, config);
    net.run(secs(5));
    let before = vip(&net, 1);
    let mut again = client(1);
    again.local_id = "client1@LAB".parse().unwrap();
    let at = net.start(&address(1), Vec::new(), vec![again]);
    net.run(secs(20));
    assert_eq!(net.status(at), ["proven"]);
    assert_eq!(vip(&net, at), before);
    assert_eq!(net.list(0).connections.len(), 2);
}

/// swanctl's `keep`: a second of one name from elsewhere is refused as long as the first is there.
#[test]
fn keep_refuses_a_second_of_the_same_name() {
    let mut gateway = gateway();
    gateway.unique = Unique::Keep;
    gateway.dpd_delay = secs(20);
    let mut net = Net::new(7);
    net.start(GATEWAY, clients_pool(), vec![gateway]);
    // It has an IKE SA with the gateway, so it does not send INITIAL_CONTACT (RFC 7296 §2.4).
    let mut second = client(1);
    second.name = "second".to_owned();
    second.local_addrs = vec![ip("192.0.2.99")];
    second.children[0].start_action = StartAction::None;
    let at = net.start(&address(1), Vec::new(), vec![client(1), second]);
    net.run(secs(5));
    let child = "second/net".to_owned();
    net.command(at, Command::Initiate { child });
    net.run(secs(60));
    assert_eq!(net.status(at), ["proven", "down"]);
    assert_eq!(net.list(0).tunnels.len(), 1);
    // A restart elsewhere, with INITIAL_CONTACT, is let in.
    let elsewhere = net.start(&address(9), Vec::new(), vec![client(1)]);
    net.run(secs(2));
    assert_eq!(net.status(elsewhere), ["proven"]);
}

/// swanctl's `never`: each IKE SA is a peer of its own.
#[test]
fn never_lets_two_of_one_name_be_there_at_once() {
    let mut config = gateway();
    config.unique = Unique::Never;
    let mut net = world(1, config);
    let second = net.start(&address(9), Vec::new(), vec![client(1)]);
    net.run(secs(60));
    assert_eq!(
        (net.status(1), net.status(second)),
        (vec!["proven"], vec!["proven"])
    );
    assert_ne!(vip(&net, 1), vip(&net, second));
    assert_eq!(net.list(0).tunnels.len(), 2);
}

#[test]
fn two_peers_do_not_get_the_same_addresses_by_asking() {
    let mut config = connection("sites", Role::Server, "gw@lab");
    config.children = vec![child("net", &["10.2.0.0/24"], &["10.0.0.0/8"])];
    let mut net = Net::new(7);
    net.start(GATEWAY, Vec::new(), vec![config]);
    for (n, inside) in [(1, "10.9.1.0/24"), (2, "10.9.1.128/25"), (3, "10.9.2.0/24")] {
        let mut config = client(n);
        config.vips.clear();
        config.children[0] = child("net", &[inside], &["10.2.0.0/24"]);
        config.children[0].start_action = StartAction::Start;
        net.start(&address(n), Vec::new(), vec![config]);
        net.run(secs(2));
    }
    assert_eq!(net.status(1), ["proven"]);
    assert_eq!(net.status(2), ["down"]);
    assert_eq!(net.status(3), ["proven"]);
}

/// Nor those of a peer that has a connection of its own among them, whether or not it is there.
#[test]
fn a_templates_peer_does_not_get_what_a_connection_has() {
    let mut sites = connection("sites", Role::Server, "gw@lab");
    sites.children = vec![child("net", &["10.2.0.0/24"], &["10.0.0.0/8"])];
    let mut branch = connection("branch", Role::Server, "gw@lab");
    branch.remote_id = Some("client9@lab".parse().unwrap());
    branch.children = vec![child("net", &["10.2.0.0/24"], &["10.9.1.0/24"])];
    // As wide as what is for everybody: nobody's in particular.
    let mut other = connection("other", Role::Server, "gw@lab");
    other.remote_id = Some("client8@lab".parse().unwrap());
    other.children = vec![child("net", &["10.2.0.0/24"], &["0.0.0.0/0"])];
    let mut net = Net::new(7);
    net.start(GATEWAY, Vec::new(), vec![sites, branch, other]);
    for (n, inside, up) in [
        (1, "10.9.1.128/25", "down"),
        (2, "10.9.0.0/16", "down"),
        (3, "10.9.2.0/24", "proven"),
        (9, "10.9.1.0/24", "proven"),
    ] {
        let mut config = client(n);
        config.vips.clear();
        config.children[0] = child("net", &[inside], &["10.2.0.0/24"]);
        config.children[0].start_action = StartAction::Start;
        let at = net.start(&address(n), Vec::new(), vec![config]);
        net.run(secs(2));
        assert_eq!(net.status(at), [up], "{inside}");
    }
}

/// Nor by rekeying what they have: its successor may be for something else.
#[test]
fn a_rekey_does_not_get_the_addresses_of_another_peer() {
    let mut config = connection("sites", Role::Server, "gw@lab");
    config.children = vec![child("net", &["10.2.0.0/24"], &["192.0.2.0/24"])];
    let mut net = Net::new(7);
    net.start(GATEWAY, Vec::new(), vec![config]);
    let mut one = client(1);
    one.vips.clear();
    one.local_addrs = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(ip).to_vec();
    let mut two = client(2);
    two.vips.clear();
    two.children[0] = child("net", &["192.0.2.2"], &["10.2.0.0/24"]);
    two.children[0].start_action = StartAction::Start;
    let at = net.start(&address(1), Vec::new(), vec![one]);
    net.start(&address(9), Vec::new(), vec![two]);
    net.run(secs(2));
    let remote_ts = |net: &Net| {
        let mut list: Vec<_> = net.list(0).tunnels.into_iter().collect();
        list.retain(|tunnel| tunnel.status == "proven");
        let epochs = list.iter().flat_map(|tunnel| {
            let policy = &tunnel.selectors.remote_ts;
            let of_epoch = tunnel.epochs.iter().map(|epoch| &epoch.selectors.remote_ts);
            of_epoch.map(move |epoch| (policy.join(","), epoch.join(",")))
        });
        epochs.collect::<std::collections::BTreeSet<_>>()
    };
    let same = |list: &[&str]| {
        let pair = |ts: &&str| (ts.to_string(), ts.to_string());
        list.iter()
            .map(pair)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(remote_ts(&net), same(&["192.0.2.1/32", "192.0.2.2/32"]));
    // The selector follows the client's address.
    for (to, after) in [
        ("192.0.2.2", &["192.0.2.1/32", "192.0.2.2/32"][..]),
        ("192.0.2.3", &["192.0.2.2/32", "192.0.2.3/32"]),
    ] {
        let addresses = vec![ip(to)];
        net.command(at, Command::AddressesChanged { addresses });
        net.run(secs(1));
        let child = "home/net".to_owned();
        net.command(at, Command::RekeyChild { child });
        net.run(secs(120));
        assert_eq!(remote_ts(&net), same(after), "{to}");
    }
}

#[test]
fn a_peer_or_all_of_a_template_can_be_taken_down() {
    let mut net = world(3, gateway());
    net.run(secs(5));
    let one = Command::TerminateIke {
        connection: "client2@lab".to_owned(),
    };
    let ticket = net.command(0, one);
    net.run(ms(100));
    assert!(
        net.hosts[0]
            .events
            .contains(&ControlEvent::Finished { ticket })
    );
    // It comes back, since that is how it is configured.
    net.run(secs(30));
    assert_eq!(net.status(2), ["proven"]);
    let all = Command::TerminateIke {
        connection: "home".to_owned(),
    };
    let ticket = net.command(0, all);
    net.run(ms(100));
    assert!(
        net.hosts[0]
            .events
            .contains(&ControlEvent::Finished { ticket })
    );
}

#[test]
fn a_peer_that_dies_is_forgotten_and_its_address_kept_for_it() {
    let mut config = gateway();
    config.dpd_delay = secs(30);
    let mut net = world(2, config);
    net.run(secs(5));
    net.hosts[1].down = true;
    net.run(secs(900));
    let list = net.list(0);
    assert_eq!((list.tunnels.len(), list.ike_sas.len()), (1, 1));
    let pools = net.hosts[0].control.list_pools(net.now);
    assert_eq!((pools[0].online, pools[0].offline), (1, 1));
}

#[test]
fn childless_brings_all_children_by_exchanges_of_their_own() {
    let mut config = client(1);
    config.childless = Childless::Force;
    let mut net = Net::new(7);
    net.start(GATEWAY, clients_pool(), vec![gateway()]);
    net.start(&address(1), Vec::new(), vec![config]);
    net.run(secs(3));
    assert_eq!(net.status(1), ["proven"]);
}
