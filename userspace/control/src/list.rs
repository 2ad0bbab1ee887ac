//! What `list-sas` shows.

use core::time::Duration;

use mitregate_gate::Role;
use mitregate_ike::{Encap, EncapMode, State as IkeState};
use mitregate_wire::TrafficSelector;

use crate::control::tunnel_id;
use crate::session::Session;
use crate::tunnel::{Connection, Tunnel};
use crate::{
    ActionView, ConnectionView, Control, EncapView, EpochView, IkeSaView, ListView, PathMtuView,
    PoolView, SelectorView, TunnelView,
};

impl Control {
    /// What `list-sas` shows.
    #[must_use]
    pub fn list(&self, now: Duration) -> ListView {
        ListView {
            connections: self
                .connections
                .values()
                .map(|c| self.connection_view(c))
                .collect(),
            ike_sas: self
                .sessions
                .values()
                .filter(|s| !s.over)
                .map(|s| self.ike_view(s, now))
                .collect(),
            tunnels: self
                .tunnels
                .iter()
                .filter_map(|(at, t)| Some(self.tunnel_view(tunnel_id(at)?.0, t, now)))
                .collect(),
        }
    }

    /// What `list-pools` shows.
    #[must_use]
    pub fn list_pools(&self, now: Duration) -> Vec<PoolView> {
        self.pools.list(now)
    }

    fn connection_view(&self, connection: &Connection) -> ConnectionView {
        let config = &connection.config;
        ConnectionView {
            name: connection.name.clone(),
            role: match config.auto_role {
                true => "auto",
                false => role(config.gate.role),
            },
            local_id: config.local_id.to_string(),
            remote_id: connection.peer(),
            local_addrs: strings(&config.local_addrs),
            remote_addrs: strings(&config.remote_addrs),
            encap: match config.encap {
                EncapMode::Auto => "auto",
                EncapMode::Esp => "esp",
                EncapMode::Udp => "udp",
            },
            tunnels: connection
                .tunnels
                .iter()
                .map(|at| self.tunnels[*at].name.clone())
                .collect(),
        }
    }

    fn ike_view(&self, session: &Session, now: Duration) -> IkeSaView {
        let established = session.established.as_deref();
        IkeSaView {
            connection: session
                .connection
                .map(|at| self.connections[at].name.clone()),
            state: match session.sa.state() {
                IkeState::Connecting => "connecting",
                IkeState::Established => "established",
                IkeState::Closing => "closing",
                IkeState::Dead => "dead",
            },
            initiator: session.sa.is_initiator(),
            age_ms: ms(now, session.started),
            spi_local: session.sa.local_spi().to_string(),
            spi_remote: session.sa.remote_spi().to_string(),
            local: session.local.to_string(),
            remote: session.remote.to_string(),
            peer_id: established.map(|e| e.peer_id.to_string()),
            local_vips: strings(established.map_or(&[], |e| &e.local_assigned.addresses)),
            remote_vips: strings(established.map_or(&[], |e| &e.remote_assigned.addresses)),
            dns: strings(established.map_or(&[], |e| &e.local_assigned.dns)),
            suite: established.map(|e| e.suite.to_string()),
            nat_local: established.is_some_and(|e| e.nat.local),
            nat_remote: established.is_some_and(|e| e.nat.remote),
            children: session
                .sa
                .children()
                .map(|c| c.spi_in.to_string())
                .collect(),
        }
    }

    fn path_mtu_view(&self, tunnel: &Tunnel) -> Option<PathMtuView> {
        let path = tunnel.path.as_ref()?;
        let view = path.view();
        let counters = view.counters;
        Some(PathMtuView {
            state: view.state.as_str(),
            outer: view.mtu,
            inner: path.inner_mtu(self.inner_mtu),
            confirmed: view.confirmed,
            probing: view.probing,
            probes_sent: counters.probes_sent,
            probes_answered: counters.probes_answered,
            probes_lost: counters.probes_lost,
            black_holes: counters.black_holes,
            hints: counters.hints,
            hints_taken: counters.hints_taken,
        })
    }

