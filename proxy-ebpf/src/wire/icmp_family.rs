//! ICMP errors made ones of the other version of IP.

use aya_ebpf::programs::TcContext;
use network_types::{
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};
use proxy_common::{
    checksum::{add, fold},
    flow::Tuple,
};

use super::{
    datagram::{word, words},
    family::Head,
    icmp, sum,
};
use crate::ctx::{self, Unreadable, Version};

/// Of a router's, or a host's.
const HOPS: u8 = 64;

/// Makes an error one about the datagram `about`, which is of the other version, from whoever that was for to its
/// source. All that it quotes are the datagram's headers. Its packet has an Ethernet header.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn write(ctx: &TcContext, version: Version, about: &Tuple) -> Result<(), Unreadable> {
    let says = icmp::kind_of_other(ctx, version)?;
    let to = version.other();
    ctx::change_version(ctx, to)?;
    match to {
        Version::V4 => write_v4(ctx, says, about),
        Version::V6 => write_v6(ctx, says, about),
    }
}

#[inline(always)]
fn write_v4(ctx: &TcContext, (kind, takes): (u16, u32), about: &Tuple) -> Result<(), Unreadable> {
    const QUOTED: usize = Ipv4Hdr::LEN + UdpHdr::LEN;
    let [source, destination, .., ports] = words(about, Version::V4);
    let [a, b, c, d, e] = head(IpProto::Udp, UdpHdr::LEN).v4(0, [source, destination]);
    let quoted = [a, b, c, d, e, ports, udp()];
    let sum = add(add(kind.into(), takes), sum(&quoted, 0));
    let [f, g, h, i, j] = head(IpProto::Icmp, icmp::LEN + QUOTED).v4(0, [destination, source]);
    let [.., k, l] = quoted;
    let icmp = word(kind, !fold(sum));
    put(ctx, &[f, g, h, i, j, icmp, takes, a, b, c, d, e, k, l])
}

#[inline(always)]
fn write_v6(ctx: &TcContext, (kind, takes): (u16, u32), about: &Tuple) -> Result<(), Unreadable> {
    const QUOTED: usize = Ipv6Hdr::LEN + UdpHdr::LEN;
    const BEHIND: usize = icmp::LEN + QUOTED;
    let outer = head(IpProto::Ipv6Icmp, BEHIND).v6();
    let mut answer = [0; (Ipv6Hdr::LEN + BEHIND) / 4];
    let [ends @ .., ports] = words(about, Version::V6);
    let back @ [.., _] = words(&about.reversed(), Version::V6);
    answer[..2].copy_from_slice(&outer);
    answer[2..10].copy_from_slice(&back[..8]);
    answer[11] = takes;
    answer[12..14].copy_from_slice(&head(IpProto::Udp, UdpHdr::LEN).v6());
    answer[14..22].copy_from_slice(&ends);
    answer[22] = ports;
    answer[23] = udp();
    // Of the pseudo-header, and of all that is behind it.
    let pseudo = add((BEHIND as u32).to_be(), (IpProto::Ipv6Icmp as u32).to_be());
    let rest = sum(&answer, pseudo);
    let rest = add(rest, add(!outer[0], !outer[1]));
    answer[10] = word(kind, !fold(add(rest, kind.into())));
    put(ctx, &answer)
}

/// Of a host's, or a router's, own.
const fn head(protocol: IpProto, behind: usize) -> Head {
    Head {
        class: 0,
        life: HOPS,
        protocol,
        behind: behind as u32,
    }
}

/// The length of a datagram without a payload, and no checksum.
#[inline(always)]
const fn udp() -> u32 {
    word((UdpHdr::LEN as u16).to_be(), 0)
}

#[inline(always)]
fn put<const N: usize>(ctx: &TcContext, packet: &[u32; N]) -> Result<(), Unreadable> {
    let len = size_of_val(packet);
    ctx::set_len(ctx, len as u32)?;
    ctx::store_bytes(ctx, 0, packet.as_ptr().cast(), len as u64)
}
