//! What a worker knows: tunnels in the order of the policy, their epochs, and the inbound SPIs.
//!
//! Made by the control thread, changed only by commands between batches, dropped by the control
//! thread again.

#![allow(
    clippy::disallowed_types,
    reason = "made once with all its room, and never iterated"
)]

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use mitregate_esp::{
    InboundSa, OutboundSa, SaCounters,
    ids::{EpochId, TunnelId},
    max_inner,
};
use mitregate_xsk::Frame;

use crate::{
    event::Refusal,
    outer::{OuterHeader, Template},
    packet::Flow,
    selectors::{Outline, Rules, Selectors},
    spi::SpiTable,
};

/// Epochs that one tunnel can have at a time: proven, unproven and draining (gate.md).
pub const MAX_EPOCHS_PER_TUNNEL: usize = 16;

/// One tunnel as a worker sees it.
pub struct Tunnel {
    pub(crate) id: TunnelId,
    pub(crate) policy: Rules,
    /// Slots of its epochs.
    pub(crate) epochs: Vec<u32>,
    /// The slot of the epoch that carries its data.
    pub(crate) active: Option<u32>,
    /// Frames from the inner port that wait for an active epoch, oldest first.
    pub(crate) held: VecDeque<Frame>,
    pub(crate) hold_limit: usize,
    /// Largest outer IP packet with data, bytes.
    pub(crate) path_mtu: u16,
    /// Whether DataWaiting was raised since the last Activate.
    pub(crate) waiting_told: bool,
}

impl Tunnel {
    /// A tunnel with no epoch yet. `policy` is the configured one, which its epochs may narrow;
    /// `hold_limit` bounds the frames it may hold, 0 to hold none.
    pub fn new(id: TunnelId, policy: Selectors, hold_limit: usize) -> Box<Self> {
        Box::new(Self {
            id,
            policy: Rules::new(policy),
            epochs: Vec::with_capacity(MAX_EPOCHS_PER_TUNNEL),
            active: None,
            held: VecDeque::with_capacity(hold_limit),
            hold_limit,
            path_mtu: u16::MAX,
            waiting_told: false,
        })
    }

    /// Its name.
    pub fn id(&self) -> TunnelId {
        self.id
    }
}

/// What our inner ICMP echos carry, right behind their header, so that nobody else's are taken for them.
pub type IcmpSecret = [u8; 16];

/// Limits of an outbound SA; `u64::MAX` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Packets sealed.
    pub packets: u64,
    /// Bytes of inner packets sealed.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packets: u64::MAX,
            bytes: u64::MAX,
        }
    }
}

impl Limits {
    #[inline]
    pub(crate) fn is_passed(&self, counters: &SaCounters) -> bool {
        counters.packets_out.get() > self.packets || counters.bytes_out.get() > self.bytes
    }

    /// May one more packet of this length be sealed?
    #[inline]
    pub(crate) fn allows(&self, counters: &SaCounters, len: u64) -> bool {
        counters.packets_out.get() < self.packets
            && counters.bytes_out.get().saturating_add(len) <= self.bytes
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
    /// What goes around; `None` while the next hop is unknown: data is then held.
    pub outer: Option<OuterHeader>,
    /// Shared with the control plane.
    pub counters: Arc<SaCounters>,
    /// Beyond them [`Event::SoftLimit`](crate::Event::SoftLimit) asks for a rekey.
    pub soft: Limits,
    /// Beyond them no data is sealed (RFC 4301 §4.4.2.1), and
    /// [`Event::HardLimit`](crate::Event::HardLimit) says so.
    pub hard: Limits,
}

/// One generation of a tunnel: a pair of SAs.
pub struct Epoch {
    pub(crate) inbound: InboundSa,
    pub(crate) outbound: OutboundSa,
    pub(crate) template: Option<Template>,
    /// The longest ESP packet with data that the outer path takes: what the tunnel's path MTU leaves.
    pub(crate) max_esp: usize,
    /// FirstInbound was raised for any packet, and for data.
    pub(crate) heard: bool,
    pub(crate) heard_data: bool,
    pub(crate) soft_told: bool,
    /// When to look at where packets come from again, in nanoseconds; `None`: never.
    pub(crate) tell_moves: Option<u64>,
    pub(crate) hard_told: bool,
    /// See [`Epoch::expecting_icmp`].
    pub(crate) icmp_secret: Option<IcmpSecret>,
    /// Whether its selectors are not those of its tunnel, so that they have to be asked too.
    pub(crate) narrowed: bool,
    pub(crate) soft: Limits,
    pub(crate) hard: Limits,
    pub(crate) selectors: Rules,
    pub(crate) counters: Arc<SaCounters>,
    pub(crate) tunnel: TunnelId,
    pub(crate) id: EpochId,
}

impl Epoch {
    /// Ready to be installed.
    pub fn new(config: EpochConfig) -> Box<Self> {
        Box::new(Self {
            inbound: config.inbound,
            outbound: config.outbound,
            template: config.outer.as_ref().map(Template::new),
            max_esp: 0,
            heard: false,
            heard_data: false,
            soft_told: false,
            tell_moves: None,
            hard_told: false,
            icmp_secret: None,
            narrowed: true,
            soft: config.soft,
            hard: config.hard,
            selectors: Rules::new(config.selectors),
            counters: config.counters,
            tunnel: config.tunnel,
            id: config.epoch,
        })
    }

