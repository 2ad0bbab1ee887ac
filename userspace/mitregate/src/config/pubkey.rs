//! Authentication by certificates: the files, and whether they go together.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mitregate_control::cert::{
    AuthRule, CertFault, Certificate, Credential, Credentials, Crl, PrivateKey, Revocation,
    TrustStore, sections,
};
use mitregate_control::{Identity, LocalAuth, RemoteAuth};

use super::convert::Check;
use super::locate::FieldPath;
use super::{file, secret};
use crate::clock;

/// swanctl's word for the other way.
pub(super) const PSK: &str = "psk";
/// A chain, or a list of revoked certificates of a large authority.
pub(super) const MAX_FILE: usize = 4 << 20;
/// Less than this before its end, a certificate is worth a warning.
const SOON: Duration = Duration::from_secs(30 * 86400);

/// `auth`, or what the other fields say of it.
pub(super) fn method(given: Option<&String>, has_certificates: bool) -> &str {
    match given {
        Some(word) => word,
        None if has_certificates => "pubkey",
        None => PSK,
    }
}

/// How we prove who we are. `id` is what the configuration says of that; without it, it is the
/// subject of the first certificate. `remote` has authorities that may be ours, too.
pub(super) fn local(
    check: &mut Check<'_>,
    at: &FieldPath,
    entry: &file::Local,
    remote: &file::Remote,
    id: Option<Identity>,
) -> Option<(Identity, LocalAuth)> {
    let rule = rule(check, at, method(entry.auth.as_ref(), true))?;
    if entry.certs.is_empty() {
        let field = at.key("certs");
        check.error(
            &field,
            "is missing: a file with our certificate, and perhaps its chain",
        );
    }
    if entry.keys.is_empty() {
        let field = at.key("keys");
        check.error(
            &field,
            "is missing: the file with our private key, of mode 0600",
        );
    }
    if entry.certs.is_empty() || entry.keys.is_empty() {
        return None;
    }
    let chains = files(check, &at.key("certs"), &entry.certs, certificates)?;
    let authorities = files(check, &at.key("cacerts"), &entry.cacerts, certificates)?;
    let keys = keys(check, &at.key("keys"), &entry.keys)?;
    let mut keys: Vec<_> = keys.into_iter().map(Some).collect();
    let known: Vec<_> = remote
        .cacerts
        .iter()
        // What is wrong with these is told at their own place.
        .filter_map(|path| {
            let bytes = secret::read_public(&check.source.beside(path), MAX_FILE).ok()?;
            certificates(&bytes).ok()
        })
        .flatten()
        .collect();
    let mut list = Vec::new();
    for (index, chain) in chains.iter().enumerate() {
        let at = at.key("certs").index(index);
        let own = &chain[0];
        let key = keys
            .iter_mut()
            .find(|key| key.as_ref().is_some_and(|key| key.belongs_to(own)))
            .and_then(Option::take);
        let Some(key) = key else {
            let subject = own.subject();
            check.error(
                &at,
                format!(
                    "none of the private keys in keys is that of the certificate \"{subject}\""
                ),
            );
            continue;
        };
        let others: Vec<_> = chain[1..]
            .iter()
            .chain(authorities.iter().flatten())
            .cloned()
            .collect();
        if let Some(id) = &id
            && !own.names(id)
        {
            check.error(
                &at,
                format!(
                    "the certificate \"{}\" does not name \"{id}\", which is our id: it names {}",
                    own.subject(),
                    names(own)
                ),
            );
            continue;
        }
        let credential = Credential::new(own.clone(), key, &others);
        let Some(credential) = check.ok(&at, credential) else {
            continue;
        };
        look_at_time(check, &at, credential.chain());
        look_at_chain(check, &at, own, &[others, known.clone()].concat());
        list.push(credential);
    }
    let first = list.first()?.certificate();
    let id = id
        .or_else(|| first.subject_id())
        .or_else(|| first.alternative_names().into_iter().next());
    if id.is_none() {
        check.error(
            &at.key("id"),
            "is missing, and the certificate names nobody",
        );
    }
    let complete = list.len() == chains.len();
    let auth = LocalAuth::Pubkey(Arc::new(Credentials::new(list, rule)));
    complete.then_some((id?, auth))
}

