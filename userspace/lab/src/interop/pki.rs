//! Authorities and certificates for a case, made by the openssl command or by `mitregate pki`.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{daemon, sh};

/// Kinds of keys that the matrix knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Rsa3072,
    /// Too short for anybody.
    Rsa1024,
    P256,
    P384,
    Ed25519,
}

impl Key {
    fn openssl(self) -> &'static [&'static str] {
        match self {
            Key::Rsa3072 => &["-newkey", "rsa:3072"],
            Key::Rsa1024 => &["-newkey", "rsa:1024"],
            Key::P256 => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Key::P384 => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
            Key::Ed25519 => &["-newkey", "ed25519"],
        }
    }
}

/// What is wrong with strongSwan's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// Its time is over.
    Expired,
    /// By an authority that mitregate does not trust.
    OtherAuthority,
    /// A key that is too short.
    WeakKey,
    /// On mitregate's list. Only `mitregate pki` makes such.
    Revoked,
}

/// Who makes the certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    OpenSsl,
    Mitregate,
}

/// What a case wants.
#[derive(Clone, Copy, Debug)]
pub struct Pki {
    /// Who makes it.
    pub maker: Maker,
    /// Of everybody.
    pub key: Key,
    /// Authorities between the root and each side's own certificate.
    pub between: usize,
    /// Of strongSwan's certificate.
    pub flaw: Flaw,
}

/// The sides' files and identities, before `.lab`.
const SIDES: [&str; 2] = ["mitregate", "strongswan"];

impl Pki {
    /// Make everything: `pki` below `run` for mitregate, and in `swan` strongSwan's files.
    pub fn make(&self, run: &Path, swan: &Path) -> Result<()> {
        let dir = run.join("pki");
        fs::create_dir_all(&dir)?;
        match self.maker {
            Maker::OpenSsl => self.by_openssl(&dir)?,
            Maker::Mitregate => self.by_mitregate(&dir)?,
        }
        let copy = |from: &str, to: &str| {
            fs::copy(dir.join(from), swan.join(to)).with_context(|| format!("no {from} was made"))
        };
        copy("strongswan.own.crt", "x509/strongswan.crt")?;
        copy("strongswan.key", "private/strongswan.key")?;
        copy("root.crt", "x509ca/root.crt")?;
        for n in 0..self.between {
            let name = format!("strongswan-ca{n}.crt");
            copy(&name, &format!("x509ca/{name}"))?;
        }
        Ok(())
    }

    fn by_openssl(&self, dir: &Path) -> Result<()> {
        let root = Issuer::SelfSigned;
        authority(dir, "root", self.key, root)?;
        authority(dir, "other", self.key, root)?;
        for side in SIDES {
            let flaw = match side {
                "strongswan" => self.flaw,
                _ => Flaw::None,
            };
            let mut issuer = match flaw {
                Flaw::OtherAuthority => "other".to_owned(),
                _ => "root".to_owned(),
            };
            let mut chain = String::new();
            for n in 0..self.between {
                let name = format!("{side}-ca{n}");
                authority(dir, &name, self.key, Issuer::By(&issuer))?;
                chain = fs::read_to_string(dir.join(format!("{name}.crt")))? + &chain;
                issuer = name;
            }
            let key = match flaw {
                Flaw::WeakKey => Key::Rsa1024,
                _ => self.key,
            };
            end_entity(dir, side, key, &issuer, flaw == Flaw::Expired)?;
            let own = fs::read_to_string(dir.join(format!("{side}.own.crt")))?;
            fs::write(dir.join(format!("{side}.crt")), own + &chain)?;
        }
        Ok(())
    }

    fn by_mitregate(&self, dir: &Path) -> Result<()> {
        let mitregate = |arguments: &[&str]| {
            let mut cmd = sh::command(&daemon::binary()?.display().to_string());
            sh::output(cmd.arg("pki").args(arguments).current_dir(dir))
        };
        mitregate(&["ca", "--name", "C=CH, O=Lab, CN=Lab CA", "--out", "ca"])?;
        fs::copy(dir.join("ca/ca.crt"), dir.join("root.crt"))?;
        for side in SIDES {
            let san = format!("{side}.lab");
            mitregate(&["issue", "--ca", "ca", "--san", &san, "--file", side])?;
            let own = dir.join(format!("{side}.crt"));
            fs::copy(own, dir.join(format!("{side}.own.crt")))?;
        }
        if self.flaw == Flaw::Revoked {
            mitregate(&["revoke", "--ca", "ca", "strongswan.crt"])?;
        }
        fs::copy(dir.join("ca/crl.pem"), dir.join("crl.pem"))?;
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Issuer<'a> {
    SelfSigned,
    By(&'a str),
}

fn openssl(dir: &Path, arguments: &[&str]) -> Result<String> {
    sh::output(sh::command("openssl").args(arguments).current_dir(dir))
}

/// `NAME.crt` and `NAME.key`.
fn authority(dir: &Path, name: &str, key: Key, issuer: Issuer<'_>) -> Result<()> {
    let (subject, crt, file) = (
        format!("/C=CH/O=Lab/CN={name}"),
        format!("{name}.crt"),
        format!("{name}.key"),
    );
    let mut arguments = vec!["req", "-x509", "-nodes", "-days", "365", "-subj", &subject];
    arguments.extend(key.openssl());
    arguments.extend(["-keyout", &file, "-out", &crt]);
    for extension in [
        "basicConstraints=critical,CA:TRUE",
        "keyUsage=critical,keyCertSign,cRLSign",
    ] {
        arguments.extend(["-addext", extension]);
    }
    let by;
    if let Issuer::By(name) = issuer {
        by = [format!("{name}.crt"), format!("{name}.key")];
        arguments.extend(["-CA", &by[0], "-CAkey", &by[1]]);
    }
    openssl(dir, &arguments).map(drop)
}

/// `NAME.own.crt` and `NAME.key`.
fn end_entity(dir: &Path, name: &str, key: Key, issuer: &str, expired: bool) -> Result<()> {
    let subject = format!("/C=CH/O=Lab/CN={name}.lab");
    let [crt, csr, file] = ["own.crt", "csr", "key"].map(|end| format!("{name}.{end}"));
    let san = format!("subjectAltName=DNS:{name}.lab");
    let mut arguments = vec!["req", "-new", "-nodes", "-subj", &subject];
    arguments.extend(key.openssl());
    arguments.extend(["-addext", &san, "-addext", "keyUsage=digitalSignature"]);
    arguments.extend(["-keyout", &file, "-out", &csr]);
    openssl(dir, &arguments)?;
    let (ca, ca_key) = (format!("{issuer}.crt"), format!("{issuer}.key"));
    let days = if expired { "-1" } else { "300" };
    let mut arguments = vec!["x509", "-req", "-in", &csr, "-out", &crt, "-days", days];
    arguments.extend(["-CA", &ca, "-CAkey", &ca_key, "-copy_extensions", "copy"]);
    openssl(dir, &arguments).map(drop)
}
