//! The composition: what comes in goes to its IKE SA or its gate, and what comes out of them is done.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mitregate_esp::Provider;
use mitregate_esp::ids::{EpochId, TunnelId};
use mitregate_gate::{Gate, Input};
use mitregate_ike::{Ctx, Directory};
use mitregate_wire::echo::{self, Echo};
use mitregate_wire::ike::IkeSpi;
use rand_core::CryptoRng;
use tracing::debug;

use crate::directory::Responders;
use crate::pools::Pools;
use crate::session::{Session, SessionId};
use crate::spi::Spis;
use crate::stray::Doorman;
use crate::tunnel::{Connection, Retry, Tunnel};
use crate::{AddTunnel, Config, ConfigError, ControlEvent, DataEvent, Output, StartAction, Ticket};

/// All connections of one process. See the [crate's documentation](crate).
pub struct Control {
    pub(crate) connections: Vec<Connection>,
    /// The index is the [`TunnelId`].
    pub(crate) tunnels: Vec<Tunnel>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) by_spi: BTreeMap<IkeSpi, SessionId>,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) rng: Box<dyn CryptoRng + Send>,
    pub(crate) spis: Spis,
    pub(crate) pools: Pools,
    pub(crate) provider: Provider,
    pub(crate) replay_window: u32,
    pub(crate) half_open_limit: usize,
    pub(crate) doorman: Doorman,
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
}

/// What an [`IkeSa`](mitregate_ike::IkeSa) takes from here; a macro because it borrows two fields.
macro_rules! ctx {
    ($control:expr, $now:expr) => {
        mitregate_ike::Ctx {
            now: $now,
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
        let doorman = Doorman::new(now, &mut *rng);
        let directory = Arc::new(Responders::new(config.connections.iter()));
        let mut control = Self {
            connections: Vec::new(),
            tunnels: Vec::new(),
            sessions: BTreeMap::new(),
            by_spi: BTreeMap::new(),
            directory,
            rng,
            spis: Spis::new(config.worker),
            pools: Pools::new(config.pools),
            provider: config.provider,
            replay_window: config.replay_window,
            half_open_limit: config.half_open_limit,
            doorman,
            next_session: 0,
            next_epoch: 0,
            next_ticket: 0,
            shut_down: None,
            dirty_sessions: BTreeSet::new(),
            dirty_tunnels: BTreeSet::new(),
            dirty_connections: BTreeSet::new(),
            outputs: VecDeque::new(),
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
        let index = self.connections.len();
        let mut tunnels = Vec::new();
        for (child, child_config) in config.children.iter().enumerate() {
            let at = self.tunnels.len();
            let tunnel = tunnel_id(at).ok_or(ConfigError::TooMany)?;
            let name = format!("{}/{}", config.name, child_config.name);
            self.outputs.push_back(Output::AddTunnel(AddTunnel {
                tunnel,
                name: name.clone(),
                local_ts: child_config.local_ts.clone(),
                remote_ts: child_config.remote_ts.clone(),
            }));
            self.tunnels.push(Tunnel {
                connection: index,
                child,
                name,
                gate: Gate::new(config.gate.clone()),
                epochs: BTreeMap::new(),
                wanted: child_config.start_action == StartAction::Start,
                requested: None,
                retry: Retry::default(),
                data_waiting: false,
                past: crate::tunnel::Totals::default(),
                moved: None,
                waiters: Vec::new(),
            });
            tunnels.push(at);
        }
        self.connections.push(Connection {
            config,
            tunnels,
            wants: BTreeSet::new(),
            retry: Retry::default(),
            turn: 0,
            last_failure: None,
            waiters: Vec::new(),
        });
        self.dirty_connections.insert(index);
        Ok(())
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
                    return;
                }
                let Ok(echo) = Echo::new_checked(payload) else {
                    debug!(tunnel = self.tunnels[at].name, "malformed ESP Echo");
                    return;
                };
                if new_highest {
                    self.follow(now, at, epoch, to, from);
                }
                self.gate(now, at, Input::Echo { epoch, echo });
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
            DataEvent::DataWaiting { tunnel } => {
                if let Some(at) = self.tunnel_at(tunnel) {
                    self.tunnels[at].data_waiting = true;
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
        }
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        let due: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.timeout().is_some_and(|t| t <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.session_timeout(now, id);
        }
        for at in 0..self.tunnels.len() {
            if self.tunnels[at].timeout().is_some_and(|t| t <= now) {
                self.tunnel_timeout(now, at);
            }
        }
        for (index, connection) in self.connections.iter().enumerate() {
            if self
                .connection_timeout(connection)
                .is_some_and(|t| t <= now)
            {
                self.dirty_connections.insert(index);
            }
        }
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let sessions = self.sessions.values().filter_map(Session::timeout);
        let tunnels = self.tunnels.iter().filter_map(Tunnel::timeout);
        let connections = self
            .connections
            .iter()
            .filter_map(|c| self.connection_timeout(c));
        let shut_down = self.shut_down.filter(|t| *t < Duration::MAX);
        sessions
            .chain(tunnels)
            .chain(connections)
            .chain(shut_down)
            .min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Passes outputs of IKE SAs and gates on until none is left.
    pub(crate) fn settle(&mut self, now: Duration) {
        loop {
            if let Some(id) = self.dirty_sessions.pop_first() {
                self.drain_session(now, id);
            } else if let Some(at) = self.dirty_tunnels.pop_first() {
                self.drain_gate(now, at);
            } else if let Some(index) = self.dirty_connections.pop_first() {
                self.maintain(now, index);
            } else {
                break;
            }
        }
        self.check_shut_down(now);
    }

    /// Tells a gate something.
    pub(crate) fn gate(&mut self, now: Duration, at: usize, input: Input<'_>) {
        self.tunnels[at].gate.handle(now, input, &mut *self.rng);
        self.dirty_tunnels.insert(at);
    }

    pub(crate) fn tunnel_at(&self, tunnel: TunnelId) -> Option<usize> {
        let at = usize::try_from(tunnel.0).ok()?;
        (at < self.tunnels.len()).then_some(at)
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
