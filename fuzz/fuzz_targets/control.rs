//! Control and a peer that has the keys, in either role: honest and forged datagrams, timeouts, what workers
//! report, and commands, one after another as the input says. Nothing panics, what it keeps is bounded, and
//! its timers make progress.
#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mitregate_control::{
    ChildConfig, ChildLifetime, Command, Config, ConnectionConfig, Control, DataEvent, Datagram,
    GateConfig, IkeLifetime, Mobility, Output, Role, StartAction, Strangers, Ticket, Unique,
};
use mitregate_esp::ids::{EpochId, TunnelId};
use mitregate_esp::{Provider, WorkerId};
use mitregate_fuzz::{One, PROPOSAL, Spis, config};
use mitregate_ike::{Ctx, IkeConfig, IkeSa, NoLeases, Output as IkeOutput, is_first, peek};
use mitregate_wire::echo::{self, Echo};
use mitregate_wire::ike::{ExchangeType, PayloadType};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// IKE SAs of one peer, with those that are being replaced, connected or left behind.
const MOST_SAS: usize = 32;
/// CHILD_SAs of the IKE SAs of one peer that count.
const MOST_EPOCHS: usize = 8 * 32;

fn connection(ike: &IkeConfig, role: Role, ends: [SocketAddr; 2]) -> ConnectionConfig {
    let child = &ike.children[0];
    ConnectionConfig {
        name: "fuzz".into(),
        local_addrs: vec![ends[0].ip()],
        remote_addrs: vec![ends[1].ip()],
        local_port: 500,
        remote_port: 500,
        local_id: ike.local_id.clone(),
        remote_id: Some("us".parse().unwrap()),
        local_auth: ike.local_auth.clone(),
        remote_auth: ike.remote_auth.clone(),
        proposals: ike.proposals.clone(),
        encap: ike.encap,
        retransmit: ike.retransmit,
        fragmentation: ike.fragmentation,
        resumption: true,
        gate: GateConfig::new(role),
        auto_role: false,
        children: vec![ChildConfig {
            name: child.name.clone(),
            local_ts: child.local_ts.clone(),
            remote_ts: child.remote_ts.clone(),
            dynamic: child.dynamic,
            esp_proposals: child.esp_proposals.clone(),
            start_action: match role {
                Role::Client => StartAction::Start,
                Role::Server => StartAction::None,
            },
            close_action: StartAction::Start,
            dpd_action: StartAction::Start,
            inactivity: Duration::ZERO,
            lifetime: ChildLifetime::default(),
        }],
        lifetime: IkeLifetime::default(),
        peer_rekey: ike.peer_rekey,
        dpd_delay: Duration::from_secs(30),
        dpd_timeout: Duration::ZERO,
        keepalive: ConnectionConfig::KEEPALIVE,
        vips: Vec::new(),
        pools: Vec::new(),
        unique: Unique::default(),
        max_peers: 4,
        childless: ike.childless,
        mobility: Mobility::default(),
    }
}

struct World {
    now: Duration,
    control: Control,
    ike: Arc<IkeConfig>,
    /// Of the peer, oldest first.
    peer: Vec<IkeSa>,
    spis: Spis,
    rng: ChaCha20Rng,
    /// Under way: to control, or from it.
    net: Vec<(bool, Vec<u8>)>,
    epochs: Vec<(TunnelId, EpochId)>,
    ping: Option<Vec<u8>>,
    /// Control's, and the peer's.
    ends: [SocketAddr; 2],
}

impl World {
    fn new(role: Role) -> Self {
        let ends = ["192.0.2.1:500", "192.0.2.2:500"].map(|a| a.parse().unwrap());
        let ike = config(PROPOSAL);
        let now = Duration::from_secs(1000);
        let settings = Config {
            provider: Provider::RustCrypto,
            worker: WorkerId(0),
            replay_window: Config::REPLAY_WINDOW,
            strangers: Strangers {
                half_open: 16,
                ..Strangers::default()
            },
            ticket_keys: None,
            pools: Vec::new(),
            connections: vec![connection(&ike, role, ends)],
        };
        let rng = Box::new(ChaCha20Rng::seed_from_u64(1));
        let Ok(control) = Control::new(now, settings, rng) else {
            panic!("a good configuration");
        };
        let mut world = Self {
            now,
            control,
            ike,
            peer: Vec::new(),
            spis: Spis::default(),
            rng: ChaCha20Rng::seed_from_u64(2),
            net: Vec::new(),
            epochs: Vec::new(),
            ping: None,
            ends,
        };
        world.drain();
        world
    }

