//! PEM (RFC 7468), as OpenSSL and others write it: text around the sections is skipped.

use zeroize::{Zeroize, Zeroizing};

/// One section of a PEM file. It may be a private key: its bytes are wiped.
pub struct Section {
    /// What follows `BEGIN`, such as `CERTIFICATE`.
    pub label: String,
    /// The DER.
    pub der: Zeroizing<Vec<u8>>,
}

/// Why a text is no PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No line that ends a section.
    #[error("a section that begins does not end")]
    NoEnd,
    /// Base64 that is none.
    #[error("a section is not Base64")]
    NotBase64,
    /// A key that only a password opens.
    #[error(
        "the private key is encrypted: decrypt it into a file of mode 0600 \
         (`openssl pkey -in OLD -out NEW`)"
    )]
    Encrypted,
}

/// All sections; none for a text without any, which may be DER.
pub fn sections(bytes: &[u8]) -> Result<Vec<Section>, PemError> {
    let mut sections = Vec::new();
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    while let Some(line) = lines.next() {
        let Some(label) = label(line, b"-----BEGIN ") else {
            continue;
        };
        if label.contains("ENCRYPTED") {
            return Err(PemError::Encrypted);
        }
        let mut decoder = Decoder::new(bytes.len());
        loop {
            let line = lines.next().ok_or(PemError::NoEnd)?;
            if self::label(line, b"-----END ").is_some_and(|end| end == label) {
                break;
            }
            // RFC 1421 headers, as OpenSSL's traditional keys have them when they are encrypted.
            if line.starts_with(b"Proc-Type:") {
                return Err(PemError::Encrypted);
            }
            decoder.take(line).ok_or(PemError::NotBase64)?;
        }
        let der = decoder.finish().ok_or(PemError::NotBase64)?;
        sections.push(Section { label, der });
    }
    Ok(sections)
}

fn label(line: &[u8], start: &[u8]) -> Option<String> {
    let label = line.strip_prefix(start)?.strip_suffix(b"-----")?;
    core::str::from_utf8(label).ok().map(str::to_owned)
}

/// RFC 4648 §4.
struct Decoder {
    out: Zeroizing<Vec<u8>>,
    group: u32,
    bits: u32,
    padding: u32,
}

impl Decoder {
    /// With all room at once: growing would leave copies behind.
    fn new(len: usize) -> Self {
        Self {
            out: Zeroizing::new(Vec::with_capacity(len / 4 * 3 + 3)),
            group: 0,
            bits: 0,
            padding: 0,
        }
    }

    fn take(&mut self, line: &[u8]) -> Option<()> {
        for symbol in line {
            let value = match symbol {
                b'=' => {
                    self.padding += 1;
                    continue;
                }
                b'A'..=b'Z' => symbol - b'A',
                b'a'..=b'z' => symbol - b'a' + 26,
                b'0'..=b'9' => symbol - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            if self.padding > 0 {
                return None;
            }
            self.group = self.group << 6 | u32::from(value);
            self.bits += 6;
            if self.bits >= 8 {
                self.bits -= 8;
                self.out
                    .push((self.group >> self.bits & 0xff).try_into().ok()?);
            }
        }
        Some(())
    }

    fn finish(mut self) -> Option<Zeroizing<Vec<u8>>> {
        let rest = self.group & ((1 << self.bits) - 1);
        let fits = (self.bits, self.padding) == (0, 0)
            || self.bits == 4 && self.padding == 2
            || self.bits == 2 && self.padding == 1;
        self.group.zeroize();
        (fits && rest == 0).then(|| core::mem::take(&mut self.out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_between_other_text() {
        let text = "Certificate:\n  Data: x\n-----BEGIN CERTIFICATE-----\r\nZm9v\r\nYg==\r\n\
                    -----END CERTIFICATE-----\n\n-----BEGIN X509 CRL-----\nZm8=\n\
                    -----END X509 CRL-----";
        let found = sections(text.as_bytes()).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|section| (section.label.as_str(), section.der.as_slice()))
            .collect();
        assert_eq!(
            found,
            [("CERTIFICATE", &b"foob"[..]), ("X509 CRL", &b"fo"[..])]
        );
        assert!(sections(b"\x30\x82\x01\x02").unwrap().is_empty());
    }

    #[test]
    fn broken_sections() {
        let of = |body: &str| {
            let text = format!("-----BEGIN X-----\n{body}\n-----END X-----\n");
            sections(text.as_bytes()).err()
        };
        assert_eq!(of("Zg=="), None);
        for body in ["Zg", "Zg=", "Z", "Zh==", "Zg==Zg==", "Z*=="] {
            assert_eq!(of(body), Some(PemError::NotBase64), "{body}");
        }
        let open = b"-----BEGIN X-----\nZg==\n-----END Y-----\n";
        assert_eq!(sections(open).err(), Some(PemError::NotBase64));
        assert_eq!(sections(&open[..22]).err(), Some(PemError::NoEnd));
        for text in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nZg==\n-----END ENCRYPTED PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
        ] {
            assert_eq!(sections(text.as_bytes()).err(), Some(PemError::Encrypted));
        }
    }
}
