//! Every state that can be reached, breadth first, and every step between them.

use core::hash::{BuildHasherDefault, Hasher};
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::canon::fingerprint;
use crate::config::Config;
use crate::diagram::Note;
use crate::world::{Action, World, broken};

/// States are numbered in the order in which they were found.
pub type Id = u32;

/// The graph of all states.
pub struct Graph {
    /// How each state was first reached; the first state has no way.
    ways: Vec<Option<(Id, Action)>>,
    /// By state: where its steps begin in `steps`.
    starts: Vec<usize>,
    seen: Seen,
    steps: Vec<Step>,
    /// Per bit of [`broken`], the first step that broke it: from where, by what.
    pub broken: Vec<(u8, Id, Action)>,
    /// The longest of the shortest ways.
    pub depth: u32,
    /// States that were reached again, and of which both copies were followed up.
    pub compared: u64,
    /// How long it took.
    pub took: Duration,
    /// Whether it is all there is; `false` if a bound was hit.
    pub complete: bool,
}

/// An edge.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Where it leads.
    pub to: Id,
    /// See [`label`](crate::world::label).
    pub labels: u16,
}

/// When to stop early, and whom to tell how it goes.
pub struct Limits<'a> {
    /// No more states than this.
    pub states: u64,
    /// Stop when all of these were broken (bits of [`broken`]); 0: never.
    pub until_broken: u8,
    /// Threads.
    pub jobs: usize,
    /// Told about states, steps and depth so far.
    pub progress: &'a mut dyn FnMut(usize, usize, u32),
}

/// A hash is its own.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

type Seen = HashMap<u64, Id, BuildHasherDefault<Identity>>;

/// A step as the threads find it.
struct Found {
    fingerprint: u64,
    action: Action,
    labels: u16,
    broken: u8,
    /// `None` if the state was known when the step was taken.
    world: Option<Box<World>>,
}

/// So many states are followed up before what came of it is put together.
const BATCH: usize = 2048;
/// Of states that are reached again, one in so many is followed up again, too.
const COMPARE: u64 = 256;

