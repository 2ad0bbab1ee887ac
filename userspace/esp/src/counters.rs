//! What an SA has done, readable from another thread.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A count with one writer and any number of readers. The writer pays a plain load and store.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only its one writer calls this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Replaces the value; only its one writer calls this.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value as last seen by this thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// An inner packet is large beyond so many bytes: the path of another one may carry that one only.
pub const LARGE: usize = 512;

/// Counters of one epoch: its inbound and its outbound SA. Packets and bytes are those of inner IP
/// packets; what the gate sends and answers (ESP Echo) is not traffic and not counted.
/// On cache lines of their own, so that readers do not slow the neighbours' writers.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct SaCounters {
    /// Packets opened and accepted.
    pub packets_in: Counter,
    /// Their inner bytes.
    pub bytes_in: Counter,
    /// Packets sealed and handed to the port.
    pub packets_out: Counter,
    /// Their inner bytes.
    pub bytes_out: Counter,
    /// Of these, packets above [`LARGE`].
    pub large_out: Counter,
    /// Packets refused as replayed or too old.
    pub replays: Counter,
    /// Packets whose ICV was wrong.
    pub integrity_failures: Counter,
    /// CLOCK_BOOTTIME of the last packet accepted, ESP Echo included, in nanoseconds
    /// since the worker's origin; 0: none.
    pub last_in_ns: Counter,
    /// The same for the last packet sent to where its epoch's packets go.
    pub last_out_ns: Counter,
}
