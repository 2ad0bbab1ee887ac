//! Peers that die, come back, or fall silent.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    super::{
        run::{Run, told},
        setup::{Role, Setup},
    },
    Case,
};
use crate::interrupt;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("strongswan-killed", lively, swan_killed),
        Case::new("mitregate-killed", lively, mitregate_killed),
        Case::new("dpd-quiet-peer", lively, quiet),
    ]
}

/// Both look after each other every other second, and give up soon.
fn lively(setup: &mut Setup) {
    setup.mitregate.connection =
        "dpd_delay = \"2s\"\nretransmit_timeout = \"500ms\"\nretransmit_tries = 3".into();
    setup.swan.charon = "  retransmit_timeout = 0.5
  retransmit_tries = 3
  retransmit_base = 1.5"
        .into();
    setup.swan.connection = "    dpd_delay = 2s".into();
    setup.swan.child = "        dpd_action = restart
        close_action = start"
        .into();
    if setup.role == Role::Responder {
        setup.swan.child += "\n        start_action = start";
    }
}

/// Nobody types anything: it must come back by itself.
fn swan_killed(run: &mut Run) -> Result<String> {
    run.start()?;
    run.wait_up()?;
    let before = run.exchange()?;
    let streams = run.stream()?;
    interrupt::sleep(Duration::from_millis(500))?;
    run.swan
        .take()
        .map_or(Ok(()), super::super::swan::Swan::kill)?;
    interrupt::sleep(Duration::from_secs(1))?;
    let start = Instant::now();
    run.start_swan()?;
    run.wait_up()?;
    let outage = start.elapsed();
    interrupt::sleep(Duration::from_millis(500))?;
    let (up, down) = streams.stop()?;
    ensure!(
        up.received > 0 && down.received > 0,
        "the stream did not cross at all: {}",
        told(&up, &down)
    );
    let after = run.exchange()?;
    run.wait_settled()?;
    Ok(format!(
        "{before}; back {} ms after its start; {after}",
        outage.as_millis()
    ))
}

fn mitregate_killed(run: &mut Run) -> Result<String> {
    run.start()?;
    run.wait_up()?;
    let before = run.exchange()?;
    run.daemon
        .take()
        .map_or(Ok(()), crate::daemon::Daemon::kill)?;
    interrupt::sleep(Duration::from_secs(1))?;
    let start = Instant::now();
    run.start_mitregate()?;
    run.wait("a fresh epoch", |run| {
        Ok(run.epoch(super::super::setup::CHILD).is_ok())
    })?;
    let outage = start.elapsed();
    run.wait_settled()?;
    let after = run.exchange()?;
    Ok(format!(
        "{before}; back {} ms after its start; {after}",
        outage.as_millis()
    ))
}

/// strongSwan asks whether we are there, and we are, for as long as nothing else is said.
fn quiet(run: &mut Run) -> Result<String> {
    run.start()?;
    run.wait_up()?;
    let before = run.exchange()?;
    let sa = run.ike_sa()?;
    interrupt::sleep(Duration::from_secs(7))?;
    let asked = run.swan()?.log().matches("sending DPD request").count();
    ensure!(asked > 0, "strongSwan did not ask");
    let after = run.exchange()?;
    ensure!(
        run.ike_sa()?["spi_local"] == sa["spi_local"],
        "the IKE SA was replaced"
    );
    Ok(format!("{before}; {asked} questions answered; {after}"))
}
