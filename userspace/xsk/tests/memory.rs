//! Packet memory, frames, pools and the memory port.

use mitregate_xsk::{
    Frame, FramePool, MemoryPeer, MemoryPort, Pages, Port, RingSizes, Umem, UmemConfig, XskError,
    XskPort,
};
use std::collections::VecDeque;
use std::sync::Arc;

fn memory(frames: u32) -> Arc<Umem> {
    Umem::new(UmemConfig {
        frames,
        ..UmemConfig::default()
    })
    .unwrap()
}

fn fill(umem: &Umem, frame: &mut Frame, packet: &[u8]) {
    let start = frame.range().start;
    frame.set_range(start..start + packet.len());
    umem.bytes_mut(frame).copy_from_slice(packet);
}

/// Ports and pools are opened in one thread and driven in another.
#[test]
fn all_of_it_changes_threads() {
    fn changes_threads<T: Send + Sync>() {}
    changes_threads::<(Arc<Umem>, Frame, FramePool, XskPort, MemoryPort, MemoryPeer)>();
}

#[test]
fn shapes_that_make_no_sense_are_refused() {
    let refused = |config: UmemConfig| Umem::new(config).err().unwrap();
    let sane = UmemConfig::default();
    for frame_size in [0, 1024, 3000, 8192] {
        let error = refused(UmemConfig { frame_size, ..sane });
        assert!(matches!(error, XskError::FrameSize(size) if size == frame_size));
    }
    assert!(matches!(
        refused(UmemConfig {
            headroom: 1792,
            ..sane
        }),
        XskError::Headroom { .. }
    ));
    assert!(matches!(
        refused(UmemConfig { frames: 0, ..sane }),
        XskError::NoFrames
    ));
    let umem = memory(64);
    for size in [0, 16, 48, 1 << 17] {
        let sizes = RingSizes {
            tx: size,
            ..RingSizes::all(64)
        };
        let error = MemoryPort::pair(&umem, sizes).err().unwrap();
        assert!(matches!(error, XskError::RingSize { ring: "tx", size: s } if s == size));
    }
}

#[test]
fn a_frame_grows_into_headroom_and_tailroom() {
    let umem = Umem::new(UmemConfig {
        frames: 4,
        headroom: 64,
        ..UmemConfig::default()
    })
    .unwrap();
    let mut pool = FramePool::new(&umem, 4, 0).unwrap();
    let mut frame = pool.take().unwrap();
    assert_eq!(
        (umem.headroom(), frame.range(), frame.len()),
        (320, 320..320, 0)
    );
    fill(&umem, &mut frame, b"payload");
    assert_eq!(frame.tailroom(), 2048 - 327);
    umem.chunk_mut(&mut frame)[312..320].copy_from_slice(b"header: ");
    umem.chunk_mut(&mut frame)[327] = b'!';
    frame.set_range(312..328);
    assert_eq!(umem.bytes(&frame), b"header: payload!");
    assert_eq!(frame.offset() % 2048, 312);
    assert_eq!(umem.chunk_mut(&mut frame).len(), 2048);
    pool.put(frame);
}

#[test]
fn huge_pages_are_optional() {
    let config = UmemConfig {
        frames: 100,
        huge_pages: true,
        ..UmemConfig::default()
    };
    let umem = Umem::new(config).unwrap();
    let mut pool = FramePool::new(&umem, 100, 0).unwrap();
    let mut frame = pool.take().unwrap();
    umem.chunk_mut(&mut frame).fill(1);
    pool.put(frame);
    assert_eq!(memory(4).pages(), Pages::Ordinary);
}

#[test]
fn a_pool_is_last_in_first_out_and_keeps_its_reserve() {
    let umem = memory(16);
    let mut pool = FramePool::new(&umem, 8, 2).unwrap();
    let first = pool.take().unwrap();
    let offset = first.offset();
    pool.put(first);
    let mut taken: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!(taken[0].offset(), offset, "the frame used last is the next");
    assert_eq!((taken.len(), pool.available(), pool.free()), (6, 0, 2));
    assert_eq!(pool.exhausted(), 1);
    taken.extend([pool.take_control().unwrap(), pool.take_control().unwrap()]);
    assert!(pool.take_control().is_none());
    taken.into_iter().for_each(|frame| pool.put(frame));
    assert_eq!(pool.free(), 8);

    let error = FramePool::new(&umem, 9, 2).err().unwrap();
    assert!(matches!(error, XskError::FramesTaken { asked: 9, left: 8 }));
    assert!(matches!(
        FramePool::new(&umem, 2, 2).err().unwrap(),
        XskError::Reserve { .. }
    ));
    FramePool::new(&umem, 8, 0).unwrap();
}

