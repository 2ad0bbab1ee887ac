//! Clients, a NAT, a server and a bad channel between them, explored to the last state.
//!
//! The ends are [`mitregate_gate::Gate`] itself, so what is checked is the code that runs. Around it the
//! model puts an IKE that makes and deletes SAs ([`world`]), VPN Masquerade without its clock ([`nat`]) and a
//! channel that loses, doubles and reorders. `docs/model.md` says what is checked, and what is not.

#![forbid(unsafe_code)]
// A tool for people at a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

pub mod canon;
pub mod command;
pub mod config;
pub mod diagram;
pub mod explore;
pub mod fair;
pub mod host;
pub mod nat;
pub mod world;
