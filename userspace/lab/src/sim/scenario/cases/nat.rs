//! What the derivations need to know of the NAT models.

use std::time::Duration;

use crate::nat::{ConntrackGeneric, Model};

pub const ALL: [Model; 2] = [Model::ConntrackGeneric, Model::UdpSymmetric];

pub fn name(model: Model) -> &'static str {
    model.name()
}

/// Whether ESP without UDP passes.
pub fn passes_esp(model: Model) -> bool {
    model != Model::UdpSymmetric
}

/// Whether ESP without UDP of one client keeps out that of all others to the same server.
pub fn one_esp_client(model: Model) -> bool {
    model == Model::ConntrackGeneric
}

/// After so long in silence every entry has gone.
pub fn longest_life(model: Model) -> Duration {
    match model {
        Model::ConntrackGeneric => ConntrackGeneric::GENERIC,
        Model::UdpSymmetric => Duration::from_secs(60),
        Model::VpnMasquerade => Duration::from_secs(30 * 60),
    }
}
