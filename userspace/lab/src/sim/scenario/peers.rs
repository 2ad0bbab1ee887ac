//! Peers of all kinds: algorithms, certificates, long messages, both sides that start.

use std::time::Duration;

use mitregate_control::EncapMode;

use super::{Scenario, Stage};
use crate::sim::link::Link;
use crate::sim::passing::settle;
use crate::sim::setup::{Plan, Site};
use crate::sim::world::Violation;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "algorithms",
        about: "key exchanges, ciphers and PRFs of all kinds, with rekeys of CHILD and IKE SAs",
        seeds: 200,
        tested: 6,
        run: algorithms,
    },
    Scenario {
        name: "certificates",
        about: "Ed25519 certificates, at 20 % loss",
        seeds: 200,
        tested: 4,
        run: with_certificates,
    },
    Scenario {
        name: "fragments",
        about: "ML-KEM-768 and certificates on a path that passes no long packet, with loss (RFC 7383, 9242, 9370)",
        seeds: 200,
        tested: 4,
        run: fragments,
    },
    Scenario {
        name: "both-start",
        about: "both sides start at the same moment and agree on who is the client",
        seeds: 300,
        tested: 6,
        run: both_start,
    },
];

/// Key exchanges, the last ones slow: P-384, MODP.
const IKE: [&str; 8] = [
    "aes256gcm16-prfsha256-x25519",
    "aes128gcm16-prfsha256-x25519",
    "chacha20poly1305-prfsha384-x25519",
    "aes256gcm16-prfsha384-ecp256",
    "aes256gcm16-prfsha512-ecp384",
    "aes128-sha256-x25519",
    "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
    "aes256-sha384-modp2048",
];
const ESP: [&str; 6] = [
    "aes256gcm16",
    "aes128gcm16",
    "chacha20poly1305",
    "aes256gcm16-x25519",
    "aes128gcm16-ecp256",
    "aes256gcm16-x25519-ke1_mlkem768",
];

const MESSAGES: Duration = Duration::from_millis(250);

fn algorithms(stage: &mut Stage) -> Result<(), Violation> {
    let (proposal, esp) = (stage.pick(&IKE), stage.pick(&ESP));
    let plan = Plan {
        proposals: vec![proposal],
        esp_proposals: vec![esp],
        rekey_time: stage.ms(6_000, 12_000),
        ike_rekey_time: stage.ms(8_000, 15_000),
        ..Plan::default()
    };
    let link = if stage.one_in(2) {
        stage.quiet_link()
    } else {
        stage.lossy_link()
    };
    let site = stage.pair(plan, link);
    site.traffic(&mut stage.world, Some(MESSAGES));
    let length = stage.ms(10_000, 20_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)
}

fn with_certificates(stage: &mut Stage) -> Result<(), Violation> {
    let plan = Plan {
        certificates: true,
        reauth_time: stage.ms(20_000, 40_000),
        ..Plan::default()
    };
    let link = stage.lossy_link();
    let site = stage.pair(plan, link);
    site.traffic(&mut stage.world, Some(MESSAGES));
    let length = stage.ms(5_000, 30_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)
}

fn fragments(stage: &mut Stage) -> Result<(), Violation> {
    let size = usize::try_from(300 + stage.below(900)).unwrap_or(576);
    let plan = Plan {
        certificates: true,
        fragment_size: size,
        proposals: vec!["aes256gcm16-prfsha384-x25519-ke1_mlkem768"],
        esp_proposals: vec!["aes256gcm16-x25519-ke1_mlkem768"],
        rekey_time: stage.ms(8_000, 15_000),
        ike_rekey_time: stage.ms(10_000, 20_000),
        ..Plan::default()
    };
    let link = Link {
        loss: 100,
        duplicate: 50,
        reorder: 200,
        reorder_by: stage.ms(1, 50),
        // The first messages cannot be cut up (RFC 7383 §2.1), all others can.
        mtu: size.max(500),
        fragment: stage.one_in(2),
        ..stage.quiet_link()
    };
    stage.world.announced.push("reason=peer does not answer");
    let site = stage.pair(plan, link);
    site.traffic(&mut stage.world, Some(MESSAGES));
    let length = stage.ms(10_000, 30_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)
}

fn both_start(stage: &mut Stage) -> Result<(), Violation> {
    let mut plan = Plan {
        both_start: true,
        rekey_time: stage.ms(10_000, 30_000),
        ..Plan::default()
    };
    let link = if stage.one_in(2) {
        stage.quiet_link()
    } else {
        stage.lossy_link()
    };
    // Behind a NAT the client could not be called.
    plan.seed = stage.seed;
    plan.encap = stage.pick(&[EncapMode::Auto, EncapMode::Udp]);
    let site = Site::build(&mut stage.world, &plan, 1, None, link);
    site.traffic(&mut stage.world, Some(MESSAGES));
    let length = stage.ms(2_000, 40_000);
    stage.world.run(length)?;
    settle(&mut stage.world, &site)
}
