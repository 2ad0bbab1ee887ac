//! The state machine of RFC 8899 §5.

use core::time::Duration;
use std::collections::VecDeque;

use mitregate_wire::echo::{Echo, Kind};
use rand_core::Rng;

use super::{
    Load, PathMtuConfig, PathMtuCounters, PathMtuOutput, PathMtuState, PathMtuView, STEP, Why,
};

/// Answers to probes further back than this are not recognised.
const REMEMBERED: usize = 8;
/// How often traffic is looked at while large packets leave, and else.
const LOOK: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// So long after the last large packet.
const LATELY: Duration = Duration::from_secs(30);
/// A search begins so long after its path is there: what waited for the path goes first.
const SETTLE: Duration = Duration::from_millis(10);
/// Looks in a row with large packets sent and nothing received that call for a probe.
const STALLED_LOOKS: u32 = 2;
/// On a path that carries nothing, an ordinary ping is asked for this often.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Probes of one size.
#[derive(Debug, Clone, Copy)]
struct Run {
    size: u16,
    lost: u32,
    /// When the last one was sent.
    last: Duration,
    deadline: Duration,
    /// All were lost, and nothing shows that the path carries anything at all.
    waits: bool,
}

/// What one side sends through one tunnel. See the [module](super).
///
/// After each call take [`PathMtuOutput`]s until there are none, and ask again when to call
/// [`handle_timeout`](Self::handle_timeout).
#[derive(Debug)]
pub struct PathMtu {
    config: PathMtuConfig,
    state: PathMtuState,
    /// Whether the path is proven: nothing is asked while it is not.
    up: bool,
    /// The most that is of use.
    max: u16,
    /// In use.
    mtu: u16,
    /// The largest that was answered on this path; 0: none.
    confirmed: u16,
    /// The smallest that was refused; one step above `max`: none.
    refused: u16,
    run: Option<Run>,
    /// When to begin, or go on.
    start_at: Option<Duration>,
    /// Ask the next size up before anything else: what is below it was told, or known for long.
    edge: bool,
    /// What an ICMP error said would fit.
    hint: Option<u16>,
    hinted: Option<Duration>,
    raise_at: Duration,
    /// The size in use was last answered.
    confirmed_at: Duration,
    look_at: Duration,
    load: Load,
    large_at: Option<Duration>,
    stalled: u32,
    /// When the newest ping was sent that was answered.
    alive: Option<Duration>,
    rtt: Duration,
    id: u16,
    token: [u8; 8],
    seq: u16,
    sent: VecDeque<(u16, u16, Duration)>,
    counters: PathMtuCounters,
    outputs: VecDeque<PathMtuOutput>,
}

fn whole_steps(size: u16) -> u16 {
    size / STEP * STEP
}

