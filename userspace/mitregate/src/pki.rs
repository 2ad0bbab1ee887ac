//! A small certificate authority: a folder with `ca.crt`, `ca.key` and `crl.pem`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use mitregate_control::cert::{
    AuthRule, Certificate, Crl, PrivateKey, Revocation, TrustStore, sections,
};
use mitregate_control::{Identity, NameAttribute};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, DnValue, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, RsaKeySize, SanType, SerialNumber, date_time_ymd,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::clock;
use crate::config::files;

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const CRL: &str = "crl.pem";
/// What an authority is valid for, if nobody says otherwise.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86400);
/// What a device's certificate is valid for.
const DEVICE_LIFETIME: Duration = Duration::from_secs(2 * 365 * 86400);
/// Clocks differ: certificates are valid from a little before they are made.
const SKEW: Duration = Duration::from_secs(300);
const COMMON_NAME: &str = "2.5.4.3";
const UTF8_STRING: u8 = 12;
/// RFC 8410 §7: version 1, which OpenSSL and others read; then the 32 bytes.
const ED25519_PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)]
pub enum KeyType {
    Ed25519,
    Ecdsa256,
    Ecdsa384,
    Rsa2048,
    Rsa3072,
}

impl KeyType {
    fn generate(self) -> Result<KeyPair> {
        let ecdsa = |algorithm| KeyPair::generate_for(algorithm);
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        Ok(match self {
            Self::Ed25519 => {
                let mut der = Zeroizing::new([0; 48]);
                der[..16].copy_from_slice(&ED25519_PKCS8);
                random(&mut der[16..])?;
                KeyPair::try_from(&der[..])?
            }
            Self::Ecdsa256 => ecdsa(&rcgen::PKCS_ECDSA_P256_SHA256)?,
            Self::Ecdsa384 => ecdsa(&rcgen::PKCS_ECDSA_P384_SHA384)?,
            Self::Rsa2048 => rsa(RsaKeySize::_2048)?,
            Self::Rsa3072 => rsa(RsaKeySize::_3072)?,
        })
    }
}

/// What to make a certificate with.
pub struct Order<'a> {
    /// A distinguished name, or a common name.
    pub name: Option<&'a str>,
    /// Kind of the key.
    pub key: KeyType,
    /// How long it is valid; `None`: the usual time, but not longer than its issuer.
    pub lifetime: Option<Duration>,
    /// Overwrite what is there.
    pub force: bool,
}

/// Makes an authority in `out`, below another one if `issuer` is its folder. Gives the files written.
pub fn make_ca(out: &Path, issuer: Option<&Path>, order: &Order<'_>) -> Result<Vec<PathBuf>> {
    let above = issuer.map(Authority::open).transpose()?;
    let name = order.name.unwrap_or("Mitregate CA");
    let mut params = CertificateParams::default();
    params.distinguished_name = match &above {
        Some(above) => above.below(name)?,
        None => distinguished_name(&full_name(name)?)?,
    };
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = order.key.generate()?;
    set_times(&mut params, order.lifetime, CA_LIFETIME, above.as_ref())?;
    params.serial_number = Some(serial_number()?);
    let certificate = match &above {
        Some(above) => {
            params.use_authority_key_identifier_extension = true;
            params.signed_by(&key, &above.issuer)?
        }
        None => params.self_signed(&key)?,
    };
    let mut pem = certificate.pem();
    if let Some(above) = &above {
        pem += &above.chain_pem();
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let paths = [CERTIFICATE, KEY, CRL].map(|name| out.join(name));
    refuse_to_overwrite(&paths, order.force)?;
    write(&paths[1], &Zeroizing::new(key.serialize_pem()), 0o600)?;
    write(&paths[0], &pem, 0o644)?;
    Authority::open(out)?.write_crl(&[], crate::pki::CRL_LIFETIME)?;
    Ok(paths.into())
}

/// How long a revocation list is current.
pub const CRL_LIFETIME: Duration = Duration::from_secs(30 * 86400);

/// Makes a key and a certificate of a device in the folder `out`. `names` are domain names, mail
/// addresses and IP addresses; `file` is what the files are called.
pub fn issue(
    ca: &Path,
    names: &[String],
    out: &Path,
    file: Option<&str>,
    order: &Order<'_>,
) -> Result<Vec<PathBuf>> {
    let ca = Authority::open(ca)?;
    let first = names.first().context("at least one --san is needed")?;
    let name = order.name.unwrap_or(first);
    let mut params = CertificateParams::default();
    params.distinguished_name = ca.below(name)?;
    params.subject_alt_names = names.iter().map(|name| san(name)).collect::<Result<_>>()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // ipsecIKE (RFC 4945) by name, and what other implementations ask for.
    params.extended_key_usages = vec![
        Usage::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17]),
        Usage::ServerAuth,
        Usage::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial_number()?);
    set_times(&mut params, order.lifetime, DEVICE_LIFETIME, Some(&ca))?;
    let key = order.key.generate()?;
    let certificate = params.signed_by(&key, &ca.issuer)?;
    ca.vouch_for(certificate.der())?;
    let base = match file {
        Some(file) => file.to_owned(),
        None => file_name(
            order
                .name
                .filter(|name| !name.contains('='))
                .unwrap_or(first),
        ),
    };
    ensure!(
        !base.is_empty() && !base.starts_with('.') && !base.contains('/'),
        "{base:?} is not the name of a file"
    );
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let paths = [
        out.join(format!("{base}.crt")),
        out.join(format!("{base}.key")),
    ];
    refuse_to_overwrite(&paths, order.force)?;
    write(&paths[1], &Zeroizing::new(key.serialize_pem()), 0o600)?;
    write(&paths[0], &(certificate.pem() + &ca.chain_pem()), 0o644)?;
    Ok(paths.into())
}

