//! Addresses that change under a tunnel (RFC 4555).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    super::run::{Run, told},
    Case,
};
use crate::{interrupt, topology::Host};

/// The client's next address.
const NEXT: &str = "192.168.1.3";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "mobike-new-address",
            |setup| setup.roams = true,
            new_address,
        )
        .core(),
    ]
}

/// The client gets another address and loses the old one: the same IKE SA goes on from the new one.
fn new_address(run: &mut Run) -> Result<String> {
    run.up()?;
    let before = run.exchange()?;
    let sa = run.ike_sa()?;
    let streams = run.stream()?;
    interrupt::sleep(Duration::from_millis(300))?;
    let client = run.lab.host(Host::Client);
    client.sysctl("ipv4/conf/all/promote_secondaries", "1")?;
    client.ip(&format!("address add {NEXT}/24 dev wan"))?;
    client.ip(&format!(
        "address del {}/24 dev wan",
        crate::topology::CLIENT_WAN
    ))?;
    let start = Instant::now();
    let at_home = format!("{NEXT}:");
    run.wait("both ends to use the new address", |run| {
        let sa = run.ike_sa()?;
        let ours = ["local", "remote"].map(|end| sa[end].as_str().unwrap_or("").to_owned());
        let theirs = run.swan()?.sas()?.contains(NEXT);
        Ok(ours.iter().any(|end| end.starts_with(&at_home)) && theirs)
    })?;
    let took = start.elapsed();
    interrupt::sleep(Duration::from_millis(500))?;
    let (up, down) = streams.stop()?;
    ensure!(up.received > 0 && down.received > 0, "{}", told(&up, &down));
    let after = run.exchange()?;
    let new = run.ike_sa()?;
    // Only the IKE SA: strongSwan's userspace ESP cannot move its SAs, so it rekeys them.
    ensure!(
        new["spi_local"] == sa["spi_local"],
        "the IKE SA was replaced instead of moved"
    );
    Ok(format!(
        "{before}; moved in {} ms; {after}",
        took.as_millis()
    ))
}
