//! The failure cases F1–F12, each with every NAT model: what is drawn from the seed, the fault, and how long
//! traffic is away after it.

mod bound;
mod fault;
mod nat;
mod outage;
mod table;

use std::time::Duration;

use mitregate_control::{EncapMode, GateConfig, GateMode};

use super::{Outage, Run, Stage, perform};
use crate::case::Case;
use crate::nat::Model;
use crate::sim::link::Link;
use crate::sim::passing::{carries, settle};
use crate::sim::setup::{Plan, Site};
use crate::sim::world::Violation;

pub use bound::{Bound, Longest, Term};
pub use table::markdown;

/// A failure case with a NAT model, with the gate or without it: one row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// What goes wrong.
    pub case: Case,
    /// What is in between.
    pub nat: Option<Model>,
    /// Whether data waits for a ping's answer.
    pub gated: bool,
}

/// Which way the probe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flows {
    /// From the clients only.
    C2s,
    /// From the server only.
    S2c,
    /// Both ways.
    Both,
}

/// What a run has drawn.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The row.
    pub pair: Pair,
    /// How ESP travels.
    pub encap: EncapMode,
    /// How many clients, all behind the NAT.
    pub clients: usize,
    /// Longest round trip.
    pub rtt: Duration,
    /// One packet of each flow in this time.
    pub period: Duration,
    /// Which flows there are.
    pub flows: Flows,
    /// How long what the case is about lasts, where it is not a point in time.
    pub lasts: Duration,
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Latency of the gateway's link, at most; and its jitter.
const LATENCY: (u64, u64) = (60, 5);
/// Latency of a client's link, at most.
const CLIENT_LATENCY: u64 = 5;
/// From one packet of a probe to the next.
const PERIODS: [u64; 4] = [1000, 500, 200, 100];
/// Without the gate a run is watched for so long.
const WATCHED: Duration = Duration::from_secs(120);

/// What [`Pair::measure`] finds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    /// How long traffic was away; `None`: it was not back when nobody looked any more.
    pub length: Option<Duration>,
    /// That a client sent in the whole run.
    pub pings: f64,
}

impl Pair {
    /// All rows, those without the gate last.
    pub fn all() -> impl Iterator<Item = Self> {
        let nats = || Model::ALL.into_iter().map(Some).chain([None]);
        [true, false].into_iter().flat_map(move |gated| {
            let cases = Case::ALL.into_iter();
            let rows = cases.flat_map(move |case| nats().map(move |nat| Self { case, nat, gated }));
            rows.filter(|pair| pair.not_applicable().is_none())
        })
    }

