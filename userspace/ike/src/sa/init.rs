//! IKE_SA_INIT (RFC 7296 §1.2, §2.6, §2.7), both roles.

use core::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::digest;
use mitregate_wire::ike::{
    ExchangeType, Header, KeyExchangeId, Message, Notify, NotifyType, PORT, PORT_NAT_T, ParseError,
    Payload,
};

use super::auth::{Auth, HalfOpen};
use super::certificates::{Hints, announce_hashes, certificate_request};
use super::message::{error, find, find_notify, notify, notify_data, random_ike_spi, random_nonce};
use super::window::Purpose;
use super::{HALF_OPEN, IkeSa, Phase, unknown_critical};
use crate::capabilities::{Vendor, offers_plain_esp, vendor_ids};
use crate::config::{Childless, EncapMode};
use crate::crypto::{KeyPair, Reply, Secret};
use crate::keys::{KeySchedule, Keys, Nonces, Side};
use crate::proposal::{
    Group, IkeSuite, accept_ike, choose_ike, have_additional, ike_groups, offer_ike, offered,
    wanted,
};
use crate::stateless::reply;
use crate::{Ctx, Directory, Discard, Encap, IkeConfig, Reason, RejectReason, Rejected, nat};

/// How often an initiator starts over because a responder wants a cookie or another group:
/// neither says who it is, so this must have an end.
pub(super) const MAX_RESTARTS: u8 = 5;
/// RFC 7296 §2.6.
pub(super) const COOKIE_LEN: core::ops::RangeInclusive<usize> = 1..=64;

/// What an initiator keeps while it waits for the response.
pub(super) struct Init {
    key_pair: KeyPair,
    nonce: Vec<u8>,
    cookie: Option<Vec<u8>>,
    restarts: u8,
}

impl IkeSa {
    pub(super) fn start_init(&mut self, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let group = ike_groups(&self.config.proposals)
            .next()
            .ok_or(Reason::NoProposalChosen)?;
        if self.config.children.is_empty() {
            return Err(Reason::NoSuchChild);
        }
        let key_pair = KeyPair::generate(group, cx.rng).ok_or(Reason::Resources("private keys"))?;
        let nonce = random_nonce(cx.rng);
        self.send_init(
            Init {
                key_pair,
                nonce,
                cookie: None,
                restarts: 0,
            },
            cx,
        )
    }

