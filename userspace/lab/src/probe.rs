//! Numbered datagrams one way, counted where they arrive.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::net::sockopt;

use crate::{
    netns::{Netns, join},
    payload,
};

/// For what is still under way when the last one has been sent.
const STRAGGLERS: Duration = Duration::from_secs(1);
const TAG: usize = 8;
/// Bytes that may wait for a receiver which the machine does not let run: none of ours is lost there.
const RECEIVE_BUFFER: usize = 8 << 20;
/// A sender that was not let run catches up on so many at once, not on more: a burst would overflow
/// queues that a steady flow does not fill.
const BURST: u32 = 20;

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Datagrams that the application handed over; those that the kernel refused are among them.
    pub sent: usize,
    /// Of those, how many arrived.
    pub received: usize,
    /// Arrived once more.
    pub duplicates: usize,
    /// The longest time without an arrival, from the first to the last.
    pub gap: Duration,
    /// The longest run of numbers of which none arrived.
    pub hole: usize,
}

impl Tally {
    /// Every one arrived, once.
    pub fn is_complete(&self) -> bool {
        self.lacks_at_most(0)
    }

    /// Every one arrived but so many, none twice.
    pub fn lacks_at_most(&self, allowed: usize) -> bool {
        self.sent > allowed && self.received + allowed >= self.sent && self.duplicates == 0
    }
}

/// When each datagram was sent and came, for those who look at more than totals.
#[derive(Clone, Debug)]
pub struct Trace {
    /// By number: when the application handed it over.
    pub sent: Vec<Instant>,
    /// By number: when it came first. Never longer than `sent`.
    pub arrived: Vec<Option<Instant>>,
    /// Arrived once more.
    pub duplicates: usize,
}

impl Trace {
    /// The longest time without an arrival between `from` and `until`, and when it began. What was
    /// there before `from` is not counted; a silence that lasts until the end is.
    pub fn longest_gap(&self, from: Instant, until: Instant) -> (Instant, Duration) {
        let mut times: Vec<_> = self.arrived.iter().flatten().copied().collect();
        times.sort();
        let inside = times.into_iter().filter(|at| (from..until).contains(at));
        let mut longest = (from, Duration::ZERO);
        let mut last = from;
        for at in inside.chain([until]) {
            if at - last > longest.1 {
                longest = (last, at - last);
            }
            last = at;
        }
        longest
    }

    /// How many that were sent between `from` and `until` never arrived.
    pub fn lost(&self, from: Instant, until: Instant) -> usize {
        let missing = |number: usize| !matches!(self.arrived.get(number), Some(Some(_)));
        let sent = self.sent.iter().enumerate();
        sent.filter(|(number, at)| (from..until).contains(*at) && missing(*number))
            .count()
    }

    /// The totals.
    pub fn tally(&self) -> Tally {
        let mut times: Vec<_> = self.arrived.iter().flatten().copied().collect();
        times.sort();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        let (mut hole, mut run) = (0, 0);
        for number in 0..self.sent.len() {
            run = match self.arrived.get(number) {
                Some(Some(_)) => 0,
                _ => run + 1,
            };
            hole = hole.max(run);
        }
        Tally {
            sent: self.sent.len(),
            received: times.len(),
            duplicates: self.duplicates,
            gap: gaps.max().unwrap_or_default(),
            hole,
        }
    }
}

/// Arrivals: when each number came first, and how many came again.
struct Arrived {
    first: Vec<Option<Instant>>,
    duplicates: usize,
}

/// Tells a sender to end, also when nobody asks for what became of it.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stream from one host to another; ends when told, or after a number of datagrams.
pub struct Probe {
    stop: Stop,
    sent_all: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    sender: JoinHandle<Result<Vec<Instant>>>,
    receiver: JoinHandle<Result<Arrived>>,
}

impl Probe {
    /// `count` datagrams (none: until [`Probe::stop`]), one per `pace`, of 40 to 1200 bytes.
    pub fn start(
        (from, source): (&Netns, Ipv4Addr),
        (to, target): (&Netns, Ipv4Addr),
        port: u16,
        count: Option<usize>,
        pace: Duration,
    ) -> Result<Self> {
        let mut tag = [0; TAG];
        std::io::Read::read_exact(&mut payload::random()?, &mut tag)?;
        let stop = Arc::new(AtomicBool::new(false));
        let sent_all = Arc::new(AtomicBool::new(false));
        let socket = to.run(move || {
            let socket = UdpSocket::bind((target, port))
                .with_context(|| format!("cannot listen on {target}"))?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
            Ok(socket)
        })?;
        let arrivals = Arc::new(AtomicUsize::new(0));
        let (done, counter) = (Arc::clone(&sent_all), Arc::clone(&arrivals));
        let receiver = thread::spawn(move || receive(&socket, &tag, &done, &counter));
        let (ended, done) = (Arc::clone(&stop), Arc::clone(&sent_all));
        let sender = from.spawn(move || {
            // Whatever happens here, the other end must stop waiting.
            let sent = send((source, target, port), &tag, count, pace, &ended);
            done.store(true, Ordering::Relaxed);
            sent
        })?;
        Ok(Probe {
            stop: Stop(stop),
            sent_all,
            count: arrivals,
            sender,
            receiver,
        })
    }

