//! IKE_AUTH with a pre-shared key or a signature (RFC 7296 §1.2, §2.15, §2.21.2; RFC 7427), both
//! roles. The two directions need not use the same.

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use mitregate_wire::ike::{
    AuthMethod, Authentication, ExchangeType, Identification, NotifyType, Payload,
};
use subtle::ConstantTimeEq;

use super::certificates::{Hints, certificate_payloads, certificate_request};
use super::child::{Asked, Wanted};
use super::message::{error, find, find_notify, notify};
use super::window::Purpose;
use super::{Fate, IkeSa, Phase};
use crate::capabilities::esp_echo;
use crate::cert::{Credentials, PeerCertificates};
use crate::config::{Childless, LocalAuth, Psk, RemoteAuth};
use crate::crypto::Secret;
use crate::keys::{Nonces, Side};
use crate::proposal::Groups;
use crate::{Ctx, Directory, Established, IdPattern, Identity, Output, PeerCaps, Reason};

/// What an initiator keeps while it waits for the response.
pub(super) struct Auth {
    pub(super) nonces: Nonces,
    /// Our IKE_SA_INIT request.
    pub(super) own_message: Vec<u8>,
    /// Its response.
    pub(super) peer_message: Vec<u8>,
}

/// What a responder keeps while it waits for the request.
pub(super) struct HalfOpen {
    pub(super) directory: Arc<dyn Directory>,
    pub(super) nonces: Nonces,
    /// Our IKE_SA_INIT response.
    pub(super) own_message: Vec<u8>,
    /// Its request.
    pub(super) peer_message: Vec<u8>,
}

/// Our proof, in the payloads that carry it.
struct Proven {
    id: Payload,
    certificates: Vec<Payload>,
    auth: Payload,
}

impl IkeSa {
    /// What `side`, who sent `message`, proves its identity over. The one place that makes these
    /// octets, whatever the method.
    fn signed_octets(
        &self,
        side: Side,
        message: &[u8],
        nonces: &Nonces,
        id: &Identification,
    ) -> Result<Secret, Reason> {
        let nonce = match side {
            Side::Initiator => &nonces.r,
            Side::Responder => &nonces.i,
        };
        let keys = self.keys.as_ref().ok_or(Reason::Resources("keys"))?;
        Ok(keys
            .schedule
            .signed_octets(side, message, nonce, &id.body()))
    }

    fn psk_auth(&self, psk: &Psk, octets: &[u8]) -> Result<Secret, Reason> {
        let keys = self.keys.as_ref().ok_or(Reason::Resources("keys"))?;
        Ok(keys.schedule.psk_auth(psk.bytes(), octets))
    }

    /// Proves our identity.
    fn prove(&self, message: &[u8], nonces: &Nonces) -> Result<Proven, Reason> {
        let octets = |id: &Identification| self.signed_octets(self.side, message, nonces, id);
        if let (Some(resumed), Some(keys)) = (&self.resumed, &self.keys) {
            let id = resumed.local_id.to_payload();
            let data = keys
                .schedule
                .resumed_auth(self.side, &octets(&id)?)
                .to_vec();
            let method = AuthMethod::SHARED_KEY_MIC;
            return Ok(Proven {
                id: self.own_id(id),
                certificates: Vec::new(),
                auth: Payload::Authentication(Authentication { method, data }),
            });
        }
        let mut certificates = Vec::new();
        let (id, auth) = match &self.config.local_auth {
            LocalAuth::Psk(psk) => {
                let id = self.config.local_id.to_payload();
                let data = self.psk_auth(psk, &octets(&id)?)?.to_vec();
                let method = AuthMethod::SHARED_KEY_MIC;
                (id, Authentication { method, data })
            }
            LocalAuth::Pubkey(credentials) => {
                let Hints {
                    authorities,
                    hashes,
                } = &self.hints;
                let (credential, proof) = credentials
                    .choose(authorities, hashes.as_ref())
                    .ok_or(Reason::NoSignature)?;
                let id = Credentials::spelled(credential, &self.config.local_id).to_payload();
                certificates.extend(certificate_payloads(credential));
                let signature = credential.key().sign(proof, &octets(&id)?);
                let auth = signature.and_then(|signature| proof.payload(signature));
                (id, auth.ok_or(Reason::Resources("signature"))?)
            }
        };
        Ok(Proven {
            id: self.own_id(id),
            certificates,
            auth: Payload::Authentication(auth),
        })
    }

