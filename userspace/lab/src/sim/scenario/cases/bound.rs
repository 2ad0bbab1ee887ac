//! Within what time traffic is back: derived from the gate's times and the NAT's, term by term. What each
//! term is and why it is there is in docs/recovery-bounds.md, whose figures this module gives.

use std::fmt;
use std::time::Duration;

use mitregate_control::{CONNECT_PATIENCE, EncapMode, GateConfig, RETRY_MAX, Role, Strangers};
use mitregate_ike::Retransmit;

use super::{Flows, Setting, nat};
use crate::case::Case;
use crate::nat::Model;

/// A part of a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// As docs/recovery-bounds.md calls it.
    pub name: &'static str,
    /// How often.
    pub times: u32,
    /// How long.
    pub each: Duration,
}

/// A sum of [`Term`]s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bound(pub Vec<Term>);

/// A gateway that has looked at enough first messages of one source looks at more after at most so long
/// ([`Strangers::inits_per_source`]).
const DOOR: Duration = Duration::from_secs(20);

/// Fresh SPIs that a NAT which guesses takes for another client's, after a dead server's return: each time the odds
/// are even at worst, so one run in some thousand that get there may need more.
const SHIFTS: u32 = 9;

/// The longest times that the defaults of a client's gate lead to.
pub struct Longest {
    gate: GateConfig,
}

impl Default for Longest {
    fn default() -> Self {
        Self {
            gate: GateConfig::new(Role::Client),
        }
    }
}

impl Longest {
    /// So many pings in a row, from the first to the end of the last one's wait.
    #[must_use]
    pub fn series(&self, pings: u32) -> Duration {
        let GateConfig {
            ping_timeout,
            backoff,
            jitter,
            escalation_max,
            ..
        } = self.gate;
        let waits = (0..pings).scan(ping_timeout, |wait, _| {
            let this = *wait;
            *wait = this.mul_f64(backoff.max(1.0)).min(escalation_max);
            Some(this)
        });
        waits.sum::<Duration>().mul_f64(1.0 + jitter)
    }

    /// So many pings of a client were dropped, each because another one's entry was pending: more than one
    /// series may be needed, with a rekey after each and a wait before it.
    #[must_use]
    pub fn turns(&self, dropped: u32) -> Duration {
        let tries = self.gate.tries.min(self.gate.first_tries).max(1);
        let (full, rest) = (dropped / tries, dropped % tries);
        let waits: Duration = (0..full)
            .map(|n| match n {
                0 => Duration::ZERO,
                n => self
                    .gate
                    .escalation_backoff
                    .saturating_mul(1 << (n - 1).min(16))
                    .min(self.gate.escalation_max),
            })
            .sum();
        full * (self.series(tries) + self.patience())
            + waits.mul_f64(1.0 + self.gate.jitter)
            + self.series(rest)
    }

    /// So many fresh SPIs of a client in vain, each because the NAT took it for another one's.
    #[must_use]
    pub fn shifts(&self, lost: u32) -> Duration {
        self.turns(lost * self.gate.tries.min(self.gate.first_tries).max(1))
    }

    /// From the fault to the first ping, on a tunnel that receives.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let idle = self.gate.idle.clone().unwrap_or_default();
        2 * idle.tick + idle.silence
    }

    /// The same on one that only sends, without the wait for its first packet.
    #[must_use]
    pub fn unanswered(&self) -> Duration {
        let idle = self.gate.idle.clone().unwrap_or_default();
        2 * idle.tick + idle.unanswered
    }

    /// Between two pings of a quiet tunnel, whose traffic is looked at less often.
    #[must_use]
    pub fn between_idle_pings(&self) -> Duration {
        let idle = self.gate.idle.clone().unwrap_or_default();
        idle.silence_max + 4 * idle.tick
    }

    /// Until the pings on an epoch that had been proven are given up.
    #[must_use]
    pub fn suspect(&self) -> Duration {
        self.series(self.gate.suspect_tries)
    }

    /// Until a rekey without an answer is given up for a new IKE SA.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.gate.rekey_patience
    }

    /// Between two attempts to set up an IKE SA.
    #[must_use]
    pub fn retry(&self) -> Duration {
        RETRY_MAX
    }

    /// From the last request of an attempt until it is given up.
    #[must_use]
    pub fn attempt(&self) -> Duration {
        let retransmit = Retransmit::default();
        let patience = retransmit.timeout * CONNECT_PATIENCE;
        let (mut last, mut wait) = (Duration::ZERO, retransmit.timeout);
        // Repetitions may be a tenth early.
        while last + wait.mul_f64(0.9) < patience {
            last += wait.mul_f64(0.9);
            wait = wait.mul_f64(retransmit.base).min(retransmit.limit);
        }
        patience - last
    }
}

