//! What a peer, a NAT or a clock may do to a gate: no panic, no storm, and no data held for ever.

use std::net::IpAddr;
use std::time::Duration;

use mitregate_esp::ids::EpochId;
use mitregate_gate::{
    Activity, EchoRefusal, Gate, GateConfig, GateEvent, GateMode, Input, Installed, Output, Proof,
    Release, Role, UserPing,
};
use mitregate_wire::echo::{Echo, Kind};
use mitregate_wire::esp::Spi;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One gate, and a peer that does what the test says.
struct Alone {
    gate: Gate,
    now: Duration,
    rng: ChaCha20Rng,
    epoch: u64,
    peer_echo: bool,
    keyed_by_spi: bool,
    /// When data was told to wait.
    held: Vec<Duration>,
    icmp: Option<IpAddr>,
    /// IKE does what it is asked for.
    ike: bool,
    pings: Vec<(EpochId, u16, u16)>,
    asked: usize,
    activated: Vec<(EpochId, Proof)>,
    optimistic: usize,
    refused: Vec<EchoRefusal>,
    answered: Vec<EpochId>,
}

impl Alone {
    fn new(config: GateConfig) -> Self {
        Self {
            gate: Gate::new(config),
            now: s(1000),
            rng: ChaCha20Rng::seed_from_u64(7),
            epoch: 0,
            peer_echo: true,
            keyed_by_spi: false,
            held: Vec::new(),
            icmp: None,
            ike: true,
            pings: Vec::new(),
            asked: 0,
            activated: Vec::new(),
            optimistic: 0,
            refused: Vec::new(),
            answered: Vec::new(),
        }
    }

    fn client() -> Self {
        Self::new(GateConfig::new(Role::Client))
    }

    fn install(&mut self, replaces: Option<EpochId>) -> EpochId {
        self.epoch += 1;
        let epoch = EpochId(self.epoch);
        let spi = |n: u64| Spi::new(u32::try_from(n).unwrap()).unwrap();
        let installed = Installed {
            epoch,
            spi_in: spi(0x1000 + self.epoch),
            spi_out: spi(0x2000 + self.epoch),
            peer_echo: self.peer_echo,
            keyed_by_spi: self.keyed_by_spi,
            icmp: self.icmp,
            initiated: true,
            replaces,
            redundant: false,
        };
        self.input(Input::Installed(installed));
        epoch
    }

    fn input(&mut self, input: Input<'_>) {
        self.gate.handle(self.now, input, &mut self.rng);
        self.obey();
    }

    fn echo(&mut self, epoch: EpochId, kind: Kind, id: u16, seq: u16) {
        let data = &[0; 8];
        let echo = Echo {
            kind,
            id,
            seq,
            data,
        };
        self.input(Input::Echo { epoch, echo });
    }

    fn obey(&mut self) {
        while let Some(output) = self.gate.poll_output() {
            match output {
                Output::SendEcho { epoch, payload } => {
                    let echo = Echo::new_checked(&payload).unwrap();
                    match echo.kind {
                        Kind::Response => self.answered.push(epoch),
                        Kind::Request { .. } => self.pings.push((epoch, echo.id, echo.seq)),
                    }
                }
                Output::SendIcmp { epoch, id, seq, .. } => self.pings.push((epoch, id, seq)),
                Output::Activate(proven) => self.activated.push((proven.epoch(), proven.proof())),
                Output::Rekey { replaces, .. } => {
                    self.asked += 1;
                    if self.ike {
                        self.install(Some(replaces));
                    }
                }
                Output::NewIkeSession { .. } => {
                    self.asked += 1;
                    if self.ike {
                        self.install(None);
                    }
                }
                Output::Delete { epoch } => self.input(Input::Deleted {
                    epoch,
                    by_peer: false,
                }),
                Output::Event(GateEvent::Optimistic { .. }) => self.optimistic += 1,
                Output::Event(GateEvent::EchoRefused { refusal, .. }) => self.refused.push(refusal),
                Output::Hold { .. } => self.held.push(self.now),
                Output::Event(_) | Output::Retire { .. } => {}
            }
        }
    }

