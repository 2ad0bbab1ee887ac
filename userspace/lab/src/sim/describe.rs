//! Packets in words, as the RFCs write them.

use mitregate_wire::echo::{self, Echo, Kind};
use mitregate_wire::ike::{
    Delete, Header, Message, Notify, NotifyType, Payload, Proposal, ProtocolId,
};

use super::keys::KeyRing;
use super::packet::{Content, content};
use crate::nat::Packet;

/// How a packet is shown.
pub enum What {
    /// On a line of its own.
    Said(String),
    /// One of many.
    Data(String),
}

/// Says what is in a packet that `host` sent.
#[must_use]
pub fn packet(packet: &Packet, host: usize, ring: &KeyRing) -> What {
    match content(packet) {
        Content::Keepalive => What::Data("NAT keepalive".to_owned()),
        Content::Other => What::Data(format!("IP protocol {}", packet.protocol())),
        Content::Ike(message) => What::Said(ike(message, ring)),
        Content::Esp(bytes) => esp(bytes, host, ring),
    }
}

fn esp(bytes: &[u8], host: usize, ring: &KeyRing) -> What {
    let spi = bytes.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
    let opened = ring.esp.iter().rev().find_map(|(owner, pair)| {
        (*owner == host && pair.outbound.spi == spi).then(|| pair.outbound.open(bytes))?
    });
    let Some(opened) = opened else {
        return What::Data(format!("ESP {spi:08x} (no key)"));
    };
    if opened.next_header != echo::NEXT_HEADER {
        return What::Data(format!("ESP {spi:08x} data"));
    }
    let text = match Echo::new_checked(&opened.inner) {
        Ok(echo) => {
            let kind = match echo.kind {
                Kind::Request { .. } => "ping",
                Kind::Response => "pong",
            };
            format!("ESP {spi:08x} {kind} {}/{}", echo.id, echo.seq)
        }
        Err(_) => format!("ESP {spi:08x} AGGFRAG"),
    };
    What::Said(text)
}

/// `IKE_AUTH request 1 [12ab→34cd] HDR, SK {IDi, AUTH, SA, TSi, TSr}`
#[must_use]
pub fn ike(message: &[u8], ring: &KeyRing) -> String {
    let Ok(header) = Header::parse(message) else {
        return format!("{} bytes on IKE's port", message.len());
    };
    let kind = if header.flags.response {
        "response"
    } else {
        "request"
    };
    let short = |spi: mitregate_wire::ike::IkeSpi| spi.to_string()[..4].to_owned();
    let start = format!(
        "{} {kind} {} [{}→{}] HDR",
        header.exchange,
        header.message_id,
        short(header.spi_i),
        short(header.spi_r)
    );
    let Ok(outer) = Message::parse(message) else {
        return format!("{start} (malformed)");
    };
    let response = header.flags.response;
    let mut words: Vec<String> = Vec::new();
    for payload in &outer.payloads {
        words.push(match payload {
            Payload::Encrypted { .. } => match ring.open_ike(message) {
                Some(inner) => format!("SK {{{}}}", list(&inner, response)),
                None => "SK {?}".to_owned(),
            },
            payload => name(payload, response),
        });
    }
    format!("{start}, {}", words.join(", "))
}

fn list(payloads: &[Payload], response: bool) -> String {
    let words: Vec<_> = payloads.iter().map(|p| name(p, response)).collect();
    words.join(", ")
}

fn name(payload: &Payload, response: bool) -> String {
    let side = if response { 'r' } else { 'i' };
    match payload {
        Payload::Sa(proposals) => sa(proposals),
        Payload::KeyExchange(ke) => format!("KE{side}({})", ke.method),
        Payload::IdI(_) => "IDi".to_owned(),
        Payload::IdR(_) => "IDr".to_owned(),
        Payload::Certificate(_) => "CERT".to_owned(),
        Payload::CertificateRequest(_) => "CERTREQ".to_owned(),
        Payload::Authentication(_) => "AUTH".to_owned(),
        Payload::Nonce(_) => format!("N{side}"),
        Payload::Notify(notify) => notify_name(notify),
        Payload::Delete(Delete::Ike) => "D(IKE)".to_owned(),
        Payload::Delete(Delete::Esp(spis)) => {
            let spis: Vec<_> = spis.iter().map(|spi| format!("{spi:08x}")).collect();
            format!("D(ESP {})", spis.join(" "))
        }
        Payload::Delete(Delete::Ah(_)) => "D(AH)".to_owned(),
        Payload::VendorId(_) => "V".to_owned(),
        Payload::TsI(_) => "TSi".to_owned(),
        Payload::TsR(_) => "TSr".to_owned(),
        Payload::Configuration(cp) => {
            let kinds = ["?", "CFG_REQUEST", "CFG_REPLY", "CFG_SET", "CFG_ACK"];
            let kind = kinds.get(usize::from(cp.kind)).unwrap_or(&"?");
            format!("CP({kind})")
        }
        other => other.kind().to_string(),
    }
}

fn sa(proposals: &[Proposal]) -> String {
    match proposals.first() {
        Some(Proposal { protocol, spi, .. }) if !spi.is_empty() => {
            format!("SA({protocol} {})", hex(&spi[..spi.len().min(4)]))
        }
        _ => "SA".to_owned(),
    }
}

fn notify_name(notify: &Notify) -> String {
    let spi = match notify.protocol {
        ProtocolId::NONE => String::new(),
        _ if notify.spi.is_empty() => String::new(),
        protocol => format!(" {protocol} {}", hex(&notify.spi)),
    };
    // Both in every IKE_SA_INIT.
    let kind = match notify.kind {
        NotifyType::NAT_DETECTION_SOURCE_IP => "NATD_S".to_owned(),
        NotifyType::NAT_DETECTION_DESTINATION_IP => "NATD_D".to_owned(),
        kind => kind.to_string(),
    };
    format!("N({kind}{spi})")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
