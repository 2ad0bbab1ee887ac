//! Two hosts, a network between them, and virtual time: everything from one seed.

mod bad_input;
mod certificates;
mod children;
mod collisions;
mod configuration;
mod exchanges;
mod faults;
mod followup;
mod fragments;
mod handshake;
mod lying_lengths;
mod refusals;
mod rekey_ike;
mod resume;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{Header, Message};
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, Rng, SeedableRng};
use zeroize::Zeroizing;

use crate::*;

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A configuration pair that works, for tests to bend.
pub(super) struct Setup {
    pub(super) client: IkeConfig,
    pub(super) server: IkeConfig,
    /// What the server offers before it knows who calls, if not the same.
    pub(super) nat: bool,
    pub(super) cookies: bool,
    pub(super) ipv6: bool,
}

pub(super) fn child(name: &str, local: &str, remote: &str, esp: &str) -> ChildConfig {
    let list = |text: &str| text.split(',').map(|ts| ts.parse().unwrap()).collect();
    ChildConfig {
        name: name.to_owned(),
        esp_proposals: esp.split(',').map(|p| p.parse().unwrap()).collect(),
        local_ts: list(local),
        remote_ts: list(remote),
        dynamic: Dynamic::default(),
    }
}

pub(super) fn psk(text: &str) -> Psk {
    Psk::new(Zeroizing::new(text.as_bytes().to_vec()))
}

fn config(name: &str, local: &str, remote: &str) -> IkeConfig {
    IkeConfig {
        name: name.to_owned(),
        local_id: local.parse().unwrap(),
        remote_id: Some(remote.parse().unwrap()),
        local_auth: LocalAuth::Psk(psk("correct horse battery staple")),
        remote_auth: RemoteAuth::Psk(psk("correct horse battery staple")),
        proposals: vec!["aes256gcm16-prfsha384-x25519".parse().unwrap()],
        children: Vec::new(),
        encap: EncapMode::Auto,
        retransmit: Retransmit::default(),
        fragmentation: Fragmentation::default(),
        resumption: true,
        announce: Announce::default(),
        peer_rekey: PeerRekey::default(),
        vips: Vec::new(),
        assigns: false,
        childless: Childless::default(),
        initial_contact: false,
        mobike: Mobike::default(),
    }
}

impl Setup {
    pub(super) fn new() -> Self {
        let mut client = config("home", "client@lab", "gw@lab");
        let mut server = config("clients", "gw@lab", "client@lab");
        client.announce.owns_rekeys = true;
        client.children = vec![child("net", "10.1.0.1/32", "10.2.0.0/24", "aes256gcm16")];
        server.children = vec![child("net", "10.2.0.0/24", "10.1.0.1/32", "aes256gcm16")];
        Self {
            client,
            server,
            nat: false,
            cookies: false,
            ipv6: false,
        }
    }

    pub(super) fn proposals(mut self, client: &str, server: &str) -> Self {
        let parse = |text: &str| text.split(',').map(|p| p.parse().unwrap()).collect();
        self.client.proposals = parse(client);
        self.server.proposals = parse(server);
        self
    }

    /// Another server's, with these proposals.
    pub(super) fn server_with(proposals: &str) -> Arc<IkeConfig> {
        Arc::new(Self::new().proposals(proposals, proposals).server)
    }

    pub(super) fn esp(mut self, client: &str, server: &str) -> Self {
        let parse = |text: &str| -> Vec<EspProposal> {
            text.split(',').map(|p| p.parse().unwrap()).collect()
        };
        self.client.children[0].esp_proposals = parse(client);
        self.server.children[0].esp_proposals = parse(server);
        self
    }

    pub(super) fn encap(mut self, client: EncapMode, server: EncapMode) -> Self {
        self.client.encap = client;
        self.server.encap = server;
        self
    }

    pub(super) fn nat(mut self) -> Self {
        self.nat = true;
        self
    }

    pub(super) fn world(self, seed: u64) -> World {
        World::new(self, seed)
    }

    /// A world whose client has connected over a perfect network.
    pub(super) fn connected(self, seed: u64) -> World {
        let mut world = self.world(seed);
        world.connect();
        world.settle();
        world.assert_connected();
        world
    }
}

struct Lookup(Arc<IkeConfig>, Option<Arc<TicketKeys>>);

impl Directory for Lookup {
    fn tickets(&self) -> Option<&TicketKeys> {
        self.1.as_deref()
    }

    fn by_address(&self, _: SocketAddr, _: SocketAddr) -> Vec<Arc<IkeConfig>> {
        vec![self.0.clone()]
    }

