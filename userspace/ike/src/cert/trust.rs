//! Whom to trust: authorities, peers known by their very certificate, and revocation.
//!
//! `rustls-webpki` builds and checks the path; what it does not look at is looked at here: the names
//! (RFC 4945 §3.1), key usage, the validity and strength of anchors. Where it says no, the chain is
//! walked once more to say which certificate is at fault.

use core::time::Duration;

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use mitregate_wire::ike::{Authentication, CertEncoding};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::aws_lc_rs as algorithms;
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, ExtendedKeyUsageValidator,
    KeyPurposeIdIter, OwnedCertRevocationList, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy, anchor_from_trusted_cert,
};
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode, Encode};
use x509_cert::time::Time;

use super::certificate::{Certificate, IKE_USAGES};
use super::error::{CertError, CertFault};
use super::rule::AuthRule;
use super::scheme::is_signed;
use super::validity;
use crate::{Identity, dn};

/// Certificates of a peer that are looked at: real chains have three or four.
const MAX_CERTIFICATES: usize = 8;
/// Bytes of one of them: those with an RSA-8192 key and many names stay below.
const MAX_CERTIFICATE: usize = 16 * 1024;

/// Signatures of certificates that are accepted: none over SHA-1, no RSA key below 2048 bits.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ED25519,
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// What to make of a certificate of which it is not known whether it was revoked; swanctl's words.
/// Nothing is fetched: lists come with the configuration. One that is revoked is always refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revocation {
    /// Accept it, also by a list that is out of date.
    #[default]
    Relaxed,
    /// Refuse it if it says where to ask (a CRL distribution point, or OCSP) and there is no
    /// current list of its issuer.
    IfUri,
    /// Refuse it.
    Strict,
}

/// A certificate revocation list (RFC 5280 §5).
pub struct Crl {
    webpki: CertRevocationList<'static>,
    issuer: Vec<u8>,
    this_update: Duration,
    next_update: Option<Duration>,
    revoked: Vec<(String, Duration)>,
    /// Of its DER.
    digest: Digest,
}

impl Crl {
    /// Takes DER apart. Its signature is checked when it is used.
    pub fn from_der(der: &[u8]) -> Result<Self, CertError> {
        let malformed = |error: String| CertError::new(CertFault::Malformed, None, error);
        let parsed = CertificateList::<x509_cert::certificate::Rfc5280>::from_der(der)
            .map_err(|error| malformed(format!("not a certificate revocation list: {error}")))?;
        let list = parsed.tbs_cert_list;
        let webpki = OwnedCertRevocationList::from_der(der).map_err(|error| {
            malformed(format!("not a usable certificate revocation list: {error}"))
        })?;
        let revoked = list.revoked_certificates.unwrap_or_default();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            webpki: CertRevocationList::Owned(webpki),
            issuer: list.issuer.to_der().unwrap_or_default(),
            this_update: list.this_update.to_unix_duration(),
            next_update: list.next_update.map(Time::to_unix_duration),
            revoked: revoked
                .iter()
                .map(|one| {
                    let at = one.revocation_date.to_unix_duration();
                    (hex(one.serial_number.as_bytes()), at)
                })
                .collect(),
            digest: digest(&SHA256, der),
        })
    }

    /// Whose list it is.
    #[must_use]
    pub fn issuer(&self) -> String {
        dn::show(&self.issuer).unwrap_or_default()
    }

    /// When it was made, as UNIX time.
    #[must_use]
    pub const fn this_update(&self) -> Duration {
        self.this_update
    }

    /// When the next one is due, as UNIX time.
    #[must_use]
    pub const fn next_update(&self) -> Option<Duration> {
        self.next_update
    }

    /// Serial numbers in hexadecimal digits, as [`Certificate::serial`], and since when (UNIX time).
    #[must_use]
    pub fn revoked(&self) -> &[(String, Duration)] {
        &self.revoked
    }

    /// When it was made, and when the next one is due, for people.
    #[must_use]
    pub fn dates(&self) -> [Option<String>; 2] {
        [Some(self.this_update), self.next_update].map(|time| time.map(validity::date))
    }

    fn is_current(&self, now: Duration) -> bool {
        self.next_update.is_none_or(|next| now <= next)
    }
}

/// How peers' certificates are judged.
pub struct TrustStore {
    authorities: Vec<Certificate>,
    anchors: Vec<TrustAnchor<'static>>,
    peers: Vec<Certificate>,
    crls: Vec<Crl>,
    revocation: Revocation,
    rule: AuthRule,
}

/// Is any of them one of ours?
struct IkeUsage;

