//! Connections, their tunnels, and the keys that belong to them.

use std::net::IpAddr;
use std::time::Duration;

use mitregate_control::{
    ChildConfig, Childless, ConnectionConfig, Dynamic, EncapMode, EspProposal, Follow,
    Fragmentation, FragmentationMode, IdPattern, Identity, IkeProposal, LocalAuth, Mobility, Psk,
    RemoteAuth, Retransmit, Role, StartAction, Unique,
};
use mitregate_wire::TrafficSelector;

use super::convert::Check;
use super::file::{self, File};
use super::locate::FieldPath;
use super::{gate, lifetime, policy, pools, pubkey, secret};

/// Whoever it is (swanctl's word).
const ANY: &str = "%any";
/// Words of `start_action` and `close_action`.
const START_ACTIONS: [(&str, StartAction); 3] = [
    ("start", StartAction::Start),
    ("trap", StartAction::Trap),
    ("none", StartAction::None),
];
/// The virtual addresses of a side (swanctl's word).
const DYNAMIC: &str = "dynamic";
/// Each has SAs, and room for packets that wait.
const MAX_PEERS: usize = 10_000;
/// RFC 7296 §3.1; a client moves to 4500 behind a NAT.
const IKE_PORT: u16 = 500;
/// swanctl's word for the proposals that it has itself.
const DEFAULT: &str = "default";

/// A key and whose it is.
struct Secret {
    name: String,
    ids: Vec<Identity>,
    psk: Psk,
}

pub(super) fn connections(check: &mut Check<'_>, file: &File) -> Vec<ConnectionConfig> {
    let secrets = secrets(check, file);
    let mut connections = Vec::new();
    for (name, connection) in &file.connections {
        let at = FieldPath::of(&["connections", name]);
        connections.extend(self::connection(
            check,
            &at,
            name,
            connection,
            file,
            secrets.as_deref(),
        ));
    }
    policy::order(&mut connections);
    policy::check(check, &connections);
    connections
}

fn secrets(check: &mut Check<'_>, file: &File) -> Option<Vec<Secret>> {
    let mut secrets = Vec::new();
    let mut complete = true;
    for (name, entry) in &file.secrets {
        let at = FieldPath::of(&["secrets", name]);
        let ids = identities(check, &at.key("ids"), &entry.ids);
        let sources = [
            entry.secret.is_some(),
            entry.secret_file.is_some(),
            entry.credential.is_some(),
        ];
        if sources.iter().filter(|given| **given).count() != 1 {
            check.error(
                &at,
                "needs exactly one of secret_file, credential and secret",
            );
            complete = false;
            continue;
        }
        let (field, bytes) = if let Some(path) = &entry.secret_file {
            let path = check.source.beside(path);
            (at.key("secret_file"), secret::read_file(&path))
        } else if let Some(credential) = &entry.credential {
            let directory = check.source.credentials.clone();
            (
                at.key("credential"),
                secret::read_credential(credential, directory),
            )
        } else if let Some(who) = check.source.readable_by {
            let refusal = format!(
                "this file is readable by {who}: `chmod 600` it, or put the key into a \
                 secret_file of its own"
            );
            (at.key("secret"), Err(refusal))
        } else {
            let text = entry.secret.as_ref().map_or("", |secret| secret.expose());
            (at.key("secret"), secret::decode(text))
        };
        match check.ok(&field, bytes) {
            Some(bytes) => secrets.push(Secret {
                name: name.clone(),
                ids,
                psk: Psk::new(bytes),
            }),
            None => complete = false,
        }
    }
    complete.then_some(secrets)
}

