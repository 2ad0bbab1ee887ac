use super::*;
use crate::crypto::hex;
use aws_lc_rs::kem;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// RFC 7748 §6.1, RFC 5903 §8.1 and §8.2; for the MODP groups, pairs of OpenSSL's for its own
/// parameters "modp_2048" and "modp_3072".
#[test]
fn known_answers() {
    let vectors = [
        (
            Group::Curve25519,
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        ),
        (
            Group::Ecp256,
            "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
            "dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180
             5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3",
            "c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
            "d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63
             56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab",
            "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de",
        ),
        (
            Group::Ecp384,
            "099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655
             e35b538041e649ee3faef896783ab194",
            "667842d7d180ac2cde6f74f37551f55755c7645c20ef73e31634fe72b4c55ee6
             de3ac808acb4bdb4c88732aee95f41aa
             9482ed1fc0eeb9cafc4984625ccfc23f65032149e0e144ada024181535a0f38e
             eb9fcff3c2c947dae69b4c634573a81c",
            "41cb0779b4bdb85d47846725fbec3c9430fab46cc8dc5060855cc9bda0aa2942
             e0308312916b8ed2960e4bd55a7448fc",
            "e558dbef53eecde3d3fccfc1aea08a89a987475d12fd950d83cfa41732bc509d
             0d1ac43a0336def96fda41d0774a3571
             dcfbec7aacf3196472169e838430367f66eebe3c6e70c416dd5f0c68759dd1ff
             f83fa40142209dff5eaad96db9e6386c",
            "11187331c279962d93d604243fd592cb9d0a926f422e47187521287e7156c5c4
             d603135569b9e9d09cf5d4a270f59746",
        ),
        (
            Group::Modp2048,
            "23c0e842def4045f789859b382cc66d0f571c942eb9f3350adb95d",
            "03f41d295c05f73b59f163b61a3af9f40bf6ef1bddb56b82bb76cd6fde9e433c82d9b953a937d8cb
             3e31bfe8a6e6f671aa5027213a479c24e51d71cfdb112d73c49ef15efd95cb72f8d9e8523f61a360
             31c240dccff8eda38bb70d8cd2f96469a45024b34b8b64a80595ab4029746b643a415b0faf270a58
             955e4b592740535b9ed644e60cf71ab35ae02e47ebf3c686f1991ec28123f109a988f686a9483df9
             6af9877b592ccd4a3ab075e2da3adedcb1997dce7b91a6d6a8b5989ed304cf9b51ea2e10e72f4010
             8b9f3ef45b45969232a9b5f089f9fd5be03e00fd55a5ae9af0977be2c291cd1f355ded60632013b7
             eefd3ad1d360a8cbed2cffcec6be0dfa",
            "017e53eabf6c1f86b2323c3a4800b96f2cede1d162661ebc80b55c5dcd",
            "975acee8d6239c8d6ce57e3760a667c388513932874ceb29b8472986c48f6d9d8c727560c6e61eaf
             d2661ad2634db7578d122fbc6fd4a612bd283c5523e3dabca0b4c8066ddfd18dde02e7e77793426d
             8f66638d00ee3df009150b6718371a7e3f0fa2697d9134fd67fcb0c58f6809abb17ee7b385ef5cbe
             bf637c425cf583b53d28f689087db12156f738ae08887c962ba42e0024a543fd58ea8894cc579eee
             e258d473ff1bf050ca7180fd8f5ca3f5d286e9757b1cb37dfe6f93eab41b59a483b92d2879274e06
             fc29710ebc60190bb3f4be96ab4b1c0bf41ac5a8d45beba65785d5488097201f85290a13764c66c4
             a75b6540a11134d234e6f51c4bbfdf6b",
            "b862cf42a4b448d0ec5d0cfc998e6e56e717f8e26697c137417c718c9d160c0a571deca99296b736
             42325589e2270f04ec58b22615830d2324596dca0fc8af047f072d170e45bd1a6468d104017460a0
             a900175f2fe77d1716db62c325ce8a81221e632340fa0b5ce7cf8ce8820a98ec25533b9c20c97e0d
             cf8563199467ae128bd479cf907554d5ce2c2be49b42813cad25605e7e37a453501a6bcbdc79b339
             0e61b9774ef746decef41f3d7c0923a0a69cc0213e649c9604752f6f221c8b36b8a309e81c162b4b
             f5291fe3558a2e475f970d32b636424a23c27df7aa8b15cf90487de2182fe6e43fdc6b54a652d9d4
             561ab29ac2cc732413ad1e25947be9c7",
        ),
        (
            Group::Modp3072,
            "0548af4ed625937554aa7ee540d31fa0f33821c9440e60dc574f7f4b38223afdf32f77",
            "ec17f6d3f47ef1b4ef9ed6d82f4fe3ee443648fe5db52a779355e58fb6d6e6d62a4e3f1ea8900147
             c8e4b97f2811fca6d415253aea81b3facefbb30b3b42f40407424284e181063ca666ddf7f814956e
             868f00e37ad8c2922653c28afd4e01429f7134aecd9d1ed8e5aa8d28a1df0c8d13c682c0dfa6af4b
             725078d5381b2e42d116f79f3a2f99ef22f85cd36a69f21140eddd21321404badd10062d0839766f
             d7d9fb9e020cd4992bbdcdf50994ff03c15b907d0fd8affa08a4b6e75020ae433aa64855fc8be262
             28ad2aa5be77edd5267936cbb66e64c1068441600302e435e6cc68762d44724b51eac499a4810fe1
             2568252683fa8b8a72ce3c979129010935b2f4cd700b6e0d44339c73b8fb1e284d048484124fdabc
             5bc36460aa7b5098bc58a5ff90403ab1a2bbe159b106e8cb7bbb63a12d5f2c47ca37f8f11d87874d
             c0291c6887c091d2eb6147ba7ca0b3c077bac351e0c7c19f2556fb9b21b71ae16cd6cc8e6e223b4a
             4d9ba6e0b89035be4de23fd2e124f1523f43bb3a96f4857b",
            "00fdc87fcc5590d83481c6d71b452122bbdd4076c325310f4d58760d3b7e992882c204",
            "365a2ea2c0b2163bf5c29863a087a3578a31b2b5d304d181fc004ae6092127baf95d2cfa7813b8f9
             cf215a030c82ce7cada465ac978d21daac5f0f607486ea04af80f4411211c578e775338d2957f815
             18794ccf3681226f0e5bf6741323c8885728d980e0f20be8726da80b18e4fb35cd43f75c8d870b59
             606424538a3fa2c536a9d9d521a3a6ace607150ce23b66554b258d54254ae174965f0983ffc39962
             f42a44bd6dddf52e65d634629cd8ac336fe17dcf8436df80058f4e23d4a95b862d91416b37664ad6
             40bc99d3e9c677c3a97c586691b9e9c491cd9a963dc47e49212d853c79a042295954dfd5d85a40ca
             3af30cadd5a8b58746cf303c818ead3e85e11f003d82bb0b5fb14b4c52e99f25eff3fcf59a7e023c
             625a12a56ad6622085fb5e6812a1d598435370681f1afbed8d11107535e783be1ed91ec76e174a0a
             7eb91bcaf9602304b4f3dbf75b91ec76ef9b52d448035f7d5bf96c0929de5ba5419c4c729df3a98e
             6ec147f81ed3660d32adc4cb8fe5ddf1807ec3ac570768ee",
            "cb88c51990203b79579fd9d6914143ef105c2cea96a8d60b66d3f7097a8ebfa216c56144d587f6fd
             b4c311bb8ca7cc6f0ace5873b530b05a80cfa5c6a9f1cfa8e19e80aae3e55f3caca41fd1978800e0
             98058ee01499140c9c981ed2c658db52db273d7ba08906ad3c55c2dde0bd5c84bd328af7f70d5eda
             27508dfb8c747c2aa3b563026ccc8dc655af973f74d24ccf40b7cfb2f29e9893686d552000883941
             ed252e739dc7c1c497dad8911554f4791eb840c09bb346954ce3cb56f0f7641a2b80061af873d1dc
             474787c729b67e91adbd4e8955f8235914d8ae994cfcd3c319b00990674d4bb3e4a69befd7ade1d1
             ef5dec5b0a90e0ffc181aa5b23e62a65980d513627633fa4566bdd572f3270e14654212157ffeedb
             092524940e0a74f90bd9e3913b4d6280fd63e991919a2cdedf25b9ab772ee5eee187c60f13f11d58
             e72e66cc2a852bd1262d6609a239b65e0e786053974326111df4445dde594f400440a95c4ae13a51
             1008e5038cab72dcda0371473306c82e3fde44b03fb5faa6",
        ),
    ];
    for (group, private_i, public_i, private_r, public_r, shared) in vectors {
        let i = KeyPair::from_private(group, &hex(private_i)).unwrap();
        let r = KeyPair::from_private(group, &hex(private_r)).unwrap();
        assert_eq!(i.public(), hex(public_i), "{group}");
        assert_eq!(r.public(), hex(public_r), "{group}");
        for secret in [i.agree(r.public()), r.agree(i.public())] {
            assert_eq!(*secret.unwrap(), hex(shared), "{group}");
        }
    }
}

