//! Fresh keys while data flows: from either side, of children and of the IKE SA. Nothing may be
//! lost.

use anyhow::{Result, ensure};

use super::{
    super::run::Run,
    super::setup::{CHILD, CONNECTION, Role},
    Case,
};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "rekey-child-by-mitregate",
            |setup| setup.mitregate.child = "rekey_time = \"3s\"".into(),
            child_by_mitregate,
        ),
        Case::new("rekey-child-by-strongswan", |_| {}, child_by_swan)
            .core()
            .quick(),
        Case::new("rekey-ike-by-strongswan", |_| {}, ike_by_swan).core(),
        Case::new(
            "reauth-by-mitregate",
            |setup| setup.mitregate.connection += "reauth_time = \"4s\"\n",
            reauth_by_mitregate,
        )
        .only(&[Role::Initiator]),
        Case::new(
            "reauth-by-strongswan",
            |setup| setup.swan.charon += "  make_before_break = yes\n",
            reauth_by_swan,
        )
        .only(&[Role::Responder]),
        Case::new(
            "reauth-with-virtual-ip",
            |setup| {
                setup.virtual_address();
                setup.mitregate.connection += "reauth_time = \"4s\"\n";
            },
            reauth_by_mitregate,
        )
        .only(&[Role::Initiator]),
    ]
}

fn child_by_mitregate(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let spis = run.spis()?;
        run.wait_rekeyed(&spis)?;
    }
    let counted = streams.all_arrived()?;
    Ok(format!("{counted}, over two rekeys"))
}

fn child_by_swan(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let spis = run.spis()?;
        run.swan()?.swanctl(&["--rekey", "--child", CHILD])?;
        run.wait_rekeyed(&spis)?;
    }
    let counted = streams.all_arrived()?;
    run.wait_settled()?;
    Ok(format!("{counted}, over two rekeys"))
}

fn ike_by_swan(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let old = run.ike_sa()?;
        run.swan()?.swanctl(&["--rekey", "--ike", CONNECTION])?;
        run.wait_new_ike(&old)?;
    }
    let counted = streams.all_arrived()?;
    run.wait_settled()?;
    // Not reauthentication, which strongSwan falls back to when it is refused.
    let rekeyed = run.swan()?.log().matches("] rekeyed between").count();
    ensure!(
        rekeyed >= 2,
        "strongSwan tells of {rekeyed} rekeyed IKE SAs"
    );
    // The children belong to the new IKE SA: they can be rekeyed by it.
    let spis = run.spis()?;
    run.swan()?.swanctl(&["--rekey", "--child", CHILD])?;
    run.wait_rekeyed(&spis)?;
    Ok(format!("{counted}, over two rekeys"))
}

/// A whole new IKE SA beside the old one, which then goes. Make-before-break: nothing is lost.
fn reauth_by_mitregate(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let old = run.ike_sa()?;
        run.wait_new_ike(&old)?;
    }
    let counted = streams.all_arrived()?;
    Ok(format!("{counted}, over two reauthentications"))
}

fn reauth_by_swan(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let old = run.ike_sa()?;
        run.swan()?
            .swanctl(&["--rekey", "--ike", CONNECTION, "--reauth"])?;
        run.wait_new_ike(&old)?;
    }
    let counted = streams.all_arrived()?;
    run.wait_settled()?;
    Ok(format!("{counted}, over two reauthentications"))
}
