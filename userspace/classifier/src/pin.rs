//! The classifier's pins in a bpffs, by which it outlives the process that loaded it.
//!
//! Per interface one directory, with the program, its link and its maps. The link's name tells the
//! mode, the program's name the role: a bpffs holds no other files.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    maps::{Map, MapData, MapError, PerCpuArray},
    programs::ProgramInfo,
};
use mitregate_ebpf_common::{self as common, Role, maps};
use rustix::{
    fs::statfs,
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use serde::Serialize;

use crate::{Counters, Error, Mode, error::explain};

/// Where the pins are; a bpffs is mounted there when there is none.
pub const DEFAULT_BPFFS: &str = "/run/mitregate/bpf";

const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The directory for the pins of `interface` in the calling thread's network namespace: two
/// namespaces may have interfaces of the same name.
pub fn directory(interface: &str) -> Result<PathBuf, Error> {
    const NAMESPACE: &str = "/proc/thread-self/ns/net";
    let namespace = fs::metadata(NAMESPACE).map_err(|source| Error::File {
        what: "look at",
        path: NAMESPACE.into(),
        source,
    })?;
    // A bpffs has no dots in its names, and an interface has no colon in its own.
    let interface = interface.replace('.', ":");
    Ok(Path::new(DEFAULT_BPFFS).join(format!("{}-{interface}", namespace.ino())))
}

/// The classifier, pinned for one interface.
pub struct Pinned {
    interface: String,
    dir: PathBuf,
    role: Role,
    mode: Mode,
}

/// What is known of a pinned classifier.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The interface it was loaded for.
    pub interface: String,
    /// `outer` or `inner`.
    pub role: &'static str,
    /// How it was attached.
    pub mode: Mode,
    /// The kernel's number of the program; `bpftool prog show id` knows more.
    pub program_id: u32,
    /// Instructions that the verifier walked through when it was loaded.
    pub verified_instructions: Option<u32>,
    /// Its counters.
    pub counters: Counters,
}

impl Pinned {
    /// The pins of `interface` in `dir`.
    pub fn open(interface: &str, dir: &Path) -> Result<Self, Error> {
        let there = |name: &str| dir.join(name).exists();
        let role = [Role::Outer, Role::Inner]
            .into_iter()
            .find(|&role| there(program_name(role)));
        let mode = [Mode::Native, Mode::Generic]
            .into_iter()
            .find(|&mode| there(link_name(mode)));
        let (Some(role), Some(mode)) = (role, mode) else {
            return Err(Error::NotPinned {
                interface: interface.to_owned(),
                path: dir.to_owned(),
            });
        };
        Ok(Self {
            interface: interface.to_owned(),
            dir: dir.to_owned(),
            role,
            mode,
        })
    }

    /// Read everything.
    pub fn status(&self) -> Result<Status, Error> {
        let name = program_name(self.role);
        let info = ProgramInfo::from_pin(self.dir.join(name))
            .map_err(|error| explain(&self.interface, "read the pinned program", error))?;
        Ok(Status {
            interface: self.interface.clone(),
            role: name,
            mode: self.mode,
            program_id: info.id(),
            verified_instructions: info.verified_instruction_count(),
            counters: self.counters()?,
        })
    }

    /// Read the counters.
    pub fn counters(&self) -> Result<Counters, Error> {
        let read = || -> Result<_, MapError> {
            let map = MapData::from_pin(self.dir.join(maps::COUNTERS))?;
            let map: PerCpuArray<_, common::Count> = Map::PerCpuArray(map).try_into()?;
            Counters::read(&map)
        };
        read().map_err(|error| explain(&self.interface, "read the pinned counters", error))
    }

    /// Remove the pins, and so detach the program, unless a process holds it open. A bpffs of ours
    /// that is empty then goes too.
    pub fn unload(self) -> Result<(), Error> {
        let failed = |source| Error::File {
            what: "remove",
            path: self.dir.clone(),
            source,
        };
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
        }
        fs::remove_dir(&self.dir).map_err(failed)?;
        drop_empty_bpffs();
        Ok(())
    }
}

pub(crate) fn program_name(role: Role) -> &'static str {
    match role {
        Role::Outer => "outer",
        Role::Inner => "inner",
    }
}

pub(crate) fn link_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Native => "link_native",
        Mode::Generic => "link_generic",
    }
}

/// An empty directory on a bpffs. Pins that are there already are stale: their link does not hold
/// the interface any more, or attaching had failed.
pub(crate) fn prepare(dir: &Path) -> Result<(), Error> {
    mount_bpffs(dir)?;
    remove(dir);
    fs::create_dir_all(dir).map_err(|source| Error::File {
        what: "make",
        path: dir.into(),
        source,
    })
}

/// Best effort: what cannot be removed shows up when something is pinned under its name.
pub(crate) fn remove(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        let _ = fs::remove_file(entry.path());
    }
    let _ = fs::remove_dir(dir);
}

fn mount_bpffs(dir: &Path) -> Result<(), Error> {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    if is_bpffs(existing) {
        return Ok(());
    }
    let at = if dir.starts_with(DEFAULT_BPFFS) {
        Path::new(DEFAULT_BPFFS)
    } else {
        dir.parent().unwrap_or(dir)
    };
    if has_private_mounts() {
        return Err(Error::PrivateMounts {
            path: at.to_owned(),
        });
    }
    let failed = |what, source| Error::File {
        what,
        path: at.to_owned(),
        source,
    };
    fs::create_dir_all(at).map_err(|source| failed("make", source))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", at, "bpf", flags, Some(c"mode=0700"))
        .map_err(|errno| failed("mount a bpffs on", errno.into()))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(BPF_FS_MAGIC))
}

/// Whether mounts made here vanish with us: some process above us has a mount namespace of its own.
fn has_private_mounts() -> bool {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let parent = |pid: &String| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        Some(line.trim().to_owned()).filter(|pid| pid != "0")
    };
    let own = namespace("self");
    std::iter::successors(Some("self".to_owned()), parent)
        // Of those that we may look at.
        .filter_map(|pid| namespace(&pid))
        .any(|other| Some(other) != own)
}

fn drop_empty_bpffs() {
    let at = Path::new(DEFAULT_BPFFS);
    // The kernel's own, maps.debug and progs.debug, are in every one.
    let ours = |entry: fs::DirEntry| !entry.file_name().as_encoded_bytes().ends_with(b".debug");
    let empty = fs::read_dir(at).is_ok_and(|entries| !entries.flatten().any(ours));
    if !empty || !is_bpffs(at) {
        return;
    }
    match unmount(at, UnmountFlags::empty()) {
        // Not a mount point, or in use.
        Err(Errno::INVAL | Errno::BUSY) => {}
        Err(errno) => tracing::debug!(%errno, "the empty bpffs stays"),
        Ok(()) => {
            let removed = fs::remove_dir(at)
                .and_then(|()| fs::remove_dir(at.parent().unwrap_or(at)))
                .map_err(|error| error.kind());
            // Other files of ours may be in the parent.
            if let Err(kind) = removed
                && kind != io::ErrorKind::DirectoryNotEmpty
            {
                tracing::debug!(?kind, "the directory stays");
            }
        }
    }
}
