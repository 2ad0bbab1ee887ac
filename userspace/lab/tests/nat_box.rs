//! The live NAT between namespaces, without tunnels: datagrams go through it as through the model.
//! Each test needs root and says so when it is skipped.
#![allow(clippy::print_stderr)]

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use mitregate_lab::{
    nat::Model,
    nat_box::{Direction, Faults},
    netns::Netns,
    topology::{GATEWAY_WAN, Host, Lab, Middle, Plan},
};

const PORT: u16 = 500;
const WAIT: Duration = Duration::from_millis(300);

/// None without root.
fn lab(tag: &str, middle: Middle, clients: u8) -> Option<Lab> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return None;
    }
    let name = format!("mgt-nat{}-{tag}", std::process::id());
    let plan = Plan {
        middle,
        clients,
        detached: false,
    };
    Some(Lab::up_with(&name, plan).unwrap())
}

fn socket(host: &Netns) -> UdpSocket {
    host.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        socket.set_read_timeout(Some(WAIT))?;
        Ok(socket)
    })
    .unwrap()
}

fn gateway() -> SocketAddr {
    SocketAddr::new(GATEWAY_WAN.parse().unwrap(), PORT)
}

fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2048];
    let (len, from) = socket.recv_from(&mut buffer).ok()?;
    Some((buffer[..len].to_vec(), from))
}

#[test]
fn datagrams_are_translated_until_it_crashes_or_moves() {
    let Some(lab) = lab("udp", Middle::Model(Model::UdpSymmetric), 2) else {
        return;
    };
    let nat = lab.nat().unwrap();
    let server = socket(lab.host(Host::Gw));
    let clients = [1, 2].map(|n| socket(lab.host(Host::client(n))));
    let mut public = Vec::new();
    for (client, mark) in clients.iter().zip(1_u8..) {
        client.send_to(&[mark; 64], gateway()).unwrap();
        let (data, from) = receive(&server).unwrap();
        assert_eq!(data, [mark; 64]);
        assert_eq!(from.ip().to_string(), "203.0.113.2");
        public.push(from);
    }
    assert_ne!(public[0], public[1]);
    for (client, public) in clients.iter().zip(&public) {
        server.send_to(b"answer", public).unwrap();
        assert_eq!(receive(client), Some((b"answer".to_vec(), gateway())));
    }
    let shown = nat.show().unwrap();
    assert_eq!(
        (shown.nat.as_str(), shown.entries.len()),
        ("udp-symmetric", 2)
    );
    let text = shown.to_string();
    assert!(text.contains("192.168.1.3"), "{text}");

    nat.crash().unwrap();
    assert_eq!(nat.show().unwrap().entries.len(), 0);
    server.send_to(b"late", public[0]).unwrap();
    assert_eq!(receive(&clients[0]), None);

    for expected in ["203.0.113.3", "203.0.113.4"] {
        nat.remap(None, false).unwrap();
        clients[0].send_to(b"again", gateway()).unwrap();
        let (_, from) = receive(&server).unwrap();
        assert_eq!(from.ip().to_string(), expected);
        server.send_to(b"answer", from).unwrap();
        assert!(receive(&clients[0]).is_some());
    }
    let error = nat.remap(Some(Ipv4Addr::new(203, 0, 113, 1)), false);
    assert!(error.unwrap_err().to_string().contains("203.0.113.1"));

    nat.faults(&Faults {
        cut: Some(Direction::Outbound),
        ..Faults::default()
    })
    .unwrap();
    clients[0].send_to(b"cut", gateway()).unwrap();
    assert_eq!(receive(&server), None);
    lab.take_down().unwrap();
}

#[test]
fn the_kernel_answers_for_nothing_that_is_the_boxs() {
    let Some(lab) = lab("quiet", Middle::Model(Model::VpnMasquerade), 1) else {
        return;
    };
    // To a port where nobody listens: an answer by ICMP would show as an error on the socket.
    for (host, to) in [
        (Host::Gw, "203.0.113.2:4500"),
        (Host::Client, "192.168.1.1:4500"),
    ] {
        let socket = socket(lab.host(host));
        socket.connect(to).unwrap();
        socket.send(b"anybody?").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{host}");
    }
    lab.take_down().unwrap();
}

#[test]
fn the_kernels_nat_is_broken_by_the_same_calls() {
    let Some(lab) = lab("kernel", Middle::Nat, 1) else {
        return;
    };
    let nat = lab.nat().unwrap();
    let server = socket(lab.host(Host::Gw));
    let client = socket(lab.host(Host::Client));
    let ask = |what: &str| {
        client.send_to(what.as_bytes(), gateway()).unwrap();
        let (data, from) = receive(&server).unwrap();
        assert_eq!(data, what.as_bytes());
        from
    };
    assert_eq!(ask("one").to_string(), "203.0.113.2:500");
    assert_eq!(nat.show().unwrap().entries.len(), 1);
    nat.crash().unwrap();
    assert_eq!(nat.show().unwrap().entries.len(), 0);
    nat.remap(None, false).unwrap();
    assert_eq!(ask("two").to_string(), "203.0.113.3:500");
    for range in [20_000..=29_999, 40_000..=49_999] {
        nat.remap(None, true).unwrap();
        let from = ask("three");
        assert_eq!(from.ip().to_string(), "203.0.113.3");
        assert!(range.contains(&from.port()), "{from}");
    }
    let error = nat.faults(&Faults::default()).unwrap_err();
    assert!(error.to_string().contains("kernel"), "{error}");
    lab.take_down().unwrap();
}
