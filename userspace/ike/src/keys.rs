//! The key schedule (RFC 7296 §2.13–§2.17) and what is authenticated with it.

use mitregate_esp::{CipherSuite, SaKey};
use mitregate_wire::ike::{IkeSpi, ParseError};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::crypto::{Forged, Secret, SkKey};
use crate::proposal::{AesBits, Group, IkeCipher, IkeSuite, Integrity, Prf};

/// RFC 7296 §2.15: keeps a shared key of the user's from being used raw.
const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// The Pad Length field at the end of the plaintext (RFC 7296 §3.14).
const PAD_LENGTH_LEN: usize = 1;

/// Both nonces of an exchange.
#[derive(Clone)]
pub(crate) struct Nonces {
    pub(crate) i: Vec<u8>,
    pub(crate) r: Vec<u8>,
}

impl Nonces {
    /// The lower one, octet by octet; where one ends, it is the lower (RFC 7296 §2.8.1).
    pub(crate) fn lowest(&self) -> &[u8] {
        self.i.as_slice().min(&self.r)
    }
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

/// The secrets of one IKE SA. An AEAD has no SK_ai and SK_ar (RFC 5282 §7.1): they are empty.
pub(crate) struct KeySchedule {
    prf: Prf,
    sk_d: Secret,
    sk_ai: Secret,
    sk_ar: Secret,
    sk_ei: Secret,
    sk_er: Secret,
    sk_pi: Secret,
    sk_pr: Secret,
    int_auth: IntAuth,
}

/// What AUTH covers of IKE_INTERMEDIATE, the messages of each side chained (RFC 9242 §3.3.2).
#[derive(Clone, Default)]
struct IntAuth {
    i: Secret,
    r: Secret,
    /// Exchanges that are over.
    count: u32,
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
        let key = [nonces.i.as_slice(), &nonces.r].concat();
        let skeyseed = suite.prf.compute(&key, &[shared]);
        Self::expand(suite, &skeyseed, nonces, spi_i, spi_r)
    }

    /// The next keys of the same IKE SA, after an additional key exchange gave `shared`
    /// (RFC 9370 §2.2.2).
    pub(crate) fn update(
        &self,
        suite: IkeSuite,
        shared: &[u8],
        nonces: &Nonces,
        spi_i: IkeSpi,
        spi_r: IkeSpi,
    ) -> Self {
        let parts: [&[u8]; 3] = [shared, &nonces.i, &nonces.r];
        let skeyseed = self.prf.compute(&self.sk_d, &parts);
        Self {
            int_auth: self.int_auth.clone(),
            ..Self::expand(suite, &skeyseed, nonces, spi_i, spi_r)
        }
    }

    /// The keys of a new IKE SA that replaces this one, `suite` and SPIs being the new one's
    /// (RFC 7296 §2.18, RFC 9370 §2.2.4): the PRF for SKEYSEED is the old one's.
    pub(crate) fn rekey(
        &self,
        suite: IkeSuite,
        shared: &SharedSecrets,
        nonces: &Nonces,
        spi_i: IkeSpi,
        spi_r: IkeSpi,
    ) -> Self {
        let skeyseed = self.prf.compute(&self.sk_d, &shared.seed(nonces));
        Self::expand(suite, &skeyseed, nonces, spi_i, spi_r)
    }

    /// The keys of a session that goes on with an earlier one, whose SK_d is `sk_d` (RFC 5723 §5.1).
    pub(crate) fn resume(
        suite: IkeSuite,
        sk_d: &[u8],
        nonces: &Nonces,
        spi_i: IkeSpi,
        spi_r: IkeSpi,
    ) -> Self {
        let parts: [&[u8]; 3] = [b"Resumption", &nonces.i, &nonces.r];
        let skeyseed = suite.prf.compute(sk_d, &parts);
        Self::expand(suite, &skeyseed, nonces, spi_i, spi_r)
    }

    /// SK_d: what further keys come from.
    pub(crate) const fn sk_d(&self) -> &Secret {
        &self.sk_d
    }

