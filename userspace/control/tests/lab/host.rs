//! A daemon without sockets: a control and a worker on memory ports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mitregate_control::{Config, Control, ControlEvent, DataEvent, Datagram, Encap, Outer, Output};
use mitregate_dataplane::{
    Command, ControlBuf, DfPolicy, DscpPolicy, Epoch, EpochConfig, Event, Fate, Hop, InnerLink,
    Memory, OuterAddrs, OuterHeader, PortSet, Refusal, Returned, Selectors, SoftLimits, Tunnel,
    UdpPorts, Worker, WorkerConfig, WorkerHandle, unattended,
};
use mitregate_wire::eth::{self, EtherType};
use mitregate_wire::frame::{UdpFrame, emit_udp, parse_udp};
use mitregate_wire::ip::{TrafficClass, protocol};
use mitregate_wire::{MacAddr, ipv4, udp};
use mitregate_xsk::{FramePool, MemoryPeer, MemoryPort, RingSizes, Umem, UmemConfig};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::nat::Packet;

const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const INNER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const OUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const HOP_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 4]);
const FRAMES: u32 = 512;

pub struct Host {
    pub control: Control,
    worker: Worker<MemoryPort, MemoryPort>,
    handle: WorkerHandle,
    outer: MemoryPeer,
    inner: MemoryPeer,
    inside: Ipv4Addr,
    peer_inside: Ipv4Addr,
    pub sent: u64,
    /// Sequence numbers of the inner packets that came out, in that order.
    pub received: Vec<u64>,
    pub events: Vec<(Duration, ControlEvent)>,
    pub activations: usize,
}

impl Host {
    pub fn new(
        now: Duration,
        seed: u64,
        config: Config,
        inside: Ipv4Addr,
        peer_inside: Ipv4Addr,
    ) -> Self {
        let link = InnerLink {
            src_mac: INNER_MAC,
            dst_mac: HOST_MAC,
            mtu: 1400,
            hop: Hop::Host,
        };
        let worker = WorkerConfig {
            max_tunnels: 8,
            max_epochs: 32,
            ring: 256,
            control_bufs: 128,
            ..WorkerConfig::new(link)
        };
        let umem = Umem::new(UmemConfig {
            frames: FRAMES,
            ..UmemConfig::default()
        })
        .unwrap();
        let memory = Memory::Shared(FramePool::new(&umem, FRAMES, 32).unwrap());
        let (outer, outer_peer) = MemoryPort::pair(&umem, RingSizes::all(128)).unwrap();
        let (inner, inner_peer) = MemoryPort::pair(&umem, RingSizes::all(128)).unwrap();
        let (worker, handle) = unattended(
            &worker,
            PortSet {
                outer,
                inner,
                memory,
            },
        )
        .unwrap();
        let rng = Box::new(ChaCha20Rng::seed_from_u64(seed));
        Self {
            control: Control::new(now, config, rng).unwrap(),
            worker,
            handle,
            outer: outer_peer,
            inner: inner_peer,
            inside,
            peer_inside,
            sent: 0,
            received: Vec::new(),
            events: Vec::new(),
            activations: 0,
        }
    }

    pub fn fate(&self, fate: Fate) -> u64 {
        self.handle.fates().get(fate)
    }

    /// The host's kernel routes one packet into the tunnel.
    pub fn offer(&mut self) {
        self.sent += 1;
        let packet = inner_packet(self.inside, self.peer_inside, self.sent);
        assert!(self.inner.inject(&ethernet(HOST_MAC, INNER_MAC, &packet)));
    }

    /// A packet of the outer network arrives.
    pub fn deliver(&mut self, packet: &Packet) {
        let frame = if packet.dst.port() == 0 {
            esp_frame(packet)
        } else {
            udp_frame(HOP_MAC, OUTER_MAC, packet.src, packet.dst, &packet.payload)
        };
        assert!(self.outer.inject(&frame));
    }

    /// Runs until nothing moves any more; what left for the network.
    pub fn pump(&mut self, now: Duration) -> Vec<Packet> {
        let mut out = Vec::new();
        loop {
            let mut moved = false;
            while let Some(output) = self.control.poll_output() {
                moved = true;
                self.obey(now, output);
            }
            moved |= self.worker.round(now).unwrap() > 0;
            while let Some(event) = self.handle.poll_event() {
                moved = true;
                self.report(now, event);
            }
            moved |= self.outer.drain(|frame| out.extend(parse_outer(frame))) > 0;
            let received = &mut self.received;
            moved |= self.inner.drain(|frame| received.push(sequence(frame))) > 0;
            if !moved {
                return out;
            }
        }
    }

