//! Requests and responses: message IDs, a window of one, retransmission (RFC 7296 §2.1–§2.3).

use core::net::SocketAddr;
use core::time::Duration;

use aws_lc_rs::digest;
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{ExchangeType, Header, NotifyType, Payload};

use super::child::Wanted;
use super::followup::FollowUp;
use super::message::{Opened, find_notify};
use super::mobike::{Ask, Asked};
use super::rekey::WantedIke;
use super::{IkeSa, Phase};
use crate::crypto::KeyPair;
use crate::{Ctx, Output, Reason};

/// Our Delete of an IKE SA is repeated less often than other requests: it is a courtesy.
const DELETE_TRIES: u32 = 3;
/// How often IKE_SESSION_RESUME is repeated before a full session is tried: it should be the fast way.
const RESUME_TRIES: u32 = 2;
/// How often IKE_SA_INIT is repeated after a refusal that nobody signed (RFC 7296 §2.21.1).
const TRIES_AFTER_REFUSAL: u32 = 2;

/// How often a responder repeats its answer to IKE_SA_INIT: nobody has shown yet to receive at the
/// address that it goes to, and it is longer than the request.
const HALF_OPEN_REPEATS: u8 = 16;

/// Our request under way.
pub(super) struct Request {
    pub(super) id: u32,
    pub(super) exchange: ExchangeType,
    pub(super) purpose: Purpose,
    /// In its final form: one, or all fragments.
    pub(super) datagrams: Vec<Vec<u8>>,
    /// Transmissions so far, less one.
    attempt: u32,
    pub(super) due: Duration,
    /// An unprotected refusal, and after how many transmissions it shall count.
    refusal: Option<(Reason, u32)>,
}

/// What a request is for.
pub(super) enum Purpose {
    Init,
    /// IKE_SESSION_RESUME.
    Resume,
    /// An additional key exchange before IKE_AUTH (RFC 9370).
    Intermediate(Box<KeyPair>),
    /// With the first CHILD_SA, if not childless.
    Auth(Option<Box<Wanted>>),
    Child(Box<Wanted>),
    /// An additional key exchange after CREATE_CHILD_SA (RFC 9370).
    FollowUp(Box<FollowUp>),
    DeleteChild(Spi),
    RekeyIke(Box<WantedIke>),
    Liveness,
    Mobike(Asked),
    DeleteIke,
}

/// What we want to request next.
pub(super) struct Task {
    pub(super) not_before: Duration,
    pub(super) work: Work,
}

impl Task {
    pub(super) const fn now(work: Work) -> Self {
        Self {
            not_before: Duration::ZERO,
            work,
        }
    }
}

pub(super) enum Work {
    Child {
        /// Index into the configuration's children.
        config: usize,
        /// Our inbound SPI of the one to be replaced.
        replaces: Option<Spi>,
        /// How often the peer asked to try again later.
        refusals: u8,
        /// How many successors that one had when this was first asked for.
        successors: u32,
    },
    DeleteChild(Spi),
    RekeyIke {
        /// How often the peer asked to try again later.
        refusals: u8,
    },
    Liveness,
    Mobike(Ask),
    DeleteIke,
}

/// The peer's last request, and what we said.
pub(super) struct Answered {
    id: u32,
    /// Of the request, or of its first fragment.
    request: digest::Digest,
    /// Fragments of the request.
    total: u16,
    /// In its final form: one, or all fragments.
    response: Vec<Vec<u8>>,
    /// Transmissions, less one.
    repeats: u8,
}

impl IkeSa {
    /// Sends a request in SK. There is none under way.
    pub(super) fn request(
        &mut self,
        exchange: ExchangeType,
        purpose: Purpose,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) -> Result<(), Reason> {
        let sealed = self.seal(exchange, false, self.next_request, payloads, cx.rng)?;
        self.transmit_request(exchange, purpose, sealed.datagrams, cx)
    }

