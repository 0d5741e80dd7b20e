//! For a check: whether a socket gets a client's datagram. This runs behind the firewall, where the kernel is
//! about to put it into the socket's queue.

use aya_ebpf::programs::SkBuffContext;
use network_types::{
    eth::EtherType,
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
};
use proxy_common::{Addr, datagram::Flow, flow::Tuple};

use crate::maps;

/// A packet that starts with its IP header.
#[inline(always)]
pub fn heard(ctx: &SkBuffContext) {
    let is_v4 = ctx.skb.protocol() as u16 == EtherType::Ipv4 as u16;
    let reply = if is_v4 { reply4(ctx) } else { reply6(ctx) };
    if let Some(reply) = reply
        && let Some(flow) = maps::find_datagram_flow(&reply)
    {
        // SAFETY: a flag that is only ever set; the rest of the word nobody changes.
        unsafe { (*flow).flags |= Flow::HEARD };
    }
}

/// The tuple of what would answer it.
#[inline(always)]
fn reply4(ctx: &SkBuffContext) -> Option<Tuple> {
    let ip: Ipv4Hdr = ctx.load(0).ok()?;
    if ip.proto != IpProto::Udp as u8 {
        return None;
    }
    let ports: [u16; 2] = ctx.load(Ipv4Hdr::LEN).ok()?;
    let addr = |octets| Addr::from_v4(u32::from_ne_bytes(octets));
    let datagram = Tuple::from_wire(addr(ip.src_addr), addr(ip.dst_addr), ports);
    Some(datagram.reversed())
}

#[inline(always)]
fn reply6(ctx: &SkBuffContext) -> Option<Tuple> {
    let ip: [u32; 10] = ctx.load(0).ok()?;
    let [_, length, s0, s1, s2, s3, d0, d1, d2, d3] = ip;
    let [_, _, next, _] = length.to_ne_bytes();
    if next != IpProto::Udp as u8 {
        return None;
    }
    let ports: [u16; 2] = ctx.load(Ipv6Hdr::LEN).ok()?;
    let (from, to) = ([s0, s1, s2, s3], [d0, d1, d2, d3]);
    Some(Tuple::from_wire(Addr::from_v6(from), Addr::from_v6(to), ports).reversed())
}
