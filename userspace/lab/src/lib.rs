//! Network namespaces for tests and for people: hosts in a row with a NAT among them, the
//! demo that drives real traffic through a tunnel across them, and the check that nothing of it
//! shows on the wire.
//!
//! [`sim`] is the other half: the same hosts without a kernel, in virtual time. The NATs of [`nat`] are in both.
//!
//! The lab removes everything that it made, also after a failure or a signal; what a run that was
//! killed has left behind, the next one removes.
#![forbid(unsafe_code)]
// A tool for people at a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

pub mod capture;
pub mod case;
pub mod compare;
pub mod daemon;
pub mod demo;
mod draw;
pub mod flow;
pub mod http;
pub mod interop;
pub mod interrupt;
pub mod iperf;
pub mod nat;
pub mod nat_box;
pub mod netns;
pub mod payload;
pub mod ping;
pub mod probe;
pub mod recovery;
pub mod report;
pub mod sh;
pub mod sim;
pub mod standing;
pub mod timeline;
pub mod topology;
mod watch;
pub mod wire;
