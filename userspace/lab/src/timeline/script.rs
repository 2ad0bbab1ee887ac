//! The failure cases as they are played in namespaces: who sends when, and what happens to whom.

use crate::{case::Case, daemon::Encap, nat::Model, nat_box::Direction};

/// Who sends, within a client's tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The client, to the server behind the gateway.
    C2s,
    /// That server, to the client.
    S2c,
}

/// Datagrams one way, seconds from the start.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub client: u8,
    pub way: Way,
    pub from: f64,
    pub until: f64,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The NAT loses its tables.
    CrashNat,
    /// The NAT has another address.
    RemapNat,
    /// Nothing passes that way.
    Cut(Direction),
    /// Everything passes again.
    Heal,
    /// The clients rekey their tunnels, all at once.
    RekeyByClients,
    /// The gateway rekeys the only client's tunnel.
    RekeyByGateway,
    /// SIGKILL for the gateway's daemon.
    KillGateway,
    StartGateway,
    /// SIGKILL for the first client's daemon.
    KillClient,
    StartClient,
    /// Nothing at all: from here on an outage counts.
    Look,
}

/// An act, when, and what the page says of it.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub at: f64,
    pub act: Act,
    pub label: &'static str,
}

/// One case.
#[derive(Clone, Debug)]
pub struct Script {
    pub model: Model,
    pub encap: Encap,
    pub clients: u8,
    /// How long it is watched, seconds.
    pub seconds: f64,
    pub flows: Vec<Flow>,
    pub steps: Vec<Step>,
    /// What there is to be seen.
    pub about: &'static str,
}

const LONG: f64 = 24.0;

/// Both ways; those of a further client begin a second later each, so that a NAT which serves one after
/// the other has them all before anything happens.
fn both(client: u8, until: f64) -> Vec<Flow> {
    [Way::C2s, Way::S2c]
        .map(|way| flow(client, way, until))
        .to_vec()
}

fn flow(client: u8, way: Way, until: f64) -> Flow {
    Flow {
        client,
        way,
        from: f64::from(client - 1),
        until,
    }
}

fn step(at: f64, act: Act, label: &'static str) -> Step {
    Step { at, act, label }
}

