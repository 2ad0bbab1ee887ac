//! The composition: what comes in goes to its IKE SA or its gate, and what comes out of them is done.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mitregate_esp::Provider;
use mitregate_esp::ids::{EpochId, TunnelId};
use mitregate_gate::Input;
use mitregate_ike::{Ctx, Directory, TicketKeys};
use mitregate_wire::echo::{self, Echo};
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::IkeSpi;
use rand_core::CryptoRng;
use tracing::debug;

use crate::directory::Responders;
use crate::encap::PlainPings;
use crate::half_open::Callers;
use crate::icmp;
use crate::path::Sign;
use crate::pools::Pools;
use crate::schedule::{Due, Schedule};
use crate::session::{Session, SessionId};
use crate::spi::Spis;
use crate::stray::{Doorman, Limiter};
use crate::table::Table;
use crate::tunnel::{Connection, Tunnel};
use crate::{Config, ConfigError, ControlEvent, DataEvent, Output, StartAction, Strangers, Ticket};

/// What the links take until [`Control::set_mtus`] says so: the defaults of the configuration and of Ethernet.
const INNER_MTU: u16 = 1400;
const OUTER_MTU: u16 = 1500;

/// All connections of one process. See the [crate's documentation](crate).
pub struct Control {
    pub(crate) connections: Table<Connection>,
    /// The number is the [`TunnelId`].
    pub(crate) tunnels: Table<Tunnel>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) of_connection: BTreeSet<(usize, SessionId)>,
    /// Commands that wait until connections are down.
    pub(crate) terminations: BTreeMap<Ticket, BTreeSet<usize>>,
    pub(crate) schedule: Schedule,
    /// The outer interface's addresses, once told.
    pub(crate) present: Option<Vec<IpAddr>>,
    pub(crate) by_spi: BTreeMap<IkeSpi, SessionId>,
    pub(crate) directory: Arc<dyn Directory>,
    /// The secret of the tickets for session resumption.
    pub(crate) tickets: Arc<TicketKeys>,
    pub(crate) rng: Box<dyn CryptoRng + Send>,
    /// The wall clock where `now` is zero.
    pub(crate) unix_time_at_zero: Duration,
    pub(crate) spis: Spis,
    pub(crate) pools: Pools,
    pub(crate) provider: Provider,
    pub(crate) replay_window: u32,
    pub(crate) strangers: Strangers,
    /// Tunnels at a time, for which the workers have room.
    pub(crate) tunnel_limit: usize,
    pub(crate) doorman: Doorman,
    pub(crate) plain_pings: PlainPings,
    /// Bytes of the largest packet that the inner link takes, and that the outer one does.
    pub(crate) inner_mtu: u16,
    pub(crate) outer_mtu: u16,
    pub(crate) icmp_errors: Limiter,
    pub(crate) callers: Callers,
    pub(crate) next_session: u64,
    pub(crate) next_epoch: u64,
    pub(crate) next_ticket: u64,
    /// When to give up on peers that do not answer our last Deletes.
    pub(crate) shut_down: Option<Duration>,
    /// With outputs not taken yet, or to be looked at.
    pub(crate) dirty_sessions: BTreeSet<SessionId>,
    pub(crate) dirty_tunnels: BTreeSet<usize>,
    pub(crate) dirty_connections: BTreeSet<usize>,
    pub(crate) outputs: VecDeque<Output>,
    /// Only when asked for.
    pub(crate) key_log: Option<Vec<crate::LoggedKeys>>,
}

/// What an [`IkeSa`](mitregate_ike::IkeSa) takes from here; a macro because it borrows two fields.
macro_rules! ctx {
    ($control:expr, $now:expr) => {
        mitregate_ike::Ctx {
            now: $now,
            unix_time: $control.unix_time_at_zero.saturating_add($now),
            rng: &mut *$control.rng,
            spis: &mut $control.spis,
            leases: $control.pools.at($now),
        }
    };
}
pub(crate) use ctx;

impl Control {
    /// Adds the tunnels of all connections to the policy and starts those to be started. `rng` is the
    /// source of everything random here, so a run replays from its seed.
    pub fn new(
        now: Duration,
        config: Config,
        mut rng: Box<dyn CryptoRng + Send>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let tunnel_limit = config.tunnels();
        let doorman = Doorman::new(now, config.strangers, &mut *rng);
        let tickets = config.ticket_keys;
        let tickets = tickets.unwrap_or_else(|| TicketKeys::generate(&mut *rng));
        let tickets = Arc::new(tickets);
        let own = |connection: &crate::ConnectionConfig| connection.local_addrs.clone();
        let directory = Responders::new(config.connections.iter(), own, Arc::clone(&tickets));
        let directory = Arc::new(directory);
        let mut control = Self {
            connections: Table::new(),
            tunnels: Table::new(),
            sessions: BTreeMap::new(),
            of_connection: BTreeSet::new(),
            terminations: BTreeMap::new(),
            schedule: Schedule::default(),
            present: None,
            by_spi: BTreeMap::new(),
            directory,
            tickets,
            rng,
            unix_time_at_zero: Duration::ZERO,
            spis: Spis::new(config.worker),
            pools: Pools::new(config.pools),
            provider: config.provider,
            replay_window: config.replay_window,
            strangers: config.strangers,
            tunnel_limit,
            doorman,
            plain_pings: PlainPings::default(),
            inner_mtu: INNER_MTU,
            outer_mtu: OUTER_MTU,
            icmp_errors: Limiter::default(),
            callers: Callers::default(),
            next_session: 0,
            next_epoch: 0,
            next_ticket: 0,
            shut_down: None,
            dirty_sessions: BTreeSet::new(),
            dirty_tunnels: BTreeSet::new(),
            dirty_connections: BTreeSet::new(),
            outputs: VecDeque::new(),
            key_log: None,
        };
        for connection in config.connections {
            control.add_connection(connection)?;
        }
        control.settle(now);
        Ok(control)
    }