    fn tunnel_view(&self, id: u32, tunnel: &Tunnel, now: Duration) -> TunnelView {
        let totals = tunnel.totals();
        let active = tunnel.gate.epochs().find(|epoch| epoch.active);
        TunnelView {
            id,
            name: tunnel.name.clone(),
            role: role(tunnel.gate.config().role),
            gate_mode: tunnel.gate.config().mode.as_str(),
            wanted: tunnel.wanted,
            trapped: tunnel.trapped,
            status: match active.and_then(|epoch| epoch.proof) {
                Some(proof) if proof.is_proof() => "proven",
                Some(_) => "unproven",
                None => "down",
            },
            selectors: selectors(&tunnel.local_ts, &tunnel.remote_ts),
            data_waiting: tunnel.data_waiting,
            packets_in: totals.packets_in,
            packets_out: totals.packets_out,
            bytes_in: totals.bytes_in,
            bytes_out: totals.bytes_out,
            path_mtu: self.path_mtu_view(tunnel),
            gate: tunnel.gate.counters().into(),
            black_hole_ms: ms(tunnel.gate.black_hole(now), Duration::ZERO),
            encap: EncapView {
                to_esp: tunnel.encap.counters.to_esp,
                to_udp: tunnel.encap.counters.to_udp,
                pings_sent: tunnel.encap.counters.pings_sent,
                answered: tunnel.encap.counters.answered,
                unanswered: tunnel.encap.counters.unanswered,
                ask_in_ms: tunnel.encap.next().map(|at| ms(at, now)),
            },
            last_action: tunnel.gate.last_action().map(|last| ActionView {
                text: last.action.to_string(),
                ago_ms: ms(now, last.at),
            }),
            epochs: tunnel
                .gate
                .epochs()
                .filter_map(|epoch| epoch_view(tunnel, &epoch, now))
                .collect(),
        }
    }
}

fn epoch_view(
    tunnel: &Tunnel,
    view: &mitregate_gate::EpochView,
    now: Duration,
) -> Option<EpochView> {
    let epoch = tunnel.epochs.get(&view.epoch)?;
    let counters = &epoch.counters;
    Some(EpochView {
        id: view.epoch.0,
        state: view.state.as_str(),
        state_ms: ms(now, view.since),
        age_ms: ms(now, view.installed),
        active: view.active,
        proof: view.proof.map(|proof| proof.to_string()),
        last_rtt_us: view.last_rtt.map(micros),
        spi_in: epoch.spi_in.to_string(),
        spi_out: epoch.spi_out.to_string(),
        cipher: epoch.cipher.to_string(),
        encap: match epoch.outer.encap {
            Encap::Esp => "esp",
            Encap::Udp => "udp",
        },
        encap_asks: tunnel.encap.asks(view.epoch),
        local: epoch.outer.local.to_string(),
        remote: epoch.outer.remote.to_string(),
        path_mtu: tunnel.path.as_ref().map(|path| path.view().mtu),
        rekey_in_ms: epoch.rekey_at.map(|at| ms(at, now)),
        selectors: selectors(&epoch.local_ts, &epoch.remote_ts),
        packets_in: counters.packets_in.get(),
        packets_out: counters.packets_out.get(),
        bytes_in: counters.bytes_in.get(),
        bytes_out: counters.bytes_out.get(),
        replays: counters.replays.get(),
        integrity_failures: counters.integrity_failures.get(),
    })
}

fn selectors(local: &[TrafficSelector], remote: &[TrafficSelector]) -> SelectorView {
    SelectorView {
        local_ts: strings(local),
        remote_ts: strings(remote),
    }
}

pub(crate) fn strings<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Server => "server",
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn ms(later: Duration, earlier: Duration) -> u64 {
    u64::try_from(later.saturating_sub(earlier).as_millis()).unwrap_or(u64::MAX)
}
