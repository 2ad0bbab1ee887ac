//! Mobility and multihoming: MOBIKE (RFC 4555) in both roles, and following a peer without it
//! (RFC 7296 §2.23).
//!
//! The *original initiator* chooses the addresses (RFC 4555 §2.2): it moves first and tells by
//! UPDATE_SA_ADDRESSES. The other side takes them from the IP header of that request, and lets
//! ESP follow when the new address has answered a COOKIE2. Of a request that stays unanswered,
//! the initiator also sends copies along other pairs of addresses; it goes on where the answer
//! comes from.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use mitregate_wire::ike::{ExchangeType, Notify, NotifyType, PORT, Payload};
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;

use super::message::{find_notify, notify, notify_data};
use super::window::{Purpose, Task, Work};
use super::{IkeSa, Phase};
use crate::capabilities::offers_proof;
use crate::config::EncapMode;
use crate::{Ctx, Encap, Nat, Output, Reason, nat};

/// Addresses of a peer that are remembered: it can make up as many as it likes.
const MAX_ADDRESSES: usize = 8;
/// Length of our COOKIE2.
const COOKIE2_LEN: usize = 16;
/// RFC 4555 §4.2.5.
const COOKIE2_LENS: core::ops::RangeInclusive<usize> = 8..=64;
/// From this repetition of a request on, copies take other ways as well.
const PROBE_FROM: u32 = 2;
/// Copies of one repetition.
const PROBES: usize = 3;
/// RFC 4555 §3.9: an UNEXPECTED_NAT_DETECTED may be somebody's work on that one packet.
const NAT_TRIES: u8 = 3;
/// Moves on the word of an ordinary message that are allowed at once, and then one each second.
const MOVES: u8 = 4;
const MOVE_EVERY: Duration = Duration::from_secs(1);

/// What an IKE SA, and whichever replaces it, knows about the ways to its peer.
#[derive(Clone, Default)]
pub(super) struct Mobility {
    /// Both sides have announced it (RFC 4555 §3.1).
    negotiated: bool,
    /// We are the original initiator: a rekeying of the IKE SA does not change that (§1.3).
    chooses: bool,
    /// The peer takes part in NAT detection.
    nat_traversal: bool,
    /// Both sides do plain ESP through a NAT.
    plain_esp: bool,
    /// All addresses of ours.
    own: Vec<IpAddr>,
    /// The peer's additional addresses.
    peer: Vec<IpAddr>,
    /// Addresses of the peer from which an answer has come.
    verified: Vec<IpAddr>,
    /// Counts the moves of the IKE SA: what was asked before one says nothing after it.
    moves: u32,
    /// The peer's NAT_DETECTION_DESTINATION_IP: what it sees of us.
    seen: Option<Vec<u8>>,
    unexpected_nats: u8,
    limit: Limit,
}

/// Bounds how often ordinary messages move us.
#[derive(Clone, Copy, Default)]
struct Limit {
    used: u8,
    since: Duration,
}

impl Limit {
    fn take(&mut self, now: Duration) -> bool {
        while self.used > 0 && now >= self.since + MOVE_EVERY {
            self.used -= 1;
            self.since += MOVE_EVERY;
        }
        if self.used == 0 {
            self.since = now;
        }
        let granted = self.used < MOVES;
        self.used += u8::from(granted);
        granted
    }
}

/// A request of ours to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// UPDATE_SA_ADDRESSES, RFC 4555 §3.5.
    Update,
    /// The list of our addresses, §3.6.
    Addresses,
    /// Return routability, §3.7.
    Verify,
    /// Is the peer there? If so, go there.
    Try(SocketAddr, SocketAddr),
}

/// One under way.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    ask: Ask,
    cookie: [u8; COOKIE2_LEN],
    /// How often the IKE SA had moved.
    moves: u32,
}

