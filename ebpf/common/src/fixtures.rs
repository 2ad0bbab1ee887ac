//! The fixture table: frames and what they are. The host, aya and libbpf all run it, *in order*,
//! with state that starts empty and [`OUR_ADDRESSES`]: a first fragment makes its later ones known.

extern crate alloc;
use alloc::{vec, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{AddressKey, Role, Verdict, ipv4_key};

const US4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const OTHER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const US6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xeeee, 0, 0, 0, 0, 9);

/// The addresses that are ours in the table.
pub const OUR_ADDRESSES: [IpAddr; 2] = [IpAddr::V4(US4), IpAddr::V6(US6)];

/// [`OUR_ADDRESSES`] as map keys.
#[must_use]
pub const fn our_keys() -> [AddressKey; 2] {
    [ipv4_key(US4.octets()), US6.octets()]
}

/// One frame and what it is.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Unique in the table.
    pub name: &'static str,
    /// Which program sees it.
    pub role: Role,
    /// From the first byte of the Ethernet header.
    pub frame: Vec<u8>,
    /// What it is.
    pub verdict: Verdict,
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const ICMPV6: u8 = 58;

/// An IPv4 packet in the making (RFC 791). Checksums stay zero: nobody here reads them.
struct V4 {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    id: u16,
    flags_and_offset: u16,
    options: usize,
    total_len: Option<usize>,
}

const DF: u16 = 0x4000;
const MF: u16 = 0x2000;

impl V4 {
    fn new(protocol: u8) -> Self {
        Self {
            source: PEER4,
            destination: US4,
            protocol,
            id: 0x1234,
            flags_and_offset: DF,
            options: 0,
            total_len: None,
        }
    }

    fn sent_by_us(self) -> Self {
        Self {
            source: US4,
            destination: PEER4,
            ..self
        }
    }

    fn to(self, destination: Ipv4Addr) -> Self {
        Self {
            destination,
            ..self
        }
    }

    /// `offset` in units of 8 bytes.
    fn fragment(self, id: u16, offset: u16, more: bool) -> Self {
        Self {
            id,
            flags_and_offset: offset | if more { MF } else { 0 },
            ..self
        }
    }

    fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options;
        let total_len = self.total_len.unwrap_or(header_len + payload.len());
        let mut packet = vec![0x40 | low_u8(header_len / 4), 0];
        packet.extend(low_u16(total_len).to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.flags_and_offset.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(vec![1; self.options]);
        packet.extend(payload);
        packet
    }

    fn frame(&self, payload: &[u8]) -> Vec<u8> {
        ethernet(&[], 0x0800, &self.packet(payload))
    }
}

/// An IPv6 packet in the making (RFC 8200).
struct V6 {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next: u8,
    payload_len: Option<usize>,
}

impl V6 {
    fn new(next: u8) -> Self {
        Self {
            source: PEER6,
            destination: US6,
            next,
            payload_len: None,
        }
    }

    fn sent_by_us(self) -> Self {
        Self {
            source: US6,
            destination: PEER6,
            ..self
        }
    }

    fn to(self, destination: Ipv6Addr) -> Self {
        Self {
            destination,
            ..self
        }
    }

    fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(low_u16(self.payload_len.unwrap_or(payload.len())).to_be_bytes());
        packet.extend([self.next, 64]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(payload);
        packet
    }

    fn frame(&self, payload: &[u8]) -> Vec<u8> {
        ethernet(&[], 0x86dd, &self.packet(payload))
    }
}

fn low_u8(value: usize) -> u8 {
    u8::try_from(value).expect("fixture fits")
}

fn low_u16(value: usize) -> u16 {
    u16::try_from(value).expect("fixture fits")
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// `tags` are TPIDs, outermost first.
fn ethernet(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 42]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Padded to Ethernet's 60 bytes without FCS (IEEE 802.3).
fn padded(mut frame: Vec<u8>, with: u8) -> Vec<u8> {
    while frame.len() < 60 {
        frame.push(with);
    }
    frame
}

fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(len);
    frame
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    udp_claiming(source, destination, 8 + payload.len(), payload)
}

