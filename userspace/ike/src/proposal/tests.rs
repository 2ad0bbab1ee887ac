use super::*;
use proptest::prelude::*;
use proptest::sample::subsequence;

fn ike(text: &str) -> IkeProposal {
    text.parse().unwrap()
}

fn esp(text: &str) -> EspProposal {
    text.parse().unwrap()
}

fn spi() -> Spi {
    Spi::new(0x0102_0304).unwrap()
}

#[test]
fn strings() {
    for text in [
        "aes256gcm16-prfsha384-x25519",
        "aes256gcm16-aes128gcm16-prfsha256-x25519-ecp256",
        "chacha20poly1305-prfsha256-prfsha384-ecp256",
    ] {
        assert_eq!(ike(text).to_string(), text);
    }
    assert_eq!(
        ike("aes128gcm16-prfsha256-curve25519").to_string(),
        "aes128gcm16-prfsha256-x25519"
    );
    for text in [
        "aes256gcm16",
        "aes128gcm16-chacha20poly1305-ecp256-noesn",
        "aes256gcm16-esn",
    ] {
        assert_eq!(esp(text).to_string(), text);
    }
    assert_eq!(esp("aes256gcm16-esn-noesn"), esp("aes256gcm16"));
    let error = |text: &str| text.parse::<IkeProposal>().unwrap_err().to_string();
    assert_eq!(
        error("aes256gcm16-prfsha384"),
        "no key exchange group in proposal"
    );
    assert_eq!(error("prfsha384-x25519"), "no cipher in proposal");
    assert_eq!(error("aes256gcm16-x25519"), "no PRF in proposal");
    assert_eq!(
        error("aes256gcm16-sha1-x25519"),
        "unknown algorithm \"sha1\""
    );
    assert_eq!(
        error("aes256gcm16-prfsha256-ecp256-ecp256"),
        "\"ecp256\" twice"
    );
    assert!("".parse::<EspProposal>().is_err());
    assert!("x25519".parse::<EspProposal>().is_err());
    assert!("aes256gcm16-prfsha256".parse::<EspProposal>().is_err());
}

#[test]
fn our_preference_decides_and_the_answer_is_accepted() {
    let ours = [
        ike("chacha20poly1305-prfsha256-x25519"),
        ike("aes256gcm16-prfsha256-x25519"),
    ];
    let theirs = [
        ike("aes256gcm16-prfsha256-x25519"),
        ike("chacha20poly1305-aes128gcm16-prfsha256-ecp256-x25519"),
    ];
    let (suite, answer) = choose_ike(&ours, &offer_ike(&theirs), None).unwrap();
    assert_eq!(suite.to_string(), "chacha20poly1305-prfsha256-x25519");
    assert_eq!(answer.number, 2);
    assert_eq!(
        accept_ike(&theirs, std::slice::from_ref(&answer)),
        Some(suite)
    );
    // Not what was offered, or not one of each.
    assert_eq!(
        accept_ike(&theirs[..1], std::slice::from_ref(&answer)),
        None
    );
    assert_eq!(accept_ike(&theirs, &[]), None);
    assert_eq!(accept_ike(&theirs, &[answer.clone(), answer.clone()]), None);
    let bent: [fn(&mut Proposal); 6] = [
        |p| p.number = 0,
        |p| p.number = 1,
        |p| p.protocol = ProtocolId::ESP,
        |p| p.transforms.push(key_exchange(Group::Ecp256)),
        |p| p.transforms.truncate(2),
        |p| p.transforms.push(Transform::new(TransformType(6), 35)),
    ];
    for bend in bent {
        let mut answer = answer.clone();
        bend(&mut answer);
        assert_eq!(accept_ike(&theirs, &[answer]), None);
    }
}

#[test]
fn an_aead_takes_no_integrity_but_none() {
    let ours = [ike("aes256gcm16-prfsha256-x25519")];
    let mut offer = offer_ike(&ours);
    offer[0]
        .transforms
        .push(Transform::new(TransformType::INTEG, 0));
    assert!(choose_ike(&ours, &offer, None).is_some());
    offer[0]
        .transforms
        .push(Transform::new(TransformType::INTEG, 12));
    assert!(choose_ike(&ours, &offer, None).is_none());
}

