//! The client's address changes in the middle of a flow, with the real daemons.

mod common;
#[path = "common/live.rs"]
mod live;

use std::time::Duration;

use live::{CLIENT, End, Lab, Pings, eventually, ready};

const STEADY: Duration = Duration::from_millis(10);
const AWAY: &str = "192.0.2.3";

/// The SPI of an end's only IKE SA, as its initiator chose it, and where the peer is.
fn ike_sa(end: &End) -> (String, String) {
    let sas = end.sas();
    let sa = &sas["ike_sas"][0];
    let spi = match sa["initiator"].as_bool() {
        Some(true) => &sa["spi_local"],
        _ => &sa["spi_remote"],
    };
    (spi.to_string(), sa["remote"].to_string())
}

/// `encap`: what both are configured for.
fn moves(what: &str, fields: &str) -> Lab {
    let mut lab = Lab::new(what, fields, "");
    lab.up();
    let pings = Pings::start(&lab, STEADY);
    lab.gateway.eventually("traffic", |_| pings.answered() > 20);
    let (spi, remote) = ike_sa(&lab.gateway);
    assert!(remote.contains(&CLIENT.to_string()), "{remote}");

    for (from, to) in [
        (CLIENT.to_string(), AWAY.to_owned()),
        (AWAY.to_owned(), CLIENT.to_string()),
    ] {
        let wan = &lab.client.ns;
        wan.ip(&format!("addr del {from}/24 dev wan"));
        wan.ip(&format!("addr add {to}/24 dev wan"));
        lab.gateway
            .eventually("the client at its new address", |end| {
                ike_sa(end).1.contains(&to)
            });
        let before = pings.answered();
        eventually(
            "traffic at the new address",
            || pings.answered() > before + 20,
            || format!("{}\n{}", lab.client.log(), lab.gateway.log()),
        );
    }
    drop(pings.stop());
    if fields.is_empty() {
        // It is still the same IKE SA, with the same epoch.
        assert_eq!(ike_sa(&lab.gateway).0, spi);
        lab.one_of_each();
    }
    for end in [&lab.client, &lab.gateway] {
        end.log_is_clean();
    }
    lab
}

#[test]
fn the_flow_goes_on_when_the_clients_address_changes() {
    if ready() {
        moves("move", "");
    }
}

#[test]
fn in_udp_too() {
    if ready() {
        moves("movu", "encap = \"udp\"");
    }
}

#[test]
fn without_mobike_a_new_ike_sa_takes_over() {
    if ready() {
        let lab = moves("movn", "mobike = false");
        assert!(lab.client.log().contains("a new IKE SA is needed"));
    }
}