impl Graph {
    /// Explores everything that can come of `config`.
    ///
    /// # Errors
    /// Two states that were taken for one had different futures: the description of what a state is
    /// ([`fingerprint`]) leaves out something that matters.
    pub fn explore(config: &Config, limits: &mut Limits<'_>) -> Result<Self, String> {
        let began = Instant::now();
        let first = World::new(config);
        let mut graph = Self {
            ways: vec![None],
            starts: Vec::new(),
            seen: Seen::from_iter([(fingerprint(&first), 0)]),
            steps: Vec::new(),
            broken: Vec::new(),
            depth: 0,
            compared: 0,
            took: Duration::ZERO,
            complete: true,
        };
        let mut doubles: Vec<(Id, Box<World>)> = Vec::new();
        let mut frontier = vec![first];
        'levels: while !frontier.is_empty() {
            let mut next = Vec::new();
            let mut frontier_left = frontier.into_iter();
            loop {
                let batch: Vec<_> = frontier_left.by_ref().take(BATCH).collect();
                if batch.is_empty() {
                    break;
                }
                for found in expand(config, &batch, &graph.seen, limits.jobs) {
                    let from = Id::try_from(graph.starts.len()).map_err(|_| "too many states")?;
                    graph.starts.push(graph.steps.len());
                    for step in found {
                        graph.add(from, step, &mut next, &mut doubles)?;
                    }
                }
                (limits.progress)(graph.ways.len(), graph.steps.len(), graph.depth);
                let seen_broken = graph.broken.iter().fold(0, |all, (bit, ..)| all | bit);
                let enough = limits.until_broken != 0
                    && seen_broken & limits.until_broken == limits.until_broken;
                if enough || graph.ways.len() as u64 > limits.states {
                    graph.complete = false;
                    break 'levels;
                }
            }
            if !next.is_empty() {
                graph.depth += 1;
            }
            frontier = next;
        }
        if graph.complete {
            graph.compare(config, &doubles)?;
        }
        graph.took = began.elapsed();
        Ok(graph)
    }

    fn add(
        &mut self,
        from: Id,
        step: Found,
        next: &mut Vec<World>,
        doubles: &mut Vec<(Id, Box<World>)>,
    ) -> Result<(), String> {
        let id = Id::try_from(self.ways.len()).map_err(|_| "too many states")?;
        let known = self.seen.get(&step.fingerprint).copied();
        let to = known.unwrap_or(id);
        if let Some(world) = step.world {
            if known.is_some() {
                if sampled(step.fingerprint, step.action) {
                    doubles.push((to, world));
                }
            } else {
                self.seen.insert(step.fingerprint, id);
                self.ways.push(Some((from, step.action)));
                next.push(*world);
            }
        }
        for (bit, _) in broken::ALL {
            let first = self.broken.iter().all(|(b, ..)| *b != bit);
            if step.broken & bit != 0 && first {
                self.broken.push((bit, from, step.action));
            }
        }
        self.steps.push(Step {
            to,
            labels: step.labels,
        });
        Ok(())
    }

    /// What follows on a state that was reached by another way must be what follows on its first copy.
    fn compare(&mut self, config: &Config, doubles: &[(Id, Box<World>)]) -> Result<(), String> {
        for (id, world) in doubles {
            let mut again: Vec<_> = follow(config, world)
                .map(|(fingerprint, _, taken)| (self.id(fingerprint), taken.labels))
                .collect();
            let mut before: Vec<_> = self
                .steps(*id)
                .iter()
                .map(|s| (Some(s.to), s.labels))
                .collect();
            again.sort_unstable();
            before.sort_unstable();
            if again != before {
                return Err(format!(
                    "two states that were taken for one (number {id}) have different futures: {world:#?}"
                ));
            }
            self.compared += 1;
        }
        Ok(())
    }

    /// The number of the state with this fingerprint.
    #[must_use]
    pub fn id(&self, fingerprint: u64) -> Option<Id> {
        self.seen.get(&fingerprint).copied()
    }

    /// How many states.
    #[must_use]
    pub fn states(&self) -> usize {
        self.starts.len()
    }

    /// How many steps.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.steps.len()
    }

    /// The steps from a state.
    #[must_use]
    pub fn steps(&self, id: Id) -> &[Step] {
        let at = id as usize;
        let offset = |i: usize| self.starts.get(i).copied().unwrap_or(self.steps.len());
        &self.steps[offset(at)..offset(at + 1)]
    }

    /// A shortest way to a state.
    #[must_use]
    pub fn way(&self, id: Id) -> Vec<Action> {
        let mut way = Vec::new();
        let mut at = id;
        while let Some((from, action)) = self.ways[at as usize] {
            way.push(action);
            at = from;
        }
        way.reverse();
        way
    }
}

/// Takes these steps from the beginning; what happened, for people.
#[must_use]
pub fn replay(config: &Config, way: &[Action]) -> (World, Vec<Note>) {
    let mut world = World::new(config);
    let mut notes = Vec::new();
    for action in way {
        if let Some(taken) = world.take(config, *action, Some(&mut notes)) {
            world = taken.world;
        }
    }
    (world, notes)
}

/// All steps from a state.
pub fn follow<'a>(
    config: &'a Config,
    world: &'a World,
) -> impl Iterator<Item = (u64, Action, crate::world::Taken)> + 'a {
    world.actions(config).into_iter().filter_map(move |action| {
        let taken = world.take(config, action, None)?;
        Some((fingerprint(&taken.world), action, taken))
    })
}

fn expand(config: &Config, batch: &[World], seen: &Seen, jobs: usize) -> Vec<Vec<Found>> {
    let one = |world: &World| -> Vec<Found> {
        follow(config, world)
            .map(|(fingerprint, action, taken)| {
                let keep = !seen.contains_key(&fingerprint) || sampled(fingerprint, action);
                Found {
                    fingerprint,
                    action,
                    labels: taken.labels,
                    broken: taken.broken,
                    world: keep.then(|| Box::new(taken.world)),
                }
            })
            .collect()
    };
    let share = batch.len().div_ceil(jobs.max(1)).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = batch
            .chunks(share)
            .map(|chunk| scope.spawn(move || chunk.iter().map(one).collect::<Vec<_>>()))
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.flatten().collect()
    })
}

fn sampled(fingerprint: u64, action: Action) -> bool {
    use core::hash::Hash as _;
    let mut h = std::hash::DefaultHasher::new();
    (fingerprint, action).hash(&mut h);
    h.finish().is_multiple_of(COMPARE)
}
