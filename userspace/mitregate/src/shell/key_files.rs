//! Keys of all SAs in files that Wireshark reads, for an operator who asked for them
//! (`daemon.save_keys`): whoever has them reads the traffic.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mitregate_control::LoggedKeys;
use mitregate_esp::CipherSuite;
use mitregate_wire::esp::Spi;
use zeroize::Zeroizing;

/// As they are called in a Wireshark profile.
const IKE: &str = "ikev2_decryption_table";
const ESP: &str = "esp_sa";

/// Both files, added to.
pub struct KeyFiles {
    folder: PathBuf,
    ike: File,
    esp: File,
    failed: bool,
}

impl KeyFiles {
    /// Makes the folder and the files where they are missing. An error when somebody else could read
    /// them, or when one is a symbolic link.
    pub fn open(folder: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("daemon.save_keys: cannot make {}", folder.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
            ike: open(&folder.join(IKE))?,
            esp: open(&folder.join(ESP))?,
            failed: false,
        })
    }

    /// Adds keys. A full disk costs keys, not tunnels.
    pub fn save(&mut self, keys: &[LoggedKeys]) {
        for keys in keys {
            let written = match keys {
                LoggedKeys::Ike(line) => {
                    let line = Zeroizing::new(format!("{}\n", line.as_str()));
                    self.ike.write_all(line.as_bytes())
                }
                LoggedKeys::Esp {
                    spi_in,
                    spi_out,
                    suite,
                    key_in,
                    key_out,
                    ..
                } => [(spi_in, key_in), (spi_out, key_out)]
                    .into_iter()
                    .try_for_each(|(spi, key)| {
                        let line = esp_line(*spi, *suite, key);
                        self.esp.write_all(line.as_bytes())
                    }),
            };
            match written {
                Ok(()) => self.failed = false,
                Err(_) if self.failed => {}
                Err(error) => {
                    self.failed = true;
                    let folder = self.folder.display();
                    tracing::warn!(%folder, %error, "cannot save keys: a capture will lack them");
                }
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let shown = path.display();
    let file = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .with_context(|| format!("daemon.save_keys: cannot write {shown}"))?;
    let mode = file.metadata()?.mode();
    ensure!(
        mode & 0o077 == 0,
        "daemon.save_keys: others may read {shown}: `chmod 600` it, or remove it"
    );
    Ok(file)
}

/// One direction, for either family of outer addresses. The ICV is part of the AEAD.
fn esp_line(spi: Spi, suite: CipherSuite, key: &[u8]) -> Zeroizing<String> {
    let cipher = match suite {
        CipherSuite::Aes128Gcm16 | CipherSuite::Aes256Gcm16 => {
            "AES-GCM with 16 octet ICV [RFC4106]"
        }
        CipherSuite::ChaCha20Poly1305 => "ChaCha20 with Poly1305 [RFC7634]",
    };
    let mut line = Zeroizing::new(String::with_capacity(512));
    for family in ["IPv4", "IPv6"] {
        let spi = spi.get();
        let _ = write!(
            line,
            "\"{family}\",\"*\",\"*\",\"0x{spi:08x}\",\"{cipher}\",\"0x"
        );
        for byte in key {
            let _ = write!(line, "{byte:02x}");
        }
        line.push_str("\",\"NULL\",\"\"\n");
    }
    line
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn esp() -> LoggedKeys {
        LoggedKeys::Esp {
            spi_in: Spi::new(0x0102_0304).unwrap(),
            spi_out: Spi::new(0x0a0b_0c0d).unwrap(),
            suite: CipherSuite::Aes128Gcm16,
            esn: false,
            key_in: Zeroizing::new(vec![0x11; 20]),
            key_out: Zeroizing::new(vec![0x22; 20]),
        }
    }

    #[test]
    fn both_directions_are_added_and_only_we_can_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("keys");
        for _ in 0..2 {
            let mut files = KeyFiles::open(&folder).unwrap();
            files.save(&[LoggedKeys::Ike(Zeroizing::new("a line".into())), esp()]);
        }
        let text = fs::read_to_string(folder.join(ESP)).unwrap();
        assert_eq!(text.lines().count(), 8);
        assert!(text.contains(&format!(
            "\"0x01020304\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x{}\"",
            "11".repeat(20)
        )));
        let text = fs::read_to_string(folder.join(IKE)).unwrap();
        assert_eq!(text, "a line\na line\n");
        for name in [IKE, ESP] {
            let mode = fs::metadata(folder.join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_that_others_read_or_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(IKE);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(KeyFiles::open(dir.path()).is_err());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(KeyFiles::open(dir.path()).is_err());
    }
}