fn udp_claiming(source: u16, destination: u16, length: usize, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(source.to_be_bytes());
    datagram.extend(destination.to_be_bytes());
    datagram.extend(low_u16(length).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// SPI, sequence number, and a body.
fn esp() -> Vec<u8> {
    let mut packet = vec![0xc1, 2, 3, 4, 0, 0, 0, 1];
    packet.extend([0xaa; 40]);
    packet
}

/// A plain ESP ping: a reserved SPI, sequence number 0, and ESP Echo's header without data.
fn plain_ping(spi: u8, sub_type: u8) -> Vec<u8> {
    vec![0, 0, 0, spi, 0, 0, 0, 0, sub_type, 0, 0, 0, 0, 1, 0, 1]
}

/// Enough of an IKE header to look like one.
fn ike() -> Vec<u8> {
    vec![0x11; 28]
}

fn ike_with_marker() -> Vec<u8> {
    join(&[&[0; 4], &ike()])
}

fn icmp(kind: u8, code: u8, quote: &[u8]) -> Vec<u8> {
    join(&[&[kind, code, 0, 0, 0, 0, 0, 0], quote])
}

/// An extension header of `8 * units` bytes (RFC 8200 §4.3, §4.4, §4.6).
fn extension(next: u8, units: u8) -> Vec<u8> {
    let mut header = vec![0; 8 * usize::from(units)];
    header[0] = next;
    header[1] = units - 1;
    header
}

/// A Routing header of type 0 with `left` segments left.
fn routing(next: u8, left: u8) -> Vec<u8> {
    let mut header = extension(next, 3);
    header[3] = left;
    header
}

/// A Fragment header (RFC 8200 §4.5); `offset` in units of 8 bytes.
fn fragment(next: u8, id: u32, offset: u16, more: bool) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend((offset << 3 | u16::from(more)).to_be_bytes());
    header.extend(id.to_be_bytes());
    header
}

/// The table.
#[must_use]
pub fn fixtures() -> Vec<Fixture> {
    let outer = [
        ipv4(),
        ipv4_udp(),
        ipv4_fragments(),
        ipv4_errors(),
        ipv6(),
        ipv6_fragments(),
        ipv6_errors(),
        link(),
    ];
    let outer = outer.into_iter().flatten().map(|row| (Role::Outer, row));
    let inner = inner().into_iter().map(|row| (Role::Inner, row));
    outer
        .chain(inner)
        .map(|(role, (name, verdict, frame))| Fixture {
            name,
            role,
            frame,
            verdict,
        })
        .collect()
}

type Row = (&'static str, Verdict, Vec<u8>);

#[rustfmt::skip]
fn ipv4() -> Vec<Row> {
    use Verdict::*;
    let options = |options| V4 { options, ..V4::new(ESP) };
    let length = |total_len| V4 { total_len: Some(total_len), ..V4::new(ESP) };
    let mut short_header = V4::new(ESP).frame(&esp());
    short_header[14] = 0x44;
    let mut version = V4::new(ESP).frame(&esp());
    version[14] = 0x65;
    vec![
        ("ipv4 esp", Esp, V4::new(ESP).frame(&esp())),
        ("ipv4 plain esp ping, request", Esp, V4::new(ESP).frame(&plain_ping(7, 2))),
        ("ipv4 plain esp ping, response", Esp, V4::new(ESP).frame(&plain_ping(8, 3))),
        ("ipv4 esp, 4 bytes of options", Esp, options(4).frame(&esp())),
        ("ipv4 esp, 40 bytes of options", Esp, options(40).frame(&esp())),
        ("ipv4 esp without a body, padded", Esp, padded(V4::new(ESP).frame(&[]), 0)),
        ("ipv4 esp for a neighbour", NotForUs, V4::new(ESP).to(OTHER4).frame(&esp())),
        ("ipv4 esp from us", NotForUs, V4::new(ESP).sent_by_us().frame(&esp())),
        ("ipv4 tcp", NotIpsec, V4::new(TCP).frame(&[0; 20])),
        ("ipv4 ah", NotIpsec, V4::new(51).frame(&[0; 24])),
        ("ipv4 icmpv6", NotIpsec, V4::new(ICMPV6).frame(&icmp(1, 0, &V6::new(ESP).sent_by_us().packet(&esp())))),
        ("ipv4 header cut", Malformed, cut(V4::new(ESP).frame(&esp()), 33)),
        ("ipv4 total length beyond the frame", Malformed, length(100).frame(&esp())),
        ("ipv4 total length below the header", Malformed, length(19).frame(&esp())),
        ("ipv4 options beyond the frame", Malformed, cut(options(40).frame(&esp()), 60)),
        ("ipv4 header length 16", Malformed, short_header),
        ("ipv4 ethertype, version 6", Malformed, version),
    ]
}

#[rustfmt::skip]
fn ipv4_udp() -> Vec<Row> {
    use Verdict::*;
    let udp4 = |datagram: Vec<u8>| V4::new(UDP).frame(&datagram);
    let elsewhere = |datagram: Vec<u8>| V4::new(UDP).to(OTHER4).frame(&datagram);
    vec![
        ("ipv4 ike", Ike, udp4(udp(500, 500, &ike()))),
        ("ipv4 ike from a mapped port", Ike, udp4(udp(40_000, 500, &ike()))),
        ("ipv4 ike, 8 bytes of options", Ike, V4 { options: 8, ..V4::new(UDP) }.frame(&udp(500, 500, &ike()))),
        ("ipv4 ike for a neighbour", NotForUs, elsewhere(udp(500, 500, &ike()))),
        ("ipv4 empty datagram to 500", Ike, padded(udp4(udp(500, 500, &[])), 0)),
        ("ipv4 nat-t ike", IkeNatT, udp4(udp(4500, 4500, &ike_with_marker()))),
        ("ipv4 nat-t marker alone", IkeNatT, padded(udp4(udp(1024, 4500, &[0; 4])), 0)),
        ("ipv4 nat-t esp", EspNatT, udp4(udp(4500, 4500, &esp()))),
        ("ipv4 nat-t esp, spi ends in zeros", EspNatT, udp4(udp(4500, 4500, &[0, 0, 1, 0, 0, 0, 0, 1]))),
        ("ipv4 nat-t esp for a neighbour", NotForUs, elsewhere(udp(4500, 4500, &esp()))),
        ("ipv4 keepalive", NatKeepalive, udp4(udp(4500, 4500, &[0xff]))),
        ("ipv4 keepalive, padded with zeros", NatKeepalive, padded(udp4(udp(4500, 4500, &[0xff])), 0)),
        ("ipv4 keepalive, padded with ones", NatKeepalive, padded(udp4(udp(4500, 4500, &[0xff])), 0xff)),
        ("ipv4 keepalive for a neighbour", NotForUs, elsewhere(udp(4500, 4500, &[0xff]))),
        ("ipv4 nat-t one byte, not 0xff", Malformed, padded(udp4(udp(4500, 4500, &[0])), 0)),
        ("ipv4 nat-t two bytes", Malformed, padded(udp4(udp(4500, 4500, &[0xff, 0xff])), 0)),
        ("ipv4 nat-t empty", Malformed, padded(udp4(udp(4500, 4500, &[])), 0xff)),
        ("ipv4 dns", NotIpsec, udp4(udp(53, 40_000, &[7; 30]))),
        ("ipv4 from 4500 to another port", NotIpsec, udp4(udp(4500, 4501, &esp()))),
        ("ipv4 udp header cut", Malformed, V4::new(UDP).frame(&[1, 0xf4, 1, 0xf4])),
        ("ipv4 udp header in the padding", Malformed, padded(V4::new(UDP).frame(&[1, 0xf4, 1, 0xf4]), 0)),
        ("ipv4 udp length beyond the packet", Malformed, udp4(udp_claiming(500, 500, 100, &ike()))),
        ("ipv4 udp length in the padding", Malformed, padded(udp4(udp_claiming(4500, 4500, 9, &[])), 0xff)),
        ("ipv4 udp length 7", Malformed, udp4(udp_claiming(500, 500, 7, &ike()))),
        ("ipv4 udp length 0", Malformed, udp4(udp_claiming(4500, 4500, 0, &esp()))),
    ]
}

#[rustfmt::skip]
fn ipv4_fragments() -> Vec<Row> {
    use Verdict::*;
    let of = |protocol, id, offset, more| V4::new(protocol).fragment(id, offset, more);
    let ike = udp_claiming(500, 500, 3000, &[0x11; 40]);
    let dns = udp_claiming(53, 40_000, 3000, &[7; 40]);
    vec![
        ("ipv4 esp, first fragment", EspFragment, of(ESP, 1, 0, true).frame(&esp())),
        ("ipv4 esp, middle fragment", EspFragment, of(ESP, 1, 6, true).frame(&esp())),
        ("ipv4 esp, last fragment", EspFragment, of(ESP, 1, 12, false).frame(&[9; 5])),
        ("ipv4 esp fragment for a neighbour", NotForUs, of(ESP, 1, 0, true).to(OTHER4).frame(&esp())),
        ("ipv4 later fragment before the first", UnknownFragment, of(UDP, 7, 6, true).frame(&[9; 48])),
        ("ipv4 ike, first fragment", UdpFirstFragment, of(UDP, 7, 0, true).frame(&ike)),
        ("ipv4 ike, middle fragment", LaterFragment, of(UDP, 7, 6, true).frame(&[9; 48])),
        ("ipv4 ike, last fragment", LaterFragment, of(UDP, 7, 12, false).frame(&[9; 5])),
        ("ipv4 ike, last fragment again", LaterFragment, of(UDP, 7, 12, false).frame(&[9; 5])),
        ("ipv4 later fragment, other id", UnknownFragment, of(UDP, 8, 6, false).frame(&[9; 5])),
        ("ipv4 later fragment, other source", UnknownFragment,
            V4 { source: OTHER4, ..of(UDP, 7, 6, false) }.frame(&[9; 5])),
        ("ipv4 later fragment of tcp, same id", NotIpsec, of(TCP, 7, 6, false).frame(&[9; 5])),
        ("ipv4 nat-t esp, first fragment", UdpFirstFragment, of(UDP, 9, 0, true).frame(&udp_claiming(4500, 4500, 3000, &[1; 40]))),
        ("ipv4 nat-t esp, last fragment", LaterFragment, of(UDP, 9, 6, false).frame(&[9; 5])),
        ("ipv4 dns, first fragment, id of ike", NotIpsec, of(UDP, 7, 0, true).frame(&dns)),
        ("ipv4 dns, last fragment, id of ike", UnknownFragment, of(UDP, 7, 6, false).frame(&[9; 5])),
        ("ipv4 first fragment for a neighbour", NotForUs, of(UDP, 10, 0, true).to(OTHER4).frame(&ike)),
        ("ipv4 later fragment for a neighbour", UnknownFragment, of(UDP, 10, 6, false).to(OTHER4).frame(&[9; 5])),
        ("ipv4 first fragment without a udp header", Malformed, of(UDP, 11, 0, true).frame(&[1, 0xf4])),
    ]
}

#[rustfmt::skip]
fn ipv4_errors() -> Vec<Row> {
    use Verdict::*;
    let about = |kind, quote: &[u8]| V4::new(ICMP).frame(&icmp(kind, 0, quote));
    let quoted_udp = |source, destination| V4::new(UDP).sent_by_us().packet(&udp(source, destination, &[])) ;
    let quoted_esp = V4::new(ESP).sent_by_us().packet(&esp());
    // RFC 792: the header and eight bytes; the quoted total length is the original's.
    let minimal = V4 { total_len: Some(1400), ..V4::new(ESP).sent_by_us() }.packet(&esp()[..8]);
    let options = V4 { options: 24, ..V4::new(UDP).sent_by_us() }.packet(&udp(500, 500, &[]));
    let fragment = |offset| V4::new(UDP).sent_by_us().fragment(3, offset, true).packet(&udp(4500, 4500, &[]));
    vec![
        ("icmp unreachable about esp", IcmpError, about(3, &quoted_esp)),
        ("icmp unreachable about esp, shortest quote", IcmpError, about(3, &minimal)),
        ("icmp source quench about esp", IcmpError, about(4, &quoted_esp)),
        ("icmp time exceeded about esp", IcmpError, about(11, &quoted_esp)),
        ("icmp parameter problem about esp", IcmpError, about(12, &quoted_esp)),
        ("icmp unreachable about ike", IcmpError, about(3, &quoted_udp(500, 500))),
        ("icmp unreachable about nat-t", IcmpError, about(3, &quoted_udp(4500, 61_000))),
        ("icmp unreachable about ike with options", IcmpError, about(3, &options)),
        ("icmp unreachable about a first fragment", IcmpError, about(3, &fragment(0))),
        ("icmp unreachable about a later fragment", NotIpsec, about(3, &fragment(4))),
        ("icmp unreachable about dns", NotIpsec, about(3, &quoted_udp(40_000, 53))),
        ("icmp unreachable about somebody's ike to us", NotIpsec, about(3, &quoted_udp(40_000, 500))),
        ("icmp unreachable about tcp", NotIpsec, about(3, &V4::new(TCP).sent_by_us().packet(&[0; 20]))),
        ("icmp unreachable about a peer's esp", NotIpsec, about(3, &V4::new(ESP).packet(&esp()))),
        ("icmp unreachable for a neighbour", NotForUs,
            V4::new(ICMP).to(OTHER4).frame(&icmp(3, 0, &V4 { source: OTHER4, ..V4::new(ESP) }.packet(&esp())))),
        ("icmp unreachable for a neighbour about ours", NotIpsec,
            V4::new(ICMP).to(OTHER4).frame(&icmp(3, 0, &quoted_esp))),
        ("icmp redirect about esp", NotIpsec, about(5, &quoted_esp)),
        ("icmp echo request", NotIpsec, about(8, &quoted_esp)),
        ("icmp unreachable, fragmented", NotIpsec,
            V4::new(ICMP).fragment(4, 0, true).frame(&icmp(3, 0, &quoted_esp))),
        ("icmp unreachable, quote cut in its header", NotIpsec, about(3, &quoted_esp[..19])),
        ("icmp unreachable, quote cut before the ports", NotIpsec, about(3, &quoted_udp(500, 500)[..24])),
        ("icmp unreachable, quote in the padding", NotIpsec,
            padded(about(3, &quoted_udp(500, 500)[..20]), 0)),
        ("icmp unreachable, no quote", NotIpsec, padded(about(3, &[]), 0)),
        ("icmp without a type", Malformed, V4::new(ICMP).frame(&[])),
        ("icmp unreachable about ipv6", NotIpsec, about(3, &V6::new(ESP).sent_by_us().packet(&esp()))),
    ]
}

#[rustfmt::skip]
fn ipv6() -> Vec<Row> {
    use Verdict::*;
    let chain = |first, headers: &[&[u8]]| V6::new(first).frame(&join(headers));
    let six = [extension(60, 1), extension(60, 2), extension(60, 1), extension(60, 3), extension(60, 1), extension(ESP, 1)].concat();
    let seven = [extension(60, 1).repeat(6), extension(ESP, 1)].concat();
    let claiming = |payload_len| V6 { payload_len: Some(payload_len), ..V6::new(ESP) }.frame(&esp());
    vec![
        ("ipv6 esp", Esp, V6::new(ESP).frame(&esp())),
        ("ipv6 esp for a neighbour", NotForUs, V6::new(ESP).to(OTHER6).frame(&esp())),
        ("ipv6 plain esp ping, request", Esp, V6::new(ESP).frame(&plain_ping(7, 2))),
        ("ipv6 plain esp ping, response", Esp, V6::new(ESP).frame(&plain_ping(8, 3))),
        ("ipv6 esp after hop-by-hop options", Esp, chain(0, &[&extension(ESP, 1), &esp()])),
        ("ipv6 esp after the longest header", Esp, chain(60, &[&extension(ESP, 255), &esp()])),
        ("ipv6 esp after six headers", Esp, chain(0, &[&six, &esp()])),
        ("ipv6 esp after seven headers", LongHeaderChain, chain(0, &[&seven, &esp()])),
        ("ipv6 esp after a used-up routing header", Esp, chain(43, &[&routing(ESP, 0), &esp()])),
        ("ipv6 esp on its way through us", NotForUs, chain(43, &[&routing(ESP, 1), &esp()])),
        ("ipv6 ike", Ike, V6::new(UDP).frame(&udp(500, 500, &ike()))),
        ("ipv6 ike after options", Ike, chain(60, &[&extension(UDP, 2), &udp(500, 500, &ike())])),
        ("ipv6 nat-t ike", IkeNatT, V6::new(UDP).frame(&udp(4500, 4500, &ike_with_marker()))),
        ("ipv6 nat-t esp", EspNatT, V6::new(UDP).frame(&udp(4500, 4500, &esp()))),
        ("ipv6 keepalive", NatKeepalive, V6::new(UDP).frame(&udp(4500, 4500, &[0xff]))),
        ("ipv6 dns", NotIpsec, V6::new(UDP).frame(&udp(53, 40_000, &[7; 30]))),
        ("ipv6 tcp", NotIpsec, V6::new(TCP).frame(&[0; 20])),
        ("ipv6 icmp of version 4", NotIpsec, V6::new(ICMP).frame(&icmp(3, 0, &V4::new(ESP).sent_by_us().packet(&esp())))),
        ("ipv6 no next header", NotIpsec, V6::new(59).frame(&[])),
        ("ipv6 header cut", Malformed, cut(V6::new(ESP).frame(&esp()), 53)),
        ("ipv6 extension header cut", Malformed, chain(0, &[&extension(ESP, 1)[..4]])),
        ("ipv6 extension header beyond the frame", Malformed, chain(0, &[&extension(ESP, 9)[..16]])),
        ("ipv6 payload length beyond the frame", Malformed, claiming(49)),
        ("ipv6 payload length inside the headers", Malformed,
            V6 { payload_len: Some(8), ..V6::new(0) }.frame(&join(&[&extension(ESP, 2), &esp()]))),
        ("ipv6 ethertype, version 4", Malformed, ethernet(&[], 0x86dd, &V4::new(ESP).packet(&[0; 60]))),
    ]
}

#[rustfmt::skip]
fn ipv6_fragments() -> Vec<Row> {
    use Verdict::*;
    let of = |next, id, offset, more, rest: &[u8]| V6::new(44).frame(&join(&[&fragment(next, id, offset, more), rest]));
    let ike_start = udp_claiming(500, 500, 3000, &[0x11; 40]);
    let dns = udp_claiming(53, 40_000, 3000, &[7; 40]);
    let options_esp = join(&[&extension(ESP, 1), &esp()]);
    vec![
        ("ipv6 esp, first fragment", EspFragment, of(ESP, 0x1_0001, 0, true, &esp())),
        ("ipv6 esp, last fragment", EspFragment, of(ESP, 0x1_0001, 6, false, &[9; 5])),
        ("ipv6 esp, atomic fragment", Esp, of(ESP, 0x1_0002, 0, false, &esp())),
        ("ipv6 ike, atomic fragment", Ike, of(UDP, 0x1_0002, 0, false, &udp(500, 500, &ike()))),
        ("ipv6 later fragment before the first", UnknownFragment, of(UDP, 0x1_0003, 6, true, &[9; 48])),
        ("ipv6 ike, first fragment", UdpFirstFragment, of(UDP, 0x1_0003, 0, true, &ike_start)),
        ("ipv6 ike, last fragment", LaterFragment, of(UDP, 0x1_0003, 6, false, &[9; 5])),
        ("ipv6 later fragment, low half of the id", UnknownFragment, of(UDP, 3, 6, false, &[9; 5])),
        ("ipv6 ike after options, first fragment", UdpFirstFragment,
            of(60, 0x1_0004, 0, true, &join(&[&extension(UDP, 1), &ike_start]))),
        ("ipv6 ike after options, last fragment", LaterFragment, of(60, 0x1_0004, 7, false, &[9; 5])),
        ("ipv6 esp after options, first fragment", EspFragment, of(60, 0x1_0005, 0, true, &options_esp)),
        ("ipv6 esp after options, last fragment", LaterFragment, of(60, 0x1_0005, 7, false, &[9; 5])),
        ("ipv6 options, later fragment of nothing", UnknownFragment, of(60, 0x1_0006, 7, false, &[9; 5])),
        ("ipv6 dns, first fragment, id of ike", NotIpsec, of(UDP, 0x1_0003, 0, true, &dns)),
        ("ipv6 dns, last fragment, id of ike", UnknownFragment, of(UDP, 0x1_0003, 6, false, &[9; 5])),
        ("ipv6 first fragment for a neighbour", NotForUs,
            V6::new(44).to(OTHER6).frame(&join(&[&fragment(UDP, 5, 0, true), &ike_start]))),
        ("ipv6 fragment header cut", Malformed, V6::new(44).frame(&fragment(ESP, 5, 0, true)[..7])),
    ]
}

#[rustfmt::skip]
fn ipv6_errors() -> Vec<Row> {
    use Verdict::*;
    let about = |kind, quote: &[u8]| V6::new(ICMPV6).frame(&icmp(kind, 0, quote));
    let quoted_udp = |source, destination| V6::new(UDP).sent_by_us().packet(&udp(source, destination, &[1; 8]));
    let quoted_esp = V6::new(ESP).sent_by_us().packet(&esp());
    let minimal = V6 { payload_len: Some(1240), ..V6::new(ESP).sent_by_us() }.packet(&esp()[..8]);
    let options = V6::new(60).sent_by_us().packet(&join(&[&extension(UDP, 2), &udp(500, 500, &[])]));
    let fragmented = V6::new(44).sent_by_us().packet(&join(&[&fragment(ESP, 6, 0, true), &esp()]));
    vec![
        ("icmpv6 unreachable about esp", IcmpError, about(1, &quoted_esp)),
        ("icmpv6 too big about esp", IcmpError, about(2, &minimal)),
        ("icmpv6 time exceeded about esp", IcmpError, about(3, &quoted_esp)),
        ("icmpv6 parameter problem about esp", IcmpError, about(4, &quoted_esp)),
        ("icmpv6 unreachable about ike", IcmpError, about(1, &quoted_udp(500, 500))),
        ("icmpv6 unreachable about nat-t", IcmpError, about(1, &quoted_udp(4500, 61_000))),
        ("icmpv6 unreachable about ike after options", IcmpError, about(1, &options)),
        ("icmpv6 too big about an esp fragment", IcmpError, about(2, &fragmented)),
        ("icmpv6 too big after a hop-by-hop header", IcmpError,
            V6::new(0).frame(&join(&[&extension(ICMPV6, 1), &icmp(2, 0, &quoted_esp)]))),
        ("icmpv6 unreachable about dns", NotIpsec, about(1, &quoted_udp(40_000, 53))),
        ("icmpv6 unreachable about a peer's esp", NotIpsec, about(1, &V6::new(ESP).packet(&esp()))),
        ("icmpv6 echo request", NotIpsec, about(128, &quoted_esp)),
        ("icmpv6 neighbour solicitation", NotIpsec, about(135, &US6.octets())),
        ("icmpv6 unreachable, quote cut", NotIpsec, about(1, &quoted_esp[..39])),
        ("icmpv6 without a type", Malformed, V6::new(ICMPV6).frame(&[])),
    ]
}

#[rustfmt::skip]
fn link() -> Vec<Row> {
    use Verdict::*;
    let esp4 = V4::new(ESP).packet(&esp());
    let esp6 = V6::new(ESP).packet(&esp());
    vec![
        ("vlan, ipv4 esp", Esp, ethernet(&[0x8100], 0x0800, &esp4)),
        ("vlan, ipv6 esp", Esp, ethernet(&[0x8100], 0x86dd, &esp6)),
        ("two vlans, ipv4 esp", Esp, ethernet(&[0x88a8, 0x8100], 0x0800, &esp4)),
        ("two vlans, ipv6 esp", Esp, ethernet(&[0x8100, 0x8100], 0x86dd, &esp6)),
        ("vlan, ipv4 nat-t esp", EspNatT, ethernet(&[0x8100], 0x0800, &V4::new(UDP).packet(&udp(4500, 4500, &esp())))),
        ("three vlans, ipv4 esp", NotIp, ethernet(&[0x8100; 3], 0x0800, &esp4)),
        ("two vlans, tcp", NotIpsec, ethernet(&[0x88a8, 0x8100], 0x0800, &V4::new(TCP).packet(&[0; 20]))),
        ("vlan tag cut", Malformed, cut(ethernet(&[0x8100], 0x0800, &esp4), 16)),
        ("arp", NotIp, padded(ethernet(&[], 0x0806, &[0; 28]), 0)),
        ("lldp", NotIp, padded(ethernet(&[], 0x88cc, &[2; 20]), 0)),
        ("802.3 length field", NotIp, padded(ethernet(&[], 38, &[0x42; 38]), 0)),
        ("ethernet header alone, ipv4", Malformed, ethernet(&[], 0x0800, &[])),
        ("ethernet header alone, other", NotIp, ethernet(&[], 0x1234, &[])),
        ("ethernet header cut", Malformed, cut(ethernet(&[], 0x0800, &[]), 13)),
        ("empty frame", Malformed, Vec::new()),
    ]
}

fn inner() -> Vec<Row> {
    vec![
        ("inner tcp", Verdict::Inner, V4::new(TCP).frame(&[0; 20])),
        (
            "inner esp for our outer address",
            Verdict::Inner,
            V4::new(ESP).frame(&esp()),
        ),
        ("inner ipv6", Verdict::Inner, V6::new(TCP).frame(&[0; 20])),
        (
            "inner arp",
            Verdict::Inner,
            padded(ethernet(&[], 0x0806, &[0; 28]), 0),
        ),
        (
            "inner malformed",
            Verdict::Inner,
            cut(V4::new(TCP).frame(&[0; 20]), 20),
        ),
        ("inner empty frame", Verdict::Inner, Vec::new()),
    ]
}
