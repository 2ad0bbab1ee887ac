//! `vpn-masquerade`: IP Masquerade of Linux 2.0 and 2.2 with the VPN Masquerade patch. The gate was made for it.
//!
//! - **Keys.** ESP by client, server and the SPI that the client sends to (the *outbound* SPI); what comes
//!   back by server and the SPI that the server sends to (the *inbound* one). The source address is
//!   rewritten, an SPI never. IKE, which is UDP from port 500 to port 500, by client, server and the first 32
//!   bits of the initiator's cookie (IKEv2: its SPI), and inbound by server and cookie; its source port stays.
//!   All other traffic is masqueraded by ports.
//! - **Creation, outbound ESP**, in this order:
//!   1. SPI 0 is dropped.
//!   2. The entry is squelched: dropped, its timer untouched.
//!   3. It is pending: its timer begins anew; if it is flagged *blocking*, the packet is counted, and one too
//!      many is dropped and squelches the entry. Else the packet is forwarded.
//!   4. It is established: its timer begins anew, forwarded.
//!   5. There is none, and any entry of that server is pending (another client's, or this one's with another
//!      SPI): that entry is flagged blocking, the packet dropped.
//!   6. Else a pending entry is made, and the packet forwarded.
//! - **Matching, inbound ESP**, in this order:
//!   1. SPI 0 and 1 are dropped.
//!   2. An entry has that inbound SPI: forwarded to its client, the timer begins anew.
//!   3. An entry of that server is pending: *whatever SPI arrived* is its inbound SPI now, and it is
//!      established; forwarded to its client.
//!   4. IKE entries of that server whose cookie is not zero and whose life is long enough: a copy to each of
//!      their clients, the latest first and no more than a few. No entry is made.
//!   5. Dropped.
//! - **Timers.** [`VpnMasquerade::established`] for established ESP and for IKE, refreshed from both sides;
//!   [`VpnMasquerade::pending`], refreshed by the client alone; [`VpnMasquerade::squelch`], by nobody.
//! - **Consequences.** A client's own pending entry blocks its next SPI until [`VpnMasquerade::pending`] after
//!   its last packet; a client that says little blocks a server for the others for (5 + 1) × 2 min; clients
//!   that start together are served one after another, a round trip each; the first packet that the server
//!   sends on a new IKE SA is dropped, until the client has sent on it.
//! - **Full table.** Nothing is evicted, a packet that needs an entry is dropped. The sizes are not known and
//!   chosen here, and so are: that a squelched entry still is pending for rule 5 and for rule 3, which ends
//!   the squelch; that the later of two clients with one cookie gets what comes in for it; that an ICMP error
//!   about IKE is for the client that was heard last; that ports are drawn, where Linux counts up.

use std::net::IpAddr;
use std::time::Duration;

use mitregate_wire::udp::PORT_IKE;

use super::esp::{Entry, EspTable, Order};
use super::ports::{Choice, Full, Mapping, PortRules, Timers};
use super::translator::{Tracker, Translator};
use super::{Output, Packet, Quote, Row, secs};

/// Whatever is configured, entries live at least this long.
const ESTABLISHED_MIN: Duration = secs(15 * 60);

/// Its parameters; see the [module](self).
#[derive(Debug, Clone)]
pub struct VpnMasquerade {
    /// Life of an established ESP entry and of an IKE entry without a packet; 15 minutes at least.
    pub established: Duration,
    /// Life of an ESP entry whose inbound SPI was not seen yet, without a packet from its client.
    pub pending: Duration,
    /// Packets that a client may send on an entry that is flagged blocking.
    pub blocking: u32,
    /// How long an entry is squelched.
    pub squelch: Duration,
    /// Clients that get a copy of a packet that is nobody's, at most.
    pub guesses: usize,
    /// An IKE entry makes its client one of them if it would live longer than this.
    pub guess_left: Duration,
    /// Entries of ESP, and as many of IKE.
    pub max_entries: usize,
    /// All other traffic.
    pub ports: PortRules,
}

