//! Any number of hosts on a network, each a control whose data plane is a list on paper: what goes through
//! an epoch arrives at whoever receives on its SPI. For what peers and connections do to each other; what
//! packets do is tested elsewhere, with the real pipeline.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mitregate_control::{
    ChildConfig, ChildLifetime, Childless, Command, Config, ConnectionConfig, Control,
    ControlEvent, DataEvent, Datagram, Dynamic, EncapMode, Fragmentation, GateConfig, IkeLifetime,
    ListView, LocalAuth, Mobility, Outer, Output, PeerRekey, PoolConfig, Psk, RemoteAuth,
    Retransmit, Role, StartAction, Strangers, Ticket, TunnelView, Unique,
};
use mitregate_esp::{EpochId, Provider, SaCounters, TunnelId, WorkerId};
use mitregate_wire::TrafficSelector;
use mitregate_wire::echo;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use zeroize::Zeroizing;

const LATENCY: Duration = Duration::from_millis(10);

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn ts(list: &[&str]) -> Vec<TrafficSelector> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

pub fn child(name: &str, local: &[&str], remote: &[&str]) -> ChildConfig {
    let fixed = |list: &[&str]| -> Vec<TrafficSelector> {
        let fixed = list.iter().filter(|text| **text != "dynamic");
        fixed.map(|text| text.parse().unwrap()).collect()
    };
    ChildConfig {
        name: name.to_owned(),
        local_ts: fixed(local),
        remote_ts: fixed(remote),
        dynamic: Dynamic {
            local: local.contains(&"dynamic"),
            remote: remote.contains(&"dynamic"),
        },
        esp_proposals: vec!["aes256gcm16".parse().unwrap()],
        start_action: StartAction::None,
        close_action: StartAction::Start,
        dpd_action: StartAction::Start,
        inactivity: Duration::ZERO,
        lifetime: ChildLifetime::default(),
    }
}

pub fn connection(name: &str, role: Role, local_id: &str) -> ConnectionConfig {
    let psk = Psk::new(Zeroizing::new(b"correct horse battery staple".to_vec()));
    ConnectionConfig {
        name: name.to_owned(),
        local_addrs: Vec::new(),
        remote_addrs: Vec::new(),
        local_port: 500,
        remote_port: 500,
        local_id: local_id.parse().unwrap(),
        remote_id: None,
        local_auth: LocalAuth::Psk(psk.clone()),
        remote_auth: RemoteAuth::Psk(psk),
        proposals: vec!["aes256gcm16-prfsha256-x25519".parse().unwrap()],
        encap: EncapMode::Auto,
        retransmit: Retransmit::default(),
        fragmentation: Fragmentation::default(),
        resumption: true,
        gate: GateConfig::new(role),
        auto_role: false,
        children: Vec::new(),
        lifetime: IkeLifetime::default(),
        dpd_delay: ConnectionConfig::DPD_DELAY,
        dpd_timeout: Duration::ZERO,
        keepalive: ConnectionConfig::KEEPALIVE,
        peer_rekey: PeerRekey::default(),
        vips: Vec::new(),
        pools: Vec::new(),
        unique: Unique::default(),
        max_peers: ConnectionConfig::MAX_PEERS,
        childless: Childless::default(),
        mobility: Mobility::default(),
    }
}

pub fn pool(name: &str, start: &str, end: &str) -> PoolConfig {
    PoolConfig {
        name: name.to_owned(),
        start: ip(start),
        end: ip(end),
        dns: vec![ip("10.2.0.53")],
    }
}

struct Installed {
    tunnel: TunnelId,
    spi_in: u32,
    spi_out: u32,
    outer: Outer,
    tell_moves: bool,
    counters: Arc<SaCounters>,
    heard: bool,
    heard_data: bool,
}

/// What a host has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Ike,
    Keepalive,
    Esp,
    PlainPing,
}

pub struct Host {
    pub address: Ipv4Addr,
    /// Others that it has.
    pub aliases: Vec<IpAddr>,
    /// The address that a NAT shows instead of its own, one to one.
    pub behind: Option<IpAddr>,
    pub control: Control,
    pub policy: BTreeMap<TunnelId, (Vec<TrafficSelector>, Vec<TrafficSelector>)>,
    installed: BTreeMap<EpochId, Installed>,
    active: BTreeMap<TunnelId, EpochId>,
    pub events: Vec<ControlEvent>,
    /// When, what, and to where.
    pub sent: Vec<(Duration, Sent, SocketAddr)>,
    /// Where epochs have gone.
    pub moves: Vec<(EpochId, Outer)>,
    pub down: bool,
}

