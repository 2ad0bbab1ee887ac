//! The pure Rust ciphers wipe their keys when dropped only if their features say so, and nothing
//! else would notice. AWS-LC always does.

use zeroize::ZeroizeOnDrop;

const fn wiped<T: ZeroizeOnDrop>() {}

#[test]
fn rust_ciphers_wipe_their_keys() {
    wiped::<aes_gcm::Aes128Gcm>();
    wiped::<aes_gcm::Aes256Gcm>();
    wiped::<chacha20poly1305::ChaCha20Poly1305>();
    wiped::<mitregate_esp::SaKey>();
}
