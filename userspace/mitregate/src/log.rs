//! Where the logs go: to standard error, for people or as JSON lines.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::config::DaemonSettings;

/// Libraries whose DEBUG is about themselves. A filter that names them still gets it.
const QUIET: &str = "aya=warn,aya_obj=warn,mio=warn,netlink_packet_route=warn,\
                     netlink_proto=warn,netlink_sys=warn,tokio=warn";

/// From here on, for the whole process.
pub fn init(settings: &DaemonSettings) -> Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", settings.log)).context("daemon.log")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(true);
    let result = if settings.log_json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(io::stderr().is_terminal()).try_init()
    };
    result.map_err(|error| anyhow::anyhow!("cannot set up the log: {error}"))
}