impl Host {
    /// How a packet from `local` looks to others; `None`: it does not come far.
    fn source(&self, local: SocketAddr) -> Option<SocketAddr> {
        let here = self.aliases.contains(&local.ip());
        let ip = self.behind.unwrap_or(local.ip());
        here.then(|| SocketAddr::new(ip, local.port()))
    }

    /// Which address of this host `to` is.
    fn destination(&self, to: SocketAddr) -> Option<SocketAddr> {
        let ip = match self.behind {
            Some(public) => (public == to.ip()).then_some(self.address.into()),
            None => self.aliases.contains(&to.ip()).then_some(to.ip()),
        };
        ip.filter(|_| !self.down)
            .map(|ip| SocketAddr::new(ip, to.port()))
    }
}

enum Packet {
    Ike {
        from: SocketAddr,
        to: SocketAddr,
        payload: Vec<u8>,
    },
    /// Through an SA: a control packet, or data.
    Esp {
        spi: u32,
        payload: Option<Vec<u8>>,
        from: SocketAddr,
        to: SocketAddr,
    },
}

pub struct Net {
    pub now: Duration,
    pub hosts: Vec<Host>,
    pub loss_per_mille: u32,
    rng: ChaCha20Rng,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    packets: BTreeMap<u64, Packet>,
    serial: u64,
}