    /// Until `end`, at the gate's own pace.
    fn run(&mut self, end: Duration) {
        let mut rounds = 0;
        while let Some(at) = self.gate.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.gate.handle_timeout(self.now, &mut self.rng);
            self.obey();
            rounds += 1;
            assert!(rounds < 200_000, "it does not come to rest");
        }
        self.now = end;
    }

    /// Answers the last ping.
    fn answer(&mut self) {
        let (epoch, id, seq) = *self.pings.last().unwrap();
        self.echo(epoch, Kind::Response, id, seq);
    }
}

#[test]
fn a_peer_that_announces_esp_echo_and_never_answers_is_let_be() {
    let mut alone = Alone::client();
    alone.install(None);
    alone.run(s(2000));
    let [(epoch, Proof::Released(Release::MutePeer))] = alone.activated[..] else {
        panic!("{:?}", alone.activated);
    };
    assert_eq!(alone.optimistic, 1);
    // Bounded tries, and then no end of them.
    let (asked, pings) = (alone.asked, alone.pings.len());
    assert!(asked <= 12 && pings <= 12 * 5 + 100, "{asked}, {pings}");
    alone.run(s(20_000));
    assert_eq!(alone.asked, asked);
    let later = alone.pings.len() - pings;
    assert!(later <= 18_000 / 20, "{later}");
    // A rekey of such a tunnel holds nothing up.
    alone.input(Input::RekeyDue { epoch });
    assert_eq!(alone.activated.len(), 2);
    assert_eq!(alone.optimistic, 1);
    // And its first answer puts the gate into force.
    alone.run(s(20_040));
    alone.answer();
    let active = alone.gate.active().unwrap();
    let view = alone.gate.epochs().find(|e| e.epoch == active).unwrap();
    assert!(matches!(view.proof, Some(Proof::Ping(_))), "{view:?}");
    alone.input(Input::RekeyDue { epoch: active });
    assert_eq!(alone.activated.len(), 2, "the next epoch has to be proven");
}

#[test]
fn a_peer_whose_data_comes_without_any_answer_is_not_gated() {
    let mut alone = Alone::client();
    let epoch = alone.install(None);
    alone.input(Input::FirstInbound { epoch, data: true });
    assert_eq!(alone.activated, []);
    alone.run(s(1005));
    assert_eq!(
        alone.activated,
        [(epoch, Proof::Released(Release::MutePeer))]
    );
    assert_eq!((alone.asked, alone.optimistic), (0, 1));
}

#[test]
fn one_answer_ever_and_a_silent_path_is_a_silent_path() {
    let mut alone = Alone::client();
    alone.install(None);
    alone.answer();
    assert_eq!(alone.activated.len(), 1);
    alone.run(s(3000));
    // Never given up, never released, at the pace of the longest wait.
    assert_eq!(alone.activated.len(), 1);
    assert!((40..130).contains(&alone.asked), "{}", alone.asked);
}

/// Behind a NAT that notes each SPI: proven once, and then the path is dark.
fn lost_where_spis_are_noted(keyed_by_spi: bool) -> Alone {
    let mut alone = Alone::client();
    alone.keyed_by_spi = keyed_by_spi;
    alone.install(None);
    alone.answer();
    alone.run(s(1010));
    alone
}

#[test]
fn data_on_a_lost_epoch_waits_where_it_would_keep_fresh_spis_out() {
    let alone = lost_where_spis_are_noted(false);
    assert_eq!(alone.held, []);
    let mut alone = lost_where_spis_are_noted(true);
    let [at] = alone.held[..] else {
        panic!("{:?}", alone.held);
    };
    assert_eq!(alone.activated.len(), 1);
    // A ping on whichever epoch ends that.
    alone.answer();
    let [(old, _), (open, Proof::Ping(_))] = alone.activated[..] else {
        panic!("{:?}", alone.activated);
    };
    assert!(open >= old && alone.now < at + s(150));
}

