//! A daemon without sockets: the real control and the real worker, on memory ports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use mitregate_control::{
    Command as ControlCommand, Config, Control, ControlEvent, DataEvent, Datagram, Encap,
    LoggedKeys, Outer, Output, Ticket,
};
use mitregate_dataplane::{
    Census, Command, ControlBuf, DfPolicy, DscpPolicy, Epoch, EpochConfig, Event, Fate, Hop,
    InnerLink, Limits, Memory, OuterAddrs, OuterHeader, PortSet, Refusal, Returned, Selectors,
    Tunnel, UdpPorts, Worker, WorkerConfig, WorkerHandle, unattended,
};
use mitregate_wire::frame::{parse_esp, parse_icmp_error, parse_udp};
use mitregate_wire::{MacAddr, eth, icmp};
use mitregate_xsk::{FramePool, MemoryPeer, MemoryPort, RingSizes, Umem, UmemConfig};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::certificates::UNIX_TIME;
use super::packet::{self, Inner, ethernet, too_big, udp_frame};
use super::world::START;
use crate::nat::Packet;

const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const INNER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const OUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const HOP_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 4]);
/// Packets that a tunnel holds until an epoch is proven.
const HOLD: usize = 64;

/// What a host is made of, each time that it starts.
#[derive(Clone)]
pub struct HostSpec {
    /// In diagrams.
    pub name: String,
    /// On the outer network.
    pub address: Ipv4Addr,
    /// Its configuration, made anew for each life.
    pub config: Rc<dyn Fn() -> Config>,
    /// How much it is built for.
    pub size: HostSize,
}

/// How much memory and tables a host gets.
#[derive(Clone, Copy)]
pub struct HostSize {
    /// Of the UMEM, 2 KiB each.
    pub frames: u32,
    /// Tunnels.
    pub tunnels: usize,
    /// Epochs.
    pub epochs: usize,
}

impl Default for HostSize {
    fn default() -> Self {
        Self {
            frames: 512,
            tunnels: 8,
            epochs: 64,
        }
    }
}

/// What a host did that the referee looks at, in order.
pub enum Deed {
    /// It logged keys.
    Keys(LoggedKeys),
    /// It sent a packet to the outer network.
    Sent(Packet),
    /// It handed a packet to its kernel.
    Received(Inner),
    /// It handed the answer to a ping to its kernel: identifier and sequence number.
    Pong(u16, u16),
    /// Its worker told its kernel that a packet of this flow was too big.
    TooBig {
        /// Which flow.
        flow: usize,
        /// What fits, bytes.
        mtu: usize,
    },
    /// What must not be.
    Fault(String),
    /// It changed its tables: a good moment to count.
    Changed,
}

/// A host that runs.
pub struct Host {
    /// Its control.
    pub control: Control,
    /// With the time at which they came.
    pub events: Vec<(Duration, ControlEvent)>,
    /// How often an epoch was activated.
    pub activations: usize,
    /// Whether who is behind it answers pings.
    pub answers_pings: bool,
    worker: Worker<MemoryPort, MemoryPort>,
    handle: WorkerHandle,
    outer: MemoryPeer,
    inner: MemoryPeer,
    frames: usize,
}

impl Host {
    /// Starts it.
    pub fn new(now: Duration, seed: u64, spec: &HostSpec) -> Self {
        let link = InnerLink {
            src_mac: INNER_MAC,
            dst_mac: HOST_MAC,
            mtu: 1400,
            hop: Hop::Host,
        };
        let HostSize {
            frames,
            tunnels,
            epochs,
        } = spec.size;
        let worker = WorkerConfig {
            max_tunnels: tunnels,
            max_epochs: epochs,
            ring: 256,
            control_bufs: 128,
            ..WorkerConfig::new(link)
        };
        let umem = Umem::new(UmemConfig {
            frames,
            ..UmemConfig::default()
        })
        .expect("memory for a simulated host");
        let pool = FramePool::new(&umem, frames, 32).expect("a pool of all frames");
        let rings = RingSizes::all(128);
        let (outer, outer_peer) = MemoryPort::pair(&umem, rings).expect("a memory port");
        let (inner, inner_peer) = MemoryPort::pair(&umem, rings).expect("a memory port");
        let ports = PortSet {
            outer,
            inner,
            memory: Memory::Shared(pool),
        };
        let (worker, handle) = unattended(&worker, ports).expect("a worker");
        let rng = Box::new(ChaCha20Rng::seed_from_u64(seed));
        let mut control =
            Control::new(now, (spec.config)(), rng).expect("a scenario's configuration is valid");
        control.log_keys();
        control.set_unix_time(START, UNIX_TIME);
        let frames = worker.census().total();
        Self {
            control,
            events: Vec::new(),
            activations: 0,
            answers_pings: true,
            worker,
            handle,
            outer: outer_peer,
            inner: inner_peer,
            frames,
        }
    }

    /// How many packets met this fate.
    pub fn fate(&self, fate: Fate) -> u64 {
        self.handle.fates().get(fate)
    }

