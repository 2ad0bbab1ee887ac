//! Numbered datagrams one way, counted where they arrive.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    netns::{Netns, join},
    payload,
};

/// For what is still under way when the last one has been sent.
const STRAGGLERS: Duration = Duration::from_secs(1);
const TAG: usize = 8;

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

/// Arrivals: when each number came first, and how many came again.
struct Arrived {
    first: Vec<Option<Instant>>,
    duplicates: usize,
}

/// A stream from one host to another; ends when told, or after a number of datagrams.
pub struct Probe {
    stop: Arc<AtomicBool>,
    sent_all: Arc<AtomicBool>,
    sender: JoinHandle<Result<usize>>,
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
            Ok(socket)
        })?;
        let done = Arc::clone(&sent_all);
        let receiver = thread::spawn(move || receive(&socket, &tag, &done));
        let (ended, done) = (Arc::clone(&stop), Arc::clone(&sent_all));
        let sender = from.spawn(move || {
            // Whatever happens here, the other end must stop waiting.
            let sent = send((source, target, port), &tag, count, pace, &ended);
            done.store(true, Ordering::Relaxed);
            sent
        })?;
        Ok(Probe {
            stop,
            sent_all,
            sender,
            receiver,
        })
    }

    /// Send no more, and count.
    pub fn stop(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Wait for the last one, and count.
    pub fn wait(self) -> Result<Tally> {
        let sent = join(self.sender);
        self.sent_all.store(true, Ordering::Relaxed);
        let arrived = join(self.receiver)?;
        Ok(tally(sent?, &arrived))
    }
}

fn send(
    (source, target, port): (Ipv4Addr, Ipv4Addr, u16),
    tag: &[u8; TAG],
    count: Option<usize>,
    pace: Duration,
    stop: &AtomicBool,
) -> Result<usize> {
    let socket = UdpSocket::bind((source, 0))
        .with_context(|| format!("cannot send from {source}: nobody has that address"))?;
    let start = Instant::now();
    let mut sent = 0_usize;
    while !stop.load(Ordering::Relaxed) && count.is_none_or(|count| sent < count) {
        let mut datagram = [&tag[..], &u64::try_from(sent)?.to_be_bytes()].concat();
        datagram.resize(40 + sent * 37 % 1161, 0x2e);
        // Without a tunnel there is no way, and that is as it must be: it counts as lost.
        let _ = socket.send_to(&datagram, (target, port));
        sent += 1;
        let next = start + pace * u32::try_from(sent)?;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, tag: &[u8; TAG], sent_all: &AtomicBool) -> Result<Arrived> {
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
            none => *none = Some(last),
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

fn tally(sent: usize, arrived: &Arrived) -> Tally {
    let mut times: Vec<_> = arrived.first.iter().flatten().copied().collect();
    times.sort();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let (mut hole, mut run) = (0, 0);
    for number in 0..sent {
        run = match arrived.first.get(number) {
            Some(Some(_)) => 0,
            _ => run + 1,
        };
        hole = hole.max(run);
    }
    Tally {
        sent,
        received: times.len(),
        duplicates: arrived.duplicates,
        gap: gaps.max().unwrap_or_default(),
        hole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_what_is_missing() {
        let now = Instant::now();
        let at = |ms| Some(now + Duration::from_millis(ms));
        let arrived = Arrived {
            first: vec![at(0), None, None, at(30), at(35), None],
            duplicates: 1,
        };
        let tally = tally(7, &arrived);
        assert_eq!((tally.sent, tally.received, tally.duplicates), (7, 3, 1));
        assert_eq!((tally.gap, tally.hole), (Duration::from_millis(30), 2));
        assert!(!tally.is_complete());
    }

    #[test]
    fn nothing_sent_is_not_complete() {
        let arrived = Arrived {
            first: Vec::new(),
            duplicates: 0,
        };
        assert!(!tally(0, &arrived).is_complete());
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