impl ExtendedKeyUsageValidator for IkeUsage {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let mut any = false;
        for usage in usages {
            any = true;
            let arcs = usage?.to_decoded_oid();
            let arcs: Vec<_> = arcs.iter().map(ToString::to_string).collect();
            if IKE_USAGES.contains(&arcs.join(".").as_str()) {
                return Ok(());
            }
        }
        if any {
            Err(Error::ExtensionValueInvalid)
        } else {
            Ok(())
        }
    }
}

impl TrustStore {
    /// `authorities` are trusted, roots or not; so are `peers`, each for itself alone. Refuses
    /// authorities that are none, or weak. `rule` narrows which signatures of a peer will do.
    pub fn new(
        authorities: Vec<Certificate>,
        peers: Vec<Certificate>,
        crls: Vec<Crl>,
        revocation: Revocation,
        rule: AuthRule,
    ) -> Result<Self, CertError> {
        let mut anchors = Vec::new();
        for authority in &authorities {
            authority.check_ca()?;
            authority.check_strength()?;
            let der = CertificateDer::from(authority.der());
            let anchor = anchor_from_trusted_cert(&der).map_err(|error| {
                let detail = format!("cannot be a trust anchor: {error}");
                CertError::new(CertFault::Malformed, Some(authority), detail)
            })?;
            anchors.push(anchor.to_owned());
        }
        Ok(Self {
            authorities,
            anchors,
            peers,
            crls,
            revocation,
            rule,
        })
    }

    /// The authorities.
    #[must_use]
    pub fn authorities(&self) -> &[Certificate] {
        &self.authorities
    }

    /// The revocation lists.
    #[must_use]
    pub fn crls(&self) -> &[Crl] {
        &self.crls
    }

    /// A hash of everything that a certificate is judged by.
    pub(crate) fn fingerprint(&self) -> Vec<u8> {
        let of = |certificate: &Certificate| digest(&SHA256, certificate.der());
        let lists: [Vec<Digest>; 3] = [
            self.authorities.iter().map(of).collect(),
            self.peers.iter().map(of).collect(),
            self.crls.iter().map(|crl| crl.digest).collect(),
        ];
        let mut context = Context::new(&SHA256);
        for list in lists {
            context.update(&list.len().to_be_bytes());
            list.iter().for_each(|one| context.update(one.as_ref()));
        }
        context.update(&[self.revocation as u8]);
        context.update(self.rule.to_string().as_bytes());
        context.finish().as_ref().to_vec()
    }

    /// Is `id` proven by `chain` (the peer's own certificate first, its authorities in any order) at
    /// the UNIX time `now`? Gives the certificate that proves it: the caller still has to see that
    /// the peer has its key.
    pub fn verify(
        &self,
        chain: &[Vec<u8>],
        id: &Identity,
        now: Duration,
    ) -> Result<Certificate, CertError> {
        if chain.len() > MAX_CERTIFICATES || chain.iter().any(|der| der.len() > MAX_CERTIFICATE) {
            let detail = format!(
                "more than {MAX_CERTIFICATES} certificates, or one of more than {MAX_CERTIFICATE} bytes"
            );
            return Err(CertError::new(CertFault::TooMany, None, detail));
        }
        let Some((own, others)) = chain.split_first() else {
            return self.known_peer(id, now);
        };
        let certificate = Certificate::from_der(own)?;
        certificate.check_name(id)?;
        self.check_own(&certificate, now)?;
        if self
            .peers
            .iter()
            .any(|peer| peer.der() == certificate.der())
        {
            return Ok(certificate);
        }
        // One that cannot be read is as if it had not been sent.
        let others: Vec<_> = others
            .iter()
            .filter_map(|der| Certificate::from_der(der).ok())
            .collect();
        match self.check_path(&certificate, &others, now) {
            Ok(()) => Ok(certificate),
            Err(error) => Err(self.diagnose(&certificate, &others, now, error)),
        }
    }

    /// A peer that sends no certificate may be one whose certificate we have.
    fn known_peer(&self, id: &Identity, now: Duration) -> Result<Certificate, CertError> {
        let Some(peer) = self.peers.iter().find(|peer| peer.names(id)) else {
            let detail = format!("no certificate was sent for \"{id}\", and none is configured");
            return Err(CertError::new(CertFault::Missing, None, detail));
        };
        self.check_own(peer, now)?;
        Ok(peer.clone())
    }

    fn check_own(&self, certificate: &Certificate, now: Duration) -> Result<(), CertError> {
        certificate.check_time(now)?;
        certificate.check_strength()?;
        if !self.rule.allows_key(certificate.key_kind()) {
            let (kind, rule) = (certificate.key_kind(), &self.rule);
            let detail = format!("has a key ({kind}) that auth = \"{rule}\" does not allow");
            let fault = CertFault::WrongKind;
            return Err(CertError::new(fault, Some(certificate), detail));
        }
        certificate.check_end_entity()
    }

