//! The keys of a run, and opening packets with them: by code of its own, beside the code under test.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use mitregate_control::LoggedKeys;
use mitregate_esp::CipherSuite;
use mitregate_wire::ike::{
    HEADER_LEN, Header, Message, PAYLOAD_HEADER_LEN, Payload, parse_payloads,
};

const SALT: usize = 4;
const IV: usize = 8;

/// An AEAD's key with its salt, as IKE and ESP both use it (RFC 4106 §4, RFC 5282 §4, RFC 7634 §2).
pub struct AeadKey {
    key: LessSafeKey,
    salt: [u8; SALT],
    /// Key and salt, for files that an analyser reads, and to tell keys apart.
    pub bytes: Vec<u8>,
}

impl AeadKey {
    fn new(suite: CipherSuite, bytes: &[u8]) -> Option<Self> {
        let algorithm = match suite {
            CipherSuite::Aes128Gcm16 => &AES_128_GCM,
            CipherSuite::Aes256Gcm16 => &AES_256_GCM,
            CipherSuite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let (key, salt) = bytes.split_last_chunk::<SALT>()?;
        Some(Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?),
            salt: *salt,
            bytes: bytes.to_vec(),
        })
    }

    /// `body` is IV, ciphertext and ICV.
    fn open(&self, aad: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let (iv, text) = body.split_first_chunk::<IV>()?;
        let mut nonce = [0; SALT + IV];
        nonce[..SALT].copy_from_slice(&self.salt);
        nonce[SALT..].copy_from_slice(iv);
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let len = self
            .key
            .open_in_place(nonce, Aad::from(aad), &mut text)
            .ok()?
            .len();
        text.truncate(len);
        Some(text)
    }
}

/// What was inside an ESP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Low half of the sequence number, as it shows.
    pub sequence: u32,
    /// The IV: with the key, the nonce.
    pub iv: u64,
    /// 4 IPv4, 144 ESP Echo.
    pub next_header: u8,
    /// Padding stripped.
    pub inner: Vec<u8>,
}

/// One direction of a CHILD_SA.
pub struct EspKey {
    /// In the packets.
    pub spi: u32,
    /// The cipher.
    pub suite: CipherSuite,
    key: AeadKey,
    esn: bool,
}

impl EspKey {
    /// Key and salt.
    pub fn bytes(&self) -> &[u8] {
        &self.key.bytes
    }

    /// Opens a whole ESP packet of this SA. No run sends 2^32 packets on one SA, so that the upper half
    /// of an extended sequence number is 0.
    pub fn open(&self, packet: &[u8]) -> Option<Opened> {
        let (header, body) = packet.split_first_chunk::<8>()?;
        let [spi, sequence] = [0, 4].map(|at| word(&header[at..]));
        let mut aad = Vec::with_capacity(12);
        aad.extend_from_slice(&header[..4]);
        if self.esn {
            aad.extend_from_slice(&[0; 4]);
        }
        aad.extend_from_slice(&header[4..]);
        let mut inner = self.key.open(&aad, body)?;
        let next_header = inner.pop()?;
        let padding = usize::from(inner.pop()?);
        inner.truncate(inner.len().checked_sub(padding)?);
        let iv = u64::from_be_bytes(*body.first_chunk()?);
        (spi == self.spi).then_some(Opened {
            sequence,
            iv,
            next_header,
            inner,
        })
    }
}

/// A CHILD_SA as one host sees it.
pub struct EspPair {
    /// What it receives with.
    pub inbound: EspKey,
    /// What it sends with.
    pub outbound: EspKey,
}

/// The keys of one IKE SA.
struct IkeKeys {
    line: String,
    initiator: AeadKey,
    responder: AeadKey,
}

/// All that was logged.
#[derive(Default)]
pub struct KeyRing {
    /// By both SPIs; more than one line where the keys were replaced under way (RFC 9370).
    ike: BTreeMap<(u64, u64), Vec<IkeKeys>>,
    /// Lines whose cipher this cannot open.
    unknown: BTreeMap<(u64, u64), Vec<String>>,
    /// In the order in which they were made: host, pair.
    pub esp: Vec<(usize, EspPair)>,
}