    fn by_identity(
        &self,
        _: SocketAddr,
        _: SocketAddr,
        remote_id: &Identity,
        local_id: Option<&Identity>,
    ) -> Option<Arc<IkeConfig>> {
        let config = &self.0;
        let fits = config
            .remote_id
            .as_ref()
            .is_none_or(|id| id.matches(remote_id))
            && local_id.is_none_or(|id| id.is(&config.local_id));
        fits.then(|| config.clone())
    }
}

/// Hands out SPIs and knows which are in use.
#[derive(Default)]
pub(super) struct Spis {
    pub(super) used: BTreeSet<Spi>,
    pub(super) exhausted: bool,
}

impl SpiAllocator for Spis {
    fn allocate(&mut self, rng: &mut dyn CryptoRng) -> Option<Spi> {
        if self.exhausted {
            return None;
        }
        let spi = Spi::new(rng.next_u32() | 0x0100_0000)?;
        assert!(self.used.insert(spi), "seed gave one SPI twice");
        Some(spi)
    }

    fn release(&mut self, spi: Spi) {
        assert!(self.used.remove(&spi), "released {spi:?} twice");
    }
}

/// Gives out what it was told to, and says to whom.
#[derive(Default)]
pub(super) struct Leased {
    pub(super) free: Assigned,
    pub(super) asked: Vec<(String, String, Vec<IpAddr>)>,
}

impl Leases for Leased {
    fn assign(&mut self, connection: &str, peer: &Identity, wanted: &[IpAddr]) -> Assigned {
        let asked = (connection.to_owned(), peer.to_string(), wanted.to_vec());
        self.asked.push(asked);
        let addresses = wanted.iter().filter_map(|wanted| {
            let mut free = self.free.addresses.iter();
            free.find(|free| free.is_ipv4() == wanted.is_ipv4())
                .copied()
        });
        Assigned {
            addresses: addresses.collect(),
            ..self.free.clone()
        }
    }
}

pub(super) struct Host {
    pub(super) address: IpAddr,
    pub(super) sas: Vec<IkeSa>,
    pub(super) config: Arc<IkeConfig>,
    pub(super) spis: Spis,
    pub(super) leases: Leased,
    pub(super) rng: ChaCha20Rng,
    jar: Option<CookieJar>,
    /// A gateway's secret of session resumption.
    pub(super) tickets: Option<Arc<TicketKeys>>,
    /// CHILD_SAs by inbound SPI.
    pub(super) installed: BTreeMap<Spi, ChildSa>,
    pub(super) established: Vec<Established>,
    /// What the peer is to delete (inbound SPIs).
    pub(super) redundant: Vec<Spi>,
    pub(super) log: Vec<String>,
    pub(super) rejected: Vec<RejectReason>,
    pub(super) discarded: Vec<Discard>,
}

pub(super) struct Packet {
    at: Duration,
    serial: u64,
    pub(super) to: usize,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

/// What the network does to each packet.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    /// Of 100.
    pub(super) loss: u32,
    pub(super) duplicates: u32,
    /// Extra delay, up to so many milliseconds: more than a flight reorders.
    pub(super) jitter_ms: u32,
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) hosts: [Host; 2],
    pub(super) net: Vec<Packet>,
    pub(super) faults: Faults,
    /// Fate of the n-th packet of all: delays to deliver it after, none to lose it.
    pub(super) special: BTreeMap<u64, Vec<Duration>>,
    pub(super) rng: ChaCha20Rng,
    pub(super) sent: u64,
    /// Every message as it was delivered.
    pub(super) trace: Vec<(usize, SocketAddr, SocketAddr, Vec<u8>)>,
    pub(super) nat: Option<IpAddr>,
    /// What the NAT adds to ports.
    pub(super) nat_shift: u16,
    /// Pairs of addresses between which nothing gets through, either way.
    pub(super) blocked: Vec<(IpAddr, IpAddr)>,
}

/// The wall clock where the virtual one is zero: 2026-01-01 00:00 UTC.
pub(super) const UNIX_TIME_AT_START: Duration = Duration::from_secs(1_767_225_600);
const LATENCY: Duration = Duration::from_millis(20);