    fn check_path(
        &self,
        certificate: &Certificate,
        others: &[Certificate],
        now: Duration,
    ) -> Result<(), Refusal> {
        let own = CertificateDer::from(certificate.der());
        let own = EndEntityCert::try_from(&own)?;
        let others: Vec<_> = others
            .iter()
            .map(|c| CertificateDer::from(c.der()))
            .collect();
        let crls: Vec<_> = self.crls.iter().map(|crl| &crl.webpki).collect();
        let (unknown, expired) = match self.revocation {
            Revocation::Relaxed => (UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore),
            Revocation::IfUri => (UnknownStatusPolicy::Allow, ExpirationPolicy::Enforce),
            Revocation::Strict => (UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce),
        };
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(unknown)
                .with_expiration_policy(expired)
                .build()
        });
        // Without any list, webpki has nothing to be strict with.
        if revocation.is_none() && self.revocation == Revocation::Strict {
            return Err(Error::UnknownRevocationStatus.into());
        }
        let path = own.verify_for_usage(
            ALGORITHMS,
            &self.anchors,
            &others,
            UnixTime::since_unix_epoch(now),
            IkeUsage,
            revocation,
            None,
        )?;
        let anchor = self
            .anchors
            .iter()
            .position(|anchor| anchor == path.anchor());
        if let Some(anchor) = anchor.and_then(|at| self.authorities.get(at)) {
            anchor.check_time(now)?;
        }
        let mut checked = vec![certificate.clone()];
        for issuer in path.intermediate_certificates() {
            let issuer = Certificate::from_der(&issuer.der())?;
            issuer.check_ca()?;
            issuer.check_strength()?;
            checked.push(issuer);
        }
        if self.revocation == Revocation::IfUri {
            checked
                .iter()
                .try_for_each(|one| self.check_uri(one, now))?;
        }
        Ok(())
    }

    /// A list's signature was checked on the way, if there is a list.
    fn check_uri(&self, certificate: &Certificate, now: Duration) -> Result<(), CertError> {
        let issuer = certificate.issuer_der();
        let mut lists = self.crls.iter().filter(|crl| crl.issuer == issuer);
        if certificate.has_revocation_uri() && !lists.any(|crl| crl.is_current(now)) {
            return Err(unknown_status(certificate));
        }
        Ok(())
    }

    /// Which certificate is it, and what is wrong with it?
    fn diagnose(
        &self,
        own: &Certificate,
        others: &[Certificate],
        now: Duration,
        refusal: Refusal,
    ) -> CertError {
        let error = match refusal {
            Refusal::Known(error) => return error,
            Refusal::Webpki(error) => error,
        };
        let mut path = vec![own];
        // As deep as there are certificates; a ring of issuers ends there too.
        for _ in 0..=others.len() {
            let last = path[path.len() - 1];
            if let Err(error) = last.check_signature_algorithm() {
                return error;
            }
            let issuer = last.issuer_der();
            let trusted = self.authorities.iter().find(|a| a.subject_der() == issuer);
            if let Some(authority) = trusted {
                if let Err(error) = authority.check_time(now) {
                    return error;
                }
                path.push(authority);
                break;
            }
            let next = others
                .iter()
                .find(|other| other.subject_der() == issuer && other.der() != last.der());
            let Some(next) = next else {
                let (fault, detail) = if last.is_self_issued() {
                    let detail = "is self-signed, and not among the authorities that are trusted";
                    (CertFault::UnknownCa, detail.to_owned())
                } else {
                    let detail = format!(
                        "was issued by \"{}\", which is neither trusted nor sent along",
                        last.issuer()
                    );
                    (CertFault::BrokenChain, detail)
                };
                return CertError::new(fault, Some(last), detail);
            };
            let sound = next
                .check_ca()
                .and_then(|()| next.check_time(now))
                .and_then(|()| next.check_strength());
            if let Err(error) = sound {
                return error;
            }
            path.push(next);
        }
        self.explain(&path, now, &error)
    }

    /// Everything in the path looks right on its own.
    fn explain(&self, path: &[&Certificate], now: Duration, error: &Error) -> CertError {
        let own = path.first().copied();
        let new = |fault, detail: String| CertError::new(fault, own, detail);
        let crl_of = |certificate: &Certificate| {
            let issuer = certificate.issuer_der();
            self.crls.iter().find(|crl| crl.issuer == issuer)
        };
        match error {
            Error::CertRevoked => {
                let revoked = path.iter().find(|certificate| {
                    let serial = certificate.serial();
                    crl_of(certificate)
                        .is_some_and(|crl| crl.revoked.iter().any(|(one, _)| *one == serial))
                });
                let certificate = revoked.copied().or(own);
                let detail = "was revoked by its issuer";
                CertError::new(CertFault::Revoked, certificate, detail)
            }
            Error::UnknownRevocationStatus => {
                let unlisted = path
                    .iter()
                    .find(|certificate| crl_of(certificate).is_none());
                match unlisted.copied().or(own) {
                    Some(certificate) => unknown_status(certificate),
                    None => new(CertFault::RevocationUnknown, error.to_string()),
                }
            }
            Error::CrlExpired { .. } => {
                let stale = self.crls.iter().find(|crl| !crl.is_current(now));
                let detail = stale.map_or_else(String::new, |crl| {
                    let until = crl.next_update.unwrap_or_default();
                    format!(
                        "may be revoked: the revocation list of \"{}\" is out of date since {}",
                        crl.issuer(),
                        validity::date(until)
                    )
                });
                new(CertFault::RevocationUnknown, detail)
            }
            Error::InvalidCrlSignatureForPublicKey | Error::IssuerNotCrlSigner => {
                let detail = format!("may be revoked: the revocation list is not good ({error})");
                new(CertFault::RevocationUnknown, detail)
            }
            Error::InvalidSignatureForPublicKey => new(
                CertFault::BadSignature,
                "does not lead to a trusted authority: a signature in its chain is not by the key \
                 of the issuer"
                    .to_owned(),
            ),
            Error::UnknownIssuer => new(
                CertFault::BrokenChain,
                "does not lead to a trusted authority".to_owned(),
            ),
            Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | Error::SignatureAlgorithmMismatch => new(
                CertFault::WeakSignature,
                "is signed in a way that is not supported, or its issuer is".to_owned(),
            ),
            Error::BadDer
            | Error::BadDerTime
            | Error::TrailingData(_)
            | Error::MalformedExtensions
            | Error::UnsupportedCertVersion => {
                let detail = format!("is malformed, or one of its issuers is: {error}");
                new(CertFault::Malformed, detail)
            }
            Error::ExtensionValueInvalid => new(
                CertFault::KeyUsage,
                "has an issuer whose extendedKeyUsage does not allow for IKE".to_owned(),
            ),
            error => {
                let detail = format!("violates a constraint of its chain: {error}");
                new(CertFault::Constraint, detail)
            }
        }
    }
}