    /// Why there is no such row.
    #[must_use]
    pub fn not_applicable(&self) -> Option<&'static str> {
        match (self.case, self.nat) {
            (Case::Misbinding, None) => Some("nothing is bound where there is no NAT"),
            (Case::NatCrash | Case::Remap, None) => Some("there is no NAT"),
            (Case::Expiry, None) => Some("there is no mapping"),
            (Case::Remap, Some(Model::StatefulFw)) => Some("it translates nothing"),
            _ => None,
        }
    }

    /// The NAT's name.
    #[must_use]
    pub fn nat_name(&self) -> &'static str {
        self.nat.map_or("none", Model::name)
    }

    /// In swanctl's words.
    #[must_use]
    pub fn gate_name(&self) -> &'static str {
        if self.gated { "auto" } else { "off" }
    }

    /// Seeds of a run that does not say how many.
    #[must_use]
    pub fn seeds(&self) -> u64 {
        if self.gated { 100 } else { 10 }
    }

    /// Seeds among the repository's tests.
    #[must_use]
    pub fn tested(&self) -> u64 {
        u64::from(self.gated)
    }

    /// Runs it. With the gate and without it the same is drawn.
    #[must_use]
    pub fn run(&self, seed: u64, traced: bool) -> Run {
        let salt = format!("{} {}", self.case, self.nat_name());
        perform(&salt, seed, traced, |stage| self.act(stage))
    }

    /// What no run's bound exceeds.
    #[must_use]
    pub fn bound(&self) -> Duration {
        let of = |encap| Bound::of(&Setting::worst(*self, encap)).total();
        encaps(self.nat, 1)
            .into_iter()
            .map(of)
            .max()
            .unwrap_or_default()
    }

    /// At least and at most so many clients.
    fn clients(&self, encap: EncapMode) -> (u64, u64) {
        let (few, many) = match self.case {
            Case::Collision | Case::Misbinding | Case::SameSpi => (2, 4),
            Case::Squelch => (3, 8),
            _ => (1, 2),
        };
        let most = match (encap, self.nat) {
            // More than two that all begin anew are mixed up again and again: see docs/recovery-bounds.md.
            (EncapMode::Esp, Some(model))
                if self.case == Case::Squelch && nat::never_settles(model) =>
            {
                2
            }
            (EncapMode::Esp, Some(model)) => nat::esp_clients(model) as u64,
            _ => many,
        };
        (few.min(most), many.min(most))
    }

    /// Which way the probe may go.
    fn flows(&self) -> &'static [Flows] {
        match self.case {
            // What the client sends would hide that it is not reached.
            Case::ServerRekeyIdle => &[Flows::S2c],
            Case::Expiry | Case::Race | Case::Misbinding => &[Flows::S2c, Flows::Both],
            _ => &[Flows::C2s, Flows::S2c, Flows::Both],
        }
    }

    /// The same draws with other times of the gate, the clients' and the gateway's; nothing is judged. Looks at
    /// most for so long.
    #[must_use]
    pub fn measure(&self, seed: u64, times: &[GateConfig; 2], longest: Duration) -> Measured {
        let mut measured = Measured::default();
        let salt = format!("{} {}", self.case, self.nat_name());
        perform(&salt, seed, false, |stage| {
            let setting = Setting::draw(*self, stage);
            let (site, from) = setting.begin(stage, Some(times))?;
            measured.length = outage::measure(stage, &setting, &site, from, longest)?;
            let sent = |client: &usize| stage.world.tunnel(*client).gate.pings_sent;
            let pings: u64 = site.clients.iter().map(sent).sum();
            measured.pings = pings as f64 / site.clients.len() as f64;
            Ok(())
        });
        measured
    }

    fn act(&self, stage: &mut Stage) -> Result<(), Violation> {
        let setting = Setting::draw(*self, stage);
        let (site, from) = setting.begin(stage, None)?;
        let bound = self.gated.then(|| Bound::of(&setting));
        let longest = bound.as_ref().map_or(WATCHED, |b| b.total() + WATCHED);
        let length = outage::measure(stage, &setting, &site, from, longest)?;
        stage.outage = Some(Outage {
            length,
            bound: bound.as_ref().map(Bound::total),
        });
        let Some(bound) = bound else {
            return stage.world.verdict();
        };
        if length.is_none_or(|length| length > bound.total()) {
            let length = length.map_or("never".to_owned(), |l| {
                format!("after {:.3} s", l.as_secs_f64())
            });
            let what = format!(
                "I4: traffic is back {length}, more than {bound} = {:.3} s ({setting:?})",
                bound.total().as_secs_f64()
            );
            stage.world.fail(what);
            return stage.world.verdict();
        }
        if setting.is_mixed_up() {
            return carries(&mut stage.world, &site);
        }
        settle(&mut stage.world, &site)
    }
}

/// How ESP of so many clients may travel through a NAT.
#[must_use]
pub fn encaps(nat: Option<Model>, clients: usize) -> Vec<EncapMode> {
    let all = [EncapMode::Esp, EncapMode::Udp, EncapMode::Auto];
    let esp = nat.is_none_or(|model| clients <= nat::esp_clients(model));
    let fits = |encap: &EncapMode| esp || *encap != EncapMode::Esp;
    all.into_iter().filter(fits).collect()
}