/// None: it cannot be brought about from outside.
pub fn script(case: Case) -> Option<Script> {
    let plain = |clients, flows: Vec<Vec<Flow>>, steps: &[Step], about| Script {
        model: Model::VpnMasquerade,
        encap: Encap::Esp,
        clients,
        seconds: LONG,
        flows: flows.concat(),
        steps: steps.to_vec(),
        about,
    };
    let only = |client, way| vec![flow(client, way, LONG)];
    // The client speaks once, so that this NAT knows it, and falls silent.
    let soon_idle = || vec![flow(1, Way::C2s, 3.0), flow(1, Way::S2c, LONG)];
    Some(match case {
        Case::Collision => plain(
            3,
            (1..=3).map(|client| both(client, LONG)).collect(),
            &[
                step(5.0, Act::RekeyByClients, "all rekey at once"),
                step(13.0, Act::RekeyByClients, "and again"),
            ],
            "Three clients make a new epoch at the same moment. The NAT lets only one unanswered SPI out to a \
             server at a time and drops the others'. With the gate, data stays on the old epoch until a ping has \
             crossed on the new one; without it, data leaves on SPIs that the NAT is still dropping, or binds \
             to somebody else.",
        ),
        Case::Misbinding => plain(
            2,
            vec![both(1, LONG), only(2, Way::S2c)],
            &[step(4.0, Act::CrashNat, "NAT forgets all")],
            "After the NAT has lost its tables, the first client's data makes a pending entry, and the server's \
             next packet for the second client is bound to it: both are cut off, for up to half an hour. With \
             the gate, pings without an answer bring fresh SPIs.",
        ),
        Case::Race => Script {
            model: Model::Cpe8Entries,
            ..plain(
                1,
                vec![soon_idle()],
                &[
                    step(5.0, Act::RekeyByClients, "client rekeys"),
                    step(13.0, Act::RekeyByClients, "and again"),
                ],
                "The client rekeys when it has nothing more to send. A server that switches to the new SPI at once meets a \
                 NAT that has never seen it. With the gate it goes on with the old one until the client's ping \
                 has arrived on the new one.",
            )
        },
        Case::ServerRekeyIdle => Script {
            model: Model::Cpe8Entries,
            ..plain(
                1,
                vec![soon_idle()],
                &[
                    step(5.0, Act::RekeyByGateway, "server rekeys"),
                    step(13.0, Act::RekeyByGateway, "and again"),
                ],
                "The same, started by the server, which the NAT expects even less. With the gate the client \
                 pings at once.",
            )
        },
        Case::NatCrash => plain(
            2,
            vec![only(1, Way::S2c), only(2, Way::S2c)],
            &[step(4.0, Act::CrashNat, "NAT forgets all")],
            "Both clients only receive when the NAT loses everything, IKE's entries, too. Without the gate nobody \
             notices: dead peer detection is two minutes away. With it, a client that falls silent is pinged by \
             itself within about a second, and each ping makes the NAT know it again.",
        ),
        Case::Expiry => {
            let client = |way, from, until| Flow {
                client: 1,
                way,
                from,
                until,
            };
            Script {
                model: Model::OldestIncomplete,
                seconds: 48.0,
                flows: vec![
                    client(Way::C2s, 0.0, 3.0),
                    client(Way::S2c, 0.0, 3.0),
                    client(Way::S2c, 30.0, 48.0),
                ],
                ..plain(
                    1,
                    Vec::new(),
                    &[step(30.0, Act::Look, "the server speaks")],
                    "Three seconds of traffic, then silence for longer than the 20 s that this NAT remembers, then \
                     the server speaks first. The gate's pings, rarer and rarer, have kept the entry alive; without \
                     them it is gone, and nobody notices.",
                )
            }
        }
        Case::Squelch => Script {
            seconds: 48.0,
            ..plain(
                4,
                (1..=4).map(|client| both(client, 48.0)).collect(),
                &[
                    step(5.0, Act::KillGateway, "server dies"),
                    step(11.0, Act::StartGateway, "it is back"),
                ],
                "Four clients lose their server for six seconds. What they send meanwhile makes pending entries \
                 that block one another, and are squelched for 30 s if they insist. With the gate each client's \
                 attempts are few and spaced, and all are served once the server is back (its six seconds are in the \
                 figures).",
            )
        },
        // Each picks 24 of 32 bits at random.
        Case::SameSpi => return None,
        Case::Remap => plain(
            2,
            vec![both(1, LONG), only(2, Way::S2c)],
            &[step(4.0, Act::RemapNat, "NAT has another address")],
            "The NAT comes back with another public address. Without the gate the server follows the client that \
             sends, and goes on sending to the old address for the one that only receives. With it, both \
             clients ping, and an authenticated ping from the new address moves the server's ESP.",
        ),
        Case::ServerRestart => plain(
            2,
            vec![both(1, LONG), only(2, Way::S2c)],
            &[
                step(4.0, Act::KillGateway, "server dies"),
                step(5.0, Act::StartGateway, "it is back"),
            ],
            "The server's daemon is killed and started again a second later: it knows none of the old SAs. Without \
             the gate the clients send into the void until dead peer detection. With it, unanswered pings lead \
             to a new IKE SA. (The second in which it is dead is in the figures.)",
        ),
        Case::ClientRestart => plain(
            2,
            vec![both(1, LONG), both(2, LONG)],
            &[
                step(4.0, Act::KillClient, "client 1 dies"),
                step(5.0, Act::StartClient, "it is back"),
            ],
            "The first client's daemon is killed and comes back with the same address inside the tunnel. The \
             server replaces its old state only when the new epoch is proven; the second client notices nothing.",
        ),
        Case::OneWayLoss => plain(
            1,
            vec![both(1, LONG)],
            &[
                step(4.0, Act::Cut(Direction::Inbound), "inbound cut"),
                step(10.0, Act::Heal, "whole again"),
            ],
            "For six seconds nothing passes towards the client, while what it sends arrives. The gate sees its \
             pings unanswered and tries fresh SPIs and a new IKE SA beside the old epoch, which it does not tear \
             down: the direction that works goes on working.",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_can_be_played() {
        for case in Case::ALL {
            let Some(script) = script(case) else {
                assert_eq!(case, Case::SameSpi);
                continue;
            };
            assert!(!script.about.is_empty() && !script.steps.is_empty());
            for flow in &script.flows {
                assert!((1..=script.clients).contains(&flow.client), "{case}");
                assert!(flow.from < flow.until && flow.until <= script.seconds);
            }
            let times: Vec<_> = script.steps.iter().map(|step| step.at).collect();
            assert!(times.is_sorted() && times.iter().all(|at| *at < script.seconds));
        }
    }
}
