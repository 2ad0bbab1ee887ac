//! One tunnel and its epochs.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mitregate_esp::ids::EpochId;
use mitregate_esp::{CipherSuite, SaCounters};
use mitregate_gate::{Activity, Gate, GateConfig, State};
use mitregate_ike::{Encap, Identity, ResumptionTicket};
use mitregate_wire::TrafficSelector;
use mitregate_wire::esp::Spi;
use rand_core::Rng;

use crate::encap::{Encapsulation, PlainEsp, Ways};
use crate::icmp::{self, Secret};
use crate::idle::Quiet;
use crate::path_mtu::Path;
use crate::session::SessionId;
use crate::{ConnectionConfig, Outer, Ticket};

/// A configured connection at work.
pub(crate) struct Connection {
    /// That of the configuration; `name[n]` for the n-th peer of a template.
    pub(crate) name: String,
    pub(crate) config: Arc<ConnectionConfig>,
    /// The template that this is a peer of.
    pub(crate) template: Option<usize>,
    /// Who that peer is.
    pub(crate) peer: Option<Identity>,
    /// Peers that a template has had.
    pub(crate) peers: u64,
    /// Indices of its tunnels, in the order of its children.
    pub(crate) tunnels: Vec<usize>,
    /// Tunnels that a new session shall bring up.
    pub(crate) wants: BTreeSet<usize>,
    pub(crate) retry: Retry,
    /// Turns through the peer's addresses.
    pub(crate) turn: usize,
    /// Why the last attempt failed, so that the log says it once.
    pub(crate) last_failure: Option<String>,
    /// Virtual addresses and DNS servers that the peer gave to us, as told outside.
    pub(crate) addresses: (Vec<IpAddr>, Vec<IpAddr>),
    /// What the peer gave for the next session: it outlives the IKE SA, and is shown once (RFC 5723).
    pub(crate) ticket: Option<ResumptionTicket>,
    /// The next session shall authenticate in full.
    pub(crate) reauthenticates: bool,
    /// Whether protocol 50 passes.
    pub(crate) plain_esp: PlainEsp,
}

impl Connection {
    pub(crate) fn new(name: String, config: Arc<ConnectionConfig>) -> Self {
        Self {
            name,
            config,
            template: None,
            peer: None,
            peers: 0,
            tunnels: Vec::new(),
            wants: BTreeSet::new(),
            retry: Retry::default(),
            turn: 0,
            last_failure: None,
            addresses: Default::default(),
            ticket: None,
            reauthenticates: false,
            plain_esp: PlainEsp::default(),
        }
    }

    /// The peer's identity, or `%any`.
    pub(crate) fn peer(&self) -> String {
        match (&self.peer, &self.config.remote_id) {
            (Some(id), _) => id.to_string(),
            (None, Some(pattern)) => pattern.to_string(),
            (None, None) => "%any".to_owned(),
        }
    }

    /// Where a new session goes from and to; each attempt takes the next of the peer's addresses.
    /// `own`: our addresses, best first.
    pub(crate) fn next_ends(&mut self, own: &[IpAddr]) -> Option<(SocketAddr, SocketAddr)> {
        let config = &self.config;
        let remotes = &config.remote_addrs;
        for _ in 0..remotes.len() {
            let remote = remotes[self.turn % remotes.len()];
            self.turn = self.turn.wrapping_add(1);
            let local = own.iter().find(|a| a.is_ipv4() == remote.is_ipv4());
            if let Some(local) = local {
                return Some((
                    SocketAddr::new(*local, config.local_port),
                    SocketAddr::new(remote, config.remote_port),
                ));
            }
        }
        None
    }
}

/// A tunnel at work.
pub(crate) struct Tunnel {
    pub(crate) connection: usize,
    pub(crate) child: usize,
    /// `connection/child`.
    pub(crate) name: String,
    /// Our side of its place in the policy.
    pub(crate) local_ts: Vec<TrafficSelector>,
    /// The peer's side.
    pub(crate) remote_ts: Vec<TrafficSelector>,
    pub(crate) gate: Gate,
    /// Of its inner ICMP echos.
    pub(crate) icmp_secret: Secret,
    pub(crate) epochs: BTreeMap<EpochId, Epoch>,
    /// Keep it up.
    pub(crate) wanted: bool,
    /// The first packet for it makes it wanted.
    pub(crate) trapped: bool,
    /// Whether data moves, where it is to be deleted if not.
    pub(crate) quiet: Option<Quiet>,
    /// A child was asked of this session; after the time, another session is asked as well.
    pub(crate) requested: Option<(SessionId, Duration)>,
    pub(crate) retry: Retry,
    pub(crate) data_waiting: bool,
    /// Of epochs that are gone.
    pub(crate) past: Totals,
    pub(crate) moved: Option<Duration>,
    pub(crate) encap: Encapsulation,
    /// The search for the MTU of the way that its data takes.
    pub(crate) path: Option<Path>,
    pub(crate) waiters: Vec<(Ticket, Goal)>,
}

/// What a command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    Up,
    Down,
}

