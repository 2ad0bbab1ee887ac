//! What the derivations need to know of the NAT models.

use std::time::Duration;

use crate::nat::{
    ConntrackGeneric, Cpe8Entries, HoldUntilReply, Model, OldestIncomplete, StatefulFw, UdpEim,
    UdpSymmetric, VpnMasquerade,
};

/// How many clients of one server can have ESP without UDP at a time.
pub fn esp_clients(model: Model) -> usize {
    match model {
        // Known by its addresses alone.
        Model::ConntrackGeneric => 1,
        // While an epoch is replaced, and until the entry of the one before has expired, a client has several.
        Model::Cpe8Entries => 2,
        Model::UdpEim | Model::UdpSymmetric => 0,
        Model::VpnMasquerade
        | Model::OldestIncomplete
        | Model::HoldUntilReply
        | Model::StatefulFw => usize::MAX,
    }
}

/// Whether plain ESP of one client is kept out, or held, until another one's has been answered.
pub fn serialises(model: Model) -> bool {
    matches!(model, Model::VpnMasquerade | Model::HoldUntilReply)
}

/// Whether an inbound SPI that was not seen before is taken for that of a client that waits for one.
pub fn guesses(model: Model) -> bool {
    match model {
        Model::VpnMasquerade
        | Model::Cpe8Entries
        | Model::OldestIncomplete
        | Model::HoldUntilReply => true,
        // Its packets say whose they are.
        Model::StatefulFw => false,
        Model::ConntrackGeneric | Model::UdpEim | Model::UdpSymmetric => false,
    }
}

/// After so long in silence every entry has gone.
pub fn longest_life(model: Model) -> Duration {
    life(model, true).max(life(model, false))
}

/// How long the entry of a tunnel that has carried data lives without a packet.
pub fn life(model: Model, esp: bool) -> Duration {
    let esp_life = match model {
        Model::VpnMasquerade => VpnMasquerade::default().established,
        Model::ConntrackGeneric => ConntrackGeneric::GENERIC,
        Model::Cpe8Entries => Cpe8Entries::default().esp.complete,
        Model::OldestIncomplete => OldestIncomplete::default().esp.complete,
        Model::HoldUntilReply => HoldUntilReply::default().established,
        Model::StatefulFw => StatefulFw::default().esp.complete,
        Model::UdpEim | Model::UdpSymmetric => Duration::ZERO,
    };
    let ports = match model {
        Model::VpnMasquerade => VpnMasquerade::default().ports,
        Model::ConntrackGeneric => ConntrackGeneric::default().ports,
        Model::Cpe8Entries => Cpe8Entries::default().ports,
        Model::OldestIncomplete => OldestIncomplete::default().ports,
        Model::HoldUntilReply => HoldUntilReply::default().ports,
        Model::UdpEim => UdpEim::default().ports,
        Model::UdpSymmetric => UdpSymmetric::default().ports,
        Model::StatefulFw => StatefulFw::default().ports,
    };
    if esp {
        esp_life
    } else {
        ports.timers.udp_stream
    }
}

/// How long an entry without an answer keeps other clients out.
pub fn pending(model: Model) -> Duration {
    match model {
        Model::VpnMasquerade => VpnMasquerade::default().pending,
        Model::HoldUntilReply => HoldUntilReply::default().pending,
        _ => Duration::ZERO,
    }
}

/// How long a client is kept out that has kept others out.
pub fn squelch(model: Model) -> Duration {
    match model {
        Model::VpnMasquerade => VpnMasquerade::default().squelch,
        _ => Duration::ZERO,
    }
}

/// Whether it goes on taking one client's packets for another's when all are quiet: entries that expire
/// between two pings of a quiet tunnel, or one client's second entry that waits for ever.
pub fn never_settles(model: Model) -> bool {
    matches!(model, Model::OldestIncomplete | Model::HoldUntilReply)
}
