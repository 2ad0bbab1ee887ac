use rcgen::{
    BasicConstraints, CrlDistributionPoint, ExtendedKeyUsagePurpose as Usage, IsCa, KeyPair,
    KeyUsagePurpose, RsaKeySize, SanType, date_time_ymd,
};

use super::testing::*;
use super::*;
use crate::Identity;

fn id(text: &str) -> Identity {
    text.parse().unwrap()
}

fn ders(certificates: &[&Certificate]) -> Vec<Vec<u8>> {
    certificates.iter().map(|c| c.der().to_vec()).collect()
}

/// The fault, and that its text names `certificate` and says `detail`.
#[track_caller]
fn refused(result: Result<Certificate, CertError>, fault: CertFault, texts: &[&str]) {
    let error = result.map(|c| c.subject()).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.fault, fault, "{text}");
    for expected in texts {
        assert!(
            text.contains(expected),
            "{text:?} does not say {expected:?}"
        );
    }
}

#[test]
fn a_certificate_proves_each_of_its_names() {
    let ca = Authority::new("Root");
    let gw = ca.issue_with("gw", ed25519(), |params| {
        params.subject_alt_names.extend([
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
        ]);
    });
    let trust = trust(&[&ca]);
    let chain = ders(&[&gw.certificate]);
    for name in [
        "gw.lab",
        "GW.LAB",
        "gw@lab",
        "192.0.2.1",
        "2001:db8::1",
        "C=CH, O=Lab, CN=gw",
        "c=ch, o=lab, cn=GW",
    ] {
        let proven = trust.verify(&chain, &id(name), NOW).unwrap();
        assert_eq!(proven.der(), gw.certificate.der(), "{name}");
    }
    for name in [
        "gw",
        "x.lab",
        "client@lab",
        "192.0.2.2",
        "C=CH, O=Lab",
        "C=CH, O=Lab, CN=*",
        "@#00",
    ] {
        let texts = [
            "\"C=CH, O=Lab, CN=gw\" does not name",
            &format!("\"{}\"", id(name)),
            "\"gw.lab\"",
            "\"192.0.2.1\"",
        ];
        refused(
            trust.verify(&chain, &id(name), NOW),
            CertFault::WrongName,
            &texts,
        );
    }
}

#[test]
fn time_is_up_or_has_not_come() {
    let ca = Authority::new("Root");
    let old = ca.issue_with("old", ed25519(), |p| {
        p.not_after = date_time_ymd(2026, 5, 29);
    });
    let new = ca.issue_with("new", ed25519(), |p| {
        p.not_before = date_time_ymd(2026, 6, 3);
    });
    let trust = trust(&[&ca]);
    refused(
        trust.verify(&ders(&[&old.certificate]), &id("old.lab"), NOW),
        CertFault::Expired,
        &["CN=old\" expired on 2026-05-29 00:00:00 UTC (3 days ago)"],
    );
    refused(
        trust.verify(&ders(&[&new.certificate]), &id("new.lab"), NOW),
        CertFault::NotYetValid,
        &["CN=new\" is not valid before 2026-06-03 00:00:00 UTC (2 days from now"],
    );
}

#[test]
fn issuers_have_their_time_too() {
    let old_root = Authority::with("Old Root", |p| p.not_after = date_time_ymd(2026, 5, 1));
    let leaf = old_root.issue("gw");
    let chain = ders(&[&leaf.certificate]);
    let texts = ["CN=Old Root\" expired on 2026-05-01"];
    let result = trust(&[&old_root]).verify(&chain, &id("gw.lab"), NOW);
    refused(result, CertFault::Expired, &texts);

    let root = Authority::new("Root");
    let middle = root.intermediate("Middle", |p| p.not_after = date_time_ymd(2026, 5, 1));
    let leaf = middle.issue("gw");
    let chain = ders(&[&leaf.certificate, &middle.certificate()]);
    let result = trust(&[&root]).verify(&chain, &id("gw.lab"), NOW);
    refused(
        result,
        CertFault::Expired,
        &["CN=Middle\" expired on 2026-05-01"],
    );
}