    /// How many have arrived so far.
    pub fn arrived(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Send no more, and count.
    pub fn stop(self) -> Result<Tally> {
        self.stop.0.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Wait for the last one, and count.
    pub fn wait(self) -> Result<Tally> {
        Ok(self.end()?.tally())
    }

    /// Send no more; when each was sent and came.
    pub fn trace(self) -> Result<Trace> {
        self.stop.0.store(true, Ordering::Relaxed);
        self.end()
    }

    /// The same of several, which all end now.
    pub fn traces(probes: impl IntoIterator<Item = Self>) -> Result<Vec<Trace>> {
        let probes: Vec<_> = probes.into_iter().collect();
        for probe in &probes {
            probe.stop.0.store(true, Ordering::Relaxed);
        }
        probes.into_iter().map(Self::end).collect()
    }

    fn end(self) -> Result<Trace> {
        let sent = join(self.sender);
        self.sent_all.store(true, Ordering::Relaxed);
        let arrived = join(self.receiver)?;
        Ok(Trace {
            sent: sent?,
            arrived: arrived.first,
            duplicates: arrived.duplicates,
        })
    }
}

fn send(
    (source, target, port): (Ipv4Addr, Ipv4Addr, u16),
    tag: &[u8; TAG],
    count: Option<usize>,
    pace: Duration,
    stop: &AtomicBool,
) -> Result<Vec<Instant>> {
    let socket = UdpSocket::bind((source, 0))
        .with_context(|| format!("cannot send from {source}: nobody has that address"))?;
    let mut due = Instant::now();
    let mut sent = Vec::with_capacity(count.unwrap_or(4096));
    while !stop.load(Ordering::Relaxed) && count.is_none_or(|count| sent.len() < count) {
        let number = sent.len();
        let mut datagram = [&tag[..], &u64::try_from(number)?.to_be_bytes()].concat();
        datagram.resize(40 + number * 37 % 1161, 0x2e);
        sent.push(Instant::now());
        // Without a tunnel there is no way, and that is as it must be: it counts as lost.
        let _ = socket.send_to(&datagram, (target, port));
        let now = Instant::now();
        due = (due + pace).max(now.checked_sub(pace * BURST).unwrap_or(now));
        thread::sleep(due.saturating_duration_since(now));
    }
    Ok(sent)
}

fn receive(
    socket: &UdpSocket,
    tag: &[u8; TAG],
    sent_all: &AtomicBool,
    count: &AtomicUsize,
) -> Result<Arrived> {
    let mut arrived = Arrived {
        first: Vec::new(),
        duplicates: 0,
    };
    let mut buffer = [0; 2048];
    let mut last = Instant::now();
    // Until the sender has ended and nothing has come for a while.
    while !sent_all.load(Ordering::Relaxed) || last.elapsed() < STRAGGLERS {
        let running = !sent_all.load(Ordering::Relaxed);
        let Ok(length) = socket.recv(&mut buffer) else {
            if running {
                last = Instant::now();
            }
            continue;
        };
        let Some(number) = number(&buffer[..length], tag) else {
            continue;
        };
        last = Instant::now();
        if arrived.first.len() <= number {
            arrived.first.resize(number + 1, None);
        }
        match &mut arrived.first[number] {
            Some(_) => arrived.duplicates += 1,
            none => {
                *none = Some(last);
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(arrived)
}

fn number(datagram: &[u8], tag: &[u8; TAG]) -> Option<usize> {
    let number = datagram.strip_prefix(tag)?.first_chunk()?;
    // Far above what any case sends.
    usize::try_from(u64::from_be_bytes(*number))
        .ok()
        .filter(|number| *number < 1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn what_is_missing_is_counted() {
        let start = Instant::now();
        let some = |ms| Some(at(start, ms));
        let trace = Trace {
            sent: (0..7).map(|number| at(start, 10 * number)).collect(),
            arrived: vec![some(1), None, None, some(31), some(45), None],
            duplicates: 1,
        };
        let tally = trace.tally();
        assert_eq!((tally.sent, tally.received, tally.duplicates), (7, 3, 1));
        assert_eq!((tally.gap, tally.hole), (Duration::from_millis(30), 2));
        assert!(!tally.is_complete());
        assert_eq!(trace.lost(start, at(start, 100)), 4);
        assert_eq!(trace.lost(at(start, 10), at(start, 20)), 1);
        let gap = |from, until| trace.longest_gap(at(start, from), at(start, until));
        assert_eq!(gap(0, 60), (at(start, 1), Duration::from_millis(30)));
        assert_eq!(gap(40, 60), (at(start, 45), Duration::from_millis(15)));
        assert_eq!(gap(46, 60), (at(start, 46), Duration::from_millis(14)));
    }

    #[test]
    fn nothing_sent_is_not_complete() {
        let trace = Trace {
            sent: Vec::new(),
            arrived: Vec::new(),
            duplicates: 0,
        };
        assert!(!trace.tally().is_complete());
    }

    #[test]
    fn only_our_own_numbers_count() {
        let tag = [7; TAG];
        let mut datagram = [&tag[..], &9_u64.to_be_bytes(), b"rest"].concat();
        assert_eq!(number(&datagram, &tag), Some(9));
        assert_eq!(number(&datagram[..12], &tag), None);
        assert_eq!(number(&datagram, &[8; TAG]), None);
        datagram[TAG] = 1;
        assert_eq!(number(&datagram, &tag), None);
    }
}
