//! Who is followed where (gate.md's G7), and what moves nobody: replays, delayed packets, plain pings, and
//! the same packets in the other form, from wherever somebody on the path sends them.

mod lab;

use std::net::SocketAddr;

use lab::{CLIENT, SERVER, Setup, World, ms, secs};
use mitregate_control::Command;
use mitregate_dataplane::Fate;
use mitregate_lab::nat::Packet;
use mitregate_wire::ip::protocol;

/// Somebody else's.
const ELSEWHERE: [u8; 4] = [198, 51, 100, 66];

fn up(setup: Setup) -> World {
    let mut world = World::new(setup);
    world.run_until_up(secs(3));
    world.run(secs(4));
    world
}

fn remote(world: &World) -> SocketAddr {
    let epochs = world.tunnel(SERVER).epochs;
    let [epoch] = epochs.as_slice() else {
        panic!("one epoch: {epochs:?}");
    };
    epoch.remote.parse().unwrap()
}

/// A ping of the client's, under way to the server and taken off the network.
fn taken(world: &mut World) -> Packet {
    world.steal();
    world.command(
        CLIENT,
        Command::Ping {
            tunnel: "net".to_owned(),
            count: 1,
            interval: secs(1),
            size: 8,
        },
    );
    world.run(ms(2));
    let mut stolen = world.steal();
    stolen.retain(|packet| packet.protocol() == protocol::ESP || packet.src().port() == 4500);
    assert_eq!(stolen.len(), 1, "{stolen:?}");
    stolen.remove(0)
}

/// Sends a packet on, as it was or from elsewhere.
fn send(world: &mut World, packet: &Packet, from: Option<SocketAddr>) {
    let (src, dst) = (from.unwrap_or(packet.src()), packet.dst());
    world.inject(src, dst, packet.payload());
    world.run(ms(50));
}

fn elsewhere(port: u16) -> SocketAddr {
    (ELSEWHERE, port).into()
}

/// Both forms: behind a NAT in UDP, and without one by plain ESP.
fn both() -> [(World, u16); 2] {
    let world = |nat| {
        up(Setup {
            nat,
            ..Setup::default()
        })
    };
    [(world(true), 4500), (world(false), 0)]
}

#[test]
fn a_replayed_ping_from_elsewhere_moves_nobody() {
    for (mut world, port) in both() {
        let there = remote(&world);
        let ping = taken(&mut world);
        send(&mut world, &ping, None);
        assert_eq!(world.fate(SERVER, Fate::Replay), 0);
        for _ in 0..20 {
            send(&mut world, &ping, Some(elsewhere(port)));
            assert_eq!(remote(&world), there);
        }
        assert_eq!(world.fate(SERVER, Fate::Replay), 20);
    }
}

#[test]
fn a_delayed_ping_from_elsewhere_moves_nobody() {
    for (mut world, port) in both() {
        let there = remote(&world);
        let late = taken(&mut world);
        let ping = taken(&mut world);
        send(&mut world, &ping, None);
        // Fresh and authentic, and answered; but a newer one has been here.
        let answers = world.tunnel(SERVER).gate.echoes_answered;
        send(&mut world, &late, Some(elsewhere(port)));
        assert_eq!(world.fate(SERVER, Fate::Replay), 0);
        assert_eq!(world.tunnel(SERVER).gate.echoes_answered, answers + 1);
        assert_eq!(remote(&world), there);
    }
}

#[test]
fn the_newest_ping_moves_where_esp_goes_and_no_oftener_than_once_a_second() {
    for (mut world, port) in both() {
        let there = remote(&world);
        let pings = [(); 3].map(|()| taken(&mut world));
        send(&mut world, &pings[0], Some(elsewhere(port)));
        assert_eq!(remote(&world), elsewhere(port));
        // From one end to the other and back is a second.
        send(
            &mut world,
            &pings[1],
            Some((ELSEWHERE, port.max(1) - 1).into()),
        );
        send(&mut world, &pings[2], None);
        assert_eq!(remote(&world), elsewhere(port));
        world.run(secs(1));
        let ping = taken(&mut world);
        send(&mut world, &ping, None);
        assert_eq!(remote(&world), there);
    }
}

/// Whoever takes a ping out of UDP and sends it on by plain ESP makes the server ask there, twice at the
/// most, and whoever does not answer is not gone to.
#[test]
fn the_other_form_from_elsewhere_is_asked_and_not_followed() {
    let mut world = up(Setup {
        probe_behind_nat: true,
        ..Setup::default()
    });
    // The NAT lets plain ESP out no more: the client stays in UDP.
    world.drop_esp(true, true);
    world.run(secs(30));
    let there = remote(&world);
    assert_eq!(there.port(), 4500);
    world.drop_esp(false, false);
    let ping = taken(&mut world);
    let esp = ping.payload().to_vec();
    let before = world.tunnel(SERVER).encap;
    world.inject(elsewhere(0), (lab::gateway(), 0).into(), &esp);
    world.run(secs(5));
    let after = world.tunnel(SERVER).encap;
    assert_eq!(after.pings_sent - before.pings_sent, 2);
    assert_eq!(after.unanswered - before.unanswered, 1);
    assert_eq!((after.to_esp, after.to_udp), (before.to_esp, before.to_udp));
    assert_eq!(remote(&world), there);
    assert!(world.is_up());
}

