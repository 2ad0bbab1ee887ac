//! The one clock: CLOCK_BOOTTIME, which goes on counting while the machine sleeps.

use std::io;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Time since the machine was started, sleep included.
pub fn now() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// Time since 1970-01-01 00:00 UTC by the wall clock, which an administrator or NTP may set at any time.
pub fn unix_time() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// How long the machine has slept since it was started.
pub fn slept() -> Duration {
    let awake = rustix::time::clock_gettime(ClockId::Monotonic);
    let awake = Duration::new(
        u64::try_from(awake.tv_sec).unwrap_or(0),
        u32::try_from(awake.tv_nsec).unwrap_or(0),
    );
    now().saturating_sub(awake)
}

/// A timer on that clock (tokio's own stand still while the machine sleeps).
pub struct Timer {
    fd: AsyncFd<OwnedFd>,
    armed: Option<Duration>,
}

impl Timer {
    /// Not armed. Must be made within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let fd = rustix::time::timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        // Deprecated for types that lie about their descriptor; OwnedFd does not.
        #[allow(deprecated)]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { fd, armed: None })
    }

    /// Rings at `deadline` (also one in the past: at once), or never.
    pub fn set(&mut self, deadline: Option<Duration>) -> io::Result<()> {
        if deadline == self.armed {
            return Ok(());
        }
        let value = match deadline {
            None => Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            // A time of zero would disarm.
            Some(at) => Timespec {
                tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(at.subsec_nanos().max(1)),
            },
        };
        let spec = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: value,
        };
        rustix::time::timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::ABSTIME, &spec)?;
        self.armed = deadline;
        Ok(())
    }

    /// Waits until it rings; for ever if it is not armed. Safe to cancel.
    pub async fn ring(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.fd.readable_mut().await?;
            let mut expirations = [0; 8];
            let read = guard.try_io(|fd| {
                rustix::io::read(fd.get_ref(), &mut expirations).map_err(io::Error::from)
            });
            if let Ok(result) = read {
                result?;
                self.armed = None;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_timer_rings_at_its_time_and_once() {
        let mut timer = Timer::new().unwrap();
        let start = now();
        timer.set(Some(start + Duration::from_millis(30))).unwrap();
        timer.ring().await.unwrap();
        assert!(now() >= start + Duration::from_millis(30));
        let again = tokio::time::timeout(Duration::from_millis(30), timer.ring()).await;
        assert!(again.is_err());
        timer.set(Some(Duration::ZERO)).unwrap();
        timer.ring().await.unwrap();
        timer.set(Some(now() + Duration::from_secs(60))).unwrap();
        timer.set(None).unwrap();
        let disarmed = tokio::time::timeout(Duration::from_millis(30), timer.ring()).await;
        assert!(disarmed.is_err());
    }
}
