//! What a frame on the NAT's outer side is, told without the product's own parsers: the judge
//! shares nothing with the judged.

use std::net::Ipv4Addr;

/// Only the last two may not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ethertype 0x0806.
    Arp,
    /// Between the NAT's and the gateway's outer addresses.
    RouterIcmp,
    /// IP protocol 50.
    Esp,
    /// ESP in UDP 4500 (RFC 3948 §2.1).
    EspInUdp,
    /// UDP 500, or 4500 with the non-ESP marker (RFC 3948 §2.2).
    Ike,
    /// One byte 0xff on UDP 4500 (RFC 3948 §2.3).
    Keepalive,
    /// Any other IPv4.
    OtherIp,
    /// Neither IPv4 nor ARP.
    OtherFrame,
}

impl Kind {
    /// May it be seen outside the NAT?
    pub fn may_be_outside(self) -> bool {
        !matches!(self, Kind::OtherIp | Kind::OtherFrame)
    }
}

const IKE_PORT: u16 = 500;
const NAT_T_PORT: u16 = 4500;

/// `frame` from the Ethernet header on, maybe cut short. Later fragments of UDP show no port, so
/// they count as other.
pub fn classify(frame: &[u8], routers: [Ipv4Addr; 2]) -> Kind {
    let be16 = |bytes: &[u8], at: usize| {
        bytes
            .get(at..at + 2)
            .map(|b| u16::from_be_bytes([b[0], b[1]]))
    };
    let ip = match be16(frame, 12) {
        Some(0x0806) => return Kind::Arp,
        Some(0x0800) => &frame[14..],
        _ => return Kind::OtherFrame,
    };
    if ip.len() < 20 || ip[0] >> 4 != 4 {
        return Kind::OtherFrame;
    }
    let header = usize::from(ip[0] & 15) * 4;
    let later_fragment = be16(ip, 6).is_some_and(|field| field & 0x1fff != 0);
    let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
    match ip[9] {
        50 => Kind::Esp,
        1 if routers.contains(&address(12)) && routers.contains(&address(16)) => Kind::RouterIcmp,
        17 if !later_fragment => {
            let udp = ip.get(header..).unwrap_or_default();
            let port_is = |port| be16(udp, 0) == Some(port) || be16(udp, 2) == Some(port);
            if port_is(NAT_T_PORT) {
                let payload = udp.get(8..).unwrap_or_default();
                match be16(udp, 4) {
                    Some(9) if payload.first() == Some(&0xff) => Kind::Keepalive,
                    _ if payload.starts_with(&[0; 4]) => Kind::Ike,
                    _ => Kind::EspInUdp,
                }
            } else if port_is(IKE_PORT) {
                Kind::Ike
            } else {
                Kind::OtherIp
            }
        }
        _ => Kind::OtherIp,
    }
}

/// One line about a frame, for the person who has to find out why it was there.
pub fn describe(frame: &[u8]) -> String {
    let Some(ip) = frame.get(14..34).filter(|_| frame[12..14] == [8, 0]) else {
        let ethertype = frame
            .get(12..14)
            .map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        return format!("ethertype {ethertype:#06x}");
    };
    let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
    let protocol = match ip[9] {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        other => format!("protocol {other}"),
    };
    format!("{} → {} {protocol}", address(12), address(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTERS: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 1)];

    fn ipv4(protocol: u8, src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend(src);
        frame.extend(dst);
        frame.extend(payload);
        frame
    }

    fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(8 + payload.len()).unwrap();
        let mut out = [
            src.to_be_bytes(),
            dst.to_be_bytes(),
            len.to_be_bytes(),
            [0; 2],
        ]
        .concat();
        out.extend(payload);
        ipv4(17, [203, 0, 113, 2], [203, 0, 113, 1], &out)
    }

    #[test]
    fn each_kind_is_told() {
        let (nat, gw) = ([203, 0, 113, 2], [203, 0, 113, 1]);
        let mut arp = vec![0; 12];
        arp.extend([8, 6]);
        let mut ipv6 = vec![0; 12];
        ipv6.extend([0x86, 0xdd]);
        for (frame, kind) in [
            (arp, Kind::Arp),
            (ipv6, Kind::OtherFrame),
            (ipv4(1, nat, gw, &[8, 0]), Kind::RouterIcmp),
            (ipv4(1, nat, [10, 2, 0, 2], &[8, 0]), Kind::OtherIp),
            (ipv4(50, nat, gw, &[1; 8]), Kind::Esp),
            (ipv4(6, nat, gw, &[0; 20]), Kind::OtherIp),
            (udp(500, 500, &[7; 28]), Kind::Ike),
            (udp(40000, 4500, &[0; 32]), Kind::Ike),
            (udp(4500, 40000, &[1; 32]), Kind::EspInUdp),
            (udp(40000, 4500, &[0xff]), Kind::Keepalive),
            (udp(53, 9, &[1; 32]), Kind::OtherIp),
        ] {
            assert_eq!(classify(&frame, ROUTERS), kind, "{}", describe(&frame));
        }
    }

    #[test]
    fn a_later_fragment_is_not_trusted() {
        let mut frame = udp(4500, 4500, &[1; 32]);
        frame[14 + 7] = 1;
        assert_eq!(classify(&frame, ROUTERS), Kind::OtherIp);
    }

    #[test]
    fn cut_frames_do_no_harm() {
        let frame = udp(4500, 4500, &[1; 32]);
        for len in 0..frame.len() {
            classify(&frame[..len], ROUTERS);
            describe(&frame[..len]);
        }
    }
}