#[test]
fn chains_whole_and_broken() {
    let root = Authority::new("Root");
    let upper = root.intermediate("Upper", |_| {});
    let lower = upper.intermediate("Lower", |_| {});
    let gw = lower.issue("gw");
    let [upper_cert, lower_cert] = [upper.certificate(), lower.certificate()];
    let trust_root = trust(&[&root]);
    let verify =
        |trust: &TrustStore, chain: &[&Certificate]| trust.verify(&ders(chain), &id("gw.lab"), NOW);
    // In any order, with the root, with what has nothing to do with it.
    let foreign = Authority::new("Foreign").certificate();
    for chain in [
        &[&gw.certificate, &lower_cert, &upper_cert][..],
        &[&gw.certificate, &upper_cert, &lower_cert],
        &[
            &gw.certificate,
            &root.certificate(),
            &foreign,
            &upper_cert,
            &lower_cert,
        ],
    ] {
        verify(&trust_root, chain).unwrap();
    }
    // An authority below the root may be trusted for itself.
    verify(&trust(&[&lower]), &[&gw.certificate]).unwrap();

    refused(
        verify(&trust_root, &[&gw.certificate, &lower_cert]),
        CertFault::BrokenChain,
        &["CN=Lower\" was issued by \"C=CH, O=Lab, CN=Upper\", which is neither trusted nor sent"],
    );
    refused(
        verify(&trust_root, &[&gw.certificate]),
        CertFault::BrokenChain,
        &["CN=gw\" was issued by \"C=CH, O=Lab, CN=Lower\""],
    );
    let other_root = Authority::new("Other Root");
    refused(
        verify(
            &trust(&[&other_root]),
            &[
                &gw.certificate,
                &lower_cert,
                &upper_cert,
                &root.certificate(),
            ],
        ),
        CertFault::UnknownCa,
        &["CN=Root\" is self-signed, and not among the authorities"],
    );
    // The same name, another key.
    let impostor = Authority::new("Root");
    refused(
        verify(
            &trust(&[&impostor]),
            &[&gw.certificate, &lower_cert, &upper_cert],
        ),
        CertFault::BadSignature,
        &["is not by the key of the issuer"],
    );
}

#[test]
fn self_signed_or_issued_by_who_may_not() {
    let root = Authority::new("Root");
    let trust = trust(&[&root]);
    let key = ed25519();
    let mut own = params("gw");
    own.subject_alt_names = vec![SanType::DnsName("gw.lab".try_into().unwrap())];
    let alone = Certificate::from_der(own.self_signed(&key).unwrap().der()).unwrap();
    refused(
        trust.verify(&ders(&[&alone]), &id("gw.lab"), NOW),
        CertFault::UnknownCa,
        &["CN=gw\" is self-signed"],
    );
    // Once it is known for itself, it is good; for another peer it is not.
    let pinned = TrustStore::new(
        vec![root.certificate()],
        vec![alone.clone()],
        Vec::new(),
        Revocation::Strict,
        AuthRule::default(),
    )
    .unwrap();
    pinned.verify(&ders(&[&alone]), &id("gw.lab"), NOW).unwrap();
    pinned.verify(&[], &id("gw.lab"), NOW).unwrap();
    refused(
        pinned.verify(&[], &id("other.lab"), NOW),
        CertFault::Missing,
        &["no certificate was sent for \"other.lab\""],
    );

    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let no_ca = root.intermediate("No CA", |p| {
            p.is_ca = is_ca;
            p.key_usages.clear();
        });
        let gw = no_ca.issue("gw");
        refused(
            trust.verify(
                &ders(&[&gw.certificate, &no_ca.certificate()]),
                &id("gw.lab"),
                NOW,
            ),
            CertFault::NotACa,
            &["CN=No CA\" is no certificate authority"],
        );
    }
    let no_sign = root.intermediate("No Sign", |p| {
        p.key_usages = vec![KeyUsagePurpose::CrlSign];
    });
    let gw = no_sign.issue("gw");
    refused(
        trust.verify(
            &ders(&[&gw.certificate, &no_sign.certificate()]),
            &id("gw.lab"),
            NOW,
        ),
        CertFault::KeyUsage,
        &["CN=No Sign\" may not sign certificates"],
    );
    refused(
        trust.verify(&[root.der()], &id("C=CH, O=Lab, CN=Root"), NOW),
        CertFault::NotACa,
        &["CN=Root\" is that of a certificate authority"],
    );
}

