//! What happens to a burst of packets: tables and frames in, frames and events out, no IO.

mod commands;
mod inbound;
mod mss;
mod outbound;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crossbeam::queue::ArrayQueue;
use mitregate_esp::ids::WorkerId;
use mitregate_wire::{
    MacAddr,
    eth::{self, EtherType},
};
use mitregate_xsk::{Frame, Port};

use crate::{
    buf::{ControlBuf, ControlBufs},
    event::Event,
    fate::{Fate, Fates},
    frames::{Frames, Memory, Side, TxQueue},
    tables::Tables,
};

/// Most packets of one burst.
pub const MAX_BURST: usize = 64;

/// Packets that may wait for a port whose transmit ring is full.
const TX_BACKLOG: usize = 256;

/// Shortest time between two ICMP errors: 1000 in a second (RFC 1812 §4.3.2.8 asks for a limit).
const ICMP_INTERVAL: Duration = Duration::from_millis(1);

/// The Ethernet link behind the inner port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerLink {
    /// Source of the frames that the worker sends: our end.
    pub src_mac: MacAddr,
    /// Their destination: the host's end, or the next hop.
    pub dst_mac: MacAddr,
    /// Bytes of the largest IP packet that it takes.
    pub mtu: u16,
    /// Who forwards.
    pub hop: Hop,
}

/// Whether crossing the worker is a hop of its own (RFC 4301 §5.1.2.1, RFC 2003 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hop {
    /// The host's kernel is behind the inner port. It decrements the TTL of what it forwards into
    /// the tunnel or out of it, and leaves its own packets alone, which is all that the RFCs ask of
    /// a tunnel's end. So the worker changes no TTL, and a tunnel is one hop, as with kernel IPsec.
    #[default]
    Host,
    /// The inner port is a NIC and the worker itself forwards: it decrements, both ways.
    Forward,
}

/// The time of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Tick {
    now: Duration,
    /// The same in nanoseconds.
    ns: u64,
}