impl Default for VpnMasquerade {
    fn default() -> Self {
        Self {
            established: secs(30 * 60),
            pending: secs(2 * 60),
            blocking: 5,
            squelch: secs(30),
            guesses: 5,
            guess_left: secs(5 * 60),
            max_entries: 1024,
            // As `ipchains -M` sets them: 15 minutes of TCP, 5 of UDP.
            ports: PortRules {
                mapping: Mapping::Flow,
                choice: Choice::Draw(61_000..=65_095),
                timers: Timers {
                    udp: secs(5 * 60),
                    udp_stream: secs(5 * 60),
                    tcp: secs(15 * 60),
                    tcp_answered: secs(15 * 60),
                    icmp: secs(125),
                    ..Timers::default()
                },
                refreshed_from_outside: true,
                takes_unasked: false,
                max_entries: 4096,
                full: Full::Drops,
            },
        }
    }
}

impl VpnMasquerade {
    /// A box with these parameters.
    #[must_use]
    pub fn make(self, public: IpAddr) -> Translator {
        let tracker = Tables {
            esp: EspTable::new(Order::Age, self.max_entries),
            ike: Vec::new(),
            rules: Self {
                established: self.established.max(ESTABLISHED_MIN),
                ..self.clone()
            },
        };
        let tracker = Some(Box::new(tracker) as Box<dyn Tracker>);
        Translator::new("vpn-masquerade", Some(public), self.ports, tracker)
    }
}

/// Of an entry that is pending.
#[derive(Default)]
struct Pending {
    /// Others wait for it; packets since they do.
    blocking: Option<u32>,
    squelched: bool,
}

struct IkeEntry {
    client: IpAddr,
    server: IpAddr,
    cookie: u32,
    expires: Duration,
}

struct Tables {
    esp: EspTable<Pending>,
    /// The one that was used last is the last.
    ike: Vec<IkeEntry>,
    rules: VpnMasquerade,
}

fn is_ike(packet: &Packet) -> bool {
    packet.is_between(PORT_IKE)
}

