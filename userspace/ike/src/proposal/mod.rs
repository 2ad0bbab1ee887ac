//! Proposals in swanctl's names, their form on the wire, and the choice among a peer's
//! (RFC 7296 §2.7, §3.3, RFC 9370 §2.2.1).

mod algorithms;
mod describe;
mod negotiate;
mod text;

use core::fmt;

use mitregate_esp::CipherSuite;

pub use algorithms::{AesBits, Group, IkeCipher, Integrity, Prf};
pub(crate) use describe::{offered, wanted};
pub(crate) use negotiate::{
    Groups, accept_esp, accept_ike, choose_esp, choose_ike, offer_esp, offer_ike,
};
pub use text::ProposalError;

use algorithms::ADDITIONAL;

/// The additional key exchanges of one SA, in their order (RFC 9370). Displayed as
/// `-ke1_mlkem768`, with the dash; empty where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Additional([Option<Group>; ADDITIONAL]);

impl Additional {
    /// Their methods.
    pub fn groups(self) -> impl Iterator<Item = Group> {
        self.0.into_iter().flatten()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.groups().next().is_none()
    }
}

impl fmt::Display for Additional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, group) in self.0.iter().enumerate() {
            if let Some(group) = group {
                write!(f, "-ke{}_{group}", index + 1)?;
            }
        }
        Ok(())
    }
}

/// One choice of algorithms for an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct IkeSuite {
    pub cipher: IkeCipher,
    pub prf: Prf,
    pub group: Group,
    pub additional: Additional,
}

impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cipher,
            prf,
            group,
            additional,
        } = self;
        write!(f, "{cipher}-{prf}-{group}{additional}")
    }
}

/// One choice of algorithms for a CHILD_SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct EspSuite {
    pub cipher: CipherSuite,
    /// For perfect forward secrecy at a rekey.
    pub group: Option<Group>,
    /// Beside `group`.
    pub additional: Additional,
    /// Extended sequence numbers.
    pub esn: bool,
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cipher)?;
        if let Some(group) = self.group {
            write!(f, "-{group}{}", self.additional)?;
        }
        f.write_str(if self.esn { "-esn" } else { "-noesn" })
    }
}

/// Alternatives for an IKE SA, each list in order of preference and not empty, such as
/// `aes256gcm16-prfsha384-x25519-ke1_mlkem768`, `aes256gcm16-aes128gcm16-prfsha256-x25519-ecp256`
/// or `aes256-sha256-modp2048`.
///
/// A proposal has ciphers with integrity of their own (AEADs) and names PRFs, or it has AES-CBC and
/// names integrity algorithms; then the PRFs may be left out and are those of the same hashes.
/// `ke1_…` to `ke7_…` are additional key exchanges (RFC 9370), `ke1_none` allows to do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeProposal {
    ciphers: Ciphers,
    prfs: Vec<Prf>,
    groups: Vec<Group>,
    additional: Alternatives,
}

/// Alternatives for a CHILD_SA, such as `aes256gcm16`, `chacha20poly1305-x25519`,
/// `aes128gcm16-noesn`. Without a word on sequence numbers both forms are offered, extended ones
/// first. Groups count for rekeys alone: IKE_AUTH makes no second key exchange (RFC 7296 §1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspProposal {
    ciphers: Vec<CipherSuite>,
    groups: Vec<Group>,
    additional: Alternatives,
    esn: Vec<bool>,
}

/// RFC 7296 §3.3: AEADs and other ciphers are never in one proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ciphers {
    Aead(Vec<CipherSuite>),
    Cbc(Vec<AesBits>, Vec<Integrity>),
}

/// Alternatives for each additional key exchange; `None` among them allows to leave it out, as
/// does an empty list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Alternatives([Vec<Option<Group>>; ADDITIONAL]);

impl Alternatives {
    fn allow(&self, chosen: Additional) -> bool {
        self.0
            .iter()
            .zip(chosen.0)
            .all(|(list, chosen)| list.contains(&chosen) || list.is_empty() && chosen.is_none())
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }
}

impl Ciphers {
    fn allow(&self, chosen: IkeCipher) -> bool {
        match (self, chosen) {
            (Self::Aead(list), IkeCipher::Aead(suite)) => list.contains(&suite),
            (Self::Cbc(bits, integrity), IkeCipher::AesCbc(b, i)) => {
                bits.contains(&b) && integrity.contains(&i)
            }
            _ => false,
        }
    }
}

impl IkeProposal {
    /// What swanctl's word `default` stands for: current algorithms, AEADs first, and what old
    /// peers have. Nothing of it is post-quantum: a peer that does not know RFC 9370 would not
    /// even read such a proposal to its end, so who wants it writes it.
    pub const DEFAULT: [&'static str; 2] = [
        "aes256gcm16-chacha20poly1305-aes128gcm16-prfsha384-prfsha256-prfsha512-x25519-ecp384-ecp256-modp3072-modp2048",
        "aes256-aes192-aes128-sha256-sha384-sha512-x25519-ecp384-ecp256-modp3072-modp2048",
    ];

    /// Could this proposal have led to `suite`?
    pub(crate) fn allows(&self, suite: &IkeSuite) -> bool {
        self.ciphers.allow(suite.cipher)
            && self.prfs.contains(&suite.prf)
            && self.groups.contains(&suite.group)
            && self.additional.allow(suite.additional)
    }
}

impl EspProposal {
    /// What swanctl's word `default` stands for.
    pub const DEFAULT: [&'static str; 1] = ["aes256gcm16-chacha20poly1305-aes128gcm16"];
}

/// The groups in an offer, first the preferred one.
pub(crate) fn ike_groups(proposals: &[IkeProposal]) -> impl Iterator<Item = Group> {
    proposals.iter().flat_map(|p| p.groups.iter().copied())
}

/// The same for a CHILD_SA; empty without PFS.
pub(crate) fn esp_groups(proposals: &[EspProposal]) -> impl Iterator<Item = Group> {
    proposals.iter().flat_map(|p| p.groups.iter().copied())
}

/// Does any of these ask for additional key exchanges?
pub(crate) fn have_additional(proposals: &[IkeProposal]) -> bool {
    proposals.iter().any(|p| !p.additional.is_empty())
}

#[cfg(test)]
mod tests;
