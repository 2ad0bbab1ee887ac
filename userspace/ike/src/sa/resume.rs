//! Session resumption (RFC 5723), both roles: IKE_SESSION_RESUME in the place of IKE_SA_INIT, without
//! a key exchange, and IKE_AUTH without a credential.

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use mitregate_wire::ike::{ExchangeType, Header, Message, Notify, NotifyType, Payload};

use super::auth::Auth;
use super::init::{COOKIE_LEN, MAX_RESTARTS};
use super::message::{find, find_notify, notify, notify_data, random_ike_spi, random_nonce};
use super::window::Purpose;
use super::{IkeSa, Phase, unknown_critical};
use crate::keys::{KeySchedule, Keys, Nonces, Side};
use crate::proposal::{Additional, IkeSuite};
use crate::stateless::reply;
use crate::ticket::{MAX_LIFETIME, ResumptionTicket, TicketState, credential, expiry};
use crate::{Ctx, Directory, Discard, Identity, IkeConfig, Reason, RejectReason, Rejected};

/// What an initiator keeps while it waits for the response.
pub(super) struct Resume {
    ticket: ResumptionTicket,
    nonce: Vec<u8>,
    cookie: Option<Vec<u8>>,
    restarts: u8,
}

/// What is known of the peer, and of us, from the session that goes on.
pub(super) struct Resumed {
    pub(super) peer_id: Identity,
    pub(super) local_id: Identity,
    /// With the additional key exchanges of the first session.
    suite: IkeSuite,
    /// A responder's: when the peer authenticated with its credential, in wall-clock seconds.
    authenticated: u64,
}

impl IkeSa {
    /// Goes on with an earlier session: starts IKE_SESSION_RESUME from `local` to `remote`. Where the
    /// gateway does not take the ticket, or does not answer, IKE_SA_INIT follows.
    #[must_use]
    pub fn initiate_with_ticket(
        config: Arc<IkeConfig>,
        ticket: ResumptionTicket,
        local: SocketAddr,
        remote: SocketAddr,
        cx: &mut Ctx<'_>,
    ) -> Self {
        if !ticket.is_valid(cx.now) || !config.resumption {
            return Self::initiate(config, local, remote, cx);
        }
        let spi_i = random_ike_spi(cx.rng);
        let mut sa = Self::new(Side::Initiator, config, spi_i, local, remote);
        let resume = Resume {
            ticket,
            nonce: random_nonce(cx.rng),
            cookie: None,
            restarts: 0,
        };
        if let Err(reason) = sa.send_resume(resume, cx) {
            sa.fail(reason, cx);
        }
        sa
    }

    /// The ticket that the peer gave in IKE_AUTH, once. Before that, the one that this session was to go on
    /// with, if the peer has said nothing to it: it counts as used only when an IKE SA has come of it
    /// (RFC 5723 §4.3).
    pub fn take_ticket(&mut self) -> Option<ResumptionTicket> {
        self.ticket.take().map(|ticket| *ticket)
    }

    /// This session goes on with an earlier one: no key exchange was made, no credential shown.
    #[must_use]
    pub const fn is_resumed(&self) -> bool {
        self.resumed.is_some()
    }

    /// RFC 5723 §4.3.2.
    fn send_resume(&mut self, resume: Resume, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let mut payloads = Vec::new();
        if let Some(cookie) = &resume.cookie {
            payloads.push(notify_data(NotifyType::COOKIE, cookie));
        }
        let ticket = notify_data(NotifyType::TICKET_OPAQUE, &resume.ticket.opaque);
        payloads.extend(self.init_payloads(None, &resume.nonce, None, cx));
        payloads.push(ticket);
        let exchange = ExchangeType::IKE_SESSION_RESUME;
        let message = self.plain(exchange, false, 0, payloads).emit()?;
        self.next_request = 0;
        self.phase = Phase::Resume(Box::new(resume));
        self.transmit_request(exchange, Purpose::Resume, vec![message], cx)
    }

    /// RFC 5723 §4.3.3: a new session from the beginning. Nobody vouches for what brought us here, and
    /// all that it can do is to make us work.
    pub(super) fn give_up_resuming(&mut self, cx: &mut Ctx<'_>) {
        tracing::info!(
            connection = self.config.name,
            "session not resumed: starting a full one"
        );
        self.outstanding = None;
        if let Err(reason) = self.start_init(cx) {
            self.fail(reason, cx);
        }
    }

    /// Silence says nothing about the ticket: the gateway may just not be there.
    pub(super) fn resuming_unanswered(&mut self, cx: &mut Ctx<'_>) {
        if let Phase::Resume(resume) = core::mem::replace(&mut self.phase, Phase::Dead) {
            self.ticket = Some(Box::new(resume.ticket));
        }
        self.give_up_resuming(cx);
    }

