//! Data on an epoch whose pings were all lost, where sending it does harm.
//!
//! A NAT that notes SPIs and lets in one new SPI of a server after another (VPN Masquerade) takes each
//! packet on a lost epoch for a reason to keep the others out: the tunnel's own data keeps the fresh
//! epoch's pings from their way, and those of the tunnels beside it. So it waits until something is proven.
//! Not for ever: the other direction alone may be broken, and the gate itself must not be the black hole.

use core::time::Duration;

use crate::{Gate, Output, Proven, Role};

/// Whether data waits although an epoch is active.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Withheld {
    #[default]
    No,
    /// Until something is proven, or then.
    Until(Duration),
    /// It has waited long enough in this outage.
    Spent,
}

impl Withheld {
    pub(crate) fn deadline(self) -> Option<Duration> {
        match self {
            Self::Until(at) => Some(at),
            Self::No | Self::Spent => None,
        }
    }
}

impl Gate {
    /// All pings of the epoch at `at` were lost.
    pub(crate) fn withhold(&mut self, now: Duration, at: usize) {
        let epoch = &self.epochs[at];
        let harms = epoch.keyed_by_spi && self.config.role == Role::Client;
        let waits = !self.config.hold_lost.is_zero() && self.withheld == Withheld::No;
        if self.active == Some(epoch.id) && harms && waits {
            self.withheld = Withheld::Until(now + self.config.hold_lost);
            self.outputs.0.push_back(Output::Hold { epoch: epoch.id });
        }
    }

    /// Lets data go on the active epoch again if it has waited for long enough.
    pub(crate) fn let_go(&mut self, now: Duration) {
        if self.withheld.deadline().is_some_and(|at| at <= now) {
            self.reopen();
            self.withheld = Withheld::Spent;
        }
    }

    /// The active epoch was proven again.
    pub(crate) fn proven_again(&mut self) {
        if self.withheld.deadline().is_some() {
            self.reopen();
        }
        self.withheld = Withheld::No;
    }

    fn reopen(&mut self) {
        let active = self.active.and_then(|id| self.position(id));
        let Some((id, proof)) = active.and_then(|at| {
            let epoch = &self.epochs[at];
            Some((epoch.id, epoch.proof?))
        }) else {
            return;
        };
        self.outputs
            .0
            .push_back(Output::Activate(Proven::new(id, proof)));
    }
}
