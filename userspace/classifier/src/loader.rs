use std::{
    fmt,
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, PerCpuArray, XskMap},
    programs::{ProgramError, Xdp, XdpMode, links::FdLink, xdp::XdpLinkId},
};
use mitregate_ebpf_common::{
    self as common, AddressKey, MAX_ADDRESSES, MAX_QUEUES, Role, ipv4_key, maps, programs,
};
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, setrlimit},
};
use serde::Serialize;
use tracing::{debug, info};

use crate::{
    Counters, Error,
    error::{Cause, errno, explain, explain_load},
    log::{Logger, Tracing, threshold},
    object, pin,
};

/// How to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeRequest {
    /// Native; generic where the driver has no XDP ([`Classifier::fallback`] says why).
    #[default]
    Auto,
    /// In the driver, or an error.
    Native,
    /// In the network stack, after the kernel has allocated an skb.
    Generic,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// What to load, and where.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// Interface name in the calling thread's network namespace.
    pub interface: String,
    /// Which program.
    pub role: Role,
    /// How to attach.
    pub mode: ModeRequest,
    /// Our outer addresses, at most [`MAX_ADDRESSES`]; without effect for [`Role::Inner`].
    pub addresses: Vec<IpAddr>,
    /// Rare events that the program itself reports, up to this level; `None` for none.
    pub log: Option<tracing::Level>,
    /// A directory on a bpffs, made when absent: pin program, link and maps there, so that they
    /// outlive this process. See [`crate::pin::directory`].
    pub pin: Option<PathBuf>,
}

impl LoadConfig {
    /// Attached as well as can be, without logging or pins.
    #[must_use]
    pub fn new(interface: impl Into<String>, role: Role, addresses: &[IpAddr]) -> Self {
        Self {
            interface: interface.into(),
            role,
            mode: ModeRequest::Auto,
            addresses: addresses.to_vec(),
            log: None,
            pin: None,
        }
    }
}

/// The classifier, attached to one interface. Detaches when dropped, unless pinned.
pub struct Classifier {
    interface: String,
    mode: Mode,
    fallback: Option<String>,
    ebpf: Ebpf,
    // Its map belongs to the program, which cannot do without.
    logger: Option<Logger>,
}

impl Classifier {
    /// Load the program and attach it to `config.interface`, in the calling thread's network
    /// namespace. The addresses are in place before the first packet is seen.
    ///
    /// Raises the process's memory lock limit where it may: kernels before 5.11 charge maps to it,
    /// and AF_XDP packet memory is charged to it everywhere.
    pub fn load_and_attach(config: &LoadConfig) -> Result<Self, Error> {
        let object = object::logging()?;
        let interface = config.interface.as_str();
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
            debug!(%error, "the memory lock limit stays as it is");
        }