#[test]
fn refill_leaves_the_reserve() {
    let umem = memory(64);
    let mut pool = FramePool::new(&umem, 64, 40).unwrap();
    let (mut port, peer) = MemoryPort::pair(&umem, RingSizes::all(64)).unwrap();
    port.refill(&mut pool);
    assert_eq!((peer.posted(), pool.free(), pool.available()), (24, 40, 0));
}

#[test]
fn packets_pass_from_port_to_port_without_a_copy() {
    let umem = memory(256);
    let mut pool = FramePool::new(&umem, 256, 16).unwrap();
    let (mut outer, mut wire) = MemoryPort::pair(&umem, RingSizes::all(64)).unwrap();
    let (mut inner, mut host) = MemoryPort::pair(&umem, RingSizes::all(64)).unwrap();
    let (mut batch, mut out) = (Vec::with_capacity(64), VecDeque::with_capacity(64));
    for round in 0..100_u8 {
        outer.refill(&mut pool);
        for n in 0..32 {
            assert!(wire.inject(&[round ^ n; 100]));
        }
        assert_eq!(outer.rx(&mut batch, 64), 32);
        let offsets: Vec<_> = batch.iter().map(Frame::offset).collect();
        out.extend(batch.drain(..));
        assert_eq!(inner.tx(&mut out), 32);
        inner.kick().unwrap();
        let mut sent = Vec::new();
        assert_eq!(host.take(&mut sent, 10), 10);
        assert_eq!(
            sent.iter().map(Frame::offset).collect::<Vec<_>>(),
            offsets[..10]
        );
        for (n, frame) in (0..).zip(sent) {
            assert_eq!(umem.bytes(&frame), [round ^ n; 100]);
            host.complete(frame);
        }
        let mut n = 10;
        host.drain(|packet| {
            assert_eq!(packet, [round ^ n; 100]);
            n += 1;
        });
        assert_eq!(inner.reclaim(&mut pool), 32);
    }
    let stats = inner.stats();
    assert_eq!(
        (stats.tx, stats.completed, stats.bad_descriptors),
        (3200, 3200, 0)
    );
    assert_eq!(outer.stats().rx, 3200);
    assert_eq!((batch.capacity(), out.capacity()), (64, 64), "nothing grew");
}

#[test]
fn a_full_port_leaves_frames_with_the_caller() {
    let umem = memory(256);
    let mut pool = FramePool::new(&umem, 256, 0).unwrap();
    // Sending is limited by the completion ring, too.
    let sizes = RingSizes {
        completion: 32,
        ..RingSizes::all(64)
    };
    let (mut port, mut peer) = MemoryPort::pair(&umem, sizes).unwrap();
    let mut frames: VecDeque<_> = std::iter::from_fn(|| pool.take()).take(50).collect();
    for (n, frame) in (0..).zip(&mut frames) {
        fill(&umem, frame, &[n; 60]);
    }
    assert_eq!((port.tx(&mut frames), frames.len()), (32, 18));
    assert_eq!((port.tx(&mut frames), port.tx_pending()), (0, 32));
    let mut next = 0;
    assert_eq!(
        peer.drain(|packet| {
            assert_eq!(packet[0], next);
            next += 1;
        }),
        32
    );
    assert_eq!(port.tx(&mut frames), 0, "completions are not reclaimed yet");
    assert_eq!(port.reclaim(&mut pool), 32);
    assert_eq!(port.tx(&mut frames), 18);
    assert_eq!(
        peer.drain(|packet| {
            assert_eq!(packet[0], next);
            next += 1;
        }),
        18
    );
    port.reclaim(&mut pool);
    assert_eq!(pool.free(), 256);
}

#[test]
fn runts_are_refused_and_their_frames_come_back() {
    let umem = memory(64);
    let mut pool = FramePool::new(&umem, 64, 0).unwrap();
    let (mut port, mut peer) = MemoryPort::pair(&umem, RingSizes::all(32)).unwrap();
    let mut frames: VecDeque<_> = std::iter::from_fn(|| pool.take()).take(3).collect();
    fill(&umem, &mut frames[1], &[1; 13]);
    fill(&umem, &mut frames[2], &[2; 14]);
    assert_eq!(port.tx(&mut frames), 3);
    assert_eq!(port.frames().sending(), 3);
    assert_eq!(peer.drain(|packet| assert_eq!(packet, [2; 14])), 1);
    assert_eq!(port.reclaim(&mut pool), 3);
    assert_eq!(
        (port.stats().tx_refused, port.stats().tx, pool.free()),
        (2, 1, 64)
    );
    assert_eq!(port.frames().sending(), 0);
}

