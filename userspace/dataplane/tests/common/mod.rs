//! A worker on memory ports, driven round by round.
#![allow(
    dead_code,
    unreachable_pub,
    unused_macros,
    reason = "each test binary uses a part"
)]

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use mitregate_dataplane::{
    Command, DfPolicy, DscpPolicy, Epoch, EpochConfig, Event, Fate, Hop, InnerLink, Limits, Memory,
    OuterAddrs, OuterHeader, PortSet, Selectors, Tunnel, UdpPorts, Worker, WorkerConfig,
    WorkerHandle, unattended,
};
use mitregate_esp::{
    CipherSuite, EpochId, InboundSa, OutboundSa, Provider, SaCounters, SaKey, TunnelId, WorkerId,
};
use mitregate_wire::{
    MacAddr, TrafficSelector,
    esp::Spi,
    eth::{self, EtherType},
    ip::{TrafficClass, protocol},
    ipv4, udp,
};
use mitregate_xsk::{FramePool, MemoryPeer, MemoryPort, RingSizes, Umem, UmemConfig};

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const CLIENT_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub const SERVER_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 9);
pub const TUNNEL: TunnelId = TunnelId(7);
pub const UDP_ENCAP: Option<UdpPorts> = Some(UdpPorts {
    src: 4500,
    dst: 4500,
});

pub const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const INNER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub const OUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
pub const HOP_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 4]);

/// A whole worker without a thread.
pub struct Rig {
    pub worker: Worker<MemoryPort, MemoryPort>,
    pub handle: WorkerHandle,
    pub outer: MemoryPeer,
    pub inner: MemoryPeer,
    pub umems: Vec<Arc<Umem>>,
    pub now: Duration,
    issued: usize,
}

pub struct Setup {
    pub config: WorkerConfig,
    pub rings: RingSizes,
    pub frames: u32,
    pub reserve: u32,
    pub shared: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let inner = InnerLink {
            src_mac: INNER_MAC,
            dst_mac: HOST_MAC,
            mtu: 1400,
            hop: Hop::Host,
        };
        let config = WorkerConfig {
            max_tunnels: 8,
            max_epochs: 16,
            ring: 64,
            control_bufs: 16,
            ..WorkerConfig::new(inner)
        };
        Self {
            config,
            rings: RingSizes::all(64),
            frames: 512,
            reserve: 16,
            shared: true,
        }
    }
}

impl Setup {
    /// Ports and their peers.
    pub fn ports(
        &self,
    ) -> (
        PortSet<MemoryPort, MemoryPort>,
        MemoryPeer,
        MemoryPeer,
        Vec<Arc<Umem>>,
    ) {
        let umem = || {
            Umem::new(UmemConfig {
                frames: self.frames,
                ..UmemConfig::default()
            })
            .unwrap()
        };
        let pool = |umem: &Arc<Umem>| FramePool::new(umem, self.frames, self.reserve).unwrap();
        let first = umem();
        let (memory, second, umems) = if self.shared {
            (
                Memory::Shared(pool(&first)),
                first.clone(),
                vec![first.clone()],
            )
        } else {
            let second = umem();
            let memory = Memory::Split {
                outer: pool(&first),
                inner: pool(&second),
            };
            (memory, second.clone(), vec![first.clone(), second])
        };
        let (outer, outer_peer) = MemoryPort::pair(&first, self.rings).unwrap();
        let (inner, inner_peer) = MemoryPort::pair(&second, self.rings).unwrap();
        (
            PortSet {
                outer,
                inner,
                memory,
            },
            outer_peer,
            inner_peer,
            umems,
        )
    }

    pub fn build(self) -> Rig {
        let (ports, outer, inner, umems) = self.ports();
        let issued = umems.len() * self.frames as usize;
        let (worker, handle) = unattended(&self.config, ports).unwrap();
        let mut rig = Rig {
            worker,
            handle,
            outer,
            inner,
            umems,
            now: Duration::from_secs(1),
            issued,
        };
        rig.round();
        rig
    }
}

impl Rig {
    pub fn new() -> Self {
        Setup::default().build()
    }

    /// With a tunnel and an active epoch for the client's side.
    pub fn client(epoch: Box<Epoch>) -> Self {
        let mut rig = Self::new();
        rig.add_tunnel(client_selectors(), 8);
        rig.install_and_activate(epoch);
        rig
    }

    pub fn round(&mut self) {
        self.now += Duration::from_micros(10);
        self.worker.round(self.now).unwrap();
    }

    pub fn send(&mut self, command: Command) {
        assert!(self.handle.send(command).is_ok());
        self.round();
    }

