//! A box of its parts: a table of ports, and before it what the model does with ESP in a way of its own.

use std::net::IpAddr;
use std::time::Duration;

use rand_core::Rng;

use super::ports::{PortRules, Ports};
use super::{Middlebox, Output, Packet, Quote, Remap, Row};

/// What a model does with ESP, and with whatever else it claims.
pub(super) trait Tracker: Send {
    /// Whether this packet is not for the table of ports.
    fn claims(&self, packet: &Packet) -> bool {
        packet.is_bare_esp()
    }

    /// A packet from the inside, to leave with the source `public` if one is given.
    fn outbound(&mut self, now: Duration, public: Option<IpAddr>, packet: Packet, out: &mut Output);

    /// A packet from the outside.
    fn inbound(&mut self, now: Duration, public: Option<IpAddr>, packet: Packet, out: &mut Output);

    /// Whose packet an ICMP error from the outside is about: the source was `quote.src`.
    fn owner(&self, now: Duration, quote: &Quote) -> Option<IpAddr>;

    /// See [`Middlebox::poll_timeout`].
    fn poll_timeout(&self) -> Option<Duration> {
        None
    }

    /// See [`Middlebox::handle_timeout`].
    fn handle_timeout(&mut self, _now: Duration, _public: Option<IpAddr>, _out: &mut Output) {}

    /// Everything is lost.
    fn clear(&mut self);

    /// See [`Middlebox::entries`].
    fn len(&self) -> usize;

    /// Adds the live entries.
    fn show(&self, now: Duration, public: Option<IpAddr>, rows: &mut Vec<Row>);
}

/// See the [module](self).
pub struct Translator {
    name: &'static str,
    public: Option<IpAddr>,
    ports: Ports,
    tracker: Option<Box<dyn Tracker>>,
}

impl Translator {
    /// Without a tracker of its own ESP is the table of ports' as well.
    pub(super) fn new(
        name: &'static str,
        public: Option<IpAddr>,
        ports: PortRules,
        tracker: Option<Box<dyn Tracker>>,
    ) -> Self {
        Self {
            name,
            public,
            ports: Ports::new(public, ports),
            tracker,
        }
    }

    fn tracker_for(&mut self, packet: &Packet) -> Option<&mut Box<dyn Tracker>> {
        self.tracker
            .as_mut()
            .filter(|tracker| tracker.claims(packet))
    }

    /// An ICMP error about a packet that went out.
    fn error_inbound(
        &mut self,
        now: Duration,
        mut packet: Packet,
        quote: &Quote,
        out: &mut Output,
    ) {
        let inside = self.ports.asked(now, quote.protocol, quote.src, quote.dst);
        let inside = inside.or_else(|| {
            let here = self.public.is_none_or(|public| public == quote.src.ip());
            let tracker = self.tracker.as_ref().filter(|_| here)?;
            let owner = tracker.owner(now, quote)?;
            Some((owner, quote.src.port()).into())
        });
        if let Some(inside) = inside {
            packet.set_quoted_src(inside);
            packet.set_dst(inside);
            out.inside.push(packet);
        }
    }

    /// An ICMP error about a packet that came in.
    fn error_outbound(
        &mut self,
        now: Duration,
        mut packet: Packet,
        quote: &Quote,
        out: &mut Output,
    ) {
        let mapped = self.ports.mapped(now, quote.protocol, quote.dst, quote.src);
        let mapped = mapped.or_else(|| {
            let tracked = self.tracker.is_some() && quote.spi.is_some();
            let public = self.public.unwrap_or(quote.dst.ip());
            tracked.then(|| (public, quote.dst.port()).into())
        });
        if let Some(mapped) = mapped {
            packet.set_quoted_dst(mapped);
            if let Some(public) = self.public {
                packet.set_src((public, 0).into());
            }
            out.outside.push(packet);
        }
    }
}

impl Middlebox for Translator {
    fn name(&self) -> &'static str {
        self.name
    }

    fn public(&self) -> Option<IpAddr> {
        self.public
    }

    fn outbound(&mut self, now: Duration, packet: Packet, rng: &mut dyn Rng, out: &mut Output) {
        let src = packet.src().ip();
        if packet.is_fragment() || self.public.is_some_and(|p| p.is_ipv4() != src.is_ipv4()) {
            return;
        }
        let public = self.public;
        if let Some(quote) = packet.quote() {
            self.error_outbound(now, packet, &quote, out);
        } else if let Some(tracker) = self.tracker_for(&packet) {
            tracker.outbound(now, public, packet, out);
        } else {
            self.ports.outbound(now, packet, rng, out);
        }
    }

    fn inbound(&mut self, now: Duration, packet: Packet, _rng: &mut dyn Rng, out: &mut Output) {
        let dst = packet.dst().ip();
        if packet.is_fragment() || self.public.is_some_and(|public| public != dst) {
            return;
        }
        let public = self.public;
        if let Some(quote) = packet.quote() {
            self.error_inbound(now, packet, &quote, out);
        } else if let Some(tracker) = self.tracker_for(&packet) {
            tracker.inbound(now, public, packet, out);
        } else {
            self.ports.inbound(now, packet, out);
        }
    }

    fn poll_timeout(&self) -> Option<Duration> {
        self.tracker.as_ref()?.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Duration, _rng: &mut dyn Rng, out: &mut Output) {
        if let Some(tracker) = &mut self.tracker {
            tracker.handle_timeout(now, self.public, out);
        }
    }

    fn crash(&mut self) {
        self.ports.clear();
        if let Some(tracker) = &mut self.tracker {
            tracker.clear();
        }
    }

    fn remap(&mut self, remap: &Remap) {
        if self.public.is_some() {
            self.public = remap.address.or(self.public);
            self.ports.remap(self.public, remap.ports.clone());
        }
        self.crash();
    }

    fn entries(&self) -> usize {
        self.ports.len() + self.tracker.as_ref().map_or(0, |tracker| tracker.len())
    }

    fn show(&self, now: Duration) -> Vec<Row> {
        let mut rows = Vec::new();
        if let Some(tracker) = &self.tracker {
            tracker.show(now, self.public, &mut rows);
        }
        self.ports.show(now, &mut rows);
        rows
    }
}
