//! What happens to the path: done to the kernel's own NAT, between the client and the gateway.

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use crate::{nat_box::Nat, topology::NAT_POOL};

/// Named as in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// conntrack is flushed: the NAT forgets everything, and gives the same ports again
    Flush,
    /// The NAT comes back with other ports
    Port,
    /// The NAT comes back with another public address; the old one answers nobody
    Address,
    /// The CHILD_SA is rekeyed under 1000 datagrams a second
    ChildRekey,
    /// The IKE SA is rekeyed under 1000 datagrams a second
    IkeRekey,
}

impl Fault {
    /// Nothing breaks: an exchange of the daemons' own.
    pub fn is_rekey(self) -> bool {
        matches!(self, Fault::ChildRekey | Fault::IkeRekey)
    }

    /// Inflict it on the NAT; a rekey is not inflicted.
    pub fn strike(self, nat: &Nat) -> Result<()> {
        match self {
            Fault::Flush => nat.crash(),
            Fault::Port => nat.remap(None, true),
            Fault::Address => nat.remap(Some(NAT_POOL[1]), false),
            Fault::ChildRekey | Fault::IkeRekey => Ok(()),
        }
    }
}
