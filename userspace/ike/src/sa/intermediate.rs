//! Additional key exchanges before IKE_AUTH, one IKE_INTERMEDIATE each (RFC 9242, RFC 9370 §2.2.2),
//! both roles. They are as unauthenticated as IKE_SA_INIT until AUTH covers them: a responder makes
//! as many as it agreed to, in order, within the time that a half-open IKE SA has, and keeps of
//! each no more than the keys and one hash a side.

use core::net::SocketAddr;

use mitregate_wire::ike::{ExchangeType, Header, NotifyType, Payload};

use super::auth::Auth;
use super::message::{Covered, Opened, error, find, notify, notify_data};
use super::window::Purpose;
use super::{IkeSa, Phase, unknown_critical};
use crate::crypto::{KeyPair, Reply, Secret};
use crate::keys::{Keys, Nonces, Side};
use crate::proposal::Group;
use crate::{Ctx, Reason};

/// An IKE_INTERMEDIATE message that holds no KE payload of the method that is next.
const NO_KEY_EXCHANGE: Reason = Reason::Protocol("no key exchange of the agreed method");

impl IkeSa {
    /// The exchange that a responder waits for before it knows its peer.
    pub(super) fn half_open_expects(&self) -> ExchangeType {
        match self.keys.as_ref().and_then(Keys::next_exchange) {
            Some(_) => ExchangeType::IKE_INTERMEDIATE,
            None => ExchangeType::IKE_AUTH,
        }
    }

    /// An initiator's next step: another key exchange, or IKE_AUTH.
    pub(super) fn go_on(&mut self, auth: Auth, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let Some(group) = self.keys.as_ref().and_then(Keys::next_exchange) else {
            return self.start_auth(auth, cx);
        };
        self.phase = Phase::Auth(Box::new(auth));
        let pair = KeyPair::generate(group, cx.rng).ok_or(Reason::Resources("private keys"))?;
        let (exchange, id) = (ExchangeType::IKE_INTERMEDIATE, self.next_request);
        let sealed = self.seal(exchange, false, id, &[pair.payload()], cx.rng)?;
        self.cover(Side::Initiator, &sealed.covered);
        let purpose = Purpose::Intermediate(Box::new(pair));
        self.transmit_request(exchange, purpose, sealed.datagrams, cx)
    }

    /// The response to IKE_INTERMEDIATE.
    pub(super) fn finish_intermediate(
        &mut self,
        pair: &KeyPair,
        payloads: &[Payload],
        covered: &Covered,
        cx: &mut Ctx<'_>,
    ) {
        let Phase::Auth(auth) = core::mem::replace(&mut self.phase, Phase::Established) else {
            return;
        };
        let shared = match error(payloads) {
            Some(notify) => Err(Reason::Refused(notify.kind)),
            None => public_value(pair.group(), payloads)
                .and_then(|data| pair.agree(data).map_err(|_| Reason::InvalidKeyExchange)),
        };
        let gone_on = shared.and_then(|shared| {
            self.cover(Side::Responder, covered);
            self.update_keys(&shared, &auth.nonces)?;
            self.go_on(*auth, cx)
        });
        if let Err(reason) = gone_on {
            self.fail(reason, cx);
        }
    }

    /// The request of IKE_INTERMEDIATE. A refusal is final: whoever can say this much holds the
    /// keys of the exchange before, and there is no second try within one IKE SA.
    pub(super) fn answer_intermediate(
        &mut self,
        header: &Header,
        opened: &Opened,
        local: SocketAddr,
        remote: SocketAddr,
        cx: &mut Ctx<'_>,
    ) {
        let reply = self.reply_to_intermediate(opened, cx);
        let (payload, outcome) = match reply {
            Ok(reply) => (reply.payload(), Ok(reply)),
            Err(reason) => (refusal(reason), Err(reason)),
        };
        let (exchange, id) = (header.exchange, header.message_id);
        let answered = self
            .seal(exchange, true, id, &[payload], cx.rng)
            .and_then(|sealed| {
                self.cover(Side::Initiator, &opened.covered);
                self.cover(Side::Responder, &sealed.covered);
                self.transmit(local, remote, &sealed.datagrams);
                self.remember_answer(id, opened.digest, opened.total, sealed.datagrams)
            });
        let updated = answered.and(outcome).and_then(|reply| {
            let Phase::HalfOpen(state) = &self.phase else {
                return Err(NO_KEY_EXCHANGE);
            };
            let nonces = state.nonces.clone();
            self.update_keys(&reply.secret, &nonces)
        });
        if let Err(reason) = updated {
            self.fail(reason, cx);
        }
    }

    fn reply_to_intermediate(&self, opened: &Opened, cx: &mut Ctx<'_>) -> Result<Reply, Reason> {
        let payloads = opened
            .payloads
            .as_ref()
            .map_err(|error| Reason::Syntax(*error))?;
        if let Some(kind) = unknown_critical(payloads) {
            return Err(Reason::UnsupportedCritical(kind));
        }
        let group = self.keys.as_ref().and_then(Keys::next_exchange);
        let group = group.ok_or(NO_KEY_EXCHANGE)?;
        let data = public_value(group, payloads)?;
        Reply::to(group, data, cx.rng).map_err(|_| Reason::InvalidKeyExchange)
    }

    fn cover(&mut self, side: Side, covered: &Covered) {
        if let Some(keys) = &mut self.keys {
            keys.schedule.cover(side, &covered.clear, covered.inner());
        }
    }

    fn update_keys(&mut self, shared: &Secret, nonces: &Nonces) -> Result<(), Reason> {
        let (spi_i, spi_r, side) = (self.spi_i, self.spi_r, self.side);
        let keys = self.keys.as_ref();
        let updated = keys.and_then(|keys| keys.update(shared, nonces, spi_i, spi_r, side));
        self.keys = Some(updated.ok_or(Reason::Resources("keys"))?);
        Ok(())
    }
}

/// The peer's public value of `group`.
pub(super) fn public_value(group: Group, payloads: &[Payload]) -> Result<&[u8], Reason> {
    find!(payloads, Payload::KeyExchange(ke) => ke)
        .filter(|ke| ke.method == group.id())
        .map(|ke| ke.data.as_slice())
        .ok_or(NO_KEY_EXCHANGE)
}

/// What the peer hears of it.
fn refusal(reason: Reason) -> Payload {
    match reason {
        Reason::UnsupportedCritical(kind) => {
            notify_data(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, &[kind.0])
        }
        _ => notify(NotifyType::INVALID_SYNTAX),
    }
}
