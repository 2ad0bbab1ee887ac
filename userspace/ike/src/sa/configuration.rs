//! The configuration payload (RFC 7296 §2.19, §3.15): virtual addresses, DNS servers and subnets;
//! and what swanctl calls `dynamic` in traffic selectors, which follows from them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mitregate_wire::TrafficSelector;
use mitregate_wire::ike::{Configuration, ConfigurationAttribute, NotifyType, Payload};

use super::{IkeSa, Phase};
use crate::{ChildConfig, Ctx, Identity, Reason};

/// CFG types, RFC 7296 §3.15.
mod cfg {
    pub(super) const REQUEST: u8 = 1;
    pub(super) const REPLY: u8 = 2;
    pub(super) const SET: u8 = 3;
    pub(super) const ACK: u8 = 4;
}

/// Attribute types, RFC 7296 §3.15.1.
mod attribute {
    pub(super) const INTERNAL_IP4_ADDRESS: u16 = 1;
    pub(super) const INTERNAL_IP4_DNS: u16 = 3;
    pub(super) const INTERNAL_IP6_ADDRESS: u16 = 8;
    pub(super) const INTERNAL_IP6_DNS: u16 = 10;
    pub(super) const INTERNAL_IP4_SUBNET: u16 = 13;
    pub(super) const SUPPORTED_ATTRIBUTES: u16 = 14;
    pub(super) const INTERNAL_IP6_SUBNET: u16 = 15;
}

/// A virtual IPv6 address is a host's, whatever the network behind it.
const IP6_PREFIX_LEN: u8 = 128;
/// Addresses, DNS servers and subnets of one kind that a peer can make us keep.
const MAX_OF_A_KIND: usize = 16;

/// What a configuration payload gave to one of the two sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Virtual addresses, at most one of each family for each that was asked for.
    pub addresses: Vec<IpAddr>,
    /// DNS servers, in order of preference.
    pub dns: Vec<IpAddr>,
    /// What the responder says is behind it: a hint, the traffic selectors decide.
    pub subnets: Vec<TrafficSelector>,
}

/// Virtual addresses for peers. A responder asks once per IKE SA, when its peer has authenticated.
pub trait Leases {
    /// Addresses for `peer`, who has authenticated to `connection`, one for each in `wanted` as far as
    /// there are any: the wanted one where it is free or the peer's already, any where it is unspecified.
    fn assign(&mut self, connection: &str, peer: &Identity, wanted: &[IpAddr]) -> Assigned;
}

/// Has no address for anybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLeases;

impl Leases for NoLeases {
    fn assign(&mut self, _: &str, _: &Identity, _: &[IpAddr]) -> Assigned {
        Assigned::default()
    }
}

/// What the configuration payloads of an IKE SA came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Configured {
    /// We asked, and the peer has answered.
    answered: bool,
    /// The peer asked for an address.
    asked: bool,
    /// What the peer gave to us.
    pub(super) local: Assigned,
    /// What we gave to the peer.
    pub(super) remote: Assigned,
}

impl IkeSa {
    /// CFG_REQUEST of IKE_AUTH, if there is something to ask for.
    pub(super) fn configuration_request(&self) -> Option<Payload> {
        let vips = &self.config.vips;
        let addresses = vips.iter().map(|address| request(*address));
        let families = [true, false]
            .into_iter()
            .filter(|v4| vips.iter().any(|address| address.is_ipv4() == *v4));
        let others = families.flat_map(|v4| {
            let kinds = if v4 {
                [attribute::INTERNAL_IP4_DNS, attribute::INTERNAL_IP4_SUBNET]
            } else {
                [attribute::INTERNAL_IP6_DNS, attribute::INTERNAL_IP6_SUBNET]
            };
            kinds.map(|kind| of(kind, Vec::new()))
        });
        let attributes: Vec<_> = addresses.chain(others).collect();
        (!attributes.is_empty()).then_some(Payload::Configuration(Configuration {
            kind: cfg::REQUEST,
            attributes,
        }))
    }

    /// Takes in what the response to IKE_AUTH gives us.
    pub(super) fn take_configuration_reply(&mut self, payloads: &[Payload]) {
        let reply = configuration(payloads, cfg::REPLY);
        self.cp.answered = true;
        // RFC 7296 §3.15.1: only a family that was asked for.
        let asked = |address: &IpAddr| {
            let mut vips = self.config.vips.iter();
            vips.any(|vip| vip.is_ipv4() == address.is_ipv4())
        };
        // What no host can have, none is made to have.
        let usable =
            |a: &IpAddr| !(a.is_unspecified() || a.is_multicast() || a.is_loopback()) && asked(a);
        let Some(reply) = reply else { return };
        let mut local = Assigned::default();
        for attribute in &reply.attributes {
            match read(attribute) {
                Some(Read::Address(Some(address))) if usable(&address) => {
                    push(&mut local.addresses, address);
                }
                Some(Read::Dns(Some(address))) => push(&mut local.dns, address),
                Some(Read::Subnet(Some(subnet))) => push(&mut local.subnets, subnet),
                _ => {}
            }
        }
        self.cp.local = local;
    }

