//! IKEv2 (RFC 7296) as a sans-IO state machine.
//!
//! One [`IkeSa`] is one IKE SA, in either role. It owns no socket, clock or thread:
//!
//! - feed it with [`IkeSa::handle_message`] (what arrived) and [`IkeSa::handle_timeout`] (when
//!   [`IkeSa::poll_timeout`] says so), and tell it what to do by [`IkeSa::rekey_child`],
//!   [`IkeSa::create_child`], [`IkeSa::delete_child`], [`IkeSa::rekey`],
//!   [`IkeSa::check_liveness`] and [`IkeSa::close`];
//! - after each of these, drain [`IkeSa::poll_output`] until it gives `None`.
//!
//! Time, random bytes and inbound SPIs come in by [`Ctx`], so that a run replays byte for byte
//! from one seed. Messages are without the non-ESP marker: the caller adds and strips it on
//! port 4500.
//!
//! A datagram belongs to the IKE SA whose [`IkeSa::local_spi`] is its
//! [`Header::receiver_spi`](mitregate_wire::ike::Header::receiver_spi); where that is zero, to
//! the one for which [`IkeSa::is_first_request`] holds; else it goes to [`IkeSa::respond`], which
//! answers without keeping state whatever deserves no IKE SA.
#![forbid(unsafe_code)]

mod capabilities;
pub mod cert;
mod config;
mod cookie;
mod crypto;
mod dn;
mod identity;
mod keys;
mod nat;
mod proposal;
mod retransmit;
mod sa;
mod selectors;
mod stateless;
mod ticket;

use core::net::SocketAddr;
use core::time::Duration;

use mitregate_esp::{CipherSuite, SaKey};
use mitregate_wire::TrafficSelector;
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{ExchangeType, Header, NotifyType, ParseError, PayloadType};
use rand_core::CryptoRng;

use cert::CertFault;

pub use config::{
    Announce, ChildConfig, Childless, Directory, Dynamic, Encap, EncapMode, Fragmentation,
    FragmentationMode, IkeConfig, LocalAuth, Mobike, PeerRekey, Psk, RemoteAuth, Retransmit,
    UnknownWord,
};
pub use cookie::{CookieCheck, CookieJar};
pub use dn::NameAttribute;
pub use identity::{IdPattern, Identity};
pub use proposal::{
    Additional, AesBits, EspProposal, EspSuite, Group, IkeCipher, IkeProposal, IkeSuite, Integrity,
    Prf, ProposalError,
};
pub use sa::{Assigned, ChildView, IkeSa, Leases, NoLeases, State};
pub use ticket::{ResumptionTicket, TicketKeys};

/// What the state machine takes from outside in each call.
pub struct Ctx<'a> {
    /// Monotonic time since an arbitrary origin, the same in every call.
    pub now: Duration,
    /// Wall-clock time since 1970-01-01 00:00 UTC: certificates are valid by it, nothing else is.
    pub unix_time: Duration,
    /// Source of nonces, SPIs, private keys and jitter.
    pub rng: &'a mut dyn CryptoRng,
    /// Source of inbound ESP SPIs.
    pub spis: &'a mut dyn SpiAllocator,
    /// Source of virtual addresses for peers.
    pub leases: &'a mut dyn Leases,
}

/// Inbound ESP SPIs. One that was allocated is the IKE SA's until it shows up in
/// [`Output::ChildEstablished`]; from then on the caller's. The IKE SA releases what never got
/// that far, at the latest when it gives [`Output::Dead`].
pub trait SpiAllocator {
    /// An SPI that is not in use; `None` when there is none.
    fn allocate(&mut self, rng: &mut dyn CryptoRng) -> Option<Spi>;
    /// Takes back what no SA was made of.
    fn release(&mut self, spi: Spi);
}