fn unknown_status(certificate: &Certificate) -> CertError {
    let detail = format!(
        "may be revoked: there is no current revocation list of \"{}\"",
        certificate.issuer()
    );
    CertError::new(CertFault::RevocationUnknown, Some(certificate), detail)
}

/// From webpki, to be explained; or by us.
enum Refusal {
    Webpki(Error),
    Known(CertError),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Webpki(error)
    }
}

impl From<CertError> for Refusal {
    fn from(error: CertError) -> Self {
        Self::Known(error)
    }
}

/// What a peer sent to prove its identity by a signature.
pub(crate) struct PeerCertificates(Vec<Vec<u8>>);

impl PeerCertificates {
    /// Of its CERT payloads, those with X.509 certificates; the first is its own (RFC 7296 §3.6).
    pub(crate) fn new<'a>(
        payloads: impl Iterator<Item = &'a mitregate_wire::ike::Certificate>,
    ) -> Self {
        let x509 = payloads.filter(|cert| cert.encoding == CertEncoding::X509_SIGNATURE);
        // One more than are allowed tells that there are too many.
        let bounded = x509.take(MAX_CERTIFICATES + 1);
        Self(bounded.map(|cert| cert.data.clone()).collect())
    }

    #[cfg(test)]
    pub(crate) fn of(certificates: &[&Certificate]) -> Self {
        Self(certificates.iter().map(|c| c.der().to_vec()).collect())
    }

    /// Checks the certificates for `id`, then the one signature.
    pub(crate) fn check(
        &self,
        trust: &TrustStore,
        id: &Identity,
        now: Duration,
        octets: &[u8],
        auth: &Authentication,
    ) -> Result<(), CertError> {
        let certificate = trust.verify(&self.0, id, now)?;
        if is_signed(&certificate, &trust.rule, octets, auth) {
            return Ok(());
        }
        let detail = format!(
            "did not make the signature of the peer's AUTH payload (method {}), or made it in a way \
             that auth = \"{}\" does not allow",
            auth.method, trust.rule
        );
        let fault = CertFault::BadSignature;
        Err(CertError::new(fault, Some(&certificate), detail))
    }
}