impl IkeSa {
    /// What NAT detection saw in IKE_SA_INIT, and whether both sides do plain ESP whatever it saw.
    pub(super) fn note_nat_detection(&mut self, detected: bool, plain_esp: bool) {
        self.mobike.nat_traversal = detected;
        self.mobike.plain_esp = plain_esp;
    }

    /// RFC 4555 §3.3: who does both MOBIKE and NAT traversal moves to port 4500, NAT or not,
    /// so that no port changes when one comes up. So does who may need UDP for ESP where no NAT is.
    pub(super) fn floats(&self) -> bool {
        let mobile = self.config.mobike.enabled && self.mobike.nat_traversal;
        mobile && !self.mobike.plain_esp || self.proves_encap()
    }

    /// Whether both sides change the encapsulation of ESP by proof, and neither has to keep one.
    pub(super) fn proves_encap(&self) -> bool {
        let agreed = offers_proof(&self.config) && self.vendor.encap_by_proof;
        agreed && self.mobike.nat_traversal && !self.mobike.plain_esp
    }

    /// Our notifies in IKE_AUTH: the request's, or the response's after [`Self::learn_mobike`].
    pub(super) fn mobike_notifies(&self, response: bool) -> Vec<Payload> {
        let config = &self.config.mobike;
        if !config.enabled || response && !self.mobike.negotiated {
            return Vec::new();
        }
        let mut payloads = vec![notify(NotifyType::MOBIKE_SUPPORTED)];
        payloads.extend(additional(&config.addresses, self.local.ip()));
        if !response {
            payloads.extend(self.no_nats(self.local, self.remote));
        }
        payloads
    }

    /// The peer's in IKE_AUTH, before or while it is authenticated.
    pub(super) fn learn_mobike(&mut self, payloads: &[Payload]) {
        let known = find_notify(payloads, NotifyType::MOBIKE_SUPPORTED).is_some();
        self.mobike.negotiated = self.config.mobike.enabled && known;
        self.mobike.chooses = self.is_initiator();
        self.mobike.own.clone_from(&self.config.mobike.addresses);
        self.mobike.peer = addresses(payloads).unwrap_or_default();
        // What made it this far has answered at this address.
        self.mobike.verified = vec![self.remote.ip()];
    }

    /// The successor goes on from where this IKE SA is by now, with what has not been answered.
    pub(super) fn hand_over_mobility(&self, successor: &mut Self) {
        successor.mobike = self.mobike.clone();
        // The hashes cover the SPIs.
        successor.mobike.seen = None;
        (successor.local, successor.remote) = (self.local, self.remote);
        (successor.nat, successor.encap) = (self.nat, self.encap);
        if let Some(Purpose::Mobike(asked)) = self.outstanding.as_ref().map(|r| &r.purpose) {
            successor.ask_first(asked.ask);
        }
    }

    /// Whether both sides do MOBIKE.
    #[must_use]
    pub const fn is_mobile(&self) -> bool {
        self.mobike.negotiated
    }

    /// The peer's further addresses, as it has announced them.
    #[must_use]
    pub fn peer_addresses(&self) -> &[IpAddr] {
        &self.mobike.peer
    }

    /// Uses these addresses from now on, for IKE and ESP, and tells the peer (RFC 4555 §3.5). Only
    /// the original initiator may, and only where the peer does MOBIKE too: else nothing happens,
    /// and the answer is `false`.
    pub fn update_addresses(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        cx: &mut Ctx<'_>,
    ) -> bool {
        let may = matches!(self.phase, Phase::Established)
            && self.mobike.negotiated
            && self.mobike.chooses
            && local.is_ipv4() == remote.is_ipv4();
        if !may {
            return false;
        }
        self.go(local, remote);
        // §3.5: a NAT that is likely to be there is allowed for, until the answer tells.
        if self.encap == Encap::Esp && is_private(local.ip()) && !is_private(remote.ip()) {
            self.set_nat(Nat {
                local: true,
                remote: self.nat.remote,
            });
        }
        self.tell_moved();
        self.ask_first(Ask::Update);
        self.resume(cx);
        true
    }

