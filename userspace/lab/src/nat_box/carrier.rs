//! The packets' way through the box.
//!
//! The kernel owns the addresses and answers ARP, forwards nothing (`ip_forward` is 0) and takes
//! nothing in (`configs/nat-box.nft`). An AF_PACKET socket shows what arrives on either interface;
//! a raw IP socket sends, by the kernel's routes. Which side a packet comes from shows in its
//! source: the clients' network is inside, everything else outside.

use std::{
    fmt,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    ops::RangeInclusive,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mitregate_wire::{
    fragment::emit_fragment,
    icmp::{self, Problem},
    ipv4,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv,
        sendto, socket_with, sockopt,
    },
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

use super::request::{self, Direction, Faults, Request, Shown};
use crate::{
    nat::{self, Faulty, Middlebox, Model, Output, Packet, Remap},
    payload,
    topology::{NAT_LAN, NAT_WAN},
};

/// Packets taken before control requests and timers are looked at again.
const BATCH: usize = 64;
/// Of the socket, bytes: a burst must not be lost before the model sees it.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Ethernet's, as on all cables of the lab.
const MTU: u16 = 1500;
/// Where ports are drawn from after a remap of ports, in turns.
const RANGES: [RangeInclusive<u16>; 2] = [20_000..=29_999, 40_000..=49_999];
/// ETH_P_IP.
const ETHERTYPE_IPV4: u16 = 0x0800;

/// What became of IPv4 packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// From the clients, handed to the model.
    pub outbound: u64,
    /// To the clients, handed to the model.
    pub inbound: u64,
    /// Sent on by the model, either way.
    pub carried: u64,
    /// Lost or cut on purpose before the model saw them.
    pub lost: u64,
    /// Larger than the MTU: cut into fragments, answered by ICMP, or dropped in a black hole.
    pub too_big: u64,
    /// ICMP "fragmentation needed" sent about those.
    pub icmp_sent: u64,
    /// Damaged, at the end of their time to live, or of a kind that no model knows.
    pub unfit: u64,
    /// For the box itself, or for an address that is not the model's now.
    pub not_ours: u64,
    /// The kernel would not send them.
    pub send_errors: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters {
            outbound,
            inbound,
            carried,
            ..
        } = self;
        write!(
            f,
            "packets: {outbound} from clients, {inbound} to them, {carried} carried"
        )?;
        for (count, what) in [
            (self.lost, "lost on purpose"),
            (self.too_big, "too big"),
            (self.icmp_sent, "answered by ICMP"),
            (self.unfit, "unfit"),
            (self.not_ours, "for somebody else"),
            (self.send_errors, "not sent"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// A box at work in the namespace where it was opened.
pub struct Carrier {
    /// Sees what arrives on every interface.
    tap: OwnedFd,
    /// Sends whole IPv4 packets.
    out: OwnedFd,
    control: UnixListener,
    socket: PathBuf,
    nat: Translator,
}

impl Carrier {
    /// Open the sockets: that of the requests too.
    pub fn open(model: Model, socket: &Path) -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let ethertype = std::num::NonZeroU32::from(
            std::num::NonZeroU16::new(ETHERTYPE_IPV4.to_be()).context("no ethertype")?,
        );
        let tap = socket_with(
            AddressFamily::PACKET,
            SocketType::DGRAM,
            flags,
            Some(Protocol::from_raw(ethertype)),
        )
        .context("cannot open a packet socket")?;
        sockopt::set_socket_recv_buffer_size_force(&tap, RECEIVE_BUFFER)?;
        let out = socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            flags,
            Some(ipproto::RAW),
        )
        .context("cannot open a raw socket")?;
        let control = UnixListener::bind(socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        control.set_nonblocking(true)?;
        let mut seed = [0; 32];
        std::io::Read::read_exact(&mut payload::random()?, &mut seed)?;
        let public: Ipv4Addr = NAT_WAN.parse()?;
        Ok(Carrier {
            tap,
            out,
            control,
            socket: socket.to_owned(),
            nat: Translator::new(model, public, ChaCha8Rng::from_seed(seed))?,
        })
    }

    /// Wait for something to do, at most for that long, and do it.
    pub fn turn(&mut self, limit: Duration) -> Result<()> {
        let due = self.nat.model.poll_timeout();
        let wait = due.map_or(limit, |due| due.saturating_sub(now()).min(limit));
        let mut fds = [
            PollFd::new(&self.tap, PollFlags::IN),
            PollFd::new(&self.control, PollFlags::IN),
        ];
        match poll(&mut fds, Some(&Timespec::try_from(wait)?)) {
            Err(Errno::INTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut buffer = [0; 1 << 16];
        for _ in 0..BATCH {
            match recv(&self.tap, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, len)) => self.nat.take(now(), &buffer[..len]),
                Err(Errno::AGAIN) => break,
                // An interface went down; it may come back.
                Err(Errno::NETDOWN | Errno::INTR) => {}
                Err(error) => return Err(error).context("the packet socket failed"),
            }
            self.send();
        }
        self.nat.handle_timeout(now());
        self.send();
        match self.control.accept() {
            // One that went away again is no matter of ours.
            Ok((stream, _)) => drop(request::serve(stream, |wish| self.nat.obey(now(), &wish))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("the control socket failed"),
        }
        Ok(())
    }

    fn send(&mut self) {
        for (to, bytes) in self.nat.leaving.drain(..) {
            let to = SocketAddrV4::new(to, 0);
            if sendto(&self.out, &bytes, SendFlags::empty(), &to).is_err() {
                self.nat.counters.send_errors += 1;
            }
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// CLOCK_BOOTTIME.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// A model with what a router does around it. No sockets.
struct Translator {
    model: Faulty,
    faults: Faults,
    rng: ChaCha8Rng,
    counters: Counters,
    /// Names packets for the model.
    next_id: u64,
    remaps: usize,
    lan: Ipv4Addr,
    output: Output,
    /// What is to be sent, and where.
    leaving: Vec<(Ipv4Addr, Vec<u8>)>,
}

impl Translator {
    fn new(model: Model, public: Ipv4Addr, rng: ChaCha8Rng) -> Result<Self> {
        Ok(Translator {
            model: Faulty::new(model.make(public)),
            faults: Faults::default(),
            rng,
            counters: Counters::default(),
            next_id: 0,
            remaps: 0,
            lan: NAT_LAN.parse()?,
            output: Output::default(),
            leaving: Vec::new(),
        })
    }

    /// A packet has arrived.
    fn take(&mut self, now: Duration, bytes: &[u8]) {
        let Ok(ip) = ipv4::Packet::new_checked(bytes) else {
            self.counters.unfit += 1;
            return;
        };
        let (src, dst) = (ip.src(), ip.dst());
        let way = if self.is_inside(src) {
            Direction::Outbound
        } else {
            Direction::Inbound
        };
        let for_us = match (way, self.model.public()) {
            (Direction::Outbound, _) => {
                !self.is_inside(dst) && !dst.is_multicast() && !dst.is_broadcast()
            }
            (Direction::Inbound, Some(public)) => IpAddr::V4(dst) == public,
            (Direction::Inbound, None) => self.is_inside(dst),
        };
        if !for_us || dst == self.lan {
            self.counters.not_ours += 1;
            return;
        }
        let lossy = u32::from(self.faults.loss);
        if self.faults.cut == Some(way) || (lossy > 0 && self.rng.next_u32() % 1000 < lossy) {
            self.counters.lost += 1;
            return;
        }
        let bytes = &bytes[..ip.total_len()];
        let mtu = self.mtu();
        if bytes.len() > usize::from(mtu) {
            self.counters.too_big += 1;
            if self.faults.black_hole {
                return;
            }
            if ip.dont_fragment() {
                self.complain(way, src, mtu, bytes);
                return;
            }
        }
        let Some(packet) =
            next_hop(ip, bytes).and_then(|bytes| Packet::new(bytes, self.next_id).ok())
        else {
            self.counters.unfit += 1;
            return;
        };
        self.next_id += 1;
        match way {
            Direction::Outbound => {
                self.counters.outbound += 1;
                self.model
                    .outbound(now, packet, &mut self.rng, &mut self.output);
            }
            Direction::Inbound => {
                self.counters.inbound += 1;
                self.model
                    .inbound(now, packet, &mut self.rng, &mut self.output);
            }
        }
        self.collect();
    }

    fn handle_timeout(&mut self, now: Duration) {
        if self.model.poll_timeout().is_some_and(|due| due <= now) {
            self.model
                .handle_timeout(now, &mut self.rng, &mut self.output);
            self.collect();
        }
    }

    fn collect(&mut self) {
        let mtu = usize::from(self.mtu());
        let packets = self
            .output
            .outside
            .drain(..)
            .chain(self.output.inside.drain(..));
        for packet in packets {
            if let IpAddr::V4(to) = packet.dst().ip() {
                self.counters.carried += 1;
                let bytes = packet.into_bytes();
                if bytes.len() <= mtu {
                    self.leaving.push((to, bytes));
                } else {
                    cut(&bytes, mtu, |fragment| self.leaving.push((to, fragment)));
                }
            }
        }
    }

    /// Bytes of the largest packet that leaves.
    fn mtu(&self) -> u16 {
        self.faults.mtu.unwrap_or(MTU)
    }

    /// RFC 1191 §4: what was too big, to whom, and how big the next hop takes it.
    fn complain(&mut self, way: Direction, to: Ipv4Addr, mtu: u16, offending: &[u8]) {
        let here = match (way, self.model.public()) {
            (Direction::Inbound, Some(public)) => public,
            _ => self.lan.into(),
        };
        let problem = Problem::TooBig { mtu: mtu.into() };
        let mut out = vec![0; usize::from(MTU)];
        if let Ok(Some(len)) = icmp::emit_error(here, problem, offending, &mut out) {
            out.truncate(len);
            self.leaving.push((to, out));
            self.counters.icmp_sent += 1;
        }
    }

    fn is_inside(&self, address: Ipv4Addr) -> bool {
        // The clients' network is a /24.
        address.octets()[..3] == self.lan.octets()[..3]
    }

    fn obey(&mut self, now: Duration, wish: &Request) -> Result<Shown> {
        match wish {
            Request::Crash => self.model.crash(),
            Request::Remap { address, ports } => self.remap(*address, *ports)?,
            Request::Faults(faults) => {
                if let Some(mtu) = faults.mtu.filter(|mtu| !(68..=MTU).contains(mtu)) {
                    bail!("an MTU is 68 (RFC 791) to {MTU} bytes, not {mtu}");
                }
                self.model.faults = faults.of_the_model();
                self.faults = faults.clone();
            }
            Request::Show => {}
        }
        let rows = self.model.show(now);
        Ok(Shown {
            nat: self.model.name().to_owned(),
            public: self.model.public(),
            faults: Some(self.faults.clone()),
            counters: Some(self.counters),
            table: nat::table(&rows),
            entries: rows
                .iter()
                .map(serde_json::to_value)
                .collect::<Result<_, _>>()?,
        })
    }

    fn remap(&mut self, address: Option<Ipv4Addr>, ports: bool) -> Result<()> {
        if self.model.public().is_none() {
            bail!(
                "{} does not translate: there is nothing to remap",
                self.model.name()
            );
        }
        let ports = ports.then(|| {
            self.remaps += 1;
            RANGES[(self.remaps - 1) % RANGES.len()].clone()
        });
        self.model.remap(&Remap {
            address: address.map(IpAddr::V4),
            ports,
        });
        Ok(())
    }
}

/// The packet as a router sends it on: its time to live is one less. None: that is at its end, or
/// the packet is damaged.
fn next_hop(ip: ipv4::Packet<'_>, bytes: &[u8]) -> Option<Vec<u8>> {
    if !ip.checksum_ok() {
        return None;
    }
    let mut bytes = bytes.to_vec();
    let left = ipv4::decrement_ttl(&mut bytes).ok()?;
    (left > 0).then_some(bytes)
}

/// Its fragments, in order.
fn cut(packet: &[u8], mtu: usize, mut each: impl FnMut(Vec<u8>)) {
    let mut from = Some(0);
    while let Some(at) = from {
        let mut out = vec![0; mtu];
        // An MTU has room for a header and 8 bytes: 68 is the least.
        let Ok(fragment) = emit_fragment(packet, at, mtu, &mut out) else {
            return;
        };
        out.truncate(fragment.len);
        each(out);
        from = fragment.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mitregate_wire::{
        icmp::{Family, Message},
        udp,
    };

    const NOW: Duration = Duration::from_secs(1);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
    const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

    fn translator(model: Model) -> Translator {
        Translator::new(model, PUBLIC, ChaCha8Rng::from_seed([7; 32])).unwrap()
    }

    /// A datagram between ports 500 with a payload of that length.
    fn datagram(src: Ipv4Addr, dst: Ipv4Addr, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; 28 + len];
        ipv4::Header::new(src, dst, 17)
            .emit(8 + len, &mut bytes)
            .unwrap();
        let ports = udp::Header {
            src_port: 500,
            dst_port: 500,
        };
        ports.emit(len, &mut bytes[20..]).unwrap();
        udp::fill_checksum(src.into(), dst.into(), &mut bytes[20..]).unwrap();
        bytes
    }

    /// What leaves for it: to whom and from whom.
    fn through(nat: &mut Translator, bytes: &[u8]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        nat.take(NOW, bytes);
        let leaving = nat.leaving.drain(..);
        leaving
            .map(|(to, bytes)| {
                let ip = ipv4::Packet::new_checked(&bytes).unwrap();
                assert!(ip.checksum_ok());
                assert_eq!((ip.ttl(), ip.dst()), (63, to));
                let datagram = udp::Datagram::new_checked(ip.payload()).unwrap();
                assert!(datagram.checksum_ok(ip.src().into(), ip.dst().into()));
                (ip.src(), to)
            })
            .collect()
    }

    #[test]
    fn what_was_asked_for_gets_back_in() {
        let mut nat = translator(Model::ConntrackGeneric);
        let answer = datagram(SERVER, PUBLIC, 9);
        assert_eq!(through(&mut nat, &answer), []);
        let request = datagram(CLIENT, SERVER, 9);
        assert_eq!(through(&mut nat, &request), [(PUBLIC, SERVER)]);
        assert_eq!(through(&mut nat, &answer), [(SERVER, CLIENT)]);
        let shown = nat.obey(NOW, &Request::Show).unwrap();
        assert_eq!(shown.entries.len(), 1);
        nat.obey(NOW, &Request::Crash).unwrap();
        assert_eq!(through(&mut nat, &answer), []);
        let counters = nat.counters;
        assert_eq!(
            (counters.outbound, counters.inbound, counters.carried),
            (1, 3, 2)
        );
    }

    #[test]
    fn a_remapped_box_is_found_at_its_new_address_only() {
        let mut nat = translator(Model::ConntrackGeneric);
        let address = Ipv4Addr::new(203, 0, 113, 3);
        let remap = Request::Remap {
            address: Some(address),
            ports: false,
        };
        assert_eq!(nat.obey(NOW, &remap).unwrap().public, Some(address.into()));
        let request = datagram(CLIENT, SERVER, 9);
        assert_eq!(through(&mut nat, &request), [(address, SERVER)]);
        assert_eq!(through(&mut nat, &datagram(SERVER, PUBLIC, 9)), []);
        assert_eq!(nat.counters.not_ours, 1);
    }

    #[test]
    fn ports_move_with_each_remap_of_ports() {
        let mut nat = translator(Model::ConntrackGeneric);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let remap = Request::Remap {
                address: None,
                ports: true,
            };
            nat.obey(NOW, &remap).unwrap();
            nat.take(NOW, &datagram(CLIENT, SERVER, 9));
            let (_, bytes) = nat.leaving.pop().unwrap();
            let port = u16::from_be_bytes([bytes[20], bytes[21]]);
            seen.push(RANGES.iter().position(|range| range.contains(&port)));
        }
        assert_eq!(seen, [Some(0), Some(1), Some(0)]);
    }

    #[test]
    fn too_big_is_answered_unless_it_is_a_black_hole() {
        let mut nat = translator(Model::ConntrackGeneric);
        let mut faults = Faults {
            mtu: Some(1300),
            ..Faults::default()
        };
        nat.obey(NOW, &Request::Faults(faults.clone())).unwrap();
        let fits = datagram(CLIENT, SERVER, 1300 - 28);
        assert_eq!(through(&mut nat, &fits), [(PUBLIC, SERVER)]);
        let big = datagram(CLIENT, SERVER, 1301 - 28);
        nat.take(NOW, &big);
        let (to, bytes) = nat.leaving.pop().unwrap();
        assert_eq!(to, CLIENT);
        let ip = ipv4::Packet::new_checked(&bytes).unwrap();
        let message = Message::new_checked(Family::V4, ip.payload()).unwrap();
        assert_eq!(message.next_hop_mtu(), Some(1300));
        // RFC 1122 §3.2.2: the packet as it was sent.
        assert!(message.quoted().unwrap().starts_with(&big[..28]));

        faults.black_hole = true;
        nat.obey(NOW, &Request::Faults(faults)).unwrap();
        assert_eq!(through(&mut nat, &big), []);
        assert_eq!((nat.counters.too_big, nat.counters.icmp_sent), (2, 1));
        let tiny = Faults {
            mtu: Some(67),
            ..Faults::default()
        };
        assert!(nat.obey(NOW, &Request::Faults(tiny)).is_err());
    }

    #[test]
    fn what_may_be_cut_is_cut() {
        let mut nat = translator(Model::ConntrackGeneric);
        nat.obey(
            NOW,
            &Request::Faults(Faults {
                mtu: Some(1000),
                ..Faults::default()
            }),
        )
        .unwrap();
        let mut big = datagram(CLIENT, SERVER, 1472);
        let header = ipv4::Header {
            dont_fragment: false,
            id: 9,
            ..ipv4::Header::new(CLIENT, SERVER, 17)
        };
        header.emit(1480, &mut big).unwrap();
        nat.take(NOW, &big);
        let parts: Vec<_> = nat.leaving.drain(..).collect();
        let view = |at: usize| ipv4::Packet::new_checked(&parts[at].1).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!((view(0).src(), view(1).src()), (PUBLIC, PUBLIC));
        assert!(view(0).more_fragments() && !view(1).more_fragments());
        let whole = [view(0).payload(), view(1).payload()].concat();
        let whole = udp::Datagram::new_checked(&whole).unwrap();
        assert!(whole.checksum_ok(PUBLIC.into(), SERVER.into()));
    }

    #[test]
    fn a_cut_is_one_way() {
        let mut nat = translator(Model::ConntrackGeneric);
        let faults = Faults {
            cut: Some(Direction::Inbound),
            ..Faults::default()
        };
        nat.obey(NOW, &Request::Faults(faults)).unwrap();
        let request = datagram(CLIENT, SERVER, 9);
        assert_eq!(through(&mut nat, &request), [(PUBLIC, SERVER)]);
        let answer = datagram(SERVER, PUBLIC, 9);
        assert_eq!(through(&mut nat, &answer), []);
        nat.obey(NOW, &Request::Faults(Faults::default())).unwrap();
        assert_eq!(through(&mut nat, &answer), [(SERVER, CLIENT)]);
        assert_eq!(nat.counters.lost, 1);
    }

    #[test]
    fn what_a_router_drops_is_dropped() {
        let mut nat = translator(Model::ConntrackGeneric);
        let good = datagram(CLIENT, SERVER, 9);
        let mut old = good.clone();
        ipv4::Header {
            ttl: 1,
            ..ipv4::Header::new(CLIENT, SERVER, 17)
        }
        .emit(17, &mut old)
        .unwrap();
        let mut damaged = good.clone();
        damaged[4] ^= 1;
        for (bytes, unfit, not_ours) in [
            (&old[..], 1, 0),
            (&damaged, 2, 0),
            (&good[..19], 3, 0),
            // For the box itself, for a neighbour, for everybody.
            (&datagram(CLIENT, nat.lan, 9), 3, 1),
            (&datagram(CLIENT, Ipv4Addr::new(192, 168, 1, 3), 9), 3, 2),
            (&datagram(CLIENT, Ipv4Addr::BROADCAST, 9), 3, 3),
            (&datagram(CLIENT, Ipv4Addr::new(224, 0, 0, 22), 9), 3, 4),
        ] {
            assert_eq!(through(&mut nat, bytes), []);
            let Counters {
                unfit: u,
                not_ours: n,
                ..
            } = nat.counters;
            assert_eq!((u, n), (unfit, not_ours));
        }
    }
}
