//! Certificates: each kind of key and signature, a chain that must be cut into fragments, and those
//! that must be refused.

use anyhow::{Result, ensure};

use super::{
    super::{
        pki::{Flaw, Key, Maker, Pki},
        run::{Run, expect},
        setup::{Auth, CHILD, Role, Setup},
    },
    Case,
};

const GOOD: Pki = Pki {
    maker: Maker::OpenSsl,
    key: Key::P256,
    between: 0,
    flaw: Flaw::None,
};

pub(super) fn cases() -> Vec<Case> {
    let kinds = [
        ("ecdsa-p256", Key::P256),
        ("ecdsa-p384", Key::P384),
        ("ed25519", Key::Ed25519),
    ];
    let mut cases: Vec<_> = kinds
        .into_iter()
        .map(|(name, key)| {
            let setup = move |setup: &mut Setup| pubkey(setup, Pki { key, ..GOOD });
            Case::new(format!("cert-{name}"), setup, accepted)
        })
        .collect();
    cases.push(Case::new(
        "cert-rsa-pkcs1",
        |setup| {
            let key = Key::Rsa3072;
            pubkey(setup, Pki { key, ..GOOD });
            for lines in &mut setup.auth.mitregate {
                *lines = lines.replace("pubkey", "rsa-sha256");
            }
        },
        pkcs1,
    ));
    cases.push(Case::new(
        "cert-rsa-pss",
        |setup| {
            let key = Key::Rsa3072;
            pubkey(setup, Pki { key, ..GOOD });
            setup.swan.charon += "  rsa_pss = yes\n";
        },
        accepted,
    ));
    cases.push(Case::new(
        "cert-ecdsa-rfc4754",
        |setup| {
            pubkey(setup, GOOD);
            setup.swan.charon += "  signature_authentication = no\n";
        },
        accepted,
    ));
    cases.push(
        Case::new(
            "cert-long-chain-fragmented",
            |setup| {
                let (key, between) = (Key::Rsa3072, 3);
                pubkey(
                    setup,
                    Pki {
                        key,
                        between,
                        ..GOOD
                    },
                );
            },
            fragmented,
        )
        .core(),
    );
    cases.push(Case::new(
        "cert-by-mitregate-pki",
        |setup| pubkey(setup, MITREGATES),
        accepted,
    ));
    cases.push(Case::new(
        "cert-one-way",
        |setup| {
            // strongSwan by certificate, mitregate by shared secret.
            pubkey(setup, GOOD);
            setup.auth.mitregate[0] = "auth = \"psk\"".into();
            setup.auth.swan[1] = "      auth = psk".into();
        },
        accepted,
    ));
    let flaws: [(_, _, Script); 4] = [
        (
            "expired",
            Pki {
                flaw: Flaw::Expired,
                ..GOOD
            },
            |run| refused(run, "expired"),
        ),
        (
            "unknown-authority",
            Pki {
                flaw: Flaw::OtherAuthority,
                ..GOOD
            },
            |run| refused(run, "CN=other"),
        ),
        (
            "weak-key",
            Pki {
                flaw: Flaw::WeakKey,
                ..GOOD
            },
            |run| refused(run, "1024"),
        ),
        (
            "revoked",
            Pki {
                flaw: Flaw::Revoked,
                ..MITREGATES
            },
            |run| refused(run, "revoked"),
        ),
    ];
    for (name, pki, script) in flaws {
        let setup = move |setup: &mut Setup| pubkey(setup, pki);
        cases.push(Case::new(format!("cert-{name}"), setup, script));
    }
    cases
}

const MITREGATES: Pki = Pki {
    maker: Maker::Mitregate,
    key: Key::Ed25519,
    ..GOOD
};

