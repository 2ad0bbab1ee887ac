//! Each algorithm once, alone in the proposals.

use anyhow::{Result, ensure};

use super::{
    super::{
        run::{Run, expect},
        setup::CHILD,
    },
    Case,
};

const ESP: [&str; 3] = ["aes128gcm16", "aes256gcm16", "chacha20poly1305"];
const IKE: [&str; 4] = [
    "aes128gcm16-prfsha256-x25519",
    "aes256gcm16-prfsha384-x25519",
    "chacha20poly1305-prfsha256-x25519",
    "aes256gcm16-prfsha256-ecp256",
];

pub(super) fn cases() -> Vec<Case> {
    let esp = ESP.map(|suite| {
        Case::new(
            format!("esp-{suite}"),
            move |setup| setup.esp(suite),
            proposal,
        )
    });
    let ike = IKE.map(|suite| {
        Case::new(
            format!("ike-{suite}"),
            move |setup| setup.ike(suite),
            proposal,
        )
    });
    let mut cases: Vec<_> = esp.into_iter().chain(ike).collect();
    cases.push(Case::new(
        "proposal-preference",
        |setup| {
            setup.ike("chacha20poly1305-prfsha256-ecp256, aes256gcm16-prfsha384-x25519");
            setup.esp("chacha20poly1305, aes256gcm16");
            // What strongSwan does not offer or accept, the next one has to replace.
            setup.ike[1] = "aes256gcm16-prfsha384-x25519".into();
            setup.esp[1] = "aes256gcm16".into();
        },
        preference,
    ));
    cases.push(Case::new(
        "proposal-none-matches",
        |setup| setup.ike[1] = "chacha20poly1305-prfsha256-x25519".into(),
        no_proposal,
    ));
    cases
}

/// Both ends agree on what stands in both proposals.
fn proposal(run: &mut Run) -> Result<String> {
    run.up()?;
    let ike = run.ike_sa()?["suite"].as_str().unwrap_or("?").to_owned();
    let mut left = run.setup.ike[0].split('-');
    ensure!(
        left.all(|word| ike.contains(word)),
        "the IKE SA uses {ike} instead of {}",
        run.setup.ike[0]
    );
    expect(&run.epoch(CHILD)?, "cipher", &run.setup.esp[0])?;
    let counted = run.exchange()?;
    run.wait_settled()?;
    Ok(format!("{counted}; {ike}, {}", run.setup.esp[0]))
}

fn preference(run: &mut Run) -> Result<String> {
    run.up()?;
    let ike = run.ike_sa()?["suite"].as_str().unwrap_or("?").to_owned();
    ensure!(
        ike.contains("aes256gcm16") && ike.contains("x25519"),
        "{ike}"
    );
    expect(&run.epoch(CHILD)?, "cipher", "aes256gcm16")?;
    Ok(format!("{}; {ike}", run.exchange()?))
}

fn no_proposal(run: &mut Run) -> Result<String> {
    run.start()?;
    if run.setup.role == super::Role::Responder {
        let initiate = ["--initiate", "--child", CHILD, "--timeout", "5"];
        let result = run.swan()?.swanctl(&initiate);
        ensure!(result.is_err(), "strongSwan calls this a success");
    }
    let said = |line: &&str| {
        !line.contains("DEBUG")
            && (line.contains("NO_PROPOSAL_CHOSEN") || line.contains("proposal"))
    };
    run.wait("mitregate to say that nothing matches", |run| {
        Ok(run.log().lines().any(|line| said(&line)))
    })?;
    ensure!(run.installed()? == 0, "strongSwan has a child");
    let log = run.log();
    let line = log.lines().find(said).unwrap_or_default();
    Ok(format!("refused: {}", line.trim()))
}