    pub fn add_tunnel(&mut self, selectors: Selectors, hold_limit: usize) {
        self.send(Command::AddTunnel(Tunnel::new(
            TUNNEL, selectors, hold_limit,
        )));
    }

    pub fn install_and_activate(&mut self, epoch: Box<Epoch>) {
        let id = epoch.id();
        self.send(Command::Install(epoch));
        self.send(Command::Activate {
            tunnel: TUNNEL,
            epoch: id,
        });
    }

    /// A frame from the outer side.
    pub fn outer_in(&mut self, frame: &[u8]) {
        assert!(self.outer.inject(frame));
        self.round();
    }

    /// An IP packet from the host.
    pub fn inner_in(&mut self, packet: &[u8]) {
        assert!(self.inner.inject(&inner_frame(packet)));
        self.round();
    }

    pub fn outer_out(&mut self) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        self.outer.drain(|frame| out.push(frame.to_vec()));
        out
    }

    /// IP packets to the host.
    pub fn inner_out(&mut self) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        self.inner.drain(|frame| {
            let view = eth::Frame::new_checked(frame).unwrap();
            assert_eq!((view.src(), view.dst()), (INNER_MAC, HOST_MAC));
            out.push(view.payload().to_vec());
        });
        out
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.handle.poll_event()).collect()
    }

    pub fn fate(&self, fate: Fate) -> u64 {
        self.handle.fates().get(fate)
    }

    /// That all packets so far ended so, and that no frame went astray.
    #[track_caller]
    pub fn expect(&mut self, expected: &[(Fate, u64)]) {
        let counted: Vec<_> = self.handle.fates().iter().filter(|&(_, n)| n > 0).collect();
        let mut expected = expected.to_vec();
        expected.sort_by_key(|&(fate, _)| fate as u8);
        assert_eq!(counted, expected);
        self.check_frames();
    }

    #[track_caller]
    pub fn check_frames(&self) {
        assert_eq!(self.worker.census().total(), self.issued);
        assert!(self.umems.iter().all(|umem| umem.dropped_frames() == 0));
    }
}

pub fn ts(s: &str) -> TrafficSelector {
    s.parse().unwrap()
}

pub fn client_selectors() -> Selectors {
    Selectors {
        local: vec![ts("10.1.0.0/24"), ts("fd01::/64")],
        remote: vec![ts("10.2.0.0/24"), ts("fd02::/64")],
    }
}

pub fn reversed(selectors: &Selectors) -> Selectors {
    Selectors {
        local: selectors.remote.clone(),
        remote: selectors.local.clone(),
    }
}

pub fn outer_header(src: Ipv4Addr, dst: Ipv4Addr, udp: Option<UdpPorts>) -> OuterHeader {
    OuterHeader {
        src_mac: OUTER_MAC,
        dst_mac: HOP_MAC,
        vlan: None,
        addrs: OuterAddrs::V4 { src, dst },
        udp,
        ttl: 64,
        df: DfPolicy::Copy,
        dscp: DscpPolicy::Copy,
        mtu: 1500,
    }
}

pub fn key(suite: CipherSuite, fill: u8) -> SaKey {
    SaKey::from_keymat(suite, &vec![fill; suite.keymat_len()]).unwrap()
}

/// An inbound SPI of worker 0.
pub fn spi(random: u32) -> Spi {
    WorkerId(0).inbound_spi(random).unwrap()
}

pub const SPI_AT_CLIENT: u32 = 0x11_1111;
pub const SPI_AT_GATEWAY: u32 = 0x22_2222;

/// Both ends' configurations of one epoch.
pub fn epoch_pair(
    id: u64,
    suite: CipherSuite,
    provider: Provider,
    udp: Option<UdpPorts>,
) -> (EpochConfig, EpochConfig) {
    let n = u32::try_from(id).unwrap();
    let (at_client, at_gateway) = (spi(SPI_AT_CLIENT + n), spi(SPI_AT_GATEWAY + n));
    let up = key(suite, 0x40 + u8::try_from(id).unwrap());
    let down = key(suite, 0x80 + u8::try_from(id).unwrap());
    let inbound = |spi, key| InboundSa::new(spi, key, provider, 4096, true);
    let outbound = |spi, key| OutboundSa::new(spi, key, provider, true);
    let client = EpochConfig {
        tunnel: TUNNEL,
        epoch: EpochId(id),
        inbound: inbound(at_client, &down),
        outbound: outbound(at_gateway, &up),
        selectors: client_selectors(),
        outer: Some(outer_header(CLIENT, GATEWAY, udp)),
        counters: Arc::new(SaCounters::default()),
        soft: Limits::default(),
        hard: Limits::default(),
    };
    let gateway = EpochConfig {
        tunnel: TUNNEL,
        epoch: EpochId(id),
        inbound: inbound(at_gateway, &up),
        outbound: outbound(at_client, &down),
        selectors: reversed(&client_selectors()),
        outer: Some(outer_header(GATEWAY, CLIENT, udp)),
        counters: Arc::new(SaCounters::default()),
        soft: Limits::default(),
        hard: Limits::default(),
    };
    (client, gateway)
}

