//! The search for a path's MTU against paths of all kinds, under virtual time.

use std::collections::VecDeque;
use std::time::Duration;

use mitregate_gate::pmtu::{Load, PathMtu, PathMtuConfig, PathMtuOutput, PathMtuState, STEP, Why};
use mitregate_wire::echo::Echo;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

/// One direction of a path with a peer that answers pings.
struct Path {
    search: PathMtu,
    now: Duration,
    /// Longest packet that arrives.
    mtu: u16,
    /// A router tells so.
    icmp: bool,
    /// Nothing arrives.
    dead: bool,
    /// Per mille.
    loss: u32,
    rtt: Duration,
    rng: ChaCha20Rng,
    /// Answers on their way: to a probe, or to a ping sent at that time.
    answers: VecDeque<(Duration, Answer)>,
    load: Load,
    /// A large packet each 100 ms.
    busy: bool,
    probes: usize,
    pings: usize,
    changes: Vec<(u16, Why)>,
}

enum Answer {
    Probe(Vec<u8>),
    Ping(Duration),
    TooBig(u16),
}

impl Path {
    fn new(mtu: u16, max: u16) -> Self {
        Self {
            search: PathMtu::new(PathMtuConfig::default(), max),
            now: 100 * SEC,
            mtu,
            icmp: false,
            dead: false,
            loss: 0,
            rtt: 20 * MS,
            rng: ChaCha20Rng::seed_from_u64(u64::from(mtu)),
            answers: VecDeque::new(),
            load: Load::default(),
            busy: false,
            probes: 0,
            pings: 0,
            changes: Vec::new(),
        }
    }

    fn started(mtu: u16, max: u16) -> Self {
        let mut path = Self::new(mtu, max);
        path.up();
        path
    }

    fn up(&mut self) {
        self.search.up(self.now, &mut self.rng);
        self.pump();
    }

    fn lost(&mut self) -> bool {
        self.dead || self.rng.next_u32() % 1000 < self.loss
    }

    fn pump(&mut self) {
        while let Some(output) = self.search.poll_output() {
            match output {
                PathMtuOutput::Probe { size, payload } => {
                    assert_eq!(size % STEP, 0);
                    self.probes += 1;
                    let there = self.now + self.rtt;
                    if self.lost() {
                        continue;
                    }
                    if size <= self.mtu {
                        self.answers.push_back((there, Answer::Probe(payload)));
                    } else if self.icmp {
                        self.answers.push_back((there, Answer::TooBig(self.mtu)));
                    }
                }
                PathMtuOutput::Ping => {
                    self.pings += 1;
                    if !self.lost() {
                        let ping = (self.now + self.rtt, Answer::Ping(self.now));
                        self.answers.push_back(ping);
                    }
                }
                PathMtuOutput::Changed { mtu, why } => {
                    assert_eq!(mtu, self.search.mtu());
                    self.changes.push((mtu, why));
                }
            }
        }
    }

    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        let mut tick = self.now;
        while self.now < end {
            let answer = self.answers.front().map(|(t, _)| *t);
            let timer = self.search.poll_timeout();
            let next = answer.into_iter().chain(timer).chain([tick, end]).min();
            self.now = next.unwrap_or(end).max(self.now);
            if tick <= self.now {
                tick += 100 * MS;
                if self.busy {
                    self.load.large_sent += 1;
                    self.load.received += 1;
                }
            }
            while self.answers.front().is_some_and(|(t, _)| *t <= self.now) {
                match self.answers.pop_front().unwrap().1 {
                    Answer::Probe(payload) => {
                        let request = Echo::new_checked(&payload).unwrap();
                        let response = request.response().unwrap();
                        assert!(self.search.answered(self.now, &response));
                    }
                    Answer::Ping(sent) => self.search.alive(self.now, sent),
                    Answer::TooBig(mtu) => self.search.hint(self.now, Some(mtu)),
                }
                self.pump();
            }
            self.search.handle_timeout(self.now, self.load);
            self.pump();
            let due = self.search.poll_timeout();
            assert!(due.is_none_or(|t| t > self.now), "a timer stays due");
        }
    }

    #[track_caller]
    fn found(&self, mtu: u16) {
        let view = self.search.view();
        assert_eq!(
            (view.state, view.mtu),
            (PathMtuState::Complete, mtu),
            "{view:?}"
        );
    }
}

