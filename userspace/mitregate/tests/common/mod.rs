//! Network namespaces for tests: named, so that `ip` can be used in them, and gone at the end.

#![allow(dead_code, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use mitregate::netns::NetNs;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Whether the tests that need root and network namespaces can run.
pub fn privileged() -> bool {
    rustix::process::geteuid().is_root() || skip("needs root for network namespaces")
}

/// Whether the binary has the eBPF objects that the data plane needs.
pub fn has_data_plane() -> bool {
    mitregate_classifier::object::logging().is_ok()
        || skip("built without the eBPF objects (`cargo xtask build` makes them)")
}

/// Says why a test does nothing; where all are to run (MITREGATE_TEST_ALL=1), it fails instead.
fn skip(why: &str) -> bool {
    assert!(std::env::var_os("MITREGATE_TEST_ALL").is_none(), "{why}");
    eprintln!("skipped: {why}");
    false
}

/// A namespace that is deleted when dropped.
pub struct TestNs {
    /// As `ip netns` knows it.
    pub name: String,
    ns: NetNs,
}

impl TestNs {
    /// With the loopback interface up.
    pub fn new(what: &str) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mgt-bin-{what}-{}-{count}", std::process::id());
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        let ns = NetNs::open(&PathBuf::from("/run/netns").join(&name)).unwrap();
        Self { name, ns }
    }

    /// `ip -n NAME …`; answers with its output.
    pub fn ip(&self, args: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(args.split_whitespace());
        ip(&all)
    }

    /// On a thread in this namespace, within a runtime of its own.
    pub fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.ns
            .run(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(work())
            })
            .unwrap()
    }

    /// A command in this namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// A veth pair between two namespaces, up.
    pub fn wire(&self, mine: &str, other: &Self, theirs: &str) {
        self.ip(&format!(
            "link add {mine} type veth peer name {theirs} netns {}",
            other.name
        ));
        self.ip(&format!("link set {mine} up"));
        other.ip(&format!("link set {theirs} up"));
    }
}

impl Drop for TestNs {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(
        output.status.success(),
        "ip {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