    fn expand(
        suite: IkeSuite,
        skeyseed: &[u8],
        nonces: &Nonces,
        spi_i: IkeSpi,
        spi_r: IkeSpi,
    ) -> Self {
        let (prf, cipher) = (suite.prf, suite.cipher);
        let seed: [&[u8]; 4] = [&nonces.i, &nonces.r, &spi_i.0, &spi_r.0];
        let (p, a, e) = (prf.len(), cipher.integrity_key_len(), cipher.key_len());
        let stream = prf.plus(skeyseed, &seed, 3 * p + 2 * a + 2 * e);
        let mut at = 0;
        let mut next = |len: usize| {
            at += len;
            Secret::new(stream[at - len..at].to_vec())
        };
        Self {
            prf,
            sk_d: next(p),
            sk_ai: next(a),
            sk_ar: next(a),
            sk_ei: next(e),
            sk_er: next(e),
            sk_pi: next(p),
            sk_pr: next(p),
            int_auth: IntAuth::default(),
        }
    }

    /// SK_ei or SK_er: what `side` encrypts with, an AEAD's salt included.
    pub(crate) const fn sk_e(&self, side: Side) -> &Secret {
        match side {
            Side::Initiator => &self.sk_ei,
            Side::Responder => &self.sk_er,
        }
    }

    /// SK_ai or SK_ar.
    pub(crate) const fn sk_a(&self, side: Side) -> &Secret {
        match side {
            Side::Initiator => &self.sk_ai,
            Side::Responder => &self.sk_ar,
        }
    }

    /// Takes in a message of IKE_INTERMEDIATE, with the keys that protect it: `clear` and `inner`
    /// are IntAuth_A and IntAuth_P (RFC 9242 §3.3.2). `side` sent it; a request comes from the
    /// initiator, and a response ends the exchange.
    pub(crate) fn cover(&mut self, side: Side, clear: &[u8], inner: &[u8]) {
        let (sk_p, chain) = match side {
            Side::Initiator => (&self.sk_pi, &mut self.int_auth.i),
            Side::Responder => (&self.sk_pr, &mut self.int_auth.r),
        };
        *chain = self.prf.compute(sk_p, &[chain.as_slice(), clear, inner]);
        self.int_auth.count += u32::from(side == Side::Responder);
    }

    /// How many exchanges of IKE_INTERMEDIATE are over.
    pub(crate) const fn intermediates(&self) -> u32 {
        self.int_auth.count
    }

    /// What `side` signs, RFC 7296 §2.15 "InitiatorSignedOctets" or "ResponderSignedOctets":
    /// `message` is its own IKE_SA_INIT message, `nonce` the *other* side's, `id` the body of its
    /// ID payload.
    pub(crate) fn signed_octets(
        &self,
        side: Side,
        message: &[u8],
        nonce: &[u8],
        id: &[u8],
    ) -> Secret {
        let sk_p = match side {
            Side::Initiator => &self.sk_pi,
            Side::Responder => &self.sk_pr,
        };
        let maced_id = self.prf.compute(sk_p, &[id]);
        let mut octets = [message, nonce, &maced_id].concat();
        // RFC 9242 §3.3.2: IntAuth_iN | IntAuth_rN | IKE_AUTH_MID.
        let IntAuth { i, r, count } = &self.int_auth;
        if *count > 0 {
            octets.extend_from_slice(i);
            octets.extend_from_slice(r);
            octets.extend_from_slice(&(count + 1).to_be_bytes());
        }
        Zeroizing::new(octets)
    }

    /// The AUTH payload's data of `side` in a resumed session, RFC 5723 §4.3.3.
    pub(crate) fn resumed_auth(&self, side: Side, octets: &[u8]) -> Secret {
        let sk_p = match side {
            Side::Initiator => &self.sk_pi,
            Side::Responder => &self.sk_pr,
        };
        self.prf.compute(sk_p, &[octets])
    }

    /// The AUTH payload's data for a shared key, RFC 7296 §2.15.
    pub(crate) fn psk_auth(&self, psk: &[u8], octets: &[u8]) -> Secret {
        let key = self.prf.compute(psk, &[KEY_PAD]);
        self.prf.compute(&key, &[octets])
    }