/// What an [`IkeSa`] wants done, or has to tell.
pub enum Output {
    /// Send this IKE message, with the non-ESP marker in front where `local` has port 4500.
    Transmit {
        /// Our address and port.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
        /// Header to last payload.
        message: Vec<u8>,
    },
    /// Both sides are authenticated.
    Established(Box<Established>),
    /// A CHILD_SA stands: install both its directions.
    ChildEstablished(Box<ChildSa>),
    /// Remove both directions of a CHILD_SA.
    ChildDeleted {
        /// Our inbound SPI.
        spi_in: Spi,
        /// The peer asked for it.
        by_peer: bool,
    },
    /// A CHILD_SA that we or the peer wanted did not come to be. The IKE SA stays.
    ChildFailed {
        /// Its name in the configuration, if the negotiation got that far.
        name: Option<String>,
        /// At a rekey: the inbound SPI of the CHILD_SA that was to be replaced, and that stays.
        replaces: Option<Spi>,
        /// Why.
        reason: Reason,
    },
    /// A rekey of the IKE SA, from either side, has made this one. It has taken over the CHILD_SAs
    /// and what was still to be done; the old IKE SA only answers and goes, with `Dead` as its
    /// last word.
    Rekeyed(Box<IkeSa>),
    /// Both sides rekeyed the IKE SA at once, and this one of the two successors is not needed
    /// (RFC 7296 §2.8.2). Let it have its messages until it is `Dead`: nothing else comes of it.
    Redundant(Box<IkeSa>),
    /// The IKE SA was not rekeyed, and stays.
    RekeyFailed(Reason),
    /// Both sides rekeyed a CHILD_SA at once, and this is the successor that is not needed. The side that
    /// made it deletes it (RFC 7296 §2.8.1). One of ours that comes up so says so in [`ChildSa::redundant`].
    ChildRedundant {
        /// Our inbound SPI.
        spi_in: Spi,
    },
    /// The peer wanted to rekey and was refused ([`PeerRekey::Refuse`]): now is the time for our own.
    PeerWantsRekey {
        /// Our inbound SPI of the CHILD_SA; `None`: the IKE SA.
        spi_in: Option<Spi>,
    },
    /// The peer answered [`IkeSa::check_liveness`].
    LivenessAnswered,
    /// The way to the peer is another one from now on, for IKE and for ESP of all CHILD_SAs: an
    /// authenticated message came from a new address (RFC 7296 §2.23), or MOBIKE moved an end
    /// (RFC 4555 §3.5), or a NAT came or went. It may also be the same as before.
    PeerMoved {
        /// Our address and port.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
        /// How ESP travels.
        encap: Encap,
        /// Who is behind a NAT.
        nat: Nat,
    },
    /// The peer does not accept the addresses that [`IkeSa::update_addresses`] has chosen
    /// (RFC 4555 §3.5).
    MoveRefused,
    /// The IKE SA never came to be. Only retransmissions are still answered.
    Failed(Reason),
    /// An established IKE SA is over. Its CHILD_SAs were reported deleted before; only with
    /// [`Reason::Timeout`] they were not, because it is for the caller to say whether they live
    /// on as orphans. Only retransmissions are still answered.
    Closed(Reason),
    /// The last output, after `Failed` or `Closed`: drop this IKE SA.
    Dead,
}

/// The outcome of IKE_AUTH.
#[derive(Clone, Debug)]
pub struct Established {
    /// Name of the connection.
    pub name: String,
    /// Who we said we are.
    pub local_id: Identity,
    /// Who the peer proved to be.
    pub peer_id: Identity,
    /// Algorithms of the IKE SA.
    pub suite: IkeSuite,
    /// Who is behind a NAT.
    pub nat: Nat,
    /// How ESP travels for all CHILD_SAs.
    pub encap: Encap,
    /// What the peer can do.
    pub peer_caps: PeerCaps,
    /// What the peer gave to us by configuration payload.
    pub local_assigned: Assigned,
    /// What we gave to the peer.
    pub remote_assigned: Assigned,
    /// It came up without a CHILD_SA (RFC 6023).
    pub childless: bool,
    /// The peer says that it has no other IKE SA with us (RFC 7296 §2.4).
    pub initial_contact: bool,
    /// The lower of the two nonces: of IKE SAs that both sides started at the same time, the one with the
    /// lowest goes (RFC 7296 §2.8.1).
    pub lowest_nonce: Vec<u8>,
    /// Where IKE goes from.
    pub local: SocketAddr,
    /// Where IKE goes to.
    pub remote: SocketAddr,
}

/// What NAT detection saw (RFC 7296 §2.23).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// Our packets are translated: we send keepalives.
    pub local: bool,
    /// The peer's are: we follow its address. Also true where the peer forces UDP.
    pub remote: bool,
}

/// What the peer announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCaps {
    /// It answers ESP Echo.
    pub esp_echo: bool,
    /// It does plain ESP behind a NAT.
    pub plain_esp_behind_nat: bool,
    /// It and we take ESP on protocol 50 and in UDP at any time, and change between them by proof.
    pub encap_by_proof: bool,
    /// It and we ask for plain ESP behind a NAT, too.
    pub probes_behind_nat: bool,
    /// It starts all rekeys.
    pub owns_rekeys: bool,
}

/// A CHILD_SA to install: tunnel mode, both directions.
pub struct ChildSa {
    /// Its name in the configuration.
    pub name: String,
    /// The SPI we receive on.
    pub spi_in: Spi,
    /// The SPI we send on.
    pub spi_out: Spi,
    /// The key we open with.
    pub key_in: SaKey,
    /// The key we seal with.
    pub key_out: SaKey,
    /// Algorithm of both.
    pub suite: CipherSuite,
    /// Extended sequence numbers, in both directions.
    pub esn: bool,
    /// Our side, as narrowed.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's side, as narrowed.
    pub remote_ts: Vec<TrafficSelector>,
    /// We started the exchange that made it.
    pub initiator: bool,
    /// At a rekey, our inbound SPI of the CHILD_SA that this one replaces. Whoever started the
    /// rekey deletes that one when it is no longer needed ([`IkeSa::delete_child`]).
    pub replaces: Option<Spi>,
    /// The peer has made a successor at the same time, which counts, and this one is for us to delete
    /// (RFC 7296 §2.8.1).
    pub redundant: bool,
    /// How ESP travels.
    pub encap: Encap,
}

