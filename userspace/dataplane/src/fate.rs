//! Every packet ends in exactly one [`Fate`]: one variant, one counter, one label, one test.
//!
//! Labels use the words operators know from VPP where VPP has one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! fates {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal,)+) => {
        /// How a packet ended. The doc line of each variant says which packets it counts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Fate {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Fate {
            /// All fates, in the order of their counters.
            pub const ALL: &[Fate] = &[$(Fate::$variant),+];

            /// The counter's name.
            pub const fn label(self) -> &'static str {
                match self { $(Fate::$variant => $label,)+ }
            }

            /// What the counter counts, in one line.
            pub const fn doc(self) -> &'static str {
                match self { $(Fate::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

fates! {
    /// Inner packet, encrypted and handed to the outer port.
    Sealed = "sealed",
    /// ESP packet, decrypted and handed to the inner port.
    Opened = "opened",
    /// IKE, NAT keepalive, ICMP error or ESP Echo, handed to the control plane.
    ToControl = "to_control",
    /// Packet of the control plane (IKE, keepalive, ESP Echo), handed to the outer port.
    ControlSent = "control_sent",
    /// ICMP error made by the worker, handed to the inner port.
    IcmpSent = "icmp_sent",
    /// Authenticated dummy packet, dropped in silence (RFC 4303 §2.6).
    Dummy = "dummy",

    /// Frame that carries neither IPv4 nor IPv6, on a port that knows nothing else.
    NotIp = "not_ip",
    /// Ethernet, IP or UDP header that is truncated, lies about its length or fails its checksum.
    BadHeader = "bad_header",
    /// IP packet on the outer port that is neither ESP, IKE nor an ICMP error.
    NotOurs = "not_ours",
    /// Fragment on the outer port: nothing is reassembled there.
    Fragment = "fragment",

    /// ESP packet too short to be one.
    Runt = "runt",
    /// ESP packet whose SPI names no SA of ours.
    NoSpi = "no_spi",
    /// ESP packet for another worker's SA, with no way to hand it over.
    Stray = "stray",
    /// ESP packet whose sequence number was seen before or lies left of the window.
    Replay = "replay",
    /// ESP packet whose integrity check failed.
    IntegError = "integ_error",
    /// Authenticated ESP packet whose padding or trailer is wrong.
    BadPadding = "bad_padding",
    /// Authenticated ESP packet with a next header that nobody asked for.
    NextHeader = "next_header",
    /// Authenticated ESP packet whose inner IP header is malformed or lies about its length.
    BadInner = "bad_inner",
    /// Packet outside the selectors of its SA (RFC 4301 §5.2), either way.
    SelectorMismatch = "selector_mismatch",
    /// Outer CE on an inner packet that is not ECN-capable (RFC 6040 §4.2).
    EcnDrop = "ecn_drop",

    /// Inner packet whose TTL or hop limit does not allow another hop.
    TtlExpired = "ttl_expired",
    /// Inner packet that no tunnel's selectors take.
    NoTunnel = "no_tunnel",
    /// Inner packet too large for the outer path, with or without an ICMP error in return.
    TooBig = "too_big",
    /// Inner IPv4 packet too large for the outer path, cut into fragments that each end on their own.
    Fragmented = "fragmented",
    /// Held packet that gave way to a newer one, or for which the hold queue had no room.
    HoldOverflow = "hold_overflow",
    /// Held packet whose tunnel was removed.
    HoldDropped = "hold_dropped",
    /// Inner packet for an SA that has sent all it may, in packets or bytes (RFC 4301 §4.4.2.1).
    LifetimeOver = "lifetime_over",
    /// Packet for an SA whose sequence numbers are used up (RFC 4303 §3.3.3).
    SeqCycled = "seq_cycled",
    /// Control packet for an epoch that is gone.
    NoEpoch = "no_epoch",
    /// Control packet for an epoch whose next hop is not resolved.
    NoNeighbour = "no_neighbour",
    /// Packet whose frame has no room for the headers and trailer.
    NoRoom = "no_room",

    /// Packet for a port whose transmit ring and backlog are full.
    TxFull = "tx_full",
    /// Packet for the control plane, whose event ring or buffers are used up.
    ControlOverflow = "control_overflow",
    /// Packet that found no free frame to be copied or built in.
    NoFrames = "no_frames",
}

/// Number of fates.
pub const COUNT: usize = Fate::ALL.len();

/// One worker's counters: written by that worker alone, read by anybody at any time.
#[derive(Debug)]
#[repr(align(128))]
pub struct Fates {
    counts: [AtomicU64; COUNT],
}

impl Default for Fates {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; COUNT],
        }
    }
}

impl Fates {
    /// Counts one packet. Only the owning worker may call this: there is one writer, so a plain
    /// load and store does, without a locked instruction.
    #[inline]
    pub fn count(&self, fate: Fate) {
        self.add(fate, 1);
    }

    /// Counts `n` packets of one fate; as [`Fates::count`].
    #[inline]
    pub fn add(&self, fate: Fate, n: u64) {
        let counter = &self.counts[fate as usize];
        counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Packets that ended so.
    pub fn get(&self, fate: Fate) -> u64 {
        self.counts[fate as usize].load(Relaxed)
    }

    /// Every fate with its count. The counts are read one after another, not at one instant.
    pub fn iter(&self) -> impl Iterator<Item = (Fate, u64)> + '_ {
        Fate::ALL.iter().map(|&fate| (fate, self.get(fate)))
    }

    /// Sum over all fates.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, n)| n).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_are_unique_snake_case_and_documented() {
        let labels: BTreeSet<_> = Fate::ALL.iter().map(|f| f.label()).collect();
        assert_eq!(labels.len(), COUNT);
        for (index, fate) in Fate::ALL.iter().enumerate() {
            assert_eq!(*fate as usize, index);
            assert!(
                fate.label()
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c == '_')
            );
            assert!(fate.doc().ends_with('.'), "{}", fate.label());
        }
    }

    #[test]
    fn counts_add_up() {
        let fates = Fates::default();
        fates.count(Fate::Replay);
        fates.add(Fate::Sealed, 41);
        assert_eq!(
            (
                fates.get(Fate::Sealed),
                fates.get(Fate::Replay),
                fates.total()
            ),
            (41, 1, 42)
        );
    }
}