/// Revokes a certificate, and writes a new list.
pub fn revoke(ca: &Path, certificate: &Path) -> Result<PathBuf> {
    let ca = Authority::open(ca)?;
    let shown = certificate.display();
    let found = files::certificates(&read(certificate)?).map_err(|e| anyhow!("{shown} {e}"))?;
    let certificate = &found[0];
    ensure!(
        certificate.issuer() == ca.certificate.subject(),
        "{shown} was issued by \"{}\", not by \"{}\"",
        certificate.issuer(),
        ca.certificate.subject()
    );
    ca.write_crl(&[certificate.serial_bytes().to_vec()], CRL_LIFETIME)
}

/// Writes the list anew, to be current for `lifetime` from now.
pub fn renew_crl(ca: &Path, lifetime: Duration) -> Result<PathBuf> {
    Authority::open(ca)?.write_crl(&[], lifetime)
}

/// What is in a file with certificates, revocation lists or a private key, as an array.
pub fn show(path: &Path) -> Result<Value> {
    let bytes = read(path)?;
    let shown = path.display();
    let sections = sections(&bytes).map_err(|error| anyhow!("{shown}: {error}"))?;
    if sections.is_empty() {
        let item = certificate_value(&bytes)
            .or_else(|_| crl_value(&bytes))
            .or_else(|_| key_value(&bytes));
        let item = item.map_err(|_| {
            anyhow!("{shown} is neither a certificate, nor a revocation list, nor a private key")
        })?;
        return Ok(json!([item]));
    }
    let items: Result<Vec<_>> = sections
        .iter()
        .map(|section| match section.label.as_str() {
            "X509 CRL" => crl_value(&section.der),
            label if label.ends_with("PRIVATE KEY") => key_value(&section.der),
            "CERTIFICATE" | "X509 CERTIFICATE" => certificate_value(&section.der),
            label => bail!("{label:?} is not shown here"),
        })
        .collect();
    items.map(Value::from).with_context(|| shown.to_string())
}

fn certificate_value(der: &[u8]) -> Result<Value> {
    let certificate = Certificate::from_der(der)?;
    let [not_before, not_after] = certificate.validity();
    let now = clock::unix_time();
    let status = if now < certificate.not_before() {
        "not yet valid"
    } else if now > certificate.not_after() {
        "expired"
    } else {
        "valid"
    };
    let names: Vec<_> = certificate
        .alternative_names()
        .iter()
        .map(ToString::to_string)
        .collect();
    Ok(json!({
        "kind": "certificate",
        "subject": certificate.subject(),
        "names": names,
        "issuer": certificate.issuer(),
        "serial": certificate.serial(),
        "not_before": not_before,
        "not_after": not_after,
        "status": status,
        "key": certificate.key_kind().to_string(),
        "ca": certificate.is_ca(),
        "key_usage": certificate.key_usages(),
        "extended_key_usage": certificate.extended_key_usages(),
        "sha256": certificate.fingerprint(),
    }))
}

fn crl_value(der: &[u8]) -> Result<Value> {
    let crl = Crl::from_der(der)?;
    let now = clock::unix_time();
    let current = crl.next_update().is_none_or(|next| now <= next);
    let serials: Vec<_> = crl.revoked().iter().map(|(serial, _)| serial).collect();
    Ok(json!({
        "kind": "crl",
        "issuer": crl.issuer(),
        "this_update": crl.dates()[0],
        "next_update": crl.dates()[1],
        "status": if current { "current" } else { "out of date" },
        "revoked": serials,
    }))
}

fn key_value(der: &[u8]) -> Result<Value> {
    let key = PrivateKey::from_bytes(der)?;
    Ok(json!({"kind": "private key", "key": key.kind().to_string()}))
}