    /// Our addresses are these now, best first. Moves if the one in use is gone, and tells the
    /// peer what it can know of it. `false`: there is no way on with this IKE SA.
    pub fn set_local_addresses(&mut self, addresses: &[IpAddr], cx: &mut Ctx<'_>) -> bool {
        let changed = self.mobike.own != addresses;
        self.mobike.own = addresses.to_vec();
        let here = addresses.contains(&self.local.ip());
        if !matches!(self.phase, Phase::Established) || !self.mobike.negotiated {
            return here;
        }
        if here {
            if changed {
                self.ask(Ask::Addresses);
                self.start_tasks(cx);
            }
            return true;
        }
        let Some((local, remote)) = self.ways().into_iter().next() else {
            return false;
        };
        if self.mobike.chooses {
            self.ask(Ask::Addresses);
            return self.update_addresses(local, remote, cx);
        }
        // §3.5, its exception: a responder whose address is gone takes another one, and (§3.6)
        // tells the initiator, which decides.
        self.go(local, remote);
        self.tell_moved();
        self.ask_first(Ask::Addresses);
        self.resume(cx);
        true
    }

    /// The way to the peer may be another one (a route, a suspend): what is under way goes out once
    /// more at once, or else a liveness check.
    pub fn path_changed(&mut self, cx: &mut Ctx<'_>) {
        match &self.outstanding {
            Some(request) => {
                let datagrams = request.datagrams.clone();
                self.transmit(self.local, self.remote, &datagrams);
            }
            None => self.check_liveness(cx),
        }
    }

    /// Sends what is under way again, along the new way (RFC 4555 §3.5), and what is next.
    fn resume(&mut self, cx: &mut Ctx<'_>) {
        self.repeat_now(cx);
        self.start_tasks(cx);
    }

    /// Pairs of addresses other than the one in use, those with the peer's present one first.
    fn ways(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let current = self.remote.ip();
        let others = self.mobike.peer.iter().copied().filter(|ip| *ip != current);
        let pairs = core::iter::once(current).chain(others).flat_map(|remote| {
            let own = self.mobike.own.iter().copied();
            own.filter(move |local| local.is_ipv4() == remote.is_ipv4())
                .map(move |local| (local, remote))
        });
        let (local_port, remote_port) = (self.local.port(), self.remote.port());
        pairs
            .filter(|pair| *pair != (self.local.ip(), current))
            .map(|(local, remote)| {
                (
                    SocketAddr::new(local, local_port),
                    SocketAddr::new(remote, remote_port),
                )
            })
            .collect()
    }

    fn go(&mut self, local: SocketAddr, remote: SocketAddr) {
        if (local, remote) != (self.local, self.remote) {
            (self.local, self.remote) = (local, remote);
            self.mobike.moves = self.mobike.moves.wrapping_add(1);
        }
    }

    fn tell_moved(&mut self) {
        self.outputs.push_back(Output::PeerMoved {
            local: self.local,
            remote: self.remote,
            encap: self.encap,
            nat: self.nat,
        });
    }

    fn set_nat(&mut self, nat: Nat) {
        self.nat = nat;
        let wanted = nat.local || nat.remote || self.config.encap == EncapMode::Udp;
        // On port 500 there is no marker to tell IKE from ESP.
        let can = self.mobike.nat_traversal && self.local.port() != PORT;
        self.encap = if wanted && can && !self.mobike.plain_esp {
            Encap::Udp
        } else {
            Encap::Esp
        };
    }

    fn ask(&mut self, ask: Ask) {
        if !self.asks(ask) {
            self.tasks.push_back(Task::now(Work::Mobike(ask)));
        }
    }

    fn ask_first(&mut self, ask: Ask) {
        self.tasks
            .retain(|task| !matches!(task.work, Work::Mobike(other) if other == ask));
        self.tasks.push_front(Task::now(Work::Mobike(ask)));
    }

