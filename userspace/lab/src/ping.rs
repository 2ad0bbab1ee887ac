//! ICMP echo requests (RFC 792) with our marker inside, sent at a fixed pace whether or not
//! answers come.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send,
        socket_with,
    },
};
use serde::Serialize;

use crate::interrupt;

/// After the last request, how long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
const IPV4_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// Round-trip times in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rtt {
    /// The fastest.
    pub min: u64,
    /// Half were faster.
    pub median: u64,
    /// 99 of 100 were faster.
    pub p99: u64,
    /// The slowest.
    pub max: u64,
}

/// What became of the pings.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pings {
    /// Requests.
    pub sent: u32,
    /// Requests that were answered.
    pub received: u32,
    /// None when nothing came back.
    pub rtt_us: Option<Rtt>,
}

/// `count` pings of 56 bytes payload, one per `interval`. Run inside the namespace that sends.
pub fn ping(to: Ipv4Addr, count: u16, interval: Duration, marker: &[u8]) -> Result<Pings> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(ipproto::ICMP),
    )
    .context("cannot open a raw socket")?;
    connect(&socket, &SocketAddrV4::new(to, 0)).with_context(|| format!("no route to {to}"))?;
    let id = (std::process::id() & 0xffff) as u16;
    let mut sent = Vec::with_capacity(usize::from(count));
    let mut rtts: Vec<Option<Duration>> = vec![None; usize::from(count)];
    let start = Instant::now();
    let mut deadline = start;
    let mut buf = [0; 2048];
    loop {
        interrupt::check()?;
        let now = Instant::now();
        if now >= deadline {
            if sent.len() == usize::from(count) {
                break;
            }
            let seq = u16::try_from(sent.len())?;
            // A refusal (no route, no buffer) is a lost ping, not the end of the measurement.
            let _ = send(&socket, &request(id, seq, marker), SendFlags::empty());
            sent.push(now);
            deadline = match sent.len() {
                n if n == usize::from(count) => now + PATIENCE,
                n => start + interval * u32::try_from(n)?,
            };
        }
        let wait = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
        poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&wait))?;
        while let Ok((_, len)) = recv(&socket, &mut buf[..], RecvFlags::empty()) {
            let seq = reply(&buf[..len], id).map(usize::from);
            if let Some((at, slot)) = seq.and_then(|seq| sent.get(seq).zip(rtts.get_mut(seq))) {
                slot.get_or_insert(at.elapsed());
            }
        }
        if sent.len() == usize::from(count) && rtts.iter().all(Option::is_some) {
            break;
        }
    }
    let rtts: Vec<_> = rtts.into_iter().flatten().collect();
    Ok(Pings {
        sent: u32::try_from(sent.len())?,
        received: u32::try_from(rtts.len())?,
        rtt_us: quantiles(rtts),
    })
}

/// 56 bytes of payload, as ping(8) has.
fn request(id: u16, seq: u16, marker: &[u8]) -> Vec<u8> {
    let mut packet = vec![ECHO_REQUEST, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(seq.to_be_bytes());
    packet.extend(marker);
    packet.resize(ICMP_HEADER + 56, 0x2e);
    let sum = !ones_complement_sum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The sequence number, if that is an answer to one of ours.
fn reply(packet: &[u8], id: u16) -> Option<u16> {
    let header = usize::from(packet.first()? & 15) * 4;
    let icmp = packet.get(header.max(IPV4_HEADER)..)?;
    let field = |at: usize| Some(u16::from_be_bytes([*icmp.get(at)?, *icmp.get(at + 1)?]));
    (icmp.first() == Some(&ECHO_REPLY) && field(4)? == id).then(|| field(6))?
}

/// RFC 1071.
fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]))
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

fn quantiles(mut rtts: Vec<Duration>) -> Option<Rtt> {
    rtts.sort();
    let last = rtts.len().checked_sub(1)?;
    let at = |index: usize| u64::try_from(rtts[index].as_micros()).unwrap_or(u64::MAX);
    Some(Rtt {
        min: at(0),
        median: at(last / 2),
        p99: at(last * 99 / 100),
        max: at(last),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_checks_out_and_its_reply_is_known() {
        let mut packet = request(7, 300, b"marker");
        assert_eq!(packet.len(), 64);
        assert_eq!(ones_complement_sum(&packet), 0xffff);
        packet[0] = ECHO_REPLY;
        let mut ip = vec![0x45; IPV4_HEADER];
        ip.extend(packet);
        assert_eq!(reply(&ip, 7), Some(300));
        assert_eq!(reply(&ip, 8), None);
        for len in 0..ip.len() {
            let _ = reply(&ip[..len], 7);
        }
    }

    #[test]
    fn quantiles_of_few() {
        assert!(quantiles(Vec::new()).is_none());
        let rtt = quantiles((1..=200).rev().map(Duration::from_micros).collect()).unwrap();
        assert_eq!((rtt.min, rtt.median, rtt.p99, rtt.max), (1, 100, 198, 200));
    }
}
