//! The inside of the spoof namespace, made by a thread that ends in it.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt as _;
use proxy_common::{LO, VETH_MAC};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_core::ErrorMessage,
    packet_route::{
        AddressFamily,
        link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
        route::{RouteScope, RouteType},
        rule::RuleAction,
    },
};

use super::{Device, netlink, sockets::TcpSockets, steer};
use crate::sys;

/// The veth's end in here.
const INSIDE: &str = "host";
/// Large enough that TCP's segments of any size cross whole.
pub const MTU: u32 = 65535;
/// The routing table for what arrives.
const TABLE: u32 = 80;

/// Runs on a thread of its own, which is in the new namespace from here on.
pub fn create(host: &File) -> Result<(File, Device, TcpSockets)> {
    sys::unshare_netns().context("making a network namespace (needs CAP_SYS_ADMIN)")?;
    let netns = sys::current_netns().context("opening the new network namespace")?;
    let sockets = TcpSockets::open();
    let device = here(host, furnish(host))?;
    Ok((netns, device, sockets?))
}

/// The host's end of the veth, by its index, of a namespace that is there already; and its sockets.
pub fn look_into(host: &File, netns: &File) -> Result<(u32, TcpSockets)> {
    sys::enter_netns(netns.as_fd()).context("entering the spoof namespace")?;
    let sockets = TcpSockets::open();
    let index = here(host, async { peer_index(&netlink()?).await })?;
    Ok((index, sockets?))
}

fn here<T>(host: &File, work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    let done = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(work));
    // The thread belongs to a pool: leave it as it was.
    sys::enter_netns(host.as_fd()).context("returning to the host's network namespace")?;
    done
}

async fn furnish(host: &File) -> Result<Device> {
    let netlink = netlink()?;
    let device = add_veth(&netlink, host).await?;
    let inside = index_of(&netlink, INSIDE).await?;
    for index in [LO, inside] {
        let up = LinkUnspec::new_with_index(index).up().build();
        netlink
            .link()
            .set(up)
            .execute()
            .await
            .context("setting a link up")?;
    }
    for any in families() {
        route(&netlink, inside, any)
            .await
            .context("routes of the spoof namespace")?;
    }
    tune();
    Ok(device)
}

/// The unspecified address of each family that the kernel has.
fn families() -> impl Iterator<Item = IpAddr> {
    let v6 = fs::exists("/proc/sys/net/ipv6").unwrap_or(false);
    let v6 = v6.then_some(Ipv6Addr::UNSPECIFIED.into());
    std::iter::once(Ipv4Addr::UNSPECIFIED.into()).chain(v6)
}

/// Adds the pair with its outer end on the host already, under the first free name there.
async fn add_veth(netlink: &Handle, host: &File) -> Result<Device> {
    for number in steer::DEVICES {
        let name = format!("truepeer{number}");
        match add_pair(netlink, &name, host).await {
            Ok(()) => {
                return Ok(Device {
                    index: peer_index(netlink).await?,
                    name,
                    number,
                });
            }
            Err(rtnetlink::Error::NetlinkError(error)) if is_taken(&error) => {}
            Err(error) => return Err(error).context("adding the veth pair (needs CAP_NET_ADMIN)"),
        }
    }
    bail!(
        "truepeer0 to truepeer{} are all taken: too many instances",
        steer::DEVICES.end - 1
    )
}

fn is_taken(error: &ErrorMessage) -> bool {
    error.to_io().raw_os_error() == Some(rustix::io::Errno::EXIST.raw_os_error())
}

async fn add_pair(netlink: &Handle, name: &str, host: &File) -> Result<(), rtnetlink::Error> {
    let peer = end(LinkUnspec::new_with_name(name))
        .setns_by_fd(host.as_raw_fd())
        .build();
    let pair = end(LinkVeth::new(INSIDE, name))
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    netlink.link().add(pair).execute().await
}

/// What both ends of the pair have in common. The MAC is set at creation, which keeps udev's
/// `MACAddressPolicy` from changing it.
fn end<T>(link: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
    link.mtu(MTU).arp(false).address(VETH_MAC.to_vec())
}

/// The outer end's index on the host, which the inner end knows as its link.
async fn peer_index(netlink: &Handle) -> Result<u32> {
    link_by_name(netlink, INSIDE)
        .await?
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        })
        .context("the veth pair doesn't tell its other end")
}

pub async fn index_of(netlink: &Handle, name: &str) -> Result<u32> {
    Ok(link_by_name(netlink, name).await?.header.index)
}

async fn link_by_name(netlink: &Handle, name: &str) -> Result<LinkMessage> {
    let mut links = netlink.link().get().match_name(name.to_owned()).execute();
    let link = links
        .try_next()
        .await
        .with_context(|| format!("reading device {name}"))?;
    link.with_context(|| format!("device {name} is gone"))
}

/// What arrives is for us, whatever its destination; everything else leaves by the veth.
async fn route(netlink: &Handle, inside: u32, any: IpAddr) -> Result<(), rtnetlink::Error> {
    let mut rule = netlink
        .rule()
        .add()
        .input_interface(INSIDE)
        .table_id(TABLE)
        .action(RuleAction::ToTable);
    rule.message_mut().header.family = match any {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    rule.execute().await?;
    let local = everywhere(any, LO)
        .table_id(TABLE)
        .kind(RouteType::Local)
        .scope(RouteScope::Host);
    netlink.route().add(local.build()).execute().await?;
    let out = everywhere(any, inside).scope(RouteScope::Link);
    netlink.route().add(out.build()).execute().await
}

fn everywhere(any: IpAddr, device: u32) -> RouteMessageBuilder<IpAddr> {
    let route = RouteMessageBuilder::<IpAddr>::new().output_interface(device);
    // Only a prefix longer than its family allows is refused.
    route.destination_prefix(any, 0).unwrap_or_default()
}

/// More ports for clients that come from another port than their own. /proc/sys may be read-only in
/// a container; the default range does as well.
fn tune() {
    const PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    if let Err(error) = fs::write(PORTS, "1024 65535") {
        tracing::debug!(%error, "the spoof namespace has the default ports");
    }
}
