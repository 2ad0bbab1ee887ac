//! The loop: one event at a time goes in, and all that follows from it comes out before the next.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mitregate_control::{
    Command as ControlCommand, Control, ControlEvent, DataEvent, Datagram, Install, Output, Ticket,
};
use mitregate_dataplane::{
    Command, Epoch, EpochConfig, Event, Limits, Refusal, Returned, Selectors, Stopped, Tunnel,
};
use mitregate_esp::ids::TunnelId;
use mitregate_wire::WireError;
use mitregate_wire::frame::{parse_esp, parse_icmp_error, parse_udp};
use rtnetlink::packet_route::RouteNetlinkMessage;
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;

use super::addresses::Addresses;
use super::calls::{self, Calls, Subject};
use super::egress::Egress;
use super::key_files::KeyFiles;
use super::monitor::{Monitors, Times};
use super::stats;
use super::switch::Switch;
use crate::clock::{self, Timer};
use crate::control_socket::{Call, Responses};
use crate::net::guard::Guard;
use crate::net::nexthop::{Change, Events, NextHops, REFRESH};
use crate::protocol::{Request, Response};

/// Events taken from the worker before anything else gets its turn.
const EVENTS_PER_TURN: usize = 256;
/// When what waits unannounced gets its next turn.
const RETRY: Duration = Duration::from_millis(1);
/// How long the peers have to confirm our Deletes. Control's own bound is lower.
const SHUT_DOWN_WAIT: Duration = Duration::from_secs(4);
/// Route changes within this time are looked at together.
const ROUTES_SETTLE: Duration = Duration::from_millis(30);
/// CLOCK_BOOTTIME minus CLOCK_MONOTONIC grows by the time the machine slept.
const SLEPT: Duration = Duration::from_secs(1);
/// UDP payload of a NAT keepalive (RFC 3948 §2.3).
const KEEPALIVE: &[u8] = &[0xff];

/// All state of the running daemon.
pub struct EventLoop {
    control: Control,
    switch: Switch,
    egress: Egress,
    guard: Guard,
    /// The largest inner packet of each tunnel whose path has been looked at.
    path_mtus: BTreeMap<TunnelId, u16>,
    key_files: Option<KeyFiles>,
    addresses: Addresses,
    calls: Calls,
    monitors: Monitors,
    timer: Timer,
    worker_events: AsyncFd<OwnedFd>,
    started: Duration,
    now: Duration,
    sleep_offset: Duration,
    next_refresh: Duration,
    /// Something waits that nothing will announce: commands for room in the ring, or events of
    /// the worker beyond what one turn takes.
    behind: bool,
    /// Routes have changed: when to look, once for all that changed until then.
    routes_due: Option<Duration>,
    /// Ours on the outer interface are to be looked at together with them.
    addresses_changed: bool,
    /// The same for the tunnels' own routes, and those that compete with them.
    guard_due: Option<Duration>,
    /// Set while shutting down: when to go without the peers' confirmation.
    ending: Option<Duration>,
    ended: bool,
}

impl EventLoop {
    pub fn new(
        control: Control,
        switch: Switch,
        hops: NextHops,
        guard: Guard,
        key_files: Option<KeyFiles>,
        addresses: Addresses,
    ) -> Result<Self> {
        let fd = switch.worker().event_fd().try_clone_to_owned()?;
        // Deprecated for types that lie about their descriptor; OwnedFd does not.
        #[allow(deprecated)]
        let worker_events = AsyncFd::with_interest(fd, Interest::READABLE)?;
        let now = clock::now();
        Ok(Self {
            control,
            switch,
            egress: Egress::new(hops),
            guard,
            path_mtus: BTreeMap::new(),
            key_files,
            addresses,
            calls: Calls::default(),
            monitors: Monitors::default(),
            timer: Timer::new()?,
            worker_events,
            started: now,
            now,
            sleep_offset: clock::slept(),
            next_refresh: now + REFRESH,
            behind: false,
            routes_due: None,
            addresses_changed: false,
            guard_due: None,
            ending: None,
            ended: false,
        })
    }

    /// What is to be taken down when the loop has ended.
    pub fn into_parts(self) -> (Switch, NextHops, Addresses) {
        (self.switch, self.egress.into_hops(), self.addresses)
    }