impl Tick {
    fn new(now: Duration) -> Self {
        Self {
            now,
            ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

/// What a pipeline is made for.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// Which worker: inbound SPIs of its SAs carry this in their top byte.
    pub worker: WorkerId,
    /// How many workers there are.
    pub workers: u8,
    /// Tunnels to have room for.
    pub max_tunnels: usize,
    /// Epochs to have room for.
    pub max_epochs: usize,
    /// Frames that all tunnels together may hold.
    pub max_held: usize,
    /// ESP next headers, beside IP, that the control plane wants to see.
    pub control_next_headers: Vec<u8>,
    /// The inner link.
    pub inner: InnerLink,
    /// Whether the MSS of TCP connections is lowered to what the tunnel carries.
    pub mss_clamp: bool,
}

/// The way of events to the control thread.
#[derive(Clone)]
pub struct EventSink {
    /// What the control thread polls.
    pub ring: Arc<ArrayQueue<Event>>,
    /// Where its packets are copied to.
    pub bufs: ControlBufs,
    /// Where it reads the counters.
    pub fates: Arc<Fates>,
}

/// Events on their way out.
struct Events {
    sink: EventSink,
    /// Events that carry what the worker must not free, waiting for room in the ring.
    pending: VecDeque<Event>,
    raised: bool,
}

impl Events {
    /// `false` if there is no room; the event is then lost.
    fn offer(&mut self, event: Event) -> bool {
        let sent = self.pending.is_empty() && self.sink.ring.push(event).is_ok();
        self.raised |= sent;
        sent
    }

    /// For events that carry boxes: waits for room.
    fn give(&mut self, event: Event) {
        self.pending.push_back(event);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(event) = self.pending.pop_front() {
            if let Err(event) = self.sink.ring.push(event) {
                self.pending.push_front(event);
                return;
            }
            self.raised = true;
        }
    }

    /// Whether there is room for what nobody vouches for. It leaves a quarter of the buffers and of
    /// the ring, so that a flood of it keeps no answered ping, and no answer of ours, from its way.
    fn room_for_strangers(&self) -> bool {
        let (bufs, ring) = (&self.sink.bufs, &self.sink.ring);
        bufs.free() > bufs.count() / 4 && ring.len() < ring.capacity() - ring.capacity() / 4
    }

    /// A buffer with these bytes.
    fn copy(&self, bytes: &[u8]) -> Option<ControlBuf> {
        let mut buf = self.sink.bufs.take()?;
        buf.set(bytes).then_some(buf)
    }
}

/// What is to become of a frame.
///
/// A burst is decided on first and moved afterwards: a frame that was just written to, in small
/// pieces, is slow to move.
#[derive(Clone, Copy)]
enum Verdict {
    /// To the port on the other side.
    Send,
    /// To the pool.
    End(Fate),
    /// Into this tunnel's hold queue.
    Hold(u32),
    /// To another worker, whose SA it is for.
    Stray(WorkerId),
}

/// One worker's packet processing. Owned by one thread, or by none: it has no IO, and takes the
/// time from its caller.
pub struct Pipeline {
    config: PipelineConfig,
    /// Membership of `config.control_next_headers`.
    wanted: [bool; 256],
    tables: Tables,
    frames: Frames,
    fates: Arc<Fates>,
    events: Events,
    outer_tx: TxQueue,
    inner_tx: TxQueue,
    /// Findings and decisions of a burst; empty between two.
    inspected: Vec<inbound::Inspected>,
    verdicts: Vec<Verdict>,
    /// The Ethernet header of every frame to the inner port, but for the EtherType.
    inner_macs: [u8; 12],
    /// Identification of outer IPv4 packets. One sequence for all SAs, since RFC 6864 §4.3 wants it
    /// unique per source, destination and protocol, which SAs share.
    ip_id: u16,
    held: usize,
    next_icmp: Duration,
}

impl Pipeline {
    /// Allocates all that it will ever need.
    pub fn new(config: PipelineConfig, memory: Memory, sink: EventSink) -> Self {
        let mut wanted = [false; 256];
        for &next_header in &config.control_next_headers {
            wanted[usize::from(next_header)] = true;
        }
        let mut inner_macs = [0; 12];
        inner_macs[..6].copy_from_slice(&config.inner.dst_mac.0);
        inner_macs[6..].copy_from_slice(&config.inner.src_mac.0);
        let burst = config.max_held;
        Self {
            wanted,
            tables: Tables::new(config.max_tunnels, config.max_epochs),
            frames: Frames::new(memory),
            fates: Arc::clone(&sink.fates),
            events: Events {
                sink,
                pending: VecDeque::with_capacity(32),
                raised: false,
            },
            outer_tx: TxQueue::new(TX_BACKLOG, burst, Fate::ControlSent, Fate::Sealed),
            inner_tx: TxQueue::new(TX_BACKLOG, 0, Fate::IcmpSent, Fate::Opened),
            inspected: Vec::with_capacity(MAX_BURST),
            verdicts: Vec::with_capacity(MAX_BURST),
            inner_macs,
            ip_id: u16::from(config.worker.0) << 12,
            held: 0,
            next_icmp: Duration::ZERO,
            config,
        }
    }

    /// Its counters, which may be read from any thread.
    pub fn fates(&self) -> &Arc<Fates> {
        &self.fates
    }

    /// Frames that tunnels hold.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Packets copied because the ports share no UMEM.
    pub fn copied(&self) -> u64 {
        self.frames.copied
    }

    /// Packets that wait for a transmit ring, outer and inner.
    pub fn backlog(&self) -> usize {
        self.outer_tx.len() + self.inner_tx.len()
    }

    /// Whether commands may be applied: all that the last ones gave back has been handed over.
    pub fn takes_commands(&mut self) -> bool {
        self.events.flush();
        self.events.pending.is_empty()
    }

    /// Whether an event that must not be lost waits for the control thread.
    pub fn has_pending_events(&self) -> bool {
        !self.events.pending.is_empty()
    }

    /// Whether events were raised since the last call.
    pub fn take_raised(&mut self) -> bool {
        std::mem::take(&mut self.events.raised)
    }

    /// Whether ports may be short of frames to receive into.
    pub fn short_of_frames(&self) -> bool {
        self.frames.short()
    }

    /// Frames free in all pools.
    pub fn free_frames(&self) -> usize {
        self.frames.free()
    }

    /// Puts what the ports have sent back into the pools.
    #[inline]
    pub fn reclaim<O: Port, I: Port>(&mut self, outer: &mut O, inner: &mut I) {
        outer.reclaim(self.frames.pool(Side::Outer));
        inner.reclaim(self.frames.pool(Side::Inner));
    }

    /// Posts free frames to receive into.
    #[inline]
    pub fn refill<O: Port, I: Port>(&mut self, outer: &mut O, inner: &mut I) {
        outer.refill(self.frames.pool(Side::Outer));
        inner.refill(self.frames.pool(Side::Inner));
    }

    /// The same for the outer port alone.
    #[inline]
    pub fn refill_outer<O: Port>(&mut self, outer: &mut O) {
        outer.refill(self.frames.pool(Side::Outer));
    }

    /// Hands to the ports what waits for them, and says how many packets they took.
    #[inline]
    pub fn transmit<O: Port, I: Port>(&mut self, outer: &mut O, inner: &mut I) -> usize {
        self.outer_tx.flush(outer, &self.fates) + self.inner_tx.flush(inner, &self.fates)
    }

    /// Ends what waits for a port or is held, so that every frame is in a pool or with a port.
    pub fn close(&mut self) {
        let waiting = self.outer_tx.drain().chain(self.inner_tx.drain());
        for frame in waiting {
            self.frames.put(frame);
            self.fates.count(Fate::TxFull);
        }
        for tunnel in self.tables.tunnels_mut() {
            for frame in tunnel.held.drain(..) {
                self.frames.put(frame);
                self.fates.count(Fate::HoldDropped);
            }
        }
        self.held = 0;
    }

    /// Hands a stray to its owner. There is no ring to another worker yet, so it ends here.
    #[cold]
    fn hand_over(&mut self, owner: WorkerId, frame: Frame) {
        debug_assert_ne!(owner, self.config.worker);
        self.end(frame, Fate::Stray);
    }

    #[cold]
    fn end(&mut self, frame: Frame, fate: Fate) {
        self.frames.put(frame);
        self.fates.count(fate);
    }

    /// Moves the frames of a burst to where it was decided that they go, those to be sent to the
    /// port of `side`.
    #[inline(always)]
    fn dispatch(&mut self, frames: &mut Vec<Frame>, verdicts: Vec<Verdict>, side: Side) {
        let mut verdicts = verdicts;
        let all_go = verdicts
            .iter()
            .all(|verdict| matches!(verdict, Verdict::Send));
        if all_go && self.frames.is_shared() && self.queue(side).take_all(frames) {
            verdicts.clear();
        }
        for (frame, verdict) in frames.drain(..).zip(verdicts.drain(..)) {
            match verdict {
                Verdict::Send => self.send_data(frame, side),
                Verdict::End(fate) => self.end(frame, fate),
                Verdict::Hold(tunnel) => self.hold(tunnel, frame),
                Verdict::Stray(owner) => self.hand_over(owner, frame),
            }
        }
        self.verdicts = verdicts;
    }

    fn send_data(&mut self, frame: Frame, side: Side) {
        if !self.frames.is_shared() {
            return self.send_copy(frame, side);
        }
        if let Err(frame) = self.queue(side).push(frame) {
            self.end(frame, Fate::TxFull);
        }
    }

    /// [`Pipeline::send_data`] where the ports share no memory.
    #[cold]
    fn send_copy(&mut self, frame: Frame, side: Side) {
        let Some(frame) = self.frames.cross(frame, side) else {
            return self.fates.count(Fate::NoFrames);
        };
        if let Err(frame) = self.queue(side).push(frame) {
            self.end(frame, Fate::TxFull);
        }
    }

    #[inline(always)]
    fn queue(&mut self, side: Side) -> &mut TxQueue {
        match side {
            Side::Outer => &mut self.outer_tx,
            Side::Inner => &mut self.inner_tx,
        }
    }

    fn send_control(&mut self, frame: Frame, side: Side) {
        if let Err(frame) = self.queue(side).push_control(frame) {
            self.end(frame, Fate::TxFull);
        }
    }
}

/// Writes the Ethernet header of the inner link before the IP packet that starts at `ip`; `None` if
/// there is no room. Returns where the frame starts.
#[inline]
fn write_link(
    macs: &[u8; 12],
    chunk: &mut [u8],
    ip: usize,
    ether_type: EtherType,
) -> Option<usize> {
    let start = ip.checked_sub(eth::HEADER_LEN)?;
    let header = chunk
        .get_mut(start..)?
        .first_chunk_mut::<{ eth::HEADER_LEN }>()?;
    header[..12].copy_from_slice(macs);
    header[12..].copy_from_slice(&ether_type.0.to_be_bytes());
    Some(start)
}
