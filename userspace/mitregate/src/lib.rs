//! The Mitregate daemon and its command line: everything that touches the machine.
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`config`] | the configuration file and its secrets |
//! | [`shell`] | the daemon: start-up, the event loop, the end |
//! | [`net`] | interfaces, routes and next hops by rtnetlink |
//! | [`pki`] | a small certificate authority |
//! | [`placeholder`] | sockets on what the data plane takes |
//! | [`control_socket`], [`protocol`] | how the command line reaches the daemon |
//! | [`clock`] | CLOCK_BOOTTIME, and a timer on it |
//! | [`netns`], `ethtool` | the two small places with `unsafe` |
#![deny(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod config;
pub mod control_socket;
mod ethtool;
mod log;
pub mod net;
pub mod netns;
pub mod pki;
pub mod placeholder;
pub mod protocol;
pub mod shell;
