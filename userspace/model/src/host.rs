//! One end of one tunnel: the gate itself, and what a referee writes down about it.

use core::convert::Infallible;

use mitregate_esp::ids::EpochId;
use mitregate_gate::{Gate, State};
use rand_core::TryRng;

/// One end of one tunnel.
#[derive(Debug, Clone)]
pub struct Host {
    /// The real one.
    pub gate: Gate,
    /// The epoch that data goes out on.
    pub data_on: Option<EpochId>,
    /// By epoch, as long as its SAs are there.
    pub book: Vec<Record>,
}

/// What has arrived on an epoch, as seen from outside the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// The epoch.
    pub epoch: EpochId,
    /// Any packet.
    pub any: bool,
    /// A packet with data.
    pub data: bool,
    /// A ping of the other side.
    pub pinged: bool,
    /// An answer to a ping of our own.
    pub answered: bool,
}

impl Host {
    /// Without epochs.
    #[must_use]
    pub fn new(gate: Gate) -> Self {
        Self {
            gate,
            data_on: None,
            book: Vec::new(),
        }
    }

    /// The referee's page, if the SAs are installed.
    #[must_use]
    pub fn record(&self, epoch: EpochId) -> Option<&Record> {
        self.book.iter().find(|r| r.epoch == epoch)
    }

    pub(crate) fn record_mut(&mut self, epoch: EpochId) -> Option<&mut Record> {
        self.book.iter_mut().find(|r| r.epoch == epoch)
    }

    pub(crate) fn install(&mut self, epoch: EpochId) {
        self.book.push(Record {
            epoch,
            any: false,
            data: false,
            pinged: false,
            answered: false,
        });
    }

    pub(crate) fn retire(&mut self, epoch: EpochId) {
        self.book.retain(|r| r.epoch != epoch);
        if self.data_on == Some(epoch) {
            self.data_on = None;
        }
    }

    /// At most one epoch carries data and two wait to be proven.
    pub(crate) fn within_limits(&self) -> bool {
        let unproven =
            |e: &mitregate_gate::EpochView| e.proof.is_none() && e.state != State::Draining;
        self.gate.epochs().filter(unproven).count() <= 2
            && self.gate.epochs().filter(|e| e.active).count() <= 1
    }
}

/// What the gate takes for random: the identifier of an epoch's pings is the epoch's number.
pub(crate) struct Numbers(pub(crate) u16);

impl TryRng for Numbers {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let number = u32::from(self.0) << 16;
        self.0 = self.0.wrapping_add(1);
        Ok(number)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.try_next_u32().map(u64::from)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.fill(0);
        Ok(())
    }
}
