//! What a peer that is who it says cannot do either, and what becomes of an epoch without a place.

mod lab;

use lab::{CLIENT, SERVER, Setup, World, ms, secs};
use mitregate_control::{Command, ControlEvent, DataEvent};
use mitregate_esp::ids::{EpochId, TunnelId};

/// Each life leaves an IKE SA at the server, which would wait for the dead one for minutes.
#[test]
fn a_client_without_memory_fills_nothing() {
    let mut world = World::new(Setup::default());
    world.run_until_up(secs(2));
    for _ in 0..30 {
        world.kill(CLIENT);
        world.start(CLIENT);
        world.run_until_up(secs(3));
        let list = world.list(SERVER);
        assert!(list.ike_sas.len() <= 8, "{}", list.ike_sas.len());
        assert!(list.tunnels[0].epochs.len() <= 8);
    }
    world.data_every = [Some(ms(10)), Some(ms(10))];
    world.run(secs(30));
    let received = world.received(CLIENT).len();
    assert!(received > 2_900, "{received}");
    world.assert_agreed(1);
}

fn refuse(world: &mut World, at: usize) {
    let epoch = EpochId(world.tunnel(at).epochs[0].id);
    let event = DataEvent::Refused {
        tunnel: TunnelId(0),
        epoch,
        reason: "table full",
    };
    let now = world.now;
    world.control(at).handle_dataplane(now, event);
    world.command(at, Command::PathChanged);
}

#[test]
fn an_epoch_without_a_place_is_deleted_at_both_ends_and_replaced() {
    for at in [CLIENT, SERVER] {
        let mut world = World::new(Setup::default());
        world.run_until_up(secs(2));
        let old = world.tunnel(CLIENT).epochs[0].spi_in.clone();
        refuse(&mut world, at);
        assert!(world.tunnel(at).epochs.is_empty());
        world.run(secs(10));
        assert!(world.is_up(), "{at}");
        // The IKE SA that was left behind goes in its time.
        world.run(secs(20));
        world.assert_agreed(1);
        assert_ne!(world.tunnel(CLIENT).epochs[0].spi_in, old);
    }
}

#[test]
fn who_waits_for_an_epoch_without_a_place_is_told() {
    let mut world = World::new(Setup::default());
    let child = "net".to_owned();
    let ticket = world.command(CLIENT, Command::Initiate { child });
    while world.tunnel(CLIENT).epochs.is_empty() {
        world.run(ms(1));
    }
    refuse(&mut world, CLIENT);
    let told = world.events(CLIENT).iter().any(|(_, event)| {
        matches!(event, ControlEvent::Failed { ticket: of, reason }
            if *of == ticket && reason.contains("table full"))
    });
    assert!(told, "{:?}", world.events(CLIENT));
    world.run_until_up(secs(10));
}
