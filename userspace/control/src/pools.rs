//! Virtual addresses for peers: who has which. A peer's lease is its own as long as there are others to
//! give: over a reauthentication, while it is away, and over a restart of its own.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use mitregate_ike::{Assigned, Identity, Leases};
use tracing::{debug, warn};

use crate::{LeaseView, PoolConfig, PoolView, Unique};

/// Addresses of one pool that are ever given out: a /64 has more than there is memory for.
const MAX_LEASES: u128 = 1 << 16;

/// All pools of one process.
#[derive(Default)]
pub(crate) struct Pools {
    pools: Vec<Pool>,
    /// What connections give out.
    users: BTreeMap<String, User>,
    now: Duration,
}

struct User {
    pools: Vec<usize>,
    /// Each IKE SA is a peer of its own: two of one identity share no address.
    never: bool,
}

struct Pool {
    config: PoolConfig,
    leases: BTreeMap<IpAddr, Lease>,
    by_peer: BTreeMap<Peer, BTreeSet<IpAddr>>,
    /// Offset of the first address that nobody has had yet, but for those asked for by number.
    fresh: u128,
    /// That it is exhausted has been said.
    said: bool,
}

/// A connection, and an identity of which it has seen proof: another connection may ask for less.
type Peer = (String, (u8, Vec<u8>));

struct Lease {
    peer: Identity,
    key: Peer,
    /// The connection that has it; `None` while its peer is away.
    owner: Option<usize>,
    since: Duration,
}

impl Pools {
    pub(crate) fn new(configs: Vec<PoolConfig>) -> Self {
        Self {
            pools: configs.into_iter().map(Pool::new).collect(),
            ..Self::default()
        }
    }

    /// Lets a connection give out addresses of these pools.
    pub(crate) fn add_user(&mut self, connection: &str, names: &[String], unique: Unique) {
        let find = |name: &String| self.pools.iter().position(|p| p.config.name == *name);
        let user = User {
            pools: names.iter().filter_map(find).collect(),
            never: unique == Unique::Never,
        };
        self.users.insert(connection.to_owned(), user);
    }

    /// Tells the time to what happens next.
    pub(crate) fn at(&mut self, now: Duration) -> &mut Self {
        self.now = now;
        self
    }

    /// These addresses are a connection's from now on.
    pub(crate) fn own(&mut self, addresses: &[IpAddr], owner: usize) {
        for lease in self.leases_mut(addresses) {
            lease.owner = Some(owner);
        }
    }

    /// A connection's peer has gone; its addresses wait for it, but for those in `kept`.
    pub(crate) fn disown(&mut self, owner: usize, kept: &[IpAddr]) {
        let now = self.now;
        for pool in &mut self.pools {
            for (address, lease) in &mut pool.leases {
                if lease.owner == Some(owner) && !kept.contains(address) {
                    lease.owner = None;
                    lease.since = now;
                    pool.said = false;
                }
            }
        }
    }

    fn leases_mut<'a>(
        &'a mut self,
        addresses: &'a [IpAddr],
    ) -> impl Iterator<Item = &'a mut Lease> {
        let leases = self.pools.iter_mut().flat_map(|pool| &mut pool.leases);
        leases
            .filter(|(address, _)| addresses.contains(address))
            .map(|(_, lease)| lease)
    }

    pub(crate) fn list(&self, now: Duration) -> Vec<PoolView> {
        self.pools.iter().map(|pool| pool.view(now)).collect()
    }
}

impl Leases for Pools {
    fn assign(&mut self, connection: &str, peer: &Identity, wanted: &[IpAddr]) -> Assigned {
        let mut assigned = Assigned::default();
        let Some(user) = self.users.get(connection) else {
            return assigned;
        };
        for v4 in [true, false] {
            let Some(wanted) = wanted.iter().find(|wanted| wanted.is_ipv4() == v4) else {
                continue;
            };
            let of_family = |at: &usize| self.pools[*at].config.start.is_ipv4() == v4;
            let key = (connection.to_owned(), peer.key());
            let pools: Vec<_> = user.pools.iter().copied().filter(of_family).collect();
            let found = pools.iter().find_map(|at| {
                let pool = &mut self.pools[*at];
                pool.assign(peer, &key, *wanted, user.never, self.now)
            });
            assigned.addresses.extend(found);
            if found.is_none() {
                pools.iter().for_each(|at| self.pools[*at].say_exhausted());
            }
        }
        for at in &user.pools {
            for dns in &self.pools[*at].config.dns {
                if !assigned.dns.contains(dns) {
                    assigned.dns.push(*dns);
                }
            }
        }
        assigned
    }
}

