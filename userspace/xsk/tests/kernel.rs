//! AF_XDP sockets on veth pairs in namespaces of their own. Needs root.

#![allow(
    clippy::print_stderr,
    reason = "tests say why they skip and what they measure"
)]

mod support;

use mitregate_xsk::{
    BusyPoll, Frame, FramePool, Mode, ModeRequest, Port, RingSizes, SocketError, Step, Umem,
    UmemConfig, XskConfig, XskError, XskPort,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Endpoint, Netns, is_root, open, until};

fn memory(frames: u32) -> Arc<Umem> {
    Umem::new(UmemConfig {
        frames,
        ..UmemConfig::default()
    })
    .unwrap()
}

/// Both ends of a veth pair, each with memory and pool of its own.
fn pair(a: &Netns, b: &Netns) -> [Endpoint; 2] {
    let (index_a, index_b) = a.veth("va", b, "vb");
    [(a, index_a), (b, index_b)].map(|(netns, index)| endpoint(netns, index))
}

fn endpoint(netns: &Netns, ifindex: u32) -> Endpoint {
    let umem = memory(8192);
    let pool = FramePool::new(&umem, 8192, 16).unwrap();
    Endpoint::open(netns, &XskConfig::new(ifindex, 0, &umem), pool)
}

/// A packet that only this number can have made.
fn write(number: u32, packet: &mut [u8]) {
    let mut state = number;
    for (byte, n) in packet.iter_mut().zip(0_u32..) {
        state = state
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223 ^ n);
        *byte = state.to_be_bytes()[0];
    }
    // A unicast destination, and an EtherType for local experiments (IEEE 802).
    packet[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    packet[12..14].copy_from_slice(&[0x88, 0xb5]);
    if let Some(bytes) = packet.get_mut(14..18) {
        bytes.copy_from_slice(&number.to_be_bytes());
    }
}

fn number_of(packet: &[u8]) -> u32 {
    let number = u32::from_be_bytes(packet[14..18].try_into().unwrap());
    let mut expected = vec![0; packet.len()];
    write(number, &mut expected);
    assert_eq!(packet, expected);
    number
}

#[test]
fn packets_of_every_length_come_and_go() {
    if !is_root() {
        return;
    }
    let netns = Netns::new();
    let [mut a, mut b] = pair(&netns, &netns);
    assert_eq!(
        a.port.mode(),
        Mode::Copy,
        "veth has no zero-copy, so auto falls back"
    );
    b.receive(|_| {});
    for lengths in (18..=1792_usize).collect::<Vec<_>>().chunks(100) {
        assert_eq!(a.send(lengths, write) as usize, lengths.len());
        let mut next = 0;
        until("packets arrive", || {
            b.receive(|packet| {
                assert_eq!(
                    (number_of(packet), packet.len()),
                    (next, lengths[next as usize])
                );
                next += 1;
            });
            next as usize == lengths.len()
        });
    }
    a.send(&[14], |_, packet| write(0, packet));
    until("a bare header arrives", || {
        b.receive(|packet| assert_eq!(packet.len(), 14)) == 1
    });
    assert_eq!(b.port.stats().rx, 1776);
    assert_eq!(b.port.stats().bad_descriptors, 0);
}

