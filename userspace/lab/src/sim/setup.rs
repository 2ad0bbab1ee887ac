//! How the hosts of a scenario are configured, and where they are.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use mitregate_control::{
    ChildConfig, ChildLifetime, Childless, Config, ConnectionConfig, Dynamic, EncapMode,
    GateConfig, GateMode, IkeLifetime, ListView, LocalAuth, Mobility, PeerRekey, PoolConfig, Psk,
    RemoteAuth, Retransmit, Role, StartAction, Strangers, TicketKeys, Unique,
};
use mitregate_esp::{Provider, WorkerId};
use mitregate_ike::Fragmentation;
use zeroize::Zeroizing;

use super::certificates;
use super::host::{HostSize, HostSpec};
use super::link::Link;
use super::world::World;
use crate::nat::Model;

/// The gateway's address on the outer network.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// What a NAT in front of clients is known by.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// Where inner addresses come from.
const POOL: &str = "clients";

/// What both ends of the tunnels have in common, or do not.
#[derive(Clone)]
pub struct Plan {
    /// Of the hosts' random numbers.
    pub seed: u64,
    /// How ESP travels.
    pub encap: EncapMode,
    /// The clients' gate and the gateway's.
    pub gate: [GateMode; 2],
    /// All else of the gate, the clients' and the gateway's; `None`: the defaults.
    pub times: Option<[GateConfig; 2]>,
    /// The clients' secret and the gateway's.
    pub psks: [&'static str; 2],
    /// Of the gateway, where it is not the same.
    pub gateway_encap: Option<EncapMode>,
    /// Both ask for plain ESP behind a NAT, too.
    pub probe_behind_nat: bool,
    /// In order of preference.
    pub proposals: Vec<&'static str>,
    /// In order of preference.
    pub esp_proposals: Vec<&'static str>,
    /// Tunnels of each client.
    pub children: u8,
    /// Soft lifetime.
    pub rekey_time: Duration,
    /// Hard lifetime; `None`: the default for the soft one.
    pub life_time: Option<Duration>,
    /// Soft limit.
    pub rekey_packets: u64,
    /// Soft limit.
    pub rekey_bytes: u64,
    /// Soft lifetime of an IKE SA; zero: for ever.
    pub ike_rekey_time: Duration,
    /// The client makes a new IKE SA after this time; zero: never.
    pub reauth_time: Duration,
    /// Ed25519 certificates in place of the secrets; for one client only.
    pub certificates: bool,
    /// Largest IP datagram that an IKE message is sent in, bytes.
    pub fragment_size: usize,
    /// What the clients do when the gateway starts a rekey.
    pub peer_rekey: PeerRekey,
    /// The gateway starts, too, and who is the client is decided when they meet.
    pub both_start: bool,
    /// Both do MOBIKE.
    pub mobike: bool,
    /// Both do session resumption.
    pub resumption: bool,
    /// The gateway's secret for tickets, the same in each of its lives; `None`: another one each time.
    pub ticket_key: Option<[u8; TicketKeys::LEN]>,
    /// The gateway has one connection for whoever calls, and gives each client an inner address.
    pub virtual_ips: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 1,
            encap: EncapMode::Auto,
            gate: [GateMode::Auto; 2],
            times: None,
            gateway_encap: None,
            probe_behind_nat: false,
            psks: ["secret", "secret"],
            proposals: vec!["aes256gcm16-prfsha256-x25519"],
            esp_proposals: vec!["aes256gcm16"],
            children: 1,
            rekey_time: Duration::from_secs(3600),
            life_time: None,
            rekey_packets: u64::MAX,
            rekey_bytes: u64::MAX,
            ike_rekey_time: Duration::ZERO,
            reauth_time: Duration::ZERO,
            certificates: false,
            fragment_size: Fragmentation::DEFAULT_SIZE,
            peer_rekey: PeerRekey::default(),
            both_start: false,
            mobike: true,
            resumption: false,
            ticket_key: None,
            virtual_ips: false,
        }
    }
}

