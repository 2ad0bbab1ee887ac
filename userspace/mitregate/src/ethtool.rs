//! Offloads of a network device by the ethtool ioctl, one of the two places here with `unsafe`.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};

// `linux/ethtool.h`.
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// The set of the names of a device's features.
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
/// Room for the names of so many features; kernels have about 70.
const MAX_FEATURES: usize = 256;

/// struct ethtool_channels.
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

/// struct ethtool_sset_info, for one set.
#[repr(C)]
struct SetInfo {
    cmd: u32,
    reserved: u32,
    mask: u64,
    count: u32,
}

/// struct ethtool_gstrings, with room for [`MAX_FEATURES`].
#[repr(C)]
struct Strings {
    cmd: u32,
    set: u32,
    len: u32,
    names: [[u8; ETH_GSTRING_LEN]; MAX_FEATURES],
}

/// struct ethtool_sfeatures, with room for [`MAX_FEATURES`].
#[repr(C)]
struct SetFeatures {
    cmd: u32,
    /// Blocks in use.
    size: u32,
    blocks: [Block; MAX_FEATURES / 32],
}

/// struct ethtool_set_features_block.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Block {
    /// Bits to change.
    valid: u32,
    /// Their new values.
    requested: u32,
}

/// A command's argument: a struct of `linux/ethtool.h` that begins with the command's number.
///
/// # Safety
/// The layout must be that of the struct, the command in it one that takes this struct, and there
/// must be room for what the command writes.
#[allow(unsafe_code)]
unsafe trait Argument {}

// SAFETY: repr(C), a fixed size, and ETHTOOL_GCHANNELS takes it.
#[allow(unsafe_code)]
unsafe impl Argument for Channels {}
// SAFETY: repr(C); ETHTOOL_GSSET_INFO writes one count for each bit of the mask, of which there
// is one.
#[allow(unsafe_code)]
unsafe impl Argument for SetInfo {}
// SAFETY: repr(C); ETHTOOL_GSTRINGS writes as many names as the set has, which `features` checks
// against the room before; the number is a constant of the running kernel.
#[allow(unsafe_code)]
unsafe impl Argument for Strings {}
// SAFETY: repr(C); ETHTOOL_SFEATURES reads `size` blocks, at most those there are.
#[allow(unsafe_code)]
unsafe impl Argument for SetFeatures {}

/// How many receive queues `interface` uses; None if its driver does not say.
pub fn receive_queues(interface: &str) -> Option<u32> {
    let mut channels = Channels {
        cmd: ETHTOOL_GCHANNELS,
        ..Default::default()
    };
    ioctl(interface, &mut channels).ok()?;
    Some(channels.rx_count + channels.combined_count)
}

/// Makes the kernel hand over finished packets on `interface`: none longer than the MTU, no
/// checksum or VLAN tag left for hardware to fill in, since what takes the frames is the tunnel.
///
/// Generic segmentation stays on: large packets go through the stack whole, and are cut just
/// before they are handed over.
pub fn finish_packets_in_software(interface: &str) -> Result<()> {
    turn_off(interface, |name| {
        name.starts_with("tx-checksum-")
            || name.starts_with("tx-gso-")
            || name.ends_with("-hw-insert")
            || (name.ends_with("-segmentation") && name != "tx-generic-segmentation")
    })
    .with_context(|| format!("cannot turn off the offloads of interface {interface}"))
}

fn turn_off(interface: &str, which: impl Fn(&str) -> bool) -> Result<()> {
    let names = features(interface)?;
    let mut change = SetFeatures {
        cmd: ETHTOOL_SFEATURES,
        size: u32::try_from(names.len().div_ceil(32))?,
        blocks: [Block::default(); MAX_FEATURES / 32],
    };
    for (bit, name) in names.iter().enumerate() {
        if which(name) {
            change.blocks[bit / 32].valid |= 1 << (bit % 32);
        }
    }
    // Those that the device does not have, or cannot change, are left alone.
    Ok(ioctl(interface, &mut change)?)
}

/// The names of all features that the kernel knows, by bit.
fn features(interface: &str) -> Result<Vec<String>> {
    let mut info = SetInfo {
        cmd: ETHTOOL_GSSET_INFO,
        reserved: 0,
        mask: 1 << ETH_SS_FEATURES,
        count: 0,
    };
    ioctl(interface, &mut info)?;
    let count = usize::try_from(info.count)?;
    ensure!(
        info.mask != 0 && count <= MAX_FEATURES,
        "the kernel knows {count} features"
    );
    let mut strings = Box::new(Strings {
        cmd: ETHTOOL_GSTRINGS,
        set: ETH_SS_FEATURES,
        len: info.count,
        names: [[0; ETH_GSTRING_LEN]; MAX_FEATURES],
    });
    ioctl(interface, &mut *strings)?;
    let text = |name: &[u8; ETH_GSTRING_LEN]| {
        let end = name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(ETH_GSTRING_LEN);
        String::from_utf8_lossy(&name[..end]).into_owned()
    };
    Ok(strings.names[..count].iter().map(text).collect())
}

fn ioctl(interface: &str, argument: &mut impl Argument) -> io::Result<()> {
    if interface.is_empty() || interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "interface name of 1 to 15 bytes",
        ));
    }
    // Any socket will do; it chooses the network namespace.
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut *argument).cast(),
        },
    };
    // SAFETY: SIOCETHTOOL reads a `struct ifreq` whose name is NUL-terminated (shorter than
    // IFNAMSIZ, checked above) and whose data points at the struct that the command in it takes
    // (by `Argument`'s contract); both outlive the call, and the kernel keeps no pointer to them.
    #[allow(unsafe_code)]
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