fn cookie(packet: &Packet) -> u32 {
    let first = packet.payload().first_chunk();
    first.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

impl Tables {
    /// Refreshes the IKE entry that `fits`; its client.
    fn use_ike(&mut self, now: Duration, fits: impl Fn(&IkeEntry) -> bool) -> Option<IpAddr> {
        let at = self.ike.iter().rposition(fits)?;
        let mut entry = self.ike.remove(at);
        entry.expires = now + self.rules.established;
        let client = entry.client;
        self.ike.push(entry);
        Some(client)
    }

    fn ike_outbound(&mut self, now: Duration, packet: &Packet) -> bool {
        let (client, server, cookie) = (packet.src().ip(), packet.dst().ip(), cookie(packet));
        let ours = |e: &IkeEntry| (e.client, e.server, e.cookie) == (client, server, cookie);
        if self.use_ike(now, ours).is_some() {
            return true;
        }
        if self.ike.len() >= self.rules.max_entries {
            return false;
        }
        self.ike.push(IkeEntry {
            client,
            server,
            cookie,
            expires: now + self.rules.established,
        });
        true
    }

    fn esp_outbound(&mut self, now: Duration, packet: &Packet) -> bool {
        let Some(spi) = packet.spi().filter(|spi| *spi != 0) else {
            return false;
        };
        let rules = &self.rules;
        if let Some(entry) = self.esp.outbound(packet, spi) {
            if entry.state.squelched {
                return false;
            }
            if entry.spi_in.is_some() {
                entry.expires = now + rules.established;
                return true;
            }
            if let Some(packets) = &mut entry.state.blocking {
                *packets += 1;
                if *packets > rules.blocking {
                    entry.state.squelched = true;
                    entry.expires = now + rules.squelch;
                    return false;
                }
            }
            entry.expires = now + rules.pending;
            return true;
        }
        if let Some(entry) = self.esp.incomplete(packet.dst().ip()) {
            entry.state.blocking.get_or_insert(0);
            return false;
        }
        let expires = now + rules.pending;
        self.esp.insert(packet, spi, expires, Pending::default())
    }

    /// To whom the packet goes.
    fn esp_inbound(&mut self, now: Duration, packet: &Packet) -> Vec<IpAddr> {
        let Some(spi) = packet.spi().filter(|spi| *spi > 1) else {
            return Vec::new();
        };
        let server = packet.src().ip();
        let expires = now + self.rules.established;
        if let Some(entry) = self.esp.inbound(server, spi) {
            entry.expires = expires;
            return vec![entry.client];
        }
        if let Some(entry) = self.esp.incomplete(server) {
            entry.spi_in = Some(spi);
            entry.state = Pending::default();
            entry.expires = expires;
            return vec![entry.client];
        }
        let mut clients = Vec::new();
        for entry in self.ike.iter().rev() {
            let left = entry.expires.saturating_sub(now);
            let fits = entry.server == server && entry.cookie != 0 && left > self.rules.guess_left;
            if fits && clients.len() < self.rules.guesses && !clients.contains(&entry.client) {
                clients.push(entry.client);
            }
        }
        clients
    }

    fn drop_expired(&mut self, now: Duration) {
        self.esp.drop_expired(now);
        self.ike.retain(|entry| entry.expires > now);
    }
}

impl Tracker for Tables {
    fn claims(&self, packet: &Packet) -> bool {
        packet.is_bare_esp() || is_ike(packet)
    }

    fn outbound(
        &mut self,
        now: Duration,
        public: Option<IpAddr>,
        mut packet: Packet,
        out: &mut Output,
    ) {
        self.drop_expired(now);
        let passes = match is_ike(&packet) {
            true => self.ike_outbound(now, &packet),
            false => self.esp_outbound(now, &packet),
        };
        if let Some(public) = public.filter(|_| passes) {
            packet.set_src((public, packet.src().port()).into());
            out.outside.push(packet);
        }
    }

    fn inbound(
        &mut self,
        now: Duration,
        _public: Option<IpAddr>,
        packet: Packet,
        out: &mut Output,
    ) {
        self.drop_expired(now);
        let clients = if is_ike(&packet) {
            let (server, cookie) = (packet.src().ip(), cookie(&packet));
            let theirs = |e: &IkeEntry| (e.server, e.cookie) == (server, cookie);
            self.use_ike(now, theirs).into_iter().collect()
        } else {
            self.esp_inbound(now, &packet)
        };
        let port = packet.dst().port();
        out.inside.extend(clients.into_iter().map(|client| {
            let mut copy = packet.clone();
            copy.set_dst((client, port).into());
            copy
        }));
    }

    fn owner(&self, now: Duration, quote: &Quote) -> Option<IpAddr> {
        let server = quote.dst.ip();
        if let Some(spi) = quote.spi {
            return self.esp.owner(now, server, spi);
        }
        if quote.src.port() != PORT_IKE || quote.dst.port() != PORT_IKE {
            return None;
        }
        let mut live = self.ike.iter().rev().filter(|e| e.expires > now);
        live.find(|e| e.server == server).map(|entry| entry.client)
    }

    fn clear(&mut self) {
        self.esp.clear();
        self.ike.clear();
    }

    fn len(&self) -> usize {
        self.esp.len() + self.ike.len()
    }

    fn show(&self, now: Duration, public: Option<IpAddr>, rows: &mut Vec<Row>) {
        let most = self.rules.blocking;
        let what = |entry: &Entry<Pending>| match (&entry.state, entry.spi_in) {
            (_, Some(_)) => "established".to_owned(),
            (
                Pending {
                    squelched: true, ..
                },
                None,
            ) => "squelched".to_owned(),
            (
                Pending {
                    blocking: Some(packets),
                    ..
                },
                None,
            ) => format!("blocking {packets}/{most}"),
            _ => "pending".to_owned(),
        };
        self.esp.show(now, public, what, rows);
        let live = self.ike.iter().filter(|entry| entry.expires > now);
        rows.extend(live.map(|entry| Row {
            protocol: "IKE".to_owned(),
            inside: entry.client.to_string(),
            public: public.map(|public| public.to_string()).unwrap_or_default(),
            outside: entry.server.to_string(),
            keys: format!("cookie {:08x}", entry.cookie),
            state: Row::state("established", entry.expires - now),
        }));
    }
}
