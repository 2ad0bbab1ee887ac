//! Offloads of a network device by the ethtool ioctl, one of the two places here with `unsafe`.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Result, bail};

/// Legacy "set one flag" commands of `linux/ethtool.h`, each a `struct ethtool_value`.
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;

/// `linux/ethtool.h`: struct ethtool_value.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
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
        if let Err(error) = set(interface, cmd, 0) {
            bail!("cannot turn off {name} on interface {interface}: {error}");
        }
    }
    Ok(())
}

fn set(interface: &str, cmd: u32, data: u32) -> io::Result<()> {
    if interface.is_empty() || interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "interface name of 1 to 15 bytes",
        ));
    }
    // Any socket will do; it chooses the network namespace.
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
    let mut value = EthtoolValue { cmd, data };
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    // SAFETY: SIOCETHTOOL reads a `struct ifreq` whose name is NUL-terminated (shorter than
    // IFNAMSIZ, checked above) and whose data points at a `struct ethtool_value`; both live on
    // this stack frame past the call, and the kernel keeps no pointer to them.
    #[allow(unsafe_code)]
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
