//! What is wrong with a certificate.

use core::fmt;

/// What is wrong, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertFault {
    /// None was sent, and none is configured.
    Missing,
    /// More, or longer ones, than anybody needs.
    TooMany,
    /// No DER of a certificate, or one without what RFC 5280 wants.
    Malformed,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It is somebody else's.
    WrongName,
    /// Its chain ends at an authority that is not trusted.
    UnknownCa,
    /// An issuer in its chain is neither trusted nor sent along.
    BrokenChain,
    /// The issuer of a certificate is no authority, or an authority is used as an end entity.
    NotACa,
    /// A key too short, or of a kind that is not supported.
    WeakKey,
    /// A certificate signed with a broken hash function, or in a way that is not supported.
    WeakSignature,
    /// Key usage or extended key usage do not allow for IKE.
    KeyUsage,
    /// A constraint of an authority: path length, names, a critical extension that is not known.
    Constraint,
    /// Revoked by its issuer.
    Revoked,
    /// Whether it is revoked cannot be told, and must be.
    RevocationUnknown,
    /// Not signed by whom it says.
    BadSignature,
    /// The connection wants another kind of key.
    WrongKind,
}

impl CertFault {
    const fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooMany => "too many or too long",
            Self::Malformed => "malformed",
            Self::Expired => "expired",
            Self::NotYetValid => "not yet valid",
            Self::WrongName => "for another name",
            Self::UnknownCa => "unknown certificate authority",
            Self::BrokenChain => "broken chain",
            Self::NotACa => "issuer is no certificate authority",
            Self::WeakKey => "weak or unsupported key",
            Self::WeakSignature => "weak or unsupported signature algorithm",
            Self::KeyUsage => "key usage does not allow for IKE",
            Self::Constraint => "violates a constraint",
            Self::Revoked => "revoked",
            Self::RevocationUnknown => "revocation status unknown",
            Self::BadSignature => "bad signature",
            Self::WrongKind => "not of the kind that is configured",
        }
    }
}

impl fmt::Display for CertFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Which certificate is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertError {
    /// What is wrong.
    pub fault: CertFault,
    /// The subject of the certificate, if one can be named.
    pub certificate: Option<String>,
    /// The whole story, to follow the certificate in a sentence.
    pub detail: String,
}

impl CertError {
    pub(crate) fn new(
        fault: CertFault,
        certificate: Option<&super::Certificate>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            fault,
            certificate: certificate.map(super::Certificate::title),
            detail: detail.into(),
        }
    }
}

impl fmt::Display for CertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.certificate {
            Some(certificate) => write!(f, "certificate \"{certificate}\" {}", self.detail),
            None => f.write_str(&self.detail),
        }
    }
}

impl core::error::Error for CertError {}