impl Setting {
    fn draw(pair: Pair, stage: &mut Stage) -> Self {
        let encap = stage.pick(&encaps(pair.nat, 1));
        let latency = stage.ms(1, LATENCY.0);
        let (few, many) = pair.clients(encap);
        let clients = few + stage.below(many - few + 1);
        let flows = match pair.case {
            // What the client sends hides that it is not reached.
            Case::ServerRekeyIdle => Flows::S2c,
            Case::Expiry | Case::Race | Case::Misbinding => stage.pick(&[Flows::S2c, Flows::Both]),
            _ => stage.pick(&[Flows::C2s, Flows::S2c, Flows::Both]),
        };
        let lasts = fault::lasts(pair, stage);
        Self {
            pair,
            encap,
            clients: usize::try_from(clients).unwrap_or(1),
            rtt: 2 * (latency + Duration::from_millis(LATENCY.1 + CLIENT_LATENCY)),
            period: Duration::from_millis(stage.pick(&PERIODS)),
            flows,
            lasts,
        }
    }

    /// What leads to the largest bound.
    #[must_use]
    pub fn worst(pair: Pair, encap: EncapMode) -> Self {
        let (_, clients) = pair.clients(encap);
        let with = |flows: &Flows| Self {
            pair,
            encap,
            clients: usize::try_from(clients).unwrap_or(1),
            rtt: 2 * Duration::from_millis(LATENCY.0 + LATENCY.1 + CLIENT_LATENCY),
            period: Duration::from_millis(PERIODS[0]),
            flows: *flows,
            lasts: Duration::ZERO,
        };
        let all = pair.flows().iter().map(with);
        let worst = all.max_by_key(|setting| Bound::of(setting).total());
        worst.unwrap_or_else(|| with(&Flows::Both))
    }

    /// Whether the NAT may take what is for one client to another at any time, also when all are quiet: then
    /// traffic comes back each time, but there is no state to which both ends come and stay.
    fn is_mixed_up(&self) -> bool {
        let plain = self.encap == EncapMode::Esp && self.clients > 1;
        plain && self.pair.nat.is_some_and(nat::never_settles)
    }

    /// Until what the case is about has happened, and when that was.
    fn begin(
        &self,
        stage: &mut Stage,
        times: Option<&[GateConfig; 2]>,
    ) -> Result<(Site, Duration), Violation> {
        stage.world.announced.extend([
            "reason=peer does not answer",
            "expired before it was replaced",
            "data flows on an unproven path",
        ]);
        let site = self.build(stage, times);
        let from = fault::strike(stage, self, &site)?;
        Ok((site, from))
    }

    /// The hosts, not started, and flows that rest.
    fn build(&self, stage: &mut Stage, times: Option<&[GateConfig; 2]>) -> Site {
        let plan = Plan {
            seed: stage.seed,
            encap: self.encap,
            gate: match self.pair.gated {
                true => [GateMode::Auto; 2],
                false => [GateMode::Off; 2],
            },
            times: times.cloned(),
            ..Plan::default()
        };
        let gateway = Link {
            latency: self.rtt / 2 - Duration::from_millis(LATENCY.1 + CLIENT_LATENCY),
            jitter: Duration::from_millis(LATENCY.1),
            ..Link::default()
        };
        let site = Site::build(
            &mut stage.world,
            &plan,
            self.clients,
            self.pair.nat,
            gateway,
        );
        for client in &site.clients {
            let latency = stage.ms(0, CLIENT_LATENCY);
            *stage.world.link(*client) = Link::after(latency);
        }
        site
    }

    /// The flows that are looked at.
    fn watched(&self, site: &Site) -> Vec<usize> {
        let of_client = |[there, back]: &[usize; 2]| match self.flows {
            Flows::C2s => vec![*there],
            Flows::S2c => vec![*back],
            Flows::Both => vec![*there, *back],
        };
        site.flows.iter().flat_map(of_client).collect()
    }
}
