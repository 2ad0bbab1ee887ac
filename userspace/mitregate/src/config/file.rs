//! The file as it is written: the fields, their names and defaults. What the texts mean is
//! `convert`'s business.

use std::collections::BTreeMap;
use std::fmt::{self, Formatter};
use std::path::PathBuf;

use mitregate_control::{Config, Strangers};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::secret::InlineSecret;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(default)]
    pub daemon: Daemon,
    pub outer: Outer,
    #[serde(default)]
    pub inner: Inner,
    #[serde(default)]
    pub connections: BTreeMap<String, Connection>,
    #[serde(default)]
    pub secrets: BTreeMap<String, Secret>,
    #[serde(default)]
    pub pools: BTreeMap<String, Pool>,
}

/// Virtual addresses for peers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// A prefix (its first and, in IPv4, last address are left out), or `first-last`.
    pub addrs: String,
    /// DNS servers that go with an address.
    #[serde(default)]
    pub dns: Vec<String>,
}

/// The process.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Daemon {
    /// Where the command line reaches the daemon.
    pub control_socket: PathBuf,
    /// What computes AES and ChaCha: `aws-lc` or `rustcrypto`.
    pub provider: String,
    /// Worker threads, one per queue pair.
    pub workers: u8,
    /// CPUs for the workers; empty: the scheduler's choice.
    pub cpus: Vec<usize>,
    /// The secret of the tickets for session resumption, 32 bytes; without it they end with the process.
    pub ticket_key_file: Option<PathBuf>,
    /// Packets that an inbound SA's replay window spans.
    pub replay_window: u32,
    /// A level, or a tracing filter such as `info,mitregate_ike=debug`.
    pub log: String,
    /// `human` or `json`.
    pub log_format: String,
    /// Folder for the keys of all SAs, in Wireshark's format; none: they are never written.
    pub save_keys: Option<PathBuf>,
    /// Half-open IKE SAs in all.
    pub half_open_limit: usize,
    /// Half-open IKE SAs of one source.
    pub half_open_per_source: usize,
    /// Half-open IKE SAs of one source from which on it is asked for cookies.
    pub cookie_threshold: usize,
    /// First messages in one second that cost a key exchange.
    pub inits_per_second: u32,
    /// First messages of one source within ten to twenty seconds, once cookies are asked for.
    pub inits_per_source: u32,
}

impl Default for Daemon {
    fn default() -> Self {
        let strangers = Strangers::default();
        Self {
            control_socket: "/run/mitregate/control.sock".into(),
            provider: "aws-lc".into(),
            workers: 1,
            cpus: Vec::new(),
            ticket_key_file: None,
            replay_window: Config::REPLAY_WINDOW,
            log: "info".into(),
            log_format: "human".into(),
            save_keys: None,
            half_open_limit: strangers.half_open,
            half_open_per_source: strangers.half_open_per_source,
            cookie_threshold: strangers.cookie_threshold,
            inits_per_second: strangers.inits_per_second,
            inits_per_source: strangers.inits_per_source,
        }
    }
}

/// The side towards the peers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outer {
    /// Interface name.
    pub interface: String,
    /// `auto`, `native` or `generic`.
    #[serde(default = "auto")]
    pub xdp_mode: String,
    /// `auto` or `off`.
    #[serde(default = "auto")]
    pub zero_copy: String,
    /// First receive queue; worker n takes the n-th after it.
    #[serde(default)]
    pub queue: u32,
    /// Descriptors per ring, a power of two.
    #[serde(default = "ring_size")]
    pub ring_size: u32,
    /// Packet buffers of 2 KiB per worker.
    #[serde(default = "frames")]
    pub frames: u32,
    /// Busy polling of the NIC; costs CPU, saves latency.
    #[serde(default)]
    pub busy_poll: bool,
}

/// The side towards the host.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inner {
    /// Name of the interface to make.
    pub interface: String,
    /// Bytes of the largest inner packet.
    pub mtu: u32,
    /// Put on the interface, `address/length`.
    pub addresses: Vec<String>,
    /// Whether the MSS of TCP connections through the tunnels is lowered to what their paths carry.
    pub mss_clamp: bool,
    /// Packets that a tunnel holds while no epoch carries data.
    pub hold: usize,
    /// The same for all tunnels together.
    pub hold_total: usize,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            interface: "mg0".into(),
            mtu: 1400,
            addresses: Vec::new(),
            mss_clamp: true,
            hold: 256,
            hold_total: 1024,
        }
    }
}