    fn asks(&self, ask: Ask) -> bool {
        self.tasks
            .iter()
            .any(|task| matches!(task.work, Work::Mobike(other) if other == ask))
    }

    pub(super) fn request_mobike(&mut self, ask: Ask, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let mut cookie = [0; COOKIE2_LEN];
        cx.rng.fill_bytes(&mut cookie);
        let mut payloads = Vec::new();
        match ask {
            Ask::Update => {
                payloads.push(notify(NotifyType::UPDATE_SA_ADDRESSES));
                payloads.extend(self.nat_notifies(self.local, self.remote, cx.rng));
                payloads.extend(self.no_nats(self.local, self.remote));
                payloads.push(notify_data(NotifyType::COOKIE2, &cookie));
            }
            Ask::Addresses => {
                payloads.extend(additional(&self.mobike.own, self.local.ip()));
                if payloads.is_empty() {
                    payloads.push(notify(NotifyType::NO_ADDITIONAL_ADDRESSES));
                }
                payloads.extend(self.no_nats(self.local, self.remote));
            }
            Ask::Verify => payloads.push(notify_data(NotifyType::COOKIE2, &cookie)),
            Ask::Try(..) => {}
        }
        let asked = Asked {
            ask,
            cookie,
            moves: self.mobike.moves,
        };
        let purpose = Purpose::Mobike(asked);
        self.request(ExchangeType::INFORMATIONAL, purpose, &payloads, cx)?;
        if let (Ask::Try(local, remote), Some(request)) = (ask, &self.outstanding) {
            let datagrams = request.datagrams.clone();
            self.transmit(local, remote, &datagrams);
        }
        Ok(())
    }

    /// The response to one of these, which came from `remote` to `local`.
    pub(super) fn finish_mobike(
        &mut self,
        asked: Asked,
        payloads: &[Payload],
        local: SocketAddr,
        remote: SocketAddr,
        cx: &mut Ctx<'_>,
    ) {
        if !matches!(self.phase, Phase::Established) {
            return;
        }
        let echo = find_notify(payloads, NotifyType::COOKIE2);
        let right = echo.is_some_and(|n| bool::from(asked.cookie.ct_eq(n.data.as_slice())));
        if matches!(asked.ask, Ask::Update | Ask::Verify) && !right {
            // §3.7: the IKE SA must be closed.
            return self.give_up_on(Reason::Protocol("wrong COOKIE2"), cx);
        }
        // §3.5, §3.7: what was sent along several ways, or before another move, proves nothing
        // about the way in use.
        let stale =
            asked.moves != self.mobike.moves || (local, remote) != (self.local, self.remote);
        match asked.ask {
            Ask::Update if stale => self.ask(Ask::Update),
            Ask::Update => self.updated(payloads, cx),
            // §3.6: sent from several addresses, it has to be sent once more.
            Ask::Addresses if stale => self.ask(Ask::Addresses),
            Ask::Addresses => {}
            Ask::Verify if stale => self.ask(Ask::Verify),
            Ask::Verify => {
                self.verified();
                self.tell_moved();
            }
            Ask::Try(..) if asked.ask == Ask::Try(local, remote) => {
                self.go(local, remote);
                self.verified();
                self.tell_moved();
            }
            Ask::Try(..) => {}
        }
    }

    /// The peer's answer to UPDATE_SA_ADDRESSES, by the way that it was sent.
    fn updated(&mut self, payloads: &[Payload], cx: &mut Ctx<'_>) {
        if find_notify(payloads, NotifyType::UNEXPECTED_NAT_DETECTED).is_some() {
            self.mobike.unexpected_nats += 1;
            if self.mobike.unexpected_nats <= NAT_TRIES {
                return self.ask(Ask::Update);
            }
            let reason = Reason::Refused(NotifyType::UNEXPECTED_NAT_DETECTED);
            return self.give_up_on(reason, cx);
        }
        self.mobike.unexpected_nats = 0;
        if find_notify(payloads, NotifyType::UNACCEPTABLE_ADDRESSES).is_some() {
            // Whoever drives us may find another way, or start anew.
            self.outputs.push_back(Output::MoveRefused);
            return;
        }
        self.verified();
        self.note_mapping(payloads);
        let (local, remote) = (self.local, self.remote);
        if let Some(nat) = nat::detect(self.spi_i, self.spi_r, local, remote, payloads) {
            self.set_nat(nat);
        }
        self.tell_moved();
    }