    /// Where its frames are.
    pub fn census(&self) -> Census {
        self.worker.census()
    }

    /// Frames that it began with and has no longer.
    pub fn lost_frames(&self) -> usize {
        self.frames.saturating_sub(self.census().total())
    }

    /// The host's kernel routes one packet into the tunnel.
    pub fn offer(&mut self, packet: &[u8]) {
        let taken = self.inner.inject(&ethernet(HOST_MAC, INNER_MAC, packet));
        assert!(taken, "the inner port has room at each step");
    }

    /// A packet of the outer network arrives.
    pub fn deliver(&mut self, packet: &Packet) {
        let taken = self
            .outer
            .inject(&ethernet(HOP_MAC, OUTER_MAC, packet.bytes()));
        assert!(taken, "the outer port has room at each step");
    }

    /// An operator's command.
    pub fn command(
        &mut self,
        now: Duration,
        command: ControlCommand,
    ) -> Result<Ticket, mitregate_control::CommandError> {
        self.control.handle_command(now, command)
    }

    /// Runs until nothing moves any more. `next_id` numbers the packets that it sends.
    pub fn pump(&mut self, now: Duration, next_id: &mut u64, deeds: &mut Vec<Deed>) {
        loop {
            let mut moved = false;
            while let Some(output) = self.control.poll_output() {
                moved = true;
                self.obey(now, output, deeds);
            }
            deeds.extend(self.control.take_keys().into_iter().map(Deed::Keys));
            moved |= self.worker.round(now).expect("memory ports do not fail") > 0;
            while let Some(event) = self.handle.poll_event() {
                moved = true;
                self.report(now, &event, deeds);
            }
            moved |= self.outer.drain(|frame| {
                let deed = match packet::parse(frame, *next_id) {
                    Ok(packet) => Deed::Sent(packet),
                    Err(fault) => Deed::Fault(fault),
                };
                *next_id += 1;
                deeds.push(deed);
            }) > 0;
            let mut pings = Vec::new();
            moved |= self.inner.drain(|frame| {
                let packet = frame.get(eth::HEADER_LEN..).unwrap_or_default();
                deeds.push(match (Inner::parse(frame), icmp::parse_echo(packet)) {
                    (Some(inner), _) => Deed::Received(inner),
                    (None, Some((ends, echo))) if echo.request => {
                        return pings.extend(pong(ends, &echo));
                    }
                    (None, Some((_, echo))) => Deed::Pong(echo.id, echo.seq),
                    (None, None) => match too_big(frame) {
                        Some((flow, mtu)) => Deed::TooBig { flow, mtu },
                        None => Deed::Fault("a packet that nobody sent came out".to_owned()),
                    },
                });
            }) > 0;
            if self.answers_pings {
                pings.iter().for_each(|pong| self.offer(pong));
            }
            if !moved {
                return;
            }
        }
    }

    fn give(&mut self, now: Duration, command: Command) {
        let mut command = command;
        // The ring may be full: the worker makes room.
        while let Err(back) = self.handle.send(command) {
            self.worker.round(now).expect("memory ports do not fail");
            command = back;
        }
    }

    fn buffer(&self, bytes: &[u8]) -> Option<ControlBuf> {
        let mut buffer = self.handle.buffer()?;
        buffer.set(bytes).then_some(buffer)
    }

    fn obey(&mut self, now: Duration, output: Output, deeds: &mut Vec<Deed>) {
        let no_room = || Deed::Fault("no buffer for a control packet".to_owned());
        let command = match output {
            Output::Transmit {
                local,
                remote,
                payload,
            } => {
                let frame = if local.port() == 0 {
                    let esp = Packet::esp(local.ip(), remote.ip(), &payload, 0);
                    ethernet(OUTER_MAC, HOP_MAC, esp.expect("ends of one family").bytes())
                } else {
                    udp_frame(OUTER_MAC, HOP_MAC, local, remote, &payload)
                };
                match self.buffer(&frame) {
                    Some(frame) => Command::SendOuter { frame },
                    None => return deeds.push(no_room()),
                }
            }
            Output::AddTunnel(add) => {
                let selectors = Selectors {
                    local: add.local_ts,
                    remote: add.remote_ts,
                };
                Command::AddTunnel(Tunnel::new(add.tunnel, selectors, HOLD))
            }
            Output::RemoveTunnel { tunnel } => Command::RemoveTunnel { tunnel },
            Output::Install(install) => {
                deeds.push(Deed::Changed);
                let epoch = Epoch::new(EpochConfig {
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
                    soft: Limits {
                        packets: install.soft_packets,
                        bytes: install.soft_bytes,
                    },
                    hard: Limits {
                        packets: install.hard_packets,
                        bytes: install.hard_bytes,
                    },
                });
                let epoch = match install.tell_moves {
                    true => epoch.telling_moves(),
                    false => epoch,
                };
                Command::Install(match install.icmp_secret {
                    Some(secret) => epoch.expecting_icmp(secret),
                    None => epoch,
                })
            }
            Output::Activate { tunnel, proven } => {
                self.activations += 1;
                deeds.push(Deed::Changed);
                Command::Activate {
                    tunnel,
                    epoch: proven.epoch(),
                }
            }
            Output::Hold { tunnel } => Command::Hold { tunnel },
            Output::SendInner {
                tunnel,
                epoch,
                next_header,
                via,
                pad_to,
                payload,
            } => match self.buffer(&payload) {
                Some(payload) => Command::SendInner {
                    tunnel,
                    epoch,
                    next_header,
                    via: via.as_ref().map(outer_header),
                    pad_to,
                    payload,
                },
                None => return deeds.push(no_room()),
            },
            Output::PathMtu { tunnel, outer, .. } => Command::SetPathMtu { tunnel, mtu: outer },
            Output::Retire { tunnel, epoch } => {
                deeds.push(Deed::Changed);
                Command::Retire { tunnel, epoch }
            }
            Output::MovePeer {
                tunnel,
                epoch,
                outer,
            } => Command::SetOuter {
                tunnel,
                epoch: Some(epoch),
                outer: Some(outer_header(&outer)),
            },
            Output::Event(event) => return self.events.push((now, event)),
        };
        self.give(now, command);
    }