fn connection(
    check: &mut Check<'_>,
    at: &FieldPath,
    name: &str,
    connection: &file::Connection,
    file: &File,
    secrets: Option<&[Secret]>,
) -> Option<ConnectionConfig> {
    self::name(check, at, name);
    let starts = connection
        .children
        .values()
        .any(|child| child.start_action != "none");
    let role = match &connection.role {
        None if starts => Some(Role::Client),
        None => Some(Role::Server),
        Some(role) => check.word(
            &at.key("role"),
            role,
            &[
                ("client", Role::Client),
                ("server", Role::Server),
                ("auto", Role::Client),
            ],
        ),
    };
    let auto_role = connection.role.as_deref() == Some("auto");
    if role == Some(Role::Server) {
        for (child, entry) in &connection.children {
            if entry.start_action != "none" {
                check.error(
                    &at.key("children").key(child).key("start_action"),
                    "a server waits for its peer: \"none\", or role = \"auto\" where both may start",
                );
            }
        }
    }
    let local_addrs = addresses(check, &at.key("local_addrs"), &connection.local_addrs);
    let remote_addrs = addresses(check, &at.key("remote_addrs"), &connection.remote_addrs);
    if remote_addrs.is_empty() && (role == Some(Role::Client) || starts) {
        let field = at.key("remote_addrs");
        check.error(&field, "a client needs the address of its peer");
    }
    let encap = check.word(
        &at.key("encap"),
        &connection.encap,
        &[
            ("auto", EncapMode::Auto),
            ("esp", EncapMode::Esp),
            ("udp", EncapMode::Udp),
        ],
    );
    let proposals = proposals::<IkeProposal>(
        check,
        &at.key("proposals"),
        &connection.proposals,
        &IkeProposal::DEFAULT,
        "aes256gcm16-prfsha384-x25519",
    );
    let local_is_psk = is_psk(check, &at.key("local"), &connection.local);
    let remote_is_psk = is_psk(check, &at.key("remote"), &connection.remote);
    let local_at = at.key("local");
    let given_id = connection.local.id.as_ref();
    let given_id = given_id.map(|id| identity(check, &local_at.key("id"), id));
    let (local_id, local_auth) = match given_id {
        // A wrong id was told already.
        Some(None) => (None, None),
        given if !local_is_psk => {
            let (local, remote) = (&connection.local, &connection.remote);
            pubkey::local(check, &local_at, local, remote, given.flatten()).unzip()
        }
        Some(id) => (id, None),
        None => match local_addrs.first() {
            Some(address) => (Some(Identity::from(*address)), None),
            None => {
                check.error(&local_at.key("id"), "is missing: who are we to the peer?");
                (None, None)
            }
        },
    };
    let remote_id = match connection.remote.id.as_deref() {
        Some(ANY) => Some(None),
        Some(id) => identity(check, &at.key("remote").key("id"), id).map(|id| Some(id.into())),
        None => Some(
            remote_addrs
                .first()
                .map(|address| Identity::from(*address).into()),
        ),
    };
    let psk = match (&local_id, &remote_id, secrets) {
        (Some(local), Some(remote), Some(secrets)) if local_is_psk || remote_is_psk => {
            let remote = remote.as_ref().and_then(IdPattern::exact);
            find_secret(check, at, local, remote, secrets)
        }
        _ => None,
    };
    let local_auth = match local_is_psk {
        true => psk.clone().map(LocalAuth::Psk),
        false => local_auth,
    };
    let remote_auth = match remote_is_psk {
        true => psk.map(RemoteAuth::Psk),
        false => pubkey::remote(check, &at.key("remote"), &connection.remote),
    };
    let gate = gate::gate(check, &at.key("gate"), &connection.gate, role?);
    let retransmit = retransmit(check, at, connection);
    let fragmentation = fragmentation(check, at, connection);
    let resumption = check.word(
        &at.key("resumption"),
        &connection.resumption,
        &[("yes", true), ("no", false)],
    );
    if connection.children.is_empty() {
        check.error(
            &at.key("children"),
            "has no child: at least one tunnel is needed",
        );
    }
    let children: Vec<_> = connection
        .children
        .iter()
        .filter_map(|(child_name, entry)| {
            let at = at.key("children").key(child_name);
            child(check, &at, child_name, entry)
        })
        .collect();
    for child in &children {
        let at = at.key("children").key(&child.name);
        lifetime::room(check, &at, child, &gate, &retransmit);
    }
    let vips = check.list(&at.key("vips"), &connection.vips, |text, _| {
        format!("{text:?} is not an IP address; \"0.0.0.0\" and \"::\" ask for any")
    });
    pools::named(check, &at.key("pools"), &connection.pools, file);
    if !connection.pools.is_empty() && (auto_role || role == Some(Role::Client)) {
        let message = "only a server gives addresses to its peers: role = \"server\"";
        check.error(&at.key("pools"), message);
    }
    let unique = check.word(
        &at.key("unique"),
        &connection.unique,
        &[
            ("replace", Unique::Replace),
            ("keep", Unique::Keep),
            ("never", Unique::Never),
        ],
    );
    let max_peers = connection.max_peers.unwrap_or(ConnectionConfig::MAX_PEERS);
    if !(1..=MAX_PEERS).contains(&max_peers) {
        check.error(
            &at.key("max_peers"),
            format!("is not within 1 to {MAX_PEERS}"),
        );
    }
    let childless = check.word(
        &at.key("childless"),
        &connection.childless,
        &[
            ("allow", Childless::Allow),
            ("prefer", Childless::Prefer),
            ("force", Childless::Force),
            ("never", Childless::Never),
        ],
    );
    let follow = check.word(
        &at.key("follow"),
        &connection.follow,
        &[("any", Follow::Any), ("ping", Follow::Ping)],
    );
    let times = [
        (
            "dpd_delay",
            &connection.dpd_delay,
            ConnectionConfig::DPD_DELAY,
        ),
        ("dpd_timeout", &connection.dpd_timeout, Duration::ZERO),
        (
            "keepalive",
            &connection.keepalive,
            ConnectionConfig::KEEPALIVE,
        ),
    ];
    let [dpd_delay, dpd_timeout, keepalive] =
        times.map(|(field, text, default)| check.duration(&at.key(field), text.as_ref(), default));
    let peer_rekey = lifetime::peer_rekey(check, at, connection);
    Some(ConnectionConfig {
        name: name.to_owned(),
        local_addrs,
        remote_addrs,
        local_port: IKE_PORT,
        remote_port: IKE_PORT,
        local_id: local_id?,
        remote_id: remote_id?,
        local_auth: local_auth?,
        remote_auth: remote_auth?,
        proposals,
        encap: encap?,
        retransmit,
        fragmentation: fragmentation?,
        resumption: resumption?,
        gate,
        auto_role,
        children,
        lifetime: lifetime::ike(check, at, connection),
        peer_rekey: peer_rekey?,
        dpd_delay,
        dpd_timeout,
        keepalive,
        vips,
        pools: connection.pools.clone(),
        unique: unique?,
        max_peers,
        childless: childless?,
        mobility: Mobility {
            mobike: connection.mobike,
            return_routability: connection.return_routability,
            follow: follow?,
            follow_behind_nat: connection.follow_behind_nat,
            probe_behind_nat: connection.probe_behind_nat,
            any_local: false,
        },
    })
}