    /// The same, and every authenticated packet with a new highest sequence number is looked at for
    /// where it comes from ([`Event::Moved`](crate::Event::Moved)).
    #[must_use]
    pub fn telling_moves(mut self: Box<Self>) -> Box<Self> {
        self.tell_moves = Some(0);
        self
    }

    /// The same, for which answers to inner ICMP echos that carry this secret go to the control plane
    /// ([`Event::Inner`](crate::Event::Inner), with the next header of IP), and not to the inner port.
    #[must_use]
    pub fn expecting_icmp(mut self: Box<Self>, secret: IcmpSecret) -> Box<Self> {
        self.icmp_secret = Some(secret);
        self
    }

    /// Takes the outer header or the path's MTU into account.
    pub(crate) fn fit(&mut self, path_mtu: u16) {
        let template = self.template.as_ref();
        self.max_esp = template.map_or(0, |template| template.max_esp(path_mtu));
    }

    /// The longest inner packet that the outer path takes, bytes.
    pub(crate) fn max_inner(&self) -> usize {
        max_inner(self.max_esp)
    }

    /// Its tunnel.
    pub fn tunnel(&self) -> TunnelId {
        self.tunnel
    }

    /// Its name.
    pub fn id(&self) -> EpochId {
        self.id
    }

    /// The SA for receiving.
    pub fn inbound(&self) -> &InboundSa {
        &self.inbound
    }

    /// The SA for sending.
    pub fn outbound(&self) -> &OutboundSa {
        &self.outbound
    }
}

/// Boxes under small numbers that stay the same while the box is there.
struct Slab<T> {
    items: Vec<Option<Box<T>>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    fn new(capacity: usize) -> Self {
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
        let mut items = Vec::new();
        items.resize_with(capacity as usize, || None);
        Self {
            items,
            free: (0..capacity).rev().collect(),
        }
    }

    fn insert(&mut self, item: Box<T>) -> Result<u32, Box<T>> {
        let Some(slot) = self.free.pop() else {
            return Err(item);
        };
        self.items[slot as usize] = Some(item);
        Ok(slot)
    }

    fn remove(&mut self, slot: u32) -> Option<Box<T>> {
        let item = self.items.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(item)
    }

    #[inline]
    fn get(&self, slot: u32) -> Option<&T> {
        self.items.get(slot as usize)?.as_deref()
    }

    #[inline]
    fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.items.get_mut(slot as usize)?.as_deref_mut()
    }
}

/// All tables of one worker.
pub(crate) struct Tables {
    tunnels: Slab<Tunnel>,
    tunnel_slots: HashMap<TunnelId, u32>,
    /// The tunnels in the order of the policy: outlines of their selectors, and their slots.
    policy: Vec<(Outline, u32)>,
    epochs: Slab<Epoch>,
    spis: SpiTable,
}

impl Tables {
    pub(crate) fn new(max_tunnels: usize, max_epochs: usize) -> Self {
        Self {
            tunnels: Slab::new(max_tunnels),
            tunnel_slots: HashMap::with_capacity(max_tunnels),
            policy: Vec::with_capacity(max_tunnels),
            epochs: Slab::new(max_epochs),
            spis: SpiTable::new(max_epochs),
        }
    }

    /// The slot of the epoch that receives on this SPI.
    #[inline]
    pub(crate) fn by_spi(&self, spi: u32) -> Option<u32> {
        self.spis.get(spi)
    }

    #[inline]
    pub(crate) fn epoch_mut(&mut self, slot: u32) -> Option<&mut Epoch> {
        self.epochs.get_mut(slot)
    }

    #[inline]
    pub(crate) fn tunnel_mut(&mut self, slot: u32) -> Option<&mut Tunnel> {
        self.tunnels.get_mut(slot)
    }

    /// The epoch that carries a tunnel's data, if it can send.
    #[inline(always)]
    pub(crate) fn sender(&mut self, tunnel_slot: u32) -> Option<&mut Epoch> {
        let active = self.tunnels.get(tunnel_slot)?.active?;
        self.epochs
            .get_mut(active)
            .filter(|epoch| epoch.template.is_some())
    }

