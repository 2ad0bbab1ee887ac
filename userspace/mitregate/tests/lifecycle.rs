//! What becomes of a tunnel when the two ends disagree, die, come back, rekey, or never meet.

mod common;
#[path = "common/live.rs"]
mod live;

use std::fs;
use std::time::Duration;

use live::{End, INNER_CLIENT, INNER_GATEWAY, Lab, MARKER, Pings, Recorder, ready};
use rustix::process::Signal;

const STEADY: Duration = Duration::from_millis(10);

/// Routes by which the protected traffic would leave in clear if nothing else took it.
fn open_the_back_door(lab: &Lab) {
    lab.client.ns.ip("route add default via 192.0.2.1");
    lab.gateway.ns.ip("route add default via 192.0.2.2");
}

fn attempts(client: &End) -> usize {
    client.log().matches("starting IKE SA").count()
}

fn no_epochs(end: &End) -> bool {
    end.epochs().is_empty() && end.status() == "down"
}

#[test]
fn a_wrong_secret_is_told_on_both_sides_and_leaves_nothing() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("psk", "", "");
    open_the_back_door(&lab);
    let wire = Recorder::start(&lab, "c0");
    lab.client.write_secret("not the gateway's secret");
    lab.gateway.start();
    lab.client.start();
    let (client, gateway) = (&lab.client, &lab.gateway);
    gateway.logs(&["home", "client@test", "wrong shared secret"]);
    client.logs(&["WARN", "home", "AUTHENTICATION_FAILED"]);
    // The operator who asks is told the same.
    let answer = client.json(&["initiate", "--child", "net", "--timeout", "30"]);
    assert_eq!(answer["ok"], false, "{answer}");
    let text = answer.to_string();
    assert!(text.contains("AUTHENTICATION_FAILED"), "{text}");
    // The client goes on trying, and each attempt leaves nothing at the gateway.
    client.eventually("further attempts", |end| attempts(end) >= 3);
    let sender = client.udp(&format!("{INNER_CLIENT}:0"));
    for _ in 0..20 {
        sender.send_to(MARKER, (INNER_GATEWAY, 9)).unwrap();
    }
    for end in [client, gateway] {
        end.eventually("no SA", |end| end.ike_sas() == 0 && no_epochs(end));
        end.log_is_clean();
    }
    let frames = wire.frames();
    assert!(frames.len() >= 6);
    for frame in frames {
        let kind = live::kind(&frame);
        assert!(
            matches!(kind, live::Kind::Arp | live::Kind::Ike),
            "{kind:?} {frame:02x?}"
        );
    }
    // The secret is put right: the next attempt of a restarted client has it.
    lab.client.signal(Signal::TERM);
    lab.client.write_secret(live::SECRET);
    lab.client.start();
    lab.proven();
}

#[test]
fn no_common_proposal_is_told() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("prop", "proposals = [\"aes256gcm16-prfsha256-x25519\"]", "");
    lab.gateway
        .reconfigure("prfsha256-x25519", "prfsha384-ecp256");
    lab.gateway.start();
    lab.client.start();
    lab.client.logs(&["WARN", "home", "NO_PROPOSAL_CHOSEN"]);
    lab.gateway.logs(&["192.0.2.2", "no common proposal"]);
    lab.client
        .eventually("further attempts", |end| attempts(end) >= 3);
    for end in [&lab.client, &lab.gateway] {
        end.eventually("no SA", |end| end.ike_sas() == 0 && no_epochs(end));
        end.log_is_clean();
    }
}

/// The IKE SA stays without its child (RFC 7296 §1.2), is not doubled, and the child is asked for
/// again.
fn no_child(what: &str, child: &str, at_gateway: [&str; 2], reason: &str) {
    let mut lab = Lab::new(what, "", child);
    lab.gateway.reconfigure(at_gateway[0], at_gateway[1]);
    lab.gateway.start();
    lab.client.start();
    lab.client.logs(&["WARN", "home/net", reason]);
    let refused = |end: &End| end.log().matches(reason).count();
    lab.client
        .eventually("further attempts", |end| refused(end) >= 3);
    for end in [&lab.client, &lab.gateway] {
        end.eventually("an IKE SA alone", |end| {
            end.ike_sas() == 1 && no_epochs(end)
        });
        end.log_is_clean();
    }
    let answer = lab.client.json(&["initiate", "--child", "net"]);
    assert!(answer.to_string().contains(reason), "{answer}");
    assert_eq!(lab.client.signal(Signal::TERM), Some(0));
    lab.gateway
        .eventually("the Delete", |end| end.ike_sas() == 0);
}