    /// Answers the CFG_REQUEST or CFG_SET of IKE_AUTH for a peer that has authenticated.
    pub(super) fn answer_first_configuration(
        &mut self,
        payloads: &[Payload],
        cx: &mut Ctx<'_>,
    ) -> Option<Payload> {
        let Some(request) = configuration(payloads, cfg::REQUEST) else {
            return acknowledge(payloads);
        };
        let wanted: Vec<IpAddr> = request
            .attributes
            .iter()
            .filter_map(|attribute| match read(attribute)? {
                Read::Address(address) => Some(address.unwrap_or(unspecified(attribute.kind))),
                _ => None,
            })
            .take(MAX_OF_A_KIND)
            .collect();
        self.cp.asked = !wanted.is_empty();
        if self.config.assigns
            && let Some(peer) = &self.peer_id
        {
            self.cp.remote = cx.leases.assign(&self.config.name, peer, &wanted);
        }
        Some(self.configuration_reply(request))
    }

    /// Answers configuration payloads of an INFORMATIONAL request.
    pub(super) fn answer_configuration(&self, payloads: &[Payload]) -> Option<Payload> {
        match configuration(payloads, cfg::REQUEST) {
            Some(request) => Some(self.configuration_reply(request)),
            None => acknowledge(payloads),
        }
    }

    /// RFC 7296 §3.15: what was asked for, as far as there is any of it; what is unknown is left out.
    fn configuration_reply(&self, request: &Configuration) -> Payload {
        let given = &self.cp.remote;
        let mut attributes = Vec::new();
        let mut seen = Vec::new();
        for asked in &request.attributes {
            let kind = asked.kind;
            // Each kind is answered once, with all there is.
            if seen.contains(&kind) {
                continue;
            }
            seen.push(kind);
            let of_family = |list: &[IpAddr], v4: bool| -> Vec<IpAddr> {
                list.iter().copied().filter(|a| a.is_ipv4() == v4).collect()
            };
            match kind {
                attribute::INTERNAL_IP4_ADDRESS => {
                    attributes.extend(
                        of_family(&given.addresses, true)
                            .into_iter()
                            .map(request_of),
                    );
                }
                attribute::INTERNAL_IP6_ADDRESS => {
                    attributes.extend(
                        of_family(&given.addresses, false)
                            .into_iter()
                            .map(request_of),
                    );
                }
                attribute::INTERNAL_IP4_DNS => attributes.extend(
                    of_family(&given.dns, true)
                        .into_iter()
                        .map(|dns| of(kind, octets(dns))),
                ),
                attribute::INTERNAL_IP6_DNS => attributes.extend(
                    of_family(&given.dns, false)
                        .into_iter()
                        .map(|dns| of(kind, octets(dns))),
                ),
                attribute::SUPPORTED_ATTRIBUTES => {
                    let kinds = [
                        attribute::INTERNAL_IP4_ADDRESS,
                        attribute::INTERNAL_IP4_DNS,
                        attribute::INTERNAL_IP6_ADDRESS,
                        attribute::INTERNAL_IP6_DNS,
                        attribute::SUPPORTED_ATTRIBUTES,
                    ];
                    let value = kinds.iter().flat_map(|kind| kind.to_be_bytes()).collect();
                    attributes.push(of(kind, value));
                }
                _ => {}
            }
        }
        Payload::Configuration(Configuration {
            kind: cfg::REPLY,
            attributes,
        })
    }

    /// Why the CHILD_SA of IKE_AUTH cannot be had, if it is for an address (RFC 7296 §2.19, §3.10.1).
    pub(super) fn configuration_refusal(&self) -> Option<(NotifyType, Reason)> {
        let given = !self.cp.remote.addresses.is_empty();
        if self.cp.asked && !given {
            let why = Reason::NoAddress;
            return Some((NotifyType::INTERNAL_ADDRESS_FAILURE, why));
        }
        let needed = self
            .config
            .children
            .iter()
            .all(|child| child.dynamic.remote);
        if self.config.assigns && needed && !given {
            let why = Reason::Refused(NotifyType::FAILED_CP_REQUIRED);
            return Some((NotifyType::FAILED_CP_REQUIRED, why));
        }
        None
    }

    /// Our side's selectors of a child: what is dynamic is our virtual addresses, or without any our
    /// outer address; while we have yet to hear of them, all of their families.
    pub(super) fn local_ts(&self, child: &ChildConfig) -> Vec<TrafficSelector> {
        let mut selectors = child.local_ts.clone();
        if child.dynamic.local {
            let vips = &self.config.vips;
            if vips.is_empty() {
                selectors.push(TrafficSelector::from_address(self.local.ip()));
            } else if self.cp.answered {
                let addresses = self.cp.local.addresses.iter();
                selectors.extend(addresses.map(|a| TrafficSelector::from_address(*a)));
            } else {
                for vip in vips {
                    let whole = TrafficSelector::from_prefix(unspecified_like(*vip), 0);
                    selectors.extend(whole.ok().filter(|whole| !selectors.contains(whole)));
                }
            }
        }
        selectors
    }

