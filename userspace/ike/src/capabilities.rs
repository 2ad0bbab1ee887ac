//! What two Mitregates tell each other: vendor IDs (RFC 7296 §3.12) in IKE_SA_INIT, whose bytes
//! AUTH covers, and one notify in IKE_AUTH. Peers that know none of it ignore them.

use mitregate_wire::ike::{Notify, NotifyType, Payload};

use crate::config::{EncapMode, IkeConfig};

/// Without this one the others, and our private-range numbers, mean nothing.
const MITREGATE: &[u8] = b"Mitregate";
/// ESP stays on protocol 50, and IKE on port 500, also behind a NAT, if both say so.
const PLAIN_ESP_BEHIND_NAT: &[u8] = b"Mitregate: plain ESP behind NAT";
/// The sender starts all rekeys.
const OWNS_REKEYS: &[u8] = b"Mitregate: owns rekeys";

/// The vendor IDs of a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vendor {
    pub(crate) mitregate: bool,
    pub(crate) plain_esp_behind_nat: bool,
    pub(crate) owns_rekeys: bool,
}

impl Vendor {
    pub(crate) fn of(payloads: &[Payload]) -> Self {
        let has = |id: &[u8]| {
            payloads
                .iter()
                .any(|p| matches!(p, Payload::VendorId(body) if body == id))
        };
        let mitregate = has(MITREGATE);
        Self {
            mitregate,
            plain_esp_behind_nat: mitregate && has(PLAIN_ESP_BEHIND_NAT),
            owns_rekeys: mitregate && has(OWNS_REKEYS),
        }
    }
}

/// Do we say that we do plain ESP behind a NAT? An initiator asks for it when configured so; a
/// responder (which has seen `peer`) agrees unless configured for UDP.
pub(crate) fn offers_plain_esp(config: &IkeConfig, peer: Option<Vendor>) -> bool {
    match (config.encap, peer) {
        (EncapMode::Udp, _) | (EncapMode::Auto, None) => false,
        (EncapMode::Esp, None) => true,
        (EncapMode::Auto | EncapMode::Esp, Some(peer)) => peer.plain_esp_behind_nat,
    }
}

/// Our vendor IDs; `peer` is what a responder has seen.
pub(crate) fn vendor_ids(
    config: &IkeConfig,
    peer: Option<Vendor>,
) -> impl Iterator<Item = Payload> + use<> {
    let plain_esp = offers_plain_esp(config, peer);
    let owns_rekeys = config.announce.owns_rekeys;
    [
        Some(MITREGATE),
        plain_esp.then_some(PLAIN_ESP_BEHIND_NAT),
        owns_rekeys.then_some(OWNS_REKEYS),
    ]
    .into_iter()
    .flatten()
    .map(|id| Payload::VendorId(id.to_vec()))
}

/// The notify that we answer ESP Echo, for a peer that knows our number for it.
pub(crate) fn esp_echo(config: &IkeConfig, peer: Vendor) -> Option<Payload> {
    (config.announce.esp_echo && peer.mitregate)
        .then(|| Payload::Notify(Notify::new(NotifyType::ENCRYPTED_PING_SUPPORTED)))
}
