//! Fresh keys under a thousand datagrams a second each way, by either end: none is lost. A small part of
//! `cargo xtask bench recovery --fault child-rekey,ike-rekey --runs 100`.

mod common;

use std::time::Duration;

use common::{has_data_plane, privileged};
use mitregate_lab::daemon::Settings;
use mitregate_lab::recovery::{self, By, Fault, Flows, Given, System, What};

fn none_is_lost(fault: Fault, name: &str) {
    if !privileged() || !has_data_plane() {
        return;
    }
    let given = Given {
        settings: Settings::default(),
        strongswan_dpd: Duration::ZERO,
    };
    let what = What {
        system: System::Mitregate,
        fault,
        flows: Flows::Both,
    };
    let lab = format!("mgt-test{}-{name}", std::process::id());
    let samples = recovery::rekeys(&lab, &given, what, (4, By::Turns), &|| {}).unwrap();
    let lost: Vec<_> = samples.iter().map(|sample| sample.lost).collect();
    assert_eq!(lost, [0; 4]);
}

#[test]
fn by_child_rekeys() {
    none_is_lost(Fault::ChildRekey, "child");
}

#[test]
fn by_ike_rekeys() {
    none_is_lost(Fault::IkeRekey, "ike");
}
