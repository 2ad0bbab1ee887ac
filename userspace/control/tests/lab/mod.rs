//! The simulator's client, NAT and gateway, as the tests of this crate like to handle them. The referee
//! looks at all that they do.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mitregate_control::{
    Command, Config, Control, ControlEvent, EncapMode, ListView, Ticket, TunnelView,
};
use mitregate_dataplane::Fate;
use mitregate_lab::nat::{Faulty, Model, Packet, Remap};
use mitregate_lab::sim::link::Link;
use mitregate_lab::sim::setup::{GATEWAY, Plan, Site};
use mitregate_lab::sim::world;

pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// What a world is made of.
#[derive(Clone)]
pub struct Setup {
    pub seed: u64,
    pub encap: EncapMode,
    pub nat: bool,
    /// Both ask for plain ESP behind the NAT.
    pub probe_behind_nat: bool,
    pub psks: [&'static str; 2],
    pub rekey_time: Duration,
    pub reauth_time: Duration,
    pub ike_rekey_time: Duration,
    /// Per mille of packets lost, doubled; largest extra delay that reorders.
    pub loss: u32,
    pub duplicates: u32,
    pub spread: Duration,
    pub delay: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            seed: 1,
            encap: EncapMode::Auto,
            nat: true,
            probe_behind_nat: false,
            psks: ["secret", "secret"],
            rekey_time: secs(3600),
            reauth_time: Duration::ZERO,
            ike_rekey_time: Duration::ZERO,
            loss: 0,
            duplicates: 0,
            spread: Duration::ZERO,
            delay: ms(10),
        }
    }
}

/// Where the server is.
pub fn gateway() -> Ipv4Addr {
    GATEWAY
}

impl Setup {
    fn plan(&self) -> Plan {
        Plan {
            seed: self.seed,
            encap: self.encap,
            probe_behind_nat: self.probe_behind_nat,
            psks: self.psks,
            rekey_time: self.rekey_time,
            reauth_time: self.reauth_time,
            ike_rekey_time: self.ike_rekey_time,
            ..Plan::default()
        }
    }

    /// How a host is configured.
    pub fn config(&self, at: usize) -> Config {
        let plan = self.plan();
        let spec = match at {
            CLIENT => plan.client(0, Ipv4Addr::new(192, 168, 1, 2)),
            _ => plan.gateway(1),
        };
        (spec.config)()
    }

    fn apply(&self, link: &mut Link) {
        link.loss = self.loss;
        link.duplicate = self.duplicates;
        link.reorder = if self.spread.is_zero() { 0 } else { 1000 };
        link.reorder_by = self.spread;
    }
}

