//! `mitregate stats` as JSON.

use mitregate_control::ListView;
use mitregate_dataplane::Vitals;
use mitregate_xsk::PortStats;
use serde_json::{Map, Value, json};

use super::switch::{Side, Switch, socket_word, xdp_word};

/// Everything that is counted.
pub fn stats(switch: &Switch, uptime_ms: u64, egress_dropped: u64, list: &ListView) -> Value {
    let vitals = switch.vitals();
    let fates: Map<String, Value> = switch
        .worker()
        .fates()
        .iter()
        .map(|(fate, count)| (fate.label().to_owned(), count.into()))
        .collect();
    let tunnels: Vec<Value> = list
        .tunnels
        .iter()
        .map(|tunnel| {
            json!({
                "name": tunnel.name,
                "status": tunnel.status,
                "packets_in": tunnel.packets_in,
                "packets_out": tunnel.packets_out,
                "bytes_in": tunnel.bytes_in,
                "bytes_out": tunnel.bytes_out,
                "gate": tunnel.gate,
                "black_hole_ms": tunnel.black_hole_ms,
            })
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": uptime_ms,
        "outer": side(switch.outer(), &vitals.outer),
        "inner": side(switch.inner(), &vitals.inner),
        "shared_umem": switch.shared_memory(),
        "frames": frames(&vitals),
        "copied": vitals.copied,
        "control_not_sent": egress_dropped,
        "fates": fates,
        "tunnels": tunnels,
    })
}

fn side(side: &Side, port: &PortStats) -> Value {
    let classifier = match side.classifier.counters() {
        Ok(counters) => json!(counters),
        Err(error) => json!({"error": error.to_string()}),
    };
    json!({
        "interface": side.interface,
        "queue": side.queue,
        "xdp_mode": xdp_word(side.classifier.mode()),
        "xdp_fallback": side.classifier.fallback(),
        "socket_mode": socket_word(side.socket_mode),
        "zero_copy": side.zero_copy,
        "classifier": classifier,
        "port": {
            "rx": port.rx,
            "tx": port.tx,
            "completed": port.completed,
            "tx_refused": port.tx_refused,
            "tx_dropped": port.tx_dropped,
            "kicks": port.kicks,
            "kicks_refused": port.kicks_refused,
            "bad_descriptors": port.bad_descriptors,
            "kernel_rx_dropped": port.kernel.rx_dropped,
            "kernel_rx_invalid_descs": port.kernel.rx_invalid_descs,
            "kernel_tx_invalid_descs": port.kernel.tx_invalid_descs,
            "kernel_rx_ring_full": port.kernel.rx_ring_full,
            "kernel_rx_fill_ring_empty": port.kernel.rx_fill_ring_empty,
            "kernel_tx_ring_empty": port.kernel.tx_ring_empty,
        },
    })
}

fn frames(vitals: &Vitals) -> Value {
    let frames = &vitals.frames;
    json!({
        "free": frames.free,
        "ports": frames.ports,
        "held": frames.held,
        "backlog": frames.backlog,
        "total": frames.total(),
    })
}