impl World {
    fn new(setup: Setup, seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut host = |address: &str, config| Host {
            address: address.parse().unwrap(),
            sas: Vec::new(),
            config: Arc::new(config),
            spis: Spis::default(),
            leases: Leased::default(),
            rng: ChaCha20Rng::seed_from_u64(rng.next_u64()),
            jar: None,
            tickets: None,
            installed: BTreeMap::new(),
            established: Vec::new(),
            redundant: Vec::new(),
            log: Vec::new(),
            rejected: Vec::new(),
            discarded: Vec::new(),
        };
        let addresses = if setup.ipv6 {
            ["2001:db8::1", "2001:db8::2"]
        } else {
            ["192.0.2.1", "198.51.100.2"]
        };
        let client = host(addresses[0], setup.client);
        let mut server = host(addresses[1], setup.server);
        if setup.cookies {
            server.jar = Some(CookieJar::new(Duration::ZERO, &mut server.rng));
        }
        Self {
            now: Duration::from_secs(1000),
            hosts: [client, server],
            net: Vec::new(),
            faults: Faults::default(),
            special: BTreeMap::new(),
            rng,
            sent: 0,
            trace: Vec::new(),
            nat: setup.nat.then(|| "203.0.113.9".parse().unwrap()),
            nat_shift: 20_000,
            blocked: Vec::new(),
        }
    }

    /// The client starts an IKE SA.
    pub(super) fn connect(&mut self) {
        let remote = SocketAddr::new(self.hosts[SERVER].address, 500);
        let local = SocketAddr::new(self.hosts[CLIENT].address, 500);
        let config = self.hosts[CLIENT].config.clone();
        let sa = self.with_cx(CLIENT, |cx| IkeSa::initiate(config, local, remote, cx));
        self.hosts[CLIENT].sas.push(sa);
        self.drain(CLIENT);
    }

