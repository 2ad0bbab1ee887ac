//! What `list-sas` and `stats` show. Times are in milliseconds, SPIs in hexadecimal, as strings where
//! JSON's numbers would not do.

use serde::Serialize;

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct ListView {
    /// As configured.
    pub connections: Vec<ConnectionView>,
    /// Oldest first.
    pub ike_sas: Vec<IkeSaView>,
    /// In the order of the policy.
    pub tunnels: Vec<TunnelView>,
}

/// A configured connection.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionView {
    /// Its name.
    pub name: String,
    /// `client` or `server`.
    pub role: &'static str,
    /// Who we are.
    pub local_id: String,
    /// Who the peer is; `%any`.
    pub remote_id: String,
    /// Our addresses; empty: any.
    pub local_addrs: Vec<String>,
    /// The peer's addresses; empty: any.
    pub remote_addrs: Vec<String>,
    /// `auto`, `esp` or `udp`.
    pub encap: &'static str,
    /// Names of its tunnels, `connection/child`.
    pub tunnels: Vec<String>,
}

/// A pool of virtual addresses.
#[derive(Debug, Clone, Serialize)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// Its first address.
    pub first: String,
    /// Its last address.
    pub last: String,
    /// Addresses that it gives out at most.
    pub size: u64,
    /// Leases whose peer is there.
    pub online: usize,
    /// Leases kept for a peer that is away.
    pub offline: usize,
    /// DNS servers that go with an address.
    pub dns: Vec<String>,
    /// By address.
    pub leases: Vec<LeaseView>,
}

/// A virtual address of a peer.
#[derive(Debug, Clone, Serialize)]
pub struct LeaseView {
    /// The address.
    pub address: String,
    /// Whose it is.
    pub peer_id: String,
    /// Whether that peer is there.
    pub online: bool,
    /// Since it was assigned last, or, if not online, since its peer went.
    pub since_ms: u64,
}

/// One IKE SA.
#[derive(Debug, Clone, Serialize)]
pub struct IkeSaView {
    /// Its connection; absent until the peer has said who it is.
    pub connection: Option<String>,
    /// `connecting`, `established`, `closing` or `dead`.
    pub state: &'static str,
    /// Whether we started it, or the rekey that made it.
    pub initiator: bool,
    /// Since it began.
    pub age_ms: u64,
    /// The SPI that we chose, hexadecimal.
    pub spi_local: String,
    /// The SPI that the peer chose, hexadecimal.
    pub spi_remote: String,
    /// Where IKE goes from.
    pub local: String,
    /// Where IKE goes to.
    pub remote: String,
    /// Who the peer proved to be.
    pub peer_id: Option<String>,
    /// Virtual addresses that the peer gave to us.
    pub local_vips: Vec<String>,
    /// Virtual addresses that we gave to the peer.
    pub remote_vips: Vec<String>,
    /// DNS servers that the peer told us.
    pub dns: Vec<String>,
    /// Its algorithms.
    pub suite: Option<String>,
    /// We are behind a NAT.
    pub nat_local: bool,
    /// The peer is behind a NAT.
    pub nat_remote: bool,
    /// Inbound SPIs of its CHILD_SAs, hexadecimal.
    pub children: Vec<String>,
}

/// One tunnel.
#[derive(Debug, Clone, Serialize)]
pub struct TunnelView {
    /// Its id in events.
    pub id: u32,
    /// `connection/child`.
    pub name: String,
    /// `client` or `server`.
    pub role: &'static str,
    /// As configured: `auto`, `echo`, `icmp` or `off`.
    pub gate_mode: &'static str,
    /// Whether it is kept up from here.
    pub wanted: bool,
    /// Whether the first packet for it brings it up.
    pub trapped: bool,
    /// `proven`, `unproven` (it carries data with a peer that cannot prove), or `down`.
    pub status: &'static str,
    /// Whether data waits for an epoch.
    pub data_waiting: bool,
    /// The policy.
    pub selectors: SelectorView,
    /// Packets received and sent over all its epochs, past ones included.
    pub packets_in: u64,
    /// See [`Self::packets_in`].
    pub packets_out: u64,
    /// Inner bytes received over all its epochs, past ones included.
    pub bytes_in: u64,
    /// Inner bytes sent.
    pub bytes_out: u64,
    /// What is known of its path's MTU; absent before the first epoch, and where it is not looked for.
    pub path_mtu: Option<PathMtuView>,
    /// What its gate has counted.
    pub gate: GateCountersView,
    /// How long it was a black hole in all, from the first sign of each (data unanswered, a lost ping) to the
    /// next proof.
    pub black_hole_ms: u64,
    /// What has come of its encapsulation.
    pub encap: EncapView,
    /// What its gate did last on its own account, and why.
    pub last_action: Option<ActionView>,
    /// Oldest first.
    pub epochs: Vec<EpochView>,
}