    /// KEYMAT of a CHILD_SA, RFC 7296 §2.17 and RFC 9370 §2.2.4: the key of what the initiator of
    /// the *exchange* sends, then of what its responder sends. `shared` is what its own key
    /// exchanges gave, if there were any.
    pub(crate) fn child(
        &self,
        cipher: CipherSuite,
        shared: &SharedSecrets,
        nonces: &Nonces,
    ) -> Option<(SaKey, SaKey)> {
        let len = cipher.keymat_len();
        let keymat = self.prf.plus(&self.sk_d, &shared.seed(nonces), 2 * len);
        let (i, r) = keymat.split_at_checked(len)?;
        let key = |bytes| SaKey::from_keymat(cipher, bytes).ok();
        Some((key(i)?, key(r)?))
    }
}

/// What the key exchanges of one CREATE_CHILD_SA gave: SK(0), and SK(1) to SK(n) of the additional
/// ones (RFC 9370 §2.2.4). Empty without any.
#[derive(Default)]
pub(crate) struct SharedSecrets(Vec<Secret>);

impl SharedSecrets {
    /// Takes in the next one.
    pub(crate) fn push(&mut self, secret: Secret) {
        self.0.push(secret);
    }

    /// SK(0) | Ni | Nr | SK(1) | … | SK(n).
    fn seed<'a>(&'a self, nonces: &'a Nonces) -> Vec<&'a [u8]> {
        let (first, rest) = self.0.split_at(self.0.len().min(1));
        let mut seed = first.iter().map(|s| s.as_slice()).collect::<Vec<_>>();
        seed.extend([nonces.i.as_slice(), &nonces.r]);
        seed.extend(rest.iter().map(|s| s.as_slice()));
        seed
    }
}

impl From<Option<Secret>> for SharedSecrets {
    fn from(first: Option<Secret>) -> Self {
        Self(first.into_iter().collect())
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
        let key = |side| SkKey::new(suite.cipher, schedule.sk_e(side), schedule.sk_a(side));
        Some(Self {
            seal: key(side)?,
            open: key(side.other())?,
            schedule,
            suite,
        })
    }

    /// The next keys of the same IKE SA, see [`KeySchedule::update`]; `None` as in [`Self::new`].
    pub(crate) fn update(
        &self,
        shared: &[u8],
        nonces: &Nonces,
        spi_i: IkeSpi,
        spi_r: IkeSpi,
        side: Side,
    ) -> Option<Self> {
        let schedule = self
            .schedule
            .update(self.suite, shared, nonces, spi_i, spi_r);
        Self::new(schedule, self.suite, side)
    }

    /// The method of the next additional key exchange before IKE_AUTH, if there is one
    /// (RFC 9370 §2.2.2).
    pub(crate) fn next_exchange(&self) -> Option<Group> {
        let done = usize::try_from(self.schedule.intermediates()).ok()?;
        self.suite.additional.groups().nth(done)
    }

    /// Length of what [`Self::seal`] appends for so many bytes: IV, ciphertext with padding, ICV.
    pub(crate) const fn sealed_len(&self, plaintext: usize) -> usize {
        self.suite.cipher.body_len(plaintext)
    }

    /// How many bytes may be sealed so that no more than `sealed` are appended.
    pub(crate) fn plaintext_len(&self, sealed: usize) -> usize {
        let most = sealed.saturating_sub(self.sealed_len(0));
        (0..=most)
            .rev()
            .find(|len| self.sealed_len(*len) <= sealed)
            .unwrap_or(0)
    }

