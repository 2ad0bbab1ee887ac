//! Certificates, revocation lists, PEM, names and AUTH data of signatures: what a peer or a file may
//! hold is read without a panic, and what is shown of it moves no cursor.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mitregate_ike::cert::{
    AuthRule, Certificate, Crl, PrivateKey, Revocation, TrustStore, sections,
};
use mitregate_ike::{IdPattern, Identity};
use mitregate_wire::ike::{DigitalSignature, IdType, parse_hashes};
use std::time::Duration;

fn plain(text: &str) {
    assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
}

fn look_at(der: &[u8]) {
    if let Ok(crl) = Crl::from_der(der) {
        plain(&crl.issuer());
        let _ = (crl.dates(), crl.revoked());
    }
    let Ok(certificate) = Certificate::from_der(der) else {
        return;
    };
    assert_eq!(certificate.der(), der);
    for text in [
        certificate.subject(),
        certificate.issuer(),
        certificate.serial(),
    ] {
        plain(&text);
    }
    let _ = (
        certificate.validity(),
        certificate.key_kind(),
        certificate.key_hash(),
    );
    let _ = (certificate.key_usages(), certificate.extended_key_usages());
    let mut ids = certificate.alternative_names();
    ids.extend(certificate.subject_id());
    let trust = TrustStore::new(
        Vec::new(),
        Vec::new(),
        Vec::new(),
        Revocation::Strict,
        AuthRule::default(),
    )
    .unwrap();
    for id in ids {
        plain(&id.to_string());
        assert!(certificate.names(&id));
        // Nobody is trusted.
        let error = trust.verify(&[der.to_vec()], &id, Duration::from_secs(1 << 30));
        plain(&error.err().unwrap().to_string());
    }
}

fuzz_target!(|bytes: &[u8]| {
    look_at(bytes);
    for section in sections(bytes).into_iter().flatten() {
        look_at(&section.der);
    }
    let _ = PrivateKey::from_bytes(bytes);
    let _ = parse_hashes(bytes);
    if let Ok(signature) = DigitalSignature::parse(bytes) {
        assert_eq!(signature.emit().unwrap(), bytes);
    }
    let name = Identity::new(IdType::DER_ASN1_DN, bytes.to_vec());
    plain(&name.to_string());
    let _ = name.attributes();
    assert!(name.is(&name));
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(pattern) = text.parse::<IdPattern>()
    {
        plain(&pattern.to_string());
        if let Some(id) = pattern.exact() {
            assert!(pattern.matches(id));
        }
    }
});
