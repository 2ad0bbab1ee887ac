//! One certificate, taken apart.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use aws_lc_rs::digest;
use mitregate_wire::ike::IdType;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityInfoAccessSyntax, BasicConstraints, CrlDistributionPoints, ExtendedKeyUsage, KeyUsage,
    SubjectAltName, SubjectKeyIdentifier,
};

use super::error::{CertError, CertFault};
use super::validity;
use crate::{Identity, dn};

/// What strongSwan and others ask for in certificates of IKE alone (a draft's, never standardised).
const IKE_INTERMEDIATE: &str = "1.3.6.1.5.5.8.2.2";
const ANY_EXTENDED_KEY_USAGE: &str = "2.5.29.37.0";
const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
/// RFC 4945 §5.1.3.12.
const IPSEC_IKE: &str = "1.3.6.1.5.5.7.3.17";
/// Extended key usages that allow for IKE, where a certificate has any.
pub(super) const IKE_USAGES: [&str; 5] = [
    IPSEC_IKE,
    IKE_INTERMEDIATE,
    ANY_EXTENDED_KEY_USAGE,
    SERVER_AUTH,
    CLIENT_AUTH,
];

/// Signatures over MD5 or SHA-1: none of their authors can be told for sure any more.
const BROKEN_SIGNATURES: [(&str, &str); 4] = [
    ("1.2.840.113549.1.1.4", "MD5"),
    ("1.2.840.113549.1.1.5", "SHA-1"),
    ("1.2.840.10045.4.1", "SHA-1"),
    ("1.2.840.10040.4.3", "SHA-1"),
];

/// Shortest RSA modulus, bits (NIST SP 800-131A; RFC 8247 §4.1.1).
const MIN_RSA_BITS: usize = 2048;

/// The kind and strength of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA.
    Rsa {
        /// Length of the modulus.
        bits: usize,
    },
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
    /// None that signs IKE_AUTH here.
    Other,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "RSA {bits}"),
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Other => f.write_str("unsupported"),
        }
    }
}

/// A certificate that is well-formed. Whether it is to be trusted is another question.
#[derive(Clone)]
pub struct Certificate {
    der: Vec<u8>,
    parsed: x509_cert::Certificate,
}

impl Certificate {
    /// Takes DER apart.
    pub fn from_der(der: &[u8]) -> Result<Self, CertError> {
        let parsed = x509_cert::Certificate::from_der(der).map_err(|error| {
            let detail = format!("not a certificate: {error}");
            CertError::new(CertFault::Malformed, None, detail)
        })?;
        Ok(Self {
            der: der.to_vec(),
            parsed,
        })
    }

