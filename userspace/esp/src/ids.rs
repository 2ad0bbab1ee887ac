//! Who is who in one process: tunnels, epochs, workers, and whose an SPI is.

use core::fmt;

use mitregate_wire::esp::Spi;
use serde::{Deserialize, Serialize};

/// A configured relation to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TunnelId(pub u32);

/// One generation of a tunnel: an inbound and an outbound SA. Unique per run of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EpochId(pub u64);

/// A worker thread; at most [`WorkerId::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u8);

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl WorkerId {
    /// The last worker whose byte fits an SPI.
    pub const MAX: Self = Self(254);

    /// An inbound SPI that names this worker as its owner: worker + 1 in the top byte (so it is
    /// never a reserved one), `random` cut to 24 bits below. `None` beyond [`WorkerId::MAX`].
    #[must_use]
    pub fn inbound_spi(self, random: u32) -> Option<Spi> {
        let byte = self.0.checked_add(1)?;
        Spi::new(u32::from(byte) << 24 | random & 0x00ff_ffff)
    }

    /// The worker that an inbound SPI of ours names. `None` if its top byte is 0.
    #[must_use]
    pub fn owner_of(spi: Spi) -> Option<Self> {
        let [byte, ..] = spi.to_be_bytes();
        byte.checked_sub(1).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_spi_names_its_owner() {
        for worker in 0..=254 {
            for random in [0, 1, 0x00ff_ffff, u32::MAX] {
                let spi = WorkerId(worker).inbound_spi(random).unwrap();
                assert_eq!(WorkerId::owner_of(spi), Some(WorkerId(worker)));
            }
        }
        assert_eq!(WorkerId(255).inbound_spi(7), None);
        assert_eq!(WorkerId::owner_of(Spi::new(256).unwrap()), None);
    }
}
