//! A link: what it does to a packet that enters it.

use std::time::Duration;

use rand_core::Rng;

use crate::draw::{below, chance};

/// One link, the same in both directions but for what is cut.
#[derive(Debug, Clone)]
pub struct Link {
    /// From one end to the other.
    pub latency: Duration,
    /// At most so much more, drawn for each packet; nobody is overtaken.
    pub jitter: Duration,
    /// Per mille of packets that are lost.
    pub loss: u32,
    /// Per mille of packets that come twice.
    pub duplicate: u32,
    /// Per mille of packets that are held back and overtaken.
    pub reorder: u32,
    /// For at most so long.
    pub reorder_by: Duration,
    /// Longest IP packet, bytes.
    pub mtu: usize,
    /// The same upwards and downwards, where that is less.
    pub narrow: [Option<usize>; 2],
    /// Whoever sends a longer one that must not be cut up is told, as far as boxes let that pass.
    pub icmp: bool,
    /// A longer one is cut up, each fragment at its own risk, or dropped without a word. No host here
    /// puts fragments together: the data plane sees none of them, so each counts as lost.
    pub fragment: bool,
    /// Everything upwards is lost.
    pub cut_up: bool,
    /// Everything downwards is lost.
    pub cut_down: bool,
    /// Protocol 50 is dropped, upwards and downwards: what some networks do, and no fault that heals.
    pub no_esp: [bool; 2],
    /// When the last packet arrives, upwards and downwards.
    pub(super) last: [Duration; 2],
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0,
            duplicate: 0,
            reorder: 0,
            reorder_by: Duration::ZERO,
            mtu: 1500,
            narrow: [None; 2],
            icmp: false,
            fragment: false,
            cut_up: false,
            cut_down: false,
            no_esp: [false; 2],
            last: [Duration::ZERO; 2],
        }
    }
}

/// What becomes of a packet on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Crossing {
    /// Its copies arrive at these times.
    Arrives(Vec<Duration>),
    /// It does not arrive.
    Lost(&'static str),
}

impl Link {
    /// So long from one end to the other, and nothing else.
    #[must_use]
    pub fn after(latency: Duration) -> Self {
        Self {
            latency,
            ..Self::default()
        }
    }

    /// No loss, no copies, nobody overtaken.
    pub fn heal(&mut self) {
        (self.loss, self.duplicate, self.reorder) = (0, 0, 0);
        (self.cut_up, self.cut_down) = (false, false);
    }

    /// Longest IP packet that it takes this way.
    #[must_use]
    pub fn limit(&self, up: bool) -> usize {
        let narrow = self.narrow[usize::from(!up)];
        narrow.map_or(self.mtu, |narrow| narrow.min(self.mtu))
    }

    /// Sends a packet of `len` bytes over it.
    pub fn cross(&mut self, now: Duration, up: bool, len: usize, rng: &mut dyn Rng) -> Crossing {
        if if up { self.cut_up } else { self.cut_down } {
            return Crossing::Lost("cut");
        }
        if len > self.limit(up) {
            return Crossing::Lost(if self.fragment {
                "fragmented"
            } else {
                "too long"
            });
        }
        if chance(rng, self.loss) {
            return Crossing::Lost("lost");
        }
        let copies = 1 + usize::from(chance(rng, self.duplicate));
        let times = (0..copies).map(|_| self.arrival(now, up, rng)).collect();
        Crossing::Arrives(times)
    }

    fn arrival(&mut self, now: Duration, up: bool, rng: &mut dyn Rng) -> Duration {
        let at = now + self.latency + below(rng, self.jitter);
        if chance(rng, self.reorder) {
            return at + below(rng, self.reorder_by);
        }
        let last = &mut self.last[usize::from(up)];
        *last = at.max(*last);
        *last
    }
}
