//! The NAT of a standing lab, to break it and to look into it: the kernel's own, or a box that
//! carries every packet between the `lan` and `wan` interfaces of its namespace through one of the
//! [models](crate::nat).
//!
//! The box is one thread that owns its model; whoever wants something of it asks on a Unix socket,
//! a line of JSON there and one back. In a lab that is left standing it is a process of its own.

mod carrier;
mod kernel;
mod request;

use std::{
    env,
    fs::OpenOptions,
    net::{IpAddr, Ipv4Addr},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use carrier::Carrier;
pub use carrier::Counters;
use kernel::Kernel;
use request::Request;
pub use request::{Direction, Faults, Shown};

use crate::{
    interrupt,
    nat::Model,
    netns::{Netns, join},
    topology::{GATEWAY_WAN, Host, Lab, Middle, NAT_POOL},
};

/// In the lab's folder.
const SOCKET: &str = "nat.sock";
const LOG: &str = "nat.log";
/// For a box that is a process to open its sockets.
const START: Duration = Duration::from_secs(5);
/// How soon a box that is a thread sees that it shall end.
const TICK: Duration = Duration::from_millis(50);

/// Of the hidden command that is the box of a lab left standing.
#[derive(Args)]
pub struct Options {
    /// Which NAT
    #[arg(long)]
    model: Model,
    /// Where it is asked
    #[arg(long)]
    socket: PathBuf,
}

/// Be the box, in the namespace where we are, until a signal comes.
pub fn run(options: &Options) -> Result<()> {
    let mut carrier = Carrier::open(options.model, &options.socket)?;
    while interrupt::check().is_ok() {
        carrier.turn(TICK)?;
    }
    Ok(())
}

/// A box that ends when this is dropped.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Running {
    /// Start the NAT of that model, on a thread of its own.
    pub(crate) fn start(lab: &Lab, model: Model) -> Result<Self> {
        let socket = lab.run_dir().join(SOCKET);
        let nat = lab.host(Host::Nat);
        let mut carrier = nat.run(move || Carrier::open(model, &socket))?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        // Sockets stay in the namespace where they were made; the thread need not be there.
        let thread = thread::Builder::new()
            .name("nat".to_owned())
            .spawn(move || {
                while !flag.load(Ordering::Relaxed) {
                    carrier.turn(TICK)?;
                }
                Ok(())
            })?;
        Ok(Running {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(error)) = self.thread.take().map(join) {
            eprintln!("the NAT failed: {error:#}");
        }
    }
}

/// Start the NAT of that model as a process that outlives this one, and wait until it runs. It ends
/// with its namespace. For `mitregate-lab` itself: the process is another of the same program.
pub(crate) fn start_detached(lab: &Lab, model: Model) -> Result<()> {
    let socket = lab.run_dir().join(SOCKET);
    let log = lab.run_dir().join(LOG);
    let file = OpenOptions::new().create(true).append(true).open(&log)?;
    let program = env::current_exe()?;
    let mut child = lab
        .host(Host::Nat)
        .command(&program.display().to_string())
        .args(["nat-box", "--model", model.name(), "--socket"])
        .arg(&socket)
        .stdout(file.try_clone()?)
        .stderr(file)
        // A Ctrl-C on the terminal is for the lab.
        .process_group(0)
        .spawn()
        .context("cannot start the NAT")?;
    interrupt::wait_for("the NAT to answer", START, || {
        if let Some(status) = child.try_wait()? {
            bail!("the NAT ended: {status}; see {}", log.display());
        }
        Ok(request::ask(&socket, &Request::Show).ok().map(drop))
    })
}

/// The NAT of a lab, whichever it is.
#[derive(Clone, Debug)]
pub struct Nat {
    middle: Middle,
    netns: Netns,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Kernel(Kernel),
    Box(PathBuf),
}

impl Nat {
    /// That of a lab. An error where there is none.
    pub(crate) fn of(lab: &Lab) -> Result<Self> {
        let kind = match lab.middle() {
            Middle::Nat => Kind::Kernel(Kernel::new(lab.host(Host::Nat))),
            Middle::Model(_) => Kind::Box(lab.run_dir().join(SOCKET)),
            Middle::Router => bail!("the lab `{}` has no NAT", lab.name()),
        };
        Ok(Nat {
            middle: lab.middle(),
            netns: lab.host(Host::Nat).clone(),
            kind,
        })
    }

    /// Its tables are lost; it goes on at once.
    pub fn crash(&self) -> Result<()> {
        match &self.kind {
            Kind::Kernel(kernel) => kernel.crash(),
            Kind::Box(socket) => ask(socket, &Request::Crash).map(drop),
        }
    }

    /// Its tables are lost and its public side is another: that address, or its ports are drawn
    /// from another range, or both; with neither, the next address of its pool.
    pub fn remap(&self, address: Option<Ipv4Addr>, ports: bool) -> Result<()> {
        let address = match address {
            None if !ports => Some(next_in_pool(self.show()?.public)),
            other => other,
        };
        if let Some(address) = address {
            self.own(address)?;
        }
        match &self.kind {
            Kind::Kernel(kernel) => kernel.remap(address, ports),
            Kind::Box(socket) => ask(socket, &Request::Remap { address, ports }).map(drop),
        }
    }

    /// The kernel answers ARP for its own addresses only.
    fn own(&self, address: Ipv4Addr) -> Result<()> {
        let network = |address: Ipv4Addr| address.to_bits() >> 8;
        let taken = [
            GATEWAY_WAN.parse()?,
            Ipv4Addr::from_bits(NAT_POOL[0].to_bits() | 0xff),
        ];
        let host = address.octets()[3];
        if network(address) != network(NAT_POOL[0]) || host == 0 || taken.contains(&address) {
            bail!("a NAT's address is a free one of 203.0.113.0/24, not {address}");
        }
        let wan = self.netns.ip("-4 address show dev wan")?;
        if !wan.contains(&format!(" {address}/")) {
            self.netns
                .ip(&format!("address add {address}/24 dev wan"))?;
        }
        Ok(())
    }

    /// What it knows.
    pub fn show(&self) -> Result<Shown> {
        let mut shown = match &self.kind {
            Kind::Kernel(kernel) => kernel.show()?,
            Kind::Box(socket) => ask(socket, &Request::Show)?,
        };
        shown.nat = self.middle.to_string();
        Ok(shown)
    }

    /// From now on it does this to packets, and nothing that was asked for before. Only a box can.
    pub fn faults(&self, faults: &Faults) -> Result<()> {
        match &self.kind {
            Kind::Kernel(_) => {
                bail!("the kernel's NAT knows no such faults: build the lab with one of the models")
            }
            Kind::Box(socket) => ask(socket, &Request::Faults(faults.clone())).map(drop),
        }
    }
}

fn ask(socket: &Path, request: &Request) -> Result<Shown> {
    request::ask(socket, request).context("cannot ask the NAT")
}

/// The address after that one, round and round.
fn next_in_pool(now: Option<IpAddr>) -> Ipv4Addr {
    let at = NAT_POOL
        .iter()
        .position(|one| Some(IpAddr::V4(*one)) == now);
    NAT_POOL[at.map_or(1, |at| at + 1) % NAT_POOL.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_goes_round() {
        let mut seen = vec![next_in_pool(None)];
        for _ in 1..NAT_POOL.len() {
            let last = *seen.last().unwrap();
            seen.push(next_in_pool(Some(last.into())));
        }
        seen.sort();
        assert_eq!(seen, NAT_POOL);
    }
}