#[test]
fn data_on_a_lost_epoch_does_not_wait_for_ever_and_once_in_an_outage() {
    let mut alone = lost_where_spis_are_noted(true);
    alone.run(s(1400));
    assert_eq!(alone.held.len(), 1);
    let [(old, _), (again, Proof::Ping(_))] = alone.activated[..] else {
        panic!("{:?}", alone.activated);
    };
    assert_eq!(old, again);
    // The next outage is another one.
    alone.answer();
    alone.run(s(1600));
    assert_eq!(alone.held.len(), 2);
}

#[test]
fn patience_on_a_first_epoch_is_configured_apart() {
    let mut config = GateConfig::new(Role::Client);
    config.first_tries = 9;
    config.tries = 2;
    let mut alone = Alone::new(config);
    alone.ike = false;
    alone.install(None);
    alone.run(s(1100));
    assert_eq!(alone.pings.len(), 9);
    let mut alone = Alone::new(alone.gate.config().clone());
    alone.install(None);
    alone.answer();
    alone.ike = false;
    let old = alone.gate.active();
    let epoch = alone.install(old);
    alone.run(s(1002));
    let on_new = alone.pings.iter().filter(|(at, ..)| *at == epoch);
    assert_eq!(on_new.count(), 2);
}

#[test]
fn forged_replayed_and_reflected_answers_prove_nothing() {
    let mut alone = Alone::client();
    let epoch = alone.install(None);
    let (_, id, seq) = alone.pings[0];
    // What was never asked, our own question come back, and an answer on an epoch that is not there.
    alone.echo(epoch, Kind::Response, id, seq.wrapping_add(1));
    alone.echo(epoch, Kind::Response, id.wrapping_add(1), seq);
    alone.echo(epoch, Kind::Request { return_spi: None }, id, seq);
    alone.echo(EpochId(99), Kind::Response, id, seq);
    assert_eq!(alone.activated, []);
    alone.echo(epoch, Kind::Response, id, seq);
    assert_eq!(alone.activated.len(), 1);
    // Once: a second of the same is no news of the path.
    let answered = alone.gate.counters().pings_answered;
    alone.echo(epoch, Kind::Response, id, seq);
    assert_eq!(alone.gate.counters().pings_answered, answered);
}

#[test]
fn an_icmp_answer_counts_once_and_for_its_question_only() {
    let mut alone = Alone::client();
    alone.peer_echo = false;
    alone.icmp = Some("10.2.0.1".parse().unwrap());
    let epoch = alone.install(None);
    assert_eq!(
        alone.activated,
        [(epoch, Proof::Released(Release::FirstSa))]
    );
    let (_, id, seq) = alone.pings[0];
    let reply = |id, seq| Input::IcmpReply {
        epoch,
        id,
        seq,
        size: 16,
    };
    for wrong in [reply(id ^ 1, seq), reply(id, seq + 7)] {
        alone.input(wrong);
        let view = alone.gate.epochs().next().unwrap();
        assert!(!view.proof.unwrap().is_proof());
    }
    alone.input(reply(id, seq));
    let view = alone.gate.epochs().next().unwrap();
    assert!(matches!(view.proof, Some(Proof::Icmp(_))));
    alone.input(reply(id, seq));
    assert_eq!(alone.gate.counters().pings_answered, 1);
    // A rekey waits now, and an answer on the old inbound SA proves the new outbound one.
    alone.input(Input::RekeyDue { epoch });
    let (on, id, seq) = *alone.pings.last().unwrap();
    assert!(on != epoch && alone.gate.active() == Some(epoch));
    alone.input(reply(id, seq));
    assert_eq!(alone.gate.active(), Some(on));
}