/// 100 000 packets in each direction through a forwarder with one memory, whose second port is in
/// another namespace than the first. Not one packet may be missing, nor one frame.
#[test]
fn forward_between_namespaces_over_one_memory() {
    if !is_root() {
        return;
    }
    const PACKETS: u32 = 100_000;
    // In flight: less than a veth ring (256) holds.
    const WINDOW: u32 = 128;
    const FRAMES: u32 = 4 * 512 + 64;
    let [left, outside, inside, right] = [(); 4].map(|()| Netns::new());
    let (left_index, outer_index) = left.veth("left", &outside, "outer");
    let (inner_index, right_index) = inside.veth("inner", &right, "right");

    let umem = memory(FRAMES);
    let mut pool = FramePool::new(&umem, FRAMES, 32).unwrap();
    let rings = RingSizes::all(512);
    let outer = XskConfig {
        rings,
        ..XskConfig::new(outer_index, 0, &umem)
    };
    let (mut outer, _outer_program) = open(&outside, &outer);
    let inner = XskConfig {
        rings,
        ..XskConfig::new(inner_index, 0, &umem)
    }
    .shared_with(&outer);
    let (mut inner, _inner_program) = open(&inside, &inner);
    assert_eq!(inner.mode(), outer.mode());
    let mut ends = [endpoint(&left, left_index), endpoint(&right, right_index)];

    for end in &mut ends {
        end.receive(|_| {});
    }
    outer.refill(&mut pool);
    inner.refill(&mut pool);

    let [mut sent, mut received] = [[0_u32; 2]; 2];
    let mut batch: Vec<Frame> = Vec::with_capacity(64);
    let mut queues = [VecDeque::with_capacity(64), VecDeque::with_capacity(64)];
    let start = Instant::now();
    while received != [PACKETS; 2] {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{sent:?} sent, {received:?} received"
        );
        for (end, from, to) in [(0, 0, 1), (1, 1, 0)] {
            let count = (PACKETS - sent[from])
                .min(WINDOW - (sent[from] - received[to]))
                .min(32);
            let first = sent[from];
            let write = |n, packet: &mut [u8]| write(first + n, packet);
            sent[from] += ends[end].send(&vec![200; count as usize], write);
            ends[end].receive(|packet| {
                assert_eq!(number_of(packet), received[end], "in order, none lost");
                received[end] += 1;
            });
        }
        for (port, queue) in [(&mut outer, 0), (&mut inner, 1)] {
            port.reclaim(&mut pool);
            port.refill(&mut pool);
            port.rx(&mut batch, 64);
            queues[queue].extend(batch.drain(..));
        }
        inner.tx(&mut queues[0]);
        outer.tx(&mut queues[1]);
        inner.kick().unwrap();
        outer.kick().unwrap();
    }
    let took = start.elapsed();

    until("all that was sent is completed", || {
        inner.reclaim(&mut pool);
        outer.reclaim(&mut pool);
        outer.frames().sending() + inner.frames().sending() == 0
    });
    for port in [&outer, &inner] {
        let stats = port.stats();
        assert_eq!(
            (stats.rx, stats.tx, stats.completed),
            (100_000, 100_000, 100_000)
        );
        assert_eq!(
            (stats.bad_descriptors, stats.tx_dropped, stats.tx_refused),
            (0, 0, 0)
        );
        assert_eq!(
            stats.kernel.rx_ring_full + stats.kernel.rx_fill_ring_empty,
            0
        );
    }
    let receiving = outer.frames().receiving() + inner.frames().receiving();
    assert_eq!(pool.free() + receiving, FRAMES as usize);
    assert_eq!(umem.census().receiving as usize, receiving);
    assert_eq!((umem.census().held, umem.dropped_frames()), (0, 0));
    eprintln!(
        "copy mode, generator and forwarder and sink in one thread: {:.0} packets/s",
        f64::from(2 * PACKETS) / took.as_secs_f64()
    );
}

/// As for two workers: two queues of one device, one memory, a pool each.
#[test]
fn two_queues_share_a_memory() {
    if !is_root() {
        return;
    }
    let netns = Netns::new();
    let (index_a, index_b) = netns.veth("va", &netns, "vb");
    let [mut a, mut b] = [index_a, index_b].map(|index| {
        let umem = memory(4096);
        let (first, program) = open(&netns, &XskConfig::new(index, 0, &umem));
        let config = XskConfig::new(index, 1, &umem).shared_with(&first);
        let second = netns.enter(|| XskPort::open(&config)).unwrap();
        program.add(1, second.socket_fd()).unwrap();
        let pools = [(); 2].map(|()| FramePool::new(&umem, 2048, 16).unwrap());
        ([first, second], pools, program)
    });
    for queue in 0..2 {
        b.0[queue].refill(&mut b.1[queue]);
    }
    // A veth keeps the queue that a packet was sent on.
    for (queue, number) in [(0, 100), (1, 101), (1, 102)] {
        let mut frame = a.1[queue].take().unwrap();
        frame.set_range(256..316);
        write(number, a.0[queue].umem().bytes_mut(&mut frame));
        a.0[queue].tx(&mut VecDeque::from([frame]));
        a.0[queue].kick().unwrap();
        let mut received = Vec::new();
        until("it arrives on the same queue", || {
            b.0[queue].rx(&mut received, 64) == 1
        });
        let frame = received.remove(0);
        assert_eq!(number_of(b.0[queue].umem().bytes(&frame)), number);
        // A stray goes to the pool of the other worker.
        b.1[1 - queue].put(frame);
        b.0[queue].refill(&mut b.1[queue]);
        until("it is completed", || {
            a.0[queue].reclaim(&mut a.1[queue]) == 1
        });
    }
    let census = b.0[0].umem().census();
    assert_eq!((census.pooled + census.receiving, census.held), (4096, 0));
}

/// One kick sends all of a full burst, in few system calls.
#[test]
fn a_kick_sends_more_than_one_system_call_does() {
    if !is_root() {
        return;
    }
    let netns = Netns::new();
    let [mut a, mut b] = pair(&netns, &netns);
    b.receive(|_| {});
    for round in 1..=5 {
        assert_eq!(a.send(&[60; 1500], write), 1500);
        assert_eq!(a.port.tx_pending(), 0);
        let mut next = 0;
        until("all arrive", || {
            b.receive(|packet| {
                assert_eq!(number_of(packet), next);
                next += 1;
            });
            next == 1500
        });
        a.port.reclaim(&mut a.pool);
        let stats = a.port.stats();
        assert_eq!((stats.tx, stats.completed), (1500 * round, 1500 * round));
        assert!(stats.kicks <= round * 1500_u64.div_ceil(32), "{stats:?}");
    }
    assert_eq!(a.pool.free(), 8192);
}

