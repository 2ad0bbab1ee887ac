//! `mitregate list-pools` for people.

use serde_json::Value;

use super::table::{age, columns};

pub fn text(list: &Value) -> String {
    let pools = list["pools"].as_array().map_or(&[][..], Vec::as_slice);
    if pools.is_empty() {
        return "no pools\n".to_owned();
    }
    pools.iter().map(pool).collect::<Vec<_>>().join("\n")
}

fn pool(pool: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let text = format!(
        "pool {}: {} to {}, {} addresses, {} online, {} offline\n",
        word(&pool["name"]),
        word(&pool["first"]),
        word(&pool["last"]),
        number(&pool["size"]),
        number(&pool["online"]),
        number(&pool["offline"]),
    );
    let leases = pool["leases"].as_array().map_or(&[][..], Vec::as_slice);
    if leases.is_empty() {
        return text;
    }
    let heading = ["  ADDRESS", "PEER", "STATE", "FOR"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for lease in leases {
        let state = if lease["online"] == true {
            "online"
        } else {
            "offline"
        };
        rows.push(vec![
            format!("  {}", word(&lease["address"])),
            word(&lease["peer_id"]),
            state.to_owned(),
            age(number(&lease["since_ms"])),
        ]);
    }
    text + &columns(&rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list() {
        assert_eq!(text(&json!({"pools": []})), "no pools\n");
        let list = json!({"pools": [{
            "name": "clients", "first": "10.3.0.1", "last": "10.3.0.254", "size": 254,
            "online": 1, "offline": 1, "dns": [],
            "leases": [
                {"address": "10.3.0.1", "peer_id": "alice@lab", "online": true, "since_ms": 65000},
                {"address": "10.3.0.2", "peer_id": "bob@lab", "online": false, "since_ms": 1000}
            ]
        }]});
        let expected = "\
pool clients: 10.3.0.1 to 10.3.0.254, 254 addresses, 1 online, 1 offline
  ADDRESS   PEER       STATE    FOR
  10.3.0.1  alice@lab  online   1m 5s
  10.3.0.2  bob@lab    offline  1s
";
        assert_eq!(text(&list), expected);
    }
}
