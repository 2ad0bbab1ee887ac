//! The ping gate of a connection's tunnels.

use std::time::Duration;

use mitregate_control::{GateConfig, GateMode, Role};

use super::convert::Check;
use super::file;
use super::locate::FieldPath;

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
    config.ping_timeout = check.duration(
        &at.key("ping_timeout"),
        gate.ping_timeout.as_ref(),
        config.ping_timeout,
    );
    config.rekey_patience = check.duration(
        &at.key("rekey_patience"),
        gate.rekey_patience.as_ref(),
        config.rekey_patience,
    );
    if config.ping_timeout < Duration::from_millis(1) {
        check.error(&at.key("ping_timeout"), "is less than 1ms");
    }
    for (field, given, value) in [
        ("tries", gate.tries, &mut config.tries),
        (
            "suspect_tries",
            gate.suspect_tries,
            &mut config.suspect_tries,
        ),
        (
            "epochs_per_session",
            gate.epochs_per_session,
            &mut config.epochs_per_session,
        ),
    ] {
        let Some(given) = given else { continue };
        *value = given;
        if !(1..=100).contains(&given) {
            check.error(&at.key(field), "is not within 1 to 100");
        }
    }
    if let Some(backoff) = gate.backoff {
        config.backoff = backoff;
        if !(1.0..=10.0).contains(&backoff) {
            check.error(&at.key("backoff"), "is not within 1.0 to 10.0");
        }
    }
    if let Some(jitter) = gate.jitter {
        config.jitter = jitter;
        if !(0.0..=0.9).contains(&jitter) {
            check.error(&at.key("jitter"), "is not within 0.0 to 0.9");
        }
    }
    match gate.idle {
        Some(true) => config.idle = Some(config.idle.take().unwrap_or_default()),
        Some(false) => config.idle = None,
        None => {}
    }
    config
}