    fn own_id(&self, id: Identification) -> Payload {
        match self.side {
            Side::Initiator => Payload::IdI(id),
            Side::Responder => Payload::IdR(id),
        }
    }

    /// The same of a peer that goes on with an earlier session, whose identity is known (RFC 5723 §5).
    fn verify_resumed(
        &self,
        id: &Identification,
        auth: &Authentication,
        octets: &[u8],
    ) -> Result<(), Reason> {
        let (Some(resumed), Some(keys)) = (&self.resumed, &self.keys) else {
            return Err(Reason::Resources("keys"));
        };
        if resumed.peer_id != Identity::from(id) {
            return Err(Reason::UnknownIdentity);
        }
        let expected = keys.schedule.resumed_auth(self.side.other(), octets);
        let proven = auth.method == AuthMethod::SHARED_KEY_MIC
            && bool::from(expected.ct_eq(auth.data.as_slice()));
        proven.then_some(()).ok_or(Reason::AuthenticationFailed)
    }

    /// Is the peer who it says to be, and is that whom we want? `payloads` may have its certificates.
    fn verify(
        &mut self,
        message: &[u8],
        nonces: &Nonces,
        id: &Identification,
        auth: &Authentication,
        payloads: &[Payload],
        unix_time: Duration,
    ) -> Result<(), Reason> {
        if self
            .config
            .remote_id
            .as_ref()
            .is_some_and(|expected| !expected.matches(&Identity::from(id)))
        {
            return Err(Reason::UnknownIdentity);
        }
        let octets = self.signed_octets(self.side.other(), message, nonces, id)?;
        if self.resumed.is_some() {
            return self.verify_resumed(id, auth, &octets);
        }
        let proven = match &self.config.remote_auth {
            RemoteAuth::Psk(psk) => {
                let expected = self.psk_auth(psk, &octets)?;
                auth.method == AuthMethod::SHARED_KEY_MIC
                    && bool::from(expected.ct_eq(auth.data.as_slice()))
            }
            // Else a wrong word in one of the configurations would be called a bad signature.
            RemoteAuth::Pubkey(_) if auth.method == AuthMethod::SHARED_KEY_MIC => false,
            RemoteAuth::Pubkey(trust) => {
                let sent = payloads.iter().filter_map(|payload| match payload {
                    Payload::Certificate(certificate) => Some(certificate),
                    _ => None,
                });
                let checked =
                    PeerCertificates::new(sent).check(trust, &id.into(), unix_time, &octets, auth);
                if let Err(error) = checked {
                    let fault = error.fault;
                    self.certificate_error = Some(error);
                    return Err(Reason::Certificate(fault));
                }
                true
            }
        };
        if proven {
            Ok(())
        } else {
            Err(Reason::AuthenticationFailed)
        }
    }

    /// Whether IKE_AUTH goes without a CHILD_SA (RFC 6023 §3): only if the responder announced it.
    fn starts_childless(&self) -> Result<bool, Reason> {
        match (self.config.childless, self.peer_childless) {
            (Childless::Prefer | Childless::Force, true) => Ok(true),
            (Childless::Force, false) => Err(Reason::Childless),
            _ => Ok(false),
        }
    }

    /// Sends IKE_AUTH, as a rule with the first CHILD_SA of the configuration.
    pub(super) fn start_auth(&mut self, auth: Auth, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let proven = self.prove(&auth.own_message, &auth.nonces)?;
        let wanted = match self.starts_childless()? {
            true => None,
            false => Some(self.want_child(0, None, cx)?),
        };
        if let Payload::IdI(id) = &proven.id {
            self.own_identity = Some(id.into());
        }
        let mut payloads = vec![proven.id];
        payloads.extend(proven.certificates);
        if self.resumed.is_none() {
            payloads.extend(certificate_request(core::iter::once(&*self.config)));
        }
        let expected = self.config.remote_id.as_ref();
        if let Some(expected) = expected.and_then(IdPattern::exact) {
            payloads.push(Payload::IdR(expected.to_payload()));
        }
        payloads.push(proven.auth);
        if self.config.initial_contact {
            payloads.push(notify(NotifyType::INITIAL_CONTACT));
        }
        payloads.extend(self.ticket_request());
        payloads.extend(self.configuration_request());
        if let Some(wanted) = &wanted {
            payloads.extend(self.child_payloads(wanted, false));
        }
        payloads.extend(esp_echo(&self.config, self.vendor));
        payloads.extend(self.mobike_notifies(false));
        self.phase = Phase::Auth(Box::new(auth));
        let purpose = Purpose::Auth(wanted.map(Box::new));
        self.request(ExchangeType::IKE_AUTH, purpose, &payloads, cx)
    }

