//! What the XDP classifier and its loader share: the [`classify()`] function, map names, keys and
//! values.
//!
//! The same function runs inside the kernel on an XDP buffer and on the host on a byte slice: it
//! sees packets through [`Packet`] and its state through [`Tables`]. It never panics and never
//! reads past the frame; what does not parse is [`Verdict::Malformed`].
#![no_std]
#![forbid(unsafe_code)]

mod classify;
#[cfg(feature = "fixtures")]
pub mod fixtures;
mod ip;
mod packet;
mod verdict;

pub use classify::{Role, Tables, classify};
pub use packet::Packet;
pub use verdict::Verdict;

/// An address as a map key: IPv6, or IPv4 mapped into it (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2).
pub type AddressKey = [u8; 16];

/// What identifies the fragments of one datagram (RFC 791 §3.2, RFC 8200 §4.5): source (bytes
/// 0..16), destination (16..32), both as [`AddressKey`], and the identification (32..36, network
/// order; IPv4's 16 bits in the low half).
pub type FragmentKey = [u8; 36];

/// Value of [`maps::COUNTERS`], one per [`Verdict`] and CPU: at [`PACKETS`] every packet with that
/// verdict, at [`NO_SOCKET`] those of them that a socket should have had, but none was bound.
pub type Count = [u64; 2];
/// Index into [`Count`].
pub const PACKETS: usize = 0;
/// Index into [`Count`].
pub const NO_SOCKET: usize = 1;

/// Entries of [`maps::SOCKETS`]: receive queues `0..MAX_QUEUES` of a port can have a socket.
pub const MAX_QUEUES: u32 = 256;
/// Entries of [`maps::ADDRESSES`].
pub const MAX_ADDRESSES: u32 = 256;
/// Entries of [`maps::FRAGMENTS`]: datagrams whose later fragments are recognised at one time.
pub const MAX_FRAGMENTED: u32 = 1024;
/// How long a first fragment is remembered, in ns: Linux gives up reassembly after the same 30 s.
pub const FRAGMENT_LIFETIME_NS: u64 = 30_000_000_000;

/// Names of the maps in the object.
pub mod maps {
    /// XSKMAP: receive queue → AF_XDP socket.
    pub const SOCKETS: &str = "SOCKETS";
    /// HASH: [`AddressKey`](super::AddressKey) → `u32` (unused). Our own outer addresses.
    pub const ADDRESSES: &str = "ADDRESSES";
    /// LRU_HASH: [`FragmentKey`](super::FragmentKey) → `u64`, CLOCK_MONOTONIC ns when it was seen.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// PERCPU_ARRAY: [`Verdict`](super::Verdict) as `u32` → [`Count`](super::Count).
    pub const COUNTERS: &str = "COUNTERS";
}

/// Names of the XDP programs in the object.
pub mod programs {
    /// Program of [`Role::Outer`](super::Role::Outer).
    pub const OUTER: &str = "mitregate_outer";
    /// Program of [`Role::Inner`](super::Role::Inner).
    pub const INNER: &str = "mitregate_inner";
    /// Does nothing but pass: the bench's yardstick, only in the object without aya-log.
    pub const PASS: &str = "mitregate_pass";
}

/// The map key of an IPv4 address.
#[must_use]
#[inline(always)]
pub const fn ipv4_key(octets: [u8; 4]) -> AddressKey {
    let [a, b, c, d] = octets;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
