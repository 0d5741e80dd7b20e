//! The host's end of the veth pair, and the steer addresses: all of ours that the host has.

use std::{fs, io, net::IpAddr};

use anyhow::{Context, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::{
        address::{AddressAttribute, AddressFlags, AddressScope, CacheInfo},
        link::{AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, LinkAttribute},
    },
};

use super::{Device, Families, LastResort, netlink, routes};

/// What the host knows of the device and of what is behind it.
pub struct Configured {
    pub families: Families,
    /// The spoof namespace's id, as this namespace counts.
    pub spoof_id: u32,
}

/// Sets the device up.
pub async fn configure(device: &Device) -> Result<Configured> {
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
    let v6 = set(AfSpecUnspec::Inet6(vec![mode])).await.is_ok() && enable_v6(device);
    let up = LinkUnspec::new_with_index(device.index).up().build();
    netlink
        .link()
        .set(up)
        .execute()
        .await
        .context("setting the veth up")?;
    if v6 {
        keep_forwarding(device);
    }
    Ok(Configured {
        families: Families { v6 },
        spoof_id: peer_netns(&netlink, device).await?,
    })
}

/// Whether the device has IPv6 now: `lo` tells whether the host wants any, as some have it off on
/// new devices only.
pub fn enable_v6(device: &Device) -> bool {
    let key = |device: &str| format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
    let is_off =
        |device: &str| fs::read_to_string(key(device)).is_ok_and(|value| value.trim_ascii() != "0");
    !is_off("lo") && (!is_off(&device.name) || fs::write(key(&device.name), "0").is_ok())
}

/// Has our device forward, where it doesn't: what `inet` sets for IPv4 has no netlink message for IPv6,
/// and who switches it off for the host does so for each device.
pub fn keep_forwarding(device: &Device) {
    for family in ["ipv4", "ipv6"] {
        let key = format!("/proc/sys/net/{family}/conf/{}/forwarding", device.name);
        let is_off = fs::read(&key).is_ok_and(|value| value.trim_ascii() == b"0");
        if is_off && let Err(error) = fs::write(&key, "1") {
            tracing::debug!(key, %error, "neither direct connections nor targets beyond this host");
        }
    }
}

/// The kernel gave the namespace an id when the veth's end moved.
async fn peer_netns(netlink: &Handle, device: &Device) -> Result<u32> {
    let mut links = netlink.link().get().match_index(device.index).execute();
    let link = links.try_next().await?.context("the veth is gone")?;
    let id = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkNetNsId(id) => u32::try_from(*id).ok(),
            _ => None,
        });
    id.context("the spoof namespace has no id")
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

/// Has our device take clients' packets, should somebody have made rp_filter strict there.
pub fn keep_loose(device: &Device) {
    let name = &device.name;
    let key = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
    match fs::write(key, "2") {
        Ok(()) => tracing::warn!("rp_filter was strict on {name}: it is loose again"),
        Err(error) => tracing::error!(
            "rp_filter is strict on {name}, and can't be changed: clients' packets are dropped there: {error}"
        ),
    }
}

/// The device of this index, which is one of ours.
pub async fn device(index: u32) -> Result<Device> {
    let name = super::lookup::name(&netlink()?, index).await?;
    let number = name
        .strip_prefix("truepeer")
        .and_then(|number| number.parse().ok());
    let number = number.with_context(|| format!("{name} is no device of truepeer's"))?;
    Ok(Device {
        name,
        index,
        number,
    })
}

/// Those of IPv4 go to the device of the index `v4`, which may be another one. Returns those that were
/// not there.
pub async fn add_addresses(
    device: &Device,
    v4: u32,
    addresses: &[IpAddr],
    last_resort: &mut dyn LastResort,
) -> Result<Vec<IpAddr>> {
    let netlink = netlink()?;
    let mut added = Vec::new();
    for address in addresses {
        let index = if address.is_ipv4() { v4 } else { device.index };
        let is_new = is_new(add_address(&netlink, index, *address).await)
            .with_context(|| format!("adding steer address {address} beside {}", device.name))?;
        if is_new {
            added.push(*address);
        }
    }
    for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
        if let Some(address) = addresses.iter().find(|address| family(address)) {
            is_new(routes::keep_default(&netlink, device, address, last_resort).await)
                .with_context(|| format!("adding a default route by {}", device.name))?;
        }
    }
    Ok(added)
}

/// False: somebody has added it before, as a daemon before this one.
pub fn is_new(added: Result<(), rtnetlink::Error>) -> Result<bool, rtnetlink::Error> {
    match added {
        Err(rtnetlink::Error::NetlinkError(message))
            if message.to_io().kind() == io::ErrorKind::AlreadyExists =>
        {
            Ok(false)
        }
        added => added.map(|()| true),
    }
}

/// An address that the host answers on, but never picks as the source of its own traffic.
async fn add_address(
    netlink: &Handle,
    device: u32,
    address: IpAddr,
) -> Result<(), rtnetlink::Error> {
    let prefix_len = if address.is_ipv4() { 32 } else { 128 };
    let mut request = netlink.address().add(device, address, prefix_len);
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