impl Bound {
    /// That of a run.
    #[must_use]
    pub fn of(setting: &Setting) -> Self {
        let longest = Longest::default();
        let others = u32::try_from(setting.clients.saturating_sub(1)).unwrap_or(u32::MAX);
        let esp = setting.encap == EncapMode::Esp;
        let shared = setting.pair.nat.filter(|_| esp && others > 0);
        let serialised = shared.is_some_and(nat::serialises);
        let crossed = shared.is_some_and(nat::guesses);

        let mut bound = Self::default();
        let mut add = |name, times, each: Duration| {
            if times == 0 || each.is_zero() {
                return;
            }
            match bound.0.iter_mut().find(|term| term.name == name) {
                Some(term) => term.times += times,
                None => bound.0.push(Term { name, times, each }),
            }
        };
        let (p, r) = (setting.period, setting.rtt);
        let notice = |add: &mut dyn FnMut(&'static str, u32, Duration)| match setting.flows {
            Flows::C2s => {
                add("P", 1, p);
                add("unanswered", 1, longest.unanswered());
            }
            Flows::S2c | Flows::Both => add("silence", 1, longest.silence()),
        };
        let new_session = |add: &mut dyn FnMut(&'static str, u32, Duration)| {
            add("suspect", 1, longest.suspect());
            // The rekey is answered: no such IKE SA.
            add("R", 5, r);
        };
        match setting.pair.case {
            // The old epoch carries data until the new one is proven.
            Case::Race | Case::ServerRekeyIdle | Case::SameSpi => {}
            Case::Collision => {
                add("R", 4, r);
                if serialised {
                    add("turns", 1, longest.turns(others));
                }
                add("P", 1, p);
            }
            Case::Misbinding | Case::NatCrash | Case::Remap => {
                if setting.flows != Flows::C2s || crossed || serialised {
                    notice(&mut add);
                }
                let mut round_trips = 1;
                if crossed || serialised {
                    if setting.pair.case == Case::Misbinding {
                        // The first ping was answered, and the next silence is allowed to be longer.
                        add("silence", 1, longest.silence());
                        // A fresh SPI is taken for another one's as the one before was.
                        if shared.is_some_and(|model| nat::squelch(model).is_zero()) {
                            add("shifts", 1, longest.shifts(1));
                        }
                    }
                    add("suspect", 1, longest.suspect());
                    add("turns", 1, longest.turns(others));
                    if shared.is_some_and(|model| !nat::squelch(model).is_zero())
                        && setting.flows != Flows::S2c
                    {
                        add("squelch", 1, shared.map_or(Duration::ZERO, nat::squelch));
                        add("idle", 1, longest.between_idle_pings());
                    }
                    round_trips += 2;
                }
                add("R", round_trips, r);
                add("P", 1, p);
            }
            Case::Expiry => {
                let kept = setting.pair.nat.is_none_or(|model| {
                    nat::life(model, esp) > longest.between_idle_pings() + longest.suspect()
                });
                if !kept {
                    add("idle", 1, longest.between_idle_pings());
                    add("R", 1, r);
                    add("P", 1, p);
                }
            }
            Case::Squelch => {
                add("attempt", 1, longest.attempt());
                add("retry", 1, longest.retry());
                add("R", 5, r);
                if serialised {
                    add("pending", 1, shared.map_or(Duration::ZERO, nat::pending));
                    add("squelch", 1, shared.map_or(Duration::ZERO, nat::squelch));
                    add("turns", 1, longest.turns(others));
                }
                // Here a client's ping that meets no answer is not dropped: its entry takes another's SPI.
                if crossed && shared.is_some_and(|model| nat::squelch(model).is_zero()) {
                    add("shifts", 1, longest.shifts(others + SHIFTS));
                }
                add("P", 1, p);
            }
            Case::ServerRestart => {
                notice(&mut add);
                new_session(&mut add);
                if serialised {
                    add("turns", 1, longest.turns(others));
                }
                add("P", 1, p);
            }
            Case::ClientRestart => {
                add("R", 4, r);
                if serialised {
                    add("turns", 1, longest.turns(others));
                }
                add("P", 1, p);
            }
            Case::OneWayLoss => {
                let noted = esp
                    && setting
                        .pair
                        .nat
                        .is_some_and(|model| model != Model::StatefulFw);
                if noted && setting.flows != Flows::S2c {
                    // Data waits until a ping is answered.
                    add("idle", 1, longest.between_idle_pings());
                }
                add("R", 1, r);
                add("P", 1, p);
            }
        }
        bound
    }

    /// Until each of so many clients that start together is proven at both ends.
    #[must_use]
    pub fn of_crowd(nat: Option<Model>, encap: EncapMode, clients: usize, rtt: Duration) -> Self {
        let longest = Longest::default();
        let others = u32::try_from(clients.saturating_sub(1)).unwrap_or(u32::MAX);
        let esp = encap == EncapMode::Esp;
        let mut terms = vec![Term {
            name: "R",
            times: 5,
            each: rtt,
        }];
        let strangers = Strangers::default();
        if nat.is_some() && clients > strangers.half_open_per_source {
            terms.push(Term {
                name: "door",
                times: 1,
                each: DOOR + longest.attempt() + longest.retry(),
            });
        }
        if esp && nat.is_some_and(nat::serialises) {
            terms.push(Term {
                name: "turns",
                times: 1,
                each: longest.turns(others),
            });
        }
        Self(terms)
    }

    /// The sum.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.0.iter().map(|term| term.each * term.times).sum()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        for (n, term) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(" + ")?;
            }
            match term.times {
                1 => f.write_str(term.name)?,
                times => write!(f, "{times}·{}", term.name)?,
            }
        }
        Ok(())
    }
}
