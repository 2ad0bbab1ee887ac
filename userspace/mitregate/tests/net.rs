//! The host side in network namespaces: the interface, its routes, next hops, placeholders.

mod common;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::{TestNs, privileged};
use mitregate::net::inner::{FAR_MAC, HOST_MAC, InnerConfig, InnerInterface};
use mitregate::net::nexthop::{Change, Events, NextHops};
use mitregate::net::routes::Protected;
use mitregate::net::{Netlink, Prefix};
use mitregate::placeholder::Placeholders;

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn inner_config() -> InnerConfig {
    InnerConfig {
        interface: "mg0".into(),
        mtu: 1400,
        addresses: vec![p("10.1.0.1/32")],
    }
}

#[test]
fn the_interface_is_ordinary_and_quiet_and_goes_with_its_namespace() {
    if !privileged() {
        return;
    }
    let host = TestNs::new("inner");
    let stay = host.block_on(async || {
        let netlink = Netlink::connect().unwrap();
        let inner = InnerInterface::create(&netlink, &inner_config())
            .await
            .unwrap();
        let link = netlink.link("mg0").await.unwrap().unwrap();
        assert_eq!(link.mac, Some(HOST_MAC));
        assert_eq!(link.mtu, 1400);
        assert!(link.up && link.veth);
        assert_eq!(link.index, inner.index());
        assert_eq!(
            netlink.addresses(link.index).await.unwrap(),
            [p("10.1.0.1/32")]
        );
        inner
    });
    let shown = host.ip("-d link show mg0");
    assert!(shown.contains("NOARP"), "{shown}");
    assert!(shown.contains("qdisc pfifo"), "{shown}");
    assert!(shown.contains("addrgenmode none"), "{shown}");
    // Neither a link-local address nor a packet of the kernel's own.
    assert!(!host.ip("addr show mg0").contains("inet6"));
    let features = std::process::Command::new("ip")
        .args(["netns", "exec", &host.name, "ethtool", "-k", "mg0"])
        .output();
    if let Ok(features) = features {
        let features = String::from_utf8_lossy(&features.stdout).into_owned();
        for line in features.lines().map(str::trim) {
            let (name, state) = line.split_once(": ").unwrap_or((line, ""));
            if name == "generic-segmentation-offload" {
                assert_eq!(state, "on");
            } else if name == "tx-checksumming"
                || (name.starts_with("tx-") && name.ends_with("-segmentation"))
                || name == "tx-gso-list"
                || name == "tx-vlan-offload"
            {
                assert!(state.starts_with("off"), "{line}");
            }
        }
    }
    let far = stay
        .namespace()
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                Netlink::connect()
                    .unwrap()
                    .link("mg0p")
                    .await
                    .unwrap()
                    .unwrap()
            })
        })
        .unwrap();
    assert_eq!((far.mac, far.mtu, far.up), (Some(FAR_MAC), 1400, true));
    assert_eq!(far.index, stay.far_index());

    // As when the process ends: no handle on the far end's namespace, no interface.
    drop(stay);
    let start = Instant::now();
    while host.ip("link show type veth").contains("mg0") {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "mg0 is still there"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_name_that_is_taken_is_refused() {
    if !privileged() {
        return;
    }
    let host = TestNs::new("taken");
    host.ip("link add mg0 type veth peer name other");
    let error = host.block_on(async || {
        let netlink = Netlink::connect().unwrap();
        InnerInterface::create(&netlink, &inner_config())
            .await
            .err()
            .unwrap()
            .to_string()
    });
    assert!(error.contains("mg0 exists and is not ours"), "{error}");
}

#[test]
fn a_second_start_waits_for_what_a_crash_left() {
    if !privileged() {
        return;
    }
    let host = TestNs::new("crash");
    host.block_on(async || {
        let netlink = Netlink::connect().unwrap();
        let crashed = InnerInterface::create(&netlink, &inner_config())
            .await
            .unwrap();
        drop(crashed);
        let again = InnerInterface::create(&netlink, &inner_config())
            .await
            .unwrap();
        again.remove(&netlink).await.unwrap();
        assert!(netlink.link("mg0").await.unwrap().is_none());
    });
}

#[test]
fn protected_prefixes_fail_closed_when_the_interface_goes() {
    if !privileged() {
        return;
    }
    let host = TestNs::new("routes");
    let other = TestNs::new("routes2");
    host.wire("wan", &other, "peer");
    host.ip("addr add 192.0.2.1/24 dev wan");
    host.ip("route add default via 192.0.2.2");
    let protected = [
        Protected {
            destination: p("10.2.0.0/24"),
            source: Some("10.1.0.1".parse().unwrap()),
            virtual_of: None,
        },
        Protected {
            destination: p("0.0.0.0/0"),
            source: None,
            virtual_of: None,
        },
    ];
    host.block_on(async || {
        let netlink = Netlink::connect().unwrap();
        let inner = InnerInterface::create(&netlink, &inner_config())
            .await
            .unwrap();
        netlink.protect(inner.index(), &protected).await.unwrap();
        // Once more: a restart finds them there.
        netlink.protect(inner.index(), &protected).await.unwrap();
        let to = |address: &str| host.ip(&format!("route get {address}"));
        assert!(
            to("10.2.0.7").contains("dev mg0 src 10.1.0.1"),
            "{}",
            to("10.2.0.7")
        );
        assert!(
            to("198.51.100.1").contains("dev mg0"),
            "{}",
            to("198.51.100.1")
        );
        assert!(
            to("203.0.113.1").contains("dev mg0"),
            "{}",
            to("203.0.113.1")
        );
        inner.remove(&netlink).await.unwrap();
        assert_eq!(netlink.unreachable_routes().await.unwrap().len(), 3);
    });
    let unreachable = |address: &str| {
        let output = std::process::Command::new("ip")
            .args(["-n", &host.name, "route", "get", address])
            .output()
            .unwrap();
        !output.status.success()
    };
    assert!(unreachable("10.2.0.7"));
    assert!(unreachable("198.51.100.1"));
    assert!(host.ip("route show").contains("proto 109"));
    host.block_on(async || {
        let netlink = Netlink::connect().unwrap();
        let all = protected.each_ref().map(|one| one.destination);
        let removed = netlink.release(&all).await.unwrap();
        assert_eq!(
            removed,
            [p("10.2.0.0/24"), p("0.0.0.0/1"), p("128.0.0.0/1")]
        );
        assert!(netlink.release(&all).await.unwrap().is_empty());
    });
    assert!(host.ip("route get 10.2.0.7").contains("dev wan"));
}

#[test]
fn a_route_that_would_leak_is_refused() {
    if !privileged() {
        return;
    }
    let host = TestNs::new("leak");
    let other = TestNs::new("leak2");
    host.wire("wan", &other, "peer");
    host.ip("addr add 192.0.2.1/24 dev wan");
    host.ip("route add 10.2.0.0/24 via 192.0.2.2");
    let error = host.block_on(async || {
        let netlink = Netlink::connect().unwrap();
        let inner = InnerInterface::create(&netlink, &inner_config())
            .await
            .unwrap();
        let protected = [Protected {
            destination: p("10.2.0.0/24"),
            source: None,
            virtual_of: None,
        }];
        netlink
            .protect(inner.index(), &protected)
            .await
            .unwrap_err()
            .to_string()
    });
    assert!(
        error.contains("10.2.0.0/24 with metric 0 would carry"),
        "{error}"
    );
}

#[test]
fn next_hops_are_resolved_and_followed() {
    if !privileged() {
        return;
    }
    let host = TestNs::new("hop");
    let router = TestNs::new("hop2");
    host.wire("wan", &router, "lan");
    host.ip("addr add 192.0.2.1/24 dev wan");
    router.ip("addr add 192.0.2.2/24 dev lan");
    router.ip("addr add 192.0.2.3/24 dev lan");
    host.ip("route add default via 192.0.2.2");
    let far: IpAddr = "203.0.113.1".parse().unwrap();
    let near: IpAddr = "192.0.2.3".parse().unwrap();
    host.block_on(async || {
        let mut events = Events::subscribe().unwrap();
        let netlink = Netlink::connect().unwrap();
        let wan = netlink.link("wan").await.unwrap().unwrap();
        let mut hops = NextHops::open(netlink, wan).await.unwrap();
        for peer in [far, near] {
            let path = hops.track(peer).await.unwrap().unwrap();
            assert_eq!(path.mac, None);
            assert_eq!(path.source, Some("192.0.2.1".parse().unwrap()));
        }
        wait(&mut hops, &mut events, |hops| {
            [far, near]
                .iter()
                .all(|peer| hops.path(*peer).unwrap().mac.is_some())
        })
        .await;
        assert_eq!(
            hops.path(far).unwrap().next_hop,
            "192.0.2.2".parse::<IpAddr>().unwrap()
        );
        assert_eq!(hops.path(near).unwrap().next_hop, near);
        assert_eq!(hops.path(far).unwrap().mac, hops.path(near).unwrap().mac);

        // The router's card is exchanged: it says so by a gratuitous ARP, or is asked again.
        router.ip("link set lan address 02:00:00:00:00:77");
        host.ip("neigh replace 192.0.2.2 dev wan lladdr 02:00:00:00:00:77 nud reachable");
        let new = "02:00:00:00:00:77".parse().unwrap();
        wait(&mut hops, &mut events, |hops| {
            hops.path(far).unwrap().mac == Some(new)
        })
        .await;

        // Another router.
        host.ip("route replace default via 192.0.2.3");
        wait(&mut hops, &mut events, |hops| {
            hops.path(far).unwrap().next_hop == near
        })
        .await;
        hops.confirm().await;

        host.ip("link del wan");
        loop {
            if let Some(Change::OuterGone) = hops.note(&events.next().await.unwrap()) {
                break;
            }
        }
    });
}

async fn wait(hops: &mut NextHops, events: &mut Events, done: impl Fn(&NextHops) -> bool) {
    tokio::time::timeout(Duration::from_secs(5), async {
        while !done(hops) {
            let event = events.next().await.unwrap();
            match hops.note(&event) {
                Some(Change::Neighbours) => drop(hops.apply_neighbours().await),
                Some(_) => drop(hops.refresh().await.unwrap()),
                None => {}
            }
        }
    })
    .await
    .expect("the kernel's event");
}

#[test]
fn placeholders_find_another_daemon() {
    if !privileged() {
        return;
    }
    let host = TestNs::new("ports");
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    host.block_on(async || {
        let first = Placeholders::bind(&[address]).unwrap();
        let error = Placeholders::bind(&[address]).err().unwrap().to_string();
        assert!(
            error.contains("UDP port 500 on 127.0.0.1 is in use"),
            "{error}"
        );
        drop(first);
        let charon = std::net::UdpSocket::bind("0.0.0.0:4500").unwrap();
        let error = Placeholders::bind(&[address]).err().unwrap().to_string();
        assert!(
            error.contains("UDP port 4500") && error.contains("another IKE daemon"),
            "{error}"
        );
        drop(charon);
        // Nothing is answered, and nothing is read.
        let _held = Placeholders::bind(&[address]).unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect("127.0.0.1:500").unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        client.send(b"x").unwrap();
        let error = client.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        let error = Placeholders::bind(&["192.0.2.9".parse().unwrap()])
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("not an address of this host"), "{error}");
    });
}