    /// The DER that it was made of.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    fn tbs(&self) -> &x509_cert::TbsCertificate {
        self.parsed.tbs_certificate()
    }

    /// The subject, as swanctl writes names; may be empty.
    #[must_use]
    pub fn subject(&self) -> String {
        dn::show(&self.subject_der()).unwrap_or_default()
    }

    /// The issuer.
    #[must_use]
    pub fn issuer(&self) -> String {
        dn::show(&self.issuer_der()).unwrap_or_default()
    }

    /// What to call it in an error: its subject, else its first alternative name.
    pub(super) fn title(&self) -> String {
        let subject = self.subject();
        match (subject.is_empty(), self.alternative_names().first()) {
            (true, Some(name)) => name.to_string(),
            (true, None) => "(without a name)".to_owned(),
            _ => subject,
        }
    }

    /// DER of the subject.
    #[must_use]
    pub fn subject_der(&self) -> Vec<u8> {
        self.tbs().subject().to_der().unwrap_or_default()
    }

    pub(super) fn issuer_der(&self) -> Vec<u8> {
        self.tbs().issuer().to_der().unwrap_or_default()
    }

    /// The serial number, in hexadecimal digits.
    #[must_use]
    pub fn serial(&self) -> String {
        self.serial_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The serial number.
    #[must_use]
    pub fn serial_bytes(&self) -> &[u8] {
        self.tbs().serial_number().as_bytes()
    }

    /// Its subject is its issuer.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.tbs().subject() == self.tbs().issuer()
    }

    /// From when on it is valid, as UNIX time.
    #[must_use]
    pub fn not_before(&self) -> Duration {
        self.tbs().validity().not_before.to_unix_duration()
    }

    /// Until when it is valid, as UNIX time.
    #[must_use]
    pub fn not_after(&self) -> Duration {
        self.tbs().validity().not_after.to_unix_duration()
    }

    /// When it begins and ends to be valid, for people.
    #[must_use]
    pub fn validity(&self) -> [String; 2] {
        [self.not_before(), self.not_after()].map(validity::date)
    }

    /// DER of the SubjectPublicKeyInfo: the same in a certificate and in its key.
    #[must_use]
    pub fn public_key_der(&self) -> Vec<u8> {
        let key = self.tbs().subject_public_key_info();
        key.to_der().unwrap_or_default()
    }

    /// The key itself: a point, an RSAPublicKey, 32 bytes.
    pub(super) fn public_key_bits(&self) -> &[u8] {
        let key = self.tbs().subject_public_key_info();
        key.subject_public_key.raw_bytes()
    }

    /// The SHA-1 hash of its public key, by which a CERTREQ names an authority (RFC 7296 §3.7).
    #[must_use]
    pub fn key_hash(&self) -> [u8; 20] {
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &self.public_key_der());
        hash.as_ref().try_into().unwrap_or_default()
    }

    /// The SHA-256 hash of the whole, in hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let hash = digest::digest(&digest::SHA256, &self.der);
        let bytes = hash.as_ref().iter();
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// Kind and strength of its key.
    #[must_use]
    pub fn key_kind(&self) -> KeyKind {
        let key = self.tbs().subject_public_key_info();
        let curve = || {
            let parameters = key.algorithm.parameters.as_ref()?;
            parameters.decode_as::<ObjectIdentifier>().ok()
        };
        match key.algorithm.oid.to_string().as_str() {
            "1.2.840.113549.1.1.1" => rsa_bits(self.public_key_bits())
                .map_or(KeyKind::Other, |bits| KeyKind::Rsa { bits }),
            "1.2.840.10045.2.1" => match curve().map(|oid| oid.to_string()).as_deref() {
                Some("1.2.840.10045.3.1.7") => KeyKind::EcdsaP256,
                Some("1.3.132.0.34") => KeyKind::EcdsaP384,
                _ => KeyKind::Other,
            },
            "1.3.101.112" => KeyKind::Ed25519,
            _ => KeyKind::Other,
        }
    }

    /// Basic constraints say that it may issue certificates (RFC 5280 §4.2.1.9).
    #[must_use]
    pub fn is_ca(&self) -> bool {
        matches!(
            self.tbs().get_extension::<BasicConstraints>(),
            Ok(Some((_, BasicConstraints { ca: true, .. })))
        )
    }

    /// Key usages by their names in RFC 5280 §4.2.1.3; `None` without the extension.
    #[must_use]
    pub fn key_usages(&self) -> Option<Vec<&'static str>> {
        let (_, usage) = self.tbs().get_extension::<KeyUsage>().ok()??;
        let usages = [
            (usage.digital_signature(), "digitalSignature"),
            (usage.non_repudiation(), "nonRepudiation"),
            (usage.key_encipherment(), "keyEncipherment"),
            (usage.data_encipherment(), "dataEncipherment"),
            (usage.key_agreement(), "keyAgreement"),
            (usage.key_cert_sign(), "keyCertSign"),
            (usage.crl_sign(), "cRLSign"),
        ];
        let named = usages.into_iter().filter(|(set, _)| *set);
        Some(named.map(|(_, name)| name).collect())
    }

    /// Extended key usages, by name where there is one; `None` without the extension.
    #[must_use]
    pub fn extended_key_usages(&self) -> Option<Vec<String>> {
        let name = |oid: String| match oid.as_str() {
            IPSEC_IKE => "ipsecIKE".to_owned(),
            IKE_INTERMEDIATE => "ikeIntermediate".to_owned(),
            ANY_EXTENDED_KEY_USAGE => "anyExtendedKeyUsage".to_owned(),
            SERVER_AUTH => "serverAuth".to_owned(),
            CLIENT_AUTH => "clientAuth".to_owned(),
            _ => oid,
        };
        let (_, usage) = self.tbs().get_extension::<ExtendedKeyUsage>().ok()??;
        Some(usage.0.iter().map(|oid| name(oid.to_string())).collect())
    }

    /// The identities in its subjectAltName: domain names, mail addresses, IP addresses, names.
    #[must_use]
    pub fn alternative_names(&self) -> Vec<Identity> {
        let names = self.tbs().get_extension::<SubjectAltName>();
        let Ok(Some((_, SubjectAltName(names)))) = names else {
            return Vec::new();
        };
        names.iter().filter_map(identity).collect()
    }

    /// Is `id` one of its names? As RFC 4945 §3.1: in subjectAltName, or the subject itself.
    #[must_use]
    pub fn names(&self, id: &Identity) -> bool {
        self.subject_is(id) || self.alternative_names().iter().any(|name| name.is(id))
    }

    fn subject_is(&self, id: &Identity) -> bool {
        id.kind() == IdType::DER_ASN1_DN
            && !self.tbs().subject().is_empty()
            && dn::same(&self.subject_der(), id.data())
    }

    /// Its subject as an identity; `None` if that is empty.
    #[must_use]
    pub fn subject_id(&self) -> Option<Identity> {
        let named = !self.tbs().subject().is_empty();
        named.then(|| Identity::new(IdType::DER_ASN1_DN, self.subject_der()))
    }

    /// The identifier of its key, which certificates that it issues refer to (RFC 5280 §4.2.1.2).
    #[must_use]
    pub fn key_identifier(&self) -> Option<Vec<u8>> {
        let found = self.tbs().get_extension::<SubjectKeyIdentifier>();
        Some(found.ok()??.1.0.as_bytes().to_vec())
    }

    /// Where somebody could ask whether it is revoked.
    pub(super) fn has_revocation_uri(&self) -> bool {
        const OCSP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1");
        let points = self.tbs().get_extension::<CrlDistributionPoints>();
        let access = self.tbs().get_extension::<AuthorityInfoAccessSyntax>();
        matches!(points, Ok(Some((_, points))) if !points.0.is_empty())
            || matches!(access, Ok(Some((_, access)))
                if access.0.iter().any(|one| one.access_method == OCSP))
    }

    /// Refuses it outside its time.
    pub(super) fn check_time(&self, now: Duration) -> Result<(), CertError> {
        let (from, until) = (self.not_before(), self.not_after());
        let (fault, detail) = if now < from {
            let wait = validity::span(from.saturating_sub(now));
            let text = format!(
                "is not valid before {} ({wait} from now)",
                validity::date(from)
            );
            (CertFault::NotYetValid, text)
        } else if now > until {
            let since = validity::span(now.saturating_sub(until));
            let text = format!("expired on {} ({since} ago)", validity::date(until));
            (CertFault::Expired, text)
        } else {
            return Ok(());
        };
        Err(CertError::new(fault, Some(self), detail))
    }

    /// Refuses keys that are too short.
    pub(super) fn check_strength(&self) -> Result<(), CertError> {
        match self.key_kind() {
            KeyKind::Rsa { bits } if bits < MIN_RSA_BITS => {
                let detail = format!("has an RSA key of {bits} bits: {MIN_RSA_BITS} are the least");
                Err(CertError::new(CertFault::WeakKey, Some(self), detail))
            }
            _ => Ok(()),
        }
    }

    /// Refuses signatures over broken hash functions.
    pub(super) fn check_signature_algorithm(&self) -> Result<(), CertError> {
        let oid = self.parsed.signature_algorithm().oid.to_string();
        let Some((_, hash)) = BROKEN_SIGNATURES.iter().find(|(known, _)| *known == oid) else {
            return Ok(());
        };
        let detail = format!("is signed over a {hash} hash, which proves nothing any more");
        Err(CertError::new(CertFault::WeakSignature, Some(self), detail))
    }

    /// Refuses what may not issue certificates.
    pub(super) fn check_ca(&self) -> Result<(), CertError> {
        if !self.is_ca() {
            let detail = "is no certificate authority (basicConstraints CA:TRUE is missing)";
            return Err(CertError::new(CertFault::NotACa, Some(self), detail));
        }
        match self.key_usages() {
            Some(usages) if !usages.contains(&"keyCertSign") => {
                let detail = "may not sign certificates (keyUsage without keyCertSign)";
                Err(CertError::new(CertFault::KeyUsage, Some(self), detail))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what may not authenticate a peer: RFC 4945 §5.1.3.2 and §5.1.3.12.
    pub(super) fn check_end_entity(&self) -> Result<(), CertError> {
        let refuse = |fault, detail: String| Err(CertError::new(fault, Some(self), detail));
        if self.is_ca() {
            let detail = "is that of a certificate authority, not of a peer".to_owned();
            return refuse(CertFault::NotACa, detail);
        }
        if let Some(usages) = self.key_usages()
            && !usages.contains(&"digitalSignature")
            && !usages.contains(&"nonRepudiation")
        {
            let detail = format!(
                "may not sign: keyUsage is {}, without digitalSignature",
                usages.join(", ")
            );
            return refuse(CertFault::KeyUsage, detail);
        }
        let usages = self.tbs().get_extension::<ExtendedKeyUsage>();
        if let Ok(Some((_, usages))) = &usages
            && !usages
                .0
                .iter()
                .any(|oid| IKE_USAGES.contains(&oid.to_string().as_str()))
        {
            let has = self.extended_key_usages().unwrap_or_default().join(", ");
            let detail = format!(
                "is not for IKE: extendedKeyUsage is {has}, without ipsecIKE, ikeIntermediate, \
                 serverAuth or clientAuth"
            );
            return refuse(CertFault::KeyUsage, detail);
        }
        if usages.is_err() {
            let detail = "has an extendedKeyUsage that cannot be read".to_owned();
            return refuse(CertFault::Malformed, detail);
        }
        Ok(())
    }

    /// Refuses it as proof of another identity.
    pub(super) fn check_name(&self, id: &Identity) -> Result<(), CertError> {
        if self.names(id) {
            return Ok(());
        }
        let names: Vec<_> = self.subject_id().into_iter().collect();
        let names: Vec<_> = names
            .iter()
            .chain(&self.alternative_names())
            .map(|name| format!("\"{name}\""))
            .collect();
        let detail = format!(
            "does not name \"{id}\": it names {}",
            if names.is_empty() {
                "nobody".to_owned()
            } else {
                names.join(", ")
            }
        );
        Err(CertError::new(CertFault::WrongName, Some(self), detail))
    }
}

fn identity(name: &GeneralName) -> Option<Identity> {
    Some(match name {
        GeneralName::DnsName(name) => Identity::new(IdType::FQDN, name.as_bytes().to_vec()),
        GeneralName::Rfc822Name(name) => {
            Identity::new(IdType::RFC822_ADDR, name.as_bytes().to_vec())
        }
        GeneralName::IpAddress(address) => match address.as_bytes() {
            bytes if bytes.len() == 4 => Identity::from(core::net::IpAddr::V4(Ipv4Addr::from(
                <[u8; 4]>::try_from(bytes).ok()?,
            ))),
            bytes => Identity::from(core::net::IpAddr::V6(Ipv6Addr::from(
                <[u8; 16]>::try_from(bytes).ok()?,
            ))),
        },
        GeneralName::DirectoryName(name) => Identity::new(IdType::DER_ASN1_DN, name.to_der().ok()?),
        _ => return None,
    })
}

/// Bits of the modulus of an RSAPublicKey (RFC 8017 appendix A.1.1).
fn rsa_bits(der: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(der).ok()?;
    let modulus = reader.sequence(|inner| {
        let modulus = UintRef::decode(inner)?;
        UintRef::decode(inner)?;
        Ok::<_, x509_cert::der::Error>(modulus)
    });
    let bytes = modulus.ok()?.as_bytes();
    let first = bytes.first()?;
    (bytes.len() * 8).checked_sub(usize::try_from(first.leading_zeros()).ok()?)
}
