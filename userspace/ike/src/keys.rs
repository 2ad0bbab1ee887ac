//! The key schedule (RFC 7296 §2.13–§2.17) and what is authenticated with it.

use mitregate_esp::{CipherSuite, SaKey};
use mitregate_wire::ike::IkeSpi;
use zeroize::Zeroizing;

use crate::crypto::{Forged, Secret, SkKey};
use crate::proposal::{IkeSuite, Prf};

/// RFC 7296 §2.15: keeps a shared key of the user's from being used raw.
const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// Both nonces of an exchange.
#[derive(Clone)]
pub(crate) struct Nonces {
    pub(crate) i: Vec<u8>,
    pub(crate) r: Vec<u8>,
}

/// Which end of the IKE SA, counted by who sent its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Initiator,
    Responder,
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// The secrets of one IKE SA. An AEAD has no SK_ai and SK_ar (RFC 5282 §7.1).
pub(crate) struct KeySchedule {
    prf: Prf,
    sk_d: Secret,
    sk_ei: Secret,
    sk_er: Secret,
    sk_pi: Secret,
    sk_pr: Secret,
}

impl KeySchedule {
    /// RFC 7296 §2.14, from the shared secret of IKE_SA_INIT.
    pub(crate) fn derive(
        suite: IkeSuite,
        shared: &[u8],
        nonces: &Nonces,
        spi_i: IkeSpi,
        spi_r: IkeSpi,
    ) -> Self {
        let prf = suite.prf;
        let skeyseed = prf.compute(&[nonces.i.as_slice(), &nonces.r].concat(), &[shared]);
        let seed: [&[u8]; 4] = [&nonces.i, &nonces.r, &spi_i.0, &spi_r.0];
        let (p, e) = (prf.len(), suite.cipher.keymat_len());
        let stream = prf.plus(&skeyseed, &seed, 3 * p + 2 * e);
        let part = |start: usize, len: usize| Secret::new(stream[start..start + len].to_vec());
        Self {
            prf,
            sk_d: part(0, p),
            sk_ei: part(p, e),
            sk_er: part(p + e, e),
            sk_pi: part(p + 2 * e, p),
            sk_pr: part(2 * p + 2 * e, p),
        }
    }

    /// SK_ei or SK_er: key and salt of what `side` sends.
    pub(crate) const fn sk_e(&self, side: Side) -> &Secret {
        match side {
            Side::Initiator => &self.sk_ei,
            Side::Responder => &self.sk_er,
        }
    }

    /// The AUTH payload's data of `side` for a shared key, RFC 7296 §2.15: `message` is its own
    /// IKE_SA_INIT message, `nonce` the *other* side's, `id` the body of its ID payload.
    pub(crate) fn psk_auth(
        &self,
        side: Side,
        psk: &[u8],
        message: &[u8],
        nonce: &[u8],
        id: &[u8],
    ) -> Secret {
        let sk_p = match side {
            Side::Initiator => &self.sk_pi,
            Side::Responder => &self.sk_pr,
        };
        let maced_id = self.prf.compute(sk_p, &[id]);
        let key = self.prf.compute(psk, &[KEY_PAD]);
        self.prf.compute(&key, &[message, nonce, &maced_id])
    }

    /// KEYMAT of a CHILD_SA, RFC 7296 §2.17: the key of what the initiator of the *exchange*
    /// sends, then of what its responder sends. `shared` is that of a key exchange of its own.
    pub(crate) fn child(
        &self,
        cipher: CipherSuite,
        shared: Option<&[u8]>,
        nonces: &Nonces,
    ) -> Option<(SaKey, SaKey)> {
        let len = cipher.keymat_len();
        let seed: [&[u8]; 3] = [shared.unwrap_or_default(), &nonces.i, &nonces.r];
        let keymat = self.prf.plus(&self.sk_d, &seed, 2 * len);
        let (i, r) = keymat.split_at_checked(len)?;
        let key = |bytes| SaKey::from_keymat(cipher, bytes).ok();
        Some((key(i)?, key(r)?))
    }
}

/// The key schedule with its two ciphers set up for one side.
pub(crate) struct Keys {
    pub(crate) schedule: KeySchedule,
    pub(crate) suite: IkeSuite,
    seal: SkKey,
    open: SkKey,
}

impl Keys {
    /// `None` would mean that a cipher does not take keys of its own length.
    pub(crate) fn new(schedule: KeySchedule, suite: IkeSuite, side: Side) -> Option<Self> {
        Some(Self {
            seal: SkKey::new(suite.cipher, schedule.sk_e(side))?,
            open: SkKey::new(suite.cipher, schedule.sk_e(side.other()))?,
            schedule,
            suite,
        })
    }

    /// See [`SkKey::seal`].
    pub(crate) fn seal(&mut self, message: &mut Vec<u8>, plaintext: Secret) -> Option<()> {
        self.seal.seal(message, plaintext)
    }

    /// See [`SkKey::open`].
    pub(crate) fn open(&self, aad: &[u8], body: &[u8]) -> Result<Secret, Forged> {
        self.open.open(aad, body)
    }
}

/// Wireshark's names for the ciphers of an IKE SA.
const fn wireshark_name(cipher: CipherSuite) -> &'static str {
    match cipher {
        CipherSuite::Aes128Gcm16 => "AES-GCM-128 with 16 octet ICV [RFC5282]",
        CipherSuite::Aes256Gcm16 => "AES-GCM-256 with 16 octet ICV [RFC5282]",
        CipherSuite::ChaCha20Poly1305 => "ChaCha20/Poly1305 [RFC7634]",
    }
}

impl Keys {
    /// One line of Wireshark's `ikev2_decryption_table`.
    pub(crate) fn wireshark(&self, spi_i: IkeSpi, spi_r: IkeSpi) -> Zeroizing<String> {
        let cipher = wireshark_name(self.suite.cipher);
        let mut line = Zeroizing::new(String::with_capacity(512));
        line.push_str(&format!("{spi_i},{spi_r}"));
        for side in [Side::Initiator, Side::Responder] {
            line.push(',');
            for byte in self.schedule.sk_e(side).iter() {
                let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
                line.push(digit(byte >> 4));
                line.push(digit(byte & 15));
            }
        }
        line.push_str(&format!(",\"{cipher}\",,,\"NONE [RFC4306]\""));
        line
    }
}
