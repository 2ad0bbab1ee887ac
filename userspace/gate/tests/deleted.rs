//! What the peer deletes, when there is not much else left.

use std::time::Duration;

use mitregate_esp::ids::EpochId;
use mitregate_gate::{Gate, GateConfig, Input, Installed, Output, Reason, Role};
use mitregate_wire::esp::Spi;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

fn installed(n: u32) -> Installed {
    let spi = |way| Spi::new(0x0100_0000 | n << 1 | way).unwrap();
    Installed {
        epoch: EpochId(n.into()),
        spi_in: spi(0),
        spi_out: spi(1),
        peer_echo: true,
        icmp: None,
        keyed_by_spi: false,
        initiated: true,
        replaces: None,
        redundant: false,
    }
}

/// Found by the model: an epoch that nobody has answered on stood for one that might still come up.
#[test]
fn an_exhausted_epoch_does_not_stand_for_hope() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut gate = Gate::new(GateConfig::new(Role::Client));
    let mut now = Duration::from_secs(100);
    let asked = |gate: &mut Gate| {
        let outputs = std::iter::from_fn(|| gate.poll_output());
        outputs
            .filter(|o| matches!(o, Output::Rekey { .. }))
            .count()
    };
    gate.handle(now, Input::Installed(installed(1)), &mut rng);
    while asked(&mut gate) == 0 {
        now = gate.poll_timeout().expect("it goes on asking");
        gate.handle_timeout(now, &mut rng);
    }
    // The rekey gives a second one, and the peer deletes it at once.
    gate.handle(now, Input::Installed(installed(2)), &mut rng);
    let deleted = Input::Deleted {
        epoch: EpochId(2),
        by_peer: true,
    };
    gate.handle(now, deleted, &mut rng);
    let mut reason = None;
    for _ in 0..10 {
        while let Some(output) = gate.poll_output() {
            if let Output::NewIkeSession { reason: why } = output {
                reason = Some(why);
            }
        }
        let Some(next) = gate.poll_timeout() else {
            break;
        };
        now = next;
        gate.handle_timeout(now, &mut rng);
    }
    assert_eq!(reason, Some(Reason::Deleted));
}
