//! Each algorithm once, alone in the proposals.

use anyhow::{Result, ensure};

use super::{
    super::{
        run::{Run, expect},
        setup::{CHILD, CONNECTION},
    },
    Case,
};

const ESP: [&str; 3] = ["aes128gcm16", "aes256gcm16", "chacha20poly1305"];
/// Each cipher, PRF and group at least once; those with CBC and MODP are for old peers.
const IKE: [&str; 8] = [
    "aes128gcm16-prfsha256-x25519",
    "aes256gcm16-prfsha384-ecp384",
    "chacha20poly1305-prfsha256-x25519",
    "aes256gcm16-prfsha512-ecp256",
    "aes128-sha256-prfsha256-modp2048",
    "aes256-sha384-prfsha384-modp3072",
    "aes256-sha512-prfsha512-x25519",
    "aes192-sha256-prfsha256-ecp256",
];
/// A group of its own for each CHILD_SA (RFC 7296 §2.17).
const PFS: [&str; 2] = ["aes256gcm16-x25519", "chacha20poly1305-ecp384"];

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
    cases.extend(
        PFS.map(|suite| Case::new(format!("pfs-{suite}"), move |setup| setup.esp(suite), pfs)),
    );
    cases.push(
        Case::new(
            "mlkem768",
            |setup| {
                setup.ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768");
                setup.esp("aes256gcm16-x25519-ke1_mlkem768");
            },
            mlkem,
        )
        .since_61(),
    );
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

/// The first CHILD_SA has no exchange of its own; those that replace it do.
fn pfs(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let spis = run.spis()?;
        run.swan()?.swanctl(&["--rekey", "--child", CHILD])?;
        run.wait_rekeyed(&spis)?;
    }
    let counted = streams.all_arrived()?;
    let group = run.setup.esp[0].rsplit('-').next().unwrap_or_default();
    let name = match group {
        "x25519" => "CURVE_25519",
        _ => "ECP_384",
    };
    let sas = run.swan()?.sas()?;
    let child = sas.lines().find(|line| line.contains(", INSTALLED"));
    ensure!(
        child.is_some_and(|line| line.contains(name)),
        "strongSwan's CHILD_SA was not made with {name}: {child:?}"
    );
    Ok(format!("{counted}, over two rekeys with {group}"))
}

/// ML-KEM-768 beside Curve25519: for the IKE SA by a fragmented IKE_INTERMEDIATE (RFC 9242, RFC 9370),
/// then in rekeys of the CHILD_SA and of the IKE SA by IKE_FOLLOWUP_KE.
fn mlkem(run: &mut Run) -> Result<String> {
    run.up()?;
    let ike = run.ike_sa()?["suite"].as_str().unwrap_or("?").to_owned();
    ensure!(ike.contains("mlkem768"), "the IKE SA uses {ike}");
    let first = run.exchange()?;
    let log = run.swan()?.log();
    let said = |text: &str| log.contains(text);
    ensure!(said("IKE_INTERMEDIATE"), "no IKE_INTERMEDIATE");
    let fragmented = log.lines().any(|line| {
        line.contains("IKE_INTERMEDIATE") && (line.contains("EF(") || line.contains("EF "))
    });
    ensure!(fragmented, "IKE_INTERMEDIATE was not fragmented");
    let streams = run.stream()?;
    let spis = run.spis()?;
    run.swan()?.swanctl(&["--rekey", "--child", CHILD])?;
    run.wait_rekeyed(&spis)?;
    let old = run.ike_sa()?;
    run.swan()?.swanctl(&["--rekey", "--ike", CONNECTION])?;
    run.wait_new_ike(&old)?;
    let counted = streams.all_arrived()?;
    run.wait_settled()?;
    let sas = run.swan()?.sas()?;
    ensure!(
        sas.matches("ML_KEM_768").count() >= 2,
        "not both the IKE SA and the CHILD_SA were made with ML-KEM: {sas}"
    );
    let log = run.swan()?.log();
    ensure!(
        log.contains("IKE_FOLLOWUP_KE"),
        "the rekeys did without IKE_FOLLOWUP_KE"
    );
    Ok(format!("{first}; {counted} over rekeys of both; {ike}"))
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
