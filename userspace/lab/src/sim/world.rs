//! Hosts, boxes and links in one thread, under virtual time and from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mitregate_control::{Command, ListView, Ticket, TunnelView};
use mitregate_wire::icmp::{self, Problem};
use mitregate_wire::ike::{ExchangeType, Header, IkeSpi};
use mitregate_wire::ipv4;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tracing::Level;

use super::digest::Digest;
use super::host::{Deed, Host, HostSpec};
use super::link::{Crossing, Link};
use super::packet::{Content, Inner, content};
use super::referee::{Referee, misdelivered};
use super::trace::{Entry, Trace};
use super::watch;
use crate::nat::{Faulty, Middlebox, Output, Packet, Remap};

/// Where something is attached: to the open network, or behind a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Host(usize),
    Box(usize),
}

struct Attachment {
    link: Link,
    /// The box that it is behind.
    parent: Option<usize>,
}

struct HostSlot {
    spec: HostSpec,
    host: Host,
    up: bool,
    lives: u64,
    seed: u64,
}

/// One stream of inner packets.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Sending host.
    pub from: usize,
    /// Receiving host.
    pub to: usize,
    /// Inner source.
    pub src: Ipv4Addr,
    /// Inner destination.
    pub dst: Ipv4Addr,
    /// Bytes of each packet, at least 56.
    pub len: usize,
    /// One packet each; `None`: it rests.
    pub every: Option<Duration>,
    /// So many were sent, numbered from 1.
    pub sent: u64,
    /// Those that came out, in that order.
    pub received: Vec<u64>,
    /// When they came out.
    pub arrivals: Vec<Duration>,
    next: Duration,
    seen: BTreeMap<u64, u64>,
}

impl Flow {
    /// Notes that a packet came out; false if it had before.
    fn note(&mut self, now: Duration, sequence: u64) -> bool {
        let word = self.seen.entry(sequence / 64).or_default();
        let bit = 1 << (sequence % 64);
        let new = *word & bit == 0;
        *word |= bit;
        self.received.push(sequence);
        self.arrivals.push(now);
        new
    }
}

/// One direction of a packet's way, at the end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Has crossed this place's link towards the network.
    Up(Place),
    /// Has crossed this place's link towards it.
    Down(Place),
}

/// Why a run is no good: when, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Virtual time since the start of the run.
    pub at: Duration,
    /// What was found.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {:.3} s: {}", self.at.as_secs_f64(), self.what)
    }
}

impl std::error::Error for Violation {}

/// See the [module](self).
pub struct World {
    /// Virtual time. It does not begin at zero, nor does a machine's.
    pub now: Duration,
    /// What the tunnels carry.
    pub flows: Vec<Flow>,
    /// The books.
    pub referee: Referee,
    /// Warnings and errors that this scenario is about: substrings.
    pub announced: Vec<&'static str>,
    /// What happened, if it is to be shown.
    pub trace: Option<Trace>,
    /// Of all that happened.
    pub digest: Digest,
    /// Packets that hosts have sent.
    pub packets: u64,
    /// Answers to pings that came out of tunnels: host, identifier and sequence number.
    pub pongs: Vec<(usize, u16, u16)>,
    /// Requests that set up IKE SAs: for each SPI that an initiator chose, exchange types and message IDs.
    pub openings: BTreeMap<IkeSpi, BTreeSet<(ExchangeType, u32)>>,
    rng: ChaCha20Rng,
    hosts: Vec<HostSlot>,
    boxes: Vec<Faulty>,
    attached: BTreeMap<Place, Attachment>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    under_way: BTreeMap<u64, (Step, Packet)>,
    next_transit: u64,
    next_id: u64,
    violation: Option<Violation>,
    deeds: Vec<Deed>,
    /// Hosts whose first outputs were not taken yet.
    fresh: Vec<usize>,
}

/// Who complains of packets that are too big.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

/// When every run begins.
pub const START: Duration = Duration::from_secs(1000);

