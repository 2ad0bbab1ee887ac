//! What happened in a run, kept to be shown: as a diagram, and as a capture with its keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mitregate_esp::CipherSuite;
use mitregate_wire::MacAddr;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};
use tracing::Level;

use super::describe::{self, What};
use super::keys::KeyRing;
use super::packet::ethernet;
use crate::nat::Packet;

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A host sent a packet.
    Sent {
        /// Which.
        host: usize,
        /// As it left.
        packet: Packet,
    },
    /// A packet reached a host.
    Delivered {
        /// Which.
        host: usize,
        /// As it arrived.
        packet: Packet,
    },
    /// A copy of a packet went no further.
    Lost {
        /// The packet's.
        id: u64,
        /// What took it.
        how: &'static str,
    },
    /// A host logged something.
    Log {
        /// Which.
        host: usize,
        /// How bad.
        level: Level,
        /// Message and fields.
        text: String,
    },
    /// The scenario did something, or the referee found something.
    Note(String),
}

impl Entry {
    /// A note.
    #[must_use]
    pub fn note(text: String) -> Self {
        Self::Note(text)
    }
}

/// All that happened, in order.
#[derive(Default)]
pub struct Trace {
    entries: Vec<(Duration, Entry)>,
}

/// Between two hosts' columns.
const COLUMN: usize = 14;

/// What became of a packet.
#[derive(Default)]
struct Fate {
    arrivals: Vec<(Duration, usize)>,
    losses: Vec<&'static str>,
}

impl Trace {
    /// Takes one.
    pub fn add(&mut self, at: Duration, entry: Entry) {
        self.entries.push((at, entry));
    }

    /// The exchanges as arrows between the hosts' columns. Without `data`, packets of the same kind in a
    /// row make one line.
    #[must_use]
    pub fn diagram(&self, names: &[String], ring: &KeyRing, logs: bool) -> String {
        let fates = self.fates();
        let owners = self.owners();
        let mut out = String::new();
        let mut seen = BTreeSet::new();
        let mut crowd = Crowd::default();
        let _ = write!(out, "{:>10}  ", "seconds");
        for name in names {
            let _ = write!(out, "{:<COLUMN$}", cut(name, COLUMN - 2));
        }
        out.push('\n');
        for (at, entry) in &self.entries {
            let (columns, text) = match entry {
                Entry::Sent { host, packet } => {
                    let fate = fates.get(&packet.id);
                    let to = fate
                        .and_then(|f| f.arrivals.first().map(|a| a.1))
                        .or_else(|| owners.get(&packet.dst()).copied());
                    let what = describe::packet(packet, *host, ring);
                    let marks = marks(*at, fate, !seen.insert((*host, packet.payload().to_vec())));
                    match what {
                        What::Data(text) => {
                            crowd.add(*at, *host, to, text, fate);
                            continue;
                        }
                        What::Said(text) => (arrow(names.len(), *host, to), text + &marks),
                    }
                }
                Entry::Log { host, level, text } if logs || *level <= Level::WARN => {
                    let level = level.as_str().to_lowercase();
                    (
                        bars(names.len()),
                        format!("{} {level}: {text}", names[*host]),
                    )
                }
                Entry::Note(text) => (bars(names.len()), format!("*** {text}")),
                _ => continue,
            };
            crowd.flush(names.len(), &mut out);
            let _ = writeln!(out, "{:>10.3}  {columns}  {text}", at.as_secs_f64());
        }
        crowd.flush(names.len(), &mut out);
        out
    }

    fn fates(&self) -> BTreeMap<u64, Fate> {
        let mut fates: BTreeMap<u64, Fate> = BTreeMap::new();
        for (at, entry) in &self.entries {
            match entry {
                Entry::Delivered { host, packet } => {
                    let fate = fates.entry(packet.id).or_default();
                    fate.arrivals.push((*at, *host));
                }
                Entry::Lost { id, how } => fates.entry(*id).or_default().losses.push(how),
                _ => {}
            }
        }
        fates
    }

    /// Who was ever reached at an address: where a lost packet was going.
    fn owners(&self) -> BTreeMap<std::net::SocketAddr, usize> {
        let mut sent = BTreeMap::new();
        let mut owners = BTreeMap::new();
        for (_, entry) in &self.entries {
            match entry {
                Entry::Sent { packet, .. } => {
                    sent.insert(packet.id, packet.dst());
                }
                Entry::Delivered { host, packet } => {
                    owners.insert(packet.dst(), *host);
                    if let Some(dst) = sent.get(&packet.id) {
                        owners.insert(*dst, *host);
                    }
                }
                _ => {}
            }
        }
        owners
    }

    /// Writes a capture of what each host sent and received, and beside it the keys: a Wireshark profile's
    /// `ikev2_decryption_table` and `esp_sa`, and how to use them.
    pub fn write_capture(&self, path: &Path, ring: &KeyRing) -> io::Result<Capture> {
        let file = fs::File::create(path)?;
        let header = PcapHeader {
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            ..PcapHeader::default()
        };
        let mut writer =
            PcapWriter::with_header(io::BufWriter::new(file), header).map_err(io::Error::other)?;
        for (at, entry) in &self.entries {
            let (packet, src, dst) = match entry {
                Entry::Sent { host, packet } => (packet, mac(*host), network()),
                Entry::Delivered { host, packet } => (packet, network(), mac(*host)),
                _ => continue,
            };
            let frame = ethernet(src, dst, packet.bytes());
            let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            let packet = PcapPacket::new(*at, len, &frame);
            writer.write_packet(&packet).map_err(io::Error::other)?;
        }
        drop(writer);
        let home = path.with_extension("keys");
        let profile = home.join(".config").join("wireshark");
        fs::create_dir_all(&profile)?;
        let mut ike = String::new();
        for line in ring.ike_lines() {
            let _ = writeln!(ike, "{line}");
        }
        fs::write(profile.join("ikev2_decryption_table"), ike)?;
        fs::write(profile.join("esp_sa"), esp_table(ring))?;
        let preferences = "esp.enable_encryption_decode: TRUE\nesp.enable_null_encryption_decode_heuristic: FALSE\n";
        fs::write(profile.join("preferences"), preferences)?;
        Ok(Capture {
            pcap: path.to_owned(),
            home,
        })
    }
}

