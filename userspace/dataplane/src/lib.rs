//! Ports, the worker loop and the per-batch packet pipeline.
//!
//! ```text
//! outer port → classify → ESP → SPI look-up → open in place → selectors, ECN → inner port
//!                       → IKE, keepalives, ICMP errors → event ring → control
//! inner port → policy look-up → the tunnel's active epoch → seal in place → outer header → outer port
//!                             → none: the tunnel's hold queue
//! ```
//!
//! A frame is moved, never copied, while both ports share one UMEM. Each packet ends in exactly
//! one [`Fate`]. A worker owns all that its packets touch: no locks, no allocation.
#![forbid(unsafe_code)]

pub mod buf;
pub mod command;
pub mod event;
pub mod fate;
mod frames;
mod handle;
pub mod outer;
mod packet;
pub mod pipeline;
mod selectors;
mod spi;
pub mod tables;
pub mod worker;

pub use buf::{ControlBuf, ControlBufs};
pub use command::Command;
pub use event::{Event, Refusal, Returned, Stopped};
pub use fate::{Fate, Fates};
pub use frames::Memory;
pub use handle::{Vitals, WorkerHandle, spawn, unattended};
pub use outer::{DfPolicy, DscpPolicy, OuterAddrs, OuterHeader, UdpPorts};
pub use pipeline::{EventSink, Hop, InnerLink, Pipeline, PipelineConfig};
pub use selectors::Selectors;
pub use tables::{Epoch, EpochConfig, IcmpSecret, Limits, Tunnel};
pub use worker::{Census, PortSet, Worker, WorkerConfig, boottime};
