//! What each interface's driver can do with XDP: the kernel's "netdev" generic netlink family
//! (Linux 6.3; Documentation/netlink/specs/netdev.yaml), asked without a library.

use std::{collections::HashMap, io};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink,
    netlink::SocketAddrNetlink, recv, sendto, socket_with,
};

/// include/uapi/linux/netdev.h
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// include/uapi/linux/genetlink.h
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// include/uapi/linux/netlink.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADERS: usize = 16 + 4;

/// `enum netdev_xdp_act`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// Native XDP, with redirects.
    pub fn native(self) -> bool {
        self.0 & 0b11 == 0b11
    }

    /// AF_XDP without a copy.
    pub fn zero_copy(self) -> bool {
        self.0 & 0b1000 != 0
    }
}

/// By interface index. An error means a kernel before 6.3.
pub fn xdp_features() -> io::Result<HashMap<u32, XdpFeatures>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::GENERIC),
    )?;
    let ask = |message: &[u8]| -> io::Result<Vec<Vec<u8>>> {
        sendto(
            &socket,
            message,
            SendFlags::empty(),
            &SocketAddrNetlink::new(0, 0),
        )?;
        let mut answers = Vec::new();
        let mut buf = vec![0; 1 << 16];
        loop {
            let (_, len) = recv(&socket, &mut buf[..], RecvFlags::empty())?;
            if !split(&buf[..len], &mut answers)? {
                return Ok(answers);
            }
        }
    };

    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let answers = ask(&request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0, &name))?;
    let family = answers
        .iter()
        .flat_map(|answer| attributes(answer))
        .find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)
        .and_then(|(_, value)| Some(u16::from_ne_bytes(value.try_into().ok()?)))
        .ok_or(io::ErrorKind::NotFound)?;

    let answers = ask(&request(family, NETDEV_CMD_DEV_GET, NLM_F_DUMP, &[]))?;
    let device = |answer: &Vec<u8>| {
        let find = |wanted| {
            attributes(answer)
                .find(|(kind, _)| *kind == wanted)
                .map(|(_, v)| v)
        };
        let index = u32::from_ne_bytes(find(NETDEV_A_DEV_IFINDEX)?.try_into().ok()?);
        let features = u64::from_ne_bytes(find(NETDEV_A_DEV_XDP_FEATURES)?.try_into().ok()?);
        Some((index, XdpFeatures(features)))
    };
    Ok(answers.iter().filter_map(device).collect())
}

fn request(kind: u16, command: u8, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADERS + attributes.len()).expect("a short request");
    let mut message = Vec::new();
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]); // sequence number and port: one question at a time
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).expect("a short attribute");
    let mut out = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Append the bodies of one datagram's messages; false when this was the last datagram.
fn split(mut datagram: &[u8], answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    let mut more = false;
    while let Some((header, _)) = datagram.split_first_chunk::<16>() {
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let multipart = header[6] & 2 != 0;
        if len < 16 || len > datagram.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let code = datagram
                    .get(16..20)
                    .map_or(0, |c| i32::from_ne_bytes([c[0], c[1], c[2], c[3]]));
                return if code == 0 {
                    Ok(false)
                } else {
                    Err(io::Error::from_raw_os_error(-code))
                };
            }
            _ => answers.push(datagram[..len].to_vec()),
        }
        more = multipart;
        datagram = &datagram[len.next_multiple_of(4).min(datagram.len())..];
    }
    Ok(more)
}

fn attributes(message: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(HEADERS..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (header, _) = rest.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = rest.get(4..len)?;
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let mut body = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        body.extend(attribute(NETDEV_A_DEV_IFINDEX, &7u32.to_ne_bytes()));
        let message = request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0, &body);
        let found: Vec<_> = attributes(&message).collect();
        assert_eq!(found, [(2, &b"netdev\0"[..]), (1, &7u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn truncated_answers_are_errors_or_nothing() {
        let message = request(
            GENL_ID_CTRL,
            CTRL_CMD_GETFAMILY,
            0,
            &attribute(2, b"netdev\0"),
        );
        for len in 0..message.len() {
            let mut answers = Vec::new();
            let _ = split(&message[..len], &mut answers);
            assert!(answers.is_empty());
            let _ = attributes(&message[..len]).count();
        }
    }
}