    /// The response to IKE_AUTH, in SK: it comes from whom we made the key exchange with.
    pub(super) fn finish_auth(
        &mut self,
        wanted: Option<&Wanted>,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) {
        let Phase::Auth(auth) = core::mem::replace(&mut self.phase, Phase::Established) else {
            return;
        };
        let id = find!(payloads, Payload::IdR(id) => id);
        let proof = find!(payloads, Payload::Authentication(auth) => auth);
        let (Some(id), Some(proof)) = (id, proof) else {
            let refusal = error(payloads).map_or(Reason::Protocol("no AUTH payload"), |notify| {
                Reason::Refused(notify.kind)
            });
            return self.fail(refusal, cx);
        };
        self.peer_id = Some(id.into());
        let Auth {
            nonces,
            peer_message,
            ..
        } = &*auth;
        if let Err(reason) = self.verify(peer_message, nonces, id, proof, payloads, cx.unix_time) {
            let peer = Identity::from(id);
            let why = self.why(reason);
            tracing::warn!(connection = self.config.name, %peer, %why, "responder not authenticated");
            self.tell_not_authenticated(cx);
            return self.fail(reason, cx);
        }
        self.learn_mobike(payloads);
        self.take_configuration_reply(payloads);
        if let Some(own) = self.own_identity.take() {
            self.keep_ticket(payloads, &own, cx.now);
        }
        self.establish(id, payloads, &auth.nonces, wanted.is_none());
        // Whatever becomes of the CHILD_SA, the IKE SA stays (RFC 7296 §1.2, §2.21.2).
        if let Some(wanted) = wanted {
            self.conclude_child(wanted, Groups::Ignore, &auth.nonces, payloads, cx);
        }
    }

    /// RFC 7296 §2.21.2: the responder may be told, by a request of its own. It is sent once; if
    /// it is lost, liveness checks find out.
    fn tell_not_authenticated(&mut self, cx: &mut Ctx<'_>) {
        let payloads = [notify(NotifyType::AUTHENTICATION_FAILED)];
        let id = self.next_request;
        if let Ok(sealed) = self.seal(ExchangeType::INFORMATIONAL, false, id, &payloads, cx.rng) {
            self.transmit(self.local, self.remote, &sealed.datagrams);
        }
    }

    fn establish(
        &mut self,
        peer: &Identification,
        payloads: &[Payload],
        nonces: &Nonces,
        childless: bool,
    ) {
        let Some(suite) = self.keys.as_ref().map(|keys| keys.suite) else {
            return;
        };
        let echo = find_notify(payloads, NotifyType::ENCRYPTED_PING_SUPPORTED).is_some();
        self.phase = Phase::Established;
        self.expires = None;
        self.outputs
            .push_back(Output::Established(Box::new(Established {
                name: self.config.name.clone(),
                local_id: self.config.local_id.clone(),
                peer_id: peer.into(),
                suite,
                nat: self.nat,
                encap: self.encap,
                peer_caps: PeerCaps {
                    esp_echo: echo && self.vendor.mitregate,
                    plain_esp_behind_nat: self.vendor.plain_esp_behind_nat,
                    encap_by_proof: echo && self.proves_encap(),
                    probes_behind_nat: echo
                        && self.proves_encap()
                        && self.config.announce.probes_behind_nat
                        && self.vendor.probes_behind_nat,
                    owns_rekeys: self.vendor.owns_rekeys,
                },
                local_assigned: self.cp.local.clone(),
                remote_assigned: self.cp.remote.clone(),
                childless,
                initial_contact: find_notify(payloads, NotifyType::INITIAL_CONTACT).is_some(),
                lowest_nonce: nonces.i.clone().min(nonces.r.clone()),
                local: self.local,
                remote: self.remote,
            })));
    }