/// What a client has inside, one address for all of its tunnels.
#[must_use]
pub fn client_inside(client: usize) -> Ipv4Addr {
    let [.., high, low] = u32::try_from(client).unwrap_or(u32::MAX).to_be_bytes();
    Ipv4Addr::new(10, 1 + high, low, 1)
}

/// Where a client is that is not behind a NAT.
#[must_use]
pub fn client_address(client: usize) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, u8::try_from(client + 2).unwrap_or(u8::MAX))
}

/// What is behind the gateway's end of a tunnel.
#[must_use]
pub fn gateway_inside(child: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, child, 9)
}

impl Plan {
    fn child_lifetime(&self) -> ChildLifetime {
        let default = ChildLifetime::new(self.rekey_time);
        // So few bytes and packets that as many again are gone before a lossy link lets a rekey pass.
        let life_bytes = self.rekey_bytes.saturating_mul(4);
        let life_packets = self.rekey_packets.saturating_mul(4);
        let (_, rand_bytes) = ChildLifetime::count_for(self.rekey_bytes);
        let (_, rand_packets) = ChildLifetime::count_for(self.rekey_packets);
        ChildLifetime {
            life_time: self.life_time.unwrap_or(default.life_time),
            rekey_bytes: self.rekey_bytes,
            life_bytes,
            rand_bytes,
            rekey_packets: self.rekey_packets,
            life_packets,
            rand_packets,
            ..default
        }
    }

    fn children(&self, client: usize, role: Role) -> Vec<ChildConfig> {
        let child = |n: u8| {
            let near = format!("{}/32", client_inside(client));
            let far = format!("10.200.{n}.0/24");
            let ts = |text: &str| vec![text.parse().expect("a network")];
            let (local, remote, start_action) = match role {
                Role::Client => (near, far, StartAction::Start),
                Role::Server if self.both_start => (far, near, StartAction::Start),
                Role::Server => (far, near, StartAction::None),
            };
            let dynamic = Dynamic {
                local: self.virtual_ips && role == Role::Client,
                remote: self.virtual_ips && role == Role::Server,
            };
            let esp = self.esp_proposals.iter();
            ChildConfig {
                name: if n == 0 {
                    "net".to_owned()
                } else {
                    format!("net{n}")
                },
                local_ts: if dynamic.local {
                    Vec::new()
                } else {
                    ts(&local)
                },
                remote_ts: if dynamic.remote {
                    Vec::new()
                } else {
                    ts(&remote)
                },
                dynamic,
                esp_proposals: esp.map(|p| p.parse().expect("a proposal")).collect(),
                start_action,
                close_action: StartAction::Start,
                dpd_action: StartAction::Start,
                inactivity: Duration::ZERO,
                lifetime: self.child_lifetime(),
            }
        };
        (0..self.children).map(child).collect()
    }