impl Pool {
    fn new(config: PoolConfig) -> Self {
        Self {
            config,
            leases: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            fresh: 0,
            said: false,
        }
    }

    /// How many addresses it gives out at most.
    fn size(&self) -> u128 {
        let all = bits(self.config.end).saturating_sub(bits(self.config.start));
        all.saturating_add(1).min(MAX_LEASES)
    }

    fn assign(
        &mut self,
        peer: &Identity,
        key: &Peer,
        wanted: IpAddr,
        never: bool,
        now: Duration,
    ) -> Option<IpAddr> {
        let own = self.by_peer.get(key).cloned().unwrap_or_default();
        let usable = |address: &&IpAddr| {
            let lease = self.leases.get(address);
            lease.is_some_and(|lease| !never || lease.owner.is_none())
        };
        let wanted_own = own.get(&wanted).filter(usable);
        let free = |address: &IpAddr| {
            let offset = bits(*address).checked_sub(bits(self.config.start));
            offset.is_some_and(|offset| offset < self.size()) && !self.leases.contains_key(address)
        };
        let address = wanted_own
            .or_else(|| own.iter().find(usable))
            .copied()
            .or_else(|| Some(wanted).filter(free))
            .or_else(|| self.next_fresh())
            .or_else(|| self.longest_away())?;
        let before = self.leases.insert(
            address,
            Lease {
                peer: peer.clone(),
                key: key.clone(),
                owner: self.leases.get(&address).and_then(|lease| lease.owner),
                since: now,
            },
        );
        if let Some(before) = before
            && before.key != *key
        {
            let of_peer = self.by_peer.get_mut(&before.key);
            of_peer.map(|of_peer| of_peer.remove(&address));
            self.by_peer.retain(|_, addresses| !addresses.is_empty());
        }
        let of_peer = self.by_peer.entry(key.clone()).or_default();
        of_peer.insert(address);
        debug!(pool = self.config.name, %peer, "virtual address assigned");
        Some(address)
    }

    /// One that nobody has had yet.
    fn next_fresh(&mut self) -> Option<IpAddr> {
        while self.fresh < self.size() {
            let address = from_bits(bits(self.config.start) + self.fresh, self.config.start);
            self.fresh += 1;
            if !self.leases.contains_key(&address) {
                return Some(address);
            }
        }
        None
    }

    /// The one whose peer has been away for the longest time.
    fn longest_away(&self) -> Option<IpAddr> {
        let away = self.leases.iter().filter(|(_, l)| l.owner.is_none());
        away.min_by_key(|(_, lease)| lease.since).map(|(a, _)| *a)
    }

    fn say_exhausted(&mut self) {
        if !core::mem::replace(&mut self.said, true) {
            warn!(
                pool = self.config.name,
                addresses = self.leases.len(),
                "pool is exhausted: a peer is refused; give the pool more addresses"
            );
        }
    }

