//! Certificates for the first client and the gateway, made once: Ed25519, because its signatures need no
//! random numbers but the key's (RFC 8032 §8.2), so that a run replays.

use std::sync::Arc;
use std::time::Duration;

use mitregate_ike::cert::{
    AuthRule, Certificate, Credential, Credentials, PrivateKey, Revocation, TrustStore, sections,
};
use mitregate_ike::{LocalAuth, RemoteAuth};

/// What the wall clock says when a run begins: 2030-01-01. The certificates are valid from 2026 to 2126.
pub const UNIX_TIME: Duration = Duration::from_secs(1_893_456_000);

const AUTHORITY: &[u8] = include_bytes!("certificates/ca.pem");
const CLIENT: [&[u8]; 2] = [
    include_bytes!("certificates/client.pem"),
    include_bytes!("certificates/client.key"),
];
const GATEWAY: [&[u8]; 2] = [
    include_bytes!("certificates/gateway.pem"),
    include_bytes!("certificates/gateway.key"),
];

fn certificate(pem: &[u8]) -> Certificate {
    let sections = sections(pem).expect("a PEM file");
    Certificate::from_der(&sections[0].der).expect("a certificate")
}

/// How the client proves who it is, or the gateway.
#[must_use]
pub fn local(client: bool) -> LocalAuth {
    let [pem, key] = if client { CLIENT } else { GATEWAY };
    let key = PrivateKey::from_bytes(key).expect("a private key");
    let authority = [certificate(AUTHORITY)];
    let credential = Credential::new(certificate(pem), key, &authority).expect("it fits its key");
    let credentials = Credentials::new(vec![credential], AuthRule::default());
    LocalAuth::Pubkey(Arc::new(credentials))
}

/// Whom both trust.
#[must_use]
pub fn remote() -> RemoteAuth {
    let trust = TrustStore::new(
        vec![certificate(AUTHORITY)],
        Vec::new(),
        Vec::new(),
        Revocation::default(),
        AuthRule::default(),
    );
    RemoteAuth::Pubkey(Arc::new(trust.expect("an authority")))
}
