use super::*;
use crate::crypto::hex;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const CBC: [(AesBits, Integrity); 9] = {
    use {AesBits::*, Integrity::*};
    [
        (Bits128, HmacSha256),
        (Bits128, HmacSha384),
        (Bits128, HmacSha512),
        (Bits192, HmacSha256),
        (Bits192, HmacSha384),
        (Bits192, HmacSha512),
        (Bits256, HmacSha256),
        (Bits256, HmacSha384),
        (Bits256, HmacSha512),
    ]
};

fn ciphers() -> impl Iterator<Item = IkeCipher> {
    let aeads = CipherSuite::ALL.into_iter().map(IkeCipher::Aead);
    aeads.chain(
        CBC.into_iter()
            .map(|(bits, integrity)| IkeCipher::AesCbc(bits, integrity)),
    )
}

fn key(cipher: IkeCipher) -> SkKey {
    let (e, a) = (
        vec![7; cipher.key_len()],
        vec![8; cipher.integrity_key_len()],
    );
    assert!(SkKey::new(cipher, &e[1..], &a).is_none());
    assert!(SkKey::new(cipher, &e, &[&a[..], &[8]].concat()).is_none());
    SkKey::new(cipher, &e, &a).unwrap()
}

#[test]
fn opens_what_it_sealed_and_nothing_else() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for cipher in ciphers() {
        let mut key = key(cipher);
        let mut ivs = Vec::new();
        for plain in [b"plain".as_slice(), b"", &[9; 15], &[9; 16], &[9; 31]] {
            let mut message = b"associated".to_vec();
            key.seal(&mut message, plain, &mut rng).unwrap();
            let (before, body) = message.split_at(10);
            assert_eq!(body.len(), cipher.body_len(plain.len()), "{cipher}");
            let opened = key.open(before, body).unwrap();
            let padding = usize::from(*opened.last().unwrap());
            assert_eq!(&opened[..opened.len() - 1 - padding], plain);
            ivs.push(body[..8].to_vec());
            for bit in 0..message.len() * 8 {
                let mut bad = message.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(key.open(&bad[..10], &bad[10..]).is_err());
            }
            for len in 0..body.len() {
                assert!(key.open(before, &body[..len]).is_err());
            }
        }
        let count = ivs.len();
        ivs.sort();
        ivs.dedup();
        assert_eq!(ivs.len(), count, "{cipher}: an IV came twice");
    }
}

#[test]
fn ivs_of_an_aead_end() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut key = key(IkeCipher::Aead(CipherSuite::Aes256Gcm16));
    let Kind::Aead(inner) = &mut key.0 else {
        panic!()
    };
    inner.next_iv = u64::MAX;
    assert!(key.seal(&mut Vec::new(), &[], &mut rng).is_none());
}

/// A genuine message whose ciphertext is no whole number of blocks, or none at all.
#[test]
fn cbc_of_odd_lengths() {
    for (bits, integrity) in CBC {
        let cipher = IkeCipher::AesCbc(bits, integrity);
        let SkKey(Kind::Cbc(key)) = key(cipher) else {
            panic!()
        };
        for len in (0..64).filter(|len| *len < 32 || len % 16 != 0) {
            let sealed = vec![1; len];
            let tag = key.icv(&[b"before", &sealed]);
            let body = [&sealed, &tag.as_ref()[..integrity.icv_len()]].concat();
            assert!(key.open(b"before", &body).is_err(), "{cipher} {len}");
        }
    }
}

/// RFC 3602 §4 cases 1 and 2 for 128 bits; NIST SP 800-38A §F.2.3 and §F.2.5 for 192 and 256.
#[test]
fn cbc_known_answers() {
    let sp800_plain = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51";
    for (bits, key, iv, plain, cipher) in [
        (
            AesBits::Bits128,
            "06a9214036b8a15b512e03d534120006",
            "3dafba429d9eb430b422da802c9fac41",
            "53696e676c6520626c6f636b206d7367",
            "e353779c1079aeb82708942dbe77181a",
        ),
        (
            AesBits::Bits128,
            "c286696d887c9aa0611bbb3e2025a45a",
            "562e17996d093d28ddb3ba695a2e6f58",
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
        ),
        (
            AesBits::Bits192,
            "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
            "000102030405060708090a0b0c0d0e0f",
            sp800_plain,
            "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a",
        ),
        (
            AesBits::Bits256,
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "000102030405060708090a0b0c0d0e0f",
            sp800_plain,
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
        ),
    ] {
        let cbc = CbcKey {
            bits,
            key: Zeroizing::new(hex(key)),
            integrity: Integrity::HmacSha256,
            mac: hmac::Key::new(hmac::HMAC_SHA256, &[]),
        };
        let iv = hex(iv).try_into().unwrap();
        let mut bytes = hex(plain);
        cbc.encrypt(&iv, &mut bytes).unwrap();
        assert_eq!(bytes, hex(cipher));
        cbc.decrypt(&iv, &mut bytes).unwrap();
        assert_eq!(bytes, hex(plain));
    }
}

/// RFC 4868 §2.7.2: AUTH256-1, AUTH384-1 and AUTH512-1.
#[test]
fn integrity_known_answers() {
    for (integrity, expected) in [
        (Integrity::HmacSha256, "198a607eb44bfbc69903a0f1cf2bbdc5"),
        (
            Integrity::HmacSha384,
            "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973",
        ),
        (
            Integrity::HmacSha512,
            "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
        ),
    ] {
        let cipher = IkeCipher::AesCbc(AesBits::Bits128, integrity);
        let mac = vec![0x0b; integrity.key_len()];
        let Some(SkKey(Kind::Cbc(key))) = SkKey::new(cipher, &[0; 16], &mac) else {
            panic!()
        };
        let tag = key.icv(&[b"Hi ", b"There"]);
        assert_eq!(tag.as_ref()[..integrity.icv_len()], hex(expected));
    }
}