/// Why something did not come to be, or is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A request was repeated as often as configured.
    #[error("peer does not answer")]
    Timeout,
    /// The peer refused by this notify.
    #[error("peer answered {0}")]
    Refused(NotifyType),
    /// The peer's AUTH payload is wrong: most often the shared secrets differ.
    #[error("peer failed to authenticate: wrong shared secret or method")]
    AuthenticationFailed,
    /// The peer's certificate proves nothing; [`IkeSa::certificate_error`] has the whole story.
    #[error("peer failed to authenticate: certificate {0}")]
    Certificate(CertFault),
    /// The peer can check none of the signatures that our keys make.
    #[error("peer knows none of the signature algorithms of our keys")]
    NoSignature,
    /// No connection is configured for the peer's identity, or it is not the expected one.
    #[error("peer's identity is not configured")]
    UnknownIdentity,
    /// None of the peer's proposals is one of ours.
    #[error("no common proposal")]
    NoProposalChosen,
    /// We asked the peer for a virtual address, or the peer us, and there was none.
    #[error("no virtual address to be had")]
    NoAddress,
    /// RFC 6023, and one side is configured not to do it, or to do nothing else.
    #[error("childless IKE SA: not both sides want it")]
    Childless,
    /// The traffic selectors have nothing in common.
    #[error("traffic selectors have nothing in common")]
    TsUnacceptable,
    /// The key exchange gave no secret: the public value is not one of its group.
    #[error("invalid public key of peer")]
    InvalidKeyExchange,
    /// An authenticated message that cannot be parsed.
    #[error("malformed message: {0}")]
    Syntax(#[from] ParseError),
    /// The peer insists on a payload that we do not know.
    #[error("unsupported critical payload {0}")]
    UnsupportedCritical(PayloadType),
    /// The peer left out, or answered, what RFC 7296 does not allow it to.
    #[error("peer violates the protocol: {0}")]
    Protocol(&'static str),
    /// The peer sent a Delete for the IKE SA.
    #[error("deleted by peer")]
    DeletedByPeer,
    /// By [`IkeSa::close`].
    #[error("closed")]
    Closed,
    /// The configuration has no such CHILD_SA, or none at all.
    #[error("no such CHILD_SA")]
    NoSuchChild,
    /// No free SPI, no usable random key, or message IDs used up.
    #[error("out of resources: {0}")]
    Resources(&'static str),
    /// A responder's peer stopped before IKE_AUTH.
    #[error("peer did not go on to authenticate")]
    HalfOpen,
}

/// Why a datagram was not acted upon. Nothing that is unauthenticated has any lasting effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[allow(missing_docs)]
pub enum Discard {
    #[error("malformed: {0}")]
    Malformed(#[from] ParseError),
    #[error("for another IKE SA")]
    WrongSpi,
    #[error("exchange or direction not expected in this state")]
    Unexpected,
    #[error("message ID outside the window")]
    MessageId,
    #[error("not encrypted, or nothing else in it counts")]
    Unprotected,
    /// RFC 7296 §2.21.4: a hint, and no more.
    #[error("not encrypted: the peer says that it has no such IKE SA")]
    NoSuchIkeSa,
    #[error("integrity check failed")]
    Integrity,
    #[error("fragment that is known, late, or one of too many")]
    Fragment,
    #[error("response answers nothing acceptable")]
    BadResponse,
    #[error("rekeys of the peer are ignored, as configured")]
    Ignored,
}

/// A first message that no IKE SA was made of.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub reason: RejectReason,
    /// To be sent back to where the message came from, if it deserves an answer.
    pub reply: Option<Vec<u8>>,
}

/// Why a responder made no IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum RejectReason {
    #[error("malformed: {0}")]
    Malformed(#[from] ParseError),
    #[error("IKE major version {0}")]
    MajorVersion(u8),
    #[error("no such IKE SA")]
    UnknownSpi,
    #[error("not a first request")]
    Unexpected,
    #[error("no connection configured for this address")]
    UnknownPeer,
    #[error("unsupported critical payload {0}")]
    UnsupportedCritical(PayloadType),
    #[error("no common proposal")]
    NoProposalChosen,
    #[error("key exchange of another group than chosen")]
    InvalidKePayload,
    #[error("invalid public key")]
    InvalidKeyExchange,
    #[error("ticket that is not ours, expired or out of use")]
    Ticket,
    #[error("out of resources: {0}")]
    Resources(&'static str),
}

/// Is this a request that a new IKE SA may be made of?
#[must_use]
pub fn is_first(message: &[u8]) -> bool {
    Header::parse(message).is_ok_and(|header| {
        matches!(
            header.exchange,
            ExchangeType::IKE_SA_INIT | ExchangeType::IKE_SESSION_RESUME
        ) && header.flags.initiator
            && !header.flags.response
            && header.spi_r.is_zero()
            && header.message_id == 0
    })
}

/// The header of a message, to find the IKE SA that it belongs to.
pub fn peek(message: &[u8]) -> Result<Header, ParseError> {
    Header::parse(message)
}
