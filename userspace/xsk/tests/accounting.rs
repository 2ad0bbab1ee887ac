//! Random operations on two ports that share one memory: no frame is lost, none is there twice, and
//! the ledger, the pool and the ports agree at every step about who has how many.

use mitregate_xsk::{
    Census, Frame, FramePool, MemoryPeer, MemoryPort, Port, RingSizes, Umem, UmemConfig,
};
use proptest::prelude::*;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

const FRAMES: u32 = 200;
const RESERVE: u32 = 8;

/// One worker with two ports, and what stands around them.
struct World {
    umem: Arc<Umem>,
    pool: FramePool,
    ports: [MemoryPort; 2],
    peers: [MemoryPeer; 2],
    /// Packets in the worker's hands: a batch, or frames held by the gate.
    held: VecDeque<Frame>,
    /// Frames in the peers' hands: blank ones, and sent ones.
    blanks: [Vec<Frame>; 2],
    sent: [Vec<Frame>; 2],
}

#[derive(Clone, Debug)]
enum Operation {
    Refill(usize),
    Reclaim(usize),
    Rx(usize, usize),
    Tx(usize),
    Take,
    TakeControl,
    Put(usize),
    Inject(usize, usize),
    Drain(usize),
    Blank(usize),
    InjectFrame(usize),
    TakeSent(usize, usize),
    Complete(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let port = 0..2_usize;
    prop_oneof![
        port.clone().prop_map(Refill),
        port.clone().prop_map(Reclaim),
        (port.clone(), 0..80_usize).prop_map(|(p, n)| Rx(p, n)),
        port.clone().prop_map(Tx),
        Just(Take),
        Just(TakeControl),
        (0..20_usize).prop_map(Put),
        (port.clone(), 0..40_usize).prop_map(|(p, n)| Inject(p, n)),
        port.clone().prop_map(Drain),
        port.clone().prop_map(Blank),
        port.clone().prop_map(InjectFrame),
        (port.clone(), 0..40_usize).prop_map(|(p, n)| TakeSent(p, n)),
        port.prop_map(Complete),
    ]
}

impl World {
    fn new() -> Self {
        let umem = Umem::new(UmemConfig {
            frames: FRAMES + 5,
            ..UmemConfig::default()
        })
        .unwrap();
        let pool = FramePool::new(&umem, FRAMES, RESERVE).unwrap();
        let sizes = RingSizes {
            fill: 64,
            completion: 32,
            rx: 128,
            tx: 64,
        };
        let (a, peer_a) = MemoryPort::pair(&umem, sizes).unwrap();
        let (b, peer_b) = MemoryPort::pair(&umem, RingSizes::all(32)).unwrap();
        Self {
            umem,
            pool,
            ports: [a, b],
            peers: [peer_a, peer_b],
            held: VecDeque::new(),
            blanks: Default::default(),
            sent: Default::default(),
        }
    }

    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Refill(port) => {
                let before = self.pool.free();
                self.ports[port].refill(&mut self.pool);
                assert!(self.pool.free() >= before.min(self.pool.reserve()));
            }
            Operation::Reclaim(port) => {
                let before = self.pool.free();
                let reclaimed = self.ports[port].reclaim(&mut self.pool);
                assert_eq!(self.pool.free(), before + reclaimed);
            }
            Operation::Rx(port, max) => {
                let mut batch = Vec::new();
                let received = self.ports[port].rx(&mut batch, max);
                assert!(received == batch.len() && received <= max);
                self.held.extend(batch);
            }
            Operation::Tx(port) => {
                let before = self.held.len();
                let taken = self.ports[port].tx(&mut self.held);
                assert_eq!(self.held.len(), before - taken);
            }
            Operation::Take => {
                let available = self.pool.available();
                let frame = self.pool.take();
                assert_eq!(frame.is_some(), available > 0);
                self.held.extend(frame);
            }
            Operation::TakeControl => {
                let free = self.pool.free();
                let frame = self.pool.take_control();
                assert_eq!(frame.is_some(), free > 0);
                // An Ethernet header at least, so that this one may be sent.
                self.held.extend(frame.map(|mut frame| {
                    let start = frame.range().start;
                    frame.set_range(start..start + 64);
                    frame
                }));
            }
            Operation::Put(count) => {
                for frame in self.held.drain(..count.min(self.held.len())) {
                    self.pool.put(frame);
                }
            }
            Operation::Inject(port, count) => {
                for _ in 0..count {
                    let posted = self.peers[port].posted();
                    assert_eq!(self.peers[port].inject(&[7; 60]), posted > 0);
                }
            }
            Operation::Drain(port) => {
                let sent = self.peers[port].sent();
                assert_eq!(
                    self.peers[port].drain(|packet| assert!(packet.len() >= 14)),
                    sent
                );
            }
            Operation::Blank(port) => self.blanks[port].extend(self.peers[port].blank()),
            Operation::InjectFrame(port) => {
                if let Some(frame) = self.blanks[port].pop() {
                    self.peers[port].inject_frame(frame).unwrap();
                }
            }
            Operation::TakeSent(port, max) => {
                self.peers[port].take(&mut self.sent[port], max);
            }
            Operation::Complete(port) => {
                if let Some(frame) = self.sent[port].pop() {
                    self.peers[port].complete(frame);
                }
            }
        }
    }

    fn check(&self) {
        let with_peers: [(usize, usize); 2] =
            [0, 1].map(|port| (self.blanks[port].len(), self.sent[port].len()));
        let ports = [0, 1].map(|port: usize| self.ports[port].frames());
        // The frames in a peer's hands are in the driver, as far as the port can know.
        for (frames, (blanks, sent)) in ports.iter().zip(with_peers) {
            assert_eq!((frames.rx_driver, frames.tx_driver), (blanks, sent));
        }
        let receiving: usize = ports.iter().map(mitregate_xsk::PortFrames::receiving).sum();
        let sending: usize = ports.iter().map(mitregate_xsk::PortFrames::sending).sum();
        let blanks: usize = with_peers.iter().map(|peer| peer.0).sum();
        let sent: usize = with_peers.iter().map(|peer| peer.1).sum();
        let issued = self.pool.free() + receiving + sending + self.held.len();
        assert_eq!(issued, self.pool.issued() as usize, "{ports:?}");

        let census = self.umem.census();
        let counts = [
            census.unissued,
            census.pooled,
            census.held,
            census.receiving,
            census.sending,
        ];
        let expected = [
            5,
            self.pool.free(),
            self.held.len() + blanks + sent,
            receiving - blanks,
            sending - sent,
        ];
        assert_eq!(counts.map(|count| count as usize), expected);

        let frames = self.held.iter().chain(self.blanks.iter().flatten());
        let mut seen = HashSet::new();
        for frame in frames.chain(self.sent.iter().flatten()) {
            let chunk = frame.offset() / self.umem.frame_size() as u64;
            assert!(seen.insert(chunk), "chunk {chunk} has two tokens");
        }
        for port in &self.ports {
            assert_eq!(port.stats().bad_descriptors, 0);
        }
    }

    /// Lets everybody give back what they have.
    fn settle(&mut self) {
        for port in [0, 1] {
            while let Some(frame) = self.blanks[port].pop() {
                self.peers[port].inject_frame(frame).unwrap();
            }
            while let Some(frame) = self.sent[port].pop() {
                self.peers[port].complete(frame);
            }
            while self.peers[port].inject(&[]) {}
        }
        for port in [0, 1] {
            self.apply(&Operation::Rx(port, usize::MAX));
            self.apply(&Operation::Drain(port));
            self.apply(&Operation::Reclaim(port));
        }
        self.apply(&Operation::Put(usize::MAX));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    #[test]
    fn no_frame_is_lost_or_duplicated(
        operations in prop::collection::vec(operation(), 1..300),
    ) {
        let mut world = World::new();
        for operation in &operations {
            world.apply(operation);
            world.check();
        }
        world.settle();
        world.check();
        prop_assert_eq!(world.pool.free(), FRAMES as usize);
        prop_assert_eq!(world.umem.census(), Census {
            unissued: 5,
            pooled: FRAMES,
            ..Census::default()
        });
        prop_assert_eq!(world.umem.dropped_frames(), 0);
    }
}
