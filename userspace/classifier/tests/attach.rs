//! The classifier on real interfaces, in network namespaces of its own.
//!
//! Needs root and the embedded objects: `cargo xtask test`.

mod lab;

use std::{
    net::{IpAddr, UdpSocket},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use lab::{Lab, enter, inside, ip};
use mitregate_classifier::{
    Classifier, Error, LoadConfig, Missing, Mode, ModeRequest, Role, Verdict,
    pin::{self, Pinned},
};
use mitregate_xsk::{FramePool, Port as _, Umem, UmemConfig, XskConfig, XskPort};
use rustix::{
    mount::{UnmountFlags, unmount},
    net::{AddressFamily, SocketType, netdevice::name_to_index, socket},
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

fn our_addresses() -> [IpAddr; 2] {
    ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().expect("an address"))
}

fn outer(interface: &str) -> LoadConfig {
    LoadConfig::new(interface, Role::Outer, &our_addresses())
}

fn listen(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("port is free");
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout");
    socket
}

/// A datagram from the peer; the ports of NAT-T are in use on both ends.
fn send(lab: &Lab, to: &str, payload: &[u8]) {
    inside(&lab.peer, || {
        let any = if to.starts_with('[') {
            "[::]:4500"
        } else {
            "0.0.0.0:4500"
        };
        UdpSocket::bind(any)
            .and_then(|socket| socket.send_to(payload, to))
            .expect("sent");
    });
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "timed out: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_attached(namespace: &str, interface: &str) -> bool {
    let out = Command::new("ip")
        .args(["-n", namespace, "link", "show", interface])
        .output();
    String::from_utf8_lossy(&out.expect("iproute2").stdout).contains("xdp")
}

#[test]
fn native_on_veth_counts_and_passes_without_socket() {
    let lab = Lab::new();
    enter(&lab.us);
    let classifier = Classifier::load_and_attach(&outer("wan")).expect("attached");
    assert_eq!(
        (classifier.mode(), classifier.fallback()),
        (Mode::Native, None)
    );

    for (address, ike) in [
        ("192.0.2.1:4500", "192.0.2.1:500"),
        ("[2001:db8::1]:4500", "[2001:db8::1]:500"),
    ] {
        let [nat_t, plain] = [address, ike].map(listen);
        send(&lab, address, &[0, 0, 0, 0, 1, 2, 3, 4]);
        send(&lab, address, &[9, 9, 9, 9, 0, 0, 0, 1]);
        send(&lab, address, &[0xff]);
        send(&lab, ike, &[1; 28]);
        let mut buffer = [0; 64];
        for expected in [8, 8, 1] {
            assert_eq!(nat_t.recv(&mut buffer).expect("passed"), expected);
        }
        assert_eq!(plain.recv(&mut buffer).expect("passed"), 28);
    }
    let counters = classifier.counters().expect("counters");
    for verdict in [
        Verdict::IkeNatT,
        Verdict::EspNatT,
        Verdict::NatKeepalive,
        Verdict::Ike,
    ] {
        let count = counters.get(verdict);
        assert_eq!((count.packets, count.no_socket), (2, 2), "{verdict:?}");
    }
    assert!(
        counters.get(Verdict::NotIpsec).packets > 0,
        "neighbour discovery passed"
    );

    drop(classifier);
    assert!(!is_attached(&lab.us, "wan"));
}

#[test]
fn a_bound_socket_gets_what_is_ours_and_nothing_else() {
    let lab = Lab::new();
    enter(&lab.us);
    let mut classifier = Classifier::load_and_attach(&outer("wan")).expect("attached");
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
    let ifindex = name_to_index(any, "wan").expect("wan is there");
    let umem = Umem::new(UmemConfig::default()).expect("memory");
    let mut pool = FramePool::new(&umem, umem.frames(), 0).expect("frames");
    let mut port = XskPort::open(&XskConfig::new(ifindex, 0, &umem)).expect("AF_XDP");
    port.refill(&mut pool);
    classifier
        .set_socket(0, port.socket_fd())
        .expect("in the map");

    let [nat_t, other] = ["192.0.2.1:4500", "192.0.2.1:9000"].map(listen);
    send(&lab, "192.0.2.1:4500", b"\xc1\x02\x03\x04 esp");
    send(&lab, "192.0.2.1:9000", b"the kernel's");
    let mut buffer = [0; 64];
    assert_eq!(other.recv(&mut buffer).expect("passed"), 12);

    let mut frames = Vec::new();
    wait_for("a frame", || port.rx(&mut frames, 64) > 0);
    let [frame] = frames.as_slice() else {
        panic!("{} frames", frames.len())
    };
    assert_eq!(&umem.bytes(frame)[42..], b"\xc1\x02\x03\x04 esp");
    let count = classifier
        .counters()
        .expect("counters")
        .get(Verdict::EspNatT);
    assert_eq!((count.packets, count.no_socket), (1, 0));

    classifier.clear_socket(0).expect("out of the map");
    classifier.clear_socket(0).expect("is out already");
    send(&lab, "192.0.2.1:4500", b"\xc1\x02\x03\x04 esp");
    assert_eq!(nat_t.recv(&mut buffer).expect("passes again"), 8);
}

#[test]
fn addresses_can_be_replaced() {
    let lab = Lab::new();
    enter(&lab.us);
    let mut classifier = Classifier::load_and_attach(&outer("wan")).expect("attached");
    let hit = |classifier: &Classifier, verdict| {
        let before = classifier
            .counters()
            .expect("counters")
            .get(verdict)
            .packets;
        send(&lab, "192.0.2.1:4500", &[0xff]);
        wait_for("the keepalive", || {
            classifier
                .counters()
                .expect("counters")
                .get(verdict)
                .packets
                > before
        });
    };
    hit(&classifier, Verdict::NatKeepalive);
    classifier
        .set_addresses(&["192.0.2.99".parse().expect("an address")])
        .expect("replaced");
    hit(&classifier, Verdict::NotForUs);
    classifier
        .set_addresses(&our_addresses())
        .expect("replaced");
    hit(&classifier, Verdict::NatKeepalive);

    let many: Vec<IpAddr> = (0..=256u32).map(|n| IpAddr::V4(n.into())).collect();
    let error = classifier.set_addresses(&many).expect_err("too many");
    assert!(
        matches!(
            error,
            Error::Limit {
                value: 257,
                limit: 256,
                ..
            }
        ),
        "{error}"
    );
    hit(&classifier, Verdict::NatKeepalive);
}

#[test]
fn an_inner_port_drops_without_socket() {
    let lab = Lab::new();
    enter(&lab.us);
    let config = LoadConfig::new("wan", Role::Inner, &[]);
    let classifier = Classifier::load_and_attach(&config).expect("attached");
    let receiver = UdpSocket::bind("192.0.2.1:9000").expect("port is free");
    receiver
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a timeout");
    // ARP, if nothing else, reaches the port.
    send(&lab, "192.0.2.1:9000", b"dropped");
    assert!(
        receiver.recv(&mut [0; 64]).is_err(),
        "an inner port never passes"
    );
    wait_for("a drop", || {
        let count = classifier.counters().expect("counters").get(Verdict::Inner);
        count.packets > 0 && count.packets == count.no_socket
    });
}

#[test]
fn auto_falls_back_where_the_driver_cannot() {
    let lab = Lab::new();
    enter(&lab.us);
    // The loopback device has no XDP of its own; frames of 9000 bytes are too long for veth's.
    ip(&format!("-n {} link set wan mtu 9000", lab.us));
    ip(&format!("-n {} link set wan mtu 9000", lab.peer));
    for (interface, reason) in [("lo", "driver"), ("wan", "MTU")] {
        let native = LoadConfig {
            mode: ModeRequest::Native,
            ..outer(interface)
        };
        let error = Classifier::load_and_attach(&native)
            .map(drop)
            .expect_err("no native XDP");
        assert!(
            matches!(
                error,
                Error::Unsupported {
                    mode: Mode::Native,
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains(interface), "{error}");

        let classifier = Classifier::load_and_attach(&outer(interface)).expect("generic");
        assert_eq!(classifier.mode(), Mode::Generic);
        let told = classifier.fallback().expect("a reason");
        assert!(told.contains(reason), "{told}");
    }
}

#[test]
fn errors_name_the_interface_and_what_to_do() {
    let lab = Lab::new();
    enter(&lab.us);
    let absent = Classifier::load_and_attach(&outer("nowhere")).map(drop);
    let absent = absent.expect_err("no such interface");
    assert!(matches!(&absent, Error::NoInterface { interface } if interface == "nowhere"));

    let first = Classifier::load_and_attach(&outer("wan")).expect("attached");
    for mode in [ModeRequest::Auto, ModeRequest::Native, ModeRequest::Generic] {
        let second = Classifier::load_and_attach(&LoadConfig {
            mode,
            ..outer("wan")
        })
        .map(drop);
        let second = second.expect_err("one program per interface");
        assert!(matches!(second, Error::Busy { .. }), "{mode:?}: {second}");
        assert!(second.to_string().contains("unload --dev wan"), "{second}");
    }
    drop(first);
    let mut again = Classifier::load_and_attach(&outer("wan")).expect("free again");
    let not_xdp = listen("192.0.2.1:9001");
    let beyond = again
        .set_socket(256, std::os::fd::AsFd::as_fd(&not_xdp))
        .expect_err("no queue");
    assert!(
        matches!(
            beyond,
            Error::Limit {
                value: 256,
                limit: 255,
                ..
            }
        ),
        "{beyond}"
    );
    let wrong = again
        .set_socket(0, std::os::fd::AsFd::as_fd(&not_xdp))
        .expect_err("not AF_XDP");
    assert!(wrong.to_string().contains("wan"), "{wrong}");
}

#[test]
fn without_capabilities_the_error_says_which() {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // Of this thread alone, which ends with the test.
    set_capabilities(None, none).expect("one may always have fewer");
    let error = Classifier::load_and_attach(&outer("lo"))
        .map(drop)
        .expect_err("not permitted");
    let Error::NotPermitted {
        missing: Missing::Capabilities(names),
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(names, &["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"]);
    assert!(error.to_string().contains("root"), "{error}");
}

#[test]
fn pins_outlive_the_loader_and_unload_ends_it() {
    let lab = Lab::new();
    enter(&lab.us);
    let scratch = tempfile::tempdir().expect("a directory");
    let bpffs = scratch.path().join("bpf");
    let dir = bpffs.join("wan");
    let config = LoadConfig {
        pin: Some(dir.clone()),
        ..outer("wan")
    };
    drop(Classifier::load_and_attach(&config).expect("attached"));
    assert!(is_attached(&lab.us, "wan"), "the pin keeps it");

    let pinned = Pinned::open("wan", &dir).expect("pinned");
    let before = pinned
        .counters()
        .expect("counters")
        .get(Verdict::NatKeepalive)
        .packets;
    send(&lab, "192.0.2.1:4500", &[0xff]);
    wait_for("the keepalive", || {
        pinned
            .counters()
            .expect("counters")
            .get(Verdict::NatKeepalive)
            .packets
            > before
    });
    let status = pinned.status().expect("status");
    assert_eq!((status.role, status.mode), ("outer", Mode::Native));

    let busy = Classifier::load_and_attach(&config)
        .map(drop)
        .expect_err("loaded already");
    assert!(matches!(busy, Error::Busy { .. }), "{busy}");
    assert!(
        is_attached(&lab.us, "wan"),
        "the failed attempt has left the pins alone"
    );

    Pinned::open("wan", &dir)
        .expect("pinned")
        .unload()
        .expect("unloaded");
    wait_for("detached", || !is_attached(&lab.us, "wan"));
    let absent = Pinned::open("wan", &dir).map(drop).expect_err("gone");
    assert!(matches!(absent, Error::NotPinned { .. }), "{absent}");
    unmount(&bpffs, UnmountFlags::empty()).expect("the test's own bpffs");
}

#[test]
fn stale_pins_are_replaced() {
    let lab = Lab::new();
    enter(&lab.us);
    let scratch = tempfile::tempdir().expect("a directory");
    let bpffs = scratch.path().join("bpf");
    let dir = bpffs.join("wan");
    let config = LoadConfig {
        pin: Some(dir.clone()),
        ..outer("wan")
    };
    drop(Classifier::load_and_attach(&config).expect("attached"));
    ip(&format!("-n {} link delete wan", lab.us));
    ip(&format!(
        "-n {} link add wan type veth peer name wan netns {}",
        lab.us, lab.peer
    ));
    drop(Classifier::load_and_attach(&config).expect("attached to the new one"));
    assert!(is_attached(&lab.us, "wan"));
    Pinned::open("wan", &dir)
        .expect("pinned")
        .unload()
        .expect("unloaded");
    unmount(&bpffs, UnmountFlags::empty()).expect("the test's own bpffs");
}

#[test]
fn the_command_loads_shows_and_unloads() {
    let lab = Lab::new();
    let bpffs = Path::new(pin::DEFAULT_BPFFS);
    let was_there = bpffs.exists();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mitregate-xdp"));
        let out = command
            .args(args)
            .args(["--dev", "wan", "--netns", &lab.us])
            .output();
        let out = out.expect("it starts");
        let text = [out.stdout, out.stderr].concat();
        (
            out.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    if !was_there {
        // Its mounts are gone with the command, and the pins with them.
        let mut private = Command::new("ip");
        private.args([
            "netns",
            "exec",
            &lab.us,
            env!("CARGO_BIN_EXE_mitregate-xdp"),
        ]);
        let out = private.args(["load", "--dev", "wan"]).output();
        let out = out.expect("iproute2");
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && text.contains("--netns"), "{text}");
    }
    let (ok, text) = run(&["load"]);
    assert!(
        ok && text.contains("native") && text.contains("192.0.2.1"),
        "{text}"
    );
    send(&lab, "192.0.2.1:4500", &[0xff]);
    wait_for("the keepalive", || {
        let (ok, text) = run(&["stats", "--json"]);
        assert!(ok, "{text}");
        text.contains("\"nat_keepalive\": {\n      \"packets\": 1")
    });
    let (ok, text) = run(&["stats"]);
    assert!(ok && text.contains("nat_keepalive"), "{text}");
    let (ok, text) = run(&["load"]);
    assert!(!ok && text.contains("unload --dev wan"), "{text}");
    let (ok, text) = run(&["unload"]);
    assert!(ok, "{text}");
    wait_for("detached", || !is_attached(&lab.us, "wan"));
    let (ok, text) = run(&["unload"]);
    assert!(!ok && text.contains("not pinned"), "{text}");
    assert_eq!(
        bpffs.exists(),
        was_there,
        "a bpffs that was mounted for the pins goes with them"
    );
}
