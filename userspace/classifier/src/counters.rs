use mitregate_ebpf_common::Verdict;

/// What happened with one [`Verdict`], summed over all CPUs since the program was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets with the verdict.
    pub packets: u64,
    /// Those of them that a socket should have had, but none was bound to the queue: passed to the
    /// kernel on an outer port, dropped on an inner one.
    pub no_socket: u64,
}

/// A reading of all counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters([Count; Verdict::ALL.len()]);

impl Counters {
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
