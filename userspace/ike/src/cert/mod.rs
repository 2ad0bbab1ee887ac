//! X.509 certificates (RFC 5280, and RFC 4945 for what IKE asks of them): what is in one, whom to
//! trust, and the keys that sign.
//!
//! Signatures and paths are checked by `rustls-webpki` over `aws-lc-rs`; names, key usage and the
//! texts of errors are from here. Nothing here reads a file or a clock: validity is judged by the
//! time that the caller gives.

mod certificate;
mod credential;
mod error;
mod pem;
mod private_key;
mod rule;
mod scheme;
mod trust;
mod validity;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use certificate::{Certificate, KeyKind};
pub use credential::{Credential, Credentials};
pub use error::{CertError, CertFault};
pub use pem::{PemError, Section, sections};
pub use private_key::{KeyError, PrivateKey};
pub use rule::{AuthRule, RuleError};
pub use trust::{Crl, Revocation, TrustStore};

pub(crate) use scheme::Hashes;
#[cfg(test)]
use scheme::Proof;
pub(crate) use trust::PeerCertificates;