    fn connection(&self, client: usize, address: Ipv4Addr, role: Role) -> ConnectionConfig {
        let ids = [format!("client{client}@lab"), "gw@lab".to_owned()];
        let side = match role {
            Role::Client => 0,
            Role::Server => 1,
        };
        let proposals = self.proposals.iter();
        let psk = Psk::new(Zeroizing::new(self.psks[side].as_bytes().to_vec()));
        let (local_auth, remote_auth) = if self.certificates {
            let is_client = role == Role::Client;
            (certificates::local(is_client), certificates::remote())
        } else {
            (LocalAuth::Psk(psk.clone()), RemoteAuth::Psk(psk))
        };
        ConnectionConfig {
            name: if client == 0 {
                "home".to_owned()
            } else {
                format!("home{client}")
            },
            local_addrs: vec![IpAddr::V4(address)],
            remote_addrs: match role {
                Role::Client => vec![IpAddr::V4(GATEWAY)],
                Role::Server if self.both_start => vec![IpAddr::V4(client_address(client))],
                Role::Server => Vec::new(),
            },
            local_port: 500,
            remote_port: 500,
            local_id: ids[side].parse().expect("an identity"),
            remote_id: match role {
                Role::Server if self.virtual_ips => None,
                _ => Some(ids[1 - side].parse().expect("an identity")),
            },
            local_auth,
            remote_auth,
            proposals: proposals.map(|p| p.parse().expect("a proposal")).collect(),
            encap: match role {
                Role::Client => self.encap,
                Role::Server => self.gateway_encap.unwrap_or(self.encap),
            },
            retransmit: Retransmit::default(),
            fragmentation: Fragmentation {
                size: self.fragment_size,
                ..Fragmentation::default()
            },
            resumption: self.resumption,
            gate: GateConfig {
                mode: self.gate[side],
                ..match &self.times {
                    Some(times) => times[side].clone(),
                    None => GateConfig::new(if self.both_start { Role::Client } else { role }),
                }
            },
            auto_role: self.both_start,
            children: self.children(client, role),
            lifetime: IkeLifetime {
                reauth_time: self.reauth_time,
                ..IkeLifetime::new(self.ike_rekey_time)
            },
            dpd_delay: ConnectionConfig::DPD_DELAY,
            dpd_timeout: Duration::ZERO,
            keepalive: ConnectionConfig::KEEPALIVE,
            peer_rekey: self.peer_rekey,
            vips: match role {
                Role::Client if self.virtual_ips => vec![Ipv4Addr::UNSPECIFIED.into()],
                _ => Vec::new(),
            },
            pools: match role {
                Role::Server if self.virtual_ips => vec![POOL.to_owned()],
                _ => Vec::new(),
            },
            unique: Unique::default(),
            max_peers: ConnectionConfig::MAX_PEERS,
            childless: Childless::default(),
            mobility: Mobility {
                mobike: self.mobike,
                any_local: role == Role::Client,
                probe_behind_nat: self.probe_behind_nat,
                ..Mobility::default()
            },
        }
    }

    fn config(&self, connections: Vec<ConnectionConfig>, side: u64) -> Config {
        Config {
            // Four seeds in a row are the four pairings.
            provider: Provider::ALL[usize::from(self.seed >> side & 1 == 1)],
            worker: WorkerId(0),
            replay_window: Config::REPLAY_WINDOW,
            strangers: Strangers::default(),
            ticket_keys: self.ticket_key.map(|key| TicketKeys::new(key.into())),
            pools: if self.virtual_ips {
                vec![PoolConfig {
                    name: POOL.to_owned(),
                    start: Ipv4Addr::new(10, 3, 0, 1).into(),
                    end: Ipv4Addr::new(10, 3, 0, 200).into(),
                    dns: Vec::new(),
                }]
            } else {
                Vec::new()
            },
            connections,
        }
    }

    /// A client.
    #[must_use]
    pub fn client(&self, client: usize, address: Ipv4Addr) -> HostSpec {
        let plan = self.clone();
        HostSpec {
            name: if client == 0 {
                "client".to_owned()
            } else {
                format!("client{client}")
            },
            address,
            config: Rc::new(move || {
                let connection = plan.connection(client, address, Role::Client);
                plan.config(vec![connection], 0)
            }),
            size: HostSize::default(),
        }
    }

    /// The gateway of so many clients.
    #[must_use]
    pub fn gateway(&self, clients: usize) -> HostSpec {
        let plan = self.clone();
        let tunnels = clients * usize::from(self.children);
        let default = HostSize::default();
        HostSpec {
            name: "gw".to_owned(),
            address: GATEWAY,
            config: Rc::new(move || {
                let connections = (0..if plan.virtual_ips { 1 } else { clients })
                    .map(|client| plan.connection(client, GATEWAY, Role::Server))
                    .collect();
                plan.config(connections, 1)
            }),
            size: HostSize {
                tunnels: default.tunnels.max(tunnels),
                epochs: default.epochs.max(8 * tunnels),
                ..default
            },
        }
    }
}