    fn report(&mut self, now: Duration, event: &Event, deeds: &mut Vec<Deed>) {
        let control = &mut self.control;
        let event = match event {
            Event::Outer { frame, .. } => {
                if let Ok(esp) = parse_esp(frame) {
                    control.handle_plain_echo(now, esp.dst, esp.src, esp.packet);
                } else if let Ok(datagram) = parse_udp(frame) {
                    control.handle_datagram(
                        now,
                        Datagram {
                            local: datagram.dst,
                            remote: datagram.src,
                            payload: datagram.payload,
                        },
                    );
                } else if let Ok(error) = parse_icmp_error(frame) {
                    control.handle_icmp(now, &error);
                }
                return;
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
            } => DataEvent::Inner {
                tunnel: *tunnel,
                epoch: *epoch,
                next_header: *next_header,
                new_highest: *new_highest,
                from: *from,
                to: *to,
                payload,
            },
            Event::FirstInbound {
                tunnel,
                epoch,
                data,
            } => DataEvent::FirstInbound {
                tunnel: *tunnel,
                epoch: *epoch,
                data: *data,
            },
            Event::Moved {
                tunnel,
                epoch,
                from,
                to,
            } => DataEvent::Moved {
                tunnel: *tunnel,
                epoch: *epoch,
                from: *from,
                to: *to,
            },
            Event::DataWaiting { tunnel } => DataEvent::DataWaiting { tunnel: *tunnel },
            Event::SoftLimit { tunnel, epoch } => DataEvent::SoftLimit {
                tunnel: *tunnel,
                epoch: *epoch,
            },
            Event::HardLimit { tunnel, epoch } => DataEvent::HardLimit {
                tunnel: *tunnel,
                epoch: *epoch,
            },
            Event::Retired { .. } | Event::Removed { .. } => return,
            Event::Refused {
                tunnel,
                epoch: Some(epoch),
                reason,
                returned: Some(Returned::Epoch(_)),
            } => {
                let reason = &reason.to_string();
                control.handle_dataplane(
                    now,
                    DataEvent::Refused {
                        tunnel: *tunnel,
                        epoch: *epoch,
                        reason,
                    },
                );
                return;
            }
            // For an epoch that was not taken.
            Event::Refused {
                reason: Refusal::NoSuchEpoch,
                ..
            } => return,
            Event::Refused { reason, .. } => {
                return deeds.push(Deed::Fault(format!(
                    "the worker refused a command: {reason}"
                )));
            }
            Event::Stopped { reason } => {
                return deeds.push(Deed::Fault(format!("the worker stopped: {reason}")));
            }
        };
        control.handle_dataplane(now, event);
    }
}

/// The answer of the host that is asked.
fn pong((src, dst): (IpAddr, IpAddr), echo: &icmp::Echo<'_>) -> Option<Vec<u8>> {
    let reply = icmp::Echo {
        request: false,
        ..*echo
    };
    let mut packet = vec![0; 1500];
    let len = icmp::emit_echo((dst, src), &reply, &mut packet).ok()?;
    packet.truncate(len);
    Some(packet)
}

fn outer_header(outer: &Outer) -> OuterHeader {
    let (local, remote): (SocketAddr, SocketAddr) = (outer.local, outer.remote);
    let udp = UdpPorts {
        src: local.port(),
        dst: remote.port(),
    };
    OuterHeader {
        src_mac: OUTER_MAC,
        dst_mac: HOP_MAC,
        vlan: None,
        addrs: OuterAddrs::new(local.ip(), remote.ip()).expect("both ends are of one family"),
        udp: (outer.encap == Encap::Udp).then_some(udp),
        ttl: 64,
        df: DfPolicy::Copy,
        dscp: DscpPolicy::Copy,
        mtu: 1500,
    }
}
