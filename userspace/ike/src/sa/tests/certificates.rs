//! IKE_AUTH with signatures: RFC 7427 and what came before it, both roles.

use mitregate_wire::ike::{AuthMethod, CertEncoding, ExchangeType, Payload};
use rcgen::{KeyPair, RsaKeySize, date_time_ymd};

use super::*;
use crate::cert::testing::{Authority, Leaf, ed25519};
use crate::cert::{
    AuthRule, CertFault, Certificate, Credential, Credentials, Revocation, TrustStore,
};

/// Tests run in January 2026, from when on what [`Authority`] makes is valid.
pub(super) fn local(rule: &str, leaves: &[&Leaf], authorities: &[&Authority]) -> LocalAuth {
    let others: Vec<Certificate> = authorities.iter().map(|a| a.certificate()).collect();
    let credential = |leaf: &&Leaf| {
        Credential::new(leaf.certificate.clone(), leaf.private_key(), &others).unwrap()
    };
    let list = leaves.iter().map(credential).collect();
    LocalAuth::Pubkey(Arc::new(Credentials::new(list, rule.parse().unwrap())))
}

pub(super) fn remote(rule: &str, authorities: &[&Authority]) -> RemoteAuth {
    let rule: AuthRule = rule.parse().unwrap();
    let authorities = authorities.iter().map(|a| a.certificate()).collect();
    let revocation = Revocation::Relaxed;
    let trust = TrustStore::new(authorities, Vec::new(), Vec::new(), revocation, rule);
    RemoteAuth::Pubkey(Arc::new(trust.unwrap()))
}

/// Both sides with a certificate of one authority.
pub(super) fn setup(ca: &Authority, client: &Leaf, server: &Leaf) -> Setup {
    let mut setup = Setup::new();
    setup.client.local_auth = local("pubkey", &[client], &[]);
    setup.client.remote_auth = remote("pubkey", &[ca]);
    setup.server.local_auth = local("pubkey", &[server], &[]);
    setup.server.remote_auth = remote("pubkey", &[ca]);
    setup
}

fn failed(setup: Setup, seed: u64) -> World {
    let mut world = setup.world(seed);
    world.connect();
    world.settle();
    world.assert_nothing_left();
    world
}

