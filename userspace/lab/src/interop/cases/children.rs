//! Several CHILD_SAs, and traffic selectors that one side narrows (RFC 7296 §2.9).

use anyhow::{Result, ensure};

use super::{
    super::{
        run::Run,
        setup::{CHILD, Child},
    },
    Case,
};
use crate::topology::{CLIENT_INNER, Host, PROTECTED_NET};

/// More addresses of the client, each with a network of its own behind the gateway. The gateway has
/// an address in each: strongSwan's userspace ESP wants one for the route that it makes, and one
/// route to each client address.
const MORE: [[&str; 3]; 2] = [
    ["10.1.0.2", "10.3.0.1", "10.3.0.2"],
    ["10.1.0.3", "10.4.0.1", "10.4.0.2"],
];

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "children",
            |setup| {
                for (name, network, [client, ..]) in [
                    ("net3", "10.3.0.0/24", MORE[0]),
                    ("net4", "10.4.0.0/24", MORE[1]),
                ] {
                    let client = format!("{client}/32");
                    setup.children.push(Child::new(name, &client, network));
                    setup.client_addresses.push(client);
                }
            },
            three,
        )
        .core(),
        Case::new(
            "narrowed-by-strongswan",
            |setup| {
                // Mitregate would take all of 10.2/16 and two client addresses.
                setup.client_addresses.push(format!("{}/32", MORE[0][0]));
                let child = &mut setup.children[0];
                child.client[0] = "10.1.0.0/30".into();
                child.gateway[0] = "10.2.0.0/16".into();
            },
            narrowed,
        ),
        Case::new(
            "narrowed-by-mitregate",
            |setup| {
                let child = &mut setup.children[0];
                child.client[1] = "10.1.0.0/30".into();
                child.gateway[1] = "10.2.0.0/16".into();
            },
            narrowed,
        ),
        Case::new(
            "ts-unacceptable",
            |setup| {
                let client = format!("{CLIENT_INNER}/32");
                let mut other = Child::new("other", &client, "10.3.0.0/24");
                other.gateway[1] = "10.9.0.0/24".into();
                setup.children.push(other);
            },
            unacceptable,
        ),
    ]
}

/// The networks of [`MORE`], on the gateway and on the server.
fn more_networks(run: &Run) -> Result<()> {
    for [_, gateway, server] in MORE {
        for (host, address) in [(Host::Gw, gateway), (Host::Server, server)] {
            let add = format!("address add {address}/24 dev lan");
            run.lab.host(host).ip(&add)?;
        }
    }
    Ok(())
}

fn three(run: &mut Run) -> Result<String> {
    more_networks(run)?;
    run.up()?;
    let mut text = run.exchange()?;
    for [client, _, server] in MORE {
        text += &format!("; {}", run.exchange_between(client, server)?);
    }
    run.wait_settled()?;
    Ok(text)
}

/// The common part is 10.1.0.1 and 10.2.0.0/24; both ends name it.
fn narrowed(run: &mut Run) -> Result<String> {
    run.up()?;
    let epoch = run.epoch(CHILD)?;
    let sides = match run.setup.role {
        super::Role::Initiator => ["local_ts", "remote_ts"],
        super::Role::Responder => ["remote_ts", "local_ts"],
    };
    let found = sides.map(|side| {
        epoch["selectors"][side][0]
            .as_str()
            .unwrap_or("?")
            .to_owned()
    });
    let client = found[0].trim_end_matches("/32");
    ensure!(
        client == CLIENT_INNER && found[1] == PROTECTED_NET,
        "mitregate's selectors are {found:?}"
    );
    let sas = run.swan()?.sas()?;
    ensure!(
        sas.contains(&format!("{CLIENT_INNER}/32")) && sas.contains(PROTECTED_NET),
        "strongSwan's selectors differ: {sas}"
    );
    let counted = run.exchange()?;
    Ok(format!("{counted}; {} === {}", found[0], found[1]))
}

/// One child of two has nothing in common: it is refused, and the other one works.
fn unacceptable(run: &mut Run) -> Result<String> {
    run.start()?;
    if run.setup.role == super::Role::Responder {
        let initiate = |child| ["--initiate", "--child", child, "--timeout", "10"];
        run.swan()?.swanctl(&initiate(CHILD))?;
        let other = run.swan()?.swanctl(&initiate("other"));
        ensure!(
            other.is_err(),
            "strongSwan got a child that it must not get"
        );
    }
    run.wait("the good child to be up", |run| {
        Ok(run.epoch(CHILD).is_ok() && run.installed()? == 1)
    })?;
    run.wait_log(match run.setup.role {
        super::Role::Initiator => "TS_UNACCEPTABLE",
        super::Role::Responder => "traffic selectors have nothing in common",
    })?;
    let counted = run.exchange()?;
    ensure!(run.epoch("other").is_err(), "mitregate has the other child");
    run.ike_sa()?;
    Ok(format!(
        "{counted}; the other child refused, the IKE SA kept"
    ))
}
