//! Configuration files, right and wrong: each error names file, line and field.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use mitregate::config::Settings;
use mitregate_control::{Childless, EspProposal, GateMode, IkeProposal, Role, StartAction, Unique};

const CLIENT: &str = r#"[daemon]
control_socket = "/run/mitregate/client.sock"
provider = "rustcrypto"
log = "debug"
log_format = "json"

[outer]
interface = "wan"
xdp_mode = "generic"
zero_copy = "off"

[inner]
interface = "mg0"
mtu = 1400
addresses = ["10.1.0.1/32"]

[connections.home]
local_addrs = ["192.168.1.2"]
remote_addrs = ["203.0.113.1"]
encap = "udp"
proposals = ["aes256gcm16-prfsha256-x25519"]

[connections.home.local]
auth = "psk"
id = "client@lab"

[connections.home.remote]
auth = "psk"
id = "gw@lab"

[connections.home.gate]
ping_timeout = "100ms"
tries = 7

[connections.home.children.net]
local_ts = ["10.1.0.1/32"]
remote_ts = ["10.2.0.0/24"]
esp_proposals = ["aes256gcm16"]
start_action = "start"
rekey_time = "1h"

[secrets.home]
ids = ["client@lab", "gw@lab"]
secret = "swordfish"
"#;

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn write(&self, name: &str, mode: u32, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn load(&self, text: &str) -> Result<Settings, Vec<String>> {
        let path = self.write("mitregate.toml", 0o600, text);
        Settings::load(&path).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }
}

/// The errors of the client's configuration with one text replaced by another.
fn errors(from: &str, to: &str) -> Vec<String> {
    assert!(CLIENT.contains(from), "{from}");
    let Err(errors) = Files::new().load(&CLIENT.replacen(from, to, 1)) else {
        panic!("{to} was accepted");
    };
    for error in &errors {
        assert!(!error.contains("swordfish"), "{error}");
    }
    errors
}

/// `at` is the beginning of the line that is to be named, in the changed file.
#[track_caller]
fn one_error(from: &str, to: &str, at: &str, field: &str, message: &str) {
    let errors = errors(from, to);
    let changed = CLIENT.replacen(from, to, 1);
    let line = 1 + changed
        .lines()
        .collect::<Vec<_>>()
        .iter()
        .rposition(|line| line.starts_with(at))
        .expect(at);
    let [error] = errors.as_slice() else {
        panic!("{errors:#?}")
    };
    assert!(
        error.contains(&format!("mitregate.toml:{line}: {field}: ")),
        "{error}"
    );
    assert!(error.contains(message), "{error}");
}

#[test]
fn a_client() {
    let settings = Files::new()
        .load(CLIENT)
        .unwrap_or_else(|errors| panic!("{errors:#?}"));
    assert_eq!(settings.outer.interface, "wan");
    assert!(!settings.outer.zero_copy);
    assert!(settings.daemon.log_json);
    assert_eq!(settings.inner.addresses.len(), 1);
    let [home] = settings.control.connections.as_slice() else {
        panic!()
    };
    assert_eq!(home.gate.role, Role::Client);
    assert_eq!(home.gate.ping_timeout, Duration::from_millis(100));
    assert_eq!(home.gate.tries, 7);
    assert_eq!(home.local_id.to_string(), "client@lab");
    let [net] = home.children.as_slice() else {
        panic!()
    };
    assert_eq!(net.start_action, StartAction::Start);
    assert_eq!(net.remote_ts[0].to_string(), "10.2.0.0/24");
    let [protected] = &settings.protected()[..] else {
        panic!()
    };
    assert_eq!(protected.destination.to_string(), "10.2.0.0/24");
    assert_eq!(
        protected.source,
        Some("10.1.0.1".parse::<IpAddr>().unwrap())
    );
}

