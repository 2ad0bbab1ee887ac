//! From texts to meanings. Goes on after an error, so that one run shows all of them.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use mitregate_classifier::ModeRequest;
use mitregate_control::{Config, Strangers, TicketKeys};
use mitregate_esp::{Provider, WorkerId};
use zeroize::Zeroizing;

use super::error::ConfigError;
use super::file::{self, File};
use super::locate::FieldPath;
use super::{DaemonSettings, Hold, OuterSettings, Settings, Source, peers, pools, secret, units};
use crate::net::inner::InnerConfig;

/// An interface name has at most 15 bytes.
const INTERFACE_LEN: usize = libc::IFNAMSIZ - 1;
/// RFC 791 §3.2: every host takes 576 bytes.
const MIN_MTU: u32 = 576;
/// What a frame buffer of 2 KiB has room for beside the headers.
const MAX_MTU: u32 = 1500;

/// Each packet that waits takes a frame buffer.
const MAX_HOLD: usize = 1 << 16;

/// Collects errors while a file is looked at.
pub(super) struct Check<'a> {
    pub(super) source: &'a Source<'a>,
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
}

impl Check<'_> {
    /// Notes an error about a field.
    pub(super) fn error(&mut self, field: &FieldPath, message: impl Display) {
        self.errors.push(ConfigError::field(
            self.source.path,
            self.source.text,
            field,
            message,
        ));
    }

    /// Notes what is worth a look.
    pub(super) fn warn(&mut self, field: &FieldPath, message: impl Display) {
        let Source { path, text, .. } = self.source;
        self.warnings
            .push(ConfigError::field(path, text, field, message));
    }

    /// The value, or None and a note.
    pub(super) fn ok<T, E: Display>(
        &mut self,
        field: &FieldPath,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.error(field, error)).ok()
    }

    /// Each element parsed; those that cannot be are noted.
    pub(super) fn list<T: FromStr>(
        &mut self,
        field: &FieldPath,
        texts: &[String],
        describe: impl Fn(&str, T::Err) -> String,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let result = text.parse().map_err(|error| describe(text, error));
            values.extend(self.ok(&field.index(index), result));
        }
        values
    }

    /// A time, or the default where none is given.
    pub(super) fn duration(
        &mut self,
        field: &FieldPath,
        text: Option<&String>,
        default: Duration,
    ) -> Duration {
        text.and_then(|text| self.ok(field, units::duration(text)))
            .unwrap_or(default)
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &mut self,
        field: &FieldPath,
        text: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<_> = words
                .iter()
                .map(|(word, _)| format!("\"{word}\""))
                .collect();
            self.error(
                field,
                format!("{text:?} is not one of {}", known.join(", ")),
            );
        }
        found
    }
}

pub(super) fn settings(source: &Source<'_>) -> Result<Settings, Vec<ConfigError>> {
    let file: File = toml::from_str(source.text)
        .map_err(|error| vec![ConfigError::toml(source.path, source.text, &error)])?;
    let mut check = Check {
        source,
        errors: Vec::new(),
        warnings: Vec::new(),
    };
    let daemon = daemon(&mut check, &file.daemon);
    let provider = check.word(
        &FieldPath::of(&["daemon", "provider"]),
        &file.daemon.provider,
        &[
            ("aws-lc", Provider::AwsLc),
            ("rustcrypto", Provider::RustCrypto),
        ],
    );
    let outer = outer(&mut check, &file.outer);
    let inner = inner(&mut check, &file.inner);
    if file.inner.interface == file.outer.interface {
        check.error(
            &FieldPath::of(&["inner", "interface"]),
            "is the outer interface: the tunnel needs one of its own, which the daemon makes",
        );
    }
    let ticket_keys = ticket_keys(&mut check, file.daemon.ticket_key_file.as_deref());
    let strangers = strangers(&mut check, &file.daemon);
    let pools = pools::pools(&mut check, &file);
    let connections = peers::connections(&mut check, &file);
    match (check.errors.is_empty(), outer, provider) {
        (true, Some(outer), Some(provider)) => Ok(Settings {
            file: source.path.to_owned(),
            daemon,
            outer,
            inner,
            mss_clamp: file.inner.mss_clamp,
            hold: Hold {
                tunnel: file.inner.hold,
                total: file.inner.hold_total,
            },
            warnings: check.warnings,
            control: Config {
                provider,
                worker: WorkerId(0),
                replay_window: file.daemon.replay_window,
                strangers,
                ticket_keys,
                pools,
                connections,
            },
        }),
        _ => {
            check.errors.sort_by_key(|error| error.line);
            Err(check.errors)
        }
    }
}

/// What those that have not authenticated may cost.
fn strangers(check: &mut Check<'_>, daemon: &file::Daemon) -> Strangers {
    if daemon.inits_per_second == 0 {
        check.error(
            &FieldPath::of(&["daemon", "inits_per_second"]),
            "must be at least 1: nobody could connect",
        );
    }
    for (field, value) in [
        ("half_open_limit", daemon.half_open_limit),
        ("half_open_per_source", daemon.half_open_per_source),
    ] {
        if value == 0 {
            check.error(
                &FieldPath::of(&["daemon", field]),
                "must be at least 1: nobody could connect",
            );
        }
    }
    Strangers {
        half_open: daemon.half_open_limit,
        half_open_per_source: daemon.half_open_per_source,
        cookie_threshold: daemon.cookie_threshold,
        inits_per_second: daemon.inits_per_second,
        inits_per_source: daemon.inits_per_source,
    }
}

