//! The configuration file.

pub mod error;
pub mod locate;
pub mod secret;
pub mod units;
