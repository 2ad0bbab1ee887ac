//! What `monitor` shows.

use core::time::Duration;

use mitregate_esp::ids::TunnelId;
use mitregate_gate::{Action, EchoRefusal, GateEvent};
use mitregate_ike::Encap;
use serde::Serialize;

use crate::list::{micros, ms, strings};
use crate::{Control, ControlEvent};

/// An event, for people and programs. Names are those of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum EventView {
    /// A peer has authenticated.
    IkeEstablished { connection: String, peer_id: String },
    /// A new IKE SA has taken over from one that was rekeyed.
    IkeRekeyed { connection: String },
    /// An IKE SA did not come to be, or is over.
    IkeDown {
        connection: Option<String>,
        reason: String,
    },
    /// The virtual addresses from the peer are these now.
    VirtualAddresses {
        connection: String,
        addresses: Vec<String>,
        dns: Vec<String>,
    },
    /// An epoch changed its state.
    Epoch {
        tunnel: String,
        epoch: u64,
        from: &'static str,
        to: &'static str,
    },
    /// The gate did something on its own account: `ping`, `activate`, `rekey` or `new-ike`.
    Gate {
        tunnel: String,
        action: &'static str,
        epoch: Option<u64>,
        why: String,
    },
    /// A ping of the gate was answered.
    PingAnswered {
        tunnel: String,
        epoch: u64,
        rtt_us: u64,
    },
    /// A ping of the gate was not answered in time.
    PingLost {
        tunnel: String,
        epoch: u64,
        in_a_row: u32,
    },
    /// An epoch's packets take another encapsulation, `esp` or `udp`; its SAs stay.
    EncapChanged {
        tunnel: String,
        epoch: u64,
        to: &'static str,
        why: &'static str,
    },
    /// A tunnel's path carries so much from now on, bytes: `answered`, `doubt`, `black-hole` or `limit`.
    PathMtu {
        tunnel: String,
        outer: u16,
        inner: u16,
        why: &'static str,
    },
    /// Pings were lost, and the path is proven again: by `re-ping`, `rekey`, `new-ike` or `encap`.
    Recovered {
        tunnel: String,
        by: &'static str,
        outage_ms: u64,
    },
    /// Data flows although the path cannot be proven.
    Unproven { tunnel: String, epoch: u64 },
    /// A ping of the peer was not answered.
    EchoRefused {
        tunnel: String,
        epoch: u64,
        why: &'static str,
    },
}

impl EventView {
    /// The connection that it is about.
    #[must_use]
    pub fn connection(&self) -> Option<&str> {
        match self {
            Self::IkeEstablished { connection, .. }
            | Self::IkeRekeyed { connection }
            | Self::VirtualAddresses { connection, .. } => Some(connection),
            Self::IkeDown { connection, .. } => connection.as_deref(),
            _ => self.tunnel()?.split_once('/').map(|(name, _)| name),
        }
    }

    /// The tunnel that it is about, as `connection/child`.
    #[must_use]
    pub fn tunnel(&self) -> Option<&str> {
        match self {
            Self::Epoch { tunnel, .. }
            | Self::Gate { tunnel, .. }
            | Self::PingAnswered { tunnel, .. }
            | Self::PingLost { tunnel, .. }
            | Self::EncapChanged { tunnel, .. }
            | Self::PathMtu { tunnel, .. }
            | Self::Recovered { tunnel, .. }
            | Self::Unproven { tunnel, .. }
            | Self::EchoRefused { tunnel, .. } => Some(tunnel),
            _ => None,
        }
    }
}

impl Control {
    /// What `monitor` shows of an event; None for what only concerns whoever gave a command.
    #[must_use]
    pub fn view_event(&self, event: &ControlEvent) -> Option<EventView> {
        Some(match event {
            ControlEvent::IkeEstablished {
                connection,
                peer_id,
            } => EventView::IkeEstablished {
                connection: connection.clone(),
                peer_id: peer_id.clone(),
            },
            ControlEvent::IkeRekeyed { connection } => EventView::IkeRekeyed {
                connection: connection.clone(),
            },
            ControlEvent::IkeDown { connection, reason } => EventView::IkeDown {
                connection: connection.clone(),
                reason: reason.clone(),
            },
            ControlEvent::VirtualAddresses {
                connection,
                addresses,
                dns,
            } => EventView::VirtualAddresses {
                connection: connection.clone(),
                addresses: strings(addresses),
                dns: strings(dns),
            },
            ControlEvent::EncapChanged {
                tunnel,
                epoch,
                to,
                why,
            } => EventView::EncapChanged {
                tunnel: self.name_of(*tunnel)?,
                epoch: epoch.0,
                to: match to {
                    Encap::Esp => "esp",
                    Encap::Udp => "udp",
                },
                why: why.as_str(),
            },
            ControlEvent::PathMtu {
                tunnel,
                outer,
                inner,
                why,
            } => EventView::PathMtu {
                tunnel: self.name_of(*tunnel)?,
                outer: *outer,
                inner: *inner,
                why: why.as_str(),
            },
            ControlEvent::Gate { tunnel, event } => self.view_gate_event(*tunnel, event)?,
            ControlEvent::Ping { .. }
            | ControlEvent::Finished { .. }
            | ControlEvent::Failed { .. }
            | ControlEvent::ShutDown => return None,
        })
    }

    fn name_of(&self, tunnel: TunnelId) -> Option<String> {
        let at = usize::try_from(tunnel.0).ok()?;
        Some(self.tunnels.get(at)?.name.clone())
    }

    fn view_gate_event(&self, tunnel: TunnelId, event: &GateEvent) -> Option<EventView> {
        let tunnel = self.name_of(tunnel)?;
        Some(match event {
            GateEvent::State { epoch, from, to } => EventView::Epoch {
                tunnel,
                epoch: epoch.0,
                from: from.as_str(),
                to: to.as_str(),
            },
            GateEvent::Acted(action) => {
                let (action, epoch, why) = match action {
                    Action::Ping { epoch, cause } => ("ping", Some(epoch.0), cause.to_string()),
                    Action::Activate { epoch, proof } => {
                        ("activate", Some(epoch.0), proof.to_string())
                    }
                    Action::Rekey { reason } => ("rekey", None, reason.to_string()),
                    Action::NewSession { reason } => ("new-ike", None, reason.to_string()),
                };
                EventView::Gate {
                    tunnel,
                    action,
                    epoch,
                    why,
                }
            }
            GateEvent::PingAnswered { epoch, rtt } => EventView::PingAnswered {
                tunnel,
                epoch: epoch.0,
                rtt_us: micros(*rtt),
            },
            GateEvent::PingLost { epoch, in_a_row } => EventView::PingLost {
                tunnel,
                epoch: epoch.0,
                in_a_row: *in_a_row,
            },
            GateEvent::Recovered { kind, outage } => EventView::Recovered {
                tunnel,
                by: kind.as_str(),
                outage_ms: ms(*outage, Duration::ZERO),
            },
            GateEvent::Optimistic { epoch } => EventView::Unproven {
                tunnel,
                epoch: epoch.0,
            },
            GateEvent::EchoRefused { epoch, refusal } => EventView::EchoRefused {
                tunnel,
                epoch: epoch.0,
                why: match refusal {
                    EchoRefusal::RateLimited => "rate-limited",
                    EchoRefusal::ForeignReturnSpi => "foreign-return-spi",
                },
            },
            GateEvent::UserPing { .. } => return None,
        })
    }
}
