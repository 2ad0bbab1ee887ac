//! An IP packet as a box sees it: bytes whose ends can be read and rewritten, the checksums following.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mitregate_wire::frame::emit_ip;
use mitregate_wire::icmp::{self, Family, Message};
use mitregate_wire::ip::{self, TrafficClass, protocol};
use mitregate_wire::{WireError, checksum, ipv4, ipv6, udp};

/// TTL or hop limit of a packet made here.
const HOP_LIMIT: u8 = 64;
/// A packet in a quotation is cut off; so much is needed of what follows its IP header (RFC 792).
const QUOTED: usize = 8;

/// A whole IPv4 or IPv6 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    bytes: Vec<u8>,
    headers: Headers,
    /// A fragment of a larger packet.
    fragment: bool,
    /// Names what a host has sent, through all boxes and copies.
    pub id: u64,
}

/// Which of the two ends of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// Where things are in a packet, or in the start of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Headers {
    /// Where the IP header begins.
    ip: usize,
    /// Where what it carries begins.
    upper: usize,
    protocol: u8,
}

/// What an ICMP error says of the packet that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Protocol.
    pub protocol: u8,
    /// Where that packet came from.
    pub src: SocketAddr,
    /// Where it was going.
    pub dst: SocketAddr,
    /// Its SPI, if it is ESP.
    pub spi: Option<u32>,
}

impl Packet {
    /// A packet from the network; what follows its own length is cut off.
    pub fn new(mut bytes: Vec<u8>, id: u64) -> Result<Self, WireError> {
        let packet = ip::Packet::new_checked(&bytes)?;
        let headers = Headers {
            ip: 0,
            upper: packet.header_len(),
            protocol: packet.protocol(),
        };
        let fragment = packet.is_fragment();
        let len = packet.total_len();
        bytes.truncate(len);
        Ok(Self {
            bytes,
            headers,
            fragment,
            id,
        })
    }

    /// A datagram. The ends must be of one family, and it must fit into a packet.
    pub fn udp(
        src: SocketAddr,
        dst: SocketAddr,
        payload: &[u8],
        id: u64,
    ) -> Result<Self, WireError> {
        let mut datagram = vec![0; udp::HEADER_LEN + payload.len()];
        let header = udp::Header {
            src_port: src.port(),
            dst_port: dst.port(),
        };
        header.emit(payload.len(), &mut datagram)?;
        datagram[udp::HEADER_LEN..].copy_from_slice(payload);
        udp::fill_checksum(src.ip(), dst.ip(), &mut datagram)?;
        Self::of(src.ip(), dst.ip(), protocol::UDP, &datagram, id)
    }

    /// ESP in IP, from its SPI to its ICV.
    pub fn esp(src: IpAddr, dst: IpAddr, esp: &[u8], id: u64) -> Result<Self, WireError> {
        Self::of(src, dst, protocol::ESP, esp, id)
    }

    /// An ICMP or ICMPv6 echo message.
    pub fn echo(
        src: IpAddr,
        dst: IpAddr,
        echo: icmp::Echo<'_>,
        id: u64,
    ) -> Result<Self, WireError> {
        let mut message = vec![0; icmp::HEADER_LEN + echo.data.len()];
        echo.emit(src, dst, &mut message)?;
        Self::of(src, dst, Family::of(src).protocol(), &message, id)
    }

    /// Any protocol's.
    pub fn of(
        src: IpAddr,
        dst: IpAddr,
        protocol: u8,
        upper: &[u8],
        id: u64,
    ) -> Result<Self, WireError> {
        let head = match src {
            IpAddr::V4(_) => ipv4::HEADER_LEN,
            IpAddr::V6(_) => ipv6::HEADER_LEN,
        };
        let mut bytes = vec![0; head + upper.len()];
        let class = (HOP_LIMIT, TrafficClass::default());
        emit_ip((src, dst), protocol, class, upper.len(), &mut bytes)?;
        bytes[head..].copy_from_slice(upper);
        Self::new(bytes, id)
    }