#[test]
fn a_peer_can_only_use_what_is_posted() {
    let umem = memory(64);
    let mut pool = FramePool::new(&umem, 64, 0).unwrap();
    let (mut port, mut peer) = MemoryPort::pair(&umem, RingSizes::all(32)).unwrap();
    assert!(!peer.inject(&[0; 60]), "nothing is posted");
    assert!(peer.blank().is_none());
    port.refill(&mut pool);
    assert_eq!(peer.posted(), 32);
    assert!(!peer.inject(&[0; 1793]), "longer than a frame holds");
    assert_eq!(umem.max_packet(), 1792);
    assert!(peer.inject(&[0; 1792]));
    assert!(peer.inject_with(3, |bytes| bytes.copy_from_slice(b"abc")));
    let mut batch = Vec::new();
    assert_eq!(port.rx(&mut batch, 1), 1);
    assert_eq!(batch[0].len(), 1792);
    assert_eq!(port.rx(&mut batch, 64), 1);
    assert_eq!(umem.bytes(&batch[1]), b"abc");
    batch.into_iter().for_each(|frame| pool.put(frame));

    // A frame from elsewhere may be injected, too, until the RX ring is full.
    for _ in 0..32 {
        let frame = pool.take().unwrap();
        peer.inject_frame(frame).unwrap();
    }
    let refused = peer.inject_frame(pool.take().unwrap()).unwrap_err();
    pool.put(refused);
    let mut batch = Vec::new();
    assert_eq!(port.rx(&mut batch, 64), 32);
    batch.into_iter().for_each(|frame| pool.put(frame));
    for _ in 0..3 {
        port.refill(&mut pool);
        while peer.inject(&[0; 60]) {}
        let mut batch = Vec::new();
        port.rx(&mut batch, 64);
        batch.into_iter().for_each(|frame| pool.put(frame));
    }
    assert_eq!(pool.free() + port.frames().receiving(), 64);
}

/// The port and its peer in two threads, with frames that go round and round.
#[test]
fn across_threads() {
    let count: u32 = if cfg!(miri) { 300 } else { 200_000 };
    let umem = memory(256);
    let mut pool = FramePool::new(&umem, 256, 8).unwrap();
    let (mut port, mut peer) = MemoryPort::pair(&umem, RingSizes::all(64)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut injected, mut drained) = (0_u32, 0_u32);
            while drained < count {
                let packet = [injected.to_be_bytes(); 16];
                injected += u32::from(injected < count && peer.inject(packet.as_flattened()));
                peer.drain(|packet| {
                    assert_eq!(packet, [(!drained).to_be_bytes(); 16].as_flattened());
                    drained += 1;
                });
                std::thread::yield_now();
            }
        });
        let (mut batch, mut out) = (Vec::new(), VecDeque::new());
        while port.stats().completed < count.into() {
            port.reclaim(&mut pool);
            port.refill(&mut pool);
            port.rx(&mut batch, 64);
            for mut frame in batch.drain(..) {
                umem.bytes_mut(&mut frame)
                    .iter_mut()
                    .for_each(|byte| *byte = !*byte);
                out.push_back(frame);
            }
            port.tx(&mut out);
            std::thread::yield_now();
        }
    });
    let frames = port.frames();
    assert_eq!(frames.sending(), 0);
    assert_eq!(pool.free() + frames.receiving(), 256);
    assert_eq!(umem.dropped_frames(), 0);
}

#[test]
#[cfg(debug_assertions)]
fn a_dropped_frame_is_noticed() {
    let umem = memory(4);
    let mut pool = FramePool::new(&umem, 4, 0).unwrap();
    drop(pool.take());
    assert_eq!(umem.dropped_frames(), 1);
    assert_eq!(umem.census().held, 1);
    let frame = pool.take().unwrap();
    pool.put(frame);
    assert_eq!(umem.dropped_frames(), 1);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "frame of another UMEM")]
fn a_foreign_frame_fails_in_debug_builds() {
    let (a, b) = (memory(1), memory(1));
    let frame = FramePool::new(&a, 1, 0).unwrap().take().unwrap();
    b.bytes(&frame);
}

#[test]
#[cfg(not(debug_assertions))]
fn a_foreign_frame_is_empty_in_release_builds() {
    let (a, b) = (memory(1), memory(64));
    let mut pool = FramePool::new(&b, 64, 0).unwrap();
    let mut frame = FramePool::new(&a, 1, 0).unwrap().take().unwrap();
    fill(&a, &mut frame, &[1; 60]);
    assert!(b.bytes(&frame).is_empty() && b.bytes_mut(&mut frame).is_empty());
    assert!(b.chunk_mut(&mut frame).is_empty());
    let (mut port, mut peer) = MemoryPort::pair(&b, RingSizes::all(32)).unwrap();
    let frame = peer.inject_frame(frame).unwrap_err();
    assert_eq!(port.tx(&mut VecDeque::from([frame])), 1);
    assert_eq!((port.stats().tx_refused, peer.sent()), (1, 0));
    let frame = FramePool::new(&memory(1), 1, 0).unwrap().take().unwrap();
    pool.put(frame);
    assert_eq!((pool.free(), b.census().pooled), (64, 64));
}
