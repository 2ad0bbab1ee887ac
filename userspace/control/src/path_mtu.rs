//! The largest packets that the tunnels' paths carry: each tunnel's search, its probes, what comes of it.

use core::time::Duration;

use mitregate_esp::{max_inner, sealed_len};
use mitregate_gate::pmtu::{Load, PathMtu, PathMtuOutput, PathMtuView, Why};
use mitregate_gate::{Input, State};
use mitregate_ike::Encap;
use mitregate_wire::echo::{self, Echo};
use mitregate_wire::frame::OuterError;
use mitregate_wire::{ipv4, ipv6, udp};
use tracing::{debug, info};

use crate::control::tunnel_id;
use crate::tunnel::Tunnel;
use crate::{Control, ControlEvent, Outer, Output};

/// ICMP errors that are looked at in one second; more are noise, or somebody's flood.
const ERRORS_PER_SECOND: u32 = 100;
/// A tunnel is pinged for an ICMP error no more often than this.
const PING_EVERY: Duration = Duration::from_secs(2);

/// One tunnel's search, which outlives its epochs.
pub(crate) struct Path {
    search: PathMtu,
    /// Where the epoch that carries data goes.
    outer: Outer,
    /// An ICMP error last led to a ping.
    pinged: Option<Duration>,
}

impl Path {
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.search.poll_timeout()
    }

    pub(crate) fn view(&self) -> PathMtuView {
        self.search.view()
    }

    /// The largest inner packet that fits, if the inner link takes `link` bytes.
    pub(crate) fn inner_mtu(&self, link: u16) -> u16 {
        inner_mtu(&self.outer, self.search.mtu()).min(link)
    }
}

/// Bytes of the outer IP packet before ESP.
fn overhead(outer: &Outer) -> usize {
    let ip = if outer.remote.is_ipv4() {
        ipv4::HEADER_LEN
    } else {
        ipv6::HEADER_LEN
    };
    match outer.encap {
        Encap::Esp => ip,
        Encap::Udp => ip + udp::HEADER_LEN,
    }
}

fn inner_mtu(outer: &Outer, mtu: u16) -> u16 {
    let inner = max_inner(usize::from(mtu).saturating_sub(overhead(outer)));
    u16::try_from(inner).unwrap_or(u16::MAX)
}

impl Control {
    /// What the inner link and the outer link take at most, bytes of an IP packet; `None`: as before. Until
    /// told: 1400, 1500.
    pub fn set_mtus(&mut self, now: Duration, inner: Option<u16>, outer: Option<u16>) {
        let before = (self.inner_mtu, self.outer_mtu);
        self.inner_mtu = inner.unwrap_or(self.inner_mtu);
        self.outer_mtu = outer.unwrap_or(self.outer_mtu);
        if before == (self.inner_mtu, self.outer_mtu) {
            return;
        }
        for at in self.tunnels.keys() {
            self.follow_path(now, at);
            self.dirty_connections.insert(self.tunnels[at].connection);
        }
        self.settle(now);
    }

    /// Nothing larger is of use on this way: the link's MTU, or the largest inner packet sealed.
    fn largest(&self, outer: &Outer) -> u16 {
        let sealed = overhead(outer) + sealed_len(usize::from(self.inner_mtu));
        u16::try_from(sealed)
            .unwrap_or(u16::MAX)
            .min(self.outer_mtu)
    }

    /// Takes an ICMP error about a packet of ours. Whoever knows our addresses and ports can forge one, so
    /// it is a reason to ask, and nothing more (RFC 8899 §4.6.1, RFC 5927).
    pub fn handle_icmp(&mut self, now: Duration, error: &OuterError) {
        if !self.icmp_errors.take(now, ERRORS_PER_SECOND) {
            return;
        }
        for at in self.tunnels.keys() {
            let tunnel = &mut self.tunnels[at];
            let about = tunnel.epochs.values().any(|e| {
                let ends = e.outer.local == error.src && e.outer.remote == error.dst;
                // The quoted bytes of plain ESP hold its SPI; those of UDP do not.
                ends && error.spi.is_none_or(|spi| spi == e.spi_out.get())
            });
            let Some(path) = tunnel.path.as_mut().filter(|_| about) else {
                continue;
            };
            if let Some(mtu) = error.next_hop_mtu {
                let mtu = u16::try_from(mtu).ok().filter(|mtu| *mtu > 0);
                path.search.hint(now, mtu);
                self.drain_path(now, at);
            } else if path.pinged.is_none_or(|t| now >= t + PING_EVERY) {
                path.pinged = Some(now);
                debug!(tunnel = tunnel.name, from = %error.from, "unreachable, says somebody: asking");
                self.gate(now, at, Input::PathChanged);
            }
        }
        self.settle(now);
    }

