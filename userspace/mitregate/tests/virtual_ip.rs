//! A client that has no address inside until the gateway gives it one, and whose tunnel waits for the first
//! packet.

mod common;
#[path = "common/live.rs"]
mod live;

use std::net::Ipv4Addr;

use live::{INNER_GATEWAY, Lab, MARKER, ready};
use rustix::process::Signal;

/// A network in which the client gets its address from the gateway's pool.
fn lab(what: &str, start_action: &str) -> Lab {
    let lab = Lab::new(what, "", "");
    lab.client.reconfigure("addresses = [\"10.1.0.1/32\"]", "");
    lab.client
        .reconfigure("local_ts = [\"10.1.0.1\"]", "local_ts = [\"dynamic\"]");
    lab.client.reconfigure(
        "remote.id =",
        "vips = [\"0.0.0.0\"]\n                remote.id =",
    );
    lab.client.reconfigure(
        "start_action = \"start\"",
        &format!("start_action = \"{start_action}\""),
    );
    lab.gateway
        .reconfigure("remote_ts = [\"10.1.0.1\"]", "remote_ts = [\"dynamic\"]");
    lab.gateway.reconfigure(
        "[connections.home]",
        "[pools.clients]\naddrs = \"10.3.0.0/24\"\ndns = [\"10.2.0.53\"]\n[connections.home]\npools = [\"clients\"]",
    );
    lab
}

/// The addresses on the client's inner interface.
fn inner_addresses(lab: &Lab) -> String {
    let output = lab
        .client
        .ns
        .command("ip")
        .args(["-4", "-o", "addr", "show", "dev", "mg0"])
        .output();
    String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
}

/// A datagram from wherever the kernel sends it from, echoed behind the gateway: the source that it had.
fn echo(lab: &Lab) -> Option<Ipv4Addr> {
    let server = lab.gateway.udp(&format!("{INNER_GATEWAY}:7"));
    let client = lab.client.udp("0.0.0.0:0");
    let mut buffer = [0; 64];
    for _ in 0..50 {
        if client.send_to(MARKER, (INNER_GATEWAY, 7)).is_err() {
            continue;
        }
        let Ok((len, from)) = server.recv_from(&mut buffer) else {
            continue;
        };
        server.send_to(&buffer[..len], from).unwrap();
        if client
            .recv(&mut buffer)
            .is_ok_and(|len| &buffer[..len] == MARKER)
        {
            let std::net::IpAddr::V4(from) = from.ip() else {
                panic!("{from}");
            };
            return Some(from);
        }
    }
    None
}

#[test]
fn the_client_gets_an_address_and_loses_it_again() {
    if !ready() {
        return;
    }
    let mut lab = lab("vip", "start");
    lab.up();
    let (client, gateway) = (&lab.client, &lab.gateway);
    client.eventually("the address", |_| {
        inner_addresses(&lab).contains("10.3.0.1/32")
    });
    assert_eq!(echo(&lab), Some("10.3.0.1".parse().unwrap()));
    let sa = &client.sas()["ike_sas"][0];
    assert_eq!(sa["local_vips"][0], "10.3.0.1");
    assert_eq!(sa["dns"][0], "10.2.0.53");
    let pool = &gateway.json(&["list-pools"])["pools"][0];
    assert_eq!((&pool["online"], &pool["size"]), (&1.into(), &254.into()));
    assert_eq!(pool["leases"][0]["peer_id"], "client@test");
    // The peer of a template has a name of its own, by which it can be named.
    let name = gateway.sas()["tunnels"][0]["name"].clone();
    assert_eq!(name, "home[1]/net");
    let pinged = gateway.json(&["ping", "home[1]/net", "-c", "1"]);
    assert!(!pinged.is_null(), "{}", gateway.log());

    // Taken down, it has no address any more, and the gateway keeps it for it.
    client.json(&["terminate", "--ike", "home"]);
    client.eventually("no address", |_| {
        !inner_addresses(&lab).contains("10.3.0.1")
    });
    gateway.eventually("no tunnel", |end| {
        end.sas()["tunnels"].as_array().is_some_and(Vec::is_empty)
    });
    let pool = &gateway.json(&["list-pools"])["pools"][0];
    assert_eq!((&pool["online"], &pool["offline"]), (&0.into(), &1.into()));
    client.json(&["initiate", "--child", "net"]);
    client.eventually("the address", |_| {
        inner_addresses(&lab).contains("10.3.0.1/32")
    });
    assert_eq!(echo(&lab), Some("10.3.0.1".parse().unwrap()));

    // A client that dies and comes back has it again.
    lab.client.signal(Signal::KILL);
    lab.client.start();
    lab.client
        .eventually("a proven tunnel", |end| end.status() == "proven");
    assert_eq!(echo(&lab), Some("10.3.0.1".parse().unwrap()));
    for end in [&lab.client, &lab.gateway] {
        end.log_is_clean();
    }
}

#[test]
fn the_first_packet_brings_a_trapped_tunnel_up() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("trap", "", "");
    lab.client
        .reconfigure("start_action = \"start\"", "start_action = \"trap\"");
    lab.gateway.start();
    lab.client.start();
    assert_eq!(lab.client.ike_sas(), 0);
    assert_eq!(lab.client.status(), "down");
    // Held until the tunnel is there, so that the first one arrives, too.
    let server = lab.gateway.udp(&format!("{INNER_GATEWAY}:7"));
    server
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .unwrap();
    let client = lab.client.udp("10.1.0.1:0");
    client.send_to(MARKER, (INNER_GATEWAY, 7)).unwrap();
    let mut buffer = [0; 64];
    let (len, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], MARKER);
    lab.proven();
    for end in [&lab.client, &lab.gateway] {
        end.log_is_clean();
    }
}