/// How the peer must prove who it is.
pub(super) fn remote(
    check: &mut Check<'_>,
    at: &FieldPath,
    entry: &file::Remote,
) -> Option<RemoteAuth> {
    let rule = rule(check, at, method(entry.auth.as_ref(), true))?;
    if entry.cacerts.is_empty() && entry.certs.is_empty() {
        check.error(
            &at.key("cacerts"),
            "is missing: whose certificates are to be trusted? (or certs, for the peer's very own)",
        );
        return None;
    }
    let revocation = match entry.revocation.as_deref() {
        None => Some(Revocation::default()),
        Some(word) => check.word(
            &at.key("revocation"),
            word,
            &[
                ("relaxed", Revocation::Relaxed),
                ("ifuri", Revocation::IfUri),
                ("strict", Revocation::Strict),
            ],
        ),
    };
    let authorities = files(check, &at.key("cacerts"), &entry.cacerts, certificates)?;
    let peers = files(check, &at.key("certs"), &entry.certs, certificates)?;
    let crls = files(check, &at.key("crls"), &entry.crls, crls)?;
    let authorities: Vec<_> = authorities.into_iter().flatten().collect();
    let peers: Vec<_> = peers.into_iter().flatten().collect();
    let crls: Vec<_> = crls.into_iter().flatten().collect();
    look_at_time(check, &at.key("cacerts"), &authorities);
    look_at_time(check, &at.key("certs"), &peers);
    let now = clock::unix_time();
    for crl in &crls {
        if crl.next_update().is_some_and(|next| next < now) {
            let message = format!(
                "the revocation list of \"{}\" is out of date: a newer one was due",
                crl.issuer()
            );
            check.warn(&at.key("crls"), message);
        }
    }
    if revocation == Some(Revocation::Strict) && crls.is_empty() {
        let field = at.key("revocation");
        check.error(
            &field,
            "\"strict\" needs crls: without lists every peer is refused",
        );
    }
    let trust = TrustStore::new(authorities, peers, crls, revocation?, rule);
    let trust = check.ok(&at.key("cacerts"), trust)?;
    Some(RemoteAuth::Pubkey(Arc::new(trust)))
}

fn rule(check: &mut Check<'_>, at: &FieldPath, text: &str) -> Option<AuthRule> {
    check.ok(&at.key("auth"), text.parse())
}

/// What each file holds; `None` if one of them cannot be read.
fn files<T>(
    check: &mut Check<'_>,
    at: &FieldPath,
    paths: &[PathBuf],
    read: impl Fn(&[u8]) -> Result<T, String>,
) -> Option<Vec<T>> {
    let mut found = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let path = check.source.beside(path);
        let shown = path.display();
        let content = secret::read_public(&path, MAX_FILE)
            .and_then(|bytes| read(&bytes).map_err(|error| format!("{shown} {error}")));
        found.extend(check.ok(&at.index(index), content));
    }
    (found.len() == paths.len()).then_some(found)
}

fn keys(check: &mut Check<'_>, at: &FieldPath, paths: &[PathBuf]) -> Option<Vec<PrivateKey>> {
    let mut keys = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let path = check.source.beside(path);
        let key = read_key(&path);
        keys.extend(check.ok(&at.index(index), key));
    }
    (keys.len() == paths.len()).then_some(keys)
}

fn read_key(path: &Path) -> Result<PrivateKey, String> {
    let bytes = secret::read_private(path)?;
    PrivateKey::from_bytes(&bytes).map_err(|error| match error {
        // That error is a sentence of its own.
        mitregate_control::cert::KeyError::Pem(error) => format!("{}: {error}", path.display()),
        error => format!("{} {error}", path.display()),
    })
}

