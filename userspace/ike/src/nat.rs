//! NAT detection, RFC 7296 §2.23.

use core::net::{IpAddr, SocketAddr};

use aws_lc_rs::digest;
use mitregate_wire::ike::{IkeSpi, Notify, NotifyType, Payload};
use rand_core::CryptoRng;

use crate::Nat;

/// SHA-1 of SPIs, address and port: a fingerprint that RFC 7296 fixes, not a protection.
fn hash(spi_i: IkeSpi, spi_r: IkeSpi, address: SocketAddr) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(&spi_i.0);
    context.update(&spi_r.0);
    match address.ip() {
        IpAddr::V4(ip) => context.update(&ip.octets()),
        IpAddr::V6(ip) => context.update(&ip.octets()),
    }
    context.update(&address.port().to_be_bytes());
    context.finish().as_ref().to_vec()
}

/// The two notifies of an IKE_SA_INIT message from `local` to `remote`. With `force`, the source
/// is one that no address has, so that the peer sees a NAT.
pub(crate) fn notifies(
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    local: SocketAddr,
    remote: SocketAddr,
    force: bool,
    rng: &mut dyn CryptoRng,
) -> [Payload; 2] {
    let mut source = hash(spi_i, spi_r, local);
    if force {
        rng.fill_bytes(&mut source);
    }
    let destination = hash(spi_i, spi_r, remote);
    [
        Payload::Notify(Notify::with_data(
            NotifyType::NAT_DETECTION_SOURCE_IP,
            source,
        )),
        Payload::Notify(Notify::with_data(
            NotifyType::NAT_DETECTION_DESTINATION_IP,
            destination,
        )),
    ]
}

/// What the notifies in a message from `remote` to `local` say; `None` from a peer that does not
/// know NAT traversal.
pub(crate) fn detect(
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    local: SocketAddr,
    remote: SocketAddr,
    payloads: &[Payload],
) -> Option<Nat> {
    // A host with several addresses may send several sources; one that fits is enough.
    let fits = |kind: NotifyType, expected: &[u8]| {
        let mut hashes = payloads.iter().filter_map(|payload| match payload {
            Payload::Notify(notify) if notify.kind == kind => Some(notify.data.as_slice()),
            _ => None,
        });
        let first = hashes.next()?;
        Some(first == expected || hashes.any(|hash| hash == expected))
    };
    let source = fits(
        NotifyType::NAT_DETECTION_SOURCE_IP,
        &hash(spi_i, spi_r, remote),
    )?;
    let destination = fits(
        NotifyType::NAT_DETECTION_DESTINATION_IP,
        &hash(spi_i, spi_r, local),
    )?;
    Some(Nat {
        local: !destination,
        remote: !source,
    })
}
