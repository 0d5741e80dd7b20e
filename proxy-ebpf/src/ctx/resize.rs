//! More room in a packet, or less.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{BPF_F_ADJ_ROOM_NO_CSUM_RESET, bpf_adj_room_mode::BPF_ADJ_ROOM_NET},
    helpers::{
        bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_proto, bpf_skb_change_tail,
    },
    programs::TcContext,
};
use network_types::eth::EthHdr;
use proxy_common::VETH_MAC;

use super::{Link, Unreadable, Version, set_macs};

/// Ends the packet `len` bytes behind its network header.
#[inline(always)]
pub fn set_len(ctx: &TcContext, len: u32) -> Result<(), Unreadable> {
    // SAFETY: takes numbers only.
    let failed = unsafe { bpf_skb_change_tail(ctx.skb.skb, EthHdr::LEN as u32 + len, 0) };
    if failed == 0 { Ok(()) } else { Err(Unreadable) }
}

/// Takes `len` bytes out from behind IP's fixed header: what is in front of them moves up to what is behind.
#[inline(always)]
pub fn close_up(ctx: &TcContext, len: u32) -> Result<(), Unreadable> {
    const FLAGS: u64 = BPF_F_ADJ_ROOM_NO_CSUM_RESET as u64;
    let longer = -(len as i32);
    // SAFETY: takes numbers only.
    let failed = unsafe { bpf_skb_adjust_room(ctx.skb.skb, longer, BPF_ADJ_ROOM_NET, FLAGS) };
    if failed == 0 { Ok(()) } else { Err(Unreadable) }
}

/// Puts an Ethernet header in front of a packet that has none, as between the ends of the veth pair.
#[inline(always)]
pub fn add_ethernet(ctx: &TcContext, version: Version) -> Result<(), Unreadable> {
    // SAFETY: a plain helper call on the program's own context.
    let grown = unsafe { bpf_skb_change_head(ctx.skb.skb, EthHdr::LEN as u32, 0) };
    if grown != 0 {
        return Err(Unreadable);
    }
    set_macs(ctx, VETH_MAC)?;
    set_ether_type(ctx, version)
}

#[inline(always)]
fn set_ether_type(ctx: &TcContext, version: Version) -> Result<(), Unreadable> {
    let ether_type = version.ether_type() as u16;
    ctx.store(offset_of!(EthHdr, ether_type), &ether_type, 0)
        .map_err(|_| Unreadable)
}

/// Makes room for the fixed header of the other version of IP in the place of the one of a packet that has an Ethernet
/// header: what is there then is to be written.
#[inline(always)]
pub fn change_version(ctx: &TcContext, to: Version) -> Result<(), Unreadable> {
    // SAFETY: takes numbers only.
    let failed = unsafe { bpf_skb_change_proto(ctx.skb.skb, to.ether_type() as u16, 0) };
    if failed != 0 {
        return Err(Unreadable);
    }
    set_ether_type(ctx, to)
}

/// Makes sure that there is an Ethernet header to write behind.
#[inline(always)]
pub fn ensure_ethernet(ctx: &TcContext, link: Link, version: Version) -> Result<(), Unreadable> {
    if link.is_ethernet() {
        Ok(())
    } else {
        add_ethernet(ctx, version)
    }
}
