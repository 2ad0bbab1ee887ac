//! What a worker knows: tunnels in the order of the policy, their epochs, and the inbound SPIs.
//!
//! Made by the control thread, changed only by commands between batches, dropped by the control
//! thread again.

use std::{collections::VecDeque, sync::Arc};

use mitregate_esp::{
    InboundSa, OutboundSa, SaCounters,
    ids::{EpochId, TunnelId},
};
use mitregate_wire::TrafficSelector;
use mitregate_xsk::Frame;

use crate::outer::OuterHeader;

/// Which packets: those from one of `local` to one of `remote`, outbound; the reverse, inbound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// Our side.
    pub local: Vec<TrafficSelector>,
    /// The peer's side.
    pub remote: Vec<TrafficSelector>,
}

/// One tunnel as a worker sees it.
pub struct Tunnel {
    pub(crate) id: TunnelId,
    pub(crate) policy: Selectors,
    pub(crate) held: VecDeque<Frame>,
}

impl Tunnel {
    /// A tunnel with no epoch yet. `policy` is the configured one, which its epochs may narrow;
    /// `hold_limit` bounds the frames it may hold, 0 to hold none.
    pub fn new(id: TunnelId, policy: Selectors, hold_limit: usize) -> Box<Self> {
        Box::new(Self {
            id,
            policy,
            held: VecDeque::with_capacity(hold_limit),
        })
    }

    /// Its name.
    pub fn id(&self) -> TunnelId {
        self.id
    }
}

/// When to raise [`Event::SoftLimit`](crate::Event::SoftLimit); `u64::MAX` for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftLimits {
    /// Packets sealed.
    pub packets: u64,
    /// Bytes of inner packets sealed.
    pub bytes: u64,
}

impl Default for SoftLimits {
    fn default() -> Self {
        Self {
            packets: u64::MAX,
            bytes: u64::MAX,
        }
    }
}

/// What an epoch is made of.
pub struct EpochConfig {
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// Its name.
    pub epoch: EpochId,
    /// For receiving.
    pub inbound: InboundSa,
    /// For sending.
    pub outbound: OutboundSa,
    /// As negotiated.
    pub selectors: Selectors,
    /// What goes around; `None` while the next hop is unknown.
    pub outer: Option<OuterHeader>,
    /// Shared with the control plane.
    pub counters: Arc<SaCounters>,
    /// When to ask for a rekey.
    pub soft: SoftLimits,
}

/// One generation of a tunnel: a pair of SAs.
pub struct Epoch {
    pub(crate) config: EpochConfig,
}

impl Epoch {
    /// Ready to be installed.
    pub fn new(config: EpochConfig) -> Box<Self> {
        Box::new(Self { config })
    }

    /// Its tunnel.
    pub fn tunnel(&self) -> TunnelId {
        self.config.tunnel
    }

    /// Its name.
    pub fn id(&self) -> EpochId {
        self.config.epoch
    }

    /// The SA for receiving.
    pub fn inbound(&self) -> &InboundSa {
        &self.config.inbound
    }

    /// The SA for sending.
    pub fn outbound(&self) -> &OutboundSa {
        &self.config.outbound
    }
}
