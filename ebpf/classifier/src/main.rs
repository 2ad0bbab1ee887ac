//! The XDP classifier: maps, packet access and actions around [`mitregate_ebpf_common::classify()`].
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    btf_maps::{HashMap, LruHashMap, PerCpuArray, XskMap},
    helpers::bpf_ktime_get_ns,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use mitregate_ebpf_common::{
    AddressKey, Count, FRAGMENT_LIFETIME_NS, FragmentKey, MAX_ADDRESSES, MAX_FRAGMENTED,
    MAX_QUEUES, NO_SOCKET, PACKETS, Packet, Role, Tables, Verdict, classify,
};

#[btf_map]
static SOCKETS: XskMap<{ MAX_QUEUES as usize }> = XskMap::new();
#[btf_map]
static ADDRESSES: HashMap<AddressKey, u32, { MAX_ADDRESSES as usize }> = HashMap::new();
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, u64, { MAX_FRAGMENTED as usize }> = LruHashMap::new();
#[btf_map]
static COUNTERS: PerCpuArray<Count, { Verdict::ALL.len() }> = PerCpuArray::new();

/// IPsec and IKE for our addresses to the queue's socket, all else to the kernel.
#[xdp]
pub fn mitregate_outer(ctx: XdpContext) -> u32 {
    run(&ctx, Role::Outer, XDP_PASS)
}

/// Everything to the queue's socket, or nowhere.
#[xdp]
pub fn mitregate_inner(ctx: XdpContext) -> u32 {
    run(&ctx, Role::Inner, XDP_DROP)
}

#[inline(always)]
fn run(ctx: &XdpContext, role: Role, without_socket: u32) -> u32 {
    let verdict = classify(role, &Frame::of(ctx), &Kernel);
    let packets = count(verdict, PACKETS);
    if !verdict.redirects() {
        log::odd(ctx, verdict, packets);
        return XDP_PASS;
    }
    match SOCKETS.redirect(ctx.rx_queue_index(), u64::from(without_socket)) {
        Ok(redirect) => redirect,
        Err(fallback) => {
            log::no_socket(ctx, count(verdict, NO_SOCKET));
            fallback
        }
    }
}

/// What the bench compares with: an XDP program that does nothing.
#[cfg(not(feature = "log"))]
#[xdp]
pub fn mitregate_pass(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Rare events, each at its first, second, fourth, eighth... time on a CPU, so that a flood of them
/// is not a flood of messages.
#[cfg(feature = "log")]
mod log {
    use aya_ebpf::programs::XdpContext;
    use aya_log_ebpf::{debug, info};
    use mitregate_ebpf_common::Verdict;

    #[inline(always)]
    pub fn no_socket(ctx: &XdpContext, times: u64) {
        if times.is_power_of_two() {
            let queue = ctx.rx_queue_index();
            info!(
                ctx,
                "queue {} has no socket, {} packets so far", queue, times
            );
        }
    }

    #[inline(always)]
    pub fn odd(ctx: &XdpContext, verdict: Verdict, times: u64) {
        match verdict {
            Verdict::Malformed if times.is_power_of_two() => {
                debug!(ctx, "malformed, {} packets so far", times);
            }
            Verdict::LongHeaderChain if times.is_power_of_two() => {
                debug!(
                    ctx,
                    "too many IPv6 extension headers, {} packets so far", times
                );
            }
            _ => {}
        }
    }
}

#[cfg(not(feature = "log"))]
mod log {
    use aya_ebpf::programs::XdpContext;
    use mitregate_ebpf_common::Verdict;

    #[inline(always)]
    pub fn no_socket(_: &XdpContext, _: u64) {}

    #[inline(always)]
    pub fn odd(_: &XdpContext, _: Verdict, _: u64) {}
}

struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    fn of(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

/// No header that is followed begins beyond this; the verifier wants a bound.
const MAX_OFFSET: usize = 0x3fff;

impl Packet for Frame {
    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // `from + 1 > end` becomes `from >= end`, which tells the verifier nothing.
        const { assert!(N > 1) };
        if at > MAX_OFFSET {
            return None;
        }
        let from = self.start + at;
        if from + N > self.end {
            return None;
        }
        // SAFETY: the N bytes from `from` lie between the frame's start and end; bytes need no
        // alignment.
        Some(unsafe { *(from as *const [u8; N]) })
    }
}

struct Kernel;

impl Tables for Kernel {
    #[inline(always)]
    fn is_ours(&self, address: &AddressKey) -> bool {
        // SAFETY: only the presence is looked at, no reference is kept.
        unsafe { ADDRESSES.get(address) }.is_some()
    }

    #[inline(always)]
    fn remember(&self, key: &FragmentKey) {
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        // An LRU map makes room by itself.
        let _ = FRAGMENTS.insert(key, now, 0);
    }

    #[inline(always)]
    fn forget(&self, key: &FragmentKey) {
        let _ = FRAGMENTS.remove(key);
    }

    #[inline(always)]
    fn remembers(&self, key: &FragmentKey) -> bool {
        // SAFETY: the value is copied out; an entry reused at this moment costs one fragment.
        let Some(since) = (unsafe { FRAGMENTS.get(key) }).copied() else {
            return false;
        };
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_ns() }.wrapping_sub(since) < FRAGMENT_LIFETIME_NS
    }
}

#[inline(always)]
fn count(verdict: Verdict, which: usize) -> u64 {
    let Some(counts) = COUNTERS.get_ptr_mut(verdict.index()) else {
        return 0;
    };
    // SAFETY: this CPU's own entry, and nothing interrupts an XDP program on its CPU to run
    // another on the same map.
    unsafe {
        (*counts)[which] += 1;
        (*counts)[which]
    }
}

/// What helpers may be called goes by this; none of ours is reserved to the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 18] = *b"MIT OR Apache-2.0\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
