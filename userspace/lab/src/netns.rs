//! A network namespace that the lab made.

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::PathBuf,
    process::Command,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    process::{Pid, Signal, kill_process, test_kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde::{Deserialize, Serialize};

use crate::sh;

/// Processes in a namespace that goes away get this long between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// Named in /run/netns by iproute2. The inode tells it from another of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns {
    name: String,
    /// None: on the point of being made.
    inode: Option<u64>,
}

impl Netns {
    /// One that is not there yet.
    pub fn planned(name: &str) -> Self {
        Netns {
            name: name.to_owned(),
            inode: None,
        }
    }

    /// Make it. Refuses when the name is taken.
    pub fn create(&mut self) -> Result<()> {
        sh::run(&format!("ip netns add {}", self.name))?;
        self.inode = Some(fs::metadata(self.path())?.ino());
        Ok(())
    }

    /// As `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Is there any namespace of that name?
    pub fn name_is_taken(&self) -> bool {
        self.path().exists()
    }

    /// Is what bears the name the one that we made?
    pub fn is_ours(&self) -> bool {
        let found = fs::metadata(self.path()).map(|meta| meta.ino()).ok();
        found.is_some() && (self.inode.is_none() || self.inode == found)
    }

    /// `ip` in here.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        sh::run(&format!("ip -n {} {arguments}", self.name))
    }

    /// A program in here.
    pub fn command(&self, program: &str) -> Command {
        let mut cmd = sh::command("ip");
        cmd.args(["netns", "exec", &self.name, program]);
        cmd
    }

    /// Start `work` on a thread whose sockets belong in here.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let link =
            File::open(self.path()).with_context(|| format!("no namespace {}", self.name))?;
        let name = self.name.clone();
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter the namespace {name}"))?;
            work()
        })?;
        Ok(thread)
    }

    /// The same, waiting for the result.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        join(self.spawn(work)?)
    }

    /// Write a setting below /proc/sys/net.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        let value = value.to_owned();
        self.run(move || fs::write(&path, value).with_context(|| format!("cannot set {path}")))
    }

    /// End every process in it and delete it, if it is ours.
    pub fn destroy(&self) -> Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        self.end_processes()?;
        sh::run(&format!("ip netns del {}", self.name))?;
        Ok(())
    }

    fn end_processes(&self) -> Result<()> {
        let own = rustix::process::getpid();
        for signal in [Signal::TERM, Signal::KILL] {
            let pids = sh::run(&format!("ip netns pids {}", self.name))?;
            let pids: Vec<_> = pids
                .split_whitespace()
                .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
                .filter(|pid| *pid != own)
                .collect();
            for pid in &pids {
                let _ = kill_process(*pid, signal);
            }
            // Deliberately deaf to Ctrl-C: this is the clean-up.
            let steps = GRACE.as_millis() / 10;
            for _ in 0..steps {
                if !pids.iter().any(|pid| is_running(*pid)) {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        bail!("processes in {} do not end", self.name)
    }
}

/// A thread's result, or its panic as an error.
pub fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow!("a thread of the lab panicked"))?
}

/// There, and no zombie that its parent has yet to collect.
fn is_running(pid: Pid) -> bool {
    if test_kill_process(pid).is_err() {
        return false;
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // The state follows the name, which stands in parentheses and may hold any character.
    stat.is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('Z'))
    })
}
