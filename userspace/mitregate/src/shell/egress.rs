//! Towards the peers: whole frames for IKE, outer headers for epochs, both made from the kernel's
//! next hops and made anew when those change.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mitregate_control::{Encap, Outer};
use mitregate_dataplane::{
    Command, DfPolicy, DscpPolicy, OuterAddrs, OuterHeader, UdpPorts, WorkerHandle,
};
use mitregate_esp::ids::{EpochId, TunnelId};
use mitregate_wire::eth::{EtherType, Header};
use mitregate_wire::frame::{EspFrame, UdpFrame, emit_esp, emit_udp};
use mitregate_wire::ip::TrafficClass;

use crate::net::nexthop::{NextHops, Path};

/// RFC 1122 §3.2.1.7 asks for enough; 64 is the common default.
const TTL: u8 = 64;
/// Datagrams that wait for an address resolution, over all peers; the oldest goes first.
const MAX_WAITING: usize = 64;
/// Peers whose next hop is followed. Beyond that, those without an epoch are forgotten.
const MAX_TRACKED: usize = 4096;
/// A peer without an epoch is forgotten when nothing was sent to it for this long.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// All that leaves on the outer port, except data.
pub struct Egress {
    hops: NextHops,
    epochs: BTreeMap<(TunnelId, EpochId), Outer>,
    last_sent: BTreeMap<IpAddr, Duration>,
    waiting: VecDeque<Datagram>,
    commands: VecDeque<Command>,
    /// Datagrams and echoes that did not leave, for want of a way or of a buffer.
    dropped: u64,
    /// How many of them the log knows of.
    told: u64,
}

struct Datagram {
    local: SocketAddr,
    remote: SocketAddr,
    payload: Vec<u8>,
}

impl Egress {
    pub fn new(hops: NextHops) -> Self {
        Self {
            hops,
            epochs: BTreeMap::new(),
            last_sent: BTreeMap::new(),
            waiting: VecDeque::new(),
            commands: VecDeque::new(),
            dropped: 0,
            told: 0,
        }
    }

    pub fn hops(&mut self) -> &mut NextHops {
        &mut self.hops
    }

    pub fn into_hops(self) -> NextHops {
        self.hops
    }

    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A packet did not leave because the worker is behind and has all buffers.
    pub fn count_dropped(&mut self) {
        self.dropped += 1;
    }

    /// Puts a command behind those that wait, and hands over as many as the ring takes.
    pub fn command(&mut self, worker: &WorkerHandle, command: Command) {
        self.commands.push_back(command);
        self.flush(worker);
    }

    /// Hands over what waits. False if the ring is full.
    pub fn flush(&mut self, worker: &WorkerHandle) -> bool {
        while let Some(command) = self.commands.pop_front() {
            if let Err(command) = worker.send(command) {
                self.commands.push_front(command);
                return false;
            }
        }
        true
    }

    /// Sends a UDP datagram, or from port 0 an ESP packet, now or when its next hop is known.
    pub async fn transmit(
        &mut self,
        worker: &WorkerHandle,
        now: Duration,
        local: SocketAddr,
        remote: SocketAddr,
        payload: Vec<u8>,
    ) {
        self.last_sent.insert(remote.ip(), now);
        let path = self.path(remote.ip()).await;
        let datagram = Datagram {
            local,
            remote,
            payload,
        };
        match path {
            Some(path) if path.mac.is_some() => self.send(worker, &datagram, path),
            Some(path) => {
                tracing::debug!(%remote, next_hop = %path.next_hop, "waits for address resolution");
                if self.waiting.len() >= MAX_WAITING {
                    self.waiting.pop_front();
                    self.dropped += 1;
                }
                self.waiting.push_back(datagram);
            }
            None => {
                tracing::debug!(%remote, interface = self.hops.outer().name, "no route to the peer");
                self.dropped += 1;
            }
        }
    }

    /// The outer header of a new epoch, which is kept current from now on.
    pub async fn install(
        &mut self,
        tunnel: TunnelId,
        epoch: EpochId,
        outer: Outer,
    ) -> Option<OuterHeader> {
        self.epochs.insert((tunnel, epoch), outer);
        let path = self.path(outer.remote.ip()).await;
        self.header(&outer, path)
    }

    /// The outer header of one packet that takes another way than its epoch's; `None` while the next hop
    /// is not known.
    pub async fn header_to(&mut self, outer: &Outer) -> Option<OuterHeader> {
        let path = self.path(outer.remote.ip()).await;
        self.header(outer, path)
    }

    /// The peer of an epoch is elsewhere.
    pub async fn move_peer(
        &mut self,
        worker: &WorkerHandle,
        tunnel: TunnelId,
        epoch: EpochId,
        outer: Outer,
    ) {
        let header = self.install(tunnel, epoch, outer).await;
        self.command(
            worker,
            Command::SetOuter {
                tunnel,
                epoch: Some(epoch),
                outer: header,
            },
        );
    }

    /// An epoch is gone.
    pub fn retire(&mut self, tunnel: TunnelId, epoch: EpochId) {
        self.epochs.remove(&(tunnel, epoch));
    }

    /// Looks at the kernel's routes and neighbours again. True if a way that was known has become
    /// another one.
    pub async fn routes_changed(&mut self, worker: &WorkerHandle) -> bool {
        let before = self.known_paths();
        match self.hops.refresh().await {
            Ok(changed) => self.apply(worker, &before, &changed),
            Err(error) => {
                tracing::warn!("cannot follow the kernel's routes: {error:#}");
                false
            }
        }
    }

