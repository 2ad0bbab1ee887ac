//! Encapsulation by proof (docs/encapsulation.md): ESP takes protocol 50 where a ping has shown that it
//! passes, and UDP where it does not. Each side decides for its own sending; SAs and SPIs stay.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use mitregate_esp::ids::EpochId;
use mitregate_gate::{Input, Role};
use mitregate_ike::Encap;
use mitregate_wire::echo::{self, Echo, Kind, PlainEcho};
use rand_core::Rng;
use tracing::{debug, info};

use crate::control::tunnel_id;
use crate::stray::Limiter;
use crate::tunnel::{outer, unit};
use crate::{Control, ControlEvent, EncapChange, Outer, Output};

/// Behind a NAT, an epoch carries data for about this long before plain ESP is asked for: whatever starts
/// at the same time in the same network comes first.
const SETTLED: Duration = Duration::from_secs(2);
/// Pings of one question. A NAT may make an entry of each, so it is asked seldom.
const TRIES_BEHIND_NAT: u32 = 2;
const TRIES: u32 = 3;
/// Wait after the first failure, doubled with each, and the longest. Without a NAT nobody minds.
const AGAIN_BEHIND_NAT: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(4 * 3600));
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// A server asks when its client's ping has come by plain ESP, which bounds it already.
const SERVER_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Who has had plain ESP for so long starts with the shortest wait again.
const HELD: Duration = Duration::from_secs(600);
/// Plain ESP pings that are answered in one second, whosever they are: like ICMP, and no more than came.
const PLAIN_PER_SECOND: u32 = 64;
/// Random data in a ping, so that nobody answers it who has not seen it.
const NONCE: usize = 8;

/// How an epoch's packets may travel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ways {
    /// Both ends take both forms, and each changes by what its own pings have proven.
    pub(crate) by_proof: bool,
    /// Both ends want plain ESP asked for behind a NAT, too.
    pub(crate) behind_nat: bool,
    /// What IKE has settled on: UDP if there is a NAT.
    pub(crate) base: Encap,
    /// IKE's ends, which UDP shares; `None` while they have no port for ESP.
    pub(crate) udp: Option<(SocketAddr, SocketAddr)>,
    /// It went to UDP because plain ESP was dark, and no ping has been answered since.
    pub(crate) doubtful: bool,
}

/// Of UDP 500 only IKE comes (RFC 7296 §2.23).
pub(crate) fn udp_ends(local: SocketAddr, remote: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
    (local.port() != mitregate_wire::ike::PORT).then_some((local, remote))
}

/// What a connection remembers of protocol 50, between the two addresses that it was asked for.
#[derive(Debug, Default)]
pub(crate) struct PlainEsp {
    ends: Option<(IpAddr, IpAddr)>,
    failures: u32,
    retry_at: Duration,
    /// Since when it has carried data.
    held: Option<Duration>,
}

impl PlainEsp {
    fn between(&mut self, ends: (IpAddr, IpAddr)) -> &mut Self {
        if self.ends != Some(ends) {
            *self = Self {
                ends: Some(ends),
                ..Self::default()
            };
        }
        self
    }

    /// It was dark when last used or asked for.
    pub(crate) fn is_dark(&self, ends: (IpAddr, IpAddr)) -> bool {
        self.ends == Some(ends) && self.failures > 0 && self.held.is_none()
    }

    fn failed(&mut self, now: Duration, (first, longest): (Duration, Duration), rng: &mut dyn Rng) {
        if self.held.take().is_some_and(|since| now >= since + HELD) {
            self.failures = 0;
        }
        let nominal = first
            .saturating_mul(1 << self.failures.min(16))
            .min(longest);
        self.failures += 1;
        self.retry_at = now + nominal.mul_f64(0.75 + 0.5 * unit(rng));
    }
}

/// What is asked, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Whether the path passes protocol 50 at all: in clear, and only where there is no NAT.
    Plain,
    /// Whether this SA's packets arrive by plain ESP.
    PlainEsp,
    /// Whether the peer is at another address.
    Address,
}

impl Question {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "protocol-50",
            Self::PlainEsp => "plain-esp",
            Self::Address => "address",
        }
    }
}

/// One that is under way: the same few pings, by a way that the epoch's packets do not take yet.
#[derive(Debug)]
struct Asked {
    question: Question,
    epoch: EpochId,
    /// Where packets go if it is answered.
    to: Outer,
    id: u16,
    first_seq: u16,
    sent: u16,
    nonce: [u8; NONCE],
    tries: u32,
    wait: Duration,
    deadline: Duration,
}

