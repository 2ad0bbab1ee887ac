//! The data plane, from packet memory to running worker: both ports, each with its classifier.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use mitregate_classifier::{Classifier, LoadConfig, Mode as XdpMode, Role};
use mitregate_dataplane::{
    Hop, InnerLink, Memory, PortSet, Vitals, WorkerConfig, WorkerHandle, spawn,
};
use mitregate_xsk::{
    BusyPoll, FramePool, Mode, ModeRequest, RingSizes, Umem, UmemConfig, XskConfig, XskPort,
};

use crate::config::{OuterSettings, Settings};
use crate::net::Link;
use crate::net::inner::{FAR_MAC, HOST_MAC, InnerInterface};

/// Frames that only control packets may use.
const CONTROL_RESERVE: u32 = 256;
/// One carries data, one is its successor, others drain.
const EPOCHS_PER_TUNNEL: usize = 4;
/// The only queue of a veth's end.
const INNER_QUEUE: u32 = 0;
/// Busy polling, where configured: how long a system call polls, in microseconds, and for how
/// many packets.
const BUSY_POLL: BusyPoll = BusyPoll {
    microseconds: 20,
    budget: 64,
};

/// A running worker between its two ports.
pub struct Switch {
    worker: WorkerHandle,
    hold: usize,
    outer: Side,
    inner: Side,
    shared_memory: bool,
}

/// One port and its classifier.
pub struct Side {
    /// Interface name.
    pub interface: String,
    /// Receive queue.
    pub queue: u32,
    /// How the AF_XDP socket is bound.
    pub socket_mode: Mode,
    /// What came of asking for zero-copy: `active` or `refused`; `off` if it was not asked for.
    pub zero_copy: &'static str,
    /// Attached as long as this lives.
    pub classifier: Classifier,
}

impl Switch {
    /// Attaches the classifiers, opens the sockets, starts the worker, and only then lets packets
    /// in.
    pub fn start(
        settings: &Settings,
        outer: &Link,
        inner: &InnerInterface,
        addresses: &[IpAddr],
    ) -> Result<Self> {
        // Before the sockets: many drivers go into zero-copy only with a program attached.
        let level = tracing::level_filters::LevelFilter::current().into_level();
        let mut outer_load = LoadConfig::new(&outer.name, Role::Outer, addresses);
        outer_load.mode = settings.outer.xdp_mode;
        outer_load.log = level;
        let outer_classifier = Classifier::load_and_attach(&outer_load)
            .with_context(|| format!("outer interface {}", outer.name))?;
        let mut inner_load = LoadConfig::new(inner.far_name(), Role::Inner, &[]);
        inner_load.log = level;
        let inner_classifier = inner
            .namespace()
            .run(|| Classifier::load_and_attach(&inner_load))?
            .with_context(|| format!("far end of the inner interface {}", inner.name()))?;

        let (ports, shared_memory) = open(&settings.outer, outer, inner)?;
        let sockets = [ports.outer.socket_fd(), ports.inner.socket_fd()];
        let sockets = sockets.map(|fd| fd.try_clone_to_owned());
        let modes = [ports.outer.mode(), ports.inner.mode()];
        let mut config = WorkerConfig::new(InnerLink {
            src_mac: FAR_MAC,
            dst_mac: HOST_MAC,
            mtu: u16::try_from(settings.inner.mtu).unwrap_or(u16::MAX),
            hop: Hop::Host,
        });
        config.core = settings.daemon.cpu;
        config.mss_clamp = settings.mss_clamp;
        config.max_held = settings.hold.total;
        let tunnels = settings.control.tunnels();
        config.max_tunnels = config.max_tunnels.max(tunnels);
        config.max_epochs = config.max_epochs.max(EPOCHS_PER_TUNNEL * tunnels);
        let worker = spawn(&config, ports).context("cannot start the worker thread")?;

        let side = |interface: &str, queue, socket_mode, asked, classifier| Side {
            interface: interface.to_owned(),
            queue,
            socket_mode,
            zero_copy: zero_copy_word(asked, socket_mode),
            classifier,
        };
        let mut switch = Self {
            worker,
            hold: settings.hold.tunnel,
            outer: side(
                &outer.name,
                settings.outer.queue,
                modes[0],
                settings.outer.zero_copy,
                outer_classifier,
            ),
            inner: side(inner.name(), INNER_QUEUE, modes[1], false, inner_classifier),
            shared_memory,
        };
        if switch.outer.zero_copy == "refused" {
            tracing::info!(
                "zero-copy was asked for, and the driver of {} refuses it: copy mode",
                outer.name
            );
        }
        let [outer_socket, inner_socket] = sockets;
        for (side, socket) in [
            (&mut switch.outer, outer_socket),
            (&mut switch.inner, inner_socket),
        ] {
            let socket = socket.context("cannot hand over the socket")?;
            side.classifier.set_socket(side.queue, socket.as_fd())?;
        }
        for side in [&switch.outer, &switch.inner] {
            tracing::info!(
                interface = side.interface,
                queue = side.queue,
                xdp = xdp_word(side.classifier.mode()),
                socket = socket_word(side.socket_mode),
                "port open"
            );
        }
        if !shared_memory {
            tracing::info!("the ports' modes differ: packets are copied between two memories");
        }
        Ok(switch)
    }

