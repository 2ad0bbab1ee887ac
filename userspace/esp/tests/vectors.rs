//! Published ESP packets: draft-mcgrew-gcm-test-01 for RFC 4106, appendix A for RFC 7634.

mod common;

use common::{spi, unhex};
use mitregate_esp::aead::Aead;
use mitregate_esp::{CipherSuite, InboundSa, InboundState, Provider, SaKey};

struct Vector {
    suite: CipherSuite,
    key: &'static str,
    /// Salt and IV.
    nonce: &'static str,
    /// SPI and sequence number, 32 bits of it or 64.
    aad: &'static str,
    /// Up to Next Header.
    plain: &'static str,
    cipher: &'static str,
    icv: &'static str,
}

use CipherSuite::{Aes128Gcm16, Aes256Gcm16, ChaCha20Poly1305};

const VECTORS: [Vector; 11] = [
    Vector {
        suite: Aes128Gcm16,
        key: "4c80cdefbb5d10da906ac73c3613a634",
        nonce: "2e443b684956ed7e3b244cfe",
        aad: "000043218765432100000000",
        plain: "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000\
                00000000045f736970045f756470037369700963796265726369747902646b00\
                0021000101020201",
        cipher: "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34\
                 cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce\
                 61bc17d768fd9732",
        icv: "459018148f6cbe722fd04796562dfdb4",
    },
    Vector {
        suite: Aes128Gcm16,
        key: "feffe9928665731c6d6a8f9467308308",
        nonce: "cafebabefacedbaddecaf888",
        aad: "0000a5f80000000a",
        plain: "4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d00100\
                0001000000000000037369700963796265726369747902646b00000100010001",
        cipher: "deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c\
                 3de81827c10e9a4f51330d0eec416642cfbb85a5b47e48a4ec3b9ba95d918bd1",
        icv: "83b70d3aa8bc6ee4c309e9d85a41ad4a",
    },
    Vector {
        suite: Aes256Gcm16,
        key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
        nonce: "112233440102030405060708",
        aad: "4a2cbfe300000002",
        plain: "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000\
                7002400020bf0000020405b40101040201020201",
        cipher: "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763\
                 748a637985771d347f0545659f14e99def842d8e",
        icv: "b335f4eecfdbf831824b4c4915956c96",
    },
    Vector {
        suite: Aes128Gcm16,
        key: "3de09874b388e6491988d0c3607eae1f",
        nonce: "57690e434e280000a2fca1a3",
        aad: "42f67e3f1010101010101010",
        plain: "4500001c42a200008001441f406793b6e00000020a00f5ff01020201",
        cipher: "fba2ca845e5df9f0f22c3e6e86dd831e1fc65792cd1af9130e1379ed",
        icv: "369f071f35e034be95f112e4e7d05d35",
    },
    Vector {
        suite: Aes128Gcm16,
        key: "abbccddef00112233445566778899aab",
        nonce: "decaf888cafedebaceface74",
        aad: "000001000000000000000001",
        plain: "4500004933ba00007f119106c3fb1d10c2b1d326c02831ce0035dd7b800302d5\
                00004e20001e8c18d75b81dc91baa0476b91b924b280389d92c963bac046ec95\
                9b6266c04722b14923010101",
        cipher: "18a6fd42f72cbf4ab2a2ea901f73d814e3e7f243d95412e1c349c1d2fbec168f\
                 9190feebaf2cb01984e65863965d7472b79da345e0e780191f0d2f0e0f496c22\
                 6f2127b27db35724e7845d68",
        icv: "651f57e65f354f75ff17015769623436",
    },
    Vector {
        suite: Aes256Gcm16,
        key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
        nonce: "73616c74616e640169766563",
        aad: "17405e67156f3126dd0db99b",
        plain: "45080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb712602\
                50101f646d540001",
        cipher: "f2d69ecdbd5a0d5b8d5ef38bad4da58d1f278fde98ef67549d524a3018d9a57f\
                 f4d3a31ce673119e",
        icv: "451626c2415771e3b7eebca614c89b35",
    },
    Vector {
        suite: Aes256Gcm16,
        key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
        nonce: "73616c74616e640169766563",
        aad: "17405e67156f3126dd0db99b",
        plain: "636973636f0172756c657301746865016e6574776501646566696e6501746865\
                746563686e6f6c6f67696573017468617477696c6c01646566696e65746f6d6f\
                72726f7701020201",
        cipher: "d4b7ed86a1777f2ea13d6973d324c69e7b43f826fb56831226508bebd2dceb18\
                 d0a6df10e5487df074113e14c641024e3e6773d91a62ee429b043a10e3efe6b0\
                 12a49363412364f8",
        icv: "c0cac587f249e56b11e24f30e44ccc76",
    },
    Vector {
        suite: Aes128Gcm16,
        key: "7d773d00c144c525ac619d18c84a3f47",
        nonce: "d966426743457e9182443bc6",
        aad: "335467aeffffffff",
        plain: "01020201",
        cipher: "437f866b",
        icv: "cb3f699fe9b0822bac961c4504bef270",
    },
    Vector {
        suite: Aes128Gcm16,
        key: "abbccddef00112233445566778899aab",
        nonce: "decaf888cafedebaceface74",
        aad: "000001000000000000000001",
        plain: "746f016265016f72016e6f7401746f0162650001",
        cipher: "29c9fc69a197d038ccdd14e2ddfcaa0543332164",
        icv: "412503524303ed3c6c5f283843af8c3e",
    },
    Vector {
        suite: Aes256Gcm16,
        key: "6c6567616c697a656d6172696a75616e61616e64646f69746265666f72656961",
        nonce: "7475726e333021696765746d",
        aad: "796b6963ffffffffffffffff",
        plain: "45000030da3a00008001df3bc0a80005c0a800010800c6cd0200070061626364\
                65666768696a6b6c6d6e6f707172737401020201",
        cipher: "f97ab2aa356d8edce17644ac8c78e25dd24dedbb29ebf1b64a274b39b49c3a86\
                 4cd3d78ca4ae68a32b42458fb57dbe821dcc63b9",
        icv: "d0937ba2945f669368661a329fb4c053",
    },
    Vector {
        suite: ChaCha20Poly1305,
        key: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        nonce: "a0a1a2a31011121314151617",
        aad: "0102030400000005",
        plain: "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10\
                0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223\
                2425262728292a2b2c2d2e2f303132333435363701020204",
        cipher: "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6\
                 14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3\
                 cbec163fac469b502773f6fb94e664da9165b82829f641e0",
        icv: "76aaa8266b7fb0f7b11b369907e1ad43",
    },
];