#[test]
fn selectors_that_do_not_meet_are_told() {
    if !ready() {
        return;
    }
    no_child(
        "ts",
        "",
        [
            "local_ts = [\"10.2.0.0/24\"]",
            "local_ts = [\"10.9.0.0/24\"]",
        ],
        "TS_UNACCEPTABLE",
    );
}

#[test]
fn no_common_esp_proposal_is_told() {
    if !ready() {
        return;
    }
    no_child(
        "esp",
        "esp_proposals = [\"aes256gcm16\"]",
        [
            "local_ts = [\"10.2.0.0/24\"]",
            "local_ts = [\"10.2.0.0/24\"]\nesp_proposals = [\"chacha20poly1305\"]",
        ],
        "NO_PROPOSAL_CHOSEN",
    );
}

/// One of the two is killed under traffic and comes back: the tunnel does, too, what was there
/// before is replaced, and all the time nothing protected is seen on the wire.
fn killed(what: &str, encap: &str, victim: fn(&mut Lab) -> &mut End) {
    let mut lab = Lab::new(what, &format!("encap = {encap:?}"), "");
    open_the_back_door(&lab);
    let wire = Recorder::start(&lab, "c0");
    lab.up();
    lab.one_of_each();
    let pings = Pings::start(&lab, STEADY);
    live::eventually("answers", || pings.answered() > 20, String::new);
    let spis = |end: &End| end.sas()["tunnels"][0]["epochs"][0]["spi_in"].clone();
    let before = [spis(&lab.client), spis(&lab.gateway)];

    let end = victim(&mut lab);
    end.signal(Signal::KILL);
    end.eventually("the interface to go", |end| {
        !end.ns.ip("link show").contains("mg0")
    });
    assert!(!end.ns.ip("link show wan").contains("xdp"));
    // Time for a leak: a hundred packets that have no tunnel.
    let sent = pings.sent();
    live::eventually("more pings", || pings.sent() > sent + 100, String::new);
    end.start();

    let answered = pings.answered();
    live::eventually(
        "answers again",
        || pings.answered() > answered + 50,
        || format!("{}\n\n{}", lab.client.log(), lab.gateway.log()),
    );
    // What is left of the old has gone from both ends.
    lab.one_of_each();
    let after = [spis(&lab.client), spis(&lab.gateway)];
    assert!(before[0] != after[0] && before[1] != after[1]);
    let pinged = pings.stop();
    assert!(pinged.answered.is_sorted(), "{pinged:?}");
    wire.saw_nothing_in_clear();
    for end in [&lab.client, &lab.gateway] {
        end.log_is_clean();
    }
}

#[test]
fn a_killed_client_comes_back() {
    if ready() {
        killed("kc", "esp", |lab| &mut lab.client);
    }
}

#[test]
fn a_killed_gateway_comes_back() {
    if ready() {
        killed("kg", "udp", |lab| &mut lab.gateway);
    }
}

#[test]
fn a_gateway_that_ends_deletes_its_sas_and_is_found_again() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("end", "encap = \"udp\"", "");
    open_the_back_door(&lab);
    let wire = Recorder::start(&lab, "c0");
    lab.up();
    let pings = Pings::start(&lab, STEADY);
    live::eventually("answers", || pings.answered() > 20, String::new);
    assert_eq!(lab.gateway.signal(Signal::TERM), Some(0));
    lab.client
        .eventually("the Delete", |end| end.status() == "down");
    // Only what fails closed is left there.
    let ns = &lab.gateway.ns;
    assert!(!ns.ip("link show").contains("mg0"));
    assert!(!ns.ip("link show wan").contains("xdp"));
    assert!(ns.ip("route show").contains("unreachable 10.1.0.1"));
    assert!(!lab.gateway.path("control.sock").exists());
    let sent = pings.sent();
    live::eventually("more pings", || pings.sent() > sent + 50, String::new);
    lab.gateway.start();
    lab.proven();
    let answered = pings.answered();
    live::eventually(
        "answers again",
        || pings.answered() > answered + 20,
        || lab.client.log(),
    );
    pings.stop();
    wire.saw_nothing_in_clear();

    for end in [&mut lab.client, &mut lab.gateway] {
        assert_eq!(end.signal(Signal::TERM), Some(0));
        assert!(end.ns.ip("route show").contains("unreachable"));
        let config = end.config();
        let release = end.ask(&["release", "-c", config.to_str().unwrap()]);
        assert!(release.status.success());
        assert!(!end.ns.ip("route show").contains("unreachable"));
        end.log_is_clean();
    }
}

