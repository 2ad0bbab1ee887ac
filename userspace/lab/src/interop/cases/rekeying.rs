//! Fresh keys while data flows: from either side and from both at once, of children and of the IKE
//! SA. Nothing may be lost.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    super::{
        run::{Run, UNDER_WAY},
        setup::{CHILD, CONNECTION, Role, Setup},
    },
    Case,
};
use crate::{interrupt, sh, topology::Host};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "rekey-child-by-time",
            |setup| setup.mitregate.child = "rekey_time = \"3s\"".into(),
            child_by_time,
        ),
        Case::new("rekey-child-by-mitregate", |_| {}, child_by_mitregate).core(),
        Case::new("rekey-child-by-strongswan", |_| {}, child_by_swan)
            .core()
            .quick(),
        Case::new("rekey-ike-by-strongswan", |_| {}, ike_by_swan).core(),
        Case::new("rekey-ike-by-mitregate", |_| {}, ike_by_mitregate).core(),
        Case::new("rekey-child-by-both", impatient, child_by_both).core(),
        Case::new("rekey-ike-by-both", impatient, ike_by_both).core(),
        Case::new("mlkem768-child-by-mitregate", hybrid, child_by_mitregate).since_61(),
        Case::new("mlkem768-ike-by-mitregate", hybrid, ike_by_mitregate).since_61(),
        Case::new("mlkem768-child-by-both", impatient_hybrid, child_by_both).since_61(),
        Case::new("mlkem768-ike-by-both", impatient_hybrid, ike_by_both).since_61(),
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

fn child_by_time(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let spis = run.spis()?;
        run.wait_rekeyed(&spis)?;
    }
    let counted = streams.all_arrived()?;
    Ok(format!("{counted}, over two rekeys"))
}

fn child_by_mitregate(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let spis = run.spis()?;
        ours(run, "--child", CHILD)?;
        run.wait_rekeyed(&spis)?;
        run.wait_settled()?;
    }
    let counted = streams.all_arrived()?;
    Ok(format!("{counted}, over two rekeys"))
}

/// Asks mitregate for a rekey.
fn ours(run: &Run, what: &str, name: &str) -> Result<()> {
    let control = run.daemon()?.control();
    control.ask(&["rekey", what, name]).map(drop)
}

fn ike_by_mitregate(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let old = run.ike_sa()?;
        ours(run, "--ike", CONNECTION)?;
        run.wait_new_ike(&old)?;
        run.wait_settled()?;
    }
    let counted = streams.all_arrived()?;
    // The children belong to the new IKE SA: they can be rekeyed by it.
    let spis = run.spis()?;
    ours(run, "--child", CHILD)?;
    run.wait_rekeyed(&spis)?;
    Ok(format!("{counted}, over two rekeys"))
}

/// With additional key exchanges, also at rekeys (RFC 9370).
fn hybrid(setup: &mut Setup) {
    setup.ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768");
    setup.esp("aes256gcm16-x25519-ke1_mlkem768");
}

fn impatient_hybrid(setup: &mut Setup) {
    impatient(setup);
    hybrid(setup);
}

/// Requests are repeated soon.
fn impatient(setup: &mut Setup) {
    setup.mitregate.connection += "retransmit_timeout = \"700ms\"\n";
    setup.swan.charon += "  retransmit_timeout = 0.8\n";
}

/// IKE waits in the middle, data goes through, until both have sent their request: so each gets the
/// other's while its own is unanswered (RFC 7296 §2.8.1, §2.25).
fn at_once(run: &Run, what: &str, name: &str) -> Result<()> {
    let nat = run.lab.host(Host::Nat);
    sh::feed(nat.command("nft").args(["-f", "-"]), HOLD_IKE)?;
    ours(run, what, name)?;
    run.swan()?.swanctl(&["--rekey", what, name])?;
    interrupt::sleep(Duration::from_millis(200))?;
    sh::output(nat.command("nft").args(["delete", "table", "ip", "hold"]))?;
    Ok(())
}

/// IKE on port 4500 starts with the non-ESP marker (RFC 3948 §2.2).
const HOLD_IKE: &str = "table ip hold {
    chain forward {
        type filter hook forward priority filter; policy accept;
        udp dport 500 drop
        udp dport 4500 @th,64,32 0x00000000 drop
    }
}
";

fn child_by_both(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let spis = run.spis()?;
        at_once(run, "--child", CHILD)?;
        run.wait_rekeyed(&spis)?;
        run.wait_settled()?;
    }
    let counted = streams.all_arrived()?;
    Ok(format!("{counted}, over {}", collisions(run)?))
}

fn ike_by_both(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let old = run.ike_sa()?;
        at_once(run, "--ike", CONNECTION)?;
        run.wait_new_ike(&old)?;
        run.wait_settled()?;
    }
    let counted = streams.all_arrived()?;
    let text = format!("{counted}, over {}", collisions(run)?);
    let spis = run.spis()?;
    ours(run, "--child", CHILD)?;
    run.wait_rekeyed(&spis)?;
    Ok(text)
}

/// What strongSwan says of them; an error when there were none.
fn collisions(run: &Run) -> Result<String> {
    let log = run.swan()?.log();
    let seen = log
        .lines()
        .filter(|line| line.contains("collision"))
        .count();
    ensure!(seen > 0, "the two rekeys did not collide");
    Ok(format!(
        "two collisions ({seen} lines of strongSwan's about them)"
    ))
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

/// A whole new IKE SA beside the old one, which then goes. Make-before-break: nothing is lost, but for
/// what is under way when strongSwan changes over: it drops the old pair of SAs as soon as its Delete is
/// answered, or, with a virtual address, moves its route.
fn reauth_by_mitregate(run: &mut Run) -> Result<String> {
    run.up()?;
    let streams = run.stream()?;
    for _ in 0..2 {
        let old = run.ike_sa()?;
        run.wait_new_ike(&old)?;
    }
    let counted = streams.all_but(2 * UNDER_WAY)?;
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
    let counted = streams.all_but(2 * UNDER_WAY)?;
    run.wait_settled()?;
    Ok(format!("{counted}, over two reauthentications"))
}