    /// Lets the search know on which way the tunnel's data goes now, and whether that is proven.
    pub(crate) fn follow_path(&mut self, now: Duration, at: usize) {
        let active = self.tunnels[at].gate.epochs().find(|epoch| epoch.active);
        let epoch =
            active.and_then(|view| self.tunnels[at].epochs.get(&view.epoch).zip(Some(view)));
        let Some((epoch, view)) = epoch else {
            if let Some(path) = &mut self.tunnels[at].path {
                path.search.down();
            }
            return;
        };
        let (outer, asks) = (epoch.outer, epoch.peer_echo);
        let max = self.largest(&outer);
        let tunnel = &mut self.tunnels[at];
        let config = tunnel.gate.config();
        let asks = asks && config.mode.uses_echo();
        let Some(config) = config.path_mtu else {
            return;
        };
        let path = tunnel.path.get_or_insert_with(|| Path {
            search: PathMtu::new(config, max),
            outer,
            pinged: None,
        });
        path.search.set_max(now, max);
        if path.outer != outer {
            path.outer = outer;
            path.search.moved(now);
        }
        match (asks, view.state) {
            (false, _) => path.search.disable(),
            (true, State::Proven) => path.search.up(now, &mut *self.rng),
            (true, _) => path.search.down(),
        }
        self.drain_path(now, at);
    }

    /// Takes an echo that answers a probe. The gate never hears of probes: one that is lost is no lost ping.
    pub(crate) fn answers_probe(&mut self, now: Duration, at: usize, echo: &Echo<'_>) -> bool {
        let path = self.tunnels[at].path.as_mut();
        let answers = path.is_some_and(|path| path.search.answered(now, echo));
        if answers {
            self.drain_path(now, at);
        }
        answers
    }

    /// One of the gate's own pings was answered.
    pub(crate) fn path_alive(&mut self, now: Duration, at: usize, rtt: Duration) {
        if let Some(path) = &mut self.tunnels[at].path {
            path.search.alive(now, now.saturating_sub(rtt));
            self.drain_path(now, at);
        }
    }

    pub(crate) fn path_timeout(&mut self, now: Duration, at: usize) {
        let totals = self.tunnels[at].totals();
        let load = Load {
            large_sent: totals.large_out,
            received: totals.packets_in,
        };
        if let Some(path) = &mut self.tunnels[at].path {
            path.search.handle_timeout(now, load);
            self.drain_path(now, at);
        }
    }

    fn drain_path(&mut self, now: Duration, at: usize) {
        let Some(tunnel) = tunnel_id(at) else { return };
        while let Some(output) = next_output(&mut self.tunnels[at]) {
            match output {
                PathMtuOutput::Probe { size, payload } => {
                    if let Some(epoch) = self.tunnels[at].gate.active() {
                        self.outputs.push_back(Output::SendInner {
                            tunnel,
                            epoch,
                            next_header: echo::NEXT_HEADER,
                            via: None,
                            pad_to: size,
                            payload,
                        });
                    }
                }
                PathMtuOutput::Ping => self.gate(now, at, Input::PathChanged),
                PathMtuOutput::Changed { mtu, why } => self.path_mtu_changed(at, mtu, why),
            }
        }
        self.dirty_connections.insert(self.tunnels[at].connection);
    }

    fn path_mtu_changed(&mut self, at: usize, mtu: u16, why: Why) {
        let Some(tunnel) = tunnel_id(at) else { return };
        let link = self.inner_mtu;
        let t = &self.tunnels[at];
        let Some(path) = &t.path else { return };
        let inner = path.inner_mtu(link);
        info!(
            tunnel = t.name,
            path_mtu = mtu,
            inner_mtu = inner,
            why = why.as_str(),
            "path MTU"
        );
        self.outputs.push_back(Output::PathMtu {
            tunnel,
            outer: mtu,
            inner,
        });
        self.event(ControlEvent::PathMtu {
            tunnel,
            outer: mtu,
            inner,
            why,
        });
    }
}

fn next_output(tunnel: &mut Tunnel) -> Option<PathMtuOutput> {
    tunnel.path.as_mut()?.search.poll_output()
}