fn pubkey(setup: &mut Setup, pki: Pki) {
    let crls = match pki.maker {
        Maker::Mitregate => "crls = [\"@RUN@/pki/crl.pem\"]\n",
        Maker::OpenSsl => "",
    };
    setup.pki = Some(pki);
    setup.ids = ["mitregate.lab".into(), "strongswan.lab".into()];
    setup.auth = Auth {
        mitregate: [
            "auth = \"pubkey\"
certs = [\"@RUN@/pki/mitregate.crt\"]
keys = [\"@RUN@/pki/mitregate.key\"]"
                .into(),
            format!("auth = \"pubkey\"\ncacerts = [\"@RUN@/pki/root.crt\"]\n{crls}"),
        ],
        swan: [
            "      auth = pubkey\n      certs = strongswan.crt".into(),
            "      auth = pubkey\n      cacerts = root.crt".into(),
        ],
    };
}

fn accepted(run: &mut Run) -> Result<String> {
    run.up()?;
    expect(&run.ike_sa()?, "peer_id", "strongswan.lab")?;
    let counted = run.exchange()?;
    run.wait_settled()?;
    Ok(format!("{counted}; {}", signatures(run)?))
}

/// Old padding, in RFC 7427's signatures, by both.
fn pkcs1(run: &mut Run) -> Result<String> {
    let text = accepted(run)?;
    let both = text.matches("RSA_EMSA_PKCS1_SHA2_256").count();
    ensure!(both == 2, "another signature: {text}");
    Ok(text)
}

/// What strongSwan says of both sides' signatures.
fn signatures(run: &Run) -> Result<String> {
    let log = run.swan()?.log();
    let with = |side: &str| {
        let start = format!("authentication of '{side}.lab'");
        let line = log.lines().find(|line| line.contains(&start))?;
        let method = line.rsplit_once(" with ")?.1;
        Some(method.trim_end_matches(" successful").to_owned())
    };
    let [ours, theirs] = ["mitregate", "strongswan"].map(|side| with(side).unwrap_or("?".into()));
    ensure!(ours != "?" && theirs != "?", "strongSwan does not tell how");
    Ok(format!("mitregate by {ours}, strongSwan by {theirs}"))
}

fn fragmented(run: &mut Run) -> Result<String> {
    run.up()?;
    let counted = run.exchange()?;
    let log = run.swan()?.log();
    let kind = |what: &str, direction: &str| {
        log.lines()
            .filter(|line| {
                line.contains("IKE_AUTH") && line.contains("EF(") && line.contains(direction)
            })
            .filter(|line| line.contains(what))
            .count()
    };
    let (sent, received) = (kind("EF(", "generating"), kind("EF(", "parsed"));
    ensure!(
        sent > 1 && received > 1,
        "strongSwan sent {sent} fragments and got {received}"
    );
    Ok(format!(
        "{counted}; {received} fragments to strongSwan, {sent} from it"
    ))
}

/// Neither end has anything, and mitregate says why at a level that an operator sees.
fn refused(run: &mut Run, why: &str) -> Result<String> {
    run.start()?;
    if run.setup.role == Role::Responder {
        let initiate = ["--initiate", "--child", CHILD, "--timeout", "5"];
        let result = run.swan()?.swanctl(&initiate);
        ensure!(result.is_err(), "strongSwan calls this a success");
    }
    let telling = |line: &&str| !line.contains("DEBUG") && line.contains(why);
    run.wait("mitregate to say why", |run| {
        Ok(run.log().lines().any(|line| telling(&line)))
    })?;
    ensure!(run.epoch(CHILD).is_err(), "mitregate has a child");
    ensure!(run.installed()? == 0, "strongSwan has a child");
    let log = run.log();
    let line = log.lines().find(telling).unwrap_or_default();
    let words = ["why=", "reason="];
    let said = words.iter().find_map(|word| Some(line.split_once(word)?.1));
    let said = said.unwrap_or(line);
    Ok(format!("refused: {said}"))
}

type Script = fn(&mut Run) -> Result<String>;
