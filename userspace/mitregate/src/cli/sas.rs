//! `mitregate list-sas` for people.

use serde_json::Value;

use super::table::{age, bypasses, columns, grouped};

pub fn text(list: &Value) -> String {
    let mut text = String::new();
    let ike_sas = list["ike_sas"].as_array().map_or(&[][..], Vec::as_slice);
    if ike_sas.is_empty() {
        text += "no IKE SAs\n";
    } else {
        let mut rows = vec![row(&[
            "IKE SA", "STATE", "PEER", "LOCAL", "REMOTE", "NAT", "AGE",
        ])];
        rows.extend(ike_sas.iter().map(ike_sa));
        text += &columns(&rows);
        text += &ike_sas.iter().map(assigned).collect::<String>();
    }
    for tunnel in list["tunnels"].as_array().map_or(&[][..], Vec::as_slice) {
        text.push('\n');
        text += &self::tunnel(tunnel);
    }
    text + &bypasses(&list["bypasses"])
}

fn ike_sa(sa: &Value) -> Vec<String> {
    let nat = match (sa["nat_local"].as_bool(), sa["nat_remote"].as_bool()) {
        (Some(true), Some(true)) => "both",
        (Some(true), _) => "ours",
        (_, Some(true)) => "peer's",
        _ => "none",
    };
    vec![
        word(&sa["connection"], "?"),
        word(&sa["state"], "?"),
        word(&sa["peer_id"], "-"),
        word(&sa["local"], "-"),
        word(&sa["remote"], "-"),
        nat.to_owned(),
        age(number(&sa["age_ms"])),
    ]
}

/// What the configuration payloads gave, if anything.
fn assigned(sa: &Value) -> String {
    let given = [
        ("our virtual addresses", &sa["local_vips"]),
        ("DNS servers", &sa["dns"]),
        ("its virtual addresses", &sa["remote_vips"]),
    ];
    let lines = given.into_iter().filter_map(|(what, list)| {
        let list = words(list);
        let name = word(&sa["connection"], "?");
        (!list.is_empty()).then(|| format!("{name}: {what} {list}\n"))
    });
    lines.collect()
}

fn tunnel(tunnel: &Value) -> String {
    let mut text = format!(
        "tunnel {} ({}): {}{}{}\n",
        word(&tunnel["name"], "?"),
        word(&tunnel["role"], "?"),
        word(&tunnel["status"], "?"),
        if tunnel["trapped"] == true && tunnel["wanted"] == false {
            ", waits for a packet"
        } else {
            ""
        },
        if tunnel["data_waiting"] == true {
            ", data waits"
        } else {
            ""
        },
    );
    text += &format!(
        "  {} === {}\n",
        words(&tunnel["selectors"]["local_ts"]),
        words(&tunnel["selectors"]["remote_ts"])
    );
    text += &format!(
        "  in {} packets, {} bytes; out {} packets, {} bytes\n",
        grouped(number(&tunnel["packets_in"])),
        grouped(number(&tunnel["bytes_in"])),
        grouped(number(&tunnel["packets_out"])),
        grouped(number(&tunnel["bytes_out"])),
    );
    text += &gate(tunnel);
    let epochs = tunnel["epochs"].as_array().map_or(&[][..], Vec::as_slice);
    if epochs.is_empty() {
        return text;
    }
    let heading = [
        "  EPOCH", "STATE", "FOR", "AGE", "PROOF", "RTT", "SPI IN", "SPI OUT", "CIPHER", "ENCAP",
        "PATH MTU", "REKEY IN",
    ];
    let mut rows = vec![row(&heading)];
    for epoch in epochs {
        let mark = if epoch["active"] == true { "*" } else { " " };
        rows.push(vec![
            format!("{mark} {}", number(&epoch["id"])),
            word(&epoch["state"], "?"),
            age(number(&epoch["state_ms"])),
            age(number(&epoch["age_ms"])),
            word(&epoch["proof"], "-"),
            epoch["last_rtt_us"].as_u64().map_or("-".to_owned(), |us| {
                format!("{}.{:03}ms", us / 1000, us % 1000)
            }),
            word(&epoch["spi_in"], "-"),
            word(&epoch["spi_out"], "-"),
            word(&epoch["cipher"], "-"),
            word(&epoch["encap"], "-"),
            epoch["path_mtu"]
                .as_u64()
                .map_or("-".to_owned(), |mtu| mtu.to_string()),
            epoch["rekey_in_ms"].as_u64().map_or("-".to_owned(), age),
        ]);
    }
    text + &columns(&rows)
}

