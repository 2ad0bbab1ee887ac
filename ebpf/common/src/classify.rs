use crate::{AddressKey, FragmentKey, Packet, Verdict};

/// Which side of the gateway a port is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The network: IPsec and IKE for our addresses go to the socket, all else stays the kernel's.
    Outer,
    /// Protected traffic: everything goes to the socket or is dropped, nothing passes.
    Inner,
}

/// The state that [`classify()`] looks at.
pub trait Tables {
    /// Whether an outer address is ours.
    fn is_ours(&self, address: &AddressKey) -> bool;
    /// Remember a first fragment, so that the later ones are recognised.
    fn remember(&self, key: &FragmentKey);
    /// The identification is in use for somebody else's datagram now.
    fn forget(&self, key: &FragmentKey);
    /// Whether the first fragment was remembered, at most [`crate::FRAGMENT_LIFETIME_NS`] ago.
    fn remembers(&self, key: &FragmentKey) -> bool;
}

/// Decide what a frame is.
pub fn classify<P: Packet + ?Sized, T: Tables>(role: Role, packet: &P, tables: &T) -> Verdict {
    match role {
        Role::Inner => Verdict::Inner,
        Role::Outer => outer(packet, tables).unwrap_or(Verdict::Malformed),
    }
}

fn outer<P: Packet + ?Sized, T: Tables>(packet: &P, _tables: &T) -> Option<Verdict> {
    packet.read::<14>(0)?;
    Some(Verdict::NotIp)
}
