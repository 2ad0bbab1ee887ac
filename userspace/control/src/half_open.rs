//! The IKE SAs of peers that call: how to find one by its first request, and which of them wait for
//! their peer to authenticate.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use mitregate_wire::ike::IkeSpi;

use crate::session::SessionId;
use crate::stray::Source;

/// See the module.
#[derive(Default)]
pub(crate) struct Callers {
    /// By where the first request came from, and the SPI in it.
    by_first: BTreeMap<(SocketAddr, IkeSpi), SessionId>,
    /// Oldest first.
    half_open: BTreeMap<SessionId, Source>,
    per_source: BTreeMap<Source, usize>,
}

impl Callers {
    /// A peer calls.
    pub(crate) fn add(&mut self, id: SessionId, remote: SocketAddr, spi: IkeSpi) {
        let source = Source::from(remote.ip());
        self.by_first.insert((remote, spi), id);
        self.half_open.insert(id, source);
        *self.per_source.entry(source).or_default() += 1;
    }

    /// It authenticated, or it failed to.
    pub(crate) fn settled(&mut self, id: SessionId) {
        let Some(source) = self.half_open.remove(&id) else {
            return;
        };
        if let Some(count) = self.per_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&source);
            }
        }
    }

    /// It is gone.
    pub(crate) fn remove(&mut self, id: SessionId, first: (SocketAddr, IkeSpi)) {
        self.settled(id);
        if self.by_first.get(&first) == Some(&id) {
            self.by_first.remove(&first);
        }
    }

    pub(crate) fn by_first(&self, remote: SocketAddr, spi: IkeSpi) -> Option<SessionId> {
        self.by_first.get(&(remote, spi)).copied()
    }

    pub(crate) fn half_open(&self) -> usize {
        self.half_open.len()
    }

    pub(crate) fn of(&self, source: Source) -> usize {
        self.per_source.get(&source).copied().unwrap_or(0)
    }

    /// Whose place another may take: the oldest of the sender that has most, or the oldest of all.
    pub(crate) fn dispensable(&self) -> [Option<SessionId>; 2] {
        let most = self.per_source.values().max();
        let mut oldest = self.half_open.iter();
        let of_most = oldest.find(|(_, source)| self.per_source.get(source) == most);
        [of_most, self.half_open.first_key_value()].map(|found| found.map(|(id, _)| *id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_per_source_and_found_by_first_request() {
        let mut callers = Callers::default();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let spi = |n| IkeSpi([n; 8]);
        for (id, (from, n)) in [
            ("192.0.2.1:500", 1),
            ("192.0.2.2:500", 2),
            ("192.0.2.2:9", 2),
        ]
        .into_iter()
        .enumerate()
        {
            callers.add(SessionId(id as u64), at(from), spi(n));
        }
        let second = Source::from(at("192.0.2.2:0").ip());
        assert_eq!((callers.half_open(), callers.of(second)), (3, 2));
        assert_eq!(
            callers.by_first(at("192.0.2.2:9"), spi(2)),
            Some(SessionId(2))
        );
        assert_eq!(callers.by_first(at("192.0.2.2:9"), spi(1)), None);
        assert_eq!(callers.dispensable(), [1, 0].map(|id| Some(SessionId(id))));
        for _ in 0..2 {
            callers.settled(SessionId(1));
        }
        assert_eq!((callers.half_open(), callers.of(second)), (2, 1));
        // It still answers its first request.
        assert_eq!(
            callers.by_first(at("192.0.2.2:500"), spi(2)),
            Some(SessionId(1))
        );
        callers.remove(SessionId(1), (at("192.0.2.2:500"), spi(2)));
        callers.remove(SessionId(2), (at("192.0.2.2:9"), spi(2)));
        assert_eq!(callers.by_first(at("192.0.2.2:500"), spi(2)), None);
        assert_eq!((callers.half_open(), callers.of(second)), (1, 0));
        assert_eq!(callers.dispensable(), [Some(SessionId(0)); 2]);
    }
}
