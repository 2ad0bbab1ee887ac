//! Connections in the form that IKE takes, and the responder's look-ups.

use core::cmp::Reverse;
use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mitregate_gate::{GateMode, Role};
use mitregate_ike::{
    Announce, Directory, IdPattern, Identity, IkeConfig, Mobike, PeerRekey, RemoteAuth, TicketKeys,
};

use crate::ConnectionConfig;

/// The connection as IKE takes it, with `first` as the child to negotiate in IKE_AUTH.
fn ike_config(connection: &ConnectionConfig, first: usize, own: Vec<IpAddr>) -> IkeConfig {
    let mut children: Vec<_> = connection.children.iter().collect();
    if first < children.len() {
        children[..=first].rotate_right(1);
    }
    IkeConfig {
        name: connection.name.clone(),
        local_id: connection.local_id.clone(),
        remote_id: connection.remote_id.clone(),
        local_auth: connection.local_auth.clone(),
        remote_auth: connection.remote_auth.clone(),
        proposals: connection.proposals.clone(),
        children: children
            .into_iter()
            .map(|child| mitregate_ike::ChildConfig {
                name: child.name.clone(),
                esp_proposals: child.esp_proposals.clone(),
                local_ts: child.local_ts.clone(),
                remote_ts: child.remote_ts.clone(),
                dynamic: child.dynamic,
            })
            .collect(),
        encap: connection.encap,
        retransmit: connection.retransmit,
        fragmentation: connection.fragmentation,
        peer_rekey: match connection.gate.role {
            Role::Client => connection.peer_rekey,
            Role::Server => PeerRekey::Accept,
        },
        resumption: connection.resumption,
        announce: Announce {
            esp_echo: connection.gate.mode.uses_echo(),
            probes_behind_nat: connection.mobility.probe_behind_nat,
            owns_rekeys: connection.gate.role == Role::Client
                && connection.gate.mode != GateMode::Off,
        },
        vips: connection.vips.clone(),
        assigns: !connection.pools.is_empty(),
        childless: connection.childless,
        initial_contact: false,
        mobike: Mobike {
            enabled: connection.mobility.mobike,
            addresses: own,
            return_routability: connection.mobility.return_routability,
            nats_allowed: true,
        },
    }
}

/// The same for an IKE SA that we start, `own` being our addresses, best first: it asks for the virtual addresses that it had before.
pub(crate) fn initiator_config(
    connection: &ConnectionConfig,
    first: usize,
    own: Vec<IpAddr>,
    had: &[IpAddr],
    initial_contact: bool,
) -> Arc<IkeConfig> {
    let mut config = ike_config(connection, first, own);
    for vip in config.vips.iter_mut().filter(|vip| vip.is_unspecified()) {
        let of_family = |had: &&IpAddr| had.is_ipv4() == vip.is_ipv4();
        *vip = had.iter().find(of_family).copied().unwrap_or(*vip);
    }
    config.initial_contact = initial_contact;
    Arc::new(config)
}

/// The connections that answer.
pub(crate) struct Responders {
    list: Vec<Responder>,
    tickets: Arc<TicketKeys>,
}

struct Responder {
    local_addrs: Vec<IpAddr>,
    remote_addrs: Vec<IpAddr>,
    config: Arc<IkeConfig>,
}

impl Responders {
    /// Those whose role is the client's do not answer: where both may start, that is another role.
    /// `own`: our addresses for a connection, best first.
    pub(crate) fn new<'a>(
        connections: impl Iterator<Item = &'a ConnectionConfig>,
        own: impl Fn(&ConnectionConfig) -> Vec<IpAddr>,
        tickets: Arc<TicketKeys>,
    ) -> Self {
        let servers = connections
            .filter(|connection| connection.gate.role == Role::Server || connection.auto_role);
        let list = servers
            .map(|connection| Responder {
                local_addrs: own(connection),
                remote_addrs: connection.remote_addrs.clone(),
                config: Arc::new(ike_config(connection, 0, own(connection))),
            })
            .collect();
        Self { list, tickets }
    }

    fn at(&self, local: SocketAddr, remote: SocketAddr) -> impl Iterator<Item = &Responder> {
        let any_or = |list: &[IpAddr], ip| list.is_empty() || list.contains(&ip);
        self.list.iter().filter(move |responder| {
            any_or(&responder.local_addrs, local.ip())
                && any_or(&responder.remote_addrs, remote.ip())
        })
    }
}

impl Directory for Responders {
    fn tickets(&self) -> Option<&TicketKeys> {
        Some(&self.tickets)
    }

    fn by_address(&self, local: SocketAddr, remote: SocketAddr) -> Vec<Arc<IkeConfig>> {
        // Those that name the address come before those that take any.
        let mut found: Vec<_> = self.at(local, remote).collect();
        found.sort_by_key(|responder| responder.remote_addrs.is_empty());
        found
            .into_iter()
            .map(|responder| responder.config.clone())
            .collect()
    }

