//! The eBPF objects: which toolchain builds them, and how.

use anyhow::{Result, bail};

use crate::setup::Package;

/// The release that reads the bitcode of the toolchains below.
pub const BPF_LINKER: &str = "0.10.3";

/// The toolchain that builds for `bpfel-unknown-none`.
pub struct Toolchain;

impl Toolchain {
    /// Which, and why.
    pub fn describe(&self) -> String {
        String::new()
    }
}

/// Looks only; installs nothing.
pub fn choose() -> Result<Toolchain> {
    bail!("no toolchain builds for bpfel-unknown-none yet")
}

/// What the chosen path needs by apt.
pub fn packages() -> &'static [Package] {
    &[]
}

/// After apt: what the chosen path needs by rustup.
pub fn prepare() -> Result<()> {
    Ok(())
}

/// Both objects, into `target/ebpf/`.
pub fn build() -> Result<()> {
    choose().map(drop)
}