/// What can be used of a path: ESP comes in steps.
fn usable(mtu: u16, max: u16) -> u16 {
    mtu.min(max) / STEP * STEP
}

#[test]
fn every_path_is_found_within_a_bounded_number_of_probes() {
    // Three for each size, and a halving of (9000 − 576) / 4 sizes beside base and maximum.
    let most = 3 * (2 + 12);
    for mtu in (576..=9000)
        .step_by(13)
        .chain([1199, 1200, 1201, 1492, 1500, 8999, 9000])
    {
        for max in [1464, 9000] {
            let mut path = Path::started(mtu, max);
            path.run(60 * SEC);
            path.found(usable(mtu, max));
            assert!(path.probes <= most, "{mtu}: {} probes", path.probes);
        }
    }
}

#[test]
fn a_path_that_carries_all_costs_two_probes_and_never_changes_a_thing() {
    let mut path = Path::started(1500, 1464);
    path.run(3600 * SEC);
    path.found(1464);
    assert!(path.search.view().confirmed);
    assert_eq!((path.probes, path.pings, path.changes.len()), (2, 0, 0));
}

#[test]
fn an_icmp_error_saves_the_search() {
    for mtu in [576, 800, 1280, 1300, 1420, 1440] {
        let mut path = Path::new(mtu, 1464);
        path.icmp = true;
        path.up();
        path.run(20 * SEC);
        path.found(usable(mtu, 1464));
        assert!(path.probes <= 3 + 2 + 3 + 3, "{mtu}: {}", path.probes);
    }
    // And where base fits, what fits is in use a round trip after the error.
    let mut path = Path::new(1300, 1464);
    path.icmp = true;
    path.up();
    path.run(1200 * MS);
    assert_eq!(path.search.mtu(), 1300);
}

#[test]
fn loss_is_not_taken_for_size() {
    for seed in 0..40 {
        let mut path = Path::new(1500, 1464);
        path.rng = ChaCha20Rng::seed_from_u64(seed);
        path.loss = 100;
        path.busy = true;
        path.up();
        path.run(120 * SEC);
        path.loss = 0;
        path.run(1300 * SEC);
        path.found(1464);
    }
}

#[test]
fn a_dead_path_tells_nothing_about_sizes() {
    let mut path = Path::started(1500, 1464);
    path.run(10 * SEC);
    path.busy = true;
    path.dead = true;
    let before = path.probes;
    path.run(300 * SEC);
    path.found(1464);
    assert!(path.changes.is_empty(), "{:?}", path.changes);
    assert!(path.probes - before <= 3, "{}", path.probes - before);
    assert!(path.pings <= 40, "{}", path.pings);
    // It comes back, and smaller.
    path.dead = false;
    path.mtu = 1300;
    path.run(60 * SEC);
    path.found(1300);
}

#[test]
fn a_black_hole_is_noticed_while_large_packets_leave() {
    for icmp in [false, true] {
        let mut path = Path::started(1500, 1464);
        path.busy = true;
        path.run(60 * SEC);
        (path.mtu, path.icmp) = (1300, icmp);
        path.run(9 * SEC);
        assert!(path.search.mtu() <= 1300, "{icmp} {}", path.search.mtu());
        path.run(30 * SEC);
        path.found(1300);
        assert!(path.search.view().counters.black_holes >= 1);
        assert!(path.changes.iter().any(|(_, why)| *why == Why::BlackHole));
        // It grows again, which is seen within the raise timer.
        path.mtu = 1500;
        path.run(610 * SEC);
        path.found(1464);
    }
}