    pub(super) fn handle_resume_response(
        &mut self,
        response: &Message,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
        cx: &mut Ctx<'_>,
    ) -> Result<(), Discard> {
        let payloads = response.payloads.as_slice();
        let Phase::Resume(resume) = &mut self.phase else {
            return Err(Discard::Unexpected);
        };
        if let Some(cookie) = find_notify(payloads, NotifyType::COOKIE) {
            let fresh = COOKIE_LEN.contains(&cookie.data.len())
                && resume.cookie.as_ref() != Some(&cookie.data)
                && resume.restarts < MAX_RESTARTS;
            if !fresh {
                return Err(Discard::BadResponse);
            }
            resume.cookie = Some(cookie.data.clone());
            resume.restarts += 1;
            if let Phase::Resume(resume) = core::mem::replace(&mut self.phase, Phase::Dead)
                && let Err(reason) = self.send_resume(*resume, cx)
            {
                self.fail(reason, cx);
            }
            return Ok(());
        }
        if find_notify(payloads, NotifyType::TICKET_NACK).is_some() {
            self.give_up_resuming(cx);
            return Ok(());
        }
        let nonce_r = find!(payloads, Payload::Nonce(nonce) => nonce);
        let (Some(nonce_r), None, false) = (
            nonce_r,
            unknown_critical(payloads),
            response.spi_r.is_zero(),
        ) else {
            return Err(Discard::BadResponse);
        };
        let Some(request) = self.outstanding.take() else {
            return Err(Discard::Unexpected);
        };
        let Phase::Resume(resume) = core::mem::replace(&mut self.phase, Phase::Dead) else {
            return Err(Discard::Unexpected);
        };
        let Resume { ticket, nonce, .. } = *resume;
        self.taken_up_by(response, local, remote);
        let nonces = Nonces {
            i: nonce,
            r: nonce_r.clone(),
        };
        let auth = Auth {
            nonces,
            own_message: request.datagrams.concat(),
            peer_message: bytes.to_vec(),
        };
        let set = self.set_resumed_keys(ticket.suite, &ticket.sk_d, &auth.nonces);
        self.resumed = Some(Box::new(Resumed {
            peer_id: ticket.peer_id,
            local_id: ticket.local_id,
            suite: ticket.suite,
            authenticated: 0,
        }));
        if let Err(reason) = set.and_then(|()| self.go_on(auth, cx)) {
            self.fail(reason, cx);
        }
        Ok(())
    }

    /// RFC 5723 §5.1.
    fn set_resumed_keys(
        &mut self,
        suite: IkeSuite,
        sk_d: &[u8],
        nonces: &Nonces,
    ) -> Result<(), Reason> {
        // The additional key exchanges went into the old SK_d and are not made again.
        let suite = IkeSuite {
            additional: Additional::default(),
            ..suite
        };
        let schedule = KeySchedule::resume(suite, sk_d, nonces, self.spi_i, self.spi_r);
        let keys = Keys::new(schedule, suite, self.side).ok_or(Reason::Resources("keys"))?;
        self.keys = Some(keys);
        Ok(())
    }

    /// What a client asks for in IKE_AUTH, RFC 5723 §4.1.
    pub(super) fn ticket_request(&self) -> Option<Payload> {
        self.config
            .resumption
            .then(|| notify(NotifyType::TICKET_REQUEST))
    }

    /// The suite of the session, with all key exchanges that its secrets come from.
    fn full_suite(&self) -> Option<IkeSuite> {
        match &self.resumed {
            Some(resumed) => Some(resumed.suite),
            None => self.keys.as_ref().map(|keys| keys.suite),
        }
    }

    /// A gateway's answer to a client that wants a ticket, in IKE_AUTH. `local_id`: who we said we are.
    pub(super) fn answer_ticket_request(
        &self,
        directory: &dyn Directory,
        payloads: &[Payload],
        local_id: &Identity,
        cx: &mut Ctx<'_>,
    ) -> Option<Payload> {
        find_notify(payloads, NotifyType::TICKET_REQUEST)?;
        let given = self.give_ticket(directory, local_id, cx);
        Some(given.unwrap_or_else(|| notify(NotifyType::TICKET_NACK)))
    }