/// One peer, or one kind of peers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// `client`, `server`, or `auto` where both may start; without it, client if a child starts by itself.
    pub role: Option<String>,
    /// Ours; none: those of the outer interface.
    #[serde(default)]
    pub local_addrs: Vec<String>,
    /// Theirs; none, or `%any`, for a server that anybody may call.
    #[serde(default)]
    pub remote_addrs: Vec<String>,
    /// `auto`, `esp` or `udp`.
    #[serde(default = "auto")]
    pub encap: String,
    /// For the IKE SA.
    #[serde(default)]
    pub proposals: Vec<String>,
    pub local: Local,
    pub remote: Remote,
    /// Its mode alone, or all of it.
    #[serde(default, deserialize_with = "gate")]
    pub gate: Gate,
    /// Repetitions of an IKE request before the peer counts as dead.
    pub retransmit_tries: Option<u32>,
    /// Wait before the first repetition.
    pub retransmit_timeout: Option<String>,
    /// Growth of the wait from one to the next.
    pub retransmit_base: Option<f64>,
    /// Longest wait between two.
    pub retransmit_limit: Option<String>,
    /// Of IKE messages (RFC 7383): `yes`, `accept`, `force` or `no`.
    #[serde(default = "yes")]
    pub fragmentation: String,
    /// Bytes of the largest IP datagram that a message is sent in whole.
    pub fragment_size: Option<usize>,
    /// Of sessions, by tickets (RFC 5723): `yes` or `no`.
    #[serde(default = "yes")]
    pub resumption: String,
    /// Silence after which the peer is asked for a sign of life; `0s`: never.
    pub dpd_delay: Option<String>,
    /// Time without an answer after which the peer is dead; `0s`: as the retransmissions say.
    pub dpd_timeout: Option<String>,
    /// Between keepalives behind a NAT; `0s`: none.
    pub keepalive: Option<String>,
    /// Age at which an IKE SA is rekeyed; `0s`: never.
    pub rekey_time: Option<String>,
    /// Age at which a client replaces an IKE SA by one that authenticates anew; `0s`: never.
    pub reauth_time: Option<String>,
    /// Virtual addresses to ask for; `0.0.0.0` and `::`: any.
    #[serde(default)]
    pub vips: Vec<String>,
    /// Names of the pools that peers get virtual addresses from.
    #[serde(default)]
    pub pools: Vec<String>,
    /// What another IKE SA of the same peer means: `replace`, `keep` or `never`.
    #[serde(default = "replace")]
    pub unique: String,
    /// Peers at a time, where each that authenticates is one of its own.
    pub max_peers: Option<usize>,
    /// IKE SAs without a CHILD_SA: `allow`, `prefer`, `force` or `never`.
    #[serde(default = "allow")]
    pub childless: String,
    /// How long after `rekey_time` an IKE SA ends that was not replaced.
    pub over_time: Option<String>,
    /// How much earlier than due it is rekeyed or replaced, at most, at random.
    pub rand_time: Option<String>,
    /// What a client does with a rekey that its server starts: `accept`, `refuse` or `ignore`.
    #[serde(default = "accept")]
    pub peer_rekey: String,
    /// How often it refuses before it accepts, with `peer_rekey = "refuse"`.
    pub peer_rekey_refusals: Option<u8>,
    /// MOBIKE (RFC 4555), where the peer does it too.
    #[serde(default = "enabled")]
    pub mobike: bool,
    /// ESP follows a MOBIKE peer only to an address that has answered (RFC 4555 §3.7).
    #[serde(default = "enabled")]
    pub return_routability: bool,
    /// Which packets of a standard peer move where ESP goes: `any` or `ping`.
    #[serde(default = "any")]
    pub follow: String,
    /// Follow a peer although we are behind a NAT ourselves.
    #[serde(default)]
    pub follow_behind_nat: bool,
    /// Ask for plain ESP behind a NAT, too.
    #[serde(default)]
    pub probe_behind_nat: bool,
    #[serde(default)]
    pub children: BTreeMap<String, Child>,
}

/// How we prove who we are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// `psk`, `pubkey`, or which keys and signatures; without it, `pubkey` where there are certs.
    pub auth: Option<String>,
    /// Identity; without it the first of local_addrs, or the subject of the first certificate.
    pub id: Option<String>,
    /// Files (PEM or DER), each with a certificate of ours and perhaps its chain.
    #[serde(default)]
    pub certs: Vec<PathBuf>,
    /// Files with the private keys of these, that nobody else can read.
    #[serde(default)]
    pub keys: Vec<PathBuf>,
    /// Files with further certificates for the chains.
    #[serde(default)]
    pub cacerts: Vec<PathBuf>,
}

/// How the peer must prove who it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// As for the local side; without it, `pubkey` where there are certs or cacerts.
    pub auth: Option<String>,
    /// Identity, pattern or `%any`; without it the first of remote_addrs.
    pub id: Option<String>,
    /// Files with the peer's very own certificates, to be trusted each for itself.
    #[serde(default)]
    pub certs: Vec<PathBuf>,
    /// Files with the authorities that are trusted.
    #[serde(default)]
    pub cacerts: Vec<PathBuf>,
    /// Files with lists of revoked certificates.
    #[serde(default)]
    pub crls: Vec<PathBuf>,
    /// `relaxed`, `ifuri` or `strict`.
    pub revocation: Option<String>,
}

