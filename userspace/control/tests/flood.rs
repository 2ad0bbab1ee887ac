//! Floods of first messages: they cost bounded memory, and stop no honest client for long
//! (RFC 7296 §2.6).

mod lab;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use lab::{Setup, World, ms, secs};
use mitregate_control::{Config, Control, Datagram, Output, Strangers};
use mitregate_wire::ike::{IkeSpi, Message, Notify, NotifyType, Payload};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// Round trip of the honest client.
const LATENCY: Duration = ms(20);

/// An IKE_SA_INIT request.
fn template() -> Message {
    let mut world = World::new(Setup {
        nat: false,
        ..Setup::default()
    });
    Message::parse(world.steal().remove(0).payload()).unwrap()
}

/// Two controls without a data plane: IKE only.
struct Net {
    now: Duration,
    client: Control,
    server: Control,
    /// Datagrams between the two, by when they arrive.
    queue: Vec<(Duration, bool, SocketAddr, SocketAddr, Vec<u8>)>,
    /// What the server sent to others.
    strangers: Vec<(SocketAddr, Vec<u8>)>,
    client_at: IpAddr,
    most_sas: usize,
    started: bool,
}

impl Net {
    fn new(config: impl Fn(usize) -> Config) -> Self {
        let now = secs(1000);
        let control = |at: usize| {
            let rng = Box::new(ChaCha20Rng::seed_from_u64(at as u64));
            Control::new(now, config(at), rng).unwrap()
        };
        Self {
            now,
            client: control(lab::CLIENT),
            server: control(lab::SERVER),
            queue: Vec::new(),
            strangers: Vec::new(),
            client_at: IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2)),
            most_sas: 0,
            started: false,
        }
    }

    fn server_at() -> SocketAddr {
        (Ipv4Addr::new(198, 51, 100, 1), 500).into()
    }

    fn inject(&mut self, from: SocketAddr, payload: &[u8]) {
        let (local, remote) = (Self::server_at(), from);
        self.server.handle_datagram(
            self.now,
            Datagram {
                local,
                remote,
                payload,
            },
        );
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            if let Output::Transmit {
                local,
                remote,
                payload,
            } = output
            {
                if remote.ip() == self.client_at {
                    let at = self.now + LATENCY;
                    self.queue.push((at, true, local, remote, payload));
                } else {
                    self.strangers.push((remote, payload));
                }
            }
        }
        while let Some(output) = self.client.poll_output() {
            if let Output::Transmit {
                local,
                remote,
                payload,
            } = output
                && self.started
            {
                let at = self.now + LATENCY;
                self.queue.push((at, false, local, remote, payload));
            }
        }
    }

    /// Everything up to `until`, but for what the test injects.
    fn run(&mut self, until: Duration) {
        while self.now < until {
            self.now = until.min(self.now + ms(1));
            let now = self.now;
            let (due, rest) = self.queue.drain(..).partition(|q| q.0 <= now);
            self.queue = rest;
            let due: Vec<_> = due;
            for (_, to_client, from, to, payload) in due {
                let (local, remote) = (to, from);
                let payload = &payload;
                let datagram = Datagram {
                    local,
                    remote,
                    payload,
                };
                if to_client {
                    self.client.handle_datagram(now, datagram);
                } else {
                    self.server.handle_datagram(now, datagram);
                }
            }
            for control in [&mut self.client, &mut self.server] {
                if control.poll_timeout().is_some_and(|t| t <= now) {
                    control.handle_timeout(now);
                }
            }
            self.drain();
        }
    }

    fn note_memory(&mut self) {
        let sas = self.server.list(self.now).ike_sas.len();
        self.most_sas = self.most_sas.max(sas);
    }

    fn is_up(&self) -> bool {
        let list = self.client.list(self.now);
        list.ike_sas.iter().any(|sa| sa.state == "established")
    }
}

/// So many first messages in ten seconds of `sources` senders, who return cookies if they are `real`.
/// After three seconds an honest client calls. When it is connected, counted from then.
fn flood(count: u32, sources: u32, real: bool) -> Duration {
    let template = template();
    let setup = Setup {
        nat: false,
        ..Setup::default()
    };
    let mut net = Net::new(|at| setup.config(at));
    let start = net.now;
    let call = start + secs(3);
    let mut connected = None;
    let mut message = template;
    for n in 0..count {
        let source = Ipv4Addr::from(0x0b00_0000 + n % sources);
        let port = u16::try_from(1024 + (n / sources) % 60_000).unwrap();
        message.spi_i = IkeSpi(u64::from(n + 1).to_be_bytes());
        net.inject((source, port).into(), &message.emit().unwrap());
        if real {
            for (to, reply) in std::mem::take(&mut net.strangers) {
                let reply = Message::parse(&reply).unwrap();
                let Some(Payload::Notify(Notify { kind, data, .. })) = reply.payloads.first()
                else {
                    continue;
                };
                if *kind == NotifyType::COOKIE {
                    let mut again = message.clone();
                    let cookie = Notify::with_data(NotifyType::COOKIE, data.clone());
                    again.payloads.insert(0, Payload::Notify(cookie));
                    net.inject(to, &again.emit().unwrap());
                }
            }
        }
        net.strangers.clear();
        if n % 10 == 9 {
            let at = start + secs(10) * n / count;
            if at >= call && !net.started {
                // It has called before, in vain.
                net.started = true;
            }
            net.run(at);
            if connected.is_none() && net.is_up() {
                connected = Some(net.now - call);
            }
        }
        if n % 5000 == 0 {
            net.note_memory();
        }
    }
    assert!(
        net.most_sas <= Strangers::default().half_open + 2,
        "{}",
        net.most_sas
    );
    // What is half-open goes, and what answers its repetitions.
    let end = net.now + secs(60);
    net.run(end);
    net.note_memory();
    assert!(net.server.list(net.now).ike_sas.len() <= 8);
    connected.expect("an honest client gets in during the flood")
}

#[test]
fn forged_senders() {
    let after = flood(100_000, 100_000, false);
    assert!(after < secs(8), "{after:?}");
}

#[test]
fn one_real_sender() {
    let after = flood(100_000, 1, true);
    assert!(after < secs(8), "{after:?}");
}

#[test]
fn many_real_senders() {
    let after = flood(20_000, 500, true);
    assert!(after < secs(8), "{after:?}");
}