    fn verified(&mut self) {
        let ip = self.remote.ip();
        self.mobike.verified.retain(|known| *known != ip);
        if self.mobike.verified.len() == MAX_ADDRESSES {
            self.mobike.verified.remove(0);
        }
        self.mobike.verified.push(ip);
    }

    /// RFC 4555 §3.8: behind a NAT, a liveness check also finds out whether the NAT's mapping is
    /// still the same.
    pub(super) fn liveness_notifies(&self, cx: &mut Ctx<'_>) -> Vec<Payload> {
        let wanted = self.mobike.negotiated && self.mobike.chooses && self.nat.local;
        let notifies = wanted.then(|| self.nat_notifies(self.local, self.remote, cx.rng));
        notifies.unwrap_or_default()
    }

    /// The response to a liveness check: what the peer sees of us may have changed.
    pub(super) fn finish_liveness(&mut self, payloads: &[Payload]) {
        let may = self.mobike.negotiated && self.mobike.chooses && self.nat.local;
        if may && self.note_mapping(payloads) {
            self.ask(Ask::Update);
        }
    }

    /// Whether the peer sees another address or port of ours than before.
    fn note_mapping(&mut self, payloads: &[Payload]) -> bool {
        let Some(seen) = find_notify(payloads, NotifyType::NAT_DETECTION_DESTINATION_IP) else {
            return false;
        };
        let changed = self.mobike.seen.as_ref() != Some(&seen.data);
        self.mobike.seen = Some(seen.data.clone());
        changed
    }

    fn nat_notifies(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        rng: &mut dyn CryptoRng,
    ) -> Vec<Payload> {
        if !self.mobike.nat_traversal {
            return Vec::new();
        }
        let force = self.config.encap == EncapMode::Udp;
        nat::notifies(self.spi_i, self.spi_r, local, remote, force, rng).into()
    }

    /// RFC 4555 §3.9: without NAT traversal, whatever can change an address says which ones it was
    /// sent with.
    fn no_nats(&self, local: SocketAddr, remote: SocketAddr) -> Option<Payload> {
        let forbidden = !self.config.mobike.nats_allowed;
        forbidden.then(|| notify_data(NotifyType::NO_NATS_ALLOWED, &tuple(local, remote)))
    }

    /// Whether the peer forbids NATs, and there is one on the way.
    pub(super) fn has_unexpected_nat(
        payloads: &[Payload],
        local: SocketAddr,
        remote: SocketAddr,
    ) -> bool {
        find_notify(payloads, NotifyType::NO_NATS_ALLOWED)
            .is_some_and(|notify| notify.data != tuple(remote, local))
    }