    fn drain(&mut self) {
        let mut count = 0;
        while let Some(output) = self.control.poll_output() {
            count += 1;
            assert!(count < 10_000, "outputs without end");
            match output {
                // Keepalives are nothing to the peer.
                Output::Transmit { payload, .. } if payload.len() > 1 => {
                    self.net.push((false, payload));
                }
                Output::Install(install) => self.epochs.push((install.tunnel, install.epoch)),
                Output::Retire { epoch, .. } => self.epochs.retain(|(_, e)| *e != epoch),
                Output::SendInner { payload, .. } => self.ping = Some(payload),
                _ => {}
            }
        }
        let excess = self.net.len().saturating_sub(64);
        self.net.drain(..excess);
    }

    /// Calls an IKE SA of the peer and takes what comes of it.
    fn with(&mut self, at: usize, f: impl FnOnce(&mut IkeSa, &mut Ctx<'_>)) {
        let Some(sa) = self.peer.get_mut(at) else {
            return;
        };
        let mut cx = Ctx {
            now: self.now,
            unix_time: self.now,
            rng: &mut self.rng,
            spis: &mut self.spis,
            leases: &mut NoLeases,
        };
        f(sa, &mut cx);
        let mut successor = None;
        while let Some(output) = sa.poll_output() {
            match output {
                IkeOutput::Transmit { message, .. } => self.net.push((true, message)),
                IkeOutput::Rekeyed(sa) => successor = Some(*sa),
                _ => {}
            }
        }
        self.peer.extend(successor);
        if self.peer.len() > 8 {
            self.peer.remove(0);
        }
    }

    fn tell_control(&mut self, payload: &[u8]) {
        let [local, remote] = self.ends;
        let datagram = Datagram {
            local,
            remote,
            payload,
        };
        self.control.handle_datagram(self.now, datagram);
        self.drain();
    }

    fn tell_peer(&mut self, message: &[u8]) {
        let [remote, local] = self.ends;
        let Ok(header) = peek(message) else { return };
        let spi = header.receiver_spi();
        let owner = self.peer.iter().position(|sa| sa.local_spi() == spi);
        if let Some(at) = owner {
            return self.with(at, |sa, cx| {
                let _ = sa.handle_message(local, remote, message, cx);
            });
        }
        if is_first(message) {
            let directory = Arc::new(One(self.ike.clone()));
            let mut cx = Ctx {
                now: self.now,
                unix_time: self.now,
                rng: &mut self.rng,
                spis: &mut self.spis,
                leases: &mut NoLeases,
            };
            if let Ok(sa) = IkeSa::respond(directory, local, remote, message, &mut cx) {
                self.peer.push(sa);
                self.with(self.peer.len() - 1, |_, _| {});
            }
        }
    }

    fn deliver(&mut self, nth: usize, keep: bool) {
        if self.net.is_empty() {
            return;
        }
        let nth = nth % self.net.len();
        let (to_control, message) = match keep {
            true => self.net[nth].clone(),
            false => self.net.remove(nth),
        };
        match to_control {
            true => self.tell_control(&message),
            false => self.tell_peer(&message),
        }
    }

    fn call(&mut self) {
        let [remote, local] = self.ends;
        let mut cx = Ctx {
            now: self.now,
            unix_time: self.now,
            rng: &mut self.rng,
            spis: &mut self.spis,
            leases: &mut NoLeases,
        };
        let sa = IkeSa::initiate(self.ike.clone(), local, remote, &mut cx);
        self.peer.push(sa);
        self.with(self.peer.len() - 1, |_, _| {});
    }

    fn timeout(&mut self, wait: Duration) {
        let until = self.now + wait;
        for _ in 0..64 {
            match self.control.poll_timeout().filter(|t| *t <= until) {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.control.handle_timeout(self.now);
                    self.drain();
                    let next = self.control.poll_timeout();
                    assert!(next.is_none_or(|t| t > self.now), "a timer that stays due");
                }
                None => break,
            }
        }
        self.now = until;
        self.control.handle_timeout(until);
        self.drain();
    }

    fn event(&mut self, which: u8, epoch: u8, bytes: &[u8]) {
        // One that is there, or was, or never.
        let known = self.epochs.get(usize::from(epoch)).copied();
        let (tunnel, epoch) =
            known.unwrap_or((TunnelId(u32::from(epoch)), EpochId(u64::from(epoch))));
        let [local, remote] = self.ends;
        let (mut from, mut to) = match which & 0x80 {
            0 => (remote, local),
            _ => ("198.51.100.7:4500".parse().unwrap(), local),
        };
        // By plain ESP.
        if which & 0x40 != 0 {
            from.set_port(0);
            to.set_port(0);
        }
        if which & 0x20 != 0 {
            let (here, there) = (to.ip(), from.ip());
            self.control.handle_plain_echo(self.now, here, there, bytes);
            return self.drain();
        }
        let pinged = self.ping.clone().unwrap_or_default();
        let mut answer = [0; 1200];
        let answered = Echo::new_checked(&pinged)
            .ok()
            .and_then(|ping| ping.response())
            .and_then(|response| response.emit(&mut answer).ok());
        let inner = |payload| DataEvent::Inner {
            tunnel,
            epoch,
            next_header: echo::NEXT_HEADER,
            new_highest: true,
            from,
            to,
            payload,
        };
        let event = match which % 8 {
            0 => inner(bytes),
            1 => inner(&answer[..answered.unwrap_or(0)]),
            2 => DataEvent::FirstInbound {
                tunnel,
                epoch,
                data: bytes.is_empty(),
            },
            3 => DataEvent::Moved {
                tunnel,
                epoch,
                from,
                to,
            },
            4 => DataEvent::DataWaiting { tunnel },
            5 => DataEvent::Refused {
                tunnel,
                epoch,
                reason: "no room",
            },
            6 => DataEvent::SoftLimit { tunnel, epoch },
            _ => DataEvent::HardLimit { tunnel, epoch },
        };
        self.control.handle_dataplane(self.now, event);
        self.drain();
    }

