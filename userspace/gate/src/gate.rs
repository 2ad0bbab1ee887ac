//! The state machine of one tunnel.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use mitregate_esp::ids::EpochId;
use mitregate_wire::echo::{Echo, Kind};
use rand_core::Rng;

use crate::{
    Action, EpochView, GateConfig, GateCounters, GateEvent, Input, Installed, LastAction, Output,
    PingCause, Proof, Proven, Reason, Recovery, Release, Role, State,
    epoch::Epoch,
    escalation::{Escalation, Step},
    liveness::Liveness,
    outage::Outage,
    probe::Expired,
    responder::Bucket,
    user_ping::UserRun,
    withhold::Withheld,
};

/// Unproven epochs that a tunnel may have at a time; a further one displaces the oldest.
const UNPROVEN_EPOCHS: usize = 2;

/// The gate of one tunnel. See the [crate's documentation](crate).
///
/// After each `handle_*` call take [`Output`]s until there are none, and ask again when to call
/// [`handle_timeout`](Self::handle_timeout). A clone is without the outputs that were not taken.
#[derive(Debug, Clone)]
pub struct Gate {
    pub(crate) config: GateConfig,
    pub(crate) epochs: Vec<Epoch>,
    /// The epoch that carries data.
    pub(crate) active: Option<EpochId>,
    pub(crate) escalation: Escalation,
    pub(crate) liveness: Option<Liveness>,
    pub(crate) users: Vec<UserRun>,
    pub(crate) bucket: Bucket,
    pub(crate) warned_optimistic: bool,
    /// The target of ICMP that has answered last.
    pub(crate) answering: Option<IpAddr>,
    /// The peer has sent an ESP Echo: an answer or a ping.
    pub(crate) peer_answers: bool,
    /// See [`Gate::release_silent`].
    pub(crate) peer_mute: bool,
    pub(crate) counters: GateCounters,
    pub(crate) outage: Outage,
    pub(crate) withheld: Withheld,
    last_action: Option<LastAction>,
    pub(crate) outputs: Outputs,
}

/// What was not taken yet. It stays with the original: a [`Proven`] is never doubled.
#[derive(Debug, Default)]
pub(crate) struct Outputs(pub(crate) VecDeque<Output>);

