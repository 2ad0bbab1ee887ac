//! What two Mitregates tell each other: vendor IDs (RFC 7296 §3.12) in IKE_SA_INIT, whose bytes
//! AUTH covers, and one notify in IKE_AUTH. Peers that know none of it ignore them.

use mitregate_wire::ike::{Notify, NotifyType, Payload};

use crate::config::{EncapMode, IkeConfig};

/// Without this one the others, and our private-range numbers, mean nothing.
const MITREGATE: &[u8] = b"Mitregate";
/// ESP stays on protocol 50, and IKE on port 500, also behind a NAT, if both say so.
const PLAIN_ESP_BEHIND_NAT: &[u8] = b"Mitregate: plain ESP behind NAT";
/// ESP takes protocol 50 or UDP 4500 at any time, each side by what its pings have proven, if both say so.
const ENCAP_BY_PROOF: &[u8] = b"Mitregate: encapsulation by proof";
/// And plain ESP may be asked for behind a NAT, too, if both say so.
const PROBES_BEHIND_NAT: &[u8] = b"Mitregate: probes behind NAT";
/// The sender starts all rekeys.
const OWNS_REKEYS: &[u8] = b"Mitregate: owns rekeys";

/// The vendor IDs of a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vendor {
    pub(crate) mitregate: bool,
    pub(crate) plain_esp_behind_nat: bool,
    pub(crate) encap_by_proof: bool,
    pub(crate) probes_behind_nat: bool,
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
            encap_by_proof: mitregate && has(ENCAP_BY_PROOF),
            probes_behind_nat: mitregate && has(PROBES_BEHIND_NAT),
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

/// Do we change between protocol 50 and UDP by proof? It takes pings, and who is configured for UDP does not.
pub(crate) fn offers_proof(config: &IkeConfig) -> bool {
    config.encap != EncapMode::Udp && config.announce.esp_echo
}

/// Our vendor IDs; `peer` is what a responder has seen.
pub(crate) fn vendor_ids(
    config: &IkeConfig,
    peer: Option<Vendor>,
) -> impl Iterator<Item = Payload> + use<> {
    let plain_esp = offers_plain_esp(config, peer);
    let by_proof = offers_proof(config);
    let behind_nat = by_proof && config.announce.probes_behind_nat;
    let owns_rekeys = config.announce.owns_rekeys;
    [
        Some(MITREGATE),
        plain_esp.then_some(PLAIN_ESP_BEHIND_NAT),
        by_proof.then_some(ENCAP_BY_PROOF),
        behind_nat.then_some(PROBES_BEHIND_NAT),
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