    fn give_ticket(
        &self,
        directory: &dyn Directory,
        local_id: &Identity,
        cx: &mut Ctx<'_>,
    ) -> Option<Payload> {
        let keys = directory.tickets().filter(|_| self.config.resumption)?;
        let now = cx.unix_time.as_secs();
        let authenticated = self.resumed.as_ref().map_or(now, |r| r.authenticated);
        let state = TicketState {
            expires: expiry(now, authenticated),
            authenticated,
            suite: self.full_suite()?,
            sk_d: self.keys.as_ref()?.schedule.sk_d().clone(),
            peer_id: self.peer_id.clone()?,
            local_id: local_id.clone(),
            connection: self.config.name.clone(),
            credential: credential(&self.config),
        };
        let lifetime = u32::try_from(state.expires.checked_sub(now)?).ok()?;
        if lifetime == 0 {
            return None;
        }
        let ticket = keys.seal(&state, now, cx.rng)?;
        let data = [lifetime.to_be_bytes().as_slice(), &ticket].concat();
        Some(notify_data(NotifyType::TICKET_LT_OPAQUE, &data))
    }

    /// A client keeps the ticket that came with IKE_AUTH.
    pub(super) fn keep_ticket(&mut self, payloads: &[Payload], local_id: &Identity, now: Duration) {
        let (Some(notify), true) = (
            find_notify(payloads, NotifyType::TICKET_LT_OPAQUE),
            self.config.resumption,
        ) else {
            return;
        };
        let Some((lifetime, opaque)) = notify.data.split_first_chunk::<4>() else {
            return;
        };
        let (Some(keys), Some(suite), Some(peer_id)) =
            (&self.keys, self.full_suite(), self.peer_id.clone())
        else {
            return;
        };
        let lifetime = Duration::from_secs(u32::from_be_bytes(*lifetime).into()).min(MAX_LIFETIME);
        self.ticket = Some(Box::new(ResumptionTicket {
            opaque: opaque.to_vec(),
            expires: now + lifetime,
            suite,
            sk_d: keys.schedule.sk_d().clone(),
            peer_id,
            local_id: local_id.clone(),
        }));
    }
}

/// A responder's answer to IKE_SESSION_RESUME: a half-open IKE SA, or TICKET_NACK (RFC 5723 §4.3.3).
pub(super) fn respond(
    directory: Arc<dyn Directory>,
    local: SocketAddr,
    remote: SocketAddr,
    header: &Header,
    bytes: &[u8],
    cx: &mut Ctx<'_>,
) -> Result<IkeSa, Rejected> {
    let silent = |reason| Rejected {
        reason,
        reply: None,
    };
    let refuse = |reason, notify| Rejected {
        reason,
        reply: reply(header, notify),
    };
    let message = Message::parse(bytes).map_err(|error| silent(error.into()))?;
    let payloads = message.payloads.as_slice();
    if let Some(kind) = unknown_critical(payloads) {
        let notify = Notify::with_data(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, [kind.0]);
        return Err(refuse(RejectReason::UnsupportedCritical(kind), notify));
    }
    let (Some(ticket), Some(nonce)) = (
        find_notify(payloads, NotifyType::TICKET_OPAQUE),
        find!(payloads, Payload::Nonce(nonce) => nonce),
    ) else {
        return Err(silent(RejectReason::Unexpected));
    };
    let nack = || {
        let notify = Notify::new(NotifyType::TICKET_NACK);
        refuse(RejectReason::Ticket, notify)
    };
    let now = cx.unix_time.as_secs();
    let state = directory
        .tickets()
        .and_then(|keys| keys.open(&ticket.data, now))
        .ok_or_else(nack)?;
    // What the ticket says must still be what is configured.
    let fits = |config: &Arc<IkeConfig>| {
        config.resumption
            && config.name == state.connection
            && credential(config) == state.credential
            && config.proposals.iter().any(|p| p.allows(&state.suite))
    };
    let by_proof = |signed| {
        let (peer, own) = (&state.peer_id, Some(&state.local_id));
        directory.by_proof(local, remote, peer, own, signed)
    };
    let config = [false, true].into_iter().filter_map(by_proof).find(fits);
    let config = config.ok_or_else(nack)?;

    let mut sa = IkeSa::begun_by(header, config, local, remote, payloads, cx);
    let nonces = Nonces {
        i: nonce.clone(),
        r: random_nonce(cx.rng),
    };
    sa.set_resumed_keys(state.suite, &state.sk_d, &nonces)
        .map_err(|_| silent(RejectReason::Resources("keys")))?;
    sa.resumed = Some(Box::new(Resumed {
        peer_id: state.peer_id,
        local_id: state.local_id,
        suite: state.suite,
        authenticated: state.authenticated,
    }));
    let payloads = sa.init_payloads(None, &nonces.r, Some(sa.vendor), cx);
    sa.answer_first(directory, nonces, payloads, bytes, cx)
}
