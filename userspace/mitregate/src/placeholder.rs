//! Sockets that receive nothing, on what the data plane takes by AF_XDP: UDP 500 and 4500, and IP
//! protocol 50. With them the kernel does not answer "unreachable" to a packet that reaches it
//! (before the classifier is attached, or of a kind it passes), and a second IKE daemon is found.

use std::io;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

/// RFC 7296 §2: IKE.
const IKE_PORT: u16 = 500;
/// RFC 3948 §2: IKE and ESP in UDP.
const NAT_PORT: u16 = 4500;
/// RFC 4303 §2: ESP.
const ESP: i32 = 50;

/// `BPF_RET | BPF_K` with 0: accept no byte of any packet.
const DROP_ALL: SockFilter = SockFilter::new(0x06, 0, 0, 0);

/// Held open while the daemon runs.
pub struct Placeholders(Vec<Held>);

struct Held {
    address: IpAddr,
    /// Only held open.
    _sockets: [Socket; 3],
}

impl Placeholders {
    /// On each of these addresses of ours.
    pub fn bind(addresses: &[IpAddr]) -> Result<Self> {
        let held = addresses.iter().map(|address| hold(*address));
        Ok(Self(held.collect::<Result<_>>()?))
    }

    /// On these from now on. An address that cannot be bound yet (IPv6 still looks for duplicates)
    /// works without.
    pub fn follow(&mut self, addresses: &[IpAddr]) {
        self.0.retain(|held| addresses.contains(&held.address));
        for address in addresses {
            if self.0.iter().any(|held| held.address == *address) {
                continue;
            }
            match hold(*address) {
                Ok(held) => self.0.push(held),
                Err(error) => tracing::debug!("no placeholder sockets: {error:#}"),
            }
        }
    }
}

fn hold(address: IpAddr) -> Result<Held> {
    Ok(Held {
        address,
        _sockets: [
            udp(address, IKE_PORT)?,
            udp(address, NAT_PORT)?,
            raw(address)?,
        ],
    })
}

fn udp(address: IpAddr, port: u16) -> Result<Socket> {
    let bind = || {
        let socket = Socket::new(domain(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.attach_filter(&[DROP_ALL])?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&SockAddr::from(SocketAddr::new(address, port)))?;
        Ok(socket)
    };
    bind().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "UDP port {port} on {address} is in use: another IKE daemon is running \
             (`ss -lunp sport = :{port}` shows which); stop it, or give it other addresses"
        ),
        io::ErrorKind::PermissionDenied => {
            anyhow!("cannot bind UDP port {port}: needs root, or CAP_NET_BIND_SERVICE")
        }
        io::ErrorKind::AddrNotAvailable => {
            anyhow!("{address} is not an address of this host: see `local_addrs`")
        }
        _ => anyhow!("cannot bind UDP port {port} on {address}: {error}"),
    })
}

fn raw(address: IpAddr) -> Result<Socket> {
    let open = || {
        let socket = Socket::new(domain(address), Type::RAW, Some(Protocol::from(ESP)))?;
        socket.attach_filter(&[DROP_ALL])?;
        socket.bind(&SockAddr::from(SocketAddr::new(address, 0)))?;
        Ok::<_, io::Error>(socket)
    };
    open().with_context(|| {
        format!("cannot open a raw socket for ESP on {address} (needs root, or CAP_NET_RAW)")
    })
}

fn domain(address: IpAddr) -> Domain {
    if address.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    }
}