#[test]
fn a_path_below_base_is_found_too_when_it_shrinks_there() {
    let mut path = Path::started(1500, 1464);
    path.busy = true;
    path.run(30 * SEC);
    path.mtu = 700;
    path.run(60 * SEC);
    path.found(700);
}

#[test]
fn quiet_costs_nothing_and_busy_little() {
    let mut path = Path::started(1300, 1464);
    path.run(60 * SEC);
    let before = path.probes + path.pings;
    path.run(7200 * SEC);
    assert_eq!(path.probes + path.pings, before);
    path.busy = true;
    path.run(600 * SEC);
    let busy = path.probes + path.pings - before;
    assert!(busy <= 125 + 8, "{busy}");
}

#[test]
fn forged_errors_lead_to_few_probes_and_change_nothing() {
    let mut path = Path::started(1500, 1464);
    path.run(10 * SEC);
    let before = path.probes;
    for n in 0..10_000u32 {
        let mtu = [None, Some(0), Some(68), Some(576), Some(1280), Some(70_000)];
        let mtu = mtu[n as usize % mtu.len()];
        path.search.hint(
            path.now,
            mtu.map(|mtu: u32| u16::try_from(mtu).unwrap_or(u16::MAX)),
        );
        path.pump();
        path.run(10 * MS);
    }
    path.found(1464);
    assert!(path.changes.is_empty(), "{:?}", path.changes);
    // 100 s of it; one each two seconds.
    assert!(path.probes - before <= 51, "{}", path.probes - before);
}

#[test]
fn the_result_outlives_an_outage_and_a_move_begins_anew() {
    let mut path = Path::started(1300, 1464);
    path.run(60 * SEC);
    path.search.down();
    assert_eq!(path.search.poll_timeout(), None);
    assert_eq!(path.search.mtu(), 1300);
    let before = path.probes;
    path.up();
    path.run(60 * SEC);
    path.found(1300);
    assert_eq!(path.probes - before, 1);
    path.mtu = 1500;
    path.search.moved(path.now);
    path.pump();
    assert_eq!(path.search.mtu(), 1300);
    path.run(1 * SEC);
    path.found(1464);
}

#[test]
fn the_maximum_follows_link_and_encapsulation() {
    let mut path = Path::started(9000, 1464);
    path.run(5 * SEC);
    path.search.set_max(path.now, 1456);
    path.pump();
    assert_eq!(path.changes, [(1456, Why::Limit)]);
    path.run(5 * SEC);
    path.found(1456);
    path.search.set_max(path.now, 1503);
    path.pump();
    path.run(5 * SEC);
    path.found(1500);
    path.search.disable();
    path.search.set_max(path.now, 1400);
    assert_eq!(path.search.mtu(), 1400);
    assert_eq!(path.search.view().state, PathMtuState::Disabled);
}

#[test]
fn only_answers_to_its_own_probes_count() {
    let mut path = Path::new(1500, 1464);
    path.up();
    path.run(10 * MS);
    path.search.handle_timeout(path.now, path.load);
    path.pump();
    let (_, Answer::Probe(payload)) = path.answers.pop_front().unwrap() else {
        panic!("the base probe is not answered");
    };
    let request = Echo::new_checked(&payload).unwrap();
    assert!(!path.search.answered(path.now, &request));
    let response = request.response().unwrap();
    let other_data = Echo {
        data: &[0; 8],
        ..response
    };
    assert!(!path.search.answered(path.now, &other_data));
    let other_id = Echo {
        id: !response.id,
        ..response
    };
    assert!(!path.search.answered(path.now, &other_id));
    assert!(path.search.answered(path.now, &response));
    // Twice: known, and without effect.
    assert!(path.search.answered(path.now, &response));
    assert_eq!(path.search.view().counters.probes_answered, 1);
}
