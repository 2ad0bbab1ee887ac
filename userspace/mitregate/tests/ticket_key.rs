//! `ticket_key_file`: who may read it, what it holds, and that tickets outlive the process with it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use mitregate::config::Settings;
use mitregate_control::TicketKeys;
use mitregate_ike::{
    Announce, ChildConfig, Ctx, Directory, Identity, IkeConfig, IkeSa, Mobike, NoLeases, Output,
    ResumptionTicket, SpiAllocator, State,
};
use mitregate_wire::esp::Spi;
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, SeedableRng};

const CONFIG: &str = r#"[daemon]

[outer]
interface = "wan"

[connections.gw]
local_addrs = ["203.0.113.1"]
role = "server"

[connections.gw.local]
id = "gw@lab"

[connections.gw.remote]
id = "client@lab"

[connections.gw.children.net]
local_ts = ["10.2.0.0/24"]
remote_ts = ["10.1.0.0/24"]

[secrets.gw]
ids = ["client@lab", "gw@lab"]
secret = "swordfish"
"#;

fn with_key() -> String {
    CONFIG.replace("[daemon]\n", "[daemon]\nticket_key_file = \"ticket.key\"\n")
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, mode: u32, text: &str) {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self, text: &str) -> Result<Settings, Vec<String>> {
        self.write("mitregate.toml", 0o600, text);
        let loaded = Settings::load(&self.0.path().join("mitregate.toml"));
        loaded.map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }
}

#[test]
fn a_ticket_key_in_a_file() {
    let files = Files::new();
    let text = with_key();
    let refused = |what: &str| {
        let errors = files.load(&text).err().expect("is refused");
        let [error] = errors.as_slice() else {
            panic!("{errors:?}")
        };
        let field = "mitregate.toml:2: daemon.ticket_key_file";
        assert!(error.contains(field) && error.contains(what), "{error}");
    };
    refused("No such file");
    let key = format!("0x{}\n", "5a".repeat(32));
    for (mode, who) in [(0o644, "everybody"), (0o640, "its group")] {
        files.write("ticket.key", mode, &key);
        refused(&format!("readable by {who}: `chmod 600 "));
    }
    for short in [
        "",
        "0x5a5a\n",
        "swordfish\n",
        &format!("0x{}", "5a".repeat(33)),
    ] {
        files.write("ticket.key", 0o600, short);
        let errors = files.load(&text).err().expect("is refused");
        assert!(errors[0].contains("daemon.ticket_key_file"), "{errors:?}");
    }
    refused("does not hold 32 bytes");
    files.write("ticket.key", 0o600, &key);
    let settings = files.load(&text).map_err(|e| e.join("\n")).unwrap();
    assert!(settings.control.ticket_keys.is_some());
    let none = files.load(CONFIG).map_err(|e| e.join("\n")).unwrap();
    assert!(none.control.ticket_keys.is_none());
}

/// A gateway's process: what it was configured with, and what it remembers.
struct Gateway {
    config: Arc<IkeConfig>,
    keys: TicketKeys,
}

impl Directory for Gateway {
    fn tickets(&self) -> Option<&TicketKeys> {
        Some(&self.keys)
    }

    fn by_address(&self, _: SocketAddr, _: SocketAddr) -> Vec<Arc<IkeConfig>> {
        vec![self.config.clone()]
    }

    fn by_identity(
        &self,
        _: SocketAddr,
        _: SocketAddr,
        _: &Identity,
        _: Option<&Identity>,
    ) -> Option<Arc<IkeConfig>> {
        Some(self.config.clone())
    }
}

struct Any;

impl SpiAllocator for Any {
    fn allocate(&mut self, rng: &mut dyn CryptoRng) -> Option<Spi> {
        Spi::new(rng.next_u32() | 0x100)
    }

    fn release(&mut self, _: Spi) {}
}

