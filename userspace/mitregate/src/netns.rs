//! Network namespaces by file descriptor, one of the two places here with `unsafe`.
//!
//! A namespace is a property of a *thread*. Nothing here ever moves the caller's thread: work in
//! another namespace is done by a thread of its own that ends with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// A network namespace that lives at least as long as this handle.
///
/// An anonymous one (no name under /run/netns, no process of its own) ends with the last handle,
/// and so at the latest with the process: the kernel then removes every link in it.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// A new, empty namespace that nothing but this handle refers to. Needs CAP_SYS_ADMIN.
    pub fn anonymous() -> io::Result<Self> {
        on_own_thread(|| {
            // SAFETY: `unshare` is unsafe because CLONE_FILES would give this thread a file
            // descriptor table of its own, so that descriptors handed between threads would mean
            // different files. CLONE_NEWNET changes the network namespace alone.
            #[allow(unsafe_code)]
            unsafe {
                rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)?;
            }
            Ok(Self(File::open(OWN_NAMESPACE)?.into()))
        })?
    }

    /// The namespace that the calling thread is in.
    pub fn current() -> io::Result<Self> {
        Ok(Self(File::open(OWN_NAMESPACE)?.into()))
    }

    /// The namespace at a path such as `/run/netns/NAME`.
    pub fn open(path: &std::path::Path) -> io::Result<Self> {
        Ok(Self(File::open(path)?.into()))
    }

    /// Runs `work` on a thread inside this namespace and waits for it. Sockets made there stay in
    /// the namespace for good, whoever uses them later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| {
            rustix::thread::move_into_link_name_space(
                self.0.as_fd(),
                Some(LinkNameSpaceType::Network),
            )?;
            Ok(work())
        })?
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread in the network namespace panicked"))
    })
}
