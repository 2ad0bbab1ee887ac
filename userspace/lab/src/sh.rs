//! Running the system's tools.

use std::{
    env,
    io::Write,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};

static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Show what is run, on stderr.
pub fn set_verbose(on: bool) {
    VERBOSE.store(on, Ordering::Relaxed);
}

fn trace(cmd: &Command) {
    if VERBOSE.load(Ordering::Relaxed) {
        eprintln!("+ {}", show(cmd));
    }
}

/// A command that also finds what Debian keeps in sbin.
pub fn command(program: &str) -> Command {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let mut cmd = Command::new(program);
    cmd.env("PATH", path).stdin(Stdio::null());
    cmd
}

/// Is `program` on that PATH?
pub fn have(program: &str) -> bool {
    let cmd = command(program);
    let path = cmd
        .get_envs()
        .find(|(name, _)| *name == "PATH")
        .and_then(|(_, value)| value);
    path.is_some_and(|path| env::split_paths(path).any(|dir| dir.join(program).is_file()))
}

/// The command as one would type it.
pub fn show(cmd: &Command) -> String {
    std::iter::once(cmd.get_program())
        .chain(cmd.get_args())
        .map(|arg| arg.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Run to the end; its stdout. An error shows the command and its stderr.
pub fn output(cmd: &mut Command) -> Result<String> {
    trace(cmd);
    let out = cmd
        .output()
        .with_context(|| format!("cannot start `{}`", show(cmd)))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!("`{}` failed: {}: {}", show(cmd), out.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Run a line of words, none of which holds a blank.
pub fn run(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    output(command(words.next().unwrap_or_default()).args(words))
}

/// Run with that text as stdin.
pub fn feed(cmd: &mut Command, text: &str) -> Result<()> {
    filter(cmd, text).map(drop)
}

/// Run with that text as stdin; its stdout.
pub fn filter(cmd: &mut Command, text: &str) -> Result<String> {
    trace(cmd);
    let mut child = cmd
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", show(cmd)))?;
    child
        .stdin
        .take()
        .context("no stdin")?
        .write_all(text.as_bytes())?;
    let out = child.wait_with_output()?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!("`{}` failed: {}: {}", show(cmd), out.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
