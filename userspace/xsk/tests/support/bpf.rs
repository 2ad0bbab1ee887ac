//! The smallest XDP program that serves an AF_XDP socket, loaded by bpf(2) alone:
//! `return bpf_redirect_map(&xskmap, ctx->rx_queue_index, XDP_PASS)`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// linux/bpf.h
const BPF_MAP_CREATE: u32 = 0;
const BPF_MAP_UPDATE_ELEM: u32 = 2;
const BPF_PROG_LOAD: u32 = 5;
const BPF_LINK_CREATE: u32 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The program and its map, attached while this lives.
pub struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Redirect {
    /// Attaches in native mode to an interface of the calling thread's namespace.
    pub fn attach(ifindex: u32) -> io::Result<Self> {
        let map = Attributes::default()
            .u32(0, BPF_MAP_TYPE_XSKMAP)
            .u32(4, 4)
            .u32(8, 4)
            .u32(12, 64)
            .descriptor(BPF_MAP_CREATE)?;
        let map_fd = u64::from(number(&map));
        // opcode, source << 4 | destination register, offset, immediate
        let instruction = |opcode: u64, registers: u64, offset: u64, immediate: u64| {
            opcode | registers << 8 | offset << 16 | immediate << 32
        };
        let code = [
            instruction(0x61, 0x12, 16, 0), // r2 = *(u32 *)(r1 + 16): rx_queue_index
            instruction(0x18, 0x11, 0, map_fd), // r1 = the map (BPF_PSEUDO_MAP_FD) …
            instruction(0, 0, 0, 0),        // … of which this is the second half
            instruction(0xb7, 0x03, 0, 2),  // r3 = XDP_PASS
            instruction(0x85, 0, 0, 51),    // call bpf_redirect_map
            instruction(0x95, 0, 0, 0),     // exit
        ];
        let license = *b"Dual MIT/GPL\0";
        let program = Attributes::default()
            .u32(0, BPF_PROG_TYPE_XDP)
            .u32(4, u32::try_from(code.len()).unwrap())
            .pointer(8, &code)
            .pointer(16, &license)
            .u32(68, BPF_XDP)
            .descriptor(BPF_PROG_LOAD)?;
        let link = Attributes::default()
            .u32(0, number(&program))
            .u32(4, ifindex)
            .u32(8, BPF_XDP)
            .u32(12, XDP_FLAGS_DRV_MODE)
            .descriptor(BPF_LINK_CREATE)?;
        Ok(Self {
            map,
            _program: program,
            _link: link,
        })
    }

    /// Gives a receive queue to a socket.
    pub fn add(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        Attributes::default()
            .u32(0, number(&self.map))
            .pointer(8, &queue)
            .pointer(16, &fd)
            .call(BPF_MAP_UPDATE_ELEM)
            .map(drop)
    }
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// `union bpf_attr`, written by offset. Borrows what its pointers point to.
struct Attributes<'a> {
    bytes: [u8; 128],
    borrowed: core::marker::PhantomData<&'a ()>,
}

impl Default for Attributes<'_> {
    fn default() -> Self {
        Self {
            bytes: [0; 128],
            borrowed: core::marker::PhantomData,
        }
    }
}

impl<'a> Attributes<'a> {
    fn u32(mut self, offset: usize, value: u32) -> Self {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn pointer<T>(mut self, offset: usize, value: &'a T) -> Self {
        let address = core::ptr::from_ref(value) as u64;
        self.bytes[offset..offset + 8].copy_from_slice(&address.to_ne_bytes());
        self
    }

    fn call(self, command: u32) -> io::Result<libc::c_long> {
        // SAFETY: the attributes are as long as said, and what they point to is borrowed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                self.bytes.as_ptr(),
                self.bytes.len(),
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(result)
        }
    }

    fn descriptor(self, command: u32) -> io::Result<OwnedFd> {
        let fd = i32::try_from(self.call(command)?).map_err(io::Error::other)?;
        // SAFETY: the commands used with this return a new descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}
