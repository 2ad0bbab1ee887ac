use super::algorithms::{additional, key_exchange};
use super::*;
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{KeyExchangeId, Proposal, ProtocolId, Transform, TransformType};
use proptest::prelude::*;
use proptest::sample::subsequence;

fn offer_ike(proposals: &[IkeProposal]) -> Vec<Proposal> {
    super::offer_ike(proposals, &[])
}

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
        "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
        "aes256gcm16-prfsha512-x25519-ke1_mlkem768-ke1_none-ke7_ecp384",
        "aes256-sha256-modp2048",
        "aes256-aes192-aes128-sha512-sha384-prfsha384-modp3072-ecp384",
        "aes128gcm16-prfsha256-mlkem768",
        IkeProposal::DEFAULT[0],
        IkeProposal::DEFAULT[1],
    ] {
        assert_eq!(ike(text).to_string(), text);
    }
    assert_eq!(
        ike("aes128gcm16-prfsha256-curve25519").to_string(),
        "aes128gcm16-prfsha256-x25519"
    );
    // swanctl's other spellings, and what is implied.
    for (text, same) in [
        ("aes-sha2_256-modp2048", "aes128-sha256-modp2048"),
        ("aes256-sha384-prfsha384-ecp384", "aes256-sha384-ecp384"),
        ("x25519-sha256-aes256", "aes256-sha256-x25519"),
    ] {
        assert_eq!(ike(text), ike(same));
        assert_eq!(ike(text).to_string(), same);
    }
    for text in [
        "aes256gcm16",
        "aes128gcm16-chacha20poly1305-ecp256-noesn",
        "aes256gcm16-esn",
        "aes256gcm16-x25519-ke1_mlkem768",
        EspProposal::DEFAULT[0],
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
    assert_eq!(
        error("aes256-modp2048"),
        "no integrity algorithm, such as \"sha256\", in proposal"
    );
    assert_eq!(error("sha256-modp2048"), "no cipher in proposal");
    for mixed in [
        "aes256gcm16-aes256-sha256-x25519",
        "aes256gcm16-sha256-x25519",
    ] {
        assert_eq!(
            error(mixed),
            "\"aes256gcm16\" has integrity of its own: put it into a proposal of its own"
        );
    }
    for word in [
        "ke0_x25519",
        "ke8_x25519",
        "ke01_x25519",
        "ke1_",
        "ke1_3des",
        "ke_x25519",
    ] {
        let text = format!("aes256gcm16-prfsha256-x25519-{word}");
        assert_eq!(error(&text), format!("unknown algorithm \"{word}\""));
    }
    assert_eq!(
        error("aes256gcm16-prfsha256-x25519-ke1_mlkem768-ke1_mlkem768"),
        "\"ke1_mlkem768\" twice"
    );
    let error = |text: &str| text.parse::<EspProposal>().unwrap_err().to_string();
    assert_eq!(error(""), "unknown algorithm \"\"");
    assert_eq!(error("x25519"), "no cipher in proposal");
    assert!("aes256gcm16-prfsha256".parse::<EspProposal>().is_err());
    assert_eq!(
        error("aes256gcm16-ke1_mlkem768"),
        "additional key exchanges need a first one, such as \"x25519\""
    );
    assert_eq!(
        error("aes256-sha256"),
        "\"aes256\" is a cipher for IKE only: ESP takes aes256gcm16, aes128gcm16 and \
         chacha20poly1305"
    );
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
        |p| p.transforms.push(additional(0, Some(Group::MlKem768))),
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

#[test]
fn cbc_with_integrity_and_prf() {
    let choose = |ours: &str, theirs: &str| {
        let theirs = [ike(theirs)];
        let (suite, answer) = choose_ike(&[ike(ours)], &offer_ike(&theirs), None)?;
        assert_eq!(accept_ike(&theirs, &[answer]), Some(suite));
        Some(suite.to_string())
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        choose(
            "aes256-sha256-modp2048",
            "aes128-aes256-sha512-sha256-prfsha256-modp2048"
        ),
        text("aes256-sha256-prfsha256-modp2048")
    );
    assert_eq!(
        choose(
            "aes128-sha512-sha256-prfsha256-ecp256",
            "aes128-sha256-sha512-ecp256"
        ),
        text("aes128-sha512-prfsha256-ecp256")
    );
    assert_eq!(choose("aes256-sha256-ecp256", "aes256-sha384-ecp256"), None);
    assert_eq!(choose("aes256-sha256-ecp256", "aes128-sha256-ecp256"), None);
    assert_eq!(
        choose("aes256-sha256-ecp256", "aes256gcm16-prfsha256-ecp256"),
        None
    );
    // A peer that puts both kinds into one proposal (RFC 5282 §8 forbids it) gets AES-CBC alone.
    let mut offer = offer_ike(&[ike("aes256gcm16-prfsha256-x25519")]);
    let cbc = offer_ike(&[ike("aes256-sha256-x25519")]);
    offer[0].transforms.extend(cbc[0].transforms.clone());
    assert!(choose_ike(&[ike("aes256gcm16-prfsha256-x25519")], &offer, None).is_none());
    assert!(choose_ike(&[ike("aes256-sha256-x25519")], &offer, None).is_some());
    // An answer without integrity, or with one of its own.
    let ours = [ike("aes256-sha256-x25519")];
    let (_, answer) = choose_ike(&ours, &offer_ike(&ours), None).unwrap();
    let mut bare = answer.clone();
    bare.transforms.retain(|t| t.kind != TransformType::INTEG);
    assert_eq!(accept_ike(&ours, &[bare]), None);
    let mut weak = answer;
    let integ = weak
        .transforms
        .iter_mut()
        .find(|t| t.kind == TransformType::INTEG);
    integ.unwrap().id = 2;
    assert_eq!(accept_ike(&ours, &[weak]), None);
}

/// RFC 9370 §2.2.1.
#[test]
fn additional_key_exchanges() {
    let base = "aes256gcm16-prfsha256";
    let choose = |ours: &str, theirs: &str| {
        let theirs = [ike(&format!("{base}-{theirs}"))];
        let ours = [ike(&format!("{base}-{ours}"))];
        let (suite, answer) = choose_ike(&ours, &offer_ike(&theirs), None)?;
        assert_eq!(accept_ike(&theirs, &[answer]), Some(suite));
        assert!(ours[0].allows(&suite));
        let text = suite.to_string();
        Some(text.strip_prefix(base)?.strip_prefix('-')?.to_owned())
    };
    let text = |text: &str| Some(text.to_owned());
    let hybrid = "x25519-ke1_mlkem768";
    assert_eq!(choose(hybrid, hybrid), text(hybrid));
    // Neither side lets the other do without.
    assert_eq!(choose(hybrid, "x25519"), None);
    assert_eq!(choose("x25519", hybrid), None);
    assert_eq!(choose(hybrid, "x25519-ke2_mlkem768"), None);
    // Either may allow it.
    let lenient = "x25519-ke1_mlkem768-ke1_none";
    assert_eq!(choose(lenient, "x25519"), text("x25519"));
    assert_eq!(choose("x25519", lenient), text("x25519"));
    assert_eq!(choose(lenient, lenient), text(hybrid));
    assert_eq!(
        choose("x25519-ke1_none-ke1_mlkem768", lenient),
        text("x25519")
    );
    // Gaps are fine, the order is that of the types.
    assert_eq!(
        choose(
            "x25519-ke2_mlkem768-ke5_ecp384",
            "x25519-ke5_ecp384-ke2_mlkem768"
        ),
        text("x25519-ke2_mlkem768-ke5_ecp384")
    );
    // No method twice, even where our first choice would have it so.
    assert_eq!(choose("x25519-ke1_x25519", "x25519-ke1_x25519"), None);
    let twice = "x25519-ke1_ecp384-ke1_mlkem768-ke2_ecp384";
    assert_eq!(choose(twice, twice), text("x25519-ke1_mlkem768-ke2_ecp384"));
    let forced = "x25519-ecp256-ke1_x25519";
    assert_eq!(choose(forced, forced), text("ecp256-ke1_x25519"));
}

/// What a responder, or somebody on the way, might answer to be spared the second exchange.
#[test]
fn answers_that_leave_out_an_additional_key_exchange() {
    let ours = [ike(
        "aes256gcm16-prfsha256-x25519-ke1_mlkem768-ke2_ecp384-ke2_none",
    )];
    let (suite, answer) = choose_ike(&ours, &offer_ike(&ours), None).unwrap();
    assert_eq!(
        accept_ike(&ours, std::slice::from_ref(&answer)),
        Some(suite)
    );
    let bend = |change: fn(&mut Vec<Transform>)| {
        let mut answer = answer.clone();
        change(&mut answer.transforms);
        accept_ike(&ours, &[answer]).map(|suite| suite.to_string())
    };
    assert_eq!(bend(|t| t.retain(|t| t.kind.0 != 6)), None);
    assert_eq!(
        bend(|t| t
            .iter_mut()
            .filter(|t| t.kind.0 == 6)
            .for_each(|t| t.id = 0)),
        None
    );
    assert_eq!(
        bend(|t| t
            .iter_mut()
            .filter(|t| t.kind.0 == 6)
            .for_each(|t| t.id = 35)),
        None
    );
    assert_eq!(bend(|t| t.push(additional(2, Some(Group::Ecp256)))), None);
    assert_eq!(bend(|t| t.push(additional(0, Some(Group::MlKem768)))), None);
    // What we allowed ourselves.
    assert_eq!(
        bend(|t| t
            .iter_mut()
            .filter(|t| t.kind.0 == 7)
            .for_each(|t| t.id = 0))
        .as_deref(),
        Some("aes256gcm16-prfsha256-x25519-ke1_mlkem768")
    );
}

#[test]
fn additional_key_exchanges_of_a_child() {
    let ours = [esp("aes256gcm16-x25519-ke1_mlkem768")];
    let offer = offer_esp(&ours, spi(), true);
    let with = Groups::Negotiate(Some(Group::Curve25519));
    let (suite, _, mut answer) = choose_esp(&ours, &offer, with).unwrap();
    assert_eq!(suite.to_string(), "aes256gcm16-x25519-ke1_mlkem768-esn");
    answer.spi = spi().to_be_bytes().to_vec();
    assert_eq!(accept_esp(&ours, &[answer], with), Some((suite, spi())));
    // In IKE_AUTH neither offered nor chosen.
    let offer = offer_esp(&ours, spi(), false);
    let (suite, _, _) = choose_esp(&ours, &offer, Groups::Ignore).unwrap();
    assert_eq!(suite.to_string(), "aes256gcm16-esn");
    // Without PFS here, a peer that insists on the second one is refused too.
    let mut offer = offer_esp(&ours, spi(), true);
    offer[0]
        .transforms
        .push(Transform::key_exchange(KeyExchangeId::NONE));
    let none = [esp("aes256gcm16")];
    assert!(choose_esp(&none, &offer, with).is_none());
    offer[0].transforms.push(additional(0, None));
    assert!(choose_esp(&none, &offer, with).is_some());
}

#[test]
fn a_transform_type_that_nobody_knows_spoils_its_proposal() {
    let ours = [ike("aes256gcm16-prfsha256-x25519")];
    for (kind, good) in [(12, true), (13, false), (0, false), (240, false)] {
        let mut offer = offer_ike(&ours);
        offer[0]
            .transforms
            .push(Transform::new(TransformType(kind), 0));
        assert_eq!(choose_ike(&ours, &offer, None).is_some(), good, "{kind}");
    }
}

#[test]
fn a_line_that_says_what_was_offered() {
    let mut offer = offer_ike(&[
        ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none"),
        ike("aes256-sha256-modp2048"),
    ]);
    offer[1].transforms[0] =
        Transform::encryption(mitregate_wire::ike::EncryptionId::TRIPLE_DES, None);
    offer[1].transforms[3].id = 2;
    assert_eq!(
        offered(&offer).to_string(),
        "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none, \
         TRIPLE_DES-sha256-prfsha256-MODP_1024"
    );
    assert_eq!(
        offered(&offer_esp(&[esp("aes128gcm16-x25519")], spi(), true)).to_string(),
        "aes128gcm16-x25519-esn-noesn"
    );
    assert_eq!(offered(&[]).to_string(), "nothing");
    assert_eq!(
        wanted(&[
            ike("aes256-sha256-modp2048"),
            ike("aes256gcm16-prfsha256-x25519")
        ])
        .to_string(),
        "aes256-sha256-modp2048, aes256gcm16-prfsha256-x25519"
    );
    // However much it is, the line ends.
    let many = Proposal {
        transforms: vec![Transform::new(TransformType(99), 65535); 255],
        ..offer[0].clone()
    };
    let line = offered(&vec![many; 255]).to_string();
    assert!(line.len() < 700 && line.ends_with('…'), "{line}");
}

proptest! {
    /// Whatever two sides are configured with: the chosen suite is in both, the initiator
    /// accepts it, and there is one if any suite is in both.
    #[test]
    fn a_choice_is_common(
        ours in proptest::collection::vec(any_proposal(), 1..4),
        theirs in proptest::collection::vec(any_proposal(), 1..4),
        ke in proptest::option::of(proptest::sample::select(&Group::ALL[..])),
    ) {
        let expected = ours.iter().any(|a| theirs.iter().any(|b| has_common(a, b)));
        let choice = choose_ike(&ours, &offer_ike(&theirs), ke);
        prop_assert_eq!(choice.is_some(), expected);
        if let Some((suite, answer)) = choice {
            prop_assert!(ours.iter().any(|p| p.allows(&suite)));
            prop_assert!(theirs.iter().any(|p| p.allows(&suite)));
            prop_assert_eq!(accept_ike(&theirs, &[answer]), Some(suite));
            let mut methods = vec![suite.group];
            methods.extend(suite.additional.groups());
            let distinct = methods.iter().all(|m| methods.iter().filter(|n| m == *n).count() == 1);
            prop_assert!(distinct, "{}", suite);
        }
        for proposal in ours {
            prop_assert_eq!(ike(&proposal.to_string()), proposal);
        }
    }

    /// An answer bent in one place is refused, or means something that we offered.
    #[test]
    fn a_bent_answer_gives_nothing_that_was_not_offered(
        ours in proptest::collection::vec(any_proposal(), 1..4),
        at in 0_usize..12, kind in 0_u8..14, id in 0_u16..40, drop: bool,
    ) {
        if let Some((_, mut answer)) = choose_ike(&ours, &offer_ike(&ours), None) {
            let at = at % answer.transforms.len();
            if drop {
                answer.transforms.remove(at);
            } else {
                answer.transforms[at] = Transform::new(TransformType(kind), id);
            }
            if let Some(suite) = accept_ike(&ours, &[answer]) {
                prop_assert!(ours.iter().any(|p| p.allows(&suite)));
            }
        }
    }
}

/// By trying all of them.
fn has_common(a: &IkeProposal, b: &IkeProposal) -> bool {
    fn share<T: PartialEq>(a: &[T], b: &[T]) -> bool {
        a.iter().any(|x| b.contains(x))
    }
    let ciphers = match (&a.ciphers, &b.ciphers) {
        (Ciphers::Aead(a), Ciphers::Aead(b)) => share(a, b),
        (Ciphers::Cbc(a, i), Ciphers::Cbc(b, j)) => share(a, b) && share(i, j),
        _ => false,
    };
    let mut combinations = Group::ALL
        .into_iter()
        .filter(|group| a.groups.contains(group) && b.groups.contains(group))
        .map(|group| vec![group])
        .collect::<Vec<_>>();
    for (ours, theirs) in a.additional.0.iter().zip(&b.additional.0) {
        let whole = |list: &[Option<Group>]| {
            if list.is_empty() {
                vec![None]
            } else {
                list.to_vec()
            }
        };
        let (ours, theirs) = (whole(ours), whole(theirs));
        let common = ours.iter().filter(|group| theirs.contains(group));
        let common = common.copied().collect::<Vec<_>>();
        combinations = combinations
            .iter()
            .flat_map(|used| {
                common.iter().filter_map(move |group| match group {
                    Some(group) if used.contains(group) => None,
                    group => Some(used.iter().copied().chain(*group).collect()),
                })
            })
            .collect();
    }
    ciphers && share(&a.prfs, &b.prfs) && !combinations.is_empty()
}

fn any_proposal() -> impl Strategy<Value = IkeProposal> {
    let some_groups = || subsequence(Group::ALL.to_vec(), 1..=3);
    let options = Group::ALL
        .into_iter()
        .map(Some)
        .chain([None])
        .collect::<Vec<_>>();
    let alternatives = proptest::collection::vec(subsequence(options, 0..=3), 0..=3);
    let ciphers = prop_oneof![
        subsequence(CipherSuite::ALL.to_vec(), 1..=3).prop_map(Ciphers::Aead),
        (
            subsequence(AesBits::ALL.to_vec(), 1..=3),
            subsequence(Integrity::ALL.to_vec(), 1..=3)
        )
            .prop_map(|(bits, integrity)| Ciphers::Cbc(bits, integrity)),
    ];
    let prfs = subsequence(Prf::ALL.to_vec(), 1..=3);
    (ciphers, prfs, some_groups(), alternatives).prop_map(|(ciphers, prfs, groups, lists)| {
        let mut additional = Alternatives::default();
        for (index, list) in lists.into_iter().enumerate() {
            additional.0[2 * index] = list;
        }
        IkeProposal {
            ciphers,
            prfs,
            groups,
            additional,
        }
    })
}