        let threshold = threshold(config.log);
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &threshold, false)
            .load(object)
            .map_err(|error| explain(interface, "load the eBPF object", error))?;
        let logger = Logger::init_with_logger(&mut ebpf, Tracing)
            .inspect_err(|error| debug!(%error, "the program does not log"))
            .ok();
        program(&mut ebpf, config.role)
            .and_then(Xdp::load)
            .map_err(|error| explain_load(interface, error))?;

        let mut classifier = Self {
            interface: interface.to_owned(),
            mode: Mode::Native,
            fallback: None,
            ebpf,
            logger,
        };
        classifier.set_addresses(&config.addresses)?;
        let link = classifier.attach(config.role, config.mode)?;
        if let Some(dir) = &config.pin {
            classifier.pin(config.role, link, dir)?;
        }
        info!(interface, mode = %classifier.mode, pinned = config.pin.is_some(), "classifier attached");
        Ok(classifier)
    }

    fn attach(&mut self, role: Role, request: ModeRequest) -> Result<XdpLinkId, Error> {
        let program = program(&mut self.ebpf, role)
            .map_err(|error| explain(&self.interface, "find the program", error))?;
        if request != ModeRequest::Generic {
            match program.attach(&self.interface, XdpMode::Driver) {
                Ok(link) => {
                    self.mode = Mode::Native;
                    return Ok(link);
                }
                Err(error) => {
                    let error = explain_attach(&self.interface, Mode::Native, error);
                    match error {
                        Error::Unsupported { reason, .. } if request == ModeRequest::Auto => {
                            info!(
                                interface = self.interface,
                                reason, "no native XDP: falling back to generic mode"
                            );
                            self.fallback = Some(reason);
                        }
                        other => return Err(other),
                    }
                }
            }
        }
        self.mode = Mode::Generic;
        program
            .attach(&self.interface, XdpMode::Skb)
            .map_err(|error| explain_attach(&self.interface, Mode::Generic, error))
    }

    fn pin(&mut self, role: Role, link: XdpLinkId, dir: &Path) -> Result<(), Error> {
        pin::prepare(dir)?;
        self.pin_all(role, link, dir).map_err(|error| {
            pin::remove(dir);
            explain(&self.interface, "pin the program", error)
        })
    }

    fn pin_all(&mut self, role: Role, link: XdpLinkId, dir: &Path) -> Result<(), Cause> {
        for name in [
            maps::SOCKETS,
            maps::ADDRESSES,
            maps::FRAGMENTS,
            maps::COUNTERS,
        ] {
            let map = self.ebpf.map(name).ok_or(ProgramError::NotLoaded)?;
            map.pin(dir.join(name))?;
        }
        let program = program(&mut self.ebpf, role)?;
        program.pin(dir.join(pin::program_name(role)))?;
        let link = FdLink::try_from(program.take_link(link)?)?;
        link.pin(dir.join(pin::link_name(self.mode)))?;
        Ok(())
    }

    /// Bind receive queue `queue` (below [`MAX_QUEUES`]) to an AF_XDP socket: one that is bound to
    /// this interface and this queue, or the kernel drops what it should get.
    pub fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        self.check_queue(queue)?;
        let set = self
            .sockets()
            .and_then(|mut sockets| Ok(sockets.set(queue, socket.as_raw_fd(), 0)?));
        set.map_err(|error| explain(&self.interface, "bind a queue to its socket", error))
    }

    /// Take the socket of a queue away: its packets pass (outer) or are dropped (inner) again.
    pub fn clear_socket(&mut self, queue: u32) -> Result<(), Error> {
        self.check_queue(queue)?;
        let unset = self
            .sockets()
            .and_then(|mut sockets| Ok(sockets.unset(queue)?));
        match unset {
            Err(error) if errno(error.as_ref()) == Some(Errno::NOENT) => Ok(()),
            other => {
                other.map_err(|error| explain(&self.interface, "free a queue of its socket", error))
            }
        }
    }

    /// Replace our outer addresses, at most [`MAX_ADDRESSES`] of old and new together: new ones are
    /// added before old ones go.
    pub fn set_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let limit = MAX_ADDRESSES as usize;
        if addresses.len() > limit {
            return Err(Error::Limit {
                interface: self.interface.clone(),
                what: "number of addresses",
                value: addresses.len(),
                limit,
            });
        }
        let keys: Vec<_> = addresses.iter().copied().map(key).collect();
        self.replace_addresses(&keys)
            .map_err(|error| explain(&self.interface, "set our addresses", error))
    }

    fn replace_addresses(&mut self, wanted: &[AddressKey]) -> Result<(), Cause> {
        let map = self
            .ebpf
            .map_mut(maps::ADDRESSES)
            .ok_or(ProgramError::NotLoaded)?;
        let mut map: HashMap<_, AddressKey, u32> = HashMap::try_from(map)?;
        for key in wanted {
            map.insert(key, 1, 0)?;
        }
        let old: Vec<_> = map.keys().collect::<Result<_, _>>()?;
        for key in old.iter().filter(|key| !wanted.contains(key)) {
            map.remove(key)?;
        }
        Ok(())
    }

    /// Read the counters.
    pub fn counters(&self) -> Result<Counters, Error> {
        self.read_counters()
            .map_err(|error| explain(&self.interface, "read the counters", error))
    }

    fn read_counters(&self) -> Result<Counters, Cause> {
        let map = self
            .ebpf
            .map(maps::COUNTERS)
            .ok_or(ProgramError::NotLoaded)?;
        let map: PerCpuArray<&MapData, common::Count> = PerCpuArray::try_from(map)?;
        Ok(Counters::read(&map)?)
    }

    /// The interface's name when it was attached.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// How it is attached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why [`ModeRequest::Auto`] ended in generic mode.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Hand on to tracing what the program has logged; call it now and then.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    fn sockets(&mut self) -> Result<XskMap<&mut MapData>, Cause> {
        let map: &mut Map = self
            .ebpf
            .map_mut(maps::SOCKETS)
            .ok_or(ProgramError::NotLoaded)?;
        Ok(XskMap::try_from(map)?)
    }

    fn check_queue(&self, queue: u32) -> Result<(), Error> {
        if queue < MAX_QUEUES {
            return Ok(());
        }
        Err(Error::Limit {
            interface: self.interface.clone(),
            what: "queue",
            value: queue as usize,
            limit: MAX_QUEUES as usize - 1,
        })
    }
}

fn key(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(address) => ipv4_key(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

fn program(ebpf: &mut Ebpf, role: Role) -> Result<&mut Xdp, ProgramError> {
    let name = match role {
        Role::Outer => programs::OUTER,
        Role::Inner => programs::INNER,
    };
    ebpf.program_mut(name)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}

fn explain_attach(interface: &str, mode: Mode, error: ProgramError) -> Error {
    let reason = match (&error, errno(&error)) {
        (ProgramError::UnknownInterface { .. }, _) => {
            return Error::NoInterface {
                interface: interface.to_owned(),
            };
        }
        (_, Some(Errno::OPNOTSUPP | Errno::NOSYS)) => {
            "its driver has no such XDP (mode generic needs none)".to_owned()
        }
        // veth, virtio and others: one packet must fit one page.
        (_, Some(Errno::RANGE | Errno::MSGSIZE)) => {
            "its MTU, or its peer's, is too large for XDP: at most about 3500 bytes".to_owned()
        }
        (_, Some(Errno::INVAL)) => "the driver refuses it with its present settings (MTU, LRO, \
                                    queues): see `dmesg`"
            .to_owned(),
        (_, Some(Errno::NOMEM | Errno::NOSPC)) => {
            "too little memory or too few queues for XDP's own".to_owned()
        }
        _ => return explain(interface, "attach the program", error),
    };
    Error::Unsupported {
        interface: interface.to_owned(),
        mode,
        reason,
    }
}

const _: fn() = || {
    fn sends<T: Send>() {}
    sends::<Classifier>();
};