    /// The peer's side's selectors of a child: what is dynamic is the peer's virtual addresses, or its
    /// outer address where we assign none.
    pub(super) fn remote_ts(&self, child: &ChildConfig) -> Vec<TrafficSelector> {
        let mut selectors = child.remote_ts.clone();
        if child.dynamic.remote {
            let given = &self.cp.remote.addresses;
            if !given.is_empty() {
                selectors.extend(given.iter().map(|a| TrafficSelector::from_address(*a)));
            } else if !self.config.assigns {
                selectors.push(TrafficSelector::from_address(self.remote.ip()));
            }
        }
        selectors
    }

    /// The peer was asked for addresses and gave none.
    pub(super) fn lacks_address(&self, child: &ChildConfig) -> bool {
        child.dynamic.local
            && !self.config.vips.is_empty()
            && self.cp.answered
            && self.cp.local.addresses.is_empty()
            && matches!(self.phase, Phase::Established)
    }
}

/// The first configuration payload of a type.
fn configuration(payloads: &[Payload], kind: u8) -> Option<&Configuration> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Configuration(cp) if cp.kind == kind => Some(cp),
        _ => None,
    })
}

/// RFC 7296 §3.15: of what a peer wants to set here nothing is accepted, and that is said.
fn acknowledge(payloads: &[Payload]) -> Option<Payload> {
    configuration(payloads, cfg::SET).map(|_| {
        Payload::Configuration(Configuration {
            kind: cfg::ACK,
            attributes: Vec::new(),
        })
    })
}

/// An attribute that we know; `None` inside where its sender left it empty for the other side to fill.
enum Read {
    Address(Option<IpAddr>),
    Dns(Option<IpAddr>),
    Subnet(Option<TrafficSelector>),
}

/// Nothing of a kind that we do not know, or of a length that is not its kind's.
fn read(attribute: &ConfigurationAttribute) -> Option<Read> {
    let value = attribute.value.as_slice();
    let v4 = || <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
    let v6 = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    let empty = value.is_empty();
    Some(match attribute.kind {
        attribute::INTERNAL_IP4_ADDRESS => Read::Address(or_empty(empty, v4())?),
        // With its prefix length, which some leave out.
        attribute::INTERNAL_IP6_ADDRESS => {
            let bytes = match value {
                [bytes @ .., _] if value.len() == 17 => bytes,
                bytes => bytes,
            };
            Read::Address(or_empty(empty, v6(bytes))?)
        }
        attribute::INTERNAL_IP4_DNS => Read::Dns(or_empty(empty, v4())?),
        attribute::INTERNAL_IP6_DNS => Read::Dns(or_empty(empty, v6(value))?),
        attribute::INTERNAL_IP4_SUBNET => {
            let subnet = || {
                let (address, mask) = value.split_first_chunk::<4>()?;
                let mask = u32::from_be_bytes(mask.try_into().ok()?);
                let len = u8::try_from(mask.leading_ones()).ok()?;
                let contiguous = mask.leading_ones() + mask.trailing_zeros() == 32;
                contiguous.then(|| prefix(IpAddr::from(*address), len))?
            };
            Read::Subnet(or_empty(empty, subnet())?)
        }
        attribute::INTERNAL_IP6_SUBNET => {
            let subnet = || {
                let (len, address) = value.split_last()?;
                prefix(v6(address)?, *len)
            };
            Read::Subnet(or_empty(empty, subnet())?)
        }
        _ => return None,
    })
}

fn or_empty<T>(empty: bool, value: Option<T>) -> Option<Option<T>> {
    if empty { Some(None) } else { value.map(Some) }
}

fn prefix(address: IpAddr, len: u8) -> Option<TrafficSelector> {
    TrafficSelector::from_prefix(address, len).ok()
}

fn push<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if list.len() < MAX_OF_A_KIND && !list.contains(&item) {
        list.push(item);
    }
}

fn of(kind: u16, value: Vec<u8>) -> ConfigurationAttribute {
    ConfigurationAttribute { kind, value }
}

/// An attribute that asks for an address: any, if unspecified (RFC 7296 §3.15.1).
fn request(address: IpAddr) -> ConfigurationAttribute {
    if address.is_unspecified() {
        of(kind_of(address), Vec::new())
    } else {
        request_of(address)
    }
}

/// An attribute that holds an address.
fn request_of(address: IpAddr) -> ConfigurationAttribute {
    let mut value = octets(address);
    value.extend(address.is_ipv6().then_some(IP6_PREFIX_LEN));
    of(kind_of(address), value)
}

const fn kind_of(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => attribute::INTERNAL_IP4_ADDRESS,
        IpAddr::V6(_) => attribute::INTERNAL_IP6_ADDRESS,
    }
}

const fn unspecified(kind: u16) -> IpAddr {
    match kind {
        attribute::INTERNAL_IP6_ADDRESS => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

const fn unspecified_like(address: IpAddr) -> IpAddr {
    unspecified(kind_of(address))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
