//! Two network namespaces with a veth pair between them, gone with the value.

use std::{
    fs::File,
    os::fd::AsFd as _,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// `us`: 192.0.2.1 and 2001:db8::1 on `wan`. `peer`: 192.0.2.7 and 2001:db8::7 on `wan`.
pub struct Lab {
    pub us: String,
    pub peer: String,
}

impl Lab {
    pub fn new() -> Self {
        let tag = format!(
            "mgt-classifier-{}-{}",
            process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let lab = Self {
            us: format!("{tag}-us"),
            peer: format!("{tag}-peer"),
        };
        let Self { us, peer } = &lab;
        for namespace in [us, peer] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        ip(&format!(
            "-n {us} link add wan type veth peer name wan netns {peer}"
        ));
        for (namespace, number) in [(us, 1), (peer, 7)] {
            ip(&format!(
                "-n {namespace} address add 192.0.2.{number}/24 dev wan"
            ));
            ip(&format!(
                "-n {namespace} address add 2001:db8::{number}/64 dev wan nodad"
            ));
            ip(&format!("-n {namespace} link set wan up"));
        }
        lab
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.us, &self.peer] {
            let _ = Command::new("ip")
                .args(["netns", "delete", namespace])
                .status();
        }
    }
}

pub fn ip(args: &str) {
    let out = Command::new("ip")
        .args(args.split(' '))
        .output()
        .expect("iproute2");
    assert!(
        out.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// Move this thread into a network namespace, for good.
pub fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root");
}

/// Run something in a network namespace.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            enter(namespace);
            work()
        });
        worker.join().expect("no panic")
    })
}
