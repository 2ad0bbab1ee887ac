//! The capture on the NAT's outer side and the leak check that reads it.
//!
//! tcpdump does the capturing and counts what it dropped. Its stream is read as it comes, so a run
//! of any length needs no disk; only frames that should not be there are kept, in a file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Read, Write},
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use memchr::memmem::Finder;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::{
    interrupt,
    netns::{Netns, join},
    wire::{self, Kind},
};

/// Bytes of each frame that are looked at: the headers of TCP in IP in ESP in UDP (110 bytes), and
/// of the payload more than [`crate::payload::SPACING`] with a marker, so that every cut shows one.
const SNAPLEN: usize = 320;
/// KiB of kernel buffer: seconds of full load, should we be late in reading.
const BUFFER: usize = 131_072;
/// Leaked frames kept as evidence.
const KEPT: u64 = 1000;
/// Of those, told in the report.
const TOLD: usize = 5;
/// libpcap hands over a block that is not full after one second.
const DRAIN: Duration = Duration::from_millis(1300);

/// What was on the wire, in frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All of them.
    pub packets: u64,
    /// ARP.
    pub arp: u64,
    /// ICMP between the NAT and the gateway.
    pub router_icmp: u64,
    /// Plain ESP.
    pub esp: u64,
    /// ESP in UDP 4500.
    pub esp_in_udp: u64,
    /// IKE on UDP 500 and 4500.
    pub ike: u64,
    /// NAT keepalives on UDP 4500.
    pub keepalive: u64,
    /// Neither of the above, or with a marker of the payload in it.
    pub cleartext: u64,
    /// Of those, frames with a marker.
    pub marked: u64,
    /// Lost by the capture itself.
    pub dropped: u64,
    /// A few of the cleartext frames, and how often they came.
    pub examples: BTreeMap<String, u64>,
}

/// A capture that runs.
pub struct Capture {
    tcpdump: Child,
    reader: JoinHandle<Result<Counts>>,
    stderr: JoinHandle<Result<Vec<String>>>,
}