/// The secret of the tickets for session resumption, if it shall outlive the process.
fn ticket_keys(check: &mut Check<'_>, file: Option<&Path>) -> Option<TicketKeys> {
    let path = file?;
    let at = FieldPath::of(&["daemon", "ticket_key_file"]);
    let path = match check.source.path.parent() {
        Some(folder) => folder.join(path),
        None => path.to_owned(),
    };
    let bytes = check.ok(&at, secret::read_file(&path))?;
    let exact = <[u8; TicketKeys::LEN]>::try_from(bytes.as_slice());
    let shown = path.display();
    let secret = exact.map_err(|_| {
        format!(
            "{shown} does not hold {} bytes: `(umask 077; echo 0x$(openssl rand -hex {0}) > {shown})` \
             makes a good one",
            TicketKeys::LEN
        )
    });
    check
        .ok(&at, secret)
        .map(Zeroizing::new)
        .map(TicketKeys::new)
}

fn daemon(check: &mut Check<'_>, daemon: &file::Daemon) -> DaemonSettings {
    let at = FieldPath::of(&["daemon"]);
    if !daemon.control_socket.is_absolute() {
        check.error(&at.key("control_socket"), "is not an absolute path");
    }
    if daemon
        .save_keys
        .as_ref()
        .is_some_and(|dir| !dir.is_absolute())
    {
        check.error(&at.key("save_keys"), "is not an absolute path");
    }
    if daemon.workers != 1 {
        check.error(&at.key("workers"), "only 1 worker is supported");
    }
    if daemon.cpus.len() > 1 {
        check.error(&at.key("cpus"), "has more CPUs than there are workers (1)");
    }
    // Links reorder; the upper end costs 8 KiB per SA.
    let windows = Config::REPLAY_WINDOW..=65536;
    if !windows.contains(&daemon.replay_window) {
        let (min, max) = windows.into_inner();
        check.error(
            &at.key("replay_window"),
            format!("is not within {min} to {max} packets"),
        );
    }
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&daemon.log) {
        check.error(
            &at.key("log"),
            format!("is neither a level nor a filter: {error}"),
        );
    }
    let format = check.word(
        &at.key("log_format"),
        &daemon.log_format,
        &[("human", false), ("json", true)],
    );
    DaemonSettings {
        control_socket: daemon.control_socket.clone(),
        cpu: daemon.cpus.first().copied(),
        log: daemon.log.clone(),
        log_json: format.unwrap_or(false),
        save_keys: daemon.save_keys.clone(),
    }
}

fn outer(check: &mut Check<'_>, outer: &file::Outer) -> Option<OuterSettings> {
    let at = FieldPath::of(&["outer"]);
    interface(check, &at.key("interface"), &outer.interface, INTERFACE_LEN);
    let modes = [
        ("auto", ModeRequest::Auto),
        ("native", ModeRequest::Native),
        ("generic", ModeRequest::Generic),
    ];
    let xdp_mode = check.word(&at.key("xdp_mode"), &outer.xdp_mode, &modes);
    let zero_copy = check.word(
        &at.key("zero_copy"),
        &outer.zero_copy,
        &[("auto", true), ("off", false)],
    );
    if !outer.ring_size.is_power_of_two() || !(64..=16384).contains(&outer.ring_size) {
        check.error(
            &at.key("ring_size"),
            "is not a power of two from 64 to 16384",
        );
    }
    if outer.frames < 4 * outer.ring_size || outer.frames > 1 << 20 {
        check.error(
            &at.key("frames"),
            format!(
                "is not within {} (four rings of {}) and {}",
                4 * outer.ring_size,
                outer.ring_size,
                1 << 20
            ),
        );
    }
    Some(OuterSettings {
        interface: outer.interface.clone(),
        xdp_mode: xdp_mode?,
        zero_copy: zero_copy?,
        queue: outer.queue,
        ring_size: outer.ring_size,
        frames: outer.frames,
        busy_poll: outer.busy_poll,
    })
}

fn inner(check: &mut Check<'_>, inner: &file::Inner) -> InnerConfig {
    let at = FieldPath::of(&["inner"]);
    // The far end's name has one byte more.
    interface(
        check,
        &at.key("interface"),
        &inner.interface,
        INTERFACE_LEN - 1,
    );
    if !(MIN_MTU..=MAX_MTU).contains(&inner.mtu) {
        check.error(
            &at.key("mtu"),
            format!("is not within {MIN_MTU} to {MAX_MTU} bytes"),
        );
    }
    for (field, value) in [("hold", inner.hold), ("hold_total", inner.hold_total)] {
        if value > MAX_HOLD {
            check.error(&at.key(field), format!("is more than {MAX_HOLD} packets"));
        }
    }
    let addresses = check.list(&at.key("addresses"), &inner.addresses, |_, error| {
        format!("{error}: an address and its prefix length, such as \"10.1.0.1/32\"")
    });
    InnerConfig {
        interface: inner.interface.clone(),
        mtu: inner.mtu,
        addresses,
    }
}

fn interface(check: &mut Check<'_>, field: &FieldPath, name: &str, max: usize) {
    let odd = |byte: u8| byte.is_ascii_whitespace() || byte == b'/' || byte == b':' || byte == 0;
    if name.is_empty() || name.len() > max || name == "." || name == ".." || name.bytes().any(odd) {
        check.error(
            field,
            format!("{name:?} is not an interface name of 1 to {max} characters"),
        );
    }
}
