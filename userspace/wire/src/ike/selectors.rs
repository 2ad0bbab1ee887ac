//! The Traffic Selector payloads, RFC 7296 §3.13.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ParseError, Reader, emit_u16_len, numbers::TsType};

/// One traffic selector as it stands on the wire: nothing says that a range runs forwards.
///
/// Ports are 0–65535 for "any", 65535–0 for OPAQUE, and ICMP type and code for ICMP
/// (RFC 7296 §3.13.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// A range of IPv4 or of IPv6 addresses.
    Range {
        /// IP protocol, 0 for any.
        protocol: u8,
        /// First port.
        start_port: u16,
        /// Last port.
        end_port: u16,
        /// Addresses, first and last, of one family.
        addresses: Addresses,
    },
    /// A type that we do not know; a responder leaves it out when it narrows.
    Unknown {
        /// The TS type.
        kind: TsType,
        /// The byte after the type (IP protocol in the known types).
        protocol: u8,
        /// What follows the length.
        body: Vec<u8>,
    },
}

/// First and last address of a range, both of one family by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Addresses {
    V4 { start: Ipv4Addr, end: Ipv4Addr },
    V6 { start: Ipv6Addr, end: Ipv6Addr },
}

impl Addresses {
    /// A range of one family, `None` where the families differ.
    #[must_use]
    pub const fn new(start: IpAddr, end: IpAddr) -> Option<Self> {
        match (start, end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => Some(Self::V4 { start, end }),
            (IpAddr::V6(start), IpAddr::V6(end)) => Some(Self::V6 { start, end }),
            _ => None,
        }
    }

    /// First and last address.
    #[must_use]
    pub const fn bounds(self) -> (IpAddr, IpAddr) {
        match self {
            Self::V4 { start, end } => (IpAddr::V4(start), IpAddr::V4(end)),
            Self::V6 { start, end } => (IpAddr::V6(start), IpAddr::V6(end)),
        }
    }
}

pub(super) fn parse(body: &[u8]) -> Result<Vec<Selector>, ParseError> {
    let mut reader = Reader(body);
    let count = usize::from(reader.u8()?);
    reader.take(3)?;
    let mut selectors = Vec::new();
    for _ in 0..count {
        let kind = TsType(reader.u8()?);
        let protocol = reader.u8()?;
        let mut body = reader.substructure()?;
        let selector = match kind {
            TsType::IPV4_ADDR_RANGE => {
                let (start_port, end_port) = (body.u16()?, body.u16()?);
                let (start, end) = (body.array::<4>()?.into(), body.array::<4>()?.into());
                body.end(ParseError::BadSelector)?;
                let addresses = Addresses::V4 { start, end };
                Selector::Range {
                    protocol,
                    start_port,
                    end_port,
                    addresses,
                }
            }
            TsType::IPV6_ADDR_RANGE => {
                let (start_port, end_port) = (body.u16()?, body.u16()?);
                let (start, end) = (body.array::<16>()?.into(), body.array::<16>()?.into());
                body.end(ParseError::BadSelector)?;
                let addresses = Addresses::V6 { start, end };
                Selector::Range {
                    protocol,
                    start_port,
                    end_port,
                    addresses,
                }
            }
            kind => Selector::Unknown {
                kind,
                protocol,
                body: body.0.to_vec(),
            },
        };
        selectors.push(selector);
    }
    reader.end(ParseError::BadSelector)?;
    // RFC 7296 §3.13: one or more selectors.
    if selectors.is_empty() {
        Err(ParseError::BadSelector)
    } else {
        Ok(selectors)
    }
}

pub(super) fn emit(selectors: &[Selector], out: &mut Vec<u8>) -> Result<(), ParseError> {
    let count = u8::try_from(selectors.len()).map_err(|_| ParseError::TooLong)?;
    if count == 0 {
        return Err(ParseError::BadSelector);
    }
    out.extend_from_slice(&[count, 0, 0, 0]);
    for selector in selectors {
        let start = out.len();
        match selector {
            Selector::Range {
                protocol,
                start_port,
                end_port,
                addresses,
            } => {
                let kind = match addresses {
                    Addresses::V4 { .. } => TsType::IPV4_ADDR_RANGE,
                    Addresses::V6 { .. } => TsType::IPV6_ADDR_RANGE,
                };
                out.extend_from_slice(&[kind.0, *protocol, 0, 0]);
                out.extend_from_slice(&start_port.to_be_bytes());
                out.extend_from_slice(&end_port.to_be_bytes());
                match addresses {
                    Addresses::V4 { start, end } => {
                        out.extend_from_slice(&start.octets());
                        out.extend_from_slice(&end.octets());
                    }
                    Addresses::V6 { start, end } => {
                        out.extend_from_slice(&start.octets());
                        out.extend_from_slice(&end.octets());
                    }
                }
            }
            Selector::Unknown {
                kind,
                protocol,
                body,
            } => {
                out.extend_from_slice(&[kind.0, *protocol, 0, 0]);
                out.extend_from_slice(body);
            }
        }
        emit_u16_len(out, start + 2, start)?;
    }
    Ok(())
}
