//! The host's end of the veth pair: the only thing of ours that the host has.

use std::net::IpAddr;

use anyhow::{Context, Result};
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::{
        address::{AddressAttribute, AddressFlags, AddressScope, CacheInfo},
        link::{AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, LinkAttribute},
    },
};

use super::{Device, Families, netlink};

/// Sets the device up; says which families it has.
pub async fn configure(device: &Device) -> Result<Families> {
    let netlink = netlink()?;
    let link = |family| {
        LinkUnspec::new_with_index(device.index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![family]))
            .build()
    };
    let set = |family| netlink.link().set(link(family)).execute();
    set(AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(inet())]))
        .await
        .context("IPv4 settings of the veth")?;
    // Without an address of its own the device would send router solicitations.
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let v6 = set(AfSpecUnspec::Inet6(vec![mode])).await.is_ok();
    let up = LinkUnspec::new_with_index(device.index).up().build();
    netlink
        .link()
        .set(up)
        .execute()
        .await
        .context("setting the veth up")?;
    Ok(Families { v6 })
}

fn inet() -> InetDevConf {
    let mut conf = InetDevConf::default();
    // Loose: the kernel takes the stricter of `all` and the device in the order 0, 1, 2, so this
    // also beats a strict `all`.
    conf.rp_filter = 2;
    // bpf_fib_lookup asks for it on the device that a packet came in by.
    conf.forwarding = 1;
    conf
}

pub async fn add_addresses(device: &Device, addresses: &[IpAddr]) -> Result<()> {
    let netlink = netlink()?;
    for address in addresses {
        add_address(&netlink, device, *address)
            .await
            .with_context(|| format!("adding steer address {address} to {}", device.name))?;
    }
    Ok(())
}

/// An address that the host answers on, but never picks as the source of its own traffic.
async fn add_address(
    netlink: &Handle,
    device: &Device,
    address: IpAddr,
) -> Result<(), rtnetlink::Error> {
    let prefix_len = if address.is_ipv4() { 32 } else { 128 };
    let mut request = netlink.address().add(device.index, address, prefix_len);
    let message = request.message_mut();
    match address {
        IpAddr::V4(_) => message.header.scope = AddressScope::Link,
        IpAddr::V6(_) => message.attributes.extend([
            AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute),
            AddressAttribute::CacheInfo(deprecated()),
        ]),
    }
    request.execute().await
}

/// Valid for ever, preferred never.
fn deprecated() -> CacheInfo {
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_preferred = 0;
    lifetimes.ifa_valid = u32::MAX;
    lifetimes
}