/// A veth whose far end is slower than we are. Without a queueing discipline it drops what does not
/// fit, which is counted; with one the kernel refuses it, and it waits in the TX ring.
#[test]
fn a_full_veth_ring_drops_or_refuses() {
    if !is_root() {
        return;
    }
    for qdisc in ["noqueue", "pfifo"] {
        let netns = Netns::new();
        let [mut a, mut b] = pair(&netns, &netns);
        netns.run("tc", &format!("qdisc replace dev va root {qdisc}"));
        netns.slow_receive("vb");
        b.receive(|_| {});
        let (mut sent, mut received) = (0, 0);
        for _ in 0..100 {
            sent += u64::from(a.send(&[60; 1500], write));
            while b.receive(|_| received += 1) > 0 {}
        }
        // By the veth, and by the far end where we were too slow to post frames.
        let mut dropped = (0, 0);
        until("all is sent, received or dropped", || {
            a.port.kick().unwrap();
            a.port.reclaim(&mut a.pool);
            while b.receive(|_| received += 1) > 0 {}
            dropped = (
                a.port.stats().tx_dropped,
                b.port.stats().kernel.rx_fill_ring_empty,
            );
            received + dropped.0 + dropped.1 == sent && a.port.frames().sending() == 0
        });
        let stats = a.port.stats();
        assert_eq!((stats.tx, stats.completed), (sent, sent));
        if qdisc == "pfifo" {
            assert_eq!(dropped.0, 0);
        }
        assert_eq!(a.pool.free(), 8192);
    }
}

#[test]
fn the_kernel_counts_what_it_could_not_deliver() {
    if !is_root() {
        return;
    }
    let netns = Netns::new();
    let [mut a, b] = pair(&netns, &netns);
    let kernel = |b: &Endpoint| b.port.stats().kernel;
    a.send(&[60; 10], write);
    until("no frame is posted", || kernel(&b).rx_fill_ring_empty == 10);

    // A frame of 4096 bytes holds what is too long for one of 2048.
    let config = UmemConfig {
        frames: 4096,
        frame_size: 4096,
        ..UmemConfig::default()
    };
    let large = Umem::new(config).unwrap();
    let pool = FramePool::new(&large, 4096, 0).unwrap();
    let (index_c, index_d) = netns.veth("vc", &netns, "vd");
    let mut c = Endpoint::open(&netns, &XskConfig::new(index_c, 0, &large), pool);
    let mut d = endpoint(&netns, index_d);
    d.receive(|_| {});
    c.send(&[1793, 1792], write);
    until("the shorter one arrives", || {
        d.receive(|packet| assert_eq!(number_of(packet), 1)) == 1
    });
    assert_eq!(kernel(&d).rx_dropped, 1);
}

#[test]
fn an_interface_goes_down_comes_back_and_vanishes() {
    if !is_root() {
        return;
    }
    let netns = Netns::new();
    let [mut a, mut b] = pair(&netns, &netns);
    b.receive(|_| {});
    netns.ip("link set va down");
    let mut frame = a.pool.take().unwrap();
    let start = frame.range().start;
    frame.set_range(start..start + 60);
    write(7, a.pool.umem().bytes_mut(&mut frame));
    assert_eq!(a.port.tx(&mut VecDeque::from([frame])), 1);
    assert_eq!(
        a.port.kick().unwrap_err().raw_os_error(),
        Some(libc::ENETDOWN)
    );
    assert_eq!(a.port.tx_pending(), 1, "it waits");
    netns.ip("link set va up");
    until("it is sent", || {
        a.port.kick().unwrap();
        b.receive(|packet| assert_eq!(number_of(packet), 7)) == 1
    });
    netns.ip("link del va");
    let frame = a.pool.take().map(|mut frame| {
        frame.set_range(256..316);
        frame
    });
    a.port.tx(&mut frame.into_iter().collect());
    assert_eq!(a.port.kick().unwrap_err().raw_os_error(), Some(libc::ENXIO));
}

#[test]
fn a_queue_is_free_again_at_once() {
    if !is_root() {
        return;
    }
    let netns = Netns::new();
    let (index, _) = netns.veth("va", &netns, "vb");
    for _ in 0..5 {
        drop(endpoint(&netns, index));
    }
}

