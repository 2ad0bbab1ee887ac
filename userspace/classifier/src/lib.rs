//! Loads, attaches, configures and reads the XDP classifier.
//!
//! [`Classifier::load_and_attach`] works on the *calling thread's* network namespace: enter it
//! with `setns` first. The program stays attached as long as the [`Classifier`] lives, or, with
//! [`LoadConfig::pin`], until the pins are removed.
#![forbid(unsafe_code)]

mod counters;
mod error;
mod loader;
mod log;
pub mod object;
pub mod pin;

pub use counters::{Count, Counters};
pub use error::{Error, Missing};
pub use loader::{Classifier, LoadConfig, Mode, ModeRequest};
pub use mitregate_ebpf_common::{MAX_ADDRESSES, MAX_QUEUES, Role, Verdict};
