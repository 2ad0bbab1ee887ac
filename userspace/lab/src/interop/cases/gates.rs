//! The gate with a peer that knows no ESP Echo: asked by ICMP, released, or off; and data in one direction
//! only around each rekey, so that nothing of the other direction helps.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    super::{
        run::{Run, expect},
        setup::{CHILD, CONNECTION, Role},
    },
    Case,
};
use crate::interrupt;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("icmp-gate", |_| {}, icmp).core(),
        Case::new(
            "icmp-gate-silent",
            |setup| {
                // Within the selectors, and nobody.
                let nobody = match setup.role {
                    Role::Initiator => "10.2.0.99",
                    Role::Responder => "10.1.0.99",
                };
                setup.mitregate.connection +=
                    &format!("gate = {{ mode = \"icmp\", icmp_targets = [\"{nobody}\"] }}\n");
                setup.children[0].client = ["10.1.0.0/24".to_owned(), "10.1.0.0/24".to_owned()];
            },
            silent,
        ),
        Case::new(
            "released-one-way",
            |setup| setup.mitregate.connection += "gate = \"echo\"\n",
            releases,
        )
        .core(),
        Case::new(
            "no-gate",
            |setup| setup.mitregate.connection += "gate = \"off\"\n",
            off,
        ),
    ]
}

fn ours(run: &mut Run) -> Result<()> {
    let control = run.daemon()?.control();
    control.ask(&["rekey", "--child", CHILD]).map(drop)
}

fn theirs(run: &mut Run) -> Result<()> {
    run.swan()?
        .swanctl(&["--rekey", "--child", CHILD])
        .map(drop)
}

type Rekey = fn(&mut Run) -> Result<()>;

/// Data one way, and a rekey in the midst of it. What proves the new epoch, once the old one is gone.
fn one_way(run: &mut Run, from_client: bool, rekey: Rekey) -> Result<String> {
    let probe = run.one_way(from_client)?;
    interrupt::sleep(Duration::from_millis(300))?;
    let old = run.spis()?;
    rekey(run)?;
    run.wait_rekeyed(&old)?;
    run.wait_settled()?;
    interrupt::sleep(Duration::from_millis(300))?;
    let tally = probe.stop()?;
    ensure!(
        tally.is_complete() && tally.sent > 100,
        "{} of {} arrived",
        tally.received,
        tally.sent
    );
    let epoch = run.epoch(CHILD)?;
    let proof = epoch["proof"]
        .as_str()
        .context("an epoch without a proof")?;
    Ok(proof.to_owned())
}

/// Each direction, each rekeyed by either side.
fn every_way(run: &mut Run) -> Result<Vec<String>> {
    let mut proofs = Vec::new();
    for from_client in [true, false] {
        for rekey in [ours as Rekey, theirs] {
            proofs.push(one_way(run, from_client, rekey)?);
        }
    }
    Ok(proofs)
}

fn status(run: &Run) -> Result<String> {
    let list = run.list()?;
    let status = list["tunnels"][0]["status"].as_str();
    Ok(status.unwrap_or_default().to_owned())
}

fn wait_status(run: &mut Run, wanted: &str) -> Result<()> {
    let what = format!("the tunnel to be called {wanted}");
    run.wait(&what, |run| Ok(status(run)? == wanted))
}

fn icmp(run: &mut Run) -> Result<String> {
    run.up()?;
    // A gateway waits for its client's first packet, which binds a NAT.
    run.exchange()?;
    wait_status(run, "proven")?;
    expect(&run.epoch(CHILD)?, "proof", "icmp")?;
    for _ in 0..2 {
        every_way(run)?;
        wait_status(run, "proven")?;
    }
    ensure!(
        !run.log().contains("unproven path"),
        "a warning without need"
    );
    let list = run.list()?;
    let gate = &list["tunnels"][0]["gate"];
    let sessions = gate["new_sessions"].as_u64();
    ensure!(sessions == Some(0), "{gate}");
    Ok(format!(
        "{} pings answered over eight rekeys, nothing lost in either direction alone",
        gate["pings_answered"]
    ))
}

fn silent(run: &mut Run) -> Result<String> {
    run.up()?;
    run.exchange()?;
    let proofs = every_way(run)?;
    interrupt::sleep(Duration::from_secs(4))?;
    let list = run.list()?;
    let tunnel = &list["tunnels"][0];
    expect(tunnel, "status", "unproven")?;
    let (asked, answered) = (
        &tunnel["gate"]["pings_sent"],
        &tunnel["gate"]["pings_answered"],
    );
    ensure!(
        asked.as_u64() > Some(0) && answered == 0,
        "{asked} pings, {answered} answers"
    );
    let sessions = tunnel["gate"]["new_sessions"].as_u64();
    ensure!(sessions == Some(0), "{}", tunnel["gate"]);
    let said = run.log().matches("unproven path").count();
    ensure!(said == 1, "it is said {said} times");
    Ok(format!(
        "{asked} pings to nobody, and nothing of it: {}",
        proofs.join(", ")
    ))
}

fn releases(run: &mut Run) -> Result<String> {
    run.up()?;
    expect(&run.epoch(CHILD)?, "proof", "released:first-sa")?;
    run.exchange()?;
    let from_us = run.setup.role == Role::Initiator;
    // RFC 7296 §2.8: our own rekey was answered; else the Delete of the old SA, or a packet on the new.
    for (from_client, rekey, proof) in [
        (from_us, ours as Rekey, "released:rekey-answered"),
        (!from_us, ours, "released:rekey-answered"),
        (from_us, theirs, "released:old-deleted"),
    ] {
        let found = one_way(run, from_client, rekey)?;
        ensure!(found == proof, "{found} instead of {proof}");
    }
    let found = one_way(run, !from_us, theirs)?;
    // strongSwan deletes the old SA at once: whichever of the two comes first.
    let either = ["released:inbound-on-new", "released:old-deleted"];
    ensure!(either.contains(&found.as_str()), "{found}");
    wait_status(run, "unproven")?;
    let list = run.list()?;
    let pings = &list["tunnels"][0]["gate"]["pings_sent"];
    ensure!(pings == 0, "{pings} pings");
    Ok(format!(
        "data one way over four rekeys, nothing lost; the last: {found}"
    ))
}

fn off(run: &mut Run) -> Result<String> {
    run.up()?;
    run.exchange()?;
    let proofs = every_way(run)?;
    run.wait_log("the gate is off")?;
    let said = run.log().matches("unproven path").count();
    ensure!(said == 1, "it is said {said} times");
    let list = run.list()?;
    let tunnel = &list["tunnels"][0];
    expect(tunnel, "status", "unproven")?;
    expect(tunnel, "gate_mode", "off")?;
    let pings = &tunnel["gate"]["pings_sent"];
    ensure!(pings == 0, "{pings} pings");
    let old = run.ike_sa()?;
    let control = run.daemon()?.control();
    control.ask(&["rekey", "--ike", CONNECTION])?;
    run.wait_new_ike(&old)?;
    run.wait_settled()?;
    Ok(format!("nothing lost: {}", proofs.join(", ")))
}