    /// The request of IKE_AUTH, in SK.
    pub(super) fn answer_auth(
        &mut self,
        state: &HalfOpen,
        payloads: &[Payload],
        local: SocketAddr,
        remote: SocketAddr,
        cx: &mut Ctx<'_>,
    ) -> (Vec<Payload>, Fate) {
        // The initiator may have moved to port 4500 between the two exchanges.
        (self.local, self.remote) = (local, remote);
        if self.config.mobike.enabled && Self::has_unexpected_nat(payloads, local, remote) {
            // RFC 4555 §3.9: no IKE SA comes of it.
            let kind = NotifyType::UNEXPECTED_NAT_DETECTED;
            return (vec![notify(kind)], Fate::Fails(Reason::Refused(kind)));
        }
        self.hints.take_requests(payloads);
        match self.admit(state, payloads, cx.unix_time) {
            Ok((id, mut answer)) => {
                self.learn_mobike(payloads);
                answer.extend(self.answer_first_configuration(payloads, cx));
                self.establish(id, payloads, &state.nonces, is_childless(payloads));
                answer.extend(esp_echo(&self.config, self.vendor));
                answer.extend(self.mobike_notifies(true));
                answer.extend(self.answer_first_child(&state.nonces, payloads, cx));
                if let Some(own) = find!(answer, Payload::IdR(id) => Identity::from(id)) {
                    let directory = &*state.directory;
                    answer.extend(self.answer_ticket_request(directory, payloads, &own, cx));
                }
                (answer, Fate::GoesOn)
            }
            Err(reason) => {
                let peer = self.peer_id.as_ref().map(ToString::to_string);
                let peer = peer.as_deref().unwrap_or("unnamed");
                let why = self.why(reason);
                tracing::info!(connection = self.config.name, peer, %why, "initiator not authenticated");
                // RFC 7296 §2.21.2; which identities are known is nobody's business.
                let kind = match reason {
                    // RFC 6023 §3: as from who does not know it.
                    Reason::Protocol(_) | Reason::Childless => NotifyType::INVALID_SYNTAX,
                    _ => NotifyType::AUTHENTICATION_FAILED,
                };
                (vec![notify(kind)], Fate::Fails(reason))
            }
        }
    }

    /// Authenticates the initiator, and us to it.
    fn admit<'a>(
        &mut self,
        state: &HalfOpen,
        payloads: &'a [Payload],
        unix_time: Duration,
    ) -> Result<(&'a Identification, Vec<Payload>), Reason> {
        let id =
            find!(payloads, Payload::IdI(id) => id).ok_or(Reason::Protocol("no IDi payload"))?;
        let peer_id = self.peer_id.insert(id.into());
        // Without AUTH it asks for EAP (RFC 7296 §2.16), which nobody here speaks.
        let proof = find!(payloads, Payload::Authentication(auth) => auth)
            .ok_or(Reason::AuthenticationFailed)?;
        if self.resumed.is_none() {
            let wanted_id = find!(payloads, Payload::IdR(id) => Identity::from(id));
            let (local, remote) = (self.local, self.remote);
            let signed = proof.method != AuthMethod::SHARED_KEY_MIC;
            self.config = state
                .directory
                .by_proof(local, remote, peer_id, wanted_id.as_ref(), signed)
                .ok_or(Reason::UnknownIdentity)?;
            let suite = self
                .keys
                .as_ref()
                .map(|keys| keys.suite)
                .ok_or(Reason::Resources("keys"))?;
            if !self
                .config
                .proposals
                .iter()
                .any(|proposal| proposal.allows(&suite))
            {
                return Err(Reason::NoProposalChosen);
            }
        }
        let HalfOpen {
            nonces,
            peer_message,
            ..
        } = state;
        self.verify(peer_message, nonces, id, proof, payloads, unix_time)?;
        match (is_childless(payloads), self.config.childless) {
            (true, Childless::Never) => return Err(Reason::Childless),
            (false, _) if Asked::new(payloads).is_none() => {
                return Err(Reason::Protocol(
                    "IKE_AUTH with only some of SA, TSi and TSr",
                ));
            }
            _ => {}
        }
        let proven = self.prove(&state.own_message, &state.nonces)?;
        let mut answer = vec![proven.id];
        answer.extend(proven.certificates);
        answer.push(proven.auth);
        Ok((id, answer))
    }

    /// The reason with all that is known.
    fn why(&self, reason: Reason) -> String {
        match (&self.certificate_error, reason) {
            (Some(error), Reason::Certificate(_)) => error.to_string(),
            _ => reason.to_string(),
        }
    }
}

/// RFC 6023 §3: neither SA nor traffic selectors.
fn is_childless(payloads: &[Payload]) -> bool {
    !payloads
        .iter()
        .any(|p| matches!(p, Payload::Sa(_) | Payload::TsI(_) | Payload::TsR(_)))
}