fn rsa() -> KeyPair {
    KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

/// The payloads of an IKE_AUTH message in one piece, decrypted by the one who will receive it.
pub(super) fn auth_payloads(world: &mut World, to: usize, bytes: &[u8]) -> Vec<Payload> {
    let now = world.now;
    let opened = world.hosts[to].sas[0].open(bytes, now).unwrap().unwrap();
    opened.payloads.unwrap()
}

#[test]
fn every_kind_of_key_in_both_roles() {
    let ca = Authority::new("Root");
    for (seed, key) in [
        (1, ed25519 as fn() -> KeyPair),
        (2, || {
            KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
        }),
        (3, || {
            KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap()
        }),
        (4, rsa),
    ] {
        let client = ca.issue_with("client", key(), |_| {});
        let server = ca.issue_with("gw", key(), |_| {});
        let world = setup(&ca, &client, &server).connected(seed);
        let [a, b] = [CLIENT, SERVER].map(|host| &world.hosts[host].established[0]);
        assert_eq!(a.peer_id.to_string(), "gw@lab");
        assert_eq!(b.peer_id.to_string(), "client@lab");
    }
}

#[test]
fn both_paddings_and_all_hashes_of_rsa() {
    let ca = Authority::new("Root");
    let client = ca.issue_with("client", rsa(), |_| {});
    let server = ca.issue_with("gw", rsa(), |_| {});
    for (seed, rule) in [
        "rsa-sha256",
        "rsa-sha384",
        "rsa-sha512",
        "rsa/pss-sha256",
        "rsa/pss-sha512",
    ]
    .into_iter()
    .enumerate()
    {
        let mut setup = setup(&ca, &client, &server);
        setup.client.local_auth = local(rule, &[&client], &[]);
        setup.server.remote_auth = remote(rule, &[&ca]);
        setup.connected(seed as u64);
    }
    // A responder that wants another hash than the initiator is told to use.
    let mut setup = setup(&ca, &client, &server);
    setup.client.local_auth = local("rsa-sha256", &[&client], &[]);
    setup.server.remote_auth = remote("rsa-sha512", &[&ca]);
    let world = failed(setup, 9);
    assert_eq!(
        world.log(SERVER),
        ["failed: peer failed to authenticate: certificate bad signature"]
    );
}

#[test]
fn a_directions_method_is_its_own() {
    let ca = Authority::new("Root");
    let (client, server) = (ca.issue("client"), ca.issue("gw"));
    let mut setup = setup(&ca, &client, &server);
    setup.client.local_auth = LocalAuth::Psk(psk("secret"));
    setup.server.remote_auth = RemoteAuth::Psk(psk("secret"));
    setup.connected(1);
}

#[test]
fn a_secret_where_a_certificate_is_wanted_and_the_reverse() {
    let ca = Authority::new("Root");
    let (client, server) = (ca.issue("client"), ca.issue("gw"));
    let wrong = "failed: peer failed to authenticate: wrong shared secret or method";
    let mut setup1 = setup(&ca, &client, &server);
    setup1.client.local_auth = LocalAuth::Psk(psk("secret"));
    assert_eq!(failed(setup1, 1).log(SERVER), [wrong]);
    let mut setup2 = setup(&ca, &client, &server);
    setup2.server.remote_auth = RemoteAuth::Psk(psk("secret"));
    assert_eq!(failed(setup2, 2).log(SERVER), [wrong]);
}

#[test]
fn distinguished_names_prove_themselves() {
    let ca = Authority::new("Root");
    let (client, server) = (ca.issue("client"), ca.issue("gw"));
    let mut setup = setup(&ca, &client, &server);
    // Written otherwise than the certificate has it: PrintableString, and other case.
    setup.client.local_id = "c=ch, o=LAB, cn=client".parse().unwrap();
    setup.server.remote_id = Some("C=CH, O=Lab, CN=*".parse().unwrap());
    setup.server.local_id = "C=CH, O=Lab, CN=gw".parse().unwrap();
    setup.client.remote_id = Some("C=CH, O=Lab, CN=gw".parse().unwrap());
    let world = setup.connected(1);
    let id = &world.hosts[SERVER].established[0].peer_id;
    // RFC 4945 §3.1.5: what is sent is the subject, byte by byte.
    assert_eq!(id.data(), client.certificate.subject_der());
}

#[test]
fn a_certificate_of_another_name_is_none() {
    let ca = Authority::new("Root");
    let (client, server) = (ca.issue("client"), ca.issue("gw"));
    let mallory = ca.issue("mallory");
    let fault = "failed: peer failed to authenticate: certificate for another name";

    let world = failed(setup(&ca, &mallory, &server), 1);
    assert_eq!(world.log(SERVER), [fault]);
    assert_eq!(
        world.log(CLIENT),
        ["failed: peer answered AUTHENTICATION_FAILED"]
    );

    let world = failed(setup(&ca, &client, &mallory), 2);
    assert_eq!(world.log(CLIENT), [fault]);
    assert!(world.heard(SERVER, "closed: peer answered AUTHENTICATION_FAILED"));
}

#[test]
fn the_whole_story_can_be_asked_for() {
    let ca = Authority::new("Root");
    let server = ca.issue("gw");
    let expired = ca.issue_with("client", ed25519(), |p| {
        p.not_before = date_time_ymd(2025, 1, 1);
        p.not_after = date_time_ymd(2025, 12, 31);
    });
    let mut world = setup(&ca, &expired, &server).world(1);
    world.connect();
    while world.hosts[SERVER].log.is_empty() {
        assert!(world.step(Duration::MAX));
    }
    let error = world.hosts[SERVER].sas[0].certificate_error().unwrap();
    assert_eq!(error.fault, CertFault::Expired);
    assert!(
        error
            .to_string()
            .starts_with("certificate \"C=CH, O=Lab, CN=client\" expired on 2025-12-31"),
        "{error}"
    );
}

#[test]
fn chains_are_sent_and_the_request_chooses() {
    let [one, two] = [Authority::new("One"), Authority::new("Two")];
    let upper = two.intermediate("Upper", |_| {});
    let lower = upper.intermediate("Lower", |_| {});
    let by_one = one.issue("gw");
    let by_two = lower.issue("gw");
    let client = one.issue("client");
    let mut setup = setup(&one, &client, &by_one);
    setup.server.local_auth = local("pubkey", &[&by_one, &by_two], &[&two, &one, &lower, &upper]);
    setup.client.remote_auth = remote("pubkey", &[&two]);
    setup.server.fragmentation.size = Fragmentation::MAX_SIZE;
    let mut world = setup.world(1);
    world.connect();
    let mut seen = Vec::new();
    while world.hosts[CLIENT].log.is_empty() {
        let auth = |p: &&Packet| p.to == CLIENT && p.bytes[18] == ExchangeType::IKE_AUTH.0;
        if let Some(bytes) = world.net.iter().find(auth).map(|p| p.bytes.clone()) {
            seen = auth_payloads(&mut world, CLIENT, &bytes);
        }
        assert!(world.step(Duration::MAX));
    }
    world.settle();
    world.assert_connected();
    let certificates: Vec<_> = seen
        .iter()
        .filter_map(|payload| match payload {
            Payload::Certificate(cert) => Some(cert),
            _ => None,
        })
        .collect();
    // RFC 7296 §3.6: our own comes first; the root is left out.
    let expected = [
        &by_two.certificate,
        &lower.certificate(),
        &upper.certificate(),
    ];
    assert_eq!(certificates.len(), expected.len());
    for (sent, expected) in certificates.iter().zip(expected) {
        assert_eq!(sent.encoding, CertEncoding::X509_SIGNATURE);
        assert_eq!(sent.data, expected.der());
    }
    // RFC 7427 §3.
    let methods = seen.iter().filter_map(|payload| match payload {
        Payload::Authentication(auth) => Some(auth.method),
        _ => None,
    });
    assert_eq!(methods.collect::<Vec<_>>(), [AuthMethod::DIGITAL_SIGNATURE]);
}

/// A first message is in clear: what it says is kept in bounds.
#[test]
fn no_more_authorities_are_heeded_than_anybody_has() {
    let request = |n: u8| {
        let hashes = (0..200).flat_map(|m| [n, m].repeat(10)).collect();
        Payload::CertificateRequest(mitregate_wire::ike::Certificate {
            encoding: CertEncoding::X509_SIGNATURE,
            data: hashes,
        })
    };
    let requests: Vec<_> = (0..9).map(request).collect();
    let hints = super::super::certificates::Hints::of(&requests);
    assert_eq!(hints.authorities.len(), 64);
}

#[test]
fn without_a_certificate_nobody_is_announced_to() {
    let world = Setup::new().connected(1);
    for (_, message) in world.messages() {
        for payload in &message.payloads {
            assert!(!matches!(payload, Payload::CertificateRequest(_)));
            assert!(!matches!(payload, Payload::Notify(notify)
                if notify.kind.name() == Some("SIGNATURE_HASH_ALGORITHMS")));
        }
    }
}