impl Asked {
    fn is_answered_by(&self, echo: &Echo<'_>) -> bool {
        echo.kind == Kind::Response
            && echo.id == self.id
            && echo.seq.wrapping_sub(self.first_seq) < self.sent
            && echo.data == self.nonce
    }
}

/// A tunnel's encapsulation: what is asked, and what has come of it.
#[derive(Debug, Default)]
pub(crate) struct Encapsulation {
    /// When plain ESP is next asked for.
    ask_at: Option<Duration>,
    asked: Option<Asked>,
    pub(crate) counters: EncapCounters,
}

/// Counts of one tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EncapCounters {
    /// Changes to plain ESP.
    pub(crate) to_esp: u64,
    /// Changes to UDP.
    pub(crate) to_udp: u64,
    /// Pings sent by another way than the epoch's.
    pub(crate) pings_sent: u64,
    /// Questions that were answered.
    pub(crate) answered: u64,
    /// Questions that were not.
    pub(crate) unanswered: u64,
}

impl Encapsulation {
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let deadline = self.asked.as_ref().map(|asked| asked.deadline);
        deadline.or(self.ask_at)
    }

    /// The peer has shown where it is: where else it might have been is of no interest any more.
    pub(crate) fn forget_address(&mut self) {
        self.asked
            .take_if(|asked| asked.question == Question::Address);
    }

    /// What is asked on this epoch now.
    pub(crate) fn asks(&self, epoch: EpochId) -> Option<&'static str> {
        let asked = self.asked.as_ref().filter(|asked| asked.epoch == epoch);
        asked.map(|asked| asked.question.as_str())
    }

    /// When plain ESP is next asked for.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.ask_at
    }
}

/// Answers to plain ESP pings.
#[derive(Default)]
pub(crate) struct PlainPings {
    answers: Limiter,
}

impl Control {
    /// Takes a plain ESP ping, from the SPI on, which came by protocol 50. Whoever sent it has not
    /// authenticated: a request is answered like an ICMP echo, and a response is a hint to ask
    /// through an SA.
    pub fn handle_plain_echo(
        &mut self,
        now: Duration,
        local: IpAddr,
        remote: IpAddr,
        packet: &[u8],
    ) {
        let Ok(plain) = PlainEcho::new_checked(packet) else {
            debug!(%remote, "malformed plain ESP ping");
            return;
        };
        match plain.response() {
            Some(response) if self.shut_down.is_none() => {
                if self.plain_pings.answers.take(now, PLAIN_PER_SECOND) {
                    self.send_plain(local, remote, &response);
                }
            }
            Some(_) => {}
            None => self.plain_answered(now, (local, remote), &plain.echo),
        }
        self.settle(now);
    }

    fn send_plain(&mut self, local: IpAddr, remote: IpAddr, plain: &PlainEcho<'_>) {
        let mut payload = vec![0; plain.emitted_len()];
        if plain.emit(&mut payload).is_ok() {
            self.outputs.push_back(Output::Transmit {
                local: SocketAddr::new(local, 0),
                remote: SocketAddr::new(remote, 0),
                payload,
            });
        }
    }

    fn plain_answered(&mut self, now: Duration, ends: (IpAddr, IpAddr), echo: &Echo<'_>) {
        let found = self.tunnels.iter().find(|(_, tunnel)| {
            tunnel.encap.asked.as_ref().is_some_and(|asked| {
                let there = (asked.to.local.ip(), asked.to.remote.ip());
                asked.question == Question::Plain && there == ends && asked.is_answered_by(echo)
            })
        });
        let Some((at, _)) = found else { return };
        if let Some(Asked { epoch, to, .. }) = self.tunnels[at].encap.asked.take() {
            self.tunnels[at].encap.counters.answered += 1;
            // Protocol 50 passes. Whether ours does, an SA's own ping says.
            self.ask(now, at, epoch, to, Question::PlainEsp);
        }
    }

    /// A ping by another way was answered: the epoch's packets take that way from now on. Whether it was
    /// one of these.
    pub(crate) fn way_answered(
        &mut self,
        now: Duration,
        at: usize,
        epoch: EpochId,
        echo: &Echo<'_>,
    ) -> bool {
        let encap = &mut self.tunnels[at].encap;
        let ours = |asked: &mut Asked| {
            asked.question != Question::Plain && asked.epoch == epoch && asked.is_answered_by(echo)
        };
        let Some(asked) = encap.asked.take_if(ours) else {
            return false;
        };
        encap.counters.answered += 1;
        self.dirty_tunnels.insert(at);
        if asked.question == Question::Address {
            self.address_answered(now, at, epoch, asked.to);
            return true;
        }
        self.plain_esp(at, asked.to).held = Some(now);
        self.change(now, at, epoch, asked.to, EncapChange::Proven);
        // A client shows the other end where it is, and lets the gate look at the new way.
        if self.tunnels[at].gate.config().role == Role::Client {
            self.gate(now, at, Input::PathChanged);
        }
        true
    }

