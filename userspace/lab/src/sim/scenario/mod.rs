//! The scenarios: what is set up, what goes wrong, drawn from the seed, and what must come of it.

mod basic;
pub mod calm;
pub mod cases;
mod crowd;
mod encap;
mod faults;
mod gates;
mod given;
mod long;
mod mobility;
mod path_mtu;
mod peers;
mod quiet;
mod rekey;

use std::time::Duration;

use mitregate_control::EncapMode;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::link::Link;
use super::setup::{Plan, Site};
use super::trace::Trace;
use super::watch;
use super::world::{START, Violation, World};
use crate::nat::Model;

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// On the command line.
    pub name: &'static str,
    /// In one line.
    pub about: &'static str,
    /// Seeds of a run that does not say how many.
    pub seeds: u64,
    /// Seeds among the repository's tests.
    pub tested: u64,
    /// The faults are drawn from the seed.
    run: fn(&mut Stage) -> Result<(), Violation>,
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [
        basic::SCENARIOS,
        rekey::SCENARIOS,
        faults::SCENARIOS,
        mobility::SCENARIOS,
        gates::SCENARIOS,
        encap::SCENARIOS,
        path_mtu::SCENARIOS,
        given::SCENARIOS,
        peers::SCENARIOS,
        crowd::SCENARIOS,
        quiet::SCENARIOS,
        long::SCENARIOS,
    ]
    .concat()
}

/// What a scenario acts on.
pub struct Stage {
    /// The hosts and the network.
    pub world: World,
    /// What to draw faults from.
    pub rng: ChaCha20Rng,
    /// The run's.
    pub seed: u64,
    /// What was measured.
    pub outage: Option<Outage>,
}

/// How long traffic was away after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// Until it crossed again, in each direction that is looked at and for each client; `None`: it did not
    /// within the run.
    pub length: Option<Duration>,
    /// What it is held to; `None`: without the gate nothing is promised.
    pub bound: Option<Duration>,
}

/// What came of one run.
pub struct Run {
    /// What is wrong with it.
    pub violation: Option<Violation>,
    /// How long it was for those in it.
    pub virtual_time: Duration,
    /// Sent by hosts.
    pub packets: u64,
    /// If the scenario is about one.
    pub outage: Option<Outage>,
    /// Of the trace.
    pub digest: String,
    /// Names of the hosts and what happened, if that was asked for.
    pub trace: Option<(Vec<String>, Trace)>,
    /// With the keys.
    pub world: World,
}

impl Scenario {
    /// Runs it.
    #[must_use]
    pub fn run(&self, seed: u64, traced: bool) -> Run {
        perform(self.name, seed, traced, self.run)
    }
}

/// Each scenario draws its own numbers: `salt` is its name.
fn perform(
    salt: &str,
    seed: u64,
    traced: bool,
    act: impl FnOnce(&mut Stage) -> Result<(), Violation>,
) -> Run {
    watch::watch(traced, || {
        let salt = salt.bytes().fold(0u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        let mut world = World::new(seed ^ salt << 20);
        world.trace = traced.then(Trace::default);
        let mut stage = Stage {
            world,
            rng: ChaCha20Rng::seed_from_u64(seed.rotate_left(32) ^ salt),
            seed,
            outage: None,
        };
        let violation = act(&mut stage).err();
        let mut world = stage.world;
        let names = (0..world.host_count())
            .map(|at| world.name(at).to_owned())
            .collect();
        Run {
            violation,
            virtual_time: world.now - START,
            packets: world.packets,
            outage: stage.outage,
            digest: world.digest.hex(),
            trace: world.trace.take().map(|trace| (names, trace)),
            world,
        }
    })
}

impl Stage {
    /// Below `n`, which is not zero.
    pub fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    /// In milliseconds, `low` included, `high` not.
    pub fn ms(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.below(high - low))
    }

    /// One in so many cases.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let n = self.below(from.len() as u64);
        from[usize::try_from(n).unwrap_or(0)]
    }

    /// The way in between: a NAT of some model or none, and an encapsulation that can cross it.
    pub fn way(&mut self) -> (Option<Model>, EncapMode) {
        match self.below(6) {
            0 => (None, EncapMode::Auto),
            1 => (None, EncapMode::Udp),
            2 => (Some(Model::ConntrackGeneric), EncapMode::Auto),
            3 => (Some(Model::ConntrackGeneric), EncapMode::Esp),
            4 => (Some(Model::UdpSymmetric), EncapMode::Udp),
            _ => (Some(Model::UdpSymmetric), EncapMode::Auto),
        }
    }

    /// Between 1 and 60 ms, with some jitter, FIFO and without loss.
    pub fn quiet_link(&mut self) -> Link {
        Link {
            latency: self.ms(1, 60),
            jitter: self.ms(0, 5),
            ..Link::default()
        }
    }

    /// The loss that is asked of rekeys and collisions: 20 %, with copies and packets overtaken.
    pub fn lossy_link(&mut self) -> Link {
        // A new IKE SA is given up for a fresh one when too much of it was lost.
        self.world.announced.push("reason=peer does not answer");
        Link {
            loss: 200,
            duplicate: 50,
            reorder: 200,
            reorder_by: self.ms(1, 80),
            ..self.quiet_link()
        }
    }

    /// Default plan with a way, a link and a site of one client.
    pub fn pair(&mut self, plan: Plan, link: Link) -> Site {
        self.clients(plan, 1, link)
    }

    /// The same for several.
    pub fn clients(&mut self, mut plan: Plan, clients: usize, link: Link) -> Site {
        let (nat, encap) = self.way();
        plan.encap = encap;
        // Plain ESP of two clients to one server does not cross this NAT.
        if clients > 1 && nat == Some(Model::ConntrackGeneric) {
            plan.encap = EncapMode::Auto;
        }
        plan.seed = self.seed;
        Site::build(&mut self.world, &plan, clients, nat, link)
    }

    /// Until every tunnel is up at both ends.
    pub fn up(&mut self, site: &Site, limit: Duration) -> Result<Duration, Violation> {
        let grain = Duration::from_millis(20);
        self.world.run_until("up", limit, grain, |world| {
            world.is_up(site.gateway) && site.clients.iter().all(|at| world.is_up(*at))
        })
    }
}
