//! What the checker finds where there is no gate, or half of one, and what it does not find with it.

use mitregate_model::command::{Case, Report, cases, judge};
use mitregate_model::config::{Config, Rule};
use mitregate_model::explore::replay;
use mitregate_model::world::{Action, Side, World, broken};

fn judged(case: &Case) -> Report {
    match judge(case, 2, 2_000_000, &mut |_, _, _| {}) {
        Ok(report) => report,
        Err(error) => panic!("{}: {error:#}", case.name),
    }
}

fn holds(config: Config) -> Report {
    let case = Case {
        name: "test",
        about: "",
        config,
        breaks: &[],
        stops: false,
    };
    let report = judged(&case);
    assert!(report.complete);
    for verdict in &report.verdicts {
        let trace = verdict.trace.as_deref().unwrap_or_default();
        assert_eq!(verdict.holds, Some(true), "{}\n{trace}", verdict.property);
    }
    report
}

fn named(name: &str) -> Case {
    let case = cases().into_iter().find(|case| case.name == name);
    case.unwrap_or_else(|| panic!("no case {name}"))
}

#[test]
fn the_gate_holds_through_a_crash_of_the_nat() {
    let report = holds(Config {
        crashes: 1,
        ..Config::default()
    });
    // A model in which little can happen proves little.
    assert!(report.states > 500, "{}", report.states);
    assert!(report.compared > 0);
}

#[test]
fn the_gate_holds_with_two_clients_that_start_at_once() {
    holds(Config {
        clients: 2,
        ..Config::default()
    });
}

#[test]
fn the_gate_holds_through_a_rekey_with_a_fault() {
    holds(Config {
        rekeys: 1,
        faults: 1,
        ..Config::default()
    });
}

/// A client whose answers were lost took a server that had pinged it for one that knows no pings, once.
#[test]
fn the_gate_holds_through_a_crash_with_a_fault() {
    holds(Config {
        crashes: 1,
        faults: 1,
        ..Config::default()
    });
}

/// F2 without a gate: each client gets the other's packets, and nothing ever mends it.
#[test]
fn without_the_gate_it_finds_the_black_hole() {
    let report = judged(&named("off"));
    assert!(report.complete && report.expected, "{:#?}", report.verdicts);
    let broken = report.verdicts.iter().find(|v| v.holds == Some(false));
    let trace = broken.and_then(|v| v.trace.as_deref()).unwrap_or_default();
    let (stem, cycle) = trace.split_once("for ever:").unwrap_or_default();
    assert!(stem.contains("bound: inbound B1"), "{trace}");
    assert!(
        cycle.contains("data A1") && cycle.contains("WRONG"),
        "{trace}"
    );
}

/// The same step by step, whatever the checker finds first.
#[test]
fn the_black_hole_is_there() {
    let config = named("off").config;
    let (a, b) = (0, 1);
    let way = [
        Action::Request(a, 0),
        Action::Response(a, 0),
        Action::App(a, Side::Client),
        Action::Deliver(0),
        Action::Request(b, 0),
        Action::Response(b, 0),
        // The server's packet for B comes while the NAT waits for one to A.
        Action::App(b, Side::Server),
        Action::Deliver(0),
        Action::App(b, Side::Client),
        Action::Deliver(0),
    ];
    let (mut world, _) = replay(&config, &way);
    for _ in 0..3 {
        let before = world.host(b, Side::Client).book[0];
        world = step(&config, &world, Action::App(b, Side::Server));
        world = step(&config, &world, Action::Deliver(0));
        assert_eq!(world.host(b, Side::Client).book[0], before);
        assert!(!before.any, "nothing has ever come to B");
    }
    // And nobody looks at it: without a gate no time is set.
    assert_eq!(world.deadline(), None);
}

fn step(config: &Config, world: &World, action: Action) -> World {
    let taken = world.take(config, action, None);
    taken.unwrap_or_else(|| panic!("{action:?}")).world
}

/// The server moves its data when it has answered a ping. The answer is lost, and the data after it, while
/// the epoch before would still do.
#[test]
fn with_one_round_trip_it_finds_the_half_proven_hole() {
    let report = judged(&named("one-round-trip"));
    assert!(report.expected, "{:#?}", report.verdicts);
    let hole = report
        .verdicts
        .iter()
        .find(|v| v.property.starts_with("no data lost"));
    let trace = hole.and_then(|v| v.trace.as_deref()).unwrap_or_default();
    assert!(
        trace.contains("I1 BROKEN") && trace.contains("HOLE"),
        "{trace}"
    );
}

/// G5 with the first response dropped (it is the channel that loses it): one round trip moves the server's
/// data, the gate as it is does not.
#[test]
fn a_lost_response_parts_one_round_trip_from_the_gate() {
    let way = [
        Action::Request(0, 0),
        Action::Response(0, 0),
        // The client's ping; then the server's answer is lost, its own ping stays under way.
        Action::Deliver(0),
        Action::Lose(0),
    ];
    let after = |rule| {
        let config = Config {
            rule,
            faults: 2,
            ..Config::default()
        };
        let (world, _) = replay(&config, &way);
        let taken = world.take(&config, Action::App(0, Side::Server), None);
        (world.host(0, Side::Server).data_on, taken.map(|t| t.broken))
    };
    let (data_on, broke) = after(Rule::OneRoundTrip);
    assert!(data_on.is_some());
    assert_eq!(broke, Some(broken::I1));
    let (data_on, broke) = after(Rule::Gate);
    assert_eq!((data_on, broke), (None, Some(0)), "its data waits");
}