    /// Sends a request that is in its final form.
    pub(super) fn transmit_request(
        &mut self,
        exchange: ExchangeType,
        purpose: Purpose,
        datagrams: Vec<Vec<u8>>,
        cx: &mut Ctx<'_>,
    ) -> Result<(), Reason> {
        let id = self.next_request;
        // RFC 7296 §2.2: message IDs do not wrap.
        self.next_request = id.checked_add(1).ok_or(Reason::Resources("message IDs"))?;
        self.transmit(self.local, self.remote, &datagrams);
        self.outstanding = Some(Request {
            id,
            exchange,
            purpose,
            datagrams,
            attempt: 0,
            due: cx.now + self.config.retransmit.wait(0, cx.rng),
            refusal: None,
        });
        Ok(())
    }

    pub(super) fn transmit(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        datagrams: &[Vec<u8>],
    ) {
        self.outputs
            .extend(datagrams.iter().map(|message| Output::Transmit {
                local,
                remote,
                message: message.clone(),
            }));
    }

    /// Repeats the request under way if it is due, or gives it up.
    pub(super) fn retransmit(&mut self, cx: &mut Ctx<'_>) {
        let settings = self.config.retransmit;
        let Some(request) = self
            .outstanding
            .as_mut()
            .filter(|request| request.due <= cx.now)
        else {
            return;
        };
        let tries = match request.purpose {
            Purpose::DeleteIke => settings.tries.min(DELETE_TRIES),
            Purpose::Resume => settings.tries.min(RESUME_TRIES),
            _ => settings.tries,
        };
        let refused = request.refusal.filter(|(_, last)| request.attempt >= *last);
        if refused.is_some() || request.attempt >= tries {
            let reason = request
                .refusal
                .map_or(Reason::Timeout, |(reason, _)| reason);
            return self.unanswered(reason, cx);
        }
        request.attempt += 1;
        request.due = cx.now + settings.wait(request.attempt, cx.rng);
        let datagrams = core::mem::take(&mut request.datagrams);
        tracing::debug!(connection = self.config.name, "repeating a request");
        // RFC 7383 §2.6.1: all fragments, as nobody knows which one was lost.
        let attempt = request.attempt;
        self.transmit(self.local, self.remote, &datagrams);
        self.probe(attempt, &datagrams);
        if let Some(request) = &mut self.outstanding {
            request.datagrams = datagrams;
        }
    }

    /// Repeats the request under way at once: the way to the peer is another one, and has not
    /// failed yet.
    pub(super) fn repeat_now(&mut self, cx: &mut Ctx<'_>) {
        let settings = self.config.retransmit;
        if let Some(request) = &mut self.outstanding {
            request.attempt = 0;
            request.due = cx.now + settings.wait(0, cx.rng);
            let datagrams = request.datagrams.clone();
            self.transmit(self.local, self.remote, &datagrams);
        }
    }

    /// Notes a refusal that anybody may have sent: it counts only if nothing better comes soon.
    pub(super) fn note_refusal(&mut self, reason: Reason) {
        if let Some(request) = &mut self.outstanding {
            let last = request.attempt + TRIES_AFTER_REFUSAL;
            request.refusal.get_or_insert((reason, last));
        }
    }

    fn unanswered(&mut self, reason: Reason, cx: &mut Ctx<'_>) {
        match self.phase {
            Phase::Established => self.end(reason, cx),
            Phase::Closing => self.end(Reason::Closed, cx),
            // Perhaps it does not know the exchange.
            Phase::Resume(_) => self.resuming_unanswered(cx),
            _ => self.fail(reason, cx),
        }
    }

    /// Answers the request that was answered last, if this is it once more: byte for byte, lest a
    /// forged message ID get anything out of us. Of a fragmented one the first fragment counts, and
    /// alone (RFC 7383 §2.6.1).
    pub(super) fn answer_again(
        &mut self,
        id: u32,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
    ) -> bool {
        let Some(answered) = self.answered.as_ref().filter(|answered| answered.id == id) else {
            return false;
        };
        let same = answered.request.as_ref() == digest::digest(&digest::SHA256, message).as_ref();
        if !same && !self.is_cut_shorter(message, answered.total) {
            return false;
        }
        let half_open = matches!(self.phase, Phase::HalfOpen(_));
        let Some(mut answered) = self.answered.take() else {
            return false;
        };
        if !half_open || answered.repeats < HALF_OPEN_REPEATS {
            answered.repeats = answered.repeats.saturating_add(1);
            self.transmit(local, remote, &answered.response);
        }
        self.answered = Some(answered);
        true
    }