    /// The first tunnel in the order of the policy that takes an outbound packet of this flow.
    #[inline(always)]
    pub(crate) fn by_flow(&self, flow: &Flow) -> Option<u32> {
        let takes = |&&(outline, slot): &&(Outline, u32)| {
            let tunnel = || self.tunnels.get(slot).map(|tunnel| &tunnel.policy);
            outline.allows_outbound(flow, || tunnel().is_some_and(|p| p.allow_outbound(flow)))
        };
        self.policy.iter().find(takes).map(|&(_, slot)| slot)
    }

    /// Slots of a tunnel and of one of its epochs.
    pub(crate) fn find(&self, tunnel: TunnelId, epoch: EpochId) -> Result<(u32, u32), Refusal> {
        let tunnel_slot = self.find_tunnel(tunnel)?;
        let tunnel = self.tunnels.get(tunnel_slot).ok_or(Refusal::NoSuchTunnel)?;
        let is_it = |slot: &u32| self.epochs.get(*slot).is_some_and(|e| e.id == epoch);
        let epoch_slot = tunnel
            .epochs
            .iter()
            .copied()
            .find(is_it)
            .ok_or(Refusal::NoSuchEpoch)?;
        Ok((tunnel_slot, epoch_slot))
    }

    pub(crate) fn find_tunnel(&self, tunnel: TunnelId) -> Result<u32, Refusal> {
        self.tunnel_slots
            .get(&tunnel)
            .copied()
            .ok_or(Refusal::NoSuchTunnel)
    }

    pub(crate) fn add_tunnel(&mut self, tunnel: Box<Tunnel>) -> Result<(), (Refusal, Box<Tunnel>)> {
        let id = tunnel.id;
        if self.tunnel_slots.contains_key(&id) {
            return Err((Refusal::Duplicate, tunnel));
        }
        let outline = tunnel.policy.outline();
        let slot = self
            .tunnels
            .insert(tunnel)
            .map_err(|tunnel| (Refusal::TableFull, tunnel))?;
        self.tunnel_slots.insert(id, slot);
        self.policy.push((outline, slot));
        Ok(())
    }

    /// The caller has retired the tunnel's epochs and emptied its hold queue.
    pub(crate) fn remove_tunnel(&mut self, slot: u32) -> Option<Box<Tunnel>> {
        let tunnel = self.tunnels.remove(slot)?;
        self.tunnel_slots.remove(&tunnel.id);
        self.policy.retain(|&(_, other)| other != slot);
        Some(tunnel)
    }

    pub(crate) fn install(&mut self, mut epoch: Box<Epoch>) -> Result<(), (Refusal, Box<Epoch>)> {
        let spi = epoch.inbound.spi().get();
        match self.find(epoch.tunnel, epoch.id) {
            Err(Refusal::NoSuchEpoch) => {}
            Err(refusal) => return Err((refusal, epoch)),
            Ok(_) => return Err((Refusal::Duplicate, epoch)),
        }
        let Some(tunnel_slot) = self.tunnel_slots.get(&epoch.tunnel).copied() else {
            return Err((Refusal::NoSuchTunnel, epoch));
        };
        if self.spis.get(spi).is_some() {
            return Err((Refusal::Duplicate, epoch));
        }
        let Some(tunnel) = self.tunnels.get_mut(tunnel_slot) else {
            return Err((Refusal::NoSuchTunnel, epoch));
        };
        epoch.narrowed = epoch.selectors != tunnel.policy;
        epoch.fit(tunnel.path_mtu);
        if tunnel.epochs.len() == MAX_EPOCHS_PER_TUNNEL {
            return Err((Refusal::TableFull, epoch));
        }
        let slot = self
            .epochs
            .insert(epoch)
            .map_err(|epoch| (Refusal::TableFull, epoch))?;
        // Cannot be full: it was made for as many as the slab.
        self.spis.insert(spi, slot);
        tunnel.epochs.push(slot);
        Ok(())
    }

    pub(crate) fn retire(&mut self, tunnel_slot: u32, epoch_slot: u32) -> Option<Box<Epoch>> {
        let epoch = self.epochs.remove(epoch_slot)?;
        self.spis.remove(epoch.inbound.spi().get());
        if let Some(tunnel) = self.tunnels.get_mut(tunnel_slot) {
            tunnel.epochs.retain(|&slot| slot != epoch_slot);
            if tunnel.active == Some(epoch_slot) {
                tunnel.active = None;
            }
        }
        Some(epoch)
    }

    pub(crate) fn for_each_epoch(&mut self, tunnel_slot: u32, mut f: impl FnMut(&mut Epoch)) {
        let Some(tunnel) = self.tunnels.get(tunnel_slot) else {
            return;
        };
        for &slot in &tunnel.epochs {
            if let Some(epoch) = self.epochs.get_mut(slot) {
                f(epoch);
            }
        }
    }

    pub(crate) fn tunnels_mut(&mut self) -> impl Iterator<Item = &mut Tunnel> {
        self.tunnels
            .items
            .iter_mut()
            .filter_map(Option::as_deref_mut)
    }
}