/// AWS-LC's ML-KEM-768 and ours understand each other, in both roles.
#[test]
fn ml_kem_with_another_implementation() {
    let ours = KeyPair::generate(Group::MlKem768, &mut rng(1)).unwrap();
    assert_eq!(ours.public().len(), 1184);
    let key = kem::EncapsulationKey::new(&kem::ML_KEM_768, ours.public()).unwrap();
    let (ciphertext, theirs) = key.encapsulate().unwrap();
    assert_eq!(*ours.agree(ciphertext.as_ref()).unwrap(), theirs.as_ref());

    let theirs = kem::DecapsulationKey::generate(&kem::ML_KEM_768).unwrap();
    let public = theirs.encapsulation_key().unwrap().key_bytes().unwrap();
    let reply = Reply::to(Group::MlKem768, public.as_ref(), &mut rng(2)).unwrap();
    assert_eq!((reply.public.len(), reply.secret.len()), (1088, 32));
    let secret = theirs.decapsulate(reply.public.as_slice().into()).unwrap();
    assert_eq!(*reply.secret, secret.as_ref());
}

/// FIPS 203 §7.2, the modulus check: each of the 768 coefficients of 12 bits is below 3329.
#[test]
fn ml_kem_keys_with_a_coefficient_too_large() {
    let pair = KeyPair::generate(Group::MlKem768, &mut rng(3)).unwrap();
    for index in [0, 1, 383, 766, 767] {
        for (value, good) in [(3328_u16, true), (3329, false), (4095, false)] {
            let mut key = pair.public().to_vec();
            let at = index / 2 * 3;
            let [low, high] = value.to_le_bytes();
            if index % 2 == 0 {
                key[at] = low;
                key[at + 1] = key[at + 1] & 0xf0 | high;
            } else {
                key[at + 1] = key[at + 1] & 0x0f | low << 4;
                key[at + 2] = low >> 4 | high << 4;
            }
            let reply = Reply::to(Group::MlKem768, &key, &mut rng(4));
            assert_eq!(reply.is_ok(), good, "coefficient {index} = {value}");
        }
    }
}

