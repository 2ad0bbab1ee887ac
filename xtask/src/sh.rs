//! Running programs, and telling the person in front of the screen about it.

use std::{
    env,
    ffi::OsString,
    fs,
    fs::File,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

/// A running command that says nothing is reported this often.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the repository")
}

/// Where cargo puts its output.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Announce something that takes a while.
pub fn step(what: &str) {
    println!("==> {what}");
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Ends with advice when we are not root.
pub fn need_root(what: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!("{what} needs root (network namespaces, XDP, apt): run the same command as root")
}

/// The PATH with Debian's sbin, home of ip, nft and ethtool, which a plain `su` leaves out.
pub fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Where `tool` is on the PATH.
pub fn find(tool: &str) -> Option<PathBuf> {
    env::split_paths(&path())
        .map(|dir| dir.join(tool))
        .find(|file| file.is_file())
}

pub fn have(tool: &str) -> bool {
    find(tool).is_some()
}

/// A cargo of the toolchain that runs us, in the repository's root.
pub fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(args).current_dir(root());
    cargo
}

/// The command as one would type it.
pub fn show(cmd: &Command) -> String {
    std::iter::once(cmd.get_program())
        .chain(cmd.get_args())
        .map(|arg| arg.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Run to the end, on our terminal.
pub fn run(cmd: &mut Command) -> Result<()> {
    let status = cmd
        .status()
        .with_context(|| format!("cannot start `{}`", show(cmd)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", show(cmd));
    }
    Ok(())
}

/// Run to the end and return what it printed on stdout.
pub fn output(cmd: &mut Command) -> Result<String> {
    let out = cmd
        .output()
        .with_context(|| format!("cannot start `{}`", show(cmd)))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!("`{}` failed: {}: {}", show(cmd), out.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Become that command; returns only when it cannot be started.
pub fn exec(cmd: &mut Command) -> anyhow::Error {
    let error = cmd.exec();
    anyhow!(error).context(format!("cannot start `{}`", show(cmd)))
}

/// A command run with its output in a log file.
pub struct Logged {
    pub ok: bool,
    pub lines: Vec<String>,
    pub log: PathBuf,
    pub took: Duration,
}

/// Run to the end with both outputs in `target/xtask/<name>.log`, a line on the terminal now and
/// then while it runs, and the log's last lines there when it fails.
pub fn logged(name: &str, cmd: &mut Command) -> Result<Logged> {
    let dir = target_dir().join("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let log = dir.join(format!("{name}.log"));
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let start = Instant::now();
    let mut child = cmd
        .env("CARGO_TERM_COLOR", "never")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start `{}`", show(cmd)))?;

    let (done, finished) = channel();
    let waiter = thread::spawn(move || {
        let status = child.wait();
        // The other end outlives us: it waits for this.
        let _ = done.send(());
        status
    });
    while finished.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
        let last = last_lines(&log, 1).pop().unwrap_or_default();
        println!(
            "    {name}, {} s: {}",
            start.elapsed().as_secs(),
            cut(last.trim(), 90)
        );
    }
    let status = waiter
        .join()
        .map_err(|_| anyhow!("the waiting thread died"))??;
    let lines = read_lines(&log);
    if !status.success() {
        println!("--- {status}; the end of {}:", log.display());
        last_lines(&log, 60)
            .iter()
            .for_each(|line| println!("    {line}"));
        println!("---");
    }
    Ok(Logged {
        ok: status.success(),
        lines,
        log,
        took: start.elapsed(),
    })
}

fn read_lines(path: &Path) -> Vec<String> {
    let Ok(file) = File::open(path) else {
        return Vec::new();
    };
    BufReader::new(file)
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .collect()
}

fn last_lines(path: &Path, n: usize) -> Vec<String> {
    let lines = read_lines(path);
    lines[lines.len().saturating_sub(n)..].to_vec()
}

/// At most `max` characters of `line`.
fn cut(line: &str, max: usize) -> String {
    line.chars().take(max).collect()
}