/// What the gate did last, and what it has seen.
fn gate(tunnel: &Value) -> String {
    let mut text = String::new();
    if let Some(action) = tunnel["last_action"]["text"].as_str() {
        let ago = age(number(&tunnel["last_action"]["ago_ms"]));
        text += &format!("  gate {ago} ago: {action}\n");
    }
    let counters = &tunnel["gate"];
    let count = |key: &str| grouped(number(&counters[key]));
    if number(&counters["pings_sent"]) > 0 {
        text += &format!(
            "  pings {} sent, {} answered, {} lost",
            count("pings_sent"),
            count("pings_answered"),
            count("pings_lost")
        );
        text += &match recoveries(&counters["recoveries"]) {
            back if back.is_empty() => String::new(),
            back => format!("; recovered by {back}"),
        };
        let hole = number(&tunnel["black_hole_ms"]);
        if hole > 0 {
            text += &format!("; {}.{:03} s of black hole", hole / 1000, hole % 1000);
        }
        text.push('\n');
    }
    text
}

/// `re-ping 2, new IKE 1`.
pub fn recoveries(counts: &Value) -> String {
    let kinds = [
        ("re_ping", "re-ping"),
        ("rekey", "rekey"),
        ("new_ike", "new IKE"),
        ("encap", "encapsulation"),
    ];
    let some = kinds.into_iter().filter_map(|(key, name)| {
        let count = number(&counts[key]);
        (count > 0).then(|| format!("{name} {}", grouped(count)))
    });
    some.collect::<Vec<_>>().join(", ")
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}

fn word(value: &Value, otherwise: &str) -> String {
    value.as_str().unwrap_or(otherwise).to_owned()
}

fn words(value: &Value) -> String {
    let all: Vec<_> = value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    all.join(", ")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list() {
        assert_eq!(text(&json!({"ike_sas": [], "tunnels": []})), "no IKE SAs\n");
        let list = json!({
            "ike_sas": [{
                "connection": "home", "state": "established", "peer_id": "gw@lab",
                "local": "192.168.1.2:4500", "remote": "203.0.113.1:4500",
                "nat_local": true, "nat_remote": false, "age_ms": 65000,
                "local_vips": ["10.1.0.1"], "remote_vips": [], "dns": ["10.2.0.53", "10.2.0.54"]
            }],
            "tunnels": [{
                "name": "home/net", "role": "client", "status": "proven", "data_waiting": false,
                "selectors": {"local_ts": ["10.1.0.1/32"], "remote_ts": ["10.2.0.0/24"]},
                "packets_in": 1000, "bytes_in": 84000, "packets_out": 2, "bytes_out": 168,
                "gate": {
                    "pings_sent": 12, "pings_answered": 11, "pings_lost": 1,
                    "recoveries": {"re_ping": 1, "rekey": 0, "new_ike": 0, "encap": 0}
                },
                "black_hole_ms": 250,
                "last_action": {"text": "pinged epoch 1: the tunnel fell silent", "ago_ms": 12000},
                "epochs": [{
                    "id": 1, "state": "proven", "state_ms": 64000, "age_ms": 64100, "active": true, "proof": "ping",
                    "last_rtt_us": 412, "spi_in": "01a2b3c4", "spi_out": "01d4e5f6",
                    "cipher": "aes256gcm16", "encap": "udp", "path_mtu": 1500, "rekey_in_ms": 3_400_000
                }]
            }],
            "bypasses": {"count": 1, "routes": [{
                "destination": "10.2.0.128/25", "interface": "wan", "metric": 0,
                "protected": "10.2.0.0/24"
            }]}
        });
        let expected = "\
IKE SA  STATE        PEER    LOCAL             REMOTE            NAT   AGE
home    established  gw@lab  192.168.1.2:4500  203.0.113.1:4500  ours  1m 5s
home: our virtual addresses 10.1.0.1
home: DNS servers 10.2.0.53, 10.2.0.54

tunnel home/net (client): proven
  10.1.0.1/32 === 10.2.0.0/24
  in 1,000 packets, 84,000 bytes; out 2 packets, 168 bytes
  gate 12s ago: pinged epoch 1: the tunnel fell silent
  pings 12 sent, 11 answered, 1 lost; recovered by re-ping 1; 0.250 s of black hole
  EPOCH  STATE   FOR    AGE    PROOF  RTT      SPI IN    SPI OUT   CIPHER       ENCAP  PATH MTU  REKEY IN
* 1      proven  1m 4s  1m 4s  ping   0.412ms  01a2b3c4  01d4e5f6  aes256gcm16  udp    1500      56m 40s

1 route(s) past the tunnels, what they carry leaves in clear:
  ROUTE          INTERFACE  METRIC  PROTECTED
  10.2.0.128/25  wan        0       10.2.0.0/24
";
        assert_eq!(text(&list), expected);
    }
}
