//! How long traffic is away.

use std::time::Duration;

use super::{MS, SECOND, Setting};
use crate::sim::scenario::Stage;
use crate::sim::setup::Site;
use crate::sim::world::{Flow, Violation};

/// Traffic is back when it has come without a gap for so long.
const STEADY: Duration = Duration::from_secs(4);
/// How often that is looked at.
const GRAIN: Duration = Duration::from_millis(200);

/// A flow after a fault.
enum State {
    /// Packets come; the last gap ended at this time.
    SteadySince(Duration),
    /// A packet is overdue.
    Away,
}

/// A longer time between two packets is a gap: no packet is lost without one.
fn gap(setting: &Setting) -> Duration {
    setting.period + setting.period / 2 + 20 * MS
}

fn look(flow: &Flow, now: Duration, from: Duration, gap: Duration) -> State {
    let (mut before, mut steady) = (from, from);
    let after = flow.arrivals.partition_point(|at| *at < from);
    for at in &flow.arrivals[after..] {
        if *at - before > gap {
            steady = *at;
        }
        before = *at;
    }
    match now - before > gap {
        true => State::Away,
        false => State::SteadySince(steady),
    }
}

/// From the fault to the end of the last gap in any of the flows that are watched; `None` if one is still
/// open after `longest`.
pub fn measure(
    stage: &mut Stage,
    setting: &Setting,
    site: &Site,
    from: Duration,
    longest: Duration,
) -> Result<Option<Duration>, Violation> {
    let gap = gap(setting);
    let flows = setting.watched(site);
    loop {
        stage.world.run(GRAIN)?;
        let now = stage.world.now;
        let steady = flows
            .iter()
            .map(|at| look(&stage.world.flows[*at], now, from, gap))
            .try_fold(from, |latest, state| match state {
                State::SteadySince(since) => Some(latest.max(since)),
                State::Away => None,
            });
        match steady {
            Some(since) if now >= since + STEADY => return Ok(Some(since - from)),
            None if now > from + longest => return Ok(None),
            _ => {}
        }
        if now > from + longest + 10 * SECOND {
            return Ok(None);
        }
    }
}
