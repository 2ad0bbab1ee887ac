//! One tunnel, said twice: in mitregate's TOML and in swanctl's words.

use std::fmt::Write as _;

use super::pki::Pki;
use crate::topology::{CLIENT_INNER, CLIENT_WAN, GATEWAY_WAN, Host, Middle, PROTECTED_NET};

/// Mitregate's part in the first exchange. The initiator is the client, behind whatever stands in
/// the middle; the other one is the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Mitregate on the client, strongSwan on the gateway.
    Initiator,
    /// The other way round.
    Responder,
}

impl Role {
    /// As in the report.
    pub fn name(self) -> &'static str {
        match self {
            Role::Initiator => "initiator",
            Role::Responder => "responder",
        }
    }

    /// Where mitregate runs.
    pub fn mitregate(self) -> Host {
        match self {
            Role::Initiator => Host::Client,
            Role::Responder => Host::Gw,
        }
    }

    /// Where strongSwan runs.
    pub fn swan(self) -> Host {
        match self {
            Role::Initiator => Host::Gw,
            Role::Responder => Host::Client,
        }
    }
}

/// One CHILD_SA, seen from the middle.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its name on both sides.
    pub name: String,
    /// Behind the client, as mitregate and strongSwan are told.
    pub client: [String; 2],
    /// Behind the gateway.
    pub gateway: [String; 2],
}

impl Child {
    /// Both sides are told the same.
    pub fn new(name: &str, client: &str, gateway: &str) -> Self {
        Child {
            name: name.to_owned(),
            client: [client.to_owned(), client.to_owned()],
            gateway: [gateway.to_owned(), gateway.to_owned()],
        }
    }
}

/// More lines for mitregate's TOML; `@RUN@` is the lab's folder.
#[derive(Clone, Debug, Default)]
pub struct MitregateLines {
    /// For `[daemon]`.
    pub daemon: String,
    /// For the connection.
    pub connection: String,
    /// For each child.
    pub child: String,
    /// Beside the connection.
    pub other: String,
}

/// More lines for strongSwan's files.
#[derive(Clone, Debug, Default)]
pub struct SwanLines {
    /// For strongswan.conf's `charon`.
    pub charon: String,
    /// For the connection.
    pub connection: String,
    /// For each child.
    pub child: String,
    /// Beside connections and secrets.
    pub other: String,
}

/// How a side proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Lines of mitregate's `local` and `remote`, without the identity.
    pub mitregate: [String; 2],
    /// Lines of swanctl's `local` and `remote`, without the identity.
    pub swan: [String; 2],
}

impl Auth {
    /// By the shared secret.
    pub fn psk() -> Self {
        let toml = || "auth = \"psk\"".to_owned();
        let conf = || "      auth = psk".to_owned();
        Auth {
            mitregate: [toml(), toml()],
            swan: [conf(), conf()],
        }
    }
}

/// Everything that a case configures.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Mitregate's part.
    pub role: Role,
    /// Between client and gateway.
    pub middle: Middle,
    /// For the IKE SA, as both write it; the second is strongSwan's.
    pub ike: [String; 2],
    /// For the CHILD_SAs; the second is strongSwan's.
    pub esp: [String; 2],
    /// At least one.
    pub children: Vec<Child>,
    /// The client's outer address may change: neither side is told it.
    pub roams: bool,
    /// Both sides.
    pub auth: Auth,
    /// What certificates there are.
    pub pki: Option<Pki>,
    /// The shared secret, as mitregate and strongSwan have it.
    pub secrets: [String; 2],
    /// Identities of mitregate and strongSwan.
    pub ids: [String; 2],
    /// The client's addresses that are there without the tunnel.
    pub client_addresses: Vec<String>,
    /// See there.
    pub mitregate: MitregateLines,
    /// See there.
    pub swan: SwanLines,
}

/// The connection's name on both sides.
pub const CONNECTION: &str = "peer";
/// The first child's.
pub const CHILD: &str = "net";

impl Setup {
    /// PSK, one child, AES-GCM, Curve25519, a router in the middle.
    pub fn new(role: Role, secret: &str) -> Self {
        let both = |text: &str| [text.to_owned(), text.to_owned()];
        Setup {
            role,
            middle: Middle::Router,
            ike: both("aes256gcm16-prfsha256-x25519"),
            esp: both("aes256gcm16"),
            children: vec![Child::new(
                CHILD,
                &format!("{CLIENT_INNER}/32"),
                PROTECTED_NET,
            )],
            roams: false,
            auth: Auth::psk(),
            pki: None,
            secrets: both(secret),
            ids: ["mitregate@lab".to_owned(), "strongswan@lab".to_owned()],
            client_addresses: vec![format!("{CLIENT_INNER}/32")],
            mitregate: MitregateLines::default(),
            swan: SwanLines::default(),
        }
    }

