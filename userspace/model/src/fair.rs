//! Whether, once faults have ceased, data arrives again and again.
//!
//! Looked at is the part of the graph that is left when faults are taken away: its *calm* steps (see
//! [`label::CALM`]), from every state that was reached, whatever faults led there. Fair is a run that does
//! again and again what it can do again and again (each step in each state: strong transition fairness),
//! as times do that are drawn with jitter. In a finite graph every fair run ends up in a strongly connected
//! part that no calm step leaves, and takes all its steps. So data arrives again and again in all of them
//! exactly if from every state an arrival can be reached by calm steps. That is what is computed.

use std::collections::{BTreeMap, VecDeque};

use crate::config::Config;
use crate::explore::{Graph, Id, Step, follow};
use crate::world::{Action, World, label};

/// States from which no calm step leads away and none of which leads to `goal` (a bit of [`label`]); the
/// ones that are reached soonest. `None`: from every state the goal can be reached.
#[must_use]
pub fn stuck(graph: &Graph, goal: u16) -> Option<Vec<Id>> {
    let states = Id::try_from(graph.states()).unwrap_or(Id::MAX);
    let hopeful = can_reach(graph, goal);
    let hopeless: Vec<Id> = (0..states).filter(|id| !hopeful[*id as usize]).collect();
    let mut search = Search {
        graph,
        part: hopeful.iter().map(|hopeful| !hopeful).collect(),
        index: vec![0; graph.states()],
        low: vec![0; graph.states()],
    };
    let ends = |component: &Vec<Id>| {
        let mut steps = component
            .iter()
            .flat_map(|id| graph.steps(*id))
            .filter(|s| calm(s));
        steps.all(|step| component.binary_search(&step.to).is_ok())
    };
    search.components(&hopeless).into_iter().filter(ends).min()
}

/// By state: whether a calm step that is the goal can be reached by calm steps.
fn can_reach(graph: &Graph, goal: u16) -> Vec<bool> {
    let states = graph.states();
    // The calm steps backwards: those that lead to a state stand together.
    let all = || {
        (0..)
            .zip(0..states)
            .flat_map(|(id, _)| graph.steps(id).iter().map(move |s| (id, s)))
    };
    let mut starts = vec![0_usize; states + 1];
    for (_, step) in all().filter(|(_, s)| calm(s)) {
        starts[step.to as usize + 1] += 1;
    }
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let mut next = starts.clone();
    let mut back: Vec<Id> = vec![0; starts[states]];
    let mut reached = vec![false; states];
    let mut queue = Vec::new();
    for (id, step) in all().filter(|(_, s)| calm(s)) {
        let slot = &mut next[step.to as usize];
        back[*slot] = id;
        *slot += 1;
        if step.labels & goal != 0 && !reached[id as usize] {
            reached[id as usize] = true;
            queue.push(id);
        }
    }
    while let Some(id) = queue.pop() {
        let to = id as usize;
        for from in &back[starts[to]..starts[to + 1]] {
            if !reached[*from as usize] {
                reached[*from as usize] = true;
                queue.push(*from);
            }
        }
    }
    reached
}

struct Search<'a> {
    graph: &'a Graph,
    /// The states that are looked at.
    part: Vec<bool>,
    /// Tarjan's: when a state was first met (0: not yet), and the earliest that it leads back to.
    index: Vec<u32>,
    low: Vec<u32>,
}

/// In no component any more.
const OUT: u32 = u32::MAX;

