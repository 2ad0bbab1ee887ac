//! What keeps protected traffic from leaving in clear when others change the host's routes, and
//! before there is a daemon.

mod common;
#[path = "common/live.rs"]
mod live;

use std::fs;

use live::{End, INNER_CLIENT, INNER_GATEWAY, Lab, MITREGATE, ready};
use rustix::process::Signal;
use serde_json::json;

/// `ip route get`, whatever it says.
fn route_to(end: &End, address: &str) -> String {
    let output = end
        .ns
        .command("ip")
        .args(["route", "get", address])
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn plain(end: &End, args: &[&str]) -> (String, String) {
    let output = end
        .ns
        .command(MITREGATE)
        .arg("--socket")
        .arg(end.path("control.sock"))
        .args(args)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

#[test]
fn routes_past_the_tunnel_are_told_and_shown() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("past", "", "");
    let client = &mut lab.client;
    client.start();
    let count = |end: &End| end.sas()["bypasses"]["count"].as_u64();
    assert_eq!(count(client), Some(0));
    assert!(!plain(client, &["list-sas"]).0.contains("past the tunnels"));

    client.ns.ip("route add 10.3.0.0/24 via 192.0.2.1");
    client
        .ns
        .ip("route add 10.2.0.0/24 via 192.0.2.1 metric 50");
    client.ns.ip("route add 10.2.0.128/25 via 192.0.2.1");
    let warning = "the route to 10.2.0.128/25 over wan (metric 0) goes past the tunnel";
    client.logs(&["WARN", warning, "10.2.0.0/24", "in clear"]);
    let narrow = json!({
        "destination": "10.2.0.128/25", "metric": 0, "interface": "wan", "protected": "10.2.0.0/24"
    });
    for list in [client.sas(), client.stats()] {
        assert_eq!(list["bypasses"], json!({"count": 1, "routes": [narrow]}));
    }
    for list in ["list-sas", "stats"] {
        let text = plain(client, &[list]).0;
        let line = text.lines().find(|line| line.contains("10.2.0.128/25"));
        assert!(line.is_some_and(|line| line.contains("wan")), "{text}");
    }
    // One that takes all of it.
    client.ns.ip("route add 10.2.0.0/24 via 192.0.2.1 metric 0");
    client.logs(&["WARN", "the route to 10.2.0.0/24 over wan (metric 0)"]);
    client.ns.ip("route del 10.2.0.0/24 metric 0");
    client.ns.ip("route del 10.2.0.128/25");
    client.eventually("both gone", |end| count(end) == Some(0));
    client.logs(&["INFO", "10.2.0.128/25", "is gone"]);
    let log = client.log();
    assert_eq!(log.matches("goes past the tunnel").count(), 2, "{log}");

    // There before the daemon.
    client.signal(Signal::TERM);
    client.ns.ip("route add 10.2.0.7/32 via 192.0.2.1");
    client.start();
    client.logs(&["WARN", "the route to 10.2.0.7/32 over wan"]);
    assert_eq!(count(client), Some(1));
    client.log_is_clean();
}

#[test]
fn what_was_taken_away_is_made_again() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("again", "", "");
    lab.client.ns.ip("route add default via 192.0.2.1");
    lab.up();
    let client = &lab.client;
    let whole = |end: &End| {
        let routes = end.ns.ip("route show proto 109");
        let route = route_to(end, INNER_GATEWAY);
        routes.contains("unreachable 10.2.0.0/24")
            && route.contains(&format!("dev mg0 src {INNER_CLIENT}"))
    };
    assert!(whole(client), "{}", client.ns.ip("route show"));

    client.ns.ip("route del 10.2.0.0/24 dev mg0");
    client.logs(&["WARN", "the route to 10.2.0.0/24 over mg0 was removed"]);
    client.eventually("the tunnel's route", whole);
    client.ns.ip("route del unreachable 10.2.0.0/24");
    client.logs(&["WARN", "the unreachable route to 10.2.0.0/24 was removed"]);
    client.eventually("the unreachable route", whole);
    // The route goes with its source address, and the kernel says nothing of that.
    client.ns.ip(&format!("addr del {INNER_CLIENT}/32 dev mg0"));
    client.logs(&["WARN", "10.1.0.1/32 was removed from interface mg0"]);
    client.eventually("the address and the route", whole);
    // Put where it was by somebody else.
    client
        .ns
        .ip("route replace 10.2.0.0/24 via 192.0.2.1 metric 1");
    client.eventually("our route in its place", whole);

    client.ns.ip("link set mg0 down");
    client.logs(&["WARN", "inner interface mg0 is down", "ip link set mg0 up"]);
    let route = route_to(client, INNER_GATEWAY);
    assert!(route.contains("No route to host"), "{route}");
    client.ns.ip("link set mg0 up");
    client.eventually("all of it", whole);

    // And it works.
    let server = lab.gateway.udp(&format!("{INNER_GATEWAY}:9"));
    let socket = client.udp(&format!("{INNER_CLIENT}:0"));
    let mut buffer = [0; 16];
    live::eventually(
        "a datagram",
        || {
            socket.send_to(b"there", (INNER_GATEWAY, 9)).unwrap();
            server.recv_from(&mut buffer).is_ok()
        },
        || client.log(),
    );
    client.log_is_clean();
}

