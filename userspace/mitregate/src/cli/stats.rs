//! `mitregate stats` for people.

use serde_json::Value;

use super::sas::recoveries;
use super::table::{age, bypasses, columns, grouped};

/// `all`: also what is 0.
pub fn text(stats: &Value, all: bool) -> String {
    let mut text = format!(
        "mitregate {}, up for {}\n",
        stats["version"].as_str().unwrap_or("?"),
        age(stats["uptime_ms"].as_u64().unwrap_or(0))
    );
    for side in ["outer", "inner"] {
        text += &port(side, &stats[side]);
    }
    text += if stats["shared_umem"] == true {
        "packet memory: shared, frames move without a copy\n"
    } else {
        "packet memory: one per port, frames are copied between them\n"
    };
    text += "\nWhat the gates have seen:\n";
    text += &gates(&stats["tunnels"]);
    text += "\nHow packets ended:\n";
    text += &fates(&stats["fates"], all);
    for side in ["outer", "inner"] {
        text += &format!("\nWhat the {side} classifier saw:\n");
        text += &verdicts(&stats[side]["classifier"], all);
        text += &format!("\nWhat the {side} port counted:\n");
        text += &counters(&stats[side]["port"], all);
    }
    text + &bypasses(&stats["bypasses"])
}

fn gates(tunnels: &Value) -> String {
    let heading = [
        "  TUNNEL",
        "STATUS",
        "PINGS",
        "ANSWERED",
        "LOST",
        "ECHOED",
        "RECOVERED BY",
        "BLACK HOLE",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for tunnel in tunnels.as_array().map_or(&[][..], Vec::as_slice) {
        let gate = &tunnel["gate"];
        let count = |key: &str| grouped(gate[key].as_u64().unwrap_or(0));
        let hole = tunnel["black_hole_ms"].as_u64().unwrap_or(0);
        let recovered = match recoveries(&gate["recoveries"]) {
            none if none.is_empty() => "-".to_owned(),
            some => some,
        };
        rows.push(vec![
            format!("  {}", tunnel["name"].as_str().unwrap_or("?")),
            tunnel["status"].as_str().unwrap_or("?").to_owned(),
            count("pings_sent"),
            count("pings_answered"),
            count("pings_lost"),
            count("echoes_answered"),
            recovered,
            format!("{}.{:03}s", hole / 1000, hole % 1000),
        ]);
    }
    if rows.len() == 1 {
        return "  no tunnels\n".to_owned();
    }
    columns(&rows)
}

fn port(side: &str, port: &Value) -> String {
    let text = |key: &str| port[key].as_str().unwrap_or("?").to_owned();
    let refused = if port["zero_copy"] == "refused" {
        " (the driver refuses zero-copy)"
    } else {
        ""
    };
    format!(
        "{side} port: {} queue {}, XDP {}, AF_XDP {}{refused}\n",
        text("interface"),
        port["queue"].as_u64().unwrap_or(0),
        text("xdp_mode"),
        text("socket_mode"),
    )
}

fn fates(fates: &Value, all: bool) -> String {
    let mut rows = Vec::new();
    for fate in mitregate_dataplane::Fate::ALL {
        let count = fates[fate.label()].as_u64().unwrap_or(0);
        if all || count > 0 {
            rows.push(vec![
                format!("  {}", fate.label()),
                grouped(count),
                fate.doc().to_owned(),
            ]);
        }
    }
    or_nothing(&rows)
}

fn verdicts(counters: &Value, all: bool) -> String {
    let mut rows = Vec::new();
    for (verdict, count) in counters.as_object().into_iter().flatten() {
        let packets = count["packets"].as_u64().unwrap_or(0);
        let no_socket = count["no_socket"].as_u64().unwrap_or(0);
        if all || packets > 0 {
            let aside = if no_socket > 0 {
                format!("({} without a socket)", grouped(no_socket))
            } else {
                String::new()
            };
            rows.push(vec![format!("  {verdict}"), grouped(packets), aside]);
        }
    }
    or_nothing(&rows)
}

fn counters(counters: &Value, all: bool) -> String {
    let mut rows = Vec::new();
    for (name, count) in counters.as_object().into_iter().flatten() {
        if let Some(count) = count.as_u64()
            && (all || count > 0)
        {
            rows.push(vec![format!("  {name}"), grouped(count)]);
        }
    }
    or_nothing(&rows)
}

fn or_nothing(rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        "  nothing yet\n".to_owned()
    } else {
        columns(rows)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_zero_is_left_out() {
        let stats = json!({
            "version": "0.1.0", "uptime_ms": 61000, "shared_umem": true,
            "outer": {
                "interface": "wan", "queue": 0, "xdp_mode": "native", "socket_mode": "copy",
                "zero_copy": "refused",
                "classifier": {"esp": {"packets": 5, "no_socket": 1}, "ike": {"packets": 0, "no_socket": 0}},
                "port": {"rx": 1234, "tx": 0}
            },
            "inner": {
                "interface": "mg0", "queue": 0, "xdp_mode": "native", "socket_mode": "copy",
                "classifier": {}, "port": {}
            },
            "fates": {"sealed": 7, "runt": 0},
            "tunnels": [{
                "name": "home/net", "status": "proven", "black_hole_ms": 1250,
                "gate": {
                    "pings_sent": 12, "pings_answered": 7, "pings_lost": 5, "echoes_answered": 3,
                    "recoveries": {"re_ping": 0, "rekey": 0, "new_ike": 1, "encap": 0}
                }
            }]
        });
        let short = text(&stats, false);
        for there in [
            "up for 1m 1s",
            "outer port: wan queue 0, XDP native, AF_XDP copy (the driver refuses zero-copy)",
            "(1 without a socket)",
            "1,234",
            "  home/net  proven  12     7         5     3       new IKE 1     1.250s",
        ] {
            assert!(short.contains(there), "{there} not in {short}");
        }
        assert!(
            short.contains("  sealed  7") && !short.contains("runt"),
            "{short}"
        );
        assert!(text(&stats, true).contains("runt"));
    }
}
