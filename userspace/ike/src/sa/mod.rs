//! One IKE SA: what it knows, and how calls and messages reach the exchange they belong to.

mod auth;
mod certificates;
mod child;
mod configuration;
mod followup;
#[cfg(any(test, feature = "forge"))]
mod forge;
mod fragment;
mod grant;
mod informational;
mod init;
mod intermediate;
mod message;
mod mobike;
mod rekey;
mod resume;
mod window;

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use mitregate_wire::TrafficSelector;
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{
    ExchangeType, Header, IkeSpi, Message, NotifyType, Payload, PayloadType,
};

use crate::capabilities::Vendor;
use crate::cert::CertError;
use crate::keys::{Keys, Side};
use crate::proposal::IkeSuite;
use crate::{Ctx, Directory, Discard, Encap, Identity, IkeConfig, Nat, Output, Reason, Rejected};

use child::Child;
use configuration::Configured;
pub use configuration::{Assigned, Leases, NoLeases};
use fragment::Reassembly;
use mobike::Mobility;
use window::{Answered, Purpose, Request, Task};

/// How long an IKE SA that is over still answers retransmissions.
const LINGER: Duration = Duration::from_secs(10);
/// How long a responder waits for IKE_AUTH.
const HALF_OPEN: Duration = Duration::from_secs(30);

/// What an operator sees of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// IKE_SA_INIT or IKE_AUTH is under way.
    Connecting,
    /// Both sides are authenticated.
    Established,
    /// Our Delete is under way.
    Closing,
    /// Over; retransmissions are still answered for a while.
    Dead,
}

/// A look at one CHILD_SA.
#[derive(Clone, Copy, Debug)]
pub struct ChildView<'a> {
    /// Its name in the configuration.
    pub name: &'a str,
    /// The SPI we receive on.
    pub spi_in: Spi,
    /// The SPI we send on.
    pub spi_out: Spi,
    /// Our side, as narrowed.
    pub local_ts: &'a [TrafficSelector],
    /// The peer's side, as narrowed.
    pub remote_ts: &'a [TrafficSelector],
}

/// How far it has come, with what only that stretch of the way needs.
enum Phase {
    /// Initiator: IKE_SA_INIT is on its way.
    Init(Box<init::Init>),
    /// Initiator: IKE_SESSION_RESUME is on its way.
    Resume(Box<resume::Resume>),
    /// Initiator: IKE_AUTH is on its way.
    Auth(Box<auth::Auth>),
    /// Responder: waits for IKE_AUTH.
    HalfOpen(Box<auth::HalfOpen>),
    Established,
    /// A successor has its CHILD_SAs; the peer is to delete it.
    Replaced,
    Closing,
    Dead,
}

/// One IKE SA; see the crate's page for how to drive it. Holds secrets, so it has no `Debug`.
pub struct IkeSa {
    side: Side,
    phase: Phase,
    /// A responder's is the best guess until the peer has said who it is.
    config: Arc<IkeConfig>,
    peer_id: Option<Identity>,
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    local: SocketAddr,
    remote: SocketAddr,
    /// Where the peer was, or was thought to be, at the very first.
    first_remote: SocketAddr,
    keys: Option<Keys>,
    vendor: Vendor,
    /// A responder said that it does without a first CHILD_SA (RFC 6023).
    peer_childless: bool,
    /// Which certificates and signatures the peer can check.
    hints: certificates::Hints,
    /// What was wrong with the peer's certificate.
    certificate_error: Option<CertError>,
    cp: Configured,
    nat: Nat,
    encap: Encap,
    /// Both sides announced RFC 7383.
    fragmentation: bool,
    reassembly: Reassembly,
    mobike: Mobility,
    /// Goes on with an earlier session.
    resumed: Option<Box<resume::Resumed>>,
    /// An initiator's, as it proved it, until the response.
    own_identity: Option<Identity>,
    /// What the peer gave for the next, or what it has said nothing to.
    ticket: Option<Box<crate::ResumptionTicket>>,

    /// Message ID of our next request.
    next_request: u32,
    /// Our request under way: there is at most one (window size 1, RFC 7296 §2.3).
    outstanding: Option<Request>,
    /// What we want to request next.
    tasks: VecDeque<Task>,
    /// Message ID of the peer's next request.
    expected: u32,
    /// The peer's last request and our response, for when it asks again.
    answered: Option<Answered>,

