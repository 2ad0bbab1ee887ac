//! The ping gate of a connection's tunnels.

use std::ops::RangeInclusive;
use std::time::Duration;

use mitregate_control::{GateConfig, GateMode, Idle, Role};

use super::convert::Check;
use super::file;
use super::locate::FieldPath;
use super::units;

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What is written, or what the side's default is.
pub(super) fn gate(
    check: &mut Check<'_>,
    at: &FieldPath,
    gate: &file::Gate,
    role: Role,
) -> GateConfig {
    let mut config = GateConfig::new(role);
    if let Some(mode) = &gate.mode {
        // Where it stands alone, it is the gate's own line.
        let field = at.key("mode");
        config.mode = check
            .word(&field, mode, &GateMode::WORDS)
            .unwrap_or_default();
    }
    if let Some(word) = &gate.path_mtu {
        let words = [("probe", true), ("off", false)];
        if check.word(&at.key("path_mtu"), word, &words) == Some(false) {
            config.path_mtu = None;
        }
    }
    if let Some(targets) = &gate.icmp_targets {
        let field = at.key("icmp_targets");
        config.icmp_targets = check.list(&field, targets, |text, _| {
            format!("{text:?} is not an IP address")
        });
        if !matches!(config.mode, GateMode::Auto | GateMode::Icmp) {
            check.error(&field, "counts only with mode = \"auto\" or \"icmp\"");
        }
    }
    for (field, text, value, range) in [
        (
            "ping_timeout",
            &gate.ping_timeout,
            &mut config.ping_timeout,
            MS..=MINUTE,
        ),
        (
            "rekey_patience",
            &gate.rekey_patience,
            &mut config.rekey_patience,
            10 * MS..=10 * MINUTE,
        ),
        (
            "hold_lost",
            &gate.hold_lost,
            &mut config.hold_lost,
            Duration::ZERO..=10 * MINUTE,
        ),
        (
            "escalation_backoff",
            &gate.escalation_backoff,
            &mut config.escalation_backoff,
            10 * MS..=10 * MINUTE,
        ),
        (
            "escalation_max",
            &gate.escalation_max,
            &mut config.escalation_max,
            100 * MS..=60 * MINUTE,
        ),
        (
            "drain_min",
            &gate.drain_min,
            &mut config.drain_min,
            100 * MS..=10 * MINUTE,
        ),
        (
            "drain_max",
            &gate.drain_max,
            &mut config.drain_max,
            1000 * MS..=60 * MINUTE,
        ),
    ] {
        time(check, &at.key(field), text.as_ref(), value, range);
    }
    for (field, given, value, range) in [
        ("tries", gate.tries, &mut config.tries, 1..=100),
        (
            "first_tries",
            gate.first_tries,
            &mut config.first_tries,
            1..=1000,
        ),
        (
            "suspect_tries",
            gate.suspect_tries,
            &mut config.suspect_tries,
            1..=100,
        ),
        (
            "epochs_per_session",
            gate.epochs_per_session,
            &mut config.epochs_per_session,
            1..=100,
        ),
        (
            "mute_after",
            gate.mute_after,
            &mut config.mute_after,
            0..=1000,
        ),
        (
            "echo_rate",
            gate.echo_rate,
            &mut config.echo.rate,
            1..=100_000,
        ),
        (
            "echo_burst",
            gate.echo_burst,
            &mut config.echo.burst,
            1..=10_000,
        ),
    ] {
        within(check, &at.key(field), given, value, range);
    }
    within(
        check,
        &at.key("backoff"),
        gate.backoff,
        &mut config.backoff,
        1.0..=10.0,
    );
    within(
        check,
        &at.key("jitter"),
        gate.jitter,
        &mut config.jitter,
        0.0..=0.9,
    );
    if config.escalation_max < config.escalation_backoff {
        let field = at.key("escalation_max");
        check.error(&field, "must not be less than escalation_backoff");
    }
    if config.drain_max < config.drain_min {
        check.error(&at.key("drain_max"), "must not be less than drain_min");
    }
    match gate.idle {
        Some(true) => config.idle = Some(config.idle.take().unwrap_or_default()),
        Some(false) => config.idle = None,
        None => {}
    }
    idle(check, at, gate, config.idle.as_mut());
    config
}

/// When a proven epoch is pinged again.
fn idle(check: &mut Check<'_>, at: &FieldPath, gate: &file::Gate, idle: Option<&mut Idle>) {
    let mut unused = Idle::default();
    let off = idle.is_none();
    let idle = idle.unwrap_or(&mut unused);
    for (field, text, value, range) in [
        (
            "idle_tick",
            &gate.idle_tick,
            &mut idle.tick,
            10 * MS..=10_000 * MS,
        ),
        (
            "idle_unanswered",
            &gate.idle_unanswered,
            &mut idle.unanswered,
            10 * MS..=10 * MINUTE,
        ),
        (
            "idle_silence",
            &gate.idle_silence,
            &mut idle.silence,
            100 * MS..=10 * MINUTE,
        ),
        (
            "idle_silence_max",
            &gate.idle_silence_max,
            &mut idle.silence_max,
            1000 * MS..=60 * MINUTE,
        ),
        (
            "idle_receive_only",
            &gate.idle_receive_only,
            &mut idle.receive_only,
            100 * MS..=60 * MINUTE,
        ),
    ] {
        if text.is_some() && off {
            check.error(&at.key(field), "counts only with idle = true");
        }
        time(check, &at.key(field), text.as_ref(), value, range);
    }
    if idle.silence_max < idle.silence {
        let field = at.key("idle_silence_max");
        check.error(&field, "must not be less than idle_silence");
    }
}

fn time(
    check: &mut Check<'_>,
    field: &FieldPath,
    text: Option<&String>,
    value: &mut Duration,
    range: RangeInclusive<Duration>,
) {
    *value = check.duration(field, text, *value);
    if text.is_some() && !range.contains(value) {
        let [least, most] = [range.start(), range.end()].map(|time| units::show(*time));
        check.error(field, format!("is not within {least} to {most}"));
    }
}

fn within<T: Copy + PartialOrd + std::fmt::Debug>(
    check: &mut Check<'_>,
    field: &FieldPath,
    given: Option<T>,
    value: &mut T,
    range: RangeInclusive<T>,
) {
    let Some(given) = given else { return };
    *value = given;
    if !range.contains(&given) {
        let (least, most) = range.into_inner();
        check.error(field, format!("is not within {least:?} to {most:?}"));
    }
}