#[test]
fn busy_polling_is_accepted() {
    if !is_root() {
        return;
    }
    let netns = Netns::new();
    let (index, peer) = netns.veth("va", &netns, "vb");
    let umem = memory(8192);
    let pool = FramePool::new(&umem, 8192, 0).unwrap();
    let busy_poll = Some(BusyPoll {
        microseconds: 20,
        budget: 64,
    });
    let config = XskConfig {
        busy_poll,
        ..XskConfig::new(index, 0, &umem)
    };
    let mut a = Endpoint::open(&netns, &config, pool);
    let mut b = endpoint(&netns, peer);
    a.receive(|_| {});
    b.send(&[60], |_, packet| write(1, packet));
    until("it arrives", || {
        a.port.kick().unwrap();
        a.receive(|packet| assert_eq!(number_of(packet), 1)) == 1
    });
    assert!(a.port.stats().kicks > 0, "also without anything to send");
}

fn error_of(config: &XskConfig<'_>) -> SocketError {
    match XskPort::open(config).err().expect("an error") {
        XskError::Socket(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn errors_name_the_place_and_what_to_do() {
    if !is_root() {
        return;
    }
    let netns = Netns::new();
    let (index, _) = netns.veth("wan", &netns, "lan");
    let umem = memory(64);
    netns.enter(|| {
        let check = |config: &XskConfig<'_>, step, errno, words: &[&str]| {
            let error = error_of(config);
            assert_eq!(
                (error.step, error.source.raw_os_error()),
                (step, Some(errno)),
                "{error}"
            );
            let text = error.to_string();
            for word in words {
                assert!(text.contains(word), "{word} in {text}");
            }
        };
        let wan = XskConfig::new(index, 0, &umem);
        let config = XskConfig::new(4711, 0, &umem);
        check(
            &config,
            Step::Bind,
            libc::ENODEV,
            &["interface 4711", "namespace"],
        );
        let config = XskConfig::new(index, 99, &umem);
        check(
            &config,
            Step::Bind,
            libc::EINVAL,
            &["on wan, queue 99: cannot bind", "ethtool"],
        );
        let config = XskConfig {
            mode: ModeRequest::ZeroCopy,
            ..XskConfig::new(index, 0, &umem)
        };
        check(
            &config,
            Step::Bind,
            libc::EOPNOTSUPP,
            &["zero-copy", "mode auto"],
        );

        let first = XskPort::open(&wan).unwrap();
        let other = memory(64);
        check(
            &XskConfig::new(index, 0, &other),
            Step::Bind,
            libc::EBUSY,
            &["another AF_XDP socket", "ss --xdp"],
        );
        let error = XskPort::open(&XskConfig::new(index, 0, &other).shared_with(&first));
        assert!(matches!(error, Err(XskError::SharedMemory)));
        // The same queue twice with one memory would need one pair of fill and completion rings.
        let config = XskConfig::new(index, 0, &umem).shared_with(&first);
        check(
            &config,
            Step::BindShared(Mode::Copy),
            libc::EINVAL,
            &["shared packet memory"],
        );
        let rings = RingSizes {
            rx: 100,
            ..RingSizes::default()
        };
        let error = XskPort::open(&XskConfig { rings, ..wan });
        assert!(matches!(
            error,
            Err(XskError::RingSize {
                ring: "rx",
                size: 100
            })
        ));
    });
}

#[test]
fn errors_without_privileges() {
    if !is_root() {
        return;
    }
    let netns = Netns::new();
    let (index, _) = netns.veth("wan", &netns, "lan");
    let large = memory(65_536);
    netns.enter(|| {
        // Of the whole process; but the other threads keep CAP_IPC_LOCK, for which it is no limit.
        let limit = libc::rlimit {
            rlim_cur: 1 << 20,
            rlim_max: 1 << 20,
        };
        // SAFETY: a pointer to a limit.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
        assert_eq!(set, 0);
        drop_capability(14); // CAP_IPC_LOCK
        let error = error_of(&XskConfig::new(index, 0, &large));
        assert_eq!(error.step, Step::RegisterMemory);
        assert!(error.to_string().contains("memory lock limit"), "{error}");
        drop_capability(13); // CAP_NET_RAW
        let error = error_of(&XskConfig::new(index, 0, &large));
        assert_eq!(error.step, Step::Create);
        assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
    });
}

/// Takes a capability from the calling thread.
fn drop_capability(capability: u32) {
    // struct __user_cap_header_struct: version 3, this thread; and two of __user_cap_data_struct:
    // effective, permitted, inheritable.
    let header = [0x2008_0522_u32, 0];
    let mut data = [0_u32; 6];
    // SAFETY: capget and capset of version 3 read and write exactly these two arrays.
    unsafe {
        assert_eq!(
            libc::syscall(libc::SYS_capget, &raw const header, &raw mut data),
            0
        );
        data[0] &= !(1 << capability);
        assert_eq!(
            libc::syscall(libc::SYS_capset, &raw const header, &raw const data),
            0
        );
    }
}