    /// The client gets its address by the tunnel.
    pub fn virtual_address(&mut self) {
        self.client_addresses.clear();
        let child = &mut self.children[0];
        child.client = ["dynamic".to_owned(), "dynamic".to_owned()];
        match self.role {
            Role::Initiator => {
                self.mitregate.connection += "vips = [\"0.0.0.0\"]\n";
                self.swan.connection += "    pools = clients\n";
                self.swan.other += &format!(
                    "pools {{
  clients {{
    addrs = {CLIENT_INNER}/32
    dns = 10.2.0.53
  }}
}}
"
                );
            }
            Role::Responder => {
                self.swan.connection += "    vips = 0.0.0.0\n";
                self.mitregate.connection += "pools = [\"clients\"]\n";
                self.mitregate.other += &format!(
                    "[pools.clients]
addrs = \"{CLIENT_INNER}\"
dns = [\"10.2.0.53\"]
"
                );
            }
        }
    }

    /// The same proposal on both sides.
    pub fn ike(&mut self, proposal: &str) {
        self.ike = [proposal.to_owned(), proposal.to_owned()];
    }

    /// The same proposal on both sides.
    pub fn esp(&mut self, proposal: &str) {
        self.esp = [proposal.to_owned(), proposal.to_owned()];
    }

    /// Outer addresses of mitregate and of strongSwan.
    fn outer(&self) -> [&'static str; 2] {
        match self.role {
            Role::Initiator => [CLIENT_WAN, GATEWAY_WAN],
            Role::Responder => [GATEWAY_WAN, CLIENT_WAN],
        }
    }

    /// Traffic selectors of a child, local and remote, of mitregate (0) or of strongSwan (1).
    fn selectors<'a>(&self, child: &'a Child, whose: usize) -> [&'a str; 2] {
        let (client, gateway) = (&child.client[whose], &child.gateway[whose]);
        let on_client = (self.role == Role::Initiator) == (whose == 0);
        if on_client {
            [client, gateway]
        } else {
            [gateway, client]
        }
    }

    /// Mitregate's configuration; `run` is where its secret and socket are.
    pub fn toml(&self, run: &str) -> String {
        let [local, remote] = self.outer();
        let host = self.role.mitregate().name();
        let client = self.role == Role::Initiator;
        let remote = if client { remote } else { "%any" };
        let role = if client { "client" } else { "server" };
        let local = match self.roams && client {
            true => String::new(),
            false => format!("local_addrs = [\"{local}\"]"),
        };
        let addresses = if client {
            format!("addresses = {:?}", self.client_addresses)
        } else {
            String::new()
        };
        let mut text = format!(
            r#"[daemon]
control_socket = "{run}/{host}.sock"
log = "debug"
{}

[outer]
interface = "wan"

[inner]
interface = "mg0"
mtu = 1400
{addresses}

[connections.{CONNECTION}]
role = "{role}"
{local}
remote_addrs = ["{remote}"]
proposals = {}
{}

[connections.{CONNECTION}.local]
{}
id = "{}"

[connections.{CONNECTION}.remote]
{}
id = "{}"
"#,
            self.mitregate.daemon.replace("@RUN@", run),
            toml_list(&self.ike[0]),
            self.mitregate.connection,
            self.auth.mitregate[0].replace("@RUN@", run),
            self.ids[0],
            self.auth.mitregate[1].replace("@RUN@", run),
            self.ids[1],
        );
        for child in &self.children {
            let [local, remote] = self.selectors(child, 0);
            let start = if client { "start" } else { "none" };
            let _ = write!(
                text,
                r#"
[connections.{CONNECTION}.children.{}]
local_ts = {}
remote_ts = {}
esp_proposals = {}
start_action = "{start}"
{}
"#,
                child.name,
                toml_list(local),
                toml_list(remote),
                toml_list(&self.esp[0]),
                self.mitregate.child,
            );
        }
        if self
            .auth
            .mitregate
            .iter()
            .any(|lines| lines.contains("psk"))
        {
            let _ = write!(
                text,
                "\n[secrets.{CONNECTION}]\nsecret_file = \"{run}/secret\"\n"
            );
        }
        text + "\n" + &self.mitregate.other.replace("@RUN@", run)
    }

    /// strongSwan's swanctl.conf. `encap` is there because its userspace ESP knows UDP only.
    pub fn swanctl(&self) -> String {
        let [remote, local] = self.outer();
        let remote = match self.role {
            Role::Initiator => "%any",
            Role::Responder => remote,
        };
        let local = match self.roams && self.role == Role::Responder {
            true => "%any",
            false => local,
        };
        let mut text = format!(
            "connections {{
  {CONNECTION} {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {}
    encap = yes
{}
    local {{
{}
      id = {}
    }}
    remote {{
{}
      id = {}
    }}
    children {{
",
            self.ike[1],
            self.swan.connection,
            self.auth.swan[0],
            self.ids[1],
            self.auth.swan[1],
            self.ids[0],
        );
        for child in &self.children {
            let [local, remote] = self.selectors(child, 1);
            let _ = write!(
                text,
                "      {} {{
        local_ts = {local}
        remote_ts = {remote}
        esp_proposals = {}
{}
      }}
",
                child.name, self.esp[1], self.swan.child,
            );
        }
        text += "    }\n  }\n}\n";
        text += &self.swan.other;
        if self.auth.swan.iter().any(|lines| lines.contains("psk")) {
            let _ = write!(
                text,
                "secrets {{
  ike-{CONNECTION} {{
    secret = \"{}\"
  }}
}}
",
                self.secrets[1]
            );
        }
        text
    }
}

/// "a, b" as TOML has it.
fn toml_list(words: &str) -> String {
    format!("{:?}", words.split(", ").collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_is_told_its_own_view() {
        for (role, local, remote) in [
            (Role::Initiator, CLIENT_WAN, GATEWAY_WAN),
            (Role::Responder, GATEWAY_WAN, "%any"),
        ] {
            let setup = Setup::new(role, "secret");
            let toml = setup.toml("/run/x");
            assert!(toml.contains(&format!("local_addrs = [\"{local}\"]")));
            assert!(toml.contains(&format!("remote_addrs = [\"{remote}\"]")));
            let inner = toml.contains("local_ts = [\"10.1.0.1/32\"]");
            assert_eq!(inner, role == Role::Initiator);
            let conf = setup.swanctl();
            let inner = conf.contains("local_ts = 10.1.0.1/32");
            assert_eq!(inner, role == Role::Responder);
            assert_eq!(conf.matches('{').count(), conf.matches('}').count());
        }
    }
}