    fn command(&mut self, now: Duration, command: Command) {
        let mut command = command;
        // The ring may be full: the worker makes room.
        while let Err(back) = self.handle.send(command) {
            self.worker.round(now).unwrap();
            command = back;
        }
    }

    fn buffer(&self, bytes: &[u8]) -> ControlBuf {
        let mut buffer = self.handle.buffer().unwrap();
        assert!(buffer.set(bytes));
        buffer
    }

    fn obey(&mut self, now: Duration, output: Output) {
        let command = match output {
            Output::Transmit {
                local,
                remote,
                payload,
            } => {
                let frame = udp_frame(OUTER_MAC, HOP_MAC, local, remote, &payload);
                Command::SendOuter {
                    frame: self.buffer(&frame),
                }
            }
            Output::AddTunnel(add) => {
                let selectors = Selectors {
                    local: add.local_ts,
                    remote: add.remote_ts,
                };
                Command::AddTunnel(Tunnel::new(add.tunnel, selectors, 64))
            }
            Output::RemoveTunnel { tunnel } => Command::RemoveTunnel { tunnel },
            Output::Install(install) => Command::Install(Epoch::new(EpochConfig {
                tunnel: install.tunnel,
                epoch: install.epoch,
                inbound: install.inbound,
                outbound: install.outbound,
                selectors: Selectors {
                    local: install.local_ts,
                    remote: install.remote_ts,
                },
                outer: Some(outer_header(&install.outer)),
                counters: install.counters,
                soft: SoftLimits {
                    packets: install.soft_packets,
                    bytes: install.soft_bytes,
                },
            })),
            Output::Activate { tunnel, proven } => {
                self.activations += 1;
                Command::Activate {
                    tunnel,
                    epoch: proven.epoch(),
                }
            }
            Output::SendInner {
                tunnel,
                epoch,
                next_header,
                payload,
            } => {
                let payload = self.buffer(&payload);
                Command::SendInner {
                    tunnel,
                    epoch,
                    next_header,
                    payload,
                }
            }
            Output::Retire { tunnel, epoch } => Command::Retire { tunnel, epoch },
            Output::MovePeer {
                tunnel,
                epoch,
                outer,
            } => {
                let outer = Some(outer_header(&outer));
                Command::SetOuter {
                    tunnel,
                    epoch: Some(epoch),
                    outer,
                }
            }
            Output::Event(event) => return self.events.push((now, event)),
        };
        self.command(now, command);
    }

    fn report(&mut self, now: Duration, event: Event) {
        match event {
            Event::Outer { frame, .. } => {
                if let Ok(datagram) = parse_udp(&frame) {
                    let (local, remote) = (datagram.dst, datagram.src);
                    let payload = datagram.payload;
                    self.control.handle_datagram(
                        now,
                        Datagram {
                            local,
                            remote,
                            payload,
                        },
                    );
                }
            }
            Event::Inner {
                tunnel,
                epoch,
                next_header,
                new_highest,
                from,
                to,
                payload,
                ..
            } => {
                let payload = &payload;
                let event = DataEvent::Inner {
                    tunnel,
                    epoch,
                    next_header,
                    new_highest,
                    from,
                    to,
                    payload,
                };
                self.control.handle_dataplane(now, event);
            }
            Event::FirstInbound {
                tunnel,
                epoch,
                data,
            } => {
                self.control.handle_dataplane(
                    now,
                    DataEvent::FirstInbound {
                        tunnel,
                        epoch,
                        data,
                    },
                );
            }
            Event::DataWaiting { tunnel } => {
                self.control
                    .handle_dataplane(now, DataEvent::DataWaiting { tunnel });
            }
            Event::SoftLimit { tunnel, epoch } => {
                self.control
                    .handle_dataplane(now, DataEvent::SoftLimit { tunnel, epoch });
            }
            Event::Retired { .. } | Event::Removed { .. } => {}
            Event::Refused {
                tunnel,
                epoch: Some(epoch),
                reason,
                returned: Some(Returned::Epoch(_)),
            } => {
                let reason = &reason.to_string();
                let event = DataEvent::Refused {
                    tunnel,
                    epoch,
                    reason,
                };
                self.control.handle_dataplane(now, event);
            }
            // For an epoch that was not taken.
            Event::Refused {
                reason: Refusal::NoSuchEpoch,
                ..
            } => {}
            Event::Refused { reason, .. } => panic!("a command was refused: {reason}"),
            Event::Stopped { reason } => panic!("the worker stopped: {reason}"),
        }
    }
}