    /// Oldest first.
    children: Vec<Child>,
    /// Inbound SPIs that are allocated and no CHILD_SA yet.
    unborn: Vec<Spi>,
    /// SPIs that the peer deleted and that we do not know: perhaps of the CHILD_SA that we wait to
    /// hear of.
    stillborn: Vec<u32>,
    /// The peer's successor to this IKE SA, while our own request for one is under way.
    rival: Option<rekey::Rival>,
    /// The peer's CREATE_CHILD_SA that more key exchanges are to follow.
    awaited: Option<Box<followup::Awaited>>,
    /// How often a rekey of the IKE SA by the peer was refused.
    refused: u8,
    /// A successor was handed out: of what becomes of this one nobody needs to hear.
    replaced: bool,
    /// When a half-open, replaced or dead IKE SA goes.
    expires: Option<Duration>,
    outputs: VecDeque<Output>,
}

/// What becomes of the IKE SA once the response to a request is on its way.
enum Fate {
    GoesOn,
    /// A successor takes its place.
    Replaced(Box<IkeSa>),
    /// There is to be no response.
    Ignored,
    /// It never came to be.
    Fails(Reason),
    /// It is over.
    Ends(Reason),
}

impl IkeSa {
    /// Starts IKE_SA_INIT from `local` to `remote` (port 500, or 4500 right away).
    #[must_use]
    pub fn initiate(
        config: Arc<IkeConfig>,
        local: SocketAddr,
        remote: SocketAddr,
        cx: &mut Ctx<'_>,
    ) -> Self {
        let spi_i = message::random_ike_spi(cx.rng);
        let mut sa = Self::new(Side::Initiator, config, spi_i, local, remote);
        if let Err(reason) = sa.start_init(cx) {
            sa.fail(reason, cx);
        }
        sa
    }

    /// Answers a datagram that belongs to no IKE SA: makes a half-open one of a good IKE_SA_INIT
    /// request, and otherwise says what to send back, if anything. Under load, let a
    /// [`CookieJar`](crate::CookieJar) have a look at it before.
    pub fn respond(
        directory: Arc<dyn Directory>,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
        cx: &mut Ctx<'_>,
    ) -> Result<Self, Rejected> {
        init::respond(directory, local, remote, message, cx)
    }