impl Capture {
    /// Start on an interface, and wait until it runs. Frames that leak go to `evidence`, made when
    /// there is one.
    pub fn start(
        netns: &Netns,
        device: &str,
        routers: [Ipv4Addr; 2],
        markers: Vec<Vec<u8>>,
        evidence: PathBuf,
    ) -> Result<Self> {
        let mut tcpdump = netns
            .command("tcpdump")
            .args(["-i", device, "-n", "-Z", "root", "-w", "-"])
            .args(["-s", &SNAPLEN.to_string(), "-B", &BUFFER.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start tcpdump")?;
        let stdout = tcpdump.stdout.take().context("no stdout")?;
        let mut stderr = BufReader::new(tcpdump.stderr.take().context("no stderr")?);
        let mut first = String::new();
        while !first.contains("listening on") {
            first.clear();
            if stderr.read_line(&mut first)? == 0 {
                bail!("tcpdump did not start listening on {device}");
            }
        }
        let reader = thread::spawn(move || {
            let mut judge = Judge::new(routers, markers, evidence);
            judge.read(BufReader::with_capacity(1 << 20, stdout))?;
            Ok(judge.counts)
        });
        let stderr =
            thread::spawn(move || Ok(stderr.lines().map_while(Result::ok).collect::<Vec<_>>()));
        Ok(Capture {
            tcpdump,
            reader,
            stderr,
        })
    }

    /// Stop, once what is in the kernel's buffer has been read. An error if tcpdump does not say
    /// what it dropped.
    pub fn stop(mut self) -> Result<Counts> {
        interrupt::sleep(DRAIN)?;
        // `ip netns exec` has become tcpdump: the process id is its own.
        kill_process(Pid::from_child(&self.tcpdump), Signal::INT)?;
        self.tcpdump.wait()?;
        let mut counts = join(self.reader)?;
        let lines = join(self.stderr)?;
        // "N packets dropped by kernel", and maybe "… by interface"
        let dropped: Vec<u64> = lines
            .iter()
            .filter(|line| line.contains(" dropped by "))
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        if dropped.is_empty() {
            bail!("tcpdump does not say what it dropped: {lines:?}");
        }
        counts.dropped = dropped.iter().sum();
        Ok(counts)
    }
}

struct Judge {
    routers: [Ipv4Addr; 2],
    markers: Vec<Vec<u8>>,
    evidence: PathBuf,
    file: Option<BufWriter<File>>,
    counts: Counts,
}

impl Judge {
    fn new(routers: [Ipv4Addr; 2], markers: Vec<Vec<u8>>, evidence: PathBuf) -> Self {
        Judge {
            routers,
            markers,
            evidence,
            file: None,
            counts: Counts::default(),
        }
    }

    /// A pcap stream (draft-ietf-opsawg-pcap) in this machine's byte order, which is what the
    /// tcpdump beside us writes.
    fn read(&mut self, mut stream: impl Read) -> Result<()> {
        let mut global = [0; 24];
        stream
            .read_exact(&mut global)
            .context("tcpdump wrote no header")?;
        let magic = u32::from_ne_bytes([global[0], global[1], global[2], global[3]]);
        if !matches!(magic, 0xa1b2_c3d4 | 0xa1b2_3c4d) {
            bail!("no pcap stream: {magic:#x}");
        }
        let finders: Vec<_> = self
            .markers
            .iter()
            .map(|m| Finder::new(m).into_owned())
            .collect();
        let mut frame = vec![0; 1 << 16];
        loop {
            let mut header = [0; 16];
            match stream.read_exact(&mut header) {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                other => other?,
            }
            let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
            let bytes = frame
                .get_mut(..length as usize)
                .context("an overlong record")?;
            stream.read_exact(bytes)?;
            let marked = finders.iter().any(|finder| finder.find(bytes).is_some());
            if self.count(bytes, marked) {
                self.keep(&global, &header, bytes)?;
            }
        }
        if let Some(mut file) = self.file.take() {
            file.flush()?;
        }
        Ok(())
    }

    /// True: it should not have been there.
    fn count(&mut self, frame: &[u8], marked: bool) -> bool {
        let counts = &mut self.counts;
        let kind = wire::classify(frame, self.routers);
        counts.packets += 1;
        counts.marked += u64::from(marked);
        match kind {
            Kind::Arp => counts.arp += 1,
            Kind::RouterIcmp => counts.router_icmp += 1,
            Kind::Esp => counts.esp += 1,
            Kind::EspInUdp => counts.esp_in_udp += 1,
            Kind::Ike => counts.ike += 1,
            Kind::Keepalive => counts.keepalive += 1,
            Kind::OtherIp | Kind::OtherFrame => {}
        }
        let leaked = marked || !kind.may_be_outside();
        if leaked {
            counts.cleartext += 1;
            let what = wire::describe(frame);
            if counts.examples.len() < TOLD || counts.examples.contains_key(&what) {
                *counts.examples.entry(what).or_default() += 1;
            }
        }
        leaked
    }

    fn keep(&mut self, global: &[u8], header: &[u8], frame: &[u8]) -> Result<()> {
        if self.counts.cleartext > KEPT {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let path = &self.evidence;
                let created = File::create(path)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                let file = none.insert(BufWriter::new(created));
                file.write_all(global)?;
                file
            }
        };
        file.write_all(header)?;
        file.write_all(frame)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(frame: &[u8]) -> Vec<u8> {
        let len = u32::try_from(frame.len()).unwrap().to_ne_bytes();
        [&[0; 8], &len[..], &len[..], frame].concat()
    }

    fn ip(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend([203, 0, 113, 2, 10, 2, 0, 2]);
        frame.extend(payload);
        frame
    }

    fn new_judge(evidence: PathBuf) -> Judge {
        let routers = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
        Judge::new(routers, vec![b"the marker".to_vec()], evidence)
    }

    fn judge(frames: &[Vec<u8>]) -> (Judge, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let mut stream = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
        stream.extend([0; 20]);
        stream.extend(frames.iter().flat_map(|frame| record(frame)));
        let mut judge = new_judge(dir.path().join("leaked.pcap"));
        judge.read(&stream[..]).unwrap();
        (judge, dir)
    }

    #[test]
    fn a_clean_wire_leaves_no_evidence() {
        let (judge, _dir) = judge(&[ip(50, &[1; 100]), ip(50, &[2; 100])]);
        assert_eq!(
            (
                judge.counts.packets,
                judge.counts.esp,
                judge.counts.cleartext
            ),
            (2, 2, 0)
        );
        assert!(!judge.evidence.exists());
    }

    #[test]
    fn tcp_in_clear_is_found() {
        let (judge, _dir) = judge(&[ip(50, &[1; 100]), ip(6, &[0; 20]), ip(6, &[0; 20])]);
        assert_eq!(judge.counts.cleartext, 2);
        assert_eq!(judge.counts.examples["203.0.113.2 → 10.2.0.2 TCP"], 2);
        assert_eq!(
            std::fs::metadata(&judge.evidence).unwrap().len(),
            24 + 2 * (16 + 54)
        );
    }

    #[test]
    fn a_marker_inside_esp_is_found() {
        let (judge, _dir) = judge(&[ip(50, b"seemingly encrypted, but the marker shows")]);
        assert_eq!(
            (
                judge.counts.esp,
                judge.counts.marked,
                judge.counts.cleartext
            ),
            (1, 1, 1)
        );
    }

    #[test]
    fn a_stream_cut_anywhere_is_no_panic() {
        let mut stream = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
        stream.extend([0; 20]);
        stream.extend(record(&ip(50, &[1; 30])));
        for len in 0..stream.len() {
            let _ = new_judge(PathBuf::new()).read(&stream[..len]);
        }
    }
}