/// An authority that can sign.
struct Authority {
    dir: PathBuf,
    certificate: Certificate,
    /// Its own certificate and those above it, without the root.
    chain: Vec<Certificate>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn open(dir: &Path) -> Result<Self> {
        let (path, key) = (dir.join(CERTIFICATE), dir.join(KEY));
        let shown = path.display();
        let chain = files::certificates(&read(&path)?).map_err(|e| anyhow!("{shown} {e}"))?;
        let certificate = chain[0].clone();
        let pem = files::private(&key).map_err(anyhow::Error::msg)?;
        let private =
            PrivateKey::from_bytes(&pem).map_err(|error| anyhow!("{}: {error}", key.display()))?;
        ensure!(
            private.belongs_to(&certificate) && certificate.is_ca(),
            "{} is not the key of an authority in {shown}",
            key.display()
        );
        let pem = Zeroizing::new(String::from_utf8(pem.to_vec()).context("the key is no PEM")?);
        let mut params = CertificateParams::default();
        let subject = certificate
            .subject_id()
            .context("the authority has no name")?;
        params.distinguished_name = distinguished_name(&subject)?;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if let Some(id) = certificate.key_identifier() {
            params.key_identifier_method = KeyIdMethod::PreSpecified(id);
        }
        let chain = chain
            .into_iter()
            .filter(|one| !one.is_self_issued())
            .collect();
        Ok(Self {
            dir: dir.to_owned(),
            certificate,
            chain,
            issuer: Issuer::new(params, KeyPair::from_pem(&pem)?),
        })
    }

    /// What is sent after a certificate that it has issued.
    fn chain_pem(&self) -> String {
        self.chain
            .iter()
            .map(|one| pem("CERTIFICATE", one.der()))
            .collect()
    }

    /// A name as it stands, or a common name beside the rest of our own name.
    fn below(&self, name: &str) -> Result<DistinguishedName> {
        if name.contains('=') {
            return distinguished_name(&full_name(name)?);
        }
        let subject = self.certificate.subject_id();
        let attributes = subject.and_then(|id| id.attributes()).unwrap_or_default();
        let mut attributes: Vec<_> = attributes
            .into_iter()
            .filter(|attribute| attribute.oid != COMMON_NAME)
            .collect();
        attributes.push(NameAttribute {
            oid: COMMON_NAME.to_owned(),
            tag: UTF8_STRING,
            value: name.as_bytes().to_vec(),
        });
        from_attributes(&attributes)
    }

    /// Would we ourselves accept what we have issued?
    fn vouch_for(&self, der: &[u8]) -> Result<()> {
        let certificate = Certificate::from_der(der)?;
        let id = certificate
            .subject_id()
            .context("a certificate without a name")?;
        let trust = TrustStore::new(
            vec![self.certificate.clone()],
            Vec::new(),
            Vec::new(),
            Revocation::Relaxed,
            AuthRule::default(),
        )?;
        trust.verify(&[der.to_vec()], &id, clock::unix_time())?;
        Ok(())
    }