impl KeyRing {
    /// Takes what a host logged.
    pub fn add(&mut self, host: usize, keys: &LoggedKeys) {
        match keys {
            LoggedKeys::Ike(line) => self.add_ike(line),
            LoggedKeys::Esp {
                spi_in,
                spi_out,
                suite,
                esn,
                key_in,
                key_out,
            } => {
                let side = |spi: u32, bytes: &[u8]| {
                    Some(EspKey {
                        spi,
                        suite: *suite,
                        key: AeadKey::new(*suite, bytes)?,
                        esn: *esn,
                    })
                };
                if let (Some(inbound), Some(outbound)) =
                    (side(spi_in.get(), key_in), side(spi_out.get(), key_out))
                {
                    self.esp.push((host, EspPair { inbound, outbound }));
                }
            }
        }
    }

    fn add_ike(&mut self, line: &str) {
        let fields: Vec<&str> = line.split(',').collect();
        let [spi_i, spi_r, key_i, key_r, name, ..] = fields.as_slice() else {
            return;
        };
        let (Some(spi_i), Some(spi_r)) = (hex64(spi_i), hex64(spi_r)) else {
            return;
        };
        let suite = if name.contains("AES-GCM-128 with 16") {
            Some(CipherSuite::Aes128Gcm16)
        } else if name.contains("AES-GCM-256 with 16") {
            Some(CipherSuite::Aes256Gcm16)
        } else if name.contains("ChaCha20") {
            Some(CipherSuite::ChaCha20Poly1305)
        } else {
            None
        };
        let key = |text| AeadKey::new(suite?, &hex(text)?);
        let at = (spi_i, spi_r);
        match (key(key_i), key(key_r)) {
            (Some(initiator), Some(responder)) => {
                let list = self.ike.entry(at).or_default();
                if list.iter().all(|keys| keys.line != line) {
                    list.push(IkeKeys {
                        line: line.to_owned(),
                        initiator,
                        responder,
                    });
                }
            }
            _ => {
                let list = self.unknown.entry(at).or_default();
                if list.iter().all(|known| known != line) {
                    list.push(line.to_owned());
                }
            }
        }
    }

    /// Lines for Wireshark's `ikev2_decryption_table`: the last of each IKE SA, for it takes one.
    pub fn ike_lines(&self) -> impl Iterator<Item = &str> {
        let known = self.ike.values().filter_map(|list| list.last());
        let unknown = self.unknown.values().filter_map(|list| list.last());
        known
            .map(|keys| keys.line.as_str())
            .chain(unknown.map(String::as_str))
    }

    /// Whether a key is new to everybody: two hosts each log one for the same SA.
    #[must_use]
    pub fn knows(&self, host: usize, key: &[u8]) -> bool {
        self.esp.iter().any(|(owner, pair)| {
            *owner == host && (pair.outbound.bytes() == key || pair.inbound.bytes() == key)
        })
    }

    /// The payloads inside SK; `None` without the key, or for what is forged.
    #[must_use]
    pub fn open_ike(&self, message: &[u8]) -> Option<Vec<Payload>> {
        let header = Header::parse(message).ok()?;
        let spis = (
            u64::from_be_bytes(header.spi_i.0),
            u64::from_be_bytes(header.spi_r.0),
        );
        let outer = Message::parse(message).ok()?;
        let Some(Payload::Encrypted { first, body }) = outer.payloads.last() else {
            return None;
        };
        let aad = message.get(..message.len().checked_sub(body.len())?)?;
        debug_assert!(aad.len() >= HEADER_LEN + PAYLOAD_HEADER_LEN);
        let mut plain = self.open_with_any(spis, header.flags.initiator, aad, body)?;
        let padding = usize::from(plain.pop()?);
        plain.truncate(plain.len().checked_sub(padding)?);
        parse_payloads(*first, &plain).ok()
    }

    fn open_with_any(
        &self,
        spis: (u64, u64),
        by_initiator: bool,
        aad: &[u8],
        body: &[u8],
    ) -> Option<Vec<u8>> {
        self.ike.get(&spis)?.iter().rev().find_map(|keys| {
            let key = if by_initiator {
                &keys.initiator
            } else {
                &keys.responder
            };
            key.open(aad, body)
        })
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |b| u32::from_be_bytes(*b))
}

fn hex64(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    digits.chunks(2).map(pair).collect()
}