    /// The peer is at another address: there it has answered through the SA.
    fn address_answered(&mut self, now: Duration, at: usize, epoch: EpochId, to: Outer) {
        let Some(e) = self.tunnels[at].epochs.get(&epoch) else {
            return;
        };
        if e.outer.encap != to.encap {
            return;
        }
        let session = e.session;
        debug!(from = %e.outer.remote, to = %to.remote, %epoch, "peer moved, and has answered there");
        self.move_alike(at, to.encap, to.local, to.remote);
        if let (Encap::Udp, Some(id)) = (to.encap, session) {
            self.with_ike(now, id, |sa, _| sa.follow_esp(to.local, to.remote, now));
        }
    }

    /// What the tunnel's connection remembers of protocol 50 on this way.
    fn plain_esp(&mut self, at: usize, way: Outer) -> &mut PlainEsp {
        let connection = &mut self.connections[self.tunnels[at].connection];
        connection
            .plain_esp
            .between((way.local.ip(), way.remote.ip()))
    }

    /// An epoch carries data from now on: plain ESP may be asked for on it.
    pub(crate) fn consider_plain_esp(&mut self, now: Duration, at: usize, epoch: EpochId) {
        let tunnel = &mut self.tunnels[at];
        tunnel.encap.asked = None;
        tunnel.encap.ask_at = None;
        let Some(e) = tunnel.epochs.get(&epoch) else {
            return;
        };
        let wanted = e.ways.by_proof && (e.ways.base == Encap::Esp || e.ways.behind_nat);
        let client = tunnel.gate.config().role == Role::Client;
        if !wanted || !client || e.outer.encap == Encap::Esp {
            return;
        }
        let (way, base) = (e.outer, e.ways.base);
        let jitter = 0.5 + unit(&mut *self.rng);
        let memory = self.plain_esp(at, way);
        let at_once = memory.held.is_some() || base == Encap::Esp;
        let settled = if at_once {
            now
        } else {
            now + SETTLED.mul_f64(jitter)
        };
        let ask_at = settled.max(memory.retry_at);
        self.tunnels[at].encap.ask_at = Some(ask_at);
        self.dirty_tunnels.insert(at);
    }

    /// Does what is due.
    pub(crate) fn encap_timeout(&mut self, now: Duration, at: usize) {
        let encap = &mut self.tunnels[at].encap;
        if encap
            .asked
            .as_ref()
            .is_some_and(|asked| asked.deadline <= now)
        {
            return self.ask_again(now, at);
        }
        if encap.asked.is_some() || encap.ask_at.is_none_or(|t| t > now) {
            return;
        }
        encap.ask_at = None;
        let tunnel = &self.tunnels[at];
        let active = tunnel.gate.active();
        let Some((epoch, e)) = active.and_then(|id| Some((id, tunnel.epochs.get(&id)?))) else {
            return;
        };
        if !e.ways.by_proof || e.outer.encap == Encap::Esp {
            return;
        }
        let question = match e.ways.base {
            Encap::Esp => Question::Plain,
            // In clear it would make entries in the NAT that others' packets end up in.
            Encap::Udp => Question::PlainEsp,
        };
        let to = outer(Encap::Esp, e.outer.local, e.outer.remote);
        self.ask(now, at, epoch, to, question);
    }

    fn ask(&mut self, now: Duration, at: usize, epoch: EpochId, to: Outer, question: Question) {
        let mut nonce = [0; NONCE];
        self.rng.fill_bytes(&mut nonce);
        let [a, b, c, d] = self.rng.next_u32().to_be_bytes();
        let tunnel = &mut self.tunnels[at];
        let Some(e) = tunnel.epochs.get(&epoch) else {
            return;
        };
        let config = tunnel.gate.config();
        let rtt = tunnel.last_rtt(epoch);
        let behind_nat = e.ways.base == Encap::Udp;
        tunnel.encap.ask_at = None;
        tunnel.encap.asked = Some(Asked {
            question,
            epoch,
            to,
            id: u16::from_be_bytes([a, b]),
            first_seq: u16::from_be_bytes([c, d]),
            sent: 0,
            nonce,
            tries: if behind_nat { TRIES_BEHIND_NAT } else { TRIES },
            wait: config.ping_timeout.max(rtt.unwrap_or_default() * 2),
            deadline: now,
        });
        self.ask_again(now, at);
    }