    /// From the first byte of its IP header to its last.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, taken out.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Of what the IP header carries.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.headers.protocol
    }

    /// Whether it is a fragment: then only the first shows ports or an SPI.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.fragment
    }

    /// ESP in IP.
    #[must_use]
    pub fn is_bare_esp(&self) -> bool {
        self.protocol() == protocol::ESP
    }

    /// Whether both ends are this port of UDP.
    #[must_use]
    pub fn is_between(&self, port: u16) -> bool {
        self.protocol() == protocol::UDP && self.src().port() == port && self.dst().port() == port
    }

    /// Address and port it comes from. The port is 0 where there is none; an ICMP echo's identifier is a
    /// port of the side that asks.
    #[must_use]
    pub fn src(&self) -> SocketAddr {
        self.headers.end(&self.bytes, End::Source)
    }

    /// Address and port it goes to.
    #[must_use]
    pub fn dst(&self) -> SocketAddr {
        self.headers.end(&self.bytes, End::Destination)
    }

    /// Lets it come from elsewhere. The family stays; a port is left out where there is none.
    pub fn set_src(&mut self, src: SocketAddr) {
        self.headers.set(&mut self.bytes, End::Source, src);
    }

    /// Lets it go elsewhere.
    pub fn set_dst(&mut self, dst: SocketAddr) {
        self.headers.set(&mut self.bytes, End::Destination, dst);
    }

    /// The content of a datagram; of all else what the IP header carries.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        let upper = &self.bytes[self.headers.upper..];
        match self.protocol() {
            protocol::UDP => upper.get(udp::HEADER_LEN..).unwrap_or(&[]),
            _ => upper,
        }
    }

    /// Of ESP in IP; `None` too if it is too short to have one.
    #[must_use]
    pub fn spi(&self) -> Option<u32> {
        self.headers.spi(&self.bytes)
    }

    /// The packet that this ICMP error is about, as far as it shows.
    #[must_use]
    pub fn quote(&self) -> Option<Quote> {
        let quoted = self.quoted()?;
        Some(Quote {
            protocol: quoted.protocol,
            src: quoted.end(&self.bytes, End::Source),
            dst: quoted.end(&self.bytes, End::Destination),
            spi: quoted.spi(&self.bytes),
        })
    }

    /// Lets the packet that this ICMP error is about come from elsewhere.
    pub fn set_quoted_src(&mut self, src: SocketAddr) {
        self.set_quoted(End::Source, src);
    }

    /// Lets the packet that this ICMP error is about go elsewhere.
    pub fn set_quoted_dst(&mut self, dst: SocketAddr) {
        self.set_quoted(End::Destination, dst);
    }

    fn set_quoted(&mut self, end: End, to: SocketAddr) {
        let Some(quoted) = self.quoted() else { return };
        quoted.set(&mut self.bytes, end, to);
        let (src, dst) = (self.src().ip(), self.dst().ip());
        let family = self.protocol();
        let message = &mut self.bytes[self.headers.upper..];
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let Some(field) = message.get_mut(2..4) else {
            return;
        };
        field.fill(0);
        let sum = match family {
            protocol::ICMPV6 => checksum::Sum::new().pseudo_header(src, dst, family, length),
            _ => checksum::Sum::new(),
        };
        let sum = sum.bytes(message).checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }

    fn quoted(&self) -> Option<Headers> {
        let upper = &self.bytes[self.headers.upper..];
        let family = match self.protocol() {
            protocol::ICMP => Family::V4,
            protocol::ICMPV6 => Family::V6,
            _ => return None,
        };
        let quoted = Message::new_checked(family, upper).ok()?.quoted()?;
        let header = icmp::quoted_header(quoted).ok()?;
        let same = Family::of(header.src) == family && header.payload.len() >= QUOTED;
        same.then_some(Headers {
            ip: self.headers.upper + icmp::HEADER_LEN,
            upper: self.bytes.len() - header.payload.len(),
            protocol: header.protocol,
        })
    }

    /// Whether all checksums are right; that of ESP is not for a box to check.
    #[must_use]
    pub fn checksums_ok(&self) -> bool {
        let Ok(packet) = ip::Packet::new_checked(&self.bytes) else {
            return false;
        };
        let header_ok = match &packet {
            ip::Packet::V4(packet) => packet.checksum_ok(),
            ip::Packet::V6(_) => true,
        };
        let (src, dst, upper) = (packet.src(), packet.dst(), packet.payload());
        let sums_up = |protocol| {
            let length = u32::try_from(upper.len()).unwrap_or(u32::MAX);
            let sum = checksum::Sum::new().pseudo_header(src, dst, protocol, length);
            sum.bytes(upper).folded() == 0xffff
        };
        header_ok
            && match packet.protocol() {
                _ if self.fragment => true,
                protocol::UDP => {
                    udp::Datagram::new_checked(upper).is_ok_and(|d| d.checksum_ok(src, dst))
                }
                protocol::ICMP => checksum::verify(upper),
                protocol @ (protocol::TCP | protocol::ICMPV6) => sums_up(protocol),
                _ => true,
            }
    }
}