    /// See [`SkKey::seal`].
    pub(crate) fn seal(
        &mut self,
        message: &mut Vec<u8>,
        plaintext: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Option<()> {
        self.seal.seal(message, plaintext, rng)
    }

    /// The plaintext of `body` (IV, ciphertext, ICV); the inner error says that whoever has the key
    /// padded it wrong.
    pub(crate) fn open(
        &self,
        aad: &[u8],
        body: &[u8],
    ) -> Result<Result<Secret, ParseError>, Forged> {
        self.open.open(aad, body).map(unpad)
    }
}

/// Takes the padding away, RFC 7296 §3.14.
fn unpad(mut plaintext: Secret) -> Result<Secret, ParseError> {
    let padding = usize::from(*plaintext.last().ok_or(ParseError::Truncated)?);
    let len = plaintext
        .len()
        .checked_sub(padding + PAD_LENGTH_LEN)
        .ok_or(ParseError::BadLength)?;
    plaintext.truncate(len);
    Ok(plaintext)
}

/// Wireshark's names for a cipher and the integrity beside it.
const fn wireshark_names(cipher: IkeCipher) -> (&'static str, &'static str) {
    match cipher {
        IkeCipher::Aead(suite) => (
            match suite {
                CipherSuite::Aes128Gcm16 => "AES-GCM-128 with 16 octet ICV [RFC5282]",
                CipherSuite::Aes256Gcm16 => "AES-GCM-256 with 16 octet ICV [RFC5282]",
                CipherSuite::ChaCha20Poly1305 => "ChaCha20/Poly1305 [RFC7634]",
            },
            "NONE [RFC4306]",
        ),
        IkeCipher::AesCbc(bits, integrity) => (
            match bits {
                AesBits::Bits128 => "AES-CBC-128 [RFC3602]",
                AesBits::Bits192 => "AES-CBC-192 [RFC3602]",
                AesBits::Bits256 => "AES-CBC-256 [RFC3602]",
            },
            match integrity {
                Integrity::HmacSha256 => "HMAC_SHA2_256_128 [RFC4868]",
                Integrity::HmacSha384 => "HMAC_SHA2_384_192 [RFC4868]",
                Integrity::HmacSha512 => "HMAC_SHA2_512_256 [RFC4868]",
            },
        ),
    }
}

impl Keys {
    /// One line of Wireshark's `ikev2_decryption_table`: SPIs, SK_ei, SK_er, the cipher, SK_ai,
    /// SK_ar, and the integrity algorithm.
    pub(crate) fn wireshark(&self, spi_i: IkeSpi, spi_r: IkeSpi) -> Zeroizing<String> {
        let (cipher, integrity) = wireshark_names(self.suite.cipher);
        let mut line = Zeroizing::new(String::with_capacity(512));
        let hex = |line: &mut String, secret: &Secret| {
            line.push(',');
            for byte in secret.iter() {
                let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
                line.push(digit(byte >> 4));
                line.push(digit(byte & 15));
            }
        };
        line.push_str(&format!("{spi_i},{spi_r}"));
        for side in [Side::Initiator, Side::Responder] {
            hex(&mut line, self.schedule.sk_e(side));
        }
        line.push_str(&format!(",\"{cipher}\""));
        for side in [Side::Initiator, Side::Responder] {
            hex(&mut line, self.schedule.sk_a(side));
        }
        line.push_str(&format!(",\"{integrity}\""));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;
    use crate::proposal::Additional;

    /// NIST's ACVP server, unit test "IKEv2 SHA2-256" of its IKEv2 KDF (SP 800-135): the head of
    /// each key stream.
    #[test]
    fn nist_known_answer() {
        let nonces = Nonces {
            i: hex(
                "0a58fea9c1d4fee2e74e1aad6fb02dd5f318eb127465a112be8dc3c04d5dba62eae708f9dc1b2362
                 afd6ba4bda3cf5000f4979fbcbadbcfda9291593829c4e905c21db0c2ee15175ce77a8a0dadf25c7
                 f175bc53fd91b636a9b3c50b203de9b9d6dc463dcb4048f101e26498ceaed3afbcd931394a7e0993
                 92dfff82e5d6fa85c2e8a8ab90ad363a66795dc32798847e405acd87988140f973058917273a6b0b
                 afb962c75e2b1a21e79c08beeb82168bf8b4b57f3dce867bf7862a7b8acbc21be838021913daf643
                 40c055ed17aaf7b6e1d0ca33ae890ddbdb83f4e615aad5e3bff58c3db70bac81a0dfbabe5391fc62
                 bca4659e22a0741e01d8d06e67d9bb41",
            ),
            r: hex(
                "e4fdfa68df6171d9eaff8b7b5ad31e7c6098d259f3397c9854cbefe7449b0864c1df16ddece8b265
                 67560f8d59182a44c19149c2d0d72606a160021ade3d23c7c6936c91a4b6bec37adf38cfc84b851c
                 68dcee06f81306f63abbefc07e231e3058c49437a557df617eac01663593d2a3e594699284c0a35e
                 ae6931492ccb2a43db72a600a3899205d681d2b76b1280e456339bb10e0c584aecfdae31c77a4c40
                 dbcb345f782ac32835d4c220c1e97254ded6a40075dd717b00b69c86a49e801773026536ae02d58a
                 649827f1ba67610ee936dffd11c9d5a9156631916a0a0046ec0ba42f56f2a18de83d5d71a985b0cc
                 9eec2c06b3d907ca58454419f374069d",
            ),
        };
        let shared = hex("9d469de41b4739c7dd01f19aa94f17e48150ae9dbede94832142db19");
        let shared_new = hex("c2987b0767006c3b9aea491bfed1646a3d7194639492b8d45b23b383");
        let spi = |digits| IkeSpi(hex(digits).try_into().unwrap());
        let suite = IkeSuite {
            cipher: IkeCipher::Aead(CipherSuite::Aes256Gcm16),
            prf: Prf::HmacSha256,
            group: Group::Curve25519,
            additional: Additional::default(),
        };
        let keys = KeySchedule::derive(
            suite,
            &shared,
            &nonces,
            spi("c8de93111750e409"),
            spi("32d51b33508997fa"),
        );
        let stream = [
            keys.sk_d.as_slice(),
            &keys.sk_ei,
            &keys.sk_er,
            &keys.sk_pi,
            &keys.sk_pr,
        ]
        .concat();
        let dkm = hex(
            "bc83518f63b762874ac57947cdfae33a8d9724df0b83ee4b6df38c23fc2ad829f4d70b5a68dd1f5a
             52416f09758638aedf919c09a17c5298cdb703bb75b1005cba0109739aaa4efd2fe7534c95ad05e5
             46e4419931270eddcab68ac1589d7fde47f5b9e8d5b614cb24ec3caf515497a9e99ee6f1b318ff15
             3b539ef071dcaff9b41945dcb780700d69e5dc888a91de195c52825badfd0ab4c33cec71ab5c2b4b
             adefe545",
        );
        assert_eq!(stream.len(), 3 * 32 + 2 * 36);
        assert_eq!(stream[..164], dkm);

        let (i, r) = keys
            .child(CipherSuite::Aes256Gcm16, &SharedSecrets::default(), &nonces)
            .unwrap();
        let child = hex(
            "c725012285d56e53244a9baaaf95abfca543708d333a3f3a86ba660e00edd4d489bcd631819fda04
             13382edd9f53d1ed718e056c2ad91d38de90f06cd434de70141d051c021e7ddd",
        );
        assert_eq!([i.expose_keymat(), r.expose_keymat()].concat(), child);

        let (i, r) = keys
            .child(
                CipherSuite::Aes256Gcm16,
                &SharedSecrets::from(Some(Zeroizing::new(shared_new))),
                &nonces,
            )
            .unwrap();
        let child = hex(
            "140a1f2a3c94318ece6edfa8c63f37d8d45982de8b6cbfe34011150db0253e34de3796d4aa579954
             a0bbf234794eb6e7ece2a8f91100f5507df4ee8e66c7813d4c0ff64d484a3494",
        );
        assert_eq!([i.expose_keymat(), r.expose_keymat()].concat(), child);
    }

    #[test]
    fn the_two_sides_prove_different_things() {
        let nonces = Nonces {
            i: vec![1; 32],
            r: vec![2; 32],
        };
        let suite = IkeSuite {
            cipher: IkeCipher::Aead(CipherSuite::ChaCha20Poly1305),
            prf: Prf::HmacSha384,
            group: Group::Ecp256,
            additional: Additional::default(),
        };
        let keys = KeySchedule::derive(suite, &[3; 32], &nonces, IkeSpi([4; 8]), IkeSpi([5; 8]));
        let auth = |side, psk: &[u8], message: &[u8], nonce: &[u8], id: &[u8]| {
            keys.psk_auth(psk, &keys.signed_octets(side, message, nonce, id))
        };
        let base = auth(Side::Initiator, b"psk", b"message", b"nonce", b"id");
        assert_eq!(base.len(), 48);
        for other in [
            auth(Side::Responder, b"psk", b"message", b"nonce", b"id"),
            auth(Side::Initiator, b"PSK", b"message", b"nonce", b"id"),
            auth(Side::Initiator, b"psk", b"Message", b"nonce", b"id"),
            auth(Side::Initiator, b"psk", b"message", b"Nonce", b"id"),
            auth(Side::Initiator, b"psk", b"message", b"nonce", b"ID"),
        ] {
            assert_ne!(*base, *other);
        }
    }

    /// RFC 9242 §3.3.2 and RFC 9370 §2.2.2, spelled out for two exchanges.
    #[test]
    fn intermediate_exchanges_are_chained() {
        let nonces = Nonces {
            i: vec![1; 32],
            r: vec![2; 32],
        };
        let suite = IkeSuite {
            cipher: IkeCipher::AesCbc(AesBits::Bits256, Integrity::HmacSha512),
            prf: Prf::HmacSha256,
            group: Group::Ecp256,
            additional: Additional::default(),
        };
        let (spi_i, spi_r) = (IkeSpi([4; 8]), IkeSpi([5; 8]));
        let prf = |key: &[u8], parts: &[&[u8]]| suite.prf.compute(key, parts);
        let mut first = KeySchedule::derive(suite, &[3; 32], &nonces, spi_i, spi_r);
        assert_eq!((first.sk_ai.len(), first.sk_ei.len()), (64, 32));
        first.cover(Side::Initiator, b"clear i1", b"inner i1");
        first.cover(Side::Responder, b"clear r1", b"inner r1");
        let mut second = first.update(suite, b"SK(1)", &nonces, spi_i, spi_r);
        let skeyseed = prf(&first.sk_d, &[b"SK(1)", &nonces.i, &nonces.r]);
        let seed = [&nonces.i[..], &nonces.r, &spi_i.0, &spi_r.0];
        assert_eq!(
            suite.prf.plus(&skeyseed, &seed, 3 * 32 + 2 * 64 + 2 * 32)[..32],
            **second.sk_d
        );
        second.cover(Side::Initiator, b"clear i2", b"inner i2");
        second.cover(Side::Responder, b"clear r2", b"inner r2");
        let third = second.update(suite, b"SK(2)", &nonces, spi_i, spi_r);
        assert_eq!(third.intermediates(), 2);

        let i1 = prf(&first.sk_pi, &[b"clear i1inner i1"]);
        let r1 = prf(&first.sk_pr, &[b"clear r1inner r1"]);
        let i2 = prf(&second.sk_pi, &[&i1, b"clear i2inner i2"]);
        let r2 = prf(&second.sk_pr, &[&r1, b"clear r2inner r2"]);
        let maced = prf(&third.sk_pr, &[b"id"]);
        let octets = [
            b"message".as_slice(),
            b"nonce",
            &maced,
            &i2,
            &r2,
            &[0, 0, 0, 3],
        ]
        .concat();
        let signed = third.signed_octets(Side::Responder, b"message", b"nonce", b"id");
        assert_eq!(*signed, octets);
    }

    /// RFC 7296 §2.17 and §2.18, RFC 9370 §2.2.4: where each secret goes.
    #[test]
    fn secrets_of_a_rekey() {
        let nonces = Nonces {
            i: b"Ni".to_vec(),
            r: b"Nr".to_vec(),
        };
        let mut secrets = SharedSecrets::default();
        assert_eq!(secrets.seed(&nonces).concat(), b"NiNr");
        secrets.push(Zeroizing::new(b"SK0".to_vec()));
        assert_eq!(secrets.seed(&nonces).concat(), b"SK0NiNr");
        secrets.push(Zeroizing::new(b"SK1".to_vec()));
        secrets.push(Zeroizing::new(b"SK2".to_vec()));
        assert_eq!(secrets.seed(&nonces).concat(), b"SK0NiNrSK1SK2");
    }
}