#[test]
fn an_icmp_target_that_never_answered_changes_nothing() {
    for mode in [GateMode::Auto, GateMode::Icmp] {
        let config = GateConfig {
            mode,
            ..GateConfig::new(Role::Client)
        };
        let mut alone = Alone::new(config);
        alone.peer_echo = false;
        alone.icmp = Some("2001:db8::1".parse().unwrap());
        let epoch = alone.install(None);
        for second in 1001..1400 {
            let activity = Activity {
                sent: second,
                received: 0,
            };
            alone.input(Input::Activity(activity));
            alone.run(s(second));
        }
        assert_eq!((alone.asked, alone.optimistic), (0, 1));
        assert_eq!(alone.gate.active(), Some(epoch));
        assert!(alone.pings.len() < 60, "{}", alone.pings.len());
        // A rekey is carried over by what RFC 7296 §2.8 says.
        alone.input(Input::RekeyDue { epoch });
        assert_ne!(alone.gate.active(), Some(epoch));
    }
}

#[test]
fn a_flood_costs_no_more_than_the_limit_whatever_the_clock_does() {
    let mut config = GateConfig::new(Role::Server);
    config.echo.rate = 10;
    config.echo.burst = 5;
    let mut alone = Alone::new(config);
    let epoch = alone.install(None);
    let flood = |alone: &mut Alone| {
        for seq in 0..1000 {
            alone.echo(epoch, Kind::Request { return_spi: None }, 1, seq);
        }
        std::mem::take(&mut alone.answered).len()
    };
    assert_eq!(flood(&mut alone), 5);
    // It stands still, goes back, and jumps ahead by hours.
    assert_eq!(flood(&mut alone), 0);
    alone.now = s(10);
    assert_eq!(flood(&mut alone), 0);
    alone.now = s(1_000_000);
    assert_eq!(flood(&mut alone), 5);
    assert!(alone.refused.iter().all(|r| *r == EchoRefusal::RateLimited));
    let foreign = Spi::new(0x9999).unwrap();
    alone.now += s(1);
    let return_spi = Some(foreign);
    alone.echo(epoch, Kind::Request { return_spi }, 1, 1);
    assert_eq!(alone.refused.last(), Some(&EchoRefusal::ForeignReturnSpi));
}

/// Clocks that stand still, step back or jump ahead: nothing panics, and what a jump makes due is done once.
#[test]
fn a_clock_that_jumps_makes_no_storm() {
    let mut alone = Alone::client();
    alone.install(None);
    alone.answer();
    let ping = UserPing {
        token: 1,
        count: 100,
        interval: ms(1000),
        size: 8,
    };
    alone.input(Input::UserPing(ping));
    let before = (alone.pings.len(), alone.asked);
    for now in [
        s(1000),
        s(1000),
        s(10),
        Duration::ZERO,
        s(999),
        s(50_000),
        s(50_000),
    ] {
        alone.now = now;
        for _ in 0..50 {
            alone.gate.handle_timeout(now, &mut alone.rng);
            alone.obey();
            alone.input(Input::PathChanged);
            let _ = alone.gate.epochs().count() + usize::from(alone.gate.last_action().is_some());
            let _ = alone.gate.black_hole(now);
        }
    }
    let pings = alone.pings.len() - before.0;
    assert!(pings <= 12, "{pings}");
    assert!(alone.asked - before.1 <= 1);
    // And it is at work as before.
    alone.ike = true;
    alone.run(s(50_060));
    alone.answer();
    assert!(alone.gate.active().is_some());
}

#[test]
fn a_new_ike_session_that_brings_no_epoch_is_asked_for_again() {
    let mut alone = Alone::client();
    alone.install(None);
    alone.answer();
    alone.ike = false;
    alone.run(s(1200));
    // A rekey, and a session beside it, whose CHILD_SA the peer refuses.
    assert_eq!(alone.asked, 2);
    for more in 1..4 {
        alone.input(Input::SessionFailed);
        alone.run(s(1200 + more * 200));
    }
    assert!((4..=12).contains(&alone.asked), "{}", alone.asked);
    assert!(alone.gate.active().is_some());
}