/// Clients, a NAT in front of them or not, and a gateway.
pub struct Site {
    /// Hosts.
    pub clients: Vec<usize>,
    /// Host.
    pub gateway: usize,
    /// Box.
    pub nat: Option<usize>,
    /// As configured at both ends.
    pub encap: EncapMode,
    /// Of each tunnel: from the client, from the gateway.
    pub flows: Vec<[usize; 2]>,
    /// Whether the gateway has one connection for all clients.
    pub template: bool,
}

impl Site {
    /// Builds it; the gateway's link is given, those of the clients take no time.
    pub fn build(
        world: &mut World,
        plan: &Plan,
        clients: usize,
        nat: Option<Model>,
        link: Link,
    ) -> Self {
        let nat = nat.map(|model| world.add_box(model.make(PUBLIC), Link::default(), None));
        let mut hosts = Vec::new();
        for client in 0..clients {
            let last = u8::try_from(client + 2).unwrap_or(u8::MAX);
            let address = match nat {
                Some(_) => Ipv4Addr::new(192, 168, 1, last),
                None => client_address(client),
            };
            let seed = plan.seed ^ 1 << 40 ^ (client as u64) << 42;
            let spec = plan.client(client, address);
            hosts.push(world.add_host(spec, seed, Link::default(), nat));
        }
        let gateway = world.add_host(plan.gateway(clients), plan.seed ^ 1 << 41, link, None);
        if !plan.gate.iter().all(|mode| mode.uses_echo()) {
            for host in hosts.iter().copied().chain([gateway]) {
                world.referee.allow_releases(host);
            }
        }
        let mut flows = Vec::new();
        for (client, host) in hosts.iter().enumerate() {
            for child in 0..plan.children {
                let (near, far) = (client_inside(client), gateway_inside(child));
                let there = world.add_flow(*host, near, gateway, far);
                let back = world.add_flow(gateway, far, *host, near);
                flows.push([there, back]);
            }
        }
        Self {
            clients: hosts,
            gateway,
            nat,
            encap: plan.encap,
            flows,
            template: plan.virtual_ips,
        }
    }

    /// The inner address that each client has been given.
    #[must_use]
    pub fn leases(&self, world: &World) -> Vec<Option<Ipv4Addr>> {
        let of_client = |client: &usize| {
            let list = world.list(*client);
            let mut vips = list.ike_sas.iter().flat_map(|sa| &sa.local_vips);
            vips.next().and_then(|vip| vip.parse().ok())
        };
        self.clients.iter().map(of_client).collect()
    }

    /// The flows of the clients, with one tunnel each, are between these addresses and the gateway's
    /// inside.
    pub fn address_flows(&self, world: &mut World, inside: &[Ipv4Addr]) {
        for ([there, back], address) in self.flows.iter().zip(inside) {
            world.flows[*there].src = *address;
            world.flows[*back].dst = *address;
        }
    }

    /// The gateway's SAs. A client's connection at a template is called as at the client.
    #[must_use]
    pub fn gateway_list(&self, world: &World) -> ListView {
        let mut list = world.list(self.gateway);
        if !self.template {
            return list;
        }
        let mut names = BTreeMap::new();
        for client in &self.clients {
            for connection in world.list(*client).connections {
                let there = list.connections.iter();
                let mut there = there.filter(|c| c.remote_id == connection.local_id);
                if let Some(peer) = there.next() {
                    names.insert(peer.name.clone(), connection.name);
                }
            }
        }
        for sa in &mut list.ike_sas {
            if let Some(name) = sa.connection.as_ref().and_then(|c| names.get(c)) {
                sa.connection = Some(name.clone());
            }
        }
        for tunnel in &mut list.tunnels {
            if let Some((connection, child)) = tunnel.name.rsplit_once('/')
                && let Some(name) = names.get(connection)
            {
                tunnel.name = format!("{name}/{child}");
            }
        }
        list
    }

    /// All flows send a packet each such time, or rest.
    pub fn traffic(&self, world: &mut World, every: Option<Duration>) {
        for flow in self.flows.iter().flatten() {
            world.flows[*flow].every = every;
        }
    }
}