    fn command(&mut self, which: u8, value: u8) {
        let child = || "net".to_owned();
        let command = match which % 9 {
            0 => Command::Initiate { child: child() },
            1 => Command::TerminateChild { child: child() },
            2 => Command::TerminateIke {
                connection: "fuzz".into(),
            },
            3 => Command::RekeyChild { child: child() },
            4 => Command::RekeyIke {
                connection: "fuzz".into(),
            },
            5 => Command::Ping {
                tunnel: child(),
                count: u32::from(value),
                interval: Duration::from_millis(100),
                size: usize::from(value),
            },
            6 => Command::StopPing {
                ticket: Ticket(value.into()),
            },
            7 => Command::PathChanged,
            _ => Command::AddressesChanged {
                addresses: vec![self.ends[0].ip()],
            },
        };
        let _ = self.control.handle_command(self.now, command);
        self.drain();
    }

    fn forge(&mut self, at: u8, op: u8, exchange: u8, (first, inner): (u8, &[u8])) {
        if self.peer.is_empty() {
            return;
        }
        let at = self.peer.len() - 1 - usize::from(at) % self.peer.len();
        let sa = &mut self.peer[at];
        let (sent, expected) = sa.message_ids();
        let response = op & 1 != 0;
        let id = if response { expected } else { sent };
        let exchange = ExchangeType(34 + exchange % 12);
        let payloads = (PayloadType(first), inner);
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        if let Some(message) = sa.forge(exchange, response, id, payloads, None, &mut rng) {
            self.tell_control(&message);
        }
    }

    fn check(&self) {
        let list = self.control.list(self.now);
        assert!(
            list.ike_sas.len() <= MOST_SAS,
            "{} IKE SAs",
            list.ike_sas.len()
        );
        let epochs: usize = list.tunnels.iter().map(|t| t.epochs.len()).sum();
        assert!(epochs <= MOST_EPOCHS, "{epochs} epochs");
        assert!(list.tunnels.len() <= 4);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, mut rest)) = bytes.split_first() else {
        return;
    };
    let role = if choice & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    let mut world = World::new(role);
    let mut steps = 0;
    while let Some((&[op, a, b, len], tail)) = rest.split_first_chunk::<4>() {
        let (data, tail) = tail.split_at(usize::from(len % 64).min(tail.len()));
        rest = tail;
        steps += 1;
        if steps > 256 {
            break;
        }
        match op % 10 {
            0 => world.call(),
            // All that is under way, in order.
            1 => (0..16).for_each(|_| world.deliver(0, false)),
            2 => world.deliver(a.into(), b & 1 != 0),
            3 => {
                if let Some((_, message)) = world.net.get_mut(usize::from(a)) {
                    let at = usize::from(b) % message.len().max(1);
                    message
                        .iter_mut()
                        .skip(at)
                        .zip(data)
                        .for_each(|(to, from)| *to = *from);
                }
            }
            4 => world.timeout(Duration::from_millis(u64::from(a) << (b % 12))),
            5 => world.event(a, b, data),
            6 => world.command(a, b),
            7 => {
                let last = world.peer.len().wrapping_sub(1);
                world.with(last, |sa, cx| match a % 4 {
                    0 => sa.check_liveness(cx),
                    1 => drop(sa.rekey(cx)),
                    2 => drop(sa.create_child("net", cx)),
                    _ => {
                        let newest = sa.children().last().map(|child| child.spi_in);
                        if let Some(spi) = newest {
                            let _ = sa.rekey_child(spi, cx);
                        }
                    }
                });
            }
            8 => world.tell_control(data),
            _ => world.forge(0, a, b, (data.first().copied().unwrap_or(0), data)),
        }
        world.check();
    }
    // It comes to rest: a shut-down ends all.
    let _ = world.control.handle_command(world.now, Command::ShutDown);
    world.drain();
    world.timeout(Duration::from_secs(5));
    world.check();
});
