//! A peer that is who it says and rekeys without pause, and never deletes what it has replaced: it gets no
//! more than its share, and is told so.

mod paper;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mitregate_control::{Config, Control, Datagram, Output, Role};
use mitregate_esp::{Provider, WorkerId};
use mitregate_ike::{
    Announce, ChildConfig, Ctx, IkeConfig, IkeSa, Mobike, NoLeases, Output as IkeOutput, Reason,
    SpiAllocator, State, peek,
};
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::NotifyType;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{CryptoRng, SeedableRng};

use paper::{child, connection, ms, secs};

struct Any;

impl SpiAllocator for Any {
    fn allocate(&mut self, rng: &mut dyn CryptoRng) -> Option<Spi> {
        Spi::new(rng.next_u32() | 0x100)
    }

    fn release(&mut self, _: Spi) {}
}

/// A gateway, and IKE alone that calls it.
struct World {
    now: Duration,
    gateway: Control,
    rng: ChaCha20Rng,
    peer: IkeSa,
    to_gateway: Vec<Vec<u8>>,
    to_peer: Vec<Vec<u8>>,
    /// Epochs that the gateway's data plane has.
    installed: usize,
    most_installed: usize,
    most_sas: usize,
    /// What the peer made, and what it was refused.
    children: usize,
    rekeyed: usize,
    refused: Vec<Reason>,
    over: bool,
    /// Requests of the gateway do not get to the peer.
    deaf: bool,
}

const ENDS: [SocketAddr; 2] = [
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 500),
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 500),
];

fn config() -> Arc<IkeConfig> {
    let like = connection("peer", Role::Client, "client@lab");
    let net = child("net", &["10.1.0.1/32"], &["10.2.0.0/24"]);
    Arc::new(IkeConfig {
        name: like.name,
        local_id: like.local_id,
        remote_id: None,
        local_auth: like.local_auth,
        remote_auth: like.remote_auth,
        proposals: like.proposals,
        children: vec![ChildConfig {
            name: net.name,
            esp_proposals: net.esp_proposals,
            local_ts: net.local_ts,
            remote_ts: net.remote_ts,
            dynamic: net.dynamic,
        }],
        encap: like.encap,
        retransmit: like.retransmit,
        fragmentation: like.fragmentation,
        resumption: false,
        announce: Announce::default(),
        peer_rekey: like.peer_rekey,
        vips: Vec::new(),
        assigns: false,
        childless: like.childless,
        initial_contact: false,
        mobike: Mobike::default(),
    })
}

macro_rules! cx {
    ($world:expr) => {
        &mut Ctx {
            now: $world.now,
            unix_time: $world.now,
            rng: &mut $world.rng,
            spis: &mut Any,
            leases: &mut NoLeases,
        }
    };
}

impl World {
    fn new() -> Self {
        let now = secs(1000);
        let mut gw = connection("gw", Role::Server, "gw@lab");
        gw.local_addrs = vec![ENDS[1].ip()];
        gw.remote_id = Some("client@lab".parse().unwrap());
        gw.children = vec![child("net", &["10.2.0.0/24"], &["10.1.0.1/32"])];
        let settings = Config {
            provider: Provider::RustCrypto,
            worker: WorkerId(0),
            replay_window: Config::REPLAY_WINDOW,
            strangers: mitregate_control::Strangers::default(),
            ticket_keys: None,
            pools: Vec::new(),
            connections: vec![gw],
        };
        let gateway = Control::new(now, settings, Box::new(ChaCha20Rng::seed_from_u64(1)));
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let cx = &mut Ctx {
            now,
            unix_time: now,
            rng: &mut rng,
            spis: &mut Any,
            leases: &mut NoLeases,
        };
        let peer = IkeSa::initiate(config(), ENDS[0], ENDS[1], cx);
        let mut world = Self {
            now,
            gateway: gateway.unwrap(),
            rng,
            peer,
            to_gateway: Vec::new(),
            to_peer: Vec::new(),
            installed: 0,
            most_installed: 0,
            most_sas: 0,
            children: 0,
            rekeyed: 0,
            refused: Vec::new(),
            over: false,
            deaf: false,
        };
        world.exchange();
        assert_eq!(world.peer.state(), State::Established);
        assert_eq!(world.children, 1);
        world
    }