/// FIPS 203 §6.3: a ciphertext that was tampered with gives another secret, not an error.
#[test]
fn ml_kem_rejects_implicitly() {
    let pair = KeyPair::generate(Group::MlKem768, &mut rng(5)).unwrap();
    let reply = Reply::to(Group::MlKem768, pair.public(), &mut rng(6)).unwrap();
    let mut bad = reply.public.clone();
    bad[17] ^= 4;
    let secret = pair.agree(&bad).unwrap();
    assert_ne!(*secret, *reply.secret);
    assert_eq!(*secret, *pair.agree(&bad).unwrap());
    assert_eq!(*pair.agree(&reply.public).unwrap(), *reply.secret);
}

#[test]
fn both_sides_share_a_secret() {
    for group in Group::ALL {
        let pair = KeyPair::generate(group, &mut rng(7)).unwrap();
        let reply = Reply::to(group, pair.public(), &mut rng(8)).unwrap();
        assert_eq!(*pair.agree(&reply.public).unwrap(), *reply.secret);
    }
}

#[test]
fn no_secret_from_what_is_no_public_value() {
    for group in Group::ALL {
        let pair = KeyPair::generate(group, &mut rng(9)).unwrap();
        let reply = Reply::to(group, pair.public(), &mut rng(9)).unwrap();
        for (good, agree) in [(pair.public(), false), (reply.public.as_slice(), true)] {
            let shorter = &good[1..];
            let longer = [good, &[0]].concat();
            for bad in [&[], shorter, &longer] {
                let refused = if agree {
                    pair.agree(bad).is_err()
                } else {
                    Reply::to(group, bad, &mut rng(9)).is_err()
                };
                assert!(refused, "{group}: {} bytes", bad.len());
            }
        }
        // Any 1088 bytes are a ciphertext of ML-KEM, and zeros are an encapsulation key.
        if group != Group::MlKem768 {
            assert!(pair.agree(&vec![0; reply.public.len()]).is_err());
        }
    }
    // Not on the curve; of small order (RFC 7748 §6.1).
    let refuses = |group, value: &[u8]| {
        let pair = KeyPair::generate(group, &mut rng(9)).unwrap();
        pair.agree(value).is_err() && Reply::to(group, value, &mut rng(9)).is_err()
    };
    assert!(refuses(Group::Ecp256, &[1; 64]));
    assert!(refuses(Group::Ecp384, &[1; 96]));
    let mut one = [0; 32];
    one[0] = 1;
    assert!(refuses(Group::Curve25519, &one));
}