    /// Sends the next ping, or gives up.
    fn ask_again(&mut self, now: Duration, at: usize) {
        self.dirty_tunnels.insert(at);
        let (Some(tunnel_id), tunnel) = (tunnel_id(at), &mut self.tunnels[at]) else {
            return;
        };
        let backoff = tunnel.gate.config().backoff.max(1.0);
        let Some(asked) = &mut tunnel.encap.asked else {
            return;
        };
        if !tunnel.epochs.contains_key(&asked.epoch) {
            tunnel.encap.asked = None;
            return;
        }
        if u32::from(asked.sent) == asked.tries {
            return self.unanswered(now, at);
        }
        let seq = asked.first_seq.wrapping_add(asked.sent);
        asked.sent += 1;
        asked.deadline = now + asked.wait.mul_f64(0.8 + 0.4 * unit(&mut *self.rng));
        asked.wait = asked.wait.mul_f64(backoff);
        tunnel.encap.counters.pings_sent += 1;
        let (epoch, to, nonce) = (asked.epoch, asked.to, asked.nonce);
        let echo = Echo {
            kind: Kind::Request { return_spi: None },
            id: asked.id,
            seq,
            data: &nonce,
        };
        if asked.question == Question::Plain {
            let sequence = u32::from(asked.sent);
            let plain = PlainEcho { sequence, echo };
            return self.send_plain(to.local.ip(), to.remote.ip(), &plain);
        }
        let mut payload = vec![0; echo.emitted_len()];
        if echo.emit(&mut payload).is_ok() {
            self.outputs.push_back(Output::SendInner {
                tunnel: tunnel_id,
                epoch,
                next_header: echo::NEXT_HEADER,
                via: Some(to),
                pad_to: 0,
                payload,
            });
        }
    }

    fn unanswered(&mut self, now: Duration, at: usize) {
        let tunnel = &mut self.tunnels[at];
        let Some(asked) = tunnel.encap.asked.take() else {
            return;
        };
        tunnel.encap.counters.unanswered += 1;
        debug!(
            tunnel = tunnel.name,
            question = asked.question.as_str(),
            "not answered"
        );
        if asked.question != Question::Address {
            self.plain_esp_dark(now, at, asked.epoch, asked.to);
        }
    }

    /// Protocol 50 is dark on this way: it is asked for again after a while.
    fn plain_esp_dark(&mut self, now: Duration, at: usize, epoch: EpochId, way: Outer) {
        let tunnel = &self.tunnels[at];
        let client = tunnel.gate.config().role == Role::Client;
        let base = tunnel.epochs.get(&epoch).map(|e| e.ways.base);
        let again = match (client, base) {
            (false, _) => SERVER_AGAIN,
            (true, Some(Encap::Udp)) => AGAIN_BEHIND_NAT,
            (true, _) => AGAIN,
        };
        let connection = &mut self.connections[tunnel.connection];
        let memory = connection
            .plain_esp
            .between((way.local.ip(), way.remote.ip()));
        memory.failed(now, again, &mut *self.rng);
        let retry_at = memory.retry_at;
        if client && self.tunnels[at].gate.active().is_some() {
            self.tunnels[at].encap.ask_at = Some(retry_at);
        }
    }

    /// A ping of the gate was lost. On plain ESP that is all it takes to go back to UDP, so that the ping's
    /// repetition goes there already; and from there to plain ESP again, where UDP has not answered and no
    /// NAT makes it the better choice.
    pub(crate) fn ping_lost(&mut self, now: Duration, at: usize, epoch: EpochId, in_a_row: u32) {
        let tunnel = &self.tunnels[at];
        let Some(e) = tunnel.epochs.get(&epoch).filter(|e| e.ways.by_proof) else {
            return;
        };
        let rtt = tunnel.last_rtt(epoch).unwrap_or_default();
        if tunnel.gate.config().ping_timeout * in_a_row < rtt {
            // The answer may still be on its way.
            return;
        }
        match (e.outer.encap, e.ways.udp) {
            (Encap::Esp, Some((local, remote))) => {
                let way = e.outer;
                let to = outer(Encap::Udp, local, remote);
                self.plain_esp_dark(now, at, epoch, way);
                self.change(now, at, epoch, to, EncapChange::PingLost);
                self.doubt(at, true);
            }
            (Encap::Udp, _) if e.ways.doubtful && e.ways.base == Encap::Esp => {
                let to = outer(Encap::Esp, e.outer.local, e.outer.remote);
                self.change(now, at, epoch, to, EncapChange::PingLost);
                self.doubt(at, false);
            }
            _ => {}
        }
    }