    /// Until both have said what they had to say.
    fn exchange(&mut self) {
        loop {
            while let Some(output) = self.peer.poll_output() {
                match output {
                    IkeOutput::Transmit { message, .. } => self.to_gateway.push(message),
                    IkeOutput::ChildEstablished(_) => self.children += 1,
                    IkeOutput::ChildFailed { reason, .. } | IkeOutput::RekeyFailed(reason) => {
                        self.refused.push(reason);
                    }
                    IkeOutput::Rekeyed(successor) => {
                        // Of the old one nobody hears again.
                        self.rekeyed += 1;
                        self.peer = *successor;
                    }
                    IkeOutput::Closed(_) | IkeOutput::Failed(_) => self.over = true,
                    _ => {}
                }
            }
            while let Some(output) = self.gateway.poll_output() {
                match output {
                    Output::Transmit { payload, .. } => self.to_peer.push(payload),
                    Output::Install(_) => self.installed += 1,
                    Output::Retire { .. } => self.installed -= 1,
                    _ => {}
                }
            }
            self.most_installed = self.most_installed.max(self.installed);
            let [remote, local] = ENDS;
            if let Some(payload) = self.to_gateway.pop() {
                let datagram = Datagram {
                    local,
                    remote,
                    payload: &payload,
                };
                self.gateway.handle_datagram(self.now, datagram);
            } else if let Some(message) = self.to_peer.pop() {
                if self.deaf && !peek(&message).unwrap().flags.response {
                    continue;
                }
                let cx = cx!(self);
                let _ = self.peer.handle_message(remote, local, &message, cx);
            } else {
                break;
            }
        }
        let sas = self.gateway.list(self.now).ike_sas.len();
        self.most_sas = self.most_sas.max(sas);
    }

    fn wait(&mut self, length: Duration) {
        let until = self.now + length;
        while self.now < until {
            self.now = (self.now + ms(5)).min(until);
            if self.gateway.poll_timeout().is_some_and(|t| t <= self.now) {
                self.gateway.handle_timeout(self.now);
            }
            if self.peer.poll_timeout().is_some_and(|t| t <= self.now) {
                let cx = cx!(self);
                self.peer.handle_timeout(cx);
            }
            self.exchange();
        }
    }
}

#[test]
fn of_the_ike_sa() {
    let mut world = World::new();
    for _ in 0..500 {
        let cx = cx!(world);
        world.peer.rekey(cx).unwrap();
        world.wait(ms(10));
        assert!(!world.over);
    }
    assert_eq!(world.rekeyed, 500);
    assert!(world.most_sas <= 10, "{}", world.most_sas);
    assert_eq!(world.installed, 1);
    // What was left behind goes, and what counts is still there.
    let cx = cx!(world);
    world.peer.check_liveness(cx);
    world.wait(secs(70));
    let list = world.gateway.list(world.now);
    assert_eq!(list.ike_sas.len(), 1, "{list:#?}");
}

/// Rekeys the child that the peer has made last, over and over.
fn rekey_child(world: &mut World) {
    for _ in 0..500 {
        let newest = world.peer.children().last().map(|child| child.spi_in);
        if let Some(spi) = newest {
            let cx = cx!(world);
            let _ = world.peer.rekey_child(spi, cx);
        }
        world.wait(ms(10));
    }
    assert_eq!(world.most_sas, 1);
    assert_eq!(world.peer.state(), State::Established);
}

#[test]
fn of_a_child() {
    let mut world = World::new();
    rekey_child(&mut world);
    // The gateway deletes what the peer has left behind.
    assert_eq!(world.children, 501);
    assert!(world.most_installed <= 4, "{}", world.most_installed);
    assert!(world.peer.children().count() <= 4);
}

#[test]
fn of_a_child_deaf_to_deletes() {
    let mut world = World::new();
    world.deaf = true;
    rekey_child(&mut world);
    assert!(world.children <= 32, "{}", world.children);
    assert!(world.most_installed <= 32, "{}", world.most_installed);
    let clear = Reason::Refused(NotifyType::NO_ADDITIONAL_SAS);
    assert!(world.refused.len() > 100);
    assert!(
        world.refused.iter().all(|reason| *reason == clear),
        "{:?}",
        world.refused
    );
}
