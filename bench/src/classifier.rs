//! The classifier alone, by BPF_PROG_TEST_RUN: time per packet and verdict, beside a program that
//! only passes, in turns, so that both see the same noise.
//!
//! Needs root. Nothing is attached anywhere.

use std::{
    fmt::Write as _,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::{MapCore as _, MapFlags, Object, ObjectBuilder, ProgramInput};
use mitregate_classifier::object;
use mitregate_ebpf_common::{
    Role,
    fixtures::{Fixture, fixtures, our_keys},
    maps, programs,
};
use rustix::net::{AddressFamily, SocketType, socket};
use serde::Serialize;

/// Runs of one program on one frame per turn.
const REPEAT: u32 = 200_000;
/// Turns; the median of them is told.
const TURNS: usize = 9;

/// At least one frame per verdict, the usual ones first.
const FRAMES: &[&str] = &[
    "ipv4 esp",
    "ipv4 nat-t esp",
    "ipv4 ike",
    "ipv4 nat-t ike",
    "ipv4 keepalive",
    "ipv4 tcp",
    "ipv4 dns",
    "arp",
    "ipv4 esp for a neighbour",
    "ipv6 esp",
    "ipv6 nat-t esp",
    "ipv6 tcp",
    "two vlans, ipv4 esp",
    "ipv4 esp, first fragment",
    "ipv4 ike, first fragment",
    "ipv4 ike, middle fragment",
    "ipv4 later fragment, other id",
    "icmp unreachable about ike",
    "icmpv6 too big about esp",
    "ipv6 esp after six headers",
    "ipv6 esp after seven headers",
    "ipv4 total length beyond the frame",
    "inner tcp",
];

/// Time per packet of one program on one frame.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the XDP program.
    pub program: &'static str,
    /// Name of the frame in the fixture table.
    pub frame: &'static str,
    /// What the classifier calls it.
    pub verdict: &'static str,
    /// Nanoseconds per run, the median of several turns.
    pub ns: f64,
}

/// Run all frames through the classifier and through the program that only passes.
pub fn run() -> Result<Vec<Row>> {
    let mut builder = ObjectBuilder::default();
    let open = builder
        .open_memory(object::plain()?)
        .context("libbpf cannot read the object")?;
    let mut object = open
        .load()
        .context("cannot load the classifier (root is needed)")?;
    for key in our_keys() {
        update(&object, maps::ADDRESSES, &key, 1)?;
    }
    // In the map it makes the program redirect; that it is bound to nothing shows only later.
    let socket: OwnedFd = socket(AddressFamily::XDP, SocketType::RAW, None)
        .context("cannot open an AF_XDP socket")?;
    let queue = 0u32.to_ne_bytes();
    update(
        &object,
        maps::SOCKETS,
        &queue,
        u32::try_from(socket.as_raw_fd())?,
    )?;

    let table = fixtures();
    let mut rows = Vec::new();
    for &name in FRAMES {
        let it = table.iter().find(|it| it.name == name);
        let it = it.with_context(|| format!("the fixture table has no {name:?}"))?;
        let program = match it.role {
            Role::Outer => programs::OUTER,
            Role::Inner => programs::INNER,
        };
        let [classifier, pass] = compare(&mut object, [program, programs::PASS], it)?;
        for (program, ns) in [(program, classifier), (programs::PASS, pass)] {
            rows.push(Row {
                program,
                frame: it.name,
                verdict: it.verdict.label(),
                ns,
            });
        }
    }
    Ok(rows)
}

/// The rows as a person reads them: per frame both programs and what the classifier adds.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<36} {:<20} {:>9} {:>9} {:>9}\n",
        "frame", "verdict", "ns", "pass ns", "adds ns"
    );
    for pair in rows.chunks_exact(2) {
        let [it, pass] = pair else { continue };
        let adds = it.ns - pass.ns;
        let _ = writeln!(
            out,
            "{:<36} {:<20} {:>9.1} {:>9.1} {adds:>9.1}",
            it.frame, it.verdict, it.ns, pass.ns
        );
    }
    out
}

fn update(object: &Object, map: &str, key: &[u8], value: u32) -> Result<()> {
    let found = object.maps().find(|it| it.name() == map);
    let found = found.with_context(|| format!("the object has no map {map}"))?;
    found
        .update(key, &value.to_ne_bytes(), MapFlags::ANY)
        .with_context(|| format!("cannot write to {map}"))
}

/// Medians in ns per run, the programs taking turns.
fn compare(object: &mut Object, names: [&'static str; 2], it: &Fixture) -> Result<[f64; 2]> {
    let mut turns = [[0.0; TURNS]; 2];
    for turn in 0..TURNS {
        for (name, times) in names.iter().zip(&mut turns) {
            times[turn] = time(object, name, it)?;
        }
    }
    Ok(turns.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[TURNS / 2]
    }))
}

fn time(object: &mut Object, name: &str, it: &Fixture) -> Result<f64> {
    let program = object.progs_mut().find(|program| program.name() == name);
    let program = program.with_context(|| format!("the object has no program {name}"))?;
    let input = ProgramInput {
        data_in: Some(&it.frame),
        repeat: REPEAT,
        ..Default::default()
    };
    let output = program
        .test_run(input)
        .with_context(|| format!("{name} on {}", it.name))?;
    let redirects = name != programs::PASS && it.verdict.redirects();
    let expected = if redirects { 4 } else { 2 };
    ensure!(
        output.return_value == expected,
        "{name} on {}: {}",
        it.name,
        output.return_value
    );
    // The kernel's own mean per run: it stops its clock while others have the CPU.
    Ok(output.duration.as_secs_f64() * 1e9)
}
