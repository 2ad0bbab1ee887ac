//! Certificates in the configuration: what is right, and each thing that can be wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use mitregate::config::Settings;
use mitregate_control::{LocalAuth, RemoteAuth};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    date_time_ymd,
};

const CONFIG: &str = r#"[outer]
interface = "wan"

[connections.gw]
local_addrs = ["203.0.113.1"]

[connections.gw.local]
id = "gw.lab"
certs = ["gw.crt"]
keys = ["gw.key"]

[connections.gw.remote]
id = "*@lab"
cacerts = ["ca.crt"]

[connections.gw.children.net]
local_ts = ["10.2.0.0/24"]
remote_ts = ["10.1.0.0/24"]
"#;

struct Files(tempfile::TempDir);

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![format!("{name}.lab")]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, key()).unwrap()
}

impl Files {
    /// Everything that the configuration names, in order.
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let ca = authority("ca");
        let key = key();
        let certificate = named("gw").signed_by(&key, &ca).unwrap();
        files.write("ca.crt", 0o644, &ca.pem());
        files.write("gw.crt", 0o644, &(certificate.pem() + &ca.pem()));
        files.write("gw.key", 0o600, &key.serialize_pem());
        files
    }

    fn write(&self, name: &str, mode: u32, content: &str) {
        let path = self.path(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, text: &str) -> Result<Settings, Vec<mitregate::config::ConfigError>> {
        self.write("mitregate.toml", 0o600, text);
        Settings::load(&self.path("mitregate.toml"))
    }

    /// The one error, which names this field and line, and says this.
    #[track_caller]
    fn refuses(&self, text: &str, line: usize, field: &str, says: &[&str]) {
        let errors = self.load(text).err().expect("is refused");
        assert_eq!(errors.len(), 1, "{errors:?}");
        let error = &errors[0];
        assert_eq!(
            (error.line, error.field.as_str()),
            (Some(line), field),
            "{error}"
        );
        for text in says {
            assert!(
                error.message.contains(text),
                "{error} does not say {text:?}"
            );
        }
    }
}

#[test]
fn certificates_on_both_sides() {
    let files = Files::new();
    let settings = files.load(CONFIG).map_err(|e| e[0].to_string()).unwrap();
    let gw = &settings.control.connections[0];
    assert!(matches!(&gw.local_auth, LocalAuth::Pubkey(own) if own.list().len() == 1));
    assert!(matches!(&gw.remote_auth, RemoteAuth::Pubkey(trust) if trust.authorities().len() == 1));
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    // The other words; a DER file; no id, which makes the subject ours.
    fs::write(files.path("ca.der"), authority("other").der()).unwrap();
    let text = CONFIG
        .replace("id = \"gw.lab\"", "auth = \"ed25519\"\ncacerts = [\"ca.crt\"]")
        .replace(
            "cacerts = [\"ca.crt\"]\n\n",
            "auth = \"rsa/pss-3072-sha256\"\ncacerts = [\"ca.crt\", \"ca.der\"]\nrevocation = \"ifuri\"\n\n",
        );
    let settings = files.load(&text).map_err(|e| e[0].to_string()).unwrap();
    assert_eq!(
        settings.control.connections[0].local_id.to_string(),
        "CN=gw"
    );
}

#[test]
fn one_side_by_a_secret() {
    let files = Files::new();
    let secret = "\n[secrets.x]\nsecret = \"swordfish\"\n";
    let text = CONFIG.replace("cacerts = [\"ca.crt\"]", "auth = \"psk\"") + secret;
    let settings = files.load(&text).map_err(|e| e[0].to_string()).unwrap();
    let gw = &settings.control.connections[0];
    assert!(matches!(gw.local_auth, LocalAuth::Pubkey(_)));
    assert!(matches!(gw.remote_auth, RemoteAuth::Psk(_)));
    let both = CONFIG.replace("id = \"*@lab\"", "auth = \"psk\"") + secret;
    files.refuses(
        &both,
        14,
        "connections.gw.remote.cacerts",
        &["auth is \"psk\""],
    );
}

