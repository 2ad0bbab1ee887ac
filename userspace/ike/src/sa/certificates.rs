//! What IKE_SA_INIT and IKE_AUTH say about certificates and signatures: CERT and CERTREQ payloads
//! (RFC 7296 §3.6, §3.7) and SIGNATURE_HASH_ALGORITHMS (RFC 7427 §4).

use std::collections::BTreeSet;

use mitregate_wire::ike::{CertEncoding, Certificate, NotifyType, Payload};

use super::message::{find_notify, notify_data};
use crate::IkeConfig;
use crate::cert::{self, Credential, Hashes};
use crate::config::{LocalAuth, RemoteAuth};

/// Length of a SHA-1 hash, by which a CERTREQ names an authority.
const KEY_HASH_LEN: usize = 20;
/// Authorities that we name in one CERTREQ payload, and that we heed in all.
const MAX_AUTHORITIES: usize = 64;

/// What the peer can check: it bears on which certificate and which signature we choose. The first
/// part comes in IKE_SA_INIT, where nobody vouches for it; a lie makes the peer fail to authenticate
/// us, no more.
#[derive(Default)]
pub(super) struct Hints {
    /// `None`: it does not speak RFC 7427.
    pub(super) hashes: Option<Hashes>,
    /// Authorities that it trusts, by the hashes of their keys.
    pub(super) authorities: BTreeSet<[u8; KEY_HASH_LEN]>,
}

impl Hints {
    /// From IKE_SA_INIT.
    pub(super) fn of(payloads: &[Payload]) -> Self {
        let notify = find_notify(payloads, NotifyType::SIGNATURE_HASH_ALGORITHMS);
        let mut hints = Self {
            hashes: notify.and_then(|notify| Hashes::parse(&notify.data)),
            authorities: BTreeSet::new(),
        };
        hints.take_requests(payloads);
        hints
    }

    /// From the CERTREQ payloads of any message.
    pub(super) fn take_requests(&mut self, payloads: &[Payload]) {
        for payload in payloads {
            let Payload::CertificateRequest(request) = payload else {
                continue;
            };
            if request.encoding == CertEncoding::X509_SIGNATURE {
                let (hashes, _) = request.data.as_chunks();
                let room = MAX_AUTHORITIES.saturating_sub(self.authorities.len());
                self.authorities.extend(hashes.iter().take(room));
            }
        }
    }
}

/// In IKE_SA_INIT, for all connections that the peer may mean: SIGNATURE_HASH_ALGORITHMS where any
/// of them has to do with signatures.
pub(super) fn announce_hashes<'a>(
    mut configs: impl Iterator<Item = &'a IkeConfig>,
) -> Option<Payload> {
    let signs = configs.any(|config| {
        matches!(config.local_auth, LocalAuth::Pubkey(_))
            || matches!(config.remote_auth, RemoteAuth::Pubkey(_))
    });
    let notify = || {
        notify_data(
            NotifyType::SIGNATURE_HASH_ALGORITHMS,
            &Hashes::ours().emit(),
        )
    };
    signs.then(notify)
}

/// The authorities that we trust, for the peer to choose a certificate by.
pub(super) fn certificate_request<'a>(
    configs: impl Iterator<Item = &'a IkeConfig>,
) -> Option<Payload> {
    let trusted = configs.filter_map(|config| match &config.remote_auth {
        RemoteAuth::Pubkey(trust) => Some(trust.authorities()),
        RemoteAuth::Psk(_) => None,
    });
    let hashes: BTreeSet<_> = trusted.flatten().map(cert::Certificate::key_hash).collect();
    let first = hashes.into_iter().take(MAX_AUTHORITIES);
    let data: Vec<_> = first.flatten().collect();
    let some = !data.is_empty();
    let request = || {
        Payload::CertificateRequest(Certificate {
            encoding: CertEncoding::X509_SIGNATURE,
            data,
        })
    };
    some.then(request)
}

/// Our certificate and its chain, ours first (RFC 7296 §3.6).
pub(super) fn certificate_payloads(credential: &Credential) -> impl Iterator<Item = Payload> {
    credential.chain().iter().map(|certificate| {
        Payload::Certificate(Certificate {
            encoding: CertEncoding::X509_SIGNATURE,
            data: certificate.der().to_vec(),
        })
    })
}
