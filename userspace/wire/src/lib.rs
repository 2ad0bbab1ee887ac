//! Bytes to typed views and back: Ethernet, IP, UDP, ICMP, ESP, ESP Echo, IKEv2.
//!
//! A view is made by `new_checked`, which looks at every length and version field once; after
//! that its accessors cannot fail. A `Header` (or the value itself, where it is small) is the
//! owned counterpart: it is what `emit` writes, and what a view gives back, so that
//! `parse(emit(x)) == x`. No IO, no clock, no allocation on the paths that packets take.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod echo;
pub mod esp;
pub mod eth;
pub mod fragment;
pub mod frame;
pub mod icmp;
pub mod ike;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod selector;
pub mod tcp;
pub mod udp;

pub use eth::MacAddr;
pub use selector::TrafficSelector;

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Why bytes are not what they should be, or do not fit where they should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than the header, or than its own length field claims.
    #[error("truncated")]
    Truncated,
    /// A length field that contradicts itself (below the header's size, not a multiple, …).
    #[error("bad length field")]
    BadLength,
    /// Not the version or type that this view is for.
    #[error("unexpected version or type")]
    BadVersion,
    /// A field has a value that its specification forbids.
    #[error("malformed")]
    Malformed,
    /// The buffer to write into is too small, or a length does not fit its field.
    #[error("no room")]
    NoRoom,
}

/// The header `T` at the start of `bytes`, and what follows it.
fn split<T>(bytes: &[u8]) -> Result<(&T, &[u8]), WireError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::ref_from_prefix(bytes).map_err(|_| WireError::Truncated)
}

/// Same for a buffer that is to be written.
fn split_mut<T>(bytes: &mut [u8]) -> Result<(&mut T, &mut [u8]), WireError>
where
    T: FromBytes + zerocopy::IntoBytes + KnownLayout + Immutable + Unaligned,
{
    T::mut_from_prefix(bytes).map_err(|_| WireError::NoRoom)
}