    fn send_init(&mut self, init: Init, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let mut payloads = Vec::new();
        if let Some(cookie) = &init.cookie {
            payloads.push(notify_data(NotifyType::COOKIE, cookie));
        }
        payloads.push(Payload::Sa(offer_ike(&self.config.proposals, &[])));
        let ke = init.key_pair.payload();
        payloads.extend(self.init_payloads(Some(ke), &init.nonce, None, cx));
        // RFC 9370 §2.2.1.
        if have_additional(&self.config.proposals) {
            payloads.push(notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
        }
        payloads.extend(announce_hashes(core::iter::once(&*self.config)));
        let message = self
            .plain(ExchangeType::IKE_SA_INIT, false, 0, payloads)
            .emit()?;
        // RFC 7296 §2.2: with a cookie or another group it is message 0 again.
        self.next_request = 0;
        self.phase = Phase::Init(Box::new(init));
        self.transmit_request(ExchangeType::IKE_SA_INIT, Purpose::Init, vec![message], cx)
    }

    /// What request and response have in common, from KE on; `peer` is what a responder has seen.
    pub(super) fn init_payloads(
        &self,
        ke: Option<Payload>,
        nonce: &[u8],
        peer: Option<Vendor>,
        cx: &mut Ctx<'_>,
    ) -> Vec<Payload> {
        let force = self.config.encap == EncapMode::Udp;
        let mut payloads = Vec::from_iter(ke);
        payloads.push(Payload::Nonce(nonce.to_vec()));
        if self.config.mobike.nats_allowed {
            payloads.extend(nat::notifies(
                self.spi_i,
                self.spi_r,
                self.local,
                self.remote,
                force,
                cx.rng,
            ));
        }
        // RFC 7383 §2.3: a responder says so only to an initiator that did.
        let announce = self.config.fragmentation.mode.announces();
        if announce && (peer.is_none() || self.fragmentation) {
            payloads.push(notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
        }
        payloads.extend(vendor_ids(&self.config, peer));
        // RFC 6023 §3: the responder announces it.
        if peer.is_some() && self.config.childless != Childless::Never {
            payloads.push(notify(NotifyType::CHILDLESS_IKEV2_SUPPORTED));
        }
        payloads
    }

    /// Whatever this says, nobody vouches for it: errors are acted on only where RFC 7296 §2.21.1
    /// names a remedy, and a response that leads nowhere is as if it had not come.
    pub(super) fn handle_init_response(
        &mut self,
        response: &Message,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
        cx: &mut Ctx<'_>,
    ) -> Result<(), Discard> {
        let payloads = response.payloads.as_slice();
        if let Some(cookie) = find_notify(payloads, NotifyType::COOKIE) {
            let cookie = cookie.data.clone();
            return self.restart_with_cookie(cookie, cx);
        }
        match error(payloads) {
            Some(notify) if notify.kind == NotifyType::INVALID_KE_PAYLOAD => {
                let data = <[u8; 2]>::try_from(notify.data.as_slice());
                let group = data
                    .ok()
                    .and_then(|id| Group::from_id(KeyExchangeId(u16::from_be_bytes(id))));
                return self.restart_with_group(group, cx);
            }
            Some(notify) => {
                if notify.kind == NotifyType::NO_PROPOSAL_CHOSEN {
                    let offered = wanted(&self.config.proposals);
                    tracing::info!(connection = self.config.name, %offered, "peer takes none of our IKE proposals");
                }
                self.note_refusal(Reason::Refused(notify.kind));
                return Err(Discard::Unprotected);
            }
            None => {}
        }
        if unknown_critical(payloads).is_some() || response.spi_r.is_zero() {
            return Err(Discard::BadResponse);
        }
        let (Some(sa), Some(ke), Some(nonce_r)) = (
            find!(payloads, Payload::Sa(proposals) => proposals),
            find!(payloads, Payload::KeyExchange(ke) => ke),
            find!(payloads, Payload::Nonce(nonce) => nonce),
        ) else {
            return Err(Discard::BadResponse);
        };
        let Phase::Init(init) = &self.phase else {
            return Err(Discard::Unexpected);
        };
        let suite = accept_ike(&self.config.proposals, sa).ok_or(Discard::BadResponse)?;
        // RFC 9242 §3.1: without it the peer would not go on as it chose.
        let goes_on = find_notify(payloads, NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED).is_some();
        if !suite.additional.is_empty() && !goes_on {
            return Err(Discard::BadResponse);
        }
        if suite.group != init.key_pair.group() || ke.method != suite.group.id() {
            return Err(Discard::BadResponse);
        }
        let shared = init
            .key_pair
            .agree(&ke.data)
            .map_err(|_| Discard::BadResponse)?;
        let nonces = Nonces {
            i: init.nonce.clone(),
            r: nonce_r.clone(),
        };
        let Some(request) = self.outstanding.take() else {
            return Err(Discard::Unexpected);
        };
        self.taken_up_by(response, local, remote);
        self.hints = Hints::of(payloads);
        let auth = Auth {
            nonces,
            own_message: request.datagrams.concat(),
            peer_message: bytes.to_vec(),
        };
        if let Err(reason) = self
            .set_keys(suite, &shared, &auth.nonces)
            .and_then(|()| self.go_on(auth, cx))
        {
            self.fail(reason, cx);
        }
        Ok(())
    }

    fn restart_with_cookie(&mut self, cookie: Vec<u8>, cx: &mut Ctx<'_>) -> Result<(), Discard> {
        self.restart(cx, |init, _| {
            let new = COOKIE_LEN.contains(&cookie.len()) && init.cookie.as_ref() != Some(&cookie);
            new.then(|| init.cookie = Some(cookie))
        })
    }

    fn restart_with_group(
        &mut self,
        group: Option<Group>,
        cx: &mut Ctx<'_>,
    ) -> Result<(), Discard> {
        let ours = ike_groups(&self.config.proposals).collect::<Vec<_>>();
        self.restart(cx, |init, cx| {
            // RFC 7296 §1.2: only a group that was offered, and not the one just sent.
            let group = group.filter(|g| ours.contains(g) && *g != init.key_pair.group())?;
            init.key_pair = KeyPair::generate(group, cx.rng)?;
            Some(())
        })
    }

    /// Sends IKE_SA_INIT again, changed; or leaves everything as it is.
    fn restart(
        &mut self,
        cx: &mut Ctx<'_>,
        change: impl FnOnce(&mut Init, &mut Ctx<'_>) -> Option<()>,
    ) -> Result<(), Discard> {
        let Phase::Init(init) = &mut self.phase else {
            return Err(Discard::Unexpected);
        };
        if init.restarts == MAX_RESTARTS || change(init, cx).is_none() {
            return Err(Discard::BadResponse);
        }
        init.restarts += 1;
        let Phase::Init(init) = core::mem::replace(&mut self.phase, Phase::Dead) else {
            return Err(Discard::Unexpected);
        };
        if let Err(reason) = self.send_init(*init, cx) {
            self.fail(reason, cx);
        }
        Ok(())
    }

    pub(super) fn set_keys(
        &mut self,
        suite: IkeSuite,
        shared: &Secret,
        nonces: &Nonces,
    ) -> Result<(), Reason> {
        let schedule = KeySchedule::derive(suite, shared, nonces, self.spi_i, self.spi_r);
        let keys = Keys::new(schedule, suite, self.side).ok_or(Reason::Resources("keys"))?;
        self.keys = Some(keys);
        Ok(())
    }

    /// RFC 7383 §2.3: used where both sides have said so.
    pub(super) fn settle_fragmentation(&mut self, peer: &[Payload]) {
        let supported = NotifyType::IKEV2_FRAGMENTATION_SUPPORTED;
        self.fragmentation =
            self.config.fragmentation.mode.announces() && find_notify(peer, supported).is_some();
    }

    /// Plain ESP or UDP, from what NAT detection saw; `plain_esp`: both sides announced it.
    pub(super) fn settle_encap(&mut self, detected: Option<crate::Nat>, plain_esp: bool) {
        let detected = detected.filter(|_| self.config.mobike.nats_allowed);
        self.note_nat_detection(detected.is_some(), plain_esp);
        self.nat = detected.unwrap_or_default();
        let wanted = self.nat.local || self.nat.remote || self.config.encap == EncapMode::Udp;
        // Without a word on NAT from the peer there is no UDP encapsulation to be had.
        self.encap = if detected.is_some() && wanted && !plain_esp {
            Encap::Udp
        } else {
            Encap::Esp
        };
    }

    /// RFC 7296 §2.23: both ports go to 4500, unless they are none of 500 to begin with.
    pub(super) fn float(&mut self) {
        for address in [&mut self.local, &mut self.remote] {
            if address.port() == PORT {
                address.set_port(PORT_NAT_T);
            }
        }
    }
}

/// See [`IkeSa::respond`].
pub(super) fn respond(
    directory: Arc<dyn Directory>,
    local: SocketAddr,
    remote: SocketAddr,
    bytes: &[u8],
    cx: &mut Ctx<'_>,
) -> Result<IkeSa, Rejected> {
    let header = Header::parse(bytes).map_err(|error| silent(error.into()))?;
    let refuse = |reason, notify| Rejected {
        reason,
        reply: reply(&header, notify),
    };
    let major = header.version >> 4;
    if major != 2 {
        let reason = RejectReason::MajorVersion(major);
        // RFC 7296 §2.5: higher versions are answered, lower ones dropped.
        let answer = major > 2 && !header.flags.response;
        return Err(if answer {
            refuse(reason, Notify::new(NotifyType::INVALID_MAJOR_VERSION))
        } else {
            silent(reason)
        });
    }
    // RFC 7296 §2.21.4: requests may be told that there is no such IKE SA, responses never.
    if !header.spi_r.is_zero() && !header.flags.response {
        return Err(refuse(
            RejectReason::UnknownSpi,
            Notify::new(NotifyType::INVALID_IKE_SPI),
        ));
    }
    let resume = header.exchange == ExchangeType::IKE_SESSION_RESUME;
    let first = (resume || header.exchange == ExchangeType::IKE_SA_INIT)
        && header.flags.initiator
        && !header.flags.response
        && header.message_id == 0
        && !header.spi_i.is_zero();
    if !first {
        return Err(silent(RejectReason::Unexpected));
    }
    if resume {
        return super::resume::respond(directory, local, remote, &header, bytes, cx);
    }
    // RFC 7296 §3.10.1: INVALID_SYNTAX is never sent in clear.
    let message = Message::parse(bytes).map_err(|error| silent(error.into()))?;
    let payloads = message.payloads.as_slice();
    if let Some(kind) = unknown_critical(payloads) {
        let notify = Notify::with_data(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, [kind.0]);
        return Err(refuse(RejectReason::UnsupportedCritical(kind), notify));
    }
    let (Some(sa), Some(ke), Some(nonce)) = (
        find!(payloads, Payload::Sa(proposals) => proposals),
        find!(payloads, Payload::KeyExchange(ke) => ke),
        find!(payloads, Payload::Nonce(nonce) => nonce),
    ) else {
        return Err(silent(ParseError::Truncated.into()));
    };
    let candidates = directory.by_address(local, remote);
    let no_proposal = |reason| refuse(reason, Notify::new(NotifyType::NO_PROPOSAL_CHOSEN));
    if candidates.is_empty() {
        return Err(no_proposal(RejectReason::UnknownPeer));
    }
    let intermediate = find_notify(payloads, NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED).is_some();
    let choice = candidates.iter().find_map(|config| {
        let (suite, answer) = choose_ike(&config.proposals, sa, Group::from_id(ke.method))?;
        let possible = suite.additional.is_empty() || intermediate;
        possible.then(|| (config.clone(), suite, answer))
    });
    let Some((config, suite, answer)) = choice else {
        let config = &candidates[0];
        tracing::info!(
            connection = config.name,
            offered = %offered(sa),
            wanted = %wanted(&config.proposals),
            "no common IKE proposal"
        );
        return Err(no_proposal(RejectReason::NoProposalChosen));
    };
    if suite.group.id() != ke.method {
        let wanted = suite.group.id().0.to_be_bytes();
        let notify = Notify::with_data(NotifyType::INVALID_KE_PAYLOAD, wanted);
        return Err(refuse(RejectReason::InvalidKePayload, notify));
    }
    let reply = Reply::to(suite.group, &ke.data, cx.rng)
        .map_err(|_| silent(RejectReason::InvalidKeyExchange))?;

    let mut sa = IkeSa::begun_by(&header, config, local, remote, payloads, cx);
    sa.hints = Hints::of(payloads);
    let nonces = Nonces {
        i: nonce.clone(),
        r: random_nonce(cx.rng),
    };
    sa.set_keys(suite, &reply.secret, &nonces)
        .map_err(|_| silent(RejectReason::Resources("keys")))?;
    let mut payloads = vec![Payload::Sa(vec![answer])];
    payloads.extend(sa.init_payloads(Some(reply.payload()), &nonces.r, Some(sa.vendor), cx));
    if !suite.additional.is_empty() {
        payloads.push(notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
    }
    // Until IKE_AUTH says which, it may be any of them.
    let candidates = || candidates.iter().map(|config| &**config);
    payloads.extend(certificate_request(candidates()));
    payloads.extend(announce_hashes(candidates()));
    sa.answer_first(directory, nonces, payloads, bytes, cx)
}

impl IkeSa {
    /// The initiator's side of what the first response says about the peer and the way to it.
    pub(super) fn taken_up_by(
        &mut self,
        response: &Message,
        local: SocketAddr,
        remote: SocketAddr,
    ) {
        let payloads = response.payloads.as_slice();
        self.spi_r = response.spi_r;
        self.vendor = Vendor::of(payloads);
        self.peer_childless =
            find_notify(payloads, NotifyType::CHILDLESS_IKEV2_SUPPORTED).is_some();
        self.settle_fragmentation(payloads);
        let detected = nat::detect(self.spi_i, self.spi_r, local, remote, payloads);
        let plain_esp = offers_plain_esp(&self.config, None) && self.vendor.plain_esp_behind_nat;
        self.settle_encap(detected, plain_esp);
        if self.encap == Encap::Udp || self.floats() {
            self.float();
        }
    }

    /// The responder's side of what the first request with `header` and `payloads` begins.
    pub(super) fn begun_by(
        header: &Header,
        config: Arc<IkeConfig>,
        local: SocketAddr,
        remote: SocketAddr,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) -> Self {
        let mut sa = Self::new(Side::Responder, config, header.spi_i, local, remote);
        let detected = nat::detect(header.spi_i, header.spi_r, local, remote, payloads);
        sa.spi_r = random_ike_spi(cx.rng);
        sa.vendor = Vendor::of(payloads);
        sa.settle_fragmentation(payloads);
        let plain_esp = offers_plain_esp(&sa.config, Some(sa.vendor));
        sa.settle_encap(detected, plain_esp);
        sa
    }

    /// Answers the first request, `bytes`, with `payloads`, and waits for IKE_AUTH.
    pub(super) fn answer_first(
        mut self,
        directory: Arc<dyn Directory>,
        nonces: Nonces,
        payloads: Vec<Payload>,
        bytes: &[u8],
        cx: &Ctx<'_>,
    ) -> Result<Self, Rejected> {
        let exchange = Header::parse(bytes)
            .map_err(|error| silent(error.into()))?
            .exchange;
        let response = self
            .plain(exchange, true, 0, payloads)
            .emit()
            .map_err(|error| silent(error.into()))?;
        self.phase = Phase::HalfOpen(Box::new(HalfOpen {
            directory,
            nonces,
            own_message: response.clone(),
            peer_message: bytes.to_vec(),
        }));
        self.expires = Some(cx.now + HALF_OPEN);
        let response = vec![response];
        self.transmit(self.local, self.remote, &response);
        let request = digest::digest(&digest::SHA256, bytes);
        self.remember_answer(0, request, 1, response)
            .map_err(|_| silent(RejectReason::Resources("keys")))?;
        Ok(self)
    }
}

const fn silent(reason: RejectReason) -> Rejected {
    Rejected {
        reason,
        reply: None,
    }
}