#[test]
fn both_providers_seal_them() {
    for vector in &VECTORS {
        for provider in Provider::ALL {
            let aead = Aead::new(provider, vector.suite, &unhex(vector.key)).unwrap();
            let nonce = unhex(vector.nonce).try_into().unwrap();
            let mut text = unhex(vector.plain);
            let icv = aead.seal(nonce, &unhex(vector.aad), &mut text).unwrap();
            assert_eq!(text, unhex(vector.cipher), "{} {provider}", vector.aad);
            assert_eq!(icv[..], unhex(vector.icv), "{} {provider}", vector.aad);
        }
    }
}

#[test]
fn an_sa_opens_them() {
    for vector in &VECTORS {
        for provider in Provider::ALL {
            let nonce = unhex(vector.nonce);
            let keymat = [unhex(vector.key), nonce[..4].to_vec()].concat();
            let key = SaKey::from_keymat(vector.suite, &keymat).unwrap();
            let aad = unhex(vector.aad);
            let spi = spi(u32::from_be_bytes(aad[..4].try_into().unwrap()));
            let esn = aad.len() == 12;
            let seq = aad[4..]
                .iter()
                .fold(0u64, |seq, byte| seq << 8 | u64::from(*byte));
            let low = &aad[aad.len() - 4..];
            let cipher = unhex(vector.cipher);
            let mut esp = [&aad[..4], low, &nonce[4..], &cipher, &unhex(vector.icv)].concat();

            let mut sa = InboundSa::new(spi, &key, provider, 0, esn);
            sa.restore(InboundState { highest: seq - 1 }, 0);
            let len = esp.len();
            let opened = sa.open(&mut esp, 0..len).unwrap();
            assert_eq!(opened.seq, seq);
            assert!(opened.new_highest);
            let plain = unhex(vector.plain);
            let [.., pad_len, next_header] = plain[..] else {
                panic!()
            };
            assert_eq!(opened.next_header, next_header);
            assert_eq!(
                esp[opened.inner],
                plain[..plain.len() - 2 - usize::from(pad_len)]
            );
        }
    }
}