    fn write_crl(&self, more: &[Vec<u8>], lifetime: Duration) -> Result<PathBuf> {
        let path = self.dir.join(CRL);
        let now = clock::unix_time();
        let mut revoked: Vec<(Vec<u8>, Duration)> = Vec::new();
        if path.exists() {
            let shown = path.display();
            let lists = files::crls(&read(&path)?).map_err(|e| anyhow!("{shown} {e}"))?;
            let ours = lists
                .iter()
                .filter(|l| l.issuer() == self.certificate.subject());
            for (serial, at) in ours.flat_map(Crl::revoked) {
                revoked.push((unhex(serial)?, *at));
            }
        }
        for serial in more {
            if revoked.iter().all(|(known, _)| known != serial) {
                revoked.push((serial.clone(), now));
            }
        }
        let params = CertificateRevocationListParams {
            this_update: date(now),
            next_update: date(now + lifetime),
            // It must grow (RFC 5280 §5.2.3), and lists are not made twice in a second.
            crl_number: SerialNumber::from(now.as_secs()),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|(serial, at)| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(serial),
                    revocation_time: date(*at),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: match self.certificate.key_identifier() {
                Some(id) => KeyIdMethod::PreSpecified(id),
                None => KeyIdMethod::Sha256,
            },
        };
        let crl = params.signed_by(&self.issuer)?.pem()?;
        // In one step: who reads it meanwhile sees the old one or the new one.
        let new = self.dir.join("crl.pem.new");
        let _ = fs::remove_file(&new);
        write(&new, &crl, 0o644)?;
        fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

fn set_times(
    params: &mut CertificateParams,
    lifetime: Option<Duration>,
    usual: Duration,
    issuer: Option<&Authority>,
) -> Result<()> {
    let now = clock::unix_time();
    let mut until = now + lifetime.unwrap_or(usual);
    if let Some(issuer) = issuer {
        let end = issuer.certificate.not_after();
        let [_, shown] = issuer.certificate.validity();
        ensure!(now < end, "the authority itself expired on {shown}");
        ensure!(
            lifetime.is_none() || until <= end,
            "that is longer than the authority itself is valid: until {shown}"
        );
        until = until.min(end);
    }
    params.not_before = date(now.saturating_sub(SKEW));
    params.not_after = date(until);
    Ok(())
}

fn full_name(name: &str) -> Result<Identity> {
    let text = match name.contains('=') {
        true => name.to_owned(),
        false => format!("CN={}", name.replace('\\', "\\\\").replace(',', "\\,")),
    };
    let id: Option<Identity> = text.parse().ok();
    id.filter(|id| id.attributes().is_some())
        .with_context(|| format!("{name:?} is not a name such as \"C=CH, O=Lab, CN=gw\""))
}

fn distinguished_name(id: &Identity) -> Result<DistinguishedName> {
    from_attributes(&id.attributes().unwrap_or_default())
}

fn from_attributes(attributes: &[NameAttribute]) -> Result<DistinguishedName> {
    let mut name = DistinguishedName::new();
    for attribute in attributes {
        let arcs: Result<Vec<u64>, _> = attribute.oid.split('.').map(str::parse).collect();
        let kind = DnType::from_oid(&arcs?);
        ensure!(
            name.get(&kind).is_none(),
            "two attributes of one type in a name are not supported"
        );
        let value = attribute.value.clone();
        let text = || String::from_utf8(attribute.value.clone());
        name.push(
            kind,
            match attribute.tag {
                12 => DnValue::Utf8String(text()?),
                19 => DnValue::PrintableString(text()?.try_into()?),
                22 => DnValue::Ia5String(text()?.try_into()?),
                20 => DnValue::TeletexString(text()?.try_into()?),
                30 => DnValue::BmpString(rcgen::string::BmpString::from_utf16be(value)?),
                tag => bail!("a name with a value of ASN.1 tag {tag} is not supported"),
            },
        );
    }
    Ok(name)
}

/// An alternative name, by what it looks like.
fn san(name: &str) -> Result<SanType> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let wrong = || format!("{name:?} is not an IP address, a mail address or a domain name");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte);
    ensure!(
        !name.is_empty() && name.len() <= 253 && name.bytes().all(plain),
        wrong()
    );
    Ok(match name.matches('@').count() {
        0 => SanType::DnsName(name.try_into()?),
        1 => SanType::Rfc822Name(name.try_into()?),
        _ => bail!(wrong()),
    })
}

/// Letters, digits and little else.
fn file_name(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.@".contains(c);
    let safe = name.chars().map(|c| if plain(c) { c } else { '_' });
    safe.collect::<String>().trim_start_matches('.').to_owned()
}

/// 16 random bytes, positive and not zero (RFC 5280 §4.1.2.2).
fn serial_number() -> Result<SerialNumber> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn random(bytes: &mut [u8]) -> Result<()> {
    let flags = rustix::rand::GetRandomFlags::empty();
    let got = rustix::rand::getrandom(&mut *bytes, flags).context("no random bytes")?;
    ensure!(got == bytes.len(), "too few random bytes");
    Ok(())
}

/// The moment, to the second; which is what certificates have.
fn date(unix_time: Duration) -> time::OffsetDateTime {
    date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_time.as_secs())
}

fn unhex(digits: &str) -> Result<Vec<u8>> {
    let byte = |at| {
        digits
            .get(at..at + 2)
            .map(|pair| u8::from_str_radix(pair, 16))
    };
    (0..digits.len())
        .step_by(2)
        .map(|at| Ok(byte(at).context("odd digits")??))
        .collect()
}

fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut base64 = String::new();
    for group in der.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at) & 63) as usize;
            let symbol = if at <= group.len() {
                ALPHABET[index]
            } else {
                b'='
            };
            base64.push(char::from(symbol));
        }
    }
    let lines: String = base64
        .as_bytes()
        .chunks(64)
        .map(|line| format!("{}\n", String::from_utf8_lossy(line)))
        .collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    files::public(path).map_err(anyhow::Error::msg)
}

/// Before anything is written, so that nothing is left half done.
fn refuse_to_overwrite(paths: &[PathBuf], force: bool) -> Result<()> {
    for path in paths {
        if !path.exists() {
            continue;
        }
        ensure!(
            force,
            "{} is there already: --force overwrites it",
            path.display()
        );
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    let shown = path.display();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("cannot make {shown}"))?;
    file.write_all(content.as_bytes())
        .with_context(|| format!("cannot write {shown}"))
}