impl World {
    /// An empty one. What it draws for the network is apart from what hosts draw.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            now: START,
            flows: Vec::new(),
            referee: Referee::default(),
            announced: Vec::new(),
            trace: None,
            digest: Digest::default(),
            packets: 0,
            pongs: Vec::new(),
            openings: BTreeMap::new(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            hosts: Vec::new(),
            boxes: Vec::new(),
            attached: BTreeMap::new(),
            queue: BinaryHeap::new(),
            under_way: BTreeMap::new(),
            next_transit: 0,
            next_id: 0,
            violation: None,
            deeds: Vec::new(),
            fresh: Vec::new(),
        }
    }

    // What it is made of.

    /// Adds a box; `parent` is the one that it is behind.
    pub fn add_box(
        &mut self,
        middlebox: Box<dyn Middlebox>,
        link: Link,
        parent: Option<usize>,
    ) -> usize {
        let at = self.boxes.len();
        self.boxes.push(Faulty::new(middlebox));
        self.attached
            .insert(Place::Box(at), Attachment { link, parent });
        at
    }

    /// Adds a host, which starts when time next passes; `parent` is the box that it is behind.
    pub fn add_host(
        &mut self,
        spec: HostSpec,
        seed: u64,
        link: Link,
        parent: Option<usize>,
    ) -> usize {
        let at = self.hosts.len();
        let host = Host::new(self.now, seed, &spec);
        self.hosts.push(HostSlot {
            spec,
            host,
            up: true,
            lives: 0,
            seed,
        });
        self.attached
            .insert(Place::Host(at), Attachment { link, parent });
        self.fresh.push(at);
        at
    }

    /// Adds a stream that rests.
    pub fn add_flow(&mut self, from: usize, src: Ipv4Addr, to: usize, dst: Ipv4Addr) -> usize {
        self.flows.push(Flow {
            from,
            to,
            src,
            dst,
            len: 0,
            every: None,
            sent: 0,
            received: Vec::new(),
            arrivals: Vec::new(),
            next: self.now,
            seen: BTreeMap::new(),
        });
        self.flows.len() - 1
    }

    /// How many hosts there are.
    #[must_use]
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// A host, up or down.
    #[must_use]
    pub fn host(&self, at: usize) -> &Host {
        &self.hosts[at].host
    }

    /// To tamper with it; call [`Self::pump`] after.
    pub fn host_mut(&mut self, at: usize) -> &mut Host {
        &mut self.hosts[at].host
    }

    /// Its name.
    #[must_use]
    pub fn name(&self, at: usize) -> &str {
        &self.hosts[at].spec.name
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_running(&self, at: usize) -> bool {
        self.hosts[at].up
    }

    /// Where a host is on the outer network.
    #[must_use]
    pub fn address(&self, at: usize) -> Ipv4Addr {
        self.hosts[at].spec.address
    }

    /// Moves a host to another address, in the open network or behind a box, and tells it: its packets from
    /// the old address are lost from now on.
    pub fn move_host(&mut self, at: usize, address: Ipv4Addr, parent: Option<usize>) {
        self.hosts[at].spec.address = address;
        if let Some(attachment) = self.attached.get_mut(&Place::Host(at)) {
            attachment.parent = parent;
        }
        let addresses = vec![IpAddr::V4(address)];
        self.command(at, Command::AddressesChanged { addresses });
    }

    /// The link of a host.
    pub fn link(&mut self, host: usize) -> &mut Link {
        self.link_of(Place::Host(host))
    }

    /// The link of a box.
    pub fn box_link(&mut self, at: usize) -> &mut Link {
        self.link_of(Place::Box(at))
    }

    fn link_of(&mut self, place: Place) -> &mut Link {
        let attachment = self.attached.get_mut(&place);
        &mut attachment.expect("every place has a link").link
    }

    /// All links.
    pub fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        self.attached.values_mut().map(|a| &mut a.link)
    }

    /// A box, to look at it or to give it faults.
    pub fn middlebox(&mut self, at: usize) -> &mut Faulty {
        &mut self.boxes[at]
    }

    /// All tables of a box are lost.
    pub fn crash_box(&mut self, at: usize) {
        self.boxes[at].crash();
        self.note(|| Entry::note(format!("box {at} crashes")));
    }

    /// A box gets another place in the network.
    pub fn remap_box(&mut self, at: usize, remap: &Remap) {
        self.boxes[at].remap(remap);
        self.note(|| Entry::note(format!("box {at}: {remap:?}")));
    }

    // What happens.

    /// The process dies without a word.
    pub fn kill(&mut self, at: usize) {
        self.hosts[at].up = false;
        self.referee.host_died(at);
        self.note(|| Entry::note(format!("host {at} dies")));
    }

    /// And is started again.
    pub fn start(&mut self, at: usize) {
        let now = self.now;
        let slot = &mut self.hosts[at];
        slot.lives += 1;
        let seed = slot.seed ^ slot.lives << 50;
        let events = std::mem::take(&mut slot.host.events);
        let activations = slot.host.activations;
        slot.host = Host::new(now, seed, &slot.spec);
        slot.host.events = events;
        slot.host.activations = activations;
        slot.up = true;
        self.note(|| Entry::note(format!("host {at} starts")));
        self.pump(at);
    }

    /// An operator's command; `None` if it was refused or the host is down.
    pub fn command(&mut self, at: usize, command: Command) -> Option<Ticket> {
        let now = self.now;
        if !self.hosts[at].up {
            return None;
        }
        self.note(|| Entry::note(format!("host {at}: {command:?}")));
        let ticket = self.hosts[at].host.command(now, command).ok();
        self.pump(at);
        ticket
    }

    /// Starts the hosts that were added, now.
    pub fn begin(&mut self) {
        for at in std::mem::take(&mut self.fresh) {
            self.pump(at);
        }
    }

    /// Time passes, and all that it brings happens. Ends early at a violation.
    pub fn run(&mut self, length: Duration) -> Result<(), Violation> {
        let end = self.now + length;
        self.begin();
        while let Some(next) = self.next_time().filter(|t| *t <= end) {
            self.now = self.now.max(next);
            self.step();
            self.verdict()?;
        }
        self.now = end;
        self.verdict()
    }

    /// Runs until `done`; how long that took. A violation after `limit`.
    pub fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        grain: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<Duration, Violation> {
        let start = self.now;
        while !done(self) {
            if self.now - start >= limit {
                self.fail(format!("not {what} after {limit:?}"));
            }
            self.run(grain)?;
        }
        Ok(self.now - start)
    }

    /// What was found first, if anything was.
    pub fn verdict(&self) -> Result<(), Violation> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    /// The run is no good.
    pub fn fail(&mut self, what: String) {
        let at = self.now.saturating_sub(START);
        self.note(|| Entry::note(format!("FOUND: {what}")));
        self.violation.get_or_insert(Violation { at, what });
    }

    fn step(&mut self) {
        while let Some(Reverse((time, id))) = self.queue.peek().copied() {
            if time > self.now {
                break;
            }
            self.queue.pop();
            if let Some((step, packet)) = self.under_way.remove(&id) {
                self.arrive(step, packet);
            }
        }
        for at in 0..self.boxes.len() {
            let (now, middlebox) = (self.now, &mut self.boxes[at]);
            if middlebox.poll_timeout().is_some_and(|t| t <= now) {
                let mut out = Output::default();
                middlebox.handle_timeout(now, &mut self.rng, &mut out);
                if middlebox.poll_timeout().is_some_and(|t| t <= now) {
                    self.fail(format!("box {at}: a timer that fired stays due"));
                }
                self.leave_box(at, out);
            }
        }
        for at in 0..self.flows.len() {
            self.feed(at);
        }
        for at in 0..self.hosts.len() {
            if !self.hosts[at].up {
                continue;
            }
            let now = self.now;
            let control = &mut self.hosts[at].host.control;
            if control.poll_timeout().is_some_and(|t| t <= now) {
                control.handle_timeout(now);
                self.pump(at);
                let next = self.hosts[at].host.control.poll_timeout();
                if next.is_some_and(|t| t <= now) {
                    self.fail(format!("host {at}: a timer that fired stays due"));
                }
            }
        }
    }

    fn feed(&mut self, at: usize) {
        let flow = &mut self.flows[at];
        let Some(every) = flow.every.filter(|_| flow.next <= self.now) else {
            return;
        };
        flow.next = self.now + every;
        if self.hosts[flow.from].up {
            self.offer(at);
        }
    }

    /// A flow sends a packet each such time, the first after `wait`.
    pub fn start_flow(&mut self, at: usize, every: Duration, wait: Duration) {
        let flow = &mut self.flows[at];
        flow.every = Some(every);
        flow.next = self.now + wait;
    }

    /// One packet of a flow, now.
    pub fn offer(&mut self, at: usize) {
        let flow = &mut self.flows[at];
        flow.sent += 1;
        let inner = Inner {
            src: flow.src,
            dst: flow.dst,
            flow: u32::try_from(at).unwrap_or(u32::MAX),
            sequence: flow.sent,
        };
        let (from, packet) = (flow.from, inner.emit(flow.len));
        self.hosts[from].host.offer(&packet);
        self.pump(from);
    }

    /// Somebody pings from a flow's source to its destination.
    pub fn offer_ping(&mut self, flow: usize, id: u16, seq: u16) {
        let flow = &self.flows[flow];
        let echo = icmp::Echo {
            request: true,
            id,
            seq,
            data: &[0x42; 40],
        };
        let mut packet = vec![0; 100];
        let ends = (IpAddr::V4(flow.src), IpAddr::V4(flow.dst));
        let len = icmp::emit_echo(ends, &echo, &mut packet).expect("the buffer has room");
        let from = flow.from;
        self.hosts[from].host.offer(&packet[..len]);
        self.pump(from);
    }

    fn next_time(&self) -> Option<Duration> {
        let up = self.hosts.iter().filter(|h| h.up);
        let timers = up.filter_map(|h| h.host.control.poll_timeout());
        let timers = timers.chain(self.boxes.iter().filter_map(Middlebox::poll_timeout));
        let flows = self.flows.iter().filter(|f| f.every.is_some());
        let queue = self.queue.peek().map(|Reverse((t, _))| *t);
        queue
            .into_iter()
            .chain(timers)
            .chain(flows.map(|f| f.next))
            .min()
    }

    /// Does what a host wants done.
    pub fn pump(&mut self, at: usize) {
        let mut deeds = std::mem::take(&mut self.deeds);
        self.hosts[at]
            .host
            .pump(self.now, &mut self.next_id, &mut deeds);
        self.hear(at);
        let mut changed = false;
        for deed in deeds.drain(..) {
            match deed {
                Deed::Keys(keys) => {
                    let judged = self.referee.keys(at, &keys);
                    self.judge(at, judged);
                }
                Deed::Sent(packet) => self.sent(at, packet),
                Deed::Received(inner) => self.received(at, &inner),
                Deed::TooBig { flow, mtu } => {
                    if let Some(flow) = self.flows.get_mut(flow) {
                        flow.len = flow.len.min(mtu);
                    }
                }
                Deed::Pong(id, seq) => self.pongs.push((at, id, seq)),
                Deed::Fault(fault) => self.judge(at, Err(fault)),
                Deed::Changed => changed = true,
            }
        }
        self.deeds = deeds;
        if changed {
            let list = self.list(at);
            self.judge(at, Referee::epochs(&list));
            self.judge(at, self.referee.claims(at, &list));
        }
        let lost = self.hosts[at].host.lost_frames();
        if lost > 0 {
            self.fail(format!("host {at} has lost {lost} frames"));
        }
    }

    fn judge(&mut self, host: usize, judged: Result<(), String>) {
        if let Err(what) = judged {
            let name = self.name(host).to_owned();
            self.fail(format!("{name}: {what}"));
        }
    }

    /// What the host logged: nothing unannounced may be worth waking somebody.
    fn hear(&mut self, at: usize) {
        for line in watch::take() {
            let bad = line.level <= Level::WARN;
            let announced = self.announced.iter().any(|part| line.text.contains(part));
            if bad {
                self.digest.add(line.text.as_bytes());
            }
            self.note(|| Entry::Log {
                host: at,
                level: line.level,
                text: line.text.clone(),
            });
            if bad && !announced {
                let name = self.name(at).to_owned();
                self.fail(format!("{name} logs {}: {}", line.level, line.text));
            }
        }
    }

    fn note(&mut self, entry: impl FnOnce() -> Entry) {
        let at = self.now.saturating_sub(START);
        if let Some(trace) = &mut self.trace {
            trace.add(at, entry());
        }
    }

    fn sent(&mut self, at: usize, packet: Packet) {
        self.packets += 1;
        self.digest.number(self.now.as_nanos());
        self.digest.number(at as u128);
        self.digest.add(packet.payload());
        if let Content::Ike(message) = content(&packet) {
            self.count_opening(message);
        }
        let judged = self.referee.sent(at, &packet);
        self.note(|| Entry::Sent {
            host: at,
            packet: packet.clone(),
        });
        self.judge(at, judged);
        self.enter(Place::Host(at), true, packet);
    }

    fn count_opening(&mut self, message: &[u8]) {
        let Ok(header) = Header::parse(message) else {
            return;
        };
        let opens = [
            ExchangeType::IKE_SA_INIT,
            ExchangeType::IKE_SESSION_RESUME,
            ExchangeType::IKE_AUTH,
        ];
        if !header.flags.response && opens.contains(&header.exchange) {
            let of_initiator = self.openings.entry(header.spi_i).or_default();
            of_initiator.insert((header.exchange, header.message_id));
        }
    }

    fn received(&mut self, at: usize, inner: &Inner) {
        self.digest.number(u128::from(inner.sequence));
        if let Some(what) = misdelivered(at, inner, &self.flows) {
            return self.judge(at, Err(what));
        }
        let flow = usize::try_from(inner.flow).unwrap_or(usize::MAX);
        if !self.flows[flow].note(self.now, inner.sequence) {
            let what = format!("packet {} of flow {flow} came out twice", inner.sequence);
            self.judge(at, Err(what));
        }
    }

    /// A packet enters the link of a place, towards the network or towards the place.
    fn enter(&mut self, place: Place, up: bool, packet: Packet) {
        let now = self.now;
        let Some(attachment) = self.attached.get_mut(&place) else {
            return;
        };
        let step = if up {
            Step::Up(place)
        } else {
            Step::Down(place)
        };
        if packet.is_bare_esp() && attachment.link.no_esp[usize::from(!up)] {
            let (id, how) = (packet.id, "no protocol 50");
            return self.note(|| Entry::Lost { id, how });
        }
        let (limit, parent) = (attachment.link.limit(up), attachment.parent);
        if attachment.link.icmp && packet.bytes().len() > limit {
            self.tell_too_big(place, up, parent, limit, &packet);
        }
        let Some(attachment) = self.attached.get_mut(&place) else {
            return;
        };
        match attachment
            .link
            .cross(now, up, packet.bytes().len(), &mut self.rng)
        {
            Crossing::Arrives(times) if times == [now] => self.arrive(step, packet),
            Crossing::Arrives(times) => {
                let copies = times.len();
                for (n, time) in times.into_iter().enumerate() {
                    if n + 1 < copies {
                        self.post(time, step, packet.clone());
                    } else {
                        return self.post(time, step, packet);
                    }
                }
            }
            Crossing::Lost(how) => {
                let id = packet.id;
                self.note(|| Entry::Lost { id, how });
            }
        }
    }

    /// A router answers a packet that its next hop does not take (RFC 1191 §4).
    fn tell_too_big(
        &mut self,
        place: Place,
        up: bool,
        parent: Option<usize>,
        mtu: usize,
        packet: &Packet,
    ) {
        let whole = ipv4::Packet::new_checked(packet.bytes());
        if !whole.is_ok_and(|packet| packet.dont_fragment()) {
            return;
        }
        let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
        let mut out = vec![0; 576];
        let problem = Problem::TooBig { mtu };
        let written = icmp::emit_error(ROUTER.into(), problem, packet.bytes(), &mut out);
        let Ok(Some(len)) = written else { return };
        out.truncate(len);
        let id = self.next_id;
        self.next_id += 1;
        let Ok(error) = Packet::new(out, id) else {
            return;
        };
        if up {
            self.post(self.now, Step::Down(place), error);
        } else {
            self.down(parent, error);
        }
    }

    fn post(&mut self, time: Duration, step: Step, packet: Packet) {
        self.queue.push(Reverse((time, self.next_transit)));
        self.under_way.insert(self.next_transit, (step, packet));
        self.next_transit += 1;
    }

    fn arrive(&mut self, step: Step, packet: Packet) {
        match step {
            Step::Up(place) => {
                let parent = self.attached.get(&place).and_then(|a| a.parent);
                // A host's packets from an address that it no longer has go nowhere.
                if let Place::Host(at) = place
                    && IpAddr::V4(self.hosts[at].spec.address) != packet.src().ip()
                {
                    let id = packet.id;
                    return self.note(|| Entry::Lost {
                        id,
                        how: "no such address",
                    });
                }
                match parent {
                    None => self.route(packet),
                    Some(at) => self.through_box(at, true, packet),
                }
            }
            Step::Down(Place::Box(at)) => self.through_box(at, false, packet),
            Step::Down(Place::Host(at)) => self.deliver(at, &packet),
        }
    }

    fn through_box(&mut self, at: usize, up: bool, packet: Packet) {
        let id = packet.id;
        let mut out = Output::default();
        let middlebox = &mut self.boxes[at];
        let held = middlebox.poll_timeout();
        if up {
            middlebox.outbound(self.now, packet, &mut self.rng, &mut out);
        } else {
            middlebox.inbound(self.now, packet, &mut self.rng, &mut out);
        }
        if out.is_empty() && middlebox.poll_timeout() == held {
            let how = self.boxes[at].name();
            self.note(|| Entry::Lost { id, how });
        }
        self.leave_box(at, out);
    }

    fn leave_box(&mut self, at: usize, out: Output) {
        for packet in out.outside {
            self.enter(Place::Box(at), true, packet);
        }
        for packet in out.inside {
            self.down(Some(at), packet);
        }
    }

    /// In the open network: to whoever has the address.
    fn route(&mut self, packet: Packet) {
        self.down(None, packet);
    }

    fn down(&mut self, parent: Option<usize>, packet: Packet) {
        let dst = packet.dst().ip();
        let mut places = self.attached.iter();
        let to = places.find(|(place, at)| at.parent == parent && self.is_at(**place, dst));
        let to = to.map(|(place, _)| *place);
        match to {
            Some(place) => self.enter(place, false, packet),
            None => {
                let id = packet.id;
                self.note(|| Entry::Lost {
                    id,
                    how: "no route",
                });
            }
        }
    }

    /// Whether what is for this address is for this place: a box that does not translate stands for all that is
    /// behind it.
    fn is_at(&self, place: Place, address: IpAddr) -> bool {
        let at = match place {
            Place::Host(at) => return IpAddr::V4(self.hosts[at].spec.address) == address,
            Place::Box(at) => at,
        };
        match self.boxes[at].public() {
            Some(public) => public == address,
            None => self.attached.iter().any(|(place, attachment)| {
                attachment.parent == Some(at) && self.is_at(*place, address)
            }),
        }
    }

    fn deliver(&mut self, at: usize, packet: &Packet) {
        if !self.hosts[at].up {
            let id = packet.id;
            return self.note(|| Entry::Lost {
                id,
                how: "host down",
            });
        }
        self.referee.delivered(at, packet);
        self.note(|| Entry::Delivered {
            host: at,
            packet: packet.clone(),
        });
        self.hosts[at].host.deliver(packet);
        self.pump(at);
    }

    /// Anybody's datagram, or ESP if the ports are 0, on its way in the open network for `after`.
    pub fn inject(&mut self, after: Duration, src: SocketAddr, dst: SocketAddr, payload: &[u8]) {
        let id = self.next_id;
        self.next_id += 1;
        let packet = match dst.port() {
            0 => Packet::esp(src.ip(), dst.ip(), payload, id),
            _ => Packet::udp(src, dst, payload, id),
        };
        let packet = packet.expect("what is injected fits into a packet");
        let mut places = self.attached.keys().copied();
        let to = places.find(|place| self.is_at(*place, dst.ip()));
        if let Some(place) = to {
            self.post(self.now + after, Step::Down(place), packet);
        }
    }

    /// Takes what is under way off the network.
    pub fn steal(&mut self) -> Vec<Packet> {
        self.queue.clear();
        let stolen = std::mem::take(&mut self.under_way);
        stolen.into_values().map(|(_, packet)| packet).collect()
    }

    // What there is to see.

    /// A host's SAs.
    #[must_use]
    pub fn list(&self, at: usize) -> ListView {
        self.hosts[at].host.control.list(self.now)
    }

    /// A host's only, or first, tunnel.
    #[must_use]
    pub fn tunnel(&self, at: usize) -> TunnelView {
        self.list(at).tunnels.remove(0)
    }

    /// Whether a tunnel carries this host's data on an epoch that is proven.
    #[must_use]
    pub fn is_up(&self, at: usize) -> bool {
        let list = self.list(at);
        !list.tunnels.is_empty()
            && list.tunnels.iter().all(|t| {
                let mut epochs = t.epochs.iter();
                epochs.any(|e| e.active && e.state == "proven")
            })
    }
}
