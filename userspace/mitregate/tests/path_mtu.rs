//! A router whose way on carries less than the link, with the real daemons: towards the gateway it says so by
//! ICMP, from the gateway it drops without a word.

mod common;
#[path = "common/live.rs"]
mod live;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use live::{End, INNER_CLIENT, INNER_GATEWAY, Lab, ready};

/// Bytes of one transfer.
const LENGTH: usize = 2_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// The wire becomes a router between the two, for whom it answers ARP.
fn route(lab: &Lab) {
    let middle = &lab.middle;
    middle.ip("link del br0");
    for (port, address) in [("c0", live::CLIENT), ("g0", live::GATEWAY)] {
        middle.ip(&format!("addr add {}/32 dev {port}", live::STRANGER));
        middle.ip(&format!("route add {address} dev {port}"));
        for (what, value) in [("proxy_arp", 1), ("rp_filter", 0), ("forwarding", 1)] {
            let set = format!("echo {value} > /proc/sys/net/ipv4/conf/{port}/{what}");
            assert!(
                middle
                    .command("sh")
                    .args(["-c", &set])
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }
}

/// The way between router and gateway carries no more: the router fragments or tells what it would send
/// there, and the veth drops what is larger and comes from there.
fn narrow(lab: &Lab, mtu: u16) {
    lab.middle.ip(&format!("link set g0 mtu {mtu}"));
}

fn pattern(at: usize) -> u8 {
    u8::try_from(at % 251).unwrap()
}

/// A connection from the client's inside to the gateway's, and what one side sends over it.
#[track_caller]
fn transfer(lab: &Lab, download: bool) {
    let listener = lab
        .gateway
        .ns
        .block_on(async || TcpListener::bind((INNER_GATEWAY, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (stream, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), INNER_CLIENT);
        if download {
            send(stream);
        } else {
            receive(stream);
        }
    });
    let stream = lab
        .client
        .ns
        .block_on(async move || TcpStream::connect((INNER_GATEWAY, port)).unwrap());
    if download {
        receive(stream);
    } else {
        send(stream);
    }
    server.join().unwrap();
}

fn send(mut stream: TcpStream) {
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let data: Vec<_> = (0..LENGTH).map(pattern).collect();
    stream.write_all(&data).unwrap();
}

fn receive(mut stream: TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut data = Vec::new();
    stream.read_to_end(&mut data).unwrap();
    assert_eq!(data.len(), LENGTH);
    let wrong = data
        .iter()
        .enumerate()
        .find(|(at, byte)| **byte != pattern(*at));
    assert_eq!(wrong, None);
}

#[track_caller]
fn finds(end: &End, mtu: u16) {
    end.eventually(&format!("path MTU {mtu}"), |end| {
        let path = &end.sas()["tunnels"][0]["path_mtu"];
        path["outer"] == mtu && path["state"] == "complete" && path["confirmed"] == true
    });
}

/// A veth leaves room for a VLAN tag, which a packet without one may use.
#[track_caller]
fn found(lab: &Lab, mtu: u16) {
    finds(&lab.client, mtu);
    finds(&lab.gateway, mtu + 4);
}

#[test]
fn transfers_complete_over_a_path_that_carries_less_than_the_link_and_then_less_still() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("pmtu", "", "");
    route(&lab);
    narrow(&lab, 1300);
    lab.up();
    // At once, while nothing is known yet.
    transfer(&lab, true);
    transfer(&lab, false);
    found(&lab, 1300);
    let hints = |end: &End| end.sas()["tunnels"][0]["path_mtu"]["hints"].as_u64();
    assert!(hints(&lab.client) > Some(0), "{}", lab.client.log());
    assert_eq!(hints(&lab.gateway), Some(0));
    // The host's own routes say what fits, so that nothing has to be lost to find it out.
    let path = &lab.client.sas()["tunnels"][0]["path_mtu"];
    let inner = path["inner"].as_u64().unwrap();
    let mut ip = lab.client.ns.command("ip");
    let routes = ip.args(["route", "show", "10.2.0.0/24"]).output().unwrap();
    let routes = String::from_utf8(routes.stdout).unwrap();
    assert!(routes.contains(&format!("mtu {inner}")), "{routes}");

    narrow(&lab, 1000);
    transfer(&lab, true);
    transfer(&lab, false);
    found(&lab, 1000);
    for end in [&lab.client, &lab.gateway] {
        assert_eq!(end.status(), "proven");
        end.log_is_clean();
    }
}

#[test]
fn the_search_can_be_off() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("pmto", "gate.path_mtu = \"off\"", "");
    lab.up();
    transfer(&lab, true);
    assert!(lab.client.sas()["tunnels"][0]["path_mtu"].is_null());
}