    fn new(
        side: Side,
        config: Arc<IkeConfig>,
        spi_i: IkeSpi,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Self {
        Self {
            side,
            phase: Phase::Dead,
            config,
            peer_id: None,
            spi_i,
            spi_r: IkeSpi::ZERO,
            local,
            remote,
            first_remote: remote,
            keys: None,
            vendor: Vendor::default(),
            peer_childless: false,
            hints: certificates::Hints::default(),
            certificate_error: None,
            cp: Configured::default(),
            nat: Nat::default(),
            encap: Encap::Esp,
            fragmentation: false,
            reassembly: Reassembly::default(),
            mobike: Mobility::default(),
            resumed: None,
            own_identity: None,
            ticket: None,
            next_request: 0,
            outstanding: None,
            tasks: VecDeque::new(),
            expected: 0,
            answered: None,
            children: Vec::new(),
            unborn: Vec::new(),
            stillborn: Vec::new(),
            rival: None,
            awaited: None,
            refused: 0,
            replaced: false,
            expires: None,
            outputs: VecDeque::new(),
        }
    }

    /// Takes in a message that came from `remote` to `local`. The error is for counters and logs:
    /// nothing needs to be done about it.
    pub fn handle_message(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
        cx: &mut Ctx<'_>,
    ) -> Result<(), Discard> {
        let header = Header::parse(message)?;
        let first = matches!(
            header.exchange,
            ExchangeType::IKE_SA_INIT | ExchangeType::IKE_SESSION_RESUME
        );
        let known =
            header.spi_r == self.spi_r || first && (header.spi_r.is_zero() || self.spi_r.is_zero());
        if header.spi_i != self.spi_i || !known {
            return Err(Discard::WrongSpi);
        }
        if header.flags.initiator == (self.side == Side::Initiator) {
            return Err(Discard::Unexpected);
        }
        if header.flags.response {
            self.handle_response(&header, local, remote, message, cx)?;
        } else {
            self.handle_request(&header, local, remote, message, cx)?;
        }
        self.start_tasks(cx);
        Ok(())
    }

    fn handle_request(
        &mut self,
        header: &Header,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
        cx: &mut Ctx<'_>,
    ) -> Result<(), Discard> {
        if self.answer_again(header.message_id, local, remote, message) {
            return Ok(());
        }
        if header.message_id != self.expected {
            return Err(Discard::MessageId);
        }
        let fits = match self.phase {
            Phase::HalfOpen(_) => header.exchange == self.half_open_expects(),
            Phase::Established | Phase::Replaced | Phase::Closing => matches!(
                header.exchange,
                ExchangeType::CREATE_CHILD_SA
                    | ExchangeType::INFORMATIONAL
                    | ExchangeType::IKE_FOLLOWUP_KE
            ),
            _ => false,
        };
        if !fits {
            return Err(Discard::Unexpected);
        }
        let Some(opened) = self.open(message, cx.now)? else {
            return Ok(());
        };
        if header.exchange == ExchangeType::IKE_INTERMEDIATE {
            self.answer_intermediate(header, &opened, local, remote, cx);
            return Ok(());
        }
        self.follow(local, remote, cx.now);

        let half_open = match core::mem::replace(&mut self.phase, Phase::Established) {
            Phase::HalfOpen(half_open) => Some(half_open),
            phase => {
                self.phase = phase;
                None
            }
        };
        let fails = |reason| match half_open {
            Some(_) => Fate::Fails(reason),
            None => Fate::Ends(reason),
        };
        let (answer, fate) = match (&opened.payloads, half_open.as_deref()) {
            // RFC 7296 §2.21.3: fatal for both sides, without a Delete.
            (Err(error), _) => (
                vec![message::notify(NotifyType::INVALID_SYNTAX)],
                fails((*error).into()),
            ),
            (Ok(payloads), half_open_state) => {
                match (unknown_critical(payloads), half_open_state) {
                    // RFC 7296 §2.5, §2.21.3: this request alone is refused; §2.21.2: IKE_AUTH as a
                    // whole.
                    (Some(kind), state) => {
                        let data = [kind.0];
                        let refusal =
                            message::notify_data(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, &data);
                        let fate = match state {
                            Some(_) => Fate::Fails(Reason::UnsupportedCritical(kind)),
                            None => Fate::GoesOn,
                        };
                        (vec![refusal], fate)
                    }
                    (None, Some(state)) => self.answer_auth(state, payloads, local, remote, cx),
                    (None, None) if header.exchange == ExchangeType::CREATE_CHILD_SA => {
                        self.answer_create_child(payloads, cx)
                    }
                    (None, None) if header.exchange == ExchangeType::IKE_FOLLOWUP_KE => {
                        self.answer_follow_up(payloads, cx)
                    }
                    (None, None) => {
                        let mobike = self.answer_mobike(payloads, local, remote, cx);
                        let (mut answer, fate) = self.answer_informational(payloads);
                        answer.extend(mobike);
                        (answer, fate)
                    }
                }
            }
        };
        if matches!(fate, Fate::Ignored) {
            return Err(Discard::Ignored);
        }
        let fate = match self.respond_to(header, &answer, local, remote, &opened, cx) {
            Ok(()) => fate,
            Err(reason) => fails(reason),
        };
        match fate {
            Fate::GoesOn | Fate::Ignored => {}
            Fate::Replaced(successor) => self.be_replaced(successor, cx),
            Fate::Fails(reason) => self.fail(reason, cx),
            Fate::Ends(reason) => self.end(reason, cx),
        }
        Ok(())
    }

    fn handle_response(
        &mut self,
        header: &Header,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
        cx: &mut Ctx<'_>,
    ) -> Result<(), Discard> {
        let request = self.outstanding.as_ref().ok_or(Discard::Unexpected)?;
        if header.message_id != request.id {
            return Err(Discard::MessageId);
        }
        if header.exchange != request.exchange {
            return Err(Discard::Unexpected);
        }
        if let Phase::Init(_) = self.phase {
            let response = Message::parse(message)?;
            return self.handle_init_response(&response, local, remote, message, cx);
        }
        if let Phase::Resume(_) = self.phase {
            let response = Message::parse(message)?;
            return self.handle_resume_response(&response, local, remote, message, cx);
        }
        if message::is_invalid_ike_spi(message) {
            return Err(Discard::NoSuchIkeSa);
        }
        let Some(opened) = self.open(message, cx.now)? else {
            return Ok(());
        };
        self.follow(local, remote, cx.now);
        let Some(request) = self.outstanding.take() else {
            return Err(Discard::Unexpected);
        };
        let payloads = opened.payloads.map_err(Reason::from).and_then(|payloads| {
            match unknown_critical(&payloads) {
                Some(kind) => Err(Reason::UnsupportedCritical(kind)),
                None => Ok(payloads),
            }
        });
        match payloads {
            Ok(payloads) => match request.purpose {
                Purpose::Intermediate(pair) => {
                    self.finish_intermediate(&pair, &payloads, &opened.covered, cx);
                }
                _ => self.finish_request(request, &payloads, (local, remote), cx),
            },
            Err(reason) => self.give_up_on(reason, cx),
        }
        self.settle_on(local, remote, cx);
        Ok(())
    }

    /// The response to a request makes no sense: neither side can know what the other believes.
    fn give_up_on(&mut self, reason: Reason, cx: &mut Ctx<'_>) {
        match self.phase {
            Phase::Established => {
                tracing::info!(connection = self.config.name, %reason, "closing IKE SA");
                self.close(cx);
            }
            Phase::Closing => self.end(Reason::Closed, cx),
            _ => self.fail(reason, cx),
        }
    }

    /// Does what is due at `cx.now`.
    pub fn handle_timeout(&mut self, cx: &mut Ctx<'_>) {
        if self.expires.is_some_and(|at| at <= cx.now) {
            self.expires = None;
            match self.phase {
                Phase::HalfOpen(_) => self.fail(Reason::HalfOpen, cx),
                _ => {
                    self.let_go(cx);
                    self.outputs.push_back(Output::Dead);
                }
            }
            return;
        }
        self.reassembly.expire(cx.now);
        self.expire_follow_up(cx);
        self.retransmit(cx);
        self.start_tasks(cx);
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let request = self.outstanding.as_ref().map(|request| request.due);
        let task = match (request, &self.phase) {
            (None, Phase::Established) => self.tasks.iter().map(|task| task.not_before).min(),
            _ => None,
        };
        let follow_up = self.follow_up_timeout();
        let reassembly = self.reassembly.timeout();
        [request, task, self.expires, reassembly, follow_up]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Deletes the IKE SA and its CHILD_SAs at the peer; `Closed` follows. One that is not
    /// established yet is given up as soon as that is possible.
    pub fn close(&mut self, cx: &mut Ctx<'_>) {
        match self.phase {
            Phase::Init(_) | Phase::Resume(_) | Phase::HalfOpen(_) => {
                self.fail(Reason::Closed, cx);
            }
            Phase::Auth(_) | Phase::Established => {
                self.tasks.clear();
                self.tasks.push_back(Task::now(window::Work::DeleteIke));
                self.start_tasks(cx);
            }
            Phase::Replaced | Phase::Closing | Phase::Dead => {}
        }
    }

    /// Gives it up without a word to the peer: `Dead` follows, and nothing else.
    pub fn abandon(&mut self, cx: &mut Ctx<'_>) {
        let over = matches!(self.phase, Phase::Dead) && self.expires.is_none();
        self.let_go(cx);
        self.expires = None;
        if !over {
            self.outputs.push_back(Output::Dead);
        }
    }

    /// It never came to be.
    fn fail(&mut self, reason: Reason, cx: &mut Ctx<'_>) {
        self.let_go(cx);
        self.outputs.push_back(Output::Failed(reason));
        self.linger(cx);
    }

    /// It was, and is over.
    fn end(&mut self, reason: Reason, cx: &mut Ctx<'_>) {
        // RFC 7296 §2.8.2, §2.25.2: our own request for a successor is forgotten; the peer's holds.
        if matches!(reason, Reason::DeletedByPeer | Reason::Timeout) {
            self.take_rival(cx);
        }
        if self.replaced {
            self.let_go(cx);
            return self.linger(cx);
        }
        let by_peer = reason != Reason::Closed;
        let children = core::mem::take(&mut self.children);
        if reason != Reason::Timeout {
            self.outputs.extend(children.iter().map(|child| {
                let spi_in = child.spi_in;
                Output::ChildDeleted { spi_in, by_peer }
            }));
        }
        self.let_go(cx);
        self.outputs.push_back(Output::Closed(reason));
        self.linger(cx);
    }

    /// Releases what it holds but for what answers retransmissions.
    fn let_go(&mut self, cx: &mut Ctx<'_>) {
        self.phase = Phase::Dead;
        self.outstanding = None;
        self.tasks.clear();
        self.children.clear();
        self.rival = None;
        self.awaited = None;
        self.keys = None;
        self.reassembly.clear();
        for spi in self.unborn.drain(..) {
            cx.spis.release(spi);
        }
    }

    fn linger(&mut self, cx: &Ctx<'_>) {
        self.expires = self.answered.as_ref().map(|_| cx.now + LINGER);
        if self.expires.is_none() {
            self.outputs.push_back(Output::Dead);
        }
    }

    /// What an operator sees.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Init(_) | Phase::Resume(_) | Phase::Auth(_) | Phase::HalfOpen(_) => {
                State::Connecting
            }
            Phase::Established => State::Established,
            Phase::Replaced | Phase::Closing => State::Closing,
            Phase::Dead => State::Dead,
        }
    }

    /// Name of the connection; a responder's is a guess until `Established`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Who the peer says to be, known from IKE_AUTH on; proven once established.
    #[must_use]
    pub const fn peer_id(&self) -> Option<&Identity> {
        self.peer_id.as_ref()
    }

    /// After [`Reason::Certificate`]: which of the peer's certificates is wrong, and how.
    #[must_use]
    pub const fn certificate_error(&self) -> Option<&CertError> {
        self.certificate_error.as_ref()
    }

    /// The SPI that we chose: the key to find this IKE SA by.
    #[must_use]
    pub const fn local_spi(&self) -> IkeSpi {
        match self.side {
            Side::Initiator => self.spi_i,
            Side::Responder => self.spi_r,
        }
    }

    /// The SPI that the peer chose; zero while unknown.
    #[must_use]
    pub const fn remote_spi(&self) -> IkeSpi {
        match self.side {
            Side::Initiator => self.spi_r,
            Side::Responder => self.spi_i,
        }
    }

    /// We sent the first request.
    #[must_use]
    pub fn is_initiator(&self) -> bool {
        self.side == Side::Initiator
    }

    /// Its algorithms; `None` before the key exchange and after the end.
    #[must_use]
    pub fn suite(&self) -> Option<IkeSuite> {
        self.keys.as_ref().map(|keys| keys.suite)
    }

    /// Where IKE goes from and to at present.
    #[must_use]
    pub const fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.local, self.remote)
    }

    /// Is `message`, with `header` and received from `remote`, the first request that this IKE SA
    /// answered? Its receiver SPI is zero, so this finds the owner of a retransmission. Until the peer
    /// has gone on, the whole message counts, as RFC 7296 §2.1 advises: with the same SPI it may have
    /// started over.
    #[must_use]
    pub fn is_first_request(&self, header: &Header, remote: SocketAddr, message: &[u8]) -> bool {
        self.side == Side::Responder
            && matches!(
                header.exchange,
                ExchangeType::IKE_SA_INIT | ExchangeType::IKE_SESSION_RESUME
            )
            && header.spi_r.is_zero()
            && header.spi_i == self.spi_i
            && remote == self.first_remote
            && (self.expected != 1 || self.was_answered(message))
    }

    /// The CHILD_SAs, oldest first.
    pub fn children(&self) -> impl Iterator<Item = ChildView<'_>> {
        self.children.iter().map(|child| ChildView {
            name: &self.config.children[child.config].name,
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            local_ts: &child.local_ts,
            remote_ts: &child.remote_ts,
        })
    }

    /// One line of Wireshark's `ikev2_decryption_table`, secrets in clear: only for an operator
    /// who asked for it. `None` before the key exchange and after the end.
    #[must_use]
    pub fn export_keys(&self) -> Option<zeroize::Zeroizing<String>> {
        self.keys
            .as_ref()
            .map(|keys| keys.wireshark(self.spi_i, self.spi_r))
    }
}

/// The first payload that we do not know and must not ignore (RFC 7296 §2.5).
fn unknown_critical(payloads: &[Payload]) -> Option<PayloadType> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Unknown {
            kind,
            critical: true,
            ..
        } => Some(*kind),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