/// What [`Trace::write_capture`] wrote.
#[derive(Debug, Clone)]
pub struct Capture {
    /// The packets.
    pub pcap: PathBuf,
    /// A home directory for tshark with the keys in it.
    pub home: PathBuf,
}

impl Capture {
    /// The command that shows it.
    #[must_use]
    pub fn command(&self) -> String {
        format!(
            "HOME={} XDG_CONFIG_HOME={} tshark -r {}",
            self.home.display(),
            self.home.join(".config").display(),
            self.pcap.display()
        )
    }
}

/// Wireshark's `esp_sa`: each SA once, whoever logged it.
fn esp_table(ring: &KeyRing) -> String {
    let mut lines = BTreeSet::new();
    for (_, pair) in &ring.esp {
        for key in [&pair.inbound, &pair.outbound] {
            let cipher = match key.suite {
                CipherSuite::Aes128Gcm16 | CipherSuite::Aes256Gcm16 => {
                    "AES-GCM with 16 octet ICV [RFC4106]"
                }
                // tshark 4.0 has no name for it, and takes no table with a name that it does not know.
                CipherSuite::ChaCha20Poly1305 => continue,
            };
            let mut hex = String::new();
            for byte in key.bytes() {
                let _ = write!(hex, "{byte:02x}");
            }
            lines.insert(format!(
                "\"IPv4\",\"*\",\"*\",\"0x{:08x}\",\"{cipher}\",\"0x{hex}\",\"NULL\",\"\"",
                key.spi
            ));
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

fn mac(host: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, u8::try_from(host + 1).unwrap_or(u8::MAX)])
}

fn network() -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, 0])
}

/// Data packets in a row, one line for each way.
#[derive(Default)]
struct Crowd {
    lines: BTreeMap<(usize, String), Group>,
}

struct Group {
    first: Duration,
    to: Option<usize>,
    count: usize,
    lost: usize,
}

impl Crowd {
    fn add(
        &mut self,
        at: Duration,
        host: usize,
        to: Option<usize>,
        text: String,
        fate: Option<&Fate>,
    ) {
        let group = self.lines.entry((host, text)).or_insert(Group {
            first: at,
            to,
            count: 0,
            lost: 0,
        });
        group.count += 1;
        group.to = group.to.or(to);
        group.lost += usize::from(fate.is_none_or(|f| f.arrivals.is_empty()));
    }

    fn flush(&mut self, hosts: usize, out: &mut String) {
        let mut groups: Vec<_> = std::mem::take(&mut self.lines).into_iter().collect();
        groups.sort_by_key(|(_, group)| group.first);
        for ((host, text), group) in groups {
            let lost = match group.lost {
                0 => String::new(),
                n => format!("  ✗ {n} lost"),
            };
            let _ = writeln!(
                out,
                "{:>10.3}  {}  {text} ×{}{lost}",
                group.first.as_secs_f64(),
                arrow(hosts, host, group.to),
                group.count
            );
        }
    }
}

fn marks(at: Duration, fate: Option<&Fate>, again: bool) -> String {
    let mut out = String::new();
    if again {
        out.push_str("  ↻ again");
    }
    let none = Fate::default();
    let fate = fate.unwrap_or(&none);
    for how in &fate.losses {
        let _ = write!(out, "  ✗ {how}");
    }
    for (n, (time, _)) in fate.arrivals.iter().enumerate() {
        let took = time.saturating_sub(at).as_secs_f64() * 1000.0;
        let _ = match n {
            0 => write!(out, "  (+{took:.0} ms)"),
            _ => write!(out, " (again +{took:.0} ms)"),
        };
    }
    if fate.losses.is_empty() && fate.arrivals.is_empty() {
        out.push_str("  … under way at the end");
    }
    out
}

fn bars(hosts: usize) -> String {
    let mut out = String::new();
    for at in 0..hosts {
        let width = if at + 1 < hosts { COLUMN - 1 } else { 0 };
        let _ = write!(out, "│{:width$}", "");
    }
    out
}

fn arrow(hosts: usize, from: usize, to: Option<usize>) -> String {
    let to = to.filter(|to| *to != from);
    let to = to.unwrap_or(if from + 1 < hosts {
        from + 1
    } else {
        from.saturating_sub(1)
    });
    let (left, right) = (from.min(to), from.max(to));
    let mut out = String::new();
    for at in 0..hosts {
        let mark = match at {
            _ if at == from => '●',
            _ if at == to && to < from => '◀',
            _ if at == to => '▶',
            _ if left < at && at < right => '┼',
            _ => '│',
        };
        out.push(mark);
        if at + 1 < hosts {
            let fill = if left <= at && at < right { '─' } else { ' ' };
            out.extend(std::iter::repeat_n(fill, COLUMN - 1));
        }
    }
    out
}

fn cut(text: &str, len: usize) -> String {
    text.chars().take(len).collect()
}