    fn view(&self, now: Duration) -> PoolView {
        let online = self.leases.values().filter(|l| l.owner.is_some()).count();
        PoolView {
            name: self.config.name.clone(),
            first: self.config.start.to_string(),
            last: self.config.end.to_string(),
            size: u64::try_from(self.size()).unwrap_or(u64::MAX),
            online,
            offline: self.leases.len() - online,
            dns: self.config.dns.iter().map(ToString::to_string).collect(),
            leases: self
                .leases
                .iter()
                .map(|(address, lease)| LeaseView {
                    address: address.to_string(),
                    peer_id: lease.peer.to_string(),
                    online: lease.owner.is_some(),
                    since_ms: crate::list::ms(now, lease.since),
                })
                .collect(),
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn from_bits(bits: u128, family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn id(text: &str) -> Identity {
        text.parse().unwrap()
    }

    fn pools(unique: Unique) -> Pools {
        let pool = |name: &str, start: &str, end: &str| PoolConfig {
            name: name.to_owned(),
            start: ip(start),
            end: ip(end),
            dns: vec![ip("10.2.0.53")],
        };
        let mut pools = Pools::new(vec![
            pool("four", "10.3.0.1", "10.3.0.3"),
            pool("six", "fd03::1", "fd03::ffff:ffff:ffff:ffff"),
        ]);
        pools.add_user("home", &["four".into(), "six".into()], unique);
        pools
    }

    fn v4(pools: &mut Pools, peer: &str, wanted: &str) -> Option<IpAddr> {
        let got = pools.assign("home", &id(peer), &[ip(wanted)]);
        got.addresses.first().copied()
    }

    #[test]
    fn one_of_each_family_and_the_servers_beside() {
        let mut pools = pools(Unique::Replace);
        let got = pools.assign("home", &id("a"), &[ip("0.0.0.0"), ip("::"), ip("0.0.0.0")]);
        assert_eq!(got.addresses, [ip("10.3.0.1"), ip("fd03::1")]);
        assert_eq!(got.dns, [ip("10.2.0.53")]);
        let nothing = pools.assign("other", &id("a"), &[ip("0.0.0.0")]);
        assert_eq!(nothing, Assigned::default());
    }

    #[test]
    fn a_lease_stays_its_peers() {
        let mut pools = pools(Unique::Replace);
        assert_eq!(v4(&mut pools, "a", "0.0.0.0"), Some(ip("10.3.0.1")));
        assert_eq!(v4(&mut pools, "b", "0.0.0.0"), Some(ip("10.3.0.2")));
        pools.own(&[ip("10.3.0.1")], 1);
        // Reauthentication, while the old IKE SA is there.
        assert_eq!(v4(&mut pools, "a", "0.0.0.0"), Some(ip("10.3.0.1")));
        // And after having been away.
        pools.disown(1, &[]);
        assert_eq!(v4(&mut pools, "a", "0.0.0.0"), Some(ip("10.3.0.1")));
        // What is another's is not to be had by asking.
        assert_eq!(v4(&mut pools, "c", "10.3.0.2"), Some(ip("10.3.0.3")));
    }

    #[test]
    fn a_free_address_can_be_asked_for_and_one_outside_not() {
        let mut pools = pools(Unique::Replace);
        assert_eq!(v4(&mut pools, "a", "10.3.0.3"), Some(ip("10.3.0.3")));
        assert_eq!(v4(&mut pools, "b", "192.0.2.1"), Some(ip("10.3.0.1")));
        assert_eq!(v4(&mut pools, "c", "0.0.0.0"), Some(ip("10.3.0.2")));
    }

    #[test]
    fn exhausted_means_all_in_use_and_those_away_the_longest_give_way_first() {
        let mut pools = pools(Unique::Replace);
        for (n, peer) in ["a", "b", "c"].into_iter().enumerate() {
            let address = v4(&mut pools, peer, "0.0.0.0").unwrap();
            pools.own(&[address], n);
        }
        assert_eq!(v4(&mut pools, "d", "0.0.0.0"), None);
        pools.at(Duration::from_secs(7)).disown(1, &[]);
        pools.at(Duration::from_secs(9)).disown(0, &[]);
        assert_eq!(v4(&mut pools, "d", "0.0.0.0"), Some(ip("10.3.0.2")));
        pools.own(&[ip("10.3.0.2")], 3);
        // Whose address was given away gets another one.
        assert_eq!(v4(&mut pools, "b", "10.3.0.2"), Some(ip("10.3.0.1")));
        let view = &pools.list(Duration::from_secs(10))[0];
        assert_eq!((view.size, view.online, view.offline), (3, 2, 1));
        assert_eq!(view.leases.len(), 3);
    }

    #[test]
    fn where_each_ike_sa_is_its_own_peer_two_share_no_address() {
        let mut pools = pools(Unique::Never);
        let first = v4(&mut pools, "a", "0.0.0.0").unwrap();
        pools.own(&[first], 0);
        let second = v4(&mut pools, "a", "0.0.0.0").unwrap();
        assert_ne!(first, second);
        pools.own(&[second], 1);
        pools.disown(0, &[]);
        assert_eq!(v4(&mut pools, "a", "0.0.0.0"), Some(first));
    }

    /// Who it is, another connection may have asked for less to believe.
    #[test]
    fn a_lease_is_of_one_identity_of_one_connection_however_it_is_spelled() {
        let mut pools = pools(Unique::Replace);
        pools.add_user("guests", &["four".into()], Unique::Replace);
        let mut got = |connection: &str, peer: &str| {
            let got = pools.assign(connection, &id(peer), &[ip("0.0.0.0")]);
            got.addresses[0]
        };
        assert_eq!(got("home", "a.lab"), ip("10.3.0.1"));
        assert_eq!(got("home", "A.Lab"), ip("10.3.0.1"));
        assert_eq!(got("guests", "a.lab"), ip("10.3.0.2"));
        assert_eq!(got("home", "a.lab"), ip("10.3.0.1"));
    }

    #[test]
    fn a_pool_of_2_to_the_64_stays_small() {
        let pools = pools(Unique::Replace);
        assert_eq!(pools.list(Duration::ZERO)[1].size, 1 << 16);
    }
}