#[test]
fn what_is_missing_is_named() {
    let files = Files::new();
    let local = "connections.gw.local";
    files.refuses(
        &CONFIG.replace("keys = [\"gw.key\"]\n", ""),
        7,
        &format!("{local}.keys"),
        &["is missing", "0600"],
    );
    files.refuses(
        &CONFIG.replace("cacerts = [\"ca.crt\"]", "auth = \"pubkey\""),
        12,
        "connections.gw.remote.cacerts",
        &["is missing"],
    );
    files.refuses(
        &CONFIG.replace("gw.crt", "none.crt"),
        9,
        &format!("{local}.certs[0]"),
        &["cannot read", "none.crt"],
    );
    files.refuses(
        &CONFIG.replace("cacerts = [", "auth = \"dsa\"\ncacerts = ["),
        14,
        "connections.gw.remote.auth",
        &["\"dsa\" is not \"psk\" or \"pubkey\""],
    );
    files.refuses(
        &CONFIG.replace("cacerts = [", "revocation = \"strict\"\ncacerts = ["),
        14,
        "connections.gw.remote.revocation",
        &["needs crls"],
    );
}

#[test]
fn files_that_do_not_go_together() {
    let files = Files::new();
    let certs = "connections.gw.local.certs[0]";
    files.refuses(
        &CONFIG.replace("gw.lab", "client.lab"),
        9,
        certs,
        &[
            "\"CN=gw\" does not name \"client.lab\"",
            "it names \"CN=gw\", \"gw.lab\"",
        ],
    );
    files.write("gw.key", 0o600, &key().serialize_pem());
    files.refuses(CONFIG, 9, certs, &["none of the private keys", "\"CN=gw\""]);

    // A chain whose authority has the right name, and another key.
    let files = Files::new();
    let (ca, impostor, key) = (authority("ca"), authority("ca"), key());
    let certificate = named("gw").signed_by(&key, &ca).unwrap();
    files.write("gw.key", 0o600, &key.serialize_pem());
    files.write("gw.crt", 0o644, &(certificate.pem() + &impostor.pem()));
    files.refuses(CONFIG, 9, certs, &["is not by the key of the issuer"]);

    // An authority that is none.
    let files = Files::new();
    let (ca, key) = (authority("ca"), self::key());
    files.write(
        "ca.crt",
        0o644,
        &named("x").signed_by(&key, &ca).unwrap().pem(),
    );
    files.refuses(
        CONFIG,
        14,
        "connections.gw.remote.cacerts",
        &["\"CN=x\" is no certificate authority"],
    );
}

#[test]
fn private_keys_are_private_and_plain() {
    let files = Files::new();
    let keys = "connections.gw.local.keys[0]";
    let pem = fs::read_to_string(files.path("gw.key")).unwrap();
    files.write("gw.key", 0o640, &pem);
    files.refuses(CONFIG, 10, keys, &["readable by its group", "chmod 600"]);
    files.write(
        "gw.key",
        0o600,
        &pem.replace("PRIVATE", "ENCRYPTED PRIVATE"),
    );
    files.refuses(CONFIG, 10, keys, &["is encrypted", "openssl pkey"]);
    files.write("gw.key", 0o600, "nothing\n");
    files.refuses(CONFIG, 10, keys, &["is not a private key"]);
    let certificate = fs::read_to_string(files.path("gw.crt")).unwrap();
    files.write("gw.key", 0o600, &certificate);
    files.refuses(CONFIG, 10, keys, &["has no private key in it"]);
    files.write("gw.key", 0o600, &pem);
    files.write("gw.crt", 0o644, &pem);
    let certs = "connections.gw.local.certs[0]";
    files.refuses(CONFIG, 9, certs, &["has no certificate in it"]);
}

#[test]
fn what_is_about_to_expire_is_a_warning() {
    let files = Files::new();
    let (ca, key) = (authority("elsewhere"), key());
    let mut params = named("gw");
    params.not_after = date_time_ymd(2020, 1, 1);
    files.write("gw.key", 0o600, &key.serialize_pem());
    files.write("gw.crt", 0o644, &params.signed_by(&key, &ca).unwrap().pem());
    let settings = files.load(CONFIG).map_err(|e| e[0].to_string()).unwrap();
    let warnings: Vec<_> = settings.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("mitregate.toml:9: connections.gw.local.certs[0]"));
    assert!(warnings[0].contains("\"CN=gw\" expired on 2020-01-01"));
    assert!(
        warnings[1].contains("the peer must have it"),
        "{warnings:?}"
    );
}