    /// Is this, to the byte, the request that was answered last?
    pub(super) fn was_answered(&self, message: &[u8]) -> bool {
        let digest = digest::digest(&digest::SHA256, message);
        let answered = self.answered.as_ref();
        answered.is_some_and(|answered| answered.request.as_ref() == digest.as_ref())
    }

    /// Responds in SK to the request with `header`, to where it came from.
    pub(super) fn respond_to(
        &mut self,
        header: &Header,
        payloads: &[Payload],
        local: SocketAddr,
        remote: SocketAddr,
        request: &Opened,
        cx: &mut Ctx<'_>,
    ) -> Result<(), Reason> {
        let response = self.seal(header.exchange, true, header.message_id, payloads, cx.rng)?;
        self.transmit(local, remote, &response.datagrams);
        self.remember_answer(
            header.message_id,
            request.digest,
            request.total,
            response.datagrams,
        )
    }

    /// Keeps a response that is in its final form, and was sent. `total`: fragments of the request.
    pub(super) fn remember_answer(
        &mut self,
        id: u32,
        request: digest::Digest,
        total: u16,
        response: Vec<Vec<u8>>,
    ) -> Result<(), Reason> {
        self.answered = Some(Answered {
            id,
            request,
            total,
            response,
            repeats: 0,
        });
        self.expected = id.checked_add(1).ok_or(Reason::Resources("message IDs"))?;
        Ok(())
    }

    /// Starts what waits, as far as the window allows.
    pub(super) fn start_tasks(&mut self, cx: &mut Ctx<'_>) {
        while matches!(self.phase, Phase::Established) && self.outstanding.is_none() {
            let ready = self.tasks.iter().position(|task| task.not_before <= cx.now);
            let Some(task) = ready.and_then(|index| self.tasks.remove(index)) else {
                return;
            };
            let started = match task.work {
                Work::Child {
                    config,
                    replaces,
                    refusals,
                    successors,
                } => self.request_child(config, replaces, refusals, successors, cx),
                Work::DeleteChild(spi_in) => self.request_delete_child(spi_in, cx),
                Work::RekeyIke { refusals } => self.request_rekey(refusals, cx),
                Work::Liveness => {
                    let payloads = self.liveness_notifies(cx);
                    let exchange = ExchangeType::INFORMATIONAL;
                    self.request(exchange, Purpose::Liveness, &payloads, cx)
                }
                Work::Mobike(ask) => self.request_mobike(ask, cx),
                Work::DeleteIke => self.request_delete_ike(cx),
            };
            if let Err(reason) = started {
                self.end(reason, cx);
            }
        }
    }

    /// Takes in the response to a request, which came to the first of the two addresses from the
    /// second; both were in SK.
    pub(super) fn finish_request(
        &mut self,
        request: Request,
        payloads: &[Payload],
        (local, remote): (SocketAddr, SocketAddr),
        cx: &mut Ctx<'_>,
    ) {
        // RFC 7296 §2.21.3: fatal for both sides, without a Delete.
        if matches!(self.phase, Phase::Established)
            && find_notify(payloads, NotifyType::INVALID_SYNTAX).is_some()
        {
            return self.end(Reason::Refused(NotifyType::INVALID_SYNTAX), cx);
        }
        match request.purpose {
            // Not in SK; and with what AUTH covers.
            Purpose::Init | Purpose::Resume | Purpose::Intermediate(_) => {}
            Purpose::Auth(wanted) => self.finish_auth(wanted.as_deref(), payloads, cx),
            Purpose::Child(wanted) => self.finish_child(*wanted, payloads, cx),
            Purpose::FollowUp(follow_up) => self.finish_follow_up(*follow_up, payloads, cx),
            Purpose::DeleteChild(spi_in) => self.finish_delete_child(spi_in, cx),
            Purpose::RekeyIke(wanted) => self.finish_rekey(*wanted, payloads, cx),
            Purpose::Liveness => {
                self.finish_liveness(payloads);
                self.outputs.push_back(Output::LivenessAnswered);
            }
            Purpose::Mobike(asked) => self.finish_mobike(asked, payloads, local, remote, cx),
            Purpose::DeleteIke => self.end(Reason::Closed, cx),
        }
    }
}