fn rekeys(what: &str, encap: &str) {
    let mut lab = Lab::new(what, &format!("encap = {encap:?}"), "rekey_time = \"2s\"");
    let wire = Recorder::start(&lab, "c0");
    lab.up();
    let first = lab.client.epochs()[0].0;
    let pings = Pings::start(&lab, Duration::from_millis(2));
    lab.client.eventually("three rekeys", |end| {
        end.epochs()
            .last()
            .is_some_and(|newest| newest.0 >= first + 3)
    });
    let pinged = pings.stop();
    assert!(pinged.sent > 500, "{pinged:?}");
    pinged.all_in_order();
    wire.saw_nothing_in_clear();
    for end in [&lab.client, &lab.gateway] {
        end.eventually("the end of those before", |end| end.epochs().len() <= 2);
        assert_eq!(end.ike_sas(), 1);
        end.log_is_clean();
    }
}

#[test]
fn rekeys_lose_nothing() {
    if ready() {
        rekeys("rek", "esp");
    }
}

#[test]
fn rekeys_lose_nothing_in_udp() {
    if ready() {
        rekeys("reku", "udp");
    }
}

#[test]
fn data_that_comes_too_early_waits_and_arrives_in_order() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("early", "", "");
    open_the_back_door(&lab);
    let wire = Recorder::start(&lab, "c0");
    lab.client.start();
    // The gateway's kernel answers with ICMP errors: nobody listens there yet.
    let sender = lab.client.udp(&format!("{INNER_CLIENT}:0"));
    for n in 0..200_u64 {
        let datagram = [&n.to_be_bytes()[..], MARKER].concat();
        sender.send_to(&datagram, (INNER_GATEWAY, 9)).unwrap();
    }
    lab.client.eventually("data that waits", |end| {
        end.stats()["frames"]["held"] == 200 && end.sas()["tunnels"][0]["data_waiting"] == true
    });
    let receiver = lab.gateway.udp(&format!("{INNER_GATEWAY}:9"));
    lab.gateway.start();
    lab.proven();
    let mut arrived = Vec::new();
    let mut buffer = [0; 100];
    while arrived.len() < 200 {
        let len = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[8..len], MARKER);
        arrived.push(u64::from_be_bytes(buffer[..8].try_into().unwrap()));
    }
    assert!(arrived.iter().copied().eq(0..200), "{arrived:?}");
    assert_eq!(lab.client.stats()["frames"]["held"], 0);
    assert_eq!(lab.client.fate("hold_overflow"), 0);
    wire.saw_nothing_in_clear();
}

#[test]
fn what_waits_is_bounded_and_the_newest_is_kept() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("hold", "", "");
    lab.client.start();
    let sender = lab.client.udp(&format!("{INNER_CLIENT}:0"));
    for n in 0..400_u64 {
        sender
            .send_to(&n.to_be_bytes(), (INNER_GATEWAY, 9))
            .unwrap();
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    lab.client.eventually("all of it to be taken", |end| {
        let stats = end.stats();
        let held = stats["frames"]["held"].as_u64().unwrap();
        held + stats["fates"]["hold_overflow"].as_u64().unwrap() == 400
    });
    let held = lab.client.stats()["frames"]["held"].as_u64().unwrap();
    assert!(held < 400, "{held}");
    let receiver = lab.gateway.udp(&format!("{INNER_GATEWAY}:9"));
    lab.gateway.start();
    let mut buffer = [0; 100];
    lab.proven();
    for n in 400 - held..400 {
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 8);
        assert_eq!(buffer[..8], n.to_be_bytes());
    }
}

