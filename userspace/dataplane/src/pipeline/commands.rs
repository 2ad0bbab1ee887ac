//! Commands, applied between batches.

use std::time::Duration;

use mitregate_esp::{EpochId, TunnelId};

use super::{Pipeline, Tick};
use crate::{
    command::Command,
    event::{Event, Refusal, Returned},
    fate::Fate,
    outer::Template,
};

impl Pipeline {
    /// Applies one command. Only while [`Pipeline::takes_commands`], since what a command gives
    /// back must find room.
    pub fn apply(&mut self, now: Duration, command: Command) {
        let tick = Tick::new(now);
        match command {
            Command::AddTunnel(tunnel) => {
                let id = tunnel.id;
                if let Err((reason, tunnel)) = self.tables.add_tunnel(tunnel) {
                    self.refuse(id, None, reason, Some(Returned::Tunnel(tunnel)));
                }
            }
            Command::RemoveTunnel { tunnel } => match self.tables.find_tunnel(tunnel) {
                Ok(slot) => self.remove_tunnel(slot),
                Err(reason) => self.refuse(tunnel, None, reason, None),
            },
            Command::Install(epoch) => {
                let (tunnel, id) = (epoch.tunnel, epoch.id);
                if let Err((reason, epoch)) = self.tables.install(epoch) {
                    self.refuse(tunnel, Some(id), reason, Some(Returned::Epoch(epoch)));
                }
            }
            Command::Activate { tunnel, epoch } => match self.tables.find(tunnel, epoch) {
                Ok((tunnel_slot, epoch_slot)) => {
                    if let Some(tunnel) = self.tables.tunnel_mut(tunnel_slot) {
                        tunnel.active = Some(epoch_slot);
                        tunnel.waiting_told = false;
                    }
                    self.flush_held(tick, tunnel_slot);
                }
                Err(reason) => self.refuse(tunnel, Some(epoch), reason, None),
            },
            Command::Hold { tunnel } => match self.tables.find_tunnel(tunnel) {
                Ok(slot) => {
                    if let Some(tunnel) = self.tables.tunnel_mut(slot) {
                        tunnel.active = None;
                        tunnel.waiting_told = false;
                    }
                }
                Err(reason) => self.refuse(tunnel, None, reason, None),
            },
            Command::Retire { tunnel, epoch } => match self.tables.find(tunnel, epoch) {
                Ok((tunnel_slot, epoch_slot)) => self.retire(tunnel_slot, epoch_slot),
                Err(reason) => self.refuse(tunnel, Some(epoch), reason, None),
            },
            Command::SetOuter {
                tunnel,
                epoch,
                outer,
            } => {
                let template = outer.as_ref().map(Template::new);
                match self.set_outer(tunnel, epoch, template.as_ref()) {
                    Ok(tunnel_slot) => self.flush_held(tick, tunnel_slot),
                    Err(reason) => self.refuse(tunnel, epoch, reason, None),
                }
            }
            Command::SetPathMtu { tunnel, mtu } => match self.tables.find_tunnel(tunnel) {
                Ok(slot) => {
                    if let Some(tunnel) = self.tables.tunnel_mut(slot) {
                        tunnel.path_mtu = mtu;
                    }
                    self.tables.for_each_epoch(slot, |epoch| epoch.fit(mtu));
                }
                Err(reason) => self.refuse(tunnel, None, reason, None),
            },
            Command::SendInner {
                tunnel,
                epoch,
                next_header,
                via,
                pad_to,
                payload,
            } => match self.tables.find(tunnel, epoch) {
                Ok((_, epoch_slot)) => {
                    let via = via.as_ref().map(Template::new);
                    let how = (next_header, pad_to);
                    self.send_inner(tick, epoch_slot, how, via.as_ref(), &payload);
                }
                Err(_) => self.fates.count(Fate::NoEpoch),
            },
            Command::SendOuter { frame } => self.send_outer(&frame),
        }
    }

    fn refuse(
        &mut self,
        tunnel: TunnelId,
        epoch: Option<EpochId>,
        reason: Refusal,
        returned: Option<Returned>,
    ) {
        self.events.give(Event::Refused {
            tunnel,
            epoch,
            reason,
            returned,
        });
    }

    fn retire(&mut self, tunnel_slot: u32, epoch_slot: u32) {
        if let Some(epoch) = self.tables.retire(tunnel_slot, epoch_slot) {
            self.events.give(Event::Retired { epoch });
        }
    }

    fn remove_tunnel(&mut self, slot: u32) {
        self.drop_held(slot);
        while let Some(epoch) = self
            .tables
            .tunnel_mut(slot)
            .and_then(|t| t.epochs.last().copied())
        {
            self.retire(slot, epoch);
        }
        if let Some(tunnel) = self.tables.remove_tunnel(slot) {
            self.events.give(Event::Removed { tunnel });
        }
    }

    /// For one epoch, or for all of the tunnel's.
    fn set_outer(
        &mut self,
        tunnel: TunnelId,
        epoch: Option<EpochId>,
        template: Option<&Template>,
    ) -> Result<u32, Refusal> {
        let tunnel_slot = match epoch {
            Some(epoch) => self.tables.find(tunnel, epoch)?.0,
            None => self.tables.find_tunnel(tunnel)?,
        };
        let path_mtu = self.tables.tunnel_mut(tunnel_slot);
        let path_mtu = path_mtu.map_or(u16::MAX, |tunnel| tunnel.path_mtu);
        self.tables.for_each_epoch(tunnel_slot, |installed| {
            if epoch.is_none_or(|epoch| epoch == installed.id) {
                installed.template = template.cloned();
                installed.fit(path_mtu);
            }
        });
        Ok(tunnel_slot)
    }
}