    /// Until a signal, and what it leads to, or until something essential has failed.
    pub async fn run(&mut self, mut events: Events, mut calls: Receiver<Call>) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        loop {
            self.pump().await;
            if self.ended {
                return Ok(());
            }
            self.timer.set(self.next_deadline()).context("timer")?;
            tokio::select! {
                ready = self.worker_events.readable() => {
                    ready.context("the worker's events")?.clear_ready();
                    self.switch.worker().acknowledge();
                    self.worker_events().await?;
                }
                rung = self.timer.ring() => {
                    rung.context("timer")?;
                    self.timeout().await?;
                }
                event = events.next() => match event {
                    Some(first) => self.kernel_event(&first, &mut events).await?,
                    None => bail!("the kernel's route events have ended"),
                },
                Some(call) = calls.recv() => self.call(call).await,
                which = either(&mut terminate, &mut interrupt) => self.end(which),
            }
        }
    }

    fn tick(&mut self) -> Duration {
        self.now = self.now.max(clock::now());
        self.control.set_unix_time(self.now, clock::unix_time());
        self.now
    }

    fn times(&self) -> Times {
        Times {
            boottime: self.now,
            unix: clock::unix_time(),
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let retry = self.behind.then(|| self.now + RETRY);
        [
            self.control.poll_timeout(),
            retry,
            self.routes_due,
            self.guard_due,
            self.calls.poll_timeout(),
            self.ending,
            Some(self.next_refresh),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what control wants done, until it wants nothing more.
    async fn pump(&mut self) {
        while let Some(output) = self.control.poll_output() {
            self.output(output).await;
        }
        if let Some(files) = &mut self.key_files {
            files.save(&self.control.take_keys());
        }
        self.behind |= !self.egress.flush(self.switch.worker());
    }

    async fn output(&mut self, output: Output) {
        let Self { egress, switch, .. } = self;
        let hold = switch.hold();
        let worker = switch.worker();
        match output {
            Output::Transmit {
                local,
                remote,
                payload,
            } => {
                egress
                    .transmit(worker, self.now, local, remote, payload)
                    .await;
            }
            Output::AddTunnel(add) => {
                let policy = Selectors {
                    local: add.local_ts,
                    remote: add.remote_ts,
                };
                let tunnel = Tunnel::new(add.tunnel, policy, hold);
                egress.command(worker, Command::AddTunnel(tunnel));
            }
            Output::RemoveTunnel { tunnel } => {
                egress.command(worker, Command::RemoveTunnel { tunnel });
                if self.path_mtus.remove(&tunnel).is_some() {
                    self.follow_paths().await;
                }
            }
            Output::Install(install) => {
                let Install {
                    tunnel,
                    epoch,
                    inbound,
                    outbound,
                    local_ts,
                    remote_ts,
                    outer,
                    soft_packets,
                    soft_bytes,
                    tell_moves,
                    icmp_secret,
                    hard_packets,
                    hard_bytes,
                    counters,
                } = *install;
                let header = egress.install(tunnel, epoch, outer).await;
                let epoch = Epoch::new(EpochConfig {
                    tunnel,
                    epoch,
                    inbound,
                    outbound,
                    selectors: Selectors {
                        local: local_ts,
                        remote: remote_ts,
                    },
                    outer: header,
                    counters,
                    soft: Limits {
                        packets: soft_packets,
                        bytes: soft_bytes,
                    },
                    hard: Limits {
                        packets: hard_packets,
                        bytes: hard_bytes,
                    },
                });
                let epoch = if tell_moves {
                    epoch.telling_moves()
                } else {
                    epoch
                };
                let epoch = match icmp_secret {
                    Some(secret) => epoch.expecting_icmp(secret),
                    None => epoch,
                };
                egress.command(worker, Command::Install(epoch));
            }
            Output::Activate { tunnel, proven } => {
                let epoch = proven.epoch();
                egress.command(worker, Command::Activate { tunnel, epoch });
            }
            Output::Hold { tunnel } => egress.command(worker, Command::Hold { tunnel }),
            Output::SendInner {
                tunnel,
                epoch,
                next_header,
                via,
                pad_to,
                payload,
            } => {
                let via = match via {
                    Some(outer) => match egress.header_to(&outer).await {
                        Some(header) => Some(header),
                        None => return egress.count_dropped(),
                    },
                    None => None,
                };
                let Some(mut buffer) = worker.buffer() else {
                    egress.count_dropped();
                    return;
                };
                if buffer.set(&payload) {
                    let payload = buffer;
                    egress.command(
                        worker,
                        Command::SendInner {
                            tunnel,
                            epoch,
                            next_header,
                            via,
                            pad_to,
                            payload,
                        },
                    );
                }
            }
            Output::PathMtu {
                tunnel,
                outer,
                inner,
            } => {
                egress.command(worker, Command::SetPathMtu { tunnel, mtu: outer });
                self.path_mtus.insert(tunnel, inner);
                self.follow_paths().await;
            }
            Output::Retire { tunnel, epoch } => {
                egress.retire(tunnel, epoch);
                egress.command(worker, Command::Retire { tunnel, epoch });
            }
            Output::MovePeer {
                tunnel,
                epoch,
                outer,
            } => {
                egress.move_peer(worker, tunnel, epoch, outer).await;
            }
            Output::Event(event) => self.control_event(&event).await,
        }
    }

    /// The host's routes into the tunnels promise no more than the smallest of their paths carries.
    async fn follow_paths(&mut self) {
        let smallest = self.path_mtus.values().copied().min();
        let netlink = self.egress.hops().netlink();
        if let Err(error) = self.guard.set_mtu(netlink, smallest).await {
            tracing::warn!("{error:#}");
        }
    }

    async fn control_event(&mut self, event: &ControlEvent) {
        if let ControlEvent::VirtualAddresses {
            connection,
            addresses,
            dns,
        } = event
        {
            tracing::debug!(connection, ?addresses, ?dns, "virtual addresses");
            let netlink = self.egress.hops().netlink();
            let changed = self.guard.set_virtual(netlink, connection, addresses).await;
            if let Err(error) = changed {
                tracing::warn!("{error:#}");
            }
        }
        if *event == ControlEvent::ShutDown {
            self.ended = true;
        }
        if !self.monitors.is_empty()
            && let Some(view) = self.control.view_event(event)
        {
            self.monitors.tell(&self.times(), &view);
        }
        if let Some(ticket) = self.calls.note(event) {
            let _ = self
                .control
                .handle_command(self.now, ControlCommand::StopPing { ticket });
        }
    }

    async fn worker_events(&mut self) -> Result<()> {
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = self.switch.worker().poll_event() else {
                return Ok(());
            };
            self.tick();
            self.worker_event(event)?;
            self.pump().await;
        }
        self.behind = true;
        Ok(())
    }

    fn worker_event(&mut self, event: Event) -> Result<()> {
        let now = self.now;
        match event {
            Event::Outer { frame, .. } => self.outer_frame(&frame),
            Event::Inner {
                tunnel,
                epoch,
                next_header,
                new_highest,
                from,
                to,
                payload,
                ..
            } => self.control.handle_dataplane(
                now,
                DataEvent::Inner {
                    tunnel,
                    epoch,
                    next_header,
                    new_highest,
                    from,
                    to,
                    payload: &payload,
                },
            ),
            Event::FirstInbound {
                tunnel,
                epoch,
                data,
            } => {
                self.control.handle_dataplane(
                    now,
                    DataEvent::FirstInbound {
                        tunnel,
                        epoch,
                        data,
                    },
                );
            }
            Event::Moved {
                tunnel,
                epoch,
                from,
                to,
            } => {
                self.control.handle_dataplane(
                    now,
                    DataEvent::Moved {
                        tunnel,
                        epoch,
                        from,
                        to,
                    },
                );
            }
            Event::DataWaiting { tunnel } => {
                self.control
                    .handle_dataplane(now, DataEvent::DataWaiting { tunnel });
            }
            Event::SoftLimit { tunnel, epoch } => {
                self.control
                    .handle_dataplane(now, DataEvent::SoftLimit { tunnel, epoch });
            }
            Event::HardLimit { tunnel, epoch } => {
                self.control
                    .handle_dataplane(now, DataEvent::HardLimit { tunnel, epoch });
            }
            // Dropped here, not by the worker: keys are wiped, memory is freed.
            Event::Retired { .. } | Event::Removed { .. } => {}
            Event::Refused {
                returned: Some(Returned::Tunnel(_)),
                reason,
                ..
            } => bail!("the worker does not take all tunnels: {reason}"),
            Event::Refused {
                tunnel,
                epoch: Some(epoch),
                reason,
                returned: Some(Returned::Epoch(_)),
            } => {
                let reason = &reason.to_string();
                self.control.handle_dataplane(
                    now,
                    DataEvent::Refused {
                        tunnel,
                        epoch,
                        reason,
                    },
                );
            }
            Event::Refused {
                tunnel,
                epoch,
                reason,
                ..
            } => refused(tunnel.0, epoch, reason),
            Event::Stopped {
                reason: Stopped::Requested,
            } => {}
            Event::Stopped { reason } => bail!(
                "the data plane has ended: {reason} (is interface {} still there?)",
                self.switch.outer().interface
            ),
        }
        Ok(())
    }

    fn outer_frame(&mut self, frame: &[u8]) {
        if let Ok(esp) = parse_esp(frame) {
            let (local, remote) = (esp.dst, esp.src);
            return self
                .control
                .handle_plain_echo(self.now, local, remote, esp.packet);
        }
        match parse_udp(frame) {
            Ok(udp) if udp.payload == KEEPALIVE => {}
            Ok(udp) => self.control.handle_datagram(
                self.now,
                Datagram {
                    local: udp.dst,
                    remote: udp.src,
                    payload: udp.payload,
                },
            ),
            Err(WireError::Malformed) => tracing::debug!(
                bytes = frame.len(),
                "a datagram with a wrong checksum: noise, or from a stack on a veth whose offload \
                 left it unfinished (there: ethtool -K DEV tx off)"
            ),
            Err(not_udp) => match parse_icmp_error(frame) {
                Ok(error) => self.control.handle_icmp(self.now, &error),
                Err(_) => tracing::trace!(bytes = frame.len(), "not a datagram: {not_udp}"),
            },
        }
    }

    async fn timeout(&mut self) -> Result<()> {
        let now = self.tick();
        if self.ending.is_some_and(|deadline| deadline <= now) {
            tracing::warn!("ending although a peer has not confirmed");
            self.ended = true;
            return Ok(());
        }
        if clock::slept() > self.sleep_offset + SLEPT {
            self.sleep_offset = clock::slept();
            tracing::info!("the machine was asleep: checking all tunnels");
            self.path_changed();
        }
        if self
            .control
            .poll_timeout()
            .is_some_and(|deadline| deadline <= now)
        {
            self.control.handle_timeout(now);
        }
        if std::mem::take(&mut self.behind) {
            self.worker_events().await?;
        }
        if self.next_refresh <= now {
            self.next_refresh = now + REFRESH;
            self.egress.tend(now).await;
            self.routes_due = Some(now);
            self.addresses_changed = true;
            self.guard_due = Some(now);
            self.switch.flush_logs();
        }
        if self.routes_due.is_some_and(|due| due <= now) {
            self.routes_due = None;
            let changed = self.egress.routes_changed(self.switch.worker()).await;
            let moved = self.look_at_addresses().await?;
            self.after_change(changed && !moved);
        }
        if self.guard_due.is_some_and(|due| due <= now) {
            let netlink = self.egress.hops().netlink();
            self.guard_due = self.guard.check(netlink, now).await?;
        }
        if self.calls.poll_timeout().is_some_and(|due| due <= now) {
            self.calls.handle_timeout(now, &self.control.list(now));
        }
        Ok(())
    }

    async fn kernel_event(
        &mut self,
        first: &RouteNetlinkMessage,
        events: &mut Events,
    ) -> Result<()> {
        let now = self.tick();
        let mut changes: Vec<_> = self.egress.hops().note(first).into_iter().collect();
        let mut ours = self.guard.concerned_by(first);
        while let Some(event) = events.try_next() {
            changes.extend(self.egress.hops().note(&event));
            ours |= self.guard.concerned_by(&event);
        }
        if ours && self.guard_due.is_none() {
            self.guard_due = Some(now + ROUTES_SETTLE);
        }
        if changes.contains(&Change::OuterGone) {
            bail!("outer interface {} is gone", self.switch.outer().interface);
        }
        if changes.contains(&Change::Outer) {
            let outer = self.egress.hops().outer();
            let (name, up, mtu) = (&outer.name, outer.up, outer.mtu);
            tracing::info!(interface = name, up, mtu, "outer interface changed");
            self.control
                .set_mtus(now, None, Some(u16::try_from(mtu).unwrap_or(u16::MAX)));
            self.egress.outer_changed(self.switch.worker());
        }
        self.addresses_changed |= changes.contains(&Change::Addresses);
        let ways = changes
            .iter()
            .any(|change| matches!(change, Change::Routes | Change::Addresses));
        if ways && self.routes_due.is_none() {
            self.routes_due = Some(now + ROUTES_SETTLE);
        }
        if changes.contains(&Change::Neighbours) {
            let changed = self.egress.neighbours_changed(self.switch.worker()).await;
            self.after_change(changed);
        }
        Ok(())
    }

    /// Whether our addresses are others than before; the control plane knows then.
    async fn look_at_addresses(&mut self) -> Result<bool> {
        if !std::mem::take(&mut self.addresses_changed) {
            return Ok(false);
        }
        let hops = self.egress.hops();
        let (netlink, outer) = (hops.netlink(), hops.outer().index);
        let new = self
            .addresses
            .refresh(netlink, outer, &mut self.switch)
            .await?;
        let Some(addresses) = new else {
            return Ok(false);
        };
        // Refused only on the way down, when it does not matter any more.
        let command = ControlCommand::AddressesChanged { addresses };
        let _ = self.control.handle_command(self.now, command);
        Ok(true)
    }

    fn after_change(&mut self, another_way: bool) {
        if another_way {
            tracing::info!("the way to a peer has changed: checking its tunnels");
            self.path_changed();
        }
    }

    fn path_changed(&mut self) {
        // Refused only on the way down, when it does not matter any more.
        let _ = self
            .control
            .handle_command(self.now, ControlCommand::PathChanged);
    }

    async fn call(&mut self, call: Call) {
        let now = self.tick();
        let Call { request, responses } = call;
        let list = || self.control.list(now);
        match request {
            Request::ListSas => {
                let list = serde_json::to_value(list()).unwrap_or_default();
                self.done(&responses, list).await;
            }
            Request::ListPools => {
                let pools = serde_json::to_value(self.control.list_pools(now));
                let result = json!({"pools": pools.unwrap_or_default()});
                let _ = responses.try_send(Response::Done { result });
            }
            Request::Stats => {
                let uptime = now.saturating_sub(self.started).as_millis();
                let uptime = u64::try_from(uptime).unwrap_or(u64::MAX);
                let stats = stats::stats(&self.switch, uptime, self.egress.dropped(), &list());
                self.done(&responses, stats).await;
            }
            Request::Monitor { about } => {
                let times = self.times();
                self.monitors.add(&times, about, responses);
            }
            request => {
                let subject = Subject::of(&request);
                let Some(command) = calls::command(request) else {
                    return;
                };
                match self.control.handle_command(now, command) {
                    Ok(ticket) => self.calls.wait(now, ticket, subject, responses),
                    Err(error) => {
                        let _ = responses.try_send(Response::Error {
                            message: error.to_string(),
                        });
                    }
                }
            }
        }
    }

    /// With what the routes outside do to the tunnels.
    async fn done(&mut self, responses: &Responses, mut result: Value) {
        result["bypasses"] = self.guard.view(self.egress.hops().netlink()).await;
        let _: Result<(), _> = responses.try_send(Response::Done { result });
    }

    fn end(&mut self, signal: &str) {
        let now = self.tick();
        if self.ending.is_some() {
            tracing::warn!("{signal} again: ending at once");
            self.ended = true;
            return;
        }
        tracing::info!("{signal}: deleting the SAs at the peers");
        self.ending = Some(now + SHUT_DOWN_WAIT);
        let ticket: Result<Ticket, _> = self.control.handle_command(now, ControlCommand::ShutDown);
        if ticket.is_err() {
            self.ended = true;
        }
    }
}

fn refused(tunnel: u32, epoch: Option<mitregate_esp::ids::EpochId>, reason: Refusal) {
    let epoch = epoch.map_or(Value::Null, |epoch| epoch.0.into());
    match reason {
        // The two threads meet: a command for what has just gone.
        Refusal::NoSuchEpoch | Refusal::NoSuchTunnel => {
            tracing::debug!(tunnel, %epoch, "the worker refused a command: {reason}");
        }
        _ => tracing::error!(tunnel, %epoch, "the worker refused a command: {reason}"),
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