#[test]
fn an_interface_without_xdp_is_served_generically_or_refused() {
    if !ready() {
        return;
    }
    let mut lab = Lab::new("gen", "encap = \"udp\"", "");
    // A bridge has no XDP of its own.
    let ns = &lab.client.ns;
    ns.ip("addr flush dev wan");
    ns.ip("link set wan down");
    ns.ip("link set wan name port");
    ns.ip("link add wan type bridge mcast_snooping 0");
    ns.ip("link set wan addrgenmode none");
    ns.ip("link set port master wan");
    ns.ip("link set port up");
    ns.ip("link set wan up");
    ns.ip("addr add 192.0.2.2/24 dev wan");
    lab.client.reconfigure(
        "interface = \"wan\"",
        "interface = \"wan\"\nxdp_mode = \"native\"",
    );
    let said = lab.client.fails_to_start();
    assert!(
        said.contains("wan") && said.contains("native") && said.contains("generic"),
        "{said}"
    );
    assert!(!lab.client.ns.ip("link show").contains("mg0"));

    lab.client
        .reconfigure("xdp_mode = \"native\"", "xdp_mode = \"auto\"");
    lab.up();
    let stats = lab.client.stats();
    assert_eq!(stats["outer"]["xdp_mode"], "generic", "{stats}");
    let pings = Pings::start(&lab, STEADY);
    live::eventually("answers", || pings.answered() > 50, || lab.client.log());
    pings.stop().all_in_order();
    lab.client.log_is_clean();
    assert_eq!(lab.client.signal(Signal::TERM), Some(0));
    assert!(!lab.client.ns.ip("link show wan").contains("xdp"));
}

/// Each says what is wrong, where, and what to do; none leaves anything behind.
#[test]
fn a_start_that_cannot_succeed_says_why() {
    if !ready() {
        return;
    }
    let lab = Lab::new("why", "", "");
    let client = &lab.client;
    // A start that fails leaves the protected prefixes unreachable, and nothing else.
    let routes = || -> String {
        let all = client.ns.ip("route show");
        let kept = all
            .lines()
            .filter(|line| !line.starts_with("unreachable 10.2.0.0/24"));
        kept.collect()
    };
    let before = [client.ns.ip("link show"), routes()];
    let good = fs::read_to_string(client.config()).unwrap();
    let nat_t = client.udp("0.0.0.0:4500");
    let said = client.fails_to_start();
    assert!(
        said.contains("UDP port 4500") && said.contains("another IKE daemon"),
        "{said}"
    );
    drop(nat_t);
    for (from, to, expected) in [
        (
            "interface = \"wan\"",
            "interfaces = \"wan\"",
            &["mitregate.toml:6", "outer.interfaces", "unknown field"][..],
        ),
        (
            "interface = \"wan\"",
            "interface = \"wann\"",
            &["outer.interface", "there is no interface wann", "ip link"],
        ),
        (
            "start_action = \"start\"",
            "start_action = \"sart\"",
            &[
                "mitregate.toml:",
                "connections.home.children.net.start_action",
                "sart",
            ],
        ),
        (
            "remote_ts = [\"10.2.0.0/24\"]",
            "remote_ts = [\"10.2.0.0/42\"]",
            &[
                "mitregate.toml:",
                "connections.home.children.net.remote_ts",
                "10.2.0.0/42",
            ],
        ),
        (
            "interface = \"wan\"",
            "interface = \"wan\"\nqueue = 99",
            &["outer.queue", "wan", "99"],
        ),
        (
            "[inner]",
            "[inner]\ninterface = \"wan\"",
            &["mitregate.toml:", "inner.interface", "outer interface"],
        ),
        (
            "secret_file = \"psk\"",
            "secret_file = \"ksp\"",
            &["mitregate.toml:", "secrets.home", "ksp"],
        ),
    ] {
        assert!(good.contains(from), "{from}");
        fs::write(client.config(), good.replacen(from, to, 1)).unwrap();
        let said = client.fails_to_start();
        for words in expected {
            assert!(said.contains(words), "{words} not in {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
    // Without a privilege that it needs.
    fs::write(client.config(), &good).unwrap();
    for capability in ["net_admin", "net_raw", "sys_admin", "net_bind_service"] {
        let drop = format!("-{capability}");
        let output = client
            .ns
            .command("setpriv")
            .args(["--bounding-set", &drop, "--inh-caps", &drop, "--"])
            .args([live::MITREGATE, "run", "-c"])
            .arg(client.config())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let name = format!("CAP_{}", capability.to_uppercase());
        assert!(said.contains(&name) && said.contains("root"), "{said}");
    }
    let after = [client.ns.ip("link show"), routes()];
    assert_eq!(before, after);
    assert!(!client.path("control.sock").exists());
}
