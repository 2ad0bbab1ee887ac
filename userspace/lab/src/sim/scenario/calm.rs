//! What a tunnel costs that needs no help: for the sweep of the gate's times, which would be short if that were
//! all that counted.

use std::time::Duration;

use mitregate_control::{EncapMode, GateConfig};

use super::{Stage, perform};
use crate::nat::Model;
use crate::sim::link::Link;
use crate::sim::setup::{Plan, Site};
use crate::sim::world::Violation;

/// A tunnel to which nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calm {
    /// Without data, in UDP through a NAT.
    QuietUdp,
    /// Without data, plain ESP through a NAT.
    QuietEsp,
    /// Data both ways, a round trip of 600 ms.
    Far,
    /// Data both ways, one packet in twenty lost each way.
    Lossy,
}

/// All of them.
pub const ALL: [Calm; 4] = [Calm::QuietUdp, Calm::QuietEsp, Calm::Far, Calm::Lossy];

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Until pings have become as rare as they get.
const SETTLING: Duration = Duration::from_secs(120);

impl Calm {
    /// Quiet: packets in a second, of both hosts. Else: rekeys and new IKE SAs in an hour that the gate asked
    /// for, and infinity if the tunnel did not come up.
    #[must_use]
    pub fn cost(self, times: &[GateConfig; 2]) -> f64 {
        let mut cost = f64::INFINITY;
        let _ = perform(&format!("{self:?}"), 1, false, |stage| {
            cost = self.act(stage, times)?;
            Ok(())
        });
        cost
    }

    fn act(self, stage: &mut Stage, times: &[GateConfig; 2]) -> Result<f64, Violation> {
        let (nat, encap) = match self {
            Self::QuietUdp => (Some(Model::ConntrackGeneric), EncapMode::Udp),
            Self::QuietEsp => (Some(Model::VpnMasquerade), EncapMode::Esp),
            Self::Far | Self::Lossy => (None, EncapMode::Udp),
        };
        let plan = Plan {
            encap,
            times: Some(times.clone()),
            ..Plan::default()
        };
        let latency = match self {
            Self::Far => Duration::from_millis(300),
            _ => Duration::from_millis(30),
        };
        let announced = &mut stage.world.announced;
        announced.extend(["reason=peer does not answer", "expired before"]);
        let site = Site::build(&mut stage.world, &plan, 1, nat, Link::after(latency));
        stage.up(&site, 60 * SECOND)?;
        if let Self::QuietUdp | Self::QuietEsp = self {
            stage.world.run(SETTLING)?;
            let before = stage.world.packets;
            stage.world.run(HOUR)?;
            return Ok((stage.world.packets - before) as f64 / HOUR.as_secs_f64());
        }
        if self == Self::Lossy {
            stage.world.link(site.gateway).loss = 50;
        }
        site.traffic(&mut stage.world, Some(SECOND));
        let asked = |stage: &Stage| {
            let gate = stage.world.tunnel(site.clients[0]).gate;
            gate.rekeys + gate.new_sessions
        };
        let before = asked(stage);
        stage.world.run(HOUR)?;
        Ok((asked(stage) - before) as f64)
    }
}