/// SPIs 7 and 8 in clear, whosever: answered one for one up to a rate, and nothing else.
#[test]
fn plain_pings_are_answered_like_icmp_and_change_nothing() {
    let mut world = up(Setup {
        nat: false,
        ..Setup::default()
    });
    let (there, gateway) = (remote(&world), (lab::gateway(), 0).into());
    let request = |id: u8| [0, 0, 0, 7, 0, 0, 0, 1, 2, 0, 0, 4, 0, id, 0, 1, 1, 2, 3, 4];
    let told = world.fate(SERVER, Fate::ControlSent);
    for id in 0..200 {
        world.inject(elsewhere(0), gateway, &request(id));
    }
    world.run(ms(100));
    let answered = world.fate(SERVER, Fate::ControlSent) - told;
    assert!((30..=40).contains(&answered), "{answered} of 200 at once");
    // Answers to nothing, lies, and things that are no ping.
    let told = world.fate(SERVER, Fate::ControlSent);
    let mut lie = request(0);
    lie[11] = 5;
    let mut answer = request(0);
    (answer[3], answer[7], answer[8]) = (8, 0, 3);
    for packet in [
        &lie[..],
        &answer,
        &request(0)[..9],
        &[0, 0, 0, 8, 0, 0, 0, 0],
    ] {
        world.inject(elsewhere(0), gateway, packet);
    }
    world.run(secs(1));
    assert_eq!(world.fate(SERVER, Fate::ControlSent) - told, 0);
    assert_eq!(remote(&world), there);
    assert_eq!(world.tunnel(SERVER).encap.pings_sent, 0);
    assert!(world.is_up());
}

/// A client whose answers to plain pings are forged asks through its SA, and that is not answered by
/// whoever has no key.
#[test]
fn a_forged_answer_that_protocol_50_passes_leads_to_a_question_and_no_more() {
    let mut world = up(Setup {
        nat: false,
        ..Setup::default()
    });
    world.drop_esp(true, true);
    world.data_every = [Some(ms(100)); 2];
    world.run(secs(3));
    let encap = |world: &World| world.tunnel(CLIENT).epochs[0].encap;
    assert_eq!(encap(&world), "udp");
    let asks = |world: &World| world.tunnel(CLIENT).epochs[0].encap_asks;
    let asked = (0..20_000).any(|_| {
        world.run(ms(1));
        asks(&world) == Some("protocol-50")
    });
    assert!(asked);
    // The next of its pings, with all else that is under way; it goes no further.
    world.drop_esp(false, false);
    let mut plain = None;
    while plain.is_none() && asks(&world).is_some() {
        world.run(ms(1));
        let stolen = world.steal();
        plain = stolen.into_iter().find(|packet| packet.spi() == Some(7));
    }
    world.drop_esp(true, true);
    let plain = plain.expect("it asks more than once");
    let mut answer = plain.payload().to_vec();
    (answer[3], answer[8]) = (8, 3);
    answer[4..8].fill(0);
    world.inject(plain.dst(), plain.src(), &answer);
    world.run(ms(30));
    let forged = asks(&world) == Some("plain-esp");
    assert!(forged, "the question was seen and answered");
    world.run(secs(5));
    assert_eq!(encap(&world), "udp");
    assert!(world.is_up());
}

/// A NAT that gives the client another port while both send: the gateway asks where the data comes from, and
/// the client has noticed nothing when it moves.
#[test]
fn data_from_elsewhere_is_asked_and_then_followed() {
    let mut world = up(Setup::default());
    world.data_every = [Some(ms(20)); 2];
    world.run(secs(2));
    let there = remote(&world);
    let lost = world.tunnel(CLIENT).gate.pings_lost;
    world.remap_ports(20_000..=20_100);
    world.run(ms(200));
    let now = remote(&world);
    assert_eq!(now.ip(), there.ip());
    assert!((20_000..=20_100).contains(&now.port()), "{now}");
    assert_eq!(world.tunnel(CLIENT).gate.pings_lost, lost);
    let ike = world.list(SERVER).ike_sas[0].remote.clone();
    assert_eq!(ike, now.to_string(), "IKE shares its ports");
}

/// Somebody on the path sends the client's data on from elsewhere, and cannot answer.
#[test]
fn data_from_elsewhere_is_not_followed_without_an_answer() {
    for (mut world, port) in both() {
        let there = remote(&world);
        for _ in 0..5 {
            world.steal();
            world.data_every[CLIENT] = Some(ms(1));
            world.run(ms(4));
            world.data_every[CLIENT] = None;
            let stolen = world.steal();
            let newest = stolen.last().expect("data is under way");
            let esp = newest.payload().to_vec();
            world.inject(elsewhere(port), newest.dst(), &esp);
            world.run(secs(3));
            assert_eq!(remote(&world), there);
        }
        let asked = world.tunnel(SERVER).encap;
        assert!((1..=15).contains(&asked.pings_sent), "{asked:?}");
        assert_eq!(asked.answered, 0);
        assert!(world.is_up());
    }
}