#[test]
fn the_shortest_server() {
    let files = Files::new();
    files.write("psk", 0o400, "swordfish\n");
    let settings = files
        .load(
            r#"
            outer.interface = "wan"
            [connections.any]
            local.id = "gw@lab"
            remote.id = "%any"
            children.net = { local_ts = ["0.0.0.0/0"], remote_ts = ["10.1.0.1"] }
            [secrets.all]
            secret_file = "psk"
            "#,
        )
        .unwrap_or_else(|errors| panic!("{errors:#?}"));
    let [any] = settings.control.connections.as_slice() else {
        panic!()
    };
    assert_eq!(any.gate.role, Role::Server);
    assert!(any.remote_id.is_none() && any.remote_addrs.is_empty());
    let words = |proposals: &[IkeProposal]| {
        proposals
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(words(&any.proposals), IkeProposal::DEFAULT);
    assert_eq!(
        any.children[0].esp_proposals[0].to_string(),
        EspProposal::DEFAULT[0]
    );
    assert_eq!(settings.inner.interface, "mg0");
}

#[test]
fn proposals_in_swanctls_words() {
    let files = Files::new();
    let text = CLIENT
        .replace(
            "[\"aes256gcm16-prfsha256-x25519\"]",
            "[\"aes256gcm16-prfsha384-x25519-ke1_mlkem768\", \"aes256-sha256-modp2048\", \"default\"]",
        )
        .replace("[\"aes256gcm16\"]", "[\"default\", \"aes256gcm16-ecp384-ke1_mlkem768-noesn\"]");
    let settings = files
        .load(&text)
        .unwrap_or_else(|errors| panic!("{errors:#?}"));
    let home = &settings.control.connections[0];
    let words = home.proposals.iter().map(ToString::to_string);
    assert_eq!(
        words.collect::<Vec<_>>(),
        [
            "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
            "aes256-sha256-modp2048",
            IkeProposal::DEFAULT[0],
            IkeProposal::DEFAULT[1],
        ]
    );
    let words = home.children[0]
        .esp_proposals
        .iter()
        .map(ToString::to_string);
    assert_eq!(
        words.collect::<Vec<_>>(),
        [
            EspProposal::DEFAULT[0],
            "aes256gcm16-ecp384-ke1_mlkem768-noesn"
        ]
    );
}

#[test]
fn typos_are_found() {
    one_error(
        "interface = \"wan\"",
        "interfaces = \"wan\"",
        "interfaces",
        "outer.interfaces",
        "unknown field",
    );
    one_error(
        "encap = ",
        "encaps = ",
        "encap",
        "connections.home.encaps",
        "unknown field",
    );
    one_error("[inner]", "[iner]", "[iner]", "iner", "unknown field");
    one_error(
        "ids = [",
        "id = [",
        "id = [",
        "secrets.home.id",
        "unknown field",
    );
    one_error(
        "mtu = 1400",
        "mtu = \"1400\"",
        "mtu",
        "inner.mtu",
        "invalid type",
    );
    one_error(
        "interface = \"wan\"\n",
        "",
        "[outer]",
        "outer",
        "missing field `interface`",
    );
    one_error("mtu = 1400", "mtu = 1400 x", "mtu", "inner.mtu", "expected");
    one_error("[outer]", "[daemon]", "[daemon]", "daemon", "duplicate");
}

#[test]
fn values_that_make_no_sense() {
    let home = "connections.home";
    let net = "connections.home.children.net";
    for (from, to, at, field, message) in [
        (
            "\"10.2.0.0/24\"",
            "\"10.2.0/24\"",
            "remote_ts",
            &*format!("{net}.remote_ts[0]"),
            "not a traffic selector",
        ),
        (
            "\"10.2.0.0/24\"",
            "\"10.2.0.0/33\"",
            "remote_ts",
            &format!("{net}.remote_ts[0]"),
            "not a traffic selector",
        ),
        (
            "[\"10.2.0.0/24\"]",
            "[]",
            "remote_ts",
            &format!("{net}.remote_ts"),
            "is empty",
        ),
        (
            "\"10.2.0.0/24\"",
            "\"10.1.0.1\"",
            "remote_ts",
            &format!("{net}.remote_ts[0]"),
            "both sides",
        ),
        (
            "\"start\"",
            "\"go\"",
            "start_action",
            &format!("{net}.start_action"),
            "\"start\", \"trap\", \"none\"",
        ),
        (
            "\"1h\"",
            "\"1 hour\"",
            "rekey_time",
            &format!("{net}.rekey_time"),
            "units are",
        ),
        (
            "\"1h\"",
            "\"100ms\"",
            "rekey_time",
            &format!("{net}.rekey_time"),
            "less than 1s",
        ),
        (
            "\"1h\"",
            "\"1h\"\nlife_time = \"30m\"",
            "life_time",
            &format!("{net}.life_time"),
            "longer than rekey_time",
        ),
        (
            "aes256gcm16-prfsha256-x25519",
            "rot13",
            "proposals",
            &format!("{home}.proposals[0]"),
            "unknown algorithm",
        ),
        (
            "esp_proposals = [\"aes256gcm16\"]",
            "esp_proposals = [\"null\"]",
            "esp_proposals",
            &format!("{net}.esp_proposals[0]"),
            "null",
        ),
        (
            "\"192.168.1.2\"",
            "\"192.168.1\"",
            "local_addrs",
            &format!("{home}.local_addrs[0]"),
            "not an IP address",
        ),
        (
            "[\"203.0.113.1\"]",
            "[\"%any\"]",
            "remote_addrs",
            &format!("{home}.remote_addrs"),
            "address of its peer",
        ),
        (
            "\"udp\"",
            "\"tcp\"",
            "encap",
            &format!("{home}.encap"),
            "\"auto\", \"esp\", \"udp\"",
        ),
        (
            "auth = \"psk\"",
            "auth = \"eap\"",
            "auth = \"eap\"",
            &format!("{home}.local.auth"),
            "\"psk\"",
        ),
        (
            "\"client@lab\"",
            "\"@#xyz\"",
            "id = \"@#",
            &format!("{home}.local.id"),
            "not an identity",
        ),
        (
            "\"100ms\"",
            "\"100\"",
            "ping_timeout",
            &format!("{home}.gate.ping_timeout"),
            "needs a unit",
        ),
        (
            "tries = 7",
            "tries = 0",
            "tries",
            &format!("{home}.gate.tries"),
            "1 to 100",
        ),
        (
            "tries = 7",
            "jitter = 1.5",
            "jitter",
            &format!("{home}.gate.jitter"),
            "0.0 to 0.9",
        ),
        (
            "\"10.1.0.1/32\"]\n\n[connections.home]",
            "\"10.1.0.1/64\"]\n\n[connections.home]",
            "addresses",
            "inner.addresses[0]",
            "prefix length from 0 to 32",
        ),
        ("mtu = 1400", "mtu = 100", "mtu", "inner.mtu", "576 to 1500"),
        (
            "interface = \"mg0\"",
            "interface = \"wan\"",
            "interface",
            "inner.interface",
            "one of its own",
        ),
        (
            "interface = \"mg0\"",
            "interface = \"a-name-too-long\"",
            "interface",
            "inner.interface",
            "1 to 14 characters",
        ),
        (
            "\"generic\"",
            "\"fast\"",
            "xdp_mode",
            "outer.xdp_mode",
            "\"native\"",
        ),
        (
            "\"rustcrypto\"",
            "\"openssl\"",
            "provider",
            "daemon.provider",
            "\"aws-lc\"",
        ),
        (
            "\"debug\"",
            "\"a=b=c\"",
            "log =",
            "daemon.log",
            "neither a level",
        ),
        (
            "\"json\"",
            "\"xml\"",
            "log_format",
            "daemon.log_format",
            "\"human\"",
        ),
        (
            "\"/run/mitregate/client.sock\"",
            "\"x.sock\"",
            "control_socket",
            "daemon.control_socket",
            "absolute",
        ),
        (
            "log = \"debug\"",
            "replay_window = 64",
            "replay_window",
            "daemon.replay_window",
            "4096 to 65536",
        ),
        (
            "log = \"debug\"",
            "workers = 2",
            "workers",
            "daemon.workers",
            "1 worker",
        ),
        (
            "children.net]",
            "children.\"a b\"]",
            "[connections.home.children.\"a b\"]",
            "connections.home.children.\"a b\"",
            "not a name",
        ),
    ] {
        one_error(from, to, at, field, message);
    }
}

#[test]
fn all_errors_are_shown_at_once_in_order() {
    let text = CLIENT
        .replace("mtu = 1400", "mtu = 1")
        .replace("tries = 7", "tries = 0");
    let errors = Files::new().load(&text).err().unwrap();
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(
        errors[0].contains(":14: inner.mtu")
            && errors[1].contains(": connections.home.gate.tries: ")
    );
}

#[test]
fn tunnels_must_not_hide_each_other() {
    let second = |selectors: &str| {
        let text = format!("{CLIENT}\n[connections.home.children.second]\n{selectors}\n");
        Files::new().load(&text).map_err(|errors| errors.join("\n"))
    };
    let same = second("local_ts = [\"10.1.0.1\"]\nremote_ts = [\"10.2.0.0/24\"]")
        .err()
        .unwrap();
    assert!(same.contains("takes all its packets"), "{same}");
    let partial = second("local_ts = [\"10.1.0.0/24\"]\nremote_ts = [\"10.2.0.9-10.2.1.9\"]")
        .err()
        .unwrap();
    assert!(
        partial.contains("overlap those of") && partial.contains("in part"),
        "{partial}"
    );
    // One inside the other is an order, whichever comes first in the file.
    let inside = second("local_ts = [\"10.1.0.1\"]\nremote_ts = [\"10.2.0.9\"]")
        .ok()
        .unwrap();
    assert_eq!(inside.control.connections[0].children[0].name, "second");
    let around = second("local_ts = [\"10.1.0.1\"]\nremote_ts = [\"0.0.0.0/0\"]")
        .ok()
        .unwrap();
    assert_eq!(around.control.connections[0].children[1].name, "second");
    second("local_ts = [\"10.1.0.1\"]\nremote_ts = [\"10.3.0.0/24\"]")
        .ok()
        .unwrap();
}

#[test]
fn secrets_have_one_source_and_are_found_by_identity() {
    one_error(
        "secret = \"swordfish\"\n",
        "",
        "[secrets.home]",
        "secrets.home",
        "exactly one of",
    );
    one_error(
        "secret = \"swordfish\"",
        "secret = \"swordfish\"\ncredential = \"swordfish\"",
        "[secrets.home]",
        "secrets.home",
        "exactly one of",
    );
    one_error(
        "\"gw@lab\"]",
        "\"other@lab\"]",
        "[connections.home]",
        "connections.home",
        "no secret for the peer gw@lab",
    );
    one_error(
        "swordfish",
        "0xswordfish",
        "secret",
        "secrets.home.secret",
        "hexadecimal",
    );
    // The parser would quote the value.
    one_error(
        "secret = \"swordfish\"",
        "secret = 4711",
        "secret",
        "secrets.home.secret",
        "one text each",
    );
    assert!(!errors("secret = \"swordfish\"", "secret = 4711")[0].contains("4711"));
    one_error(
        "secret = \"swordfish\"",
        "secret_file = \"none\"",
        "secret",
        "secrets.home.secret_file",
        "cannot read",
    );
    let twice =
        format!("{CLIENT}\n[secrets.again]\nids = [\"gw@lab\", \"client@lab\"]\nsecret = \"x\"\n");
    let error = Files::new().load(&twice).err().unwrap().join("\n");
    assert!(
        error.contains("fit the peer gw@lab equally well"),
        "{error}"
    );
    let general = format!("{CLIENT}\n[secrets.general]\nsecret = \"x\"\n");
    assert!(Files::new().load(&general).is_ok());
}

#[test]
fn a_secret_in_a_public_file_is_refused() {
    let files = Files::new();
    for (mode, who) in [(0o644, "everybody"), (0o640, "its group")] {
        let path = files.write("mitregate.toml", mode, CLIENT);
        let errors = Settings::load(&path).err().unwrap();
        assert!(
            errors[0]
                .to_string()
                .contains(&format!("readable by {who}")),
            "{}",
            errors[0]
        );
        assert_eq!(errors[0].field, "secrets.home.secret");
    }
    files.write("psk", 0o600, "swordfish\n");
    let text = CLIENT.replace("secret = \"swordfish\"", "secret_file = \"psk\"");
    let path = files.write("mitregate.toml", 0o644, &text);
    assert!(Settings::load(&path).is_ok());
}

#[test]
fn files_that_cannot_be_read() {
    let files = Files::new();
    let error = Settings::load(&files.dir.path().join("none.toml"))
        .err()
        .unwrap();
    assert!(
        error[0].to_string().contains("none.toml: cannot read"),
        "{}",
        error[0]
    );
    let path = files.write("latin1.toml", 0o600, "");
    fs::write(&path, [0xff]).unwrap();
    assert!(
        Settings::load(&path).err().unwrap()[0]
            .to_string()
            .contains("UTF-8")
    );
}

#[test]
fn virtual_addresses_pools_and_actions_as_swanctl_names_them() {
    let text = CLIENT
        .replace(
            "encap = \"udp\"",
            "encap = \"udp\"\nvips = [\"0.0.0.0\", \"::\"]\nchildless = \"prefer\"\ndpd_timeout = \"90s\"",
        )
        .replace("local_ts = [\"10.1.0.1/32\"]", "local_ts = [\"dynamic\"]")
        .replace(
            "start_action = \"start\"",
            "start_action = \"trap\"\nclose_action = \"none\"\ndpd_action = \"restart\"\ninactivity = \"10m\"",
        );
    let settings = Files::new().load(&text).unwrap();
    let connection = &settings.control.connections[0];
    let any: Vec<IpAddr> = vec!["0.0.0.0".parse().unwrap(), "::".parse().unwrap()];
    assert_eq!(connection.vips, any);
    assert_eq!(connection.childless, Childless::Prefer);
    assert_eq!(connection.dpd_timeout, Duration::from_secs(90));
    let child = &connection.children[0];
    assert!(child.dynamic.local && !child.dynamic.remote && child.local_ts.is_empty());
    assert_eq!(child.start_action, StartAction::Trap);
    assert_eq!(child.close_action, StartAction::None);
    assert_eq!(child.dpd_action, StartAction::Start);
    assert_eq!(child.inactivity, Duration::from_secs(600));
    // What it protects gets the virtual address as its source.
    let protected = settings.protected();
    assert_eq!(protected[0].virtual_of.as_deref(), Some("home"));

    let server = format!(
        "{}\n[pools.clients]\naddrs = \"10.3.0.0/24\"\ndns = [\"10.2.0.53\"]\n",
        CLIENT
            .replace(
                "remote_addrs = [\"203.0.113.1\"]",
                "remote_addrs = [\"%any\"]\nrole = \"server\"\npools = [\"clients\"]\nunique = \"keep\"\nmax_peers = 50",
            )
            .replace("remote_ts = [\"10.2.0.0/24\"]", "remote_ts = [\"dynamic\"]")
            .replace("start_action = \"start\"", "")
    );
    let settings = Files::new().load(&server).unwrap();
    let connection = &settings.control.connections[0];
    assert!(connection.is_template());
    assert_eq!(
        (connection.unique, connection.max_peers),
        (Unique::Keep, 50)
    );
    let pool = &settings.control.pools[0];
    assert_eq!(pool.name, "clients");
    assert_eq!(pool.start, "10.3.0.1".parse::<IpAddr>().unwrap());
    assert_eq!(pool.end, "10.3.0.254".parse::<IpAddr>().unwrap());
    assert_eq!(pool.dns.len(), 1);
    // The pool is what must not leave in clear.
    let protected: Vec<_> = settings.protected();
    let ends: Vec<_> = protected
        .iter()
        .map(|p| p.destination.to_string())
        .collect();
    assert!(ends.contains(&"10.3.0.128/26".to_owned()), "{ends:?}");
}

#[test]
fn wrong_virtual_addresses_pools_and_actions_are_told_with_their_line() {
    for (from, to, line, words) in [
        (
            "encap = \"udp\"",
            "vips = [\"home\"]",
            "20: connections.home.vips[0]",
            "not an IP address",
        ),
        (
            "encap = \"udp\"",
            "pools = [\"none\"]",
            "20: connections.home.pools",
            "only a server",
        ),
        (
            "encap = \"udp\"",
            "unique = \"no\"",
            "20: connections.home.unique",
            "\"replace\", \"keep\", \"never\"",
        ),
        (
            "encap = \"udp\"",
            "max_peers = 0",
            "20: connections.home.max_peers",
            "1 to",
        ),
        (
            "encap = \"udp\"",
            "role = \"server\"",
            "children.net.start_action",
            "a server waits",
        ),
        (
            "start_action = \"start\"",
            "start_action = \"route\"",
            "39: connections.home.children.net.start_action",
            "\"trap\"",
        ),
        (
            "start_action = \"start\"",
            "dpd_action = \"hold\"",
            "39: connections.home.children.net.dpd_action",
            "\"clear\"",
        ),
        (
            "[secrets.home]",
            "[pools.a]\naddrs = \"10.3.0.9-10.3.0.1\"\n[secrets.home]",
            "pools.a.addrs",
            "neither a network",
        ),
        (
            "[secrets.home]",
            "[pools.a]\naddrs = \"10.3.0.0/24\"\n[pools.b]\naddrs = \"10.3.0.7\"\n[secrets.home]",
            "pools.b.addrs",
            "shares addresses with pools.a",
        ),
    ] {
        let errors = errors(from, to);
        assert!(
            errors.iter().any(|e| e.contains(line) && e.contains(words)),
            "{to}: {errors:?}"
        );
    }
}

#[test]
fn the_gate_as_a_word_and_as_a_table() {
    let files = Files::new();
    let word = CLIENT.replace("encap = \"udp\"", "gate = \"off\"").replace(
        "[connections.home.gate]\nping_timeout = \"100ms\"\ntries = 7\n",
        "",
    );
    let settings = files.load(&word).unwrap();
    assert_eq!(settings.control.connections[0].gate.mode, GateMode::Off);
    let table = CLIENT.replace("tries = 7", "mode = \"icmp\"");
    let gate = files.load(&table).unwrap().control.connections[0]
        .gate
        .clone();
    assert_eq!(
        (gate.mode, gate.ping_timeout),
        (GateMode::Icmp, Duration::from_millis(100))
    );
    let wrong = files
        .load(&word.replace("gate = \"off\"", "gate = \"of\""))
        .err()
        .unwrap();
    assert!(wrong[0].contains(":20: connections.home.gate"), "{wrong:?}");
    assert!(wrong[0].contains("\"icmp\", \"off\""), "{wrong:?}");
    let number = files
        .load(&word.replace("gate = \"off\"", "gate = 3"))
        .err()
        .unwrap();
    assert!(
        number[0].contains(":20: connections.home.gate: "),
        "{number:?}"
    );
    one_error(
        "tries = 7",
        "mode = \"echoes\"",
        "mode = ",
        "connections.home.gate.mode",
        "is not one of \"auto\"",
    );
    one_error(
        "tries = 7",
        "tires = 7",
        "tires = ",
        "connections.home.gate.tires",
        "unknown field",
    );
}

#[test]
fn every_time_of_the_gate_has_a_word_a_range_and_a_line() {
    let files = Files::new();
    let all = "mode = \"icmp\"\nicmp_targets = [\"10.2.0.9\", \"2001:db8::1\"]\nfirst_tries = 40\n\
        suspect_tries = 2\nmute_after = 0\nbackoff = 2.0\njitter = 0.1\nrekey_patience = \"500ms\"\n\
        epochs_per_session = 3\nescalation_backoff = \"1s\"\nescalation_max = \"10s\"\n\
        drain_min = \"2s\"\ndrain_max = \"20s\"\nidle_tick = \"100ms\"\nidle_unanswered = \"300ms\"\n\
        idle_silence = \"2s\"\nidle_silence_max = \"40s\"\nidle_receive_only = \"5s\"\n\
        echo_rate = 50\necho_burst = 7";
    let text = CLIENT.replace("tries = 7", all);
    let settings = files.load(&text).unwrap();
    let gate = &settings.control.connections[0].gate;
    let idle = gate.idle.as_ref().unwrap();
    let ms = Duration::from_millis;
    assert_eq!((gate.first_tries, gate.mute_after), (40, 0));
    assert_eq!(gate.icmp_targets.len(), 2);
    assert_eq!(
        (gate.rekey_patience, gate.escalation_max),
        (ms(500), ms(10_000))
    );
    assert_eq!((gate.drain_min, gate.drain_max), (ms(2000), ms(20_000)));
    assert_eq!((idle.tick, idle.unanswered), (ms(100), ms(300)));
    assert_eq!((idle.silence, idle.silence_max), (ms(2000), ms(40_000)));
    assert_eq!((gate.echo.rate, gate.echo.burst), (50, 7));
    for (line, field, message) in [
        ("ping_timeout = \"0s\"", "ping_timeout", "within 1ms to 1m"),
        ("first_tries = 0", "first_tries", "within 1 to 1000"),
        ("echo_rate = 0", "echo_rate", "within 1 to 100000"),
        ("backoff = 0.5", "backoff", "within 1.0 to 10.0"),
        ("backoff = nan", "backoff", "within 1.0 to 10.0"),
        ("idle_tick = \"1d\"", "idle_tick", "within 10ms to 10s"),
        ("drain_max = \"500ms\"", "drain_max", "within 1s to 1h"),
        (
            "escalation_max = \"200ms\"",
            "escalation_max",
            "not be less than escalation_backoff",
        ),
        (
            "icmp_targets = [\"host\"]",
            "icmp_targets[0]",
            "is not an IP address",
        ),
        ("mute_after = 9999", "mute_after", "within 0 to 1000"),
    ] {
        let text = CLIENT.replace("ping_timeout = \"100ms\"\ntries = 7", line);
        let errors = files.load(&text).err().unwrap();
        let number = 1 + text.lines().position(|l| l == line).unwrap();
        let at = format!("mitregate.toml:{number}: connections.home.gate.{field}: ");
        assert!(
            errors
                .iter()
                .any(|error| error.contains(&at) && error.contains(message)),
            "{line}: {errors:?}"
        );
    }
    let off = CLIENT.replace("tries = 7", "idle = false\nidle_silence = \"2s\"");
    let errors = files.load(&off).err().unwrap();
    assert!(errors[0].contains("counts only with idle = true"));
    let echo = CLIENT.replace(
        "tries = 7",
        "mode = \"echo\"\nicmp_targets = [\"10.2.0.1\"]",
    );
    let errors = files.load(&echo).err().unwrap();
    assert!(errors[0].contains("counts only with mode"));
}

#[test]
fn a_hard_lifetime_without_room_for_a_rekey_that_meets_silence_is_pointed_out() {
    let files = Files::new();
    let warnings = |life: &str| {
        let life = format!("rekey_time = \"1h\"\nlife_time = \"{life}\"");
        let text = CLIENT.replace("rekey_time = \"1h\"", &life);
        let settings = files.load(&text).unwrap();
        let warnings = settings.warnings.iter().map(ToString::to_string);
        warnings.collect::<Vec<_>>()
    };
    assert_eq!(warnings("64m"), Vec::<String>::new());
    let short = warnings("61m");
    assert!(
        short[0].contains(": connections.home.children.net.life_time: leaves 60 s"),
        "{short:?}"
    );
}
