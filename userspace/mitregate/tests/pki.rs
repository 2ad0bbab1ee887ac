//! `mitregate pki`, judged by OpenSSL; and what OpenSSL makes, judged by us.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use mitregate_control::cert::{
    AuthRule, CertFault, Certificate, Crl, PrivateKey, Revocation, TrustStore, sections,
};
use serde_json::Value;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, program: &str, line: &str) -> Output {
        Command::new(program)
            .args(line.split(' ').map(|word| word.replace('~', " ")))
            .current_dir(self.0.path())
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error} (cargo xtask setup installs it)"))
    }

    /// Words are separated by blanks; a tilde stands for a blank within one.
    #[track_caller]
    fn pki(&self, line: &str) -> String {
        let output = self.run(env!("CARGO_BIN_EXE_mitregate"), &format!("pki {line}"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn pki_refuses(&self, line: &str, says: &str) {
        let output = self.run(env!("CARGO_BIN_EXE_mitregate"), &format!("pki {line}"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{line}");
        assert!(error.contains(says), "{line}: {error}");
    }

    #[track_caller]
    fn openssl(&self, line: &str) -> String {
        let output = self.run("openssl", line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn certificates(&self, name: &str) -> Vec<Certificate> {
        let found = sections(&fs::read(self.path(name)).unwrap()).unwrap();
        found
            .iter()
            .map(|section| Certificate::from_der(&section.der).unwrap())
            .collect()
    }

    fn trust(&self, ca: &str, crl: Option<&str>) -> TrustStore {
        let crls = crl.map(|crl| {
            let found = sections(&fs::read(self.path(crl)).unwrap()).unwrap();
            Crl::from_der(&found[0].der).unwrap()
        });
        let crls: Vec<_> = crls.into_iter().collect();
        let revocation = match crls.is_empty() {
            true => Revocation::Relaxed,
            false => Revocation::Strict,
        };
        let authorities = self.certificates(ca);
        TrustStore::new(
            authorities,
            Vec::new(),
            crls,
            revocation,
            AuthRule::default(),
        )
        .unwrap()
    }

    fn verify(&self, trust: &TrustStore, file: &str, id: &str) -> Result<(), CertFault> {
        let chain: Vec<_> = self
            .certificates(file)
            .iter()
            .map(|c| c.der().to_vec())
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let id = id.parse().unwrap();
        trust
            .verify(&chain, &id, now)
            .map(|_| ())
            .map_err(|error| error.fault)
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn openssl_verifies_what_we_make() {
    let dir = Dir::new();
    dir.pki("ca --name C=CH,~O=Lab,~CN=Lab~CA --out ca");
    assert_eq!(mode(&dir.path("ca/ca.key")), 0o600);
    for kind in ["ed25519", "ecdsa256", "ecdsa384", "rsa2048", "rsa3072"] {
        dir.pki(&format!(
            "issue --ca ca --san {kind}.lab --san 192.0.2.1 --san {kind}@lab --type {kind}"
        ));
        let [crt, key] = ["crt", "key"].map(|end| format!("{kind}.lab.{end}"));
        assert_eq!(mode(&dir.path(&key)), 0o600);
        dir.openssl(&format!(
            "verify -x509_strict -CAfile ca/ca.crt -purpose sslserver {crt}"
        ));
        dir.openssl(&format!(
            "verify -CAfile ca/ca.crt -verify_hostname {kind}.lab {crt}"
        ));
        dir.openssl(&format!(
            "verify -CAfile ca/ca.crt -verify_ip 192.0.2.1 {crt}"
        ));
        dir.openssl(&format!(
            "verify -CAfile ca/ca.crt -verify_email {kind}@lab {crt}"
        ));
        // OpenSSL reads the key, and it is the certificate's.
        let of_key = dir.openssl(&format!("pkey -in {key} -pubout"));
        assert_eq!(
            of_key,
            dir.openssl(&format!("x509 -in {crt} -noout -pubkey"))
        );
        let trust = dir.trust("ca/ca.crt", None);
        assert_eq!(
            dir.verify(&trust, &crt, &format!("C=CH, O=Lab, CN={kind}.lab")),
            Ok(())
        );
    }
}

#[test]
fn intermediate_authorities_and_their_chains() {
    let dir = Dir::new();
    dir.pki("ca --name Root --out root --type ecdsa384");
    dir.pki("ca --name Upper --out upper --issuer root --type rsa2048");
    dir.pki("ca --name Lower --out lower --issuer upper");
    dir.pki("issue --ca lower --san gw.lab");
    assert_eq!(dir.certificates("gw.lab.crt").len(), 3);
    dir.openssl("verify -x509_strict -CAfile root/ca.crt -untrusted gw.lab.crt gw.lab.crt");
    let trust = dir.trust("root/ca.crt", None);
    assert_eq!(dir.verify(&trust, "gw.lab.crt", "gw.lab"), Ok(()));
    assert_eq!(
        dir.verify(&trust, "gw.lab.crt", "x.lab"),
        Err(CertFault::WrongName)
    );
}

#[test]
fn revocation_that_openssl_sees_too() {
    let dir = Dir::new();
    dir.pki("ca --name Root --out ca");
    dir.pki("issue --ca ca --san good.lab");
    dir.pki("issue --ca ca --san bad.lab");
    dir.pki("issue --ca ca --san worse.lab");
    dir.pki("revoke --ca ca bad.lab.crt");
    dir.pki("revoke --ca ca worse.lab.crt");
    dir.pki("crl --ca ca --lifetime 7d");
    let judged = |name: &str| {
        let line =
            format!("verify -CAfile ca/ca.crt -crl_check -CRLfile ca/crl.pem {name}.lab.crt");
        dir.run("openssl", &line).status.success()
    };
    assert_eq!(["good", "bad", "worse"].map(judged), [true, false, false]);
    let trust = dir.trust("ca/ca.crt", Some("ca/crl.pem"));
    let ours = |name: &str| dir.verify(&trust, &format!("{name}.lab.crt"), &format!("{name}.lab"));
    let revoked = Err(CertFault::Revoked);
    assert_eq!(
        ["good", "bad", "worse"].map(ours),
        [Ok(()), revoked, revoked]
    );
    dir.pki("ca --name Other --out other");
    dir.pki_refuses(
        "revoke --ca other good.lab.crt",
        "was issued by \"CN=Root\"",
    );
}

#[test]
fn we_verify_what_openssl_makes() {
    let dir = Dir::new();
    let kinds = [
        ("ed25519", "ed25519"),
        ("p256", "ec -pkeyopt ec_paramgen_curve:P-256"),
        ("p384", "ec -pkeyopt ec_paramgen_curve:P-384"),
        ("rsa", "rsa:2048"),
        (
            "pss",
            "rsa:2048 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest",
        ),
    ];
    for (name, kind) in kinds {
        dir.openssl(&format!(
            "req -x509 -newkey {kind} -nodes -keyout ca.key -out ca.crt -days 30 \
             -subj /C=CH/O=Lab/CN=OpenSSL_{name}"
        ));
        dir.openssl(&format!(
            "req -newkey {} -nodes -keyout gw.key -out gw.csr -subj /C=CH/O=Lab/CN=gw",
            kind.split(" -sigopt").next().unwrap()
        ));
        fs::write(
            dir.path("ext"),
            "subjectAltName=DNS:gw.lab\nextendedKeyUsage=1.3.6.1.5.5.8.2.2\n",
        )
        .unwrap();
        let signing = kind.find("-sigopt").map_or("", |at| &kind[at..]);
        let line = format!(
            "x509 -req -in gw.csr -CA ca.crt -CAkey ca.key -days 20 -extfile ext -out gw.crt {signing}"
        );
        dir.openssl(line.trim());
        let trust = dir.trust("ca.crt", None);
        assert_eq!(dir.verify(&trust, "gw.crt", "gw.lab"), Ok(()), "{name}");
        assert_eq!(
            dir.verify(&trust, "gw.crt", "C=CH, O=Lab, CN=gw"),
            Ok(()),
            "{name}"
        );
        let key = PrivateKey::from_bytes(&fs::read(dir.path("gw.key")).unwrap()).unwrap();
        assert!(key.belongs_to(&dir.certificates("gw.crt")[0]), "{name}");
    }
    // An authority of OpenSSL's makes certificates by our hand: its key is RSA, its name another's.
    fs::create_dir(dir.path("ca")).unwrap();
    for name in ["ca.crt", "ca.key"] {
        fs::copy(dir.path(name), dir.path("ca").join(name)).unwrap();
    }
    dir.pki("issue --ca ca --san client.lab");
    dir.openssl("verify -CAfile ca/ca.crt client.lab.crt");
}

#[test]
fn nothing_is_overwritten_and_everything_is_shown() {
    let dir = Dir::new();
    dir.pki("ca --name Root --out ca");
    let before = fs::read(dir.path("ca/ca.key")).unwrap();
    dir.pki_refuses("ca --name Root --out ca", "--force overwrites it");
    assert_eq!(fs::read(dir.path("ca/ca.key")).unwrap(), before);
    dir.pki("issue --ca ca --san gw.lab");
    dir.pki_refuses("issue --ca ca --san gw.lab", "gw.lab.crt is there already");
    dir.pki("issue --ca ca --san gw.lab --force");
    dir.pki_refuses("issue --ca ca --san not~a~name", "is not an IP address");
    dir.pki_refuses(
        "issue --ca ca --san x.lab --lifetime 9999d",
        "longer than the authority",
    );
    dir.pki_refuses(
        "issue --ca ca --san x.lab --file ../x",
        "is not the name of a file",
    );

    let show = |file: &str| -> Value {
        serde_json::from_str(&dir.pki(&format!("show --json {file}"))).unwrap()
    };
    let gw = &show("gw.lab.crt")[0];
    assert_eq!(gw["subject"], "CN=gw.lab");
    assert_eq!(gw["issuer"], "CN=Root");
    assert_eq!(gw["names"], serde_json::json!(["gw.lab"]));
    assert_eq!(
        (&gw["key"], &gw["status"]),
        (&"Ed25519".into(), &"valid".into())
    );
    assert_eq!(gw["ca"], false);
    assert_eq!(show("ca/ca.crt")[0]["ca"], true);
    assert_eq!(show("ca/crl.pem")[0]["status"], "current");
    assert_eq!(show("gw.lab.key")[0]["kind"], "private key");
    let text = dir.pki("show gw.lab.crt");
    assert!(text.contains("subject             CN=gw.lab"), "{text}");
    // By openssl's word, too.
    let dates = dir.openssl("x509 -in gw.lab.crt -noout -enddate -checkend 60");
    assert!(dates.contains("will not expire"), "{dates}");
    fs::write(dir.path("nothing"), "x").unwrap();
    dir.pki_refuses("show nothing", "is neither a certificate");
    // A key that others can read is not used.
    fs::set_permissions(dir.path("ca/ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
    dir.pki_refuses("issue --ca ca --san y.lab", "chmod 600");
}
