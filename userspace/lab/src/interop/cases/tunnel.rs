//! A tunnel at all: by a shared secret, through a NAT, taken down from either side, refused.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    super::{
        run::{Run, expect},
        setup::{CHILD, CONNECTION, Role},
    },
    Case,
};
use crate::{
    interrupt,
    topology::{CLIENT_INNER, Host, Middle},
};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("psk", |_| {}, psk).core().quick(),
        Case::new("psk-masquerade", |setup| setup.middle = Middle::Nat, nat)
            .core()
            .quick(),
        Case::new("psk-wrong", |setup| setup.secrets[1].push('!'), wrong_psk),
        Case::new("virtual-ip", super::Setup::virtual_address, virtual_ip).core(),
        Case::new("terminate-child", |_| {}, terminate_child),
        Case::new("terminate-ike", |_| {}, terminate_ike),
    ]
}

fn psk(run: &mut Run) -> Result<String> {
    run.up()?;
    let sa = run.ike_sa()?;
    expect(&sa, "peer_id", "strongswan@lab")?;
    expect(&run.epoch(CHILD)?, "cipher", "aes256gcm16")?;
    let counted = run.exchange()?;
    run.wait_settled()?;
    Ok(counted)
}

fn nat(run: &mut Run) -> Result<String> {
    run.up()?;
    let sa = run.ike_sa()?;
    let (ours, field) = match run.setup.role {
        Role::Initiator => ("local", "nat_local"),
        Role::Responder => ("remote", "nat_remote"),
    };
    ensure!(sa[field] == true, "mitregate saw no NAT at its {ours} end");
    let counted = run.exchange()?;
    // The mapping is not the one that a fresh connection had: the flow goes on after a pause.
    interrupt::sleep(Duration::from_secs(2))?;
    let again = run.exchange()?;
    Ok(format!("{counted}; after a pause {again}"))
}

fn wrong_psk(run: &mut Run) -> Result<String> {
    run.start()?;
    if run.setup.role == Role::Responder {
        let initiate = ["--initiate", "--child", CHILD, "--timeout", "5"];
        let result = run.swan()?.swanctl(&initiate);
        ensure!(result.is_err(), "strongSwan calls this a success");
    }
    let reason = match run.setup.role {
        Role::Initiator => "AUTHENTICATION_FAILED",
        Role::Responder => "failed to authenticate",
    };
    run.wait_log(reason)?;
    ensure!(run.installed()? == 0, "strongSwan has a child");
    ensure!(run.epoch(CHILD).is_err(), "mitregate has a child");
    let log = run.log();
    let line = log
        .lines()
        .find(|line| !line.contains("DEBUG") && line.contains(reason));
    let line = line.map(|line| line.split("  ").last().unwrap_or(line).trim().to_owned());
    ensure!(line.is_some(), "only at DEBUG does mitregate say why");
    Ok(format!("refused: {}", line.unwrap_or_default()))
}

/// The address comes by configuration payload, both ends know it, and the client can use it.
fn virtual_ip(run: &mut Run) -> Result<String> {
    run.up()?;
    let client = run.lab.host(Host::Client);
    let addresses = client.ip("-4 -oneline address")?;
    ensure!(
        addresses.contains(&format!("{CLIENT_INNER}/32")),
        "no interface of the client has {CLIENT_INNER}: {addresses}"
    );
    let sas = run.swan()?.sas()?;
    ensure!(
        sas.contains(&format!("{CLIENT_INNER}/32")),
        "strongSwan has {sas}"
    );
    let counted = run.exchange()?;
    if run.setup.role == Role::Responder {
        let pool = run.daemon()?.control().ask(&["list-pools"])?;
        ensure!(pool.to_string().contains(CLIENT_INNER), "no lease: {pool}");
    }
    // The same address again for the same peer.
    let old = run.ike_sa()?;
    run.swan()?.swanctl(&["--terminate", "--ike", CONNECTION])?;
    if run.setup.role == Role::Initiator {
        run.wait_new_ike(&old)?;
    } else {
        run.initiate_by_swan()?;
    }
    run.wait_up()?;
    let again = run.exchange()?;
    Ok(format!(
        "{counted}; the same lease for the next IKE SA: {again}"
    ))
}

/// By mitregate, up again, by strongSwan.
fn terminate_child(run: &mut Run) -> Result<String> {
    run.up()?;
    let counted = run.exchange()?;
    let control = run.daemon()?.control();
    control.ask(&["terminate", "--child", CHILD])?;
    run.wait("strongSwan to drop the child", |run| {
        Ok(run.installed()? == 0)
    })?;
    match run.setup.role {
        Role::Initiator => {
            control_initiate(run)?;
        }
        Role::Responder => run.initiate_by_swan()?,
    }
    run.wait_up()?;
    let again = run.exchange()?;
    let spis = run.spis()?;
    run.swan()?.swanctl(&["--terminate", "--child", CHILD])?;
    if run.setup.role == Role::Initiator {
        // It is wanted here: it comes back by itself.
        run.wait_rekeyed(&spis)?;
        run.wait_up()?;
        let back = run.exchange()?;
        return Ok(format!("{counted}; again {again}; by itself {back}"));
    }
    run.wait("mitregate to drop the child", |run| {
        Ok(run.epoch(CHILD).is_err())
    })?;
    Ok(format!("{counted}; again {again}"))
}

fn control_initiate(run: &Run) -> Result<()> {
    run.daemon()?
        .control()
        .ask(&["initiate", "--child", CHILD])
        .map(drop)
}

fn terminate_ike(run: &mut Run) -> Result<String> {
    run.up()?;
    let counted = run.exchange()?;
    run.daemon()?
        .control()
        .ask(&["terminate", "--ike", CONNECTION])?;
    run.wait("strongSwan to drop the IKE SA", |run| {
        Ok(run.established()? == 0)
    })?;
    match run.setup.role {
        Role::Initiator => control_initiate(run)?,
        Role::Responder => run.initiate_by_swan()?,
    }
    run.wait_up()?;
    let again = run.exchange()?;
    let old = run.ike_sa()?;
    run.swan()?.swanctl(&["--terminate", "--ike", CONNECTION])?;
    if run.setup.role == Role::Initiator {
        run.wait_new_ike(&old)?;
        run.wait_up()?;
        let back = run.exchange()?;
        return Ok(format!("{counted}; again {again}; by itself {back}"));
    }
    run.wait("mitregate to drop the IKE SA", |run| {
        Ok(run.list()?["ike_sas"].as_array().is_some_and(Vec::is_empty))
    })?;
    Ok(format!("{counted}; again {again}"))
}
