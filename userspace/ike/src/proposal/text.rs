//! Proposals as text.

use core::fmt;
use core::str::FromStr;

use mitregate_esp::CipherSuite;

use super::algorithms::{ADDITIONAL, AesBits, Group, Integrity, Prf};
use super::{Alternatives, Ciphers, EspProposal, IkeProposal};

/// Why a proposal string is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ProposalError {
    #[error("unknown algorithm \"{0}\"")]
    Unknown(String),
    #[error("\"{0}\" twice")]
    Twice(String),
    #[error("no {0} in proposal")]
    Missing(&'static str),
    #[error("\"{0}\" has integrity of its own: put it into a proposal of its own")]
    Mixed(String),
    #[error("additional key exchanges need a first one, such as \"x25519\"")]
    NoFirst,
    #[error(
        "\"{0}\" is a cipher for IKE only: ESP takes aes256gcm16, aes128gcm16 and chacha20poly1305"
    )]
    IkeOnly(String),
}

fn push<T: PartialEq>(list: &mut Vec<T>, item: T, word: &str) -> Result<(), ProposalError> {
    if list.contains(&item) {
        return Err(ProposalError::Twice(word.to_owned()));
    }
    list.push(item);
    Ok(())
}

impl Alternatives {
    /// `ke1_mlkem768` and the like: false if it is no such word.
    fn take(&mut self, word: &str) -> Result<bool, ProposalError> {
        let parts = word
            .strip_prefix("ke")
            .and_then(|rest| rest.split_once('_'));
        let Some((number, name)) = parts else {
            return Ok(false);
        };
        let unknown = || ProposalError::Unknown(word.to_owned());
        // One digit: "ke01_" would be another spelling of the same.
        let index = number
            .parse::<usize>()
            .ok()
            .filter(|n| number.len() == 1 && (1..=ADDITIONAL).contains(n))
            .ok_or_else(unknown)?;
        let group = match name {
            "none" => None,
            name => Some(Group::from_word(name).ok_or_else(unknown)?),
        };
        push(&mut self.0[index - 1], group, word)?;
        Ok(true)
    }

    fn words(&self) -> impl Iterator<Item = String> {
        self.0.iter().enumerate().flat_map(|(index, list)| {
            list.iter().map(move |group| match group {
                Some(group) => format!("ke{}_{group}", index + 1),
                None => format!("ke{}_none", index + 1),
            })
        })
    }
}

impl FromStr for IkeProposal {
    type Err = ProposalError;

    fn from_str(text: &str) -> Result<Self, ProposalError> {
        let mut aeads = Vec::<CipherSuite>::new();
        let (mut cbcs, mut integrity) = (Vec::new(), Vec::new());
        let (mut prfs, mut groups) = (Vec::new(), Vec::new());
        let mut additional = Alternatives::default();
        for word in text.split('-') {
            if let Ok(cipher) = word.parse() {
                push(&mut aeads, cipher, word)?;
            } else if let Some(bits) = AesBits::from_word(word) {
                push(&mut cbcs, bits, word)?;
            } else if let Some(algorithm) = Integrity::from_word(word) {
                push(&mut integrity, algorithm, word)?;
            } else if let Some(prf) = Prf::from_word(word) {
                push(&mut prfs, prf, word)?;
            } else if let Some(group) = Group::from_word(word) {
                push(&mut groups, group, word)?;
            } else if !additional.take(word)? {
                return Err(ProposalError::Unknown(word.to_owned()));
            }
        }
        let ciphers = match (aeads.first(), cbcs.is_empty() && integrity.is_empty()) {
            (None, true) => return Err(ProposalError::Missing("cipher")),
            (Some(_), true) => Ciphers::Aead(aeads),
            (Some(aead), false) => return Err(ProposalError::Mixed(aead.to_string())),
            (None, false) if cbcs.is_empty() => return Err(ProposalError::Missing("cipher")),
            (None, false) if integrity.is_empty() => {
                return Err(ProposalError::Missing(
                    "integrity algorithm, such as \"sha256\",",
                ));
            }
            (None, false) => Ciphers::Cbc(cbcs, integrity),
        };
        if let (Ciphers::Cbc(_, integrity), true) = (&ciphers, prfs.is_empty()) {
            prfs = integrity.iter().map(|algorithm| algorithm.prf()).collect();
        }
        for (empty, what) in [
            (prfs.is_empty(), "PRF"),
            (groups.is_empty(), "key exchange group"),
        ] {
            if empty {
                return Err(ProposalError::Missing(what));
            }
        }
        Ok(Self {
            ciphers,
            prfs,
            groups,
            additional,
        })
    }
}

impl FromStr for EspProposal {
    type Err = ProposalError;

    fn from_str(text: &str) -> Result<Self, ProposalError> {
        let (mut ciphers, mut groups, mut esn) = (Vec::new(), Vec::new(), Vec::new());
        let mut additional = Alternatives::default();
        for word in text.split('-') {
            if let Ok(cipher) = word.parse() {
                push(&mut ciphers, cipher, word)?;
            } else if let Some(group) = Group::from_word(word) {
                push(&mut groups, group, word)?;
            } else if let "esn" | "noesn" = word {
                push(&mut esn, word == "esn", word)?;
            } else if AesBits::from_word(word).is_some() {
                return Err(ProposalError::IkeOnly(word.to_owned()));
            } else if !additional.take(word)? {
                return Err(ProposalError::Unknown(word.to_owned()));
            }
        }
        if ciphers.is_empty() {
            return Err(ProposalError::Missing("cipher"));
        }
        if groups.is_empty() && !additional.is_empty() {
            return Err(ProposalError::NoFirst);
        }
        if esn.is_empty() {
            esn = vec![true, false];
        }
        Ok(Self {
            ciphers,
            groups,
            additional,
            esn,
        })
    }
}

fn words<T: ToString>(items: &[T]) -> impl Iterator<Item = String> {
    items.iter().map(ToString::to_string)
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Vec::new();
        let mut implied = false;
        match &self.ciphers {
            Ciphers::Aead(list) => all.extend(words(list)),
            Ciphers::Cbc(bits, integrity) => {
                all.extend(words(bits).chain(words(integrity)));
                implied = integrity
                    .iter()
                    .map(|i| i.prf())
                    .eq(self.prfs.iter().copied());
            }
        }
        if !implied {
            all.extend(words(&self.prfs));
        }
        all.extend(words(&self.groups));
        all.extend(self.additional.words());
        f.write_str(&all.join("-"))
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = words(&self.ciphers).collect::<Vec<_>>();
        all.extend(words(&self.groups));
        all.extend(self.additional.words());
        if self.esn != [true, false] {
            let word = |esn: &bool| if *esn { "esn" } else { "noesn" }.to_owned();
            all.extend(self.esn.iter().map(word));
        }
        f.write_str(&all.join("-"))
    }
}
