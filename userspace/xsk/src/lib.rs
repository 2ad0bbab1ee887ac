//! AF_XDP sockets and the packet memory behind them.
//!
//! The one room with `unsafe`. What it gives to the others is safe: a [`Frame`] is the only
//! handle on one chunk of a [`Umem`], it is neither `Clone` nor `Copy`, and it ceases to exist
//! while the kernel (or a [`MemoryPeer`]) has the chunk. So whoever has a frame may read and write
//! its bytes, and nobody else can.
//!
//! ```text
//!                     ┌────────────── FramePool (one per worker, LIFO) ─────────────┐
//!              refill │                                                             │ reclaim
//!                     ▼                                                             │
//!   Port A: fill ─ kernel ─ rx ──► Frame ──► the worker ──► Frame ──► tx ─ kernel ─ completion :Port B
//! ```
//!
//! Ports that share a `Umem` pass frames to each other without a copy: what port B has sent comes
//! back through [`Port::reclaim`] into the pool, and from there [`Port::refill`] posts it to port A.
//!
//! | file | what |
//! |---|---|
//! | `umem` | the memory, and the ledger that says who has each chunk |
//! | `frame` | the token |
//! | `pool` | free frames of one worker, with a reserve for control packets |
//! | `ring` | single-producer single-consumer rings, the kernel's and ours |
//! | `port` | what the worker sees: [`Port`]; the four rings and their accounting |
//! | `socket` | an AF_XDP socket as a port: [`XskPort`] |
//! | `sys` | its system calls |
//! | `memory` | the same port without a kernel: [`MemoryPort`] |
//! | `error` | what went wrong, where, and what to do about it |

mod error;
mod frame;
mod memory;
mod pool;
mod port;
mod ring;
mod socket;
mod sys;
mod umem;

pub use error::{SocketError, Step, XskError};
pub use frame::Frame;
pub use memory::{MemoryPeer, MemoryPort};
pub use pool::FramePool;
pub use port::{Port, PortFrames, PortStats, RingSizes};
pub use socket::{BusyPoll, KernelStats, Mode, ModeRequest, XskConfig, XskPort};
pub use umem::{Census, Pages, Umem, UmemConfig};
