//! Pre-shared keys: from a file, from systemd, or (in a private file) from the configuration.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path};

use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

/// No pre-shared key is longer; keeps a mistaken path (/dev/zero) from filling the memory.
const MAX_SECRET: usize = 4096;
/// An RSA key of 8192 bits in PEM has less than 7 KiB.
const MAX_PRIVATE_KEY: usize = 16 * 1024;

/// A secret as the configuration holds it: wiped when dropped, and never shown.
pub struct InlineSecret(Zeroizing<String>);

impl InlineSecret {
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for InlineSecret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl std::fmt::Debug for InlineSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// The bytes that a text stands for, as in swanctl: `0x` hexadecimal, `0s` Base64, else itself.
pub fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let bytes = if let Some(hex) = text.strip_prefix("0x") {
        decode_hex(hex).ok_or("after 0x, pairs of hexadecimal digits are expected")?
    } else if let Some(base64) = text.strip_prefix("0s") {
        decode_base64(base64).ok_or("after 0s, Base64 is expected")?
    } else {
        Zeroizing::new(text.as_bytes().to_vec())
    };
    if bytes.is_empty() {
        return Err("is empty".into());
    }
    Ok(bytes)
}

/// A secret from a file of its own; one line end at the end is not part of it.
pub fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = open(path)?;
    refuse_if_shared(&file, path)?;
    read_secret(file, path)
}

/// All bytes of a file that nobody else can read: a private key.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = open(path)?;
    refuse_if_shared(&file, path)?;
    read_all(file, path, MAX_PRIVATE_KEY)
}

/// All bytes of a file, at most `max`.
pub fn read_public(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    read_all(open(path)?, path, max)
}

fn open(path: &Path) -> Result<File, String> {
    let shown = path.display();
    // Non-blocking: a FIFO without a writer is refused below, not waited for.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    let metadata = file
        .metadata()
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("{shown} is not a regular file"));
    }
    Ok(file)
}

fn refuse_if_shared(file: &File, path: &Path) -> Result<(), String> {
    let shown = path.display();
    let metadata = file
        .metadata()
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    match others_can_read(&metadata) {
        Some(who) => Err(format!("{shown} is readable by {who}: `chmod 600 {shown}`")),
        None => Ok(()),
    }
}

/// A credential that systemd passed (`LoadCredential=` or `LoadCredentialEncrypted=`).
pub fn read_credential(
    name: &str,
    directory: Option<OsString>,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let directory = directory.ok_or_else(|| {
        format!(
            "the environment has no CREDENTIALS_DIRECTORY: start the daemon by systemd with \
             LoadCredential={name}:PATH, or use secret_file"
        )
    })?;
    let mut components = Path::new(name).components();
    let plain = matches!(components.next(), Some(Component::Normal(_)));
    if !plain || components.next().is_some() {
        return Err(format!(
            "{name:?} is not the name of a credential (no path)"
        ));
    }
    // Its access is systemd's business: the directory is private to the service.
    let path = Path::new(&directory).join(name);
    let file = File::open(&path)
        .map_err(|error| format!("no credential {name} ({}): {error}", path.display()))?;
    read_secret(file, &path)
}

fn read_secret(file: File, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let shown = path.display();
    let mut bytes = read_all(file, path, MAX_SECRET)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => decode(text).map_err(|error| format!("{shown} {error}")),
        Err(_) => Ok(bytes),
    }
}

fn read_all(file: File, path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    let shown = path.display();
    // All room at once: growing would leave copies behind.
    let room = file.metadata().map_or(max, |metadata| {
        usize::try_from(metadata.len()).unwrap_or(max)
    });
    let mut bytes = Zeroizing::new(Vec::with_capacity(room.min(max) + 2));
    file.take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    if bytes.len() > max {
        return Err(format!("{shown} is longer than {max} bytes"));
    }
    Ok(bytes)
}

/// Who besides the owner can read a file, if anybody.
pub fn others_can_read(metadata: &Metadata) -> Option<&'static str> {
    match metadata.mode() {
        mode if mode & 0o004 != 0 => Some("everybody"),
        mode if mode & 0o040 != 0 => Some("its group"),
        _ => None,
    }
}

fn decode_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits.chunks_exact(2) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        bytes.push(u8::try_from(high << 4 | low).ok()?);
    }
    Some(bytes)
}

/// RFC 4648 §4, padding optional.
fn decode_base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() * 3 / 4 + 3));
    let mut group = 0u32;
    let mut bits = 0;
    for symbol in text.bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        group = group << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(group >> bits & 0xff).ok()?);
        }
    }
    let leftover_is_zero = group & ((1 << bits) - 1) == 0;
    group.zeroize();
    (bits < 6 && leftover_is_zero).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn decoded(text: &str) -> Result<Vec<u8>, String> {
        decode(text).map(|bytes| bytes.to_vec())
    }

    #[test]
    fn forms_of_a_secret() {
        assert_eq!(decoded("swordfish"), Ok(b"swordfish".to_vec()));
        assert_eq!(decoded("0x00fFa0"), Ok(vec![0, 0xff, 0xa0]));
        // RFC 4648 §10
        assert_eq!(decoded("0sZg=="), Ok(b"f".to_vec()));
        assert_eq!(decoded("0sZm8="), Ok(b"fo".to_vec()));
        assert_eq!(decoded("0sZm9vYmFy"), Ok(b"foobar".to_vec()));
        for wrong in ["", "0x", "0x1", "0xgg", "0s", "0sZ", "0s*", "0sZh"] {
            assert!(decoded(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secret_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("psk");
        let set_mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        std::fs::write(&path, "swordfish\n").unwrap();
        set_mode(0o600);
        assert_eq!(read_file(&path).unwrap().as_slice(), b"swordfish");
        set_mode(0o640);
        assert!(
            read_file(&path)
                .unwrap_err()
                .contains("readable by its group")
        );
        set_mode(0o604);
        assert!(read_file(&path).unwrap_err().contains("chmod 600"));
        set_mode(0o600);
        std::fs::write(&path, vec![b'x'; 5000]).unwrap();
        assert!(read_file(&path).unwrap_err().contains("longer than"));
        std::fs::write(&path, "\n").unwrap();
        assert!(read_file(&path).unwrap_err().contains("is empty"));
        assert!(
            read_file(dir.path())
                .unwrap_err()
                .contains("not a regular file")
        );
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        assert!(read_file(&fifo).unwrap_err().contains("not a regular file"));
        assert!(
            read_file(&dir.path().join("none"))
                .unwrap_err()
                .contains("cannot read")
        );
    }

    #[test]
    fn credentials() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("psk"), [0xff, 0xfe, 1]).unwrap();
        let directory = Some(dir.path().as_os_str().to_owned());
        assert_eq!(
            read_credential("psk", directory.clone())
                .unwrap()
                .as_slice(),
            [0xff, 0xfe, 1]
        );
        assert!(
            read_credential("psk", None)
                .unwrap_err()
                .contains("LoadCredential=psk")
        );
        for path in ["../psk", "/etc/passwd", "", "a/b"] {
            assert!(
                read_credential(path, directory.clone())
                    .unwrap_err()
                    .contains("no path")
            );
        }
    }

    #[test]
    fn a_secret_has_no_debug_text() {
        let secret = InlineSecret(Zeroizing::new("swordfish".into()));
        assert!(!format!("{secret:?}").contains("swordfish"));
    }
}