pub struct World {
    /// Loss and its like may be changed between two runs.
    pub setup: Setup,
    /// One packet each such time from this host.
    pub data_every: [Option<Duration>; 2],
    /// Lose everything from this host on.
    pub cut: [bool; 2],
    pub now: Duration,
    world: world::World,
    site: Site,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let mut world = world::World::new(setup.seed);
        // These tests say for themselves what they expect.
        world.announced.push("");
        let mut link = Link::after(setup.delay);
        setup.apply(&mut link);
        let nat = setup.nat.then_some(Model::ConntrackGeneric);
        let site = Site::build(&mut world, &setup.plan(), 1, nat, link);
        world.begin();
        Self {
            setup,
            data_every: [None; 2],
            cut: [false; 2],
            now: world.now,
            world,
            site,
        }
    }

    /// The process dies without a word.
    pub fn kill(&mut self, at: usize) {
        self.world.kill(at);
    }

    /// And is started again.
    pub fn start(&mut self, at: usize) {
        self.apply();
        self.world.start(at);
    }

    pub fn is_down(&self, at: usize) -> bool {
        !self.world.is_running(at)
    }

    pub fn command(&mut self, at: usize, command: Command) -> Ticket {
        self.apply();
        // Nobody hears it where no process runs.
        self.world.command(at, command).unwrap_or(Ticket(0))
    }

    fn apply(&mut self) {
        let flows = self.site.flows[0];
        for (flow, every) in flows.into_iter().zip(self.data_every) {
            self.world.flows[flow].every = every;
        }
        for (at, cut) in self.cut.into_iter().enumerate() {
            self.world.link(at).cut_up = cut;
        }
        self.setup.apply(self.world.link(SERVER));
    }

    pub fn run(&mut self, length: Duration) {
        self.apply();
        let found = self.world.run(length);
        self.now = self.world.now;
        assert_eq!(found, Ok(()));
    }

    /// Runs until both sides carry data; how long that took.
    pub fn run_until_up(&mut self, limit: Duration) -> Duration {
        let start = self.now;
        while !self.is_up() {
            assert!(
                self.now - start < limit,
                "not up after {limit:?}: {:#?}",
                self.tunnel(CLIENT)
            );
            self.run(ms(5));
        }
        self.now - start
    }

    pub fn is_up(&self) -> bool {
        self.world.is_up(CLIENT) && self.world.is_up(SERVER)
    }

    pub fn list(&self, at: usize) -> ListView {
        self.world.list(at)
    }

    pub fn tunnel(&self, at: usize) -> TunnelView {
        self.world.tunnel(at)
    }

    pub fn control(&mut self, at: usize) -> &mut Control {
        &mut self.world.host_mut(at).control
    }

    pub fn events(&self, at: usize) -> &[(Duration, ControlEvent)] {
        &self.world.host(at).events
    }

    pub fn activations(&self, at: usize) -> usize {
        self.world.host(at).activations
    }

    pub fn fate(&self, at: usize, fate: Fate) -> u64 {
        self.world.host(at).fate(fate)
    }

    /// Inner packets that this host has sent.
    pub fn sent(&self, at: usize) -> u64 {
        self.world.flows[self.site.flows[0][at]].sent
    }

    /// Numbers of the inner packets that came out here, in that order.
    pub fn received(&self, at: usize) -> &[u64] {
        &self.world.flows[self.site.flows[0][1 - at]].received
    }

    pub fn nat(&mut self) -> Option<&mut Faulty> {
        let at = self.site.nat?;
        Some(self.world.middlebox(at))
    }

    /// Anybody's datagram.
    pub fn inject(&mut self, src: SocketAddr, dst: SocketAddr, payload: &[u8]) {
        self.world.inject(self.setup.delay, src, dst, payload);
    }

    /// The NAT gives other ports from now on.
    pub fn remap_ports(&mut self, ports: std::ops::RangeInclusive<u16>) {
        if let Some(at) = self.site.nat {
            self.world.remap_box(at, &Remap::ports(ports));
        }
    }

    /// Protocol 50 is dropped towards the server, and from it.
    pub fn drop_esp(&mut self, there: bool, back: bool) {
        self.world.link(SERVER).no_esp = [back, there];
    }

    /// Takes what is under way off the network.
    pub fn steal(&mut self) -> Vec<Packet> {
        self.world.steal()
    }

    pub fn server_port(&self, port: u16) -> SocketAddr {
        (GATEWAY, port).into()
    }

    /// Both ends have the same SAs, and nothing but them.
    pub fn assert_agreed(&self, epochs: usize) {
        let spis = |at: usize, turned: bool| {
            let tunnel = self.tunnel(at);
            let list = tunnel.epochs.iter().map(|e| match turned {
                false => (e.spi_in.clone(), e.spi_out.clone(), e.active),
                true => (e.spi_out.clone(), e.spi_in.clone(), e.active),
            });
            list.collect::<Vec<_>>()
        };
        assert_eq!(
            spis(CLIENT, false),
            spis(SERVER, true),
            "{:#?}\n{:#?}",
            self.list(CLIENT),
            self.list(SERVER)
        );
        assert_eq!(
            spis(CLIENT, false).len(),
            epochs,
            "{:#?}",
            self.tunnel(CLIENT)
        );
        let ike = |at: usize| {
            let list = self.list(at).ike_sas;
            let mut spis: Vec<_> = list
                .iter()
                .map(|s| match s.initiator {
                    true => (s.spi_local.clone(), s.spi_remote.clone(), s.children.len()),
                    false => (s.spi_remote.clone(), s.spi_local.clone(), s.children.len()),
                })
                .collect();
            spis.sort();
            spis
        };
        assert_eq!(ike(CLIENT), ike(SERVER));
        assert_eq!(ike(CLIENT).iter().map(|(_, _, n)| n).sum::<usize>(), epochs);
    }

    /// Everything sent has arrived, once and in order.
    pub fn assert_all_arrived(&mut self) {
        self.data_every = [None; 2];
        self.run(secs(2));
        for (from, to) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
            let expected: Vec<_> = (1..=self.sent(from)).collect();
            let got = self.received(to);
            let odd = expected.iter().zip(got).position(|(a, b)| a != b);
            assert_eq!(odd, None, "first difference");
            assert_eq!(got.len(), expected.len());
        }
    }

    pub fn finished(&self, at: usize, ticket: Ticket) -> bool {
        let finished = ControlEvent::Finished { ticket };
        self.events(at).iter().any(|(_, event)| *event == finished)
    }
}
