//! From aya-log's records to tracing.

use aya_log::EbpfLogger;

/// Hands on what the program reports; the target names the program, not a path in its source.
pub struct Tracing;

pub type Logger = EbpfLogger<Tracing>;

impl log::Log for Tracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let message = record.args();
        match record.level() {
            log::Level::Error => tracing::error!(target: "mitregate::xdp", "{message}"),
            log::Level::Warn => tracing::warn!(target: "mitregate::xdp", "{message}"),
            log::Level::Info => tracing::info!(target: "mitregate::xdp", "{message}"),
            log::Level::Debug => tracing::debug!(target: "mitregate::xdp", "{message}"),
            log::Level::Trace => tracing::trace!(target: "mitregate::xdp", "{message}"),
        }
    }

    fn flush(&self) {}
}

/// The program's own scale (aya-log-common): 0 is silence.
pub fn threshold(level: Option<tracing::Level>) -> u8 {
    match level {
        None => 0,
        Some(tracing::Level::ERROR) => 1,
        Some(tracing::Level::WARN) => 2,
        Some(tracing::Level::INFO) => 3,
        Some(tracing::Level::DEBUG) => 4,
        Some(tracing::Level::TRACE) => 5,
    }
}
