//! What the derivations need to know of the NAT models.

use std::time::Duration;

use crate::nat::{ConntrackGeneric, Model, UdpSymmetric, VpnMasquerade};

/// Whether ESP without UDP passes.
pub fn passes_esp(model: Model) -> bool {
    match model {
        Model::VpnMasquerade | Model::ConntrackGeneric => true,
        Model::UdpSymmetric => false,
    }
}

/// Whether plain ESP of one client keeps out that of all others to the same server.
pub fn one_esp_client(model: Model) -> bool {
    match model {
        Model::ConntrackGeneric => true,
        Model::VpnMasquerade | Model::UdpSymmetric => false,
    }
}

/// Whether plain ESP of one client is kept out, or held, until another one's has been answered.
pub fn serialises(model: Model) -> bool {
    match model {
        Model::VpnMasquerade => true,
        Model::ConntrackGeneric | Model::UdpSymmetric => false,
    }
}

/// Whether an inbound SPI that was not seen before is taken for that of a client that waits for one.
pub fn guesses(model: Model) -> bool {
    match model {
        Model::VpnMasquerade => true,
        Model::ConntrackGeneric | Model::UdpSymmetric => false,
    }
}

/// After so long in silence every entry has gone.
pub fn longest_life(model: Model) -> Duration {
    match model {
        Model::VpnMasquerade => VpnMasquerade::default().established,
        Model::ConntrackGeneric => ConntrackGeneric::GENERIC,
        Model::UdpSymmetric => UdpSymmetric::default().ports.timers.udp_stream,
    }
}

/// How long the entry of a tunnel that has carried data lives without a packet.
pub fn life(model: Model, esp: bool) -> Duration {
    match model {
        Model::VpnMasquerade if esp => VpnMasquerade::default().established,
        Model::VpnMasquerade => VpnMasquerade::default().ports.timers.udp_stream,
        Model::ConntrackGeneric if esp => ConntrackGeneric::GENERIC,
        Model::ConntrackGeneric => ConntrackGeneric::default().ports.timers.udp_stream,
        Model::UdpSymmetric => UdpSymmetric::default().ports.timers.udp_stream,
    }
}

/// How long an entry without an answer keeps other clients out.
pub fn pending(model: Model) -> Duration {
    match model {
        Model::VpnMasquerade => VpnMasquerade::default().pending,
        Model::ConntrackGeneric | Model::UdpSymmetric => Duration::ZERO,
    }
}

/// How long a client is kept out that has kept others out.
pub fn squelch(model: Model) -> Duration {
    match model {
        Model::VpnMasquerade => VpnMasquerade::default().squelch,
        Model::ConntrackGeneric | Model::UdpSymmetric => Duration::ZERO,
    }
}