    fn by_identity(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        remote_id: &Identity,
        local_id: Option<&Identity>,
    ) -> Option<Arc<IkeConfig>> {
        self.choose(local, remote, remote_id, local_id, None)
    }

    fn by_proof(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        remote_id: &Identity,
        local_id: Option<&Identity>,
        signed: bool,
    ) -> Option<Arc<IkeConfig>> {
        self.choose(local, remote, remote_id, local_id, Some(signed))
    }
}

impl Responders {
    fn choose(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        remote_id: &Identity,
        local_id: Option<&Identity>,
        signed: Option<bool>,
    ) -> Option<Arc<IkeConfig>> {
        let fits = |responder: &&Responder| {
            let config = &responder.config;
            let expected = config.remote_id.as_ref();
            expected.is_none_or(|id| id.matches(remote_id))
                && local_id.is_none_or(|id| id.is(&config.local_id))
        };
        // A connection for just this peer comes before one for some, and that before one for
        // anybody; of equals the first.
        // Before all that comes one that wants the proof that the peer gives.
        let precision = |responder: &&Responder| {
            let config = &responder.config;
            let wants_signature = matches!(config.remote_auth, RemoteAuth::Pubkey(_));
            let another = signed.is_some_and(|signed| signed != wants_signature);
            let id = config.remote_id.as_ref();
            (another, Reverse(id.map(IdPattern::precision)))
        };
        self.at(local, remote)
            .filter(fits)
            .min_by_key(precision)
            .map(|responder| responder.config.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mitregate_ike::cert::{AuthRule, Revocation, TrustStore};
    use mitregate_ike::{Childless, Fragmentation, LocalAuth, Psk, Retransmit};

    fn responder(name: &str, local: &str, remote: Option<&str>, signed: bool) -> Responder {
        let psk = Psk::new(b"secret".to_vec().into());
        let trust = TrustStore::new(
            Vec::new(),
            Vec::new(),
            Vec::new(),
            Revocation::Relaxed,
            AuthRule::default(),
        );
        let config = IkeConfig {
            name: name.to_owned(),
            local_id: local.parse().unwrap(),
            remote_id: remote.map(|id| id.parse().unwrap()),
            local_auth: LocalAuth::Psk(psk.clone()),
            remote_auth: match signed {
                true => RemoteAuth::Pubkey(Arc::new(trust.unwrap())),
                false => RemoteAuth::Psk(psk),
            },
            proposals: Vec::new(),
            children: Vec::new(),
            encap: mitregate_ike::EncapMode::Auto,
            retransmit: Retransmit::default(),
            fragmentation: Fragmentation::default(),
            resumption: false,
            announce: Announce::default(),
            peer_rekey: PeerRekey::Accept,
            vips: Vec::new(),
            assigns: false,
            childless: Childless::Allow,
            initial_contact: false,
            mobike: Mobike::default(),
        };
        Responder {
            local_addrs: Vec::new(),
            remote_addrs: Vec::new(),
            config: Arc::new(config),
        }
    }

    #[test]
    fn the_connection_that_fits_a_peer_best() {
        let responders = vec![
            responder("any", "gw.lab", None, true),
            responder("secret", "gw.lab", None, false),
            responder("lab", "gw.lab", Some("*@lab"), true),
            responder("sub", "gw.lab", Some("*@sub.lab"), true),
            responder("names", "gw.lab", Some("C=CH, O=Lab, CN=*"), true),
            responder("one", "gw.lab", Some("a@lab"), true),
            responder("other", "gw2.lab", Some("*@lab"), true),
        ];
        let responders = Responders {
            list: responders,
            tickets: Arc::new(TicketKeys::new([0; TicketKeys::LEN].into())),
        };
        let address = "192.0.2.1:500".parse().unwrap();
        let chosen = |peer: &str, us: Option<&str>, signed| {
            let us = us.map(|us| us.parse().unwrap());
            let peer = peer.parse().unwrap();
            let found = responders.by_proof(address, address, &peer, us.as_ref(), signed);
            found.map(|config| config.name.clone()).unwrap_or_default()
        };
        for (peer, us, signed, name) in [
            ("a@lab", None, true, "one"),
            ("b@lab", None, true, "lab"),
            ("b@sub.lab", None, true, "sub"),
            ("b@lab", Some("GW2.lab"), true, "other"),
            ("b@lab", Some("gw3.lab"), true, ""),
            ("c=ch, o=lab, cn=x", None, true, "names"),
            ("C=DE, O=Lab, CN=x", None, true, "any"),
            ("a@lab", None, false, "secret"),
            ("x.lab", None, false, "secret"),
            // Better to fail by the wrong proof than to know nobody.
            ("b@lab", Some("gw2.lab"), false, "other"),
        ] {
            assert_eq!(chosen(peer, us, signed), name, "{peer} {us:?} {signed}");
        }
    }
}
