//! The system calls on AF_XDP sockets.

use crate::port::{RingSizes, Rings};
use crate::ring::{Consumer, Producer};
use crate::socket::BusyPoll;
use crate::umem::{Mapping, Umem};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// A queue that was let go of is free again only after a moment (the kernel clears it in a work
/// queue), so a restarted daemon tries this often.
const BUSY_RETRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

// Not in libc for Linux: asm-generic/socket.h; linux/if_xdp.h since 6.17.
const SO_BUSY_POLL: libc::c_int = 46;
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Types that socket options are read into and written from.
///
/// # Safety
/// Plain integers without padding: every pattern of bytes is a value, and none is uninitialised.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: two u64, then four u32.
unsafe impl Plain for libc::xdp_umem_reg {}
// SAFETY: sixteen u64.
unsafe impl Plain for libc::xdp_mmap_offsets {}
// SAFETY: six u64.
unsafe impl Plain for libc::xdp_statistics {}
// SAFETY: one u32.
unsafe impl Plain for libc::xdp_options {}

pub(crate) fn create() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn set<T: Plain>(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which the kernel only reads.
    let result = unsafe {
        let value = core::ptr::from_ref(value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, option, value, length_of::<T>())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(crate) fn get<T: Plain>(socket: &OwnedFd, option: libc::c_int) -> io::Result<T> {
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    let mut length = length_of::<T>();
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`.
    let result = unsafe {
        let value = value.as_mut_ptr().cast();
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            value,
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if length != length_of::<T>() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel is older than 5.9",
        ));
    }
    // SAFETY: initialised with zeros and then by the kernel; `Plain` has no invalid values.
    Ok(unsafe { value.assume_init() })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the largest option has 128 bytes"
)]
const fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

pub(crate) fn raise_send_buffer(socket: &OwnedFd, bytes: u32) {
    // The first needs CAP_NET_ADMIN, the second is cut to net.core.wmem_max; less only means more
    // EAGAIN, so neither is worth an error.
    if set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes).is_err() {
        let _ = set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes);
    }
}

/// Sets how many packets one system call sends. Kernels before 6.17 know no such option.
pub(crate) fn set_tx_budget(socket: &OwnedFd, budget: u32) -> io::Result<()> {
    set(socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget)
}

pub(crate) fn set_busy_poll(socket: &OwnedFd, busy_poll: BusyPoll) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1_u32)?;
    set(
        socket,
        libc::SOL_SOCKET,
        SO_BUSY_POLL,
        &busy_poll.microseconds,
    )?;
    set(
        socket,
        libc::SOL_SOCKET,
        SO_BUSY_POLL_BUDGET,
        &u32::from(busy_poll.budget),
    )
}

pub(crate) fn map_rings(socket: &OwnedFd, sizes: RingSizes, umem: &Arc<Umem>) -> io::Result<Rings> {
    let offsets: libc::xdp_mmap_offsets = get(socket, libc::XDP_MMAP_OFFSETS)?;
    let map = |page: u64, ring: &libc::xdp_ring_offset, size: u32, entry: usize| {
        let page = libc::off_t::try_from(page).map_err(io::Error::other)?;
        let len = usize::try_from(ring.desc).map_err(io::Error::other)? + size as usize * entry;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Mapping::map(len, flags, Some((socket.as_raw_fd(), page)))
    };
    let (address, desc) = (size_of::<u64>(), size_of::<libc::xdp_desc>());
    let fill = map(
        libc::XDP_UMEM_PGOFF_FILL_RING,
        &offsets.fr,
        sizes.fill,
        address,
    )?;
    let completion = map(
        libc::XDP_UMEM_PGOFF_COMPLETION_RING,
        &offsets.cr,
        sizes.completion,
        address,
    )?;
    let rx = map(libc::XDP_PGOFF_RX_RING as u64, &offsets.rx, sizes.rx, desc)?;
    let tx = map(libc::XDP_PGOFF_TX_RING as u64, &offsets.tx, sizes.tx, desc)?;
    Ok(Rings::new(
        umem.clone(),
        Producer::kernel(fill, &offsets.fr, sizes.fill)?,
        Consumer::kernel(rx, &offsets.rx, sizes.rx)?,
        Producer::kernel(tx, &offsets.tx, sizes.tx)?,
        Consumer::kernel(completion, &offsets.cr, sizes.completion)?,
    ))
}

pub(crate) fn bind(
    socket: &OwnedFd,
    ifindex: u32,
    queue: u32,
    flags: u16,
    shared_with: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP.try_into().map_err(io::Error::other)?,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared_with.map_or(0, |fd| fd.as_raw_fd().cast_unsigned()),
    };
    for attempt in 0.. {
        // SAFETY: pointer and length describe `address`, which the kernel only reads.
        let result = unsafe {
            let length = length_of::<libc::sockaddr_xdp>();
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
        };
        if result == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) || attempt == BUSY_RETRIES {
            return Err(error);
        }
        std::thread::sleep(BUSY_PAUSE);
    }
    Ok(())
}

/// An empty `sendto`: the kernel looks at the TX ring.
pub(crate) fn wake_tx(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed; the kernel takes the packets from the ring.
    let sent = unsafe {
        let (none, flags) = (core::ptr::null(), libc::MSG_DONTWAIT);
        libc::sendto(socket.as_raw_fd(), none, 0, flags, core::ptr::null(), 0)
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// An empty `recvfrom`: the kernel looks at the fill ring, or polls the device.
pub(crate) fn wake_rx(socket: &OwnedFd) -> io::Result<()> {
    let (none, flags) = (core::ptr::null_mut(), libc::MSG_DONTWAIT);
    // SAFETY: no buffer and no address are passed.
    let received = unsafe {
        let (address, length) = (core::ptr::null_mut(), core::ptr::null_mut());
        libc::recvfrom(socket.as_raw_fd(), none, 0, flags, address, length)
    };
    if received < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Name of an interface in the calling thread's network namespace, for errors.
pub(crate) fn name_of(ifindex: u32) -> String {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that if_indextoname may write.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
    match CStr::from_bytes_until_nul(&name) {
        Ok(name) if !found.is_null() => name.to_string_lossy().into_owned(),
        _ => format!("interface {ifindex}"),
    }
}