    /// Packets that each tunnel may hold.
    pub fn hold(&self) -> usize {
        self.hold
    }

    /// The worker's command ring, events and counters.
    pub fn worker(&self) -> &WorkerHandle {
        &self.worker
    }

    /// Takes outer packets for these addresses from now on.
    pub fn set_addresses(&mut self, addresses: &[IpAddr]) -> Result<()> {
        Ok(self.outer.classifier.set_addresses(addresses)?)
    }

    /// The port towards the peers.
    pub fn outer(&self) -> &Side {
        &self.outer
    }

    /// The port towards the host.
    pub fn inner(&self) -> &Side {
        &self.inner
    }

    /// Whether frames cross without a copy.
    pub fn shared_memory(&self) -> bool {
        self.shared_memory
    }

    /// The worker's own counters, fresh.
    pub fn vitals(&self) -> Vitals {
        self.worker.vitals()
    }

    /// Hands the classifiers' rare messages to the log.
    pub fn flush_logs(&mut self) {
        self.outer.classifier.flush_log();
        self.inner.classifier.flush_log();
    }

    /// Stops taking packets, ends the worker, detaches the classifiers.
    pub fn shut_down(mut self) {
        // The kernel gets the outer packets again while the worker still empties its rings.
        for side in [&mut self.outer, &mut self.inner] {
            if let Err(error) = side.classifier.clear_socket(side.queue) {
                tracing::debug!("{error}");
            }
        }
        self.worker.join();
    }
}

fn open(
    settings: &OuterSettings,
    outer: &Link,
    inner: &InnerInterface,
) -> Result<(PortSet<XskPort, XskPort>, bool)> {
    let memory = || {
        Umem::new(UmemConfig {
            frames: settings.frames,
            ..UmemConfig::default()
        })
        .context("outer.frames")
    };
    let rings = RingSizes::all(settings.ring_size);
    let umem = memory()?;
    let outer_port = XskPort::open(&XskConfig {
        rings,
        mode: if settings.zero_copy {
            ModeRequest::Auto
        } else {
            ModeRequest::Copy
        },
        busy_poll: settings.busy_poll.then_some(BUSY_POLL),
        ..XskConfig::new(outer.index, settings.queue, &umem)
    })
    .with_context(|| format!("outer interface {}", outer.name))?;
    let open_inner = |config: XskConfig<'_>| {
        let config = XskConfig { rings, ..config };
        inner.namespace().run(|| XskPort::open(&config))
    };
    let whose = || format!("far end of the inner interface {}", inner.name());
    let pool = |umem: &Arc<Umem>| {
        FramePool::new(umem, settings.frames, CONTROL_RESERVE).context("outer.frames")
    };

    let shared = XskConfig::new(inner.far_index(), INNER_QUEUE, &umem).shared_with(&outer_port);
    match open_inner(shared)? {
        Ok(inner_port) => {
            let memory = Memory::Shared(pool(&umem)?);
            Ok((
                PortSet {
                    outer: outer_port,
                    inner: inner_port,
                    memory,
                },
                true,
            ))
        }
        Err(error) if error.is_mode_mismatch() => {
            tracing::debug!("{error}");
            let inner_umem = memory()?;
            let config = XskConfig {
                // A veth has no other.
                mode: ModeRequest::Copy,
                ..XskConfig::new(inner.far_index(), INNER_QUEUE, &inner_umem)
            };
            let inner_port = open_inner(config)?.with_context(whose)?;
            let memory = Memory::Split {
                outer: pool(&umem)?,
                inner: pool(&inner_umem)?,
            };
            Ok((
                PortSet {
                    outer: outer_port,
                    inner: inner_port,
                    memory,
                },
                false,
            ))
        }
        Err(error) => Err(error).with_context(whose),
    }
}

/// As operators write it.
pub fn xdp_word(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    }
}

/// As operators write it.
pub fn socket_word(mode: Mode) -> &'static str {
    match mode {
        Mode::ZeroCopy => "zero-copy",
        Mode::Copy => "copy",
    }
}

fn zero_copy_word(asked: bool, mode: Mode) -> &'static str {
    match (mode, asked) {
        (Mode::ZeroCopy, _) => "active",
        (Mode::Copy, true) => "refused",
        (Mode::Copy, false) => "off",
    }
}
