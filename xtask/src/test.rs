//! `test`: every check, from a fresh clone, within half an hour on two cores.
//!
//! Costs are kept down by building twice only: the dev profile for clippy and the tests (its
//! dependencies optimised), the release profile for the demo.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{
    build, ebpf, fuzz, interop, lab,
    setup::{self, Need},
    sh::{self, Logged},
};

#[derive(Args)]
pub struct Options {
    /// How long each fuzz target runs
    #[arg(long, value_name = "N", default_value_t = 5)]
    fuzz_seconds: u32,
    /// Only the steps whose name contains this
    #[arg(long, value_name = "STEP")]
    only: Option<String>,
}

/// Tests and checks that passed and failed. A step without inner tests counts as one.
#[derive(Clone, Copy, Default)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

struct Step {
    name: String,
    count: Count,
    took: Duration,
}

struct Suite<'a> {
    only: Option<&'a str>,
    steps: Vec<Step>,
}

pub fn run(options: &Options) -> Result<()> {
    sh::need_root("`test`")?;
    setup::ensure(Need::Test)?;
    let mut suite = Suite {
        only: options.only.as_deref(),
        steps: Vec::new(),
    };
    // The classifier's crate embeds them.
    suite.attempt("ebpf-objects", ebpf::build);
    for (name, manifest) in [
        ("rustfmt", "Cargo.toml"),
        ("rustfmt-ebpf", "ebpf/classifier/Cargo.toml"),
        ("rustfmt-fuzz", "fuzz/Cargo.toml"),
    ] {
        let mut fmt = sh::cargo(["fmt", "--all", "--check", "--manifest-path", manifest]);
        suite.check(name, fmt.args(["--", "--color", "never"]))?;
    }
    let clippy = [
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    suite.check("clippy", &mut sh::cargo(clippy))?;
    // The classifier's glue is looked at for the host's target: clippy has no core for BPF's.
    for (name, manifest) in [
        ("clippy-ebpf", "ebpf/classifier/Cargo.toml"),
        ("clippy-fuzz", "fuzz/Cargo.toml"),
    ] {
        let mut clippy = sh::cargo(["clippy", "--locked", "--manifest-path", manifest]);
        suite.check(name, clippy.args(["--", "--deny", "warnings"]))?;
    }
    // The advisories' database is on the network: `cargo deny check advisories` by hand.
    for (name, manifest) in [
        ("cargo-deny", "Cargo.toml"),
        ("cargo-deny-ebpf", "ebpf/classifier/Cargo.toml"),
        ("cargo-deny-fuzz", "fuzz/Cargo.toml"),
    ] {
        let mut deny = sh::cargo(["deny", "--manifest-path", manifest, "--config", "deny.toml"]);
        deny.args(["--workspace", "check", "licenses", "bans", "sources"]);
        suite.check(&format!("{name} (without advisories)"), &mut deny)?;
    }
    suite.cargo_tests()?;
    suite.bench()?;
    suite.fuzz(options.fuzz_seconds)?;
    suite.interop()?;
    suite.demos()?;
    suite.report()
}

impl Suite<'_> {
    fn wanted(&self, name: &str) -> bool {
        self.only.is_none_or(|only| name.contains(only))
    }

    /// A step that passes when it returns no error.
    fn attempt(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> bool {
        sh::step(&format!("test: {name}"));
        let start = Instant::now();
        let result = work();
        if let Err(error) = &result {
            println!("    FAILED: {error:#}");
        }
        self.steps.push(Step {
            name: name.to_owned(),
            count: Count::one(result.is_ok()),
            took: start.elapsed(),
        });
        result.is_ok()
    }

    /// A step that passes when its command succeeds.
    fn check(&mut self, name: &str, cmd: &mut Command) -> Result<()> {
        self.step(name, cmd, |run| Count::one(run.ok))
    }

    fn step(
        &mut self,
        name: &str,
        cmd: &mut Command,
        count: impl FnOnce(&Logged) -> Count,
    ) -> Result<()> {
        if !self.wanted(name) {
            return Ok(());
        }
        sh::step(&format!("test: {name}"));
        let run = sh::logged(&file_name(name), cmd)?;
        let count = count(&run);
        if count.failed > 0 {
            println!("    FAILED; all of it in {}", run.log.display());
        }
        self.steps.push(Step {
            name: name.to_owned(),
            count,
            took: run.took,
        });
        Ok(())
    }

    /// Unit, property and namespace tests of every crate, the classifier's fixtures among them,
    /// by aya and by libbpf-rs.
    fn cargo_tests(&mut self) -> Result<()> {
        let mut tests = sh::cargo(["test", "--locked", "--workspace", "--no-fail-fast"]);
        // Here a test that cannot run is a failure: set-up has seen to what it needs.
        tests.env("MITREGATE_TEST_ALL", "1");
        self.step("cargo-test", &mut tests, |run| {
            let mut count = count_tests(&run.lines);
            // It failed without a failed test: something did not compile, or a test aborted.
            if !run.ok && count.failed == 0 {
                count.failed = 1;
            }
            count
        })
    }

    /// That the bench runs; its times, in this profile, mean nothing.
    fn bench(&mut self) -> Result<()> {
        let mut bench = sh::cargo(["run", "--locked", "--package", "mitregate-bench", "--"]);
        bench.args(["engine", "--time", "5", "--suite", "aes256gcm16"]);
        self.check("bench-engine-runs", &mut bench)
    }

    fn fuzz(&mut self, seconds: u32) -> Result<()> {
        if !self.wanted("fuzz-targets") {
            return Ok(());
        }
        self.check("fuzz-targets-build", &mut fuzz::build_command())?;
        for target in fuzz::targets()? {
            self.check(
                &format!("fuzz-targets-{target}"),
                &mut fuzz::command(&target, seconds),
            )?;
        }
        Ok(())
    }

    /// The few cases with strongSwan that take less than a minute; `cargo xtask interop` has all.
    fn interop(&mut self) -> Result<()> {
        if !self.wanted("interop") || !self.attempt("interop-build", || interop::prepare(false)) {
            return Ok(());
        }
        let json = json_path("interop")?;
        let mut quick = interop::command(false);
        quick.args(["--quick", "--json"]).arg(&json);
        quick.arg("--logs").arg(json.with_extension("logs"));
        self.step("interop-quick", &mut quick, |run| {
            let rows = fs::read(&json).ok();
            let rows = rows.and_then(|text| serde_json::from_slice::<Vec<Value>>(&text).ok());
            let rows = rows.unwrap_or_default();
            let passed = rows.iter().filter(|row| row["ok"] == true).count();
            let failed = rows.len() - passed;
            Count {
                passed: u64::try_from(passed).unwrap_or(0),
                // It failed without a failed case: it did not get so far.
                failed: u64::try_from(failed).unwrap_or(1).max(u64::from(!run.ok)),
                ignored: 0,
            }
        })
    }

    /// The real thing, in both encapsulations; then without the tunnel's routes, where nothing but
    /// the leak check may find fault.
    fn demos(&mut self) -> Result<()> {
        if !self.wanted("demo") {
            return Ok(());
        }
        if !self.attempt("demo-build", lab::prepare) {
            return Ok(());
        }
        self.check("demo-auto", &mut demo("auto", &json_path("demo-auto")?))?;
        // Plain ESP with the other provider and the other kind of cipher.
        let mut esp = demo("esp", &json_path("demo-esp")?);
        esp.args(["--provider", "rustcrypto", "--suite", "chacha20poly1305"]);
        // The part with two clients uses plain ESP anyway, and has just run.
        esp.args(["--act", "tunnel"]);
        self.check("demo-esp", &mut esp)?;
        let json = json_path("demo-leak")?;
        let mut leak = demo("udp", &json);
        leak.args(["--without-routes", "--seconds", "1"]);
        println!("    (the next demo is to fail)");
        self.step("demo-leak-check-can-fail", &mut leak, |run| {
            let found = leak_found(&json);
            if let Err(error) = &found {
                println!("    {error:#}");
            }
            Count::one(!run.ok && found.is_ok())
        })
    }

    fn report(&self) -> Result<()> {
        let mut total = Count::default();
        println!(
            "\n{:<36} {:>7} {:>7} {:>8} {:>7}",
            "", "passed", "failed", "ignored", "time"
        );
        for Step { name, count, took } in &self.steps {
            let Count {
                passed,
                failed,
                ignored,
            } = count;
            println!(
                "{name:<36} {passed:>7} {failed:>7} {ignored:>8} {:>5} s",
                took.as_secs()
            );
            total.passed += passed;
            total.failed += failed;
        }
        println!("\n{} passed, {} failed", total.passed, total.failed);
        if total.failed > 0 || total.passed == 0 {
            std::process::exit(1);
        }
        Ok(())
    }
}

impl Count {
    fn one(ok: bool) -> Self {
        Count {
            passed: u64::from(ok),
            failed: u64::from(!ok),
            ignored: 0,
        }
    }
}

/// Sum of libtest's closing lines: "test result: ok. 12 passed; 0 failed; 1 ignored; …".
fn count_tests(lines: &[String]) -> Count {
    let mut sum = Count::default();
    for line in lines
        .iter()
        .filter_map(|line| line.strip_prefix("test result: "))
    {
        let number = |what: &str| {
            let part = line
                .split(['.', ';'])
                .find(|part| part.trim_end().ends_with(what));
            part.and_then(|part| part.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        sum.passed += number(" passed");
        sum.failed += number(" failed");
        sum.ignored += number(" ignored");
    }
    sum
}

fn demo(encap: &str, json: &Path) -> Command {
    let mut demo = Command::new(build::dir(true).join("mitregate-lab"));
    demo.args(["demo", "--encap", encap, "--json"]).arg(json);
    demo.arg("--logs").arg(json.with_extension("logs"));
    demo
}

/// A fresh place for a report.
fn json_path(name: &str) -> Result<std::path::PathBuf> {
    let dir = sh::target_dir().join("xtask");
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{name}.json"));
    let _ = fs::remove_file(&path);
    Ok(path)
}

/// Does the report say that traffic flowed, in clear, and that this was noticed?
fn leak_found(json: &Path) -> Result<()> {
    let text = fs::read_to_string(json).context("the demo wrote no report")?;
    let report: Value = serde_json::from_str(&text)?;
    if report["file_ok"] != true || report["icmp"]["received"].as_u64().unwrap_or(0) == 0 {
        bail!("without the tunnel's routes nothing flowed at all, so this proves nothing");
    }
    // The file alone is some 46 000 segments.
    if report["cleartext_packets_on_wan"].as_u64().unwrap_or(0) < 45_000 {
        bail!("traffic flowed without the tunnel, and the leak check did not see all of it");
    }
    if report["ok"] != false {
        bail!("the leak was counted, and the demo called it a success");
    }
    Ok(())
}

fn file_name(step: &str) -> String {
    step.split(' ').next().unwrap_or(step).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtest_totals_are_summed() {
        let lines = [
            "running 3 tests",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 10 passed; 4 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.2s",
        ];
        let count = count_tests(&lines.map(str::to_owned));
        assert_eq!((count.passed, count.failed, count.ignored), (12, 4, 1));
    }
}
