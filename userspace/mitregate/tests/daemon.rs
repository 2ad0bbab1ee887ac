//! Two daemons in network namespaces: a tunnel, proven and used, and everything that goes with it.

mod common;

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use common::{TestNs, has_data_plane, privileged};
use serde_json::Value;

const MITREGATE: &str = env!("CARGO_BIN_EXE_mitregate");
const SECRET: &str = "a-very-secret-key";

/// One end: a namespace with an outer interface, and a daemon that may run in it.
struct End {
    ns: TestNs,
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl End {
    fn new(what: &str) -> Self {
        let end = Self {
            ns: TestNs::new(what),
            dir: tempfile::tempdir().unwrap(),
            daemon: None,
        };
        let secret = end.path("psk");
        fs::write(&secret, SECRET).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        end
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, connection: &str) {
        let text = format!(
            r#"
            [daemon]
            control_socket = {:?}
            log = "trace"
            [outer]
            interface = "wan"
            [secrets.home]
            secret_file = "psk"
            {connection}
            "#,
            self.path("control.sock")
        );
        fs::write(self.path("mitregate.toml"), text).unwrap();
    }

    fn start(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let daemon = self
            .ns
            .command(MITREGATE)
            .args(["run", "-c"])
            .arg(self.path("mitregate.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
        self.eventually("the daemon to answer", |end| {
            end.json(&["list-sas"])["tunnels"].is_array()
        });
    }

    /// Runs until its end, which must come by itself.
    fn fails_to_start(&self) -> String {
        let output = self
            .ns
            .command(MITREGATE)
            .args(["run", "-c"])
            .arg(self.path("mitregate.toml"))
            .output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn ask(&self, args: &[&str]) -> Output {
        self.ns
            .command(MITREGATE)
            .arg("--json")
            .arg("--socket")
            .arg(self.path("control.sock"))
            .args(args)
            .output()
            .unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.ask(args).stdout).unwrap_or(Value::Null)
    }

    fn tunnel_status(&self) -> String {
        self.json(&["list-sas"])["tunnels"][0]["status"]
            .as_str()
            .unwrap_or("?")
            .to_owned()
    }

    fn fate(&self, label: &str) -> u64 {
        self.json(&["stats"])["fates"][label].as_u64().unwrap()
    }

    #[track_caller]
    fn eventually(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(
                start.elapsed() < Duration::from_secs(15),
                "waiting for {what}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&mut self, signal: rustix::process::Signal) -> Option<i32> {
        let mut daemon = self.daemon.take().unwrap();
        // `ip netns exec` has become the daemon, so its process id is the daemon's.
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, signal).unwrap();
        daemon.wait().unwrap().code()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// RFC 3704's strict check, on or off.
    fn check_sources(&self, on: bool) {
        let on = u8::from(on);
        let set = format!(
            "cd /proc/sys/net/ipv4/conf && echo 0 >all/rp_filter && echo {on} >wan/rp_filter"
        );
        let status = self.ns.command("sh").args(["-c", &set]).status().unwrap();
        assert!(status.success());
    }

    fn route_to(&self, address: &str) -> String {
        let output = self
            .ns
            .command("ip")
            .args(["route", "get", address])
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// A client and a gateway on one cable.
fn ends(what: &str, more: &str) -> (End, End) {
    let client = End::new(&format!("{what}c"));
    let gateway = End::new(&format!("{what}g"));
    client.ns.wire("wan", &gateway.ns, "wan");
    client.ns.ip("addr add 192.0.2.2/24 dev wan");
    gateway.ns.ip("addr add 192.0.2.1/24 dev wan");
    // The protected address is the gateway's own.
    gateway.ns.ip("addr add 10.2.0.1/32 dev lo");
    client.configure(&format!(
        r#"
        [inner]
        addresses = ["10.1.0.1/32"]
        [connections.home]
        remote_addrs = ["192.0.2.1"]
        local.id = "client@test"
        remote.id = "gw@test"
        {more}
        [connections.home.children.net]
        local_ts = ["10.1.0.1"]
        remote_ts = ["10.2.0.0/24"]
        start_action = "start"
        "#
    ));
    gateway.configure(&format!(
        r#"
        [connections.home]
        local.id = "gw@test"
        remote.id = "client@test"
        {more}
        [connections.home.children.net]
        local_ts = ["10.2.0.0/24"]
        remote_ts = ["10.1.0.1"]
        "#
    ));
    (client, gateway)
}

/// A UDP echo from the client's protected address to the gateway's; how many came back.
fn echo(client: &End, gateway: &End, count: usize) -> usize {
    let bind = |end: &End, address: &str| {
        let address = address.to_owned();
        end.ns
            .block_on(async move || UdpSocket::bind(address).unwrap())
    };
    let server = bind(gateway, "10.2.0.1:7");
    let socket = bind(client, "10.1.0.1:0");
    for socket in [&server, &socket] {
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
    }
    let mut back = 0;
    for n in 0..count {
        let mut buffer = [0; 1500];
        let text = format!("echo {n} {}", "x".repeat(n * 97 % 1200));
        if socket.send_to(text.as_bytes(), "10.2.0.1:7").is_err() {
            continue;
        }
        let Ok((len, from)) = server.recv_from(&mut buffer) else {
            continue;
        };
        assert_eq!(from.ip(), "10.1.0.1".parse::<IpAddr>().unwrap());
        server.send_to(&buffer[..len], from).unwrap();
        back += usize::from(
            socket
                .recv(&mut buffer)
                .is_ok_and(|len| &buffer[..len] == text.as_bytes()),
        );
    }
    back
}

fn ready() -> bool {
    privileged() && has_data_plane()
}

#[test]
fn a_tunnel_is_proven_carries_data_and_is_taken_down() {
    if !ready() {
        return;
    }
    for (encap, provider) in [("esp", "rustcrypto"), ("udp", "aws-lc")] {
        let (mut client, mut gateway) = ends("up", &format!("encap = {encap:?}"));
        for end in [&client, &gateway] {
            let file = end.path("mitregate.toml");
            let config = fs::read_to_string(&file).unwrap();
            let chosen = format!("[daemon]\nprovider = {provider:?}");
            fs::write(&file, config.replace("[daemon]", &chosen)).unwrap();
        }
        gateway.start();
        client.start();
        for end in [&client, &gateway] {
            end.eventually("a proven tunnel", |end| end.tunnel_status() == "proven");
        }
        assert_eq!(echo(&client, &gateway, 50), 50);
        let epoch = &client.json(&["list-sas"])["tunnels"][0]["epochs"][0];
        assert_eq!(
            (&epoch["encap"], &epoch["active"]),
            (&encap.into(), &true.into())
        );
        assert!(epoch["last_rtt_us"].is_u64());
        // Both ways, and nothing of it was dropped.
        assert!(client.fate("sealed") >= 50 && client.fate("opened") >= 50);
        let stats = gateway.json(&["stats"]);
        assert_eq!(stats["outer"]["xdp_mode"], "native");
        assert_eq!(stats["shared_umem"], true);

        let ping = client.json(&["ping", "net", "-c", "3", "-i", "0.01", "-s", "100"]);
        assert_eq!(ping["statistics"]["received"], 3, "{ping}");
        assert_eq!(ping["replies"].as_array().unwrap().len(), 3);
        let unknown = client.ask(&["ping", "nowhere"]);
        assert_eq!(unknown.status.code(), Some(1));

        assert_eq!(client.json(&["terminate", "--child", "net"])["ok"], true);
        for end in [&client, &gateway] {
            end.eventually("no tunnel", |end| end.tunnel_status() == "down");
        }
        assert_eq!(client.json(&["initiate", "--child", "net"])["ok"], true);
        assert_eq!(client.tunnel_status(), "proven");
        assert_eq!(echo(&client, &gateway, 5), 5);

        // SIGTERM: the peer knows at once, and nothing is left but what fails closed.
        assert_eq!(client.signal(rustix::process::Signal::TERM), Some(0));
        gateway.eventually("the peer's Delete", |end| end.tunnel_status() == "down");
        assert!(!client.ns.ip("link show").contains("mg0"));
        assert!(!client.ns.ip("link show wan").contains("xdp"));
        assert!(client.route_to("10.2.0.1").contains("No route to host"));
        let release = client.ask(&[
            "release",
            "-c",
            client.path("mitregate.toml").to_str().unwrap(),
        ]);
        assert!(release.status.success());
        assert!(!client.ns.ip("route show").contains("unreachable"));
        assert_eq!(gateway.signal(rustix::process::Signal::INT), Some(0));
        for end in [&client, &gateway] {
            assert!(!end.log().contains(SECRET));
            assert!(!end.path("control.sock").exists());
        }
    }
}

#[test]
fn a_crash_fails_closed_and_a_restart_cleans_up() {
    if !ready() {
        return;
    }
    let (mut client, mut gateway) = ends("kill", "");
    gateway.start();
    client.start();
    client.eventually("a proven tunnel", |end| end.tunnel_status() == "proven");
    // A way in the clear, should the protection fail.
    client.ns.ip("route add default via 192.0.2.1");
    client.signal(rustix::process::Signal::KILL);
    client.eventually("the interface to go", |end| {
        !end.ns.ip("link show").contains("mg0")
    });
    assert!(client.route_to("10.2.0.1").contains("No route to host"));
    client.start();
    client.eventually("a proven tunnel again", |end| {
        end.tunnel_status() == "proven"
    });
    assert_eq!(echo(&client, &gateway, 5), 5);
}

#[test]
fn what_is_wrong_at_the_start_is_said() {
    if !ready() {
        return;
    }
    let (mut client, _gateway) = ends("pre", "");
    // A way out in clear: after each start that fails, it must not be taken.
    client.ns.ip("route add default via 192.0.2.1");
    let fails = |client: &End| {
        assert!(client.route_to("10.2.0.1").contains("dev wan"));
        let error = client.fails_to_start();
        let route = client.route_to("10.2.0.1");
        assert!(route.contains("No route to host"), "{route}\n{error}");
        let config = client.path("mitregate.toml");
        let release = client.ask(&["release", "-c", config.to_str().unwrap()]);
        assert!(release.status.success(), "{release:?}");
        error
    };
    client.check_sources(false);
    let charon = client
        .ns
        .block_on(async || UdpSocket::bind("0.0.0.0:500").unwrap());
    let error = fails(&client);
    assert!(
        error.contains("UDP port 500 on 192.0.2.2 is in use: another IKE daemon"),
        "{error}"
    );
    drop(charon);
    let any_source = "wan takes packets from any source";
    assert!(error.contains(any_source), "{error}");
    client.check_sources(true);

    client.ns.ip("link add mg0 type veth peer name other");
    let error = fails(&client);
    assert!(error.contains("mg0 exists and is not ours"), "{error}");
    assert!(!error.contains(any_source), "{error}");
    client.ns.ip("link del mg0");

    let file = client.path("mitregate.toml");
    let config = fs::read_to_string(&file).unwrap();
    let socket = format!("{:?}", client.path("control.sock"));
    let nowhere = format!("{:?}", file.join("control.sock"));
    let wan = "interface = \"wan\"";
    for (field, wrong, expected) in [
        (wan, "interface = \"wlan7\"", "there is no interface wlan7"),
        (wan, "interface = \"lo\"", "lo is no Ethernet interface"),
        (
            wan,
            "interface = \"wan\"\nqueue = 63",
            "there is no queue 63",
        ),
        (&socket, &nowhere, "for the control socket"),
    ] {
        assert!(config.contains(field));
        fs::write(&file, config.replace(field, wrong)).unwrap();
        let error = fails(&client);
        assert!(error.contains(expected), "{error}");
    }
    fs::write(&file, &config).unwrap();

    client.start();
    let error = client.fails_to_start();
    assert!(
        error.contains("another mitregate daemon runs already (process "),
        "{error}"
    );
    assert!(client.route_to("10.2.0.1").contains("dev mg0"));
    let release = client.ask(&["release", "-c", file.to_str().unwrap()]);
    assert_eq!(release.status.code(), Some(1));
    // Nobody answers.
    let output = client.ask(&["initiate", "--child", "net", "--timeout", "1"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("no result within 1 s"));
    assert_eq!(client.signal(rustix::process::Signal::TERM), Some(0));

    // The outer interface goes: so does the daemon, and nothing leaks.
    client.start();
    client.ns.ip("link del wan");
    let code = client.daemon.take().unwrap().wait().unwrap().code();
    assert_eq!(code, Some(1));
    // Whichever is first to find out, the event or the socket.
    let log = client.log();
    assert!(
        log.contains("interface wan is gone") || log.contains("interface wan still"),
        "{log}"
    );
}

#[test]
fn a_wrong_secret_is_named_and_nothing_comes_up() {
    if !ready() {
        return;
    }
    let (mut client, mut gateway) = ends("psk", "");
    fs::write(client.path("psk"), "another key").unwrap();
    gateway.start();
    client.start();
    gateway.eventually("the failure in the log", |end| {
        end.log().lines().any(|line| {
            ["INFO", "wrong shared secret", "client@test"]
                .iter()
                .all(|word| line.contains(word))
        })
    });
    assert_eq!(client.tunnel_status(), "down");
    assert_eq!(echo(&client, &gateway, 1), 0);
    assert!(
        client.json(&["list-sas"])["tunnels"][0]["epochs"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}
