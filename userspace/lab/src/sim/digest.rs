//! The trace in one number: two runs are the same if theirs are.

use sha2::{Digest as _, Sha256};

/// Of all packets with their times, what came out and what was logged.
#[derive(Default, Clone)]
pub struct Digest(Sha256);

impl Digest {
    /// Takes some bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes.len().to_be_bytes());
        self.0.update(bytes);
    }

    /// Takes a number.
    pub fn number(&mut self, n: u128) {
        self.0.update(n.to_be_bytes());
    }

    /// So far, in hexadecimal.
    #[must_use]
    pub fn hex(&self) -> String {
        let bytes = self.0.clone().finalize();
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}