    /// What MOBIKE has to say to an INFORMATIONAL request, which came from `remote` to `local`.
    pub(super) fn answer_mobike(
        &mut self,
        payloads: &[Payload],
        local: SocketAddr,
        remote: SocketAddr,
        cx: &mut Ctx<'_>,
    ) -> Vec<Payload> {
        if !self.mobike.negotiated || !matches!(self.phase, Phase::Established) {
            return Vec::new();
        }
        let cookie = find_notify(payloads, NotifyType::COOKIE2)
            .filter(|notify| COOKIE2_LENS.contains(&notify.data.len()))
            .map(|notify| notify_data(NotifyType::COOKIE2, &notify.data));
        let update = find_notify(payloads, NotifyType::UPDATE_SA_ADDRESSES).is_some();
        let mut answer = Vec::new();
        if Self::has_unexpected_nat(payloads, local, remote) {
            answer.push(notify(NotifyType::UNEXPECTED_NAT_DETECTED));
            answer.extend(cookie);
            return answer;
        }
        // §3.5: addresses are the original initiator's to choose.
        if update && !self.mobike.chooses {
            if !acceptable(remote.ip()) {
                answer.push(notify(NotifyType::UNACCEPTABLE_ADDRESSES));
                answer.extend(cookie);
                return answer;
            }
            self.moved_by_peer(payloads, local, remote);
        }
        if let Some(list) = addresses(payloads) {
            self.mobike.peer = list;
            self.reconsider(local, remote, cx);
        }
        // §3.8: whoever includes them wants them back.
        if find_notify(payloads, NotifyType::NAT_DETECTION_SOURCE_IP).is_some() {
            answer.extend(self.nat_notifies(local, remote, cx.rng));
        }
        answer.extend(cookie);
        answer
    }

    /// An UPDATE_SA_ADDRESSES request. IKE goes to where it came from at once, and ESP when the
    /// peer has shown to receive there (§3.5, §3.7).
    fn moved_by_peer(&mut self, payloads: &[Payload], local: SocketAddr, remote: SocketAddr) {
        self.go(local, remote);
        if self.mobike.nat_traversal
            && let Some(nat) = nat::detect(self.spi_i, self.spi_r, local, remote, payloads)
        {
            self.set_nat(nat);
        }
        let known = self.mobike.verified.contains(&remote.ip());
        if known || !self.config.mobike.return_routability {
            self.tell_moved();
        } else {
            self.ask_first(Ask::Verify);
        }
    }

    /// The responder has other addresses than before (§3.6): if the one in use is not among them,
    /// it is to be found where this message came from.
    fn reconsider(&mut self, local: SocketAddr, remote: SocketAddr, cx: &mut Ctx<'_>) {
        let used = self.remote.ip();
        if self.mobike.chooses && used != remote.ip() && !self.mobike.peer.contains(&used) {
            self.update_addresses(local, remote, cx);
        }
    }

    /// Copies of a request that stays unanswered, along other ways (§3.10).
    pub(super) fn probe(&mut self, attempt: u32, datagrams: &[Vec<u8>]) {
        if let Some(Purpose::Mobike(asked)) = self.outstanding.as_ref().map(|r| &r.purpose)
            && let Ask::Try(local, remote) = asked.ask
        {
            return self.transmit(local, remote, datagrams);
        }
        let may = matches!(self.phase, Phase::Established)
            && self.mobike.negotiated
            && self.mobike.chooses;
        if !may || attempt < PROBE_FROM {
            return;
        }
        let ways = self.ways();
        let turn = (attempt - PROBE_FROM) as usize * PROBES;
        for n in 0..PROBES.min(ways.len()) {
            let (local, remote) = ways[(turn + n) % ways.len()];
            self.transmit(local, remote, datagrams);
        }
    }

    /// A response came by another way than the one in use: that one works.
    pub(super) fn settle_on(&mut self, local: SocketAddr, remote: SocketAddr, cx: &mut Ctx<'_>) {
        if (local, remote) != (self.local, self.remote) && self.ways().contains(&(local, remote)) {
            self.update_addresses(local, remote, cx);
        }
    }

    /// An authenticated message that is neither a retransmission nor a replay shows where the peer
    /// is: a host that is not behind a NAT goes after a peer that is (RFC 7296 §2.23). With MOBIKE
    /// only UPDATE_SA_ADDRESSES moves IKE (RFC 4555 §3.8); two of us have agreed otherwise, by
    /// vendor ID.
    pub(super) fn follow(&mut self, local: SocketAddr, remote: SocketAddr, now: Duration) {
        let may = self.is_followed() && self.nat.remote && !self.nat.local;
        if may && (local, remote) != (self.local, self.remote) && self.mobike.limit.take(now) {
            self.go(local, remote);
            self.tell_moved();
        }
    }

