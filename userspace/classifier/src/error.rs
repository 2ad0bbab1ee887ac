use std::{fmt, fs, io, path::PathBuf};

use aya::programs::{ProgramError, XdpError};
use rustix::io::Errno;

/// Any of aya's errors.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the classifier is not attached, or could not be configured; each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The binary was built before the eBPF objects.
    #[error("this binary was built without the eBPF objects: run `cargo xtask build`")]
    NoObject,
    /// No such interface in this network namespace.
    #[error("{interface}: no such interface in this network namespace: see `ip link`")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// EPERM or EACCES.
    #[error("{interface}: not permitted to {what}: {missing}")]
    NotPermitted {
        /// Its name.
        interface: String,
        /// The operation.
        what: &'static str,
        /// What seems to be lacking.
        missing: Missing,
    },
    /// EBUSY, or a program in the other mode.
    #[error(
        "{interface}: another XDP program is attached (`ip link show dev {interface}` shows its id): \
         `mitregate-xdp unload --dev {interface}` when it is the pinned classifier, else stop its \
         owner or `ip link set dev {interface} xdp off`"
    )]
    Busy {
        /// Its name.
        interface: String,
    },
    /// The driver or its present configuration cannot do it.
    #[error("{interface}: cannot attach in {mode} mode: {reason}")]
    Unsupported {
        /// Its name.
        interface: String,
        /// Which mode.
        mode: crate::Mode,
        /// Why, and what to do.
        reason: String,
    },
    /// The kernel refused the program.
    #[error(
        "{interface}: the kernel's verifier refused the program ({source}): it is tested \
         with kernels 6.1 and 6.18; its log:\n{log}"
    )]
    Verifier {
        /// Its name.
        interface: String,
        /// What the system call said.
        source: io::Error,
        /// What the verifier said.
        log: String,
    },
    /// Too many addresses, or a queue beyond the map.
    #[error("{interface}: {what} {value} is beyond the classifier's limit of {limit}")]
    Limit {
        /// Its name.
        interface: String,
        /// What is too large.
        what: &'static str,
        /// How large.
        value: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The bpffs for the pins would vanish with this process.
    #[error(
        "no bpffs is mounted on {}, and this process has a mount namespace of its own (by `ip netns \
         exec`?), in which a mount would vanish with it: use `mitregate-xdp --netns NAME` instead, or \
         first `mount -t bpf bpf {}` outside",
        path.display(), path.display()
    )]
    PrivateMounts {
        /// Where it should be.
        path: PathBuf,
    },
    /// Nothing is pinned for the interface.
    #[error("{interface}: the classifier is not pinned here ({} is not there)", path.display())]
    NotPinned {
        /// Its name.
        interface: String,
        /// Where its pins would be.
        path: PathBuf,
    },
    /// Something with the file system or the bpffs.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// The operation.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Anything else from the kernel or the loader.
    #[error("{interface}: cannot {what}: {}", chain(source.as_ref()))]
    Bpf {
        /// Its name.
        interface: String,
        /// The operation.
        what: &'static str,
        /// What aya says.
        source: Cause,
    },
}

/// What an EPERM is due to, as far as one can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Names of capabilities that the thread has not.
    Capabilities(Vec<&'static str>),
    /// It has them all.
    Unclear,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capabilities(names) => write!(
                f,
                "{} lacking: run as root, or give the service AmbientCapabilities",
                names.join(", ")
            ),
            Self::Unclear => f.write_str(
                "the capabilities are there, so a security module, seccomp, lockdown or the memory \
                 limit (`ulimit -l unlimited`) forbids it: see `dmesg`",
            ),
        }
    }
}

impl Missing {
    /// Of what an XDP program and its AF_XDP sockets need.
    fn find() -> Self {
        const SYS_ADMIN: u32 = 21;
        const BPF: u32 = 39;
        const NEEDED: [(u32, &str); 3] =
            [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (BPF, "CAP_BPF")];
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        let Some(effective) = effective else {
            return Self::Unclear;
        };
        let set = |bit: u32| effective & (1 << bit) != 0;
        // CAP_SYS_ADMIN contains CAP_BPF, which came later (5.8).
        let has = |bit: u32| set(bit) || (bit == BPF && set(SYS_ADMIN));
        let lacking: Vec<_> = NEEDED
            .iter()
            .filter(|(bit, _)| !has(*bit))
            .map(|(_, name)| *name)
            .collect();
        if lacking.is_empty() {
            Self::Unclear
        } else {
            Self::Capabilities(lacking)
        }
    }
}

/// An error and all its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut parts: Vec<String> = causes.map(ToString::to_string).collect();
    // Some display their source as well.
    parts.dedup_by(|next, previous| previous.ends_with(next.as_str()));
    parts.join(": ")
}

/// The system's error number below any of aya's errors.
pub fn errno(error: &(dyn std::error::Error + 'static)) -> Option<Errno> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|cause| {
        let io = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        let netlink = || match cause.downcast_ref::<XdpError>() {
            Some(XdpError::NetlinkError(error)) => error.raw_os_error(),
            None => None,
        };
        io.or_else(netlink).map(Errno::from_raw_os_error)
    })
}

/// Words for an aya error on `interface`.
pub fn explain(interface: &str, what: &'static str, error: impl Into<Cause>) -> Error {
    let interface = interface.to_owned();
    let source = error.into();
    match errno(source.as_ref()) {
        Some(Errno::PERM | Errno::ACCESS) if !has_verifier_log(source.as_ref()) => {
            Error::NotPermitted {
                interface,
                what,
                missing: Missing::find(),
            }
        }
        Some(Errno::NODEV) => Error::NoInterface { interface },
        Some(Errno::BUSY | Errno::EXIST) => Error::Busy { interface },
        _ => Error::Bpf {
            interface,
            what,
            source,
        },
    }
}

/// The verifier also answers EACCES.
fn has_verifier_log(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref::<ProgramError>(),
        Some(ProgramError::LoadError { verifier_log, .. }) if !verifier_log.to_string().is_empty()
    )
}

/// Words for a program that does not load.
pub fn explain_load(interface: &str, error: ProgramError) -> Error {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } if !verifier_log.to_string().is_empty() => Error::Verifier {
            interface: interface.to_owned(),
            source: io_error,
            log: verifier_log.to_string(),
        },
        other => explain(interface, "load the program", other),
    }
}
