//! The daemon: joins what decides ([`mitregate_control`]) with what moves packets
//! ([`mitregate_dataplane`]), the kernel's routes, the clock and the command line.
//!
//! ```text
//!  worker ── events ──► shell ── datagrams, echoes ──► control
//!         ◄─ commands ─       ◄─ outputs ────────────
//!  kernel ── routes, neighbours ──► shell ◄── requests ── control socket ◄── command line
//! ```

mod addresses;
mod calls;
mod egress;
mod event_loop;
mod key_files;
mod monitor;
mod preflight;
mod stats;
mod switch;

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use mitregate_control::Control;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rustix::rand::GetRandomFlags;
use tokio::sync::mpsc;
use zeroize::Zeroize;

use crate::clock;
use crate::config::Settings;
use crate::control_socket::ControlSocket;
use crate::log;
use crate::net::guard::Guard;
use crate::net::inner::InnerInterface;
use crate::net::nexthop::{Events, NextHops};
use crate::net::{Link, Netlink};
use crate::placeholder::Placeholders;
use addresses::Addresses;
use event_loop::EventLoop;
use key_files::KeyFiles;
use switch::Switch;

/// Requests that wait for the daemon to look at them.
const CALLS: usize = 16;

/// Runs the daemon until it is told to end, or cannot go on; why not is in the log.
pub fn run(settings: Settings) -> Result<ExitCode> {
    log::init(&settings.daemon)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    Ok(match runtime.block_on(daemon(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

async fn daemon(mut settings: Settings) -> Result<()> {
    preflight::privileges()?;
    let netlink = Netlink::connect()?;
    // Before anything that can fail: what is protected is refused from here on, whether or not
    // this start succeeds.
    netlink.block(&settings.protected()).await?;
    let key_files = match &settings.daemon.save_keys {
        Some(folder) => {
            let files = KeyFiles::open(folder)?;
            tracing::warn!(
                folder = %folder.display(),
                "daemon.save_keys: the keys of all SAs are written to files, and whoever gets them \
                 reads the traffic"
            );
            Some(files)
        }
        None => None,
    };
    let socket = ControlSocket::bind(&settings.daemon.control_socket)?;
    let events = Events::subscribe()?;
    let outer = preflight::outer(&netlink, &settings.outer).await?;
    let own = netlink.addresses(outer.index).await?;
    preflight::fill_addresses(&mut settings, &own)?;
    let addresses = settings.local_addresses();
    let configured = settings.configured_addresses();
    let placeholders = Placeholders::bind(&addresses)?;
    let inner = InnerInterface::create(&netlink, &settings.inner).await?;
    let started = start(&settings, &netlink, &inner, &outer, &addresses).await;
    let switch = match started {
        Ok(switch) => switch,
        Err(error) => {
            // At once, rather than a moment after the process.
            let _ = inner.remove(&netlink).await;
            return Err(error);
        }
    };
    preflight::local_networks(&netlink, &settings, &outer).await;
    let mut guard = Guard::new(&settings.inner, inner.index(), settings.protected());
    guard.check(&netlink, clock::now()).await?;
    let hops = NextHops::open(netlink, outer).await?;
    let mut control = Control::new(clock::now(), settings.control, Box::new(random()?))
        .map_err(|error| anyhow!("{}: {error}", settings.file.display()))?;
    let mtu = |mtu| Some(u16::try_from(mtu).unwrap_or(u16::MAX));
    control.set_mtus(clock::now(), mtu(settings.inner.mtu), mtu(hops.outer().mtu));
    if key_files.is_some() {
        control.log_keys();
    }
    let (calls, incoming) = mpsc::channel(CALLS);
    let server = tokio::spawn(socket.serve(calls));

    let addresses = Addresses::new(configured, &own, placeholders);
    let mut event_loop = EventLoop::new(control, switch, hops, guard, key_files, addresses)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
    let result = event_loop.run(events, incoming).await;
    let (switch, hops, addresses) = event_loop.into_parts();

    switch.shut_down();
    let removed = inner.remove(hops.netlink()).await;
    server.abort();
    let _ = server.await;
    drop(addresses);
    result.and(removed)?;
    tracing::info!("ended; protected prefixes stay unreachable (`mitregate release` frees them)");
    Ok(())
}

async fn start(
    settings: &Settings,
    netlink: &Netlink,
    inner: &InnerInterface,
    outer: &Link,
    addresses: &[IpAddr],
) -> Result<Switch> {
    let switch = Switch::start(settings, outer, inner, addresses)?;
    netlink
        .protect(inner.index(), &settings.protected())
        .await?;
    Ok(switch)
}

fn random() -> Result<ChaCha20Rng> {
    let mut seed = [0; 32];
    let filled = rustix::rand::getrandom(&mut seed, GetRandomFlags::empty())
        .context("the kernel gives no random bytes")?;
    anyhow::ensure!(
        filled == seed.len(),
        "the kernel gives too few random bytes"
    );
    let rng = ChaCha20Rng::from_seed(seed);
    seed.zeroize();
    Ok(rng)
}