/// A tunnel's encapsulation (docs/encapsulation.md).
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct EncapView {
    /// Changes to plain ESP.
    pub to_esp: u64,
    /// Changes to UDP.
    pub to_udp: u64,
    /// Pings sent by another way than that of the epoch.
    pub pings_sent: u64,
    /// Questions that were answered.
    pub answered: u64,
    /// Questions that were not.
    pub unanswered: u64,
    /// Until plain ESP is asked for; absent when it is not to be.
    pub ask_in_ms: Option<u64>,
}

/// Something that a gate did.
#[derive(Debug, Clone, Serialize)]
pub struct ActionView {
    /// In words, with the reason.
    pub text: String,
    /// Since then.
    pub ago_ms: u64,
}

/// The search for the MTU of a tunnel's path (RFC 8899).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PathMtuView {
    /// `disabled`, `base`, `search`, `complete` or `error`.
    pub state: &'static str,
    /// In use: bytes of the largest outer IP packet.
    pub outer: u16,
    /// In use: bytes of the largest inner packet.
    pub inner: u16,
    /// Whether a probe of that size was answered.
    pub confirmed: bool,
    /// The size that is asked now.
    pub probing: Option<u16>,
    /// Probes sent.
    pub probes_sent: u64,
    /// Of those, answered.
    pub probes_answered: u64,
    /// Of those, not answered in time.
    pub probes_lost: u64,
    /// Times that the size in use stopped arriving.
    pub black_holes: u64,
    /// ICMP errors about this path.
    pub hints: u64,
    /// Of those, the ones that led to a probe.
    pub hints_taken: u64,
}

/// Traffic selectors, as swanctl writes them.
#[derive(Debug, Clone, Serialize)]
pub struct SelectorView {
    /// Our side.
    pub local_ts: Vec<String>,
    /// The peer's side.
    pub remote_ts: Vec<String>,
}

/// One epoch of a tunnel.
#[derive(Debug, Clone, Serialize)]
pub struct EpochView {
    /// Its id.
    pub id: u64,
    /// `installed`, `probing`, `proven`, `suspect`, `draining` or `dead`.
    pub state: &'static str,
    /// How long it has been in that state.
    pub state_ms: u64,
    /// Since it was installed.
    pub age_ms: u64,
    /// Whether it carries our data.
    pub active: bool,
    /// What lets it carry data: `ping`, `peer-data` or `released:…`.
    pub proof: Option<String>,
    /// Round-trip time of the last ping answered on it.
    pub last_rtt_us: Option<u64>,
    /// SPI of the inbound SA, hexadecimal.
    pub spi_in: String,
    /// SPI of the outbound SA, hexadecimal.
    pub spi_out: String,
    /// Cipher of both.
    pub cipher: String,
    /// `esp` or `udp`: how our packets travel now. The peer decides for its own.
    pub encap: &'static str,
    /// What is being asked by another way: `protocol-50` (whether the path passes it), `plain-esp` (whether
    /// this epoch's packets arrive so) or `address` (whether the peer is at another one).
    pub encap_asks: Option<&'static str>,
    /// Our end of the outer path.
    pub local: String,
    /// The peer's end of the outer path.
    pub remote: String,
    /// Bytes of the largest outer IP packet with data; absent where the path is not asked for it.
    pub path_mtu: Option<u16>,
    /// Until it is rekeyed; absent when that is not ours to do.
    pub rekey_in_ms: Option<u64>,
    /// As negotiated.
    pub selectors: SelectorView,
    /// Inner packets received.
    pub packets_in: u64,
    /// Inner packets sent.
    pub packets_out: u64,
    /// Inner bytes received.
    pub bytes_in: u64,
    /// Inner bytes sent.
    pub bytes_out: u64,
    /// Packets refused as replayed.
    pub replays: u64,
    /// Packets with a wrong ICV.
    pub integrity_failures: u64,
}

/// See [`mitregate_gate::GateCounters`].
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[allow(missing_docs)]
pub struct GateCountersView {
    pub pings_sent: u64,
    pub pings_answered: u64,
    pub pings_lost: u64,
    pub echoes_answered: u64,
    pub echoes_refused: u64,
    pub proven: u64,
    pub released: u64,
    pub recoveries: RecoveriesView,
    pub rekeys: u64,
    pub new_sessions: u64,
}

impl From<mitregate_gate::GateCounters> for GateCountersView {
    fn from(c: mitregate_gate::GateCounters) -> Self {
        Self {
            pings_sent: c.pings_sent,
            pings_answered: c.pings_answered,
            pings_lost: c.pings_lost,
            echoes_answered: c.echoes_answered,
            echoes_refused: c.echoes_refused,
            proven: c.proven,
            released: c.released,
            recoveries: c.recoveries.into(),
            rekeys: c.rekeys,
            new_sessions: c.new_sessions,
        }
    }
}

/// See [`mitregate_gate::Recoveries`].
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[allow(missing_docs)]
pub struct RecoveriesView {
    pub re_ping: u64,
    pub rekey: u64,
    pub new_ike: u64,
    pub encap: u64,
}

impl From<mitregate_gate::Recoveries> for RecoveriesView {
    fn from(r: mitregate_gate::Recoveries) -> Self {
        Self {
            re_ping: r.re_ping,
            rekey: r.rekey,
            new_ike: r.new_ike,
            encap: r.encap,
        }
    }
}
