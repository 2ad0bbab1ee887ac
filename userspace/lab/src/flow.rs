//! Applications that keep trying while the daemon is dead. Whatever the kernel lets them send must
//! not leave in clear.

use std::{
    io::{self, ErrorKind, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use serde::Serialize;

use crate::netns::{Netns, join};

/// UDP discard (RFC 863); nobody need listen.
const DISCARD: u16 = 9;
/// Between two attempts.
const PACE: Duration = Duration::from_millis(2);
/// A TCP connection attempt sends its SYN at once; its answer is not waited for.
const CONNECT: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    attempts: AtomicU64,
    refused: AtomicU64,
}

/// What the applications met.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Attempts {
    /// Datagrams and connections tried.
    pub attempts: u64,
    /// Of those, the ones that the kernel refused at once.
    pub refused: u64,
}

impl std::ops::Sub for Attempts {
    type Output = Self;

    /// What came since an earlier look.
    fn sub(self, earlier: Self) -> Self {
        Attempts {
            attempts: self.attempts - earlier.attempts,
            refused: self.refused - earlier.refused,
        }
    }
}

/// Runs until [`Flow::stop`]: on each turn a datagram by a new socket, one by a socket that was
/// connected before, and now and then a new TCP connection.
pub struct Flow {
    tally: Arc<Tally>,
    thread: JoinHandle<Result<()>>,
}

impl Flow {
    /// Start on a host; every payload holds the marker.
    pub fn start(netns: &Netns, to: Ipv4Addr, marker: &[u8]) -> Result<Self> {
        let tally = Arc::new(Tally::default());
        let (counter, datagram) = (Arc::clone(&tally), marker.repeat(12));
        let thread = netns.spawn(move || {
            let target = SocketAddrV4::new(to, DISCARD);
            let old = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            let _ = old.connect(target);
            for turn in 0_u64.. {
                if counter.stop.load(Ordering::Relaxed) {
                    break;
                }
                counter.note(&old.send(&datagram).map(drop));
                counter.note(&fresh(target, &datagram));
                if turn % 16 == 0 {
                    counter.note(&tcp(target, &datagram));
                }
                thread::sleep(PACE);
            }
            Ok(())
        })?;
        Ok(Flow { tally, thread })
    }

    /// The tally until now.
    pub fn so_far(&self) -> Attempts {
        self.tally.read()
    }

    /// End it; the whole tally.
    pub fn stop(self) -> Result<Attempts> {
        self.tally.stop.store(true, Ordering::Relaxed);
        join(self.thread)?;
        Ok(self.tally.read())
    }
}

impl Tally {
    fn note(&self, result: &io::Result<()>) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        // A port that answers "unreachable" was reached.
        let refused = result.as_ref().is_err_and(|error| {
            !matches!(
                error.kind(),
                ErrorKind::ConnectionRefused | ErrorKind::TimedOut
            )
        });
        self.refused
            .fetch_add(u64::from(refused), Ordering::Relaxed);
    }

    fn read(&self) -> Attempts {
        Attempts {
            attempts: self.attempts.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

fn fresh(target: SocketAddrV4, datagram: &[u8]) -> io::Result<()> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?
        .send_to(datagram, target)
        .map(drop)
}

fn tcp(target: SocketAddrV4, payload: &[u8]) -> io::Result<()> {
    TcpStream::connect_timeout(&target.into(), CONNECT)?.write_all(payload)
}
