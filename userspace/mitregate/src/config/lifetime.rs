//! How long SAs live: soft limits, hard limits and jitter.

use std::time::Duration;

use mitregate_control::{
    ChildConfig, ChildLifetime, GateConfig, IkeLifetime, PeerRekey, Retransmit, UNLIMITED,
};

use super::convert::Check;
use super::file;
use super::locate::FieldPath;

/// Refusals that a peer bears before it gives the IKE SA up: our own rekey takes one round trip.
const PEER_REKEY_REFUSALS: u8 = 3;

/// Of a connection's IKE SAs.
pub(super) fn ike(
    check: &mut Check<'_>,
    at: &FieldPath,
    connection: &file::Connection,
) -> IkeLifetime {
    let default = IkeLifetime::default();
    let mut time = |field: &str, text: &Option<String>, default| {
        check.duration(&at.key(field), text.as_ref(), default)
    };
    let rekey_time = time("rekey_time", &connection.rekey_time, default.rekey_time);
    let reauth_time = time("reauth_time", &connection.reauth_time, default.reauth_time);
    let over_time = IkeLifetime::over_time_for(rekey_time);
    let lifetime = IkeLifetime {
        rekey_time,
        reauth_time,
        over_time: time("over_time", &connection.over_time, over_time),
        rand_time: time(
            "rand_time",
            &connection.rand_time,
            rekey_time.max(reauth_time) / 10,
        ),
    };
    for (field, time) in [("rekey_time", rekey_time), ("reauth_time", reauth_time)] {
        if !time.is_zero() && time < Duration::from_secs(1) {
            check.error(&at.key(field), "is less than 1s; 0s is never");
        }
    }
    lifetime
}

/// What becomes of the peer's rekeys. A client's only: a server accepts.
pub(super) fn peer_rekey(
    check: &mut Check<'_>,
    at: &FieldPath,
    connection: &file::Connection,
) -> Option<PeerRekey> {
    let times = connection
        .peer_rekey_refusals
        .unwrap_or(PEER_REKEY_REFUSALS);
    if connection.peer_rekey_refusals.is_some() && connection.peer_rekey != "refuse" {
        let field = at.key("peer_rekey_refusals");
        check.error(&field, "counts only with peer_rekey = \"refuse\"");
    }
    check.word(
        &at.key("peer_rekey"),
        &connection.peer_rekey,
        &[
            ("accept", PeerRekey::Accept),
            ("refuse", PeerRekey::Refuse(times)),
            ("ignore", PeerRekey::Ignore),
        ],
    )
}

/// Of a child's epochs.
pub(super) fn child(check: &mut Check<'_>, at: &FieldPath, child: &file::Child) -> ChildLifetime {
    let mut time = |field: &str, text: &Option<String>, default| {
        check.duration(&at.key(field), text.as_ref(), default)
    };
    let rekey_time = time(
        "rekey_time",
        &child.rekey_time,
        ChildLifetime::default().rekey_time,
    );
    let life_time = time(
        "life_time",
        &child.life_time,
        ChildLifetime::life_time_for(rekey_time),
    );
    let rand_time = time(
        "rand_time",
        &child.rand_time,
        ChildLifetime::rand_time_for(rekey_time),
    );
    if rekey_time < Duration::from_secs(1) {
        check.error(&at.key("rekey_time"), "is less than 1s");
    }
    if life_time <= rekey_time {
        check.error(&at.key("life_time"), "must be longer than rekey_time");
    }
    let (rekey_bytes, life_bytes, rand_bytes) = count(
        check,
        at,
        ["rekey_bytes", "life_bytes", "rand_bytes"],
        [child.rekey_bytes, child.life_bytes, child.rand_bytes],
    );
    let (rekey_packets, life_packets, rand_packets) = count(
        check,
        at,
        ["rekey_packets", "life_packets", "rand_packets"],
        [child.rekey_packets, child.life_packets, child.rand_packets],
    );
    ChildLifetime {
        rekey_time,
        life_time,
        rand_time,
        rekey_bytes,
        life_bytes,
        rand_bytes,
        rekey_packets,
        life_packets,
        rand_packets,
    }
}

/// Whether a rekey that meets a silent path is over before the hard limit; said only of what is written.
pub(super) fn room(
    check: &mut Check<'_>,
    at: &FieldPath,
    child: &ChildConfig,
    gate: &GateConfig,
    retransmit: &Retransmit,
) {
    let lifetime = &child.lifetime;
    if lifetime.life_time == ChildLifetime::life_time_for(lifetime.rekey_time) {
        return;
    }
    let room = lifetime.life_time.saturating_sub(lifetime.rekey_time);
    let needed = gate.longest_failure() + retransmit.give_up();
    if room < needed && !room.is_zero() {
        let message = format!(
            "leaves {} s after rekey_time: on a path that goes silent a rekey may take {} s (pings on {} epochs, \
             then IKE's retransmissions), and the tunnel would be down meanwhile",
            room.as_secs(),
            needed.as_secs() + 1,
            gate.epochs_per_session,
        );
        check.warn(&at.key("life_time"), message);
    }
}

/// Soft limit, hard limit and jitter of a count.
fn count(
    check: &mut Check<'_>,
    at: &FieldPath,
    [soft_field, hard_field, _]: [&str; 3],
    [soft, hard, rand]: [Option<u64>; 3],
) -> (u64, u64, u64) {
    if soft == Some(0) {
        check.error(&at.key(soft_field), "is 0: nothing could ever be sent");
    }
    let soft = soft.unwrap_or(UNLIMITED);
    let (hard_default, rand_default) = ChildLifetime::count_for(soft);
    let hard = hard.unwrap_or(hard_default);
    if hard == 0 {
        check.error(&at.key(hard_field), "is 0: nothing could ever be sent");
    } else if soft != UNLIMITED && hard <= soft {
        let message = format!("must be more than {soft_field}");
        check.error(&at.key(hard_field), &message);
    }
    (soft, hard, rand.unwrap_or(rand_default))
}