    pub(super) fn with_cx<T>(&mut self, host: usize, call: impl FnOnce(&mut Ctx<'_>) -> T) -> T {
        let host = &mut self.hosts[host];
        call(&mut Ctx {
            now: self.now,
            unix_time: UNIX_TIME_AT_START + self.now,
            rng: &mut host.rng,
            spis: &mut host.spis,
            leases: &mut host.leases,
        })
    }

    /// Calls the host's only IKE SA.
    pub(super) fn call<T>(
        &mut self,
        host: usize,
        call: impl FnOnce(&mut IkeSa, &mut Ctx<'_>) -> T,
    ) -> T {
        let mut sa = self.hosts[host].sas.remove(0);
        let result = self.with_cx(host, |cx| call(&mut sa, cx));
        self.hosts[host].sas.insert(0, sa);
        self.drain(host);
        result
    }

    /// Calls the IKE SA that a host would use: its youngest that stands.
    pub(super) fn call_live<T>(
        &mut self,
        host: usize,
        call: impl FnOnce(&mut IkeSa, &mut Ctx<'_>) -> T,
    ) -> T {
        let mut sas = self.hosts[host].sas.iter();
        let index = sas
            .rposition(|sa| sa.state() == State::Established)
            .expect("an IKE SA that stands");
        let mut sa = self.hosts[host].sas.remove(index);
        let result = self.with_cx(host, |cx| call(&mut sa, cx));
        self.hosts[host].sas.insert(index, sa);
        self.drain(host);
        result
    }

    fn send(&mut self, from: usize, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        let (mut source, mut destination) = (local, remote);
        let (here, there) = (local.ip(), remote.ip());
        if self
            .blocked
            .iter()
            .any(|pair| *pair == (here, there) || *pair == (there, here))
        {
            return;
        }
        if let Some(public) = self.nat {
            if from == CLIENT {
                source = SocketAddr::new(public, local.port() + self.nat_shift);
            } else if remote.ip() != public
                || !(remote.port() == 500 + self.nat_shift
                    || remote.port() == 4500 + self.nat_shift)
            {
                return;
            } else {
                let inside = self.hosts[CLIENT].address;
                destination = SocketAddr::new(inside, remote.port() - self.nat_shift);
            }
        }
        let mut percent = |of: u32| self.rng.next_u32() % 100 < of;
        let mut delays = match self.special.get(&self.sent) {
            Some(delays) => delays.clone(),
            None if percent(self.faults.loss) => Vec::new(),
            None if percent(self.faults.duplicates) => vec![Duration::ZERO; 2],
            None => vec![Duration::ZERO],
        };
        self.sent += 1;
        for delay in &mut delays {
            if self.faults.jitter_ms > 0 {
                *delay += ms((self.rng.next_u32() % self.faults.jitter_ms).into());
            }
        }
        for (index, delay) in delays.into_iter().enumerate() {
            self.net.push(Packet {
                at: self.now + LATENCY + delay,
                serial: self.sent * 8 + index as u64,
                to: 1 - from,
                source,
                destination,
                bytes: bytes.to_vec(),
            });
        }
    }

    /// Acts on everything that a host's IKE SAs want done.
    pub(super) fn drain(&mut self, host: usize) {
        let mut index = 0;
        while index < self.hosts[host].sas.len() {
            let mut dead = false;
            while let Some(output) = self.hosts[host].sas[index].poll_output() {
                assert!(!dead, "output after Dead");
                match output {
                    Output::Rekeyed(successor) => {
                        self.hosts[host].log.push("rekeyed".into());
                        self.hosts[host].sas.push(*successor);
                    }
                    Output::Redundant(sa) => {
                        self.hosts[host].log.push("redundant".into());
                        self.hosts[host].sas.push(*sa);
                    }
                    output => dead = self.act(host, output),
                }
            }
            if dead {
                self.hosts[host].sas.remove(index);
            } else {
                index += 1;
            }
        }
    }

    fn act(&mut self, index: usize, output: Output) -> bool {
        let host = &mut self.hosts[index];
        match output {
            Output::Transmit {
                local,
                remote,
                message,
            } => self.send(index, local, remote, &message),
            Output::Established(established) => {
                host.log.push("established".into());
                host.established.push(*established);
            }
            Output::ChildEstablished(child) => {
                host.log.push(match child.replaces {
                    Some(_) if child.redundant => format!("child {} redundant", child.name),
                    Some(_) => format!("child {} replaced", child.name),
                    None => format!("child {}", child.name),
                });
                assert!(host.spis.used.contains(&child.spi_in));
                assert!(host.installed.insert(child.spi_in, *child).is_none());
            }
            Output::ChildDeleted { spi_in, by_peer } => {
                host.log.push(format!(
                    "child deleted{}",
                    if by_peer { " by peer" } else { "" }
                ));
                assert!(host.installed.remove(&spi_in).is_some(), "deleted twice");
                host.spis.release(spi_in);
            }
            Output::ChildFailed { name, reason, .. } => {
                let name = name.unwrap_or_else(|| "?".into());
                host.log.push(format!("child {name} failed: {reason}"));
            }
            Output::ChildRedundant { spi_in } => {
                assert!(host.installed.contains_key(&spi_in));
                host.redundant.push(spi_in);
                host.log.push("child redundant by peer".into());
            }
            Output::PeerWantsRekey { spi_in } => host.log.push(match spi_in {
                Some(_) => "peer wants child rekey".into(),
                None => "peer wants rekey".into(),
            }),
            Output::RekeyFailed(reason) => host.log.push(format!("rekey failed: {reason}")),
            Output::Rekeyed(_) | Output::Redundant(_) => unreachable!(),
            Output::LivenessAnswered => host.log.push("alive".into()),
            Output::PeerMoved {
                local,
                remote,
                encap,
                ..
            } => {
                let moved = format!("moved to {local}-{remote} {encap:?}");
                if host.log.iter().rfind(|e| e.starts_with("moved")) != Some(&moved) {
                    host.log.push(moved);
                }
            }
            Output::MoveRefused => host.log.push("move refused".into()),
            Output::Failed(reason) => host.log.push(format!("failed: {reason}")),
            Output::Closed(reason) => host.log.push(format!("closed: {reason}")),
            Output::Dead => return true,
        }
        false
    }

    /// Gives a datagram to a host as control would.
    pub(super) fn deliver(
        &mut self,
        to: usize,
        source: SocketAddr,
        destination: SocketAddr,
        bytes: &[u8],
    ) {
        self.trace.push((to, source, destination, bytes.to_vec()));
        let host = &mut self.hosts[to];
        let owner = peek(bytes).ok().and_then(|header: Header| {
            let spi = header.receiver_spi();
            host.sas.iter().position(|sa| {
                if spi.is_zero() {
                    sa.is_first_request(&header, source, bytes)
                } else {
                    sa.local_spi() == spi
                }
            })
        });
        if let Some(index) = owner {
            let mut sa = host.sas.remove(index);
            let result = self.with_cx(to, |cx| sa.handle_message(destination, source, bytes, cx));
            self.hosts[to].discarded.extend(result.err());
            self.hosts[to].sas.insert(index, sa);
        } else {
            if let Some(mut jar) = host.jar.take() {
                let check = jar.check(source, bytes, self.now, &mut host.rng);
                host.jar = Some(jar);
                if let CookieCheck::Demand(reply) = check {
                    return self.send(to, destination, source, &reply);
                }
            }
            let lookup = Arc::new(Lookup(host.config.clone(), host.tickets.clone()));
            let result = self.with_cx(to, |cx| {
                IkeSa::respond(lookup, destination, source, bytes, cx)
            });
            match result {
                Ok(sa) => self.hosts[to].sas.push(sa),
                Err(rejected) => {
                    self.hosts[to].rejected.push(rejected.reason);
                    if let Some(reply) = rejected.reply {
                        self.send(to, destination, source, &reply);
                    }
                }
            }
        }
        self.drain(to);
    }

    /// Runs the next thing that is due before `until`.
    pub(super) fn step(&mut self, until: Duration) -> bool {
        let packet = self
            .net
            .iter()
            .enumerate()
            .map(|(i, p)| (p.at, p.serial, i))
            .min();
        let timer = (0..2)
            .flat_map(|h| {
                self.hosts[h]
                    .sas
                    .iter()
                    .filter_map(IkeSa::poll_timeout)
                    .map(move |t| (t, h))
            })
            .min();
        match (packet, timer) {
            (Some((at, _, index)), timer) if at <= until && timer.is_none_or(|(t, _)| at <= t) => {
                let packet = self.net.swap_remove(index);
                self.now = self.now.max(at);
                self.deliver(packet.to, packet.source, packet.destination, &packet.bytes);
            }
            (_, Some((at, host))) if at <= until => {
                self.now = self.now.max(at);
                for index in 0..self.hosts[host].sas.len() {
                    let mut sa = self.hosts[host].sas.remove(index);
                    self.with_cx(host, |cx| sa.handle_timeout(cx));
                    self.hosts[host].sas.insert(index, sa);
                }
                self.drain(host);
            }
            _ => return false,
        }
        true
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        let mut steps = 0;
        while self.step(until) {
            steps += 1;
            assert!(steps < 100_000, "does not come to rest");
        }
        self.now = until;
    }

    /// Long enough for everything under way, retransmissions and give-ups included.
    pub(super) fn settle(&mut self) {
        self.run_for(Duration::from_secs(600));
    }

    pub(super) fn log(&self, host: usize) -> Vec<&str> {
        self.hosts[host].log.iter().map(String::as_str).collect()
    }

    pub(super) fn heard(&self, host: usize, event: &str) -> bool {
        self.hosts[host].log.iter().any(|e| e.starts_with(event))
    }

    /// Both ends have the same CHILD_SAs with the same keys, and nothing besides.
    pub(super) fn assert_agree(&self) {
        let [a, b] = &self.hosts;
        assert_eq!(
            a.installed.len(),
            b.installed.len(),
            "{:?} {:?}",
            a.log,
            b.log
        );
        for ours in a.installed.values() {
            let theirs = &b.installed[&ours.spi_out];
            assert_eq!(theirs.spi_out, ours.spi_in);
            assert!(theirs.key_in == ours.key_out && theirs.key_out == ours.key_in);
            assert!(ours.key_in != ours.key_out);
            assert_eq!((theirs.suite, theirs.esn), (ours.suite, ours.esn));
            assert_eq!(theirs.local_ts, ours.remote_ts);
            assert_eq!(theirs.remote_ts, ours.local_ts);
            assert_eq!(theirs.encap, ours.encap);
        }
        for host in &self.hosts {
            assert!(
                host.spis.used.iter().eq(host.installed.keys()),
                "SPI leaked: {:?}",
                host.log
            );
            let views: usize = host.sas.iter().map(|sa| sa.children().count()).sum();
            assert_eq!(views, host.installed.len());
        }
    }

    pub(super) fn assert_connected(&self) {
        for host in [CLIENT, SERVER] {
            // On a bad network a half-open IKE SA may go before the client is heard again.
            let mut log = self.log(host);
            log.retain(|event| *event != format!("failed: {}", Reason::HalfOpen));
            assert_eq!(log, ["established", "child net"]);
            assert_eq!(self.hosts[host].sas.len(), 1);
            assert_eq!(self.hosts[host].sas[0].state(), State::Established);
        }
        self.assert_agree();
        assert_eq!(self.hosts[CLIENT].installed.len(), 1);
    }

    pub(super) fn assert_nothing_left(&self) {
        for host in &self.hosts {
            assert!(host.sas.is_empty(), "{:?}", host.log);
            assert!(
                host.installed.is_empty() && host.spis.used.is_empty(),
                "{:?}",
                host.log
            );
        }
    }

    /// The inbound SPI of a host's only CHILD_SA.
    pub(super) fn spi(&self, host: usize) -> Spi {
        assert_eq!(self.hosts[host].installed.len(), 1);
        *self.hosts[host].installed.keys().next().unwrap()
    }

    /// Messages delivered so far that can be parsed, as (to, message).
    pub(super) fn messages(&self) -> Vec<(usize, Message)> {
        let parse =
            |(to, _, _, bytes): &(usize, _, _, Vec<u8>)| Some((*to, Message::parse(bytes).ok()?));
        self.trace.iter().filter_map(parse).collect()
    }
}
