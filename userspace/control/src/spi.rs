//! Inbound SPIs: random, unique, and naming their worker.

use std::collections::BTreeSet;

use mitregate_esp::WorkerId;
use mitregate_ike::SpiAllocator;
use mitregate_wire::esp::Spi;
use rand_core::CryptoRng;

/// All inbound SPIs in use.
pub(crate) struct Spis {
    worker: WorkerId,
    used: BTreeSet<Spi>,
    /// Taken before one is drawn.
    chosen: Option<Spi>,
}

/// Draws before giving up: with half of all 2^24 SPIs in use, one in 2^64 calls fails.
const DRAWS: usize = 64;

impl Spis {
    pub(crate) fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            used: BTreeSet::new(),
            chosen: None,
        }
    }

    /// The next SPI is this one, if it is free.
    pub(crate) fn choose(&mut self, spi: Spi) {
        self.chosen = Some(spi);
    }
}

impl SpiAllocator for Spis {
    fn allocate(&mut self, rng: &mut dyn CryptoRng) -> Option<Spi> {
        if let Some(spi) = self.chosen.take()
            && self.used.insert(spi)
        {
            return Some(spi);
        }
        (0..DRAWS).find_map(|_| {
            let spi = self.worker.inbound_spi(rng.next_u32())?;
            self.used.insert(spi).then_some(spi)
        })
    }

    fn release(&mut self, spi: Spi) {
        self.used.remove(&spi);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn spis_are_unique_name_their_worker_and_come_back() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut spis = Spis::new(WorkerId(3));
        let all: BTreeSet<_> = (0..20_000)
            .filter_map(|_| spis.allocate(&mut rng))
            .collect();
        assert_eq!(all.len(), 20_000);
        assert!(
            all.iter()
                .all(|spi| WorkerId::owner_of(*spi) == Some(WorkerId(3)))
        );
        for spi in &all {
            spis.release(*spi);
        }
        assert!(spis.used.is_empty());
    }
}
