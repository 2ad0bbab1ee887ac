//! Bad input on the wire of a live tunnel: each frame ends in its fate, and the tunnel goes on.

mod common;
#[path = "common/live.rs"]
mod live;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use live::{
    CLIENT, GATEWAY, Kind, Lab, Pings, Recorder, STRANGER, Tap, from_stranger, ipv4, payload_at,
    ready, repaired, udp,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::Value;

const ESP: [Kind; 2] = [Kind::Esp, Kind::EspInUdp];

/// A lab with its tunnel up, watched from the first frame, and pinged through all the time.
struct Target {
    lab: Lab,
    pings: Pings,
    /// What went over the wire; not what this test sends, which leaves by the same port.
    wire: Recorder,
    at_client: Tap,
    at_gateway: Tap,
    before: [Census; 2],
    rng: ChaCha20Rng,
}

/// What must not change. Half-open IKE SAs of forged first requests come, and go by themselves:
/// [`hostile_ike_messages`] waits for that.
#[derive(Debug, PartialEq)]
struct Census {
    ike_sas: Vec<Value>,
    epochs: Vec<(u64, String)>,
    frames: Value,
}

impl Census {
    fn of(end: &live::End) -> Self {
        let sas = end.sas();
        Self {
            ike_sas: sas["ike_sas"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|sa| sa["state"] != "connecting")
                .map(|sa| sa["spi_local"].clone())
                .collect(),
            epochs: end.epochs(),
            frames: end.stats()["frames"]["total"].clone(),
        }
    }
}

impl Target {
    fn new(what: &str, encap: &str) -> Self {
        let mut lab = Lab::new(what, &format!("encap = {encap:?}"), "");
        let wire = Recorder::start(&lab, "c0");
        lab.up();
        lab.one_of_each();
        let target = Self {
            pings: Pings::start(&lab, Duration::from_millis(10)),
            at_client: Tap::open(&lab.middle, "c0"),
            at_gateway: Tap::open(&lab.middle, "g0"),
            before: [Census::of(&lab.client), Census::of(&lab.gateway)],
            wire,
            lab,
            rng: ChaCha20Rng::seed_from_u64(7),
        };
        live::eventually(
            "data on the wire",
            || target.wire.of(&ESP, GATEWAY).len() > 64,
            || target.lab.client.log(),
        );
        target
    }

    /// ESP packets of the client, the oldest that there are.
    fn esp(&self, count: usize) -> Vec<Vec<u8>> {
        let mut frames = self.wire.of(&ESP, GATEWAY);
        // Pings that are padded to the path's MTU leave no room for tests to add to.
        frames.retain(|frame| frame.len() < 500);
        frames[..count.min(frames.len())].to_vec()
    }