/// At least one certificate, from PEM or DER.
pub(crate) fn certificates(bytes: &[u8]) -> Result<Vec<Certificate>, String> {
    let sections = sections(bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if sections.is_empty() {
        let certificate = Certificate::from_der(bytes);
        return certificate
            .map(|certificate| vec![certificate])
            .map_err(|error| format!("is {error}"));
    }
    let found: Result<Vec<_>, _> = sections
        .iter()
        .filter(|section| ["CERTIFICATE", "X509 CERTIFICATE"].contains(&section.label.as_str()))
        .map(|section| Certificate::from_der(&section.der).map_err(|error| format!("is {error}")))
        .collect();
    match found {
        Ok(found) if found.is_empty() => Err("has no certificate in it".to_owned()),
        found => found,
    }
}

/// At least one list, from PEM or DER.
pub(crate) fn crls(bytes: &[u8]) -> Result<Vec<Crl>, String> {
    let sections = sections(bytes).map_err(|error| format!("cannot be read: {error}"))?;
    let of = |der: &[u8]| Crl::from_der(der).map_err(|error| format!("is {error}"));
    if sections.is_empty() {
        return of(bytes).map(|crl| vec![crl]);
    }
    let found: Result<Vec<_>, _> = sections
        .iter()
        .filter(|section| section.label == "X509 CRL")
        .map(|section| of(&section.der))
        .collect();
    match found {
        Ok(found) if found.is_empty() => Err("has no revocation list in it".to_owned()),
        found => found,
    }
}

fn names(certificate: &Certificate) -> String {
    let subject = certificate.subject_id();
    let names: Vec<_> = subject
        .iter()
        .chain(&certificate.alternative_names())
        .map(|name| format!("\"{name}\""))
        .collect();
    if names.is_empty() {
        "nobody".to_owned()
    } else {
        names.join(", ")
    }
}

/// The clock of a machine that has just booted may be wrong, and other connections can do without
/// this certificate: so this is worth a warning, and no reason not to start.
fn look_at_time(check: &mut Check<'_>, at: &FieldPath, certificates: &[Certificate]) {
    let now = clock::unix_time();
    for certificate in certificates {
        let subject = certificate.subject();
        let [from, until] = certificate.validity();
        let left = certificate.not_after().saturating_sub(now);
        let message = if now < certificate.not_before() {
            format!("the certificate \"{subject}\" is not valid before {from}")
        } else if now > certificate.not_after() {
            format!("the certificate \"{subject}\" expired on {until}")
        } else if left < SOON {
            let days = left.as_secs() / 86400;
            format!("the certificate \"{subject}\" expires in {days} days, on {until}")
        } else {
            continue;
        };
        check.warn(at, message);
    }
}

/// Does the chain lead to an authority, signature by signature? Where no root is at hand, the
/// highest certificate that is has to do.
fn look_at_chain(check: &mut Check<'_>, at: &FieldPath, own: &Certificate, others: &[Certificate]) {
    let authorities: Vec<_> = others.iter().filter(|one| one.is_ca()).cloned().collect();
    if authorities.iter().all(|one| one.subject() != own.issuer()) {
        if !own.is_self_issued() {
            let message = format!(
                "the certificate \"{}\" was issued by \"{}\", of which there is no certificate \
                 here: the peer must have it",
                own.subject(),
                own.issuer()
            );
            check.warn(at, message);
        }
        return;
    }
    let rule = AuthRule::default();
    let trust = TrustStore::new(
        authorities,
        Vec::new(),
        Vec::new(),
        Revocation::Relaxed,
        rule,
    );
    let Some(trust) = check.ok(at, trust) else {
        return;
    };
    let Some(id) = own
        .subject_id()
        .or_else(|| own.alternative_names().into_iter().next())
    else {
        return;
    };
    // Its time was looked at: here it is as if it were just the right one.
    let now = clock::unix_time().clamp(own.not_before(), own.not_after());
    match trust.verify(&[own.der().to_vec()], &id, now) {
        Err(error) if ![CertFault::Expired, CertFault::NotYetValid].contains(&error.fault) => {
            check.error(at, error);
        }
        _ => {}
    }
}