/// The fields of a side that are about certificates, and its `auth`.
trait Side {
    fn auth(&self) -> Option<&String>;
    fn certificate_fields(&self) -> Vec<(&'static str, bool)>;
}

impl Side for file::Local {
    fn auth(&self) -> Option<&String> {
        self.auth.as_ref()
    }

    fn certificate_fields(&self) -> Vec<(&'static str, bool)> {
        vec![
            ("certs", !self.certs.is_empty()),
            ("keys", !self.keys.is_empty()),
            ("cacerts", !self.cacerts.is_empty()),
        ]
    }
}

impl Side for file::Remote {
    fn auth(&self) -> Option<&String> {
        self.auth.as_ref()
    }

    fn certificate_fields(&self) -> Vec<(&'static str, bool)> {
        vec![
            ("certs", !self.certs.is_empty()),
            ("cacerts", !self.cacerts.is_empty()),
            ("crls", !self.crls.is_empty()),
            ("revocation", self.revocation.is_some()),
        ]
    }
}

/// By a shared secret? Certificates beside it are a mistake.
fn is_psk(check: &mut Check<'_>, at: &FieldPath, side: &impl Side) -> bool {
    let fields = side.certificate_fields();
    let given = fields.into_iter().find(|(_, given)| *given);
    let psk = pubkey::method(side.auth(), given.is_some()) == pubkey::PSK;
    if let Some((field, _)) = given
        && psk
    {
        let message = "is for auth = \"pubkey\", and here auth is \"psk\"";
        check.error(&at.key(field), message);
    }
    psk
}

/// The key whose identities fit best, as swanctl chooses: both named, then the peer named, then
/// nobody named.
fn find_secret(
    check: &mut Check<'_>,
    at: &FieldPath,
    local: &Identity,
    remote: Option<&Identity>,
    secrets: &[Secret],
) -> Option<Psk> {
    let fit = |secret: &Secret| {
        let names = |id: &Identity| secret.ids.contains(id);
        match (
            secret.ids.is_empty(),
            remote.is_some_and(names),
            names(local),
        ) {
            (true, _, _) => 1,
            (_, true, false) => 2,
            (_, true, true) => 3,
            // Without a known peer, our own name has to do.
            (_, false, true) if remote.is_none() => 2,
            _ => 0,
        }
    };
    let best = secrets.iter().map(fit).max().unwrap_or(0);
    let peer = remote.map_or(ANY.to_owned(), ToString::to_string);
    if best == 0 {
        check.error(
            at,
            format!(
                "no secret for the peer {peer}: add a [secrets.NAME] with ids = [\"{local}\", \
                 \"{peer}\"] and a secret_file"
            ),
        );
        return None;
    }
    let mut fitting = secrets.iter().filter(|secret| fit(secret) == best);
    let first = fitting.next()?;
    if let Some(second) = fitting.next() {
        check.error(
            at,
            format!(
                "secrets.{} and secrets.{} fit the peer {peer} equally well: say by ids whose \
                 they are",
                first.name, second.name
            ),
        );
    }
    Some(first.psk.clone())
}

fn retransmit(check: &mut Check<'_>, at: &FieldPath, from: &file::Connection) -> Retransmit {
    let mut config = Retransmit::default();
    config.timeout = check.duration(
        &at.key("retransmit_timeout"),
        from.retransmit_timeout.as_ref(),
        config.timeout,
    );
    config.limit = check.duration(
        &at.key("retransmit_limit"),
        from.retransmit_limit.as_ref(),
        config.limit,
    );
    if config.timeout < Duration::from_millis(10) {
        check.error(&at.key("retransmit_timeout"), "is less than 10ms");
    }
    if let Some(tries) = from.retransmit_tries {
        config.tries = tries;
        if !(1..=100).contains(&tries) {
            check.error(&at.key("retransmit_tries"), "is not within 1 to 100");
        }
    }
    if let Some(base) = from.retransmit_base {
        config.base = base;
        if !(1.0..=10.0).contains(&base) {
            check.error(&at.key("retransmit_base"), "is not within 1.0 to 10.0");
        }
    }
    config
}

fn fragmentation(
    check: &mut Check<'_>,
    at: &FieldPath,
    from: &file::Connection,
) -> Option<Fragmentation> {
    let words = [
        ("yes", FragmentationMode::Yes),
        ("accept", FragmentationMode::Accept),
        ("force", FragmentationMode::Yes),
        ("no", FragmentationMode::No),
    ];
    let mode = check.word(&at.key("fragmentation"), &from.fragmentation, &words)?;
    let size = from.fragment_size.unwrap_or(Fragmentation::DEFAULT_SIZE);
    let (min, max) = (Fragmentation::MIN_SIZE, Fragmentation::MAX_SIZE);
    if !(min..=max).contains(&size) {
        let message = format!("is not within {min} to {max} bytes");
        check.error(&at.key("fragment_size"), message);
    }
    Some(Fragmentation { mode, size })
}

fn child(
    check: &mut Check<'_>,
    at: &FieldPath,
    name: &str,
    child: &file::Child,
) -> Option<ChildConfig> {
    self::name(check, at, name);
    let (local_ts, local) = selectors(check, &at.key("local_ts"), &child.local_ts);
    let (remote_ts, remote) = selectors(check, &at.key("remote_ts"), &child.remote_ts);
    let esp_proposals = proposals::<EspProposal>(
        check,
        &at.key("esp_proposals"),
        &child.esp_proposals,
        &EspProposal::DEFAULT,
        "aes256gcm16-x25519",
    );
    let start_action = check.word(&at.key("start_action"), &child.start_action, &START_ACTIONS);
    // Without another word, what is wanted comes back.
    let again = match start_action {
        Some(StartAction::Trap) => StartAction::Trap,
        _ => StartAction::Start,
    };
    let close_action = match &child.close_action {
        Some(word) => check.word(&at.key("close_action"), word, &START_ACTIONS),
        None => Some(again),
    };
    let dpd_action = match &child.dpd_action {
        Some(word) => check.word(
            &at.key("dpd_action"),
            word,
            &[
                ("restart", StartAction::Start),
                ("trap", StartAction::Trap),
                ("clear", StartAction::None),
            ],
        ),
        None => Some(again),
    };
    let inactivity = check.duration(
        &at.key("inactivity"),
        child.inactivity.as_ref(),
        Duration::ZERO,
    );
    Some(ChildConfig {
        name: name.to_owned(),
        local_ts,
        remote_ts,
        dynamic: Dynamic { local, remote },
        esp_proposals,
        start_action: start_action?,
        close_action: close_action?,
        dpd_action: dpd_action?,
        inactivity,
        lifetime: lifetime::child(check, at, child),
    })
}

/// The selectors, and whether `dynamic` is among them.
fn selectors(
    check: &mut Check<'_>,
    at: &FieldPath,
    texts: &[String],
) -> (Vec<TrafficSelector>, bool) {
    if texts.is_empty() {
        check.error(at, "is empty: which addresses are to be protected?");
    }
    let mut selectors = Vec::new();
    for (index, text) in texts
        .iter()
        .enumerate()
        .filter(|(_, text)| *text != DYNAMIC)
    {
        let selector = text.parse::<TrafficSelector>().map_err(|_| {
            format!(
                "{text:?} is not a traffic selector, such as \"10.1.0.0/24\", \
                 \"10.1.0.5-10.1.0.9\", \"10.1.0.0/24[tcp/80]\" or \"dynamic\""
            )
        });
        selectors.extend(check.ok(&at.index(index), selector));
    }
    (selectors, texts.iter().any(|text| text == DYNAMIC))
}

/// Proposals, where swanctl's word `default` stands for several, and so does an empty list.
fn proposals<T>(
    check: &mut Check<'_>,
    at: &FieldPath,
    texts: &[String],
    default: &[&str],
    example: &str,
) -> Vec<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let word = [DEFAULT.to_owned()];
    let texts = if texts.is_empty() { &word } else { texts };
    let mut proposals = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let meant = if text == DEFAULT {
            default
        } else {
            &[text.as_str()]
        };
        for text in meant {
            let result = text.parse().map_err(|error| {
                format!("proposal {text:?}: {error}; for example \"{example}\" or \"{DEFAULT}\"")
            });
            proposals.extend(check.ok(&at.index(index), result));
        }
    }
    proposals
}

/// Empty for `%any`.
fn addresses(check: &mut Check<'_>, at: &FieldPath, texts: &[String]) -> Vec<IpAddr> {
    if texts == [ANY] {
        return Vec::new();
    }
    check.list(at, texts, |text, _| {
        format!("{text:?} is not an IP address")
    })
}

fn identities(check: &mut Check<'_>, at: &FieldPath, texts: &[String]) -> Vec<Identity> {
    let mut ids = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        ids.extend(identity(check, &at.index(index), text));
    }
    ids
}

fn identity(check: &mut Check<'_>, at: &FieldPath, text: &str) -> Option<Identity> {
    let result = text.parse().map_err(|_| {
        format!(
            "{text:?} is not an identity: an address, name@domain, a host name, or @# and \
             hexadecimal digits"
        )
    });
    check.ok(at, result)
}

/// Names appear in logs, tables and on command lines.
pub(super) fn name(check: &mut Check<'_>, at: &FieldPath, name: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        check.error(
            at,
            "is not a name of 1 to 64 letters, digits, \"-\", \"_\" and \".\"",
        );
    }
}
