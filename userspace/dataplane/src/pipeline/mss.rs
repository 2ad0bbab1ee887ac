//! Connections through a tunnel begin with segments that its path carries.

use mitregate_wire::{ip::protocol, tcp};

use crate::{
    packet::{Addrs, Ip},
    tables::Epoch,
};

/// IPv4 and TCP headers without options (RFC 9293 §3.7.1), bytes.
const HEADERS_V4: usize = 40;
/// The same over IPv6.
const HEADERS_V6: usize = 60;

/// Lowers what a SYN or SYN-ACK, either way, announces as its maximum segment size to what fits the tunnel's
/// path from here and the inner link. The path towards here may carry less: its own end lowers it to that.
#[inline(always)]
pub(super) fn clamp(epoch: &Epoch, link_mtu: u16, packet: &mut [u8], ip: &Ip) {
    if ip.flow.protocol == protocol::TCP
        && let Some(segment) = packet.get_mut(ip.header_len..ip.len)
        && tcp::is_syn(segment)
    {
        lower(epoch, link_mtu, segment, ip);
    }
}

#[cold]
fn lower(epoch: &Epoch, link_mtu: u16, segment: &mut [u8], ip: &Ip) {
    let headers = match ip.flow.addrs {
        Addrs::V4 { .. } => HEADERS_V4,
        Addrs::V6 { .. } => HEADERS_V6,
    };
    let fits = epoch.max_inner().min(usize::from(link_mtu));
    // Later fragments show no ports, and no header either. Nothing fits while the next hop is unknown.
    if ip.flow.ports().is_some() && fits > headers {
        let mss = u16::try_from(fits - headers).unwrap_or(u16::MAX);
        tcp::clamp_mss(segment, mss);
    }
}