impl Clone for Outputs {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Gate {
    /// A gate without epochs.
    #[must_use]
    pub fn new(config: GateConfig) -> Self {
        Self {
            bucket: Bucket::full(&config.echo),
            config,
            epochs: Vec::new(),
            active: None,
            escalation: Escalation::new(),
            liveness: None,
            users: Vec::new(),
            warned_optimistic: false,
            answering: None,
            peer_answers: false,
            peer_mute: false,
            counters: GateCounters::default(),
            outage: Outage::default(),
            withheld: Withheld::default(),
            last_action: None,
            outputs: Outputs::default(),
        }
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Duration, input: Input<'_>, rng: &mut dyn Rng) {
        match input {
            Input::Installed(installed) => self.installed(now, &installed, rng),
            Input::Echo { epoch, echo } => self.echo(now, epoch, &echo, rng),
            Input::IcmpReply {
                epoch,
                id,
                seq,
                size,
            } => self.icmp_reply(now, epoch, id, seq, size),
            Input::FirstInbound { epoch, data } => self.first_inbound(now, epoch, data),
            Input::Deleted { epoch, by_peer } => self.deleted(now, epoch, by_peer, rng),
            Input::Redundant { epoch } => self.lost(now, epoch),
            Input::RekeyDue { epoch } => {
                if self.active == Some(epoch) {
                    let step = Step::Rekey { replaces: epoch };
                    self.escalation
                        .request(now, step, Reason::Lifetime, &self.config, rng);
                }
            }
            Input::RekeyFailed => self.escalation.rekey_failed(now),
            Input::SessionFailed => self.escalation.session_failed(),
            Input::Activity(activity) => {
                if let (Some(live), Some(idle)) = (&mut self.liveness, &self.config.idle) {
                    live.activity(now, activity, idle);
                }
            }
            Input::PathChanged => self.check_active(now, PingCause::PathChanged, rng),
            Input::EncapChanged { epoch } => {
                if self.active == Some(epoch) {
                    self.outage.encap_changed();
                }
            }
            Input::UserPing(request) => self.user_ping(now, &request, rng),
            Input::UserPingStop { token } => {
                for run in self.users.iter_mut().filter(|run| run.token == token) {
                    run.stop();
                }
            }
        }
        self.ask_released(now, rng);
        self.escalate(now);
        self.serve_users(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration, rng: &mut dyn Rng) {
        for at in 0..self.epochs.len() {
            if self.epochs[at].probe.deadline().is_some_and(|t| t <= now) {
                self.probe_expired(now, at, rng);
            }
        }
        if let (Some(live), Some(idle)) = (&mut self.liveness, &self.config.idle) {
            let active = self.active;
            let epoch = self
                .epochs
                .iter()
                .find(|e| Some(e.id) == active && e.can_be_asked());
            // Where nobody ever answers, nothing is learnt from silence.
            let mute = epoch.is_some_and(|e| match e.icmp {
                Some(_) => e.icmp != self.answering,
                None => self.peer_mute,
            });
            let suspect = mute || epoch.is_some_and(|e| e.state == State::Suspect);
            // Pings that a restarted peer cannot answer would take others' bindings at some NATs.
            let forgotten = suspect && self.escalation.is_forgotten();
            if epoch.is_some_and(|e| !e.probe.running())
                && let Some(cause) = live.tick(now, suspect, idle)
                && !forgotten
            {
                self.check_active(now, cause, rng);
            }
        }
        self.drain(now);
        self.let_go(now);
        self.escalate(now);
        self.serve_users(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let epochs = self
            .epochs
            .iter()
            .flat_map(|e| [e.probe.deadline(), e.drain_deadline]);
        let live = self
            .liveness
            .as_ref()
            .filter(|_| self.active_can_be_asked());
        epochs
            .flatten()
            .chain(self.escalation.deadline())
            .chain(self.withheld.deadline())
            .chain(live.map(Liveness::deadline))
            .chain(
                self.users
                    .iter()
                    .map(|run| run.deadline(self.config.user_ping_timeout)),
            )
            .min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.0.pop_front()
    }

    /// The epochs, oldest first.
    pub fn epochs(&self) -> impl Iterator<Item = EpochView> + '_ {
        self.epochs.iter().map(|epoch| epoch.view(self.active))
    }

    /// The epoch that carries data.
    #[must_use]
    pub fn active(&self) -> Option<EpochId> {
        self.active
    }

    /// Counts since the gate was made.
    #[must_use]
    pub fn counters(&self) -> GateCounters {
        self.counters
    }

    /// How long in all the tunnel was a black hole, from the first sign of each to the next proof; the
    /// present one is included.
    #[must_use]
    pub fn black_hole(&self, now: Duration) -> Duration {
        self.outage.total(now)
    }

    /// What it did last on its own account.
    #[must_use]
    pub fn last_action(&self) -> Option<LastAction> {
        self.last_action
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &GateConfig {
        &self.config
    }

    fn installed(&mut self, now: Duration, installed: &Installed, rng: &mut dyn Rng) {
        if self.position(installed.epoch).is_some() {
            return;
        }
        self.escalation.satisfied(installed.replaces.is_some());
        let id = self.fresh_ping_id(rng);
        let epoch = Epoch::new(now, installed, self.config.mode, id);
        let peer_echo = epoch.peer_echo && !self.peer_mute;
        self.epochs.push(epoch);
        self.displace_unproven(now);
        let Some(at) = self.position(installed.epoch) else {
            return;
        };
        if installed.redundant {
            self.redundant(now, at);
        } else if peer_echo {
            if self.config.role == Role::Client {
                self.begin_probe(now, at, self.tries(), PingCause::New, rng);
            } else {
                self.epochs[at].drain_deadline = Some(now + self.config.drain_max);
            }
        } else if self.active.is_none() {
            self.prove(now, at, Proof::Released(Release::FirstSa));
        } else if self.target_answers(at)
            && (installed.initiated || self.config.role == Role::Client)
        {
            self.begin_probe(now, at, self.config.tries, PingCause::New, rng);
        } else if installed.initiated {
            self.prove(now, at, Proof::Released(Release::RekeyAnswered));
        }
    }

    /// Pings that a new epoch gets.
    fn tries(&self) -> u32 {
        match self.active {
            Some(_) => self.config.tries,
            None => self.config.first_tries,
        }
    }

    /// One that we made and that lost to the peer's: it goes as soon as that one is proven.
    fn redundant(&mut self, now: Duration, at: usize) {
        let won = self.active.is_some_and(|active| {
            let winner = self.epochs.iter().find(|e| e.id == active);
            winner.is_some_and(|e| e.replaces == self.epochs[at].replaces && !e.initiated)
        });
        if won {
            self.abandon(now, at);
        } else {
            self.epochs[at].drain_deadline = Some(now + self.config.drain_max);
        }
    }

    /// One that lost to another that replaces the same. The peer's: if it carries data already, it does so
    /// until ours is proven. Ours: it goes when the peer's carries data.
    fn lost(&mut self, now: Duration, epoch: EpochId) {
        let Some(at) = self.position(epoch) else {
            return;
        };
        let epoch = &mut self.epochs[at];
        if epoch.is_unproven() {
            epoch.redundant = true;
            epoch.probe.stop();
            // The peer may not know.
            epoch.drain_deadline = Some(now + self.config.drain_max);
        } else if epoch.initiated {
            epoch.redundant = true;
        }
    }

    /// What was redundant is all there is: it has its chance.
    fn rehabilitate(&mut self, now: Duration, rng: &mut dyn Rng) -> bool {
        let redundant = |e: &Epoch| e.redundant && e.is_unproven() && e.peer_echo;
        let Some(at) = self.epochs.iter().position(redundant) else {
            return false;
        };
        self.epochs[at].redundant = false;
        self.epochs[at].drain_deadline = None;
        self.begin_probe(now, at, self.tries(), PingCause::New, rng);
        true
    }

    fn echo(&mut self, now: Duration, epoch: EpochId, echo: &Echo<'_>, rng: &mut dyn Rng) {
        let Some(at) = self.position(epoch) else {
            return;
        };
        if let Some(live) = &mut self.liveness {
            live.heard(now);
        }
        // Whoever speaks ESP Echo is not mute, whatever was lost so far.
        self.peer_answers = true;
        self.peer_mute = false;
        self.heard(now, at);
        match echo.kind {
            Kind::Request { return_spi } => {
                self.answer(now, at, echo, return_spi);
                let epoch = &self.epochs[at];
                let doubtful = epoch.is_unproven() || epoch.state == State::Suspect;
                if self.config.role == Role::Server && doubtful {
                    self.server_probe(now, at, rng);
                }
            }
            Kind::Response => self.answered(now, at, echo),
        }
    }

    /// The client's ping is there: its NAT is bound, and our own direction can be asked for.
    fn server_probe(&mut self, now: Duration, at: usize, rng: &mut dyn Rng) {
        if self.epochs[at].peer_echo && !self.epochs[at].probe.running() {
            self.begin_probe(now, at, self.tries(), PingCause::ClientPinged, rng);
        }
    }

    fn answered(&mut self, now: Duration, at: usize, response: &Echo<'_>) {
        let Echo { id, seq, data, .. } = *response;
        if let Some(sent) = self.epochs[at].probe.answered(id, seq) {
            self.own_ping_answered(now, at, sent);
        } else {
            self.user_ping_answered(now, at, (id, seq), data.len());
        }
    }

    pub(crate) fn own_ping_answered(&mut self, now: Duration, at: usize, sent: Duration) {
        let (epoch, rtt) = (self.epochs[at].id, now.saturating_sub(sent));
        self.counters.pings_answered += 1;
        self.event(GateEvent::PingAnswered { epoch, rtt });
        self.ping_succeeded(now, at, rtt);
    }

    pub(crate) fn ping_succeeded(&mut self, now: Duration, at: usize, rtt: Duration) {
        let epoch = &mut self.epochs[at];
        epoch.last_rtt = Some(rtt);
        epoch.probe.stop();
        let proof = match epoch.icmp {
            Some(_) => Proof::Icmp(rtt),
            None => Proof::Ping(rtt),
        };
        if self.active == Some(epoch.id) {
            epoch.proof = Some(proof);
            if let Some(live) = &mut self.liveness {
                live.answered(now);
            }
            let kind = match self.outage.changed_encap() {
                true => Recovery::Encap,
                false => Recovery::RePing,
            };
            self.recovered(now, kind);
            self.proven_again();
            if self.epochs[at].state == State::Suspect {
                self.set_state(now, at, State::Proven);
                self.escalation.reset();
            }
        } else if self.epochs[at].is_unproven() {
            self.prove(now, at, proof);
        }
    }

    fn first_inbound(&mut self, now: Duration, epoch: EpochId, data: bool) {
        let Some(at) = self.position(epoch) else {
            return;
        };
        self.heard(now, at);
        if !data {
            return;
        }
        self.epochs[at].peer_data = true;
        // A gated client sends its first data on the epoch that it has just chosen. So this also settles
        // which of two epochs counts when both ends proved them in a different order.
        let chosen = self.config.role == Role::Server && self.epochs[at].peer_echo;
        if chosen && self.active != Some(epoch) {
            self.epochs[at].probe.stop();
            self.prove(now, at, Proof::PeerData);
        }
    }

    /// Something authenticated came in on this epoch.
    pub(crate) fn heard(&mut self, now: Duration, at: usize) {
        self.epochs[at].heard = Some(now);
        let gated = self.epochs[at].peer_echo && !self.peer_mute;
        if !gated && self.epochs[at].is_unproven() {
            self.prove(now, at, Proof::Released(Release::InboundOnNew));
        }
    }

    fn deleted(&mut self, now: Duration, epoch: EpochId, by_peer: bool, rng: &mut dyn Rng) {
        if self.position(epoch).is_none() {
            return;
        }
        let was_active = self.active == Some(epoch);
        if was_active {
            self.active = None;
            self.fall_back(now, epoch, by_peer);
        }
        self.remove(now, epoch);
        if self.active.is_some() {
            self.expect_on_new(now, epoch, rng);
            return;
        }
        self.liveness = None;
        if self.config.role == Role::Client {
            self.rehabilitate(now, rng);
        }
        // One whose pings are exhausted is nothing to wait for.
        let hope = |e: &Epoch| e.is_unproven() && (e.probe.running() || !e.can_be_asked());
        if by_peer && self.config.role == Role::Client && !self.epochs.iter().any(hope) {
            let (step, reason) = (Step::NewSession, Reason::Deleted);
            self.escalation
                .request(now, step, reason, &self.config, rng);
        }
    }

    /// The active epoch goes; another that may carry data takes its place.
    fn fall_back(&mut self, now: Duration, gone: EpochId, by_peer: bool) {
        let heir = self.epochs.iter().rposition(|e| {
            let silent = e.icmp.is_some() || by_peer;
            silent && e.replaces == Some(gone) && !e.peer_echo && e.is_unproven()
        });
        if let Some(at) = heir {
            self.prove(now, at, Proof::Released(Release::OldDeleted));
            return;
        }
        // One that was proven and replaced, and that the peer has not given up: it kept that one.
        let standby = self.epochs.iter().enumerate().rev().find_map(|(at, e)| {
            (e.id != gone && e.state == State::Draining && !e.deleting)
                .then_some(at)
                .zip(e.proof)
        });
        if let Some((at, proof)) = standby {
            self.prove(now, at, proof);
            return;
        }
        // With nothing else to send on it is as for a first SA.
        let gated = |e: &Epoch| e.peer_echo && !self.peer_mute;
        let last = self
            .epochs
            .iter()
            .rposition(|e| e.id != gone && e.is_unproven() && !e.redundant && !gated(e));
        if let Some(at) = last {
            self.prove(now, at, Proof::Released(Release::FirstSa));
        }
    }

    /// The epoch carries data from now on; what it replaces drains.
    pub(crate) fn prove(&mut self, now: Duration, at: usize, proof: Proof) {
        let epoch = self.epochs[at].id;
        let before = self.active.replace(epoch);
        self.epochs[at].proof = Some(proof);
        self.epochs[at].drain_deadline = None;
        self.set_state(now, at, State::Proven);
        if proof.is_proof() {
            self.counters.proven += 1;
        } else {
            self.counters.released += 1;
            // Who can be asked by ICMP may answer in a moment.
            let asked = self.epochs[at].icmp.is_some();
            if !asked || proof == Proof::Released(Release::TargetSilent) {
                self.warn_optimistic(epoch);
            }
        }
        if proof.is_proof() || !self.target_answers(at) {
            self.escalation.reset();
        } else {
            // Whether its path is any better is still to be seen.
            self.escalation.satisfied(true);
        }
        let rekeyed = self.epochs[at].replaces.is_some();
        self.recovered(
            now,
            if rekeyed {
                Recovery::Rekey
            } else {
                Recovery::NewIke
            },
        );
        self.withheld = Withheld::No;
        self.acted(now, Action::Activate { epoch, proof });
        self.outputs
            .0
            .push_back(Output::Activate(Proven::new(epoch, proof)));
        if let Some(idle) = &self.config.idle {
            match &mut self.liveness {
                Some(live) => live.restart(now, idle),
                None => self.liveness = Some(Liveness::new(now, idle)),
            }
        }
        let first_look = now + self.config.drain_min;
        for other in 0..self.epochs.len() {
            let e = &mut self.epochs[other];
            if before == Some(e.id) && e.id != epoch {
                e.probe.stop();
                e.drain_deadline = Some(first_look);
                self.set_state(now, other, State::Draining);
            } else if e.id != epoch && e.is_unproven() {
                // The first to be proven wins. On the server the client decides.
                let ours = e.redundant && e.initiated;
                if ours || self.config.role == Role::Client {
                    self.abandon(now, other);
                }
            }
        }
    }

    /// Gives an epoch up: it drains no more than it takes to tell the peer.
    pub(crate) fn abandon(&mut self, now: Duration, at: usize) {
        let epoch = &mut self.epochs[at];
        epoch.probe.stop();
        epoch.drain_deadline = None;
        if !epoch.deleting {
            epoch.deleting = true;
            let id = epoch.id;
            self.set_state(now, at, State::Draining);
            self.outputs.0.push_back(Output::Delete { epoch: id });
        }
    }

    fn displace_unproven(&mut self, now: Duration) {
        while self.unproven() > UNPROVEN_EPOCHS {
            let Some(at) = self.epochs.iter().position(Epoch::is_unproven) else {
                return;
            };
            self.abandon(now, at);
        }
    }

    fn unproven(&self) -> usize {
        self.epochs.iter().filter(|e| e.is_unproven()).count()
    }

    pub(crate) fn begin_probe(
        &mut self,
        now: Duration,
        at: usize,
        tries: u32,
        cause: PingCause,
        rng: &mut dyn Rng,
    ) {
        let epoch = self.epochs[at].id;
        self.acted(now, Action::Ping { epoch, cause });
        let epoch = &mut self.epochs[at];
        epoch.probe.begin(now, tries, self.config.ping_timeout);
        if epoch.proof.is_none() {
            self.set_state(now, at, State::Probing);
        }
        self.ping(now, at, rng);
    }

    fn ping(&mut self, now: Duration, at: usize, rng: &mut dyn Rng) {
        let Some((id, seq, wait)) = self.epochs[at].probe.ping(now) else {
            return;
        };
        let deadline = now + self.config.jittered(wait, rng);
        self.epochs[at]
            .probe
            .wait_until(deadline, self.config.grow(wait));
        self.counters.pings_sent += 1;
        self.ask(at, id, seq, 0);
    }

    fn probe_expired(&mut self, now: Duration, at: usize, rng: &mut dyn Rng) {
        let Some(expired) = self.epochs[at].probe.expired() else {
            return;
        };
        let epoch = self.epochs[at].id;
        let (Expired::Again(in_a_row) | Expired::Exhausted(in_a_row)) = expired;
        self.counters.pings_lost += 1;
        self.event(GateEvent::PingLost { epoch, in_a_row });
        let mute = self.is_mute(at);
        if self.epochs[at].proof.is_some() && !mute {
            self.set_state(now, at, State::Suspect);
            if self.active == Some(epoch) {
                self.outage.lost();
            }
        }
        if let Expired::Again(_) = expired {
            self.ping(now, at, rng);
            return;
        }
        if mute {
            return self.warn_optimistic(epoch);
        }
        self.set_state(now, at, State::Suspect);
        self.withhold(now, at);
        if self.release_silent(now, at) {
            return;
        }
        if self.config.role == Role::Server {
            // Rekeys are the client's; its next ping makes us ask again.
            return;
        }
        if self.epochs[at].proof.is_none() && self.rehabilitate(now, rng) {
            return;
        }
        let (step, reason) = if self.epochs[at].proof.is_some_and(Proof::is_proof) {
            (Step::Rekey { replaces: epoch }, Reason::PathLost)
        } else {
            (
                self.escalation.epoch_failed(epoch, &self.config),
                Reason::Unproven,
            )
        };
        self.escalation
            .request(now, step, reason, &self.config, rng);
    }

    /// Pings the epoch that carries data, unless that is under way.
    fn check_active(&mut self, now: Duration, cause: PingCause, rng: &mut dyn Rng) {
        let Some(at) = self.active.and_then(|id| self.position(id)) else {
            return;
        };
        if !self.epochs[at].can_be_asked() || self.epochs[at].probe.running() {
            return;
        }
        let mute = self.is_mute(at);
        let mut first_sign = now;
        if let (Some(live), Some(idle)) = (&mut self.liveness, &self.config.idle) {
            first_sign = live.unanswered_since().unwrap_or(now);
            live.pinged(now, idle);
        }
        if mute {
            return self.begin_probe(now, at, 1, cause, rng);
        }
        self.outage.suspect(first_sign);
        self.begin_probe(now, at, self.config.suspect_tries, cause, rng);
    }

    fn active_can_be_asked(&self) -> bool {
        self.epochs
            .iter()
            .any(|e| self.active == Some(e.id) && e.can_be_asked() && !e.probe.running())
    }

    pub(crate) fn escalate(&mut self, now: Duration) {
        while let Some((step, reason)) = self.escalation.poll(now, &self.config) {
            self.acted(
                now,
                match step {
                    Step::Rekey { .. } => Action::Rekey { reason },
                    Step::NewSession => Action::NewSession { reason },
                },
            );
            self.outputs.0.push_back(match step {
                Step::Rekey { replaces } => {
                    self.counters.rekeys += 1;
                    Output::Rekey { replaces, reason }
                }
                Step::NewSession => {
                    self.counters.new_sessions += 1;
                    Output::NewIkeSession { reason }
                }
            });
        }
    }

    /// Sends a request in the way that this epoch is asked.
    pub(crate) fn ask(&mut self, at: usize, id: u16, seq: u16, size: usize) {
        let Epoch {
            id: epoch, icmp, ..
        } = self.epochs[at];
        if icmp.is_some() {
            self.outputs.0.push_back(Output::SendIcmp {
                epoch,
                id,
                seq,
                size,
            });
        } else {
            self.send(at, &request(id, seq, &vec![0; size]));
        }
    }

    pub(crate) fn send(&mut self, at: usize, echo: &Echo<'_>) {
        let epoch = self.epochs[at].id;
        let mut payload = vec![0; echo.emitted_len()];
        if echo.emit(&mut payload).is_ok() {
            self.outputs
                .0
                .push_back(Output::SendEcho { epoch, payload });
        }
    }

    /// An identifier that no ping under way has.
    pub(crate) fn fresh_ping_id(&self, rng: &mut dyn Rng) -> u16 {
        loop {
            let [a, b, ..] = rng.next_u32().to_be_bytes();
            let id = u16::from_be_bytes([a, b]);
            let taken = self.epochs.iter().any(|e| e.probe.id() == id)
                || self.users.iter().any(|run| run.id == id);
            if !taken {
                return id;
            }
        }
    }

    fn remove(&mut self, now: Duration, epoch: EpochId) {
        if let Some(at) = self.position(epoch) {
            self.set_state(now, at, State::Dead);
            self.epochs.remove(at);
            self.outputs.0.push_back(Output::Retire { epoch });
        }
    }

    pub(crate) fn set_state(&mut self, now: Duration, at: usize, to: State) {
        let epoch = &mut self.epochs[at];
        let from = core::mem::replace(&mut epoch.state, to);
        if from != to {
            epoch.since = now;
            let epoch = epoch.id;
            self.event(GateEvent::State { epoch, from, to });
        }
    }

    /// The path is proven: if it was a black hole, that is over.
    pub(crate) fn recovered(&mut self, now: Duration, kind: Recovery) {
        if let Some(outage) = self.outage.over(now) {
            self.counters.recoveries.count(kind);
            self.event(GateEvent::Recovered { kind, outage });
        }
    }

    pub(crate) fn acted(&mut self, at: Duration, action: Action) {
        self.last_action = Some(LastAction { action, at });
        self.event(GateEvent::Acted(action));
    }

    pub(crate) fn event(&mut self, event: GateEvent) {
        self.outputs.0.push_back(Output::Event(event));
    }

    pub(crate) fn position(&self, epoch: EpochId) -> Option<usize> {
        self.epochs.iter().position(|e| e.id == epoch)
    }
}

fn request(id: u16, seq: u16, data: &[u8]) -> Echo<'_> {
    Echo {
        kind: Kind::Request { return_spi: None },
        id,
        seq,
        data,
    }
}