#[test]
fn constraints_of_authorities() {
    let root = Authority::with("Root", |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let upper = root.intermediate("Upper", |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let lower = upper.intermediate("Lower", |_| {});
    let gw = lower.issue("gw");
    let chain = ders(&[&gw.certificate, &lower.certificate(), &upper.certificate()]);
    refused(
        trust(&[&root]).verify(&chain, &id("gw.lab"), NOW),
        CertFault::Constraint,
        &["violates a constraint"],
    );
    let narrow = Authority::with("Narrow", |p| {
        p.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("other.lab".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    });
    let gw = narrow.issue_with("gw", ed25519(), |_| {});
    refused(
        trust(&[&narrow]).verify(&ders(&[&gw.certificate]), &id("gw.lab"), NOW),
        CertFault::Constraint,
        &[],
    );
}

#[test]
fn key_usages_that_allow_for_ike() {
    let ca = Authority::new("Root");
    let trust = trust(&[&ca]);
    let verify = |usages: &[Usage], keys: &[KeyUsagePurpose]| {
        let gw = ca.issue_with("gw", ed25519(), |params| {
            params.extended_key_usages = usages.to_vec();
            params.key_usages = keys.to_vec();
        });
        trust.verify(&ders(&[&gw.certificate]), &id("gw.lab"), NOW)
    };
    let other = |arcs: &[u64]| Usage::Other(arcs.to_vec());
    let ike_intermediate = other(&[1, 3, 6, 1, 5, 5, 8, 2, 2]);
    let ipsec_ike = other(&[1, 3, 6, 1, 5, 5, 7, 3, 17]);
    for usage in [
        ike_intermediate,
        ipsec_ike,
        Usage::Any,
        Usage::ServerAuth,
        Usage::ClientAuth,
    ] {
        verify(&[Usage::CodeSigning, usage], &[]).unwrap();
    }
    refused(
        verify(&[Usage::CodeSigning, Usage::EmailProtection], &[]),
        CertFault::KeyUsage,
        &["CN=gw\" is not for IKE: extendedKeyUsage is 1.3.6.1.5.5.7.3.3"],
    );
    verify(&[], &[KeyUsagePurpose::DigitalSignature]).unwrap();
    verify(&[], &[KeyUsagePurpose::ContentCommitment]).unwrap();
    refused(
        verify(&[], &[KeyUsagePurpose::KeyEncipherment]),
        CertFault::KeyUsage,
        &["CN=gw\" may not sign: keyUsage is keyEncipherment"],
    );
    let tls_only = ca.intermediate("Mail CA", |p| {
        p.extended_key_usages = vec![Usage::EmailProtection];
    });
    let gw = tls_only.issue("gw");
    refused(
        trust.verify(
            &ders(&[&gw.certificate, &tls_only.certificate()]),
            &id("gw.lab"),
            NOW,
        ),
        CertFault::KeyUsage,
        &["issuer whose extendedKeyUsage"],
    );
}

#[test]
fn revocation_as_swanctl_words_it() {
    let root = Authority::new("Root");
    let middle = root.intermediate("Middle", |_| {});
    let gone = middle.issue("gone");
    let uri = vec![CrlDistributionPoint {
        uris: vec!["http://crl.lab/x".to_owned()],
    }];
    let gw = middle.issue("gw");
    let gw_uri = middle.issue_with("gw", ed25519(), |p| p.crl_distribution_points = uri);
    let chain = |leaf: &Leaf| ders(&[&leaf.certificate, &middle.certificate()]);
    let verify = |leaf: &Leaf, crls: Vec<Crl>, revocation| {
        let trust = trust_with(&[&root], crls, revocation);
        trust.verify(&chain(leaf), &leaf.certificate.alternative_names()[0], NOW)
    };
    use Revocation::{IfUri, Relaxed, Strict};
    let current = || vec![middle.crl(&[&gone.certificate]), root.crl(&[])];
    for revocation in [Relaxed, IfUri, Strict] {
        verify(&gw, current(), revocation).unwrap();
        verify(&gw_uri, current(), revocation).unwrap();
        refused(
            verify(&gone, current(), revocation),
            CertFault::Revoked,
            &["CN=gone\" was revoked"],
        );
        let crls = vec![root.crl(&[&middle.certificate()]), middle.crl(&[])];
        refused(
            verify(&gw, crls, revocation),
            CertFault::Revoked,
            &["CN=Middle\" was revoked"],
        );
        // A list that somebody else signed in the issuer's name.
        let forged = Authority::new("Middle").crl(&[]);
        refused(
            verify(&gw, vec![forged], revocation),
            CertFault::RevocationUnknown,
            &[],
        );
    }
    // No list, or none of the issuer.
    for crls in [
        |_: &Authority| Vec::new(),
        |root: &Authority| vec![root.crl(&[])],
    ] {
        verify(&gw, crls(&root), Relaxed).unwrap();
        verify(&gw, crls(&root), IfUri).unwrap();
        verify(&gw_uri, crls(&root), Relaxed).unwrap();
        for (leaf, revocation) in [(&gw_uri, IfUri), (&gw, Strict), (&gw_uri, Strict)] {
            refused(
                verify(leaf, crls(&root), revocation),
                CertFault::RevocationUnknown,
                &["CN=gw\" may be revoked", "O=Lab, CN=Middle"],
            );
        }
    }
    // Out of date: still good enough to say who was revoked.
    let stale = || vec![middle.crl_until(&[&gone.certificate], 5), root.crl(&[])];
    verify(&gw_uri, stale(), Relaxed).unwrap();
    refused(verify(&gone, stale(), Relaxed), CertFault::Revoked, &[]);
    for revocation in [IfUri, Strict] {
        refused(
            verify(&gw_uri, stale(), revocation),
            CertFault::RevocationUnknown,
            &["\"C=CH, O=Lab, CN=Middle\" is out of date since 2026-05-01"],
        );
    }
}

#[test]
fn weak_keys_and_signatures() {
    let pem =
        |text: &str| Certificate::from_der(&sections(text.as_bytes()).unwrap()[0].der).unwrap();
    let [ca, rsa_ca] = [
        include_str!("fixtures/ca.pem"),
        include_str!("fixtures/rsa-ca.pem"),
    ]
    .map(pem);
    let [weak, sha1] = [
        include_str!("fixtures/weak.pem"),
        include_str!("fixtures/sha1.pem"),
    ]
    .map(pem);
    let now = ca.not_before() + core::time::Duration::from_secs(3600);
    let trust = TrustStore::new(
        vec![ca, rsa_ca],
        Vec::new(),
        Vec::new(),
        Revocation::Relaxed,
        AuthRule::default(),
    )
    .unwrap();
    refused(
        trust.verify(&ders(&[&weak]), &id("weak.lab"), now),
        CertFault::WeakKey,
        &["CN=weak\" has an RSA key of 1024 bits: 2048 are the least"],
    );
    refused(
        trust.verify(&ders(&[&sha1]), &id("sha1.lab"), now),
        CertFault::WeakSignature,
        &["CN=sha1\" is signed over a SHA-1 hash"],
    );
    assert_eq!(weak.key_kind(), KeyKind::Rsa { bits: 1024 });
}

#[test]
fn the_connection_may_want_a_kind_of_key() {
    let ca = Authority::new("Root");
    let gw = ca.issue("gw");
    let with = |rule: &str| {
        let rule = rule.parse().unwrap();
        let ca = vec![ca.certificate()];
        TrustStore::new(ca, Vec::new(), Vec::new(), Revocation::Relaxed, rule).unwrap()
    };
    let chain = ders(&[&gw.certificate]);
    with("ed25519").verify(&chain, &id("gw.lab"), NOW).unwrap();
    refused(
        with("rsa-3072").verify(&chain, &id("gw.lab"), NOW),
        CertFault::WrongKind,
        &["CN=gw\" has a key (Ed25519) that auth = \"rsa-3072\" does not allow"],
    );
}

#[test]
fn work_for_strangers_is_bounded() {
    let ca = Authority::new("Root");
    let gw = ca.issue("gw");
    let trust = trust(&[&ca]);
    let many = vec![gw.certificate.der().to_vec(); 9];
    refused(
        trust.verify(&many, &id("gw.lab"), NOW),
        CertFault::TooMany,
        &["more than 8"],
    );
    let long = vec![gw.certificate.der().to_vec(), vec![0; 16 * 1024 + 1]];
    refused(
        trust.verify(&long, &id("gw.lab"), NOW),
        CertFault::TooMany,
        &["16384 bytes"],
    );
    refused(
        trust.verify(&[vec![0x30; 100]], &id("gw.lab"), NOW),
        CertFault::Malformed,
        &[],
    );
    // Rubbish behind a good certificate does no harm.
    let rubbish = vec![gw.certificate.der().to_vec(), vec![0x30; 100], vec![]];
    trust.verify(&rubbish, &id("gw.lab"), NOW).unwrap();
}

#[test]
fn every_bit_of_a_certificate_counts() {
    let ca = Authority::new("Root");
    let gw = ca.issue("gw");
    let trust = trust(&[&ca]);
    let der = gw.certificate.der();
    for bit in 0..der.len() * 8 {
        let mut bad = der.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(
            trust.verify(&[bad], &id("gw.lab"), NOW).is_err(),
            "bit {bit}"
        );
    }
}

#[test]
fn authorities_that_are_none_are_refused_at_once() {
    let ca = Authority::new("Root");
    let gw = ca.issue("gw");
    let error = TrustStore::new(
        vec![gw.certificate],
        Vec::new(),
        Vec::new(),
        Revocation::Relaxed,
        AuthRule::default(),
    )
    .err()
    .unwrap();
    assert_eq!(error.fault, CertFault::NotACa);
}

#[test]
fn private_keys_as_openssl_writes_them() {
    for (file, kind) in [
        (
            &include_bytes!("fixtures/ed25519.key")[..],
            KeyKind::Ed25519,
        ),
        (
            include_bytes!("fixtures/ec-traditional.key"),
            KeyKind::EcdsaP256,
        ),
        (include_bytes!("fixtures/p384.key"), KeyKind::EcdsaP384),
        (
            include_bytes!("fixtures/rsa-traditional.key"),
            KeyKind::Rsa { bits: 2048 },
        ),
    ] {
        assert_eq!(PrivateKey::from_bytes(file).unwrap().kind(), kind);
        let der = &sections(file).unwrap()[0].der;
        assert_eq!(PrivateKey::from_bytes(der).unwrap().kind(), kind);
    }
    for (file, error) in [
        (
            &include_bytes!("fixtures/encrypted.key")[..],
            KeyError::Pem(PemError::Encrypted),
        ),
        (
            include_bytes!("fixtures/rsa1024.key"),
            KeyError::Unsupported,
        ),
        (include_bytes!("fixtures/p521.key"), KeyError::Unsupported),
        (include_bytes!("fixtures/ca.pem"), KeyError::NoKey),
        (b"", KeyError::Unsupported),
    ] {
        assert_eq!(PrivateKey::from_bytes(file).err(), Some(error));
    }
}

fn keys() -> Vec<KeyPair> {
    vec![
        ed25519(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
    ]
}

#[test]
fn signatures_are_checked_by_the_certificate() {
    let ca = Authority::new("Root");
    let other = ca.issue("other");
    for key in keys() {
        let gw = ca.issue_with("gw", key, |_| {});
        let key = gw.private_key();
        assert!(key.belongs_to(&gw.certificate) && !key.belongs_to(&other.certificate));
        let certificates = PeerCertificates::of(&[&gw.certificate]);
        let mut proofs = 0;
        for rule in [
            "pubkey",
            "rsa-sha256",
            "rsa-sha512",
            "rsa/pss-sha384",
            "pubkey-sha384",
        ] {
            let rule: AuthRule = rule.parse().unwrap();
            for hashes in [Some(Hashes::ours()), None] {
                let Some(proof) = Proof::choose(key.kind(), &rule, hashes.as_ref()) else {
                    continue;
                };
                proofs += 1;
                let auth = proof.payload(key.sign(proof, b"octets").unwrap()).unwrap();
                let trust = TrustStore::new(
                    vec![ca.certificate()],
                    Vec::new(),
                    Vec::new(),
                    Revocation::Relaxed,
                    rule.clone(),
                )
                .unwrap();
                let check = |octets: &[u8], auth: &_| {
                    certificates.check(&trust, &id("gw.lab"), NOW, octets, auth)
                };
                check(b"octets", &auth).unwrap();
                let error = check(b"Octets", &auth).unwrap_err();
                assert_eq!(error.fault, CertFault::BadSignature);
                for at in 0..auth.data.len() {
                    let mut bad = auth.clone();
                    bad.data[at] ^= 1;
                    assert!(check(b"octets", &bad).is_err(), "{proof:?} byte {at}");
                }
                let mut short = auth.clone();
                short.data.pop();
                assert!(check(b"octets", &short).is_err());
            }
        }
        assert!(proofs >= 2, "{:?}", key.kind());
        // What the peer cannot check is not chosen.
        let none = Hashes::parse(&[0, 1]).unwrap();
        assert_eq!(
            Proof::choose(key.kind(), &AuthRule::default(), Some(&none)),
            None
        );
    }
}

#[test]
fn our_certificate_is_the_one_that_the_peer_can_check() {
    let [one, two] = [Authority::new("One"), Authority::new("Two")];
    let middle = two.intermediate("Middle", |_| {});
    let a = one.issue("gw");
    let b = middle.issue("gw");
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let c = one.issue_with("gw", rsa, |_| {});
    let others = [two.certificate(), one.certificate(), middle.certificate()];
    let credential = |leaf: &Leaf| {
        Credential::new(leaf.certificate.clone(), leaf.private_key(), &others).unwrap()
    };
    assert_eq!(credential(&b).chain().len(), 2);
    let all = Credentials::new([&a, &b, &c].map(credential).into(), AuthRule::default());
    let chosen = |authorities: &[&Authority], hashes: Option<Hashes>| {
        let hashed = authorities
            .iter()
            .map(|a| a.certificate().key_hash())
            .collect();
        let (credential, _) = all.choose(&hashed, hashes.as_ref())?;
        Some(credential.certificate().der().to_vec())
    };
    let ours = || Some(Hashes::ours());
    let is = |leaf: &Leaf| Some(leaf.certificate.der().to_vec());
    assert_eq!(chosen(&[], ours()), is(&a));
    assert_eq!(chosen(&[&one], ours()), is(&a));
    assert_eq!(chosen(&[&two], ours()), is(&b));
    assert_eq!(chosen(&[&middle], ours()), is(&b));
    assert_eq!(chosen(&[&Authority::new("Three")], ours()), is(&a));
    // Without RFC 7427, or without the identity hash, there is no Ed25519.
    assert_eq!(chosen(&[&two], None), is(&c));
    assert_eq!(chosen(&[], Hashes::parse(&[0, 2])), is(&c));

    let error = Credential::new(a.certificate.clone(), b.private_key(), &[])
        .err()
        .unwrap();
    assert!(error.to_string().contains("has another key"), "{error}");
}
