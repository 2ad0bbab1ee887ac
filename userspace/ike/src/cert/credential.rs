//! What we prove our identity with.

use std::collections::BTreeSet;

use mitregate_wire::ike::IdType;

use super::certificate::Certificate;
use super::error::{CertError, CertFault};
use super::private_key::PrivateKey;
use super::rule::AuthRule;
use super::scheme::{Hashes, Proof};
use crate::Identity;

/// No chain is longer; a peer would not look at one.
const MAX_CHAIN: usize = 8;

/// A private key, its certificate, and the chain to send along.
pub struct Credential {
    /// Our own certificate first, then each one's issuer; without the root.
    chain: Vec<Certificate>,
    /// By hash of their keys: who vouches for us, the root included where we know it.
    authorities: BTreeSet<[u8; 20]>,
    key: PrivateKey,
}

impl Credential {
    /// `others` are authorities that may belong between the certificate and a root, or be the root,
    /// in any order. Refuses a key that is another's, and a certificate that could convince nobody.
    pub fn new(
        certificate: Certificate,
        key: PrivateKey,
        others: &[Certificate],
    ) -> Result<Self, CertError> {
        if !key.belongs_to(&certificate) {
            let detail = "has another key than the private key";
            let fault = CertFault::BadSignature;
            return Err(CertError::new(fault, Some(&certificate), detail));
        }
        certificate.check_end_entity()?;
        certificate.check_strength()?;
        let mut chain = vec![certificate];
        let mut authorities = BTreeSet::new();
        while let Some(last) = chain.last()
            && !last.is_self_issued()
            && chain.len() < MAX_CHAIN
        {
            let issuer = last.issuer_der();
            let Some(issuer) = others.iter().find(|other| other.subject_der() == issuer) else {
                break;
            };
            authorities.insert(issuer.key_hash());
            if issuer.is_self_issued() {
                break;
            }
            chain.push(issuer.clone());
        }
        Ok(Self {
            chain,
            authorities,
            key,
        })
    }

    /// Our own certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.chain[0]
    }

    /// What a peer is sent: our own certificate first.
    #[must_use]
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    pub(crate) const fn key(&self) -> &PrivateKey {
        &self.key
    }
}

/// All that we can prove one identity with, in order of preference.
pub struct Credentials {
    list: Vec<Credential>,
    rule: AuthRule,
}

impl Credentials {
    /// At least one; `rule` narrows which signatures we make.
    #[must_use]
    pub const fn new(list: Vec<Credential>, rule: AuthRule) -> Self {
        Self { list, rule }
    }

    /// In order of preference.
    #[must_use]
    pub fn list(&self) -> &[Credential] {
        &self.list
    }

    /// What to sign with for a peer that trusts `authorities` (by hash of their keys; empty: it has
    /// not said) and announced `hashes`. A peer that trusts none of ours gets the first one all the
    /// same, as RFC 7296 §3.7 says.
    pub(crate) fn choose(
        &self,
        authorities: &BTreeSet<[u8; 20]>,
        hashes: Option<&Hashes>,
    ) -> Option<(&Credential, Proof)> {
        let usable = || {
            self.list.iter().filter_map(|credential| {
                let kind = credential.key.kind();
                Some((credential, Proof::choose(kind, &self.rule, hashes)?))
            })
        };
        usable()
            .find(|(credential, _)| !credential.authorities.is_disjoint(authorities))
            .or_else(|| usable().next())
    }

    /// The identity as it goes on the wire: a distinguished name in the very encoding of the
    /// certificate (RFC 4945 §3.1.5).
    pub(crate) fn spelled(credential: &Credential, id: &Identity) -> Identity {
        let subject = credential.certificate().subject_id();
        match subject {
            Some(subject) if id.kind() == IdType::DER_ASN1_DN && subject.is(id) => subject,
            _ => id.clone(),
        }
    }
}