    fn doubt(&mut self, at: usize, doubtful: bool) {
        for e in self.tunnels[at].epochs.values_mut() {
            e.ways.doubtful = doubtful;
        }
    }

    /// A ping of the gate was answered.
    pub(crate) fn ping_answered(&mut self, now: Duration, at: usize, epoch: EpochId) {
        self.doubt(at, false);
        let Some(e) = self.tunnels[at].epochs.get(&epoch) else {
            return;
        };
        let way = e.outer;
        if e.ways.by_proof && way.encap == Encap::Esp {
            self.plain_esp(at, way).held.get_or_insert(now);
        }
    }

    /// The client's newest ping has come by the other encapsulation. Back in UDP, that is where it is to be
    /// found: plain ESP depends on what the client sends. By plain ESP, our own direction is asked for.
    /// `follows`: it may be followed to any address, not just in UDP where it was before.
    pub(crate) fn peer_changed(
        &mut self,
        now: Duration,
        at: usize,
        epoch: EpochId,
        (local, remote): (SocketAddr, SocketAddr),
        follows: bool,
    ) {
        let Some(e) = self.tunnels[at].epochs.get(&epoch) else {
            return;
        };
        match e.outer.encap {
            Encap::Esp => {
                let there = if follows {
                    Some((local, remote))
                } else {
                    e.ways.udp
                };
                if let Some((local, remote)) = there {
                    let to = outer(Encap::Udp, local, remote);
                    self.change(now, at, epoch, to, EncapChange::PeerChanged);
                }
            }
            Encap::Udp => {
                let to = outer(Encap::Esp, local, remote);
                let wanted = e.ways.base == Encap::Esp || e.ways.behind_nat;
                let busy = self.tunnels[at].encap.asked.is_some();
                if wanted && !busy && self.plain_esp(at, to).retry_at <= now {
                    self.ask(now, at, epoch, to, Question::PlainEsp);
                }
            }
        }
    }

    /// Asks whether the peer is there, through this epoch's SA, before its packets go there.
    pub(crate) fn ask_address(&mut self, now: Duration, at: usize, epoch: EpochId, to: Outer) {
        if self.tunnels[at].encap.asked.is_none() {
            self.ask(now, at, epoch, to, Question::Address);
        }
    }

    /// All epochs of a tunnel that go where this one goes take another way: what has been proven on one,
    /// the others' own pings look at.
    fn change(&mut self, now: Duration, at: usize, epoch: EpochId, to: Outer, why: EncapChange) {
        let (Some(id), tunnel) = (tunnel_id(at), &mut self.tunnels[at]) else {
            return;
        };
        let Some(from) = tunnel.epochs.get(&epoch).map(|e| e.outer) else {
            return;
        };
        if from.encap == to.encap {
            return;
        }
        let word = match to.encap {
            Encap::Esp => "plain ESP",
            Encap::Udp => "UDP",
        };
        info!(tunnel = tunnel.name, %epoch, to = word, %why, "the encapsulation changes");
        match to.encap {
            Encap::Esp => tunnel.encap.counters.to_esp += 1,
            Encap::Udp => tunnel.encap.counters.to_udp += 1,
        }
        // Proven was this SA alone; a way that is dark is so for all.
        let alike =
            |id: EpochId, outer: Outer| id == epoch || why != EncapChange::Proven && outer == from;
        let epochs = tunnel.epochs.iter();
        let moved: Vec<_> = epochs
            .filter(|(id, e)| e.ways.by_proof && alike(**id, e.outer))
            .map(|(id, _)| *id)
            .collect();
        for epoch in moved {
            self.move_epoch(at, epoch, to.encap, to.local, to.remote);
        }
        self.event(ControlEvent::EncapChanged {
            tunnel: id,
            epoch,
            to: to.encap,
            why,
        });
        self.gate(now, at, Input::EncapChanged { epoch });
        if to.encap == Encap::Udp && why != EncapChange::PingLost {
            let active = self.tunnels[at].gate.active();
            if let Some(active) = active {
                self.consider_plain_esp(now, at, active);
            }
        }
    }
}
