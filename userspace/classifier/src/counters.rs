use std::borrow::Borrow;

use aya::maps::{MapData, MapError, PerCpuArray};
use mitregate_ebpf_common::{self as common, NO_SOCKET, PACKETS, Verdict};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

/// What happened with one [`Verdict`], summed over all CPUs since the program was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Packets with the verdict.
    pub packets: u64,
    /// Those of them that a socket should have had, but none was bound to the queue: passed to the
    /// kernel on an outer port, dropped on an inner one.
    pub no_socket: u64,
}

/// A reading of all counters. Serialises as a map from [`Verdict::label`] to [`Count`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters([Count; Verdict::ALL.len()]);

impl Counters {
    pub(crate) fn read<T: Borrow<MapData>>(
        map: &PerCpuArray<T, common::Count>,
    ) -> Result<Self, MapError> {
        let mut counters = Self::default();
        for verdict in Verdict::ALL {
            let sum = &mut counters.0[verdict as usize];
            for cpu in map.get(&verdict.index(), 0)?.iter() {
                sum.packets += cpu[PACKETS];
                sum.no_socket += cpu[NO_SOCKET];
            }
        }
        Ok(counters)
    }

    /// The counts of one verdict.
    #[must_use]
    pub fn get(&self, verdict: Verdict) -> Count {
        self.0[verdict as usize]
    }

    /// Every verdict with its counts.
    pub fn iter(&self) -> impl Iterator<Item = (Verdict, Count)> + '_ {
        Verdict::ALL.into_iter().zip(self.0)
    }
}

impl Serialize for Counters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (verdict, count) in self.iter() {
            map.serialize_entry(verdict.label(), &count)?;
        }
        map.end()
    }
}