fn outer_header(outer: &Outer) -> OuterHeader {
    let udp = UdpPorts {
        src: outer.local.port(),
        dst: outer.remote.port(),
    };
    OuterHeader {
        src_mac: OUTER_MAC,
        dst_mac: HOP_MAC,
        vlan: None,
        addrs: OuterAddrs::new(outer.local.ip(), outer.remote.ip()).unwrap(),
        udp: (outer.encap == Encap::Udp).then_some(udp),
        ttl: 64,
        df: DfPolicy::Copy,
        dscp: DscpPolicy::Copy,
        mtu: 1500,
    }
}

fn v4(address: SocketAddr) -> Ipv4Addr {
    match address.ip() {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => unreachable!("these tests run over IPv4"),
    }
}

fn ethernet(src: MacAddr, dst: MacAddr, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14 + packet.len()];
    eth::Header::new(dst, src, EtherType::IPV4)
        .emit(&mut frame)
        .unwrap();
    frame[14..].copy_from_slice(packet);
    frame
}

fn udp_frame(
    src_mac: MacAddr,
    dst_mac: MacAddr,
    src: SocketAddr,
    dst: SocketAddr,
    payload: &[u8],
) -> Vec<u8> {
    let mut out = vec![0; 100 + payload.len()];
    let frame = UdpFrame {
        eth: eth::Header::new(dst_mac, src_mac, EtherType::IPV4),
        src,
        dst,
        hop_limit: 64,
        traffic_class: TrafficClass(0),
        payload,
    };
    let len = emit_udp(&frame, &mut out).unwrap();
    out.truncate(len);
    out
}

fn esp_frame(packet: &Packet) -> Vec<u8> {
    let mut out = vec![0; 20 + packet.payload.len()];
    let header = ipv4::Header::new(v4(packet.src), v4(packet.dst), protocol::ESP);
    header.emit(packet.payload.len(), &mut out).unwrap();
    out[20..].copy_from_slice(&packet.payload);
    ethernet(HOP_MAC, OUTER_MAC, &out)
}

fn parse_outer(frame: &[u8]) -> Option<Packet> {
    let ip = ipv4::Packet::new_checked(eth::Frame::new_checked(frame).ok()?.payload()).ok()?;
    let end = |ip: Ipv4Addr, port| SocketAddr::new(IpAddr::V4(ip), port);
    let (src_ip, dst_ip) = (ip.src(), ip.dst());
    match ip.protocol() {
        protocol::ESP => Some(Packet {
            src: end(src_ip, 0),
            dst: end(dst_ip, 0),
            payload: ip.payload().to_vec(),
        }),
        protocol::UDP => {
            let datagram = udp::Datagram::new_checked(ip.payload()).ok()?;
            Some(Packet {
                src: end(src_ip, datagram.src_port()),
                dst: end(dst_ip, datagram.dst_port()),
                payload: datagram.payload().to_vec(),
            })
        }
        other => panic!("protocol {other} left for the network"),
    }
}

fn inner_packet(src: Ipv4Addr, dst: Ipv4Addr, sequence: u64) -> Vec<u8> {
    let mut out = vec![0; 36];
    ipv4::Header::new(src, dst, protocol::UDP)
        .emit(16, &mut out)
        .unwrap();
    udp::Header {
        src_port: 1000,
        dst_port: 2000,
    }
    .emit(8, &mut out[20..])
    .unwrap();
    out[28..].copy_from_slice(&sequence.to_be_bytes());
    out
}

fn sequence(frame: &[u8]) -> u64 {
    let data = frame.get(14 + 28..14 + 36).unwrap();
    u64::from_be_bytes(data.try_into().unwrap())
}
