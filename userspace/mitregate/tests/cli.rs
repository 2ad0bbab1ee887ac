//! The command line as a user meets it, without a daemon.

use std::fs;
use std::process::{Command, Output};

const MITREGATE: &str = env!("CARGO_BIN_EXE_mitregate");

fn mitregate(args: &[&str]) -> Output {
    Command::new(MITREGATE).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_teaches() {
    let help = mitregate(&["--help"]);
    assert!(help.status.success());
    let text = stdout(&help);
    for command in [
        "run",
        "check-config",
        "list-sas",
        "initiate",
        "terminate",
        "ping",
        "stats",
        "protect",
        "release",
    ] {
        assert!(text.contains(command), "{command} not in {text}");
        let help = mitregate(&[command, "--help"]);
        assert!(
            help.status.success() && stdout(&help).len() > 200,
            "{command}"
        );
    }
    assert!(text.contains("Examples:"), "{text}");
    assert_eq!(mitregate(&["sing"]).status.code(), Some(2));
    assert_eq!(mitregate(&["terminate"]).status.code(), Some(2));
    assert_eq!(
        mitregate(&["ping", "net", "-c", "0"]).status.code(),
        Some(2)
    );
    assert_eq!(
        mitregate(&["ping", "net", "-s", "513"]).status.code(),
        Some(2)
    );
}

#[test]
fn without_a_daemon_it_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    for command in [
        &["list-sas"][..],
        &["stats"],
        &["ping", "net"],
        &["initiate", "--child", "net"],
        &["terminate", "--ike", "home"],
    ] {
        let output = mitregate(&[&["--socket", socket], command].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(
            stderr(&output).contains("mitregate run -c FILE"),
            "{}",
            stderr(&output)
        );
        let output = mitregate(&[&["--json", "--socket", socket], command].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let value: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(value["ok"], false);
    }
}

#[test]
fn check_config_names_file_line_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.toml");
    let file = path.to_str().unwrap();
    fs::write(&path, "[outer]\ninterface = \"wan\"\nmode = 1\n").unwrap();
    let output = mitregate(&["check-config", "-c", file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("a.toml:3: outer.mode: unknown field"),
        "{}",
        stderr(&output)
    );
    let output = mitregate(&["check-config", "--json", "--config", file]);
    assert_eq!(output.status.code(), Some(1));
    let value: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&value["errors"][0]["line"], &value["errors"][0]["field"]),
        (&3.into(), &"outer.mode".into())
    );
    for command in ["run", "protect", "release"] {
        let output = mitregate(&[command, "-c", file]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(stderr(&output).contains("a.toml:3"), "{}", stderr(&output));
    }

    fs::write(dir.path().join("psk"), "swordfish").unwrap();
    fs::set_permissions(
        dir.path().join("psk"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    fs::write(
        &path,
        "outer.interface = \"wan\"\n[connections.a]\nlocal.id = \"a\"\nremote.id = \"b\"\n\
         children.c = { local_ts = [\"10.0.0.0/8\"], remote_ts = [\"10.1.0.1\"] }\n\
         [secrets.x]\nsecret_file = \"psk\"\n",
    )
    .unwrap();
    let output = mitregate(&["check-config", "-c", file]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("ok (1 connections, 1 tunnels)"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn without_privileges_it_names_them() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.toml");
    fs::write(&path, "outer.interface = \"wan\"\n").unwrap();
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-all", "--inh-caps", "-all", "--"])
        .args([MITREGATE, "run", "-c", path.to_str().unwrap()])
        .output();
    let Ok(output) = output else { return };
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    for word in ["not permitted", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "root"] {
        assert!(text.contains(word), "{word} not in {text}");
    }
}