/// Client and gateway with one active epoch.
pub fn pair(suite: CipherSuite, provider: Provider, udp: Option<UdpPorts>) -> (Rig, Rig) {
    let (client, gateway) = epoch_pair(1, suite, provider, udp);
    let mut at_gateway = Rig::new();
    at_gateway.add_tunnel(reversed(&client_selectors()), 8);
    at_gateway.install_and_activate(Epoch::new(gateway));
    (Rig::client(Epoch::new(client)), at_gateway)
}

pub fn default_pair(provider: Provider) -> (Rig, Rig) {
    pair(CipherSuite::Aes256Gcm16, provider, None)
}

/// A test for each provider.
macro_rules! over_both {
    ($test:ident) => {
        mod $test {
            use mitregate_esp::Provider;

            #[test]
            fn aws_lc() {
                super::$test(Provider::AwsLc);
            }

            #[test]
            fn rustcrypto() {
                super::$test(Provider::RustCrypto);
            }
        }
    };
}

/// A UDP datagram between the two insides.
pub fn packet(src: Ipv4Addr, dst: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    packet_with(src, dst, data, |_| ())
}

pub fn packet_with(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    data: &[u8],
    change: impl FnOnce(&mut ipv4::Header),
) -> Vec<u8> {
    let mut header = ipv4::Header::new(src, dst, protocol::UDP);
    header.traffic_class = TrafficClass(0);
    change(&mut header);
    let mut out = vec![0; 28 + data.len()];
    header.emit(8 + data.len(), &mut out).unwrap();
    udp::Header {
        src_port: 1000,
        dst_port: 2000,
    }
    .emit(data.len(), &mut out[20..])
    .unwrap();
    out[28..].copy_from_slice(data);
    out
}

/// From the client's inside to the server.
pub fn up(data: &[u8]) -> Vec<u8> {
    packet(CLIENT_INSIDE, SERVER_INSIDE, data)
}

/// From the server to the client's inside.
pub fn down(data: &[u8]) -> Vec<u8> {
    packet(SERVER_INSIDE, CLIENT_INSIDE, data)
}

pub fn frame(src: MacAddr, dst: MacAddr, ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 14 + payload.len()];
    eth::Header::new(dst, src, ether_type)
        .emit(&mut out)
        .unwrap();
    out[14..].copy_from_slice(payload);
    out
}

pub fn inner_frame(packet: &[u8]) -> Vec<u8> {
    let v6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
    frame(
        HOST_MAC,
        INNER_MAC,
        if v6 { EtherType::IPV6 } else { EtherType::IPV4 },
        packet,
    )
}

/// A frame of the outer side around `payload`, from the gateway to the client.
pub fn outer_frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
    outer_frame_with(protocol, payload, |_| ())
}

pub fn outer_frame_with(
    protocol: u8,
    payload: &[u8],
    change: impl FnOnce(&mut ipv4::Header),
) -> Vec<u8> {
    let mut header = ipv4::Header::new(GATEWAY, CLIENT, protocol);
    change(&mut header);
    let mut out = vec![0; 20 + payload.len()];
    header.emit(payload.len(), &mut out).unwrap();
    out[20..].copy_from_slice(payload);
    frame(HOP_MAC, OUTER_MAC, EtherType::IPV4, &out)
}

pub fn udp_payload(dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 8 + payload.len()];
    udp::Header {
        src_port: 4500,
        dst_port,
    }
    .emit(payload.len(), &mut out)
    .unwrap();
    out[8..].copy_from_slice(payload);
    out
}

/// Seals `content` for the client's inbound SA and frames it as plain ESP.
pub fn sealed_for_client(gateway: &mut OutboundSa, content: &[u8], next_header: u8) -> Vec<u8> {
    let mut buf = vec![0; 16 + content.len() + 32];
    buf[16..16 + content.len()].copy_from_slice(content);
    let esp = gateway
        .seal(&mut buf, 16..16 + content.len(), next_header, 0)
        .unwrap();
    outer_frame(protocol::ESP, &buf[esp])
}