/// The gateway's, or the client's view of it.
fn ike_config(settings: &Settings, client: bool) -> Arc<IkeConfig> {
    let gw = &settings.control.connections[0];
    let child = &gw.children[0];
    let [mut ids, mut ts] = [[0, 1]; 2];
    if client {
        ids.reverse();
        ts.reverse();
    }
    let identities = [gw.local_id.clone(), "client@lab".parse().unwrap()];
    let selectors = [&child.local_ts, &child.remote_ts];
    Arc::new(IkeConfig {
        name: gw.name.clone(),
        local_id: identities[ids[0]].clone(),
        remote_id: Some(identities[ids[1]].to_string().parse().unwrap()),
        local_auth: gw.local_auth.clone(),
        remote_auth: gw.remote_auth.clone(),
        proposals: gw.proposals.clone(),
        children: vec![ChildConfig {
            name: child.name.clone(),
            esp_proposals: child.esp_proposals.clone(),
            local_ts: selectors[ts[0]].clone(),
            remote_ts: selectors[ts[1]].clone(),
            dynamic: child.dynamic,
        }],
        encap: gw.encap,
        retransmit: gw.retransmit,
        fragmentation: gw.fragmentation,
        resumption: gw.resumption,
        announce: Announce::default(),
        peer_rekey: gw.peer_rekey,
        vips: Vec::new(),
        assigns: false,
        childless: gw.childless,
        initial_contact: false,
        mobike: Mobike::default(),
    })
}

/// A client connects to a gateway that was started from these settings. The ticket that it gets, and
/// whether it went on with the one that it had.
fn connect(
    settings: Settings,
    ticket: Option<ResumptionTicket>,
    seed: u64,
) -> (ResumptionTicket, bool) {
    let [local, remote]: [SocketAddr; 2] =
        ["192.0.2.1:500", "203.0.113.1:500"].map(|a| a.parse().unwrap());
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let now = Duration::from_secs(seed);
    let mut cx = Ctx {
        now,
        unix_time: Duration::from_secs(1_767_225_600) + now,
        rng: &mut rng,
        spis: &mut Any,
        leases: &mut NoLeases,
    };
    let config = ike_config(&settings, true);
    let directory = Arc::new(Gateway {
        config: ike_config(&settings, false),
        keys: settings.control.ticket_keys.unwrap(),
    });
    let mut client = match ticket {
        Some(ticket) => IkeSa::initiate_with_ticket(config, ticket, local, remote, &mut cx),
        None => IkeSa::initiate(config, local, remote, &mut cx),
    };
    let mut gateway: Option<IkeSa> = None;
    loop {
        let mut said = None;
        while let Some(output) = client.poll_output() {
            if let Output::Transmit { message, .. } = output {
                said = Some(message);
            }
        }
        let Some(message) = said else { break };
        let answer = match &mut gateway {
            Some(gateway) => {
                gateway
                    .handle_message(remote, local, &message, &mut cx)
                    .unwrap();
                None
            }
            None => match IkeSa::respond(directory.clone(), remote, local, &message, &mut cx) {
                Ok(sa) => {
                    gateway = Some(sa);
                    None
                }
                Err(rejected) => rejected.reply,
            },
        };
        let mut answers: Vec<_> = answer.into_iter().collect();
        while let Some(output) = gateway.as_mut().and_then(IkeSa::poll_output) {
            if let Output::Transmit { message, .. } = output {
                answers.push(message);
            }
        }
        for answer in answers {
            client
                .handle_message(local, remote, &answer, &mut cx)
                .unwrap();
        }
    }
    assert_eq!(client.state(), State::Established);
    (client.take_ticket().unwrap(), client.is_resumed())
}

#[test]
fn tickets_outlive_the_process_with_their_key() {
    let files = Files::new();
    let started_with = |byte: &str| {
        files.write("ticket.key", 0o600, &format!("0x{}\n", byte.repeat(32)));
        files.load(&with_key()).map_err(|e| e.join("\n")).unwrap()
    };
    let (ticket, resumed) = connect(started_with("5a"), None, 1);
    assert!(!resumed);
    let (ticket, resumed) = connect(started_with("5a"), Some(ticket), 2);
    assert!(resumed);
    // With another key it is of no use, and the client starts from the beginning.
    let (_, resumed) = connect(started_with("5b"), Some(ticket), 3);
    assert!(!resumed);
}