impl Net {
    pub fn new(seed: u64) -> Self {
        Self {
            now: secs(1000),
            hosts: Vec::new(),
            loss_per_mille: 0,
            rng: ChaCha20Rng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            packets: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Adds a host, or starts one anew that has been there.
    pub fn start(
        &mut self,
        address: &str,
        pools: Vec<PoolConfig>,
        connections: Vec<ConnectionConfig>,
    ) -> usize {
        let address: Ipv4Addr = address.parse().unwrap();
        let mut config = Config {
            provider: Provider::AwsLc,
            worker: WorkerId(0),
            replay_window: Config::REPLAY_WINDOW,
            strangers: Strangers::default(),
            ticket_keys: None,
            pools,
            connections,
        };
        for connection in &mut config.connections {
            if connection.local_addrs.is_empty() {
                connection.local_addrs = vec![address.into()];
            }
        }
        let rng = Box::new(ChaCha20Rng::seed_from_u64(self.rng.next_u64()));
        let connections = config.connections.iter();
        let aliases = connections.flat_map(|c| c.local_addrs.clone()).collect();
        let host = Host {
            address,
            aliases,
            behind: None,
            control: Control::new(self.now, config, rng).unwrap(),
            policy: BTreeMap::new(),
            installed: BTreeMap::new(),
            active: BTreeMap::new(),
            events: Vec::new(),
            sent: Vec::new(),
            moves: Vec::new(),
            down: false,
        };
        let known = self.hosts.iter().position(|h| h.address == address);
        let at = match known {
            Some(at) => {
                self.hosts[at] = host;
                at
            }
            None => {
                self.hosts.push(host);
                self.hosts.len() - 1
            }
        };
        self.pump(at);
        at
    }

    pub fn command(&mut self, at: usize, command: Command) -> Ticket {
        let ticket = self.hosts[at]
            .control
            .handle_command(self.now, command)
            .unwrap();
        self.pump(at);
        ticket
    }

    pub fn list(&self, at: usize) -> ListView {
        self.hosts[at].control.list(self.now)
    }

    pub fn tunnel(&self, at: usize) -> TunnelView {
        self.list(at).tunnels.remove(0)
    }

    pub fn status(&self, at: usize) -> Vec<&'static str> {
        self.list(at).tunnels.iter().map(|t| t.status).collect()
    }

    /// An application packet; whether it went out at once.
    pub fn send(&mut self, at: usize, tunnel: u32) -> bool {
        let tunnel = TunnelId(tunnel);
        let host = &mut self.hosts[at];
        let epoch = host.active.get(&tunnel).copied();
        match epoch.and_then(|epoch| host.installed.get(&epoch)) {
            Some(installed) => {
                installed.counters.packets_out.add(1);
                let epoch = epoch.unwrap();
                self.through(at, epoch, None, None);
                true
            }
            None => {
                let event = DataEvent::DataWaiting { tunnel };
                host.control.handle_dataplane(self.now, event);
                self.pump(at);
                false
            }
        }
    }

    /// A packet through an epoch.
    /// `via`: another way than the epoch's own.
    fn through(&mut self, at: usize, epoch: EpochId, via: Option<Outer>, payload: Option<Vec<u8>>) {
        let now = self.now;
        let host = &mut self.hosts[at];
        let Installed {
            spi_out,
            outer,
            counters,
            ..
        } = &host.installed[&epoch];
        let outer = via.as_ref().unwrap_or(outer);
        let (spi, to) = (*spi_out, outer.remote);
        let nanoseconds = u64::try_from(now.as_nanos()).unwrap();
        counters.last_out_ns.set(nanoseconds);
        let from = host.source(outer.local);
        host.sent.push((now, Sent::Esp, to));
        if let Some(from) = from {
            self.post(Packet::Esp {
                spi,
                payload,
                from,
                to,
            });
        }
    }

    /// Something of the data plane, in the name of the host's only epoch.
    pub fn tell(&mut self, at: usize, event: impl FnOnce(TunnelId, EpochId) -> DataEvent<'static>) {
        let host = &mut self.hosts[at];
        let (tunnel, epoch) = host.active.first_key_value().unwrap();
        let event = event(*tunnel, *epoch);
        host.control.handle_dataplane(self.now, event);
        self.pump(at);
    }

    /// The host has another address, and only that.
    pub fn move_to(&mut self, at: usize, address: &str) {
        let address: Ipv4Addr = address.parse().unwrap();
        self.hosts[at].address = address;
        let addresses = vec![IpAddr::V4(address)];
        self.hosts[at].aliases.clone_from(&addresses);
        self.command(at, Command::AddressesChanged { addresses });
    }

    pub fn run(&mut self, length: Duration) {
        let end = self.now + length;
        loop {
            let timers = self.hosts.iter().filter(|h| !h.down);
            let timer = timers.filter_map(|h| h.control.poll_timeout()).min();
            let packet = self.queue.peek().map(|Reverse((at, ..))| *at);
            let Some(next) = timer.into_iter().chain(packet).min() else {
                break;
            };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            while let Some(Reverse((at, serial, _))) = self.queue.peek().copied()
                && at <= self.now
            {
                self.queue.pop();
                let packet = self.packets.remove(&serial).unwrap();
                self.arrive(packet);
            }
            for at in 0..self.hosts.len() {
                let host = &mut self.hosts[at];
                let due = host.control.poll_timeout().is_some_and(|t| t <= self.now);
                if due && !host.down {
                    host.control.handle_timeout(self.now);
                    self.pump(at);
                    let next = self.hosts[at].control.poll_timeout();
                    assert!(next.is_none_or(|t| t > self.now), "stays due");
                }
            }
        }
        self.now = end;
    }

    fn post(&mut self, packet: Packet) {
        if self.rng.next_u32() % 1000 < self.loss_per_mille {
            return;
        }
        self.serial += 1;
        self.queue
            .push(Reverse((self.now + LATENCY, self.serial, 0)));
        self.packets.insert(self.serial, packet);
    }

    fn pump(&mut self, at: usize) {
        while let Some(output) = self.hosts[at].control.poll_output() {
            let host = &mut self.hosts[at];
            match output {
                Output::Transmit {
                    local,
                    remote,
                    payload,
                } => {
                    let what = match payload.as_slice() {
                        [0xff] => Sent::Keepalive,
                        _ if local.port() == 0 => Sent::PlainPing,
                        _ => Sent::Ike,
                    };
                    host.sent.push((self.now, what, remote));
                    if let Some(from) = host.source(local) {
                        self.post(Packet::Ike {
                            from,
                            to: remote,
                            payload,
                        });
                    }
                }
                Output::AddTunnel(add) => {
                    let selectors = (add.local_ts, add.remote_ts);
                    assert!(host.policy.insert(add.tunnel, selectors).is_none());
                }
                Output::RemoveTunnel { tunnel } => {
                    assert!(host.policy.remove(&tunnel).is_some());
                    assert!(host.installed.values().all(|i| i.tunnel != tunnel));
                    host.active.remove(&tunnel);
                }
                Output::Install(install) => {
                    assert!(host.policy.contains_key(&install.tunnel));
                    let installed = Installed {
                        tunnel: install.tunnel,
                        spi_in: install.inbound.spi().get(),
                        spi_out: install.outbound.spi().get(),
                        outer: install.outer,
                        tell_moves: install.tell_moves,
                        counters: install.counters,
                        heard: false,
                        heard_data: false,
                    };
                    host.installed.insert(install.epoch, installed);
                }
                Output::Activate { tunnel, proven } => {
                    host.active.insert(tunnel, proven.epoch());
                }
                Output::SendInner {
                    epoch,
                    via,
                    payload,
                    ..
                } => {
                    self.through(at, epoch, via, Some(payload));
                }
                Output::Hold { tunnel } => {
                    host.active.remove(&tunnel);
                }
                Output::Retire { tunnel, epoch } => {
                    host.installed.remove(&epoch);
                    if host.active.get(&tunnel) == Some(&epoch) {
                        host.active.remove(&tunnel);
                    }
                }
                Output::MovePeer { epoch, outer, .. } => {
                    host.moves.push((epoch, outer));
                    if let Some(installed) = host.installed.get_mut(&epoch) {
                        installed.outer = outer;
                    }
                }
                // No packet here has a length.
                Output::PathMtu { .. } => {}
                Output::Event(event) => host.events.push(event),
            }
        }
    }

    fn arrive(&mut self, packet: Packet) {
        match packet {
            Packet::Ike { from, to, payload } => {
                let mut hosts = self.hosts.iter().enumerate();
                let found = hosts.find_map(|(at, h)| Some((at, h.destination(to)?)));
                let Some((at, to)) = found else { return };
                if to.port() == 0 {
                    let control = &mut self.hosts[at].control;
                    control.handle_plain_echo(self.now, to.ip(), from.ip(), &payload);
                    return self.pump(at);
                }
                let datagram = Datagram {
                    local: to,
                    remote: from,
                    payload: &payload,
                };
                self.hosts[at].control.handle_datagram(self.now, datagram);
                self.pump(at);
            }
            Packet::Esp {
                spi,
                payload,
                from,
                to,
            } => {
                // The lists are short; SPIs are unique but for chance, which the sender's end settles.
                let found = (0..self.hosts.len()).find_map(|at| {
                    let host = &self.hosts[at];
                    let to = host.destination(to)?;
                    let mut epochs = host.installed.iter();
                    let (epoch, _) = epochs.find(|(_, i)| i.spi_in == spi)?;
                    Some((at, *epoch, to))
                });
                let Some((at, epoch, to)) = found else { return };
                let now = self.now;
                let host = &mut self.hosts[at];
                let installed = host.installed.get_mut(&epoch).unwrap();
                let tunnel = installed.tunnel;
                installed
                    .counters
                    .last_in_ns
                    .set(u64::try_from(now.as_nanos()).unwrap());
                let data = payload.is_none();
                if data {
                    installed.counters.packets_in.add(1);
                }
                let first = !installed.heard || (data && !installed.heard_data);
                installed.heard = true;
                installed.heard_data |= data;
                if first {
                    let event = DataEvent::FirstInbound {
                        tunnel,
                        epoch,
                        data,
                    };
                    host.control.handle_dataplane(now, event);
                }
                let installed = &host.installed[&epoch];
                if installed.tell_moves && installed.outer.remote != from {
                    let event = DataEvent::Moved {
                        tunnel,
                        epoch,
                        from,
                        to,
                    };
                    host.control.handle_dataplane(now, event);
                }
                if let Some(payload) = &payload {
                    let event = DataEvent::Inner {
                        tunnel,
                        epoch,
                        next_header: echo::NEXT_HEADER,
                        new_highest: true,
                        from,
                        to,
                        payload,
                    };
                    host.control.handle_dataplane(now, event);
                }
                self.pump(at);
            }
        }
    }
}
