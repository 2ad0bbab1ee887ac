//! Offloads of a network device by the ethtool ioctl, one of the two places here with `unsafe`.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Result, bail};

/// Legacy "set one flag" commands of `linux/ethtool.h`, each a `struct ethtool_value`.
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;

const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `linux/ethtool.h`: struct ethtool_value.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// `linux/ethtool.h`: struct ethtool_channels.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
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

/// A command's argument: a struct of `linux/ethtool.h` that begins with the command's number.
///
/// # Safety
/// The layout must be that of the struct, and the command in it one that takes this struct.
#[allow(unsafe_code)]
unsafe trait Argument {}

// SAFETY: repr(C), and the flag commands above take a struct ethtool_value.
#[allow(unsafe_code)]
unsafe impl Argument for EthtoolValue {}
// SAFETY: repr(C), and ETHTOOL_GCHANNELS takes a struct ethtool_channels.
#[allow(unsafe_code)]
unsafe impl Argument for EthtoolChannels {}

/// How many receive queues `interface` uses; None if its driver does not say.
pub fn receive_queues(interface: &str) -> Option<u32> {
    let mut channels = EthtoolChannels {
        cmd: ETHTOOL_GCHANNELS,
        ..Default::default()
    };
    ioctl(interface, &mut channels).ok()?;
    Some(channels.rx_count + channels.combined_count)
}

/// Makes the kernel hand over finished packets on `interface`: no packet larger than the MTU, no
/// checksum left for hardware to fill in, since what reads the frames here is the tunnel.
pub fn finish_packets_in_software(interface: &str) -> Result<()> {
    // In this order: segmentation offload needs checksum offload.
    for (cmd, name) in [
        (ETHTOOL_SGSO, "generic segmentation offload"),
        (ETHTOOL_STSO, "TCP segmentation offload"),
        (ETHTOOL_STXCSUM, "TX checksum offload"),
    ] {
        if let Err(error) = ioctl(interface, &mut EthtoolValue { cmd, data: 0 }) {
            bail!("cannot turn off {name} on interface {interface}: {error}");
        }
    }
    Ok(())
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