    fn add_connection(&mut self, config: crate::ConnectionConfig) -> Result<(), ConfigError> {
        self.pools
            .add_user(&config.name, &config.pools, config.unique);
        let config = Arc::new(config);
        let connection = Connection::new(config.name.clone(), Arc::clone(&config));
        let index = self.connections.push(connection);
        self.dirty_connections.insert(index);
        if config.is_template() {
            // Its tunnels are its peers'.
            return Ok(());
        }
        for (child, child_config) in config.children.iter().enumerate() {
            let name = format!("{}/{}", config.name, child_config.name);
            let (local_ts, remote_ts) = config.policy(child_config);
            let at = self
                .add_tunnel(index, child, name, local_ts, remote_ts)
                .ok_or(ConfigError::TooMany)?;
            let action = child_config.start_action;
            self.tunnels[at].wanted = action == StartAction::Start;
            self.tunnels[at].trapped = action == StartAction::Trap;
        }
        Ok(())
    }

    /// Tells what the wall clock says at `now`, as time since 1970-01-01 00:00 UTC: certificates are
    /// valid by it. Whoever uses certificates tells it before the first datagram, and again when the
    /// wall clock was set; until then `now` counts as the time since 1970.
    pub const fn set_unix_time(&mut self, now: Duration, unix_time: Duration) {
        self.unix_time_at_zero = unix_time.saturating_sub(now);
    }

    /// The next inbound SPI is this one, if it is free: for tests of what becomes of two peers that have
    /// drawn the same.
    pub fn choose_spi(&mut self, spi: Spi) {
        self.spis.choose(spi);
    }

    /// Takes what a worker reports.
    pub fn handle_dataplane(&mut self, now: Duration, event: DataEvent<'_>) {
        match event {
            DataEvent::Inner {
                tunnel,
                epoch,
                next_header,
                new_highest,
                from,
                to,
                payload,
            } => {
                let Some(at) = self.tunnel_at(tunnel) else {
                    return;
                };
                if next_header != echo::NEXT_HEADER {
                    let secret = &self.tunnels[at].icmp_secret;
                    if let Some((id, seq, size)) = icmp::answer(payload, secret) {
                        let reply = Input::IcmpReply {
                            epoch,
                            id,
                            seq,
                            size,
                        };
                        self.gate(now, at, reply);
                        self.settle(now);
                    }
                    return;
                }
                let Ok(echo) = Echo::new_checked(payload) else {
                    debug!(tunnel = self.tunnels[at].name, "malformed ESP Echo");
                    return;
                };
                if new_highest {
                    self.follow(now, at, epoch, (to, from), Sign::Ping);
                }
                let taken =
                    self.way_answered(now, at, epoch, &echo) || self.answers_probe(now, at, &echo);
                if !taken {
                    self.gate(now, at, Input::Echo { epoch, echo });
                }
            }
            DataEvent::FirstInbound {
                tunnel,
                epoch,
                data,
            } => {
                if let Some(at) = self.tunnel_at(tunnel) {
                    self.gate(now, at, Input::FirstInbound { epoch, data });
                }
            }
            DataEvent::Moved {
                tunnel,
                epoch,
                from,
                to,
            } => {
                if let Some(at) = self.tunnel_at(tunnel) {
                    self.follow(now, at, epoch, (to, from), Sign::AnyPacket);
                }
            }
            DataEvent::DataWaiting { tunnel } => {
                if let Some(at) = self.tunnel_at(tunnel) {
                    self.data_waits(at);
                }
            }
            DataEvent::Refused {
                tunnel,
                epoch,
                reason,
            } => {
                if let Some(at) = self.tunnel_at(tunnel) {
                    self.not_installed(now, at, epoch, reason);
                }
            }
            DataEvent::SoftLimit { tunnel, epoch } => {
                if let Some(at) = self.tunnel_at(tunnel) {
                    self.rekey_due(now, at, epoch);
                }
            }
            DataEvent::HardLimit { tunnel, epoch } => {
                if let Some(at) = self.tunnel_at(tunnel) {
                    self.epoch_expired(now, at, epoch);
                }
            }
        }
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        for due in self.schedule.take_due(now) {
            match due {
                Due::Session(id) => {
                    self.session_timeout(now, id);
                    self.dirty_sessions.insert(id);
                }
                Due::Tunnel(at) if self.tunnels.contains(at) => {
                    self.tunnel_timeout(now, at);
                    self.dirty_tunnels.insert(at);
                }
                Due::Tunnel(_) => {}
                Due::Connection(index) => _ = self.dirty_connections.insert(index),
            }
        }
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let shut_down = self.shut_down.filter(|t| *t < Duration::MAX);
        self.schedule.next().into_iter().chain(shut_down).min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Passes outputs of IKE SAs and gates on until none is left.
    pub(crate) fn settle(&mut self, now: Duration) {
        let mut sessions = BTreeSet::new();
        let mut connections = BTreeSet::new();
        loop {
            if let Some(id) = self.dirty_sessions.pop_first() {
                sessions.insert(id);
                self.drain_session(now, id);
            } else if let Some(at) = self.dirty_tunnels.pop_first() {
                if self.tunnels.contains(at) {
                    self.drain_gate(now, at);
                }
            } else if let Some(index) = self.dirty_connections.pop_first() {
                if self.connections.contains(index) && !self.tidy_peer(now, index) {
                    self.maintain(now, index);
                    self.tell_addresses(index);
                    connections.insert(index);
                }
            } else {
                break;
            }
        }
        if self.shut_down.is_some() {
            sessions.extend(self.sessions.keys());
            connections.extend(self.connections.keys());
        }
        self.check_shut_down(now);
        for index in connections {
            self.reschedule(index);
        }
        for id in sessions {
            let timeout = self.sessions.get(&id).and_then(Session::timeout);
            self.schedule.set(Due::Session(id), timeout);
        }
        debug_assert_eq!(self.schedule.next(), self.earliest(), "a timer was missed");
    }

    /// Takes the timers of a connection and of all that belongs to it anew.
    fn reschedule(&mut self, index: usize) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let timeout = self.connection_timeout(index, connection);
        self.schedule.set(Due::Connection(index), timeout);
        for at in &connection.tunnels {
            let timeout = self.tunnels.get(*at).and_then(Tunnel::timeout);
            self.schedule.set(Due::Tunnel(*at), timeout);
        }
        for id in self.sessions_of(index) {
            let timeout = self.sessions.get(&id).and_then(Session::timeout);
            self.schedule.set(Due::Session(id), timeout);
        }
    }