    fn is_followed(&self) -> bool {
        matches!(self.phase, Phase::Established | Phase::Closing)
            && (!self.mobike.negotiated || self.vendor.mitregate && !self.mobike.chooses)
    }

    /// An authenticated ESP packet in UDP, with a new highest sequence number, came from there: IKE
    /// shares its ports, so it moves too where ordinary messages move it (RFC 7296 §2.23).
    pub fn follow_esp(&mut self, local: SocketAddr, remote: SocketAddr, now: Duration) {
        self.follow(local, remote, now);
    }

    /// Asks whether the peer is at `remote`, and goes there when the answer comes from there. For
    /// a host behind a NAT that has reason to think so.
    pub fn try_address(&mut self, local: SocketAddr, remote: SocketAddr, cx: &mut Ctx<'_>) {
        let way = (local, remote);
        let tries = |task: &Task| matches!(task.work, Work::Mobike(Ask::Try(..)));
        let under_way = self.outstanding.as_ref().is_some_and(
            |r| matches!(r.purpose, Purpose::Mobike(asked) if matches!(asked.ask, Ask::Try(..))),
        );
        let may = self.is_followed() && way != (self.local, self.remote);
        if may && !under_way && !self.tasks.iter().any(tries) {
            self.ask(Ask::Try(local, remote));
            self.start_tasks(cx);
        }
    }
}

/// Addresses besides the one that a message is sent from (RFC 4555 §3.4).
fn additional(own: &[IpAddr], used: IpAddr) -> impl Iterator<Item = Payload> {
    own.iter()
        .filter(move |ip| **ip != used)
        .take(MAX_ADDRESSES)
        .map(|ip| match ip {
            IpAddr::V4(v4) => notify_data(NotifyType::ADDITIONAL_IP4_ADDRESS, &v4.octets()),
            IpAddr::V6(v6) => notify_data(NotifyType::ADDITIONAL_IP6_ADDRESS, &v6.octets()),
        })
}

/// The list that a message brings, if it brings one: it replaces the former (RFC 4555 §3.6).
fn addresses(payloads: &[Payload]) -> Option<Vec<IpAddr>> {
    let mut list = Vec::new();
    let mut found = false;
    for payload in payloads {
        let Payload::Notify(Notify { kind, data, .. }) = payload else {
            continue;
        };
        let address: Option<IpAddr> = match *kind {
            NotifyType::NO_ADDITIONAL_ADDRESSES => None,
            NotifyType::ADDITIONAL_IP4_ADDRESS => {
                <[u8; 4]>::try_from(data.as_slice()).ok().map(Into::into)
            }
            NotifyType::ADDITIONAL_IP6_ADDRESS => {
                <[u8; 16]>::try_from(data.as_slice()).ok().map(Into::into)
            }
            _ => continue,
        };
        found = true;
        let new = address.filter(|ip| acceptable(*ip) && !list.contains(ip));
        if list.len() < MAX_ADDRESSES {
            list.extend(new);
        }
    }
    found.then_some(list)
}

/// An address that a single host may have.
fn acceptable(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Likely to be translated on the way to an address that is not (RFC 1918, RFC 6598).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || is_shared(v4),
        IpAddr::V6(v6) => Ipv6Addr::is_unique_local(&v6),
    }
}

const fn is_shared(ip: Ipv4Addr) -> bool {
    let octets = ip.octets();
    octets[0] == 100 && octets[1] & 0xc0 == 64
}

/// What NO_NATS_ALLOWED carries (RFC 4555 §4.2.6).
fn tuple(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut out = Vec::new();
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(v4) => out.extend(v4.octets()),
            IpAddr::V6(v6) => out.extend(v6.octets()),
        }
    }
    for port in [source.port(), destination.port()] {
        out.extend(port.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests;