    /// ESP packets with sequence numbers that the client has not come to.
    fn future_esp(&self, count: usize) -> Vec<Vec<u8>> {
        let mut frames = self.esp(count);
        for (n, frame) in frames.iter_mut().enumerate() {
            let at = payload_at(frame) + 4;
            let number = 1_000_000 + u32::try_from(n).unwrap();
            frame[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
        frames
    }

    fn random(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.next_u32()).unwrap() % bound
    }

    /// Sends to the gateway, where a counter of `stats` then shows that many more.
    #[track_caller]
    fn counts(&self, what: &str, counter: &str, frames: &[Vec<u8>]) {
        let read = || self.lab.gateway.stats().pointer(counter).unwrap().as_u64();
        let before = read().unwrap();
        self.at_gateway.send_all(frames);
        let wanted = before + frames.len() as u64;
        live::eventually(
            what,
            || read() >= Some(wanted),
            || {
                let stats = self.lab.gateway.stats();
                format!("{counter} from {before} to {wanted}: {stats:#}")
            },
        );
    }

    /// The pings are answered, all of them, and both ends have what they had.
    #[track_caller]
    fn unharmed(mut self) {
        for end in [&mut self.lab.client, &mut self.lab.gateway] {
            assert!(end.runs(), "{}", end.log());
        }
        for (end, before) in [&self.lab.client, &self.lab.gateway]
            .into_iter()
            .zip(&self.before)
        {
            end.eventually("what there was before", |end| Census::of(end) == *before);
            end.log_is_clean();
        }
        let pings = self.pings.stop();
        assert!(pings.sent > 50, "{pings:?}");
        pings.all_in_order();
    }
}

fn fate(label: &str) -> String {
    format!("/fates/{label}")
}

fn verdict(label: &str) -> String {
    format!("/outer/classifier/{label}/packets")
}

fn hostile_esp(what: &str, encap: &str) {
    if !ready() {
        return;
    }
    let target = Target::new(what, encap);
    let old = target.esp(32);
    target.counts("replays", &fate("replay"), &old);
    // A copy with another ICV is as old.
    let flip_last = |mut frame: Vec<u8>| {
        *frame.last_mut().unwrap() ^= 1;
        frame
    };
    let forged: Vec<_> = old.iter().cloned().map(flip_last).collect();
    target.counts("forged replays", &fate("replay"), &forged);
    let future = target.future_esp(32);
    target.counts("wrong ICV", &fate("integ_error"), &future);

    let with_spi = |spi: [u8; 4]| {
        let old = old.iter().cloned();
        old.map(|mut frame| {
            let at = payload_at(&frame);
            frame[at..at + 4].copy_from_slice(&spi);
            frame
        })
        .collect::<Vec<_>>()
    };
    // The first worker's, a worker's that is not there, and reserved ones.
    for spi in [
        [1, 0xff, 0xff, 0xff],
        [9, 1, 2, 3],
        [0, 0, 0, 1],
        [0, 0, 0, 9],
    ] {
        target.counts("unknown SPI", &fate("no_spi"), &with_spi(spi));
    }

    let cut = |to: usize| {
        let frames = future.iter().cloned();
        frames
            .map(|mut frame| {
                frame.truncate(payload_at(&frame) + to);
                repaired(frame)
            })
            .collect::<Vec<_>>()
    };
    // Below header, IV, trailer and ICV it is none; UDP tells less than four bytes apart.
    for to in [4, 7, 8, 15, 24] {
        target.counts("runts", &fate("runt"), &cut(to));
    }
    target.counts("cut", &fate("integ_error"), &cut(48));
    let longer = future.iter().map(|frame| {
        let mut frame = frame.clone();
        frame.extend([0; 900]);
        repaired(frame)
    });
    target.counts("longer", &fate("integ_error"), &longer.collect::<Vec<_>>());

    // Whole lies about the length: the kernel's, which drops it.
    let lying: Vec<_> = old
        .iter()
        .map(|frame| frame[..frame.len() - 20].to_vec())
        .collect();
    target.counts("truncated frames", &verdict("malformed"), &lying);
    // A wrong checksum of the IP header.
    let wrong_sum = old.iter().map(|frame| {
        let mut frame = frame.clone();
        frame[24] ^= 0x55;
        frame
    });
    target.counts(
        "wrong header checksum",
        &fate("bad_header"),
        &wrong_sum.collect::<Vec<_>>(),
    );
    // Does not fit a buffer.
    let oversized: Vec<_> = old
        .iter()
        .map(|frame| {
            let mut frame = frame.clone();
            frame.resize(2900, 0xaa);
            repaired(frame)
        })
        .collect();
    target.counts(
        "oversized frames",
        "/outer/port/kernel_rx_dropped",
        &oversized,
    );

    for (offset, name) in [(0x2000, "first"), (0x0040, "last"), (0x2040, "middle")] {
        let fragments = old.iter().enumerate().map(|(n, frame)| {
            let mut frame = frame.clone();
            frame[18..20].copy_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
            frame[20..22].copy_from_slice(&u16::to_be_bytes(offset));
            repaired_plain(frame)
        });
        target.counts(name, &fate("fragment"), &fragments.collect::<Vec<_>>());
    }

    // Nobody but the keys' owner moves the peer, wherever a packet comes from.
    let moved: Vec<_> = future
        .iter()
        .chain(&old)
        .map(|frame| {
            let mut frame = frame.clone();
            frame[26..30].copy_from_slice(&STRANGER.octets());
            repaired_plain(frame)
        })
        .collect();
    target.counts("packets of another's", &fate("replay"), &moved[32..]);
    target.counts("packets of another's", &fate("integ_error"), &moved[..32]);
    let epoch = &target.lab.gateway.sas()["tunnels"][0]["epochs"][0];
    assert!(
        epoch["remote"].as_str().unwrap().starts_with("192.0.2.2"),
        "{epoch}"
    );
    target.unharmed();
}

/// The IP header's checksum only: UDP of a fragment is not there to be repaired.
fn repaired_plain(frame: Vec<u8>) -> Vec<u8> {
    let transport = frame[34..].to_vec();
    let mut frame = repaired(frame);
    frame[34..].copy_from_slice(&transport);
    if frame[23] == 17 {
        // No checksum.
        frame[40..42].fill(0);
    }
    frame
}

#[test]
fn hostile_esp_packets() {
    hostile_esp("hesp", "esp");
}

#[test]
fn hostile_esp_packets_in_udp() {
    hostile_esp("hudp", "udp");
}

#[test]
fn garbage_and_bit_flips() {
    if !ready() {
        return;
    }
    let mut target = Target::new("rand", "udp");
    let like = target.esp(1).remove(0);

    // Anything at all, to the gateway's link address and to others.
    let mut garbage = Vec::new();
    for n in 0..400 {
        let len = 14 + target.below(1400);
        let mut frame = target.random(len);
        match n % 4 {
            0 => {}
            1 => frame[..12].copy_from_slice(&like[..12]),
            2 => frame[..14].copy_from_slice(&like[..14]),
            _ => {
                let to = frame.len().min(14 + target.below(28));
                frame[..to].copy_from_slice(&like[..to]);
            }
        }
        garbage.push(frame);
    }
    // Too short for an IP header, for UDP, for anything.
    garbage.extend((14..60).map(|len| like[..len].to_vec()));
    let seen = |target: &Target| -> u64 {
        let stats = target.lab.gateway.stats();
        let verdicts = stats["outer"]["classifier"].as_object().unwrap();
        verdicts
            .values()
            .map(|count| count["packets"].as_u64().unwrap())
            .sum()
    };
    let before = seen(&target);
    target.at_gateway.send_all(&garbage);
    target.at_client.send_all(&garbage);
    live::eventually(
        "the classifier to have seen them",
        || seen(&target) >= before + garbage.len() as u64,
        || target.lab.gateway.stats().to_string(),
    );

    // What really went over the wire, with a few bits changed.
    let mut flipped = Vec::new();
    for to in [CLIENT, GATEWAY] {
        let ike = target.wire.of(&[Kind::Ike], to);
        let esp = target.wire.of(&ESP, to);
        assert!(ike.len() >= 2, "{}", ike.len());
        for n in 0..300 {
            let from = if n % 3 == 0 { &esp } else { &ike };
            let mut frame = from[n % from.len().min(32)].clone();
            for _ in 0..=target.below(3) {
                // Behind the link addresses; in the IP header sometimes, with its checksum right.
                let first = if n % 5 == 0 { 14 } else { 34 };
                let bit = 8 * first + target.below(8 * (frame.len() - first));
                frame[bit / 8] ^= 1 << (bit % 8);
            }
            let repair = n % 5 == 0 && n % 2 == 0;
            flipped.push((to, if repair { repaired_plain(frame) } else { frame }));
        }
    }
    for (n, (to, frame)) in flipped.iter().enumerate() {
        let tap = if *to == CLIENT {
            &target.at_client
        } else {
            &target.at_gateway
        };
        tap.send(frame);
        if n % 8 == 7 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    // On the ports themselves, by somebody who is there and may get answers.
    let to_control = target.lab.gateway.fate("to_control");
    for n in 0..200 {
        let len = target.below(1400);
        let mut bytes = target.random(len);
        if n % 2 == 0 && bytes.len() > 40 {
            // An IKE header that looks right, lengths included.
            bytes[16..20].copy_from_slice(&[33, 0x20, [34, 35, 36, 37, 240][n % 5], 8]);
            bytes[20..24].fill(0);
            let len = u32::try_from(bytes.len()).unwrap();
            bytes[24..28].copy_from_slice(&len.to_be_bytes());
            if n % 4 == 0 {
                bytes[8..16].fill(0);
            }
        }
        let marked = [&[0; 4], &bytes[..]].concat();
        for (port, payload) in [(500, &bytes), (4500, &marked), (4500, &bytes)] {
            target.at_gateway.send(&from_stranger(&like, port, payload));
        }
        target.at_gateway.send(&from_stranger(&like, 4500, &[0xff]));
        if n % 4 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    target
        .lab
        .gateway
        .eventually("the control plane to have seen them", |end| {
            end.fate("to_control") + end.fate("control_overflow") >= to_control + 600
        });
    target.unharmed();
}

/// RFC 7296 §3.1, with a payload behind it.
fn ike_message(spis: &[u8], exchange: u8, flags: u8, id: u32, next: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = spis[..16].to_vec();
    message.extend([next, 0x20, exchange, flags]);
    message.extend(id.to_be_bytes());
    message.extend(u32::try_from(28 + rest.len()).unwrap().to_be_bytes());
    message.extend(rest);
    message
}

/// As [`udp()`]: with the non-ESP marker on port 4500.
fn ike_frame(like: &[u8], message: &[u8]) -> Vec<u8> {
    let nat_t = like[42..46] == [0; 4];
    let marker: &[u8] = if nat_t { &[0; 4] } else { &[] };
    udp(
        like,
        if nat_t { 4500 } else { 500 },
        &[marker, message].concat(),
    )
}

const INITIATOR: u8 = 0x08;
const RESPONSE: u8 = 0x20;
const INFORMATIONAL: u8 = 37;

fn hostile_ike(what: &str, encap: &str) {
    if !ready() {
        return;
    }
    let target = Target::new(what, encap);
    let ends = [
        (CLIENT, &target.at_client, &target.lab.client),
        (GATEWAY, &target.at_gateway, &target.lab.gateway),
    ];
    let told = |end: &live::End| end.fate("to_control");
    let recorded = |to| target.wire.of(&[Kind::Ike], to);
    let control_takes = |what: &str, to, frames: &[Vec<u8>]| {
        let (_, tap, end) = ends.iter().find(|(address, ..)| *address == to).unwrap();
        let before = told(end);
        tap.send_all(frames);
        end.eventually(what, |end| told(end) >= before + frames.len() as u64);
    };

    for (to, ..) in ends {
        let messages = recorded(to);
        assert!(messages.len() >= 2, "{}", messages.len());
        // Repeated, backwards, and once more.
        let backwards: Vec<_> = messages.iter().rev().cloned().collect();
        control_takes("repeated messages", to, &messages);
        control_takes("reordered messages", to, &backwards);
        control_takes("repeated messages", to, &messages);

        // Lengths that lie: IKE's, and the first payload's.
        let mut wrong = Vec::new();
        for message in &messages {
            let at = payload_at(message);
            for (field, value) in [
                (at + 24, u32::MAX),
                (at + 24, 0),
                (at + 24, 27),
                (at + 24, 29),
                (at + 28, 0x0000_ffff),
                (at + 28, 0),
                (at + 28, 3),
            ] {
                let mut frame = message.clone();
                frame[field..field + 4].copy_from_slice(&value.to_be_bytes());
                wrong.push(repaired(frame));
            }
            for cut in [1, 17, message.len() - at - 28, message.len() - at - 1] {
                wrong.push(repaired(message[..message.len() - cut].to_vec()));
            }
        }
        control_takes("wrong lengths", to, &wrong);

        // Without protection, in the name of the peer: nothing of it counts.
        let like = messages.last().unwrap();
        let at = payload_at(like);
        let from_initiator = if to == GATEWAY { INITIATOR } else { 0 };
        let mut unprotected = Vec::new();
        // INVALID_IKE_SPI, INVALID_SYNTAX, INVALID_SPI, NO_PROPOSAL_CHOSEN, AUTHENTICATION_FAILED.
        for notify in [4, 7, 11, 14, 24_u16] {
            let [high, low] = notify.to_be_bytes();
            for id in 0..4 {
                for flags in [from_initiator, from_initiator | RESPONSE] {
                    let payload = [0, 0, 0, 8, 0, 0, high, low];
                    let spis = &like[at..at + 16];
                    let message = ike_message(spis, INFORMATIONAL, flags, id, 41, &payload);
                    unprotected.push(ike_frame(like, &message));
                }
            }
            // A Delete of the IKE SA.
            let delete = [0, 0, 0, 8, 1, 0, 0, 0];
            let message = ike_message(&like[at..], INFORMATIONAL, from_initiator, 2, 42, &delete);
            unprotected.push(ike_frame(like, &message));
        }
        control_takes("unprotected notifies", to, &unprotected);

        // Anybody can forge an ICMP error (RFC 4301 §6): unreachable, too big, time exceeded.
        let mut sent = target
            .wire
            .of(&ESP, if to == CLIENT { GATEWAY } else { CLIENT });
        sent.truncate(4);
        let mut errors = Vec::new();
        for quoted in &sent {
            for header in [
                [3, 1, 0, 0],
                [3, 3, 0, 0],
                [3, 4, 0, 68],
                [11, 0, 0, 0],
                [12, 0, 0, 0],
            ] {
                let [kind, code, mtu @ ..] = header;
                let mut error = vec![kind, code, 0, 0, 0, 0];
                error.extend(mtu);
                error.extend(&quoted[14..70]);
                errors.push(ipv4(like, 1, &error));
            }
        }
        control_takes("forged ICMP errors", to, &errors);
        let keepalives = vec![udp(like, 4500, &[0xff]); 16];
        control_takes("keepalives", to, &keepalives);
    }

    // A critical payload that nobody knows is refused, by number (RFC 7296 §2.5).
    let answers = Recorder::start(&target.lab, "g0");
    let like = recorded(GATEWAY).remove(0);
    let first = &like[payload_at(&like)..];
    let next = first[16];
    let mut rest = vec![next, 0x80, 0, 4];
    rest.extend(&first[28..]);
    let spis = [&[0x77; 8][..], &[0; 8]].concat();
    let critical = ike_message(&spis, 34, INITIATOR, 0, 200, &rest);
    let answered = || {
        let mut frames = answers.of(&[Kind::Ike], STRANGER);
        frames
            .pop()
            .map(|frame| frame[payload_at(&frame)..].to_vec())
    };
    live::eventually(
        "an answer",
        || {
            let request = from_stranger(&like, 500, &critical);
            target.at_gateway.send(&request);
            answered().is_some()
        },
        || target.lab.gateway.log(),
    );
    let answer = answered().unwrap();
    // Notify UNSUPPORTED_CRITICAL_PAYLOAD.
    assert_eq!(answer[16..20], [41, 0x20, 34, RESPONSE], "{answer:02x?}");
    assert_eq!(answer[28..], [0, 0, 0, 9, 0, 0, 0, 1, 200], "{answer:02x?}");

    // Large packets still pass, whatever the forged errors said.
    let large = target
        .lab
        .client
        .json(&["ping", "net", "-c", "2", "-s", "512"]);
    assert_eq!(large["statistics"]["received"], 2, "{large}");
    let server = target
        .lab
        .gateway
        .udp(&format!("{}:9", live::INNER_GATEWAY));
    let socket = target.lab.client.udp(&format!("{}:0", live::INNER_CLIENT));
    // The whole of the inner MTU of 1400 bytes, DF as the kernel sets it.
    let sent = socket.send_to(&[0; 1372], (live::INNER_GATEWAY, 9));
    assert_eq!(sent.unwrap(), 1372);
    assert_eq!(server.recv(&mut [0; 1500]).unwrap(), 1372);
    if encap == "esp" {
        half_open_sas_expire(&target, &like);
    }
    target.unharmed();
}

/// A first request from elsewhere begins a half-open IKE SA and nothing else.
fn half_open_sas_expire(target: &Target, like: &[u8]) {
    let gateway = &target.lab.gateway;
    // From four of one source on it would ask for cookies.
    for n in 0..4 {
        let mut request = like[payload_at(like)..].to_vec();
        request[..8].fill(0x40 + n);
        let request = from_stranger(like, 500, &request);
        target.at_gateway.send(&request);
    }
    gateway.eventually("half-open IKE SAs", |end| end.ike_sas() >= 5);
    gateway.eventually("their end", |end| end.ike_sas() == 1);
}

#[test]
fn hostile_ike_messages() {
    hostile_ike("hike", "esp");
}

#[test]
fn hostile_ike_messages_on_4500() {
    hostile_ike("hnat", "udp");
}

/// A wire that loses, doubles, reorders and corrupts, in both directions.
#[test]
fn a_bad_wire_delays_a_tunnel_and_breaks_nothing() {
    if !ready() {
        return;
    }
    let more = "encap = \"udp\"\nretransmit_timeout = \"100ms\"\nretransmit_base = 1.2";
    let mut lab = Lab::new("bad", more, "rekey_time = \"1s\"");
    for port in ["c0", "g0"] {
        lab.middle.ip(&format!("link set {port} nomaster"));
    }
    let ports = Arc::new(["c0", "g0"].map(|port| Tap::open(&lab.middle, port)));
    let bad = Arc::new(AtomicBool::new(true));
    let ended = Arc::new(AtomicBool::new(false));
    let wires = [(0, 1), (1, 0)].map(|(from, to)| {
        let (ports, bad, ended) = (Arc::clone(&ports), Arc::clone(&bad), Arc::clone(&ended));
        std::thread::spawn(move || {
            let mut rng = ChaCha20Rng::seed_from_u64(from);
            let mut held = VecDeque::new();
            while !ended.load(Relaxed) {
                let Some(mut frame) = ports[usize::try_from(from).unwrap()].receive() else {
                    continue;
                };
                let (dice, bit) = (rng.next_u32() % 10, rng.next_u32());
                if !bad.load(Relaxed) || live::kind(&frame) == Kind::Arp {
                    ports[to].send(&frame);
                    continue;
                }
                match dice {
                    0 | 1 => continue,
                    2 => held.push_front(frame.clone()),
                    3 => {
                        held.push_back(frame);
                        continue;
                    }
                    4 => {
                        let bit = usize::try_from(bit).unwrap() % (8 * (frame.len() - 34)) + 8 * 34;
                        frame[bit / 8] ^= 1 << (bit % 8);
                    }
                    _ => {}
                }
                ports[to].send(&frame);
                if held.len() > 2 {
                    ports[to].send(&held.pop_front().unwrap());
                }
            }
        })
    });
    lab.up();
    // Rekeys, too, go through this.
    let ping = Pings::start(&lab, Duration::from_millis(20));
    let first = lab.client.epochs()[0].0;
    lab.client.eventually("three rekeys", |end| {
        end.epochs().last().is_some_and(|last| last.0 >= first + 3)
    });
    bad.store(false, Relaxed);
    // No trace of it is left once the wire is good.
    for end in [&lab.client, &lab.gateway] {
        end.eventually("a proven epoch that carries data", |end| {
            end.status() == "proven" && end.sas()["tunnels"][0]["data_waiting"] == false
        });
    }
    let pings = ping.stop();
    assert!(!pings.answered.is_empty(), "{pings:?}");
    assert!(lab.gateway.fate("integ_error") > 0 || lab.client.fate("integ_error") > 0);
    for end in [&mut lab.client, &mut lab.gateway] {
        assert!(end.runs());
        end.log_is_clean();
    }
    let good = Pings::start(&lab, Duration::from_millis(20));
    std::thread::sleep(Duration::from_secs(1));
    good.stop().all_in_order();
    ended.store(true, Relaxed);
    for wire in wires {
        wire.join().unwrap();
    }
}
