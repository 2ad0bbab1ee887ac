//! The configuration file: TOML with swanctl's words. Unknown fields are refused, and every error
//! names file, line and field.

mod convert;
pub mod error;
mod file;
mod gate;
mod lifetime;
mod locate;
mod peers;
mod policy;
mod pools;
mod pubkey;
mod secret;
mod units;

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use mitregate_classifier::ModeRequest;
use mitregate_control::{Config, ConnectionConfig, PoolConfig};
use mitregate_wire::TrafficSelector;
use zeroize::Zeroizing;

pub use error::ConfigError;
pub use units::duration;

/// Files with keys and certificates, for whoever else reads them.
pub(crate) mod files {
    use std::path::Path;

    use zeroize::Zeroizing;

    pub(crate) use super::pubkey::{certificates, crls};
    use super::{pubkey, secret};

    /// A file that nobody else can read.
    pub(crate) fn private(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        secret::read_private(path)
    }

    /// Any file of a sensible size.
    pub(crate) fn public(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        secret::read_public(path, pubkey::MAX_FILE)
    }
}

use crate::net::Prefix;
use crate::net::inner::InnerConfig;
use crate::net::routes::Protected;

/// A configuration that makes sense in itself. Whether the machine has what it names is found
/// out at start-up.
pub struct Settings {
    /// Where it came from.
    pub file: PathBuf,
    /// The process.
    pub daemon: DaemonSettings,
    /// The side towards the peers.
    pub outer: OuterSettings,
    /// The side towards the host.
    pub inner: InnerConfig,
    /// Whether the MSS of TCP connections through the tunnels is lowered to what their paths carry.
    pub mss_clamp: bool,
    /// How many packets wait while no epoch carries data.
    pub hold: Hold,
    /// Connections, tunnels and keys.
    pub control: Config,
    /// What will not keep the daemon from starting, but should be looked at.
    pub warnings: Vec<ConfigError>,
}

/// Packets that wait for an epoch; the oldest make room for newer ones.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// Of one tunnel.
    pub tunnel: usize,
    /// Of all tunnels together; a quarter of the frame buffers is the most that there is.
    pub total: usize,
}

/// The process.
#[derive(Clone, Debug)]
pub struct DaemonSettings {
    /// Where the command line reaches the daemon.
    pub control_socket: PathBuf,
    /// CPU of the worker; None: the scheduler's choice.
    pub cpu: Option<usize>,
    /// A level or a tracing filter.
    pub log: String,
    /// JSON lines instead of text.
    pub log_json: bool,
    /// Folder for the keys of all SAs.
    pub save_keys: Option<PathBuf>,
}

/// The side towards the peers.
#[derive(Clone, Debug)]
pub struct OuterSettings {
    /// Interface name.
    pub interface: String,
    /// How the classifier is attached.
    pub xdp_mode: ModeRequest,
    /// Whether to ask for zero-copy sockets.
    pub zero_copy: bool,
    /// Receive queue.
    pub queue: u32,
    /// Descriptors per ring.
    pub ring_size: u32,
    /// Packet buffers.
    pub frames: u32,
    /// Busy polling.
    pub busy_poll: bool,
}

impl Settings {
    /// Reads and checks a file, and the secrets it points to.
    pub fn load(path: &Path) -> Result<Self, Vec<ConfigError>> {
        let whole = |message: String| vec![ConfigError::file(path, message)];
        let metadata =
            fs::metadata(path).map_err(|error| whole(format!("cannot read: {error}")))?;
        let text = fs::read(path).map_err(|error| whole(format!("cannot read: {error}")))?;
        let text = Zeroizing::new(
            String::from_utf8(text).map_err(|_| whole("is not UTF-8 text".to_owned()))?,
        );
        let source = Source {
            path,
            text: &text,
            readable_by: secret::others_can_read(&metadata),
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY"),
        };
        convert::settings(&source)
    }

    /// The destinations that must never be reached in clear, each once, and the addresses that
    /// the host's own packets into the tunnel get.
    pub fn protected(&self) -> Vec<Protected> {
        let mut protected: Vec<Protected> = Vec::new();
        let children = self.control.connections.iter().flat_map(|connection| {
            let children = connection.children.iter();
            children.map(move |child| (connection, child))
        });
        for (connection, child) in children {
            let vips = child.dynamic.local && !connection.vips.is_empty();
            let of_child =
                |pool: &&PoolConfig| child.dynamic.remote && connection.pools.contains(&pool.name);
            let pools = self.control.pools.iter().filter(of_child);
            let pools = pools.filter_map(|pool| {
                TrafficSelector::new(0, 0..=u16::MAX, pool.start, pool.end).ok()
            });
            let selectors = child.remote_ts.iter().copied();
            for selector in selectors.chain(pools) {
                let source = self
                    .inner
                    .addresses
                    .iter()
                    .map(|prefix| prefix.address())
                    .find(|address| {
                        address.is_ipv4() == selector.start().is_ipv4()
                            && child
                                .local_ts
                                .iter()
                                .any(|ts| ts.start() <= *address && *address <= ts.end())
                    });
                for destination in Prefix::cover(selector.start(), selector.end()) {
                    if !protected
                        .iter()
                        .any(|known| known.destination == destination)
                    {
                        protected.push(Protected {
                            destination,
                            source,
                            virtual_of: vips.then(|| connection.name.clone()),
                        });
                    }
                }
            }
        }
        protected
    }

    /// The addresses that connections name as ours.
    pub fn local_addresses(&self) -> Vec<IpAddr> {
        self.addresses(|_| true)
    }

    /// The same without those that are only what the outer interface has.
    pub fn configured_addresses(&self) -> Vec<IpAddr> {
        self.addresses(|connection| !connection.mobility.any_local)
    }

    fn addresses(&self, which: impl Fn(&&ConnectionConfig) -> bool) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self
            .control
            .connections
            .iter()
            .filter(which)
            .flat_map(|connection| connection.local_addrs.iter().copied())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}

impl Source<'_> {
    /// The path of a file that the configuration names: relative to its own folder.
    fn beside(&self, path: &Path) -> PathBuf {
        match self.path.parent() {
            Some(folder) => folder.join(path),
            None => path.to_owned(),
        }
    }
}

/// What a configuration is read from.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
    /// Who besides the owner can read it.
    readable_by: Option<&'static str>,
    /// Where systemd put the service's credentials.
    credentials: Option<OsString>,
}
