//! The Mitregate daemon and its command line: everything that touches the machine.

pub mod clock;
pub mod config;
mod ethtool;
pub mod net;
pub mod netns;
pub mod placeholder;