/// RFC 6989 §2.1: 1 < value < p − 1.
#[test]
fn modp_values_out_of_range() {
    // The two primes end with 64 ones, so p − 2 and the like differ in the last byte alone.
    for (group, prime) in [
        (Group::Modp2048, modp::PRIME_2048),
        (Group::Modp3072, modp::PRIME_3072),
    ] {
        let pair = KeyPair::generate(group, &mut rng(10)).unwrap();
        let ending = |last| {
            let mut value = hex(prime);
            *value.last_mut().unwrap() = last;
            value
        };
        let small = |last| {
            let mut value = vec![0; hex(prime).len()];
            *value.last_mut().unwrap() = last;
            value
        };
        for bad in [
            small(0),
            small(1),
            ending(0xfe),
            ending(0xff),
            vec![0xff; hex(prime).len()],
        ] {
            assert!(pair.agree(&bad).is_err(), "{group}");
        }
        for good in [small(2), ending(0xfd)] {
            assert_eq!(pair.agree(&good).unwrap().len(), hex(prime).len());
        }
    }
}

/// RFC 7296 §2.14: the secret is as long as the prime, whatever its leading bytes.
#[test]
fn modp_secrets_keep_their_leading_zeros() {
    let pair = KeyPair::from_private(Group::Modp2048, &[3]).unwrap();
    let mut two = vec![0; 256];
    two[255] = 2;
    let mut eight = vec![0; 256];
    eight[255] = 8;
    assert_eq!(pair.public(), eight);
    assert_eq!(*pair.agree(&two).unwrap(), eight);
}

#[test]
fn keys_come_from_the_given_source_alone() {
    for group in Group::ALL {
        let make = |seed| {
            let pair = KeyPair::generate(group, &mut rng(seed)).unwrap();
            let reply = Reply::to(group, pair.public(), &mut rng(seed)).unwrap();
            (pair.public().to_vec(), reply.public)
        };
        assert_eq!(make(1), make(1));
        let (a, b) = (make(1), make(2));
        assert!(a.0 != b.0 && a.1 != b.1, "{group}");
    }
    // A source of zeros is no source: that is told, not looped over.
    assert!(KeyPair::from_private(Group::Ecp256, &[0; 32]).is_none());
    assert!(KeyPair::from_private(Group::Ecp256, &[0xff; 32]).is_none());
    assert!(KeyPair::from_private(Group::Modp2048, &[0; 64]).is_none());
}