#[test]
fn protect_refuses_before_there_is_a_network_and_release_undoes_it() {
    if !ready() {
        return;
    }
    let end = End::new("boot");
    end.configure(
        "",
        r#"
        [connections.home]
        remote_addrs = ["192.0.2.1"]
        local.id = "client@test"
        remote.id = "gw@test"
        [connections.home.children.net]
        local_ts = ["10.1.0.1"]
        remote_ts = ["10.2.0.0/24", "10.4.0.0-10.4.0.2"]
        "#,
    );
    end.ns.ip("link set lo down");
    let config = end.config();
    let config = config.to_str().unwrap();
    let networks = ["10.2.0.0/24", "10.4.0.0/31", "10.4.0.2/32"];
    for _ in 0..2 {
        let done = end.json(&["protect", "-c", config]);
        assert_eq!(done, json!({"ok": true, "protected": networks}));
    }
    let (text, _) = plain(&end, &["protect", "-c", config]);
    assert!(
        text.contains("10.4.0.0/31 is refused outside a tunnel"),
        "{text}"
    );

    // Then comes the network.
    end.ns.ip("link set lo up");
    end.ns.ip("link add wan type veth peer name peer");
    end.ns.ip("link set wan up");
    end.ns.ip("link set peer up");
    end.ns.ip("addr add 192.0.2.2/24 dev wan");
    end.ns.ip("route add default via 192.0.2.1");
    for address in ["10.2.0.1", "10.4.0.1", "10.4.0.2"] {
        let route = route_to(&end, address);
        assert!(route.contains("No route to host"), "{route}");
    }
    assert!(route_to(&end, "10.4.0.3").contains("dev wan"));
    let done = end.json(&["release", "-c", config]);
    assert_eq!(done, json!({"ok": true, "released": networks}));
    assert!(route_to(&end, "10.2.0.1").contains("dev wan"));

    fs::write(end.config(), "[outer]\n").unwrap();
    assert_eq!(end.ask(&["protect", "-c", config]).status.code(), Some(1));
}

#[test]
fn refused_zero_copy_is_told() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("zero", "", "");
    let client = &mut lab.client;
    client.start();
    client.logs(&["INFO", "zero-copy was asked for", "wan refuses it"]);
    assert_eq!(client.stats()["outer"]["zero_copy"], "refused");
    assert_eq!(client.stats()["inner"]["zero_copy"], "off");
    let text = plain(client, &["stats"]).0;
    assert!(
        text.contains("AF_XDP copy (the driver refuses zero-copy)"),
        "{text}"
    );
    client.signal(Signal::TERM);
    client.reconfigure(
        "interface = \"wan\"",
        "interface = \"wan\"\nzero_copy = \"off\"",
    );
    client.start();
    assert_eq!(client.stats()["outer"]["zero_copy"], "off");
    assert_eq!(client.log().matches("zero-copy was asked for").count(), 1);
}

#[test]
fn who_waits_is_told_what_for() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("wait", "", "");
    // Nobody answers at the gateway.
    lab.client.start();
    let (_, said) = plain(
        &lab.client,
        &["initiate", "--child", "net", "--timeout", "3"],
    );
    assert!(
        said.contains("after 2 s: IKE SA with 192.0.2.1:500 is connecting"),
        "{said}"
    );
    assert!(said.contains("no result within 3 s"), "{said}");
}