/// One epoch.
pub(crate) struct Epoch {
    /// The IKE SA that it belongs to; `None` for an orphan.
    pub(crate) session: Option<SessionId>,
    pub(crate) spi_in: Spi,
    pub(crate) spi_out: Spi,
    pub(crate) cipher: CipherSuite,
    pub(crate) outer: Outer,
    /// What else `outer` may be.
    pub(crate) ways: Ways,
    /// The peer answers ESP Echo.
    pub(crate) peer_echo: bool,
    pub(crate) local_ts: Vec<TrafficSelector>,
    pub(crate) remote_ts: Vec<TrafficSelector>,
    /// Where it can be asked by ICMP.
    pub(crate) icmp: Option<icmp::Ends>,
    pub(crate) counters: Arc<SaCounters>,
    pub(crate) rekey_at: Option<Duration>,
    pub(crate) expires_at: Duration,
    /// Its Delete was asked for.
    pub(crate) deleting: bool,
    /// An orphan that goes when it is silent: when to look, and when a packet came last.
    pub(crate) silent_from: Option<(Duration, u64)>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) large_out: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, counters: &SaCounters) {
        self.packets_in += counters.packets_in.get();
        self.packets_out += counters.packets_out.get();
        self.bytes_in += counters.bytes_in.get();
        self.bytes_out += counters.bytes_out.get();
        self.large_out += counters.large_out.get();
    }
}

impl Tunnel {
    pub(crate) fn new(
        connection: usize,
        child: usize,
        name: String,
        gate: GateConfig,
        icmp_secret: Secret,
        local_ts: Vec<TrafficSelector>,
        remote_ts: Vec<TrafficSelector>,
    ) -> Self {
        Self {
            connection,
            child,
            name,
            local_ts,
            remote_ts,
            gate: Gate::new(gate),
            icmp_secret,
            epochs: BTreeMap::new(),
            wanted: false,
            trapped: false,
            quiet: None,
            requested: None,
            retry: Retry::default(),
            data_waiting: false,
            past: Totals::default(),
            moved: None,
            encap: Encapsulation::default(),
            path: None,
            waiters: Vec::new(),
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = self.past;
        for epoch in self.epochs.values() {
            totals.add(&epoch.counters);
        }
        totals
    }

    pub(crate) fn activity(&self) -> Activity {
        let totals = self.totals();
        Activity {
            sent: totals.packets_out,
            received: totals.packets_in,
        }
    }

    /// Epochs that are not on their way out.
    pub(crate) fn live(&self) -> impl Iterator<Item = EpochId> + '_ {
        self.gate
            .epochs()
            .filter(|epoch| epoch.state != State::Draining)
            .map(|epoch| epoch.epoch)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live().next().is_some()
    }

    /// Whether an epoch of this session is not on its way out.
    pub(crate) fn lives_on(&self, session: SessionId) -> bool {
        self.live().any(|id| {
            self.epochs
                .get(&id)
                .is_some_and(|e| e.session == Some(session))
        })
    }

    /// Whether the epoch that carries data is one of this session.
    pub(crate) fn is_active_on(&self, session: SessionId) -> bool {
        let active = self.gate.active().and_then(|id| self.epochs.get(&id));
        active.is_some_and(|epoch| epoch.session == Some(session))
    }

    /// Of the last ping of the gate that was answered on this epoch.
    pub(crate) fn last_rtt(&self, epoch: EpochId) -> Option<Duration> {
        let mut epochs = self.gate.epochs();
        epochs.find(|view| view.epoch == epoch)?.last_rtt
    }

    pub(crate) fn epoch_by_spi(&self, spi_in: Spi) -> Option<EpochId> {
        self.epochs
            .iter()
            .find(|(_, epoch)| epoch.spi_in == spi_in)
            .map(|(id, _)| *id)
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        let epochs = self.epochs.values();
        epochs
            .flat_map(|epoch| {
                let silent = epoch.silent_from.map(|(look_at, _)| look_at);
                [epoch.rekey_at, Some(epoch.expires_at), silent]
            })
            .flatten()
            .chain(self.gate.poll_timeout())
            .chain(self.path.as_ref().and_then(Path::poll_timeout))
            .chain(self.quiet.map(|quiet| quiet.look_at))
            .chain(self.encap.timeout())
            .min()
    }
}

/// How ESP of an IKE SA between these two ends travels. IKE's ports are ESP's ports where it is in UDP.
pub(crate) fn outer(encap: Encap, local: SocketAddr, remote: SocketAddr) -> Outer {
    let without_port = |address: SocketAddr| SocketAddr::new(address.ip(), 0);
    match encap {
        Encap::Udp => Outer {
            encap,
            local,
            remote,
        },
        Encap::Esp => Outer {
            encap,
            local: without_port(local),
            remote: without_port(remote),
        },
    }
}

/// Longest wait between two attempts to bring up what is down: [`Retry::LONGEST`] and a quarter.
pub const RETRY_MAX: Duration = Duration::from_millis(12_500);

/// Growing waits between attempts, for ever.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Retry {
    failures: u32,
    at: Duration,
}

impl Retry {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(10);

    pub(crate) fn may(&self, now: Duration) -> bool {
        self.at <= now
    }

    /// When the next attempt may be made.
    pub(crate) fn at(&self) -> Duration {
        self.at
    }

    pub(crate) fn failed(&mut self, now: Duration, rng: &mut dyn Rng) {
        let nominal = (Self::FIRST * (1 << self.failures.min(8))).min(Self::LONGEST);
        self.failures += 1;
        self.at = now + nominal.mul_f64(0.75 + 0.5 * unit(rng));
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Between 0 and 1.
pub(crate) fn unit(rng: &mut dyn Rng) -> f64 {
    f64::from(rng.next_u32()) / f64::from(u32::MAX)
}
