//! Inbound SPI → slot of its epoch.

/// Open addressing with linear probing, at most half full, in one allocation made at the start.
///
/// Our SPIs are random in their low 24 bits and nobody else chooses them, so those bits are the
/// hash.
pub(crate) struct SpiTable {
    /// (SPI, slot); SPI 0 is reserved (RFC 4303 §2.1) and marks a free entry.
    entries: Box<[(u32, u32)]>,
    mask: usize,
    len: usize,
}

impl SpiTable {
    /// Room for `capacity` SPIs.
    pub(crate) fn new(capacity: usize) -> Self {
        let size = (capacity.max(4) * 2).next_power_of_two();
        Self {
            entries: vec![(0, 0); size].into(),
            mask: size - 1,
            len: 0,
        }
    }

    #[inline]
    pub(crate) fn get(&self, spi: u32) -> Option<u32> {
        let mut at = spi as usize & self.mask;
        loop {
            // `at` is below the length by the mask; `get` keeps the loop free of panics.
            match self.entries.get(at) {
                Some(&(key, slot)) if key == spi && key != 0 => return Some(slot),
                Some(&(0, _)) | None => return None,
                Some(_) => at = (at + 1) & self.mask,
            }
        }
    }

    /// `false` if the SPI is there already, is 0, or the table is full.
    pub(crate) fn insert(&mut self, spi: u32, slot: u32) -> bool {
        if spi == 0 || (self.len + 1) * 2 > self.entries.len() || self.get(spi).is_some() {
            return false;
        }
        let mut at = spi as usize & self.mask;
        while self.entries[at].0 != 0 {
            at = (at + 1) & self.mask;
        }
        self.entries[at] = (spi, slot);
        self.len += 1;
        true
    }

    /// Closes the gap that the entry leaves, so that no look-up stops too early.
    pub(crate) fn remove(&mut self, spi: u32) -> Option<u32> {
        self.get(spi)?;
        let mut gap = spi as usize & self.mask;
        while self.entries[gap].0 != spi {
            gap = (gap + 1) & self.mask;
        }
        let slot = self.entries[gap].1;
        let mut next = gap;
        loop {
            next = (next + 1) & self.mask;
            let (key, _) = self.entries[next];
            if key == 0 {
                break;
            }
            let home = key as usize & self.mask;
            // Move back what probing reaches only through the gap.
            if (next.wrapping_sub(home) & self.mask) >= (next.wrapping_sub(gap) & self.mask) {
                self.entries[gap] = self.entries[next];
                gap = next;
            }
        }
        self.entries[gap] = (0, 0);
        self.len -= 1;
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn behaves_like_a_map(ops in prop::collection::vec((any::<bool>(), 0u32..48, any::<u32>()), 0..400)) {
            let mut table = SpiTable::new(16);
            let mut model = BTreeMap::new();
            for (insert, key, value) in ops {
                // Few low bits, so that probes collide and wrap around the end.
                let spi = ((key / 16) << 24) | ((key % 16) * 2 + 1);
                if insert {
                    let fits = model.len() < 16 && !model.contains_key(&spi);
                    prop_assert_eq!(table.insert(spi, value), fits);
                    if fits {
                        model.insert(spi, value);
                    }
                } else {
                    prop_assert_eq!(table.remove(spi), model.remove(&spi));
                }
                for (spi, value) in &model {
                    prop_assert_eq!(table.get(*spi), Some(*value));
                }
            }
            prop_assert_eq!(table.get(0), None);
        }
    }
}