impl PathMtu {
    /// Asks nothing yet. `max`: the most that is of use, bytes of the outer IP packet.
    #[must_use]
    pub fn new(config: PathMtuConfig, max: u16) -> Self {
        let max = whole_steps(max);
        Self {
            config: PathMtuConfig {
                min: whole_steps(config.min),
                base: whole_steps(config.base.max(config.min)),
                max_probes: config.max_probes.max(1),
                ..config
            },
            state: PathMtuState::Disabled,
            up: false,
            max,
            mtu: max,
            confirmed: 0,
            refused: max + STEP,
            run: None,
            start_at: None,
            edge: false,
            hint: None,
            hinted: None,
            raise_at: Duration::ZERO,
            confirmed_at: Duration::ZERO,
            look_at: Duration::ZERO,
            load: Load::default(),
            large_at: None,
            stalled: 0,
            alive: None,
            rtt: Duration::ZERO,
            id: 0,
            token: [0; 8],
            seq: 0,
            sent: VecDeque::with_capacity(REMEMBERED),
            counters: PathMtuCounters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The size in use, bytes of the outer IP packet.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What an operator sees.
    #[must_use]
    pub fn view(&self) -> PathMtuView {
        PathMtuView {
            state: self.state,
            mtu: self.mtu,
            confirmed: self.confirmed >= self.mtu,
            probing: self.run.map(|run| run.size),
            counters: self.counters,
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<PathMtuOutput> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        if !self.asks() {
            return None;
        }
        let run = self.run.map(|run| run.deadline);
        let next = run.into_iter().chain(self.start_at);
        next.chain([self.look_at]).min()
    }

    /// The path is proven, by a peer that answers pings: begins, or goes on.
    pub fn up(&mut self, now: Duration, rng: &mut dyn Rng) {
        if self.up {
            return;
        }
        self.up = true;
        self.look_at = now + LOOK[0];
        if self.state == PathMtuState::Disabled {
            let [a, b, ..] = rng.next_u32().to_be_bytes();
            self.id = u16::from_be_bytes([a, b]);
            self.token = rng.next_u64().to_be_bytes();
            self.begin(now);
        }
        self.start_at = Some(now + SETTLE);
    }

    /// The path is not proven any more. What was found is kept.
    pub fn down(&mut self) {
        self.up = false;
        (self.run, self.start_at) = (None, None);
    }

    /// The peer does not answer pings: the configured size is all there is to go by.
    pub fn disable(&mut self) {
        self.down();
        self.state = PathMtuState::Disabled;
        self.forget();
        self.set_mtu(self.max, Why::Limit);
    }

    /// The path is another one. What was in use goes on until the search knows better.
    pub fn moved(&mut self, now: Duration) {
        if self.state != PathMtuState::Disabled {
            self.begin(now);
        }
    }

    /// The most that is of use is this now, bytes of the outer IP packet.
    pub fn set_max(&mut self, now: Duration, max: u16) {
        let max = whole_steps(max);
        if max == self.max {
            return;
        }
        let grown = max > self.max && self.refused > self.max;
        let whole = self.refused > self.max;
        self.max = max;
        self.refused = if whole {
            max + STEP
        } else {
            self.refused.min(max + STEP)
        };
        self.confirmed = self.confirmed.min(max);
        if self.state == PathMtuState::Disabled || self.mtu > max {
            self.set_mtu(max, Why::Limit);
        }
        if self.state == PathMtuState::Disabled {
            return;
        }
        if grown || self.run.is_some_and(|run| run.size > max) {
            if self.state == PathMtuState::Complete {
                self.state = PathMtuState::Search;
            }
            self.run = None;
            self.start_at = Some(now + SETTLE);
        }
    }

    /// Takes an ESP Echo response, if it answers one of the probes.
    pub fn answered(&mut self, now: Duration, echo: &Echo<'_>) -> bool {
        let ours = echo.kind == Kind::Response && echo.id == self.id && echo.data == self.token;
        if !ours || self.state == PathMtuState::Disabled {
            return false;
        }
        let found = self.sent.iter().position(|(seq, ..)| *seq == echo.seq);
        let Some((_, size, sent)) = found.and_then(|at| self.sent.remove(at)) else {
            return true;
        };
        self.counters.probes_answered += 1;
        self.rtt = now.saturating_sub(sent);
        self.alive = self.alive.max(Some(sent));
        if size == self.mtu {
            self.confirmed_at = now;
        }
        if size >= self.refused {
            // It was not its size.
            self.refused = self.max + STEP;
        }
        let doubted = self
            .run
            .is_some_and(|run| run.size <= self.confirmed && run.lost > 0 && sent >= run.last);
        if doubted && size < self.confirmed {
            // What an error told fits, and what is in use was lost: no need to wait for more losses. If
            // the error lied, the next size up is answered.
            self.counters.black_holes += 1;
            self.confirmed = size;
            self.refused = self.max + STEP;
            self.set_mtu(size, Why::BlackHole);
            self.edge = true;
            self.run = None;
            self.next(now);
            return true;
        }
        if size > self.confirmed {
            self.confirmed = size;
            if size > self.mtu {
                self.set_mtu(size, Why::Answered);
                self.confirmed_at = now;
            }
        }
        match self.run {
            // An error's word, which holds: all that is above it is likely to fail.
            Some(run) if size < run.size && self.hint == Some(size) => {
                self.edge = true;
                self.run = None;
                self.next(now);
            }
            Some(run) if size >= run.size => {
                self.run = None;
                if self.state != PathMtuState::Complete || self.confirmed > self.mtu {
                    self.next(now);
                }
            }
            _ => {}
        }
        true
    }

    /// An ordinary ping was answered that was sent at `sent`: the path carries something.
    pub fn alive(&mut self, now: Duration, sent: Duration) {
        self.alive = self.alive.max(Some(sent));
        let Some(run) = self.run.filter(|run| run.waits && self.up) else {
            return;
        };
        if sent < run.last {
            return;
        }
        if now.saturating_sub(run.last) <= 3 * self.timer() {
            self.refuse(now, run.size);
        } else {
            // It carried nothing for a while: those probes tell nothing.
            self.ask(now, run.size);
        }
    }

    /// An ICMP error says that a packet of ours was too big. Anybody can write one (RFC 8899 §4.6.1): it
    /// leads to a probe, at most, and not too often. `mtu`: what the next hop takes, if it says.
    pub fn hint(&mut self, now: Duration, mtu: Option<u16>) {
        self.counters.hints += 1;
        let lately = self
            .hinted
            .is_some_and(|t| now < t + self.config.hint_every);
        if !self.asks() || lately {
            return;
        }
        let fits = mtu.map(whole_steps).filter(|mtu| *mtu >= self.config.min);
        let largest = self.run.map_or(self.mtu, |run| run.size.max(self.mtu));
        if fits.is_some_and(|fits| fits >= largest) {
            return;
        }
        self.hinted = Some(now);
        self.counters.hints_taken += 1;
        self.hint = fits;
        match (self.run, fits) {
            (Some(run), Some(fits)) if fits > self.confirmed && fits < run.size => {
                self.send(now, fits);
            }
            (Some(_), _) => {}
            (None, _) => self.confirm(now),
        }
    }

    /// Does what is due. `load`: the tunnel's traffic so far.
    pub fn handle_timeout(&mut self, now: Duration, load: Load) {
        if !self.asks() {
            return;
        }
        if self.start_at.take_if(|t| *t <= now).is_some() && self.run.is_none() {
            if self.state == PathMtuState::Complete {
                self.confirm(now);
            } else {
                self.next(now);
            }
        }
        if let Some(run) = self.run.filter(|run| run.deadline <= now) {
            self.expired(now, run);
        }
        if self.look_at <= now {
            self.look(now, load);
        }
    }

    fn asks(&self) -> bool {
        self.up && self.state != PathMtuState::Disabled
    }

    /// RFC 8899 §5.1.1: no less than a second, and longer than an answer takes.
    fn timer(&self) -> Duration {
        self.config.probe_timer.max(4 * self.rtt)
    }

    fn base(&self) -> u16 {
        self.config.base.min(self.max)
    }

    /// What is known to fit, or taken for granted.
    fn floor(&self) -> u16 {
        self.confirmed.max(self.config.min.min(self.max))
    }

    fn forget(&mut self) {
        self.confirmed = 0;
        self.refused = self.max + STEP;
        (self.run, self.hint, self.edge) = (None, None, false);
        self.sent.clear();
    }

    fn begin(&mut self, now: Duration) {
        self.forget();
        self.state = PathMtuState::Base;
        self.start_at = Some(now + SETTLE);
    }

    /// Decides what to ask, or that nothing is left to ask.
    fn next(&mut self, now: Duration) {
        let base = self.base();
        if self.confirmed == 0 && self.refused > base {
            self.state = PathMtuState::Base;
            return self.ask(now, base);
        }
        let low = self.floor();
        let gap = self.refused.saturating_sub(low);
        let edge = core::mem::take(&mut self.edge);
        if gap <= STEP {
            return self.complete(now, low);
        }
        self.state = if low < base {
            PathMtuState::Error
        } else {
            PathMtuState::Search
        };
        let hint = self
            .hint
            .take()
            .filter(|size| *size > low && *size < self.refused);
        let size = if edge {
            low + STEP
        } else if let Some(hint) = hint {
            self.edge = true;
            hint
        } else if self.refused > self.max {
            self.max
        } else {
            low + gap / (2 * STEP) * STEP
        };
        self.ask(now, size);
    }

    fn complete(&mut self, now: Duration, size: u16) {
        self.state = PathMtuState::Complete;
        self.raise_at = now + self.config.raise_timer;
        self.confirmed_at = now;
        self.hint = None;
        self.set_mtu(size, Why::Answered);
    }

    /// Asks whether the size in use still fits (RFC 8899 §4.3).
    fn confirm(&mut self, now: Duration) {
        if self.state == PathMtuState::Complete && self.run.is_none() && self.confirmed > 0 {
            self.ask(now, self.confirmed);
        }
    }

    fn ask(&mut self, now: Duration, size: u16) {
        if !self.asks() {
            self.run = None;
            return;
        }
        self.run = Some(Run {
            size,
            lost: 0,
            last: now,
            deadline: now + self.timer(),
            waits: false,
        });
        self.send(now, size);
    }

    fn send(&mut self, now: Duration, size: u16) {
        self.seq = self.seq.wrapping_add(1);
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.seq, size, now));
        self.counters.probes_sent += 1;
        let echo = Echo {
            kind: Kind::Request { return_spi: None },
            id: self.id,
            seq: self.seq,
            data: &self.token,
        };
        let mut payload = vec![0; echo.emitted_len()];
        if echo.emit(&mut payload).is_ok() {
            self.outputs
                .push_back(PathMtuOutput::Probe { size, payload });
        }
    }

    fn expired(&mut self, now: Duration, run: Run) {
        let timer = self.timer();
        if run.waits {
            self.outputs.push_back(PathMtuOutput::Ping);
            self.run = Some(Run {
                deadline: now + ASK_AGAIN,
                ..run
            });
            return;
        }
        self.counters.probes_lost += 1;
        let lost = run.lost + 1;
        if self.mtu > self.confirmed && run.size <= self.mtu && self.confirmed > 0 {
            // It was never answered for, and now it is in doubt.
            self.set_mtu(self.confirmed, Why::Doubt);
        }
        if lost < self.config.max_probes {
            self.run = Some(Run {
                lost,
                last: now,
                deadline: now + timer,
                ..run
            });
            self.send(now, run.size);
            let less = self
                .hint
                .take_if(|hint| run.size <= self.confirmed && *hint < run.size);
            if let Some(hint) = less {
                self.send(now, hint);
            }
            if lost + 1 == self.config.max_probes {
                self.outputs.push_back(PathMtuOutput::Ping);
            }
        } else if self.alive.is_some_and(|sent| sent >= run.last) {
            self.refuse(now, run.size);
        } else {
            self.outputs.push_back(PathMtuOutput::Ping);
            self.run = Some(Run {
                lost,
                deadline: now + timer,
                waits: true,
                ..run
            });
        }
    }

    /// A size does not fit, and smaller pings do.
    fn refuse(&mut self, now: Duration, size: u16) {
        self.run = None;
        let base = self.base();
        if size <= self.confirmed {
            self.counters.black_holes += 1;
            self.forget();
            self.refused = size;
            self.state = PathMtuState::Base;
            let fits = if size > base { base } else { self.floor() };
            self.set_mtu(fits, Why::BlackHole);
        } else {
            self.refused = self.refused.min(size);
            if self.refused <= base && self.mtu >= self.refused {
                self.set_mtu(self.floor(), Why::Doubt);
            }
        }
        self.next(now);
    }

    /// Only large packets can tell that the path has become smaller, and only they care for a larger one.
    fn look(&mut self, now: Duration, load: Load) {
        let large = load.large_sent > self.load.large_sent;
        let received = load.received > self.load.received;
        self.load = load;
        if large {
            self.large_at = Some(now);
        }
        let lately = self.large_at.is_some_and(|t| now < t + LATELY);
        self.look_at = now + LOOK[usize::from(!lately)];
        self.stalled = match (large, received) {
            (_, true) => 0,
            (true, false) => self.stalled + 1,
            (false, false) => self.stalled,
        };
        if !large || self.state != PathMtuState::Complete || self.run.is_some() {
            return;
        }
        let since = now.saturating_sub(self.confirmed_at);
        if now >= self.raise_at && self.floor() < self.max {
            self.refused = self.max + STEP;
            self.edge = true;
            self.next(now);
        } else if since >= self.config.confirm_every
            || (self.stalled >= STALLED_LOOKS && since >= self.config.hint_every)
        {
            self.confirm(now);
        }
    }

    fn set_mtu(&mut self, mtu: u16, why: Why) {
        if mtu != self.mtu {
            self.mtu = mtu;
            self.outputs.push_back(PathMtuOutput::Changed { mtu, why });
        }
    }
}
