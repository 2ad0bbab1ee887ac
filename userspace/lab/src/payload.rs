//! What flows in the demo: random bytes with a marker that the leak check looks for.

use std::{
    fs::File,
    io::{BufWriter, Read, Write},
    path::Path,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// A marker stands at each multiple of this in the file.
pub const SPACING: usize = 128;
/// What iperf3 --repeating-payload sends: all digits, over and over.
pub const IPERF_PATTERN: &[u8] = b"0123456789012345";

const MARKER_BYTES: usize = 16;

/// 16 bytes, new in each run, that no other traffic can hold by chance.
pub fn new_marker() -> Result<[u8; MARKER_BYTES]> {
    let mut marker = [0; MARKER_BYTES];
    random()?.read_exact(&mut marker)?;
    Ok(marker)
}

/// The kernel's random source as a stream.
pub fn random() -> Result<File> {
    File::open("/dev/urandom").context("no random numbers")
}

/// As many random bytes in hexadecimal.
pub fn random_hex(bytes: usize) -> Result<String> {
    let mut buf = vec![0; bytes];
    random()?.read_exact(&mut buf)?;
    Ok(hex(&buf))
}

/// Two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Write a file of random bytes with markers; returns its SHA-256.
pub fn write_file(path: &Path, size: usize, marker: &[u8]) -> Result<String> {
    let mut random = random()?;
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut file = BufWriter::new(file);
    let mut digest = Sha256::new();
    let mut block = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let part = &mut block[..left.min(1 << 20)];
        random.read_exact(part)?;
        for place in part.chunks_exact_mut(SPACING) {
            place[..marker.len()].copy_from_slice(marker);
        }
        file.write_all(part)?;
        digest.update(&*part);
        left -= part.len();
    }
    file.flush()?;
    Ok(hex(&digest.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_the_file_shows_the_marker() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let marker = new_marker().unwrap();
        let sum = write_file(&path, 3 * SPACING + (1 << 20), &marker).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 3 * SPACING + (1 << 20));
        assert_eq!(sum, hex(&Sha256::digest(&bytes)));
        for window in bytes.windows(SPACING + MARKER_BYTES).step_by(97) {
            assert!(memchr::memmem::find(window, &marker).is_some());
        }
    }
}