#[test]
fn key_lengths_and_unknown_attributes() {
    use mitregate_wire::ike::{Attribute, AttributeValue};
    let ours = [ike("aes256gcm16-prfsha256-x25519")];
    let change = |attributes: Vec<Attribute>| {
        let mut offer = offer_ike(&ours);
        offer[0].transforms[0].attributes = attributes;
        choose_ike(&ours, &offer, None).is_some()
    };
    let bits = |bits| Attribute {
        kind: 14,
        value: AttributeValue::Short(bits),
    };
    assert!(change(vec![bits(256)]));
    assert!(!change(vec![bits(192)]));
    assert!(!change(vec![]));
    assert!(!change(vec![
        bits(256),
        Attribute {
            kind: 99,
            value: AttributeValue::Short(0)
        }
    ]));
}

#[test]
fn esn_and_groups() {
    let both = [esp("aes256gcm16")];
    let choose = |ours: &[EspProposal], theirs: &str, groups| {
        let offer = offer_esp(&[esp(theirs)], spi(), !matches!(groups, Groups::Ignore));
        choose_esp(ours, &offer, groups).map(|(suite, ..)| suite.to_string())
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        choose(&both, "aes256gcm16", Groups::Ignore),
        text("aes256gcm16-esn")
    );
    assert_eq!(
        choose(&both, "aes256gcm16-noesn", Groups::Ignore),
        text("aes256gcm16-noesn")
    );
    assert_eq!(
        choose(
            &[esp("aes256gcm16-esn")],
            "aes256gcm16-noesn",
            Groups::Ignore
        ),
        None
    );
    let pfs = [esp("aes256gcm16-x25519-ecp256")];
    let with = |group| Groups::Negotiate(Some(group));
    assert_eq!(
        choose(&pfs, "aes256gcm16-ecp256", Groups::Ignore),
        text("aes256gcm16-esn")
    );
    assert_eq!(
        choose(&pfs, "aes256gcm16-x25519-ecp256", with(Group::Ecp256)),
        text("aes256gcm16-ecp256-esn")
    );
    assert_eq!(choose(&pfs, "aes256gcm16", Groups::Negotiate(None)), None);
    assert_eq!(
        choose(&both, "aes256gcm16-x25519", with(Group::Curve25519)),
        None
    );
    // "NONE" among the groups: the peer can do without.
    let mut offer = offer_esp(&[esp("aes256gcm16-x25519")], spi(), true);
    offer[0]
        .transforms
        .push(Transform::key_exchange(KeyExchangeId::NONE));
    assert!(choose_esp(&both, &offer, with(Group::Curve25519)).is_some());
}

proptest! {
    /// Whatever two sides are configured with: the chosen suite is in both, the initiator
    /// accepts it, and there is one if any suite is in both.
    #[test]
    fn a_choice_is_common(
        ours in proptest::collection::vec(any_proposal(), 1..4),
        theirs in proptest::collection::vec(any_proposal(), 1..4),
        ke in proptest::option::of(prop_oneof![Just(Group::Curve25519), Just(Group::Ecp256)]),
    ) {
        let common = |a: &IkeProposal, b: &IkeProposal| {
            a.ciphers.iter().any(|x| b.ciphers.contains(x))
                && a.prfs.iter().any(|x| b.prfs.contains(x))
                && a.groups.iter().any(|x| b.groups.contains(x))
        };
        let expected = ours.iter().any(|a| theirs.iter().any(|b| common(a, b)));
        let choice = choose_ike(&ours, &offer_ike(&theirs), ke);
        prop_assert_eq!(choice.is_some(), expected);
        if let Some((suite, answer)) = choice {
            prop_assert!(ours.iter().any(|p| p.allows(&suite)));
            prop_assert_eq!(accept_ike(&theirs, &[answer]), Some(suite));
        }
        for proposal in ours {
            prop_assert_eq!(ike(&proposal.to_string()), proposal);
        }
    }
}

fn any_proposal() -> impl Strategy<Value = IkeProposal> {
    (
        subsequence(CipherSuite::ALL.to_vec(), 1..=3),
        subsequence(vec![Prf::HmacSha256, Prf::HmacSha384], 1..=2),
        subsequence(vec![Group::Curve25519, Group::Ecp256], 1..=2),
    )
        .prop_map(|(ciphers, prfs, groups)| IkeProposal {
            ciphers,
            prfs,
            groups,
        })
}
