//! One IKE SA.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use mitregate_wire::TrafficSelector;
use mitregate_wire::esp::Spi;
use mitregate_wire::ike::{Header, IkeSpi};

use crate::{Ctx, Directory, Discard, IkeConfig, Output, Reason, Rejected};

/// What an operator sees of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// IKE_SA_INIT or IKE_AUTH is under way.
    Connecting,
    /// Both sides are authenticated.
    Established,
    /// Our Delete is under way.
    Closing,
    /// Over; retransmissions are still answered for a while.
    Dead,
}

/// A look at one CHILD_SA.
#[derive(Clone, Copy)]
pub struct ChildView<'a> {
    /// Its name in the configuration.
    pub name: &'a str,
    /// The SPI we receive on.
    pub spi_in: Spi,
    /// The SPI we send on.
    pub spi_out: Spi,
    /// Our side, as narrowed.
    pub local_ts: &'a [TrafficSelector],
    /// The peer's side, as narrowed.
    pub remote_ts: &'a [TrafficSelector],
}

/// One IKE SA; see the crate's page for how to drive it. Holds secrets, so it has no `Debug`.
pub struct IkeSa {
    outputs: VecDeque<Output>,
}

impl IkeSa {
    /// Starts IKE_SA_INIT from `local` to `remote` (port 500, or 4500 right away).
    #[must_use]
    pub fn initiate(
        config: Arc<IkeConfig>,
        local: SocketAddr,
        remote: SocketAddr,
        cx: &mut Ctx<'_>,
    ) -> Self {
        let _ = (config, local, remote, cx.now);
        Self {
            outputs: VecDeque::new(),
        }
    }

    /// Answers a datagram that belongs to no IKE SA: makes a half-open one of a good IKE_SA_INIT
    /// request, and otherwise says what to send back, if anything.
    pub fn respond(
        directory: Arc<dyn Directory>,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
        cx: &mut Ctx<'_>,
    ) -> Result<Self, Rejected> {
        let _ = (directory, local, remote, message, cx.now);
        Ok(Self {
            outputs: VecDeque::new(),
        })
    }

    /// Takes in a message that came from `remote` to `local`. The error is for counters and logs:
    /// nothing needs to be done about it.
    pub fn handle_message(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
        cx: &mut Ctx<'_>,
    ) -> Result<(), Discard> {
        let _ = (local, remote, message, cx.now);
        Ok(())
    }

    /// Does what is due at `cx.now`.
    pub fn handle_timeout(&mut self, cx: &mut Ctx<'_>) {
        let _ = cx.now;
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        None
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Negotiates a successor for the CHILD_SA that we receive on `spi_in`.
    pub fn rekey_child(&mut self, spi_in: Spi, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let _ = (spi_in, cx.now);
        Ok(())
    }

    /// Negotiates one more CHILD_SA of the configuration.
    pub fn create_child(&mut self, name: &str, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let _ = (name, cx.now);
        Ok(())
    }

    /// Deletes the CHILD_SA that we receive on `spi_in`; `ChildDeleted` follows when the peer
    /// has answered.
    pub fn delete_child(&mut self, spi_in: Spi, cx: &mut Ctx<'_>) -> Result<(), Reason> {
        let _ = (spi_in, cx.now);
        Ok(())
    }

    /// Asks for a sign of life (RFC 7296 §2.4): `LivenessAnswered`, or in the end
    /// `Closed(Timeout)`.
    pub fn check_liveness(&mut self, cx: &mut Ctx<'_>) {
        let _ = cx.now;
    }

    /// Deletes the IKE SA and its CHILD_SAs; `Closed` follows.
    pub fn close(&mut self, cx: &mut Ctx<'_>) {
        let _ = cx.now;
    }

    /// Gives it up without a word to the peer: releases what it holds, `Dead` follows.
    pub fn abandon(&mut self, cx: &mut Ctx<'_>) {
        let _ = cx.now;
        self.outputs.push_back(Output::Dead);
    }

    /// What an operator sees.
    #[must_use]
    pub fn state(&self) -> State {
        State::Dead
    }

    /// The SPI that we chose: the key to find this IKE SA by.
    #[must_use]
    pub fn local_spi(&self) -> IkeSpi {
        IkeSpi::ZERO
    }

    /// The SPI that the peer chose; zero while unknown.
    #[must_use]
    pub fn remote_spi(&self) -> IkeSpi {
        IkeSpi::ZERO
    }

    /// We sent the first request.
    #[must_use]
    pub fn is_initiator(&self) -> bool {
        false
    }

    /// Is `header`, received from `remote`, the IKE_SA_INIT request that this IKE SA answered?
    /// Its receiver SPI is zero, so this finds the owner of a retransmission.
    #[must_use]
    pub fn is_first_request(&self, header: &Header, remote: SocketAddr) -> bool {
        let _ = (header, remote);
        false
    }

    /// The CHILD_SAs, oldest first.
    pub fn children(&self) -> impl Iterator<Item = ChildView<'_>> {
        core::iter::empty()
    }
}