    /// What the schedule must come to: the earliest of all timers.
    fn earliest(&self) -> Option<Duration> {
        let sessions = self.sessions.values().filter_map(Session::timeout);
        let tunnels = self.tunnels.values().filter_map(Tunnel::timeout);
        let connections = self.connections.iter();
        sessions
            .chain(tunnels)
            .chain(connections.filter_map(|(index, c)| self.connection_timeout(index, c)))
            .min()
    }

    /// The IKE SAs of a connection, oldest first.
    pub(crate) fn sessions_of(&self, index: usize) -> Vec<SessionId> {
        let range = (index, SessionId(0))..(index + 1, SessionId(0));
        self.of_connection.range(range).map(|(_, id)| *id).collect()
    }

    /// The tunnels of an IKE SA's connection.
    pub(crate) fn tunnels_of(&self, id: SessionId) -> Vec<usize> {
        let index = self.sessions.get(&id).and_then(|s| s.connection);
        let connection = index.and_then(|index| self.connections.get(index));
        connection.map_or_else(Vec::new, |c| c.tunnels.clone())
    }

    /// Tells a gate something.
    pub(crate) fn gate(&mut self, now: Duration, at: usize, input: Input<'_>) {
        self.tunnels[at].gate.handle(now, input, &mut *self.rng);
        self.dirty_tunnels.insert(at);
    }

    pub(crate) fn tunnel_at(&self, tunnel: TunnelId) -> Option<usize> {
        let at = usize::try_from(tunnel.0).ok()?;
        self.tunnels.contains(at).then_some(at)
    }

    pub(crate) fn event(&mut self, event: ControlEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Runs `f` on the IKE SA of a session; what comes of it is taken by the next settling.
    pub(crate) fn with_ike<T>(
        &mut self,
        now: Duration,
        id: SessionId,
        f: impl FnOnce(&mut mitregate_ike::IkeSa, &mut Ctx<'_>) -> T,
    ) -> Option<T> {
        let session = self.sessions.get_mut(&id)?;
        let done = f(&mut session.sa, &mut ctx!(self, now));
        self.dirty_sessions.insert(id);
        Some(done)
    }

    /// The session that an epoch belongs to, if that can still be asked for something.
    pub(crate) fn session_of(&self, at: usize, epoch: EpochId) -> Option<SessionId> {
        let id = self.tunnels[at].epochs.get(&epoch)?.session?;
        self.sessions.get(&id)?.is_usable().then_some(id)
    }
}

pub(crate) fn tunnel_id(at: usize) -> Option<TunnelId> {
    u32::try_from(at).ok().map(TunnelId)
}