impl Search<'_> {
    /// Strongly connected components by calm steps (Tarjan 1972, with a stack of its own).
    fn components(&mut self, roots: &[Id]) -> Vec<Vec<Id>> {
        let (mut next, mut stack, mut found, mut calls) = (0, Vec::new(), Vec::new(), Vec::new());
        for root in roots {
            if self.index[*root as usize] == 0 {
                calls.push((*root, 0));
            }
            while let Some((id, at)) = calls.pop() {
                let v = id as usize;
                if self.index[v] == 0 {
                    next += 1;
                    self.index[v] = next;
                    self.low[v] = next;
                    stack.push(id);
                }
                let mut descend = None;
                for (n, step) in self.graph.steps(id).iter().enumerate().skip(at) {
                    let w = step.to as usize;
                    if !calm(step) || !self.part[w] {
                        continue;
                    }
                    if self.index[w] == 0 {
                        descend = Some((n, step.to));
                        break;
                    }
                    // Of one that is out `low` is larger than any.
                    self.low[v] = self.low[v].min(self.low[w]);
                }
                if let Some((n, to)) = descend {
                    // The same step is looked at again afterwards, for its `low`.
                    calls.push((id, n));
                    calls.push((to, 0));
                } else if self.low[v] == self.index[v] {
                    let mut component = Vec::new();
                    while let Some(w) = stack.pop() {
                        self.low[w as usize] = OUT;
                        component.push(w);
                        if w == id {
                            break;
                        }
                    }
                    component.sort_unstable();
                    found.push(component);
                }
            }
        }
        found
    }
}

fn calm(step: &Step) -> bool {
    step.labels & label::CALM != 0
}

/// A run that never ends: the steps up to a state, and the steps that lead back to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lasso {
    /// From the beginning.
    pub stem: Vec<Action>,
    /// Again and again.
    pub cycle: Vec<Action>,
}

/// A run through such states, for people: in its cycle is done what can be done there, `app` above all.
#[must_use]
pub fn lasso(config: &Config, graph: &Graph, states: &[Id], app: u16) -> Option<Lasso> {
    let home = *states.first()?;
    let stem = graph.way(home);
    let (mut world, _) = crate::explore::replay(config, &stem);
    let inside = |step: &Step| calm(step) && states.binary_search(&step.to).is_ok();
    let clients = 0..config.clients;
    let mut classes = vec![app, label::TICK];
    classes.extend(clients.flat_map(|c| [label::LOOK << c, label::ARRIVE << c]));
    let mut at = home;
    let mut cycle = Vec::new();
    for class in classes {
        let does = |id: &Id| {
            graph
                .steps(*id)
                .iter()
                .any(|s| inside(s) && s.labels & class != 0)
        };
        if !states.iter().any(does) {
            continue;
        }
        let path = path(graph, at, inside, |step| step.labels & class != 0)?;
        at = walk(config, graph, &mut world, &path, &mut cycle)?;
    }
    if at != home || cycle.is_empty() {
        let path = path(graph, at, inside, |step| step.to == home)?;
        walk(config, graph, &mut world, &path, &mut cycle)?;
    }
    Some(Lasso { stem, cycle })
}

/// The shortest path whose last step is one of the wanted.
fn path(
    graph: &Graph,
    from: Id,
    inside: impl Fn(&Step) -> bool,
    wanted: impl Fn(&Step) -> bool,
) -> Option<Vec<Step>> {
    let mut came: BTreeMap<Id, (Id, Step)> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(id) = queue.pop_front() {
        for step in graph.steps(id).iter().filter(|s| inside(s)) {
            if wanted(step) {
                let mut path = vec![*step];
                let mut at = id;
                while at != from {
                    let (before, step) = came[&at];
                    path.push(step);
                    at = before;
                }
                path.reverse();
                return Some(path);
            }
            if step.to != from && !came.contains_key(&step.to) {
                came.insert(step.to, (id, *step));
                queue.push_back(step.to);
            }
        }
    }
    None
}

/// Finds the actions that make these steps.
fn walk(
    config: &Config,
    graph: &Graph,
    world: &mut World,
    path: &[Step],
    cycle: &mut Vec<Action>,
) -> Option<Id> {
    for step in path {
        let mut steps = follow(config, world);
        let (_, action, taken) = steps.find(|(fingerprint, _, taken)| {
            taken.labels == step.labels && graph.id(*fingerprint) == Some(step.to)
        })?;
        drop(steps);
        *world = taken.world;
        cycle.push(action);
    }
    path.last().map(|step| step.to)
}
