//! What netlink tells of the host: rules of routing, IPsec policies, VRFs, where targets are.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use anyhow::{Context, Result};
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_xfrm::{UserPolicyInfo, constants};
use rtnetlink::{
    Handle, IpVersion,
    packet_route::{
        address::AddressAttribute,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
        route::RouteHeader,
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
    },
};

use super::{Family, Packets};
use crate::netns::{Way, way_to};

/// One that isn't the kernel's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingRule {
    pub family: Family,
    pub(super) priority: u32,
}

impl fmt::Display for RoutingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = match self.family {
            Family::V4 => "-4",
            Family::V6 => "-6",
        };
        write!(f, "ip {flag} rule: {}", self.priority)
    }
}

pub async fn routing_rules(netlink: &Handle) -> Result<Vec<RoutingRule>> {
    let mut found = Vec::new();
    for (family, version) in [(Family::V4, IpVersion::V4), (Family::V6, IpVersion::V6)] {
        let mut rules = netlink.rule().get(version).execute();
        // A kernel without IPv6, or without rules, has no such request.
        while let Ok(Some(rule)) = rules.try_next().await {
            if !is_kernels_own(&rule) {
                let priority = priority(&rule);
                found.push(RoutingRule { family, priority });
            }
        }
    }
    Ok(found)
}

fn priority(rule: &RuleMessage) -> u32 {
    let mut attributes = rule.attributes.iter();
    let priority = attributes.find_map(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    // Of the first rule.
    priority.unwrap_or_default()
}

/// `from all lookup local`, `main` or `default`, wherever it stands; or the one that the first VRF
/// brings and leaves behind.
fn is_kernels_own(rule: &RuleMessage) -> bool {
    const LOCAL: u8 = 255;
    const DEFAULT: u8 = 253;
    const NO_LIMIT: u32 = u32::MAX;
    let header = &rule.header;
    let plain = |attribute: &RuleAttribute| {
        matches!(
            attribute,
            RuleAttribute::Priority(_)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::Table(_)
                | RuleAttribute::SuppressPrefixLen(NO_LIMIT)
                | RuleAttribute::SuppressIfGroup(NO_LIMIT)
                | RuleAttribute::L3MDev(_)
        )
    };
    header.action == RuleAction::ToTable
        && header.src_len == 0
        && header.dst_len == 0
        && header.tos == 0
        && !header.flags.contains(RuleFlags::Invert)
        && matches!(header.table, LOCAL | RouteHeader::RT_TABLE_MAIN | DEFAULT)
        && rule.attributes.iter().all(plain)
}

/// A policy of the host's, not of a socket's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpsecPolicy {
    /// On the way in, the host's side.
    pub(super) local: IpNet,
    pub(super) remote: IpNet,
    /// None for any.
    pub(super) protocol: Option<u8>,
}

impl IpsecPolicy {
    /// Forwarding, and what a socket has for itself, is no concern of a service's.
    pub fn from(info: &UserPolicyInfo) -> Option<Self> {
        let selector = &info.selector;
        let net = |address: &netlink_packet_xfrm::Address, len| {
            let address = match selector.family {
                constants::AF_INET6 => IpAddr::V6(address.to_ipv6()),
                _ => IpAddr::V4(address.to_ipv4()),
            };
            IpNet::new(address, len).ok()
        };
        let source = net(&selector.saddr, selector.prefixlen_s)?;
        let destination = net(&selector.daddr, selector.prefixlen_d)?;
        let (local, remote) = match info.direction {
            constants::XFRM_POLICY_IN => (destination, source),
            constants::XFRM_POLICY_OUT => (source, destination),
            _ => return None,
        };
        Some(Self {
            local,
            remote,
            protocol: (selector.proto != 0).then_some(selector.proto),
        })
    }

    /// Whether it may be about them or about what answers them.
    pub fn is_about(&self, packets: Packets<'_>) -> bool {
        packets.family.has(&self.local.addr())
            && packets.go_to(&self.local)
            && self
                .protocol
                .is_none_or(|protocol| protocol == packets.transport.number())
    }
}

impl fmt::Display for IpsecPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "between {} and {}", self.local, self.remote)
    }
}

/// The devices that are VRFs. One that is in a VRF has one.
pub async fn vrfs(netlink: &Handle) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut links = netlink.link().get().execute();
    while let Some(link) = links.try_next().await.context("reading devices")? {
        if is_vrf(&link) {
            found.extend(name(&link));
        }
    }
    Ok(found)
}

fn is_vrf(link: &LinkMessage) -> bool {
    let mut attributes = link.attributes.iter();
    attributes.any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Vrf)),
        _ => false,
    })
}

fn name(link: &LinkMessage) -> Option<String> {
    let mut attributes = link.attributes.iter();
    attributes.find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

/// Those of the targets' addresses that are this host's.
pub async fn here(targets: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>> {
    let mut here = BTreeSet::new();
    for target in targets {
        if let Way::Here = way_to(*target).await? {
            here.insert(*target);
        }
    }
    Ok(here)
}

/// Those that packets for this host alone have.
pub async fn addresses(netlink: &Handle) -> Result<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    let mut messages = netlink.address().get().execute();
    while let Some(message) = messages.try_next().await.context("reading addresses")? {
        let (mut local, mut address) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                // Of a point-to-point device this is the other end's.
                AddressAttribute::Address(ip) => address = Some(*ip),
                _ => {}
            }
        }
        found.extend(local.or(address));
    }
    Ok(found)
}
