//! The worker between its ports on sequences of frames, arbitrary ones and such whose outermost
//! layers are right. Each ends in one fate, no frame of the memory goes astray, what leaves for the
//! network is ESP, and what leaves for the host is IP.
#![no_main]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mitregate_dataplane::{
    Command, DfPolicy, DscpPolicy, Epoch, EpochConfig, Fate, Hop, InnerLink, Limits, Memory,
    OuterAddrs, OuterHeader, PortSet, Selectors, Tunnel, UdpPorts, Worker, WorkerConfig,
    WorkerHandle, unattended,
};
use mitregate_esp::{
    CipherSuite, EpochId, HEADROOM, InboundSa, MAX_TAILROOM, OutboundSa, Provider, SaCounters,
    SaKey, TunnelId, WorkerId,
};
use mitregate_wire::eth::{self, EtherType};
use mitregate_wire::ip::{self, protocol};
use mitregate_wire::{MacAddr, ipv4, udp};
use mitregate_xsk::{FramePool, MemoryPeer, MemoryPort, RingSizes, Umem, UmemConfig};

const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const HERE_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const THERE_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 9);
const TUNNEL: TunnelId = TunnelId(7);
const EPOCH: EpochId = EpochId(1);
const NAT_T: UdpPorts = UdpPorts {
    src: 4500,
    dst: 4500,
};
/// Host, inner port, outer port, next hop.
const MACS: [MacAddr; 4] = [
    MacAddr([2, 0, 0, 0, 0, 1]),
    MacAddr([2, 0, 0, 0, 0, 2]),
    MacAddr([2, 0, 0, 0, 0, 3]),
    MacAddr([2, 0, 0, 0, 0, 4]),
];
const FRAMES: u32 = 256;

fuzz_target!(|input: (u8, Vec<(u8, &[u8])>)| {
    let (choice, packets) = input;
    let mut rig = Rig::new(choice);
    for (kind, bytes) in packets {
        match kind % 7 {
            0 => rig.outer_in(bytes),
            1 => rig.outer_in(&packet_frame(protocol::ESP, bytes)),
            2 => rig.outer_in(&packet_frame(protocol::UDP, &datagram(bytes))),
            // What only the peer can send: any plaintext.
            3 => {
                let next_header = [protocol::IPV4, protocol::IPV6, protocol::NONE, 144];
                rig.sealed_in(bytes, next_header[usize::from(kind / 7) % 4]);
            }
            4 => rig.sealed_in(
                &packet(THERE_INSIDE, HERE_INSIDE, kind / 7, bytes),
                protocol::IPV4,
            ),
            5 => {
                let ether_type = [EtherType::IPV4, EtherType::IPV6][usize::from(kind / 7) % 2];
                rig.inner_in(&frame(ether_type, bytes));
            }
            _ => {
                let packet = packet(HERE_INSIDE, THERE_INSIDE, kind / 7, bytes);
                rig.inner_in(&frame(EtherType::IPV4, &packet));
            }
        }
    }
});

/// A worker with one active epoch, and the peer's sealing half.
struct Rig {
    worker: Worker<MemoryPort, MemoryPort>,
    handle: WorkerHandle,
    outer: MemoryPeer,
    inner: MemoryPeer,
    umem: Arc<Umem>,
    peer: OutboundSa,
    udp: bool,
    now: Duration,
}