impl Headers {
    fn address_at(self, bytes: &[u8], end: End) -> (usize, usize) {
        let (len, first) = match bytes[self.ip] >> 4 {
            4 => (4, 12),
            _ => (16, 8),
        };
        let at = self.ip + first + if end == End::Source { 0 } else { len };
        (at, len)
    }

    fn address(self, bytes: &[u8], end: End) -> IpAddr {
        let (at, len) = self.address_at(bytes, end);
        let address = bytes.get(at..at + len).unwrap_or(&[]);
        if let Ok(v4) = <[u8; 4]>::try_from(address) {
            return Ipv4Addr::from(v4).into();
        }
        <[u8; 16]>::try_from(address).map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::from)
    }

    /// Where the port of this end is, if it has one.
    fn port_at(self, bytes: &[u8], end: End) -> Option<usize> {
        let asks = match (self.protocol, bytes.get(self.upper)?) {
            (protocol::UDP | protocol::TCP, _) => {
                return Some(self.upper + if end == End::Source { 0 } else { 2 });
            }
            (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => End::Source,
            (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => End::Destination,
            _ => return None,
        };
        (asks == end).then_some(self.upper + 4)
    }

    fn end(self, bytes: &[u8], end: End) -> SocketAddr {
        let port = self.port_at(bytes, end).and_then(|at| word(bytes, at));
        SocketAddr::new(self.address(bytes, end), port.unwrap_or(0))
    }

    fn spi(self, bytes: &[u8]) -> Option<u32> {
        let spi = bytes.get(self.upper..)?.first_chunk()?;
        (self.protocol == protocol::ESP).then_some(u32::from_be_bytes(*spi))
    }

    /// Rewrites address and port, and by RFC 1624 the checksums that cover them.
    fn set(self, bytes: &mut [u8], end: End, to: SocketAddr) {
        if self.address(bytes, end).is_ipv4() != to.is_ipv4() {
            return;
        }
        // What covers the addresses, if it is there.
        let (sum, covers) = match self.protocol {
            protocol::UDP => (Some(self.upper + 6), true),
            protocol::TCP => (Some(self.upper + 16), true),
            protocol::ICMPV6 => (Some(self.upper + 2), true),
            protocol::ICMP => (Some(self.upper + 2), false),
            _ => (None, false),
        };
        let sum = sum.filter(|at| match word(bytes, *at) {
            // Left out (RFC 768).
            Some(0) => self.protocol != protocol::UDP,
            other => other.is_some(),
        });
        let (at, len) = self.address_at(bytes, end);
        let octets: &[u8] = match &to.ip() {
            IpAddr::V4(v4) => &v4.octets(),
            IpAddr::V6(v6) => &v6.octets(),
        };
        for n in (0..len).step_by(2) {
            let new = u16::from_be_bytes([octets[n], octets[n + 1]]);
            let v4 = (len == 4).then_some(self.ip + 10);
            change(bytes, at + n, new, [v4, sum.filter(|_| covers)]);
        }
        if let Some(port) = self.port_at(bytes, end) {
            change(bytes, port, to.port(), [sum, None]);
        }
        if let Some(at) = sum
            && self.protocol == protocol::UDP
            && word(bytes, at) == Some(0)
        {
            bytes[at..at + 2].fill(0xff);
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*word))
}

/// Writes a word, and changes the checksums that cover it.
fn change(bytes: &mut [u8], at: usize, new: u16, sums: [Option<usize>; 2]) {
    let Some(old) = word(bytes, at) else { return };
    bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
    for sum in sums.into_iter().flatten() {
        if let Some(before) = word(bytes, sum) {
            let after = checksum::update(before, old, new);
            bytes[sum..sum + 2].copy_from_slice(&after.to_be_bytes());
        }
    }
}