/// The ping gate.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// `auto`, `echo`, `icmp` or `off`.
    pub mode: Option<String>,
    /// Whom to ask by ICMP; the first that the selectors let pass.
    pub icmp_targets: Option<Vec<String>>,
    /// How the largest packet that a path carries is found: `probe` or `off`.
    pub path_mtu: Option<String>,
    /// Wait for the answer to a first ping.
    pub ping_timeout: Option<String>,
    /// Pings on a new epoch before it is given up for a fresh one.
    pub tries: Option<u32>,
    /// The same while no epoch carries data.
    pub first_tries: Option<u32>,
    /// Pings on a proven epoch before a rekey is asked for.
    pub suspect_tries: Option<u32>,
    /// Each wait is this many times the one before.
    pub backoff: Option<f64>,
    /// Each wait is drawn from 1 ± jitter times its length.
    pub jitter: Option<f64>,
    /// How long data waits after all pings were lost, where a NAT notes each SPI.
    pub hold_lost: Option<String>,
    /// How long a rekey may take before a new IKE session is begun beside it.
    pub rekey_patience: Option<String>,
    /// Unproven epochs in a row before a new IKE session is begun.
    pub epochs_per_session: Option<u32>,
    /// First wait between two such requests in a row.
    pub escalation_backoff: Option<String>,
    /// Longest wait between two pings, or two such requests.
    pub escalation_max: Option<String>,
    /// Silent epochs in a row after which a peer that never answered is let be.
    pub mute_after: Option<u32>,
    /// How long a replaced epoch goes on receiving at least.
    pub drain_min: Option<String>,
    /// And at most, without a sign of the peer.
    pub drain_max: Option<String>,
    /// Whether a proven epoch is pinged again when it falls silent; a client does by default.
    pub idle: Option<bool>,
    /// How often traffic is looked at.
    pub idle_tick: Option<String>,
    /// Data went out and nothing came back for so long: ping.
    pub idle_unanswered: Option<String>,
    /// Nothing came any more for so long: ping; doubled with each.
    pub idle_silence: Option<String>,
    /// Longest time between two pings on a quiet tunnel.
    pub idle_silence_max: Option<String>,
    /// Time between two pings on a tunnel that only receives.
    pub idle_receive_only: Option<String>,
    /// Answers to the peer's pings per second.
    pub echo_rate: Option<u32>,
    /// Answers at once.
    pub echo_burst: Option<u32>,
}

/// One tunnel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Child {
    /// Protected on our side; `dynamic`: our virtual addresses, or our outer one.
    pub local_ts: Vec<String>,
    /// Protected on the peer's side; `dynamic`: its virtual addresses, or its outer one.
    pub remote_ts: Vec<String>,
    #[serde(default)]
    pub esp_proposals: Vec<String>,
    /// `start`, `trap` or `none`.
    #[serde(default = "none")]
    pub start_action: String,
    /// When the peer deletes it: `start`, `trap` or `none`.
    pub close_action: Option<String>,
    /// When the peer is dead: `restart`, `trap` or `clear`.
    pub dpd_action: Option<String>,
    /// Time without data after which it is deleted; `0s`: never.
    pub inactivity: Option<String>,
    /// Age at which a fresh epoch is negotiated.
    pub rekey_time: Option<String>,
    /// Age at which an epoch ends, replaced or not.
    pub life_time: Option<String>,
    /// How much earlier than due it is negotiated, at most, at random.
    pub rand_time: Option<String>,
    /// Inner bytes sent after which a fresh epoch is negotiated.
    pub rekey_bytes: Option<u64>,
    /// Inner bytes that an epoch sends at all.
    pub life_bytes: Option<u64>,
    /// As `rand_time`.
    pub rand_bytes: Option<u64>,
    /// Packets sent after which a fresh epoch is negotiated.
    pub rekey_packets: Option<u64>,
    /// Packets that an epoch sends at all.
    pub life_packets: Option<u64>,
    /// As `rand_time`.
    pub rand_packets: Option<u64>,
}

/// One pre-shared key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Whose; empty: everybody's.
    #[serde(default)]
    pub ids: Vec<String>,
    /// The key itself, in a file that nobody else can read.
    pub secret: Option<InlineSecret>,
    /// File with nothing but the key; relative to the configuration's folder.
    pub secret_file: Option<PathBuf>,
    /// Name of a systemd credential.
    pub credential: Option<String>,
}

/// `gate = "off"` is short for a table with nothing but its `mode`.
fn gate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Gate, D::Error> {
    struct Either;

    impl<'de> Visitor<'de> for Either {
        type Value = Gate;

        fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str("\"auto\", \"echo\", \"icmp\", \"off\" or a table of the gate's fields")
        }

        fn visit_str<E>(self, mode: &str) -> Result<Gate, E> {
            Ok(Gate {
                mode: Some(mode.to_owned()),
                ..Gate::default()
            })
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Gate, A::Error> {
            Gate::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_any(Either)
}

fn accept() -> String {
    "accept".into()
}

fn auto() -> String {
    "auto".into()
}

fn yes() -> String {
    "yes".into()
}

fn none() -> String {
    "none".into()
}

fn replace() -> String {
    "replace".into()
}

fn allow() -> String {
    "allow".into()
}

fn enabled() -> bool {
    true
}

fn any() -> String {
    "any".into()
}

fn ring_size() -> u32 {
    2048
}

fn frames() -> u32 {
    16384
}
