//! Ctrl-C, SIGTERM and SIGHUP: everything that waits here ends with an error, so that the usual
//! clean-up by `Drop` runs.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

static STOP: AtomicBool = AtomicBool::new(false);

/// Between two looks at whatever is waited for.
const TICK: Duration = Duration::from_millis(5);

/// Catch the signals from now on.
pub fn catch() -> Result<()> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).context("cannot catch signals")
}

/// An error once a signal has come.
pub fn check() -> Result<()> {
    if STOP.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleep, but not through a signal.
pub fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        check()?;
        thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
    }
    check()
}

/// Ask `look` until it has something, at most for that long.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    poll(what, TICK, limit, look)
}

/// The same, with a pause of `tick` between two looks that cost something.
pub fn poll<T>(
    what: &str,
    tick: Duration,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        check()?;
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for {what}", limit.as_secs_f32());
        }
        thread::sleep(tick);
    }
}