    /// Applies what events have said about neighbours; as [`Self::routes_changed`].
    pub async fn neighbours_changed(&mut self, worker: &WorkerHandle) -> bool {
        let before = self.known_paths();
        let changed = self.hops.apply_neighbours().await;
        self.apply(worker, &before, &changed)
    }

    fn known_paths(&self) -> BTreeMap<IpAddr, Path> {
        let peers = self.epochs.values().map(|outer| outer.remote.ip());
        peers
            .filter_map(|peer| Some((peer, self.hops.path(peer)?)))
            .filter(|(_, path)| path.mac.is_some())
            .collect()
    }

    fn apply(
        &mut self,
        worker: &WorkerHandle,
        before: &BTreeMap<IpAddr, Path>,
        changed: &[IpAddr],
    ) -> bool {
        if changed.is_empty() {
            return false;
        }
        self.set_headers(worker, |peer| changed.contains(&peer));
        for datagram in std::mem::take(&mut self.waiting) {
            match self.hops.path(datagram.remote.ip()) {
                Some(path) if path.mac.is_some() => self.send(worker, &datagram, path),
                Some(_) => self.waiting.push_back(datagram),
                None => self.dropped += 1,
            }
        }
        changed.iter().any(|peer| {
            let now = self.hops.path(*peer);
            before.get(peer).is_some_and(|path| now != Some(*path))
        })
    }

    /// Makes all headers anew: the outer interface itself has changed.
    pub fn outer_changed(&mut self, worker: &WorkerHandle) {
        self.set_headers(worker, |_| true);
    }

    /// Has neighbours in use confirmed, and forgets peers that are not.
    pub async fn tend(&mut self, now: Duration) {
        if self.dropped > self.told {
            // Not one by one: whoever floods us must not fill the log as well.
            let dropped = self.dropped - self.told;
            self.told = self.dropped;
            tracing::info!(
                dropped,
                "control packets did not leave (no way, or too many of them)"
            );
        }
        let Self {
            epochs, last_sent, ..
        } = self;
        last_sent.retain(|_, sent| now.saturating_sub(*sent) < FORGET_AFTER);
        let in_use = |peer| {
            last_sent.contains_key(&peer) || epochs.values().any(|outer| outer.remote.ip() == peer)
        };
        self.hops.retain(in_use);
        self.hops.confirm().await;
    }

    async fn path(&mut self, peer: IpAddr) -> Option<Path> {
        if !self.hops.tracks(peer) && self.hops.tracked() >= MAX_TRACKED {
            let Self {
                epochs, last_sent, ..
            } = self;
            last_sent.retain(|known, _| *known == peer);
            self.hops
                .retain(|known| epochs.values().any(|outer| outer.remote.ip() == known));
        }
        match self.hops.track(peer).await {
            Ok(path) => path,
            Err(error) => {
                tracing::debug!(%peer, "cannot look up the way to the peer: {error:#}");
                None
            }
        }
    }

    fn set_headers(&mut self, worker: &WorkerHandle, which: impl Fn(IpAddr) -> bool) {
        let headers: Vec<_> = self
            .epochs
            .iter()
            .filter(|(_, outer)| which(outer.remote.ip()))
            .map(|((tunnel, epoch), outer)| {
                let path = self.hops.path(outer.remote.ip());
                (*tunnel, *epoch, self.header(outer, path))
            })
            .collect();
        for (tunnel, epoch, outer) in headers {
            self.command(
                worker,
                Command::SetOuter {
                    tunnel,
                    epoch: Some(epoch),
                    outer,
                },
            );
        }
    }

    fn header(&self, outer: &Outer, path: Option<Path>) -> Option<OuterHeader> {
        let link = self.hops.outer();
        Some(OuterHeader {
            src_mac: link.mac?,
            dst_mac: path?.mac?,
            vlan: None,
            addrs: OuterAddrs::new(outer.local.ip(), outer.remote.ip())?,
            udp: match outer.encap {
                Encap::Esp => None,
                Encap::Udp => Some(UdpPorts {
                    src: outer.local.port(),
                    dst: outer.remote.port(),
                }),
            },
            ttl: TTL,
            df: DfPolicy::default(),
            dscp: DscpPolicy::default(),
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        })
    }

    fn send(&mut self, worker: &WorkerHandle, datagram: &Datagram, path: Path) {
        let (Some(mut frame), Some(src), Some(dst)) =
            (worker.buffer(), self.hops.outer().mac, path.mac)
        else {
            self.dropped += 1;
            return;
        };
        let eth = Header::new(dst, src, EtherType::IPV4);
        let traffic_class = TrafficClass::default();
        let written = if datagram.local.port() == 0 {
            let esp = EspFrame {
                eth,
                src: datagram.local.ip(),
                dst: datagram.remote.ip(),
                hop_limit: TTL,
                traffic_class,
                packet: &datagram.payload,
            };
            emit_esp(&esp, frame.room())
        } else {
            let udp = UdpFrame {
                eth,
                src: datagram.local,
                dst: datagram.remote,
                hop_limit: TTL,
                traffic_class,
                payload: &datagram.payload,
            };
            emit_udp(&udp, frame.room())
        };
        match written {
            Ok(len) => {
                frame.set_len(len);
                self.command(worker, Command::SendOuter { frame });
            }
            Err(error) => {
                tracing::warn!(
                    bytes = datagram.payload.len(),
                    "datagram does not fit: {error}"
                );
                self.dropped += 1;
            }
        }
    }
}
