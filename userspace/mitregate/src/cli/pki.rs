//! `mitregate pki`.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::config::duration;
use crate::pki::{self, KeyType, Order};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a certificate authority: a folder with ca.crt, ca.key and crl.pem.
    ///
    /// Peers get ca.crt, for `cacerts` of their remote side. ca.key (mode 0600, not encrypted) makes
    /// certificates that all of them trust: keep it off the gateways.
    Ca {
        /// The authority's name: "C=CH, O=Lab, CN=Lab CA", or just "Lab CA".
        #[arg(long)]
        name: String,
        /// The folder; it is made if it is not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Folder of an authority above this one, which then is an intermediate authority.
        #[arg(long, value_name = "DIR")]
        issuer: Option<PathBuf>,
        #[command(flatten)]
        make: Make,
    },
    /// Make a key and a certificate for a gateway or a client: NAME.crt and NAME.key.
    ///
    /// They are what `certs` and `keys` of its local side name; its `id` must be one of the --san, or
    /// the whole name. NAME.crt has the authorities below the root in it, which are sent along.
    Issue {
        /// Folder of the authority.
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// What it proves: gw.example.org, client@example.org or 192.0.2.1. Repeat for more.
        #[arg(long, required = true, value_name = "NAME")]
        san: Vec<String>,
        /// Its name, as of `pki ca`; a common name alone goes beside the authority's C and O. Without
        /// it, the first --san.
        #[arg(long)]
        name: Option<String>,
        /// Folder for both files.
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        /// What the files are called, without .crt and .key.
        #[arg(long, value_name = "NAME")]
        file: Option<String>,
        #[command(flatten)]
        make: Make,
    },
    /// Show what is in a certificate, a revocation list or a key (PEM or DER).
    Show {
        /// The file.
        file: PathBuf,
    },
    /// Revoke a certificate: it is named in a new crl.pem, which peers need in `crls`.
    Revoke {
        /// Folder of the authority.
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The certificate.
        file: PathBuf,
    },
    /// Write crl.pem anew, before it is out of date.
    Crl {
        /// Folder of the authority.
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// How long it is to be current.
        #[arg(long, value_parser = duration, default_value = "30d", value_name = "TIME")]
        lifetime: Duration,
    },
}

#[derive(Debug, Args)]
pub(super) struct Make {
    /// Kind of the key.
    #[arg(
        long = "type",
        value_enum,
        default_value = "ed25519",
        value_name = "TYPE"
    )]
    key: KeyType,
    /// How long the certificate is valid, such as 365d: by default ten years for an authority and two
    /// for others, but not longer than its issuer.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    lifetime: Option<Duration>,
    /// Overwrite files that are there.
    #[arg(long)]
    force: bool,
}

impl Make {
    fn order<'a>(&self, name: Option<&'a str>) -> Order<'a> {
        Order {
            name,
            key: self.key,
            lifetime: self.lifetime,
            force: self.force,
        }
    }
}

pub(super) const EXAMPLES: &str = "\
Examples:
  mitregate pki ca --name \"C=CH, O=Lab, CN=Lab CA\" --out ca
  mitregate pki issue --ca ca --san gw.example.org --out /etc/mitregate
  mitregate pki issue --ca ca --san client-7@example.org --name client-7 --type ecdsa256
  mitregate pki show client-7.crt
  mitregate pki revoke --ca ca client-7.crt

The gateway's configuration then has, beside others:
  [connections.clients.local]      certs = [\"gw.example.org.crt\"]  keys = [\"gw.example.org.key\"]
  [connections.clients.remote]     id = \"*@example.org\"  cacerts = [\"ca.crt\"]  crls = [\"crl.pem\"]";

pub(super) fn run(command: &Command, json: bool) -> anyhow::Result<ExitCode> {
    let written = match command {
        Command::Ca {
            name,
            out,
            issuer,
            make,
        } => pki::make_ca(out, issuer.as_deref(), &make.order(Some(name)))?,
        Command::Issue {
            ca,
            san,
            name,
            out,
            file,
            make,
        } => pki::issue(ca, san, out, file.as_deref(), &make.order(name.as_deref()))?,
        Command::Revoke { ca, file } => vec![pki::revoke(ca, file)?],
        Command::Crl { ca, lifetime } => vec![pki::renew_crl(ca, *lifetime)?],
        Command::Show { file } => {
            let items = pki::show(file)?;
            return super::show(&items, json, text);
        }
    };
    let files: Vec<_> = written
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    super::show(&json!({"ok": true, "written": files}), json, |_| {
        files.iter().fold(String::new(), |mut text, file| {
            let _ = writeln!(text, "wrote {file}");
            text
        })
    })
}

/// As a person wants to read them.
const ORDER: [&str; 16] = [
    "kind",
    "subject",
    "names",
    "issuer",
    "serial",
    "status",
    "not_before",
    "not_after",
    "this_update",
    "next_update",
    "key",
    "ca",
    "key_usage",
    "extended_key_usage",
    "sha256",
    "revoked",
];

fn text(items: &Value) -> String {
    let mut text = String::new();
    for item in items.as_array().into_iter().flatten() {
        for key in ORDER {
            let shown = match &item[key] {
                Value::Null => continue,
                Value::String(value) => value.clone(),
                Value::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
                Value::Array(list) => {
                    let list: Vec<_> = list.iter().filter_map(Value::as_str).collect();
                    list.join(", ")
                }
                other => other.to_string(),
            };
            let _ = writeln!(text, "{:<20}{shown}", key.replace('_', " "));
        }
        text.push('\n');
    }
    text.pop();
    text
}
