//! What a peer offers and what we would take, for the one line in a log that says why there is no
//! common proposal.

use core::fmt::{self, Display};

use mitregate_wire::ike::{
    EncryptionId, EsnId, IntegrityId, KeyExchangeId, PrfId, Proposal, ProtocolId, Transform,
    TransformType,
};

use super::algorithms::{AesBits, Group, Integrity, Prf, additional_type, aes_cbc, integrity, prf};

/// A peer may offer 255 proposals of 255 transforms: a line is no longer than this, in bytes.
const MAX_LEN: usize = 600;

/// A peer's proposals in swanctl's words, or in the registry's names where there is no such word.
pub(crate) fn offered(proposals: &[Proposal]) -> impl Display {
    // Cut while it grows, so that it costs no more than it shows.
    let mut line = String::new();
    for proposal in proposals {
        for (index, transform) in proposal.transforms.iter().enumerate() {
            if line.len() > MAX_LEN {
                line.push_str(" …");
                return Line(line);
            }
            match (index, line.is_empty()) {
                (0, true) => {}
                (0, false) => line.push_str(", "),
                _ => line.push('-'),
            }
            line.push_str(&word(proposal.protocol, transform));
        }
    }
    Line(line)
}

/// Our own.
pub(crate) fn wanted<T: Display>(proposals: &[T]) -> impl Display {
    let words = proposals.iter().map(ToString::to_string);
    Line(words.collect::<Vec<_>>().join(", "))
}

struct Line(String);

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "nothing"
        } else {
            &self.0
        })
    }
}

fn word(protocol: ProtocolId, transform: &Transform) -> String {
    fn find<T: Copy + Display>(
        all: &[T],
        make: impl Fn(T) -> Transform,
        transform: &Transform,
    ) -> Option<String> {
        let known = all.iter().find(|item| make(**item) == *transform);
        known.map(ToString::to_string)
    }
    let id = transform.id;
    let known = match transform.kind {
        TransformType::ENCR => find(
            &mitregate_esp::CipherSuite::ALL,
            super::algorithms::aead,
            transform,
        )
        .or_else(|| find(&AesBits::ALL, aes_cbc, transform)),
        TransformType::PRF => find(&Prf::ALL, prf, transform),
        TransformType::INTEG => find(&Integrity::ALL, integrity, transform),
        TransformType::ESN if protocol == ProtocolId::ESP => {
            Some(if id == EsnId::ESN.0 { "esn" } else { "noesn" }.to_owned())
        }
        TransformType::KE => Group::from_id(KeyExchangeId(id)).map(|group| group.to_string()),
        _ => None,
    };
    known.unwrap_or_else(|| {
        let bits = match transform.key_bits() {
            Ok(Some(bits)) => bits.to_string(),
            _ => String::new(),
        };
        match transform.kind {
            TransformType::ENCR => format!("{}{bits}", EncryptionId(id)),
            TransformType::PRF => format!("PRF_{}", PrfId(id)),
            TransformType::INTEG => IntegrityId(id).to_string(),
            TransformType::KE => KeyExchangeId(id).to_string(),
            kind => match (0..super::ADDITIONAL).find(|index| additional_type(*index) == kind) {
                Some(index) => {
                    let group = Group::from_id(KeyExchangeId(id));
                    let name = group.map_or_else(
                        || KeyExchangeId(id).to_string().to_lowercase(),
                        |group| group.to_string(),
                    );
                    format!("ke{}_{name}", index + 1)
                }
                None => format!("{kind}:{id}"),
            },
        }
    })
}