impl Rig {
    fn new(choice: u8) -> Self {
        let suite = CipherSuite::ALL[usize::from(choice) % 3];
        let provider = Provider::ALL[usize::from(choice) / 3 % 2];
        let udp = choice >= 128;
        let link = InnerLink {
            src_mac: MACS[1],
            dst_mac: MACS[0],
            mtu: 1400,
            hop: Hop::Host,
        };
        let config = WorkerConfig {
            max_tunnels: 2,
            max_epochs: 2,
            ring: 16,
            control_bufs: 16,
            ..WorkerConfig::new(link)
        };
        let umem = Umem::new(UmemConfig {
            frames: FRAMES,
            ..UmemConfig::default()
        })
        .expect("memory");
        let (outer, outer_peer) = MemoryPort::pair(&umem, RingSizes::all(64)).expect("memory");
        let (inner, inner_peer) = MemoryPort::pair(&umem, RingSizes::all(64)).expect("memory");
        let ports = PortSet {
            outer,
            inner,
            memory: Memory::Shared(FramePool::new(&umem, FRAMES, 8).expect("its frames")),
        };
        let (worker, handle) = unattended(&config, ports).expect("the configuration is right");

        let key = SaKey::from_keymat(suite, &vec![7; suite.keymat_len()]).expect("its length");
        let spi = |n| WorkerId(0).inbound_spi(n).expect("24 bits");
        let ts = |text: &str| vec![text.parse().expect("a selector")];
        let selectors = || Selectors {
            local: ts("10.1.0.0/16"),
            remote: ts("10.2.0.0/16"),
        };
        let epoch = Epoch::new(EpochConfig {
            tunnel: TUNNEL,
            epoch: EPOCH,
            inbound: InboundSa::new(spi(1), &key, provider, 4096, true),
            outbound: OutboundSa::new(spi(2), &key, provider, true),
            selectors: selectors(),
            outer: Some(OuterHeader {
                src_mac: MACS[2],
                dst_mac: MACS[3],
                vlan: None,
                addrs: OuterAddrs::V4 {
                    src: HERE,
                    dst: PEER,
                },
                udp: udp.then_some(NAT_T),
                ttl: 64,
                df: DfPolicy::Copy,
                dscp: DscpPolicy::Copy,
                mtu: 1500,
            }),
            counters: Arc::new(SaCounters::default()),
            soft: Limits::default(),
            hard: Limits::default(),
        });
        let mut rig = Self {
            worker,
            handle,
            outer: outer_peer,
            inner: inner_peer,
            umem,
            peer: OutboundSa::new(spi(1), &key, provider, true),
            udp,
            now: Duration::from_secs(1),
        };
        for command in [
            Command::AddTunnel(Tunnel::new(TUNNEL, selectors(), 8)),
            Command::Install(epoch),
            Command::Activate {
                tunnel: TUNNEL,
                epoch: EPOCH,
            },
        ] {
            assert!(rig.handle.send(command).is_ok());
            rig.round();
        }
        rig
    }

    /// From the peer, as the epoch has it.
    fn sealed_in(&mut self, text: &[u8], next_header: u8) {
        let mut buf = [&[0; HEADROOM], text, &[0; MAX_TAILROOM]].concat();
        let inner = HEADROOM..HEADROOM + text.len();
        let esp = self.peer.seal(&mut buf, inner, next_header, 0);
        let esp = &buf[esp.expect("it has room")];
        self.outer_in(&match self.udp {
            true => packet_frame(protocol::UDP, &datagram(esp)),
            false => packet_frame(protocol::ESP, esp),
        });
    }

    fn outer_in(&mut self, frame: &[u8]) {
        let before = self.handle.fates().total();
        let taken = u64::from(self.outer.inject(frame));
        self.round();
        assert_eq!(self.handle.fates().total(), before + taken);
    }

    fn inner_in(&mut self, frame: &[u8]) {
        let before = self.handle.fates().total();
        let answered = self.handle.fates().get(Fate::IcmpSent);
        let taken = u64::from(self.inner.inject(frame));
        self.round();
        let answers = self.handle.fates().get(Fate::IcmpSent) - answered;
        assert_eq!(self.handle.fates().total(), before + taken + answers);
    }

    /// One round of the worker, and what came of it.
    fn round(&mut self) {
        self.now += Duration::from_micros(10);
        self.worker.round(self.now).expect("memory ports work");
        while self.handle.poll_event().is_some() {}
        let expected = [protocol::ESP, protocol::UDP][usize::from(self.udp)];
        self.outer.drain(|frame| {
            let frame = eth::Frame::new_checked(frame).expect("a frame");
            let packet = ipv4::Packet::new_checked(frame.payload()).expect("a packet");
            assert!(packet.checksum_ok());
            assert_eq!((packet.src(), packet.dst()), (HERE, PEER));
            assert_eq!(packet.protocol(), expected);
        });
        self.inner.drain(|frame| {
            let frame = eth::Frame::new_checked(frame).expect("a frame");
            ip::Packet::new_checked(frame.payload()).expect("a packet");
        });
        assert_eq!(self.worker.census().total(), FRAMES as usize);
        assert_eq!(self.umem.dropped_frames(), 0);
    }
}

fn frame(ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 14 + payload.len()];
    let header = eth::Header::new(MACS[2], MACS[3], ether_type);
    header.emit(&mut out).expect("it has room");
    out[14..].copy_from_slice(payload);
    out
}

/// A frame from the peer with an IPv4 header that is right.
fn packet_frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
    frame(EtherType::IPV4, &packet(PEER, HERE, protocol, payload))
}

fn packet(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(2000)];
    let mut out = vec![0; 20 + payload.len()];
    let header = ipv4::Header::new(src, dst, protocol);
    header.emit(payload.len(), &mut out).expect("it has room");
    out[20..].copy_from_slice(payload);
    out
}

fn datagram(payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(2000)];
    let mut out = vec![0; 8 + payload.len()];
    let header = udp::Header {
        src_port: NAT_T.src,
        dst_port: NAT_T.dst,
    };
    header.emit(payload.len(), &mut out).expect("it has room");
    out[8..].copy_from_slice(payload);
    out
}
