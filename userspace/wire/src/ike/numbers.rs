//! The numbers of the IKEv2 registries that this project speaks.
//!
//! Each registry is a newtype over its wire integer, so an unassigned value survives
//! parse and emit; the constants carry their registry names.

use core::fmt;

macro_rules! registry {
    ($(#[$doc:meta])* $name:ident($int:ty) { $($(#[$cdoc:meta])* $const:ident = $value:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $int);

        #[allow(missing_docs)]
        impl $name {
            $($(#[$cdoc])* pub const $const: Self = Self($value);)*

            /// The registry's name for this value, if it is one of those above.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($const)),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, concat!(stringify!($name), "({})"), self.0),
                }
            }
        }
    };
}

registry! {
    /// Exchange type, RFC 7296 §3.1.
    ExchangeType(u8) {
        IKE_SA_INIT = 34,
        IKE_AUTH = 35,
        CREATE_CHILD_SA = 36,
        INFORMATIONAL = 37,
        /// RFC 9242.
        IKE_INTERMEDIATE = 43,
        /// RFC 9370.
        IKE_FOLLOWUP_KE = 44,
        /// RFC 5723 §4.3.2.
        IKE_SESSION_RESUME = 38,
    }
}

registry! {
    /// Payload type, RFC 7296 §3.2.
    PayloadType(u8) {
        NONE = 0,
        SA = 33,
        KE = 34,
        ID_I = 35,
        ID_R = 36,
        CERT = 37,
        CERTREQ = 38,
        AUTH = 39,
        NONCE = 40,
        NOTIFY = 41,
        DELETE = 42,
        VENDOR_ID = 43,
        TS_I = 44,
        TS_R = 45,
        /// Encrypted and Authenticated, "SK".
        ENCRYPTED = 46,
        CONFIGURATION = 47,
        EAP = 48,
        /// Encrypted and Authenticated Fragment, "SKF" (RFC 7383 §2.5).
        ENCRYPTED_FRAGMENT = 53,
    }
}

registry! {
    /// Security protocol identifier, RFC 7296 §3.3.1.
    ProtocolId(u8) {
        /// In a Notify that concerns no SA (RFC 7296 §3.10).
        NONE = 0,
        IKE = 1,
        AH = 2,
        ESP = 3,
    }
}

registry! {
    /// Transform type, RFC 7296 §3.3.2; 4 was renamed "Key Exchange Method" by RFC 9370.
    TransformType(u8) {
        ENCR = 1,
        PRF = 2,
        INTEG = 3,
        KE = 4,
        ESN = 5,
        /// "Additional Key Exchange 1"; 2 to 7 follow (RFC 9370).
        ADDITIONAL_KE1 = 6,
        ADDITIONAL_KE2 = 7,
        ADDITIONAL_KE3 = 8,
        ADDITIONAL_KE4 = 9,
        ADDITIONAL_KE5 = 10,
        ADDITIONAL_KE6 = 11,
        ADDITIONAL_KE7 = 12,
    }
}

registry! {
    /// Transform identifiers of type ENCR: those that we speak, and the common ones that we only
    /// name.
    EncryptionId(u16) {
        DES = 2,
        TRIPLE_DES = 3,
        NULL = 11,
        /// RFC 3602. Needs a key-length attribute.
        AES_CBC = 12,
        AES_CTR = 13,
        AES_CCM_8 = 14,
        AES_CCM_12 = 15,
        AES_CCM_16 = 16,
        AES_GCM_8 = 18,
        AES_GCM_12 = 19,
        /// RFC 4106, RFC 5282. Needs a key-length attribute.
        AES_GCM_16 = 20,
        CAMELLIA_CBC = 23,
        /// RFC 7634. No key-length attribute.
        CHACHA20_POLY1305 = 28,
    }
}

registry! {
    /// Transform identifiers of type PRF (RFC 4868).
    PrfId(u16) {
        HMAC_MD5 = 1,
        HMAC_SHA1 = 2,
        AES128_XCBC = 4,
        HMAC_SHA2_256 = 5,
        HMAC_SHA2_384 = 6,
        HMAC_SHA2_512 = 7,
        AES128_CMAC = 8,
    }
}

registry! {
    /// Transform identifiers of type INTEG. An AEAD has none (RFC 5282 §8).
    IntegrityId(u16) {
        NONE = 0,
        HMAC_MD5_96 = 1,
        HMAC_SHA1_96 = 2,
        AES_XCBC_96 = 5,
        AES_CMAC_96 = 8,
        /// RFC 4868.
        HMAC_SHA2_256_128 = 12,
        /// RFC 4868.
        HMAC_SHA2_384_192 = 13,
        /// RFC 4868.
        HMAC_SHA2_512_256 = 14,
    }
}

registry! {
    /// Transform identifiers of type KE.
    KeyExchangeId(u16) {
        NONE = 0,
        MODP_768 = 1,
        MODP_1024 = 2,
        MODP_1536 = 5,
        /// RFC 3526.
        MODP_2048 = 14,
        /// RFC 3526.
        MODP_3072 = 15,
        MODP_4096 = 16,
        MODP_6144 = 17,
        MODP_8192 = 18,
        /// RFC 5903.
        ECP_256 = 19,
        /// RFC 5903.
        ECP_384 = 20,
        ECP_521 = 21,
        /// RFC 8031.
        CURVE25519 = 31,
        CURVE448 = 32,
        ML_KEM_512 = 35,
        /// draft-ietf-ipsecme-ikev2-mlkem.
        ML_KEM_768 = 36,
        ML_KEM_1024 = 37,
    }
}

registry! {
    /// Transform identifiers of type ESN.
    EsnId(u16) {
        NO_ESN = 0,
        ESN = 1,
    }
}

registry! {
    /// Identification type, RFC 7296 §3.5.
    IdType(u8) {
        IPV4_ADDR = 1,
        FQDN = 2,
        RFC822_ADDR = 3,
        IPV6_ADDR = 5,
        DER_ASN1_DN = 9,
        DER_ASN1_GN = 10,
        KEY_ID = 11,
    }
}

registry! {
    /// Authentication method, RFC 7296 §3.8.
    AuthMethod(u8) {
        RSA_SIGNATURE = 1,
        SHARED_KEY_MIC = 2,
        /// ECDSA with SHA-256 on P-256 (RFC 4754).
        ECDSA_256 = 9,
        /// ECDSA with SHA-384 on P-384 (RFC 4754).
        ECDSA_384 = 10,
        /// RFC 7427.
        DIGITAL_SIGNATURE = 14,
    }
}

registry! {
    /// Certificate encoding, RFC 7296 §3.6.
    CertEncoding(u8) {
        X509_SIGNATURE = 4,
        CRL = 7,
        X509_HASH_AND_URL = 12,
        X509_BUNDLE_HASH_AND_URL = 13,
        OCSP_CONTENT = 14,
        RAW_PUBLIC_KEY = 15,
    }
}

registry! {
    /// Hash algorithm of a digital signature, RFC 7427 §7.
    HashId(u16) {
        SHA1 = 1,
        SHA2_256 = 2,
        SHA2_384 = 3,
        SHA2_512 = 4,
        /// The signature algorithm hashes for itself (RFC 8420).
        IDENTITY = 5,
    }
}

registry! {
    /// Notify message type, RFC 7296 §3.10.1: below 16384 errors, from there on status.
    NotifyType(u16) {
        UNSUPPORTED_CRITICAL_PAYLOAD = 1,
        INVALID_IKE_SPI = 4,
        INVALID_MAJOR_VERSION = 5,
        INVALID_SYNTAX = 7,
        INVALID_MESSAGE_ID = 9,
        INVALID_SPI = 11,
        NO_PROPOSAL_CHOSEN = 14,
        INVALID_KE_PAYLOAD = 17,
        AUTHENTICATION_FAILED = 24,
        SINGLE_PAIR_REQUIRED = 34,
        NO_ADDITIONAL_SAS = 35,
        INTERNAL_ADDRESS_FAILURE = 36,
        FAILED_CP_REQUIRED = 37,
        TS_UNACCEPTABLE = 38,
        INVALID_SELECTORS = 39,
        /// RFC 4555 §4.1.1.
        UNACCEPTABLE_ADDRESSES = 40,
        /// RFC 4555 §4.1.2.
        UNEXPECTED_NAT_DETECTED = 41,
        TEMPORARY_FAILURE = 43,
        CHILD_SA_NOT_FOUND = 44,
        /// RFC 9370 §2.2.4.
        STATE_NOT_FOUND = 47,
        INITIAL_CONTACT = 16384,
        SET_WINDOW_SIZE = 16385,
        ADDITIONAL_TS_POSSIBLE = 16386,
        IPCOMP_SUPPORTED = 16387,
        NAT_DETECTION_SOURCE_IP = 16388,
        NAT_DETECTION_DESTINATION_IP = 16389,
        COOKIE = 16390,
        USE_TRANSPORT_MODE = 16391,
        HTTP_CERT_LOOKUP_SUPPORTED = 16392,
        REKEY_SA = 16393,
        ESP_TFC_PADDING_NOT_SUPPORTED = 16394,
        NON_FIRST_FRAGMENTS_ALSO = 16395,
        /// RFC 4555 §4.2.1.
        MOBIKE_SUPPORTED = 16396,
        /// RFC 4555 §4.2.2: 4 bytes.
        ADDITIONAL_IP4_ADDRESS = 16397,
        /// RFC 4555 §4.2.2: 16 bytes.
        ADDITIONAL_IP6_ADDRESS = 16398,
        /// RFC 4555 §4.2.3.
        NO_ADDITIONAL_ADDRESSES = 16399,
        /// RFC 4555 §4.2.4.
        UPDATE_SA_ADDRESSES = 16400,
        /// RFC 4555 §4.2.5: 8 to 64 bytes.
        COOKIE2 = 16401,
        /// RFC 4555 §4.2.6: addresses and ports, 12 or 36 bytes.
        NO_NATS_ALLOWED = 16402,
        /// RFC 6023.
        CHILDLESS_IKEV2_SUPPORTED = 16418,
        /// RFC 7427 §4.
        SIGNATURE_HASH_ALGORITHMS = 16431,
        /// RFC 5723 §7.
        TICKET_LT_OPAQUE = 16409,
        TICKET_REQUEST = 16410,
        TICKET_ACK = 16411,
        TICKET_NACK = 16412,
        TICKET_OPAQUE = 16413,
        /// RFC 7383 §2.3.
        IKEV2_FRAGMENTATION_SUPPORTED = 16430,
        /// RFC 9242 §3.1.
        INTERMEDIATE_EXCHANGE_SUPPORTED = 16438,
        /// RFC 9370 §2.2.4.
        ADDITIONAL_KEY_EXCHANGE = 16441,
        /// draft-ietf-ipsecme-encrypted-esp-ping: no number is assigned yet, this is ours
        /// from the private range. It means something only beside our vendor ID.
        ENCRYPTED_PING_SUPPORTED = 0xA4E5,
    }
}

impl NotifyType {
    /// An error, as opposed to a status (RFC 7296 §3.10.1).
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 < 16384
    }
}

registry! {
    /// Traffic selector type, RFC 7296 §3.13.1.
    TsType(u8) {
        IPV4_ADDR_RANGE = 7,
        IPV6_ADDR_RANGE = 8,
    }
}
