//! Authorities and certificates for tests, made by rcgen.

use core::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber, date_time_ymd,
};

use super::*;

/// The time at which tests look at certificates: 2026-06-01 00:00 UTC.
pub(crate) const NOW: Duration = Duration::from_secs(1_780_272_000);

pub(crate) struct Authority(pub(crate) CertifiedIssuer<'static, KeyPair>);

pub(crate) struct Leaf {
    pub(crate) certificate: Certificate,
    pub(crate) key: KeyPair,
}

impl Leaf {
    pub(crate) fn private_key(&self) -> PrivateKey {
        PrivateKey::from_bytes(&self.key.serialize_der()).unwrap()
    }
}

/// Valid from 2026-01-01 to 2027-01-01, `C=CH, O=Lab` and the name.
pub(crate) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "CH");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Lab");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn ed25519() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    pub(crate) fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        change(&mut params);
        Self(CertifiedIssuer::self_signed(params, ed25519()).unwrap())
    }

    pub(crate) fn intermediate(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = ca_params(name);
        change(&mut params);
        Self(CertifiedIssuer::signed_by(params, ed25519(), &self.0).unwrap())
    }

    pub(crate) fn certificate(&self) -> Certificate {
        Certificate::from_der(self.0.der()).unwrap()
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// Names `NAME.lab` and `NAME@lab`.
    pub(crate) fn issue(&self, name: &str) -> Leaf {
        self.issue_with(name, ed25519(), |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        name: &str,
        key: KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut params = params(name);
        params.subject_alt_names = vec![
            SanType::DnsName(format!("{name}.lab").try_into().unwrap()),
            SanType::Rfc822Name(format!("{name}@lab").try_into().unwrap()),
        ];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Leaf {
            certificate: Certificate::from_der(certificate.der()).unwrap(),
            key,
        }
    }

    /// A list of May 2026, current until July.
    pub(crate) fn crl(&self, revoked: &[&Certificate]) -> Crl {
        self.crl_until(revoked, 7)
    }

    pub(crate) fn crl_until(&self, revoked: &[&Certificate], month: u8) -> Crl {
        let revoked = revoked.iter().map(|certificate| RevokedCertParams {
            serial_number: SerialNumber::from_slice(certificate.serial_bytes()),
            revocation_time: date_time_ymd(2026, 4, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 4, 1),
            next_update: date_time_ymd(2026, month, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Crl::from_der(params.signed_by(&self.0).unwrap().der()).unwrap()
    }
}

/// Trusts these authorities, and nothing else.
pub(crate) fn trust(authorities: &[&Authority]) -> TrustStore {
    trust_with(authorities, Vec::new(), Revocation::Relaxed)
}

pub(crate) fn trust_with(
    authorities: &[&Authority],
    crls: Vec<Crl>,
    revocation: Revocation,
) -> TrustStore {
    let authorities = authorities.iter().map(|a| a.certificate()).collect();
    TrustStore::new(
        authorities,
        Vec::new(),
        crls,
        revocation,
        AuthRule::default(),
    )
    .unwrap()
}
