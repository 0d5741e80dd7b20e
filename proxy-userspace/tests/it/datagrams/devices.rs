//! By which device an application gets its datagrams: by the balancer's own where nobody but the stack has a say
//! on what comes in, and by `lo` as soon as somebody has.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{HOST, WILDCARD};
use crate::lab::datagram;
use crate::lab::netns::Netns;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::steering::site::{ip, nft, sysctl};

rows! {
    a_firewall_comes_and_goes;
    a_firewall_in_front_of_a_wildcard_application;
    a_firewall_in_front_of_one_at_the_host_s_address;
    a_hook_of_the_device_s_own;
    a_policy_of_ipsec;
    a_reverse_path_filter;
    a_macvlan_above;
}

type Hooked = Site<UdpSocket>;

/// With an app that knows by which device each datagram has come.
fn start(plan: Plan<'_>) -> Result<Hooked> {
    plan.serve(|host, bind| {
        let socket = datagram::socket(host, bind)?;
        match bind {
            SocketAddr::V4(_) => setsockopt(&socket, Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvPacketInfo, &true)?,
        }
        Ok(socket)
    })
}

/// The name of the device by which the app gets one.
fn came_by(site: &Hooked, balancer: &UdpSocket) -> Result<String> {
    balancer.send(&[&site.header(1000)[..], b"hello"].concat())?;
    let mut words = [0; 16];
    let mut io = [IoSliceMut::new(&mut words)];
    let mut space = nix::cmsg_space!([u8; 64]);
    let flags = MsgFlags::empty();
    let got = recvmsg::<SockaddrStorage>(site.app.as_raw_fd(), &mut io, Some(&mut space), flags)?;
    let index = got.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => u32::try_from(info.ipi_ifindex).ok(),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(info.ipi6_ifindex),
        _ => None,
    });
    let index = index.context("no device told")?;
    ensure!(got.bytes == 5, "{} bytes", got.bytes);
    name(&site.lab.host, index)
}

fn name(netns: &Netns, index: u32) -> Result<String> {
    let name = netns.enter(|| nix::net::if_::if_indextoname(index))?;
    Ok(name.to_string_lossy().into_owned())
}

/// Of the host's device that leads to balancers.
const UPLINK: &str = "edge";

/// What has begun by `lo` goes on there for a moment, lest anything overtakes it.
fn wait_for_uplink(site: &Hooked, balancer: &UdpSocket) -> Result<()> {
    poll::until("datagrams to stay on their device", || {
        Ok((came_by(site, balancer)? == UPLINK).then_some(()))
    })
}

/// Neither while `change` is there nor when it comes is one lost.
fn only_without(
    plan: Plan<'_>,
    change: &dyn Fn(&Netns) -> Result<()>,
    back: &dyn Fn(&Netns) -> Result<()>,
) -> Result<()> {
    let site = start(plan)?;
    let balancer = site.balancer()?;
    if site.path == Path::Daemon {
        return never(&site, &balancer);
    }
    wait_for_uplink(&site, &balancer)?;
    change(&site.lab.host)?;
    never(&site, &balancer)?;
    back(&site.lab.host)?;
    wait_for_uplink(&site, &balancer)?;
    site.leaks.saw_none()
}

fn never(site: &Hooked, balancer: &UdpSocket) -> Result<()> {
    for _ in 0..5 {
        let device = came_by(site, balancer)?;
        ensure!(device != UPLINK, "by {device}");
    }
    Ok(())
}

/// It lets in what comes by `lo`, and of all else what neighbours need.
fn drop_all_but_lo(host: &Netns) -> Result<()> {
    nft(
        host,
        "add table inet f
         add chain inet f input { type filter hook input priority 0; }
         add rule inet f input iif lo accept
         add rule inet f input meta l4proto ipv6-icmp accept
         add rule inet f input udp dport 8080 drop",
    )
}

fn take_away(host: &Netns) -> Result<()> {
    nft(host, "delete table inet f")
}

fn a_firewall_comes_and_goes(plan: Plan<'_>) -> Result<()> {
    only_without(plan, &drop_all_but_lo, &take_away)
}

fn a_firewall_in_front_of_a_wildcard_application(plan: Plan<'_>) -> Result<()> {
    let bind = WILDCARD;
    only_without(Plan { bind, ..plan }, &drop_all_but_lo, &take_away)
}

fn a_firewall_in_front_of_one_at_the_host_s_address(plan: Plan<'_>) -> Result<()> {
    only_without(plan.app_at(HOST), &drop_all_but_lo, &take_away)
}

fn a_hook_of_the_device_s_own(plan: Plan<'_>) -> Result<()> {
    let hook = |host: &Netns| {
        nft(
            host,
            "add table netdev f
             add chain netdev f ingress { type filter hook ingress device edge priority 0; }
             add rule netdev f ingress udp dport 8080 drop",
        )
    };
    only_without(plan, &hook, &|host| nft(host, "delete table netdev f"))
}

/// It lets all in.
fn a_policy_of_ipsec(plan: Plan<'_>) -> Result<()> {
    let policy = |what| {
        move |host: &Netns| {
            ip(
                host,
                &format!(
                    "xfrm policy {what} dir in src 203.0.113.0/24 dst 0.0.0.0/0
                     xfrm policy {what} dir in src 2001:db8:c::/64 dst ::/0"
                ),
            )
        }
    };
    only_without(plan, &policy("add"), &policy("delete"))
}

/// Of clients that no route leads to. IPv6 has none.
fn a_reverse_path_filter(plan: Plan<'_>) -> Result<()> {
    let set =
        |value: &'static str| move |host: &Netns| sysctl(host, "ipv4/conf/edge/rp_filter", value);
    let is_v4 = (plan.family)(HOST, 0).is_ipv4();
    if is_v4 {
        return only_without(plan, &set("1"), &set("0"));
    }
    let site = start(plan)?;
    let balancer = site.balancer()?;
    set("1")(&site.lab.host)?;
    match site.path {
        Path::Direct => wait_for_uplink(&site, &balancer),
        Path::Daemon => never(&site, &balancer),
    }
}

/// What is for this host by a device that is a part of another one may be taken by that one.
fn a_macvlan_above(plan: Plan<'_>) -> Result<()> {
    let add = |host: &Netns| ip(host, "link add above link edge type macvlan mode bridge");
    only_without(plan, &add, &|host| ip(host, "link delete above"))
}
