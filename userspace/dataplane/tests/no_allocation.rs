//! That a worker neither allocates nor frees once it runs. Alone in its process, since every
//! allocation of every thread is counted.

mod common;

use std::{alloc::System, time::Duration};

use common::*;
use mitregate_dataplane::{Command, Epoch, Event, Fate};
use mitregate_esp::{CipherSuite, EpochId, Provider};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn no_allocation_in_steady_state() {
    for provider in Provider::ALL {
        let (client, gateway) = epoch_pair(1, CipherSuite::Aes256Gcm16, provider, UDP_ENCAP);
        let mut client = Rig::client(Epoch::new(client));
        let mut peer = Rig::new();
        peer.add_tunnel(reversed(&client_selectors()), 8);
        // It sees the client elsewhere, and says so as often as it may.
        let mut gateway = gateway;
        gateway.outer = Some(outer_header(GATEWAY, GATEWAY, UDP_ENCAP));
        peer.install_and_activate(Epoch::new(gateway).telling_moves());
        let inner = inner_frame(&up(&[7; 1000]));
        let loose = packet_with(CLIENT_INSIDE, SERVER_INSIDE, &[7; 1000], |ip| {
            ip.dont_fragment = false;
        });
        let loose = inner_frame(&loose);
        let bad = outer_frame(50, &[9; 64]);
        let mut between = [0; 2048];
        let mut moves = 0;

        let mut run = |times: usize| {
            for _ in 0..times {
                // A ping, data both held and not, and something to be dropped.
                let mut payload = client.handle.buffer().unwrap();
                assert!(payload.set(b"echo"));
                let (tunnel, epoch) = (TUNNEL, EpochId(1));
                client.send(Command::SendInner {
                    tunnel,
                    epoch,
                    next_header: 144,
                    via: None,
                    pad_to: 1400,
                    payload,
                });
                client.send(Command::Hold { tunnel });
                assert!(client.inner.inject(&inner));
                client.round();
                client.send(Command::Activate { tunnel, epoch });
                assert!(client.inner.inject(&inner));
                assert!(client.outer.inject(&bad));
                client.round();
                // Too large: one that is told so, and one that is cut up.
                client.send(Command::SetPathMtu { tunnel, mtu: 700 });
                assert!(client.inner.inject(&inner));
                assert!(client.inner.inject(&loose));
                client.round();
                client.inner.drain(|_| ());
                client.send(Command::SetPathMtu { tunnel, mtu: 1500 });
                client.round();
                client.outer.drain(|frame| {
                    let copy = &mut between[..frame.len()];
                    copy.copy_from_slice(frame);
                    assert!(peer.outer.inject(copy));
                });
                peer.round();
                peer.inner.drain(|_| ());
                while let Some(event) = client.handle.poll_event() {
                    assert!(matches!(event, Event::DataWaiting { .. }));
                }
                peer.now += Duration::from_millis(500);
                while let Some(event) = peer.handle.poll_event() {
                    moves += u32::from(matches!(event, Event::Moved { .. }));
                }
            }
        };
        run(100);
        let region = Region::new(ALLOCATOR);
        run(1000);
        let change = region.change();
        assert_eq!(
            (
                change.allocations,
                change.reallocations,
                change.deallocations
            ),
            (0, 0, 0)
        );
        assert_eq!(moves, 550);
        assert_eq!(peer.fate(Fate::Opened), 4400);
        assert_eq!(peer.fate(Fate::ToControl), 1100);
    }
}
